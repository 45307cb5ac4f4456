/* See schema.h. Lists without a declared list type are atomic, maps granular, as upstream's OpenAPI says. */
#include "apiserver/rules/schema.h"

static const struct api_type *object_meta(void) {
    return api_type_by_openapi("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
}

struct schema schema_of_type(const struct api_type *t) {
    return (struct schema){.type = t};
}

struct schema schema_root(const struct rules_ctx *c) {
    if (c->type) return schema_of_type(c->type);
    if (c->crd_schema) return (struct schema){.crd = c->crd_schema, .root = true};
    return (struct schema){.deduced = true};
}

static bool crd_flag(const struct json *s, const char *key) { return json_get_bool(s, key, false); }

/* Below what keeps unknown fields, undeclared members are welcome everywhere. */
static struct schema crd_part(struct schema s, const struct json *part) {
    return (struct schema){.crd = part, .open = s.open || crd_flag(s.crd, "x-kubernetes-preserve-unknown-fields")};
}

static struct schema crd_member(struct schema s, const char *key, bool *named) {
    const struct json *prop = json_get(json_get(s.crd, "properties"), key),
                      *more = json_get(s.crd, "additionalProperties");
    bool object = s.root || crd_flag(s.crd, "x-kubernetes-embedded-resource");
    *named = true;
    if (object && str_eq(key, "metadata")) return schema_of_type(object_meta());
    if (object && (str_eq(key, "kind") || str_eq(key, "apiVersion"))) return (struct schema){.deduced = true};
    if (prop) return crd_part(s, prop);
    *named = false;
    if (json_is(more, JSON_OBJECT)) return crd_part(s, more);
    return (struct schema){.deduced = true};
}

struct schema schema_member(struct schema s, const char *key, bool *named) {
    bool dummy;
    if (!named) named = &dummy;
    *named = false;
    if (s.crd) return crd_member(s, key, named);
    const struct api_type *t = s.type;
    if (s.field && s.field->shape == API_MAP && !s.element) return (struct schema){.field = s.field, .element = true};
    if (s.field) t = s.field->kind == API_MESSAGE ? s.field->type : NULL;
    const struct api_field *f = t ? api_field_find(t, key) : NULL;
    if (!f) return (struct schema){.deduced = true};
    *named = true;
    return (struct schema){.field = f};
}

struct schema schema_item(struct schema s) {
    if (s.crd) {
        const struct json *items = json_get(s.crd, "items");
        return items ? crd_part(s, items) : (struct schema){.deduced = true};
    }
    if (s.field && !s.element) return (struct schema){.field = s.field, .element = true};
    return (struct schema){.deduced = true};
}

static enum schema_kind crd_kind(const struct json *s, const struct json *value, bool root) {
    const char *type = str_or_empty(json_get_str(s, "type")), *list = json_get_str(s, "x-kubernetes-list-type");
    if (crd_flag(s, "x-kubernetes-int-or-string")) return SCHEMA_LEAF;
    if (str_eq(type, "array"))
        return str_eq(list, "map") ? SCHEMA_LIST_MAP : str_eq(list, "set") ? SCHEMA_LIST_SET : SCHEMA_LEAF;
    if (root) return SCHEMA_STRUCT;
    if (str_eq(type, "object")) {
        if (str_eq(json_get_str(s, "x-kubernetes-map-type"), "atomic")) return SCHEMA_LEAF;
        return json_get(s, "properties") ? SCHEMA_STRUCT : SCHEMA_MAP;
    }
    if (!*type) return SCHEMA_DEDUCED;
    return json_is(value, JSON_OBJECT) && crd_flag(s, "x-kubernetes-preserve-unknown-fields") ? SCHEMA_DEDUCED
                                                                                              : SCHEMA_LEAF;
}

static enum schema_kind field_kind(struct schema s) {
    const struct api_field *f = s.field;
    bool whole = !s.element;
    if (whole && (f->flags & API_F_ATOMIC)) return SCHEMA_LEAF;
    if (whole && f->shape == API_LIST)
        return f->flags & API_F_LIST_MAP ? SCHEMA_LIST_MAP : f->flags & API_F_LIST_SET ? SCHEMA_LIST_SET : SCHEMA_LEAF;
    if (whole && f->shape == API_MAP) return SCHEMA_MAP;
    if (f->kind == API_RAW) return SCHEMA_DEDUCED;
    if (f->kind != API_MESSAGE) return SCHEMA_LEAF;
    return f->type->atomic ? SCHEMA_LEAF : SCHEMA_STRUCT;
}

enum schema_kind schema_kind(struct schema s, const struct json *value) {
    if (s.crd) return crd_kind(s.crd, value, s.root);
    if (s.type) return s.type->atomic ? SCHEMA_LEAF : SCHEMA_STRUCT;
    return s.field ? field_kind(s) : SCHEMA_DEDUCED;
}

static enum schema_shape crd_shape(const struct json *s, bool root, bool open) {
    static const struct {
        const char *type;
        enum schema_shape shape;
    } types[] = {{"string", SHAPE_STRING}, {"integer", SHAPE_NUMBER}, {"number", SHAPE_NUMBER},
                 {"boolean", SHAPE_BOOL},  {"array", SHAPE_LIST},     {"object", SHAPE_MAP}};
    const char *type = json_get_str(s, "type");
    if (crd_flag(s, "x-kubernetes-int-or-string")) return SHAPE_SCALAR;
    bool closed = !open && !crd_flag(s, "x-kubernetes-preserve-unknown-fields") && !json_get(s, "additionalProperties");
    if (closed && (root || json_get(s, "properties"))) return SHAPE_STRUCT;
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (str_eq(type, types[i].type)) return types[i].shape;
    return root ? SHAPE_MAP : SHAPE_ANY;
}

static enum schema_shape type_shape(const struct api_type *t) { return t->bare ? SHAPE_ANY : SHAPE_STRUCT; }

enum schema_shape schema_shape(struct schema s) {
    if (s.crd) return crd_shape(s.crd, s.root, s.open);
    if (s.type) return type_shape(s.type);
    if (!s.field) return SHAPE_ANY;
    if (!s.element && s.field->shape == API_LIST) return SHAPE_LIST;
    if (!s.element && (s.field->shape == API_MAP || s.field->shape == API_MAP_LISTS)) return SHAPE_MAP;
    if (s.field->shape == API_MAP_LISTS) return SHAPE_LIST;
    switch ((enum api_kind)s.field->kind) {
        case API_STRING:
        case API_BYTES:
        case API_TIME:
        case API_MICROTIME:
        case API_DURATION: return SHAPE_STRING;
        case API_BOOL: return SHAPE_BOOL;
        case API_INT32:
        case API_INT64:
        case API_UINT32:
        case API_UINT64:
        case API_DOUBLE: return SHAPE_NUMBER;
        case API_QUANTITY:
        case API_INT_OR_STRING: return SHAPE_SCALAR;
        case API_MESSAGE: return type_shape(s.field->type);
        default: return SHAPE_ANY;
    }
}

size_t schema_keys(struct schema s, const char *keys[SCHEMA_KEYS_MAX]) {
    size_t n = 0;
    if (s.crd) {
        const struct json *k;
        JSON_FOREACH(k, json_get(s.crd, "x-kubernetes-list-map-keys"))
            if (n < SCHEMA_KEYS_MAX && json_as_str(k)) keys[n++] = json_as_str(k);
    } else if (s.field && s.field->list_keys) {
        for (const char *const *k = s.field->list_keys; *k && n < SCHEMA_KEYS_MAX; k++) keys[n++] = *k;
    }
    for (size_t i = 1; i < n; i++) /* the canonical form of a key has its members sorted */
        for (size_t j = i; j && strcmp(keys[j - 1], keys[j]) > 0; j--) {
            const char *t = keys[j];
            keys[j] = keys[j - 1];
            keys[j - 1] = t;
        }
    return n;
}

/* Defaults that take part in keys but are set by functions, not declarations. */
static const char *known_key_default(const struct api_type *t, const char *key) {
    if (!str_eq(key, "protocol")) return NULL;
    return str_eq(t->name, "ContainerPort") || str_eq(t->name, "ServicePort") ? "\"TCP\"" : NULL;
}

const struct json *schema_key_default(struct arena *a, struct schema item, const char *key) {
    if (item.crd) return json_get(json_get(json_get(item.crd, "properties"), key), "default");
    if (!item.field || item.field->kind != API_MESSAGE) return NULL;
    const struct api_field *f = api_field_find(item.field->type, key);
    const char *text = f ? known_key_default(item.field->type, key) : NULL;
    if (f && !text) text = f->dflt ? f->dflt : api_field_implied_default(f);
    struct json *v = NULL;
    if (text) json_parse(a, text, strlen(text), &v, NULL, NULL);
    return v;
}
