/* Health: a table of checks, each answered at /livez/NAME and so on, and all together at /livez. The names are
 * kube-apiserver's, so that what probes them finds them; those of its controllers that are no thread here stand for the
 * bootstrap that does their work. Upstream: apiserver/pkg/server/healthz, component-base/metrics/prometheus/slis. */
#include "apiserver/health.h"

#include "apiserver/encryption.h"
#include "pkg/base/prom.h"

enum { HEALTH, LIVE, READY, ENDPOINTS };
static const char *const endpoints[ENDPOINTS] = {"healthz", "livez", "readyz"};

enum { ON_HEALTH = 1 << HEALTH, ON_LIVE = 1 << LIVE, ON_READY = 1 << READY, ALIVE = ON_HEALTH | ON_LIVE };
enum { EVERYWHERE = ALIVE | ON_READY };

struct check {
    const char *name;
    unsigned where;
    bool (*ok)(struct apiserver *s, struct err *e);
};

static bool always(struct apiserver *s, struct err *e) { return true; }

static bool store_ok(struct apiserver *s, struct err *e) {
    int64_t rev;
    return store_current_rev(s->store, &rev, e) == 0;
}

static bool cache_ok(struct apiserver *s, struct err *e) {
    return watchcache_error(s->cache) == 0 || (err_set(e, -EAGAIN, "the watch cache is not synced"), false);
}

static bool started(struct apiserver *s, struct err *e) {
    return atomic_load(&s->ready) || (err_set(e, -EAGAIN, "not finished"), false);
}

static bool running(struct apiserver *s, struct err *e) {
    return !atomic_load(&s->stopping) || (err_set(e, -EAGAIN, "process is shutting down"), false);
}

static bool plugins_ok(struct apiserver *s, struct err *e) { return encryption_check(s->encryption, e) == 0; }

#define HOOK "poststarthook/"
static const struct check checks[] = {
    {"ping", EVERYWHERE, always},
    {"log", EVERYWHERE, always},
    {"loopback-serving-certificate", ALIVE, always},
    {"etcd", EVERYWHERE, store_ok},
    {"etcd-readiness", ON_READY, store_ok},
    {"informer-sync", ON_READY, cache_ok},
    {HOOK "start-apiserver-admission-initializer", EVERYWHERE, always},
    {HOOK "generic-apiserver-start-informers", EVERYWHERE, cache_ok},
    {HOOK "priority-and-fairness-config-consumer", EVERYWHERE, always},
    {HOOK "priority-and-fairness-filter", EVERYWHERE, always},
    {HOOK "storage-object-count-tracker-hook", EVERYWHERE, always},
    {HOOK "start-apiextensions-informers", EVERYWHERE, cache_ok},
    {HOOK "start-apiextensions-controllers", EVERYWHERE, always},
    {HOOK "crd-informer-synced", EVERYWHERE, cache_ok},
    {HOOK "start-system-namespaces-controller", EVERYWHERE, started},
    {HOOK "peer-endpoint-reconciler-controller", EVERYWHERE, always},
    {HOOK "start-cluster-authentication-info-controller", EVERYWHERE, started},
    {HOOK "start-kube-apiserver-identity-lease-controller", EVERYWHERE, always},
    {HOOK "start-kube-apiserver-identity-lease-garbage-collector", EVERYWHERE, always},
    {HOOK "storage-readiness", EVERYWHERE, cache_ok},
    {HOOK "start-legacy-token-tracking-controller", EVERYWHERE, always},
    {HOOK "start-service-ip-repair-controllers", EVERYWHERE, started},
    {HOOK "rbac/bootstrap-roles", EVERYWHERE, started},
    {HOOK "scheduling/bootstrap-system-priority-classes", EVERYWHERE, started},
    {HOOK "priority-and-fairness-config-producer", EVERYWHERE, started},
    {HOOK "bootstrap-controller", EVERYWHERE, started},
    {HOOK "start-kubernetes-service-cidr-controller", EVERYWHERE, started},
    {HOOK "aggregator-reload-proxy-client-cert", EVERYWHERE, always},
    {HOOK "start-kube-aggregator-informers", EVERYWHERE, cache_ok},
    {HOOK "apiservice-status-local-available-controller", EVERYWHERE, always},
    {HOOK "apiservice-status-remote-available-controller", EVERYWHERE, always},
    {HOOK "apiservice-registration-controller", EVERYWHERE, always},
    {HOOK "apiservice-wait-for-first-sync", EVERYWHERE, always},
    {HOOK "apiservice-discovery-controller", EVERYWHERE, always},
    {HOOK "kube-apiserver-autoregistration", EVERYWHERE, started},
    {"autoregister-completion", EVERYWHERE, started},
    {HOOK "apiservice-openapi-controller", EVERYWHERE, always},
    {HOOK "apiservice-openapiv3-controller", EVERYWHERE, always},
    {"kms-providers", ON_HEALTH | ON_READY, plugins_ok},
    {"shutdown", ON_READY, running},
};
enum { CHECKS = ARRAY_LEN(checks) };

struct health {
    _Atomic uint64_t counts[CHECKS][ENDPOINTS][2]; /* [1]: passed */
};

struct health *health_new(void) {
    return xcalloc(1, sizeof(struct health));
}
void health_free(struct health *h) { free(h); }

