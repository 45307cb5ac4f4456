/* HTTP/2 connections, over nghttp2. A stream is a struct hreq; the session's own stream list is not relied on
 * (nghttp2_session_del does not report streams). Response bytes are pulled by a data provider, which defers when the
 * request's queue is empty and is resumed by the next write. */
#include <assert.h>
#include <strings.h>

#include "pkg/http/internal.h"

enum { DROP_MAX = 8 * 1024 * 1024 }; /* bytes of a refused body before its stream is reset */

static void track(struct conn *c, struct hreq *r) {
    r->next = c->streams;
    if (c->streams) c->streams->prev = r;
    c->streams = r;
    c->n_streams++;
    r->progress_ms = uv_now(c->srv->loop);
    if (c->dl_kind != DL_BODY) conn_deadline(c, DL_BODY, c->srv->lim.body_ms);
}

/* Streams whose head or body has stalled are reset; looks again while any is being read. */
void h2_check_bodies(struct conn *c, uint64_t now) {
    uint64_t oldest = 0;
    for (struct hreq *r = c->streams; r; r = r->next) {
        if (r->state != REQ_READING && !r->early_status) continue;
        if (now >= r->progress_ms + c->srv->lim.body_ms)
            nghttp2_submit_rst_stream(c->h2, NGHTTP2_FLAG_NONE, r->stream_id, NGHTTP2_CANCEL);
        else if (!oldest || r->progress_ms < oldest)
            oldest = r->progress_ms;
    }
    conn_mark_dirty(c);
    if (oldest)
        conn_deadline(c, DL_BODY, (unsigned)(oldest + c->srv->lim.body_ms - now));
    else
        conn_deadline(c, c->n_streams ? DL_NONE : DL_IDLE, c->srv->lim.idle_ms);
}

static void untrack(struct conn *c, struct hreq *r) {
    if (r->prev)
        r->prev->next = r->next;
    else
        c->streams = r->next;
    if (r->next) r->next->prev = r->prev;
    r->prev = r->next = NULL;
    c->n_streams--;
    if (r->state == REQ_READING) c->h2_buffered -= r->body.len;
    if (!c->n_streams) conn_deadline(c, DL_IDLE, c->srv->lim.idle_ms);
}

static struct hreq *stream_of(struct conn *c, int32_t id) { return nghttp2_session_get_stream_user_data(c->h2, id); }

/* ---- requests ---- */

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *f, void *arg) {
    struct conn *c = arg;
    if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct hreq *r = hreq_new(c);
    r->stream_id = f->hd.stream_id;
    r->pub.version = 20;
    r->pub.method = r->pub.target = NULL;
    track(c, r);
    nghttp2_session_set_stream_user_data(h2, r->stream_id, r);
    return 0;
}

static void add_header(struct hreq *r, const char *name, size_t nn, const char *value, size_t vn) {
    struct http_header *list = (struct http_header *)(uintptr_t)r->pub.headers;
    ARENA_GROW(r->pub.arena, list, r->pub.n_headers, r->cap_headers);
    r->pub.headers = list;
    list[r->pub.n_headers++] =
        (struct http_header){arena_strndup(r->pub.arena, name, nn), arena_strndup(r->pub.arena, value, vn)};
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *f, const uint8_t *name, size_t nn, const uint8_t *value,
                     size_t vn, uint8_t flags, void *arg) {
    struct conn *c = arg;
    struct hreq *r = stream_of(c, f->hd.stream_id);
    if (!r || r->state != REQ_READING || f->headers.cat != NGHTTP2_HCAT_REQUEST) return 0; /* trailers are dropped */
    const struct http_limits *lim = &c->srv->lim;
    const char *n = (const char *)name, *v = (const char *)value;
    r->header_bytes += nn + vn + 32;
    if (r->header_bytes > lim->header_bytes || r->pub.n_headers >= lim->header_count) r->early_status = 431;
    if (r->early_status) return 0;
    if (memchr(v, 0, vn) || memchr(v, '\n', vn) || memchr(v, '\r', vn)) r->early_status = 400;
    if (nn == 7 && memcmp(n, ":method", 7) == 0) {
        r->pub.method = arena_strndup(r->pub.arena, v, vn);
    } else if (nn == 5 && memcmp(n, ":path", 5) == 0) {
        if (vn > lim->uri_bytes)
            r->early_status = 414;
        else
            r->pub.target = arena_strndup(r->pub.arena, v, vn);
    } else if (nn == 10 && memcmp(n, ":authority", 10) == 0) {
        r->pub.host = arena_strndup(r->pub.arena, v, vn);
    } else if (nn && n[0] != ':') {
        add_header(r, n, nn, v, vn);
    }
    return 0;
}

