/* The objects a fresh cluster has (declared in apiserver/auth), written through the ordinary pipeline, and the Service
 * "kubernetes" with its Endpoints and EndpointSlice, which say where this server is.
 *
 * A fresh store takes about two hundred objects. In the embedded store they are lazy writes, which the last ones (those
 * of the Service) make durable: one commit in all, and a crash before it leaves nothing that anybody was told of. With
 * etcd, creations run on the worker pool at once; namespaces are waited for before anything is put into them. */
#include <arpa/inet.h>
#include <pthread.h>

#include "apiserver/auth/bootstrap.h"
#include "apiserver/frontproxy.h"
#include "apiserver/lookup.h"
#include "apiserver/servicealloc.h"
#include "apiserver/write.h"
#include "pkg/base/log.h"

struct boot {
    struct apiserver *s;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t pending;
    bool namespaces_pending;
    bool lazy;
    struct err first; /* what went wrong first */
};

struct boot_job {
    struct boot *b;
    const struct resource *res;
    char *ns;
    bool lazy;
    struct buf text;
};

static int create_now(struct apiserver *s, struct arena *a, const struct resource *r, const char *ns, bool lazy,
                      struct json *obj, struct err *e) {
    struct write w;
    struct object *out = NULL;
    struct json *norm = NULL;
    int rc = api_tree_normalise(a, r->type, obj, &norm, NULL, e);
    if (rc) return rc;
    write_init(&w, s, a, NULL, r, NULL, ns, NULL, RULES_CREATE);
    w.lazy = lazy;
    if (str_eq(r->group, "flowcontrol.apiserver.k8s.io"))
        w.c.field_manager = "api-priority-and-fairness-config-producer-v1";
    rc = write_create(&w, norm, true, &out, e);
    object_unref(out);
    return rc;
}

static void job_run(void *arg) {
    struct boot_job *j = arg;
    struct boot *b = j->b;
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct json *obj = NULL;
    int rc = json_parse(a, j->text.data, j->text.len, &obj, NULL, &e);
    if (!rc) rc = create_now(b->s, a, j->res, j->ns, j->lazy, obj, &e);
    if (rc && e.status != 409)
        err_wrap(&e, "%s %s", j->res->plural, str_or_empty(json_as_str(json_at(obj, "metadata", "name", NULL))));
    if (rc && e.status == 422) { /* another server has made the Service with the same address just now */
        _cleanup_object_ struct object *o =
            write_current(b->s, j->res, j->ns, str_or_empty(json_as_str(json_at(obj, "metadata", "name", NULL))), true);
        if (o) rc = 0;
    }
    pthread_mutex_lock(&b->lock);
    if (rc && e.status != 409 && !b->first.code) err_move(&b->first, &e);
    b->pending--;
    pthread_cond_broadcast(&b->cond);
    pthread_mutex_unlock(&b->lock);
    free(j->ns);
    buf_done(&j->text);
    free(j);
}

static void drain(struct boot *b) {
    pthread_mutex_lock(&b->lock);
    while (b->pending) pthread_cond_wait(&b->cond, &b->lock);
    b->namespaces_pending = false;
    pthread_mutex_unlock(&b->lock);
}

/* ---- bootstrap_ops ---- */

static int op_get(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                  const char *ns, const char *name, struct json **out, struct err *e) {
    struct boot *b = arg;
    const struct resource *r = resource_find(b->s->resources, group, version, resource);
    _cleanup_object_ struct object *o = r ? watchcache_get(b->s->cache, r, ns, name) : NULL;
    *out = o ? object_tree(a, o) : NULL;
    return 0;
}

static int op_create(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                     const char *ns, struct json *obj, struct err *e) {
    struct boot *b = arg;
    const struct resource *r = resource_find(b->s->resources, group, version, resource);
    if (!r || !r->type) return err_set(e, -EINVAL, "bootstrap: unknown resource %s", resource);
    bool is_ns = str_eq(resource, "namespaces");
    if (!is_ns && ns && b->namespaces_pending) {
        drain(b);
        watchcache_sync(b->s->cache, NULL); /* the objects' admission looks for their namespace */
    }
    struct boot_job *j = xcalloc(1, sizeof(*j));
    j->b = b;
    j->res = r;
    j->ns = ns ? xstrdup(ns) : NULL;
    j->lazy = b->lazy;
    json_write(&j->text, obj);
    pthread_mutex_lock(&b->lock);
    b->pending++;
    b->namespaces_pending |= is_ns;
    pthread_mutex_unlock(&b->lock);
    if (b->s->embedded || http_dispatch(b->s->workers, job_run, j)) job_run(j);
    return 0;
}

