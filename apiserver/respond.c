/* Answers: errors as Status objects, trees, and cached objects in whatever form the client accepts. For JSON, cached
 * objects and lists go out as shared pieces (object.h); everything else is made on the fly. */
#include "apiserver/audit/audit.h"
#include "apiserver/convert.h"
#include "apiserver/crd/convert.h"
#include "apiserver/request.h"
#include "apiserver/tables.h"
#include "pkg/yaml/yaml.h"

/* ---- headers ---- */

enum { MAX_WARNINGS = 32, MAX_WARNING_BYTES = 512 };

static const char *warning_value(struct arena *a, const char *text) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_adds(&b, "299 - \"");
    for (const char *p = text; *p && b.len < MAX_WARNING_BYTES; p++) {
        if (*p == '"' || *p == '\\') buf_addc(&b, '\\');
        buf_addc(&b, (unsigned char)*p < 0x20 ? ' ' : *p);
    }
    buf_addc(&b, '"');
    return arena_strndup(a, b.data, b.len);
}

size_t response_headers(struct request *q, const char *content_type, struct http_header **out) {
    size_t n = 0, warnings = q->n_warnings < MAX_WARNINGS ? q->n_warnings : MAX_WARNINGS;
    struct http_header *h = arena_alloc(q->a, (warnings + 6) * sizeof(*h));
    h[n++] = (struct http_header){"Audit-Id", audit_id(q)};
    h[n++] = (struct http_header){"Cache-Control", "no-cache, private"};
    h[n++] = (struct http_header){"Content-Type", content_type};
    if (*q->flow_schema_uid) h[n++] = (struct http_header){"X-Kubernetes-Pf-Flowschema-Uid", q->flow_schema_uid};
    if (*q->flow_level_uid) h[n++] = (struct http_header){"X-Kubernetes-Pf-Prioritylevel-Uid", q->flow_level_uid};
    for (size_t i = 0; i < warnings; i++) h[n++] = (struct http_header){"Warning", warning_value(q->a, q->warnings[i])};
    *out = h;
    return n;
}

size_t response_headers_with(struct request *q, const struct http_header *more, size_t n_more,
                             struct http_header **out) {
    struct http_header *usual, *h;
    size_t n_usual = response_headers(q, "", &usual), n = 0;
    h = arena_alloc(q->a, (n_usual + n_more) * sizeof(*h));
    for (size_t i = 0; i < n_usual; i++) {
        bool replaced = str_eq(usual[i].name, "Content-Type");
        for (size_t j = 0; j < n_more && !replaced; j++) replaced = str_eq(usual[i].name, more[j].name);
        if (!replaced) h[n++] = usual[i];
    }
    for (size_t j = 0; j < n_more; j++) h[n++] = more[j];
    *out = h;
    return n;
}

void respond_text(struct request *q, int status, const char *fmt, ...) {
    static const struct http_header more[] = {{"Content-Type", "text/plain; charset=utf-8"},
                                              {"X-Content-Type-Options", "nosniff"}};
    struct http_header *h;
    size_t n = response_headers_with(q, more, ARRAY_LEN(more), &h);
    _cleanup_buf_ struct buf b = BUF_INIT;
    va_list ap;
    va_start(ap, fmt);
    buf_vprintf(&b, fmt, ap);
    va_end(ap);
    http_respond(q->http, status, h, n, b.data, b.len, 0);
}

bool request_gzip(const struct request *q) {
    const struct http_peer *p = q->http->peer;
    if (p->unix_socket || str_has_prefix(p->addr, "127.") || str_eq(p->addr, "::1")) return false;
    return http_header(q->http, "accept-encoding") != NULL;
}

static unsigned gzip_flag(const struct request *q) { return request_gzip(q) ? HTTP_GZIP : 0; }

