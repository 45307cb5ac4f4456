/* ReplicaSet controller: keeps the wished number of pods of a template (upstream pkg/controller/replicaset).
 * The older ReplicationController differs in its names only: it is read as a ReplicaSet, and its status
 * written back.
 *
 * The pods counted are those it controls and that are active. Too few: more are made, in growing batches so
 * that a failing template costs few requests. Too many: the least valuable go first (pods_rank). Expectations
 * keep it from acting on a cache that does not show its last actions yet. */
#include "replicaset.h"

#include "pkg/api/apps.h"
#include "util.h"

enum { BURST = 500, WORKERS = 5 };

struct rs_controller {
    struct manager *m;
    const struct client_resource *resource; /* replicasets or replicationcontrollers */
    struct workqueue *q;
    struct expectations *expect;
    struct event_recorder *events;
};

/* ---- replication controllers ---- */

static const struct apps_replica_set *as_replica_set(struct arena *a, const struct object *o) {
    if (o->resource == &client_replicasets) return o->obj;
    const struct core_replication_controller *rc = o->obj;
    struct apps_replica_set *rs = arena_zalloc(a, sizeof(*rs));
    rs->metadata = rc->metadata;
    rs->spec.replicas = rc->spec.replicas;
    rs->spec.min_ready_seconds = rc->spec.min_ready_seconds;
    rs->spec.selector = arena_zalloc(a, sizeof(*rs->spec.selector));
    rs->spec.selector->match_labels = rc->spec.selector;
    if (rc->spec.template) rs->spec.template = *rc->spec.template;
    const struct core_replication_controller_status *s = &rc->status;
    rs->status = (struct apps_replica_set_status){.replicas = s->replicas,
                                                  .fully_labeled_replicas = s->fully_labeled_replicas,
                                                  .ready_replicas = s->ready_replicas,
                                                  .available_replicas = s->available_replicas,
                                                  .observed_generation = s->observed_generation};
    rs->status.conditions.items = arena_zalloc(a, (s->conditions.n + 1) * sizeof(*rs->status.conditions.items));
    for (size_t i = 0; i < s->conditions.n; i++) {
        const struct core_replication_controller_condition *c = &s->conditions.items[i];
        rs->status.conditions.items[rs->status.conditions.n++] =
            (struct apps_replica_set_condition){.type = c->type,
                                                .status = c->status,
                                                .last_transition_time = c->last_transition_time,
                                                .reason = c->reason,
                                                .message = c->message};
    }
    return rs;
}

static int write_rc_status(struct rs_controller *c, struct arena *a, const struct object *o,
                           const struct apps_replica_set_status *s, const struct client_opts *opts, struct err *e) {
    struct core_replication_controller rc = *(const struct core_replication_controller *)o->obj;
    rc.status = (struct core_replication_controller_status){.replicas = s->replicas,
                                                            .fully_labeled_replicas = s->fully_labeled_replicas,
                                                            .ready_replicas = s->ready_replicas,
                                                            .available_replicas = s->available_replicas,
                                                            .observed_generation = s->observed_generation};
    rc.status.conditions.items = arena_zalloc(a, (s->conditions.n + 1) * sizeof(*rc.status.conditions.items));
    for (size_t i = 0; i < s->conditions.n; i++) {
        const struct apps_replica_set_condition *x = &s->conditions.items[i];
        rc.status.conditions.items[rc.status.conditions.n++] =
            (struct core_replication_controller_condition){.type = x->type,
                                                           .status = x->status,
                                                           .last_transition_time = x->last_transition_time,
                                                           .reason = x->reason,
                                                           .message = x->message};
    }
    return client_update_status(c->m->client, a, c->resource, rc.metadata.namespace, &rc, opts, NULL, e);
}

/* ---- ranking of pods to delete ---- */

static int phase_rank(const struct core_pod *p) {
    if (str_eq(p->status.phase, "Running")) return 2;
    return str_eq(p->status.phase, "Unknown") ? 1 : 0;
}

static int32_t max_restarts(const struct core_pod *p) {
    int32_t most = 0;
    for (size_t i = 0; i < p->status.container_statuses.n; i++)
        most = MAX_OF(most, p->status.container_statuses.items[i].restart_count);
    return most;
}

static int64_t deletion_cost(const struct core_pod *p) {
    int64_t cost = 0;
    const char *s = str_map_get(&p->metadata.annotations, "controller.kubernetes.io/pod-deletion-cost");
    return s && str_to_i64(s, &cost) == 0 ? cost : 0;
}

