/* See status.h. */
#include "kubelet/status.h"

const char *status_cri_id(const char *container_id) {
    const char *s = container_id ? strstr(container_id, "://") : NULL;
    return s ? s + 3 : str_or_empty(container_id);
}

bool status_condition_owned(const char *type) {
    static const char *const owned[] = {"PodScheduled",
                                        "Ready",
                                        "Initialized",
                                        "ContainersReady",
                                        "PodReadyToStartContainers",
                                        "AllContainersRestarting",
                                        "PodResizePending",
                                        "PodResizeInProgress"};
    for (size_t i = 0; i < ARRAY_LEN(owned); i++)
        if (str_eq(owned[i], type)) return true;
    return false;
}

struct core_pod_condition *status_condition(const struct core_pod_status *s, const char *type) {
    for (size_t i = 0; s && i < s->conditions.n; i++)
        if (str_eq(s->conditions.items[i].type, type)) return &s->conditions.items[i];
    return NULL;
}

static struct core_container_status *in_vec(const struct core_container_status_vec *v, const char *name) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i].name, name)) return &v->items[i];
    return NULL;
}

struct core_container_status *status_container(const struct core_pod_status *s, const char *name) {
    if (!s) return NULL;
    struct core_container_status *c = in_vec(&s->container_statuses, name);
    if (!c) c = in_vec(&s->init_container_statuses, name);
    if (!c) c = in_vec(&s->ephemeral_container_statuses, name);
    return c;
}

/* ---- container statuses ---- */

static const char *container_id_text(struct arena *a, const struct status_input *in, const char *id) {
    return arena_printf(a, "%s://%s", in->id_scheme ? in->id_scheme : "coracle", id);
}

static struct core_container_state terminated_state(struct arena *a, const struct status_input *in,
                                                    const struct rt_container *c) {
    struct core_container_state_terminated *t = arena_zalloc(a, sizeof(*t));
    t->exit_code = c->exit_code;
    t->reason = !str_empty(c->reason) ? c->reason : c->exit_code ? "Error" : "Completed";
    t->message = str_empty(c->message) ? NULL : c->message;
    if (c->started_at > 0) t->started_at = ktime_from_unix_ns(c->started_at);
    if (c->finished_at > 0) t->finished_at = ktime_from_unix_ns(c->finished_at);
    t->container_id = container_id_text(a, in, c->id);
    return (struct core_container_state){.terminated = t};
}

static struct core_container_state waiting_state(struct arena *a, const char *reason, const char *message) {
    struct core_container_state_waiting *w = arena_zalloc(a, sizeof(*w));
    w->reason = reason;
    w->message = message;
    return (struct core_container_state){.waiting = w};
}

static const struct status_note *note_of(const struct status_input *in, const char *name) {
    for (size_t i = 0; i < in->n_notes; i++)
        if (str_eq(in->notes[i].container, name)) return &in->notes[i];
    return NULL;
}

static struct core_container_state live_state(struct arena *a, const struct status_input *in,
                                              const struct rt_container *c) {
    if (c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING) {
        struct core_container_state_running *r = arena_zalloc(a, sizeof(*r));
        r->started_at = ktime_from_unix_ns(c->started_at);
        return (struct core_container_state){.running = r};
    }
    if (c->state == CRI_CONTAINER_STATE_CONTAINER_EXITED) return terminated_state(a, in, c);
    return waiting_state(a, NULL, NULL);
}

/* Gone from the runtime although it had been seen running. */
static struct core_container_state unknown_state(struct arena *a, const char *id) {
    struct core_container_state_terminated *t = arena_zalloc(a, sizeof(*t));
    t->exit_code = 137;
    t->reason = "ContainerStatusUnknown";
    t->message = "The container could not be located when the pod was terminated";
    t->container_id = id;
    return (struct core_container_state){.terminated = t};
}

static void fill_mounts(struct arena *a, const struct core_container *c, struct core_container_status *s) {
    if (!c->volume_mounts.n) return;
    s->volume_mounts.items = arena_zalloc(a, c->volume_mounts.n * sizeof(*s->volume_mounts.items));
    for (size_t i = 0; i < c->volume_mounts.n; i++) {
        const struct core_volume_mount *m = &c->volume_mounts.items[i];
        struct core_volume_mount_status *o = &s->volume_mounts.items[s->volume_mounts.n++];
        o->name = m->name;
        o->mount_path = m->mount_path;
        o->read_only = m->read_only;
        if (m->read_only) o->recursive_read_only = m->recursive_read_only ? m->recursive_read_only : "Disabled";
    }
}

