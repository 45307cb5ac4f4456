#include "proxy/policy.h"

#include "pkg/base/map.h"
#include "pkg/client/informer.h"

enum direction { INGRESS, EGRESS, DIRECTIONS };

static const struct {
    const char *type, *map, *peer, *own;
} words[DIRECTIONS] = {
    [INGRESS] = {"Ingress", "ingress", "saddr", "daddr"}, [EGRESS] = {"Egress", "egress", "daddr", "saddr"}};

/* The text in the making. */
struct writer {
    const struct policy_world *w;
    struct map namespaces;           /* name -> const struct core_namespace */
    struct map chains;               /* rules -> name of the chain that has them */
    struct buf text;                 /* of the chains */
    struct buf elements[DIRECTIONS]; /* of the maps */
    struct buf selves;
};

/* ---- who is meant ---- */

/* An IPv4 address or block. Nothing else gets into the text. */
static bool is_ipv4(const char *s) { return !str_empty(s) && s[strspn(s, "0123456789./")] == '\0'; }

/* Pods that have an address of their own and use it. */
static const char *address_of(const struct core_pod *p) {
    if (p->spec.host_network || !is_ipv4(p->status.pod_ip)) return NULL;
    bool over = str_eq(p->status.phase, "Succeeded") || str_eq(p->status.phase, "Failed");
    return over ? NULL : p->status.pod_ip;
}

static bool peer_is(struct writer *x, const struct networking_network_policy *np,
                    const struct networking_network_policy_peer *peer, const struct core_pod *pod) {
    if (peer->namespace_selector) {
        const struct core_namespace *ns = map_get(&x->namespaces, str_or_empty(pod->metadata.namespace));
        if (!ns || !label_selector_matches(peer->namespace_selector, &ns->metadata.labels)) return false;
    } else if (!str_eq(pod->metadata.namespace, np->metadata.namespace)) {
        return false;
    }
    return !peer->pod_selector || label_selector_matches(peer->pod_selector, &pod->metadata.labels);
}

/* The number of the pod's port of that name and protocol, 0: it has none. */
static int named_port(const struct core_pod *p, const char *name, const char *protocol) {
    for (size_t i = 0; i < p->spec.containers.n; i++) {
        const struct core_container *c = &p->spec.containers.items[i];
        for (size_t k = 0; k < c->ports.n; k++)
            if (str_eq(c->ports.items[k].name, name) &&
                str_eq(str_empty(c->ports.items[k].protocol) ? "TCP" : c->ports.items[k].protocol, protocol))
                return c->ports.items[k].container_port;
    }
    return 0;
}

/* ---- rules: a line each, "ADDRESSES PORT return" ---- */

/* What is matched of the port; `target` is the pod that is connected to, NULL where it is not known. False: no port. */
static bool port_match(const struct networking_network_policy_port *port, const struct core_pod *target, char *out,
                       size_t size) {
    const char *protocol = str_empty(port->protocol) ? "TCP" : port->protocol;
    const char *word = str_eq(protocol, "UDP") ? "udp" : str_eq(protocol, "SCTP") ? "sctp" : "tcp";
    if (!port->port.set) {
        snprintf(out, size, "meta l4proto %s ", word);
        return true;
    }
    int first = port->port.is_str ? target ? named_port(target, port->port.s, protocol) : 0 : port->port.i;
    if (!first) return false;
    if (port->end_port)
        snprintf(out, size, "%s dport %d-%d ", word, first, (int)*port->end_port);
    else
        snprintf(out, size, "%s dport %d ", word, first);
    return true;
}

static bool has_name(const struct networking_network_policy_port_vec *ports) {
    for (size_t i = 0; i < ports->n; i++)
        if (ports->items[i].port.set && ports->items[i].port.is_str) return true;
    return false;
}

