/* NodeMetrics and PodMetrics: get and list, with label selectors (on the labels of nodes and pods), as
 * objects or as Tables. */
#include <math.h>

#include "apiserver/usage/internal.h"
#include "pkg/api/quantity.h"
#include "pkg/base/ktime.h"

#define GROUP "metrics.k8s.io"
#define VERSION "v1beta1"

/* ---- one object ---- */

/* In canonical form: 250000000n is 250m. */
static struct json *usage_tree(struct arena *a, double cores, int64_t memory) {
    struct json *u = json_object(a);
    json_set_str(a, u, "cpu", quantity_canonical(a, arena_printf(a, "%lldn", (long long)llround(cores * 1e9))));
    const char *unit = memory % 1024 ? "" : "Ki";
    long long n = *unit ? memory / 1024 : memory;
    json_set_str(a, u, "memory", quantity_canonical(a, arena_printf(a, "%lld%s", n, unit)));
    return u;
}

/* metadata, timestamp and window; what is used follows. */
static struct json *begin(struct arena *a, const char *kind, const struct json *of, const struct usage_sample *at,
                          int64_t window_ms) {
    char now[KTIME_MAX], window[KTIME_MAX];
    const struct json *meta = json_get(of, "metadata");
    struct json *o = json_object(a), *m = json_object(a);
    json_set_str(a, o, "kind", kind);
    json_set_str(a, o, "apiVersion", GROUP "/" VERSION);
    json_set_str(a, m, "name", json_get_str(meta, "name"));
    if (json_get_str(meta, "namespace")) json_set_str(a, m, "namespace", json_get_str(meta, "namespace"));
    json_set_str(a, m, "creationTimestamp", ktime_format(ktime_now(), now));
    if (json_len(json_get(meta, "labels"))) json_set(a, m, "labels", json_get(meta, "labels"));
    json_set(a, o, "metadata", m);
    json_set_str(a, o, "timestamp", ktime_format(ktime_from_unix_ns(at->at_ms * NS_PER_MS), now));
    json_set_str(a, o, "window", duration_format(window_ms * NS_PER_MS, window));
    return o;
}

static struct json *node_tree(struct usage *u, struct arena *a, const struct json *node) {
    const struct usage_pair *p = map_get(&u->nodes, str_or_empty(json_as_str(json_at(node, "metadata", "name", NULL))));
    int64_t window = 0;
    double cores = p ? usage_node_rate(p, &window) : -1;
    if (cores < 0) return NULL;
    struct json *o = begin(a, "NodeMetrics", node, p->last, window);
    json_set(a, o, "usage", usage_tree(a, cores, p->last->node_memory));
    return o;
}

/* NULL unless all containers that the kubelet speaks of have a rate. */
static struct json *pod_tree(struct usage *u, struct arena *a, const struct json *pod) {
    const struct usage_pair *p = map_get(&u->nodes, str_or_empty(json_as_str(json_at(pod, "spec", "nodeName", NULL))));
    const char *ns = json_as_str(json_at(pod, "metadata", "namespace", NULL)),
               *name = json_as_str(json_at(pod, "metadata", "name", NULL));
    if (!p || !p->last || !ns || !name || !str_eq(json_as_str(json_at(pod, "status", "phase", NULL)), "Running"))
        return NULL;
    size_t n;
    const struct usage_point *c = usage_pod(p->last, ns, name, &n);
    struct json *list = json_array(a);
    int64_t window = 0, longest = 0;
    for (size_t i = 0; i < n; i++) {
        if (!*c[i].container) continue;
        double cores = c[i].has_cpu && c[i].has_memory ? usage_rate(p->last, &c[i], p->prev, &window) : -1;
        if (cores < 0) return NULL;
        struct json *x = json_object(a);
        json_set_str(a, x, "name", c[i].container);
        json_set(a, x, "usage", usage_tree(a, cores, c[i].memory));
        json_append(a, list, x);
        longest = MAX_OF(longest, window);
    }
    if (!json_len(list)) return NULL;
    struct json *o = begin(a, "PodMetrics", pod, p->last, longest);
    json_set(a, o, "containers", list);
    return o;
}

/* ---- tables ---- */

static void column(struct arena *a, struct json *to, const char *name, const char *format, const char *description) {
    struct json *c = json_object(a);
    json_set_str(a, c, "name", name);
    json_set_str(a, c, "type", "string");
    json_set_str(a, c, "format", format);
    json_set_str(a, c, "description", description);
    json_set_int(a, c, "priority", 0);
    json_append(a, to, c);
}

/* The sum over a pod's containers. */
static const char *sum_of(struct arena *a, const struct json *o, const char *what) {
    struct json *c;
    struct quantity sum = {0}, q;
    bool any = false;
    JSON_FOREACH(c, json_get(o, "containers")) {
        if (quantity_parse(str_or_empty(json_as_str(json_at(c, "usage", what, NULL))), &q)) continue;
        sum = any ? quantity_add(sum, q) : q;
        any = true;
    }
    return any ? quantity_format(a, sum) : "0";
}

static void usage_cells(struct arena *a, struct json *cells, const struct json *o) {
    static const char *const what[] = {"cpu", "memory"};
    for (size_t i = 0; i < ARRAY_LEN(what); i++) {
        struct json *of_node = json_at(o, "usage", what[i], NULL);
        json_append(a, cells, of_node ? of_node : json_str(a, sum_of(a, o, what[i])));
    }
    json_append(a, cells, json_get(o, "window"));
}

