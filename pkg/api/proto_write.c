/* Structs to protobuf.
 *
 * Two dialects. Kubernetes' own types (gogo's proto2): every value that is not a pointer is written, zero or not, in the
 * order of field numbers; absent pointers and empty lists are not. CRI and etcd (proto3): zero values are not written,
 * except members of a oneof, and repeated numbers are packed. Time, Quantity, IntOrString, RawExtension, FieldsV1 and
 * Duration are small messages in the first dialect.
 *
 * A nested message is written behind one byte kept free for its length; when the length needs more bytes the message
 * is moved along. */
#include "pkg/api/internal.h"

enum { WT_VARINT = 0, WT_64 = 1, WT_BYTES = 2, WT_32 = 5 };

static void put_varint(struct buf *b, uint64_t v) {
    char out[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) out[n++] = (char)(v | 0x80);
    out[n++] = (char)v;
    buf_add(b, out, n);
}

static void put_tag(struct buf *b, uint32_t number, unsigned wire_type) {
    put_varint(b, (uint64_t)number << 3 | wire_type);
}

static size_t open_message(struct buf *b, uint32_t number) {
    put_tag(b, number, WT_BYTES);
    buf_addc(b, 0);
    return b->len;
}

static void close_message(struct buf *b, size_t start) {
    if (b->failed) return;
    size_t n = b->len - start, extra = 0;
    for (size_t v = n; v >= 0x80; v >>= 7) extra++;
    if (extra) {
        if (!buf_reserve(b, extra)) return;
        memmove(b->data + start + extra, b->data + start, n);
        b->len += extra;
    }
    unsigned char *p = (unsigned char *)b->data + start - 1;
    for (; n >= 0x80; n >>= 7) *p++ = (unsigned char)(n | 0x80);
    *p = (unsigned char)n;
}

static void put_blob(struct buf *b, uint32_t number, const void *p, size_t n) {
    put_tag(b, number, WT_BYTES);
    put_varint(b, n);
    buf_add(b, p, n);
}

/* An encoded NUL (C0 80, see json.h) becomes the byte it stands for. */
static void put_string(struct buf *b, uint32_t number, const char *s) {
    s = str_or_empty(s);
    size_t n = strlen(s);
    if (!memchr(s, 0xc0, n)) {
        put_blob(b, number, s, n);
        return;
    }
    size_t start = open_message(b, number);
    for (size_t i = 0; i < n; i++) {
        bool nul = (unsigned char)s[i] == 0xc0;
        buf_addc(b, nul ? 0 : s[i]);
        i += nul;
    }
    close_message(b, start);
}

static void put_number(struct buf *b, uint32_t number, uint64_t v) {
    put_tag(b, number, WT_VARINT);
    put_varint(b, v);
}

static void put_message(struct buf *b, const struct api_type *t, const char *obj);

static void put_time(struct buf *b, uint32_t number, const struct ktime *t) {
    size_t start = open_message(b, number);
    if (t->set) {
        put_number(b, 1, (uint64_t)t->sec);
        put_number(b, 2, (uint64_t)(int64_t)t->nsec);
    }
    close_message(b, start);
}

static void put_int_or_string(struct buf *b, uint32_t number, const struct int_or_string *v) {
    size_t start = open_message(b, number);
    put_number(b, 1, v->is_str);
    put_number(b, 2, (uint64_t)(int64_t)v->i);
    put_string(b, 3, v->is_str ? v->s : "");
    close_message(b, start);
}

static void put_raw(struct buf *b, uint32_t number, const struct raw_json *v) {
    size_t start = open_message(b, number);
    if (v->tree) {
        _cleanup_buf_ struct buf text = BUF_INIT;
        json_write(&text, v->tree);
        put_blob(b, 1, text.data, text.len);
    } else if (v->p) {
        put_blob(b, 1, v->p, v->n);
    }
    close_message(b, start);
}

static void put_duration(struct buf *b, uint32_t number, const char *text) {
    int64_t ns = 0;
    if (text && duration_parse(text, &ns)) ns = 0;
    size_t start = open_message(b, number);
    put_number(b, 1, (uint64_t)ns);
    close_message(b, start);
}

static uint64_t scalar_bits(const struct api_field *f, const void *p) {
    uint64_t bits = 0;
    switch ((enum api_kind)f->kind) {
        case API_BOOL: return *(const bool *)p;
        case API_INT32:
        case API_ENUM: return (uint64_t)(int64_t) * (const int32_t *)p;
        case API_UINT32: return *(const uint32_t *)p;
        case API_DOUBLE: memcpy(&bits, p, sizeof(bits)); return bits;
        default: return *(const uint64_t *)p;
    }
}

static void put_fixed64(struct buf *b, uint64_t v) {
    char out[8];
    for (int i = 0; i < 8; i++) out[i] = (char)(v >> (8 * i));
    buf_add(b, out, 8);
}

