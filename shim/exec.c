#include <fcntl.h>
#include <poll.h>

#include "pkg/base/ktime.h"
#include "shim.h"
#include "spec.h"

int container_exec_process(struct arena *a, struct container *c, const struct str_vec *cmd, bool tty,
                           struct json **out, struct err *e) {
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

/* Collects both outputs until they end or the deadline (ns, 0: none) passes. Beyond the limit bytes are dropped, so
 * that the command does not block. */
static void collect(int out_fd, int err_fd, struct buf *out, struct buf *err, int64_t deadline, bool *late) {
    char block[16 << 10];
    struct pollfd p[2] = {{out_fd, POLLIN, 0}, {err_fd, POLLIN, 0}};
    struct buf *bufs[2] = {out, err};
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        int64_t left = deadline ? (deadline - mono_ns()) / NS_PER_MS + 1 : -1;
        if (deadline && left <= 0) {
            *late = true;
            return;
        }
        int n = poll(p, 2, deadline ? (int)MIN_OF(left, (int64_t)3600000) : -1);
        if (n < 0 && errno != EINTR) return;
        for (int i = 0; n > 0 && i < 2; i++) {
            if (p[i].fd < 0 || !p[i].revents) continue;
            ssize_t got = read(p[i].fd, block, sizeof(block));
            if (got > 0) buf_add(bufs[i], block, (size_t)got);
            else if (got == 0 || errno != EINTR) p[i].fd = -1;
        }
    }
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
    r = runtime_exec(s->runtime, &x, &run, e);
    if (r < 0) return r;
    close(take_fd(&ow));
    close(take_fd(&ew));
    bool late = false;
    int64_t deadline = timeout_s > 0 ? mono_ns() + timeout_s * NS_PER_SEC : 0;
    collect(or, er, out, err, deadline, &late);
    int left_ms = deadline ? (int)MAX_OF((deadline - mono_ns()) / NS_PER_MS, (int64_t)1) : 0;
    r = runtime_exec_wait(s->runtime, &run, left_ms, e);
    if (late || r == -ETIMEDOUT) return err_set(e, -ETIMEDOUT, "command timed out after %lld s", (long long)timeout_s);
    if (r < 0) return r;
    *exit_code = r;
    return 0;
}
