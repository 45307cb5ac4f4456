/* See hooks.h. */
#include "kubelet/hooks.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

enum { MAX_REDIRECTS = 10, HEADER_VALUE_MAX = 4096 };
#define PROBE_AGENT "kube-probe/1.36"

static void say(char *output, const char *fmt, ...) _printf_(2, 3);
static void say(char *output, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(output, HOOK_OUTPUT_MAX, fmt, ap);
    va_end(ap);
}

int hook_port(const struct core_container *c, const struct int_or_string *p) {
    if (!p->set) return 0;
    if (!p->is_str) return p->i > 0 && p->i < 65536 ? p->i : 0;
    for (size_t i = 0; i < c->ports.n; i++)
        if (str_eq(c->ports.items[i].name, p->s)) return c->ports.items[i].container_port;
    int64_t v;
    return str_to_i64(p->s, &v) == 0 && v > 0 && v < 65536 ? (int)v : 0;
}

/* ---- exec ---- */

static void exec_output(const struct cri_exec_sync_response *r, char *output) {
    size_t n = MIN_OF(r->stdout.n, (size_t)HOOK_OUTPUT_MAX - 1);
    if (n) memcpy(output, r->stdout.p, n);
    size_t m = MIN_OF(r->stderr.n, (size_t)HOOK_OUTPUT_MAX - 1 - n);
    if (m) memcpy(output + n, r->stderr.p, m);
    output[n + m] = '\0';
}

enum probe_result hook_exec(struct kubelet *kl, const struct core_exec_action *x, const struct hook_target *t,
                            int64_t timeout_ns, char *output) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct str_vec cmd = x->command;

    int64_t seconds = (timeout_ns + NS_PER_SEC - 1) / NS_PER_SEC;
    struct cri_exec_sync_request req = {.container_id = t->container_id, .cmd = cmd, .timeout = seconds};
    struct cri_exec_sync_response resp = {0};
    int r = runtime_call_timeout(kl->rt, RT_EXEC_SYNC, a, &req, &resp, timeout_ns + 10 * NS_PER_SEC, &e);
    if (r == -ETIMEDOUT) {
        say(output, "command timed out: %s timed out after %llds", cmd.n ? cmd.items[0] : "", (long long)seconds);
        return PROBE_FAILURE;
    }
    if (r < 0) {
        say(output, "rpc error: %s", e.msg);
        return PROBE_UNKNOWN;
    }
    exec_output(&resp, output);
    return resp.exit_code == 0 ? PROBE_SUCCESS : PROBE_FAILURE;
}

/* ---- http ---- */

struct http_exchange {
    struct buf body;
    char location[HEADER_VALUE_MAX];
    char grpc_status[16];
};

static size_t on_body(char *p, size_t size, size_t n, void *arg) {
    struct http_exchange *x = arg;
    size_t room = x->body.len < HOOK_OUTPUT_MAX - 1 ? HOOK_OUTPUT_MAX - 1 - x->body.len : 0;
    buf_add(&x->body, p, MIN_OF(size * n, room));
    return size * n; /* the rest of a long body is read and dropped */
}

static void header_value(const char *p, size_t n, const char *name, char *out, size_t size) {
    size_t len = strlen(name);
    if (n < len || strncasecmp(p, name, len) != 0) return;
    p += len;
    n -= len;
    while (n && (*p == ' ' || *p == '\t')) p++, n--;
    while (n && (p[n - 1] == '\r' || p[n - 1] == '\n' || p[n - 1] == ' ')) n--;
    if (n >= size) return;
    memcpy(out, p, n);
    out[n] = '\0';
}

static size_t on_header(char *p, size_t size, size_t n, void *arg) {
    struct http_exchange *x = arg;
    header_value(p, size * n, "location:", x->location, sizeof(x->location));
    header_value(p, size * n, "grpc-status:", x->grpc_status, sizeof(x->grpc_status));
    return size * n;
}

