/* The authorizer: its modes in order, what feeds them, and the words of a refusal. See authz.h. */
#include "apiserver/auth/authz.h"

#include <pthread.h>

#include "apiserver/auth/bootstrap.h"
#include "apiserver/auth/internal.h"
#include "apiserver/auth/remote.h"
#include "pkg/base/ktime.h"
#include "pkg/yaml/yaml.h"

#define RBAC_GROUP "rbac.authorization.k8s.io"

enum mode { MODE_NODE, MODE_RBAC, MODE_ALLOW, MODE_DENY, MODE_WEBHOOK, MODES };
static const char *const mode_names[MODES] = {"Node", "RBAC", "AlwaysAllow", "AlwaysDeny", "Webhook"};

enum { AUTHORIZERS_MAX = 32, CONFIG_MAX = 1 << 20 };

struct authorizer {
    enum mode mode;
    struct access_webhook *hook; /* of MODE_WEBHOOK */
};

struct authz {
    pthread_rwlock_t lock;
    struct authorizer modes[AUTHORIZERS_MAX];
    size_t n_modes;
    struct rbac_snapshot rbac;
    struct node_graph nodes;
    void (*catch_up)(void *arg); /* see authz_feed_late */
    void *catch_up_arg;
};

static bool mode_on(const struct authz *z, enum mode m) {
    for (size_t i = 0; i < z->n_modes; i++)
        if (z->modes[i].mode == m) return true;
    return false;
}

/* The mode of a name; only webhooks may be several. */
static int mode_add(struct authz *z, const char *name, struct err *e) {
    int m = 0;
    while (m < MODES && !str_eq(mode_names[m], name)) m++;
    if (m == MODES) return err_set(e, -EINVAL, "authorization mode \"%s\" is not known", name);
    if (m != MODE_WEBHOOK && mode_on(z, (enum mode)m))
        return err_set(e, -EINVAL, "authorization mode %s is given twice", name);
    if (z->n_modes == AUTHORIZERS_MAX) return err_set(e, -EINVAL, "more than %d authorizers", AUTHORIZERS_MAX);
    z->modes[z->n_modes++].mode = (enum mode)m;
    return 0;
}

static int modes_parse(struct authz *z, const char *text, const struct access_webhook_config *webhook, struct err *e) {
    _cleanup_free_ char *copy = xstrdup(text);
    char *rest = copy, *word;
    while ((word = strsep(&rest, ","))) {
        bool twice = str_eq(word, "Webhook") && mode_on(z, MODE_WEBHOOK);
        if (twice) return err_set(e, -EINVAL, "authorization mode %s is given twice", word);
        int rc = mode_add(z, word, e);
        if (rc) return rc;
        struct authorizer *x = &z->modes[z->n_modes - 1];
        if (x->mode == MODE_WEBHOOK && !webhook)
            return err_set(e, -EINVAL, "authorization mode Webhook needs --authorization-webhook-config-file");
        if (x->mode == MODE_WEBHOOK && (rc = access_webhook_new(webhook, &x->hook, e))) return rc;
    }
    return 0;
}

/* ---- a configuration file ---- */

static int duration_of(const struct json *o, const char *key, int64_t most_ns, int64_t *out, struct err *e) {
    const char *text = json_get_str(o, key);
    if (str_empty(text)) return err_set(e, -EINVAL, "webhook.%s: Required value", key);
    if (duration_parse(text, out) || *out <= 0 || (most_ns && *out > most_ns))
        return err_set(e, -EINVAL, "webhook.%s: Invalid value: \"%s\"", key, text);
    return 0;
}

