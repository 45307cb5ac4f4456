/* Audit policies. Upstream: k8s.io/apiserver/pkg/audit/policy (checker.go, reader.go) and its validation. */
#include "apiserver/audit/audit.h"
#include "apiserver/auth/authn.h"
#include "pkg/yaml/yaml.h"

struct audit_policy {
    struct arena *arena;
    const struct json *rules;
    bool omit_managed_fields;
    unsigned omit;
};

static const char *const levels[] = {"None", "Metadata", "Request", "RequestResponse"};
static const char *const stages[] = {"RequestReceived", "ResponseStarted", "ResponseComplete", "Panic"};

static int index_of(const char *const *names, size_t n, const char *s) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(names[i], s)) return (int)i;
    return -1;
}

static bool has(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), str_or_empty(s))) return true;
    return false;
}

/* ---- reading ---- */

/* Every member is known, and a list of strings where it should be one. */
static int check_members(const struct json *v, const char *where, const char *const *lists, const char *const *others,
                         struct err *e) {
    if (!json_is(v, JSON_OBJECT)) return err_set(e, -EINVAL, "%s: must be an object", where);
    JSON_FOREACH_MEMBER(m, v) {
        bool list = false, other = false;
        for (size_t i = 0; lists[i]; i++) list |= str_eq(lists[i], m->key);
        for (size_t i = 0; others[i]; i++) other |= str_eq(others[i], m->key);
        if (!list && !other)
            return err_set(e, -EINVAL, "strict decoding error: unknown field \"%s.%s\"", where, m->key);
        if (!list || m->value->type == JSON_NULL) continue;
        const struct json *it;
        if (!json_is(m->value, JSON_ARRAY)) return err_set(e, -EINVAL, "%s.%s: must be a list", where, m->key);
        JSON_FOREACH(it, m->value)
            if (!json_as_str(it)) return err_set(e, -EINVAL, "%s.%s: must be a list of strings", where, m->key);
    }
    return 0;
}

static int check_stages(const struct json *list, const char *where, struct err *e) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (index_of(stages, ARRAY_LEN(stages), json_as_str(it)) < 0)
            return err_set(e, -EINVAL,
                           "%s.omitStages: Invalid value: \"%s\": allowed stages are "
                           "RequestReceived,ResponseStarted,ResponseComplete,Panic",
                           where, json_as_str(it));
    return 0;
}

static int check_resources(const struct json *rule, const char *where, struct err *e) {
    static const char *const lists[] = {"resources", "resourceNames", NULL}, *const others[] = {"group", NULL};
    const struct json *gr;
    JSON_FOREACH(gr, json_get(rule, "resources")) {
        _cleanup_free_ char *at = xasprintf("%s.resources[%zu]", where, gr_i);
        int rc = check_members(gr, at, lists, others, e);
        if (rc) return rc;
        const char *group = json_get_str(gr, "group");
        if (!str_empty(group) && strchr(group, '/'))
            return err_set(e, -EINVAL, "%s.group: Invalid value: \"%s\": must be a group, not a version", at, group);
        if (json_len(json_get(gr, "resourceNames")) && !json_len(json_get(gr, "resources")))
            return err_set(e, -EINVAL,
                           "%s.resourceNames: Invalid value: using resourceNames requires at least one resource", at);
    }
    return 0;
}

static int check_urls(const struct json *list, const char *where, struct err *e) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const char *url = json_as_str(it), *star = url ? strchr(url, '*') : NULL;
        if (str_eq(url, "*")) continue;
        if (*url != '/')
            return err_set(e, -EINVAL,
                           "%s.nonResourceURLs[%zu]: Invalid value: \"%s\": non-resource URL rules must begin with a "
                           "'/' character",
                           where, it_i, url);
        if (star && star[1])
            return err_set(e, -EINVAL,
                           "%s.nonResourceURLs[%zu]: Invalid value: \"%s\": non-resource URL wildcards '*' must be the "
                           "final character of the rule",
                           where, it_i, url);
    }
    return 0;
}

static int check_rule(const struct json *rule, size_t i, struct err *e) {
    static const char *const lists[] = {"users",           "userGroups", "verbs", "namespaces",
                                        "nonResourceURLs", "omitStages", NULL},
                             *const others[] = {"level", "resources", "omitManagedFields", NULL};
    char where[32];
    snprintf(where, sizeof(where), "rules[%zu]", i);
    int rc = check_members(rule, where, lists, others, e);
    if (rc) return rc;
    const char *level = str_or_empty(json_get_str(rule, "level"));
    if (!*level) return err_set(e, -EINVAL, "%s.level: Required value", where);
    if (index_of(levels, ARRAY_LEN(levels), level) < 0)
        return err_set(e, -EINVAL,
                       "%s.level: Unsupported value: \"%s\": supported values: \"Metadata\", \"None\", \"Request\", "
                       "\"RequestResponse\"",
                       where, level);
    bool res = json_len(json_get(rule, "resources")) || json_len(json_get(rule, "namespaces"));
    if (res && json_len(json_get(rule, "nonResourceURLs")))
        return err_set(
            e, -EINVAL,
            "%s.nonResourceURLs: Invalid value: rules cannot apply to both regular resources and non-resource URLs",
            where);
    if ((rc = check_stages(json_get(rule, "omitStages"), where, e))) return rc;
    if ((rc = check_resources(rule, where, e))) return rc;
    return check_urls(json_get(rule, "nonResourceURLs"), where, e);
}

