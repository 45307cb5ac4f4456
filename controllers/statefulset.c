/* StatefulSet controller: pods with names, one after another (upstream pkg/controller/statefulset).
 *
 * The pods wanted are NAME-<ordinal>. Going up, each one waits until the one before is available; going down
 * and updating, the highest goes first and the next only when it is gone or available again (all at once with
 * podManagementPolicy Parallel). Claims are made from the templates before their pod, and stay when it goes,
 * unless the retention policy says otherwise. Pods below the partition are made from the current revision,
 * the others from the update revision. */
#include "statefulset.h"

enum { WORKERS = 3, REPLICAS_MAX = 100000 };
#define NAME_LABEL "statefulset.kubernetes.io/pod-name"
#define INDEX_LABEL "apps.kubernetes.io/pod-index"

static int32_t first_ordinal(const struct apps_stateful_set *s) {
    return s->spec.ordinals ? s->spec.ordinals->start : 0;
}
static int32_t wished(const struct apps_stateful_set *s) {
    return s->spec.replicas ? MIN_OF(*s->spec.replicas, REPLICAS_MAX) : 1;
}
static bool parallel(const struct stateful *x) { return str_eq(x->s->spec.pod_management_policy, "Parallel"); }
const char *sts_pod_name(struct stateful *x, int32_t ordinal) {
    return arena_printf(x->a, "%s-%d", x->s->metadata.name, ordinal);
}

static bool available(struct stateful *x, const struct core_pod *p) {
    return p && !p->metadata.deletion_timestamp.set && str_eq(p->status.phase, "Running") &&
           pod_is_available(p, x->s->spec.min_ready_seconds, ktime_now(), &x->wait);
}

/* ---- revisions ---- */

static int32_t partition(const struct stateful *x) {
    const struct apps_rolling_update_stateful_set_strategy *u = x->s->spec.update_strategy.rolling_update;
    return u && u->partition ? *u->partition : 0;
}

/* A new pod of this ordinal comes from the update revision, unless the partition holds it back. */
static bool of_update(const struct stateful *x, int32_t ordinal) {
    if (str_eq(x->current_name, x->update_name)) return true;
    if (str_eq(x->s->spec.update_strategy.type, "OnDelete")) return true;
    return ordinal >= first_ordinal(x->s) + partition(x);
}

static int find_revisions(struct stateful *x, struct err *e) {
    const struct apps_stateful_set *s = x->s;
    int r = history_find(x->c->m, x->a, &x->owner, s->spec.selector, &x->h, e);
    if (r == 0)
        r = history_current(x->c->m, x->a, &x->owner, &x->h, &s->spec.template, &s->spec.template.metadata.labels,
                            s->status.collision_count, &x->update_name, &x->update_hash, e);
    if (r < 0) return r;
    const struct apps_controller_revision *cur = history_named(&x->h, s->status.current_revision);
    x->current_name = x->update_name;
    x->current_template = s->spec.template;
    if (cur && history_template(x->a, cur, &x->current_template, NULL) == 0)
        x->current_name = cur->metadata.name;
    else
        x->current_template = s->spec.template;
    return 0;
}

/* The label on pods names the whole revision. */
static bool is_of(const struct core_pod *p, const char *revision) {
    return str_eq(str_map_get(&p->metadata.labels, REVISION_LABEL), revision);
}

/* ---- pods ---- */

static void add_volumes(struct stateful *x, struct core_pod_spec *spec, int32_t ordinal) {
    const struct core_persistent_volume_claim_vec *t = &x->s->spec.volume_claim_templates;
    struct core_volume_vec v = {.items = arena_zalloc(x->a, (spec->volumes.n + t->n + 1) * sizeof(*v.items))};
    for (size_t i = 0; i < t->n; i++) {
        struct core_persistent_volume_claim_volume_source *src = arena_zalloc(x->a, sizeof(*src));
        src->claim_name = sts_claim_name(x, &t->items[i], ordinal);
        v.items[v.n].name = t->items[i].metadata.name;
        v.items[v.n++].persistent_volume_claim = src;
    }
    for (size_t i = 0; i < spec->volumes.n; i++) {
        bool replaced = false;
        for (size_t k = 0; k < t->n; k++) replaced |= str_eq(spec->volumes.items[i].name, t->items[k].metadata.name);
        if (!replaced) v.items[v.n++] = spec->volumes.items[i];
    }
    spec->volumes = v;
}

