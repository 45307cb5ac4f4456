/* Reads container logs as the runtime writes them (the CRI log format):
 *
 *     2026-01-02T03:04:05.123456789Z stdout F a whole line
 *     2026-01-02T03:04:05.123456789Z stderr P a piece of a line that goes on
 *
 * and gives what `kubectl logs` asks for: tail, since, limit, timestamps, follow across rotation.
 * Upstream: k8s.io/cri-client/pkg/logs. */
#pragma once

#include "pkg/base/err.h"
#include "pkg/base/ktime.h"

struct log_options {
    bool follow, timestamps;
    bool only_stdout, only_stderr;
    int64_t tail;        /* last lines; -1: all */
    int64_t limit_bytes; /* -1: no limit */
    struct ktime since;  /* unset: from the start */
};
#define LOG_OPTIONS_INIT \
    { .tail = -1, .limit_bytes = -1 }

struct log_sink {
    /* Non-zero ends the reading. */
    int (*write)(void *arg, const char *p, size_t n);
    /* For follow: whether more can come. NULL: never ends by itself. */
    bool (*running)(void *arg);
    void *arg;
};

enum { LOG_LINE_MAX = 256 * 1024 }; /* longer lines are cut; runtimes split at 16 KiB */

/* 0 at the end, the sink's value, or a negative code (-ENOENT: no such log). Blocks while following. */
int logs_read(const char *path, const struct log_options *o, const struct log_sink *sink, struct err *e);
/* Offset at which the last n lines of a file start. */
int64_t logs_tail_offset(int fd, int64_t n);
/* The last lines of a log as plain text, at most `max` bytes: a container's termination message. Heap, or
 * NULL. */
char *logs_tail_text(const char *path, int64_t lines, size_t max);
