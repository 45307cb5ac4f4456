/* gRPC server: a table of methods over pkg/http's server on a unix socket. The loop thread checks the request and
 * finds the method; a worker decodes, calls the handler, encodes. Server-streaming calls run on workers of their own,
 * because they last. */
#include <pthread.h>
#include <semaphore.h>

#include "pkg/base/map.h"
#include "pkg/grpc/internal.h"

enum { SEND_HIGH = 1024 * 1024, CALL_QUEUE = 1024 };

struct grpc_server {
    struct http_server *http;
    struct http_workers *unary, *streams;
    struct map methods; /* path -> struct grpc_method */
    void *arg;
    bool started;
    _Atomic bool stopping;
};

/* What a call needs beside its public part. */
struct call {
    struct grpc_call pub; /* first */
    struct grpc_server *srv;
    const struct grpc_method *m;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool begun;
};

static void call_free(void *p) {
    struct call *c = p;
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    free(c);
}

static void wake(struct http_req *r, void *arg) {
    struct call *c = arg;
    pthread_mutex_lock(&c->lock);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

static void begin(struct http_req *r) {
    static const struct http_header h[] = {{"content-type", "application/grpc"}};
    http_stream_begin(r, 200, h, ARRAY_LEN(h), 0);
}

/* Ends the call with a status. */
static void finish(struct http_req *r, bool begun, const struct err *e) {
    char code[12];
    snprintf(code, sizeof(code), "%d", e ? grpc_code_of(e) : GRPC_OK);
    struct http_header t[2] = {{"grpc-status", code}};
    _cleanup_arena_ struct arena *a = arena_new(); /* the request's belongs to the handler's thread */
    if (e) t[1] = (struct http_header){"grpc-message", grpc_percent_encode(a, e->msg)};
    if (!begun) begin(r);
    http_stream_end_trailers(r, t, e ? 2 : 1);
}

static void refuse(struct http_req *r, enum grpc_code code, const char *msg) {
    _cleanup_err_ struct err e = {0};
    grpc_err(&e, code, "%s", msg);
    finish(r, false, &e);
}

bool grpc_call_cancelled(const struct grpc_call *pub) {
    const struct call *c = (const struct call *)pub;
    return atomic_load(&c->srv->stopping) || http_req_closed(pub->req) ||
           (pub->deadline_ns && mono_ns() > pub->deadline_ns);
}

static int send_message(struct call *c, const struct api_type *t, const void *message, struct err *e) {
    _cleanup_buf_ struct buf b = {.limit = GRPC_MESSAGE_MAX + GRPC_PREFIX};
    grpc_frame(&b, t, message);
    if (b.failed) return err_set(e, -EMSGSIZE, "the message is larger than %d bytes", GRPC_MESSAGE_MAX);
    if (!c->begun) begin(c->pub.req);
    c->begun = true;
    int rc = http_stream_write_copy(c->pub.req, b.data, b.len);
    return rc < 0 ? err_set(e, rc, "the client has gone") : 0;
}

int grpc_stream_send(struct grpc_call *pub, const void *message, struct err *e) {
    struct call *c = (struct call *)pub;
    pthread_mutex_lock(&c->lock);
    while (http_stream_queued(pub->req) > SEND_HIGH && !grpc_call_cancelled(pub)) {
        struct timespec until; /* on_drain wakes; the time-out covers the deadline and a stopping server */
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += 1;
        pthread_cond_timedwait(&c->changed, &c->lock, &until);
    }
    pthread_mutex_unlock(&c->lock);
    if (grpc_call_cancelled(pub)) return grpc_err(e, GRPC_CANCELLED, "the call has ended");
    return send_message(c, pub->rpc->response, message, e);
}

static int decode_request(struct call *c, struct err *e) {
    struct http_req *r = c->pub.req;
    const struct api_type *t = c->pub.rpc->request;
    size_t len = 0;
    int rc = grpc_prefix(r->body, r->body_len, &len, e);
    if (rc < 0) return rc;
    if (!rc || r->body_len != GRPC_PREFIX + len)
        return grpc_err(e, GRPC_INTERNAL, "expected one message of %zu bytes, got %zu", len, r->body_len);
    void *req = arena_zalloc(r->arena, t->size);
    rc = api_from_proto(r->arena, t, (const uint8_t *)r->body + GRPC_PREFIX, len, req, e);
    if (rc < 0) return grpc_err(e, GRPC_INTERNAL, "cannot decode the request");
    c->pub.request = req;
    return 0;
}

static void run_call(void *arg) {
    struct call *c = arg;
    const struct api_rpc *rpc = c->pub.rpc;
    struct http_req *r = c->pub.req;
    _cleanup_err_ struct err e = {0};
    int rc = decode_request(c, &e);
    if (!rc) {
        if (!rpc->server_stream) c->pub.response = arena_zalloc(r->arena, rpc->response->size);
        rc = c->m->fn(&c->pub, &e);
        if (!rc && !rpc->server_stream) rc = send_message(c, rpc->response, c->pub.response, &e);
    }
    if (rc < 0 && !e.code) err_set(&e, rc, "%s", strerror(-rc));
    finish(r, c->begun, rc < 0 ? &e : NULL); /* the request may be gone now, and c with it */
}

static struct call *call_new(struct grpc_server *s, const struct grpc_method *m, struct http_req *r) {
    struct call *c = xcalloc(1, sizeof(*c));
    int64_t timeout = grpc_timeout_parse(http_header(r, "grpc-timeout"));
    c->pub = (struct grpc_call){.rpc = m->rpc, .arena = r->arena, .arg = s->arg, .req = r};
    if (timeout) c->pub.deadline_ns = timeout > INT64_MAX - r->start_ns ? INT64_MAX : r->start_ns + timeout;
    c->srv = s;
    c->m = m;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->changed, &attr);
    pthread_condattr_destroy(&attr);
    http_req_set_data(r, c, call_free);
    http_req_on_close(r, wake, c);
    http_req_on_drain(r, wake, c);
    return c;
}

