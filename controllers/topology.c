#include "topology.h"

#include <math.h>

#include "pkg/api/quantity.h"
#include "pkg/client/informer.h"
#include "util.h"

#define ZONE_LABEL "topology.kubernetes.io/zone"
#define OVERLOAD 0.2 /* a zone may get this part more traffic than its CPUs' share */

struct zone {
    const char *name;
    int64_t milli_cpu;
    double desired;
    int minimum, count; /* endpoints: that it has to have, that are hinted for it */
};

struct zones {
    struct zone *items;
    size_t n;
    int64_t milli_cpu;
};

static bool is_ready(const struct discovery_endpoint *ep) { return ep->conditions.ready && *ep->conditions.ready; }

static void hint(struct arena *a, struct discovery_endpoint *ep, const char *zone, const char *node) {
    if (str_empty(zone) && str_empty(node)) return;
    struct discovery_endpoint_hints *h = ep->hints = arena_zalloc(a, sizeof(*h));
    if (!str_empty(zone)) {
        struct discovery_for_zone z = {.name = zone};
        h->for_zones = (struct discovery_for_zone_vec){arena_memdup(a, &z, sizeof(z)), 1};
    }
    if (!str_empty(node)) {
        struct discovery_for_node x = {.name = node};
        h->for_nodes = (struct discovery_for_node_vec){arena_memdup(a, &x, sizeof(x)), 1};
    }
}

/* ---- by the CPUs of the zones ---- */

bool topology_wants_nodes(const struct core_service *svc) {
    const char *mode = str_map_get(&svc->metadata.annotations, "service.kubernetes.io/topology-mode");
    if (!mode) mode = str_map_get(&svc->metadata.annotations, "service.kubernetes.io/topology-aware-hints");
    return str_eq(mode, "Auto") || str_eq(mode, "auto");
}

static struct zone *find_zone(struct zones *z, const char *name) {
    for (size_t i = 0; i < z->n; i++)
        if (str_eq(z->items[i].name, name)) return &z->items[i];
    return NULL;
}

static bool node_counts(const struct core_node *n) {
    if (str_map_get(&n->metadata.labels, "node-role.kubernetes.io/control-plane") ||
        str_map_get(&n->metadata.labels, "node-role.kubernetes.io/master"))
        return false;
    for (size_t i = 0; i < n->status.conditions.n; i++)
        if (str_eq(n->status.conditions.items[i].type, "Ready"))
            return str_eq(n->status.conditions.items[i].status, "True");
    return false;
}

/* False: a node does not tell its zone or its CPUs. */
static bool read_zones(struct manager *m, struct arena *a, struct zones *z) {
    _cleanup_object_list_ struct object_list nodes = {0};
    informer_list(manager_informer(m, &client_nodes), NULL, &nodes);
    z->items = arena_zalloc(a, (nodes.n + 1) * sizeof(*z->items));
    for (size_t i = 0; i < nodes.n; i++) {
        const struct core_node *n = nodes.items[i]->obj;
        if (!node_counts(n)) continue;
        const char *name = str_map_get(&n->metadata.labels, ZONE_LABEL);
        int64_t milli = quantity_str_milli(str_map_get(&n->status.allocatable, "cpu"));
        if (str_empty(name) || milli <= 0) return false;
        struct zone *x = find_zone(z, name);
        if (!x) x = &z->items[z->n++];
        if (!x->name) x->name = arena_strdup(a, name);
        x->milli_cpu += milli;
        z->milli_cpu += milli;
    }
    return true;
}

/* False: too few endpoints to keep every zone below its limit. */
static bool share_out(struct zones *z, size_t endpoints) {
    int least = 0;
    if (z->n < 2 || z->n > endpoints) return false;
    for (size_t i = 0; i < z->n; i++) {
        struct zone *x = &z->items[i];
        x->desired = (double)x->milli_cpu / (double)z->milli_cpu * (double)endpoints;
        x->minimum = (int)ceil(x->desired / (1 + OVERLOAD));
        x->desired = MAX_OF(x->desired, (double)x->minimum);
        least += x->minimum;
    }
    return least <= (int)endpoints;
}

/* A zone that can spare an endpoint: one with more than it should have, the most first. */
static struct zone *giver(struct zones *z) {
    struct zone *best = NULL;
    for (size_t i = 0; i < z->n; i++) {
        struct zone *x = &z->items[i];
        double over = (double)x->count - x->desired;
        if (x->count > x->minimum && (!best || over > (double)best->count - best->desired)) best = x;
    }
    return best;
}

static void move_hint(struct arena *a, struct discovery_endpoint *eps, size_t n, struct zone *from, struct zone *to) {
    for (size_t i = n; i-- > 0;) {
        if (!eps[i].hints || !str_eq(eps[i].hints->for_zones.items[0].name, from->name)) continue;
        hint(a, &eps[i], to->name, NULL);
        from->count--;
        to->count++;
        return;
    }
}

static void by_cpus(struct manager *m, struct arena *a, struct discovery_endpoint *eps, size_t n) {
    struct zones z = {0};
    size_t ready = 0;
    for (size_t i = 0; i < n; i++) {
        ready += is_ready(&eps[i]);
        if (is_ready(&eps[i]) && str_empty(eps[i].zone)) return;
    }
    if (!read_zones(m, a, &z) || !share_out(&z, ready)) return;
    for (size_t i = 0; i < n; i++) {
        struct zone *x = is_ready(&eps[i]) ? find_zone(&z, eps[i].zone) : NULL;
        if (x) x->count++;
        if (is_ready(&eps[i])) hint(a, &eps[i], x ? x->name : z.items[0].name, NULL);
        if (is_ready(&eps[i]) && !x) z.items[0].count++; /* of a zone without nodes that count */
    }
    for (size_t i = 0; i < z.n; i++)
        for (struct zone *from; z.items[i].count < z.items[i].minimum && (from = giver(&z));)
            move_hint(a, eps, n, from, &z.items[i]);
}

/* ---- by the field ---- */

void topology_hints(struct manager *m, struct arena *a, const struct core_service *svc, struct discovery_endpoint *eps,
                    size_t n) {
    const char *want = svc->spec.traffic_distribution;
    for (size_t i = 0; i < n; i++) eps[i].hints = NULL;
    if (topology_wants_nodes(svc)) {
        by_cpus(m, a, eps, n);
        return;
    }
    bool node = str_eq(want, "PreferSameNode");
    if (!node && !str_eq(want, "PreferSameZone") && !str_eq(want, "PreferClose")) return;
    for (size_t i = 0; i < n; i++)
        if (is_ready(&eps[i])) hint(a, &eps[i], eps[i].zone, node ? eps[i].node_name : NULL);
}
