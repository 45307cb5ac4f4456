#include "apiserver/rules/policy.h"

#include <ctype.h>

static const char *const bools[] = {"bool", NULL}, *const strings[] = {"string", NULL},
                         *const annotations[] = {"string", "null_type", NULL}, *const objects[] = {"Object", NULL},
                         *const patches[] = {"list(JSONPatch)", NULL};

/* Without white space around it, as upstream compiles some expressions. */
static const char *trimmed(struct arena *a, const char *s) {
    while (isspace((unsigned char)*s)) s++;
    size_t n = strlen(s);
    while (n && isspace((unsigned char)s[n - 1])) n--;
    return arena_strndup(a, s, n);
}

static struct expr *compile_list(struct arena *a, const struct cel_policy_env *env, const struct json *list,
                                 const char *name, const char *src, bool trim, const char *const *types, size_t *n) {
    struct expr *out = arena_zalloc(a, (json_len(list) + 1) * sizeof(*out));
    const struct json *it;
    *n = 0;
    JSON_FOREACH(it, list) {
        const char *text = jstr(it, src);
        out[(*n)++] = expr_compile(a, env, jstr(it, name), trim ? trimmed(a, text) : text, types);
    }
    return out;
}

/* Each variable may use those before it. */
static void compile_variables(struct arena *a, struct policy *p, const struct json *list) {
    const struct json *it;
    p->variables = arena_zalloc(a, (json_len(list) + 1) * sizeof(*p->variables));
    JSON_FOREACH(it, list) {
        struct expr x = expr_compile(a, p->env, jstr(it, "name"), jstr(it, "expression"), NULL);
        if (jstr(it, "expression")[strspn(jstr(it, "expression"), " \t\r\n")])
            cel_type_add_field(a, p->variables_type, x.name, x.prog ? cel_prog_type(x.prog) : &cel_t_dyn);
        p->variables[p->n_variables++] = x;
    }
}

static void compile_validations(struct arena *a, struct policy *p, const struct json *list) {
    const struct json *it;
    p->validations = arena_zalloc(a, (json_len(list) + 1) * sizeof(*p->validations));
    JSON_FOREACH(it, list) {
        struct policy_validation *v = &p->validations[p->n_validations++];
        const char *message = jstr(it, "messageExpression");
        v->check = expr_compile(a, p->env, "", jstr(it, "expression"), bools);
        if (*trimmed(a, message)) v->message = expr_compile(a, p->message, "", message, strings);
        v->text = trimmed(a, jstr(it, "message"));
        v->reason = jstr(it, "reason");
    }
}

static void compile_mutations(struct arena *a, struct policy *p, const struct json *list) {
    const struct json *it;
    p->mutations = arena_zalloc(a, (json_len(list) + 1) * sizeof(*p->mutations));
    JSON_FOREACH(it, list) {
        struct policy_mutation *m = &p->mutations[p->n_mutations++];
        m->json_patch = str_eq(jstr(it, "patchType"), "JSONPatch");
        const char *src =
            trimmed(a, jstr(json_get(it, m->json_patch ? "jsonPatch" : "applyConfiguration"), "expression"));
        m->expr = expr_compile(a, p->env, "", src, m->json_patch ? patches : objects);
    }
}

struct policy *policy_compile(struct arena *a, const struct json *policy, bool mutating, const struct cel_type *object,
                              const struct cel_type *params) {
    struct policy *p = arena_zalloc(a, sizeof(*p));
    const struct json *spec = json_get(policy, "spec"), *vars = json_get(spec, "variables");
    p->name = jstr(json_get(policy, "metadata"), "name");
    p->spec = spec;
    p->ignore = str_eq(jstr(spec, "failurePolicy"), "Ignore");
    p->has_params = jget(spec, "paramKind") != NULL;
    unsigned decls = p->has_params ? CEL_DECL_PARAMS : 0;
    bool composed = mutating || json_len(vars);
    p->variables_type = cel_type_object(a, "kubernetes.variables");
    const struct cel_type *vt = composed ? p->variables_type : NULL;
    p->match = cel_policy_env_new(a, decls | CEL_DECL_AUTHORIZER, NULL, object, params);
    p->env = cel_policy_env_new(a, decls | CEL_DECL_AUTHORIZER | (mutating ? CEL_DECL_PATCH : 0), vt, object, params);
    p->message = cel_policy_env_new(a, decls, vt, object, params);
    p->conditions = compile_list(a, p->match, json_get(spec, "matchConditions"), "name", "expression", true, bools,
                                 &p->n_conditions);
    compile_variables(a, p, vars);
    compile_validations(a, p, json_get(spec, "validations"));
    p->annotations = compile_list(a, p->env, json_get(spec, "auditAnnotations"), "key", "valueExpression", true,
                                  annotations, &p->n_annotations);
    compile_mutations(a, p, json_get(spec, "mutations"));
    return p;
}

struct cel_lazy *policy_variables(const struct policy *p, struct expr_input *in, struct cel_run *run,
                                  struct cel_val vars[EXPR_SLOTS]) {
    if (p->env->slot[CEL_VAR_VARIABLES] < 0) return NULL;
    struct cel_lazy *l = cel_lazy_new(in->c->a, p->variables_type, run);
    for (size_t i = 0; i < p->n_variables; i++) {
        const struct expr *x = &p->variables[i];
        cel_lazy_add(
            l, x->name, x->prog,
            x->prog ? NULL
                    : arena_printf(in->c->a, "composited variable \"%s\" fails to compile: %s", x->name, x->error));
    }
    in->variables = l;
    expr_run_init(in, p->env, run, vars);
    return l;
}

bool policy_exempt(const struct rules_ctx *c) {
    if (c->no_extensions) return true;
    static const char *const own[] = {"validatingadmissionpolicies", "validatingadmissionpolicybindings",
                                      "mutatingadmissionpolicies", "mutatingadmissionpolicybindings", NULL};
    static const char *const reviews[] = {"tokenreviews",
                                          "selfsubjectreviews",
                                          "subjectaccessreviews",
                                          "localsubjectaccessreviews",
                                          "selfsubjectaccessreviews",
                                          "selfsubjectrulesreviews",
                                          NULL};
    if (str_in(str_or_empty(c->group), ONE_OF("authentication.k8s.io", "authorization.k8s.io")))
        return str_in(c->resource, reviews);
    return str_eq(c->group, ADMISSION_GROUP) && str_in(c->resource, own);
}