void respond_json_text(struct request *q, int status, const char *content_type, const void *p, size_t n) {
    struct http_header *h;
    size_t n_h = response_headers(q, content_type, &h);
    if (q->audit) audit_response_text(q, p, n);
    http_respond(q->http, status, h, n_h, p, n, gzip_flag(q));
}

/* ---- trees ---- */

static void write_tree(struct request *q, struct buf *b, const struct api_type *type, struct json *v,
                       const char **content_type) {
    bool pretty = http_query(q->http, "pretty") && request_query_bool(q, "pretty");
    if (q->audit) audit_response_object(q, v);
    if (q->media == MEDIA_PROTO && type) {
        _cleanup_buf_ struct buf raw = BUF_INIT;
        api_tree_to_proto(&raw, type, v);
        api_proto_wrap(b, str_or_empty(json_get_str(v, "apiVersion")), str_or_empty(json_get_str(v, "kind")), raw.data,
                       raw.len);
        return;
    }
    if (q->media == MEDIA_YAML) json_sort_keys(v, true); /* upstream's YAML comes from maps */
    if (q->media == MEDIA_YAML && yaml_write(b, v, NULL) == 0) return;
    *content_type = "application/json";
    if (pretty)
        json_write_pretty(b, v);
    else
        json_write(b, v);
    buf_addc(b, '\n');
}

void respond_tree(struct request *q, int status, const struct api_type *type, struct json *v) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    const char *ct = q->content_type;
    write_tree(q, &b, type, v, &ct);
    respond_json_text(q, status, ct, str_or_empty(b.data), b.len);
}

/* ---- Status ---- */

static struct json *causes_tree(struct arena *a, const struct err *e) {
    struct json *causes = json_array(a);
    for (size_t i = 0; i < e->n_causes; i++) {
        struct json *c = json_object(a);
        if (!str_empty(e->causes[i].reason)) json_set_str(a, c, "reason", e->causes[i].reason);
        json_set_str(a, c, "message", str_or_empty(e->causes[i].message));
        if (!str_empty(e->causes[i].field)) json_set_str(a, c, "field", e->causes[i].field);
        json_append(a, causes, c);
    }
    return causes;
}

struct json *status_tree(struct arena *a, struct err *e) {
    if (!e->status) {
        int code = e->code;
        if (code == -ETIMEDOUT)
            e->status = 504, e->reason = "Timeout";
        else if (code == -EAGAIN)
            e->status = 503, e->reason = "ServiceUnavailable";
        else
            e->status = 500, e->reason = "InternalError";
    }
    struct json *s = json_object(a), *d = json_object(a);
    json_set_str(a, s, "kind", "Status");
    json_set_str(a, s, "apiVersion", "v1");
    json_set(a, s, "metadata", json_object(a));
    json_set_str(a, s, "status", "Failure");
    json_set_str(a, s, "message", e->msg);
    if (!str_empty(e->reason)) json_set_str(a, s, "reason", e->reason);
    if (!str_empty(e->name)) json_set_str(a, d, "name", e->name);
    if (!str_empty(e->group)) json_set_str(a, d, "group", e->group);
    if (!str_empty(e->kind)) json_set_str(a, d, "kind", e->kind);
    if (!str_empty(e->uid)) json_set_str(a, d, "uid", e->uid);
    if (e->n_causes) json_set(a, d, "causes", causes_tree(a, e));
    if (e->retry_after_seconds) json_set_int(a, d, "retryAfterSeconds", e->retry_after_seconds);
    bool bare = str_empty(e->reason) || str_eq(e->reason, "BadRequest") || str_eq(e->reason, "InternalError") ||
                str_eq(e->reason, "Expired") || str_eq(e->reason, "Unauthorized");
    if (json_len(d) || !bare) json_set(a, s, "details", d);
    json_set_int(a, s, "code", e->status);
    return s;
}

