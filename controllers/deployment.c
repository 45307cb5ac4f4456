/* Deployment controller: moves pods from old ReplicaSets to the one of the current template (upstream
 * pkg/controller/deployment).
 *
 * A reconcile looks at the deployment and its sets, takes at most one step (scale, make the new set, grow it
 * or shrink old ones), and writes the status that follows. The next event, from the sets it changed, leads to
 * the next step; so the rollout's state is nowhere but in the objects. */
#include "deployment_internal.h"

enum { WORKERS = 5 };

int64_t rollout_annotation(const struct meta_object_meta *m, const char *key) {
    int64_t v = 0;
    const char *s = str_map_get(&m->annotations, key);
    return s && str_to_i64(s, &v) == 0 ? v : 0;
}
/* ---- conditions ---- */

struct apps_deployment_condition *rollout_condition(struct rollout *r, const char *type) {
    for (size_t i = 0; i < r->d.status.conditions.n; i++)
        if (str_eq(r->d.status.conditions.items[i].type, type)) return &r->d.status.conditions.items[i];
    return NULL;
}

static void drop_condition(struct rollout *r, const char *type) {
    struct apps_deployment_condition_vec *v = &r->d.status.conditions;
    size_t n = 0;
    for (size_t i = 0; i < v->n; i++)
        if (!str_eq(v->items[i].type, type)) v->items[n++] = v->items[i];
    v->n = n;
}

/* `renew` writes lastUpdateTime even when status and reason are as they were: progress was made. */
void rollout_set_condition(struct rollout *r, const char *type, const char *status, const char *reason,
                           const char *message, bool renew) {
    struct apps_deployment_condition *was = rollout_condition(r, type);
    if (was && str_eq(was->status, status) && str_eq(was->reason, reason) && !renew) return;
    struct ktime now = ktime_now_s();
    struct apps_deployment_condition fresh = {.type = type,
                                              .status = status,
                                              .reason = reason,
                                              .message = message,
                                              .last_update_time = now,
                                              .last_transition_time = now};
    if (was && str_eq(was->status, status)) fresh.last_transition_time = was->last_transition_time;
    drop_condition(r, type);
    struct apps_deployment_condition_vec *v = &r->d.status.conditions;
    v->items[v->n++] = fresh; /* there is room for it: see reconcile */
}

/* ---- steps ---- */

static struct rollout_set as_set(const struct apps_replica_set *rs) {
    return (struct rollout_set){.size = rollout_set_size(rs),
                                .available = rs->status.available_replicas,
                                .max_replicas = (int32_t)rollout_annotation(&rs->metadata, MAX_REPLICAS),
                                .created = rs->metadata.creation_timestamp.sec};
}

static int apply_sizes(struct rollout *r, const struct rollout_set *old, bool *scaled, struct err *e) {
    for (size_t i = 0; i < r->n_old; i++) {
        if (old[i].size == rollout_set_size(r->old[i])) continue;
        int rc = rollout_resize(r, r->old[i], old[i].size, scaled, e);
        if (rc < 0) return rc;
    }
    return 0;
}

static struct rollout_set *old_sets(struct rollout *r) {
    struct rollout_set *s = arena_zalloc(r->a, (r->n_old + 1) * sizeof(*s));
    for (size_t i = 0; i < r->n_old; i++) s[i] = as_set(r->old[i]);
    return s;
}

static int scale_all_to_zero(struct rollout *r, bool *scaled, struct err *e) {
    struct rollout_set *s = old_sets(r);
    for (size_t i = 0; i < r->n_old; i++) s[i].size = 0;
    return apply_sizes(r, s, scaled, e);
}

