/* The end of a definition: its instances are deleted first, then its finalizer. Upstream:
 * apiextensions-apiserver/pkg/controller/finalizer. */
#include "apiserver/crd/registry.h"
#include "apiserver/write.h"
#include "pkg/base/log.h"

static const struct resource *definitions(struct apiserver *s) {
    return resource_find(s->resources, "apiextensions.k8s.io", "v1", "customresourcedefinitions");
}

int crd_update(struct apiserver *s, const char *name, const char *subresource, crd_change_fn *change, void *arg,
               struct err *e) {
    const struct resource *r = definitions(s);
    for (int i = 0; i < WRITE_TRIES; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        _cleanup_object_ struct object *old = write_current(s, r, NULL, name, i > 0), *out = NULL;
        struct json *obj = old ? object_tree(a, old) : NULL, *norm = NULL;
        struct write w;
        bool deleted;
        if (!obj || !change(s, a, obj, arg)) return 0;
        int rc = api_tree_normalise(a, r->type, obj, &norm, NULL, e);
        if (rc) return rc;
        write_init(&w, s, a, NULL, r, subresource, NULL, name, RULES_UPDATE);
        rc = write_update(&w, norm, old, true, &out, &deleted, e);
        if (rc <= 0) return rc;
    }
    return err_set(e, -EAGAIN, "the definition is written by others all the time");
}

/* Deletes every instance that lets itself be deleted; gives the first error. */
static int delete_instances(struct apiserver *s, const struct resource *r, struct err *e) {
    _cleanup_wc_list_ struct wc_list l = {0};
    int first = 0;
    watchcache_list(s->cache, r, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        const char *name = object_name(l.items[i]);
        const char *ns = l.items[i]->ns_len ? arena_strndup(a, l.items[i]->key, l.items[i]->ns_len) : NULL;
        struct delete_request d = {.o = {.grace_period_seconds = -1, .orphan_dependents = -1}};
        int rc = WRITE_RETRY;
        for (int t = 0; rc == WRITE_RETRY && t < WRITE_TRIES; t++) {
            _cleanup_object_ struct object *old = write_current(s, r, ns, name, t > 0), *out = NULL;
            struct write w;
            bool gone;
            if (!old) rc = 0;
            if (!old) break;
            write_init(&w, s, a, NULL, r, NULL, ns, name, RULES_DELETE);
            rc = write_look(&w, old, first ? NULL : e);
            if (!rc) rc = write_delete(&w, &d, old, &out, &gone, first ? NULL : e);
        }
        if (!first) first = rc;
    }
    return first;
}

static bool in_progress(struct apiserver *s, struct arena *a, struct json *crd, void *arg) {
    return crd_condition_set(a, crd, "Terminating", true, "InstanceDeletionInProgress",
                             "CustomResource deletion is in progress", ktime_now());
}

static bool drop_finalizer(struct apiserver *s, struct arena *a, struct json *crd, void *arg) {
    struct json *list = json_at(crd, "metadata", "finalizers", NULL);
    bool changed = false;
    if (!json_at(crd, "metadata", "deletionTimestamp", NULL)) return false;
    for (size_t i = json_len(list); i-- > 0;)
        if (str_eq(json_as_str(json_item(list, i)), CRD_FINALIZER)) changed = json_del_at(list, i);
    return changed;
}

static int clean_up(struct apiserver *s, const char *name, const struct resource *stored, bool *done, struct err *e) {
    int rc = watchcache_sync(s->cache, e);
    if (!rc && stored && watchcache_count(s->cache, stored)) {
        rc = crd_update(s, name, "status", in_progress, NULL, e);
        if (!rc) rc = delete_instances(s, stored, e);
        if (!rc) rc = watchcache_sync(s->cache, e);
    }
    if (rc || (stored && watchcache_count(s->cache, stored))) return rc; /* other finalizers are others' business */
    *done = true;
    return crd_update(s, name, NULL, drop_finalizer, NULL, e);
}

bool crd_cleanup(struct apiserver *s, const char *name, const struct resource *stored) {
    _cleanup_err_ struct err e = {0};
    bool done = false;
    int rc = clean_up(s, name, stored, &done, &e);
    if (rc) log_warn("ending a custom resource", "name", name, "error", e.msg, NULL);
    return done && !rc;
}
