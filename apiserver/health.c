/* The paths that are no API: health, version, metrics, the OpenID documents, the list of paths. */
#include <inttypes.h>

#include "apiserver/admit.h"
#include "apiserver/commit.h"
#include "apiserver/flow/flow.h"
#include "apiserver/handlers.h"
#include "apiserver/lookup.h"
#include "apiserver/metrics.h"
#include "pkg/base/flags.h"
#include "pkg/base/prom.h"
#include "pkg/pki/jwt.h"

/* ---- health ---- */

enum where { EVERYWHERE, READY_ONLY, NOT_READY };

struct check {
    const char *name;
    enum where where;
    bool (*ok)(struct apiserver *s);
};

static bool ping_ok(struct apiserver *s) { return true; }
static bool store_ok(struct apiserver *s) {
    int64_t rev;
    return store_current_rev(s->store, &rev, NULL) == 0;
}
static bool cache_ok(struct apiserver *s) { return watchcache_error(s->cache) == 0; }
static bool loaded_ok(struct apiserver *s) { return atomic_load(&s->ready) && cache_ok(s); }
static bool started_ok(struct apiserver *s) { return atomic_load(&s->ready); }
static bool running_ok(struct apiserver *s) { return !atomic_load(&s->stopping); }

/* What upstream starts step by step starts here at once: its names for the steps tell of the whole start, or of what has
 * been read from the store. */
static const struct check checks[] = {
    {"ping", EVERYWHERE, ping_ok},
    {"log", EVERYWHERE, ping_ok},
    {"etcd", EVERYWHERE, store_ok},
    {"etcd-readiness", READY_ONLY, store_ok},
    {"informer-sync", READY_ONLY, cache_ok},
    {"loopback-serving-certificate", NOT_READY, ping_ok},
    {"poststarthook/aggregator-reload-proxy-client-cert", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-discovery-controller", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-openapi-controller", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-openapiv3-controller", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-registration-controller", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-status-local-available-controller", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-status-remote-available-controller", EVERYWHERE, started_ok},
    {"poststarthook/apiservice-wait-for-first-sync", EVERYWHERE, started_ok},
    {"poststarthook/bootstrap-controller", EVERYWHERE, started_ok},
    {"poststarthook/crd-informer-synced", EVERYWHERE, loaded_ok},
    {"poststarthook/generic-apiserver-start-informers", EVERYWHERE, loaded_ok},
    {"poststarthook/kube-apiserver-autoregistration", EVERYWHERE, started_ok},
    {"poststarthook/peer-endpoint-reconciler-controller", EVERYWHERE, started_ok},
    {"poststarthook/priority-and-fairness-config-consumer", EVERYWHERE, started_ok},
    {"poststarthook/priority-and-fairness-config-producer", EVERYWHERE, started_ok},
    {"poststarthook/priority-and-fairness-filter", EVERYWHERE, started_ok},
    {"poststarthook/rbac/bootstrap-roles", EVERYWHERE, started_ok},
    {"poststarthook/scheduling/bootstrap-system-priority-classes", EVERYWHERE, started_ok},
    {"poststarthook/start-apiextensions-controllers", EVERYWHERE, started_ok},
    {"poststarthook/start-apiextensions-informers", EVERYWHERE, loaded_ok},
    {"poststarthook/start-apiserver-admission-initializer", EVERYWHERE, started_ok},
    {"poststarthook/start-cluster-authentication-info-controller", EVERYWHERE, started_ok},
    {"poststarthook/start-kube-aggregator-informers", EVERYWHERE, loaded_ok},
    {"poststarthook/start-kube-apiserver-identity-lease-controller", EVERYWHERE, started_ok},
    {"poststarthook/start-kube-apiserver-identity-lease-garbage-collector", EVERYWHERE, started_ok},
    {"poststarthook/start-kubernetes-service-cidr-controller", EVERYWHERE, started_ok},
    {"poststarthook/start-legacy-token-tracking-controller", EVERYWHERE, started_ok},
    {"poststarthook/start-service-ip-repair-controllers", EVERYWHERE, started_ok},
    {"poststarthook/start-system-namespaces-controller", EVERYWHERE, started_ok},
    {"poststarthook/storage-object-count-tracker-hook", EVERYWHERE, started_ok},
    {"poststarthook/storage-readiness", EVERYWHERE, loaded_ok},
    {"autoregister-completion", EVERYWHERE, started_ok},
    {"shutdown", READY_ONLY, running_ok},
};

_Static_assert(ARRAY_LEN(checks) <= HEALTH_CHECKS_MAX, "counts for every check");
static const char *const endpoints[HEALTH_ENDPOINTS] = {"healthz", "livez", "readyz"};

