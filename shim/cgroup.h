/* Control groups, v1 and v2 behind one interface. Paths are as CRI gives them ("/kubepods/burstable/podX"); on v1 the
 * same path exists below each controller. On a hybrid system (v1 controllers, and v2 without any) it is v1. */
#pragma once

#include <sys/types.h>

#include "pkg/base/err.h"

struct cgroup_stats {
    bool found;
    uint64_t cpu_ns;
    uint64_t memory_usage, memory_working_set, memory_rss, memory_limit; /* UINT64_MAX: none */
    uint64_t page_faults, major_page_faults;
    uint64_t swap_usage;
    uint64_t pids;
};

bool cgroup_is_v2(void);
/* v1 controllers with an (almost empty) v2 hierarchy beside them: crun refuses that, see crun.c. */
bool cgroup_is_hybrid(void);
void cgroup_read_stats(const char *path, struct cgroup_stats *out);
/* Sends a signal to every process in the group and below, until none is left or nothing changes any more. */
void cgroup_kill(const char *path, int sig);
/* Makes the group and moves a process into it. */
int cgroup_enter(const char *path, pid_t pid, struct err *e);
/* Removes the group and those below, in every hierarchy. Groups with processes stay: -EBUSY. */
int cgroup_remove(const char *path);
/* Removes the group (it may be gone already), then its parents, as far as they are empty. */
void cgroup_prune(const char *path);
/* True when the group counted an out-of-memory kill. */
bool cgroup_oom_killed(const char *path);
