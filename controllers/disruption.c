/* Disruption controller: says how many pods of a PodDisruptionBudget may be evicted now (upstream
 * pkg/controller/disruption). The eviction handler of the API server takes one off for each eviction and
 * notes the pod in disruptedPods; entries go when the pod does, or after two minutes. */
#include "pkg/api/apps.h"
#include "pkg/api/policy.h"
#include "rollout.h"
#include "util.h"

#define DISRUPTED_LAPSE (120 * NS_PER_SEC)

typedef struct policy_pod_disruption_budget pdb_t;

struct pdb_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
};

/* The size that a pod's controller wants to have, -1 when it has no scale. */
static int32_t scale_of(struct pdb_controller *c, const struct core_pod *p, const char **uid) {
    const struct meta_owner_reference *ref = meta_controller_of(&p->metadata);
    if (!ref) return -1;
    const char *ns = p->metadata.namespace;
    *uid = ref->uid;
    if (str_eq(ref->kind, "StatefulSet")) {
        _cleanup_object_ struct object *o =
            informer_get_ns(manager_informer(c->m, &client_statefulsets), ns, ref->name);
        const struct apps_stateful_set *s = o ? o->obj : NULL;
        return s ? (s->spec.replicas ? *s->spec.replicas : 1) : -1;
    }
    if (!str_eq(ref->kind, "ReplicaSet")) return -1;
    _cleanup_object_ struct object *o = informer_get_ns(manager_informer(c->m, &client_replicasets), ns, ref->name);
    if (!o) return -1;
    const struct apps_replica_set *rs = o->obj;
    const struct meta_owner_reference *top = meta_controller_of(&rs->metadata);
    if (!top || !str_eq(top->kind, "Deployment")) return rs->spec.replicas ? *rs->spec.replicas : 1;
    _cleanup_object_ struct object *d = informer_get_ns(manager_informer(c->m, &client_deployments), ns, top->name);
    const struct apps_deployment *dep = d ? d->obj : NULL;
    *uid = top->uid;
    return dep ? (dep->spec.replicas ? *dep->spec.replicas : 1) : -1;
}

struct tally {
    int32_t pods, healthy, expected, desired;
    bool unknown; /* a controller without a scale where one is needed */
};

static void expect(struct pdb_controller *c, struct arena *a, const pdb_t *b, struct object_list *pods,
                   struct tally *t) {
    const struct int_or_string *min = &b->spec.min_available, *max = &b->spec.max_unavailable;
    if (!max->set && min->set && !min->is_str) { /* a plain number needs no scale */
        t->expected = t->pods;
        t->desired = min->i;
        return;
    }
    const char **seen = arena_alloc(a, (pods->n + 1) * sizeof(*seen));
    size_t n = 0;
    for (size_t i = 0; i < pods->n; i++) {
        const char *uid = NULL;
        int32_t scale = scale_of(c, pods->items[i]->obj, &uid);
        if (scale < 0) {
            t->unknown = true;
            continue;
        }
        bool had = false;
        for (size_t k = 0; k < n; k++) had |= str_eq(seen[k], uid);
        if (had) continue;
        seen[n++] = arena_strdup(a, uid);
        t->expected += scale;
    }
    if (max->set)
        t->desired = MAX_OF(t->expected - int_or_percent(max, t->expected, true), 0);
    else if (min->set)
        t->desired = int_or_percent(min, t->expected, true);
}

static void clean_disrupted(struct arena *a, pdb_t *b, struct object_list *pods, int64_t *wait) {
    struct ktime_map keep = {.items = arena_alloc(a, (b->status.disrupted_pods.n + 1) * sizeof(*keep.items))};
    for (size_t i = 0; i < b->status.disrupted_pods.n; i++) {
        const struct ktime_map_entry *x = &b->status.disrupted_pods.items[i];
        bool still = false;
        for (size_t k = 0; k < pods->n; k++)
            still |= str_eq(pods->items[k]->meta->name, x->key) && !pods->items[k]->meta->deletion_timestamp.set;
        int64_t left = DISRUPTED_LAPSE - ktime_diff_ns(ktime_now(), x->value);
        if (!still || left <= 0) continue;
        *wait = MIN_OF(*wait, left);
        keep.items[keep.n++] = *x;
    }
    b->status.disrupted_pods = keep;
}

static bool disrupted(const pdb_t *b, const char *name) {
    for (size_t i = 0; i < b->status.disrupted_pods.n; i++)
        if (str_eq(b->status.disrupted_pods.items[i].key, name)) return true;
    return false;
}

