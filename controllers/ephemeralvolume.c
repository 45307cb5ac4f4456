/* Ephemeral volumes: makes the claim of a pod's generic ephemeral volume, owned by the pod (upstream
 * pkg/controller/volume/ephemeral). */
#include "util.h"

struct ev_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
};

static int make_claim(struct ev_controller *c, struct arena *a, const struct core_pod *p, const struct core_volume *v,
                      struct err *e) {
    const char *ns = p->metadata.namespace, *name = arena_printf(a, "%s-%s", p->metadata.name, v->name);
    const struct core_persistent_volume_claim_template *t = v->ephemeral->volume_claim_template;
    _cleanup_object_ struct object *have =
        informer_get_ns(manager_informer(c->m, &client_persistentvolumeclaims), ns, name);
    if (!t) return 0;
    if (have) {
        if (owned_by(have->meta, p->metadata.uid)) return 0;
        event_record_obj(c->events, &client_pods, &p->metadata, "Warning", "EphemeralVolume",
                         "PVC \"%s\" was not created for the pod (pod is not owner)", name);
        return 0;
    }
    struct owner owner = {&client_pods, &p->metadata};
    struct core_persistent_volume_claim k = {.spec = t->spec};
    k.metadata = (struct meta_object_meta){
        .name = name, .namespace = ns, .labels = t->metadata.labels, .annotations = t->metadata.annotations};
    k.metadata.owner_references.items = owner_ref_new(a, &owner, true);
    k.metadata.owner_references.n = 1;
    struct client_opts o = {.cause = p->metadata.resource_version};
    _cleanup_err_ struct err ce = {0};
    int r = client_create(c->m->client, a, &client_persistentvolumeclaims, ns, &k, &o, NULL, &ce);
    if (r == 0 || client_err_exists(&ce) || client_err_namespace_terminating(&ce)) return 0;
    event_record_obj(c->events, &client_pods, &p->metadata, "Warning", "FailedCreate", "%s", ce.msg);
    err_move(e, &ce);
    return r;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ev_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_pods), key);
    const struct core_pod *p = o ? o->obj : NULL;
    if (!p || p->metadata.deletion_timestamp.set || pod_is_terminal(p)) return 0;
    for (size_t i = 0; i < p->spec.volumes.n; i++) {
        int r = p->spec.volumes.items[i].ephemeral ? make_claim(c, a, p, &p->spec.volumes.items[i], e) : 0;
        if (r < 0) return r;
    }
    return 0;
}

static void pod_added(void *arg, struct object *o) {
    const struct core_pod *p = o->obj;
    for (size_t i = 0; i < p->spec.volumes.n; i++)
        if (p->spec.volumes.items[i].ephemeral) {
            workqueue_add(((struct ev_controller *)arg)->q, o->key);
            return;
        }
}

int ephemeralvolume_start(struct manager *m, struct err *e) {
    struct ev_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "ephemeral_volume");
    c->q = manager_queue(m, "ephemeral-volume", 1, reconcile, c, &client_pods, &client_persistentvolumeclaims, NULL);
    struct informer_handler h = {.on_add = pod_added, .arg = c};
    informer_add_handler(manager_informer(m, &client_pods), &h);
    return 0;
}
