/* Sets of field paths, their text form, and making them from values. Upstream: structured-merge-diff's
 * fieldpath and typed packages; the rules of what counts as a member are theirs, since the sets are part of
 * the API. */
#include "apiserver/rules/fset.h"

struct fset *fset_new(struct arena *a) {
    return arena_zalloc(a, sizeof(struct fset));
}

bool fset_empty(const struct fset *s) {
    if (!s) return true;
    if (s->member) return false;
    for (uint32_t i = 0; i < s->n; i++)
        if (!fset_empty(s->items[i].sub)) return false;
    return true;
}

struct fset *fset_get(const struct fset *s, const char *elem) {
    for (uint32_t i = 0; s && i < s->n; i++) {
        const char *e = s->items[i].elem;
        if (e == elem || (strncmp(e, elem, 3) == 0 && strcmp(e, elem) == 0)) return s->items[i].sub;
    }
    return NULL;
}

static void attach(struct arena *a, struct fset *s, const char *elem, struct fset *sub) {
    ARENA_GROW(a, s->items, s->n, s->cap);
    s->items[s->n++] = (struct fset_entry){elem, sub};
}

struct fset *fset_child(struct arena *a, struct fset *s, const char *elem) {
    struct fset *c = fset_get(s, elem);
    if (!c) attach(a, s, elem, c = fset_new(a));
    return c;
}

static void add_all(struct arena *a, struct fset *into, const struct fset *from) {
    if (!from) return;
    into->member |= from->member;
    for (uint32_t i = 0; i < from->n; i++) add_all(a, fset_child(a, into, from->items[i].elem), from->items[i].sub);
}

struct fset *fset_union(struct arena *a, const struct fset *x, const struct fset *y) {
    if (x && fset_empty(y)) return (struct fset *)x;
    if (y && fset_empty(x)) return (struct fset *)y;
    struct fset *out = fset_new(a);
    add_all(a, out, x);
    add_all(a, out, y);
    return out;
}

struct fset *fset_difference(struct arena *a, const struct fset *x, const struct fset *y) {
    struct fset *out = fset_new(a);
    if (!x) return out;
    out->member = x->member && !(y && y->member);
    for (uint32_t i = 0; i < x->n; i++) {
        struct fset *sub = fset_difference(a, x->items[i].sub, fset_get(y, x->items[i].elem));
        if (!fset_empty(sub)) attach(a, out, x->items[i].elem, sub);
    }
    return out;
}

struct fset *fset_intersection(struct arena *a, const struct fset *x, const struct fset *y) {
    struct fset *out = fset_new(a);
    if (!x || !y) return out;
    out->member = x->member && y->member;
    for (uint32_t i = 0; i < x->n; i++) {
        struct fset *sub = fset_intersection(a, x->items[i].sub, fset_get(y, x->items[i].elem));
        if (!fset_empty(sub)) attach(a, out, x->items[i].elem, sub);
    }
    return out;
}

static bool contains(const struct fset *x, const struct fset *y) {
    if (fset_empty(y)) return true;
    if (!x || (y->member && !x->member)) return false;
    for (uint32_t i = 0; i < y->n; i++)
        if (!contains(fset_get(x, y->items[i].elem), y->items[i].sub)) return false;
    return true;
}

bool fset_equal(const struct fset *x, const struct fset *y) { return contains(x, y) && contains(y, x); }

/* ---- text form ---- */

static void read_node(struct arena *a, struct fset *s, const struct json *v, unsigned depth) {
    if (depth > JSON_MAX_DEPTH) return;
    if (!json_len(v)) {
        s->member = true;
        return;
    }
    JSON_FOREACH_MEMBER(m, v) {
        if (str_eq(m->key, "."))
            s->member = true;
        else
            read_node(a, fset_child(a, s, arena_strdup(a, m->key)), m->value, depth + 1);
    }
}

