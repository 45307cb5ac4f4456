/* The ReplicaSets of a Deployment: their sizes and annotations, the set of the current template, revisions.
 */
#include "deployment_internal.h"

enum { NAME_MAX_LEN = 253, HISTORY_CHARS = 2000 };

/* ---- writing sets ---- */

static int write_set(struct rollout *r, struct apps_replica_set *rs, struct err *e) {
    struct client_opts o = {.cause = r->was->metadata.resource_version};
    return client_update(r->c->m->client, r->a, &client_replicasets, rs->metadata.namespace, rs, &o, rs, e);
}

static bool set_size_annotations(struct rollout *r, struct apps_replica_set *rs) {
    const char *desired = arena_printf(r->a, "%d", rollout_wished(r));
    const char *max = arena_printf(r->a, "%d", rollout_wished(r) + deployment_max_surge(&r->d));
    struct str_map *m = &rs->metadata.annotations;
    bool same = str_eq(str_map_get(m, DESIRED), desired) && str_eq(str_map_get(m, MAX_REPLICAS), max);
    if (same) return false;
    map_set(r->a, m, DESIRED, desired);
    map_set(r->a, m, MAX_REPLICAS, max);
    return true;
}

/* Gives a set its size; *scaled (may be NULL) tells whether that changed it. */
int rollout_resize(struct rollout *r, struct apps_replica_set *rs, int32_t size, bool *scaled, struct err *e) {
    int32_t was = rollout_set_size(rs);
    bool noted = set_size_annotations(r, rs);
    if (was == size && !noted) return 0;
    rs->spec.replicas = arena_memdup(r->a, &size, sizeof(size));
    int rc = write_set(r, rs, e);
    if (rc < 0 || was == size) return rc;
    if (scaled) *scaled = true;
    event_record_obj(r->c->events, &client_deployments, &r->d.metadata, "Normal", "ScalingReplicaSet",
                     "Scaled %s replica set %s from %d to %d", was < size ? "up" : "down", rs->metadata.name, was,
                     size);
    return 0;
}

