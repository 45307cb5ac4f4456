/* Admission webhooks: an AdmissionReview for each webhook whose rules, namespace selector and object selector
 * match the write, sent as JSON over HTTPS, and what its answer does.
 *
 *   mutating     in the order of the configurations' names; each sees what those before made of the object.
 * One more round for those with reinvocationPolicy IfNeeded when a later one changed it. validating   after
 * all changes; the first refusal counts
 *
 * A call that fails refuses the write (500) or is ignored, as failurePolicy says. The address of a Service is
 * taken from its Endpoints, so that the server needs no route to cluster IPs; without any, its cluster IP is
 * used. Configurations themselves are never sent to webhooks. Upstream:
 * apiserver/pkg/admission/plugin/webhook.
 *
 * Not done: matchConditions (CEL); a webhook that has them counts as failed. */
#include "apiserver/rules/webhook.h"

#include "apiserver/rules/hook_client.h"
#include "pkg/base/bytes.h"
#include "pkg/json/patch.h"

enum { ANSWER_MAX = 3 << 20 };

#define GROUP "admissionregistration.k8s.io"

/* ---- matching ---- */

static bool list_matches(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), "*") || str_eq(json_as_str(it), s)) return true;
    return false;
}

static const char *operation(const struct rules_ctx *c) {
    return c->op == RULES_CREATE ? "CREATE" : c->op == RULES_UPDATE ? "UPDATE" : "DELETE";
}

/* Resource and subresource, each by name or "*". */
static bool resource_matches(const struct rules_ctx *c, const struct json *list) {
    const struct json *it;
    const char *sub = str_or_empty(c->subresource);
    JSON_FOREACH(it, list) {
        const char *s = str_or_empty(json_as_str(it)), *slash = strchr(s, '/');
        size_t n = slash ? (size_t)(slash - s) : strlen(s);
        bool name = (n == 1 && *s == '*') || (strlen(c->resource) == n && strncmp(s, c->resource, n) == 0);
        bool rest = slash ? str_eq(slash + 1, "*") || str_eq(slash + 1, sub) : !*sub;
        if (name && rest) return true;
    }
    return false;
}

static bool scope_matches(const struct rules_ctx *c, const char *scope) {
    bool namespaced = c->namespaced && !str_empty(c->ns);
    return str_in(scope, ONE_OF("", "*")) || str_eq(scope, namespaced ? "Namespaced" : "Cluster");
}

static bool rule_matches(const struct rules_ctx *c, const struct json *r) {
    const struct json *groups = json_get(r, "apiGroups"), *versions = json_get(r, "apiVersions");
    bool gv = list_matches(groups, str_or_empty(c->group)) && list_matches(versions, c->version);
    if (!gv && c->request_group)
        gv = list_matches(groups, c->request_group) &&
             list_matches(versions, str_or_empty(c->request_version));
    return gv && list_matches(json_get(r, "operations"), operation(c)) &&
           resource_matches(c, json_get(r, "resources")) && scope_matches(c, jstr(r, "scope"));
}

static const struct json *namespace_labels(struct rules_ctx *c, const struct json *obj) {
    if (str_empty(c->group) && str_eq(c->kind, "Namespace")) return json_at(obj, "metadata", "labels", NULL);
    if (!c->namespaced || str_empty(c->ns)) return NULL;
    return json_at(admission_get(c, "", "namespaces", NULL, c->ns), "metadata", "labels", NULL);
}

static bool hook_matches(struct rules_ctx *c, const struct json *hook, const struct json *obj,
                         const struct json *old) {
    const struct json *r, *any = obj ? obj : old;
    const struct json *ns_sel = json_get(hook, "namespaceSelector"),
                      *obj_sel = json_get(hook, "objectSelector");
    bool rule = false, is_ns = str_empty(c->group) && str_eq(c->kind, "Namespace");
    JSON_FOREACH(r, json_get(hook, "rules")) rule |= rule_matches(c, r);
    if (!rule) return false;
    if (json_len(ns_sel) && (c->namespaced || is_ns) && !selector_matches(ns_sel, namespace_labels(c, any)))
        return false;
    return !json_len(obj_sel) ||
           (obj && selector_matches(obj_sel, json_at(obj, "metadata", "labels", NULL))) ||
           (old && selector_matches(obj_sel, json_at(old, "metadata", "labels", NULL)));
}

/* ---- the review ---- */

static struct json *gvk(struct arena *a, const char *group, const char *version, const char *key,
                        const char *name) {
    struct json *o = json_object(a);
    json_set_str(a, o, "group", str_or_empty(group));
    json_set_str(a, o, "version", str_or_empty(version));
    json_set_str(a, o, key, name);
    return o;
}

static struct json *options(struct rules_ctx *c) {
    struct json *o = json_object(c->a);
    const char *kind = c->op == RULES_CREATE   ? "CreateOptions"
                       : c->op == RULES_UPDATE ? "UpdateOptions"
                                               : "DeleteOptions";
    json_set_str(c->a, o, "apiVersion", "meta.k8s.io/v1");
    json_set_str(c->a, o, "kind", kind);
    return o;
}

