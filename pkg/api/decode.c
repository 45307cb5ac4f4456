/* JSON to structs, from text or from a tree, in one walk over the descriptors: encoding/json with Kubernetes' rules.
 *
 * The input is seen as values: a token with its text, and for objects and arrays a way to step through the members.
 * next_member and next_item hide whether a reader or a tree stands behind. Fields are matched by exact name (no case
 * folding) and searched from where the last one was found, because documents mostly follow the declared order: that
 * makes a look-up one or two comparisons.
 *
 * Rules worth knowing: null leaves a value at zero; of duplicate members the last wins; a list's null element is a
 * zero value; numbers must be integers in range for integer fields; a Quantity may be a number; Time is cut to whole
 * seconds. Unknown members are skipped, and noted when the caller wants them. Corresponds to sigs.k8s.io/json. */
#include "pkg/api/internal.h"
#include "pkg/api/quantity.h"
#include "pkg/base/bytes.h"

struct value {
    enum json_tok t;
    const char *s; /* STRING, INT, NUMBER: the text, NUL-terminated (INT from a tree: NULL) */
    size_t n;
    int64_t i;
    const struct json *node; /* from a tree */
};

struct decoder {
    struct arena *a;
    struct json_reader *r; /* NULL: from a tree */
    bool keep_trees;
    bool drop_empty; /* empty lists and maps are absent */
    struct api_problems *unknown;
    struct err *e;
};

static int decode_message(struct decoder *d, const struct api_type *t, const struct value *v, void *out,
                          const struct api_at *at);

/* ---- stepping ---- */

static void load_token(struct decoder *d, enum json_tok t, struct value *v) {
    *v = (struct value){.t = t, .s = d->r->str, .n = d->r->len, .i = d->r->i};
}

static void load_node(const struct json *node, struct value *v) {
    *v = (struct value){.node = node};
    switch (node->type) {
        case JSON_NULL: v->t = JTOK_NULL; break;
        case JSON_BOOL: v->t = node->b ? JTOK_TRUE : JTOK_FALSE; break;
        case JSON_INT:
            v->t = JTOK_INT;
            v->i = node->i;
            break;
        case JSON_NUMBER:
        case JSON_STRING:
            v->t = node->type == JSON_STRING ? JTOK_STRING : JTOK_NUMBER;
            v->s = node->str;
            v->n = node->n;
            break;
        case JSON_ARRAY: v->t = JTOK_ARR_BEGIN; break;
        case JSON_OBJECT: v->t = JTOK_OBJ_BEGIN; break;
    }
}

/* Steps to the next member of an object: 1, 0 at its end, negative on a syntax error. `pos` starts at 0. */
static int next_member(struct decoder *d, const struct value *obj, uint32_t *pos, const char **key, size_t *key_len,
                       struct value *v) {
    if (!d->r) {
        if (*pos >= obj->node->n) return 0;
        const struct json_member *m = &obj->node->members[(*pos)++];
        *key = m->key;
        *key_len = strlen(m->key);
        load_node(m->value, v);
        return 1;
    }
    enum json_tok t = json_next(d->r);
    if (t == JTOK_OBJ_END) return 0;
    if (t != JTOK_KEY) return json_reader_err(d->r, d->e);
    *key = d->r->str;
    *key_len = d->r->len;
    t = json_next(d->r);
    if (t == JTOK_ERROR) return json_reader_err(d->r, d->e);
    load_token(d, t, v);
    return 1;
}

static int next_item(struct decoder *d, const struct value *arr, uint32_t *pos, struct value *v) {
    if (!d->r) {
        if (*pos >= arr->node->n) return 0;
        load_node(arr->node->items[(*pos)++], v);
        return 1;
    }
    enum json_tok t = json_next(d->r);
    if (t == JTOK_ARR_END) return 0;
    if (t == JTOK_ERROR) return json_reader_err(d->r, d->e);
    (*pos)++;
    load_token(d, t, v);
    return 1;
}

static int skip(struct decoder *d, const struct value *v) {
    if (!d->r || (v->t != JTOK_OBJ_BEGIN && v->t != JTOK_ARR_BEGIN)) return 0;
    return json_skip(d->r, NULL, NULL) ? 0 : json_reader_err(d->r, d->e);
}

/* ---- messages ---- */

