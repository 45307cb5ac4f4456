/* The way of a request from the loop thread to the thread that works on it.
 *
 * On the loop: who asks, when that is known without computing (certificates, tokens seen lately; the
 * signature of a new token is verified on one of a few threads kept for it, so that a flood of bad tokens
 * holds up nobody else). Then the request is classified (flow/). What the watch cache can answer at once
 * (GETs, short LISTs, when the cache is known to be fresh) is answered right there; longer LISTs too, as long
 * as they have not taken LOOP_LISTS_NS of this turn of the loop. Calls that last as long as their client
 * likes get a thread of their own. All others need a seat, and run on a worker when they have one. */
#include "apiserver/admit.h"

#include <pthread.h>

#include "apiserver/aggregator/aggregator.h"
#include "apiserver/auth/authz.h"
#include "apiserver/encryption.h"
#include "apiserver/flow/flow.h"
#include "apiserver/handlers.h"
#include "apiserver/lookup.h"
#include "apiserver/metrics.h"
#include "pkg/base/ktime.h"

#define LOOP_LISTS_NS (2 * NS_PER_MS)

enum {
    WORKER_QUEUE = 4096, /* requests with seats on their way to a worker */
    CHECKERS = 4,        /* threads that verify tokens */
    ASKERS = 32,         /* with a webhook that knows tokens */
    CHECK_QUEUE = 4096,  /* requests that wait for them */
    SEATS_DEFAULT = 192,
    LOOP_LIST_MAX = 2000,   /* objects in a cache above which a LIST leaves the loop thread */
    LOOP_GZIP_MAX = 100,    /* and above which one that may be compressed does */
    LONG_CALLS_MAX = 512,   /* threads for log, exec, ... at one time */
    PASSED_CALLS_MAX = 256, /* and for streams of aggregated API servers */
    CALLS_STEP_MS = 10,
    LONG_CALL_STACK = 1024 * 1024,
    EXPIRE_MS = 1000,
};

struct admission {
    struct flow *flow;
    struct http_workers *checkers;
    uv_loop_t *loop; /* NULL: not started */
    uv_timer_t timer;
    uint64_t turn;    /* of the loop, by its clock */
    int64_t lists_ns; /* spent on LISTs in it */
};

/* ---- refusing ---- */

static void refuse(struct request *q, int after) {
    _cleanup_err_ struct err e = {0};
    err_status(&e, 429, "TooManyRequests", "Too many requests, please try again later.");
    e.retry_after_seconds = after;
    request_fail(q, &e);
}

static void on_refused(void *arg, struct request *q, const char *reason) {
    refuse(q, flow_retry_after(((struct apiserver *)arg)->admission->flow));
}

/* ---- threads ---- */

static void run_seated(void *arg) {
    struct request *q = arg;
    struct flow *f = q->s->admission->flow;
    struct flow_ticket t = q->flow; /* the request is gone when it is answered */
    server_process(q);
    flow_leave(f, &t);
}

static bool dispatch(void *arg, struct request *q) {
    return http_dispatch(((struct apiserver *)arg)->workers, run_seated, q) == 0;
}

static void *long_call(void *arg) {
    struct request *q = arg;
    _Atomic int *count = q->back ? &q->s->passed_calls : &q->s->long_calls;
    server_process(q);
    atomic_fetch_sub(count, 1);
    return NULL;
}

static bool start_long_call(struct request *q) {
    _Atomic int *count = q->back ? &q->s->passed_calls : &q->s->long_calls;
    int max = q->back ? PASSED_CALLS_MAX : LONG_CALLS_MAX;
    pthread_attr_t attr;
    pthread_t t;
    if (atomic_fetch_add(count, 1) >= max) {
        atomic_fetch_sub(count, 1);
        return false;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, LONG_CALL_STACK);
    bool ok = pthread_create(&t, &attr, long_call, q) == 0;
    pthread_attr_destroy(&attr);
    if (!ok) atomic_fetch_sub(count, 1);
    return ok;
}

