/* Scores: which of the nodes that fit is best? Each score function gives raw numbers, a normalisation brings
 * them to 0..100, and the weights are upstream's defaults. */
#include <math.h>

#include "pkg/api/meta.h"
#include "scheduler.h"

typedef void score_fn(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw);

/* Share of a resource that stays free. */
static int64_t free_share(int64_t requested, int64_t have) {
    return have <= 0 || requested > have ? 0 : (have - requested) * SCORE_MAX / have;
}

static void least_allocated(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    for (size_t i = 0; i < n; i++)
        raw[i] = (free_share(nodes[i]->nz_cpu + c->sp->nz_cpu, nodes[i]->alloc.cpu) +
                  free_share(nodes[i]->nz_mem + c->sp->nz_mem, nodes[i]->alloc.mem)) /
                 2;
}

/* The closer cpu and memory are in use to the same degree, the better. */
static void balanced(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    for (size_t i = 0; i < n; i++) {
        const struct sched_node *x = nodes[i];
        double cpu = x->alloc.cpu ? (double)(x->used.cpu + c->sp->req.cpu) / (double)x->alloc.cpu : 1;
        double mem = x->alloc.mem ? (double)(x->used.mem + c->sp->req.mem) / (double)x->alloc.mem : 1;
        raw[i] = (int64_t)((1 - fabs(MIN_OF(cpu, 1.0) - MIN_OF(mem, 1.0)) / 2) * SCORE_MAX);
    }
}

/* Taints with PreferNoSchedule that the pod does not tolerate; fewer is better. */
static void soft_taints(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    for (size_t i = 0; i < n; i++) {
        const struct core_taint_vec *v = &nodes[i]->n->spec.taints;
        for (size_t k = 0; k < v->n; k++) {
            struct core_taint_vec one = {&v->items[k], 1};
            if (untolerated(&c->p->spec.tolerations, &one, "PreferNoSchedule")) raw[i]++;
        }
    }
}

static void node_preference(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    const struct core_affinity *a = c->p->spec.affinity;
    if (!a || !a->node_affinity) return;
    const struct core_preferred_scheduling_term_vec *v =
        &a->node_affinity->preferred_during_scheduling_ignored_during_execution;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < v->n; k++)
            if (node_selector_term_matches(&v->items[k].preference, nodes[i]->n)) raw[i] += v->items[k].weight;
}

static void pod_preference(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < c->n_prefer; k++) {
            const char *value = str_map_get(&nodes[i]->n->metadata.labels, c->prefer[k].key);
            if (value) raw[i] += (int64_t)(intptr_t)map_get(&c->prefer[k].by_value, value);
        }
}

/* Matching pods in the node's domains, and siblings on the node; fewer is better. */
static void spreading(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    const struct owner_spread *mates = c->p->spec.topology_spread_constraints.n ? NULL : c->sp->owner;
    if (!mates && !c->n_soft) return;
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t k = 0; k < c->n_soft; k++) {
            const struct spread *x = &c->soft[k];
            const char *value = str_map_get(&nodes[i]->n->metadata.labels, x->counts.key);
            double count = value ? (double)(intptr_t)map_get(&x->counts.by_value, value) : (double)x->counts.total;
            sum += count * log((double)x->domains + 2) + (x->c->max_skew - 1);
        }
        if (mates && nodes[i]->index < mates->cap) sum += mates->by_node[nodes[i]->index];
        raw[i] = (int64_t)llround(sum);
    }
}

#define MB (INT64_C(1024) * 1024)
enum { IMAGE_MIN_MB = 23, IMAGE_MAX_MB = 1000 };

static bool has_image(const struct core_container_image *im, const char *name) {
    for (size_t i = 0; i < im->names.n; i++) {
        const char *s = im->names.items[i];
        size_t len = strlen(name);
        if (strncmp(s, name, len) == 0 && (s[len] == 0 || strcmp(s + len, ":latest") == 0)) return true;
    }
    return false;
}

/* Bytes of the pod's images that the node has already. */
static void image_locality(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    size_t containers = c->p->spec.containers.n;
    if (n < 2 || !containers) return;
    for (size_t i = 0; i < n; i++) {
        const struct core_container_image_vec *v = &nodes[i]->n->status.images;
        int64_t sum = 0;
        for (size_t k = 0; k < containers; k++)
            for (size_t m = 0; m < v->n; m++)
                if (has_image(&v->items[m], str_or_empty(c->p->spec.containers.items[k].image)))
                    sum += v->items[m].size_bytes;
        int64_t lo = IMAGE_MIN_MB * MB, hi = IMAGE_MAX_MB * MB * (int64_t)containers;
        raw[i] = sum <= lo ? 0 : (MIN_OF(sum, hi) - lo) * SCORE_MAX / (hi - lo);
    }
}

enum normal { AS_IS, HIGHEST_BEST, LOWEST_BEST, RANGE };
static const struct {
    const char *name;
    score_fn *fn;
    enum normal normal;
    int weight;
} scores_table[] = {
    {"TaintToleration", soft_taints, LOWEST_BEST, 3}, {"NodeAffinity", node_preference, HIGHEST_BEST, 2},
    {"PodTopologySpread", spreading, LOWEST_BEST, 2}, {"InterPodAffinity", pod_preference, RANGE, 2},
    {"NodeResourcesFit", least_allocated, AS_IS, 1},  {"NodeResourcesBalancedAllocation", balanced, AS_IS, 1},
    {"ImageLocality", image_locality, AS_IS, 1},      {"DynamicResources", dra_scores, HIGHEST_BEST, 2},
};

static int64_t normalise(int64_t v, int64_t min, int64_t max, enum normal how) {
    switch (how) {
        case AS_IS: return v;
        case HIGHEST_BEST: return max ? v * SCORE_MAX / max : 0;
        case LOWEST_BEST: return max ? SCORE_MAX - v * SCORE_MAX / max : SCORE_MAX;
        case RANGE: return max > min ? (v - min) * SCORE_MAX / (max - min) : 0;
    }
    return 0;
}

void score_nodes(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *scores) {
    int64_t *raw = arena_alloc(c->a, n * sizeof(*raw));
    memset(scores, 0, n * sizeof(*scores));
    for (size_t t = 0; t < ARRAY_LEN(scores_table); t++) {
        memset(raw, 0, n * sizeof(*raw));
        scores_table[t].fn(c, nodes, n, raw);
        int64_t min = INT64_MAX, max = INT64_MIN;
        for (size_t i = 0; i < n; i++) {
            min = MIN_OF(min, raw[i]);
            max = MAX_OF(max, raw[i]);
        }
        for (size_t i = 0; i < n; i++)
            scores[i] += scores_table[t].weight * normalise(raw[i], min, max, scores_table[t].normal);
    }
}
