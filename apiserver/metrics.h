/* Counting requests, for /metrics. A request costs one look into a small table and a few atomic additions. */
#pragma once

#include "apiserver/request.h"

struct metrics;
struct metrics *metrics_new(void);
void metrics_free(struct metrics *m); /* NULL-safe */
/* A request has come; remembers in it what is counted when it is over. */
void metrics_begin(struct metrics *m, struct request *q);
/* It is over: http_server_options.over. */
void metrics_over(struct http_req *r, void *arg);
/* An event of a watch was sent. */
void metrics_watch_event(struct metrics *m, const struct resource *r);
/* A transaction with the store, begun at began_ns (mono). */
enum metrics_store_op { METRICS_CREATE, METRICS_UPDATE, METRICS_DELETE, METRICS_STORE_OPS };
void metrics_store(struct metrics *m, const struct resource *r, enum metrics_store_op op, int64_t began_ns,
                   bool failed);
/* All of it, with what other parts of the server say. */
void metrics_write(struct apiserver *s, struct buf *b);
