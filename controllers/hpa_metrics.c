/* The three metrics APIs, as plain requests: what answers them is somebody else's server (metrics.k8s.io: ours, unless a
 * metrics-server is installed; the other two: an adapter, or nobody). Upstream: podautoscaler/metrics and the clients
 * of k8s.io/metrics. */
#include "hpa.h"
#include "pkg/api/metrics.h"
#include "pkg/api/quantity.h"
#include "pkg/json/json.h"

#define RESOURCE_API "/apis/metrics.k8s.io/v1beta1"
#define CUSTOM_API "/apis/custom.metrics.k8s.io/v1beta2"
#define CUSTOM_API_BEFORE "/apis/custom.metrics.k8s.io/v1beta1"
#define EXTERNAL_API "/apis/external.metrics.k8s.io/v1beta1"
enum { DEFAULT_WINDOW_S = 60 };

static int get(const struct hpa_source *s, struct arena *a, const char *path, struct json **out, struct err *e) {
    struct client_request rq = {.method = "GET", .path = path};
    struct client_response resp = {0};
    int r = client_do(s->client, &rq, &resp, e);
    if (r == 0) r = json_parse(a, resp.body, resp.len, out, NULL, e);
    client_response_done(&resp);
    return r;
}

/* ---- metrics.k8s.io ---- */

/* The sum of a pod's containers; false when one has no value. */
static bool usage_of(const struct metrics_pod_metrics *p, const char *resource, const char *container, int64_t *out) {
    bool any = false;
    *out = 0;
    for (size_t i = 0; i < p->containers.n; i++) {
        const struct metrics_container_metrics *c = &p->containers.items[i];
        if (container && !str_eq(container, c->name)) continue;
        const char *q = str_map_get(&c->usage, resource);
        if (!q) return false;
        *out += quantity_str_milli(q);
        any = true;
    }
    return any || !container;
}

int hpa_resource_samples(const struct hpa_source *s, struct arena *a, const char *resource, const char *container,
                         struct hpa_samples *out, struct err *e) {
    static const struct client_resource pods = {"metrics.k8s.io",        "v1beta1", "pods", true, "PodMetrics",
                                                &api_metrics_pod_metrics};
    struct client_list l;
    struct client_list_opts o = {.label_selector = s->selector};
    _cleanup_err_ struct err le = {0};
    int r = client_list(s->client, a, &pods, s->ns, &o, &l, &le);
    if (r < 0)
        return err_set(e, r,
                       "unable to get metrics for resource %s: unable to fetch metrics from resource metrics API: %s",
                       resource, le.msg);
    if (l.n == 0)
        return err_set(e, -ENOENT,
                       "unable to get metrics for resource %s: no metrics returned from resource metrics API",
                       resource);
    out->items = arena_alloc(a, l.n * sizeof(*out->items));
    out->n = 0;
    for (size_t i = 0; i < l.n; i++) {
        const struct metrics_pod_metrics *p = l.items[i];
        struct hpa_sample x = {.pod = p->metadata.name, .at = p->timestamp};
        if (duration_parse(str_or_empty(p->window), &x.window_ns) < 0) x.window_ns = DEFAULT_WINDOW_S * NS_PER_SEC;
        if (usage_of(p, resource, container, &x.value)) out->items[out->n++] = x;
    }
    return 0;
}

/* ---- custom.metrics.k8s.io ---- */

/* `what` is "pods/ * /name" or "services/web/name" (without the blanks). An adapter may know only the older version. */
static int custom(const struct hpa_source *s, struct arena *a, const char *what, const char *pod_selector,
                  const struct autoscaling_v2_metric_identifier *m, struct json **items, struct err *e) {
    static const char *const apis[] = {CUSTOM_API, CUSTOM_API_BEFORE};
    const char *metric_selector = m->selector ? label_selector_format(a, m->selector) : NULL;
    _cleanup_err_ struct err ge = {0};
    int r = -ENOENT;
    for (size_t i = 0; i < ARRAY_LEN(apis) && r == -ENOENT; i++) {
        char *path = arena_printf(a, "%s/namespaces/%s/%s/%s", apis[i], s->ns, what, m->name);
        path = client_path_query(a, path, "labelSelector", pod_selector);
        path = client_path_query(a, path, "metricLabelSelector", metric_selector);
        struct json *doc = NULL;
        err_done(&ge);
        ge = (struct err){0};
        r = get(s, a, path, &doc, &ge);
        if (r == 0) *items = json_get(doc, "items");
    }
    if (r == 0 && json_len(*items)) return 0;
    if (r == 0) return err_set(e, -ENOENT, "no metrics returned from custom metrics API");
    return err_set(e, r, "unable to fetch metrics from custom metrics API: %s", ge.msg);
}

int hpa_pods_samples(const struct hpa_source *s, struct arena *a, const struct autoscaling_v2_metric_identifier *m,
                     struct hpa_samples *out, struct err *e) {
    struct json *items = NULL;
    int r = custom(s, a, "pods/*", s->selector, m, &items, e);
    if (r < 0) return err_wrap(e, "unable to get metric %s", m->name);
    size_t n = json_len(items);
    out->items = arena_zalloc(a, n * sizeof(*out->items));
    out->n = n;
    for (size_t i = 0; i < n; i++) {
        const struct json *x = json_item(items, i);
        struct hpa_sample *o = &out->items[i];
        const char *at = json_get_str(x, "timestamp");
        o->pod = str_or_empty(json_get_str(json_get(x, "describedObject"), "name"));
        o->value = quantity_str_milli(json_get_str(x, "value"));
        if (at) ktime_parse(at, &o->at);
        o->window_ns = json_get_int(x, "windowSeconds", DEFAULT_WINDOW_S) * NS_PER_SEC;
    }
    return 0;
}

int hpa_object_value(const struct hpa_source *s, struct arena *a, const struct autoscaling_v2_metric_identifier *m,
                     const char *object, int64_t *out, struct err *e) {
    struct json *items = NULL;
    int r = custom(s, a, object, NULL, m, &items, e);
    if (r < 0) return err_wrap(e, "unable to get metric %s", m->name);
    *out = quantity_str_milli(json_get_str(json_item(items, 0), "value"));
    return 0;
}

/* ---- external.metrics.k8s.io ---- */

int hpa_external_value(const struct hpa_source *s, struct arena *a, const struct autoscaling_v2_metric_identifier *m,
                       int64_t *out, struct err *e) {
    struct json *doc = NULL;
    char *path = arena_printf(a, "%s/namespaces/%s/%s", EXTERNAL_API, s->ns, m->name);
    path = client_path_query(a, path, "labelSelector", m->selector ? label_selector_format(a, m->selector) : NULL);
    _cleanup_err_ struct err ge = {0};
    int r = get(s, a, path, &doc, &ge);
    const struct json *items = r == 0 ? json_get(doc, "items") : NULL;
    if (r < 0)
        return err_set(e, r,
                       "unable to get external metric %s/%s: unable to fetch metrics from external metrics API: %s",
                       s->ns, m->name, ge.msg);
    if (!json_len(items))
        return err_set(e, -ENOENT, "unable to get external metric %s/%s: no metrics returned from external metrics API",
                       s->ns, m->name);
    __int128 sum = 0;
    for (size_t i = 0; i < json_len(items); i++) sum += quantity_str_milli(json_get_str(json_item(items, i), "value"));
    *out = sum > INT64_MAX ? INT64_MAX : (int64_t)sum;
    return 0;
}
