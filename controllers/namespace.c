/* Namespace controller: empties a namespace that is being deleted, then lets it go (upstream
 * pkg/controller/namespace).
 *
 * What there may be in it comes from discovery, so custom resources are covered. Pods go first, and nothing else
 * while one of them is left. Deleting takes time (pods
 * end gracefully, finalizers have their own controllers): conditions on the namespace say what is left, and
 * the key comes back until nothing is. */
#include <pthread.h>

#include "pkg/base/map.h"
#include "util.h"

enum { DISCOVERY_FRESH_SECONDS = 5, WORKERS = 3 };
#define RECHECK (500 * NS_PER_MS)
#define RECHECK_MAX (10 * NS_PER_SEC)

struct ns_controller {
    struct manager *m;
    struct workqueue *q;
    pthread_mutex_t lock; /* of the discovery kept for a moment */
    struct arena *arena;
    struct client_discovery found;
    int64_t found_at;
};

/* One run. */
struct emptying {
    struct ns_controller *c;
    struct arena *a;
    const struct core_namespace *ns;
    const char *discovery_error, *delete_error;
    struct buf remaining, finalizers; /* for the messages */
};

/* ---- conditions ---- */

static void add_condition(struct arena *a, const struct core_namespace *ns, struct core_namespace_condition_vec *v,
                          const char *type, bool bad, const char *reason, const char *message) {
    struct core_namespace_condition c = {.type = type,
                                         .status = bad ? "True" : "False",
                                         .reason = reason,
                                         .message = message,
                                         .last_transition_time = ktime_now_s()};
    for (size_t i = 0; i < ns->status.conditions.n; i++) {
        const struct core_namespace_condition *was = &ns->status.conditions.items[i];
        if (str_eq(was->type, type) && str_eq(was->status, c.status))
            c.last_transition_time = was->last_transition_time;
    }
    v->items[v->n++] = c;
}

static int report(struct emptying *x, struct err *e) {
    struct core_namespace ns = *x->ns;
    struct core_namespace_condition_vec v = {.items = arena_zalloc(x->a, 5 * sizeof(*v.items))};
    const char *left =
        x->remaining.len ? arena_printf(x->a, "Some resources are remaining: %s", x->remaining.data) : NULL;
    const char *fin =
        x->finalizers.len
            ? arena_printf(x->a, "Some content in the namespace has finalizers remaining: %s", x->finalizers.data)
            : NULL;
    add_condition(x->a, x->ns, &v, "NamespaceDeletionDiscoveryFailure", x->discovery_error,
                  x->discovery_error ? "DiscoveryFailed" : "ResourcesDiscovered",
                  x->discovery_error ? x->discovery_error : "All resources successfully discovered");
    add_condition(x->a, x->ns, &v, "NamespaceDeletionGroupVersionParsingFailure", false, "ParsedGroupVersions",
                  "All legacy kube types successfully parsed");
    add_condition(
        x->a, x->ns, &v, "NamespaceDeletionContentFailure", x->delete_error,
        x->delete_error ? "ContentDeletionFailed" : "ContentDeleted",
        x->delete_error ? x->delete_error : "All content successfully deleted, may be waiting on finalization");
    add_condition(x->a, x->ns, &v, "NamespaceContentRemaining", left, left ? "SomeResourcesRemain" : "ContentRemoved",
                  left ? left : "All content successfully removed");
    add_condition(x->a, x->ns, &v, "NamespaceFinalizersRemaining", fin,
                  fin ? "SomeFinalizersRemain" : "ContentHasNoFinalizers",
                  fin ? fin : "All content-preserving finalizers finished");
    ns.status.conditions = v;
    if (api_equal(&api_core_namespace_status, &ns.status, &x->ns->status)) return 0;
    struct client_opts o = {.cause = x->ns->metadata.resource_version};
    return client_update_status(x->c->m->client, x->a, &client_namespaces, NULL, &ns, &o, NULL, e);
}

/* ---- emptying ---- */

