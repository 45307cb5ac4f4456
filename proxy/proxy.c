/* coracle-proxy: makes Services work on a node, kube-proxy's place in a cluster. Informers of Services and EndpointSlices
 * feed a workqueue of service keys; a sync computes what the service wants (rules.c) and changes the table by the
 * difference (table.c). Nodes feed routes: each other node's pod network goes through that node's address, where nodes
 * share a link, which is all the pod network that a small cluster needs. NetworkPolicies become a table of their own
 * (policies.c).
 *
 * The rules stay when the program ends or dies: services go on working. --cleanup removes them. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>

#include "pkg/base/flags.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"
#include "pkg/client/informer.h"
#include "pkg/client/workqueue.h"
#include "pkg/netlink/netlink.h"
#include "proxy/health.h"
#include "proxy/policies.h"
#include "proxy/table.h"

struct options {
    const char *kubeconfig, *node, *service_cidr;
    struct health_config health;
    bool routes, policies, cleanup;
    int64_t v;
};

struct proxy {
    const struct options *o;
    struct client *client;
    struct informer *services, *slices, *nodes;
    int slices_by_service;
    struct workpool *pool;
    struct workqueue *queue;
    struct table *table;
    struct health *health;
    struct policies *policies; /* NULL: not asked for */
    struct map routes;         /* node name -> "cidr gateway" */
    _Atomic bool ready;        /* the first commit is done; before, syncs only fill the table */
};

enum { COMMIT_BATCH_NS = 2 * 1000 * 1000 }; /* changes that come together share a transaction */
static const char commit_key[] = "/commit";
static const char policies_key[] = "/policies";
static const char node_prefix[] = "/node/";

static void slice_service_key(const struct object *o, char out[512]) {
    const char *svc = str_map_get(&o->meta->labels, "kubernetes.io/service-name");
    out[0] = 0;
    if (svc) snprintf(out, 512, "%s/%s", str_or_empty(o->meta->namespace), svc);
}

/* Slices of headless services are no business of a proxy. */
static void index_slice(const struct object *o, informer_emit_fn *emit, void *ctx) {
    char key[512];
    if (str_map_get(&o->meta->labels, "service.kubernetes.io/headless")) return;
    slice_service_key(o, key);
    if (key[0]) emit(ctx, key);
}

static const char *zone_of(const struct object *node) {
    return node ? str_map_get(&node->meta->labels, "topology.kubernetes.io/zone") : NULL;
}

static int sync_service(struct proxy *p, const char *key) {
    _cleanup_object_ struct object *o = informer_get(p->services, key), *own = informer_get(p->nodes, p->o->node);
    if (!o) {
        health_service(p->health, key, 0, 0);
        table_set(p->table, key, NULL);
        return 0;
    }
    const struct core_service *s = o->obj;
    _cleanup_object_list_ struct object_list found = {0};
    informer_by_index(p->slices, p->slices_by_service, key, &found);
    _cleanup_free_ const struct discovery_endpoint_slice **slices = xcalloc(found.n, sizeof(*slices));
    for (size_t i = 0; i < found.n; i++) slices[i] = found.items[i]->obj;
    struct rules r = {0};
    rules_of_service(&r, s, slices, found.n, &(struct rules_place){p->o->node, zone_of(own)});
    health_service(p->health, key, s->spec.health_check_node_port, rules_local_ready(slices, found.n, p->o->node));
    table_set(p->table, key, &r);
    return 0;
}

static const char *node_internal_ip(const struct core_node *n) {
    for (size_t i = 0; i < n->status.addresses.n; i++)
        if (str_eq(n->status.addresses.items[i].type, "InternalIP") &&
            !strchr(n->status.addresses.items[i].address, ':'))
            return n->status.addresses.items[i].address;
    return NULL;
}

static int route_services(const struct options *o, struct err *e);

static int sync_node(struct proxy *p, const char *name, struct err *e) {
    /* an address that leaves the machine takes the routes with it that it was the source of */
    if (str_eq(name, p->o->node)) return route_services(p->o, e);
    if (!p->o->routes) return 0;
    _cleanup_object_ struct object *o = informer_get(p->nodes, name);
    const struct core_node *n = o ? o->obj : NULL;
    const char *gateway = n ? node_internal_ip(n) : NULL, *cidr = n ? n->spec.pod_cidr : NULL,
               *old = map_get(&p->routes, name);
    _cleanup_free_ char *want = gateway && !str_empty(cidr) ? xasprintf("%s %s", cidr, gateway) : NULL;
    if (str_eq(old, want)) return 0;
    if (old) {
        _cleanup_free_ char *old_cidr = xstrndup(old, strcspn(old, " "));
        int r = netlink_route_del(old_cidr, e);
        if (r < 0) return r;
        free(map_del(&p->routes, name));
    }
    if (!want) return 0;
    int r = netlink_route_add(cidr, gateway, NULL, NULL, e);
    if (r < 0) return r;
    free(map_put(&p->routes, name, xstrdup(want)));
    log_info("route to a node's pods", "node", name, "network", cidr, "gateway", gateway, NULL);
    return 0;
}

