/* The watch hub: delivers events to watches, in revision order, one thread at a time: the one that has just made them
 * durable (hub_deliver), so that what it did shows when it answers, or else a thread of the hub's.
 *
 * The back end publishes versions as they become durable; they wait in `pending`, which covers the revisions
 * (cover_after, published]. Each watch has a position: it has been given everything up to there. The thread takes the
 * pending versions and gives each watch what is beyond its position. A watch whose position lies before cover_after
 * (it is new and starts in the past, or pending ran over its limit and was dropped) is first brought up by `replay`,
 * which reads history from the back end. So there is one rule for old and new watches, and no gap between history and
 * live events: the position says it all.
 *
 * A slow watcher never blocks a writer: beyond HUB_PENDING_MAX bytes pending is dropped, and replay makes up for it. */
#include <pthread.h>
#include <time.h>

#include "pkg/base/ktime.h"
#include "pkg/store/internal.h"

enum {
    HUB_PENDING_MAX = 32 << 20, /* bytes of values waiting */
    HUB_CHUNK = 512,            /* events of one call */
    HUB_RETRY_MS = 200,         /* pause after a replay that failed */
};

struct store_watch {
    struct hub *hub;
    char *prefix;
    size_t prefix_len;
    int64_t pos;
    int64_t progress_at; /* a progress call is due when pos gets here; -1: none */
    store_watch_fn *fn;
    void *arg;
    unsigned refs;
    bool cancelled, ended;
    struct store_watch *next, **link;
};

struct hub {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the thread has something to do */
    pthread_cond_t idle; /* a callback has returned */
    pthread_t thread;
    bool stopping, joined, kick;
    bool in_round; /* some thread gives out a batch */
    bool waiting;  /* the hub's thread waits for that to end */
    hub_replay_fn *replay;
    void *replay_arg;
    int64_t published, cover_after, known;
    struct version_vec pending;
    size_t pending_bytes;
    struct store_watch *watches;
    size_t n_watches;
    struct store_watch *running; /* its callback is being called */
};

struct batch {
    struct version_vec items;
    int64_t after, to;
};

static void watch_unref(struct store_watch *w) {
    if (--w->refs) return;
    free(w->prefix);
    free(w);
}

static void watch_unlink(struct store_watch *w) {
    if (!w->link) return;
    *w->link = w->next;
    if (w->next) w->next->link = w->link;
    w->link = NULL;
    w->hub->n_watches--;
}

/* Calls the watcher; lock held on entry and exit. False when the watch is gone. */
static bool watch_call(struct hub *h, struct store_watch *w, const struct store_event *ev, size_t n, int64_t rev,
                       int error) {
    if (w->cancelled || w->ended || h->stopping) return false;
    if (error) w->ended = true;
    h->running = w;
    pthread_mutex_unlock(&h->lock);
    w->fn(w->arg, ev, n, rev, error);
    pthread_mutex_lock(&h->lock);
    h->running = NULL;
    pthread_cond_broadcast(&h->idle);
    return !w->cancelled && !w->ended;
}

static void event_fill(struct store_event *ev, const struct version *v) {
    *ev = (struct store_event){
        .op = v->deleted ? STORE_DELETE : STORE_PUT, .key = v->key, .create_rev = v->create_rev, .mod_rev = v->rev};
    if (v->value) ev->value = v->value->data, ev->value_len = v->value->len;
    if (v->prev) ev->prev_value = v->prev->data, ev->prev_len = v->prev->len;
}

/* Gives `w` what `items` hold beyond its position; then the position is `to`. */
static bool watch_deliver(struct hub *h, struct store_watch *w, const struct version_vec *items, int64_t to) {
    struct store_event evs[HUB_CHUNK];
    size_t n = 0;
    int64_t pos = w->pos;
    for (size_t i = 0; i < items->n; i++) {
        const struct version *v = items->items[i];
        if (v->rev <= pos || strncmp(v->key, w->prefix, w->prefix_len) != 0) continue;
        /* A full chunk goes out when the next revision starts; a revision larger than a chunk is split. */
        if (n == HUB_CHUNK || (n > HUB_CHUNK / 2 && evs[n - 1].mod_rev != v->rev)) {
            if (!watch_call(h, w, evs, n, evs[n - 1].mod_rev, 0)) return false;
            n = 0;
        }
        event_fill(&evs[n++], v);
    }
    if (n && !watch_call(h, w, evs, n, evs[n - 1].mod_rev, 0)) return false;
    if (to > w->pos) w->pos = to;
    return true;
}

