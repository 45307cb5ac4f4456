/* Strict reading of HTTP/1.x requests (RFC 9112): the head in one go once it is complete, chunked bodies step by step.
 * No I/O and no connection state, so that it can be tested with data files and fuzzed. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/http/server.h"

enum {
    H1_METHOD_MAX = 32,
    H1_CHUNK_EXT_MAX = 256,     /* bytes of a chunk's extension */
    H1_TRAILER_MAX = 16 * 1024, /* bytes of a chunked body's trailers, which are read and dropped */
};

struct h1_head {
    const char *method, *target, *host;
    int version; /* 10 or 11 */
    struct http_header *headers;
    size_t n_headers;
    bool chunked;
    int64_t content_length; /* -1: none */
    bool keep_alive, expect_continue;
};

/* Where the head ends: the offset behind the empty line, or 0 when it is not complete. `*scanned` remembers progress
 * between calls; start it at 0. */
size_t h1_head_end(const char *p, size_t n, size_t *scanned);
/* Parses a complete head of n bytes (as found by h1_head_end); strings are copied into `a`. 0, or the HTTP status that
 * the request is to be refused with (400, 414, 417, 431, 501, 505). */
int h1_parse_head(struct arena *a, const char *p, size_t n, const struct http_limits *lim, struct h1_head *h);

struct h1_chunked {
    uint8_t state;
    uint64_t left;         /* of the current chunk */
    unsigned digits, line; /* bytes seen of a size, of a line */
    size_t trailer;
};
/* Reads chunked bytes; data is appended to body (mind its limit: body->failed). Returns the bytes used, -1 on bad
 * framing; *done when the last chunk and the trailers were read. */
ssize_t h1_chunked_feed(struct h1_chunked *d, const char *p, size_t n, struct buf *body, bool *done);

/* Whether a comma-separated list has the token, in any case. */
bool http_list_has(const char *list, const char *token);
