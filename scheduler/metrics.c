/* The scheduler's metrics, with upstream's names and buckets (pkg/scheduler/metrics). There is one profile: the scheduler's
 * name. */
#include "scheduler.h"

const double sched_attempt_bounds[SCHED_ATTEMPT_BOUNDS] = {0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064,  0.128,
                                                           0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 0};
static const double point_bounds[] = {0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064,
                                      0.0128, 0.0256, 0.0512, 0.1024, 0.2048, 0};
static const double sli_bounds[] = {0.01,  0.02,  0.04,  0.08,   0.16,   0.32,   0.64,    1.28,    2.56,    5.12, 10.24,
                                    20.48, 40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44, 5242.88, 0};
static const double victim_bounds[] = {1, 2, 4, 8, 16, 32, 64, 0}, try_bounds[] = {1, 2, 4, 8, 16, 0};

static const char *const results[SCHED_RESULTS] = {"scheduled", "unschedulable", "error"}, *const points[POINTS] = {
                                                                                               "PreFilter", "Filter",
                                                                                               "PostFilter", "Score",
                                                                                               "Bind"};
static const struct {
    const char *queue, *event;
} incomings[INCOMINGS] = {[IN_ADDED] = {"active", "PodAdd"},
                          [IN_BACKOFF_OVER] = {"active", "BackoffComplete"},
                          [IN_FAILED_BACKOFF] = {"backoff", "ScheduleAttemptFailure"},
                          [IN_FAILED_WAITING] = {"unschedulable", "ScheduleAttemptFailure"}};

void sched_count(struct sched *s, const struct sched_attempt *a, enum sched_result r) {
    struct sched_metrics *m = &s->metrics;
    int64_t now = mono_ns();
    m->attempts[r]++;
    prom_observe(&m->attempt[r], sched_attempt_bounds, now - a->began);
    if (r != SCHED_SCHEDULED) return;
    unsigned tries = a->before + 1;
    prom_observe(&m->tries, try_bounds, (int64_t)tries * NS_PER_SEC);
    prom_observe(&m->sli[MIN_OF(tries, (unsigned)ATTEMPTS_LABELS) - 1], sli_bounds, now - a->entered);
}

void sched_point(struct sched *s, enum sched_point p, int64_t *from) {
    int64_t now = mono_ns();
    prom_observe(&s->metrics.points[p], point_bounds, now - *from);
    *from = now;
}

void sched_preempted(struct sched *s, size_t victims) {
    s->metrics.preemptions++;
    if (victims) prom_observe(&s->metrics.victims, victim_bounds, (int64_t)victims * NS_PER_SEC);
}

/* ---- writing ---- */

