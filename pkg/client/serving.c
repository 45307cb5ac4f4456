#include "serving.h"

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/pki/pki.h"

enum {
    STACK = 256 * 1024,
    REQUEST_MAX = 64 * 1024,
    TIMEOUT_S = 5,        /* of one read or write */
    REQUEST_S = 10,       /* of reading a request */
    CONNECTIONS_MAX = 16, /* at one time */
    REVIEW_MS = 10000,
    NAME_MAX_LEN = 256,
    ORGS_MAX = 32,
    BACKLOG = 16,
};

struct serving {
    struct serving_config c;
    struct arena *arena; /* copies of the configuration */
    int fd;
    pthread_t thread;
    pthread_mutex_t lock; /* of tls, connections */
    pthread_cond_t idle;
    SSL_CTX *tls; /* NULL: no connection has come yet */
    unsigned connections;
};

struct conn {
    struct serving *s;
    int fd;
    SSL *ssl; /* NULL: plain */
    struct arena *a;
    char *request; /* the head, NUL-terminated */
};

/* ---- TLS ---- */

static int accept_any(int ok, X509_STORE_CTX *x) { return 1; } /* the result is looked at later */

static int use_pem(SSL_CTX *t, const struct pki_pair *p) {
    BIO *cb = BIO_new_mem_buf(p->cert_pem, -1), *kb = BIO_new_mem_buf(p->key_pem, -1);
    X509 *cert = PEM_read_bio_X509(cb, NULL, NULL, NULL);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(kb, NULL, NULL, NULL);
    int ok = cert && key && SSL_CTX_use_certificate(t, cert) == 1 && SSL_CTX_use_PrivateKey(t, key) == 1;
    X509_free(cert);
    EVP_PKEY_free(key);
    BIO_free(cb);
    BIO_free(kb);
    return ok;
}

static int use_self_signed(SSL_CTX *t) {
    _cleanup_pki_pair_ struct pki_pair ca = {0}, pair = {0};
    char host[NAME_MAX_LEN] = "localhost";
    gethostname(host, sizeof(host) - 1);
    const char *sans[] = {"localhost", "127.0.0.1", host};
    struct pki_spec spec = {.cn = host, .sans = sans, .n_sans = ARRAY_LEN(sans), .usages = PKI_SERVER_AUTH};
    return pki_ca_new("self-signed", 0, &ca, NULL) == 0 && pki_issue(&ca, &spec, &pair, NULL) == 0 && use_pem(t, &pair);
}

static SSL_CTX *tls_make(const struct serving_config *c) {
    SSL_CTX *t = SSL_CTX_new(TLS_server_method());
    if (!t) return NULL;
    SSL_CTX_set_min_proto_version(t, TLS1_2_VERSION);
    int ok = str_empty(c->cert_file) ? use_self_signed(t)
                                     : SSL_CTX_use_certificate_chain_file(t, c->cert_file) == 1 &&
                                           SSL_CTX_use_PrivateKey_file(t, c->key_file, SSL_FILETYPE_PEM) == 1;
    if (ok && !str_empty(c->client_ca_file)) {
        ok = SSL_CTX_load_verify_locations(t, c->client_ca_file, NULL) == 1;
        SSL_CTX_set_verify(t, SSL_VERIFY_PEER, accept_any);
    }
    if (ok) return t;
    char why[NAME_MAX_LEN] = "certificate";
    if (ERR_peek_error()) ERR_error_string_n(ERR_get_error(), why, sizeof(why));
    log_error("cannot serve TLS", "error", why, NULL);
    SSL_CTX_free(t);
    return NULL;
}

static SSL *tls_for(struct serving *s, int fd) {
    pthread_mutex_lock(&s->lock);
    if (!s->tls) s->tls = tls_make(&s->c);
    SSL *ssl = s->tls ? SSL_new(s->tls) : NULL;
    pthread_mutex_unlock(&s->lock);
    if (ssl && SSL_set_fd(ssl, fd) == 1 && SSL_accept(ssl) == 1) return ssl;
    SSL_free(ssl);
    return NULL;
}

/* ---- bytes ---- */

static ssize_t conn_read(struct conn *x, char *p, size_t n) {
    return x->ssl ? SSL_read(x->ssl, p, (int)n) : recv(x->fd, p, n, 0);
}

