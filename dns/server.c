#include "dns/server.h"

#include "pkg/base/bytes.h"

struct listener {
    uv_udp_t udp;
    uv_tcp_t tcp;
    struct dns_server *server;
};

struct dns_server {
    uv_loop_t *loop;
    struct zone *zone;
    struct listener *listeners;
    size_t n_listeners;
    struct sockaddr_storage upstreams[DNS_UPSTREAMS_MAX];
    size_t n_upstreams;
    unsigned forwards, connections;
    bool closing;
    uint8_t udp_in[4096];
};

/* A TCP connection: messages with a two-byte length in front, answered in the order they are done. */
struct conn {
    uv_tcp_t tcp;
    uv_timer_t idle;
    struct dns_server *server;
    unsigned refs; /* the handles, and the forwards that will answer here */
    bool closed;
    size_t len;
    uint8_t in[2 + DNS_MESSAGE_MAX];
};

/* Who asked: a UDP peer or a connection. */
struct asker {
    struct listener *listener; /* UDP */
    struct sockaddr_storage peer;
    struct conn *conn; /* TCP */
};

/* ---- answering ---- */

struct send {
    union {
        uv_udp_send_t udp;
        uv_write_t tcp;
    };
    struct conn *conn;
    uint8_t data[];
};

static void conn_unref(struct conn *c) {
    if (--c->refs == 0) free(c);
}

static void conn_handle_closed(uv_handle_t *h) { conn_unref(h->data); }

static void conn_close(struct conn *c) {
    if (c->closed) return;
    c->closed = true;
    c->server->connections--;
    uv_close((uv_handle_t *)&c->tcp, conn_handle_closed);
    uv_close((uv_handle_t *)&c->idle, conn_handle_closed);
}

static void udp_sent(uv_udp_send_t *r, int status) { free(CONTAINER_OF(r, struct send, udp)); }

static void tcp_sent(uv_write_t *r, int status) {
    struct send *s = CONTAINER_OF(r, struct send, tcp);
    if (status < 0) conn_close(s->conn);
    conn_unref(s->conn);
    free(s);
}

static void answer(const struct asker *who, const uint8_t *p, size_t n) {
    struct send *s = xmalloc(sizeof(*s) + n + 2);
    s->conn = who->conn;
    if (!who->conn) {
        memcpy(s->data, p, n);
        uv_buf_t b = uv_buf_init((char *)s->data, (unsigned)n);
        if (uv_udp_send(&s->udp, &who->listener->udp, &b, 1, (const struct sockaddr *)&who->peer, udp_sent) < 0)
            free(s);
        return;
    }
    if (who->conn->closed) {
        free(s);
        return;
    }
    s->data[0] = (uint8_t)(n >> 8);
    s->data[1] = (uint8_t)n;
    memcpy(s->data + 2, p, n);
    uv_buf_t b = uv_buf_init((char *)s->data, (unsigned)n + 2);
    who->conn->refs++;
    if (uv_write(&s->tcp, (uv_stream_t *)&who->conn->tcp, &b, 1, tcp_sent) < 0) {
        conn_unref(who->conn);
        free(s);
    }
}

static size_t answer_limit(const struct asker *who, const struct dns_query *q) {
    if (who->conn) return DNS_MESSAGE_MAX;
    return MIN_OF((size_t)q->udp_size, (size_t)DNS_UDP_MAX);
}

static void answer_rcode(const struct asker *who, const uint8_t *query, const struct dns_query *q,
                         enum dns_rcode rcode) {
    uint8_t out[DNS_UDP_PLAIN];
    struct dns_reply r;
    dns_reply_start(&r, out, sizeof(out), query, q);
    size_t n = dns_reply_end(&r, q, rcode, false);
    answer(who, out, n);
}

/* ---- forwarding ---- */

