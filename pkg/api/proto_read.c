/* Protobuf to structs: both dialects of proto_write.c. Unknown fields are skipped, a repeated singular message is merged,
 * repeated numbers are accepted packed or not. Strings must be UTF-8, as JSON could not carry them otherwise. */
#include "pkg/api/internal.h"
#include "pkg/api/quantity.h"
#include "pkg/json/utf8.h"

enum { WT_VARINT = 0, WT_64 = 1, WT_BYTES = 2, WT_32 = 5 };

struct input {
    const uint8_t *p, *end;
};

struct proto {
    struct arena *a;
    struct err *e;
    unsigned depth;
};

/* A field on the wire: a number or a span of bytes. */
struct wire {
    uint32_t number;
    unsigned type;
    uint64_t v;
    struct input in;
};

static int truncated(struct proto *d) { return err_set(d->e, -EINVAL, "protobuf: truncated or malformed message"); }

static bool varint(struct input *in, uint64_t *out) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && in->p < in->end; shift += 7) {
        uint8_t c = *in->p++;
        v |= (uint64_t)(c & 0x7f) << shift;
        if (!(c & 0x80)) {
            *out = v;
            return true;
        }
    }
    return false;
}

static bool fixed(struct input *in, unsigned n, uint64_t *out) {
    if ((size_t)(in->end - in->p) < n) return false;
    *out = 0;
    for (unsigned i = 0; i < n; i++) *out |= (uint64_t)in->p[i] << (8 * i);
    in->p += n;
    return true;
}

static bool next(struct input *in, struct wire *w) {
    uint64_t tag, n;
    if (!varint(in, &tag) || !(tag >> 3) || tag >> 3 > 0x1fffffff) return false;
    w->number = (uint32_t)(tag >> 3);
    w->type = tag & 7;
    switch (w->type) {
        case WT_VARINT: return varint(in, &w->v);
        case WT_64: return fixed(in, 8, &w->v);
        case WT_32: return fixed(in, 4, &w->v);
        case WT_BYTES:
            if (!varint(in, &n) || n > (uint64_t)(in->end - in->p)) return false;
            w->in = (struct input){in->p, in->p + n};
            in->p += n;
            return true;
        default: return false; /* groups are not used by any of the protocols */
    }
}

/* A NUL becomes C0 80, see json.h. */
static int read_string(struct proto *d, struct input in, const char **out) {
    size_t nuls = 0;
    for (const uint8_t *p = in.p; p < in.end;) {
        unsigned n = utf8_len((const char *)p, (const char *)in.end);
        if (!n) return err_set(d->e, -EINVAL, "protobuf: a string is not UTF-8");
        nuls += *p == 0;
        p += n;
    }
    if (!nuls) {
        *out = arena_strndup(d->a, (const char *)in.p, (size_t)(in.end - in.p));
        return 0;
    }
    char *s = arena_alloc(d->a, (size_t)(in.end - in.p) + nuls + 1), *o = s;
    for (const uint8_t *p = in.p; p < in.end; p++) {
        if (!*p) *o++ = (char)0xc0;
        *o++ = *p ? (char)*p : (char)0x80;
    }
    *o = 0;
    *out = s;
    return 0;
}

static int read_message(struct proto *d, const struct api_type *t, struct input in, char *out);

static int read_time(struct proto *d, struct input in, enum api_kind k, struct ktime *out) {
    struct wire w;
    *out = (struct ktime){.set = in.p < in.end};
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        if (w.number == 1 && w.type == WT_VARINT) out->sec = (int64_t)w.v;
        if (w.number == 2 && w.type == WT_VARINT) out->nsec = (int32_t)w.v;
    }
    if (out->nsec < 0 || out->nsec >= NS_PER_SEC) return err_set(d->e, -EINVAL, "protobuf: time out of range");
    out->nsec = k == API_TIME ? 0 : out->nsec / 1000 * 1000;
    return 0;
}

static int read_int_or_string(struct proto *d, struct input in, struct int_or_string *out) {
    struct wire w;
    *out = (struct int_or_string){.set = true, .s = ""};
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        if (w.number == 1 && w.type == WT_VARINT) out->is_str = w.v == 1;
        if (w.number == 2 && w.type == WT_VARINT) out->i = (int32_t)w.v;
        int r = w.number == 3 && w.type == WT_BYTES ? read_string(d, w.in, &out->s) : 0;
        if (r) return r;
    }
    return 0;
}

