/* Schemas of custom resources as OpenAPI shows them: the definition's own, with apiVersion, kind and metadata put in
 * (at the root and in embedded resources). Version 2 knows less: alternatives and nullable values go, and what may hold
 * unknown members is described as anything. Upstream: apiextensions-apiserver/pkg/controller/openapi/builder. */
#include "apiserver/crd/registry.h"

/* "lab.example" and v1, Gadget: "example.lab.v1.Gadget". */
static const char *model_name(struct arena *a, const struct resource *r, const char *kind) {
    const char *out = "", *end = r->group + strlen(r->group);
    while (end > r->group) {
        const char *dot = memrchr(r->group, '.', (size_t)(end - r->group));
        const char *part = dot ? dot + 1 : r->group;
        out = arena_printf(a, "%s%.*s.", out, (int)(end - part), part);
        end = dot ? dot : r->group;
    }
    return arena_printf(a, "%s%s.%s", out, r->version, kind);
}

/* apiVersion, kind and metadata as a built-in type has them. */
static const struct json *type_members(struct arena *a, int version, const char *kind) {
    const struct api_type *t = api_type_find("meta.k8s.io", "v1", kind);
    if (!t) return NULL;
    struct json *all = openapi_schemas(a, version, &t, 1, NULL);
    JSON_FOREACH_MEMBER(m, all) {
        const char *dot = strrchr(m->key, '.');
        if (dot && str_eq(dot + 1, kind)) return json_get(m->value, "properties");
    }
    return NULL;
}

struct publish {
    struct arena *a;
    int version;
    const struct json *members;
};

static void put_type_members(struct publish *p, struct json *schema) {
    static const char *const keys[] = {"apiVersion", "kind", "metadata"};
    struct json *props = json_ensure_object(p->a, schema, "properties");
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (json_get(p->members, keys[i]))
            json_set(p->a, props, keys[i], json_clone(p->a, json_get(p->members, keys[i])));
    json_sort_keys(props, false);
}

static bool is_open(const struct json *s) { return json_get_bool(s, "x-kubernetes-preserve-unknown-fields", false); }

/* kubectl takes an object without properties, or an array without items, for one that may have none; so what is open
 * says no type at all. */
static void strip_v2(struct json *s) {
    static const char *const gone[] = {"anyOf", "oneOf", "allOf", "not", "nullable", "default"};
    bool open = is_open(s);
    if (json_get_bool(s, "nullable", false)) {
        json_del(s, "type");
        json_del(s, "properties");
        json_del(s, "items");
        json_del(s, "additionalProperties");
    }
    if (json_get_bool(s, "x-kubernetes-int-or-string", false)) json_del(s, "type");
    for (size_t i = 0; i < ARRAY_LEN(gone); i++) json_del(s, gone[i]);
    const char *type = json_get_str(s, "type");
    if (open) {
        json_del(s, "properties");
        json_del(s, "items");
        json_del(s, "additionalProperties");
    }
    if (open ? str_eq(type, "object") || str_eq(type, "array") : str_eq(type, "array") && !json_get(s, "items"))
        json_del(s, "type");
}

/* What kind an embedded object is must be said in it. */
static void require_type(struct arena *a, struct json *s) {
    static const char *const keys[] = {"kind", "apiVersion"};
    struct json *req = json_get(s, "required"), *x;
    if (!req) req = json_set(a, s, "required", json_array(a));
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        bool have = false;
        JSON_FOREACH(x, req) have |= str_eq(json_as_str(x), keys[i]);
        if (!have) json_append(a, req, json_str(a, keys[i]));
    }
}

static void walk(struct publish *p, struct json *s) {
    if (!json_is(s, JSON_OBJECT)) return;
    if (p->version == 2) strip_v2(s);
    JSON_FOREACH_MEMBER(m, json_get(s, "properties")) walk(p, m->value);
    walk(p, json_get(s, "items"));
    walk(p, json_get(s, "additionalProperties"));
    if (!json_get_bool(s, "x-kubernetes-embedded-resource", false) || (p->version == 2 && is_open(s))) return;
    put_type_members(p, s);
    require_type(p->a, s);
}

struct openapi_kind crd_openapi_kind(struct apiserver *s, struct arena *a, const struct resource *r, int version) {
    struct openapi_kind k = {
        .group = r->group, .version = r->version, .kind = r->kind, .name = model_name(a, r, r->kind)};
    const struct json *own = crd_schema_of(crd_version_of(crd_tree(s, a, crd_name_of(a, r)), r->version));
    struct publish p = {a, version, type_members(a, version, "PartialObjectMetadata")};
    struct json *schema = own ? json_clone(a, own) : json_object(a);
    if (!own || (version == 2 && is_open(schema))) { /* anything: members that are named would be the only ones */
        schema = json_object(a);
        json_set_str(a, schema, "type", "object");
    } else {
        walk(&p, schema);
        put_type_members(&p, schema);
    }
    k.schema = schema;
    return k;
}

struct openapi_kind crd_openapi_list(struct arena *a, const struct resource *r, int version) {
    struct openapi_kind k = {
        .group = r->group, .version = r->version, .kind = r->list_kind, .name = model_name(a, r, r->list_kind)};
    struct publish p = {a, version, type_members(a, version, "PartialObjectMetadataList")};
    struct json *schema = json_object(a), *items = json_object(a), *ref = json_object(a);
    json_set(a, schema, "description", json_strf(a, "%s is a list of %s", r->list_kind, r->kind));
    json_append(a, json_set(a, schema, "required", json_array(a)), json_str(a, "items"));
    json_set(a, ref, "$ref",
             json_strf(a, "#/%s/%s", version == 3 ? "components/schemas" : "definitions", model_name(a, r, r->kind)));
    json_set_str(a, items, "type", "array");
    json_set(a, items, "items", ref);
    json_set(a, json_ensure_object(a, schema, "properties"), "items", items);
    put_type_members(&p, schema);
    json_set_str(a, schema, "type", "object");
    k.schema = schema;
    return k;
}
