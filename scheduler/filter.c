/* Filters: may the pod run on the node? A table in the order of upstream's default plugins. */
#include "pkg/api/meta.h"
#include "scheduler.h"

typedef enum verdict filter_fn(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons);

static enum verdict refuse(enum verdict v, const char *reason, const char **reasons, size_t *n_reasons) {
    reasons[(*n_reasons)++] = reason;
    return v;
}
#define REFUSE(v, reason) refuse((v), (reason), reasons, n_reasons)

static enum verdict node_unschedulable(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    if (!n->n->spec.unschedulable) return FIT;
    struct core_taint t = {.key = "node.kubernetes.io/unschedulable", .effect = "NoSchedule"};
    for (size_t i = 0; i < c->p->spec.tolerations.n; i++)
        if (toleration_tolerates(&c->p->spec.tolerations.items[i], &t)) return FIT;
    return REFUSE(NEVER, "node(s) were unschedulable");
}

static enum verdict node_name(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    if (str_empty(c->p->spec.node_name) || strcmp(c->p->spec.node_name, n->name) == 0) return FIT;
    return REFUSE(NEVER, "node(s) didn't match the requested node name");
}

static enum verdict taints(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    if (!n->n->spec.taints.n || !untolerated(&c->p->spec.tolerations, &n->n->spec.taints, "NoSchedule,NoExecute"))
        return FIT;
    return REFUSE(NEVER, "node(s) had untolerated taint(s)");
}

static enum verdict node_affinity(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    if (pod_node_affinity_matches(c->p, n->n)) return FIT;
    return REFUSE(NEVER, "node(s) didn't match Pod's node affinity/selector");
}

static enum verdict node_ports(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    if (!c->sp->n_ports) return FIT;
    for (size_t i = 0; i < n->n_pods; i++)
        for (size_t k = 0; k < n->pods[i]->n_ports; k++)
            for (size_t m = 0; m < c->sp->n_ports; m++)
                if (host_ports_conflict(&n->pods[i]->ports[k], &c->sp->ports[m]))
                    return REFUSE(UNFIT, "node(s) didn't have free ports for the requested pod ports");
    return FIT;
}

/* Room that preemptors of at least this pod's priority were promised on the node. */
static void promised(struct cycle *c, struct sched_node *n, struct res *sum, int64_t *pods) {
    for (size_t i = 0; i < c->s->n_nominees; i++) {
        struct sched_pod *sp = c->s->nominees[i];
        if (sp->nominated != n || sp == c->sp || sp->node || sp->priority < c->sp->priority) continue;
        res_add(sum, &sp->req, 1);
        ++*pods;
    }
}

static enum verdict resources(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    const struct res *need = &c->sp->req, *have = &n->alloc;
    struct res used = n->used;
    int64_t pods = (int64_t)n->n_pods;
    enum verdict v = FIT;
    if (n->n_nominated) promised(c, n, &used, &pods);
    if (pods + 1 > n->max_pods) v = REFUSE(UNFIT, "Too many pods");
#define SHORT(what, text)                                        \
    if (need->what > 0 && need->what > have->what - used.what) { \
        reasons[(*n_reasons)++] = (text);                        \
        v = need->what > have->what ? NEVER : MAX_OF(v, UNFIT);  \
    }
    SHORT(cpu, "Insufficient cpu")
    SHORT(mem, "Insufficient memory")
    SHORT(eph, "Insufficient ephemeral-storage")
    for (size_t i = 0; i < c->s->n_ext; i++) {
        if (c->dra_ext & 1u << i && !have->ext[i]) continue; /* devices that are claimed: dra_filter */
        SHORT(ext[i], arena_printf(c->a, "Insufficient %s", c->s->ext_names[i]))
    }
#undef SHORT
    return v;
}

static enum verdict volumes(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    for (size_t i = 0; i < c->n_volumes; i++)
        if (!node_selector_matches(c->volumes[i], n->n))
            return REFUSE(NEVER, "node(s) didn't match PersistentVolume's node affinity");
    return FIT;
}

static int64_t count_at(const struct topo_counts *t, const char *value) {
    return (int64_t)(intptr_t)map_get(&t->by_value, value);
}

static enum verdict spreads(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    for (size_t i = 0; i < c->n_hard; i++) {
        const struct spread *x = &c->hard[i];
        const char *value = str_map_get(&n->n->metadata.labels, x->counts.key);
        if (!value)
            return REFUSE(NEVER, "node(s) didn't match pod topology spread constraints (missing required label)");
        if (count_at(&x->counts, value) + x->self - x->min > x->c->max_skew)
            return REFUSE(UNFIT, "node(s) didn't match pod topology spread constraints");
    }
    return FIT;
}

static enum verdict affinity(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    const struct str_map *labels = &n->n->metadata.labels;
    for (size_t i = 0; i < c->n_affinity; i++) {
        const char *value = str_map_get(labels, c->affinity[i].key);
        if (!value || (count_at(&c->affinity[i], value) <= 0 && !c->first_of_group))
            return REFUSE(NEVER, "node(s) didn't match pod affinity rules");
    }
    for (size_t i = 0; i < c->n_anti; i++) {
        const char *value = str_map_get(labels, c->anti[i].key);
        if (value && count_at(&c->anti[i], value) > 0)
            return REFUSE(UNFIT, "node(s) didn't match pod anti-affinity rules");
    }
    for (size_t i = 0; i < c->n_forbidden; i++)
        if (str_eq(str_map_get(labels, c->forbidden[i].key), c->forbidden[i].value))
            return REFUSE(UNFIT, "node(s) didn't satisfy existing pods anti-affinity rules");
    return FIT;
}

static const struct {
    const char *name;
    filter_fn *fn;
    bool by_pods; /* the pods that are there make the difference */
} filters[] = {
    {"NodeUnschedulable", node_unschedulable, false},
    {"NodeName", node_name, false},
    {"TaintToleration", taints, false},
    {"NodeAffinity", node_affinity, false},
    {"NodePorts", node_ports, true},
    {"NodeResourcesFit", resources, true},
    {"VolumeBinding", volumes, false},
    {"PodTopologySpread", spreads, true},
    {"InterPodAffinity", affinity, true},
    {"DynamicResources", dra_filter, false},
};

enum verdict filter_node(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        enum verdict v = filters[i].fn(c, n, reasons, n_reasons);
        if (v != FIT) return v;
    }
    return FIT;
}

enum verdict filter_pods_only(struct cycle *c, struct sched_node *n) {
    const char *reasons[EXT_MAX + 4];
    for (size_t i = 0; i < ARRAY_LEN(filters); i++) {
        size_t n_reasons = 0;
        if (!filters[i].by_pods) continue;
        enum verdict v = filters[i].fn(c, n, reasons, &n_reasons);
        if (v != FIT) return v;
    }
    return FIT;
}
