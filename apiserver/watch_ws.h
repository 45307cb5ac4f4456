/* The beginning of a watch over a WebSocket: what browsers use. Upstream: WatchServer.HandleWS. */
#pragma once

#include "apiserver/request.h"
#include "pkg/stream/ws.h"

bool watch_ws_wanted(const struct request *q);
/* Before anything is answered: 0, or 400 for a handshake that is none. */
int watch_ws_check(const struct request *q, struct err *e);
typedef void watch_ws_input_fn(struct http_req *r, const char *p, size_t n, void *arg);
/* Answers 101; what the client sends goes to `input`. The framing is the caller's to free. On the loop. */
struct ws *watch_ws_begin(struct request *q, watch_ws_input_fn *input, void *arg);
