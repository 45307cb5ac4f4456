/* Look-ups over the generated tables. */
#include "pkg/api/api.h"

const char *str_map_get(const struct str_map *m, const char *key) {
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->items[i].key, key) == 0) return m->items[i].value;
    return NULL;
}

static const struct api_type *find_exact(const char *group, const char *version, const char *kind) {
    for (size_t i = 0; i < api_types_n; i++) {
        const struct api_type *t = api_types[i];
        if (t->is_kind && strcmp(t->name, kind) == 0 && strcmp(t->group, group) == 0 &&
            strcmp(t->version, version) == 0)
            return t;
    }
    return NULL;
}

/* Options, Status and WatchEvent belong to every group and version. */
const struct api_type *api_type_find(const char *group, const char *version, const char *kind) {
    const struct api_type *t = find_exact(group, version, kind);
    return t ? t : find_exact("meta.k8s.io", "v1", kind);
}

const struct api_type *api_type_by_openapi(const char *openapi_name) {
    for (size_t i = 0; i < api_types_n; i++)
        if (api_types[i]->openapi && strcmp(api_types[i]->openapi, openapi_name) == 0) return api_types[i];
    return NULL;
}

const struct api_field *api_field_find(const struct api_type *t, const char *json_name) {
    size_t n = strlen(json_name);
    for (uint32_t i = 0; i < t->n_fields; i++)
        if (t->fields[i].json_len == n && memcmp(t->fields[i].json, json_name, n) == 0) return &t->fields[i];
    return NULL;
}

const char *api_field_implied_default(const struct api_field *f) {
    if (f->shape != API_ONE) return NULL;
    if (f->kind == API_MESSAGE) return f->type->bare ? NULL : "{}";
    if (f->flags & (API_F_OMITEMPTY | API_F_OMITZERO)) return NULL;
    switch ((enum api_kind)f->kind) {
        case API_STRING: return "\"\"";
        case API_BOOL: return "false";
        case API_INT32:
        case API_INT64:
        case API_UINT32:
        case API_UINT64:
        case API_DOUBLE: return "0";
        default: return NULL;
    }
}
