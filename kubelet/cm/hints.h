/* The topology manager's arithmetic: who has something to allocate says between which NUMA nodes it could (hints), and one
 * set of nodes is found that suits them all best.
 *
 * A hint is preferred when no smaller set of nodes could ever do. Of merged hints a preferred one wins, then the narrower
 * (or closer) one; of those that nobody prefers, the one whose size is nearest to what the most demanding needs.
 *
 * Upstream: pkg/kubelet/cm/topologymanager (policy.go, numa_info.go). */
#pragma once

#include "kubelet/cm/machine.h"

struct arena;

struct numa_hint {
    uint64_t nodes; /* 0: any */
    bool preferred;
};
/* What one resource's provider says. */
struct hint_list {
    bool any; /* it does not care */
    struct numa_hint *items;
    size_t n, cap; /* none: it cannot be satisfied at all */
};
/* Of all resources. */
struct hint_set {
    struct hint_list *items;
    size_t n, cap;
};
struct hint_list *hint_set_add(struct arena *a, struct hint_set *s);
void hint_add(struct arena *a, struct hint_list *l, uint64_t nodes);
/* Marks the hints of that many nodes as preferred. */
void hint_prefer(struct hint_list *l, size_t nodes);

/* Every set of some of the nodes, but the empty one. */
#define NODE_SETS(set, all) for (uint64_t set = (all) & (0 - (all)); set; set = (set - (all)) & (all))
static inline size_t node_count(uint64_t nodes) { return (size_t)__builtin_popcountll(nodes); }
/* The narrower set; of two of the same size the one with the lower nodes. */
bool nodes_narrower(uint64_t a, uint64_t b);

enum topology_policy { TOPOLOGY_NONE, TOPOLOGY_BEST_EFFORT, TOPOLOGY_RESTRICTED, TOPOLOGY_SINGLE_NODE };
/* Merges; `closest`: of sets of the same size the one with the shorter distances wins. Returns whether the policy lets the
 * pod in. */
bool hints_merge(const struct machine *m, enum topology_policy policy, bool closest, const struct hint_set *s,
                 struct numa_hint *out);
