/* /openapi/v3 (an index and a document a group and version) and /openapi/v2, from the resource table through
 * pkg/api/openapi.h. A document of v3 is made when it is fetched (clients cache it by the hash in its URL); the one
 * of v2 is big, and kept once somebody has asked for it. */
#include "pkg/api/openapi.h"

#include <malloc.h>
#include <openssl/evp.h>
#include <pthread.h>

#include "apiserver/aggregator/aggregator.h"
#include "apiserver/crd/registry.h"
#include "apiserver/handlers.h"
#include "apiserver/lookup.h"
#include "pkg/base/map.h"

#define RELEASE "1.36"
#define V2_PROTO "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"

struct openapi {
    pthread_mutex_t lock;
    struct rbytes *v2_json, *v2_proto;
    char v2_etag[2 * 32 + 3];
    uint64_t v2_of; /* changes of definitions and back ends when they were made */
};

void openapi_free(struct openapi *o) {
    if (!o) return;
    rbytes_unref(o->v2_json);
    rbytes_unref(o->v2_proto);
    pthread_mutex_destroy(&o->lock);
    free(o);
}

static unsigned verbs_of(uint32_t v) {
    static const struct {
        uint32_t verb;
        unsigned openapi;
    } map[] = {{VERB_GET, OPENAPI_GET},       {VERB_LIST, OPENAPI_LIST},
               {VERB_CREATE, OPENAPI_CREATE}, {VERB_UPDATE, OPENAPI_UPDATE},
               {VERB_PATCH, OPENAPI_PATCH},   {VERB_DELETE, OPENAPI_DELETE},
               {VERB_WATCH, OPENAPI_WATCH},   {VERB_DELETECOLLECTION, OPENAPI_DELETECOLLECTION}};
    unsigned out = 0;
    for (size_t i = 0; i < ARRAY_LEN(map); i++)
        if (v & map[i].verb) out |= map[i].openapi;
    return out;
}

static bool plain_text(const char *sub) {
    static const char *const subs[] = {"log", "exec", "attach", "portforward", "proxy"};
    for (size_t i = 0; i < ARRAY_LEN(subs); i++)
        if (str_eq(sub, subs[i])) return true;
    return false;
}

struct rows {
    struct apiserver *s;
    const struct resource *const *items;
    size_t n;
};

static struct rows rows_all(struct apiserver *s, struct arena *a) {
    struct rows r = {.s = s};
    r.items = resource_table_rows(s->resources, a, &r.n);
    return r;
}

/* Kinds of custom resources bring their schemas. */
static void custom_kinds(struct apiserver *s, struct arena *a, const struct resource *r, int version,
                         struct openapi_resource *row) {
    row->kind = crd_openapi_kind(s, a, r, version);
    row->list = crd_openapi_list(a, r, version);
    for (size_t i = 0; i < row->n_subs; i++)
        if (str_eq(row->subs[i].name, "status")) ((struct openapi_subresource *)row->subs)[i].kind = row->kind;
}

static struct openapi_resource row_of(struct apiserver *server, struct arena *a, const struct resource *r,
                                      int version) {
    struct openapi_subresource *subs = arena_zalloc(a, (r->n_subs + 1) * sizeof(*subs));
    for (size_t i = 0; i < r->n_subs; i++) {
        const struct resource_sub *s = &r->subs[i];
        subs[i].name = s->name;
        subs[i].verbs = verbs_of(s->verbs);
        if (!plain_text(s->name))
            subs[i].kind.type =
                api_type_find(s->group ? s->group : r->group, s->version ? s->version : r->version, s->kind);
    }
    struct openapi_resource row = {.plural = r->plural,
                                   .namespaced = r->namespaced,
                                   .verbs = verbs_of(r->verbs),
                                   .subs = subs,
                                   .n_subs = r->n_subs};
    if (r->custom) {
        custom_kinds(server, a, r, version, &row);
        return row;
    }
    row.kind.type = r->type;
    if (r->verbs & VERB_LIST) row.list.type = api_type_find(r->group, r->version, r->list_kind);
    return row;
}

