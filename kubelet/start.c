/* Bringing a pod up: cgroup, volumes, sandbox, init containers in order, sidecars, main containers, ephemeral
 * ones; and the restarts that its policy asks for. Each step that cannot be done now leaves a reason in the
 * status and a time to try again; there is no waiting here, except for image pulls.
 *
 * Upstream: kuberuntime_manager.go (computePodActions, SyncPod), kuberuntime_container.go (startContainer).
 */
#include <stdatomic.h>

#include "kubelet/cm/cm.h"
#include "kubelet/dra.h"
#include "kubelet/node.h"
#include "kubelet/pods.h"
#include "kubelet/resize.h"
#include "kubelet/userns.h"
#include "pkg/api/node.h"

#define RETRY_NS (10 * NS_PER_SEC)
#define VOLUME_REFRESH_NS (45 * NS_PER_SEC)
#define VOLUME_POLL_NS (200 * NS_PER_MS)
#define VOLUME_PATIENCE_NS (120 * NS_PER_SEC)

static int64_t wall_ns(void) { return ktime_unix_ns(ktime_now()); }

static bool is_running(const struct rt_container *c) { return c && c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING; }
static bool has_exited(const struct rt_container *c) { return c && c->state == CRI_CONTAINER_STATE_CONTAINER_EXITED; }

static const struct rt_sandbox *current_sandbox(const struct sync *s) {
    return s->rt.n_sandboxes ? &s->rt.sandboxes[0] : NULL;
}

/* The newest instance of a container in the current sandbox. */
static const struct rt_container *instance(const struct sync *s, const char *name) {
    const struct rt_sandbox *sb = current_sandbox(s);
    const struct rt_container *c = rt_pod_find(&s->rt, name, 0);
    return c && sb && str_eq(c->sandbox_id, sb->id) ? c : NULL;
}

/* ---- sandbox ---- */

static bool sandbox_usable(const struct sync *s) {
    const struct rt_sandbox *sb = current_sandbox(s);
    if (!sb || !sb->ready || sb->host_network != s->pod->spec.host_network) return false;
    return s->pod->spec.host_network || sb->n_ips;
}

/* Whether anything would be started in a new sandbox: a pod whose containers have all done their work gets
 * none. */
static bool anything_to_start(const struct sync *s) {
    const struct core_pod *p = s->pod;
    if (!s->rt.n_containers) return true;
    for (size_t i = 0; i < p->spec.containers.n; i++)
        if (container_should_restart(p, &p->spec.containers.items[i],
                                     rt_pod_find(&s->rt, p->spec.containers.items[i].name, 0)))
            return true;
    return false;
}

static const char *runtime_handler(struct sync *s, bool *ok, struct err *e) {
    const char *name = s->pod->spec.runtime_class_name;
    *ok = true;
    if (str_empty(name) || !s->kl->client) return "";
    struct node_runtime_class rc = {0};
    if (client_get(s->kl->client, s->a, &client_runtimeclasses, NULL, name, &rc, e) == 0)
        return str_or_empty(rc.handler);
    err_wrap(e, "failed to get RuntimeClass %s", name);
    *ok = false;
    return NULL;
}

static int make_sandbox(struct sync *s, struct err *e) {
    const struct rt_sandbox *old = current_sandbox(s);
    uint32_t attempt = old ? old->attempt + 1 : 0;
    bool ok;
    const char *handler = runtime_handler(s, &ok, e);
    if (!ok) return -EIO;
    if (userns_wanted(s->pod) && !s->kl->fake && !node_handler_can(s->kl->node, handler, HANDLER_USER_NAMESPACES))
        return err_set(e, -ENOTSUP,
                       "can't set `spec.hostUsers: false`, runtime handler \"%s\" does not support user namespaces",
                       handler);
    struct cri_pod_sandbox_config *cfg = podspec_sandbox(s->kl, s->a, s->pod, attempt, e);
    if (!cfg) return -EINVAL;
    if (!s->kl->fake) {
        int r = mkdir_p(cfg->log_directory, 0755);
        if (r < 0) return err_errno(e, r, "create pod log directory %s", cfg->log_directory);
    }
    struct cri_run_pod_sandbox_request req = {.config = cfg, .runtime_handler = handler};
    struct cri_run_pod_sandbox_response resp = {0};
    int r = runtime_call(s->kl->rt, RT_RUN_POD_SANDBOX, s->a, &req, &resp, e);
    if (r < 0) return r;
    r = sync_read(s, e);
    if (r < 0) return r;
    s->sandbox_config = cfg;
    if (!sandbox_usable(s)) return err_set(e, -EIO, "the new sandbox %s is not ready", resp.pod_sandbox_id);
    return 0;
}

