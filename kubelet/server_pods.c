/* The server's routes about pods: logs, exec, attach, port-forward, run, pods. See server.h. */
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>

#include "kubelet/logs.h"
#include "kubelet/server_internal.h"

enum { MAX_STREAMS = 256, HEAD_MAX = 16384, CONNECT_MS = 10000, LOG_QUEUE_MAX = 1024 * 1024, MAX_COMMAND = 1000 };

/* ---- finding what the request names ---- */

/* The pod's object and status, in the request's arena. -ENOENT as a 404. */
static int find_pod(struct request *r, const char *ns, const char *name, const char *uid, struct object **obj,
                    struct core_pod_status **st, struct err *e) {
    struct pod_worker *w = pods_by_name(r->s->kl->pods, ns, name);
    if (w && uid && !str_eq(w->uid, uid)) {
        worker_unref(w);
        w = NULL;
    }
    if (!w) return err_status(e, 404, "NotFound", "pod \"%s\" not found", name);
    *obj = worker_pod(w);
    *st = worker_status(w, r->http->arena);
    if (!*st) *st = arena_zalloc(r->http->arena, sizeof(**st));
    worker_unref(w);
    return 0;
}

/* {ns}/{pod}/{container} or {ns}/{pod}/{uid}/{container} */
static int find_container(struct request *r, struct core_container_status **c, struct err *e) {
    if (r->n_parts != 3 && r->n_parts != 4) return err_status(e, 404, "NotFound", "404 page not found");
    const char *name = r->parts[r->n_parts - 1];
    _cleanup_object_ struct object *o = NULL;
    struct core_pod_status *st;
    int rc = find_pod(r, r->parts[0], r->parts[1], r->n_parts == 4 ? r->parts[2] : NULL, &o, &st, e);
    if (rc < 0) return rc;
    *c = status_container(st, name);
    if (!*c)
        return err_status(e, 404, "NotFound", "container \"%s\" not found in pod \"%s_%s\"", name, r->parts[1],
                          r->parts[0]);
    return 0;
}

static int running_container(struct request *r, const char **id, struct err *e) {
    struct core_container_status *c;
    int rc = find_container(r, &c, e);
    if (rc < 0) return rc;
    if (!c->state.running) return err_status(e, 500, "InternalError", "container not found (\"%s\")", c->name);
    *id = status_cri_id(c->container_id);
    return 0;
}

static bool flag(struct request *r, const char *a, const char *b) {
    const char *v = http_query(r->http, a);
    if (!v) v = http_query(r->http, b);
    return v && !str_eq(v, "0") && strcasecmp(v, "false") != 0; /* clients say 1, true, True */
}

/* ---- logs ---- */

/* Which instance's log is meant; its runtime id. */
static int log_instance(const struct core_container_status *c, const char *pod, bool previous, const char **id,
                        struct err *e) {
    const struct core_container_state_terminated *last = c->last_state.terminated;
    const char *found = NULL;
    if (previous) {
        if (!last || str_empty(last->container_id))
            return err_status(e, 400, "BadRequest", "previous terminated container \"%s\" in pod \"%s\" not found",
                              c->name, pod);
        found = last->container_id;
    } else if (c->state.running) {
        found = c->container_id;
    } else if (c->state.terminated && !str_empty(c->state.terminated->container_id)) {
        found = c->state.terminated->container_id;
    } else if (last && !str_empty(last->container_id)) {
        found = last->container_id;
    } else if (c->state.waiting && str_eq(c->state.waiting->reason, "ErrImagePull")) {
        return err_status(e, 400, "BadRequest",
                          "container \"%s\" in pod \"%s\" is waiting to start: image can't be pulled", c->name, pod);
    } else if (c->state.waiting && str_eq(c->state.waiting->reason, "ImagePullBackOff")) {
        return err_status(e, 400, "BadRequest",
                          "container \"%s\" in pod \"%s\" is waiting to start: trying and failing to pull image",
                          c->name, pod);
    } else {
        return err_status(e, 400, "BadRequest", "container \"%s\" in pod \"%s\" is waiting to start: %s", c->name, pod,
                          c->state.waiting ? str_or_empty(c->state.waiting->reason) : "no logs yet");
    }
    *id = status_cri_id(found);
    return 0;
}

