/* HTTP/1.x request parser. What is refused, because proxies and servers differ on it and requests can be smuggled
 * through the difference: Content-Length together with Transfer-Encoding, more than one Content-Length, any transfer
 * coding but one "chunked", white space before a colon, folded lines, bare LF, control characters, a missing or
 * repeated Host. The target is kept as it came. */
#include "pkg/http/h1parse.h"

/* tchar of RFC 9110 */
static bool is_tchar(unsigned char c) {
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) return true;
    return c && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

size_t h1_head_end(const char *p, size_t n, size_t *scanned) {
    size_t from = *scanned > 3 ? *scanned - 3 : 0;
    const char *end = n > from ? memmem(p + from, n - from, "\r\n\r\n", 4) : NULL;
    *scanned = n;
    return end ? (size_t)(end - p) + 4 : 0;
}

/* "METHOD target HTTP/1.x" in [p, end), which is NUL-terminated in place. */
static int parse_request_line(char *p, char *end, const struct http_limits *lim, struct h1_head *h) {
    char *sp1 = memchr(p, ' ', (size_t)(end - p));
    if (!sp1 || sp1 == p || sp1 - p > H1_METHOD_MAX) return 400;
    for (char *q = p; q < sp1; q++)
        if (!is_tchar((unsigned char)*q)) return 400;
    char *target = sp1 + 1, *sp2 = memchr(target, ' ', (size_t)(end - target));
    if (!sp2 || sp2 == target) return 400;
    if ((size_t)(sp2 - target) > lim->uri_bytes) return 414;
    for (char *q = target; q < sp2; q++)
        if ((unsigned char)*q <= ' ' || *q == 127 || *q == '#') return 400;
    const char *v = sp2 + 1;
    if (end - v != 8 || memcmp(v, "HTTP/", 5) != 0 || v[6] != '.') return 400;
    if (v[5] != '1' || (v[7] != '0' && v[7] != '1')) return 505;
    h->version = v[7] == '1' ? 11 : 10;
    *sp1 = *sp2 = 0;
    h->method = p;
    h->target = target;
    return 0;
}

/* The target must be a path, an absolute URL (whose host then counts) or "*" for OPTIONS. */
static int check_target(struct arena *a, struct h1_head *h) {
    const char *t = h->target;
    if (*t == '/') return 0;
    if (str_eq(t, "*")) return str_eq(h->method, "OPTIONS") ? 0 : 400;
    size_t skip = strncasecmp(t, "http://", 7) == 0 ? 7 : strncasecmp(t, "https://", 8) == 0 ? 8 : 0;
    if (!skip) return 400;
    size_t host = strcspn(t + skip, "/?");
    if (!host) return 400;
    h->host = arena_strndup(a, t + skip, host);
    t += skip + host;
    h->target = *t == '/' ? t : arena_printf(a, "/%s", t);
    return 0;
}

/* One header line in [p, end): name lower-cased and both NUL-terminated in place. */
static int parse_header(char *p, char *end, struct http_header *out) {
    char *colon = memchr(p, ':', (size_t)(end - p));
    if (!colon || colon == p) return 400;
    for (char *q = p; q < colon; q++) {
        if (!is_tchar((unsigned char)*q)) return 400;
        if (*q >= 'A' && *q <= 'Z') *q = (char)(*q | 0x20);
    }
    char *v = colon + 1, *e = end;
    while (v < e && (*v == ' ' || *v == '\t')) v++;
    while (e > v && (e[-1] == ' ' || e[-1] == '\t')) e--;
    for (char *q = v; q < e; q++)
        if (((unsigned char)*q < ' ' && *q != '\t') || *q == 127) return 400;
    *colon = 0;
    *e = 0;
    *out = (struct http_header){p, v};
    return 0;
}

static int parse_length(const char *s, int64_t *out) {
    int64_t v = 0;
    if (!*s) return 400;
    for (; *s; s++) {
        if (*s < '0' || *s > '9' || v > (INT64_MAX - 9) / 10) return 400;
        v = v * 10 + (*s - '0');
    }
    *out = v;
    return 0;
}

/* What the headers say about framing. */
static int apply_header(struct h1_head *h, const struct http_header *f, bool *have_te, unsigned *hosts) {
    if (str_eq(f->name, "content-length")) {
        if (h->content_length >= 0) return 400;
        return parse_length(f->value, &h->content_length);
    }
    if (str_eq(f->name, "transfer-encoding")) {
        if (*have_te || h->version < 11) return 400;
        *have_te = true;
        h->chunked = true;
        return strcasecmp(f->value, "chunked") == 0 ? 0 : 501;
    }
    if (str_eq(f->name, "host")) {
        if (++*hosts > 1 || strpbrk(f->value, " \t/")) return 400;
        if (!h->host) h->host = f->value;
    } else if (str_eq(f->name, "connection")) {
        if (http_list_has(f->value, "close"))
            h->keep_alive = false;
        else if (h->version == 10 && http_list_has(f->value, "keep-alive"))
            h->keep_alive = true;
    } else if (str_eq(f->name, "expect")) {
        if (strcasecmp(f->value, "100-continue") != 0) return 417;
        h->expect_continue = h->version >= 11;
    }
    return 0;
}

