/* Endpoints controller: the older form of EndpointSlices, one object a service, that some clients still read
 * (upstream pkg/controller/endpoint). Pods with the same ports form a subset; those not ready stand apart in
 * it. */
#include "backends.h"

enum { ADDRESSES_MAX = 1000, WORKERS = 2 };
#define MANAGED_LABEL "endpoints.kubernetes.io/managed-by"
#define OVER_CAPACITY "endpoints.kubernetes.io/over-capacity"

struct ep_controller {
    struct manager *m;
    struct workqueue *q;
};

static struct core_endpoint_address address_of(struct arena *a, const struct backend *b) {
    const struct core_pod *p = b->pod;
    struct core_object_reference *ref = arena_zalloc(a, sizeof(*ref));
    ref->kind = "Pod";
    ref->namespace = p->metadata.namespace;
    ref->name = p->metadata.name;
    ref->uid = p->metadata.uid;
    return (struct core_endpoint_address){.ip = b->ip,
                                          .hostname = b->hostname,
                                          .target_ref = ref,
                                          .node_name = str_empty(p->spec.node_name) ? NULL : p->spec.node_name};
}

static struct core_endpoint_port_vec ports_of(struct arena *a, const struct backend *b) {
    struct core_endpoint_port_vec v = {.items = arena_zalloc(a, (b->n_ports + 1) * sizeof(*v.items)), .n = b->n_ports};
    for (size_t i = 0; i < b->n_ports; i++)
        v.items[i] = (struct core_endpoint_port){.name = str_empty(b->ports[i].name) ? NULL : b->ports[i].name,
                                                 .port = b->ports[i].port,
                                                 .protocol = b->ports[i].protocol,
                                                 .app_protocol = b->ports[i].app_protocol};
    return v;
}

static bool same_ports(const struct core_endpoint_port_vec *a, const struct core_endpoint_port_vec *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!api_equal(&api_core_endpoint_port, &a->items[i], &b->items[i])) return false;
    return true;
}

static void build(struct arena *a, const struct core_service *svc, const struct backends *b,
                  struct core_endpoint_subset_vec *out) {
    out->items = arena_zalloc(a, (b->n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < b->n && i < ADDRESSES_MAX; i++) {
        const struct backend *x = &b->items[i];
        bool always = svc->spec.publish_not_ready_addresses;
        if (x->terminating && !always) continue;
        if (x->n_ports == 0 && svc->spec.ports.n) continue;
        struct core_endpoint_port_vec ports = ports_of(a, x);
        size_t s = 0;
        while (s < out->n && !same_ports(&out->items[s].ports, &ports)) s++;
        struct core_endpoint_subset *set = &out->items[s];
        if (s == out->n) {
            out->n++;
            set->ports = ports;
            set->addresses.items = arena_alloc(a, b->n * sizeof(*set->addresses.items));
            set->not_ready_addresses.items = arena_alloc(a, b->n * sizeof(*set->addresses.items));
        }
        struct core_endpoint_address_vec *v = x->ready ? &set->addresses : &set->not_ready_addresses;
        v->items[v->n++] = address_of(a, x);
    }
}

static bool same_subsets(const struct core_endpoint_subset_vec *a, const struct core_endpoint_subset_vec *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!api_equal(&api_core_endpoint_subset, &a->items[i], &b->items[i])) return false;
    return true;
}

static int write_endpoints(struct ep_controller *c, struct arena *a, const struct core_service *svc,
                           const struct backends *b, struct err *e) {
    const char *ns = svc->metadata.namespace;
    _cleanup_object_ struct object *have =
        informer_get_ns(manager_informer(c->m, &client_endpoints), ns, svc->metadata.name);
    struct core_endpoints ep = {.metadata = {.name = svc->metadata.name, .namespace = ns}},
                          *was = have ? have->obj : NULL;
    struct core_endpoint_subset_vec subsets = {0};
    struct str_map labels = service_labels(a, svc);
    map_set(a, &labels, MANAGED_LABEL, "endpoint-controller");
    build(a, svc, b, &subsets);
    if (was) ep = *was;
    bool labels_same = ep.metadata.labels.n == labels.n && label_map_matches(&labels, &ep.metadata.labels);
    bool over = b->n > ADDRESSES_MAX, marked = str_map_get(&ep.metadata.annotations, OVER_CAPACITY) != NULL;
    if (was && labels_same && over == marked && same_subsets(&was->subsets, &subsets)) return 0;
    ep.subsets = subsets;
    ep.metadata.labels = labels;
    if (over)
        map_set(a, &ep.metadata.annotations, OVER_CAPACITY, "truncated");
    else if (marked)
        map_unset(a, &ep.metadata.annotations, OVER_CAPACITY);
    struct client_opts o = {.cause = svc->metadata.resource_version};
    _cleanup_err_ struct err le = {0};
    int r = was ? client_update(c->m->client, a, &client_endpoints, ns, &ep, &o, NULL, &le)
                : client_create(c->m->client, a, &client_endpoints, ns, &ep, &o, NULL, &le);
    if (r == 0 || client_err_namespace_terminating(&le)) return 0;
    err_move(e, &le);
    return r;
}

static int remove_endpoints(struct ep_controller *c, struct arena *a, const char *key, struct err *e) {
    _cleanup_object_ struct object *have = informer_get(manager_informer(c->m, &client_endpoints), key);
    if (!have || !str_eq(str_map_get(&have->meta->labels, MANAGED_LABEL), "endpoint-controller")) return 0;
    _cleanup_err_ struct err le = {0};
    struct client_delete_opts o = {.cause = have->rv, .uid = have->meta->uid};
    int r = client_delete(c->m->client, &client_endpoints, have->meta->namespace, have->meta->name, &o, &le);
    if (r == 0 || client_err_not_found(&le)) return 0;
    err_move(e, &le);
    return r;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ep_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_services), key);
    if (!o) return remove_endpoints(c, a, key, e);
    const struct core_service *svc = o->obj;
    if (!service_has_backends(svc) || svc->metadata.deletion_timestamp.set) return 0;
    struct backends b;
    backends_find(c->m, a, svc, svc->spec.ip_families.n ? svc->spec.ip_families.items[0] : "IPv4", &b);
    int r = write_endpoints(c, a, svc, &b, e);
    backends_done(&b);
    return r;
}

int endpoints_start(struct manager *m, struct err *e) {
    struct ep_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "endpoint", WORKERS, reconcile, c, &client_services, &client_pods, &client_endpoints, NULL);
    manager_watch_keys(m, &client_services, c->q);
    backends_watch_pods(m, c->q);
    return 0;
}