/* The small messages whose field 1 is bytes: Quantity, RawExtension, FieldsV1. Absent gives p == NULL. */
static int read_blob(struct proto *d, struct input in, struct input *blob) {
    struct wire w;
    *blob = (struct input){0};
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        if (w.number == 1 && w.type == WT_BYTES) *blob = w.in;
    }
    return 0;
}

static int read_quantity(struct proto *d, struct input in, const char **out) {
    struct input blob;
    const char *text = "0";
    int r = read_blob(d, in, &blob);
    if (!r && blob.p < blob.end) r = read_string(d, blob, &text);
    if (r) return r;
    *out = quantity_canonical(d->a, text);
    return *out ? 0 : err_set(d->e, -EINVAL, "protobuf: \"%.100s\" is not a quantity", text);
}

static int read_raw(struct proto *d, struct input in, struct raw_json *out) {
    struct input blob;
    int r = read_blob(d, in, &blob);
    if (r) return r;
    *out = (struct raw_json){0};
    if (!blob.p) return 0;
    struct json *tree;
    r = json_parse(d->a, (const char *)blob.p, (size_t)(blob.end - blob.p), &tree, NULL, d->e);
    if (r) return r;
    out->p = json_text(d->a, tree);
    out->n = strlen(out->p);
    return 0;
}

static int read_duration(struct proto *d, struct input in, const char **out) {
    struct wire w;
    int64_t ns = 0;
    char text[KTIME_MAX];
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        if (w.number == 1 && w.type == WT_VARINT) ns = (int64_t)w.v;
    }
    *out = arena_strdup(d->a, duration_format(ns, text));
    return 0;
}

static void set_number(const struct api_field *f, uint64_t v, void *out) {
    switch ((enum api_kind)f->kind) {
        case API_BOOL: *(bool *)out = v != 0; break;
        case API_INT32:
        case API_ENUM: *(int32_t *)out = (int32_t)v; break;
        case API_UINT32: *(uint32_t *)out = (uint32_t)v; break;
        case API_DOUBLE: memcpy(out, &v, sizeof(v)); break;
        default: *(uint64_t *)out = v;
    }
}

static bool is_number(const struct api_field *f) {
    return f->kind == API_ENUM || (f->kind >= API_BOOL && f->kind <= API_DOUBLE);
}

static unsigned wire_type(const struct api_field *f) {
    return !is_number(f) ? WT_BYTES : f->kind == API_DOUBLE ? WT_64 : WT_VARINT;
}

static int read_one(struct proto *d, const struct api_field *f, const struct wire *w, void *out) {
    if (w->type != wire_type(f)) return err_set(d->e, -EINVAL, "protobuf: field %u has the wrong wire type", w->number);
    struct bytes *bytes = out;
    switch ((enum api_kind)f->kind) {
        case API_STRING: return read_string(d, w->in, out);
        case API_BYTES:
            bytes->n = (size_t)(w->in.end - w->in.p);
            bytes->p = arena_memdup(d->a, w->in.p, bytes->n);
            return 0;
        case API_TIME:
        case API_MICROTIME: return read_time(d, w->in, f->kind, out);
        case API_DURATION: return read_duration(d, w->in, out);
        case API_QUANTITY: return read_quantity(d, w->in, out);
        case API_INT_OR_STRING: return read_int_or_string(d, w->in, out);
        case API_RAW:
        case API_FIELDS_V1: return read_raw(d, w->in, out);
        case API_MESSAGE: return read_message(d, f->type, w->in, out);
        default: set_number(f, w->v, out); return 0;
    }
}

static int read_packed(struct proto *d, const struct api_field *f, struct input in, struct any_vec *v) {
    size_t elem = api_elem_size(f);
    while (in.p < in.end) {
        uint64_t n;
        if (!(f->kind == API_DOUBLE ? fixed(&in, 8, &n) : varint(&in, &n))) return truncated(d);
        set_number(f, n, api_vec_push(d->a, v, elem));
    }
    return 0;
}

static int read_element(struct proto *d, const struct api_field *f, const struct wire *w, struct any_vec *v) {
    if (is_number(f) && w->type == WT_BYTES) return read_packed(d, f, w->in, v);
    return read_one(d, f, w, api_vec_push(d->a, v, api_elem_size(f)));
}

static int read_wrapped(struct proto *d, const struct api_field *f, struct input in, struct any_vec *v) {
    struct wire w;
    if (!v->items) v->items = api_empty_items;
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        int r = w.number == 1 ? read_element(d, f, &w, v) : 0;
        if (r) return r;
    }
    return 0;
}

