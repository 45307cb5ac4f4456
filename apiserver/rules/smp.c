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

/* ---- errors ---- */

static int bad_format(struct err *e, const char *what) {
    return err_status(e, 400, "BadRequest", "invalid patch format of %s", what);
}

/* What upstream has no better answer for. */
static int fails(struct err *e, const char *why, const char *what) {
    return err_status(e, 500, "", "%s: %s", why, what);
}

static int no_merge_key(struct err *e, const char *key) {
    return fails(e, "an item of the patch does not contain declared merge key", key);
}

/* ---- what the patch brings that was not there ---- */

static bool is_map(const struct json *v) { return json_is(v, JSON_OBJECT); }
static bool is_list(const struct json *v) { return json_is(v, JSON_ARRAY); }

/* A value without its nulls, and without the objects that are directives; NULL: it is one itself. */
static struct json *plain(struct arena *a, const struct json *v) {
    if (is_list(v)) {
        struct json *out = json_array(a), *kept;
        const struct json *it;
        JSON_FOREACH(it, v)
            if ((kept = plain(a, it))) json_append(a, out, kept);
        return out;
    }
    if (!is_map(v)) return json_clone(a, v);
    if (json_get(v, "$patch")) return NULL;
    struct json *out = json_object(a), *kept;
    JSON_FOREACH_MEMBER(m, v)
        if (m->value->type != JSON_NULL && (kept = plain(a, m->value))) json_set(a, out, m->key, kept);
    return out;
}

static int merge_map(struct arena *a, struct at t, struct json *doc, const struct json *patch, struct json **out,
                     struct err *e);

/* ---- lists ---- */

static size_t index_of(const struct json *list, const struct json *item, const char *key) {
    const struct json *want = key ? json_get(item, key) : item, *it;
    JSON_FOREACH(it, list) {
        const struct json *have = key && it->type == JSON_OBJECT ? json_get(it, key) : it;
        if (have && want && json_equal(have, want)) return it_i;
    }
    return SIZE_MAX;
}

/* Orders `list`: what `order` names stands as there, the others keep their place relative to `server`. */
static int reorder(struct arena *a, struct json *list, const struct json *order, const struct json *server,
                   const char *key, struct json **ordered, struct err *e) {
    struct json *named = json_array(a), *rest = json_array(a), *out = json_array(a), *it;
    const struct json *o;
    JSON_FOREACH(it, list)
        if (key && !json_get(it, key)) return no_merge_key(e, key);
    JSON_FOREACH(o, order) {
        size_t i = index_of(list, o, key);
        if (i != SIZE_MAX && index_of(named, o, key) == SIZE_MAX) json_append(a, named, json_item(list, i));
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
    *ordered = out;
    return 0;
}

/* All elements of both lists are of one kind, which is no list: 0, or an error. *maps says which. */
static int element_kind(const struct json *x, const struct json *y, bool *maps, struct err *e) {
    const struct json *lists[] = {x, y}, *first = NULL, *it;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        JSON_FOREACH(it, lists[i]) {
            if (!first) first = it;
            if (is_list(first)) return err_status(e, 422, "Invalid", "lists of lists are not supported");
            if (it->type != first->type || it->type == JSON_NULL)
                return fails(e, "list element types are not identical", "a list to be merged");
        }
    }
    *maps = is_map(first);
    return 0;
}

/* Takes the directives out of a patch of a keyed list: what is deleted leaves `list`; *replace: the patch is all. */
static int take_directives(struct arena *a, const char *key, struct json *list, const struct json *patch,
                           struct json **items, bool *replace, struct err *e) {
    const struct json *p;
    *items = json_array(a);
    *replace = false;
    JSON_FOREACH(p, patch) {
        const struct json *directive = json_get(p, "$patch");
        const char *what = str_or_empty(json_as_str(directive));
        if (!directive) {
            json_append(a, *items, (struct json *)p);
        } else if (str_eq(what, "delete")) {
            if (!json_get(p, key)) return no_merge_key(e, key);
            for (size_t i; (i = index_of(list, p, key)) != SIZE_MAX;) json_del_at(list, i);
        } else if (str_eq(what, "replace")) {
            *replace = true;
        } else {
            return fails(e, "unknown patch type in a list", what);
        }
    }
    return 0;
}

