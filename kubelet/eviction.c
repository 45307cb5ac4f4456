/* See eviction.h. One thread calls (kubelet.c's housekeeping). */
#include "kubelet/eviction.h"

#include <sys/statvfs.h>

#include "kubelet/image_gc.h"
#include "kubelet/node.h"
#include "kubelet/pods.h"
#include "kubelet/safepath.h"

enum { CLEANUP_WAIT_S = 30, HARD_GRACE_S = 1 };

struct observation {
    bool known;
    int64_t available, capacity;
};

struct eviction {
    struct kubelet *kl;
    struct eviction_thresholds thresholds;
    int64_t pressed[PRESSURE_KINDS]; /* mono: when a threshold of the kind was met last; 0: never */
    char *victim;                    /* uid: until it is gone nobody else is chosen */
    int64_t victim_at;
};

static const struct {
    enum node_pressure pressure;
    const char *resource; /* as events name it */
} signals[EVICTION_SIGNALS] = {
    [SIGNAL_MEMORY] = {PRESSURE_MEMORY, "memory"},       [SIGNAL_NODEFS] = {PRESSURE_DISK, "ephemeral-storage"},
    [SIGNAL_NODEFS_INODES] = {PRESSURE_DISK, "inodes"},  [SIGNAL_IMAGEFS] = {PRESSURE_DISK, "ephemeral-storage"},
    [SIGNAL_IMAGEFS_INODES] = {PRESSURE_DISK, "inodes"}, [SIGNAL_PID] = {PRESSURE_PID, "pids"},
};

int eviction_new(struct kubelet *kl, struct eviction **out, struct err *e) {
    const struct kubelet_config *c = &kl->cfg;
    struct eviction *ev = xcalloc(1, sizeof(*ev));
    ev->kl = kl;
    int r = eviction_parse(c->eviction_hard, c->eviction_soft, c->eviction_soft_grace, c->eviction_min_reclaim,
                           &ev->thresholds, e);
    if (r < 0) {
        eviction_free(ev);
        return r;
    }
    *out = ev;
    return 0;
}

void eviction_free(struct eviction *ev) {
    if (!ev) return;
    free(ev->victim);
    free(ev);
}

const struct eviction_thresholds *eviction_thresholds_of(const struct eviction *ev) { return &ev->thresholds; }

/* ---- observing ---- */

static void observe_memory(struct observation *o) {
    _cleanup_free_ char *text = NULL;
    if (file_read("/proc/meminfo", 65536, &text, NULL) < 0) return;
    const char *total = strstr(text, "MemTotal:"), *available = strstr(text, "MemAvailable:");
    if (!total || !available) return;
    *o = (struct observation){true, strtoll(available + strlen("MemAvailable:"), NULL, 10) * 1024,
                              strtoll(total + strlen("MemTotal:"), NULL, 10) * 1024};
}

static void observe_fs(const char *path, struct observation *bytes, struct observation *inodes) {
    struct statvfs fs;
    if (!path || statvfs(path, &fs) < 0) return;
    *bytes = (struct observation){true, (int64_t)(fs.f_bavail * fs.f_frsize), (int64_t)(fs.f_blocks * fs.f_frsize)};
    /* file systems without a fixed number of inodes say 0 of 0 */
    *inodes = (struct observation){fs.f_files > 0, (int64_t)fs.f_favail, (int64_t)fs.f_files};
}

/* Tasks there may be (the smaller of both of the kernel's bounds) less those there are ("running/all" in loadavg). */
static void observe_pids(struct observation *o) {
    static const char *const bounds[] = {"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"};
    int64_t most = INT64_MAX;
    for (size_t i = 0; i < ARRAY_LEN(bounds); i++) {
        _cleanup_free_ char *text = NULL;
        if (file_read(bounds[i], 64, &text, NULL) == 0) most = MIN_OF(most, (int64_t)strtoll(text, NULL, 10));
    }
    _cleanup_free_ char *load = NULL;
    const char *slash = file_read("/proc/loadavg", 256, &load, NULL) == 0 ? strchr(load, '/') : NULL;
    if (!slash || most == INT64_MAX) return;
    *o = (struct observation){true, most - strtoll(slash + 1, NULL, 10), most};
}