/* The deployment's size changed in the middle of a rollout, or it is paused: keep the proportions. */
static int scale(struct rollout *r, struct err *e) {
    struct apps_replica_set *active = NULL;
    size_t n_active = 0;
    for (size_t i = 0; i <= r->n_old; i++) {
        struct apps_replica_set *rs = i < r->n_old ? r->old[i] : r->current;
        if (!rs || rollout_set_size(rs) == 0) continue;
        active = rs;
        n_active++;
    }
    if (n_active == 0) active = r->current ? r->current : r->n_old ? r->old[r->n_old - 1] : NULL;
    if (!active) return 0;
    if (n_active <= 1) return rollout_resize(r, active, rollout_wished(r), NULL, e);
    bool saturated = r->current && rollout_set_size(r->current) == rollout_wished(r) &&
                     rollout_annotation(&r->current->metadata, DESIRED) == rollout_wished(r) &&
                     r->current->status.available_replicas == rollout_wished(r);
    if (saturated) return scale_all_to_zero(r, NULL, e);
    if (str_eq(r->d.spec.strategy.type, "Recreate")) return 0;
    struct rollout_set *s = old_sets(r), **list = arena_alloc(r->a, (r->n_old + 1) * sizeof(*list));
    size_t n = 0;
    if (r->current) s[r->n_old] = as_set(r->current);
    for (size_t i = 0; i <= r->n_old; i++)
        if (s[i].size > 0) list[n++] = &s[i];
    rollout_scale_proportionally(&r->d, list, n);
    for (size_t i = 0; i <= r->n_old; i++) {
        struct apps_replica_set *rs = i < r->n_old ? r->old[i] : r->current;
        int rc = rs && rollout_set_size(rs) > 0 ? rollout_resize(r, rs, s[i].size, NULL, e) : 0;
        if (rc < 0) return rc;
    }
    return 0;
}

static bool size_changed(const struct rollout *r) {
    for (size_t i = 0; i <= r->n_old; i++) {
        const struct apps_replica_set *rs = i < r->n_old ? r->old[i] : r->current;
        if (!rs || rollout_set_size(rs) == 0 || !str_map_get(&rs->metadata.annotations, DESIRED)) continue;
        if (rollout_annotation(&rs->metadata, DESIRED) != rollout_wished(r)) return true;
    }
    return false;
}

static int by_revision(const void *x, const void *y) {
    const struct apps_replica_set *a = *(struct apps_replica_set *const *)x, *b = *(struct apps_replica_set *const *)y;
    int64_t ra = rollout_annotation(&a->metadata, REVISION), rb = rollout_annotation(&b->metadata, REVISION);
    return ra < rb ? -1 : ra > rb;
}

/* Deletes the oldest empty sets beyond revisionHistoryLimit. */
static int clean_up(struct rollout *r, struct err *e) {
    int32_t *limit = r->d.spec.revision_history_limit;
    if (!limit || *limit == INT32_MAX) return 0;
    struct apps_replica_set **live = arena_alloc(r->a, (r->n_old + 1) * sizeof(*live));
    size_t n = 0;
    for (size_t i = 0; i < r->n_old; i++)
        if (!r->old[i]->metadata.deletion_timestamp.set) live[n++] = r->old[i];
    if (n <= (size_t)MAX_OF(*limit, 0)) return 0;
    size_t excess = n - (size_t)MAX_OF(*limit, 0);
    qsort(live, n, sizeof(*live), by_revision);
    for (size_t i = 0; i < excess; i++) {
        struct apps_replica_set *rs = live[i];
        if (rs->status.replicas || rollout_set_size(rs) || rs->metadata.generation > rs->status.observed_generation)
            continue;
        _cleanup_err_ struct err de = {0};
        struct client_delete_opts o = {.cause = r->was->metadata.resource_version, .uid = rs->metadata.uid};
        int rc =
            client_delete(r->c->m->client, &client_replicasets, rs->metadata.namespace, rs->metadata.name, &o, &de);
        if (rc < 0 && !client_err_not_found(&de)) {
            err_move(e, &de);
            return rc;
        }
    }
    return 0;
}

static bool complete(const struct rollout *r, const struct apps_deployment_status *s) {
    return s->updated_replicas == rollout_wished(r) && s->replicas == rollout_wished(r) &&
           s->available_replicas == rollout_wished(r) && s->observed_generation >= r->d.metadata.generation;
}

