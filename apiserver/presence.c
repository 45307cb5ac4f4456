/* Who serves this cluster, for several API servers on one etcd.
 *
 * Each server keeps a Lease of its own in kube-system (label apiserver.kubernetes.io/identity), and a key
 * /registry/masterleases/<address> that goes by itself when it is not written again (etcd's time to live). The addresses
 * of the keys that are there are what the Service "kubernetes" points at: every server brings its Endpoints and
 * EndpointSlice to that, so a server that died is out of them after ENDPOINT_TTL_S and a round. One that stops takes its
 * address out itself.
 *
 * The embedded store has one server: it keeps the Lease too (renewed seldom: nobody waits for it), and bootstrap.c
 * writes the endpoints.
 *
 * Upstream: pkg/controlplane's identity lease controllers and its lease endpoint reconciler. */
#include <openssl/evp.h>
#include <pthread.h>
#include <unistd.h>

#include "apiserver/lookup.h"
#include "apiserver/write.h"
#include "pkg/base/log.h"

#define MASTERS "/registry/masterleases/"
#define IDENTITY "apiserver.kubernetes.io/identity"

enum {
    ROUND_S = 10,
    ROUND_EMBEDDED_S = 1200,
    LEASE_S = 3600, /* as upstream's: long enough to see which servers were there */
    ENDPOINT_TTL_S = 15,
    GONE_EVERY = 60,   /* rounds between looks for Leases that ran out */
    SERVERS_MAX = 256, /* addresses of one Service */
};

struct presence {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stop;
    char name[64], holder[112];
};

/* ---- the Lease ---- */

/* "apiserver-" and a hash of the host's name; servers on one machine differ by their port. */
static void name_make(struct apiserver *s, struct presence *p) {
    char host[256] = "", text[300], uid[37];
    uint8_t sum[EVP_MAX_MD_SIZE];
    gethostname(host, sizeof(host) - 1);
    int n = s->opt.secure_port == 6443 ? snprintf(text, sizeof(text), "%s", host)
                                       : snprintf(text, sizeof(text), "%s:%lld", host, (long long)s->opt.secure_port);
    EVP_Digest(text, (size_t)n, sum, NULL, EVP_sha256(), NULL);
    static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
    char *to = p->name + snprintf(p->name, sizeof(p->name), "apiserver-");
    for (int at = 0; at < 128; at += 5) {
        unsigned two = (unsigned)sum[at / 8] << 8 | (at / 8 + 1 < 16 ? sum[at / 8 + 1] : 0u);
        *to++ = digits[two >> (11 - at % 8) & 31];
    }
    *to = 0;
    uuid_new(uid);
    snprintf(p->holder, sizeof(p->holder), "%s_%s", p->name, uid);
}

static struct json *lease_tree(struct arena *a, struct presence *p) {
    char host[256] = "", now[KTIME_MAX];
    struct json *o = json_object(a), *meta = json_ensure_object(a, o, "metadata"),
                *spec = json_ensure_object(a, o, "spec");
    gethostname(host, sizeof(host) - 1);
    ktime_format_micro(ktime_now(), now);
    json_set_str(a, o, "apiVersion", "coordination.k8s.io/v1");
    json_set_str(a, o, "kind", "Lease");
    json_set_str(a, meta, "name", p->name);
    json_set_str(a, meta, "namespace", "kube-system");
    json_set_str(a, json_ensure_object(a, meta, "labels"), IDENTITY, "kube-apiserver");
    json_set_str(a, json_ensure_object(a, meta, "labels"), "kubernetes.io/hostname", host);
    json_set_str(a, spec, "holderIdentity", p->holder);
    json_set_int(a, spec, "leaseDurationSeconds", LEASE_S);
    json_set_str(a, spec, "renewTime", now);
    return o;
}

/* Creates the object, or puts `keys` of it over what is there when they differ. Another writer in between: the next round. */
static int put(struct apiserver *s, const char *group, const char *resource, const char *ns, struct json *want,
               const char *const *keys, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct resource *r = resource_find(s->resources, group, "v1", resource);
    const char *name = json_as_str(json_at(want, "metadata", "name", NULL));
    _cleanup_object_ struct object *old = write_current(s, r, ns, name, false), *out = NULL;
    struct json *v = old ? object_tree(a, old) : want, *norm = NULL;
    struct write w;
    bool deleted, same = old != NULL;
    for (; old && *keys; keys++) {
        same &= json_equal(json_get(v, *keys), json_get(want, *keys));
        json_set(a, v, *keys, json_clone(a, json_get(want, *keys)));
    }
    if (same) return 0;
    int rc = api_tree_normalise(a, r->type, v, &norm, NULL, e);
    if (rc) return rc;
    write_init(&w, s, a, NULL, r, NULL, ns, old ? name : NULL, old ? RULES_UPDATE : RULES_CREATE);
    rc = old ? write_update(&w, norm, old, true, &out, &deleted, e) : write_create(&w, norm, true, &out, e);
    return rc > 0 ? 0 : rc;
}

