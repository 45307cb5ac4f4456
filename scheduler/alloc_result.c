/* From choices to ResourceClaim.status.allocation; see alloc.h. What it refers to lives as long as claims and slices of the
 * cycle do: whoever keeps it copies it. */
#include "alloc.h"
#include "pkg/base/bytes.h"

/* ---- devices ---- */

static void device_result(struct alloc *x, const struct alloc_choice *k,
                          struct resource_device_request_allocation_result *out) {
    *out = (struct resource_device_request_allocation_result){
        .request = k->want->name,
        .driver = k->dev->slice->spec->driver,
        .pool = k->dev->slice->spec->pool.name,
        .device = k->dev->d->name,
        .tolerations = *k->want->tolerations,
        .binding_conditions = k->dev->d->binding_conditions,
        .binding_failure_conditions = k->dev->d->binding_failure_conditions};
    if (k->want->admin) out->admin_access = arena_memdup(x->a, &(bool){true}, sizeof(bool));
    if (!k->share) return;
    char *id = arena_alloc(x->a, 37);
    uuid_new(id);
    out->share_id = id;
    out->consumed_capacity.items = arena_alloc(x->a, (k->n_sums + 1) * sizeof(struct str_map_entry));
    for (size_t i = 0; i < k->n_sums; i++)
        out->consumed_capacity.items[out->consumed_capacity.n++] =
            (struct str_map_entry){k->sums[i].name, quantity_format(x->a, k->sums[i].sum)};
}

/* ---- configuration ---- */

static void vec_add(struct arena *a, struct str_vec *v, const char *s) {
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] = s;
    v->items = items;
}

static bool vec_has(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

struct configs {
    struct resource_device_allocation_configuration *items;
    size_t n, cap;
};

static struct resource_device_allocation_configuration *config_add(struct alloc *x, struct configs *v,
                                                                   const char *source) {
    ARENA_GROW(x->a, v->items, v->n, v->cap);
    v->items[v->n] = (struct resource_device_allocation_configuration){.source = source};
    return &v->items[v->n++];
}

static const struct alloc_want *chosen(const struct alloc_request *q) { return &q->wants[q->chosen]; }

/* Each class speaks once, about all requests that use it. */
static void class_configs(struct alloc *x, struct alloc_claim *c, struct configs *out) {
    struct {
        const struct resource_device_class *class;
        size_t from, to;
    } *seen = arena_alloc(x->a, (c->n + 1) * sizeof(*seen));
    size_t n = 0, k;
    for (size_t i = 0; i < c->n; i++) {
        const struct alloc_want *w = chosen(&c->requests[i]);
        for (k = 0; k < n && seen[k].class != w->class; k++) continue;
        if (k == n) {
            seen[n].class = w->class;
            seen[n].from = out->n;
            for (size_t m = 0; m < w->class->spec.config.n; m++)
                config_add(x, out, "FromClass")->opaque = w->class->spec.config.items[m].opaque;
            seen[n++].to = out->n;
        }
        for (size_t m = seen[k].from; m < seen[k].to; m++) vec_add(x->a, &out->items[m].requests, w->name);
    }
}

static void claim_configs(struct alloc *x, struct alloc_claim *c, struct configs *out) {
    const struct resource_device_claim *d = &c->c->spec.devices;
    for (size_t i = 0; i < d->config.n; i++) {
        const struct resource_device_claim_configuration *k = &d->config.items[i];
        size_t times = !k->requests.n;
        for (size_t m = 0; k->requests.n && m < c->n; m++) {
            const struct alloc_want *w = chosen(&c->requests[m]);
            times += vec_has(&k->requests, w->base) || (w->sub && vec_has(&k->requests, w->name));
        }
        while (times--) {
            struct resource_device_allocation_configuration *o = config_add(x, out, "FromClaim");
            o->requests = k->requests;
            o->opaque = k->opaque;
        }
    }
}

/* ---- where it can be used ---- */

static bool same_values(const struct str_vec *a, const struct str_vec *b) {
    for (size_t i = 0; i < a->n; i++)
        if (!vec_has(b, a->items[i])) return false;
    for (size_t i = 0; i < b->n; i++)
        if (!vec_has(a, b->items[i])) return false;
    return true;
}

static void requirements_add(struct alloc *x, struct core_node_selector_requirement_vec *to,
                             const struct core_node_selector_requirement_vec *from) {
    for (size_t i = 0; i < from->n; i++) {
        const struct core_node_selector_requirement *q = &from->items[i];
        bool have = false;
        for (size_t k = 0; k < to->n; k++)
            have |= str_eq(to->items[k].key, q->key) && str_eq(to->items[k].operator, q->operator) &&
                    same_values(&to->items[k].values, &q->values);
        if (have) continue;
        struct core_node_selector_requirement *items = arena_alloc(x->a, (to->n + 1) * sizeof(*items));
        if (to->n) memcpy(items, to->items, to->n * sizeof(*items));
        items[to->n++] = *q;
        to->items = items;
    }
}

static struct core_node_selector *selector_new(struct alloc *x) {
    struct core_node_selector *s = arena_zalloc(x->a, sizeof(*s));
    s->node_selector_terms.items = arena_zalloc(x->a, sizeof(*s->node_selector_terms.items));
    s->node_selector_terms.n = 1;
    return s;
}

static struct core_node_selector *only_this_node(struct alloc *x) {
    struct core_node_selector *s = selector_new(x);
    struct str_vec name = {0};
    vec_add(x->a, &name, x->node->metadata.name);
    struct core_node_selector_requirement one = {.key = "metadata.name", .operator= "In", .values = name};
    requirements_add(x, &s->node_selector_terms.items[0].match_fields,
                     &(struct core_node_selector_requirement_vec){&one, 1});
    return s;
}

/* NULL: everywhere. */
static struct core_node_selector *selector_of(struct alloc *x, const struct alloc_claim *c) {
    struct core_node_selector *s = selector_new(x);
    struct core_node_selector_term *t = &s->node_selector_terms.items[0];
    for (size_t i = 0; i < c->n_choices; i++) {
        const struct resource_device *d = c->choices[i].dev->d;
        const struct resource_resource_slice_spec *p = c->choices[i].dev->slice->spec;
        bool own = p->per_device_node_selection && *p->per_device_node_selection;
        const struct core_node_selector *from = own ? d->node_selector : p->node_selector;
        if (own ? d->node_name != NULL : p->node_name != NULL) return only_this_node(x);
        if (d->binds_to_node && *d->binds_to_node) return only_this_node(x);
        if (!from || !from->node_selector_terms.n) continue; /* validation allows one term */
        requirements_add(x, &t->match_fields, &from->node_selector_terms.items[0].match_fields);
        requirements_add(x, &t->match_expressions, &from->node_selector_terms.items[0].match_expressions);
    }
    return t->match_fields.n || t->match_expressions.n ? s : NULL;
}

void alloc_result(struct alloc *x, struct alloc_claim *c, struct resource_allocation_result *out) {
    struct configs v = {0};
    out->devices.results.items = arena_zalloc(x->a, (c->n_choices + 1) * sizeof(*out->devices.results.items));
    for (size_t i = 0; i < c->n_choices; i++)
        device_result(x, &c->choices[i], &out->devices.results.items[out->devices.results.n++]);
    class_configs(x, c, &v);
    claim_configs(x, c, &v);
    out->devices.config.items = v.items;
    out->devices.config.n = v.n;
    out->node_selector = selector_of(x, c);
}
