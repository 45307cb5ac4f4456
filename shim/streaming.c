/* The streaming server: exec, attach and port-forward. CRI answers those calls with a URL; the kubelet then connects
 * there and passes the client's upgraded connection through. The server listens on 127.0.0.1 at a port of the kernel's
 * choice; a URL holds a random token that serves once, within a minute. Each session has a thread.
 *
 * Exec without terminal: the process gets the session's pipes themselves, nothing is copied here. With terminal: two
 * threads copy between the pipes and the terminal's master side. Attach: conmon's packet socket, likewise.
 * Corresponds to k8s.io/kubelet/pkg/cri/streaming. */
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>

#include "ns.h"
#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/http/server.h"
#include "pkg/stream/remotecmd.h"
#include "proc.h"
#include "shim.h"

enum {
    TOKENS_MAX = 1000,
    TOKEN_TTL_S = 60,
    SESSIONS_MAX = 512,
    SESSION_STACK = 256 << 10,
    CONMON_PACKET = 32 << 10, /* conmon's buffer; the first byte says which stream */
    CONMON_STDOUT = 2,
    CONMON_STDERR = 3,
    DIAL_TIMEOUT_MS = 10000,
    STOP_WAIT_MS = 2000,
};

struct ticket { /* what a URL stands for */
    enum remotecmd_kind kind;
    char id[SHIM_ID + 1]; /* container, or sandbox */
    char **cmd;           /* exec; NULL-terminated */
    size_t n_cmd;
    bool in, out, err, tty;
    int32_t *ports; /* port-forward: those that the request named */
    size_t n_ports;
    int64_t expires;
};

struct streaming {
    struct shim *shim;
    struct http_server *server;
    uint16_t port;
    pthread_mutex_t lock;
    struct map tickets; /* by token */
    unsigned sessions;
};

struct session {
    struct streaming *st;
    struct http_req *req;
    struct ticket *t;
    struct container *c;
    struct sandbox *sb;
    struct remotecmd *rc;
    pthread_mutex_t lock; /* of the fields below, which callbacks use */
    int tty;              /* terminal's master side */
    int attach;           /* conmon's socket */
    uint16_t width, height;
    struct runtime_exec_run *run;
    bool gone;
};

static void ticket_free(struct ticket *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_cmd; i++) free(t->cmd[i]);
    free(t->cmd);
    free(t->ports);
    free(t);
}

/* ---- tickets ---- */

static void expire(struct streaming *st) {
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&st->tickets, &it, &key, &v))
        if (((struct ticket *)v)->expires < mono_ns()) ticket_free(map_del(&st->tickets, key));
}

static int issue(struct streaming *st, struct arena *a, struct ticket *t, const char **url, struct err *e) {
    static const char *const names[] = {"exec", "attach", "portforward"};
    uint8_t raw[16];
    char token[33];
    random_bytes(raw, sizeof(raw));
    hex_encode(raw, sizeof(raw), token);
    t->expires = mono_ns() + TOKEN_TTL_S * NS_PER_SEC;
    pthread_mutex_lock(&st->lock);
    expire(st);
    bool full = st->tickets.n >= TOKENS_MAX;
    if (!full) map_put(&st->tickets, token, t);
    pthread_mutex_unlock(&st->lock);
    if (full) {
        ticket_free(t);
        return err_set(e, -EAGAIN, "too many streaming requests are waiting");
    }
    *url = arena_printf(a, "http://127.0.0.1:%u/%s/%s", st->port, names[t->kind], token);
    return 0;
}

static struct ticket *ticket_new(enum remotecmd_kind kind, const char *id) {
    struct ticket *t = xcalloc(1, sizeof(*t));
    t->kind = kind;
    snprintf(t->id, sizeof(t->id), "%s", id);
    return t;
}

