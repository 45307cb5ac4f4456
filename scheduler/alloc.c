/* Requests and the search; see alloc.h. */
#include "alloc.h"

#include "pkg/api/meta.h"
#include "pkg/base/ktime.h"

enum { DONE = 1, NONE = 0, TOO_MANY = -E2BIG, CLOCK_EVERY = 64 };

static const struct str_map nothing;

static const char *key_of(struct alloc *x, const struct resource_resource_claim *c) {
    return arena_printf(x->a, "%s/%s", str_or_empty(c->metadata.namespace), str_or_empty(c->metadata.name));
}

/* ---- requests ---- */

static int want_init(struct alloc *x, const struct resource_resource_claim *c, struct alloc_want *w, const char *class,
                     const char *mode, alloc_class_fn *class_of, void *arg, struct err *e) {
    if (str_empty(class))
        return err_set(e, -EINVAL, "claim %s, request %s: missing device class name (unsupported request type?)",
                       key_of(x, c), w->name);
    w->class = class_of(arg, class);
    if (!w->class)
        return err_set(e, -EINVAL, "claim %s, request %s: could not retrieve device class %s", key_of(x, c), w->name,
                       class);
    w->all = str_eq(mode, "All");
    if (!w->all && !str_eq(mode, "ExactCount"))
        return err_set(e, -EINVAL, "claim %s, request %s: unsupported count mode %s", key_of(x, c), w->name,
                       str_or_empty(mode));
    w->match = arena_zalloc(x->a, x->d->n_slots + 1);
    return 0;
}

static int exact_init(struct alloc *x, const struct resource_resource_claim *c, struct alloc_request *q,
                      alloc_class_fn *class_of, void *arg, struct err *e) {
    const struct resource_exact_device_request *r = q->r->exactly;
    q->wants = arena_zalloc(x->a, sizeof(*q->wants));
    q->n = 1;
    q->wants[0] = (struct alloc_want){.name = q->r->name,
                                      .base = q->r->name,
                                      .selectors = &r->selectors,
                                      .tolerations = &r->tolerations,
                                      .capacity = r->capacity ? &r->capacity->requests : &nothing,
                                      .count = r->count,
                                      .admin = r->admin_access && *r->admin_access};
    return want_init(x, c, q->wants, r->device_class_name, r->allocation_mode, class_of, arg, e);
}

static int alternatives_init(struct alloc *x, const struct resource_resource_claim *c, struct alloc_request *q,
                             alloc_class_fn *class_of, void *arg, struct err *e) {
    q->n = q->r->first_available.n;
    q->wants = arena_zalloc(x->a, (q->n + 1) * sizeof(*q->wants));
    for (size_t i = 0; i < q->n; i++) {
        const struct resource_device_sub_request *r = &q->r->first_available.items[i];
        q->wants[i] = (struct alloc_want){.name = arena_printf(x->a, "%s/%s", q->r->name, r->name),
                                          .base = q->r->name,
                                          .sub = r->name,
                                          .selectors = &r->selectors,
                                          .tolerations = &r->tolerations,
                                          .capacity = r->capacity ? &r->capacity->requests : &nothing,
                                          .count = r->count};
        int rc = want_init(x, c, &q->wants[i], r->device_class_name, r->allocation_mode, class_of, arg, e);
        if (rc < 0) return rc;
    }
    return 0;
}

static int constraints_check(struct alloc *x, const struct resource_resource_claim *c, struct err *e) {
    for (size_t i = 0; i < c->spec.devices.constraints.n; i++) {
        const struct resource_device_constraint *k = &c->spec.devices.constraints.items[i];
        if (!k->match_attribute && !k->distinct_attribute)
            return err_set(e, -EINVAL, "claim %s, constraint #%zu: empty constraint (unsupported constraint type?)",
                           key_of(x, c), i);
    }
    return 0;
}