static bool run_check(struct apiserver *s, size_t i, const char *endpoint) {
    bool ok = checks[i].ok(s);
    for (size_t k = 0; k < HEALTH_ENDPOINTS; k++) {
        struct health_counts *n = &s->health[i][k];
        if (!str_eq(endpoints[k], endpoint)) continue;
        atomic_fetch_add(ok ? &n->passed : &n->failed, 1);
        atomic_store(&n->ok, ok);
    }
    return ok;
}

static bool excluded(struct request *q, const char *name) {
    size_t it = 0;
    const char *k, *v;
    while (http_query_next(q->http, &it, &k, &v))
        if (str_eq(k, "exclude") && str_eq(v, name)) return true;
    return false;
}

static void health(struct request *q, const char *endpoint, const char *name) {
    bool ready = str_eq(endpoint, "readyz"), all = true, found = !*name;
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        const struct check *c = &checks[i];
        if (c->where == (ready ? NOT_READY : READY_ONLY)) continue;
        if (*name && !str_eq(name, c->name)) continue;
        found = true;
        bool skip = excluded(q, c->name), ok = skip || run_check(q->s, i, endpoint);
        all &= ok;
        if (skip)
            buf_printf(&b, "[+]%s excluded: ok\n", c->name);
        else if (ok)
            buf_printf(&b, "[+]%s ok\n", c->name);
        else
            buf_printf(&b, "[-]%s failed: reason withheld\n", c->name);
    }
    if (!found)
        http_respond_text(q->http, 404, "404 page not found\n");
    else if (!all)
        http_respond_text(q->http, 500, "%s%s check failed\n", b.data, endpoint);
    else if (http_query(q->http, "verbose") && !*name)
        http_respond_text(q->http, 200, "%s%s check passed\n", b.data, endpoint);
    else
        http_respond_text(q->http, 200, "ok");
}

/* ---- version ---- */

static void version(struct request *q) {
    struct arena *a = q->a;
    struct json *v = json_object(a);
    static const char *const pairs[][2] = {
        {"major", "1"},
        {"minor", "36"},
        {"emulationMajor", "1"},
        {"emulationMinor", "36"},
        {"minCompatibilityMajor", "1"},
        {"minCompatibilityMinor", "35"},
        {"gitVersion", CORACLE_VERSION},
        {"gitCommit", CORACLE_COMMIT},
        {"gitTreeState", "clean"},
        {"buildDate", "1970-01-01T00:00:00Z"},
        {"goVersion", "none"},
        {"compiler", "gcc"},
#ifdef __aarch64__
        {"platform", "linux/arm64"},
#else
        {"platform", "linux/amd64"},
#endif
    };
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) json_set_str(a, v, pairs[i][0], pairs[i][1]);
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write_pretty(&b, v);
    respond_json_text(q, 200, "application/json", b.data, b.len);
}

/* ---- metrics ---- */

