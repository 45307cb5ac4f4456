/* Collecting what is wrong with an object. Validation goes on after a finding, so that a client sees all of
 * them at once; v_finish makes the 422 answer with a cause for each. The words follow the shape of upstream's
 * field.Error
 * ("spec.x: Invalid value: ..."), since people grep for them; the reasons and paths are contract. */
#include "apiserver/rules/rules.h"

enum { FINDINGS_MAX = 500, VALUE_SHOWN = 120 };

const char *fp_text(struct arena *a, const struct fp *p) {
    if (!p) return "";
    const char *up = fp_text(a, p->up);
    if (p->name) return *up ? arena_printf(a, "%s.%s", up, p->name) : p->name;
    if (p->key) return arena_printf(a, "%s[%s]", up, p->key);
    return arena_printf(a, "%s[%lld]", up, (long long)p->index);
}

static void add(struct vctx *v, const char *reason, const struct fp *p, const char *message) {
    if (v->n >= FINDINGS_MAX) return;
    ARENA_GROW(v->a, v->items, v->n, v->cap);
    v->items[v->n++] = (struct finding){reason, fp_text(v->a, p), message};
}

static const char *shown(struct arena *a, const struct json *value) {
    if (!value) return "\"\"";
    char *t = json_text(a, value);
    return strlen(t) > VALUE_SHOWN ? arena_printf(a, "%.*s...", VALUE_SHOWN, t) : t;
}

void v_required(struct vctx *v, const struct fp *p, const char *detail) {
    add(v, "FieldValueRequired", p,
        str_empty(detail) ? "Required value" : arena_printf(v->a, "Required value: %s", detail));
}

void v_invalid(struct vctx *v, const struct fp *p, const struct json *value, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *detail = arena_vprintf(v->a, fmt, ap);
    va_end(ap);
    add(v, "FieldValueInvalid", p, arena_printf(v->a, "Invalid value: %s: %s", shown(v->a, value), detail));
}

void v_invalid_whole(struct vctx *v, const struct fp *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *detail = arena_vprintf(v->a, fmt, ap);
    va_end(ap);
    add(v, "FieldValueInvalid", p, arena_printf(v->a, "Invalid value: %s", detail));
}

void v_forbidden(struct vctx *v, const struct fp *p, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *detail = arena_vprintf(v->a, fmt, ap);
    va_end(ap);
    add(v, "FieldValueForbidden", p, arena_printf(v->a, "Forbidden: %s", detail));
}

void v_duplicate(struct vctx *v, const struct fp *p, const struct json *value) {
    add(v, "FieldValueDuplicate", p, arena_printf(v->a, "Duplicate value: %s", shown(v->a, value)));
}

void v_not_found(struct vctx *v, const struct fp *p, const struct json *value) {
    add(v, "FieldValueNotFound", p, arena_printf(v->a, "Not found: %s", shown(v->a, value)));
}

void v_type_invalid(struct vctx *v, const struct fp *p, const struct json *value, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *detail = arena_vprintf(v->a, fmt, ap);
    va_end(ap);
    add(v, "FieldValueTypeInvalid", p, arena_printf(v->a, "Invalid value: %s: %s", shown(v->a, value), detail));
}

void v_internal(struct vctx *v, const struct fp *p, const char *detail) {
    add(v, "InternalError", p, arena_printf(v->a, "Internal error: %s", detail));
}

void v_too_long(struct vctx *v, const struct fp *p, size_t max) {
    add(v, "FieldValueTooLong", p, arena_printf(v->a, "Too long: may not be more than %zu bytes", max));
}

void v_too_many(struct vctx *v, const struct fp *p, size_t have, size_t max) {
    add(v, "FieldValueTooMany", p, arena_printf(v->a, "Too many: %zu: must have at most %zu items", have, max));
}

void v_not_supported(struct vctx *v, const struct fp *p, const struct json *value, const char *const *allowed) {
    _cleanup_buf_ struct buf b = {.limit = 4096};
    for (size_t i = 0; allowed[i]; i++) buf_printf(&b, "%s\"%s\"", i ? ", " : "", allowed[i]);
    add(v, "FieldValueNotSupported", p,
        arena_printf(v->a, "Unsupported value: %s: supported values: %s", shown(v->a, value),
                     b.data ? b.data : "none"));
}

bool str_in(const char *s, const char *const *list) {
    for (size_t i = 0; list[i]; i++)
        if (str_eq(s, list[i])) return true;
    return false;
}

