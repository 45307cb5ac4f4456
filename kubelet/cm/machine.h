/* What the machine is made of, as the kernel tells below /sys/devices/system: which CPUs are threads of one core, which
 * share a socket, a NUMA node, a last-level cache; and each NUMA node's memory, huge pages and distances.
 *
 * A machine without NUMA has one node, 0, with all CPUs and all memory. CPUs that are offline do not exist here. A core is
 * named after its lowest CPU, so that its id is unique on the machine. A last-level cache counts as "uncore" when it is
 * shared by more than a core and fewer than all CPUs of the NUMA node; without one, the socket stands for it.
 *
 * Upstream: cAdvisor's machine info, cm/cpumanager/topology. */
#pragma once

#include "kubelet/cm/cpuset.h"
#include "pkg/base/err.h"

enum { MACHINE_NODES = 64, MACHINE_HUGE_SIZES = 8 };

/* What a CPU belongs to. */
enum level { LEVEL_NUMA, LEVEL_SOCKET, LEVEL_UNCORE, LEVEL_CORE, LEVELS };

struct huge_pages {
    int64_t size, pages; /* bytes of one; how many */
};

struct numa_node {
    int id;
    int64_t memory; /* bytes */
    struct huge_pages huge[MACHINE_HUGE_SIZES];
    size_t n_huge;
    int distances[MACHINE_NODES]; /* to the nodes, in their order */
    size_t n_distances;
};

struct machine {
    struct cpuset cpus; /* online */
    int *ids[LEVELS];   /* [level][cpu] */
    size_t counts[LEVELS];
    struct numa_node nodes[MACHINE_NODES]; /* those without CPUs too; by id */
    size_t n_nodes;
};

/* `root`: "/sys/devices/system". `memory`: the machine's bytes, for when there is no NUMA. -EIO with what is missing. */
int machine_read(const char *root, int64_t memory, struct machine **out, struct err *e);
/* NULL-safe, returns NULL. */
struct machine *machine_free(struct machine *m);

/* The CPUs of `among` (NULL: all) that belong to the thing. */
struct cpuset machine_cpus(const struct machine *m, enum level l, int id, const struct cpuset *among);
/* The same for several NUMA nodes: bit i is node i. */
struct cpuset machine_cpus_of_nodes(const struct machine *m, uint64_t nodes, const struct cpuset *among);
/* Which things of the level the CPUs belong to. */
struct cpuset machine_ids(const struct machine *m, enum level l, const struct cpuset *cpus);
/* All NUMA nodes, and those that have CPUs, as bits. */
uint64_t machine_nodes(const struct machine *m);
uint64_t machine_nodes_with_cpus(const struct machine *m);
/* Threads of a core; 1 at least. */
size_t machine_threads(const struct machine *m);
