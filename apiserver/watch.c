/* Watches: requests whose answer is a stream of events.
 *
 * A watch starts on a worker (authorisation, parameters, waiting for a revision) and then lives on the loop thread in
 * the hub. The cache's feed wakes it: the hub collects woken watches and turns the loop once for all of them; there
 * each takes its events from the cache (watchcache.h) and writes them. What an event looks like on the wire is made
 * once and shared (watch_lines.h). A watch stops taking events while its client has too many bytes queued, so a slow
 * client costs no memory; if it falls out of the cache's history it ends with 410 Expired and the client lists again.
 *
 * A fan-out costs a system call and a TLS record per client, whatever it carries. So one that reached many clients is
 * followed by a pause in proportion (PACE_US each), and what comes meanwhile goes out together: a burst of writes costs
 * little more than a single one, and an event after a quiet while is never held back. Small clusters see no pause.
 *
 * A client that asks for a WebSocket (a browser) gets each event as a message: text, or binary where it is protobuf.
 *
 * A timer per hub ends watches at their timeoutSeconds and sends bookmarks. */
#include <pthread.h>

#include "apiserver/crd/feed.h"
#include "apiserver/handlers.h"
#include "apiserver/metrics.h"
#include "apiserver/options.h"
#include "apiserver/tables.h"
#include "apiserver/watch_lines.h"
#include "apiserver/watch_ws.h"
#include "pkg/base/map.h"
#include "pkg/stream/ws.h"

enum {
    QUEUE_HIGH = 1 << 20, /* bytes queued for a client above which its watch pauses */
    TICK_MS = 1000,
    BOOKMARK_S = 60,
    TIMEOUT_MIN_S = 1800, /* a watch without timeoutSeconds lasts this to twice as long */
    PACE_US = 500,        /* pause after a fan-out, for each client that it reached */
    PACE_MAX_MS = 50,
    WS_NORMAL = 1000, /* the code of a close frame */
};

struct watch {
    struct watch_hub *hub;
    struct request *q;
    struct wc_watch *src;
    struct view_feed *feed; /* where a webhook converts, or NULL */
    struct wc_list initial; /* events still to be sent first */
    size_t initial_at;
    bool initial_bookmark; /* after them, the bookmark that ends them */
    bool bookmarks, started, ended, paused, table_head_sent;
    bool pumping; /* pump is at it: a call of it from within returns, and the end waits for it */
    uint32_t form;
    struct ws *ws; /* NULL: a plain stream */
    const char *rv, *match;
    struct selector sel;
    int64_t deadline_ns, next_bookmark_ns, seen_rev;
    int start_error;
    /* hub's lists */
    _Atomic bool woken;
    struct watch *next_woken;
    struct watch *next, **pprev;
};

struct watch_hub {
    struct apiserver *s;
    uv_timer_t timer, pace;
    int open_handles;
    struct watch *all;
    size_t n;
    pthread_mutex_t lock; /* of `woken` */
    struct watch *woken;
    bool posted;    /* run_woken is on its way, or `pace` runs and will call it */
    unsigned busy;  /* watches are being served; what a write lets the loop do in between must not serve them too */
    bool late;      /* run_woken came meanwhile */
    size_t reached; /* watches that got events in this fan-out */
    struct watch_lines lines;
};

static bool pump(struct watch *w);
static void wake(void *arg);

/* ---- what goes to the client ---- */

/* Sends what the framing has queued; 0 or -EPIPE. */
static int ws_flush(struct watch *w) {
    struct buf *out = &w->ws->out;
    int rc = out->len ? http_stream_write_copy(w->q->http, out->data, out->len) : 0;
    buf_reset(out);
    return rc;
}

/* One event. */
static int put_copy(struct watch *w, const char *p, size_t n) {
    if (!w->ws) return http_stream_write_copy(w->q->http, p, n);
    ws_send(w->ws, w->q->media == MEDIA_PROTO ? WS_BINARY : WS_TEXT, p, n);
    return ws_flush(w);
}