static void fill_user(struct arena *a, const struct rt_container *rc, struct core_container_status *s) {
    if (!rc->user || !rc->user->linux) return;
    s->user = arena_zalloc(a, sizeof(*s->user));
    s->user->linux = arena_zalloc(a, sizeof(*s->user->linux));
    s->user->linux->uid = rc->user->linux->uid;
    s->user->linux->gid = rc->user->linux->gid;
    s->user->linux->supplemental_groups = rc->user->linux->supplemental_groups;
}

static void from_runtime(struct arena *a, const struct status_input *in, const struct core_container *c,
                         const struct rt_container *rc, const struct core_container_status *prev,
                         struct core_container_status *s) {
    s->state = live_state(a, in, rc);
    s->restart_count = rc->restart_count;
    s->image = str_empty(rc->image) ? c->image : rc->image;
    s->image_id = str_or_empty(rc->image_ref);
    s->container_id = container_id_text(a, in, rc->id);
    if (s->state.running) {
        fill_mounts(a, c, s);
        fill_user(a, rc, s);
        struct core_resource_requirements *rr = arena_zalloc(a, sizeof(*rr));
        rr->requests = c->resources.requests;
        rr->limits = c->resources.limits;
        /* What is in force: during a resize still the old amounts. */
        s->resources = container_resize_due(in->pod, c, rc) && prev && prev->resources ? prev->resources : rr;
        s->allocated_resources = c->resources.requests;
    }
}

/* Removed with all containers of the pod; it starts anew. */
static void restarting_state(struct arena *a, struct core_container_status *s,
                             const struct core_container_status *prev) {
    static const char message[] = "The container is removed because RestartAllContainers in place";
    struct core_container_state_terminated *t = arena_zalloc(a, sizeof(*t));
    t->exit_code = 137;
    t->reason = STATUS_RESTARTING_ALL;
    t->message = message;
    s->state = waiting_state(a, STATUS_RESTARTING_ALL, message);
    s->last_state = (struct core_container_state){.terminated = t};
    s->restart_count = prev ? prev->restart_count + 1 : 0;
}

static void one_container(struct arena *a, const struct status_input *in, const struct core_container *c, bool is_init,
                          const struct core_container_status *prev, struct core_container_status *s) {
    const struct rt_container *rc = rt_pod_find(in->rt, c->name, 0), *before = rt_pod_find(in->rt, c->name, 1);
    bool has_init = in->pod->spec.init_containers.n > 0;
    *s = (struct core_container_status){.name = c->name, .image = c->image, .image_id = ""};
    if (prev) {
        s->restart_count = prev->restart_count;
        s->last_state = prev->last_state;
    }
    if (rc) {
        from_runtime(a, in, c, rc, prev, s);
        if (before && before->state == CRI_CONTAINER_STATE_CONTAINER_EXITED)
            s->last_state = terminated_state(a, in, before);
    } else if (in->restarting_all && !(prev && prev->state.waiting)) {
        restarting_state(a, s, prev);
    } else if (prev && prev->state.terminated) {
        s->state = prev->state; /* the runtime has collected it; its end stays true */
        s->image_id = prev->image_id;
        s->container_id = prev->container_id;
    } else if (prev && prev->state.running) {
        struct core_container_state lost = unknown_state(a, prev->container_id);
        if (in->all_stopped) {
            s->state = lost;
        } else {
            s->state = waiting_state(a, has_init ? "PodInitializing" : "ContainerCreating", NULL);
            s->last_state = lost;
            s->restart_count++;
        }
        s->image_id = prev->image_id;
        s->container_id = prev->container_id;
    } else {
        s->state = waiting_state(a, has_init ? "PodInitializing" : "ContainerCreating", NULL);
    }
    const struct status_note *n = note_of(in, c->name);
    if (n && !s->state.running && !in->all_stopped) {
        if (s->state.terminated) s->last_state = s->state;
        s->state = waiting_state(a, n->reason, str_empty(n->message) ? NULL : n->message);
    }
    bool *started = arena_zalloc(a, sizeof(*started));
    s->started = started;
    if (!s->state.running) {
        /* A finished init container has done what it is for. */
        s->ready = is_init && s->state.terminated && s->state.terminated->exit_code == 0;
        return;
    }
    *started = !in->started || in->started(in->probe_arg, c->name, rc->id);
    s->ready = *started && (!in->ready || in->ready(in->probe_arg, c->name, rc->id));
    if (is_init && !container_is_sidecar(c)) s->ready = false;
}

