/* Which CPUs to give when so many are wanted exclusively: the choice as a pure function of the machine and of what is free.
 *
 * Packed: whole NUMA nodes or sockets first (whichever is larger on this machine comes first), then whole last-level caches
 * if that is asked for, then whole cores, then single threads; of equals the one with the fewest free CPUs, then the lowest
 * id. So what is left over stays as whole as it can. Spread: no whole cores, the CPUs of a socket in their order, which are
 * on different cores as the kernel numbers them. Distributed: evenly over the smallest number of NUMA nodes that can, so that
 * what is left on the nodes differs as little as possible.
 *
 * Upstream: cm/cpumanager/cpu_assignment.go. */
#pragma once

#include "kubelet/cm/machine.h"

struct cpu_options {
    bool full_cores;         /* full-pcpus-only */
    bool distribute_nodes;   /* distribute-cpus-across-numa */
    bool align_by_socket;    /* align-by-socket */
    bool distribute_cores;   /* distribute-cpus-across-cores */
    bool strict_reservation; /* strict-cpu-reservation */
    bool by_uncore;          /* prefer-align-cpus-by-uncorecache */
};

/* `n` CPUs of `free`. -EBUSY when there are not so many. */
int cpu_take(const struct machine *m, const struct cpu_options *o, const struct cpuset *free, size_t n,
             struct cpuset *out, struct err *e);
/* Whether all of them share a last-level cache that is smaller than a NUMA node (or a socket). */
bool cpu_aligned_by_uncore(const struct machine *m, const struct cpuset *cpus);
