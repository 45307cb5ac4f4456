/* log, exec, attach, portforward, proxy.
 *
 * exec, attach and port-forward are upgrades: the request is repeated to the kubelet with the same Upgrade headers
 * (SPDY/3.1 or WebSocket), and when it answers 101 the two connections are joined byte for byte; the protocol inside is
 * the kubelet's affair. Logs are streamed, to browsers through a WebSocket. proxy repeats the request to a pod, a Service's endpoint or a kubelet. */
#include "apiserver/kubelet.h"

#include "apiserver/forward.h"
#include "apiserver/handlers.h"
#include "apiserver/rewrite.h"
#include "apiserver/write.h"
#include "pkg/http/client.h"
#include "pkg/stream/wsout.h"

enum { KUBELET_PORT = 10250, UPGRADE_MS = 30000, PROXY_MS = 60000, PROXY_BODY_MAX = 256 << 20 };

struct kubelet_client {
    struct http_client *kubelets, *plain; /* plain: to pods and Services, without a client certificate */
};

int kubelet_client_new(const struct apiserver_options *o, struct kubelet_client **out, struct err *e) {
    struct http_client_options ko = {.ca_file = o->kubelet_ca,
                                     .cert_file = o->kubelet_cert,
                                     .key_file = o->kubelet_key,
                                     .insecure = str_empty(o->kubelet_ca),
                                     .user_agent = "kube-apiserver"};
    struct http_client_options po = {.insecure = true};
    struct kubelet_client *k = xcalloc(1, sizeof(*k));
    k->kubelets = http_client_new(&ko, e);
    k->plain = k->kubelets ? http_client_new(&po, e) : NULL;
    if (!k->plain) {
        kubelet_client_free(k);
        return e && e->code ? e->code : -EIO;
    }
    *out = k;
    return 0;
}

void kubelet_client_free(struct kubelet_client *k) {
    if (!k) return;
    http_client_free(k->kubelets);
    http_client_free(k->plain);
    free(k);
}

/* ---- where ---- */

static struct json *find_in(struct apiserver *s, struct arena *a, const char *plural, const char *ns,
                            const char *name) {
    const struct resource *r = resource_find(s->resources, "", "v1", plural);
    _cleanup_object_ struct object *o = watchcache_get(s->cache, r, ns, name);
    return o ? object_tree(a, o) : NULL;
}

static struct json *find(struct request *q, const char *plural, const char *ns, const char *name) {
    return find_in(q->s, q->a, plural, ns, name);
}

/* "https://10.0.0.5:10250" of a node's kubelet. */
static const char *url_of(struct apiserver *s, struct arena *a, const char *node, struct err *e) {
    static const char *const order[] = {"InternalIP", "Hostname", "ExternalIP"};
    struct json *n = find_in(s, a, "nodes", NULL, node), *x;
    if (!n) {
        err_not_found(e, resource_find(s->resources, "", "v1", "nodes"), node);
        return NULL;
    }
    long long port =
        json_as_int(json_at(n, "status", "daemonEndpoints", "kubeletEndpoint", "Port", NULL), KUBELET_PORT);
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        JSON_FOREACH(x, json_at(n, "status", "addresses", NULL)) {
            const char *at = json_get_str(x, "address");
            if (!str_eq(json_get_str(x, "type"), order[i]) || str_empty(at)) continue;
            return arena_printf(a, strchr(at, ':') ? "https://[%s]:%lld" : "https://%s:%lld", at,
                                port ? port : KUBELET_PORT);
        }
    }
    err_status(e, 500, "InternalError", "no preferred addresses found for node \"%s\"", node);
    return NULL;
}

static const char *kubelet_url(struct request *q, const char *node, struct err *e) {
    return url_of(q->s, q->a, node, e);
}

int kubelet_get(struct apiserver *s, struct arena *a, const char *node, const char *path, struct http_resp *r,
                struct http_cancel *cancel, unsigned timeout_ms, struct err *e) {
    const char *base = url_of(s, a, node, e);
    if (!base) return -ENOENT;
    return http_client_exchange(s->kubelets->kubelets, "GET", arena_printf(a, "%s%s", base, path), NULL, 0, NULL, 0,
                                NULL, r, cancel, timeout_ms, e);
}