static void observe(struct eviction *ev, struct observation o[EVICTION_SIGNALS]) {
    memset(o, 0, EVICTION_SIGNALS * sizeof(*o));
    observe_memory(&o[SIGNAL_MEMORY]);
    observe_fs(ev->kl->cfg.root_dir, &o[SIGNAL_NODEFS], &o[SIGNAL_NODEFS_INODES]);
    observe_fs(image_gc_mount(ev->kl->image_gc), &o[SIGNAL_IMAGEFS], &o[SIGNAL_IMAGEFS_INODES]);
    observe_pids(&o[SIGNAL_PID]);
}

static int64_t limit_of(const struct eviction_threshold *t, const struct observation *o) {
    int64_t limit = eviction_amount_of(t->amount, o->capacity);
    return t->met ? limit + eviction_amount_of(t->min_reclaim, o->capacity) : limit;
}

static void update(struct eviction *ev, const struct observation *o) {
    int64_t now = mono_ns();
    for (size_t i = 0; i < ev->thresholds.n; i++) {
        struct eviction_threshold *t = &ev->thresholds.items[i];
        bool met = o[t->signal].known && o[t->signal].available < limit_of(t, &o[t->signal]);
        if (met && !t->met) t->since = now;
        t->met = met;
        if (met) ev->pressed[signals[t->signal].pressure] = now;
    }
    for (int k = 0; k < PRESSURE_KINDS; k++)
        node_set_pressure(ev->kl->node, (enum node_pressure)k,
                          ev->pressed[k] && now - ev->pressed[k] <= ev->kl->cfg.eviction_transition_ns);
}

/* The threshold to act upon: memory before disk before pids, as the enum goes. */
static struct eviction_threshold *due(struct eviction *ev) {
    struct eviction_threshold *best = NULL;
    for (size_t i = 0; i < ev->thresholds.n; i++) {
        struct eviction_threshold *t = &ev->thresholds.items[i];
        if (!t->met || (t->soft && mono_ns() - t->since < t->grace_ns)) continue;
        if (!best || t->signal < best->signal) best = t;
    }
    return best;
}

/* ---- what pods use ---- */

static int64_t container_disk(const struct cri_container_stats *c, bool inodes) {
    if (!c->writable_layer) return 0;
    const struct cri_uint64_value *v = inodes ? c->writable_layer->inodes_used : c->writable_layer->used_bytes;
    return v ? (int64_t)v->value : 0;
}

static bool stats_are_of(const struct cri_container_stats *c, const char *uid) {
    return c->attributes && str_eq(str_map_get(&c->attributes->labels, LABEL_POD_UID), uid);
}

/* The pod's container that the numbers are of; NULL: they are another pod's. */
static const struct core_container *container_of_stats(const struct cri_container_stats *c, const struct core_pod *p) {
    if (!stats_are_of(c, p->metadata.uid)) return NULL;
    const char *name = str_map_get(&c->attributes->labels, LABEL_CONTAINER_NAME);
    return name ? pod_container(p, name, NULL) : NULL;
}

/* Writable layers, logs and volumes on disk. */
static int64_t pod_disk(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                        const struct cri_list_container_stats_response *stats, bool inodes) {
    int64_t sum = volumes_usage(kl->volumes, p, inodes) + path_usage(kubelet_pod_log_dir(kl, a, p), INT64_MAX, inodes);
    for (size_t i = 0; i < stats->stats.n; i++)
        if (stats_are_of(&stats->stats.items[i], p->metadata.uid))
            sum += container_disk(&stats->stats.items[i], inodes);
    return sum;
}

static int64_t pod_usage(struct kubelet *kl, struct arena *a, const struct core_pod *p, enum eviction_signal signal,
                         const struct cri_list_container_stats_response *stats) {
    if (signals[signal].pressure == PRESSURE_DISK)
        return pod_disk(kl, a, p, stats, str_eq(signals[signal].resource, "inodes"));
    struct cgroup_usage u = {0};
    if (kl->cgroups) cgroups_usage(kl->cgroups, cgroups_pod_path(kl->cgroups, a, p), &u);
    return signal == SIGNAL_PID ? (int64_t)u.pids : (int64_t)u.memory_working_set;
}