static void on_request(struct http_req *r, void *arg) {
    struct grpc_server *s = arg;
    if (atomic_load(&s->stopping)) {
        refuse(r, GRPC_UNAVAILABLE, "the server is stopping");
        return;
    }
    const char *type = http_header(r, "content-type");
    if (!str_eq(r->method, "POST") || !type || !str_has_prefix(type, "application/grpc")) {
        http_respond_text(r, 415, "this is a gRPC server\n");
        return;
    }
    const struct grpc_method *m = map_get(&s->methods, r->path);
    if (!m || m->rpc->client_stream) {
        _cleanup_err_ struct err e = {0};
        grpc_err(&e, GRPC_UNIMPLEMENTED, "unknown method %s", r->path);
        finish(r, false, &e);
        return;
    }
    struct call *c = call_new(s, m, r);
    if (http_dispatch(m->rpc->server_stream ? s->streams : s->unary, run_call, c) < 0)
        refuse(r, GRPC_RESOURCE_EXHAUSTED, "too many calls");
}

struct grpc_server *grpc_server_new(const struct grpc_server_options *o, struct err *e) {
    struct grpc_server *s = xcalloc(1, sizeof(*s));
    s->arg = o->arg;
    for (size_t i = 0; i < o->n_methods; i++)
        map_put(&s->methods, o->methods[i].rpc->path, (void *)(uintptr_t)&o->methods[i]);
    unsigned streams = o->stream_threads ? o->stream_threads : 16;
    s->unary = http_workers_new(o->threads ? o->threads : 64, CALL_QUEUE);
    s->streams = http_workers_new(streams, 1);
    s->http =
        http_server_new(&(struct http_server_options){.handler = on_request,
                                                      .arg = s,
                                                      .limits = {.body_bytes = GRPC_MESSAGE_MAX + GRPC_PREFIX,
                                                                 .h2_buffered_bytes = 4 * (size_t)GRPC_MESSAGE_MAX,
                                                                 .queued_bytes = 4 * (size_t)GRPC_MESSAGE_MAX,
                                                                 .h2_streams = 1000,
                                                                 .idle_ms = 24 * 3600 * 1000u}});
    int rc = http_server_listen(s->http, &(struct http_listen){.unix_path = o->unix_path, .unix_mode = o->unix_mode},
                                NULL, e);
    if (!rc) rc = http_server_start(s->http, e);
    s->started = rc == 0;
    return rc < 0 ? grpc_server_free(s) : s;
}

static void post_sem(void *sem) { sem_post(sem); }

struct grpc_server *grpc_server_free(struct grpc_server *s) {
    if (!s) return NULL;
    atomic_store(&s->stopping, true);
    if (s->started) {
        sem_t passed; /* once the loop has come by, no request handler is left that has not seen `stopping` */
        sem_init(&passed, 0, 0);
        http_server_stop(s->http, 0);
        if (http_server_post(s->http, post_sem, &passed) == 0)
            while (sem_wait(&passed) < 0 && errno == EINTR) continue;
        sem_destroy(&passed);
    }
    http_workers_free(s->unary);
    http_workers_free(s->streams);
    http_server_free(s->http);
    map_done(&s->methods);
    free(s);
    return NULL;
}