static int check_container(struct shim *s, const char *id, char full[SHIM_ID + 1], struct err *e) {
    struct container *c = container_get(s, id, e);
    if (!c) return -ENOENT;
    pthread_mutex_lock(&s->lock);
    bool running = c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
    pthread_mutex_unlock(&s->lock);
    memcpy(full, c->id, sizeof(c->id));
    container_put(s, c);
    return running ? 0 : err_set(e, -EINVAL, "container %s is not running", full);
}

int streaming_exec(struct streaming *st, struct arena *a, const struct cri_exec_request *r, const char **url,
                   struct err *e) {
    char id[SHIM_ID + 1];
    int rc = check_container(st->shim, r->container_id, id, e);
    if (rc < 0) return rc;
    if (r->cmd.n == 0) return err_set(e, -EINVAL, "no command");
    if (!r->stdin && !r->stdout && !r->stderr)
        return err_set(e, -EINVAL, "one of stdin, stdout and stderr must be asked for");
    if (r->tty && r->stderr) return err_set(e, -EINVAL, "with a terminal there is no stderr");
    struct ticket *t = ticket_new(REMOTECMD_EXEC, id);
    t->in = r->stdin, t->out = r->stdout, t->err = r->stderr, t->tty = r->tty;
    t->cmd = xcalloc(r->cmd.n, sizeof(*t->cmd));
    for (size_t i = 0; i < r->cmd.n; i++) t->cmd[t->n_cmd++] = xstrdup(r->cmd.items[i]);
    return issue(st, a, t, url, e);
}

int streaming_attach(struct streaming *st, struct arena *a, const struct cri_attach_request *r, const char **url,
                     struct err *e) {
    char id[SHIM_ID + 1];
    int rc = check_container(st->shim, r->container_id, id, e);
    if (rc < 0) return rc;
    if (!r->stdin && !r->stdout && !r->stderr)
        return err_set(e, -EINVAL, "one of stdin, stdout and stderr must be asked for");
    struct ticket *t = ticket_new(REMOTECMD_ATTACH, id);
    t->in = r->stdin, t->out = r->stdout, t->err = r->stderr && !r->tty, t->tty = r->tty;
    return issue(st, a, t, url, e);
}

int streaming_port_forward(struct streaming *st, struct arena *a, const struct cri_port_forward_request *r,
                           const char **url, struct err *e) {
    struct sandbox *sb = sandbox_get(st->shim, r->pod_sandbox_id, e);
    if (!sb) return -ENOENT;
    struct ticket *t = ticket_new(REMOTECMD_PORTFORWARD, sb->id);
    t->ports = xcalloc(r->port.n + 1, sizeof(*t->ports));
    for (size_t i = 0; i < r->port.n; i++) t->ports[t->n_ports++] = r->port.items[i];
    sandbox_put(st->shim, sb);
    return issue(st, a, t, url, e);
}

/* ---- callbacks of a session ---- */

static void on_resize(uint16_t width, uint16_t height, void *arg) {
    struct session *ss = arg;
    struct winsize w = {.ws_col = width, .ws_row = height};
    pthread_mutex_lock(&ss->lock);
    ss->width = width;
    ss->height = height;
    if (ss->tty >= 0) ioctl(ss->tty, TIOCSWINSZ, &w);
    if (ss->attach >= 0 && ss->c) runtime_resize(runtime_of(ss->st->shim, ss->c), ss->c->bundle, width, height);
    pthread_mutex_unlock(&ss->lock);
}

static void on_disconnect(void *arg) {
    struct session *ss = arg;
    pthread_mutex_lock(&ss->lock);
    ss->gone = true;
    if (ss->attach >= 0) shutdown(ss->attach, SHUT_RDWR);
    if (ss->run) runtime_exec_kill(ss->run);
    pthread_mutex_unlock(&ss->lock);
}

/* ---- copying ---- */

/* What becomes of `to` when `from` has ended. */
enum copy_end { COPY_END_NOTHING, COPY_END_INPUT, COPY_END_ALL };

struct copy {
    int from, to;
    enum copy_end at_end;
};

