/* What the kernel remembers of UDP flows to services. A flow goes where its first packet went for as long as packets
 * keep coming, whatever the table says by then: a client that sends on and on would never leave an endpoint that is gone,
 * or find one that came after its first packet. So flows that the table would not make like that any more are forgotten;
 * their next packet is decided anew. TCP needs none of it: connections end with their endpoints. Upstream: kube-proxy's
 * conntrack reconciler. */
#pragma once

#include <stdint.h>

#include "pkg/base/err.h"
#include "pkg/base/map.h"

/* Where services are reached by UDP, and where that leads: "10.96.0.10:53" (or ":30053" for a node port) -> set of
 * "10.244.0.7:53"; an empty set: no endpoints. */
struct conntrack_fronts {
    struct map by_address; /* values are struct map * */
};
void conntrack_fronts_add(struct conntrack_fronts *f, const char *front, const char *back); /* back NULL: none */
void conntrack_fronts_done(struct conntrack_fronts *f);

struct conntrack_flow { /* addresses in network order, ports in the host's */
    uint32_t dst, reply_src;
    uint16_t dst_port, reply_src_port;
};
/* Whether the flow is to a service and not as the service would have it now. `local`: the destination is an address of
 * this machine. */
bool conntrack_stale(const struct conntrack_fronts *f, const struct conntrack_flow *flow, bool local);

/* Forgets what is stale. The number of flows, or a negative errno. Blocks for a dump of the kernel's table. */
int conntrack_sweep(const struct conntrack_fronts *f, struct err *e);
