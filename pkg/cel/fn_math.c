/* The math library of cel-go: extremes, rounding, bits. Kubernetes' environments do not have it.
 * Upstream: ext/math.go. */
#include <math.h>

#include "pkg/cel/internal.h"

#define A0 (args[0])
#define A1 (args[1])

static struct cel_val extreme(struct ev *E, const struct cel_val *v, size_t n, const char *fn, int wanted) {
    if (n == 0) return val_errf(E->a, "%s(list) argument must not be empty", fn);
    struct cel_val best = v[0];
    for (size_t i = 0; i < n; i++) {
        int c;
        bool unordered;
        if ((v[i].kind != CEL_INT && v[i].kind != CEL_UINT && v[i].kind != CEL_DOUBLE) ||
            !val_compare(&v[i], &best, &c, &unordered))
            return err_overload(E, fn, &v[i], 1);
        if (c == wanted) best = v[i];
    }
    return best;
}

static struct cel_val of_args(struct ev *E, const struct cel_val *args, int n, const char *fn, int wanted) {
    if (A0.kind != CEL_LIST) return extreme(E, args, (size_t)n, fn, wanted);
    size_t len = list_len(&A0);
    struct cel_val *v = arena_alloc(E->a, (len + 1) * sizeof(*v));
    for (size_t i = 0; i < len; i++) v[i] = list_at(E->a, &A0, i);
    return extreme(E, v, len, fn, wanted);
}
static struct cel_val fn_max(struct ev *E, const struct cel_val *args, int n) {
    return of_args(E, args, n, "math.@max", 1);
}
static struct cel_val fn_min(struct ev *E, const struct cel_val *args, int n) {
    return of_args(E, args, n, "math.@min", -1);
}

#define ROUND(name, what) \
    static struct cel_val name(struct ev *E, const struct cel_val *args, int n) { return cel_double(what(A0.d)); }
ROUND(fn_ceil, ceil)
ROUND(fn_floor, floor)
ROUND(fn_round, round)
ROUND(fn_trunc, trunc)

static struct cel_val fn_sqrt(struct ev *E, const struct cel_val *args, int n) {
    return cel_double(sqrt(A0.kind == CEL_DOUBLE ? A0.d : A0.kind == CEL_INT ? (double)A0.i : (double)A0.u));
}
static struct cel_val fn_abs(struct ev *E, const struct cel_val *args, int n) {
    if (A0.kind == CEL_DOUBLE) return cel_double(fabs(A0.d));
    if (A0.kind == CEL_UINT) return A0;
    if (A0.i == INT64_MIN) return val_errf(E->a, "integer overflow");
    return cel_int(A0.i < 0 ? -A0.i : A0.i);
}
static struct cel_val fn_sign(struct ev *E, const struct cel_val *args, int n) {
    if (A0.kind == CEL_DOUBLE) return cel_double(isnan(A0.d) ? NAN : (A0.d > 0) - (A0.d < 0));
    if (A0.kind == CEL_UINT) return cel_uint(A0.u > 0);
    return cel_int((A0.i > 0) - (A0.i < 0));
}
static struct cel_val fn_is_inf(struct ev *E, const struct cel_val *args, int n) { return cel_bool(isinf(A0.d)); }
static struct cel_val fn_is_nan(struct ev *E, const struct cel_val *args, int n) { return cel_bool(isnan(A0.d)); }
static struct cel_val fn_is_finite(struct ev *E, const struct cel_val *args, int n) { return cel_bool(isfinite(A0.d)); }

static struct cel_val with_bits(const struct cel_val *as, uint64_t u) {
    struct cel_val v = *as;
    v.u = u;
    return v;
}
static struct cel_val fn_and(struct ev *E, const struct cel_val *args, int n) { return with_bits(&A0, A0.u & A1.u); }
static struct cel_val fn_or(struct ev *E, const struct cel_val *args, int n) { return with_bits(&A0, A0.u | A1.u); }
static struct cel_val fn_xor(struct ev *E, const struct cel_val *args, int n) { return with_bits(&A0, A0.u ^ A1.u); }
static struct cel_val fn_not(struct ev *E, const struct cel_val *args, int n) { return with_bits(&A0, ~A0.u); }