static void *copy_stdin(void *arg) {
    struct copy *c = arg;
    char block[CONMON_PACKET - 1];
    ssize_t n;
    while ((n = read(c->from, block, sizeof(block))) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 || fd_write_all(c->to, block, (size_t)n) < 0) break;
    }
    if (c->at_end != COPY_END_NOTHING) shutdown(c->to, c->at_end == COPY_END_ALL ? SHUT_RDWR : SHUT_WR);
    close(c->from);
    close(c->to);
    free(c);
    return NULL;
}

/* Starts copying in a thread of its own, which ends when `from` does. Takes `from`; `to` is duplicated. */
static void copy_start(int from, int to, enum copy_end at_end) {
    if (from < 0) return;
    struct copy *c = xcalloc(1, sizeof(*c));
    pthread_attr_t attr;
    pthread_t t;
    *c = (struct copy){from, fcntl(to, F_DUPFD_CLOEXEC, 3), at_end};
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, SESSION_STACK);
    if (pthread_create(&t, &attr, copy_stdin, c) != 0) {
        close(c->from);
        close(c->to);
        free(c);
    }
    pthread_attr_destroy(&attr);
}

static void copy_terminal(int tty, int out) {
    char block[16 << 10];
    ssize_t n;
    while ((n = read(tty, block, sizeof(block))) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return; /* EIO: the last of the other side has gone */
        if (out >= 0 && fd_write_all(out, block, (size_t)n) < 0) return;
    }
}

static void copy_packets(int sock, int out, int err) {
    char block[CONMON_PACKET + 1];
    ssize_t n;
    while ((n = read(sock, block, sizeof(block))) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 1) return;
        int fd = block[0] == CONMON_STDERR ? err : block[0] == CONMON_STDOUT ? out : -1;
        if (fd >= 0 && fd_write_all(fd, block + 1, (size_t)n - 1) < 0) return;
    }
}

/* ---- sessions ---- */

static int run_exec(struct session *ss, int *code, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct runtime *rt = runtime_of(ss->st->shim, ss->c);
    struct str_vec cmd = {(const char **)(void *)ss->t->cmd, ss->t->n_cmd};
    struct json *process;
    struct runtime_exec_run run;
    int in = remotecmd_take_stdin(ss->rc), out = remotecmd_take_stdout(ss->rc), err = remotecmd_take_stderr(ss->rc);
    int r = container_exec_process(a, ss->c, &cmd, ss->t->tty, &process, e);
    struct runtime_exec x = {.id = ss->c->id,
                             .bundle = ss->c->bundle,
                             .process = process,
                             .in = in,
                             .out = out,
                             .err = err,
                             .tty = ss->t->tty};
    if (r == 0) r = runtime_exec(rt, &x, &run, e);
    if (r < 0 || !ss->t->tty) { /* the process has its own copies */
        if (in >= 0) close(in);
        if (out >= 0) close(take_fd(&out));
        if (err >= 0) close(err);
        if (r < 0) return r;
    }
    pthread_mutex_lock(&ss->lock);
    ss->run = &run;
    ss->tty = run.tty;
    struct winsize w = {.ws_col = ss->width, .ws_row = ss->height};
    if (run.tty >= 0 && w.ws_col) ioctl(run.tty, TIOCSWINSZ, &w);
    if (ss->gone) runtime_exec_kill(&run);
    pthread_mutex_unlock(&ss->lock);
    if (run.tty >= 0) {
        copy_start(in, run.tty, COPY_END_NOTHING);
        copy_terminal(run.tty, out);
        if (out >= 0) close(out);
    }
    proc_wait_end(run.runtime); /* callbacks may use `run` up to here; the wait below takes it apart */
    pthread_mutex_lock(&ss->lock);
    ss->run = NULL;
    ss->tty = -1;
    pthread_mutex_unlock(&ss->lock);
    r = runtime_exec_wait(rt, &run, 0, e);
    if (run.tty >= 0) close(run.tty);
    if (r < 0) return r;
    *code = r;
    return 0;
}

