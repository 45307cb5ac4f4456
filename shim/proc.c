#include "proc.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "fsutil.h"
#include "pkg/base/ktime.h"

extern char **environ;

enum { PROC_MAX_ENV = 512 };

static int add_stdio(posix_spawn_file_actions_t *fa, int fd, int target) {
    if (fd >= 0) return posix_spawn_file_actions_adddup2(fa, fd, target);
    return posix_spawn_file_actions_addopen(fa, target, "/dev/null", target == 0 ? O_RDONLY : O_WRONLY, 0);
}

static int build_actions(posix_spawn_file_actions_t *fa, const struct proc_opts *o) {
    int r = add_stdio(fa, o->in, 0);
    if (!r) r = add_stdio(fa, o->out, 1);
    if (!r) r = add_stdio(fa, o->err, 2);
    for (size_t i = 0; !r && i < ARRAY_LEN(o->keep); i++)
        if (o->keep[i] > 0) r = posix_spawn_file_actions_adddup2(fa, o->keep[i], o->keep[i]); /* drops close-on-exec */
    if (!r && o->cwd) r = posix_spawn_file_actions_addchdir_np(fa, o->cwd);
    return r;
}

static int spawn_here(const struct proc_opts *o, pid_t *pid) {
    posix_spawn_file_actions_t fa;
    posix_spawnattr_t attr;
    sigset_t all, none;
    const char *env[PROC_MAX_ENV];
    size_t n = 0;
    for (size_t i = 0; o->env && o->env[i] && n < PROC_MAX_ENV - 1; i++) env[n++] = o->env[i];
    for (size_t i = 0; environ[i] && n < PROC_MAX_ENV - 1; i++)
        if (!str_has_prefix(environ[i], "NOTIFY_SOCKET=") && !str_has_prefix(environ[i], "LISTEN_"))
            env[n++] = environ[i]; /* what a service manager said to the shim is not meant for containers */
    env[n] = NULL;
    posix_spawn_file_actions_init(&fa);
    posix_spawnattr_init(&attr);
    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    int r = build_actions(&fa, o);
    if (!r) r = posix_spawnp(pid, o->argv[0], &fa, &attr, (char *const *)(void *)o->argv, (char *const *)(void *)env);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&fa);
    return -r;
}

struct spawn_in_ns {
    const struct proc_opts *o;
    pid_t pid;
    int r;
};

static void *spawn_thread(void *arg) {
    struct spawn_in_ns *s = arg;
    s->r = setns(s->o->netns, CLONE_NEWNET) < 0 ? -errno : spawn_here(s->o, &s->pid);
    return NULL;
}

pid_t proc_spawn(const struct proc_opts *o, struct err *e) {
    struct spawn_in_ns s = {.o = o, .pid = -1};
    if (o->netns > 0) {
        pthread_t t;
        s.r = -pthread_create(&t, NULL, spawn_thread, &s);
        if (s.r == 0) pthread_join(t, NULL);
    } else {
        s.r = spawn_here(o, &s.pid);
    }
    return s.r < 0 ? err_errno(e, s.r, "start %s", o->argv[0]) : s.pid;
}