static struct json *with_type(struct rules_ctx *c, const struct json *obj) {
    if (!obj) return json_null(c->a);
    struct json *o = json_clone(c->a, obj);
    const char *gv = str_empty(c->group) ? c->version : arena_printf(c->a, "%s/%s", c->group, c->version);
    if (!*jstr(o, "kind")) json_set_str(c->a, o, "kind", c->kind);
    if (!*jstr(o, "apiVersion")) json_set_str(c->a, o, "apiVersion", gv);
    return o;
}

static struct json *review(struct rules_ctx *c, const struct json *obj, const struct json *old,
                           const char *uid) {
    struct arena *a = c->a;
    struct json *top = json_object(a), *r = json_object(a), *user = json_object(a), *groups = json_array(a);
    const char *rg = c->request_group ? c->request_group : c->group,
               *rv = c->request_version ? c->request_version : c->version;
    const char *name = c->name ? c->name : json_as_str(json_at(obj ? obj : old, "metadata", "name", NULL));
    json_set_str(a, top, "kind", "AdmissionReview");
    json_set_str(a, top, "apiVersion", "admission.k8s.io/v1");
    json_set(a, top, "request", r);
    json_set_str(a, r, "uid", uid);
    json_set(a, r, "kind", gvk(a, c->group, c->version, "kind", c->kind));
    json_set(a, r, "resource", gvk(a, c->group, c->version, "resource", c->resource));
    json_set(a, r, "requestKind", gvk(a, rg, rv, "kind", c->kind));
    json_set(a, r, "requestResource", gvk(a, rg, rv, "resource", c->resource));
    if (!str_empty(c->subresource)) {
        json_set_str(a, r, "subResource", c->subresource);
        json_set_str(a, r, "requestSubResource", c->subresource);
    }
    if (!str_empty(name)) json_set_str(a, r, "name", name);
    if (c->namespaced)
        json_set_str(a, r, "namespace", str_or_empty(c->ns));
    else if (str_eq(c->kind, "Namespace") && str_empty(c->group))
        json_set_str(a, r, "namespace", str_or_empty(name));
    json_set_str(a, r, "operation", operation(c));
    json_set_str(a, user, "username", str_or_empty(c->user));
    for (size_t i = 0; i < c->n_groups; i++) json_append(a, groups, json_str(a, c->groups[i]));
    json_set(a, user, "groups", groups);
    json_set(a, r, "userInfo", user);
    json_set(a, r, "object", with_type(c, obj));
    json_set(a, r, "oldObject", with_type(c, old));
    json_set_bool(a, r, "dryRun", c->dry_run);
    json_set(a, r, "options", options(c));
    return top;
}

/* ---- calling ---- */

/* Calls one webhook: its response object in *out. */
static int call(struct rules_ctx *c, const struct json *hook, const struct json *obj, const struct json *old,
                struct json **out, struct err *e) {
    struct json *answer = NULL;
    char uid[37];
    uuid_new(uid);
    if (json_len(json_get(hook, "matchConditions")))
        return err_set(e, -ENOTSUP, "matchConditions are not evaluated by this server");
    struct hook_request q = {.client_config = json_get(hook, "clientConfig"),
                             .body = review(c, obj, old, uid),
                             .seconds = json_get_int(hook, "timeoutSeconds", 10),
                             .max_bytes = ANSWER_MAX};
    int r = hook_call(c->rules, c->a, &q, &answer, e);
    if (r < 0) return err_wrap(e, "failed to call webhook"), r;
    struct json *resp = json_get(answer, "response");
    if (!json_is(resp, JSON_OBJECT)) return err_set(e, -EPROTO, "the answer has no response");
    if (!str_eq(json_get_str(resp, "uid"), uid))
        return err_set(e, -EPROTO, "the answer's uid is not the request's");
    *out = resp;
    return 0;
}

static int denied(const char *name, const struct json *resp, struct err *e) {
    const struct json *st = json_get(resp, "status");
    int64_t code = json_get_int(st, "code", 0);
    const char *msg = jstr(st, "message"), *reason = jstr(st, "reason");
    static const char *const known[] = {"Forbidden",    "Invalid",          "BadRequest",
                                        "Conflict",     "NotFound",         "AlreadyExists",
                                        "Unauthorized", "MethodNotAllowed", NULL};
    const char *given = NULL;
    for (size_t i = 0; known[i]; i++)
        if (str_eq(known[i], reason)) given = known[i];
    if (code < 400 || code > 599) code = 400;
    if (!*msg && !*reason)
        return err_status(e, (int)code, given,
                          "admission webhook \"%s\" denied the request without explanation", name);
    return err_status(e, (int)code, given, "admission webhook \"%s\" denied the request: %s", name,
                      *msg ? msg : reason);
}

