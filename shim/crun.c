/* The runtime interface with crun and conmon.
 *
 *   STATE/crun/ID           crun's own state (--root)
 *   STATE/exits/ID          written by conmon when the container ends: its exit code
 *   STATE/attach/ID/attach  conmon's stream socket
 *   BUNDLE/                 config.json, pid, conmon.pid, ctl (fifo), oom, runtime.log
 *
 * Steps that are cheap enough to do without another program are done here: starting (a byte into crun's exec fifo) and
 * forgetting an ended container (its state folder and cgroup). Corresponds to containerd's runc shim. */
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "cgroup.h"
#include "fsutil.h"
#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "proc.h"
#include "runtime.h"
#include "sealed.h"

enum {
    CREATE_TIMEOUT_MS = 120000,
    UPDATE_TIMEOUT_MS = 30000,
    PID_FILE_WAIT_MS = 5000,
    SYNC_MESSAGE_MAX = 64 << 10,
    CONMON_REOPEN_LOG = 2,
    CONMON_RESIZE = 1,
};

struct runtime {
    char *program, *monitor, *helper, *state;
    char *root_arg; /* --root=STATE/crun */
    char *exits, *attach;
    char version[32];
    struct sealed *sealed; /* the program in memory; NULL: it is run as it is */
    bool runc;             /* its container waits to be read from, where crun's waits for a byte */
    bool wrap;             /* run the program through the helper: hybrid cgroups */
};

static const char *program(struct runtime *r) { return r->sealed ? sealed_path(r->sealed) : r->program; }

static int read_version(struct runtime *r, struct err *e) {
    const char *argv[] = {program(r), "--version", NULL};
    _cleanup_buf_ struct buf out = {.limit = 4096};
    struct proc_opts o = {.argv = argv, .in = -1, .out = -1, .err = -1};
    int rc = proc_run(&o, NULL, &out, NULL, 10000, e);
    if (rc < 0) return rc;
    if (rc != 0 || !out.data) return err_set(e, -EIO, "%s --version failed", r->program);
    const char *p = strstr(out.data, "version ");
    snprintf(r->version, sizeof(r->version), "%.*s", p ? (int)strcspn(p + 8, " \n") : 0, p ? p + 8 : "");
    return 0;
}

struct runtime *runtime_new(const struct runtime_options *o, struct err *e) {
    struct runtime *r = xcalloc(1, sizeof(*r));
    r->program = xstrdup(o->program);
    r->monitor = xstrdup(o->monitor);
    r->helper = xstrdup(o->helper);
    r->state = xstrdup(o->state);
    const char *slash = strrchr(o->program, '/'), *name = slash ? slash + 1 : o->program;
    r->runc = strstr(name, "runc") != NULL;
    r->root_arg = xasprintf("--root=%s/%s", o->state, name);
    r->exits = xasprintf("%s/exits", o->state);
    r->attach = xasprintf("%s/attach", o->state);
    r->wrap = cgroup_is_hybrid();
    int rc = mkdir_p(r->root_arg + strlen("--root="), 0700);
    if (rc == 0) rc = mkdir_p(r->exits, 0700);
    if (rc == 0) rc = mkdir_p(r->attach, 0700);
    if (rc < 0) err_errno(e, rc, "prepare %s", o->state);
    if (rc == 0 && access(r->monitor, X_OK) < 0) rc = err_errno(e, errno, "monitor %s", r->monitor);
    if (rc == 0 && r->wrap && access(r->helper, X_OK) < 0) rc = err_errno(e, errno, "helper %s", r->helper);
    if (rc == 0 && !o->secondary) {
        r->sealed = sealed_new(r->program, NULL);
        rc = read_version(r, r->sealed ? NULL : e);
        if (rc < 0 && r->sealed) { /* a machine may forbid to execute what is in memory */
            r->sealed = sealed_free(r->sealed);
            rc = read_version(r, e);
        }
    }
    return rc < 0 ? runtime_free(r) : r;
}

struct runtime *runtime_free(struct runtime *r) {
    if (!r) return NULL;
    sealed_free(r->sealed);
    free(r->program);
    free(r->monitor);
    free(r->helper);
    free(r->state);
    free(r->root_arg);
    free(r->exits);
    free(r->attach);
    free(r);
    return NULL;
}

