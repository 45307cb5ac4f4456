/* How much swap a container may use. memorySwap.swapBehavior is NoSwap (the default) or LimitedSwap: containers of Burstable
 * pods then get as large a part of the machine's swap as their memory request is of its memory. Limits of swap need cgroup
 * v2; on v1 nothing is set.
 *
 * Upstream: kuberuntime_container_linux.go (configureContainerSwapResources). */
#pragma once

#include "kubelet/podutil.h"

struct swap {
    bool available;         /* there is swap, and cgroups can limit it */
    bool limited;           /* LimitedSwap */
    int64_t memory, amount; /* of the machine, bytes */
};
/* `mount`: "/sys/fs/cgroup"; `meminfo`: "/proc/meminfo". */
struct swap swap_of_machine(const char *mount, const char *meminfo, const char *behavior);
/* Whether a container may swap at all. */
bool swap_allowed(const struct swap *s, const struct core_pod *p, const struct core_container *c);
/* Bytes; -1: nothing is to be set. */
int64_t swap_limit(const struct swap *s, const struct core_pod *p, const struct core_container *c);