static int make_pod(struct stateful *x, int32_t ordinal, struct err *e) {
    bool update = of_update(x, ordinal);
    struct core_pod p;
    int r = sts_make_claims(x, ordinal, e);
    if (r < 0) return r;
    pod_from_template(x->a, update ? &x->s->spec.template : &x->current_template, &x->owner, &p);
    p.metadata.generate_name = NULL;
    p.metadata.name = sts_pod_name(x, ordinal);
    map_set(x->a, &p.metadata.labels, REVISION_LABEL, update ? x->update_name : x->current_name);
    map_set(x->a, &p.metadata.labels, NAME_LABEL, p.metadata.name);
    map_set(x->a, &p.metadata.labels, INDEX_LABEL, arena_printf(x->a, "%d", ordinal));
    p.spec.hostname = p.metadata.name;
    p.spec.subdomain = x->s->spec.service_name;
    add_volumes(x, &p.spec, ordinal);
    struct client_opts o = {.cause = x->s->metadata.resource_version};
    _cleanup_err_ struct err ce = {0};
    r = client_create(x->c->m->client, x->a, &client_pods, x->s->metadata.namespace, &p, &o, NULL, &ce);
    if (r < 0 && (client_err_exists(&ce) || client_err_namespace_terminating(&ce))) return 0; /* the cache is behind */
    if (r < 0) {
        event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Warning", "FailedCreate",
                         "create Pod %s in StatefulSet %s failed error: %s", p.metadata.name, x->s->metadata.name,
                         ce.msg);
        err_move(e, &ce);
        return r;
    }
    event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Normal", "SuccessfulCreate",
                     "create Pod %s in StatefulSet %s successful", p.metadata.name, x->s->metadata.name);
    return 0;
}

static int remove_pod(struct stateful *x, const struct core_pod *p, struct err *e) {
    struct client_delete_opts o = {.cause = x->s->metadata.resource_version, .uid = p->metadata.uid};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(x->c->m->client, &client_pods, p->metadata.namespace, p->metadata.name, &o, &de);
    if (r < 0 && !client_err_not_found(&de)) {
        err_move(e, &de);
        return r;
    }
    event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Normal", "SuccessfulDelete",
                     "delete Pod %s in StatefulSet %s successful", p->metadata.name, x->s->metadata.name);
    return 0;
}

/* ---- sorting ---- */

/* The ordinal in a pod's name, or -1 when it is not one of the set's. */
static int32_t ordinal_of(const struct stateful *x, const char *pod) {
    size_t n = strlen(x->s->metadata.name);
    int64_t v;
    if (strncmp(pod, x->s->metadata.name, n) != 0 || pod[n] != '-') return -1;
    if (str_to_i64(pod + n + 1, &v) < 0 || v < 0 || v > INT32_MAX) return -1;
    return (int32_t)v;
}

static bool is_member(void *arg, const struct object *pod) {
    const struct stateful *x = arg;
    return ordinal_of(x, pod->meta->name) >= 0;
}

static int highest_first(const void *a, const void *b) {
    const struct sts_replica *x = a, *y = b;
    return x->ordinal > y->ordinal ? -1 : x->ordinal < y->ordinal;
}

static void sort_out(struct stateful *x) {
    int32_t first = first_ordinal(x->s);
    x->n_want = wished(x->s);
    x->want = arena_zalloc(x->a, ((size_t)x->n_want + 1) * sizeof(*x->want));
    x->extra = arena_zalloc(x->a, (x->pods.n + 1) * sizeof(*x->extra));
    for (int32_t i = 0; i < x->n_want; i++) x->want[i].ordinal = first + i;
    for (size_t i = 0; i < x->pods.n; i++) {
        const struct core_pod *p = x->pods.items[i]->obj;
        int32_t o = ordinal_of(x, p->metadata.name);
        if (o < 0) continue;
        if (o >= first && o < first + x->n_want)
            x->want[o - first].pod = p;
        else
            x->extra[x->n_extra++] = (struct sts_replica){o, p};
    }
    qsort(x->extra, (size_t)x->n_extra, sizeof(*x->extra), highest_first);
}

/* ---- steps ---- each returns 1 when the rest has to wait */

/* A pod that was adopted is told who it is; its claims are owned as the policy wants it. */
static int keep_invariants(struct stateful *x, const struct sts_replica *p, struct err *e) {
    const struct meta_object_meta *m = &p->pod->metadata;
    int r = 0;
    if (!str_eq(str_map_get(&m->labels, NAME_LABEL), m->name)) {
        struct json *t = json_object(x->a), *meta = json_ensure_object(x->a, t, "metadata"),
                    *labels = json_ensure_object(x->a, meta, "labels");
        json_set_str(x->a, meta, "uid", m->uid);
        json_set_str(x->a, labels, NAME_LABEL, m->name);
        json_set_str(x->a, labels, INDEX_LABEL, arena_printf(x->a, "%d", p->ordinal));
        const char *text = json_text(x->a, t);
        struct client_opts o = {.cause = x->s->metadata.resource_version};
        r = client_patch(x->c->m->client, x->a, &client_pods, m->namespace, m->name, CLIENT_PATCH_MERGE, text,
                         strlen(text), &o, NULL, e);
    }
    return r < 0 ? r : sts_own_claims(x, p->pod, p->ordinal, e);
}