/* How long ago, in powers of two: pods of about the same age count as equal. */
static int age_bucket(struct ktime t, struct ktime now) {
    if (!t.set) return 0;
    int64_t s = ktime_diff_ns(now, t) / NS_PER_SEC;
    return s <= 0 ? 0 : 64 - __builtin_clzll((unsigned long long)s);
}

struct ranked {
    struct object *o;
    const struct core_pod *p;
    size_t neighbours; /* active pods of related sets on its node */
    struct ktime now, ready_since;
};

/* Negative: x goes before y. */
static int rank_cmp(const void *vx, const void *vy) {
    const struct ranked *x = vx, *y = vy;
    bool ax = !str_empty(x->p->spec.node_name), ay = !str_empty(y->p->spec.node_name);
    if (ax != ay) return ax - ay;
    int d = phase_rank(x->p) - phase_rank(y->p);
    if (d) return d;
    bool rx = pod_is_ready(x->p), ry = pod_is_ready(y->p);
    if (rx != ry) return rx - ry;
    int64_t cx = deletion_cost(x->p), cy = deletion_cost(y->p);
    if (cx != cy) return cx < cy ? -1 : 1;
    if (x->neighbours != y->neighbours) return x->neighbours > y->neighbours ? -1 : 1;
    if (rx && ry) {
        d = age_bucket(x->ready_since, x->now) - age_bucket(y->ready_since, y->now);
        if (d) return d;
    }
    int32_t sx = max_restarts(x->p), sy = max_restarts(y->p);
    if (sx != sy) return sx > sy ? -1 : 1;
    d = age_bucket(x->p->metadata.creation_timestamp, x->now) - age_bucket(y->p->metadata.creation_timestamp, y->now);
    if (d) return d;
    return strcmp(str_or_empty(x->p->metadata.uid), str_or_empty(y->p->metadata.uid));
}

void pods_rank(struct arena *a, struct object **pods, size_t n, struct object **related, size_t n_related,
               struct ktime now) {
    struct ranked *r = arena_zalloc(a, (n + 1) * sizeof(*r));
    for (size_t i = 0; i < n; i++) {
        r[i] = (struct ranked){.o = pods[i], .p = pods[i]->obj, .now = now};
        const struct core_pod_condition *c = pod_condition(r[i].p, "Ready");
        if (c) r[i].ready_since = c->last_transition_time;
        for (size_t k = 0; k < n_related; k++) {
            const struct core_pod *other = related[k]->obj;
            if (pod_is_active(other) && !str_empty(other->spec.node_name) &&
                str_eq(other->spec.node_name, r[i].p->spec.node_name))
                r[i].neighbours++;
        }
    }
    qsort(r, n, sizeof(*r), rank_cmp);
    for (size_t i = 0; i < n; i++) pods[i] = r[i].o;
}

/* Pods of the sets that share this one's controlling owner: of a Deployment's other ReplicaSets. */
static void related_pods(struct rs_controller *c, const struct apps_replica_set *rs, struct object_list *out) {
    const struct meta_owner_reference *top = meta_controller_of(&rs->metadata);
    struct informer *pods = manager_informer(c->m, &client_pods);
    int by_owner = informer_add_index(pods, index_by_controller_uid);
    if (!top) {
        informer_by_index(pods, by_owner, rs->metadata.uid, out);
        return;
    }
    struct informer *sets = manager_informer(c->m, &client_replicasets);
    _cleanup_object_list_ struct object_list siblings = {0};
    informer_by_index(sets, informer_add_index(sets, index_by_controller_uid), top->uid, &siblings);
    for (size_t i = 0; i < siblings.n; i++) informer_by_index(pods, by_owner, siblings.items[i]->meta->uid, out);
}

/* ---- scaling ---- */

struct deletion {
    struct expectations *expect;
    const char *key;
};

static void deletion_failed(void *arg, const struct object *pod) {
    struct deletion *d = arg;
    deletion_observed(d->expect, d->key, pod->meta->uid);
}

static int scale_down(struct rs_controller *c, struct arena *a, const char *key, const struct apps_replica_set *rs,
                      const struct pod_control *pc, struct object **active, size_t n, size_t excess, struct err *e) {
    excess = MIN_OF(excess, (size_t)BURST);
    if (excess < n) {
        _cleanup_object_list_ struct object_list related = {0};
        related_pods(c, rs, &related);
        pods_rank(a, active, n, related.items, related.n, ktime_now());
    }
    for (size_t i = 0; i < excess; i++) expect_deletion(c->expect, key, active[i]->meta->uid);
    struct deletion d = {c->expect, key};
    _cleanup_err_ struct err de = {0};
    if (pod_control_delete_many(pc, a, active, excess, deletion_failed, &d, &de) == 0) return 0;
    int code = de.code;
    err_move(e, &de);
    return code;
}

