/* Arena: a list of chunks, each twice the size of the one before (up to CHUNK_MAX); allocation bumps a pointer.
 * A block larger than a chunk gets a chunk of its own. */
#include "arena.h"

#include <assert.h>
#include <stdalign.h>

enum { CHUNK_MIN = 2048, CHUNK_MAX = 256 * 1024, ALIGN = alignof(max_align_t) };

struct chunk {
    struct chunk *prev;
    size_t size, used;
    alignas(max_align_t) char data[];
};

struct arena {
    struct chunk *head;
    size_t total; /* bytes handed out */
    size_t first; /* size of the first chunk, 0: CHUNK_MIN */
    char *last;   /* newest block, which can grow in place */
};

struct arena *arena_new(void) {
    return xcalloc(1, sizeof(struct arena));
}

struct arena *arena_new_sized(size_t n) {
    struct arena *a = arena_new();
    a->first = n;
    return a;
}

static void free_chunks(struct chunk *c) {
    while (c) {
        struct chunk *prev = c->prev;
        free(c);
        c = prev;
    }
}

void arena_free(struct arena *a) {
    if (!a) return;
    free_chunks(a->head);
    free(a);
}

void arena_reset(struct arena *a) {
    struct chunk *keep = a->head;
    if (keep) {
        free_chunks(keep->prev);
        keep->prev = NULL;
        keep->used = 0;
    }
    a->total = 0;
    a->last = NULL;
}

void *arena_alloc(struct arena *a, size_t n) {
    /* an empty block has an address of its own too, or growing it would grow over its neighbour */
    n = (MAX_OF(n, (size_t)1) + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    struct chunk *c = a->head;
    if (!c || c->size - c->used < n) {
        size_t size = c ? MIN_OF(c->size * 2, (size_t)CHUNK_MAX) : a->first ? a->first : CHUNK_MIN;
        if (size < n) size = n;
        struct chunk *fresh = xmalloc(sizeof(*fresh) + size);
        fresh->prev = c;
        fresh->size = size;
        fresh->used = 0;
        a->head = c = fresh;
    }
    char *p = c->data + c->used;
    c->used += n;
    a->total += n;
    a->last = p;
    return p;
}

void *arena_zalloc(struct arena *a, size_t n) { return memset(arena_alloc(a, n), 0, n); }

void *arena_realloc(struct arena *a, void *p, size_t old, size_t n) {
    if (n <= old) return p;
    if (p && old && p == a->last) { /* an empty block may share its address with the next one */
        struct chunk *c = a->head;
        size_t at = (size_t)((char *)p - c->data), rounded = (n + ALIGN - 1) & ~(size_t)(ALIGN - 1);
        if (at + rounded <= c->size) {
            a->total += at + rounded - c->used;
            c->used = at + rounded;
            return p;
        }
    }
    void *q = arena_alloc(a, n);
    if (old) memcpy(q, p, old);
    return q;
}

void *arena_memdup(struct arena *a, const void *p, size_t n) {
    void *q = arena_alloc(a, n);
    if (n) memcpy(q, p, n);
    return q;
}

char *arena_strndup(struct arena *a, const char *s, size_t n) {
    char *p = arena_alloc(a, n + 1);
    if (n) memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *arena_strdup(struct arena *a, const char *s) { return s ? arena_strndup(a, s, strlen(s)) : NULL; }

char *arena_vprintf(struct arena *a, const char *fmt, va_list ap) {
    char small[256];
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(small, sizeof(small), fmt, ap);
    assert(n >= 0);
    char *p = arena_alloc(a, (size_t)n + 1);
    if ((size_t)n < sizeof(small))
        memcpy(p, small, (size_t)n + 1);
    else
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    return p;
}

char *arena_printf(struct arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *p = arena_vprintf(a, fmt, ap);
    va_end(ap);
    return p;
}

size_t arena_used(const struct arena *a) { return a->total; }
