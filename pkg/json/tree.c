#include <assert.h>
#include <float.h>
#include <math.h>

#include "pkg/json/json.h"

static struct json *node(struct arena *a, enum json_type t) {
    struct json *v = arena_zalloc(a, sizeof(*v));
    v->type = t;
    return v;
}

struct json *json_null(struct arena *a) {
    return node(a, JSON_NULL);
}
struct json *json_array(struct arena *a) {
    return node(a, JSON_ARRAY);
}
struct json *json_object(struct arena *a) {
    return node(a, JSON_OBJECT);
}

struct json *json_bool(struct arena *a, bool b) {
    struct json *v = node(a, JSON_BOOL);
    v->b = b;
    return v;
}

struct json *json_int(struct arena *a, int64_t i) {
    struct json *v = node(a, JSON_INT);
    v->i = i;
    return v;
}

struct json *json_num(struct arena *a, const char *text) {
    int64_t i;
    if (str_to_i64(text, &i) == 0) return json_int(a, i);
    struct json *v = node(a, JSON_NUMBER);
    v->n = (uint32_t)strlen(text);
    v->str = arena_strndup(a, text, v->n);
    return v;
}

/* The shortest digits that read back the same, laid out as Go does it: an exponent below 1e-6 and from 1e21 only. */
char *json_double_text(double d, char out[JSON_DOUBLE_MAX]) {
    int digits = 1;
    for (; digits <= DBL_DECIMAL_DIG; digits++) {
        snprintf(out, JSON_DOUBLE_MAX, "%.*e", digits - 1, d);
        if (strtod(out, NULL) == d) break;
    }
    char *e = strchr(out, 'e');
    if (!e) return out; /* not a number: no caller has one */
    int exponent = (int)strtol(e + 1, NULL, 10);
    if (exponent >= -6 && exponent < 21)
        snprintf(out, JSON_DOUBLE_MAX, "%.*f", MAX_OF(digits - 1 - exponent, 0), d);
    else
        snprintf(e, JSON_DOUBLE_MAX - (size_t)(e - out), "e%+d", exponent);
    return out;
}

struct json *json_double(struct arena *a, double d) {
    char text[JSON_DOUBLE_MAX];
    return json_num(a, json_double_text(d, text));
}

struct json *json_strn(struct arena *a, const char *s, size_t n) {
    struct json *v = node(a, JSON_STRING);
    v->n = (uint32_t)n;
    v->str = arena_strndup(a, s, n);
    return v;
}

struct json *json_str(struct arena *a, const char *s) {
    return s ? json_strn(a, s, strlen(s)) : json_null(a);
}

struct json *json_strf(struct arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    struct json *v = node(a, JSON_STRING);
    v->str = arena_vprintf(a, fmt, ap);
    v->n = (uint32_t)strlen(v->str);
    va_end(ap);
    return v;
}

static struct json_member *member(const struct json *obj, const char *key) {
    if (!json_is(obj, JSON_OBJECT)) return NULL;
    for (uint32_t i = 0; i < obj->n; i++) {
        const char *k = obj->members[i].key;
        if (*k == *key && strcmp(k, key) == 0) return &obj->members[i];
    }
    return NULL;
}

struct json *json_set(struct arena *a, struct json *obj, const char *key, struct json *value) {
    assert(obj->type == JSON_OBJECT);
    struct json_member *m = member(obj, key);
    if (m) return m->value = value;
    ARENA_GROW(a, obj->members, obj->n, obj->cap);
    obj->members[obj->n++] = (struct json_member){arena_strdup(a, key), value};
    return value;
}

static struct json *ensure(struct arena *a, struct json *obj, const char *key, enum json_type t) {
    struct json *v = json_get(obj, key);
    if (json_is(v, t)) return v;
    return json_set(a, obj, key, node(a, t));
}

struct json *json_ensure_object(struct arena *a, struct json *obj, const char *key) {
    return ensure(a, obj, key, JSON_OBJECT);
}

struct json *json_ensure_array(struct arena *a, struct json *obj, const char *key) {
    return ensure(a, obj, key, JSON_ARRAY);
}

void json_append(struct arena *a, struct json *arr, struct json *value) { json_insert(a, arr, arr->n, value); }

void json_insert(struct arena *a, struct json *arr, size_t at, struct json *value) {
    assert(arr->type == JSON_ARRAY && at <= arr->n);
    ARENA_GROW(a, arr->items, arr->n, arr->cap);
    memmove(arr->items + at + 1, arr->items + at, (arr->n - at) * sizeof(*arr->items));
    arr->items[at] = value;
    arr->n++;
}

bool json_del(struct json *obj, const char *key) {
    struct json_member *m = member(obj, key);
    if (!m) return false;
    size_t at = (size_t)(m - obj->members);
    memmove(m, m + 1, (obj->n - at - 1) * sizeof(*m));
    obj->n--;
    return true;
}