struct log_stream {
    struct kubelet_server *s;
    struct http_req *http;
    struct log_options o;
    char *path, *id;
};

static int log_write(void *arg, const char *p, size_t n) {
    struct log_stream *l = arg;
    if (http_req_closed(l->http) || l->s->kl->stopping) return 1;
    /* A slow reader slows the reading down. */
    while (http_stream_queued(l->http) > LOG_QUEUE_MAX) {
        if (http_req_closed(l->http) || l->s->kl->stopping) return 1;
        usleep(5000);
    }
    return n && http_stream_write_copy(l->http, p, n) < 0 ? 1 : 0;
}

static bool log_running(void *arg) {
    struct log_stream *l = arg;
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_container_status_request req = {.container_id = l->id};
    struct cri_container_status_response resp = {0};
    if (runtime_call(l->s->kl->rt, RT_CONTAINER_STATUS, a, &req, &resp, NULL) < 0 || !resp.status) return false;
    return resp.status->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING ||
           resp.status->state == CRI_CONTAINER_STATE_CONTAINER_CREATED;
}

static void *log_thread(void *arg) {
    struct log_stream *l = arg;
    struct log_sink sink = {.write = log_write, .running = log_running, .arg = l};
    logs_read(l->path, &l->o, &sink, NULL);
    http_stream_end(l->http);
    l->s->streams--;
    free(l->path);
    free(l->id);
    free(l);
    return NULL;
}

static int log_options(struct request *r, struct log_options *o, struct err *e) {
    *o = (struct log_options)LOG_OPTIONS_INIT;
    const char *v;
    int64_t seconds;
    o->follow = flag(r, "follow", "follow");
    o->timestamps = flag(r, "timestamps", "timestamps");
    if ((v = http_query(r->http, "tailLines")) && *v && !str_eq(v, "all") &&
        (str_to_i64(v, &o->tail) < 0 || o->tail < 0))
        return err_status(e, 400, "BadRequest", "{\"message\": \"Unable to decode query: tailLines\"}");
    if ((v = http_query(r->http, "limitBytes")) && *v && (str_to_i64(v, &o->limit_bytes) < 0 || o->limit_bytes < 1))
        return err_status(e, 400, "BadRequest", "{\"message\": \"Invalid request: limitBytes\"}");
    if ((v = http_query(r->http, "sinceSeconds")) && *v) {
        if (str_to_i64(v, &seconds) < 0 || seconds < 1)
            return err_status(e, 400, "BadRequest", "{\"message\": \"Invalid request: sinceSeconds\"}");
        o->since = ktime_add_ns(ktime_now(), -seconds * NS_PER_SEC);
        o->since.set = true;
    }
    if ((v = http_query(r->http, "sinceTime")) && *v && ktime_parse(v, &o->since) < 0)
        return err_status(e, 400, "BadRequest", "{\"message\": \"Invalid request: sinceTime\"}");
    if ((v = http_query(r->http, "stream"))) {
        o->only_stdout = str_eq(v, "Stdout");
        o->only_stderr = str_eq(v, "Stderr");
    }
    return 0;
}