static int grow(struct stateful *x, struct err *e) {
    for (int32_t i = 0; i < x->n_want; i++) {
        const struct core_pod *p = x->want[i].pod;
        int r = 0;
        if (!p) {
            if (sts_claims_stale(x, x->want[i].ordinal)) return 1;
            r = make_pod(x, x->want[i].ordinal, e);
            if (r < 0) return r;
            if (!parallel(x)) return 1;
            continue;
        }
        if (pod_is_terminal(p) && !p->metadata.deletion_timestamp.set) {
            event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Warning", "RecreatingTerminatedPod",
                             "StatefulSet %s/%s is recreating terminated Pod %s", x->s->metadata.namespace,
                             x->s->metadata.name, p->metadata.name);
            r = remove_pod(x, p, e);
            if (r < 0) return r;
            if (!parallel(x)) return 1;
            continue;
        }
        if (str_eq(p->status.phase, "Pending")) { /* claims that went since then come back */
            r = sts_make_claims(x, x->want[i].ordinal, e);
            if (r < 0) return r;
        }
        if (!parallel(x) && !available(x, p)) return 1;
        r = keep_invariants(x, &x->want[i], e);
        if (r < 0) return r;
    }
    return 0;
}

/* In order, one at a time; and a pod that is not well stops the others from going until it is, unless it is the lowest
 * of those: so that a set in trouble does not lose what still works. */
static int shrink(struct stateful *x, struct err *e) {
    int32_t lowest_ill = -1;
    for (int32_t i = 0; i < x->n_extra; i++) {
        int r = sts_own_claims(x, x->extra[i].pod, x->extra[i].ordinal, e);
        if (r < 0) return r;
    }
    for (int32_t i = 0; i < x->n_extra; i++) {
        const struct core_pod *p = x->extra[i].pod;
        if (!available(x, p) || p->metadata.deletion_timestamp.set) lowest_ill = i;
    }
    for (int32_t i = 0; i < x->n_extra; i++) {
        const struct core_pod *p = x->extra[i].pod;
        if (p->metadata.deletion_timestamp.set) {
            if (!parallel(x)) return 1;
            continue;
        }
        if (!parallel(x) && i != lowest_ill && !available(x, p)) return 1;
        int r = remove_pod(x, p, e);
        if (r < 0) return r;
        if (!parallel(x)) return 1;
    }
    return 0;
}

/* Highest first: a pod of another revision goes, and comes back from the update revision. */
static int update(struct stateful *x, struct err *e) {
    if (str_eq(x->s->spec.update_strategy.type, "OnDelete")) return 0;
    int32_t floor = first_ordinal(x->s) + partition(x);
    for (int32_t i = x->n_want - 1; i >= 0 && x->want[i].ordinal >= floor; i--) {
        const struct core_pod *p = x->want[i].pod;
        if (!p) return 1;
        if (!is_of(p, x->update_name) && !p->metadata.deletion_timestamp.set) {
            int r = remove_pod(x, p, e);
            return r < 0 ? r : 1;
        }
        if (!available(x, p)) return 1;
    }
    return 0;
}

/* ---- status ---- */

static int write_status(struct stateful *x, struct err *e) {
    struct apps_stateful_set fresh = *x->s;
    struct apps_stateful_set_status *st = &fresh.status;
    st->replicas = st->ready_replicas = st->available_replicas = st->current_replicas = st->updated_replicas = 0;
    for (int32_t i = 0; i < x->n_want + x->n_extra; i++) {
        const struct core_pod *p = i < x->n_want ? x->want[i].pod : x->extra[i - x->n_want].pod;
        if (!p) continue;
        st->replicas++;
        bool running = str_eq(p->status.phase, "Running") && pod_is_ready(p);
        st->ready_replicas += running;
        st->available_replicas += running && available(x, p);
        if (p->metadata.deletion_timestamp.set) continue;
        st->current_replicas += is_of(p, x->current_name);
        st->updated_replicas += is_of(p, x->update_name);
    }
    st->current_revision = x->current_name;
    st->update_revision = x->update_name;
    st->observed_generation = x->s->metadata.generation;
    if (!st->collision_count) st->collision_count = arena_zalloc(x->a, sizeof(int32_t));
    bool all = !str_eq(x->s->spec.update_strategy.type, "OnDelete") && st->updated_replicas == wished(x->s) &&
               st->ready_replicas == wished(x->s) && st->replicas == wished(x->s);
    if (all) { /* the update is complete */
        st->current_revision = x->update_name;
        st->current_replicas = st->updated_replicas;
    }
    if (api_equal(&api_apps_stateful_set_status, st, &x->s->status)) return 0;
    struct client_opts o = {.cause = x->s->metadata.resource_version};
    return client_update_status(x->c->m->client, x->a, &client_statefulsets, x->s->metadata.namespace, &fresh, &o, NULL,
                                e);
}