bool runtime_is_crun(const struct runtime *r) { return !r->runc; }
const char *runtime_version(struct runtime *r) { return r->version; }
const char *runtime_exit_dir(struct runtime *r) { return r->exits; }

/* argv of the OCI runtime up to its global options; returns the count. */
static size_t program_argv(struct runtime *r, const char **argv) {
    size_t n = 0;
    if (r->wrap) {
        argv[n++] = r->helper;
        argv[n++] = "runtime";
    }
    argv[n++] = program(r);
    argv[n++] = r->root_arg;
    return n;
}

/* ---- create ---- */

static void monitor_argv(struct runtime *r, struct arena *a, const struct runtime_create *c, const char **argv) {
    size_t n = 0;
    argv[n++] = r->monitor;
    const char *const pairs[][2] = {
        {"-b", c->bundle},
        {"-c", c->id},
        {"-u", c->id},
        {"-n", c->id},
        {"-r", r->wrap ? r->helper : program(r)},
        {"-p", arena_printf(a, "%s/pid", c->bundle)},
        {"-P", arena_printf(a, "%s/conmon.pid", c->bundle)},
        {"-l", c->log_path ? arena_printf(a, "k8s-file:%s", c->log_path) : "none"},
        {"--exit-dir", r->exits},
        {"--persist-dir", c->bundle},
        {"--socket-dir-path", r->attach},
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        argv[n++] = pairs[i][0];
        argv[n++] = pairs[i][1];
    }
    if (r->wrap) {
        argv[n++] = "--runtime-arg=runtime";
        argv[n++] = arena_printf(a, "--runtime-arg=%s", program(r));
    }
    argv[n++] = arena_printf(a, "--runtime-arg=%s", r->root_arg);
    argv[n++] = "--no-sync-log";
    if (c->tty) argv[n++] = "-t";
    if (c->stdin_open) argv[n++] = "-i";
    if (c->stdin_open && !c->stdin_once) argv[n++] = "--leave-stdin-open";
    argv[n] = NULL;
}

/* Waits for conmon's line {"data": PID} or {"data": -1, "message": "..."} on the sync pipe. */
static int read_sync(int fd, pid_t *pid, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = {.limit = SYNC_MESSAGE_MAX};
    char block[1024];
    int64_t end = mono_ns() + (int64_t)CREATE_TIMEOUT_MS * NS_PER_MS;
    while (!b.data || !strchr(b.data, '\n')) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = (end - mono_ns()) / NS_PER_MS;
        int n = poll(&p, 1, left > 0 ? (int)left : 0);
        if (n == 0) return err_set(e, -ETIMEDOUT, "the container was not made in time");
        ssize_t got = n < 0 ? 0 : read(fd, block, sizeof(block));
        if (got < 0 && errno != EINTR) return err_errno(e, errno, "monitor");
        if (got == 0 && n > 0) break;
        if (got > 0) buf_add(&b, block, (size_t)got);
        if (b.failed) return err_set(e, -EPROTO, "monitor: message too long");
    }
    struct json *o;
    if (!b.data || json_parse(a, b.data, b.len, &o, NULL, NULL) < 0)
        return err_set(e, -EPROTO, "the monitor ended early");
    int64_t v = json_get_int(o, "data", json_get_int(o, "pid", -1));
    if (v > 0) {
        *pid = (pid_t)v;
        return 0;
    }
    const char *msg = json_get_str(o, "message");
    return err_set(e, -EIO, "%.*s", str_empty(msg) ? 900 : (int)strcspn(msg, "\n"),
                   str_empty(msg) ? "the container runtime failed" : msg);
}