/* Brings a watch that lies behind up to `to` from history. 0, -EAGAIN: later, or the watch is gone. */
static int watch_catch_up(struct hub *h, struct store_watch *w, int64_t to) {
    while (w->pos < to) {
        _cleanup_version_vec_ struct version_vec items = {0};
        int64_t reached = w->pos;
        pthread_mutex_unlock(&h->lock);
        int r = h->replay(h->replay_arg, w->prefix, w->pos, to, HUB_CHUNK, &items, &reached);
        pthread_mutex_lock(&h->lock);
        if (r == -ESTALE) {
            watch_call(h, w, NULL, 0, w->pos, -ESTALE);
            return -ESTALE;
        }
        if (r < 0 || reached <= w->pos) return -EAGAIN;
        if (!watch_deliver(h, w, &items, reached)) return -ECANCELED;
    }
    return 0;
}

static bool watch_serve(struct hub *h, struct store_watch *w, const struct batch *b) {
    if (w->cancelled || w->ended) return true;
    int r = watch_catch_up(h, w, b->after);
    if (r == -EAGAIN) return false;
    if (r < 0 || !watch_deliver(h, w, &b->items, b->to)) return true;
    if (w->progress_at >= 0 && w->pos >= w->progress_at) {
        w->progress_at = -1;
        watch_call(h, w, NULL, 0, w->pos, 0);
    }
    return true;
}

/* One round: every watch gets what is new. False when a watch could not be served and needs another try. One thread
 * at a time, or events would overtake each other. */
static bool hub_round(struct hub *h) {
    h->in_round = true;
    struct batch b = {.items = h->pending, .after = h->cover_after, .to = h->published};
    h->pending = (struct version_vec){0};
    h->pending_bytes = 0;
    h->cover_after = h->published;
    size_t n = h->n_watches, i = 0;
    struct store_watch **all = xmalloc((n + 1) * sizeof(struct store_watch *));
    for (struct store_watch *w = h->watches; w; w = w->next) {
        w->refs++;
        all[i++] = w;
    }
    bool ok = true;
    for (i = 0; i < n; i++) {
        ok &= watch_serve(h, all[i], &b);
        watch_unref(all[i]);
    }
    pthread_mutex_unlock(&h->lock);
    free(all);
    version_vec_done(&b.items);
    pthread_mutex_lock(&h->lock);
    h->in_round = false;
    if (h->waiting) pthread_cond_signal(&h->wake);
    return ok;
}

static void *hub_main(void *arg) {
    struct hub *h = arg;
    pthread_mutex_lock(&h->lock);
    while (!h->stopping) {
        if (!h->kick || h->in_round) {
            h->waiting = h->kick;
            pthread_cond_wait(&h->wake, &h->lock);
            h->waiting = false;
            continue;
        }
        h->kick = false;
        if (hub_round(h)) continue;
        struct timespec ts;
        clock_gettime(CLOCK_MONOTONIC, &ts);
        int64_t ns = ts.tv_nsec + HUB_RETRY_MS * NS_PER_MS;
        ts.tv_sec += ns / NS_PER_SEC, ts.tv_nsec = ns % NS_PER_SEC;
        if (!h->stopping) pthread_cond_timedwait(&h->wake, &h->lock, &ts);
        h->kick = true;
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

struct hub *hub_new(int64_t rev, hub_replay_fn *replay, void *arg) {
    struct hub *h = xcalloc(1, sizeof(*h));
    h->published = h->cover_after = h->known = rev;
    h->replay = replay;
    h->replay_arg = arg;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&h->wake, &ca);
    pthread_condattr_destroy(&ca);
    pthread_cond_init(&h->idle, NULL);
    if (pthread_create(&h->thread, NULL, hub_main, h) != 0) abort();
    return h;
}

void hub_stop(struct hub *h) {
    if (!h || h->joined) return;
    pthread_mutex_lock(&h->lock);
    h->stopping = true;
    pthread_cond_broadcast(&h->wake);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    h->joined = true;
}

void hub_free(struct hub *h) {
    if (!h) return;
    hub_stop(h);
    while (h->watches) {
        struct store_watch *w = h->watches;
        watch_unlink(w);
        watch_unref(w);
    }
    version_vec_done(&h->pending);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->wake);
    pthread_cond_destroy(&h->idle);
    free(h);
}

