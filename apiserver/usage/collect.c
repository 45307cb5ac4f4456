/* Collecting: rounds over all nodes, a few kubelets at a time. The collector is a thread that exists only
 * while somebody is interested. */
#include "apiserver/kubelet.h"
#include "apiserver/usage/internal.h"
#include "pkg/base/ktime.h"

enum {
    ROUND_MS = 15000,       /* between samples, as metrics-server */
    FIRST_WINDOW_MS = 1000, /* between the first two */
    REST_AFTER_MS = 120000, /* without questions */
    FETCH_MS = 5000,        /* a kubelet has so long to answer */
    WAIT_MS = 4000,         /* a first question waits so long */
    FETCHERS = 4,           /* kubelets asked at one time */
    FRESH_CONTAINER_MS =
        10000, /* a container younger than the last sample counts from its start, once it is this old */
};

/* ---- rates ---- */

double usage_rate(const struct usage_sample *last, const struct usage_point *p, const struct usage_sample *prev,
                  int64_t *window_ms) {
    const struct usage_point *before = usage_find(prev, p->ns, p->pod, p->container);
    bool started_between = prev && p->started * 1000 > (double)prev->at_ms;
    int64_t from = prev ? prev->at_ms : 0;
    double cpu = before ? before->cpu_seconds : 0;
    if (started_between || (!before && p->started > 0)) {
        from = (int64_t)(p->started * 1000);
        cpu = 0;
        if (last->at_ms - from < FRESH_CONTAINER_MS) return -1;
    } else if (!before) {
        return -1;
    }
    *window_ms = last->at_ms - from;
    return *window_ms > 0 && p->cpu_seconds >= cpu ? (p->cpu_seconds - cpu) * 1000 / (double)*window_ms : -1;
}

double usage_node_rate(const struct usage_pair *pair, int64_t *window_ms) {
    const struct usage_sample *a = pair->prev, *b = pair->last;
    if (!a || !b || !a->has_node || !b->has_node) return -1;
    *window_ms = b->at_ms - a->at_ms;
    if (*window_ms <= 0 || b->node_cpu_seconds < a->node_cpu_seconds) return -1;
    return (b->node_cpu_seconds - a->node_cpu_seconds) * 1000 / (double)*window_ms;
}

/* ---- a round ---- */

static void pair_free(void *p) {
    struct usage_pair *x = p;
    usage_sample_free(x->prev);
    usage_sample_free(x->last);
    free(x);
}

struct round {
    struct usage *u;
    const char **names;
    size_t n;
    _Atomic size_t next;
};

/* A kubelet whose numbers are those of the last time (they carry the same time) gives no new sample. */
static void keep(struct usage *u, const char *node, struct usage_sample *s) {
    pthread_mutex_lock(&u->lock);
    struct usage_pair *p = map_get(&u->nodes, node);
    if (!p) {
        p = xcalloc(1, sizeof(*p));
        map_put(&u->nodes, node, p);
    }
    if (p->last && p->last->at_ms >= s->at_ms) {
        usage_sample_free(s);
    } else {
        usage_sample_free(p->prev);
        p->prev = p->last;
        p->last = s;
    }
    pthread_mutex_unlock(&u->lock);
}

static void forget(struct usage *u, const char *node) {
    pthread_mutex_lock(&u->lock);
    void *p = map_del(&u->nodes, node);
    pthread_mutex_unlock(&u->lock);
    if (p) pair_free(p);
}

static void fetch(struct usage *u, const char *node) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_http_resp_ struct http_resp r = {.body.limit = USAGE_TEXT_MAX};
    struct usage_sample *s = NULL;
    int rc = kubelet_get(u->s, a, node, "/metrics/resource", &r, &u->cancel, FETCH_MS, NULL);
    if (!rc && r.status == 200) rc = usage_parse(str_or_empty(r.body.data), r.body.len, &s, NULL);
    if (rc || !s) {
        forget(u, node); /* old numbers would pass for present ones */
        return;
    }
    if (!s->at_ms) s->at_ms = ktime_unix_ns(ktime_now()) / NS_PER_MS;
    keep(u, node, s);
}

static void *fetcher(void *arg) {
    struct round *r = arg;
    size_t i;
    while (!http_cancelled(&r->u->cancel) && (i = atomic_fetch_add(&r->next, 1)) < r->n) fetch(r->u, r->names[i]);
    return NULL;
}