static const char *go_kind(const struct api_field *f, char out[160]) {
    static const char *const names[] = {
        [API_STRING] = "string",       [API_BOOL] = "bool",       [API_INT32] = "int32",
        [API_INT64] = "int64",         [API_UINT32] = "uint32",   [API_UINT64] = "uint64",
        [API_DOUBLE] = "float64",      [API_BYTES] = "[]uint8",   [API_TIME] = "string",
        [API_MICROTIME] = "string",    [API_DURATION] = "string", [API_QUANTITY] = "string",
        [API_INT_OR_STRING] = "int32", [API_RAW] = "object",      [API_FIELDS_V1] = "object",
        [API_ENUM] = "int32"};
    char base[128];
    if (f->kind == API_MESSAGE)
        snprintf(base, sizeof(base), "%s.%s", f->type->version, f->type->name);
    else
        snprintf(base, sizeof(base), "%s", names[f->kind]);
    const char *prefix = f->shape == API_LIST        ? "[]"
                         : f->shape == API_MAP       ? "map[string]"
                         : f->shape == API_MAP_LISTS ? "map[string][]"
                                                     : "";
    snprintf(out, 160, "%s%s", prefix, base);
    return out;
}

static const char *token_name(const struct value *v, char out[64]) {
    switch (v->t) {
        case JTOK_STRING: return "string";
        case JTOK_TRUE:
        case JTOK_FALSE: return "bool";
        case JTOK_ARR_BEGIN: return "array";
        case JTOK_OBJ_BEGIN: return "object";
        case JTOK_NULL: return "null";
        case JTOK_INT: snprintf(out, 64, "number %lld", (long long)v->i); return out;
        case JTOK_NUMBER: snprintf(out, 64, "number %.40s", v->s); return out;
        default: return "value";
    }
}

/* As encoding/json says it: the struct that has the field, and the path to it without indices. */
static int wrong_type(struct decoder *d, const struct api_type *owner, const struct api_field *f, const struct value *v,
                      const struct api_at *at, bool whole) {
    char path[API_MAX_PATH], type[160], tok[64];
    struct api_field elem = *f;
    if (!whole) elem.shape = API_ONE;
    const char *name = token_name(v, tok);
    bool number = v->t == JTOK_INT || v->t == JTOK_NUMBER;
    bool wants_number = f->kind >= API_INT32 && f->kind <= API_DOUBLE && !whole;
    return err_set(d->e, -EINVAL, "json: cannot unmarshal %s into Go struct field %s.%s of type %s",
                   number && !wants_number ? "number" : name, owner->name, api_at_text(at, false, path),
                   go_kind(&elem, type));
}

static int bad_value(struct decoder *d, const struct api_at *at, const char *what, const char *text) {
    char path[API_MAX_PATH];
    api_at_text(at, true, path);
    return err_set(d->e, -EINVAL, "%s: %s: \"%.200s\"", *path ? path : "value", what, str_or_empty(text));
}

static void note_unknown(struct decoder *d, const struct api_at *at) {
    struct api_problems *u = d->unknown;
    if (!u) return;
    char path[API_MAX_PATH];
    ARENA_GROW(d->a, u->items, u->n, u->cap);
    u->items[u->n].kind = "unknown field";
    u->items[u->n++].path = arena_strdup(d->a, api_at_text(at, true, path));
}

/* ---- scalars ---- */

static bool integer(const struct value *v, int64_t min, int64_t max, int64_t *out) {
    if (v->t != JTOK_INT || v->i < min || v->i > max) return false;
    *out = v->i;
    return true;
}

static bool unsigned64(const struct value *v, uint64_t *out) {
    if (v->t == JTOK_INT && v->i >= 0) {
        *out = (uint64_t)v->i;
        return true;
    }
    if ((v->t != JTOK_NUMBER && v->t != JTOK_STRING) || !v->n || strspn(v->s, "0123456789") != v->n || v->n > 20)
        return false;
    errno = 0;
    *out = strtoull(v->s, NULL, 10);
    return errno == 0;
}

