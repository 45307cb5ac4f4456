/* What a pod's cycle works out once, before it looks at nodes: counts per topology for affinity and
 * spreading, and what its volumes ask for. Pods without such wishes, in a cluster without such pods, pay
 * nothing here. */
#include "pkg/api/meta.h"
#include "pkg/api/storage.h"
#include "scheduler.h"

void cycle_done(struct cycle *c) {
    for (size_t i = 0; i < c->n_affinity; i++) map_done(&c->affinity[i].by_value);
    for (size_t i = 0; i < c->n_anti; i++) map_done(&c->anti[i].by_value);
    for (size_t i = 0; i < c->n_hard; i++) map_done(&c->hard[i].counts.by_value);
    for (size_t i = 0; i < c->n_soft; i++) map_done(&c->soft[i].counts.by_value);
    for (size_t i = 0; i < c->n_prefer; i++) map_done(&c->prefer[i].by_value);
}

static const char *topology_of(const struct sched_node *n, const char *key) {
    return n && n->n ? str_map_get(&n->n->metadata.labels, key) : NULL;
}

static void topo_add(struct topo_counts *t, const char *value, int64_t by) {
    intptr_t have = (intptr_t)map_get(&t->by_value, value);
    map_put(&t->by_value, value, (void *)(have + (intptr_t)by));
    t->total += by;
}

/* Pods on nodes, for every pair of node and pod. */
#define FOREACH_PLACED(s, sn, sp)                                           \
    for (size_t _i = 0; _i < (s)->n_nodes; _i++)                            \
        for (size_t _k = 0; (sn) = (s)->nodes[_i], _k < (sn)->n_pods; _k++) \
            if (((sp) = (sn)->pods[_k]))

/* ---- inter-pod affinity ---- */

static void forbid(struct cycle *c, const char *key, const char *value) {
    for (size_t i = 0; i < c->n_forbidden; i++)
        if (strcmp(c->forbidden[i].key, key) == 0 && strcmp(c->forbidden[i].value, value) == 0) return;
    ARENA_GROW(c->a, c->forbidden, c->n_forbidden, c->cap_forbidden);
    c->forbidden[c->n_forbidden++] = (struct forbidden){key, value};
}

/* Where pods that are there do not want this one. */
static void find_forbidden(struct cycle *c) {
    for (size_t i = 0; i < c->s->n_anti; i++) {
        struct sched_pod *sp = c->s->anti_pods[i];
        const struct core_pod_affinity_term_vec *v =
            &sp->p->spec.affinity->pod_anti_affinity->required_during_scheduling_ignored_during_execution;
        for (size_t k = 0; k < v->n; k++) {
            const char *value = topology_of(sp->node, v->items[k].topology_key);
            if (value && affinity_term_matches(c->s, &v->items[k], sp->p, c->p))
                forbid(c, v->items[k].topology_key, value);
        }
    }
}

static struct topo_counts *count_terms(struct cycle *c, const struct core_pod_affinity_term_vec *v) {
    struct topo_counts *t = arena_zalloc(c->a, (v->n + 1) * sizeof(*t));
    struct sched_node *sn;
    struct sched_pod *sp;
    for (size_t k = 0; k < v->n; k++) t[k].key = str_or_empty(v->items[k].topology_key);
    FOREACH_PLACED(c->s, sn, sp) {
        for (size_t k = 0; k < v->n; k++) {
            const char *value = topology_of(sn, t[k].key);
            if (value && affinity_term_matches(c->s, &v->items[k], c->p, sp->p)) topo_add(&t[k], value, 1);
        }
    }
    return t;
}

static void prepare_affinity(struct cycle *c) {
    const struct core_affinity *a = c->p->spec.affinity;
    if (c->s->n_anti) find_forbidden(c);
    if (!a) return;
    if (a->pod_affinity && a->pod_affinity->required_during_scheduling_ignored_during_execution.n) {
        const struct core_pod_affinity_term_vec *v =
            &a->pod_affinity->required_during_scheduling_ignored_during_execution;
        c->affinity = count_terms(c, v);
        c->n_affinity = v->n;
        /* the first pod of a group that wants to be together has to start somewhere */
        bool self = true;
        int64_t total = 0;
        for (size_t i = 0; i < v->n; i++) {
            self &= affinity_term_matches(c->s, &v->items[i], c->p, c->p);
            total += c->affinity[i].total;
        }
        c->first_of_group = self && total == 0;
    }
    if (a->pod_anti_affinity && a->pod_anti_affinity->required_during_scheduling_ignored_during_execution.n) {
        const struct core_pod_affinity_term_vec *v =
            &a->pod_anti_affinity->required_during_scheduling_ignored_during_execution;
        c->anti = count_terms(c, v);
        c->n_anti = v->n;
    }
}

