#include <fcntl.h>
#include <poll.h>
#include <sys/pidfd.h>

#include "pkg/base/ktime.h"
#include "shim.h"
#include "spec.h"

int container_exec_process(struct arena *a, struct container *c, const struct str_vec *cmd, bool tty, struct json **out,
                           struct err *e) {
    struct json *spec;
    if (cmd->n == 0) return err_set(e, -EINVAL, "no command");
    int r = fs_read_json(a, arena_printf(a, "%s/config.json", c->bundle), &spec, e);
    if (r == 0) *out = spec_exec_process(a, spec, cmd, tty);
    return r;
}

static int check_running(struct shim *s, struct container *c, struct err *e) {
    pthread_mutex_lock(&s->lock);
    bool running = c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
    pthread_mutex_unlock(&s->lock);
    return running ? 0 : err_set(e, -EINVAL, "container %s is not running", c->id);
}

struct collector {
    struct pollfd p[3]; /* stdout, stderr, and the process's end */
    struct buf *bufs[2];
};

static void collect_some(struct collector *c, int i) {
    char block[16 << 10];
    ssize_t got = read(c->p[i].fd, block, sizeof(block));
    if (got > 0)
        buf_add(c->bufs[i], block, (size_t)got);
    else if (got == 0 || errno != EINTR)
        c->p[i].fd = -1;
}

/* Collects both outputs until they end, the process ends or the deadline (ns, 0: none) passes: false then. What the
 * process has written before its end is still read; what its children in the background write later is not waited
 * for. Beyond the buffers' limits bytes are dropped, so that the command does not block. */
static bool collect(struct collector *c, int64_t deadline) {
    bool ended = false;
    while (c->p[0].fd >= 0 || c->p[1].fd >= 0) {
        int64_t left = deadline ? (deadline - mono_ns()) / NS_PER_MS + 1 : 3600000;
        if (deadline && left <= 0) return false;
        int n = poll(c->p, 3, ended ? 0 : (int)MIN_OF(left, (int64_t)3600000));
        if (n < 0 && errno != EINTR) return true;
        if (n == 0 && ended) return true;
        if (n > 0 && c->p[2].revents) c->p[2].fd = -1, ended = true;
        for (int i = 0; n > 0 && i < 2; i++)
            if (c->p[i].fd >= 0 && c->p[i].revents) collect_some(c, i);
    }
    return true;
}

int container_exec_sync(struct shim *s, struct container *c, const struct str_vec *cmd, int64_t timeout_s,
                        struct buf *out, struct buf *err, int *exit_code, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_close_ int or = -1, ow = -1, er = -1, ew = -1;
    struct json *process;
    struct runtime_exec_run run;
    int p[2], r = check_running(s, c, e);
    if (r == 0) r = container_exec_process(a, c, cmd, false, &process, e);
    if (r < 0) return r;
    if (pipe2(p, O_CLOEXEC) < 0) return err_errno(e, errno, "pipe");
    or = p[0], ow = p[1];
    if (pipe2(p, O_CLOEXEC) < 0) return err_errno(e, errno, "pipe");
    er = p[0], ew = p[1];
    struct runtime_exec x = {.id = c->id, .bundle = c->bundle, .process = process, .in = -1, .out = ow, .err = ew};
    r = runtime_exec(runtime_of(s, c), &x, &run, e);
    if (r < 0) return r;
    close(take_fd(&ow));
    close(take_fd(&ew));
    int64_t deadline = timeout_s > 0 ? mono_ns() + timeout_s * NS_PER_SEC : 0;
    _cleanup_close_ int end = pidfd_open(run.runtime, 0);
    struct collector col = {{{ or, POLLIN, 0}, {er, POLLIN, 0}, {end, POLLIN, 0}}, {out, err}};
    bool late = !collect(&col, deadline);
    int left_ms = deadline ? (int)MAX_OF((deadline - mono_ns()) / NS_PER_MS, (int64_t)1) : 0;
    r = runtime_exec_wait(runtime_of(s, c), &run, left_ms, e);
    if (late || r == -ETIMEDOUT) return err_set(e, -ETIMEDOUT, "command timed out after %lld s", (long long)timeout_s);
    if (r < 0) return r;
    *exit_code = r;
    return 0;
}
