/* Deep copies: the struct is copied as it is, then whatever it points to is copied and the pointers are mended. */
#include "pkg/api/internal.h"

static void mend_message(struct arena *a, const struct api_type *t, char *obj);

static void mend_one(struct arena *a, const struct api_field *f, void *p) {
    struct bytes *bytes = p;
    struct raw_json *raw = p;
    struct int_or_string *ios = p;
    const char **str = p;
    switch ((enum api_kind)f->kind) {
        case API_STRING:
        case API_QUANTITY:
        case API_DURATION: *str = arena_strdup(a, *str); break;
        case API_BYTES:
            if (bytes->p) bytes->p = arena_memdup(a, bytes->p, bytes->n);
            break;
        case API_RAW:
        case API_FIELDS_V1:
            if (raw->p) raw->p = arena_strndup(a, raw->p, raw->n);
            if (raw->tree) raw->tree = json_clone(a, raw->tree);
            break;
        case API_INT_OR_STRING: ios->s = arena_strdup(a, ios->s); break;
        case API_MESSAGE: mend_message(a, f->type, p); break;
        default: break;
    }
}

static void mend_list(struct arena *a, const struct api_field *f, struct any_vec *v) {
    size_t elem = api_elem_size(f);
    if (!v->n) return;
    v->items = arena_memdup(a, v->items, v->n * elem);
    for (size_t i = 0; i < v->n; i++) mend_one(a, f, (char *)v->items + i * elem);
}

static void mend_map(struct arena *a, const struct api_field *f, struct any_vec *m) {
    static const struct api_field strings = {.kind = API_STRING, .shape = API_LIST};
    size_t entry = api_entry_size(f);
    if (!m->n) return;
    m->items = arena_memdup(a, m->items, m->n * entry);
    for (size_t i = 0; i < m->n; i++) {
        char *p = (char *)m->items + i * entry;
        *(const char **)p = arena_strdup(a, *(const char **)p);
        if (f->shape == API_MAP_LISTS)
            mend_list(a, &strings, (struct any_vec *)(p + MAP_VALUE));
        else
            mend_one(a, f, p + MAP_VALUE);
    }
}

static void mend_message(struct arena *a, const struct api_type *t, char *obj) {
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        void *p = obj + f->offset;
        if (f->shape == API_LIST) {
            mend_list(a, f, p);
        } else if (f->shape >= API_MAP) {
            mend_map(a, f, p);
        } else if (!api_is_pointer(f)) {
            mend_one(a, f, p);
        } else if (*(void **)p) {
            *(void **)p = arena_memdup(a, *(void **)p, api_elem_size(f));
            mend_one(a, f, *(void **)p);
        }
    }
}

void *api_clone(struct arena *a, const struct api_type *t, const void *obj) {
    void *copy = arena_memdup(a, obj, t->size);
    mend_message(a, t, copy);
    return copy;
}