/* ---- preferences between pods ---- */

static void prefer_add(struct cycle *c, const char *key, const char *value, int64_t weight) {
    if (!value || !weight) return;
    size_t i = 0;
    while (i < c->n_prefer && strcmp(c->prefer[i].key, key) != 0) i++;
    if (i == c->n_prefer) {
        ARENA_GROW(c->a, c->prefer, c->n_prefer, c->cap_prefer);
        c->prefer[c->n_prefer++] = (struct topo_counts){.key = key};
    }
    topo_add(&c->prefer[i], value, weight);
}

static void prefer_terms(struct cycle *c, const struct core_weighted_pod_affinity_term_vec *v, int sign,
                         const struct core_pod *of, const struct core_pod *other, const struct sched_node *where) {
    for (size_t i = 0; i < v->n; i++) {
        const struct core_pod_affinity_term *t = &v->items[i].pod_affinity_term;
        if (affinity_term_matches(c->s, t, of, other))
            prefer_add(c, t->topology_key, topology_of(where, t->topology_key), sign * v->items[i].weight);
    }
}

/* The wishes `of` has towards `other`; `where` is the node of the one that is placed. */
static void prefer_between(struct cycle *c, const struct core_pod *of, const struct core_pod *other,
                           const struct sched_node *where, bool hard_counts) {
    const struct core_affinity *a = of->spec.affinity;
    if (!a) return;
    if (a->pod_affinity) {
        prefer_terms(c, &a->pod_affinity->preferred_during_scheduling_ignored_during_execution, 1, of, other, where);
        const struct core_pod_affinity_term_vec *v =
            &a->pod_affinity->required_during_scheduling_ignored_during_execution;
        for (size_t i = 0; hard_counts && i < v->n; i++)
            if (affinity_term_matches(c->s, &v->items[i], of, other))
                prefer_add(c, v->items[i].topology_key, topology_of(where, v->items[i].topology_key), 1);
    }
    if (a->pod_anti_affinity)
        prefer_terms(c, &a->pod_anti_affinity->preferred_during_scheduling_ignored_during_execution, -1, of, other,
                     where);
}

static void prepare_preferences(struct cycle *c) {
    for (size_t i = 0; i < c->s->n_prefer; i++) {
        struct sched_pod *sp = c->s->prefer_pods[i];
        prefer_between(c, sp->p, c->p, sp->node, true);
    }
    if (!c->sp->prefers) return;
    struct sched_node *sn;
    struct sched_pod *sp;
    FOREACH_PLACED(c->s, sn, sp) prefer_between(c, c->p, sp->p, sn, false);
}

/* ---- topology spread ---- */

/* The constraint's selector, with matchLabelKeys' values from the pod itself. */
static bool spread_selects(const struct core_topology_spread_constraint *t, const struct core_pod *self,
                           const struct core_pod *p) {
    if (!str_eq(self->metadata.namespace, p->metadata.namespace) || p->metadata.deletion_timestamp.set) return false;
    if (!label_selector_matches(t->label_selector, &p->metadata.labels)) return false;
    for (size_t i = 0; i < t->match_label_keys.n; i++) {
        const char *want = str_map_get(&self->metadata.labels, t->match_label_keys.items[i]);
        if (want && !str_eq(want, str_map_get(&p->metadata.labels, t->match_label_keys.items[i]))) return false;
    }
    return true;
}

static bool spread_counts_node(const struct core_topology_spread_constraint *t, const struct core_pod *p,
                               const struct core_node *n) {
    if (!str_eq(t->node_affinity_policy, "Ignore") && !pod_node_affinity_matches(p, n)) return false;
    return !str_eq(t->node_taints_policy, "Honor") ||
           !untolerated(&p->spec.tolerations, &n->spec.taints, "NoSchedule,NoExecute");
}

