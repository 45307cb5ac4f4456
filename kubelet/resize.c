/* See resize.h. */
#include "kubelet/resize.h"

#include "kubelet/cm/cm.h"
#include "kubelet/node.h"
#include "pkg/json/json.h"

enum { FILE_MAX = 256 * 1024 };
#define POD_LEVEL "" /* name of the pod's own resources among its containers' */
#define RETRY_NS (10 * NS_PER_SEC)

struct allocated {
    struct allocated *next;
    const char *name;
    struct core_resource_requirements resources;
};

void resize_done(struct pod_worker *w) {
    arena_free(w->allocated_arena);
    free(w->resize_reason);
    free(w->resize_message);
    free(w->resize_error);
}

static struct core_container *container_at(const struct core_pod *p, size_t i) {
    return i < p->spec.containers.n ? &p->spec.containers.items[i]
                                    : &p->spec.init_containers.items[i - p->spec.containers.n];
}
static size_t container_count(const struct core_pod *p) { return p->spec.containers.n + p->spec.init_containers.n; }

static struct allocated *find(const struct pod_worker *w, const char *name) {
    for (struct allocated *x = w->allocated; x; x = x->next)
        if (str_eq(x->name, name)) return x;
    return NULL;
}

/* ---- what is allocated ---- */

static void take_one(struct pod_worker *w, const char *name, const struct core_resource_requirements *r) {
    struct arena *a = w->allocated_arena;
    struct allocated *x = arena_zalloc(a, sizeof(*x));
    x->name = arena_strdup(a, name);
    x->resources = *(struct core_resource_requirements *)api_clone(a, &api_core_resource_requirements, r);
    x->next = w->allocated;
    w->allocated = x;
}

static void take(struct pod_worker *w, const struct core_pod *p) {
    arena_free(w->allocated_arena);
    w->allocated_arena = arena_new_sized(256);
    w->allocated = NULL;
    if (p->spec.resources) take_one(w, POD_LEVEL, p->spec.resources);
    for (size_t i = 0; i < container_count(p); i++)
        take_one(w, container_at(p, i)->name, &container_at(p, i)->resources);
}

static char *file_of(struct sync *s) {
    return arena_printf(s->a, "%s/allocated.json", kubelet_pod_dir(s->kl, s->a, s->w->uid));
}

static void save(struct sync *s) {
    struct json *o = json_object(s->a);
    for (struct allocated *x = s->w->allocated; x; x = x->next)
        json_set(s->a, o, x->name, api_to_tree(s->a, &api_core_resource_requirements, &x->resources));
    const char *text = json_text(s->a, o);
    if (!s->kl->fake) file_write_atomic(file_of(s), text, strlen(text), 0600);
}

static bool load(struct sync *s) {
    _cleanup_free_ char *text = NULL;
    size_t n;
    struct json *o;
    if (s->kl->fake || file_read(file_of(s), FILE_MAX, &text, &n) < 0 || json_parse(s->a, text, n, &o, NULL, NULL) < 0)
        return false;
    take(s->w, s->pod);
    for (struct allocated *x = s->w->allocated; x; x = x->next) {
        const struct json *v = json_get(o, x->name);
        const char *one = v ? json_text(s->w->allocated_arena, v) : NULL;
        if (one)
            api_from_json(s->w->allocated_arena, &api_core_resource_requirements, one, strlen(one), &x->resources,
                          NULL);
    }
    return true;
}

static bool changed(const struct pod_worker *w, const struct core_pod *p) {
    const struct allocated *own = find(w, POD_LEVEL);
    if (!own != !p->spec.resources) return true;
    if (own && !api_equal(&api_core_resource_requirements, &own->resources, p->spec.resources)) return true;
    for (size_t i = 0; i < container_count(p); i++) {
        const struct core_container *c = container_at(p, i);
        const struct allocated *x = find(w, c->name);
        if (x && !api_equal(&api_core_resource_requirements, &x->resources, &c->resources)) return true;
    }
    return false;
}

static const struct core_pod *as_allocated(struct sync *s) {
    struct core_pod *copy = api_clone(s->a, &api_core_pod, s->pod);
    struct allocated *own = find(s->w, POD_LEVEL);
    copy->spec.resources = own ? &own->resources : NULL;
    for (size_t i = 0; i < container_count(copy); i++) {
        struct core_container *c = container_at(copy, i);
        const struct allocated *x = find(s->w, c->name);
        if (x) c->resources = x->resources;
    }
    return copy;
}

/* ---- telling ---- */

static void add_summary(struct arena *a, struct json *o, const char *key, const struct core_container_vec *v) {
    struct json *list = json_array(a);
    for (size_t i = 0; i < v->n; i++) {
        struct json *one = json_object(a);
        json_set_str(a, one, "name", v->items[i].name);
        json_set(a, one, "resources", api_to_tree(a, &api_core_resource_requirements, &v->items[i].resources));
        json_append(a, list, one);
    }
    if (v->n) json_set(a, o, key, list);
}

