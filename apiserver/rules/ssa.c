/* Server-side apply: merging an applied configuration into the live object by field ownership.
 *
 *   1. merge    what the configuration says goes over what is there: objects member by member, keyed lists
 * item by item, everything else as a whole
 *   2. prune    what this manager applied last time, says no more, and nobody else owns, is removed
 *   3. compare  fields of other managers that would change are conflicts, unless forced; forced or equal,
 * ownership moves or is shared
 *
 * Upstream: structured-merge-diff's merge/update.go (Updater.Apply) and typed/merge.go, under
 * apimachinery/pkg/util/managedfields. */
#include "apiserver/rules/kinds.h"
#include "apiserver/rules/managers.h"

/* ---- merge ---- */

static struct json *merge(struct arena *a, struct schema s, const struct json *x, const struct json *y);

static struct json *merge_objects(struct arena *a, struct schema s, const struct json *x, const struct json *y) {
    struct json *out = json_object(a);
    JSON_FOREACH_MEMBER(m, x) {
        const struct json *o = json_get(y, m->key);
        json_set(a, out, m->key, o ? merge(a, schema_member(s, m->key, NULL), m->value, o) : json_clone(a, m->value));
    }
    JSON_FOREACH_MEMBER(m, y)
        if (!json_get(x, m->key)) json_set(a, out, m->key, json_clone(a, m->value));
    return out;
}

struct list_view {
    const struct json *list;
    const char **elems;
    size_t n;
};

static struct list_view view_of(struct arena *a, struct schema s, const struct json *list) {
    struct list_view v = {list, arena_alloc(a, (json_len(list) + 1) * sizeof(char *)), json_len(list)};
    for (size_t i = 0; i < v.n; i++) {
        const char *e = fset_item_elem(a, s, json_item(list, i));
        v.elems[i] = e ? e : arena_printf(a, "i:%zu", i);
    }
    return v;
}

static const struct json *view_find(const struct list_view *v, const char *elem) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->elems[i], elem)) return json_item(v->list, i);
    return NULL;
}

/* The next item of y, from `from` on, that x has too; NULL when there is none. */
static const char *next_shared(const struct list_view *x, const struct list_view *y, size_t *from) {
    while (*from < y->n) {
        const char *e = y->elems[(*from)++];
        if (view_find(x, e)) return e;
    }
    return NULL;
}

/* Both orders are respected as far as they go together: items of y keep their order, items that only x has
 * stay where they are relative to x's. */
static struct json *merge_lists(struct arena *a, struct schema s, const struct json *x, const struct json *y) {
    struct list_view l = view_of(a, s, x), r = view_of(a, s, y);
    struct schema is = schema_item(s);
    struct json *out = json_array(a);
    size_t li = 0, ri = 0, shared_at = 0;
    const char *shared = next_shared(&l, &r, &shared_at);
    while (li < l.n || ri < r.n) {
        if (li < l.n && ri < r.n) {
            if (str_eq(l.elems[li], r.elems[ri])) {
                json_append(a, out, merge(a, is, json_item(x, li++), json_item(y, ri)));
                if (str_eq(shared, r.elems[ri++])) shared = next_shared(&l, &r, &shared_at);
                continue;
            }
            if (view_find(&r, l.elems[li]) && shared && !str_eq(shared, l.elems[li])) {
                li++;
                continue;
            }
        }
        if (li < l.n && !view_find(&r, l.elems[li])) {
            json_append(a, out, json_clone(a, json_item(x, li++)));
            continue;
        }
        if (ri < r.n) {
            const struct json *have = view_find(&l, r.elems[ri]), *item = json_item(y, ri);
            json_append(a, out, have ? merge(a, is, have, item) : json_clone(a, item));
            if (str_eq(shared, r.elems[ri++])) shared = next_shared(&l, &r, &shared_at);
            continue;
        }
        li++; /* already merged at its place in y */
    }
    return out;
}

static struct json *merge(struct arena *a, struct schema s, const struct json *x, const struct json *y) {
    enum schema_kind kind = schema_kind(s, y);
    if (kind == SCHEMA_DEDUCED && json_is(y, JSON_NULL) && (json_is(x, JSON_OBJECT) || json_is(x, JSON_ARRAY)))
        return json_clone(a, x);
    if (kind == SCHEMA_DEDUCED) kind = json_is(x, JSON_OBJECT) && json_is(y, JSON_OBJECT) ? SCHEMA_MAP : SCHEMA_LEAF;
    bool objects = json_is(x, JSON_OBJECT) && json_is(y, JSON_OBJECT),
         lists = json_is(x, JSON_ARRAY) && json_is(y, JSON_ARRAY);
    bool parts = kind == SCHEMA_STRUCT || kind == SCHEMA_MAP || kind == SCHEMA_LIST_MAP || kind == SCHEMA_LIST_SET;
    if (parts && json_is(y, JSON_NULL)) return json_clone(a, x); /* says nothing about its parts */
    if ((kind == SCHEMA_STRUCT || kind == SCHEMA_MAP) && objects) return merge_objects(a, s, x, y);
    if ((kind == SCHEMA_LIST_MAP || kind == SCHEMA_LIST_SET) && lists) return merge_lists(a, s, x, y);
    return json_clone(a, y);
}