/* Stops what still runs in sandboxes that cannot be used. */
static int clear_sandboxes(struct sync *s, struct err *e) {
    if (!s->rt.n_sandboxes) return 0;
    if (current_sandbox(s)->ready || s->rt.n_containers)
        kubelet_event(s->kl, s->pod, NULL, "Normal", "SandboxChanged",
                      "Pod sandbox changed, it will be killed and re-created.");
    sync_stop_all(s);
    int r = sync_stop_sandboxes(s, e);
    return r < 0 ? r : sync_read(s, e);
}

/* True when there is a sandbox to start containers in. */
static bool ensure_sandbox(struct sync *s) {
    _cleanup_err_ struct err e = {0};
    if (sandbox_usable(s)) {
        s->sandbox_config = podspec_sandbox(s->kl, s->a, s->pod, current_sandbox(s)->attempt, &e);
        return s->sandbox_config != NULL;
    }
    if (!anything_to_start(s)) return false;
    int r = clear_sandboxes(s, &e);
    if (r == 0 && !s->kl->fake && !sync_interrupted(s) && dra_prepare(s->kl->dra, s->a, s->pod, &e) < 0) {
        kubelet_event(s->kl, s->pod, NULL, "Warning", "FailedPrepareDynamicResources",
                      "Failed to prepare dynamic resources: %s", e.msg);
        sync_again_in(s, RETRY_NS / 2);
        return false;
    }
    if (r == 0 && !sync_interrupted(s)) {
        r = make_sandbox(s, &e);
        atomic_fetch_add(r < 0 ? &s->kl->metrics.pods_failed : &s->kl->metrics.pods_started, 1);
        s->new_userns = userns_wanted(s->pod);
        if (s->new_userns) atomic_fetch_add(&s->kl->metrics.userns_started, 1);
        if (s->new_userns && r < 0) atomic_fetch_add(&s->kl->metrics.userns_failed, 1);
    }
    if (r < 0) {
        kubelet_event(s->kl, s->pod, NULL, "Warning", "FailedCreatePodSandBox", "Failed to create pod sandbox: %s",
                      e.msg);
        sync_again_in(s, r == -ECONNREFUSED ? NS_PER_SEC : RETRY_NS / 2);
        return false;
    }
    return sandbox_usable(s);
}

/* ---- volumes, cgroup ---- */

static const char *const *ips_of(struct sync *s, size_t *n) {
    if (s->pod->spec.host_network) return kubelet_host_ips(s->kl, s->a, n);
    const struct rt_sandbox *sb = current_sandbox(s);
    *n = sb ? sb->n_ips : 0;
    return sb ? (const char *const *)sb->ips : NULL;
}

static bool ensure_volumes(struct sync *s) {
    _cleanup_err_ struct err e = {0};
    size_t n;
    const char *const *ips = ips_of(s, &n);
    int64_t since = mono_ns();
    int r = volumes_mount(s->kl->volumes, s->a, s->pod, ips, n, &s->volumes, &e);
    if (r != -EAGAIN) metrics_storage(&s->kl->metrics, METRIC_MOUNT, r == 0, since);
    if (r < 0) {
        /* Waiting for a volume to be attached is normal for a while. */
        if (!s->w->volumes_wait) s->w->volumes_wait = mono_ns();
        bool waiting = r == -EAGAIN && mono_ns() - s->w->volumes_wait < VOLUME_PATIENCE_NS;
        if (!waiting) kubelet_event(s->kl, s->pod, NULL, "Warning", "FailedMount", "%s", e.msg);
        sync_again_in(s, waiting ? VOLUME_POLL_NS : 2 * NS_PER_SEC);
        return false;
    }
    s->w->volumes_wait = 0;
    s->volumes_up = true;
    s->w->volumes_at = mono_ns() + VOLUME_REFRESH_NS;
    return true;
}