static void containers(struct arena *a, const struct status_input *in, const struct core_container_vec *v, bool is_init,
                       const struct core_container_status_vec *prev, struct core_container_status_vec *out) {
    out->n = v->n;
    out->items = v->n ? arena_zalloc(a, v->n * sizeof(*out->items)) : NULL;
    for (size_t i = 0; i < v->n; i++)
        one_container(a, in, &v->items[i], is_init, in_vec(prev, v->items[i].name), &out->items[i]);
}

static void ephemeral(struct arena *a, const struct status_input *in, const struct core_pod_status *prev,
                      struct core_pod_status *out) {
    const struct core_ephemeral_container_vec *v = &in->pod->spec.ephemeral_containers;
    out->ephemeral_container_statuses.n = v->n;
    out->ephemeral_container_statuses.items =
        v->n ? arena_zalloc(a, v->n * sizeof(*out->ephemeral_container_statuses.items)) : NULL;
    for (size_t i = 0; i < v->n; i++) {
        const struct core_container *c = container_of_ephemeral(a, &v->items[i]);
        struct core_container_status *s = &out->ephemeral_container_statuses.items[i];
        one_container(a, in, c, false, in_vec(&prev->ephemeral_container_statuses, c->name), s);
        if (s->state.waiting && str_eq(s->state.waiting->reason, "PodInitializing"))
            s->state = waiting_state(a, "ContainerCreating", NULL);
        s->ready = false;
        s->started = NULL;
    }
}

/* ---- phase ---- */

struct phase_count {
    int unknown, running, waiting;
    int stopped, succeeded, final; /* of the main containers; final: not to be restarted */
    int init_pending, sidecars_pending, init_final;
};

static bool comes_back(const struct core_pod *p, const struct core_container *c,
                       const struct core_container_state_terminated *t) {
    return str_eq(t->reason, STATUS_RESTARTING_ALL) || container_restart_action(p, c, t->exit_code) != RESTART_NONE;
}

static void count_main(struct phase_count *n, const struct core_pod *p, const struct core_container *c,
                       const struct core_container_status *s) {
    const struct core_container_state_terminated *ended = s && s->state.terminated ? s->state.terminated
                                                          : s && s->state.waiting  ? s->last_state.terminated
                                                                                   : NULL;
    if (s && s->state.running) {
        n->running++;
    } else if (ended) { /* also between two runs */
        n->stopped++;
        n->final += !comes_back(p, c, ended);
        n->succeeded += s->state.terminated && ended->exit_code == 0;
    } else if (s && s->state.waiting) {
        n->waiting++;
    } else {
        n->unknown++;
    }
}

static void count_init(struct phase_count *n, const struct core_pod *p, const struct core_container *c,
                       const struct core_container_status *s) {
    const struct core_container_state_terminated *ended = s && s->state.terminated ? s->state.terminated
                                                          : s && s->state.waiting  ? s->last_state.terminated
                                                                                   : NULL;
    if (ended)
        n->init_final += ended->exit_code != 0 && !comes_back(p, c, ended);
    else
        n->init_pending++;
}

/* One that has ended counts for nothing: it is started again, or stopped with the pod. */
static void count_sidecar(struct phase_count *n, const struct core_container_status *s) {
    if (s && s->state.running) {
        n->running++;
        n->sidecars_pending += !s->started || !*s->started;
    } else if (s && s->state.waiting && !s->last_state.terminated) {
        n->sidecars_pending++;
        n->waiting++;
    } else if (!s || !(s->state.terminated || s->last_state.terminated)) {
        n->sidecars_pending++;
        n->unknown++;
    }
}

/* Past initialisation: a main container has run. */
static bool has_initialized(const struct core_pod_status *s) {
    for (size_t i = 0; i < s->container_statuses.n; i++) {
        const struct core_container_status *c = &s->container_statuses.items[i];
        if (c->state.running || c->state.terminated || c->last_state.terminated) return true;
    }
    return false;
}