int h1_parse_head(struct arena *a, const char *in, size_t n, const struct http_limits *lim, struct h1_head *h) {
    *h = (struct h1_head){.content_length = -1};
    if (n < 4) return 400;
    size_t cap = 16;
    h->headers = arena_alloc(a, cap * sizeof(*h->headers));
    char *p = arena_strndup(a, in, n), *end = p + n - 2; /* before the empty line's CRLF */
    char *eol = memchr(p, '\r', (size_t)(end - p));
    if (!eol || eol[1] != '\n') return 400;
    int st = parse_request_line(p, eol, lim, h);
    if (!st) st = check_target(a, h);
    if (st) return st;
    h->keep_alive = h->version == 11;
    bool have_te = false;
    unsigned hosts = 0;
    for (p = eol + 2; p < end; p = eol + 2) {
        eol = memchr(p, '\r', (size_t)(end - p));
        if (!eol || eol[1] != '\n') return 400;
        if (h->n_headers >= lim->header_count) return 431;
        ARENA_GROW(a, h->headers, h->n_headers, cap);
        struct http_header *f = &h->headers[h->n_headers];
        st = parse_header(p, eol, f);
        if (!st) st = apply_header(h, f, &have_te, &hosts);
        if (st) return st;
        h->n_headers++;
    }
    if (h->chunked && h->content_length >= 0) return 400;
    if (h->version == 11 && !hosts) return 400;
    if (!h->host) h->host = "";
    return 0;
}

/* ---- chunked bodies ---- */

enum {
    CH_SIZE, /* hex digits */
    CH_EXT,  /* ;extension, up to CR */
    CH_SIZE_LF,
    CH_DATA,
    CH_DATA_CR,
    CH_DATA_LF,
    CH_TRAILER, /* start of a trailer line */
    CH_TRAILER_LINE,
    CH_TRAILER_LF,
    CH_END_LF,
};

static int hex_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int chunk_size_char(struct h1_chunked *d, char c) {
    int v = hex_value(c);
    if (v >= 0) {
        if (++d->digits > 15) return -1;
        d->left = d->left << 4 | (unsigned)v;
        return 0;
    }
    if (!d->digits) return -1;
    if (c == '\r')
        d->state = CH_SIZE_LF;
    else if (c == ';' || c == ' ' || c == '\t')
        d->state = CH_EXT, d->line = 0;
    else
        return -1;
    return 0;
}

/* One byte in any state but CH_DATA. */
static int chunk_char(struct h1_chunked *d, char c, bool *done) {
    switch (d->state) {
        case CH_SIZE: return chunk_size_char(d, c);
        case CH_EXT:
            if (c == '\r')
                d->state = CH_SIZE_LF;
            else if (++d->line > H1_CHUNK_EXT_MAX || ((unsigned char)c < ' ' && c != '\t'))
                return -1;
            return 0;
        case CH_SIZE_LF: d->state = d->left ? CH_DATA : CH_TRAILER; return c == '\n' ? 0 : -1;
        case CH_DATA_CR: d->state = CH_DATA_LF; return c == '\r' ? 0 : -1;
        case CH_DATA_LF:
            d->state = CH_SIZE;
            d->digits = 0;
            d->left = 0;
            return c == '\n' ? 0 : -1;
        case CH_TRAILER:
            if (c == '\r') {
                d->state = CH_END_LF;
                return 0;
            }
            d->state = CH_TRAILER_LINE;
            return is_tchar((unsigned char)c) ? 0 : -1;
        case CH_TRAILER_LINE:
            if (c == '\r')
                d->state = CH_TRAILER_LF;
            else if (c == '\n')
                return -1;
            return ++d->trailer > H1_TRAILER_MAX ? -1 : 0;
        case CH_TRAILER_LF: d->state = CH_TRAILER; return c == '\n' ? 0 : -1;
        case CH_END_LF: *done = true; return c == '\n' ? 0 : -1;
        default: return -1;
    }
}

ssize_t h1_chunked_feed(struct h1_chunked *d, const char *p, size_t n, struct buf *body, bool *done) {
    size_t i = 0;
    *done = false;
    while (i < n && !*done) {
        if (d->state == CH_DATA) {
            size_t m = MIN_OF((uint64_t)(n - i), d->left);
            buf_add(body, p + i, m);
            i += m;
            d->left -= m;
            if (!d->left) d->state = CH_DATA_CR;
        } else if (chunk_char(d, p[i++], done) < 0) {
            return -1;
        }
    }
    return (ssize_t)i;
}
