/* The rules of a CustomResourceDefinition that is written: whether they are well formed and compile, and whether what
 * they may cost at most, times how often their place can occur in an object, stays within Kubernetes' limits.
 * Upstream: apiextensions-apiserver/pkg/apis/apiextensions/validation/{validation,cel_validation}.go. */
#include "apiserver/rules/crd_cel.h"

enum { MAX_DEPTH = 100, EXPENSIVE_MAX = 4, MAX_REQUEST = 3 << 20 };

struct checker {
    struct vctx *v;
    struct arena *a; /* of what is compiled: gone when the check ends */
    uint64_t total;
    struct {
        const char *path;
        uint64_t cost;
    } expensive[EXPENSIVE_MAX];
    size_t n_expensive;
};

/* Where a schema stands: how many there can be, and why oldSelf cannot be told. */
struct place {
    uint64_t count;
    bool unbounded;
    const char *uncorrelated;
};

static uint64_t times(uint64_t x, uint64_t y) {
    uint64_t r;
    return __builtin_mul_overflow(x, y, &r) ? UINT64_MAX : r;
}

static const char *over_budget(struct arena *a, const char *what, uint64_t cost, uint64_t limit) {
    double by = (double)cost / (double)limit;
    const char *factor = by > 100   ? "more than 100x"
                         : by < 1.5 ? arena_printf(a, "%fx", by)
                                    : arena_printf(a, "%.1fx", by);
    return arena_printf(
        a,
        "%s exceeds budget by factor of %s (try simplifying the rule, or adding maxItems, maxProperties, and "
        "maxLength where arrays, maps, and strings are declared)",
        what, factor);
}

static void observe(struct checker *c, const struct fp *p, uint64_t cost) {
    c->total = cost > UINT64_MAX - c->total ? UINT64_MAX : c->total + cost;
    if (cost < CEL_CRD_ESTIMATE_LIMIT / 100) return;
    size_t i = c->n_expensive;
    if (i == EXPENSIVE_MAX && c->expensive[i - 1].cost >= cost) return;
    if (i == EXPENSIVE_MAX)
        i--;
    else
        c->n_expensive++;
    for (; i > 0 && c->expensive[i - 1].cost < cost; i--) c->expensive[i] = c->expensive[i - 1];
    c->expensive[i].path = fp_text(c->v->a, p);
    c->expensive[i].cost = cost;
}

/* ---- form ---- */

static bool has_newline(const char *s) { return strpbrk(s, "\r\n") != NULL; }

void crd_cel_check_form(struct vctx *v, const struct json *schema, const struct json *rule, const struct fp *p) {
    const char *text = crd_cel_trim(v->a, jstr(rule, "rule")), *given = jstr(rule, "message"),
               *message = crd_cel_trim(v->a, given);
    const char *path = jstr(rule, "fieldPath"), *expr = jstr(rule, "messageExpression"), *reason = jstr(rule, "reason");
    static const char *const reasons[] = {"FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid",
                                          "FieldValueRequired", NULL};
    if (!*text)
        v_required(v, FP(p, "rule"), "rule is not specified");
    else if (*given && !*message)
        v_invalid(v, FP(p, "message"), json_get(rule, "message"), "must be non-empty if specified");
    else if (has_newline(message))
        v_invalid(v, FP(p, "message"), json_get(rule, "message"), "must not contain line breaks");
    else if (has_newline(text) && !*message)
        v_required(v, FP(p, "message"), "message must be specified if rule contains line breaks");
    if (*expr && !*crd_cel_trim(v->a, expr))
        v_required(v, FP(p, "messageExpression"), "messageExpression must be non-empty if specified");
    if (jget(rule, "reason") && !str_in(reason, reasons))
        v_not_supported(v, FP(p, "reason"), json_get(rule, "reason"), reasons);
    if (!*path) return;
    if (!*crd_cel_trim(v->a, path))
        v_invalid(v, FP(p, "fieldPath"), json_get(rule, "fieldPath"), "must be non-empty if specified");
    if (has_newline(path))
        v_invalid(v, FP(p, "fieldPath"), json_get(rule, "fieldPath"), "must not contain line breaks");
    if (!crd_cel_field_path(v->a, schema, path))
        v_invalid(v, FP(p, "fieldPath"), json_get(rule, "fieldPath"), "must be a valid path");
}

/* ---- meaning and cost ---- */