const char *status_phase(const struct core_pod *p, const struct core_pod_status *s, bool terminal) {
    struct phase_count n = {0};
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *c = &p->spec.init_containers.items[i];
        const struct core_container_status *cs = in_vec(&s->init_container_statuses, c->name);
        if (container_is_sidecar(c))
            count_sidecar(&n, cs);
        else
            count_init(&n, p, c, cs);
    }
    for (size_t i = 0; i < p->spec.containers.n; i++) {
        const struct core_container *c = &p->spec.containers.items[i];
        count_main(&n, p, c, in_vec(&s->container_statuses, c->name));
    }
    bool pending = n.init_pending || (n.sidecars_pending && !has_initialized(s));
    if (n.init_final) return "Failed";
    /* nothing runs any more and nothing will: what has not succeeded has failed */
    if (terminal) return n.stopped == n.succeeded && n.stopped && !n.waiting && !pending ? "Succeeded" : "Failed";
    if (pending || n.waiting) return "Pending";
    if (n.running && !n.unknown) return "Running";
    if (!n.stopped || n.unknown) return "Pending";
    if (n.stopped != n.final) return "Running";
    return n.stopped == n.succeeded ? "Succeeded" : "Failed";
}

/* ---- conditions ---- */

void status_set_condition(struct arena *a, struct core_pod_status *s, const struct core_pod_status *prev,
                          const char *type, bool value, const char *reason, const char *message, int64_t generation,
                          struct ktime now) {
    struct core_pod_condition *c = status_condition(s, type);
    if (!c) {
        struct core_pod_condition *items = arena_alloc(a, (s->conditions.n + 1) * sizeof(*items));
        if (s->conditions.n) memcpy(items, s->conditions.items, s->conditions.n * sizeof(*items));
        s->conditions.items = items;
        c = &items[s->conditions.n++];
    }
    const struct core_pod_condition *old = status_condition(prev, type);
    *c = (struct core_pod_condition){.type = type,
                                     .status = value ? "True" : "False",
                                     .reason = str_empty(reason) ? NULL : reason,
                                     .message = str_empty(message) ? NULL : message,
                                     .observed_generation = generation};
    bool same = old && str_eq(old->status, c->status) && old->last_transition_time.set;
    c->last_transition_time = same ? old->last_transition_time : now;
}

struct names { /* "[a b]", as Go prints a slice */
    char *text;
    size_t n;
};

static void names_add(struct arena *a, struct names *l, const char *name) {
    l->text = l->n++ ? arena_printf(a, "%s %s", l->text, name) : arena_strdup(a, name);
}

struct readiness {
    bool ok;
    const char *reason, *message;
};

static struct readiness containers_ready(struct arena *a, const struct core_pod *p, const struct core_pod_status *s) {
    struct names unready = {0}, unknown = {0};
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *c = &p->spec.init_containers.items[i];
        const struct core_container_status *cs = in_vec(&s->init_container_statuses, c->name);
        if (container_is_sidecar(c) && cs && !cs->ready) names_add(a, &unready, c->name);
    }
    for (size_t i = 0; i < p->spec.containers.n; i++) {
        const char *name = p->spec.containers.items[i].name;
        const struct core_container_status *cs = in_vec(&s->container_statuses, name);
        if (!cs)
            names_add(a, &unknown, name);
        else if (!cs->ready)
            names_add(a, &unready, name);
    }
    if (str_eq(s->phase, "Succeeded") && !unknown.n) return (struct readiness){false, "PodCompleted", NULL};
    if (str_eq(s->phase, "Failed") && !unknown.n) return (struct readiness){false, "PodFailed", NULL};
    if (!unready.n && !unknown.n) return (struct readiness){true, NULL, NULL};
    const char *msg = NULL;
    if (unknown.n) msg = arena_printf(a, "containers with unknown status: [%s]", unknown.text);
    if (unready.n)
        msg = arena_printf(a, "%s%scontainers with unready status: [%s]", str_or_empty(msg), msg ? ", " : "",
                           unready.text);
    return (struct readiness){false, "ContainersNotReady", msg};
}

static struct readiness pod_ready(struct arena *a, const struct core_pod *p, const struct core_pod_status *s,
                                  struct readiness containers_verdict) {
    if (!containers_verdict.ok) return containers_verdict;
    const char *msg = NULL;
    for (size_t i = 0; i < p->spec.readiness_gates.n; i++) {
        const char *type = p->spec.readiness_gates.items[i].condition_type;
        const struct core_pod_condition *c = status_condition(s, type);
        if (c && str_eq(c->status, "True")) continue;
        const char *why =
            c ? arena_printf(a, "the status of pod readiness gate \"%s\" is not \"True\", but %s", type, c->status)
              : arena_printf(a, "corresponding condition of pod readiness gate \"%s\" does not exist.", type);
        msg = msg ? arena_printf(a, "%s, %s", msg, why) : why;
    }
    if (msg) return (struct readiness){false, "ReadinessGatesNotReady", msg};
    return (struct readiness){true, NULL, NULL};
}

