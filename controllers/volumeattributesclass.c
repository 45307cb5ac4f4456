/* Protection of volume attributes classes (upstream pkg/controller/volume/vacprotection): a class that is deleted stays
 * until no claim and no volume names it. Admission puts the finalizer on; here it comes off. */
#include "pkg/api/storage.h"
#include "util.h"

#define VAC_FINALIZER "kubernetes.io/vac-protection"

struct vac_controller {
    struct manager *m;
    struct workqueue *q;
};

static bool names(const char *a, const char *b, const char *class) { return str_eq(a, class) || str_eq(b, class); }

static bool claim_names(const struct object *o, const char *class) {
    const struct core_persistent_volume_claim *k = o->obj;
    const struct core_modify_volume_status *s = k->status.modify_volume_status;
    return names(k->spec.volume_attributes_class_name, k->status.current_volume_attributes_class_name, class) ||
           (s && str_eq(s->target_volume_attributes_class_name, class));
}

static bool volume_names(const struct object *o, const char *class) {
    const struct core_persistent_volume *v = o->obj;
    return str_eq(v->spec.volume_attributes_class_name, class);
}

static bool any(struct vac_controller *c, const struct client_resource *r,
                bool (*names_it)(const struct object *o, const char *class), const char *class) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, r), NULL, &l);
    for (size_t i = 0; i < l.n; i++)
        if (names_it(l.items[i], class)) return true;
    return false;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct vac_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_volumeattributesclasses), key);
    if (!o || !o->meta->deletion_timestamp.set || any(c, &client_persistentvolumeclaims, claim_names, key) ||
        any(c, &client_persistentvolumes, volume_names, key))
        return 0;
    return finalizer_drop(c->m, a, &client_volumeattributesclasses, o->meta, VAC_FINALIZER, e);
}

/* A claim or volume that changed may have been the last user of a class that waits to go. */
static void user_changed(void *arg, const struct object *user) {
    struct vac_controller *c = arg;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_volumeattributesclasses), NULL, &l);
    for (size_t i = 0; i < l.n; i++)
        if (l.items[i]->meta->deletion_timestamp.set) workqueue_add(c->q, l.items[i]->key);
}

int volumeattributesclass_start(struct manager *m, struct err *e) {
    struct vac_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "volumeattributesclass", 1, reconcile, c, &client_volumeattributesclasses,
                         &client_persistentvolumeclaims, &client_persistentvolumes, NULL);
    manager_watch_keys(m, &client_volumeattributesclasses, c->q);
    manager_watch(m, &client_persistentvolumeclaims, user_changed, c);
    manager_watch(m, &client_persistentvolumes, user_changed, c);
    return 0;
}
