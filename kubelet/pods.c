/* The table of workers and their threads. See pods.h. */
#include "kubelet/pods.h"

#include <time.h>

#include "kubelet/checkpoint.h"
#include "kubelet/resize.h"

struct pods {
    struct kubelet *kl;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    struct map workers; /* uid -> struct pod_worker, with a reference */
    unsigned threads;
};

struct pods *pods_new(struct kubelet *kl) {
    struct pods *p = xcalloc(1, sizeof(*p));
    p->kl = kl;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->idle, NULL);
    return p;
}

/* ---- a worker ---- */

static void track_free(struct container_track *t) {
    image_track_done(&t->image);
    free(t->name);
    free(t->reason);
    free(t->message);
    free(t);
}

void worker_unref(struct pod_worker *w) {
    if (!w || --w->refs) return;
    object_unref(w->pod);
    arena_free(w->status_arena);
    arena_free(w->arena);
    resize_done(w);
    for (struct container_track *t = w->tracks, *next; t; t = next) {
        next = t->next;
        track_free(t);
    }
    free(w->forced_reason);
    free(w->forced_message);
    free(w->uid);
    pthread_cond_destroy(&w->cond);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

struct container_track *worker_track(struct pod_worker *w, const char *container) {
    for (struct container_track *t = w->tracks; t; t = t->next)
        if (str_eq(t->name, container)) return t;
    struct container_track *t = xcalloc(1, sizeof(*t));
    t->name = xstrdup(container);
    int64_t most = w->kl->cfg.crash_loop_max_ns;
    backoff_init(&t->restart, MIN_OF(BACKOFF_INITIAL, most), most);
    t->next = w->tracks;
    w->tracks = t;
    return t;
}

void track_note(struct container_track *t, const char *reason, const char *message) {
    free(t->reason);
    free(t->message);
    t->reason = reason ? xstrdup(reason) : NULL;
    t->message = message ? xstrdup(message) : NULL;
}

static struct pod_worker *worker_new(struct pods *p, struct object *pod) {
    struct pod_worker *w = xcalloc(1, sizeof(*w));
    w->kl = p->kl;
    w->pods = p;
    w->refs = 1;
    w->uid = xstrdup(pod->meta->uid);
    w->pod = object_ref(pod);
    w->forced_grace = -1;
    w->seen_at = mono_ns();
    w->start_noted = str_eq(((const struct core_pod *)pod->obj)->status.phase, "Running"); /* by an earlier kubelet */
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&w->cond, &ca);
    pthread_condattr_destroy(&ca);
    return w;
}

/* Waits for something to do. False when the thread is to end: shutdown, or nothing left to wait for. */
static bool worker_wait(struct pod_worker *w) {
    pthread_mutex_lock(&w->lock);
    while (!w->wake && !w->kl->stopping && (!w->due || mono_ns() < w->due)) {
        if (w->state == WORKER_TERMINATED && !w->due) break;
        if (!w->due) {
            pthread_cond_wait(&w->cond, &w->lock);
            continue;
        }
        struct timespec ts = {(time_t)(w->due / NS_PER_SEC), (long)(w->due % NS_PER_SEC)};
        pthread_cond_timedwait(&w->cond, &w->lock, &ts);
    }
    bool go = !w->kl->stopping && (w->wake || (w->due && mono_ns() >= w->due));
    w->wake = false;
    w->due = 0;
    if (!go) { /* from here on another thread may be started for the pod */
        arena_free(w->arena);
        w->arena = NULL;
        w->running = false;
    }
    pthread_mutex_unlock(&w->lock);
    return go;
}

