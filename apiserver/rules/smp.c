/* Strategic merge patch: a merge patch that knows the types. Lists with a merge key are merged item by item,
 * and directives in the patch say what JSON cannot:
 *
 *   $patch: replace | delete | merge      in an object, or in an item of a keyed list
 *   $retainKeys: [...]                    only these members of the object stay (unions)
 *   $deleteFromPrimitiveList/F: [...]     values to drop from list F
 *   $setElementOrder/F: [...]             order of list F afterwards
 *
 * Upstream: apimachinery/pkg/util/strategicpatch/patch.go. */
#include "apiserver/rules/smp.h"

#include "apiserver/rules/kinds.h"

#define DELETE_LIST "$deleteFromPrimitiveList/"
#define ELEMENT_ORDER "$setElementOrder/"

/* Type of a value: a message, or the elements of a field. */
struct at {
    const struct api_type *type;
    const struct api_field *field;
};

static struct at member_at(struct at t, const char *key) {
    if (t.field && t.field->shape == API_MAP) /* an entry of a map: its value's type */
        return (struct at){t.field->kind == API_MESSAGE ? t.field->type : NULL, NULL};
    const struct api_field *f = t.type ? api_field_find(t.type, key) : NULL;
    if (!f) return (struct at){NULL, NULL};
    return (struct at){f->kind == API_MESSAGE ? f->type : NULL, f};
}

static int patch_object(struct arena *a, struct at t, struct json *doc, const struct json *patch, struct json **out,
                        struct err *e);

static int bad(struct err *e, const char *what) {
    return err_status(e, 400, "BadRequest", "invalid strategic merge patch: %s", what);
}

/* ---- lists ---- */

static size_t index_of(const struct json *list, const struct json *item, const char *key) {
    const struct json *want = key ? json_get(item, key) : item, *it;
    JSON_FOREACH(it, list) {
        const struct json *have = key && it->type == JSON_OBJECT ? json_get(it, key) : it;
        if (have && want && json_equal(have, want)) return it_i;
    }
    return SIZE_MAX;
}

static int merge_items(struct arena *a, struct at t, const char *key, struct json *list, const struct json *patch,
                       struct json **out, struct err *e) {
    const struct json *p;
    JSON_FOREACH(p, patch) {
        if (!json_is(p, JSON_OBJECT)) return bad(e, "an item of a list of objects is none");
        if (str_eq(json_get_str(p, "$patch"), "replace")) { /* the whole list is replaced by the other items */
            struct json *fresh = json_array(a);
            const struct json *q;
            JSON_FOREACH(q, patch)
                if (!json_get(q, "$patch")) json_append(a, fresh, json_clone(a, q));
            *out = fresh;
            return 0;
        }
    }
    JSON_FOREACH(p, patch) {
        const char *directive = json_get_str(p, "$patch");
        if (!json_get(p, key))
            return err_status(e, 500, "InternalError",
                              "map: an item of the patch does not contain declared merge key: %s", key);
        size_t i = index_of(list, p, key);
        if (str_eq(directive, "delete")) {
            for (; i != SIZE_MAX; i = index_of(list, p, key)) json_del_at(list, i);
            continue;
        }
        struct json *merged = NULL, *base = i == SIZE_MAX ? json_object(a) : json_item(list, i);
        int r = patch_object(a, (struct at){t.type, NULL}, base, p, &merged, e);
        if (r < 0) return r;
        if (i == SIZE_MAX)
            json_append(a, list, merged);
        else
            list->items[i] = merged;
    }
    *out = list;
    return 0;
}

static struct json *reorder(struct arena *a, struct json *list, const struct json *order, const struct json *server,
                            const char *key);

static struct json *merge_scalars(struct arena *a, struct json *list, const struct json *patch) {
    const struct json *p;
    JSON_FOREACH(p, patch)
        if (index_of(list, p, NULL) == SIZE_MAX) json_append(a, list, json_clone(a, p));
    return list;
}

/* Orders `list` by the patch's $setElementOrder; items it does not name keep their place relative to
 * `server`. */
static struct json *reorder(struct arena *a, struct json *list, const struct json *order, const struct json *server,
                            const char *key) {
    struct json *named = json_array(a), *rest = json_array(a), *out = json_array(a), *it;
    const struct json *o;
    JSON_FOREACH(o, order) {
        size_t i = index_of(list, o, key);
        if (i != SIZE_MAX) json_append(a, named, json_item(list, i));
    }
    JSON_FOREACH(it, list)
        if (index_of(order, it, key) == SIZE_MAX) json_append(a, rest, it);
    size_t i = 0, j = 0;
    while (i < json_len(rest) || j < json_len(named)) {
        bool left = j >= json_len(named);
        if (!left && i < json_len(rest)) {
            size_t li = index_of(server, json_item(rest, i), key), ri = index_of(server, json_item(named, j), key);
            left = li != SIZE_MAX && ri != SIZE_MAX && li < ri;
        }
        json_append(a, out, left ? json_item(rest, i++) : json_item(named, j++));
    }
    return out;
}

