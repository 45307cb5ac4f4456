/* HTTP/1.1 upgrades from the client's side: connect, send the request, read the answer's head, then hand out a socket
 * that carries plain bytes. Over plaintext that is the connection itself (the head is peeked, so that not a byte more
 * than it is taken); over TLS a thread pumps between the connection and a socket pair. */
#include <ctype.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "pkg/base/ktime.h"
#include "pkg/http/client_internal.h"
#include "pkg/http/h1parse.h"

enum { HEAD_MAX = 64 * 1024, PUMP_BUF = 32 * 1024, PUMP_STACK = 192 * 1024, UPGRADE_TIMEOUT_MS = 30 * 1000 };

struct link { /* the connection being set up */
    int fd;
    SSL *ssl;
    int64_t until_ns;
};

static void link_close(struct link *l) {
    SSL_free(l->ssl);
    if (l->fd >= 0) close(l->fd);
    *l = (struct link){.fd = -1};
}

static int wait_fd(const struct link *l, short events, struct err *e) {
    int64_t ms = (l->until_ns - mono_ns()) / NS_PER_MS;
    if (ms <= 0) return err_set(e, -ETIMEDOUT, "the server did not answer in time");
    struct pollfd p = {l->fd, events, 0};
    int rc = poll(&p, 1, (int)MIN_OF(ms, (int64_t)INT32_MAX));
    if (rc < 0 && errno != EINTR) return err_errno(e, errno, "poll");
    return 0;
}

/* ---- connecting ---- */

static int dial_unix(const char *path, struct err *e) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa.sun_path)) return err_set(e, -ENAMETOOLONG, "socket path %s is too long", path);
    memcpy(sa.sun_path, path, strlen(path));
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_errno(e, errno, "socket");
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) return err_errno(e, errno, "cannot connect to %s", path);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return take_fd(&fd);
}

static int dial_one(const struct addrinfo *a, int64_t until_ns, struct err *e) {
    struct link l = {.fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), .until_ns = until_ns};
    if (l.fd < 0) return err_errno(e, errno, "socket");
    int rc = connect(l.fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : -errno;
    if (rc == -EINPROGRESS) {
        rc = wait_fd(&l, POLLOUT, e);
        int soerr = 0;
        socklen_t n = sizeof(soerr);
        if (!rc && getsockopt(l.fd, SOL_SOCKET, SO_ERROR, &soerr, &n) == 0) rc = -soerr;
    }
    if (rc < 0) {
        close(l.fd);
        return err_errno(e, rc, "cannot connect");
    }
    int one = 1;
    setsockopt(l.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return l.fd;
}

static int dial_tcp(const char *host, const char *port, int64_t until_ns, struct err *e) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;
    char name[256];
    size_t n = strlen(host);
    bool v6 = n > 2 && host[0] == '[' && host[n - 1] == ']';
    snprintf(name, sizeof(name), "%.*s", (int)(v6 ? n - 2 : n), v6 ? host + 1 : host);
    int rc = getaddrinfo(name, port, &hints, &list);
    if (rc) return err_set(e, -EHOSTUNREACH, "%s: %s", name, gai_strerror(rc));
    rc = -EHOSTUNREACH;
    for (struct addrinfo *a = list; a && rc < 0; a = a->ai_next) rc = dial_one(a, until_ns, e);
    freeaddrinfo(list);
    return rc;
}

/* ---- TLS ---- */

static int ssl_err(struct err *e, const char *what) {
    char text[200] = "no reason given";
    unsigned long code = ERR_get_error();
    if (code) ERR_error_string_n(code, text, sizeof(text));
    ERR_clear_error();
    return err_set(e, -EPROTO, "%s: %s", what, text);
}

static int load_ca(SSL_CTX *ctx, const struct http_client_options *o, struct err *e) {
    if (!o->ca_pem && !o->ca_file) return SSL_CTX_set_default_verify_paths(ctx) == 1 ? 0 : ssl_err(e, "system CAs");
    if (!o->ca_pem) return SSL_CTX_load_verify_file(ctx, o->ca_file) == 1 ? 0 : ssl_err(e, o->ca_file);
    BIO *b = BIO_new_mem_buf(o->ca_pem, -1);
    int n = 0;
    for (X509 *x; (x = PEM_read_bio_X509(b, NULL, NULL, NULL)); n++) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), x);
        X509_free(x);
    }
    BIO_free(b);
    ERR_clear_error();
    return n ? 0 : err_set(e, -EINVAL, "no CA certificate in the PEM text");
}

