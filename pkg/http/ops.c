/* Answering. The public functions pack their arguments into an operation (copying headers, referencing bodies,
 * compressing) in the calling thread; the operation runs on the loop: at once when called there, else posted. */
#include <ctype.h>
#include <strings.h>
#include <sys/socket.h>
#include <zlib.h>

#include "pkg/http/internal.h"

/* ---- queue of shared bytes ---- */

static struct seg *segs(const struct outq *q) { return q->items ? q->items : (struct seg *)(uintptr_t)q->few; }

static void make_room(struct outq *q) {
    size_t cap = q->items ? q->cap : ARRAY_LEN(q->few);
    if (q->head + q->n < cap) return;
    if (q->head) {
        memmove(segs(q), segs(q) + q->head, q->n * sizeof(struct seg));
        q->head = 0;
    }
    if (q->n < cap) return;
    bool first = !q->items;
    VEC_GROW(q->items, q->n, q->cap);
    if (first) memcpy(q->items, q->few, sizeof(q->few));
}

void outq_push(struct outq *q, struct rbytes *b) {
    if (!b->len) {
        rbytes_unref(b);
        return;
    }
    make_room(q);
    segs(q)[q->head + q->n++] = (struct seg){b, 0};
    q->bytes += b->len;
}

size_t outq_peek(const struct outq *q, size_t max, const char **p) {
    if (!q->n) return 0;
    const struct seg *s = &segs(q)[q->head];
    *p = s->b->data + s->off;
    return MIN_OF(max, s->b->len - s->off);
}

void outq_pop(struct outq *q, size_t n) {
    struct seg *s = &segs(q)[q->head];
    s->off += n;
    q->bytes -= n;
    if (s->off < s->b->len) return;
    rbytes_unref(s->b);
    q->head++;
    if (--q->n == 0) outq_clear(q);
}

void outq_clear(struct outq *q) {
    for (size_t i = 0; i < q->n; i++) rbytes_unref(segs(q)[q->head + i].b);
    free(q->items);
    q->items = NULL;
    q->head = q->n = q->cap = q->bytes = 0;
}

/* ---- packing ---- */

static bool hop_by_hop(const char *name) {
    static const char *const names[] = {"connection", "transfer-encoding", "upgrade", "keep-alive", "proxy-connection"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcasecmp(name, names[i]) == 0) return true;
    return false;
}

/* Copies a header's text; control characters (which would split the response) become spaces. */
static char *put_text(char *o, const char *s, bool lower) {
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        *o++ = (char)((c < ' ' && c != '\t') || c == 127 ? ' ' : lower ? tolower(c) : c);
    }
    *o++ = 0;
    return o;
}

/* One block with copies of the headers. HTTP/2 wants lower case and none about the connection. `framing` leaves out
 * what this module says itself (Content-Length, Transfer-Encoding). */
static struct hdrs *hdrs_pack(const struct http_header *h, size_t n, bool h2, bool framing, bool gzip) {
    static const struct http_header gz[] = {{"Content-Encoding", "gzip"}, {"Vary", "Accept-Encoding"}};
    size_t bytes = sizeof(struct hdrs) + (n + ARRAY_LEN(gz)) * sizeof(struct http_header), kept = 0;
    for (size_t i = 0; i < n; i++) bytes += strlen(h[i].name) + strlen(h[i].value) + 2;
    struct hdrs *out = xmalloc(bytes);
    char *text = (char *)&out->h[n + ARRAY_LEN(gz)];
    for (size_t i = 0; i < n; i++) {
        if (h2 && hop_by_hop(h[i].name)) continue;
        if (framing &&
            (strcasecmp(h[i].name, "content-length") == 0 || strcasecmp(h[i].name, "transfer-encoding") == 0))
            continue;
        out->h[kept].name = text;
        text = put_text(text, h[i].name, h2);
        out->h[kept++].value = text;
        text = put_text(text, h[i].value, false);
    }
    for (size_t i = 0; gzip && i < ARRAY_LEN(gz); i++) out->h[kept++] = gz[i];
    if (gzip && h2) out->h[kept - 2].name = "content-encoding", out->h[kept - 1].name = "vary";
    out->n = kept;
    return out;
}

