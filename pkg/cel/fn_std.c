/* The standard operators and functions: arithmetic with overflow as an error, order, membership, sizes, text tests;
 * and optionals. Upstream: common/stdlib/standard.go, common/types/{int,uint,double,...}.go, cel/library.go. */
#include <math.h>

#include "pkg/cel/internal.h"

#define A0 (args[0])
#define A1 (args[1])

static struct cel_val overflow(struct ev *E, const struct cel_val *v) {
    return val_errf(E->a, "%s overflow", v->kind == CEL_UINT ? "unsigned integer" : "integer");
}

/* ---- arithmetic ---- */

static struct cel_val concat(struct ev *E, const struct cel_val *args) {
    size_t n = (size_t)A0.n + A1.n;
    if (n > CEL_MAX_STRING) return val_errf(E->a, "string is too long");
    char *s = arena_alloc(E->a, n + 1);
    memcpy(s, A0.s, A0.n);
    memcpy(s + A0.n, A1.s, A1.n);
    s[n] = 0;
    return A0.kind == CEL_STRING ? cel_strn(s, n) : val_bytes(s, n);
}

/* The place of the element of `l` that has the same keys as `v` (listType map) or is equal (set); SIZE_MAX: none. */
static size_t same_element(struct ev *E, const struct cel_type *t, const struct cel_val *l, size_t n,
                           const struct cel_val *v) {
    struct json *key;
    for (size_t i = 0; i < n; i++) {
        if (t->list_type == CEL_LIST_SET) {
            if (cel_equal(l[i], *v)) return i;
            continue;
        }
        bool same = l[i].kind == v->kind && (v->kind == CEL_OBJECT || v->kind == CEL_MAP);
        JSON_FOREACH(key, t->list_keys) {
            struct cel_val x, y;
            const char *name = cel_escape(E->a, str_or_empty(json_as_str(key)));
            bool hx = same && map_find_str(E, &l[i], str_or_empty(name), &x),
                 hy = same && map_find_str(E, v, str_or_empty(name), &y);
            same = same && hx == hy && (!hx || cel_equal(x, y));
        }
        if (same) return i;
    }
    return SIZE_MAX;
}

static struct cel_val concat_lists(struct ev *E, const struct cel_val *args) {
    size_t n = list_len(&A0), m = list_len(&A1), len = n;
    if (n + m > CEL_MAX_LIST) return val_errf(E->a, "list is too long");
    struct cel_val *v = arena_alloc(E->a, (n + m + 1) * sizeof(*v));
    const struct cel_type *t =
        A0.form == FORM_JSON && A0.type && A0.type->list_type != CEL_LIST_ATOMIC ? A0.type : NULL;
    for (size_t i = 0; i < n; i++) v[i] = list_at(E->a, &A0, i);
    for (size_t i = 0; i < m; i++) {
        struct cel_val e = list_at(E->a, &A1, i);
        size_t at = t ? same_element(E, t, v, n, &e) : SIZE_MAX;
        if (t && !ev_charge(E, n / 8)) break; /* such a merge compares everything with everything */
        v[at == SIZE_MAX ? len++ : at] = e;
    }
    return val_list(E->a, v, len);
}

static struct cel_val time_plus(struct ev *E, const struct cel_val *t, int64_t ns) {
    int64_t sec = t->i + ns / NS_PER_SEC, rest = (int64_t)t->n + ns % NS_PER_SEC;
    if (rest < 0) {
        rest += NS_PER_SEC;
        sec--;
    } else if (rest >= NS_PER_SEC) {
        rest -= NS_PER_SEC;
        sec++;
    }
    if (!time_in_range(sec)) return val_errf(E->a, "timestamp overflow");
    return val_time(sec, (uint32_t)rest);
}

