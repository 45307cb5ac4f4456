/* Reads the declarations of bootstrap.txt (built in as bootstrap_text) into objects, and puts what is missing into the
 * store. A line without indent begins an object, the indented ones that follow are its rules:
 *
 *   namespace NAME
 *   class NAME VALUE | description                          PriorityClass
 *   level NAME [SHARES LENDABLE% [QUEUES HAND LENGTH]]      PriorityLevelConfiguration; without shares exempt
 *   flow NAME PRECEDENCE LEVEL DISTINGUISHER subjects...    FlowSchema
 *   apiservice GROUP VERSION GROUP-PRIORITY PRIORITY
 *   clusterrole NAME [into=X] [from=Y]                      is gathered into X; gathers all that are into Y
 *   role NAMESPACE NAME
 *   bind NAME subjects...                                   ClusterRoleBinding of the ClusterRole with its name
 *   rolebind NAMESPACE NAME ROLE subjects...
 *     verbs | groups | resources [| names]                  a rule; in a flow the fourth part may be "cluster"
 *     verbs | urls
 *
 * Subjects are u:user, g:group, s:namespace/account; the group "core" is the API's "". */
#include "apiserver/auth/bootstrap.h"

#include "apiserver/auth/internal.h"
#include "pkg/base/ktime.h"

extern const char bootstrap_text[];

#define RBAC_GROUP "rbac.authorization.k8s.io"
#define AGGREGATE "rbac.authorization.k8s.io/aggregate-to-"
#define AUTHENTICATION_MAP "extension-apiserver-authentication"
#define AUTOUPDATE "rbac.authorization.kubernetes.io/autoupdate"

static const struct kind {
    const char *kind, *group, *version, *resource;
} kinds[] = {
    {"Namespace", "", "v1", "namespaces"},
    {"ConfigMap", "", "v1", "configmaps"},
    {"PriorityClass", "scheduling.k8s.io", "v1", "priorityclasses"},
    {"PriorityLevelConfiguration", "flowcontrol.apiserver.k8s.io", "v1", "prioritylevelconfigurations"},
    {"FlowSchema", "flowcontrol.apiserver.k8s.io", "v1", "flowschemas"},
    {"APIService", "apiregistration.k8s.io", "v1", "apiservices"},
    {"ServiceCIDR", "networking.k8s.io", "v1", "servicecidrs"},
    {"ClusterRole", RBAC_GROUP, "v1", "clusterroles"},
    {"Role", RBAC_GROUP, "v1", "roles"},
    {"ClusterRoleBinding", RBAC_GROUP, "v1", "clusterrolebindings"},
    {"RoleBinding", RBAC_GROUP, "v1", "rolebindings"},
};

static const struct kind *kind_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_eq(kinds[i].kind, name)) return &kinds[i];
    return NULL;
}

/* ---- words ---- */

enum { WORDS_MAX = 32 };

struct words {
    char *w[WORDS_MAX];
    size_t n;
};

static struct words split(char *s, const char *by) {
    struct words out = {0};
    char *w;
    while ((w = strsep(&s, by)) && out.n < WORDS_MAX)
        if (*w) out.w[out.n++] = w;
    return out;
}

/* The word, or "" beyond the last. */
static const char *word(const struct words *w, size_t i) { return i < w->n ? w->w[i] : ""; }

static struct json *number(struct arena *a, const char *s) { return json_num(a, *s ? s : "0"); }

/* ---- objects ---- */

struct reader {
    struct arena *a;
    struct json *objects, *current;
};

static struct json *object_new(struct reader *r, const char *kind, const char *ns, const char *name) {
    const struct kind *k = kind_find(kind);
    struct json *o = json_object(r->a);
    json_set(r->a, o, "apiVersion",
             *k->group ? json_strf(r->a, "%s/%s", k->group, k->version) : json_str(r->a, k->version));
    json_set_str(r->a, o, "kind", kind);
    struct json *meta = json_ensure_object(r->a, o, "metadata");
    json_set_str(r->a, meta, "name", name);
    if (ns) json_set_str(r->a, meta, "namespace", ns);
    json_append(r->a, r->objects, o);
    r->current = o;
    return o;
}

static void mark(struct reader *r, const char *which, const char *key, const char *value) {
    json_set_str(r->a, json_ensure_object(r->a, json_get(r->current, "metadata"), which), key, value);
}