static struct op *op_new(enum op_kind kind, struct http_req *r, size_t n_parts) {
    struct op *op = xcalloc(1, sizeof(*op) + n_parts * sizeof(op->parts[0]));
    op->kind = kind;
    op->r = r ? hreq_of(r) : NULL;
    op->fd = -1;
    return op;
}

void op_discard(struct op *op) {
    if (op->r) http_req_unref(&op->r->pub);
    free(op->hdrs);
    rbytes_unref(op->bytes);
    for (size_t i = 0; i < op->n_parts; i++) rbytes_unref(op->parts[i]);
    if (op->fd >= 0) close(op->fd);
    free(op);
}

static bool accepts_gzip(const struct http_req *r) {
    const char *v;
    for (size_t i = 0; (v = http_header_n(r, "accept-encoding", i)); i++)
        for (; *v; v += strcspn(v, ",")) {
            v += strspn(v, " \t,");
            size_t n = strcspn(v, " \t,;");
            if (n != 4 || strncasecmp(v, "gzip", 4) != 0) continue;
            const char *q = v + n;
            q += strspn(q, " \t;");
            return !(strncasecmp(q, "q=0", 3) == 0 && strspn(q + 2, "0.") == strcspn(q + 2, " \t,"));
        }
    return false;
}

static struct rbytes *gzip_parts(struct rbytes *const *parts, size_t n, size_t total) {
    z_stream z = {0};
    if (deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) return NULL;
    size_t cap = deflateBound(&z, total);
    struct rbytes *out = rbytes_alloc(cap);
    z.next_out = (Bytef *)out->data;
    z.avail_out = (uInt)cap;
    for (size_t i = 0; i < n; i++) {
        z.next_in = (Bytef *)parts[i]->data;
        z.avail_in = (uInt)parts[i]->len;
        deflate(&z, Z_NO_FLUSH);
    }
    bool ok = deflate(&z, Z_FINISH) == Z_STREAM_END;
    size_t len = cap - z.avail_out;
    deflateEnd(&z);
    if (!ok) {
        rbytes_unref(out);
        return NULL;
    }
    out = xrealloc(out, sizeof(*out) + len + 1);
    out->len = len;
    out->data[len] = 0;
    return out;
}

static void post_finishing(struct op *op) {
    atomic_store(&op->r->finished, true);
    server_post_op(op->r->server, op);
}

void http_respond_bytes(struct http_req *r, int status, const struct http_header *h, size_t n_h,
                        struct rbytes *const *parts, size_t n_parts, unsigned flags) {
    size_t total = 0;
    hreq_started(r, status);
    for (size_t i = 0; i < n_parts; i++) total += parts[i]->len;
    struct rbytes *gz = NULL;
    if ((flags & HTTP_GZIP) && total >= HTTP_GZIP_MIN && total < UINT32_MAX / 2 && accepts_gzip(r))
        gz = gzip_parts(parts, n_parts, total);
    struct op *op = op_new(OP_RESPOND, r, gz ? 1 : n_parts);
    op->status = status;
    op->flags = flags;
    op->hdrs = hdrs_pack(h, n_h, r->version == 20, !(hreq_of(r)->is_head && !total), gz != NULL);
    op->n_parts = gz ? 1 : n_parts;
    if (gz)
        op->parts[0] = gz;
    else
        for (size_t i = 0; i < n_parts; i++) op->parts[i] = rbytes_ref(parts[i]);
    post_finishing(op);
}

void http_respond(struct http_req *r, int status, const struct http_header *h, size_t n_h, const void *body,
                  size_t body_len, unsigned flags) {
    struct rbytes *b = rbytes_new(body, body_len);
    http_respond_bytes(r, status, h, n_h, &b, 1, flags);
    rbytes_unref(b);
}

void http_respond_text(struct http_req *r, int status, const char *fmt, ...) {
    static const struct http_header h[] = {{"Content-Type", "text/plain; charset=utf-8"},
                                           {"X-Content-Type-Options", "nosniff"}};
    va_list ap;
    va_start(ap, fmt);
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    http_respond(r, status, h, ARRAY_LEN(h), b.data, b.len, 0);
}

