/* Access that a webhook decides about (mode Webhook, and authorizers of type Webhook in --authorization-config). What it
 * answers is kept, allowed and not allowed for a time each; questions that are long are not kept. matchConditions in CEL say
 * which requests it is asked about at all. */
#include "apiserver/auth/remote.h"
#include "pkg/cel/cel.h"

enum { QUESTION_MAX = 10000, CONDITIONS_MAX = 64 };

struct access_webhook {
    struct remote *remote;
    struct remote_cache *cache;
    struct arena *arena;
    struct access_webhook_config c;
    const struct cel_prog *conditions[CONDITIONS_MAX];
    size_t n_conditions;
};

/* ---- conditions ---- */

static const struct cel_type *texts(struct arena *a, const char *name, const char *const *fields) {
    struct cel_type *t = cel_type_object(a, name);
    for (; *fields; fields++) cel_type_add_field(a, t, *fields, &cel_t_string);
    return t;
}

static const struct cel_type *selector_type(struct arena *a, const char *name) {
    struct cel_type *t = cel_type_object(a, name), *r = cel_type_object(a, "kubernetes.SelectorRequirement");
    cel_type_add_field(a, r, "key", &cel_t_string);
    cel_type_add_field(a, r, "operator", &cel_t_string);
    cel_type_add_field(a, r, "values", cel_type_list(a, &cel_t_string));
    cel_type_add_field(a, t, "rawSelector", &cel_t_string);
    cel_type_add_field(a, t, "requirements", cel_type_list(a, r));
    return t;
}

static const char *const resource_fields[] = {"namespace", "verb",        "group", "version",
                                              "resource",  "subresource", "name",  NULL};

static const struct cel_type *request_type(struct arena *a) {
    static const char *const url_fields[] = {"path", "verb", NULL};
    struct cel_type *t = cel_type_object(a, "kubernetes.SubjectAccessReviewSpec");
    const struct cel_type *strings = cel_type_list(a, &cel_t_string);
    struct cel_type *r = (struct cel_type *)texts(a, "kubernetes.ResourceAttributes", resource_fields);
    cel_type_add_field(a, r, "fieldSelector", selector_type(a, "kubernetes.FieldSelectorAttributes"));
    cel_type_add_field(a, r, "labelSelector", selector_type(a, "kubernetes.LabelSelectorAttributes"));
    cel_type_add_field(a, t, "resourceAttributes", r);
    cel_type_add_field(a, t, "nonResourceAttributes", texts(a, "kubernetes.NonResourceAttributes", url_fields));
    cel_type_add_field(a, t, "user", &cel_t_string);
    cel_type_add_field(a, t, "uid", &cel_t_string);
    cel_type_add_field(a, t, "groups", strings);
    cel_type_add_field(a, t, "extra", cel_type_map(a, &cel_t_string, strings));
    return t;
}

static int compile(struct access_webhook *w, const struct json *list, struct err *e) {
    if (!json_len(list)) return 0;
    if (json_len(list) > CONDITIONS_MAX) return err_set(e, -EINVAL, "more than %d matchConditions", CONDITIONS_MAX);
    struct cel_env *env = cel_env_new(w->arena, CEL_LIB_K8S);
    cel_env_var(env, "request", request_type(w->arena));
    const struct json *it;
    JSON_FOREACH(it, list) {
        const char *src = str_or_empty(json_get_str(it, "expression")), *issues = NULL;
        const struct cel_prog **p = &w->conditions[w->n_conditions++];
        if (!*src) return err_set(e, -EINVAL, "matchConditions[%zu].expression: Required value", it_i);
        if (cel_compile(w->arena, env, arena_strdup(w->arena, src), p, &issues))
            return err_set(e, -EINVAL, "matchConditions[%zu].expression: compilation failed: %s", it_i,
                           str_or_empty(issues));
        if (cel_type_kind(cel_prog_type(*p)) != CEL_BOOL)
            return err_set(e, -EINVAL, "matchConditions[%zu].expression: must evaluate to bool but got %s", it_i,
                           cel_type_text(w->arena, cel_prog_type(*p)));
    }
    return 0;
}

/* True when the webhook is to be asked; *error: that cannot be said. */
static bool conditions_match(struct access_webhook *w, struct arena *a, const struct json *spec, const char **error) {
    struct json *full = json_clone(a, spec), *r = json_get(full, "resourceAttributes");
    if (!w->n_conditions) return true;
    for (size_t i = 0; r && resource_fields[i]; i++)
        if (!json_get(r, resource_fields[i])) json_set_str(a, r, resource_fields[i], "");
    if (!json_get(full, "uid")) json_set_str(a, full, "uid", "");
    json_ensure_array(a, full, "groups");
    json_ensure_object(a, full, "extra");
    struct cel_val request = cel_json(a, full, NULL);
    for (size_t i = 0; i < w->n_conditions; i++) {
        struct cel_run run = {.arena = a, .vars = &request, .n_vars = 1};
        struct cel_val v;
        if (cel_eval(w->conditions[i], &run, &v) == 0 && v.kind == CEL_BOOL) {
            if (!v.b) {
                *error = NULL;
                return false;
            }
        } else {
            *error = arena_printf(a, "cel evaluation error: %s", v.kind == CEL_ERR ? v.s : "not a bool");
        }
    }
    return !*error;
}

