/* The node's defence when memory, disk or process ids run short: thresholds, pressure conditions, and who has to go.
 *
 *   observe (meminfo, statvfs, pids) -> thresholds met -> conditions (kept for a transition period)
 *                                                      -> unused images and dead containers go
 *                                                      -> if that is not enough, one pod is evicted, and a look again
 *
 * A hard threshold acts at once and leaves a pod a second; a soft one acts after its grace period. Pods that write more
 * than their own limits of local storage go regardless of the node's state. Critical pods (static, system priority)
 * never go. Upstream: pkg/kubelet/eviction (eviction_manager.go, helpers.go). */
#pragma once

#include "kubelet/kubelet.h"

enum eviction_signal {
    SIGNAL_MEMORY,
    SIGNAL_NODEFS,
    SIGNAL_NODEFS_INODES,
    SIGNAL_IMAGEFS,
    SIGNAL_IMAGEFS_INODES,
    SIGNAL_PID,
    EVICTION_SIGNALS
};

/* An amount, or a share of the capacity. */
struct eviction_amount {
    int64_t absolute;
    double share;
    bool is_share;
};
int64_t eviction_amount_of(struct eviction_amount q, int64_t capacity);

struct eviction_threshold {
    enum eviction_signal signal;
    struct eviction_amount amount, min_reclaim;
    bool soft;
    int64_t grace_ns; /* of a soft one */
    /* state */
    bool met;
    int64_t since; /* mono: met without a break */
};

enum { EVICTION_THRESHOLDS_MAX = 2 * EVICTION_SIGNALS };
struct eviction_thresholds {
    struct eviction_threshold items[EVICTION_THRESHOLDS_MAX];
    size_t n;
};
/* From the lists of the configuration ("memory.available<100Mi,nodefs.available<10%", "memory.available=1m", ...).
 * -EINVAL for an unknown signal, a bad amount, a signal twice, a soft threshold without its grace period. */
int eviction_parse(const char *hard, const char *soft, const char *soft_grace, const char *min_reclaim,
                   struct eviction_thresholds *out, struct err *e);

/* A pod that may go, and what it uses of the resource that is short. */
struct eviction_candidate {
    struct pod_worker *worker;
    int64_t priority, usage, request;
};
/* The order in which pods go: beyond their request first, then low priority, then most beyond the request. Process ids
 * have no requests: low priority, then most. */
void eviction_rank(struct eviction_candidate *c, size_t n, enum eviction_signal signal);

struct eviction;
/* Reads the configuration's thresholds. */
int eviction_new(struct kubelet *kl, struct eviction **out, struct err *e);
void eviction_free(struct eviction *ev);
const struct eviction_thresholds *eviction_thresholds_of(const struct eviction *ev);
/* One pass. Reads file systems and the runtime; local limits only when `thorough`. */
void eviction_check(struct eviction *ev, bool thorough);