struct forward {
    uv_udp_t udp;
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_connect_t connect;
    struct dns_server *server;
    struct asker who;
    struct dns_query q;
    unsigned handles, tries;
    uint16_t id;
    bool over_tcp, done, has_socket;
    char cname[DNS_NAME_MAX]; /* the CNAME to follow for an ExternalName, "" for a plain forward */
    size_t query_len, out_len, in_len;
    uint8_t *in;
    uint8_t query[DNS_UDP_PLAIN + 512]; /* as the client asked */
    uint8_t out[2 + DNS_UDP_PLAIN + 512];
};

static void forward_try(struct forward *f);

static void forward_unref(struct forward *f) {
    if (--f->handles) return;
    f->server->forwards--;
    if (f->who.conn) conn_unref(f->who.conn);
    free(f->in);
    free(f);
}

static void forward_timer_closed(uv_handle_t *h) { forward_unref(h->data); }

/* A socket goes because the forward is done, or to make room for the next try. */
static void forward_socket_closed(uv_handle_t *h) {
    struct forward *f = h->data;
    if (!f->done) forward_try(f);
    forward_unref(f);
}

static void forward_drop_socket(struct forward *f) {
    if (!f->has_socket) return;
    f->has_socket = false;
    uv_close(f->over_tcp ? (uv_handle_t *)&f->tcp : (uv_handle_t *)&f->udp, forward_socket_closed);
}

static void forward_finish(struct forward *f, const uint8_t *reply, size_t n) {
    if (f->done) return;
    f->done = true;
    if (!reply) {
        answer_rcode(&f->who, f->query, &f->q, DNS_SERVFAIL);
    } else if (f->cname[0]) {
        uint8_t out[DNS_UDP_MAX];
        struct dns_reply r;
        dns_reply_start(&r, out, MIN_OF(sizeof(out), answer_limit(&f->who, &f->q)), f->query, &f->q);
        dns_reply_name(&r, f->q.name, DNS_CNAME, f->cname, 30);
        dns_reply_addrs_from(&r, f->cname, reply, n);
        size_t len = dns_reply_end(&r, &f->q, DNS_NOERROR, true);
        answer(&f->who, out, len);
    } else {
        _cleanup_free_ uint8_t *copy = xmalloc(n);
        memcpy(copy, reply, n);
        copy[0] = (uint8_t)(f->q.id >> 8);
        copy[1] = (uint8_t)f->q.id;
        answer(&f->who, copy, n);
    }
    forward_drop_socket(f);
    uv_close((uv_handle_t *)&f->timer, forward_timer_closed);
}

static void forward_next(struct forward *f) {
    if (f->done || !f->has_socket) return;
    if (++f->tries >= 2 * f->server->n_upstreams)
        forward_finish(f, NULL, 0);
    else
        forward_drop_socket(f);
}

static void forward_timeout(uv_timer_t *t) { forward_next(t->data); }

static void give_buffer(uv_handle_t *h, size_t suggested, uv_buf_t *b) {
    struct forward *f = h->data;
    if (!f->in) f->in = xmalloc(2 + DNS_MESSAGE_MAX);
    *b = uv_buf_init((char *)f->in + f->in_len, (unsigned)(2 + DNS_MESSAGE_MAX - f->in_len));
}

static bool same_addr(const struct sockaddr *a, const struct sockaddr_storage *b) {
    if (a->sa_family != b->ss_family) return false;
    if (a->sa_family == AF_INET) {
        const struct sockaddr_in *x = (const void *)a, *y = (const void *)b;
        return x->sin_port == y->sin_port && x->sin_addr.s_addr == y->sin_addr.s_addr;
    }
    const struct sockaddr_in6 *x = (const void *)a, *y = (const void *)b;
    return x->sin6_port == y->sin6_port && memcmp(&x->sin6_addr, &y->sin6_addr, 16) == 0;
}

static struct sockaddr_storage *current_upstream(struct forward *f) {
    return &f->server->upstreams[f->tries % f->server->n_upstreams];
}

