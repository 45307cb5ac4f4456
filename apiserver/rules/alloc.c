/* Allocation of cluster IPs and node ports, and the fields of a Service that hang on it (clusterIPs,
 * ipFamilies, ipFamilyPolicy, nodePort, healthCheckNodePort).
 *
 * A claim is made before the write; when the write fails rules_release gives it back, when the object goes
 * rules_stored does. Who holds what is kept by rules_config.alloc (a server's: in the store, where all servers see
 * it), or in two maps from the text of an address or port to its owner, filled from the stored Services at the
 * first use. Addresses and ports are drawn at random from the upper part of the range, so that static ones asked for
 * at its start seldom collide; then the range is searched in order.
 *
 * Upstream: pkg/registry/core/service/storage/alloc.go and ipallocator; one IPv4 range, no dual stack. */
#include "apiserver/rules/alloc.h"

#include <arpa/inet.h>

#include "apiserver/rules/kinds.h"
#include "pkg/base/bytes.h"

enum { RANDOM_TRIES = 64, STATIC_PART_MAX = 256 };

struct rules_claim {
    struct rules_claim *next;
    struct map *in;
    const char *key, *owner;
};

int alloc_init(struct rules *r, const struct rules_config *conf, struct err *e) {
    r->cidr = str_empty(conf->service_cidr) ? "10.96.0.0/16" : conf->service_cidr;
    const char *slash = strchr(r->cidr, '/');
    char addr[INET_ADDRSTRLEN];
    struct in_addr in;
    int family;
    if (!slash || !is_cidr(r->cidr, &family) || family != 4 || (size_t)(slash - r->cidr) >= sizeof addr)
        return err_set(e, -EINVAL, "service CIDR \"%s\" is no IPv4 network", r->cidr);
    memcpy(addr, r->cidr, (size_t)(slash - r->cidr));
    addr[slash - r->cidr] = '\0';
    inet_pton(AF_INET, addr, &in);
    unsigned bits = (unsigned)strtoul(slash + 1, NULL, 10);
    if (bits < 8 || bits > 30) return err_set(e, -EINVAL, "service CIDR \"%s\" must be between /8 and /30", r->cidr);
    r->mask = UINT32_MAX << (32 - bits);
    r->net = ntohl(in.s_addr) & r->mask;
    r->cidr = xstrdup(r->cidr);
    if (conf->alloc) r->alloc = *conf->alloc;
    r->port_min = conf->node_port_min ? conf->node_port_min : 30000;
    r->port_max = conf->node_port_max ? conf->node_port_max : 32767;
    pthread_mutex_init(&r->lock, NULL);
    return 0;
}

void alloc_done(struct rules *r) {
    map_done_with(&r->ips, free);
    map_done_with(&r->ports, free);
    pthread_mutex_destroy(&r->lock);
    free((char *)r->cidr);
}

static char *owner_of(const struct json *svc) {
    const struct json *m = json_get(svc, "metadata");
    return xasprintf("%s/%s", jstr(m, "namespace"), jstr(m, "name"));
}

static void enter(struct map *m, const char *key, const struct json *svc) { free(map_put(m, key, owner_of(svc))); }

static void enter_service(struct rules *r, const struct json *svc) {
    const struct json *it, *spec = json_get(svc, "spec");
    char text[16];
    JSON_FOREACH(it, json_get(spec, "clusterIPs"))
        if (!str_in(str_or_empty(json_as_str(it)), ONE_OF("", "None"))) enter(&r->ips, json_as_str(it), svc);
    JSON_FOREACH(it, json_get(spec, "ports")) {
        int64_t port = json_get_int(it, "nodePort", 0);
        snprintf(text, sizeof text, "%d", (int)port);
        if (port) enter(&r->ports, text, svc);
    }
    int64_t health = json_get_int(spec, "healthCheckNodePort", 0);
    snprintf(text, sizeof text, "%d", (int)health);
    if (health) enter(&r->ports, text, svc);
}

