#include "proxy/health.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "pkg/base/flags.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/base/map.h"
#include "pkg/base/prom.h"

enum {
    REQUEST_MAX = 4096, /* line and headers */
    CLIENTS_MAX = 64,   /* at once; further ones wait in the kernel */
    BACKLOG = 64,
    STACK = 128 * 1024,
};
#define CLIENT_NS (5 * NS_PER_SEC) /* from the first byte to the end of the answer */

enum kind { KIND_HEALTH, KIND_METRICS, KIND_SERVICE };

struct listener {
    int fd, port;
    enum kind kind;
    char *service; /* "ns/name" */
    int endpoints;
    struct listener *next;
};

struct client {
    int fd; /* -1: free */
    int64_t until;
    enum kind kind;
    char *service;
    int endpoints;
    size_t n;
    char *request; /* of REQUEST_MAX and an end */
};

struct health {
    pthread_t thread;
    int wake;
    pthread_mutex_t lock;       /* of what follows, as far as both threads use it */
    struct listener *listeners; /* the thread only looks; others change the list */
    size_t n_listeners;
    bool ready, stop;
    struct ktime since;
    struct client clients[CLIENTS_MAX]; /* the thread's own */
};

/* ---- answers ---- */

static void respond(int fd, int code, const char *type, const char *extra, const char *body, size_t n) {
    _cleanup_free_ char *head = xasprintf(
        "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nX-Content-Type-Options: nosniff\r\nContent-Length: %zu\r\n"
        "Connection: close\r\n%s\r\n",
        code,
        code == 200   ? "OK"
        : code == 404 ? "Not Found"
                      : "Service Unavailable",
        type, n, extra);
    /* small answers: what does not fit the socket's buffer at once is of no use to who does not read */
    if (send(fd, head, strlen(head), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return;
    if (n && send(fd, body, n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) return;
    shutdown(fd, SHUT_WR);
}

static void respond_text(int fd, int code, const char *type, const char *text) {
    respond(fd, code, type, "", text, strlen(text));
}

static void answer_service(struct health *h, const struct client *c) {
    const char *slash = strchr(c->service, '/');
    _cleanup_free_ char *extra = xasprintf("X-Load-Balancing-Endpoint-Weight: %d\r\n", c->endpoints);
    _cleanup_free_ char *body = xasprintf(
        "{\n\t\"service\": {\n\t\t\"namespace\": \"%.*s\",\n\t\t\"name\": \"%s\"\n\t},\n\t\"localEndpoints\": %d,\n"
        "\t\"serviceProxyHealthy\": %s\n}",
        (int)(slash - c->service), c->service, slash + 1, c->endpoints, h->ready ? "true" : "false");
    respond(c->fd, c->endpoints && h->ready ? 200 : 503, "application/json", extra, body, strlen(body));
}

static void answer_health(struct health *h, const struct client *c, const char *path) {
    char since[KTIME_MAX], now[KTIME_MAX];
    if (!str_eq(path, "/healthz") && !str_eq(path, "/livez")) {
        respond_text(c->fd, 404, "text/plain", "404 page not found\n");
        return;
    }
    _cleanup_free_ char *body =
        xasprintf("{\"lastUpdated\": \"%s\",\"currentTime\": \"%s\"%s}", ktime_format(h->since, since),
                  ktime_format(ktime_now(), now), str_eq(path, "/healthz") ? ", \"nodeEligible\": true" : "");
    respond_text(c->fd, h->ready ? 200 : 503, "application/json", body);
}

static void answer_metrics(struct health *h, const struct client *c, const char *path) {
    if (str_eq(path, "/healthz")) {
        respond_text(c->fd, 200, "text/plain", "ok");
    } else if (str_eq(path, "/proxyMode")) {
        respond_text(c->fd, 200, "text/plain", "nftables");
    } else if (str_eq(path, "/metrics")) {
        _cleanup_buf_ struct buf b = BUF_INIT;
        prom_build_info(&b, CORACLE_VERSION);
        prom_process(&b);
        respond(c->fd, 200, "text/plain; version=0.0.4; charset=utf-8", "", str_or_empty(b.data), b.len);
    } else {
        respond_text(c->fd, 404, "text/plain", "404 page not found\n");
    }
}

static void answer(struct health *h, struct client *c) {
    char path[256] = "";
    if (sscanf(c->request, "%*15[A-Z] %255[^ ?\r\n]", path) != 1) return;
    pthread_mutex_lock(&h->lock);
    if (c->kind == KIND_SERVICE)
        answer_service(h, c);
    else if (c->kind == KIND_HEALTH)
        answer_health(h, c, path);
    else
        answer_metrics(h, c, path);
    pthread_mutex_unlock(&h->lock);
}

/* ---- connections ---- */

static void hang_up(struct client *c) {
    close(c->fd);
    free(c->service);
    free(c->request);
    *c = (struct client){.fd = -1};
}

static void read_more(struct health *h, struct client *c) {
    ssize_t n = recv(c->fd, c->request + c->n, REQUEST_MAX - c->n, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) {
        c->n += (size_t)n;
        c->request[c->n] = '\0';
        bool whole = strstr(c->request, "\r\n\r\n") || strstr(c->request, "\n\n");
        if (!whole && c->n < REQUEST_MAX) return;
        if (whole) answer(h, c);
    }
    hang_up(c);
}

static void admit(struct health *h, const struct listener *l) {
    struct client *c = NULL;
    for (size_t i = 0; i < CLIENTS_MAX && !c; i++)
        if (h->clients[i].fd < 0) c = &h->clients[i];
    if (!c) return;
    c->fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (c->fd < 0) return;
    c->until = mono_ns() + CLIENT_NS;
    c->kind = l->kind;
    c->service = l->service ? xstrdup(l->service) : NULL;
    c->endpoints = l->endpoints;
    c->request = xmalloc(REQUEST_MAX + 1);
    c->n = 0;
}

/* Waits for all sockets: the eventfd, the listeners while there is room for a client, the clients. */
static struct pollfd *wait_sockets(struct health *h, size_t *n_listeners, size_t *n) {
    size_t open = 0, k = 0;
    int64_t first = INT64_MAX;
    for (size_t i = 0; i < CLIENTS_MAX; i++) open += h->clients[i].fd >= 0;
    pthread_mutex_lock(&h->lock);
    struct pollfd *p = xcalloc(1 + h->n_listeners + CLIENTS_MAX, sizeof(*p));
    p[k++] = (struct pollfd){h->wake, POLLIN, 0};
    for (struct listener *l = h->listeners; l && open < CLIENTS_MAX; l = l->next)
        p[k++] = (struct pollfd){l->fd, POLLIN, 0};
    pthread_mutex_unlock(&h->lock);
    *n_listeners = k - 1;
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        if (h->clients[i].fd < 0) continue;
        p[k++] = (struct pollfd){h->clients[i].fd, POLLIN, 0};
        first = MIN_OF(first, h->clients[i].until);
    }
    *n = k;
    int64_t left = first - mono_ns();
    int ms = first == INT64_MAX ? -1 : left <= 0 ? 0 : (int)(left / NS_PER_MS + 1);
    if (poll(p, k, ms) < 0) *n = 0;
    return p;
}

static void serve_ready(struct health *h, const struct pollfd *p, size_t n_listeners, size_t n) {
    for (size_t i = 1 + n_listeners; i < n; i++)
        for (size_t k = 0; p[i].revents && k < CLIENTS_MAX; k++)
            if (h->clients[k].fd == p[i].fd) read_more(h, &h->clients[k]);
    for (size_t k = 0; k < CLIENTS_MAX; k++)
        if (h->clients[k].fd >= 0 && h->clients[k].until <= mono_ns()) hang_up(&h->clients[k]);
    pthread_mutex_lock(&h->lock);
    for (size_t i = 1; i < 1 + n_listeners && i < n; i++)
        for (struct listener *l = h->listeners; p[i].revents && l; l = l->next)
            if (l->fd == p[i].fd) admit(h, l);
    pthread_mutex_unlock(&h->lock);
}

static void *run(void *arg) {
    struct health *h = arg;
    for (;;) {
        size_t n_listeners, n;
        eventfd_t ignored;
        _cleanup_free_ struct pollfd *p = wait_sockets(h, &n_listeners, &n);
        if (n && p[0].revents) eventfd_read(h->wake, &ignored);
        pthread_mutex_lock(&h->lock);
        bool stop = h->stop;
        pthread_mutex_unlock(&h->lock);
        if (stop) break;
        serve_ready(h, p, n_listeners, n);
    }
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        if (h->clients[i].fd >= 0) hang_up(&h->clients[i]);
    return NULL;
}

/* ---- listeners; under the lock ---- */

static struct listener *listen_at(struct health *h, const char *ip, int port, enum kind kind) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int on = 1;
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (inet_pton(AF_INET, ip, &a.sin_addr) != 1) errno = EINVAL;
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, BACKLOG) < 0) {
        log_fmt(LOG_WARN, "cannot listen on %s:%d: %s", ip, port, strerror(errno));
        return NULL;
    }
    struct listener *l = xcalloc(1, sizeof(*l));
    *l = (struct listener){.fd = take_fd(&fd), .port = port, .kind = kind, .next = h->listeners};
    h->listeners = l;
    h->n_listeners++;
    return l;
}