static void renew(struct apiserver *s, struct presence *p) {
    static const char *const keys[] = {"spec", NULL};
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    if (put(s, "coordination.k8s.io", "leases", "kube-system", lease_tree(a, p), keys, &e))
        log_warn("this server's Lease", "error", e.msg, NULL);
}

/* Leases of servers that have been gone for longer than theirs lasts. */
static void end_old_leases(struct apiserver *s) {
    const struct resource *r = resource_find(s->resources, "coordination.k8s.io", "v1", "leases");
    _cleanup_wc_list_ struct wc_list l = {0};
    watchcache_list(s->cache, r, "kube-system", NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        const struct json *v = object_tree(a, l.items[i]), *spec = json_get(v, "spec");
        struct ktime t;
        if (!str_eq(json_get_str(json_at(v, "metadata", "labels", NULL), IDENTITY), "kube-apiserver")) continue;
        int64_t lasts = json_get_int(spec, "leaseDurationSeconds", LEASE_S) * NS_PER_SEC;
        if (ktime_parse(str_or_empty(json_get_str(spec, "renewTime")), &t) || ktime_diff_ns(ktime_now(), t) < lasts)
            continue;
        struct store_txn x = {.op = STORE_DELETE,
                              .key = arena_printf(a, "%s%s", r->key_prefix, l.items[i]->key),
                              .expect_rev = l.items[i]->rev,
                              .cause = {"system:apiserver", l.items[i]->rev}};
        struct store_txn_result res;
        store_txn(s->store, a, &x, &res, NULL);
    }
}

/* ---- the endpoints ---- */

static int announce(struct apiserver *s, bool here, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *ip = s->opt.advertise_address;
    const char *value = arena_printf(
        a,
        "{\"kind\":\"Endpoints\",\"apiVersion\":\"v1\",\"metadata\":{},\"subsets\":[{\"addresses\":[{\"ip\":\"%s\"}],"
        "\"ports\":[{\"name\":\"https\",\"port\":%lld,\"protocol\":\"TCP\"}]}]}",
        ip, (long long)s->opt.secure_port);
    struct store_txn t = {.op = here ? STORE_PUT : STORE_DELETE,
                          .key = arena_printf(a, MASTERS "%s", ip),
                          .value = value,
                          .value_len = strlen(value),
                          .expect_rev = STORE_ANY_REV,
                          .ttl_s = ENDPOINT_TTL_S,
                          .cause = {"system:apiserver", 0}};
    struct store_txn_result r;
    return store_txn(s->store, a, &t, &r, e);
}

/* The servers by port, as subsets of Endpoints: keys are sorted, so equal sets give equal trees. */
static struct json *subsets(struct apiserver *s, struct arena *a, const struct store_list *l) {
    struct json *out = json_array(a), *set;
    for (size_t i = 0; i < l->n && i < SERVERS_MAX; i++) {
        const char *ip = l->items[i].key + strlen(MASTERS);
        struct json *v = NULL, *found = NULL, *address = json_object(a);
        if (json_parse(a, l->items[i].value, l->items[i].value_len, &v, NULL, NULL)) continue;
        int64_t port = json_get_int(json_item(json_get(json_item(json_get(v, "subsets"), 0), "ports"), 0), "port",
                                    s->opt.secure_port);
        JSON_FOREACH(set, out)
            if (json_get_int(json_item(json_get(set, "ports"), 0), "port", 0) == port) found = set;
        if (!found) {
            struct json *p = json_object(a);
            json_append(a, out, found = json_object(a));
            json_ensure_array(a, found, "addresses");
            json_set_str(a, p, "name", "https");
            json_set_int(a, p, "port", port);
            json_set_str(a, p, "protocol", "TCP");
            json_append(a, json_ensure_array(a, found, "ports"), p);
        }
        json_set_str(a, address, "ip", ip);
        json_append(a, json_get(found, "addresses"), address);
    }
    return out;
}