void v_enum(struct vctx *v, const struct fp *p, const struct json *value, const char *const *allowed, bool required) {
    const char *s = str_or_empty(json_as_str(value));
    if (!*s && required)
        v_required(v, p, NULL);
    else if (json_is(value, JSON_STRING) && !str_in(s, allowed))
        v_not_supported(v, p, value, allowed);
}

void v_choice(struct vctx *v, const struct fp *p, const struct json *value, const char *const *allowed) {
    if (!value || value->type == JSON_NULL)
        v_required(v, p, NULL);
    else
        v_enum(v, p, value, allowed, false);
}

void v_min(struct vctx *v, const struct fp *up, const struct json *obj, const char *key, int64_t min) {
    const struct json *x = jget(obj, key);
    if (!json_is(x, JSON_INT) || x->i >= min) return;
    v_invalid(v, FP(up, key), x, "must be greater than or equal to %lld", (long long)min);
}

void v_range(struct vctx *v, const struct fp *up, const struct json *obj, const char *key, int64_t min, int64_t max) {
    const struct json *x = jget(obj, key);
    if (!json_is(x, JSON_INT) || (x->i >= min && x->i <= max)) return;
    v_invalid(v, FP(up, key), x, "must be between %lld and %lld, inclusive", (long long)min, (long long)max);
}

bool v_immutable(struct vctx *v, const struct fp *p, const struct json *now, const struct json *old) {
    if (jsame(now, old)) return true;
    v_invalid(v, p, now, "field is immutable");
    return false;
}

int v_finish(struct vctx *v, const char *name, struct err *e) {
    if (!v->n) return 0;
    _cleanup_buf_ struct buf b = {.limit = ERR_MSG_MAX};
    for (size_t i = 0; i < v->n && !b.failed; i++)
        buf_printf(&b, "%s%s: %s", i ? ", " : v->n > 1 ? "[" : "", v->items[i].field, v->items[i].message);
    const struct rules_ctx *c = v->c;
    err_status(e, 422, "Invalid", "%s%s%s \"%s\" is invalid: %s%s", c->kind, str_empty(c->group) ? "" : ".",
               str_or_empty(c->group), str_or_empty(name), str_or_empty(b.data), v->n > 1 ? "]" : "");
    err_details(e, c->group, c->kind, name);
    for (size_t i = 0; i < v->n; i++)
        err_cause_add(e, v->items[i].reason, v->items[i].field, "%s", v->items[i].message);
    return -EINVAL;
}

/* ---- comparing as Go's structs would ---- */

bool jempty(const struct json *v) {
    if (!v) return true;
    switch (v->type) {
        case JSON_NULL: return true;
        case JSON_BOOL: return !v->b;
        case JSON_INT: return v->i == 0;
        case JSON_NUMBER: return json_as_double(v, 0) == 0;
        case JSON_STRING: return v->n == 0;
        case JSON_ARRAY: return v->n == 0;
        case JSON_OBJECT: return v->n == 0;
    }
    return false;
}

static bool same_objects(const struct json *x, const struct json *y) {
    JSON_FOREACH_MEMBER(m, x)
        if (!jsame(m->value, json_get(y, m->key))) return false;
    JSON_FOREACH_MEMBER(m, y)
        if (!json_get(x, m->key) && !jsame(NULL, m->value)) return false;
    return true;
}

/* A pointer to zero and an absent pointer differ in Go and are told apart here for numbers, booleans, strings and structs (a
 * struct that is no pointer is there in both, as is a string): only lists and null count as empty. */
static bool absent_like(const struct json *v) {
    return !v || v->type == JSON_NULL || (v->type == JSON_ARRAY && v->n == 0);
}

bool jsame(const struct json *x, const struct json *y) {
    if (absent_like(x) || absent_like(y)) return absent_like(x) && absent_like(y);
    if (x->type == JSON_OBJECT && y->type == JSON_OBJECT) return same_objects(x, y);
    if (x->type == JSON_ARRAY && y->type == JSON_ARRAY) {
        if (x->n != y->n) return false;
        for (uint32_t i = 0; i < x->n; i++)
            if (!jsame(x->items[i], y->items[i])) return false;
        return true;
    }
    return json_equal(x, y);
}

bool has_key(const struct json *arr, const char *member, const char *value) {
    const struct json *it;
    JSON_FOREACH(it, arr)
        if (str_eq(json_get_str(it, member), value)) return true;
    return false;
}