static int decode_quantity(struct decoder *d, const struct value *v, const char **out, const struct api_at *at) {
    char num[32];
    const char *text = v->s;
    if (v->t == JTOK_INT) {
        snprintf(num, sizeof(num), "%lld", (long long)v->i);
        text = num;
    } else if (v->t != JTOK_STRING && v->t != JTOK_NUMBER) {
        text = NULL;
    }
    *out = text ? quantity_canonical(d->a, text) : NULL;
    if (*out) return 0;
    return bad_value(d, at,
                     "quantities must match the regular expression "
                     "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                     text);
}

static int decode_bytes(struct decoder *d, const struct value *v, struct bytes *out, const struct api_at *at) {
    uint8_t *p = arena_alloc(d->a, v->n / 4 * 3 + 4);
    size_t n;
    if (base64_decode(v->s, v->n, p, &n)) return bad_value(d, at, "illegal base64 data", NULL);
    *out = (struct bytes){p, n};
    return 0;
}

static int decode_raw(struct decoder *d, const struct value *v, struct raw_json *out) {
    if (!d->r) {
        if (d->keep_trees) {
            *out = (struct raw_json){.p = "", .tree = v->node};
            return 0;
        }
        const char *text = json_text(d->a, v->node);
        *out = (struct raw_json){.p = text, .n = strlen(text)};
        return 0;
    }
    const char *p = d->r->tok_start;
    size_t n = (size_t)(d->r->p - p);
    if ((v->t == JTOK_OBJ_BEGIN || v->t == JTOK_ARR_BEGIN) && !json_skip(d->r, &p, &n))
        return json_reader_err(d->r, d->e);
    *out = (struct raw_json){.p = arena_strndup(d->a, p, n), .n = n};
    return 0;
}

static int decode_int_or_string(struct decoder *d, const struct api_type *owner, const struct api_field *f,
                                const struct value *v, struct int_or_string *out, const struct api_at *at) {
    int64_t i;
    if (v->t == JTOK_STRING)
        *out = (struct int_or_string){.set = true, .is_str = true, .s = arena_strndup(d->a, v->s, v->n)};
    else if (integer(v, INT32_MIN, INT32_MAX, &i))
        *out = (struct int_or_string){.set = true, .i = (int32_t)i};
    else
        return wrong_type(d, owner, f, v, at, false);
    return 0;
}

/* By name, as proto3's JSON has it, or by number. */
static bool decode_enum(const struct api_field *f, const struct value *v, int32_t *out) {
    int64_t i;
    if (integer(v, INT32_MIN, INT32_MAX, &i)) {
        *out = (int32_t)i;
        return true;
    }
    if (v->t != JTOK_STRING || !f->enums) return false;
    for (int32_t n = 0; f->enums[n]; n++)
        if (strcmp(f->enums[n], v->s) == 0) {
            *out = n;
            return true;
        }
    return false;
}

static const char *keep(struct decoder *d, const struct value *v) {
    return d->r || d->keep_trees ? v->s : arena_strndup(d->a, v->s, v->n);
}

static int decode_textual(struct decoder *d, const struct api_field *f, const struct value *v, void *out,
                          const struct api_at *at) {
    int64_t ns;
    char text[KTIME_MAX];
    switch ((enum api_kind)f->kind) {
        case API_BYTES: return decode_bytes(d, v, out, at);
        case API_DURATION:
            if (duration_parse(v->s, &ns)) return bad_value(d, at, "time: invalid duration", v->s);
            *(const char **)out = arena_strdup(d->a, duration_format(ns, text));
            return 0;
        default:
            if (api_time_parse(f->kind, v->s, out)) return bad_value(d, at, "cannot parse as an RFC 3339 time", v->s);
            return 0;
    }
}

static int decode_one(struct decoder *d, const struct api_type *owner, const struct api_field *f, const struct value *v,
                      void *out, const struct api_at *at) {
    int64_t i;
    bool is_str = v->t == JTOK_STRING, proto3_str = owner->proto3 && is_str;
    switch ((enum api_kind)f->kind) {
        case API_MESSAGE: return decode_message(d, f->type, v, out, at);
        case API_RAW: return decode_raw(d, v, out);
        case API_FIELDS_V1:
            if (v->t != JTOK_OBJ_BEGIN) break;
            return decode_raw(d, v, out);
        case API_QUANTITY: return decode_quantity(d, v, out, at);
        case API_INT_OR_STRING: return decode_int_or_string(d, owner, f, v, out, at);
        case API_STRING:
            if (!is_str) break;
            *(const char **)out = keep(d, v);
            return 0;
        case API_BYTES:
        case API_DURATION:
        case API_TIME:
        case API_MICROTIME:
            if (!is_str) break;
            return decode_textual(d, f, v, out, at);
        case API_BOOL:
            if (v->t != JTOK_TRUE && v->t != JTOK_FALSE) break;
            *(bool *)out = v->t == JTOK_TRUE;
            return 0;
        case API_INT32:
            if (!integer(v, INT32_MIN, INT32_MAX, &i)) break;
            *(int32_t *)out = (int32_t)i;
            return 0;
        case API_UINT32:
            if (!integer(v, 0, UINT32_MAX, &i)) break;
            *(uint32_t *)out = (uint32_t)i;
            return 0;
        case API_INT64:
            if (!integer(v, INT64_MIN, INT64_MAX, out) && !(proto3_str && str_to_i64(v->s, out) == 0)) break;
            return 0;
        case API_UINT64:
            if ((is_str && !proto3_str) || !unsigned64(v, out)) break;
            return 0;
        case API_DOUBLE:
            if (v->t != JTOK_INT && v->t != JTOK_NUMBER) break;
            *(double *)out = v->t == JTOK_INT ? (double)v->i : strtod(v->s, NULL);
            return 0;
        case API_ENUM:
            if (!decode_enum(f, v, out)) break;
            return 0;
    }
    return wrong_type(d, owner, f, v, at, false);
}

/* ---- lists and maps ---- */

static int decode_list(struct decoder *d, const struct api_type *owner, const struct api_field *f,
                       const struct value *arr, struct any_vec *out, const struct api_at *at) {
    if (arr->t != JTOK_ARR_BEGIN) return wrong_type(d, owner, f, arr, at, true);
    size_t elem = api_elem_size(f);
    *out = (struct any_vec){d->drop_empty ? NULL : api_empty_items, 0};
    struct value v;
    uint32_t pos = 0;
    int r;
    while ((r = next_item(d, arr, &pos, &v)) > 0) {
        struct api_at here = {.up = at, .index = out->n};
        void *p = api_vec_push(d->a, out, elem);
        if (v.t == JTOK_NULL && f->kind != API_RAW) {
            if (f->kind == API_STRING) *(const char **)p = "";
            continue;
        }
        int bad = decode_one(d, owner, f, &v, p, &here);
        if (bad) return bad;
    }
    return r;
}

static int decode_map(struct decoder *d, const struct api_type *owner, const struct api_field *f,
                      const struct value *obj, struct any_vec *out, const struct api_at *at) {
    if (obj->t != JTOK_OBJ_BEGIN) return wrong_type(d, owner, f, obj, at, true);
    static const struct api_field strings = {.kind = API_STRING, .shape = API_LIST};
    size_t entry = api_entry_size(f), key_len;
    *out = (struct any_vec){d->drop_empty ? NULL : api_empty_items, 0};
    struct value v;
    const char *key;
    uint32_t pos = 0;
    int r;
    while ((r = next_member(d, obj, &pos, &key, &key_len, &v)) > 0) {
        struct api_at here = {.up = at, .key = key, .key_len = key_len};
        char *p = api_vec_push(d->a, out, entry);
        *(const char **)p = d->keep_trees ? key : arena_strndup(d->a, key, key_len);
        here.key = *(const char **)p;
        int bad = 0;
        if (v.t == JTOK_NULL) {
            if (f->kind == API_STRING && f->shape == API_MAP) *(const char **)(p + MAP_VALUE) = "";
            if (f->kind == API_QUANTITY) *(const char **)(p + MAP_VALUE) = "0";
        } else if (f->shape == API_MAP_LISTS) {
            bad = decode_list(d, owner, &strings, &v, (struct any_vec *)(p + MAP_VALUE), &here);
        } else {
            bad = decode_one(d, owner, f, &v, p + MAP_VALUE, &here);
        }
        if (bad) return bad;
    }
    if (r == 0) api_map_sort(d->a, out, entry);
    return r;
}

/* ---- structs ---- */

static int decode_field(struct decoder *d, const struct api_type *owner, const struct api_field *f,
                        const struct value *v, char *out, const struct api_at *at) {
    void *p = out + f->offset;
    if (v->t == JTOK_NULL) {
        if (api_is_pointer(f)) *(void **)p = NULL;
        if (f->shape >= API_LIST) *(struct any_vec *)p = (struct any_vec){0};
        return 0;
    }
    switch ((enum api_shape)f->shape) {
        case API_LIST: return decode_list(d, owner, f, v, p, at);
        case API_MAP:
        case API_MAP_LISTS: return decode_map(d, owner, f, v, p, at);
        case API_PTR:
            if (api_is_pointer(f)) p = *(void **)p = arena_zalloc(d->a, api_elem_size(f));
            break;
        case API_ONE: break;
    }
    return decode_one(d, owner, f, v, p, at);
}

/* A bare type's JSON is that of one member: the object, the list or the boolean. */
static int decode_bare(struct decoder *d, const struct api_type *t, const struct value *v, char *out,
                       const struct api_at *at) {
    bool is_bool = v->t == JTOK_TRUE || v->t == JTOK_FALSE;
    const struct api_field *hit = NULL;
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        if (f->kind == API_BOOL && (is_bool || v->t == JTOK_OBJ_BEGIN)) *(bool *)(out + f->offset) = v->t != JTOK_FALSE;
        if ((f->shape == API_PTR && v->t == JTOK_OBJ_BEGIN) || (f->shape == API_LIST && v->t == JTOK_ARR_BEGIN))
            hit = f;
    }
    if (hit) return decode_field(d, t, hit, v, out, at);
    if (is_bool && t->fields[0].kind == API_BOOL) return 0;
    return bad_value(d, at, "unexpected kind of JSON value", NULL);
}