static int scale_up(struct rs_controller *c, struct arena *a, const char *key, const struct apps_replica_set *rs,
                    const struct pod_control *pc, size_t missing, struct err *e) {
    missing = MIN_OF(missing, (size_t)BURST);
    struct core_pod pod;
    pod_from_template(a, &rs->spec.template, &pc->owner, &pod);
    expect_creations(c->expect, key, (int)missing);
    _cleanup_err_ struct err ce = {0};
    size_t made = pod_control_create_many(pc, a, &pod, missing, &ce);
    for (size_t i = made; i < missing; i++) creation_observed(c->expect, key);
    if (made == missing || client_err_namespace_terminating(&ce)) return 0;
    int code = ce.code;
    err_move(e, &ce);
    return code;
}

/* ---- status ---- */

static void set_failure(struct arena *a, struct apps_replica_set_status *s, const char *reason, const char *message) {
    struct apps_replica_set_condition_vec out = {.items = arena_alloc(a, (s->conditions.n + 1) * sizeof(*out.items))};
    struct apps_replica_set_condition was = {0};
    for (size_t i = 0; i < s->conditions.n; i++) {
        if (str_eq(s->conditions.items[i].type, "ReplicaFailure"))
            was = s->conditions.items[i];
        else
            out.items[out.n++] = s->conditions.items[i];
    }
    if (reason) {
        bool same = str_eq(was.reason, reason);
        out.items[out.n++] = same ? was
                                  : (struct apps_replica_set_condition){.type = "ReplicaFailure",
                                                                        .status = "True",
                                                                        .reason = reason,
                                                                        .message = message,
                                                                        .last_transition_time = ktime_now_s()};
    }
    s->conditions = out;
}

struct counts {
    int32_t replicas, labeled, ready, available, terminating;
};

static struct counts count(const struct apps_replica_set *rs, const struct claimed *pods, int64_t *wait) {
    struct counts n = {0};
    struct ktime now = ktime_now();
    for (size_t i = 0; i < pods->n; i++) {
        const struct core_pod *p = pods->items[i]->obj;
        if (p->metadata.deletion_timestamp.set && !pod_is_terminal(p)) n.terminating++;
        if (!pod_is_active(p)) continue;
        n.replicas++;
        if (label_map_matches(&rs->spec.template.metadata.labels, &p->metadata.labels)) n.labeled++;
        if (pod_is_ready(p)) n.ready++;
        if (pod_is_available(p, rs->spec.min_ready_seconds, now, wait)) n.available++;
    }
    return n;
}

static int update_status(struct rs_controller *c, struct arena *a, const struct object *o, struct counts n, int scaled,
                         int32_t diff, const struct err *why, struct err *e) {
    const struct apps_replica_set *rs = as_replica_set(a, o);
    struct apps_replica_set fresh = *rs;
    struct apps_replica_set_status *s = &fresh.status;
    s->replicas = n.replicas;
    s->fully_labeled_replicas = n.labeled;
    s->ready_replicas = n.ready;
    s->available_replicas = n.available;
    if (c->resource == &client_replicasets)
        s->terminating_replicas = arena_memdup(a, &n.terminating, sizeof(n.terminating));
    s->observed_generation = rs->metadata.generation;
    if (scaled < 0)
        set_failure(a, s, diff < 0 ? "FailedCreate" : "FailedDelete", arena_strdup(a, why->msg));
    else
        set_failure(a, s, NULL, NULL);
    if (api_equal(&api_apps_replica_set_status, s, &rs->status)) return 0;
    struct client_opts opts = {.cause = rs->metadata.resource_version};
    if (c->resource != &client_replicasets) return write_rc_status(c, a, o, s, &opts, e);
    return client_update_status(c->m->client, a, &client_replicasets, rs->metadata.namespace, &fresh, &opts, NULL, e);
}

