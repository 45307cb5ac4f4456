#include "proxy/rules.h"

#include <arpa/inet.h>

const char *const rules_set_names[RULES_SETS] = {
    [SET_VIP_16] = "vip16",        [SET_VIP_60] = "vip60",
    [SET_VIP_960] = "vip960",      [SET_NODE_16] = "node16",
    [SET_NODE_60] = "node60",      [SET_NODE_960] = "node960",
    [SET_STICKY] = "sticky",       [SET_STICKY_NODE] = "sticky_node",
    [SET_MASQ_NODE] = "masq_node", [SET_DEAD] = "dead",
    [SET_DEAD_NODE] = "dead_node", [SET_HAIRPIN] = "hairpin",
};

void rules_done(struct rules *r) {
    for (size_t i = 0; i < RULES_SETS; i++) map_done_with(&r->sets[i], free);
}

struct target {
    const char *ip;
    int32_t port;
    bool local;
    const struct discovery_endpoint_hints *hints;
};

struct targets {
    struct target *items;
    size_t n, cap;
};

static bool is_ipv4(const char *ip) {
    struct in_addr a;
    return ip && inet_pton(AF_INET, ip, &a) == 1;
}

static void put(struct rules *r, enum rules_set set, char *key, char *value) {
    free(map_put(&r->sets[set], key, value));
    free(key);
}

enum endpoint_state { STATE_READY, STATE_SERVING_TERMINATING };

static bool in_state(const struct discovery_endpoint_conditions *c, enum endpoint_state state) {
    bool ready = !c->ready || *c->ready, terminating = c->terminating && *c->terminating;
    bool serving = c->serving ? *c->serving : ready;
    return state == STATE_READY ? ready : serving && terminating;
}

/* The endpoints of a service port, in the order of the slices; each address and port once. */
static void collect(struct targets *out, const struct core_service_port *port,
                    const struct discovery_endpoint_slice *const *slices, size_t n_slices, const char *node,
                    enum endpoint_state state) {
    for (size_t i = 0; i < n_slices; i++) {
        const struct discovery_endpoint_slice *s = slices[i];
        if (!str_eq(s->address_type, "IPv4")) continue;
        int32_t number = 0;
        for (size_t k = 0; k < s->ports.n; k++) {
            const struct discovery_endpoint_port *p = &s->ports.items[k];
            if (p->port && str_eq(str_or_empty(p->name), str_or_empty(port->name)) &&
                str_eq(p->protocol ? p->protocol : "TCP", port->protocol ? port->protocol : "TCP"))
                number = *p->port;
        }
        for (size_t k = 0; number && k < s->endpoints.n; k++) {
            const struct discovery_endpoint *ep = &s->endpoints.items[k];
            if (!in_state(&ep->conditions, state) || !ep->addresses.n || !is_ipv4(ep->addresses.items[0])) continue;
            bool seen = false;
            for (size_t j = 0; j < out->n; j++)
                seen |= str_eq(out->items[j].ip, ep->addresses.items[0]) && out->items[j].port == number;
            if (seen) continue;
            VEC_GROW(out->items, out->n, out->cap);
            out->items[out->n++] =
                (struct target){ep->addresses.items[0], number, str_eq(ep->node_name, node), ep->hints};
        }
    }
}

static int by_address(const void *a, const void *b) {
    const struct target *x = a, *y = b;
    int c = strcmp(x->ip, y->ip);
    return c ? c : x->port - y->port;
}

static struct targets keep(const struct targets *all, bool (*want)(const struct target *t, const void *arg),
                           const void *arg) {
    struct targets t = {0};
    for (size_t i = 0; i < all->n; i++) {
        if (!want(&all->items[i], arg)) continue;
        VEC_GROW(t.items, t.n, t.cap);
        t.items[t.n++] = all->items[i];
    }
    return t;
}

static bool is_local(const struct target *t, const void *arg) { return t->local; }
static bool is_any(const struct target *t, const void *arg) { return true; }

