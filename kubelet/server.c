/* Listening, routing, authentication; and the answers that are about the node as a whole. See server.h. */
#include "kubelet/safepath.h"
#include "kubelet/server_internal.h"

enum { WORKERS = 16, QUEUE = 256, BODY_MAX = 1024 * 1024 };

void respond_error(struct http_req *r, const struct err *e, int dflt) {
    int status = e->status ? e->status : dflt;
    http_respond_text(r, status, "%s\n", e->msg);
}

static void respond_json(struct http_req *r, const struct buf *b) {
    const struct http_header h[] = {{"content-type", "application/json"}};
    http_respond(r, 200, h, 1, b->data ? b->data : "", b->len, HTTP_GZIP);
}

static void respond_metrics(struct http_req *r, const struct buf *b) {
    const struct http_header h[] = {{"content-type", "text/plain; version=0.0.4; charset=utf-8"}};
    http_respond(r, 200, h, 1, b->data ? b->data : "", b->len, HTTP_GZIP);
}

static void route_healthz(struct request *r) { http_respond_text(r->http, 200, "ok"); }

static void route_stats(struct request *r) {
    if (r->n_parts != 1 || !str_eq(r->parts[0], "summary")) {
        http_respond_text(r->http, 404, "404 page not found\n");
        return;
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    stats_summary(r->s->stats, &b, str_eq(http_query(r->http, "only_cpu_and_memory"), "true"));
    respond_json(r->http, &b);
}

static void route_metrics(struct request *r) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    const char *which = r->n_parts ? r->parts[0] : "";
    if (str_eq(which, "")) {
        stats_metrics(r->s->stats, &b);
    } else if (str_eq(which, "resource")) {
        stats_resource_metrics(r->s->stats, &b);
    } else if (str_eq(which, "cadvisor")) {
        stats_cadvisor_metrics(r->s->kl, &b);
    } else if (!str_eq(which, "probes") && !str_eq(which, "slis")) {
        http_respond_text(r->http, 404, "404 page not found\n");
        return;
    }
    respond_metrics(r->http, &b);
}

/* The settings that an operator may want to compare, in the words of KubeletConfiguration. */
static void route_configz(struct request *r) {
    const struct kubelet_config *c = &r->s->kl->cfg;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *doc = json_object(a), *k = json_ensure_object(a, doc, "kubeletconfig"), *dns = json_array(a);
    json_set_str(a, k, "address", c->address);
    json_set_int(a, k, "port", c->port);
    json_set_str(a, k, "clusterDomain", c->cluster_domain);
    for (size_t i = 0; i < c->cluster_dns.n; i++) json_append(a, dns, json_str(a, c->cluster_dns.items[i]));
    json_set(a, k, "clusterDNS", dns);
    json_set_int(a, k, "maxPods", c->max_pods);
    json_set_str(a, k, "staticPodPath", str_or_empty(c->manifest_path));
    json_set_str(a, k, "resolvConf", c->resolv_conf);
    json_set_str(a, k, "cgroupRoot", c->cgroup_root);
    json_set_bool(a, k, "cgroupsPerQOS", c->cgroups_per_qos);
    json_set_int(a, k, "containerLogMaxFiles", c->log_max_files);
    json_set_int(a, k, "nodeLeaseDurationSeconds", c->lease_seconds);
    json_set_str(a, k, "kind", "KubeletConfiguration");
    json_set_str(a, k, "apiVersion", "kubelet.config.k8s.io/v1beta1");
    json_write(&b, doc);
    respond_json(r->http, &b);
}

/* DELETE localVolumes/NAME: the folder of a volume that coracle.io/local-path takes back. */
static void route_local_volumes(struct request *r) {
    const char *base = r->s->kl->cfg.local_path_dir, *name = r->n_parts == 1 ? r->parts[0] : NULL;
    _cleanup_err_ struct err e = {0};
    if (str_empty(base) || str_empty(name) || *name == '.' || strchr(name, '/')) {
        http_respond_text(r->http, 404, "404 page not found\n");
        return;
    }
    if (path_remove_tree(arena_printf(r->http->arena, "%s/%s", base, name), &e) < 0)
        respond_error(r->http, &e, 500);
    else
        http_respond_text(r->http, 200, "removed\n");
}

