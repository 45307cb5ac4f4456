/* Schemas of types. Follows what kube-openapi makes of Go types: a property that is a struct is a reference inside
 * allOf, with the default {} unless optional; a value without omitempty has its zero value as default; lists and maps
 * carry their merge and apply behaviour as x-kubernetes-* extensions. Version 2 has plain references and no defaults. */
#include "pkg/api/openapi_internal.h"

#define META "io.k8s.apimachinery.pkg.apis.meta.v1."

/* Kinds that are schemas of their own without being types: name, and the schema in version 3 and 2. */
static const struct {
    enum api_kind kind;
    bool any; /* API_RAW: JSON of any kind instead of an object */
    const char *name, *v3, *v2;
} scalar_schemas[] = {
    {API_TIME, false, META "Time", "{\"format\":\"date-time\",\"type\":\"string\"}", NULL},
    {API_MICROTIME, false, META "MicroTime", "{\"format\":\"date-time\",\"type\":\"string\"}", NULL},
    {API_DURATION, false, META "Duration", "{\"type\":\"string\"}", NULL},
    {API_QUANTITY, false, "io.k8s.apimachinery.pkg.api.resource.Quantity",
     "{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"number\"}]}", "{\"type\":\"string\"}"},
    {API_INT_OR_STRING, false, "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
     "{\"format\":\"int-or-string\",\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}",
     "{\"format\":\"int-or-string\",\"type\":\"string\"}"},
    {API_RAW, false, "io.k8s.apimachinery.pkg.runtime.RawExtension", "{\"type\":\"object\"}", NULL},
    {API_RAW, true, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "{}", NULL},
    {API_FIELDS_V1, false, META "FieldsV1", "{\"type\":\"object\"}", NULL},
};

static const char *field_schema_name(const struct api_field *f, size_t *scalar) {
    if (f->kind == API_MESSAGE) return f->type->openapi;
    bool any = str_eq(f->format, "json");
    for (size_t i = 0; i < ARRAY_LEN(scalar_schemas); i++)
        if (scalar_schemas[i].kind == f->kind && scalar_schemas[i].any == any) {
            *scalar = i;
            return scalar_schemas[i].name;
        }
    return NULL;
}

static struct json *parse(struct arena *a, const char *text) {
    struct json *v = NULL;
    json_parse(a, text, strlen(text), &v, NULL, NULL);
    return v;
}

struct json *openapi_ref(struct arena *a, int version, const char *name) {
    struct json *v = json_object(a);
    json_set(a, v, "$ref", json_strf(a, "#/%s/%s", version == 3 ? "components/schemas" : "definitions", name));
    return v;
}

static int by_text(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

static void add_enum(struct arena *a, struct json *v, const char *const *values) {
    const char *sorted[128];
    size_t n = 0;
    for (; values[n] && n < ARRAY_LEN(sorted); n++) sorted[n] = values[n];
    qsort(sorted, n, sizeof(*sorted), by_text);
    struct json *list = json_set(a, v, "enum", json_array(a));
    for (size_t i = 0; i < n; i++) json_append(a, list, json_str(a, sorted[i]));
}

/* The schema of one value of a field: type and format, or a reference. */
static struct json *value_schema(struct openapi *o, const struct api_field *f) {
    static const struct {
        const char *type, *format;
    } plain[] = {
        [API_STRING] = {"string", NULL},     [API_BOOL] = {"boolean", NULL},      [API_INT32] = {"integer", "int32"},
        [API_INT64] = {"integer", "int64"},  [API_UINT32] = {"integer", "int64"}, [API_UINT64] = {"integer", "int64"},
        [API_DOUBLE] = {"number", "double"}, [API_BYTES] = {"string", "byte"},    [API_ENUM] = {"integer", "int32"},
    };
    size_t scalar = 0;
    const char *name = field_schema_name(f, &scalar);
    if (name) {
        if (f->kind == API_MESSAGE)
            openapi_need(o, f->type);
        else
            o->scalars |= 1u << scalar;
        return openapi_ref(o->a, o->version, name);
    }
    struct json *v = json_object(o->a);
    if (f->kind == API_STRING && f->enums) add_enum(o->a, v, f->enums);
    json_set_str(o->a, v, "type", plain[f->kind].type);
    if (plain[f->kind].format) json_set_str(o->a, v, "format", plain[f->kind].format);
    return v;
}

static void add_extensions(struct arena *a, struct json *v, const struct api_field *f) {
    if (f->shape == API_LIST || f->kind == API_BYTES) {
        const char *list = f->flags & API_F_LIST_MAP   ? "map"
                           : f->flags & API_F_LIST_SET ? "set"
                           : f->flags & API_F_ATOMIC   ? "atomic"
                                                       : NULL;
        if (list) json_set_str(a, v, "x-kubernetes-list-type", list);
    } else if (f->flags & (API_F_ATOMIC | API_F_GRANULAR)) {
        json_set_str(a, v, "x-kubernetes-map-type", f->flags & API_F_ATOMIC ? "atomic" : "granular");
    }
    if (f->list_keys) {
        struct json *keys = json_set(a, v, "x-kubernetes-list-map-keys", json_array(a));
        for (size_t i = 0; f->list_keys[i]; i++) json_append(a, keys, json_str(a, f->list_keys[i]));
    }
    if (f->patch_key) json_set_str(a, v, "x-kubernetes-patch-merge-key", f->patch_key);
    bool merge = f->flags & API_F_PATCH_MERGE, retain = f->flags & API_F_RETAIN_KEYS;
    if (merge || retain)
        json_set_str(a, v, "x-kubernetes-patch-strategy",
                     merge && retain ? "merge,retainKeys"
                     : merge         ? "merge"
                                     : "retainKeys");
    if (f->flags & API_F_PATCH_REPLACE) json_set_str(a, v, "x-kubernetes-patch-strategy", "replace");
}

static struct json *property(struct openapi *o, const struct api_field *f) {
    struct arena *a = o->a;
    struct json *v = value_schema(o, f);
    if (f->shape == API_MAP_LISTS) {
        struct json *list = json_object(a);
        json_set(a, list, "items", v);
        json_set_str(a, list, "type", "array");
        v = list;
    }
    if (f->shape >= API_LIST) {
        struct json *outer = json_object(a);
        json_set(a, outer, f->shape == API_LIST ? "items" : "additionalProperties", v);
        json_set_str(a, outer, "type", f->shape == API_LIST ? "array" : "object");
        v = outer;
    } else if (o->version == 3 && json_get(v, "$ref")) {
        struct json *outer = json_object(a);
        json_append(a, json_set(a, outer, "allOf", json_array(a)), v);
        v = outer;
    }
    const char *dflt = f->dflt ? f->dflt : api_field_implied_default(f);
    if (o->version == 3 && dflt) json_set(a, v, "default", parse(a, dflt));
    if (f->doc) json_set_str(a, v, "description", f->doc);
    add_extensions(a, v, f);
    json_sort_keys(v, false);
    return v;
}

/* "localhostProfile" is discriminated by "LocalhostProfile". */
static void add_union(struct arena *a, struct json *schema, const struct api_type *t) {
    struct json *u = json_object(a), *by = json_object(a);
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        char value[128];
        if (f->flags & API_F_DISCRIMINATOR) {
            json_set_str(a, u, "discriminator", f->json);
        } else if (f->shape == API_PTR) {
            snprintf(value, sizeof(value), "%c%s", f->json[0] & ~0x20, f->json + 1);
            json_set_str(a, by, f->json, value);
        }
    }
    json_sort_keys(by, false);
    json_set(a, u, "fields-to-discriminateBy", by);
    json_append(a, json_set(a, schema, "x-kubernetes-unions", json_array(a)), u);
}