void route_logs(struct request *r) {
    _cleanup_err_ struct err e = {0};
    struct core_container_status *c;
    struct log_options o;
    const char *id = NULL;
    int rc = log_options(r, &o, &e);
    if (rc == 0) rc = find_container(r, &c, &e);
    if (rc == 0) rc = log_instance(c, r->parts[1], flag(r, "previous", "previous"), &id, &e);
    struct cri_container_status_response st = {0};
    if (rc == 0) {
        struct cri_container_status_request req = {.container_id = id};
        rc = runtime_call(r->s->kl->rt, RT_CONTAINER_STATUS, r->http->arena, &req, &st, &e);
        if (rc == 0 && (!st.status || str_empty(st.status->log_path)))
            rc = err_status(&e, 500, "InternalError", "failed to get container status of %s", id);
    }
    if (rc == 0 && r->s->streams >= MAX_STREAMS) rc = err_status(&e, 503, "ServiceUnavailable", "too many log streams");
    if (rc < 0) {
        respond_error(r->http, &e, 500);
        return;
    }
    struct log_stream *l = xcalloc(1, sizeof(*l));
    *l = (struct log_stream){r->s, r->http, o, xstrdup(st.status->log_path), xstrdup(id)};
    const struct http_header h[] = {{"content-type", "text/plain"}};
    http_stream_begin(r->http, 200, h, 1, 0);
    r->s->streams++;
    if (!o.follow || kubelet_thread(NULL, log_thread, l, true) < 0) log_thread(l);
}

/* ---- exec, attach, port-forward ---- */

static int connect_to(const char *host, const char *port, struct err *e) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai = NULL;
    if (getaddrinfo(host, port, &hints, &ai) != 0) return err_set(e, -EHOSTUNREACH, "cannot resolve %s", host);
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval tv = {.tv_sec = CONNECT_MS / 1000};
    if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
    int r = fd < 0 ? -errno : connect(fd, ai->ai_addr, ai->ai_addrlen) < 0 ? -errno : fd;
    freeaddrinfo(ai);
    if (r >= 0) return r;
    if (fd >= 0) close(fd);
    return err_errno(e, r, "connect to the runtime's streaming server");
}

/* The request as the runtime's streaming server gets it: the client's headers but for those about who it is.
 */
static void build_request(struct request *r, struct buf *b, const char *host, const char *path) {
    static const char *const dropped[] = {"host", "authorization", "cookie", "x-forwarded-for"};
    buf_printf(b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r->http->method, *path ? path : "/", host);
    for (size_t i = 0; i < r->http->n_headers; i++) {
        bool drop = false;
        for (size_t k = 0; k < ARRAY_LEN(dropped); k++) drop |= strcasecmp(r->http->headers[i].name, dropped[k]) == 0;
        if (!drop) buf_printf(b, "%s: %s\r\n", r->http->headers[i].name, r->http->headers[i].value);
    }
    buf_adds(b, "\r\n");
    buf_add(b, r->http->body, r->http->body_len);
}

static int read_head(int fd, struct buf *b, struct err *e) {
    while (!b->data || !strstr(b->data, "\r\n\r\n")) {
        if (b->len >= HEAD_MAX) return err_set(e, -EPROTO, "the runtime's answer is too long");
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 30000) <= 0) return err_set(e, -ETIMEDOUT, "the runtime's streaming server does not answer");
        char *room = buf_reserve(b, 4096);
        ssize_t n = read(fd, room, 4096);
        if (n <= 0) return err_set(e, -EPIPE, "the runtime's streaming server closed the connection");
        b->len += (size_t)n;
        b->data[b->len] = '\0';
    }
    return 0;
}

/* Joins the client with the URL that the runtime gave. */
static void tunnel(struct request *r, const char *url) {
    _cleanup_err_ struct err e = {0};
    struct arena *a = r->http->arena;
    const char *rest = strstr(url, "://");
    rest = rest ? rest + 3 : url;
    char *authority = arena_strndup(a, rest, strcspn(rest, "/"));
    const char *path = rest + strlen(authority);
    char *host = arena_strdup(a, authority), *colon = strrchr(host, ':');
    const char *port = "80";
    if (colon) {
        *colon = '\0';
        port = colon + 1;
    }
    if (*host == '[' && str_has_suffix(host, "]")) {
        host++;
        host[strlen(host) - 1] = '\0';
    }
    _cleanup_close_ int fd = connect_to(host, port, &e);
    _cleanup_buf_ struct buf out = BUF_INIT, head = BUF_INIT;
    int rc = fd < 0 ? fd : 0;
    if (rc == 0) {
        build_request(r, &out, authority, path);
        rc = fd_write_all(fd, out.data, out.len);
        if (rc < 0) err_errno(&e, rc, "write to the runtime's streaming server");
    }
    if (rc == 0) rc = read_head(fd, &head, &e);
    if (rc == 0) {
        rc = http_tunnel(r->http, head.data, head.len, fd, &e);
        if (rc == 0) {
            take_fd(&fd);
            return;
        }
    }
    respond_error(r->http, &e, rc == -EPROTO ? 400 : 500);
}

