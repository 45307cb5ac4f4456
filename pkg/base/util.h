/* Small things every file needs: cleanup attributes, hand-over of ownership, array length.
 *
 * A variable marked _cleanup_(f) is passed (by address) to f when its scope ends; take_ptr() and take_fd() hand
 * the value over to someone else and leave nothing to clean up. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _noreturn_ __attribute__((noreturn))
#define _unused_ __attribute__((unused))
#define _must_check_ __attribute__((warn_unused_result))

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CONTAINER_OF(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

#define take_ptr(p)                 \
    ({                              \
        __typeof__(p) _taken = (p); \
        (p) = NULL;                 \
        _taken;                     \
    })

static inline int take_fd(int *fd) {
    int v = *fd;
    *fd = -1;
    return v;
}

static inline void cleanup_free(void *p) { free(*(void **)p); }
static inline void cleanup_close(int *fd) {
    if (*fd >= 0) close(*fd);
}
static inline void cleanup_file(FILE **f) {
    if (*f) fclose(*f);
}
#define _cleanup_free_ _cleanup_(cleanup_free)
#define _cleanup_close_ _cleanup_(cleanup_close)
#define _cleanup_file_ _cleanup_(cleanup_file)

/* NULL-safe string equality: NULL equals only NULL. */
static inline bool str_eq(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }
/* True for NULL and "". */
static inline bool str_empty(const char *s) { return !s || !*s; }
/* `s`, or "" for NULL. */
static inline const char *str_or_empty(const char *s) { return s ? s : ""; }
static inline bool str_has_prefix(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }
static inline bool str_has_suffix(const char *s, const char *suffix) {
    size_t n = strlen(s), m = strlen(suffix);
    return n >= m && memcmp(s + n - m, suffix, m) == 0;
}

/* Allocation that cannot fail: the process aborts when memory is exhausted, so callers need no check. Anything
 * whose size a peer controls is bounded before it gets here. */
void *xmalloc(size_t n);
void *xcalloc(size_t n, size_t size);
void *xrealloc(void *p, size_t n);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) _printf_(1, 2);

/* Makes room for one more element in a heap vector (doubling). Use: VEC_GROW(v->items, v->n, v->cap). */
#define VEC_GROW(items, n, cap)                                    \
    do {                                                           \
        if ((n) >= (cap)) {                                        \
            (cap) = (cap) ? (cap)*2 : 8;                           \
            (items) = xrealloc((items), (cap) * sizeof(*(items))); \
        }                                                          \
    } while (0)

/* Decimal integer in all of `s` (no spaces, optional '-'): 0, or -EINVAL / -ERANGE. */
int str_to_i64(const char *s, int64_t *out);

/* Whole-file read (up to `max` bytes, -EFBIG beyond): NUL-terminated heap buffer in *out, owned by the caller. */
int file_read(const char *path, size_t max, char **out, size_t *len);
/* Durable replacement: writes `path`.tmp-*, fsyncs, renames, fsyncs the folder. Mode applies to the new file. */
int file_write_atomic(const char *path, const void *data, size_t len, unsigned mode);
/* The same without waiting for the disk: readers see the old file or the new one, but a power cut may leave an empty one.
 * For what is made again when it cannot be read. */
int file_write_quick(const char *path, const void *data, size_t len, unsigned mode);
/* mkdir -p with `mode` for each missing level. 0 or -errno. */
int mkdir_p(const char *path, unsigned mode);
/* read()/write() of exactly n bytes, retrying on EINTR and short counts: 0 or -errno (-EPIPE on early end). */
int fd_write_all(int fd, const void *p, size_t n);
int fd_read_all(int fd, void *p, size_t n);

/* SIGTERM and SIGINT of the whole process, readable from the returned descriptor (signalfd) instead of ending it; to be
 * called before the first thread starts. SIGPIPE is ignored from here on. */
int termination_fd(void);
