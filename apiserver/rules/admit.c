/* See admit.h. Upstream: apiserver/pkg/admission/plugin/webhook/predicates, .../plugin/policy/matching, and
 * admission/reinvocation.go. */
#include "apiserver/rules/admit.h"

#include "apiserver/auth/authn.h"
#include "apiserver/rules/crd_schema.h"

const char *admit_operation(const struct rules_ctx *c) {
    static const char *const names[] = {"CREATE", "UPDATE", "DELETE", "CONNECT"};
    return names[c->op];
}

struct rules_kind admit_requested(const struct rules_ctx *c) {
    bool own = c->request_version != NULL;
    return (struct rules_kind){.group = own ? c->request_group : str_or_empty(c->group),
                               .version = own ? c->request_version : c->version,
                               .kind = c->kind,
                               .resource = c->resource,
                               .namespaced = c->namespaced};
}

const char *admit_name(const struct rules_ctx *c, const struct json *obj, const struct json *old) {
    if (c->name) return c->name;
    return str_or_empty(json_as_str(json_at(obj ? obj : old, "metadata", "name", NULL)));
}

static bool is_namespace(const struct rules_ctx *c) { return str_empty(c->group) && str_eq(c->resource, "namespaces"); }

const char *admit_namespace(const struct rules_ctx *c, const struct json *obj, const struct json *old) {
    return is_namespace(c) ? admit_name(c, obj, old) : c->namespaced ? str_or_empty(c->ns) : "";
}

/* ---- rules ---- */

static bool list_matches(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), "*") || str_eq(json_as_str(it), s)) return true;
    return false;
}

/* Resource and subresource, each by name or "*". */
static bool resource_matches(const struct json *list, const char *resource, const char *sub) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const char *s = str_or_empty(json_as_str(it)), *slash = strchr(s, '/');
        size_t n = slash ? (size_t)(slash - s) : strlen(s);
        bool name = (n == 1 && *s == '*') || (strlen(resource) == n && strncmp(s, resource, n) == 0);
        bool rest = slash ? str_eq(slash + 1, "*") || str_eq(slash + 1, sub) : !*sub;
        if (name && rest) return true;
    }
    return false;
}

static bool scope_matches(const struct rules_ctx *c, const char *scope) {
    bool namespaced = c->namespaced && !str_empty(c->ns) && !is_namespace(c);
    return str_in(scope, ONE_OF("", "*")) || str_eq(scope, namespaced ? "Namespaced" : "Cluster");
}

static bool rule_matches(const struct rules_ctx *c, const struct json *r, const struct rules_kind *k) {
    return list_matches(json_get(r, "apiGroups"), k->group) && list_matches(json_get(r, "apiVersions"), k->version) &&
           list_matches(json_get(r, "operations"), admit_operation(c)) &&
           resource_matches(json_get(r, "resources"), k->resource, str_or_empty(c->subresource)) &&
           scope_matches(c, jstr(r, "scope"));
}

static bool name_matches(const struct json *rule, const char *name) {
    const struct json *names = json_get(rule, "resourceNames"), *it;
    if (!json_len(names)) return true;
    JSON_FOREACH(it, names)
        if (str_eq(json_as_str(it), name)) return true;
    return false;
}

bool admit_rules_match(struct rules_ctx *c, const struct json *rules, bool equivalent, const char *name,
                       struct rules_kind *as) {
    const struct rules_lookup *l = &c->rules->lookup;
    struct rules_kind asked = admit_requested(c), *others = NULL;
    const struct json *r;
    JSON_FOREACH(r, rules)
        if (rule_matches(c, r, &asked) && name_matches(r, name)) {
            *as = asked;
            return true;
        }
    size_t n = equivalent && l->equivalents ? l->equivalents(l->arg, c->a, asked.group, asked.resource, &others) : 0;
    JSON_FOREACH(r, n ? rules : NULL)
        for (size_t i = 0; i < n; i++) {
            if (str_eq(others[i].group, asked.group) && str_eq(others[i].version, asked.version)) continue;
            if (!rule_matches(c, r, &others[i]) || !name_matches(r, name)) continue;
            *as = others[i];
            return true;
        }
    return false;
}

/* ---- selectors ---- */

static const struct json *namespace_labels(struct rules_ctx *c, const struct json *obj, const struct json *old) {
    if (is_namespace(c) && str_empty(c->subresource) && obj) return json_at(obj, "metadata", "labels", NULL);
    const char *ns = admit_namespace(c, obj, old);
    return json_at(admission_get(c, "", "namespaces", NULL, ns), "metadata", "labels", NULL);
}

