/* The pools of devices that a node can use; see alloc.h.
 *
 * A pool is all slices of one driver and pool name with the newest generation. While its driver replaces it, some are
 * missing: nothing is taken from such a pool. One whose slices contradict each other is invalid. */
#include "alloc.h"
#include "pkg/client/nodematch.h"

bool alloc_node_matches(const struct core_node *n, const char *name, bool all, const struct core_node_selector *s) {
    if (!str_empty(name)) return str_eq(n->metadata.name, name);
    return all || (s && node_selector_matches(s, n));
}

static bool relevant(const struct alloc *x, const struct dra_slice *s) {
    const struct resource_resource_slice_spec *p = s->spec;
    bool all = p->all_nodes && *p->all_nodes;
    if (p->shared_counters.n) return true; /* its counters are needed wherever its devices are */
    if (!str_empty(p->node_name) || all || p->node_selector)
        return alloc_node_matches(x->node, p->node_name, all, p->node_selector);
    if (!p->per_device_node_selection || !*p->per_device_node_selection) return false;
    for (size_t i = 0; i < p->devices.n; i++) {
        const struct resource_device *d = &p->devices.items[i];
        if (alloc_node_matches(x->node, d->node_name, d->all_nodes && *d->all_nodes, d->node_selector)) return true;
    }
    return false;
}

static void slice_insert(struct alloc *x, struct dra_slice ***v, size_t *n, size_t *cap, struct dra_slice *s) {
    ARENA_GROW(x->a, *v, *n, *cap);
    size_t at = (*n)++;
    for (; at > 0 && strcmp((*v)[at - 1]->name, s->name) > 0; at--) (*v)[at] = (*v)[at - 1];
    (*v)[at] = s;
}

static void pool_add(struct alloc *x, struct alloc_pool **list, size_t *n, struct dra_slice *s) {
    struct alloc_pool *p = NULL;
    for (size_t i = 0; i < *n && !p; i++)
        if (str_eq(list[i]->key, s->pool_key)) p = list[i];
    if (p && s->spec->pool.generation < p->generation) return;
    if (!p) list[(*n)++] = p = arena_zalloc(x->a, sizeof(*p));
    if (!p->key || s->spec->pool.generation > p->generation)
        *p = (struct alloc_pool){.key = s->pool_key, .generation = s->spec->pool.generation};
    p->n_seen++;
    if (s->spec->shared_counters.n)
        slice_insert(x, &p->counter_slices, &p->n_counter_slices, &p->cap_counter_slices, s);
    else
        slice_insert(x, &p->items, &p->n, &p->cap, s);
}

/* ---- is it sound? ---- */

static const struct resource_counter_set *counter_set(const struct alloc_pool *p, const char *name) {
    for (size_t i = 0; i < p->n_counter_slices; i++) {
        const struct resource_counter_set_vec *v = &p->counter_slices[i]->spec->shared_counters;
        for (size_t k = 0; k < v->n; k++)
            if (str_eq(v->items[k].name, name)) return &v->items[k];
    }
    return NULL;
}

static const struct resource_counter *counter_in(const struct resource_counter_map *m, const char *name) {
    for (size_t i = 0; i < m->n; i++)
        if (str_eq(m->items[i].key, name)) return &m->items[i].value;
    return NULL;
}

static bool counters_known(const struct alloc_pool *p, const struct dra_slice *s) {
    for (size_t i = 0; i < s->spec->devices.n; i++) {
        const struct resource_device_counter_consumption_vec *v = &s->spec->devices.items[i].consumes_counters;
        for (size_t k = 0; k < v->n; k++) {
            const struct resource_counter_set *set = counter_set(p, v->items[k].counter_set);
            if (!set) return false;
            for (size_t m = 0; m < v->items[k].counters.n; m++)
                if (!counter_in(&set->counters, v->items[k].counters.items[m].key)) return false;
        }
    }
    return true;
}

/* The same use stands behind devices of one name. */
static bool names_unique(struct alloc *x, const struct alloc_pool *p) {
    if (p->n == 0) return true;
    _cleanup_map_ struct map seen = MAP_INIT;
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < p->items[i]->spec->devices.n; k++) {
            const char *name = str_or_empty(p->items[i]->spec->devices.items[k].name);
            if (map_has(&seen, name)) return false;
            map_put(&seen, name, &seen);
        }
    return true;
}

static bool counter_sets_unique(const struct alloc_pool *p) {
    for (size_t i = 0; i < p->n_counter_slices; i++) {
        const struct resource_counter_set_vec *v = &p->counter_slices[i]->spec->shared_counters;
        for (size_t k = 0; k < v->n; k++)
            if (counter_set(p, v->items[k].name) != &v->items[k]) return false;
    }
    return true;
}

/* All slices of the pool's generation, also those of other nodes; false: there is a newer one. */
static bool whole_pool(struct alloc *x, const struct alloc_pool *p, struct dra_slice ***out, size_t *n) {
    const struct dra_slices *all = dra_slices_of_pool(x->d, p->key);
    *out = arena_alloc(x->a, (all->n + 1) * sizeof(**out));
    *n = 0;
    for (size_t i = 0; i < all->n; i++) {
        if (all->items[i]->spec->pool.generation > p->generation) return false;
        if (all->items[i]->spec->pool.generation == p->generation) (*out)[(*n)++] = all->items[i];
    }
    return true;
}

