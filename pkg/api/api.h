/* The type system: every built-in type is declared once in an IDL file (pkg/api/idl), and a generator makes C structs
 * and constant descriptor tables from it. Everything generic walks the descriptors: the JSON and protobuf codecs,
 * normalisation of dynamic trees, defaulting, declarative validation, patches, server-side apply, OpenAPI.
 *
 * Names. `PodSpec` of core/v1 is `struct core_pod_spec`, its descriptor `api_core_pod_spec`, both from
 * "pkg/api/core.h" (made in the build folder). Prefixes are the group's name (core, apps, batch, meta, rbac, ...);
 * autoscaling has autoscaling_v1 and autoscaling_v2; CRI messages are `cri_...`, etcd's `etcd_...`. Fields are the
 * JSON names in snake case: hostIPs is host_ips, clusterIP cluster_ip. A C keyword gets a trailing underscore.
 *
 * In memory (everything in an arena):
 *   string, *string, aliases  const char *, NULL absent       bool, int32, int64, double   the value, 0 absent
 *   *bool, *int32, *int64     pointer, NULL absent            T                            struct T inline
 *   *T                        struct T *, NULL absent         []T                          struct { T *items; size_t n; }
 *   map[string]T              vector of {const char *key; T value}, sorted by key
 *   []byte                    struct bytes                    Time, MicroTime (or *)       struct ktime
 *   Quantity, Duration        const char * in canonical form  IntOrString (or *)           struct int_or_string (.set)
 *   RawExtension, JSON, FieldsV1  struct raw_json: JSON text
 *
 * Inlined members (TypeMeta, VolumeSource in Volume, ...) are members of the parent, and also reachable as one struct by
 * the type's name: volume.host_path and volume.volume_source.host_path are the same bytes. String enums have macros
 * (CORE_POD_PHASE_RUNNING is "Running"), those of CRI and etcd C enums (CRI_CONTAINER_STATE_CONTAINER_RUNNING). Members
 * of CRI and etcd messages that are messages are pointers; scalars of a oneof too.
 */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/buf.h"
#include "pkg/base/err.h"
#include "pkg/base/ktime.h"
#include "pkg/json/json.h"

#undef linux /* GNU C defines it to 1; CRI has members of that name */

struct bytes {
    const uint8_t *p;
    size_t n;
};
struct raw_json {
    const char *p; /* NULL: absent */
    size_t n;
    const struct json *tree; /* of pkg/api alone: the value while a tree is being normalised; NULL otherwise */
};
struct int_or_string {
    bool set, is_str;
    int32_t i;
    const char *s;
};
struct str_vec {
    const char **items;
    size_t n;
};
struct i32_vec {
    int32_t *items;
    size_t n;
};
struct i64_vec {
    int64_t *items;
    size_t n;
};
struct u32_vec {
    uint32_t *items;
    size_t n;
};
struct u64_vec {
    uint64_t *items;
    size_t n;
};
struct bool_vec {
    bool *items;
    size_t n;
};
struct bytes_vec {
    struct bytes *items;
    size_t n;
};
struct raw_json_vec {
    struct raw_json *items;
    size_t n;
};
struct str_map_entry {
    const char *key, *value;
};
struct str_map {
    struct str_map_entry *items;
    size_t n;
};
struct bytes_map_entry {
    const char *key;
    struct bytes value;
};
struct bytes_map {
    struct bytes_map_entry *items;
    size_t n;
};
struct str_vec_map_entry {
    const char *key;
    struct str_vec value;
};
struct str_vec_map {
    struct str_vec_map_entry *items;
    size_t n;
};
struct ktime_map_entry {
    const char *key;
    struct ktime value;
};
struct ktime_map {
    struct ktime_map_entry *items;
    size_t n;
};
/* The value of a key, or NULL. */
const char *str_map_get(const struct str_map *m, const char *key);