static void lines(struct buf *b, const char *addresses, const struct networking_network_policy_port_vec *ports,
                  const struct core_pod *target) {
    char match[64];
    if (!ports->n) buf_printf(b, "    %sreturn\n", addresses);
    for (size_t i = 0; i < ports->n; i++)
        if (port_match(&ports->items[i], target, match, sizeof(match)))
            buf_printf(b, "    %s%sreturn\n", addresses, match);
}

static void block_lines(struct buf *b, enum direction d, const struct networking_ip_block *block,
                        const struct networking_network_policy_port_vec *ports, const struct core_pod *target) {
    _cleanup_buf_ struct buf at = BUF_INIT;
    if (!is_ipv4(block->cidr)) return;
    buf_printf(&at, "ip %s %s ", words[d].peer, block->cidr);
    for (size_t i = 0; i < block->except.n; i++)
        if (is_ipv4(block->except.items[i])) buf_printf(&at, "ip %s != %s ", words[d].peer, block->except.items[i]);
    lines(b, at.data, ports, target);
}

/* The pods that the peers mean, in one set; a pod each where ports are named, which are the target's. */
static void pod_lines(struct writer *x, struct buf *b, enum direction d, const struct networking_network_policy *np,
                      const struct networking_network_policy_peer_vec *peers,
                      const struct networking_network_policy_port_vec *ports, const struct core_pod *own) {
    _cleanup_buf_ struct buf set = BUF_INIT;
    bool each = d == EGRESS && has_name(ports);
    for (size_t i = 0; i < x->w->n_pods; i++) {
        const struct core_pod *pod = x->w->pods[i];
        const char *ip = address_of(pod);
        bool is = false;
        for (size_t k = 0; ip && k < peers->n && !is; k++)
            is = !peers->items[k].ip_block && peer_is(x, np, &peers->items[k], pod);
        if (!is) continue;
        if (each) {
            _cleanup_free_ char *at = xasprintf("ip daddr %s ", ip);
            lines(b, at, ports, pod);
        } else {
            buf_printf(&set, "%s%s", set.len ? ", " : "", ip);
        }
    }
    if (!set.len) return;
    _cleanup_free_ char *at = xasprintf("ip %s { %s } ", words[d].peer, set.data);
    lines(b, at, ports, own);
}

static void rule_lines(struct writer *x, struct buf *b, enum direction d, const struct networking_network_policy *np,
                       const struct networking_network_policy_peer_vec *peers,
                       const struct networking_network_policy_port_vec *ports, const struct core_pod *own) {
    const struct core_pod *target = d == INGRESS ? own : NULL;
    if (!peers->n) { /* from or to everywhere; named ports of others are those of pods */
        static const struct meta_label_selector everything;
        struct networking_network_policy_peer any = {.namespace_selector = (struct meta_label_selector *)&everything};
        lines(b, "", ports, target);
        if (d == EGRESS && has_name(ports))
            pod_lines(x, b, d, np, &(struct networking_network_policy_peer_vec){&any, 1}, ports, own);
        return;
    }
    for (size_t i = 0; i < peers->n; i++)
        if (peers->items[i].ip_block) block_lines(b, d, peers->items[i].ip_block, ports, target);
    pod_lines(x, b, d, np, peers, ports, target);
}

/* ---- pods ---- */

static bool isolates(const struct networking_network_policy *np, enum direction d, const struct core_pod *pod) {
    bool type = false;
    for (size_t i = 0; i < np->spec.policy_types.n; i++) type |= str_eq(np->spec.policy_types.items[i], words[d].type);
    return type && str_eq(np->metadata.namespace, pod->metadata.namespace) &&
           label_selector_matches(&np->spec.pod_selector, &pod->metadata.labels);
}

/* The name of the chain with these rules, which is made when there is none. */
static const char *chain_of(struct writer *x, enum direction d, const struct buf *rules) {
    char *name = map_get(&x->chains, str_or_empty(rules->data));
    if (name) return name;
    name = xasprintf("%s_%zu", words[d].map, x->chains.n);
    buf_printf(&x->text, "  chain %s {\n%s    drop\n  }\n", name, str_or_empty(rules->data));
    map_put(&x->chains, str_or_empty(rules->data), name);
    return name;
}