/* ---- the webhook ---- */

int access_webhook_new(const struct access_webhook_config *c, struct access_webhook **out, struct err *e) {
    if (!str_eq(c->version, "v1") && !str_eq(c->version, "v1beta1"))
        return err_set(e, -EINVAL, "the version of SubjectAccessReview must be v1 or v1beta1");
    struct access_webhook *w = xcalloc(1, sizeof(*w));
    w->arena = arena_new_sized(1024);
    w->cache = remote_cache_new();
    w->c = *c;
    w->c.version = arena_strdup(w->arena, c->version);
    w->c.name = arena_strdup(w->arena, str_or_empty(c->name));
    int rc = remote_new(c->file, c->timeout_ns, &w->remote, e);
    if (!rc) rc = compile(w, c->conditions, e);
    w->c.conditions = NULL; /* the caller's */
    if (rc) {
        access_webhook_free(w);
        return rc;
    }
    *out = w;
    return 0;
}

void access_webhook_free(struct access_webhook *w) {
    if (!w) return;
    remote_free(w->remote);
    remote_cache_free(w->cache);
    arena_free(w->arena);
    free(w);
}

static void put(struct arena *a, struct json *o, const char *key, const char *value) {
    if (!str_empty(value)) json_set_str(a, o, key, value);
}

static void put_selector(struct arena *a, struct json *o, const char *key, const struct authz_selector *s) {
    if (!s->n) return;
    struct json *list = json_ensure_array(a, json_ensure_object(a, o, key), "requirements");
    for (size_t i = 0; i < s->n; i++) {
        const struct authz_requirement *q = &s->items[i];
        struct json *r = json_object(a);
        json_set_str(a, r, "key", q->key);
        json_set_str(a, r, "operator", q->op);
        for (size_t k = 0; k < q->n_values; k++)
            json_append(a, json_ensure_array(a, r, "values"), json_str(a, q->values[k]));
        json_append(a, list, r);
    }
}

static struct json *spec_of(struct arena *a, const struct authz_attrs *q) {
    struct json *spec = user_to_json(a, q->user), *name = json_get(spec, "username"), *at = json_object(a);
    json_del(spec, "username");
    json_set(a, spec, "user", name);
    if (!q->resource_request) {
        put(a, at, "path", q->path);
        put(a, at, "verb", q->verb);
        json_set(a, spec, "nonResourceAttributes", at);
        return spec;
    }
    const char *values[] = {q->ns, q->verb, q->group, q->version, q->resource, q->subresource, q->name};
    for (size_t i = 0; resource_fields[i]; i++) put(a, at, resource_fields[i], values[i]);
    put_selector(a, at, "fieldSelector", &q->fields);
    put_selector(a, at, "labelSelector", &q->labels);
    json_set(a, spec, "resourceAttributes", at);
    return spec;
}

static int ask(struct access_webhook *w, struct arena *a, struct json *spec, const struct authz_attrs *q,
               struct json **status, struct err *e) {
    struct json *body = json_object(a);
    const char *question = json_text(a, spec);
    if ((*status = remote_cache_get(w->cache, a, question))) return 0;
    json_set_str(a, body, "kind", "SubjectAccessReview");
    json_set(a, body, "apiVersion", json_strf(a, "authorization.k8s.io/%s", w->c.version));
    if (str_eq(w->c.version, "v1beta1") && json_get(spec, "groups")) { /* "group" there */
        spec = json_clone(a, spec);
        json_set(a, spec, "group", json_get(spec, "groups"));
        json_del(spec, "groups");
    }
    json_set(a, body, "spec", spec);
    int rc = remote_review(w->remote, a, body, status, e);
    if (rc) return rc;
    bool allowed = json_get_bool(*status, "allowed", false);
    if (strlen(question) <= QUESTION_MAX)
        remote_cache_put(w->cache, question, *status, allowed ? w->c.allowed_ttl_ns : w->c.denied_ttl_ns);
    return 0;
}

enum authz_decision access_webhook_decide(struct access_webhook *w, struct arena *a, const struct authz_attrs *q,
                                          const char **reason, const char **error) {
    struct json *spec = spec_of(a, q), *status = NULL;
    enum authz_decision failed = w->c.deny_on_error ? AUTHZ_DENY : AUTHZ_NO_OPINION;
    const char *unclear = NULL;
    if (!conditions_match(w, a, spec, &unclear)) {
        *error = unclear;
        return unclear ? failed : AUTHZ_NO_OPINION;
    }
    _cleanup_err_ struct err e = {0};
    if (ask(w, a, spec, q, &status, &e)) {
        *error = arena_strdup(a, e.msg);
        return failed;
    }
    bool allowed = json_get_bool(status, "allowed", false), denied = json_get_bool(status, "denied", false);
    *reason = str_or_empty(json_get_str(status, "reason"));
    if (allowed && denied) *error = "webhook subject access review returned both allow and deny response";
    return denied ? AUTHZ_DENY : allowed ? AUTHZ_ALLOW : AUTHZ_NO_OPINION;
}