static void udp_reply(uv_udp_t *h, ssize_t n, const uv_buf_t *b, const struct sockaddr *from, unsigned flags) {
    struct forward *f = h->data;
    if (n < 0) {
        forward_next(f);
        return;
    }
    /* only the server asked, with the id and question sent */
    if (n < 12 || !from || !same_addr(from, current_upstream(f))) return;
    const uint8_t *p = (const uint8_t *)b->base;
    if ((p[0] << 8 | p[1]) != f->id || (size_t)n < f->out_len - 2 || !(p[2] & 0x80)) return;
    if (memcmp(p + 4, f->out + 2 + 4, 2) != 0) return;
    forward_finish(f, p, (size_t)n);
}

static void tcp_reply(uv_stream_t *h, ssize_t n, const uv_buf_t *b) {
    struct forward *f = h->data;
    if (n < 0) {
        forward_next(f);
        return;
    }
    f->in_len += (size_t)n;
    if (f->in_len < 2) return;
    size_t want = (size_t)f->in[0] << 8 | f->in[1];
    if (f->in_len >= want + 2 && want >= 12) forward_finish(f, f->in + 2, want);
}

static void out_written(uv_write_t *w, int status) { free(w); }

static void tcp_connected(uv_connect_t *r, int status) {
    struct forward *f = r->data;
    if (status == UV_ECANCELED) return;
    if (status < 0) {
        forward_next(f);
        return;
    }
    uv_write_t *w = xmalloc(sizeof(*w));
    uv_buf_t b = uv_buf_init((char *)f->out, (unsigned)f->out_len);
    if (uv_write(w, (uv_stream_t *)&f->tcp, &b, 1, out_written) < 0) free(w);
    uv_read_start((uv_stream_t *)&f->tcp, give_buffer, tcp_reply);
}

static void forward_try(struct forward *f) {
    const struct sockaddr *to = (const struct sockaddr *)current_upstream(f);
    f->in_len = 0;
    f->handles++;
    f->has_socket = true;
    uv_timer_start(&f->timer, forward_timeout, DNS_UPSTREAM_TIMEOUT_MS, 0);
    if (f->over_tcp) {
        uv_tcp_init(f->server->loop, &f->tcp);
        f->tcp.data = f->connect.data = f;
        uv_tcp_connect(&f->connect, &f->tcp, to, tcp_connected);
        return;
    }
    uv_udp_init(f->server->loop, &f->udp);
    f->udp.data = f;
    uv_buf_t b = uv_buf_init((char *)f->out + 2, (unsigned)(f->out_len - 2));
    uv_udp_try_send(&f->udp, &b, 1, to); /* a failure ends in the time-out */
    uv_udp_recv_start(&f->udp, give_buffer, udp_reply);
}

static void forward_start(struct dns_server *s, const struct asker *who, const uint8_t *query, size_t n,
                          const struct dns_query *q, const char *cname) {
    if (!s->n_upstreams || s->forwards >= DNS_FORWARDS_MAX || n > sizeof(((struct forward *)0)->query)) {
        answer_rcode(who, query, q, s->n_upstreams ? DNS_SERVFAIL : DNS_REFUSED);
        return;
    }
    struct forward *f = xcalloc(1, sizeof(*f));
    f->server = s;
    f->who = *who;
    f->q = *q;
    f->over_tcp = who->conn != NULL;
    if (who->conn) who->conn->refs++;
    memcpy(f->query, query, n);
    f->query_len = n;
    snprintf(f->cname, sizeof(f->cname), "%s", str_or_empty(cname));
    random_bytes(&f->id, sizeof(f->id));
    if (cname) {
        f->out_len = 2 + dns_make_query(f->out + 2, sizeof(f->out) - 2, f->id, cname, q->type);
    } else {
        memcpy(f->out + 2, query, n);
        f->out[2] = (uint8_t)(f->id >> 8);
        f->out[3] = (uint8_t)f->id;
        f->out_len = n + 2;
    }
    f->out[0] = (uint8_t)((f->out_len - 2) >> 8);
    f->out[1] = (uint8_t)(f->out_len - 2);
    s->forwards++;
    uv_timer_init(s->loop, &f->timer);
    f->timer.data = f;
    f->handles = 1;
    forward_try(f);
}