static int put(struct watch *w, struct rbytes *b) {
    return w->ws ? put_copy(w, b->data, b->len) : http_stream_write(w->q->http, b);
}

/* ---- one watch, on the loop ---- */

static void watch_free(struct watch *w) {
    wc_watch_free(w->src);
    view_feed_free(w->feed);
    if (w->ws) ws_done(w->ws);
    free(w->ws);
    wc_list_done(&w->initial);
    if (w->pprev) {
        *w->pprev = w->next;
        if (w->next) w->next->pprev = w->pprev;
        w->hub->n--;
    }
    struct watch_hub *h = w->hub;
    pthread_mutex_lock(&h->lock);
    for (struct watch **p = &h->woken; *p; p = &(*p)->next_woken)
        if (*p == w) {
            *p = w->next_woken;
            break;
        }
    pthread_mutex_unlock(&h->lock);
    free(w);
}

static void finish(struct watch *w) {
    struct http_req *r = w->q->http;
    if (w->ws && !w->ws->close_sent) ws_close(w->ws, WS_NORMAL);
    if (w->ws) ws_flush(w);
    http_req_on_input(r, NULL, NULL);
    watch_free(w);
    http_stream_end(r);
}

static void watch_end(struct watch *w) {
    if (w->ended) return;
    w->ended = true;
    if (!w->pumping) finish(w);
}

static void send_error(struct watch *w, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    watch_event(w->q, &b, "ERROR", api_type_find("meta.k8s.io", "v1", "Status"), status_tree(a, e));
    put_copy(w, b.data, b.len);
}

static void send_expired(struct watch *w) {
    _cleanup_err_ struct err e = {0};
    err_status(&e, 410, "Expired", "too old resource version: %s", str_or_empty(w->rv));
    send_error(w, &e);
}

static void send_bookmark(struct watch *w, int64_t rev, bool initial_end) {
    struct request *q = w->q;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *v = json_object(a), *m = json_object(a);
    const struct api_type *t = q->res->type;
    bool partial = q->as == AS_PARTIAL;
    json_set_str(a, v, "kind", partial ? "PartialObjectMetadata" : q->res->kind);
    const char *meta_version = arena_printf(a, "meta.k8s.io/%s", str_or_empty(q->as_version));
    json_set_str(a, v, "apiVersion", partial ? meta_version : resource_api_version(a, q->res));
    json_set(a, m, "resourceVersion", json_strf(a, "%lld", (long long)rev));
    json_set(a, m, "creationTimestamp", json_null(a));
    if (initial_end) {
        struct json *ann = json_object(a);
        json_set_str(a, ann, INITIAL_END, "true");
        json_set(a, m, "annotations", ann);
    }
    json_set(a, v, "metadata", m);
    if (partial) t = api_type_find("meta.k8s.io", "v1", "PartialObjectMetadata");
    if (q->as == AS_TABLE) {
        buf_adds(&b, "{\"type\":\"BOOKMARK\",\"object\":");
        table_write_bookmark(&b, q, v, !w->table_head_sent);
        buf_adds(&b, "}\n");
        w->table_head_sent = true;
    } else {
        watch_event(q, &b, "BOOKMARK", t, v);
    }
    put_copy(w, b.data, b.len);
    w->next_bookmark_ns = mono_ns() + BOOKMARK_S * NS_PER_SEC;
}

static bool send_event(struct watch *w, enum wc_event_type type, struct object *o) {
    bool own;
    struct rbytes *b = watch_line(&w->hub->lines, w->q, w->form, type, o, &w->table_head_sent, &own);
    if (!b) return true;
    metrics_watch_event(w->q->s->metrics, w->q->res);
    int rc = put(w, b);
    if (own) rbytes_unref(b);
    return rc == 0;
}

static bool too_much_queued(struct watch *w) {
    w->paused = http_stream_queued(w->q->http) > QUEUE_HIGH;
    return w->paused;
}

