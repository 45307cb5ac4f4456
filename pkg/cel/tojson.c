/* Values as JSON: what mutations and messages need. Leaves of JSON trees are shared, the rest is new.
 * Upstream: k8s.io/apiserver/pkg/cel/mutation, ConvertToNative in common/types. */
#include "pkg/base/bytes.h"
#include "pkg/cel/internal.h"

enum { MAX_DEPTH = 256 };

static int convert(struct arena *a, const struct cel_val *v, struct json **out, int depth, struct err *e);

/* An optional becomes what it holds; false: it holds nothing, and the item is left out. */
static bool present(struct cel_val *item) {
    if (item->kind != CEL_OPTIONAL) return true;
    if (!item->some) return false;
    *item = *item->some;
    return true;
}

static int convert_list(struct arena *a, const struct cel_val *v, struct json **out, int depth, struct err *e) {
    *out = json_array(a);
    for (size_t i = 0, n = list_len(v); i < n; i++) {
        struct cel_val item = list_at(a, v, i);
        struct json *j;
        if (!present(&item)) continue;
        int r = convert(a, &item, &j, depth, e);
        if (r) return r;
        json_append(a, *out, j);
    }
    return 0;
}

static int convert_map(struct arena *a, const struct cel_val *v, struct json **out, int depth, struct err *e) {
    *out = json_object(a);
    for (size_t i = 0, n = map_len(v); i < n; i++) {
        struct cel_val k = map_key_at(a, v, i), item = map_val_at(a, v, i);
        struct json *j;
        if (!present(&item)) continue;
        int r = convert(a, &item, &j, depth, e);
        if (r) return r;
        json_set(a, *out, cel_val_text(a, k), j);
    }
    return 0;
}

static int convert(struct arena *a, const struct cel_val *v, struct json **out, int depth, struct err *e) {
    if (depth > MAX_DEPTH) return err_set(e, -EINVAL, "the value is nested too deeply");
    char *text;
    switch (v->kind) {
        case CEL_NULL: *out = json_null(a); return 0;
        case CEL_BOOL: *out = json_bool(a, v->b); return 0;
        case CEL_INT: *out = json_int(a, v->i); return 0;
        case CEL_UINT: *out = json_num(a, arena_printf(a, "%llu", (unsigned long long)v->u)); return 0;
        case CEL_DOUBLE: *out = json_double(a, v->d); return 0;
        case CEL_STRING: *out = json_strn(a, v->s, v->n); return 0;
        case CEL_TIMESTAMP:
        case CEL_DURATION: *out = json_str(a, cel_val_text(a, *v)); return 0;
        case CEL_BYTES:
            text = arena_alloc(a, base64_encoded_len(v->n) + 1);
            *out = json_strn(a, text, base64_encode(v->s, v->n, text));
            return 0;
        case CEL_LIST:
            if (v->form != FORM_JSON) return convert_list(a, v, out, depth + 1, e);
            *out = json_clone(a, v->json);
            return 0;
        case CEL_MAP:
        case CEL_OBJECT:
            if (v->form == FORM_BUILT) return convert_map(a, v, out, depth + 1, e);
            if (v->form == FORM_JSON) {
                *out = json_clone(a, v->json);
                return 0;
            }
            break;
        case CEL_OPTIONAL:
            if (v->some) return convert(a, v->some, out, depth + 1, e);
            *out = json_null(a);
            return 0;
        case CEL_OPAQUE:
            if (v->opaque->type == &type_quantity) {
                *out = json_str(a, opaque_text(a, v->opaque));
                return 0;
            }
            break;
    }
    return err_set(e, -EINVAL, "type conversion error from '%s' to 'google.protobuf.Value'",
                   type_value_name(type_of_val(v)));
}

int cel_to_json(struct arena *a, struct cel_val v, struct json **out, struct err *e) {
    return convert(a, &v, out, 0, e);
}