static int hook_of(const struct json *x, struct access_webhook **out, struct err *e) {
    const struct json *h = json_get(x, "webhook"), *info = json_get(h, "connectionInfo");
    struct access_webhook_config c = {.name = json_get_str(x, "name"),
                                      .version = str_or_empty(json_get_str(h, "subjectAccessReviewVersion")),
                                      .conditions = json_get(h, "matchConditions")};
    const char *policy = str_or_empty(json_get_str(h, "failurePolicy")), *type = json_get_str(info, "type");
    if (!json_is(h, JSON_OBJECT)) return err_set(e, -EINVAL, "webhook: Required value: required when type=Webhook");
    int rc = duration_of(h, "timeout", 30 * NS_PER_SEC, &c.timeout_ns, e);
    if (!rc) rc = duration_of(h, "authorizedTTL", 0, &c.allowed_ttl_ns, e);
    if (!rc) rc = duration_of(h, "unauthorizedTTL", 0, &c.denied_ttl_ns, e);
    if (rc) return rc;
    if (!json_get_bool(h, "cacheAuthorizedRequests", true)) c.allowed_ttl_ns = 0;
    if (!json_get_bool(h, "cacheUnauthorizedRequests", true)) c.denied_ttl_ns = 0;
    c.deny_on_error = str_eq(policy, "Deny");
    if (!c.deny_on_error && !str_eq(policy, "NoOpinion"))
        return err_set(e, -EINVAL, "webhook.failurePolicy: supported values: \"Deny\", \"NoOpinion\"");
    if (json_len(c.conditions) && !str_eq(json_get_str(h, "matchConditionSubjectAccessReviewVersion"), "v1"))
        return err_set(e, -EINVAL, "webhook.matchConditionSubjectAccessReviewVersion: must be v1");
    if (str_eq(type, "KubeConfigFile")) {
        c.file = json_get_str(info, "kubeConfigFile");
        if (str_empty(c.file) || c.file[0] != '/')
            return err_set(e, -EINVAL, "webhook.connectionInfo.kubeConfigFile: must be an absolute path");
    } else if (!str_eq(type, "InClusterConfig")) {
        return err_set(e, -EINVAL,
                       "webhook.connectionInfo.type: supported values: \"InClusterConfig\", \"KubeConfigFile\"");
    }
    return access_webhook_new(&c, out, e);
}

static int file_parse(struct authz *z, const char *path, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc = NULL;
    int rc = yaml_read_file(a, path, CONFIG_MAX, &doc, e);
    if (rc) return rc;
    if (!str_eq(json_get_str(doc, "kind"), "AuthorizationConfiguration"))
        return err_set(e, -EINVAL, "%s is no AuthorizationConfiguration", path);
    const struct json *list = json_get(doc, "authorizers"), *it;
    if (!json_len(list)) return err_set(e, -EINVAL, "%s: authorizers: at least one is needed", path);
    JSON_FOREACH(it, list) {
        if (!(rc = mode_add(z, str_or_empty(json_get_str(it, "type")), e)) && str_empty(json_get_str(it, "name")))
            rc = err_set(e, -EINVAL, "name: Required value");
        struct authorizer *x = &z->modes[z->n_modes ? z->n_modes - 1 : 0];
        if (!rc && x->mode == MODE_WEBHOOK) rc = hook_of(it, &x->hook, e);
        if (rc) return err_wrap(e, "%s: authorizers[%zu]", path, it_i), rc;
    }
    return 0;
}

/* What every kubelet may do: the rules of the default ClusterRole system:node, whatever the stored one says. */
static void node_rules_load(struct authz *z) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct json *o;
    JSON_FOREACH(o, bootstrap_objects(a, &(struct bootstrap_config){0}))
        if (str_eq(json_get_str(o, "kind"), "ClusterRole") &&
            str_eq(json_get_str(json_get(o, "metadata"), "name"), "system:node"))
            rules_read(z->nodes.arena, json_get(o, "rules"), &z->nodes.rules);
}

static int make(const char *modes, const struct access_webhook_config *webhook, const char *path, struct authz **out,
                struct err *e) {
    struct authz *z = xcalloc(1, sizeof(*z));
    pthread_rwlock_init(&z->lock, NULL);
    node_graph_init(&z->nodes);
    int r = path ? file_parse(z, path, e) : modes_parse(z, modes, webhook, e);
    if (r < 0) {
        authz_free(z);
        return r;
    }
    if (mode_on(z, MODE_NODE)) node_rules_load(z);
    *out = z;
    return 0;
}

