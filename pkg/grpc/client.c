/* gRPC client: one connection, shared by all calls. The nghttp2 session is guarded by the connection's lock; callers
 * submit and send under it, so that a request normally leaves in the caller's thread. One small thread a connection
 * reads, and sends what the socket did not take.
 *
 * A connection that failed is never repaired: its calls get UNAVAILABLE and the next call makes a new one. */
#include <fcntl.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "pkg/grpc/internal.h"

enum {
    READ_SIZE = 16 * 1024,
    READER_STACK = 128 * 1024,
    CLIENT_STREAM_WINDOW = 1024 * 1024,
    CLIENT_CONN_WINDOW = 16 * 1024 * 1024,
    DEFAULT_TIMEOUT_MS = 120 * 1000,
    STREAM_BUFFER_MAX = GRPC_MESSAGE_MAX + GRPC_PREFIX + 1024 * 1024,
};

struct call {
    struct call *next;
    int32_t id;
    struct buf out; /* request frame */
    size_t out_at;
    struct buf in;                /* response frames not taken yet */
    int http_status, grpc_status; /* -1: not seen */
    char *message;                /* grpc-message, as it came */
    bool closed, overflow;
    uint32_t reset_code;
    pthread_cond_t changed;
    int event_fd; /* streaming: tells of changes, -1 for unary */
};

struct gconn {
    _Atomic uint32_t refs;
    pthread_mutex_t lock;
    pthread_t thread;
    int fd, wake_fd;
    nghttp2_session *h2;
    struct call *calls;
    struct buf unsent;
    bool dead, stopping, going_away;
};

struct grpc_client {
    char *path;
    pthread_mutex_t lock;
    struct gconn *conn;
};

static void conn_unref(struct gconn *g) {
    if (atomic_fetch_sub(&g->refs, 1) != 1) return;
    nghttp2_session_del(g->h2);
    close(g->fd);
    close(g->wake_fd);
    buf_done(&g->unsent);
    pthread_mutex_destroy(&g->lock);
    free(g);
}

/* ---- session callbacks; the lock is held ---- */

static void call_changed(struct call *c) {
    pthread_cond_signal(&c->changed);
    uint64_t one = 1;
    if (c->event_fd >= 0 && write(c->event_fd, &one, sizeof(one)) < 0) return; /* full: set already */
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *f, const uint8_t *name, size_t nn, const uint8_t *value,
                     size_t vn, uint8_t flags, void *arg) {
    struct call *c = nghttp2_session_get_stream_user_data(h2, f->hd.stream_id);
    if (!c) return 0;
    const char *n = (const char *)name, *v = (const char *)value; /* NUL-terminated by nghttp2 */
    if (str_eq(n, ":status")) c->http_status = (int)strtol(v, NULL, 10);
    if (str_eq(n, "grpc-status")) c->grpc_status = (int)strtol(v, NULL, 10);
    if (str_eq(n, "grpc-message") && !c->message)
        c->message = xstrndup(v, MIN_OF(vn, (size_t)GRPC_STATUS_TEXT_MAX * 3));
    return 0;
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *arg) {
    struct call *c = nghttp2_session_get_stream_user_data(h2, id);
    if (!c) return 0;
    buf_add(&c->in, p, n);
    if (c->in.failed && !c->overflow) {
        c->overflow = true;
        nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    }
    if (c->event_fd >= 0) call_changed(c);
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *arg) {
    struct call *c = nghttp2_session_get_stream_user_data(h2, id);
    if (!c) return 0;
    c->closed = true;
    c->reset_code = code;
    call_changed(c);
    return 0;
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *f, void *arg) {
    struct gconn *g = arg;
    if (f->hd.type == NGHTTP2_GOAWAY) g->going_away = true;
    return 0;
}