/* The rows of the group and version that starts at `first`; *end is behind the last. */
static struct openapi_resource *rows_of(struct arena *a, const struct rows *t, size_t first, int version, size_t *n,
                                        size_t *end) {
    const struct resource *r = t->items[first];
    size_t i = first;
    while (i < t->n && str_eq(t->items[i]->group, r->group) && str_eq(t->items[i]->version, r->version)) i++;
    struct openapi_resource *rows = arena_alloc(a, (i - first) * sizeof(*rows));
    *n = 0;
    for (size_t j = first; j < i; j++) rows[(*n)++] = row_of(t->s, a, t->items[j], version);
    *end = i;
    return rows;
}

static const char *doc_path(struct arena *a, const struct resource *r) {
    return *r->group ? arena_printf(a, "apis/%s/%s", r->group, r->version) : arena_printf(a, "api/%s", r->version);
}

static struct json *v3_document(struct arena *a, const struct rows *t, size_t first, size_t *end) {
    size_t n;
    struct openapi_resource *rows = rows_of(a, t, first, 3, &n, end);
    const struct resource *r = t->items[first];
    return openapi_v3_document(a, RELEASE, r->group, r->version, rows, n);
}

/* Changes with the definitions of the custom resources of the document. */
static unsigned long long custom_version(const struct rows *t, struct arena *a, const char *path) {
    unsigned long long v = 0;
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i]->custom && str_eq(doc_path(a, t->items[i]), path))
            v = v * 31 + (unsigned long long)crd_revision(t->s, t->items[i]);
    return v;
}

/* A hash that changes with the server's version and the definitions: what the document is made from. */
static const char *path_hash(const struct rows *t, struct arena *a, const char *path) {
    const char *text = arena_printf(a, "%s %s %llx", "v1.36.0", path, custom_version(t, a, path));
    uint32_t h = hash_bytes(text, strlen(text)), g = hash_bytes(&h, sizeof(h));
    return arena_printf(a, "%08X%08X", h, g);
}

static void add_to_index(const struct rows *t, struct arena *a, struct json *paths, const char *path) {
    if (json_get(paths, path)) return;
    struct json *x = json_object(a);
    json_set(a, x, "serverRelativeURL", json_strf(a, "/openapi/v3/%s?hash=%s", path, path_hash(t, a, path)));
    json_set(a, paths, path, x);
}

/* A document each for /api, /apis, every group, and every group and version. */
static void v3_index(struct request *q) {
    struct arena *a = q->a;
    const struct rows t = rows_all(q->s, q->a);
    struct json *doc = json_object(a), *paths = json_object(a);
    add_to_index(&t, a, paths, "api");
    add_to_index(&t, a, paths, "apis");
    for (size_t i = 0; i < t.n; i++) {
        const struct resource *r = t.items[i];
        if (*r->group) add_to_index(&t, a, paths, arena_printf(a, "apis/%s", r->group));
        add_to_index(&t, a, paths, doc_path(a, r));
    }
    aggregator_openapi_index(q->s->aggregator, a, paths);
    json_sort_keys(paths, false);
    json_set(a, doc, "paths", paths);
    char *text = json_text(a, doc);
    respond_json_text(q, 200, "text/plain; charset=utf-8", text, strlen(text));
}

static struct json *v3_make(struct request *q, const char *path) {
    const struct rows t = rows_all(q->s, q->a);
    if (str_eq(path, "api") || str_eq(path, "apis")) return openapi_v3_discovery(q->a, RELEASE, NULL, !path[3]);
    for (size_t i = 0, end; i < t.n; i++) {
        const struct resource *r = t.items[i];
        if (str_eq(doc_path(q->a, r), path)) return v3_document(q->a, &t, i, &end);
        if (*r->group && str_has_prefix(path, "apis/") && str_eq(path + 5, r->group))
            return openapi_v3_discovery(q->a, RELEASE, r->group, false);
    }
    return NULL;
}

static bool v3_doc(struct request *q, const char *path) {
    const struct rows t = rows_all(q->s, q->a);
    struct json *doc = v3_make(q, path);
    if (!doc) return false;
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, doc);
    const char *etag = arena_printf(q->a, "\"%s\"", path_hash(&t, q->a, path));
    const struct http_header more[] = {
        {"Content-Type", "application/json"},
        {"ETag", etag},
        {"Vary", "Accept"},
        {"Cache-Control", http_query(q->http, "hash") ? "public, immutable" : "no-cache, private"}};
    bool same = str_eq(http_header(q->http, "if-none-match"), etag);
    struct http_header *h;
    size_t n = response_headers_with(q, more, ARRAY_LEN(more), &h);
    http_respond(q->http, same ? 304 : 200, h, n, b.data, same ? 0 : b.len, HTTP_GZIP);
    return true;
}