bool apiserver_calls_ended(struct apiserver *s, int timeout_ms) {
    for (int i = 0; atomic_load(&s->long_calls) || atomic_load(&s->passed_calls); i++) {
        if (i * CALLS_STEP_MS >= timeout_ms) return false;
        usleep(CALLS_STEP_MS * 1000);
    }
    return true;
}

/* ---- what kind of request ---- */

static bool own_thread(const struct request *q) { return q->back ? aggregator_lasts(q) : request_is_long(q); }

static bool health_path(const char *p) { return str_eq(p, "/readyz") || str_eq(p, "/livez") || str_eq(p, "/healthz"); }

static bool fresh(struct request *q) {
    struct apiserver *s = q->s;
    const char *rv = http_query(q->http, "resourceVersion");
    int64_t want = 0;
    if (str_empty(rv)) return store_current_rev(s->store, &want, NULL) == 0 && watchcache_wait(s->cache, want, 0) == 0;
    return str_to_i64(rv, &want) == 0 && watchcache_wait(s->cache, want, 0) == 0;
}

/* What the loop thread has left for LISTs in this turn. */
static bool lists_left(struct admission *m) {
    uint64_t now = m->loop ? uv_now(m->loop) : 0;
    if (now != m->turn || !m->loop) {
        m->turn = now;
        m->lists_ns = 0;
    }
    return m->lists_ns < LOOP_LISTS_NS;
}

/* True when the answer is in the cache and the cache is fresh enough: no waiting, little work. */
static bool cheap(struct request *q) {
    struct apiserver *s = q->s;
    const struct resource *r = q->res;
    if (q->back || authz_blocks(s->authz)) return false;
    if (!q->is_resource) return health_path(q->http->path) && !encryption_has_check(s->encryption);
    if (!r || r->stored != RES_STORED || (r->storage && !r->custom) || r->converts) return false;
    if (q->sub && !str_eq(q->sub->name, "status")) return false;
    if (q->media != MEDIA_JSON || q->as != AS_OBJECT || !s->embedded) return false;
    if (str_eq(q->verb, "get")) return fresh(q);
    size_t max = request_gzip(q) ? LOOP_GZIP_MAX : LOOP_LIST_MAX, n = watchcache_count(s->cache, r);
    if (!str_eq(q->verb, "list") || n > max || http_query(q->http, "continue")) return false;
    return (n <= FLOW_LIST_PER_SEAT || lists_left(s->admission)) && fresh(q);
}

/* Seats: a LIST needs more of them the more objects it looks at, and so does a watch that begins with one. */
static uint32_t width(struct request *q) {
    bool list = str_eq(q->verb, "list"), watch = str_eq(q->verb, "watch");
    int64_t limit = 0;
    if (!(list || watch) || !q->res || q->res->stored != RES_STORED || q->name) return 1;
    const char *rv = http_query(q->http, "resourceVersion"), *l = http_query(q->http, "limit");
    if (watch && !str_empty(rv) && !str_eq(rv, "0") && !http_query(q->http, "sendInitialEvents")) return 1;
    size_t n = watchcache_count(q->s->cache, q->res);
    if (l && str_to_i64(l, &limit) == 0 && limit > 0) n = MIN_OF(n, (size_t)limit);
    return (uint32_t)MIN_OF((n + FLOW_LIST_PER_SEAT - 1) / FLOW_LIST_PER_SEAT, (size_t)FLOW_WIDTH_MAX);
}

/* ---- the way ---- */

static void arm(void *arg);

static void process_on_loop(struct request *q) {
    struct admission *m = q->s->admission;
    bool list = str_eq(q->verb, "list");
    int64_t began = list ? mono_ns() : 0;
    flow_pass(m->flow, q);
    server_process(q);
    if (list) m->lists_ns += mono_ns() - began;
}