bool admit_selectors_match(struct rules_ctx *c, const struct json *holder, const struct json *obj,
                           const struct json *old) {
    const struct json *ns = json_get(holder, "namespaceSelector"), *sel = json_get(holder, "objectSelector");
    bool in_namespace = *admit_namespace(c, obj, old) || is_namespace(c);
    if (json_len(ns) && in_namespace && !selector_matches(ns, namespace_labels(c, obj, old))) return false;
    return !json_len(sel) || (obj && selector_matches(sel, json_at(obj, "metadata", "labels", NULL))) ||
           (old && selector_matches(sel, json_at(old, "metadata", "labels", NULL)));
}

bool admit_resources_match(struct rules_ctx *c, const struct json *m, const struct json *obj, const struct json *old,
                           struct rules_kind *as) {
    bool equivalent = str_eq(jstr(m, "matchPolicy"), "Equivalent");
    const char *name = admit_name(c, obj, old);
    const struct json *rules = json_get(m, "resourceRules");
    struct rules_kind ignored;
    *as = admit_requested(c);
    if (!admit_selectors_match(c, m, obj, old)) return false;
    if (admit_rules_match(c, json_get(m, "excludeResourceRules"), equivalent, name, &ignored)) return false;
    return !json_len(rules) || admit_rules_match(c, rules, equivalent, name, as);
}

/* ---- views ---- */

static const char *api_version(struct arena *a, const char *group, const char *version) {
    return str_empty(group) ? version : arena_printf(a, "%s/%s", group, version);
}

/* The tree with kind and apiVersion in front; its parts are shared. */
static struct json *with_type(struct rules_ctx *c, const struct json *obj) {
    const struct rules_kind *b = c->body_kind;
    struct json *o = json_object(c->a);
    json_set_str(c->a, o, "kind", b ? b->kind : c->kind);
    json_set_str(c->a, o, "apiVersion",
                 b ? api_version(c->a, b->group, b->version) : api_version(c->a, c->group, c->version));
    JSON_FOREACH_MEMBER(m, obj)
        if (!str_in(m->key, ONE_OF("kind", "apiVersion"))) json_set(c->a, o, m->key, m->value);
    return o;
}

static int view_tree(struct rules_ctx *c, const struct rules_kind *as, const struct json *v, struct json **out,
                     struct err *e) {
    const struct rules_lookup *l = &c->rules->lookup;
    *out = v ? with_type(c, v) : NULL;
    if (!v || c->body_kind || (str_eq(as->group, str_or_empty(c->group)) && str_eq(as->version, c->version))) return 0;
    if (!l->convert) return err_set(e, -ENOTSUP, "no conversion to %s", api_version(c->a, as->group, as->version));
    *out = json_clone(c->a, *out); /* conversions change what they are given */
    return l->convert(l->arg, c->a, as, out, e);
}

int admit_view_make(struct rules_ctx *c, const struct rules_kind *as, const struct json *obj, const struct json *old,
                    struct admit_view *out, struct err *e) {
    *out = (struct admit_view){.as = *as};
    int rc = view_tree(c, as, obj, &out->obj, e);
    return rc ? rc : view_tree(c, as, old, &out->old, e);
}

int admit_replace(struct rules_ctx *c, struct json *now, struct json *obj, bool *changed, struct err *e) {
    const struct rules_lookup *l = &c->rules->lookup;
    const char *want = api_version(c->a, c->group, c->version);
    struct rules_kind stored = {str_or_empty(c->group), c->version, c->kind, c->resource, c->namespaced};
    struct json *clean = now;
    int rc = 0;
    if (!c->body_kind && !str_eq(jstr(now, "apiVersion"), want))
        rc =
            l->convert ? l->convert(l->arg, c->a, &stored, &now, e) : err_set(e, -ENOTSUP, "no conversion to %s", want);
    if (!rc && c->body_kind) { /* its own type is checked by whoever brought it */
        *changed = !json_equal(with_type(c, obj), now);
        *obj = *now;
        return 0;
    }
    if (!rc && c->type) rc = api_tree_normalise(c->a, c->type, now, &clean, NULL, e);
    if (!rc && !c->type) {
        clean = json_clone(c->a, now);
        rc = crd_normalise(c, clean, NULL, e);
    }
    if (rc) return rc;
    rules_default(c, clean);
    *changed = !json_equal(with_type(c, clean), with_type(c, obj));
    *obj = *clean;
    return 0;
}

