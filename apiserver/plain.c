/* The paths that are no API: version, metrics, the OpenID documents, the list of paths. Health is health.c's. */
#include "apiserver/admit.h"
#include "apiserver/commit.h"
#include "apiserver/flow/flow.h"
#include "apiserver/handlers.h"
#include "apiserver/health.h"
#include "apiserver/lookup.h"
#include "apiserver/metrics.h"
#include "pkg/base/flags.h"
#include "pkg/base/prom.h"
#include "pkg/pki/jwt.h"

#include <time.h>

/* ---- version ---- */

/* As go-restful answers: by GET alone, and in JSON alone. */
static bool version_refused(struct request *q) {
    _cleanup_err_ struct err e = {0};
    const char *accept = str_or_empty(http_header(q->http, "accept"));
    if (!str_eq(q->http->method, "GET")) {
        err_status(&e, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
        respond_err(q, &e);
        return true;
    }
    if (!*accept || strstr(accept, "application/json") || strstr(accept, "*/*")) return false;
    respond_text(q, 406, "406: Not Acceptable\n\nAvailable representations: application/json");
    return true;
}

static void version(struct request *q) {
    struct arena *a = q->a;
    if (version_refused(q)) return;
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

/* Prometheus' text form, with the start of the process in a header as upstream's handler says it. */
static void respond_metrics(struct request *q, const struct buf *b) {
    time_t started = time(NULL) - (time_t)((mono_ns() - q->s->started_ns) / NS_PER_SEC);
    struct http_header more[] = {
        {"Content-Type", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"},
        {"Process-Start-Time-Unix", arena_printf(q->a, "%lld", (long long)started)},
    };
    struct http_header *h;
    size_t n = response_headers_with(q, more, ARRAY_LEN(more), &h);
    http_respond(q->http, 200, h, n, str_or_empty(b->data), b->len, HTTP_GZIP);
}

static void metrics(struct request *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    metrics_write(q->s, &b);
    respond_metrics(q, &b);
}

/* Upstream: component-base/metrics/prometheus/slis. */
static void metrics_slis(struct request *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    health_metrics(q->s, &b);
    respond_metrics(q, &b);
}

/* ---- statusz and flagz ---- for people; upstream: component-base/zpages ---- */

#define ZPAGE_WARNING                                                                                                 \
    "Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is " \
    "for debugging purposes only.\n"

static void zpage(struct request *q, const struct buf *b) {
    const char *accept = str_or_empty(http_header(q->http, "accept"));
    struct http_header *h;
    if (*accept && !strstr(accept, "text/plain") && !strstr(accept, "*/*")) {
        _cleanup_err_ struct err e = {0};
        err_status(&e, 406, "NotAcceptable", "only the following media types are accepted: text/plain");
        q->accept_known = true;
        respond_err(q, &e);
        return;
    }
    size_t n = response_headers(q, "text/plain; charset=utf-8", &h);
    http_respond(q->http, 200, h, n, b->data, b->len, 0);
}

static void statusz(struct request *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    long long up = (long long)((mono_ns() - q->s->started_ns) / NS_PER_SEC);
    time_t since = time(NULL) - (time_t)up;
    struct tm tm;
    char text[64];
    strftime(text, sizeof(text), "%a %b %e %H:%M:%S UTC %Y", gmtime_r(&since, &tm));
    buf_printf(&b, "\napiserver statusz\n" ZPAGE_WARNING "\nStarted: %s\nUp: %lld hr %02lld min %02lld sec\n", text,
               up / 3600, up / 60 % 60, up % 60);
    buf_printf(&b, "Binary version: %s\nEmulation version: 1.36\n", CORACLE_VERSION);
    buf_adds(&b, "Paths: /flagz /healthz /livez /metrics /readyz /statusz /version\n");
    zpage(q, &b);
}

static void flagz(struct request *q) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_printf(&b, "\napiserver flagz\n" ZPAGE_WARNING "%s", str_or_empty(q->s->opt.flagz));
    zpage(q, &b);
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
                                        "/flagz",
                                        "/healthz",
                                        "/livez",
                                        "/metrics",
                                        "/metrics/slis",
                                        "/openapi/v2",
                                        "/openapi/v3",
                                        "/openapi/v3/",
                                        "/openid/v1/jwks",
                                        "/readyz",
                                        "/statusz",
                                        "/version"};
    struct arena *a = q->a;
    size_t n_rows, n = 0;
    const struct resource *const *rows = resource_table_rows(q->s->resources, a, &n_rows);
    size_t max = ARRAY_LEN(fixed) + 2 * n_rows + health_paths(q->s, NULL, a);
    const char **list = arena_alloc(a, max * sizeof(*list));
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) list[n++] = fixed[i];
    for (size_t i = 0; i < n_rows; i++) {
        const struct resource *r = rows[i];
        if (*r->group) list[n++] = arena_printf(a, "/apis/%s", r->group);
        list[n++] =
            *r->group ? arena_printf(a, "/apis/%s/%s", r->group, r->version) : arena_printf(a, "/api/%s", r->version);
    }
    n += health_paths(q->s, list + n, a);
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
             {"/metrics/slis", metrics_slis},
             {"/statusz", statusz},
             {"/flagz", flagz},
             {"/.well-known/openid-configuration", openid},
             {"/openid/v1/jwks", jwks}};

bool handle_plain(struct request *q) {
    static const char *const endpoints[] = {"healthz", "livez", "readyz"};
    const char *p = q->http->path;
    for (size_t i = 0; i < ARRAY_LEN(plain); i++)
        if (str_eq(p, plain[i].path)) {
            plain[i].fn(q);
            return true;
        }
    for (size_t i = 0; i < ARRAY_LEN(endpoints); i++) {
        size_t n = strlen(endpoints[i]);
        if (strncmp(p + 1, endpoints[i], n) != 0 || (p[n + 1] && p[n + 1] != '/')) continue;
        handle_health(q, endpoints[i], p[n + 1] ? p + n + 2 : NULL);
        return true;
    }
    return debug_flow(q);
}