static ssize_t read_request(nghttp2_session *h2, int32_t id, uint8_t *out, size_t max, uint32_t *flags,
                            nghttp2_data_source *src, void *arg) {
    struct call *c = nghttp2_session_get_stream_user_data(h2, id);
    if (!c) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE; /* the caller has left */
    size_t n = MIN_OF(max, c->out.len - c->out_at);
    memcpy(out, c->out.data + c->out_at, n);
    c->out_at += n;
    if (c->out_at == c->out.len) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* ---- connection ---- */

/* Sends what there is; what the socket does not take stays in `unsent` and the reader thread goes on with it. */
static void conn_send(struct gconn *g) {
    while (!g->dead) {
        if (!g->unsent.len) {
            const uint8_t *p;
            ssize_t n;
            while (g->unsent.len < 64 * 1024 && (n = nghttp2_session_mem_send(g->h2, &p)) > 0)
                buf_add(&g->unsent, p, (size_t)n);
            if (!g->unsent.len) return;
        }
        ssize_t n = send(g->fd, g->unsent.data, g->unsent.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            buf_consume(&g->unsent, (size_t)n);
        else if (errno == EAGAIN)
            return;
        else if (errno != EINTR)
            g->dead = true;
    }
}

static void conn_wake(struct gconn *g) {
    uint64_t one = 1;
    if (write(g->wake_fd, &one, sizeof(one)) < 0) return; /* full: set already */
}

/* One round: waits, then moves bytes. The lock is not held while waiting. */
static void conn_turn(struct gconn *g, char *buf) {
    struct pollfd p[2] = {{g->fd, POLLIN, 0}, {g->wake_fd, POLLIN, 0}};
    if (g->unsent.len) p[0].events |= POLLOUT;
    pthread_mutex_unlock(&g->lock);
    poll(p, 2, -1);
    ssize_t n = 0;
    if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
        n = recv(g->fd, buf, READ_SIZE, MSG_DONTWAIT);
        if (n == 0)
            n = -ECONNRESET;
        else if (n < 0)
            n = errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    pthread_mutex_lock(&g->lock);
    uint64_t drained;
    if ((p[1].revents & POLLIN) && read(g->wake_fd, &drained, sizeof(drained)) < 0) drained = 0;
    if (n < 0 || (n > 0 && nghttp2_session_mem_recv(g->h2, (const uint8_t *)buf, (size_t)n) < 0)) g->dead = true;
    conn_send(g);
    if (!nghttp2_session_want_read(g->h2) && !nghttp2_session_want_write(g->h2) && !g->unsent.len) g->dead = true;
    if (g->going_away && !g->calls) g->dead = true;
}

static void *conn_main(void *arg) {
    struct gconn *g = arg;
    char *buf = xmalloc(READ_SIZE);
    pthread_mutex_lock(&g->lock);
    while (!g->dead && !g->stopping) conn_turn(g, buf);
    g->dead = true;
    shutdown(g->fd, SHUT_RDWR);
    for (struct call *c = g->calls; c; c = c->next) call_changed(c);
    pthread_mutex_unlock(&g->lock);
    free(buf);
    conn_unref(g);
    return NULL;
}

static nghttp2_session *session_new(struct gconn *g) {
    nghttp2_session_callbacks *cb;
    nghttp2_option *opt;
    nghttp2_session *h2 = NULL;
    if (nghttp2_session_callbacks_new(&cb) != 0 || nghttp2_option_new(&opt) != 0) abort(); /* no memory */
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_option_set_peer_max_concurrent_streams(opt, 1000);
    nghttp2_option_set_no_closed_streams(opt, 1);
    if (nghttp2_session_client_new2(&h2, cb, g, opt) != 0) abort();
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    const nghttp2_settings_entry iv[] = {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                         {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, CLIENT_STREAM_WINDOW}};
    nghttp2_submit_settings(h2, NGHTTP2_FLAG_NONE, iv, ARRAY_LEN(iv));
    nghttp2_session_set_local_window_size(h2, NGHTTP2_FLAG_NONE, 0, CLIENT_CONN_WINDOW);
    return h2;
}

static int dial(const char *path, struct err *e) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa.sun_path)) return err_set(e, -ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(sa.sun_path, path, strlen(path));
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_errno(e, errno, "socket");
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
        int why = errno;
        return grpc_err(e, GRPC_UNAVAILABLE, "cannot connect to %s: %s", path, strerror(why));
    }
    return take_fd(&fd);
}

