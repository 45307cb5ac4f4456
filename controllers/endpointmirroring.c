/* EndpointSlice mirroring: Endpoints that somebody wrote by hand, for a service without a selector, appear as
 * EndpointSlices too, since proxies read only those (upstream pkg/controller/endpointslicemirroring). */
#include <arpa/inet.h>

#include "pkg/api/discovery.h"
#include "util.h"

enum { PER_SUBSET = 1000 };
#define MANAGER "endpointslicemirroring-controller.k8s.io"
#define SERVICE_LABEL "kubernetes.io/service-name"
#define MANAGED_LABEL "endpointslice.kubernetes.io/managed-by"
#define SKIP_LABEL "endpointslice.kubernetes.io/skip-mirror"
#define LEADER_NOTE "control-plane.alpha.kubernetes.io/leader"

struct mirror_controller {
    struct manager *m;
    struct workqueue *q;
};

struct mirror {
    struct mirror_controller *c;
    struct arena *a;
    const struct core_endpoints *ep;
    struct discovery_endpoint_slice *want;
    size_t n, cap;
};

static bool to_mirror(struct mirror_controller *c, const struct core_endpoints *ep) {
    if (str_eq(str_map_get(&ep->metadata.labels, SKIP_LABEL), "true") ||
        str_map_get(&ep->metadata.annotations, LEADER_NOTE))
        return false;
    _cleanup_object_ struct object *o =
        informer_get_ns(manager_informer(c->m, &client_services), ep->metadata.namespace, ep->metadata.name);
    return o && ((const struct core_service *)o->obj)->spec.selector.n == 0;
}

static void add_addresses(struct mirror *x, struct discovery_endpoint_slice *s,
                          const struct core_endpoint_address_vec *v, bool ready, bool six) {
    for (size_t i = 0; i < v->n && s->endpoints.n < PER_SUBSET; i++) {
        const struct core_endpoint_address *ad = &v->items[i];
        if (str_empty(ad->ip) || (strchr(ad->ip, ':') != NULL) != six) continue;
        struct discovery_endpoint *e = &s->endpoints.items[s->endpoints.n++];
        *e = (struct discovery_endpoint){
            .hostname = ad->hostname, .node_name = ad->node_name, .target_ref = ad->target_ref};
        e->addresses.items = arena_memdup(x->a, &ad->ip, sizeof(ad->ip));
        e->addresses.n = 1;
        e->conditions.ready = arena_memdup(x->a, &ready, sizeof(ready));
    }
}

static void add_slice(struct mirror *x, const struct core_endpoint_subset *sub, bool six) {
    struct arena *a = x->a;
    struct owner owner = {&client_endpoints, &x->ep->metadata};
    struct discovery_endpoint_slice s = {.address_type = six ? "IPv6" : "IPv4"};
    size_t room = sub->addresses.n + sub->not_ready_addresses.n;
    s.endpoints.items = arena_alloc(a, (room + 1) * sizeof(*s.endpoints.items));
    add_addresses(x, &s, &sub->addresses, true, six);
    add_addresses(x, &s, &sub->not_ready_addresses, false, six);
    if (!s.endpoints.n) return;
    s.ports.items = arena_zalloc(a, (sub->ports.n + 1) * sizeof(*s.ports.items));
    for (size_t i = 0; i < sub->ports.n; i++)
        s.ports.items[s.ports.n++] = (struct discovery_endpoint_port){
            .name = str_or_empty(sub->ports.items[i].name),
            .protocol = str_empty(sub->ports.items[i].protocol) ? "TCP" : sub->ports.items[i].protocol,
            .port = arena_memdup(a, &sub->ports.items[i].port, sizeof(int32_t)),
            .app_protocol = sub->ports.items[i].app_protocol};
    s.metadata.generate_name = arena_printf(a, "%s-", x->ep->metadata.name);
    s.metadata.namespace = x->ep->metadata.namespace;
    s.metadata.labels = x->ep->metadata.labels;
    map_set(a, &s.metadata.labels, SERVICE_LABEL, x->ep->metadata.name);
    map_set(a, &s.metadata.labels, MANAGED_LABEL, MANAGER);
    s.metadata.owner_references.items = owner_ref_new(a, &owner, true);
    s.metadata.owner_references.n = 1;
    ARENA_GROW(a, x->want, x->n, x->cap);
    x->want[x->n++] = s;
}

