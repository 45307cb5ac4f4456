/* Eviction by device taints: a pod whose claim holds a device with a NoExecute taint that the allocation does not
 * tolerate is deleted, at once or when its toleration runs out (upstream pkg/controller/devicetainteviction).
 *
 * One key is one pod: reconcile works out from the caches when it has to go. Slices and claims that change put the pods
 * they may concern on the queue. DeviceTaintRules are not looked at: their API is off by default. */
#include "pkg/client/claims.h"
#include "util.h"

#define NEVER INT64_MAX

struct dte_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
    struct informer *pods_inf, *claims_inf, *slices_inf;
    int slices_by_pool, claims_by_pool;
};

static char *pool_key(const char *driver, const char *pool) {
    return xasprintf("%s/%s", str_or_empty(driver), str_or_empty(pool));
}

static void index_slice_pool(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct resource_resource_slice *s = o->obj;
    _cleanup_free_ char *key = pool_key(s->spec.driver, s->spec.pool.name);
    emit(ctx, key);
}

static void index_claim_pool(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct resource_resource_claim *k = o->obj;
    for (size_t i = 0; k->status.allocation && i < k->status.allocation->devices.results.n; i++) {
        const struct resource_device_request_allocation_result *r = &k->status.allocation->devices.results.items[i];
        _cleanup_free_ char *key = pool_key(r->driver, r->pool);
        emit(ctx, key);
    }
}

/* ---- when a pod has to go ---- */

static bool no_execute(const struct resource_device *d) {
    for (size_t i = 0; i < d->taints.n; i++)
        if (str_eq(d->taints.items[i].effect, "NoExecute")) return true;
    return false;
}

/* Until when the taint is borne, in nanoseconds since 1970. */
static int64_t borne_until(const struct resource_device_request_allocation_result *r,
                           const struct resource_device_taint *t) {
    int64_t since = t->time_added.set ? ktime_unix_ns(t->time_added) : 0, least = NEVER;
    for (size_t i = 0; i < r->tolerations.n; i++) {
        const struct resource_device_toleration *x = &r->tolerations.items[i];
        if (!str_eq(x->effect, "NoExecute") || !device_toleration_tolerates(x, t)) continue;
        if (!x->toleration_seconds) return NEVER;
        least = MIN_OF(least, MAX_OF(*x->toleration_seconds, 0));
    }
    if (least == NEVER) return since;
    int64_t add;
    return __builtin_mul_overflow(least, NS_PER_SEC, &add) || __builtin_add_overflow(since, add, &add) ? NEVER : add;
}

/* The earliest time for one allocated device; only the pool's newest generation says something. */
static int64_t device_until(struct dte_controller *c, const struct resource_device_request_allocation_result *r) {
    _cleanup_object_list_ struct object_list l = {0};
    _cleanup_free_ char *key = pool_key(r->driver, r->pool);
    int64_t newest = INT64_MIN, until = NEVER;
    informer_by_index(c->slices_inf, c->slices_by_pool, key, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct resource_resource_slice *s = l.items[i]->obj;
        newest = MAX_OF(newest, s->spec.pool.generation);
    }
    for (size_t i = 0; i < l.n; i++) {
        const struct resource_resource_slice *s = l.items[i]->obj;
        for (size_t k = 0; s->spec.pool.generation == newest && k < s->spec.devices.n; k++) {
            const struct resource_device *d = &s->spec.devices.items[k];
            if (!str_eq(d->name, r->device)) continue;
            for (size_t t = 0; t < d->taints.n; t++)
                if (str_eq(d->taints.items[t].effect, "NoExecute"))
                    until = MIN_OF(until, borne_until(r, &d->taints.items[t]));
        }
    }
    return until;
}

static int64_t pod_until(struct dte_controller *c, const struct core_pod *p) {
    int64_t until = NEVER;
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const char *name;
        bool generated;
        if (pod_claim_name(p, &p->spec.resource_claims.items[i], &name, &generated, NULL) < 0 || !name) continue;
        _cleanup_object_ struct object *o = informer_get_ns(c->claims_inf, p->metadata.namespace, name);
        const struct resource_resource_claim *k = o ? o->obj : NULL;
        if (!k || !k->status.allocation || (generated && claim_is_for_pod(k, p, NULL) < 0) ||
            !claim_reserved_for(k, p->metadata.uid))
            continue;
        for (size_t d = 0; d < k->status.allocation->devices.results.n; d++)
            until = MIN_OF(until, device_until(c, &k->status.allocation->devices.results.items[d]));
    }
    return until;
}

