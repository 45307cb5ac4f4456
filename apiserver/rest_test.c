/* The server over its wire: a real instance with an embedded store in a temporary folder and a plain HTTP listener,
 * driven by the HTTP client. Everybody may do everything. */
#include <pthread.h>

#include "apiserver/admit.h"
#include "apiserver/handlers.h"
#include "apiserver/lookup.h"
#include "pkg/http/client.h"
#include "tests/test.h"

struct world {
    char dir[64], url[64];
    struct apiserver *s;
    uv_loop_t loop;
    uv_async_t stop;
    pthread_t thread;
    struct http_client *c;
    struct arena *a;
};

static void on_stop(uv_async_t *h) {
    struct world *w = h->data;
    watch_hub_close_watches(w->s->watches);
    http_server_stop(w->s->http, 100);
    uv_stop(&w->loop);
}

static void *run(void *arg) {
    uv_run(&((struct world *)arg)->loop, UV_RUN_DEFAULT);
    return NULL;
}

static void must(int rc, struct err *e, const char *what) {
    if (!rc) return;
    fprintf(stderr, "%s: %s\n", what, e->msg);
    abort();
}

static void world_start(struct world *w) {
    struct err e = {0};
    struct apiserver_options o = {.data_dir = w->dir,
                                  .advertise_address = "192.0.2.1",
                                  .secure_port = 6443,
                                  .service_cidr = "10.96.0.0/16",
                                  .node_ports = "30000-32767",
                                  .sa_issuer = "https://kubernetes.default.svc",
                                  .authorization_mode = "AlwaysAllow",
                                  .anonymous_auth = true,
                                  .event_ttl_ns = 3600 * NS_PER_SEC,
                                  .max_inflight = 4};
    struct http_listen l = {.address = "127.0.0.1"};
    int id;
    must(apiserver_open(&o, &w->s, &e), &e, "open");
    w->s->external_host = "127.0.0.1:6443";
    w->s->openapi = openapi_new();
    uv_loop_init(&w->loop);
    struct http_server_options ho = {.loop = &w->loop, .handler = apiserver_handle, .arg = w->s};
    w->s->http = http_server_new(&ho);
    w->s->watches = watch_hub_new(w->s, &w->loop);
    uv_async_init(&w->loop, &w->stop, on_stop);
    w->stop.data = w;
    must(http_server_listen(w->s->http, &l, &id, &e), &e, "listen");
    must(http_server_start(w->s->http, &e), &e, "start");
    snprintf(w->url, sizeof(w->url), "http://127.0.0.1:%u", http_server_port(w->s->http, id));
    pthread_create(&w->thread, NULL, run, w);
    must(bootstrap_run(w->s, &e), &e, "bootstrap");
    atomic_store(&w->s->ready, true);
    struct http_client_options co = {.base_url = w->url};
    w->c = http_client_new(&co, &e);
    must(!w->c, &e, "client");
}

static void world_stop(struct world *w) {
    http_client_free(w->c);
    uv_async_send(&w->stop);
    pthread_join(w->thread, NULL);
    admission_drain(w->s);
    uv_close((uv_handle_t *)&w->stop, NULL);
    http_server_free(w->s->http);
    watch_hub_free(w->s->watches);
    uv_run(&w->loop, UV_RUN_DEFAULT);
    uv_loop_close(&w->loop);
    apiserver_close(w->s);
}

static struct world *world_new(void) {
    struct world *w = xcalloc(1, sizeof(*w));
    snprintf(w->dir, sizeof(w->dir), "/tmp/apiserver-test-XXXXXX");
    if (!mkdtemp(w->dir)) abort();
    w->a = arena_new();
    world_start(w);
    return w;
}

static void world_free(struct world *w) {
    static const char *const files[] = {"state.db", "state.db-wal", "state.db-shm", "state.db.lock"};
    char path[128];
    world_stop(w);
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof(path), "%s/%s", w->dir, files[i]);
        unlink(path);
    }
    rmdir(w->dir);
    arena_free(w->a);
    free(w);
}

/* The answer's tree (NULL when it is no JSON); *status. Headers are "name: value" pairs, NULL-terminated; a body without
 * a Content-Type is JSON. */
