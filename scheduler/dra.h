/* Devices that pods claim (dynamic resource allocation): the scheduler's picture of them. Part of `struct sched`, under its
 * lock; a cluster without ResourceSlices and claims pays nothing for it.
 *
 *   slices   what drivers offer, by node and by pool; a device refers to its row of `uses`
 *   uses     what is allocated of each device, kept current as claims come and go
 *   claims   the newest known version of each (what the API server answered to a write counts before the informer shows
 *            it), and allocations that are decided here and not yet written: `pending`
 *
 * Upstream: pkg/scheduler/framework/plugins/dynamicresources (dra_manager.go, allocateddevices.go). */
#pragma once

#include "pkg/api/quantity.h"
#include "pkg/api/resource.h"
#include "pkg/base/map.h"
#include "pkg/client/informer.h"

struct dra_sum { /* of one capacity */
    const char *name;
    struct quantity sum;
};

/* What is allocated of a device. */
struct dra_use {
    char *id;               /* "driver/pool/device" */
    uint32_t refs;          /* by devices and allocations */
    uint32_t whole, shares; /* allocations of all of it, of parts of it */
    struct dra_sum *sums;   /* that the shares consume; names are owned */
    size_t n_sums, cap_sums;
};

struct dra_slice;
struct dra_device {
    const struct resource_device *d;
    struct dra_slice *slice;
    struct dra_use *use;
    uint32_t slot; /* a number below dra.n_slots that no other device has */
};

struct dra_slice {
    struct object *o; /* reference */
    const struct resource_resource_slice_spec *spec;
    const char *name;
    char *pool_key; /* "driver/pool" */
    struct dra_device *devices;
};

struct dra_slices {
    struct dra_slice **items; /* by name */
    size_t n, cap;
};

struct dra_claim {
    char *key;
    struct object *o;                                 /* NULL: only pending */
    struct arena *pending_arena;                      /* of `pending` */
    const struct resource_allocation_result *pending; /* decided, not written yet */
};

struct dra {
    struct map slices;           /* name -> struct dra_slice */
    struct map by_node, by_pool; /* -> struct dra_slices */
    struct dra_slices shared;    /* not of one node alone, or with counters that devices of several nodes consume */
    struct map uses;             /* id -> struct dra_use */
    struct map claims;           /* "ns/name" -> struct dra_claim */
    struct map classes;          /* name -> struct object */
    uint32_t *free_slots;
    size_t n_free, cap_free, n_slots;
    struct map selectors; /* expression -> struct dra_selector, in selector_arena */
    struct arena *selector_arena;
    struct cel_env *env;
};

void dra_init(struct dra *d);
void dra_done(struct dra *d);

/* ---- slices ---- */
void dra_slice_set(struct dra *d, struct object *o);
void dra_slice_gone(struct dra *d, const char *name);
/* Of a node or pool; never NULL. */
const struct dra_slices *dra_slices_of_node(const struct dra *d, const char *node);
const struct dra_slices *dra_slices_of_pool(const struct dra *d, const char *pool_key);

/* ---- classes ---- valid while the lock is held */
void dra_class_set(struct dra *d, struct object *o);
void dra_class_gone(struct dra *d, const char *name);
const struct resource_device_class *dra_class_get(const struct dra *d, const char *name);
/* The class behind an extended resource: one that names it (the newest, then the first by name), or the one whose name
 * follows CLASS_RESOURCE_PREFIX. NULL when there is none. */
const struct resource_device_class *dra_class_of_resource(const struct dra *d, const char *resource);

/* ---- claims ---- */
struct dra_claim *dra_claim_get(const struct dra *d, const char *ns, const char *name);
/* A version of the claim from the informer or from an answer; older ones than what is known are left alone. True when
 * devices became free, or when the claim was not known. */
bool dra_claim_set(struct dra *d, struct object *o);
/* True when devices became free. */
bool dra_claim_gone(struct dra *d, const char *key, const char *uid);
/* Counts a decision as allocated until it is written (dra_claim_set shows it) or dropped. Copied. */
void dra_claim_pend(struct dra *d, const char *key, const struct resource_allocation_result *r);
/* True when devices became free. */
bool dra_claim_unpend(struct dra *d, const char *key);
/* All or a part of the device is taken. */
static inline bool dra_use_any(const struct dra_use *u) { return u->whole || u->shares; }

/* ---- selectors ---- */
struct cel_prog;
/* The compiled expression, or NULL with the reason in *why; valid until dra_selectors_trim. */
const struct cel_prog *dra_selector(struct dra *d, const char *expression, const char **why);
/* Forgets all when they have become many; between cycles only. */
void dra_selectors_trim(struct dra *d);
/* Whether the device passes all of them. 1, 0, or -EINVAL: "selector #1: ..." */
int dra_selectors_match(struct dra *d, struct arena *a, const struct resource_device_selector_vec *v,
                        const char *driver, const struct resource_device *dev, struct err *e);