int authz_new(const char *modes, const struct access_webhook_config *webhook, struct authz **out, struct err *e) {
    return make(modes, webhook, NULL, out, e);
}

int authz_new_from_file(const char *path, struct authz **out, struct err *e) { return make(NULL, NULL, path, out, e); }

bool authz_blocks(const struct authz *z) { return mode_on(z, MODE_WEBHOOK); }

void authz_free(struct authz *z) {
    if (!z) return;
    for (size_t i = 0; i < z->n_modes; i++) access_webhook_free(z->modes[i].hook);
    rbac_done(&z->rbac);
    node_graph_done(&z->nodes);
    pthread_rwlock_destroy(&z->lock);
    free(z);
}

/* ---- feeding ---- */

static void feed_role(struct authz *z, const char *ns, const char *name, const struct json *o) {
    rbac_role_put(&z->rbac, ns, name, o);
}
static void feed_binding(struct authz *z, const char *ns, const char *name, const struct json *o) {
    rbac_binding_put(&z->rbac, ns, name, o);
}
static void feed_pod(struct authz *z, const char *ns, const char *name, const struct json *o) {
    node_pod_put(&z->nodes, ns, name, o);
}
static void feed_volume(struct authz *z, const char *ns, const char *name, const struct json *o) {
    node_volume_put(&z->nodes, name, o);
}
static void feed_attachment(struct authz *z, const char *ns, const char *name, const struct json *o) {
    node_attachment_put(&z->nodes, name, o);
}

static const struct feed {
    const char *group, *resource;
    enum mode mode;
    void (*put)(struct authz *z, const char *ns, const char *name, const struct json *obj);
} feeds[] = {
    {RBAC_GROUP, "roles", MODE_RBAC, feed_role},
    {RBAC_GROUP, "clusterroles", MODE_RBAC, feed_role},
    {RBAC_GROUP, "rolebindings", MODE_RBAC, feed_binding},
    {RBAC_GROUP, "clusterrolebindings", MODE_RBAC, feed_binding},
    {"", "pods", MODE_NODE, feed_pod},
    {"", "persistentvolumes", MODE_NODE, feed_volume},
    {"storage.k8s.io", "volumeattachments", MODE_NODE, feed_attachment},
};

static const struct feed *feed_find(const char *group, const char *resource) {
    for (size_t i = 0; i < ARRAY_LEN(feeds); i++)
        if (str_eq(feeds[i].resource, resource) && str_eq(feeds[i].group, str_or_empty(group))) return &feeds[i];
    return NULL;
}

bool authz_wants(const struct authz *z, const char *group, const char *resource) {
    const struct feed *f = feed_find(group, resource);
    return f && (f->mode != MODE_NODE || mode_on(z, MODE_NODE));
}

void authz_feed(struct authz *z, const char *group, const char *resource, const char *ns, const char *name,
                const char *json, size_t len) {
    const struct feed *f = feed_find(group, resource);
    if (!f || !authz_wants(z, group, resource)) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *obj = NULL;
    /* What is not an object grants nothing. */
    if (json && (json_parse(a, json, len, &obj, NULL, NULL) < 0 || !json_is(obj, JSON_OBJECT))) obj = NULL;
    pthread_rwlock_wrlock(&z->lock);
    f->put(z, str_or_empty(ns), name, obj);
    pthread_rwlock_unlock(&z->lock);
}

void authz_feed_late(struct authz *z, void (*catch_up)(void *arg), void *arg) {
    z->catch_up = catch_up;
    z->catch_up_arg = arg;
}

/* ---- deciding ---- */

