/* The resource managers together (upstream's container manager): before anything of a pod is started, its containers are
 * given devices, CPUs and memory, near to each other as the topology policy demands; and whoever shares CPUs is moved off
 * those that are given away.
 *
 * That is the second half of a pod's admission. It is done in the pod's own thread, for device plugins may take their time;
 * one pod after the other. A pod that cannot have what it must ends as Failed (TopologyAffinityError, SMTAlignmentError,
 * UnexpectedAdmissionError). What was given is written down, survives the kubelet, and is taken back when the pod has ended.
 *
 * Upstream: pkg/kubelet/cm (container_manager_linux.go, topologymanager, internal_container_lifecycle_linux.go). */
#pragma once

#include "kubelet/cm/cpu_manager.h"
#include "kubelet/cm/memory_manager.h"
#include "kubelet/kubelet.h"

struct cm;
/* Manages nothing but devices yet. */
struct cm *cm_new(struct kubelet *kl);
/* Looks at the machine, the settings and the state files. An error when they do not fit: the kubelet must not start. */
int cm_open(struct cm *c, struct err *e);
/* Moves containers in a thread of its own, if the policy is one that does. */
void cm_start(struct cm *c);
void cm_free(struct cm *c);

/* Gives the pod's containers what they need; what they have already stays. -EAGAIN: not now (a device plugin is not there
 * yet). Any other error is final, with reason and message in `a`. Blocks. */
int cm_admit(struct cm *c, struct arena *a, const struct core_pod *p, const char **reason, const char **message);
/* The pod has ended. */
void cm_release(struct cm *c, const char *uid);
/* Takes back what pods have that this kubelet does not know (any more). */
void cm_collect(struct cm *c);
/* Why a pod's resources cannot be changed in place; NULL: they can. */
const char *cm_resize_obstacle(struct cm *c, const struct core_pod *now, const struct core_pod *wanted);

/* cpuset and quota for a container that is to be made. */
void cm_container(struct cm *c, struct arena *a, const struct core_pod *p, const struct core_container *of,
                  struct cri_linux_container_resources *r);
/* It was started with that cpuset. */
void cm_started(struct cm *c, const struct core_pod *p, const char *container, const char *id, const char *cpus);
/* Whether a container (NULL: any of the pod's) has CPUs of its own. No CFS quota is set then. NULL-safe. */
bool cm_exclusive(struct cm *c, const char *uid, const char *container);

/* For the PodResources API. */
struct cpuset cm_own_cpus(struct cm *c, const char *uid, const char *container);
struct cpuset cm_allocatable_cpus(struct cm *c);
struct memory_block *cm_memory(struct cm *c, struct arena *a, const char *uid, const char *container, size_t *n);
struct memory_block *cm_allocatable_memory(struct cm *c, struct arena *a, size_t *n);
/* kubelet_cpu_manager_*, kubelet_memory_manager_*, kubelet_topology_manager_*, ... NULL-safe. */
void cm_metrics(struct cm *c, struct buf *b);