void http_abort(struct http_req *r) { post_finishing(op_new(OP_ABORT, r, 0)); }

void http_stream_begin(struct http_req *r, int status, const struct http_header *h, size_t n_h, unsigned flags) {
    hreq_started(r, status);
    http_req_ref(r);
    struct op *op = op_new(OP_BEGIN, r, 0);
    op->status = status;
    op->flags = flags;
    op->hdrs = hdrs_pack(h, n_h, r->version == 20, false, false);
    server_post_op(hreq_of(r)->server, op);
}

static void op_perform(struct op *op);

int http_stream_write(struct http_req *r, struct rbytes *chunk) {
    if (atomic_load(&hreq_of(r)->closed)) return -EPIPE;
    if (!chunk->len) return 0;
    atomic_fetch_add(&hreq_of(r)->queued, chunk->len);
    struct http_server *server = hreq_of(r)->server;
    if (http_on_loop(server)) { /* the way of every watch event: without an allocation */
        struct op now = {.kind = OP_WRITE, .r = hreq_of(r), .fd = -1, .bytes = rbytes_ref(chunk)};
        server_drain_ops(server);
        op_perform(&now);
        rbytes_unref(now.bytes);
        return 0;
    }
    http_req_ref(r);
    struct op *op = op_new(OP_WRITE, r, 0);
    op->bytes = rbytes_ref(chunk);
    server_post_op(hreq_of(r)->server, op);
    return 0;
}

int http_stream_write_copy(struct http_req *r, const void *p, size_t n) {
    _cleanup_rbytes_ struct rbytes *b = rbytes_new(p, n);
    return http_stream_write(r, b);
}

void http_stream_end_trailers(struct http_req *r, const struct http_header *t, size_t n_t) {
    struct op *op = op_new(OP_END, r, 0);
    if (n_t) op->hdrs = hdrs_pack(t, n_t, r->version == 20, true, false);
    post_finishing(op);
}

void http_stream_end(struct http_req *r) { http_stream_end_trailers(r, NULL, 0); }

/* ---- leaving HTTP ---- */

int http_tunnel(struct http_req *r, const void *head, size_t head_len, int fd, struct err *e) {
    if (r->version == 20) return err_set(e, -EPROTO, "HTTP/2 connections cannot be upgraded");
    if (atomic_load(&hreq_of(r)->closed)) return err_set(e, -EPIPE, "the client has gone");
    hreq_started(r, 101);
    struct op *op = op_new(OP_TUNNEL, r, 0);
    op->bytes = rbytes_new(head, head_len);
    op->fd = fd;
    post_finishing(op);
    return 0;
}

int http_upgrade(struct http_req *r, const struct http_header *h, size_t n_h, int *fd, struct err *e) {
    if (r->version == 20) return err_set(e, -EPROTO, "HTTP/2 connections cannot be upgraded");
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) return err_errno(e, errno, "socketpair");
    _cleanup_buf_ struct buf head = BUF_INIT;
    buf_adds(&head, "HTTP/1.1 101 Switching Protocols\r\n");
    _cleanup_free_ struct hdrs *safe = hdrs_pack(h, n_h, false, true, false);
    for (size_t i = 0; i < safe->n; i++) buf_printf(&head, "%s: %s\r\n", safe->h[i].name, safe->h[i].value);
    buf_adds(&head, "\r\n");
    int rc = http_tunnel(r, head.data, head.len, sv[0], e);
    if (rc < 0) {
        close(sv[0]);
        close(sv[1]);
        return rc;
    }
    *fd = sv[1];
    return 0;
}

/* ---- on the loop ---- */

static bool bodyless(const struct hreq *r, int status) {
    return r->is_head || status == 204 || status == 304 || status < 200;
}

