/* string.format(): "%s %d %.2f %e %b %x %X %o %%" with a list of arguments.
 *
 * Kubernetes pins version 2 of cel-go's strings library, whose %f and %e print numbers for readers of American
 * English
 * ("1,234.50", "1.5 x 10^3" in superscript signs) and whose lists quote their strings; CEL_LIB_EXTRA has version 4,
 * which prints plainly.
 * Upstream: ext/formatting.go, ext/formatting_v2.go. */
#include <math.h>

#include "pkg/cel/internal.h"

enum { DEFAULT_PRECISION = 6, MAX_PRECISION = 1000 };

struct formatter {
    struct ev *E;
    struct buf out;
    bool plain; /* version 4 */
    const char *err;
};

static void fail(struct formatter *f, const char *fmt, ...) _printf_(2, 3);
static void fail(struct formatter *f, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    if (!f->err) f->err = arena_vprintf(f->E->a, fmt, ap);
    va_end(ap);
}

static void bad_type(struct formatter *f, const char *clause, const char *takes, const struct cel_val *v) {
    fail(f, "error during formatting: %s clause can only be used on %s, was given %s", clause, takes,
         type_value_name(type_of_val(v)));
}

/* ---- %s ---- */

static void put_string(struct formatter *f, const struct cel_val *v, bool nested);

static void put_double(struct formatter *f, double d, bool nested) {
    if (isnan(d) || isinf(d)) {
        const char *s = isnan(d) ? "NaN" : f->plain ? (d > 0 ? "Infinity" : "-Infinity") : d > 0 ? "+Inf" : "-Inf";
        buf_printf(&f->out, nested && !f->plain ? "\"%s\"" : "%s", s);
    } else if (f->plain) {
        char text[JSON_DOUBLE_MAX];
        json_double_text(d, text);
        if (strchr(text, 'e'))
            buf_printf(&f->out, "%.0f", d);
        else
            buf_adds(&f->out, text);
    } else if (nested) {
        buf_printf(&f->out, "%.6f", d);
    } else {
        buf_adds(&f->out, double_text(f->E->a, d));
    }
}

static void put_list(struct formatter *f, const struct cel_val *v) {
    buf_addc(&f->out, '[');
    for (size_t i = 0, n = list_len(v); i < n; i++) {
        struct cel_val e = list_at(f->E->a, v, i);
        if (i) buf_adds(&f->out, ", ");
        put_string(f, &e, true);
    }
    buf_addc(&f->out, ']');
}