static bool ensure_cgroup(struct sync *s) {
    _cleanup_err_ struct err e = {0};
    if (s->w->cgroup_made) return true;
    /* The pod's folder first: by it a later kubelet, or a clean-up, knows that the cgroup is this node's. */
    int r = s->kl->fake ? 0 : mkdir_p(kubelet_pod_dir(s->kl, s->a, s->w->uid), 0750);
    if (r < 0) log_warn("cannot make a pod's folder", "pod", s->obj->key, "error", strerror(-r), NULL);
    int64_t since = mono_ns();
    bool quota = !cm_exclusive(s->kl->cm, s->w->uid, NULL);
    if (cgroups_pod_create(s->kl->cgroups, s->pod, quota, &e) < 0) {
        kubelet_event(s->kl, s->pod, NULL, "Warning", "FailedCreatePodContainer",
                      "unable to ensure pod container exists: %s", e.msg);
        sync_again_in(s, RETRY_NS);
        return false;
    }
    metrics_cgroup(&s->kl->metrics, METRIC_CGROUP_CREATE, since);
    cgroups_pod_limits(s->kl->cgroups, s->pod, quota, &s->w->pod_limits);
    s->w->cgroup_made = true;
    return true;
}

/* ---- one container ---- */

static void config_error(struct sync *s, struct container_track *t, const char *reason, const struct err *e) {
    kubelet_event(s->kl, s->pod, t->name, "Warning", "Failed", "Error: %s", e->msg);
    track_note(t, reason, e->msg);
    t->retry_at = mono_ns() + RETRY_NS;
    sync_again_in(s, RETRY_NS);
}

/* False while the container has to wait after its last exit. */
static bool back_off(struct sync *s, struct container_track *t, const struct rt_container *last) {
    if (!has_exited(last)) return true;
    int64_t now = wall_ns(), since = last->finished_at > 0 ? last->finished_at : now;
    int64_t left = backoff_remaining(&t->restart, since, now);
    if (left <= 0) {
        backoff_next(&t->restart, now);
        return true;
    }
    char d[KTIME_MAX];
    const char *desc = pod_desc(s->a, s->pod);
    if (!str_eq(t->reason, "CrashLoopBackOff"))
        kubelet_event(s->kl, s->pod, t->name, "Warning", "BackOff", "Back-off restarting failed container %s in pod %s",
                      t->name, desc);
    track_note(t, "CrashLoopBackOff",
               arena_printf(s->a, "back-off %s restarting failed container=%s pod=%s",
                            duration_format(t->restart.delay, d), t->name, desc));
    sync_again_in(s, left);
    return false;
}

static bool remove_container(struct sync *s, const char *id) {
    struct cri_remove_container_request req = {.container_id = id};
    struct cri_remove_container_response resp = {0};
    return runtime_call(s->kl->rt, RT_REMOVE_CONTAINER, s->a, &req, &resp, NULL) == 0;
}

static uint32_t restart_count(struct sync *s, const char *name) {
    const struct rt_container *last = rt_pod_find(&s->rt, name, 0);
    if (last && last->state == CRI_CONTAINER_STATE_CONTAINER_CREATED && remove_container(s, last->id))
        return (uint32_t)last->restart_count; /* it never ran: this start takes its place */
    if (last) return (uint32_t)last->restart_count + 1;
    struct container_track *t = worker_track(s->w, name);
    if (t->next_restart) return (uint32_t)t->next_restart;
    pthread_mutex_lock(&s->w->lock);
    const struct core_container_status *c = status_container(s->w->status ? s->w->status : &s->pod->status, name);
    uint32_t n = c ? (uint32_t)c->restart_count : 0;
    /* the status of one that was lost, or removed with all the others, counts the coming start already */
    const struct core_container_state_terminated *end = c && c->state.waiting ? c->last_state.terminated : NULL;
    bool counted = end && (str_eq(end->reason, STATUS_RESTARTING_ALL) || str_eq(end->reason, "ContainerStatusUnknown"));
    if (c && !str_empty(c->container_id) && !counted) n++;
    pthread_mutex_unlock(&s->w->lock);
    return n;
}

