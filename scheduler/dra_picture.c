/* Slices, claims and what is allocated of each device; see dra.h. */
#include "dra.h"

#include "pkg/api/meta.h"
#include "pkg/client/claims.h"

void dra_init(struct dra *d) { *d = (struct dra){.slices = MAP_INIT}; }

/* ---- lists of slices ---- */

static const struct dra_slices no_slices;

static void slices_add(struct dra_slices *v, struct dra_slice *s) {
    VEC_GROW(v->items, v->n, v->cap);
    size_t at = v->n++;
    for (; at > 0 && strcmp(v->items[at - 1]->name, s->name) > 0; at--) v->items[at] = v->items[at - 1];
    v->items[at] = s;
}

static void slices_remove(struct dra_slices *v, const struct dra_slice *s) {
    size_t i = 0;
    while (i < v->n && v->items[i] != s) i++;
    if (i == v->n) return;
    memmove(v->items + i, v->items + i + 1, (v->n - i - 1) * sizeof(*v->items));
    v->n--;
}

static void index_add(struct map *m, const char *key, struct dra_slice *s) {
    struct dra_slices *v = map_get(m, key);
    if (!v) map_put(m, key, v = xcalloc(1, sizeof(*v)));
    slices_add(v, s);
}

static void index_remove(struct map *m, const char *key, const struct dra_slice *s) {
    struct dra_slices *v = map_get(m, key);
    if (!v) return;
    slices_remove(v, s);
    if (v->n) return;
    map_del(m, key);
    free(v->items);
    free(v);
}

const struct dra_slices *dra_slices_of_node(const struct dra *d, const char *node) {
    const struct dra_slices *v = map_get(&d->by_node, node);
    return v ? v : &no_slices;
}

const struct dra_slices *dra_slices_of_pool(const struct dra *d, const char *pool_key) {
    const struct dra_slices *v = map_get(&d->by_pool, pool_key);
    return v ? v : &no_slices;
}

/* ---- uses ---- */

static struct dra_use *use_ref(struct dra *d, const char *driver, const char *pool, const char *device) {
    _cleanup_free_ char *id = xasprintf("%s/%s/%s", str_or_empty(driver), str_or_empty(pool), str_or_empty(device));
    struct dra_use *u = map_get(&d->uses, id);
    if (!u) {
        u = xcalloc(1, sizeof(*u));
        u->id = xstrdup(id);
        map_put(&d->uses, id, u);
    }
    u->refs++;
    return u;
}

static void use_unref(struct dra *d, struct dra_use *u) {
    if (--u->refs) return;
    map_del(&d->uses, u->id);
    for (size_t i = 0; i < u->n_sums; i++) free((char *)u->sums[i].name);
    free(u->sums);
    free(u->id);
    free(u);
}

static void use_consume(struct dra_use *u, const char *name, const char *amount, int sign) {
    struct quantity q;
    if (quantity_parse(str_or_empty(amount), &q) < 0) return;
    size_t i = 0;
    while (i < u->n_sums && strcmp(u->sums[i].name, name) != 0) i++;
    if (i == u->n_sums) {
        VEC_GROW(u->sums, u->n_sums, u->cap_sums);
        u->sums[u->n_sums++] = (struct dra_sum){.name = xstrdup(name)};
    }
    u->sums[i].sum = sign > 0 ? quantity_add(u->sums[i].sum, q) : quantity_sub(u->sums[i].sum, q);
}

/* Access of administrators takes nothing from others. */
static void use_allocation(struct dra *d, const struct resource_allocation_result *r, int sign) {
    for (size_t i = 0; r && i < r->devices.results.n; i++) {
        const struct resource_device_request_allocation_result *x = &r->devices.results.items[i];
        if (x->admin_access && *x->admin_access) continue;
        struct dra_use *u = use_ref(d, x->driver, x->pool, x->device);
        if (sign < 0) u->refs--; /* of the time when it was counted */
        if (x->share_id) {
            u->shares += (uint32_t)sign;
            for (size_t k = 0; k < x->consumed_capacity.n; k++)
                use_consume(u, x->consumed_capacity.items[k].key, x->consumed_capacity.items[k].value, sign);
        } else {
            u->whole += (uint32_t)sign;
        }
        if (sign < 0) use_unref(d, u);
    }
}