/* A container that closes its input with its first client goes on talking to that client; from another one the client
 * parts when it has nothing more to say (as containerd has it, and kubectl run --leave-stdin-open relies on). */
static int run_attach(struct session *ss, struct err *e) {
    enum copy_end end = ss->c->config->stdin_once && !ss->t->tty ? COPY_END_INPUT : COPY_END_ALL;
    _cleanup_close_ int out = remotecmd_take_stdout(ss->rc), err = remotecmd_take_stderr(ss->rc);
    int in = remotecmd_take_stdin(ss->rc);
    int sock = runtime_attach(runtime_of(ss->st->shim, ss->c), ss->c->id, e);
    if (sock < 0) {
        if (in >= 0) close(in);
        return sock;
    }
    pthread_mutex_lock(&ss->lock);
    ss->attach = sock;
    bool gone = ss->gone;
    if (ss->width) runtime_resize(runtime_of(ss->st->shim, ss->c), ss->c->bundle, ss->width, ss->height);
    pthread_mutex_unlock(&ss->lock);
    copy_start(in, sock, end);
    if (!gone) copy_packets(sock, out, err);
    pthread_mutex_lock(&ss->lock);
    ss->attach = -1;
    pthread_mutex_unlock(&ss->lock);
    shutdown(sock, SHUT_RDWR);
    close(sock);
    return 0;
}

struct dial {
    uint16_t port;
    int fd;
};

static int connect_local(int family, uint16_t port) {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } to = {0};
    socklen_t len;
    if (family == AF_INET) {
        to.in =
            (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
        len = sizeof(to.in);
    } else {
        to.in6 = (struct sockaddr_in6){
            .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        len = sizeof(to.in6);
    }
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval tv = {DIAL_TIMEOUT_MS / 1000, 0};
    if (fd < 0) return -errno;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)); /* bounds connect too */
    if (connect(fd, &to.sa, len) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){0}, sizeof(struct timeval));
    return fd;
}

/* Runs in the pod's network namespace. */
static int dial_inside(void *arg, struct err *e) {
    struct dial *d = arg;
    int r = d->fd = connect_local(AF_INET, d->port);
    if (r < 0) d->fd = connect_local(AF_INET6, d->port);
    return d->fd < 0 ? err_errno(e, r, "connect to localhost:%u inside the pod", d->port) : 0;
}

static int dial(uint16_t port, void *arg, struct err *e) {
    struct session *ss = arg;
    struct dial d = {port, -1};
    int r = sandbox_host_network(ss->sb) ? dial_inside(&d, e) : ns_run_in_net(ss->sb->state_dir, dial_inside, &d, e);
    return r < 0 ? r : d.fd;
}

static void run_command(struct session *ss, int fd, const struct remotecmd_proto *proto) {
    struct remotecmd_options o = {.stdin_ = ss->t->in,
                                  .stdout_ = ss->t->out,
                                  .stderr_ = ss->t->err,
                                  .tty = ss->t->tty,
                                  .on_resize = on_resize,
                                  .on_disconnect = on_disconnect,
                                  .arg = ss};
    _cleanup_err_ struct err e = {0};
    int code = 0;
    if (remotecmd_start(fd, proto, &o, &ss->rc, &e) < 0) {
        log_warn("streaming session failed to start", "container", ss->t->id, "error", e.msg, NULL);
        return;
    }
    int r = ss->t->kind == REMOTECMD_EXEC ? run_exec(ss, &code, &e) : run_attach(ss, &e);
    remotecmd_finish(ss->rc, code, r < 0 ? &e : NULL, 0);
}

static void session_free(struct session *ss) {
    struct streaming *st = ss->st;
    container_put(st->shim, ss->c);
    sandbox_put(st->shim, ss->sb);
    ticket_free(ss->t);
    pthread_mutex_destroy(&ss->lock);
    free(ss);
    pthread_mutex_lock(&st->lock);
    st->sessions--;
    pthread_mutex_unlock(&st->lock);
}