static void refuse(struct conn *c, struct hreq *r, int status) {
    if (r->state != REQ_READING) return;
    c->h2_buffered -= r->body.len;
    buf_done(&r->body);
    r->state = REQ_HANDLING;
    r->early_status = status;
    http_req_ref(&r->pub);
    static const struct http_header h[] = {{"content-type", "text/plain; charset=utf-8"}};
    const char *text = http_status_text(status);
    http_respond(&r->pub, status, h, 1, text, strlen(text), 0);
}

static void dispatch(struct conn *c, struct hreq *r) {
    c->h2_buffered -= r->body.len;
    hreq_dispatch(r);
}

static void head_complete(struct conn *c, struct hreq *r, bool end) {
    struct http_server *s = c->srv;
    r->pub.start_ns = mono_ns();
    if (!r->pub.method) r->pub.method = "";
    if (!r->pub.target) r->pub.target = "";
    if (r->early_status == 0 && r->pub.target[0] != '/' &&
        !(str_eq(r->pub.target, "*") && str_eq(r->pub.method, "OPTIONS")))
        r->early_status = 400;
    for (const char *p = r->pub.target; *p && !r->early_status; p++)
        if ((unsigned char)*p <= ' ' || *p == 127 || *p == '#') r->early_status = 400;
    hreq_split_target(r);
    if (str_empty(r->pub.host)) r->pub.host = str_or_empty(http_header(&r->pub, "host"));
    if (r->early_status) {
        refuse(c, r, r->early_status);
        return;
    }
    size_t limit = s->opt.body_limit ? s->opt.body_limit(&r->pub, s->opt.arg) : 0;
    r->body_limit = r->body.limit = limit ? limit : s->lim.body_bytes;
    if (end) {
        dispatch(c, r);
        return;
    }
    const char *cl = http_header(&r->pub, "content-length"); /* nghttp2 checks it against the data */
    if (cl && strtoull(cl, NULL, 10) > r->body_limit) refuse(c, r, 413);
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *arg) {
    struct conn *c = arg;
    struct hreq *r = stream_of(c, id);
    if (r && r->early_status) { /* refused: dropped, because a reset could overtake the answer */
        r->dropped += n;
        if (r->dropped > DROP_MAX) nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, id, NGHTTP2_NO_ERROR);
        return 0;
    }
    if (!r || r->state != REQ_READING) return 0;
    buf_add(&r->body, p, n);
    if (r->body.failed) {
        refuse(c, r, 413);
        return 0;
    }
    c->h2_buffered += n;
    r->progress_ms = uv_now(c->srv->loop);
    if (c->h2_buffered > c->srv->lim.h2_buffered_bytes)
        nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, id, NGHTTP2_ENHANCE_YOUR_CALM);
    return 0;
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *f, void *arg) {
    struct conn *c = arg;
    if (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA) return 0;
    struct hreq *r = stream_of(c, f->hd.stream_id);
    if (!r || r->state != REQ_READING) return 0;
    bool end = f->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (f->hd.type == NGHTTP2_HEADERS && f->headers.cat == NGHTTP2_HCAT_REQUEST)
        head_complete(c, r, end);
    else if (end)
        dispatch(c, r);
    return 0;
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t code, void *arg) {
    struct conn *c = arg;
    struct hreq *r = stream_of(c, id);
    if (!r) return 0;
    nghttp2_session_set_stream_user_data(h2, id, NULL);
    untrack(c, r);
    hreq_detach(r);
    return 0;
}

