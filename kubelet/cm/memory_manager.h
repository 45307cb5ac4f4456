/* From which NUMA nodes containers get their memory. With the policy Static the memory and huge pages of every container of
 * a Guaranteed pod are promised to it from one node or a group of nodes (its cpuset.mems); the group is then used for
 * nothing but allocations of the same group. What is promised is written to <root>/memory_manager_state.
 *
 * Nothing here locks: cm.c does. Upstream: pkg/kubelet/cm/memorymanager. */
#pragma once

#include "kubelet/cm/hints.h"
#include "kubelet/podutil.h"

/* An amount of a kind of memory ("memory", "hugepages-2Mi") on a node. */
struct memory_reservation {
    int node;
    const char *type;
    int64_t amount;
};

struct memory_config {
    bool pinned; /* the policy Static */
    /* By node: reservedMemory. Their sums have to be those of `reserved`, which is by kind (node does not matter). */
    const struct memory_reservation *by_node, *reserved;
    size_t n_by_node, n_reserved;
    const char *file; /* NULL: nothing is written down */
};

struct memory_block {
    uint64_t nodes;
    const char *type; /* the manager's */
    int64_t size;
};

struct memory_manager;
/* As cpu_manager_new. */
int memory_manager_new(const struct machine *m, const struct memory_config *c, struct memory_manager **out,
                       struct err *e);
struct memory_manager *memory_manager_free(struct memory_manager *m);
bool memory_manager_pins(const struct memory_manager *m, const struct core_pod *p);
/* c NULL: the pod's containers at once. */
void memory_manager_hints(struct memory_manager *m, struct arena *a, const struct core_pod *p,
                          const struct core_container *c, struct hint_set *out);
/* Promises what the container asks for, unless it has it already, from the nodes (bits) or from more when these are too
 * few; nodes 0: from the fewest that can; `preferred`: and from no others. */
int memory_manager_allocate(struct memory_manager *m, const struct core_pod *p, const struct core_container *c,
                            struct numa_hint hint, struct err *e);
/* Takes back what was promised to the pod. True when something was. */
bool memory_manager_release(struct memory_manager *m, const char *uid);
struct str_vec memory_manager_pods(const struct memory_manager *m, struct arena *a);
/* What was promised to a container; in `a`. */
struct memory_block *memory_manager_blocks(const struct memory_manager *m, struct arena *a, const char *uid,
                                           const char *container, size_t *n);
/* Its nodes; 0: any. */
uint64_t memory_manager_nodes(const struct memory_manager *m, const char *uid, const char *container);
/* What could be promised, by node and kind; in `a`. */
struct memory_block *memory_manager_allocatable(const struct memory_manager *m, struct arena *a, size_t *n);
