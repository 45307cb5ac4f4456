#include "pkg/cel/policy_env.h"

struct member {
    const char *name;
    const struct cel_type *type;
};

static const struct cel_type *object_type(struct arena *a, const char *name, const struct member *m, size_t n) {
    struct cel_type *t = cel_type_object(a, name);
    for (size_t i = 0; i < n; i++) cel_type_add_field(a, t, m[i].name, m[i].type);
    return t;
}
#define OBJECT(a, name, ...)                                   \
    object_type(a, name, (const struct member[]){__VA_ARGS__}, \
                sizeof((const struct member[]){__VA_ARGS__}) / sizeof(struct member))

static const struct cel_type *request_type(struct arena *a) {
    const struct cel_type *s = &cel_t_string, *strings = cel_type_list(a, s);
    const struct cel_type *kind = OBJECT(a, "kubernetes.GroupVersionKind", {"group", s}, {"version", s}, {"kind", s});
    const struct cel_type *res =
        OBJECT(a, "kubernetes.GroupVersionResource", {"group", s}, {"version", s}, {"resource", s});
    const struct cel_type *user = OBJECT(a, "kubernetes.UserInfo", {"username", s}, {"uid", s}, {"groups", strings},
                                         {"extra", cel_type_map(a, s, strings)});
    return OBJECT(a, "kubernetes.AdmissionRequest", {"kind", kind}, {"resource", res}, {"subResource", s},
                  {"requestKind", kind}, {"requestResource", res}, {"requestSubResource", s}, {"name", s},
                  {"namespace", s}, {"operation", s}, {"userInfo", user}, {"dryRun", &cel_t_bool},
                  {"options", &cel_t_dyn});
}

static const struct cel_type *namespace_type(struct arena *a) {
    const struct cel_type *s = &cel_t_string, *t = &cel_t_timestamp, *map = cel_type_map(a, s, s),
                          *strings = cel_type_list(a, s);
    const struct cel_type *cond = OBJECT(a, "kubernetes.NamespaceCondition", {"status", s}, {"type", s},
                                         {"lastTransitionTime", t}, {"message", s}, {"reason", s});
    const struct cel_type *meta =
        OBJECT(a, "kubernetes.NamespaceMetadata", {"name", s}, {"generateName", s}, {"namespace", s}, {"labels", map},
               {"annotations", map}, {"UID", s}, {"creationTimestamp", t}, {"deletionGracePeriodSeconds", &cel_t_int},
               {"deletionTimestamp", t}, {"generation", &cel_t_int}, {"resourceVersion", s}, {"finalizers", strings});
    const struct cel_type *spec = OBJECT(a, "kubernetes.NamespaceSpec", {"finalizers", strings});
    const struct cel_type *status =
        OBJECT(a, "kubernetes.NamespaceStatus", {"conditions", cel_type_list(a, cond)}, {"phase", s});
    return OBJECT(a, "kubernetes.Namespace", {"metadata", meta}, {"spec", spec}, {"status", status});
}

struct cel_policy_env *cel_policy_env_new(struct arena *a, unsigned decls, const struct cel_type *variables,
                                          const struct cel_type *object, const struct cel_type *params) {
    struct cel_policy_env *x = arena_zalloc(a, sizeof(*x));
    bool authorizer = decls & CEL_DECL_AUTHORIZER;
    if (!object) object = &cel_t_dyn;
    const struct {
        const char *name;
        const struct cel_type *type;
    } vars[CEL_VARS] = {
        [CEL_VAR_OBJECT] = {"object", object},
        [CEL_VAR_OLD] = {"oldObject", object},
        [CEL_VAR_NAMESPACE] = {"namespaceObject", namespace_type(a)},
        [CEL_VAR_REQUEST] = {"request", request_type(a)},
        [CEL_VAR_PARAMS] = {"params", !(decls & CEL_DECL_PARAMS) ? NULL
                                      : params                   ? params
                                                                 : &cel_t_dyn},
        [CEL_VAR_AUTHORIZER] = {"authorizer", authorizer ? &cel_t_authorizer : NULL},
        [CEL_VAR_RESOURCE] = {"authorizer.requestResource", authorizer ? &cel_t_resource_check : NULL},
        [CEL_VAR_VARIABLES] = {"variables", variables},
    };
    x->env = cel_env_new(a, CEL_LIB_K8S | (decls & CEL_DECL_PATCH ? CEL_LIB_JSONPATCH : 0));
    for (size_t i = 0; i < CEL_VARS; i++)
        x->slot[i] = vars[i].type ? cel_env_var(x->env, vars[i].name, vars[i].type) : -1;
    return x;
}
