/* Putting the parts together: sources of pods, events of the runtime, housekeeping. See kubelet.h. */
#include <poll.h>
#include <sys/eventfd.h>

#include "kubelet/checkpoint.h"
#include "kubelet/cm/cm.h"
#include "kubelet/cm/settings.h"
#include "kubelet/csi.h"
#include "kubelet/devices.h"
#include "kubelet/dra.h"
#include "kubelet/eviction.h"
#include "kubelet/gc.h"
#include "kubelet/image_gc.h"
#include "kubelet/node.h"
#include "kubelet/plugins.h"
#include "kubelet/pod_resources.h"
#include "kubelet/pods.h"
#include "kubelet/run.h"
#include "kubelet/safepath.h"
#include "kubelet/server.h"
#include "kubelet/shutdown.h"
#include "kubelet/static_pods.h"

enum {
    THREAD_STACK = 256 * 1024,
    HOUSEKEEPING_MS = 2000,
    ORPHANS_EVERY = 30,
    LOCAL_LIMITS_EVERY = 5,
    RELIST_MS = 1000,
    OFFLINE_MS = 4000
};
#define OBJECTS_TTL_NS (10 * NS_PER_SEC)

/* ---- small things every part uses ---- */

int kubelet_thread(pthread_t *t, void *(*fn)(void *), void *arg, bool detached) {
    pthread_attr_t at;
    pthread_t unused;
    pthread_attr_init(&at);
    pthread_attr_setstacksize(&at, THREAD_STACK);
    if (detached) pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(t ? t : &unused, &at, fn, arg);
    pthread_attr_destroy(&at);
    return -r;
}

void kubelet_sleep(struct kubelet *kl, int64_t ns) {
    struct pollfd p = {.fd = kl->stop_fd, .events = POLLIN};
    poll(&p, 1, (int)(ns / NS_PER_MS));
}

