/* Port forwarding: pairs of SPDY streams ("error" and "data", joined by the requestID header), or of a WebSocket's
 * channels (data and error), each pair one connection to a port of the pod. One thread, poll(2) over the client and all of the connections.
 *
 * End of a pair: the pod's side closed -> FIN on data and error (kubectl waits for the error stream's end); the client
 * closed data -> shutdown towards the pod; both, or a reset -> the pair goes. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/stream/link.h"

enum { TO_POD_HIGH = 1024 * 1024 };

struct pair {
    char *request_id;
    uint32_t error_id, data_id;
    uint16_t port;
    int fd; /* -1: not connected */
    struct buf to_pod;
    bool client_fin, pod_fin, shut, over;
};

struct forward {
    struct link link;
    int (*dial)(uint16_t port, void *arg, struct err *e);
    void *arg;
    struct pair *pairs;
    size_t n_pairs, cap_pairs;
};

static void pair_done(struct pair *p) {
    if (p->fd >= 0) close(p->fd);
    free(p->request_id);
    buf_done(&p->to_pod);
}

/* To a stream of the client's; of a WebSocket the ids are the channels and one, and nothing tells of an end. */
static void put(struct forward *f, uint32_t id, const char *data, size_t n, bool fin) {
    if (f->link.spdy) {
        spdy_data(f->link.spdy, id, data, n, fin);
    } else if (n && f->link.transport == REMOTECMD_WS) {
        char channel = (char)(id - 1);
        ws_send2(&f->link.ws, WS_BINARY, &channel, 1, data, n);
    } else if (n) {
        char channel = (char)('0' + id - 1);
        _cleanup_free_ char *text = xmalloc(base64_encoded_len(n) + 1);
        ws_send2(&f->link.ws, WS_TEXT, &channel, 1, text, base64_encode(data, n, text));
    }
}

static void end_pair(struct forward *f, struct pair *p, const char *message) {
    if (p->error_id) put(f, p->error_id, message, strlen(message), true);
    if (p->data_id) put(f, p->data_id, "", 0, true);
    p->over = true;
}

static void pair_flush(struct forward *f, struct pair *p) {
    while (p->to_pod.len && p->fd >= 0) {
        ssize_t n = send(p->fd, p->to_pod.data, p->to_pod.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            buf_consume(&p->to_pod, (size_t)n);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR) {
            end_pair(f, p, "");
            return;
        }
    }
    if (p->client_fin && !p->to_pod.len && p->fd >= 0 && !p->shut) {
        p->shut = true;
        shutdown(p->fd, SHUT_WR);
        if (p->pod_fin) p->over = true;
    }
}

static void connect_pair(struct forward *f, struct pair *p) {
    _cleanup_err_ struct err e = {0};
    int fd = f->dial(p->port, f->arg, &e);
    if (fd < 0) {
        end_pair(f, p, e.code ? e.msg : "cannot connect");
        return;
    }
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    p->fd = fd;
    pair_flush(f, p);
}

/* ---- from the client ---- */

static const char *value_of(const struct http_header *h, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(h[i].name, name)) return h[i].value;
    return NULL;
}

static struct pair *pair_of(struct forward *f, const char *request_id) {
    for (size_t i = 0; i < f->n_pairs; i++)
        if (str_eq(f->pairs[i].request_id, request_id)) return &f->pairs[i];
    if (f->n_pairs >= PORTFORWARD_MAX_PAIRS) return NULL;
    VEC_GROW(f->pairs, f->n_pairs, f->cap_pairs);
    struct pair *p = &f->pairs[f->n_pairs++];
    *p = (struct pair){.request_id = xstrdup(request_id), .fd = -1};
    return p;
}

static int on_stream(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg) {
    struct forward *f = arg;
    const char *type = value_of(h, n, "streamtype"), *port = value_of(h, n, "port"), *rid = value_of(h, n, "requestid");
    int64_t number = 0;
    bool error = str_eq(type, "error"), data = str_eq(type, "data");
    char by_id[16]; /* old clients give no requestID: the data stream follows its error stream */
    snprintf(by_id, sizeof(by_id), "%u", error ? id : id - 2);
    bool bad = !(error || data) || !port || str_to_i64(port, &number) < 0 || number < 1 || number > 65535;
    struct pair *p = bad ? NULL : pair_of(f, rid ? rid : by_id);
    if (!p || (error && p->error_id) || (data && p->data_id)) {
        spdy_reset(s, id, SPDY_REFUSED_STREAM);
        return 0;
    }
    spdy_reply(s, id, NULL, 0, false);
    p->port = (uint16_t)number;
    if (error)
        p->error_id = id;
    else
        p->data_id = id, p->client_fin = fin;
    if (p->error_id && p->data_id) connect_pair(f, p);
    return 0;
}

static struct pair *by_data(struct forward *f, uint32_t id) {
    for (size_t i = 0; i < f->n_pairs; i++)
        if (f->pairs[i].data_id == id) return &f->pairs[i];
    return NULL;
}

static int on_data(struct spdy *s, uint32_t id, const void *data, size_t n, bool fin, void *arg) {
    struct forward *f = arg;
    struct pair *p = by_data(f, id);
    if (!p || p->over) return 0;
    buf_add(&p->to_pod, data, n);
    p->client_fin |= fin;
    pair_flush(f, p);
    return 0;
}

