/* The watch cache. Invariants, under `lock`:
 *   - a cache's items are sorted by key, without gaps or doubles, and show the state at `rev`;
 *   - its ring holds the last `n` events in revision order; every event after `floor` is in it;
 *   - a watch's cursor is a sequence number: base + position in the ring.
 * The feed's thread is the only writer. Readers take the lock shared and only copy references. */
#include "apiserver/watchcache.h"

#include <pthread.h>

#include "pkg/base/ktime.h"

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

/* ---- the caches' items ---- */

static size_t find_slot(const struct cache *c, const char *key, bool *found) {
    size_t lo = 0, hi = c->n;
    *found = false;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int cmp = strcmp(c->items[mid]->key, key);
        if (cmp == 0) {
            *found = true;
            return mid;
        }
        if (cmp < 0) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static void items_put(struct cache *c, struct object *o) {
    bool found = false;
    /* loading and most creations come in order: look at the end first */
    size_t at = c->n && strcmp(c->items[c->n - 1]->key, o->key) < 0 ? c->n : find_slot(c, o->key, &found);
    if (found) {
        object_unref(c->items[at]);
    } else {
        VEC_GROW(c->items, c->n, c->cap);
        memmove(c->items + at + 1, c->items + at, (c->n - at) * sizeof(*c->items));
        c->n++;
    }
    c->items[at] = object_ref(o);
}

static void items_del(struct cache *c, const char *key) {
    bool found;
    size_t at = find_slot(c, key, &found);
    if (!found) return;
    object_unref(c->items[at]);
    memmove(c->items + at, c->items + at + 1, (c->n - at - 1) * sizeof(*c->items));
    c->n--;
}

static struct object *items_get(const struct cache *c, const char *key) {
    bool found;
    size_t at = find_slot(c, key, &found);
    return found ? c->items[at] : NULL;
}

/* ---- the ring ---- */

static void record_done(struct wc_record *r) {
    object_unref(r->obj);
    object_unref(r->prev);
}

static void ring_grow(struct cache *c) {
    size_t cap = c->ring_cap ? c->ring_cap * 2 : WC_HISTORY_MIN;
    struct wc_record *ring = xcalloc(cap, sizeof(*ring));
    for (size_t i = 0; i < c->ring_n; i++) ring[i] = c->ring[(c->ring_at + i) % c->ring_cap];
    free(c->ring);
    c->ring = ring;
    c->ring_cap = cap;
    c->ring_at = 0;
}

enum { FAST_TURN_S = 75 }; /* a ring that turns over in less than this grows, so that history reaches back a while */

static void ring_push(struct cache *c, struct wc_record r) {
    if (c->ring_n == c->ring_cap) {
        int64_t now = mono_ns();
        bool fast = now - c->turned_ns < FAST_TURN_S * NS_PER_SEC;
        if (!c->ring_cap || (fast && c->ring_cap < WC_HISTORY_MAX)) {
            c->turned_ns = now;
            ring_grow(c);
        } else {
            struct wc_record *old = &c->ring[c->ring_at];
            c->floor = old->obj->rev;
            record_done(old);
            c->ring_at = (c->ring_at + 1) % c->ring_cap;
            c->ring_n--;
            c->base++;
            if (c->ring_at == 0) c->turned_ns = now;
        }
    }
    c->changed = r.obj->rev;
    c->ring[(c->ring_at + c->ring_n++) % c->ring_cap] = r;
}

static const struct wc_record *ring_at(const struct cache *c, uint64_t seq) {
    return &c->ring[(c->ring_at + (size_t)(seq - c->base)) % c->ring_cap];
}

/* ---- the feed ---- */

static int cmp_prefix(const void *a, const void *b) {
    const struct cache *const *x = a, *const *y = b;
    return strcmp((*x)->res->key_prefix, (*y)->res->key_prefix);
}

/* The cache whose prefix starts `key`; *rest is what follows the prefix. */
static struct cache *cache_of(struct watchcache *w, const char *key, const char **rest) {
    size_t lo = 0, hi = w->n_by_prefix;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const char *prefix = w->by_prefix[mid]->res->key_prefix;
        size_t n = strlen(prefix);
        int cmp = strncmp(key, prefix, n);
        if (cmp == 0) {
            *rest = key + n;
            return w->by_prefix[mid];
        }
        if (cmp > 0) lo = mid + 1;
        else hi = mid;
    }
    return NULL;
}