/* ---- responses ---- */

enum { H2_NV = NGHTTP2_NV_FLAG_NONE, H2_FRAME_HEAD = 9 };

static void nv_set(nghttp2_nv *nv, const char *name, const char *value) {
    *nv = (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name), strlen(value), H2_NV};
}

static void submit_trailers(struct hreq *r) {
    nghttp2_nv nv[RESP_HEADERS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < r->trailers->n && n < RESP_HEADERS_MAX; i++)
        nv_set(&nv[n++], r->trailers->h[i].name, r->trailers->h[i].value);
    nghttp2_submit_trailer(r->conn->h2, r->stream_id, nv, n);
}

/* How much of the queue goes into the next frame; on_send_body sends it. */
static ssize_t on_read_body(nghttp2_session *h2, int32_t id, uint8_t *out, size_t max, uint32_t *flags,
                            nghttp2_data_source *src, void *arg) {
    struct hreq *r = src->ptr;
    size_t n = MIN_OF(max, r->out.bytes);
    bool end = r->state == REQ_ENDED && n == r->out.bytes;
    if (!end && !n) {
        r->data_deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (end) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (r->trailers) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            submit_trailers(r);
        }
    }
    return (ssize_t)n;
}

/* A frame of a body: its head, then n bytes from where they are. nghttp2 would go on through all streams, so it is held
 * up where the output is due. */
static int on_send_body(nghttp2_session *h2, nghttp2_frame *f, const uint8_t *head, size_t n, nghttp2_data_source *src,
                        void *arg) {
    struct conn *c = arg;
    struct hreq *r = src->ptr;
    c->h2_full = c->srv->out.len >= FLUSH_SIZE;
    if (c->h2_full) return NGHTTP2_ERR_WOULDBLOCK;
    conn_emit(c, (const char *)head, H2_FRAME_HEAD);
    atomic_fetch_sub(&r->queued, n);
    for (const char *p; n;) {
        size_t m = outq_peek(&r->out, n, &p);
        assert(m);
        conn_emit(c, p, m);
        outq_pop(&r->out, m);
        n -= m;
    }
    return 0;
}

void h2_head(struct hreq *r, int status, const struct hdrs *h, int64_t length, bool no_body) {
    struct http_server *s = r->server;
    nghttp2_nv nv[RESP_HEADERS_MAX + 4];
    char st[12], len[24];
    size_t n = 0;
    snprintf(st, sizeof(st), "%d", status);
    nv_set(&nv[n++], ":status", st);
    nv_set(&nv[n++], "date", server_date(s));
    if (s->server_name) nv_set(&nv[n++], "server", s->server_name);
    if (length >= 0) {
        snprintf(len, sizeof(len), "%lld", (long long)length);
        nv_set(&nv[n++], "content-length", len);
    }
    for (size_t i = 0; i < h->n && n < ARRAY_LEN(nv); i++) nv_set(&nv[n++], h->h[i].name, h->h[i].value);
    nghttp2_data_provider dp = {.source.ptr = r, .read_callback = on_read_body};
    r->submitted = true;
    if (nghttp2_submit_response(r->conn->h2, r->stream_id, nv, n, no_body ? NULL : &dp) != 0)
        h2_abort(r, NGHTTP2_INTERNAL_ERROR);
}

void h2_resume(struct hreq *r) {
    if (!r->data_deferred) return;
    r->data_deferred = false;
    nghttp2_session_resume_data(r->conn->h2, r->stream_id);
}

void h2_abort(struct hreq *r, uint32_t code) {
    nghttp2_submit_rst_stream(r->conn->h2, NGHTTP2_FLAG_NONE, r->stream_id, code);
}