static void load(struct rules_ctx *c) {
    struct rules *r = c->rules;
    const struct json *svc;
    if (r->loaded || !r->lookup.list || r->alloc.take_ip) return;
    JSON_FOREACH(svc, r->lookup.list(r->lookup.arg, c->a, "", "services", NULL)) enter_service(r, svc);
    r->loaded = true;
}

static void note_claim(struct rules_ctx *c, struct map *m, const char *key, const struct json *svc) {
    _cleanup_free_ char *owner = owner_of(svc);
    struct rules_claim *claim = arena_zalloc(c->a, sizeof *claim);
    *claim = (struct rules_claim){c->claims, m, arena_strdup(c->a, key), arena_strdup(c->a, owner)};
    c->claims = claim;
}

/* Takes a key of the maps when it is free or already this Service's own. */
static int take(struct rules_ctx *c, struct map *m, const char *key, const struct json *svc) {
    _cleanup_free_ char *owner = owner_of(svc);
    const char *have = map_get(m, key);
    if (have) return str_eq(have, owner) ? 0 : -EEXIST;
    map_put(m, key, take_ptr(owner));
    note_claim(c, m, key, svc);
    return 0;
}

static bool holds_ip(const struct json *svc, const char *ip) {
    const struct json *it;
    JSON_FOREACH(it, json_at(svc, "spec", "clusterIPs", NULL))
        if (str_eq(json_as_str(it), ip)) return true;
    return false;
}

static bool holds_port(const struct json *svc, int64_t port) {
    const struct json *it, *spec = json_get(svc, "spec");
    JSON_FOREACH(it, json_get(spec, "ports"))
        if (json_get_int(it, "nodePort", 0) == port) return true;
    return json_get_int(spec, "healthCheckNodePort", 0) == port;
}

static bool claimed(const struct rules_ctx *c, const struct map *m, const char *key) {
    const struct rules_claim *k = c->claims;
    while (k && (k->in != m || !str_eq(k->key, key))) k = k->next;
    return k != NULL;
}

/* The takes: what this Service (of which `old` is stored, or NULL) has already is taken for it. 0, -EEXIST, an error. */
static int take_ip(struct rules_ctx *c, const char *ip, const struct json *svc, const struct json *old, struct err *e) {
    struct rules *r = c->rules;
    if (!r->alloc.take_ip) return take(c, &r->ips, ip, svc);
    if (holds_ip(old, ip) || claimed(c, &r->ips, ip)) return 0;
    int rc = r->alloc.take_ip(r->alloc.arg, c->a, ip, svc, c->dry_run, e);
    if (rc == 0 && !c->dry_run) note_claim(c, &r->ips, ip, svc);
    return rc;
}

static int take_port(struct rules_ctx *c, int64_t port, const struct json *svc, const struct json *old, struct err *e) {
    struct rules *r = c->rules;
    const char *text = arena_printf(c->a, "%lld", (long long)port);
    if (!r->alloc.take_ip) return take(c, &r->ports, text, svc);
    if (holds_port(old, port) || claimed(c, &r->ports, text)) return 0;
    int rc = r->alloc.take_port(r->alloc.arg, c->a, (int)port, c->dry_run, e);
    if (rc >= 0 && !c->dry_run) note_claim(c, &r->ports, text, svc);
    return MIN_OF(rc, 0);
}

static void give_back(struct rules *r, struct arena *a, struct map *m, const char *key, const char *owner) {
    int64_t port = 0;
    if (!r->alloc.take_ip) {
        if (str_eq(map_get(m, key), owner)) free(map_del(m, key));
    } else if (m == &r->ips) {
        r->alloc.drop_ip(r->alloc.arg, a, key, owner);
    } else if (str_to_i64(key, &port) == 0) {
        r->alloc.drop_port(r->alloc.arg, a, (int)port);
    }
}

static void lock(struct rules *r) {
    if (!r->alloc.take_ip) pthread_mutex_lock(&r->lock);
}

static void unlock(struct rules *r) {
    if (!r->alloc.take_ip) pthread_mutex_unlock(&r->lock);
}

