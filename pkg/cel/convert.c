/* Conversions: int(), uint(), double(), string(), bytes(), bool(), timestamp(), duration(), type(), dyn().
 * Upstream: common/stdlib/standard.go, and cel-go's common/types (ConvertToType). */
#include <math.h>

#include "pkg/cel/internal.h"

#define A0 (args[0])

static struct cel_val range_error(struct ev *E) { return val_errf(E->a, "range error"); }

/* Strings of CEL hold a NUL as C0 80, bytes as it is. */
static struct cel_val to_bytes(struct ev *E, const struct cel_val *v) {
    if (!memmem(v->s, v->n, "\xc0\x80", 2)) return val_bytes(v->s, v->n);
    char *out = arena_alloc(E->a, v->n);
    size_t n = 0;
    for (uint32_t i = 0; i < v->n; i++, n++) {
        bool nul = (unsigned char)v->s[i] == 0xC0;
        out[n] = nul ? 0 : v->s[i];
        i += nul;
    }
    return val_bytes(out, n);
}

static struct cel_val from_bytes(struct ev *E, const struct cel_val *v) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (!utf8_valid(v->s, v->n)) return val_errf(E->a, "invalid UTF-8 in bytes, cannot convert to string");
    for (uint32_t i = 0; i < v->n; i++)
        if (v->s[i])
            buf_addc(&b, v->s[i]);
        else
            buf_adds(&b, "\xc0\x80");
    return val_copy_str(E->a, b.data ? b.data : "", b.len);
}

static bool int_text(const struct cel_val *v, const char **p) {
    *p = v->s;
    if (**p == '-' || **p == '+') ++*p;
    if (!**p) return false;
    for (const char *s = *p; *s; s++)
        if (*s < '0' || *s > '9') return false;
    return true;
}

static struct cel_val fn_int(struct ev *E, const struct cel_val *args, int n) {
    int64_t i;
    const char *p;
    switch (A0.kind) {
        case CEL_DOUBLE: return double_to_i64(A0.d, &i) ? cel_int(i) : range_error(E);
        case CEL_UINT: return A0.u <= INT64_MAX ? cel_int((int64_t)A0.u) : range_error(E);
        case CEL_STRING: {
            errno = 0;
            bool ok = int_text(&A0, &p);
            i = strtoll(A0.s, NULL, 10);
            if (!ok || errno == ERANGE)
                return val_errf(E->a, "strconv.ParseInt: parsing \"%s\": %s", A0.s,
                                ok ? "value out of range" : "invalid syntax");
            return cel_int(i);
        }
        default: return cel_int(A0.i); /* int, timestamp's seconds, duration's nanoseconds */
    }
}

static struct cel_val fn_uint(struct ev *E, const struct cel_val *args, int n) {
    uint64_t u;
    switch (A0.kind) {
        case CEL_DOUBLE: return double_to_u64(A0.d, &u) ? cel_uint(u) : range_error(E);
        case CEL_INT: return A0.i >= 0 ? cel_uint((uint64_t)A0.i) : range_error(E);
        case CEL_STRING: {
            const char *p;
            errno = 0;
            bool ok = int_text(&A0, &p) && p == A0.s;
            u = strtoull(A0.s, NULL, 10);
            if (!ok || errno == ERANGE)
                return val_errf(E->a, "strconv.ParseUint: parsing \"%s\": %s", A0.s,
                                ok ? "value out of range" : "invalid syntax");
            return cel_uint(u);
        }
        default: return A0;
    }
}

static struct cel_val fn_double(struct ev *E, const struct cel_val *args, int n) {
    if (A0.kind == CEL_INT) return cel_double((double)A0.i);
    if (A0.kind == CEL_UINT) return cel_double((double)A0.u);
    if (A0.kind == CEL_DOUBLE) return A0;
    char *end;
    double d = strtod(A0.s, &end);
    if (A0.n == 0 || *end || strchr(" \t\n\r\v\f", A0.s[0]) ||
        (isinf(d) && (A0.s[A0.n - 1] >= '0' && A0.s[A0.n - 1] <= '9')))
        return val_errf(E->a, "strconv.ParseFloat: parsing \"%s\": %s", A0.s,
                        A0.n == 0 || *end ? "invalid syntax" : "value out of range");
    return cel_double(d);
}

static struct cel_val fn_string(struct ev *E, const struct cel_val *args, int n) {
    if (A0.kind == CEL_STRING) return A0;
    if (A0.kind == CEL_BYTES) return from_bytes(E, &A0);
    return cel_str(cel_val_text(E->a, A0));
}

static struct cel_val fn_bytes(struct ev *E, const struct cel_val *args, int n) {
    return A0.kind == CEL_BYTES ? A0 : to_bytes(E, &A0);
}

