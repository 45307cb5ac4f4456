/* The table. A connection to a service is decided by its first packet, in the nat chains:
 *
 *   mark the packet with a random slot number (for sticky services one that its client keeps for a while), look up
 *   ip . protocol . port . slot in a flat map, and dnat to the endpoint found there.
 *
 * Flat maps (instead of a chain per service with verdict maps) keep an update at a few elements however many services
 * there are. An endpoint fills several slots, so that all get an even share: see slots_for in rules.c. Services without
 * endpoints are refused in a filter chain. Masqueraded are only node port clients (the answer must come back through this
 * node) and pods that reach themselves through a service (hairpin). Upstream: kube-proxy's nftables mode.
 *
 * libnftables takes rule text; element updates are written as text too, in one batch. An element can be wanted by several
 * services (two with one external IP, or a pod behind two services): the table counts who wants it, and the value of the
 * first one stands. */
#include "proxy/table.h"

#include "pkg/base/buf.h"
#include "proxy/nft.h"

enum { AFFINITY_MAX = 65536 }; /* clients of sticky services remembered */

static const char table_name[] = "coracle_proxy";
static char absent[] = ""; /* by its address: the kernel does not have the element */

struct element { /* of one set, by its text */
    char *data;  /* "" in sets */
    unsigned wanted_by;
};

struct table {
    struct nft *nft;
    struct map services;             /* name -> struct rules */
    struct map elements[RULES_SETS]; /* text -> struct element */
    struct map was[RULES_SETS];      /* of elements that changed since the last commit: what the kernel has */
    bool fresh;                      /* the kernel's table must be written whole */
    bool udp_changed;                /* since table_udp_changed was asked */
};

static void element_free(void *p) {
    struct element *el = p;
    free(el->data);
    free(el);
}

static void rules_free(void *p) {
    rules_done(p);
    free(p);
}

int table_new(struct table **out, struct err *e) {
    struct nft *nft;
    int r = nft_open(&nft, e);
    if (r < 0) return r;
    struct table *t = xcalloc(1, sizeof(*t));
    t->nft = nft;
    t->fresh = true;
    *out = t;
    return 0;
}

static void was_free(void *p) {
    if (p != absent) free(p);
}

static void forget_changes(struct table *t) {
    for (size_t s = 0; s < RULES_SETS; s++) {
        map_done_with(&t->was[s], was_free);
        t->was[s] = (struct map){0};
    }
}

void table_free(struct table *t) {
    if (!t) return;
    nft_close(t->nft);
    map_done_with(&t->services, rules_free);
    for (size_t i = 0; i < RULES_SETS; i++) map_done_with(&t->elements[i], element_free);
    forget_changes(t);
    free(t);
}

/* What an element is in the kernel's table, noted before its first change since the last commit: `data`, or NULL. */
static void touch(struct table *t, size_t set, const char *key, const char *data) {
    t->udp_changed |= strstr(key, "udp . ") != NULL;
    if (t->fresh || map_has(&t->was[set], key)) return;
    map_put(&t->was[set], key, data ? xstrdup(data) : absent);
}

static void drop_wants(struct table *t, struct rules *r) {
    for (size_t s = 0; s < RULES_SETS; s++) {
        const char *key;
        void *v;
        for (size_t it = 0; map_next(&r->sets[s], &it, &key, &v);) {
            struct element *el = map_get(&t->elements[s], key);
            if (el) el->wanted_by--;
        }
    }
}

static void add_wants(struct table *t, struct rules *r) {
    for (size_t s = 0; s < RULES_SETS; s++) {
        const char *key;
        void *v;
        for (size_t it = 0; map_next(&r->sets[s], &it, &key, &v);) {
            struct element *el = map_get(&t->elements[s], key);
            if (el && el->wanted_by == 0 && strcmp(el->data, v) != 0) {
                touch(t, s, key, el->data);
                free(el->data);
                el->data = xstrdup(v);
            } else if (!el) {
                el = xcalloc(1, sizeof(*el));
                el->data = xstrdup(v);
                map_put(&t->elements[s], key, el);
                touch(t, s, key, NULL);
            }
            el->wanted_by++;
        }
    }
}

/* Deletes the elements of `r` that nobody wants any more. */
static void sweep(struct table *t, struct rules *r) {
    for (size_t s = 0; s < RULES_SETS; s++) {
        const char *key;
        void *v;
        for (size_t it = 0; map_next(&r->sets[s], &it, &key, &v);) {
            struct element *el = map_get(&t->elements[s], key);
            if (!el || el->wanted_by) continue;
            touch(t, s, key, el->data);
            map_del(&t->elements[s], key);
            element_free(el);
        }
    }
}

void table_set(struct table *t, const char *service, struct rules *r) {
    struct rules *old = map_del(&t->services, service);
    if (old) drop_wants(t, old);
    if (r) {
        struct rules *kept = xmalloc(sizeof(*kept));
        *kept = *r;
        *r = (struct rules){0};
        add_wants(t, kept);
        map_put(&t->services, service, kept);
    }
    if (old) {
        sweep(t, old);
        rules_free(old);
    }
}