/* A quoted hash, by which clients that poll are told that nothing has changed. */
static void make_etag(struct openapi *o) {
    uint8_t sum[EVP_MAX_MD_SIZE];
    EVP_Digest(o->v2_json->data, o->v2_json->len, sum, NULL, EVP_sha256(), NULL);
    o->v2_etag[0] = '"';
    for (size_t i = 0; i < 32; i++) snprintf(o->v2_etag + 1 + 2 * i, 3, "%02X", sum[i]);
    o->v2_etag[65] = '"';
    o->v2_etag[66] = '\0';
}

/* The document is made anew when definitions of custom resources have come or gone. */
static void make_v2(struct openapi *o, struct apiserver *s) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct rows t = rows_all(s, a);
    _cleanup_buf_ struct buf json = BUF_INIT, proto = BUF_INIT;
    struct json *doc = openapi_v2_begin(a, RELEASE);
    for (size_t i = 0, end; i < t.n; i = end) {
        size_t n;
        const struct resource *r = t.items[i];
        struct openapi_resource *rows = rows_of(a, &t, i, 2, &n, &end);
        openapi_v2_add(a, doc, r->group, r->version, rows, n);
    }
    openapi_v2_end(a, doc);
    aggregator_openapi_v2(s->aggregator, a, doc);
    json_write(&json, doc);
    openapi_v2_to_proto(&proto, doc);
    rbytes_unref(o->v2_json);
    rbytes_unref(o->v2_proto);
    o->v2_json = rbytes_new(json.data, json.len);
    o->v2_proto = rbytes_new(proto.data, proto.len);
    make_etag(o);
}

static void v2(struct request *q) {
    struct openapi *o = q->s->openapi;
    const char *accept = str_or_empty(http_header(q->http, "accept"));
    bool proto = strstr(accept, "proto-openapi.spec.v2") != NULL;
    pthread_mutex_lock(&o->lock);
    uint64_t now = crd_changes(q->s) + aggregator_changes(q->s->aggregator);
    if (!o->v2_json || o->v2_of != now) {
        make_v2(o, q->s);
        malloc_trim(0); /* many times the document's size was needed to make it */
    }
    o->v2_of = now;
    struct rbytes *doc = rbytes_ref(proto ? o->v2_proto : o->v2_json);
    const char *etag = arena_strdup(q->a, o->v2_etag);
    pthread_mutex_unlock(&o->lock);
    const struct http_header more[] = {
        {"Content-Type", proto ? V2_PROTO : "application/json"}, {"Vary", "Accept"}, {"ETag", etag}};
    struct http_header *h;
    size_t n = response_headers_with(q, more, ARRAY_LEN(more), &h);
    if (str_eq(http_header(q->http, "if-none-match"), etag))
        http_respond(q->http, 304, h, n, "", 0, 0);
    else
        http_respond_bytes(q->http, 200, h, n, &doc, 1, HTTP_GZIP);
    rbytes_unref(doc);
}

struct openapi *openapi_new(void) {
    struct openapi *o = xcalloc(1, sizeof(*o));
    pthread_mutex_init(&o->lock, NULL);
    return o;
}

void handle_openapi(struct request *q) {
    const char *p = q->http->path;
    if (str_eq(p, "/openapi/v3")) {
        v3_index(q);
        return;
    }
    if (str_eq(p, "/openapi/v2")) {
        v2(q);
        return;
    }
    if (str_has_prefix(p, "/openapi/v3/") &&
        (aggregator_openapi_v3(q, p + strlen("/openapi/v3/")) || v3_doc(q, p + strlen("/openapi/v3/"))))
        return;
    if (str_has_prefix(p, "/openapi/v3/")) {
        struct http_header *h;
        size_t n = response_headers_with(q, NULL, 0, &h);
        http_respond(q->http, 404, h, n, "", 0, 0);
    } else
        respond_text(q, 404, "404 page not found\n");
}