struct fset *fset_from_json(struct arena *a, const struct json *v) {
    struct fset *s = fset_new(a);
    if (json_len(v)) read_node(a, s, v, 0);
    s->member = false;
    return s;
}

static int by_elem(const void *x, const void *y) {
    return strcmp(((const struct fset_entry *)x)->elem, ((const struct fset_entry *)y)->elem);
}

static struct json *write_node(struct arena *a, const struct fset *s, bool root) {
    struct json *o = json_object(a);
    if (s->n > 1) qsort(s->items, s->n, sizeof *s->items, by_elem);
    bool children = false;
    for (uint32_t i = 0; i < s->n; i++) children |= !fset_empty(s->items[i].sub);
    if (children && s->member && !root) json_set(a, o, ".", json_object(a));
    for (uint32_t i = 0; i < s->n; i++)
        if (!fset_empty(s->items[i].sub)) json_set(a, o, s->items[i].elem, write_node(a, s->items[i].sub, false));
    return o;
}

struct json *fset_to_json(struct arena *a, const struct fset *s) {
    return write_node(a, s, true);
}

/* ---- path elements ---- */

const char *fset_field_elem(struct arena *a, const char *name) {
    size_t n = strlen(name);
    char *elem = arena_alloc(a, n + 3);
    memcpy(elem, "f:", 2);
    memcpy(elem + 2, name, n + 1);
    return elem;
}

const char *fset_item_elem(struct arena *a, struct schema list, const struct json *item) {
    const char *keys[SCHEMA_KEYS_MAX];
    if (schema_kind(list, NULL) == SCHEMA_LIST_SET) return arena_printf(a, "v:%s", json_text(a, item));
    size_t n = schema_keys(list, keys);
    struct json *k = json_object(a);
    for (size_t i = 0; i < n; i++) {
        const struct json *v = json_get(item, keys[i]);
        if (!v || v->type == JSON_NULL) v = schema_key_default(a, schema_item(list), keys[i]);
        if (v) json_set(a, k, keys[i], (struct json *)v);
    }
    return json_len(k) ? arena_printf(a, "k:%s", json_text(a, k)) : NULL;
}

/* ---- from values ---- */

static void of_value(struct arena *a, struct schema s, const struct json *v, struct fset *out);

static void of_object(struct arena *a, struct schema s, const struct json *v, struct fset *out) {
    JSON_FOREACH_MEMBER(m, v) {
        bool named;
        struct schema ms = schema_member(s, m->key, &named);
        struct fset *sub = fset_child(a, out, fset_field_elem(a, m->key));
        of_value(a, ms, m->value, sub);
        bool empty = m->value->type == JSON_NULL || (m->value->type == JSON_OBJECT && !m->value->n);
        if (empty || !named) sub->member = true;
    }
}

static void of_value(struct arena *a, struct schema s, const struct json *v, struct fset *out) {
    enum schema_kind kind = schema_kind(s, v);
    if (kind == SCHEMA_DEDUCED) kind = json_is(v, JSON_OBJECT) ? SCHEMA_MAP : SCHEMA_LEAF;
    const struct json *it;
    switch (kind) {
        case SCHEMA_STRUCT:
        case SCHEMA_MAP: of_object(a, s, v, out); return;
        case SCHEMA_LIST_MAP:
        case SCHEMA_LIST_SET:
            JSON_FOREACH(it, v) {
                const char *elem = fset_item_elem(a, s, it);
                if (!elem) continue;
                struct fset *sub = fset_child(a, out, elem);
                if (kind == SCHEMA_LIST_MAP) of_value(a, schema_item(s), it, sub);
                sub->member = true;
            }
            return;
        case SCHEMA_LEAF:
        case SCHEMA_DEDUCED: out->member = true;
    }
}

struct fset *fset_of_value(struct arena *a, struct schema s, const struct json *v) {
    struct fset *out = fset_new(a);
    of_value(a, s, v, out);
    return out;
}

