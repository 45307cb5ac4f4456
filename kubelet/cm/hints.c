/* See hints.h.
 *
 * Upstream goes through every combination of the providers' hints. Here the providers are taken in one after the other: all
 * that matters of the combinations so far is which intersections they have, and whether an intersection came about by
 * hints that are equal and preferred. That is 2^nodes states at most, however many providers there are. */
#include "kubelet/cm/hints.h"

#include "pkg/base/arena.h"
#include "pkg/base/map.h"
#include "pkg/base/util.h"

struct hint_list *hint_set_add(struct arena *a, struct hint_set *s) {
    ARENA_GROW(a, s->items, s->n, s->cap);
    s->items[s->n] = (struct hint_list){0};
    return &s->items[s->n++];
}

void hint_add(struct arena *a, struct hint_list *l, uint64_t nodes) {
    ARENA_GROW(a, l->items, l->n, l->cap);
    l->items[l->n++] = (struct numa_hint){.nodes = nodes};
}

void hint_prefer(struct hint_list *l, size_t nodes) {
    for (size_t i = 0; i < l->n; i++) l->items[i].preferred |= node_count(l->items[i].nodes) == nodes;
}

bool nodes_narrower(uint64_t a, uint64_t b) {
    size_t x = node_count(a), y = node_count(b);
    return x == y ? a < b : x < y;
}

/* ---- choosing between two ---- */

static double mean_distance(const struct machine *m, uint64_t nodes) {
    double sum = 0, n = 0;
    for (size_t i = 0; i < m->n_nodes; i++)
        for (size_t k = 0; k < m->n_nodes; k++) {
            if (!(nodes >> m->nodes[i].id & 1) || !(nodes >> m->nodes[k].id & 1)) continue;
            sum += k < m->nodes[i].n_distances ? m->nodes[i].distances[k] : 0;
            n++;
        }
    return n > 0 ? sum / n : 0;
}

struct chooser {
    const struct machine *m;
    bool closest;
    size_t wanted; /* nodes that the most demanding provider needs at least */
    struct numa_hint best;
    bool found;
};

static bool fits_better(const struct chooser *c, uint64_t candidate, uint64_t current) {
    if (c->closest && node_count(candidate) == node_count(current)) {
        double x = mean_distance(c->m, candidate), y = mean_distance(c->m, current);
        if (x < y || x > y) return x < y;
    }
    return nodes_narrower(candidate, current);
}

/* How far from what is needed a set is that nobody prefers: the needed size first, then smaller ones, then larger. */
static size_t remoteness(size_t n, size_t wanted) { return n <= wanted ? wanted - n : MACHINE_NODES + n; }

static void offer(struct chooser *c, uint64_t nodes, bool preferred) {
    struct numa_hint h = {nodes, preferred};
    if (!nodes) return;
    bool better = !c->found;
    if (c->found && preferred != c->best.preferred) {
        better = preferred;
    } else if (c->found) {
        size_t x = remoteness(node_count(nodes), c->wanted), y = remoteness(node_count(c->best.nodes), c->wanted);
        better = preferred || x == y ? fits_better(c, nodes, c->best.nodes) : x < y;
    }
    if (better) c->best = h;
    c->found = true;
}

/* ---- merging ---- */

/* The intersections so far. `open`: only hints of any node until now, all of them preferred. */
struct merge {
    struct {
        uint64_t nodes;
        bool preferred;
    } * items;
    size_t n, cap;
    struct map seen;
    bool open;
};

static void put(struct arena *a, struct merge *g, uint64_t nodes, bool preferred) {
    char key[32];
    if (!nodes) return;
    snprintf(key, sizeof(key), "%llx%c", (unsigned long long)nodes, preferred ? '+' : '-');
    if (map_has(&g->seen, key)) return;
    map_put(&g->seen, key, (void *)1);
    ARENA_GROW(a, g->items, g->n, g->cap);
    g->items[g->n].nodes = nodes;
    g->items[g->n++].preferred = preferred;
}

static void step(struct arena *a, const struct merge *from, uint64_t all, struct numa_hint h, struct merge *to) {
    if (from->open && !h.nodes) {
        to->open |= h.preferred;
        if (!h.preferred) put(a, to, all, false);
    } else if (from->open) {
        put(a, to, h.nodes & all, h.preferred);
    }
    for (size_t i = 0; i < from->n; i++) {
        uint64_t have = from->items[i].nodes, nodes = h.nodes ? h.nodes : have;
        put(a, to, have & nodes, from->items[i].preferred && h.preferred && have == nodes);
    }
}

static bool counts(enum topology_policy policy, struct numa_hint h) {
    return policy != TOPOLOGY_SINGLE_NODE || (h.preferred && node_count(h.nodes) <= 1);
}

static struct merge merge_all(struct arena *a, uint64_t all, enum topology_policy policy, const struct hint_set *s) {
    struct merge now = {.open = true};
    for (size_t i = 0; i < s->n; i++) {
        const struct hint_list *l = &s->items[i];
        struct merge next = {0};
        struct numa_hint impossible = {0};
        if (l->any) continue;
        if (!l->n && counts(policy, impossible)) step(a, &now, all, impossible, &next);
        for (size_t k = 0; k < l->n; k++)
            if (counts(policy, l->items[k])) step(a, &now, all, l->items[k], &next);
        map_done(&now.seen);
        now = next;
    }
    return now;
}

static size_t most_demanding(enum topology_policy policy, const struct hint_set *s) {
    size_t most = 0;
    for (size_t i = 0; i < s->n; i++) {
        uint64_t narrowest = 0;
        for (size_t k = 0; k < s->items[i].n; k++) {
            struct numa_hint h = s->items[i].items[k];
            if (h.nodes && counts(policy, h) && (!narrowest || nodes_narrower(h.nodes, narrowest))) narrowest = h.nodes;
        }
        most = MAX_OF(most, node_count(narrowest));
    }
    return most;
}

bool hints_merge(const struct machine *m, enum topology_policy policy, bool closest, const struct hint_set *s,
                 struct numa_hint *out) {
    _cleanup_arena_ struct arena *a = arena_new();
    uint64_t all = machine_nodes(m);
    struct chooser c = {.m = m,
                        .closest = closest && policy != TOPOLOGY_SINGLE_NODE,
                        .wanted = most_demanding(policy, s),
                        .best = {.nodes = all}};
    struct merge g = merge_all(a, all, policy, s);
    if (g.open) offer(&c, all, true);
    for (size_t i = 0; i < g.n; i++) offer(&c, g.items[i].nodes, g.items[i].preferred);
    map_done(&g.seen);
    *out = c.best;
    if (policy == TOPOLOGY_SINGLE_NODE && out->nodes == all) out->nodes = 0;
    return policy <= TOPOLOGY_BEST_EFFORT || out->preferred;
}
