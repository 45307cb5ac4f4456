/* An APIService for every group and version that definitions bring, as built-in ones have: made and deleted by the server
 * (label kube-aggregator.kubernetes.io/automanaged "true"). What a person made for the group stays as it is. Upstream:
 * crdregistration and autoregister of kube-apiserver and kube-aggregator. */
#include "apiserver/crd/registry.h"
#include "apiserver/write.h"

#define AUTOMANAGED "kube-aggregator.kubernetes.io/automanaged"

enum { GROUP_PRIORITY = 1000, VERSION_PRIORITY = 100 };

static const struct resource *services(struct apiserver *s) {
    return resource_find(s->resources, "apiregistration.k8s.io", "v1", "apiservices");
}

static int create(struct apiserver *s, const char *name, const struct resource *row, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct resource *r = services(s);
    struct json *o = json_object(a), *meta = json_object(a), *spec = json_object(a), *norm = NULL;
    struct object *out = NULL;
    struct write w;
    json_set_str(a, o, "kind", r->kind);
    json_set_str(a, o, "apiVersion", resource_api_version(a, r));
    json_set_str(a, meta, "name", name);
    json_set_str(a, json_ensure_object(a, meta, "labels"), AUTOMANAGED, "true");
    json_set(a, o, "metadata", meta);
    json_set_str(a, spec, "group", row->group);
    json_set_str(a, spec, "version", row->version);
    json_set_int(a, spec, "groupPriorityMinimum", GROUP_PRIORITY);
    json_set_int(a, spec, "versionPriority", VERSION_PRIORITY);
    json_set(a, o, "spec", spec);
    int rc = api_tree_normalise(a, r->type, o, &norm, NULL, e);
    if (rc) return rc;
    write_init(&w, s, a, NULL, r, NULL, NULL, NULL, RULES_CREATE);
    w.lazy = true; /* made again at the next start if lost */
    rc = write_create(&w, norm, true, &out, e);
    object_unref(out);
    return rc;
}

static int delete (struct apiserver *s, struct object *old, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct resource *r = services(s);
    struct delete_request d = {.o = {.grace_period_seconds = -1, .orphan_dependents = -1}};
    struct object *out = NULL;
    struct write w;
    bool gone;
    write_init(&w, s, a, NULL, r, NULL, NULL, object_name(old), RULES_DELETE);
    int rc = write_delete(&w, &d, old, &out, &gone, e);
    object_unref(out);
    return rc;
}

/* The first row of the group and version that an APIService is named after, or NULL. */
static const struct resource *row_of(const struct resource *const *rows, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++) {
        size_t v = strlen(rows[i]->version);
        if (strncmp(name, rows[i]->version, v) == 0 && name[v] == '.' && str_eq(name + v + 1, rows[i]->group))
            return rows[i];
    }
    return NULL;
}

int crd_apiservices(struct apiserver *s, const struct resource *const *rows, size_t n, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_wc_list_ struct wc_list l = {0};
    const struct resource *r = services(s);
    struct selector automatic = {0};
    int rc = selector_parse(a, r, AUTOMANAGED "=true", NULL, &automatic, e);
    if (!rc) rc = watchcache_sync(s->cache, e);
    if (rc) return rc;
    watchcache_list(s->cache, r, NULL, &automatic, NULL, 0, &l);
    for (size_t i = 0; i < l.n && !rc; i++)
        if (!row_of(rows, n, object_name(l.items[i]))) rc = delete (s, l.items[i], e);
    for (size_t i = 0; i < n && rc >= 0; i++) {
        const char *name = arena_printf(a, "%s.%s", rows[i]->version, rows[i]->group);
        if (row_of(rows, n, name) != rows[i]) continue; /* another resource of the same version stands for it */
        _cleanup_object_ struct object *there = watchcache_get(s->cache, r, NULL, name);
        _cleanup_err_ struct err why = {0};
        if (there || (rc = create(s, name, rows[i], &why)) == 0) continue;
        if (why.status == 409)
            rc = 0; /* another server was faster */
        else if (e)
            err_move(e, &why);
    }
    return rc;
}