static int load_cert(SSL_CTX *ctx, const struct http_client_options *o, struct err *e) {
    if (!o->cert_pem && !o->cert_file) return 0;
    int ok;
    if (o->cert_pem) {
        BIO *b = BIO_new_mem_buf(o->cert_pem, -1);
        X509 *x = PEM_read_bio_X509_AUX(b, NULL, NULL, NULL);
        ok = x && SSL_CTX_use_certificate(ctx, x) == 1;
        X509_free(x);
        while (ok && (x = PEM_read_bio_X509(b, NULL, NULL, NULL))) ok = SSL_CTX_add0_chain_cert(ctx, x) == 1;
        BIO_free(b);
    } else {
        ok = SSL_CTX_use_certificate_chain_file(ctx, o->cert_file) == 1;
    }
    if (ok && o->key_pem) {
        BIO *b = BIO_new_mem_buf(o->key_pem, -1);
        EVP_PKEY *k = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
        ok = k && SSL_CTX_use_PrivateKey(ctx, k) == 1;
        EVP_PKEY_free(k);
        BIO_free(b);
    } else if (ok) {
        ok = SSL_CTX_use_PrivateKey_file(ctx, o->key_file ? o->key_file : o->cert_file, SSL_FILETYPE_PEM) == 1;
    }
    return ok ? 0 : ssl_err(e, "client certificate");
}

static int handshake(struct link *l, struct http_client *c, const char *host, struct err *e) {
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    pthread_mutex_lock(&c->lock);
    int rc = load_ca(ctx, &c->opt, e);
    if (!rc) rc = load_cert(ctx, &c->opt, e);
    pthread_mutex_unlock(&c->lock);
    if (!rc && !(l->ssl = SSL_new(ctx))) rc = ssl_err(e, "TLS");
    SSL_CTX_free(ctx);
    if (rc) return rc;
    static const unsigned char alpn[] = "\x08http/1.1";
    const char *name = c->opt.server_name ? c->opt.server_name : host;
    SSL_set_alpn_protos(l->ssl, alpn, sizeof(alpn) - 1);
    SSL_set_mode(l->ssl,
                 SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_set_verify(l->ssl, c->opt.insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(l->ssl), name) != 1) {
        ERR_clear_error();
        SSL_set_tlsext_host_name(l->ssl, name);
        SSL_set1_host(l->ssl, name);
    }
    SSL_set_fd(l->ssl, l->fd);
    for (;;) {
        ERR_clear_error();
        rc = SSL_connect(l->ssl);
        if (rc == 1) return 0;
        int why = SSL_get_error(l->ssl, rc);
        if (why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) return ssl_err(e, "TLS handshake");
        rc = wait_fd(l, why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, e);
        if (rc < 0) return rc;
    }
}

/* ---- bytes ---- */

static int link_write(struct link *l, const char *p, size_t n, struct err *e) {
    while (n) {
        ERR_clear_error();
        ssize_t m = l->ssl ? SSL_write(l->ssl, p, (int)n) : send(l->fd, p, n, MSG_NOSIGNAL);
        if (m > 0) {
            p += m;
            n -= (size_t)m;
            continue;
        }
        bool again = l->ssl ? SSL_get_error(l->ssl, (int)m) == SSL_ERROR_WANT_WRITE : errno == EAGAIN || errno == EINTR;
        if (!again) return err_set(e, -EPIPE, "the connection was closed while sending");
        int rc = wait_fd(l, POLLOUT, e);
        if (rc < 0) return rc;
    }
    return 0;
}