static void set_condition(struct arena *a, pdb_t *b, bool allowed) {
    struct meta_condition c = {.type = "DisruptionAllowed",
                               .status = allowed ? "True" : "False",
                               .observed_generation = b->metadata.generation,
                               .reason = allowed ? "SufficientPods" : "InsufficientPods",
                               .message = "",
                               .last_transition_time = ktime_now_s()};
    struct meta_condition_vec v = {.items = arena_alloc(a, (b->status.conditions.n + 1) * sizeof(*v.items))};
    for (size_t i = 0; i < b->status.conditions.n; i++) {
        const struct meta_condition *was = &b->status.conditions.items[i];
        if (!str_eq(was->type, c.type))
            v.items[v.n++] = *was;
        else if (str_eq(was->status, c.status))
            c.last_transition_time = was->last_transition_time;
    }
    v.items[v.n++] = c;
    b->status.conditions = v;
}

static void matching(struct pdb_controller *c, const pdb_t *b, struct object_list *out) {
    struct object_list all = {0};
    informer_list(manager_informer(c->m, &client_pods), b->metadata.namespace, &all);
    for (size_t i = 0; i < all.n; i++) {
        bool match = label_selector_matches(b->spec.selector, &all.items[i]->meta->labels) &&
                     !pod_is_terminal(all.items[i]->obj);
        if (match) {
            VEC_GROW(out->items, out->n, out->cap);
            out->items[out->n++] = object_ref(all.items[i]);
        }
    }
    object_list_done(&all);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct pdb_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_poddisruptionbudgets), key);
    if (!o) return 0;
    const pdb_t *was = o->obj;
    pdb_t b = *was;
    _cleanup_object_list_ struct object_list pods = {0};
    int64_t wait = INT64_MAX;
    matching(c, was, &pods);
    struct tally t = {.pods = (int32_t)pods.n};
    expect(c, a, was, &pods, &t);
    clean_disrupted(a, &b, &pods, &wait);
    for (size_t i = 0; i < pods.n; i++) {
        const struct core_pod *p = pods.items[i]->obj;
        t.healthy += pod_is_ready(p) && !p->metadata.deletion_timestamp.set && !disrupted(&b, p->metadata.name);
    }
    int32_t allowed = t.expected > 0 ? MAX_OF(t.healthy - t.desired, 0) : 0;
    if (pods.n == 0)
        event_record_obj(c->events, &client_poddisruptionbudgets, &was->metadata, "Normal", "NoPods",
                         "No matching pods found");
    if (t.unknown) {
        event_record_obj(c->events, &client_poddisruptionbudgets, &was->metadata, "Warning",
                         "CalculateExpectedPodCountFailed",
                         "Failed to calculate the number of expected pods: found no controllers with a scale "
                         "for some pods");
        allowed = 0;
    }
    b.status.current_healthy = t.healthy;
    b.status.desired_healthy = t.desired;
    b.status.expected_pods = t.expected;
    b.status.disruptions_allowed = allowed;
    b.status.observed_generation = was->metadata.generation;
    set_condition(a, &b, allowed > 0);
    if (wait != INT64_MAX) workqueue_add_after(c->q, key, wait);
    if (api_equal(&api_policy_pod_disruption_budget_status, &b.status, &was->status)) return 0;
    struct client_opts opts = {.cause = was->metadata.resource_version};
    return client_update_status(c->m->client, a, &client_poddisruptionbudgets, was->metadata.namespace, &b, &opts, NULL,
                                e);
}

static void wake(struct pdb_controller *c, const struct object *pod) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_poddisruptionbudgets), pod->meta->namespace, &l);
    for (size_t i = 0; i < l.n; i++)
        if (label_selector_matches(((const pdb_t *)l.items[i]->obj)->spec.selector, &pod->meta->labels))
            workqueue_add(c->q, l.items[i]->key);
}

static void pod_changed(void *arg, struct object *o) { wake(arg, o); }

static void pod_updated(void *arg, struct object *old, struct object *o) {
    wake(arg, old);
    wake(arg, o);
}

/* Scales matter only to budgets in percent; all of the namespace are looked at. */
static void scale_changed(void *arg, struct object *old, struct object *o) {
    struct pdb_controller *c = arg;
    if (old->meta->generation == o->meta->generation) return;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_poddisruptionbudgets), o->meta->namespace, &l);
    for (size_t i = 0; i < l.n; i++) workqueue_add(c->q, l.items[i]->key);
}

int disruption_start(struct manager *m, struct err *e) {
    struct pdb_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "controllermanager");
    c->q = manager_queue(m, "disruption", 1, reconcile, c, &client_poddisruptionbudgets, &client_pods,
                         &client_replicasets, &client_deployments, &client_statefulsets, NULL);
    manager_watch_keys(m, &client_poddisruptionbudgets, c->q);
    struct informer_handler pods = {pod_changed, pod_updated, pod_changed, c},
                            scales = {.on_update = scale_changed, .arg = c};
    informer_add_handler(manager_informer(m, &client_pods), &pods);
    informer_add_handler(manager_informer(m, &client_deployments), &scales);
    informer_add_handler(manager_informer(m, &client_replicasets), &scales);
    informer_add_handler(manager_informer(m, &client_statefulsets), &scales);
    return 0;
}