struct json *ssa_merge(struct arena *a, struct schema s, const struct json *x, const struct json *y) {
    return merge(a, s, x, y);
}

/* ---- prune ---- */

static void prune(struct arena *a, struct schema s, struct json *v, const struct fset *last, const struct fset *owned);

static void prune_object(struct arena *a, struct schema s, struct json *v, const struct fset *last,
                         const struct fset *owned) {
    for (uint32_t i = 0; i < last->n; i++) {
        const char *elem = last->items[i].elem;
        if (!str_has_prefix(elem, "f:")) continue;
        struct json *child = json_get(v, elem + 2);
        bool named;
        struct schema cs = schema_member(s, elem + 2, &named);
        const struct fset *o = fset_get(owned, elem);
        if (!child) continue;
        if (fset_empty(o) && (last->items[i].sub->member || named))
            json_del(v, elem + 2);
        else
            prune(a, cs, child, last->items[i].sub, o);
    }
}

static void prune_list(struct arena *a, struct schema s, struct json *v, const struct fset *last,
                       const struct fset *owned) {
    for (size_t i = 0; i < json_len(v);) {
        const char *elem = fset_item_elem(a, s, json_item(v, i));
        const struct fset *l = elem ? fset_get(last, elem) : NULL, *o = elem ? fset_get(owned, elem) : NULL;
        if (l && l->member && fset_empty(o)) {
            json_del_at(v, i);
            continue;
        }
        if (l) prune(a, schema_item(s), json_item(v, i), l, o);
        i++;
    }
}

/* Removes from v what `last` names and `owned` (all managers together) does not. */
static void prune(struct arena *a, struct schema s, struct json *v, const struct fset *last, const struct fset *owned) {
    if (json_is(v, JSON_OBJECT))
        prune_object(a, s, v, last, owned);
    else if (json_is(v, JSON_ARRAY))
        prune_list(a, s, v, last, owned);
}

/* ---- conflicts ---- */

struct conflicts {
    struct arena *a;
    struct err *e;
    const char *manager;
    size_t n;
};

/* The path as field paths are written: .spec.containers[name="c"].image */
static const char *extend_path(struct arena *a, const char *path, const char *elem) {
    if (elem[0] == 'f') return arena_printf(a, "%s.%s", path, elem + 2);
    if (elem[0] != 'k') return arena_printf(a, "%s[%s%s]", path, elem[0] == 'v' ? "=" : "", elem + 2);
    struct json *keys = NULL;
    _cleanup_buf_ struct buf b = {.limit = 4096};
    if (json_parse(a, elem + 2, strlen(elem + 2), &keys, NULL, NULL) < 0) return path;
    JSON_FOREACH_MEMBER(m, keys) buf_printf(&b, "%s%s=%s", b.len ? "," : "", m->key, json_text(a, m->value));
    return arena_printf(a, "%s[%s]", path, b.data ? b.data : "");
}

static void report(struct conflicts *k, const struct fset *s, const char *path) {
    if (s->member && *path) {
        err_cause_add(k->e, "FieldManagerConflict", path, "conflict with \"%s\"", k->manager);
        k->n++;
    }
    for (uint32_t i = 0; i < s->n; i++) report(k, s->items[i].sub, extend_path(k->a, path, s->items[i].elem));
}

static size_t count_members(const struct fset *s) {
    size_t n = s->member;
    for (uint32_t i = 0; i < s->n; i++) n += count_members(s->items[i].sub);
    return n;
}

static const char *manager_label(struct arena *a, const struct manager *m) {
    const char *with = str_empty(m->subresource) ? "" : arena_printf(a, " with subresource \"%s\"", m->subresource);
    if (str_eq(m->operation, "Apply")) return arena_printf(a, "%s%s", m->name, with);
    return arena_printf(a, "%s\" using %s%s", m->name, m->api_version, with);
}

/* What of a manager's fields the change would set to something else, and that may not be taken. */
static struct fset *contested(struct rules_ctx *c, const struct manager *m, struct change *ch,
                              const struct fset *allowed) {
    struct fset_diff d = managers_diff(c, ch, m->api_version);
    struct fset *both = fset_intersection(c->a, m->set, fset_union(c->a, d.added, d.modified));
    return fset_difference(c->a, both, allowed);
}

#define LAST_APPLIED "kubectl.kubernetes.io/last-applied-configuration"

static const char *last_applied(const struct rules_ctx *c, const struct json *obj) {
    if (!str_eq(c->field_manager, "kubectl")) return NULL; /* for it alone, as upstream */
    return json_as_str(json_at(obj, "metadata", "annotations", LAST_APPLIED, NULL));
}

/* What kubectl itself set by a client-side apply, it may take over from whoever is recorded as the owner. */
static struct fset *client_side_fields(struct rules_ctx *c, struct schema root, const struct json *live) {
    const char *text = last_applied(c, live);
    struct json *config = NULL;
    if (!text || json_parse(c->a, text, strlen(text), &config, NULL, NULL) ||
        !str_eq(json_get_str(config, "apiVersion"), group_version(c->a, c)))
        return NULL;
    return fset_of_value(c->a, root, config);
}

