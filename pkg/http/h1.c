/* HTTP/1.1 connections: one request at a time is read, handled and answered; what a client pipelines behind it waits
 * in conn.in (reading stops when that is full). */
#include "pkg/http/internal.h"

static void refuse(struct conn *c, struct hreq *r, int status) {
    c->in_body = false;
    c->cur = r;
    r->close_after = true;
    r->state = REQ_HANDLING;
    http_req_ref(&r->pub);
    static const struct http_header h[] = {{"Content-Type", "text/plain; charset=utf-8"}};
    const char *text = http_status_text(status);
    http_respond(&r->pub, status, h, 1, text, strlen(text), HTTP_CLOSE);
}

/* Head complete: sets up the body. */
static void start_request(struct conn *c, const char *p, size_t n) {
    struct http_server *s = c->srv;
    struct hreq *r = hreq_new(c);
    struct h1_head h;
    r->pub.start_ns = mono_ns();
    r->pub.version = 11;
    r->pub.method = "GET";
    int st = h1_parse_head(r->pub.arena, p, n, &s->lim, &h);
    if (st) {
        refuse(c, r, st);
        return;
    }
    r->pub.method = h.method;
    r->pub.target = h.target;
    r->pub.host = h.host;
    r->pub.version = h.version;
    r->pub.headers = h.headers;
    r->pub.n_headers = h.n_headers;
    hreq_split_target(r);
    r->close_after = !h.keep_alive;
    size_t limit = s->opt.body_limit ? s->opt.body_limit(&r->pub, s->opt.arg) : 0;
    r->body_limit = limit ? limit : s->lim.body_bytes;
    r->body.limit = r->body_limit;
    r->content_length = h.content_length;
    if (h.content_length > (int64_t)r->body_limit) {
        refuse(c, r, 413);
        return;
    }
    c->cur = r;
    if (!h.chunked && h.content_length <= 0) {
        conn_deadline(c, DL_NONE, 0);
        hreq_dispatch(r);
        return;
    }
    c->in_body = true;
    c->body_chunked = h.chunked;
    c->chunked_in = (struct h1_chunked){0};
    conn_deadline(c, DL_BODY, s->lim.body_ms);
    if (h.expect_continue) outq_push(&c->out, rbytes_new("HTTP/1.1 100 Continue\r\n\r\n", 25));
}

/* Returns the bytes used. */
static size_t read_body(struct conn *c, const char *p, size_t n) {
    struct hreq *r = c->cur;
    bool done = false;
    size_t used;
    if (c->body_chunked) {
        ssize_t rc = h1_chunked_feed(&c->chunked_in, p, n, &r->body, &done);
        if (rc < 0) {
            refuse(c, r, 400);
            return n;
        }
        used = (size_t)rc;
    } else {
        used = MIN_OF(n, (size_t)r->content_length - r->body.len);
        buf_add(&r->body, p, used);
        done = r->body.len == (size_t)r->content_length;
    }
    if (r->body.failed) {
        refuse(c, r, 413);
        return n;
    }
    if (done) {
        c->in_body = false;
        conn_deadline(c, DL_NONE, 0);
        hreq_dispatch(r);
    } else {
        conn_deadline(c, DL_BODY, c->srv->lim.body_ms);
    }
    return used;
}

/* Consumes what can be consumed of p; returns the bytes used. */
static size_t advance(struct conn *c, const char *p, size_t n) {
    size_t used = 0;
    while (used < n && !c->dead && c->proto == CONN_H1) {
        if (c->in_body) {
            used += read_body(c, p + used, n - used);
            continue;
        }
        if (c->cur || c->close_after) break;
        while (used < n && !c->scanned && (p[used] == '\r' || p[used] == '\n')) used++; /* RFC 9112 2.2 */
        size_t head = h1_head_end(p + used, n - used, &c->scanned);
        if (!head && n - used > c->srv->lim.header_bytes) head = n - used, c->scanned = SIZE_MAX;
        if (!head) break;
        bool too_long = c->scanned == SIZE_MAX || head > c->srv->lim.header_bytes;
        c->scanned = 0;
        if (too_long) {
            struct hreq *r = hreq_new(c);
            r->pub.version = 11;
            r->pub.method = "GET";
            refuse(c, r, 431);
        } else {
            start_request(c, p + used, head);
        }
        used += head;
    }
    return used;
}

/* The stream that a request has become. */
static struct hreq *upgraded(struct conn *c) {
    return c->cur && c->cur->on_input && c->cur->state == REQ_STREAMING ? c->cur : NULL;
}

void h1_upgraded(struct conn *c) {
    struct hreq *r = upgraded(c);
    if (!r || !c->in.len) return;
    _cleanup_buf_ struct buf first = c->in;
    c->in = (struct buf)BUF_INIT;
    r->on_input(&r->pub, first.data, first.len, r->on_input_arg);
}