void rules_release(struct rules_ctx *c) {
    if (!c->claims) return;
    lock(c->rules);
    for (struct rules_claim *k = c->claims; k; k = k->next) give_back(c->rules, c->a, k->in, k->key, k->owner);
    c->claims = NULL;
    unlock(c->rules);
}

/* Drops what `was` holds and `now` (may be NULL) does not. */
static void drop_service(struct rules *r, struct arena *a, const struct json *was, const struct json *now) {
    _cleanup_free_ char *owner = owner_of(was);
    struct map *maps[] = {&r->ips, &r->ports};
    struct rules kept = {.ips = MAP_INIT, .ports = MAP_INIT}, old = {.ips = MAP_INIT, .ports = MAP_INIT};
    struct map *kept_maps[] = {&kept.ips, &kept.ports}, *old_maps[] = {&old.ips, &old.ports};
    enter_service(&old, was);
    if (now) enter_service(&kept, now);
    for (size_t i = 0; i < ARRAY_LEN(maps); i++) {
        const char *key;
        size_t it = 0;
        void *value;
        while (map_next(old_maps[i], &it, &key, &value))
            if (!map_has(kept_maps[i], key)) give_back(r, a, maps[i], key, owner);
        map_done_with(kept_maps[i], free);
        map_done_with(old_maps[i], free);
    }
}

static bool is_service(const struct rules_ctx *c) { return str_empty(c->group) && str_eq(c->kind, "Service"); }

void rules_stored(struct rules_ctx *c, const struct json *was, const struct json *now) {
    if (!is_service(c) || !was) return;
    lock(c->rules);
    drop_service(c->rules, c->a, was, now);
    unlock(c->rules);
}

/* ---- addresses ---- */

static bool in_range(const struct rules *r, const char *ip) {
    struct in_addr in;
    if (inet_pton(AF_INET, ip, &in) != 1) return false;
    uint32_t n = ntohl(in.s_addr);
    return (n & r->mask) == r->net && n != r->net && n != (r->net | ~r->mask);
}

static const char *ip_text(struct arena *a, uint32_t n) {
    char text[INET_ADDRSTRLEN];
    struct in_addr in = {htonl(n)};
    return arena_strdup(a, inet_ntop(AF_INET, &in, text, sizeof text));
}

/* 0 and *out, or -ENOSPC, or an error of the allocator. */
static int draw_ip(struct rules_ctx *c, const struct json *svc, const char **out, struct err *e) {
    struct rules *r = c->rules;
    uint32_t size = ~r->mask, part = MIN_OF(MAX_OF(size / 16, 1u), (uint32_t)STATIC_PART_MAX), x;
    int rc = -EEXIST;
    for (int i = 0; i < RANDOM_TRIES && size > 2 * part && rc == -EEXIST; i++) {
        random_bytes(&x, sizeof x);
        *out = ip_text(c->a, r->net + 1 + part + x % (size - part - 1));
        rc = map_has(&r->ips, *out) ? -EEXIST : take_ip(c, *out, svc, NULL, e);
    }
    for (uint32_t i = 1; i < size && rc == -EEXIST; i++) {
        *out = ip_text(c->a, r->net + i);
        rc = map_has(&r->ips, *out) ? -EEXIST : take_ip(c, *out, svc, NULL, e);
    }
    return rc == -EEXIST ? -ENOSPC : rc;
}

/* The port, or -ENOSPC, or an error of the allocator. */
static int draw_port(struct rules_ctx *c, const struct json *svc, struct err *e) {
    struct rules *r = c->rules;
    if (r->alloc.take_port) {
        int port = r->alloc.take_port(r->alloc.arg, c->a, 0, c->dry_run, e);
        if (port > 0 && !c->dry_run) note_claim(c, &r->ports, arena_printf(c->a, "%d", port), svc);
        return port;
    }
    uint32_t span = (uint32_t)(r->port_max - r->port_min + 1), x;
    random_bytes(&x, sizeof x);
    for (uint32_t i = 0; i < span; i++) {
        int port = r->port_min + (int)((x + i) % span);
        char *text = arena_printf(c->a, "%d", port);
        if (!map_has(&r->ports, text) && take(c, &r->ports, text, svc) == 0) return port;
    }
    return -ENOSPC;
}