static struct cri_list_container_stats_response all_stats(struct kubelet *kl, struct arena *a) {
    struct cri_list_container_stats_request req = {0};
    struct cri_list_container_stats_response resp = {0};
    if (runtime_call(kl->rt, RT_LIST_CONTAINER_STATS, a, &req, &resp, NULL) < 0) resp.stats.n = 0;
    return resp;
}

/* ---- evicting ---- */

static const char *amount_text(struct arena *a, int64_t v, enum eviction_signal signal) {
    bool bytes = !str_eq(signals[signal].resource, "inodes") && signal != SIGNAL_PID;
    struct quantity q = {(__int128)v * 1000000000, bytes ? QUANTITY_BINARY_SI : QUANTITY_DECIMAL_SI};
    return quantity_format(a, q);
}

/* Says what is short, and which containers use more of it than they asked for. */
static const char *reason_text(struct arena *a, const struct core_pod *p, const struct eviction_threshold *t,
                               const struct observation *o, const struct cri_list_container_stats_response *stats) {
    const char *resource = signals[t->signal].resource;
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_printf(&b, "The node was low on resource: %s. Threshold quantity: %s, available: %s. ", resource,
               amount_text(a, eviction_amount_of(t->amount, o->capacity), t->signal),
               amount_text(a, o->available, t->signal));
    for (size_t i = 0; i < stats->stats.n && t->signal != SIGNAL_PID; i++) {
        const struct cri_container_stats *c = &stats->stats.items[i];
        const struct core_container *spec = container_of_stats(c, p);
        if (!spec) continue;
        int64_t used = t->signal != SIGNAL_MEMORY                  ? container_disk(c, str_eq(resource, "inodes"))
                       : c->memory && c->memory->working_set_bytes ? (int64_t)c->memory->working_set_bytes->value
                                                                   : 0;
        const char *request = str_map_get(&spec->resources.requests, resource);
        if (used > quantity_str_value(request))
            buf_printf(&b, "Container %s was using %s, request is %s, has larger consumption of %s. ", spec->name,
                       amount_text(a, used, t->signal), request ? request : "0", resource);
    }
    return arena_strdup(a, b.data);
}

static void evict(struct kubelet *kl, struct pod_worker *w, const char *text, int64_t grace) {
    _cleanup_object_ struct object *o = worker_pod(w);
    log_warn("evicting a pod", "pod", o->key, "why", text, NULL);
    kubelet_event(kl, o->obj, NULL, "Warning", "Evicted", "%s", text);
    pods_evict(kl->pods, w->uid, "Evicted", text, grace);
}

static bool may_go(struct pod_worker *w, const struct core_pod *p) {
    return w->state == WORKER_SYNC && !pod_is_critical(p) && !phase_terminal(p->status.phase);
}

static void evict_one(struct eviction *ev, const struct eviction_threshold *t, const struct observation *o) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct kubelet *kl = ev->kl;
    size_t n, n_candidates = 0;
    struct pod_worker **all = pods_all(kl->pods, &n);
    struct eviction_candidate *c = arena_alloc(a, (n + 1) * sizeof(*c));
    struct cri_list_container_stats_response stats = all_stats(kl, a);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *obj = worker_pod(all[i]);
        const struct core_pod *p = obj->obj;
        if (!may_go(all[i], p)) continue;
        const char *resource = signals[t->signal].resource;
        c[n_candidates++] = (struct eviction_candidate){all[i], p->spec.priority ? *p->spec.priority : 0,
                                                        pod_usage(kl, a, p, t->signal, &stats),
                                                        quantity_value(pod_resource(p, resource, false, NULL))};
    }
    eviction_rank(c, n_candidates, t->signal);
    if (n_candidates) {
        _cleanup_object_ struct object *obj = worker_pod(c[0].worker);
        evict(kl, c[0].worker, reason_text(a, obj->obj, t, o, &stats),
              t->soft ? kl->cfg.eviction_max_grace : HARD_GRACE_S);
        free(ev->victim);
        ev->victim = xstrdup(c[0].worker->uid);
        ev->victim_at = mono_ns();
    }
    for (size_t i = 0; i < n; i++) worker_unref(all[i]);
    free(all);
}

