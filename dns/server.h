/* The server: UDP and TCP listeners, answers from the zone, everything else forwarded to upstream servers. One libuv
 * loop; a query in flight upstream is a `struct forward` with a socket (and so a source port) of its own. */
#pragma once

#include <uv.h>

#include "dns/zone.h"

enum {
    DNS_FORWARDS_MAX = 1024, /* queries in flight upstream; more get SERVFAIL */
    DNS_TCP_CONNECTIONS_MAX = 256,
    DNS_TCP_IDLE_MS = 10000,
    DNS_UPSTREAM_TIMEOUT_MS = 2000, /* then the next upstream is asked; each is asked twice */
    DNS_UPSTREAMS_MAX = 4,
};

struct dns_server;

struct dns_server_options {
    struct zone *zone;
    const char *const *listen; /* "10.96.0.10:53", "[::1]:53" */
    size_t n_listen;
    const char *const *upstreams; /* addresses with an optional port */
    size_t n_upstreams;
};
int dns_server_new(uv_loop_t *loop, const struct dns_server_options *o, struct dns_server **out, struct err *e);
/* Closes the listeners and connections; run the loop once more to finish. */
void dns_server_close(struct dns_server *s);
/* After the loop has ended. */
void dns_server_free(struct dns_server *s);