static int op_update(void *arg, struct arena *a, const char *group, const char *version, const char *resource,
                     const char *ns, struct json *obj, struct err *e) {
    struct boot *b = arg;
    const struct resource *r = resource_find(b->s->resources, group, version, resource);
    const char *name = json_as_str(json_at(obj, "metadata", "name", NULL));
    _cleanup_object_ struct object *old = r ? watchcache_get(b->s->cache, r, ns, name) : NULL;
    struct write w;
    struct object *out = NULL;
    struct json *norm = NULL;
    bool deleted;
    if (!old) return 0;
    int rc = api_tree_normalise(a, r->type, obj, &norm, NULL, e);
    if (rc) return rc;
    write_init(&w, b->s, a, NULL, r, NULL, ns, name, RULES_UPDATE);
    rc = write_update(&w, norm, old, true, &out, &deleted, e);
    object_unref(out);
    return rc > 0 ? 0 : rc; /* somebody else was faster: the next start looks again */
}

/* ---- the Service "kubernetes" ---- */

static const char *first_service_ip(struct arena *a, const char *cidr) {
    char ip[INET6_ADDRSTRLEN];
    struct in_addr in;
    snprintf(ip, sizeof(ip), "%.*s", (int)strcspn(cidr, "/"), cidr);
    if (inet_pton(AF_INET, ip, &in) != 1) return NULL;
    in.s_addr = htonl(ntohl(in.s_addr) + 1);
    return inet_ntop(AF_INET, &in, ip, sizeof(ip)) ? arena_strdup(a, ip) : NULL;
}

static struct json *service_tree(struct apiserver *s, struct arena *a) {
    const char *ip = first_service_ip(a, str_empty(s->opt.service_cidr) ? "10.96.0.0/16" : s->opt.service_cidr);
    struct json *v = NULL;
    const char *text = arena_printf(
        a,
        "{\"kind\":\"Service\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"kubernetes\",\"namespace\":\"default\","
        "\"labels\":{\"component\":\"apiserver\",\"provider\":\"kubernetes\"}},\"spec\":{\"type\":\"ClusterIP\","
        "\"sessionAffinity\":\"None\",\"clusterIP\":\"%s\",\"ports\":[{\"name\":\"https\",\"protocol\":\"TCP\","
        "\"port\":443,\"targetPort\":%lld}]}}",
        str_or_empty(ip), (long long)s->opt.secure_port);
    return json_parse(a, text, strlen(text), &v, NULL, NULL) ? NULL : v;
}

static struct json *endpoints_tree(struct apiserver *s, struct arena *a, bool slice) {
    struct json *v = NULL;
    long long port = s->opt.secure_port;
    const char *ip = s->opt.advertise_address;
    const char *family = strchr(ip, ':') ? "IPv6" : "IPv4";
    const char *text = slice ? arena_printf(a,
                                            "{\"kind\":\"EndpointSlice\",\"apiVersion\":\"discovery.k8s.io/v1\","
                                            "\"metadata\":{\"name\":\"kubernetes\",\"namespace\":\"default\","
                                            "\"labels\":{\"kubernetes.io/service-name\":\"kubernetes\"}},"
                                            "\"addressType\":\"%s\",\"endpoints\":[{\"addresses\":[\"%s\"],"
                                            "\"conditions\":{\"ready\":true}}],\"ports\":[{\"name\":\"https\","
                                            "\"protocol\":\"TCP\",\"port\":%lld}]}",
                                            family, ip, port)
                             : arena_printf(a,
                                            "{\"kind\":\"Endpoints\",\"apiVersion\":\"v1\","
                                            "\"metadata\":{\"name\":\"kubernetes\",\"namespace\":\"default\","
                                            "\"labels\":{\"endpointslice.kubernetes.io/skip-mirror\":\"true\"}},"
                                            "\"subsets\":[{\"addresses\":[{\"ip\":\"%s\"}],"
                                            "\"ports\":[{\"name\":\"https\",\"port\":%lld,\"protocol\":\"TCP\"}]}]}",
                                            ip, port);
    return json_parse(a, text, strlen(text), &v, NULL, NULL) ? NULL : v;
}

/* Creates the object, or puts `keys` of it over what is there when they differ. */
static int ensure(struct boot *b, const char *group, const char *resource, struct json *want, const char *const *keys) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    const struct resource *r = resource_find(b->s->resources, group, "v1", resource);
    _cleanup_object_ struct object *o = watchcache_get(b->s->cache, r, "default", "kubernetes");
    if (!o) return op_create(b, a, group, "v1", resource, "default", want, &e);
    struct json *v = object_tree(a, o);
    bool same = true;
    for (; *keys; keys++) {
        same &= json_equal(json_get(v, *keys), json_get(want, *keys));
        json_set(a, v, *keys, json_get(want, *keys));
    }
    return same ? 0 : op_update(b, a, group, "v1", resource, "default", v, &e);
}

