/* WebSocket codec. Why not libwebsockets, although it is packaged: a session here is a thread with a socket and a few
 * pipes, and needs frames in and out of memory, also with SPDY tunnelled inside. libwebsockets 4.1 only comes with its
 * event loop, so each session would need a socket pair into a second loop, a made-up handshake and queues between the
 * threads, which is more code than RFC 6455's framing without extensions.
 *
 *   FIN 1|RSV 3|opcode 4   MASK 1|length 7 (126: 16 bits follow, 127: 64 bits)   mask 32 when MASK   payload */
#include "pkg/stream/ws.h"

#include <openssl/sha.h>

#include "pkg/base/bytes.h"

enum { CONTROL_MAX = 125, CLOSE_PROTOCOL = 1002, CLOSE_TOO_BIG = 1009, NO_MESSAGE = -1 };

void ws_init(struct ws *w, bool server) {
    *w = (struct ws){.server = server, .msg_op = NO_MESSAGE};
    w->msg.limit = WS_MESSAGE_MAX;
}

void ws_done(struct ws *w) {
    buf_done(&w->in);
    buf_done(&w->msg);
    buf_done(&w->out);
}

void ws_accept_key(const char *key, char out[29]) {
    unsigned char md[SHA_DIGEST_LENGTH];
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_adds(&b, key);
    buf_adds(&b, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    SHA1((const unsigned char *)b.data, b.len, md);
    base64_encode(md, sizeof(md), out);
}

/* ---- writing ---- */

void ws_send2(struct ws *w, int opcode, const void *p, size_t n, const void *p2, size_t n2) {
    uint8_t head[14];
    size_t h = 0, total = n + n2;
    if (w->close_sent) return;
    head[h++] = (uint8_t)(0x80 | opcode);
    uint8_t mask_bit = w->server ? 0 : 0x80;
    if (total < 126) {
        head[h++] = (uint8_t)(mask_bit | total);
    } else if (total < 65536) {
        head[h++] = mask_bit | 126;
        head[h++] = (uint8_t)(total >> 8);
        head[h++] = (uint8_t)total;
    } else {
        head[h++] = mask_bit | 127;
        for (int i = 7; i >= 0; i--) head[h++] = (uint8_t)((uint64_t)total >> (8 * i));
    }
    uint8_t mask[4] = {0};
    if (!w->server) {
        random_bytes(mask, 4);
        memcpy(head + h, mask, 4);
        h += 4;
    }
    buf_add(&w->out, head, h);
    size_t at = w->out.len;
    buf_add(&w->out, p, n);
    buf_add(&w->out, p2, n2);
    for (size_t i = 0; !w->server && i < total; i++) w->out.data[at + i] = (char)(w->out.data[at + i] ^ mask[i % 4]);
}

void ws_send(struct ws *w, int opcode, const void *p, size_t n) { ws_send2(w, opcode, p, n, NULL, 0); }

void ws_close(struct ws *w, uint16_t code) {
    if (w->close_sent) return;
    uint8_t b[2] = {(uint8_t)(code >> 8), (uint8_t)code};
    ws_send(w, WS_CLOSE, b, 2);
    w->close_sent = true;
}

/* ---- reading ---- */

static int fail(struct ws *w, uint16_t code, struct err *e, const char *why) {
    ws_close(w, code);
    w->close_seen = true; /* nothing more is read */
    return err_set(e, -EPROTO, "WebSocket: %s", why);
}

typedef int (*message_fn)(int opcode, const char *p, size_t n, void *arg);

static int on_control(struct ws *w, int op, const char *p, size_t n) {
    if (op == WS_PING) ws_send(w, WS_PONG, p, n);
    if (op == WS_CLOSE) {
        w->close_seen = true;
        if (!w->close_sent) { /* echo the code; a bare close is answered with a bare one */
            ws_send(w, WS_CLOSE, p, n >= 2 ? 2 : 0);
            w->close_sent = true;
        }
    }
    return 0;
}

static int on_frame(struct ws *w, uint8_t b0, const char *p, size_t n, message_fn fn, void *arg, struct err *e) {
    int op = b0 & 15;
    bool fin = b0 & 0x80;
    if (op >= WS_CLOSE) return on_control(w, op, p, n);
    if ((op == WS_CONT) != (w->msg_op != NO_MESSAGE)) return fail(w, CLOSE_PROTOCOL, e, "bad fragmentation");
    if (fin && op != WS_CONT) return fn(op, p, n, arg);
    if (op != WS_CONT) w->msg_op = op;
    buf_add(&w->msg, p, n);
    if (w->msg.failed) return fail(w, CLOSE_TOO_BIG, e, "message too big");
    if (!fin) return 0;
    int whole = w->msg_op;
    w->msg_op = NO_MESSAGE;
    int rc = fn(whole, str_or_empty(w->msg.data), w->msg.len, arg);
    buf_reset(&w->msg);
    return rc;
}

/* Parses one frame of n bytes at p (which is unmasked in place). Returns bytes used, 0 when incomplete. */
static ssize_t parse(struct ws *w, char *p, size_t n, message_fn fn, void *arg, int *fn_rc, struct err *e) {
    const uint8_t *u = (const uint8_t *)p;
    if (n < 2) return 0;
    int op = u[0] & 15;
    bool masked = u[1] & 0x80;
    uint64_t len = u[1] & 127;
    size_t h = 2;
    if (u[0] & 0x70) return fail(w, CLOSE_PROTOCOL, e, "reserved bits are set");
    if (op > WS_BINARY && (op < WS_CLOSE || op > WS_PONG)) return fail(w, CLOSE_PROTOCOL, e, "unknown opcode");
    if (op >= WS_CLOSE && (!(u[0] & 0x80) || len > CONTROL_MAX)) return fail(w, CLOSE_PROTOCOL, e, "bad control frame");
    if (masked != w->server) return fail(w, CLOSE_PROTOCOL, e, "wrong masking");
    if (len >= 126) {
        size_t bytes = len == 126 ? 2 : 8;
        if (n < h + bytes) return 0;
        len = 0;
        for (size_t i = 0; i < bytes; i++) len = len << 8 | u[h + i];
        h += bytes;
        if (len < (bytes == 2 ? 126u : 65536u)) return fail(w, CLOSE_PROTOCOL, e, "length not in its shortest form");
    }
    if (len > WS_MESSAGE_MAX) return fail(w, CLOSE_TOO_BIG, e, "frame too big");
    uint8_t mask[4] = {0};
    if (masked) {
        if (n < h + 4) return 0;
        memcpy(mask, p + h, 4);
        h += 4;
    }
    if (n - h < len) return 0;
    for (size_t i = 0; masked && i < len; i++) p[h + i] = (char)(p[h + i] ^ mask[i % 4]);
    *fn_rc = on_frame(w, u[0], p + h, (size_t)len, fn, arg, e);
    return (ssize_t)(h + len);
}

int ws_feed(struct ws *w, const void *data, size_t n, message_fn fn, void *arg, struct err *e) {
    if (w->close_seen) return 0; /* what follows a close frame is to be ignored */
    buf_add(&w->in, data, n);
    size_t at = 0;
    int rc = 0;
    while (!rc && !w->close_seen && at < w->in.len) {
        ssize_t used = parse(w, w->in.data + at, w->in.len - at, fn, arg, &rc, e);
        if (used < 0) return (int)used;
        if (used == 0) break;
        at += (size_t)used;
    }
    buf_consume(&w->in, at);
    if (!w->in.len && w->in.cap > 64 * 1024) buf_done(&w->in);
    return rc;
}