static void note_finalizers(struct map *seen, const struct client_list *l) {
    for (size_t i = 0; i < l->n; i++) {
        const struct meta_partial_object_metadata *o = l->items[i];
        for (size_t k = 0; k < o->metadata.finalizers.n; k++) {
            intptr_t n = (intptr_t)map_get(seen, o->metadata.finalizers.items[k]);
            map_put(seen, o->metadata.finalizers.items[k], (void *)(n + 1));
        }
    }
}

static int delete_each(struct emptying *x, const struct client_resource *r, const struct client_list *l,
                       struct err *e) {
    struct client_delete_opts o = {.cause = x->ns->metadata.resource_version, .propagation = "Background"};
    for (size_t i = 0; i < l->n; i++) {
        const struct meta_partial_object_metadata *p = l->items[i];
        _cleanup_err_ struct err de = {0};
        int rc = client_delete(x->c->m->client, r, x->ns->metadata.name, p->metadata.name, &o, &de);
        if (rc < 0 && !client_err_not_found(&de)) {
            err_move(e, &de);
            return rc;
        }
    }
    return 0;
}

/* Deletes all objects of a resource; notes what is still there. */
static int empty_resource(struct emptying *x, const struct client_api_resource *ar, struct map *finalizers,
                          struct err *e) {
    struct client_resource r = {ar->group, ar->version, ar->plural, true, ar->kind, &api_meta_partial_object_metadata};
    const char *ns = x->ns->metadata.name;
    struct client *c = x->c->m->client;
    struct client_list l;
    struct client_list_opts lo = {.limit = 0};
    int rc = client_list(c, x->a, &r, ns, &lo, &l, e);
    if (rc < 0 || l.n == 0) return rc;
    if (ar->verbs & CLIENT_VERB_DELETE_COLLECTION) {
        struct client_delete_opts o = {.cause = x->ns->metadata.resource_version, .propagation = "Background"};
        rc = client_delete_collection(c, &r, ns, NULL, &o, e);
    } else {
        rc = delete_each(x, &r, &l, e);
    }
    if (rc == 0) rc = client_list(c, x->a, &r, ns, &lo, &l, e);
    if (rc < 0 || l.n == 0) return rc;
    buf_printf(&x->remaining, "%s%s.%s has %zu resource instances", x->remaining.len ? ", " : "", ar->plural, ar->group,
               l.n);
    note_finalizers(finalizers, &l);
    return 0;
}

static int discover(struct emptying *x, struct err *e) {
    struct ns_controller *c = x->c;
    if (c->arena && mono_ns() - c->found_at < DISCOVERY_FRESH_SECONDS * NS_PER_SEC) return 0;
    struct arena *a = arena_new();
    struct client_discovery d;
    int rc = client_discover(c->m->client, a, &d, e);
    if (rc < 0) {
        arena_free(a);
        return rc;
    }
    arena_free(c->arena);
    c->arena = a;
    c->found = d;
    c->found_at = mono_ns();
    return 0;
}

/* What runs goes before what it runs on: network policies, secrets and the like outlive the last pod. */
static bool pods_first(struct client_discovery *d) {
    for (size_t i = 0; i < d->n; i++) {
        if (!str_eq(d->items[i].plural, "pods") || !str_empty(d->items[i].group)) continue;
        struct client_api_resource x = d->items[0];
        d->items[0] = d->items[i];
        d->items[i] = x;
        return true;
    }
    return false;
}

