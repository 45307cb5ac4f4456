/* A WebSocket on which only the server talks: what a browser uses to follow a log. The client's frames are read for
 * pings and for its goodbye, their contents are ignored. Corresponds to the Reader of k8s.io/streaming's wsstream. */
#pragma once

#include "pkg/http/client.h"

struct wsout;

/* Negotiates and upgrades: "binary.k8s.io" or no protocol gives binary messages, "base64.binary.k8s.io" text ones. On
 * failure the request has been answered (400, 403 or 500) and the error says why. On success the request is finished;
 * `gone` (may be NULL; must outlive the session) is set when the client leaves. */
int wsout_upgrade(struct http_req *r, struct http_cancel *gone, struct wsout **out, struct err *e);
/* Sends bytes as one message. Blocks while the client is slow, up to WSOUT_SEND_S. 0, or -EPIPE when it is gone. */
int wsout_write(struct wsout *w, const void *p, size_t n);
/* Sends a close frame, waits a moment for the client's, frees. NULL-safe. */
void wsout_finish(struct wsout *w);

enum { WSOUT_SEND_S = 60, WSOUT_MESSAGE = 32 * 1024 };