static void put_one(struct buf *b, const struct api_field *f, uint32_t number, const void *p) {
    size_t start;
    switch ((enum api_kind)f->kind) {
        case API_STRING: put_string(b, number, *(const char *const *)p); break;
        case API_BYTES: put_blob(b, number, ((const struct bytes *)p)->p, ((const struct bytes *)p)->n); break;
        case API_TIME:
        case API_MICROTIME: put_time(b, number, p); break;
        case API_DURATION: put_duration(b, number, *(const char *const *)p); break;
        case API_QUANTITY:
            start = open_message(b, number);
            put_string(b, 1, str_empty(*(const char *const *)p) ? "0" : *(const char *const *)p);
            close_message(b, start);
            break;
        case API_INT_OR_STRING: put_int_or_string(b, number, p); break;
        case API_RAW:
        case API_FIELDS_V1: put_raw(b, number, p); break;
        case API_MESSAGE:
            start = open_message(b, number);
            put_message(b, f->type, p);
            close_message(b, start);
            break;
        case API_DOUBLE:
            put_tag(b, number, WT_64);
            put_fixed64(b, scalar_bits(f, p));
            break;
        default: put_number(b, number, scalar_bits(f, p));
    }
}

static void put_list(struct buf *b, const struct api_field *f, uint32_t number, const struct any_vec *v) {
    size_t elem = api_elem_size(f);
    if (f->flags & API_F_PACKED && v->n) {
        size_t start = open_message(b, number);
        for (size_t i = 0; i < v->n; i++) {
            uint64_t bits = scalar_bits(f, (const char *)v->items + i * elem);
            if (f->kind == API_DOUBLE)
                put_fixed64(b, bits);
            else
                put_varint(b, bits);
        }
        close_message(b, start);
        return;
    }
    for (size_t i = 0; i < v->n; i++) put_one(b, f, number, (const char *)v->items + i * elem);
}

static void put_wrapped(struct buf *b, const struct api_field *f, uint32_t number, const struct any_vec *v) {
    size_t start = open_message(b, number);
    put_list(b, f, 1, v);
    close_message(b, start);
}

static void put_map(struct buf *b, const struct api_field *f, const struct any_vec *m) {
    static const struct api_field strings = {.kind = API_STRING, .shape = API_LIST};
    struct arena *scratch = NULL;
    struct any_vec sorted = *m;
    size_t entry = api_entry_size(f);
    for (size_t i = 1; i < m->n && !scratch; i++) {
        const char *items = m->items;
        if (strcmp(*(char *const *)(items + (i - 1) * entry), *(char *const *)(items + i * entry)) < 0) continue;
        scratch = arena_new();
        sorted.items = arena_memdup(scratch, items, m->n * entry);
        api_map_sort(scratch, &sorted, entry);
    }
    for (size_t i = 0; i < sorted.n; i++) {
        const char *p = (const char *)sorted.items + i * entry;
        size_t start = open_message(b, f->proto);
        put_string(b, 1, *(const char *const *)p);
        if (f->shape == API_MAP_LISTS)
            put_wrapped(b, &strings, 2, (const void *)(p + MAP_VALUE));
        else
            put_one(b, f, 2, p + MAP_VALUE);
        close_message(b, start);
    }
    arena_free(scratch);
}

/* proto3 leaves zero values out. */
static bool is_zero(const struct api_field *f, const void *p) {
    switch ((enum api_kind)f->kind) {
        case API_STRING: return str_empty(*(const char *const *)p);
        case API_BYTES: return ((const struct bytes *)p)->n == 0;
        case API_BOOL:
        case API_INT32:
        case API_UINT32:
        case API_ENUM:
        case API_INT64:
        case API_UINT64:
        case API_DOUBLE: return scalar_bits(f, p) == 0;
        default: return false;
    }
}

static bool is_absent(const struct api_type *t, const struct api_field *f, const void *p) {
    if (f->shape == API_PTR) return api_is_nil(f, p);
    if (f->kind == API_BYTES && (!t->proto3 || f->flags & API_F_ONEOF)) return !((const struct bytes *)p)->p;
    if (f->flags & API_F_ONEOF) return f->kind == API_STRING && !*(void *const *)p;
    return t->proto3 && is_zero(f, p);
}

static void put_message(struct buf *b, const struct api_type *t, const char *obj) {
    for (uint32_t i = 0; i < t->n_wire; i++) {
        const struct api_field *f = &t->fields[t->wire[i]];
        const void *p = obj + f->offset;
        if (f->shape == API_LIST) {
            const struct any_vec *v = p;
            if (!(f->flags & API_F_WRAPPED))
                put_list(b, f, f->proto, v);
            else if (v->items)
                put_wrapped(b, f, f->proto, v);
        } else if (f->shape >= API_MAP) {
            put_map(b, f, p);
        } else if (!is_absent(t, f, p)) {
            put_one(b, f, f->proto, api_is_pointer(f) ? *(const void *const *)p : p);
        }
    }
}

void api_to_proto(struct buf *b, const struct api_type *t, const void *obj) { put_message(b, t, obj); }

/* ---- the envelope ---- */

static const char magic[4] = {'k', '8', 's', 0};

void api_proto_wrap(struct buf *b, const char *api_version, const char *kind, const void *raw, size_t n) {
    buf_add(b, magic, sizeof(magic));
    size_t start = open_message(b, 1);
    put_string(b, 1, api_version);
    put_string(b, 2, kind);
    close_message(b, start);
    put_blob(b, 2, raw, n);
    put_string(b, 3, "");
    put_string(b, 4, "");
}
