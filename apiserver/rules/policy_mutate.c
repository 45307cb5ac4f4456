/* MutatingAdmissionPolicy. First it is found out which policies, bindings and parameters the write is about; then their
 * mutations are made in order, each on what those before have made. An ApplyConfiguration is an object that is merged into
 * the one at hand as a server-side apply would, without ownership; a JSONPatch is a list of operations. When something
 * changed, the chain of mutating plugins goes round once more, in which only policies with reinvocationPolicy IfNeeded are
 * asked again. Upstream: policy/mutating. */
#include "apiserver/rules/policy.h"
#include "apiserver/rules/schema.h"
#include "pkg/json/patch.h"

struct invocation {
    const struct policy *policy;
    const struct json *binding;
    struct rules_kind as;
    struct json *param;
    const char *key;
};

struct failure {
    const struct policy *policy;
    const struct json *binding;
    const char *message;
    bool invalid; /* the reason is Invalid, not Forbidden */
};

struct work {
    struct rules_ctx *c;
    struct json *obj;
    const struct json *old;
    struct invocation *items;
    size_t n, cap;
    struct failure *failures;
    size_t n_failures, cap_failures;
};

static const char *binding_name(const struct json *b) { return jstr(json_get(b, "metadata"), "name"); }

static void fail(struct work *w, const struct policy *p, const struct json *binding, bool invalid,
                 const char *message) {
    if (p->ignore) return;
    ARENA_GROW(w->c->a, w->failures, w->n_failures, w->cap_failures);
    w->failures[w->n_failures++] = (struct failure){p, binding, arena_strdup(w->c->a, message), invalid};
}

/* ---- what the write is about ---- */

static void collect_binding(struct work *w, const struct policy *p, const struct json *binding,
                            const struct rules_kind *as) {
    _cleanup_err_ struct err e = {0};
    struct arena *a = w->c->a;
    struct rules_kind ignored;
    struct json **params;
    const struct json *m = jget(json_get(binding, "spec"), "matchResources");
    size_t n;
    if (m && !admit_resources_match(w->c, m, w->obj, w->old, &ignored)) return;
    if (policy_params(w->c, p, binding, w->obj, w->old, &params, &n, &e)) {
        fail(w, p, binding, false, arena_printf(a, "failed to configure binding: %s", e.msg));
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const struct json *meta = json_get(params[i], "metadata");
        ARENA_GROW(a, w->items, w->n, w->cap);
        w->items[w->n++] = (struct invocation){p, binding, *as, params[i],
                                               arena_printf(a, "%s/%s/%s/%s", p->name, binding_name(binding),
                                                            jstr(meta, "namespace"), jstr(meta, "name"))};
    }
}

static void collect(struct work *w, const struct policy_set *s) {
    for (size_t i = 0; i < s->n; i++) {
        const struct policy *p = s->policies[i];
        _cleanup_err_ struct err e = {0};
        struct rules_kind as, params;
        bool has;
        if (!admit_resources_match(w->c, json_get(p->spec, "matchConstraints"), w->obj, w->old, &as)) continue;
        if (policy_param_kind(w->c, p, &params, &has, &e)) {
            fail(w, p, NULL, false, arena_printf(w->c->a, "failed to configure policy: %s", e.msg));
            continue;
        }
        for (size_t j = 0; j < p->n_bindings; j++) collect_binding(w, p, p->bindings[j], &as);
    }
}

/* ---- patches ---- */

/* Values that an apply would replace as a whole may not be in an apply configuration: too easily something gets lost. */
static void find_atomics(struct arena *a, struct schema s, const struct json *v, const char *path, struct buf *out) {
    const struct json *it;
    enum schema_kind kind = schema_kind(s, v);
    if (!json_is(v, JSON_OBJECT) && !json_is(v, JSON_ARRAY)) return;
    if (kind == SCHEMA_LEAF) buf_printf(out, "%s%s", out->len ? ", " : "", path);
    if (json_is(v, JSON_ARRAY)) {
        JSON_FOREACH(it, v) find_atomics(a, schema_item(s), it, arena_printf(a, "%s[%zu]", path, it_i), out);
        return;
    }
    JSON_FOREACH_MEMBER(m, v)
        find_atomics(a, schema_member(s, m->key, NULL), m->value, arena_printf(a, "%s.%s", path, m->key), out);
}

/* The declared type of a version: of the stored one or of the one that the view is in. */
static struct schema schema_of(struct rules_ctx *c, const struct admit_view *view) {
    const struct rules_kind *k = c->body_kind ? c->body_kind : &view->as;
    const struct api_type *t = api_type_find(k->group, k->version, k->kind);
    return t ? schema_of_type(t) : schema_root(c);
}

static int apply_configuration(struct rules_ctx *c, const struct admit_view *view, struct cel_val v, struct json **out,
                               struct err *e) {
    struct json *patch = NULL;
    _cleanup_buf_ struct buf atomics = BUF_INIT;
    int rc = cel_to_json(c->a, v, &patch, e);
    if (rc) return err_wrap(e, "type mismatch"), rc;
    json_set_str(c->a, patch, "kind", jstr(view->obj, "kind"));
    json_set_str(c->a, patch, "apiVersion", jstr(view->obj, "apiVersion"));
    struct schema s = schema_of(c, view);
    find_atomics(c->a, s, patch, "", &atomics);
    if (atomics.len)
        return err_set(
            e, -EINVAL,
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %s",
            atomics.data);
    *out = ssa_merge(c->a, s, view->obj, patch);
    return 0;
}

