/* EndpointSlice controller: lists the pods behind each service, up to a hundred a slice (upstream
 * pkg/controller/endpointslice).
 *
 * Endpoints with the same ports share slices. A change touches as few slices as it can: an endpoint stays in
 * the slice it is in, new ones fill slices with room, and only then a slice is added; a slice that ran empty
 * goes, except the last one. Hints are those of topology.c; a node that comes, goes or changes its zone, readiness or
 * CPUs has the services looked at again that share their endpoints out by them. */
#include "backends.h"
#include "pkg/api/discovery.h"
#include "topology.h"

enum { PER_SLICE = 100, WORKERS = 5 };
#define MANAGER "endpointslice-controller.k8s.io"
#define SERVICE_LABEL "kubernetes.io/service-name"
#define MANAGED_LABEL "endpointslice.kubernetes.io/managed-by"

struct es_controller {
    struct manager *m;
    struct workqueue *q;
};

struct slice {
    const struct object *was; /* NULL: new */
    struct discovery_endpoint_slice s;
    bool changed;
};

struct work {
    struct es_controller *c;
    struct arena *a;
    const struct core_service *svc;
    struct str_map labels;
    struct slice *slices;
    size_t n, cap;
};

/* ---- building ---- */

static void build_endpoint(struct work *w, const struct backend *b, struct discovery_endpoint *out) {
    struct arena *a = w->a;
    const struct core_pod *p = b->pod;
    *out = (struct discovery_endpoint){0};
    out->addresses.items = arena_memdup(a, &b->ip, sizeof(b->ip));
    out->addresses.n = 1;
    out->conditions.ready = arena_memdup(a, &b->ready, sizeof(bool));
    out->conditions.serving = arena_memdup(a, &b->serving, sizeof(bool));
    out->conditions.terminating = arena_memdup(a, &b->terminating, sizeof(bool));
    out->hostname = b->hostname;
    out->node_name = str_empty(p->spec.node_name) ? NULL : p->spec.node_name;
    struct core_object_reference *ref = out->target_ref = arena_zalloc(a, sizeof(*ref));
    ref->kind = "Pod";
    ref->namespace = p->metadata.namespace;
    ref->name = p->metadata.name;
    ref->uid = p->metadata.uid;
    _cleanup_object_ struct object *node =
        out->node_name ? informer_get(manager_informer(w->c->m, &client_nodes), out->node_name) : NULL;
    const char *zone = node ? str_map_get(&node->meta->labels, "topology.kubernetes.io/zone") : NULL;
    out->zone = arena_strdup(a, zone);
}

static struct discovery_endpoint_port_vec build_ports(struct work *w, const struct backend_port *ports, size_t n) {
    struct discovery_endpoint_port_vec v = {.items = arena_zalloc(w->a, (n + 1) * sizeof(*v.items)), .n = n};
    for (size_t i = 0; i < n; i++) {
        v.items[i].name = ports[i].name;
        v.items[i].protocol = ports[i].protocol;
        v.items[i].port = arena_memdup(w->a, &ports[i].port, sizeof(int32_t));
        v.items[i].app_protocol = ports[i].app_protocol;
    }
    return v;
}

static bool same_ports(const struct discovery_endpoint_port_vec *a, const struct discovery_endpoint_port_vec *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++) {
        const struct discovery_endpoint_port *x = &a->items[i], *y = &b->items[i];
        if (strcmp(str_or_empty(x->name), str_or_empty(y->name)) != 0 || !str_eq(x->protocol, y->protocol) ||
            !str_eq(x->app_protocol, y->app_protocol) || !x->port != !y->port || (x->port && *x->port != *y->port))
            return false;
    }
    return true;
}

static struct slice *new_slice(struct work *w, const char *family, struct discovery_endpoint_port_vec ports) {
    ARENA_GROW(w->a, w->slices, w->n, w->cap);
    struct slice *x = &w->slices[w->n++];
    struct owner owner = {&client_services, &w->svc->metadata};
    *x = (struct slice){.changed = true};
    x->s.metadata.generate_name = arena_printf(w->a, "%s-", w->svc->metadata.name);
    x->s.metadata.namespace = w->svc->metadata.namespace;
    x->s.metadata.owner_references.items = owner_ref_new(w->a, &owner, true);
    x->s.metadata.owner_references.n = 1;
    x->s.metadata.labels = w->labels;
    x->s.address_type = family;
    x->s.ports = ports;
    x->s.endpoints.items = arena_alloc(w->a, PER_SLICE * sizeof(*x->s.endpoints.items));
    return x;
}

/* ---- placing ---- */

static const char *uid_of(const struct discovery_endpoint *ep) {
    return ep->target_ref ? str_or_empty(ep->target_ref->uid) : "";
}

/* Wanted endpoints of one set of ports. */
struct group {
    struct discovery_endpoint_port_vec ports;
    struct discovery_endpoint *eps;
    bool *placed;
    size_t n;
};

