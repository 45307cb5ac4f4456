/* Remote commands and port forwarding, server side: what stands behind exec, attach and port-forward in the shim's (or
 * kubelet's) streaming server. One interface over the two transports that clients use:
 *
 *   SPDY/3.1          kubectl <= 1.30, CRI clients: a SPDY stream for each of error, stdin, stdout, stderr, resize
 *   WebSocket         kubectl >= 1.31: channels 0..4 in binary messages (v4/v5.channel.k8s.io, and base64 variants);
 *                     port-forward tunnels SPDY inside (SPDY/3.1+portforward.k8s.io), or has two channels for each
 *                     port that the request named, data and error, whose first messages are the port
 *
 * How to use it: in the HTTP handler call remotecmd_upgrade (negotiates, answers 101 or an error, thread-safe), then
 * run a session on the socket it gives. Corresponds to k8s.io/kubelet/pkg/cri/streaming. */
#pragma once

#include "pkg/base/err.h"
#include "pkg/http/server.h"

enum remotecmd_kind { REMOTECMD_EXEC, REMOTECMD_ATTACH, REMOTECMD_PORTFORWARD };

enum remotecmd_transport { REMOTECMD_SPDY, REMOTECMD_WS, REMOTECMD_WS_BASE64, REMOTECMD_WS_SPDY };

struct remotecmd_proto {
    enum remotecmd_transport transport;
    int version; /* 1..5 of vN.channel.k8s.io ("channel.k8s.io" is 1); port-forward: 1 */
};

/* Negotiates and upgrades. On success *fd is the session's socket, the request has been finished. On failure the
 * request has been answered too (400 or 403); the error says why. */
int remotecmd_upgrade(struct http_req *r, enum remotecmd_kind kind, struct remotecmd_proto *proto, int *fd,
                      struct err *e);

/* ---- exec and attach ---- */

struct remotecmd;

struct remotecmd_options {
    bool stdin_, stdout_, stderr_, tty; /* what the client asked for; with tty there is no stderr */
    /* Terminal size changes; called on the session's thread. May be NULL. */
    void (*on_resize)(uint16_t width, uint16_t height, void *arg);
    /* The client is gone or closed the connection before the end; called once on the session's thread. May be NULL. */
    void (*on_disconnect)(void *arg);
    void *arg;
    unsigned idle_ms;   /* close after this long without traffic [4 h] */
    unsigned create_ms; /* SPDY: for the client to open its streams [30 s] */
};

/* Starts a session on fd (owned by it, also on failure): waits for the streams (up to create_ms), starts a thread that
 * pumps. */
int remotecmd_start(int fd, const struct remotecmd_proto *proto, const struct remotecmd_options *o,
                    struct remotecmd **out, struct err *e);
/* Pipe ends for the process, blocking: it reads stdin (EOF when the client closed it) and writes the others. -1 for
 * those not asked for. The caller takes each at most once and closes it; taking none is fine. Output ends when every
 * copy of the write end is closed. */
int remotecmd_take_stdin(struct remotecmd *r);
int remotecmd_take_stdout(struct remotecmd *r);
int remotecmd_take_stderr(struct remotecmd *r);
/* Ends a session: waits until the output pipes have ended and their bytes are sent (at most drain_ms when a process
 * holds them open, 0: 10 s), sends the status and closes. Blocks, frees. exit_code 0: Success. exit_code > 0:
 * "NonZeroExitCode". failure non-NULL: InternalError with its message. NULL-safe. */
void remotecmd_finish(struct remotecmd *r, int exit_code, const struct err *failure, unsigned drain_ms);
/* True when the client has gone. Thread-safe. */
bool remotecmd_gone(const struct remotecmd *r);

/* ---- port forwarding ---- */

enum { PORTFORWARD_MAX_PAIRS = 256, PORTFORWARD_MAX_CHANNELS = 200 };

/* Serves a whole session on fd (owned by it); blocks until the client closes it or idle_ms (0: 4 h) pass without
 * traffic. `ports` are those that the request named: a WebSocket's channels are for them, and when all of their
 * connections have ended so does the session. For each forwarded connection `dial` gives a connected stream socket (owned by the session) or fills the
 * error, which the client shows. dial runs on the session's thread. */
int portforward_serve(int fd, const struct remotecmd_proto *proto, const int32_t *ports, size_t n_ports,
                      int (*dial)(uint16_t port, void *arg, struct err *e), void *arg, unsigned idle_ms, struct err *e);