static bool has_header(const struct core_http_header_vec *v, const char *name) {
    for (size_t i = 0; i < v->n; i++)
        if (strcasecmp(v->items[i].name, name) == 0) return true;
    return false;
}

static struct curl_slist *headers_of(struct arena *a, const struct core_http_get_action *h, const char *agent) {
    struct curl_slist *l = NULL;
    for (size_t i = 0; i < h->http_headers.n; i++) {
        const char *v = str_or_empty(h->http_headers.items[i].value);
        l = curl_slist_append(l, arena_printf(a, *v ? "%s: %s" : "%s;", h->http_headers.items[i].name, v));
    }
    if (!has_header(&h->http_headers, "User-Agent")) l = curl_slist_append(l, arena_printf(a, "User-Agent: %s", agent));
    if (!has_header(&h->http_headers, "Accept")) l = curl_slist_append(l, "Accept: */*");
    return l;
}

/* One GET. HTTP status, or 0 with the reason in `output`. */
static long http_get(const char *url, struct curl_slist *headers, int64_t timeout_ns, struct http_exchange *x,
                     char *output) {
    CURL *c = curl_easy_init();
    char reason[CURL_ERROR_SIZE] = "";
    if (!c) return 0;
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L); /* probes do not verify: upstream's rule */
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / NS_PER_MS));
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, reason);
    CURLcode rc = curl_easy_perform(c);
    long status = 0;
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    if (rc == CURLE_OPERATION_TIMEDOUT)
        say(output, "Get \"%s\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)", url);
    else if (rc == CURLE_COULDNT_CONNECT)
        say(output, "Get \"%s\": dial tcp %.*s: connect: connection refused", url,
            (int)strcspn(strstr(url, "://") + 3, "/"), strstr(url, "://") + 3);
    else if (rc != CURLE_OK)
        say(output, "Get \"%s\": %s", url, *reason ? reason : curl_easy_strerror(rc));
    curl_easy_cleanup(c);
    return rc == CURLE_OK ? status : 0;
}

/* The redirect's target when it stays on the host, else NULL. */
static char *local_redirect(struct arena *a, const char *url, const char *location) {
    const char *host = strstr(url, "://") + 3;
    size_t origin = (size_t)(host - url) + strcspn(host, "/?");
    if (*location == '/' && location[1] != '/') return arena_printf(a, "%.*s%s", (int)origin, url, location);
    const char *other = strstr(location, "://");
    if (!other) {
        const char *slash = strrchr(host, '/');
        int keep = slash ? (int)(slash - url) : (int)origin;
        return arena_printf(a, "%.*s/%s", keep, url, location);
    }
    size_t mine = strcspn(host, ":/?"), theirs = strcspn(other + 3, ":/?");
    return mine == theirs && strncmp(host, other + 3, mine) == 0 ? arena_strdup(a, location) : NULL;
}

static char *url_of(struct arena *a, const struct core_http_get_action *h, const struct hook_target *t, char *output) {
    int port = hook_port(t->container, &h->port);
    if (!port) {
        say(output, "port %s could not be resolved", h->port.is_str ? h->port.s : "");
        return NULL;
    }
    const char *host = str_empty(h->host) ? str_or_empty(t->pod_ip) : h->host, *path = str_or_empty(h->path);
    return arena_printf(a, "%s://%s%s%s:%d%s%s", str_eq(h->scheme, "HTTPS") ? "https" : "http",
                        strchr(host, ':') ? "[" : "", host, strchr(host, ':') ? "]" : "", port, *path == '/' ? "" : "/",
                        path);
}

