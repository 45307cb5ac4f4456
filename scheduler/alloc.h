/* The allocator of devices: which devices of a node satisfy all claims of a pod?
 *
 * An exhaustive search that ends with the first solution: claim by claim, request by request, device by device, each in
 * the order of pools, slices and devices, with one step back whenever a choice leads nowhere. Alternatives of a request
 * (firstAvailable) are tried in their order. What is chosen so far is the results of the claims; whatever a candidate is
 * held against (in use, constraints, counters, capacity) is worked out from these and the picture of dra.h.
 *
 *   alloc.c            requests, and the search
 *   alloc_pools.c      the pools that a node can use; counters that devices share
 *   alloc_capacity.c   parts of devices
 *   alloc_result.c     from choices to ResourceClaim.status.allocation
 *
 * Upstream: k8s.io/dynamic-resource-allocation/structured (the incubating allocator, which v1.36 uses by default). */
#pragma once

#include "dra.h"
#include "pkg/api/core.h"
#include "pkg/client/claims.h"

enum { ALLOC_WAITS = -EAGAIN /* not on this node now, with a message of its own */ };

/* A request, or one of its alternatives. */
struct alloc_want {
    const char *name;       /* "req", or "req/sub" */
    const char *base, *sub; /* sub NULL: no alternative */
    const struct resource_device_class *class;
    const struct resource_device_selector_vec *selectors;
    const struct resource_device_toleration_vec *tolerations;
    const struct str_map *capacity; /* requested; may be empty */
    int64_t count;
    bool all, admin;
    uint8_t *match; /* by device slot: 0 unknown, 1 no, 2 yes */
    /* on the node at hand */
    size_t n_devices;
    struct dra_device **every; /* of "all" */
};
struct alloc_request {
    const struct resource_device_request *r;
    struct alloc_want *wants;
    size_t n, chosen;
};
struct alloc_choice {
    struct dra_device *dev;
    const struct alloc_want *want;
    bool share;
    struct dra_sum *sums; /* of a share */
    size_t n_sums;
};
struct alloc_claim {
    const struct resource_resource_claim *c;
    struct alloc_request *requests;
    size_t n;
    struct alloc_choice choices[ALLOCATION_RESULTS_MAX];
    size_t n_choices;
};

struct alloc_counter {
    const char *set, *name;
    struct quantity left;
};
struct alloc_pool {
    const char *key; /* "driver/pool" */
    int64_t generation;
    bool incomplete, invalid, conditional; /* conditional: some device has binding conditions */
    struct dra_slice **items;              /* that the node can use, by name */
    size_t n, cap, n_seen;                 /* seen: with those of counters */
    struct dra_slice **counter_slices;
    size_t n_counter_slices, cap_counter_slices;
    bool counted;
    struct alloc_counter *counters;
    size_t n_counters, cap_counters;
};

struct alloc {
    struct arena *a;
    struct dra *d;
    struct alloc_claim *claims;
    size_t n;
    int64_t deadline; /* mono; 0: none */
    unsigned ticks;
    /* on the node at hand */
    const struct core_node *node;
    struct alloc_pool **pools;
    size_t n_pools;
    struct err *e;
};

/* The class of a name, valid as long as the allocation lasts; NULL when there is none. */
typedef const struct resource_device_class *alloc_class_fn(void *arg, const char *name);

/* Prepares the claims; everything lives in `a` and refers to them. -EINVAL for what no node can satisfy. */
int alloc_new(struct arena *a, struct dra *d, const struct resource_resource_claim *const *claims, size_t n,
              alloc_class_fn *class_of, void *arg, struct alloc **out, struct err *e);
/* Tries the node. 1: *out has a result a claim, in the arena. 0: the node has not what it takes. ALLOC_WAITS: the same,
 * with a reason in `e`. -ETIMEDOUT: the search took too long. -EINVAL: something is wrong with claim or class. */
int alloc_on_node(struct alloc *x, const struct core_node *node, int64_t timeout_ns,
                  struct resource_allocation_result **out, struct err *e);

/* ---- between the files ---- */
int alloc_pools_gather(struct alloc *x, struct err *e);
bool alloc_node_matches(const struct core_node *n, const char *name, bool all, const struct core_node_selector *s);
/* Whether the pool's counters suffice with this device beside what is chosen. */
bool alloc_counters_suffice(struct alloc *x, struct alloc_pool *p, const struct dra_device *dev);
/* Whether the capacity that is asked for is there. */
bool alloc_capacity_suffices(const struct alloc *x, const struct alloc_want *w, const struct dra_device *dev);
/* What a share of the device consumes. */
void alloc_capacity_take(struct alloc *x, const struct alloc_want *w, struct alloc_choice *c);
static inline bool alloc_shareable(const struct resource_device *d) {
    return d->allow_multiple_allocations && *d->allow_multiple_allocations;
}
/* FOREACH_CHOICE(x, ci, k): every choice of every claim. */
#define FOREACH_CHOICE(x, k)                                         \
    for (size_t _c = 0; _c < (x)->n; _c++)                           \
        for (const struct alloc_choice *k = (x)->claims[_c].choices; \
             k < (x)->claims[_c].choices + (x)->claims[_c].n_choices; k++)
void alloc_result(struct alloc *x, struct alloc_claim *c, struct resource_allocation_result *out);
