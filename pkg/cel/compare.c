/* Equality and order of values, their types and their texts.
 *
 * Numbers are equal and ordered by value across int, uint and double; NaN equals nothing. Values of unlike kinds are
 * not equal, which is no error. Lists that a schema declares as sets or maps compare without regard to order.
 * Upstream: cel-go's common/types (Equal, Compare), k8s.io/apiserver/pkg/cel/common/valuesunstructured.go. */
#include <math.h>

#include "pkg/cel/internal.h"

/* ---- numbers ---- */

static bool is_number(const struct cel_val *v) {
    return v->kind == CEL_INT || v->kind == CEL_UINT || v->kind == CEL_DOUBLE;
}

static int cmp_i64(int64_t x, int64_t y) { return x < y ? -1 : x > y; }
static int cmp_u64(uint64_t x, uint64_t y) { return x < y ? -1 : x > y; }
static int cmp_double(double x, double y) { return x < y ? -1 : x > y; }

/* Beyond 2^53 an integer is compared as the double next to it, as cel-go does. */
static int cmp_double_i64(double d, int64_t i) {
    if (d < -9223372036854775808.0) return -1;
    return d > 9223372036854775808.0 ? 1 : cmp_double(d, (double)i);
}
static int cmp_double_u64(double d, uint64_t u) {
    if (d < 0) return -1;
    return d > 18446744073709551616.0 ? 1 : cmp_double(d, (double)u);
}

static int cmp_numbers(const struct cel_val *x, const struct cel_val *y) {
    if (x->kind == CEL_DOUBLE && y->kind == CEL_DOUBLE) return cmp_double(x->d, y->d);
    if (x->kind == CEL_DOUBLE) return y->kind == CEL_INT ? cmp_double_i64(x->d, y->i) : cmp_double_u64(x->d, y->u);
    if (y->kind == CEL_DOUBLE) return -(x->kind == CEL_INT ? cmp_double_i64(y->d, x->i) : cmp_double_u64(y->d, x->u));
    if (x->kind == CEL_UINT && y->kind == CEL_UINT) return cmp_u64(x->u, y->u);
    if (x->kind == CEL_INT && y->kind == CEL_INT) return cmp_i64(x->i, y->i);
    if (x->kind == CEL_INT) return x->i < 0 ? -1 : cmp_u64((uint64_t)x->i, y->u);
    return y->i < 0 ? 1 : cmp_u64(x->u, (uint64_t)y->i);
}

static bool is_nan(const struct cel_val *v) { return v->kind == CEL_DOUBLE && isnan(v->d); }

static int cmp_bytes(const struct cel_val *x, const struct cel_val *y) {
    int c = memcmp(x->s, y->s, MIN_OF(x->n, y->n));
    return c ? (c < 0 ? -1 : 1) : cmp_u64(x->n, y->n);
}

bool val_compare(const struct cel_val *x, const struct cel_val *y, int *out, bool *unordered) {
    *unordered = false;
    if (is_number(x) && is_number(y)) {
        *unordered = is_nan(x) || is_nan(y);
        *out = *unordered ? 0 : cmp_numbers(x, y);
        return true;
    }
    if (x->kind != y->kind) return false;
    switch (x->kind) {
        case CEL_BOOL: *out = x->b - y->b; return true;
        case CEL_STRING:
        case CEL_BYTES: *out = cmp_bytes(x, y); return true;
        case CEL_DURATION: *out = cmp_i64(x->i, y->i); return true;
        case CEL_TIMESTAMP:
            *out = cmp_i64(x->i, y->i);
            if (!*out) *out = cmp_u64(x->n, y->n);
            return true;
        default: return false;
    }
}

/* ---- equality ---- */

/* Reading JSON may make timestamps and the like of strings: those come and go in an arena of the comparison. */
static bool equal(struct arena *a, const struct cel_val *x, const struct cel_val *y);

static bool list_has(struct arena *a, const struct cel_val *l, const struct cel_val *v) {
    for (size_t i = 0, n = list_len(l); i < n; i++) {
        struct cel_val e = list_at(a, l, i);
        if (equal(a, &e, v)) return true;
    }
    return false;
}

static enum cel_list_type list_kind(const struct cel_val *v) {
    return v->form == FORM_JSON && v->type ? (enum cel_list_type)v->type->list_type : CEL_LIST_ATOMIC;
}