/* ---- queries ---- */

static void handle_query(struct dns_server *s, const struct asker *who, const uint8_t *p, size_t n) {
    struct dns_query q;
    int rcode = dns_parse(p, n, &q);
    if (rcode < 0) return;
    if (rcode != DNS_NOERROR) {
        answer_rcode(who, p, &q, (enum dns_rcode)rcode);
        return;
    }
    size_t cap = answer_limit(who, &q), len;
    _cleanup_free_ uint8_t *out = xmalloc(cap);
    struct dns_reply r;
    char target[DNS_NAME_MAX];
    dns_reply_start(&r, out, cap, p, &q);
    switch (zone_answer(s->zone, &q, &r, &len, target)) {
        case ZONE_ANSWERED: answer(who, out, len); break;
        case ZONE_NOT_OURS: forward_start(s, who, p, n, &q, NULL); break;
        case ZONE_CNAME_FOLLOWS: {
            /* an ExternalName that points into the cluster is answered here, one step deep */
            struct dns_query inner = q;
            struct dns_reply tail = r;
            char again[DNS_NAME_MAX];
            snprintf(inner.name, sizeof(inner.name), "%s", target);
            if (zone_answer(s->zone, &inner, &tail, &len, again) == ZONE_NOT_OURS)
                forward_start(s, who, p, n, &q, target);
            else
                answer(who, out, dns_reply_end(&tail, &q, DNS_NOERROR, true));
            break;
        }
    }
}

static void udp_buffer(uv_handle_t *h, size_t suggested, uv_buf_t *b) {
    struct listener *l = h->data;
    *b = uv_buf_init((char *)l->server->udp_in, sizeof(l->server->udp_in));
}

