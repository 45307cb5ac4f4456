/* WebSocket framing (RFC 6455), without I/O: bytes in, messages out, and back. Strict: reserved bits, unmasked client
 * frames, fragmented or long control frames and bad lengths end the connection. Extensions are not offered.
 *
 * Why not libwebsockets: see ws.c. */
#pragma once

#include "pkg/base/buf.h"
#include "pkg/base/err.h"

enum ws_opcode { WS_CONT = 0, WS_TEXT = 1, WS_BINARY = 2, WS_CLOSE = 8, WS_PING = 9, WS_PONG = 10 };

enum { WS_MESSAGE_MAX = 1024 * 1024 }; /* longer data messages end the connection with 1009 */

struct ws {
    bool server; /* the peer masks */
    bool close_seen, close_sent;
    struct buf in;  /* not yet complete frame */
    struct buf msg; /* fragments of a message */
    int msg_op;
    struct buf out; /* for the peer: take from the front with buf_consume */
};

void ws_init(struct ws *w, bool server);
void ws_done(struct ws *w);
/* Reads bytes; calls on_message for every complete data message (TEXT or BINARY). Pings are answered, a close frame is
 * echoed (then w->close_seen). -EPROTO (a close frame with the reason is queued) or the callback's value. */
int ws_feed(struct ws *w, const void *p, size_t n, int (*on_message)(int opcode, const char *p, size_t n, void *arg),
            void *arg, struct err *e);
/* Queues a frame. */
void ws_send(struct ws *w, int opcode, const void *p, size_t n);
/* As ws_send of two pieces in one frame. */
void ws_send2(struct ws *w, int opcode, const void *p, size_t n, const void *p2, size_t n2);
void ws_close(struct ws *w, uint16_t code);
/* Sec-WebSocket-Accept for a key; out has room for 29 bytes. */
void ws_accept_key(const char *key, char out[29]);
