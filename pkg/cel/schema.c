/* Declared types from schemas and from descriptors, and how property names are written in expressions.
 *
 * A schema's bounds become sizes: what maxLength, maxItems, maxProperties or an enum do not bound is bounded by what
 * fits into a request, given the least a value takes as JSON. The estimate rests on these numbers. Upstream:
 * k8s.io/apiserver/pkg/cel/common/schemas.go, pkg/cel/types.go, pkg/cel/escaping.go. */
#include "pkg/api/api.h"
#include "pkg/cel/internal.h"

enum { MAX_REQUEST = 3 << 20, MAX_TIME = 32, DATE_SIZE = 12, MAX_SCHEMA_DEPTH = 200, MAX_API_DEPTH = 24 };

/* ---- names ---- */

static const char *const reserved[] = {"true",     "false",   "null",      "in",       "as",  "break",  "const",
                                       "continue", "else",    "for",       "function", "if",  "import", "let",
                                       "loop",     "package", "namespace", "return",   "var", "void",   "while"};

static bool is_reserved(const char *s, size_t n) {
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++)
        if (strlen(reserved[i]) == n && memcmp(reserved[i], s, n) == 0) return true;
    return false;
}

static const struct {
    const char *plain, *escaped;
} escapes[] = {{"__", "__underscores__"}, {".", "__dot__"}, {"-", "__dash__"}, {"/", "__slash__"}};

const char *cel_escape(struct arena *a, const char *property) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (!*property || (*property >= '0' && *property <= '9')) return NULL;
    if (is_reserved(property, strlen(property))) return arena_printf(a, "__%s__", property);
    for (const char *p = property; *p;) {
        size_t i = 0;
        while (i < ARRAY_LEN(escapes) && !str_has_prefix(p, escapes[i].plain)) i++;
        if (i < ARRAY_LEN(escapes)) {
            buf_adds(&b, escapes[i].escaped);
            p += strlen(escapes[i].plain);
            continue;
        }
        bool plain = (*p >= '0' && *p <= '9') || ((*p | 32) >= 'a' && (*p | 32) <= 'z') || *p == '_';
        if (!plain) return NULL;
        buf_addc(&b, *p++);
    }
    return arena_strndup(a, b.data, b.len);
}

const char *cel_unescape(struct arena *a, const char *ident) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    size_t n = strlen(ident);
    if (n > 4 && str_has_prefix(ident, "__") && str_has_suffix(ident, "__") && is_reserved(ident + 2, n - 4))
        return arena_strndup(a, ident + 2, n - 4);
    for (const char *p = ident; *p;) {
        size_t i = 0;
        while (i < ARRAY_LEN(escapes) && !str_has_prefix(p, escapes[i].escaped)) i++;
        if (i < ARRAY_LEN(escapes)) {
            buf_adds(&b, escapes[i].plain);
            p += strlen(escapes[i].escaped);
        } else {
            buf_addc(&b, *p++);
        }
    }
    return arena_strndup(a, str_or_empty(b.data), b.len);
}

/* ---- schemas ---- */

struct builder {
    struct arena *a;
    int depth;
};

static const struct cel_type *build(struct builder *b, const struct json *s, const char *name, bool root);

static struct cel_type *scalar(struct builder *b, enum cel_kind k, const char *name, int64_t max, uint64_t min_size) {
    struct cel_type *t = arena_zalloc(b->a, sizeof(*t));
    t->kind = k;
    t->name = name;
    t->max = max;
    t->min_size = min_size;
    return t;
}

static int64_t limit(const struct json *s, const char *key, int64_t otherwise) {
    const struct json *v = json_get(s, key);
    if (!v || v->type == JSON_NULL) return otherwise;
    return MAX_OF((int64_t)json_as_double(v, 0), INT64_C(0));
}

static const struct cel_type *string_type(struct builder *b, const struct json *s) {
    const char *f = str_or_empty(json_get_str(s, "format"));
    int64_t given = limit(s, "maxLength", -1);
    if (strcmp(f, "byte") == 0) return scalar(b, CEL_BYTES, "bytes", given >= 0 ? given : MAX_REQUEST - 2, 2);
    if (strcmp(f, "duration") == 0) return scalar(b, CEL_DURATION, "duration", MAX_TIME, 3);
    if (strcmp(f, "date") == 0) return scalar(b, CEL_TIMESTAMP, "timestamp", DATE_SIZE, DATE_SIZE);
    if (strcmp(f, "date-time") == 0) return scalar(b, CEL_TIMESTAMP, "timestamp", MAX_TIME, 21);
    int64_t max = given >= 0 ? given * 4 : MAX_REQUEST - 2, longest = 0;
    struct json *it;
    if (given < 0 && json_len(json_get(s, "enum"))) {
        JSON_FOREACH(it, json_get(s, "enum"))
            if (it->type == JSON_STRING) longest = MAX_OF(longest, (int64_t)it->n);
        max = longest;
    }
    return scalar(b, CEL_STRING, "string", max, 2);
}

