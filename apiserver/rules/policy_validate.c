/* ValidatingAdmissionPolicy. Every policy whose matchConstraints fit is evaluated for every binding that fits, once for
 * each of its parameters; what the binding's validationActions say happens to each validation that fails: the first
 * denial is the answer, others are warnings and audit annotations. Upstream: policy/validating. */
#include <ctype.h>

#include "apiserver/rules/policy.h"

enum { MESSAGE_MAX = 5 * 1024, ANNOTATION_MAX = 10 * 1024 };

struct denial {
    const struct policy *policy;
    const struct json *binding; /* NULL: of the policy itself */
    const char *message, *reason;
};

struct verdicts {
    struct rules_ctx *c;
    const struct json *obj, *old;
    struct denial first;
    bool denied;
    struct annotation {
        const char *key, *value;
    } * annotations; /* of the policy at hand */
    size_t n_annotations, cap_annotations;
};

static void deny(struct verdicts *v, const struct policy *p, const struct json *binding, const char *message,
                 const char *reason) {
    if (v->denied) return;
    v->denied = true;
    v->first = (struct denial){p, binding, arena_strdup(v->c->a, message), reason};
}

static void config_error(struct verdicts *v, const struct policy *p, const struct json *binding, const char *why) {
    if (p->ignore) return;
    deny(v, p, binding, arena_printf(v->c->a, "failed to configure %s: %s", binding ? "binding" : "policy", why), "");
}

static const char *binding_name(const struct json *b) { return jstr(json_get(b, "metadata"), "name"); }

/* ---- one validation that failed ---- */

static void audit_failure(struct verdicts *v, const struct policy *p, const struct json *binding, size_t index,
                          const char *message) {
    struct arena *a = v->c->a;
    struct json *list = json_array(a), *o = json_object(a);
    json_set_str(a, o, "message", message);
    json_set_str(a, o, "policy", p->name);
    json_set_str(a, o, "binding", binding_name(binding));
    json_set_int(a, o, "expressionIndex", (int64_t)index);
    json_set(a, o, "validationActions", json_clone(a, json_at(binding, "spec", "validationActions", NULL)));
    json_append(a, list, o);
    rules_annotate(v->c, "validation.policy.admission.k8s.io/validation_failure", "%s", json_text(a, list));
}

static void failed(struct verdicts *v, const struct policy *p, const struct json *binding, size_t index,
                   const char *message, const char *reason) {
    const struct json *it;
    JSON_FOREACH(it, json_at(binding, "spec", "validationActions", NULL)) {
        const char *action = str_or_empty(json_as_str(it));
        if (str_eq(action, "Deny"))
            deny(v, p, binding, message, reason);
        else if (str_eq(action, "Audit"))
            audit_failure(v, p, binding, index, message);
        else if (str_eq(action, "Warn"))
            rules_warn(v->c, "Validation failed for ValidatingAdmissionPolicy '%s' with binding '%s': %s", p->name,
                       binding_name(binding), message);
    }
}

static char *trim(struct arena *a, const char *s, size_t n) {
    while (n && isspace((unsigned char)*s)) s++, n--;
    while (n && isspace((unsigned char)s[n - 1])) n--;
    return arena_strndup(a, s, n);
}

/* The words for it: of messageExpression, else message, else the expression. *fatal: the budget is used up. */
static const char *message_of(struct verdicts *v, const struct policy *p, const struct policy_validation *pv,
                              struct expr_input *in, const char **fatal) {
    struct arena *a = v->c->a;
    struct cel_val m;
    const char *why = NULL, *text = "";
    if (pv->message.src) {
        int rc = expr_eval(in, p->message, &pv->message, &m, &why);
        if (rc == -E2BIG) *fatal = arena_printf(a, "failed messageExpression: %s", why);
        if (!rc && m.kind == CEL_STRING) text = trim(a, m.s, m.n);
        if (strlen(text) > MESSAGE_MAX || strchr(text, '\n')) text = "";
    }
    if (!*text) text = pv->text;
    if (!*text) text = arena_printf(a, "failed expression: %s", trim(a, pv->check.src, strlen(pv->check.src)));
    return text;
}

/* ---- audit annotations ---- */

static void annotate(struct verdicts *v, const char *key, const char *value) {
    for (size_t i = 0; i < v->n_annotations; i++)
        if (str_eq(v->annotations[i].key, key) && str_eq(v->annotations[i].value, value)) return;
    ARENA_GROW(v->c->a, v->annotations, v->n_annotations, v->cap_annotations);
    v->annotations[v->n_annotations++] = (struct annotation){key, value};
}

/* Different values of one key are one annotation. */
static void publish(struct verdicts *v, const struct policy *p) {
    struct arena *a = v->c->a;
    for (size_t i = 0; i < v->n_annotations; i++) {
        const char *value = v->annotations[i].value;
        if (!value) continue;
        for (size_t j = i + 1; j < v->n_annotations; j++) {
            if (!v->annotations[j].value || !str_eq(v->annotations[i].key, v->annotations[j].key)) continue;
            value = arena_printf(a, "%s, %s", value, v->annotations[j].value);
            v->annotations[j].value = NULL;
        }
        rules_annotate(v->c, arena_printf(a, "%s/%s", p->name, v->annotations[i].key), "%s", value);
    }
    v->n_annotations = 0;
}

