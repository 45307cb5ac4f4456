#include "apiserver/lookup.h"

static const struct resource *find(struct apiserver *s, const char *group, const char *plural) {
    for (size_t i = 0; i < resource_table_len(s->resources); i++) {
        const struct resource *r = resource_table_at(s->resources, i);
        if (*r->plural == *plural && str_eq(r->plural, plural) && str_eq(r->group, group)) return r;
    }
    return NULL;
}

const struct json *lookup_get(void *arg, struct arena *a, const char *group, const char *resource, const char *ns,
                              const char *name) {
    struct apiserver *s = arg;
    const struct resource *r = find(s, group, resource);
    _cleanup_object_ struct object *o = r && name ? watchcache_get(s->cache, r, ns, name) : NULL;
    /* an object that is not there may be too young for the cache */
    if (!o && r && name && watchcache_sync(s->cache, NULL) == 0) o = watchcache_get(s->cache, r, ns, name);
    return o ? object_tree(a, o) : NULL;
}

static const struct json *list(void *arg, struct arena *a, const char *group, const char *resource, const char *ns) {
    struct apiserver *s = arg;
    const struct resource *r = find(s, group, resource);
    struct json *out = json_array(a);
    if (!r) return out;
    _cleanup_wc_list_ struct wc_list l = {0};
    watchcache_list(s->cache, r, ns, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        struct json *v = object_tree(a, l.items[i]);
        if (v) json_append(a, out, v);
    }
    return out;
}

struct rules_lookup lookup_rules(struct apiserver *s) {
    return (struct rules_lookup){.arg = s, .get = lookup_get, .list = list};
}
