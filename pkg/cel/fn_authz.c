/* The authorizer: authorizer.group('apps').resource('deployments').namespace('x').check('get').allowed(). What is
 * asked is collected in a value; check() calls the one who evaluates. Upstream:
 * k8s.io/apiserver/pkg/cel/library/authz.go. */
#include "pkg/cel/opaque.h"

#define A0 (args[0])
#define A1 (args[1])
#define CHECK_OF(v) ((const struct op_check *)(v).opaque)

struct cel_val cel_authorizer(struct arena *a) {
    struct op_check *c = opaque_new(a, sizeof(*c), &cel_t_authorizer);
    c->ask = (struct cel_authz){.verb = "",
                                .group = "",
                                .resource = "",
                                .subresource = "",
                                .ns = "",
                                .name = "",
                                .field_selector = "",
                                .label_selector = ""};
    return val_opaque(&c->head);
}

struct cel_val cel_authorizer_resource(struct arena *a, const struct cel_authz *of) {
    struct op_check *c = (struct op_check *)cel_authorizer(a).opaque;
    c->head.type = &cel_t_resource_check;
    c->ask.group = arena_strdup(a, str_or_empty(of->group));
    c->ask.resource = arena_strdup(a, str_or_empty(of->resource));
    c->ask.subresource = arena_strdup(a, str_or_empty(of->subresource));
    c->ask.ns = arena_strdup(a, str_or_empty(of->ns));
    c->ask.name = arena_strdup(a, str_or_empty(of->name));
    return val_opaque(&c->head);
}

static struct op_check *next(struct ev *E, const struct cel_val *args, const struct cel_type *t) {
    struct op_check *c = arena_memdup(E->a, A0.opaque, sizeof(*c));
    c->head.type = t;
    return c;
}

static bool blank(const char *s) { return s[strspn(s, " \t\r\n")] == 0; }

static struct cel_val fn_path(struct ev *E, const struct cel_val *args, int n) {
    if (blank(A1.s)) return val_errf(E->a, "path must not be empty");
    struct op_check *c = next(E, args, &type_path_check);
    c->ask.path = A1.s;
    return val_opaque(&c->head);
}
static struct cel_val fn_group(struct ev *E, const struct cel_val *args, int n) {
    struct op_check *c = next(E, args, &type_group_check);
    c->ask.group = A1.s;
    return val_opaque(&c->head);
}
static struct cel_val fn_service_account(struct ev *E, const struct cel_val *args, int n) {
    const char **bad = NULL;
    size_t count = 0, cap = 0;
    named_format_find("dns1123Subdomain")->validate(E->a, args[2].s, &bad, &count, &cap);
    if (count) return val_errf(E->a, "Invalid service account name");
    named_format_find("dns1123Label")->validate(E->a, A1.s, &bad, &count, &cap);
    if (count) return val_errf(E->a, "Invalid service account namespace");
    struct op_check *c = next(E, args, &cel_t_authorizer);
    c->ask.sa_ns = A1.s;
    c->ask.sa_name = args[2].s;
    return val_opaque(&c->head);
}
static struct cel_val fn_resource(struct ev *E, const struct cel_val *args, int n) {
    if (blank(A1.s)) return val_errf(E->a, "resource must not be empty");
    struct op_check *c = next(E, args, &cel_t_resource_check);
    c->ask.resource = A1.s;
    return val_opaque(&c->head);
}
#define WITH(fn, field)                                                         \
    static struct cel_val fn(struct ev *E, const struct cel_val *args, int n) { \
        struct op_check *c = next(E, args, &cel_t_resource_check);              \
        c->ask.field = A1.s;                                                    \
        return val_opaque(&c->head);                                            \
    }
WITH(fn_subresource, subresource)
WITH(fn_namespace, ns)
WITH(fn_name, name)
WITH(fn_field_selector, field_selector)
WITH(fn_label_selector, label_selector)

static struct cel_val fn_check(struct ev *E, const struct cel_val *args, int n) {
    struct op_check *c = next(E, args, &type_decision);
    c->ask.verb = A1.s;
    if (!E->run->authorize) return val_errf(E->a, "no authorizer is available");
    E->run->authorize(E->run->authorize_arg, E->a, &c->ask, &c->decision);
    return val_opaque(&c->head);
}

static struct cel_val fn_errored(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(CHECK_OF(A0)->decision.error != NULL);
}
static struct cel_val fn_error(struct ev *E, const struct cel_val *args, int n) {
    return cel_str(str_or_empty(CHECK_OF(A0)->decision.error));
}
static struct cel_val fn_allowed(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(CHECK_OF(A0)->decision.allowed);
}
static struct cel_val fn_reason(struct ev *E, const struct cel_val *args, int n) {
    return cel_str(str_or_empty(CHECK_OF(A0)->decision.reason));
}

#define M(name, id, sig, impl) \
    { name, id, sig, 1, OP_CALL, CEL_LIB_K8S, impl }
const struct cel_fn fns_authz[] = {
    M("path", "authorizer_path", "as>h", fn_path),
    M("group", "authorizer_group", "as>g", fn_group),
    M("serviceAccount", "authorizer_serviceaccount", "ass>a", fn_service_account),
    M("resource", "groupcheck_resource", "gs>r", fn_resource),
    M("subresource", "resourcecheck_subresource", "rs>r", fn_subresource),
    M("namespace", "resourcecheck_namespace", "rs>r", fn_namespace),
    M("name", "resourcecheck_name", "rs>r", fn_name),
    M("fieldSelector", "authorizer_fieldselector", "rs>r", fn_field_selector),
    M("labelSelector", "authorizer_labelselector", "rs>r", fn_label_selector),
    M("check", "pathcheck_check", "hs>k", fn_check),
    M("check", "resourcecheck_check", "rs>k", fn_check),
    M("errored", "decision_errored", "k>b", fn_errored),
    M("error", "decision_error", "k>s", fn_error),
    M("allowed", "decision_allowed", "k>b", fn_allowed),
    M("reason", "decision_reason", "k>s", fn_reason),
    {NULL},
};