void respond_err(struct request *q, struct err *e) {
    struct json *s = status_tree(q->a, e);
    if (e->status == 415 && q->res && q->res->custom) json_del(s, "details"); /* as upstream */
    if (e->status == 410 && q->inconsistent_token)
        json_set_str(q->a, json_get(s, "metadata"), "continue", q->inconsistent_token);
    _cleanup_buf_ struct buf b = BUF_INIT;
    const char *ct = q->content_type;
    struct http_header *h, *all;
    if (e->status == 406 && (q->accept_known || (q->res && q->res->custom))) json_del(s, "details");
    if (e->status == 415) { /* refused before anything was looked at */
        q->n_warnings = 0;
        if (!str_eq(q->http->method, "PATCH") || (q->res && q->res->custom)) json_del(s, "details");
    }
    write_tree(q, &b, api_type_find("meta.k8s.io", "v1", "Status"), s, &ct);
    size_t n = response_headers(q, ct, &h);
    all = arena_alloc(q->a, (n + 2) * sizeof(*all));
    memcpy(all, h, n * sizeof(*h));
    if (e->retry_after_seconds)
        all[n++] = (struct http_header){"Retry-After", arena_printf(q->a, "%d", e->retry_after_seconds)};
    if (q->forbidden) all[n++] = (struct http_header){"X-Content-Type-Options", "nosniff"};
    http_respond(q->http, e->status, all, n, b.data, b.len, 0);
}

void respond_success(struct request *q, int status, struct json *details) {
    struct json *s = json_object(q->a);
    json_set_str(q->a, s, "kind", "Status");
    json_set_str(q->a, s, "apiVersion", "v1");
    json_set(q->a, s, "metadata", json_object(q->a));
    json_set_str(q->a, s, "status", "Success");
    if (details) json_set(q->a, s, "details", details);
    if (status == 201) json_set_int(q->a, s, "code", status);
    respond_tree(q, status, api_type_find("meta.k8s.io", "v1", "Status"), s);
}

int err_not_found(struct err *e, const struct resource *r, const char *name) {
    if (!e) return -ENOENT;
    int rc = err_status(e, 404, "NotFound", "%s%s%s \"%s\" not found", r->plural, *r->group ? "." : "", r->group, name);
    err_details(e, r->group, r->plural, name);
    return rc;
}

int err_conflict(struct err *e, const struct resource *r, const char *name, const char *why) {
    int rc = err_status(e, 409, "Conflict", "Operation cannot be fulfilled on %s%s%s \"%s\": %s", r->plural,
                        *r->group ? "." : "", r->group, name, why);
    err_details(e, r->group, r->plural, name);
    return rc;
}

int err_already_exists(struct err *e, const struct resource *r, const char *name) {
    int rc = err_status(e, 409, "AlreadyExists", "%s%s%s \"%s\" already exists", r->plural, *r->group ? "." : "",
                        r->group, name);
    err_details(e, r->group, r->plural, name);
    return rc;
}

/* ---- cached objects ---- */

static struct json *view_tree(struct request *q, const struct object *o) {
    struct json *v = object_tree(q->a, o);
    return v && q->res != o->res ? convert_view(q->a, o->res, q->res, v) : v;
}

/* Versions of custom resources differ in their heads only. */
static bool as_pieces(const struct request *q, const struct resource *stored) {
    return q->media == MEDIA_JSON && q->as == AS_OBJECT && (q->res == stored || q->res->custom) &&
           !http_query(q->http, "pretty");
}

static void respond_bytes(struct request *q, int status, struct rbytes *const *parts, size_t n) {
    struct http_header *h;
    size_t n_h = response_headers(q, q->content_type, &h);
    if (audit_wants_response(q)) {
        _cleanup_buf_ struct buf b = BUF_INIT;
        for (size_t i = 0; i < n; i++) buf_add(&b, parts[i]->data, parts[i]->len);
        audit_response_text(q, b.data, b.len);
    }
    http_respond_bytes(q->http, status, h, n_h, parts, n, gzip_flag(q));
}

