/* Allocation of cluster IPs and node ports, and the fields of a Service that hang on it (clusterIPs,
 * ipFamilies, ipFamilyPolicy, nodePort, healthCheckNodePort; service_fields.c).
 *
 * A claim is made before the object is validated, so what cannot be had is all that a client is told. When validation or
 * the write fails rules_release gives it back, when the object goes rules_stored does. Who holds what is kept by
 * rules_config.alloc (a server's: in the store, where all servers see it), or in two maps from the text of an address or
 * port to its owner, filled from the stored Services at the first use. Addresses and ports are drawn at random from the
 * upper part of the range, so that static ones asked for at its start seldom collide; then the range is searched in order.
 *
 * Addresses come from the configured range and from the ServiceCIDRs that are Ready (controllers/servicecidr.c).
 *
 * Upstream: pkg/registry/core/service/storage/alloc.go and ipallocator; IPv4, no dual stack. */
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

/* A range of addresses, host order. */
struct ip_range {
    uint32_t net, mask;
};

static bool parse_range(const char *cidr, struct ip_range *out) {
    const char *slash = strchr(cidr, '/');
    char addr[INET_ADDRSTRLEN];
    struct in_addr in;
    int family;
    if (!slash || !is_cidr(cidr, &family) || family != 4 || (size_t)(slash - cidr) >= sizeof addr) return false;
    memcpy(addr, cidr, (size_t)(slash - cidr));
    addr[slash - cidr] = '\0';
    inet_pton(AF_INET, addr, &in);
    unsigned bits = (unsigned)strtoul(slash + 1, NULL, 10);
    out->mask = bits ? UINT32_MAX << (32 - bits) : 0;
    out->net = ntohl(in.s_addr) & out->mask;
    return true;
}

