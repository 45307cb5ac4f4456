/* Which CPUs containers run on. With the policy static a container of a Guaranteed pod that asks for whole CPUs gets so many
 * for itself; all others share the rest, the reserved ones among them (unless the reservation is strict). What is given away
 * is written to <root>/cpu_manager_state. With the policy none nobody is bound to any.
 *
 * An init container's CPUs are used again by the containers that come after it. Nothing here locks: cm.c does.
 *
 * Upstream: pkg/kubelet/cm/cpumanager. */
#pragma once

#include "kubelet/cm/cpu_assign.h"
#include "kubelet/cm/hints.h"
#include "kubelet/podutil.h"

struct cpu_config {
    bool exclusive; /* the policy static */
    struct cpu_options options;
    struct cpuset reserved; /* these; empty: as many as reserved_milli makes */
    int64_t reserved_milli; /* of the node's CPU time for what is no pod */
    const char *file;       /* NULL: nothing is written down */
};

struct cpu_manager;
/* Reads the file. An error (which tells what the operator has to do) when the settings do not fit the machine or the file. */
int cpu_manager_new(const struct machine *m, const struct cpu_config *c, struct cpu_manager **out, struct err *e);
struct cpu_manager *cpu_manager_free(struct cpu_manager *c);

/* How many CPUs a container is to have for itself; 0: it shares. c NULL: the pod's containers at once. */
size_t cpu_manager_wanted(const struct cpu_manager *m, const struct core_pod *p, const struct core_container *c);
void cpu_manager_hints(const struct cpu_manager *m, struct arena *a, const struct core_pod *p,
                       const struct core_container *c, struct hint_set *out);
/* Gives them, unless the container has them already; near to the NUMA nodes (bits; 0: anywhere) as far as possible. The
 * error's reason is "SMTAlignmentError" when whole cores are asked for and that cannot be. */
int cpu_manager_allocate(struct cpu_manager *m, const struct core_pod *p, const struct core_container *c,
                         uint64_t nodes, struct err *e);
/* Takes back what the pod has. True when it had something. */
bool cpu_manager_release(struct cpu_manager *m, const char *uid);
/* Uids of pods that have something; in `a`. */
struct str_vec cpu_manager_pods(const struct cpu_manager *m, struct arena *a);

/* What a container runs on; empty: anywhere. container NULL: what those that share run on. */
struct cpuset cpu_manager_cpus(const struct cpu_manager *m, const char *uid, const char *container);
/* Its own; empty: it shares. container NULL: those of all the pod's containers. */
struct cpuset cpu_manager_own(const struct cpu_manager *m, const char *uid, const char *container);
/* CPUs that could be given away, and those that can be now. */
struct cpuset cpu_manager_allocatable(const struct cpu_manager *m);
struct cpuset cpu_manager_available(const struct cpu_manager *m);
/* All that are given away. */
struct cpuset cpu_manager_given(const struct cpu_manager *m);
