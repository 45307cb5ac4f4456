/* Functions on strings: cel-go's strings library (version 2, as Kubernetes has it) and Kubernetes' regex library.
 * Positions count code points.
 * Upstream: ext/strings.go, k8s.io/apiserver/pkg/cel/library/regex.go. */
#include "pkg/base/bytes.h"
#include "pkg/cel/internal.h"

#define A0 (args[0])
#define A1 (args[1])
#define A2 (args[2])

static struct cel_val out_of_range(struct ev *E, int64_t i) {
    return val_errf(E->a, "index out of range: %lld", (long long)i);
}

static struct cel_val fn_char_at(struct ev *E, const struct cel_val *args, int n) {
    size_t len = utf8_count(A0.s, A0.n);
    if (A1.i < 0 || (uint64_t)A1.i > len) return out_of_range(E, A1.i);
    size_t from = utf8_offset(A0.s, A0.n, (size_t)A1.i), to = from;
    if (from < A0.n) utf8_next(A0.s, A0.n, &to);
    return val_copy_str(E->a, A0.s + from, to - from);
}

/* Code points before byte `at`. */
static int64_t place(const struct cel_val *s, const char *at) { return (int64_t)utf8_count(s->s, (size_t)(at - s->s)); }

static struct cel_val fn_index_of(struct ev *E, const struct cel_val *args, int n) {
    int64_t from = n > 2 ? A2.i : 0;
    if (A1.n == 0) return cel_int(from);
    if (from < 0) return out_of_range(E, from);
    size_t at = utf8_offset(A0.s, A0.n, (size_t)from);
    const char *hit = memmem(A0.s + at, A0.n - at, A1.s, A1.n);
    return cel_int(hit ? place(&A0, hit) : -1);
}

static struct cel_val fn_last_index_of(struct ev *E, const struct cel_val *args, int n) {
    size_t len = utf8_count(A0.s, A0.n);
    int64_t from = n > 2 ? A2.i : (int64_t)len - 1;
    if (A1.n == 0) return cel_int(n > 2 ? from : (int64_t)len);
    if (n > 2 && from < 0) return out_of_range(E, from);
    if ((n > 2 && (uint64_t)from >= len) || A0.n < A1.n) return cel_int(-1);
    size_t at = utf8_offset(A0.s, A0.n, (size_t)from);
    for (at = MIN_OF(at, (size_t)(A0.n - A1.n));; at--) {
        bool boundary = ((unsigned char)A0.s[at] & 0xC0) != 0x80;
        if (boundary && memcmp(A0.s + at, A1.s, A1.n) == 0) return cel_int(place(&A0, A0.s + at));
        if (at == 0) return cel_int(-1);
    }
}

static struct cel_val change_case(struct ev *E, const struct cel_val *v, char from, int by) {
    char *s = arena_strndup(E->a, v->s, v->n);
    for (uint32_t i = 0; i < v->n; i++)
        if (s[i] >= from && s[i] <= from + 25) s[i] = (char)(s[i] + by);
    return cel_strn(s, v->n);
}
static struct cel_val fn_lower(struct ev *E, const struct cel_val *args, int n) { return change_case(E, &A0, 'A', 32); }
static struct cel_val fn_upper(struct ev *E, const struct cel_val *args, int n) {
    return change_case(E, &A0, 'a', -32);
}

static struct cel_val take_text(struct ev *E, struct buf *b) {
    if (b->failed) return val_errf(E->a, "string is too long");
    return val_copy_str(E->a, b->data ? b->data : "", b->len);
}

static struct cel_val fn_replace(struct ev *E, const struct cel_val *args, int n) {
    _cleanup_buf_ struct buf b = {.limit = CEL_MAX_STRING};
    int64_t left = n > 3 ? args[3].i : -1;
    size_t at = 0;
    if (A1.n == 0) { /* between all characters */
        while (left != 0 && !b.failed) {
            buf_add(&b, A2.s, A2.n);
            left--;
            if (at >= A0.n) break;
            size_t before = at;
            utf8_next(A0.s, A0.n, &at);
            buf_add(&b, A0.s + before, at - before);
        }
    }
    while (A1.n && left != 0 && !b.failed) {
        const char *hit = memmem(A0.s + at, A0.n - at, A1.s, A1.n);
        if (!hit) break;
        buf_add(&b, A0.s + at, (size_t)(hit - A0.s) - at);
        buf_add(&b, A2.s, A2.n);
        at = (size_t)(hit - A0.s) + A1.n;
        left--;
    }
    buf_add(&b, A0.s + at, A0.n - at);
    return take_text(E, &b);
}

