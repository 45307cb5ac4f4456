/* See hook_client.h. Upstream: apiserver/pkg/util/webhook (client.go), with its cache of REST clients. */
#include "apiserver/rules/hook_client.h"

#include <pthread.h>

#include "apiserver/rules/alloc.h"
#include "apiserver/rules/rules.h"
#include "pkg/base/bytes.h"
#include "pkg/http/client.h"

enum { DEFAULT_SECONDS = 30, ERROR_TEXT_MAX = 400 };

/* ---- the pool ---- */

struct pooled {
    char *ca_pem, *server_name; /* "" for none */
    struct http_client *client;
    unsigned users;
    uint64_t used;
    bool evicted;
};

struct hook_pool {
    pthread_mutex_t lock;
    struct pooled *items[HOOK_CLIENTS_MAX];
    size_t n;
    uint64_t clock;
};

static void pooled_free(struct pooled *p) {
    http_client_free(p->client);
    free(p->ca_pem);
    free(p->server_name);
    free(p);
}

struct hook_pool *hook_pool_new(void) {
    struct hook_pool *p = xcalloc(1, sizeof(*p));
    pthread_mutex_init(&p->lock, NULL);
    return p;
}

void hook_pool_free(struct hook_pool *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) pooled_free(p->items[i]);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* The place for a new client: the next one, or that of the least recently used. Under the lock. */
static size_t make_room(struct hook_pool *p) {
    size_t oldest = 0;
    if (p->n < HOOK_CLIENTS_MAX) return p->n++;
    for (size_t i = 1; i < p->n; i++)
        if (p->items[i]->used < p->items[oldest]->used) oldest = i;
    struct pooled *x = p->items[oldest];
    x->evicted = true;
    if (!x->users) pooled_free(x);
    return oldest;
}

static struct pooled *pool_take(struct hook_pool *p, const char *ca_pem, const char *server_name, struct err *e) {
    struct pooled *x = NULL;
    pthread_mutex_lock(&p->lock);
    for (size_t i = 0; i < p->n && !x; i++)
        if (str_eq(p->items[i]->ca_pem, ca_pem) && str_eq(p->items[i]->server_name, server_name)) x = p->items[i];
    if (!x) {
        struct http_client_options o = {.ca_pem = *ca_pem ? ca_pem : NULL,
                                        .server_name = *server_name ? server_name : NULL,
                                        .user_agent = "kube-apiserver-admission"};
        struct http_client *c = http_client_new(&o, e);
        if (c) {
            x = xcalloc(1, sizeof(*x));
            *x = (struct pooled){.ca_pem = xstrdup(ca_pem), .server_name = xstrdup(server_name), .client = c};
            p->items[make_room(p)] = x;
        }
    }
    if (x) {
        x->users++;
        x->used = ++p->clock;
    }
    pthread_mutex_unlock(&p->lock);
    return x;
}

static void pool_give(struct hook_pool *p, struct pooled *x) {
    pthread_mutex_lock(&p->lock);
    bool last = --x->users == 0 && x->evicted;
    pthread_mutex_unlock(&p->lock);
    if (last) pooled_free(x);
}

/* ---- where it is ---- */

struct target {
    const char *url, *shown, *server_name, *ca_pem; /* shown: the URL as upstream names it in errors */
};

static const struct json *get(struct rules *r, struct arena *a, const char *resource, const char *ns,
                              const char *name) {
    return r && r->lookup.get ? r->lookup.get(r->lookup.arg, a, "", resource, ns, name) : NULL;
}

static const struct json *service_port(const struct json *svc, int64_t port) {
    const struct json *p;
    JSON_FOREACH(p, json_at(svc, "spec", "ports", NULL))
        if (json_get_int(p, "port", 0) == port) return p;
    return NULL;
}

static const char *host_port(struct arena *a, const char *ip, int64_t port) {
    return arena_printf(a, strchr(ip, ':') ? "[%s]:%lld" : "%s:%lld", ip, (long long)port);
}

/* "address:port" of a ready endpoint, or NULL. */
static const char *endpoint_of(struct arena *a, const struct json *endpoints, const char *port_name) {
    const struct json *subset, *p;
    uint32_t x;
    random_bytes(&x, sizeof x);
    JSON_FOREACH(subset, json_get(endpoints, "subsets")) {
        const struct json *addrs = json_get(subset, "addresses");
        if (!json_len(addrs)) continue;
        const char *ip = jstr(json_item(addrs, x % json_len(addrs)), "ip");
        JSON_FOREACH(p, json_get(subset, "ports"))
            if (str_eq(jstr(p, "name"), port_name)) return host_port(a, ip, json_get_int(p, "port", 0));
    }
    return NULL;
}

