/* The parts of the Job controller and what they share: job.c reconciles, job_count.c counts pods that ended,
 * job_pods.c makes and removes pods. */
#pragma once

#include "job.h"
#include "pkg/base/map.h"
#include "util.h"

#define FINALIZER "batch.kubernetes.io/job-tracking"
#define INDEX_NOTE "batch.kubernetes.io/job-completion-index"
#define FAILURES_NOTE "batch.kubernetes.io/job-index-failure-count"

struct job_controller {
    struct manager *m;
    struct workqueue *q, *orphans;
    struct expectations *expect;
    struct event_recorder *events;
};

struct jobrun {
    struct job_controller *c;
    struct arena *a;
    const char *key;
    const struct batch_job *was;
    struct batch_job j;
    struct claimed pods;
    int32_t awaited; /* of `active`: pods whose end is waited for before they are replaced */
    int32_t active, ready, terminating, succeeded, failed; /* the last two with what is not counted yet */
    int32_t restarts;
    struct ktime last_failure;
    int32_t failures_in_row;
    struct index_set done;     /* Indexed: indexes that succeeded */
    struct index_set given_up; /* and those that failed for good */
    const char *success_reason, *success_message;
    bool indexed;
    const char *fail_reason, *fail_message;
    int64_t wait;
};

static inline bool job_suspended(const struct batch_job *j) { return j->spec.suspend && *j->spec.suspend; }
static inline int32_t job_parallelism(const struct batch_job *j) {
    return j->spec.parallelism ? *j->spec.parallelism : 1;
}

/* ---- job_count.c ---- */
/* The completion index of a pod; -1: it has none. */
int32_t job_pod_index(const struct core_pod *p);
/* Whether the pod still has the finalizer that keeps it until it is counted; untrack takes it off. */
bool job_pod_tracked(const struct core_pod *p);
int job_untrack_pod(struct jobrun *x, const struct core_pod *p, struct err *e);
void job_add_uid(struct arena *a, struct str_vec *v, const char *uid);
bool job_pod_failed(const struct core_pod *p);
/* How often the index of this pod had failed before it. */
int64_t job_index_failures(const struct core_pod *p);
/* Fills the run's numbers from its pods and the status; pods that ended enter status.uncountedTerminatedPods.
 */
void job_count(struct jobrun *x);
/* Takes the finalizers off pods that the written status lists. */
int job_release_counted(struct jobrun *x, struct err *e);

/* ---- job_pods.c ---- */
int job_remove_active(struct jobrun *x, const struct pod_control *pc, int32_t n, struct err *e);
/* Brings the number of active pods to what the job wants now. */
int job_manage_pods(struct jobrun *x, const struct pod_control *pc, struct err *e);
