/* Admission: the chain of built-in plugins that kube-apiserver has on by default, in its order. First all
 * plugins that change the object, then all that only look. */
#include "apiserver/rules/policy.h"
#include "apiserver/rules/webhook.h"

int admission_forbid(struct rules_ctx *c, const struct json *obj, struct err *e, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *why = arena_vprintf(c->a, fmt, ap);
    va_end(ap);
    const char *name = c->name ? c->name : json_as_str(json_at(obj, "metadata", "name", NULL));
    if (str_empty(name)) name = json_as_str(json_at(obj, "metadata", "generateName", NULL));
    if (str_empty(name)) name = "Unknown";
    err_status(e, 403, "Forbidden", "%s%s%s \"%s\" is forbidden: %s", c->resource, str_empty(c->group) ? "" : ".",
               str_or_empty(c->group), str_or_empty(name), why);
    err_details(e, c->group, c->resource, name);
    return -EACCES;
}

/* The plugins of one request ask for the same objects again and again (its namespace): each is read once. */
struct rules_seen {
    const char *group, *resource, *ns, *name;
    const struct json *obj;
    struct rules_seen *next;
};

const struct json *admission_get(struct rules_ctx *c, const char *group, const char *resource, const char *ns,
                                 const char *name) {
    const struct rules *r = c->rules;
    if (!r || !r->lookup.get) return NULL;
    for (const struct rules_seen *s = c->seen; s; s = s->next)
        if (str_eq(s->name, name) && str_eq(s->resource, resource) && str_eq(s->ns, ns) && str_eq(s->group, group))
            return s->obj;
    const struct json *obj = r->lookup.get(r->lookup.arg, c->a, group, resource, ns, name);
    if (!obj) return NULL;
    struct rules_seen *s = arena_alloc(c->a, sizeof(*s));
    *s = (struct rules_seen){.obj = obj, .next = c->seen};
    s->group = arena_strdup(c->a, group);
    s->resource = arena_strdup(c->a, resource);
    s->ns = arena_strdup(c->a, ns);
    s->name = arena_strdup(c->a, name);
    c->seen = s;
    return obj;
}

const struct json *admission_list(struct rules_ctx *c, const char *group, const char *resource, const char *ns) {
    const struct rules *r = c->rules;
    return r && r->lookup.list ? r->lookup.list(r->lookup.arg, c->a, group, resource, ns) : NULL;
}

bool admission_is(const struct rules_ctx *c, const char *group, const char *kind) {
    return str_eq(str_or_empty(c->group), group) && str_eq(c->kind, kind) && str_empty(c->subresource);
}

static admission_fn *const mutating[] = {
    check_namespace_lifecycle,
    admit_taint_nodes,
    admit_limit_ranger,
    admit_service_account,
    admit_priority,
    admit_toleration_seconds,
    admit_default_storage_class,
    admit_storage_in_use,
    admit_runtime_class,
    admit_default_ingress_class,
    admit_topology_labels,
    policies_mutate,
    webhooks_mutate,
};
static admission_fn *const validating[] = {
    check_namespace_lifecycle, check_limit_ranger,  check_service_account, check_node_restriction, check_pod_security,
    check_priority_class,      check_runtime_class, check_pvc_resize,      check_csr_approval,     check_csr_signing,
    check_csr_subject,         check_trust_bundle,  policies_validate,     webhooks_validate,      check_resource_quota,
};

static int run_chain(admission_fn *const *chain, size_t n, struct rules_ctx *c, struct json *obj,
                     const struct json *old, struct err *e) {
    for (size_t i = 0; i < n; i++) {
        int r = chain[i](c, obj, old, e);
        if (r < 0) return r;
    }
    return 0;
}

/* When a webhook or a policy changed something the chain looks once more, and of webhooks and policies those that asked
 * for it. */
static int run_rounds(admission_fn *const *chain, size_t n, struct rules_ctx *c, struct json *obj,
                      const struct json *old, struct err *e) {
    struct admit_rounds rounds = {0};
    c->rounds = &rounds;
    int r = run_chain(chain, n, c, obj, old, e);
    rounds.second = true;
    if (r == 0 && rounds.wanted) r = run_chain(chain, n, c, obj, old, e);
    c->rounds = NULL;
    return r;
}

int admission_mutate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    return run_rounds(mutating, ARRAY_LEN(mutating), c, obj, old, e);
}

int admission_validate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    /* a delete has no other occasion to ask mutating webhooks */
    if (c->op == RULES_DELETE) {
        struct admit_rounds rounds = {0};
        c->rounds = &rounds;
        int r = webhooks_mutate(c, NULL, old, e);
        c->rounds = NULL;
        if (r < 0) return r;
    }
    return run_chain(validating, ARRAY_LEN(validating), c, obj, old, e);
}

int admission_extensions(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static admission_fn *const change[] = {admit_topology_labels, policies_mutate, webhooks_mutate},
                               *const look[] = {check_node_restriction, policies_validate, webhooks_validate};
    int r = run_rounds(change, ARRAY_LEN(change), c, obj, old, e);
    return r < 0 ? r : run_chain(look, ARRAY_LEN(look), c, obj, old, e);
}
