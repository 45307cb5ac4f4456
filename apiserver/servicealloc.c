/* An address is taken by creating the IPAddress object of its name (networking.k8s.io/v1), which only one can; a node port
 * by setting its bit in the RangeAllocation /registry/ranges/servicenodeports by compare-and-set. Both as upstream keeps
 * them, so an upstream server next to this one keeps to the same book.
 *
 * Taking comes before the Service is written and giving back after it is gone, so a crash in between leaves something
 * taken that nobody holds: repair gives it back. Nothing is ever held that is not taken, but in stores written by others;
 * repair takes it then. In the embedded store these are lazy writes: the Service's own commit makes them durable.
 *
 * Upstream: pkg/registry/core/service/ipallocator, portallocator, and their repair controllers. */
#include "apiserver/servicealloc.h"

#include <arpa/inet.h>

#include "apiserver/lookup.h"
#include "apiserver/write.h"

#define RANGE_KEY "/registry/ranges/servicenodeports"
#define MANAGED_BY "ipaddress.kubernetes.io/managed-by"
#define ALLOCATOR "ipallocator.k8s.io"

enum {
    PORTS = 65536,
    RANGE_TRIES = 64, /* compare-and-sets that lose before a request gives up */
    LEAK_AGE_S = 60,  /* an IPAddress without its Service is left alone for so long */
    LEAK_ROUNDS = 3,  /* repairs that must find a port unused before it is given back */
    STATIC_MIN = 16,
    STATIC_MAX = 128,
    STATIC_PART = 32, /* of the range's start, drawn from last */
};

struct range {
    int min, max;
    int64_t rev; /* 0: not stored yet */
    uint8_t bits[PORTS / 8];
};

struct servicealloc_state { /* between repairs */
    uint8_t unused[PORTS];  /* rounds in which nobody held the port */
};

static bool bit(const uint8_t *bits, int i) { return bits[i / 8] >> (i % 8) & 1; }
static void bit_set(uint8_t *bits, int i, bool on) {
    bits[i / 8] = (uint8_t)(on ? bits[i / 8] | 1 << (i % 8) : bits[i / 8] & ~(1 << (i % 8)));
}

static const struct resource *ips(struct apiserver *s) {
    return resource_find(s->resources, "networking.k8s.io", "v1", "ipaddresses");
}
static const struct resource *services(struct apiserver *s) {
    return resource_find(s->resources, "", "v1", "services");
}

/* ---- the range of ports ---- */

static void range_limits(struct apiserver *s, struct range *r) {
    unsigned lo = 30000, hi = 32767;
    if (!str_empty(s->opt.node_ports) && sscanf(s->opt.node_ports, "%u-%u", &lo, &hi) == 2 && lo <= hi && hi < PORTS) {
        r->min = (int)lo, r->max = (int)hi;
        return;
    }
    r->min = 30000, r->max = 32767;
}

/* Sets the bits of the ports that the Service holds. */
static void ports_of(const struct json *svc, const struct range *r, uint8_t *bits) {
    const struct json *p, *spec = json_get(svc, "spec");
    int64_t health = json_get_int(spec, "healthCheckNodePort", 0);
    if (health >= r->min && health <= r->max) bit_set(bits, (int)health - r->min, true);
    JSON_FOREACH(p, json_get(spec, "ports")) {
        int64_t n = json_get_int(p, "nodePort", 0);
        if (n >= r->min && n <= r->max) bit_set(bits, (int)n - r->min, true);
    }
}

static void held_ports(struct apiserver *s, const struct range *r, uint8_t *bits) {
    _cleanup_wc_list_ struct wc_list l = {0};
    watchcache_list(s->cache, services(s), NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        ports_of(object_tree(a, l.items[i]), r, bits);
    }
}

/* The bits are a big-endian number in base64: bit i of it is port min + i. A range of other limits is made anew. */
static int range_read(struct apiserver *s, struct arena *a, struct range *r, struct err *e) {
    struct store_kv kv;
    struct json *v = NULL;
    *r = (struct range){0};
    range_limits(s, r);
    int rc = store_get(s->store, a, RANGE_KEY, 0, &kv, NULL, e);
    if (rc && rc != -ENOENT) return rc;
    if (rc == 0 && json_parse(a, kv.value, kv.value_len, &v, NULL, NULL) == 0) {
        const char *limits = arena_printf(a, "%d-%d", r->min, r->max), *text = str_or_empty(json_get_str(v, "data"));
        size_t n = 0;
        uint8_t *data = arena_zalloc(a, strlen(text) + 4);
        r->rev = kv.mod_rev;
        if (str_eq(json_get_str(v, "range"), limits) && base64_decode(text, strlen(text), data, &n) == 0 &&
            n <= sizeof(r->bits)) {
            for (size_t i = 0; i < n; i++) r->bits[i] = data[n - 1 - i];
            return 0;
        }
    }
    if (e) err_done(e);
    if ((rc = watchcache_sync(s->cache, e))) return rc;
    held_ports(s, r, r->bits);
    return 0;
}

