/* SPDY/3.1 framing as Kubernetes uses it (moby/spdystream): frames in, frames out, streams and their headers. No I/O:
 * bytes are fed in and taken out, so that it runs over a socket or inside a WebSocket, and under a fuzzer.
 *
 *   control frame  1|version 15|type 16|flags 8|length 24, then the payload
 *   data frame     0|stream id 31|flags 8|length 24, then the bytes
 *
 * Header blocks are zlib streams with SPDY's dictionary, one for each direction and connection. Flow control: the
 * peer's WINDOW_UPDATE and SETTINGS are read and ignored, none are sent; spdystream works the same way, and
 * back-pressure is that of the connection. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/err.h"
#include "pkg/http/server.h"

enum spdy_status { /* of RST_STREAM */
                   SPDY_PROTOCOL_ERROR = 1,
                   SPDY_INVALID_STREAM = 2,
                   SPDY_REFUSED_STREAM = 3,
                   SPDY_UNSUPPORTED_VERSION = 4,
                   SPDY_CANCEL = 5,
                   SPDY_INTERNAL_ERROR = 6,
};

enum {
    SPDY_FRAME_MAX = 1024 * 1024, /* payload of one control frame */
    SPDY_HEADERS_MAX = 64 * 1024, /* of one decompressed header block */
    SPDY_HEADER_COUNT_MAX = 64,
    SPDY_STREAMS_MAX = 1024, /* open at once */
};

struct spdy;

/* What the session tells its user. Non-zero from a callback ends spdy_feed with that value. `on_data` may see a frame
 * in several pieces; fin is set with the last. */
struct spdy_callbacks {
    int (*on_stream)(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg);
    int (*on_reply)(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin, void *arg);
    int (*on_data)(struct spdy *s, uint32_t id, const void *p, size_t n, bool fin, void *arg);
    int (*on_reset)(struct spdy *s, uint32_t id, uint32_t status, void *arg);
    int (*on_goaway)(struct spdy *s, uint32_t status, void *arg);
    void *arg;
};

struct spdy *spdy_new(bool server, const struct spdy_callbacks *cb);
struct spdy *spdy_free(struct spdy *s);
/* Reads bytes from the peer. Pings are answered. -EPROTO on what is not SPDY/3.1 or breaks a limit. */
int spdy_feed(struct spdy *s, const void *p, size_t n, struct err *e);
/* Bytes to send to the peer: take from the front with buf_consume. */
struct buf *spdy_out(struct spdy *s);

/* Opens a stream; returns its id. */
uint32_t spdy_open(struct spdy *s, const struct http_header *h, size_t n, bool fin);
void spdy_reply(struct spdy *s, uint32_t id, const struct http_header *h, size_t n, bool fin);
void spdy_data(struct spdy *s, uint32_t id, const void *p, size_t n, bool fin);
void spdy_reset(struct spdy *s, uint32_t id, enum spdy_status status);
void spdy_goaway(struct spdy *s, uint32_t status);
