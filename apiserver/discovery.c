/* Discovery: which groups, versions and resources there are, from the resource table. The classic documents (/api, /apis,
 * /apis/G, /apis/G/V) and the aggregated one (apidiscovery.k8s.io/v2). */
#include "apiserver/aggregator/aggregator.h"
#include "apiserver/handlers.h"
#include "pkg/base/map.h"
#include "pkg/yaml/yaml.h"

static bool path_is(const char *path, const char *want) {
    size_t n = strlen(want);
    return strncmp(path, want, n) == 0 && (path[n] == 0 || (path[n] == '/' && path[n + 1] == 0));
}

bool discovery_path(const struct request *q) {
    const char *p = q->http->path;
    return path_is(p, "/api") || path_is(p, "/apis") || str_has_prefix(p, "/api/") || str_has_prefix(p, "/apis/");
}

static struct json *strings(struct arena *a, const char *const *list) {
    struct json *out = json_array(a);
    for (size_t i = 0; list && list[i]; i++) json_append(a, out, json_str(a, list[i]));
    return out;
}

/* Of a custom resource itself they stand in another order, upstream. */
static struct json *verbs(struct arena *a, uint32_t mask, bool custom) {
    struct json *out = json_array(a);
    static const uint32_t order[] = {VERB_DELETE, VERB_DELETECOLLECTION, VERB_GET,    VERB_LIST,
                                     VERB_PATCH,  VERB_CREATE,           VERB_UPDATE, VERB_WATCH};
    for (size_t i = 0; custom && i < ARRAY_LEN(order); i++)
        if (mask & order[i]) json_append(a, out, json_str(a, resource_verb_name(order[i])));
    if (custom) return out;
    for (uint32_t b = 1; b & VERBS_ALL; b <<= 1)
        if (mask & b) json_append(a, out, json_str(a, resource_verb_name(b)));
    return out;
}

struct rows {
    const struct resource *const *items;
    size_t n;
};

static struct rows rows_of(struct request *q) {
    struct rows r;
    r.items = resource_table_rows(q->s->resources, q->a, &r.n);
    return r;
}

/* Walks groups and versions in table order: a group's versions stand together. */
static bool starts(const struct rows *t, size_t i, bool group_only) {
    if (i == 0) return true;
    const struct resource *r = t->items[i], *p = t->items[i - 1];
    return !str_eq(r->group, p->group) || (!group_only && !str_eq(r->version, p->version));
}

/* ---- classic ---- */

static struct json *group_version(struct arena *a, const struct resource *r) {
    struct json *v = json_object(a);
    json_set_str(a, v, "groupVersion", resource_api_version(a, r));
    json_set_str(a, v, "version", r->version);
    return v;
}

static struct json *group_doc(struct request *q, const struct rows *t, size_t first, bool alone) {
    struct arena *a = q->a;
    const struct resource *r = t->items[first];
    struct json *g = json_object(a), *versions = json_array(a);
    if (alone) {
        json_set_str(a, g, "kind", "APIGroup");
        json_set_str(a, g, "apiVersion", "v1");
    }
    json_set_str(a, g, "name", r->group);
    for (size_t i = first; i < t->n && str_eq(t->items[i]->group, r->group); i++)
        if (starts(t, i, false)) json_append(a, versions, group_version(a, t->items[i]));
    json_set(a, g, "versions", versions);
    json_set(a, g, "preferredVersion", group_version(a, r));
    return g;
}

static struct json *resource_doc(struct arena *a, const struct resource *r, const struct resource_sub *s) {
    struct json *d = json_object(a);
    json_set(a, d, "name", s ? json_strf(a, "%s/%s", r->plural, s->name) : json_str(a, r->plural));
    json_set_str(a, d, "singularName", s ? "" : r->singular);
    json_set_bool(a, d, "namespaced", r->namespaced);
    if (s && s->group) {
        json_set_str(a, d, "group", s->group);
        json_set_str(a, d, "version", s->version);
    }
    json_set_str(a, d, "kind", s ? s->kind : r->kind);
    json_set(a, d, "verbs", verbs(a, s ? s->verbs : r->verbs, !s && r->custom));
    if (s) return d;
    if (r->short_names) json_set(a, d, "shortNames", strings(a, r->short_names));
    if (r->categories) json_set(a, d, "categories", strings(a, r->categories));
    if (r->storage_hash) json_set_str(a, d, "storageVersionHash", r->storage_hash);
    return d;
}