static int service_target(struct rules *r, struct arena *a, const struct json *ref, struct target *t, struct err *e) {
    const char *ns = jstr(ref, "namespace"), *name = jstr(ref, "name"), *path = jstr(ref, "path");
    int64_t port = json_get_int(ref, "port", 443);
    const struct json *svc = get(r, a, "services", ns, name), *sp = service_port(svc, port);
    const char *slash = *path == '/' ? "" : "/";
    t->server_name = arena_printf(a, "%s.%s.svc", name, ns);
    t->shown = arena_printf(a, "https://%s:%lld%s%s", t->server_name, (long long)port, slash, path);
    if (!svc) return err_set(e, -ENOENT, "service \"%s\" not found", name);
    if (!sp) return err_set(e, -ENOENT, "no service port %lld found for service \"%s\"", (long long)port, name);
    const char *ip = jstr(json_get(svc, "spec"), "clusterIP");
    const char *host = endpoint_of(a, get(r, a, "endpoints", ns, name), jstr(sp, "name"));
    if (!host && str_in(ip, ONE_OF("", "None")))
        return err_set(e, -EHOSTUNREACH, "no endpoints available for service \"%s\"", name);
    if (!host) host = host_port(a, ip, port);
    t->url = arena_printf(a, "https://%s%s%s", host, slash, path);
    return 0;
}

static int find_target(struct rules *r, struct arena *a, const struct json *conf, struct target *t, struct err *e) {
    const char *ca = jstr(conf, "caBundle"), *url = json_get_str(conf, "url");
    *t = (struct target){.ca_pem = "", .server_name = "", .url = url, .shown = url};
    if (*ca) {
        size_t n = strlen(ca);
        char *pem = arena_zalloc(a, n / 4 * 3 + 4);
        if (base64_decode(ca, n, pem, &n) < 0) return err_set(e, -EINVAL, "caBundle is no base64");
        if (pem[strspn(pem, " \t\r\n")]) t->ca_pem = pem;
    }
    return url ? 0 : service_target(r, a, json_get(conf, "service"), t, e);
}

/* ---- the call ---- */

/* What upstream's client makes of an answer that is no success. */
static int refused(const struct http_resp *resp, struct err *e) {
    int n = (int)MIN_OF(resp->body.len, (size_t)ERROR_TEXT_MAX);
    const char *text = str_or_empty(resp->body.data);
    while (n && (text[n - 1] == '\n' || text[n - 1] == '\r')) n--;
    switch (resp->status) {
        case 404: return err_set(e, -EPROTO, "the server could not find the requested resource");
        case 401: return err_set(e, -EPROTO, "the server has asked for the client to provide credentials");
        case 403: return err_set(e, -EPROTO, "%.*s", n ? n : 9, n ? text : "forbidden");
        case 400: return err_set(e, -EPROTO, "the server rejected our request for an unknown reason");
        case 405: return err_set(e, -EPROTO, "the server does not allow this method on the requested resource");
        case 429:
            return err_set(e, -EPROTO, "the server has received too many requests and has asked us to try again later");
        case 503: return err_set(e, -EPROTO, "the server is currently unable to handle the request");
    }
    if (resp->status >= 500)
        return err_set(e, -EPROTO, "an error on the server (\"%.*s\") has prevented the request from succeeding", n,
                       text);
    return err_set(e, -EPROTO, "the server responded with the status code %d but did not return more information",
                   resp->status);
}

static int post(struct pooled *p, struct arena *a, const struct target *t, const struct hook_request *q,
                struct json **answer, struct err *e) {
    static const struct http_header headers[] = {{"Content-Type", "application/json"},
                                                 {"Accept", "application/json, */*"}};
    _cleanup_http_resp_ struct http_resp resp = {.body = {.limit = q->max_bytes ? q->max_bytes : HOOK_ANSWER_MAX}};
    _cleanup_buf_ struct buf text = BUF_INIT;
    const char *query = q->seconds ? arena_printf(a, "?timeout=%llds", (long long)q->seconds) : "";
    const char *url = arena_printf(a, "%s%s", t->url, query);
    int64_t seconds = q->seconds ? q->seconds : DEFAULT_SECONDS;
    json_write(&text, q->body);
    int rc = http_client_do(p->client, "POST", url, headers, ARRAY_LEN(headers), text.data, text.len, &resp,
                            (unsigned)seconds * 1000, e);
    if (rc == -ETIMEDOUT) {
        err_done(e);
        return err_set(e, rc, "Post \"%s%s\": context deadline exceeded", t->shown, query);
    }
    if (rc) return err_wrap(e, "Post \"%s%s\"", t->shown, query), rc;
    if (resp.status != 200 && resp.status != 201) return refused(&resp, e);
    rc = json_parse(a, str_or_empty(resp.body.data), resp.body.len, answer, NULL, e);
    return rc ? err_wrap(e, "couldn't get version/kind; json parse error"), -EPROTO : 0;
}

int hook_call(struct rules *r, struct arena *a, const struct hook_request *q, struct json **answer, struct err *e) {
    struct target t;
    int rc = find_target(r, a, q->client_config, &t, e);
    if (rc) return t.shown ? (err_wrap(e, "Post \"%s\"", t.shown), rc) : rc;
    struct pooled *p = pool_take(r->hooks, t.ca_pem, t.server_name, e);
    if (!p) return -EIO;
    rc = post(p, a, &t, q, answer, e);
    pool_give(r->hooks, p);
    return rc;
}
