/* Virtual resources: answered from the request, nothing is stored. Reviews of who somebody is and what they may do,
 * bindings, and componentstatuses. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "apiserver/asked.h"
#include "apiserver/handlers.h"
#include "apiserver/review_check.h"
#include "apiserver/subresources.h"
#include "apiserver/write.h"

static const char *str_of(const struct json *o, const char *key) { return str_or_empty(json_get_str(o, key)); }

static void strings_of(struct arena *a, const struct json *list, const char ***out, size_t *n) {
    struct json *x;
    *out = arena_alloc(a, (json_len(list) + 1) * sizeof(**out));
    *n = 0;
    JSON_FOREACH(x, list) {
        if (json_as_str(x)) (*out)[(*n)++] = json_as_str(x);
    }
}

/* ---- access reviews ---- */

static void attrs_of(struct request *q, const struct json *spec, const struct user_info *u, struct authz_attrs *out) {
    const struct json *r = json_get(spec, "resourceAttributes"), *n = json_get(spec, "nonResourceAttributes");
    *out = (struct authz_attrs){.user = u};
    if (json_is(n, JSON_OBJECT)) {
        out->verb = str_of(n, "verb");
        out->path = str_of(n, "path");
        return;
    }
    out->resource_request = true;
    out->verb = str_of(r, "verb");
    out->group = str_of(r, "group");
    out->version = str_of(r, "version");
    out->resource = str_of(r, "resource");
    out->subresource = str_of(r, "subresource");
    out->ns = str_of(r, "namespace");
    out->name = str_of(r, "name");
    bool all;
    out->fields = asked_in_review(q->a, json_get(r, "fieldSelector"), false, &all);
    out->labels = asked_in_review(q->a, json_get(r, "labelSelector"), true, &all);
}

static void spec_user(struct arena *a, const struct json *spec, struct user_info *u) {
    *u = (struct user_info){.name = str_of(spec, "user"), .uid = str_of(spec, "uid")};
    strings_of(a, json_get(spec, "groups"), &u->groups, &u->n_groups);
    const struct json *extra = json_get(spec, "extra");
    u->extra = arena_zalloc(a, (json_len(extra) + 1) * sizeof(*u->extra));
    JSON_FOREACH_MEMBER(m, extra) {
        struct user_extra *x = &u->extra[u->n_extra++];
        x->key = m->key;
        strings_of(a, m->value, &x->values, &x->n);
    }
}

static int review_access(struct request *q, struct json *v, struct err *e) {
    struct arena *a = q->a;
    struct json *spec = json_ensure_object(a, v, "spec"), *status = json_object(a);
    bool self = str_eq(q->res->plural, "selfsubjectaccessreviews");
    struct user_info other, *u = &q->user;
    struct authz_attrs at;
    const char *reason = NULL, *error = NULL, *ignored = review_ignored(a, spec);
    int rc = review_check(q, v, e);
    if (rc) return rc;
    if (!self) {
        spec_user(a, spec, &other);
        u = &other;
    }
    attrs_of(q, spec, u, &at);
    enum authz_decision d = authz_ask(q->s->authz, a, &at, &reason, &error);
    json_set_bool(a, status, "allowed", d == AUTHZ_ALLOW);
    if (d == AUTHZ_DENY) json_set_bool(a, status, "denied", true);
    if (!str_empty(reason)) json_set_str(a, status, "reason", reason);
    if (error && ignored) ignored = arena_printf(a, "%s; %s", error, ignored);
    if (error || ignored) json_set_str(a, status, "evaluationError", ignored ? ignored : error);
    json_set(a, v, "status", status);
    return 0;
}

static int review_rules(struct request *q, struct json *v, struct err *e) {
    const char *ns = json_as_str(json_at(v, "spec", "namespace", NULL));
    if (str_empty(ns)) return err_status(e, 400, "BadRequest", "no namespace on request");
    json_set(q->a, v, "status", authz_rules(q->s->authz, q->a, &q->user, ns));
    json_set(q->a, v, "spec", json_object(q->a));
    json_set(q->a, v, "metadata", json_object(q->a));
    return 0;
}

/* ---- identity reviews ---- */

static int review_self(struct request *q, struct json *v, struct err *e) {
    char now[KTIME_MAX];
    struct json *status = json_object(q->a);
    json_set_str(q->a, json_set(q->a, v, "metadata", json_object(q->a)), "creationTimestamp",
                 ktime_format(ktime_now(), now));
    json_set(q->a, status, "userInfo", user_to_json(q->a, &q->user));
    json_set(q->a, v, "status", status);
    return 0;
}

static int review_token(struct request *q, struct json *v, struct err *e) {
    struct arena *a = q->a;
    struct json *spec = json_get(v, "spec"), *status = json_object(a), *matched = NULL;
    const char *token = json_get_str(spec, "token"), **auds;
    struct user_info u = {0};
    size_t n;
    _cleanup_err_ struct err why = {0};
    if (str_empty(token))
        return err_status(e, 400, "BadRequest", "token is required for TokenReview in authentication");
    strings_of(a, json_get(spec, "audiences"), &auds, &n);
    if (authn_token(q->s->authn, a, token, auds, n, &u, &matched, &why) == 0) {
        json_set_bool(a, status, "authenticated", true);
        json_set(a, status, "user", user_to_json(a, &u));
        if (json_len(matched)) json_set(a, status, "audiences", matched);
    } else {
        json_set(a, status, "user", json_object(a));
        bool jwt = strchr(token, '.') && strchr(strchr(token, '.') + 1, '.'); /* it was looked into */
        bool known = why.msg[0] && !str_eq(why.msg, "unknown token");
        json_set_str(a, status, "error",
                     known && q->s->token_webhook ? why.msg /* the webhook's own words */
                     : known && jwt               ? arena_printf(a, "[invalid bearer token, %s]", why.msg)
                                                  : "invalid bearer token");
    }
    json_set(a, v, "status", status);
    return 0;
}