static bool hinted_node(const struct target *t, const void *node) {
    for (size_t i = 0; t->hints && i < t->hints->for_nodes.n; i++)
        if (str_eq(t->hints->for_nodes.items[i].name, node)) return true;
    return false;
}
static bool hinted_zone(const struct target *t, const void *zone) {
    for (size_t i = 0; t->hints && i < t->hints->for_zones.n; i++)
        if (str_eq(t->hints->for_zones.items[i].name, zone)) return true;
    return false;
}

/* Those that hints keep the traffic of this place to. Hints count when all endpoints have them and one is for this
 * place; those for nodes go before those for zones (upstream: topologyModeFromHints). */
static struct targets near(const struct targets *ready, const struct rules_place *here) {
    bool nodes = ready->n, zones = ready->n;
    for (size_t i = 0; i < ready->n; i++) {
        const struct discovery_endpoint_hints *h = ready->items[i].hints;
        nodes &= h && h->for_nodes.n;
        zones &= h && h->for_zones.n;
    }
    struct targets t = {0};
    if (nodes) t = keep(ready, hinted_node, here->node);
    if (!t.n && zones && here->zone) t = keep(ready, hinted_zone, here->zone);
    return t.n ? t : keep(ready, is_any, NULL);
}

/* The endpoints that a port's connections may go to, each list sorted, so that the order of slices does not reshuffle
 * the slots. Endpoints that still serve while they end take the place of ready ones where there are none: anywhere, or
 * on this node. */
struct choice {
    struct targets cluster, local;
};

static struct choice choose(const struct core_service_port *port, const struct discovery_endpoint_slice *const *slices,
                            size_t n_slices, const struct rules_place *here) {
    struct targets ready = {0}, ending = {0};
    struct choice c = {0};
    collect(&ready, port, slices, n_slices, here->node, STATE_READY);
    collect(&ending, port, slices, n_slices, here->node, STATE_SERVING_TERMINATING);
    if (ready.n) qsort(ready.items, ready.n, sizeof(*ready.items), by_address);
    if (ending.n) qsort(ending.items, ending.n, sizeof(*ending.items), by_address);
    c.cluster = ready.n ? near(&ready, here) : keep(&ending, is_any, NULL);
    c.local = keep(&ready, is_local, NULL);
    if (!c.local.n) c.local = keep(&ending, is_local, NULL);
    free(ready.items);
    free(ending.items);
    return c;
}

int rules_local_ready(const struct discovery_endpoint_slice *const *slices, size_t n_slices, const char *node) {
    _cleanup_free_ const char **ips = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < n_slices; i++)
        for (size_t k = 0; k < slices[i]->endpoints.n; k++) {
            const struct discovery_endpoint *ep = &slices[i]->endpoints.items[k];
            if (!ep->addresses.n || !str_eq(ep->node_name, node) || !in_state(&ep->conditions, STATE_READY)) continue;
            bool seen = false;
            for (size_t j = 0; j < n; j++) seen |= str_eq(ips[j], ep->addresses.items[0]);
            if (seen) continue;
            VEC_GROW(ips, n, cap);
            ips[n++] = ep->addresses.items[0];
        }
    return (int)n;
}

/* Slots, and which of the three maps: +0, +1, +2. */
static size_t slots_for(size_t n, size_t *which) {
    if (n <= 16 && 16 % n == 0) return *which = 0, 16;
    if (n <= 30) return *which = 1, 60;
    return *which = 2, 960;
}

const int32_t rules_timeouts[RULES_TIMEOUTS] = {1,   2,   5,   10,  15,   20,   30,   45,    60,    90,
                                                120, 180, 300, 600, 1200, 1800, 3600, 10800, 43200, 86400};

/* The number of the timeout, from 1, on the heap. */
static char *timeout_number(const struct core_service *s) {
    const struct core_session_affinity_config *c = s->spec.session_affinity_config;
    const struct core_client_ip_config *ip = c ? c->client_ip : NULL;
    int32_t want = ip && ip->timeout_seconds ? *ip->timeout_seconds : 10800;
    size_t i = 0;
    while (i + 1 < RULES_TIMEOUTS && rules_timeouts[i] < want) i++;
    return xasprintf("%zu", i + 1);
}