static void ensure_kubernetes(struct boot *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    static const char *const none[] = {NULL}, *const subsets[] = {"subsets", NULL},
                             *const slice[] = {"endpoints", "ports", NULL};
    const char *ip = b->s->opt.advertise_address;
    /* several servers may be listed: presence.c; on a machine without a network no pod could use it */
    bool endpoints = b->s->embedded && !str_has_prefix(ip, "127.") && !str_eq(ip, "::1");
    b->lazy = endpoints;
    ensure(b, "", "services", service_tree(b->s, a), none);
    if (!endpoints) return;
    ensure(b, "", "endpoints", endpoints_tree(b->s, a, false), subsets);
    b->lazy = false; /* the last one takes all to the disk */
    ensure(b, "discovery.k8s.io", "endpointslices", endpoints_tree(b->s, a, true), slice);
}

/* What a metrics-server's manifests bring: who may read, and the APIService, which one with a service may replace. */
static void ensure_usage(struct boot *b) {
    static const char role[] =
        "{\"kind\":\"ClusterRole\",\"apiVersion\":\"rbac.authorization.k8s.io/v1\","
        "\"metadata\":{\"name\":\"system:aggregated-metrics-reader\","
        "\"labels\":{\"rbac.authorization.k8s.io/aggregate-to-admin\":\"true\","
        "\"rbac.authorization.k8s.io/aggregate-to-edit\":\"true\","
        "\"rbac.authorization.k8s.io/aggregate-to-view\":\"true\"}},\"rules\":[{\"apiGroups\":[\"metrics.k8s.io\"],"
        "\"resources\":[\"pods\",\"nodes\"],\"verbs\":[\"get\",\"list\",\"watch\"]}]}";
    static const char service[] =
        "{\"kind\":\"APIService\",\"apiVersion\":\"apiregistration.k8s.io/v1\","
        "\"metadata\":{\"name\":\"v1beta1.metrics.k8s.io\","
        "\"labels\":{\"kube-aggregator.kubernetes.io/automanaged\":\"onstart\"}},"
        "\"spec\":{\"group\":\"metrics.k8s.io\",\"version\":\"v1beta1\",\"groupPriorityMinimum\":100,"
        "\"versionPriority\":100}}";
    static const struct {
        const char *group, *resource, *name, *text;
    } objects[] = {{"rbac.authorization.k8s.io", "clusterroles", "system:aggregated-metrics-reader", role},
                   {"apiregistration.k8s.io", "apiservices", "v1beta1.metrics.k8s.io", service}};
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(objects); i++) {
        struct json *have = NULL, *want = NULL;
        op_get(b, a, objects[i].group, "v1", objects[i].resource, NULL, objects[i].name, &have, NULL);
        if (!have && json_parse(a, objects[i].text, strlen(objects[i].text), &want, NULL, NULL) == 0)
            op_create(b, a, objects[i].group, "v1", objects[i].resource, NULL, want, NULL);
    }
}

static void front_proxies(struct apiserver *s, struct arena *a, struct bootstrap_config *c, const char *ca_pem) {
    const struct apiserver_options *o = &s->opt;
    c->requestheader_ca_pem = ca_pem;
    c->requestheader_names = json_text(a, frontproxy_list(a, o->requestheader_names));
    c->requestheader_user = json_text(a, frontproxy_list(a, o->requestheader_user));
    c->requestheader_uid = json_text(a, frontproxy_list(a, o->requestheader_uid));
    c->requestheader_group = json_text(a, frontproxy_list(a, o->requestheader_group));
    c->requestheader_extra = json_text(a, frontproxy_list(a, o->requestheader_extra));
}

int bootstrap_run(struct apiserver *s, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct boot b = {.s = s, .lazy = true};
    struct bootstrap_ops ops = {.arg = &b, .get = op_get, .create = op_create, .update = op_update};
    struct bootstrap_config c = {.service_cidr = str_empty(s->opt.service_cidr) ? "10.96.0.0/16" : s->opt.service_cidr};
    _cleanup_free_ char *ca = NULL, *front = NULL;
    if (!str_empty(s->opt.client_ca) && file_read(s->opt.client_ca, 1 << 20, &ca, NULL) == 0) c.client_ca_pem = ca;
    if (!str_empty(s->opt.requestheader_ca) && file_read(s->opt.requestheader_ca, 1 << 20, &front, NULL) == 0)
        front_proxies(s, a, &c, front);
    pthread_mutex_init(&b.lock, NULL);
    pthread_cond_init(&b.cond, NULL);
    int rc = bootstrap_ensure(&ops, &c, e);
    servicealloc_repair(s);
    if (s->opt.serve_usage) ensure_usage(&b);
    ensure_kubernetes(&b);
    drain(&b);
    if (!rc && b.first.code) {
        rc = b.first.code;
        if (e) err_move(e, &b.first);
    }
    err_done(&b.first);
    pthread_mutex_destroy(&b.lock);
    pthread_cond_destroy(&b.cond);
    return rc;
}
