/* What the informers tell the scheduler, and which waiting pods that may help. */
#include <stdatomic.h>

#include "pkg/api/meta.h"
#include "scheduler.h"

static void enter(struct sched *s) {
    atomic_fetch_add(&s->handlers_waiting, 1);
    pthread_mutex_lock(&s->lock);
    atomic_fetch_sub(&s->handlers_waiting, 1);
}

static void leave(struct sched *s) { pthread_mutex_unlock(&s->lock); }

/* ---- pods ---- */

static bool terminal(const struct core_pod *p) {
    return str_eq(p->status.phase, "Succeeded") || str_eq(p->status.phase, "Failed");
}

static bool ours(const struct sched *s, const struct core_pod *p) {
    return str_empty(p->spec.scheduler_name) || strcmp(p->spec.scheduler_name, s->name) == 0;
}

static void drop(struct sched *s, struct sched_pod *sp) {
    bool placed = sp->node != NULL;
    queue_remove(s, sp);
    cache_pod_free(s, sp);
    if (placed) queue_move_all(s);
}

/* Waiting pods with wishes about other pods may be helped by one that came. */
static void pod_came(struct sched *s) {
    for (size_t i = 0; i < s->waiting.n; i++) {
        const struct sched_pod *w = s->waiting.items[i];
        if (w->anti || w->prefers || w->p->spec.topology_spread_constraints.n) {
            queue_move_all(s);
            return;
        }
    }
}

static void placed(struct sched *s, struct sched_pod *sp, struct object *o) {
    const struct core_pod *p = o->obj;
    bool known = sp && sp->node && strcmp(sp->node->name, p->spec.node_name) == 0;
    bool smaller = false;
    if (sp) {
        struct res before = sp->req;
        bool labels_same = sp->p->metadata.labels.n == p->metadata.labels.n &&
                           label_map_matches(&sp->p->metadata.labels, &p->metadata.labels);
        queue_remove(s, sp);
        cache_pod_free(s, sp);
        sp = cache_pod_new(s, o);
        smaller = sp->req.cpu < before.cpu || sp->req.mem < before.mem || !labels_same;
    } else {
        sp = cache_pod_new(s, o);
    }
    sp->state = POD_ASSIGNED;
    cache_pod_place(s, sp, cache_node(s, p->spec.node_name));
    if (smaller) queue_move_all(s);
    if (!known && s->waiting.n) pod_came(s);
}

static void pending(struct sched *s, struct sched_pod *sp, struct object *o) {
    const struct core_pod *p = o->obj;
    unsigned attempts = 0;
    int64_t due = 0, entered = mono_ns();
    enum pod_state was = POD_ACTIVE;
    bool changed = true;
    struct sched_node *nominated = NULL;
    if (sp && sp->state == POD_BINDING) return; /* the assigned pod will follow */
    if (sp) {
        was = sp->state;
        attempts = sp->attempts;
        due = sp->due;
        if (was != POD_GATED) entered = sp->entered;
        nominated = sp->nominated;
        changed = was == POD_GATED || sp->p->metadata.generation != p->metadata.generation ||
                  sp->p->status.resource_claim_statuses.n != p->status.resource_claim_statuses.n ||
                  sp->p->metadata.labels.n != p->metadata.labels.n ||
                  !label_map_matches(&sp->p->metadata.labels, &p->metadata.labels);
        if (!changed && was != POD_WAITING && was != POD_BACKOFF && was != POD_ACTIVE) return;
        if (nominated) nominated->n_nominated++; /* keeps the node while the pod changes its skin */
        queue_remove(s, sp);
        cache_pod_free(s, sp);
    }
    sp = cache_pod_new(s, o);
    sp->attempts = attempts;
    sp->due = due;
    sp->entered = entered;
    sp->moved_seen = s->moves;
    if (nominated) {
        cache_nominate(s, sp, nominated);
        nominated->n_nominated--;
    } else if (!str_empty(p->status.nominated_node_name)) {
        cache_nominate(s, sp, cache_node(s, p->status.nominated_node_name));
    }
    if (p->spec.scheduling_gates.n || !dra_pod_ready(s, p)) {
        sp->state = POD_GATED;
        cache_pod_claimless(s, sp, !p->spec.scheduling_gates.n);
    } else if (changed) {
        s->metrics.incoming[IN_ADDED]++;
        queue_push(s, sp);
    } else {
        queue_keep(s, sp, was);
    }
}

static void pod_set(void *arg, struct object *o) {
    struct sched *s = arg;
    const struct core_pod *p = o->obj;
    enter(s);
    struct sched_pod *sp = map_get(&s->pod_by_key, o->key);
    if (sp && !str_eq(sp->o->meta->uid, o->meta->uid)) {
        drop(s, sp);
        sp = NULL;
    }
    if (terminal(p)) {
        if (sp) drop(s, sp);
    } else if (!str_empty(p->spec.node_name)) {
        placed(s, sp, o);
    } else if (p->metadata.deletion_timestamp.set || !ours(s, p)) {
        if (sp && sp->state != POD_BINDING) drop(s, sp);
    } else {
        pending(s, sp, o);
    }
    leave(s);
}

static void pod_update(void *arg, struct object *old, struct object *o) { pod_set(arg, o); }

static void pod_gone(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    struct sched_pod *sp = map_get(&s->pod_by_key, o->key);
    if (sp) drop(s, sp);
    leave(s);
}

/* ---- nodes ---- */

static void node_set(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    cache_node_set(s, o);
    queue_move_all(s);
    leave(s);
}