static void metrics(struct request *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    metrics_write(q->s, &b);
    respond_json_text(q, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
}

typedef void sli_fn(struct buf *b, const char *labels, const struct health_counts *n);

static void sli_last(struct buf *b, const char *labels, const struct health_counts *n) {
    buf_printf(b, "kubernetes_healthcheck{%s} %d\n", labels, atomic_load(&n->ok));
}

static void sli_totals(struct buf *b, const char *labels, const struct health_counts *n) {
    uint64_t passed = atomic_load(&n->passed), failed = atomic_load(&n->failed);
    const char *name = strchr(labels, ',');
    int before = (int)(name - labels);
    if (failed)
        buf_printf(b, "kubernetes_healthchecks_total{%.*s,status=\"error\"%s} %" PRIu64 "\n", before, labels, name,
                   failed);
    if (passed)
        buf_printf(b, "kubernetes_healthchecks_total{%.*s,status=\"success\"%s} %" PRIu64 "\n", before, labels, name,
                   passed);
}

static void write_slis(struct apiserver *s, struct buf *b, sli_fn *fn) {
    for (size_t i = 0; i < ARRAY_LEN(checks); i++)
        for (size_t k = 0; k < HEALTH_ENDPOINTS; k++) {
            const struct health_counts *n = &s->health[i][k];
            if (!atomic_load(&n->passed) && !atomic_load(&n->failed)) continue;
            _cleanup_free_ char *labels = xasprintf("name=\"%s\",type=\"%s\"", checks[i].name, endpoints[k]);
            fn(b, labels, n);
        }
}

/* What the health checks have said so far, for those who watch how often the server is well. */
static void slis(struct request *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    prom_head(&b, "kubernetes_healthcheck", "gauge", "The last result of a health check: 1 when it passed.");
    write_slis(q->s, &b, sli_last);
    prom_head(&b, "kubernetes_healthchecks_total", "counter", "Results of health checks so far.");
    write_slis(q->s, &b, sli_totals);
    respond_json_text(q, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
}

/* ---- debugging ---- */

static bool debug_flow(struct request *q) {
    static const char prefix[] = "/debug/api_priority_and_fairness/";
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (!str_has_prefix(q->http->path, prefix)) return false;
    if (!flow_dump(admission_flow(q->s), q->http->path + sizeof(prefix) - 1, &b)) return false;
    respond_json_text(q, 200, "text/plain; charset=utf-8", str_or_empty(b.data), b.len);
    return true;
}

/* ---- OpenID discovery of service-account tokens ---- */

static void openid(struct request *q) {
    struct arena *a = q->a;
    struct apiserver *s = q->s;
    struct json *v = json_object(a), *one = json_array(a);
    json_set_str(a, v, "issuer", s->opt.sa_issuer);
    json_set(a, v, "jwks_uri", json_strf(a, "https://%s/openid/v1/jwks", str_or_empty(s->external_host)));
    json_append(a, one, json_str(a, "id_token"));
    json_set(a, v, "response_types_supported", one);
    one = json_array(a);
    json_append(a, one, json_str(a, "public"));
    json_set(a, v, "subject_types_supported", one);
    json_set(a, v, "id_token_signing_alg_values_supported", s->keys ? jwt_keys_algorithms(s->keys, a) : json_array(a));
    char *text = json_text(a, v);
    respond_json_text(q, 200, "application/json", text, strlen(text));
}

static void jwks(struct request *q) {
    if (!q->s->keys) {
        http_respond_text(q->http, 404, "404 page not found\n");
        return;
    }
    char *text = json_text(q->a, jwt_keys_jwks(q->s->keys, q->a));
    respond_json_text(q, 200, "application/jwk-set+json", text, strlen(text));
}

/* ---- the list of paths ---- */

static int cmp_str(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

static void paths(struct request *q) {
    static const char *const fixed[] = {"/.well-known/openid-configuration",
                                        "/api",
                                        "/apis",
                                        "/apis/",
                                        "/healthz",
                                        "/livez",
                                        "/metrics",
                                        "/metrics/slis",
                                        "/openapi/v2",
                                        "/openapi/v3",
                                        "/openapi/v3/",
                                        "/openid/v1/jwks",
                                        "/readyz",
                                        "/version"};
    struct arena *a = q->a;
    size_t n_rows, n = 0;
    const struct resource *const *rows = resource_table_rows(q->s->resources, a, &n_rows);
    size_t max = ARRAY_LEN(fixed) + 2 * n_rows + 3 * ARRAY_LEN(checks);
    const char **list = arena_alloc(a, max * sizeof(*list));
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) list[n++] = fixed[i];
    for (size_t i = 0; i < n_rows; i++) {
        const struct resource *r = rows[i];
        if (*r->group) list[n++] = arena_printf(a, "/apis/%s", r->group);
        list[n++] =
            *r->group ? arena_printf(a, "/apis/%s/%s", r->group, r->version) : arena_printf(a, "/api/%s", r->version);
    }
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        if (checks[i].where != NOT_READY) list[n++] = arena_printf(a, "/readyz/%s", checks[i].name);
        if (checks[i].where == READY_ONLY) continue;
        list[n++] = arena_printf(a, "/livez/%s", checks[i].name);
        list[n++] = arena_printf(a, "/healthz/%s", checks[i].name);
    }
    qsort(list, n, sizeof(*list), cmp_str);
    struct json *doc = json_object(a), *out = json_set(a, doc, "paths", json_array(a));
    for (size_t i = 0; i < n; i++)
        if (!i || !str_eq(list[i], list[i - 1])) json_append(a, out, json_str(a, list[i]));
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write_pretty(&b, doc);
    respond_json_text(q, 200, "application/json", b.data, b.len);
}

static const struct {
    const char *path;
    void (*fn)(struct request *q);
} plain[] = {{"/", paths},
             {"/version", version},
             {"/version/", version},
             {"/metrics", metrics},
             {"/metrics/slis", slis},
             {"/.well-known/openid-configuration", openid},
             {"/openid/v1/jwks", jwks}};

bool handle_plain(struct request *q) {
    const char *p = q->http->path;
    for (size_t i = 0; i < ARRAY_LEN(plain); i++)
        if (str_eq(p, plain[i].path)) {
            plain[i].fn(q);
            return true;
        }
    for (size_t i = 0; i < ARRAY_LEN(endpoints); i++) {
        size_t n = strlen(endpoints[i]);
        if (strncmp(p + 1, endpoints[i], n) != 0 || (p[n + 1] && p[n + 1] != '/')) continue;
        health(q, endpoints[i], p[n + 1] ? p + n + 2 : "");
        return true;
    }
    return debug_flow(q);
}