static void eval_annotations(struct verdicts *v, const struct policy *p, const struct json *binding,
                             struct expr_input *in) {
    for (size_t i = 0; i < p->n_annotations; i++) {
        struct cel_val r;
        const char *why = NULL;
        int rc = expr_eval(in, p->env, &p->annotations[i], &r, &why);
        if (rc == -E2BIG) {
            if (!p->ignore) failed(v, p, binding, 0, why, "");
            return;
        }
        if (rc) {
            if (!p->ignore) deny(v, p, binding, why, "");
        } else if (r.kind == CEL_STRING) {
            char *text = trim(v->c->a, r.s, r.n);
            if (strlen(text) > ANNOTATION_MAX) text[ANNOTATION_MAX] = 0;
            if (*text) annotate(v, p->annotations[i].name, text);
        }
    }
}

/* ---- one evaluation ---- */

static void eval_validations(struct verdicts *v, const struct policy *p, const struct json *binding,
                             struct expr_input *in) {
    for (size_t i = 0; i < p->n_validations; i++) {
        const struct policy_validation *pv = &p->validations[i];
        struct cel_val r;
        const char *why = NULL, *fatal = NULL;
        int rc = expr_eval(in, p->env, &pv->check, &r, &why);
        if (rc) {
            if (!p->ignore) failed(v, p, binding, rc == -E2BIG ? 0 : i, why, "");
            if (rc == -E2BIG) return;
            continue;
        }
        if (r.kind == CEL_BOOL && r.b) continue;
        const char *message = message_of(v, p, pv, in, &fatal);
        if (fatal && p->ignore) continue;
        failed(v, p, binding, i, fatal ? fatal : message, fatal ? "" : pv->reason);
    }
}

static void eval_one(struct verdicts *v, const struct policy *p, const struct json *binding,
                     const struct admit_view *view, struct json *param) {
    struct expr_input in;
    struct cel_run run;
    struct cel_val vars[EXPR_SLOTS];
    const char *why = NULL;
    if (p->n_conditions) {
        expr_input_init(&in, v->c, view, v->obj, v->old, CEL_RUNTIME_BUDGET_MATCH);
        in.params = param;
        bool match = expr_conditions_match(&in, p->match, p->conditions, p->n_conditions, p->ignore, &why);
        if (why) failed(v, p, binding, 0, why, "");
        if (!match) return;
    }
    expr_input_init(&in, v->c, view, v->obj, v->old, CEL_RUNTIME_BUDGET);
    in.params = param;
    policy_variables(p, &in, &run, vars);
    eval_validations(v, p, binding, &in);
    if (!p->n_annotations) return;
    in.budget = CEL_RUNTIME_BUDGET;
    eval_annotations(v, p, binding, &in);
}

static void eval_binding(struct verdicts *v, const struct policy *p, const struct json *binding,
                         const struct rules_kind *as, struct admit_view *view) {
    _cleanup_err_ struct err e = {0};
    struct rules_kind ignored;
    struct json **params;
    const struct json *m = jget(json_get(binding, "spec"), "matchResources");
    size_t n;
    if (m && !admit_resources_match(v->c, m, v->obj, v->old, &ignored)) return;
    int rc = policy_params(v->c, p, binding, v->obj, v->old, &params, &n, &e);
    if (!rc && n && !view->as.kind && (rc = admit_view_make(v->c, as, v->obj, v->old, view, &e)))
        err_wrap(&e, "failed to convert object version");
    if (rc) config_error(v, p, binding, e.msg);
    for (size_t i = 0; i < n && !rc; i++) eval_one(v, p, binding, view, params[i]);
}

/* ---- the answer ---- */

static int refuse(struct verdicts *v, const struct json *any, struct err *e) {
    static const struct {
        const char *reason;
        int code;
    } reasons[] = {{"Invalid", 422}, {"Forbidden", 403}, {"Unauthorized", 401}, {"RequestEntityTooLarge", 413}};
    const struct denial *d = &v->first;
    const char *with = d->binding ? arena_printf(v->c->a, " with binding '%s'", binding_name(d->binding)) : "";
    const char *message =
        arena_printf(v->c->a, "ValidatingAdmissionPolicy '%s'%s denied request: %s", d->policy->name, with, d->message);
    int rc = admission_forbid(v->c, any, e, "%s", message);
    err_cause_add(e, NULL, NULL, "%s", message);
    e->status = reasons[0].code;
    e->reason = reasons[0].reason;
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (str_eq(reasons[i].reason, d->reason)) {
            e->status = reasons[i].code;
            e->reason = reasons[i].reason;
        }
    return rc;
}

int policies_validate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (policy_exempt(c)) return 0;
    _cleanup_policy_set_ struct policy_set *s = policy_set_get(c, SET_VALIDATING_POLICIES);
    struct verdicts v = {.c = c, .obj = obj, .old = old};
    for (size_t i = 0; i < s->n; i++) {
        const struct policy *p = s->policies[i];
        struct admit_view view = {0};
        struct rules_kind as;
        if (!admit_resources_match(c, json_get(p->spec, "matchConstraints"), obj, old, &as)) continue;
        _cleanup_err_ struct err why = {0};
        struct rules_kind params;
        bool has;
        if (policy_param_kind(c, p, &params, &has, &why)) {
            config_error(&v, p, NULL, why.msg);
            continue;
        }
        for (size_t j = 0; j < p->n_bindings; j++) eval_binding(&v, p, p->bindings[j], &as, &view);
        publish(&v, p);
    }
    return v.denied ? refuse(&v, obj ? obj : old, e) : 0;
}