/* The annotation goes on to say what kubectl applied last. */
static void sync_last_applied(struct rules_ctx *c, const struct json *config, struct json *merged) {
    if (!last_applied(c, merged)) return;
    struct json *said = json_clone(c->a, config), *meta = json_get(said, "metadata"),
                *notes = json_get(meta, "annotations");
    json_del(notes, LAST_APPLIED);
    if (notes && !json_len(notes)) json_del(meta, "annotations");
    json_sort_keys(said, true);
    json_set(c->a, json_at(merged, "metadata", "annotations", NULL), LAST_APPLIED,
             json_strf(c->a, "%s\n", json_text(c->a, said)));
}

static int check_conflicts(struct rules_ctx *c, struct managers *m, const struct manager *self, struct change *ch,
                           const struct fset *allowed, struct err *e) {
    size_t n = 0;
    for (size_t i = 0; i < m->n; i++)
        if (&m->items[i] != self) n += count_members(contested(c, &m->items[i], ch, allowed));
    if (!n) return 0;
    err_status(e, 409, "Conflict", "Apply failed with %zu conflict%s", n, n == 1 ? "" : "s");
    struct conflicts k = {c->a, e, NULL, 0};
    for (size_t i = 0; i < m->n; i++) {
        if (&m->items[i] == self) continue;
        k.manager = manager_label(c->a, &m->items[i]);
        report(&k, contested(c, &m->items[i], ch, allowed), "");
    }
    return -EEXIST;
}

/* ---- apply ---- */

/* An object that nobody's fields were recorded of is taken to be made by an unknown update before. */
static void adopt_unmanaged(struct rules_ctx *c, struct managers *m, const struct json *live) {
    if (m->n || !live) return;
    struct manager *k = managers_add(c->a, m, "before-first-apply", "Update", group_version(c->a, c), "");
    k->set = managers_strip(c, fset_of_value(c->a, schema_root(c), live));
    manager_touch(c, k);
}

static struct fset *all_owned(struct arena *a, const struct managers *m, const struct fset *also) {
    struct fset *u = fset_union(a, also, NULL);
    for (size_t i = 0; i < m->n; i++) u = fset_union(a, u, m->items[i].set);
    return u;
}

static struct json *without_managed(struct arena *a, const struct json *obj) {
    struct json *o = json_clone(a, obj);
    struct json *meta = json_get(o, "metadata");
    if (meta) json_del(meta, "managedFields");
    return o;
}

/* An applier has one entry, whatever version it applies in. What it said in another version is not taken back. */
static struct manager *own_entry(struct arena *a, struct managers *m, const char *name, const char *gv,
                                 const char *sub) {
    for (size_t i = 0; i < m->n; i++) {
        struct manager *k = &m->items[i];
        if (!str_eq(k->name, name) || !str_eq(k->operation, "Apply") || !str_eq(k->subresource, sub)) continue;
        if (!str_eq(k->api_version, gv)) k->set = fset_new(a);
        k->api_version = gv;
        return k;
    }
    return managers_add(a, m, name, "Apply", gv, sub);
}

int ssa_apply(struct rules_ctx *c, const struct json *live, const struct json *config, bool force, struct json **out,
              bool *changed, struct err *e) {
    struct arena *a = c->a;
    const char *gv = group_version(a, c), *sub = str_or_empty(c->subresource);
    struct schema root = schema_root(c);
    struct managers m;
    if (jget(json_get(config, "metadata"), "managedFields"))
        return err_status(e, 400, "BadRequest", "metadata.managedFields must be nil");
    int rc = ssa_check(c, root, config, e);
    if (rc) return rc;
    managers_read(a, json_at(live, "metadata", "managedFields", NULL), &m);
    adopt_unmanaged(c, &m, live);
    struct json *base = live ? without_managed(a, live) : json_object(a);
    struct manager *self = own_entry(a, &m, str_or_empty(c->field_manager), gv, sub);
    struct fset *last = self->set, *set = fset_of_value(a, root, config);
    set->member = false;
    struct json *merged = merge(a, root, base, config);
    self->set = set;
    prune(a, root, merged, last, all_owned(a, &m, NULL));
    self->set = managers_strip(c, set);
    struct change ch = {base, merged, NULL, {0}};
    int r = force ? 0 : check_conflicts(c, &m, self, &ch, client_side_fields(c, root, live), e);
    if (r < 0) return r;
    managers_take(c, &m, self, &ch);
    bool same = live && json_equal(base, merged);
    if (!same) manager_touch(c, self); /* upstream: an apply that changes nothing has no time */
    managers_write(a, &m, merged);
    sync_last_applied(c, config, merged);
    *changed = !same || !json_equal(json_at(merged, "metadata", "managedFields", NULL),
                                    json_at(live, "metadata", "managedFields", NULL));
    *out = merged;
    return 0;
}