/* ---- connection ---- */

static void tell_drained(struct conn *c) {
    for (struct hreq *r = c->streams, *next; r; r = next) {
        next = r->next;
        if (!r->drain_wanted || r->state != REQ_STREAMING || r->out.bytes > HTTP_DRAIN_LOW) continue;
        r->drain_wanted = false;
        if (r->on_drain) r->on_drain(&r->pub, r->on_drain_arg); /* may end r, but not detach it or others */
    }
}

bool h2_pump(struct conn *c) {
    const uint8_t *p;
    c->h2_full = false;
    ssize_t n = nghttp2_session_mem_send(c->h2, &p);
    if (n > 0) {
        conn_emit(c, (const char *)p, (size_t)n);
        return true;
    }
    if (n == 0 && c->h2_full) return true;
    if (n < 0) {
        conn_kill(c);
        return false;
    }
    tell_drained(c);
    if (!nghttp2_session_want_read(c->h2) && !nghttp2_session_want_write(c->h2)) c->close_after = true;
    return false;
}

void h2_input(struct conn *c, const char *p, size_t n) {
    ssize_t rc = nghttp2_session_mem_recv(c->h2, (const uint8_t *)p, n);
    if (rc < 0) {
        nghttp2_session_terminate_session(c->h2, NGHTTP2_PROTOCOL_ERROR);
        c->close_after = true;
    }
}

void h2_goaway(struct conn *c) {
    nghttp2_submit_shutdown_notice(c->h2);
    int32_t last = nghttp2_session_get_last_proc_stream_id(c->h2);
    nghttp2_submit_goaway(c->h2, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0);
    if (!c->n_streams) c->close_after = true;
    conn_mark_dirty(c);
}

static nghttp2_session_callbacks *callbacks_new(void) {
    nghttp2_session_callbacks *cb;
    if (nghttp2_session_callbacks_new(&cb) != 0) return NULL;
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_send_data_callback(cb, on_send_body);
    return cb;
}

int h2_start(struct conn *c) {
    nghttp2_session_callbacks *cb = callbacks_new();
    nghttp2_option *opt = NULL;
    if (!cb || nghttp2_option_new(&opt) != 0) {
        nghttp2_session_callbacks_del(cb);
        return -ENOMEM;
    }
    nghttp2_option_set_stream_reset_rate_limit(opt, H2_RESET_BURST, H2_RESET_RATE);
    nghttp2_option_set_no_closed_streams(opt, 1);
    /* grpc-go gives a unix socket's path as :authority, which nghttp2 would refuse; what its checks are for (smuggling
     * through proxies) does not concern a local peer */
    if (c->lst->is_pipe) nghttp2_option_set_no_http_messaging(opt, 1);
    nghttp2_option_set_max_send_header_block_length(opt, 128 * 1024);
    int rc = nghttp2_session_server_new2(&c->h2, cb, c, opt);
    nghttp2_option_del(opt);
    nghttp2_session_callbacks_del(cb);
    if (rc) return -ENOMEM;
    const nghttp2_settings_entry iv[] = {
        {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, c->srv->lim.h2_streams},
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)MIN_OF(c->srv->lim.header_bytes, (size_t)UINT32_MAX)},
    };
    nghttp2_submit_settings(c->h2, NGHTTP2_FLAG_NONE, iv, ARRAY_LEN(iv));
    nghttp2_session_set_local_window_size(c->h2, NGHTTP2_FLAG_NONE, 0, H2_CONN_WINDOW);
    c->proto = CONN_H2;
    conn_deadline(c, DL_IDLE, c->srv->lim.idle_ms);
    return 0;
}

void h2_conn_gone(struct conn *c) {
    while (c->streams) {
        struct hreq *r = c->streams;
        untrack(c, r);
        hreq_detach(r);
    }
    nghttp2_session_del(c->h2);
    c->h2 = NULL;
}