static int empty_all(struct emptying *x, struct err *e) {
    struct ns_controller *c = x->c;
    _cleanup_map_ struct map finalizers = MAP_INIT;
    pthread_mutex_lock(&c->lock);
    int rc = discover(x, e);
    struct client_discovery d = {0};
    if (rc == 0) { /* copied, as another run may replace it */
        d = c->found;
        d.items = arena_memdup(x->a, d.items, d.n * sizeof(*d.items));
        for (size_t i = 0; i < d.n; i++) {
            struct client_api_resource *r = &d.items[i];
            r->group = arena_strdup(x->a, r->group);
            r->version = arena_strdup(x->a, r->version);
            r->plural = arena_strdup(x->a, r->plural);
            r->kind = arena_strdup(x->a, r->kind);
        }
    }
    pthread_mutex_unlock(&c->lock);
    if (rc < 0) return rc;
    if (d.partial)
        x->discovery_error = "Discovery failed for some groups: unable to retrieve the complete list of server APIs";
    const uint32_t needed = CLIENT_VERB_LIST | CLIENT_VERB_DELETE;
    bool pods = pods_first(&d);
    for (size_t i = 0; i < d.n; i++) {
        if (i == 1 && pods && x->remaining.len) break;
        _cleanup_err_ struct err re = {0};
        if (!d.items[i].namespaced || (d.items[i].verbs & needed) != needed) continue;
        rc = empty_resource(x, &d.items[i], &finalizers, &re);
        if (rc < 0 && re.status != 404 && re.status != 405)
            x->delete_error = arena_printf(x->a, "Failed to delete all resource types, 1 remaining: %s", re.msg);
    }
    size_t it = 0;
    const char *name;
    void *n;
    while (map_next(&finalizers, &it, &name, &n))
        buf_printf(&x->finalizers, "%s%s in %ld resource instances", x->finalizers.len ? ", " : "", name,
                   (long)(intptr_t)n);
    return 0;
}

/* Takes the finalizer "kubernetes" off; with the last one the namespace goes. */
static int finalize(struct emptying *x, struct err *e) {
    struct core_namespace ns = *x->ns;
    struct str_vec keep = {.items = arena_alloc(x->a, (ns.spec.finalizers.n + 1) * sizeof(char *))};
    for (size_t i = 0; i < ns.spec.finalizers.n; i++)
        if (!str_eq(ns.spec.finalizers.items[i], "kubernetes")) keep.items[keep.n++] = ns.spec.finalizers.items[i];
    ns.spec.finalizers = keep;
    ns.metadata.resource_version = NULL; /* whatever else changed does not matter any more */
    struct client_opts o = {.cause = x->ns->metadata.resource_version, .subresource = "finalize"};
    _cleanup_err_ struct err fe = {0};
    int rc = client_update(x->c->m->client, x->a, &client_namespaces, NULL, &ns, &o, NULL, &fe);
    if (rc == 0 || client_err_not_found(&fe)) return 0;
    err_move(e, &fe);
    return rc;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ns_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_namespaces), key);
    if (!o) return 0;
    struct emptying x = {.c = c, .a = a, .ns = o->obj};
    if (!x.ns->metadata.deletion_timestamp.set || x.ns->spec.finalizers.n == 0) return 0;
    int rc = empty_all(&x, e);
    bool done = rc == 0 && !x.discovery_error && !x.delete_error && !x.remaining.len;
    if (rc < 0) {
        x.discovery_error = arena_strdup(a, e->msg);
        report(&x, NULL);
    } else if (done) {
        rc = finalize(&x, e);
    } else {
        int64_t age = ktime_diff_ns(ktime_now(), x.ns->metadata.deletion_timestamp);
        rc = report(&x, e);
        workqueue_add_after(c->q, key, MIN_OF(MAX_OF(age / 4, RECHECK), RECHECK_MAX));
    }
    buf_done(&x.remaining);
    buf_done(&x.finalizers);
    return rc;
}

static void changed(void *arg, const struct object *o) {
    struct ns_controller *c = arg;
    if (o->meta->deletion_timestamp.set) workqueue_add(c->q, o->key);
}

static void done(void *p) {
    struct ns_controller *c = p;
    arena_free(c->arena);
    pthread_mutex_destroy(&c->lock);
}

int namespace_start(struct manager *m, struct err *e) {
    struct ns_controller *c = manager_alloc(m, sizeof(*c), done);
    c->m = m;
    pthread_mutex_init(&c->lock, NULL);
    c->q = manager_queue(m, "namespace", WORKERS, reconcile, c, &client_namespaces, NULL);
    manager_watch(m, &client_namespaces, changed, c);
    return 0;
}