/* False: the pool is being replaced by one that has nothing for this node. */
static bool pool_judge(struct alloc *x, struct alloc_pool *p) {
    const struct dra_slice *any = p->n ? p->items[0] : p->counter_slices[0];
    struct dra_slice **all = NULL;
    size_t n_all = p->n_seen;
    int64_t wanted = any->spec->pool.resource_slice_count;
    if ((int64_t)p->n_seen != wanted) {
        if (!whole_pool(x, p, &all, &n_all)) return false;
        p->incomplete = (int64_t)n_all != wanted;
    }
    if (p->incomplete) return true;
    p->invalid = !names_unique(x, p) || !counter_sets_unique(p);
    for (size_t i = 0; !p->invalid && i < p->n; i++) p->invalid = !counters_known(p, p->items[i]);
    for (size_t i = 0; all && !p->invalid && i < n_all; i++) p->invalid = !counters_known(p, all[i]);
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < p->items[i]->spec->devices.n; k++)
            p->conditional |= p->items[i]->spec->devices.items[k].binding_conditions.n > 0;
    return true;
}

/* By driver and name; devices with binding conditions are the last choice. */
static int by_key(const void *a, const void *b) {
    const struct alloc_pool *x = *(struct alloc_pool *const *)a, *y = *(struct alloc_pool *const *)b;
    if (x->conditional != y->conditional) return x->conditional ? 1 : -1;
    size_t n = strcspn(x->key, "/"), m = strcspn(y->key, "/");
    int r = strncmp(x->key, y->key, MIN_OF(n, m));
    if (r == 0 && n != m) r = n < m ? -1 : 1;
    return r ? r : strcmp(x->key + n, y->key + m);
}

int alloc_pools_gather(struct alloc *x, struct err *e) {
    const struct dra_slices *local = dra_slices_of_node(x->d, x->node->metadata.name), *shared = &x->d->shared;
    struct alloc_pool **list = arena_alloc(x->a, (local->n + shared->n + 1) * sizeof(*list));
    size_t n = 0;
    for (size_t i = 0; i < local->n; i++) pool_add(x, list, &n, local->items[i]);
    for (size_t i = 0; i < shared->n; i++)
        if (relevant(x, shared->items[i])) pool_add(x, list, &n, shared->items[i]);
    x->pools = arena_alloc(x->a, (n + 1) * sizeof(*x->pools));
    x->n_pools = 0;
    for (size_t i = 0; i < n; i++)
        if (pool_judge(x, list[i])) x->pools[x->n_pools++] = list[i];
    qsort(x->pools, x->n_pools, sizeof(*x->pools), by_key);
    return 0;
}

/* ---- counters ---- */

static struct quantity amount(const char *s) {
    struct quantity q = {0};
    quantity_parse(str_or_empty(s), &q);
    return q;
}

static void count_device(struct alloc_pool *p, const struct resource_device *d, struct alloc_counter *in, size_t n) {
    for (size_t i = 0; i < d->consumes_counters.n; i++) {
        const struct resource_device_counter_consumption *k = &d->consumes_counters.items[i];
        for (size_t c = 0; c < n; c++) {
            const struct resource_counter *v =
                str_eq(in[c].set, k->counter_set) ? counter_in(&k->counters, in[c].name) : NULL;
            if (v) in[c].left = quantity_sub(in[c].left, amount(v->value));
        }
    }
}

/* What is left of the pool's counters by the allocations that are there, on whatever node. */
static void count_pool(struct alloc *x, struct alloc_pool *p) {
    struct dra_slice **all;
    size_t n;
    p->counted = true;
    for (size_t i = 0; i < p->n_counter_slices; i++) {
        const struct resource_counter_set_vec *v = &p->counter_slices[i]->spec->shared_counters;
        for (size_t k = 0; k < v->n; k++)
            for (size_t m = 0; m < v->items[k].counters.n; m++) {
                ARENA_GROW(x->a, p->counters, p->n_counters, p->cap_counters);
                p->counters[p->n_counters++] =
                    (struct alloc_counter){v->items[k].name, v->items[k].counters.items[m].key,
                                           amount(v->items[k].counters.items[m].value.value)};
            }
    }
    if (!whole_pool(x, p, &all, &n)) return;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < all[i]->spec->devices.n; k++)
            if (dra_use_any(all[i]->devices[k].use)) count_device(p, all[i]->devices[k].d, p->counters, p->n_counters);
}

bool alloc_counters_suffice(struct alloc *x, struct alloc_pool *p, const struct dra_device *dev) {
    bool shared_already = alloc_shareable(dev->d) && dev->use->shares > 0;
    FOREACH_CHOICE(x, k) shared_already |= alloc_shareable(dev->d) && k->dev->use == dev->use;
    if (!p || !dev->d->consumes_counters.n || shared_already) return true; /* the first share pays for all */
    if (!p->counted) count_pool(x, p);
    struct alloc_counter *left = arena_memdup(x->a, p->counters, (p->n_counters + 1) * sizeof(*left));
    const struct dra_use **seen = arena_alloc(x->a, (x->n * ALLOCATION_RESULTS_MAX + 1) * sizeof(*seen));
    size_t n_seen = 0;
    FOREACH_CHOICE(x, k) {
        bool counted = dra_use_any(k->dev->use) && alloc_shareable(k->dev->d);
        for (size_t i = 0; i < n_seen; i++) counted |= seen[i] == k->dev->use;
        if (counted || !str_eq(k->dev->slice->pool_key, p->key)) continue;
        seen[n_seen++] = k->dev->use;
        count_device(p, k->dev->d, left, p->n_counters);
    }
    count_device(p, dev->d, left, p->n_counters);
    for (size_t i = 0; i < p->n_counters; i++)
        if (left[i].left.nano < 0) return false;
    return true;
}