static struct json *rbac_new(struct reader *r, const char *kind, const char *ns, const char *name) {
    struct json *o = object_new(r, kind, ns, name);
    mark(r, "labels", "kubernetes.io/bootstrapping", "rbac-defaults");
    mark(r, "annotations", AUTOUPDATE, "true");
    return o;
}

/* ---- subjects ---- */

/* "s:ns/name": its two parts. */
static void account_split(struct reader *r, const char *s, const char **ns, const char **name) {
    const char *slash = strchr(s + 2, '/');
    *ns = arena_strndup(r->a, s + 2, (size_t)(slash - s - 2));
    *name = slash + 1;
}

static struct json *rbac_subject(struct reader *r, const char *s) {
    struct json *o = json_object(r->a);
    const char *ns, *name;
    json_set_str(r->a, o, "kind", *s == 'u' ? "User" : *s == 'g' ? "Group" : "ServiceAccount");
    if (*s == 's') {
        account_split(r, s, &ns, &name);
        json_set_str(r->a, o, "name", name);
        json_set_str(r->a, o, "namespace", ns);
    } else {
        json_set_str(r->a, o, "apiGroup", RBAC_GROUP);
        json_set_str(r->a, o, "name", s + 2);
    }
    return o;
}

static struct json *flow_subject(struct reader *r, const char *s) {
    struct json *o = json_object(r->a);
    const char *ns, *name;
    json_set_str(r->a, o, "kind", *s == 'u' ? "User" : *s == 'g' ? "Group" : "ServiceAccount");
    struct json *in = json_ensure_object(r->a, o, *s == 'u' ? "user" : *s == 'g' ? "group" : "serviceAccount");
    if (*s != 's') {
        json_set_str(r->a, in, "name", s + 2);
        return o;
    }
    account_split(r, s, &ns, &name);
    json_set_str(r->a, in, "namespace", ns);
    json_set_str(r->a, in, "name", name);
    return o;
}

static void subjects_add(struct reader *r, struct json *to, const struct words *w, size_t from, bool flow) {
    if (from >= w->n) return;
    struct json *list = json_ensure_array(r->a, to, "subjects");
    for (size_t i = from; i < w->n; i++)
        json_append(r->a, list, flow ? flow_subject(r, w->w[i]) : rbac_subject(r, w->w[i]));
}

/* ---- one line ---- */

static void read_namespace(struct reader *r, const struct words *w, const char *text) {
    object_new(r, "Namespace", NULL, word(w, 1));
    mark(r, "labels", "kubernetes.io/metadata.name", word(w, 1));
}

static void read_class(struct reader *r, const struct words *w, const char *text) {
    struct json *o = object_new(r, "PriorityClass", NULL, word(w, 1));
    json_set(r->a, o, "value", number(r->a, word(w, 2)));
    json_set_str(r->a, o, "description", text);
    json_set_str(r->a, o, "preemptionPolicy", "PreemptLowerPriority");
}

static void read_level(struct reader *r, const struct words *w, const char *text) {
    struct json *o = object_new(r, "PriorityLevelConfiguration", NULL, word(w, 1)),
                *spec = json_ensure_object(r->a, o, "spec");
    mark(r, "annotations", "apf.kubernetes.io/autoupdate-spec", "true");
    bool exempt = w->n < 3;
    json_set_str(r->a, spec, "type", exempt ? "Exempt" : "Limited");
    struct json *in = json_ensure_object(r->a, spec, exempt ? "exempt" : "limited");
    json_set(r->a, in, "nominalConcurrencyShares", number(r->a, word(w, 2)));
    if (!exempt) {
        struct json *full = json_ensure_object(r->a, in, "limitResponse");
        json_set_str(r->a, full, "type", w->n > 4 ? "Queue" : "Reject");
        if (w->n > 4) {
            struct json *q = json_ensure_object(r->a, full, "queuing");
            json_set(r->a, q, "queues", number(r->a, word(w, 4)));
            json_set(r->a, q, "handSize", number(r->a, word(w, 5)));
            json_set(r->a, q, "queueLengthLimit", number(r->a, word(w, 6)));
        }
    }
    json_set(r->a, in, "lendablePercent", number(r->a, word(w, 3)));
}