/* Up to n bytes; 0 at the end. With peek the bytes stay in the connection. */
static ssize_t link_read(struct link *l, char *p, size_t n, bool peek, struct err *e) {
    for (;;) {
        ERR_clear_error();
        ssize_t m = !l->ssl ? recv(l->fd, p, n, peek ? MSG_PEEK : 0)
                    : peek  ? SSL_peek(l->ssl, p, (int)n)
                            : SSL_read(l->ssl, p, (int)n);
        if (m > 0) return m;
        if (l->ssl) {
            int why = SSL_get_error(l->ssl, (int)m);
            if (why != SSL_ERROR_WANT_READ) return 0;
        } else if (m == 0 || (errno != EAGAIN && errno != EINTR)) {
            return m == 0 ? 0 : err_errno(e, errno, "read");
        }
        int rc = wait_fd(l, POLLIN, e);
        if (rc < 0) return rc;
    }
}

/* Reads exactly the head. */
static int read_head(struct link *l, struct buf *head, struct err *e) {
    char chunk[2048];
    size_t scanned = 0;
    while (head->len < HEAD_MAX) {
        ssize_t n = link_read(l, chunk, sizeof(chunk), true, e);
        if (n < 0) return (int)n;
        if (n == 0) return err_set(e, -ECONNRESET, "the server closed the connection without an answer");
        size_t before = head->len;
        buf_add(head, chunk, (size_t)n);
        size_t end = h1_head_end(head->data, head->len, &scanned), take = end ? end - before : (size_t)n;
        for (size_t got = 0; got < take;) {
            n = link_read(l, chunk, take - got, false, e);
            if (n <= 0) return n < 0 ? (int)n : err_set(e, -ECONNRESET, "the connection was closed");
            got += (size_t)n;
        }
        if (end) {
            head->len = end;
            head->data[end] = 0;
            return 0;
        }
    }
    return err_set(e, -EMSGSIZE, "the answer's head is larger than %d bytes", HEAD_MAX);
}

static int parse_answer(const struct buf *head, struct http_resp *r, struct err *e) {
    const char *p = head->data, *eol = strstr(p, "\r\n");
    if (!str_has_prefix(p, "HTTP/1.") || !eol || eol - p < 12) return err_set(e, -EPROTO, "not an HTTP/1 answer");
    r->status = (int)strtol(p + 9, NULL, 10);
    for (p = eol + 2; *p && *p != '\r'; p = eol + 2) {
        eol = strstr(p, "\r\n");
        const char *colon = eol ? memchr(p, ':', (size_t)(eol - p)) : NULL;
        if (!colon) return err_set(e, -EPROTO, "bad header in the answer");
        const char *v = colon + 1, *end = eol;
        while (v < end && isblank((unsigned char)*v)) v++;
        while (end > v && isblank((unsigned char)end[-1])) end--;
        resp_add_header(r, p, (size_t)(colon - p), v, (size_t)(end - v));
    }
    return 0;
}

static int read_body(struct link *l, struct http_resp *r, struct err *e) {
    const char *te = http_resp_header(r, "transfer-encoding"), *cl = http_resp_header(r, "content-length");
    int64_t length = -1;
    if (cl && str_to_i64(cl, &length) < 0) return err_set(e, -EPROTO, "bad Content-Length in the answer");
    bool chunked = te && strcasecmp(te, "chunked") == 0, done = r->status == 204 || r->status == 304 || length == 0;
    struct h1_chunked ch = {0};
    char chunk[4096];
    while (!done) {
        ssize_t n = link_read(l, chunk, sizeof(chunk), false, e);
        if (n < 0) return (int)n;
        if (n == 0) return chunked || length >= 0 ? err_set(e, -ECONNRESET, "the answer was cut short") : 0;
        if (chunked) {
            if (h1_chunked_feed(&ch, chunk, (size_t)n, &r->body, &done) < 0) return err_set(e, -EPROTO, "bad chunk");
        } else {
            buf_add(&r->body, chunk, (size_t)n);
            done = length >= 0 && (int64_t)r->body.len >= length;
        }
        if (r->body.failed) return err_set(e, -EMSGSIZE, "the answer is larger than %zu bytes", r->body.limit);
    }
    return 0;
}

/* ---- the pump ---- */

struct half {
    char data[PUMP_BUF];
    size_t at, len;
};

struct pump {
    int fd, local;
    SSL *ssl;
    struct half in, out; /* from the network, to the network */
    bool in_eof, in_told, out_eof, out_told, failed;
    short net_events;
};

