/* Workqueues and the pool that serves them.
 *
 * One lock for the pool: items are few and operations short. Each queue knows every key it has seen and not
 * finished in `items` (waiting, delayed, in work, or remembered for its number of failures); ready keys hang
 * in a list in order of arrival, delayed ones in a binary heap by due time that the whole pool shares, so
 * that idle workers sleep until the first of them is due. */
#include "workqueue.h"

#include <assert.h>
#include <pthread.h>
#include <time.h>

#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/base/map.h"
#include "pkg/base/prom.h"
#include "pkg/client/metrics.h"

enum { WORKER_STACK = 1024 * 1024, BUCKET_BURST = 100, BUCKET_PER_SECOND = 10 };
#define BACKOFF_FIRST (5 * NS_PER_MS)
#define BACKOFF_MAX (1000 * NS_PER_SEC)

struct item {
    struct workqueue *q;
    char *key;
    struct item *next; /* in the ready list */
    int64_t due;       /* while in the heap */
    size_t heap_at;    /* 1-based place in the heap, 0: not in it */
    unsigned failures;
    int64_t since;              /* mono: ready, or in work */
    bool ready, working, again; /* again: added while in work */
};

struct workqueue {
    struct workpool *pool;
    struct workqueue *next;
    char *name;
    workqueue_fn *fn;
    void *arg;
    unsigned concurrency, working;
    bool enabled;
    struct map items;
    struct item *ready, **ready_tail;
    size_t n_ready;
    /* token bucket of rate-limited adds: the time up to which tokens are spent */
    int64_t bucket_until;
    uint64_t adds, retries;
    struct prom_histogram waited, worked;
};

struct workpool {
    pthread_mutex_t lock;
    pthread_cond_t cond, idle;
    pthread_t *threads;
    unsigned n_threads;
    struct workqueue *queues, *turn; /* turn: where the next search starts */
    struct item **heap;
    size_t heap_n, heap_cap;
    bool stop;
};

/* Ten nanoseconds to a thousand seconds. */
static const double spans[] = {1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10, 100, 1000, 0};

/* ---- heap of delayed items ---- */

static void heap_set(struct workpool *p, size_t at, struct item *it) {
    p->heap[at - 1] = it;
    it->heap_at = at;
}

static void heap_up(struct workpool *p, size_t at) {
    struct item *it = p->heap[at - 1];
    for (; at > 1 && p->heap[at / 2 - 1]->due > it->due; at /= 2) heap_set(p, at, p->heap[at / 2 - 1]);
    heap_set(p, at, it);
}

static void heap_down(struct workpool *p, size_t at) {
    struct item *it = p->heap[at - 1];
    for (size_t child; (child = at * 2) <= p->heap_n; at = child) {
        if (child < p->heap_n && p->heap[child]->due < p->heap[child - 1]->due) child++;
        if (p->heap[child - 1]->due >= it->due) break;
        heap_set(p, at, p->heap[child - 1]);
    }
    heap_set(p, at, it);
}

static void heap_remove(struct workpool *p, struct item *it) {
    size_t at = it->heap_at;
    struct item *last = p->heap[--p->heap_n];
    it->heap_at = 0;
    if (last == it) return;
    heap_set(p, at, last);
    heap_up(p, at);
    heap_down(p, last->heap_at);
}

/* ---- under the lock ---- */

static struct item *item_of(struct workqueue *q, const char *key) {
    struct item *it = map_get(&q->items, key);
    if (it) return it;
    it = xcalloc(1, sizeof(*it));
    it->q = q;
    it->key = xstrdup(key);
    map_put(&q->items, key, it);
    return it;
}

static void item_drop_if_unused(struct item *it) {
    if (it->ready || it->working || it->again || it->heap_at || it->failures) return;
    map_del(&it->q->items, it->key);
    free(it->key);
    free(it);
}

static void make_ready(struct item *it) {
    struct workqueue *q = it->q;
    if (it->ready) return;
    if (it->working) {
        it->again = true;
        return;
    }
    it->ready = true;
    it->since = mono_ns();
    q->adds++;
    it->next = NULL;
    *q->ready_tail = it;
    q->ready_tail = &it->next;
    q->n_ready++;
    pthread_cond_signal(&q->pool->cond);
}

static void delay(struct item *it, int64_t due) {
    struct workpool *p = it->q->pool;
    if (it->heap_at) {
        if (it->due <= due) return;
        it->due = due;
        heap_up(p, it->heap_at);
    } else {
        VEC_GROW(p->heap, p->heap_n, p->heap_cap);
        it->due = due;
        p->heap[p->heap_n++] = it;
        it->heap_at = p->heap_n;
        heap_up(p, p->heap_n);
    }
    pthread_cond_signal(&p->cond);
}

static void take_due(struct workpool *p, int64_t now) {
    while (p->heap_n && p->heap[0]->due <= now) {
        struct item *it = p->heap[0];
        heap_remove(p, it);
        make_ready(it);
    }
}

