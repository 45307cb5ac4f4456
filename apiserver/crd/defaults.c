/* Defaults of schemas hold for objects that were stored before a definition had them: upstream fills them in at every
 * read from the store. Here the watch cache's copies are filled in once, when the definition changes or is first served;
 * what is in the store changes with the object's next write. */
#include "apiserver/crd/registry.h"
#include "apiserver/rules/crd_schema.h"

static bool has_defaults(const struct json *v) {
    const struct json *it;
    if (json_is(v, JSON_OBJECT) && json_get(v, "default")) return true;
    JSON_FOREACH_MEMBER(m, v)
        if (has_defaults(m->value)) return true;
    if (json_is(v, JSON_ARRAY))
        JSON_FOREACH(it, v) {
            if (has_defaults(it)) return true;
        }
    return false;
}

static void fill(struct apiserver *s, struct object *o, const struct json *schema) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *v = object_tree(a, o), *before = json_clone(a, v);
    struct rules_ctx c = {
        .a = a, .group = o->res->group, .version = o->res->version, .kind = o->res->kind, .crd_schema = schema};
    if (!v || (o->res->converts && o->version)) return; /* the schema is of another version than the data */
    crd_default(&c, v);
    if (json_equal(v, before)) return;
    json_write(&b, v);
    _cleanup_object_ struct object *now = object_new(o->res, o->key, b.data, b.len, o->create_rev, o->rev);
    if (now) watchcache_replace(s->cache, o, now);
}

void crd_default_objects(struct apiserver *s, const struct resource *stored, const struct json *schema) {
    _cleanup_wc_list_ struct wc_list l = {0};
    if (!has_defaults(schema)) return;
    watchcache_list(s->cache, stored, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) fill(s, l.items[i], schema);
}