static const struct route {
    const char *name, *methods;
    route_fn *fn;
} routes[] = {
    {"healthz", "GET", route_healthz},
    {"pods", "GET", route_pods},
    {"runningpods", "GET", route_running_pods},
    {"containerLogs", "GET", route_logs},
    {"exec", "GET POST", route_exec},
    {"attach", "GET POST", route_attach},
    {"portForward", "GET POST", route_port_forward},
    {"run", "POST", route_run},
    {"stats", "GET", route_stats},
    {"metrics", "GET", route_metrics},
    {"configz", "GET", route_configz},
    {"localVolumes", "DELETE", route_local_volumes},
};

static bool split_path(struct request *r, const char **first) {
    const char *p = r->http->path;
    *first = "";
    for (size_t i = 0; *p; i++) {
        while (*p == '/') p++;
        size_t n = strcspn(p, "/");
        if (!n) break;
        const char *part = http_unescape(r->http->arena, p, n, false);
        if (!part || i > ROUTE_PARTS) return false;
        if (i == 0)
            *first = part;
        else
            r->parts[r->n_parts++] = part;
        p += n;
    }
    return true;
}

static void serve(void *arg) {
    struct request *r = arg;
    _cleanup_err_ struct err e = {0};
    const char *first;
    if (!split_path(r, &first)) {
        http_respond_text(r->http, 404, "404 page not found\n");
    } else if (server_auth_check(r->s->auth, r->http, &e) < 0) {
        respond_error(r->http, &e, 500);
    } else {
        const struct route *found = NULL;
        for (size_t i = 0; i < ARRAY_LEN(routes); i++)
            if (str_eq(routes[i].name, first)) found = &routes[i];
        if (!found)
            http_respond_text(r->http, 404, "404 page not found\n");
        else if (!strstr(found->methods, r->http->method))
            http_respond_text(r->http, 405, "405: Method Not Allowed\n");
        else
            found->fn(r);
    }
    free(r);
}

static void on_request(struct http_req *req, void *arg) {
    struct request *r = xcalloc(1, sizeof(*r));
    r->s = arg;
    r->http = req;
    if (http_dispatch(r->s->workers, serve, r) < 0) {
        free(r);
        http_respond_text(req, 503, "too many requests\n");
    }
}

struct kubelet_server *kubelet_server_new(struct kubelet *kl, const char *cert_file, const char *key_file,
                                          struct err *e) {
    struct kubelet_server *s = xcalloc(1, sizeof(*s));
    s->kl = kl;
    s->auth = server_auth_new(kl);
    s->stats = stats_new(kl);
    s->workers = http_workers_new(WORKERS, QUEUE);
    struct http_server_options o = {.handler = on_request, .arg = s, .limits = {.body_bytes = BODY_MAX}};
    s->http = http_server_new(&o);
    struct http_ca ca = {.file = kl->cfg.client_ca_file};
    struct http_listen l = {
        .address = kl->cfg.address, .port = (uint16_t)kl->cfg.port, .cert_file = cert_file, .key_file = key_file};
    if (!str_empty(kl->cfg.client_ca_file)) {
        l.client_cas = &ca;
        l.n_client_cas = 1;
    }
    int r = http_server_listen(s->http, &l, &s->listener, e);
    if (r == 0) r = http_server_start(s->http, e);
    if (r < 0) {
        kubelet_server_free(s);
        return NULL;
    }
    return s;
}

void kubelet_server_reload(struct kubelet_server *s) {
    _cleanup_err_ struct err e = {0};
    if (s && http_server_reload_tls(s->http, s->listener, &e) < 0)
        log_warn("cannot load the serving certificate", "error", e.msg, NULL);
}

uint16_t kubelet_server_port(struct kubelet_server *s) { return http_server_port(s->http, s->listener); }

void kubelet_server_free(struct kubelet_server *s) {
    if (!s) return;
    http_server_free(s->http);
    http_workers_free(s->workers);
    while (s->streams) usleep(10000); /* followers notice that their clients are gone */
    server_auth_free(s->auth);
    stats_free(s->stats);
    free(s);
}