/* The Event of a step, with what is asked for as JSON, as upstream's have it. */
static void tell(struct sync *s, const char *type, const char *reason, const char *what, const char *error) {
    struct json *o = json_object(s->a);
    add_summary(s->a, o, "initContainers", &s->pod->spec.init_containers);
    add_summary(s->a, o, "containers", &s->pod->spec.containers);
    json_set_int(s->a, o, "generation", s->pod->metadata.generation);
    if (error) json_set_str(s->a, o, "error", error);
    kubelet_event(s->kl, s->pod, NULL, type, reason, "Pod resize %s: %s", what, json_text(s->a, o));
}

static void failed(struct sync *s, const char *message) {
    if (!str_eq(s->w->resize_error, message)) tell(s, "Warning", "ResizeError", "error", message);
    free(s->w->resize_error);
    s->w->resize_error = xstrdup(message);
    sync_again_in(s, RETRY_NS);
}

/* ---- deciding ---- */

static void pending(struct sync *s, const char *reason, const char *message) {
    struct pod_worker *w = s->w;
    if (reason && !str_eq(w->resize_reason, reason))
        tell(s, "Warning", arena_printf(s->a, "Resize%s", reason), reason, message);
    free(w->resize_reason);
    free(w->resize_message);
    w->resize_reason = reason ? xstrdup(reason) : NULL;
    w->resize_message = message ? xstrdup(message) : NULL;
}

/* How much a container may swap follows from its memory request: only a restart changes that. */
static bool swapping_changes(struct sync *s) {
    const struct core_pod *now = as_allocated(s);
    for (size_t i = 0; i < container_count(s->pod); i++) {
        const struct core_container *x = container_at(s->pod, i), *y = container_at(now, i);
        bool restarts = false;
        for (size_t k = 0; k < y->resize_policy.n; k++)
            restarts |= str_eq(y->resize_policy.items[k].resource_name, "memory") &&
                        str_eq(y->resize_policy.items[k].restart_policy, "RestartContainer");
        if (!restarts &&
            quantity_cmp(container_resource(x, "memory", false, NULL), container_resource(y, "memory", false, NULL)) &&
            (swap_allowed(&s->kl->swap, s->pod, x) || swap_allowed(&s->kl->swap, now, y)))
            return true;
    }
    return false;
}

const struct core_pod *resize_settle(struct sync *s) {
    struct pod_worker *w = s->w;
    const char *message = NULL;
    if (!w->allocated_arena && !load(s)) take(w, s->pod);
    if (!changed(w, s->pod)) {
        pending(s, NULL, NULL);
        return s->pod;
    }
    const char *obstacle = cm_resize_obstacle(s->kl->cm, as_allocated(s), s->pod);
    if (!obstacle && swapping_changes(s)) obstacle = "In-place resize of containers with swap is not supported.";
    if (obstacle) message = obstacle;
    if (obstacle || !pods_room(w->pods, s->a, w, s->pod, false, &message)) {
        save(s);
        pending(s, "Infeasible", message);
        return as_allocated(s);
    }
    if (!pods_room(w->pods, s->a, w, s->pod, true, &message)) {
        save(s);
        pending(s, "Deferred", message);
        sync_again_in(s, RETRY_NS);
        return as_allocated(s);
    }
    pending(s, NULL, NULL);
    take(w, s->pod);
    save(s);
    tell(s, "Normal", "ResizeStarted", "started", NULL);
    w->resizing = true;
    return s->pod;
}

/* ---- the pod's cgroup ---- */

static bool same_limits(const struct cgroup_limits *a, const struct cgroup_limits *b) {
    return a->cpu_shares == b->cpu_shares && a->cpu_quota == b->cpu_quota && a->memory_limit == b->memory_limit;
}

/* A pod with CPUs of its own has no CPU quota. */
static bool with_quota(const struct sync *s) { return !cm_exclusive(s->kl->cm, s->w->uid, NULL); }

bool resize_pod_due(const struct sync *s) {
    struct cgroup_limits want;
    cgroups_pod_limits(s->kl->cgroups, s->pod, with_quota(s), &want);
    return s->w->cgroup_made && !same_limits(&want, &s->w->pod_limits);
}

static void set_pod_limits(struct sync *s, const struct cgroup_limits *l) {
    _cleanup_err_ struct err e = {0};
    if (cgroups_pod_update(s->kl->cgroups, s->pod, l, &e) < 0)
        failed(s, e.msg);
    else
        s->w->pod_limits = *l;
}

/* The larger of two limits, where 0 is none: a limit that comes new is set in the end. */
static int64_t larger(int64_t now, int64_t want) { return now ? MAX_OF(now, want) : 0; }

