/* The devices of a pod in its scheduling cycle: are the claims there, on which node can they be allocated, which of the
 * nodes is better? Upstream: plugins/dynamicresources (PreEnqueue, PreFilter, Filter, Score, PostFilter). */
#include "dra_cycle.h"

#include "pkg/api/meta.h"

#define FILTER_TIMEOUT_NS (10 * NS_PER_SEC)
enum { ALTERNATIVES_MAX = 8 };

/* ---- before the queue ---- */

bool dra_pod_ready(const struct sched *s, const struct core_pod *p) {
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const char *name;
        bool generated;
        if (pod_claim_name(p, &p->spec.resource_claims.items[i], &name, &generated, NULL) < 0) return false;
        if (!name) continue;
        const struct dra_claim *k = dra_claim_get(&s->dra, p->metadata.namespace, name);
        if (!k || !k->o || k->o->meta->deletion_timestamp.set) return false;
        if (generated && claim_is_for_pod(k->o->obj, p, NULL) < 0) return false;
    }
    return true;
}

bool dra_pod_uses(const struct core_pod *p, const char *claim_key) {
    const char *ns = str_or_empty(p->metadata.namespace), *slash = strchr(claim_key, '/');
    if (!slash || strlen(ns) != (size_t)(slash - claim_key) || strncmp(ns, claim_key, strlen(ns)) != 0) return false;
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const char *name;
        bool generated;
        if (pod_claim_name(p, &p->spec.resource_claims.items[i], &name, &generated, NULL) == 0 &&
            str_eq(name, slash + 1))
            return true;
    }
    return false;
}

/* ---- once per cycle ---- */

static int refuse(struct cycle *c, const char *why) {
    c->refusal = why;
    return -EAGAIN;
}

static int fail(struct cycle *c, const char *point, const char *why) {
    c->failure = arena_printf(c->a, "running %s: %s", point, why);
    return -EAGAIN;
}
#define PRE_FILTER "PreFilter plugin \"DynamicResources\""
#define FILTER "\"DynamicResources\" filter plugin"

static int check_class(struct cycle *c, const char *class, const char *request) {
    if (str_empty(class))
        return fail(c, PRE_FILTER, arena_printf(c->a, "request %s: unsupported request type", request));
    if (dra_class_get(&c->s->dra, class)) return 0;
    return refuse(c, arena_printf(c->a, "request %s: device class %s does not exist", request, class));
}

static int check_requests(struct cycle *c, const struct dra_pod_claim *k) {
    const struct resource_device_request_vec *v = &k->c->spec.devices.requests;
    for (size_t i = 0; i < v->n; i++) {
        const struct resource_device_request *r = &v->items[i];
        int rc = 0;
        if (r->exactly)
            rc = check_class(c, r->exactly->device_class_name, r->name);
        else if (!r->first_available.n)
            return refuse(c,
                          arena_printf(c->a, "resource claim %s, request %s: unknown request type", k->key, r->name));
        for (size_t m = 0; rc == 0 && !r->exactly && m < r->first_available.n; m++)
            rc = check_class(c, r->first_available.items[m].device_class_name,
                             arena_printf(c->a, "%s/%s", r->name, r->first_available.items[m].name));
        if (rc < 0) return rc;
    }
    return 0;
}

static int add_claim(struct cycle *c, struct dra_cycle *d, const struct core_pod_resource_claim *entry) {
    _cleanup_err_ struct err e = {0};
    const char *name;
    bool generated;
    if (pod_claim_name(c->p, entry, &name, &generated, &e) < 0) return refuse(c, arena_strdup(c->a, e.msg));
    if (!name) return 0;
    struct dra_claim *k = dra_claim_get(&c->s->dra, c->p->metadata.namespace, name);
    if (!k || !k->o) return refuse(c, arena_printf(c->a, "resourceclaim \"%s\" not found", name));
    struct dra_pod_claim *out = &d->claims[d->n];
    *out = (struct dra_pod_claim){.key = k->key, .known = k, .c = k->o->obj};
    for (size_t i = 0; i < d->n; i++)
        if (d->claims[i].known == k) return 0; /* two entries may name one claim */
    if (out->c->metadata.deletion_timestamp.set)
        return refuse(c, arena_printf(c->a, "resourceclaim \"%s\" is being deleted", name));
    if (generated && claim_is_for_pod(out->c, c->p, &e) < 0) return refuse(c, arena_strdup(c->a, e.msg));
    d->n++;
    if (out->c->status.allocation) return 0;
    if (k->pending)
        return refuse(c, arena_printf(c->a, "resource claim %s is in the process of being allocated", k->key));
    out->allocate = true;
    d->n_allocate++;
    return check_requests(c, out);
}