static struct gconn *conn_new(const char *path, struct err *e) {
    _cleanup_close_ int fd = dial(path, e);
    if (fd < 0) return NULL;
    struct gconn *g = xcalloc(1, sizeof(*g));
    atomic_init(&g->refs, 2); /* the client's and the thread's */
    pthread_mutex_init(&g->lock, NULL);
    g->fd = take_fd(&fd);
    g->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g->h2 = session_new(g);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, READER_STACK);
    int rc = pthread_create(&g->thread, &attr, conn_main, g);
    pthread_attr_destroy(&attr);
    if (rc) {
        err_errno(e, rc, "cannot start a thread");
        conn_unref(g);
        conn_unref(g);
        return NULL;
    }
    return g;
}

/* Drops the client's reference; the thread ends when the connection is (or now gets) dead. */
static void conn_drop(struct gconn *g, bool stop) {
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    if (stop || !g->calls) g->stopping = true;
    pthread_t t = g->thread;
    conn_wake(g);
    pthread_mutex_unlock(&g->lock);
    if (stop)
        pthread_join(t, NULL);
    else
        pthread_detach(t);
    conn_unref(g);
}

/* A usable connection, referenced and locked. */
static struct gconn *conn_get(struct grpc_client *c, struct err *e) {
    pthread_mutex_lock(&c->lock);
    struct gconn *g = c->conn;
    if (g) {
        pthread_mutex_lock(&g->lock);
        bool usable = !g->dead && !g->going_away && nghttp2_session_check_request_allowed(g->h2);
        if (!usable) {
            pthread_mutex_unlock(&g->lock);
            conn_drop(g, false);
            g = c->conn = NULL;
        }
    }
    if (!g) {
        g = c->conn = conn_new(c->path, e);
        if (g) pthread_mutex_lock(&g->lock);
    }
    if (g) atomic_fetch_add(&g->refs, 1);
    pthread_mutex_unlock(&c->lock);
    return g;
}

/* ---- calls ---- */

static void nv_set(nghttp2_nv *nv, const char *name, const char *value) {
    *nv = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), 0};
}

static int call_start(struct gconn *g, struct call *c, const char *path, int64_t timeout_ns, struct err *e) {
    nghttp2_nv nv[8];
    char timeout[16];
    size_t n = 0;
    nv_set(&nv[n++], ":method", "POST");
    nv_set(&nv[n++], ":scheme", "http");
    nv_set(&nv[n++], ":path", path);
    nv_set(&nv[n++], ":authority", "localhost");
    nv_set(&nv[n++], "content-type", "application/grpc");
    nv_set(&nv[n++], "te", "trailers");
    nv_set(&nv[n++], "user-agent", "coracle-grpc");
    if (timeout_ns) {
        grpc_timeout_format(timeout_ns, timeout);
        nv_set(&nv[n++], "grpc-timeout", timeout);
    }
    nghttp2_data_provider dp = {.read_callback = read_request};
    c->id = nghttp2_submit_request(g->h2, NULL, nv, n, &dp, c);
    if (c->id < 0) return grpc_err(e, GRPC_UNAVAILABLE, "cannot start a call: %s", nghttp2_strerror(c->id));
    c->next = g->calls;
    g->calls = c;
    conn_send(g);
    if (g->unsent.len) conn_wake(g); /* the thread waits for the socket to take more */
    return 0;
}

/* The call is over for us, whether or not it is for the server. */
static void call_leave(struct gconn *g, struct call *c) {
    for (struct call **p = &g->calls; *p; p = &(*p)->next)
        if (*p == c) {
            *p = c->next;
            break;
        }
    nghttp2_session_set_stream_user_data(g->h2, c->id, NULL);
    if (!c->closed && !g->dead) {
        nghttp2_submit_rst_stream(g->h2, NGHTTP2_FLAG_NONE, c->id, NGHTTP2_CANCEL);
        conn_wake(g);
    }
    if (g->going_away && !g->calls) conn_wake(g);
}