/* ---- the request ---- */

static struct json *gvk(struct arena *a, const char *group, const char *version, const char *key, const char *name) {
    struct json *o = json_object(a);
    json_set_str(a, o, "group", str_or_empty(group));
    json_set_str(a, o, "version", str_or_empty(version));
    json_set_str(a, o, key, name);
    return o;
}

static struct json *options(struct rules_ctx *c) {
    static const char *const kinds[] = {"CreateOptions", "UpdateOptions", "DeleteOptions"};
    struct arena *a = c->a;
    if (c->op == RULES_CONNECT) return json_null(a);
    if (c->options) return json_clone(a, c->options);
    struct json *o = json_object(a);
    json_set_str(a, o, "kind", kinds[c->op]);
    json_set_str(a, o, "apiVersion", "meta.k8s.io/v1");
    if (c->dry_run) json_append(a, json_ensure_array(a, o, "dryRun"), json_str(a, "All"));
    if (c->op == RULES_DELETE) return o;
    if (!str_empty(c->field_manager_param)) json_set_str(a, o, "fieldManager", c->field_manager_param);
    if (!str_empty(c->field_validation)) json_set_str(a, o, "fieldValidation", c->field_validation);
    return o;
}

static struct json *user_of(struct rules_ctx *c) {
    struct arena *a = c->a;
    struct json *u = json_object(a), *groups = json_array(a);
    if (!str_empty(c->user)) json_set_str(a, u, "username", c->user);
    if (c->who && !str_empty(c->who->uid)) json_set_str(a, u, "uid", c->who->uid);
    for (size_t i = 0; i < c->n_groups; i++) json_append(a, groups, json_str(a, c->groups[i]));
    if (c->n_groups) json_set(a, u, "groups", groups);
    for (size_t i = 0; c->who && i < c->who->n_extra; i++) {
        const struct user_extra *x = &c->who->extra[i];
        struct json *values = json_set(a, json_ensure_object(a, u, "extra"), x->key, json_array(a));
        for (size_t j = 0; j < x->n; j++) json_append(a, values, json_str(a, x->values[j]));
    }
    return u;
}

struct json *admit_request(struct rules_ctx *c, const struct rules_kind *as, const struct json *obj,
                           const struct json *old, const char *uid) {
    struct arena *a = c->a;
    struct json *r = json_object(a);
    struct rules_kind asked = admit_requested(c);
    const struct rules_kind *b = c->body_kind;
    const char *name = admit_name(c, obj, old), *ns = admit_namespace(c, obj, old), *sub = c->subresource;
    if (uid) json_set_str(a, r, "uid", uid);
    json_set(a, r, "kind",
             b ? gvk(a, b->group, b->version, "kind", b->kind) : gvk(a, as->group, as->version, "kind", as->kind));
    json_set(a, r, "resource", gvk(a, as->group, as->version, "resource", as->resource));
    if (!str_empty(sub)) json_set_str(a, r, "subResource", sub);
    json_set(
        a, r, "requestKind",
        b ? gvk(a, b->group, b->version, "kind", b->kind) : gvk(a, asked.group, asked.version, "kind", asked.kind));
    json_set(a, r, "requestResource", gvk(a, asked.group, asked.version, "resource", asked.resource));
    if (!str_empty(sub)) json_set_str(a, r, "requestSubResource", sub);
    if (*name) json_set_str(a, r, "name", name);
    if (*ns) json_set_str(a, r, "namespace", ns);
    json_set_str(a, r, "operation", admit_operation(c));
    json_set(a, r, "userInfo", user_of(c));
    json_set_bool(a, r, "dryRun", c->dry_run);
    json_set(a, r, "options", options(c));
    return r;
}

/* ---- reinvocation ---- */

void reinvocation_require(struct arena *a, struct reinvocation *r) {
    for (size_t i = 0; i < r->n_before; i++) {
        ARENA_GROW(a, r->again, r->n_again, r->cap_again);
        r->again[r->n_again++] = r->before[i];
    }
    r->n_before = 0;
}

void reinvocation_add(struct arena *a, struct reinvocation *r, const char *key) {
    ARENA_GROW(a, r->before, r->n_before, r->cap_before);
    r->before[r->n_before++] = key;
}

bool reinvocation_wanted(const struct reinvocation *r, const char *key) {
    for (size_t i = 0; i < r->n_again; i++)
        if (str_eq(r->again[i], key)) return true;
    return false;
}