static struct cel_val fn_add(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val r = A0;
    switch (A0.kind) {
        case CEL_INT: return __builtin_add_overflow(A0.i, A1.i, &r.i) ? overflow(E, &A0) : r;
        case CEL_UINT: return __builtin_add_overflow(A0.u, A1.u, &r.u) ? overflow(E, &A0) : r;
        case CEL_DOUBLE: return cel_double(A0.d + A1.d);
        case CEL_STRING:
        case CEL_BYTES: return concat(E, args);
        case CEL_TIMESTAMP: return time_plus(E, &A0, A1.i);
        case CEL_DURATION:
            if (A1.kind == CEL_TIMESTAMP) return time_plus(E, &A1, A0.i);
            return __builtin_add_overflow(A0.i, A1.i, &r.i) ? val_errf(E->a, "duration overflow") : r;
        default: return concat_lists(E, args);
    }
}

static struct cel_val time_minus(struct ev *E, const struct cel_val *args) {
    int64_t ns;
    if (A1.kind == CEL_TIMESTAMP) {
        if (__builtin_mul_overflow(A0.i - A1.i, NS_PER_SEC, &ns) ||
            __builtin_add_overflow(ns, (int64_t)A0.n - A1.n, &ns))
            return val_errf(E->a, "duration overflow");
        return val_duration(ns);
    }
    if (A1.i == INT64_MIN) return val_errf(E->a, "timestamp overflow");
    return time_plus(E, &A0, -A1.i);
}

static struct cel_val fn_sub(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val r = A0;
    switch (A0.kind) {
        case CEL_INT: return __builtin_sub_overflow(A0.i, A1.i, &r.i) ? overflow(E, &A0) : r;
        case CEL_UINT: return __builtin_sub_overflow(A0.u, A1.u, &r.u) ? overflow(E, &A0) : r;
        case CEL_DOUBLE: return cel_double(A0.d - A1.d);
        case CEL_TIMESTAMP: return time_minus(E, args);
        default: return __builtin_sub_overflow(A0.i, A1.i, &r.i) ? val_errf(E->a, "duration overflow") : r;
    }
}

static struct cel_val fn_mul(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val r = A0;
    if (A0.kind == CEL_DOUBLE) return cel_double(A0.d * A1.d);
    if (A0.kind == CEL_UINT) return __builtin_mul_overflow(A0.u, A1.u, &r.u) ? overflow(E, &A0) : r;
    return __builtin_mul_overflow(A0.i, A1.i, &r.i) ? overflow(E, &A0) : r;
}

static struct cel_val fn_div(struct ev *E, const struct cel_val *args, int n) {
    if (A0.kind == CEL_DOUBLE) return cel_double(A0.d / A1.d);
    if (A1.u == 0) return val_errf(E->a, "division by zero");
    if (A0.kind == CEL_UINT) return cel_uint(A0.u / A1.u);
    if (A0.i == INT64_MIN && A1.i == -1) return overflow(E, &A0);
    return cel_int(A0.i / A1.i);
}

static struct cel_val fn_mod(struct ev *E, const struct cel_val *args, int n) {
    if (A1.u == 0) return val_errf(E->a, "modulus by zero");
    if (A0.kind == CEL_UINT) return cel_uint(A0.u % A1.u);
    if (A0.i == INT64_MIN && A1.i == -1) return overflow(E, &A0);
    return cel_int(A0.i % A1.i);
}

static struct cel_val fn_neg(struct ev *E, const struct cel_val *args, int n) {
    if (A0.kind == CEL_DOUBLE) return cel_double(-A0.d);
    return A0.i == INT64_MIN ? overflow(E, &A0) : cel_int(-A0.i);
}

static struct cel_val fn_not(struct ev *E, const struct cel_val *args, int n) { return cel_bool(!A0.b); }

/* ---- order and membership ---- */

static struct cel_val order(struct ev *E, const char *fn, const struct cel_val *args, int low, int high) {
    int c;
    bool unordered;
    if (!val_compare(&A0, &A1, &c, &unordered)) return err_overload(E, fn, args, 2);
    if (unordered) return val_errf(E->a, "NaN values cannot be ordered");
    return cel_bool(c == low || c == high);
}
static struct cel_val fn_lt(struct ev *E, const struct cel_val *args, int n) { return order(E, FN_LT, args, -1, -1); }
static struct cel_val fn_le(struct ev *E, const struct cel_val *args, int n) { return order(E, FN_LE, args, -1, 0); }
static struct cel_val fn_gt(struct ev *E, const struct cel_val *args, int n) { return order(E, FN_GT, args, 1, 1); }
static struct cel_val fn_ge(struct ev *E, const struct cel_val *args, int n) { return order(E, FN_GE, args, 1, 0); }