/* The status of a call that has ended. */
static int call_status(const struct gconn *g, const struct call *c, struct arena *a, struct err *e) {
    if (c->overflow)
        return grpc_err(e, GRPC_RESOURCE_EXHAUSTED, "the answer is larger than %d bytes", GRPC_MESSAGE_MAX);
    if (c->grpc_status > 0)
        return grpc_err(e, (enum grpc_code)c->grpc_status, "%s", grpc_percent_decode(a, str_or_empty(c->message)));
    if (c->grpc_status == 0) return 0;
    if (!c->closed) return grpc_err(e, GRPC_UNAVAILABLE, "the connection was closed");
    if (c->http_status >= 0 && c->http_status != 200)
        return grpc_err(e, GRPC_UNAVAILABLE, "HTTP status %d instead of a gRPC answer", c->http_status);
    if (c->reset_code == NGHTTP2_REFUSED_STREAM) return grpc_err(e, GRPC_UNAVAILABLE, "the server refused the call");
    return grpc_err(e, GRPC_INTERNAL, "the stream was reset (%s)", nghttp2_http2_strerror(c->reset_code));
}

static void call_init(struct call *c, const struct api_rpc *rpc, const void *request, int event_fd) {
    *c = (struct call){.http_status = -1, .grpc_status = -1, .event_fd = event_fd};
    c->out.limit = GRPC_MESSAGE_MAX + GRPC_PREFIX;
    c->in.limit = STREAM_BUFFER_MAX;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    grpc_frame(&c->out, rpc->request, request);
}

static void call_done(struct call *c) {
    buf_done(&c->out);
    buf_done(&c->in);
    free(c->message);
    pthread_cond_destroy(&c->changed);
    if (c->event_fd >= 0) close(c->event_fd);
}

static int decode_answer(const struct call *c, const struct api_rpc *rpc, struct arena *a, void *response,
                         struct err *e) {
    size_t len = 0;
    int rc = grpc_prefix(c->in.data, c->in.len, &len, e);
    if (rc < 0) return rc;
    if (!rc || c->in.len != GRPC_PREFIX + len) return grpc_err(e, GRPC_INTERNAL, "expected one message in the answer");
    rc = api_from_proto(a, rpc->response, (const uint8_t *)c->in.data + GRPC_PREFIX, len, response, e);
    return rc < 0 ? grpc_err(e, GRPC_INTERNAL, "cannot decode the answer of %s", rpc->path) : 0;
}

/* Starts the call and waits for its end. The lock is held on entry and exit. */
static int unary_wait(struct gconn *g, struct call *c, const struct api_rpc *rpc, unsigned timeout_ms, struct arena *a,
                      struct err *e) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = (int64_t)timeout_ms * NS_PER_MS + until.tv_nsec;
    until.tv_sec += ns / NS_PER_SEC;
    until.tv_nsec = ns % NS_PER_SEC;
    int rc = call_start(g, c, rpc->path, (int64_t)timeout_ms * NS_PER_MS, e);
    if (rc < 0) return rc;
    int waited = 0;
    while (!c->closed && !g->dead && waited != ETIMEDOUT)
        waited = pthread_cond_timedwait(&c->changed, &g->lock, &until);
    bool late = !c->closed && !g->dead;
    call_leave(g, c);
    if (late) return grpc_err(e, GRPC_DEADLINE_EXCEEDED, "no answer to %s within %u ms", rpc->path, timeout_ms);
    return call_status(g, c, a, e);
}

int grpc_call(struct grpc_client *cl, const struct api_rpc *rpc, const void *request, struct arena *a, void *response,
              unsigned timeout_ms, struct err *e) {
    struct call c;
    call_init(&c, rpc, request, -1);
    struct gconn *g = c.out.failed ? NULL : conn_get(cl, e);
    if (!g) {
        int rc = c.out.failed ? err_set(e, -EMSGSIZE, "the request is larger than %d bytes", GRPC_MESSAGE_MAX)
                              : -ECONNREFUSED;
        call_done(&c);
        return rc;
    }
    int rc = unary_wait(g, &c, rpc, timeout_ms ? timeout_ms : DEFAULT_TIMEOUT_MS, a, e);
    pthread_mutex_unlock(&g->lock);
    if (!rc) rc = decode_answer(&c, rpc, a, response, e);
    call_done(&c);
    conn_unref(g);
    return rc;
}

