/* Stopping containers: preStop hook, then the stop signal, then the grace period, each container in a thread
 * of its own. The main containers go first; sidecars follow in reverse order of their start. The worker
 * waits, shows the status as it changes, and hurries up when the pod's grace period is shortened.
 *
 * Upstream: kuberuntime_container.go (killContainer), kuberuntime_termination_order.go. */
#include <time.h>

#include "kubelet/pods.h"

enum { MIN_GRACE = 2 };

struct stop_job {
    struct stop_set *set;
    char *id, *name, *message;
    const struct core_container *container; /* may be NULL: no longer in the spec */
    int64_t grace;
    bool fixed_grace; /* given by the caller, not the pod's */
    unsigned stage;
    bool done, hurried;
    pthread_t thread;
    bool joined;
};

/* Shared by the jobs of one call; guarded by the worker's lock. */
struct stop_set {
    struct pod_worker *w;
    struct object *obj;
    const char *pod_ip;
    struct stop_job *jobs;
    size_t n;
};

static int64_t pod_grace(const struct core_pod *p) {
    if (p->metadata.deletion_grace_period_seconds) return *p->metadata.deletion_grace_period_seconds;
    return p->spec.termination_grace_period_seconds ? *p->spec.termination_grace_period_seconds : 30;
}

static bool earlier_running(const struct stop_set *set, unsigned stage) {
    for (size_t i = 0; i < set->n; i++)
        if (set->jobs[i].stage < stage && !set->jobs[i].done) return true;
    return false;
}

/* Waits for the containers that go first, within the grace period. */
static void wait_turn(struct stop_job *j, int64_t end) {
    struct pod_worker *w = j->set->w;
    pthread_mutex_lock(&w->lock);
    while (earlier_running(j->set, j->stage) && !j->hurried && mono_ns() < end) {
        struct timespec ts = {(time_t)(end / NS_PER_SEC), (long)(end % NS_PER_SEC)};
        pthread_cond_timedwait(&w->cond, &w->lock, &ts);
    }
    pthread_mutex_unlock(&w->lock);
}

static int stop_container(struct kubelet *kl, const char *id, int64_t grace, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_stop_container_request req = {.container_id = id, .timeout = grace};
    struct cri_stop_container_response resp = {0};
    int r = runtime_call_timeout(kl->rt, RT_STOP_CONTAINER, a, &req, &resp, grace * NS_PER_SEC + RUNTIME_TIMEOUT_NS, e);
    return r == -ENOENT ? 0 : r;
}

static void pre_stop(struct stop_job *j, int64_t limit) {
    struct kubelet *kl = j->set->w->kl;
    const struct core_pod *pod = j->set->obj->obj;
    struct hook_target t = {.pod = pod, .container = j->container, .container_id = j->id, .pod_ip = j->set->pod_ip};
    _cleanup_err_ struct err e = {0};
    if (hook_lifecycle(kl, j->container->lifecycle->pre_stop, &t, limit, &e) < 0) {
        kubelet_event(kl, pod, j->name, "Warning", "FailedPreStopHook", "PreStopHook failed");
        log_info("preStop hook failed", "pod", j->set->obj->key, "container", j->name, "error", e.msg, NULL);
    }
}