/* ---- evicting ---- */

static int evict(struct dte_controller *c, struct arena *a, const struct core_pod *p, struct err *e) {
    char now[KTIME_MAX];
    const char *ns = p->metadata.namespace, *name = p->metadata.name;
    struct client_opts o = {.cause = p->metadata.resource_version, .subresource = "status"};
    ktime_format(ktime_now_s(), now);
    const char *text = arena_printf(a,
                                    "{\"metadata\":{\"uid\":\"%s\"},\"status\":{\"conditions\":[{\"type\":"
                                    "\"DisruptionTarget\",\"status\":\"True\",\"reason\":"
                                    "\"DeletionByDeviceTaintManager\",\"message\":\"Device Taint manager: deleting due "
                                    "to NoExecute taint\",\"lastTransitionTime\":\"%s\"}]}}",
                                    str_or_empty(p->metadata.uid), now);
    _cleanup_err_ struct err ce = {0};
    int r = client_patch(c->m->client, a, &client_pods, ns, name, CLIENT_PATCH_STRATEGIC, text, strlen(text), &o, NULL,
                         &ce);
    if (r == 0) {
        event_record_obj(c->events, &client_pods, &p->metadata, "Normal", "DeviceTaintManagerEviction",
                         "Marking for deletion");
        struct client_delete_opts d = {.cause = o.cause, .uid = p->metadata.uid};
        r = client_delete(c->m->client, &client_pods, ns, name, &d, &ce);
    }
    if (r == 0 || client_err_not_found(&ce) || client_err_conflict(&ce)) return 0;
    err_move(e, &ce);
    return r;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct dte_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(c->pods_inf, key);
    const struct core_pod *p = o ? o->obj : NULL;
    if (!p || p->metadata.deletion_timestamp.set || pod_is_terminal(p) || str_empty(p->spec.node_name)) return 0;
    int64_t until = pod_until(c, p), now = ktime_unix_ns(ktime_now());
    if (until == NEVER) return 0;
    if (until <= now) return evict(c, a, p, e);
    workqueue_add_after(c->q, key, until - now);
    return 0;
}

/* ---- what wakes it ---- */

static void pod_changed(void *arg, const struct object *o) {
    const struct core_pod *p = o->obj;
    if (p->spec.resource_claims.n && !str_empty(p->spec.node_name))
        workqueue_add(((struct dte_controller *)arg)->q, o->key);
}

static void claim_changed(void *arg, const struct object *o) {
    struct dte_controller *c = arg;
    const struct resource_resource_claim *k = o->obj;
    for (size_t i = 0; k->status.allocation && i < k->status.reserved_for.n; i++) {
        const struct resource_resource_claim_consumer_reference *r = &k->status.reserved_for.items[i];
        if (!str_empty(r->api_group) || !str_eq(r->resource, "pods")) continue;
        _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(o->meta->namespace), r->name);
        workqueue_add(c->q, key);
    }
}

/* Called with the slice before and after a change: with no tainted device in it, nothing can have to go. */
static void slice_changed(void *arg, const struct object *o) {
    struct dte_controller *c = arg;
    const struct resource_resource_slice *s = o->obj;
    bool tainted = false;
    for (size_t i = 0; i < s->spec.devices.n; i++) tainted |= no_execute(&s->spec.devices.items[i]);
    if (!tainted) return;
    _cleanup_object_list_ struct object_list l = {0};
    _cleanup_free_ char *key = pool_key(s->spec.driver, s->spec.pool.name);
    informer_by_index(c->claims_inf, c->claims_by_pool, key, &l);
    for (size_t i = 0; i < l.n; i++) claim_changed(c, l.items[i]);
}

int devicetainteviction_start(struct manager *m, struct err *e) {
    struct dte_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "device-taint-eviction");
    c->pods_inf = manager_informer(m, &client_pods);
    c->claims_inf = manager_informer(m, &client_resourceclaims);
    c->slices_inf = manager_informer(m, &client_resourceslices);
    c->slices_by_pool = informer_add_index(c->slices_inf, index_slice_pool);
    c->claims_by_pool = informer_add_index(c->claims_inf, index_claim_pool);
    c->q = manager_queue(m, "device-taint-eviction", 2, reconcile, c, &client_pods, &client_resourceclaims,
                         &client_resourceslices, NULL);
    manager_watch(m, &client_pods, pod_changed, c);
    manager_watch(m, &client_resourceclaims, claim_changed, c);
    manager_watch(m, &client_resourceslices, slice_changed, c);
    return 0;
}
