/* Values: how JSON trees are seen as values of a declared type, lists and maps in their forms, UTF-8 by code points.
 *
 * A list, map or object is either a JSON tree with a declared type (FORM_JSON), looked into when asked and never
 * copied, or made by the evaluation (FORM_BUILT). Objects and maps are alike but for their kind: members by string.
 * Upstream: k8s.io/apiserver/pkg/cel/common/valuesunstructured.go, cel-go's common/types. */
#include <math.h>

#include "pkg/base/bytes.h"
#include "pkg/base/map.h"
#include "pkg/cel/internal.h"

struct cel_val val_errf(struct arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    struct cel_val v = {.kind = CEL_ERR, .s = arena_vprintf(a, fmt, ap)};
    va_end(ap);
    return v;
}

struct cel_val val_copy_str(struct arena *a, const char *s, size_t n) {
    return cel_strn(arena_strndup(a, s, n), n);
}

struct cel_val val_list(struct arena *a, struct cel_val *v, size_t n) {
    struct cel_list *l = arena_alloc(a, sizeof(*l));
    l->n = (uint32_t)n;
    l->v = v;
    return (struct cel_val){.kind = CEL_LIST, .list = l};
}

struct cel_val val_opaque(const struct cel_opaque *o) {
    return (struct cel_val){.kind = CEL_OPAQUE, .opaque = o};
}
struct cel_val val_type(const struct cel_type *t) {
    return (struct cel_val){.kind = CEL_TYPE, .t_value = t};
}
struct cel_val val_map(struct cel_map *m) {
    return (struct cel_val){.kind = CEL_MAP, .map = m};
}

struct cel_val val_some(struct arena *a, struct cel_val v) {
    return (struct cel_val){.kind = CEL_OPTIONAL, .some = arena_memdup(a, &v, sizeof(v))};
}

struct cel_val cel_optional(struct arena *a, const struct cel_val *v) {
    return v ? val_some(a, *v) : val_none();
}

/* ---- JSON ---- */

static struct cel_val string_of_json(struct arena *a, const struct json *v, const struct cel_type *t) {
    int64_t i;
    uint32_t nsec = 0;
    size_t n;
    switch (t ? t->kind : CEL_STRING) {
        case CEL_TIMESTAMP: {
            const char *s = v->str;
            if (v->n == 10) s = arena_printf(a, "%sT00:00:00Z", s); /* format date */
            if (!time_parse(s, strlen(s), &i, &nsec)) return val_errf(a, "Invalid date formatted string: %s", v->str);
            return val_time(i, nsec);
        }
        case CEL_DURATION:
            if (!duration_parse_n(v->str, v->n, &i))
                return val_errf(a, "Invalid duration formatted string: %s", v->str);
            return val_duration(i);
        case CEL_BYTES: {
            char *out = arena_alloc(a, v->n + 4);
            if (base64_decode(v->str, v->n, out, &n))
                return val_errf(a, "Invalid byte formatted base64 string: %s", v->str);
            return val_bytes(out, n);
        }
        default: return cel_strn(v->str, v->n);
    }
}

static struct cel_val number_of_json(struct arena *a, const struct json *v, const struct cel_type *t) {
    if (v->type == JSON_INT) return t && t->kind == CEL_DOUBLE ? cel_double((double)v->i) : cel_int(v->i);
    double d = json_as_double(v, 0);
    int64_t i;
    if (t && t->kind == CEL_INT && d == floor(d) && double_to_i64(d, &i)) return cel_int(i);
    return cel_double(d);
}

struct cel_val val_of_json(struct arena *a, const struct json *v, const struct cel_type *t) {
    if (t && t->kind == CEL_DYN) t = NULL;
    if (!v) return cel_null();
    switch (v->type) {
        case JSON_NULL: return cel_null();
        case JSON_BOOL: return cel_bool(v->b);
        case JSON_INT:
        case JSON_NUMBER: return number_of_json(a, v, t);
        case JSON_STRING: return string_of_json(a, v, t);
        case JSON_ARRAY:
            return (struct cel_val){
                .kind = CEL_LIST, .form = FORM_JSON, .json = v, .type = t && t->kind == CEL_LIST ? t : NULL};
        default: {
            bool object = t && t->kind == CEL_OBJECT, known = object || (t && t->kind == CEL_MAP);
            return (struct cel_val){
                .kind = object ? CEL_OBJECT : CEL_MAP, .form = FORM_JSON, .json = v, .type = known ? t : NULL};
        }
    }
}

