/* The documents: what stands around paths (openapi_paths.c) and schemas (openapi.c), and in version 2 the merging of all
 * groups into one. */
#include "pkg/api/meta.h"
#include "pkg/api/openapi_internal.h"

/* Custom kinds bring their schemas with them, and refer to what all objects have. */
static void need_custom(struct openapi *o, const struct openapi_resource *rows, size_t n) {
    bool any = false;
    for (size_t i = 0; i < n; i++) any |= !rows[i].kind.type && rows[i].kind.name;
    if (!any) return;
    openapi_need(o, api_type_by_openapi("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
    openapi_need(o, api_type_by_openapi("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"));
}

static void add_custom_schemas(struct openapi *o, struct json *schemas, const struct openapi_resource *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct openapi_kind *both[] = {&rows[i].kind, &rows[i].list};
        for (size_t k = 0; k < 2; k++) {
            if (both[k]->type || !both[k]->name || json_get(schemas, both[k]->name)) continue;
            struct json *v = both[k]->schema ? json_clone(o->a, both[k]->schema) : json_object(o->a);
            if (!json_get(v, "type")) json_set_str(o->a, v, "type", "object");
            json_append(o->a, json_set(o->a, v, "x-kubernetes-group-version-kind", json_array(o->a)),
                        openapi_gvk(o->a, both[k]->group, both[k]->version, both[k]->kind));
            json_set(o->a, schemas, both[k]->name, v);
        }
    }
}

/* ---- documents ---- */

static struct json *begin_document(struct arena *a, int version, const char *release) {
    struct json *doc = json_object(a), *info = json_object(a), *token = json_object(a), *schemes = json_object(a);
    json_set_str(a, info, "title", "Kubernetes");
    json_set_str(a, info, "version", release);
    json_set_str(a, token, "description", "Bearer Token authentication");
    json_set_str(a, token, "in", "header");
    json_set_str(a, token, "name", "authorization");
    json_set_str(a, token, "type", "apiKey");
    json_set(a, schemes, "BearerToken", token);
    if (version == 3) {
        json_set_str(a, doc, "openapi", "3.0.0");
        json_set(a, doc, "info", info);
        json_set(a, doc, "paths", json_object(a));
        json_set(a, json_set(a, doc, "components", json_object(a)), "securitySchemes", schemes);
        return doc;
    }
    json_set_str(a, doc, "swagger", "2.0");
    json_set(a, doc, "info", info);
    json_set(a, doc, "paths", json_object(a));
    json_set(a, doc, "definitions", json_object(a));
    json_set(a, doc, "parameters", json_object(a));
    json_set(a, doc, "securityDefinitions", schemes);
    struct json *need = json_object(a);
    json_set(a, need, "BearerToken", json_array(a));
    json_append(a, json_set(a, doc, "security", json_array(a)), need);
    return doc;
}

struct json *openapi_v3_document(struct arena *a, const char *release, const char *group, const char *version,
                                 const struct openapi_resource *rows, size_t n) {
    const char *const groups[] = {arena_printf(a, "%s/%s", group, version), NULL};
    struct openapi o = {.a = a, .version = 3, .groups = groups};
    struct json *doc = begin_document(a, 3, release), *paths = json_get(doc, "paths");
    openapi_rows(&o, paths, group, version, rows, n);
    json_sort_keys(paths, false);
    need_custom(&o, rows, n);
    struct json *schemas = openapi_close(&o);
    add_custom_schemas(&o, schemas, rows, n);
    json_set(a, json_get(doc, "components"), "schemas", schemas);
    return doc;
}

struct json *openapi_v3_discovery(struct arena *a, const char *release, const char *group, bool core) {
    struct openapi o = {.a = a, .version = 3};
    struct json *doc = begin_document(a, 3, release);
    openapi_group(&o, json_get(doc, "paths"), group, core);
    json_set(a, json_get(doc, "components"), "schemas", openapi_close(&o));
    return doc;
}

struct json *openapi_v2_begin(struct arena *a, const char *release) {
    struct openapi o = {.a = a, .version = 2};
    struct json *doc = begin_document(a, 2, release), *paths = json_get(doc, "paths");
    openapi_parameters(&o, json_get(doc, "parameters"));
    openapi_group(&o, paths, NULL, true);
    openapi_group(&o, paths, NULL, false);
    json_set(a, doc, "definitions", openapi_close(&o));
    return doc;
}

/* Definitions that an earlier group brought along already stay as they are. */
static void merge_definitions(struct arena *a, struct json *into, const struct json *from) {
    JSON_FOREACH_MEMBER(m, from)
        if (!json_get(into, m->key)) json_set(a, into, m->key, m->value);
}

void openapi_v2_add(struct arena *a, struct json *doc, const char *group, const char *version,
                    const struct openapi_resource *rows, size_t n) {
    struct openapi o = {.a = a, .version = 2};
    struct json *paths = json_get(doc, "paths"), *definitions = json_get(doc, "definitions");
    if (*group) openapi_group(&o, paths, group, false);
    openapi_rows(&o, paths, group, version, rows, n);
    merge_definitions(a, definitions, openapi_close(&o));
    add_custom_schemas(&o, definitions, rows, n);
}

void openapi_v2_end(struct arena *a, struct json *doc) {
    struct json *paths = json_get(doc, "paths"), *definitions = json_get(doc, "definitions");
    json_sort_keys(paths, false);
    json_sort_keys(definitions, false);
    const char *seen[256];
    size_t n = 0;
    JSON_FOREACH_MEMBER(m, paths) {
        char group[200], version[64];
        if (sscanf(m->key, "/apis/%199[^/]/%63[^/]/", group, version) != 2 || n == ARRAY_LEN(seen)) continue;
        char *gv = arena_printf(a, "%s/%s", group, version);
        if (!n || strcmp(seen[n - 1], gv) != 0) seen[n++] = gv;
    }
    const struct api_type *types[] = {&api_meta_delete_options, &api_meta_watch_event};
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        struct json *list = json_get(json_get(definitions, types[t]->openapi), "x-kubernetes-group-version-kind");
        for (size_t i = 0; list && i < n; i++) {
            const char *slash = strchr(seen[i], '/');
            char *group = arena_strndup(a, seen[i], (size_t)(slash - seen[i]));
            json_append(a, list, openapi_gvk(a, group, slash + 1, types[t]->name));
        }
    }
}