static void *stop_thread(void *arg) {
    struct stop_job *j = arg;
    struct pod_worker *w = j->set->w;
    struct kubelet *kl = w->kl;
    _cleanup_err_ struct err e = {0};
    int64_t end = mono_ns() + j->grace * NS_PER_SEC;
    wait_turn(j, end);
    kubelet_event(kl, j->set->obj->obj, j->name, "Normal", "Killing", "%s", j->message);
    if (j->grace > 0 && j->container && j->container->lifecycle && j->container->lifecycle->pre_stop && mono_ns() < end)
        pre_stop(j, end - mono_ns());
    int64_t left = (end - mono_ns() + NS_PER_SEC - 1) / NS_PER_SEC;
    if (left < MIN_GRACE) left = j->fixed_grace && j->grace < MIN_GRACE ? j->grace : MIN_GRACE;
    if (stop_container(kl, j->id, left, &e) < 0)
        log_warn("cannot stop a container", "pod", j->set->obj->key, "container", j->name, "error", e.msg, NULL);
    pthread_mutex_lock(&w->lock);
    j->done = true;
    w->wake = true;
    pthread_cond_broadcast(&w->cond);
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

struct hurry {
    struct kubelet *kl;
    char *id;
    int64_t grace;
};

static void *hurry_thread(void *arg) {
    struct hurry *h = arg;
    stop_container(h->kl, h->id, h->grace, NULL);
    free(h->id);
    free(h);
    return NULL;
}

/* The pod's grace period was shortened while its containers stop: a second, more urgent stop for each. */
static void hurry_up(struct stop_set *set, int64_t grace) {
    for (size_t i = 0; i < set->n; i++) {
        struct stop_job *j = &set->jobs[i];
        if (j->done || grace >= j->grace) continue;
        j->grace = grace;
        j->hurried = true;
        struct hurry *h = xcalloc(1, sizeof(*h));
        *h = (struct hurry){set->w->kl, xstrdup(j->id), grace};
        if (kubelet_thread(NULL, hurry_thread, h, true) < 0) {
            free(h->id);
            free(h);
        }
    }
    pthread_cond_broadcast(&set->w->cond);
}

static bool all_done(const struct stop_set *set) {
    for (size_t i = 0; i < set->n; i++)
        if (!set->jobs[i].done) return false;
    return true;
}

/* Waits for the jobs; the status follows what happens meanwhile. */
static void wait_jobs(struct sync *s, struct stop_set *set) {
    struct pod_worker *w = s->w;
    pthread_mutex_lock(&w->lock);
    while (!all_done(set)) {
        if (!w->wake) pthread_cond_wait(&w->cond, &w->lock);
        if (!w->wake) continue;
        w->wake = false;
        const struct core_pod *now = w->pod->obj;
        if (pod_deleting(now) || w->forced_grace >= 0) {
            int64_t grace = w->forced_grace >= 0 ? w->forced_grace : pod_grace(now);
            hurry_up(set, grace);
        }
        if (all_done(set)) break;
        pthread_mutex_unlock(&w->lock);
        _cleanup_arena_ struct arena *a = arena_new();
        struct sync look = *s;
        look.a = a;
        look.volumes = (struct mounted_volumes){0};
        if (sync_read(&look, NULL) == 0) sync_publish(&look, false);
        pthread_mutex_lock(&w->lock);
    }
    w->wake = true; /* there may have been more than the end of the jobs */
    pthread_mutex_unlock(&w->lock);
}

/* Main containers 0; sidecars after them, the last one started first. */
static unsigned stage_of(const struct core_pod *p, const char *name) {
    for (size_t i = 0; i < p->spec.init_containers.n; i++)
        if (str_eq(p->spec.init_containers.items[i].name, name) &&
            container_is_sidecar(&p->spec.init_containers.items[i]))
            return (unsigned)(p->spec.init_containers.n - i);
    return 0;
}

static int64_t grace_of(struct sync *s, const struct stop_request *rq) {
    pthread_mutex_lock(&s->w->lock);
    int64_t forced = s->w->forced_grace;
    pthread_mutex_unlock(&s->w->lock);
    return forced >= 0 ? forced : rq->grace >= 0 ? rq->grace : pod_grace(s->pod);
}

void sync_stop(struct sync *s, const struct stop_request *rq, size_t n) {
    struct stop_set set = {.w = s->w, .obj = s->obj, .n = n};
    if (!n) return;
    set.pod_ip = sync_pod_ip(s);
    set.jobs = arena_zalloc(s->a, n * sizeof(*set.jobs));
    for (size_t i = 0; i < n; i++) {
        struct stop_job *j = &set.jobs[i];
        const char *name = rq[i].container->name;
        *j = (struct stop_job){.set = &set,
                               .id = arena_strdup(s->a, rq[i].container->id),
                               .name = arena_strdup(s->a, name),
                               .container = pod_container(s->pod, name, NULL),
                               .grace = grace_of(s, &rq[i]),
                               .fixed_grace = rq[i].grace >= 0 || s->w->forced_grace >= 0,
                               .stage = stage_of(s->pod, name)};
        j->message =
            rq[i].message ? arena_strdup(s->a, rq[i].message) : arena_printf(s->a, "Stopping container %s", name);
    }
    for (size_t i = 0; i < n; i++)
        if (kubelet_thread(&set.jobs[i].thread, stop_thread, &set.jobs[i], false) == 0)
            set.jobs[i].joined = true;
        else
            stop_thread(&set.jobs[i]);
    wait_jobs(s, &set);
    for (size_t i = 0; i < n; i++)
        if (set.jobs[i].joined) pthread_join(set.jobs[i].thread, NULL);
}

void sync_stop_all(struct sync *s) {
    struct stop_request *rq = arena_zalloc(s->a, (s->rt.n_containers + 1) * sizeof(*rq));
    size_t n = 0;
    for (size_t i = 0; i < s->rt.n_containers; i++) {
        int32_t state = s->rt.containers[i].state;
        if (state == CRI_CONTAINER_STATE_CONTAINER_RUNNING || state == CRI_CONTAINER_STATE_CONTAINER_UNKNOWN)
            rq[n++] = (struct stop_request){&s->rt.containers[i], NULL, -1};
    }
    sync_stop(s, rq, n);
}

int sync_stop_sandboxes(struct sync *s, struct err *e) {
    for (size_t i = 0; i < s->rt.n_sandboxes; i++) {
        struct cri_stop_pod_sandbox_request req = {.pod_sandbox_id = s->rt.sandboxes[i].id};
        struct cri_stop_pod_sandbox_response resp = {0};
        if (!s->rt.sandboxes[i].ready && i > 0) continue;
        int r = runtime_call(s->kl->rt, RT_STOP_POD_SANDBOX, s->a, &req, &resp, e);
        if (r < 0 && r != -ENOENT) return r;
        s->rt.sandboxes[i].ready = false;
    }
    return 0;
}

/* ---- what is no longer needed ---- */

static int remove_container(struct sync *s, const struct rt_container *c, struct err *e) {
    struct cri_remove_container_request req = {.container_id = c->id};
    struct cri_remove_container_response resp = {0};
    int r = runtime_call(s->kl->rt, RT_REMOVE_CONTAINER, s->a, &req, &resp, e);
    if (r < 0 && r != -ENOENT) return r;
    if (!s->kl->fake && !str_empty(c->log_path)) unlink(c->log_path);
    if (!s->kl->fake && c->term_path) unlink(c->term_path);
    return 0;
}

static int remove_sandbox(struct sync *s, const char *id, struct err *e) {
    struct cri_remove_pod_sandbox_request req = {.pod_sandbox_id = id};
    struct cri_remove_pod_sandbox_response resp = {0};
    int r = runtime_call(s->kl->rt, RT_REMOVE_POD_SANDBOX, s->a, &req, &resp, e);
    return r == -ENOENT ? 0 : r;
}

/* How many newer instances of the same name there are that have ended. */
static unsigned newer_dead(const struct rt_pod *rt, size_t at) {
    unsigned n = 0;
    for (size_t i = 0; i < at; i++)
        n += str_eq(rt->containers[i].name, rt->containers[at].name) &&
             rt->containers[i].state == CRI_CONTAINER_STATE_CONTAINER_EXITED;
    return n;
}

int sync_collect(struct sync *s, bool all, struct err *e) {
    for (size_t i = s->rt.n_containers; i-- > 0;) {
        const struct rt_container *c = &s->rt.containers[i];
        if (!all && (c->state != CRI_CONTAINER_STATE_CONTAINER_EXITED || !newer_dead(&s->rt, i))) continue;
        int r = remove_container(s, c, e);
        if (r < 0) return r;
    }
    for (size_t i = s->rt.n_sandboxes; i-- > 0;) {
        const struct rt_sandbox *sb = &s->rt.sandboxes[i];
        bool used = false;
        for (size_t k = 0; k < s->rt.n_containers; k++) used |= str_eq(s->rt.containers[k].sandbox_id, sb->id);
        if (!all && (i == 0 || sb->ready || used)) continue;
        int r = remove_sandbox(s, sb->id, e);
        if (r < 0) return r;
    }
    return 0;
}