static void keep_pending(struct cache *c, const char *key, const struct store_event *ev) {
    struct object *o = ev->op == STORE_DELETE ? NULL : object_new(c->res, key, ev->value, ev->value_len, ev->create_rev, ev->mod_rev);
    VEC_GROW(c->pending, c->n_pending, c->cap_pending);
    c->pending[c->n_pending++] = (struct pending){xstrdup(key), o, ev->mod_rev};
}

static void apply_event(struct watchcache *w, const struct store_event *ev) {
    const char *rest;
    struct cache *c = cache_of(w, ev->key, &rest);
    if (!c) return;
    if (c->loading) {
        keep_pending(c, rest, ev);
        return;
    }
    struct object *prev = object_ref(items_get(c, rest));
    if (ev->op == STORE_DELETE) {
        if (!prev) return;
        struct object *last = object_at_rev(prev, ev->mod_rev);
        items_del(c, rest);
        ring_push(c, (struct wc_record){WC_DELETED, last, prev});
        return;
    }
    struct object *o = object_new(c->res, rest, ev->value, ev->value_len, ev->create_rev, ev->mod_rev);
    if (!o) { /* not ours to show: what was there is no longer true */
        if (prev) items_del(c, rest);
        object_unref(prev);
        return;
    }
    items_put(c, o);
    ring_push(c, (struct wc_record){prev ? WC_MODIFIED : WC_ADDED, o, prev});
}

static void wake_watches(struct cache *c) {
    for (struct wc_watch *x = c->watches; x; x = x->next) x->wake(x->arg);
}

static void reached(struct watchcache *w, int64_t rev, int error) {
    if (error) atomic_store(&w->error, error);
    if (rev > atomic_load(&w->rev)) atomic_store(&w->rev, rev);
    if (atomic_load(&w->waiters) || error) {
        pthread_mutex_lock(&w->wait_lock);
        pthread_cond_broadcast(&w->waited);
        pthread_mutex_unlock(&w->wait_lock);
    }
}

static void *reload(void *arg);

static void reloader_join(struct watchcache *w) {
    pthread_mutex_lock(&w->wait_lock);
    bool there = w->reloading;
    w->reloading = false;
    pthread_mutex_unlock(&w->wait_lock);
    if (there) pthread_join(w->reloader, NULL);
}

/* History was compacted before the feed came to it (the store was out of reach for long): all is loaded anew. */
static void start_reload(struct watchcache *w) {
    reloader_join(w); /* the one that made this feed */
    pthread_mutex_lock(&w->wait_lock);
    w->reloading = !w->closing && pthread_create(&w->reloader, NULL, reload, w) == 0;
    pthread_mutex_unlock(&w->wait_lock);
}

static void on_events(void *arg, const struct store_event *events, size_t n, int64_t rev, int error) {
    struct watchcache *w = arg;
    if (n) {
        struct cache *last = NULL;
        pthread_rwlock_wrlock(&w->lock);
        for (size_t i = 0; i < n; i++) apply_event(w, &events[i]);
        int64_t top = rev > events[n - 1].mod_rev ? rev : events[n - 1].mod_rev;
        if (top > atomic_load(&w->rev)) atomic_store(&w->rev, top);
        for (size_t i = 0; i < n; i++) {
            const char *rest;
            struct cache *c = cache_of(w, events[i].key, &rest);
            if (c && c != last) wake_watches(c);
            last = c;
        }
        pthread_rwlock_unlock(&w->lock);
        rev = top;
    }
    reached(w, rev, error);
    if (error == -ESTALE) start_reload(w);
}

