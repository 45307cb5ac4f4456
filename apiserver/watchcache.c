/* The watch cache. Invariants, under `lock`:
 *   - a cache's items are sorted by key, without gaps or doubles, and show the state at `rev`;
 *   - its ring holds the last `n` events in revision order; every event after `floor` is in it;
 *   - a watch's cursor is a sequence number: base + position in the ring.
 * The feed's callback, which runs on one thread at a time, is the only writer. watchcache_read.c has the readers. */
#include "apiserver/watchcache_internal.h"

#include "pkg/base/ktime.h"

/* ---- the caches' items ---- */

static void items_put(struct cache *c, struct object *o) {
    bool found = false;
    /* loading and most creations come in order: look at the end first */
    size_t at = c->n && strcmp(c->items[c->n - 1]->key, o->key) < 0 ? c->n : wc_find_slot(c, o->key, &found);
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
    size_t at = wc_find_slot(c, key, &found);
    if (!found) return;
    object_unref(c->items[at]);
    memmove(c->items + at, c->items + at + 1, (c->n - at - 1) * sizeof(*c->items));
    c->n--;
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
        if (cmp > 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static void keep_pending(struct cache *c, const char *key, const struct store_event *ev) {
    struct object *o =
        ev->op == STORE_DELETE ? NULL : object_new(c->res, key, ev->value, ev->value_len, ev->create_rev, ev->mod_rev);
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
    struct object *prev = object_ref(wc_item(c, rest));
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
        if (p->obj)
            items_put(c, p->obj);
        else
            items_del(c, p->key);
    }
    c->loading = false;
    pending_done(c);
}

int watchcache_add(struct watchcache *w, const struct resource *r, struct err *e) {
    struct store_list l;
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_rwlock_wrlock(&w->lock);
    struct cache *c = wc_cache_for(w, r);
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
    struct cache *c = wc_cache_for(w, was->res);
    size_t at = c ? wc_find_slot(c, was->key, &found) : 0;
    if (c && found && c->items[at] == was) {
        c->items[at] = object_ref(now);
        object_unref((struct object *)was);
    }
    pthread_rwlock_unlock(&w->lock);
}

void watchcache_retire(struct watchcache *w, const struct resource *r) {
    pthread_rwlock_wrlock(&w->lock);
    struct cache *c = wc_cache_for(w, r);
    if (c && !c->loading) {
        drop_ring(c);
        c->base++; /* behind every cursor */
        c->floor = atomic_load(&w->rev);
        wake_watches(c);
    }
    pthread_rwlock_unlock(&w->lock);
}
