#include "pkg/json/json.h"

/* Bytes that need an escape: controls, the quote and the backslash; C0 starts an encoded NUL (see json.h). */
static const bool escaped[256] = {[0 ... 0x1f] = true, ['"'] = true, ['\\'] = true, [0xc0] = true};
static bool plain(unsigned char c) { return !escaped[c]; }

void json_write_str(struct buf *b, const char *s, size_t n) {
    static const char hex[] = "0123456789abcdef";
    size_t i = 0;
    while (i < n && plain((unsigned char)s[i])) i++;
    char *out = i == n ? buf_reserve(b, n + 2) : NULL;
    if (out) { /* nothing to escape, as almost always */
        out[0] = '"';
        memcpy(out + 1, s, n);
        out[n + 1] = '"';
        out[n + 2] = 0;
        b->len += n + 2;
        return;
    }
    buf_addc(b, '"');
    for (i = 0; i < n;) {
        size_t run = i;
        while (run < n && plain((unsigned char)s[run])) run++;
        if (run > i) buf_add(b, s + i, run - i);
        if (run >= n) break;
        unsigned char c = (unsigned char)s[run];
        i = run + 1;
        switch (c) {
            case '"': buf_add(b, "\\\"", 2); break;
            case '\\': buf_add(b, "\\\\", 2); break;
            case '\n': buf_add(b, "\\n", 2); break;
            case '\r': buf_add(b, "\\r", 2); break;
            case '\t': buf_add(b, "\\t", 2); break;
            case 0xc0:
                i++;
                buf_add(b, "\\u0000", 6);
                break;
            default: buf_printf(b, "\\u00%c%c", hex[c >> 4], hex[c & 15]);
        }
    }
    buf_addc(b, '"');
}

void json_write_int(struct buf *b, int64_t i) {
    char text[24], *end = text + sizeof(text), *p = end;
    uint64_t u = i < 0 ? -(uint64_t)i : (uint64_t)i;
    do *--p = (char)('0' + u % 10);
    while (u /= 10);
    if (i < 0) *--p = '-';
    buf_add(b, p, (size_t)(end - p));
}

static void newline(struct buf *b, int indent) {
    buf_addc(b, '\n');
    for (int i = 0; i < indent; i++) buf_add(b, "  ", 2);
}

/* indent < 0: compact */
static void write_value(struct buf *b, const struct json *v, int indent) {
    int inner = indent < 0 ? -1 : indent + 1;
    switch (v->type) {
        case JSON_NULL: buf_add(b, "null", 4); break;
        case JSON_BOOL: buf_adds(b, v->b ? "true" : "false"); break;
        case JSON_INT: json_write_int(b, v->i); break;
        case JSON_NUMBER: buf_add(b, v->str, v->n); break;
        case JSON_STRING: json_write_str(b, v->str, v->n); break;
        case JSON_ARRAY:
            buf_addc(b, '[');
            for (uint32_t i = 0; i < v->n; i++) {
                if (i) buf_addc(b, ',');
                if (inner >= 0) newline(b, inner);
                write_value(b, v->items[i], inner);
            }
            if (inner >= 0 && v->n) newline(b, indent);
            buf_addc(b, ']');
            break;
        case JSON_OBJECT:
            buf_addc(b, '{');
            for (uint32_t i = 0; i < v->n; i++) {
                if (i) buf_addc(b, ',');
                if (inner >= 0) newline(b, inner);
                json_write_str(b, v->members[i].key, strlen(v->members[i].key));
                buf_addc(b, ':');
                if (inner >= 0) buf_addc(b, ' ');
                write_value(b, v->members[i].value, inner);
            }
            if (inner >= 0 && v->n) newline(b, indent);
            buf_addc(b, '}');
            break;
    }
}

void json_write(struct buf *b, const struct json *v) { write_value(b, v, -1); }
void json_write_pretty(struct buf *b, const struct json *v) { write_value(b, v, 0); }

char *json_text(struct arena *a, const struct json *v) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, v);
    return arena_strndup(a, b.data, b.len);
}
