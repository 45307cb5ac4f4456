/* Passing requests on: headers, answers, upgrades, and where a Service is. Upstream:
 * apimachinery/pkg/util/proxy and pkg/registry/core/service/proxy. */
#include "apiserver/forward.h"

bool forward_hop_by_hop(const char *name) {
    static const char *const names[] = {"connection", "keep-alive",     "proxy-authenticate", "proxy-authorization",
                                        "te",         "trailer",        "transfer-encoding",  "upgrade",
                                        "host",       "content-length", "authorization"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcasecmp(name, names[i]) == 0) return true;
    return false;
}

size_t forward_headers(struct request *q, bool upgrade, struct http_header **out) {
    struct http_header *h = arena_alloc(q->a, (q->http->n_headers + 2) * sizeof(*h));
    size_t n = 0;
    for (size_t i = 0; i < q->http->n_headers; i++) {
        const struct http_header *x = &q->http->headers[i];
        bool is_upgrade = str_eq(x->name, "connection") || str_eq(x->name, "upgrade");
        if (str_has_prefix(x->name, "impersonate-")) continue;
        if (upgrade && str_eq(x->name, "sec-websocket-protocol") && strstr(x->value, "base64url.bearer")) continue;
        if (forward_hop_by_hop(x->name) && !(upgrade && is_upgrade)) continue;
        h[n++] = *x;
    }
    *out = h;
    return n;
}

void forward_answer(struct request *q, const struct http_resp *r) {
    struct http_header *h = arena_alloc(q->a, (r->n_headers + 1) * sizeof(*h));
    size_t n = 0;
    for (size_t i = 0; i < r->n_headers; i++)
        if (!forward_hop_by_hop(r->headers[i].name) && !str_eq(r->headers[i].name, "date")) h[n++] = r->headers[i];
    http_respond(q->http, r->status, h, n, str_or_empty(r->body.data), r->body.len, 0);
}

void forward_join(struct request *q, const struct http_resp *r, int *fd) {
    _cleanup_err_ struct err e = {0};
    _cleanup_buf_ struct buf head = BUF_INIT;
    buf_adds(&head, "HTTP/1.1 101 Switching Protocols\r\n");
    for (size_t i = 0; i < r->n_headers; i++) buf_printf(&head, "%s: %s\r\n", r->headers[i].name, r->headers[i].value);
    buf_adds(&head, "\r\n");
    if (http_tunnel(q->http, head.data, head.len, *fd, &e) == 0) {
        *fd = -1; /* the server's now */
        return;
    }
    e.status = 400;
    e.reason = "BadRequest";
    respond_err(q, &e);
}

/* ---- Services ---- */

static struct json *find(struct apiserver *s, struct arena *a, const char *plural, const char *ns, const char *name) {
    const struct resource *r = resource_find(s->resources, "", "v1", plural);
    _cleanup_object_ struct object *o = watchcache_get(s->cache, r, ns, name);
    return o ? object_tree(a, o) : NULL;
}

/* The Service's port of this number or name; "" takes the first. */
static const struct json *find_port(const struct json *svc, const char *port) {
    struct json *p;
    int64_t number;
    bool numeric = str_to_i64(port, &number) == 0;
    JSON_FOREACH(p, json_at(svc, "spec", "ports", NULL)) {
        const char *name = str_or_empty(json_get_str(p, "name"));
        if (!*port || str_eq(name, port) || (numeric && json_get_int(p, "port", 0) == number)) return p;
    }
    return NULL;
}

static const char *host_port(struct arena *a, const char *host, int64_t port) {
    return arena_printf(a, strchr(host, ':') ? "[%s]:%lld" : "%s:%lld", host, (long long)port);
}

static const char *slice_endpoint(struct arena *a, const struct json *slice, const char *port_name) {
    struct json *p, *x;
    int64_t number = 0;
    JSON_FOREACH(p, json_get(slice, "ports")) {
        if (str_eq(str_or_empty(json_get_str(p, "name")), port_name)) number = json_get_int(p, "port", 0);
    }
    JSON_FOREACH(x, json_get(slice, "endpoints")) {
        const char *ip = json_as_str(json_item(json_get(x, "addresses"), 0));
        if (number && !str_empty(ip) && json_get_bool(json_get(x, "conditions"), "ready", true))
            return host_port(a, ip, number);
    }
    return NULL;
}

/* Endpoints that somebody wrote by hand, where no controller mirrors them. */
static const char *endpoints_endpoint(struct arena *a, const struct json *endpoints, const char *port_name) {
    struct json *s, *p;
    JSON_FOREACH(s, json_get(endpoints, "subsets")) {
        const char *ip = json_get_str(json_item(json_get(s, "addresses"), 0), "ip");
        JSON_FOREACH(p, json_get(s, "ports")) {
            if (!str_empty(ip) && str_eq(str_or_empty(json_get_str(p, "name")), port_name))
                return host_port(a, ip, json_get_int(p, "port", 0));
        }
    }
    return NULL;
}

static const char *endpoint_of(struct apiserver *s, struct arena *a, const char *ns, const char *name,
                               const char *port_name) {
    const struct resource *slices = resource_find(s->resources, "discovery.k8s.io", "v1", "endpointslices");
    struct selector sel = {0};
    _cleanup_wc_list_ struct wc_list l = {0};
    const char *at = NULL;
    if (selector_parse_labels(a, arena_printf(a, "kubernetes.io/service-name=%s", name), &sel, NULL) == 0)
        watchcache_list(s->cache, slices, ns, &sel, NULL, 0, &l);
    for (size_t i = 0; i < l.n && !at; i++) at = slice_endpoint(a, object_tree(a, l.items[i]), port_name);
    return at || l.n ? at : endpoints_endpoint(a, find(s, a, "endpoints", ns, name), port_name);
}

const char *forward_service(struct apiserver *s, struct arena *a, const char *ns, const char *name, const char *port,
                            bool cluster_ip, struct err *e) {
    struct json *svc = find(s, a, "services", ns, name);
    int64_t number = 0;
    if (!svc) {
        err_not_found(e, resource_find(s->resources, "", "v1", "services"), name);
        return NULL;
    }
    const char *external = json_as_str(json_at(svc, "spec", "externalName", NULL));
    if (str_eq(json_as_str(json_at(svc, "spec", "type", NULL)), "ExternalName") && str_to_i64(port, &number) == 0)
        return host_port(a, str_or_empty(external), number);
    const struct json *p = find_port(svc, port);
    if (!p) {
        err_status(e, 503, "ServiceUnavailable", "no service port found for service \"%s\"", name);
        return NULL;
    }
    const char *at = endpoint_of(s, a, ns, name, str_or_empty(json_get_str(p, "name")));
    const char *ip = str_or_empty(json_as_str(json_at(svc, "spec", "clusterIP", NULL)));
    if (at) return at;
    if (cluster_ip && *ip && !str_eq(ip, "None")) return host_port(a, ip, json_get_int(p, "port", 0));
    err_status(e, 503, "ServiceUnavailable", "no endpoints available for service \"%s\"", name);
    return NULL;
}