static struct item *take_ready(struct workpool *p) {
    struct workqueue *start = p->turn ? p->turn : p->queues, *q = start;
    if (!q) return NULL;
    do {
        struct workqueue *next = q->next ? q->next : p->queues;
        if (q->enabled && q->ready && q->working < q->concurrency) {
            struct item *it = q->ready;
            q->ready = it->next;
            if (!q->ready) q->ready_tail = &q->ready;
            q->n_ready--;
            q->working++;
            it->ready = false;
            it->working = true;
            int64_t now = mono_ns();
            prom_observe(&q->waited, spans, now - it->since);
            it->since = now;
            p->turn = next;
            return it;
        }
        q = next;
    } while (q != start);
    return NULL;
}

/* When the next failure may come back: exponential per key, and the bucket for all. */
static int64_t backoff_due(struct workqueue *q, struct item *it, int64_t now) {
    unsigned n = MIN_OF(it->failures, 30u);
    int64_t wait = MIN_OF(BACKOFF_FIRST << n, BACKOFF_MAX);
    it->failures++;
    q->retries++;
    int64_t token = NS_PER_SEC / BUCKET_PER_SECOND;
    int64_t floor = now - BUCKET_BURST * token;
    q->bucket_until = MAX_OF(q->bucket_until, floor) + token;
    return MAX_OF(now + wait, q->bucket_until);
}

static void finish(struct item *it, bool failed) {
    struct workqueue *q = it->q;
    struct workpool *p = q->pool;
    it->working = false;
    q->working--;
    prom_observe(&q->worked, spans, mono_ns() - it->since);
    if (failed)
        delay(it, backoff_due(q, it, mono_ns()));
    else
        it->failures = 0;
    if (it->again) {
        it->again = false;
        make_ready(it);
    } else if (q->ready) {
        pthread_cond_signal(&p->cond); /* the queue's concurrency had held it back */
    }
    item_drop_if_unused(it);
    pthread_cond_broadcast(&p->idle);
}

static bool run_one(struct workpool *p, struct arena *a) {
    take_due(p, mono_ns());
    struct item *it = take_ready(p);
    if (!it) return false;
    pthread_mutex_unlock(&p->lock);
    struct workqueue *q = it->q;
    _cleanup_err_ struct err e = {0};
    arena_reset(a);
    int r = q->fn(q->arg, a, it->key, &e);
    if (r < 0) {
        /* a conflict is how optimistic concurrency works, not news */
        log_kv(e.status == 409 ? LOG_DEBUG : LOG_WARN, "reconcile failed, will retry", "queue", q->name, "key", it->key,
               "error", e.msg, NULL);
    }
    pthread_mutex_lock(&p->lock);
    finish(it, r < 0);
    return true;
}

static void *worker(void *arg) {
    struct workpool *p = arg;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        if (run_one(p, a)) continue;
        if (!p->heap_n) {
            pthread_cond_wait(&p->cond, &p->lock);
            continue;
        }
        int64_t due = p->heap[0]->due;
        struct timespec ts = {.tv_sec = due / NS_PER_SEC, .tv_nsec = due % NS_PER_SEC};
        pthread_cond_timedwait(&p->cond, &p->lock, &ts);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- public ---- */

struct workpool *workpool_new(unsigned n_workers) {
    struct workpool *p = xcalloc(1, sizeof(*p));
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->cond, &ca);
    pthread_cond_init(&p->idle, NULL);
    pthread_condattr_destroy(&ca);
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, WORKER_STACK);
    p->threads = xcalloc(n_workers + 1, sizeof(*p->threads));
    for (unsigned i = 0; i < n_workers; i++) {
        if (pthread_create(&p->threads[i], &attr, worker, p) != 0) break;
        pthread_setname_np(p->threads[i], "worker");
        p->n_threads++;
    }
    pthread_attr_destroy(&attr);
    return p;
}

static void queue_free(struct workqueue *q) {
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&q->items, &it, &key, &v)) {
        struct item *i = v;
        free(i->key);
        free(i);
    }
    map_done(&q->items);
    free(q->name);
    free(q);
}

void workpool_stop(struct workpool *p) {
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->cond);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->n_threads; i++) pthread_join(p->threads[i], NULL);
    p->n_threads = 0;
}