static struct json *named(struct arena *a, const char *version, const char *kind, const char *label,
                          const char *value) {
    struct json *o = json_object(a), *meta = json_ensure_object(a, o, "metadata");
    json_set_str(a, o, "apiVersion", version);
    json_set_str(a, o, "kind", kind);
    json_set_str(a, meta, "name", "kubernetes");
    json_set_str(a, meta, "namespace", "default");
    json_set_str(a, json_ensure_object(a, meta, "labels"), label, value);
    return o;
}

/* A slice has one set of ports: that of the first subset (servers of one cluster listen on the same port). */
static struct json *slice_of(struct arena *a, const struct json *sets) {
    struct json *o = named(a, "discovery.k8s.io/v1", "EndpointSlice", "kubernetes.io/service-name", "kubernetes");
    struct json *list = json_ensure_array(a, o, "endpoints");
    const struct json *first = json_item(sets, 0), *x;
    const char *ip = str_or_empty(json_get_str(json_item(json_get(first, "addresses"), 0), "ip"));
    json_set_str(a, o, "addressType", strchr(ip, ':') ? "IPv6" : "IPv4");
    JSON_FOREACH(x, json_get(first, "addresses")) {
        struct json *one = json_object(a);
        json_append(a, json_ensure_array(a, one, "addresses"), json_str(a, str_or_empty(json_get_str(x, "ip"))));
        json_set(a, json_ensure_object(a, one, "conditions"), "ready", json_bool(a, true));
        json_append(a, list, one);
    }
    json_set(a, o, "ports", json_clone(a, json_get(first, "ports")));
    return o;
}

static int point_at(struct apiserver *s, struct err *e) {
    static const char *const keys[] = {"subsets", NULL}, *const slice_keys[] = {"endpoints", "ports", NULL};
    _cleanup_arena_ struct arena *a = arena_new();
    struct store_list l;
    int rc = store_list(s->store, a, MASTERS, NULL, 0, 0, &l, e);
    struct json *sets = rc ? NULL : subsets(s, a, &l);
    if (rc || !json_len(sets)) return rc; /* the last one leaves them as they are */
    struct json *all = named(a, "v1", "Endpoints", "endpointslice.kubernetes.io/skip-mirror", "true");
    json_set(a, all, "subsets", sets);
    rc = put(s, "", "endpoints", "default", all, keys, e);
    return rc ? rc : put(s, "discovery.k8s.io", "endpointslices", "default", slice_of(a, sets), slice_keys, e);
}

static bool endpoints(struct apiserver *s, bool here) {
    _cleanup_err_ struct err e = {0};
    int rc = announce(s, here, &e);
    if (!rc) rc = point_at(s, &e);
    if (rc) log_warn("endpoints of the API servers", "error", e.msg, NULL);
    return rc == 0;
}

static bool reachable(const struct apiserver *s) {
    const char *ip = s->opt.advertise_address;
    return !str_has_prefix(ip, "127.") && !str_eq(ip, "::1"); /* a machine without a network: no pod could use it */
}

/* ---- the thread ---- */

static void *run(void *arg) {
    struct apiserver *s = arg;
    struct presence *p = s->presence;
    unsigned round = 0;
    bool listed = false;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        pthread_mutex_unlock(&p->lock);
        renew(s, p);
        if (round++ % GONE_EVERY == 0) end_old_leases(s);
        if (!s->embedded && reachable(s)) listed = endpoints(s, true);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += s->embedded ? ROUND_EMBEDDED_S : ROUND_S;
        pthread_mutex_lock(&p->lock);
        while (!p->stop && pthread_cond_timedwait(&p->cond, &p->lock, &until) != ETIMEDOUT) continue;
    }
    pthread_mutex_unlock(&p->lock);
    if (listed) endpoints(s, false);
    return NULL;
}

void presence_start(struct apiserver *s) {
    struct presence *p = xcalloc(1, sizeof(*p));
    pthread_condattr_t attr;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->cond, &attr);
    pthread_condattr_destroy(&attr);
    name_make(s, p);
    s->presence = p;
    if (pthread_create(&p->thread, NULL, run, s)) {
        free(p);
        s->presence = NULL;
    }
}

void presence_stop(struct apiserver *s) {
    struct presence *p = s->presence;
    if (!p) return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->cond);
    free(p);
    s->presence = NULL;
}