static int start_monitor(struct runtime *r, const struct runtime_create *c, int sync_w, int start_r, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *argv[48];
    const char *env[] = {arena_printf(a, "_OCI_SYNCPIPE=%d", sync_w), arena_printf(a, "_OCI_STARTPIPE=%d", start_r),
                         NULL};
    monitor_argv(r, a, c, argv);
    const char *errors = arena_printf(a, "%s/monitor.log", c->bundle);
    _cleanup_close_ int err = open(errors, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct proc_opts o = {
        .argv = argv, .env = env, .in = -1, .out = -1, .err = err, .keep = {sync_w, start_r}, .cwd = c->bundle};
    return proc_spawn(&o, e);
}

static pid_t read_pid_file(const char *path) {
    uint64_t v;
    return fs_read_u64(path, &v) == 0 && v < INT32_MAX ? (pid_t)v : 0;
}

int runtime_create(struct runtime *r, const struct runtime_create *c, struct runtime_proc *out, struct err *e) {
    int sync[2] = {-1, -1}, start[2] = {-1, -1}, rc = 0;
    *out = (struct runtime_proc){0};
    if (pipe2(sync, O_CLOEXEC) < 0 || pipe2(start, O_CLOEXEC) < 0) rc = err_errno(e, errno, "pipe");
    pid_t child = rc < 0 ? rc : start_monitor(r, c, sync[1], start[0], e);
    if (sync[1] >= 0) close(sync[1]);
    if (start[0] >= 0) close(start[0]);
    if (child < 0) rc = child;
    if (rc == 0 && write(start[1], "1", 1) != 1) rc = err_errno(e, errno, "monitor");
    if (start[1] >= 0) close(start[1]);
    if (child > 0) proc_wait(child, CREATE_TIMEOUT_MS, NULL); /* the first of conmon's two forks */
    if (rc == 0) rc = read_sync(sync[0], &out->pid, e);
    if (sync[0] >= 0) close(sync[0]);
    if (rc < 0) return rc;
    char path[4096];
    snprintf(path, sizeof(path), "%s/conmon.pid", c->bundle);
    out->pid_start = proc_start_time(out->pid);
    out->monitor = read_pid_file(path);
    out->monitor_start = proc_start_time(out->monitor);
    return 0;
}

/* What `crun start` does: the container's process waits for a byte in exec.fifo, whose removal marks it started. */
int runtime_start(struct runtime *r, const char *id, struct err *e) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s/exec.fifo", r->root_arg + strlen("--root="), id);
    char byte;
    _cleanup_close_ int fd = open(path, (r->runc ? O_RDONLY : O_WRONLY | O_NONBLOCK) | O_CLOEXEC);
    if (fd < 0) return err_errno(e, errno, "start container");
    if (r->runc) return read(fd, &byte, 1) < 0 || unlink(path) < 0 ? err_errno(e, errno, "start container") : 0;
    if (unlink(path) < 0 || write(fd, "1", 1) != 1) return err_errno(e, errno, "start container");
    return 0;
}

int runtime_delete(struct runtime *r, const char *id, const char *cgroup) {
    char path[4096];
    cgroup_kill(cgroup, SIGKILL);
    int rc = cgroup_remove(cgroup);
    snprintf(path, sizeof(path), "%s/%s", r->root_arg + strlen("--root="), id);
    fs_rm_rf(path);
    snprintf(path, sizeof(path), "%s/%s", r->attach, id);
    fs_rm_rf(path);
    snprintf(path, sizeof(path), "%s/%s", r->exits, id);
    unlink(path);
    return rc;
}

/* ---- exec ---- */

/* Receives the terminal's master side from the runtime. */
static int accept_console(int listener, pid_t child, struct err *e) {
    for (int waited = 0;; waited++) {
        struct pollfd p = {.fd = listener, .events = POLLIN};
        if (poll(&p, 1, 100) > 0) break;
        if (waited > 300 || proc_start_time(child) == 0) return err_set(e, -EIO, "the runtime gave no terminal");
    }
    _cleanup_close_ int conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    char byte[256], control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {byte, sizeof(byte)};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    if (conn < 0 || recvmsg(conn, &m, MSG_CMSG_CLOEXEC) < 0) return err_errno(e, errno, "receive terminal");
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    if (!c || c->cmsg_type != SCM_RIGHTS) return err_set(e, -EPROTO, "the runtime sent no terminal");
    int fd;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

static int listen_console(const char *path, struct err *e) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa.sun_path)) return err_set(e, -ENAMETOOLONG, "socket path too long: %s", path);
    memcpy(sa.sun_path, path, strlen(path) + 1);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(fd, 1) < 0) {
        int rc = err_errno(e, errno, "console socket");
        if (fd >= 0) close(fd);
        return rc;
    }
    return fd;
}

