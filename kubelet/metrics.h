/* What the kubelet counts about itself, with upstream's names (pkg/kubelet/metrics). Threads count without a lock. */
#pragma once

#include <pthread.h>

#include "pkg/base/prom.h"

struct kubelet;
struct buf;

enum metric_container { METRIC_CONTAINER, METRIC_INIT, METRIC_EPHEMERAL, METRIC_CONTAINER_KINDS };
enum metric_work { METRIC_SYNC, METRIC_TERMINATE, METRIC_WORKS };
enum metric_cgroup { METRIC_CGROUP_CREATE, METRIC_CGROUP_DESTROY, METRIC_CGROUP_WORKS };
enum metric_storage { METRIC_MOUNT, METRIC_UNMOUNT, METRIC_STORAGE_WORKS };

/* Containers that ended, by kind, exit code and reason. */
struct termination_count {
    enum metric_container kind;
    int32_t code;
    char reason[32];
    uint64_t n;
};
enum { METRIC_TERMINATIONS_MAX = 2048 }; /* kinds of them; further ones are not told apart from the last */

struct core_pod_status;
enum { METRIC_REJECTIONS = 24 };

struct kubelet_metrics {
    struct prom_histogram pod_start; /* first seen until running */
    struct prom_histogram work[METRIC_WORKS], cgroup[METRIC_CGROUP_WORKS];
    struct prom_histogram storage[METRIC_STORAGE_WORKS][2]; /* failed, done */
    struct prom_histogram relist;                           /* a pod as the runtime sees it */
    _Atomic uint64_t rejections[METRIC_REJECTIONS];         /* by reason; see metrics.c */
    _Atomic uint64_t pods_started, pods_failed;             /* sandboxes */
    _Atomic uint64_t userns_started, userns_failed;         /* those of pods with a user namespace */
    pthread_mutex_t lock;                                   /* of the terminations */
    struct termination_count *terminations;
    size_t n_terminations, cap_terminations;
    _Atomic uint64_t containers_started[METRIC_CONTAINER_KINDS], containers_failed[METRIC_CONTAINER_KINDS];
};

void metrics_pod_start(struct kubelet_metrics *m, int64_t ns);
void metrics_work(struct kubelet_metrics *m, enum metric_work w, int64_t since_mono);
void metrics_cgroup(struct kubelet_metrics *m, enum metric_cgroup w, int64_t since_mono);
void metrics_storage(struct kubelet_metrics *m, enum metric_storage w, bool ok, int64_t since_mono);
void metrics_relist(struct kubelet_metrics *m, int64_t since_mono);
/* Counts the containers that have ended since the last status (NULL: there was none). */
void metrics_terminations(struct kubelet_metrics *m, const struct core_pod_status *last,
                          const struct core_pod_status *now);
void metrics_done(struct kubelet_metrics *m);
/* A pod was not admitted. */
void metrics_rejected(struct kubelet_metrics *m, const char *reason);
/* /metrics. */
void metrics_write(struct kubelet *kl, struct buf *b);

/* Buckets of calls to the runtime. */
extern const double metrics_runtime_bounds[];