static int merge_keyed(struct arena *a, struct at t, const char *key, struct json *list, const struct json *patch,
                       struct json **out, struct err *e) {
    struct json *items, *p;
    bool replace;
    if (!key) return fails(e, "cannot merge lists without merge key for", t.type ? t.type->name : "objects");
    int rc = take_directives(a, key, list, patch, &items, &replace, e);
    if (rc || replace) {
        *out = items;
        return rc;
    }
    struct json *merged = json_array(a), *it;
    JSON_FOREACH(it, list) json_append(a, merged, it);
    JSON_FOREACH(p, items) {
        if (!json_get(p, key)) return no_merge_key(e, key);
        size_t i = index_of(merged, p, key);
        if (i == SIZE_MAX)
            json_append(a, merged, p);
        else if ((rc = merge_map(a, (struct at){t.type, NULL}, json_item(merged, i), p, &merged->items[i], e)))
            return rc;
    }
    return reorder(a, merged, items, list, key, out, e);
}

static int merge_scalars(struct arena *a, const struct json *list, const struct json *patch, struct json **out,
                         struct err *e) {
    struct json *merged = json_array(a);
    const struct json *lists[] = {list, patch}, *it;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(it, lists[i])
            if (index_of(merged, it, NULL) == SIZE_MAX) json_append(a, merged, (struct json *)it);
    return reorder(a, merged, patch, list, NULL, out, e);
}

static int merge_list(struct arena *a, struct at t, struct json *list, const struct json *patch, struct json **out,
                      struct err *e) {
    bool maps;
    if (!t.field || !(t.field->flags & API_F_PATCH_MERGE)) {
        *out = (struct json *)patch;
        return 0;
    }
    *out = list;
    if (!json_len(list) && !json_len(patch)) return 0;
    int rc = element_kind(list, patch, &maps, e);
    if (rc) return rc;
    return maps ? merge_keyed(a, t, t.field->patch_key, list, patch, out, e) : merge_scalars(a, list, patch, out, e);
}

/* ---- directives of objects ---- */

static bool is_directive(const char *key) {
    return str_eq(key, "$retainKeys") || str_has_prefix(key, DELETE_LIST) || str_has_prefix(key, ELEMENT_ORDER);
}

static int retain_keys(struct json *doc, const struct json *patch, struct err *e) {
    const struct json *k, *keys = json_get(patch, "$retainKeys");
    if (!keys) return 0;
    if (!is_list(keys)) return bad_format(e, "retainKeys");
    JSON_FOREACH_MEMBER(m, patch) {
        bool listed = is_directive(m->key) || m->value->type == JSON_NULL;
        JSON_FOREACH(k, keys) listed |= str_eq(json_as_str(k), m->key);
        if (!listed) return bad_format(e, "retainKeys");
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
        struct json *list = json_get(doc, m->key + strlen(DELETE_LIST));
        const struct json *v;
        bool maps;
        if (!is_list(list) || !is_list(m->value)) continue;
        int rc = json_len(list) || json_len(m->value) ? element_kind(list, m->value, &maps, e) : 0;
        if (rc) return rc;
        JSON_FOREACH(v, m->value)
            for (size_t i; (i = index_of(list, v, NULL)) != SIZE_MAX;) json_del_at(list, i);
    }
    return 0;
}

/* The patch's items stand in the order that the directive gives. */
static int check_order(const struct json *patch, const struct json *order, const char *key, struct err *e) {
    size_t at = 0;
    const struct json *p;
    if (!json_len(order)) return 0;
    JSON_FOREACH(p, patch) {
        if (key && json_get(p, "$patch")) continue;
        if (key && !json_get(p, key)) return no_merge_key(e, key);
        const struct json *want = key ? json_get(p, key) : p;
        for (;; at++) {
            if (at >= json_len(order)) return fails(e, "the order in the patch list does not match", ELEMENT_ORDER);
            const struct json *o = json_item(order, at), *have = key ? json_get(o, key) : o;
            if (key && !have) return no_merge_key(e, key);
            if (json_equal(have, want)) break;
        }
        at++;
    }
    return 0;
}