static struct json *call(struct world *w, const char *method, const char *path, const char *const *headers,
                         const char *body, int *status) {
    _cleanup_http_resp_ struct http_resp r = {0};
    _cleanup_err_ struct err e = {0};
    struct http_header h[8];
    size_t n = 0;
    struct json *v = NULL;
    bool typed = false;
    for (; headers && headers[0]; headers += 2) {
        h[n++] = (struct http_header){headers[0], headers[1]};
        typed |= strcasecmp(headers[0], "content-type") == 0;
    }
    if (body && !typed) h[n++] = (struct http_header){"Content-Type", "application/json"};
    *status = 0;
    if (http_client_do(w->c, method, path, h, n, body, body ? strlen(body) : 0, &r, 10000, &e))
        TEST_FAIL("%s %s: %s", method, path, e.msg);
    *status = r.status;
    if (r.body.len) json_parse(w->a, r.body.data, r.body.len, &v, NULL, NULL);
    return v;
}

#define HEADERS(...) \
    (const char *const[]) { __VA_ARGS__, NULL, NULL }
#define MERGE HEADERS("Content-Type", "application/merge-patch+json")
#define CMS "/api/v1/namespaces/default/configmaps"

static struct json *expect(struct world *w, int want, const char *method, const char *path, const char *const *headers,
                           const char *body) {
    int status;
    struct json *v = call(w, method, path, headers, body, &status);
    if (status != want)
        TEST_FAIL("%s %s: %d, should be %d: %s", method, path, status, want, v ? json_text(w->a, v) : "");
    return v;
}

static const char *str_at(const struct json *v, const char *a, const char *b) {
    return json_as_str(json_at(v, a, b, NULL));
}

TEST(an_object_is_created_read_changed_and_deleted) {
    struct world *w = world_new();
    struct json *v = expect(w, 201, "POST", CMS, NULL,
                            "{\"metadata\":{\"name\":\"a\",\"labels\":{\"l\":\"1\"}},\"data\":{\"k\":\"v\"}}");
    const char *rv = str_at(v, "metadata", "resourceVersion"), *uid = str_at(v, "metadata", "uid");
    CHECK(rv && uid && str_at(v, "metadata", "creationTimestamp"));
    CHECK_STR(json_get_str(v, "kind"), "ConfigMap");
    v = expect(w, 200, "GET", CMS "/a", NULL, NULL);
    CHECK_STR(str_at(v, "metadata", "resourceVersion"), rv);
    CHECK_STR(str_at(v, "data", "k"), "v");
    v = expect(w, 409, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"a\"}}");
    CHECK_STR(json_get_str(v, "reason"), "AlreadyExists");
    v = expect(w, 200, "PATCH", CMS "/a", MERGE, "{\"data\":{\"k\":\"w\"}}");
    CHECK(!str_eq(str_at(v, "metadata", "resourceVersion"), rv));
    CHECK_STR(str_at(v, "metadata", "uid"), uid);
    v = expect(w, 409, "PUT", CMS "/a", NULL,
               arena_printf(w->a, "{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"%s\"}}", rv));
    CHECK_STR(json_get_str(v, "reason"), "Conflict");
    expect(w, 200, "PUT", CMS "/a", NULL, "{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"x\"}}");
    v = expect(w, 200, "DELETE", CMS "/a", NULL, NULL);
    CHECK_STR(json_get_str(v, "status"), "Success");
    v = expect(w, 404, "GET", CMS "/a", NULL, NULL);
    CHECK_STR(json_get_str(v, "reason"), "NotFound");
    CHECK_STR(str_at(v, "details", "kind"), "configmaps");
    world_free(w);
}

TEST(an_update_that_changes_nothing_writes_nothing) {
    struct world *w = world_new();
    struct json *v = expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"v\"}}");
    const char *rv = str_at(v, "metadata", "resourceVersion");
    v = expect(w, 200, "PATCH", CMS "/a", MERGE, "{\"data\":{\"k\":\"v\"}}");
    CHECK_STR(str_at(v, "metadata", "resourceVersion"), rv);
    world_free(w);
}