static struct cel_val shift(struct ev *E, const struct cel_val *args, bool left) {
    if (A1.i < 0)
        return val_errf(E->a, "math.%s() negative offset: %lld", left ? "bitShiftLeft" : "bitShiftRight",
                        (long long)A1.i);
    if (A1.i > 63) return with_bits(&A0, 0);
    return with_bits(&A0, left ? A0.u << A1.i : A0.u >> A1.i);
}
static struct cel_val fn_shl(struct ev *E, const struct cel_val *args, int n) { return shift(E, args, true); }
static struct cel_val fn_shr(struct ev *E, const struct cel_val *args, int n) { return shift(E, args, false); }

#define X CEL_LIB_EXTRA
#define G(name, id, sig, impl) \
    { "math." name, "math_" id, sig, 0, OP_CALL, X, impl }
#define EXTREME(name, impl)                                                                                      \
    G(name, name "_int", "i>i", impl), G(name, name "_double", "d>d", impl), G(name, name "_uint", "u>u", impl), \
        G(name, name "_int_int", "ii>i", impl), G(name, name "_double_double", "dd>d", impl),                    \
        G(name, name "_uint_uint", "uu>u", impl), G(name, name "_int_uint", "iu>*", impl),                       \
        G(name, name "_int_double", "id>*", impl), G(name, name "_double_int", "di>*", impl),                    \
        G(name, name "_double_uint", "du>*", impl), G(name, name "_uint_int", "ui>*", impl),                     \
        G(name, name "_uint_double", "ud>*", impl), G(name, name "_list_double", "Ld>d", impl),                  \
        G(name, name "_list_int", "Li>i", impl), G(name, name "_list_uint", "Lu>u", impl)
#define NUMBERS(name, id, impl) \
    G(name, id "_double", "d>d", impl), G(name, id "_int", "i>i", impl), G(name, id "_uint", "u>u", impl)
#define BITS(name, id, impl) G(name, id "_int_int", "ii>i", impl), G(name, id "_uint_uint", "uu>u", impl)
const struct cel_fn fns_math[] = {
    EXTREME("@max", fn_max),
    EXTREME("@min", fn_min),
    G("ceil", "ceil_double", "d>d", fn_ceil),
    G("floor", "floor_double", "d>d", fn_floor),
    G("round", "round_double", "d>d", fn_round),
    G("trunc", "trunc_double", "d>d", fn_trunc),
    G("sqrt", "sqrt_double", "d>d", fn_sqrt),
    G("sqrt", "sqrt_int", "i>d", fn_sqrt),
    G("sqrt", "sqrt_uint", "u>d", fn_sqrt),
    NUMBERS("abs", "abs", fn_abs),
    NUMBERS("sign", "sign", fn_sign),
    G("isInf", "isInf_double", "d>b", fn_is_inf),
    G("isNaN", "isNaN_double", "d>b", fn_is_nan),
    G("isFinite", "isFinite_double", "d>b", fn_is_finite),
    BITS("bitAnd", "bitAnd", fn_and),
    BITS("bitOr", "bitOr", fn_or),
    BITS("bitXor", "bitXor", fn_xor),
    G("bitNot", "bitNot_int_int", "i>i", fn_not),
    G("bitNot", "bitNot_uint_uint", "u>u", fn_not),
    G("bitShiftLeft", "bitShiftLeft_int_int", "ii>i", fn_shl),
    G("bitShiftLeft", "bitShiftLeft_uint_int", "ui>u", fn_shl),
    G("bitShiftRight", "bitShiftRight_int_int", "ii>i", fn_shr),
    G("bitShiftRight", "bitShiftRight_uint_int", "ui>u", fn_shr),
    {NULL},
};