struct cel_val cel_json(struct arena *a, const struct json *v, const struct cel_type *t) {
    return val_of_json(a, v, t);
}

/* ---- lists ---- */

size_t list_len(const struct cel_val *l) { return l->form == FORM_JSON ? l->json->n : l->list->n; }

struct cel_val list_at(struct arena *a, const struct cel_val *l, size_t i) {
    if (l->form == FORM_JSON) return val_of_json(a, l->json->items[i], l->type ? l->type->p[0] : NULL);
    return l->list->v[i];
}

/* ---- maps ---- */

static uint32_t hash_u64(uint64_t u) { return hash_bytes(&u, sizeof(u)); }

/* Keys that are equal across the numeric types hash alike. */
static uint32_t key_hash(const struct cel_val *k) {
    int64_t i;
    switch (k->kind) {
        case CEL_BOOL: return k->b ? 1u : 0u;
        case CEL_INT:
        case CEL_UINT: return hash_u64(k->u);
        case CEL_DOUBLE:
            return double_to_i64(k->d, &i) && (double)i == k->d ? hash_u64((uint64_t)i)
                                                                : hash_bytes(&k->d, sizeof(k->d));
        case CEL_STRING: return hash_bytes(k->s, k->n);
        default: return 7;
    }
}

enum { MAP_SMALL = 8 };

struct cel_map *map_new(struct arena *a, size_t cap) {
    struct cel_map *m = arena_zalloc(a, sizeof(*m));
    m->cap = cap < 4 ? 4 : (uint32_t)cap;
    m->kv = arena_alloc(a, 2 * m->cap * sizeof(*m->kv));
    return m;
}

static void map_index(struct arena *a, struct cel_map *m) {
    uint32_t slots = 16;
    while (slots < m->cap * 2) slots *= 2;
    m->mask = slots - 1;
    m->index = arena_zalloc(a, slots * sizeof(*m->index));
    for (uint32_t i = 0; i < m->n; i++) {
        uint32_t at = key_hash(&m->kv[2 * i]) & m->mask;
        while (m->index[at]) at = (at + 1) & m->mask;
        m->index[at] = i + 1;
    }
}

static struct cel_val *map_slot(const struct cel_map *m, const struct cel_val *k) {
    if (m->mask) {
        for (uint32_t at = key_hash(k) & m->mask; m->index[at]; at = (at + 1) & m->mask)
            if (cel_equal(m->kv[2 * (m->index[at] - 1)], *k)) return &m->kv[2 * (m->index[at] - 1)];
        return NULL;
    }
    for (uint32_t i = 0; i < m->n; i++)
        if (cel_equal(m->kv[2 * i], *k)) return &m->kv[2 * i];
    return NULL;
}

bool map_put_val(struct arena *a, struct cel_map *m, struct cel_val k, struct cel_val v) {
    if (map_slot(m, &k)) return false;
    if (m->n == m->cap) {
        m->kv = arena_realloc(a, m->kv, 2 * m->cap * sizeof(*m->kv), 4 * m->cap * sizeof(*m->kv));
        m->cap *= 2;
        if (m->mask) map_index(a, m);
    }
    m->kv[2 * m->n] = k;
    m->kv[2 * m->n + 1] = v;
    m->n++;
    if (m->mask) {
        uint32_t at = key_hash(&k) & m->mask;
        while (m->index[at]) at = (at + 1) & m->mask;
        m->index[at] = m->n;
    } else if (m->n > MAP_SMALL) {
        map_index(a, m);
    }
    return true;
}

bool map_get_val(const struct cel_map *m, const struct cel_val *k, struct cel_val *out) {
    const struct cel_val *slot = map_slot(m, k);
    if (slot) *out = slot[1];
    return slot != NULL;
}

/* Is the property one that the declared type shows? */
static const struct cel_field *json_field(const struct cel_val *m, const struct json_member *at) {
    for (uint32_t i = 0; i < m->type->n_fields; i++)
        if (strcmp(m->type->fields[i].json, at->key) == 0) return &m->type->fields[i];
    return NULL;
}

size_t map_len(const struct cel_val *m) {
    if (m->form == FORM_LAZY) return 0;
    return m->form == FORM_JSON ? m->json->n : m->map->n;
}

struct cel_val map_key_at(struct arena *a, const struct cel_val *m, size_t i) {
    if (m->form == FORM_BUILT) return m->map->kv[2 * i];
    const struct cel_field *f = m->kind == CEL_OBJECT ? json_field(m, &m->json->members[i]) : NULL;
    return cel_str(f ? f->name : m->json->members[i].key);
}

