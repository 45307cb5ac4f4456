#include "apiserver/follow.h"

#include <pthread.h>

#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

enum { FOLLOW_MAX = 8, AGAIN_MS = 500 };

struct follower {
    struct watchcache *cache;
    const struct resource *res[FOLLOW_MAX];
    struct wc_watch *watches[FOLLOW_MAX];
    struct map told[FOLLOW_MAX]; /* the objects as last told, by key: who falls behind must still hear of deletions */
    size_t n;
    follow_fn *fn;
    void (*again_fn)(void *arg);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool woken, stop, again; /* again: only touched by the functions' thread */
};

static void wake(void *arg) {
    struct follower *f = arg;
    pthread_mutex_lock(&f->lock);
    bool first = !f->woken;
    f->woken = true;
    pthread_mutex_unlock(&f->lock);
    if (first) pthread_cond_signal(&f->cond);
}

static void object_drop(void *o) { object_unref(o); }

static void tell(struct follower *f, size_t i, struct object *o, bool gone) {
    object_unref(gone ? map_del(&f->told[i], o->key) : map_put(&f->told[i], o->key, object_ref(o)));
    f->fn(f->arg, o, gone);
}

static void load(struct follower *f, size_t i) {
    struct wc_list l;
    struct map before = f->told[i];
    const char *key;
    void *o;
    size_t it = 0;
    f->told[i] = (struct map)MAP_INIT;
    wc_watch_free(f->watches[i]);
    wc_watch_new_list(f->cache, f->res[i], NULL, NULL, wake, f, &l, &f->watches[i]);
    for (size_t j = 0; j < l.n; j++) map_put(&f->told[i], l.items[j]->key, object_ref(l.items[j]));
    while (map_next(&before, &it, &key, &o))
        if (!map_has(&f->told[i], key)) f->fn(f->arg, o, true);
    for (size_t j = 0; j < l.n; j++) f->fn(f->arg, l.items[j], false);
    map_done_with(&before, object_drop);
    wc_list_done(&l);
}

static void drain(struct follower *f, size_t i) {
    struct wc_event ev;
    int rc;
    while ((rc = wc_watch_next(f->watches[i], &ev, NULL)) == 1) {
        tell(f, i, ev.object, ev.type == WC_DELETED);
        object_unref(ev.object);
    }
    if (rc < 0) load(f, i);
}

/* Waits for news, or for the time to try again. False when there is nothing but to stop. */
static bool wait(struct follower *f) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + AGAIN_MS * NS_PER_MS;
    until.tv_sec += ns / NS_PER_SEC;
    until.tv_nsec = ns % NS_PER_SEC;
    pthread_mutex_lock(&f->lock);
    int rc = 0;
    while (!f->stop && !f->woken && !rc)
        rc = f->again ? pthread_cond_timedwait(&f->cond, &f->lock, &until) : pthread_cond_wait(&f->cond, &f->lock);
    f->woken = false;
    bool stop = f->stop;
    pthread_mutex_unlock(&f->lock);
    return !stop;
}

static void *run(void *arg) {
    struct follower *f = arg;
    while (wait(f)) {
        for (size_t i = 0; i < f->n; i++) drain(f, i);
        if (!f->again) continue;
        f->again = false;
        if (f->again_fn) f->again_fn(f->arg);
    }
    return NULL;
}

struct follower *follower_new(struct watchcache *w, const struct resource *const *res, size_t n, follow_fn *fn,
                              void (*again)(void *arg), void *arg) {
    struct follower *f = xcalloc(1, sizeof(*f));
    pthread_condattr_t attr;
    f->cache = w;
    f->fn = fn;
    f->again_fn = again;
    f->again = again != NULL; /* what could not be done while loading */
    f->arg = arg;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&f->cond, &attr);
    pthread_condattr_destroy(&attr);
    for (size_t i = 0; i < n && f->n < FOLLOW_MAX; i++) {
        f->res[f->n++] = res[i];
        load(f, f->n - 1);
    }
    if (pthread_create(&f->thread, NULL, run, f)) {
        f->stop = true;
        f->thread = pthread_self();
        follower_free(f);
        return NULL;
    }
    return f;
}

void follower_again(struct follower *f) {
    if (f) f->again = true;
}

void follower_free(struct follower *f) {
    if (!f) return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_signal(&f->cond);
    pthread_mutex_unlock(&f->lock);
    if (!pthread_equal(f->thread, pthread_self())) pthread_join(f->thread, NULL);
    for (size_t i = 0; i < f->n; i++) {
        wc_watch_free(f->watches[i]);
        map_done_with(&f->told[i], object_drop);
    }
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->cond);
    free(f);
}