static bool is_headless(const struct json *spec) { return str_eq(jstr(spec, "clusterIP"), "None"); }

static void set_families(struct rules_ctx *c, struct json *spec) {
    if (!json_len(json_get(spec, "ipFamilies"))) {
        struct json *f = json_array(c->a);
        json_append(c->a, f, json_str(c->a, "IPv4"));
        /* a headless Service without a selector is not bound to the cluster's families */
        if (is_headless(spec) && !json_len(json_get(spec, "selector")) && !*jstr(spec, "ipFamilyPolicy")) {
            json_append(c->a, f, json_str(c->a, "IPv6"));
            json_set_str(c->a, spec, "ipFamilyPolicy", "RequireDualStack");
        }
        json_set(c->a, spec, "ipFamilies", f);
    }
    def_str(c->a, spec, "ipFamilyPolicy", "SingleStack");
}

static int claim_ip(struct rules_ctx *c, struct json *obj, const struct json *old, struct json *spec, struct vctx *v,
                    struct err *e) {
    const struct fp *p = FP(FP(NULL, "spec"), "clusterIPs");
    const char *ip = jstr(spec, "clusterIP");
    int rc = 0;
    if (!is_headless(spec) && !*ip) {
        if ((rc = draw_ip(c, obj, &ip, e))) return rc;
        json_set_str(c->a, spec, "clusterIP", ip);
    } else if (!is_headless(spec)) {
        const struct json *val = json_get(spec, "clusterIPs");
        if (!in_range(c->rules, ip)) {
            v_invalid(v, p, val, "failed to allocate IP %s: the provided IP is not in the valid range %s", ip,
                      c->rules->cidr);
        } else if ((rc = take_ip(c, ip, obj, old, e)) == -EEXIST) {
            v_invalid(v, p, val, "failed to allocate IP %s: provided IP is already allocated", ip);
        } else if (rc) {
            return rc;
        }
    }
    struct json *list = json_array(c->a);
    json_append(c->a, list, json_str(c->a, jstr(spec, "clusterIP")));
    json_set(c->a, spec, "clusterIPs", list);
    return 0;
}

static bool same_port_seen(const struct json *ports, size_t upto, int64_t node_port, const char *protocol) {
    for (size_t i = 0; i < upto; i++) {
        const struct json *p = json_item(ports, i);
        if (json_get_int(p, "nodePort", 0) == node_port && str_eq(jstr(p, "protocol"), protocol)) return true;
    }
    return false;
}

static int claim_ports(struct rules_ctx *c, struct json *obj, const struct json *old, struct json *spec, struct vctx *v,
                       struct err *e) {
    const struct fp *sp = FP(NULL, "spec");
    struct json *port, *ports = json_get(spec, "ports");
    struct rules *r = c->rules;
    JSON_FOREACH(port, ports) {
        int64_t n = json_get_int(port, "nodePort", 0);
        const struct fp *p = FP(FPI(FP(sp, "ports"), port_i), "nodePort");
        int rc = 0;
        if (!n) {
            if ((rc = draw_port(c, obj, e)) < 0) return rc;
            json_set_int(c->a, port, "nodePort", rc);
            continue;
        }
        if (c->dry_run) continue; /* a dry run does not look at the range, as upstream */
        if (n < r->port_min || n > r->port_max) {
            v_invalid(v, p, json_get(port, "nodePort"),
                      "provided port is not in the valid range. The range of valid ports is %d-%d", r->port_min,
                      r->port_max);
        } else if ((rc = take_port(c, n, obj, old, e)) == -EEXIST ||
                   (rc == 0 && same_port_seen(ports, port_i, n, jstr(port, "protocol")))) {
            v_invalid(v, p, json_get(port, "nodePort"), "provided port is already allocated");
        } else if (rc) {
            return rc;
        }
    }
    return 0;
}