static void udp_query(uv_udp_t *h, ssize_t n, const uv_buf_t *b, const struct sockaddr *from, unsigned flags) {
    if (n <= 0 || !from || (flags & UV_UDP_PARTIAL)) return;
    struct listener *l = h->data;
    struct asker who = {.listener = l};
    memcpy(&who.peer, from, from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
    handle_query(l->server, &who, (const uint8_t *)b->base, (size_t)n);
}

static void tcp_buffer(uv_handle_t *h, size_t suggested, uv_buf_t *b) {
    struct conn *c = h->data;
    *b = uv_buf_init((char *)c->in + c->len, (unsigned)(sizeof(c->in) - c->len));
}

static void conn_idle(uv_timer_t *t) { conn_close(t->data); }

static void tcp_query(uv_stream_t *h, ssize_t n, const uv_buf_t *b) {
    struct conn *c = h->data;
    if (n < 0) {
        conn_close(c);
        return;
    }
    c->len += (size_t)n;
    uv_timer_start(&c->idle, conn_idle, DNS_TCP_IDLE_MS, 0);
    struct asker who = {.conn = c};
    while (c->len >= 2 && !c->closed) {
        size_t want = (size_t)c->in[0] << 8 | c->in[1];
        if (c->len < want + 2) break;
        handle_query(c->server, &who, c->in + 2, want);
        memmove(c->in, c->in + 2 + want, c->len - 2 - want);
        c->len -= 2 + want;
    }
}

static void tcp_accept(uv_stream_t *h, int status) {
    struct listener *l = h->data;
    struct dns_server *s = l->server;
    if (status < 0) return;
    struct conn *c = xcalloc(1, sizeof(*c));
    c->server = s;
    c->refs = 2; /* the two handles */
    uv_tcp_init(s->loop, &c->tcp);
    uv_timer_init(s->loop, &c->idle);
    c->tcp.data = c->idle.data = c;
    s->connections++;
    if (uv_accept(h, (uv_stream_t *)&c->tcp) < 0 || s->connections > DNS_TCP_CONNECTIONS_MAX) {
        conn_close(c);
        return;
    }
    uv_timer_start(&c->idle, conn_idle, DNS_TCP_IDLE_MS, 0);
    uv_read_start((uv_stream_t *)&c->tcp, tcp_buffer, tcp_query);
}

/* ---- set-up ---- */

/* "1.2.3.4", "1.2.3.4:53", "::1", "[::1]:53" */
static int parse_addr(const char *text, struct sockaddr_storage *out, struct err *e) {
    char host[80];
    int64_t port = 53;
    const char *p = text[0] == '[' ? strchr(text, ']') : strchr(text, ':');
    bool bare_v6 = text[0] != '[' && p && strchr(p + 1, ':');
    size_t n = bare_v6 || !p ? strlen(text) : (size_t)(p - text);
    snprintf(host, sizeof(host), "%.*s", (int)(text[0] == '[' ? n - 1 : n), text + (text[0] == '['));
    if (p && !bare_v6) {
        if (*p == ']') p++;
        if (*p == ':' && (str_to_i64(p + 1, &port) < 0 || port < 1 || port > 65535))
            return err_set(e, -EINVAL, "bad port in address \"%s\"", text);
    }
    memset(out, 0, sizeof(*out));
    if (uv_ip4_addr(host, (int)port, (struct sockaddr_in *)out) == 0) return 0;
    if (uv_ip6_addr(host, (int)port, (struct sockaddr_in6 *)out) == 0) return 0;
    return err_set(e, -EINVAL, "bad address \"%s\"", text);
}

static int listen_on(struct dns_server *s, struct listener *l, const char *text, struct err *e) {
    struct sockaddr_storage addr;
    int r = parse_addr(text, &addr, e);
    if (r < 0) return r;
    l->server = s;
    l->udp.data = l->tcp.data = l;
    uv_udp_init(s->loop, &l->udp);
    uv_tcp_init(s->loop, &l->tcp);
    s->n_listeners++;
    const struct sockaddr *sa = (const struct sockaddr *)&addr;
    if ((r = uv_udp_bind(&l->udp, sa, 0)) < 0 || (r = uv_tcp_bind(&l->tcp, sa, 0)) < 0 ||
        (r = uv_udp_recv_start(&l->udp, udp_buffer, udp_query)) < 0 ||
        (r = uv_listen((uv_stream_t *)&l->tcp, 64, tcp_accept)) < 0)
        return err_errno(e, r, "cannot listen on %s", text);
    return 0;
}

int dns_server_new(uv_loop_t *loop, const struct dns_server_options *o, struct dns_server **out, struct err *e) {
    struct dns_server *s = xcalloc(1, sizeof(*s));
    s->loop = loop;
    s->zone = o->zone;
    s->listeners = xcalloc(o->n_listen, sizeof(*s->listeners));
    *out = s;
    for (size_t i = 0; i < o->n_upstreams && s->n_upstreams < DNS_UPSTREAMS_MAX; i++) {
        int r = parse_addr(o->upstreams[i], &s->upstreams[s->n_upstreams], e);
        if (r < 0) return r;
        s->n_upstreams++;
    }
    for (size_t i = 0; i < o->n_listen; i++) {
        int r = listen_on(s, &s->listeners[i], o->listen[i], e);
        if (r < 0) return r;
    }
    return 0;
}

void dns_server_close(struct dns_server *s) {
    s->closing = true;
    for (size_t i = 0; i < s->n_listeners; i++) {
        uv_close((uv_handle_t *)&s->listeners[i].udp, NULL);
        uv_close((uv_handle_t *)&s->listeners[i].tcp, NULL);
    }
}

void dns_server_free(struct dns_server *s) {
    if (!s) return;
    free(s->listeners);
    free(s);
}
