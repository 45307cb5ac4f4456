/* Functions on lists: Kubernetes' lists library (isSorted, sum, min, max, indexOf, lastIndexOf), cel-go's (slice,
 * flatten, range, distinct, reverse, sort) and sets. Upstream: k8s.io/apiserver/pkg/cel/library/lists.go,
 * ext/lists.go, ext/sets.go. */
#include "pkg/cel/internal.h"

#define A0 (args[0])
#define A1 (args[1])

/* < 0, 0, > 0; values that cannot be compared set *err. */
static int compare(struct ev *E, const struct cel_val *x, const struct cel_val *y, struct cel_val *err) {
    int c = 0;
    bool unordered;
    if (!val_compare(x, y, &c, &unordered))
        *err = val_errf(E->a, "no such overload");
    else if (unordered)
        *err = val_errf(E->a, "NaN values cannot be ordered");
    return c;
}

static struct cel_val fn_is_sorted(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val before = cel_null(), err = cel_null();
    for (size_t i = 0, len = list_len(&A0); i < len; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        if (i && compare(E, &before, &e, &err) > 0) return cel_bool(false);
        if (is_err(&err)) return err;
        before = e;
    }
    return cel_bool(true);
}

static struct cel_val sum(struct ev *E, const struct cel_val *args, struct cel_val zero) {
    struct cel_val acc = zero;
    for (size_t i = 0, len = list_len(&A0); i < len; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        bool over = false;
        if (i == 0 && zero.kind == CEL_INT && e.kind != CEL_INT)
            acc = (struct cel_val){.kind = e.kind}; /* of a dyn list */
        if (e.kind != acc.kind) return val_errf(E->a, "no such overload");
        switch (e.kind) {
            case CEL_INT:
            case CEL_DURATION: over = __builtin_add_overflow(acc.i, e.i, &acc.i); break;
            case CEL_UINT: over = __builtin_add_overflow(acc.u, e.u, &acc.u); break;
            case CEL_DOUBLE: acc.d += e.d; break;
            default: return val_errf(E->a, "no such overload");
        }
        if (over)
            return val_errf(E->a, "%s overflow",
                            e.kind == CEL_UINT  ? "unsigned integer"
                            : e.kind == CEL_INT ? "integer"
                                                : "duration");
    }
    return acc;
}
static struct cel_val fn_sum_int(struct ev *E, const struct cel_val *args, int n) { return sum(E, args, cel_int(0)); }
static struct cel_val fn_sum_uint(struct ev *E, const struct cel_val *args, int n) { return sum(E, args, cel_uint(0)); }
static struct cel_val fn_sum_double(struct ev *E, const struct cel_val *args, int n) {
    return sum(E, args, cel_double(0));
}
static struct cel_val fn_sum_duration(struct ev *E, const struct cel_val *args, int n) {
    return sum(E, args, val_duration(0));
}

static struct cel_val extreme(struct ev *E, const struct cel_val *args, const char *fn, int wanted) {
    size_t len = list_len(&A0);
    if (len == 0) return val_errf(E->a, "%s called on empty list", fn);
    struct cel_val best = list_at(E->a, &A0, 0), err = cel_null();
    for (size_t i = 1; i < len; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        int c = compare(E, &e, &best, &err);
        if (is_err(&err)) return err;
        if ((c < 0 ? -1 : c > 0) == wanted) best = e;
    }
    return best;
}
static struct cel_val fn_min(struct ev *E, const struct cel_val *args, int n) { return extreme(E, args, "min", -1); }
static struct cel_val fn_max(struct ev *E, const struct cel_val *args, int n) { return extreme(E, args, "max", 1); }

static struct cel_val fn_index_of(struct ev *E, const struct cel_val *args, int n) {
    for (size_t i = 0, len = list_len(&A0); i < len; i++)
        if (cel_equal(list_at(E->a, &A0, i), A1)) return cel_int((int64_t)i);
    return cel_int(-1);
}
static struct cel_val fn_last_index_of(struct ev *E, const struct cel_val *args, int n) {
    for (size_t i = list_len(&A0); i > 0; i--)
        if (cel_equal(list_at(E->a, &A0, i - 1), A1)) return cel_int((int64_t)i - 1);
    return cel_int(-1);
}

/* ---- cel-go's ---- */

static struct cel_val fn_slice(struct ev *E, const struct cel_val *args, int n) {
    long long from = A1.i, to = args[2].i, len = (long long)list_len(&A0);
    if (from < 0 || to < 0) return val_errf(E->a, "cannot slice(%lld, %lld), negative indexes not supported", from, to);
    if (from > to)
        return val_errf(E->a, "cannot slice(%lld, %lld), start index must be less than or equal to end index", from,
                        to);
    if (len < to) return val_errf(E->a, "cannot slice(%lld, %lld), list is length %lld", from, to, len);
    struct cel_val *v = arena_alloc(E->a, (size_t)(to - from + 1) * sizeof(*v));
    for (long long i = from; i < to; i++) v[i - from] = list_at(E->a, &A0, (size_t)i);
    return val_list(E->a, v, (size_t)(to - from));
}

