/* One run of a pod's state machine. In the order of a pod's life:
 *
 *   read what the runtime has  ->  end it?  (deleted, evicted, deadline, finished)  ->  stop.c
 *                              ->  keep it: start what is missing                   ->  start.c
 *                              ->  tell the status
 *
 * Every run starts from the runtime's view, so that it does not matter what was missed before: a restart of
 * the kubelet is a run like any other. Upstream: SyncPod, SyncTerminatingPod, SyncTerminatedPod (kubelet.go,
 * kuberuntime_manager.go). */
#include <fcntl.h>

#include "kubelet/checkpoint.h"
#include "kubelet/cm/cm.h"
#include "kubelet/dra.h"
#include "kubelet/logs.h"
#include "kubelet/pods.h"
#include "kubelet/resize.h"
#include "kubelet/safepath.h"

#define DEVICES_RETRY_NS (1 * NS_PER_SEC)
enum { TERM_MESSAGE_MAX = 4096, TERM_LOG_MAX = 2048, TERM_LOG_LINES = 80 };

void sync_again_in(struct sync *s, int64_t ns) {
    if (ns <= 0) ns = NS_PER_MS;
    if (!s->next || ns < s->next) s->next = ns;
}

bool sync_interrupted(void *arg) {
    struct sync *s = arg;
    struct pod_worker *w = s->w;
    pthread_mutex_lock(&w->lock);
    bool stop = w->removed || w->forced_phase || s->kl->stopping || pod_deleting(w->pod->obj);
    pthread_mutex_unlock(&w->lock);
    return stop;
}

/* ---- the runtime's view ---- */