/* The container asked for, or the pod's only or default one. */
static const char *choose_container(struct request *q, const struct json *pod, struct err *e) {
    static const char *const lists[] = {"containers", "initContainers", "ephemeralContainers"};
    const char *want = http_query(q->http, "container");
    const struct json *containers = json_at(pod, "spec", "containers", NULL);
    struct json *c;
    if (str_empty(want)) {
        const char *dflt =
            json_as_str(json_at(pod, "metadata", "annotations", "kubectl.kubernetes.io/default-container", NULL));
        if (json_len(containers) == 1) return json_get_str(json_item(containers, 0), "name");
        JSON_FOREACH(c, containers) {
            if (dflt && str_eq(json_get_str(c, "name"), dflt)) return dflt;
        }
        _cleanup_buf_ struct buf names = BUF_INIT;
        JSON_FOREACH(c, containers)
            buf_printf(&names, "%s%s", names.len ? " " : "", str_or_empty(json_get_str(c, "name")));
        err_status(e, 400, "BadRequest", "a container name must be specified for pod %s, choose one of: [%s]", q->name,
                   str_or_empty(names.data));
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(c, json_at(pod, "spec", lists[i], NULL)) {
            if (str_eq(json_get_str(c, "name"), want)) return want;
        }
    err_status(e, 400, "BadRequest", "container %s is not valid for pod %s", want, q->name);
    return NULL;
}

static struct json *the_pod(struct request *q, struct err *e) {
    if (watchcache_sync(q->s->cache, e)) return NULL;
    struct json *pod = find(q, "pods", q->ns, q->name);
    if (!pod) err_not_found(e, q->res, q->name);
    return pod;
}

/* ---- passing on ---- */

/* An answer of the back end that is an error: its text becomes the message of a Status. */
static void respond_back_end(struct request *q, const struct http_resp *r) {
    _cleanup_err_ struct err e = {0};
    static const char *const reasons[][2] = {
        {"400", "BadRequest"},       {"401", "Unauthorized"}, {"403", "Forbidden"},         {"404", "NotFound"},
        {"405", "MethodNotAllowed"}, {"409", "Conflict"},     {"503", "ServiceUnavailable"}};
    char code[12];
    const char *reason = "InternalError";
    snprintf(code, sizeof(code), "%d", r->status);
    for (size_t i = 0; i < ARRAY_LEN(reasons); i++)
        if (str_eq(code, reasons[i][0])) reason = reasons[i][1];
    err_status(&e, r->status, reason, "%.*s", (int)(r->body.len > 900 ? 900 : r->body.len), str_or_empty(r->body.data));
    respond_err(q, &e);
}

static void upgrade_to(struct request *q, struct http_client *c, const char *url) {
    _cleanup_err_ struct err e = {0};
    _cleanup_http_resp_ struct http_resp r = {0};
    _cleanup_close_ int fd = -1;
    struct http_header *h;
    size_t n = forward_headers(q, true, &h);
    if (http_client_upgrade(c, q->http->method, url, h, n, q->http->body, q->http->body_len, &r, &fd, UPGRADE_MS, &e)) {
        err_wrap(&e, "error dialing backend");
        e.status = 500;
        e.reason = "InternalError";
        respond_err(q, &e);
        return;
    }
    if (r.status != 101 || fd < 0)
        respond_back_end(q, &r);
    else
        forward_join(q, &r, &fd);
}

/* ---- exec, attach, portforward ---- */

static void add_param(struct request *q, struct buf *url, const char *name, const char *value) {
    buf_addc(url, strchr(url->data, '?') ? '&' : '?');
    buf_printf(url, "%s=%s", name, http_escape(q->a, (char *)str_or_empty(value)));
}

static void stream_params(struct request *q, struct buf *url) {
    static const char *const flags[][2] = {
        {"stdin", "input"}, {"stdout", "output"}, {"stderr", "error"}, {"tty", "tty"}};
    size_t it = 0;
    const char *name, *value;
    while (http_query_next(q->http, &it, &name, &value)) {
        for (size_t i = 0; i < ARRAY_LEN(flags); i++)
            if (str_eq(name, flags[i][0]) && request_true(value)) add_param(q, url, flags[i][1], "1");
        if (str_eq(name, "command")) add_param(q, url, "command", value);
        if (str_eq(name, "ports") || str_eq(name, "port")) add_param(q, url, "port", value);
    }
}

static void handle_stream(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_buf_ struct buf url = BUF_INIT;
    bool forward = str_eq(q->sub->name, "portforward");
    struct json *pod = the_pod(q, &e);
    const char *node = json_as_str(json_at(pod, "spec", "nodeName", NULL)), *container = NULL, *base = NULL;
    if (pod && str_empty(node))
        err_status(&e, 400, "BadRequest", "pod %s does not have a host assigned", q->name);
    else if (pod && !forward)
        container = choose_container(q, pod, &e);
    if (!e.code) base = kubelet_url(q, node, &e);
    if (!e.code && !http_header_has_token(q->http, "connection", "upgrade"))
        err_status(&e, 400, "BadRequest", "Upgrade request required");
    if (e.code) {
        respond_err(q, &e);
        return;
    }
    if (forward)
        buf_printf(&url, "%s/portForward/%s/%s", base, q->ns, q->name);
    else
        buf_printf(&url, "%s/%s/%s/%s/%s", base, q->sub->name, q->ns, q->name, container);
    stream_params(q, &url);
    upgrade_to(q, q->s->kubelets->kubelets, url.data);
}

/* ---- log ---- */

struct log_stream {
    struct request *q;
    struct wsout *ws; /* in place of the answer's body */
    bool begun, refused;
};

static int log_head(const struct http_resp *resp, void *arg) {
    struct log_stream *l = arg;
    if (resp->status != 200) return 0;
    if (http_wants_upgrade(l->q->http, "websocket")) {
        l->refused = wsout_upgrade(l->q->http, l->q->cancel, &l->ws, NULL) < 0;
        return l->refused ? -EPROTO : 0;
    }
    struct http_header h[] = {{"Content-Type", "text/plain"}, {"Cache-Control", "no-cache, private"}};
    http_stream_begin(l->q->http, 200, h, ARRAY_LEN(h), 0);
    l->begun = true;
    return 0;
}

enum { LOG_QUEUE_HIGH = 4 << 20, LOG_PAUSE_US = 5000 };

static int log_data(const char *p, size_t n, void *arg) {
    struct log_stream *l = arg;
    if (l->ws) return wsout_write(l->ws, p, n);
    while (http_stream_queued(l->q->http) > LOG_QUEUE_HIGH && !http_req_closed(l->q->http)) usleep(LOG_PAUSE_US);
    return http_stream_write_copy(l->q->http, p, n);
}

static void cancel_log(struct http_req *r, void *arg) { http_cancel_set(arg); }

static void handle_log(struct request *q) {
    static const char *const params[] = {"follow",     "previous",  "sinceSeconds", "sinceTime",
                                         "timestamps", "tailLines", "limitBytes",   "stream"};
    _cleanup_err_ struct err e = {0};
    _cleanup_buf_ struct buf url = BUF_INIT;
    struct json *pod = the_pod(q, &e);
    const char *container = pod ? choose_container(q, pod, &e) : NULL, *base = NULL;
    const char *node = json_as_str(json_at(pod, "spec", "nodeName", NULL));
    if (!e.code && str_empty(node)) { /* not on a node yet: no lines */
        http_respond(q->http, 200, (struct http_header[]){{"Content-Type", "text/plain"}}, 1, "", 0, 0);
        return;
    }
    if (!e.code) base = kubelet_url(q, node, &e);
    if (e.code) {
        respond_err(q, &e);
        return;
    }
    buf_printf(&url, "%s/containerLogs/%s/%s/%s", base, q->ns, q->name, container);
    for (size_t i = 0; i < ARRAY_LEN(params); i++) {
        const char *v = http_query(q->http, params[i]);
        if (v) add_param(q, &url, params[i], v);
    }
    struct log_stream l = {.q = q};
    struct http_stream_cb cb = {log_head, log_data, &l};
    _cleanup_http_resp_ struct http_resp r = {0};
    struct http_req *held = http_req_ref(q->http); /* an upgrade finishes the request, which holds q and its cancel */
    int rc = http_client_stream(q->s->kubelets->kubelets, url.data, NULL, 0, &cb, &r, q->cancel, 0, &e);
    if (l.begun) {
        http_stream_end(q->http);
    } else if (l.ws || l.refused) {
        wsout_finish(l.ws);
    } else if (rc) {
        err_wrap(&e, "Get \"%s\"", url.data);
        e.status = 500;
        e.reason = "InternalError";
        respond_err(q, &e);
    } else {
        respond_back_end(q, &r);
    }
    http_req_unref(held);
}

/* ---- proxy ---- */

/* "name", "name:port", "scheme:name:port" */
static void split_target(struct request *q, const char **scheme, const char **name, const char **port) {
    char *s = arena_strdup(q->a, q->name), *first = strchr(s, ':'), *second = first ? strchr(first + 1, ':') : NULL;
    *scheme = "http";
    *name = s;
    *port = "";
    if (!first) return;
    *first = 0;
    if (second) {
        *second = 0;
        *scheme = *s ? s : "http";
        *name = first + 1;
        *port = second + 1;
    } else {
        *port = first + 1;
    }
}

static const char *pod_target(struct request *q, const char *scheme, const char *name, const char *port,
                              struct err *e) {
    struct json *pod = find(q, "pods", q->ns, name);
    const char *ip = json_as_str(json_at(pod, "status", "podIP", NULL));
    if (!pod) {
        err_not_found(e, q->res, name);
        return NULL;
    }
    if (str_empty(ip)) {
        err_status(e, 400, "BadRequest", "address not allowed: pod %s has no IP", name);
        return NULL;
    }
    if (str_empty(port)) {
        const struct json *first = json_at(json_item(json_at(pod, "spec", "containers", NULL), 0), "ports", NULL);
        int64_t p = json_get_int(json_item(first, 0), "containerPort", 80);
        port = arena_printf(q->a, "%lld", (long long)p);
    }
    return arena_printf(q->a, strchr(ip, ':') ? "%s://[%s]:%s" : "%s://%s:%s", scheme, ip, port);
}

/* The target's own idea of its place is corrected: links of a page, and where a redirect goes. */
static void answer_proxied(struct request *q, const char *base, struct http_resp *r) {
    size_t whole = strlen(q->http->path), rest = strlen(q->rest);
    const struct rewrite w = {.prefix = arena_strndup(q->a, q->http->path, whole - rest),
                              .target = strstr(base, "://") + 3,
                              .host = q->http->host,
                              .scheme = q->http->tls ? "https" : "http"};
    const char *type = http_resp_header(r, "content-type");
    for (size_t i = 0; i < r->n_headers; i++)
        if (str_eq(r->headers[i].name, "location")) r->headers[i].value = rewrite_url(q->a, &w, r->headers[i].value);
    if (type && strncasecmp(type, "text/html", 9) == 0 && !http_resp_header(r, "content-encoding") && r->body.len) {
        struct buf page = BUF_INIT;
        rewrite_html(&w, r->body.data, r->body.len, &page);
        buf_done(&r->body);
        r->body = page;
    }
    forward_answer(q, r);
}

/* A page's links are relative to a path that ends in a slash. */
static bool redirect_to_slash(struct request *q) {
    if (*q->rest || (!str_eq(q->http->method, "GET") && !str_eq(q->http->method, "HEAD"))) return false;
    const char *to = arena_printf(q->a, "%s/%s%s", q->http->path, *q->http->query ? "?" : "", q->http->query);
    http_respond(q->http, 301, (struct http_header[]){{"Location", to}}, 1, "", 0, 0);
    return true;
}

static void handle_proxy(struct request *q) {
    _cleanup_err_ struct err e = {0};
    const char *scheme, *name, *port, *base;
    struct http_client *c = q->s->kubelets->plain;
    split_target(q, &scheme, &name, &port);
    if (str_eq(q->res->plural, "nodes")) {
        base = kubelet_url(q, name, &e);
        c = q->s->kubelets->kubelets;
    } else if (str_eq(q->res->plural, "pods")) {
        base = pod_target(q, scheme, name, port, &e);
    } else {
        const char *at = forward_service(q->s, q->a, q->ns, name, port, false, &e);
        base = at ? arena_printf(q->a, "%s://%s", scheme, at) : NULL;
    }
    if (!base) {
        respond_err(q, &e);
        return;
    }
    const char *url =
        arena_printf(q->a, "%s%s%s%s", base, *q->rest ? q->rest : "/", *q->http->query ? "?" : "", q->http->query);
    if (http_header_has_token(q->http, "connection", "upgrade")) {
        upgrade_to(q, c, url);
        return;
    }
    if (redirect_to_slash(q)) return;
    _cleanup_http_resp_ struct http_resp r = {.body.limit = PROXY_BODY_MAX};
    struct http_header *h;
    size_t n = 0;
    for (size_t i = 0, all = forward_headers(q, false, &h); i < all; i++) /* pages are read here */
        if (!str_eq(h[i].name, "accept-encoding")) h[n++] = h[i];
    if (http_client_do(c, q->http->method, url, h, n, q->http->body, q->http->body_len, &r, PROXY_MS, &e)) {
        err_wrap(&e, "error trying to reach service");
        e.status = 503;
        e.reason = "ServiceUnavailable";
        respond_err(q, &e);
        return;
    }
    answer_proxied(q, base, &r);
}

/* ---- entry ---- */

static void free_cancel(void *p) {
    http_cancel_done(p);
    free(p);
}

void kubelet_prepare(struct request *q) {
    if (!str_eq(q->sub->name, "log")) return;
    struct http_cancel *x = xcalloc(1, sizeof(*x));
    if (http_cancel_init(x, NULL)) {
        free(x);
        return;
    }
    http_req_set_data(q->http, x, free_cancel);
    http_req_on_close(q->http, cancel_log, x);
    q->cancel = x;
}

/* What the query says, as the options object that admission sees. */
static struct json *connect_options(struct request *q) {
    static const char *const flags[] = {"stdin", "stdout", "stderr", "tty"};
    struct arena *a = q->a;
    struct json *o = json_object(a);
    const char *name, *value;
    size_t it = 0;
    json_set_str(a, o, "kind", q->sub->kind);
    json_set_str(a, o, "apiVersion", "v1");
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (request_query_bool(q, flags[i])) json_set_bool(a, o, flags[i], true);
    if (str_eq(q->sub->name, "proxy") && *q->rest) json_set_str(a, o, "path", q->rest);
    while (http_query_next(q->http, &it, &name, &value)) {
        int64_t port;
        if (str_eq(name, "container"))
            json_set_str(a, o, "container", value);
        else if (str_eq(name, "command"))
            json_append(a, json_ensure_array(a, o, "command"), json_str(a, value));
        else if (str_eq(name, "ports") && str_to_i64(value, &port) == 0)
            json_append(a, json_ensure_array(a, o, "ports"), json_int(a, port));
    }
    return o;
}

static int admit_connect(struct request *q, struct err *e) {
    struct rules_kind kind = {"", "v1", q->sub->kind, q->res->plural, q->res->namespaced};
    return write_admit_body(q, RULES_CONNECT, &kind, q->sub->name, false, connect_options(q), NULL, e);
}

void handle_kubelet(struct request *q) {
    _cleanup_err_ struct err e = {0};
    if (!str_eq(q->sub->name, "log") && admit_connect(q, &e)) {
        respond_err(q, &e);
        return;
    }
    if (str_eq(q->sub->name, "log"))
        handle_log(q);
    else if (str_eq(q->sub->name, "proxy"))
        handle_proxy(q);
    else
        handle_stream(q);
}
