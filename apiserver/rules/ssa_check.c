/* What an applied configuration must be for its fields to be told apart: every item of a keyed list says its keys (or they
 * have defaults), no two items of a keyed list or a set are the same, the type has all its fields, and every value is of
 * its field's type; null is of any. Upstream: structured-merge-diff's typed/validate.go
 * and typed/helpers.go; the API answers 500 to what fails here, as upstream does. */
#include "apiserver/rules/fset.h"
#include "apiserver/rules/kinds.h"
#include "pkg/base/map.h"

enum { PROBLEMS_MAX = 64 }; /* that an answer tells */

struct check {
    struct rules_ctx *c;
    const char *problems[PROBLEMS_MAX];
    size_t n;
};

struct place { /* .spec.containers[name="c"].ports */
    const struct place *up;
    const char *text;
};

static void place_text(const struct place *p, struct buf *b) {
    if (!p) return;
    place_text(p->up, b);
    buf_adds(b, p->text);
}

static void refuse(struct check *k, const struct place *at, const char *why) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    place_text(at, &b);
    if (k->n < PROBLEMS_MAX) k->problems[k->n++] = arena_printf(k->c->a, "%s: %s", str_or_empty(b.data), why);
}

static void check_value(struct check *k, struct schema s, const struct json *v, const struct place *at);

/* "[name=\"c\"]" of an item's element, as field paths are written. */
static const char *item_text(struct arena *a, const char *elem) {
    struct json *keys = NULL;
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (elem[0] != 'k' || json_parse(a, elem + 2, strlen(elem + 2), &keys, NULL, NULL))
        return arena_printf(a, "[=%s]", elem + 2);
    JSON_FOREACH_MEMBER(m, keys) buf_printf(&b, "%s%s=%s", b.len ? "," : "", m->key, json_text(a, m->value));
    return arena_printf(a, "[%s]", str_or_empty(b.data));
}

/* The first key that the item has neither said nor by default. */
static const char *missing_key(struct arena *a, struct schema list, const struct json *item) {
    const char *keys[SCHEMA_KEYS_MAX];
    size_t n = schema_keys(list, keys);
    for (size_t i = 0; i < n; i++) {
        const struct json *v = json_get(item, keys[i]);
        if ((!v || v->type == JSON_NULL) && !schema_key_default(a, schema_item(list), keys[i])) return keys[i];
    }
    return NULL;
}

static void check_items(struct check *k, struct schema s, const struct json *list, const struct place *at) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        struct place here = {at, arena_printf(k->c->a, "[%zu]", (size_t)it_i)};
        check_value(k, schema_item(s), it, &here);
    }
}

/* What tells the item apart from the others of its list; NULL when that cannot be told, which is said. */
static const char *item_elem(struct check *k, struct schema s, const struct json *it, size_t i, bool keyed,
                             const struct place *at) {
    struct arena *a = k->c->a;
    if (keyed && !json_is(it, JSON_OBJECT)) {
        refuse(k, at, "associative list with keys may not have null or non-map elements");
        return NULL;
    }
    const char *key = keyed ? missing_key(a, s, it) : NULL;
    if (!key) return fset_item_elem(a, s, it);
    refuse(k, at,
           arena_printf(a,
                        "element %zu: associative list with keys has an element that omits key field \"%s\" (and "
                        "doesn't have default value)",
                        i, key));
    return NULL;
}

static void check_list(struct check *k, struct schema s, const struct json *list, bool keyed, const struct place *at) {
    struct arena *a = k->c->a;
    _cleanup_map_ struct map seen = MAP_INIT;
    const struct json *it;
    JSON_FOREACH(it, list) {
        const char *elem = item_elem(k, s, it, (size_t)it_i, keyed, at);
        if (!elem) continue;
        if (map_put(&seen, elem, (void *)it))
            refuse(k, at, arena_printf(a, "duplicate entries for key %s", item_text(a, elem)));
        struct place here = {at, item_text(a, elem)};
        check_value(k, schema_item(s), it, &here);
    }
}

static void check_members(struct check *k, struct schema s, bool all_declared, const struct json *v,
                          const struct place *at) {
    JSON_FOREACH_MEMBER(m, v) {
        bool declared;
        struct place here = {at, arena_printf(k->c->a, ".%s", m->key)};
        struct schema member = schema_member(s, m->key, &declared);
        if (!declared && all_declared)
            refuse(k, &here, "field not declared in schema");
        else
            check_value(k, member, m->value, &here);
    }
}

static void check_value(struct check *k, struct schema s, const struct json *v, const struct place *at) {
    enum schema_kind kind = schema_kind(s, v);
    enum schema_shape shape = schema_shape(s);
    static const char *const wanted[] = {
        [SHAPE_STRING] = "expected string", [SHAPE_NUMBER] = "expected numeric (int or float)",
        [SHAPE_BOOL] = "expected boolean",  [SHAPE_SCALAR] = "expected any scalar",
        [SHAPE_LIST] = "expected list",     [SHAPE_MAP] = "expected map",
        [SHAPE_STRUCT] = "expected map"};
    bool number = json_is(v, JSON_INT) || json_is(v, JSON_NUMBER), list = json_is(v, JSON_ARRAY),
         object = json_is(v, JSON_OBJECT);
    const bool fits[] = {[SHAPE_ANY] = true,
                         [SHAPE_STRING] = json_is(v, JSON_STRING),
                         [SHAPE_NUMBER] = number,
                         [SHAPE_BOOL] = json_is(v, JSON_BOOL),
                         [SHAPE_SCALAR] = !list && !object,
                         [SHAPE_LIST] = list,
                         [SHAPE_MAP] = object,
                         [SHAPE_STRUCT] = object};
    if (v->type == JSON_NULL) return;
    if (!fits[shape])
        refuse(k, at, wanted[shape]);
    else if (list && (kind == SCHEMA_LIST_MAP || kind == SCHEMA_LIST_SET))
        check_list(k, s, v, kind == SCHEMA_LIST_MAP, at);
    else if (list && shape == SHAPE_LIST)
        check_items(k, s, v, at);
    else if (object && (shape == SHAPE_MAP || shape == SHAPE_STRUCT))
        check_members(k, s, shape == SHAPE_STRUCT && !k->c->crd_preserve_unknown, v, at);
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

int ssa_check(struct rules_ctx *c, struct schema root, const struct json *config, struct err *e) {
    struct check k = {.c = c};
    check_value(&k, root, config, NULL);
    if (!k.n) return 0;
    _cleanup_buf_ struct buf b = BUF_INIT;
    qsort(k.problems, k.n, sizeof(*k.problems), by_text);
    if (k.n > 1) buf_adds(&b, "errors:");
    for (size_t i = 0; i < k.n; i++) buf_printf(&b, "%s%s", k.n > 1 ? "\n  " : "", k.problems[i]);
    return err_status(e, 500, "", "failed to create typed patch object (%s/%s; %s%s%s, Kind=%s): %s",
                      str_or_empty(c->ns), str_or_empty(c->name), c->group, *c->group ? "/" : "", c->version, c->kind,
                      b.data);
}