static struct json *table(struct request *q, const struct json *items) {
    struct arena *a = q->a;
    struct json *t = json_object(a), *columns = json_array(a), *rows = json_array(a), *o;
    bool whole = str_eq(http_query(q->http, "includeObject"), "Object"),
         none = str_eq(http_query(q->http, "includeObject"), "None");
    column(a, columns, "Name", "name", "Name of the resource");
    column(a, columns, "cpu", "quantity", "");
    column(a, columns, "memory", "quantity", "");
    column(a, columns, "Window", "duration", "");
    JSON_FOREACH(o, items) {
        struct json *row = json_object(a), *cells = json_array(a), *partial = json_object(a);
        json_append(a, cells, json_at(o, "metadata", "name", NULL));
        usage_cells(a, cells, o);
        json_set(a, row, "cells", cells);
        json_set_str(a, partial, "kind", "PartialObjectMetadata");
        json_set_str(a, partial, "apiVersion", "meta.k8s.io/v1");
        json_set(a, partial, "metadata", json_get(o, "metadata"));
        if (!none) json_set(a, row, "object", whole ? o : partial);
        json_append(a, rows, row);
    }
    json_set_str(a, t, "kind", "Table");
    json_set_str(a, t, "apiVersion", "meta.k8s.io/v1");
    json_set(a, t, "metadata", json_object(a));
    json_set(a, t, "columnDefinitions", columns);
    json_set(a, t, "rows", rows);
    return t;
}

/* ---- requests ---- */

typedef struct json *tree_fn(struct usage *u, struct arena *a, const struct json *of);

static int answer_list(struct request *q, struct usage *u, const struct resource *r, const char *kind, tree_fn *tree,
                       struct err *e) {
    _cleanup_wc_list_ struct wc_list l = {0};
    struct selector sel = {0};
    struct arena *a = q->a;
    struct json *doc = json_object(a), *items = json_array(a);
    int rc = selector_parse(a, r, http_query(q->http, "labelSelector"), http_query(q->http, "fieldSelector"), &sel, e);
    if (rc) return rc;
    watchcache_list(q->s->cache, r, q->ns, &sel, NULL, 0, &l);
    pthread_mutex_lock(&u->lock);
    usage_ask(u);
    for (size_t i = 0; i < l.n; i++) {
        struct json *o = tree(u, a, object_tree(a, l.items[i]));
        if (o) json_append(a, items, o);
    }
    pthread_mutex_unlock(&u->lock);
    json_set_str(a, doc, "kind", arena_printf(a, "%sList", kind));
    json_set_str(a, doc, "apiVersion", GROUP "/" VERSION);
    json_set(a, doc, "metadata", json_object(a));
    json_set(a, doc, "items", items);
    respond_tree(q, 200, NULL, q->as == AS_TABLE ? table(q, items) : doc);
    return 0;
}

static int answer_get(struct request *q, struct usage *u, const struct resource *r, tree_fn *tree, struct err *e) {
    _cleanup_object_ struct object *o = watchcache_get(q->s->cache, r, q->ns, q->name);
    struct json *v = NULL;
    pthread_mutex_lock(&u->lock);
    if (o) usage_ask(u);
    if (o) v = tree(u, q->a, object_tree(q->a, o));
    pthread_mutex_unlock(&u->lock);
    if (!v) {
        const char *name = q->ns ? arena_printf(q->a, "%s/%s", q->ns, q->name) : q->name;
        err_status(e, 404, "NotFound", "%s." GROUP " \"%s\" not found", r->plural, name);
        err_details(e, GROUP, r->plural, name);
        return -ENOENT;
    }
    struct json *items = json_array(q->a);
    json_append(q->a, items, v);
    respond_tree(q, 200, NULL, q->as == AS_TABLE ? table(q, items) : v);
    return 0;
}

static void handle(struct request *q, void *arg) {
    static const struct {
        const char *plural, *kind;
        tree_fn *tree;
        bool namespaced;
    } kinds[] = {{"nodes", "NodeMetrics", node_tree, false}, {"pods", "PodMetrics", pod_tree, true}};
    _cleanup_err_ struct err e = {0};
    size_t i = 0;
    if (!q->is_resource) {
        respond_json_text(q, 200, "application/json", usage_resources, strlen(usage_resources));
        return;
    }
    while (i < ARRAY_LEN(kinds) && !str_eq(kinds[i].plural, q->plural)) i++;
    bool get = str_eq(q->verb, "get"), list = str_eq(q->verb, "list");
    if (i == ARRAY_LEN(kinds) || q->subresource || (q->ns && !kinds[i].namespaced) ||
        (get && !q->ns && kinds[i].namespaced)) {
        err_status(&e, 404, "NotFound", "the server could not find the requested resource");
    } else if (!get && !list) {
        err_status(&e, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    } else if (!q->acceptable || q->as == AS_PARTIAL) {
        err_status(&e, 406, "NotAcceptable",
                   "only the following media types are accepted: application/json, application/yaml");
    } else {
        const struct resource *r = resource_find(q->s->resources, "", "v1", q->plural);
        if (get)
            answer_get(q, arg, r, kinds[i].tree, &e);
        else
            answer_list(q, arg, r, kinds[i].kind, kinds[i].tree, &e);
    }
    if (e.code) respond_err(q, &e);
}

void usage_serve(struct usage *u, struct aggregator *g) {
    static const struct agg_local local = {.group = GROUP,
                                           .version = VERSION,
                                           .group_priority = 100,
                                           .version_priority = 100,
                                           .resources = usage_resources,
                                           .definitions = usage_definitions,
                                           .paths = usage_paths,
                                           .handle = handle};
    aggregator_add_local(g, &local, u);
}
