/* ValidatingAdmissionPolicy status: type checks the expressions of each new generation of a policy and writes what it finds
 * to status.typeChecking, with status.observedGeneration (upstream pkg/controller/validatingadmissionpolicystatus). Built-in
 * kinds are known by their descriptors; for others the server is asked: discovery for the kind behind a resource, OpenAPI
 * for its schema. */
#include "manager.h"
#include "policytypes.h"

#define MANAGER "validatingadmissionpolicy-status"

struct status_controller {
    struct manager *m;
};

/* What one reconcile has fetched. */
struct server_types {
    struct client *client;
    struct arena *a;
};

static struct json *fetch(struct server_types *s, const char *format, const char *group, const char *version) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyz0123456789.-";
    if (!*version || strspn(group, plain) != strlen(group) || strspn(version, plain) != strlen(version)) return NULL;
    const char *gv = *group ? arena_printf(s->a, "apis/%s/%s", group, version) : arena_printf(s->a, "api/%s", version);
    struct client_request rq = {.method = "GET", .path = arena_printf(s->a, "%s%s", format, gv)};
    struct client_response resp = {0};
    struct json *out = NULL;
    if (client_do(s->client, &rq, &resp, NULL) == 0 && json_parse(s->a, resp.body, resp.len, &out, NULL, NULL) < 0)
        out = NULL;
    client_response_done(&resp);
    return out;
}

static bool kind_of(void *arg, const char *group, const char *version, const char *resource, const char **kind) {
    const struct json *list = json_get(fetch(arg, "/", group, version), "resources"), *it;
    JSON_FOREACH(it, list) {
        const char *name = json_get_str(it, "name"), *k = json_get_str(it, "kind");
        if (!k || !name || strchr(name, '/')) continue;
        if (!str_eq(name, resource) && !str_eq(json_get_str(it, "singularName"), resource)) continue;
        *kind = k;
        return true;
    }
    return false;
}

static const struct cel_type *type_of(void *arg, const char *group, const char *version, const char *kind) {
    struct server_types *s = arg;
    const struct api_type *t = api_type_find(group, version, kind);
    if (t) return cel_type_of_api(s->a, t);
    const struct json *doc = fetch(s, "/openapi/v3/", group, version);
    const struct json *schema = policy_schema(s->a, doc, group, version, kind);
    return schema ? cel_type_of_schema(s->a, schema, kind, true) : NULL;
}

/* The apply configuration of the status. */
static const char *status_of(struct arena *a, const struct admissionregistration_validating_admission_policy *p,
                             const struct admissionregistration_expression_warning_vec *w) {
    struct json *o = json_object(a), *list = NULL;
    json_set_str(a, o, "apiVersion", "admissionregistration.k8s.io/v1");
    json_set_str(a, o, "kind", "ValidatingAdmissionPolicy");
    json_set_str(a, json_ensure_object(a, o, "metadata"), "name", p->metadata.name);
    struct json *status = json_ensure_object(a, o, "status");
    json_set_int(a, status, "observedGeneration", p->metadata.generation);
    struct json *checking = json_ensure_object(a, status, "typeChecking");
    if (w->n) list = json_ensure_array(a, checking, "expressionWarnings");
    for (size_t i = 0; i < w->n; i++) {
        struct json *it = json_object(a);
        json_set_str(a, it, "fieldRef", w->items[i].field_ref);
        json_set_str(a, it, "warning", w->items[i].warning);
        json_append(a, list, it);
    }
    return json_text(a, o);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct status_controller *c = arg;
    const struct client_resource *r = &client_validatingadmissionpolicies;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, r), key);
    if (!o) return 0;
    const struct admissionregistration_validating_admission_policy *p = o->obj;
    if (p->metadata.generation <= p->status.observed_generation) return 0;
    struct server_types s = {c->m->client, a};
    struct policy_source from = {kind_of, type_of, &s};
    struct admissionregistration_expression_warning_vec warnings;
    policy_warnings(a, p, &from, &warnings);
    const char *body = status_of(a, p, &warnings);
    struct client_opts opts = {.cause = o->rv, .field_manager = MANAGER, .subresource = "status", .force = true};
    return client_patch(c->m->client, a, r, NULL, key, CLIENT_PATCH_APPLY, body, strlen(body), &opts, NULL, e);
}

int policystatus_start(struct manager *m, struct err *e) {
    struct status_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    struct workqueue *q = manager_queue(m, MANAGER, 1, reconcile, c, &client_validatingadmissionpolicies, NULL);
    manager_watch_keys(m, &client_validatingadmissionpolicies, q);
    return 0;
}
