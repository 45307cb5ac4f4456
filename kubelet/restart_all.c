/* A container whose rule says RestartAllContainers has ended: every container of the pod is stopped and removed, so that the
 * pod starts anew from its first init container, in its sandbox and with its volumes.
 *
 * Those whose rule matched are removed last: a kubelet that is killed in between finds them and goes on. While they are
 * being removed the condition AllContainersRestarting is True. A pod that does this again and again is held back as a
 * container in a crash loop is.
 *
 * Upstream: kuberuntime_manager.go (getContainersToReset), KEP-5532. */
#include "kubelet/pods.h"

static bool asks(const struct sync *s, const struct rt_container *c) {
    const struct core_container *spec = pod_container(s->pod, c->name, NULL);
    return spec && c->state == CRI_CONTAINER_STATE_CONTAINER_EXITED &&
           container_restart_action(s->pod, spec, c->exit_code) == RESTART_ALL;
}

/* The newest instance of a container that asks for it, in the current sandbox. */
static const struct rt_container *source_of(const struct sync *s) {
    for (size_t i = 0; i < s->rt.n_containers; i++)
        if (rt_pod_find(&s->rt, s->rt.containers[i].name, 0) == &s->rt.containers[i] && asks(s, &s->rt.containers[i]))
            return &s->rt.containers[i];
    return NULL;
}

/* True while the pod has to wait, as after a crash. */
static bool held_back(struct sync *s, const struct rt_container *source) {
    struct container_track *t = worker_track(s->w, source->name);
    int64_t now = ktime_unix_ns(ktime_now());
    int64_t left = backoff_remaining(&t->restart, source->finished_at > 0 ? source->finished_at : now, now);
    if (left <= 0) {
        backoff_next(&t->restart, now);
        return false;
    }
    if (!str_eq(t->reason, "CrashLoopBackOff"))
        kubelet_event(s->kl, s->pod, t->name, "Warning", "BackOff", "Back-off restarting all containers of pod %s",
                      pod_desc(s->a, s->pod));
    track_note(t, "CrashLoopBackOff",
               arena_printf(s->a, "back-off restarting all containers after container=%s pod=%s", t->name,
                            pod_desc(s->a, s->pod)));
    sync_again_in(s, left);
    return true;
}

/* Without grace: what the pod does next depends on none of them. */
static void stop_running(struct sync *s) {
    struct stop_request *rq = arena_zalloc(s->a, (s->rt.n_containers + 1) * sizeof(*rq));
    size_t n = 0;
    for (size_t i = 0; i < s->rt.n_containers; i++)
        if (s->rt.containers[i].state == CRI_CONTAINER_STATE_CONTAINER_RUNNING)
            rq[n++] = (struct stop_request){&s->rt.containers[i], "Restarting all containers", 0};
    sync_stop(s, rq, n);
}

static int remove_some(struct sync *s, bool sources, struct err *e) {
    for (size_t i = s->rt.n_containers; i-- > 0;) {
        const struct rt_container *c = &s->rt.containers[i];
        if (!pod_container(s->pod, c->name, NULL) || asks(s, c) != sources) continue;
        struct cri_remove_container_request req = {.container_id = c->id};
        struct cri_remove_container_response resp = {0};
        struct container_track *t = worker_track(s->w, c->name);
        t->next_restart = MAX_OF(t->next_restart, c->restart_count + 1);
        int r = runtime_call(s->kl->rt, RT_REMOVE_CONTAINER, s->a, &req, &resp, e);
        if (r < 0 && r != -ENOENT) return r;
    }
    return 0;
}

bool sync_restart_all(struct sync *s) {
    struct pod_worker *w = s->w;
    _cleanup_err_ struct err e = {0};
    const struct rt_container *source = pod_may_restart_all(s->pod) ? source_of(s) : NULL;
    if (!source) {
        w->restarting_all = false;
        return true;
    }
    if (!w->restarting_all && held_back(s, source)) {
        sync_publish(s, false);
        return false;
    }
    w->restarting_all = true;
    sync_publish(s, false);
    stop_running(s);
    if (s->kl->stopping || sync_interrupted(s)) return false;
    int r = sync_read(s, &e);
    if (r == 0) r = remove_some(s, false, &e);
    if (r == 0) r = remove_some(s, true, &e);
    if (r == 0) r = sync_read(s, &e);
    if (r < 0) {
        log_warn("cannot restart all containers", "pod", s->obj->key, "error", e.msg, NULL);
        sync_again_in(s, NS_PER_SEC);
        return false;
    }
    for (struct container_track *t = w->tracks; t; t = t->next) track_note(t, NULL, NULL);
    sync_publish(s, false); /* they wait for their new start */
    w->restarting_all = false;
    return true;
}
