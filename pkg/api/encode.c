/* Structs to JSON, as text or as a tree, in one walk over the descriptors: encoding/json's rules.
 *
 * The walk writes to a sink: begin and end of objects and arrays, keys, scalars. A sink has either a buffer or an
 * arena; with an arena it links tree nodes. What Go does and this follows: omitempty drops false, 0, "", absent
 * pointers and empty lists and maps, but never a struct value (`"status":{}`, `"strategy":{}`); omitzero drops a zero
 * struct too; without omitempty an absent list or pointer is null; keys of maps are sorted; an unset Time is null. */
#include "pkg/api/internal.h"
#include "pkg/base/bytes.h"

struct sink {
    struct buf *b; /* text */
    bool comma;
    struct arena *a; /* tree */
    bool share;      /* tree: strings may be shared with the struct */
    struct json *top, *root;
    const char *key;
    unsigned depth;
};

/* ---- the sink ---- */

static void add_node(struct sink *s, struct json *v) {
    struct json *top = s->top;
    if (!top) {
        s->root = v;
    } else if (top->type == JSON_OBJECT) {
        ARENA_GROW(s->a, top->members, top->n, top->cap);
        top->members[top->n++] = (struct json_member){s->key, v};
    } else {
        ARENA_GROW(s->a, top->items, top->n, top->cap);
        top->items[top->n++] = v;
    }
}

static void separate(struct sink *s) {
    if (s->comma) buf_addc(s->b, ',');
    s->comma = true;
}

/* A field's name: a constant without anything to escape. */
static void put_name(struct sink *s, const struct api_field *f) {
    if (!s->b) {
        s->key = f->json;
        return;
    }
    separate(s);
    buf_addc(s->b, '"');
    buf_add(s->b, f->json, f->json_len);
    buf_add(s->b, "\":", 2);
    s->comma = false;
}

static void put_key(struct sink *s, const char *key) {
    if (!s->b) {
        s->key = s->share ? key : arena_strdup(s->a, key);
        return;
    }
    separate(s);
    json_write_str(s->b, key, strlen(key));
    buf_addc(s->b, ':');
    s->comma = false;
}

static struct json *begin(struct sink *s, enum json_type t) {
    struct json *up = s->top;
    if (s->b) {
        separate(s);
        buf_addc(s->b, t == JSON_OBJECT ? '{' : '[');
        s->comma = false;
        return NULL;
    }
    struct json *v = t == JSON_OBJECT ? json_object(s->a) : json_array(s->a);
    add_node(s, v);
    s->top = v;
    return up;
}

static void end(struct sink *s, enum json_type t, struct json *up) {
    if (s->b) {
        buf_addc(s->b, t == JSON_OBJECT ? '}' : ']');
        s->comma = true;
    } else {
        s->top = up;
    }
}

static void put_str(struct sink *s, const char *str) {
    str = str_or_empty(str);
    if (s->b) {
        separate(s);
        json_write_str(s->b, str, strlen(str));
    } else if (s->share) {
        struct json *v = json_object(s->a);
        v->type = JSON_STRING;
        v->str = str;
        v->n = (uint32_t)strlen(str);
        add_node(s, v);
    } else {
        add_node(s, json_str(s->a, str));
    }
}

/* true, false, null, numbers */
static void put_bare(struct sink *s, struct json *(*make)(struct arena *, const char *), const char *text) {
    if (s->b) {
        separate(s);
        buf_adds(s->b, text);
    } else {
        add_node(s, make(s->a, text));
    }
}

static struct json *make_null(struct arena *a, const char *text) { return json_null(a); }
static struct json *make_bool(struct arena *a, const char *text) { return json_bool(a, *text == 't'); }
static void put_null(struct sink *s) { put_bare(s, make_null, "null"); }

static void put_int(struct sink *s, int64_t i) {
    if (!s->b) {
        add_node(s, json_int(s->a, i));
        return;
    }
    separate(s);
    json_write_int(s->b, i);
}

static void put_double(struct sink *s, double d) {
    char text[JSON_DOUBLE_MAX];
    put_bare(s, json_num, json_double_text(d, text));
}

static void put_bytes(struct sink *s, struct bytes v) {
    _cleanup_free_ char *text = xmalloc(base64_encoded_len(v.n) + 1);
    base64_encode(v.p, v.n, text);
    if (s->b) {
        separate(s);
        buf_addc(s->b, '"');
        buf_adds(s->b, text);
        buf_addc(s->b, '"');
    } else {
        add_node(s, json_str(s->a, text));
    }
}

