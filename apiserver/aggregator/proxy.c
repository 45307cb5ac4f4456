/* The way of a request to an aggregated API server.
 *
 * The request is repeated with its method, path, query, body and headers, but without credentials: who asks
 * is said in X-Remote-User, -Uid, -Group and -Extra-*, which the other server believes because our client
 * certificate is of the CA that extension-apiserver-authentication names. What a client sent under those
 * names is dropped. The answer is passed on as it comes, so watches stream; small ones of known length are
 * collected and sent whole. Upgrades are joined byte for byte. While the client does not read, the back end
 * is not read from either.
 *
 * Errors before an answer are plain text, as upstream's proxyHandler gives them. */
#include "apiserver/aggregator/internal.h"
#include "apiserver/forward.h"
#include "pkg/base/ktime.h"

enum {
    CALL_MS = 60000, /* a request that is no watch, from start to end */
    UPGRADE_MS = 30000,
    COLLECT_MAX = 64 * 1024, /* answers up to this size are sent whole */
    QUEUE_HIGH = 4 << 20,
    PAUSE_US = 5000,
    ANSWER_HEADERS_MAX = 48,
};

/* ---- taking a request ---- */

struct call {
    struct http_cancel gone; /* the client is */
    struct agg_back *back;
};

static void call_free(void *p) {
    struct call *c = p;
    http_cancel_done(&c->gone);
    agg_back_unref(c->back);
    free(c);
}

static void on_gone(struct http_req *r, void *arg) { http_cancel_set(&((struct call *)arg)->gone); }

/* Group and version of "/apis/GROUP/VERSION" and what is below. */
static bool split(struct request *q, const char **group, const char **version) {
    const char *p = q->http->path;
    if (!str_has_prefix(p, "/apis/")) return false;
    p += 6;
    const char *slash = strchr(p, '/');
    if (!slash || slash == p || !slash[1] || slash[1] == '/') return false;
    *group = arena_strndup(q->a, p, (size_t)(slash - p));
    *version = arena_strndup(q->a, slash + 1, strcspn(slash + 1, "/"));
    return true;
}

bool aggregator_take(struct request *q) {
    const char *group, *version;
    struct aggregator *g = q->s->aggregator;
    if (!g || !atomic_load_explicit(&g->n, memory_order_relaxed) || !split(q, &group, &version)) return false;
    struct agg_back *b = agg_find(g, group, version);
    if (!b) return false;
    struct call *c = xcalloc(1, sizeof(*c));
    c->back = b;
    if (http_cancel_init(&c->gone, NULL)) {
        call_free(c);
        return false;
    }
    http_req_set_data(q->http, c, call_free);
    http_req_on_close(q->http, on_gone, c);
    q->cancel = &c->gone;
    q->back = b;
    q->res = NULL;
    q->sub = NULL;
    return true;
}

/* ---- headers ---- */

static bool ours(const char *name) {
    static const char *const prefixes[] = {"x-remote-", "x-forwarded-"};
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (strncasecmp(name, prefixes[i], strlen(prefixes[i])) == 0) return true;
    return false;
}

struct headers {
    struct http_header *items;
    size_t n;
};

static void put(struct headers *h, const char *name, const char *value) {
    if (value) h->items[h->n++] = (struct http_header){name, value};
}

static struct headers headers_for(struct request *q, bool upgrade) {
    const struct user_info *u = &q->user;
    struct http_header *from;
    size_t n = forward_headers(q, upgrade, &from), room = n + 8 + u->n_groups;
    for (size_t i = 0; i < u->n_extra; i++) room += u->extra[i].n;
    struct headers h = {.items = arena_alloc(q->a, room * sizeof(*h.items))};
    for (size_t i = 0; i < n; i++)
        if (!ours(from[i].name)) h.items[h.n++] = from[i];
    put(&h, "X-Remote-User", u->name);
    if (!str_empty(u->uid)) put(&h, "X-Remote-Uid", u->uid);
    for (size_t i = 0; i < u->n_groups; i++) put(&h, "X-Remote-Group", u->groups[i]);
    for (size_t i = 0; i < u->n_extra; i++) {
        const char *name = arena_printf(q->a, "X-Remote-Extra-%s", http_escape(q->a, u->extra[i].key));
        for (size_t j = 0; j < u->extra[i].n; j++) put(&h, name, u->extra[i].values[j]);
    }
    if (*q->http->peer->addr) put(&h, "X-Forwarded-For", q->http->peer->addr);
    if (*q->http->host) put(&h, "X-Forwarded-Host", q->http->host);
    return h;
}

/* ---- the answer ---- */