static enum authz_decision mode_decide(struct authz *z, struct arena *a, const struct authorizer *x,
                                       const struct authz_attrs *q, const char **reason, const char **error) {
    enum authz_decision d = AUTHZ_NO_OPINION;
    enum mode m = x->mode;
    switch (m) {
        case MODE_WEBHOOK: return access_webhook_decide(x->hook, a, q, reason, error);
        case MODE_ALLOW: return AUTHZ_ALLOW;
        case MODE_DENY: *reason = "Everything is forbidden."; return AUTHZ_NO_OPINION;
        case MODE_NODE:
        case MODE_RBAC:
            if (m == MODE_NODE && z->catch_up && node_asks_graph(q)) z->catch_up(z->catch_up_arg);
            pthread_rwlock_rdlock(&z->lock);
            d = m == MODE_NODE ? node_decide(&z->nodes, a, q, reason) : rbac_decide(&z->rbac, a, q, reason);
            pthread_rwlock_unlock(&z->lock);
            return d;
        case MODES: break;
    }
    return d;
}

static const char *joined(struct arena *a, const char *x, const char *y) {
    return x ? arena_printf(a, "%s\n%s", x, y) : y;
}

enum authz_decision authz_ask(struct authz *z, struct arena *a, const struct authz_attrs *q, const char **reason,
                              const char **error) {
    const char *all = NULL, *errors = NULL;
    *reason = *error = NULL;
    if (user_in_group(q->user, "system:masters")) return AUTHZ_ALLOW;
    for (size_t i = 0; i < z->n_modes; i++) {
        const char *why = NULL, *failed = NULL;
        enum authz_decision d = mode_decide(z, a, &z->modes[i], q, &why, &failed);
        if (d != AUTHZ_NO_OPINION) {
            *reason = why;
            *error = failed;
            return d;
        }
        if (!str_empty(why)) all = joined(a, all, why);
        if (failed) errors = joined(a, errors, failed);
    }
    *reason = all;
    *error = errors;
    return AUTHZ_NO_OPINION;
}

enum authz_decision authz_decide(struct authz *z, struct arena *a, const struct authz_attrs *q, const char **reason) {
    const char *why, *error;
    return authz_ask(z, a, q, reason ? reason : &why, &error);
}

int authz_check(struct authz *z, struct arena *a, const struct authz_attrs *q, struct err *e) {
    const char *reason = NULL;
    return authz_decide(z, a, q, &reason) == AUTHZ_ALLOW ? 0 : authz_forbidden(a, q, reason, e);
}

/* Upstream escapes these, so that a message never looks like HTML. */
static const char *sanitise(struct arena *a, const char *s) {
    if (!strpbrk(s, "&<>")) return s;
    char *out = arena_alloc(a, strlen(s) * 5 + 1), *o = out;
    for (; *s; s++) {
        const char *rep = *s == '&' ? "&amp;" : *s == '<' ? "&lt;" : *s == '>' ? "&gt;" : NULL;
        if (rep)
            o = mempcpy(o, rep, strlen(rep));
        else
            *o++ = *s;
    }
    *o = 0;
    return out;
}

static int forbid(struct arena *a, const char *group, const char *resource, const char *name, const char *msg,
                  struct err *e) {
    const char *what = str_empty(group) ? resource : arena_printf(a, "%s.%s", resource, group);
    int r;
    if (str_empty(resource))
        r = err_status(e, 403, "Forbidden", "forbidden: %s", msg);
    else if (str_empty(name))
        r = err_status(e, 403, "Forbidden", "%s is forbidden: %s", what, msg);
    else
        r = err_status(e, 403, "Forbidden", "%s \"%s\" is forbidden: %s", what, name, msg);
    if (e)
        err_details(e, str_empty(group) ? NULL : group, str_empty(resource) ? NULL : resource,
                    str_empty(name) ? NULL : name);
    return r;
}

int authz_forbidden(struct arena *a, const struct authz_attrs *q, const char *reason, struct err *e) {
    const char *msg, *sub = str_or_empty(q->subresource);
    if (!q->resource_request) {
        msg = arena_printf(a, "User \"%s\" cannot %s path \"%s\"", q->user->name, q->verb, str_or_empty(q->path));
    } else {
        msg = arena_printf(a, "User \"%s\" cannot %s resource \"%s%s%s\" in API group \"%s\"", q->user->name, q->verb,
                           q->resource, *sub ? "/" : "", sub, str_or_empty(q->group));
        msg = str_empty(q->ns) ? arena_printf(a, "%s at the cluster scope", msg)
                               : arena_printf(a, "%s in the namespace \"%s\"", msg, q->ns);
    }
    msg = sanitise(a, msg);
    if (!str_empty(reason)) msg = arena_printf(a, "%s: %s", msg, reason);
    return forbid(a, q->resource_request ? q->group : NULL, q->resource_request ? q->resource : NULL,
                  q->resource_request ? q->name : NULL, msg, e);
}