struct cel_val map_val_at(struct arena *a, const struct cel_val *m, size_t i) {
    if (m->form == FORM_BUILT) return m->map->kv[2 * i + 1];
    const struct json_member *at = &m->json->members[i];
    if (m->kind != CEL_OBJECT) return val_of_json(a, at->value, m->type ? m->type->p[1] : NULL);
    const struct cel_field *f = json_field(m, at);
    return val_of_json(a, at->value, f ? f->type : NULL);
}

bool map_find_str(struct ev *E, const struct cel_val *m, const char *key, struct cel_val *out) {
    if (m->form == FORM_LAZY) return lazy_value_find(E, m, key, out);
    if (m->form == FORM_BUILT) {
        struct cel_val k = cel_str(key);
        return map_find(E, m, &k, out);
    }
    const struct cel_type *t = m->type ? m->type->p[1] : NULL;
    const struct cel_field *f = m->kind == CEL_OBJECT ? type_field(m->type, key) : NULL;
    if (f) {
        key = f->json;
        t = f->type;
    }
    const struct json *v = json_get(m->json, key);
    if (!v || (v->type == JSON_NULL && m->kind == CEL_OBJECT)) return false;
    *out = val_of_json(E->a, v, t);
    return true;
}

bool map_find(struct ev *E, const struct cel_val *m, const struct cel_val *key, struct cel_val *out) {
    if (m->form != FORM_BUILT) return key->kind == CEL_STRING && map_find_str(E, m, key->s, out);
    if (map_get_val(m->map, key, out)) return true;
    if (m->map->otherwise) *out = *m->map->otherwise;
    return m->map->otherwise != NULL;
}

/* ---- sizes and numbers ---- */

uint64_t val_size(const struct cel_val *v) {
    switch (v->kind) {
        case CEL_STRING: return utf8_count(v->s, v->n);
        case CEL_BYTES: return v->n;
        case CEL_LIST: return list_len(v);
        case CEL_MAP: return map_len(v);
        case CEL_OPTIONAL: return v->some ? val_size(v->some) : 1;
        case CEL_OPAQUE: return opaque_size(v->opaque);
        default: return 1;
    }
}

bool double_to_i64(double d, int64_t *out) {
    if (!(d > -9223372036854775808.0 && d < 9223372036854775808.0)) return false;
    *out = (int64_t)d;
    return true;
}

bool double_to_u64(double d, uint64_t *out) {
    if (!(d >= 0 && d < 18446744073709551616.0)) return false;
    *out = (uint64_t)d;
    return true;
}

/* ---- UTF-8 ---- */

uint32_t utf8_next(const char *s, size_t n, size_t *at) {
    const unsigned char *p = (const unsigned char *)s + *at;
    size_t left = n - *at, len = *p < 0x80 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
    if (*p < 0x80 || *p < 0xC0 || len > left) {
        *at += 1;
        return *p < 0x80 ? *p : 0xFFFD;
    }
    uint32_t c = *p & (0xFF >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((p[i] & 0xC0) != 0x80) {
            *at += 1;
            return 0xFFFD;
        }
        c = c << 6 | (p[i] & 0x3F);
    }
    *at += len;
    return c;
}

size_t utf8_count(const char *s, size_t n) {
    size_t count = 0;
    for (size_t at = 0; at < n; count++) {
        if ((signed char)s[at] >= 0)
            at++;
        else
            utf8_next(s, n, &at);
    }
    return count;
}

size_t utf8_offset(const char *s, size_t n, size_t i) {
    size_t at = 0;
    while (i > 0 && at < n) {
        utf8_next(s, n, &at);
        i--;
    }
    return at;
}

size_t utf8_put(uint32_t c, char out[4]) {
    if (c == 0) { /* a NUL inside a string is held as C0 80 */
        out[0] = (char)0xC0;
        out[1] = (char)0x80;
        return 2;
    }
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = n; i > 1; i--, c >>= 6) out[i - 1] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(n == 1 ? c : (lead[n] | c));
    return n;
}

bool utf8_valid(const char *s, size_t n) {
    for (size_t at = 0; at < n;) {
        size_t before = at;
        uint32_t c = utf8_next(s, n, &at);
        size_t len = at - before;
        if (c == 0xFFFD && len == 1) return false;
        if ((c >= 0xD800 && c <= 0xDFFF) || c > 0x10FFFF) return false;
        if ((len == 2 && c < 0x80 && c != 0) || (len == 3 && c < 0x800) || (len == 4 && c < 0x10000)) return false;
    }
    return true;
}
