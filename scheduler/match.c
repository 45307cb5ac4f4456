/* Matching of affinity terms and ports. */
#include "pkg/api/meta.h"
#include "scheduler.h"

static bool value_in(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

/* namespaces and namespaceSelector together choose; with neither it is the pod's own namespace. */
static bool namespace_chosen(struct sched *s, const struct core_pod_affinity_term *t, const struct core_pod *of,
                             const char *ns) {
    if (t->namespaces.n == 0 && !t->namespace_selector) return str_eq(of->metadata.namespace, ns);
    if (value_in(&t->namespaces, ns)) return true;
    if (!t->namespace_selector) return false;
    if (label_selector_empty(t->namespace_selector)) return true;
    _cleanup_object_ struct object *o = s->ns_inf ? informer_get(s->ns_inf, ns) : NULL;
    return o && label_selector_matches(t->namespace_selector, &o->meta->labels);
}

bool affinity_term_matches(struct sched *s, const struct core_pod_affinity_term *t, const struct core_pod *of,
                           const struct core_pod *other) {
    if (!namespace_chosen(s, t, of, str_or_empty(other->metadata.namespace))) return false;
    return label_selector_matches(t->label_selector, &other->metadata.labels);
}

bool host_ports_conflict(const struct host_port *a, const struct host_port *b) {
    if (a->port != b->port || a->proto != b->proto) return false;
    return strcmp(a->ip, "0.0.0.0") == 0 || strcmp(b->ip, "0.0.0.0") == 0 || strcmp(a->ip, b->ip) == 0;
}