/* Heartbeats change neither what a node offers nor whom it lets in. */
static bool node_same(const struct core_node *a, const struct core_node *b) {
    if (a->spec.unschedulable != b->spec.unschedulable || a->spec.taints.n != b->spec.taints.n) return false;
    for (size_t i = 0; i < a->spec.taints.n; i++)
        if (!api_equal(&api_core_taint, &a->spec.taints.items[i], &b->spec.taints.items[i])) return false;
    const struct str_map *x = &a->status.allocatable, *y = &b->status.allocatable;
    if (x->n != y->n || !label_map_matches(x, y)) return false;
    return a->metadata.labels.n == b->metadata.labels.n && label_map_matches(&a->metadata.labels, &b->metadata.labels);
}

static void node_update(void *arg, struct object *old, struct object *o) {
    struct sched *s = arg;
    enter(s);
    cache_node_set(s, o);
    if (!node_same(old->obj, o->obj)) queue_move_all(s);
    leave(s);
}

static void node_gone(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    cache_node_gone(s, o->meta->name);
    leave(s);
}

/* ---- the rest: volumes, claims, classes ---- */

static void other_set(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    queue_move_all(s);
    leave(s);
}

static void other_update(void *arg, struct object *old, struct object *o) { other_set(arg, o); }

/* ---- devices: claims, slices, classes ---- */

static bool uses_claim(const struct sched_pod *sp, void *key) { return dra_pod_uses(sp->p, key); }

/* Pods that waited for their claims to be made. */
static void let_in(struct sched *s, const char *key) {
    for (size_t i = s->n_claimless; i-- > 0;) {
        struct sched_pod *sp = s->claimless[i];
        if (!dra_pod_uses(sp->p, key) || !dra_pod_ready(s, sp->p)) continue;
        cache_pod_claimless(s, sp, false);
        s->metrics.incoming[IN_ADDED]++;
        queue_push(s, sp);
    }
}

static void claim_set(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    const struct dra_claim *before = dra_claim_get(&s->dra, o->meta->namespace, o->meta->name);
    const struct resource_resource_claim *was = before && before->o ? before->o->obj : NULL, *now = o->obj;
    bool freed = was && was->status.allocation && !now->status.allocation;
    bool same = was && api_equal(&api_resource_resource_claim_status, &was->status, &now->status);
    dra_claim_set(&s->dra, o);
    let_in(s, o->key);
    if (freed)
        queue_move_all(s);
    else if (!same)
        queue_move_if(s, uses_claim, (void *)o->key);
    leave(s);
}

static void claim_update(void *arg, struct object *old, struct object *o) { claim_set(arg, o); }

static void claim_gone(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    if (dra_claim_gone(&s->dra, o->key, o->meta->uid)) queue_move_all(s);
    leave(s);
}

static void slice_set(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    dra_slice_set(&s->dra, o);
    queue_move_all(s);
    leave(s);
}

static void slice_update(void *arg, struct object *old, struct object *o) { slice_set(arg, o); }

static void slice_gone(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    dra_slice_gone(&s->dra, o->meta->name);
    leave(s);
}

static void device_class_set(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    dra_class_set(&s->dra, o);
    queue_move_all(s);
    leave(s);
}

static void device_class_update(void *arg, struct object *old, struct object *o) { device_class_set(arg, o); }

static void device_class_gone(void *arg, struct object *o) {
    struct sched *s = arg;
    enter(s);
    dra_class_gone(&s->dra, o->meta->name);
    leave(s);
}

static void attach_devices(struct sched *s) {
    s->claims_inf = informer_new(s->client, &client_resourceclaims, NULL);
    s->slices_inf = informer_new(s->client, &client_resourceslices, NULL);
    s->device_classes_inf = informer_new(s->client, &client_deviceclasses, NULL);
    struct informer_handler claims = {claim_set, claim_update, claim_gone, s},
                            slices = {slice_set, slice_update, slice_gone, s},
                            classes = {device_class_set, device_class_update, device_class_gone, s};
    informer_add_handler(s->claims_inf, &claims);
    informer_add_handler(s->slices_inf, &slices);
    informer_add_handler(s->device_classes_inf, &classes);
}

void sched_attach(struct sched *s) {
    struct informer_opts live = {.field_selector = "status.phase!=Succeeded,status.phase!=Failed"};
    s->pods_inf = informer_new(s->client, &client_pods, &live);
    s->nodes_inf = informer_new(s->client, &client_nodes, NULL);
    s->pvc_inf = informer_new(s->client, &client_persistentvolumeclaims, NULL);
    s->pv_inf = informer_new(s->client, &client_persistentvolumes, NULL);
    s->class_inf = informer_new(s->client, &client_storageclasses, NULL);
    s->ns_inf = informer_new(s->client, &client_namespaces, NULL);
    s->pdb_inf = informer_new(s->client, &client_poddisruptionbudgets, NULL);
    struct informer_handler nodes = {node_set, node_update, node_gone, s}, pods = {pod_set, pod_update, pod_gone, s},
                            other = {other_set, other_update, NULL, s};
    informer_add_handler(s->nodes_inf, &nodes);
    informer_add_handler(s->pods_inf, &pods);
    informer_add_handler(s->pvc_inf, &other);
    informer_add_handler(s->pv_inf, &other);
    informer_add_handler(s->class_inf, &other);
    attach_devices(s);
}

void sched_detach(struct sched *s) {
    struct informer *all[] = {s->pods_inf, s->nodes_inf, s->pvc_inf,    s->pv_inf,     s->class_inf,
                              s->ns_inf,   s->pdb_inf,   s->claims_inf, s->slices_inf, s->device_classes_inf};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) informer_free(all[i]);
}
