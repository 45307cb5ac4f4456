/* Extended resources that device classes stand behind: a node that does not have the resource itself gives the pod devices
 * of the class. What the containers ask for becomes requests of one claim, which is made when the pod is bound.
 * Upstream: plugins/dynamicresources/extendeddynamicresources.go. */
#include "dra_cycle.h"

#include "pkg/api/meta.h"

void dra_extended_prepare(struct cycle *c, const struct dra_claim **stale) {
    for (size_t i = 0; i < c->s->n_ext; i++)
        if (c->sp->req.ext[i] > 0 && dra_class_of_resource(&c->s->dra, c->s->ext_names[i])) c->dra_ext |= 1u << i;
    size_t it = 0;
    const char *key;
    void *v;
    while (c->dra_ext && !*stale && map_next(&c->s->dra.claims, &it, &key, &v)) {
        const struct dra_claim *k = v;
        if (!k->o || !str_eq(str_map_get(&k->o->meta->annotations, CLAIM_EXTENDED_ANNOTATION), "true")) continue;
        const struct meta_owner_reference *owner = meta_controller_of(k->o->meta);
        if (owner && str_eq(owner->uid, c->p->metadata.uid)) *stale = k;
    }
}

const char *dra_extended_key(struct arena *a, const struct core_pod *p) {
    return arena_printf(a, "%s/<extended-resources>/%s", str_or_empty(p->metadata.namespace),
                        str_or_empty(p->metadata.uid));
}

/* ---- requests of containers ---- */

struct plan {
    struct cycle *c;
    struct resource_device_request *requests; /* of all resources */
    size_t n, cap;
    struct core_container_extended_resource_request *mappings;
    size_t n_mappings, cap_mappings;
};

static const struct core_container *container_at(const struct core_pod *p, size_t i) {
    return i < p->spec.init_containers.n ? &p->spec.init_containers.items[i]
                                         : &p->spec.containers.items[i - p->spec.init_containers.n];
}

static bool short_lived(const struct core_pod *p, size_t i) {
    return i < p->spec.init_containers.n && !str_eq(container_at(p, i)->restart_policy, "Always");
}

static void map_request(struct plan *x, const struct core_container *k, const char *resource, const char *request) {
    ARENA_GROW(x->c->a, x->mappings, x->n_mappings, x->cap_mappings);
    x->mappings[x->n_mappings++] = (struct core_container_extended_resource_request){
        .container_name = k->name, .resource_name = resource, .request_name = request};
}

/* By the container's place among all, and the resource's among those of the container. */
static const char *request_name(struct plan *x, size_t container, const struct str_map *asked, const char *resource) {
    size_t place = 0;
    for (size_t i = 0; i < asked->n; i++) place += strcmp(asked->items[i].key, resource) < 0;
    return arena_printf(x->c->a, "container-%zu-request-%zu", container, place);
}

static struct resource_device_request *request_new(struct plan *x, const char *name, const char *class, int64_t count) {
    ARENA_GROW(x->c->a, x->requests, x->n, x->cap);
    struct resource_exact_device_request *r = arena_zalloc(x->c->a, sizeof(*r));
    *r = (struct resource_exact_device_request){
        .device_class_name = class, .allocation_mode = "ExactCount", .count = count};
    x->requests[x->n] = (struct resource_device_request){.name = name, .exactly = r};
    return &x->requests[x->n++];
}

/* Containers that stay have devices of their own. `own[i]` is the request of container i, NULL for none. */
static void plan_long(struct plan *x, const char *resource, const char *class,
                      const struct resource_exact_device_request **own, const char **own_names) {
    const struct core_pod *p = x->c->p;
    for (size_t i = 0; i < p->spec.init_containers.n + p->spec.containers.n; i++) {
        const struct core_container *k = container_at(p, i);
        int64_t want = quantity_str_value(str_map_get(&k->resources.requests, resource));
        if (short_lived(p, i) || want <= 0) continue;
        const char *name = request_name(x, i, &k->resources.requests, resource);
        own[i] = request_new(x, name, class, want)->exactly;
        own_names[i] = name;
        map_request(x, k, resource, name);
    }
}