struct items {
    struct cel_val *v;
    size_t n, cap;
};

static bool flatten(struct ev *E, const struct cel_val *l, int64_t depth, struct items *out) {
    for (size_t i = 0, len = list_len(l); i < len; i++) {
        struct cel_val e = list_at(E->a, l, i);
        if (e.kind == CEL_LIST && depth > 0) {
            if (!flatten(E, &e, depth - 1, out)) return false;
            continue;
        }
        if (out->n >= CEL_MAX_LIST) return false;
        ARENA_GROW(E->a, out->v, out->n, out->cap);
        out->v[out->n++] = e;
    }
    return true;
}

static struct cel_val fn_flatten(struct ev *E, const struct cel_val *args, int n) {
    struct items out = {0};
    int64_t depth = n > 1 ? A1.i : 1;
    if (depth < 0) return val_errf(E->a, "level must be non-negative");
    if (!flatten(E, &A0, depth, &out)) return val_errf(E->a, "list is too long");
    return val_list(E->a, out.v, out.n);
}

static struct cel_val fn_range(struct ev *E, const struct cel_val *args, int n) {
    if (A0.i > CEL_MAX_LIST) return val_errf(E->a, "list is too long");
    size_t len = A0.i > 0 ? (size_t)A0.i : 0;
    struct cel_val *v = arena_alloc(E->a, (len + 1) * sizeof(*v));
    for (size_t i = 0; i < len; i++) v[i] = cel_int((int64_t)i);
    return val_list(E->a, v, len);
}

static struct cel_val fn_distinct(struct ev *E, const struct cel_val *args, int n) {
    size_t len = list_len(&A0), kept = 0;
    struct cel_val *v = arena_alloc(E->a, (len + 1) * sizeof(*v));
    for (size_t i = 0; i < len; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        bool seen = false;
        if (!ev_charge(E, kept / 8)) break;
        for (size_t k = 0; k < kept && !seen; k++) seen = cel_equal(v[k], e);
        if (!seen) v[kept++] = e;
    }
    return val_list(E->a, v, kept);
}

static struct cel_val fn_reverse(struct ev *E, const struct cel_val *args, int n) {
    size_t len = list_len(&A0);
    struct cel_val *v = arena_alloc(E->a, (len + 1) * sizeof(*v));
    for (size_t i = 0; i < len; i++) v[i] = list_at(E->a, &A0, len - 1 - i);
    return val_list(E->a, v, len);
}

struct keyed {
    struct cel_val key, value;
};

static int by_key(const void *x, const void *y) {
    int c;
    bool unordered;
    return val_compare(&((const struct keyed *)x)->key, &((const struct keyed *)y)->key, &c, &unordered) ? c : 0;
}

static struct cel_val sort_by(struct ev *E, const struct cel_val *l, const struct cel_val *keys) {
    size_t len = list_len(l);
    if (len != list_len(keys))
        return val_errf(E->a,
                        "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but "
                        "got %zu and %zu elements respectively",
                        len, list_len(keys));
    struct keyed *k = arena_alloc(E->a, (len + 1) * sizeof(*k));
    struct cel_val *v = arena_alloc(E->a, (len + 1) * sizeof(*v)), err = cel_null();
    for (size_t i = 0; i < len; i++) {
        k[i] = (struct keyed){list_at(E->a, keys, i), list_at(E->a, l, i)};
        if (k[i].key.kind != k[0].key.kind) return val_errf(E->a, "list elements must have the same type");
        compare(E, &k[i].key, &k[0].key, &err);
        if (is_err(&err)) return val_errf(E->a, "list elements must be comparable");
    }
    qsort(k, len, sizeof(*k), by_key);
    for (size_t i = 0; i < len; i++) v[i] = k[i].value;
    return val_list(E->a, v, len);
}
static struct cel_val fn_sort(struct ev *E, const struct cel_val *args, int n) { return sort_by(E, &A0, &A0); }
static struct cel_val fn_sort_by(struct ev *E, const struct cel_val *args, int n) { return sort_by(E, &A0, &A1); }

/* ---- sets ---- */

static bool has(struct ev *E, const struct cel_val *l, const struct cel_val *v) {
    for (size_t i = 0, len = list_len(l); i < len; i++)
        if (cel_equal(list_at(E->a, l, i), *v)) return true;
    return false;
}

