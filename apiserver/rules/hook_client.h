/* Calling webhooks: where a clientConfig points to, and one POST of JSON there. Shared by admission webhooks, conversion
 * webhooks and whoever else is configured by a caBundle and a url or service. */
#pragma once

#include "apiserver/rules/strategy.h"

struct hook_pool;

/* The connections that are kept, one client for each certificate authority and server name; at most HOOK_CLIENTS_MAX, the
 * least recently used goes. Thread-safe. */
enum { HOOK_CLIENTS_MAX = 64, HOOK_ANSWER_MAX = 64 << 20 };
struct hook_pool *hook_pool_new(void);
void hook_pool_free(struct hook_pool *p); /* NULL-safe */

struct hook_request {
    const struct json *client_config; /* {url or service, caBundle} */
    const struct json *body;
    int64_t seconds;  /* time-out, also told to the webhook as ?timeout=; 0: 30 s, not told */
    size_t max_bytes; /* of the answer; 0: HOOK_ANSWER_MAX */
};
/* Posts and parses the answer into `a`. Blocks for at most the time-out. A Service's address is taken from its
 * Endpoints, so that the server needs no route to cluster IPs; without any, its cluster IP is used. Errors carry the
 * words of upstream's client: Post "https://...": connection refused. */
int hook_call(struct rules *r, struct arena *a, const struct hook_request *q, struct json **answer, struct err *e);
