#include "pkg/serving/serving.h"

#include <netdb.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/pki/pki.h"
#include "pkg/serving/delegate.h"

enum {
    STACK = 128 * 1024, /* of the thread that waits for the first connection, and makes certificates */
    WORKERS = 2,
    QUEUE = 16,
    BODY_MAX = 1024, /* no request has one */
    CONNECTIONS_MAX = 16,
    RETRY_MS = 1000, /* after a server could not be made */
    BACKLOG = 16,
};

struct serving {
    struct serving_config c;
    struct arena *arena; /* copies of the configuration */
    int fd, stop;        /* the listening socket until the server has it, -1 then; an eventfd */
    pthread_t thread;
    struct http_server *http; /* made by that thread, read after it has ended */
    struct http_workers *workers;
    struct delegate *delegate;
};

/* ---- requests ---- */

struct scrape {
    struct serving *s;
    struct http_req *r;
};

static void respond_error(struct http_req *r, const struct err *e) {
    http_respond_text(r, e->status ? e->status : 500, "%s\n", e->msg);
}

/* 0, or the error to answer with. Without TLS everyone may: the port is the operator's choice. */
static int check_access(struct serving *s, struct http_req *r, struct err *e) {
    struct json *user, *what = json_object(r->arena);
    bool allowed = false;
    if (!s->c.tls) return 0;
    int rc = delegate_user(s->delegate, s->c.client, r, &user, e);
    if (rc < 0) return rc;
    json_set_str(r->arena, what, "path", r->path);
    json_set_str(r->arena, what, "verb", "get");
    rc = delegate_may(s->delegate, s->c.client, r->arena, user, "nonResourceAttributes", what, &allowed, e);
    if (rc < 0) return err_status(e, 500, "InternalError", "the API server cannot be asked");
    return allowed ? 0
                   : err_status(e, 403, "Forbidden", "forbidden: User \"%s\" cannot get path \"%s\"",
                                str_or_empty(json_get_str(user, "username")), r->path);
}

static void answer(void *arg) {
    struct scrape *x = arg;
    static const struct http_header type = {"Content-Type", "text/plain; version=0.0.4; charset=utf-8"};
    _cleanup_buf_ struct buf b = BUF_INIT;
    _cleanup_err_ struct err e = {0};
    if (check_access(x->s, x->r, &e) < 0) {
        respond_error(x->r, &e);
    } else if (!str_eq(x->r->path, "/metrics") || !x->s->c.metrics) {
        http_respond_text(x->r, 404, "404 page not found\n");
    } else {
        x->s->c.metrics(x->s->c.arg, &b);
        http_respond(x->r, 200, &type, 1, str_or_empty(b.data), b.len, HTTP_GZIP);
    }
    free(x);
}

static bool is_health(const char *path) {
    static const char *const paths[] = {"/healthz", "/livez", "/readyz"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        size_t n = strlen(paths[i]);
        if (strncmp(path, paths[i], n) == 0 && (!path[n] || path[n] == '/')) return true;
    }
    return false;
}

static void on_request(struct http_req *r, void *arg) {
    if (!str_eq(r->method, "GET") && !str_eq(r->method, "HEAD")) {
        http_respond_text(r, 405, "method not allowed\n");
        return;
    }
    if (is_health(r->path)) {
        http_respond_text(r, 200, "ok");
        return;
    }
    struct serving *s = arg;
    struct scrape *x = xcalloc(1, sizeof(*x));
    *x = (struct scrape){s, r};
    if (http_dispatch(s->workers, answer, x) == 0) return;
    free(x);
    http_respond_text(r, 503, "too many requests\n");
}

/* ---- the server, once somebody comes ---- */

static int self_signed(struct pki_pair *out, struct err *e) {
    _cleanup_pki_pair_ struct pki_pair ca = {0};
    char host[HOST_NAME_MAX + 1] = "localhost";
    gethostname(host, sizeof(host) - 1);
    const char *sans[] = {"localhost", "127.0.0.1", host};
    struct pki_spec spec = {.cn = host, .sans = sans, .n_sans = ARRAY_LEN(sans), .usages = PKI_SERVER_AUTH};
    int r = pki_ca_new("self-signed", 0, &ca, e);
    return r < 0 ? r : pki_issue(&ca, &spec, out, e);
}