static const struct {
    const char *name, *what, *type;
} declarations[] = {
    {"vip16", "map", "ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service"},
    {"vip60", "map", "ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service"},
    {"vip960", "map", "ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service"},
    {"node16", "map", "inet_proto . inet_service . mark : ipv4_addr . inet_service"},
    {"node60", "map", "inet_proto . inet_service . mark : ipv4_addr . inet_service"},
    {"node960", "map", "inet_proto . inet_service . mark : ipv4_addr . inet_service"},
    {"sticky", "map", "ipv4_addr . inet_proto . inet_service : mark"},
    {"sticky_node", "map", "inet_proto . inet_service : mark"},
    {"masq_node", "set", "inet_proto . inet_service"},
    {"dead", "set", "ipv4_addr . inet_proto . inet_service"},
    {"dead_node", "set", "inet_proto . inet_service"},
    {"hairpin", "set", "ipv4_addr . ipv4_addr"},
};

/* Where connections go: a slot by chance, or for a sticky service one that follows from a number the client drew with its
 * first connection, which lasts until the timeout has passed without another. */
#define CLIENT "ip saddr . ip daddr . ip protocol . th dport"

static const char *const ways[][3] = {{"vip", "ip daddr . ip protocol . th dport . meta mark", "sticky"},
                                      {"node", "ip protocol . th dport . meta mark", "sticky_node"}};
static const int slot_counts[] = {16, 60, 960};

/* The mark is given back as 0 when no map had an entry. */
static void write_picks(struct buf *b, size_t way, bool sticky) {
    for (size_t i = 0; i < ARRAY_LEN(slot_counts); i++) {
        if (sticky) {
            buf_adds(b, "    meta mark set " CLIENT " map @affinity\n");
            buf_printf(b, "    meta mark set jhash ip saddr . meta mark mod %d\n", slot_counts[i]);
        } else {
            buf_printf(b, "    meta mark set numgen random mod %d\n", slot_counts[i]);
        }
        buf_printf(b, "    dnat ip to %s map @%s%d\n", ways[way][1], ways[way][0], slot_counts[i]);
    }
    buf_adds(b, "    meta mark set 0\n  }\n");
}

static void write_pick_chains(struct buf *b) {
    for (size_t way = 0; way < ARRAY_LEN(ways); way++) {
        buf_printf(b, "  chain %s_random {\n", ways[way][0]);
        write_picks(b, way, false);
        for (size_t t = 0; t < RULES_TIMEOUTS; t++) {
            buf_printf(b, "  chain %s_sticky_%d {\n    meta mark set 0\n", ways[way][0], rules_timeouts[t]);
            buf_adds(b, "    meta mark set " CLIENT
                        " map @affinity\n"
                        "    meta mark 0 meta mark set numgen random mod 2147483647 offset 1\n");
            buf_printf(b, "    update @affinity { " CLIENT " timeout %ds : meta mark }\n", rules_timeouts[t]);
            write_picks(b, way, true);
        }
    }
}

/* A sticky service's packet goes on in the chain of its timeout. */
static void write_goto_sticky(struct buf *b, size_t way) {
    const char *key = way == 0 ? "ip daddr . ip protocol . th dport" : "ip protocol . th dport";
    buf_printf(b, "    meta mark set %s map @%s meta mark vmap {", key, ways[way][2]);
    for (size_t t = 0; t < RULES_TIMEOUTS; t++)
        buf_printf(b, "%s %zu : goto %s_sticky_%d", t ? "," : "", t + 1, ways[way][0], rules_timeouts[t]);
    buf_adds(b, " }\n");
}

static void write_chains(struct buf *b) {
    write_pick_chains(b);
    buf_adds(b, "  chain services {\n    meta l4proto != { tcp, udp, sctp } return\n");
    write_goto_sticky(b, 0);
    buf_adds(b,
             "    jump vip_random\n"
             "    fib daddr type != local return\n"
             "    ip protocol . th dport @masq_node ct mark set ct mark | 0x8000\n");
    write_goto_sticky(b, 1);
    buf_adds(
        b,
        "    goto node_random\n"
        "  }\n  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n    jump services\n"
        "  }\n  chain output {\n    type nat hook output priority -100; policy accept;\n    jump services\n"
        "  }\n  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
        "    ct status dnat ct mark & 0x8000 == 0x8000 masquerade\n"
        "    ct status dnat ip saddr . ip daddr @hairpin masquerade\n"
        "  }\n  chain refusal {\n"
        /* an ICMP error does not reach a socket of this machine whose packet was routed to lo; a reset does */
        "    meta l4proto tcp reject with tcp reset\n    reject\n"
        "  }\n  chain refuse {\n"
        "    ip daddr . ip protocol . th dport @dead goto refusal\n"
        "    fib daddr type local ip protocol . th dport @dead_node goto refusal\n"
        "  }\n  chain forward {\n    type filter hook forward priority filter; policy accept;\n"
        "    ct state new meta l4proto { tcp, udp, sctp } jump refuse\n"
        "  }\n  chain local_in {\n    type filter hook input priority filter; policy accept;\n"
        "    ct state new meta l4proto { tcp, udp, sctp } jump refuse\n"
        "  }\n  chain local_out {\n    type filter hook output priority filter; policy accept;\n"
        "    ct state new meta l4proto { tcp, udp, sctp } jump refuse\n"
        "  }\n");
}