/* What the cache has: the initial state first, then (once its end was told) what happens. 1, 0, or -ESTALE. */
static int next_raw(struct watch *w, struct wc_event *ev) {
    if (w->initial_at < w->initial.n) {
        *ev = (struct wc_event){WC_ADDED, w->initial.items[w->initial_at]};
        w->initial.items[w->initial_at++] = NULL;
        return 1;
    }
    return w->initial_bookmark ? 0 : wc_watch_next(w->src, ev, &w->seen_rev);
}

static int next_event(struct watch *w, struct wc_event *ev, struct err *e) {
    while (w->feed) {
        int rc = view_feed_take(w->feed, ev, e);
        bool any = false;
        if (rc || !view_feed_idle(w->feed)) return rc;
        while (view_feed_room(w->feed) && (rc = next_raw(w, ev)) == 1) {
            view_feed_put(w->feed, ev);
            any = true;
        }
        if (!any) return rc;
        if ((rc = view_feed_start(w->feed, e))) return rc;
    }
    return next_raw(w, ev);
}

/* All events that the cache had are sent. */
static bool watch_idle(const struct watch *w) {
    return w->initial_at >= w->initial.n && (!w->feed || view_feed_idle(w->feed));
}

/* Sends what there is; false when there will be no more. */
static bool send_all(struct watch *w) {
    _cleanup_err_ struct err e = {0};
    bool sent = false;
    while (!w->ended) {
        struct wc_event ev;
        if (too_much_queued(w)) return true;
        bool initial = w->initial_at < w->initial.n;
        int rc = next_event(w, &ev, &e);
        if (rc == 0 && !(w->initial_bookmark && watch_idle(w))) return true;
        if (rc == 0) {
            w->initial_bookmark = false;
            send_bookmark(w, w->initial.rev, true);
            continue;
        }
        if (rc < 0) {
            if (e.status)
                send_error(w, &e);
            else
                send_expired(w);
            return false;
        }
        if (!initial && !sent) {
            w->hub->reached++;
            sent = true;
        }
        bool ok = send_event(w, ev.type, ev.object);
        object_unref(ev.object);
        if (!ok) return false;
    }
    return false;
}

/* Sends what there is. False when the watch has ended (and is gone). A write may run other work of the loop: events keep
 * their order since only one pump of a watch runs, and the watch outlives it. */
static bool pump(struct watch *w) {
    if (w->pumping) return true;
    w->pumping = true;
    bool more = send_all(w);
    w->pumping = false;
    if (more && !w->ended) return true;
    w->ended = true;
    finish(w);
    return false;
}

static void on_converted(void *arg) {
    struct watch *w = arg;
    if (w->hub->busy)
        wake(w); /* others are being served: its turn comes after them */
    else if (w->started && !w->paused)
        pump(w);
}

/* ---- waking ---- */

static void on_pace(uv_timer_t *t);

static void run_woken(void *arg);

static void busy_end(struct watch_hub *h) {
    if (--h->busy || !h->late) return;
    h->late = false;
    http_server_post(h->s->http, run_woken, h);
}

static void run_woken(void *arg) {
    struct watch_hub *h = arg;
    if (h->busy) {
        h->late = true;
        return;
    }
    h->busy++;
    h->reached = 0;
    for (;;) {
        pthread_mutex_lock(&h->lock);
        struct watch *w = h->woken;
        uint64_t pause_ms = w ? 0 : MIN_OF(h->reached * PACE_US / 1000, (size_t)PACE_MAX_MS);
        if (w)
            h->woken = w->next_woken;
        else
            h->posted = pause_ms > 0;
        pthread_mutex_unlock(&h->lock);
        if (pause_ms) uv_timer_start(&h->pace, on_pace, pause_ms, 0);
        if (!w) break;
        atomic_store(&w->woken, false);
        if (w->started && !w->paused) pump(w);
    }
    busy_end(h);
}

static void on_pace(uv_timer_t *t) { run_woken(t->data); }

static void wake(void *arg) {
    struct watch *w = arg;
    struct watch_hub *h = w->hub;
    if (atomic_exchange(&w->woken, true)) return;
    pthread_mutex_lock(&h->lock);
    w->next_woken = h->woken;
    h->woken = w;
    bool post = !h->posted;
    h->posted = true;
    pthread_mutex_unlock(&h->lock);
    if (post) http_server_post(h->s->http, run_woken, h);
}