int dra_prepare(struct cycle *c) {
    const struct core_pod_resource_claim_vec *v = &c->p->spec.resource_claims;
    struct dra_cycle d = {0};
    if (c->s->dra.classes.n && c->s->n_ext) dra_extended_prepare(c, &d.stale);
    if (!v->n && !c->dra_ext) return 0;
    d.claims = arena_zalloc(c->a, (v->n + 1) * sizeof(*d.claims));
    for (size_t i = 0; i < v->n; i++) {
        int r = add_claim(c, &d, &v->items[i]);
        if (r < 0) return r;
    }
    if (!d.n && !c->dra_ext) return 0;
    d.by_node = arena_zalloc(c->a, (c->s->n_nodes + 1) * sizeof(*d.by_node));
    c->dra = arena_memdup(c->a, &d, sizeof(d));
    return 0;
}

/* ---- filter ---- */

static const struct resource_device_class *class_of(void *arg, const char *name) { return dra_class_get(arg, name); }

static struct dra_variant *variant_of(struct cycle *c, uint32_t mask, struct err *e) {
    struct dra_cycle *d = c->dra;
    for (size_t i = 0; i < d->n_variants; i++)
        if (d->variants[i].mask == mask) return &d->variants[i];
    struct dra_variant v = {.mask = mask};
    const struct resource_resource_claim **claims = arena_alloc(c->a, (d->n + 1) * sizeof(*claims));
    size_t n = 0;
    for (size_t i = 0; i < d->n; i++)
        if (d->claims[i].allocate) claims[n++] = d->claims[i].c;
    if (mask) claims[n++] = v.special = dra_extended_claim(c, mask, &v.mappings);
    if (n && alloc_new(c->a, &c->s->dra, claims, n, class_of, &c->s->dra, &v.alloc, e) < 0) return NULL;
    ARENA_GROW(c->a, d->variants, d->n_variants, d->cap_variants);
    d->variants[d->n_variants] = v;
    return &d->variants[d->n_variants++];
}

enum dra_binding dra_binding_of(const struct resource_resource_claim *k, struct err *e) {
    const struct resource_allocation_result *r = k->status.allocation;
    for (size_t i = 0; r && i < r->devices.results.n; i++) {
        const struct resource_device_request_allocation_result *x = &r->devices.results.items[i];
        if (!x->binding_conditions.n) continue;
        const struct resource_allocated_device_status *st = claim_device_status(k, x);
        if (!st) return BINDING_WAITS;
        for (size_t m = 0; m < x->binding_failure_conditions.n; m++) {
            const struct meta_condition *f = claim_condition(&st->conditions, x->binding_failure_conditions.items[m]);
            if (!f || !str_eq(f->status, "True")) continue;
            err_set(e, -EIO, "device binding failed: claim=%s, reason=%s, message=\"%s\"", k->metadata.name,
                    str_or_empty(f->reason), str_or_empty(f->message));
            return BINDING_FAILED;
        }
        for (size_t m = 0; m < x->binding_conditions.n; m++) {
            const struct meta_condition *t = claim_condition(&st->conditions, x->binding_conditions.items[m]);
            if (!t || !str_eq(t->status, "True")) return BINDING_WAITS;
        }
    }
    return BINDING_READY;
}

bool dra_binding_overdue(const struct resource_resource_claim *k) {
    const struct resource_allocation_result *r = k->status.allocation;
    return r && r->allocation_timestamp.set &&
           ktime_diff_ns(ktime_now(), r->allocation_timestamp) > DRA_BINDING_TIMEOUT_NS;
}

/* Devices that cannot be bound, or were not for too long, are given back so that others can be tried. */
static bool binding_hopeless(const struct resource_resource_claim *k) {
    enum dra_binding b = dra_binding_of(k, NULL);
    return b == BINDING_FAILED || (b == BINDING_WAITS && dra_binding_overdue(k));
}