static void write_whole(struct table *t, struct buf *b) {
    buf_printf(b, "table ip %s\ndelete table ip %s\ntable ip %s {\n", table_name, table_name, table_name);
    for (size_t i = 0; i < ARRAY_LEN(declarations); i++)
        buf_printf(b, "  %s %s { type %s; }\n", declarations[i].what, declarations[i].name, declarations[i].type);
    buf_printf(b,
               "  map affinity { type ipv4_addr . ipv4_addr . inet_proto . inet_service : mark; size %d; "
               "flags dynamic, timeout; }\n",
               AFFINITY_MAX);
    write_chains(b);
    buf_adds(b, "}\n");
    for (size_t s = 0; s < RULES_SETS; s++) {
        if (!t->elements[s].n) continue;
        buf_printf(b, "add element ip %s %s { ", table_name, rules_set_names[s]);
        const char *key;
        void *v;
        bool first = true;
        for (size_t it = 0; map_next(&t->elements[s], &it, &key, &v); first = false) {
            const struct element *el = v;
            buf_printf(b, "%s%s%s%s", first ? "" : ", ", key, *el->data ? " : " : "", el->data);
        }
        buf_adds(b, " }\n");
    }
}

static void write_change(struct buf *b, const char *verb, size_t set, const char *key, const char *data) {
    buf_printf(b, "%s element ip %s %s { %s%s%s }\n", verb, table_name, rules_set_names[set], key, *data ? " : " : "",
               data);
}

/* The difference between what the kernel has and what is wanted now, however it came about: what is to go, then what is
 * to come. */
static void write_changes(struct table *t, struct buf *b) {
    for (int adding = 0; adding < 2; adding++)
        for (size_t s = 0; s < RULES_SETS; s++) {
            const char *key;
            void *v;
            for (size_t it = 0; map_next(&t->was[s], &it, &key, &v);) {
                const struct element *el = map_get(&t->elements[s], key);
                const char *had = v == absent ? NULL : v, *wants = el ? el->data : NULL;
                if (had && wants && strcmp(had, wants) == 0) continue;
                if (adding ? wants : had) write_change(b, adding ? "add" : "delete", s, key, adding ? wants : had);
            }
        }
}

int table_commit(struct table *t, struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (t->fresh) {
        write_whole(t, &b);
    } else {
        write_changes(t, &b);
    }
    forget_changes(t);
    if (!b.len) return 0;
    int r = nft_run(t->nft, b.data, e);
    t->fresh = r < 0;
    return r;
}

/* From "10.96.0.10 . udp . 53[ . slot]" or "udp . 30053[ . slot]" and "10.244.0.7 . 53" to addresses. */
static void udp_front(struct conntrack_fronts *out, const char *key, const char *data) {
    const char *proto = strstr(key, "udp . ");
    if (!proto) return;
    int host = proto > key ? (int)(proto - key - 3) : 0; /* without " . " */
    const char *port = proto + strlen("udp . "), *dot = strstr(data, " . ");
    _cleanup_free_ char *front = xasprintf("%.*s:%.*s", host, key, (int)strspn(port, "0123456789"), port);
    _cleanup_free_ char *back = dot ? xasprintf("%.*s:%s", (int)(dot - data), data, dot + 3) : NULL;
    conntrack_fronts_add(out, front, back);
}

bool table_udp_changed(struct table *t, struct conntrack_fronts *out) {
    static const enum rules_set sets[] = {SET_VIP_16,  SET_VIP_60,   SET_VIP_960, SET_NODE_16,
                                          SET_NODE_60, SET_NODE_960, SET_DEAD,    SET_DEAD_NODE};
    if (!t->udp_changed) return false;
    t->udp_changed = false;
    for (size_t i = 0; i < ARRAY_LEN(sets); i++) {
        const char *key;
        void *v;
        for (size_t it = 0; map_next(&t->elements[sets[i]], &it, &key, &v);)
            udp_front(out, key, ((const struct element *)v)->data);
    }
    return true;
}

size_t table_elements(const struct table *t) {
    size_t n = 0;
    for (size_t i = 0; i < RULES_SETS; i++) n += t->elements[i].n;
    return n;
}

int table_remove(struct err *e) {
    struct table *t;
    int r = table_new(&t, e);
    if (r < 0) return r;
    _cleanup_free_ char *text = xasprintf("table ip %s\ndelete table ip %s\n", table_name, table_name);
    r = nft_run(t->nft, text, e);
    table_free(t);
    return r;
}