void kubelet_event(struct kubelet *kl, const struct core_pod *pod, const char *container, const char *type,
                   const char *reason, const char *fmt, ...) {
    if (!kl->recorder) return;
    char text[1024], path[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    struct event_ref ref = event_ref_of(&client_pods, &pod->metadata);
    if (container) {
        enum container_kind kind = CONTAINER_EPHEMERAL;
        pod_container(pod, container, &kind);
        static const char *const fields[] = {"containers", "initContainers", "ephemeralContainers"};
        snprintf(path, sizeof(path), "spec.%s{%s}", fields[kind], container);
        ref.field_path = path;
    }
    event_record(kl->recorder, &ref, type, reason, "%s", text);
}

char *kubelet_pod_dir(struct kubelet *kl, struct arena *a, const char *uid) {
    return arena_printf(a, "%s/pods/%s", kl->cfg.root_dir, uid);
}

char *kubelet_pod_log_dir(struct kubelet *kl, struct arena *a, const struct core_pod *p) {
    return arena_printf(a, "%s/%s_%s_%s", kl->cfg.pod_logs_dir, p->metadata.namespace, p->metadata.name,
                        p->metadata.uid);
}

void kubelet_config_init(struct kubelet_config *c) {
    *c = (struct kubelet_config){
        .root_dir = "/var/lib/kubelet",
        .pod_logs_dir = "/var/log/pods",
        .runtime_endpoint = "unix:///run/coracle/shim.sock",
        .cluster_domain = "cluster.local",
        .resolv_conf = "/etc/resolv.conf",
        .address = "0.0.0.0",
        .authorization_mode = "Webhook",
        .cgroup_root = "/",
        .eviction_hard =
            "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,"
            "imagefs.inodesFree<5%",
        .eviction_transition_ns = 300 * NS_PER_SEC,
        .port = 10250,
        .max_pods = 110,
        .pod_pids_limit = -1,
        .log_max_size = 10 * 1024 * 1024,
        .log_max_files = 5,
        .image_gc_high = 85,
        .image_gc_low = 80,
        .verbosity = 2,
        .status_update_ns = 300 * NS_PER_SEC,
        .lease_seconds = 40,
        .sync_ns = 60 * NS_PER_SEC,
        .register_node = true,
        .webhook_auth = true,
        .rotate_certificates = true,
        .cgroups_per_qos = true,
        .offline_cache = true,
        .healthz_address = "127.0.0.1",
        .healthz_port = 10248,
        .pull_verification = "NeverVerifyPreloadedImages",
        .heartbeat_ns = 10 * NS_PER_SEC,
        .status_max_images = 50,
        .max_open_files = 1000000,
        .oom_score_adj = -999,
        .image_min_age_ns = 120 * NS_PER_SEC,
        .crash_loop_max_ns = BACKOFF_MAX,
        .token_ttl_ns = 120 * NS_PER_SEC,
        .allow_ttl_ns = 300 * NS_PER_SEC,
        .deny_ttl_ns = 30 * NS_PER_SEC,
        .cfs_period_ns = 100 * NS_PER_MS,
        .cpu_policy = "none",
        .memory_policy = "None",
        .topology_policy = "none",
        .topology_scope = "container",
        .cpu_reconcile_ns = 10 * NS_PER_SEC,
        .server = true,
        .debug_handlers = true,
        .system_logs = true,
        .debug_flags = true,
        .swap_behavior = "NoSwap",
        .cfs_quota = true,
    };
}

/* ---- sources ---- */

static void api_changed(struct kubelet *kl, struct object *o) {
    const struct core_pod *pod = o->obj;
    if (pod_is_mirror(pod)) {
        pods_wake(kl->pods, pod_annotation(pod, ANNOT_CONFIG_MIRROR));
        return;
    }
    pods_update(kl->pods, o);
    status_manager_observe(kl->status, pod);
}

static void on_pod_add(void *arg, struct object *o) { api_changed(arg, o); }
static void on_pod_update(void *arg, struct object *old, struct object *o) { api_changed(arg, o); }

static void on_pod_delete(void *arg, struct object *o) {
    struct kubelet *kl = arg;
    const struct core_pod *pod = o->obj;
    if (!pod_is_mirror(pod)) {
        pods_remove(kl->pods, o->meta->uid, o);
        return;
    }
    status_manager_forget(kl->status, o->meta->uid);
    pods_wake(kl->pods, pod_annotation(pod, ANNOT_CONFIG_MIRROR));
}

static void on_node(void *arg, struct object *o) { node_wake(((struct kubelet *)arg)->node); }
static void on_node_update(void *arg, struct object *old, struct object *o) {
    const struct core_node *was = old->obj, *now = o->obj;
    if (!str_eq(was->spec.pod_cidr, now->spec.pod_cidr) || was->spec.unschedulable != now->spec.unschedulable)
        on_node(arg, o);
}

static void start_informers(struct kubelet *kl) {
    _cleanup_free_ char *mine = xasprintf("spec.nodeName=%s", kl->node_name);
    _cleanup_free_ char *self = xasprintf("metadata.name=%s", kl->node_name);
    struct informer_opts pods = {.field_selector = mine}, node = {.field_selector = self};
    struct informer_handler node_handler = {.on_add = on_node, .on_update = on_node_update, .arg = kl};
    kl->node_informer = informer_new(kl->client, &client_nodes, &node);
    informer_add_handler(kl->node_informer, &node_handler);
    /* Simulated containers have no environment. */
    if (!kl->fake) kl->service_informer = informer_new(kl->client, &client_services, NULL);
    struct informer_handler h = {on_pod_add, on_pod_update, on_pod_delete, kl};
    kl->pod_informer = informer_new(kl->client, &client_pods, &pods);
    informer_add_handler(kl->pod_informer, &h);
}

static void restore(void *arg, struct object *pod) {
    struct kubelet *kl = arg;
    struct pod_worker *w = pods_get(kl->pods, pod->meta->uid);
    if (!w) pods_update(kl->pods, pod);
    worker_unref(w);
}

/* Pods of the checkpoints that the API server no longer has were deleted while we were away. */
static void drop_deleted(struct kubelet *kl) {
    size_t n;
    struct pod_worker **all = pods_all(kl->pods, &n);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        if (!pod_is_static(o->obj)) {
            _cleanup_object_ struct object *have = informer_get(kl->pod_informer, o->key);
            if (!have || !str_eq(have->meta->uid, all[i]->uid)) pods_remove(kl->pods, all[i]->uid, NULL);
        }
        worker_unref(all[i]);
    }
    free(all);
}

/* ---- the runtime's events ---- */