void workpool_free(struct workpool *p) {
    if (!p) return;
    workpool_stop(p);
    while (p->queues) {
        struct workqueue *q = p->queues;
        p->queues = q->next;
        queue_free(q);
    }
    free(p->heap);
    free(p->threads);
    pthread_cond_destroy(&p->cond);
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct workqueue *workqueue_new(struct workpool *p, const char *name, unsigned concurrency, workqueue_fn *fn,
                                void *arg) {
    struct workqueue *q = xcalloc(1, sizeof(*q));
    q->pool = p;
    q->name = xstrdup(name);
    q->concurrency = concurrency ? concurrency : 1;
    q->fn = fn;
    q->arg = arg;
    q->enabled = true;
    q->ready_tail = &q->ready;
    pthread_mutex_lock(&p->lock);
    q->next = p->queues;
    p->queues = q;
    pthread_mutex_unlock(&p->lock);
    return q;
}

void workqueue_enable(struct workqueue *q, bool on) {
    pthread_mutex_lock(&q->pool->lock);
    q->enabled = on;
    pthread_cond_broadcast(&q->pool->cond);
    pthread_mutex_unlock(&q->pool->lock);
}

void workqueue_add(struct workqueue *q, const char *key) {
    pthread_mutex_lock(&q->pool->lock);
    make_ready(item_of(q, key));
    pthread_mutex_unlock(&q->pool->lock);
}

void workqueue_add_after(struct workqueue *q, const char *key, int64_t ns) {
    if (ns <= 0) {
        workqueue_add(q, key);
        return;
    }
    pthread_mutex_lock(&q->pool->lock);
    delay(item_of(q, key), mono_ns() + ns);
    pthread_mutex_unlock(&q->pool->lock);
}

void workqueue_add_rate_limited(struct workqueue *q, const char *key) {
    pthread_mutex_lock(&q->pool->lock);
    struct item *it = item_of(q, key);
    delay(it, backoff_due(q, it, mono_ns()));
    pthread_mutex_unlock(&q->pool->lock);
}

void workqueue_forget(struct workqueue *q, const char *key) {
    pthread_mutex_lock(&q->pool->lock);
    struct item *it = map_get(&q->items, key);
    if (it) {
        it->failures = 0;
        item_drop_if_unused(it);
    }
    pthread_mutex_unlock(&q->pool->lock);
}

unsigned workqueue_requeues(struct workqueue *q, const char *key) {
    pthread_mutex_lock(&q->pool->lock);
    struct item *it = map_get(&q->items, key);
    unsigned n = it ? it->failures : 0;
    pthread_mutex_unlock(&q->pool->lock);
    return n;
}

size_t workqueue_len(struct workqueue *q) {
    pthread_mutex_lock(&q->pool->lock);
    size_t n = q->n_ready;
    pthread_mutex_unlock(&q->pool->lock);
    return n;
}

void workqueue_drain(struct workqueue *q) {
    pthread_mutex_lock(&q->pool->lock);
    while (q->n_ready || q->working) pthread_cond_wait(&q->pool->idle, &q->pool->lock);
    pthread_mutex_unlock(&q->pool->lock);
}

bool workpool_run_one(struct workpool *p) {
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&p->lock);
    bool ran = run_one(p, a);
    pthread_mutex_unlock(&p->lock);
    return ran;
}

/* ---- metrics ---- */

/* Seconds that items have been in work: all together, and the longest. */
static void in_work(const struct workqueue *q, double *all, double *longest) {
    int64_t now = mono_ns();
    size_t at = 0;
    const char *key;
    void *v;
    *all = *longest = 0;
    while (q->working && map_next(&q->items, &at, &key, &v)) {
        const struct item *it = v;
        double s = it->working ? (double)(now - it->since) / 1e9 : 0;
        *all += s;
        *longest = MAX_OF(*longest, s);
    }
}

static const struct {
    const char *name, *type, *help;
} rows[] = {
    {"workqueue_adds_total", "counter", "Total number of adds handled by workqueue"},
    {"workqueue_depth", "gauge", "Current depth of workqueue"},
    {"workqueue_retries_total", "counter", "Total number of retries handled by workqueue"},
    {"workqueue_unfinished_work_seconds", "gauge",
     "How many seconds of work has been done that is in progress and hasn't been observed by work_duration."},
    {"workqueue_longest_running_processor_seconds", "gauge",
     "How many seconds has the longest running processor for workqueue been running."},
};

void workpool_metrics(struct workpool *p, struct buf *b) {
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        prom_head(b, rows[i].name, rows[i].type, rows[i].help);
        for (const struct workqueue *q = p->queues; q; q = q->next) {
            double all, longest;
            in_work(q, &all, &longest);
            const double values[] = {(double)q->adds, (double)q->n_ready, (double)q->retries, all, longest};
            buf_printf(b, "%s{name=\"%s\"} %.15g\n", rows[i].name, q->name, values[i]);
        }
    }
    prom_head(b, "workqueue_queue_duration_seconds", "histogram",
              "How long in seconds an item stays in workqueue before being requested.");
    for (const struct workqueue *q = p->queues; q; q = q->next) {
        _cleanup_free_ char *label = xasprintf("name=\"%s\"", q->name);
        prom_write(b, "workqueue_queue_duration_seconds", label, &q->waited, spans);
    }
    prom_head(b, "workqueue_work_duration_seconds", "histogram",
              "How long in seconds processing an item from workqueue takes.");
    for (const struct workqueue *q = p->queues; q; q = q->next) {
        _cleanup_free_ char *label = xasprintf("name=\"%s\"", q->name);
        prom_write(b, "workqueue_work_duration_seconds", label, &q->worked, spans);
    }
    pthread_mutex_unlock(&p->lock);
}