static int wait_code(pid_t pid, struct err *e) {
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return err_errno(e, errno, "wait for process %d", (int)pid);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int proc_wait(pid_t pid, int timeout_ms, struct err *e) {
    if (timeout_ms < 0) return wait_code(pid, e);
    _cleanup_close_ int fd = pidfd_open(pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (fd < 0) return wait_code(pid, e);
    int64_t end = mono_ns() + (int64_t)timeout_ms * NS_PER_MS;
    for (;;) {
        int64_t left = (end - mono_ns()) / NS_PER_MS;
        int r = poll(&p, 1, left < 0 ? 0 : (int)left + 1);
        if (r > 0) return wait_code(pid, e);
        if (r == 0 || (r < 0 && errno != EINTR))
            return err_set(e, -ETIMEDOUT, "process %d did not end in time", (int)pid);
    }
}

void proc_wait_end(pid_t pid) {
    siginfo_t info;
    while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
    }
}

struct pipes {
    int in, out, err; /* our ends */
};

static void close_one(int *fd) {
    if (*fd >= 0) close(take_fd(fd));
}

static void drain(int *fd, struct buf *b) {
    char block[16 << 10];
    ssize_t n = read(*fd, block, sizeof(block));
    if (n > 0)
        buf_add(b, block, (size_t)n);
    else if (n == 0 || (errno != EINTR && errno != EAGAIN))
        close_one(fd);
}

static void feed(int *fd, const char **input) {
    ssize_t n = write(*fd, *input, strlen(*input));
    if (n > 0) *input += n;
    if ((n < 0 && errno != EAGAIN && errno != EINTR) || !**input) close_one(fd);
}

/* Moves bytes until both outputs have ended; -ETIMEDOUT at the deadline. */
static int pump(struct pipes *p, const char *input, struct buf *out, struct buf *err, int64_t deadline) {
    while (p->out >= 0 || p->err >= 0 || p->in >= 0) {
        struct pollfd pf[3] = {{p->out, POLLIN, 0}, {p->err, POLLIN, 0}, {p->in, POLLOUT, 0}};
        int64_t left = deadline ? (deadline - mono_ns()) / NS_PER_MS : -1;
        if (deadline && left < 0) return -ETIMEDOUT;
        int r = poll(pf, 3, deadline ? (int)MIN_OF(left + 1, (int64_t)3600000) : -1);
        if (r < 0 && errno != EINTR) return -errno;
        if (r <= 0) continue;
        if (pf[0].revents) drain(&p->out, out);
        if (pf[1].revents) drain(&p->err, err);
        if (pf[2].revents) feed(&p->in, &input);
    }
    return 0;
}

int proc_run(const struct proc_opts *opts, const char *input, struct buf *out, struct buf *err, int timeout_ms,
             struct err *e) {
    struct proc_opts o = *opts;
    struct pipes p = {-1, -1, -1};
    int pin[2] = {-1, -1}, pout[2] = {-1, -1}, perr[2] = {-1, -1}, r = 0;
    if (input && pipe2(pin, O_CLOEXEC) < 0) r = -errno;
    if (r == 0 && out && pipe2(pout, O_CLOEXEC) < 0) r = -errno;
    if (r == 0 && err && pipe2(perr, O_CLOEXEC) < 0) r = -errno;
    if (input) o.in = pin[0];
    if (out) o.out = pout[1];
    if (err) o.err = perr[1];
    pid_t pid = r < 0 ? err_errno(e, r, "pipe") : proc_spawn(&o, e);
    close_one(&pin[0]);
    close_one(&pout[1]);
    close_one(&perr[1]);
    p = (struct pipes){pin[1], pout[0], perr[0]};
    int64_t deadline = timeout_ms > 0 ? mono_ns() + (int64_t)timeout_ms * NS_PER_MS : 0;
    if (p.in >= 0) fcntl(p.in, F_SETFL, O_NONBLOCK);
    r = pid < 0 ? pid : pump(&p, str_or_empty(input), out, err, deadline);
    close_one(&p.in);
    close_one(&p.out);
    close_one(&p.err);
    if (pid < 0) return r;
    if (r == 0 && deadline) {
        int64_t left = (deadline - mono_ns()) / NS_PER_MS;
        r = proc_wait(pid, left < 0 ? 0 : (int)left, e);
        if (r != -ETIMEDOUT) return r;
    } else if (r == 0) {
        return wait_code(pid, e);
    }
    kill(pid, SIGKILL);
    wait_code(pid, NULL);
    return err_set(e, -ETIMEDOUT, "%s did not end within %d ms", o.argv[0], timeout_ms);
}

uint64_t proc_start_time(pid_t pid) {
    char path[64], text[1024];
    if (pid <= 0) return 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    if (fs_read_str(path, text, sizeof(text)) < 0) return 0;
    char *p = strrchr(text, ')'); /* the name may hold anything */
    if (!p || !p[1] || p[2] == 'Z' || p[2] == 'X') return 0;
    p += 2;
    for (int field = 3; field < 22; field++) {
        p = strchr(p, ' ');
        if (!p) return 0;
        p++;
    }
    return strtoull(p, NULL, 10);
}

bool proc_alive(pid_t pid, uint64_t start_time) {
    uint64_t now = proc_start_time(pid);
    return now != 0 && now == start_time;
}

int proc_kill(pid_t pid, uint64_t start_time, int sig) {
    _cleanup_close_ int fd = pid > 0 ? pidfd_open(pid, 0) : -1;
    if (fd < 0 || !proc_alive(pid, start_time)) return -ESRCH;
    return pidfd_send_signal(fd, sig, NULL, 0) < 0 ? -errno : 0;
}

int signal_parse(const char *name) {
    int64_t n;
    if (str_empty(name)) return -EINVAL;
    if (str_to_i64(name, &n) == 0) return n > 0 && n <= SIGRTMAX ? (int)n : -EINVAL;
    if (str_has_prefix(name, "SIG")) name += 3;
    if (str_has_prefix(name, "RTMIN") || str_has_prefix(name, "RTMAX")) {
        bool min = name[4] == 'N';
        const char *rest = name + 5;
        if (str_has_prefix(rest, "PLUS"))
            n = strtol(rest + 4, NULL, 10);
        else if (str_has_prefix(rest, "MINUS"))
            n = -strtol(rest + 5, NULL, 10);
        else
            n = *rest ? strtol(rest, NULL, 10) : 0; /* "+3", "-1" */
        n += min ? SIGRTMIN : SIGRTMAX;
        return n >= SIGRTMIN && n <= SIGRTMAX ? (int)n : -EINVAL;
    }
    static const struct {
        const char *name;
        int sig;
    } other[] = {{"CLD", SIGCHLD}, {"IOT", SIGABRT}, {"POLL", SIGPOLL}};
    for (size_t i = 0; i < ARRAY_LEN(other); i++)
        if (str_eq(name, other[i].name)) return other[i].sig;
    for (int s = 1; s < SIGRTMIN; s++)
        if (str_eq(name, sigabbrev_np(s))) return s;
    return -EINVAL;
}