enum api_kind { /* of a field's (element's) type */
                API_STRING,
                API_BOOL,
                API_INT32,
                API_INT64,
                API_UINT32,
                API_UINT64,
                API_DOUBLE,
                API_BYTES,
                API_TIME,
                API_MICROTIME,
                API_DURATION,
                API_QUANTITY,
                API_INT_OR_STRING,
                API_RAW, /* any JSON */
                API_FIELDS_V1,
                API_MESSAGE,
                API_ENUM /* int32 in C and protobuf: CRI and etcd */
};
enum api_shape { API_ONE, API_PTR, API_LIST, API_MAP, API_MAP_LISTS /* map[string][]string: str_vec_map */ };

enum api_field_flags {
    API_F_REQUIRED = 1 << 0,     /* must be present (validation: Required) */
    API_F_OMITEMPTY = 1 << 1,    /* left out of JSON when empty; without it a zero value is written */
    API_F_INLINE = 1 << 2,       /* a struct whose members stand in the parent's JSON object: only among .wire */
    API_F_LIST_MAP = 1 << 3,     /* listType=map, keys in .list_keys */
    API_F_LIST_SET = 1 << 4,     /* listType=set */
    API_F_ATOMIC = 1 << 5,       /* listType=atomic, mapType=atomic or structType=atomic */
    API_F_PATCH_MERGE = 1 << 6,  /* strategic merge: patchStrategy=merge, key in .patch_key (NULL: primitives) */
    API_F_RETAIN_KEYS = 1 << 7,  /* patchStrategy=retainKeys */
    API_F_ONEOF = 1 << 8,        /* protobuf oneof member */
    API_F_NOT_HONOURED = 1 << 9, /* accepted, but nothing acts on it yet: answered with a Warning */
    API_F_IMMUTABLE = 1 << 10,
    API_F_PACKED = 1 << 11,        /* repeated scalar, packed in protobuf */
    API_F_OMITZERO = 1 << 12,      /* a struct value that is left out of JSON when zero (creationTimestamp) */
    API_F_WRAPPED = 1 << 13,       /* list that is a message {repeated items = 1} in protobuf */
    API_F_DISCRIMINATOR = 1 << 14, /* names the member that is set in a union */
    API_F_GRANULAR = 1 << 15,      /* mapType=granular, said explicitly */
    API_F_PATCH_REPLACE = 1 << 16  /* patchStrategy=replace: strategic merge takes the whole value */
};

struct api_type;
struct api_field {
    const char *json; /* "" for inline */
    uint32_t offset;  /* in the C struct */
    uint32_t proto;   /* field number, 0: not in protobuf (or in that of an inline struct) */
    uint32_t flags;
    uint8_t kind, shape, json_len;
    const struct api_type *type;  /* MESSAGE */
    const char *const *list_keys; /* listMapKeys, NULL-terminated, or NULL */
    const char *patch_key;
    const char *dflt;         /* JSON text of the declared default, or NULL */
    const char *const *enums; /* allowed values, NULL-terminated, or NULL */
    const char *format;       /* validation rule's name, or NULL */
    const char *doc;          /* a sentence, or NULL */
};

struct api_type {
    const char *name;               /* "PodSpec" */
    const char *openapi;            /* "io.k8s.api.core.v1.PodSpec" */
    const char *group, *version;    /* of the file that declares it; "" for core */
    const struct api_field *fields; /* in declaration order, the order of canonical JSON; inlined ones in their place */
    const uint16_t
        *wire; /* protobuf's view: indices into .fields by rising number; inline structs stand behind n_fields */
    uint32_t n_fields, n_wire, size;
    uint32_t vec_stride; /* == size */
    bool is_kind;        /* has TypeMeta: an object (or list, or options) of the API */
    bool atomic;         /* structType=atomic: apply owns it as one value */
    bool bare;           /* JSON shows one member's value alone, chosen by its JSON type (JSONSchemaPropsOrBool) */
    bool is_union;       /* at most one member is set */
    bool proto3;         /* CRI, etcd: zero values are not written; JSON is proto3's */
    const char *doc;
};