static const struct api_field *find_field(const struct api_type *t, const char *key, size_t n, uint32_t *hint) {
    uint32_t i = *hint;
    for (uint32_t left = t->n_fields; left; left--, i++) {
        if (i >= t->n_fields) i = 0;
        const struct api_field *f = &t->fields[i];
        if (f->json_len == n && memcmp(f->json, key, n) == 0) {
            *hint = i + 1;
            return f;
        }
    }
    return NULL;
}

static int decode_message(struct decoder *d, const struct api_type *t, const struct value *obj, void *out,
                          const struct api_at *at) {
    if (t->bare) return decode_bare(d, t, obj, out, at);
    if (obj->t != JTOK_OBJ_BEGIN) {
        struct api_field self = {.kind = API_MESSAGE, .type = t};
        char tok[64];
        if (at) return wrong_type(d, t, &self, obj, at, true);
        return err_set(d->e, -EINVAL, "json: cannot unmarshal %s into Go value of type %s.%s", token_name(obj, tok),
                       t->version, t->name);
    }
    struct value v;
    const char *key;
    size_t n;
    uint32_t pos = 0, hint = 0;
    int r;
    while ((r = next_member(d, obj, &pos, &key, &n, &v)) > 0) {
        struct api_at here = {.up = at, .key = key, .key_len = n};
        const struct api_field *f = find_field(t, key, n, &hint);
        if (!f) note_unknown(d, &here);
        int bad = f ? decode_field(d, t, f, &v, out, &here) : skip(d, &v);
        if (bad) return bad;
    }
    return r;
}