static void *worker_main(void *arg) {
    struct pod_worker *w = arg;
    struct pods *p = w->pods;
    while (worker_wait(w)) {
        int64_t next = worker_sync(w);
        pthread_mutex_lock(&w->lock);
        if (next && w->state != WORKER_GONE) w->due = mono_ns() + next;
        bool gone = w->state == WORKER_GONE;
        if (gone) w->running = false;
        pthread_mutex_unlock(&w->lock);
        if (gone) break;
    }
    pthread_mutex_lock(&w->lock);
    bool gone = w->state == WORKER_GONE;
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_lock(&p->lock);
    if (gone && map_get(&p->workers, w->uid) == w) {
        map_del(&p->workers, w->uid);
        worker_unref(w);
    }
    worker_unref(w);
    p->threads--;
    pthread_cond_broadcast(&p->idle);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

void worker_kick(struct pod_worker *w) {
    pthread_mutex_lock(&w->pods->lock);
    pthread_mutex_lock(&w->lock);
    w->wake = true;
    if (w->running) {
        pthread_cond_broadcast(&w->cond);
    } else if (!w->kl->stopping && w->state != WORKER_GONE) {
        w->running = true;
        w->refs++;
        w->pods->threads++;
        int r = kubelet_thread(NULL, worker_main, w, true);
        if (r < 0) {
            w->running = false;
            w->pods->threads--;
            w->refs--;
            log_error("cannot start a pod's worker", "pod", w->pod->key, "error", strerror(-r), NULL);
        }
    }
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_unlock(&w->pods->lock);
}

struct object *worker_pod(struct pod_worker *w) {
    pthread_mutex_lock(&w->lock);
    struct object *o = object_ref(w->pod);
    pthread_mutex_unlock(&w->lock);
    return o;
}

struct core_pod_status *worker_status(struct pod_worker *w, struct arena *a) {
    pthread_mutex_lock(&w->lock);
    struct core_pod_status *s = w->status ? api_clone(a, &api_core_pod_status, w->status) : NULL;
    pthread_mutex_unlock(&w->lock);
    return s;
}

/* ---- the table ---- */

void pods_free(struct pods *p) {
    if (!p) return;
    size_t n;
    struct pod_worker **all = pods_all(p, &n);
    for (size_t i = 0; i < n; i++) {
        worker_kick(all[i]);
        worker_unref(all[i]);
    }
    free(all);
    pthread_mutex_lock(&p->lock);
    while (p->threads) pthread_cond_wait(&p->idle, &p->lock);
    size_t it = 0;
    const char *key;
    void *value;
    while (map_next(&p->workers, &it, &key, &value)) worker_unref(value);
    map_done(&p->workers);
    pthread_mutex_unlock(&p->lock);
    pthread_cond_destroy(&p->idle);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct pod_worker *pods_get(struct pods *p, const char *uid) {
    pthread_mutex_lock(&p->lock);
    struct pod_worker *w = uid ? map_get(&p->workers, uid) : NULL;
    if (w) w->refs++;
    pthread_mutex_unlock(&p->lock);
    return w;
}

struct pod_worker **pods_all(struct pods *p, size_t *n) {
    pthread_mutex_lock(&p->lock);
    struct pod_worker **all = xcalloc(p->workers.n + 1, sizeof(*all));
    size_t it = 0;
    const char *key;
    void *value;
    *n = 0;
    while (map_next(&p->workers, &it, &key, &value)) {
        all[*n] = value;
        all[(*n)++]->refs++;
    }
    pthread_mutex_unlock(&p->lock);
    return all;
}

struct pod_worker *pods_by_name(struct pods *p, const char *ns, const char *name) {
    size_t n;
    struct pod_worker **all = pods_all(p, &n), *found = NULL;
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        /* Of two incarnations the one that is not ending is meant. */
        bool match = str_eq(o->meta->namespace, ns) && str_eq(o->meta->name, name);
        if (match && (!found || all[i]->state == WORKER_SYNC)) {
            worker_unref(found);
            found = all[i];
        } else {
            worker_unref(all[i]);
        }
    }
    free(all);
    return found;
}

bool pods_name_taken(struct pods *p, const struct pod_worker *w, const char *key) {
    pthread_mutex_lock(&p->lock);
    size_t it = 0;
    const char *uid;
    void *value;
    bool taken = false;
    while (!taken && map_next(&p->workers, &it, &uid, &value)) {
        const struct pod_worker *o = value;
        taken = o != w && o->removed && o->state < WORKER_TERMINATED && str_eq(o->pod->key, key);
    }
    pthread_mutex_unlock(&p->lock);
    return taken;
}

void pods_wake(struct pods *p, const char *uid) {
    struct pod_worker *w = pods_get(p, uid);
    if (!w) return;
    worker_kick(w);
    worker_unref(w);
}

static void reject(struct pod_worker *w, const char *reason, const char *message) {
    w->accepted = false;
    w->forced_phase = "Failed";
    w->forced_reason = xstrdup(reason);
    w->forced_message = xasprintf("Pod was rejected: %s", message);
    kubelet_event(w->kl, w->pod->obj, NULL, "Warning", reason, "%s", message);
    metrics_rejected(&w->kl->metrics, reason);
}

/* Decides about a new pod; the table's lock is held, so that two pods cannot both take the last place. */
static void admit(struct pods *p, struct pod_worker *w) {
    const struct core_pod *pod = w->pod->obj;
    if (phase_terminal(pod->status.phase)) return;
    w->accepted = true;
    /* What runs already, or is ending, is not asked again. */
    if (pod_deleting(pod) || str_eq(pod->status.phase, "Running")) return;
    _cleanup_arena_ struct arena *a = arena_new();
    const struct core_pod **others = arena_alloc(a, (p->workers.n + 1) * sizeof(*others));
    size_t n = 0, it = 0;
    const char *key, *reason, *message;
    void *value;
    while (map_next(&p->workers, &it, &key, &value)) {
        struct pod_worker *o = value;
        /* Pods that are gone from the API, or replaced by a newer manifest, are on their way out: the scheduler has given
         * their place away already. */
        if (o != w && o->accepted && !o->removed && o->state < WORKER_TERMINATED) others[n++] = o->pod->obj;
    }
    if (pods_admit(p->kl, a, pod, others, n, &reason, &message)) return;
    reject(w, reason, message);
}

void pods_reject(struct pod_worker *w, const char *reason, const char *message) {
    pthread_mutex_lock(&w->pods->lock);
    pthread_mutex_lock(&w->lock);
    if (!w->forced_phase) reject(w, reason, message);
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_unlock(&w->pods->lock);
}

bool pods_room(struct pods *p, struct arena *a, struct pod_worker *w, const struct core_pod *pod, bool beside_others,
               const char **message) {
    pthread_mutex_lock(&p->lock);
    const struct core_pod **others = arena_alloc(a, (p->workers.n + 1) * sizeof(*others));
    struct object **held = arena_alloc(a, (p->workers.n + 1) * sizeof(*held));
    size_t n = 0, it = 0;
    const char *key, *reason;
    void *value;
    while (beside_others && map_next(&p->workers, &it, &key, &value)) {
        struct pod_worker *o = value;
        if (o == w || !o->accepted || o->state >= WORKER_TERMINATED) continue;
        held[n] = worker_pod(o);
        others[n] = held[n]->obj;
        n++;
    }
    pthread_mutex_unlock(&p->lock);
    bool fits = admit_fits(p->kl, a, pod, others, n, &reason, message);
    for (size_t i = 0; i < n; i++) object_unref(held[i]);
    return fits;
}

static bool same_map(const struct str_map *x, const struct str_map *y) {
    bool same = x->n == y->n;
    for (size_t i = 0; same && i < x->n; i++)
        same = str_eq(x->items[i].key, y->items[i].key) && str_eq(x->items[i].value, y->items[i].value);
    return same;
}

void pods_update(struct pods *p, struct object *pod) {
    pthread_mutex_lock(&p->lock);
    struct pod_worker *w = map_get(&p->workers, pod->meta->uid);
    if (w) {
        pthread_mutex_lock(&w->lock);
        if (w->pod != pod) {
            if (!same_map(&w->pod->meta->labels, &pod->meta->labels) ||
                !same_map(&w->pod->meta->annotations, &pod->meta->annotations))
                w->metadata_changed = true;
            object_unref(w->pod);
            w->pod = object_ref(pod);
        }
        w->removed = false;
        pthread_mutex_unlock(&w->lock);
    } else {
        w = worker_new(p, pod);
        map_put(&p->workers, w->uid, w);
        admit(p, w);
    }
    w->refs++;
    pthread_mutex_unlock(&p->lock);
    worker_kick(w);
    worker_unref(w);
}

void pods_remove(struct pods *p, const char *uid, struct object *last) {
    struct pod_worker *w = pods_get(p, uid);
    if (!w) return;
    pthread_mutex_lock(&p->lock);
    pthread_mutex_lock(&w->lock);
    w->removed = true;
    if (last && last != w->pod) {
        object_unref(w->pod);
        w->pod = object_ref(last);
    }
    pthread_mutex_unlock(&w->lock);
    pthread_mutex_unlock(&p->lock);
    checkpoint_delete(p->kl, uid);
    worker_kick(w);
    worker_unref(w);
}

void pods_evict(struct pods *p, const char *uid, const char *reason, const char *message, int64_t grace) {
    struct pod_worker *w = pods_get(p, uid);
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    if (!w->forced_phase) {
        w->forced_phase = "Failed";
        w->forced_reason = xstrdup(reason);
        w->forced_message = xstrdup(message);
        w->forced_grace = grace;
    }
    pthread_mutex_unlock(&w->lock);
    worker_kick(w);
    worker_unref(w);
}