static long http_run(struct arena *a, const struct core_http_get_action *h, const struct hook_target *t,
                     const char *agent, int64_t timeout_ns, struct http_exchange *x, char *output) {
    char *url = url_of(a, h, t, output);
    if (!url) return 0;
    struct curl_slist *headers = headers_of(a, h, agent);
    int64_t end = mono_ns() + timeout_ns;
    long status = 0;
    for (int hops = 0; hops <= MAX_REDIRECTS; hops++) {
        int64_t left = end - mono_ns();
        x->location[0] = '\0';
        buf_reset(&x->body);
        status = http_get(url, headers, MAX_OF(left, NS_PER_MS), x, output);
        bool redirect = (status >= 301 && status <= 303) || status == 307 || status == 308;
        char *next = redirect && x->location[0] ? local_redirect(a, url, x->location) : NULL;
        if (!next) break;
        url = next;
        if (hops == MAX_REDIRECTS) {
            say(output, "stopped after %d redirects", MAX_REDIRECTS);
            status = 0;
        }
    }
    curl_slist_free_all(headers);
    return status;
}

enum probe_result hook_http(struct kubelet *kl, const struct core_http_get_action *h, const struct hook_target *t,
                            const char *user_agent, int64_t timeout_ns, char *output) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct http_exchange x = {0};
    long status = http_run(a, h, t, user_agent, timeout_ns, &x, output);
    bool elsewhere = status >= 300 && status < 400;
    if (elsewhere)
        say(output, "Probe terminated redirects, Response body: %.*s", (int)x.body.len, str_or_empty(x.body.data));
    buf_done(&x.body);
    if (status == 0) return PROBE_FAILURE;
    if (elsewhere) return PROBE_WARNING;
    if (status >= 200 && status < 400) return PROBE_SUCCESS;
    say(output, "HTTP probe failed with statuscode: %ld", status);
    return PROBE_FAILURE;
}

/* ---- tcp ---- */

static int connect_within(const struct addrinfo *ai, int64_t timeout_ns) {
    _cleanup_close_ int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -errno;
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) == 0) return 0;
    if (errno != EINPROGRESS) return -errno;
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    int r = poll(&p, 1, (int)(timeout_ns / NS_PER_MS));
    if (r == 0) return -ETIMEDOUT;
    if (r < 0) return -errno;
    int error = 0;
    socklen_t n = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n);
    return -error;
}

enum probe_result hook_tcp(struct kubelet *kl, const struct core_tcp_socket_action *s, const struct hook_target *t,
                           int64_t timeout_ns, char *output) {
    int port = hook_port(t->container, &s->port);
    const char *host = str_empty(s->host) ? str_or_empty(t->pod_ip) : s->host;
    if (!port) {
        say(output, "port could not be resolved");
        return PROBE_UNKNOWN;
    }
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *ai = NULL;
    int r = getaddrinfo(host, service, &hints, &ai);
    if (r != 0) {
        say(output, "dial tcp: lookup %s: %s", host, gai_strerror(r));
        return PROBE_FAILURE;
    }
    r = connect_within(ai, timeout_ns);
    freeaddrinfo(ai);
    if (r == 0) return PROBE_SUCCESS;
    say(output, "dial tcp %s:%d: %s", host, port,
        r == -ETIMEDOUT      ? "i/o timeout"
        : r == -ECONNREFUSED ? "connect: connection refused"
                             : strerror(-r));
    return PROBE_FAILURE;
}

/* ---- grpc ---- grpc.health.v1.Health/Check with a message of one string, answered by one of one enum */

static void health_request(struct buf *b, const char *service) {
    size_t n = strlen(service), len = n ? n + 2 : 0;
    char head[5] = {0, 0, 0, (char)(len >> 8), (char)len};
    buf_add(b, head, 5);
    if (!n) return;
    buf_addc(b, 0x0a); /* field 1, string */
    buf_addc(b, (char)n);
    buf_add(b, service, n);
}

/* The status of a HealthCheckResponse; -1 when it is none. */
static int health_status(const struct buf *b) {
    if (b->len < 5) return -1;
    if (b->len == 5) return 0;
    return b->len >= 7 && b->data[5] == 0x08 ? b->data[6] : -1;
}

