/* What the proxy tells about itself and about services to those who ask by HTTP (upstream: pkg/proxy/healthcheck and
 * the ports of kube-proxy):
 *
 *   healthCheckNodePort of a service   200 while this node has endpoints of it that are ready, else 503; how many, as JSON
 *                                      and in X-Load-Balancing-Endpoint-Weight. Load balancers ask this.
 *   health address (0.0.0.0:10256)     /healthz and /livez: 200 once the services are in place
 *   metrics address (127.0.0.1:10249)  /healthz, /proxyMode, /metrics
 *
 * One thread waits on all sockets; a request is a line and some headers, and an answer ends its connection. */
#pragma once

#include "pkg/base/err.h"

struct health;

struct health_config {
    const char *health_address, *metrics_address; /* "ADDR:PORT"; "" or NULL: not served */
};

/* A port that somebody else has is done without, with a warning. */
int health_new(const struct health_config *c, struct health **out, struct err *e);
void health_free(struct health *h); /* NULL-safe */
/* The services are in place. */
void health_ready(struct health *h);
/* A service ("ns/name") with the port (0: none any more) has so many ready endpoints on this node. Thread-safe. */
void health_service(struct health *h, const char *service, int port, int local_endpoints);
