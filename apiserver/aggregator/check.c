/* Whether a back end is available, kept as the condition Available of its APIService with Kubernetes'
 * reasons; and, while it is, what it serves: its APIResourceList, its OpenAPI documents.
 *
 * The cheap questions come first (is there a Service, a port, an endpoint), then one request for
 * /apis/GROUP/VERSION. What is not available is looked at again every second, what is every ten. Documents
 * are fetched again every minute, with the ETag of the last time; failures double the pause up to ten
 * minutes. */
#include "apiserver/aggregator/internal.h"
#include "apiserver/conditions.h"
#include "apiserver/forward.h"
#include "apiserver/lookup.h"
#include "apiserver/write.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

#define DOCS_NS (60 * NS_PER_SEC)
#define DOCS_MAX_NS (600 * NS_PER_SEC)
#define AGAIN_NS (1 * NS_PER_SEC)
#define RELAX_NS (10 * NS_PER_SEC)

struct verdict {
    bool ok;
    const char *reason, *message;
};

static struct verdict no(const char *reason, const char *message) { return (struct verdict){false, reason, message}; }

static int fetch(struct aggregator *g, struct agg_back *b, struct arena *a, const char *path, const char *accept,
                 const char *etag, size_t max, struct http_resp *r, struct err *e) {
    _cleanup_agg_dial_ struct agg_dial *d = NULL;
    struct http_header h[] = {{"Accept", accept},
                              {"X-Remote-User", "system:kube-aggregator"},
                              {"X-Remote-Group", "system:masters"},
                              {"If-None-Match", str_or_empty(etag)}};
    int rc = agg_dial(g, b, a, &d, e);
    if (rc) return rc;
    r->body.limit = max;
    return http_client_exchange(d->client, "GET", path, h, str_empty(etag) ? 3 : 4, NULL, 0, NULL, r, &g->stop,
                                AGG_CHECK_MS, e);
}

/* ---- available? ---- */

static const struct json *service_port(const struct json *svc, int64_t port) {
    struct json *p;
    JSON_FOREACH(p, json_at(svc, "spec", "ports", NULL)) {
        if (json_get_int(p, "port", 0) == port) return p;
    }
    return NULL;
}

/* What the objects say, without asking the back end; ok to go on. */
static struct verdict look_at_service(struct aggregator *g, struct agg_back *b, struct arena *a) {
    _cleanup_err_ struct err e = {0};
    const struct json *svc = lookup_get(g->s, a, "", "services", b->ns, b->service);
    if (!svc) return no("ServiceNotFound", arena_printf(a, "service/%s in \"%s\" is not present", b->service, b->ns));
    const char *type = json_as_str(json_at(svc, "spec", "type", NULL));
    if (!str_eq(type, "ClusterIP")) return (struct verdict){.ok = true};
    const struct json *p = service_port(svc, b->port);
    if (!p)
        return no("ServicePortError", arena_printf(a, "service/%s in \"%s\" is not listening on port %lld", b->service,
                                                   b->ns, (long long)b->port));
    if (forward_service(g->s, a, b->ns, b->service, arena_printf(a, "%lld", (long long)b->port), false, &e))
        return (struct verdict){.ok = true};
    return no("MissingEndpoints",
              arena_printf(a, "endpoints for service/%s in \"%s\" have no addresses with port name \"%s\"", b->service,
                           b->ns, str_or_empty(json_get_str(p, "name"))));
}

static void keep_resources(struct aggregator *g, struct agg_back *b, const struct http_resp *r) {
    pthread_mutex_lock(&b->lock);
    bool same = b->resources && b->resources->len == r->body.len &&
                memcmp(b->resources->data, str_or_empty(r->body.data), r->body.len) == 0;
    if (!same) {
        rbytes_unref(b->resources);
        b->resources = rbytes_new(str_or_empty(r->body.data), r->body.len);
        atomic_fetch_add(&g->changes, 1);
    }
    pthread_mutex_unlock(&b->lock);
}

static struct verdict ask(struct aggregator *g, struct agg_back *b, struct arena *a) {
    _cleanup_err_ struct err e = {0};
    _cleanup_http_resp_ struct http_resp r = {0};
    struct verdict v = look_at_service(g, b, a);
    if (!v.ok) return v;
    const char *path = arena_printf(a, "/apis/%s/%s", b->group, b->version);
    int rc = fetch(g, b, a, path, "application/json", NULL, AGG_DISCOVERY_MAX, &r, &e);
    if (rc)
        return no("FailedDiscoveryCheck",
                  arena_printf(a, "failing or missing response from https://%s.%s.svc:%lld%s: %s", b->service, b->ns,
                               (long long)b->port, path, e.msg));
    if (r.status < 200 || r.status >= 300)
        return no("FailedDiscoveryCheck",
                  arena_printf(a, "failing or missing response from https://%s.%s.svc:%lld%s: bad status: %d",
                               b->service, b->ns, (long long)b->port, path, r.status));
    keep_resources(g, b, &r);
    return (struct verdict){true, "Passed", "all checks passed"};
}

