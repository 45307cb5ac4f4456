/* A connection: the socket, TLS through a BIO that reads from the bytes just received and writes to the server's one
 * output buffer (an idle connection so holds no buffers), deadlines, and the flush that moves output. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/socket.h>

#include "pkg/http/internal.h"

static const char H2_PREFACE[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
enum { H2_PREFACE_LEN = 24 };

/* ---- peers ---- */

struct peer *peer_new(void) {
    struct peer *p = xcalloc(1, sizeof(*p));
    atomic_init(&p->refs, 1);
    p->pub.uid = (uid_t)-1;
    return p;
}
struct peer *peer_ref(struct peer *p) {
    atomic_fetch_add_explicit(&p->refs, 1, memory_order_relaxed);
    return p;
}
void peer_unref(struct peer *p) {
    if (!p || atomic_fetch_sub_explicit(&p->refs, 1, memory_order_acq_rel) != 1) return;
    arena_free(p->arena);
    free(p);
}

static void fill_peer(struct conn *c) {
    struct http_peer *p = &c->peer->pub;
    uv_os_fd_t fd;
    if (uv_fileno(&c->u.handle, &fd)) return;
    struct sockaddr_storage ss = {0};
    socklen_t len = sizeof(ss);
    if (c->lst->is_pipe) {
        struct ucred cred;
        len = sizeof(cred);
        p->unix_socket = true;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
            p->uid = cred.uid;
            p->pid = cred.pid;
        }
    } else if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0) {
        const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)&ss;
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)&ss;
        if (ss.ss_family == AF_INET) {
            inet_ntop(AF_INET, &v4->sin_addr, p->addr, sizeof(p->addr));
            p->port = ntohs(v4->sin_port);
        } else if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
            inet_ntop(AF_INET, v6->sin6_addr.s6_addr + 12, p->addr, sizeof(p->addr));
            p->port = ntohs(v6->sin6_port);
        } else {
            inet_ntop(AF_INET6, &v6->sin6_addr, p->addr, sizeof(p->addr));
            p->port = ntohs(v6->sin6_port);
        }
    }
}

/* ---- deadlines ---- */

void conn_deadline(struct conn *c, enum deadline_kind kind, unsigned ms) {
    c->dl_kind = kind;
    if (kind == DL_NONE) return;
    c->deadline_ms = uv_now(c->srv->loop) + ms;
    server_arm_timer(c->srv, c->deadline_ms);
}

void conn_check_deadline(struct conn *c, uint64_t now) {
    if (c->dead) return;
    if (c->inflight) {
        uint64_t at = c->write_progress_ms + c->srv->lim.write_ms;
        if (now >= at) {
            conn_kill(c);
            return;
        }
        server_arm_timer(c->srv, at);
    }
    if (c->dl_kind == DL_NONE) return;
    if (now < c->deadline_ms) {
        server_arm_timer(c->srv, c->deadline_ms);
    } else if (c->proto == CONN_H2 && c->dl_kind == DL_IDLE) {
        c->dl_kind = DL_NONE;
        h2_goaway(c);
    } else if (c->proto == CONN_H2 && c->dl_kind == DL_BODY) {
        h2_check_bodies(c, now);
    } else {
        conn_kill(c);
    }
}

/* ---- reading ---- */

static void on_alloc(uv_handle_t *h, size_t want, uv_buf_t *b) {
    struct conn *c = h->data;
    b->base = c->srv->rbuf;
    b->len = sizeof(c->srv->rbuf);
}

static void on_eof(struct conn *c) {
    c->eof = true;
    conn_read_stop(c);
    if (c->proto == CONN_TUNNEL)
        tunnel_eof(c);
    else
        conn_kill(c); /* a half-closed client counts as gone, as in Go */
}

/* Handshake done: which protocol? */
static void tls_ready(struct conn *c) {
    const unsigned char *alpn = NULL;
    unsigned len = 0;
    SSL_get0_alpn_selected(c->ssl, &alpn, &len);
    tls_fill_peer(c);
    tls_conf_unref(take_ptr(c->tls));
    if (len == 2 && memcmp(alpn, "h2", 2) == 0) {
        if (h2_start(c) < 0) conn_kill(c);
    } else {
        c->proto = CONN_H1;
        conn_deadline(c, DL_IDLE, c->srv->lim.header_ms);
    }
}

static void send_out(struct conn *c);

