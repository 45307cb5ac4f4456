/* Reference-counted objects, lists of them, keys, and matching of label selectors. */
#include "object.h"

#include "pkg/api/meta.h"
#include "pkg/base/map.h"

static const struct meta_object_meta *meta_in(const struct api_type *t, const void *obj) {
    const struct api_field *f = api_field_find(t, "metadata");
    return f ? (const void *)((const char *)obj + f->offset) : NULL;
}

/* Takes over `a`, which holds `obj`. */
struct object *object_adopt(struct arena *a, const struct client_resource *r, const struct api_type *t, void *obj) {
    struct object *o = arena_zalloc(a, sizeof(*o));
    o->refs = 1;
    o->arena = a;
    o->resource = r;
    o->obj = obj;
    o->meta = meta_in(t, obj);
    o->key = key_make(a, o->meta->namespace, str_or_empty(o->meta->name));
    o->rv = str_or_empty(o->meta->resource_version);
    o->hash = hash_bytes(o->key, strlen(o->key));
    return o;
}

struct object *object_new(const struct client_resource *r, const void *obj) {
    struct arena *a = arena_new();
    return object_adopt(a, r, r->type, api_clone(a, r->type, obj));
}

struct object *object_ref(struct object *o) {
    if (o) o->refs++;
    return o;
}

void object_unref(struct object *o) {
    if (o && --o->refs == 0) arena_free(o->arena);
}

void object_list_done(struct object_list *l) {
    for (size_t i = 0; i < l->n; i++) object_unref(l->items[i]);
    free(l->items);
    *l = (struct object_list){0};
}

void object_list_add(struct object_list *l, struct object *o) {
    VEC_GROW(l->items, l->n, l->cap);
    l->items[l->n++] = object_ref(o);
}

/* ---- keys ---- */

char *key_make(struct arena *a, const char *ns, const char *name) {
    return str_empty(ns) ? arena_strdup(a, name) : arena_printf(a, "%s/%s", ns, name);
}

void key_split(struct arena *a, const char *key, const char **ns, const char **name) {
    const char *slash = strchr(key, '/');
    *ns = slash ? arena_strndup(a, key, (size_t)(slash - key)) : "";
    *name = arena_strdup(a, slash ? slash + 1 : key);
}

const struct meta_owner_reference *meta_controller_of(const struct meta_object_meta *m) {
    for (size_t i = 0; i < m->owner_references.n; i++) {
        const struct meta_owner_reference *r = &m->owner_references.items[i];
        if (r->controller && *r->controller) return r;
    }
    return NULL;
}

/* ---- selectors ---- */

static bool str_vec_has(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

static bool requirement_matches(const struct meta_label_selector_requirement *q, const struct str_map *labels) {
    const char *value = str_map_get(labels, q->key);
    const char *op = str_or_empty(q->operator);
    if (strcmp(op, "In") == 0) return value && str_vec_has(&q->values, value);
    if (strcmp(op, "NotIn") == 0) return !value || !str_vec_has(&q->values, value);
    if (strcmp(op, "Exists") == 0) return value != NULL;
    if (strcmp(op, "DoesNotExist") == 0) return value == NULL;
    return false;
}

bool label_map_matches(const struct str_map *selector, const struct str_map *labels) {
    for (size_t i = 0; i < selector->n; i++) {
        const char *value = str_map_get(labels, selector->items[i].key);
        if (!value || strcmp(value, str_or_empty(selector->items[i].value)) != 0) return false;
    }
    return true;
}

bool label_selector_matches(const struct meta_label_selector *s, const struct str_map *labels) {
    if (!s || !label_map_matches(&s->match_labels, labels)) return false;
    for (size_t i = 0; i < s->match_expressions.n; i++)
        if (!requirement_matches(&s->match_expressions.items[i], labels)) return false;
    return true;
}

bool label_selector_empty(const struct meta_label_selector *s) {
    return !s || (s->match_labels.n == 0 && s->match_expressions.n == 0);
}

static void format_requirement(struct buf *b, const struct meta_label_selector_requirement *q) {
    const char *op = str_or_empty(q->operator);
    if (strcmp(op, "Exists") == 0 || strcmp(op, "DoesNotExist") == 0) {
        buf_printf(b, "%s%s", op[0] == 'D' ? "!" : "", q->key);
        return;
    }
    buf_printf(b, "%s %s (", q->key, strcmp(op, "In") == 0 ? "in" : "notin");
    for (size_t i = 0; i < q->values.n; i++) buf_printf(b, "%s%s", i ? "," : "", q->values.items[i]);
    buf_addc(b, ')');
}

char *label_selector_format(struct arena *a, const struct meta_label_selector *s) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (!s) return arena_strdup(a, "");
    for (size_t i = 0; i < s->match_labels.n; i++)
        buf_printf(&b, "%s%s=%s", b.len ? "," : "", s->match_labels.items[i].key,
                   str_or_empty(s->match_labels.items[i].value));
    for (size_t i = 0; i < s->match_expressions.n; i++) {
        if (b.len) buf_addc(&b, ',');
        format_requirement(&b, &s->match_expressions.items[i]);
    }
    return arena_strndup(a, b.len ? b.data : "", b.len);
}