static void tell(struct aggregator *g, struct agg_back *b, struct arena *a, const struct verdict *v) {
    const struct resource *res = resource_find(g->s->resources, "apiregistration.k8s.io", "v1", "apiservices");
    _cleanup_object_ struct object *o = watchcache_get(g->s->cache, res, NULL, b->name);
    struct json *obj = o ? object_tree(a, o) : NULL;
    if (!obj || json_at(obj, "metadata", "deletionTimestamp", NULL)) return;
    if (!condition_put(a, obj, condition_make(a, "Available", v->ok, v->reason, v->message))) return;
    _cleanup_err_ struct err e = {0};
    if (status_write(g->s, a, o, obj, &e)) b->next_check_ns = 0; /* tried again with the next round */
}

/* ---- documents ---- */

static bool fetch_v2(struct aggregator *g, struct agg_back *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_http_resp_ struct http_resp r = {0};
    struct json *doc = NULL;
    if (fetch(g, b, a, "/openapi/v2", "application/json", b->v2_etag, AGG_DOC_MAX, &r, NULL)) return false;
    if (r.status == 304) return true;
    struct json *part = NULL;
    if (r.status == 200 && json_parse(a, str_or_empty(r.body.data), r.body.len, &doc, NULL, NULL) == 0)
        part = agg_v2_part(a, doc, b->group, b->version);
    char *text = part ? json_text(a, part) : NULL;
    pthread_mutex_lock(&b->lock);
    bool same = text && b->v2 && str_eq(text, b->v2->data);
    if (!same) {
        rbytes_unref(b->v2);
        b->v2 = text ? rbytes_new(text, strlen(text)) : NULL;
        atomic_fetch_add(&g->changes, 1);
    }
    pthread_mutex_unlock(&b->lock);
    snprintf(b->v2_etag, sizeof(b->v2_etag), "%s", text ? str_or_empty(http_resp_header(&r, "etag")) : "");
    return r.status == 200 || r.status == 404;
}

/* The index tells whether there is a document of the version, and by its hash when it changes. */
static bool fetch_v3_index(struct aggregator *g, struct agg_back *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_http_resp_ struct http_resp r = {0};
    struct json *doc = NULL;
    char hash[sizeof(b->v3_hash)] = "";
    if (fetch(g, b, a, "/openapi/v3", "application/json", NULL, AGG_DISCOVERY_MAX, &r, NULL)) return false;
    if (r.status == 200 && json_parse(a, str_or_empty(r.body.data), r.body.len, &doc, NULL, NULL) == 0) {
        const char *url = json_as_str(
            json_at(doc, "paths", arena_printf(a, "apis/%s/%s", b->group, b->version), "serverRelativeURL", NULL));
        const char *text = str_or_empty(url);
        if (url) snprintf(hash, sizeof(hash), "%08X%08zX", hash_bytes(text, strlen(text)), strlen(text));
    }
    pthread_mutex_lock(&b->lock);
    if (!str_eq(hash, b->v3_hash)) {
        memcpy(b->v3_hash, hash, sizeof(hash));
        atomic_fetch_add(&g->changes, 1);
    }
    pthread_mutex_unlock(&b->lock);
    return r.status == 200 || r.status == 404;
}

static void fetch_documents(struct aggregator *g, struct agg_back *b) {
    bool v2 = fetch_v2(g, b), v3 = fetch_v3_index(g, b); /* both, whatever the first gives */
    bool ok = v2 && v3;
    b->docs_backoff_ns = ok ? DOCS_NS : MIN_OF(MAX_OF(b->docs_backoff_ns, AGAIN_NS) * 2, DOCS_MAX_NS);
    b->next_docs_ns = mono_ns() + b->docs_backoff_ns;
}

void agg_check(struct aggregator *g, struct agg_back *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct verdict v = ask(g, b, a);
    if (http_cancelled(&g->stop)) return;
    pthread_mutex_lock(&b->lock);
    if (b->available != v.ok) atomic_fetch_add(&g->changes, 1);
    b->available = v.ok;
    pthread_mutex_unlock(&b->lock);
    b->next_check_ns = mono_ns() + (v.ok ? RELAX_NS : AGAIN_NS);
    tell(g, b, a, &v);
    if (v.ok && mono_ns() >= b->next_docs_ns) fetch_documents(g, b);
}
