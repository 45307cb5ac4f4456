/* Child processes and the identity of processes. A pid alone is no identity: it may have been used again, so records
 * keep the start time beside it. */
#pragma once

#include <sys/types.h>

#include "pkg/base/buf.h"
#include "pkg/base/err.h"

struct proc_opts {
    const char *const *argv; /* argv[0] is the program, looked for in PATH when it has no slash */
    const char *const *env;  /* added to (in front of) the own environment; may be NULL */
    int in, out, err;        /* -1: /dev/null */
    int keep[2];             /* descriptors the child inherits under their own numbers; 0: none */
    const char *cwd;         /* or NULL */
    int netns;               /* > 0: a network namespace the child runs in */
};

/* Starts a program with default signals. The pid, or a negative code. */
pid_t proc_spawn(const struct proc_opts *o, struct err *e);
/* Waits for a child at most timeout_ms (< 0: for ever). Exit code (128 + signal when killed) or -ETIMEDOUT. */
int proc_wait(pid_t pid, int timeout_ms, struct err *e);
/* Waits for a child's end without collecting it: its pid stays its own until proc_wait. */
void proc_wait_end(pid_t pid);
/* Runs a program to its end with `input` (may be NULL) on stdin; stdout and stderr are collected (each may be NULL)
 * up to the buffers' limits. After timeout_ms (<= 0: none) it is killed: -ETIMEDOUT. Else the exit code. */
int proc_run(const struct proc_opts *o, const char *input, struct buf *out, struct buf *err, int timeout_ms,
             struct err *e);

/* Start time of a process in clock ticks since boot; 0 when there is none (or it is a zombie). */
uint64_t proc_start_time(pid_t pid);
/* True when this very process is still alive. */
bool proc_alive(pid_t pid, uint64_t start_time);
/* Signals this very process: 0, -ESRCH. */
int proc_kill(pid_t pid, uint64_t start_time, int sig);
/* "SIGTERM", "TERM", "15": the number, or -EINVAL. */
int signal_parse(const char *name);
