/* Node IPAM: gives each node a range of pod addresses out of the cluster's (upstream pkg/controller/nodeipam,
 * range allocator). One queue with one worker owns the map of ranges, so there are no races; what nodes
 * already have is entered before anything is given out. */
#include <arpa/inet.h>

#include "pkg/base/log.h"
#include "pkg/base/map.h"
#include "util.h"

enum { RANGES_MAX = 1 << 16 };

struct ipam {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
    int family;
    unsigned char base[16];
    unsigned prefix, mask; /* of the cluster and of a node, bits */
    size_t n;              /* ranges */
    uint8_t *used;
    struct map by_node; /* name -> index + 1 */
    bool surveyed;
};

/* Adds index << shift to the base address. */
static void range_text(const struct ipam *p, size_t index, char *out, size_t len) {
    unsigned char addr[16];
    unsigned bits = p->family == AF_INET ? 32 : 128, shift = bits - p->mask;
    memcpy(addr, p->base, sizeof(addr));
    for (unsigned b = 0; b < 32; b++) {
        if (!((index >> b) & 1)) continue;
        unsigned at = shift + b;
        addr[bits / 8 - 1 - at / 8] |= (unsigned char)(1u << (at % 8));
    }
    char text[INET6_ADDRSTRLEN];
    inet_ntop(p->family, addr, text, sizeof(text));
    snprintf(out, len, "%s/%u", text, p->mask);
}

/* The index of a range in the cluster's, or -1. */
static int64_t range_index(const struct ipam *p, const char *cidr) {
    for (size_t i = 0; i < p->n; i++) {
        char text[64];
        range_text(p, i, text, sizeof(text));
        if (strcmp(text, cidr) == 0) return (int64_t)i;
    }
    return -1;
}

static void occupy(struct ipam *p, const struct core_node *n) {
    int64_t i = str_empty(n->spec.pod_cidr) ? -1 : range_index(p, n->spec.pod_cidr);
    if (i < 0 || map_has(&p->by_node, n->metadata.name)) return;
    p->used[i] = 1;
    map_put(&p->by_node, n->metadata.name, (void *)(intptr_t)(i + 1));
}

static void survey(struct ipam *p) {
    if (p->surveyed) return;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(p->m, &client_nodes), NULL, &l);
    for (size_t i = 0; i < l.n; i++) occupy(p, l.items[i]->obj);
    p->surveyed = true;
}

static int give(struct ipam *p, struct arena *a, const struct core_node *n, struct err *e) {
    size_t i = (size_t)((intptr_t)map_get(&p->by_node, n->metadata.name) -
                        1); /* one given before, of which the cache knows nothing */
    if (!map_has(&p->by_node, n->metadata.name)) {
        for (i = 0; i < p->n && p->used[i];) i++;
        if (i == p->n) {
            event_record_obj(p->events, &client_nodes, &n->metadata, "Normal", "CIDRNotAvailable",
                             "Node %s status is now: CIDRNotAvailable", n->metadata.name);
            return err_set(e, -ENOSPC, "no range of pod addresses is left for node %s", n->metadata.name);
        }
    }
    char cidr[64];
    range_text(p, i, cidr, sizeof(cidr));
    p->used[i] = 1;
    map_put(&p->by_node, n->metadata.name, (void *)(intptr_t)(i + 1));
    const char *text = arena_printf(a, "{\"spec\":{\"podCIDR\":\"%s\",\"podCIDRs\":[\"%s\"]}}", cidr, cidr);
    struct client_opts o = {.cause = n->metadata.resource_version};
    return client_patch(p->m->client, a, &client_nodes, NULL, n->metadata.name, CLIENT_PATCH_STRATEGIC, text,
                        strlen(text), &o, NULL, e);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ipam *p = arg;
    survey(p);
    _cleanup_object_ struct object *o = informer_get(manager_informer(p->m, &client_nodes), key);
    if (!o) {
        intptr_t had = (intptr_t)map_del(&p->by_node, key);
        if (had) p->used[had - 1] = 0;
        return 0;
    }
    const struct core_node *n = o->obj;
    occupy(p, n);
    if (!str_empty(n->spec.pod_cidr) || n->metadata.deletion_timestamp.set) return 0;
    return give(p, a, n, e);
}

static int parse(struct ipam *p, const char *cidr, int64_t mask, struct err *e) {
    char text[64];
    const char *comma = strchr(cidr, ','); /* of a dual-stack pair the first */
    snprintf(text, sizeof(text), "%.*s", (int)(comma ? comma - cidr : (ptrdiff_t)strlen(cidr)), cidr);
    char *slash = strchr(text, '/');
    int64_t prefix = -1;
    if (slash) {
        *slash = 0;
        str_to_i64(slash + 1, &prefix);
    }
    p->family = strchr(text, ':') ? AF_INET6 : AF_INET;
    if (p->family == AF_INET6 && mask == 24) mask = 64;
    int64_t bits = p->family == AF_INET ? 32 : 128;
    if (prefix < 0 || prefix > bits || inet_pton(p->family, text, p->base) != 1)
        return err_set(e, -EINVAL, "--cluster-cidr: bad range %s", cidr);
    if (mask < prefix) mask = MIN_OF(prefix + 8, bits); /* a small range still serves several nodes */
    if (mask > bits || mask - prefix > 16)
        return err_set(e, -EINVAL, "--node-cidr-mask-size %lld does not suit %s", (long long)mask, cidr);
    p->prefix = (unsigned)prefix;
    p->mask = (unsigned)mask;
    p->n = (size_t)1 << (mask - prefix);
    p->used = xcalloc(p->n, 1);
    return 0;
}

static void done(void *v) {
    struct ipam *p = v;
    free(p->used);
    map_done(&p->by_node);
}

int nodeipam_start(struct manager *m, struct err *e) {
    if (!m->opt.allocate_node_cidrs) return 0;
    if (str_empty(m->opt.cluster_cidr)) return err_set(e, -EINVAL, "--allocate-node-cidrs needs --cluster-cidr");
    struct ipam *p = manager_alloc(m, sizeof(*p), done);
    int r = parse(p, m->opt.cluster_cidr, m->opt.node_cidr_mask, e);
    if (r < 0) return r;
    p->m = m;
    p->events = manager_recorder(m, "cidrAllocator");
    p->q = manager_queue(m, "node-ipam", 1, reconcile, p, &client_nodes, NULL);
    manager_watch_keys(m, &client_nodes, p->q);
    return 0;
}
