/* serviceaccounts/token: signs a token for a service account, bound to a pod, secret or node when asked
 * (upstream: registry/core/serviceaccount/storage/token.go). */
#include "apiserver/handlers.h"
#include "apiserver/subresources.h"
#include "apiserver/write.h"
#include "pkg/pki/jwt.h"

enum {
    TOKEN_DEFAULT_S = 3600,
    TOKEN_MIN_S = 600,
    TOKEN_WARN_S = 3607, /* what old clients' volumes ask for: such tokens live on for a year */
    TOKEN_EXTENDED_S = 365 * 24 * 3600,
};

static int invalid(struct err *e, const char *field, const char *reason, const char *why) {
    err_status(e, 422, "Invalid", "TokenRequest.authentication.k8s.io \"\" is invalid: %s: %s", field, why);
    err_details(e, "authentication.k8s.io", "TokenRequest", NULL);
    err_cause_add(e, reason, field, "%s", why);
    return -EINVAL;
}

/* The object the token is bound to: exists, and has the uid that was asked for. */
static int bind_object(struct request *q, const struct json *ref, struct sa_token *t, struct err *e) {
    const char *kind = json_get_str(ref, "kind"), *name = str_or_empty(json_get_str(ref, "name")),
               *uid = json_get_str(ref, "uid");
    bool pod = str_eq(kind, "Pod"), secret = str_eq(kind, "Secret"), node = str_eq(kind, "Node");
    if (!pod && !secret && !node)
        return err_status(e, 400, "BadRequest", "cannot bind token for serviceaccount \"%s\" to an object of kind %s",
                          q->name, str_or_empty(kind));
    const struct resource *r = resource_find(q->s->resources, "", "v1", pod ? "pods" : secret ? "secrets" : "nodes");
    _cleanup_object_ struct object *o = watchcache_get(q->s->cache, r, node ? NULL : q->ns, name);
    if (!o) return err_not_found(e, r, name);
    const struct json *v = object_tree(q->a, o);
    const char *have = json_as_str(json_at(v, "metadata", "uid", NULL));
    if (!str_empty(uid) && !str_eq(uid, have))
        return err_conflict(e, r, name,
                            arena_printf(q->a,
                                         "the UID in the bound object reference (%s) does not match the UID in record. "
                                         "The object might have been deleted and then recreated",
                                         uid));
    if (pod) {
        const char *sa = json_as_str(json_at(v, "spec", "serviceAccountName", NULL));
        if (!str_eq(sa, q->name))
            return err_status(
                e, 400, "BadRequest",
                "cannot bind token for serviceaccount \"%s\" to pod running with different serviceaccount name.",
                q->name);
        t->pod_name = name, t->pod_uid = have;
        t->node_name = json_as_str(json_at(v, "spec", "nodeName", NULL));
        if (str_empty(t->node_name)) t->node_name = NULL;
        if (t->node_name) {
            _cleanup_object_ struct object *n =
                watchcache_get(q->s->cache, resource_find(q->s->resources, "", "v1", "nodes"), NULL, t->node_name);
            t->node_uid = n ? json_as_str(json_at(object_tree(q->a, n), "metadata", "uid", NULL)) : NULL;
        }
    }
    if (secret) t->secret_name = name, t->secret_uid = have;
    if (node) t->node_name = name, t->node_uid = have;
    return 0;
}

static void fill_audiences(struct request *q, struct json *spec, struct sa_token *t) {
    struct json *list = json_get(spec, "audiences"), *x;
    if (!json_len(list)) {
        list = json_set(q->a, spec, "audiences", json_array(q->a));
        for (size_t i = 0; i < q->s->n_audiences; i++) json_append(q->a, list, json_str(q->a, q->s->audiences[i]));
    }
    const char **auds = arena_alloc(q->a, (json_len(list) + 1) * sizeof(*auds));
    JSON_FOREACH(x, list) auds[t->n_audiences++] = str_or_empty(json_as_str(x));
    t->audiences = auds;
}

