/* The pods behind a service. */
#include "backends.h"

#define HEADLESS "service.kubernetes.io/headless"

bool service_has_backends(const struct core_service *svc) {
    return svc->spec.selector.n > 0 && !str_eq(svc->spec.type, "ExternalName");
}

bool service_is_headless(const struct core_service *svc) {
    return str_empty(svc->spec.cluster_ip) || strcmp(svc->spec.cluster_ip, "None") == 0;
}

struct str_map service_labels(struct arena *a, const struct core_service *svc) {
    static const char *const reserved[] = {"kubernetes.io/service-name", "endpointslice.kubernetes.io/managed-by",
                                           "endpoints.kubernetes.io/managed-by", HEADLESS};
    struct str_map m = svc->metadata.labels;
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
        if (str_map_get(&m, reserved[i])) map_unset(a, &m, reserved[i]);
    if (service_is_headless(svc)) map_set(a, &m, HEADLESS, "");
    return m;
}

static const char *pod_address(const struct core_pod *p, const char *family) {
    bool six = str_eq(family, "IPv6");
    for (size_t i = 0; i < p->status.pod_ips.n; i++) {
        const char *ip = p->status.pod_ips.items[i].ip;
        if (!str_empty(ip) && (strchr(ip, ':') != NULL) == six) return ip;
    }
    const char *ip = p->status.pod_ip;
    return !str_empty(ip) && (strchr(ip, ':') != NULL) == six ? ip : NULL;
}

/* A service port's number on a pod: given, or looked up by name among the containers' ports. 0: this pod has
 * none. */
static int32_t port_on_pod(const struct core_service_port *sp, const struct core_pod *p) {
    if (!sp->target_port.set) return sp->port;
    if (!sp->target_port.is_str) return sp->target_port.i ? sp->target_port.i : sp->port;
    const char *protocol = str_empty(sp->protocol) ? "TCP" : sp->protocol;
    const struct core_container_vec *lists[] = {&p->spec.containers, &p->spec.init_containers};
    for (size_t l = 0; l < ARRAY_LEN(lists); l++)
        for (size_t i = 0; i < lists[l]->n; i++) {
            const struct core_container *c = &lists[l]->items[i];
            if (l == 1 && !str_eq(c->restart_policy, "Always")) continue;
            for (size_t k = 0; k < c->ports.n; k++)
                if (str_eq(c->ports.items[k].name, sp->target_port.s) &&
                    strcmp(str_empty(c->ports.items[k].protocol) ? "TCP" : c->ports.items[k].protocol, protocol) == 0)
                    return c->ports.items[k].container_port;
        }
    return 0;
}

static void fill(struct arena *a, const struct core_service *svc, struct backend *b) {
    const struct core_pod *p = b->pod;
    b->serving = pod_is_ready(p);
    b->terminating = p->metadata.deletion_timestamp.set;
    b->ready = svc->spec.publish_not_ready_addresses || (b->serving && !b->terminating);
    if (!str_empty(p->spec.hostname) && str_eq(p->spec.subdomain, svc->metadata.name)) b->hostname = p->spec.hostname;
    b->ports = arena_zalloc(a, (svc->spec.ports.n + 1) * sizeof(*b->ports));
    for (size_t i = 0; i < svc->spec.ports.n; i++) {
        const struct core_service_port *sp = &svc->spec.ports.items[i];
        int32_t port = port_on_pod(sp, p);
        if (!port) continue;
        b->ports[b->n_ports++] = (struct backend_port){.name = str_or_empty(sp->name),
                                                       .port = port,
                                                       .protocol = str_empty(sp->protocol) ? "TCP" : sp->protocol,
                                                       .app_protocol = sp->app_protocol};
    }
}

static int by_ip(const void *x, const void *y) {
    const struct backend *a = x, *b = y;
    int d = strcmp(a->ip, b->ip);
    return d ? d : strcmp(str_or_empty(a->pod->metadata.uid), str_or_empty(b->pod->metadata.uid));
}

void backends_find(struct manager *m, struct arena *a, const struct core_service *svc, const char *family,
                   struct backends *out) {
    *out = (struct backends){0};
    informer_list(manager_informer(m, &client_pods), svc->metadata.namespace, &out->pods);
    out->items = arena_zalloc(a, (out->pods.n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < out->pods.n; i++) {
        const struct core_pod *p = out->pods.items[i]->obj;
        if (!label_map_matches(&svc->spec.selector, &p->metadata.labels) || pod_is_terminal(p)) continue;
        const char *ip = pod_address(p, family);
        if (!ip) continue;
        struct backend *b = &out->items[out->n++];
        b->pod = p;
        b->ip = ip;
        fill(a, svc, b);
    }
    qsort(out->items, out->n, sizeof(*out->items), by_ip);
}

void backends_done(struct backends *b) { object_list_done(&b->pods); }

/* ---- what leads to a reconcile ---- */

struct pod_watch {
    struct manager *m;
    struct workqueue *q;
};

static void wake_services(struct pod_watch *w, const struct object *pod) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(w->m, &client_services), pod->meta->namespace, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct core_service *s = l.items[i]->obj;
        if (service_has_backends(s) && label_map_matches(&s->spec.selector, &pod->meta->labels))
            workqueue_add(w->q, l.items[i]->key);
    }
}

static bool same_labels(const struct str_map *a, const struct str_map *b) {
    return a->n == b->n && label_map_matches(a, b);
}

static bool matters(const struct core_pod *a, const struct core_pod *b) {
    return !str_eq(a->status.pod_ip, b->status.pod_ip) || a->status.pod_ips.n != b->status.pod_ips.n ||
           pod_is_ready(a) != pod_is_ready(b) || pod_is_terminal(a) != pod_is_terminal(b) ||
           a->metadata.deletion_timestamp.set != b->metadata.deletion_timestamp.set ||
           !str_eq(a->spec.node_name, b->spec.node_name) || !same_labels(&a->metadata.labels, &b->metadata.labels);
}

static void pod_changed(void *arg, struct object *o) { wake_services(arg, o); }

static void pod_updated(void *arg, struct object *old, struct object *o) {
    const struct core_pod *a = old->obj, *b = o->obj;
    if (!matters(a, b)) return;
    wake_services(arg, o);
    if (!same_labels(&a->metadata.labels, &b->metadata.labels)) wake_services(arg, old);
}

void backends_watch_pods(struct manager *m, struct workqueue *q) {
    struct pod_watch *w = manager_alloc(m, sizeof(*w), NULL);
    w->m = m;
    w->q = q;
    struct informer_handler h = {pod_changed, pod_updated, pod_changed, w};
    informer_add_handler(manager_informer(m, &client_pods), &h);
}