/* Takes one complete message off the call's input. 1 when there was one. */
static int take_message(struct gconn *g, struct call *c, struct buf *out, struct err *e) {
    pthread_mutex_lock(&g->lock);
    size_t len = 0;
    int rc = grpc_prefix(c->in.data, c->in.len, &len, e);
    if (rc == 1 && c->in.len < GRPC_PREFIX + len) rc = 0;
    if (rc == 1) {
        buf_reset(out);
        buf_add(out, c->in.data + GRPC_PREFIX, len);
        buf_consume(&c->in, GRPC_PREFIX + len);
    } else if (rc == 0 && (c->closed || g->dead)) {
        rc = -ESHUTDOWN;
    }
    pthread_mutex_unlock(&g->lock);
    return rc;
}

static int stream_loop(struct gconn *g, struct call *c, const struct api_rpc *rpc,
                       int (*on_message)(const void *message, void *arg), void *arg, struct http_cancel *cancel,
                       struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf msg = BUF_INIT;
    for (;;) {
        if (http_cancelled(cancel)) return err_set(e, -ECANCELED, "cancelled");
        int rc = take_message(g, c, &msg, e);
        if (rc == -ESHUTDOWN) return rc;
        if (rc < 0) return rc;
        if (rc == 1) {
            arena_reset(a);
            void *m = arena_zalloc(a, rpc->response->size);
            rc = api_from_proto(a, rpc->response, (const uint8_t *)str_or_empty(msg.data), msg.len, m, e);
            if (rc < 0) return grpc_err(e, GRPC_INTERNAL, "cannot decode a message of %s", rpc->path);
            rc = on_message(m, arg);
            if (rc) return rc;
            continue;
        }
        struct pollfd p[2] = {{c->event_fd, POLLIN, 0}, {cancel ? cancel->fd : -1, POLLIN, 0}};
        poll(p, 2, -1);
        uint64_t n;
        if (p[0].revents && read(c->event_fd, &n, sizeof(n)) < 0) n = 0;
    }
}

int grpc_call_stream(struct grpc_client *cl, const struct api_rpc *rpc, const void *request,
                     int (*on_message)(const void *message, void *arg), void *arg, struct http_cancel *cancel,
                     struct err *e) {
    int event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event_fd < 0) return err_errno(e, errno, "eventfd");
    struct call c;
    call_init(&c, rpc, request, event_fd);
    struct gconn *g = conn_get(cl, e);
    if (!g) {
        call_done(&c);
        return -ECONNREFUSED;
    }
    int rc = call_start(g, &c, rpc->path, 0, e);
    pthread_mutex_unlock(&g->lock);
    if (rc >= 0) {
        rc = stream_loop(g, &c, rpc, on_message, arg, cancel, e);
        _cleanup_arena_ struct arena *a = arena_new();
        pthread_mutex_lock(&g->lock);
        call_leave(g, &c);
        if (rc == -ESHUTDOWN) rc = call_status(g, &c, a, e);
        pthread_mutex_unlock(&g->lock);
    }
    call_done(&c);
    conn_unref(g);
    return rc;
}

struct grpc_client *grpc_client_new(const char *unix_path) {
    struct grpc_client *c = xcalloc(1, sizeof(*c));
    c->path = xstrdup(str_has_prefix(unix_path, "unix://") ? unix_path + 7 : unix_path);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

struct grpc_client *grpc_client_free(struct grpc_client *c) {
    if (!c) return NULL;
    conn_drop(c->conn, true);
    pthread_mutex_destroy(&c->lock);
    free(c->path);
    free(c);
    return NULL;
}