/* Keeps of a slice what is still wanted, in its present form. */
static void keep_wanted(struct work *w, struct slice *x, struct group *g) {
    const struct discovery_endpoint_slice *was = x->was->obj;
    struct discovery_endpoint *fresh = arena_alloc(w->a, PER_SLICE * sizeof(*fresh));
    size_t n = 0;
    for (size_t i = 0; i < was->endpoints.n && n < PER_SLICE; i++) {
        const struct discovery_endpoint *old = &was->endpoints.items[i];
        size_t k = 0;
        while (k < g->n && (g->placed[k] || strcmp(uid_of(&g->eps[k]), uid_of(old)) != 0)) k++;
        if (k == g->n) {
            x->changed = true;
            continue;
        }
        g->placed[k] = true;
        if (!api_equal(&api_discovery_endpoint, old, &g->eps[k])) x->changed = true;
        fresh[n++] = g->eps[k];
    }
    x->s.endpoints.items = fresh;
    x->s.endpoints.n = n;
}

static void place(struct work *w, const char *family, struct group *g) {
    for (size_t i = 0; i < w->n; i++) {
        struct slice *x = &w->slices[i];
        if (x->was && str_eq(x->s.address_type, family) && same_ports(&x->s.ports, &g->ports)) keep_wanted(w, x, g);
    }
    for (size_t k = 0; k < g->n; k++) {
        if (g->placed[k]) continue;
        struct slice *room = NULL;
        for (size_t i = 0; i < w->n && !room; i++) {
            struct slice *x = &w->slices[i];
            if (str_eq(x->s.address_type, family) && same_ports(&x->s.ports, &g->ports) && x->s.endpoints.n < PER_SLICE)
                room = x;
        }
        if (!room) room = new_slice(w, family, g->ports);
        room->s.endpoints.items[room->s.endpoints.n++] = g->eps[k];
        room->changed = true;
    }
}

/* ---- writing ---- */

static int write_slice(struct work *w, struct slice *x, bool keep_empty, struct err *e) {
    struct client *c = w->c->m->client;
    const char *ns = w->svc->metadata.namespace;
    struct client_opts o = {.cause = w->svc->metadata.resource_version};
    _cleanup_err_ struct err le = {0};
    int r;
    if (x->was && x->s.endpoints.n == 0 && !keep_empty) {
        struct client_delete_opts d = {.cause = o.cause, .uid = x->was->meta->uid};
        r = client_delete(c, &client_endpointslices, ns, x->was->meta->name, &d, &le);
        if (client_err_not_found(&le)) return 0;
    } else if (x->was) {
        bool labels_same =
            x->s.metadata.labels.n == w->labels.n && label_map_matches(&w->labels, &x->s.metadata.labels);
        if (!x->changed && labels_same) return 0;
        x->s.metadata.labels = w->labels;
        r = client_update(c, w->a, &client_endpointslices, ns, &x->s, &o, NULL, &le);
    } else {
        r = client_create(c, w->a, &client_endpointslices, ns, &x->s, &o, NULL, &le);
        if (client_err_namespace_terminating(&le)) return 0;
    }
    if (r < 0) err_move(e, &le);
    return r;
}

static void reconcile_family(struct work *w, const char *family) {
    struct backends b;
    backends_find(w->c->m, w->a, w->svc, family, &b);
    struct group *groups = arena_zalloc(w->a, (b.n + 1) * sizeof(*groups));
    size_t n = 0;
    for (size_t i = 0; i < b.n; i++) {
        struct discovery_endpoint_port_vec ports = build_ports(w, b.items[i].ports, b.items[i].n_ports);
        size_t g = 0;
        while (g < n && !same_ports(&groups[g].ports, &ports)) g++;
        if (g == n) {
            groups[n++].ports = ports;
            groups[g].eps = arena_alloc(w->a, b.n * sizeof(*groups[g].eps));
            groups[g].placed = arena_zalloc(w->a, b.n * sizeof(bool));
        }
        struct discovery_endpoint ep;
        build_endpoint(w, &b.items[i], &ep);
        groups[g].eps[groups[g].n++] = *(struct discovery_endpoint *)api_clone(w->a, &api_discovery_endpoint, &ep);
    }
    for (size_t i = 0; i < w->n; i++) /* what no group claims below ends empty */
        if (w->slices[i].was && str_eq(w->slices[i].s.address_type, family)) {
            w->slices[i].changed |= w->slices[i].s.endpoints.n > 0 && n == 0;
            bool claimed = false;
            for (size_t g = 0; g < n; g++) claimed |= same_ports(&w->slices[i].s.ports, &groups[g].ports);
            if (!claimed) w->slices[i].s.endpoints.n = 0;
        }
    for (size_t g = 0; g < n; g++) {
        topology_hints(w->c->m, w->a, w->svc, groups[g].eps, groups[g].n);
        place(w, family, &groups[g]);
    }
    bool any = false;
    for (size_t i = 0; i < w->n; i++) any |= str_eq(w->slices[i].s.address_type, family);
    if (!any) new_slice(w, family, (struct discovery_endpoint_port_vec){0});
    backends_done(&b);
}