static void read_flow(struct reader *r, const struct words *w, const char *text) {
    struct json *o = object_new(r, "FlowSchema", NULL, word(w, 1)), *spec = json_ensure_object(r->a, o, "spec");
    mark(r, "annotations", "apf.kubernetes.io/autoupdate-spec", "true");
    json_set_str(r->a, json_ensure_object(r->a, spec, "priorityLevelConfiguration"), "name", word(w, 3));
    json_set(r->a, spec, "matchingPrecedence", number(r->a, word(w, 2)));
    if (!str_eq(word(w, 4), "-"))
        json_set_str(r->a, json_ensure_object(r->a, spec, "distinguisherMethod"), "type", word(w, 4));
    struct json *rule = json_object(r->a);
    json_append(r->a, json_ensure_array(r->a, spec, "rules"), rule);
    subjects_add(r, rule, w, 5, true);
}

static void read_apiservice(struct reader *r, const struct words *w, const char *text) {
    const char *group = str_eq(word(w, 1), "core") ? "" : word(w, 1);
    struct json *o = object_new(r, "APIService", NULL, arena_printf(r->a, "%s.%s", word(w, 2), group));
    mark(r, "labels", "kube-aggregator.kubernetes.io/automanaged", "onstart");
    struct json *spec = json_ensure_object(r->a, o, "spec");
    if (*group) json_set_str(r->a, spec, "group", group);
    json_set_str(r->a, spec, "version", word(w, 2));
    json_set(r->a, spec, "groupPriorityMinimum", number(r->a, word(w, 3)));
    json_set(r->a, spec, "versionPriority", number(r->a, word(w, 4)));
}

static void read_clusterrole(struct reader *r, const struct words *w, const char *text) {
    struct json *o = rbac_new(r, "ClusterRole", NULL, word(w, 1));
    json_ensure_array(r->a, o, "rules");
    for (size_t i = 2; i < w->n; i++) {
        if (str_has_prefix(w->w[i], "into="))
            mark(r, "labels", arena_printf(r->a, AGGREGATE "%s", w->w[i] + 5), "true");
        if (!str_has_prefix(w->w[i], "from=")) continue;
        struct json *selector = json_object(r->a);
        json_set_str(r->a, json_ensure_object(r->a, selector, "matchLabels"),
                     arena_printf(r->a, AGGREGATE "%s", w->w[i] + 5), "true");
        json_append(r->a,
                    json_ensure_array(r->a, json_ensure_object(r->a, o, "aggregationRule"), "clusterRoleSelectors"),
                    selector);
    }
}

static void read_role(struct reader *r, const struct words *w, const char *text) {
    json_ensure_array(r->a, rbac_new(r, "Role", word(w, 1), word(w, 2)), "rules");
}

static void role_ref(struct reader *r, const char *kind, const char *name) {
    struct json *ref = json_ensure_object(r->a, r->current, "roleRef");
    json_set_str(r->a, ref, "apiGroup", RBAC_GROUP);
    json_set_str(r->a, ref, "kind", kind);
    json_set_str(r->a, ref, "name", name);
}

static void read_bind(struct reader *r, const struct words *w, const char *text) {
    struct json *o = rbac_new(r, "ClusterRoleBinding", NULL, word(w, 1));
    subjects_add(r, o, w, 2, false);
    role_ref(r, "ClusterRole", word(w, 1));
}

static void read_rolebind(struct reader *r, const struct words *w, const char *text) {
    struct json *o = rbac_new(r, "RoleBinding", word(w, 1), word(w, 2));
    subjects_add(r, o, w, 4, false);
    role_ref(r, "Role", word(w, 3));
}

static const struct {
    const char *word;
    void (*read)(struct reader *r, const struct words *w, const char *text);
} lines[] = {
    {"namespace", read_namespace},
    {"class", read_class},
    {"level", read_level},
    {"flow", read_flow},
    {"apiservice", read_apiservice},
    {"clusterrole", read_clusterrole},
    {"role", read_role},
    {"bind", read_bind},
    {"rolebind", read_rolebind},
};

static void strings_add(struct reader *r, struct json *o, const char *key, char *part) {
    struct words w = split(part, " ");
    struct json *list = json_ensure_array(r->a, o, key);
    for (size_t i = 0; i < w.n; i++) json_append(r->a, list, json_str(r->a, str_eq(w.w[i], "core") ? "" : w.w[i]));
}