static bool pump_in(struct pump *p) {
    bool progress = false;
    if (!p->in.len && !p->in_eof) {
        ERR_clear_error();
        int n = SSL_read(p->ssl, p->in.data, PUMP_BUF), why = n > 0 ? 0 : SSL_get_error(p->ssl, n);
        if (n > 0)
            p->in.at = 0, p->in.len = (size_t)n, progress = true;
        else if (why == SSL_ERROR_WANT_READ)
            p->net_events |= POLLIN;
        else if (why == SSL_ERROR_WANT_WRITE)
            p->net_events |= POLLOUT;
        else
            p->in_eof = progress = true, p->failed = why != SSL_ERROR_ZERO_RETURN;
    }
    if (p->in.len) {
        ssize_t n = send(p->local, p->in.data + p->in.at, p->in.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            p->in.at += (size_t)n, p->in.len -= (size_t)n, progress = true;
        else if (n < 0 && errno != EAGAIN && errno != EINTR)
            p->failed = true, p->in.len = 0;
    }
    if (p->in_eof && !p->in.len && !p->in_told) {
        shutdown(p->local, SHUT_WR);
        p->in_told = progress = true;
    }
    return progress;
}

static bool pump_out(struct pump *p) {
    bool progress = false;
    if (!p->out.len && !p->out_eof) {
        ssize_t n = recv(p->local, p->out.data, PUMP_BUF, MSG_DONTWAIT);
        if (n > 0)
            p->out.at = 0, p->out.len = (size_t)n, progress = true;
        else if (n == 0 || (errno != EAGAIN && errno != EINTR))
            p->out_eof = progress = true;
    }
    if (p->out.len) {
        ERR_clear_error();
        int n = SSL_write(p->ssl, p->out.data + p->out.at, (int)p->out.len), why = n > 0 ? 0 : SSL_get_error(p->ssl, n);
        if (n > 0)
            p->out.at += (size_t)n, p->out.len -= (size_t)n, progress = true;
        else if (why == SSL_ERROR_WANT_WRITE)
            p->net_events |= POLLOUT;
        else if (why == SSL_ERROR_WANT_READ)
            p->net_events |= POLLIN;
        else
            p->failed = true, p->out.len = 0;
    }
    if (p->out_eof && !p->out.len && !p->out_told) {
        SSL_shutdown(p->ssl);
        p->out_told = progress = true;
    }
    return progress;
}

static void *pump_main(void *arg) {
    struct pump *p = arg;
    bool hung_up = false;
    for (;;) {
        p->net_events = 0;
        bool progress = pump_in(p);
        progress |= pump_out(p);
        if (p->failed && !p->in.len) break;
        if (p->out_told && (p->in_told || hung_up)) break;
        if (progress) continue;
        struct pollfd f[2] = {{p->fd, p->net_events, 0}, {p->local, 0, 0}};
        if (!p->out.len && !p->out_eof) f[1].events |= POLLIN;
        if (p->in.len) f[1].events |= POLLOUT;
        if (hung_up) f[1].fd = -1;
        poll(f, 2, -1);
        if (f[1].revents & (POLLHUP | POLLERR)) hung_up = true;
    }
    SSL_free(p->ssl);
    close(p->fd);
    close(p->local);
    free(p);
    return NULL;
}

static int start_pump(struct link *l, int *fd, struct err *e) {
    int sv[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) return err_errno(e, errno, "socketpair");
    struct pump *p = xcalloc(1, sizeof(*p));
    p->fd = l->fd;
    p->ssl = l->ssl;
    p->local = sv[0];
    pthread_t t;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, PUMP_STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int rc = pthread_create(&t, &attr, pump_main, p);
    pthread_attr_destroy(&attr);
    if (rc) {
        free(p);
        close(sv[0]);
        close(sv[1]);
        return err_errno(e, rc, "cannot start a thread");
    }
    l->ssl = NULL;
    l->fd = -1;
    *fd = sv[1];
    return 0;
}

/* ---- all of it ---- */

struct target {
    char *scheme, *host, *port, *path, *query;
};

static void target_done(struct target *t) {
    curl_free(t->scheme);
    curl_free(t->host);
    curl_free(t->port);
    curl_free(t->path);
    curl_free(t->query);
}

static int parse_url(const char *url, struct target *t, struct err *e) {
    CURLU *u = curl_url();
    bool bad = curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) ||
               curl_url_get(u, CURLUPART_SCHEME, &t->scheme, 0) || curl_url_get(u, CURLUPART_HOST, &t->host, 0) ||
               curl_url_get(u, CURLUPART_PORT, &t->port, CURLU_DEFAULT_PORT) ||
               curl_url_get(u, CURLUPART_PATH, &t->path, 0);
    if (!bad) curl_url_get(u, CURLUPART_QUERY, &t->query, 0);
    curl_url_cleanup(u);
    return bad ? err_set(e, -EINVAL, "bad URL %s", url) : 0;
}

