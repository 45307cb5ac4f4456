/* From the loop thread to the thread that works on a request: authentication, priority and fairness, threads.
 */
#pragma once

#include "apiserver/request.h"

int admission_open(struct apiserver *s, struct err *e);
/* Ends waiting for seats after too long a time, by a timer on the loop. On the loop thread, as is
 * admission_stop. */
void admission_start(struct apiserver *s, uv_loop_t *loop);
void admission_stop(struct apiserver *s);
/* Waits for the workers to end; no requests may come any more. NULL-safe parts. */
void admission_drain(struct apiserver *s);
void admission_close(struct apiserver *s);

struct flow *admission_flow(struct apiserver *s);

/* ---- server.c ---- */

/* Works on an authenticated request and answers it. May block unless the request is cheap. */
void server_process(struct request *q);
/* Answers with an error, whatever kind of request it is. */
void request_fail(struct request *q, struct err *e);
/* log, exec, attach, portforward, proxy: lasts as long as its client likes. */
bool request_is_long(const struct request *q);