static int on_reset(struct spdy *s, uint32_t id, uint32_t status, void *arg) {
    struct forward *f = arg;
    struct pair *p = by_data(f, id);
    if (p) end_pair(f, p, "");
    return 0;
}

/* A WebSocket's message: the channel, and data. */
static int on_message(int opcode, const char *m, size_t n, void *arg) {
    struct forward *f = arg;
    bool binary = f->link.transport == REMOTECMD_WS;
    struct pair *p = n ? by_data(f, (uint32_t)(unsigned char)(binary ? m[0] : m[0] - '0') + 1) : NULL;
    if (!p || p->over) return 0;
    if (binary) {
        buf_add(&p->to_pod, m + 1, n - 1);
    } else {
        _cleanup_free_ char *raw = xmalloc(n);
        size_t len;
        if (base64_decode(m + 1, n - 1, raw, &len) < 0) return -EPROTO;
        buf_add(&p->to_pod, raw, len);
    }
    pair_flush(f, p);
    return 0;
}

/* The channels of a WebSocket are there from the beginning; each says its port first. */
static void open_channels(struct forward *f, const int32_t *ports, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char name[24];
        snprintf(name, sizeof(name), "%zu", i);
        struct pair *p = pair_of(f, name);
        const char port[2] = {(char)(ports[i] & 0xff), (char)(ports[i] >> 8)};
        p->port = (uint16_t)ports[i];
        p->data_id = (uint32_t)(2 * i + 1);
        p->error_id = p->data_id + 1;
        put(f, p->data_id, port, sizeof(port), false);
        put(f, p->error_id, port, sizeof(port), false);
    }
    for (size_t i = 0; i < n; i++) connect_pair(f, &f->pairs[i]);
}

/* ---- from the pod ---- */

static void pod_input(struct forward *f, struct pair *p) {
    char buf[LINK_READ];
    ssize_t n = recv(p->fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n > 0) {
        put(f, p->data_id, buf, (size_t)n, false);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        p->pod_fin = true;
        put(f, p->data_id, "", 0, true);
        put(f, p->error_id, "", 0, true);
        if (n < 0 || p->shut || !f->link.spdy) p->over = true;
    }
}

static void sweep(struct forward *f) {
    for (size_t i = 0; i < f->n_pairs;) {
        if (!f->pairs[i].over) {
            i++;
            continue;
        }
        pair_done(&f->pairs[i]);
        f->pairs[i] = f->pairs[--f->n_pairs];
    }
}

/* ---- the loop ---- */

/* False when nothing happened for idle_ms. */
static bool turn(struct forward *f, unsigned idle_ms) {
    struct pollfd p[1 + PORTFORWARD_MAX_PAIRS];
    size_t n = f->n_pairs, pending = link_pending(&f->link);
    p[0] = (struct pollfd){f->link.fd, POLLIN, 0};
    if (pending) p[0].events |= POLLOUT;
    for (size_t i = 0; i < n; i++) {
        struct pair *q = &f->pairs[i];
        p[1 + i] = (struct pollfd){q->fd, 0, 0};
        if (!q->pod_fin && pending < LINK_HIGH) p[1 + i].events |= POLLIN;
        if (q->to_pod.len) p[1 + i].events |= POLLOUT;
        if (!p[1 + i].events) p[1 + i].fd = -1;
        if (q->to_pod.len > TO_POD_HIGH) p[0].events &= ~POLLIN; /* the connection is shared: all wait */
    }
    int rc = poll(p, (nfds_t)n + 1, (int)idle_ms);
    if (rc == 0) return false;
    for (size_t i = 0; i < n; i++) {
        struct pair *q = &f->pairs[i];
        if (p[1 + i].revents & POLLOUT) pair_flush(f, q);
        if (!q->over && !q->pod_fin && (p[1 + i].revents & (POLLIN | POLLHUP | POLLERR))) pod_input(f, q);
    }
    if (p[0].revents & POLLIN)
        link_recv(&f->link); /* last: it may add pairs */
    else if (p[0].revents & (POLLHUP | POLLERR))
        f->link.gone = true;
    sweep(f);
    if (!f->link.gone) link_send(&f->link);
    return true;
}

int portforward_serve(int fd, const struct remotecmd_proto *proto, const int32_t *ports, size_t n_ports,
                      int (*dial)(uint16_t port, void *arg, struct err *e), void *arg, unsigned idle_ms,
                      struct err *e) {
    struct forward f = {.dial = dial, .arg = arg};
    const struct spdy_callbacks cb = {.on_stream = on_stream, .on_data = on_data, .on_reset = on_reset, .arg = &f};
    link_init(&f.link, fd, proto->transport, &cb, on_message, &f);
    int rc = 0;
    bool channels = !f.link.spdy;
    if (channels && 2 * n_ports > PORTFORWARD_MAX_CHANNELS)
        rc = err_set(e, -EPROTO, "more than %d ports on a WebSocket", PORTFORWARD_MAX_CHANNELS / 2);
    else if (channels)
        open_channels(&f, ports, n_ports);
    sweep(&f);
    while (!f.link.gone && !rc && !(channels && !f.n_pairs))
        if (!turn(&f, idle_ms ? idle_ms : SESSION_IDLE_MS)) rc = err_set(e, -ETIMEDOUT, "no traffic for a long time");
    for (size_t i = 0; i < f.n_pairs; i++) pair_done(&f.pairs[i]);
    free(f.pairs);
    link_finish(&f.link);
    return rc;
}