static int load(struct watchcache *w, int64_t *rev, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store_list l;
    int rc = store_list(w->store, a, "/registry/", NULL, 0, 0, &l, e);
    if (rc) return rc;
    for (size_t i = 0; i < l.n; i++) {
        const char *rest;
        struct cache *c = cache_of(w, l.items[i].key, &rest);
        struct object *o = c ? object_new(c->res, rest, l.items[i].value, l.items[i].value_len, l.items[i].create_rev,
                                          l.items[i].mod_rev)
                             : NULL;
        if (!o) continue;
        items_put(c, o);
        if (o->rev > c->changed) c->changed = o->rev;
        object_unref(o);
    }
    for (size_t i = 0; i < w->n_by_prefix; i++) w->by_prefix[i]->floor = l.rev;
    *rev = l.rev;
    return 0;
}

static void drop_ring(struct cache *c);
static void pending_done(struct cache *c);

/* Empties a cache and ends its watches: between what it had and what comes next events are missing. */
static void cache_clear(struct cache *c, int64_t rev) {
    for (size_t i = 0; i < c->n; i++) object_unref(c->items[i]);
    c->n = 0;
    drop_ring(c);
    c->base++; /* behind every cursor */
    pending_done(c);
    c->loading = false;
    c->floor = c->changed = rev;
}

static int load_again(struct watchcache *w, int64_t *rev, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store_list l;
    int rc = store_list(w->store, a, "/registry/", NULL, 0, 0, &l, e);
    if (rc) return rc;
    pthread_rwlock_wrlock(&w->lock);
    for (size_t i = 0; i < w->n_by_prefix; i++) cache_clear(w->by_prefix[i], l.rev);
    for (size_t i = 0; i < l.n; i++) {
        const struct store_kv *kv = &l.items[i];
        const char *rest;
        struct cache *c = cache_of(w, kv->key, &rest);
        struct object *o = c ? object_new(c->res, rest, kv->value, kv->value_len, kv->create_rev, kv->mod_rev) : NULL;
        if (o) items_put(c, o);
        object_unref(o);
    }
    for (size_t i = 0; i < w->n_by_prefix; i++) wake_watches(w->by_prefix[i]);
    pthread_rwlock_unlock(&w->lock);
    *rev = l.rev;
    return 0;
}

enum { RELOAD_PAUSE_MS = 500 };

static void *reload(void *arg) {
    struct watchcache *w = arg;
    int64_t rev;
    for (bool done = false; !done;) {
        struct store_watch *feed = NULL, *old = NULL;
        pthread_mutex_lock(&w->wait_lock);
        bool stop = w->closing;
        pthread_mutex_unlock(&w->wait_lock);
        if (stop) return NULL;
        if (load_again(w, &rev, NULL)) {
            usleep(RELOAD_PAUSE_MS * 1000);
            continue;
        }
        pthread_mutex_lock(&w->wait_lock);
        old = w->feed;
        w->feed = NULL;
        pthread_mutex_unlock(&w->wait_lock);
        store_watch_cancel(old);
        atomic_store(&w->rev, rev);
        atomic_store(&w->error, 0);
        done = store_watch(w->store, "/registry/", rev, on_events, w, &feed, NULL) == 0;
        if (!done) atomic_store(&w->error, -EAGAIN);
        pthread_mutex_lock(&w->wait_lock);
        w->feed = feed;
        pthread_mutex_unlock(&w->wait_lock);
    }
    return NULL;
}

static void link_prefix(struct watchcache *w, struct cache *c) {
    VEC_GROW(w->by_prefix, w->n_by_prefix, w->cap_by_prefix);
    w->by_prefix[w->n_by_prefix++] = c;
    qsort(w->by_prefix, w->n_by_prefix, sizeof(*w->by_prefix), cmp_prefix);
}

static struct cache *new_cache(struct watchcache *w, const struct resource *r) {
    struct cache *c = xcalloc(1, sizeof(*c));
    c->res = r;
    while (w->n_caches <= r->cache) {
        VEC_GROW(w->caches, w->n_caches, w->cap_caches);
        w->caches[w->n_caches++] = NULL;
    }
    w->caches[r->cache] = c;
    return c;
}

