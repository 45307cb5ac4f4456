#include "apiserver/rules/expr.h"

#include "apiserver/auth/authn.h"

/* ---- compiling ---- */

static const char *wrong_type(struct arena *a, const char *const *types, const char *got) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (!types[1]) return arena_printf(a, "must evaluate to %s but got %s", types[0], got);
    for (size_t i = 0; types[i]; i++) buf_printf(&b, "%s%s", i ? " " : "", types[i]);
    return arena_printf(a, "must evaluate to one of [%s] but got %s", b.data, got);
}

struct expr expr_compile(struct arena *a, const struct cel_policy_env *env, const char *name, const char *src,
                         const char *const *types) {
    struct expr x = {.name = name, .src = src};
    const char *issues = NULL;
    if (cel_compile(a, env->env, src, &x.prog, &issues)) {
        x.prog = NULL;
        x.error = arena_printf(a, "compilation failed: %s", str_or_empty(issues));
        return x;
    }
    const char *got = cel_type_text(a, cel_prog_type(x.prog));
    if (types && !str_in(got, types)) {
        x.prog = NULL;
        x.error = wrong_type(a, types, got);
    }
    return x;
}

/* ---- evaluating ---- */

/* Parts of the namespace that expressions may see. */
static struct json *namespace_of(struct rules_ctx *c, const struct json *obj, const struct json *old) {
    static const char *const hidden[] = {"managedFields", "ownerReferences", "selfLink", NULL};
    const char *ns = admit_namespace(c, obj, old);
    if (!*ns || (str_empty(c->group) && str_eq(c->resource, "namespaces"))) return NULL;
    const struct json *have = admission_get(c, "", "namespaces", NULL, ns);
    if (!have) return NULL;
    struct json *out = json_object(c->a), *meta = json_object(c->a);
    json_set(c->a, out, "metadata", meta);
    JSON_FOREACH_MEMBER(m, json_get(have, "metadata"))
        if (!str_in(m->key, hidden)) json_set(c->a, meta, m->key, m->value);
    static const char *const rest[] = {"spec", "status"};
    for (size_t i = 0; i < ARRAY_LEN(rest); i++)
        if (json_get(have, rest[i])) json_set(c->a, out, rest[i], json_get(have, rest[i]));
    return out;
}

void expr_input_init(struct expr_input *in, struct rules_ctx *c, const struct admit_view *view, const struct json *obj,
                     const struct json *old, uint64_t budget) {
    *in = (struct expr_input){.c = c, .view = view, .budget = (int64_t)budget};
    in->request = admit_request(c, &view->as, obj, old, NULL);
    in->ns = namespace_of(c, obj, old);
}

static void authorize(void *arg, struct arena *a, const struct cel_authz *ask, struct cel_decision *out) {
    struct rules_ctx *c = arg;
    const struct rules_lookup *l = &c->rules->lookup;
    struct user_info sa = {.uid = ""},
                     self = {.name = c->user, .uid = "", .groups = (const char **)c->groups, .n_groups = c->n_groups};
    const struct user_info *who = c->who ? c->who : &self;
    const char *reason = NULL;
    *out = (struct cel_decision){.reason = ""};
    if (ask->sa_name) {
        sa.name = arena_printf(a, "system:serviceaccount:%s:%s", ask->sa_ns, ask->sa_name);
        sa.groups = arena_alloc(a, 3 * sizeof(*sa.groups));
        sa.groups[sa.n_groups++] = "system:serviceaccounts";
        sa.groups[sa.n_groups++] = arena_printf(a, "system:serviceaccounts:%s", ask->sa_ns);
        sa.groups[sa.n_groups++] = "system:authenticated";
        who = &sa;
    }
    struct rules_ask q = {.path = ask->path,
                          .verb = ask->verb,
                          .group = ask->group,
                          .resource = ask->resource,
                          .subresource = ask->subresource,
                          .ns = ask->ns,
                          .name = ask->name,
                          .field_selector = ask->field_selector,
                          .label_selector = ask->label_selector};
    if (!l->authorize) {
        out->error = "no authorizer";
        return;
    }
    out->allowed = l->authorize(l->arg, a, who, &q, &reason);
    out->reason = str_or_empty(reason);
}