/* ---- listing ---- */

static struct json *rule_listed(struct arena *a, const struct rbac_policy_rule *r, bool resources) {
    struct json *o = rule_write(a, r);
    static const char *const of_resources[] = {"apiGroups", "resources", "resourceNames"};
    if (resources) json_del(o, "nonResourceURLs");
    for (size_t i = 0; !resources && i < ARRAY_LEN(of_resources); i++) json_del(o, of_resources[i]);
    return o;
}

struct json *authz_rules(struct authz *z, struct arena *a, const struct user_info *user, const char *ns) {
    struct json *out = json_object(a), *resources = json_ensure_array(a, out, "resourceRules"),
                *urls = json_ensure_array(a, out, "nonResourceRules");
    bool incomplete = mode_on(z, MODE_NODE) && node_name_of(user);
    pthread_rwlock_rdlock(&z->lock);
    rule_vec rules = {0};
    if (mode_on(z, MODE_RBAC)) rbac_rules(&z->rbac, a, user, ns, &rules);
    for (size_t i = 0; i < rules.n; i++) {
        if (rules.items[i].resources.n) json_append(a, resources, rule_listed(a, &rules.items[i], true));
        if (rules.items[i].non_resource_urls.n) json_append(a, urls, rule_listed(a, &rules.items[i], false));
    }
    pthread_rwlock_unlock(&z->lock);
    if (mode_on(z, MODE_ALLOW)) {
        static const char all[] = "{\"verbs\":[\"*\"],\"apiGroups\":[\"*\"],\"resources\":[\"*\"]}";
        static const char all_urls[] = "{\"verbs\":[\"*\"],\"nonResourceURLs\":[\"*\"]}";
        struct json *x;
        if (json_parse(a, all, sizeof(all) - 1, &x, NULL, NULL) == 0) json_append(a, resources, x);
        if (json_parse(a, all_urls, sizeof(all_urls) - 1, &x, NULL, NULL) == 0) json_append(a, urls, x);
    }
    const char *why = incomplete ? "node authorizer does not support user rule resolution" : NULL;
    if (mode_on(z, MODE_WEBHOOK)) {
        why = joined(a, why, "webhook authorizer does not support user rule resolution");
        incomplete = true;
    }
    json_set_bool(a, out, "incomplete", incomplete);
    if (incomplete) json_set_str(a, out, "evaluationError", why);
    return out;
}

/* ---- no escalation ---- */

static bool may(struct authz *z, struct arena *a, const struct user_info *user, const char *verb, const char *resource,
                const char *ns, const char *name) {
    struct authz_attrs q = {.user = user,
                            .verb = verb,
                            .resource_request = true,
                            .group = RBAC_GROUP,
                            .version = "*",
                            .resource = resource,
                            .ns = ns,
                            .name = name};
    return authz_decide(z, a, &q, NULL) == AUTHZ_ALLOW;
}

/* NULL when the user holds `wanted` in `ns`; else the message about what is missing. */
static const char *escalation(struct authz *z, struct arena *a, const struct user_info *user, const char *ns,
                              const rule_vec *wanted) {
    rule_vec owned, missing;
    pthread_rwlock_rdlock(&z->lock);
    rbac_rules(&z->rbac, a, user, ns, &owned);
    bool ok = rules_cover(a, &owned, wanted, &missing);
    pthread_rwlock_unlock(&z->lock);
    if (ok) return NULL;
    _cleanup_buf_ struct buf groups = BUF_INIT;
    for (size_t i = 0; i < user->n_groups; i++) buf_printf(&groups, "%s\"%s\"", i ? " " : "", user->groups[i]);
    return arena_printf(a, "user \"%s\" (groups=[%s]) is attempting to grant RBAC permissions not currently held:\n%s",
                        user->name, groups.data ? groups.data : "", rules_text(a, &missing));
}