int watchcache_open(struct store *s, const struct resource_table *t, struct watchcache **out, struct err *e) {
    struct watchcache *w = xcalloc(1, sizeof(*w));
    w->store = s;
    pthread_rwlock_init(&w->lock, NULL);
    pthread_mutex_init(&w->wait_lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->waited, &attr);
    pthread_condattr_destroy(&attr);
    for (size_t i = 0; i < resource_table_len(t); i++) {
        const struct resource *r = resource_table_at(t, i);
        if (r->storage) continue;
        struct cache *c = new_cache(w, r);
        if (r->stored == RES_STORED) link_prefix(w, c);
    }
    int64_t rev = 0;
    int rc = load(w, &rev, e);
    atomic_store(&w->rev, rev);
    if (!rc) rc = store_watch(s, "/registry/", rev, on_events, w, &w->feed, e);
    if (rc) {
        watchcache_close(w);
        return rc;
    }
    *out = w;
    return 0;
}

static void pending_done(struct cache *c) {
    for (size_t i = 0; i < c->n_pending; i++) {
        free(c->pending[i].key);
        object_unref(c->pending[i].obj);
    }
    free(c->pending);
    c->pending = NULL;
    c->n_pending = c->cap_pending = 0;
}

static void drop_ring(struct cache *c) {
    for (size_t j = 0; j < c->ring_n; j++) record_done(&c->ring[(c->ring_at + j) % c->ring_cap]);
    free(c->ring);
    c->ring = NULL;
    c->base += c->ring_n;
    c->ring_n = c->ring_cap = c->ring_at = 0;
}

static void cache_free(struct cache *c) {
    if (!c) return;
    for (size_t j = 0; j < c->n; j++) object_unref(c->items[j]);
    drop_ring(c);
    pending_done(c);
    free(c->items);
    free(c);
}

void watchcache_close(struct watchcache *w) {
    if (!w) return;
    pthread_mutex_lock(&w->wait_lock);
    w->closing = true;
    pthread_mutex_unlock(&w->wait_lock);
    reloader_join(w);
    store_watch_cancel(w->feed);
    reloader_join(w);
    for (size_t i = 0; i < w->n_caches; i++) cache_free(w->caches[i]);
    free(w->caches);
    free(w->by_prefix);
    pthread_rwlock_destroy(&w->lock);
    pthread_mutex_destroy(&w->wait_lock);
    pthread_cond_destroy(&w->waited);
    free(w);
}

/* Under the lock: the array of caches grows. NULL for a row that has none yet. */
static struct cache *cache_for(struct watchcache *w, const struct resource *r) {
    unsigned at = resource_stored(r)->cache;
    return at < w->n_caches ? w->caches[at] : NULL;
}

/* ---- caches of custom resources ---- */

static bool same_fields(const struct resource *x, const struct resource *y) {
    size_t i = 0;
    if (!x->fields || !y->fields) return x->fields == y->fields;
    while (x->fields[i] && str_eq(x->fields[i], y->fields[i])) i++;
    return !x->fields[i] && !y->fields[i];
}

/* Objects know the values of the selectable fields that their row had when they were made. */
static void use_row(struct cache *c, const struct resource *r) {
    bool same = same_fields(c->res, r);
    c->res = r;
    for (size_t i = 0; i < c->n && !same; i++) {
        struct object *o = c->items[i], *fresh = object_new_tail(r, o);
        if (!fresh) continue;
        c->items[i] = fresh;
        object_unref(o);
    }
}

/* Puts what the store had at `l->rev` and what happened since into the cache. */
static void fill_cache(struct cache *c, const struct store_list *l) {
    size_t skip = strlen(c->res->key_prefix);
    for (size_t i = 0; i < l->n; i++) {
        const struct store_kv *kv = &l->items[i];
        struct object *o = object_new(c->res, kv->key + skip, kv->value, kv->value_len, kv->create_rev, kv->mod_rev);
        if (!o) continue;
        items_put(c, o);
        if (o->rev > c->changed) c->changed = o->rev;
        object_unref(o);
    }
    c->floor = l->rev;
    for (size_t i = 0; i < c->n_pending; i++) {
        struct pending *p = &c->pending[i];
        if (p->rev <= l->rev) continue;
        c->floor = c->changed = p->rev;
        if (p->obj) items_put(c, p->obj);
        else items_del(c, p->key);
    }
    c->loading = false;
    pending_done(c);
}

