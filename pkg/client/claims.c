/* See claims.h. */
#include "claims.h"

#include "informer.h"
#include "pkg/api/meta.h"

int pod_claim_name(const struct core_pod *p, const struct core_pod_resource_claim *entry, const char **name,
                   bool *generated, struct err *e) {
    const char *ns = str_or_empty(p->metadata.namespace);
    *name = entry->resource_claim_name;
    *generated = false;
    if (*name) return 0;
    if (!entry->resource_claim_template_name)
        return err_set(e, -EINVAL, "pod \"%s/%s\", spec.resourceClaim \"%s\": none of the supported fields are set", ns,
                       p->metadata.name, str_or_empty(entry->name));
    *generated = true;
    for (size_t i = 0; i < p->status.resource_claim_statuses.n; i++) {
        const struct core_pod_resource_claim_status *s = &p->status.resource_claim_statuses.items[i];
        if (!str_eq(s->name, entry->name)) continue;
        *name = s->resource_claim_name;
        return 0;
    }
    return err_set(e, -ENOENT, "pod \"%s/%s\": ResourceClaim not created yet", ns, p->metadata.name);
}

int claim_is_for_pod(const struct resource_resource_claim *c, const struct core_pod *p, struct err *e) {
    const struct meta_owner_reference *owner = meta_controller_of(&c->metadata);
    if (owner && str_eq(owner->uid, p->metadata.uid)) return 0;
    return err_set(e, -EPERM, "ResourceClaim %s/%s was not created for Pod %s/%s (Pod is not owner)",
                   str_or_empty(c->metadata.namespace), c->metadata.name, str_or_empty(p->metadata.namespace),
                   p->metadata.name);
}

bool claim_reserved_for(const struct resource_resource_claim *c, const char *pod_uid) {
    for (size_t i = 0; i < c->status.reserved_for.n; i++)
        if (str_eq(c->status.reserved_for.items[i].uid, pod_uid)) return true;
    return false;
}

bool claim_has_finalizer(const struct resource_resource_claim *c) {
    for (size_t i = 0; i < c->metadata.finalizers.n; i++)
        if (str_eq(c->metadata.finalizers.items[i], CLAIM_FINALIZER)) return true;
    return false;
}

bool claim_request_matches(const char *result, const char *request) {
    if (str_empty(request) || str_eq(result, request)) return true;
    size_t n = strlen(request);
    return strncmp(str_or_empty(result), request, n) == 0 && result[n] == '/';
}

const struct resource_allocated_device_status *claim_device_status(
    const struct resource_resource_claim *c, const struct resource_device_request_allocation_result *r) {
    for (size_t i = 0; i < c->status.devices.n; i++) {
        const struct resource_allocated_device_status *d = &c->status.devices.items[i];
        if (str_eq(d->device, r->device) && str_eq(d->driver, r->driver) && str_eq(d->pool, r->pool)) return d;
    }
    return NULL;
}

const struct meta_condition *claim_condition(const struct meta_condition_vec *v, const char *type) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i].type, type)) return &v->items[i];
    return NULL;
}

bool device_toleration_tolerates(const struct resource_device_toleration *t,
                                 const struct resource_device_taint *taint) {
    if (!str_empty(t->effect) && !str_eq(t->effect, taint->effect)) return false;
    if (!str_empty(t->key) && !str_eq(t->key, taint->key)) return false;
    if (str_eq(t->operator, "Exists")) return true;
    return (str_empty(t->operator) || str_eq(t->operator, "Equal")) &&
           strcmp(str_or_empty(t->value), str_or_empty(taint->value)) == 0;
}