TEST(a_dry_run_answers_but_stores_nothing) {
    struct world *w = world_new();
    struct json *v = expect(w, 201, "POST", CMS "?dryRun=All", NULL, "{\"metadata\":{\"name\":\"a\"}}");
    CHECK(str_at(v, "metadata", "uid") && !str_at(v, "metadata", "resourceVersion"));
    expect(w, 404, "GET", CMS "/a", NULL, NULL);
    expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"a\"}}");
    expect(w, 200, "DELETE", CMS "/a?dryRun=All", NULL, NULL);
    expect(w, 200, "GET", CMS "/a", NULL, NULL);
    world_free(w);
}

TEST(a_finalizer_holds_an_object_until_it_goes) {
    struct world *w = world_new();
    expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"a\",\"finalizers\":[\"example.com/hold\"]}}");
    struct json *v = expect(w, 200, "DELETE", CMS "/a", NULL, NULL);
    CHECK(str_at(v, "metadata", "deletionTimestamp"));
    expect(w, 200, "GET", CMS "/a", NULL, NULL);
    expect(w, 200, "PATCH", CMS "/a", MERGE, "{\"metadata\":{\"finalizers\":null}}");
    expect(w, 404, "GET", CMS "/a", NULL, NULL);
    world_free(w);
}

TEST(lists_come_in_pages_of_one_revision) {
    struct world *w = world_new();
    for (int i = 0; i < 5; i++)
        expect(w, 201, "POST", CMS, NULL, arena_printf(w->a, "{\"metadata\":{\"name\":\"c%d\"}}", i));
    struct json *v = expect(w, 200, "GET", CMS "?limit=2", NULL, NULL);
    const char *token = str_at(v, "metadata", "continue"), *rv = str_at(v, "metadata", "resourceVersion");
    REQUIRE(token);
    CHECK_INT(json_len(json_get(v, "items")), 2);
    CHECK_INT(json_as_int(json_at(v, "metadata", "remainingItemCount", NULL), 0), 3);
    CHECK(!json_get(json_item(json_get(v, "items"), 0), "kind")); /* items of built-in lists have none */
    expect(w, 200, "DELETE", CMS "/c3", NULL, NULL);              /* later pages still show it */
    v = expect(w, 200, "GET", arena_printf(w->a, CMS "?limit=10&continue=%s", token), NULL, NULL);
    CHECK_INT(json_len(json_get(v, "items")), 3);
    CHECK_STR(str_at(v, "metadata", "resourceVersion"), rv);
    CHECK(!str_at(v, "metadata", "continue"));
    /* after compaction the token has expired, whatever could still be told; the answer has one to go on with */
    expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"c9\"}}");
    atomic_store(&w->s->compacted_rev, INT64_MAX);
    v = expect(w, 410, "GET", arena_printf(w->a, CMS "?limit=2&continue=%s", token), NULL, NULL);
    CHECK_STR(json_get_str(v, "reason"), "Expired");
    const char *other = str_at(v, "metadata", "continue");
    REQUIRE(other);
    atomic_store(&w->s->compacted_rev, 0);
    v = expect(w, 200, "GET", arena_printf(w->a, CMS "?limit=2&continue=%s", other), NULL, NULL);
    CHECK_STR(json_as_str(json_at(json_item(json_get(v, "items"), 0), "metadata", "name", NULL)), "c2");
    CHECK_INT(json_as_int(json_at(v, "metadata", "remainingItemCount", NULL), 0), 1);
    world_free(w);
}