static bool wants_health_port(const struct json *spec) {
    return str_eq(jstr(spec, "type"), "LoadBalancer") && str_eq(jstr(spec, "externalTrafficPolicy"), "Local");
}

static int claim_health_port(struct rules_ctx *c, struct json *obj, const struct json *old, struct json *spec,
                             struct vctx *v, struct err *e) {
    int64_t n = json_get_int(spec, "healthCheckNodePort", 0);
    int rc = n ? take_port(c, n, obj, old, e) : draw_port(c, obj, e);
    if (rc == -EEXIST)
        v_invalid(v, FP(FP(NULL, "spec"), "healthCheckNodePort"), json_get(spec, "healthCheckNodePort"),
                  "provided port is already allocated");
    else if (rc < 0)
        return rc;
    else if (!n)
        json_set_int(c->a, spec, "healthCheckNodePort", rc);
    return 0;
}

static int claim_all(struct rules_ctx *c, struct json *obj, const struct json *old, struct vctx *v, struct err *e) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    const char *type = jstr(spec, "type");
    const struct fp *sp = FP(NULL, "spec");
    load(c);
    if (str_eq(type, "ExternalName")) return 0;
    set_families(c, spec);
    const struct json *f;
    if (!is_headless(spec)) {
        JSON_FOREACH(f, json_get(spec, "ipFamilies"))
            if (str_eq(json_as_str(f), "IPv6"))
                v_invalid(v, FPI(FP(sp, "ipFamilies"), f_i), f, "not configured on this cluster");
        if (str_eq(jstr(spec, "ipFamilyPolicy"), "RequireDualStack"))
            v_invalid(v, FP(sp, "ipFamilyPolicy"), json_get(spec, "ipFamilyPolicy"),
                      "this cluster is not configured for dual-stack services");
    }
    int r = claim_ip(c, obj, old, spec, v, e);
    bool node_ports = str_eq(type, "NodePort") ||
                      (str_eq(type, "LoadBalancer") && json_get_bool(spec, "allocateLoadBalancerNodePorts", true));
    /* The first that fails ends it, as upstream: of two Services that want the same address and port one gets both. */
    if (!r && !v->n && node_ports) r = claim_ports(c, obj, old, spec, v, e);
    if (!r && !v->n && wants_health_port(spec)) r = claim_health_port(c, obj, old, spec, v, e);
    return r;
}

int alloc_claim(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!is_service(c) || !c->rules || !str_empty(c->subresource)) return 0;
    if (str_eq(jstr(json_get(obj, "spec"), "type"), "ExternalName")) /* checked, but not kept */
        json_del(json_get(obj, "spec"), "internalTrafficPolicy");
    struct vctx v = {.c = c, .a = c->a};
    lock(c->rules);
    int r = claim_all(c, obj, old, &v, e);
    unlock(c->rules);
    if (r < 0) {
        rules_release(c);
        if (r != -ENOSPC) return r;
        return err_status(e, 500, "InternalError", "failed to allocate a serviceIP or nodePort: range is full");
    }
    r = v_finish(&v, json_as_str(json_at(obj, "metadata", "name", NULL)), e);
    if (r < 0) rules_release(c);
    return r;
}

/* ---- what an update carries over, and what follows the type ---- */

static void carry_ports(struct arena *a, struct json *spec, const struct json *old) {
    struct json *p;
    const struct json *o;
    JSON_FOREACH(p, json_get(spec, "ports")) {
        if (json_get_int(p, "nodePort", 0)) continue;
        JSON_FOREACH(o, json_get(old, "ports"))
            if (json_get_int(o, "port", 0) == json_get_int(p, "port", 0) &&
                str_eq(jstr(o, "protocol"), jstr(p, "protocol")) && json_get_int(o, "nodePort", 0))
                json_set_int(a, p, "nodePort", json_get_int(o, "nodePort", 0));
    }
}