static void forget_gone(struct usage *u, const struct round *r) {
    _cleanup_map_ struct map there = MAP_INIT;
    const char *name;
    void *p;
    size_t it = 0;
    for (size_t i = 0; i < r->n; i++) map_put(&there, r->names[i], u);
    pthread_mutex_lock(&u->lock);
    while (map_next(&u->nodes, &it, &name, &p)) {
        if (map_has(&there, name)) continue;
        map_del(&u->nodes, name);
        pair_free(p);
    }
    pthread_mutex_unlock(&u->lock);
}

static void collect(struct usage *u) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_wc_list_ struct wc_list l = {0};
    struct round r = {.u = u};
    pthread_t threads[FETCHERS];
    size_t n_threads = 0;
    watchcache_list(u->s->cache, resource_find(u->s->resources, "", "v1", "nodes"), NULL, NULL, NULL, 0, &l);
    r.names = arena_alloc(a, (l.n + 1) * sizeof(*r.names));
    for (; r.n < l.n; r.n++) r.names[r.n] = object_name(l.items[r.n]);
    forget_gone(u, &r);
    while (n_threads + 1 < MIN_OF(r.n, (size_t)FETCHERS) && pthread_create(&threads[n_threads], NULL, fetcher, &r) == 0)
        n_threads++;
    fetcher(&r);
    for (size_t i = 0; i < n_threads; i++) pthread_join(threads[i], NULL);
}

/* ---- the collector ---- */

/* The lock is held. */
static void nap(struct usage *u, int64_t until_ns) {
    struct timespec until = {.tv_sec = until_ns / NS_PER_SEC, .tv_nsec = until_ns % NS_PER_SEC};
    int rc = 0;
    while (!u->stop && !rc && mono_ns() < until_ns) rc = pthread_cond_timedwait(&u->cond, &u->lock, &until);
}

static void *run(void *arg) {
    struct usage *u = arg;
    pthread_mutex_lock(&u->lock);
    while (!u->stop && mono_ns() - u->asked_ns < REST_AFTER_MS * NS_PER_MS) {
        int64_t began = mono_ns();
        pthread_mutex_unlock(&u->lock);
        collect(u);
        pthread_mutex_lock(&u->lock);
        u->rounds++;
        pthread_cond_broadcast(&u->cond);
        nap(u, began + (u->rounds == 1 ? FIRST_WINDOW_MS : ROUND_MS) * NS_PER_MS);
    }
    map_done_with(&u->nodes, pair_free);
    u->nodes = (struct map)MAP_INIT;
    u->rounds = 0;
    u->running = false;
    pthread_cond_broadcast(&u->cond);
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

static bool begin(struct usage *u) {
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    u->running = pthread_create(&u->thread, &attr, run, u) == 0;
    pthread_attr_destroy(&attr);
    return u->running;
}

void usage_ask(struct usage *u) {
    int64_t until = mono_ns() + WAIT_MS * NS_PER_MS;
    struct timespec t = {.tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC};
    int rc = 0;
    u->asked_ns = mono_ns();
    if (!u->running && (u->stop || !begin(u))) return;
    while (!u->stop && u->rounds < 2 && !rc) rc = pthread_cond_timedwait(&u->cond, &u->lock, &t);
}

struct usage *usage_new(struct apiserver *s) {
    struct usage *u = xcalloc(1, sizeof(*u));
    pthread_condattr_t attr;
    u->s = s;
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->cond, &attr);
    pthread_condattr_destroy(&attr);
    if (http_cancel_init(&u->cancel, NULL)) u->stop = true; /* no descriptors left: nothing is collected */
    return u;
}

void usage_free(struct usage *u) {
    if (!u) return;
    pthread_mutex_lock(&u->lock);
    u->stop = true;
    http_cancel_set(&u->cancel);
    pthread_cond_broadcast(&u->cond);
    while (u->running) pthread_cond_wait(&u->cond, &u->lock);
    pthread_mutex_unlock(&u->lock);
    map_done_with(&u->nodes, pair_free);
    http_cancel_done(&u->cancel);
    pthread_mutex_destroy(&u->lock);
    pthread_cond_destroy(&u->cond);
    free(u);
}