static int roll(struct rollout *r, struct err *e) {
    int rc = rollout_sync_revision(r, true, e);
    if (rc < 0) return rc;
    bool scaled = false;
    int32_t size = rollout_set_size(r->current);
    if (size > rollout_wished(r))
        rc = rollout_resize(r, r->current, rollout_wished(r), &scaled, e);
    else if (size < rollout_wished(r)) {
        int32_t grown = rollout_new_size(&r->d, size, rollout_sum_sizes(r));
        if (grown != size) rc = rollout_resize(r, r->current, grown, &scaled, e);
    }
    if (rc < 0 || scaled) return rc;
    struct rollout_set *old = old_sets(r), now = as_set(r->current);
    if (rollout_shrink_old(&r->d, old, r->n_old, &now)) rc = apply_sizes(r, old, &scaled, e);
    if (rc < 0 || scaled) return rc;
    return complete(r, &r->d.status) ? clean_up(r, e) : 0;
}

/* Pods of old sets that still exist and may still run. */
static bool old_pods_run(struct rollout *r) {
    struct informer *pods = manager_informer(r->c->m, &client_pods);
    int by_owner = informer_add_index(pods, index_by_controller_uid);
    for (size_t i = 0; i < r->n_old; i++) {
        if (r->old[i]->status.replicas > 0) return true;
        _cleanup_object_list_ struct object_list list = {0};
        informer_by_index(pods, by_owner, r->old[i]->metadata.uid, &list);
        for (size_t k = 0; k < list.n; k++)
            if (!pod_is_terminal(list.items[k]->obj)) return true;
    }
    return false;
}

static int recreate(struct rollout *r, struct err *e) {
    int rc = r->current ? rollout_sync_revision(r, false, e) : 0;
    bool scaled = false;
    if (rc == 0) rc = scale_all_to_zero(r, &scaled, e);
    if (rc < 0 || scaled || old_pods_run(r)) return rc;
    if (!r->current) rc = rollout_sync_revision(r, true, e);
    if (rc == 0 && rollout_set_size(r->current) != rollout_wished(r))
        rc = rollout_resize(r, r->current, rollout_wished(r), &scaled, e);
    if (rc < 0 || scaled) return rc;
    return complete(r, &r->d.status) ? clean_up(r, e) : 0;
}

/* ---- status ---- */

static void count(struct rollout *r, struct apps_deployment_status *s) {
    int32_t sizes = 0, terminating = 0;
    s->replicas = s->ready_replicas = s->available_replicas = s->updated_replicas = 0;
    for (size_t i = 0; i <= r->n_old; i++) {
        const struct apps_replica_set *rs = i < r->n_old ? r->old[i] : r->current;
        if (!rs) continue;
        sizes += rollout_set_size(rs);
        s->replicas += rs->status.replicas;
        s->ready_replicas += rs->status.ready_replicas;
        s->available_replicas += rs->status.available_replicas;
        if (rs->status.terminating_replicas) terminating += *rs->status.terminating_replicas;
    }
    if (r->current) s->updated_replicas = r->current->status.replicas;
    s->unavailable_replicas = MAX_OF(sizes - s->available_replicas, 0);
    s->terminating_replicas = arena_memdup(r->a, &terminating, sizeof(terminating));
    s->observed_generation = r->d.metadata.generation;
}

static const char *about_set(struct rollout *r, const char *what) {
    if (r->current) return arena_printf(r->a, "ReplicaSet \"%s\" %s", r->current->metadata.name, what);
    return arena_printf(r->a, "Deployment \"%s\" %s", r->d.metadata.name, what);
}

static bool progressed(const struct apps_deployment_status *was, const struct apps_deployment_status *s) {
    return s->updated_replicas > was->updated_replicas || s->ready_replicas > was->ready_replicas ||
           s->available_replicas > was->available_replicas ||
           s->replicas - s->updated_replicas < was->replicas - was->updated_replicas;
}