static void conn_write(struct conn *x, const char *p, size_t n) {
    if (!x->ssl) {
        fd_write_all(x->fd, p, n);
        return;
    }
    while (n) {
        int w = SSL_write(x->ssl, p, (int)MIN_OF(n, (size_t)1 << 14));
        if (w <= 0) return;
        p += w;
        n -= (size_t)w;
    }
}

/* The head of the request into x->request; a body is not read: none of ours has one. */
static bool read_request(struct conn *x) {
    int64_t end = mono_ns() + REQUEST_S * NS_PER_SEC;
    size_t n = 0;
    x->request = arena_alloc(x->a, REQUEST_MAX + 1);
    while (n < REQUEST_MAX && mono_ns() < end) {
        ssize_t got = conn_read(x, x->request + n, REQUEST_MAX - n);
        if (got <= 0) return false;
        n += (size_t)got;
        x->request[n] = 0;
        if (strstr(x->request, "\r\n\r\n")) return true;
    }
    return false;
}

static void answer(struct conn *x, int status, const char *type, const char *text, size_t n) {
    static const struct {
        int status;
        const char *words;
    } words[] = {{200, "OK"},        {401, "Unauthorized"},       {403, "Forbidden"},
                 {404, "Not Found"}, {405, "Method Not Allowed"}, {500, "Internal Server Error"}};
    const char *w = "";
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (words[i].status == status) w = words[i].words;
    const char *head =
        arena_printf(x->a, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                     status, w, type, n);
    conn_write(x, head, strlen(head));
    conn_write(x, text, n);
}

static void answer_text(struct conn *x, int status, const char *text) {
    answer(x, status, "text/plain; charset=utf-8", text, strlen(text));
}

/* The value of a header in the arena, or NULL. */
static const char *header(struct conn *x, const char *name) {
    size_t len = strlen(name);
    for (const char *line = strstr(x->request, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, len) != 0 || line[len] != ':') continue;
        const char *v = line + len + 1;
        while (*v == ' ' || *v == '\t') v++;
        return arena_strndup(x->a, v, strcspn(v, "\r\n"));
    }
    return NULL;
}

/* ---- who, and may they ---- */

static struct json *review(struct conn *x, const char *path, const char *api, const char *kind, struct json *spec) {
    struct json *body = json_object(x->a), *out = NULL;
    json_set_str(x->a, body, "apiVersion", api);
    json_set_str(x->a, body, "kind", kind);
    json_set(x->a, body, "spec", spec);
    const char *text = json_text(x->a, body);
    struct client_request rq = {
        .method = "POST", .path = path, .body = text, .body_len = strlen(text), .timeout_ms = REVIEW_MS};
    struct client_response resp = {0};
    if (x->s->c.client && client_do(x->s->c.client, &rq, &resp, NULL) == 0 &&
        json_parse(x->a, resp.body, resp.len, &out, NULL, NULL) < 0)
        out = NULL;
    client_response_done(&resp);
    return json_get(out, "status");
}

static void add_names(struct conn *x, X509_NAME *subject, int nid, struct json *list) {
    int at = -1;
    for (int i = 0; i < ORGS_MAX && (at = X509_NAME_get_index_by_NID(subject, nid, at)) >= 0; i++) {
        unsigned char *text = NULL;
        int n = ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
        if (n > 0 && !memchr(text, 0, (size_t)n)) json_append(x->a, list, json_strn(x->a, (char *)text, (size_t)n));
        OPENSSL_free(text);
    }
}

/* {user, groups} of a verified client certificate, as a SubjectAccessReview has them; NULL: none. */
static struct json *user_of_certificate(struct conn *x) {
    X509 *cert = x->ssl ? SSL_get_peer_certificate(x->ssl) : NULL;
    if (!cert) return NULL;
    struct json *u = NULL, *names = json_array(x->a), *groups = json_array(x->a);
    if (SSL_get_verify_result(x->ssl) == X509_V_OK) {
        add_names(x, X509_get_subject_name(cert), NID_commonName, names);
        add_names(x, X509_get_subject_name(cert), NID_organizationName, groups);
    }
    X509_free(cert);
    if (!json_len(names)) return NULL;
    u = json_object(x->a);
    json_set(x->a, u, "user", json_item(names, 0));
    json_append(x->a, groups, json_str(x->a, "system:authenticated"));
    json_set(x->a, u, "groups", groups);
    return u;
}

