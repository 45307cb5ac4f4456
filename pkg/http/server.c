/* The HTTP server: its loop, listeners, timer, and the queue of operations that other threads post.
 *
 * The way of a request: listener -> conn.c (socket, TLS) -> h1.c or h2.c -> the handler -> ops.c -> conn.c. One loop
 * turn: read sockets, run posted operations, flush the connections that got something to send.
 *
 * Invariant of the operation queue: operations run in the order they were posted, and one made on the loop thread runs
 * after all that were posted before it.
 *
 * Corresponds to Go's net/http server under kube-apiserver and kubelet. Not done here: routing, logging, metrics. */
#include "pkg/http/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "pkg/http/internal.h"

static void limits_default(struct http_limits *l) {
    static const struct http_limits d = {
        .header_bytes = 64 * 1024,
        .header_count = 256,
        .uri_bytes = 48 * 1024,
        .body_bytes = 3 * 1024 * 1024 + 1024,
        .connections = 10000,
        .h2_streams = 250,
        .h2_buffered_bytes = 16 * 1024 * 1024,
        .queued_bytes = 16 * 1024 * 1024,
        .tls_hello_ms = 10 * 1000,
        .header_ms = 15 * 1000,
        .body_ms = 60 * 1000,
        .idle_ms = 180 * 1000,
        .write_ms = 120 * 1000,
    };
#define DEFAULT(f) \
    if (!l->f) l->f = d.f
    DEFAULT(header_bytes);
    DEFAULT(header_count);
    DEFAULT(uri_bytes);
    DEFAULT(body_bytes);
    DEFAULT(connections);
    DEFAULT(h2_streams);
    DEFAULT(h2_buffered_bytes);
    DEFAULT(queued_bytes);
    DEFAULT(tls_hello_ms);
    DEFAULT(header_ms);
    DEFAULT(body_ms);
    DEFAULT(idle_ms);
    DEFAULT(write_ms);
#undef DEFAULT
}

/* ---- operations ---- */

bool http_on_loop(struct http_server *s) { return pthread_equal(atomic_load(&s->loop_thread), pthread_self()); }

void server_drain_ops(struct http_server *s) {
    for (;;) {
        if (!s->local_ops) {
            if (!atomic_load(&s->ops_waiting)) return;
            pthread_mutex_lock(&s->lock);
            s->local_ops = s->ops_head;
            s->ops_head = s->ops_tail = NULL;
            atomic_store(&s->ops_waiting, false);
            pthread_mutex_unlock(&s->lock);
            if (!s->local_ops) return;
        }
        struct op *op = s->local_ops;
        s->local_ops = op->next;
        op_run(op);
    }
}

/* For the loop to run; false when the server is down. */
static bool enqueue(struct http_server *s, struct op *op) {
    pthread_mutex_lock(&s->lock);
    bool down = s->down;
    if (!down) {
        bool first = !s->ops_head;
        if (first)
            s->ops_head = op;
        else
            s->ops_tail->next = op;
        s->ops_tail = op;
        atomic_store(&s->ops_waiting, true);
        if (first) uv_async_send(&s->async); /* under the lock: the handle is closed only after `down` was set */
    }
    pthread_mutex_unlock(&s->lock);
    return !down;
}

void server_post_op(struct http_server *s, struct op *op) {
    op->next = NULL;
    if (http_on_loop(s)) {
        server_drain_ops(s);
        op_run(op);
        return;
    }
    if (!enqueue(s, op)) op_discard(op);
}

int http_server_post(struct http_server *s, void (*fn)(void *arg), void *arg) {
    struct op *op = xcalloc(1, sizeof(*op));
    op->kind = OP_CALL;
    op->fd = -1;
    op->fn = fn;
    op->arg = arg;
    op->next = NULL;
    bool queued = enqueue(s, op);
    if (!queued) free(op);
    return queued ? 0 : -ESHUTDOWN;
}

static void on_async(uv_async_t *a) {
    struct http_server *s = a->data;
    atomic_store(&s->loop_thread, pthread_self());
    server_drain_ops(s);
}

/* ---- once a loop turn ---- */

