/* Parameters of bindings. Upstream: policy/generic/policy_dispatcher.go, CollectParams. */
#include "apiserver/rules/policy.h"

/* The object as expressions see it: in the version that paramKind names. */
static struct json *param_tree(struct rules_ctx *c, const struct rules_kind *k, const struct json *v) {
    const struct rules_lookup *l = &c->rules->lookup;
    struct json *out = json_clone(c->a, v);
    const char *want = *k->group ? arena_printf(c->a, "%s/%s", k->group, k->version) : k->version;
    if (!*jstr(out, "kind")) json_set_str(c->a, out, "kind", k->kind);
    if (!*jstr(out, "apiVersion")) json_set_str(c->a, out, "apiVersion", want);
    if (!str_eq(jstr(out, "apiVersion"), want) && l->convert) l->convert(l->arg, c->a, k, &out, NULL);
    return out;
}

static void add(struct rules_ctx *c, struct json ***out, size_t *n, size_t *cap, struct json *v) {
    ARENA_GROW(c->a, *out, *n, *cap);
    (*out)[(*n)++] = v;
}

int policy_param_kind(struct rules_ctx *c, const struct policy *p, struct rules_kind *out, bool *has, struct err *e) {
    const struct rules_lookup *l = &c->rules->lookup;
    const struct json *kind = jget(p->spec, "paramKind");
    const char *gv = jstr(kind, "apiVersion");
    *has = kind != NULL;
    if (!kind || (l->kind && l->kind(l->arg, c->a, gv, jstr(kind, "kind"), out))) return 0;
    return err_set(e, -EINVAL, "failed to find resource referenced by paramKind: '%s%s, Kind=%s'",
                   strchr(gv, '/') ? "" : "/", gv, jstr(kind, "kind"));
}

int policy_params(struct rules_ctx *c, const struct policy *p, const struct json *binding, const struct json *obj,
                  const struct json *old, struct json ***out, size_t *n, struct err *e) {
    const struct json *ref = jget(json_get(binding, "spec"), "paramRef"), *it;
    const char *name = jstr(ref, "name"), *ns = jstr(ref, "namespace");
    struct rules_kind k = {0};
    size_t cap = 0;
    bool has;
    *out = NULL;
    *n = 0;
    int rc = policy_param_kind(c, p, &k, &has, e);
    if (rc) return rc;
    if (!has || !ref) {
        add(c, out, n, &cap, NULL);
        return 0;
    }
    if (!k.namespaced && *ns)
        return err_set(e, -EINVAL, "paramRef.namespace must not be provided for a cluster-scoped `paramKind`");
    if (k.namespaced && !*ns) ns = admit_namespace(c, obj, old);
    if (k.namespaced && !*ns)
        return err_set(e, -EINVAL,
                       "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources");
    if (!k.namespaced) ns = NULL;
    if (*name) {
        const struct json *v = admission_get(c, k.group, k.resource, ns, name);
        if (v) add(c, out, n, &cap, param_tree(c, &k, v));
    } else {
        const struct json *selector = json_get(ref, "selector");
        JSON_FOREACH(it, admission_list(c, k.group, k.resource, ns))
            if (!json_len(selector) || selector_matches(selector, json_at(it, "metadata", "labels", NULL)))
                add(c, out, n, &cap, param_tree(c, &k, it));
    }
    if (!*n && str_eq(jstr(ref, "parameterNotFoundAction"), "Deny"))
        return err_set(e, -EINVAL, "no params found for policy binding with `Deny` parameterNotFoundAction");
    return 0;
}