static struct readiness initialized(struct arena *a, const struct core_pod *p, const struct core_pod_status *s,
                                    const struct core_pod_status *prev) {
    struct names incomplete = {0};
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *c = &p->spec.init_containers.items[i];
        const struct core_container_status *cs = in_vec(&s->init_container_statuses, c->name);
        bool done = cs && (container_is_sidecar(c) ? (cs->started && *cs->started)
                                                   : (cs->state.terminated && cs->state.terminated->exit_code == 0));
        if (!done) names_add(a, &incomplete, c->name);
    }
    /* Past initialisation once a main container has run: a sidecar that restarts does not undo that. */
    bool main_ran = false;
    for (size_t i = 0; i < s->container_statuses.n; i++) {
        const struct core_container_status *cs = &s->container_statuses.items[i];
        main_ran |= cs->state.running || cs->state.terminated || cs->last_state.terminated;
    }
    if (str_eq(s->phase, "Succeeded")) return (struct readiness){true, "PodCompleted", NULL};
    if (!incomplete.n || (main_ran && !pod_has_regular_init(p))) return (struct readiness){true, NULL, NULL};
    /* once it was, it stays so: init containers may run again with all the others */
    const struct core_pod_condition *was = status_condition(prev, "Initialized");
    if (was && str_eq(was->status, "True")) return (struct readiness){true, NULL, NULL};
    return (struct readiness){false, "ContainersNotInitialized",
                              arena_printf(a, "containers with incomplete status: [%s]", incomplete.text)};
}

/* The node's reasons to end a pod that is itself in order: Jobs do not count these as failures. */
static bool disrupted(const char *reason) {
    static const char *const reasons[] = {"Evicted", "Terminated", "Preempting"};
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (str_eq(reason, reasons[i])) return true;
    return false;
}

/* The pod, or a container that runs, does not have yet what it is allocated. */
static bool resizing(const struct status_input *in) {
    return in->pod_resizing || containers_resize_due(in->pod, in->rt);
}

static void conditions(struct arena *a, const struct status_input *in, const struct core_pod_status *prev,
                       struct core_pod_status *out) {
    const struct core_pod *p = in->pod;
    int64_t gen = p->metadata.generation;
    /* Others' conditions (readiness gates, DisruptionTarget) stay as the API has them. */
    const struct core_pod_status *api = &p->status;
    out->conditions.items = arena_zalloc(a, (api->conditions.n + 1) * sizeof(*out->conditions.items));
    out->conditions.n = 0;
    for (size_t i = 0; i < api->conditions.n; i++)
        if (!status_condition_owned(api->conditions.items[i].type))
            out->conditions.items[out->conditions.n++] = api->conditions.items[i];
    status_set_condition(a, out, prev, "PodReadyToStartContainers", in->network_ready, NULL, NULL, gen, in->now);
    struct readiness r = initialized(a, p, out, prev);
    status_set_condition(a, out, prev, "Initialized", r.ok, r.reason, r.message, gen, in->now);
    struct readiness c = containers_ready(a, p, out);
    r = pod_ready(a, p, out, c);
    status_set_condition(a, out, prev, "Ready", r.ok, r.reason, r.message, gen, in->now);
    status_set_condition(a, out, prev, "ContainersReady", c.ok, c.reason, c.message, gen, in->now);
    status_set_condition(a, out, prev, "PodScheduled", true, NULL, NULL, gen, in->now);
    if (pod_may_restart_all(p))
        status_set_condition(a, out, prev, "AllContainersRestarting", in->restarting_all,
                             in->restarting_all ? "RestartAllContainersStarted" : NULL,
                             in->restarting_all ? "container exited with restart policy rule" : NULL, gen, in->now);
    if (in->resize_reason)
        status_set_condition(a, out, prev, "PodResizePending", true, in->resize_reason, in->resize_message, gen,
                             in->now);
    if (resizing(in))
        status_set_condition(a, out, prev, "PodResizeInProgress", true, in->resize_error ? "Error" : NULL,
                             in->resize_error, gen, in->now);
    if (disrupted(in->forced_reason))
        status_set_condition(a, out, prev, "DisruptionTarget", true, "TerminationByKubelet", in->forced_message, gen,
                             in->now);
}