static bool exempt(const struct user_info *user) { return user_in_group(user, "system:masters"); }

int authz_check_role_write(struct authz *z, struct arena *a, const struct user_info *user, const struct json *role,
                           const struct json *old, struct err *e) {
    const struct json *meta = json_get(role, "metadata");
    const char *ns = json_get_str(meta, "namespace"), *name = json_get_str(meta, "name");
    bool cluster = !str_eq(json_get_str(role, "kind"), "Role");
    const char *resource = cluster ? "clusterroles" : "roles";
    if (exempt(user) || may(z, a, user, "escalate", resource, ns, name)) return 0;
    const struct json *agg = json_get(role, "aggregationRule"), *old_agg = json_get(old, "aggregationRule");
    if (old && json_equal(json_get(role, "rules"), json_get(old, "rules")) && json_equal(agg, old_agg)) return 0;
    rule_vec wanted;
    rules_read(a, json_get(role, "rules"), &wanted);
    const char *problem = escalation(z, a, user, ns, &wanted);
    if (problem) return forbid(a, RBAC_GROUP, resource, name, problem, e);
    if (!agg && !old_agg) return 0;
    /* What an aggregation may gather has no bounds. */
    const char *star = "*";
    struct str_vec all = {.items = &star, .n = 1};
    struct rbac_policy_rule full[] = {{.verbs = all, .api_groups = all, .resources = all},
                                      {.verbs = all, .non_resource_urls = all}};
    rule_vec everything = {.items = full, .n = 2};
    if (!escalation(z, a, user, ns, &everything)) return 0;
    return forbid(a, RBAC_GROUP, resource, name, "must have cluster-admin privileges to use the aggregationRule", e);
}

int authz_check_binding_write(struct authz *z, struct arena *a, const struct user_info *user,
                              const struct json *binding, const struct json *old, struct err *e) {
    const struct json *meta = json_get(binding, "metadata"), *ref = json_get(binding, "roleRef");
    const char *ns = json_get_str(meta, "namespace"), *name = json_get_str(meta, "name");
    bool cluster = !str_eq(json_get_str(binding, "kind"), "RoleBinding");
    bool cluster_role = !str_eq(json_get_str(ref, "kind"), "Role");
    const char *role_name = str_or_empty(json_get_str(ref, "name")),
               *role_resource = cluster_role ? "clusterroles" : "roles";
    if (exempt(user) || may(z, a, user, "bind", role_resource, ns, role_name)) return 0;
    if (old && json_equal(ref, json_get(old, "roleRef")) &&
        json_equal(json_get(binding, "subjects"), json_get(old, "subjects")))
        return 0;
    pthread_rwlock_rdlock(&z->lock);
    const struct role_entry *role = rbac_role_get(&z->rbac, cluster_role ? "" : ns, role_name);
    rule_vec wanted = {0};
    size_t cap = 0;
    for (size_t i = 0; role && i < role->rules.n; i++) {
        struct rbac_policy_rule *copy = api_clone(a, &api_rbac_policy_rule, &role->rules.items[i]);
        rule_vec_add(a, &wanted, &cap, copy);
    }
    pthread_rwlock_unlock(&z->lock);
    if (!role) {
        int r = err_status(e, 404, "NotFound", "%s.%s \"%s\" not found", role_resource, RBAC_GROUP, role_name);
        if (e) err_details(e, RBAC_GROUP, role_resource, role_name);
        return r;
    }
    const char *problem = escalation(z, a, user, ns, &wanted);
    return problem ? forbid(a, RBAC_GROUP, cluster ? "clusterrolebindings" : "rolebindings", name, problem, e) : 0;
}

struct json *authz_aggregate(struct authz *z, struct arena *a, const struct json *role) {
    pthread_rwlock_rdlock(&z->lock);
    struct json *rules = rbac_aggregate(&z->rbac, a, role);
    pthread_rwlock_unlock(&z->lock);
    return rules;
}