/* The Progressing condition, and when to look again for the deadline. */
static void judge_progress(struct rollout *r) {
    struct apps_deployment_status *s = &r->d.status;
    if (!rollout_has_deadline(r)) {
        drop_condition(r, "Progressing");
        return;
    }
    struct apps_deployment_condition *c = rollout_condition(r, "Progressing");
    if (c && s->replicas == s->updated_replicas && str_eq(c->reason, "NewReplicaSetAvailable")) return;
    int64_t deadline = *r->d.spec.progress_deadline_seconds * NS_PER_SEC;
    if (complete(r, s)) {
        rollout_set_condition(r, "Progressing", "True", "NewReplicaSetAvailable",
                              about_set(r, "has successfully progressed."), false);
    } else if (progressed(&r->was->status, s)) {
        rollout_set_condition(r, "Progressing", "True", "ReplicaSetUpdated", about_set(r, "is progressing."), true);
    } else if (c && !str_eq(c->reason, "ProgressDeadlineExceeded")) {
        if (str_eq(c->reason, "NewReplicaSetAvailable")) return;
        int64_t left = deadline - ktime_diff_ns(ktime_now(), c->last_update_time);
        if (left > 0) {
            r->wait = left + NS_PER_SEC;
            return;
        }
        rollout_set_condition(r, "Progressing", "False", "ProgressDeadlineExceeded",
                              about_set(r, "has timed out progressing."), false);
        return;
    }
    if (!complete(r, s)) r->wait = deadline + NS_PER_SEC;
}

/* A set's ReplicaFailure condition shows on the deployment; the current set's wins. */
static void copy_failure(struct rollout *r) {
    const struct apps_replica_set_condition *found = NULL;
    for (size_t i = 0; i <= r->n_old; i++) {
        const struct apps_replica_set *rs = i < r->n_old ? r->old[i] : r->current;
        for (size_t k = 0; rs && k < rs->status.conditions.n; k++)
            if (str_eq(rs->status.conditions.items[k].type, "ReplicaFailure")) found = &rs->status.conditions.items[k];
    }
    if (found)
        rollout_set_condition(r, "ReplicaFailure", found->status, found->reason, found->message, false);
    else
        drop_condition(r, "ReplicaFailure");
}

static int write_status(struct rollout *r, bool judge, struct err *e) {
    count(r, &r->d.status);
    bool enough = r->d.status.available_replicas >= rollout_wished(r) - deployment_max_unavailable(&r->d);
    rollout_set_condition(
        r, "Available", enough ? "True" : "False", enough ? "MinimumReplicasAvailable" : "MinimumReplicasUnavailable",
        enough ? "Deployment has minimum availability." : "Deployment does not have minimum availability.", false);
    if (judge) {
        judge_progress(r);
        copy_failure(r);
    }
    if (!r->annotated && api_equal(&api_apps_deployment_status, &r->d.status, &r->was->status)) return 0;
    struct client_opts o = {.cause = r->was->metadata.resource_version};
    return client_update_status(r->c->m->client, r->a, &client_deployments, r->d.metadata.namespace, &r->d, &o, NULL,
                                e);
}