static int by_key(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

static void put_map(struct formatter *f, const struct cel_val *v) {
    size_t n = map_len(v);
    const char **entries = arena_alloc(f->E->a, (n + 1) * 2 * sizeof(*entries)); /* key, "key: value" */
    struct buf outer = f->out;
    for (size_t i = 0; i < n; i++) {
        struct cel_val k = map_key_at(f->E->a, v, i), e = map_val_at(f->E->a, v, i);
        f->out = (struct buf){.limit = CEL_MAX_STRING};
        put_string(f, &k, true);
        entries[2 * i] = arena_strndup(f->E->a, str_or_empty(f->out.data), f->out.len);
        buf_adds(&f->out, f->plain ? ": " : ":");
        put_string(f, &e, true);
        entries[2 * i + 1] = arena_strndup(f->E->a, str_or_empty(f->out.data), f->out.len);
        buf_done(&f->out);
    }
    f->out = outer;
    qsort(entries, n, 2 * sizeof(*entries), by_key);
    buf_addc(&f->out, '{');
    for (size_t i = 0; i < n; i++) {
        if (i) buf_adds(&f->out, ", ");
        buf_adds(&f->out, entries[2 * i + 1]);
    }
    buf_addc(&f->out, '}');
}

static void put_string(struct formatter *f, const struct cel_val *v, bool nested) {
    switch (v->kind) {
        case CEL_LIST: put_list(f, v); break;
        case CEL_MAP: put_map(f, v); break;
        case CEL_DOUBLE: put_double(f, v->d, nested); break;
        case CEL_STRING:
            if (nested && !f->plain)
                json_write_str(&f->out, v->s, v->n);
            else
                buf_add(&f->out, v->s, v->n);
            break;
        case CEL_BYTES:
            if (nested && !f->plain) {
                buf_addc(&f->out, 'b');
                json_write_str(&f->out, v->s, v->n);
            } else {
                buf_add(&f->out, v->s, v->n);
            }
            break;
        case CEL_TYPE: buf_printf(&f->out, nested && !f->plain ? "type(%s)" : "%s", type_value_name(v->t_value)); break;
        case CEL_DURATION:
            buf_printf(&f->out, nested && !f->plain ? "duration(\"%s\")" : "%s", duration_text(f->E->a, v->i));
            break;
        case CEL_TIMESTAMP:
            buf_printf(&f->out, nested && !f->plain ? "timestamp(\"%s\")" : "%s", time_text(f->E->a, v->i, v->n));
            break;
        case CEL_NULL:
        case CEL_BOOL:
        case CEL_INT:
        case CEL_UINT: buf_adds(&f->out, cel_val_text(f->E->a, *v)); break;
        default:
            bad_type(f, "string", "strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
                     v);
    }
}

/* ---- numbers ---- */

/* Double of an argument of %f and %e; the names of what is no number pass as strings. */
static bool number(struct formatter *f, const struct cel_val *v, double *out) {
    if (v->kind == CEL_DOUBLE)
        *out = v->d;
    else if (f->plain && v->kind == CEL_INT)
        *out = (double)v->i;
    else if (f->plain && v->kind == CEL_UINT)
        *out = (double)v->u;
    else if (v->kind == CEL_STRING && strcmp(v->s, "NaN") == 0)
        *out = NAN;
    else if (v->kind == CEL_STRING && strcmp(v->s, "Infinity") == 0)
        *out = INFINITY;
    else if (v->kind == CEL_STRING && strcmp(v->s, "-Infinity") == 0)
        *out = -INFINITY;
    else
        return false;
    return !f->plain || v->kind != CEL_STRING;
}

static bool put_special(struct formatter *f, double d) {
    if (!isnan(d) && !isinf(d)) return false;
    const char *inf = f->plain ? "Infinity" : "\xe2\x88\x9e";
    if (isnan(d))
        buf_adds(&f->out, "NaN");
    else
        buf_printf(&f->out, "%s%s", d < 0 ? "-" : "", inf);
    return true;
}

static void put_fixed(struct formatter *f, const struct cel_val *v, int precision) {
    double d;
    if (!number(f, v, &d)) {
        bad_type(f, "fixed-point", "doubles", v);
        return;
    }
    if (put_special(f, d)) return;
    char *text = xasprintf("%.*f", precision, d);
    char *p = text;
    if (*p == '-') buf_addc(&f->out, *p++);
    size_t whole = strspn(p, "0123456789");
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0 && !f->plain) buf_addc(&f->out, ',');
        buf_addc(&f->out, p[i]);
    }
    buf_adds(&f->out, p + whole);
    free(text);
}

static void put_scientific(struct formatter *f, const struct cel_val *v, int precision) {
    static const char *const super[] = {"\xe2\x81\xb0", "\xc2\xb9",     "\xc2\xb2",     "\xc2\xb3",     "\xe2\x81\xb4",
                                        "\xe2\x81\xb5", "\xe2\x81\xb6", "\xe2\x81\xb7", "\xe2\x81\xb8", "\xe2\x81\xb9"};
    double d;
    if (!number(f, v, &d)) {
        bad_type(f, "scientific", "doubles", v);
        return;
    }
    if (put_special(f, d)) return;
    char *text = xasprintf("%.*e", precision, d), *e = strchr(text, 'e');
    if (f->plain) {
        buf_adds(&f->out, text);
    } else {
        buf_add(&f->out, text, (size_t)(e - text));
        buf_adds(&f->out,
                 "\xe2\x80\xaf\xc3\x97\xe2\x80\xaf"
                 "10");
        if (e[1] == '-') buf_adds(&f->out, "\xe2\x81\xbb");
        for (const char *p = e + 2; *p; p++) buf_adds(&f->out, super[*p - '0']);
    }
    free(text);
}

