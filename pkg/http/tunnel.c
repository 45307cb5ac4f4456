/* After an upgrade: bytes between the connection and a local socket, both ways, with back-pressure. Each direction
 * ends by itself; when the local side has closed, what it wrote is delivered before the connection is closed. */
#include "pkg/http/internal.h"

struct tunnel {
    uv_pipe_t pipe;
    struct conn *c; /* NULL when the connection is gone */
    struct http_server *srv;
    size_t waiting; /* bytes written to the pipe, not taken yet */
    bool reading, pipe_eof, pipe_fin;
};

static void on_closed(uv_handle_t *h) {
    struct tunnel *t = h->data;
    struct http_server *s = t->srv;
    free(t);
    server_handle_closed(s);
    server_unref(s);
}

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *b) {
    struct tunnel *t = h->data;
    b->base = t->srv->rbuf;
    b->len = sizeof(t->srv->rbuf);
}

static void on_pipe_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b) {
    struct tunnel *t = h->data;
    struct conn *c = t->c;
    if (!c || n == 0) return;
    if (n > 0) {
        outq_push(&c->out, rbytes_new(b->base, (size_t)n));
    } else {
        t->pipe_eof = true;
        uv_read_stop(h);
        t->reading = false;
    }
    conn_mark_dirty(c);
}

static void pipe_read(struct tunnel *t, bool on) {
    if (t->reading == on || t->pipe_eof) return;
    t->reading = on;
    if (on)
        uv_read_start((uv_stream_t *)&t->pipe, on_alloc, on_pipe_read);
    else
        uv_read_stop((uv_stream_t *)&t->pipe);
}

void tunnel_start(struct conn *c, int fd) {
    struct tunnel *t = xcalloc(1, sizeof(*t));
    t->c = c;
    t->srv = server_ref(c->srv);
    uv_pipe_init(c->srv->loop, &t->pipe, 0);
    t->pipe.data = t;
    c->srv->n_handles++;
    c->tun = t;
    c->proto = CONN_TUNNEL;
    conn_deadline(c, DL_NONE, 0);
    if (uv_pipe_open(&t->pipe, fd) != 0) {
        close(fd);
        conn_kill(c);
        return;
    }
    pipe_read(t, true);
    conn_read_start(c);
}

struct write_req {
    uv_write_t w;
    struct tunnel *t;
    size_t n;
    char data[];
};

static void on_written(uv_write_t *w, int status) {
    struct write_req *wr = CONTAINER_OF(w, struct write_req, w);
    struct tunnel *t = wr->t;
    t->waiting -= wr->n;
    free(wr);
    if (!t->c) return;
    if (t->waiting < TUNNEL_HIGH / 2) conn_read_start(t->c);
    conn_mark_dirty(t->c);
}

void tunnel_input(struct conn *c, const char *p, size_t n) {
    struct tunnel *t = c->tun;
    uv_buf_t b = uv_buf_init((char *)(uintptr_t)p, (unsigned)n);
    if (!t->waiting) {
        int rc = uv_try_write((uv_stream_t *)&t->pipe, &b, 1);
        if (rc > 0) {
            p += rc;
            n -= (size_t)rc;
        }
    }
    if (!n) return;
    struct write_req *wr = xmalloc(sizeof(*wr) + n);
    wr->t = t;
    wr->n = n;
    memcpy(wr->data, p, n);
    b = uv_buf_init(wr->data, (unsigned)n);
    if (uv_write(&wr->w, (uv_stream_t *)&t->pipe, &b, 1, on_written) != 0) {
        free(wr);
        return;
    }
    t->waiting += n;
    if (t->waiting > TUNNEL_HIGH) conn_read_stop(c);
}

static void on_shutdown(uv_shutdown_t *r, int status) { free(r); }

/* The client has finished sending. */
void tunnel_eof(struct conn *c) {
    struct tunnel *t = c->tun;
    if (t->pipe_fin) return;
    t->pipe_fin = true;
    uv_shutdown_t *r = xmalloc(sizeof(*r));
    if (uv_shutdown(r, (uv_stream_t *)&t->pipe, on_shutdown) != 0) free(r);
    conn_mark_dirty(c);
}

void tunnel_settle(struct conn *c) {
    struct tunnel *t = c->tun;
    if (c->in.len) { /* came right behind the request */
        struct buf first = c->in;
        c->in = (struct buf)BUF_INIT;
        tunnel_input(c, first.data, first.len);
        buf_done(&first);
    }
    pipe_read(t, c->out.bytes + c->inflight < TUNNEL_HIGH);
    if (!t->pipe_eof || c->out.n || c->inflight) return;
    if (c->eof)
        conn_kill(c); /* both directions have ended and all is delivered */
    else
        c->close_after = true;
}

void tunnel_conn_gone(struct conn *c) {
    struct tunnel *t = take_ptr(c->tun);
    if (!t) return;
    t->c = NULL;
    uv_close((uv_handle_t *)&t->pipe, on_closed);
}