static void isolate(struct writer *x, const struct core_pod *pod, const char *ip) {
    bool any = false;
    for (enum direction d = 0; d < DIRECTIONS; d++) {
        _cleanup_buf_ struct buf rules = BUF_INIT;
        bool isolated = false;
        for (size_t i = 0; i < x->w->n_policies; i++) {
            const struct networking_network_policy *np = x->w->policies[i];
            if (!isolates(np, d, pod)) continue;
            isolated = true;
            for (size_t k = 0; d == INGRESS && k < np->spec.ingress.n; k++)
                rule_lines(x, &rules, d, np, &np->spec.ingress.items[k].from, &np->spec.ingress.items[k].ports, pod);
            for (size_t k = 0; d == EGRESS && k < np->spec.egress.n; k++)
                rule_lines(x, &rules, d, np, &np->spec.egress.items[k].to, &np->spec.egress.items[k].ports, pod);
        }
        if (!isolated) continue;
        any = true;
        buf_printf(&x->elements[d], "%s%s : jump %s", x->elements[d].len ? ", " : "", ip, chain_of(x, d, &rules));
    }
    if (any) buf_printf(&x->selves, "%s%s . %s", x->selves.len ? ", " : "", ip, ip);
}

static void elements(struct buf *out, const char *what, const char *name, const char *type, const struct buf *items) {
    buf_printf(out, "  %s %s {\n    type %s\n", what, name, type);
    if (items->len) buf_printf(out, "    elements = { %s }\n", items->data);
    buf_adds(out, "  }\n");
}

static void write_table(struct writer *x, struct buf *out) {
    buf_printf(out, "table ip %s {\n", POLICY_TABLE);
    buf_add(out, x->text.data, x->text.len);
    for (enum direction d = 0; d < DIRECTIONS; d++)
        elements(out, "map", words[d].map, "ipv4_addr : verdict", &x->elements[d]);
    elements(out, "set", "selves", "ipv4_addr . ipv4_addr", &x->selves);
    buf_adds(out,
             "  chain forward {\n    type filter hook forward priority filter; policy accept;\n"
             "    ct state established,related accept\n    ip saddr . ip daddr @selves accept\n");
    for (int d = EGRESS; d >= INGRESS; d--) buf_printf(out, "    ip %s vmap @%s\n", words[d].own, words[d].map);
    buf_adds(out, "  }\n}\n");
}

void policy_text(const struct policy_world *w, struct buf *out) {
    struct writer x = {.w = w, .namespaces = MAP_INIT, .chains = MAP_INIT};
    for (size_t i = 0; i < w->n_namespaces; i++)
        map_put(&x.namespaces, w->namespaces[i]->metadata.name, (void *)w->namespaces[i]);
    for (size_t i = 0; w->n_policies && i < w->n_pods; i++) {
        const char *ip = str_eq(w->pods[i]->spec.node_name, w->node) ? address_of(w->pods[i]) : NULL;
        if (ip) isolate(&x, w->pods[i], ip);
    }
    buf_printf(out, "table ip %s\ndelete table ip %s\n", POLICY_TABLE, POLICY_TABLE);
    if (w->n_policies) write_table(&x, out);
    map_done(&x.namespaces);
    map_done_with(&x.chains, free);
    buf_done(&x.text);
    buf_done(&x.selves);
    for (size_t d = 0; d < DIRECTIONS; d++) buf_done(&x.elements[d]);
}

bool policy_labels_equal(const struct str_map *a, const struct str_map *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (!str_eq(str_map_get(b, a->items[i].key), a->items[i].value)) return false;
    return true;
}

bool policy_pod_changed(const struct core_pod *old, const struct core_pod *pod) {
    return !str_eq(address_of(old), address_of(pod)) || !str_eq(old->spec.node_name, pod->spec.node_name) ||
           !policy_labels_equal(&old->metadata.labels, &pod->metadata.labels);
}