static void build_request(struct buf *b, struct http_client *c, const char *method, const struct target *t,
                          const struct http_header *h, size_t n_h, size_t body_len) {
    bool have_auth = false;
    buf_printf(b, "%s %s%s%s HTTP/1.1\r\nHost: %s:%s\r\n", method, t->path, t->query ? "?" : "", str_or_empty(t->query),
               t->host, t->port);
    for (size_t i = 0; i < n_h; i++) { /* a proxy may hand on its request's headers as they are */
        if (strcasecmp(h[i].name, "content-length") == 0 || strcasecmp(h[i].name, "transfer-encoding") == 0 ||
            strcasecmp(h[i].name, "host") == 0)
            continue;
        have_auth |= strcasecmp(h[i].name, "authorization") == 0;
        buf_printf(b, "%s: %s\r\n", h[i].name, h[i].value);
    }
    _cleanup_free_ char *auth = have_auth ? NULL : client_authorization(c);
    if (auth) buf_printf(b, "Authorization: %s\r\n", auth);
    if (body_len || str_eq(method, "POST")) buf_printf(b, "Content-Length: %zu\r\n", body_len);
    buf_adds(b, "\r\n");
}

static int connect_link(struct link *l, struct http_client *c, const struct target *t, struct err *e) {
    const char *host = t->host, *port = t->port;
    char real[300];
    if (c->connect_to) { /* "::host:port" */
        snprintf(real, sizeof(real), "%s", c->connect_to + 2);
        char *colon = strrchr(real, ':');
        *colon = 0;
        host = real;
        port = colon + 1;
    }
    l->fd = c->opt.unix_socket ? dial_unix(c->opt.unix_socket, e) : dial_tcp(host, port, l->until_ns, e);
    if (l->fd < 0) return l->fd;
    return str_eq(t->scheme, "https") ? handshake(l, c, t->host, e) : 0;
}

int http_client_upgrade(struct http_client *c, const char *method, const char *url, const struct http_header *h,
                        size_t n_h, const void *body, size_t body_len, struct http_resp *resp, int *fd,
                        unsigned timeout_ms, struct err *e) {
    _cleanup_(target_done) struct target t = {0};
    _cleanup_free_ char *full = client_url(c, url);
    _cleanup_(link_close) struct link l = {.fd = -1};
    _cleanup_buf_ struct buf req = BUF_INIT, head = BUF_INIT;
    l.until_ns = mono_ns() + (int64_t)(timeout_ms ? timeout_ms : UPGRADE_TIMEOUT_MS) * NS_PER_MS;
    *fd = -1;
    resp_reset(resp);
    int rc = parse_url(full, &t, e);
    if (!rc) rc = connect_link(&l, c, &t, e);
    if (rc < 0) return rc;
    build_request(&req, c, method, &t, h, n_h, body_len);
    rc = link_write(&l, req.data, req.len, e);
    if (!rc) rc = link_write(&l, body, body_len, e);
    if (!rc) rc = read_head(&l, &head, e);
    if (!rc) rc = parse_answer(&head, resp, e);
    if (rc < 0) return rc;
    if (resp->status != 101) return read_body(&l, resp, e);
    if (l.ssl) return start_pump(&l, fd, e);
    fcntl(l.fd, F_SETFL, 0);
    *fd = take_fd(&l.fd);
    return 0;
}
