/* What priority and fairness says of itself: metrics with upstream's names, and the tables under
 * /debug/api_priority_and_fairness/. */
#include "apiserver/flow/internal.h"
#include "pkg/base/ktime.h"

static const char *const reasons[FLOW_REASONS] = {"queue-full", "concurrency-limit", "time-out", "cancelled"};

/* ---- metrics ---- */

#define PREFIX "apiserver_flowcontrol_"

static int64_t level_nominal(const struct flow_level *l) { return l->nominal; }
static int64_t level_guaranteed(const struct flow_level *l) { return l->guaranteed; }
static int64_t level_seats(const struct flow_level *l) { return l->in_use; }
static int64_t level_waiting(const struct flow_level *l) { return l->waiting; }
static int64_t level_executing(const struct flow_level *l) { return l->executing; }

static const struct {
    const char *name, *help;
    int64_t (*value)(const struct flow_level *l);
} gauges[] = {
    {"nominal_limit_seats", "Seats that a priority level may always use", level_nominal},
    {"lower_limit_seats", "Seats that a priority level does not lend", level_guaranteed},
    {"current_executing_seats", "Seats in use", level_seats},
    {"current_executing_requests", "Requests that run", level_executing},
    {"current_inqueue_requests", "Requests that wait in queues", level_waiting},
};

void flow_metrics(struct flow *f, struct buf *b) {
    pthread_rwlock_rdlock(&f->config);
    pthread_mutex_lock(&f->lock);
    for (size_t g = 0; g < ARRAY_LEN(gauges); g++) {
        buf_printf(b, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s gauge\n", gauges[g].name, gauges[g].help,
                   gauges[g].name);
        for (size_t i = 0; i < f->n_levels; i++)
            if (f->levels[i]->present)
                buf_printf(b, PREFIX "%s{priority_level=\"%s\"} %lld\n", gauges[g].name, f->levels[i]->name,
                           (long long)gauges[g].value(f->levels[i]));
    }
    pthread_mutex_unlock(&f->lock);
    buf_adds(b, "# HELP " PREFIX "dispatched_requests_total Requests that were let in\n# TYPE " PREFIX
                "dispatched_requests_total counter\n");
    for (const struct flow_stat *s = f->stats; s; s = s->next)
        if (atomic_load(&s->dispatched))
            buf_printf(b, PREFIX "dispatched_requests_total{flow_schema=\"%s\",priority_level=\"%s\"} %llu\n",
                       s->schema, s->level, (unsigned long long)atomic_load(&s->dispatched));
    buf_adds(b, "# HELP " PREFIX "rejected_requests_total Requests that were refused\n# TYPE " PREFIX
                "rejected_requests_total counter\n");
    for (const struct flow_stat *s = f->stats; s; s = s->next)
        for (size_t r = 0; r < FLOW_REASONS; r++)
            if (atomic_load(&s->rejected[r]))
                buf_printf(
                    b, PREFIX "rejected_requests_total{flow_schema=\"%s\",priority_level=\"%s\",reason=\"%s\"} %llu\n",
                    s->schema, s->level, reasons[r], (unsigned long long)atomic_load(&s->rejected[r]));
    pthread_rwlock_unlock(&f->config);
}

/* ---- tables ---- */

static void dump_levels(struct flow *f, struct buf *b) {
    buf_adds(b,
             "PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing, WaitingRequests, ExecutingRequests, "
             "DispatchedRequests, "
             "RejectedRequests, TimedoutRequests, CancelledRequests\n");
    for (size_t i = 0; i < f->n_levels; i++) {
        const struct flow_level *l = f->levels[i];
        uint32_t active = 0;
        for (uint32_t k = 0; k < l->made; k++) active += l->queues[k].n > 0;
        if (l->present || l->executing)
            buf_printf(b, "%s, %u, %s, %s, %u, %u, %llu, %llu, %llu, %llu\n", l->name, active,
                       l->executing || l->waiting ? "false" : "true", l->present ? "false" : "true", l->waiting,
                       l->executing, (unsigned long long)l->dispatched, (unsigned long long)l->rejected,
                       (unsigned long long)l->timed_out, (unsigned long long)l->cancelled);
    }
}

static void dump_queues(struct flow *f, struct buf *b) {
    buf_adds(b, "PriorityLevelName, Index, PendingRequests, SeatsInUse, NextDispatchR\n");
    for (size_t i = 0; i < f->n_levels; i++)
        for (uint32_t k = 0; k < f->levels[i]->made; k++) {
            const struct flow_queue *u = &f->levels[i]->queues[k];
            buf_printf(b, "%s, %u, %u, %u, %.8fss\n", f->levels[i]->name, k, u->n, u->executing,
                       (double)u->start_ns / 1e9);
        }
}

static void dump_requests(struct flow *f, struct buf *b) {
    int64_t now = mono_ns();
    char when[KTIME_MAX];
    buf_adds(b,
             "PriorityLevelName, FlowSchemaName, QueueIndex, RequestIndexInQueue, UserName, Verb, APIPath, "
             "ArriveTime, InitialSeats\n");
    for (size_t i = 0; i < f->n_levels; i++)
        for (uint32_t k = 0; k < f->levels[i]->made; k++) {
            int at = 0;
            for (const struct request *q = f->levels[i]->queues[k].head; q; q = q->flow.next)
                buf_printf(b, "%s, %s, %u, %d, %s, %s, %s, %s, %u\n", f->levels[i]->name, q->flow.stat->schema, k, at++,
                           q->user.name, q->verb, q->http->path,
                           ktime_format_nano(ktime_add_ns(ktime_now(), q->flow.since_ns - now), when), q->flow.seats);
        }
}

bool flow_dump(struct flow *f, const char *what, struct buf *b) {
    static const struct {
        const char *name;
        void (*fn)(struct flow *f, struct buf *b);
    } dumps[] = {{"dump_priority_levels", dump_levels}, {"dump_queues", dump_queues}, {"dump_requests", dump_requests}};
    for (size_t i = 0; i < ARRAY_LEN(dumps); i++) {
        if (!str_eq(dumps[i].name, what)) continue;
        pthread_mutex_lock(&f->lock);
        dumps[i].fn(f, b);
        pthread_mutex_unlock(&f->lock);
        return true;
    }
    return false;
}