static const char *event_uid(const struct cri_container_event_response *ev) {
    if (ev->pod_sandbox_status && ev->pod_sandbox_status->metadata) return ev->pod_sandbox_status->metadata->uid;
    if (ev->containers_statuses.n) return str_map_get(&ev->containers_statuses.items[0].labels, LABEL_POD_UID);
    return NULL;
}

static void on_runtime_event(void *arg, const struct cri_container_event_response *ev) {
    struct kubelet *kl = arg;
    const char *uid = event_uid(ev);
    if (uid) pods_wake(kl->pods, uid);
}

static void wake_all(struct kubelet *kl) {
    size_t n;
    struct pod_worker **all = pods_all(kl->pods, &n);
    for (size_t i = 0; i < n; i++) {
        if (all[i]->state < WORKER_TERMINATED) worker_kick(all[i]);
        worker_unref(all[i]);
    }
    free(all);
}

/* For a runtime without events: which container is in which state, as one number, once a second. */
static void relist(struct kubelet *kl, struct map *seen) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_list_containers_request req = {0};
    struct cri_list_containers_response resp = {0};
    if (runtime_call(kl->rt, RT_LIST_CONTAINERS, a, &req, &resp, NULL) < 0) return;
    struct map now = MAP_INIT;
    for (size_t i = 0; i < resp.containers.n; i++) {
        const struct cri_container *c = &resp.containers.items[i];
        const char *uid = str_map_get(&c->labels, LABEL_POD_UID);
        if (!uid) continue;
        uintptr_t h = (uintptr_t)map_get(&now, uid) + hash_bytes(c->id, strlen(c->id)) * (uint32_t)(c->state + 1);
        map_put(&now, uid, (void *)h);
    }
    size_t it = 0;
    const char *uid;
    void *value;
    while (map_next(&now, &it, &uid, &value))
        if (map_get(seen, uid) != value) pods_wake(kl->pods, uid);
    it = 0;
    while (map_next(seen, &it, &uid, &value))
        if (!map_has(&now, uid)) pods_wake(kl->pods, uid);
    map_done(seen);
    *seen = now;
}

static void *events_thread(void *arg) {
    struct kubelet *kl = arg;
    struct map seen = MAP_INIT;
    bool polling = false;
    while (!kl->stopping) {
        _cleanup_err_ struct err e = {0};
        if (polling) {
            relist(kl, &seen);
            kubelet_sleep(kl, RELIST_MS * NS_PER_MS);
            continue;
        }
        int r = kl->rt->ops->events(kl->rt, on_runtime_event, kl, &e);
        if (r == -ENOSYS) {
            polling = true;
            log_info("the runtime sends no events; looking once a second", NULL);
        } else if (!kl->stopping) {
            kubelet_sleep(kl, 200 * NS_PER_MS);
            wake_all(kl); /* whatever happened while nobody listened */
            node_wake(kl->node);
        }
    }
    map_done(&seen);
    return NULL;
}

/* ---- housekeeping ---- */

/* Without an API server in reach the node starts the pods it had; once it answers, what was deleted meanwhile ends. */
static bool meet_sources(struct kubelet *kl, int64_t started, bool *restored) {
    bool synced = kl->pod_informer && informer_synced(kl->pod_informer);
    if (!*restored && !synced && kl->cfg.offline_cache && mono_ns() - started > OFFLINE_MS * NS_PER_MS) {
        log_warn("no API server in reach: starting the pods this node had", NULL);
        checkpoint_each(kl, restore, kl);
        *restored = true;
    }
    if (synced && *restored) drop_deleted(kl);
    return synced;
}

static void *gc_thread(void *arg) {
    struct kubelet *kl = arg;
    bool restored = false, settled = kl->client == NULL;
    int64_t started = mono_ns();
    for (unsigned round = 0; !kl->stopping; round++) {
        if (!settled && (settled = meet_sources(kl, started, &restored))) {
            gc_orphans(kl);
            cm_collect(kl->cm);
        }
        if (settled && round && round % ORPHANS_EVERY == 0) {
            gc_orphans(kl);
            cm_collect(kl->cm);
            if (!kl->fake) csi_collect(kl->csi);
            if (!kl->fake) image_gc_pass(kl->image_gc);
        }
        int64_t wait = (settled ? HOUSEKEEPING_MS : 200) * NS_PER_MS, until = mono_ns() + wait;
        if (round) eviction_check(kl->eviction, round % LOCAL_LIMITS_EVERY == 0);
        for (int64_t logs = gc_logs(kl); logs < until - mono_ns() && !kl->stopping; logs = gc_logs(kl))
            kubelet_sleep(kl, logs);
        if (until > mono_ns()) kubelet_sleep(kl, until - mono_ns());
    }
    return NULL;
}