static void read_rule(struct reader *r, char *line) {
    struct words part = split(line, "|");
    bool flow = str_eq(json_get_str(r->current, "kind"), "FlowSchema"), urls = part.n == 2;
    struct json *rule = json_object(r->a), *to = r->current;
    const char *list = "rules";
    if (flow) {
        to = json_item(json_at(r->current, "spec", "rules", NULL), 0);
        list = urls ? "nonResourceRules" : "resourceRules";
    }
    strings_add(r, rule, "verbs", part.w[0]);
    if (urls) {
        strings_add(r, rule, "nonResourceURLs", part.w[1]);
    } else {
        strings_add(r, rule, "apiGroups", part.w[1]);
        strings_add(r, rule, "resources", part.w[2]);
    }
    if (flow && !urls) {
        if (part.n > 3) json_set_bool(r->a, rule, "clusterScope", true);
        json_append(r->a, json_ensure_array(r->a, rule, "namespaces"), json_str(r->a, "*"));
    } else if (part.n > 3) {
        strings_add(r, rule, "resourceNames", part.w[3]);
    }
    json_append(r->a, json_ensure_array(r->a, to, list), rule);
}

static void read_line(struct reader *r, char *line) {
    if (*line == ' ') {
        read_rule(r, line);
        return;
    }
    char *text = strstr(line, " | ");
    if (text) *text = 0;
    struct words w = split(line, " ");
    for (size_t i = 0; i < ARRAY_LEN(lines); i++)
        if (str_eq(lines[i].word, word(&w, 0))) lines[i].read(r, &w, text ? text + 3 : "");
}

/* ---- what depends on the configuration ---- */

static void add_config_maps(struct reader *r, const struct bootstrap_config *c) {
    if (c->client_ca_pem || c->requestheader_ca_pem) {
        struct json *data =
            json_ensure_object(r->a, object_new(r, "ConfigMap", "kube-system", AUTHENTICATION_MAP), "data");
        if (c->client_ca_pem) json_set_str(r->a, data, "client-ca-file", c->client_ca_pem);
        if (c->requestheader_ca_pem) {
            json_set_str(r->a, data, "requestheader-allowed-names", str_or_empty(c->requestheader_names));
            json_set_str(r->a, data, "requestheader-client-ca-file", c->requestheader_ca_pem);
            json_set_str(r->a, data, "requestheader-extra-headers-prefix", str_or_empty(c->requestheader_extra));
            json_set_str(r->a, data, "requestheader-group-headers", str_or_empty(c->requestheader_group));
            json_set_str(r->a, data, "requestheader-uid-headers", str_or_empty(c->requestheader_uid));
            json_set_str(r->a, data, "requestheader-username-headers", str_or_empty(c->requestheader_user));
        }
    }
    struct json *since = json_ensure_object(
        r->a, object_new(r, "ConfigMap", "kube-system", "kube-apiserver-legacy-service-account-token-tracking"),
        "data");
    char day[KTIME_MAX];
    ktime_format(ktime_now(), day);
    json_set(r->a, since, "since", json_strn(r->a, day, strlen("2026-01-02")));
}

static void add_service_cidr(struct reader *r, const char *cidr) {
    struct json *o = object_new(r, "ServiceCIDR", NULL, "kubernetes");
    json_append(r->a, json_ensure_array(r->a, json_get(o, "metadata"), "finalizers"),
                json_str(r->a, "networking.k8s.io/service-cidr-finalizer"));
    json_append(r->a, json_ensure_array(r->a, json_ensure_object(r->a, o, "spec"), "cidrs"), json_str(r->a, cidr));
}

/* Roles that gather others start with the rules of those, so that they work before the controller has run. */
static void fill_aggregated(struct reader *r) {
    struct rbac_snapshot s = {0};
    struct json *o;
    for (int round = 0; round < 3; round++) { /* view into edit into admin */
        JSON_FOREACH(o, r->objects)
            if (str_eq(json_get_str(o, "kind"), "ClusterRole"))
                rbac_role_put(&s, "", json_get_str(json_get(o, "metadata"), "name"), o);
        JSON_FOREACH(o, r->objects) {
            struct json *rules = rbac_aggregate(&s, r->a, o);
            if (rules) json_set(r->a, o, "rules", rules);
        }
    }
    rbac_done(&s);
}

struct json *bootstrap_objects(struct arena *a, const struct bootstrap_config *c) {
    struct reader r = {.a = a, .objects = json_array(a)};
    char *text = arena_strdup(a, bootstrap_text), *line;
    while ((line = strsep(&text, "\n")))
        if (*line) read_line(&r, line);
    fill_aggregated(&r);
    add_config_maps(&r, c);
    if (c->service_cidr) add_service_cidr(&r, c->service_cidr);
    return r.objects;
}

/* ---- into the store ---- */