static void unlisten(struct health *h, struct listener **at) {
    struct listener *l = *at;
    *at = l->next;
    h->n_listeners--;
    close(l->fd);
    free(l->service);
    free(l);
}

void health_service(struct health *h, const char *service, int port, int endpoints) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    struct listener **at = &h->listeners;
    while (*at && !str_eq((*at)->service, service)) at = &(*at)->next;
    if (*at && (*at)->port != port) unlisten(h, at);
    struct listener *l = *at && str_eq((*at)->service, service) ? *at : NULL;
    if (!l && port && (l = listen_at(h, "0.0.0.0", port, KIND_SERVICE))) l->service = xstrdup(service);
    if (l) l->endpoints = endpoints;
    pthread_mutex_unlock(&h->lock);
    eventfd_write(h->wake, 1);
}

void health_ready(struct health *h) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->ready = true;
    h->since = ktime_now();
    pthread_mutex_unlock(&h->lock);
}

/* "ADDR:PORT", of which nothing is served when it is empty. */
static int listen_flag(struct health *h, const char *flag, enum kind kind, struct err *e) {
    char ip[INET_ADDRSTRLEN];
    int port, n = 0;
    struct in_addr in;
    if (str_empty(flag)) return 0;
    if (sscanf(flag, "%15[0-9.]:%d%n", ip, &port, &n) != 2 || flag[n] || port < 0 || port > 65535 ||
        inet_pton(AF_INET, ip, &in) != 1)
        return err_set(e, -EINVAL, "\"%s\" is no ADDRESS:PORT", flag);
    if (port) listen_at(h, ip, port, kind);
    return 0;
}

int health_new(const struct health_config *c, struct health **out, struct err *e) {
    struct health *h = xcalloc(1, sizeof(*h));
    pthread_mutex_init(&h->lock, NULL);
    h->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->since = ktime_now();
    for (size_t i = 0; i < CLIENTS_MAX; i++) h->clients[i].fd = -1;
    int r = listen_flag(h, c->health_address, KIND_HEALTH, e);
    if (r == 0) r = listen_flag(h, c->metrics_address, KIND_METRICS, e);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    if (r == 0 && (r = -pthread_create(&h->thread, &attr, run, h)) < 0) err_errno(e, r, "start a thread");
    pthread_attr_destroy(&attr);
    if (r < 0) {
        h->thread = 0;
        health_free(h);
        return r;
    }
    *out = h;
    return 0;
}

void health_free(struct health *h) {
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_mutex_unlock(&h->lock);
    eventfd_write(h->wake, 1);
    if (h->thread) pthread_join(h->thread, NULL);
    while (h->listeners) unlisten(h, &h->listeners);
    close(h->wake);
    pthread_mutex_destroy(&h->lock);
    free(h);
}