static void put_decimal(struct formatter *f, const struct cel_val *v) {
    if (v->kind == CEL_INT)
        buf_printf(&f->out, "%lld", (long long)v->i);
    else if (v->kind == CEL_UINT)
        buf_printf(&f->out, "%llu", (unsigned long long)v->u);
    else if (v->kind == CEL_DOUBLE && f->plain)
        put_double(f, v->d, false);
    else
        bad_type(f, "decimal", "integers", v);
}

static void put_base(struct formatter *f, const struct cel_val *v, unsigned bits, bool upper, const char *clause,
                     const char *takes) {
    if (v->kind == CEL_BOOL && bits == 1) {
        buf_addc(&f->out, v->b ? '1' : '0');
        return;
    }
    if (bits == 4 && (v->kind == CEL_STRING || v->kind == CEL_BYTES)) {
        for (uint32_t i = 0; i < v->n; i++) buf_printf(&f->out, upper ? "%02X" : "%02x", (unsigned char)v->s[i]);
        return;
    }
    if (v->kind != CEL_INT && v->kind != CEL_UINT) {
        bad_type(f, clause, takes, v);
        return;
    }
    char digits[65];
    size_t n = sizeof(digits);
    bool negative = v->kind == CEL_INT && v->i < 0;
    uint64_t u = negative ? 0 - v->u : v->u;
    digits[--n] = 0;
    do {
        digits[--n] = (upper ? "0123456789ABCDEF" : "0123456789abcdef")[u & ((1u << bits) - 1)];
        u >>= bits;
    } while (u);
    buf_printf(&f->out, "%s%s", negative ? "-" : "", digits + n);
}

/* ---- clauses ---- */

/* p is behind the percent sign; returns what follows the clause. */
static const char *clause(struct formatter *f, const char *p, const char *end, const struct cel_val *v) {
    int precision = DEFAULT_PRECISION;
    if (p < end && *p == '.') {
        const char *start = ++p;
        for (precision = 0; p < end && *p >= '0' && *p <= '9'; p++)
            precision = MIN_OF(precision * 10 + (*p - '0'), MAX_PRECISION + 1);
        if (p == end)
            fail(f,
                 "could not parse formatting clause: error while parsing precision: could not find end of precision "
                 "specifier");
        else if (p == start || precision > MAX_PRECISION)
            fail(f, "could not parse formatting clause: error while parsing precision");
        if (f->err) return p;
    }
    switch (*p) {
        case 's': put_string(f, v, false); break;
        case 'd': put_decimal(f, v); break;
        case 'f': put_fixed(f, v, precision); break;
        case 'e': put_scientific(f, v, precision); break;
        case 'b': put_base(f, v, 1, false, "binary", "integers and bools"); break;
        case 'o': put_base(f, v, 3, false, "octal", "integers"); break;
        case 'x':
        case 'X': put_base(f, v, 4, *p == 'X', "hex", "integers, byte buffers, and strings"); break;
        default: fail(f, "could not parse formatting clause: unrecognized formatting clause \"%c\"", *p);
    }
    return p + 1;
}

struct cel_val string_format(struct ev *E, const struct cel_val *fmt, const struct cel_val *args) {
    struct formatter f = {.E = E, .out = {.limit = CEL_MAX_STRING}, .plain = E->prog->env->libs & CEL_LIB_EXTRA};
    const char *p = fmt->s, *end = fmt->s + fmt->n;
    size_t used = 0;
    while (p < end && !f.err) {
        if (*p != '%') {
            buf_addc(&f.out, *p++);
        } else if (p + 1 < end && p[1] == '%') {
            buf_addc(&f.out, '%');
            p += 2;
        } else if (used >= list_len(args)) {
            fail(&f, "index %zu out of range", used);
        } else if (p + 1 == end) {
            fail(&f, "unexpected end of string");
        } else {
            struct cel_val v = list_at(E->a, args, used++);
            p = clause(&f, p + 1, end, &v);
        }
    }
    struct cel_val out = f.err          ? val_errf(E->a, "%s", f.err)
                         : f.out.failed ? val_errf(E->a, "string is too long")
                                        : val_copy_str(E->a, str_or_empty(f.out.data), f.out.len);
    buf_done(&f.out);
    return out;
}