static struct cel_val fn_split(struct ev *E, const struct cel_val *args, int n) {
    int64_t limit = n > 2 ? A2.i : -1;
    struct cel_val *v = NULL;
    size_t len = 0, cap = 0, at = 0;
    if (limit == 0) return val_list(E->a, NULL, 0);
    while (limit < 0 || (int64_t)len + 1 < limit) {
        size_t end = at, skip = 0;
        if (A1.n == 0) {
            if (at >= A0.n) return val_list(E->a, v, len);
            utf8_next(A0.s, A0.n, &end);
            if (end >= A0.n) break;
        } else {
            const char *hit = memmem(A0.s + at, A0.n - at, A1.s, A1.n);
            if (!hit) break;
            end = (size_t)(hit - A0.s);
            skip = A1.n;
        }
        ARENA_GROW(E->a, v, len, cap);
        v[len++] = val_copy_str(E->a, A0.s + at, end - at);
        at = end + skip;
    }
    ARENA_GROW(E->a, v, len, cap);
    v[len++] = val_copy_str(E->a, A0.s + at, A0.n - at);
    return val_list(E->a, v, len);
}

static struct cel_val fn_substring(struct ev *E, const struct cel_val *args, int n) {
    size_t len = utf8_count(A0.s, A0.n);
    int64_t end = n > 2 ? A2.i : (int64_t)len;
    if (n > 2 && A1.i > end)
        return val_errf(E->a, "invalid substring range. start: %lld, end: %lld", (long long)A1.i, (long long)end);
    if (A1.i < 0 || (uint64_t)A1.i > len) return out_of_range(E, A1.i);
    if (end < 0 || (uint64_t)end > len) return out_of_range(E, end);
    size_t from = utf8_offset(A0.s, A0.n, (size_t)A1.i), to = utf8_offset(A0.s, A0.n, (size_t)end);
    return val_copy_str(E->a, A0.s + from, to - from);
}

static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
           c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

static struct cel_val fn_trim(struct ev *E, const struct cel_val *args, int n) {
    size_t start = SIZE_MAX, end = 0;
    for (size_t at = 0; at < A0.n;) {
        size_t before = at;
        if (is_space(utf8_next(A0.s, A0.n, &at))) continue;
        if (start == SIZE_MAX) start = before;
        end = at;
    }
    return start == SIZE_MAX ? cel_str("") : val_copy_str(E->a, A0.s + start, end - start);
}

static struct cel_val fn_join(struct ev *E, const struct cel_val *args, int n) {
    _cleanup_buf_ struct buf b = {.limit = CEL_MAX_STRING};
    for (size_t i = 0, len = list_len(&A0); i < len && !b.failed; i++) {
        struct cel_val e = list_at(E->a, &A0, i);
        if (e.kind != CEL_STRING) return val_errf(E->a, "join: invalid input: %s", cel_val_text(E->a, e));
        if (i && n > 1) buf_add(&b, A1.s, A1.n);
        buf_add(&b, e.s, e.n);
    }
    return take_text(E, &b);
}

static struct cel_val fn_quote(struct ev *E, const struct cel_val *args, int n) {
    static const char from[] = "\a\b\f\n\r\t\v\\\"", to[] = "abfnrtv\\\"";
    _cleanup_buf_ struct buf b = {.limit = CEL_MAX_STRING};
    buf_addc(&b, '"');
    for (uint32_t i = 0; i < A0.n; i++) {
        const char *at = A0.s[i] ? strchr(from, A0.s[i]) : NULL;
        if (at) buf_addc(&b, '\\');
        buf_addc(&b, at ? to[at - from] : A0.s[i]);
    }
    buf_addc(&b, '"');
    return take_text(E, &b);
}

static struct cel_val fn_reverse(struct ev *E, const struct cel_val *args, int n) {
    char *out = arena_alloc(E->a, A0.n + 1);
    size_t end = A0.n;
    out[end] = 0;
    for (size_t at = 0; at < A0.n;) {
        size_t before = at;
        utf8_next(A0.s, A0.n, &at);
        end -= at - before;
        memcpy(out + end, A0.s + before, at - before);
    }
    return cel_strn(out, A0.n);
}

static struct cel_val fn_format(struct ev *E, const struct cel_val *args, int n) { return string_format(E, &A0, &A1); }

/* ---- regex ---- */

static struct regex *pattern(struct ev *E, const struct cel_val *v, struct cel_val *err) {
    const char *msg = NULL;
    struct regex *r = regex_new(E->a, v->s, v->n, &msg);
    if (!r) *err = val_errf(E->a, "Illegal regex: error parsing regexp: %s", msg);
    return r;
}