static struct json *user_of_token(struct conn *x, const char *token) {
    struct json *spec = json_object(x->a), *out = json_object(x->a);
    json_set_str(x->a, spec, "token", token);
    const struct json *st =
        review(x, "/apis/authentication.k8s.io/v1/tokenreviews", "authentication.k8s.io/v1", "TokenReview", spec);
    const struct json *u = json_get(st, "user");
    if (!json_get_bool(st, "authenticated", false)) return NULL;
    json_set_str(x->a, out, "user", str_or_empty(json_get_str(u, "username")));
    static const char *const rest[] = {"uid", "groups", "extra"};
    for (size_t i = 0; i < ARRAY_LEN(rest); i++)
        if (json_get(u, rest[i])) json_set(x->a, out, rest[i], json_get(u, rest[i]));
    return out;
}

static struct json *anonymous(struct conn *x) {
    struct json *u = json_object(x->a);
    json_set_str(x->a, u, "user", "system:anonymous");
    json_append(x->a, json_ensure_array(x->a, u, "groups"), json_str(x->a, "system:unauthenticated"));
    return u;
}

/* True when the path may be read; else it has been answered. Without TLS everyone may: the port is the operator's choice. */
static bool allowed(struct conn *x, const char *path) {
    if (!x->s->c.tls) return true;
    const char *auth = header(x, "authorization");
    struct json *u = user_of_certificate(x), *at = json_object(x->a);
    bool bearer = auth && strncasecmp(auth, "bearer ", 7) == 0;
    if (!u) u = bearer ? user_of_token(x, auth + 7) : anonymous(x);
    if (!u) {
        answer_text(x, 401, "Unauthorized\n");
        return false;
    }
    const char *name = json_get_str(u, "user");
    json_set_str(x->a, at, "path", path);
    json_set_str(x->a, at, "verb", "get");
    json_set(x->a, u, "nonResourceAttributes", at);
    const struct json *st = review(x, "/apis/authorization.k8s.io/v1/subjectaccessreviews", "authorization.k8s.io/v1",
                                   "SubjectAccessReview", u);
    if (json_get_bool(st, "allowed", false)) return true;
    if (!st)
        answer_text(x, 500, "the API server cannot be asked\n");
    else
        answer_text(x, 403, arena_printf(x->a, "forbidden: User \"%s\" cannot get path \"%s\"\n", name, path));
    return false;
}

/* ---- requests ---- */

static void serve(struct conn *x) {
    static const char *const health[] = {"/healthz", "/livez", "/readyz"};
    char *end = x->request, *method = strsep(&end, " "), *target = strsep(&end, " "); /* headers are behind */
    if (!end || !*method || !*target) return;
    x->request = end;
    const char *path = arena_strndup(x->a, target, strcspn(target, "?"));
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        answer_text(x, 405, "method not allowed\n");
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(health); i++) {
        size_t n = strlen(health[i]);
        if (strncmp(path, health[i], n) == 0 && (!path[n] || path[n] == '/')) {
            answer_text(x, 200, "ok");
            return;
        }
    }
    if (!allowed(x, path)) return;
    if (strcmp(path, "/metrics") != 0 || !x->s->c.metrics) {
        answer_text(x, 404, "404 page not found\n");
        return;
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    x->s->c.metrics(x->s->c.arg, &b);
    answer(x, 200, "text/plain; version=0.0.4; charset=utf-8", str_or_empty(b.data), b.len);
}