static bool restarts(const struct core_container *c, unsigned due) {
    for (size_t i = 0; i < c->resize_policy.n; i++) {
        const struct core_container_resize_policy *p = &c->resize_policy.items[i];
        unsigned bit = str_eq(p->resource_name, "cpu")      ? RESIZE_CPU
                       : str_eq(p->resource_name, "memory") ? RESIZE_MEMORY
                                                            : 0;
        if ((bit & due) && str_eq(p->restart_policy, "RestartContainer")) return true;
    }
    return false;
}

/* What a lower limit of memory would be below of, added to *why. */
static void below_usage(struct sync *s, const char *what, const char *cgroup, int64_t now, int64_t want,
                        const char **why) {
    struct cgroup_usage u;
    if (!want || !cgroup || (now && want >= now)) return;
    cgroups_usage(s->kl->cgroups, cgroup, &u);
    if (u.memory_usage < (uint64_t)want) return;
    *why =
        arena_printf(s->a, "%s%sattempting to set %s memory limit (%lld) below current usage (%llu)",
                     str_or_empty(*why), *why ? ", " : "", what, (long long)want, (unsigned long long)u.memory_usage);
}

/* Whether some limit of memory would become less than is in use: nothing of the resize is done then. */
static bool refused(struct sync *s) {
    const char *why = NULL;
    struct cgroup_limits want;
    if (!s->kl->cgroups || s->kl->fake) return false;
    const char *pod = cgroups_pod_path(s->kl->cgroups, s->a, s->pod);
    cgroups_pod_limits(s->kl->cgroups, s->pod, with_quota(s), &want);
    below_usage(s, "pod", pod, s->w->pod_limits.memory_limit, want.memory_limit, &why);
    for (size_t i = 0; i < container_count(s->pod); i++) {
        const struct core_container *c = container_at(s->pod, i);
        const struct rt_container *rc = rt_pod_find(&s->rt, c->name, 0);
        if (!rc || rc->state != CRI_CONTAINER_STATE_CONTAINER_RUNNING || !rc->resources) continue;
        unsigned due = container_resize_due(s->pod, c, rc);
        if (!(due & RESIZE_MEMORY) || restarts(c, due)) continue;
        below_usage(s, arena_printf(s->a, "container \"%s\"", c->name),
                    cgroups_container(s->kl->cgroups, s->a, pod, rc->id), rc->resources->memory_limit_in_bytes,
                    quantity_value(container_limit(s->pod, c, "memory")), &why);
    }
    if (!why) return false;
    failed(s,
           arena_printf(
               s->a, strstr(why, "), ") ? "cannot decrease memory limits: [%s]" : "cannot decrease memory limits: %s",
               why));
    return true;
}

void resize_pod_grow(struct sync *s) {
    bool due = resize_pod_due(s);
    if (!due && !containers_resize_due(s->pod, &s->rt)) return;
    s->resize_refused = refused(s);
    if (s->resize_refused || !due) return;
    struct cgroup_limits l, now = s->w->pod_limits;
    cgroups_pod_limits(s->kl->cgroups, s->pod, with_quota(s), &l);
    l.cpu_shares = MAX_OF(l.cpu_shares, now.cpu_shares);
    l.cpu_quota = larger(now.cpu_quota, l.cpu_quota);
    l.memory_limit = larger(now.memory_limit, l.memory_limit);
    if (!same_limits(&l, &now)) set_pod_limits(s, &l);
}

void resize_pod_settle(struct sync *s) {
    if (s->resize_refused || containers_resize_due(s->pod, &s->rt)) return;
    if (resize_pod_due(s)) {
        struct cgroup_limits l;
        cgroups_pod_limits(s->kl->cgroups, s->pod, with_quota(s), &l);
        set_pod_limits(s, &l);
    }
    if (resize_pod_due(s)) return;
    free(s->w->resize_error);
    s->w->resize_error = NULL;
    if (s->w->resizing) tell(s, "Normal", "ResizeCompleted", "completed", NULL);
    s->w->resizing = false;
}

/* ---- containers ---- */

bool resize_container(struct sync *s, const struct core_container *c, const struct rt_container *rc) {
    unsigned due = container_resize_due(s->pod, c, rc);
    _cleanup_err_ struct err e = {0};
    if (!due || s->resize_refused) return false;
    if (restarts(c, due)) {
        struct stop_request rq = {rc, arena_printf(s->a, "Container %s resize requires restart", c->name), -1};
        backoff_reset(&worker_track(s->w, c->name)->restart);
        sync_stop(s, &rq, 1);
        sync_read(s, NULL);
        sync_publish(s, false);
        return true;
    }
    struct cri_update_container_resources_request req = {.container_id = rc->id,
                                                         .linux = podspec_resources(s->kl, s->a, s->pod, c)};
    struct cri_update_container_resources_response resp = {0};
    if (runtime_call(s->kl->rt, RT_UPDATE_CONTAINER_RESOURCES, s->a, &req, &resp, &e) < 0) failed(s, e.msg);
    return false;
}