static int write_all(struct work *w, struct err *e) {
    const struct str_vec *families = &w->svc->spec.ip_families;
    int result = 0;
    for (size_t i = 0; i < w->n; i++) {
        struct slice *x = &w->slices[i];
        bool wanted_family = families->n == 0 && str_eq(x->s.address_type, "IPv4");
        for (size_t k = 0; k < families->n; k++) wanted_family |= str_eq(families->items[k], x->s.address_type);
        size_t filled = 0, before = 0;
        for (size_t k = 0; k < w->n; k++) {
            if (!str_eq(w->slices[k].s.address_type, x->s.address_type)) continue;
            filled += w->slices[k].s.endpoints.n > 0;
            before += k < i;
        }
        if (!wanted_family) x->s.endpoints.n = 0;
        bool keep_empty = wanted_family && filled == 0 && before == 0;
        int r = write_slice(w, x, keep_empty, e);
        if (r < 0) result = r;
    }
    return result;
}

static void existing_slices(struct work *w, struct object_list *l) {
    informer_list(manager_informer(w->c->m, &client_endpointslices), w->svc->metadata.namespace, l);
    for (size_t i = 0; i < l->n; i++) {
        const struct object *o = l->items[i];
        if (!str_eq(str_map_get(&o->meta->labels, SERVICE_LABEL), w->svc->metadata.name) ||
            !str_eq(str_map_get(&o->meta->labels, MANAGED_LABEL), MANAGER) || o->meta->deletion_timestamp.set)
            continue;
        ARENA_GROW(w->a, w->slices, w->n, w->cap);
        w->slices[w->n++] = (struct slice){.was = o, .s = *(const struct discovery_endpoint_slice *)o->obj};
    }
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct es_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_services), key);
    if (!o) return 0; /* the slices go with their owner */
    const struct core_service *svc = o->obj;
    if (!service_has_backends(svc) || svc->metadata.deletion_timestamp.set) return 0;
    struct work w = {.c = c, .a = a, .svc = svc};
    w.labels = service_labels(a, svc);
    map_set(a, &w.labels, SERVICE_LABEL, svc->metadata.name);
    map_set(a, &w.labels, MANAGED_LABEL, MANAGER);
    _cleanup_object_list_ struct object_list l = {0};
    existing_slices(&w, &l);
    if (svc->spec.ip_families.n == 0) reconcile_family(&w, "IPv4");
    for (size_t i = 0; i < svc->spec.ip_families.n; i++) reconcile_family(&w, svc->spec.ip_families.items[i]);
    return write_all(&w, e);
}

static void slice_changed(void *arg, struct object *o) {
    struct es_controller *c = arg;
    const char *name = str_map_get(&o->meta->labels, SERVICE_LABEL);
    if (!name || !str_eq(str_map_get(&o->meta->labels, MANAGED_LABEL), MANAGER)) return;
    _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(o->meta->namespace), name);
    workqueue_add(c->q, key);
}

static void node_changed(void *arg, struct object *o) {
    struct es_controller *c = arg;
    _cleanup_object_list_ struct object_list all = {0};
    informer_list(manager_informer(c->m, &client_services), NULL, &all);
    for (size_t i = 0; i < all.n; i++)
        if (topology_wants_nodes(all.items[i]->obj)) workqueue_add(c->q, all.items[i]->key);
}

static bool node_ready(const struct core_node *n) {
    for (size_t i = 0; i < n->status.conditions.n; i++)
        if (str_eq(n->status.conditions.items[i].type, "Ready"))
            return str_eq(n->status.conditions.items[i].status, "True");
    return false;
}

static void node_updated(void *arg, struct object *old, struct object *o) {
    const struct core_node *x = old->obj, *y = o->obj;
    static const char zone[] = "topology.kubernetes.io/zone";
    if (node_ready(x) != node_ready(y) ||
        !str_eq(str_map_get(&x->metadata.labels, zone), str_map_get(&y->metadata.labels, zone)) ||
        !str_eq(str_map_get(&x->status.allocatable, "cpu"), str_map_get(&y->status.allocatable, "cpu")))
        node_changed(arg, o);
}

static void slice_updated(void *arg, struct object *old, struct object *o) { slice_changed(arg, o); }

int endpointslice_start(struct manager *m, struct err *e) {
    struct es_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "endpointslice", WORKERS, reconcile, c, &client_services, &client_pods,
                         &client_endpointslices, &client_nodes, NULL);
    manager_watch_keys(m, &client_services, c->q);
    backends_watch_pods(m, c->q);
    struct informer_handler h = {NULL, slice_updated, slice_changed, c};
    informer_add_handler(manager_informer(m, &client_endpointslices), &h);
    struct informer_handler nodes = {node_changed, node_updated, node_changed, c};
    informer_add_handler(manager_informer(m, &client_nodes), &nodes);
    return 0;
}