int alloc_new(struct arena *a, struct dra *d, const struct resource_resource_claim *const *claims, size_t n,
              alloc_class_fn *class_of, void *arg, struct alloc **out, struct err *e) {
    struct alloc *x = arena_zalloc(a, sizeof(*x));
    *x = (struct alloc){.a = a, .d = d, .n = n, .claims = arena_zalloc(a, (n + 1) * sizeof(*x->claims))};
    for (size_t i = 0; i < n; i++) {
        struct alloc_claim *c = &x->claims[i];
        c->c = claims[i];
        c->n = claims[i]->spec.devices.requests.n;
        c->requests = arena_zalloc(a, (c->n + 1) * sizeof(*c->requests));
        for (size_t k = 0; k < c->n; k++) {
            struct alloc_request *q = &c->requests[k];
            q->r = &claims[i]->spec.devices.requests.items[k];
            int r = q->r->exactly             ? exact_init(x, c->c, q, class_of, arg, e)
                    : q->r->first_available.n ? alternatives_init(x, c->c, q, class_of, arg, e)
                                              : err_set(e, -EINVAL, "claim %s, request %s: unknown request type",
                                                        key_of(x, c->c), str_or_empty(q->r->name));
            if (r < 0) return r;
        }
        int r = constraints_check(x, c->c, e);
        if (r < 0) return r;
    }
    *out = x;
    return 0;
}

/* ---- is a device good for a request at all? ---- */

static int selectable(struct alloc *x, struct alloc_claim *c, struct alloc_want *w, const struct dra_device *dev) {
    const struct dra_slice *s = dev->slice;
    uint8_t *known = &w->match[dev->slot];
    if (!*known) {
        int r = dra_selectors_match(x->d, x->a, &w->class->spec.selectors, s->spec->driver, dev->d, x->e);
        if (r < 0) return err_wrap(x->e, "class %s", w->class->metadata.name);
        if (r > 0) {
            r = dra_selectors_match(x->d, x->a, w->selectors, s->spec->driver, dev->d, x->e);
            if (r < 0) return err_wrap(x->e, "claim %s", key_of(x, c->c));
        }
        *known = r > 0 ? 2 : 1;
    }
    if (*known == 1) return 0;
    if (!s->spec->per_device_node_selection || !*s->spec->per_device_node_selection) return 1;
    return alloc_node_matches(x->node, dev->d->node_name, dev->d->all_nodes && *dev->d->all_nodes,
                              dev->d->node_selector);
}

/* The devices that "all" means on this node. */
static int gather_every(struct alloc *x, struct alloc_claim *c, struct alloc_want *w) {
    size_t cap = 0;
    w->n_devices = 0;
    w->every = NULL;
    for (size_t i = 0; i < x->n_pools; i++) {
        struct alloc_pool *p = x->pools[i];
        if (p->incomplete || p->invalid)
            return err_set(x->e, -EINVAL,
                           "claim %s, request %s: asks for all devices, but resource pool %s is currently %s",
                           key_of(x, c->c), w->name, p->key, p->incomplete ? "being updated" : "invalid");
        for (size_t k = 0; k < p->n; k++)
            for (size_t m = 0; m < p->items[k]->spec->devices.n; m++) {
                struct dra_device *dev = &p->items[k]->devices[m];
                int r = selectable(x, c, w, dev);
                if (r < 0) return r;
                if (!r || !alloc_capacity_suffices(x, w, dev)) continue;
                ARENA_GROW(x->a, w->every, w->n_devices, cap);
                w->every[w->n_devices++] = dev;
            }
    }
    return 0;
}

static int prepare_requests(struct alloc *x) {
    for (size_t i = 0; i < x->n; i++) {
        struct alloc_claim *c = &x->claims[i];
        size_t least = 0;
        c->n_choices = 0;
        for (size_t k = 0; k < c->n; k++) {
            struct alloc_request *q = &c->requests[k];
            size_t fewest = SIZE_MAX;
            for (size_t m = 0; m < q->n; m++) {
                struct alloc_want *w = &q->wants[m];
                w->n_devices = (size_t)MAX_OF(w->count, 0);
                int r = w->all ? gather_every(x, c, w) : 0;
                if (r < 0) return r;
                fewest = MIN_OF(fewest, w->n_devices);
            }
            least = fewest > SIZE_MAX - least ? SIZE_MAX : least + fewest;
        }
        if (least > ALLOCATION_RESULTS_MAX)
            return err_set(x->e, -EINVAL, "claim %s: number of requested devices %zu exceeds the claim limit of %d",
                           key_of(x, c->c), least, ALLOCATION_RESULTS_MAX);
    }
    return 0;
}

/* ---- is it free, and does it go with the others? ---- */

static bool chosen_for(const struct alloc_claim *c, const struct dra_device *dev) {
    for (size_t i = 0; i < c->n_choices; i++)
        if (c->choices[i].dev->use == dev->use && !c->choices[i].share) return true;
    return false;
}

static bool in_use(const struct alloc *x, const struct dra_device *dev) {
    if (dev->use->whole) return true;
    for (size_t i = 0; i < x->n; i++)
        if (chosen_for(&x->claims[i], dev)) return true;
    return false;
}