/* So that a pause is not counted as lack of progress. */
static void note_pause(struct rollout *r) {
    struct apps_deployment_condition *c = rollout_condition(r, "Progressing");
    if (!rollout_has_deadline(r) || (c && str_eq(c->reason, "ProgressDeadlineExceeded"))) return;
    bool noted = c && str_eq(c->reason, "DeploymentPaused");
    if (r->d.spec.paused && !noted)
        rollout_set_condition(r, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", false);
    if (!r->d.spec.paused && noted)
        rollout_set_condition(r, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", false);
}

/* ---- reconcile ---- */

static int by_age(const void *x, const void *y) {
    const struct apps_replica_set *a = *(struct apps_replica_set *const *)x, *b = *(struct apps_replica_set *const *)y;
    int d = ktime_cmp(a->metadata.creation_timestamp, b->metadata.creation_timestamp);
    return d ? d : strcmp(a->metadata.name, b->metadata.name);
}

static void sort_out_sets(struct rollout *r, const struct claimed *sets) {
    r->old = arena_alloc(r->a, (sets->n + 1) * sizeof(*r->old));
    for (size_t i = 0; i < sets->n; i++) r->old[i] = arena_memdup(r->a, sets->items[i]->obj, sizeof(**r->old));
    qsort(r->old, sets->n, sizeof(*r->old), by_age);
    for (size_t i = 0; i < sets->n; i++) {
        if (!r->current && rollout_same_template(r->a, &r->old[i]->spec.template, &r->d.spec.template))
            r->current = r->old[i];
        else
            r->old[r->n_old++] = r->old[i];
    }
}

static int step(struct rollout *r, struct err *e) {
    if (r->d.spec.paused || size_changed(r)) {
        int rc = r->current ? rollout_sync_revision(r, false, e) : 0;
        if (rc == 0) rc = scale(r, e);
        if (rc == 0 && r->d.spec.paused) rc = clean_up(r, e);
        return rc;
    }
    return str_eq(r->d.spec.strategy.type, "Recreate") ? recreate(r, e) : roll(r, e);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct dep_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_deployments), key);
    if (!o) return 0;
    struct rollout r = {.c = c, .a = a, .key = key, .was = o->obj};
    r.d = *r.was;
    struct apps_deployment_condition_vec *v = &r.d.status.conditions; /* own copy with room for one of each type more */
    v->items = arena_alloc(a, (v->n + 4) * sizeof(*v->items));
    if (v->n) memcpy(v->items, r.was->status.conditions.items, v->n * sizeof(*v->items));
    if (!r.d.spec.selector || label_selector_empty(r.d.spec.selector)) {
        event_record_obj(c->events, &client_deployments, &r.d.metadata, "Warning", "SelectingAll",
                         "This deployment is selecting all pods. A non-empty selector is required.");
        return 0;
    }
    struct owner owner = {&client_deployments, &r.was->metadata};
    _cleanup_claimed_ struct claimed sets = {0};
    int rc = claim_objects(c->m, a, &client_replicasets, &owner, r.d.spec.selector, &sets, e);
    if (rc < 0) return rc;
    sort_out_sets(&r, &sets);
    if (r.was->metadata.deletion_timestamp.set) return write_status(&r, false, e);
    note_pause(&r);
    bool moving = !r.d.spec.paused && !size_changed(&r);
    rc = step(&r, e);
    _cleanup_err_ struct err se = {0};
    int src = write_status(&r, moving, &se);
    if (r.wait) workqueue_add_after(c->q, key, r.wait);
    if (rc == 0 && src < 0) {
        err_move(e, &se);
        rc = src;
    }
    return rc;
}

static const struct meta_label_selector *selector_of(const struct object *o) {
    return ((const struct apps_deployment *)o->obj)->spec.selector;
}

static void set_changed(void *arg, const struct object *o) {
    struct dep_controller *c = arg;
    queue_add_controller_of(c->q, o, "Deployment");
    queue_add_adopters(c->q, c->m, &client_deployments, selector_of, o);
}

/* Only Recreate waits for pods to go. */
static void pod_deleted(void *arg, struct object *o) {
    struct dep_controller *c = arg;
    const struct meta_owner_reference *ref = meta_controller_of(o->meta);
    if (!ref || !str_eq(ref->kind, "ReplicaSet")) return;
    _cleanup_object_ struct object *rs =
        informer_get_ns(manager_informer(c->m, &client_replicasets), o->meta->namespace, ref->name);
    if (rs) queue_add_controller_of(c->q, rs, "Deployment");
}

int deployment_start(struct manager *m, struct err *e) {
    struct dep_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "deployment-controller");
    c->q = manager_queue(m, "deployment", WORKERS, reconcile, c, &client_deployments, &client_replicasets, &client_pods,
                         NULL);
    manager_watch_keys(m, &client_deployments, c->q);
    manager_watch(m, &client_replicasets, set_changed, c);
    struct informer_handler h = {.on_delete = pod_deleted, .arg = c};
    informer_add_handler(manager_informer(m, &client_pods), &h);
    return 0;
}
