/* Listening, routing, authentication; and the answers that are about the node as a whole. See server.h. */
#include "kubelet/config_file.h"
#include "kubelet/prober.h"
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

/* /healthz and its parts: /healthz/ping, /healthz/log, /healthz/syncloop. */
static bool is_healthz(const char *path) {
    static const char *const paths[] = {"/healthz", "/healthz/", "/healthz/ping", "/healthz/log", "/healthz/syncloop"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (str_eq(path, paths[i])) return true;
    return false;
}

static void route_healthz(struct request *r) {
    if (is_healthz(r->http->path))
        http_respond_text(r->http, 200, "ok");
    else
        http_respond_text(r->http, 404, "404 page not found\n");
}

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
        metrics_write(r->s->kl, &b);
    } else if (str_eq(which, "resource")) {
        stats_resource_metrics(r->s->stats, &b);
    } else if (str_eq(which, "cadvisor")) {
        stats_cadvisor_metrics(r->s->kl, &b);
    } else if (str_eq(which, "probes")) {
        prober_metrics(r->s->kl->prober, &b);
    } else if (!str_eq(which, "slis")) {
        http_respond_text(r->http, 404, "404 page not found\n");
        return;
    }
    respond_metrics(r->http, &b);
}

/* The settings, in the words of KubeletConfiguration. */
static void route_configz(struct request *r) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *doc = json_object(a), *k = config_file_show(a, &r->s->kl->cfg);
    json_set_str(a, k, "kind", "KubeletConfiguration");
    json_set_str(a, k, "apiVersion", "kubelet.config.k8s.io/v1beta1");
    json_set(a, doc, "kubeletconfig", k);
    json_write(&b, doc);
    respond_json(r->http, &b);
}

/* Checkpoints of containers (CRIU) are not made; upstream's answer where the runtime cannot. */
static void route_checkpoint(struct request *r) {
    http_respond_text(r->http, 500, "checkpointing of containers is not supported\n");
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
    bool debugging; /* only with enableDebuggingHandlers */
} routes[] = {
    {"healthz", "GET", route_healthz},
    {"pods", "GET", route_pods},
    {"runningpods", "GET", route_running_pods, true},
    {"containerLogs", "GET", route_logs, true},
    {"exec", "GET POST", route_exec, true},
    {"attach", "GET POST", route_attach, true},
    {"portForward", "GET POST", route_port_forward, true},
    {"run", "POST", route_run, true},
    {"stats", "GET", route_stats},
    {"metrics", "GET", route_metrics},
    {"configz", "GET", route_configz},
    {"checkpoint", "POST", route_checkpoint, true},
    {"localVolumes", "DELETE", route_local_volumes},
    {"logs", "GET", route_system_logs, true},
    {"debug", "PUT", route_debug, true},
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
        if (i == 0 && str_eq(part, "logs")) {
            *first = part; /* what follows is a file's path, however deep */
            return true;
        }
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
        else if (found->debugging && !r->s->kl->cfg.debug_handlers)
            http_respond_text(r->http, 405, "Debug endpoints are disabled.\n");
        else
            found->fn(r);
    }
    free(r);
}

static void on_request(struct http_req *req, void *arg) {
    if (!req->tls) { /* healthzPort */
        bool ok = is_healthz(req->path) && (str_eq(req->method, "GET") || str_eq(req->method, "HEAD"));
        http_respond_text(req, ok ? 200 : 404, ok ? "ok" : "404 page not found\n");
        return;
    }
    struct request *r = xcalloc(1, sizeof(*r));
    r->s = arg;
    r->http = req;
    if (http_dispatch(r->s->workers, serve, r) < 0) {
        free(r);
        http_respond_text(req, 503, "too many requests\n");
    }
}

/* For probes of this machine (kubeadm, systemd units). Another kubelet may have the port: that is no reason to fail. */
static void listen_healthz(struct kubelet_server *s) {
    const struct kubelet_config *c = &s->kl->cfg;
    struct http_listen l = {.address = c->healthz_address, .port = (uint16_t)c->healthz_port};
    _cleanup_err_ struct err e = {0};
    int id;
    if (c->healthz_port && http_server_listen(s->http, &l, &id, &e) < 0)
        log_warn("/healthz is not served without TLS", "error", e.msg, NULL);
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
    struct http_listen l = {.address = kl->cfg.address,
                            .port = (uint16_t)kl->cfg.port,
                            .cert_file = cert_file,
                            .key_file = key_file,
                            .tls13_only = kl->cfg.tls13};
    if (!str_empty(kl->cfg.client_ca_file)) {
        l.client_cas = &ca;
        l.n_client_cas = 1;
    }
    int r = http_server_listen(s->http, &l, &s->listener, e);
    if (r == 0) listen_healthz(s);
    if (r == 0) r = http_server_start(s->http, e);
    if (r < 0) {
        kubelet_server_free(s);
        return NULL;
    }
    return s;
}

void kubelet_server_reload(struct kubelet_server *s, const char *pem_file) {
    _cleanup_err_ struct err e = {0};
    _cleanup_free_ char *pem = NULL;
    if (!s) return;
    int r = pem_file ? file_read(pem_file, BODY_MAX, &pem, NULL) : 0;
    if (r < 0)
        err_errno(&e, r, "read %s", pem_file);
    else
        r = http_server_set_tls(s->http, s->listener, pem, pem, NULL, 0, &e);
    if (r < 0)
        log_warn("cannot load the serving certificate", "error", e.msg, NULL);
    else
        log_info("serving certificate loaded", NULL);
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
