/* See logs.h. */
#include "kubelet/logs.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "pkg/base/buf.h"

enum { CHUNK = 16384, FOLLOW_POLL_MS = 500 };

int64_t logs_tail_offset(int fd, int64_t n) {
    struct stat st;
    if (n < 0 || fstat(fd, &st) < 0) return 0;
    if (n == 0) return st.st_size;
    int64_t end = st.st_size, seen = 0;
    char block[CHUNK];
    /* The newline that ends the last line starts no line. */
    for (int64_t at = end; at > 0;) {
        int64_t start = at > CHUNK ? at - CHUNK : 0;
        ssize_t got = pread(fd, block, (size_t)(at - start), start);
        if (got <= 0) return 0;
        for (ssize_t i = got - 1; i >= 0; i--)
            if (block[i] == '\n' && start + i + 1 != end && ++seen == n) return start + i + 1;
        at = start;
    }
    return 0;
}

struct reader {
    const struct log_options *o;
    const struct log_sink *sink;
    struct buf line; /* an incomplete line at the end of what was read */
    struct buf out;  /* for the sink: whole lines, as many as one read gave */
    int64_t left;    /* of limit_bytes */
    bool mid_line;   /* the last piece written was partial: no new timestamp */
};

static int put(struct reader *r, const char *p, size_t n) {
    if (!n) return 0;
    if (r->o->limit_bytes >= 0) {
        if ((int64_t)n > r->left) n = (size_t)r->left;
        r->left -= (int64_t)n;
    }
    buf_add(&r->out, p, n);
    return r->o->limit_bytes >= 0 && r->left == 0 ? 1 : 0;
}

static int flush(struct reader *r) {
    int rc = r->out.len ? r->sink->write(r->sink->arg, r->out.data, r->out.len) : 0;
    buf_reset(&r->out);
    return rc;
}

/* One record: time, stream, tags, text. What does not look like one is passed through as it is. */
static int record(struct reader *r, char *s, size_t n) {
    char *sp1 = memchr(s, ' ', n), *sp2 = sp1 ? memchr(sp1 + 1, ' ', n - (size_t)(sp1 + 1 - s)) : NULL;
    char *sp3 = sp2 ? memchr(sp2 + 1, ' ', n - (size_t)(sp2 + 1 - s)) : NULL;
    struct ktime t = {0};
    char stamp[KTIME_MAX];
    if (!sp2 || (size_t)(sp1 - s) >= sizeof(stamp)) return 0; /* a torn or foreign line: skipped, as upstream does */
    memcpy(stamp, s, (size_t)(sp1 - s));
    stamp[sp1 - s] = '\0';
    if (ktime_parse(stamp, &t) < 0) return 0;
    bool is_out = sp2 - sp1 == 7 && memcmp(sp1 + 1, "stdout", 6) == 0;
    bool is_err = sp2 - sp1 == 7 && memcmp(sp1 + 1, "stderr", 6) == 0;
    if ((!is_out && !is_err) || (r->o->only_stdout && !is_out) || (r->o->only_stderr && !is_err)) return 0;
    if (r->o->since.set && ktime_cmp(t, r->o->since) < 0) return 0;
    bool partial = sp2[1] == 'P';
    char *text = sp3 ? sp3 + 1 : s + n;
    size_t len = (size_t)(s + n - text);
    int rc = 0;
    if (r->o->timestamps && !r->mid_line) {
        ktime_format_nano(t, stamp); /* monitors write offsets of their own */
        rc = put(r, stamp, strlen(stamp));
        if (rc == 0) rc = put(r, " ", 1);
    }
    if (rc == 0) rc = put(r, text, len);
    if (rc == 0 && !partial) rc = put(r, "\n", 1);
    r->mid_line = partial;
    return rc;
}

/* Feeds bytes; complete lines become records. */
static int feed(struct reader *r, const char *p, size_t n) {
    while (n) {
        const char *nl = memchr(p, '\n', n);
        size_t take = nl ? (size_t)(nl - p) : n;
        if (r->line.len + take <= LOG_LINE_MAX) buf_add(&r->line, p, take);
        p += take + (nl ? 1 : 0);
        n -= take + (nl ? 1 : 0);
        if (!nl) break;
        int rc = r->line.len ? record(r, r->line.data, r->line.len) : 0;
        buf_reset(&r->line);
        if (rc) return rc;
    }
    return 0;
}

static int drain(struct reader *r, int fd) {
    char block[CHUNK];
    for (;;) {
        ssize_t got = read(fd, block, sizeof(block));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -errno;
        if (got == 0) return 0;
        int rc = feed(r, block, (size_t)got), sent = flush(r);
        if (rc || sent) return sent ? sent : rc;
    }
}

/* Rotation renames the file and makes a new one of the same name. */
static bool replaced(const char *path, int fd) {
    struct stat now, have;
    return stat(path, &now) == 0 && fstat(fd, &have) == 0 && (now.st_ino != have.st_ino || now.st_dev != have.st_dev);
}

static int follow(struct reader *r, const char *path, int *fd) {
    _cleanup_close_ int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    _cleanup_free_ char *dir = xstrdup(path);
    char *slash = strrchr(dir, '/');
    if (slash) *slash = '\0';
    if (watch >= 0) inotify_add_watch(watch, slash ? dir : ".", IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM);
    for (;;) {
        /* Asked before the last read, so that nothing written before the end is missed. */
        bool running = !r->sink->running || r->sink->running(r->sink->arg);
        int rc = drain(r, *fd);
        if (rc) return rc;
        if (replaced(path, *fd)) {
            int next = open(path, O_RDONLY | O_CLOEXEC);
            if (next >= 0) {
                close(*fd);
                *fd = next;
                continue;
            }
        }
        if (!running) return 0;
        struct pollfd p = {.fd = watch, .events = POLLIN};
        poll(&p, watch >= 0 ? 1 : 0, FOLLOW_POLL_MS);
        char events[4096];
        while (watch >= 0 && read(watch, events, sizeof(events)) > 0) {
        }
        rc = r->sink->write(r->sink->arg, "", 0); /* lets the sink say that its reader has gone */
        if (rc) return rc;
    }
}

int logs_read(const char *path, const struct log_options *o, const struct log_sink *sink, struct err *e) {
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return err_errno(e, errno, "failed to try resolving symlinks in path \"%s\"", path);
    struct reader r = {.o = o, .sink = sink, .left = o->limit_bytes};
    if (o->limit_bytes == 0) return 0;
    lseek(fd, logs_tail_offset(fd, o->tail), SEEK_SET);
    int rc = o->follow ? follow(&r, path, &fd) : drain(&r, fd);
    buf_done(&r.line);
    buf_done(&r.out);
    return rc;
}

struct text_sink {
    struct buf b;
    size_t max;
};

static int collect(void *arg, const char *p, size_t n) {
    struct text_sink *t = arg;
    buf_add(&t->b, p, n);
    if (t->b.len > t->max) buf_consume(&t->b, t->b.len - t->max);
    return 0;
}

char *logs_tail_text(const char *path, int64_t lines, size_t max) {
    struct text_sink t = {.max = max};
    struct log_options o = LOG_OPTIONS_INIT;
    o.tail = lines;
    struct log_sink sink = {.write = collect, .arg = &t};
    int r = logs_read(path, &o, &sink, NULL);
    char *text = r < 0 || !t.b.len ? NULL : buf_take(&t.b);
    buf_done(&t.b);
    return text;
}