static struct cel_val fn_in(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val v;
    if (A1.kind != CEL_LIST && A1.form == FORM_BUILT) return cel_bool(map_get_val(A1.map, &A0, &v));
    if (A1.kind != CEL_LIST) return cel_bool(map_find(E, &A1, &A0, &v));
    for (size_t i = 0, len = list_len(&A1); i < len; i++)
        if (cel_equal(list_at(E->a, &A1, i), A0)) return cel_bool(true);
    return cel_bool(false);
}

static struct cel_val fn_size(struct ev *E, const struct cel_val *args, int n) {
    return cel_int((int64_t)val_size(&A0));
}

/* ---- text ---- */

static struct cel_val fn_contains(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(memmem(A0.s, A0.n, A1.s, A1.n) != NULL);
}
static struct cel_val fn_starts(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(A0.n >= A1.n && memcmp(A0.s, A1.s, A1.n) == 0);
}
static struct cel_val fn_ends(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(A0.n >= A1.n && memcmp(A0.s + A0.n - A1.n, A1.s, A1.n) == 0);
}
static struct cel_val fn_matches(struct ev *E, const struct cel_val *args, int n) {
    const char *err = NULL;
    struct regex *r = regex_new(E->a, A1.s, A1.n, &err);
    if (!r) return val_errf(E->a, "error parsing regexp: %s", err);
    return cel_bool(regex_find(E->a, r, A0.s, A0.n, 0, NULL, NULL));
}

/* By itself (as the body of a fold) it is never called; see eval_fold.c. */
static struct cel_val fn_none(struct ev *E, const struct cel_val *args, int n) {
    return val_errf(E->a, "no such overload");
}

#define ORDER(fn, prefix, impl)                                                                                  \
    {fn, prefix "_bool", "bb>b", 0, OP_CALL, 0, impl}, {fn, prefix "_int64", "ii>b", 0, OP_CALL, 0, impl},       \
        {fn, prefix "_int64_double", "id>b", 0, OP_CALL, 0, impl},                                               \
        {fn, prefix "_int64_uint64", "iu>b", 0, OP_CALL, 0, impl},                                               \
        {fn, prefix "_uint64", "uu>b", 0, OP_CALL, 0, impl},                                                     \
        {fn, prefix "_uint64_double", "ud>b", 0, OP_CALL, 0, impl},                                              \
        {fn, prefix "_uint64_int64", "ui>b", 0, OP_CALL, 0, impl},                                               \
        {fn, prefix "_double", "dd>b", 0, OP_CALL, 0, impl},                                                     \
        {fn, prefix "_double_int64", "di>b", 0, OP_CALL, 0, impl},                                               \
        {fn, prefix "_double_uint64", "du>b", 0, OP_CALL, 0, impl},                                              \
        {fn, prefix "_string", "ss>b", 0, OP_CALL, 0, impl}, {fn, prefix "_bytes", "yy>b", 0, OP_CALL, 0, impl}, \
        {fn, prefix "_timestamp", "tt>b", 0, OP_CALL, 0, impl}, {                                                \
        fn, prefix "_duration", "ww>b", 0, OP_CALL, 0, impl                                                      \
    }