static void tls_input(struct conn *c, const char *p, size_t n) {
    c->cipher_in = p;
    c->cipher_in_len = n;
    while (!c->dead) {
        ERR_clear_error();
        if (c->proto == CONN_TLS_HELLO) {
            int rc = SSL_do_handshake(c->ssl);
            if (rc == 1) {
                tls_ready(c);
                continue;
            }
            if (SSL_get_error(c->ssl, rc) != SSL_ERROR_WANT_READ) {
                c->close_after = true; /* lets the alert out */
                c->proto = CONN_LINGER;
                conn_deadline(c, DL_LINGER, LINGER_MS);
            }
            break;
        }
        int m = SSL_read(c->ssl, c->srv->pbuf, sizeof(c->srv->pbuf));
        if (m > 0) {
            conn_input(c, c->srv->pbuf, (size_t)m);
            continue;
        }
        int why = SSL_get_error(c->ssl, m);
        if (why == SSL_ERROR_ZERO_RETURN)
            on_eof(c);
        else if (why != SSL_ERROR_WANT_READ)
            conn_kill(c);
        break;
    }
    c->cipher_in = NULL;
    c->cipher_in_len = 0;
    ERR_clear_error();
    send_out(c); /* handshake bytes: the buffer is shared with the other connections */
    conn_mark_dirty(c);
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *b) {
    struct conn *c = h->data;
    if (c->dead) return;
    if (n > 0 && c->proto == CONN_LINGER) return;
    if (n > 0 && c->ssl)
        tls_input(c, b->base, (size_t)n);
    else if (n > 0)
        conn_input(c, b->base, (size_t)n);
    else if (n < 0 && n == UV_EOF)
        on_eof(c);
    else if (n < 0)
        conn_kill(c);
}

static void detect_input(struct conn *c, const char *p, size_t n) {
    buf_add(&c->in, p, n);
    size_t have = MIN_OF(c->in.len, (size_t)H2_PREFACE_LEN);
    bool h2 = memcmp(c->in.data, H2_PREFACE, have) == 0;
    if (h2 && have < H2_PREFACE_LEN) return;
    _cleanup_buf_ struct buf first = c->in;
    c->in = (struct buf)BUF_INIT;
    if (h2 && h2_start(c) < 0) {
        conn_kill(c);
        return;
    }
    if (!h2) c->proto = CONN_H1;
    conn_input(c, first.data, first.len);
}

void conn_input(struct conn *c, const char *p, size_t n) {
    switch (c->proto) {
        case CONN_DETECT: detect_input(c, p, n); break;
        case CONN_H1: h1_input(c, p, n); break;
        case CONN_H2: h2_input(c, p, n); break;
        case CONN_TUNNEL: tunnel_input(c, p, n); break;
        case CONN_TLS_HELLO:
        case CONN_LINGER: break;
    }
    conn_mark_dirty(c);
}

void conn_read_start(struct conn *c) {
    if (c->reading || c->eof || c->dead) return;
    c->reading = uv_read_start(&c->u.stream, on_alloc, on_read) == 0;
}

void conn_read_stop(struct conn *c) {
    if (!c->reading) return;
    c->reading = false;
    uv_read_stop(&c->u.stream);
}

/* ---- accepting ---- */

static bool is_loopback(const char *addr) { return strncmp(addr, "127.", 4) == 0 || str_eq(addr, "::1"); }

void conn_congestion(struct listener *l, int fd) {
    socklen_t len = sizeof(l->congestion) - 1;
    if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, l->congestion, &len) < 0) return;
    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, LOCAL_CONGESTION, strlen(LOCAL_CONGESTION));
}

static void remote_congestion(struct conn *c) {
    uv_os_fd_t fd;
    const char *name = c->lst->congestion;
    if (*name && !is_loopback(c->peer->pub.addr) && uv_fileno(&c->u.handle, &fd) == 0)
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name));
}

void conn_accept(struct listener *l, uv_stream_t *server_handle) {
    struct http_server *s = l->srv;
    struct conn *c = xcalloc(1, sizeof(*c));
    c->srv = server_ref(s);
    c->lst = l;
    if (l->is_pipe)
        uv_pipe_init(s->loop, &c->u.pipe, 0);
    else
        uv_tcp_init(s->loop, &c->u.tcp);
    s->n_handles++;
    c->u.handle.data = c;
    c->peer = peer_new();
    c->next = s->conns;
    if (s->conns) s->conns->prev = c;
    s->conns = c;
    atomic_fetch_add(&s->n_accepted, 1);
    if (atomic_fetch_add(&s->n_conns, 1) >= s->lim.connections || uv_accept(server_handle, &c->u.stream) != 0) {
        uv_accept(server_handle, &c->u.stream); /* over the limit: take it off the queue to close it */
        conn_kill(c);
        return;
    }
    fill_peer(c);
    if (!l->is_pipe) {
        uv_tcp_nodelay(&c->u.tcp, 1);
        uv_tcp_keepalive(&c->u.tcp, 1, 60);
        remote_congestion(c);
    }
    pthread_mutex_lock(&s->lock);
    c->tls = l->tls ? tls_conf_ref(l->tls) : NULL;
    pthread_mutex_unlock(&s->lock);
    if (c->tls) c->ssl = tls_conn_new(c->tls, c);
    c->proto = c->ssl ? CONN_TLS_HELLO : CONN_DETECT;
    conn_deadline(c, DL_HELLO, s->lim.tls_hello_ms);
    if (c->tls && !c->ssl) conn_kill(c);
    conn_read_start(c);
}