int alloc_init(struct rules *r, const struct rules_config *conf, struct err *e) {
    struct ip_range own;
    r->cidr = str_empty(conf->service_cidr) ? "10.96.0.0/16" : conf->service_cidr;
    if (!parse_range(r->cidr, &own)) return err_set(e, -EINVAL, "service CIDR \"%s\" is no IPv4 network", r->cidr);
    if (~own.mask > 0xffffff || ~own.mask < 3)
        return err_set(e, -EINVAL, "service CIDR \"%s\" must be between /8 and /30", r->cidr);
    r->mask = own.mask;
    r->net = own.net;
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

static bool cidr_ready(const struct json *cidr) {
    const struct json *k;
    if (jget(json_get(cidr, "metadata"), "deletionTimestamp")) return false;
    JSON_FOREACH(k, json_at(cidr, "status", "conditions", NULL))
        if (str_eq(jstr(k, "type"), "Ready")) return str_eq(jstr(k, "status"), "True");
    return false;
}

/* The configured range first, then those of the ServiceCIDRs that are ready; in the request's arena. */
static struct ip_range *ranges(struct rules_ctx *c, size_t *n) {
    struct rules *r = c->rules;
    size_t cap = 1;
    struct ip_range *all = arena_alloc(c->a, sizeof(*all)), more;
    const struct json *cidr, *it, *list;
    all[0] = (struct ip_range){r->net, r->mask};
    *n = 1;
    list = r->lookup.list ? r->lookup.list(r->lookup.arg, c->a, "networking.k8s.io", "servicecidrs", NULL) : NULL;
    JSON_FOREACH(cidr, list) {
        if (!cidr_ready(cidr)) continue;
        JSON_FOREACH(it, json_at(cidr, "spec", "cidrs", NULL)) {
            if (!parse_range(str_or_empty(json_as_str(it)), &more) || ~more.mask < 3) continue;
            if (more.net == r->net && more.mask == r->mask) continue;
            ARENA_GROW(c->a, all, *n, cap);
            all[(*n)++] = more;
        }
    }
    return all;
}

static bool in_range(struct rules_ctx *c, const char *ip) {
    struct in_addr in;
    size_t n;
    if (inet_pton(AF_INET, ip, &in) != 1) return false;
    uint32_t x = ntohl(in.s_addr);
    const struct ip_range *all = ranges(c, &n);
    for (size_t i = 0; i < n; i++)
        if ((x & all[i].mask) == all[i].net && x != all[i].net && x != (all[i].net | ~all[i].mask)) return true;
    return false;
}

static const char *ip_text(struct arena *a, uint32_t n) {
    char text[INET_ADDRSTRLEN];
    struct in_addr in = {htonl(n)};
    return arena_strdup(a, inet_ntop(AF_INET, &in, text, sizeof text));
}

/* From one range: 0 and *out, or -ENOSPC, or an error of the allocator. */
static int draw_from(struct rules_ctx *c, const struct ip_range *from, const struct json *svc, const char **out,
                     struct err *e) {
    struct rules *r = c->rules;
    uint32_t size = ~from->mask, part = MIN_OF(MAX_OF(size / 16, 1u), (uint32_t)STATIC_PART_MAX), x;
    int rc = -EEXIST;
    for (int i = 0; i < RANDOM_TRIES && size > 2 * part && rc == -EEXIST; i++) {
        random_bytes(&x, sizeof x);
        *out = ip_text(c->a, from->net + 1 + part + x % (size - part - 1));
        rc = map_has(&r->ips, *out) ? -EEXIST : take_ip(c, *out, svc, NULL, e);
    }
    for (uint32_t i = 1; i < size && rc == -EEXIST; i++) {
        *out = ip_text(c->a, from->net + i);
        rc = map_has(&r->ips, *out) ? -EEXIST : take_ip(c, *out, svc, NULL, e);
    }
    return rc == -EEXIST ? -ENOSPC : rc;
}

static int draw_ip(struct rules_ctx *c, const struct json *svc, const char **out, struct err *e) {
    size_t n;
    const struct ip_range *all = ranges(c, &n);
    int rc = -ENOSPC;
    for (size_t i = 0; i < n && rc == -ENOSPC; i++) rc = draw_from(c, &all[i], svc, out, e);
    return rc;
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

/* Of a Service that has no address yet, asked for or not. */
static int claim_ip(struct rules_ctx *c, struct json *obj, struct json *spec, struct vctx *v, struct err *e) {
    const struct fp *p = FP(FP(NULL, "spec"), "clusterIPs");
    const struct json *ips = json_get(spec, "clusterIPs");
    const char *ip = str_or_empty(json_as_str(json_item(ips, 0)));
    int rc = 0;
    if (str_eq(ip, "None")) return 0;
    if (!*ip)
        rc = draw_ip(c, obj, &ip, e);
    else if (!in_range(c, ip))
        v_invalid(v, p, ips, "failed to allocate IP %s: the provided IP is not in the valid range %s", ip,
                  c->rules->cidr);
    else if ((rc = take_ip(c, ip, obj, NULL, e)) == -EEXIST)
        v_invalid(v, p, ips, "failed to allocate IP %s: provided IP is already allocated", ip);
    if (rc == -EEXIST || v->n) return 0;
    if (rc) return rc;
    json_set_str(c->a, spec, "clusterIP", ip);
    json_del(spec, "clusterIPs");
    json_append(c->a, json_ensure_array(c->a, spec, "clusterIPs"), json_str(c->a, ip));
    return 0;
}

/* ---- node ports ---- */

/* The ports that this write has taken. */
struct taken {
    int64_t *ports;
    size_t n, cap;
};

static bool taken_has(const struct taken *t, int64_t port) {
    for (size_t i = 0; i < t->n; i++)
        if (t->ports[i] == port) return true;
    return false;
}

static void taken_add(struct rules_ctx *c, struct taken *t, int64_t port) {
    ARENA_GROW(c->a, t->ports, t->n, t->cap);
    t->ports[t->n++] = port;
}

/* Takes a port that was asked for: 0, -EEXIST, -ERANGE or an error. As upstream, a dry run does not see the range. */
static int ask_port(struct rules_ctx *c, struct taken *t, int64_t port, const struct json *obj, const struct json *old,
                    struct err *e) {
    struct rules *r = c->rules;
    bool inside = port >= r->port_min && port <= r->port_max;
    if (!inside && !c->dry_run) return -ERANGE;
    if (taken_has(t, port)) return -EEXIST;
    int rc = inside ? take_port(c, port, obj, old, e) : 0;
    if (!rc) taken_add(c, t, port);
    return rc;
}

static int any_port(struct rules_ctx *c, struct taken *t, const struct json *obj, struct err *e) {
    int port = draw_port(c, obj, e);
    if (port > 0) taken_add(c, t, port);
    return port;
}

static const char *port_fault(struct rules_ctx *c, int rc) {
    if (rc == -EEXIST) return "provided port is already allocated";
    return arena_printf(c->a, "provided port is not in the valid range. The range of valid ports is %d-%d",
                        c->rules->port_min, c->rules->port_max);
}

static int report_port(struct vctx *v, int rc, size_t i, int64_t port) {
    if (rc != -EEXIST && rc != -ERANGE) return rc;
    v_invalid(v, FP(FPI(FP(FP(NULL, "spec"), "ports"), i), "nodePort"), json_int(v->a, port), "%s",
              port_fault(v->c, rc));
    return 0;
}

/* The node port that the first of the ports with this number asks for, or 0. */
static int64_t asked_for(const struct json *ports, int64_t number) {
    const struct json *p;
    JSON_FOREACH(p, ports)
        if (json_get_int(p, "port", 0) == number && json_get_int(p, "nodePort", 0))
            return json_get_int(p, "nodePort", 0);
    return 0;
}

/* Of a new Service: ports with the same number (TCP and UDP) get the same node port. */
static int claim_ports(struct rules_ctx *c, struct json *obj, struct json *spec, bool draw, struct taken *t,
                       struct vctx *v, struct err *e) {
    struct json *p, *ports = json_get(spec, "ports");
    JSON_FOREACH(p, ports) {
        int64_t own = json_get_int(p, "nodePort", 0), number = json_get_int(p, "port", 0), shared = 0;
        int rc = 0;
        if (!own && !draw) continue;
        for (size_t j = 0; j < p_i && !shared; j++)
            if (json_get_int(json_item(ports, j), "port", 0) == number)
                shared = json_get_int(json_item(ports, j), "nodePort", 0);
        int64_t want = shared ? own : asked_for(ports, number);
        if (shared && (!own || own == shared)) {
            json_set_int(c->a, p, "nodePort", shared);
            continue;
        }
        if (want) {
            rc = ask_port(c, t, want, obj, NULL, e);
        } else if ((rc = any_port(c, t, obj, e)) > 0) {
            want = rc;
            rc = 0;
        }
        if ((rc = report_port(v, rc, p_i, want)) || v->n) return rc;
        json_set_int(c->a, p, "nodePort", want);
    }
    return 0;
}

static int update_ports(struct rules_ctx *c, struct json *obj, const struct json *old, bool draw, struct taken *t,
                        struct vctx *v, struct err *e) {
    struct json *p, *ports = json_at(obj, "spec", "ports", NULL);
    const struct json *before = json_at(old, "spec", "ports", NULL);
    JSON_FOREACH(p, ports) {
        int64_t own = json_get_int(p, "nodePort", 0);
        int rc = 0;
        bool had = false;
        if (!own && !draw) continue;
        for (size_t j = 0; j < json_len(before); j++) had |= json_get_int(json_item(before, j), "nodePort", 0) == own;
        if (!own) {
            if ((rc = any_port(c, t, obj, e)) < 0) return rc;
            json_set_int(c->a, p, "nodePort", own = rc);
        } else if (!had && !taken_has(t, own)) {
            if ((rc = report_port(v, ask_port(c, t, own, obj, old, e), p_i, own)) || v->n) return rc;
        }
        for (size_t j = 0; j < p_i; j++)
            if (json_get_int(json_item(ports, j), "nodePort", 0) == own &&
                str_eq(jstr(json_item(ports, j), "protocol"), jstr(p, "protocol")))
                return err_status(e, 500, "", "duplicate nodePort: {%s %lld}", jstr(p, "protocol"), (long long)own);
    }
    return 0;
}

static int claim_health_port(struct rules_ctx *c, struct json *obj, const struct json *old, struct json *spec,
                             struct taken *t, struct err *e) {
    int64_t n = json_get_int(spec, "healthCheckNodePort", 0);
    int rc = n ? ask_port(c, t, n, obj, old, e) : any_port(c, t, obj, e);
    if (rc == -EEXIST || rc == -ERANGE)
        return err_status(e, 500, "InternalError",
                          "Internal error occurred: failed to allocate requested HealthCheck NodePort %lld: %s",
                          (long long)n, port_fault(c, rc));
    if (rc > 0) json_set_int(c->a, spec, "healthCheckNodePort", rc);
    return MIN_OF(rc, 0);
}

/* The first that fails ends it, as upstream: of two Services that want the same address and port one gets both. */
static int claim_all(struct rules_ctx *c, struct json *obj, const struct json *old, struct vctx *v, struct err *e) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    const struct json *was = json_get(old, "spec");
    const char *type = jstr(spec, "type");
    struct taken t = {0};
    int rc = 0;
    load(c);
    service_families(v, spec, was);
    if (!v->n && !str_eq(type, "ExternalName") && (!old || str_eq(jstr(was, "type"), "ExternalName")))
        rc = claim_ip(c, obj, spec, v, e);
    bool draw = str_eq(type, "NodePort") || json_get_bool(spec, "allocateLoadBalancerNodePorts", true);
    if (!rc && !v->n && str_in(type, ONE_OF("NodePort", "LoadBalancer")))
        rc = old ? update_ports(c, obj, old, draw, &t, v, e) : claim_ports(c, obj, spec, draw, &t, v, e);
    if (!rc && !v->n && service_wants_health_port(spec) && !(old && service_wants_health_port(was)))
        rc = claim_health_port(c, obj, old, spec, &t, e);
    return rc;
}

int alloc_claim(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!is_service(c) || !c->rules || !str_empty(c->subresource)) return 0;
    struct vctx v = {.c = c, .a = c->a};
    service_carry(c->a, json_ensure_object(c->a, obj, "spec"), json_get(old, "spec"));
    lock(c->rules);
    int r = claim_all(c, obj, old, &v, e);
    unlock(c->rules);
    if (r == -ENOSPC)
        r = err_status(e, 500, "InternalError", "failed to allocate a serviceIP or nodePort: range is full");
    if (r == 0) r = v_finish(&v, json_as_str(json_at(obj, "metadata", "name", NULL)), e);
    if (r < 0) {
        rules_release(c);
        return r;
    }
    service_drop(c->a, obj, old);
    return 0;
}