static bool same(const struct discovery_endpoint_slice *a, const struct discovery_endpoint_slice *b,
                 bool endpoints_too) {
    if (!str_eq(a->address_type, b->address_type) || a->ports.n != b->ports.n) return false;
    for (size_t i = 0; i < a->ports.n; i++)
        if (!api_equal(&api_discovery_endpoint_port, &a->ports.items[i], &b->ports.items[i])) return false;
    if (!endpoints_too) return true;
    if (a->endpoints.n != b->endpoints.n || a->metadata.labels.n != b->metadata.labels.n ||
        !label_map_matches(&a->metadata.labels, &b->metadata.labels))
        return false;
    for (size_t i = 0; i < a->endpoints.n; i++)
        if (!api_equal(&api_discovery_endpoint, &a->endpoints.items[i], &b->endpoints.items[i])) return false;
    return true;
}

static int write_one(struct mirror *x, const struct discovery_endpoint_slice *was,
                     struct discovery_endpoint_slice *want, const char *cause, struct err *e) {
    struct client_opts o = {.cause = cause};
    _cleanup_err_ struct err we = {0};
    struct client *c = x->c->m->client;
    int r = 0;
    if (was && want) {
        if (same(was, want, true)) return 0;
        struct discovery_endpoint_slice fresh = *was;
        fresh.endpoints = want->endpoints;
        fresh.metadata.labels = want->metadata.labels;
        r = client_update(c, x->a, &client_endpointslices, was->metadata.namespace, &fresh, &o, NULL, &we);
    } else if (want) {
        r = client_create(c, x->a, &client_endpointslices, want->metadata.namespace, want, &o, NULL, &we);
        if (client_err_namespace_terminating(&we)) return 0;
    } else {
        struct client_delete_opts d = {.cause = cause, .uid = was->metadata.uid};
        r = client_delete(c, &client_endpointslices, was->metadata.namespace, was->metadata.name, &d, &we);
        if (client_err_not_found(&we)) return 0;
    }
    if (r < 0) err_move(e, &we);
    return r;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct mirror_controller *c = arg;
    const char *ns, *name;
    key_split(a, key, &ns, &name);
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_endpoints), key);
    struct mirror x = {.c = c, .a = a, .ep = o ? o->obj : NULL};
    if (x.ep && to_mirror(c, x.ep))
        for (size_t i = 0; i < x.ep->subsets.n; i++) {
            add_slice(&x, &x.ep->subsets.items[i], false);
            add_slice(&x, &x.ep->subsets.items[i], true);
        }
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_endpointslices), ns, &l);
    bool *used = arena_zalloc(a, x.n + 1);
    int result = 0;
    for (size_t i = 0; i < l.n; i++) {
        const struct discovery_endpoint_slice *was = l.items[i]->obj;
        if (!str_eq(str_map_get(&was->metadata.labels, SERVICE_LABEL), name) ||
            !str_eq(str_map_get(&was->metadata.labels, MANAGED_LABEL), MANAGER))
            continue;
        size_t k = 0;
        while (k < x.n && (used[k] || !same(was, &x.want[k], false))) k++;
        if (k < x.n) used[k] = true;
        int r = write_one(&x, was, k < x.n ? &x.want[k] : NULL, o ? o->rv : was->metadata.resource_version, e);
        result = MIN_OF(result, r);
    }
    for (size_t k = 0; k < x.n; k++)
        if (!used[k]) result = MIN_OF(result, write_one(&x, NULL, &x.want[k], o->rv, e));
    return result;
}

static void slice_changed(void *arg, const struct object *o) {
    struct mirror_controller *c = arg;
    const char *name = str_map_get(&o->meta->labels, SERVICE_LABEL);
    if (!name || !str_eq(str_map_get(&o->meta->labels, MANAGED_LABEL), MANAGER)) return;
    _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(o->meta->namespace), name);
    workqueue_add_after(c->q, key, 100 * NS_PER_MS); /* our own writes come back here */
}

int endpointmirroring_start(struct manager *m, struct err *e) {
    struct mirror_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "endpointslice-mirroring", 1, reconcile, c, &client_endpoints, &client_services,
                         &client_endpointslices, NULL);
    manager_watch_keys(m, &client_endpoints, c->q);
    manager_watch_keys(m, &client_services, c->q);
    manager_watch(m, &client_endpointslices, slice_changed, c);
    return 0;
}