static int not_a_list(struct request *q, struct err *e) {
    if (q->res->custom && (!q->sub || !q->sub->group)) return err_status(e, 500, "", "content is not a list");
    return err_status(e, 406, "NotAcceptable",
                      "you requested PartialObjectMetadataList, but the requested object is not a list (%s)",
                      q->res->kind);
}

void respond_tree_as(struct request *q, int status, const struct api_type *type, const char *table, struct json *v) {
    _cleanup_err_ struct err e = {0};
    _cleanup_buf_ struct buf b = BUF_INIT;
    if ((q->as == AS_TABLE && table_options(q, &e)) || (q->as == AS_PARTIAL_LIST && not_a_list(q, &e))) {
        respond_err(q, &e);
    } else if (q->as == AS_TABLE) {
        table_write_tree(&b, q, table, v);
        respond_json_text(q, status, "application/json", b.data, b.len);
    } else if (q->as == AS_PARTIAL) {
        respond_tree(q, status, api_type_find("meta.k8s.io", "v1", "PartialObjectMetadata"),
                     partial_tree(q->a, v, q->as_version));
    } else {
        respond_tree(q, status, type, v);
    }
}

void respond_object(struct request *q, int status, const struct object *o) {
    _cleanup_err_ struct err e = {0};
    _cleanup_object_ struct object *view = NULL;
    if (crd_must_convert(q->res, o)) {
        if (crd_view(q->s, q->res, (struct object *)o, &view, &e)) {
            respond_err(q, &e);
            return;
        }
        o = view;
    }
    if (as_pieces(q, o->res)) {
        struct rbytes *parts[] = {q->res->pieces->head, o->tail};
        respond_bytes(q, status, parts, 2);
        return;
    }
    if (q->as == AS_TABLE && table_options(q, &e)) {
        respond_err(q, &e);
        return;
    }
    if (q->as == AS_TABLE) {
        _cleanup_buf_ struct buf b = BUF_INIT;
        struct object *one = (struct object *)o;
        struct wc_list l = {.items = &one, .n = 1, .rev = o->rev, .remaining = -1};
        table_write(&b, q, &l, NULL);
        respond_json_text(q, status, "application/json", b.data, b.len);
        return;
    }
    if (q->as == AS_PARTIAL_LIST) {
        not_a_list(q, &e);
        respond_err(q, &e);
        return;
    }
    if (q->as == AS_PARTIAL) {
        struct json *v = partial_tree(q->a, object_tree(q->a, o), q->as_version);
        respond_tree(q, status, api_type_find("meta.k8s.io", "v1", "PartialObjectMetadata"), v);
        return;
    }
    struct json *v = view_tree(q, o);
    if (v) {
        respond_tree(q, status, q->res->type, v);
        return;
    }
    err_status(&e, 500, "InternalError", "the stored object cannot be shown in this version");
    respond_err(q, &e);
}

static void list_meta(struct arena *a, struct json *list, const struct wc_list *l, const char *token, bool custom) {
    struct json *m = json_object(a);
    json_set(a, m, "resourceVersion", json_strf(a, "%lld", (long long)l->rev));
    if (token || custom)
        json_set_str(a, m, "continue", str_or_empty(token)); /* upstream, lists of custom resources have
                                                                                 it always */
    if (token && l->remaining > 0) json_set_int(a, m, "remainingItemCount", l->remaining);
    json_set(a, list, "metadata", m);
}

static struct rbytes *list_head(struct request *q, const struct wc_list *l, const char *token) {
    struct json *head = json_object(q->a);
    json_set_str(q->a, head, "kind", q->res->list_kind);
    json_set_str(q->a, head, "apiVersion", resource_api_version(q->a, q->res));
    list_meta(q->a, head, l, token, q->res->custom);
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, head);
    b.len--; /* the closing brace */
    buf_adds(&b, ",\"items\":[");
    return rbytes_new(b.data, b.len);
}