TEST(wrong_requests_are_refused_with_their_codes) {
    static const struct {
        int status;
        const char *method, *path, *header, *value, *body;
    } steps[] = {
        {404, "GET", "/api/v1/nonsense", NULL, NULL, NULL},
        {404, "GET", "/apis/apps/v9", NULL, NULL, NULL},
        {404, "GET", "/nonsense", NULL, NULL, NULL},
        {405, "POST", CMS "/a", NULL, NULL, "{}"},
        {405, "PATCH", CMS, NULL, NULL, "{}"},
        {406, "GET", CMS, "Accept", "text/html", NULL},
        {415, "POST", CMS, "Content-Type", "text/plain", "x"},
        {415, "PATCH", "/api/v1/namespaces/default", "Content-Type", "application/json", "{}"},
        {400, "POST", CMS, NULL, NULL, "{"},
        {400, "POST", CMS, NULL, NULL, "{\"kind\":\"Secret\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\"}}"},
        {400, "POST", CMS, NULL, NULL, "{\"metadata\":{\"name\":\"a\",\"labels\":\"x\"}}"},
        {400, "POST", CMS "?fieldValidation=Strict", NULL, NULL, "{\"metadata\":{\"name\":\"a\"},\"bogus\":1}"},
        {400, "GET", CMS "?labelSelector=a%20b", NULL, NULL, NULL},
        {400, "GET", CMS "?fieldSelector=spec.x%3D1", NULL, NULL, NULL},
        {400, "GET", CMS "?resourceVersion=x", NULL, NULL, NULL},
        {400, "GET", CMS "?continue=x", NULL, NULL, NULL},
        {422, "GET", CMS "?resourceVersionMatch=Exact", NULL, NULL, NULL},
        {422, "POST", CMS, NULL, NULL, "{\"metadata\":{\"name\":\"Bad_Name\"}}"},
        {422, "POST", CMS "?dryRun=Some", NULL, NULL, "{\"metadata\":{\"name\":\"a\"}}"},
        {422, "PATCH", CMS "/a", "Content-Type", "application/apply-patch+yaml", "{}"},
        {504, "GET", CMS "?resourceVersion=99999999", NULL, NULL, NULL},
    };
    struct world *w = world_new();
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        const char *const h[] = {steps[i].header, steps[i].value, NULL, NULL};
        struct json *v =
            expect(w, steps[i].status, steps[i].method, steps[i].path, steps[i].header ? h : NULL, steps[i].body);
        if (v && !str_eq(json_get_str(v, "kind"), "Status")) TEST_FAIL("%s: no Status", steps[i].path);
    }
    world_free(w);
}

TEST(tables_and_partial_objects_are_made_on_demand) {
    struct world *w = world_new();
    expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"a\"},\"data\":{\"x\":\"1\",\"y\":\"2\"}}");
    struct json *v =
        expect(w, 200, "GET", CMS, HEADERS("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io"), NULL);
    CHECK_STR(json_get_str(v, "kind"), "Table");
    const struct json *cells = json_get(json_item(json_get(v, "rows"), 0), "cells");
    CHECK_STR(json_as_str(json_item(cells, 0)), "a");
    CHECK_INT(json_as_int(json_item(cells, 1), 0), 2);
    v = expect(w, 200, "GET", CMS "/a",
               HEADERS("Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"), NULL);
    CHECK_STR(json_get_str(v, "kind"), "PartialObjectMetadata");
    CHECK(!json_get(v, "data"));
    world_free(w);
}

/* ---- watches ---- */

struct watching {
    struct world *w;
    struct buf seen;
    struct http_cancel cancel;
    const char *until; /* ends when this text has come */
    _Atomic bool begun;
};

static int on_data(const char *p, size_t n, void *arg) {
    struct watching *x = arg;
    buf_add(&x->seen, p, n);
    x->begun = true;
    return strstr(x->seen.data, x->until) ? 1 : 0;
}

static void *watch_thread(void *arg) {
    struct watching *x = arg;
    _cleanup_http_resp_ struct http_resp r = {0};
    struct http_stream_cb cb = {NULL, on_data, x};
    http_client_stream(x->w->c, CMS "?watch=1&labelSelector=l%3D1&timeoutSeconds=60", NULL, 0, &cb, &r, &x->cancel,
                       60000, NULL);
    return NULL;
}

TEST(a_watch_tells_what_begins_and_stops_to_match) {
    struct world *w = world_new();
    struct watching x = {.w = w, .until = "\"DELETED\""};
    pthread_t t;
    expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"first\",\"labels\":{\"l\":\"1\"}}}");
    REQUIRE(http_cancel_init(&x.cancel, NULL) == 0);
    pthread_create(&t, NULL, watch_thread, &x);
    for (int i = 0; i < 6000 && !x.begun; i++) usleep(10000);
    expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"other\"}}");
    expect(w, 200, "PATCH", CMS "/other", MERGE, "{\"metadata\":{\"labels\":{\"l\":\"1\"}}}");
    expect(w, 200, "PATCH", CMS "/first", MERGE, "{\"metadata\":{\"labels\":{\"l\":\"2\"}}}");
    pthread_join(t, NULL);
    http_cancel_done(&x.cancel);
    const char *added = strstr(str_or_empty(x.seen.data), "\"ADDED\""),
               *second = added ? strstr(added + 1, "\"ADDED\"") : NULL;
    REQUIRE(added && second);
    CHECK(strstr(added, "\"first\"") && strstr(second, "\"other\""));
    CHECK(strstr(second,
                 "{\"type\":\"DELETED\",\"object\":{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\","
                 "\"metadata\":{\"name\":\"first\""));
    buf_done(&x.seen);
    world_free(w);
}