static bool contains_all(struct ev *E, const struct cel_val *l, const struct cel_val *of) {
    for (size_t i = 0, len = list_len(of); i < len; i++) {
        struct cel_val e = list_at(E->a, of, i);
        if (!has(E, l, &e)) return false;
    }
    return true;
}

static struct cel_val fn_set_contains(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(contains_all(E, &A0, &A1));
}
static struct cel_val fn_set_equivalent(struct ev *E, const struct cel_val *args, int n) {
    return cel_bool(contains_all(E, &A0, &A1) && contains_all(E, &A1, &A0));
}
static struct cel_val fn_set_intersects(struct ev *E, const struct cel_val *args, int n) {
    for (size_t i = 0, len = list_len(&A0); i < len; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        if (has(E, &A1, &e)) return cel_bool(true);
    }
    return cel_bool(false);
}

#define K8S CEL_LIB_K8S
#define OVER_COMPARABLE(name, id, impl, R)                                 \
    {name, "list_int_" id, "Li>" R("i"), 1, OP_CALL, K8S, impl},           \
        {name, "list_uint_" id, "Lu>" R("u"), 1, OP_CALL, K8S, impl},      \
        {name, "list_double_" id, "Ld>" R("d"), 1, OP_CALL, K8S, impl},    \
        {name, "list_bool_" id, "Lb>" R("b"), 1, OP_CALL, K8S, impl},      \
        {name, "list_duration_" id, "Lw>" R("w"), 1, OP_CALL, K8S, impl},  \
        {name, "list_timestamp_" id, "Lt>" R("t"), 1, OP_CALL, K8S, impl}, \
        {name, "list_string_" id, "Ls>" R("s"), 1, OP_CALL, K8S, impl}, {  \
        name, "list_bytes_" id, "Ly>" R("y"), 1, OP_CALL, K8S, impl        \
    }
#define R_BOOL(t) "b"
#define R_SAME(t) t
#define R_LIST(t) "L" t
#define SORT_BY(t, name) \
    { "@sortByAssociatedKeys", "list_" name "_sortByAssociatedKeys", "LAL" t ">LA", 1, OP_CALL, K8S, fn_sort_by }

const struct cel_fn fns_list[] = {
    OVER_COMPARABLE("isSorted", "is_sorted_bool", fn_is_sorted, R_BOOL),
    {"sum", "list_int_sum_int", "Li>i", 1, OP_CALL, K8S, fn_sum_int},
    {"sum", "list_uint_sum_uint", "Lu>u", 1, OP_CALL, K8S, fn_sum_uint},
    {"sum", "list_double_sum_double", "Ld>d", 1, OP_CALL, K8S, fn_sum_double},
    {"sum", "list_duration_sum_duration", "Lw>w", 1, OP_CALL, K8S, fn_sum_duration},
    OVER_COMPARABLE("max", "max", fn_max, R_SAME),
    OVER_COMPARABLE("min", "min", fn_min, R_SAME),
    {"indexOf", "list_a_index_of_int", "LAA>i", 1, OP_CALL, K8S, fn_index_of},
    {"lastIndexOf", "list_a_last_index_of_int", "LAA>i", 1, OP_CALL, K8S, fn_last_index_of},
    {"slice", "list_slice", "LAii>LA", 1, OP_CALL, K8S, fn_slice},
    {"flatten", "list_flatten", "LLA>LA", 1, OP_CALL, K8S, fn_flatten},
    {"flatten", "list_flatten_int", "L*i>L*", 1, OP_CALL, K8S, fn_flatten},
    {"lists.range", "lists_range", "i>Li", 0, OP_CALL, K8S, fn_range},
    {"distinct", "list_distinct", "LA>LA", 1, OP_CALL, K8S, fn_distinct},
    {"reverse", "list_reverse", "LA>LA", 1, OP_CALL, K8S, fn_reverse},
    OVER_COMPARABLE("sort", "sort", fn_sort, R_LIST),
    SORT_BY("i", "int"),
    SORT_BY("u", "uint"),
    SORT_BY("d", "double"),
    SORT_BY("b", "bool"),
    SORT_BY("w", "duration"),
    SORT_BY("t", "timestamp"),
    SORT_BY("s", "string"),
    SORT_BY("y", "bytes"),
    {"sets.contains", "list_sets_contains_list", "LALA>b", 0, OP_CALL, K8S, fn_set_contains},
    {"sets.equivalent", "list_sets_equivalent_list", "LALA>b", 0, OP_CALL, K8S, fn_set_equivalent},
    {"sets.intersects", "list_sets_intersects_list", "LALA>b", 0, OP_CALL, K8S, fn_set_intersects},
    {NULL},
};
