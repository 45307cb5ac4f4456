/* Control groups of pods: /kubepods/{burstable,besteffort}/pod<uid>, on cgroup v1, hybrid and v2 behind one
 * interface. The kubelet makes the levels above a container and sets the pod's limits; the runtime makes the
 * container's own.
 *
 * On v1 a cgroup is a directory in every controller's hierarchy; on v2 one directory whose parents enable the
 * controllers. Only directories made here are removed, and never a mount point.
 *
 * Upstream: pkg/kubelet/cm (cgroup_manager, pod_container_manager, qos_container_manager). */
#pragma once

#include "kubelet/podutil.h"

struct cgroups;

struct cgroup_limits {                                                   /* 0: leave alone */
    int64_t cpu_shares, cpu_quota, cpu_period, memory_limit, pids_limit; /* quota and period in microseconds */
};
struct cgroup_usage {
    bool found;
    uint64_t cpu_ns, memory_usage, memory_working_set, memory_rss, memory_limit, page_faults, major_faults, pids;
};

struct cgroups_config {
    const char *mount;     /* "/sys/fs/cgroup" */
    const char *root;      /* parent of kubepods: "/" */
    bool systemd;          /* the runtime names cgroups as systemd slices; they are then systemd's and the runtime's */
    int64_t pod_pids_max;  /* 0: no limit */
    int64_t cfs_period_us; /* 0: CPU limits are not enforced */
};
/* Finds what is mounted. Makes nothing. */
struct cgroups *cgroups_new(const struct cgroups_config *cfg);
void cgroups_free(struct cgroups *cg);
bool cgroups_v2(const struct cgroups *cg);

/* The levels kubepods, burstable and besteffort, with the node's allocatable as limits. -EROFS, -EACCES: not
 * ours to use here; pods then run without. */
int cgroups_setup(struct cgroups *cg, int64_t allocatable_milli_cpu, int64_t allocatable_memory, struct err *e);
/* In place of cgroups_setup: takes the levels as an earlier kubelet left them, to remove pods from them. */
void cgroups_adopt(struct cgroups *cg);
/* Removes those levels that are empty. */
void cgroups_teardown(struct cgroups *cg);
/* cgroup_parent of a pod as CRI wants it; "" when cgroups are not in use. */
char *cgroups_pod_parent(struct cgroups *cg, struct arena *a, const struct core_pod *p);
/* What a pod's cgroup is to be limited to; `cpu_quota`: by CPU too. */
void cgroups_pod_limits(const struct cgroups *cg, const struct core_pod *p, bool cpu_quota, struct cgroup_limits *out);
int cgroups_pod_create(struct cgroups *cg, const struct core_pod *p, bool cpu_quota, struct err *e);
/* Other limits for a cgroup that exists. Fails where the kernel refuses one: less memory than is in use, a smaller
 * share of the CPU than a container below has. */
int cgroups_pod_update(struct cgroups *cg, const struct core_pod *p, const struct cgroup_limits *l, struct err *e);
/* Kills what is left in it and removes it with everything below. */
int cgroups_pod_remove(struct cgroups *cg, const char *qos, const char *uid, struct err *e);
/* Shares of the burstable level follow the sum of its pods' requests. */
void cgroups_set_burstable(struct cgroups *cg, int64_t milli_requests);
/* What a cgroup below the root uses ("" is the root itself). */
void cgroups_usage(struct cgroups *cg, const char *path, struct cgroup_usage *out);
/* More of it, as cAdvisor tells: times in nanoseconds, sizes in bytes. */
struct cgroup_details {
    uint64_t cpu_user_ns, cpu_system_ns, cpu_periods, cpu_throttled_periods, cpu_throttled_ns;
    uint64_t memory_cache, memory_mapped, memory_max, memory_failures, memory_swap, oom_kills;
    uint64_t io_read_bytes, io_write_bytes;
};
void cgroups_details(struct cgroups *cg, const char *path, struct cgroup_details *out);
/* The cgroup of a container: the child of its pod's whose name has the container's id in it. NULL: there is none. */
char *cgroups_container(struct cgroups *cg, struct arena *a, const char *pod_path, const char *id);
/* A process in the cgroup; 0: there is none. */
pid_t cgroups_any_process(struct cgroups *cg, const char *path);
/* Below the root: "/kubepods/burstable/pod<uid>", or what systemd calls it. */
char *cgroups_pod_path(struct cgroups *cg, struct arena *a, const struct core_pod *p);
/* Pods that have a cgroup: calls fn with the QoS class and uid. */
void cgroups_each_pod(struct cgroups *cg, void (*fn)(void *arg, const char *qos, const char *uid), void *arg);