/* ---- comparing ---- three parallel sets are filled while walking both values. Where one value is absent only one of
 * the sets can get anything; the others are NULL from there on. */

struct walk {
    struct fset *added, *modified, *removed;
    unsigned depth;
};
enum {
    EQUAL_DEPTH = 8
}; /* down to here values are first compared as a whole: in a deep tree that would be quadratic */

static void compare(struct arena *a, struct schema s, const struct json *x, const struct json *y, struct walk w);

static void leaf(const struct json *x, const struct json *y, struct walk w) {
    struct fset *to = !x ? w.added : !y ? w.removed : json_equal(x, y) ? NULL : w.modified;
    if (to) to->member = true;
}

static struct fset *child_of(struct arena *a, struct fset *s, const char *elem) {
    return s ? fset_child(a, s, elem) : NULL;
}

/* Compares what lies at `elem` of both; equal values (most, in an update) leave no trace. */
static void below(struct arena *a, struct schema s, const struct json *x, const struct json *y, struct walk w,
                  const char *elem) {
    if (x && y && w.depth < EQUAL_DEPTH && json_equal(x, y)) return;
    struct walk sub = {.depth = w.depth + 1};
    if (y) sub.added = child_of(a, w.added, elem);
    if (x && y) sub.modified = child_of(a, w.modified, elem);
    if (x) sub.removed = child_of(a, w.removed, elem);
    compare(a, s, x, y, sub);
}

static void compare_objects(struct arena *a, struct schema s, const struct json *x, const struct json *y,
                            struct walk w) {
    JSON_FOREACH_MEMBER(m, x)
        below(a, schema_member(s, m->key, NULL), m->value, json_get(y, m->key), w, fset_field_elem(a, m->key));
    JSON_FOREACH_MEMBER(m, y)
        if (!json_get(x, m->key))
            below(a, schema_member(s, m->key, NULL), NULL, m->value, w, fset_field_elem(a, m->key));
}

static const struct json *item_by_elem(struct arena *a, struct schema s, const struct json *list, const char *elem) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(fset_item_elem(a, s, it), elem)) return it;
    return NULL;
}

static void compare_lists(struct arena *a, struct schema s, const struct json *x, const struct json *y, struct walk w,
                          bool keyed) {
    const struct json *it;
    const char *elem;
    struct schema is = keyed ? schema_item(s) : (struct schema){.deduced = true};
    JSON_FOREACH(it, x)
        if ((elem = fset_item_elem(a, s, it))) below(a, is, it, item_by_elem(a, s, y, elem), w, elem);
    JSON_FOREACH(it, y)
        if ((elem = fset_item_elem(a, s, it)) && !item_by_elem(a, s, x, elem)) below(a, is, NULL, it, w, elem);
}

static void compare(struct arena *a, struct schema s, const struct json *x, const struct json *y, struct walk w) {
    enum schema_kind kind = schema_kind(s, x ? x : y);
    if (kind == SCHEMA_DEDUCED) {
        bool map = (!x || x->type == JSON_OBJECT) && (!y || y->type == JSON_OBJECT);
        kind = map ? SCHEMA_MAP : SCHEMA_LEAF;
    }
    if (kind == SCHEMA_LEAF || (!json_len(x) && !json_len(y))) {
        leaf(x, y, w);
        return;
    }
    if (kind == SCHEMA_STRUCT || kind == SCHEMA_MAP)
        compare_objects(a, s, x, y, w);
    else
        compare_lists(a, s, x, y, w, kind == SCHEMA_LIST_MAP);
    if (!x && w.added) w.added->member = true;
    if (!y && w.removed) w.removed->member = true;
}

struct fset_diff fset_compare(struct arena *a, struct schema s, const struct json *x, const struct json *y) {
    struct walk w = {fset_new(a), fset_new(a), fset_new(a), 0};
    compare(a, s, x, y, w);
    w.added->member = w.modified->member = w.removed->member = false;
    return (struct fset_diff){w.added, w.modified, w.removed};
}