static struct cel_val fn_find(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val err;
    size_t from, to;
    struct regex *r = pattern(E, &A1, &err);
    if (!r) return err;
    return regex_find(E->a, r, A0.s, A0.n, 0, &from, &to) ? val_copy_str(E->a, A0.s + from, to - from) : cel_str("");
}

static struct cel_val fn_find_all(struct ev *E, const struct cel_val *args, int n) {
    struct cel_val err, *v = NULL;
    size_t from, to, len = 0, cap = 0, at = 0, last = SIZE_MAX;
    int64_t limit = n > 2 ? A2.i : -1;
    struct regex *r = pattern(E, &A1, &err);
    if (!r) return err;
    while (at <= A0.n && (limit < 0 || (int64_t)len < limit) && regex_find(E->a, r, A0.s, A0.n, at, &from, &to)) {
        if (!(from == to && from == last)) { /* no empty match right behind another */
            ARENA_GROW(E->a, v, len, cap);
            v[len++] = val_copy_str(E->a, A0.s + from, to - from);
        }
        last = to;
        at = to;
        if (from != to) continue;
        if (at >= A0.n) break;
        utf8_next(A0.s, A0.n, &at);
    }
    return val_list(E->a, v, len);
}

/* ---- base64 ---- */

static struct cel_val fn_base64(struct ev *E, const struct cel_val *args, int n) {
    char *out = arena_alloc(E->a, base64_encoded_len(A0.n) + 1);
    size_t len = base64_encode(A0.s, A0.n, out);
    return cel_strn(out, len);
}

static struct cel_val fn_unbase64(struct ev *E, const struct cel_val *args, int n) {
    char *padded = arena_alloc(E->a, A0.n + 4), *out = arena_alloc(E->a, A0.n + 4);
    size_t len = A0.n, got;
    memcpy(padded, A0.s, len);
    while (len % 4) padded[len++] = '=';
    if (base64_decode(padded, len, out, &got)) return val_errf(E->a, "illegal base64 data");
    return val_bytes(out, got);
}

#define K8S CEL_LIB_K8S
#define X CEL_LIB_EXTRA
const struct cel_fn fns_string[] = {
    {"charAt", "string_char_at_int", "si>s", 1, OP_CALL, K8S, fn_char_at},
    {"indexOf", "string_index_of_string", "ss>i", 1, OP_CALL, K8S, fn_index_of},
    {"indexOf", "string_index_of_string_int", "ssi>i", 1, OP_CALL, K8S, fn_index_of},
    {"lastIndexOf", "string_last_index_of_string", "ss>i", 1, OP_CALL, K8S, fn_last_index_of},
    {"lastIndexOf", "string_last_index_of_string_int", "ssi>i", 1, OP_CALL, K8S, fn_last_index_of},
    {"lowerAscii", "string_lower_ascii", "s>s", 1, OP_CALL, K8S, fn_lower},
    {"upperAscii", "string_upper_ascii", "s>s", 1, OP_CALL, K8S, fn_upper},
    {"replace", "string_replace_string_string", "sss>s", 1, OP_CALL, K8S, fn_replace},
    {"replace", "string_replace_string_string_int", "sssi>s", 1, OP_CALL, K8S, fn_replace},
    {"split", "string_split_string", "ss>Ls", 1, OP_CALL, K8S, fn_split},
    {"split", "string_split_string_int", "ssi>Ls", 1, OP_CALL, K8S, fn_split},
    {"substring", "string_substring_int", "si>s", 1, OP_CALL, K8S, fn_substring},
    {"substring", "string_substring_int_int", "sii>s", 1, OP_CALL, K8S, fn_substring},
    {"trim", "string_trim", "s>s", 1, OP_CALL, K8S, fn_trim},
    {"join", "list_join", "Ls>s", 1, OP_CALL, K8S, fn_join},
    {"join", "list_join_string", "Lss>s", 1, OP_CALL, K8S, fn_join},
    {"format", "string_format", "sL*>s", 1, OP_CALL, K8S, fn_format},
    {"strings.quote", "strings_quote", "s>s", 0, OP_CALL, K8S, fn_quote},
    {"find", "string_find_string", "ss>s", 1, OP_CALL, K8S, fn_find},
    {"findAll", "string_find_all_string", "ss>Ls", 1, OP_CALL, K8S, fn_find_all},
    {"findAll", "string_find_all_string_int", "ssi>Ls", 1, OP_CALL, K8S, fn_find_all},
    {"reverse", "string_reverse", "s>s", 1, OP_CALL, X, fn_reverse},
    {"base64.encode", "base64_encode_bytes", "y>s", 0, OP_CALL, X, fn_base64},
    {"base64.decode", "base64_decode_string", "s>y", 0, OP_CALL, X, fn_unbase64},
    {NULL},
};
