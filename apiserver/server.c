/* The server: opening its parts, and the way of an admitted request (admit.c) to its handler. */
#include <pthread.h>

#include "apiserver/admit.h"
#include "apiserver/aggregator/aggregator.h"
#include "apiserver/audit/audit.h"
#include "apiserver/conditions.h"
#include "apiserver/crd/registry.h"
#include "apiserver/encryption.h"
#include "apiserver/handlers.h"
#include "apiserver/health.h"
#include "apiserver/lookup.h"
#include "apiserver/metrics.h"
#include "apiserver/servicealloc.h"
#include "pkg/base/ktime.h"

enum { AUDIT_POLICY_MAX = 1 << 20 };

/* ---- opening ---- */

static void parse_ports(const char *range, int *min, int *max) {
    unsigned lo = 0, hi = 0;
    if (range && sscanf(range, "%u-%u", &lo, &hi) == 2 && lo <= hi && hi < 65536) {
        *min = (int)lo;
        *max = (int)hi;
    }
}

static int open_parts(struct apiserver *s, struct err *e) {
    struct store_options so = {.etcd_servers = s->opt.etcd_servers,
                               .etcd_ca = s->opt.etcd_ca,
                               .etcd_cert = s->opt.etcd_cert,
                               .etcd_key = s->opt.etcd_key};
    s->embedded = str_empty(s->opt.etcd_servers);
    _cleanup_free_ char *db = s->embedded ? xasprintf("%s/state.db", s->opt.data_dir) : NULL;
    if (s->embedded) so.etcd_servers = NULL, so.sqlite_path = db;
    int rc = store_open(&so, &s->store, e);
    if (rc) return rc;
    s->resources = resource_table_new();
    if (!str_empty(s->opt.encryption_config)) {
        rc = encryption_open(s->opt.encryption_config, s->opt.encryption_reload, s->resources, &s->store,
                             &s->encryption, e);
        if (rc) return rc;
    }
    if ((rc = watchcache_open(s->store, s->resources, &s->cache, e))) return rc;
    struct rules_alloc alloc = servicealloc(s);
    struct rules_config rcfg = {.lookup = lookup_rules(s), .alloc = &alloc, .service_cidr = s->opt.service_cidr};
    for (size_t i = 0; i < s->opt.disabled_plugins.n; i++) {
        if (!str_eq(s->opt.disabled_plugins.items[i], "ServiceAccount"))
            return err_set(e, -EINVAL, "the admission plugin %s cannot be disabled", s->opt.disabled_plugins.items[i]);
        rcfg.no_service_accounts = true;
    }
    parse_ports(s->opt.node_ports, &rcfg.node_port_min, &rcfg.node_port_max);
    if ((rc = rules_new(&rcfg, &s->rules, e))) return rc;
    if ((rc = auth_open(s, e))) return rc;
    if ((rc = crd_registry_open(s, e))) return rc;
    if ((rc = admission_open(s, e))) return rc;
    if ((rc = aggregator_open(s, &s->aggregator, e))) return rc;
    if ((rc = audit_open(&s->opt, &s->audit, e))) return rc;
    s->conditions = conditions_start(s);
    return s->conditions ? 0 : err_set(e, -EAGAIN, "no thread for conditions");
}