static int open_server(struct serving *s, struct err *e) {
    const struct serving_config *c = &s->c;
    struct http_server_options o = {.handler = on_request, .arg = s};
    struct http_ca ca = {.file = c->client_ca_file};
    struct http_listen l = {.use_fd = true, .fd = s->fd};
    _cleanup_pki_pair_ struct pki_pair own = {0};
    int r = 0;
    o.limits = (struct http_limits){.body_bytes = BODY_MAX, .connections = CONNECTIONS_MAX};
    if (c->tls && str_empty(c->cert_file)) {
        r = self_signed(&own, e);
        l.cert_pem = own.cert_pem;
        l.key_pem = own.key_pem;
    } else if (c->tls) {
        l.cert_file = c->cert_file;
        l.key_file = c->key_file;
    }
    if (c->tls && !str_empty(c->client_ca_file)) {
        l.client_cas = &ca;
        l.n_client_cas = 1;
    }
    if (r < 0) return r;
    struct http_server *http = http_server_new(&o);
    r = http_server_listen(http, &l, NULL, e);
    if (r == 0) {
        s->fd = -1; /* the server's */
        r = http_server_start(http, e);
    }
    s->http = r == 0 ? http : http_server_free(http);
    return r;
}

/* Waits for a connection, and leaves it to a server. Where that cannot be made the connection is closed. */
static void *wait_for_first(void *arg) {
    struct serving *s = arg;
    struct pollfd p[] = {{.fd = s->fd, .events = POLLIN}, {.fd = s->stop, .events = POLLIN}};
    while (s->fd >= 0) {
        if (poll(p, ARRAY_LEN(p), -1) < 0) continue;
        if (p[1].revents) break;
        _cleanup_err_ struct err e = {0};
        if (open_server(s, &e) == 0) break;
        log_error("cannot serve", "port", arena_printf(s->arena, "%d", s->c.port), "error", e.msg, NULL);
        int fd = s->fd < 0 ? -1 : accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0) close(fd);
        poll(&p[1], 1, RETRY_MS);
    }
    return NULL;
}

/* ---- opening ---- */

static int listen_on(const char *address, int port, int *out, struct err *e) {
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *ai = NULL;
    if (getaddrinfo(address, service, &hints, &ai) != 0) return err_set(e, -EINVAL, "bad address %s:%d", address, port);
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, r = fd < 0 ? -errno : 0;
    if (r == 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (r == 0 && (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)) r = -errno;
    freeaddrinfo(ai);
    if (r < 0 && fd >= 0) close(fd);
    if (r < 0) return err_errno(e, r, "port %s:%d", address, port);
    *out = fd;
    return 0;
}

static void serving_free(struct serving *s) {
    http_server_free(s->http);
    http_workers_free(s->workers);
    delegate_free(s->delegate);
    if (s->fd >= 0) close(s->fd);
    close(s->stop);
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
    const struct delegate_config ask = {.token_reviews = true,
                                        .anonymous = true,
                                        .token_ttl_ns = 10 * NS_PER_SEC,
                                        .allow_ttl_ns = 10 * NS_PER_SEC,
                                        .deny_ttl_ns = 10 * NS_PER_SEC};
    s->arena = arena_new_sized(256);
    s->c = *c;
    s->c.cert_file = arena_strdup(s->arena, c->cert_file);
    s->c.key_file = arena_strdup(s->arena, c->key_file);
    s->c.client_ca_file = arena_strdup(s->arena, c->client_ca_file);
    s->fd = fd;
    s->stop = eventfd(0, EFD_CLOEXEC);
    s->workers = http_workers_new(WORKERS, QUEUE);
    s->delegate = delegate_new(&ask);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    r = pthread_create(&s->thread, &attr, wait_for_first, s);
    pthread_attr_destroy(&attr);
    if (r) {
        serving_free(s);
        return err_errno(e, -r, "thread for port %s:%d", c->address, c->port);
    }
    *out = s;
    return 0;
}

void serving_stop(struct serving *s) {
    if (!s) return;
    eventfd_write(s->stop, 1);
    pthread_join(s->thread, NULL);
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