/* ---- writing ---- */

void conn_mark_dirty(struct conn *c) {
    if (c->dirty || c->closing) return;
    c->dirty = true;
    struct http_server *s = c->srv;
    if (s->dirty_tail)
        s->dirty_tail->dirty_next = c;
    else
        s->dirty_head = c;
    s->dirty_tail = c;
}

void conn_kill(struct conn *c) {
    if (c->dead) return;
    c->dead = true;
    conn_read_stop(c);
    conn_mark_dirty(c);
}

struct write_req {
    uv_write_t w;
    struct conn *c;
    size_t n;
    char data[];
};

static void on_written(uv_write_t *w, int status) {
    struct write_req *wr = CONTAINER_OF(w, struct write_req, w);
    struct conn *c = wr->c;
    c->inflight -= wr->n;
    c->write_progress_ms = uv_now(c->srv->loop);
    free(wr);
    if (c->closing) return;
    if (status < 0) conn_kill(c);
    conn_mark_dirty(c);
}

void conn_cipher_out(struct conn *c, const char *p, size_t n) { buf_add(&c->srv->out, p, n); }

bool conn_record_out(struct conn *c, uint8_t type, const char *head, size_t n_head, const char *p, size_t n) {
    return tls_records_add(c->records, type, head, n_head, p, n, &c->srv->out);
}

/* Bytes on to the socket as far as it takes them now; the number taken. */
static size_t send_now(struct conn *c, const char *p, size_t n) {
    uv_os_fd_t fd;
    if (c->dead || c->inflight || uv_fileno(&c->u.handle, &fd)) return 0;
    ssize_t rc;
    do rc = send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (rc < 0 && errno == EINTR);
    if (rc < 0 && errno != EAGAIN && errno != EWOULDBLOCK) conn_kill(c);
    return rc > 0 ? (size_t)rc : 0;
}

/* The server's output buffer goes to the socket; what it does not take at once is copied and waits in libuv. */
static void send_out(struct conn *c) {
    struct buf *o = &c->srv->out;
    if (!o->len || c->dead) {
        buf_reset(o);
        return;
    }
    size_t done = send_now(c, o->data, o->len);
    if (done < o->len && !c->dead) {
        size_t n = o->len - done;
        struct write_req *wr = xmalloc(sizeof(*wr) + n);
        wr->c = c;
        wr->n = n;
        memcpy(wr->data, o->data + done, n);
        uv_buf_t b = uv_buf_init(wr->data, (unsigned)n);
        if (!c->inflight) {
            c->write_progress_ms = uv_now(c->srv->loop);
            server_arm_timer(c->srv, c->write_progress_ms + c->srv->lim.write_ms);
        }
        if (uv_write(&wr->w, &c->u.stream, &b, 1, on_written) == 0) {
            c->inflight += n;
        } else {
            free(wr);
            conn_kill(c);
        }
    }
    buf_reset(o);
    if (o->cap > 1024 * 1024) buf_done(o);
}

/* What is gathered and n bytes more go out, at most a record. With the keys here SSL_write would only pass it on to the
 * BIO, unless it has keys to change first. */
static void encrypt(struct conn *c, const char *p, size_t n) {
    struct http_server *s = c->srv;
    size_t g = s->gather_len;
    s->gather_len = 0;
    if (c->records && !c->keys_over && SSL_get_key_update_type(c->ssl) == SSL_KEY_UPDATE_NONE) {
        if (!conn_record_out(c, RECORD_APPLICATION, s->gather, g, p, n)) conn_kill(c);
        return;
    }
    if (!c->ssl) {
        buf_add(&s->out, s->gather, g);
        buf_add(&s->out, p, n);
        return;
    }
    if (n) memcpy(s->gather + g, p, n);
    ERR_clear_error();
    if (SSL_write(c->ssl, s->gather, (int)(g + n)) != (int)(g + n)) conn_kill(c); /* the BIO takes everything */
}

