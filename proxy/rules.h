/* From a Service and its EndpointSlices to the elements of the nftables sets and maps that make it work: pure data, no
 * system calls. What the table looks like stands in table.c. */
#pragma once

#include "pkg/api/core.h"
#include "pkg/api/discovery.h"
#include "pkg/base/map.h"

/* The sets and maps of the table that have elements of services. */
enum rules_set {
    SET_VIP_16,  /* map ip . proto . port . slot : ip . port; 16 slots, for 1, 2, 4, 8 and 16 endpoints */
    SET_VIP_60,  /* the same with 60 slots: spreads evenly over most numbers up to 30 */
    SET_VIP_960, /* 960 slots, beyond */
    SET_NODE_16,
    SET_NODE_60,
    SET_NODE_960,    /* map proto . port . slot : ip . port, node ports */
    SET_STICKY,      /* map ip . proto . port : number of its timeout; sessionAffinity ClientIP */
    SET_STICKY_NODE, /* map proto . port : the same */
    SET_MASQ_NODE,   /* proto . port: node ports whose clients are masqueraded (externalTrafficPolicy Cluster) */
    SET_DEAD,        /* ip . proto . port without endpoints: refused */
    SET_DEAD_NODE,   /* proto . port */
    SET_HAIRPIN,     /* ip . ip: an endpoint that reaches itself through its service */
    RULES_SETS
};
extern const char *const rules_set_names[RULES_SETS];

/* How long a client keeps its endpoint after its last connection, in seconds: each has chains of its own in the table, so
 * a service's timeout is rounded up to one of these. The last is the longest that is valid. */
enum { RULES_TIMEOUTS = 20 };
extern const int32_t rules_timeouts[RULES_TIMEOUTS];

/* Elements wanted by one service: element text -> data text ("" for sets), by set. */
struct rules {
    struct map sets[RULES_SETS]; /* values are heap strings */
};
void rules_done(struct rules *r);

/* Where a rule stands: the name of this node and its zone (NULL: none), for traffic that is to stay near. */
struct rules_place {
    const char *node, *zone;
};

/* Fills `out` (zeroed) for a service. IPv6
 * addresses and SCTP are left out: the table is IPv4, TCP and UDP (and SCTP where the kernel's dnat takes it). */
void rules_of_service(struct rules *out, const struct core_service *s,
                      const struct discovery_endpoint_slice *const *slices, size_t n_slices,
                      const struct rules_place *here);
/* The different endpoints on this node that are ready: what a health check node port tells. */
int rules_local_ready(const struct discovery_endpoint_slice *const *slices, size_t n_slices, const char *node);