static const struct cel_type *list_type(struct builder *b, const struct json *s, const char *name) {
    const struct json *items = json_get(s, "items");
    if (!json_is(items, JSON_OBJECT)) return NULL;
    const struct cel_type *elem = build(b, items, arena_printf(b->a, "%s.@idx", name),
                                        json_get_bool(items, "x-kubernetes-embedded-resource", false));
    if (!elem) return NULL;
    struct cel_type *t = arena_zalloc(b->a, sizeof(*t));
    const char *kind = str_or_empty(json_get_str(s, "x-kubernetes-list-type"));
    t->kind = CEL_LIST;
    t->p[0] = elem;
    t->max = limit(s, "maxItems", (MAX_REQUEST - 2) / ((int64_t)elem->min_size + 1));
    t->min_size = 2;
    t->list_type = strcmp(kind, "set") == 0 ? CEL_LIST_SET : strcmp(kind, "map") == 0 ? CEL_LIST_MAP : CEL_LIST_ATOMIC;
    t->list_keys = json_get(s, "x-kubernetes-list-map-keys");
    return t;
}

static const struct cel_type *map_type(struct builder *b, const struct json *s, const struct json *values,
                                       const char *name) {
    const struct cel_type *elem = build(b, values, arena_printf(b->a, "%s.@elem", name),
                                        json_get_bool(values, "x-kubernetes-embedded-resource", false));
    if (!elem) return NULL;
    struct cel_type *t = arena_zalloc(b->a, sizeof(*t));
    t->kind = CEL_MAP;
    t->p[0] = &cel_t_string;
    t->p[1] = elem;
    t->max = limit(s, "maxProperties", (MAX_REQUEST - 2) / ((int64_t)elem->min_size + 6));
    t->min_size = 2;
    return t;
}

static bool is_required(const struct json *s, const char *name) {
    struct json *it;
    JSON_FOREACH(it, json_get(s, "required"))
        if (str_eq(json_as_str(it), name)) return true;
    return false;
}

static void add_property(struct builder *b, struct cel_type *t, const struct json *s, const char *key,
                         const struct json *prop) {
    const char *field = cel_escape(b->a, key), *name = arena_printf(b->a, "%s.%s", t->name, field ? field : key);
    const struct cel_type *ft = build(b, prop, name, json_get_bool(prop, "x-kubernetes-embedded-resource", false));
    if (!ft) return;
    if (field) {
        cel_type_add_field(b->a, t, field, ft);
        t->fields[t->n_fields - 1].json = key;
    }
    if (is_required(s, key) && !json_get(prop, "default")) t->min_size += strlen(key) + ft->min_size + 4;
}

/* What the root of any resource has, whatever its schema says. */
static void add_root_fields(struct builder *b, struct cel_type *t) {
    static const char *const texts[] = {"apiVersion", "kind"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++)
        cel_type_add_field(b->a, t, texts[i], scalar(b, CEL_STRING, "string", MAX_REQUEST - 2, 2));
    struct cel_type *meta = cel_type_object(b->a, arena_printf(b->a, "%s.metadata", t->name));
    meta->max = 0;
    meta->min_size = 2;
    cel_type_add_field(b->a, meta, "name", scalar(b, CEL_STRING, "string", MAX_REQUEST - 2, 2));
    cel_type_add_field(b->a, meta, "generateName", scalar(b, CEL_STRING, "string", MAX_REQUEST - 2, 2));
    const struct cel_field *given = type_field(t, "metadata");
    for (uint32_t i = 0; given && i < given->type->n_fields; i++)
        if (!type_field(meta, given->type->fields[i].name))
            cel_type_add_field(b->a, meta, given->type->fields[i].name, given->type->fields[i].type);
        else if (strcmp(given->type->fields[i].name, "name") == 0)
            cel_type_add_field(b->a, meta, "name", given->type->fields[i].type);
    cel_type_add_field(b->a, t, "metadata", meta);
}