/* What a webhook says about the write, with failurePolicy applied. *resp NULL: nothing (ignored). */
static int ask(struct rules_ctx *c, const struct json *hook, const struct json *obj, const struct json *old,
               struct json **resp, struct err *e) {
    const char *name = jstr(hook, "name");
    _cleanup_err_ struct err why = {0};
    const struct json *w;
    *resp = NULL;
    if (c->dry_run && !str_in(jstr(hook, "sideEffects"), ONE_OF("None", "NoneOnDryRun")))
        return err_status(e, 400, "BadRequest", "admission webhook \"%s\" does not support dry run", name);
    if (call(c, hook, obj, old, resp, &why) < 0) {
        *resp = NULL;
        if (str_eq(jstr(hook, "failurePolicy"), "Ignore")) return 0;
        return err_status(e, 500, "InternalError",
                          "Internal error occurred: failed calling webhook \"%s\": %s", name, why.msg);
    }
    JSON_FOREACH(w, json_get(*resp, "warnings"))
        if (json_as_str(w)) rules_warn(c, "%s", json_as_str(w));
    return json_get_bool(*resp, "allowed", false) ? 0 : denied(name, *resp, e);
}

/* ---- mutating ---- */

static int apply_patch(struct rules_ctx *c, const struct json *hook, const struct json *resp,
                       struct json *obj, bool *changed, struct err *e) {
    const char *b64 = jstr(resp, "patch");
    _cleanup_err_ struct err why = {0};
    struct json *patch = NULL, *out = NULL, *clean = NULL;
    *changed = false;
    if (!*b64) return 0;
    size_t n = strlen(b64);
    char *text = arena_alloc(c->a, n / 4 * 3 + 4);
    int r = base64_decode(b64, n, text, &n);
    if (r == 0 && !str_eq(jstr(resp, "patchType"), "JSONPatch"))
        r = err_set(&why, -EINVAL, "patchType must be JSONPatch");
    if (r == 0) r = json_parse(c->a, text, n, &patch, NULL, &why);
    if (r == 0) r = json_patch(c->a, with_type(c, obj), patch, &out, &why);
    if (r == 0 && c->type) r = api_tree_normalise(c->a, c->type, out, &clean, NULL, &why);
    if (r == 0 && !c->type) {
        r = crd_normalise(c, out, NULL, &why);
        clean = out;
    }
    if (r < 0)
        return err_status(e, 500, "InternalError",
                          "Internal error occurred: the patch of webhook \"%s\" does not apply: %s",
                          jstr(hook, "name"), why.msg);
    rules_default(c, clean);
    *changed = !json_equal(clean, obj);
    *obj = *clean;
    return 0;
}

static int by_name(const void *x, const void *y) {
    const struct json *const *a = x, *const *b = y;
    return strcmp(jstr(json_get(*a, "metadata"), "name"), jstr(json_get(*b, "metadata"), "name"));
}

/* All webhooks of a kind of configuration that match, in order. */
static const struct json **matching(struct rules_ctx *c, const char *resource, const struct json *obj,
                                    const struct json *old, size_t *n) {
    const struct json *list = admission_list(c, GROUP, resource, NULL), *it, *hook;
    const struct json **confs = arena_alloc(c->a, (json_len(list) + 1) * sizeof(*confs)), **hooks = NULL;
    size_t n_confs = 0, cap = 0;
    *n = 0;
    JSON_FOREACH(it, list) confs[n_confs++] = it;
    if (n_confs > 1) qsort(confs, n_confs, sizeof(*confs), by_name);
    for (size_t i = 0; i < n_confs; i++)
        JSON_FOREACH(hook, json_get(confs[i], "webhooks")) {
            if (!hook_matches(c, hook, obj, old)) continue;
            ARENA_GROW(c->a, hooks, *n, cap);
            hooks[(*n)++] = hook;
        }
    return hooks;
}

static bool exempt(const struct rules_ctx *c) { return str_eq(c->group, GROUP); }

int webhooks_mutate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    size_t n, last_change = 0;
    if (exempt(c)) return 0;
    const struct json **hooks = matching(c, "mutatingwebhookconfigurations", obj, old, &n);
    for (size_t round = 0; round < 2; round++)
        for (size_t i = 0; i < n; i++) {
            struct json *resp;
            bool changed = false;
            if (round && (i + 1 >= last_change || !str_eq(jstr(hooks[i], "reinvocationPolicy"), "IfNeeded")))
                continue;
            int r = ask(c, hooks[i], obj, old, &resp, e);
            if (r == 0 && resp && obj) r = apply_patch(c, hooks[i], resp, obj, &changed, e);
            if (r < 0) return r;
            if (changed && !round) last_change = i + 1;
        }
    return 0;
}

int webhooks_validate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    size_t n;
    if (exempt(c)) return 0;
    if (c->op == RULES_DELETE) { /* a delete has no other occasion to ask mutating webhooks */
        int r = webhooks_mutate(c, NULL, old, e);
        if (r < 0) return r;
    }
    const struct json **hooks = matching(c, "validatingwebhookconfigurations", obj, old, &n);
    for (size_t i = 0; i < n; i++) {
        struct json *resp;
        int r = ask(c, hooks[i], obj, old, &resp, e);
        if (r < 0) return r;
    }
    return 0;
}
