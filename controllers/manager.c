/* The plumbing between controllers, informers and queues. */
#include "manager.h"

#include <stdarg.h>

#include "pkg/api/meta.h"

enum { PENDING_INFORMERS_MAX = 12 };

struct pending {
    struct pending *next;
    struct workqueue *q;
    struct informer *needs[PENDING_INFORMERS_MAX];
    size_t n;
};

struct at_end {
    struct at_end *next;
    void (*fn)(void *);
    void *arg;
};

struct owned {
    struct owned *next;
    void (*done)(void *);
    max_align_t data[];
};

void *manager_alloc(struct manager *m, size_t n, void (*done)(void *)) {
    struct owned *o = xcalloc(1, sizeof(*o) + n);
    o->done = done;
    o->next = m->owned;
    m->owned = o;
    return o->data;
}

void manager_at_end(struct manager *m, void (*fn)(void *), void *arg) {
    struct at_end *x = xcalloc(1, sizeof(*x));
    *x = (struct at_end){m->at_end, fn, arg};
    m->at_end = x;
}

struct informer *manager_informer(struct manager *m, const struct client_resource *r) {
    return informers_get(m->informers, r);
}

struct workqueue *manager_queue(struct manager *m, const char *name, unsigned concurrency, workqueue_fn *fn, void *arg,
                                ...) {
    struct pending *p = xcalloc(1, sizeof(*p));
    p->q = workqueue_new(m->pool, name, concurrency, fn, arg);
    workqueue_enable(p->q, false);
    va_list ap;
    va_start(ap, arg);
    const struct client_resource *r;
    while ((r = va_arg(ap, const struct client_resource *)) && p->n < PENDING_INFORMERS_MAX)
        p->needs[p->n++] = manager_informer(m, r);
    va_end(ap);
    p->next = m->pending;
    m->pending = p;
    return p->q;
}

void manager_queue_needs(struct manager *m, struct workqueue *q, struct informer *i) {
    for (struct pending *p = m->pending; p; p = p->next)
        if (p->q == q && p->n < PENDING_INFORMERS_MAX) p->needs[p->n++] = i;
}

static void end_informer(void *i) { informer_free(i); }

struct informer *manager_own_informer(struct manager *m, const struct client_resource *r,
                                      const struct informer_opts *o) {
    struct informer *i = informer_new(m->client, r, o);
    manager_at_end(m, end_informer, i);
    return i;
}

struct watcher {
    manager_object_fn *fn;
    void *arg;
};

static void on_change(void *arg, struct object *o) {
    struct watcher *w = arg;
    w->fn(w->arg, o);
}

static void on_update(void *arg, struct object *old, struct object *o) {
    struct watcher *w = arg;
    w->fn(w->arg, old);
    w->fn(w->arg, o);
}

void manager_watch(struct manager *m, const struct client_resource *r, manager_object_fn *fn, void *arg) {
    struct watcher *w = manager_alloc(m, sizeof(*w), NULL);
    w->fn = fn;
    w->arg = arg;
    struct informer_handler h = {on_change, on_update, on_change, w};
    informer_add_handler(manager_informer(m, r), &h);
}

static void add_key(void *arg, const struct object *o) { workqueue_add(arg, o->key); }

void manager_watch_keys(struct manager *m, const struct client_resource *r, struct workqueue *q) {
    manager_watch(m, r, add_key, q);
}

static void recorder_done(void *p) { event_recorder_free(*(struct event_recorder **)p); }

struct event_recorder *manager_recorder(struct manager *m, const char *component) {
    struct event_recorder **r = manager_alloc(m, sizeof(*r), recorder_done);
    return *r = event_recorder_new(m->client, component, NULL);
}

void queue_add_controller_of(struct workqueue *q, const struct object *o, const char *kind) {
    const struct meta_owner_reference *ref = meta_controller_of(o->meta);
    if (!ref || !str_eq(ref->kind, kind)) return;
    _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(o->meta->namespace), ref->name);
    workqueue_add(q, key);
}

bool manager_enable_ready(struct manager *m) {
    struct pending **p = &m->pending;
    while (*p) {
        struct pending *x = *p;
        size_t i = 0;
        while (i < x->n && informer_synced(x->needs[i])) i++;
        if (i < x->n) {
            p = &x->next;
            continue;
        }
        workqueue_enable(x->q, true);
        *p = x->next;
        free(x);
    }
    return !m->pending;
}

void manager_done(struct manager *m) {
    workpool_stop(m->pool);
    while (m->at_end) {
        struct at_end *x = m->at_end;
        m->at_end = x->next;
        x->fn(x->arg);
        free(x);
    }
    informers_free(m->informers);
    workpool_free(m->pool);
    while (m->pending) {
        struct pending *x = m->pending;
        m->pending = x->next;
        free(x);
    }
    /* handlers hold what the controllers own: it goes only after the informers are gone from the client's
     * thread */
    while (m->owned) {
        struct owned *o = m->owned;
        m->owned = o->next;
        if (o->done) o->done(o->data);
        free(o);
    }
}
