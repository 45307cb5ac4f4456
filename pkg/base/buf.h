/* Growable byte buffer with a limit. Appending beyond the limit sets `failed` and drops the bytes, so that a long
 * series of appends needs one check at its end. The content is always NUL-terminated once something was appended. */
#pragma once

#include <stdarg.h>

#include "util.h"

struct buf {
    char *data;
    size_t len, cap;
    size_t limit; /* 0: no limit */
    bool failed;
};

#define BUF_INIT \
    { 0 }
#define _cleanup_buf_ _cleanup_(buf_done)

void buf_done(struct buf *b);
/* Empties the buffer, keeping its memory. */
void buf_reset(struct buf *b);
/* Room for n more bytes (for writing into directly; then add to len). NULL when over the limit. */
char *buf_reserve(struct buf *b, size_t n);
void buf_add_slow(struct buf *b, const void *p, size_t n);
static inline void buf_add(struct buf *b, const void *p, size_t n) {
    if (b->failed || b->limit || b->cap - b->len <= n) { /* so that cap 0 is slow, too */
        buf_add_slow(b, p, n);
        return;
    }
    if (n) memcpy(b->data + b->len, p, n);
    b->len += n;
    b->data[b->len] = 0;
}
static inline void buf_addc(struct buf *b, char c) { buf_add(b, &c, 1); }
static inline void buf_adds(struct buf *b, const char *s) { buf_add(b, s, strlen(s)); }
void buf_printf(struct buf *b, const char *fmt, ...) _printf_(2, 3);
void buf_vprintf(struct buf *b, const char *fmt, va_list ap);
/* Drops n bytes at the front. */
void buf_consume(struct buf *b, size_t n);
/* Hands the heap string over to the caller and empties the buffer; "" (allocated) when nothing was appended. */
char *buf_take(struct buf *b);