static void run_respond(struct op *op, struct hreq *r) {
    size_t total = 0;
    for (size_t i = 0; i < op->n_parts; i++) total += op->parts[i]->len;
    r->no_body_response = bodyless(r, op->status);
    /* a HEAD answered without a body: its handler may have given the length as a header */
    int64_t length = (r->is_head && !total) || op->status == 204 || op->status == 304 ? -1 : (int64_t)total;
    if (op->flags & HTTP_CLOSE) r->close_after = true;
    if (!r->no_body_response) {
        for (size_t i = 0; i < op->n_parts; i++) outq_push(&r->out, take_ptr(op->parts[i]));
        op->n_parts = 0;
        atomic_store(&r->queued, total);
    }
    r->state = REQ_ENDED;
    if (r->pub.version == 20)
        h2_head(r, op->status, op->hdrs, length, r->no_body_response || !total);
    else
        h1_head(r, op->status, op->hdrs, length);
}

static void run_begin(struct op *op, struct hreq *r) {
    bool upgraded = op->status == 101 && r->pub.version == 11;
    r->no_body_response = bodyless(r, op->status) && !upgraded;
    if ((op->flags & HTTP_CLOSE) || upgraded) r->close_after = true;
    bool has_length = false;
    for (size_t i = 0; i < op->hdrs->n; i++)
        if (strcasecmp(op->hdrs->h[i].name, "content-length") == 0) has_length = true;
    r->state = REQ_STREAMING;
    if (r->pub.version == 20) {
        h2_head(r, op->status, op->hdrs, -1, r->no_body_response);
        return;
    }
    r->chunked = !has_length && !r->no_body_response && !upgraded && r->pub.version == 11;
    if (!has_length && !r->no_body_response && !r->chunked)
        r->close_after = true; /* HTTP/1.0: ends with the connection */
    h1_head(r, op->status, op->hdrs, -1);
    if (upgraded) h1_upgraded(r->conn);
}

static void run_write(struct op *op, struct hreq *r) {
    size_t n = op->bytes->len;
    if (r->state != REQ_STREAMING || r->no_body_response) {
        atomic_fetch_sub(&r->queued, n);
        return;
    }
    outq_push(&r->out, take_ptr(op->bytes));
    if (r->out.bytes > HTTP_DRAIN_LOW) r->drain_wanted = true;
    if (r->out.bytes > r->server->lim.queued_bytes) {
        if (r->pub.version == 20)
            h2_abort(r, NGHTTP2_ENHANCE_YOUR_CALM);
        else
            conn_kill(r->conn);
        return;
    }
    if (r->pub.version == 20) h2_resume(r);
}

static void run_end(struct op *op, struct hreq *r) {
    if (r->state == REQ_HANDLING) { /* never begun: nothing sensible was said */
        r->close_after = true;
        if (r->pub.version == 20)
            h2_abort(r, NGHTTP2_INTERNAL_ERROR);
        else
            conn_kill(r->conn);
        return;
    }
    r->trailers = take_ptr(op->hdrs);
    r->state = REQ_ENDED;
    if (r->pub.version == 20) h2_resume(r);
}

static void run_tunnel(struct op *op, struct hreq *r) {
    struct conn *c = r->conn;
    if (op->bytes->len) outq_push(&c->out, take_ptr(op->bytes));
    c->cur = NULL;
    hreq_detach(r);
    tunnel_start(c, take_fd(&op->fd));
}

static void run_abort(struct hreq *r) {
    if (r->pub.version == 20)
        h2_abort(r, NGHTTP2_INTERNAL_ERROR);
    else
        conn_kill(r->conn);
}

static void op_perform(struct op *op) {
    struct hreq *r = op->r;
    struct conn *c = r ? r->conn : NULL;
    if (op->kind == OP_CALL) {
        op->fn(op->arg);
    } else if (c && !c->dead) {
        switch (op->kind) {
            case OP_RESPOND: run_respond(op, r); break;
            case OP_BEGIN: run_begin(op, r); break;
            case OP_WRITE: run_write(op, r); break;
            case OP_END: run_end(op, r); break;
            case OP_TUNNEL: run_tunnel(op, r); break;
            case OP_ABORT: run_abort(r); break;
            case OP_CALL: break;
        }
        conn_mark_dirty(c);
    }
}

void op_run(struct op *op) {
    op_perform(op);
    op_discard(op);
}