/* 0, WRITE_RETRY when another was faster, or the store's error. */
static int range_write(struct apiserver *s, struct arena *a, struct range *r, struct err *e) {
    size_t n = sizeof(r->bits);
    while (n && !r->bits[n - 1]) n--;
    uint8_t *data = arena_alloc(a, n + 1);
    for (size_t i = 0; i < n; i++) data[i] = r->bits[n - 1 - i];
    char *text = arena_zalloc(a, n * 2 + 8);
    base64_encode(data, n, text);
    const char *value = arena_printf(
        a, "{\"kind\":\"RangeAllocation\",\"apiVersion\":\"v1\",\"metadata\":{},\"range\":\"%d-%d\",\"data\":\"%s\"}",
        r->min, r->max, text);
    struct store_txn t = {.op = STORE_PUT,
                          .key = RANGE_KEY,
                          .value = value,
                          .value_len = strlen(value),
                          .expect_rev = r->rev,
                          .lazy = s->embedded,
                          .cause = {"system:apiserver", r->rev}};
    struct store_txn_result res;
    int rc = store_txn(s->store, a, &t, &res, e);
    return rc ? rc : res.succeeded ? 0 : WRITE_RETRY;
}

/* A free port, -ENOSPC: drawn from behind the part for static ones, then from anywhere. */
static int range_draw(const struct range *r) {
    int size = r->max - r->min + 1, part = MIN_OF(MAX_OF(size / STATIC_PART, (int)STATIC_MIN), (int)STATIC_MAX);
    uint32_t x;
    if (part >= size) part = 0;
    random_bytes(&x, sizeof(x));
    for (int i = 0; i < size; i++) {
        int span = size - part, at = i < span ? part + (int)((x + (uint32_t)i) % (uint32_t)span) : i - span;
        if (!bit(r->bits, at)) return r->min + at;
    }
    return -ENOSPC;
}

static int take_port(void *arg, struct arena *a, int want, bool dry_run, struct err *e) {
    struct apiserver *s = arg;
    struct range *r = arena_alloc(a, sizeof(*r));
    for (int i = 0; i < RANGE_TRIES; i++) {
        int rc = range_read(s, a, r, e), port = want;
        if (rc) return rc;
        if (want && bit(r->bits, want - r->min)) return -EEXIST;
        if (!want && (port = range_draw(r)) < 0) return port;
        if (dry_run) return port;
        bit_set(r->bits, port - r->min, true);
        rc = range_write(s, a, r, e);
        if (rc <= 0) return rc ? rc : port;
    }
    return err_status(e, 500, "InternalError", "node ports are being allocated by others all the time");
}

static void drop_port(void *arg, struct arena *a, int port) {
    struct apiserver *s = arg;
    struct range *r = arena_alloc(a, sizeof(*r));
    for (int i = 0; i < RANGE_TRIES; i++) {
        if (range_read(s, a, r, NULL) || port < r->min || port > r->max || !bit(r->bits, port - r->min)) return;
        bit_set(r->bits, port - r->min, false);
        if (range_write(s, a, r, NULL) <= 0) return;
    }
}

/* ---- addresses ---- */

static struct json *ip_object(struct arena *a, const char *ip, const struct json *svc) {
    const struct json *m = json_get(svc, "metadata");
    struct json *o = json_object(a), *meta = json_ensure_object(a, o, "metadata"),
                *labels = json_ensure_object(a, meta, "labels");
    struct json *ref = json_ensure_object(a, json_ensure_object(a, o, "spec"), "parentRef");
    json_set_str(a, o, "apiVersion", "networking.k8s.io/v1");
    json_set_str(a, o, "kind", "IPAddress");
    json_set_str(a, meta, "name", ip);
    json_set_str(a, labels, "ipaddress.kubernetes.io/ip-family", strchr(ip, ':') ? "IPv6" : "IPv4");
    json_set_str(a, labels, MANAGED_BY, ALLOCATOR);
    json_set_str(a, ref, "resource", "services");
    json_set_str(a, ref, "namespace", str_or_empty(json_get_str(m, "namespace")));
    json_set_str(a, ref, "name", str_or_empty(json_get_str(m, "name")));
    return o;
}

static int ip_create(struct apiserver *s, struct arena *a, const char *ip, const struct json *svc, struct err *e) {
    const struct resource *r = ips(s);
    struct json *norm = NULL;
    struct object *out = NULL;
    struct write w;
    int rc = api_tree_normalise(a, r->type, ip_object(a, ip, svc), &norm, NULL, e);
    if (rc) return rc;
    write_init(&w, s, a, NULL, r, NULL, NULL, NULL, RULES_CREATE);
    w.lazy = s->embedded;
    rc = write_create(&w, norm, true, &out, e);
    object_unref(out);
    return rc;
}

static int take_ip(void *arg, struct arena *a, const char *ip, const struct json *svc, bool dry_run, struct err *e) {
    struct apiserver *s = arg;
    _cleanup_object_ struct object *there = watchcache_get(s->cache, ips(s), NULL, ip);
    _cleanup_err_ struct err why = {0};
    if (there) return -EEXIST;
    if (dry_run) return 0; /* the Service's own name is not looked at yet */
    int rc = ip_create(s, a, ip, svc, &why);
    if (rc && why.status == 409) return -EEXIST;
    if (rc && e) err_move(e, &why);
    return rc;
}