/* `prefix` is "ip . proto . port" or "proto . port". */
static void fill_slots(struct rules *r, enum rules_set first, const char *prefix, const struct targets *t) {
    size_t which, slots = slots_for(t->n, &which);
    for (size_t i = 0; i < slots; i++) {
        const struct target *to = &t->items[i % t->n];
        put(r, (enum rules_set)(first + which), xasprintf("%s . %zu", prefix, i),
            xasprintf("%s . %d", to->ip, to->port));
    }
}

static void virtual_ip(struct rules *r, const struct core_service *s, const char *ip, const char *proto, int32_t port,
                       const struct targets *t) {
    if (!is_ipv4(ip)) return;
    _cleanup_free_ char *key = xasprintf("%s . %s . %d", ip, proto, port);
    if (!t->n) {
        put(r, SET_DEAD, xstrdup(key), xstrdup(""));
        return;
    }
    fill_slots(r, SET_VIP_16, key, t);
    if (str_eq(s->spec.session_affinity, "ClientIP")) put(r, SET_STICKY, xstrdup(key), timeout_number(s));
}

static void node_port(struct rules *r, const struct core_service *s, const char *proto, int32_t port,
                      const struct targets *t, bool local_only) {
    _cleanup_free_ char *key = xasprintf("%s . %d", proto, port);
    if (!t->n) {
        put(r, SET_DEAD_NODE, xstrdup(key), xstrdup(""));
        return;
    }
    fill_slots(r, SET_NODE_16, key, t);
    if (!local_only) put(r, SET_MASQ_NODE, xstrdup(key), xstrdup(""));
    if (str_eq(s->spec.session_affinity, "ClientIP")) put(r, SET_STICKY_NODE, xstrdup(key), timeout_number(s));
}

static void hairpins(struct rules *r, const struct targets *t) {
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].local) put(r, SET_HAIRPIN, xasprintf("%s . %s", t->items[i].ip, t->items[i].ip), xstrdup(""));
}

static void one_port(struct rules *r, const struct core_service *s, const struct core_service_port *p,
                     const struct discovery_endpoint_slice *const *slices, size_t n_slices,
                     const struct rules_place *here) {
    const char *protocol = p->protocol ? p->protocol : "TCP";
    const char *proto = str_eq(protocol, "TCP") ? "tcp" : str_eq(protocol, "UDP") ? "udp" : "sctp";
    struct choice c = choose(p, slices, n_slices, here);
    bool inside_local = str_eq(s->spec.internal_traffic_policy, "Local");
    bool outside_local = str_eq(s->spec.external_traffic_policy, "Local");
    const struct targets *inside = inside_local ? &c.local : &c.cluster,
                         *outside = outside_local ? &c.local : &c.cluster;

    virtual_ip(r, s, s->spec.cluster_ip, proto, p->port, inside);
    for (size_t i = 0; i < s->spec.external_ips.n; i++)
        virtual_ip(r, s, s->spec.external_ips.items[i], proto, p->port, outside);
    for (size_t i = 0; i < s->status.load_balancer.ingress.n; i++)
        virtual_ip(r, s, s->status.load_balancer.ingress.items[i].ip, proto, p->port, outside);
    if (p->node_port) node_port(r, s, proto, p->node_port, outside, outside_local);
    hairpins(r, &c.cluster);
    hairpins(r, &c.local);
    free(c.cluster.items);
    free(c.local.items);
}

void rules_of_service(struct rules *out, const struct core_service *s,
                      const struct discovery_endpoint_slice *const *slices, size_t n_slices,
                      const struct rules_place *here) {
    /* a service that names another proxy is not ours (the cluster's DNS address is one: dns/dns.c) */
    if (str_map_get(&s->metadata.labels, "service.kubernetes.io/service-proxy-name") ||
        str_map_get(&s->metadata.labels, "service.kubernetes.io/headless"))
        return;
    if (str_empty(s->spec.cluster_ip) || str_eq(s->spec.cluster_ip, "None") || str_eq(s->spec.type, "ExternalName"))
        return;
    for (size_t i = 0; i < s->spec.ports.n; i++) one_port(out, s, &s->spec.ports.items[i], slices, n_slices, here);
}