static bool run_post_start(struct sync *s, const struct core_container *c, const char *id, struct container_track *t) {
    if (!c->lifecycle || !c->lifecycle->post_start) return true;
    _cleanup_err_ struct err e = {0};
    size_t n;
    const char *const *ips = ips_of(s, &n);
    struct hook_target target = {.pod = s->pod, .container = c, .container_id = id, .pod_ip = n ? ips[0] : NULL};
    if (hook_lifecycle(s->kl, c->lifecycle->post_start, &target, RUNTIME_TIMEOUT_NS, &e) == 0) return true;
    kubelet_event(s->kl, s->pod, c->name, "Warning", "FailedPostStartHook", "PostStartHook failed");
    struct rt_container rc = {.id = id, .name = c->name};
    struct stop_request rq = {&rc, "FailedPostStartHook", -1};
    sync_stop(s, &rq, 1);
    track_note(t, "PostStartHookError", e.msg);
    sync_again_in(s, NS_PER_SEC);
    return false;
}

static int create_and_start(struct sync *s, const struct container_input *in, struct container_track *t) {
    const struct core_container *c = in->container;
    _cleanup_err_ struct err e = {0};
    struct cri_container_config *cfg;
    if (podspec_container(s->kl, s->a, in, &cfg, &e) < 0) {
        config_error(s, t, "CreateContainerConfigError", &e);
        return -EAGAIN;
    }
    struct cri_create_container_request create = {.pod_sandbox_id = current_sandbox(s)->id,
                                                  .config = cfg,
                                                  .sandbox_config = (struct cri_pod_sandbox_config *)s->sandbox_config};
    struct cri_create_container_response created = {0};
    if (runtime_call(s->kl->rt, RT_CREATE_CONTAINER, s->a, &create, &created, &e) < 0) {
        config_error(s, t, "CreateContainerError", &e);
        return -EAGAIN;
    }
    kubelet_event(s->kl, s->pod, c->name, "Normal", "Created", "Container created");
    struct cri_start_container_request start = {.container_id = created.container_id};
    struct cri_start_container_response started = {0};
    if (runtime_call(s->kl->rt, RT_START_CONTAINER, s->a, &start, &started, &e) < 0) {
        config_error(s, t, "RunContainerError", &e);
        return -EAGAIN;
    }
    kubelet_event(s->kl, s->pod, c->name, "Normal", "Started", "Container started");
    cm_started(s->kl->cm, s->pod, c->name, created.container_id, cfg->linux->resources->cpuset_cpus);
    track_note(t, NULL, NULL);
    t->retry_at = 0;
    return run_post_start(s, c, created.container_id, t) ? 0 : -EAGAIN;
}

/* The images behind the image volumes that a container mounts. 0, or as images_ensure. */
static int ensure_image_volumes(struct sync *s, const struct core_container *c, struct image_result *img) {
    for (size_t i = 0; i < c->volume_mounts.n; i++)
        for (size_t k = 0; k < s->volumes.n; k++) {
            struct volume_mount_source *v = &s->volumes.items[k];
            const struct core_volume *vol = &s->pod->spec.volumes.items[k];
            if (!vol->image || !str_eq(v->name, c->volume_mounts.items[i].name)) continue;
            struct core_container puller = {
                .name = c->name, .image = vol->image->reference, .image_pull_policy = vol->image->pull_policy};
            struct container_track *t = worker_track(s->w, arena_printf(s->a, "volume/%s", vol->name));
            int r = images_ensure(s->kl->images, s->a, s->pod, &puller, s->sandbox_config, &t->image, sync_interrupted,
                                  s, img);
            if (r < 0) return r;
            v->image = img->image_ref;
        }
    return 0;
}