static void exec_done(struct runtime_exec_run *run) {
    if (run->pid_file) unlink(run->pid_file);
    if (run->log_file) unlink(run->log_file);
    if (run->process_file) unlink(run->process_file);
    free(take_ptr(run->pid_file));
    free(take_ptr(run->log_file));
    free(take_ptr(run->process_file));
}

static int exec_spawn(struct runtime *r, const struct runtime_exec *x, struct runtime_exec_run *run,
                      const char *console, struct err *e) {
    const char *argv[24];
    size_t n = program_argv(r, argv);
    argv[n++] = "--log";
    argv[n++] = run->log_file;
    argv[n++] = "exec";
    argv[n++] = "--pid-file";
    argv[n++] = run->pid_file;
    argv[n++] = "--process";
    argv[n++] = run->process_file;
    if (console) {
        argv[n++] = "--console-socket";
        argv[n++] = console;
    }
    argv[n++] = x->id;
    argv[n] = NULL;
    struct proc_opts o = {
        .argv = argv, .in = x->tty ? -1 : x->in, .out = x->tty ? -1 : x->out, .err = x->tty ? -1 : x->err};
    return proc_spawn(&o, e);
}

int runtime_exec(struct runtime *r, const struct runtime_exec *x, struct runtime_exec_run *out, struct err *e) {
    char tag[17];
    uint8_t raw[8];
    random_bytes(raw, sizeof(raw));
    hex_encode(raw, sizeof(raw), tag);
    *out = (struct runtime_exec_run){.tty = -1};
    out->pid_file = xasprintf("%s/exec-%s.pid", x->bundle, tag);
    out->log_file = xasprintf("%s/exec-%s.log", x->bundle, tag);
    out->process_file = xasprintf("%s/exec-%s.json", x->bundle, tag);
    int rc = fs_write_json(out->process_file, x->process, false, e);
    _cleanup_free_ char *console = x->tty ? xasprintf("%s/c-%s", r->state, tag) : NULL;
    _cleanup_close_ int listener = rc == 0 && console ? listen_console(console, e) : -1;
    if (rc == 0 && console && listener < 0) rc = listener;
    pid_t pid = rc < 0 ? rc : exec_spawn(r, x, out, console, e);
    if (pid > 0)
        out->runtime = pid;
    else
        rc = pid;
    if (rc == 0 && console) {
        struct err failed = {0};
        out->tty = accept_console(listener, pid, &failed);
        if (out->tty < 0) { /* the runtime's own message says more */
            int code = runtime_exec_wait(r, out, 10000, e);
            rc = code < 0 ? code : err_set(e, failed.code, "%s", failed.msg);
            out->tty = -1;
        }
        err_done(&failed);
    }
    if (console) unlink(console);
    if (rc < 0) exec_done(out);
    return rc;
}

void runtime_exec_kill(struct runtime_exec_run *run) {
    pid_t pid = run->pid_file ? read_pid_file(run->pid_file) : 0;
    if (pid > 0)
        kill(pid, SIGKILL);
    else if (run->runtime > 0)
        kill(run->runtime, SIGKILL);
}

/* Why the runtime could not start the process, from its log ("time=... level=error msg=\"...\"" or plain). */
static int exec_failure(const char *text, struct err *e) {
    const char *p = strstr(text, "msg=\"");
    p = p ? p + 5 : text;
    if (!*p) return 0;
    int n = (int)strcspn(p, "\"\n");
    bool missing = strstr(p, "No such file") || strstr(p, "not found") || strstr(p, "ermission denied");
    return err_set(e, missing ? -ENOENT : -EIO, "exec failed: %.*s", MIN_OF(n, 500), p);
}