void expr_run_init(struct expr_input *in, const struct cel_policy_env *env, struct cel_run *run,
                   struct cel_val vars[EXPR_SLOTS]) {
    struct rules_ctx *c = in->c;
    struct arena *a = c->a;
    struct rules_kind asked = admit_requested(c);
    struct cel_authz of = {.verb = "",
                           .group = asked.group,
                           .resource = asked.resource,
                           .subresource = str_or_empty(c->subresource),
                           .ns = admit_namespace(c, in->view->obj, in->view->old),
                           .name = admit_name(c, in->view->obj, in->view->old),
                           .field_selector = "",
                           .label_selector = ""};
    struct cel_val values[CEL_VARS] = {
        [CEL_VAR_OBJECT] = cel_json(a, in->view->obj, NULL),
        [CEL_VAR_OLD] = cel_json(a, in->view->old, NULL),
        [CEL_VAR_NAMESPACE] = cel_json(a, in->ns, NULL),
        [CEL_VAR_REQUEST] = cel_json(a, in->request, NULL),
        [CEL_VAR_PARAMS] = cel_json(a, in->params, NULL),
        [CEL_VAR_AUTHORIZER] = cel_authorizer(a),
        [CEL_VAR_RESOURCE] = cel_authorizer_resource(a, &of),
        [CEL_VAR_VARIABLES] = in->variables ? cel_lazy_value(in->variables) : cel_null(),
    };
    *run = (struct cel_run){.arena = a, .vars = vars, .n_vars = EXPR_SLOTS, .authorize = authorize, .authorize_arg = c};
    for (size_t i = 0; i < CEL_VARS; i++)
        if (env->slot[i] >= 0) vars[env->slot[i]] = values[i];
}

static const char out_of_budget[] =
    "validation failed due to running out of cost budget, no further validation rules will be run";

int expr_eval(struct expr_input *in, const struct cel_policy_env *env, const struct expr *x, struct cel_val *out,
              const char **why) {
    struct cel_val vars[EXPR_SLOTS];
    struct cel_run run;
    *out = cel_null();
    if (!x->prog) {
        *why = arena_printf(in->c->a, "compilation error: %s", str_or_empty(x->error));
        return -EINVAL;
    }
    expr_run_init(in, env, &run, vars);
    int rc = cel_eval(x->prog, &run, out);
    uint64_t spent = run.cost + (in->variables ? cel_lazy_take_cost(in->variables) : 0);
    if (spent > (uint64_t)in->budget) {
        *why = out_of_budget;
        return -E2BIG;
    }
    in->budget -= (int64_t)spent;
    if (!rc) return 0;
    *why = arena_printf(in->c->a, "expression '%s' resulted in error: %s", x->src, out->s);
    return -EINVAL;
}

bool expr_conditions_match(struct expr_input *in, const struct cel_policy_env *env, const struct expr *list, size_t n,
                           bool ignore, const char **why) {
    const char *errors = NULL;
    size_t failed = 0;
    *why = NULL;
    for (size_t i = 0; i < n; i++) {
        struct cel_val v;
        const char *text = NULL;
        int rc = expr_eval(in, env, &list[i], &v, &text);
        if (!rc && v.kind == CEL_BOOL && !v.b) return false;
        if (!rc) continue;
        errors = failed++ && rc != -E2BIG ? arena_printf(in->c->a, "%s, %s", errors, text) : text;
        if (rc == -E2BIG) {
            failed = 1;
            break;
        }
    }
    if (!failed) return true;
    if (!ignore) *why = failed > 1 ? arena_printf(in->c->a, "[%s]", errors) : errors;
    return false;
}
