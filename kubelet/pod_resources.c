/* See pod_resources.h. */
#include "kubelet/pod_resources.h"

#include "kubelet/cm/cm.h"
#include "kubelet/devices.h"
#include "kubelet/dra.h"
#include "kubelet/pods.h"
#include "pkg/api/podresources.h"
#include "pkg/grpc/grpc.h"

enum call { CALL_LIST, CALL_GET, CALL_ALLOCATABLE, CALLS };
enum { BURST = 10, PER_SECOND = 100 }; /* requests; more are refused */

struct pod_resources {
    struct kubelet *kl;
    struct grpc_server *server;
    _Atomic uint64_t calls[CALLS], errors[CALLS];
    pthread_mutex_t lock;
    double tokens;
    int64_t filled_at;
};

/* ---- what a container has ---- */

static struct podresources_topology_info *topology(struct arena *a, uint64_t nodes) {
    struct podresources_topology_info *t = arena_zalloc(a, sizeof(*t));
    t->nodes.items = arena_zalloc(a, (size_t)__builtin_popcountll(nodes) * sizeof(*t->nodes.items));
    for (; nodes; nodes &= nodes - 1) t->nodes.items[t->nodes.n++].id = __builtin_ctzll(nodes);
    return t;
}

/* An entry for each device, and for each node of a device that is near to several. */
static void put_devices(struct arena *a, const struct device_use *uses, size_t n,
                        struct podresources_container_devices_vec *out) {
    size_t cap = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t left = uses[i].nodes;
        do {
            ARENA_GROW(a, out->items, out->n, cap);
            struct podresources_container_devices *x = &out->items[out->n++];
            *x = (struct podresources_container_devices){.resource_name = uses[i].resource};
            x->device_ids.items = arena_memdup(a, &uses[i].id, sizeof(uses[i].id));
            x->device_ids.n = 1;
            if (left) x->topology = topology(a, left & (0 - left));
            left &= left - 1;
        } while (left);
    }
}

static void put_cpus(struct arena *a, const struct cpuset *cpus, struct i64_vec *out) {
    out->items = arena_alloc(a, (cpuset_count(cpus) + 1) * sizeof(*out->items));
    CPUSET_EACH(cpu, cpus) out->items[out->n++] = cpu;
}

