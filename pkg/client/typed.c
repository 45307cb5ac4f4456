/* Typed calls: paths, encoding and decoding around client_do. */
#include <assert.h>

#include "client.h"
#include "pkg/api/authentication.h"
#include "pkg/api/core.h"
#include "pkg/api/meta.h"
#include "pkg/api/policy.h"
#include "private.h"

/* ---- paths ---- */

char *client_path(struct arena *a, const struct client_resource *r, const char *ns, const char *name,
                  const char *subresource) {
    struct buf b = BUF_INIT;
    if (*r->group)
        buf_printf(&b, "/apis/%s/%s", r->group, r->version);
    else
        buf_printf(&b, "/api/%s", r->version);
    if (r->namespaced && !str_empty(ns)) buf_printf(&b, "/namespaces/%s", ns);
    buf_printf(&b, "/%s", r->plural);
    if (!str_empty(name)) buf_printf(&b, "/%s", name);
    if (!str_empty(subresource)) buf_printf(&b, "/%s", subresource);
    char *path = arena_strndup(a, b.data, b.len);
    buf_done(&b);
    return path;
}

char *client_path_query(struct arena *a, char *path, const char *key, const char *value) {
    if (str_empty(value)) return path;
    struct buf b = BUF_INIT;
    buf_printf(&b, "%s%c%s=", path, strchr(path, '?') ? '&' : '?', key);
    for (const unsigned char *p = (const unsigned char *)value; *p; p++) {
        bool plain =
            (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || strchr("-._~", *p);
        if (plain)
            buf_addc(&b, (char)*p);
        else
            buf_printf(&b, "%%%02X", *p);
    }
    char *out = arena_strndup(a, b.data, b.len);
    buf_done(&b);
    return out;
}

static char *write_query(struct client *c, struct arena *a, char *path, const struct client_opts *o) {
    const char *manager = o && o->field_manager ? o->field_manager : client_user_agent(c);
    path = client_path_query(a, path, "fieldManager", manager);
    if (o && o->dry_run) path = client_path_query(a, path, "dryRun", "All");
    if (o && o->force) path = client_path_query(a, path, "force", "true");
    return path;
}

/* ---- encoding and decoding ---- */

static void *field_at(void *obj, const struct api_type *t, const char *json) {
    const struct api_field *f = api_field_find(t, json);
    return f ? (char *)obj + f->offset : NULL;
}

static struct meta_object_meta *meta_of(const struct api_type *t, const void *obj) {
    return field_at((void *)obj, t, "metadata");
}

/* JSON of the object with apiVersion and kind filled in. */
static void encode(struct arena *a, const struct client_resource *r, const void *obj, struct buf *out) {
    void *copy = arena_memdup(a, obj, r->type->size);
    const char **kind = field_at(copy, r->type, "kind"), **version = field_at(copy, r->type, "apiVersion");
    if (kind) *kind = r->kind;
    if (version) *version = *r->group ? arena_printf(a, "%s/%s", r->group, r->version) : r->version;
    api_to_json(out, r->type, copy);
}

/* Sends and decodes the answer into `out` (may be NULL) as `t`. */
static int exchange(struct client *c, struct arena *a, const struct client_request *rq, const struct api_type *t,
                    void *out, struct err *e) {
    struct client_response resp = {0};
    int r = client_do(c, rq, &resp, e);
    if (r == 0 && out) {
        r = api_from_json(a, t, resp.body, resp.len, out, e);
        if (r < 0) r = err_wrap(e, "answer to %s %s", rq->method, rq->path);
    }
    client_response_done(&resp);
    return r;
}

int client_get(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const char *name,
               void *out, struct err *e) {
    struct client_request rq = {.method = "GET", .path = client_path(a, r, ns, name, NULL)};
    return exchange(c, a, &rq, r->type, out, e);
}

static int write_obj(struct client *c, struct arena *a, const char *method, const struct client_resource *r,
                     const char *path, const void *obj, const struct client_opts *o, void *out, struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    encode(a, r, obj, &b);
    struct client_request rq = {.method = method,
                                .path = write_query(c, a, (char *)path, o),
                                .body = b.data,
                                .body_len = b.len,
                                .cause = o ? o->cause : NULL};
    return exchange(c, a, &rq, r->type, out, e);
}

int client_create(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const void *obj,
                  const struct client_opts *o, void *out, struct err *e) {
    return write_obj(c, a, "POST", r, client_path(a, r, ns, NULL, NULL), obj, o, out, e);
}

int client_update(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const void *obj,
                  const struct client_opts *o, void *out, struct err *e) {
    const struct meta_object_meta *m = meta_of(r->type, obj);
    if (!m || str_empty(m->name)) return err_set(e, -EINVAL, "update of a %s without a name", r->kind);
    return write_obj(c, a, "PUT", r, client_path(a, r, ns, m->name, o ? o->subresource : NULL), obj, o, out, e);
}

int client_update_status(struct client *c, struct arena *a, const struct client_resource *r, const char *ns,
                         const void *obj, const struct client_opts *o, void *out, struct err *e) {
    struct client_opts with = o ? *o : (struct client_opts){0};
    with.subresource = "status";
    return client_update(c, a, r, ns, obj, &with, out, e);
}

int client_patch(struct client *c, struct arena *a, const struct client_resource *r, const char *ns, const char *name,
                 enum client_patch_type type, const char *body, size_t body_len, const struct client_opts *o, void *out,
                 struct err *e) {
    static const char *const types[] = {
        [CLIENT_PATCH_JSON] = "application/json-patch+json",
        [CLIENT_PATCH_MERGE] = "application/merge-patch+json",
        [CLIENT_PATCH_STRATEGIC] = "application/strategic-merge-patch+json",
        [CLIENT_PATCH_APPLY] = "application/apply-patch+yaml",
    };
    char *path = client_path(a, r, ns, name, o ? o->subresource : NULL);
    struct client_request rq = {.method = "PATCH",
                                .path = write_query(c, a, path, o),
                                .body = body,
                                .body_len = body_len,
                                .content_type = types[type],
                                .cause = o ? o->cause : NULL};
    return exchange(c, a, &rq, r->type, out, e);
}

/* ---- delete, evict ---- */

/* DeleteOptions as a tree. */
static struct json *delete_options(struct arena *a, const struct client_delete_opts *o) {
    struct json *d = json_object(a);
    json_set_str(a, d, "kind", "DeleteOptions");
    json_set_str(a, d, "apiVersion", "v1");
    if (!o) return d;
    if (o->grace_period_seconds) json_set_int(a, d, "gracePeriodSeconds", *o->grace_period_seconds);
    if (o->propagation) json_set_str(a, d, "propagationPolicy", o->propagation);
    if (o->uid || o->resource_version) {
        struct json *p = json_ensure_object(a, d, "preconditions");
        if (o->uid) json_set_str(a, p, "uid", o->uid);
        if (o->resource_version) json_set_str(a, p, "resourceVersion", o->resource_version);
    }
    return d;
}

static int send_tree(struct client *c, struct arena *a, const char *method, const char *path, const struct json *body,
                     const char *cause, struct err *e) {
    const char *text = json_text(a, body);
    struct client_request rq = {.method = method, .path = path, .body = text, .body_len = strlen(text), .cause = cause};
    return exchange(c, a, &rq, NULL, NULL, e);
}

int client_delete(struct client *c, const struct client_resource *r, const char *ns, const char *name,
                  const struct client_delete_opts *o, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    if (str_empty(name)) return err_set(e, -EINVAL, "delete of a %s without a name", r->kind);
    return send_tree(c, a, "DELETE", client_path(a, r, ns, name, NULL), delete_options(a, o), o ? o->cause : NULL, e);
}

int client_delete_collection(struct client *c, const struct client_resource *r, const char *ns,
                             const char *label_selector, const struct client_delete_opts *o, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    char *path = client_path_query(a, client_path(a, r, ns, NULL, NULL), "labelSelector", label_selector);
    return send_tree(c, a, "DELETE", path, delete_options(a, o), o ? o->cause : NULL, e);
}

int client_evict(struct client *c, const char *ns, const char *pod, const struct client_delete_opts *o, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *ev = json_object(a), *m;
    json_set_str(a, ev, "apiVersion", "policy/v1");
    json_set_str(a, ev, "kind", "Eviction");
    m = json_ensure_object(a, ev, "metadata");
    json_set_str(a, m, "name", pod);
    json_set_str(a, m, "namespace", ns);
    if (o) json_set(a, ev, "deleteOptions", delete_options(a, o));
    return send_tree(c, a, "POST", client_path(a, &client_pods, ns, pod, "eviction"), ev, o ? o->cause : NULL, e);
}

/* ---- list ---- */

static int read_items(struct arena *a, const struct api_type *t, struct json_reader *r, struct client_list *out,
                      struct err *e) {
    enum json_tok tok = json_next(r);
    size_t cap = 0;
    if (tok == JTOK_NULL) return 0;
    if (tok != JTOK_ARR_BEGIN) return err_set(e, -EINVAL, "items is no array");
    while ((tok = json_next(r)) == JTOK_OBJ_BEGIN) {
        const char *raw;
        size_t n;
        if (!json_skip(r, &raw, &n)) return json_reader_err(r, e);
        void *obj = arena_zalloc(a, t->size);
        int rc = api_from_json(a, t, raw, n, obj, e);
        if (rc < 0) return rc;
        ARENA_GROW(a, out->items, out->n, cap);
        out->items[out->n++] = obj;
    }
    return tok == JTOK_ARR_END ? 0 : tok == JTOK_ERROR ? json_reader_err(r, e) : err_set(e, -EINVAL, "bad list item");
}

static int read_list(struct arena *a, const struct api_type *t, const char *p, size_t len, struct client_list *out,
                     struct err *e) {
    struct json_reader r;
    json_reader_init(&r, a, p, len);
    if (json_next(&r) != JTOK_OBJ_BEGIN) return err_set(e, -EINVAL, "a list was expected");
    enum json_tok tok;
    while ((tok = json_next(&r)) == JTOK_KEY) {
        int rc = 0;
        if (strcmp(r.str, "items") == 0) {
            rc = read_items(a, t, &r, out, e);
        } else if (strcmp(r.str, "metadata") == 0) {
            const char *raw;
            size_t n;
            struct meta_list_meta m = {0};
            if (!json_skip(&r, &raw, &n)) break;
            rc = api_from_json(a, &api_meta_list_meta, raw, n, &m, e);
            out->resource_version = m.resource_version;
            out->continue_ = m.continue_;
        } else if (!json_skip(&r, NULL, NULL)) {
            break;
        }
        if (rc < 0) return rc;
    }
    return r.failed ? json_reader_err(&r, e) : 0;
}

int client_list(struct client *c, struct arena *a, const struct client_resource *r, const char *ns,
                const struct client_list_opts *o, struct client_list *out, struct err *e) {
    char *path = client_path(a, r, ns, NULL, NULL);
    if (o) {
        path = client_path_query(a, path, "labelSelector", o->label_selector);
        path = client_path_query(a, path, "fieldSelector", o->field_selector);
        path = client_path_query(a, path, "resourceVersion", o->resource_version);
        if (o->limit) path = client_path_query(a, path, "limit", arena_printf(a, "%lld", (long long)o->limit));
        path = client_path_query(a, path, "continue", o->continue_);
    }
    struct client_request rq = {.method = "GET", .path = path};
    struct client_response resp = {0};
    *out = (struct client_list){0};
    int rc = client_do(c, &rq, &resp, e);
    if (rc == 0) rc = read_list(a, r->type, resp.body, resp.len, out, e);
    client_response_done(&resp);
    return rc;
}

/* ---- other subresources ---- */

int client_bind(struct client *c, const char *ns, const char *pod, const char *uid, const char *node, const char *cause,
                struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *b = json_object(a), *m, *t;
    json_set_str(a, b, "apiVersion", "v1");
    json_set_str(a, b, "kind", "Binding");
    m = json_ensure_object(a, b, "metadata");
    json_set_str(a, m, "name", pod);
    json_set_str(a, m, "namespace", ns);
    if (uid) json_set_str(a, m, "uid", uid);
    t = json_ensure_object(a, b, "target");
    json_set_str(a, t, "kind", "Node");
    json_set_str(a, t, "name", node);
    return send_tree(c, a, "POST", client_path(a, &client_pods, ns, pod, "binding"), b, cause, e);
}

int client_create_token(struct client *c, struct arena *a, const struct client_token_request *t,
                        struct client_token *out, struct err *e) {
    struct authentication_token_request rq = {.kind = "TokenRequest", .api_version = "authentication.k8s.io/v1"};
    struct authentication_bound_object_reference bound = {
        .kind = t->bound_kind, .api_version = "v1", .name = t->bound_name, .uid = t->bound_uid};
    rq.spec.audiences.items = (const char **)t->audiences;
    rq.spec.audiences.n = t->n_audiences;
    int64_t expires = t->expiration_seconds;
    if (expires) rq.spec.expiration_seconds = &expires;
    if (t->bound_kind) rq.spec.bound_object_ref = &bound;
    _cleanup_buf_ struct buf b = BUF_INIT;
    api_to_json(&b, &api_authentication_token_request, &rq);
    struct client_request req = {.method = "POST",
                                 .body = b.data,
                                 .body_len = b.len,
                                 .path = client_path(a, &client_serviceaccounts, t->ns, t->service_account, "token")};
    struct authentication_token_request got = {0};
    int r = exchange(c, a, &req, &api_authentication_token_request, &got, e);
    if (r < 0) return r;
    out->token = got.status.token;
    out->expires = got.status.expiration_timestamp;
    return 0;
}

/* ---- discovery ---- */

static uint32_t verb_bits(const struct json *verbs) {
    static const char *const names[] = {"get",    "list",  "watch",  "create",
                                        "update", "patch", "delete", "deletecollection"};
    uint32_t bits = 0;
    struct json *v;
    JSON_FOREACH(v, verbs)
        for (size_t i = 0; i < ARRAY_LEN(names); i++)
            if (str_eq(json_as_str(v), names[i])) bits |= 1u << i;
    return bits;
}

static int get_tree(struct client *c, struct arena *a, const char *path, struct json **out, struct err *e) {
    struct client_request rq = {.method = "GET", .path = path};
    struct client_response resp = {0};
    int r = client_do(c, &rq, &resp, e);
    if (r == 0) r = json_parse(a, resp.body, resp.len, out, NULL, e);
    client_response_done(&resp);
    return r;
}

static int add_group(struct client *c, struct arena *a, const char *group, const char *version, const char *path,
                     struct client_discovery *out, size_t *cap, struct err *e) {
    struct json *list = NULL, *it;
    int r = get_tree(c, a, path, &list, e);
    if (r < 0) return r;
    JSON_FOREACH(it, json_get(list, "resources")) {
        const char *name = json_get_str(it, "name");
        if (!name || strchr(name, '/')) continue;
        ARENA_GROW(a, out->items, out->n, *cap);
        out->items[out->n++] = (struct client_api_resource){.group = group,
                                                            .version = version,
                                                            .plural = name,
                                                            .kind = json_get_str(it, "kind"),
                                                            .namespaced = json_get_bool(it, "namespaced", false),
                                                            .verbs = verb_bits(json_get(it, "verbs"))};
    }
    return 0;
}

int client_discover(struct client *c, struct arena *a, struct client_discovery *out, struct err *e) {
    *out = (struct client_discovery){0};
    size_t cap = 0;
    struct json *groups = NULL, *g;
    int r = add_group(c, a, "", "v1", "/api/v1", out, &cap, e);
    if (r == 0) r = get_tree(c, a, "/apis", &groups, e);
    if (r < 0) return r;
    JSON_FOREACH(g, json_get(groups, "groups")) {
        _cleanup_err_ struct err ge = {0};
        const char *name = json_get_str(g, "name");
        const char *version = json_get_str(json_get(g, "preferredVersion"), "version");
        if (str_empty(name) || str_empty(version)) continue;
        r = add_group(c, a, name, version, arena_printf(a, "/apis/%s/%s", name, version), out, &cap, &ge);
        if (r < 0) out->partial = true;
    }
    return 0;
}
