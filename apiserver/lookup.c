#include "apiserver/lookup.h"

#include "apiserver/asked.h"
#include "apiserver/convert.h"
#include "apiserver/crd/convert.h"

/* A built-in row, else the stored one of a custom resource. */
static const struct resource *find_custom(struct apiserver *s, const char *group, const char *plural) {
    _cleanup_arena_ struct arena *a = arena_new_sized(1024);
    size_t n;
    const struct resource *const *rows = resource_table_rows(s->resources, a, &n);
    for (size_t i = 0; i < n; i++)
        if (rows[i]->custom && str_eq(rows[i]->plural, plural) && str_eq(rows[i]->group, group))
            return resource_stored(rows[i]);
    return NULL;
}

static const struct resource *find(struct apiserver *s, const char *group, const char *plural) {
    for (size_t i = 0; i < resource_table_len(s->resources); i++) {
        const struct resource *r = resource_table_at(s->resources, i);
        if (*r->plural == *plural && str_eq(r->plural, plural) && str_eq(r->group, group)) return r;
    }
    return find_custom(s, group, plural);
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

/* ---- for admission ---- */

static int64_t changed(void *arg, const char *group, const char *resource) {
    struct apiserver *s = arg;
    const struct resource *r = find(s, group, resource);
    return r ? watchcache_changed_rev(s->cache, r) : 0;
}

static struct rules_kind kind_of(const struct resource *r) {
    return (struct rules_kind){r->group, r->version, r->kind, r->plural, r->namespaced};
}

static size_t equivalents(void *arg, struct arena *a, const char *group, const char *resource,
                          struct rules_kind **out) {
    struct apiserver *s = arg;
    size_t n, found = 0;
    const struct resource *mine = find(s, group, resource), *const *rows = resource_table_rows(s->resources, a, &n);
    *out = arena_alloc(a, (n + 1) * sizeof(**out));
    for (size_t i = 0; mine && i < n; i++)
        if (resource_stored(rows[i]) == resource_stored(mine)) (*out)[found++] = kind_of(rows[i]);
    return found;
}

static int convert(void *arg, struct arena *a, const struct rules_kind *to, struct json **v, struct err *e) {
    struct apiserver *s = arg;
    const struct resource *r = resource_find(s->resources, to->group, to->version, to->resource), *from = NULL;
    const char *api = str_or_empty(json_get_str(*v, "apiVersion")), *slash = strchr(api, '/');
    if (r && r->custom) {
        if (r->converts) return crd_convert_tree(s, a, r, v, e);
        json_set_str(a, *v, "apiVersion", resource_api_version(a, r));
        return 0;
    }
    const char *group = slash ? arena_strndup(a, api, (size_t)(slash - api)) : "";
    from = resource_find_kind(s->resources, group, slash ? slash + 1 : api, str_or_empty(json_get_str(*v, "kind")));
    struct json *out = r && from ? convert_view(a, from, r, *v) : NULL;
    if (!out) return err_set(e, -EINVAL, "no conversion from %s to %s/%s", api, to->group, to->version);
    *v = out;
    return 0;
}

static bool find_kind(void *arg, struct arena *a, const char *api_version, const char *kind, struct rules_kind *out) {
    struct apiserver *s = arg;
    size_t n;
    const struct resource *const *rows = resource_table_rows(s->resources, a, &n);
    for (size_t i = 0; i < n; i++) {
        if (!str_eq(rows[i]->kind, kind) || rows[i]->stored != RES_STORED) continue;
        if (!str_eq(resource_api_version(a, rows[i]), api_version)) continue;
        *out = kind_of(rows[i]);
        return true;
    }
    return false;
}

static bool authorize(void *arg, struct arena *a, const struct user_info *user, const struct rules_ask *ask,
                      const char **reason) {
    struct apiserver *s = arg;
    struct authz_attrs at = {.user = user,
                             .verb = ask->verb,
                             .resource_request = !ask->path,
                             .group = ask->group,
                             .version = "*",
                             .resource = ask->resource,
                             .subresource = ask->subresource,
                             .ns = ask->ns,
                             .name = ask->name,
                             .path = ask->path,
                             .fields = asked_fields(a, ask->field_selector),
                             .labels = asked_labels(a, ask->label_selector)};
    return authz_decide(s->authz, a, &at, reason) == AUTHZ_ALLOW;
}

struct rules_lookup lookup_rules(struct apiserver *s) {
    return (struct rules_lookup){.arg = s,
                                 .get = lookup_get,
                                 .list = list,
                                 .changed = changed,
                                 .equivalents = equivalents,
                                 .convert = convert,
                                 .kind = find_kind,
                                 .authorize = authorize};
}