/* An authenticated request. */
static void admit(struct request *q, bool on_loop) {
    struct apiserver *s = q->s;
    struct flow *f = s->admission->flow;
    if (own_thread(q)) {
        if (!start_long_call(q)) refuse(q, 1);
        return;
    }
    flow_classify(f, q);
    if (on_loop && cheap(q)) {
        process_on_loop(q);
        return;
    }
    switch (flow_enter(f, q, width(q))) {
        case FLOW_RUN: {
            struct flow_ticket t = q->flow;
            if (dispatch(s, q)) return;
            refuse(q, 1);
            flow_leave(f, &t);
            return;
        }
        case FLOW_WAITS:
            if (on_loop)
                arm(s);
            else
                http_server_post(s->http, arm, s);
            return;
        case FLOW_REFUSED: refuse(q, flow_retry_after(f)); return;
    }
}

static void authenticate(struct request *q, bool on_loop) {
    _cleanup_err_ struct err e = {0};
    if (request_authenticate(q, &e))
        request_fail(q, &e);
    else
        admit(q, on_loop);
}

static void check_token(void *arg) { authenticate(arg, false); }

void apiserver_handle(struct http_req *r, void *arg) {
    struct apiserver *s = arg;
    struct request *q = request_new(s, r);
    metrics_begin(s->metrics, q);
    aggregator_take(q);
    if (str_eq(q->verb, "watch") && q->res && q->res->stored == RES_STORED) watch_prepare(q);
    if (q->sub && request_is_long(q)) kubelet_prepare(q);
    if (request_authenticates_quickly(q))
        authenticate(q, true);
    else if (http_dispatch(s->admission->checkers, check_token, q))
        refuse(q, 1);
}

/* ---- opening ---- */

static void on_expire(uv_timer_t *t) {
    struct apiserver *s = t->data;
    flow_expire(s->admission->flow);
    if (!flow_waiting(s->admission->flow)) uv_timer_stop(t);
}

static void arm(void *arg) {
    struct apiserver *s = arg;
    struct admission *m = s->admission;
    if (m->loop && !uv_is_active((uv_handle_t *)&m->timer)) uv_timer_start(&m->timer, on_expire, EXPIRE_MS, EXPIRE_MS);
}

int admission_open(struct apiserver *s, struct err *e) {
    struct admission *m = xcalloc(1, sizeof(*m));
    int64_t asked = s->opt.max_inflight + s->opt.max_mutating_inflight;
    struct flow_options o = {.seats = asked > 0 ? (int)MIN_OF(asked, 10000) : SEATS_DEFAULT,
                             .arg = s,
                             .dispatch = dispatch,
                             .refuse = on_refused};
    m->flow = flow_new(&o);
    bool ask = !str_empty(s->opt.authn_webhook_file); /* its threads wait rather than compute */
    m->checkers = http_workers_new(ask ? ASKERS : CHECKERS, CHECK_QUEUE);
    s->workers =
        http_workers_new(2 * (unsigned)o.seats + FLOW_EXEMPT_SEATS, WORKER_QUEUE); /* lent seats: flow/queue.c */
    s->admission = m;
    return 0;
}

void admission_start(struct apiserver *s, uv_loop_t *loop) {
    s->admission->loop = loop;
    uv_timer_init(loop, &s->admission->timer);
    s->admission->timer.data = s;
}

void admission_stop(struct apiserver *s) {
    if (s->admission->loop) uv_close((uv_handle_t *)&s->admission->timer, NULL);
    s->admission->loop = NULL;
}

void admission_drain(struct apiserver *s) {
    if (s->admission) s->admission->checkers = http_workers_free(s->admission->checkers);
    s->workers = http_workers_free(s->workers);
}

void admission_close(struct apiserver *s) {
    admission_drain(s);
    if (!s->admission) return;
    flow_free(s->admission->flow);
    free(s->admission);
    s->admission = NULL;
}

struct flow *admission_flow(struct apiserver *s) {
    return s->admission->flow;
}
