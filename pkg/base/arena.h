/* Arena: memory with one owner and one end. Everything allocated during a request or a reconcile lives in an arena
 * and goes with it; nothing is freed one by one. Not thread-safe: one arena belongs to one thread at a time. */
#pragma once

#include <stdarg.h>

#include "util.h"

struct arena;

/* A new, empty arena; the first chunk is allocated at first use. Never NULL. */
struct arena *arena_new(void);
/* The same with a first chunk of `n` bytes: for content whose size is known. */
struct arena *arena_new_sized(size_t n);
/* Frees everything. NULL-safe. */
void arena_free(struct arena *a);
static inline void cleanup_arena(struct arena **a) { arena_free(*a); }
#define _cleanup_arena_ _cleanup_(cleanup_arena)
/* Drops all content but keeps one chunk for reuse. */
void arena_reset(struct arena *a);

/* Uninitialised memory, aligned for any type. Never NULL. */
void *arena_alloc(struct arena *a, size_t n);
/* Zeroed memory. */
void *arena_zalloc(struct arena *a, size_t n);
/* Grows the block `p` of `old` bytes to `n` bytes: in place when it is the newest block, else by copying. */
void *arena_realloc(struct arena *a, void *p, size_t old, size_t n);
/* Copies. arena_strdup(a, NULL) is NULL. */
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n);
void *arena_memdup(struct arena *a, const void *p, size_t n);
char *arena_printf(struct arena *a, const char *fmt, ...) _printf_(2, 3);
char *arena_vprintf(struct arena *a, const char *fmt, va_list ap);
/* Bytes handed out so far: for limits and accounting. */
size_t arena_used(const struct arena *a);

/* Makes room for one more element in an arena vector; `cap` counts elements. */
#define ARENA_GROW(a, items, n, cap)                                                                  \
    do {                                                                                              \
        if ((n) >= (cap)) {                                                                           \
            size_t _new = (cap) ? (size_t)(cap)*2 : 4;                                                \
            (items) = arena_realloc((a), (items), (cap) * sizeof(*(items)), _new * sizeof(*(items))); \
            (cap) = _new;                                                                             \
        }                                                                                             \
    } while (0)
