/* See wsout.h. The socket is blocking. One thread writes (the caller's), one reads; both may have something to send
 * (a pong), so the outgoing half of the framing is under a lock. */
#include "pkg/stream/wsout.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>

#include "pkg/stream/ws.h"

enum { GOODBYE_MS = 2000 };

struct wsout {
    int fd;
    bool base64;
    struct http_cancel *gone;
    pthread_t reader;
    pthread_mutex_t lock; /* of ws.out and of writing */
    struct ws ws;
};

static int ignore(int opcode, const char *p, size_t n, void *arg) { return 0; }

/* Under the lock. */
static int flush(struct wsout *w) {
    while (w->ws.out.len) {
        ssize_t n = send(w->fd, w->ws.out.data, w->ws.out.len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            buf_reset(&w->ws.out);
            return -EPIPE;
        }
        buf_consume(&w->ws.out, (size_t)n);
    }
    return 0;
}

static void *read_loop(void *arg) {
    struct wsout *w = arg;
    char block[4096];
    for (bool open = true; open;) {
        ssize_t n = read(w->fd, block, sizeof(block));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        pthread_mutex_lock(&w->lock);
        open = ws_feed(&w->ws, block, (size_t)n, ignore, NULL, NULL) == 0 && !w->ws.close_seen;
        if (flush(w) < 0) open = false;
        pthread_mutex_unlock(&w->lock);
    }
    if (w->gone) http_cancel_set(w->gone);
    return NULL;
}

static int refuse(struct http_req *r, int status, struct err *e, const char *why) {
    http_respond_text(r, status, "%s\n", why);
    return err_set(e, -EPROTO, "%s", why);
}

int wsout_upgrade(struct http_req *r, struct http_cancel *gone, struct wsout **out, struct err *e) {
    static const char *const names[] = {"binary.k8s.io", "base64.binary.k8s.io"};
    const char *key = http_header(r, "sec-websocket-key"), *chosen = NULL;
    if (!str_eq(http_header(r, "sec-websocket-version"), "13") || !key || strlen(key) != 24)
        return refuse(r, 400, e, "bad WebSocket handshake");
    for (size_t i = 0; i < ARRAY_LEN(names) && !chosen; i++)
        if (http_header_has_token(r, "sec-websocket-protocol", names[i])) chosen = names[i];
    if (!chosen && http_header(r, "sec-websocket-protocol"))
        return refuse(r, 403, e, "none of the offered WebSocket protocols is supported");
    char accept[29];
    ws_accept_key(key, accept);
    const struct http_header h[] = {{"Upgrade", "websocket"},
                                    {"Connection", "Upgrade"},
                                    {"Sec-WebSocket-Accept", accept},
                                    {"Sec-WebSocket-Protocol", str_or_empty(chosen)}};
    struct wsout *w = xcalloc(1, sizeof(*w));
    w->base64 = chosen == names[1];
    w->gone = gone;
    int rc = http_upgrade(r, h, chosen ? 4 : 3, &w->fd, e);
    if (rc < 0) {
        http_respond_text(r, 500, "cannot upgrade the connection\n");
        free(w);
        return rc;
    }
    struct timeval limit = {.tv_sec = WSOUT_SEND_S};
    setsockopt(w->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    ws_init(&w->ws, true);
    pthread_mutex_init(&w->lock, NULL);
    if ((rc = pthread_create(&w->reader, NULL, read_loop, w))) {
        ws_done(&w->ws);
        close(w->fd);
        free(w);
        return err_errno(e, rc, "cannot start a thread");
    }
    *out = w;
    return 0;
}

int wsout_write(struct wsout *w, const void *p, size_t n) {
    int rc = 0;
    for (const char *s = p; n && rc == 0;) {
        size_t take = MIN_OF(n, (size_t)WSOUT_MESSAGE);
        pthread_mutex_lock(&w->lock);
        if (w->base64) {
            _cleanup_free_ char *text = xmalloc(base64_encoded_len(take) + 1);
            ws_send(&w->ws, WS_TEXT, text, base64_encode(s, take, text));
        } else {
            ws_send(&w->ws, WS_BINARY, s, take);
        }
        rc = flush(w);
        pthread_mutex_unlock(&w->lock);
        s += take;
        n -= take;
    }
    return rc;
}

void wsout_finish(struct wsout *w) {
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    if (!w->ws.close_sent) ws_close(&w->ws, 1000);
    flush(w);
    pthread_mutex_unlock(&w->lock);
    /* what the peer still says decides nothing: after a moment the reader is woken by the end of the socket */
    shutdown(w->fd, SHUT_WR);
    struct pollfd p = {.fd = w->fd, .events = POLLRDHUP};
    poll(&p, 1, GOODBYE_MS);
    shutdown(w->fd, SHUT_RDWR);
    pthread_join(w->reader, NULL);
    close(w->fd);
    pthread_mutex_destroy(&w->lock);
    ws_done(&w->ws);
    free(w);
}
