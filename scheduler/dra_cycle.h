/* What a pod's cycle works out about the devices it claims: between dra_cycle.c, dra_extended.c and dra_bind.c. */
#pragma once

#include "alloc.h"
#include "scheduler.h"

struct dra_pod_claim {
    const char *key;                         /* "ns/name" */
    struct dra_claim *known;                 /* valid under the lock */
    const struct resource_resource_claim *c; /* its newest version */
    bool allocate, unavailable;              /* unavailable: not usable on some node as it is allocated */
};

/* The claims to allocate with those extended resources (by slot) that a kind of node does not have itself. */
struct dra_variant {
    uint32_t mask;
    struct alloc *alloc;                     /* NULL: nothing is to be allocated */
    struct resource_resource_claim *special; /* the claim for extended resources; NULL: mask is 0 */
    struct core_container_extended_resource_request_vec mappings;
};

struct dra_node_result {
    const struct dra_variant *variant;
    struct resource_allocation_result *results; /* in the order of claims to allocate; the special one is last */
};

struct dra_cycle {
    struct dra_pod_claim *claims;
    size_t n, n_allocate;
    const struct dra_claim *stale; /* a claim for extended resources that an earlier attempt left */
    struct dra_variant *variants;
    size_t n_variants, cap_variants;
    struct dra_node_result *by_node; /* by sched_node.index */
};

/* dra_extended.c */
/* Finds the pod's extended resources that classes stand behind (c->dra_ext), and a claim of an earlier attempt. */
void dra_extended_prepare(struct cycle *c, const struct dra_claim **stale);
/* The claim, in memory, that asks for the resources of the mask; with what it means for containers. */
struct resource_resource_claim *dra_extended_claim(struct cycle *c, uint32_t mask,
                                                   struct core_container_extended_resource_request_vec *mappings);
/* Under this key an allocation for extended resources counts until its claim exists. */
const char *dra_extended_key(struct arena *a, const struct core_pod *p);

/* dra_cycle.c */
#define DRA_BINDING_TIMEOUT_NS (600 * NS_PER_SEC)
/* Whether the drivers say that the claim's devices can be used on the node: some are only attached to it once the pod has
 * been given its place. */
enum dra_binding { BINDING_READY, BINDING_WAITS, BINDING_FAILED };
enum dra_binding dra_binding_of(const struct resource_resource_claim *k, struct err *e);
bool dra_binding_overdue(const struct resource_resource_claim *k);

/* dra_bind.c */
/* Clears a claim's allocation, or deletes it (a special one), in the background. */
void dra_release(struct cycle *c, const struct dra_claim *claim, bool delete);