/* ---- slices ---- */

static uint32_t slot_take(struct dra *d) { return d->n_free ? d->free_slots[--d->n_free] : (uint32_t)d->n_slots++; }

static void slot_give(struct dra *d, uint32_t slot) {
    VEC_GROW(d->free_slots, d->n_free, d->cap_free);
    d->free_slots[d->n_free++] = slot;
}

static bool of_one_node(const struct dra_slice *s) {
    return !str_empty(s->spec->node_name) && !s->spec->shared_counters.n;
}

static void slice_free(struct dra *d, struct dra_slice *s) {
    index_remove(&d->by_pool, s->pool_key, s);
    if (of_one_node(s))
        index_remove(&d->by_node, s->spec->node_name, s);
    else
        slices_remove(&d->shared, s);
    for (size_t i = 0; i < s->spec->devices.n; i++) {
        use_unref(d, s->devices[i].use);
        slot_give(d, s->devices[i].slot);
    }
    free(s->devices);
    free(s->pool_key);
    object_unref(s->o);
    free(s);
}

void dra_slice_set(struct dra *d, struct object *o) {
    struct dra_slice *s = xcalloc(1, sizeof(*s));
    const struct resource_resource_slice *r = o->obj;
    s->o = object_ref(o);
    s->spec = &r->spec;
    s->name = o->meta->name;
    s->pool_key = xasprintf("%s/%s", str_or_empty(r->spec.driver), str_or_empty(r->spec.pool.name));
    s->devices = xcalloc(r->spec.devices.n + 1, sizeof(*s->devices));
    for (size_t i = 0; i < r->spec.devices.n; i++) {
        const struct resource_device *dev = &r->spec.devices.items[i];
        s->devices[i] =
            (struct dra_device){dev, s, use_ref(d, r->spec.driver, r->spec.pool.name, dev->name), slot_take(d)};
    }
    dra_slice_gone(d, s->name);
    map_put(&d->slices, s->name, s);
    index_add(&d->by_pool, s->pool_key, s);
    if (of_one_node(s))
        index_add(&d->by_node, s->spec->node_name, s);
    else
        slices_add(&d->shared, s);
}

void dra_slice_gone(struct dra *d, const char *name) {
    struct dra_slice *s = map_get(&d->slices, name);
    if (!s) return;
    map_del(&d->slices, name);
    slice_free(d, s);
}

/* ---- classes ---- */

void dra_class_set(struct dra *d, struct object *o) {
    object_unref(map_put(&d->classes, o->meta->name, object_ref(o)));
}

void dra_class_gone(struct dra *d, const char *name) { object_unref(map_del(&d->classes, name)); }

const struct resource_device_class *dra_class_get(const struct dra *d, const char *name) {
    const struct object *o = map_get(&d->classes, str_or_empty(name));
    return o ? o->obj : NULL;
}

static bool preferred(const struct resource_device_class *a, const struct resource_device_class *than) {
    int c = than ? ktime_cmp(a->metadata.creation_timestamp, than->metadata.creation_timestamp) : 1;
    return c > 0 || (c == 0 && strcmp(a->metadata.name, than->metadata.name) < 0);
}

const struct resource_device_class *dra_class_of_resource(const struct dra *d, const char *resource) {
    const struct resource_device_class *best = NULL;
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&d->classes, &it, &key, &v)) {
        const struct resource_device_class *c = ((const struct object *)v)->obj;
        if (c->spec.extended_resource_name && str_eq(c->spec.extended_resource_name, resource) && preferred(c, best))
            best = c;
    }
    if (best || !str_has_prefix(resource, CLASS_RESOURCE_PREFIX)) return best;
    return dra_class_get(d, resource + strlen(CLASS_RESOURCE_PREFIX));
}

