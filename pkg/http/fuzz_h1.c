/* libFuzzer: HTTP/1.1 heads and chunked bodies. The first byte chooses. */
#include "pkg/http/h1parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void chunks(const char *p, size_t n) {
    /* whole and byte by byte must agree */
    struct h1_chunked whole = {0}, bytes = {0};
    _cleanup_buf_ struct buf a = {.limit = 1 << 16}, b = {.limit = 1 << 16};
    bool done_a = false, done_b = false;
    ssize_t used = h1_chunked_feed(&whole, p, n, &a, &done_a), at = 0;
    while ((size_t)at < n && !done_b) {
        if (h1_chunked_feed(&bytes, p + at, 1, &b, &done_b) < 0) {
            at = -1;
            break;
        }
        at++;
    }
    if (used != at || done_a != done_b || a.len != b.len) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    static const struct http_limits lim = {.uri_bytes = 1000, .header_count = 50};
    if (!n) return 0;
    const char *p = (const char *)data + 1;
    n--;
    if (data[0] & 1) {
        chunks(p, n);
        return 0;
    }
    size_t scanned = 0, end = h1_head_end(p, n, &scanned);
    _cleanup_arena_ struct arena *a = arena_new();
    struct h1_head h;
    if (!end || h1_parse_head(a, p, end, &lim, &h)) return 0;
    if (h.chunked && h.content_length >= 0) abort();
    for (size_t i = 0; i < h.n_headers; i++)
        if (strpbrk(h.headers[i].name, " :\r\n") || strpbrk(h.headers[i].value, "\r\n")) abort();
    return 0;
}