static void on_drain(struct http_req *r, void *arg) {
    struct watch *w = arg;
    struct watch_hub *h = w->hub;
    if (!w->started || w->ended) return;
    w->paused = false;
    h->busy++;
    pump(w);
    busy_end(h);
}

static void on_close(struct http_req *r, void *arg) {
    struct watch *w = arg;
    if (w->started) watch_end(w);
}

/* ---- starting ---- */

void watch_prepare(struct request *q) {
    struct watch *w = xcalloc(1, sizeof(*w));
    w->hub = q->s->watches;
    w->q = q;
    w->form = watch_form(q);
    http_req_on_close(q->http, on_close, w);
    http_req_on_drain(q->http, on_drain, w);
    q->watch = w;
}

static void free_on_loop(void *arg) { watch_free(arg); }

/* ---- WebSockets ---- */

static int ignore_message(int opcode, const char *p, size_t n, void *arg) { return 0; }

/* The client has nothing to say but pings and goodbye. */
static void on_ws_input(struct http_req *r, const char *p, size_t n, void *arg) {
    struct watch *w = arg;
    if (w->ended) return;
    bool over = ws_feed(w->ws, p, n, ignore_message, NULL, NULL) < 0 || w->ws->close_seen;
    if (ws_flush(w) < 0 || over) watch_end(w);
}

static void start_on_loop(void *arg) {
    struct watch *w = arg;
    struct watch_hub *h = w->hub;
    struct request *q = w->q;
    struct http_header *hd;
    bool stream = q->media == MEDIA_PROTO || (q->stream_param && q->media != MEDIA_JSON);
    const char *ct = stream ? arena_printf(q->a, "%s;stream=watch", q->content_type) : q->content_type;
    w->next = h->all;
    if (w->next) w->next->pprev = &w->next;
    w->pprev = &h->all;
    h->all = w;
    h->n++;
    w->next_bookmark_ns = mono_ns() + BOOKMARK_S * NS_PER_SEC;
    size_t n = response_headers(q, ct, &hd);
    h->busy++;
    if (watch_ws_wanted(q))
        w->ws = watch_ws_begin(q, on_ws_input, w);
    else
        http_stream_begin(q->http, 200, hd, n, 0);
    w->started = true; /* not before: an event written to a stream that has not begun is lost */
    if (http_req_closed(q->http)) {
        watch_end(w);
    } else if (w->start_error) {
        send_expired(w);
        watch_end(w);
    } else {
        pump(w);
    }
    busy_end(h);
}

static int watch_parse(struct request *q, struct watch *w, bool *initial, struct err *e) {
    const char *fields = http_query(q->http, "fieldSelector"), *send = http_query(q->http, "sendInitialEvents");
    int64_t timeout;
    if (q->name)
        fields =
            arena_printf(q->a, "metadata.name=%s%s%s", q->name, str_empty(fields) ? "" : ",", str_or_empty(fields));
    int rc = options_check_list(q, e);
    if (!rc) rc = selector_parse(q->a, q->res, http_query(q->http, "labelSelector"), fields, &w->sel, e);
    if (!rc) rc = request_query_int(q, "timeoutSeconds", 0, &timeout, e);
    if (rc) return rc;
    w->rv = http_query(q->http, "resourceVersion");
    w->match = http_query(q->http, "resourceVersionMatch");
    w->bookmarks = request_query_bool(q, "allowWatchBookmarks");
    *initial = !str_empty(send) && request_query_bool(q, "sendInitialEvents");
    if (timeout <= 0) {
        uint16_t jitter;
        random_bytes(&jitter, sizeof(jitter));
        timeout = TIMEOUT_MIN_S + jitter % TIMEOUT_MIN_S;
    }
    w->deadline_ns = mono_ns() + timeout * NS_PER_SEC;
    return 0;
}