/* One list with its order: merged here, so that the patch's members that follow leave it alone. */
static int ordered_list(struct arena *a, struct at t, struct json *doc, const char *name, const struct json *order,
                        const struct json *patch, struct err *e) {
    struct json *have = json_get(doc, name), *brought = json_get(patch, name), *merged = have;
    struct at lt = member_at(t, name);
    if (!is_list(order) || (have && !is_list(have)) || (brought && !is_list(brought)))
        return fails(e, "expected a list", name);
    if (!lt.field || lt.field->shape != API_LIST)
        return fails(e, "unable to find a list in the type for the field", name);
    const char *key = lt.field->patch_key;
    const struct json *o;
    JSON_FOREACH(o, order)
        if (key && (json_len(have) || json_len(brought)) && !is_map(o))
            return fails(e, "value in the order is not a map", name);
    int rc = check_order(brought, order, key, e);
    if (rc || (!have && !brought)) return rc;
    if (have && brought) rc = merge_list(a, lt, json_clone(a, have), brought, &merged, e);
    if (!have) merged = plain(a, brought);
    if (!rc) rc = reorder(a, merged, order, have, key, &merged, e);
    if (!rc) json_set(a, doc, name, merged);
    return rc;
}

static int ordered_lists(struct arena *a, struct at t, struct json *doc, const struct json *patch, struct err *e) {
    int rc = 0;
    JSON_FOREACH_MEMBER(m, patch) {
        if (!rc && str_has_prefix(m->key, ELEMENT_ORDER))
            rc = ordered_list(a, t, doc, m->key + strlen(ELEMENT_ORDER), m->value, patch, e);
    }
    return rc;
}

/* ---- objects ---- */

static int merge_member(struct arena *a, struct at t, struct json *doc, const char *key, const struct json *v,
                        struct err *e) {
    struct json *have = json_get(doc, key), *merged = NULL;
    struct at mt = member_at(t, key);
    int rc = 0;
    bool maps = is_map(have) && is_map(v), lists = is_list(have) && is_list(v);
    if (maps || lists) { /* entries of maps, and what has no declaration, have nothing that could say how to merge */
        if (!mt.field) return fails(e, "unable to find api field in the type for the json field", key);
        bool whole = mt.field->flags & API_F_PATCH_REPLACE;
        if (lists)
            rc = merge_list(a, mt, json_clone(a, have), v, &merged, e);
        else if (whole)
            merged = json_clone(a, v);
        else
            rc = merge_map(a, mt, have, v, &merged, e);
    } else if (v->type != JSON_NULL) {
        merged = plain(a, v);
    }
    if (rc) return rc;
    if (merged)
        json_set(a, doc, key, merged);
    else
        json_del(doc, key);
    return 0;
}

static int merge_map(struct arena *a, struct at t, struct json *doc, const struct json *patch, struct json **out,
                     struct err *e) {
    const struct json *directive = json_get(patch, "$patch");
    const char *what = json_as_str(directive);
    if (directive) {
        if (!str_eq(what, "replace") && !str_eq(what, "delete"))
            return fails(e, "unknown patch type", str_or_empty(what));
        *out = str_eq(what, "replace") ? json_clone(a, patch) : json_object(a);
        json_del(*out, "$patch");
        return 0;
    }
    struct json *work = json_clone(a, doc);
    int rc = retain_keys(work, patch, e);
    if (!rc) rc = ordered_lists(a, t, work, patch, e);
    if (!rc) rc = delete_scalars(work, patch, e);
    JSON_FOREACH_MEMBER(m, patch) {
        const char *order = arena_printf(a, ELEMENT_ORDER "%s", m->key);
        if (!rc && !is_directive(m->key) && !json_get(patch, order)) rc = merge_member(a, t, work, m->key, m->value, e);
    }
    *out = work;
    return rc;
}

int strategic_merge_patch(struct arena *a, const struct api_type *t, const struct json *doc, const struct json *patch,
                          struct json **out, struct err *e) {
    if (!is_map(patch)) return err_status(e, 400, "BadRequest", "a strategic merge patch is an object");
    return merge_map(a, (struct at){t, NULL}, (struct json *)doc, patch, out, e);
}