/* ---- start and stop ---- */

/* Who the runtime is; waits until it answers. */
static int meet_runtime(struct kubelet *kl, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_version_request req = {.version = "v1"};
    struct cri_version_response resp = {0};
    bool said = false;
    while (runtime_call_timeout(kl->rt, RT_VERSION, a, &req, &resp, 5 * NS_PER_SEC, e) < 0) {
        if (!said) log_warn("waiting for the container runtime", "error", e ? e->msg : "", NULL);
        said = true;
        err_done(e);
        if (kl->stopping) return err_set(e, -ECANCELED, "stopped");
        kubelet_sleep(kl, 100 * NS_PER_MS);
    }
    kl->runtime_name = xstrdup(str_or_empty(resp.runtime_name));
    kl->runtime_version = xstrdup(str_or_empty(resp.runtime_version));
    return 0;
}

static void set_up_cgroups(struct kubelet *kl) {
    if (kl->fake || !kl->cfg.cgroups_per_qos) return;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct cri_runtime_config_request req = {0};
    struct cri_runtime_config_response resp = {0};
    bool systemd = runtime_call(kl->rt, RT_RUNTIME_CONFIG, a, &req, &resp, NULL) == 0 && resp.linux &&
                   resp.linux->cgroup_driver == CRI_CGROUP_DRIVER_SYSTEMD;
    struct cgroups_config cfg = {.mount = "/sys/fs/cgroup",
                                 .root = kl->cfg.cgroup_root,
                                 .systemd = systemd,
                                 .cfs_period_us = kl->rt->cfs_period_us,
                                 .pod_pids_max = kl->cfg.pod_pids_limit > 0 ? kl->cfg.pod_pids_limit : 0};
    kl->cgroups = cgroups_new(&cfg);
    bool enforce = true;
    for (size_t i = 0; i < kl->cfg.enforce_allocatable.n; i++)
        enforce = !str_eq(kl->cfg.enforce_allocatable.items[i], "none");
    if (cgroups_setup(kl->cgroups, quantity_str_milli(str_map_get(node_allocatable(kl->node), "cpu")),
                      enforce ? node_pods_memory(kl->node) : 0, &e) == 0) {
        if (enforce)
            node_event(kl->node, "Normal", "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods");
        return;
    }
    log_warn("pods run without cgroups of their own", "error", e.msg, NULL);
    cgroups_free(kl->cgroups);
    kl->cgroups = NULL;
}

static void probe_changed(void *arg, const char *uid) { pods_wake(((struct kubelet *)arg)->pods, uid); }

/* Named CPUs that are kept for the system count in place of an amount. */
static void reserve_cpus(struct kubelet_config *c) {
    struct cpuset cpus;
    if (str_empty(c->reserved_cpus) || cpuset_parse(c->reserved_cpus, &cpus) < 0) return; /* cm.c tells */
    _cleanup_free_ char *rest = settings_without(c->system_reserved, "cpu");
    c->kube_reserved = settings_without(c->kube_reserved, "cpu");
    c->system_reserved = xasprintf("%s%scpu=%zu", rest, *rest ? "," : "", cpuset_count(&cpus));
}

struct kubelet *kubelet_new(const struct kubelet_config *cfg, const char *node_name, struct client *client,
                            struct runtime *rt, bool fake) {
    struct kubelet *kl = xcalloc(1, sizeof(*kl));
    kl->cfg = *cfg;
    reserve_cpus(&kl->cfg);
    kl->stop_fd = eventfd(0, EFD_CLOEXEC);
    kl->node_name = xstrdup(node_name);
    kl->client = client;
    kl->rt = rt;
    rt->cfs_period_us = cfg->cfs_quota ? cfg->cfs_period_ns / 1000 : 0;
    kl->fake = fake;
    if (client) kl->recorder = event_recorder_new(client, "kubelet", node_name);
    _cleanup_free_ char *cache =
        cfg->offline_cache && !fake ? xasprintf("%s/checkpoints/objects", cfg->root_dir) : NULL;
    kl->objects = objects_new(client, cache, OBJECTS_TTL_NS);
    kl->image_gc = image_gc_new(kl);
    _cleanup_err_ struct err e = {0}; /* the flags were checked when they were read */
    if (eviction_new(kl, &kl->eviction, &e) < 0) log_error("eviction thresholds", "error", e.msg, NULL);
    kl->node = node_new(kl);
    kl->status = status_manager_new(client);
    kl->prober = prober_new(kl, probe_changed, kl);
    kl->images = images_new(kl);
    kl->volumes = volumes_new(kl);
    kl->csi = csi_new(kl);
    kl->devices = devices_new(kl);
    kl->cm = cm_new(kl);
    kl->dra = dra_new(kl);
    kl->pods = pods_new(kl);
    return kl;
}