static bool lists_equal(struct arena *a, const struct cel_val *x, const struct cel_val *y) {
    size_t n = list_len(x);
    if (n != list_len(y)) return false;
    bool any_order = list_kind(x) != CEL_LIST_ATOMIC;
    for (size_t i = 0; i < n; i++) {
        struct cel_val e = list_at(a, x, i), f = list_at(a, y, i);
        if (!equal(a, &e, &f) && !(any_order && list_has(a, y, &e))) return false;
    }
    return true;
}

static bool map_get_any(struct arena *a, const struct cel_val *m, const struct cel_val *key, struct cel_val *out) {
    if (m->form == FORM_BUILT) return map_get_val(m->map, key, out);
    struct ev E = {.a = a};
    return m->form == FORM_JSON && map_find(&E, m, key, out);
}

static bool maps_equal(struct arena *a, const struct cel_val *x, const struct cel_val *y) {
    if (x->form == FORM_LAZY || y->form == FORM_LAZY) return x->form == y->form && x->opaque == y->opaque;
    size_t n = map_len(x);
    if (n != map_len(y)) return false;
    for (size_t i = 0; i < n; i++) {
        struct cel_val k = map_key_at(a, x, i), v = map_val_at(a, x, i), w;
        if (!map_get_any(a, y, &k, &w)) {
            if (x->form == FORM_JSON && v.kind == CEL_NULL) continue;
            return false;
        }
        if (!equal(a, &v, &w)) return false;
    }
    return true;
}

static bool equal(struct arena *a, const struct cel_val *x, const struct cel_val *y) {
    int c;
    bool unordered;
    if (val_compare(x, y, &c, &unordered)) return !unordered && c == 0;
    if (x->kind != y->kind) {
        bool mappish = (x->kind == CEL_MAP || x->kind == CEL_OBJECT) && (y->kind == CEL_MAP || y->kind == CEL_OBJECT);
        return mappish && maps_equal(a, x, y);
    }
    switch (x->kind) {
        case CEL_NULL: return true;
        case CEL_LIST: return lists_equal(a, x, y);
        case CEL_MAP:
        case CEL_OBJECT: return maps_equal(a, x, y);
        case CEL_OPTIONAL: return !x->some == !y->some && (!x->some || equal(a, x->some, y->some));
        case CEL_TYPE: {
            const struct cel_type *t = x->t_value, *u = y->t_value;
            if (t->kind != u->kind) return false;
            return (t->kind != CEL_OBJECT && t->kind != CEL_OPAQUE) || strcmp(t->name, u->name) == 0;
        }
        case CEL_OPAQUE: return opaque_equal(x->opaque, y->opaque);
        default: return false;
    }
}

bool cel_equal(struct cel_val x, struct cel_val y) {
    if (x.kind == CEL_STRING && y.kind == CEL_STRING) return x.n == y.n && memcmp(x.s, y.s, x.n) == 0;
    if (x.kind == CEL_INT && y.kind == CEL_INT) return x.i == y.i;
    _cleanup_arena_ struct arena *a = arena_new();
    return equal(a, &x, &y);
}

bool val_is_zero(const struct cel_val *v) {
    switch (v->kind) {
        case CEL_NULL: return true;
        case CEL_BOOL: return !v->b;
        case CEL_INT:
        case CEL_UINT:
        case CEL_DURATION: return v->i == 0;
        case CEL_DOUBLE: return v->d == 0;
        case CEL_STRING:
        case CEL_BYTES: return v->n == 0;
        case CEL_LIST: return list_len(v) == 0;
        case CEL_MAP:
        case CEL_OBJECT: return map_len(v) == 0;
        case CEL_OPTIONAL: return !v->some;
        case CEL_TIMESTAMP: return v->i == 0 && v->n == 0;
        default: return false;
    }
}

/* ---- types and texts ---- */

const struct cel_type *type_of_val(const struct cel_val *v) {
    static const struct cel_type *const of[] = {
        [CEL_NULL] = &cel_t_null,    [CEL_BOOL] = &cel_t_bool,           [CEL_INT] = &cel_t_int,
        [CEL_UINT] = &cel_t_uint,    [CEL_DOUBLE] = &cel_t_double,       [CEL_STRING] = &cel_t_string,
        [CEL_BYTES] = &cel_t_bytes,  [CEL_TIMESTAMP] = &cel_t_timestamp, [CEL_DURATION] = &cel_t_duration,
        [CEL_LIST] = &type_list_dyn, [CEL_MAP] = &type_map_dyn,          [CEL_OPTIONAL] = &type_optional_dyn,
        [CEL_TYPE] = &cel_t_type,
    };
    if (v->kind == CEL_OBJECT) return v->type;
    if (v->kind == CEL_OPAQUE) return v->opaque->type;
    return v->kind < ARRAY_LEN(of) && of[v->kind] ? of[v->kind] : &cel_t_dyn;
}