static bool revision_is_live(void *arg, const struct apps_controller_revision *r) {
    struct stateful *x = arg;
    if (str_eq(r->metadata.name, x->current_name) || str_eq(r->metadata.name, x->update_name)) return true;
    for (size_t i = 0; i < x->pods.n; i++)
        if (is_of(x->pods.items[i]->obj, r->metadata.name)) return true;
    return false;
}

static int sync_set(struct stateful *x, struct err *e) {
    int r = find_revisions(x, e);
    if (r < 0) return r;
    sort_out(x);
    if (!x->s->metadata.deletion_timestamp.set) {
        r = grow(x, e);
        if (r == 0 || (r == 1 && parallel(x))) r = shrink(x, e);
        if (r == 0) r = update(x, e);
    }
    _cleanup_err_ struct err se = {0};
    int sr = write_status(x, &se);
    int32_t limit = x->s->spec.revision_history_limit ? *x->s->spec.revision_history_limit : 10;
    if (sr == 0) sr = history_trim(x->c->m, &x->h, limit, revision_is_live, x, &se);
    if (r >= 0 && sr < 0) {
        err_move(e, &se);
        r = sr;
    }
    return MIN_OF(r, 0);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct sts_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_statefulsets), key);
    if (!o) return 0;
    struct stateful x = {.c = c, .a = a, .key = key, .s = o->obj, .wait = INT64_MAX};
    x.pods = (struct claimed){.only = is_member, .arg = &x};
    if (label_selector_empty(x.s->spec.selector)) return 0;
    x.owner = (struct owner){&client_statefulsets, &x.s->metadata};
    int r = claim_objects(c->m, a, &client_pods, &x.owner, x.s->spec.selector, &x.pods, e);
    if (r == 0) r = sync_set(&x, e);
    if (x.wait != INT64_MAX) workqueue_add_after(c->q, key, x.wait + 10 * NS_PER_MS);
    history_done(&x.h);
    claimed_done(&x.pods);
    return r;
}

static const struct meta_label_selector *selector_of(const struct object *o) {
    return ((const struct apps_stateful_set *)o->obj)->spec.selector;
}

static void pod_changed(void *arg, const struct object *o) {
    struct sts_controller *c = arg;
    queue_add_controller_of(c->q, o, "StatefulSet");
    queue_add_adopters(c->q, c->m, &client_statefulsets, selector_of, o);
}

/* A pod may wait for the end of its predecessor's claims, or miss its own. */
static void claim_gone(void *arg, struct object *o) {
    struct sts_controller *c = arg;
    _cleanup_object_list_ struct object_list sets = {0};
    informer_list(manager_informer(c->m, &client_statefulsets), o->meta->namespace, &sets);
    for (size_t i = 0; i < sets.n; i++) {
        const struct apps_stateful_set *s = sets.items[i]->obj;
        if (s->spec.volume_claim_templates.n && label_selector_matches(s->spec.selector, &o->meta->labels))
            workqueue_add(c->q, sets.items[i]->key);
    }
}

int statefulset_start(struct manager *m, struct err *e) {
    struct sts_controller *c = manager_alloc(m, sizeof(*c), NULL);
    struct informer_handler claims = {.on_delete = claim_gone, .arg = c};
    c->m = m;
    c->events = manager_recorder(m, "statefulset-controller");
    c->q = manager_queue(m, "statefulset", WORKERS, reconcile, c, &client_statefulsets, &client_pods,
                         &client_controllerrevisions, &client_persistentvolumeclaims, NULL);
    manager_watch_keys(m, &client_statefulsets, c->q);
    manager_watch(m, &client_pods, pod_changed, c);
    informer_add_handler(manager_informer(m, &client_persistentvolumeclaims), &claims);
    return 0;
}