static int commit(struct proxy *p, struct err *e) {
    int r = table_commit(p->table, e);
    struct conntrack_fronts fronts = {0};
    _cleanup_err_ struct err ce = {0};
    if (r < 0 || !table_udp_changed(p->table, &fronts)) return r;
    int n = conntrack_sweep(&fronts, &ce);
    conntrack_fronts_done(&fronts);
    if (n < 0)
        log_warn("UDP clients may keep to endpoints that are gone", "error", ce.msg, NULL);
    else if (n > 0)
        log_fmt(LOG_DEBUG, "%d UDP flows begin anew", n);
    return 0;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct proxy *p = arg;
    if (str_eq(key, commit_key)) return commit(p, e);
    if (str_eq(key, policies_key)) return policies_sync(p->policies, e);
    if (str_has_prefix(key, node_prefix)) return sync_node(p, key + strlen(node_prefix), e);
    int r = sync_service(p, key);
    if (p->ready) workqueue_add_after(p->queue, commit_key, COMMIT_BATCH_NS);
    return r;
}

static void on_service(void *arg, struct object *o) { workqueue_add(((struct proxy *)arg)->queue, o->key); }
static void on_service_update(void *arg, struct object *old, struct object *o) { on_service(arg, o); }

static void on_slice(void *arg, struct object *o) {
    char key[512];
    slice_service_key(o, key);
    if (key[0]) workqueue_add(((struct proxy *)arg)->queue, key);
}
static void on_slice_update(void *arg, struct object *old, struct object *o) {
    on_slice(arg, old);
    on_slice(arg, o);
}

/* Another zone of this node: other endpoints are near. */
static void resync_services(struct proxy *p) {
    _cleanup_object_list_ struct object_list all = {0};
    informer_list(p->services, NULL, &all);
    for (size_t i = 0; i < all.n; i++) workqueue_add(p->queue, all.items[i]->key);
}

static void on_node(void *arg, struct object *o) {
    struct proxy *p = arg;
    if (str_eq(o->key, p->o->node) && zone_of(o)) resync_services(p);
    char key[512];
    snprintf(key, sizeof(key), "%s%s", node_prefix, o->key);
    workqueue_add(p->queue, key);
}
static void on_node_update(void *arg, struct object *old, struct object *o) {
    const struct core_node *x = old->obj, *y = o->obj;
    if (!str_eq(x->spec.pod_cidr, y->spec.pod_cidr) || !str_eq(node_internal_ip(x), node_internal_ip(y)))
        on_node(arg, o);
    struct proxy *p = arg;
    if (str_eq(o->key, p->o->node) && !str_eq(zone_of(old), zone_of(o))) resync_services(p);
}

/* So that this machine's own processes reach services without a default route too. */
static int route_services(const struct options *o, struct err *e) {
    char own[64];
    if (!o->service_cidr) return 0;
    int r = netlink_node_address(own, e);
    return r < 0 ? r : netlink_route_add(o->service_cidr, NULL, "lo", own, e);
}

/* What the rules need of the kernel. A missing bridge netfilter only matters where pods share a bridge. */
static void prepare_kernel(const struct options *o) {
    static const struct {
        const char *path, *value;
    } settings[] = {{"/proc/sys/net/ipv4/ip_forward", "1"}, {"/proc/sys/net/bridge/bridge-nf-call-iptables", "1"}};
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        _cleanup_close_ int fd = open(settings[i].path, O_WRONLY | O_CLOEXEC);
        if (fd < 0 || fd_write_all(fd, settings[i].value, strlen(settings[i].value)) < 0)
            log_warn("cannot set a kernel parameter", "path", settings[i].path, NULL);
    }
    _cleanup_err_ struct err e = {0};
    if (route_services(o, &e) < 0) log_warn("no route for the service network", "error", e.msg, NULL);
}

