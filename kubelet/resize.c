/* See resize.h. */
#include "kubelet/resize.h"

#include "kubelet/node.h"
#include "pkg/json/json.h"

enum { FILE_MAX = 256 * 1024 };
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

static void take(struct pod_worker *w, const struct core_pod *p) {
    arena_free(w->allocated_arena);
    struct arena *a = w->allocated_arena = arena_new_sized(256);
    w->allocated = NULL;
    for (size_t i = 0; i < container_count(p); i++) {
        const struct core_container *c = container_at(p, i);
        struct allocated *x = arena_zalloc(a, sizeof(*x));
        x->name = arena_strdup(a, c->name);
        x->resources =
            *(struct core_resource_requirements *)api_clone(a, &api_core_resource_requirements, &c->resources);
        x->next = w->allocated;
        w->allocated = x;
    }
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
    for (size_t i = 0; i < container_count(p); i++) {
        const struct core_container *c = container_at(p, i);
        const struct allocated *x = find(w, c->name);
        if (x && !api_equal(&api_core_resource_requirements, &x->resources, &c->resources)) return true;
    }
    return false;
}

static const struct core_pod *as_allocated(struct sync *s) {
    struct core_pod *copy = api_clone(s->a, &api_core_pod, s->pod);
    for (size_t i = 0; i < container_count(copy); i++) {
        struct core_container *c = container_at(copy, i);
        const struct allocated *x = find(s->w, c->name);
        if (x) c->resources = x->resources;
    }
    return copy;
}

/* ---- deciding ---- */

static void pending(struct sync *s, const char *reason, const char *message) {
    struct pod_worker *w = s->w;
    if (reason && !str_eq(w->resize_reason, reason))
        kubelet_event(s->kl, s->pod, NULL, "Warning", arena_printf(s->a, "Resize%s", reason), "Pod resize %s: %s",
                      reason, message);
    free(w->resize_reason);
    free(w->resize_message);
    w->resize_reason = reason ? xstrdup(reason) : NULL;
    w->resize_message = message ? xstrdup(message) : NULL;
}

const struct core_pod *resize_settle(struct sync *s) {
    struct pod_worker *w = s->w;
    const char *message = NULL;
    if (!w->allocated_arena && !load(s)) take(w, s->pod);
    if (!changed(w, s->pod)) {
        pending(s, NULL, NULL);
        return s->pod;
    }
    if (!pods_room(w->pods, s->a, w, s->pod, false, &message)) {
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
    kubelet_event(s->kl, s->pod, NULL, "Normal", "ResizeStarted", "Pod resize started");
    return s->pod;
}
