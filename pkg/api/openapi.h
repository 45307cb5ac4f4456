/* OpenAPI documents from descriptors: what /openapi/v3/apis/GROUP/VERSION, /openapi/v2 and `kubectl explain` show.
 *
 * A caller lists its resources (rows below); schemas are the closure of the types the rows name. Custom resources bring
 * their schema as a tree. All results live in the arena; members stand in alphabetical order as in Kubernetes. */
#pragma once

#include "pkg/api/api.h"

enum openapi_verb {
    OPENAPI_GET = 1 << 0,
    OPENAPI_LIST = 1 << 1,
    OPENAPI_CREATE = 1 << 2,
    OPENAPI_UPDATE = 1 << 3,
    OPENAPI_PATCH = 1 << 4,
    OPENAPI_DELETE = 1 << 5,
    OPENAPI_DELETECOLLECTION = 1 << 6,
    OPENAPI_WATCH = 1 << 7,
    OPENAPI_ALL = (1 << 8) - 1,
};

/* A kind: a built-in one is known by its type alone, a custom one by the other four. */
struct openapi_kind {
    const struct api_type *type;        /* NULL: custom */
    const char *group, *version, *kind; /* custom */
    const struct json *schema;          /* custom: its OpenAPI v3 schema; NULL: any object */
    const char *name;                   /* custom: name of the schema, "com.example.v1.Gadget" */
};

struct openapi_subresource {
    const char *name;         /* "status", "scale", "log", "proxy", ... */
    struct openapi_kind kind; /* of bodies and answers; unused for attach, exec, log, portforward, proxy */
    unsigned verbs;           /* GET, UPDATE, PATCH, CREATE, DELETE; unused for those five */
};

struct openapi_resource {
    const char *plural;
    bool namespaced;
    struct openapi_kind kind, list; /* list.type NULL and list.name NULL: the resource has no list */
    unsigned verbs;
    bool delete_gives_object; /* DELETE answers with the object instead of a Status */
    const struct openapi_subresource *subs;
    size_t n_subs;
};

/* components.schemas (version 3) or definitions (version 2) of the types and all they refer to. `groups` are the groups
 * and versions that DeleteOptions and WatchEvent are said to belong to beside the core ("apps/v1"; NULL-terminated). */
struct json *openapi_schemas(struct arena *a, int version, const struct api_type *const *types, size_t n,
                             const char *const *groups);
static inline struct json *openapi_v3_schemas(struct arena *a, const struct api_type *const *types, size_t n) {
    return openapi_schemas(a, 3, types, n, NULL);
}
static inline struct json *openapi_v2_definitions(struct arena *a, const struct api_type *const *types, size_t n) {
    return openapi_schemas(a, 2, types, n, NULL);
}

/* The whole v3 document of a group and version: paths, schemas, security. `release` is like "1.36". */
struct json *openapi_v3_document(struct arena *a, const char *release, const char *group, const char *version,
                                 const struct openapi_resource *rows, size_t n);
/* The small v3 documents: path "/api/" or "/apis/" (group NULL), or "/apis/GROUP/". */
struct json *openapi_v3_discovery(struct arena *a, const char *release, const char *group, bool core);
/* v2: one document of all groups. Begin, add every group and version, and write it as JSON or protobuf. */
struct json *openapi_v2_begin(struct arena *a, const char *release);
void openapi_v2_add(struct arena *a, struct json *doc, const char *group, const char *version,
                    const struct openapi_resource *rows, size_t n);
/* Call once after the last add: gives DeleteOptions and WatchEvent their groups and sorts. */
void openapi_v2_end(struct arena *a, struct json *doc);
/* The document as gnostic's openapi.v2.Document, what application/com.github.proto-openapi.spec.v2@v1.0+protobuf is. */
void openapi_v2_to_proto(struct buf *b, const struct json *doc);