static bool upgrading(struct request *r) {
    if (http_header_has_token(r->http, "connection", "upgrade") && http_header(r->http, "upgrade")) return true;
    http_respond_text(r->http, 400, "Upgrade request required\n");
    return false;
}

static struct str_vec command_of(struct request *r, const char *key) {
    struct str_vec v = {.items = arena_alloc(r->http->arena, MAX_COMMAND * sizeof(char *))};
    size_t it = 0;
    const char *name, *value;
    while (v.n < MAX_COMMAND && http_query_next(r->http, &it, &name, &value))
        if (str_eq(name, key)) v.items[v.n++] = value;
    return v;
}

void route_exec(struct request *r) {
    _cleanup_err_ struct err e = {0};
    const char *id;
    if (running_container(r, &id, &e) < 0) {
        respond_error(r->http, &e, 500);
        return;
    }
    if (!upgrading(r)) return;
    struct cri_exec_request req = {.container_id = id,
                                   .cmd = command_of(r, "command"),
                                   .tty = flag(r, "tty", "tty"),
                                   .stdin = flag(r, "input", "stdin"),
                                   .stdout = flag(r, "output", "stdout"),
                                   .stderr = flag(r, "error", "stderr")};
    if (req.tty) req.stderr = false;
    struct cri_exec_response resp = {0};
    if (!req.stdin && !req.stdout && !req.stderr)
        err_status(&e, 400, "BadRequest", "you must specify at least 1 of stdin, stdout, stderr");
    else
        runtime_call(r->s->kl->rt, RT_EXEC, r->http->arena, &req, &resp, &e);
    if (e.code)
        respond_error(r->http, &e, 500);
    else
        tunnel(r, str_or_empty(resp.url));
}

void route_attach(struct request *r) {
    _cleanup_err_ struct err e = {0};
    const char *id;
    if (running_container(r, &id, &e) < 0) {
        respond_error(r->http, &e, 500);
        return;
    }
    if (!upgrading(r)) return;
    struct cri_attach_request req = {.container_id = id,
                                     .tty = flag(r, "tty", "tty"),
                                     .stdin = flag(r, "input", "stdin"),
                                     .stdout = flag(r, "output", "stdout"),
                                     .stderr = flag(r, "error", "stderr")};
    if (req.tty) req.stderr = false;
    struct cri_attach_response resp = {0};
    if (runtime_call(r->s->kl->rt, RT_ATTACH, r->http->arena, &req, &resp, &e) < 0)
        respond_error(r->http, &e, 500);
    else
        tunnel(r, str_or_empty(resp.url));
}

static int ports_of(struct request *r, struct i32_vec *out, struct err *e) {
    enum { MAX_PORTS = 64 };
    out->items = arena_alloc(r->http->arena, MAX_PORTS * sizeof(int32_t));
    size_t it = 0;
    const char *name, *value;
    while (http_query_next(r->http, &it, &name, &value)) {
        if (!str_eq(name, "port") && !str_eq(name, "ports")) continue;
        _cleanup_free_ char *list = xstrdup(value);
        char *save = NULL;
        for (char *p = strtok_r(list, ",", &save); p; p = strtok_r(NULL, ",", &save)) {
            int64_t v;
            if (str_to_i64(p, &v) < 0 || v < 1 || v > 65535 || out->n >= MAX_PORTS)
                return err_status(e, 400, "BadRequest", "unable to parse \"%s\" as a port", p);
            out->items[out->n++] = (int32_t)v;
        }
    }
    return 0;
}