enum probe_result hook_grpc(struct kubelet *kl, const struct core_grpc_action *g, const struct hook_target *t,
                            int64_t timeout_ns, char *output) {
    const char *service = str_or_empty(g->service), *ip = str_or_empty(t->pod_ip);
    if (strlen(service) > 127) {
        say(output, "service name is too long");
        return PROBE_UNKNOWN;
    }
    _cleanup_buf_ struct buf body = BUF_INIT;
    health_request(&body, service);
    char url[256];
    snprintf(url, sizeof(url), "http://%s%s%s:%d/grpc.health.v1.Health/Check", strchr(ip, ':') ? "[" : "", ip,
             strchr(ip, ':') ? "]" : "", g->port);
    struct http_exchange x = {0};
    struct curl_slist *h = curl_slist_append(NULL, "Content-Type: application/grpc");
    h = curl_slist_append(h, "TE: trailers");
    h = curl_slist_append(h, "User-Agent: " PROBE_AGENT " grpc");
    CURL *c = curl_easy_init();
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
    curl_easy_setopt(c, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)(timeout_ns / NS_PER_MS));
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, h);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE, (long)body.len);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body.data);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &x);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &x);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_cleanup(c);
    curl_slist_free_all(h);
    int status = health_status(&x.body);
    buf_done(&x.body);
    if (rc != CURLE_OK) {
        if (rc == CURLE_OPERATION_TIMEDOUT)
            say(output, "timeout: failed to connect service \"%s:%d\" within %lldms: context deadline exceeded", ip,
                g->port, (long long)(timeout_ns / NS_PER_MS));
        else
            say(output, "error: health rpc probe failed: %s", curl_easy_strerror(rc));
        return PROBE_FAILURE;
    }
    if (!str_eq(x.grpc_status, "0")) {
        say(output, "error: health rpc probe failed with gRPC status %s", x.grpc_status);
        return PROBE_FAILURE;
    }
    if (status == 1) return PROBE_SUCCESS; /* SERVING */
    say(output, "service unhealthy (responded with \"%s\")", status == 2 ? "NOT_SERVING" : "UNKNOWN");
    return PROBE_FAILURE;
}

/* ---- which one ---- */

enum probe_result hook_probe(struct kubelet *kl, const struct core_probe *p, const struct hook_target *t,
                             char *output) {
    int64_t timeout = (p->timeout_seconds > 0 ? p->timeout_seconds : 1) * NS_PER_SEC;
    output[0] = '\0';
    if (p->exec) return hook_exec(kl, p->exec, t, timeout, output);
    if (p->http_get) return hook_http(kl, p->http_get, t, PROBE_AGENT, timeout, output);
    if (p->tcp_socket) return hook_tcp(kl, p->tcp_socket, t, timeout, output);
    if (p->grpc) return hook_grpc(kl, p->grpc, t, timeout, output);
    say(output, "missing probe handler for %s", t->container->name);
    return PROBE_UNKNOWN;
}

int hook_lifecycle(struct kubelet *kl, const struct core_lifecycle_handler *h, const struct hook_target *t,
                   int64_t timeout_ns, struct err *e) {
    _cleanup_free_ char *output = xcalloc(1, HOOK_OUTPUT_MAX);
    if (h->exec) {
        if (hook_exec(kl, h->exec, t, timeout_ns, output) == PROBE_SUCCESS) return 0;
        return err_set(e, -EIO, "Exec lifecycle hook for Container \"%s\" failed, message: \"%s\"", t->container->name,
                       output);
    }
    if (h->http_get) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct http_exchange x = {0};
        long status = http_run(a, h->http_get, t, "kube-lifecycle/1.36", timeout_ns, &x, output);
        buf_done(&x.body);
        if (status) return 0; /* any answer will do */
        return err_set(e, -EIO, "HTTP lifecycle hook (%s) for Container \"%s\" failed - error: %s",
                       str_or_empty(h->http_get->path), t->container->name, output);
    }
    if (h->sleep) {
        kubelet_sleep(kl, MIN_OF(h->sleep->seconds * NS_PER_SEC, timeout_ns));
        return 0;
    }
    return err_set(e, -EINVAL, "Cannot run handler: invalid handler (tcpSocket is not supported in lifecycle hooks)");
}