int apiserver_open(const struct apiserver_options *o, struct apiserver **out, struct err *e) {
    struct apiserver *s = xcalloc(1, sizeof(*s));
    s->opt = *o;
    for (size_t i = 0; i < WRITE_QUEUES; i++) pthread_mutex_init(&s->write_queues[i], NULL);
    for (size_t i = 0; i < WRITE_QUEUES; i++) pthread_mutex_init(&s->quota_queues[i], NULL);
    s->started_ns = mono_ns();
    s->event_end = rbytes_new("}\n", 2);
    s->lists = listcache_new();
    s->metrics = metrics_new();
    s->health = health_new();
    int rc = open_parts(s, e);
    if (rc) {
        apiserver_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void apiserver_close(struct apiserver *s) {
    if (!s) return;
    admission_drain(s);
    presence_stop(s);
    follower_free(s->conditions); /* wakes the housekeeping */
    housekeeping_stop(s);
    aggregator_close(s->aggregator);
    admission_close(s);
    crd_registry_close(s);
    auth_close(s);
    rules_free(s->rules);
    watchcache_close(s->cache);
    listcache_free(s->lists);
    servicealloc_done(s);
    store_close(s->store);
    encryption_free(s->encryption);
    audit_close(s->audit);
    openapi_free(s->openapi);
    rbytes_unref(s->event_end);
    resource_table_free(s->resources);
    for (size_t i = 0; i < WRITE_QUEUES; i++) pthread_mutex_destroy(&s->write_queues[i]);
    for (size_t i = 0; i < WRITE_QUEUES; i++) pthread_mutex_destroy(&s->quota_queues[i]);
    metrics_free(s->metrics);
    health_free(s->health);
    free(s);
}

/* ---- routing ---- */

void request_fail(struct request *q, struct err *e) {
    if (q->watch)
        watch_refuse(q, e);
    else
        respond_err(q, e);
}

bool request_is_long(const struct request *q) {
    static const char *const subs[] = {"log", "exec", "attach", "portforward", "proxy"};
    for (size_t i = 0; q->sub && i < ARRAY_LEN(subs); i++)
        if (str_eq(q->sub->name, subs[i])) return true;
    return false;
}

static uint32_t verb_bit(const char *verb) {
    for (uint32_t i = 0; i < 8; i++)
        if (str_eq(verb, resource_verb_name(1u << i))) return 1u << i;
    return 0;
}

static int no_method(struct request *q, struct err *e) {
    int rc = err_status(e, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    if (q->res->custom) err_details(e, q->res->group, q->res->plural, NULL);
    return rc;
}

/* What upstream's router and storage say of names that no path can hold. */
static int check_path(const struct request *q, struct err *e) {
    const char *p = q->http->path, *twice = strstr(p + 1, "//");
    if (twice && twice[strspn(twice, "/")])
        return err_status(e, 404, "NotFound", "the server could not find the requested resource");
    if (str_eq(q->ns, ".") || str_eq(q->ns, ".."))
        return err_status(e, 500, "InternalError", "Internal error occurred: name may not be '%s'", q->ns);
    if (str_eq(q->name, ".") || str_eq(q->name, ".."))
        return err_status(e, 400, "BadRequest", "name may not be '%s'", q->name);
    return 0;
}

static int check_route(struct request *q, struct err *e) {
    int rc = check_path(q, e);
    if (rc) return rc;
    bool custom_below = q->res && q->res->custom && q->name && q->subresource && (q->ns || !q->res->namespaced);
    if (custom_below && (!q->sub || q->rest[strspn(q->rest, "/")])) return err_not_found(e, q->res, q->name);
    if (!q->res || (q->subresource && !q->sub))
        return err_status(e, 404, "NotFound", "the server could not find the requested resource");
    if (q->res->namespaced && !q->ns && q->name)
        return err_status(e, 404, "NotFound", "the server could not find the requested resource");
    bool below = q->sub && q->rest[strspn(q->rest, "/")] && !request_is_long(q);
    if (below || (!q->res->namespaced && q->ns))
        return err_status(e, 404, "NotFound", "the server could not find the requested resource");
    uint32_t bit = verb_bit(q->verb), allowed = q->sub ? q->sub->verbs : q->res->verbs;
    bool create_named = bit == VERB_CREATE && q->name && !q->sub;
    bool no_ns = q->res->namespaced && !q->ns && (bit == VERB_CREATE || bit == VERB_DELETECOLLECTION);
    bool no_name = !q->name && (bit == VERB_UPDATE || bit == VERB_PATCH);
    bool proxy = q->sub && str_eq(q->sub->name, "proxy");
    if (str_eq(q->http->method, "HEAD") && !q->res->custom && !proxy) return no_method(q, e);
    bool passed_on = proxy && str_eq(q->http->method, "OPTIONS");
    if ((!(allowed & bit) && !passed_on) || create_named || no_ns || no_name) return no_method(q, e);
    if (bit == VERB_PATCH || request_is_long(q)) return 0; /* a patch's content type comes first */
    return request_acceptable(q, e);
}

static bool whole_object(const struct resource_sub *s) {
    static const char *const subs[] = {"status", "approval", "resize", "ephemeralcontainers", "finalize"};
    for (size_t i = 0; i < ARRAY_LEN(subs); i++)
        if (str_eq(s->name, subs[i])) return true;
    return false;
}

static void route_resource(struct request *q) {
    static const struct {
        uint32_t verb;
        void (*fn)(struct request *q);
    } handlers[] = {{VERB_GET, handle_get},       {VERB_LIST, handle_list},
                    {VERB_WATCH, handle_watch},   {VERB_CREATE, handle_create},
                    {VERB_UPDATE, handle_update}, {VERB_PATCH, handle_patch},
                    {VERB_DELETE, handle_delete}, {VERB_DELETECOLLECTION, handle_delete_collection}};
    uint32_t bit = verb_bit(q->verb);
    if (request_is_long(q)) {
        handle_kubelet(q);
    } else if (q->sub && !whole_object(q->sub)) {
        handle_subresource(q);
    } else if (q->res->stored == RES_VIRTUAL) {
        handle_virtual(q);
    } else {
        for (size_t i = 0; i < ARRAY_LEN(handlers); i++)
            if (handlers[i].verb == bit) handlers[i].fn(q);
    }
}

static void route_other(struct request *q) {
    if (discovery_path(q))
        handle_discovery(q);
    else if (str_has_prefix(q->http->path, "/openapi/"))
        handle_openapi(q);
    else if (!handle_plain(q))
        respond_text(q, 404, "404 page not found\n");
}

/* What is stored without effect must not look as if it worked: the cluster's set-up says which kinds those are. */
static void warn_unhonoured(struct request *q) {
    static const char *const writes[] = {"create", "update", "patch"};
    const struct flag_list *l = &q->s->opt.unhonoured;
    bool write = false;
    for (size_t i = 0; i < ARRAY_LEN(writes); i++) write |= str_eq(q->verb, writes[i]);
    for (size_t i = 0; write && i < l->n; i++)
        if (str_eq(l->items[i], q->res->plural))
            request_warn(q, "%s are stored, but nothing in this cluster acts on them yet", q->res->plural);
}

/* ?timeout= bounds how long a call may take here; no call takes long, so it only has to be right. */
static int check_timeout(struct request *q, struct err *e) {
    const char *text = http_query(q->http, "timeout");
    int64_t ns;
    if (str_empty(text) || q->watch || request_is_long(q) || !duration_parse(text, &ns)) return 0;
    return err_status(e, 400, "BadRequest",
                      "invalid timeout specified in the request URL - time: invalid duration \"%.60s\"", text);
}

/* No API answers: there is no such group, or it is one of definitions, none of which has that name, version and scope. */
static bool nobodys(struct request *q) {
    const struct resource *r = q->res;
    bool across = str_eq(q->verb, "list") || str_eq(q->verb, "watch");
    if (!r)
        return !resource_group_known(q->s->resources, q->group, NULL) ||
               resource_group_custom(q->s->resources, q->group);
    return r->custom && (r->namespaced ? !q->ns && !across : q->ns != NULL);
}

void server_process(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_crd_schema_ struct crd_schema *schema = NULL; /* for as long as the request is worked on */
    int rc = check_timeout(q, &e);
    if (!rc) rc = request_authorize(q, &e);
    if (!rc && q->back) {
        aggregator_handle(q);
        return;
    }
    if (!rc && q->is_resource && nobodys(q)) {
        respond_text(q, 404, "404 page not found\n");
        return;
    }
    if (!rc && q->is_resource) rc = check_route(q, &e);
    if (!rc && q->res && q->res->custom) rc = crd_schema_get(q, &schema, &e);
    if (!rc && q->res && q->res->deprecated && !str_eq(q->verb, "watch")) request_warn(q, "%s", q->res->deprecated);
    if (!rc && q->res && q->res->deprecated) audit_annotate(q, "k8s.io/deprecated", "true");
    if (!rc && q->res && !q->res->custom && str_empty(q->subresource)) warn_unhonoured(q);
    if (rc)
        request_fail(q, &e);
    else if (q->is_resource)
        route_resource(q);
    else
        route_other(q);
}