static void put_raw(struct sink *s, const struct raw_json *v) {
    struct json *tree = NULL;
    if (!v->p) {
        put_null(s);
    } else if (!s->b) {
        if (v->tree)
            tree = s->share ? (struct json *)v->tree : json_clone(s->a, v->tree);
        else if (json_parse(s->a, v->p, v->n, &tree, NULL, NULL))
            tree = json_null(s->a);
        add_node(s, tree);
    } else {
        separate(s);
        if (v->tree)
            json_write(s->b, v->tree);
        else
            buf_add(s->b, v->p, v->n);
    }
}

static void put_time(struct sink *s, enum api_kind k, const struct ktime *t) {
    char text[KTIME_MAX];
    if (!t->set) {
        put_null(s);
        return;
    }
    const char *out = k == API_TIME ? ktime_format(*t, text) : ktime_format_micro(*t, text);
    put_str(s, s->share ? arena_strdup(s->a, out) : out);
}

/* 64-bit numbers are strings in proto3's JSON. */
static void put_int64(struct sink *s, const struct api_type *owner, int64_t i, bool is_unsigned) {
    char text[24];
    if (!owner->proto3 && (!is_unsigned || i >= 0)) {
        put_int(s, i);
        return;
    }
    snprintf(text, sizeof(text), is_unsigned ? "%llu" : "%lld", (unsigned long long)i);
    if (owner->proto3)
        put_str(s, s->share ? arena_strdup(s->a, text) : text);
    else
        put_bare(s, json_num, text);
}

/* ---- the walk ---- */

static void put_message(struct sink *s, const struct api_type *t, const char *obj);

static void put_enum(struct sink *s, const struct api_field *f, int32_t n) {
    int32_t known = 0;
    while (f->enums && f->enums[known]) known++;
    if (n >= 0 && n < known)
        put_str(s, f->enums[n]);
    else
        put_int(s, n);
}

static void put_one(struct sink *s, const struct api_type *owner, const struct api_field *f, const void *p) {
    const struct int_or_string *ios = p;
    const char *str;
    switch ((enum api_kind)f->kind) {
        case API_STRING: put_str(s, *(const char *const *)p); break;
        case API_QUANTITY:
        case API_DURATION:
            str = *(const char *const *)p;
            put_str(s, str_empty(str) ? (f->kind == API_QUANTITY ? "0" : "0s") : str);
            break;
        case API_BOOL: put_bare(s, make_bool, *(const bool *)p ? "true" : "false"); break;
        case API_INT32: put_int(s, *(const int32_t *)p); break;
        case API_UINT32: put_int(s, *(const uint32_t *)p); break;
        case API_INT64: put_int64(s, owner, *(const int64_t *)p, false); break;
        case API_UINT64: put_int64(s, owner, *(const int64_t *)p, true); break;
        case API_DOUBLE: put_double(s, *(const double *)p); break;
        case API_BYTES: put_bytes(s, *(const struct bytes *)p); break;
        case API_TIME:
        case API_MICROTIME: put_time(s, f->kind, p); break;
        case API_INT_OR_STRING:
            if (ios->is_str)
                put_str(s, ios->s);
            else
                put_int(s, ios->i);
            break;
        case API_RAW:
        case API_FIELDS_V1: put_raw(s, p); break;
        case API_MESSAGE: put_message(s, f->type, p); break;
        case API_ENUM: put_enum(s, f, *(const int32_t *)p); break;
    }
}

static void put_list(struct sink *s, const struct api_type *owner, const struct api_field *f, const struct any_vec *v) {
    size_t elem = api_elem_size(f);
    struct json *up = begin(s, JSON_ARRAY);
    for (size_t i = 0; i < v->n; i++) put_one(s, owner, f, (const char *)v->items + i * elem);
    end(s, JSON_ARRAY, up);
}

static void put_map_value(struct sink *s, const struct api_type *owner, const struct api_field *f, const void *p) {
    static const struct api_field strings = {.kind = API_STRING, .shape = API_LIST};
    const struct any_vec *v = p;
    if (f->shape == API_MAP)
        put_one(s, owner, f, p);
    else if (!v->items)
        put_null(s);
    else
        put_list(s, owner, &strings, v);
}

/* Maps that a program filled by hand may be out of order. */
static void put_map(struct sink *s, const struct api_type *owner, const struct api_field *f, const struct any_vec *m) {
    size_t entry = api_entry_size(f);
    const char *items = m->items;
    struct any_vec copy = *m;
    for (size_t i = 1; i < m->n; i++) {
        if (strcmp(*(char *const *)(items + (i - 1) * entry), *(char *const *)(items + i * entry)) < 0) continue;
        struct arena *scratch = arena_new();
        copy.items = arena_memdup(scratch, items, m->n * entry);
        api_map_sort(scratch, &copy, entry);
        put_map(s, owner, f, &copy);
        arena_free(scratch);
        return;
    }
    struct json *up = begin(s, JSON_OBJECT);
    for (size_t i = 0; i < m->n; i++) {
        put_key(s, *(char *const *)(items + i * entry));
        put_map_value(s, owner, f, items + i * entry + MAP_VALUE);
    }
    end(s, JSON_OBJECT, up);
}