/* Starts a container unless it has to wait. True when it was started. */
static bool start_container(struct sync *s, const struct core_container *c, enum container_kind kind,
                            const char *target) {
    struct container_track *t = worker_track(s->w, c->name);
    const struct rt_container *last = rt_pod_find(&s->rt, c->name, 0);
    int64_t now = mono_ns();
    if (t->retry_at > now) {
        sync_again_in(s, t->retry_at - now);
        return false;
    }
    if (!back_off(s, t, last)) return false;
    if (!s->volumes_up && !ensure_volumes(s)) return false; /* it was stopped in this very run */
    struct image_result img;
    int r = ensure_image_volumes(s, c, &img);
    if (r == 0)
        r = images_ensure(s->kl->images, s->a, s->pod, c, s->sandbox_config, &t->image, sync_interrupted, s, &img);
    if (r == -ECANCELED) return false;
    if (r < 0) {
        track_note(t, img.reason, img.message);
        sync_again_in(s, img.retry_ns);
        return false;
    }
    struct container_input in = {.pod = s->pod,
                                 .container = c,
                                 .kind = kind,
                                 .target_id = target,
                                 .restart_count = restart_count(s, c->name),
                                 .image_ref = img.image_ref,
                                 .image = img.image,
                                 .volumes = &s->volumes,
                                 .runtime_handler = current_sandbox(s)->runtime_handler};
    in.pod_ips = ips_of(s, &in.n_pod_ips);
    bool ok = create_and_start(s, &in, t) == 0;
    if (!ok && s->new_userns) atomic_fetch_add(&s->kl->metrics.userns_failed, 1);
    enum metric_container m = kind == CONTAINER_INIT        ? METRIC_INIT
                              : kind == CONTAINER_EPHEMERAL ? METRIC_EPHEMERAL
                                                            : METRIC_CONTAINER;
    atomic_fetch_add(ok ? &s->kl->metrics.containers_started[m] : &s->kl->metrics.containers_failed[m], 1);
    return ok;
}

/* ---- running containers that must not go on ---- */

/* True when it was stopped: a probe failed, or its spec changed. */
static bool stop_if_unfit(struct sync *s, const struct core_container *c, const struct rt_container *rc) {
    enum probe_kind kind;
    struct stop_request rq = {.container = rc, .grace = -1};
    if (rc->hash && !str_eq(rc->hash, container_hash(s->a, c))) {
        rq.message = arena_printf(s->a, "Container %s definition changed, will be restarted", c->name);
        backoff_reset(&worker_track(s->w, c->name)->restart);
    } else if (prober_failed(s->kl->prober, s->w->uid, c->name, rc->id, &kind, &rq.grace)) {
        bool again = !str_eq(container_restart_policy(s->pod, c), "Never");
        rq.message = arena_printf(s->a, "Container %s failed %s probe%s", c->name,
                                  kind == PROBE_LIVENESS ? "liveness" : "startup", again ? ", will be restarted" : "");
    } else {
        return false;
    }
    sync_stop(s, &rq, 1);
    sync_read(s, NULL);
    sync_publish(s, false);
    return true;
}

/* ---- init containers ---- */

static bool any_main_started(const struct sync *s) {
    const struct rt_sandbox *sb = current_sandbox(s);
    for (size_t i = 0; i < s->pod->spec.containers.n; i++) {
        const struct rt_container *c = rt_pod_find(&s->rt, s->pod->spec.containers.items[i].name, 0);
        if (c && sb && str_eq(c->sandbox_id, sb->id)) return true;
    }
    return false;
}

/* A sidecar: kept running; true when those after it may start. */
static bool sync_sidecar(struct sync *s, const struct core_container *c) {
    const struct rt_container *rc = instance(s, c->name);
    if (is_running(rc) && (stop_if_unfit(s, c, rc) || resize_container(s, c, rc))) rc = instance(s, c->name);
    if (!is_running(rc)) {
        if (!start_container(s, c, CONTAINER_INIT, NULL)) return false;
        if (sync_read(s, NULL) < 0) return false;
        sync_publish(s, false);
        rc = instance(s, c->name);
    }
    return is_running(rc) && prober_started(s->kl->prober, s->w->uid, c->name, rc->id);
}