static void list_pieces(struct request *q, struct wc_list *l, const char *token) {
    const struct pieces *p = q->res->pieces;
    _cleanup_rbytes_ struct rbytes *head = list_head(q, l, token), *end = rbytes_new("]}\n", 3);
    struct rbytes **parts = arena_alloc(q->a, (l->n * 2 + 2) * sizeof(*parts));
    size_t n = 0;
    parts[n++] = head;
    for (size_t i = 0; i < l->n; i++) {
        parts[n++] = i ? p->next_item : p->item;
        parts[n++] = l->items[i]->tail;
    }
    parts[n++] = end;
    respond_bytes(q, 200, parts, n);
}

bool respond_takes_body(const struct request *q) { return !q->res->custom && as_pieces(q, resource_stored(q->res)); }

struct rbytes *respond_list_text(struct request *q, const struct wc_list *l) {
    const struct pieces *p = q->res->pieces;
    size_t n = 3;
    for (size_t i = 0; i < l->n; i++) n += (i ? p->next_item : p->item)->len + l->items[i]->tail->len;
    struct rbytes *b = rbytes_alloc(n);
    char *o = b->data;
    for (size_t i = 0; i < l->n; i++) {
        const struct rbytes *start = i ? p->next_item : p->item;
        o = mempcpy(o, start->data, start->len);
        o = mempcpy(o, l->items[i]->tail->data, l->items[i]->tail->len);
    }
    memcpy(o, "]}\n", 4);
    return b;
}

void respond_list_body(struct request *q, int64_t rev, struct rbytes *items) {
    struct wc_list l = {.rev = rev, .remaining = -1};
    _cleanup_rbytes_ struct rbytes *head = list_head(q, &l, NULL);
    struct rbytes *parts[] = {head, items};
    respond_bytes(q, 200, parts, 2);
}

void respond_list(struct request *q, struct wc_list *l, const char *token) {
    _cleanup_err_ struct err e = {0};
    if (q->as == AS_TABLE) table_options(q, &e);
    if (q->as == AS_PARTIAL)
        err_status(&e, 406, "NotAcceptable", "you requested %s, but the requested object is a list (%s)",
                   "PartialObjectMetadata", q->res->list_kind);
    if (e.status || crd_views(q->s, q->res, l->items, l->n, &e)) {
        respond_err(q, &e);
        return;
    }
    if (as_pieces(q, resource_stored(q->res))) {
        list_pieces(q, l, token);
        return;
    }
    if (q->as == AS_TABLE) {
        _cleanup_buf_ struct buf b = BUF_INIT;
        table_write(&b, q, l, token);
        respond_json_text(q, 200, "application/json", b.data, b.len);
        return;
    }
    bool partial = q->as == AS_PARTIAL_LIST;
    struct arena *a = q->a;
    struct json *list = json_object(a), *items = json_array(a);
    json_set_str(a, list, "kind", partial ? "PartialObjectMetadataList" : q->res->list_kind);
    json_set_str(a, list, "apiVersion",
                 partial ? arena_printf(a, "meta.k8s.io/%s", q->as_version) : resource_api_version(a, q->res));
    list_meta(a, list, l, token, q->res->custom && !partial);
    for (size_t i = 0; i < l->n; i++) {
        struct json *v =
            partial ? partial_tree(a, object_tree(a, l->items[i]), q->as_version) : view_tree(q, l->items[i]);
        if (!v) continue;
        if (!partial && !q->res->custom) {
            json_del(v, "kind");
            json_del(v, "apiVersion");
        }
        json_append(a, items, v);
    }
    json_set(a, list, "items", partial && !json_len(items) ? json_null(a) : items);
    respond_tree(q, 200,
                 partial ? api_type_find("meta.k8s.io", "v1", "PartialObjectMetadataList")
                         : api_type_find(q->res->group, q->res->version, q->res->list_kind),
                 list);
}