static void pending_drop(struct hub *h) {
    version_vec_done(&h->pending);
    h->pending_bytes = 0;
    h->cover_after = h->published;
}

void hub_publish(struct hub *h, struct version *const *items, size_t n, int64_t rev, bool deliver) {
    bool wake = false;
    pthread_mutex_lock(&h->lock);
    if (h->watches) {
        for (size_t i = 0; i < n; i++) {
            version_vec_add(&h->pending, version_ref(items[i]));
            h->pending_bytes += sizeof(struct version) + (items[i]->value ? items[i]->value->len : 0);
        }
        h->kick = true;
        wake = !deliver;
    }
    if (rev > h->published) h->published = rev;
    if (rev > h->known) h->known = rev;
    if (!h->watches || h->pending_bytes > HUB_PENDING_MAX) pending_drop(h);
    pthread_mutex_unlock(&h->lock);
    if (wake) pthread_cond_signal(&h->wake);
}

/* No watch has to be brought up from history first. */
static bool all_live(const struct hub *h) {
    for (const struct store_watch *w = h->watches; w; w = w->next)
        if (!w->cancelled && !w->ended && w->pos < h->cover_after) return false;
    return true;
}

void hub_deliver(struct hub *h) {
    pthread_mutex_lock(&h->lock);
    bool due = h->kick;
    if (due && !h->in_round && !h->stopping && all_live(h)) {
        h->kick = false;
        h->kick |= due = !hub_round(h);
    }
    pthread_mutex_unlock(&h->lock);
    if (due) pthread_cond_signal(&h->wake);
}

void hub_skip_to(struct hub *h, int64_t rev) {
    pthread_mutex_lock(&h->lock);
    if (rev > h->published) h->published = rev;
    if (rev > h->known) h->known = rev;
    pending_drop(h);
    h->kick = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

int64_t hub_rev(struct hub *h) {
    pthread_mutex_lock(&h->lock);
    int64_t rev = h->published;
    pthread_mutex_unlock(&h->lock);
    return rev;
}

void hub_note_rev(struct hub *h, int64_t rev) {
    pthread_mutex_lock(&h->lock);
    if (rev > h->known) h->known = rev;
    pthread_mutex_unlock(&h->lock);
}

void hub_watch(struct hub *h, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
               struct store_watch **out) {
    struct store_watch *w = xcalloc(1, sizeof(*w));
    w->hub = h;
    w->prefix = xstrdup(prefix);
    w->prefix_len = strlen(prefix);
    w->pos = after_rev;
    w->progress_at = -1;
    w->fn = fn;
    w->arg = arg;
    w->refs = 1;
    pthread_mutex_lock(&h->lock);
    *out = w; /* before the first callback can run */
    w->next = h->watches;
    w->link = &h->watches;
    if (w->next) w->next->link = &w->next;
    h->watches = w;
    h->n_watches++;
    h->kick = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

void store_watch_progress(struct store_watch *w) {
    struct hub *h = w->hub;
    pthread_mutex_lock(&h->lock);
    w->progress_at = h->known;
    h->kick = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

void store_watch_cancel(struct store_watch *w) {
    if (!w) return;
    struct hub *h = w->hub;
    pthread_mutex_lock(&h->lock);
    w->cancelled = true;
    while (h->running == w) pthread_cond_wait(&h->idle, &h->lock);
    watch_unlink(w);
    watch_unref(w);
    pthread_mutex_unlock(&h->lock);
}