/* An init container that runs to its end; true when it has succeeded. */
static bool sync_init(struct sync *s, const struct core_container *c) {
    const struct rt_container *rc = instance(s, c->name);
    if (has_exited(rc) && rc->exit_code == 0) return true;
    if (is_running(rc)) {
        resize_container(s, c, rc);
        return false;
    }
    if (rc && !container_should_restart(s->pod, c, rc)) return false;
    start_container(s, c, CONTAINER_INIT, NULL);
    return false;
}

/* True when the main containers may run. Once one has, an init container is not run again in this sandbox. */
static bool sync_init_containers(struct sync *s) {
    const struct core_container_vec *v = &s->pod->spec.init_containers;
    bool past = any_main_started(s);
    for (size_t i = 0; i < v->n; i++) {
        bool go_on =
            container_is_sidecar(&v->items[i]) ? sync_sidecar(s, &v->items[i]) : past || sync_init(s, &v->items[i]);
        if (!go_on && !past) return false;
        if (sync_interrupted(s)) return false;
    }
    return true;
}

/* ---- main and ephemeral containers ---- */

static void sync_main(struct sync *s, const struct core_container *c) {
    const struct rt_container *rc = instance(s, c->name);
    if (is_running(rc)) {
        if (!stop_if_unfit(s, c, rc) && !resize_container(s, c, rc)) {
            track_note(worker_track(s->w, c->name), NULL, NULL);
            return;
        }
        rc = instance(s, c->name);
    }
    if (!rc) rc = rt_pod_find(&s->rt, c->name, 0);
    if (!container_should_restart(s->pod, c, rc)) {
        track_note(worker_track(s->w, c->name), NULL, NULL);
        return;
    }
    start_container(s, c, CONTAINER_MAIN, NULL);
}

static void sync_ephemeral(struct sync *s) {
    const struct core_ephemeral_container_vec *v = &s->pod->spec.ephemeral_containers;
    for (size_t i = 0; i < v->n; i++) {
        const struct core_container *c = container_of_ephemeral(s->a, &v->items[i]);
        if (rt_pod_find(&s->rt, c->name, 0)) continue; /* never started twice */
        const char *target = NULL;
        if (!str_empty(v->items[i].target_container_name)) {
            const struct rt_container *rc = instance(s, v->items[i].target_container_name);
            if (!is_running(rc)) {
                sync_again_in(s, 2 * NS_PER_SEC);
                continue;
            }
            target = rc->id;
        }
        start_container(s, c, CONTAINER_EPHEMERAL, target);
    }
}

/* ---- the whole ---- */

void sync_start(struct sync *s) {
    bool refresh = volumes_need_refresh(s->pod);
    bool quiet = sandbox_usable(s) && s->w->cgroup_made;
    if (atomic_exchange(&s->w->metadata_changed, false)) s->w->volumes_at = 0;
    if (!ensure_cgroup(s)) return;
    /* Volumes are set up before the sandbox; for a pod that is up, now and then, for their content. */
    bool due = !quiet || s->w->volumes_at == 0 || (refresh && mono_ns() >= s->w->volumes_at);
    bool starting = false;
    for (size_t i = 0; i < s->pod->spec.containers.n; i++)
        starting |= !is_running(instance(s, s->pod->spec.containers.items[i].name));
    starting |= s->pod->spec.init_containers.n || s->pod->spec.ephemeral_containers.n;
    bool wanted = sandbox_usable(s) || anything_to_start(s);
    if ((due || starting) && wanted && !ensure_volumes(s) && !quiet) return;
    if (refresh) sync_again_in(s, MAX_OF(s->w->volumes_at - mono_ns(), NS_PER_SEC));
    if (sync_interrupted(s) || !ensure_sandbox(s)) return;
    if (!s->volumes_up && starting && !ensure_volumes(s)) return;
    resize_pod_grow(s);
    sync_ephemeral(s);
    if (!sync_init_containers(s)) return;
    for (size_t i = 0; i < s->pod->spec.containers.n && !sync_interrupted(s); i++)
        sync_main(s, &s->pod->spec.containers.items[i]);
}