static bool all_zero(const void *p, size_t n) {
    const char *c = p;
    for (size_t i = 0; i < n; i++)
        if (c[i]) return false;
    return true;
}

/* Absent: a pointer, list or map that is nil. */
bool api_is_nil(const struct api_field *f, const void *p) {
    if (f->shape == API_ONE && f->kind != API_BYTES) return false;
    if (f->shape >= API_LIST) return !((const struct any_vec *)p)->items;
    switch ((enum api_kind)f->kind) {
        case API_BYTES: return !((const struct bytes *)p)->p;
        case API_TIME:
        case API_MICROTIME: return !((const struct ktime *)p)->set;
        case API_INT_OR_STRING: return !((const struct int_or_string *)p)->set;
        case API_RAW:
        case API_FIELDS_V1: return !((const struct raw_json *)p)->p;
        default: return !*(void *const *)p;
    }
}

/* What omitempty leaves out. */
static bool is_empty(const struct api_field *f, const void *p) {
    if (f->shape >= API_LIST) return ((const struct any_vec *)p)->n == 0;
    if (f->shape == API_PTR) return api_is_nil(f, p);
    switch ((enum api_kind)f->kind) {
        case API_STRING: return str_empty(*(const char *const *)p);
        case API_BYTES: return ((const struct bytes *)p)->n == 0;
        case API_BOOL:
        case API_INT32:
        case API_INT64:
        case API_UINT32:
        case API_UINT64:
        case API_DOUBLE:
        case API_ENUM: return all_zero(p, api_elem_size(f));
        default: return false;
    }
}

static bool omitted(const struct api_type *t, const struct api_field *f, const void *p) {
    if (t->proto3) return f->flags & API_F_ONEOF ? api_is_nil(f, p) : is_empty(f, p);
    if (f->flags & API_F_OMITZERO)
        return f->kind == API_TIME ? !((const struct ktime *)p)->set : all_zero(p, api_elem_size(f));
    return (f->flags & API_F_OMITEMPTY) && is_empty(f, p);
}

static void put_field(struct sink *s, const struct api_type *t, const struct api_field *f, const char *p) {
    if (api_is_nil(f, p)) {
        put_null(s);
        return;
    }
    switch ((enum api_shape)f->shape) {
        case API_ONE: put_one(s, t, f, p); break;
        case API_PTR: put_one(s, t, f, api_is_pointer(f) ? *(const void *const *)p : p); break;
        case API_LIST: put_list(s, t, f, (const void *)p); break;
        case API_MAP:
        case API_MAP_LISTS: put_map(s, t, f, (const void *)p); break;
    }
}

/* The member that is set; a boolean when none other is. */
static void put_bare_type(struct sink *s, const struct api_type *t, const char *obj) {
    const struct api_field *boolean = NULL;
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        if (f->kind == API_BOOL)
            boolean = f;
        else if (!api_is_nil(f, obj + f->offset)) {
            put_field(s, t, f, obj + f->offset);
            return;
        }
    }
    if (boolean)
        put_one(s, t, boolean, obj + boolean->offset);
    else
        put_null(s);
}

static void put_message(struct sink *s, const struct api_type *t, const char *obj) {
    if (s->depth >= JSON_MAX_DEPTH) { /* no decoder lets this in */
        put_null(s);
        return;
    }
    if (t->bare) {
        put_bare_type(s, t, obj);
        return;
    }
    s->depth++;
    struct json *up = begin(s, JSON_OBJECT);
    for (uint32_t i = 0; i < t->n_fields; i++) {
        const struct api_field *f = &t->fields[i];
        const char *p = obj + f->offset;
        if (omitted(t, f, p)) continue;
        put_name(s, f);
        put_field(s, t, f, p);
    }
    end(s, JSON_OBJECT, up);
    s->depth--;
}

/* ---- entry points ---- */

void api_to_json(struct buf *b, const struct api_type *t, const void *obj) {
    struct sink s = {.b = b};
    put_message(&s, t, obj);
}

struct json *api_to_tree(struct arena *a, const struct api_type *t, const void *obj) {
    struct sink s = {.a = a};
    put_message(&s, t, obj);
    return s.root;
}

struct json *api_encode_tree_shared(struct arena *a, const struct api_type *t, const void *obj) {
    struct sink s = {.a = a, .share = true};
    put_message(&s, t, obj);
    return s.root;
}

bool api_equal(const struct api_type *t, const void *x, const void *y) {
    _cleanup_buf_ struct buf a = BUF_INIT, b = BUF_INIT;
    api_to_json(&a, t, x);
    api_to_json(&b, t, y);
    return a.len == b.len && memcmp(a.data, b.data, a.len) == 0;
}
