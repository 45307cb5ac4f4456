/* Liveness, readiness and startup probes: when each is due, what its results add up to.
 *
 * A probe's clock starts when its container runs (initialDelaySeconds) and ticks every periodSeconds.
 * successThreshold and failureThreshold consecutive equal results change the verdict. Until a startup probe
 * has succeeded, the other two wait. After a liveness or startup probe has failed it rests until the
 * container's next instance.
 *
 * Probes are carried out by a few threads that hand the clock on to each other (leader and followers): one
 * waits for the next due time, takes the probe, and another takes its place. With no probes there are no
 * threads.
 *
 * Upstream: pkg/kubelet/prober. */
#pragma once

#include "kubelet/hooks.h"

enum probe_kind { PROBE_LIVENESS, PROBE_READINESS, PROBE_STARTUP, PROBE_KINDS };

/* The counting of one probe: pure, for tests. */
struct probe_count {
    enum probe_result verdict, last;
    int run; /* consecutive results equal to last */
    bool on_hold;
};
void probe_count_reset(struct probe_count *c, enum probe_kind kind);
/* Takes a result into account; true when the verdict changed. PROBE_UNKNOWN is ignored. */
bool probe_count_add(struct probe_count *c, enum probe_kind kind, const struct core_probe *spec, enum probe_result r);

struct prober;
struct buf;
/* /metrics/probes: results so far. */
void prober_metrics(struct prober *pr, struct buf *b);

/* `changed` is called, without locks held, from probe threads, when a verdict of the pod changed. */
struct prober *prober_new(struct kubelet *kl, void (*changed)(void *arg, const char *uid), void *arg);
void prober_free(struct prober *pr);
/* Makes the probes of all containers of the pod that have some; does nothing for those that exist. */
void prober_add_pod(struct prober *pr, struct object *pod);
void prober_remove_pod(struct prober *pr, const char *uid);
/* A pod that terminates keeps only its readiness probes. */
void prober_pod_terminating(struct prober *pr, const char *uid);
/* Tells which instance of a container runs now; id NULL: none. */
void prober_container(struct prober *pr, const char *uid, const char *container, const char *id, int64_t started_at_ns,
                      const char *pod_ip);
bool prober_ready(struct prober *pr, const char *uid, const char *container, const char *id);
bool prober_started(struct prober *pr, const char *uid, const char *container, const char *id);
/* True when this instance is to be killed; *kind and *grace (seconds, -1: the pod's) tell why and how. */
bool prober_failed(struct prober *pr, const char *uid, const char *container, const char *id, enum probe_kind *kind,
                   int64_t *grace);