/* What one pod gives back shows only once it is gone. */
static bool waits_for_victim(struct eviction *ev) {
    if (!ev->victim) return false;
    struct pod_worker *w = pods_get(ev->kl->pods, ev->victim);
    bool wait = w && w->state < WORKER_TERMINATED && mono_ns() - ev->victim_at < CLEANUP_WAIT_S * NS_PER_SEC;
    worker_unref(w);
    if (!wait) {
        free(ev->victim);
        ev->victim = NULL;
    }
    return wait;
}

/* ---- limits of local storage ---- */

/* Why the pod has to go, or NULL. */
static const char *over_local_limit(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                                    const struct cri_list_container_stats_response *stats) {
    const char *volume = volumes_over_limit(kl->volumes, p);
    if (volume) return arena_printf(a, "Usage of EmptyDir volume \"%s\" exceeds the limit of its sizeLimit. ", volume);
    bool all_given = false;
    struct quantity limit = pod_resource(p, "ephemeral-storage", true, &all_given);
    if (all_given && limit.nano > 0 && pod_disk(kl, a, p, stats, false) > quantity_value(limit))
        return arena_printf(a, "Pod ephemeral local storage usage exceeds the total limit of containers %s. ",
                            quantity_format(a, limit));
    for (size_t i = 0; i < stats->stats.n; i++) {
        const struct cri_container_stats *c = &stats->stats.items[i];
        const struct core_container *spec = container_of_stats(c, p);
        const char *text = spec ? str_map_get(&spec->resources.limits, "ephemeral-storage") : NULL;
        if (!text) continue;
        const char *logs = arena_printf(a, "%s/%s", kubelet_pod_log_dir(kl, a, p), spec->name);
        if (container_disk(c, false) + path_usage(logs, INT64_MAX, false) > quantity_str_value(text))
            return arena_printf(a, "Container %s exceeded its local ephemeral storage limit \"%s\". ", spec->name,
                                text);
    }
    return NULL;
}

static bool has_local_limit(const struct core_pod *p) {
    for (size_t i = 0; i < p->spec.volumes.n; i++)
        if (p->spec.volumes.items[i].empty_dir && p->spec.volumes.items[i].empty_dir->size_limit) return true;
    for (size_t i = 0; i < p->spec.containers.n; i++)
        if (str_map_get(&p->spec.containers.items[i].resources.limits, "ephemeral-storage")) return true;
    return false;
}

static bool evict_oversized(struct eviction *ev) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_list_container_stats_response stats = {0};
    bool asked = false, any = false;
    size_t n;
    struct pod_worker **all = pods_all(ev->kl->pods, &n);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        if (may_go(all[i], o->obj) && has_local_limit(o->obj)) {
            if (!asked) stats = all_stats(ev->kl, a);
            asked = true;
            const char *text = over_local_limit(ev->kl, a, o->obj, &stats);
            if (text) evict(ev->kl, all[i], text, HARD_GRACE_S);
            any |= text != NULL;
        }
        worker_unref(all[i]);
    }
    free(all);
    return any;
}

/* ---- a pass ---- */

void eviction_check(struct eviction *ev, bool thorough) {
    struct observation o[EVICTION_SIGNALS];
    if (ev->kl->fake) return;
    observe(ev, o);
    update(ev, o);
    if (thorough && evict_oversized(ev)) return;
    struct eviction_threshold *t = due(ev);
    if (!t || waits_for_victim(ev)) return;
    node_event(ev->kl->node, "Warning", "EvictionThresholdMet", "Attempting to reclaim %s",
               signals[t->signal].resource);
    if (signals[t->signal].pressure == PRESSURE_DISK && image_gc_all(ev->kl->image_gc) > 0) {
        observe(ev, o);
        update(ev, o);
        if (!t->met) return;
    }
    evict_one(ev, t, &o[t->signal]);
}