static void count_spread(struct cycle *c, struct spread *x) {
    x->counts.key = str_or_empty(x->c->topology_key);
    x->self = spread_selects(x->c, c->p, c->p);
    for (size_t i = 0; i < c->s->n_nodes; i++) {
        struct sched_node *n = c->s->nodes[i];
        const char *value = topology_of(n, x->counts.key);
        if (!value || !spread_counts_node(x->c, c->p, n->n)) continue;
        int64_t here = 0;
        for (size_t k = 0; k < n->n_pods; k++) here += spread_selects(x->c, c->p, n->pods[k]->p);
        topo_add(&x->counts, value, here);
    }
    x->min = INT64_MAX;
    size_t it = 0;
    const char *value;
    void *v;
    while (map_next(&x->counts.by_value, &it, &value, &v)) {
        x->min = MIN_OF(x->min, (int64_t)(intptr_t)v);
        x->domains++;
    }
    if (x->domains == 0 || (x->c->min_domains && x->domains < *x->c->min_domains)) x->min = 0;
}

static void prepare_spread(struct cycle *c) {
    const struct core_topology_spread_constraint_vec *v = &c->p->spec.topology_spread_constraints;
    c->hard = arena_zalloc(c->a, (v->n + 1) * sizeof(*c->hard));
    c->soft = arena_zalloc(c->a, (v->n + 1) * sizeof(*c->soft));
    for (size_t i = 0; i < v->n; i++) {
        bool soft = str_eq(v->items[i].when_unsatisfiable, "ScheduleAnyway");
        struct spread *x = soft ? &c->soft[c->n_soft++] : &c->hard[c->n_hard++];
        x->c = &v->items[i];
        count_spread(c, x);
    }
}

/* ---- volumes ---- */

static bool waits_for_consumer(struct cycle *c, const struct core_persistent_volume_claim *pvc) {
    if (str_empty(pvc->spec.storage_class_name)) return false;
    _cleanup_object_ struct object *o = informer_get(c->s->class_inf, pvc->spec.storage_class_name);
    const struct storage_storage_class *sc = o ? o->obj : NULL;
    return sc && str_eq(sc->volume_binding_mode, "WaitForFirstConsumer");
}

static const char *prepare_claim(struct cycle *c, const char *name) {
    _cleanup_object_ struct object *o = informer_get_ns(c->s->pvc_inf, c->p->metadata.namespace, name);
    if (!o) return arena_printf(c->a, "persistentvolumeclaim \"%s\" not found", name);
    const struct core_persistent_volume_claim *pvc = o->obj;
    if (pvc->metadata.deletion_timestamp.set)
        return arena_printf(c->a, "persistentvolumeclaim \"%s\" is being deleted", name);
    if (str_eq(pvc->status.phase, "Lost"))
        return arena_printf(c->a, "persistentvolumeclaim \"%s\" bound to non-existent persistentvolume \"%s\"", name,
                            str_or_empty(pvc->spec.volume_name));
    bool bound =
        !str_empty(pvc->spec.volume_name) && str_map_get(&pvc->metadata.annotations, "pv.kubernetes.io/bind-completed");
    if (bound) {
        _cleanup_object_ struct object *v = informer_get(c->s->pv_inf, pvc->spec.volume_name);
        const struct core_persistent_volume *pv = v ? v->obj : NULL;
        if (!pv) return "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        if (pv->spec.node_affinity && pv->spec.node_affinity->required)
            c->volumes[c->n_volumes++] = api_clone(c->a, &api_core_node_selector, pv->spec.node_affinity->required);
        return NULL;
    }
    if (!waits_for_consumer(c, pvc)) return "pod has unbound immediate PersistentVolumeClaims";
    c->claims[c->n_claims++] = arena_strdup(c->a, name);
    return NULL;
}

static void prepare_volumes(struct cycle *c) {
    size_t n = c->p->spec.volumes.n;
    c->volumes = arena_alloc(c->a, (n + 1) * sizeof(*c->volumes));
    c->claims = arena_alloc(c->a, (n + 1) * sizeof(*c->claims));
    for (size_t i = 0; i < n && !c->refusal; i++) {
        const struct core_volume *v = &c->p->spec.volumes.items[i];
        if (v->persistent_volume_claim)
            c->refusal = prepare_claim(c, str_or_empty(v->persistent_volume_claim->claim_name));
        else if (v->ephemeral)
            c->refusal = prepare_claim(c, arena_printf(c->a, "%s-%s", c->p->metadata.name, v->name));
    }
}

int cycle_prepare(struct cycle *c) {
    prepare_volumes(c);
    if (c->refusal || dra_prepare(c) < 0) return -EAGAIN;
    prepare_affinity(c);
    if (c->p->spec.topology_spread_constraints.n) prepare_spread(c);
    return 0;
}

void cycle_prepare_scores(struct cycle *c) {
    if (c->s->n_prefer || c->sp->prefers) prepare_preferences(c);
}