/* ---- entry points ---- */

int api_from_json(struct arena *a, const struct api_type *t, const char *p, size_t n, void *out, struct err *e) {
    struct json_reader r;
    struct decoder d = {.a = a, .r = &r, .e = e};
    struct value v;
    json_reader_init(&r, a, p, n);
    r.keys_in_place = true;
    memset(out, 0, t->size);
    load_token(&d, json_next(&r), &v);
    if (v.t == JTOK_ERROR) return json_reader_err(&r, e);
    int bad = decode_message(&d, t, &v, out, NULL);
    if (bad) return bad;
    return json_next(&r) == JTOK_END ? 0 : json_reader_err(&r, e);
}

int api_from_tree(struct arena *a, const struct api_type *t, const struct json *tree, void *out, struct err *e) {
    struct decoder d = {.a = a, .e = e};
    struct value v;
    memset(out, 0, t->size);
    load_node(tree, &v);
    return decode_message(&d, t, &v, out, NULL);
}

int api_decode_tree_strict(struct arena *a, const struct api_type *t, const struct json *tree, void *out,
                           struct api_problems *unknown, struct err *e) {
    struct decoder d = {.a = a, .e = e, .keep_trees = true, .unknown = unknown};
    struct value v;
    memset(out, 0, t->size);
    load_node(tree, &v);
    return decode_message(&d, t, &v, out, NULL);
}

int api_decode_tree_stored(struct arena *a, const struct api_type *t, const struct json *tree, void *out,
                           struct err *e) {
    struct decoder d = {.a = a, .e = e, .keep_trees = true, .drop_empty = true};
    struct value v;
    memset(out, 0, t->size);
    load_node(tree, &v);
    return decode_message(&d, t, &v, out, NULL);
}