/* Init containers use what later containers have, one after the other; what they need beyond that is one request, as big
 * as the neediest wants it. */
static void plan_short(struct plan *x, const char *resource, const char *class,
                       const struct resource_exact_device_request **own, const char **own_names) {
    const struct core_pod *p = x->c->p;
    struct resource_exact_device_request *most = NULL;
    const char **name = NULL;
    size_t n = p->spec.init_containers.n + p->spec.containers.n, at = 0;
    for (size_t i = 0; i < p->spec.init_containers.n; i++) {
        const struct core_container *k = container_at(p, i);
        int64_t want = quantity_str_value(str_map_get(&k->resources.requests, resource));
        if (!short_lived(p, i) || want <= 0) continue;
        for (size_t m = i; m < n && want > 0; m++) {
            if (!own[m]) continue;
            want -= own[m]->count;
            map_request(x, k, resource, own_names[m]);
        }
        if (want <= 0) continue;
        const char *mine = request_name(x, i, &k->resources.requests, resource);
        if (!most) {
            at = x->n;
            most = request_new(x, mine, class, want)->exactly;
            name = arena_alloc(x->c->a, sizeof(*name));
            *name = mine;
        } else if (want > most->count) {
            most->count = want;
            *name = mine;
        }
        map_request(x, k, resource, NULL); /* told below */
    }
    if (!most) return;
    x->requests[at].name = *name;
    for (size_t i = 0; i < x->n_mappings; i++)
        if (!x->mappings[i].request_name) x->mappings[i].request_name = *name;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct resource_device_request *)a)->name, ((const struct resource_device_request *)b)->name);
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

struct resource_resource_claim *dra_extended_claim(struct cycle *c, uint32_t mask,
                                                   struct core_container_extended_resource_request_vec *mappings) {
    const struct core_pod *p = c->p;
    struct plan x = {.c = c};
    size_t containers = p->spec.init_containers.n + p->spec.containers.n, n = 0;
    const char *resources[EXT_MAX];
    for (size_t i = 0; i < c->s->n_ext; i++)
        if (mask & 1u << i) resources[n++] = c->s->ext_names[i];
    qsort(resources, n, sizeof(*resources), by_text);
    for (size_t i = 0; i < n; i++) {
        const struct resource_exact_device_request **own = arena_zalloc(c->a, (containers + 1) * sizeof(*own));
        const char **names = arena_zalloc(c->a, (containers + 1) * sizeof(*names));
        const char *class = dra_class_of_resource(&c->s->dra, resources[i])->metadata.name;
        plan_long(&x, resources[i], class, own, names);
        plan_short(&x, resources[i], class, own, names);
    }
    qsort(x.requests, x.n, sizeof(*x.requests), by_name);
    *mappings = (struct core_container_extended_resource_request_vec){x.mappings, x.n_mappings};
    struct resource_resource_claim *k = arena_zalloc(c->a, sizeof(*k));
    struct meta_owner_reference *owner = arena_zalloc(c->a, sizeof(*owner));
    struct str_map_entry *note = arena_zalloc(c->a, sizeof(*note));
    *note = (struct str_map_entry){CLAIM_EXTENDED_ANNOTATION, "true"};
    *owner = (struct meta_owner_reference){.api_version = "v1",
                                           .kind = "Pod",
                                           .name = p->metadata.name,
                                           .uid = p->metadata.uid,
                                           .controller = arena_memdup(c->a, &(bool){true}, sizeof(bool))};
    k->metadata = (struct meta_object_meta){
        .namespace = p->metadata.namespace,
        .generate_name = arena_printf(c->a, "%s-extended-resources-", p->metadata.name),
        .annotations = {note, 1},
    };
    k->metadata.owner_references.items = owner;
    k->metadata.owner_references.n = 1;
    k->spec.devices.requests.items = x.requests;
    k->spec.devices.requests.n = x.n;
    return k;
}