static int watch_open(struct request *q, struct watch *w, bool initial, struct err *e) {
    static const struct selector everything;
    const struct selector *sel = &w->sel;
    struct watchcache *c = q->s->cache;
    int64_t rev = 0;
    if (!str_empty(w->rv) && (str_to_i64(w->rv, &rev) || rev < 0)) {
        err_status(e, 500, "", "Invalid value: \"%.60s\": invalid resource version", w->rv);
        return -EINVAL;
    }
    bool from_now = str_empty(w->rv) || rev == 0;
    int rc = from_now || initial ? read_wait(q, w->rv, e) : 0;
    if (rc) return rc;
    bool list = initial || (from_now && str_empty(http_query(q->http, "sendInitialEvents")));
    w->feed = view_feed_new(q, &w->sel, list, on_converted, w);
    if (w->feed && !view_feed_by_name(w->feed)) sel = &everything; /* selected behind the conversion */
    if (list) {
        wc_watch_new_list(c, q->res, q->ns, sel, wake, w, &w->initial, &w->src);
        w->initial_bookmark = initial && w->bookmarks;
        return 0;
    }
    if (from_now) rev = watchcache_rev(c);
    w->start_error = wc_watch_new(c, q->res, q->ns, sel, rev, wake, w, &w->src);
    return 0;
}

void handle_watch(struct request *q) {
    _cleanup_err_ struct err e = {0};
    struct watch *w = q->watch;
    bool initial;
    int rc = q->as == AS_TABLE ? table_options(q, &e) : 0;
    if (!rc) rc = watch_ws_check(q, &e);
    if (!rc) rc = watch_parse(q, w, &initial, &e);
    if (!rc) rc = watch_open(q, w, initial, &e);
    if (rc) {
        watch_refuse(q, &e);
        return;
    }
    if (http_on_loop(q->s->http)) {
        start_on_loop(w);
    } else if (http_server_post(q->s->http, start_on_loop, w)) {
        err_status(&e, 503, "ServiceUnavailable", "the server is stopping");
        watch_refuse(q, &e);
    }
}

void watch_refuse(struct request *q, struct err *e) {
    struct watch *w = q->watch;
    struct apiserver *s = q->s;
    respond_err(q, e);
    if (http_on_loop(s->http) || http_server_post(s->http, free_on_loop, w)) watch_free(w);
}

/* ---- the hub ---- */

static void on_tick(uv_timer_t *t) {
    struct watch_hub *h = t->data;
    int64_t now = mono_ns();
    listcache_expire(h->s->lists);
    h->busy++;
    for (struct watch *w = h->all, *next; w; w = next) {
        next = w->next;
        if (now >= w->deadline_ns) {
            watch_end(w);
        } else if (w->bookmarks && now >= w->next_bookmark_ns && !w->paused) {
            /* events first: a bookmark says that none come behind it */
            if (pump(w) && !w->paused && w->seen_rev && watch_idle(w)) send_bookmark(w, w->seen_rev, false);
        }
    }
    busy_end(h);
}

struct watch_hub *watch_hub_new(struct apiserver *s, uv_loop_t *loop) {
    struct watch_hub *h = xcalloc(1, sizeof(*h));
    h->s = s;
    pthread_mutex_init(&h->lock, NULL);
    uv_timer_init(loop, &h->timer);
    uv_timer_init(loop, &h->pace);
    h->open_handles = 2;
    h->timer.data = h->pace.data = h;
    uv_timer_start(&h->timer, on_tick, TICK_MS, TICK_MS);
    return h;
}

void watch_hub_close_watches(struct watch_hub *h) {
    while (h->all) watch_end(h->all);
    watch_lines_done(&h->lines);
}

static void hub_closed(uv_handle_t *handle) {
    struct watch_hub *h = handle->data;
    if (--h->open_handles) return;
    pthread_mutex_destroy(&h->lock);
    free(h);
}

void watch_hub_free(struct watch_hub *h) {
    if (!h) return;
    watch_hub_close_watches(h);
    uv_close((uv_handle_t *)&h->timer, hub_closed);
    uv_close((uv_handle_t *)&h->pace, hub_closed);
}

size_t watch_hub_count(struct watch_hub *h) { return h->n; }