static bool taints_tolerated(const struct alloc_want *w, const struct resource_device *d) {
    for (size_t i = 0; i < d->taints.n; i++) {
        const struct resource_device_taint *t = &d->taints.items[i];
        bool ok = !str_eq(t->effect, "NoSchedule") && !str_eq(t->effect, "NoExecute");
        for (size_t k = 0; !ok && k < w->tolerations->n; k++)
            ok = device_toleration_tolerates(&w->tolerations->items[k], t);
        if (!ok) return false;
    }
    return true;
}

static bool constrains(const struct resource_device_constraint *k, const struct alloc_want *w) {
    for (size_t i = 0; i < k->requests.n; i++)
        if (str_eq(k->requests.items[i], w->base) || (w->sub && str_eq(k->requests.items[i], w->name))) return true;
    return !k->requests.n;
}

/* By its full name; attributes of the driver's own domain are written without it. */
static const struct resource_device_attribute *attribute_of(const struct dra_device *dev, const char *name) {
    const struct resource_device_attribute_map *m = &dev->d->attributes;
    const char *slash = strchr(name, '/');
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->items[i].key, name) == 0) return &m->items[i].value;
    const char *driver = str_or_empty(dev->slice->spec->driver);
    if (!slash || strlen(driver) != (size_t)(slash - name) || strncmp(driver, name, (size_t)(slash - name)) != 0)
        return NULL;
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->items[i].key, slash + 1) == 0) return &m->items[i].value;
    return NULL;
}

static bool same_value(const struct resource_device_attribute *a, const struct resource_device_attribute *b) {
    if (a->string) return str_eq(a->string, b->string);
    if (a->int_) return b->int_ && *a->int_ == *b->int_;
    if (a->bool_) return b->bool_ && *a->bool_ == *b->bool_;
    return a->version && str_eq(a->version, b->version);
}

static bool constraints_allow(const struct alloc_claim *c, const struct alloc_want *w, const struct dra_device *dev) {
    for (size_t i = 0; i < c->c->spec.devices.constraints.n; i++) {
        const struct resource_device_constraint *k = &c->c->spec.devices.constraints.items[i];
        if (!constrains(k, w)) continue;
        const char *name = k->match_attribute ? k->match_attribute : k->distinct_attribute;
        const struct resource_device_attribute *mine = attribute_of(dev, name);
        if (!mine) return false;
        for (size_t n = 0; n < c->n_choices; n++) {
            if (!constrains(k, c->choices[n].want)) continue;
            const struct resource_device_attribute *other = attribute_of(c->choices[n].dev, name);
            if (other && same_value(mine, other) != (k->match_attribute != NULL)) return false;
        }
    }
    return true;
}

/* Takes the device if that can be: 1, 0, or an error when exactly this one was needed. */
static int choose(struct alloc *x, struct alloc_claim *c, const struct alloc_want *w, struct alloc_pool *p,
                  struct dra_device *dev, bool must) {
    bool share = alloc_shareable(dev->d);
    if (w->admin ? !share && chosen_for(c, dev) : in_use(x, dev)) return 0;
    if (!alloc_counters_suffice(x, p, dev) || !taints_tolerated(w, dev->d)) return 0;
    if (!constraints_allow(c, w, dev)) {
        if (!must) return 0;
        return err_set(x->e, -EINVAL,
                       "claim %s, request %s: cannot add device %s because a claim constraint would not be satisfied",
                       key_of(x, c->c), w->sub ? w->sub : w->name, dev->use->id);
    }
    if (!alloc_capacity_suffices(x, w, dev)) return 0;
    struct alloc_choice *k = &c->choices[c->n_choices];
    *k = (struct alloc_choice){.dev = dev, .want = w, .share = share};
    if (share) alloc_capacity_take(x, w, k);
    c->n_choices++;
    return 1;
}

/* ---- the search ---- */

/* The device that is looked for: the di-th of an alternative of a request of a claim. */
struct at {
    size_t claim, request, alternative, device;
    bool inside; /* the alternative is decided */
};
/* Devices of one request are taken in order, so that no set of them is tried twice. */
struct from {
    size_t pool, slice, device;
};

static int search(struct alloc *x, struct at at, struct from from);