const char *double_text(struct arena *a, double d) {
    if (isnan(d)) return "NaN";
    if (isinf(d)) return d > 0 ? "+Inf" : "-Inf";
    char digits[40];
    int precision = 1; /* the fewest digits that read back the same */
    for (; precision < 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*e", precision - 1, d);
        if (strtod(digits, NULL) == d) break;
    }
    snprintf(digits, sizeof(digits), "%.*e", precision - 1, d);
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (d == 0) return signbit(d) ? "-0" : "0";
    if (exponent < -4 || exponent >= 6) return arena_strdup(a, digits); /* two digits of exponent at least, as Go */
    return arena_printf(a, "%.*f", MAX_OF(precision - 1 - exponent, 0), d);
}

static const char *const simple_type_names[] = {
    [CEL_NULL] = "null_type",
    [CEL_TIMESTAMP] = "google.protobuf.Timestamp",
    [CEL_DURATION] = "google.protobuf.Duration",
    [CEL_LIST] = "list",
    [CEL_MAP] = "map",
    [CEL_OPTIONAL] = "optional_type",
    [CEL_TYPE] = "type",
};

const char *type_value_name(const struct cel_type *t) {
    return t->kind < ARRAY_LEN(simple_type_names) && simple_type_names[t->kind] ? simple_type_names[t->kind]
                                                                                : str_or_empty(t->name);
}

static void write_text(struct arena *a, struct buf *b, const struct cel_val *v, bool nested) {
    switch (v->kind) {
        case CEL_NULL: buf_adds(b, "null"); break;
        case CEL_BOOL: buf_adds(b, v->b ? "true" : "false"); break;
        case CEL_INT: buf_printf(b, "%lld", (long long)v->i); break;
        case CEL_UINT: buf_printf(b, "%llu%s", (unsigned long long)v->u, nested ? "u" : ""); break;
        case CEL_DOUBLE: buf_adds(b, double_text(a, v->d)); break;
        case CEL_STRING:
            if (nested)
                json_write_str(b, v->s, v->n);
            else
                buf_add(b, v->s, v->n);
            break;
        case CEL_BYTES:
            buf_adds(b, "b\"");
            for (uint32_t i = 0; i < v->n; i++) buf_printf(b, "\\x%02x", (unsigned char)v->s[i]);
            buf_addc(b, '"');
            break;
        case CEL_TIMESTAMP: buf_adds(b, time_text(a, v->i, v->n)); break;
        case CEL_DURATION: buf_adds(b, duration_text(a, v->i)); break;
        case CEL_LIST:
            buf_addc(b, '[');
            for (size_t i = 0; i < list_len(v); i++) {
                if (i) buf_adds(b, ", ");
                struct cel_val e = list_at(a, v, i);
                write_text(a, b, &e, true);
            }
            buf_addc(b, ']');
            break;
        case CEL_MAP:
        case CEL_OBJECT:
            buf_adds(b, v->kind == CEL_OBJECT ? arena_printf(a, "%s{", v->type->name) : "{");
            for (size_t i = 0; i < map_len(v); i++) {
                struct cel_val k = map_key_at(a, v, i), e = map_val_at(a, v, i);
                if (i) buf_adds(b, ", ");
                write_text(a, b, &k, v->kind == CEL_MAP);
                buf_adds(b, ": ");
                write_text(a, b, &e, true);
            }
            buf_addc(b, '}');
            break;
        case CEL_OPTIONAL:
            buf_adds(b, v->some ? "optional(" : "optional.none()");
            if (!v->some) break;
            write_text(a, b, v->some, true);
            buf_addc(b, ')');
            break;
        case CEL_TYPE: buf_adds(b, type_value_name(v->t_value)); break;
        case CEL_OPAQUE: buf_adds(b, opaque_text(a, v->opaque)); break;
        case CEL_ERR: buf_adds(b, v->s); break;
    }
}

const char *cel_val_text(struct arena *a, struct cel_val v) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    write_text(a, &b, &v, false);
    return arena_strndup(a, b.data ? b.data : "", b.len);
}