const struct cel_fn fns_std[] = {
    {FN_COND, "conditional", "bAA>A", 0, OP_COND, 0, fn_none},
    {FN_AND, "logical_and", "bb>b", 0, OP_AND, 0, fn_none},
    {FN_OR, "logical_or", "bb>b", 0, OP_OR, 0, fn_none},
    {FN_NOT, "logical_not", "b>b", 0, OP_CALL, 0, fn_not},
    {FN_NOT_FALSE, "not_strictly_false", "b>b", 0, OP_NOT_FALSE, 0, fn_none},
    {FN_EQ, "equals", "AA>b", 0, OP_EQ, 0, fn_none},
    {FN_NE, "not_equals", "AA>b", 0, OP_NE, 0, fn_none},
    {FN_ADD, "add_bytes", "yy>y", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_double", "dd>d", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_duration_duration", "ww>w", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_duration_timestamp", "wt>t", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_timestamp_duration", "tw>t", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_int64", "ii>i", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_list", "LALA>LA", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_string", "ss>s", 0, OP_CALL, 0, fn_add},
    {FN_ADD, "add_uint64", "uu>u", 0, OP_CALL, 0, fn_add},
    {FN_SUB, "subtract_double", "dd>d", 0, OP_CALL, 0, fn_sub},
    {FN_SUB, "subtract_duration_duration", "ww>w", 0, OP_CALL, 0, fn_sub},
    {FN_SUB, "subtract_int64", "ii>i", 0, OP_CALL, 0, fn_sub},
    {FN_SUB, "subtract_timestamp_duration", "tw>t", 0, OP_CALL, 0, fn_sub},
    {FN_SUB, "subtract_timestamp_timestamp", "tt>w", 0, OP_CALL, 0, fn_sub},
    {FN_SUB, "subtract_uint64", "uu>u", 0, OP_CALL, 0, fn_sub},
    {FN_MUL, "multiply_double", "dd>d", 0, OP_CALL, 0, fn_mul},
    {FN_MUL, "multiply_int64", "ii>i", 0, OP_CALL, 0, fn_mul},
    {FN_MUL, "multiply_uint64", "uu>u", 0, OP_CALL, 0, fn_mul},
    {FN_DIV, "divide_double", "dd>d", 0, OP_CALL, 0, fn_div},
    {FN_DIV, "divide_int64", "ii>i", 0, OP_CALL, 0, fn_div},
    {FN_DIV, "divide_uint64", "uu>u", 0, OP_CALL, 0, fn_div},
    {FN_MOD, "modulo_int64", "ii>i", 0, OP_CALL, 0, fn_mod},
    {FN_MOD, "modulo_uint64", "uu>u", 0, OP_CALL, 0, fn_mod},
    {FN_NEG, "negate_double", "d>d", 0, OP_CALL, 0, fn_neg},
    {FN_NEG, "negate_int64", "i>i", 0, OP_CALL, 0, fn_neg},
    ORDER(FN_LT, "less", fn_lt),
    ORDER(FN_LE, "less_equals", fn_le),
    ORDER(FN_GT, "greater", fn_gt),
    ORDER(FN_GE, "greater_equals", fn_ge),
    {FN_INDEX, "index_list", "LAi>A", 0, OP_INDEX, 0, fn_none},
    {FN_INDEX, "index_map", "MABA>B", 0, OP_INDEX, 0, fn_none},
    {FN_IN, "in_list", "ALA>b", 0, OP_CALL, 0, fn_in},
    {FN_IN, "in_map", "AMAB>b", 0, OP_CALL, 0, fn_in},
    {"size", "size_bytes", "y>i", 0, OP_CALL, 0, fn_size},
    {"size", "bytes_size", "y>i", 1, OP_CALL, 0, fn_size},
    {"size", "size_list", "LA>i", 0, OP_CALL, 0, fn_size},
    {"size", "list_size", "LA>i", 1, OP_CALL, 0, fn_size},
    {"size", "size_map", "MAB>i", 0, OP_CALL, 0, fn_size},
    {"size", "map_size", "MAB>i", 1, OP_CALL, 0, fn_size},
    {"size", "size_string", "s>i", 0, OP_CALL, 0, fn_size},
    {"size", "string_size", "s>i", 1, OP_CALL, 0, fn_size},
    {"contains", "contains_string", "ss>b", 1, OP_CALL, 0, fn_contains},
    {"startsWith", "starts_with_string", "ss>b", 1, OP_CALL, 0, fn_starts},
    {"endsWith", "ends_with_string", "ss>b", 1, OP_CALL, 0, fn_ends},
    {"matches", "matches", "ss>b", 0, OP_CALL, 0, fn_matches},
    {"matches", "matches_string", "ss>b", 1, OP_CALL, 0, fn_matches},
    {FN_MAP_INSERT, "@mapInsert_map_key_value", "MABAB>MAB", 0, OP_CALL, CEL_LIB_K8S, fn_none},
    {FN_MAP_INSERT, "@mapInsert_map_map", "MABMAB>MAB", 0, OP_CALL, CEL_LIB_K8S, fn_none},
    {NULL},
};

/* ---- optionals ---- */

static struct cel_val fn_opt_of(struct ev *E, const struct cel_val *args, int n) { return val_some(E->a, A0); }
static struct cel_val fn_opt_non_zero(struct ev *E, const struct cel_val *args, int n) {
    return val_is_zero(&A0) ? val_none() : val_some(E->a, A0);
}
static struct cel_val fn_opt_none(struct ev *E, const struct cel_val *args, int n) { return val_none(); }
static struct cel_val fn_opt_value(struct ev *E, const struct cel_val *args, int n) {
    return A0.some ? *A0.some : val_errf(E->a, "optional.none() dereference");
}
static struct cel_val fn_opt_has(struct ev *E, const struct cel_val *args, int n) { return cel_bool(A0.some != NULL); }

static struct cel_val fn_opt_unwrap(struct ev *E, const struct cel_val *args, int n) {
    size_t len = list_len(&A0), kept = 0;
    struct cel_val *v = arena_alloc(E->a, (len + 1) * sizeof(*v));
    for (size_t i = 0; i < len; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        if (e.kind != CEL_OPTIONAL) return val_errf(E->a, "value %s is not optional", cel_val_text(E->a, e));
        if (e.some) v[kept++] = *e.some;
    }
    return val_list(E->a, v, kept);
}
static struct cel_val fn_first(struct ev *E, const struct cel_val *args, int n) {
    return list_len(&A0) ? val_some(E->a, list_at(E->a, &A0, 0)) : val_none();
}
static struct cel_val fn_last(struct ev *E, const struct cel_val *args, int n) {
    size_t len = list_len(&A0);
    return len ? val_some(E->a, list_at(E->a, &A0, len - 1)) : val_none();
}

#define K8S CEL_LIB_K8S
const struct cel_fn fns_optional[] = {
    {"optional.of", "optional_of", "A>OA", 0, OP_CALL, K8S, fn_opt_of},
    {"optional.ofNonZeroValue", "optional_ofNonZeroValue", "A>OA", 0, OP_CALL, K8S, fn_opt_non_zero},
    {"optional.none", "optional_none", ">OA", 0, OP_CALL, K8S, fn_opt_none},
    {"value", "optional_value", "OA>A", 1, OP_CALL, K8S, fn_opt_value},
    {"hasValue", "optional_hasValue", "OA>b", 1, OP_CALL, K8S, fn_opt_has},
    {"or", "optional_or_optional", "OAOA>OA", 1, OP_OR_OPT, K8S, fn_none},
    {"orValue", "optional_orValue_value", "OAA>A", 1, OP_OR_VALUE, K8S, fn_none},
    {FN_OPT_INDEX, "list_optindex_optional_int", "LAi>OA", 0, OP_OPT_INDEX, K8S, fn_none},
    {FN_OPT_INDEX, "optional_list_optindex_optional_int", "OLAi>OA", 0, OP_OPT_INDEX, K8S, fn_none},
    {FN_OPT_INDEX, "map_optindex_optional_value", "MABA>OB", 0, OP_OPT_INDEX, K8S, fn_none},
    {FN_OPT_INDEX, "optional_map_optindex_optional_value", "OMABA>OB", 0, OP_OPT_INDEX, K8S, fn_none},
    {FN_INDEX, "optional_list_index_int", "OLAi>OA", 0, OP_INDEX, K8S, fn_none},
    {FN_INDEX, "optional_map_index_value", "OMABA>OB", 0, OP_INDEX, K8S, fn_none},
    {"optional.unwrap", "optional_unwrap", "LOA>LA", 0, OP_CALL, K8S, fn_opt_unwrap},
    {"unwrapOpt", "optional_unwrapOpt", "LOA>LA", 1, OP_CALL, K8S, fn_opt_unwrap},
    {"first", "list_first", "LA>OA", 1, OP_CALL, K8S, fn_first},
    {"last", "list_last", "LA>OA", 1, OP_CALL, K8S, fn_last},
    {NULL},
};