/* Annotations that belong to one object alone. */
static bool own_annotation(const char *key) {
    static const char *const keys[] = {"kubectl.kubernetes.io/last-applied-configuration",
                                       REVISION,
                                       REVISION_HISTORY,
                                       DESIRED,
                                       MAX_REPLICAS,
                                       "deprecated.deployment.rollback.to"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (strcmp(key, keys[i]) == 0) return true;
    return false;
}

static int64_t next_revision(const struct rollout *r) {
    int64_t most = 0;
    for (size_t i = 0; i < r->n_old; i++) most = MAX_OF(most, rollout_annotation(&r->old[i]->metadata, REVISION));
    return most + 1;
}

static void note_past_revision(struct rollout *r, struct str_map *m, const char *past) {
    const char *history = str_or_empty(str_map_get(m, REVISION_HISTORY));
    while (strlen(history) + strlen(past) + 1 > HISTORY_CHARS && strchr(history, ','))
        history = strchr(history, ',') + 1;
    map_set(r->a, m, REVISION_HISTORY, *history ? arena_printf(r->a, "%s,%s", history, past) : past);
}

/* Copies the deployment's annotations and raises the revision when an older set became current again. */
static bool annotate_current(struct rollout *r, struct apps_replica_set *rs) {
    struct str_map *m = &rs->metadata.annotations;
    bool changed = false;
    for (size_t i = 0; i < r->d.metadata.annotations.n; i++) {
        struct str_map_entry *x = &r->d.metadata.annotations.items[i];
        if (own_annotation(x->key) || str_eq(str_map_get(m, x->key), x->value)) continue;
        map_set(r->a, m, x->key, x->value);
        changed = true;
    }
    int64_t revision = next_revision(r);
    const char *past = str_map_get(m, REVISION);
    if (rollout_annotation(&rs->metadata, REVISION) < revision) {
        if (!str_empty(past)) note_past_revision(r, m, past);
        map_set(r->a, m, REVISION, arena_printf(r->a, "%lld", (long long)revision));
        changed = true;
    }
    return changed;
}

/* ---- the new set ---- */

int32_t rollout_sum_sizes(const struct rollout *r) {
    int32_t n = r->current ? rollout_set_size(r->current) : 0;
    for (size_t i = 0; i < r->n_old; i++) n += rollout_set_size(r->old[i]);
    return n;
}

static void build_set(struct rollout *r, struct apps_replica_set *rs) {
    struct arena *a = r->a;
    struct owner owner = {&client_deployments, &r->d.metadata};
    const char *hash = template_hash(a, &r->d.spec.template, r->d.status.collision_count);
    size_t room = NAME_MAX_LEN - 1 - strlen(hash);
    *rs = (struct apps_replica_set){0};
    rs->metadata.name = arena_printf(a, "%.*s-%s", (int)room, r->d.metadata.name, hash);
    rs->metadata.namespace = r->d.metadata.namespace;
    rs->metadata.owner_references.items = owner_ref_new(a, &owner, true);
    rs->metadata.owner_references.n = 1;
    rs->spec.template = r->d.spec.template;
    map_set(a, &rs->spec.template.metadata.labels, HASH_LABEL, hash);
    rs->metadata.labels = rs->spec.template.metadata.labels;
    rs->spec.selector = arena_memdup(a, r->d.spec.selector, sizeof(*r->d.spec.selector));
    map_set(a, &rs->spec.selector->match_labels, HASH_LABEL, hash);
    rs->spec.min_ready_seconds = r->d.spec.min_ready_seconds;
    int32_t size = rollout_new_size(&r->d, 0, rollout_sum_sizes(r));
    rs->spec.replicas = arena_memdup(a, &size, sizeof(size));
    annotate_current(r, rs);
    set_size_annotations(r, rs);
}

bool rollout_same_template(struct arena *a, const struct core_pod_template_spec *x,
                           const struct core_pod_template_spec *y) {
    struct core_pod_template_spec l = *x, o = *y;
    map_unset(a, &l.metadata.labels, HASH_LABEL);
    map_unset(a, &o.metadata.labels, HASH_LABEL);
    return api_equal(&api_core_pod_template_spec, &l, &o);
}

/* The name is taken: by our own set that the cache does not show yet, or by another with the same hash. */
static int name_taken(struct rollout *r, struct apps_replica_set *rs, struct err *e) {
    struct apps_replica_set *live = arena_zalloc(r->a, sizeof(*live));
    int rc = client_get(r->c->m->client, r->a, &client_replicasets, rs->metadata.namespace, rs->metadata.name, live, e);
    if (rc < 0) return rc;
    if (owned_by(&live->metadata, r->d.metadata.uid) &&
        rollout_same_template(r->a, &live->spec.template, &r->d.spec.template)) {
        r->current = live;
        return 0;
    }
    int32_t collisions = r->d.status.collision_count ? *r->d.status.collision_count + 1 : 1;
    r->d.status.collision_count = arena_memdup(r->a, &collisions, sizeof(collisions));
    struct client_opts o = {.cause = r->was->metadata.resource_version};
    client_update_status(r->c->m->client, r->a, &client_deployments, r->d.metadata.namespace, &r->d, &o, NULL, NULL);
    return err_set(e, -EEXIST, "hash collision with replica set %s", rs->metadata.name);
}

static int make_current(struct rollout *r, struct err *e) {
    struct apps_replica_set *rs = arena_alloc(r->a, sizeof(*rs));
    build_set(r, rs);
    int32_t size = *rs->spec.replicas;
    struct client_opts o = {.cause = r->was->metadata.resource_version};
    _cleanup_err_ struct err ce = {0};
    int rc = client_create(r->c->m->client, r->a, &client_replicasets, rs->metadata.namespace, rs, &o, rs, &ce);
    if (rc < 0 && client_err_exists(&ce)) return name_taken(r, rs, e);
    if (rc < 0) {
        if (!client_err_namespace_terminating(&ce)) {
            const char *msg =
                arena_printf(r->a, "Failed to create new replica set \"%s\": %s", rs->metadata.name, ce.msg);
            if (rollout_has_deadline(r))
                rollout_set_condition(r, "Progressing", "False", "ReplicaSetCreateError", msg, false);
            event_record_obj(r->c->events, &client_deployments, &r->d.metadata, "Warning", "ReplicaSetCreateError",
                             "%s", msg);
        }
        err_move(e, &ce);
        return rc;
    }
    r->current = rs;
    if (size > 0)
        event_record_obj(r->c->events, &client_deployments, &r->d.metadata, "Normal", "ScalingReplicaSet",
                         "Scaled up replica set %s from 0 to %d", rs->metadata.name, size);
    if (rollout_has_deadline(r))
        rollout_set_condition(r, "Progressing", "True", "NewReplicaSetCreated",
                              arena_printf(r->a, "Created new replica set \"%s\"", rs->metadata.name), false);
    return 0;
}

/* Brings the current set's annotations up to date, and the deployment's own revision. */
int rollout_sync_revision(struct rollout *r, bool make, struct err *e) {
    int rc = 0;
    if (!r->current) {
        if (!make) return 0;
        rc = make_current(r, e);
    } else {
        bool changed = annotate_current(r, r->current);
        if (r->current->spec.min_ready_seconds != r->d.spec.min_ready_seconds) changed = true;
        r->current->spec.min_ready_seconds = r->d.spec.min_ready_seconds;
        if (changed) rc = write_set(r, r->current, e);
        if (rc == 0 && rollout_has_deadline(r) && !rollout_condition(r, "Progressing"))
            rollout_set_condition(r, "Progressing", "True", "FoundNewReplicaSet",
                                  arena_printf(r->a, "Found new replica set \"%s\"", r->current->metadata.name), false);
    }
    if (rc < 0) return rc;
    const char *revision = str_map_get(&r->current->metadata.annotations, REVISION);
    if (str_empty(revision) || str_eq(str_map_get(&r->d.metadata.annotations, REVISION), revision)) return 0;
    /* goes out with the status: a status update keeps annotations, and unlike an update of the spec makes no
     * generation */
    map_set(r->a, &r->d.metadata.annotations, REVISION, revision);
    r->annotated = true;
    return 0;
}