bool json_del_at(struct json *arr, size_t at) {
    if (!json_is(arr, JSON_ARRAY) || at >= arr->n) return false;
    memmove(arr->items + at, arr->items + at + 1, (arr->n - at - 1) * sizeof(*arr->items));
    arr->n--;
    return true;
}

struct json *json_clone(struct arena *a, const struct json *v) {
    if (!v) return NULL;
    struct json *c = arena_memdup(a, v, sizeof(*v));
    switch (v->type) {
        case JSON_STRING:
        case JSON_NUMBER: c->str = arena_strndup(a, v->str, v->n); break;
        case JSON_ARRAY:
            c->cap = v->n;
            c->items = arena_alloc(a, v->n * sizeof(*v->items));
            for (uint32_t i = 0; i < v->n; i++) c->items[i] = json_clone(a, v->items[i]);
            break;
        case JSON_OBJECT:
            c->cap = v->n;
            c->members = arena_alloc(a, v->n * sizeof(*v->members));
            for (uint32_t i = 0; i < v->n; i++)
                c->members[i] =
                    (struct json_member){arena_strdup(a, v->members[i].key), json_clone(a, v->members[i].value)};
            break;
        default: break;
    }
    return c;
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const struct json_member *)a)->key, ((const struct json_member *)b)->key);
}

void json_sort_keys(struct json *v, bool deep) {
    if (json_is(v, JSON_OBJECT)) {
        if (v->n > 1) qsort(v->members, v->n, sizeof(*v->members), by_key);
        if (deep)
            for (uint32_t i = 0; i < v->n; i++) json_sort_keys(v->members[i].value, true);
    } else if (deep && json_is(v, JSON_ARRAY)) {
        for (uint32_t i = 0; i < v->n; i++) json_sort_keys(v->items[i], true);
    }
}

struct json *json_get(const struct json *obj, const char *key) {
    struct json_member *m = member(obj, key);
    return m ? m->value : NULL;
}

struct json *json_at(const struct json *v, ...) {
    va_list ap;
    va_start(ap, v);
    const char *key;
    const struct json *at = v;
    while (at && (key = va_arg(ap, const char *))) at = json_get(at, key);
    va_end(ap);
    return (struct json *)at;
}

struct json *json_item(const struct json *v, size_t i) {
    if (json_is(v, JSON_ARRAY) && i < v->n) return v->items[i];
    if (json_is(v, JSON_OBJECT) && i < v->n) return v->members[i].value;
    return NULL;
}

const char *json_as_str(const struct json *v) { return json_is(v, JSON_STRING) ? v->str : NULL; }
const char *json_get_str(const struct json *obj, const char *key) { return json_as_str(json_get(obj, key)); }
int64_t json_as_int(const struct json *v, int64_t dflt) { return json_is(v, JSON_INT) ? v->i : dflt; }
int64_t json_get_int(const struct json *obj, const char *key, int64_t dflt) {
    return json_as_int(json_get(obj, key), dflt);
}
bool json_get_bool(const struct json *obj, const char *key, bool dflt) {
    const struct json *v = json_get(obj, key);
    return json_is(v, JSON_BOOL) ? v->b : dflt;
}
double json_as_double(const struct json *v, double dflt) {
    if (json_is(v, JSON_INT)) return (double)v->i;
    if (json_is(v, JSON_NUMBER)) return strtod(v->str, NULL);
    return dflt;
}

bool json_equal(const struct json *a, const struct json *b) {
    if (a == b) return true;
    if (!a || !b) return false;
    if (a->type != b->type) {
        bool numbers =
            (a->type == JSON_INT || a->type == JSON_NUMBER) && (b->type == JSON_INT || b->type == JSON_NUMBER);
        return numbers && json_as_double(a, 0) == json_as_double(b, 0);
    }
    switch (a->type) {
        case JSON_NULL: return true;
        case JSON_BOOL: return a->b == b->b;
        case JSON_INT: return a->i == b->i;
        case JSON_NUMBER: return strcmp(a->str, b->str) == 0 || json_as_double(a, 0) == json_as_double(b, 0);
        case JSON_STRING: return a->n == b->n && memcmp(a->str, b->str, a->n) == 0;
        case JSON_ARRAY:
            if (a->n != b->n) return false;
            for (uint32_t i = 0; i < a->n; i++)
                if (!json_equal(a->items[i], b->items[i])) return false;
            return true;
        case JSON_OBJECT:
            if (a->n != b->n) return false;
            for (uint32_t i = 0; i < a->n; i++) {
                const struct json *other = i < b->n && strcmp(b->members[i].key, a->members[i].key) == 0
                                               ? b->members[i].value
                                               : json_get(b, a->members[i].key);
                if (!other || !json_equal(a->members[i].value, other)) return false;
            }
            return true;
    }
    return false;
}