static enum verdict no(const char *reason, const char **reasons, size_t *n_reasons) {
    reasons[(*n_reasons)++] = reason;
    return NEVER;
}

static bool allocated_claims_usable(struct dra_cycle *d, const struct sched_node *n) {
    bool ok = true;
    for (size_t i = 0; i < d->n; i++) {
        const struct resource_allocation_result *r = d->claims[i].c->status.allocation;
        if (!r) continue;
        bool here = !r->node_selector || node_selector_matches(r->node_selector, n->n);
        if (here && !binding_hopeless(d->claims[i].c)) continue;
        d->claims[i].unavailable = true;
        ok = false;
    }
    return ok;
}

enum verdict dra_filter(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons) {
    struct dra_cycle *d = c->dra;
    if (!d) return FIT;
    if (d->stale) return no("cannot schedule extended resource claim", reasons, n_reasons);
    if (!allocated_claims_usable(d, n)) return no("resourceclaim not available on the node", reasons, n_reasons);
    uint32_t mask = 0;
    for (size_t i = 0; i < c->s->n_ext; i++)
        if (c->dra_ext & 1u << i && !n->alloc.ext[i]) mask |= 1u << i;
    _cleanup_err_ struct err e = {0};
    struct dra_variant *v = variant_of(c, mask, &e);
    struct dra_node_result *out = &d->by_node[n->index];
    int r = v ? 1 : -EINVAL;
    if (v && v->alloc) r = alloc_on_node(v->alloc, n->n, FILTER_TIMEOUT_NS, &out->results, &e);
    if (r == 1) out->variant = arena_memdup(c->a, v, sizeof(*v));
    if (r == 1) return FIT;
    if (r == 0) return no("cannot allocate all claims", reasons, n_reasons);
    if (r == ALLOC_WAITS) return no(arena_strdup(c->a, e.msg), reasons, n_reasons);
    fail(c, FILTER, arena_strdup(c->a, e.msg));
    return NEVER;
}

/* ---- scores ---- */

/* Earlier alternatives are better. */
static int64_t score_of(const struct resource_resource_claim *k, const struct resource_allocation_result *r) {
    int64_t score = 0;
    for (size_t i = 0; i < k->spec.devices.requests.n; i++) {
        const struct resource_device_request *q = &k->spec.devices.requests.items[i];
        for (size_t m = 0; !q->exactly && m < q->first_available.n; m++) {
            bool taken = false;
            for (size_t x = 0; x < r->devices.results.n; x++) {
                const char *name = r->devices.results.items[x].request, *slash = strchr(name, '/');
                taken |= slash && strlen(q->name) == (size_t)(slash - name) &&
                         strncmp(name, q->name, (size_t)(slash - name)) == 0 &&
                         str_eq(slash + 1, q->first_available.items[m].name);
            }
            if (taken) score += ALTERNATIVES_MAX - (int64_t)m;
        }
    }
    return score;
}

void dra_scores(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw) {
    const struct dra_cycle *d = c->dra;
    for (size_t i = 0; d && i < n; i++) {
        const struct dra_node_result *r = &d->by_node[nodes[i]->index];
        size_t at = 0;
        for (size_t k = 0; r->variant && k < d->n; k++)
            raw[i] +=
                score_of(d->claims[k].c, d->claims[k].allocate ? &r->results[at++] : d->claims[k].c->status.allocation);
    }
}

/* ---- when there is no node ---- */

void dra_post_filter(struct cycle *c) {
    struct dra_cycle *d = c->dra;
    if (!d) return;
    c->post = "still not schedulable";
    for (size_t i = 0; i < d->n; i++) {
        const struct resource_resource_claim_consumer_reference_vec *v = &d->claims[i].c->status.reserved_for;
        if (!d->claims[i].unavailable || v->n > 1) continue;
        if (v->n == 1 && !str_eq(v->items[0].uid, c->p->metadata.uid)) continue;
        dra_release(c, d->claims[i].known, false);
        c->post = "deallocation of ResourceClaim completed";
        return;
    }
    if (!d->stale) return;
    dra_release(c, d->stale, true);
    c->post = "deletion of ResourceClaim completed";
}