void route_port_forward(struct request *r) {
    _cleanup_err_ struct err e = {0};
    _cleanup_object_ struct object *o = NULL;
    struct core_pod_status *st;
    struct rt_pod rt;
    struct cri_port_forward_request req = {0};
    struct cri_port_forward_response resp = {0};
    int rc = r->n_parts == 2 || r->n_parts == 3 ? 0 : err_status(&e, 404, "NotFound", "404 page not found");
    if (rc == 0) rc = find_pod(r, r->parts[0], r->parts[1], r->n_parts == 3 ? r->parts[2] : NULL, &o, &st, &e);
    if (rc == 0) rc = ports_of(r, &req.port, &e);
    if (rc == 0) rc = runtime_pod_read(r->s->kl->rt, r->http->arena, o->meta->uid, &rt, &e);
    if (rc == 0 && (!rt.n_sandboxes || !rt.sandboxes[0].ready))
        rc = err_status(&e, 500, "InternalError", "pod not found (\"%s\")", o->key);
    if (rc < 0) {
        respond_error(r->http, &e, 500);
        return;
    }
    if (!upgrading(r)) return;
    req.pod_sandbox_id = rt.sandboxes[0].id;
    if (runtime_call(r->s->kl->rt, RT_PORT_FORWARD, r->http->arena, &req, &resp, &e) < 0)
        respond_error(r->http, &e, 500);
    else
        tunnel(r, str_or_empty(resp.url));
}

/* A command's output, without a terminal: ?cmd=a b c */
void route_run(struct request *r) {
    _cleanup_err_ struct err e = {0};
    const char *id, *cmd = http_query(r->http, "cmd");
    if (running_container(r, &id, &e) < 0) {
        respond_error(r->http, &e, 500);
        return;
    }
    struct str_vec v = {.items = arena_alloc(r->http->arena, MAX_COMMAND * sizeof(char *))};
    char *save = NULL, *text = arena_strdup(r->http->arena, str_or_empty(cmd));
    for (char *p = strtok_r(text, " ", &save); p && v.n < MAX_COMMAND; p = strtok_r(NULL, " ", &save))
        v.items[v.n++] = p;
    struct cri_exec_sync_request req = {.container_id = id, .cmd = v};
    struct cri_exec_sync_response resp = {0};
    if (runtime_call(r->s->kl->rt, RT_EXEC_SYNC, r->http->arena, &req, &resp, &e) < 0) {
        respond_error(r->http, &e, 500);
        return;
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_add(&b, resp.stdout.p, resp.stdout.n);
    buf_add(&b, resp.stderr.p, resp.stderr.n);
    if (resp.exit_code) buf_printf(&b, "command terminated with non-zero exit code: %d", resp.exit_code);
    const struct http_header h[] = {{"content-type", "text/plain"}};
    http_respond(r->http, resp.exit_code ? 500 : 200, h, 1, b.data ? b.data : "", b.len, 0);
}

/* ---- pods ---- */

static void list_pods(struct request *r, bool only_running) {
    size_t n;
    struct pod_worker **all = pods_all(r->s->kl->pods, &n);
    _cleanup_buf_ struct buf b = BUF_INIT;
    bool first = true;
    buf_adds(&b, "{\"kind\":\"PodList\",\"apiVersion\":\"v1\",\"metadata\":{},\"items\":[");
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        _cleanup_arena_ struct arena *a = arena_new();
        struct core_pod_status *st = worker_status(all[i], a);
        if (!only_running || all[i]->state < WORKER_TERMINATED) {
            struct core_pod pod = *(const struct core_pod *)o->obj;
            if (st) pod.status = *st;
            if (!first) buf_addc(&b, ',');
            first = false;
            api_to_json(&b, &api_core_pod, &pod);
        }
        worker_unref(all[i]);
    }
    free(all);
    buf_adds(&b, "]}");
    const struct http_header h[] = {{"content-type", "application/json"}};
    http_respond(r->http, 200, h, 1, b.data, b.len, HTTP_GZIP);
}

void route_pods(struct request *r) { list_pods(r, false); }
void route_running_pods(struct request *r) { list_pods(r, true); }