/* ---- the whole ---- */

static void addresses(struct arena *a, const struct status_input *in, const struct core_pod_status *prev,
                      struct core_pod_status *out) {
    const struct core_pod *p = in->pod;
    if (in->n_host_ips) {
        out->host_ip = in->host_ips[0];
        out->host_ips.items = arena_zalloc(a, in->n_host_ips * sizeof(*out->host_ips.items));
        for (size_t i = 0; i < in->n_host_ips; i++) out->host_ips.items[out->host_ips.n++].ip = in->host_ips[i];
    }
    const char *const *ips = NULL;
    size_t n = 0;
    if (p->spec.host_network && in->rt->n_sandboxes) {
        ips = in->host_ips;
        n = in->n_host_ips;
    } else if (in->rt->n_sandboxes) {
        ips = (const char *const *)in->rt->sandboxes[0].ips;
        n = in->rt->sandboxes[0].n_ips;
    }
    if (!n) { /* a stopped sandbox has lost its address; the pod keeps showing it */
        out->pod_ip = prev->pod_ip;
        out->pod_ips = prev->pod_ips;
        return;
    }
    out->pod_ip = ips[0];
    out->pod_ips.items = arena_zalloc(a, n * sizeof(*out->pod_ips.items));
    for (size_t i = 0; i < n; i++) out->pod_ips.items[out->pod_ips.n++].ip = ips[i];
}

/* The sums of what the pod's containers are allocated, or what the pod itself asks for. */
static struct str_map sums(struct arena *a, const struct core_pod *p, bool limit) {
    static const char *const names[] = {"cpu", "ephemeral-storage", "memory"};
    struct str_map m = {.items = arena_alloc(a, ARRAY_LEN(names) * sizeof(*m.items))};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        bool all;
        struct quantity q = pod_resource(p, names[i], limit, &all);
        if (q.nano <= 0 || (limit && !all)) continue;
        m.items[m.n++] = (struct str_map_entry){names[i], quantity_format(a, q)};
    }
    return m;
}

static void pod_resources(struct arena *a, const struct status_input *in, const struct core_pod_status *prev,
                          struct core_pod_status *out) {
    const struct core_pod *p = in->pod;
    out->allocated_resources = sums(a, p, false);
    out->resources = prev->resources;
    if (in->pod_resizing && prev->resources) return; /* in force are still the old amounts */
    out->resources = arena_zalloc(a, sizeof(*out->resources));
    out->resources->requests = out->allocated_resources;
    out->resources->limits = sums(a, p, true);
}

void status_compute(struct arena *a, const struct status_input *in, struct core_pod_status *out) {
    const struct core_pod *p = in->pod;
    const struct core_pod_status *prev = in->prev ? in->prev : &p->status;
    *out = (struct core_pod_status){0};
    out->observed_generation = p->metadata.generation;
    out->qos_class = str_empty(p->status.qos_class) ? pod_qos_class(p) : p->status.qos_class;
    out->start_time = prev->start_time.set ? prev->start_time : in->now;
    out->nominated_node_name = p->status.nominated_node_name;
    /* A pod that was refused has nothing to show of containers that were never looked at. */
    bool refused = in->forced_phase && !in->rt->n_containers && !in->rt->n_sandboxes && !prev->container_statuses.n;
    if (!refused)
        containers(a, in, &p->spec.init_containers, true, &prev->init_container_statuses,
                   &out->init_container_statuses);
    if (!refused) containers(a, in, &p->spec.containers, false, &prev->container_statuses, &out->container_statuses);
    if (!refused) ephemeral(a, in, prev, out);
    if (in->forced_phase) {
        out->phase = in->forced_phase;
        out->reason = in->forced_reason;
        out->message = in->forced_message;
    } else if (phase_terminal(prev->phase)) {
        out->phase = prev->phase; /* never leaves a final phase */
        out->reason = prev->reason;
        out->message = prev->message;
    } else {
        out->phase = status_phase(p, out, in->all_stopped);
        /* those that are being stopped for a new start have not finished */
        if (in->restarting_all && phase_terminal(out->phase)) out->phase = "Running";
    }
    addresses(a, in, prev, out);
    conditions(a, in, prev, out);
    if (!refused) pod_resources(a, in, prev, out);
}