static void check_cost(struct checker *c, const struct cel_prog *prog, uint64_t count, const char *what,
                       const struct fp *p) {
    uint64_t cost = times(cel_prog_cost(prog).max, count);
    if (cost > CEL_EXPR_ESTIMATE_LIMIT)
        v_forbidden(c->v, p, "%s", over_budget(c->v->a, what, cost, CEL_EXPR_ESTIMATE_LIMIT));
    observe(c, p, cost);
}

static void check_rule(struct checker *c, const struct json *schema, const struct cel_type *type,
                       const struct json *rule, const struct fp *p, const struct place *at) {
    struct crd_rule r;
    crd_cel_compile_rule(c->a, type, schema, rule, &r);
    uint64_t count = at->unbounded ? MAX_REQUEST / (cel_type_min_size(type) + 1) : at->count;
    if (r.prog) check_cost(c, r.prog, count, "estimated rule cost", FP(p, "rule"));
    if (r.error) v_invalid(c->v, FP(p, "rule"), rule, "%s", r.error);
    if (r.message_error)
        v_invalid(c->v, FP(p, "messageExpression"), rule, "%s", r.message_error);
    else if (r.message_prog)
        check_cost(c, r.message_prog, 1, "estimated messageExpression cost", FP(p, "messageExpression"));
    if (r.uses_old && at->uncorrelated)
        v_invalid(c->v, FP(p, "rule"), json_get(rule, "rule"),
                  "oldSelf cannot be used on the uncorrelatable portion of the schema within %s", at->uncorrelated);
    else if (!r.uses_old && r.prog && json_get(rule, "optionalOldSelf"))
        v_invalid(c->v, FP(p, "optionalOldSelf"), json_get(rule, "optionalOldSelf"),
                  "may not be set if oldSelf is not used in rule");
}

/* ---- the walk ---- */

static struct place inside(const struct json *s, const struct place *at, bool items) {
    struct place in = *at;
    const struct json *max = json_get(s, items ? "maxItems" : "maxProperties");
    if (!max) in.unbounded = true;
    in.count = times(at->count, max ? (uint64_t)MAX_OF(json_as_int(max, 0), INT64_C(0)) : 1);
    return in;
}

static void walk(struct checker *c, const struct json *s, const struct cel_type *t, const struct fp *p, struct place at,
                 int depth) {
    const struct json *rules = json_get(s, "x-kubernetes-validations"), *items = json_get(s, "items"),
                      *more = json_get(s, "additionalProperties"), *it;
    if (!json_is(s, JSON_OBJECT) || depth > MAX_DEPTH) return;
    JSON_FOREACH_MEMBER(m, json_get(s, "properties")) {
        const char *name = cel_escape(c->a, m->key);
        const struct cel_type *ft = t && name ? cel_type_field(t, name)
                                    : t       ? cel_type_of_schema(c->a, m->value, "selfType", false)
                                              : NULL;
        walk(c, m->value, ft, FPK(FP(p, "properties"), m->key), at, depth + 1);
    }
    if (json_is(more, JSON_OBJECT)) {
        struct place values = inside(s, &at, false);
        walk(c, more, t ? cel_type_elem(t) : NULL, FP(p, "additionalProperties"), values, depth + 1);
    }
    if (items) {
        struct place each = inside(s, &at, true);
        if (!each.uncorrelated && !str_eq(json_get_str(s, "x-kubernetes-list-type"), "map"))
            each.uncorrelated = fp_text(c->v->a, p);
        walk(c, items, t ? cel_type_elem(t) : NULL, FP(p, "items"), each, depth + 1);
    }
    size_t before = c->v->n;
    JSON_FOREACH(it, rules) crd_cel_check_form(c->v, s, it, FPI(FP(p, "x-kubernetes-validations"), it_i));
    if (c->v->n > before) return;
    if (json_len(rules) && !t)
        v_internal(c->v, FP(p, "x-kubernetes-validations"), "failed to convert to declType for CEL validation rules");
    JSON_FOREACH(it, t ? rules : NULL) check_rule(c, s, t, it, FPI(FP(p, "x-kubernetes-validations"), it_i), &at);
}

void crd_cel_check(struct vctx *v, const struct json *schema, const struct fp *p) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct checker c = {.v = v, .a = a};
    walk(&c, schema, cel_type_of_schema(a, schema, "selfType", true), p, (struct place){.count = 1}, 0);
    if (c.total <= CEL_CRD_ESTIMATE_LIMIT) return;
    for (size_t i = 0; i < c.n_expensive; i++)
        v_forbidden(v, FP(NULL, c.expensive[i].path),
                    "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema");
    v_forbidden(v, p, "%s",
                over_budget(v->a, "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema",
                            c.total, CEL_CRD_ESTIMATE_LIMIT));
}