/* Finds a kind's type: api_type_find("apps", "v1", "Deployment"); group "" is core. NULL when unknown. */
const struct api_type *api_type_find(const char *group, const char *version, const char *kind);
const struct api_type *api_type_by_openapi(const char *openapi_name);
const struct api_field *api_field_find(const struct api_type *t, const char *json_name); /* looks into inline fields */
/* What a field has when nothing is said, as JSON: only values that are always present have such a default, else NULL. */
const char *api_field_implied_default(const struct api_field *f);
/* All types, for generators of documentation and tests. */
extern const struct api_type *const api_types[];
extern const size_t api_types_n;

/* ---- typed structs ---- `out`, `obj` point to the type's C struct; results live in `a` */

/* Lenient: unknown fields are skipped, null is absent. -EINVAL with the field's path on wrong types. */
int api_from_json(struct arena *a, const struct api_type *t, const char *p, size_t n, void *out, struct err *e);
int api_from_tree(struct arena *a, const struct api_type *t, const struct json *v, void *out, struct err *e);
struct json *api_to_tree(struct arena *a, const struct api_type *t, const void *obj);
void api_to_json(struct buf *b, const struct api_type *t, const void *obj);
/* Bare protobuf messages (CRI, etcd); Kubernetes' own objects are wrapped, see api_proto_unwrap. */
int api_from_proto(struct arena *a, const struct api_type *t, const uint8_t *p, size_t n, void *out, struct err *e);
void api_to_proto(struct buf *b, const struct api_type *t, const void *obj);
/* Deep copy. */
void *api_clone(struct arena *a, const struct api_type *t, const void *obj);
/* Deep equality of two objects of one type, as encoded. */
bool api_equal(const struct api_type *t, const void *x, const void *y);

/* ---- trees: what the API server works on ---- */

struct api_problems { /* findings of strict decoding */
    struct {
        const char *kind; /* "unknown field", "duplicate field"; NULL: `path` says it all */
        const char *path;
    } * items;
    size_t n, cap;
};

static inline void api_problem_add(struct arena *a, struct api_problems *p, const char *kind, const char *path) {
    ARENA_GROW(a, p->items, p->n, p->cap);
    p->items[p->n].kind = kind;
    p->items[p->n++].path = path;
}

/* Brings a tree into canonical form for its type, as if decoded into Kubernetes' structs and encoded again: unknown
 * fields are dropped (and noted in `unknown`, may be NULL), null means absent, members stand in declaration order,
 * empty omitempty fields go, non-omitempty zero values appear, quantities, times and base64 are canonical. Wrong types
 * give -EINVAL with a message like Kubernetes' decoder (the API answers 400). */
int api_tree_normalise(struct arena *a, const struct api_type *t, struct json *v, struct json **out,
                       struct api_problems *unknown, struct err *e);
/* The same for what goes to the store. Kubernetes stores protobuf, which knows no empty lists and maps: they come back as
 * absent (null where they are not omitempty), and so they do here. */
int api_tree_stored(struct arena *a, const struct api_type *t, struct json *v, struct json **out, struct err *e);
/* Applies the declared defaults (.dflt) to absent fields, recursively. */
void api_tree_default(struct arena *a, const struct api_type *t, struct json *v);
/* Protobuf straight to and from trees (built-in kinds). */
int api_tree_from_proto(struct arena *a, const struct api_type *t, const uint8_t *p, size_t n, struct json **out,
                        struct err *e);
void api_tree_to_proto(struct buf *b, const struct api_type *t, const struct json *v);
/* application/vnd.kubernetes.protobuf: "k8s\0" + runtime.Unknown. Unwrap gives apiVersion, kind and the raw message. */
int api_proto_unwrap(struct arena *a, const uint8_t *p, size_t n, const char **api_version, const char **kind,
                     struct bytes *raw, struct err *e);
void api_proto_wrap(struct buf *b, const char *api_version, const char *kind, const void *raw, size_t n);

/* ---- gRPC services ---- */
struct api_rpc {
    const char *path; /* "/runtime.v1.RuntimeService/Version" */
    const struct api_type *request, *response;
    bool client_stream, server_stream;
};