static void drop_node_ports(struct json *spec, const struct json *old) {
    struct json *p;
    JSON_FOREACH(p, json_get(spec, "ports")) {
        const struct json *o;
        JSON_FOREACH(o, json_get(old, "ports"))
            if (json_get_int(o, "nodePort", 0) == json_get_int(p, "nodePort", -1)) json_del(p, "nodePort");
    }
}

/* A client that changes clusterIP alone means clusterIPs too. */
static void follow_cluster_ip(struct arena *a, struct json *spec, const struct json *was) {
    const char *ip = jstr(spec, "clusterIP");
    if (str_eq(ip, jstr(was, "clusterIP")) || !json_equal(json_get(spec, "clusterIPs"), json_get(was, "clusterIPs")))
        return;
    json_del(spec, "clusterIPs");
    if (*ip) json_append(a, json_ensure_array(a, spec, "clusterIPs"), json_str(a, ip));
}

PREPARE_FN(service) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    if (!str_empty(c->subresource)) return;
    const char *type = jstr(spec, "type");
    bool cluster = !str_eq(type, "ExternalName"), ports = str_eq(type, "NodePort") || str_eq(type, "LoadBalancer");
    const struct json *was = json_get(old, "spec");
    const char *old_type = jstr(was, "type");
    if (old && cluster && !str_eq(old_type, "ExternalName") && !*jstr(spec, "clusterIP") && *jstr(was, "clusterIP")) {
        json_set_str(c->a, spec, "clusterIP", jstr(was, "clusterIP"));
        if (!json_len(json_get(spec, "clusterIPs")) && jget(was, "clusterIPs"))
            json_set(c->a, spec, "clusterIPs", json_clone(c->a, json_get(was, "clusterIPs")));
    }
    if (old && ports && str_in(old_type, ONE_OF("NodePort", "LoadBalancer"))) carry_ports(c->a, spec, was);
    if (old && wants_health_port(spec) && wants_health_port(was) && !json_get_int(spec, "healthCheckNodePort", 0) &&
        jget(was, "healthCheckNodePort"))
        json_set_int(c->a, spec, "healthCheckNodePort", json_get_int(was, "healthCheckNodePort", 0));
    if (old && !ports && str_in(old_type, ONE_OF("NodePort", "LoadBalancer"))) drop_node_ports(spec, was);
    if (old && !wants_health_port(spec) && wants_health_port(was)) json_del(spec, "healthCheckNodePort");
    bool open_now = ports || (str_eq(type, "ClusterIP") && json_len(json_get(spec, "externalIPs"))),
         open_before = str_in(old_type, ONE_OF("NodePort", "LoadBalancer")) ||
                       (str_eq(old_type, "ClusterIP") && json_len(json_get(was, "externalIPs")));
    if (old && open_before && !open_now &&
        str_eq(jstr(spec, "externalTrafficPolicy"), jstr(was, "externalTrafficPolicy")))
        json_del(spec, "externalTrafficPolicy");
    if (old && !cluster && str_in(old_type, ONE_OF("ClusterIP", "NodePort", "LoadBalancer")) &&
        str_eq(jstr(spec, "internalTrafficPolicy"), jstr(was, "internalTrafficPolicy")))
        json_del(spec, "internalTrafficPolicy");
    if (old && !str_eq(type, "LoadBalancer") && str_eq(old_type, "LoadBalancer")) {
        json_del(spec, "allocateLoadBalancerNodePorts");
        json_del(spec, "loadBalancerClass");
    }
    if (old && !cluster && !str_eq(old_type, "ExternalName")) {
        static const char *const dropped[] = {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"};
        for (size_t i = 0; i < ARRAY_LEN(dropped); i++)
            if (jsame(json_get(spec, dropped[i]), json_get(was, dropped[i]))) json_del(spec, dropped[i]);
    }
    if (old) follow_cluster_ip(c->a, spec, was);
    /* clusterIP is the first of clusterIPs; what only the list says is not taken over */
    if (*jstr(spec, "clusterIP") && !json_len(json_get(spec, "clusterIPs")))
        json_append(c->a, json_ensure_array(c->a, spec, "clusterIPs"), json_str(c->a, jstr(spec, "clusterIP")));
}