static int start(struct proxy *p, struct err *e) {
    int r = table_new(&p->table, e);
    if (r == 0) r = health_new(&p->o->health, &p->health, e);
    if (r < 0) return r;
    p->pool = workpool_new(1);
    p->queue = workqueue_new(p->pool, "proxy", 1, reconcile, p);
    workqueue_enable(p->queue, false);
    p->services = informer_new(p->client, &client_services, NULL);
    p->slices = informer_new(p->client, &client_endpointslices, NULL);
    p->nodes = informer_new(p->client, &client_nodes, NULL);
    p->slices_by_service = informer_add_index(p->slices, index_slice);
    informer_add_handler(p->services, &(struct informer_handler){on_service, on_service_update, on_service, p});
    informer_add_handler(p->slices, &(struct informer_handler){on_slice, on_slice_update, on_slice, p});
    informer_add_handler(p->nodes, &(struct informer_handler){on_node, on_node_update, on_node, p});
    return p->o->policies ? policies_new(p->client, p->o->node, p->queue, policies_key, &p->policies, e) : 0;
}

/* The first table is written when everything is known: a restart must not take services away. */
static void first_commit(struct proxy *p) {
    informer_wait_synced(p->services, -1, NULL);
    informer_wait_synced(p->slices, -1, NULL);
    workqueue_enable(p->queue, true);
    workqueue_drain(p->queue);
    p->ready = true;
    health_ready(p->health);
    workqueue_add(p->queue, commit_key);
    if (p->policies) workqueue_add(p->queue, policies_key);
    workqueue_drain(p->queue);
    log_fmt(LOG_INFO, "services are in place: %zu services, %zu elements", informer_count(p->services),
            table_elements(p->table));
}

static void *first_commit_thread(void *arg) {
    first_commit(arg);
    return NULL;
}

static void stop(struct proxy *p) {
    workpool_stop(p->pool);
    informer_free(p->services);
    informer_free(p->slices);
    informer_free(p->nodes);
    policies_free(p->policies);
    health_free(p->health);
    workpool_free(p->pool);
    table_free(p->table);
    map_done_with(&p->routes, free);
    client_free(p->client);
}

static int cleanup(struct err *e) {
    int r = table_remove(e);
    if (r == 0) r = policies_remove(e);
    return r < 0 ? r : netlink_route_flush(e);
}

int main(int argc, char **argv) {
    struct options o = {.service_cidr = "10.96.0.0/16",
                        .routes = true,
                        .policies = true,
                        .health = {.health_address = "0.0.0.0:10256", .metrics_address = "127.0.0.1:10249"}};
    const struct flag flags[] = {
        {"kubeconfig", 0, FLAG_STR, &o.kubeconfig, "FILE", "how to reach the API server"},
        {"hostname-override", 0, FLAG_STR, &o.node, "NAME", "name of this node (default: the host's name)"},
        {"service-cluster-ip-range", 0, FLAG_STR, &o.service_cidr, "CIDR",
         "the services' network, routed to this machine"},
        {"node-routes", 0, FLAG_BOOL, &o.routes, NULL, "route other nodes' pod networks through their addresses"},
        {"network-policies", 0, FLAG_BOOL, &o.policies, NULL, "keep pods to their NetworkPolicies"},
        {"healthz-bind-address", 0, FLAG_STR, &o.health.health_address, "ADDR:PORT",
         "serve /healthz and /livez here; empty: nowhere"},
        {"metrics-bind-address", 0, FLAG_STR, &o.health.metrics_address, "ADDR:PORT",
         "serve /metrics and /proxyMode here; empty: nowhere"},
        {"cleanup", 0, FLAG_BOOL, &o.cleanup, NULL, "remove the rules and routes and exit"},
        {"v", 'v', FLAG_INT, &o.v, "N", "log level: 0 normal, 4 debug"},
        {0}};
    flags_main("coracle-proxy", "coracle-proxy makes Services reachable on this node, with nftables.", flags, argc,
               argv, 0);
    log_init("coracle-proxy", o.v >= 4 ? LOG_DEBUG : LOG_INFO);
    memory_keep_small();
    signal(SIGPIPE, SIG_IGN);
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);

    char host[256] = "";
    if (!o.node && gethostname(host, sizeof(host) - 1) == 0) o.node = host;
    _cleanup_err_ struct err e = {0};
    struct proxy p = {.o = &o};
    struct client_config cfg = {.user_agent = "coracle-proxy"};
    int r;
    if (o.cleanup)
        r = cleanup(&e);
    else if (!o.kubeconfig)
        r = err_set(&e, -EINVAL, "--kubeconfig is missing");
    else if ((r = client_new_from_kubeconfig(o.kubeconfig, &cfg, &p.client, &e)) == 0) {
        prepare_kernel(&o);
        r = start(&p, &e);
        if (r == 0) {
            pthread_t t;
            int signum;
            pthread_create(&t, NULL, first_commit_thread, &p);
            sigwait(&ends, &signum);
            if (!p.ready) _exit(0); /* nothing was changed yet, and the wait for the server has no end */
            pthread_join(t, NULL);
        }
        stop(&p);
    }
    if (r < 0) log_error("stopped", "error", e.msg, NULL);
    return r < 0;
}