static struct conn *dirty_pop(struct http_server *s) {
    struct conn *c = s->dirty_head;
    s->dirty_head = c->dirty_next;
    if (!s->dirty_head) s->dirty_tail = NULL;
    c->dirty = false;
    c->dirty_next = NULL;
    return c;
}

/* What was put off is dirty in the next turn: first those that were not served, then those that were. */
static void next_turn(struct http_server *s) {
    struct conn_list *l[] = {&s->later, &s->behind};
    for (size_t i = 0; i < ARRAY_LEN(l); i++) {
        if (!l[i]->head) continue;
        if (s->dirty_tail)
            s->dirty_tail->dirty_next = l[i]->head;
        else
            s->dirty_head = l[i]->head;
        s->dirty_tail = l[i]->tail;
        *l[i] = (struct conn_list){0};
    }
    if (s->dirty_head) uv_async_send(&s->async); /* that turn looks for input, but does not wait for it */
}

static void on_prepare(uv_prepare_t *p) {
    struct http_server *s = p->data;
    atomic_store(&s->loop_thread, pthread_self());
    server_drain_ops(s);
    s->bulk_left = TURN_BULK;
    while (s->dirty_head) {
        struct conn *c = dirty_pop(s);
        if (c->bulk && !s->bulk_left && !c->dead) {
            conn_put_off(c, &s->later);
            continue;
        }
        if (!c->dead) conn_flush(c);
        if (c->dead) conn_destroy(c);
        server_drain_ops(s);
    }
    next_turn(s);
}

/* ---- timer ---- */

static void on_timer(uv_timer_t *t);

void server_arm_timer(struct http_server *s, uint64_t at_ms) {
    if (s->timer_at && s->timer_at <= at_ms) return;
    uint64_t now = uv_now(s->loop);
    if (at_ms < now + 100) at_ms = now + 100; /* coarse: nothing here needs better */
    s->timer_at = at_ms;
    uv_timer_start(&s->timer, on_timer, at_ms - now, 0);
}

static void on_timer(uv_timer_t *t) {
    struct http_server *s = t->data;
    uint64_t now = uv_now(s->loop);
    s->timer_at = 0;
    for (struct conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        conn_check_deadline(c, now);
    }
    if (s->stopping) {
        for (struct conn *c = s->conns; c; c = c->next)
            if (now >= s->stop_at) conn_kill(c);
        if (now < s->stop_at) server_arm_timer(s, s->stop_at);
    }
}

const char *server_date(struct http_server *s) {
    int64_t sec = (int64_t)time(NULL); /* of the machine: HTTP's Date is no business of simulated clocks */
    if (sec != s->date_sec) {
        struct tm tm;
        time_t t = (time_t)sec;
        gmtime_r(&t, &tm);
        strftime(s->date, sizeof(s->date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        s->date_sec = sec;
    }
    return s->date;
}

/* ---- listeners ---- */

static void on_connection(uv_stream_t *handle, int status) {
    struct listener *l = handle->data;
    if (status == 0 && !l->srv->stopping) conn_accept(l, handle);
}

static char *dup_or_null(const char *s) { return s ? xstrdup(s) : NULL; }

static void free_cas(const struct http_ca *cas, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free((char *)(uintptr_t)cas[i].file);
        free((char *)(uintptr_t)cas[i].pem);
    }
    free((void *)(uintptr_t)cas);
}

static const struct http_ca *dup_cas(const struct http_ca *cas, size_t n) {
    if (!n) return NULL;
    struct http_ca *out = xcalloc(n, sizeof(*out));
    for (size_t i = 0; i < n; i++) out[i] = (struct http_ca){dup_or_null(cas[i].file), dup_or_null(cas[i].pem)};
    return out;
}

static void cfg_copy(struct http_listen *to, const struct http_listen *from) {
    *to = (struct http_listen){
        .cert_file = dup_or_null(from->cert_file),
        .key_file = dup_or_null(from->key_file),
        .cert_pem = dup_or_null(from->cert_pem),
        .key_pem = dup_or_null(from->key_pem),
        .n_client_cas = from->n_client_cas,
        .client_cas = dup_cas(from->client_cas, from->n_client_cas),
    };
}

static void cfg_free(struct http_listen *c) {
    free((char *)(uintptr_t)c->cert_file);
    free((char *)(uintptr_t)c->key_file);
    free((char *)(uintptr_t)c->cert_pem);
    free((char *)(uintptr_t)c->key_pem);
    free_cas(c->client_cas, c->n_client_cas);
}

static void listener_free(struct listener *l) {
    tls_conf_unref(l->tls);
    cfg_free(&l->cfg);
    free(l->unix_path);
    free(l);
}

static int bind_unix(struct listener *l, const char *path, mode_t mode, struct err *e) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa.sun_path)) return err_set(e, -ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(sa.sun_path, path, strlen(path));
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) unlink(path);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_errno(e, errno, "socket");
    fchmod(fd, mode ? mode : 0600); /* the mode of the node that bind makes; no window with a wider one */
    if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) return err_errno(e, errno, "cannot bind %s", path);
    if (chmod(path, mode ? mode : 0600) < 0) return err_errno(e, errno, "chmod %s", path);
    l->unix_path = xstrdup(path);
    return take_fd(&fd);
}

