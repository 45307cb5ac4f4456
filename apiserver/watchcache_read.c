/* Answers from the watch cache: how fresh it is, objects and lists, and watches, which read its ring at their own pace.
 * Readers take the lock shared and only copy references. */
#include "apiserver/watchcache_internal.h"

#include "pkg/base/ktime.h"

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
    struct object *o = object_ref(wc_item(wc_cache_for(w, r), key));
    pthread_rwlock_unlock(&w->lock);
    return o;
}

struct object *watchcache_at(struct watchcache *w, const struct resource *r, const char *key, int64_t rev) {
    pthread_rwlock_rdlock(&w->lock);
    struct object *o = wc_item(wc_cache_for(w, r), key);
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
        at = wc_find_slot(c, prefix, &found);
    }
    if (after) {
        size_t b = wc_find_slot(c, after, &found);
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
    list_locked(wc_cache_for(w, r), ns, sel, after, limit, out);
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
    size_t n = wc_cache_for(w, r)->n;
    pthread_rwlock_unlock(&w->lock);
    return n;
}

int64_t watchcache_changed_rev(struct watchcache *w, const struct resource *r) {
    pthread_rwlock_rdlock(&w->lock);
    int64_t rev = wc_cache_for(w, r)->changed;
    pthread_rwlock_unlock(&w->lock);
    return rev;
}

/* ---- watches ---- */

static struct wc_watch *watch_make(struct watchcache *wc, const struct resource *r, const char *ns,
                                   const struct selector *sel, wc_wake_fn *wake, void *arg) {
    struct wc_watch *x = xcalloc(1, sizeof(*x));
    x->wc = wc;
    pthread_rwlock_rdlock(&wc->lock);
    x->c = wc_cache_for(wc, r);
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
            if (wc_ring_at(c, c->base + mid)->obj->rev <= rev)
                lo = mid + 1;
            else
                hi = mid;
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
    while (!rc && x->cursor < c->base + c->ring_n) rc = translate(x, wc_ring_at(c, x->cursor++), out);
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