int kubelet_start(struct kubelet *kl, struct err *e) {
    int r = kl->fake ? 0 : mkdir_p(kl->cfg.root_dir, 0750);
    if (r < 0) return err_errno(e, r, "make %s", kl->cfg.root_dir);
    _cleanup_err_ struct err shared = {0};
    if (!kl->fake && path_share_mounts(kl->cfg.root_dir, &shared) < 0)
        log_warn("volumes of CSI drivers that run in pods will not reach other pods", "error", shared.msg, NULL);
    r = cm_open(kl->cm, e);
    if (r == 0) r = meet_runtime(kl, e);
    if (r < 0) return r;
    set_up_cgroups(kl); /* before the first pod can come */
    if (!kl->fake) kl->swap = swap_of_machine("/sys/fs/cgroup", "/proc/meminfo", kl->cfg.swap_behavior);
    if (!kl->fake) kl->shutdown = shutdown_new(kl); /* the threads that follow ask for it */
    if (kl->client) start_informers(kl);
    struct err no_devices = {0};
    if (!kl->fake && devices_start(kl->devices, &no_devices) < 0)
        log_warn("device plugins cannot register", "error", no_devices.msg, NULL);
    err_done(&no_devices);
    if (!kl->fake && !(kl->pod_resources = pod_resources_new(kl, &no_devices)))
        log_warn("the PodResources API is not served", "error", no_devices.msg, NULL);
    err_done(&no_devices);
    if (!kl->fake) kl->plugins = plugins_new(kl); /* drivers are known before the volumes that need them */
    cm_start(kl->cm);
    kl->events_running = kubelet_thread(&kl->events_thread, events_thread, kl, false) == 0;
    if (kl->client) r = node_start(kl->node, e);
    if (r == 0 && !str_empty(kl->cfg.manifest_path)) kl->static_pods = static_pods_new(kl, kl->cfg.manifest_path);
    if (!kl->fake && dra_start(kl->dra) < 0) log_warn("slices of drivers that are gone will stay", NULL);
    kl->gc_running = kubelet_thread(&kl->gc_thread, gc_thread, kl, false) == 0;
    return r;
}

void kubelet_free(struct kubelet *kl) {
    if (!kl) return;
    kl->stopping = true;
    eventfd_write(kl->stop_fd, 1);
    kubelet_server_free(kl->server);
    shutdown_free(kl->shutdown);
    plugins_free(kl->plugins);
    pod_resources_free(kl->pod_resources);
    static_pods_free(kl->static_pods);
    informer_free(kl->pod_informer);
    informer_free(kl->service_informer);
    kl->rt->ops->shutdown(kl->rt);
    if (kl->events_running) pthread_join(kl->events_thread, NULL);
    if (kl->gc_running) pthread_join(kl->gc_thread, NULL);
    pods_free(kl->pods);
    prober_free(kl->prober);
    images_free(kl->images);
    status_manager_free(kl->status);
    node_free(kl->node);
    eviction_free(kl->eviction);
    image_gc_free(kl->image_gc);
    informer_free(kl->node_informer);
    volumes_free(kl->volumes);
    csi_free(kl->csi);
    cm_free(kl->cm);
    devices_free(kl->devices);
    dra_free(kl->dra);
    cgroups_free(kl->cgroups);
    objects_free(kl->objects);
    metrics_done(&kl->metrics);
    event_recorder_free(kl->recorder);
    close(kl->stop_fd);
    free(kl->runtime_name);
    free(kl->runtime_version);
    free(kl->node_name);
    free(kl);
}