static void put_memory(struct arena *a, const struct memory_block *blocks, size_t n,
                       struct podresources_container_memory_vec *out) {
    out->items = arena_zalloc(a, (n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < n; i++)
        out->items[out->n++] = (struct podresources_container_memory){.memory_type = arena_strdup(a, blocks[i].type),
                                                                      .size = (uint64_t)blocks[i].size,
                                                                      .topology = topology(a, blocks[i].nodes)};
}

/* An entry a claim, with what its drivers prepared of it for the container. */
static void put_claims(struct arena *a, const struct dra_use *uses, size_t n,
                       struct podresources_dynamic_resource_vec *out) {
    out->items = arena_zalloc(a, (n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < n; i++) {
        struct podresources_dynamic_resource *x = out->n ? &out->items[out->n - 1] : NULL;
        if (!x || !str_eq(x->claim_name, uses[i].claim)) {
            x = &out->items[out->n++];
            *x = (struct podresources_dynamic_resource){.claim_name = uses[i].claim, .claim_namespace = uses[i].ns};
            x->claim_resources.items = arena_zalloc(a, (n - i) * sizeof(*x->claim_resources.items));
        }
        struct podresources_claim_resource *r = &x->claim_resources.items[x->claim_resources.n++];
        *r = (struct podresources_claim_resource){.driver_name = uses[i].driver,
                                                  .pool_name = uses[i].pool,
                                                  .device_name = uses[i].device,
                                                  .share_id = uses[i].share};
        r->cdi_devices.items = arena_zalloc(a, (uses[i].cdi.n + 1) * sizeof(*r->cdi_devices.items));
        for (size_t k = 0; k < uses[i].cdi.n; k++) r->cdi_devices.items[r->cdi_devices.n++].name = uses[i].cdi.items[k];
    }
}

static void put_container(struct kubelet *kl, struct arena *a, const struct core_pod *p, const struct core_container *c,
                          struct podresources_container_resources *out) {
    size_t n;
    out->name = arena_strdup(a, c->name);
    const struct device_use *uses = devices_of(kl->devices, a, p->metadata.uid, c->name, &n);
    put_devices(a, uses, n, &out->devices);
    struct cpuset cpus = cm_own_cpus(kl->cm, p->metadata.uid, c->name);
    put_cpus(a, &cpus, &out->cpu_ids);
    const struct memory_block *blocks = cm_memory(kl->cm, a, p->metadata.uid, c->name, &n);
    put_memory(a, blocks, n, &out->memory);
    const struct dra_use *claimed = dra_uses(kl->dra, a, p, c, &n);
    put_claims(a, claimed, n, &out->dynamic_resources);
}

/* Sidecars and main containers: those that run as long as the pod. */
static void put_pod(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                    struct podresources_pod_resources *out) {
    const struct core_container_vec *init = &p->spec.init_containers, *main = &p->spec.containers;
    out->name = arena_strdup(a, p->metadata.name);
    out->namespace = arena_strdup(a, p->metadata.namespace);
    out->containers.items = arena_zalloc(a, (init->n + main->n) * sizeof(*out->containers.items));
    for (size_t i = 0; i < init->n; i++)
        if (container_is_sidecar(&init->items[i]))
            put_container(kl, a, p, &init->items[i], &out->containers.items[out->containers.n++]);
    for (size_t i = 0; i < main->n; i++)
        put_container(kl, a, p, &main->items[i], &out->containers.items[out->containers.n++]);
}

/* ---- the calls ---- */

/* Counts the request; -EAGAIN when there are too many. */
static int enter(struct pod_resources *p, enum call which, struct err *e) {
    pthread_mutex_lock(&p->lock);
    int64_t now = mono_ns();
    p->tokens = MIN_OF((double)BURST, p->tokens + (double)(now - p->filled_at) * PER_SECOND / NS_PER_SEC);
    p->filled_at = now;
    bool ok = p->tokens >= 1;
    if (ok) p->tokens--;
    pthread_mutex_unlock(&p->lock);
    if (!ok) return grpc_err(e, GRPC_RESOURCE_EXHAUSTED, "rejected by rate limit");
    p->calls[which]++;
    return 0;
}

static int do_list(struct grpc_call *c, struct err *e) {
    struct pod_resources *p = c->arg;
    struct podresources_list_pod_resources_response *rs = c->response;
    int r = enter(p, CALL_LIST, e);
    if (r < 0) return r;
    size_t n;
    struct pod_worker **all = pods_all(p->kl->pods, &n);
    rs->pod_resources.items = arena_zalloc(c->arena, (n + 1) * sizeof(*rs->pod_resources.items));
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        if (all[i]->state < WORKER_TERMINATED && !all[i]->forced_phase)
            put_pod(p->kl, c->arena, o->obj, &rs->pod_resources.items[rs->pod_resources.n++]);
        worker_unref(all[i]);
    }
    free(all);
    return 0;
}

static int do_get(struct grpc_call *c, struct err *e) {
    struct pod_resources *p = c->arg;
    const struct podresources_get_pod_resources_request *rq = c->request;
    struct podresources_get_pod_resources_response *rs = c->response;
    int r = enter(p, CALL_GET, e);
    if (r < 0) return r;
    struct pod_worker *w = pods_by_name(p->kl->pods, str_or_empty(rq->pod_namespace), str_or_empty(rq->pod_name));
    if (!w) {
        p->errors[CALL_GET]++;
        return grpc_err(e, GRPC_UNKNOWN, "pod %s in namespace %s not found", str_or_empty(rq->pod_name),
                        str_or_empty(rq->pod_namespace));
    }
    _cleanup_object_ struct object *o = worker_pod(w);
    rs->pod_resources = arena_zalloc(c->arena, sizeof(*rs->pod_resources));
    put_pod(p->kl, c->arena, o->obj, rs->pod_resources);
    worker_unref(w);
    return 0;
}

static int do_allocatable(struct grpc_call *c, struct err *e) {
    struct pod_resources *p = c->arg;
    struct podresources_allocatable_resources_response *rs = c->response;
    int r = enter(p, CALL_ALLOCATABLE, e);
    if (r < 0) return r;
    size_t n;
    const struct device_use *uses = devices_healthy(p->kl->devices, c->arena, &n);
    put_devices(c->arena, uses, n, &rs->devices);
    struct cpuset cpus = cm_allocatable_cpus(p->kl->cm);
    put_cpus(c->arena, &cpus, &rs->cpu_ids);
    const struct memory_block *blocks = cm_allocatable_memory(p->kl->cm, c->arena, &n);
    put_memory(c->arena, blocks, n, &rs->memory);
    return 0;
}

static const struct grpc_method methods[] = {
    {&api_rpc_podresources_pod_resources_lister_list, do_list},
    {&api_rpc_podresources_pod_resources_lister_get, do_get},
    {&api_rpc_podresources_pod_resources_lister_get_allocatable_resources, do_allocatable}};

struct pod_resources *pod_resources_new(struct kubelet *kl, struct err *e) {
    _cleanup_free_ char *dir = xasprintf("%s/pod-resources", kl->cfg.root_dir),
                        *path = xasprintf("%s/kubelet.sock", dir);
    int r = mkdir_p(dir, 0750);
    if (r < 0) {
        err_errno(e, r, "make %s", dir);
        return NULL;
    }
    unlink(path);
    struct pod_resources *p = xcalloc(1, sizeof(*p));
    p->kl = kl;
    p->tokens = BURST;
    p->filled_at = mono_ns();
    pthread_mutex_init(&p->lock, NULL);
    struct grpc_server_options o = {
        .unix_path = path, .methods = methods, .n_methods = ARRAY_LEN(methods), .arg = p, .threads = 4};
    p->server = grpc_server_new(&o, e);
    if (p->server) return p;
    pod_resources_free(p);
    return NULL;
}

void pod_resources_free(struct pod_resources *p) {
    if (!p) return;
    grpc_server_free(p->server);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void pod_resources_metrics(struct pod_resources *p, struct buf *b) {
    static const struct {
        const char *name, *help;
        bool all, errors;
        enum call which;
    } rows[] = {
        {"total", "Cumulative number of requests to the PodResource endpoint", true, false, CALL_LIST},
        {"list", "Number of requests to the PodResource List endpoint", false, false, CALL_LIST},
        {"get", "Number of requests to the PodResource Get endpoint", false, false, CALL_GET},
        {"get_allocatable", "Number of requests to the PodResource GetAllocatableResources endpoint", false, false,
         CALL_ALLOCATABLE},
        {"list", "Number of requests to the PodResource List endpoint which returned error", false, true, CALL_LIST},
        {"get", "Number of requests to the PodResource Get endpoint which returned error", false, true, CALL_GET},
        {"get_allocatable",
         "Number of requests to the PodResource GetAllocatableResources endpoint which returned error", false, true,
         CALL_ALLOCATABLE},
    };
    for (size_t i = 0; p && i < ARRAY_LEN(rows); i++) {
        char name[96];
        uint64_t v = rows[i].errors ? p->errors[rows[i].which] : p->calls[rows[i].which];
        if (rows[i].all) v = p->calls[CALL_LIST] + p->calls[CALL_GET] + p->calls[CALL_ALLOCATABLE];
        snprintf(name, sizeof(name), "kubelet_pod_resources_endpoint_%s_%s", rows[i].errors ? "errors" : "requests",
                 rows[i].name);
        prom_head(b, name, "counter", rows[i].help);
        buf_printf(b, "%s{server_api_version=\"v1\"} %llu\n", name, (unsigned long long)v);
    }
}
