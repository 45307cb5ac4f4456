/* What the API server does with trees: bring one into canonical form, apply declared defaults, and go to and from
 * protobuf. All but defaulting go through the structs, so that a tree comes out exactly as Kubernetes' own types would
 * write it; strings and opaque values (managedFields, raw extensions) are shared on the way, not copied. */
#include "pkg/api/internal.h"

int api_tree_normalise(struct arena *a, const struct api_type *t, struct json *v, struct json **out,
                       struct api_problems *unknown, struct err *e) {
    void *obj = arena_alloc(a, t->size);
    int r = api_decode_tree_strict(a, t, v, obj, unknown, e);
    if (r) return r;
    *out = api_encode_tree_shared(a, t, obj);
    return 0;
}

int api_tree_stored(struct arena *a, const struct api_type *t, struct json *v, struct json **out, struct err *e) {
    void *obj = arena_alloc(a, t->size);
    int r = api_decode_tree_stored(a, t, v, obj, e);
    if (r) return r;
    *out = api_encode_tree_shared(a, t, obj);
    return 0;
}

int api_tree_from_proto(struct arena *a, const struct api_type *t, const uint8_t *p, size_t n, struct json **out,
                        struct err *e) {
    void *obj = arena_alloc(a, t->size);
    int r = api_from_proto(a, t, p, n, obj, e);
    if (r) return r;
    *out = api_encode_tree_shared(a, t, obj);
    return 0;
}

void api_tree_to_proto(struct buf *b, const struct api_type *t, const struct json *v) {
    struct arena *a = arena_new();
    void *obj = arena_alloc(a, t->size);
    if (api_decode_tree_strict(a, t, v, obj, NULL, NULL) == 0) api_to_proto(b, t, obj);
    arena_free(a);
}

static void default_value(struct arena *a, const struct api_field *f, struct json *v) {
    struct json *item;
    if (f->kind != API_MESSAGE || f->type->bare) return;
    if (f->shape < API_LIST) {
        api_tree_default(a, f->type, v);
        return;
    }
    JSON_FOREACH(item, v) api_tree_default(a, f->type, item);
}

void api_tree_default(struct arena *a, const struct api_type *t, struct json *v) {
    if (!json_is(v, JSON_OBJECT)) return;
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        if (!f->dflt && f->kind != API_MESSAGE) continue;
        struct json *m = json_get(v, f->json);
        if (m && m->type != JSON_NULL) {
            default_value(a, f, m);
            continue;
        }
        struct json *dflt;
        if (f->dflt && json_parse(a, f->dflt, strlen(f->dflt), &dflt, NULL, NULL) == 0) json_set(a, v, f->json, dflt);
    }
}