void h1_input(struct conn *c, const char *p, size_t n) {
    struct hreq *up = upgraded(c);
    if (up) {
        up->on_input(&up->pub, p, n, up->on_input_arg);
        return;
    }
    if (!c->in.len) {
        size_t used = advance(c, p, n);
        if (used == n || c->dead) return;
        if (c->dl_kind == DL_IDLE || c->dl_kind == DL_HELLO) conn_deadline(c, DL_HEADER, c->srv->lim.header_ms);
        buf_add(&c->in, p + used, n - used);
    } else {
        buf_add(&c->in, p, n);
        size_t used = advance(c, c->in.data, c->in.len);
        buf_consume(&c->in, used);
        if (!c->in.len) buf_done(&c->in);
    }
    if (c->cur && c->in.len > PIPELINE_MAX) conn_read_stop(c);
}

/* ---- answering ---- */

const char *http_status_text(int status) {
    static const struct {
        int status;
        const char *text;
    } table[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Request Entity Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Entity"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (table[i].status == status) return table[i].text;
    return "Status";
}

void h1_head(struct hreq *r, int status, const struct hdrs *h, int64_t length) {
    struct http_server *s = r->server;
    char small[160];
    size_t n = 0;
    for (size_t i = 0; i < h->n; i++) n += strlen(h->h[i].name) + strlen(h->h[i].value) + 4;
    bool close = r->close_after || s->stopping;
    r->close_after = close;
    int m = snprintf(small, sizeof(small), "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, http_status_text(status),
                     server_date(s));
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_reserve(&b, n + (size_t)m + 128);
    buf_add(&b, small, (size_t)m);
    if (s->server_name) buf_printf(&b, "Server: %s\r\n", s->server_name);
    for (size_t i = 0; i < h->n; i++) {
        buf_adds(&b, h->h[i].name);
        buf_add(&b, ": ", 2);
        buf_adds(&b, h->h[i].value);
        buf_add(&b, "\r\n", 2);
    }
    if (length >= 0) buf_printf(&b, "Content-Length: %lld\r\n", (long long)length);
    if (r->chunked) buf_adds(&b, "Transfer-Encoding: chunked\r\n");
    if (close && status != 101)
        buf_adds(&b, "Connection: close\r\n");
    else if (r->pub.version == 10)
        buf_adds(&b, "Connection: keep-alive\r\n");
    buf_add(&b, "\r\n", 2);
    outq_push(&r->conn->out, rbytes_new(b.data, b.len));
}

static void emit_end(struct conn *c, struct hreq *r) {
    conn_emit(c, "0\r\n", 3);
    for (size_t i = 0; r->trailers && i < r->trailers->n; i++) {
        conn_emit(c, r->trailers->h[i].name, strlen(r->trailers->h[i].name));
        conn_emit(c, ": ", 2);
        conn_emit(c, r->trailers->h[i].value, strlen(r->trailers->h[i].value));
        conn_emit(c, "\r\n", 2);
    }
    conn_emit(c, "\r\n", 2);
    r->chunked = false;
}

bool h1_pump(struct conn *c) {
    const char *p;
    size_t n = outq_peek(&c->out, SIZE_MAX, &p);
    if (n) {
        conn_emit(c, p, n);
        outq_pop(&c->out, n);
        return true;
    }
    struct hreq *r = c->cur;
    if (!r) return false;
    n = outq_peek(&r->out, FLUSH_SIZE, &p);
    if (n) {
        if (r->chunked) {
            char size[24], *at = size + sizeof(size);
            *--at = '\n';
            *--at = '\r';
            for (size_t left = n; left; left >>= 4) *--at = "0123456789abcdef"[left & 15];
            conn_emit(c, at, (size_t)(size + sizeof(size) - at));
        }
        conn_emit(c, p, n);
        if (r->chunked) conn_emit(c, "\r\n", 2);
        outq_pop(&r->out, n);
        atomic_fetch_sub(&r->queued, n);
        return true;
    }
    if (r->state != REQ_ENDED || !r->chunked) return false;
    emit_end(c, r);
    return true;
}

/* After a flush: tells a waiting producer, ends the answered request and takes up the next. */
void h1_settle(struct conn *c) {
    struct hreq *r = c->cur;
    if (r && r->drain_wanted && r->state == REQ_STREAMING && r->out.bytes <= HTTP_DRAIN_LOW) {
        r->drain_wanted = false;
        if (r->on_drain) r->on_drain(&r->pub, r->on_drain_arg);
    }
    if (!r || r->state != REQ_ENDED || r->out.n || r->chunked || c->out.n) return;
    bool close = r->close_after || c->srv->stopping || c->in_body;
    c->cur = NULL;
    c->in_body = false;
    hreq_detach(r);
    if (close) {
        c->close_after = true;
        buf_done(&c->in);
        return;
    }
    conn_deadline(c, DL_IDLE, c->srv->lim.idle_ms);
    if (c->in.len) {
        conn_deadline(c, DL_HEADER, c->srv->lim.header_ms);
        size_t used = advance(c, c->in.data, c->in.len);
        buf_consume(&c->in, used);
        if (!c->in.len) buf_done(&c->in);
    }
    if (c->in.len <= PIPELINE_MAX) conn_read_start(c);
}

void h1_conn_gone(struct conn *c) {
    struct hreq *r = take_ptr(c->cur);
    if (r) hreq_detach(r);
}