/* A test that fails leaves the object as it is. */
static int apply_json_patch(struct rules_ctx *c, const struct admit_view *view, struct cel_val v, struct json **out,
                            struct err *e) {
    struct json *patch = NULL;
    _cleanup_err_ struct err why = {0};
    int rc = cel_to_json(c->a, v, &patch, e);
    if (rc) return err_wrap(e, "JSONPath valueExpression evaluated to a type that could not marshal to JSON"), rc;
    rc = json_patch(c->a, view->obj, patch, out, &why);
    if (!rc) return 0;
    *out = view->obj;
    if (rc == -ENOENT && strstr(why.msg, "testing value")) return 0;
    return err_set(e, rc, "JSON Patch: %s", why.msg);
}

/* ---- one invocation ---- */

static int mutate_once(struct work *w, const struct invocation *x, const struct policy_mutation *m, bool *changed,
                       struct err *e) {
    struct rules_ctx *c = w->c;
    struct admit_view view;
    struct expr_input in;
    struct cel_run run;
    struct cel_val vars[EXPR_SLOTS], v;
    struct json *out = NULL;
    const char *why = NULL;
    int rc = admit_view_make(c, &x->as, w->obj, w->old, &view, e);
    if (rc) return rc;
    if (!m->expr.prog) return err_set(e, -EINVAL, "%s", m->expr.error);
    expr_input_init(&in, c, &view, w->obj, w->old, CEL_RUNTIME_BUDGET);
    in.params = x->param;
    policy_variables(x->policy, &in, &run, vars);
    if (expr_eval(&in, x->policy->env, &m->expr, &v, &why)) return err_set(e, -EINVAL, "%s", why);
    rc = m->json_patch ? apply_json_patch(c, &view, v, &out, e) : apply_configuration(c, &view, v, &out, e);
    return rc ? rc : admit_replace(c, out, w->obj, changed, e);
}

static void invoke(struct work *w, const struct invocation *x) {
    struct admit_rounds *r = w->c->rounds;
    struct arena *a = w->c->a;
    bool any = false;
    if (x->policy->n_conditions) {
        _cleanup_err_ struct err e = {0};
        struct admit_view view;
        struct expr_input in;
        const char *why = NULL;
        if (admit_view_make(w->c, &x->as, w->obj, w->old, &view, &e)) {
            fail(w, x->policy, x->binding, false, e.msg);
            return;
        }
        expr_input_init(&in, w->c, &view, w->obj, w->old, CEL_RUNTIME_BUDGET_MATCH);
        in.params = x->param;
        bool match = expr_conditions_match(&in, x->policy->match, x->policy->conditions, x->policy->n_conditions,
                                           x->policy->ignore, &why);
        if (why) fail(w, x->policy, x->binding, true, why);
        if (!match) return;
    }
    if (r->second && !reinvocation_wanted(&r->policies, x->key)) return;
    for (size_t i = 0; w->obj && i < x->policy->n_mutations; i++) {
        _cleanup_err_ struct err e = {0};
        bool changed = false;
        if (mutate_once(w, x, &x->policy->mutations[i], &changed, &e)) fail(w, x->policy, x->binding, true, e.msg);
        any |= changed;
    }
    if (any) {
        reinvocation_require(a, &r->policies);
        r->wanted = true;
    }
    if (str_eq(jstr(x->policy->spec, "reinvocationPolicy"), "IfNeeded")) reinvocation_add(a, &r->policies, x->key);
}

/* ---- the answer ---- */

static int refuse(struct work *w, struct err *e) {
    int rc = admission_forbid(w->c, w->obj ? w->obj : w->old, e, "admission request denied by policy");
    for (size_t i = 0; i < w->n_failures && e; i++) {
        const struct failure *f = &w->failures[i];
        const char *text = f->binding
                               ? arena_printf(w->c->a, "policy '%s' with binding '%s' denied request: %s",
                                              f->policy->name, binding_name(f->binding), f->message)
                               : arena_printf(w->c->a, "policy \"%s\" denied request: %s", f->policy->name, f->message);
        if (!i) snprintf(e->msg, sizeof(e->msg), "%s", text);
        if (!i && f->invalid) e->reason = "Invalid";
        err_cause_add(e, NULL, NULL, "%s", text);
    }
    return rc;
}

int policies_mutate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    struct admit_rounds *r = c->rounds;
    if (!r || policy_exempt(c)) return 0;
    _cleanup_policy_set_ struct policy_set *s = policy_set_get(c, SET_MUTATING_POLICIES);
    if (!s->n) return 0;
    struct work w = {.c = c, .obj = obj, .old = old};
    collect(&w, s);
    if (w.n && r->second && !json_equal(r->policies.last, obj)) reinvocation_require(c->a, &r->policies);
    for (size_t i = 0; i < w.n; i++) invoke(&w, &w.items[i]);
    if (w.n) r->policies.last = json_clone(c->a, obj);
    return w.n_failures ? refuse(&w, e) : 0;
}