/* The message that a container left behind: its file, or the end of its log when that is asked for. */
static void termination_message(struct sync *s, struct rt_container *c) {
    _cleanup_free_ char *text = NULL;
    if (c->state != CRI_CONTAINER_STATE_CONTAINER_EXITED || s->kl->fake) return;
    if (c->term_path) {
        _cleanup_close_ int fd = open(c->term_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        text = xcalloc(1, TERM_MESSAGE_MAX + 1);
        ssize_t n = fd >= 0 ? read(fd, text, TERM_MESSAGE_MAX) : -1;
        if (n > 0) text[n] = '\0';
    }
    bool failed = c->exit_code != 0 || str_eq(c->reason, "OOMKilled");
    if (str_empty(text) && failed && str_eq(c->term_policy, "FallbackToLogsOnError") && !str_empty(c->log_path)) {
        free(text);
        text = logs_tail_text(c->log_path, TERM_LOG_LINES, TERM_LOG_MAX);
    }
    if (!str_empty(text)) c->message = arena_strdup(s->a, text);
}

const char *sync_pod_ip(struct sync *s) {
    if (s->pod->spec.host_network) {
        size_t n;
        const char *const *ips = kubelet_host_ips(s->kl, s->a, &n);
        return n ? ips[0] : NULL;
    }
    return s->rt.n_sandboxes && s->rt.sandboxes[0].n_ips ? s->rt.sandboxes[0].ips[0] : NULL;
}

static void tell_prober(struct sync *s) {
    const struct core_pod_spec *spec = &s->pod->spec;
    const char *ip = sync_pod_ip(s);
    for (size_t i = 0; i < spec->containers.n + spec->init_containers.n; i++) {
        const struct core_container *c =
            i < spec->containers.n ? &spec->containers.items[i] : &spec->init_containers.items[i - spec->containers.n];
        const struct rt_container *rc = rt_pod_find(&s->rt, c->name, 0);
        bool runs = rc && rc->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
        prober_container(s->kl->prober, s->w->uid, c->name, runs ? rc->id : NULL, runs ? rc->started_at : 0, ip);
    }
}

int sync_read(struct sync *s, struct err *e) {
    int64_t since = mono_ns();
    int r = runtime_pod_read(s->kl->rt, s->a, s->w->uid, &s->rt, e);
    if (r < 0) return r;
    metrics_relist(&s->kl->metrics, since);
    for (size_t i = 0; i < s->rt.n_containers; i++) {
        termination_message(s, &s->rt.containers[i]);
        if (cm_exclusive(s->kl->cm, s->w->uid, s->rt.containers[i].name)) s->rt.containers[i].cfs_period_us = 0;
    }
    tell_prober(s);
    return 0;
}

/* ---- status ---- */

static bool probe_ready(void *arg, const char *container, const char *id) {
    struct sync *s = arg;
    return prober_ready(s->kl->prober, s->w->uid, container, id);
}

static bool probe_started(void *arg, const char *container, const char *id) {
    struct sync *s = arg;
    return prober_started(s->kl->prober, s->w->uid, container, id);
}

/* A static pod's status is shown by its mirror in the API. */
static void hand_on(struct sync *s, const struct core_pod_status *status) {
    if (!pod_is_static(s->pod)) {
        status_manager_set(s->kl->status, s->pod, status);
        return;
    }
    if (!s->kl->pod_informer) return;
    _cleanup_object_ struct object *o =
        informer_get_ns(s->kl->pod_informer, s->pod->metadata.namespace, s->pod->metadata.name);
    if (o && str_eq(pod_annotation(o->obj, ANNOT_CONFIG_MIRROR), s->w->uid))
        status_manager_set(s->kl->status, o->obj, status);
}

void sync_publish(struct sync *s, bool all_stopped) {
    struct pod_worker *w = s->w;
    struct status_note *notes = NULL;
    size_t n = 0, cap = 0;
    for (struct container_track *t = w->tracks; t; t = t->next) {
        if (!t->reason) continue;
        ARENA_GROW(s->a, notes, n, cap);
        notes[n++] = (struct status_note){t->name, arena_strdup(s->a, t->reason), arena_strdup(s->a, t->message)};
    }
    struct status_input in = {.pod = s->pod,
                              .rt = &s->rt,
                              .notes = notes,
                              .n_notes = n,
                              .ready = probe_ready,
                              .started = probe_started,
                              .probe_arg = s,
                              .all_stopped = all_stopped,
                              .now = ktime_now()};
    in.restarting_all = w->restarting_all;
    in.resize_reason = w->resize_reason;
    in.resize_message = w->resize_message;
    in.resize_error = w->resize_error;
    in.pod_resizing = resize_pod_due(s);
    in.id_scheme = s->kl->runtime_name;
    in.host_ips = kubelet_host_ips(s->kl, s->a, &in.n_host_ips);
    const struct rt_sandbox *sb = s->rt.n_sandboxes ? &s->rt.sandboxes[0] : NULL;
    in.network_ready = sb && sb->ready && (s->pod->spec.host_network || sb->n_ips);
    pthread_mutex_lock(&w->lock);
    in.prev = w->status ? w->status : &s->pod->status;
    in.forced_phase = w->forced_phase;
    in.forced_reason = w->forced_reason;
    in.forced_message = w->forced_message;
    struct core_pod_status st;
    status_compute(s->a, &in, &st);
    bool changed = !w->status || !api_equal(&api_core_pod_status, w->status, &st);
    if (changed) {
        metrics_terminations(&s->kl->metrics, in.prev, &st);
        struct arena *a = arena_new();
        struct core_pod_status *copy = api_clone(a, &api_core_pod_status, &st);
        arena_free(w->status_arena);
        w->status_arena = a;
        w->status = copy;
    }
    pthread_mutex_unlock(&w->lock);
    /* From here the copy: parts of `st` lived in the status it replaced. Only this thread replaces it.
     * It is handed on even when nothing changed here: the API may show something else; differences only are
     * sent. */
    if (changed) checkpoint_write(s->kl, s->pod, w->status);
    hand_on(s, w->status);
}

static const char *phase_now(struct pod_worker *w) {
    pthread_mutex_lock(&w->lock);
    const char *p = w->status ? w->status->phase : NULL;
    const char *phase = phase_terminal(p) ? (str_eq(p, "Failed") ? "Failed" : "Succeeded") : NULL;
    pthread_mutex_unlock(&w->lock);
    return phase;
}

/* ---- ending ---- */

static void set_state(struct pod_worker *w, enum worker_state state) {
    pthread_mutex_lock(&w->lock);
    w->state = state;
    pthread_mutex_unlock(&w->lock);
}

/* Everything of the pod leaves this machine. */
static int forget(struct sync *s) {
    _cleanup_err_ struct err e = {0};
    struct kubelet *kl = s->kl;
    int r = sync_collect(s, true, &e);
    if (r == 0) r = volumes_forget(kl->volumes, s->w->uid, &e);
    if (r == 0 && !kl->fake) r = path_remove_tree(kubelet_pod_log_dir(kl, s->a, s->pod), &e);
    if (r < 0) {
        log_warn("cannot remove what is left of a pod", "pod", s->obj->key, "uid", s->w->uid, "error", e.msg, NULL);
        sync_again_in(s, 5 * NS_PER_SEC);
        return r;
    }
    status_manager_forget(kl->status, s->w->uid);
    checkpoint_delete(kl, s->w->uid);
    set_state(s->w, WORKER_GONE);
    return 0;
}

/* The node's side of a pod that has stopped: volumes, cgroup. */
static int release(struct sync *s) {
    _cleanup_err_ struct err e = {0};
    prober_remove_pod(s->kl->prober, s->w->uid);
    cm_release(s->kl->cm, s->w->uid);
    s->w->resourced = false;
    int64_t since = mono_ns();
    int r = volumes_unmount(s->kl->volumes, s->w->uid, &e);
    metrics_storage(&s->kl->metrics, METRIC_UNMOUNT, r == 0, since);
    since = mono_ns();
    if (r == 0)
        r = cgroups_pod_remove(s->kl->cgroups,
                               str_empty(s->pod->status.qos_class) ? pod_qos_class(s->pod) : s->pod->status.qos_class,
                               s->w->uid, &e);
    if (r == 0) metrics_cgroup(&s->kl->metrics, METRIC_CGROUP_DESTROY, since);
    if (r < 0) {
        log_warn("cannot release a pod's resources", "pod", s->obj->key, "error", e.msg, NULL);
        sync_again_in(s, 2 * NS_PER_SEC);
    }
    return r;
}

static void terminate(struct sync *s) {
    struct pod_worker *w = s->w;
    _cleanup_err_ struct err e = {0};
    pthread_mutex_lock(&w->lock);
    bool removed = w->removed, done = w->state == WORKER_TERMINATED;
    pthread_mutex_unlock(&w->lock);
    if (!done) {
        set_state(w, WORKER_TERMINATING);
        prober_pod_terminating(s->kl->prober, w->uid);
        sync_publish(s, false);
        sync_stop_all(s);
        if (s->kl->stopping) return;
        int r = sync_read(s, &e);
        if (r == 0) r = sync_stop_sandboxes(s, &e);
        if (r < 0) {
            log_warn("cannot stop a pod", "pod", s->obj->key, "error", e.msg, NULL);
            kubelet_event(s->kl, s->pod, NULL, "Warning", "FailedKillPod", "error killing pod: %s", e.msg);
            sync_again_in(s, 2 * NS_PER_SEC);
            return;
        }
        for (struct container_track *t = w->tracks; t; t = t->next) track_note(t, NULL, NULL);
        /* Before anybody hears that the pod has ended: its claims may go to others then. */
        r = s->kl->fake ? 0 : dra_unprepare(s->kl->dra, s->pod, &e);
        if (r < 0) {
            log_warn("cannot unprepare a pod's claims", "pod", s->obj->key, "error", e.msg, NULL);
            sync_again_in(s, 2 * NS_PER_SEC);
            return;
        }
        sync_publish(s, true);
        if (release(s) < 0) return;
        set_state(w, WORKER_TERMINATED);
    }
    if (done && pod_is_static(s->pod)) sync_publish(s, true); /* its mirror may be new */
    pthread_mutex_lock(&w->lock);
    removed = w->removed;
    bool deleting = pod_deleting(w->pod->obj);
    pthread_mutex_unlock(&w->lock);
    if (removed)
        forget(s);
    else if (deleting && !pod_is_static(s->pod))
        status_manager_finish(s->kl->status, s->pod);
}

/* ---- keeping ---- */

static bool deadline_passed(struct sync *s) {
    const int64_t *deadline = s->pod->spec.active_deadline_seconds;
    struct pod_worker *w = s->w;
    if (!deadline || pod_deleting(s->pod)) return false;
    pthread_mutex_lock(&w->lock);
    struct ktime start = w->status && w->status->start_time.set ? w->status->start_time : s->pod->status.start_time;
    pthread_mutex_unlock(&w->lock);
    if (!start.set) {
        sync_again_in(s, *deadline * NS_PER_SEC);
        return false;
    }
    int64_t left = *deadline * NS_PER_SEC - ktime_diff_ns(ktime_now(), start);
    if (left > 0) {
        sync_again_in(s, left);
        return false;
    }
    static const char message[] = "Pod was active on the node longer than the specified deadline";
    kubelet_event(s->kl, s->pod, NULL, "Normal", "DeadlineExceeded", "%s", message);
    pods_evict(w->pods, w->uid, "DeadlineExceeded", message, -1);
    return true;
}

static bool must_end(struct sync *s) {
    struct pod_worker *w = s->w;
    pthread_mutex_lock(&w->lock);
    bool end = w->removed || w->forced_phase || w->state >= WORKER_TERMINATING || pod_deleting(s->pod);
    pthread_mutex_unlock(&w->lock);
    return end || phase_terminal(s->pod->status.phase) || phase_now(w);
}

/* The main containers have ended for good, and only sidecars still run: the pod runs until these have ended too. */
static bool work_is_done(const struct sync *s) {
    const struct core_container_vec *v = &s->pod->spec.containers;
    for (size_t i = 0; i < v->n; i++) {
        const struct rt_container *c = rt_pod_find(&s->rt, v->items[i].name, 0);
        if (!c || c->state != CRI_CONTAINER_STATE_CONTAINER_EXITED || container_should_restart(s->pod, &v->items[i], c))
            return false;
    }
    return v->n > 0;
}

/* The second half of admission: devices, CPUs and memory. False when there is nothing to go on with. */
static bool give_resources(struct sync *s) {
    const char *reason, *message;
    if (s->w->resourced) return true;
    int r = cm_admit(s->kl->cm, s->a, s->pod, &reason, &message);
    if (r == -EAGAIN) {
        log_info("a pod waits for its devices", "pod", s->obj->key, "because", message, NULL);
        sync_again_in(s, DEVICES_RETRY_NS);
    } else if (r < 0) {
        pods_reject(s->w, reason, message);
        sync_again_in(s, NS_PER_MS);
    }
    s->w->resourced = r == 0;
    return r == 0;
}

static void end_sidecars(struct sync *s) {
    sync_stop_all(s);
    if (sync_read(s, NULL) == 0) sync_publish(s, false);
}

static int64_t sync_once(struct pod_worker *w, enum metric_work *work) {
    _cleanup_err_ struct err e = {0};
    if (!w->arena) w->arena = arena_new();
    arena_reset(w->arena);
    _cleanup_object_ struct object *obj = worker_pod(w);
    struct sync s = {.w = w, .kl = w->kl, .a = w->arena, .obj = obj, .pod = obj->obj};
    int r = sync_read(&s, &e);
    if (r < 0) {
        if (r != -ECONNREFUSED) log_warn("cannot read a pod from the runtime", "pod", obj->key, "error", e.msg, NULL);
        return NS_PER_SEC;
    }
    s.pod = resize_settle(&s);
    if (must_end(&s) || deadline_passed(&s)) {
        *work = METRIC_TERMINATE;
        terminate(&s);
        return s.next;
    }
    if (pod_is_static(s.pod) && pods_name_taken(w->pods, w, obj->key)) return 100 * NS_PER_MS;
    prober_add_pod(s.kl->prober, obj);
    tell_prober(&s);
    if (!sync_restart_all(&s)) return s.next;
    sync_publish(&s, false);
    if (!phase_now(w) && work_is_done(&s)) end_sidecars(&s);
    if (phase_now(w)) { /* all its containers have finished */
        terminate(&s);
        return s.next;
    }
    if (!give_resources(&s)) return s.next;
    sync_start(&s);
    err_done(&e);
    if (sync_read(&s, &e) == 0) {
        resize_pod_settle(&s);
        sync_publish(&s, false);
        sync_collect(&s, false, NULL);
    }
    if (phase_now(w)) sync_again_in(&s, NS_PER_MS);
    return s.next;
}

/* The first time that all its main containers run. */
static void note_start(struct pod_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool runs = w->status && str_eq(w->status->phase, "Running");
    pthread_mutex_unlock(&w->lock);
    if (w->start_noted || !runs) return;
    w->start_noted = true;
    metrics_pod_start(&w->kl->metrics, mono_ns() - w->seen_at);
}

int64_t worker_sync(struct pod_worker *w) {
    enum metric_work work = METRIC_SYNC;
    int64_t since = mono_ns(), next = sync_once(w, &work);
    metrics_work(&w->kl->metrics, work, since);
    note_start(w);
    return next;
}