static int search_alternatives(struct alloc *x, struct at at) {
    struct alloc_request *q = &x->claims[at.claim].requests[at.request];
    bool all_too_many = true;
    at.inside = true;
    for (size_t i = 0; i < q->n; i++) {
        at.alternative = i;
        int r = search(x, at, (struct from){0});
        if (r == TOO_MANY) continue; /* another may ask for fewer */
        all_too_many = false;
        if (r == DONE) q->chosen = i;
        if (r != NONE) return r;
    }
    return all_too_many ? TOO_MANY : NONE;
}

static int search_every(struct alloc *x, struct at at, struct alloc_want *w) {
    struct alloc_claim *c = &x->claims[at.claim];
    struct dra_device *dev = w->every[at.device];
    struct alloc_pool *p = NULL;
    for (size_t i = 0; i < x->n_pools && !p; i++)
        if (str_eq(x->pools[i]->key, dev->slice->pool_key)) p = x->pools[i];
    int r = choose(x, c, w, p, dev, true);
    if (r <= 0) return r;
    at.device++;
    r = search(x, at, (struct from){0});
    if (r != DONE) c->n_choices--;
    return r;
}

static int search_pool(struct alloc *x, struct at at, struct alloc_want *w, struct from from) {
    struct alloc_claim *c = &x->claims[at.claim];
    struct alloc_pool *p = x->pools[from.pool];
    for (; from.slice < p->n; from.slice++, from.device = 0) {
        struct dra_slice *s = p->items[from.slice];
        for (; from.device < s->spec->devices.n; from.device++) {
            struct dra_device *dev = &s->devices[from.device];
            if (w->admin ? chosen_for(c, dev) : in_use(x, dev)) continue; /* the cheap question first */
            int r = selectable(x, c, w, dev);
            if (r > 0) r = choose(x, c, w, p, dev, false);
            if (r < 0) return r;
            if (!r) continue;
            struct at next = at;
            next.device++;
            r = search(x, next, (struct from){from.pool, from.slice, from.device + 1});
            if (r == DONE) return r;
            c->n_choices--;
            if (r < 0) return r;
        }
    }
    return NONE;
}

static int search(struct alloc *x, struct at at, struct from from) {
    if (x->deadline && ++x->ticks % CLOCK_EVERY == 0 && mono_ns() > x->deadline)
        return err_set(x->e, -ETIMEDOUT, "node %s: timed out trying to allocate devices", x->node->metadata.name);
    if (at.claim == x->n) return DONE;
    struct alloc_claim *c = &x->claims[at.claim];
    if (at.request == c->n) {
        int r = search(x, (struct at){.claim = at.claim + 1}, (struct from){0});
        return r == TOO_MANY ? NONE : r; /* other choices before may let a smaller alternative in */
    }
    struct alloc_request *q = &c->requests[at.request];
    if (q->r->first_available.n && !q->r->exactly && !at.inside) return search_alternatives(x, at);
    struct alloc_want *w = &q->wants[at.alternative];
    if (w->all && !w->n_devices) return NONE;
    if (at.device == w->n_devices)
        return search(x, (struct at){.claim = at.claim, .request = at.request + 1}, (struct from){0});
    if (c->n_choices + w->n_devices - at.device > ALLOCATION_RESULTS_MAX) return TOO_MANY;
    if (w->all) return search_every(x, at, w);
    for (; from.pool < x->n_pools; from = (struct from){.pool = from.pool + 1}) {
        if (x->pools[from.pool]->incomplete || x->pools[from.pool]->invalid) continue;
        int r = search_pool(x, at, w, from);
        if (r != NONE) return r;
    }
    return NONE;
}

int alloc_on_node(struct alloc *x, const struct core_node *node, int64_t timeout_ns,
                  struct resource_allocation_result **out, struct err *e) {
    struct err why = {0};
    x->node = node;
    x->e = e ? e : &why;
    x->deadline = timeout_ns ? mono_ns() + timeout_ns : 0;
    int r = alloc_pools_gather(x, x->e);
    if (r == 0) r = prepare_requests(x);
    if (r == 0) r = search(x, (struct at){0}, (struct from){0});
    if (r == TOO_MANY) r = NONE;
    for (size_t i = 0; r == NONE && i < x->n_pools; i++)
        if (x->pools[i]->invalid) r = err_set(x->e, ALLOC_WAITS, "invalid resource pools were encountered");
    if (r == DONE) {
        *out = arena_zalloc(x->a, (x->n + 1) * sizeof(**out));
        for (size_t i = 0; i < x->n; i++) alloc_result(x, &x->claims[i], &(*out)[i]);
    }
    x->e = NULL;
    return r;
}