int runtime_exec_wait(struct runtime *r, struct runtime_exec_run *run, int timeout_ms, struct err *e) {
    int code = proc_wait(run->runtime, timeout_ms > 0 ? timeout_ms : -1, e);
    if (code == -ETIMEDOUT) {
        runtime_exec_kill(run);
        if (proc_wait(run->runtime, 10000, NULL) == -ETIMEDOUT) {
            kill(run->runtime, SIGKILL);
            proc_wait(run->runtime, -1, NULL);
        }
    } else if (code > 0) {
        char text[2048];
        if (fs_read_str(run->log_file, text, sizeof(text)) == 0) {
            int rc = exec_failure(text, e);
            if (rc < 0) code = rc;
        }
    }
    exec_done(run);
    return code;
}

/* ---- the rest ---- */

int runtime_update(struct runtime *r, const char *id, const struct json *resources, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *argv[16];
    _cleanup_buf_ struct buf err = {.limit = 4096};
    size_t n = program_argv(r, argv);
    argv[n++] = "update";
    argv[n++] = "--resources=/dev/stdin";
    argv[n++] = id;
    argv[n] = NULL;
    struct proc_opts o = {.argv = argv, .in = -1, .out = -1, .err = -1};
    int rc = proc_run(&o, json_text(a, resources), NULL, &err, UPDATE_TIMEOUT_MS, e);
    if (rc <= 0) return rc;
    return err_set(e, -EIO, "update container: %.500s", err.data ? err.data : "failed");
}

int runtime_attach(struct runtime *r, const char *id, struct err *e) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    char dir[4096];
    snprintf(dir, sizeof(dir), "%s/%s", r->attach, id);
    _cleanup_close_ int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC); /* ids are long, socket paths short */
    if (d < 0) return err_errno(e, errno, "attach");
    snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/attach", d);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        int rc = err_errno(e, errno, "attach");
        if (fd >= 0) close(fd);
        return rc;
    }
    return fd;
}

static int control(const char *bundle, const char *message) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/ctl", bundle);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return -errno;
    return write(fd, message, strlen(message)) < 0 ? -errno : 0;
}

int runtime_resize(struct runtime *r, const char *bundle, uint16_t width, uint16_t height) {
    char message[64];
    snprintf(message, sizeof(message), "%d %u %u\n", CONMON_RESIZE, height, width);
    return control(bundle, message);
}

/* Whether the monitor has this very file open. */
static bool writes_to(const char *bundle, const char *log_path) {
    char path[4096], pid[32];
    struct stat want, have;
    snprintf(path, sizeof(path), "%s/conmon.pid", bundle);
    if (stat(log_path, &want) < 0 || fs_read_str(path, pid, sizeof(pid)) < 0) return false;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)strtol(pid, NULL, 10));
    DIR *d = opendir(path);
    bool found = false;
    for (struct dirent *ent; d && !found && (ent = readdir(d));)
        found = ent->d_name[0] != '.' && fstatat(dirfd(d), ent->d_name, &have, 0) == 0 && have.st_dev == want.st_dev &&
                have.st_ino == want.st_ino;
    if (d) closedir(d);
    return found;
}

/* conmon puts a new, empty file in place of what is there; a log that nobody has moved away would be lost. */
int runtime_reopen_log(struct runtime *r, const char *bundle, const char *log_path, struct err *e) {
    char message[16];
    if (log_path && writes_to(bundle, log_path)) return 0;
    snprintf(message, sizeof(message), "%d 0 0\n", CONMON_REOPEN_LOG);
    int rc = control(bundle, message);
    return rc < 0 ? err_errno(e, rc, "reopen log") : 0;
}

bool runtime_exit_status(struct runtime *r, const char *id, const char *bundle, int *code, int64_t *finished_ns,
                         bool *oom) {
    char path[4096], text[32];
    struct stat st;
    int64_t v;
    snprintf(path, sizeof(path), "%s/%s", r->exits, id);
    if (stat(path, &st) < 0 || fs_read_str(path, text, sizeof(text)) < 0 || str_to_i64(text, &v) < 0) return false;
    *code = (int)v;
    *finished_ns = st.st_mtim.tv_sec * NS_PER_SEC + st.st_mtim.tv_nsec;
    snprintf(path, sizeof(path), "%s/oom", bundle);
    *oom = access(path, F_OK) == 0;
    return true;
}