static int patch_list(struct arena *a, struct at t, const struct json *have, const struct json *patch,
                      struct json **out, struct err *e) {
    const struct json *first = json_item(patch, 0);
    bool merge = t.field && (t.field->flags & API_F_PATCH_MERGE) && t.field->shape == API_LIST;
    struct json *list = json_is(have, JSON_ARRAY) ? json_clone(a, have) : json_array(a);
    if (!merge) {
        *out = json_clone(a, patch);
        return 0;
    }
    if (t.field->patch_key && (!first || json_is(first, JSON_OBJECT))) {
        int r = merge_items(a, t, t.field->patch_key, list, patch, out, e);
        /* without an order of its own the patch's items are in the order of the patch */
        if (r == 0 && json_is(have, JSON_ARRAY)) *out = reorder(a, *out, patch, have, t.field->patch_key);
        return r;
    }
    *out = merge_scalars(a, list, patch);
    return 0;
}

/* ---- objects ---- */

static bool is_directive(const char *key) {
    return str_eq(key, "$patch") || str_eq(key, "$retainKeys") || str_has_prefix(key, DELETE_LIST) ||
           str_has_prefix(key, ELEMENT_ORDER);
}

static int retain_keys(struct json *doc, const struct json *keys, const struct json *patch, struct err *e) {
    if (!keys) return 0;
    if (!json_is(keys, JSON_ARRAY)) return bad(e, "$retainKeys is no list");
    const struct json *k;
    JSON_FOREACH_MEMBER(m, patch) {
        bool listed = is_directive(m->key) || m->value->type == JSON_NULL;
        JSON_FOREACH(k, keys) listed |= str_eq(json_as_str(k), m->key);
        if (!listed) return bad(e, "$retainKeys does not name all members of its object");
    }
    for (uint32_t i = 0; i < doc->n;) {
        bool keep = false;
        JSON_FOREACH(k, keys) keep |= str_eq(json_as_str(k), doc->members[i].key);
        if (keep)
            i++;
        else
            json_del(doc, doc->members[i].key);
    }
    return 0;
}

static int delete_scalars(struct json *doc, const struct json *patch, struct err *e) {
    JSON_FOREACH_MEMBER(m, patch) {
        if (!str_has_prefix(m->key, DELETE_LIST)) continue;
        if (!json_is(m->value, JSON_ARRAY)) return bad(e, DELETE_LIST " is no list");
        struct json *list = json_get(doc, m->key + strlen(DELETE_LIST));
        const struct json *v;
        JSON_FOREACH(v, m->value)
            for (size_t i = index_of(list, v, NULL); i != SIZE_MAX; i = index_of(list, v, NULL)) json_del_at(list, i);
    }
    return 0;
}

static int apply_orders(struct arena *a, struct at t, struct json *doc, const struct json *before,
                        const struct json *patch, struct err *e) {
    JSON_FOREACH_MEMBER(m, patch) {
        if (!str_has_prefix(m->key, ELEMENT_ORDER)) continue;
        const char *name = m->key + strlen(ELEMENT_ORDER);
        if (!json_is(m->value, JSON_ARRAY)) return bad(e, ELEMENT_ORDER " is no list");
        struct json *list = json_get(doc, name);
        if (!json_is(list, JSON_ARRAY)) continue;
        struct at lt = member_at(t, name);
        const char *key = lt.field && json_is(json_item(list, 0), JSON_OBJECT) ? lt.field->patch_key : NULL;
        json_set(a, doc, name, reorder(a, list, m->value, json_get(before, name), key));
    }
    return 0;
}

static int patch_member(struct arena *a, struct at t, struct json *doc, const char *key, const struct json *v,
                        struct err *e) {
    struct json *have = json_get(doc, key), *merged = NULL;
    int r;
    if (v->type == JSON_NULL) {
        json_del(doc, key);
        return 0;
    }
    if (v->type == JSON_OBJECT) {
        struct json *base = json_is(have, JSON_OBJECT) ? have : json_object(a);
        if ((r = patch_object(a, member_at(t, key), base, v, &merged, e)) < 0) return r;
    } else if (v->type == JSON_ARRAY) {
        if ((r = patch_list(a, member_at(t, key), have, v, &merged, e)) < 0) return r;
    } else {
        merged = json_clone(a, v);
    }
    json_set(a, doc, key, merged);
    return 0;
}

static int patch_object(struct arena *a, struct at t, struct json *doc, const struct json *patch, struct json **out,
                        struct err *e) {
    const char *directive = json_get_str(patch, "$patch");
    struct json *work = json_clone(a, doc);
    if (directive && !str_in(directive, ONE_OF("replace", "delete", "merge")))
        return bad(e, "unknown $patch directive");
    if (str_eq(directive, "replace") || str_eq(directive, "delete")) {
        work = json_object(a);
        if (str_eq(directive, "replace"))
            JSON_FOREACH_MEMBER(m, patch)
                if (!is_directive(m->key)) json_set(a, work, m->key, json_clone(a, m->value));
        *out = work;
        return 0;
    }
    int r = retain_keys(work, json_get(patch, "$retainKeys"), patch, e);
    if (r == 0) r = delete_scalars(work, patch, e);
    JSON_FOREACH_MEMBER(m, patch) {
        if (r < 0) return r;
        if (!is_directive(m->key)) r = patch_member(a, t, work, m->key, m->value, e);
    }
    if (r == 0) r = apply_orders(a, t, work, doc, patch, e);
    *out = work;
    return r;
}

int strategic_merge_patch(struct arena *a, const struct api_type *t, const struct json *doc, const struct json *patch,
                          struct json **out, struct err *e) {
    if (!json_is(patch, JSON_OBJECT)) return bad(e, "it is no object");
    return patch_object(a, (struct at){t, NULL}, (struct json *)doc, patch, out, e);
}