static int bind_tcp(const char *address, uint16_t port, struct err *e) {
    struct sockaddr_storage ss = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&ss;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ss;
    socklen_t len;
    if (inet_pton(AF_INET, address, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        len = sizeof(*v4);
    } else if (inet_pton(AF_INET6, address, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons(port);
        len = sizeof(*v6);
    } else {
        return err_set(e, -EINVAL, "%s is not an IP address", address);
    }
    _cleanup_close_ int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return err_errno(e, errno, "socket");
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (ss.ss_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, (struct sockaddr *)&ss, len) < 0)
        return err_errno(e, errno, "cannot listen on %s port %u", address, port);
    return take_fd(&fd);
}

/* Gives the bound socket to libuv. */
static int open_listener(struct listener *l, int fd, struct err *e) {
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (getsockname(fd, (struct sockaddr *)&ss, &len) < 0) return err_errno(e, errno, "getsockname");
    l->is_pipe = ss.ss_family == AF_UNIX;
    if (ss.ss_family == AF_INET) l->port = ntohs(((struct sockaddr_in *)&ss)->sin_port);
    if (ss.ss_family == AF_INET6) l->port = ntohs(((struct sockaddr_in6 *)&ss)->sin6_port);
    int rc;
    if (l->is_pipe) {
        uv_pipe_init(l->srv->loop, &l->u.pipe, 0);
        rc = uv_pipe_open(&l->u.pipe, fd);
    } else {
        uv_tcp_init(l->srv->loop, &l->u.tcp);
        conn_congestion(l, fd);
        rc = uv_tcp_open(&l->u.tcp, fd);
    }
    l->u.handle.data = l;
    l->open = true;
    l->srv->n_handles++;
    if (rc) return err_errno(e, rc, "cannot use the socket");
    rc = uv_listen(&l->u.stream, LISTEN_BACKLOG, on_connection);
    return rc ? err_errno(e, rc, "cannot listen") : 0;
}

static void on_listener_closed(uv_handle_t *h) {
    struct listener *l = h->data;
    struct http_server *s = l->srv;
    l->open = false;
    server_handle_closed(s);
}

int http_server_listen(struct http_server *s, const struct http_listen *cfg, int *id, struct err *e) {
    struct listener *l = xcalloc(1, sizeof(*l));
    l->srv = s;
    l->tag = cfg->tag;
    cfg_copy(&l->cfg, cfg);
    int rc = 0;
    if (cfg->cert_file || cfg->cert_pem) {
        l->tls = tls_conf_new(cfg, e);
        if (!l->tls) rc = -EINVAL;
    }
    int fd = -1;
    if (!rc) {
        fd = cfg->use_fd      ? cfg->fd
             : cfg->unix_path ? bind_unix(l, cfg->unix_path, cfg->unix_mode, e)
                              : bind_tcp(cfg->address ? cfg->address : "0.0.0.0", cfg->port, e);
        if (fd < 0) rc = fd;
    }
    if (rc) {
        listener_free(l);
        return rc;
    }
    rc = open_listener(l, fd, e);
    if (rc && !l->open) {
        if (!cfg->use_fd) close(fd);
        listener_free(l);
        return rc;
    }
    l->id = s->next_id++;
    pthread_mutex_lock(&s->lock);
    l->next = s->listeners;
    s->listeners = l;
    pthread_mutex_unlock(&s->lock);
    if (rc)
        uv_close(&l->u.handle, on_listener_closed);
    else if (id)
        *id = l->id;
    return rc;
}

static struct listener *find_listener(struct http_server *s, int id) {
    for (struct listener *l = s->listeners; l; l = l->next)
        if (l->id == id) return l;
    return NULL;
}

uint16_t http_server_port(struct http_server *s, int id) {
    pthread_mutex_lock(&s->lock);
    struct listener *l = find_listener(s, id);
    uint16_t port = l ? l->port : 0;
    pthread_mutex_unlock(&s->lock);
    return port;
}

int http_server_set_tls(struct http_server *s, int id, const char *cert_pem, const char *key_pem,
                        const struct http_ca *client_cas, size_t n, struct err *e) {
    struct http_listen cfg = {0};
    pthread_mutex_lock(&s->lock);
    struct listener *l = find_listener(s, id);
    if (l) cfg_copy(&cfg, &l->cfg);
    pthread_mutex_unlock(&s->lock);
    if (!l) return err_set(e, -ENOENT, "no listener %d", id);
    if (cert_pem) {
        free((char *)(uintptr_t)cfg.cert_pem);
        cfg.cert_pem = xstrdup(cert_pem);
    }
    if (key_pem) {
        free((char *)(uintptr_t)cfg.key_pem);
        cfg.key_pem = xstrdup(key_pem);
    }
    if (client_cas) {
        free_cas(cfg.client_cas, cfg.n_client_cas);
        cfg.client_cas = dup_cas(client_cas, n);
        cfg.n_client_cas = n;
    }
    struct tls_conf *t = tls_conf_new(&cfg, e);
    if (!t) {
        cfg_free(&cfg);
        return -EINVAL;
    }
    pthread_mutex_lock(&s->lock); /* listeners go only with the server */
    struct tls_conf *old = l->tls;
    l->tls = t;
    struct http_listen old_cfg = l->cfg;
    l->cfg = cfg;
    pthread_mutex_unlock(&s->lock);
    tls_conf_unref(old);
    cfg_free(&old_cfg);
    return 0;
}

int http_server_reload_tls(struct http_server *s, int id, struct err *e) {
    return http_server_set_tls(s, id, NULL, NULL, NULL, 0, e);
}

/* ---- life ---- */

struct http_server *server_ref(struct http_server *s) {
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void server_unref(struct http_server *s) {
    if (atomic_fetch_sub(&s->refs, 1) != 1) return;
    pthread_mutex_destroy(&s->lock);
    free(s->server_name);
    buf_done(&s->out);
    free(s);
}

struct http_server *http_server_new(const struct http_server_options *o) {
    struct sigaction sa;
    if (sigaction(SIGPIPE, NULL, &sa) == 0 && sa.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
    struct http_server *s = xcalloc(1, sizeof(*s));
    atomic_init(&s->refs, 1);
    s->opt = *o;
    s->lim = o->limits;
    limits_default(&s->lim);
    s->server_name = dup_or_null(o->server_name);
    pthread_mutex_init(&s->lock, NULL);
    s->own = !o->loop;
    if (s->own && uv_loop_init(&s->own_loop) != 0) abort(); /* no descriptors left at start-up */
    s->loop = s->own ? &s->own_loop : o->loop;
    atomic_init(&s->loop_thread, pthread_self());
    if (uv_async_init(s->loop, &s->async, on_async) != 0) abort();
    uv_prepare_init(s->loop, &s->prepare);
    uv_timer_init(s->loop, &s->timer);
    s->async.data = s->prepare.data = s->timer.data = s;
    s->n_handles = 3;
    uv_prepare_start(&s->prepare, on_prepare);
    uv_unref((uv_handle_t *)&s->prepare);
    uv_unref((uv_handle_t *)&s->timer);
    return s;
}

uv_loop_t *http_server_loop(struct http_server *s) { return s->loop; }

static void *loop_main(void *arg) {
    struct http_server *s = arg;
    atomic_store(&s->loop_thread, pthread_self());
    uv_run(s->loop, UV_RUN_DEFAULT);
    return NULL;
}

int http_server_start(struct http_server *s, struct err *e) {
    if (!s->own || s->started) return 0;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 1024 * 1024);
    int rc = pthread_create(&s->thread, &attr, loop_main, s);
    pthread_attr_destroy(&attr);
    if (rc) return err_errno(e, rc, "cannot start the server's thread");
    s->started = true;
    return 0;
}

static void close_listeners(struct http_server *s) {
    for (struct listener *l = s->listeners; l; l = l->next) {
        if (!l->open || uv_is_closing(&l->u.handle)) continue;
        if (l->unix_path) unlink(l->unix_path);
        uv_close(&l->u.handle, on_listener_closed);
    }
}

struct stop_arg {
    struct http_server *s;
    unsigned grace_ms;
};

static void stop_on_loop(void *arg) {
    struct stop_arg *a = arg;
    struct http_server *s = a->s;
    unsigned grace = a->grace_ms;
    free(a);
    if (!s->stopping) {
        s->stopping = true;
        close_listeners(s);
    }
    uv_update_time(s->loop);
    s->stop_at = uv_now(s->loop) + grace;
    for (struct conn *c = s->conns; c; c = c->next) {
        if (!grace)
            conn_kill(c);
        else if (c->proto == CONN_H2)
            h2_goaway(c);
        else if (c->proto == CONN_H1 && !c->cur && !c->in.len)
            conn_kill(c);
        else if (c->proto == CONN_H1)
            c->close_after = true;
    }
    s->timer_at = 0;
    if (s->conns) server_arm_timer(s, s->stop_at);
}

void http_server_stop(struct http_server *s, unsigned grace_ms) {
    struct stop_arg *a = xcalloc(1, sizeof(*a));
    *a = (struct stop_arg){s, grace_ms};
    if (http_server_post(s, stop_on_loop, a) < 0) free(a);
}

void server_handle_closed(struct http_server *s) { s->n_handles--; }

static void on_own_handle_closed(uv_handle_t *h) { server_handle_closed(h->data); }

/* Last operation: everything of ours leaves the loop. */
static void shutdown_on_loop(void *arg) {
    struct http_server *s = arg;
    s->stopping = true;
    close_listeners(s);
    server_drain_ops(s);
    pthread_mutex_lock(&s->lock);
    s->down = true;
    struct op *late = s->ops_head;
    s->ops_head = s->ops_tail = NULL;
    atomic_store(&s->ops_waiting, false);
    pthread_mutex_unlock(&s->lock);
    for (struct op *op = late, *next; op; op = next) {
        next = op->next;
        op_run(op);
    }
    while (s->conns) {
        s->conns->dead = true;
        conn_destroy(s->conns);
    }
    s->dirty_head = s->dirty_tail = NULL;
    s->later = s->behind = (struct conn_list){0};
    uv_close((uv_handle_t *)&s->async, on_own_handle_closed);
    uv_close((uv_handle_t *)&s->prepare, on_own_handle_closed);
    uv_close((uv_handle_t *)&s->timer, on_own_handle_closed);
}

struct http_server *http_server_free(struct http_server *s) {
    if (!s) return NULL;
    if (s->own && s->started) {
        http_server_post(s, shutdown_on_loop, s);
        pthread_join(s->thread, NULL);
        atomic_store(&s->loop_thread, pthread_self());
    } else {
        atomic_store(&s->loop_thread, pthread_self());
        server_drain_ops(s);
        shutdown_on_loop(s);
    }
    while (s->n_handles > 0) uv_run(s->loop, UV_RUN_ONCE);
    for (struct op *op = s->local_ops, *next; op; op = next) {
        next = op->next;
        op_discard(op);
    }
    s->local_ops = NULL;
    if (s->own) {
        uv_run(s->loop, UV_RUN_DEFAULT);
        uv_loop_close(&s->own_loop);
    }
    for (struct listener *l = s->listeners, *next; l; l = next) {
        next = l->next;
        listener_free(l);
    }
    s->listeners = NULL;
    server_unref(s);
    return NULL;
}

void http_server_get_stats(struct http_server *s, struct http_server_stats *out) {
    *out = (struct http_server_stats){
        .requests = atomic_load(&s->n_requests),
        .connections_total = atomic_load(&s->n_accepted),
        .connections = atomic_load(&s->n_conns),
        .streams = atomic_load(&s->n_streams),
    };
}
