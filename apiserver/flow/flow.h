/* Priority and fairness: which requests may run now, which wait, and which are refused.
 *
 * A request is classified by the FlowSchemas (classify.c) to a priority level and, within it, a flow (a user,
 * a namespace). Levels have seats; a seat is a worker thread for as long as the request lasts. While a level
 * has a seat free, its requests run at once and cost two short critical sections. Otherwise they wait in
 * queues of their level, chosen by shuffle sharding, and are taken in the order of start-time fair queuing,
 * so that a flow with thousands of requests gets no more than one with a few (queue.c). A full queue means
 * 429 with Retry-After.
 *
 * What the loop thread answers by itself from the cache is classified and counted, but takes no seat: it is
 * done before anything else could wait. Calls that last as long as their client likes (exec, log,
 * port-forward, proxied watches) take none either; watches give theirs back once they have begun.
 *
 * How it differs from upstream: seats are threads, so there are fewer of them (--max-requests-inflight and
 * --max-mutating-requests-inflight, 192 together); lent seats are decided when a request comes, from what is
 * in use, not by adjusting limits every ten seconds; writes have no width beyond one. Upstream:
 * apiserver/pkg/util/flowcontrol. */
#pragma once

#include "apiserver/request.h"

struct flow;

enum {
    FLOW_LEVELS_MAX = 64,     /* PriorityLevelConfigurations, beyond that ignored */
    FLOW_SCHEMAS_MAX = 256,   /* FlowSchemas */
    FLOW_WIDTH_MAX = 10,      /* seats of one request */
    FLOW_LIST_PER_SEAT = 100, /* objects that a list may look at for a seat */
    FLOW_WAIT_MAX_S = 15,     /* in a queue */
    FLOW_EXEMPT_SEATS = 128,  /* threads of exempt levels; what is above waits, however many */
};

/* `seats`: in all. `run` is called with each admitted request, on the thread that entered it or through
 * `dispatch`; `refuse` answers one that is not. */
struct flow_options {
    int seats;
    void *arg;
    bool (*dispatch)(void *arg, struct request *q); /* hands a request that has waited to a worker; false: impossible */
    void (*refuse)(void *arg, struct request *q, const char *reason);
};
struct flow *flow_new(const struct flow_options *o);
void flow_free(struct flow *f); /* NULL-safe; nothing waits any more */

/* A FlowSchema or PriorityLevelConfiguration is as `obj` says, or (NULL) is gone. */
void flow_feed(struct flow *f, bool level, const char *name, const struct json *obj);

/* Classifies: sets the request's schema and level, and the headers that name them. Thread-safe, does not
 * block. */
void flow_classify(struct flow *f, struct request *q);
/* For a classified request that needs no seat: only counts it. */
void flow_pass(struct flow *f, struct request *q);

enum flow_verdict { FLOW_RUN, FLOW_WAITS, FLOW_REFUSED };
/* Takes `width` seats, or puts the request into a queue (then it belongs to the flow until it is dispatched
 * or refused), or refuses it (the caller answers). After FLOW_RUN, or being dispatched, flow_leave is due
 * with the ticket (copied before the request may have ended). */
enum flow_verdict flow_enter(struct flow *f, struct request *q, uint32_t width);
void flow_leave(struct flow *f, const struct flow_ticket *t);
/* Refuses what has waited too long. To be called about once a second while flow_waiting. */
void flow_expire(struct flow *f);
bool flow_waiting(const struct flow *f);

/* ---- looking in ---- */
void flow_metrics(struct flow *f, struct buf *b);
/* /debug/api_priority_and_fairness/WHAT: dump_priority_levels, dump_queues, dump_requests. False: no such
 * thing. */
bool flow_dump(struct flow *f, const char *what, struct buf *b);
/* The retry time to tell a refused client, in seconds. */
int flow_retry_after(struct flow *f);