/* ---- claims ---- */

static const struct resource_allocation_result *allocation_of(const struct dra_claim *c) {
    const struct resource_resource_claim *k = c->o ? c->o->obj : NULL;
    return k && k->status.allocation ? k->status.allocation : c->pending;
}

static void pending_drop(struct dra_claim *c) {
    arena_free(c->pending_arena);
    c->pending_arena = NULL;
    c->pending = NULL;
}

static void claim_free(struct dra *d, struct dra_claim *c) {
    use_allocation(d, allocation_of(c), -1);
    pending_drop(c);
    object_unref(c->o);
    free(c->key);
    free(c);
}

struct dra_claim *dra_claim_get(const struct dra *d, const char *ns, const char *name) {
    _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(ns), str_or_empty(name));
    return map_get(&d->claims, key);
}

static struct dra_claim *claim_ensure(struct dra *d, const char *key) {
    struct dra_claim *c = map_get(&d->claims, key);
    if (c) return c;
    c = xcalloc(1, sizeof(*c));
    c->key = xstrdup(key);
    map_put(&d->claims, key, c);
    return c;
}

static bool older(const struct object *a, const struct object *than) {
    int64_t x, y;
    return str_eq(a->meta->uid, than->meta->uid) && str_to_i64(str_or_empty(a->rv), &x) == 0 &&
           str_to_i64(str_or_empty(than->rv), &y) == 0 && x < y;
}

bool dra_claim_set(struct dra *d, struct object *o) {
    struct dra_claim *c = claim_ensure(d, o->key);
    const struct resource_resource_claim *now = o->obj;
    if (c->o && older(o, c->o)) return false;
    bool had = allocation_of(c) != NULL, first = !c->o;
    struct object *was = c->o;
    use_allocation(d, allocation_of(c), -1);
    c->o = object_ref(o);
    if (now->status.allocation || (was && !str_eq(was->meta->uid, o->meta->uid))) pending_drop(c);
    use_allocation(d, allocation_of(c), 1);
    object_unref(was);
    return first || (had && !allocation_of(c));
}

bool dra_claim_gone(struct dra *d, const char *key, const char *uid) {
    struct dra_claim *c = map_get(&d->claims, key);
    if (!c || !c->o || !str_eq(c->o->meta->uid, uid)) return false;
    bool had = allocation_of(c) != NULL;
    map_del(&d->claims, key);
    claim_free(d, c);
    return had;
}

void dra_claim_pend(struct dra *d, const char *key, const struct resource_allocation_result *r) {
    struct dra_claim *c = claim_ensure(d, key);
    use_allocation(d, allocation_of(c), -1);
    pending_drop(c);
    c->pending_arena = arena_new();
    c->pending = api_clone(c->pending_arena, &api_resource_allocation_result, r);
    use_allocation(d, allocation_of(c), 1);
}

bool dra_claim_unpend(struct dra *d, const char *key) {
    struct dra_claim *c = map_get(&d->claims, key);
    if (!c || !c->pending) return false;
    bool counted = allocation_of(c) == c->pending;
    if (counted) use_allocation(d, c->pending, -1);
    pending_drop(c);
    if (!c->o) {
        map_del(&d->claims, key);
        claim_free(d, c);
    }
    return counted;
}

void dra_done(struct dra *d) {
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&d->claims, &it, &key, &v)) claim_free(d, v);
    map_done(&d->claims);
    for (it = 0; map_next(&d->slices, &it, &key, &v);) slice_free(d, v);
    map_done(&d->slices);
    for (it = 0; map_next(&d->classes, &it, &key, &v);) object_unref(v);
    map_done(&d->classes);
    map_done(&d->by_node);
    map_done(&d->by_pool);
    map_done(&d->uses);
    map_done(&d->selectors);
    arena_free(d->selector_arena);
    free(d->shared.items);
    free(d->free_slots);
}
