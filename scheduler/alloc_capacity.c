/* Parts of devices: what a request consumes of a device's capacities, by the policy of each (upstream
 * consumable_capacity.go). Devices that are not shared are given whole, but must have what is asked for. */
#include "alloc.h"

static struct quantity parse(const char *s) {
    struct quantity q = {0};
    quantity_parse(str_or_empty(s), &q);
    return q;
}

static struct quantity whole_units(int64_t v) {
    return (struct quantity){.nano = (__int128)v * 1000000000, .format = QUANTITY_BINARY_SI};
}

/* The smallest amount of the range's steps that covers what is asked for. */
static struct quantity round_to_range(struct quantity asked, const struct resource_capacity_request_policy_range *r) {
    struct quantity min = parse(r->min);
    if (quantity_cmp(asked, min) < 0) return min;
    int64_t step = r->step ? quantity_value(parse(r->step)) : 0, base = quantity_value(min);
    if (step <= 0) return asked;
    int64_t above = quantity_value(asked) - base;
    return whole_units(base + (above / step + (above % step != 0)) * step);
}

static struct quantity consumed(const char *asked, const struct resource_device_capacity *c) {
    const struct resource_capacity_request_policy *p = c->request_policy;
    if (!asked) return parse(p && p->default_ ? p->default_ : c->value);
    struct quantity q = parse(asked);
    if (p && p->valid_range && p->valid_range->min) return round_to_range(q, p->valid_range);
    for (size_t i = 0; p && i < p->valid_values.n; i++) { /* ascending */
        struct quantity v = parse(p->valid_values.items[i]);
        if (quantity_cmp(q, v) <= 0) return v;
    }
    return q;
}

static bool policy_allows(struct quantity q, const struct resource_capacity_request_policy *p) {
    if (!p || (p->default_ && quantity_cmp(q, parse(p->default_)) == 0)) return true;
    if (p->valid_range) {
        const struct resource_capacity_request_policy_range *r = p->valid_range;
        int64_t step = r->step ? quantity_value(parse(r->step)) : 0;
        if (r->max && quantity_cmp(q, parse(r->max)) > 0) return false;
        return step <= 0 || (quantity_value(q) - quantity_value(parse(r->min))) % step == 0;
    }
    for (size_t i = 0; i < p->valid_values.n; i++)
        if (quantity_cmp(q, parse(p->valid_values.items[i])) == 0) return true;
    return !p->valid_values.n;
}

static struct quantity sum_of(const struct dra_sum *v, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(v[i].name, name)) return v[i].sum;
    return (struct quantity){0};
}

bool alloc_capacity_suffices(const struct alloc *x, const struct alloc_want *w, const struct dra_device *dev) {
    const struct resource_device_capacity_map *m = &dev->d->capacity;
    for (size_t i = 0; i < w->capacity->n; i++) {
        size_t k = 0;
        while (k < m->n && !str_eq(m->items[k].key, w->capacity->items[i].key)) k++;
        if (k == m->n) return false;
    }
    for (size_t i = 0; i < m->n; i++) {
        const char *name = m->items[i].key;
        struct quantity q = consumed(str_map_get(w->capacity, name), &m->items[i].value);
        if (!policy_allows(q, m->items[i].value.request_policy)) return false;
        q = quantity_add(q, sum_of(dev->use->sums, dev->use->n_sums, name));
        FOREACH_CHOICE(x, k) {
            if (k->dev->use == dev->use) q = quantity_add(q, sum_of(k->sums, k->n_sums, name));
        }
        if (quantity_cmp(q, parse(m->items[i].value.value)) > 0) return false;
    }
    return true;
}

void alloc_capacity_take(struct alloc *x, const struct alloc_want *w, struct alloc_choice *c) {
    const struct resource_device_capacity_map *m = &c->dev->d->capacity;
    c->sums = arena_zalloc(x->a, (m->n + 1) * sizeof(*c->sums));
    for (size_t i = 0; i < m->n; i++)
        c->sums[c->n_sums++] =
            (struct dra_sum){m->items[i].key, consumed(str_map_get(w->capacity, m->items[i].key), &m->items[i].value)};
}