static void *connection(void *arg) {
    struct conn *x = arg;
    struct serving *s = x->s;
    struct timeval tv = {.tv_sec = TIMEOUT_S};
    setsockopt(x->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
    setsockopt(x->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    x->a = arena_new();
    if (s->c.tls) x->ssl = tls_for(s, x->fd);
    if ((x->ssl || !s->c.tls) && read_request(x)) serve(x);
    if (x->ssl) SSL_shutdown(x->ssl);
    SSL_free(x->ssl);
    arena_free(x->a);
    close(x->fd);
    free(x);
    pthread_mutex_lock(&s->lock);
    s->connections--;
    pthread_cond_broadcast(&s->idle);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void start_connection(struct serving *s, int fd, const pthread_attr_t *attr) {
    struct conn *x = xcalloc(1, sizeof(*x));
    pthread_t t;
    x->s = s;
    x->fd = fd;
    pthread_mutex_lock(&s->lock);
    bool room = s->connections < CONNECTIONS_MAX;
    if (room) s->connections++;
    pthread_mutex_unlock(&s->lock);
    if (room && pthread_create(&t, attr, connection, x) == 0) return;
    close(fd);
    free(x);
    if (!room) return;
    pthread_mutex_lock(&s->lock);
    s->connections--;
    pthread_mutex_unlock(&s->lock);
}

static void *serving_thread(void *arg) {
    struct serving *s = arg;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            start_connection(s, fd, &attr);
        else if (errno != EINTR && errno != ECONNABORTED && errno != EMFILE)
            break; /* shut down */
    }
    pthread_attr_destroy(&attr);
    return NULL;
}

/* ---- opening ---- */

static int listen_on(const char *address, int port, int *out, struct err *e) {
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *ai = NULL;
    if (getaddrinfo(address, service, &hints, &ai) != 0) return err_set(e, -EINVAL, "bad address %s:%d", address, port);
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1, r = fd < 0 ? -errno : 0;
    if (r == 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (r == 0 && (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)) r = -errno;
    freeaddrinfo(ai);
    if (r < 0 && fd >= 0) close(fd);
    if (r < 0) return err_errno(e, r, "port %s:%d", address, port);
    *out = fd;
    return 0;
}

static void serving_free(struct serving *s) {
    SSL_CTX_free(s->tls);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->idle);
    arena_free(s->arena);
    free(s);
}

int serving_start(const struct serving_config *c, struct serving **out, struct err *e) {
    _cleanup_err_ struct err why = {0};
    int fd = -1;
    *out = NULL;
    int r = listen_on(c->address, c->port, &fd, &why);
    if (r == -EADDRINUSE && c->may_fail) {
        log_warn("no port for health and metrics", "error", why.msg, NULL);
        return 0;
    }
    if (r < 0) {
        err_move(e, &why);
        return r;
    }
    struct serving *s = xcalloc(1, sizeof(*s));
    s->arena = arena_new_sized(256);
    s->c = *c;
    s->c.cert_file = arena_strdup(s->arena, c->cert_file);
    s->c.key_file = arena_strdup(s->arena, c->key_file);
    s->c.client_ca_file = arena_strdup(s->arena, c->client_ca_file);
    s->fd = fd;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->idle, NULL);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    r = pthread_create(&s->thread, &attr, serving_thread, s);
    pthread_attr_destroy(&attr);
    if (r) {
        close(fd);
        serving_free(s);
        return err_errno(e, r, "thread for port %s:%d", c->address, c->port);
    }
    *out = s;
    return 0;
}

void serving_stop(struct serving *s) {
    if (!s) return;
    shutdown(s->fd, SHUT_RDWR);
    pthread_join(s->thread, NULL);
    close(s->fd);
    pthread_mutex_lock(&s->lock);
    while (s->connections) pthread_cond_wait(&s->idle, &s->lock);
    pthread_mutex_unlock(&s->lock);
    serving_free(s);
}

int serving_start_ports(const struct serving_flags *f, struct client *client, void (*metrics)(void *arg, struct buf *b),
                        void *arg, struct serving *out[SERVING_PORTS], struct err *e) {
    struct serving_config c = {.address = f->address,
                               .port = (int)f->port,
                               .cert_file = f->cert_file,
                               .key_file = f->key_file,
                               .client_ca_file = f->client_ca_file,
                               .client = client,
                               .metrics = metrics,
                               .arg = arg};
    int r = f->port ? serving_start(&c, &out[0], e) : 0;
    c.port = (int)f->secure_port;
    c.tls = true;
    c.may_fail = f->secure_port == f->usual_port;
    return r == 0 && c.port ? serving_start(&c, &out[1], e) : r;
}

void serving_stop_ports(struct serving *ports[SERVING_PORTS]) {
    for (size_t i = 0; i < SERVING_PORTS; i++) serving_stop(ports[i]);
}
