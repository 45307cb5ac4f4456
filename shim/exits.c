/* Noticing the end of containers: conmon renames a file into STATE/exits (inotify), and should a monitor itself be
 * killed, its pidfd says so. One thread. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>

#include "proc.h"
#include "shim.h"

enum { EXITS_BATCH = 32, TAG_INOTIFY = 1, TAG_STOP = 2, TAG_PID = 3 };

/* A pidfd's epoll data: tag and descriptor; which container it is, is asked of the shim. */
static uint64_t pack(uint32_t tag, int fd) { return (uint64_t)tag << 32 | (uint32_t)fd; }

static void read_exits(struct shim *s, int ino) {
    char block[8192] __attribute__((aligned(8)));
    ssize_t n = read(ino, block, sizeof(block));
    for (ssize_t at = 0; n > 0 && at + (ssize_t)sizeof(struct inotify_event) <= n;) {
        const struct inotify_event *ev = (const struct inotify_event *)(const void *)(block + at);
        if (ev->len > 0 && is_hex_id(ev->name, SHIM_ID)) {
            struct container *c = container_get(s, ev->name, NULL);
            if (c) container_exited(s, c);
            container_put(s, c);
        }
        at += (ssize_t)sizeof(*ev) + ev->len;
    }
}

static int add(struct shim *s, int fd, uint32_t tag) {
    struct epoll_event ev = {.events = EPOLLIN, .data.u64 = pack(tag, fd)};
    return epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* A monitor or a container without monitor has ended: looks for all running containers of which that is so. */
static void check_lost(struct shim *s) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct container **all;
    size_t n;
    container_all(s, a, NULL, &all, &n);
    for (size_t i = 0; i < n; i++) {
        struct container *c = all[i];
        pthread_mutex_lock(&s->lock);
        struct runtime_proc p = c->proc;
        bool running = c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING, watched = c->pid_watched;
        c->pid_watched = running && !proc_alive(p.monitor, p.monitor_start);
        pthread_mutex_unlock(&s->lock);
        if (watched && proc_alive(p.pid, p.pid_start)) running = false; /* its pidfd is in the set already */
        if (running && !proc_alive(p.monitor, p.monitor_start)) {
            int fd = proc_alive(p.pid, p.pid_start) ? pidfd_open(p.pid, 0) : -1; /* now the container's own pid */
            if (fd < 0 || add(s, fd, TAG_PID) < 0) {
                if (fd >= 0) close(fd);
                container_exited(s, c);
            }
        }
        container_put(s, c);
    }
}

static void *watch(void *arg) {
    struct shim *s = arg;
    struct epoll_event ev[EXITS_BATCH];
    for (;;) {
        int n = epoll_wait(s->watch_fd, ev, EXITS_BATCH, -1);
        if (n < 0 && errno != EINTR) return NULL;
        bool lost = false;
        for (int i = 0; i < n; i++) {
            int fd = (int)(uint32_t)ev[i].data.u64;
            switch (ev[i].data.u64 >> 32) {
                case TAG_STOP: return NULL;
                case TAG_INOTIFY: read_exits(s, fd); break;
                case TAG_PID:
                    epoll_ctl(s->watch_fd, EPOLL_CTL_DEL, fd, NULL);
                    close(fd);
                    lost = true;
                    break;
            }
        }
        if (lost) check_lost(s);
    }
}

int exits_open(struct shim *s, struct err *e) {
    int ino = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    s->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    s->watch_stop = eventfd(0, EFD_CLOEXEC);
    if (ino < 0 || s->watch_fd < 0 || s->watch_stop < 0) return err_errno(e, errno, "exit watcher");
    if (inotify_add_watch(ino, runtime_exit_dir(s->runtime), IN_MOVED_TO | IN_CLOSE_WRITE) < 0)
        return err_errno(e, errno, "watch %s", runtime_exit_dir(s->runtime));
    int r = add(s, ino, TAG_INOTIFY);
    if (r == 0) r = add(s, s->watch_stop, TAG_STOP);
    return r < 0 ? err_errno(e, r, "exit watcher") : 0;
}

int exits_start(struct shim *s, struct err *e) {
    int r = pthread_create(&s->watcher, NULL, watch, s);
    s->watching = r == 0;
    return r ? err_errno(e, r, "exit watcher") : 0;
}

void exits_stop(struct shim *s) {
    if (s->watch_stop < 0) return;
    uint64_t one = 1;
    if (s->watching && write(s->watch_stop, &one, sizeof(one)) == sizeof(one)) pthread_join(s->watcher, NULL);
    close(take_fd(&s->watch_stop));
    close(take_fd(&s->watch_fd));
}

void exits_watch(struct shim *s, struct container *c) {
    if (s->watch_fd < 0) return;
    bool monitored = proc_alive(c->proc.monitor, c->proc.monitor_start);
    int fd = monitored ? pidfd_open(c->proc.monitor, 0) : -1;
    if (fd >= 0 && add(s, fd, TAG_PID) == 0) return;
    if (fd >= 0) close(fd);
    check_lost(s); /* it has ended already */
}