static void resource_list(struct request *q, const char *group, const char *version) {
    struct arena *a = q->a;
    struct json *doc = json_object(a), *list = json_array(a);
    const struct rows t = rows_of(q);
    json_set_str(a, doc, "kind", "APIResourceList");
    if (*group) json_set_str(a, doc, "apiVersion", "v1");
    json_set(a, doc, "groupVersion", *group ? json_strf(a, "%s/%s", group, version) : json_str(a, version));
    for (size_t i = 0; i < t.n; i++) {
        const struct resource *r = t.items[i];
        if (!str_eq(r->group, group) || !str_eq(r->version, version)) continue;
        json_append(a, list, resource_doc(a, r, NULL));
        for (size_t j = 0; j < r->n_subs; j++) json_append(a, list, resource_doc(a, r, &r->subs[j]));
    }
    json_set(a, doc, "resources", list);
    respond_tree(q, 200, api_type_find("meta.k8s.io", "v1", "APIResourceList"), doc);
}

static void group_list(struct request *q) {
    struct arena *a = q->a;
    struct json *doc = json_object(a), *groups = json_array(a);
    const struct rows t = rows_of(q);
    json_set_str(a, doc, "kind", "APIGroupList");
    json_set_str(a, doc, "apiVersion", "v1");
    for (size_t i = 0; i < t.n; i++)
        if (*t.items[i]->group && starts(&t, i, true)) json_append(a, groups, group_doc(q, &t, i, false));
    aggregator_groups(q, groups, false);
    json_set(a, doc, "groups", groups);
    respond_tree(q, 200, api_type_find("meta.k8s.io", "v1", "APIGroupList"), doc);
}

static void core_versions(struct request *q) {
    struct arena *a = q->a;
    struct json *doc = json_object(a), *versions = json_array(a), *addrs = json_array(a), *addr = json_object(a);
    json_set_str(a, doc, "kind", "APIVersions");
    json_append(a, versions, json_str(a, "v1"));
    json_set(a, doc, "versions", versions);
    json_set_str(a, addr, "clientCIDR", "0.0.0.0/0");
    json_set_str(a, addr, "serverAddress", str_or_empty(q->s->external_host));
    json_append(a, addrs, addr);
    json_set(a, doc, "serverAddressByClientCIDRs", addrs);
    respond_tree(q, 200, api_type_find("meta.k8s.io", "v1", "APIVersions"), doc);
}

/* ---- aggregated ---- */

static struct json *response_kind(struct arena *a, const char *group, const char *version, const char *kind) {
    struct json *k = json_object(a);
    json_set_str(a, k, "group", group);
    json_set_str(a, k, "version", version);
    json_set_str(a, k, "kind", kind);
    return k;
}

static struct json *aggregated_resource(struct arena *a, const struct resource *r) {
    struct json *d = json_object(a);
    json_set_str(a, d, "resource", r->plural);
    json_set(a, d, "responseKind", response_kind(a, "", "", r->kind));
    json_set_str(a, d, "scope", r->namespaced ? "Namespaced" : "Cluster");
    json_set_str(a, d, "singularResource", r->singular);
    json_set(a, d, "verbs", verbs(a, r->verbs, r->custom));
    if (r->short_names) json_set(a, d, "shortNames", strings(a, r->short_names));
    if (r->categories) json_set(a, d, "categories", strings(a, r->categories));
    if (!r->n_subs) return d;
    struct json *subs = json_array(a);
    for (size_t i = 0; i < r->n_subs; i++) {
        const struct resource_sub *s = &r->subs[i];
        struct json *x = json_object(a);
        json_set_str(a, x, "subresource", s->name);
        json_set(a, x, "responseKind", response_kind(a, str_or_empty(s->group), str_or_empty(s->version), s->kind));
        json_set(a, x, "verbs", verbs(a, s->verbs, false));
        json_append(a, subs, x);
    }
    json_set(a, d, "subresources", subs);
    return d;
}

static struct json *aggregated(struct request *q, bool core, const char *version) {
    struct arena *a = q->a;
    const struct rows t = rows_of(q);
    struct json *doc = json_object(a), *items = json_array(a), *versions = NULL, *resources = NULL;
    json_set_str(a, doc, "kind", "APIGroupDiscoveryList");
    json_set(a, doc, "apiVersion", json_strf(a, "apidiscovery.k8s.io/%s", version));
    json_set(a, doc, "metadata", json_object(a));
    for (size_t i = 0; i < t.n; i++) {
        const struct resource *r = t.items[i];
        if ((*r->group == 0) != core) continue;
        if (starts(&t, i, true)) {
            struct json *item = json_object(a), *meta = json_object(a);
            if (*r->group) json_set_str(a, meta, "name", r->group);
            json_set(a, item, "metadata", meta);
            versions = json_set(a, item, "versions", json_array(a));
            json_append(a, items, item);
        }
        if (starts(&t, i, false)) {
            struct json *v = json_object(a);
            json_set_str(a, v, "version", r->version);
            resources = json_set(a, v, "resources", json_array(a));
            json_set_str(a, v, "freshness", "Current");
            json_append(a, versions, v);
        }
        json_append(a, resources, aggregated_resource(a, r));
    }
    if (!core) aggregator_groups(q, items, true);
    json_set(a, doc, "items", items);
    return doc;
}