static struct cel_val fn_bool(struct ev *E, const struct cel_val *args, int n) {
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"}, *const no[] = {"0",     "f",     "F",
                                                                                             "false", "FALSE", "False"};
    if (A0.kind == CEL_BOOL) return A0;
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (strcmp(A0.s, yes[i]) == 0) return cel_bool(true);
        if (strcmp(A0.s, no[i]) == 0) return cel_bool(false);
    }
    return val_errf(E->a, "strconv.ParseBool: parsing \"%s\": invalid syntax", A0.s);
}

static struct cel_val fn_timestamp(struct ev *E, const struct cel_val *args, int n) {
    int64_t sec;
    uint32_t nsec;
    if (A0.kind == CEL_TIMESTAMP) return A0;
    if (A0.kind == CEL_INT) return time_in_range(A0.i) ? val_time(A0.i, 0) : val_errf(E->a, "range error");
    if (!time_parse(A0.s, A0.n, &sec, &nsec))
        return val_errf(E->a, "parsing time \"%s\": not a timestamp of RFC 3339", A0.s);
    return val_time(sec, nsec);
}

static struct cel_val fn_duration(struct ev *E, const struct cel_val *args, int n) {
    int64_t ns;
    if (A0.kind == CEL_DURATION) return A0;
    if (A0.kind == CEL_INT) return val_duration(A0.i);
    if (!duration_parse_n(A0.s, A0.n, &ns)) return val_errf(E->a, "time: invalid duration \"%s\"", A0.s);
    return val_duration(ns);
}

static struct cel_val fn_type(struct ev *E, const struct cel_val *args, int n) { return val_type(type_of_val(&A0)); }
static struct cel_val fn_dyn(struct ev *E, const struct cel_val *args, int n) { return A0; }

const struct cel_fn fns_convert[] = {
    {"type", "type", "A>TA", 0, OP_CALL, 0, fn_type},
    {"bool", "bool_to_bool", "b>b", 0, OP_CALL, 0, fn_bool},
    {"bool", "string_to_bool", "s>b", 0, OP_CALL, 0, fn_bool},
    {"bytes", "bytes_to_bytes", "y>y", 0, OP_CALL, 0, fn_bytes},
    {"bytes", "string_to_bytes", "s>y", 0, OP_CALL, 0, fn_bytes},
    {"double", "double_to_double", "d>d", 0, OP_CALL, 0, fn_double},
    {"double", "int64_to_double", "i>d", 0, OP_CALL, 0, fn_double},
    {"double", "string_to_double", "s>d", 0, OP_CALL, 0, fn_double},
    {"double", "uint64_to_double", "u>d", 0, OP_CALL, 0, fn_double},
    {"duration", "duration_to_duration", "w>w", 0, OP_CALL, 0, fn_duration},
    {"duration", "int64_to_duration", "i>w", 0, OP_CALL, 0, fn_duration},
    {"duration", "string_to_duration", "s>w", 0, OP_CALL, 0, fn_duration},
    {"dyn", "to_dyn", "A>*", 0, OP_CALL, 0, fn_dyn},
    {"int", "int64_to_int64", "i>i", 0, OP_CALL, 0, fn_int},
    {"int", "double_to_int64", "d>i", 0, OP_CALL, 0, fn_int},
    {"int", "duration_to_int64", "w>i", 0, OP_CALL, 0, fn_int},
    {"int", "string_to_int64", "s>i", 0, OP_CALL, 0, fn_int},
    {"int", "timestamp_to_int64", "t>i", 0, OP_CALL, 0, fn_int},
    {"int", "uint64_to_int64", "u>i", 0, OP_CALL, 0, fn_int},
    {"string", "string_to_string", "s>s", 0, OP_CALL, 0, fn_string},
    {"string", "bool_to_string", "b>s", 0, OP_CALL, 0, fn_string},
    {"string", "bytes_to_string", "y>s", 0, OP_CALL, 0, fn_string},
    {"string", "double_to_string", "d>s", 0, OP_CALL, 0, fn_string},
    {"string", "duration_to_string", "w>s", 0, OP_CALL, 0, fn_string},
    {"string", "int64_to_string", "i>s", 0, OP_CALL, 0, fn_string},
    {"string", "timestamp_to_string", "t>s", 0, OP_CALL, 0, fn_string},
    {"string", "uint64_to_string", "u>s", 0, OP_CALL, 0, fn_string},
    {"timestamp", "timestamp_to_timestamp", "t>t", 0, OP_CALL, 0, fn_timestamp},
    {"timestamp", "int64_to_timestamp", "i>t", 0, OP_CALL, 0, fn_timestamp},
    {"timestamp", "string_to_timestamp", "s>t", 0, OP_CALL, 0, fn_timestamp},
    {"uint", "uint64_to_uint64", "u>u", 0, OP_CALL, 0, fn_uint},
    {"uint", "double_to_uint64", "d>u", 0, OP_CALL, 0, fn_uint},
    {"uint", "int64_to_uint64", "i>u", 0, OP_CALL, 0, fn_uint},
    {"uint", "string_to_uint64", "s>u", 0, OP_CALL, 0, fn_uint},
    {NULL},
};
