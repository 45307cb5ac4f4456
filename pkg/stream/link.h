/* The client's end of a remote command or port-forward session: a socket, and the framing on it (SPDY, WebSocket, or
 * SPDY inside WebSocket). Non-blocking; used by one thread. */
#pragma once

#include "pkg/stream/remotecmd.h"
#include "pkg/stream/spdy.h"
#include "pkg/stream/ws.h"

enum {
    LINK_READ = 32 * 1024,
    LINK_HIGH = 512 * 1024,    /* bytes waiting for the client before output is no longer read */
    LINK_FLUSH_MS = 10 * 1000, /* for the last bytes to leave */
    LINK_LINGER_MS = 2 * 1000, /* for the client to close after that */
    SESSION_IDLE_MS = 4 * 3600 * 1000,
};

struct link {
    int fd;
    enum remotecmd_transport transport;
    struct spdy *spdy;                                                 /* SPDY and WS_SPDY */
    struct ws ws;                                                      /* the WebSocket transports */
    int (*on_message)(int opcode, const char *p, size_t n, void *arg); /* WS, WS_BASE64 */
    void *arg;
    bool gone;
};

/* Makes fd non-blocking and owns it. */
void link_init(struct link *l, int fd, enum remotecmd_transport t, const struct spdy_callbacks *cb,
               int (*on_message)(int opcode, const char *p, size_t n, void *arg), void *arg);
/* Reads once and feeds the framing. Sets `gone` at the end of the stream, on errors and on protocol errors. */
void link_recv(struct link *l);
/* Sends what the socket takes. */
void link_send(struct link *l);
size_t link_pending(struct link *l);
/* Sends the rest (WebSocket: and a close frame), shuts our side, waits shortly for the client, closes. */
void link_finish(struct link *l);