/* Labels and annotations that the existing object lacks. */
static bool merge_strings(struct arena *a, struct json *have, const struct json *want, const char *which) {
    bool changed = false;
    JSON_FOREACH_MEMBER(m, json_at(want, "metadata", which, NULL)) {
        struct json *to = json_ensure_object(a, json_get(have, "metadata"), which);
        if (json_get(to, m->key)) continue;
        json_set(a, to, m->key, json_clone(a, m->value));
        changed = true;
    }
    return changed;
}

static bool merge_rules(struct arena *a, struct json *have, const struct json *want) {
    rule_vec owned, wanted, missing;
    rules_read(a, json_get(have, "rules"), &owned);
    rules_read(a, json_get(want, "rules"), &wanted);
    bool changed = false;
    struct json *rules = json_ensure_array(a, have, "rules");
    for (size_t i = 0; i < wanted.n; i++) {
        rule_vec one = {.items = &wanted.items[i], .n = 1};
        if (rules_cover(a, &owned, &one, &missing)) continue;
        json_append(a, rules, rule_write(a, &wanted.items[i]));
        changed = true;
    }
    return changed;
}

static bool merge_subjects(struct arena *a, struct json *have, const struct json *want) {
    bool changed = false;
    const struct json *w, *h;
    JSON_FOREACH(w, json_get(want, "subjects")) {
        bool found = false;
        JSON_FOREACH(h, json_get(have, "subjects")) found |= json_equal(w, h);
        if (found) continue;
        json_append(a, json_ensure_array(a, have, "subjects"), json_clone(a, w));
        changed = true;
    }
    return changed;
}

/* RBAC objects get back what they lack, unless they say autoupdate=false. Aggregated rules are the controller's. */
static bool reconcile(struct arena *a, struct json *have, const struct json *want) {
    const char *kind = json_get_str(want, "kind");
    if (str_eq(json_get_str(json_at(have, "metadata", "annotations", NULL), AUTOUPDATE), "false")) return false;
    bool changed = merge_strings(a, have, want, "labels");
    changed |= merge_strings(a, have, want, "annotations");
    if (str_has_suffix(kind, "Binding")) return merge_subjects(a, have, want) || changed;
    if (!json_get(want, "aggregationRule")) return merge_rules(a, have, want) || changed;
    if (json_get(have, "aggregationRule")) return changed;
    json_set(a, have, "aggregationRule", json_clone(a, json_get(want, "aggregationRule")));
    return true;
}

/* What this server says of its CAs replaces what stands there; keys of others stay. */
static bool take_data(struct arena *a, struct json *have, const struct json *want) {
    struct json *data = json_ensure_object(a, have, "data");
    bool changed = false;
    JSON_FOREACH_MEMBER(m, json_get(want, "data")) {
        if (json_equal(json_get(data, m->key), m->value)) continue;
        json_set(a, data, m->key, json_clone(a, m->value));
        changed = true;
    }
    return changed;
}

static int ensure_one(const struct bootstrap_ops *ops, struct arena *a, struct json *want, struct err *e) {
    const struct kind *k = kind_find(json_get_str(want, "kind"));
    const char *ns = json_get_str(json_get(want, "metadata"), "namespace"),
               *name = json_get_str(json_get(want, "metadata"), "name");
    struct json *have = NULL;
    int r = ops->get(ops->arg, a, k->group, k->version, k->resource, ns, name, &have, e);
    if (r < 0) return r;
    if (!have) {
        r = ops->create(ops->arg, a, k->group, k->version, k->resource, ns, want, e);
        return r == -EEXIST ? 0 : r;
    }
    bool changed = str_eq(k->group, RBAC_GROUP) ? reconcile(a, have, want)
                                                : str_eq(name, AUTHENTICATION_MAP) && take_data(a, have, want);
    if (!changed) return 0;
    return ops->update(ops->arg, a, k->group, k->version, k->resource, ns, have, e);
}

int bootstrap_ensure(const struct bootstrap_ops *ops, const struct bootstrap_config *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *o, *all = bootstrap_objects(a, c);
    int first = 0;
    JSON_FOREACH(o, all) {
        _cleanup_arena_ struct arena *one = arena_new();
        _cleanup_err_ struct err oe = {0};
        int r = ensure_one(ops, one, o, &oe);
        if (r >= 0 || first) continue;
        first = r;
        if (e) {
            err_move(e, &oe);
            err_wrap(e, "%s %s", json_get_str(o, "kind"), json_get_str(json_get(o, "metadata"), "name"));
        }
    }
    return first;
}