/* ---- the rest of the surface ---- */

TEST(discovery_names_every_group_and_openapi_follows) {
    struct world *w = world_new();
    struct json *v = expect(w, 200, "GET", "/apis", NULL, NULL), *g;
    CHECK_INT(json_len(json_get(v, "groups")), 20);
    JSON_FOREACH(g, json_get(v, "groups")) {
        const char *gv = str_at(g, "preferredVersion", "groupVersion");
        struct json *list = expect(w, 200, "GET", arena_printf(w->a, "/apis/%s", gv), NULL, NULL);
        CHECK(json_len(json_get(list, "resources")) > 0);
        struct json *doc = expect(w, 200, "GET", arena_printf(w->a, "/openapi/v3/apis/%s", gv), NULL, NULL);
        CHECK(json_len(json_get(doc, "paths")) > 0);
    }
    v = expect(w, 200, "GET", "/apis",
               HEADERS("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), NULL);
    CHECK_STR(json_get_str(v, "kind"), "APIGroupDiscoveryList");
    v = expect(w, 200, "GET", "/version", NULL, NULL);
    CHECK_STR(json_get_str(v, "minor"), "36");
    expect(w, 200, "GET", "/readyz?verbose", NULL, NULL);
    world_free(w);
}

TEST(a_deployment_scales_and_a_pod_is_bound_and_evicted) {
    static const char deploy[] =
        "{\"metadata\":{\"name\":\"d\"},\"spec\":{\"replicas\":2,\"selector\":{\"matchLabels\":{\"a\":\"b\"}},"
        "\"template\":{\"metadata\":{\"labels\":{\"a\":\"b\"}},\"spec\":{\"containers\":[{\"name\":\"c\","
        "\"image\":\"i\"}]}}}}";
    static const char pod[] =
        "{\"metadata\":{\"name\":\"p\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}";
    struct world *w = world_new();
    expect(w, 201, "POST", "/apis/apps/v1/namespaces/default/deployments", NULL, deploy);
    struct json *v = expect(w, 200, "GET", "/apis/apps/v1/namespaces/default/deployments/d/scale", NULL, NULL);
    CHECK_INT(json_as_int(json_at(v, "spec", "replicas", NULL), 0), 2);
    expect(w, 200, "PATCH", "/apis/apps/v1/namespaces/default/deployments/d/scale", MERGE,
           "{\"spec\":{\"replicas\":5}}");
    v = expect(w, 200, "GET", "/apis/apps/v1/namespaces/default/deployments/d", NULL, NULL);
    CHECK_INT(json_as_int(json_at(v, "spec", "replicas", NULL), 0), 5);
    expect(w, 201, "POST", "/api/v1/namespaces/default/serviceaccounts", NULL, "{\"metadata\":{\"name\":\"default\"}}");
    expect(w, 201, "POST", "/api/v1/namespaces/default/pods", NULL, pod);
    expect(w, 201, "POST", "/api/v1/namespaces/default/pods/p/binding", NULL,
           "{\"metadata\":{\"name\":\"p\"},\"target\":{\"name\":\"n1\"}}");
    expect(w, 409, "POST", "/api/v1/namespaces/default/pods/p/binding", NULL,
           "{\"metadata\":{\"name\":\"p\"},\"target\":{\"name\":\"n2\"}}");
    v = expect(w, 200, "GET", "/api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Dn1", NULL, NULL);
    CHECK_INT(json_len(json_get(v, "items")), 1);
    expect(w, 201, "POST", "/api/v1/namespaces/default/pods/p/eviction", NULL, "{\"metadata\":{\"name\":\"p\"}}");
    v = expect(w, 200, "GET", "/api/v1/namespaces/default/pods/p", NULL, NULL);
    CHECK(str_at(v, "metadata", "deletionTimestamp")); /* the kubelet ends it */
    expect(w, 200, "DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", NULL, NULL);
    expect(w, 404, "GET", "/api/v1/namespaces/default/pods/p", NULL, NULL);
    world_free(w);
}

TEST(another_version_of_the_same_storage_converts) {
    static const char hpa[] =
        "{\"metadata\":{\"name\":\"h\"},\"spec\":{\"scaleTargetRef\":{\"kind\":\"Deployment\",\"name\":\"d\","
        "\"apiVersion\":\"apps/v1\"},\"maxReplicas\":3,\"targetCPUUtilizationPercentage\":70}}";
    struct world *w = world_new();
    expect(w, 201, "POST", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers", NULL, hpa);
    struct json *v =
        expect(w, 200, "GET", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h", NULL, NULL);
    const struct json *m = json_item(json_at(v, "spec", "metrics", NULL), 0);
    CHECK_INT(json_as_int(json_at(m, "resource", "target", "averageUtilization", NULL), 0), 70);
    v = expect(w, 200, "GET", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h", NULL, NULL);
    CHECK_INT(json_as_int(json_at(v, "spec", "targetCPUUtilizationPercentage", NULL), 0), 70);
    world_free(w);
}

TEST(what_an_older_version_has_no_field_for_is_in_annotations) {
    static const char hpa[] =
        "{\"metadata\":{\"name\":\"h\"},\"spec\":{\"scaleTargetRef\":{\"kind\":\"Deployment\",\"name\":\"d\","
        "\"apiVersion\":\"apps/v1\"},\"maxReplicas\":3,\"behavior\":{\"scaleDown\":{\"selectPolicy\":\"Disabled\"}},"
        "\"metrics\":[{\"type\":\"Pods\",\"pods\":{\"metric\":{\"name\":\"m\"},"
        "\"target\":{\"type\":\"AverageValue\",\"averageValue\":\"1500m\"}}}]}}";
    struct world *w = world_new();
    expect(w, 201, "POST", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", NULL, hpa);
    struct json *v =
        expect(w, 200, "GET", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h", NULL, NULL);
    CHECK_STR(json_as_str(json_at(v, "metadata", "annotations", "autoscaling.alpha.kubernetes.io/metrics", NULL)),
              "[{\"type\":\"Pods\",\"pods\":{\"metricName\":\"m\",\"targetAverageValue\":\"1500m\"}}]");
    CHECK(strstr(str_or_empty(json_as_str(
                     json_at(v, "metadata", "annotations", "autoscaling.alpha.kubernetes.io/behavior", NULL))),
                 "\"ScaleDown\":{\"StabilizationWindowSeconds\":null,\"SelectPolicy\":\"Disabled\","));
    const char *text = json_text(w->a, v);
    v = expect(w, 200, "PUT", "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h", NULL, text);
    v = expect(w, 200, "GET", "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h", NULL, NULL);
    const struct json *m = json_item(json_at(v, "spec", "metrics", NULL), 0);
    CHECK_STR(json_as_str(json_at(m, "pods", "target", "averageValue", NULL)), "1500m");
    CHECK_STR(json_as_str(json_at(v, "spec", "behavior", "scaleDown", "selectPolicy", NULL)), "Disabled");
    CHECK(!json_at(v, "metadata", "annotations", NULL));
    world_free(w);
}

TEST(what_was_stored_is_there_after_a_restart) {
    struct world *w = world_new();
    struct json *v = expect(w, 201, "POST", CMS, NULL, "{\"metadata\":{\"name\":\"a\"},\"data\":{\"k\":\"v\"}}");
    const char *rv = str_at(v, "metadata", "resourceVersion"),
               *uid = str_at(expect(w, 200, "GET", "/api/v1/namespaces/default", NULL, NULL), "metadata", "uid");
    world_stop(w);
    world_start(w);
    v = expect(w, 200, "GET", CMS "/a", NULL, NULL);
    CHECK_STR(str_at(v, "metadata", "resourceVersion"), rv);
    CHECK_STR(str_at(expect(w, 200, "GET", "/api/v1/namespaces/default", NULL, NULL), "metadata", "uid"), uid);
    world_free(w);
}
