/* Facts about a pod that follow from its spec alone: containers in order, QoS class, resource sums, restart
 * rules, hashes. Pure functions over the typed structs.
 *
 * Upstream: pkg/api/v1/pod, pkg/apis/core/v1/helper/qos, pkg/kubelet/container/helpers.go, pkg/kubelet/cm. */
#pragma once

#include "kubelet/runtime.h"
#include "pkg/api/core.h"
#include "pkg/api/quantity.h"

#define ANNOT_CONFIG_MIRROR "kubernetes.io/config.mirror"
#define ANNOT_CONFIG_HASH "kubernetes.io/config.hash"
#define ANNOT_CONFIG_SOURCE "kubernetes.io/config.source"
#define ANNOT_CONFIG_SEEN "kubernetes.io/config.seen"

enum container_kind { CONTAINER_MAIN, CONTAINER_INIT, CONTAINER_EPHEMERAL };

/* An ephemeral container as a plain one (they share their fields); lives in `a`. */
struct core_container *container_of_ephemeral(struct arena *a, const struct core_ephemeral_container *ec);
/* A native sidecar: an init container with restartPolicy Always. */
static inline bool container_is_sidecar(const struct core_container *init) {
    return str_eq(init->restart_policy, "Always");
}
const struct core_container *pod_container(const struct core_pod *p, const char *name, enum container_kind *kind);
bool pod_has_regular_init(const struct core_pod *p);
static inline bool pod_deleting(const struct core_pod *p) { return p->metadata.deletion_timestamp.set; }
static inline const char *pod_annotation(const struct core_pod *p, const char *key) {
    return str_map_get(&p->metadata.annotations, key);
}
/* The API's copy of a static pod. */
static inline bool pod_is_mirror(const struct core_pod *p) { return pod_annotation(p, ANNOT_CONFIG_MIRROR) != NULL; }
/* Read from a file of this node. */
static inline bool pod_is_static(const struct core_pod *p) {
    const char *src = pod_annotation(p, ANNOT_CONFIG_SOURCE);
    return src && !str_eq(src, "api");
}
bool phase_terminal(const char *phase); /* Succeeded or Failed */
/* Pods that must run whatever the pressure: static, or of system priority. */
bool pod_is_critical(const struct core_pod *p);

/* "Guaranteed", "Burstable", "BestEffort" */
const char *pod_qos_class(const struct core_pod *p);
/* The amount a container asks for, or its limit: nano units; 0 when not given. */
struct quantity container_resource(const struct core_container *c, const char *resource, bool limit, bool *given);
/* The limit that a container runs under: its own, or else the pod's. 0: none. */
struct quantity container_limit(const struct core_pod *p, const struct core_container *c, const char *resource);
/* In bytes, as text. */
char *container_memory_request(struct arena *a, const struct core_container *c);
/* CPU shares of a container: from its request, or else from the limit it runs under. */
int64_t container_shares(const struct core_pod *p, const struct core_container *c);
/* What the whole pod needs at once (init containers run one after the other, sidecars stay; overhead added).
 * For limits, *all_given tells whether every container has one, so that the sum is a limit. */
struct quantity pod_resource(const struct core_pod *p, const char *resource, bool limit, bool *all_given);

/* CPU shares (cgroup v1 scale); CFS quota for a period in microseconds (0: none; of period 0, quotas are off: none). */
enum { CFS_PERIOD_US = 100000 };
int64_t milli_to_shares(int64_t milli);
int64_t milli_to_quota(int64_t milli, int64_t period_us);
/* oom_score_adj of a container. */
int oom_score_adj(const struct core_pod *p, const struct core_container *c, int64_t node_memory);

/* Which of the spec's resources the running container does not have yet (a resize). */
enum { RESIZE_CPU = 1, RESIZE_MEMORY = 2 };
bool containers_resize_due(const struct core_pod *p, const struct rt_pod *rt); /* of any that runs */
unsigned container_resize_due(const struct core_pod *p, const struct core_container *c, const struct rt_container *rc);

/* Identity of a container's spec; a change restarts the container (upstream hashes name and image). */
char *container_hash(struct arena *a, const struct core_container *c);
enum restart_action { RESTART_NONE, RESTART_CONTAINER, RESTART_ALL /* of the pod, from the start */ };
/* What follows when the container ends with the code: by its rules, its own policy, the pod's. */
enum restart_action container_restart_action(const struct core_pod *p, const struct core_container *c, int32_t code);
/* A rule of one of its containers restarts all of them. */
bool pod_may_restart_all(const struct core_pod *p);
/* Whether an absent or finished container is to be started (again). */
bool container_should_restart(const struct core_pod *p, const struct core_container *c,
                              const struct rt_container *last);
/* Whether a container of this pod can ever be started again after a failure of `c`. */
const char *container_restart_policy(const struct core_pod *p, const struct core_container *c);
/* "name_namespace(uid)", as upstream prints a pod in messages. */
char *pod_desc(struct arena *a, const struct core_pod *p);