static unsigned stage_bits(const struct json *list) {
    unsigned bits = 0;
    const struct json *it;
    JSON_FOREACH(it, list) bits |= 1u << index_of(stages, ARRAY_LEN(stages), json_as_str(it));
    return bits;
}

static int read_policy(struct audit_policy *p, const char *text, size_t len, struct err *e) {
    static const char *const lists[] = {"omitStages", NULL}, *const others[] = {"apiVersion",        "kind",
                                                                                "metadata",          "rules",
                                                                                "omitManagedFields", NULL};
    struct json *v = NULL;
    const struct json *rule;
    int rc = yaml_parse_one(p->arena, text, len, &v, NULL, e);
    if (rc) return rc;
    if (!str_eq(json_get_str(v, "apiVersion"), "audit.k8s.io/v1") || !str_eq(json_get_str(v, "kind"), "Policy"))
        return err_set(e, -EINVAL, "unknown group version field %s in policy",
                       str_or_empty(json_get_str(v, "apiVersion")));
    if ((rc = check_members(v, "policy", lists, others, e))) return rc;
    if ((rc = check_stages(json_get(v, "omitStages"), "policy", e))) return rc;
    p->rules = json_get(v, "rules");
    JSON_FOREACH(rule, p->rules)
        if ((rc = check_rule(rule, rule_i, e))) return rc;
    if (!json_len(p->rules)) return err_set(e, -EINVAL, "loaded illegal policy with 0 rules");
    p->omit = stage_bits(json_get(v, "omitStages"));
    p->omit_managed_fields = json_get_bool(v, "omitManagedFields", false);
    return 0;
}

int audit_policy_parse(const char *text, size_t len, struct audit_policy **out, struct err *e) {
    struct audit_policy *p = xcalloc(1, sizeof(*p));
    p->arena = arena_new();
    int rc = read_policy(p, text, len, e);
    if (rc)
        audit_policy_free(p);
    else
        *out = p;
    return rc;
}

void audit_policy_free(struct audit_policy *p) {
    if (!p) return;
    arena_free(p->arena);
    free(p);
}

/* ---- deciding ---- */

static bool url_matches(const struct json *list, const char *path) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const char *s = json_as_str(it);
        size_t n = strlen(s);
        if (str_eq(s, path) || (n && s[n - 1] == '*' && strncmp(path, s, n - 1) == 0)) return true;
    }
    return false;
}

/* "pods", "pods/log", "pods/" and a star, a star and "/scale", or a star alone. */
static bool resource_matches(const char *s, const char *resource, const char *sub) {
    const char *slash = strchr(s, '/');
    if (!slash) return str_eq(s, "*") || (!*sub && str_eq(s, resource));
    size_t n = (size_t)(slash - s);
    bool any = n == 1 && *s == '*', same = strlen(resource) == n && strncmp(s, resource, n) == 0;
    if (same && str_eq(slash + 1, "*")) return true;
    return *sub && (any || same) && str_eq(slash + 1, sub);
}

static bool group_matches(const struct json *gr, const struct audit_attrs *q) {
    const char *group = str_or_empty(json_get_str(gr, "group"));
    const struct json *list = json_get(gr, "resources"), *names = json_get(gr, "resourceNames"), *it;
    if (!str_eq(group, "*") && !str_eq(group, str_or_empty(q->group))) return false;
    if (!json_len(list)) return true;
    if (json_len(names) && !has(names, q->name)) return false;
    JSON_FOREACH(it, list)
        if (resource_matches(json_as_str(it), str_or_empty(q->resource), str_or_empty(q->subresource))) return true;
    return false;
}

static bool matches(const struct json *r, const struct audit_attrs *q) {
    const struct json *users = json_get(r, "users"), *groups = json_get(r, "userGroups"), *verbs = json_get(r, "verbs"),
                      *namespaces = json_get(r, "namespaces"), *resources = json_get(r, "resources"),
                      *urls = json_get(r, "nonResourceURLs"), *gr;
    if (json_len(users) && !(q->user && has(users, q->user->name))) return false;
    bool in_group = !json_len(groups);
    for (size_t i = 0; q->user && i < q->user->n_groups && !in_group; i++) in_group = has(groups, q->user->groups[i]);
    if (!in_group || (json_len(verbs) && !has(verbs, q->verb))) return false;
    if (json_len(namespaces) || json_len(resources)) {
        if (!q->resource_request || (json_len(namespaces) && !has(namespaces, q->ns))) return false;
        if (!json_len(resources)) return true;
        JSON_FOREACH(gr, resources)
            if (group_matches(gr, q)) return true;
        return false;
    }
    return !json_len(urls) || (!q->resource_request && url_matches(urls, str_or_empty(q->path)));
}

struct audit_config audit_policy_decide(const struct audit_policy *p, const struct audit_attrs *q) {
    const struct json *r;
    JSON_FOREACH(r, p->rules) {
        if (!matches(r, q)) continue;
        int level = index_of(levels, ARRAY_LEN(levels), json_get_str(r, "level"));
        return (struct audit_config){
            .level = (enum audit_level)level,
            .omit = p->omit | stage_bits(json_get(r, "omitStages")),
            .omit_managed_fields = json_get_bool(r, "omitManagedFields", p->omit_managed_fields)};
    }
    return (struct audit_config){.level = AUDIT_NONE};
}