/* ---- componentstatuses ---- */

enum { SCHEDULER_PORT = 10259, CONTROLLERS_PORT = 10257 };

static bool port_open(uint16_t port) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
}

static struct json *component(struct arena *a, const char *name, bool ok, const char *message) {
    struct json *v = json_object(a), *c = json_object(a);
    json_set_str(a, json_ensure_object(a, v, "metadata"), "name", name);
    json_set_str(a, c, "type", "Healthy");
    json_set_str(a, c, "status", ok ? "True" : "False");
    json_set_str(a, c, "message", message);
    json_append(a, json_ensure_array(a, v, "conditions"), c);
    return v;
}

static struct json *remote_component(struct arena *a, const char *name, uint16_t port) {
    if (port_open(port)) return component(a, name, true, "ok");
    return component(
        a, name, false,
        arena_printf(a, "Get \"https://127.0.0.1:%u/healthz\": dial tcp 127.0.0.1:%u: connect: connection refused",
                     port, port));
}

static void component_statuses(struct request *q) {
    struct arena *a = q->a;
    struct json *items = json_array(a), *x;
    int64_t rev;
    json_append(a, items, remote_component(a, "controller-manager", CONTROLLERS_PORT));
    json_append(a, items, remote_component(a, "scheduler", SCHEDULER_PORT));
    json_append(a, items, component(a, "etcd-0", store_current_rev(q->s->store, &rev, NULL) == 0, "ok"));
    if (!q->name) {
        struct json *list = json_object(a);
        json_set_str(a, list, "kind", "ComponentStatusList");
        json_set_str(a, list, "apiVersion", "v1");
        json_set(a, list, "metadata", json_object(a));
        json_set(a, list, "items", items);
        respond_tree(q, 200, api_type_find("", "v1", "ComponentStatusList"), list);
        return;
    }
    JSON_FOREACH(x, items) {
        if (!str_eq(json_as_str(json_at(x, "metadata", "name", NULL)), q->name)) continue;
        json_set_str(a, x, "kind", "ComponentStatus");
        json_set_str(a, x, "apiVersion", "v1");
        respond_tree(q, 200, q->res->type, x);
        return;
    }
    _cleanup_err_ struct err e = {0};
    err_not_found(&e, q->res, q->name);
    err_details(&e, NULL, "componentstatus", NULL); /* as upstream calls it */
    respond_err(q, &e);
}

static const struct {
    const char *plural;
    int (*fn)(struct request *q, struct json *v, struct err *e);
} reviews[] = {{"tokenreviews", review_token},
               {"selfsubjectreviews", review_self},
               {"subjectaccessreviews", review_access},
               {"selfsubjectaccessreviews", review_access},
               {"localsubjectaccessreviews", review_access},
               {"selfsubjectrulesreviews", review_rules}};

void own_fields(struct request *q, const struct api_type *type, struct json *v) {
    struct rules_ctx c = {.rules = q->s->rules, .a = q->a, .type = type, .now = ktime_now(), .op = RULES_CREATE};
    const char *gv = str_or_empty(json_get_str(v, "apiVersion")), *slash = strchr(gv, '/');
    c.group = slash ? arena_strndup(q->a, gv, (size_t)(slash - gv)) : "";
    c.version = slash ? slash + 1 : gv;
    c.kind = json_get_str(v, "kind");
    c.subresource = q->subresource;
    c.field_manager = request_manager(q);
    managed_fields_update(&c, v, NULL);
}

/* What only the server says, and the namespace, which is the URL's. */
static int review_metadata(struct request *q, struct json *v, struct err *e) {
    static const char *const own[] = {"uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
                                      "selfLink"};
    struct json *meta = json_ensure_object(q->a, v, "metadata");
    const char *ns = str_of(meta, "namespace");
    for (size_t i = 0; i < ARRAY_LEN(own); i++) json_del(meta, own[i]);
    if (!q->res->namespaced)
        json_del(meta, "namespace");
    else if (!*ns)
        json_set_str(q->a, meta, "namespace", q->ns);
    else if (!str_eq(ns, q->ns))
        return err_status(e, 400, "BadRequest",
                          "the namespace of the provided object does not match the namespace sent on the request");
    return 0;
}

void handle_virtual(struct request *q) {
    _cleanup_err_ struct err e = {0};
    struct json *v = NULL;
    if (str_eq(q->res->plural, "bindings")) {
        handle_binding(q);
        return;
    }
    if (str_eq(q->res->plural, "componentstatuses")) {
        component_statuses(q);
        return;
    }
    bool dry_run;
    int rc = body_of_write(q, q->res->type, resource_api_version(q->a, q->res), q->res->kind, "CreateOptions", &dry_run,
                           &v, &e);
    if (!rc) rc = review_metadata(q, v, &e);
    if (!rc) rc = write_admit_body(q, RULES_CREATE, NULL, NULL, false, v, NULL, &e);
    if (!rc && !str_has_prefix(q->res->plural, "selfsubjectr")) own_fields(q, q->res->type, v);
    for (size_t i = 0; !rc && i < ARRAY_LEN(reviews); i++)
        if (str_eq(reviews[i].plural, q->res->plural)) rc = reviews[i].fn(q, v, &e);
    if (rc)
        respond_err(q, &e);
    else
        respond_tree(q, 201, q->res->type, v);
}