static int read_entry(struct proto *d, const struct api_field *f, struct input in, struct any_vec *m) {
    static const struct api_field strings = {.kind = API_STRING, .shape = API_LIST};
    struct wire w;
    char *p = api_vec_push(d->a, m, api_entry_size(f));
    *(const char **)p = "";
    if (f->shape == API_MAP && f->kind == API_STRING) *(const char **)(p + MAP_VALUE) = "";
    if (f->shape == API_MAP && f->kind == API_QUANTITY) *(const char **)(p + MAP_VALUE) = "0";
    if (f->kind == API_BYTES) ((struct bytes *)(p + MAP_VALUE))->p = (const uint8_t *)api_empty_items;
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        int r = 0;
        if (w.number == 1 && w.type == WT_BYTES)
            r = read_string(d, w.in, (const char **)p);
        else if (w.number == 2 && f->shape == API_MAP_LISTS && w.type == WT_BYTES)
            r = read_wrapped(d, &strings, w.in, (struct any_vec *)(p + MAP_VALUE));
        else if (w.number == 2)
            r = read_one(d, f, &w, p + MAP_VALUE);
        if (r) return r;
    }
    return 0;
}

static int read_field(struct proto *d, const struct api_field *f, const struct wire *w, char *out) {
    void *p = out + f->offset;
    switch ((enum api_shape)f->shape) {
        case API_LIST:
            if (f->flags & API_F_WRAPPED) return w->type == WT_BYTES ? read_wrapped(d, f, w->in, p) : truncated(d);
            return read_element(d, f, w, p);
        case API_MAP:
        case API_MAP_LISTS: return w->type == WT_BYTES ? read_entry(d, f, w->in, p) : truncated(d);
        case API_PTR:
            if (!api_is_pointer(f)) break;
            if (!*(void **)p) *(void **)p = arena_zalloc(d->a, api_elem_size(f));
            p = *(void **)p;
            break;
        case API_ONE: break;
    }
    return read_one(d, f, w, p);
}

static const struct api_field *find(const struct api_type *t, uint32_t number, uint32_t *hint) {
    for (uint32_t left = t->n_wire, i = *hint; left; left--, i++) {
        if (i >= t->n_wire) i = 0;
        const struct api_field *f = &t->fields[t->wire[i]];
        if (f->proto == number) {
            *hint = i;
            return f;
        }
    }
    return NULL;
}

static int read_message(struct proto *d, const struct api_type *t, struct input in, char *out) {
    struct wire w;
    uint32_t hint = 0;
    if (++d->depth > API_MAX_PROTO_DEPTH) return err_set(d->e, -EINVAL, "protobuf: nested too deeply");
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(d);
        const struct api_field *f = find(t, w.number, &hint);
        int r = f ? read_field(d, f, &w, out) : 0;
        if (r) return r;
    }
    for (uint32_t i = 0; i < t->n_wire; i++) {
        const struct api_field *f = &t->fields[t->wire[i]];
        if (f->shape >= API_MAP) api_map_sort(d->a, (struct any_vec *)(out + f->offset), api_entry_size(f));
    }
    d->depth--;
    return 0;
}

int api_from_proto(struct arena *a, const struct api_type *t, const uint8_t *p, size_t n, void *out, struct err *e) {
    struct proto d = {.a = a, .e = e};
    memset(out, 0, t->size);
    return read_message(&d, t, (struct input){p, p + n}, out);
}

/* ---- the envelope ---- */

int api_proto_unwrap(struct arena *a, const uint8_t *p, size_t n, const char **api_version, const char **kind,
                     struct bytes *raw, struct err *e) {
    struct proto d = {.a = a, .e = e};
    struct wire w, m;
    if (n < 4 || memcmp(p, "k8s", 4) != 0)
        return err_set(e, -EINVAL,
                       "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]");
    struct input in = {p + 4, p + n};
    *api_version = *kind = "";
    *raw = (struct bytes){(const uint8_t *)api_empty_items, 0};
    while (in.p < in.end) {
        if (!next(&in, &w)) return truncated(&d);
        if (w.number == 2 && w.type == WT_BYTES) *raw = (struct bytes){w.in.p, (size_t)(w.in.end - w.in.p)};
        if (w.number != 1 || w.type != WT_BYTES) continue;
        while (w.in.p < w.in.end) {
            if (!next(&w.in, &m)) return truncated(&d);
            int r = m.type == WT_BYTES && m.number == 1   ? read_string(&d, m.in, api_version)
                    : m.type == WT_BYTES && m.number == 2 ? read_string(&d, m.in, kind)
                                                          : 0;
            if (r) return r;
        }
    }
    return 0;
}
