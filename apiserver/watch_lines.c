#include "apiserver/watch_lines.h"

#include "apiserver/convert.h"
#include "apiserver/tables.h"
#include "pkg/base/map.h"

uint32_t watch_form(const struct request *q) {
    bool beta = str_eq(q->as_version, "v1beta1");
    return (uint32_t)q->media | (uint32_t)q->as << 2 | (q->res->storage != NULL) << 5 | beta << 6 | q->res->index << 8;
}

static void put_varint(struct buf *b, size_t x) {
    for (; x > 0x7f; x >>= 7) buf_addc(b, (char)(x | 0x80));
    buf_addc(b, (char)x);
}

static size_t varint_len(size_t x) {
    size_t n = 1;
    while (x >>= 7) n++;
    return n;
}

/* A frame of protobuf: its length in four bytes, then metav1.WatchEvent{type = 1, object = 2: RawExtension{raw = 1}} where
 * raw is the object with its envelope. */
void watch_event(struct request *q, struct buf *out, const char *type, const struct api_type *t, struct json *v) {
    if (q->media != MEDIA_PROTO || !t) {
        buf_printf(out, "{\"type\":\"%s\",\"object\":", type);
        json_write(out, v);
        buf_adds(out, "}\n");
        return;
    }
    _cleanup_buf_ struct buf raw = BUF_INIT, obj = BUF_INIT;
    api_tree_to_proto(&raw, t, v);
    api_proto_wrap(&obj, str_or_empty(json_get_str(v, "apiVersion")), str_or_empty(json_get_str(v, "kind")), raw.data,
                   raw.len);
    size_t inner = 1 + varint_len(obj.len) + obj.len, total = 2 + strlen(type) + 1 + varint_len(inner) + inner;
    uint8_t len[4] = {(uint8_t)(total >> 24), (uint8_t)(total >> 16), (uint8_t)(total >> 8), (uint8_t)total};
    buf_add(out, len, 4);
    buf_addc(out, 0x0a);
    buf_addc(out, (char)strlen(type));
    buf_adds(out, type);
    buf_addc(out, 0x12);
    put_varint(out, inner);
    buf_addc(out, 0x0a);
    put_varint(out, obj.len);
    buf_add(out, obj.data, obj.len);
}

static struct rbytes *make_line(struct request *q, enum wc_event_type type, const struct object *o, bool *head_sent) {
    static const char *const names[] = {"ADDED", "MODIFIED", "DELETED"};
    if (q->as == AS_PARTIAL_LIST) return NULL; /* no object is a list */
    if (q->media == MEDIA_JSON && q->as == AS_OBJECT && (!q->res->storage || q->res->custom)) {
        const struct rbytes *head = q->res->pieces->event[type];
        struct rbytes *b = rbytes_alloc(head->len + o->tail->len + 2);
        char *p = mempcpy(b->data, head->data, head->len);
        p = mempcpy(p, o->tail->data, o->tail->len);
        memcpy(p, "}\n", 3);
        return b;
    }
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (q->as == AS_TABLE) {
        buf_printf(&b, "{\"type\":\"%s\",\"object\":", names[type]);
        table_write_event(&b, q, o, !*head_sent);
        *head_sent = true;
        buf_adds(&b, "}\n");
        return rbytes_new(b.data, b.len);
    }
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *v = object_tree(a, o);
    const struct api_type *t = q->res->type;
    if (q->as == AS_PARTIAL) {
        v = partial_tree(a, v, q->as_version);
        t = api_type_find("meta.k8s.io", "v1", "PartialObjectMetadata");
    } else if (v && o->res != q->res) {
        v = convert_view(a, o->res, q->res, v);
    }
    if (!v) return NULL;
    watch_event(q, &b, names[type], t, v);
    return rbytes_new(b.data, b.len);
}

static void line_done(struct watch_line *l) {
    object_unref(l->obj);
    rbytes_unref(l->bytes);
    *l = (struct watch_line){0};
}

struct rbytes *watch_line(struct watch_lines *lines, struct request *q, uint32_t form, enum wc_event_type type,
                          struct object *o, bool *head_sent, bool *own) {
    *own = q->as == AS_TABLE && !*head_sent;
    if (*own) return make_line(q, type, o, head_sent);
    uint32_t key[3] = {(uint32_t)((uintptr_t)o >> 4), (uint32_t)type, form};
    struct watch_line *l = &lines->slots[hash_bytes(key, sizeof(key)) % WATCH_LINES];
    if (l->obj == o && l->type == type && l->form == form) return l->bytes;
    line_done(l);
    l->bytes = make_line(q, type, o, head_sent);
    if (!l->bytes) return NULL;
    l->obj = object_ref(o);
    l->type = type;
    l->form = form;
    return l->bytes;
}

void watch_lines_done(struct watch_lines *lines) {
    for (size_t i = 0; i < WATCH_LINES; i++) line_done(&lines->slots[i]);
}
