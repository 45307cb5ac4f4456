/* What the watch cache's files share: watchcache.c keeps the caches (feed, ring, custom resources), watchcache_read.c
 * answers from them (freshness, reads, watches). Everything here is called under the cache's lock. */
#pragma once

#include <pthread.h>

#include "apiserver/watchcache.h"

struct wc_record {
    enum wc_event_type type;
    struct object *obj;  /* new state; the last state, at the deletion's revision, of something deleted */
    struct object *prev; /* NULL for ADDED */
};

/* An event that came while a cache was being filled from the store. */
struct pending {
    char *key;
    struct object *obj; /* NULL: deleted */
    int64_t rev;
};

struct cache {
    const struct resource *res;
    bool loading; /* events wait in `pending` */
    struct pending *pending;
    size_t n_pending, cap_pending;
    struct object **items;
    size_t n, cap;
    struct wc_record *ring;
    size_t ring_cap, ring_n, ring_at; /* ring_at: slot of the oldest */
    uint64_t base;                    /* sequence number of the oldest */
    int64_t floor;                    /* events up to here are not in the ring */
    int64_t changed;                  /* revision of the last event */
    int64_t turned_ns;                /* when the ring last turned over */
    struct wc_watch *watches;
};

struct watchcache {
    struct store *store;
    struct store_watch *feed;
    struct cache **caches; /* by the rows' cache number; NULL where there is none */
    size_t n_caches, cap_caches;
    struct cache **by_prefix; /* sorted by key_prefix */
    size_t n_by_prefix, cap_by_prefix;
    pthread_rwlock_t lock;
    _Atomic int64_t rev;
    _Atomic int error;
    pthread_mutex_t wait_lock; /* of `feed` too */
    pthread_cond_t waited;
    _Atomic int waiters;
    pthread_t reloader;
    bool reloading, closing; /* `reloader` is to be joined; all ends: both under wait_lock */
};

struct wc_watch {
    struct watchcache *wc;
    struct cache *c;
    char *ns;
    struct selector *sel;
    uint64_t cursor;
    int64_t after; /* events up to this revision are not wanted: a watch may start in the future */
    wc_wake_fn *wake;
    void *arg;
    struct wc_watch *next, **pprev;
};

/* Where `key` is, or would be. */
static inline size_t wc_find_slot(const struct cache *c, const char *key, bool *found) {
    size_t lo = 0, hi = c->n;
    *found = false;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int cmp = strcmp(c->items[mid]->key, key);
        if (cmp == 0) {
            *found = true;
            return mid;
        }
        if (cmp < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static inline struct object *wc_item(const struct cache *c, const char *key) {
    bool found;
    size_t at = wc_find_slot(c, key, &found);
    return found ? c->items[at] : NULL;
}

static inline const struct wc_record *wc_ring_at(const struct cache *c, uint64_t seq) {
    return &c->ring[(c->ring_at + (size_t)(seq - c->base)) % c->ring_cap];
}

/* Under the lock: the array of caches grows. NULL for a row that has none yet. */
static inline struct cache *wc_cache_for(struct watchcache *w, const struct resource *r) {
    unsigned at = resource_stored(r)->cache;
    return at < w->n_caches ? w->caches[at] : NULL;
}