int watchcache_add(struct watchcache *w, const struct resource *r, struct err *e) {
    struct store_list l;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_rwlock_wrlock(&w->lock);
    struct cache *c = cache_for(w, r);
    bool fresh = !c, failed = c && c->loading; /* an earlier try met an error of the store */
    if (fresh) {
        c = new_cache(w, r);
        c->loading = true;
        link_prefix(w, c);
    } else {
        use_row(c, r);
    }
    pthread_rwlock_unlock(&w->lock);
    if (!fresh && !failed) return 0;
    int rc = store_list(w->store, a, r->key_prefix, NULL, 0, 0, &l, e);
    if (rc) return rc;
    pthread_rwlock_wrlock(&w->lock);
    if (c->loading) fill_cache(c, &l); /* else all was loaded anew meanwhile */
    pthread_rwlock_unlock(&w->lock);
    return 0;
}

void watchcache_replace(struct watchcache *w, const struct object *was, struct object *now) {
    bool found;
    pthread_rwlock_wrlock(&w->lock);
    struct cache *c = cache_for(w, was->res);
    size_t at = c ? find_slot(c, was->key, &found) : 0;
    if (c && found && c->items[at] == was) {
        c->items[at] = object_ref(now);
        object_unref((struct object *)was);
    }
    pthread_rwlock_unlock(&w->lock);
}

void watchcache_retire(struct watchcache *w, const struct resource *r) {
    pthread_rwlock_wrlock(&w->lock);
    struct cache *c = cache_for(w, r);
    if (c && !c->loading) {
        drop_ring(c);
        c->base++; /* behind every cursor */
        c->floor = atomic_load(&w->rev);
        wake_watches(c);
    }
    pthread_rwlock_unlock(&w->lock);
}

/* ---- freshness ---- */

int64_t watchcache_rev(struct watchcache *w) { return atomic_load(&w->rev); }
int watchcache_error(struct watchcache *w) { return atomic_load(&w->error); }

int watchcache_wait(struct watchcache *w, int64_t rev, int timeout_ms) {
    if (atomic_load(&w->rev) >= rev) return 0;
    if (timeout_ms <= 0) return -ETIMEDOUT;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + (int64_t)(timeout_ms % 1000) * NS_PER_MS;
    until.tv_sec += timeout_ms / 1000 + ns / NS_PER_SEC;
    until.tv_nsec = ns % NS_PER_SEC;
    int rc = 0;
    atomic_fetch_add(&w->waiters, 1);
    pthread_mutex_lock(&w->wait_lock);
    if (w->feed) store_watch_progress(w->feed);
    while (!rc && atomic_load(&w->rev) < rev && !atomic_load(&w->error))
        rc = pthread_cond_timedwait(&w->waited, &w->wait_lock, &until);
    pthread_mutex_unlock(&w->wait_lock);
    atomic_fetch_sub(&w->waiters, 1);
    return atomic_load(&w->rev) >= rev ? 0 : -ETIMEDOUT;
}

enum { SYNC_TIMEOUT_MS = 10000 };

int watchcache_sync(struct watchcache *w, struct err *e) {
    int64_t rev;
    int rc = store_current_rev(w->store, &rev, e);
    if (rc) return rc;
    if (watchcache_wait(w, rev, SYNC_TIMEOUT_MS) == 0) return 0;
    return err_status(e, 504, "Timeout", "the watch cache did not reach revision %lld in time", (long long)rev);
}

/* ---- reads ---- */