/* Answers with an ETag, so that clients with a cache need not read it again. */
static void respond_aggregated(struct request *q, bool core, const char *version) {
    _cleanup_buf_ struct buf b = BUF_INIT, raw = BUF_INIT;
    struct json *doc = aggregated(q, core, version);
    const struct api_type *type = api_type_find("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList");
    if (q->media == MEDIA_YAML) json_sort_keys(doc, true);
    if (q->media == MEDIA_PROTO && type) {
        api_tree_to_proto(&raw, type, doc);
        api_proto_wrap(&b, json_get_str(doc, "apiVersion"), json_get_str(doc, "kind"), raw.data, raw.len);
    } else if (q->media != MEDIA_YAML || yaml_write(&b, doc, NULL)) {
        json_write(&b, doc);
    }
    const char *etag = arena_printf(q->a, "\"%08x%08zx\"", hash_bytes(b.data, b.len), b.len);
    const struct http_header more[] = {
        {"Content-Type",
         arena_printf(q->a, "%s;g=apidiscovery.k8s.io;v=%s;as=APIGroupDiscoveryList", q->content_type, version)},
        {"ETag", etag},
        {"Vary", "Accept"},
        {"Cache-Control", "public"}};
    bool same = str_eq(http_header(q->http, "if-none-match"), etag);
    struct http_header *h;
    size_t n = response_headers_with(q, more, ARRAY_LEN(more), &h);
    http_respond(q->http, same ? 304 : 200, h, n, b.data, same ? 0 : b.len, HTTP_GZIP);
}

/* /apis and /apis/G, which upstream's aggregator answers: whatever the method. */
bool discovery_of_groups(const struct request *q) {
    const char *p = q->http->path;
    if (path_is(p, "/apis")) return true;
    const char *slash = str_has_prefix(p, "/apis/") ? strchr(p + 6, '/') : "/x";
    return !slash || !slash[1];
}

static bool version_known(struct request *q) {
    const char *p = q->http->path + (str_has_prefix(q->http->path, "/apis/") ? 6 : 5), *slash = strchr(p, '/');
    bool named = str_has_prefix(q->http->path, "/apis/");
    const char *group = named && slash ? arena_strndup(q->a, p, (size_t)(slash - p)) : "";
    const char *v = named && slash ? slash + 1 : p;
    return resource_group_known(q->s->resources, group, arena_strndup(q->a, v, strcspn(v, "/")));
}

static void not_found(struct request *q) {
    _cleanup_err_ struct err e = {0};
    err_status(&e, 404, "NotFound", "the server could not find the requested resource");
    respond_err(q, &e);
}

void handle_discovery(struct request *q) {
    _cleanup_err_ struct err e = {0};
    const char *p = q->http->path;
    const struct rows t = rows_of(q);
    bool core = path_is(p, "/api"), root = core || path_is(p, "/apis");
    bool groups = discovery_of_groups(q);
    if (!str_eq(q->http->method, "GET") && !groups && (core || version_known(q)))
        err_status(&e, 405, "MethodNotAllowed", "the server does not allow this method on the requested resource");
    else if (q->as == AS_DISCOVERY && !root) {
        q->acceptable = false;
        q->media = MEDIA_JSON;
        q->content_type = "application/json";
    }
    if (e.status || request_acceptable(q, &e)) {
        respond_err(q, &e);
        return;
    }
    if (root) {
        if (q->as == AS_DISCOVERY)
            respond_aggregated(q, core, q->as_version);
        else if (core)
            core_versions(q);
        else
            group_list(q);
        return;
    }
    bool named = str_has_prefix(p, "/apis/");
    const char *group = named ? p + 6 : "";
    const char *slash = strchr(group, '/');
    if (named && (!slash || !slash[1])) {
        group = arena_strndup(q->a, group, slash ? (size_t)(slash - group) : strlen(group));
        struct json *doc = NULL;
        for (size_t i = 0; i < t.n && !doc; i++)
            if (str_eq(t.items[i]->group, group)) doc = group_doc(q, &t, i, true);
        doc = aggregator_group(q, group, doc);
        if (doc)
            respond_tree(q, 200, api_type_find("meta.k8s.io", "v1", "APIGroup"), doc);
        else
            respond_text(q, 404, "404 page not found\n");
        return;
    }
    const char *v = named ? slash + 1 : p + 5;
    v = arena_strndup(q->a, v, strcspn(v, "/"));
    if (named) group = arena_strndup(q->a, group, (size_t)(slash - group));
    if (resource_group_known(q->s->resources, group, v)) {
        resource_list(q, group, v);
        return;
    }
    if (resource_group_known(q->s->resources, group, NULL) && !resource_group_custom(q->s->resources, group))
        not_found(q);
    else
        respond_text(q, 404, "404 page not found\n"); /* not even a group: no API answers */
}