/* ---- reconcile ---- */

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct rs_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, c->resource), key);
    if (!o) {
        expectations_forget(c->expect, key);
        return 0;
    }
    const struct apps_replica_set *rs = as_replica_set(a, o);
    bool act = expectations_met(c->expect, key) && !rs->metadata.deletion_timestamp.set;
    struct owner owner = {c->resource, &rs->metadata};
    _cleanup_claimed_ struct claimed pods = {0};
    int r = claim_objects(c->m, a, &client_pods, &owner, rs->spec.selector, &pods, e);
    if (r < 0) return r;
    struct object **active = arena_alloc(a, (pods.n + 1) * sizeof(*active));
    size_t n = 0;
    for (size_t i = 0; i < pods.n; i++)
        if (pod_is_active(pods.items[i]->obj)) active[n++] = pods.items[i];
    int32_t wished = rs->spec.replicas ? *rs->spec.replicas : 1, diff = (int32_t)n - wished;
    struct pod_control pc = {c->m, c->events, owner, rs->metadata.resource_version};
    _cleanup_err_ struct err why = {0};
    int scaled = 0;
    int64_t wait = INT64_MAX;
    struct counts counted = count(rs, &pods, &wait);
    if (act && diff < 0) scaled = scale_up(c, a, key, rs, &pc, (size_t)-diff, &why);
    if (act && diff > 0) scaled = scale_down(c, a, key, rs, &pc, active, n, (size_t)diff, &why);
    r = update_status(c, a, o, counted, scaled, diff, &why, e);
    if (wait != INT64_MAX) workqueue_add_after(c->q, key, wait + 10 * NS_PER_MS);
    if (scaled < 0) {
        err_move(e, &why);
        return scaled;
    }
    return r;
}

/* ---- what leads to a reconcile ---- */

static char *owner_key(struct rs_controller *c, const struct object *pod) {
    const struct meta_owner_reference *ref = meta_controller_of(pod->meta);
    if (!ref || !str_eq(ref->kind, c->resource->kind)) return NULL;
    return xasprintf("%s/%s", str_or_empty(pod->meta->namespace), ref->name);
}

/* An orphan may interest every set of its namespace that selects it. */
static void wake_for_orphan(struct rs_controller *c, const struct object *pod) {
    if (meta_controller_of(pod->meta) || pod->meta->deletion_timestamp.set) return;
    _cleanup_object_list_ struct object_list sets = {0};
    informer_list(manager_informer(c->m, c->resource), pod->meta->namespace, &sets);
    if (!sets.n) return;
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < sets.n; i++) {
        const struct apps_replica_set *rs = as_replica_set(a, sets.items[i]);
        if (label_selector_matches(rs->spec.selector, &pod->meta->labels)) workqueue_add(c->q, sets.items[i]->key);
    }
}

static void pod_added(void *arg, struct object *o) {
    struct rs_controller *c = arg;
    _cleanup_free_ char *key = owner_key(c, o);
    if (key) {
        creation_observed(c->expect, key);
        if (o->meta->deletion_timestamp.set) deletion_observed(c->expect, key, o->meta->uid);
        workqueue_add(c->q, key);
    } else {
        wake_for_orphan(c, o);
    }
}

/* A pod that is given a node, or a container that starts, changes nothing here. */
static bool matters(const struct core_pod *a, const struct core_pod *b) {
    return pod_is_ready(a) != pod_is_ready(b) || pod_is_terminal(a) != pod_is_terminal(b) ||
           a->metadata.deletion_timestamp.set != b->metadata.deletion_timestamp.set ||
           a->metadata.labels.n != b->metadata.labels.n || !label_map_matches(&a->metadata.labels, &b->metadata.labels);
}

static void pod_updated(void *arg, struct object *old, struct object *o) {
    struct rs_controller *c = arg;
    _cleanup_free_ char *was = owner_key(c, old), *key = owner_key(c, o);
    if (str_eq(was, key) && !matters(old->obj, o->obj)) return;
    if (key && o->meta->deletion_timestamp.set) deletion_observed(c->expect, key, o->meta->uid);
    if (was && !str_eq(was, key)) workqueue_add(c->q, was);
    if (key)
        workqueue_add(c->q, key);
    else
        wake_for_orphan(c, o);
}

static void pod_deleted(void *arg, struct object *o) {
    struct rs_controller *c = arg;
    _cleanup_free_ char *key = owner_key(c, o);
    if (!key) return;
    deletion_observed(c->expect, key, o->meta->uid);
    workqueue_add(c->q, key);
}

static int start(struct manager *m, const struct client_resource *r, const char *queue, const char *component) {
    struct rs_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->resource = r;
    c->events = manager_recorder(m, component);
    c->expect = expectations_new(m);
    c->q = manager_queue(m, queue, WORKERS, reconcile, c, r, &client_pods, NULL);
    manager_watch_keys(m, r, c->q);
    struct informer_handler h = {pod_added, pod_updated, pod_deleted, c};
    informer_add_handler(manager_informer(m, &client_pods), &h);
    return 0;
}

int replicaset_start(struct manager *m, struct err *e) {
    return start(m, &client_replicasets, "replicaset", "replicaset-controller");
}

int replicationcontroller_start(struct manager *m, struct err *e) {
    return start(m, &client_replicationcontrollers, "replicationcontroller", "replication-controller");
}