struct object *watchcache_get(struct watchcache *w, const struct resource *r, const char *ns, const char *name) {
    char key[600];
    int n = r->namespaced ? snprintf(key, sizeof(key), "%s/%s", str_or_empty(ns), name)
                          : snprintf(key, sizeof(key), "%s", name);
    if (n < 0 || (size_t)n >= sizeof(key)) return NULL;
    pthread_rwlock_rdlock(&w->lock);
    struct object *o = object_ref(items_get(cache_for(w, r), key));
    pthread_rwlock_unlock(&w->lock);
    return o;
}

struct object *watchcache_at(struct watchcache *w, const struct resource *r, const char *key, int64_t rev) {
    pthread_rwlock_rdlock(&w->lock);
    struct object *o = items_get(cache_for(w, r), key);
    o = o && o->rev == rev ? object_ref(o) : NULL;
    pthread_rwlock_unlock(&w->lock);
    return o;
}

static bool in_namespace(const struct object *o, const char *ns, size_t n) {
    return o->ns_len == n && memcmp(o->key, ns, n) == 0;
}

/* Where a list starts: the first key of the namespace, or the first behind `after`. */
static size_t list_start(const struct cache *c, const char *ns, const char *after) {
    bool found;
    char prefix[300];
    size_t at = 0;
    if (ns) {
        snprintf(prefix, sizeof(prefix), "%s/", ns);
        at = find_slot(c, prefix, &found);
    }
    if (after) {
        size_t b = find_slot(c, after, &found);
        if (found) b++;
        if (b > at) at = b;
    }
    return at;
}

static void list_locked(struct cache *c, const char *ns, const struct selector *sel, const char *after, size_t limit,
                        struct wc_list *out) {
    size_t cap = 0, ns_len = ns ? strlen(ns) : 0, i;
    bool all = !sel || selector_empty(sel);
    if (!ns && all && c->n) {
        cap = limit && limit < c->n ? limit : c->n;
        out->items = xmalloc(cap * sizeof(*out->items));
    }
    for (i = list_start(c, ns, after); i < c->n; i++) {
        struct object *o = c->items[i];
        if (ns && !in_namespace(o, ns, ns_len)) break;
        if (!all && !selector_match(sel, o)) continue;
        if (limit && out->n == limit) {
            out->more = true;
            break;
        }
        VEC_GROW(out->items, out->n, cap);
        out->items[out->n++] = object_ref(o);
    }
    out->remaining = -1;
    if (out->more && all) {
        out->remaining = 0;
        for (; i < c->n && (!ns || in_namespace(c->items[i], ns, ns_len)); i++) out->remaining++;
    }
}

void watchcache_list(struct watchcache *w, const struct resource *r, const char *ns, const struct selector *sel,
                     const char *after, size_t limit, struct wc_list *out) {
    *out = (struct wc_list){0};
    pthread_rwlock_rdlock(&w->lock);
    list_locked(cache_for(w, r), ns, sel, after, limit, out);
    out->rev = atomic_load(&w->rev);
    pthread_rwlock_unlock(&w->lock);
}

void wc_list_done(struct wc_list *l) {
    for (size_t i = 0; i < l->n; i++) object_unref(l->items[i]);
    free(l->items);
    *l = (struct wc_list){0};
}

size_t watchcache_count(struct watchcache *w, const struct resource *r) {
    pthread_rwlock_rdlock(&w->lock);
    size_t n = cache_for(w, r)->n;
    pthread_rwlock_unlock(&w->lock);
    return n;
}

int64_t watchcache_changed_rev(struct watchcache *w, const struct resource *r) {
    pthread_rwlock_rdlock(&w->lock);
    int64_t rev = cache_for(w, r)->changed;
    pthread_rwlock_unlock(&w->lock);
    return rev;
}

/* ---- watches ---- */

static struct wc_watch *watch_make(struct watchcache *wc, const struct resource *r, const char *ns,
                                   const struct selector *sel, wc_wake_fn *wake, void *arg) {
    struct wc_watch *x = xcalloc(1, sizeof(*x));
    x->wc = wc;
    pthread_rwlock_rdlock(&wc->lock);
    x->c = cache_for(wc, r);
    pthread_rwlock_unlock(&wc->lock);
    x->ns = ns ? xstrdup(ns) : NULL;
    x->sel = sel && !selector_empty(sel) ? selector_dup(sel) : NULL;
    x->wake = wake;
    x->arg = arg;
    return x;
}