static const struct cel_type *object_type(struct builder *b, const struct json *s, const char *name, bool root) {
    const struct json *values = json_get(s, "additionalProperties");
    if (json_is(values, JSON_OBJECT)) return map_type(b, s, values, name);
    struct cel_type *t = cel_type_object(b->a, name);
    t->max = 0;
    t->min_size = 2;
    JSON_FOREACH_MEMBER(m, json_get(s, "properties")) add_property(b, t, s, m->key, m->value);
    if (root) add_root_fields(b, t);
    return t;
}

static const struct cel_type *build(struct builder *b, const struct json *s, const char *name, bool root) {
    static const struct cel_type bool_type = {.kind = CEL_BOOL, .name = "bool", .min_size = 4},
                                 double_type = {.kind = CEL_DOUBLE, .name = "double", .min_size = 1},
                                 int_type = {.kind = CEL_INT, .name = "int", .min_size = 1};
    const char *type = json_get_str(s, "type");
    const struct cel_type *t = NULL;
    if (b->depth >= MAX_SCHEMA_DEPTH) return NULL;
    if (json_get_bool(s, "x-kubernetes-int-or-string", false)) {
        int64_t max = limit(s, "maxLength", -1);
        return scalar(b, CEL_DYN, "dyn", max >= 0 ? max * 4 : MAX_REQUEST - 2, 1);
    }
    if (!type)
        return root && json_get_bool(s, "x-kubernetes-embedded-resource", false) ? object_type(b, s, name, root) : NULL;
    b->depth++;
    if (strcmp(type, "object") == 0)
        t = object_type(b, s, name, root);
    else if (strcmp(type, "array") == 0)
        t = list_type(b, s, name);
    else if (strcmp(type, "string") == 0)
        t = string_type(b, s);
    else if (strcmp(type, "boolean") == 0)
        t = &bool_type;
    else if (strcmp(type, "number") == 0)
        t = &double_type;
    else if (strcmp(type, "integer") == 0)
        t = &int_type;
    b->depth--;
    return t;
}

const struct cel_type *cel_type_of_schema(struct arena *a, const struct json *schema, const char *name, bool root) {
    struct builder b = {.a = a};
    return build(&b, schema, name, root);
}

/* ---- built-in types ---- */

static const struct cel_type *of_api(struct arena *a, const struct api_type *t, const char *name, int depth);

static const struct cel_type *of_kind(struct arena *a, const struct api_field *f, const char *name, int depth) {
    switch (f->kind) {
        case API_BOOL: return &cel_t_bool;
        case API_INT32:
        case API_INT64:
        case API_UINT32:
        case API_UINT64: return &cel_t_int;
        case API_DOUBLE: return &cel_t_double;
        case API_BYTES: return &cel_t_bytes;
        case API_TIME:
        case API_MICROTIME: return &cel_t_timestamp;
        case API_QUANTITY:
        case API_STRING:
        case API_DURATION:
        case API_ENUM: return &cel_t_string;
        case API_MESSAGE: return f->type->bare ? &cel_t_dyn : of_api(a, f->type, name, depth + 1);
        default: return &cel_t_dyn;
    }
}

/* A type that holds itself (JSONSchemaProps) ends as dyn. */
static const struct cel_type *of_api(struct arena *a, const struct api_type *t, const char *name, int depth) {
    if (depth > MAX_API_DEPTH) return &cel_t_dyn;
    struct cel_type *o = cel_type_object(a, name);
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        const char *field = cel_escape(a, f->json);
        if (!field) continue;
        const struct cel_type *ft =
            f->type == t ? &cel_t_dyn : of_kind(a, f, arena_printf(a, "%s.%s", name, field), depth);
        if (f->shape == API_LIST)
            ft = cel_type_list(a, ft);
        else if (f->shape == API_MAP)
            ft = cel_type_map(a, &cel_t_string, ft);
        else if (f->shape == API_MAP_LISTS)
            ft = cel_type_map(a, &cel_t_string, cel_type_list(a, ft));
        cel_type_add_field(a, o, field, ft);
        o->fields[o->n_fields - 1].json = f->json;
    }
    return o;
}

const struct cel_type *cel_type_of_api(struct arena *a, const struct api_type *t) {
    return of_api(a, t, t->openapi ? t->openapi : t->name, 0);
}