struct json *openapi_gvk(struct arena *a, const char *group, const char *version, const char *kind) {
    struct json *v = json_object(a);
    json_set_str(a, v, "group", group);
    json_set_str(a, v, "kind", kind);
    json_set_str(a, v, "version", version);
    return v;
}

static bool in_every_group(const struct api_type *t) {
    return strcmp(t->group, "meta.k8s.io") == 0 &&
           (strcmp(t->name, "DeleteOptions") == 0 || strcmp(t->name, "WatchEvent") == 0);
}

static void add_gvks(struct openapi *o, struct json *schema, const struct api_type *t) {
    struct arena *a = o->a;
    struct json *list = json_set(a, schema, "x-kubernetes-group-version-kind", json_array(a));
    bool meta = strcmp(t->group, "meta.k8s.io") == 0;
    json_append(a, list, openapi_gvk(a, meta ? "" : t->group, t->version, t->name));
    if (!in_every_group(t)) return;
    for (size_t i = 0; o->groups && o->groups[i]; i++) {
        const char *slash = strchr(o->groups[i], '/');
        if (!slash || slash == o->groups[i]) continue; /* the core stands there already */
        json_append(a, list,
                    openapi_gvk(a, arena_strndup(a, o->groups[i], (size_t)(slash - o->groups[i])), slash + 1, t->name));
    }
}

static struct json *type_schema(struct openapi *o, const struct api_type *t) {
    struct arena *a = o->a;
    struct json *v = json_object(a), *required = NULL;
    if (t->doc) json_set_str(a, v, "description", t->doc);
    if (t->bare) return v;
    struct json *properties = t->n_fields ? json_set(a, v, "properties", json_object(a)) : NULL;
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        json_set(a, properties, f->json, property(o, f));
        if (!(f->flags & API_F_REQUIRED)) continue;
        if (!required) required = json_array(a);
        json_append(a, required, json_str(a, f->json));
    }
    json_sort_keys(properties, false);
    if (required) json_set(a, v, "required", required);
    json_set_str(a, v, "type", "object");
    if (t->is_kind || in_every_group(t)) add_gvks(o, v, t);
    if (t->atomic) json_set_str(a, v, "x-kubernetes-map-type", "atomic");
    if (t->is_union) add_union(a, v, t);
    return v;
}

void openapi_need(struct openapi *o, const struct api_type *t) {
    for (size_t i = 0; i < o->n; i++)
        if (o->types[i] == t) return;
    ARENA_GROW(o->a, o->types, o->n, o->cap);
    o->types[o->n++] = t;
}

struct json *openapi_close(struct openapi *o) {
    struct json *all = json_object(o->a);
    for (size_t i = 0; i < o->n; i++) { /* grows on the way */
        struct json *schema = type_schema(o, o->types[i]);
        ARENA_GROW(o->a, all->members, all->n, all->cap);
        all->members[all->n++] = (struct json_member){o->types[i]->openapi, schema};
    }
    for (size_t i = 0; i < ARRAY_LEN(scalar_schemas); i++) {
        if (!(o->scalars & 1u << i)) continue;
        const char *text = o->version == 2 && scalar_schemas[i].v2 ? scalar_schemas[i].v2 : scalar_schemas[i].v3;
        json_set(o->a, all, scalar_schemas[i].name, parse(o->a, text));
    }
    json_sort_keys(all, false);
    return all;
}

struct json *openapi_schemas(struct arena *a, int version, const struct api_type *const *types, size_t n,
                             const char *const *groups) {
    struct openapi o = {.a = a, .version = version, .groups = groups};
    for (size_t i = 0; i < n; i++) openapi_need(&o, types[i]);
    return openapi_close(&o);
}
