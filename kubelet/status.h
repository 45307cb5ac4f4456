/* The status of a pod, computed from its spec, what the runtime has, and what the probes say. Pure: the same
 * input gives the same status, so that every rule is tested without a node.
 *
 * Upstream: kubelet_pods.go (generateAPIPodStatus, convertToAPIContainerStatuses, getPhase),
 * status/generate.go. */
#pragma once

#include "kubelet/podutil.h"

/* Why a container is not running, as the worker knows it and the runtime doesn't: CrashLoopBackOff,
 * ErrImagePull, CreateContainerConfigError ... */
struct status_note {
    const char *container, *reason, *message;
};

struct status_input {
    const char *resize_reason, *resize_message, *resize_error; /* of a pending or failed resize; NULL: none */
    bool pod_resizing;                                         /* the pod's own limits are not in force yet */
    const struct core_pod *pod;
    const struct rt_pod *rt;
    const struct core_pod_status *prev; /* the last status; NULL: pod->status */
    const struct status_note *notes;
    size_t n_notes;
    const char *const *host_ips;
    size_t n_host_ips;
    /* Probe verdicts; NULL functions: everything that runs is started and ready. `id` is the running
     * instance. */
    bool (*ready)(void *arg, const char *container, const char *id);
    bool (*started)(void *arg, const char *container, const char *id);
    void *probe_arg;
    /* Decided by the worker: an end that the containers do not show (Evicted, DeadlineExceeded, OutOfcpu). */
    const char *forced_phase, *forced_reason, *forced_message;
    bool restarting_all;   /* a container's rule asked for it: those that are gone wait for their new start */
    bool all_stopped;      /* nothing of the pod runs any more and nothing will: what was running is Unknown */
    const char *id_scheme; /* of container ids: the runtime's name; NULL: "coracle" */
    bool network_ready;    /* sandbox is up and has its address */
    struct ktime now;
};

/* Reason of a container that was removed because all of its pod's are started anew. */
#define STATUS_RESTARTING_ALL "RestartingAllContainers"

/* Everything lives in `a` or in the input. */
void status_compute(struct arena *a, const struct status_input *in, struct core_pod_status *out);

/* Parts, for tests and the worker. */
const char *status_phase(const struct core_pod *p, const struct core_pod_status *s, bool terminal);
struct core_pod_condition *status_condition(const struct core_pod_status *s, const char *type);
struct core_container_status *status_container(const struct core_pod_status *s, const char *name);
/* Sets a condition, keeping lastTransitionTime when the status did not change. */
void status_set_condition(struct arena *a, struct core_pod_status *s, const struct core_pod_status *prev,
                          const char *type, bool value, const char *reason, const char *message, int64_t generation,
                          struct ktime now);
/* Conditions that the kubelet writes; others belong to someone else. */
bool status_condition_owned(const char *type);
/* The CRI id of a containerStatus' containerID ("scheme://id"). */
const char *status_cri_id(const char *container_id);