static void gather_flush(struct conn *c) {
    if (c->dead) c->srv->gather_len = 0;
    if (c->srv->gather_len) encrypt(c, NULL, 0);
}

void conn_emit(struct conn *c, const char *p, size_t n) {
    struct http_server *s = c->srv;
    while (n && !c->dead) {
        size_t m = MIN_OF(n, GATHER_SIZE - s->gather_len);
        if (s->gather_len + m == GATHER_SIZE) {
            encrypt(c, p, m);
        } else {
            memcpy(s->gather + s->gather_len, p, m);
            s->gather_len += m;
        }
        p += m;
        n -= m;
    }
}

static bool pump(struct conn *c) {
    switch (c->proto) {
        case CONN_H1: return h1_pump(c);
        case CONN_H2: return h2_pump(c);
        case CONN_TUNNEL:
        case CONN_LINGER: {
            const char *p;
            size_t n = outq_peek(&c->out, GATHER_SIZE, &p);
            if (!n) return false;
            conn_emit(c, p, n);
            outq_pop(&c->out, n);
            return true;
        }
        case CONN_TLS_HELLO:
        case CONN_DETECT: break;
    }
    return false;
}

static bool nothing_left(const struct conn *c) {
    return !c->out.n && !c->inflight && (c->proto != CONN_H2 || !nghttp2_session_want_write(c->h2));
}

static void on_shutdown(uv_shutdown_t *r, int status) { free(r); }

/* All is sent and the connection is to end: closes our half, then waits shortly for the peer's. */
static void finish(struct conn *c) {
    if (c->fin_sent) return;
    c->fin_sent = true;
    if (c->ssl && SSL_is_init_finished(c->ssl)) {
        SSL_shutdown(c->ssl);
        send_out(c);
        if (c->dead) return;
    }
    uv_shutdown_t *r = xmalloc(sizeof(*r));
    if (uv_shutdown(r, &c->u.stream, on_shutdown) != 0) {
        free(r);
        conn_kill(c);
        return;
    }
    if (c->proto != CONN_TUNNEL) c->proto = CONN_LINGER;
    conn_deadline(c, DL_LINGER, LINGER_MS);
    conn_read_start(c);
}

void conn_put_off(struct conn *c, struct conn_list *l) {
    if (c->dirty || c->closing) return;
    c->dirty = true;
    c->dirty_next = NULL;
    if (l->tail)
        l->tail->dirty_next = c;
    else
        l->head = c;
    l->tail = c;
}

void conn_flush(struct conn *c) {
    unsigned left = TURN_PIECES;
    do {
        while (!c->dead && left && !c->inflight && pump(c)) {
            left--;
            if (c->srv->out.len >= FLUSH_SIZE) {
                gather_flush(c);
                send_out(c);
            }
        }
        gather_flush(c);
        send_out(c);
        if (c->dead) return;
        if (c->proto == CONN_H1)
            h1_settle(c);
        else if (c->proto == CONN_TUNNEL)
            tunnel_settle(c);
    } while (!c->dead && left && c->proto == CONN_H1 && !c->inflight && (c->out.n || (c->cur && c->cur->out.n)));
    c->bulk = !left;
    if (c->bulk) c->srv->bulk_left -= MIN_OF(c->srv->bulk_left, TURN_PIECES);
    if (c->bulk && !c->dead) conn_put_off(c, &c->srv->behind);
    if (!c->dead && c->close_after && !c->cur && nothing_left(c)) finish(c);
}

/* ---- the end ---- */

static void on_closed(uv_handle_t *h) {
    struct conn *c = h->data;
    struct http_server *s = c->srv;
    free(c);
    server_handle_closed(s);
    server_unref(s);
}

/* Only from the flush phase or server shutdown: nobody up the stack uses the connection. */
void conn_destroy(struct conn *c) {
    if (c->closing) return;
    c->closing = true;
    struct http_server *s = c->srv;
    if (c->prev)
        c->prev->next = c->next;
    else
        s->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    atomic_fetch_sub(&s->n_conns, 1);
    tunnel_conn_gone(c);
    h1_conn_gone(c);
    h2_conn_gone(c);
    SSL_free(c->ssl);
    tls_records_free(c->records);
    tls_conf_unref(c->tls);
    peer_unref(c->peer);
    buf_done(&c->in);
    outq_clear(&c->out);
    uv_close(&c->u.handle, on_closed);
}