static int issue(struct request *q, struct json *body, const struct object *sa, struct err *e) {
    struct arena *a = q->a;
    struct json *spec = json_ensure_object(a, body, "spec"), *ref = json_get(spec, "boundObjectRef");
    struct ktime now = ktime_now();
    char text[KTIME_MAX], *token = NULL;
    struct sa_token t = {.issuer = q->s->opt.sa_issuer, .ns = q->ns, .name = q->name};
    if (!q->s->signer)
        return err_status(e, 404, "NotFound", "the server has no key to sign service-account tokens with");
    t.uid = json_as_str(json_at(object_tree(a, sa), "metadata", "uid", NULL));
    int64_t seconds = json_get_int(spec, "expirationSeconds", TOKEN_DEFAULT_S);
    if (seconds < TOKEN_MIN_S)
        return invalid(e, "spec.expirationSeconds", "FieldValueInvalid",
                       "may not specify a duration less than 10 minutes");
    if (seconds > (int64_t)1 << 32)
        return invalid(e, "spec.expirationSeconds", "FieldValueInvalid",
                       "may not specify a duration larger than 2^32 seconds");
    json_set_int(a, spec, "expirationSeconds", seconds);
    if (json_is(ref, JSON_OBJECT)) {
        int rc = bind_object(q, ref, &t, e);
        if (rc) return rc;
    } else {
        json_set(a, spec, "boundObjectRef", json_null(a));
    }
    fill_audiences(q, spec, &t);
    t.expires_in = seconds;
    if (seconds == TOKEN_WARN_S && t.pod_name) {
        t.warn_after_in = seconds;
        t.expires_in = TOKEN_EXTENDED_S;
    }
    int rc = jwt_sign(q->s->signer, a, sa_token_claims(a, &t, now), &token, e);
    if (rc) return rc;
    struct json *status = json_object(a);
    struct json *meta = json_ensure_object(a, body, "metadata");
    json_set_str(a, meta, "name", q->name);
    json_set_str(a, meta, "namespace", q->ns);
    json_set_str(a, meta, "uid", t.uid);
    json_set_str(a, meta, "creationTimestamp", ktime_format(now, text));
    json_set_str(a, status, "token", token);
    json_set_str(a, status, "expirationTimestamp", ktime_format(ktime_add_ns(now, seconds * NS_PER_SEC), text));
    json_set(a, body, "status", status);
    return 0;
}

/* A request that names its account names the right one. */
static int check_metadata(struct request *q, struct json *body, const struct object *sa, struct err *e) {
    const struct json *meta = json_get(body, "metadata");
    const char *name = json_get_str(meta, "name"), *ns = json_get_str(meta, "namespace"),
               *uid = json_get_str(meta, "uid"),
               *have = json_as_str(json_at(object_tree(q->a, sa), "metadata", "uid", NULL));
    if (!str_empty(ns) && !str_eq(ns, q->ns))
        return err_status(e, 400, "BadRequest",
                          "the namespace of the provided object does not match the namespace sent on the request");
    if (!str_empty(name) && !str_eq(name, q->name))
        return invalid(e, "metadata.name", "FieldValueInvalid", "must match the service account name if specified");
    if (str_empty(uid) || str_eq(uid, have)) return 0;
    err_status(e, 409, "Conflict", "the UID in the token request (%s) is not that of the service account (%s)", uid,
               have);
    err_details(e, "authentication.k8s.io", "TokenRequest", q->name);
    return -EEXIST;
}

void handle_token(struct request *q) {
    _cleanup_err_ struct err e = {0};
    struct json *body = NULL;
    const struct api_type *type = api_type_find("authentication.k8s.io", "v1", "TokenRequest");
    bool dry_run;
    int rc = body_of_write(q, type, "authentication.k8s.io/v1", "TokenRequest", "CreateOptions", &dry_run, &body, &e);
    _cleanup_object_ struct object *sa = rc ? NULL : write_current(q->s, q->res, q->ns, q->name, false);
    if (!rc && !sa) rc = err_not_found(&e, q->res, q->name);
    static const struct rules_kind kind = {"authentication.k8s.io", "v1", "TokenRequest", "serviceaccounts", true};
    if (!rc) rc = write_admit_body(q, RULES_CREATE, &kind, "token", false, body, NULL, &e);
    if (!rc) rc = check_metadata(q, body, sa, &e);
    if (!rc) {
        struct json *spec = json_ensure_object(q->a, body, "spec");
        if (!json_is(json_get(spec, "expirationSeconds"), JSON_INT))
            json_set_int(q->a, spec, "expirationSeconds", TOKEN_DEFAULT_S);
        own_fields(q, type, body);
        rc = issue(q, body, sa, &e);
    }
    if (rc)
        respond_err(q, &e);
    else
        respond_tree(q, 201, type, body);
}