static bool owned_by(const struct json *ip, const char *owner) {
    const struct json *ref = json_at(ip, "spec", "parentRef", NULL);
    const char *ns = str_or_empty(json_get_str(ref, "namespace"));
    size_t n = strlen(ns);
    return str_eq(json_get_str(ref, "resource"), "services") && strncmp(owner, ns, n) == 0 && owner[n] == '/' &&
           str_eq(owner + n + 1, json_get_str(ref, "name"));
}

static void ip_delete(struct apiserver *s, struct arena *a, const struct object *o) {
    struct store_txn t = {.op = STORE_DELETE,
                          .key = arena_printf(a, "%s%s", o->res->key_prefix, o->key),
                          .expect_rev = o->rev,
                          .lazy = s->embedded,
                          .cause = {"system:apiserver", o->rev}};
    struct store_txn_result res;
    store_txn(s->store, a, &t, &res, NULL);
}

static void drop_ip(void *arg, struct arena *a, const char *ip, const char *owner) {
    struct apiserver *s = arg;
    _cleanup_object_ struct object *o = write_current(s, ips(s), NULL, ip, false);
    if (o && owned_by(object_tree(a, o), owner)) ip_delete(s, a, o);
}

struct rules_alloc servicealloc(struct apiserver *s) {
    return (struct rules_alloc){
        .arg = s, .take_ip = take_ip, .take_port = take_port, .drop_ip = drop_ip, .drop_port = drop_port};
}

/* ---- repair ---- */

static bool has_ip(const struct json *svc, const char *ip) {
    const struct json *it;
    JSON_FOREACH(it, json_at(svc, "spec", "clusterIPs", NULL))
        if (str_eq(json_as_str(it), ip)) return true;
    return false;
}

/* An address of ours whose Service is not there, or does not have it. */
static void repair_ip(struct apiserver *s, const struct object *o) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct json *v = object_tree(a, o), *ref = json_at(v, "spec", "parentRef", NULL);
    struct ktime made;
    if (!str_eq(json_get_str(json_at(v, "metadata", "labels", NULL), MANAGED_BY), ALLOCATOR)) return;
    if (!str_eq(json_get_str(ref, "resource"), "services")) return;
    const char *when = str_or_empty(json_as_str(json_at(v, "metadata", "creationTimestamp", NULL)));
    if (ktime_parse(when, &made) || ktime_diff_ns(ktime_now(), made) < LEAK_AGE_S * NS_PER_SEC) return;
    _cleanup_object_ struct object *svc = watchcache_get(
        s->cache, services(s), str_or_empty(json_get_str(ref, "namespace")), str_or_empty(json_get_str(ref, "name")));
    if (!svc || !has_ip(object_tree(a, svc), object_name(o))) ip_delete(s, a, o);
}

static void repair_service(struct apiserver *s, const struct object *o) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct json *svc = object_tree(a, o), *it;
    JSON_FOREACH(it, json_at(svc, "spec", "clusterIPs", NULL)) {
        const char *ip = str_or_empty(json_as_str(it));
        if (!*ip || str_eq(ip, "None")) continue;
        _cleanup_object_ struct object *there = watchcache_get(s->cache, ips(s), NULL, ip);
        if (!there) ip_create(s, a, ip, svc, NULL);
    }
}

static void repair_ports(struct apiserver *s) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct range *r = arena_alloc(a, sizeof(*r));
    if (!s->service_repair) s->service_repair = xcalloc(1, sizeof(*s->service_repair));
    uint8_t *held = arena_zalloc(a, PORTS / 8), *unused = s->service_repair->unused;
    if (range_read(s, a, r, NULL) || watchcache_sync(s->cache, NULL)) return;
    bool changed = !r->rev;
    held_ports(s, r, held);
    for (int i = 0; i <= r->max - r->min; i++) {
        bool leaked = bit(r->bits, i) && !bit(held, i), missing = !bit(r->bits, i) && bit(held, i);
        unused[i] = leaked ? (uint8_t)(unused[i] + 1) : 0;
        if (!missing && unused[i] < LEAK_ROUNDS) continue;
        bit_set(r->bits, i, missing);
        unused[i] = 0;
        changed = true;
    }
    if (changed) range_write(s, a, r, NULL); /* lost to another write: the next repair sees */
}

void servicealloc_repair(struct apiserver *s) {
    _cleanup_wc_list_ struct wc_list addresses = {0}, all = {0};
    if (watchcache_sync(s->cache, NULL)) return;
    watchcache_list(s->cache, ips(s), NULL, NULL, NULL, 0, &addresses);
    watchcache_list(s->cache, services(s), NULL, NULL, NULL, 0, &all);
    for (size_t i = 0; i < all.n; i++) repair_service(s, all.items[i]);
    for (size_t i = 0; i < addresses.n; i++) repair_ip(s, addresses.items[i]);
    repair_ports(s);
}

void servicealloc_done(struct apiserver *s) { free(s->service_repair); }