struct answer {
    struct request *q;
    bool begun, whole; /* whole: collected in `body` */
    struct buf body;
    int status;
    struct http_header headers[ANSWER_HEADERS_MAX];
    size_t n;
};

static void copy_headers(struct answer *w, const struct http_resp *r) {
    w->status = r->status;
    for (size_t i = 0; i < r->n_headers && w->n < ANSWER_HEADERS_MAX; i++) {
        const struct http_header *h = &r->headers[i];
        if (forward_hop_by_hop(h->name) || str_eq(h->name, "date")) continue;
        w->headers[w->n++] = (struct http_header){arena_strdup(w->q->a, h->name), arena_strdup(w->q->a, h->value)};
    }
}

static int on_head(const struct http_resp *r, void *arg) {
    struct answer *w = arg;
    const char *length = http_resp_header(r, "content-length");
    int64_t n = -1;
    copy_headers(w, r);
    bool empty = r->status == 204 || r->status == 304 || str_eq(w->q->http->method, "HEAD");
    w->whole = empty || (length && str_to_i64(length, &n) == 0 && n <= COLLECT_MAX);
    w->begun = true;
    if (!w->whole) http_stream_begin(w->q->http, r->status, w->headers, w->n, 0);
    return 0;
}

static int on_data(const char *p, size_t n, void *arg) {
    struct answer *w = arg;
    if (w->whole) {
        buf_add(&w->body, p, n);
        return w->body.failed ? -EMSGSIZE : 0;
    }
    while (http_stream_queued(w->q->http) > QUEUE_HIGH && !http_req_closed(w->q->http)) usleep(PAUSE_US);
    return http_stream_write_copy(w->q->http, p, n);
}

static void refuse(struct request *q, const char *why) { http_respond_text(q->http, 503, "%s\n", why); }

static void pass_upgrade(struct request *q, struct agg_dial *d, const char *url) {
    _cleanup_err_ struct err e = {0};
    _cleanup_http_resp_ struct http_resp r = {0};
    _cleanup_close_ int fd = -1;
    struct headers h = headers_for(q, true);
    if (http_client_upgrade(d->client, q->http->method, url, h.items, h.n, q->http->body, q->http->body_len, &r, &fd,
                            UPGRADE_MS, &e))
        refuse(q, arena_printf(q->a, "error trying to reach service: %s", e.msg));
    else if (r.status == 101 && fd >= 0)
        forward_join(q, &r, &fd);
    else
        forward_answer(q, &r);
}

/* Answers of these do not end by themselves. */
static bool endless(const struct request *q) {
    struct request *r = (struct request *)(uintptr_t)q;
    return str_eq(q->verb, "watch") || request_query_bool(r, "watch") || request_query_bool(r, "follow");
}

bool aggregator_lasts(const struct request *q) {
    return endless(q) || http_header_has_token(q->http, "connection", "upgrade");
}

static void pass(struct request *q, struct agg_dial *d, const char *url) {
    _cleanup_err_ struct err e = {0};
    _cleanup_http_resp_ struct http_resp r = {0};
    struct answer w = {.q = q, .body = {.limit = COLLECT_MAX + 1}};
    struct http_stream_cb cb = {on_head, on_data, &w};
    struct headers h = headers_for(q, false);
    int rc = http_client_exchange(d->client, q->http->method, url, h.items, h.n, q->http->body, q->http->body_len, &cb,
                                  &r, q->cancel, endless(q) ? 0 : CALL_MS, &e);
    if (w.begun && !w.whole) {
        if (rc)
            http_abort(q->http); /* cut off: not to be taken for all there is */
        else
            http_stream_end(q->http);
    } else if (w.begun && !rc) {
        http_respond(q->http, w.status, w.headers, w.n, str_or_empty(w.body.data), w.body.len, 0);
    } else {
        refuse(q, arena_printf(q->a, "error trying to reach service: %s", e.msg));
    }
    buf_done(&w.body);
}

void aggregator_handle(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_agg_dial_ struct agg_dial *d = NULL;
    struct agg_back *b = q->back;
    if (b->local) {
        b->local->handle(q, b->local_arg);
        return;
    }
    pthread_mutex_lock(&b->lock);
    bool available = b->available;
    pthread_mutex_unlock(&b->lock);
    if (!available || agg_dial(q->s->aggregator, b, q->a, &d, &e)) {
        refuse(q, "service unavailable");
        return;
    }
    if (http_header_has_token(q->http, "connection", "upgrade"))
        pass_upgrade(q, d, q->http->target);
    else
        pass(q, d, q->http->target);
}