static void write_attempts(struct sched *s, struct buf *b, const char *profile) {
    struct sched_metrics *m = &s->metrics;
    prom_head(b, "scheduler_schedule_attempts_total", "counter",
              "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, "
              "while 'error' means an internal scheduler problem.");
    for (size_t i = 0; i < SCHED_RESULTS; i++)
        buf_printf(b, "scheduler_schedule_attempts_total{%s,result=\"%s\"} %llu\n", profile, results[i],
                   (unsigned long long)m->attempts[i]);
    prom_head(b, "scheduler_scheduling_attempt_duration_seconds", "histogram",
              "Scheduling attempt latency in seconds (scheduling algorithm + binding)");
    for (size_t i = 0; i < SCHED_RESULTS; i++) {
        _cleanup_free_ char *l = xasprintf("%s,result=\"%s\"", profile, results[i]);
        if (m->attempts[i])
            prom_write(b, "scheduler_scheduling_attempt_duration_seconds", l, &m->attempt[i], sched_attempt_bounds);
    }
    prom_head(b, "scheduler_scheduling_algorithm_duration_seconds", "histogram",
              "Scheduling algorithm latency in seconds");
    prom_write(b, "scheduler_scheduling_algorithm_duration_seconds", "", &m->algorithm, sched_attempt_bounds);
    prom_head(b, "scheduler_pod_scheduling_attempts", "histogram",
              "Number of attempts to successfully schedule a pod.");
    prom_write(b, "scheduler_pod_scheduling_attempts", "", &m->tries, try_bounds);
    prom_head(b, "scheduler_pod_scheduling_sli_duration_seconds", "histogram",
              "E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue and might "
              "involve multiple scheduling attempts.");
    for (size_t i = 0; i < ATTEMPTS_LABELS; i++) {
        _cleanup_free_ char *l = xasprintf(i + 1 < ATTEMPTS_LABELS ? "attempts=\"%zu\"" : "attempts=\"%zu+\"", i + 1);
        if (m->sli[i].sum_ns) prom_write(b, "scheduler_pod_scheduling_sli_duration_seconds", l, &m->sli[i], sli_bounds);
    }
    prom_head(b, "scheduler_framework_extension_point_duration_seconds", "histogram",
              "Latency for running all plugins of a specific extension point.");
    for (size_t i = 0; i < POINTS; i++) {
        _cleanup_free_ char *l = xasprintf("extension_point=\"%s\",%s,status=\"Success\"", points[i], profile);
        prom_write(b, "scheduler_framework_extension_point_duration_seconds", l, &m->points[i], point_bounds);
    }
}

static void write_queues(struct sched *s, struct buf *b) {
    size_t gated = 0, assumed = 0, placed = 0, it = 0;
    const char *key;
    void *v;
    while (map_next(&s->pod_by_key, &it, &key, &v)) {
        const struct sched_pod *sp = v;
        gated += sp->state == POD_GATED;
        assumed += sp->state == POD_BINDING;
        placed += sp->node != NULL;
    }
    const struct {
        const char *name;
        size_t n;
    } queues[] = {{"active", s->active.n},
                  {"backoff", s->backoff.n},
                  {"gated", gated},
                  {"unschedulable", s->waiting.n}},
      sizes[] = {{"assumed_pods", assumed}, {"nodes", s->n_live}, {"pods", placed}};
    prom_head(b, "scheduler_pending_pods", "gauge", "Number of pending pods, by the queue type.");
    for (size_t i = 0; i < ARRAY_LEN(queues); i++)
        buf_printf(b, "scheduler_pending_pods{queue=\"%s\"} %zu\n", queues[i].name, queues[i].n);
    prom_head(b, "scheduler_cache_size", "gauge",
              "Number of nodes, pods, and assumed (bound) pods in the scheduler cache.");
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        buf_printf(b, "scheduler_cache_size{type=\"%s\"} %zu\n", sizes[i].name, sizes[i].n);
    prom_head(b, "scheduler_queue_incoming_pods_total", "counter",
              "Number of pods added to scheduling queues by event and queue type.");
    for (size_t i = 0; i < INCOMINGS; i++)
        buf_printf(b, "scheduler_queue_incoming_pods_total{event=\"%s\",queue=\"%s\"} %llu\n", incomings[i].event,
                   incomings[i].queue, (unsigned long long)s->metrics.incoming[i]);
}

void sched_metrics_write(struct sched *s, struct buf *b) {
    _cleanup_free_ char *profile = xasprintf("profile=\"%s\"", s->name);
    pthread_mutex_lock(&s->lock);
    write_attempts(s, b, profile);
    write_queues(s, b);
    prom_head(b, "scheduler_preemption_attempts_total", "counter", "Total preemption attempts in the cluster till now");
    buf_printf(b, "scheduler_preemption_attempts_total %llu\n", (unsigned long long)s->metrics.preemptions);
    prom_head(b, "scheduler_preemption_victims", "histogram", "Number of selected preemption victims");
    prom_write(b, "scheduler_preemption_victims", "", &s->metrics.victims, victim_bounds);
    pthread_mutex_unlock(&s->lock);
}
