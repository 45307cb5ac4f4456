#include "util.h"

#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

static _noreturn_ void out_of_memory(void) {
    static const char msg[] = "out of memory\n";
    ssize_t ignored = write(STDERR_FILENO, msg, sizeof(msg) - 1);
    (void)ignored;
    abort();
}

void *xmalloc(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) out_of_memory();
    return p;
}

void *xcalloc(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) out_of_memory();
    return p;
}

void *xrealloc(void *p, size_t n) {
    void *q = realloc(p, n ? n : 1);
    if (!q) out_of_memory();
    return q;
}

char *xstrndup(const char *s, size_t n) {
    char *p = xmalloc(n + 1);
    memcpy(p, s, n);
    p[n] = 0;
    return p;
}

char *xstrdup(const char *s) { return xstrndup(s, strlen(s)); }

char *xasprintf(const char *fmt, ...) {
    va_list ap;
    char *p;
    va_start(ap, fmt);
    int n = vasprintf(&p, fmt, ap);
    va_end(ap);
    if (n < 0) out_of_memory();
    return p;
}

int str_to_i64(const char *s, int64_t *out) {
    if (!s || !*s) return -EINVAL;
    bool neg = *s == '-';
    if (neg) s++;
    if (!*s) return -EINVAL;
    int64_t v = 0;
    for (; *s; s++) {
        if (*s < '0' || *s > '9') return -EINVAL;
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_sub_overflow(v, *s - '0', &v)) return -ERANGE;
    }
    if (!neg && __builtin_sub_overflow((int64_t)0, v, &v)) return -ERANGE;
    *out = v;
    return 0;
}

int file_read(const char *path, size_t max, char **out, size_t *len) {
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    size_t n = 0, cap = 4096;
    struct stat st;
    if (fstat(fd, &st) == 0 && st.st_size > 0 && (size_t)st.st_size <= max) cap = (size_t)st.st_size + 1;
    _cleanup_free_ char *p = xmalloc(cap);
    for (;;) {
        if (n + 1 >= cap) p = xrealloc(p, cap *= 2);
        ssize_t r = read(fd, p + n, cap - n - 1);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        if (r == 0) break;
        n += (size_t)r;
        if (n > max) return -EFBIG;
    }
    p[n] = 0;
    *out = take_ptr(p);
    if (len) *len = n;
    return 0;
}

int fd_write_all(int fd, const void *p, size_t n) {
    const char *b = p;
    while (n > 0) {
        ssize_t r = write(fd, b, n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        b += r;
        n -= (size_t)r;
    }
    return 0;
}

int fd_read_all(int fd, void *p, size_t n) {
    char *b = p;
    while (n > 0) {
        ssize_t r = read(fd, b, n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        if (r == 0) return -EPIPE;
        b += r;
        n -= (size_t)r;
    }
    return 0;
}

static int fsync_parent(const char *path) {
    _cleanup_free_ char *copy = xstrdup(path);
    _cleanup_close_ int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

static int file_replace(const char *path, const void *data, size_t len, unsigned mode, bool durable) {
    _cleanup_free_ char *tmp = xasprintf("%s.tmp-XXXXXX", path);
    _cleanup_close_ int fd = mkostemp(tmp, O_CLOEXEC);
    if (fd < 0) return -errno;
    int r = fd_write_all(fd, data, len);
    if (r == 0 && (fchmod(fd, mode) < 0 || (durable && fsync(fd) < 0) || rename(tmp, path) < 0)) r = -errno;
    if (r < 0) unlink(tmp);
    return r;
}

int file_write_atomic(const char *path, const void *data, size_t len, unsigned mode) {
    int r = file_replace(path, data, len, mode, true);
    return r < 0 ? r : fsync_parent(path);
}

int file_write_quick(const char *path, const void *data, size_t len, unsigned mode) {
    return file_replace(path, data, len, mode, false);
}

int mkdir_p(const char *path, unsigned mode) {
    char p[PATH_MAX];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(p)) return n ? -ENAMETOOLONG : -EINVAL;
    memcpy(p, path, n + 1);
    for (char *s = p + 1;; s++) {
        if (*s && *s != '/') continue;
        char c = *s;
        *s = 0;
        if (mkdir(p, mode) < 0 && errno != EEXIST) return -errno;
        if (!c) return 0;
        *s = c;
    }
}

int termination_fd(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    return signalfd(-1, &set, SFD_CLOEXEC);
}
