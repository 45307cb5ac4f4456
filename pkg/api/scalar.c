/* Memory layout and textual forms that all codecs of pkg/api share. */
#include "pkg/api/internal.h"

char api_empty_items[1];

size_t api_elem_size(const struct api_field *f) {
    switch ((enum api_kind)f->kind) {
        case API_STRING:
        case API_QUANTITY:
        case API_DURATION: return sizeof(char *);
        case API_BOOL: return sizeof(bool);
        case API_INT32:
        case API_UINT32:
        case API_ENUM: return sizeof(int32_t);
        case API_INT64:
        case API_UINT64: return sizeof(int64_t);
        case API_DOUBLE: return sizeof(double);
        case API_BYTES: return sizeof(struct bytes);
        case API_TIME:
        case API_MICROTIME: return sizeof(struct ktime);
        case API_INT_OR_STRING: return sizeof(struct int_or_string);
        case API_RAW:
        case API_FIELDS_V1: return sizeof(struct raw_json);
        case API_MESSAGE: return f->type->size;
    }
    return 0;
}

size_t api_entry_size(const struct api_field *f) {
    size_t value = f->shape == API_MAP_LISTS ? sizeof(struct str_vec) : api_elem_size(f);
    return MAP_VALUE + ((value + sizeof(char *) - 1) & ~(sizeof(char *) - 1));
}

/* Capacity is not stored: it is FIRST (or one, of large elements), then doubles whenever n reaches it. Whoever makes a
 * vector that may be pushed to later (a message that comes in parts) must give it as much. */
static size_t vec_first(size_t elem) { return elem > 128 ? 1 : 4; }

static size_t vec_cap(size_t n, size_t elem) {
    size_t cap = vec_first(elem);
    while (cap < n) cap *= 2;
    return cap;
}

void *api_vec_push(struct arena *a, struct any_vec *v, size_t elem) {
    size_t first = vec_first(elem), n = v->n;
    if (n == 0)
        v->items = arena_alloc(a, first * elem);
    else if (n >= first && (n & (n - 1)) == 0)
        v->items = arena_realloc(a, v->items, n * elem, 2 * n * elem);
    v->n++;
    return memset((char *)v->items + n * elem, 0, elem);
}

static int by_key_then_place(const void *x, const void *y) {
    const char *const *a = *(const char *const *const *)x, *const *b = *(const char *const *const *)y;
    int c = strcmp(*a, *b);
    return c ? c : (a > b) - (a < b);
}

void api_map_sort(struct arena *a, struct any_vec *m, size_t entry) {
    bool sorted = true;
    for (size_t i = 1; i < m->n && sorted; i++) {
        const char *const *prev = (const void *)((char *)m->items + (i - 1) * entry);
        const char *const *this = (const void *)((char *)m->items + i * entry);
        sorted = strcmp(*prev, *this) < 0;
    }
    if (sorted) return;
    char **order = arena_alloc(a, m->n * sizeof(*order)), *out = arena_alloc(a, vec_cap(m->n, entry) * entry);
    for (size_t i = 0; i < m->n; i++) order[i] = (char *)m->items + i * entry;
    qsort(order, m->n, sizeof(*order), by_key_then_place);
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (i + 1 < m->n && strcmp(*(char **)order[i], *(char **)order[i + 1]) == 0) continue;
        memcpy(out + n++ * entry, order[i], entry);
    }
    m->items = out;
    m->n = n;
}

static void put_at(const struct api_at *at, bool indices, struct buf *b) {
    if (!at) return;
    put_at(at->up, indices, b);
    if (at->key) {
        if (b->len) buf_addc(b, '.');
        buf_add(b, at->key, at->key_len);
    } else if (indices) {
        buf_printf(b, "[%zu]", at->index);
    }
}

char *api_at_text(const struct api_at *at, bool indices, char *out) {
    _cleanup_buf_ struct buf b = {.limit = API_MAX_PATH - 1};
    put_at(at, indices, &b);
    memcpy(out, str_or_empty(b.data), b.len);
    out[b.len] = 0;
    return out;
}

/* 0001-01-01T00:00:00Z */
#define GO_ZERO_TIME (-62135596800)

int api_time_parse(enum api_kind k, const char *s, struct ktime *out) {
    struct ktime t;
    if (ktime_parse(s, &t)) return -EINVAL;
    const char *fraction = strchr(s, '.');
    if (k == API_MICROTIME && (!fraction || strspn(fraction + 1, "0123456789") != 6)) return -EINVAL;
    t.nsec = k == API_TIME ? 0 : t.nsec / 1000 * 1000;
    t.set = t.sec != GO_ZERO_TIME || t.nsec; /* which Go takes for none */
    *out = t;
    return 0;
}
