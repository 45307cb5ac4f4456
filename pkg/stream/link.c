#include "pkg/stream/link.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include "pkg/base/ktime.h"

static bool has_ws(const struct link *l) { return l->transport != REMOTECMD_SPDY; }

void link_init(struct link *l, int fd, enum remotecmd_transport t, const struct spdy_callbacks *cb,
               int (*on_message)(int opcode, const char *p, size_t n, void *arg), void *arg) {
    *l = (struct link){.fd = fd, .transport = t, .on_message = on_message, .arg = arg};
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    if (t == REMOTECMD_SPDY || t == REMOTECMD_WS_SPDY) l->spdy = spdy_new(true, cb);
    if (has_ws(l)) ws_init(&l->ws, true);
}

static int tunnelled(int opcode, const char *p, size_t n, void *arg) {
    struct link *l = arg;
    return spdy_feed(l->spdy, p, n, NULL);
}

static int feed(struct link *l, const char *p, size_t n) {
    if (l->transport == REMOTECMD_SPDY) return spdy_feed(l->spdy, p, n, NULL);
    if (l->transport == REMOTECMD_WS_SPDY) return ws_feed(&l->ws, p, n, tunnelled, l, NULL);
    return ws_feed(&l->ws, p, n, l->on_message, l->arg, NULL);
}

void link_recv(struct link *l) {
    char buf[LINK_READ];
    ssize_t n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0 || feed(l, buf, (size_t)n) < 0 || (has_ws(l) && l->ws.close_seen)) {
        link_send(l); /* a close frame, perhaps */
        l->gone = true;
    }
}

static struct buf *out_of(struct link *l) {
    if (l->transport == REMOTECMD_SPDY) return spdy_out(l->spdy);
    if (l->transport == REMOTECMD_WS_SPDY) {
        struct buf *b = spdy_out(l->spdy);
        for (size_t at = 0; at < b->len; at += LINK_READ)
            ws_send(&l->ws, WS_BINARY, b->data + at, MIN_OF(b->len - at, (size_t)LINK_READ));
        buf_reset(b);
    }
    return &l->ws.out;
}

size_t link_pending(struct link *l) { return out_of(l)->len; }

void link_send(struct link *l) {
    struct buf *b = out_of(l);
    size_t at = 0;
    while (at < b->len && !l->gone) {
        ssize_t n = send(l->fd, b->data + at, b->len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            at += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            l->gone = true;
    }
    buf_consume(b, at);
    if (l->gone) buf_done(b);
    if (!b->len && b->cap > 64 * 1024) buf_done(b);
}

static bool wait_for(struct link *l, short events, int64_t until) {
    int64_t ms = (until - mono_ns()) / NS_PER_MS;
    struct pollfd p = {l->fd, events, 0};
    return ms > 0 && poll(&p, 1, (int)ms) > 0;
}

void link_finish(struct link *l) {
    if (has_ws(l) && !l->gone) ws_close(&l->ws, 1000);
    int64_t until = mono_ns() + LINK_FLUSH_MS * NS_PER_MS;
    for (link_send(l); !l->gone && link_pending(l) && wait_for(l, POLLOUT, until); link_send(l)) continue;
    if (!l->gone && !link_pending(l)) {
        shutdown(l->fd, SHUT_WR);
        until = mono_ns() + LINK_LINGER_MS * NS_PER_MS;
        char buf[4096];
        ssize_t n = 1;
        while (n != 0 && wait_for(l, POLLIN, until)) {
            n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT);
            if (n < 0 && errno != EAGAIN && errno != EINTR) break;
        }
    }
    close(l->fd);
    l->fd = -1;
    l->spdy = spdy_free(l->spdy);
    if (has_ws(l)) ws_done(&l->ws);
}
