/* A thread for what has to be done from time to time: compacting the store's history (five minutes of it stay, as with
 * upstream's compactor, but when more than HISTORY_MAX revisions have gathered, one to two minutes), repairing the book of Services' addresses, ending Events after their time to live, and giving the memory of past bursts back to the
 * system (the allocator keeps what requests on many threads have freed); and, when one of them changes, for looking after
 * the FlowSchemas and priority levels of Kubernetes itself. */
#include <pthread.h>

#include "apiserver/lookup.h"
#include "apiserver/servicealloc.h"
#include "apiserver/write.h"
#include "pkg/base/memory.h"

enum {
    TICK_S = 60,
    COMPACT_EVERY_S = 300,
    HISTORY_MAX = 50000 /* revisions */,
    REPAIR_EVERY = 3 /* ticks */,
    EVENTS_AT_ONCE = 2000,
    FLOWS_PAUSE_S = 1 /* between two looks at the flow control objects, whoever changes them how often */
};

struct housekeeping {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stop, flows; /* flows: have changed */
};

static bool expired(const struct json *ev, struct ktime now, int64_t ttl_ns) {
    static const char *const times[] = {"lastTimestamp", "eventTime", "firstTimestamp"};
    struct ktime t;
    const char *text = json_as_str(json_at(ev, "series", "lastObservedTime", NULL));
    for (size_t i = 0; str_empty(text) && i < ARRAY_LEN(times); i++) text = json_get_str(ev, times[i]);
    if (str_empty(text)) text = json_as_str(json_at(ev, "metadata", "creationTimestamp", NULL));
    return !str_empty(text) && ktime_parse(text, &t) == 0 && ktime_diff_ns(now, t) > ttl_ns;
}

static void end_events(struct apiserver *s) {
    const struct resource *r = resource_find(s->resources, "", "v1", "events");
    _cleanup_wc_list_ struct wc_list l = {0};
    struct ktime now = ktime_now();
    watchcache_list(s->cache, r, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0, done = 0; i < l.n && done < EVENTS_AT_ONCE; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        if (!expired(object_tree(a, l.items[i]), now, s->opt.event_ttl_ns)) continue;
        struct store_txn t = {.op = STORE_DELETE,
                              .key = arena_printf(a, "%s%s", r->key_prefix, l.items[i]->key),
                              .expect_rev = l.items[i]->rev,
                              .lazy = s->embedded,
                              .cause = {"system:apiserver", l.items[i]->rev}};
        struct store_txn_result res;
        if (store_txn(s->store, a, &t, &res, NULL) == 0) done++;
    }
}

struct history {
    int64_t compact_at, keep_from, last;
    unsigned ticks;
};

static void tick(struct apiserver *s, struct history *x) {
    end_events(s);
    if (++x->ticks % REPAIR_EVERY == 0) servicealloc_repair(s);
    memory_settle();
    int64_t now = watchcache_rev(s->cache);
    bool many = now - x->keep_from > HISTORY_MAX;
    if (many || mono_ns() >= x->compact_at) {
        int64_t rev = many ? x->last : x->keep_from;
        int rc = store_compact(s->store, rev, NULL); /* -ESTALE: nothing was written since, or another server did it */
        if (rc == 0 || rc == -ESTALE) atomic_store(&s->compacted_rev, rev);
        x->keep_from = many ? x->last : now;
        x->compact_at = mono_ns() + COMPACT_EVERY_S * NS_PER_SEC;
    }
    x->last = now;
}

static void wait_until(struct housekeeping *h, int64_t due) {
    struct timespec ts = {.tv_sec = due / NS_PER_SEC, .tv_nsec = due % NS_PER_SEC};
    pthread_cond_timedwait(&h->cond, &h->lock, &ts);
}

static void *run(void *arg) {
    struct apiserver *s = arg;
    struct housekeeping *h = s->housekeeping;
    int64_t rev = watchcache_rev(s->cache), now = mono_ns(), tick_at = now + TICK_S * NS_PER_SEC, flows_at = now;
    struct history x = {.compact_at = now + COMPACT_EVERY_S * NS_PER_SEC, .keep_from = rev, .last = rev};
    pthread_mutex_lock(&h->lock);
    while (!h->stop) {
        now = mono_ns();
        bool flows = h->flows && now >= flows_at && atomic_load(&s->ready), ticks = now >= tick_at;
        if (!flows && !ticks) {
            wait_until(h, h->flows ? MIN_OF(tick_at, MAX_OF(flows_at, now + NS_PER_SEC / 10)) : tick_at);
            continue;
        }
        if (flows) {
            h->flows = false;
            flows_at = now + FLOWS_PAUSE_S * NS_PER_SEC;
        }
        if (ticks) tick_at = now + TICK_S * NS_PER_SEC;
        pthread_mutex_unlock(&h->lock);
        bool again = flows && !flowguard_ensure(s);
        if (ticks) tick(s, &x);
        pthread_mutex_lock(&h->lock);
        if (again) {
            h->flows = true;
            flows_at = tick_at;
        }
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

void housekeeping_wake(struct apiserver *s) {
    struct housekeeping *h = s->housekeeping;
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->flows = true;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

void housekeeping_start(struct apiserver *s) {
    struct housekeeping *h = xcalloc(1, sizeof(*h));
    h->flows = true;
    pthread_condattr_t attr;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->cond, &attr);
    pthread_condattr_destroy(&attr);
    s->housekeeping = h;
    if (pthread_create(&h->thread, NULL, run, s)) {
        free(h);
        s->housekeeping = NULL;
    }
}

void housekeeping_stop(struct apiserver *s) {
    struct housekeeping *h = s->housekeeping;
    if (!h) return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->cond);
    free(h);
    s->housekeeping = NULL;
}