/* Whether the endpoint has the check; that of plugins is there with them. */
static bool has(struct apiserver *s, size_t i, size_t endpoint) {
    return checks[i].where & 1u << endpoint && (checks[i].ok != plugins_ok || encryption_has_check(s->encryption));
}

static bool run(struct apiserver *s, size_t i, size_t endpoint, struct err *e) {
    bool ok = checks[i].ok(s, e);
    atomic_fetch_add_explicit(&s->health->counts[i][endpoint][ok], 1, memory_order_relaxed);
    return ok;
}

/* ---- one check ---- */

static void respond_ok(struct request *q) {
    struct http_header *h;
    size_t n = response_headers(q, "text/plain; charset=utf-8", &h);
    http_respond(q->http, 200, h, n, "ok", 2, 0);
}

static void one(struct request *q, size_t endpoint, const char *name) {
    _cleanup_err_ struct err e = {0};
    for (size_t i = 0; i < CHECKS; i++) {
        if (!str_eq(name, checks[i].name) || !has(q->s, i, endpoint)) continue;
        if (run(q->s, i, endpoint, &e))
            respond_ok(q);
        else
            respond_text(q, 500, "internal server error: %s\n", e.msg);
        return;
    }
    respond_text(q, 404, "404 page not found\n");
}

/* ---- all ---- */

static bool excluded(struct request *q, const char *name) {
    size_t it = 0;
    const char *k, *v;
    while (http_query_next(q->http, &it, &k, &v))
        if (str_eq(k, "exclude") && str_eq(v, name)) return true;
    return false;
}

/* Names in ?exclude= that no check has. */
static void write_unmatched(struct request *q, size_t endpoint, struct buf *b) {
    size_t it = 0, n = 0;
    const char *k, *v;
    while (http_query_next(q->http, &it, &k, &v)) {
        bool found = !str_eq(k, "exclude");
        for (size_t i = 0; i < CHECKS && !found; i++) found = str_eq(v, checks[i].name) && has(q->s, i, endpoint);
        if (found) continue;
        buf_printf(b, "%s\"%s\"", n++ ? "," : "warn: some health checks cannot be excluded: no matches for ", v);
    }
    if (n) buf_addc(b, '\n');
}

/* A line of the answer; `skip`: was excluded. */
static void write_result(struct buf *b, const char *name, bool skip, bool ok) {
    if (skip)
        buf_printf(b, "[+]%s excluded: ok\n", name);
    else if (ok)
        buf_printf(b, "[+]%s ok\n", name);
    else
        buf_printf(b, "[-]%s failed: reason withheld\n", name);
}

static void all(struct request *q, size_t endpoint) {
    bool ok = true;
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < CHECKS; i++) {
        _cleanup_err_ struct err e = {0};
        if (!has(q->s, i, endpoint)) continue;
        bool skip = excluded(q, checks[i].name), passed = skip || run(q->s, i, endpoint, &e);
        write_result(&b, checks[i].name, skip, passed);
        ok &= passed;
    }
    write_unmatched(q, endpoint, &b);
    if (!ok)
        respond_text(q, 500, "%s%s check failed\n", b.data, endpoints[endpoint]);
    else if (http_query(q->http, "verbose"))
        respond_text(q, 200, "%s%s check passed\n", b.data, endpoints[endpoint]);
    else
        respond_text(q, 200, "ok");
}

void handle_health(struct request *q, const char *endpoint, const char *name) {
    size_t at = 0;
    while (at < ENDPOINTS - 1 && !str_eq(endpoint, endpoints[at])) at++;
    if (name)
        one(q, at, name);
    else
        all(q, at);
}

/* ---- lists of them ---- */

size_t health_paths(struct apiserver *s, const char **list, struct arena *a) {
    size_t n = 0;
    for (size_t i = 0; list && i < CHECKS; i++)
        for (size_t e = 0; e < ENDPOINTS; e++)
            if (has(s, i, e)) list[n++] = arena_printf(a, "/%s/%s", endpoints[e], checks[i].name);
    return list ? n : (size_t)CHECKS * ENDPOINTS;
}

void health_metrics(struct apiserver *s, struct buf *b) {
    bool ok[CHECKS];
    prom_head(b, "kubernetes_healthcheck", "gauge", "Whether a check of health passed when it ran last.");
    for (size_t i = 0; i < CHECKS; i++) {
        _cleanup_err_ struct err e = {0};
        bool there = has(s, i, HEALTH) || has(s, i, READY);
        ok[i] = there && checks[i].ok(s, &e);
        for (size_t at = 0; at < ENDPOINTS; at++)
            if (has(s, i, at))
                buf_printf(b, "kubernetes_healthcheck{name=\"%s\",type=\"%s\"} %d\n", checks[i].name, endpoints[at],
                           ok[i]);
    }
    prom_head(b, "kubernetes_healthchecks_total", "counter", "Runs of the checks of health by their outcome.");
    for (size_t i = 0; i < CHECKS; i++)
        for (size_t at = 0; at < ENDPOINTS; at++)
            for (int passed = 0; passed < 2; passed++) {
                unsigned long long n = atomic_load(&s->health->counts[i][at][passed]);
                if (n)
                    buf_printf(b, "kubernetes_healthchecks_total{name=\"%s\",status=\"%s\",type=\"%s\"} %llu\n",
                               checks[i].name, passed ? "success" : "error", endpoints[at], n);
            }
}