static void *session_main(void *arg) {
    struct session *ss = arg;
    struct shim *s = ss->st->shim;
    struct remotecmd_proto proto;
    _cleanup_err_ struct err e = {0};
    int fd = -1;
    if (ss->t->kind == REMOTECMD_PORTFORWARD)
        ss->sb = sandbox_get(s, ss->t->id, &e);
    else
        ss->c = container_get(s, ss->t->id, &e);
    if (!ss->c && !ss->sb) {
        http_respond(ss->req, 404, NULL, 0, e.msg, strlen(e.msg), 0);
    } else if (remotecmd_upgrade(ss->req, ss->t->kind, &proto, &fd, &e) == 0) {
        if (ss->t->kind == REMOTECMD_PORTFORWARD)
            portforward_serve(fd, &proto, ss->t->ports, ss->t->n_ports, dial, ss, 0, &e);
        else
            run_command(ss, fd, &proto);
    }
    session_free(ss);
    return NULL;
}

static void start_session(struct streaming *st, struct http_req *req, struct ticket *t) {
    struct session *ss = xcalloc(1, sizeof(*ss));
    pthread_attr_t attr;
    pthread_t thread;
    *ss = (struct session){.st = st, .req = req, .t = t, .tty = -1, .attach = -1};
    pthread_mutex_init(&ss->lock, NULL);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, SESSION_STACK);
    if (pthread_create(&thread, &attr, session_main, ss) != 0) {
        http_respond(req, 503, NULL, 0, "no thread", 9, 0);
        session_free(ss);
    }
    pthread_attr_destroy(&attr);
}

/* On the server's loop thread: takes the URL's ticket and hands the connection to a thread. */
static void handle(struct http_req *req, void *arg) {
    struct streaming *st = arg;
    const char *token = strrchr(req->path, '/');
    pthread_mutex_lock(&st->lock);
    expire(st);
    bool room = st->sessions < SESSIONS_MAX;
    struct ticket *t = token && room ? map_del(&st->tickets, token + 1) : NULL;
    if (t) st->sessions++;
    pthread_mutex_unlock(&st->lock);
    static const char unknown[] = "unknown or used streaming token\n", busy[] = "too many streaming sessions\n";
    if (t)
        start_session(st, req, t);
    else if (!room)
        http_respond(req, 503, NULL, 0, busy, sizeof(busy) - 1, HTTP_CLOSE);
    else
        http_respond(req, 404, NULL, 0, unknown, sizeof(unknown) - 1, HTTP_CLOSE);
}

struct streaming *streaming_new(struct shim *s, struct err *e) {
    struct streaming *st = xcalloc(1, sizeof(*st));
    struct http_server_options o = {.handler = handle, .arg = st};
    struct http_listen l = {.address = "127.0.0.1"};
    int id;
    st->shim = s;
    pthread_mutex_init(&st->lock, NULL);
    st->server = http_server_new(&o);
    if (http_server_listen(st->server, &l, &id, e) < 0 || http_server_start(st->server, e) < 0)
        return streaming_free(st);
    st->port = http_server_port(st->server, id);
    return st;
}

struct streaming *streaming_free(struct streaming *st) {
    if (!st) return NULL;
    http_server_stop(st->server, 0);
    for (int waited = 0; waited < STOP_WAIT_MS; waited += 10) {
        pthread_mutex_lock(&st->lock);
        unsigned left = st->sessions;
        pthread_mutex_unlock(&st->lock);
        if (left == 0) break;
        usleep(10000);
        if (waited + 10 >= STOP_WAIT_MS) return st; /* sessions still run; see shim_free */
    }
    http_server_free(st->server);
    map_done_with(&st->tickets, (void (*)(void *))ticket_free);
    pthread_mutex_destroy(&st->lock);
    free(st);
    return NULL;
}
