#include "buf.h"

void buf_done(struct buf *b) {
    if (!b) return;
    free(b->data);
    *b = (struct buf){.limit = b->limit};
}

void buf_reset(struct buf *b) {
    b->len = 0;
    b->failed = false;
    if (b->data) b->data[0] = 0;
}

char *buf_reserve(struct buf *b, size_t n) {
    if (b->failed || (b->limit && n > b->limit - b->len)) {
        b->failed = true;
        return NULL;
    }
    if (b->cap - b->len < n + 1 || !b->data) {
        size_t cap = b->cap ? b->cap * 2 : 128;
        while (cap < b->len + n + 1) cap *= 2;
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    return b->data + b->len;
}

void buf_add_slow(struct buf *b, const void *p, size_t n) {
    char *d = buf_reserve(b, n);
    if (!d) return;
    if (n) memcpy(d, p, n);
    d[n] = 0;
    b->len += n;
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap) {
    va_list again;
    va_copy(again, ap);
    char small[256];
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    if (n >= 0 && (size_t)n < sizeof(small)) {
        buf_add(b, small, (size_t)n);
    } else if (n >= 0) {
        char *d = buf_reserve(b, (size_t)n);
        if (d) {
            vsnprintf(d, (size_t)n + 1, fmt, again);
            b->len += (size_t)n;
        }
    }
    va_end(again);
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_consume(struct buf *b, size_t n) {
    if (n >= b->len) {
        buf_reset(b);
        return;
    }
    memmove(b->data, b->data + n, b->len - n + 1);
    b->len -= n;
}

char *buf_take(struct buf *b) {
    if (!b->data) return xstrdup("");
    char *p = take_ptr(b->data);
    b->len = b->cap = 0;
    return p;
}