static void watch_link(struct wc_watch *x) {
    x->next = x->c->watches;
    if (x->next) x->next->pprev = &x->next;
    x->pprev = &x->c->watches;
    x->c->watches = x;
}

int wc_watch_new(struct watchcache *w, const struct resource *r, const char *ns, const struct selector *sel,
                 int64_t rev, wc_wake_fn *wake, void *arg, struct wc_watch **out) {
    struct wc_watch *x = watch_make(w, r, ns, sel, wake, arg);
    int rc = 0;
    pthread_rwlock_wrlock(&w->lock);
    struct cache *c = x->c;
    x->after = rev;
    if (rev < c->floor) {
        rc = -ESTALE;
    } else {
        size_t lo = 0, hi = c->ring_n; /* the first event after rev */
        while (lo < hi) {
            size_t mid = lo + (hi - lo) / 2;
            if (ring_at(c, c->base + mid)->obj->rev <= rev) lo = mid + 1;
            else hi = mid;
        }
        x->cursor = c->base + lo;
        watch_link(x);
    }
    pthread_rwlock_unlock(&w->lock);
    if (rc) {
        wc_watch_free(x);
        return rc;
    }
    *out = x;
    return 0;
}

void wc_watch_new_list(struct watchcache *w, const struct resource *r, const char *ns, const struct selector *sel,
                       wc_wake_fn *wake, void *arg, struct wc_list *list, struct wc_watch **out) {
    struct wc_watch *x = watch_make(w, r, ns, sel, wake, arg);
    *list = (struct wc_list){0};
    pthread_rwlock_wrlock(&w->lock);
    list_locked(x->c, ns, sel, NULL, 0, list);
    list->rev = atomic_load(&w->rev);
    x->cursor = x->c->base + x->c->ring_n;
    watch_link(x);
    pthread_rwlock_unlock(&w->lock);
    *out = x;
}

/* What a record means to this watch: 1 with *out, 0 when nothing. An object that stops matching is deleted to it. */
static int translate(const struct wc_watch *x, const struct wc_record *r, struct wc_event *out) {
    if (r->obj->rev <= x->after || (x->ns && !in_namespace(r->obj, x->ns, strlen(x->ns)))) return 0;
    bool now = r->type != WC_DELETED && (!x->sel || selector_match(x->sel, r->obj));
    bool before = r->prev && (!x->sel || selector_match(x->sel, r->prev));
    if (now) {
        *out = (struct wc_event){before ? WC_MODIFIED : WC_ADDED, object_ref(r->obj)};
        return 1;
    }
    if (!before) return 0;
    out->type = WC_DELETED;
    out->object = r->type == WC_DELETED ? object_ref(r->obj) : object_at_rev(r->prev, r->obj->rev);
    return out->object != NULL;
}

int wc_watch_next(struct wc_watch *x, struct wc_event *out, int64_t *rev) {
    int rc = 0;
    pthread_rwlock_rdlock(&x->wc->lock);
    const struct cache *c = x->c;
    if (x->cursor < c->base) rc = -ESTALE;
    while (!rc && x->cursor < c->base + c->ring_n) rc = translate(x, ring_at(c, x->cursor++), out);
    if (rev) *rev = atomic_load(&x->wc->rev);
    pthread_rwlock_unlock(&x->wc->lock);
    return rc;
}

void wc_watch_free(struct wc_watch *x) {
    if (!x) return;
    if (x->pprev) {
        pthread_rwlock_wrlock(&x->wc->lock);
        *x->pprev = x->next;
        if (x->next) x->next->pprev = x->pprev;
        pthread_rwlock_unlock(&x->wc->lock);
    }
    selector_free(x->sel);
    free(x->ns);
    free(x);
}
