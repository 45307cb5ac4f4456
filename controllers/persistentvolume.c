/* Persistent volumes: binds claims to volumes, follows their end, and takes the protection finalizers off
 * (upstream pkg/controller/volume: persistentvolume, pvcprotection, pvprotection).
 *
 * A claim and a volume are bound when each names the other: the volume's claimRef with the claim's uid is
 * written first, as it is what decides, then the claim's volumeName. Volumes are not provisioned here: a
 * claim of a class with a provisioner is annotated for it. A released volume with the policy Delete is
 * deleted only when its provisioner does so. One worker, so that two claims never race for a volume. */
#include "pkg/api/quantity.h"
#include "pkg/api/storage.h"
#include "pkg/client/nodematch.h"
#include "util.h"

#define BIND_COMPLETED "pv.kubernetes.io/bind-completed"
#define BOUND_BY_US "pv.kubernetes.io/bound-by-controller"
#define PROVISIONER "volume.kubernetes.io/storage-provisioner"
#define PROVISIONER_BETA "volume.beta.kubernetes.io/storage-provisioner"
#define SELECTED_NODE "volume.kubernetes.io/selected-node"
#define PVC_FINALIZER "kubernetes.io/pvc-protection"
#define PV_FINALIZER "kubernetes.io/pv-protection"

typedef struct core_persistent_volume pv_t;
typedef struct core_persistent_volume_claim pvc_t;

struct pv_controller {
    struct manager *m;
    struct workqueue *claims, *volumes;
    struct event_recorder *events;
};

/* ---- matching ---- */

static bool has_mode(const struct str_vec *v, const char *mode) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], mode)) return true;
    return false;
}

static const char *volume_mode(const char *m) { return str_empty(m) ? "Filesystem" : m; }

static bool fits(struct pv_controller *c, const pv_t *v, const pvc_t *k) {
    if (strcmp(str_or_empty(v->spec.storage_class_name), str_or_empty(k->spec.storage_class_name)) != 0) return false;
    if (strcmp(str_or_empty(v->spec.volume_attributes_class_name),
               str_or_empty(k->spec.volume_attributes_class_name)) != 0)
        return false;
    if (strcmp(volume_mode(v->spec.volume_mode), volume_mode(k->spec.volume_mode)) != 0) return false;
    for (size_t i = 0; i < k->spec.access_modes.n; i++)
        if (!has_mode(&v->spec.access_modes, k->spec.access_modes.items[i])) return false;
    if (quantity_str_value(str_map_get(&v->spec.capacity, "storage")) <
        quantity_str_value(str_map_get(&k->spec.resources.requests, "storage")))
        return false;
    if (k->spec.selector && !label_selector_matches(k->spec.selector, &v->metadata.labels)) return false;
    const char *node = str_map_get(&k->metadata.annotations, SELECTED_NODE);
    if (!node || !v->spec.node_affinity || !v->spec.node_affinity->required) return true;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_nodes), node);
    return o && node_selector_matches(v->spec.node_affinity->required, o->obj);
}

static bool claimed_by(const pv_t *v, const pvc_t *k) {
    const struct core_object_reference *r = v->spec.claim_ref;
    if (!r || !str_eq(r->name, k->metadata.name) || !str_eq(r->namespace, k->metadata.namespace)) return false;
    return str_empty(r->uid) || str_eq(r->uid, k->metadata.uid);
}

/* The volume kept for the claim, else the smallest that fits. */
static struct object *find_volume(struct pv_controller *c, const pvc_t *k) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_persistentvolumes), NULL, &l);
    struct object *best = NULL;
    int64_t best_size = INT64_MAX;
    for (size_t i = 0; i < l.n; i++) {
        const pv_t *v = l.items[i]->obj;
        int64_t size = quantity_str_value(str_map_get(&v->spec.capacity, "storage"));
        if (v->metadata.deletion_timestamp.set) continue;
        if (!str_empty(k->spec.volume_name)) {
            if (!str_eq(k->spec.volume_name, v->metadata.name)) continue;
            best = !v->spec.claim_ref || claimed_by(v, k) ? l.items[i] : NULL;
            break;
        }
        if (claimed_by(v, k)) {
            best = l.items[i];
            break;
        }
        if (v->spec.claim_ref || !fits(c, v, k) || size >= best_size) continue;
        if (!str_empty(v->status.phase) && !str_eq(v->status.phase, "Available") && !str_eq(v->status.phase, "Pending"))
            continue;
        best = l.items[i];
        best_size = size;
    }
    return object_ref(best);
}

/* ---- binding ---- */

static int set_volume_phase(struct pv_controller *c, struct arena *a, const pv_t *v, const char *phase, struct err *e) {
    if (str_eq(v->status.phase, phase)) return 0;
    pv_t fresh = *v;
    fresh.status.phase = phase;
    fresh.status.last_phase_transition_time = ktime_now_s();
    struct client_opts o = {.cause = v->metadata.resource_version};
    return client_update_status(c->m->client, a, &client_persistentvolumes, NULL, &fresh, &o, NULL, e);
}

static int bind(struct pv_controller *c, struct arena *a, const pv_t *v, const pvc_t *k, struct err *e) {
    struct client_opts o = {.cause = k->metadata.resource_version};
    pv_t vol = *v;
    int r = 0;
    if (!vol.spec.claim_ref || str_empty(vol.spec.claim_ref->uid)) {
        if (!vol.spec.claim_ref) map_set(a, &vol.metadata.annotations, BOUND_BY_US, "yes");
        vol.spec.claim_ref = claim_reference(a, k);
        r = client_update(c->m->client, a, &client_persistentvolumes, NULL, &vol, &o, &vol, e);
    }
    if (r == 0) r = set_volume_phase(c, a, &vol, "Bound", e);
    pvc_t claim = *k;
    if (r == 0 && (str_empty(k->spec.volume_name) || !str_map_get(&k->metadata.annotations, BIND_COMPLETED))) {
        if (str_empty(claim.spec.volume_name)) map_set(a, &claim.metadata.annotations, BOUND_BY_US, "yes");
        map_set(a, &claim.metadata.annotations, BIND_COMPLETED, "yes");
        claim.spec.volume_name = vol.metadata.name;
        r = client_update(c->m->client, a, &client_persistentvolumeclaims, k->metadata.namespace, &claim, &o, &claim,
                          e);
    }
    if (r < 0 || str_eq(claim.status.phase, "Bound")) return r;
    /* only now: later it is whoever changes the volume's attributes that says so */
    claim.status.current_volume_attributes_class_name = vol.spec.volume_attributes_class_name;
    claim.status.phase = "Bound";
    claim.status.access_modes = vol.spec.access_modes;
    claim.status.capacity = vol.spec.capacity;
    return client_update_status(c->m->client, a, &client_persistentvolumeclaims, k->metadata.namespace, &claim, &o,
                                NULL, e);
}

/* A claim without a volume: tell whoever can help. */
static int no_volume(struct pv_controller *c, struct arena *a, const pvc_t *k, struct err *e) {
    _cleanup_object_ struct object *o =
        str_empty(k->spec.storage_class_name)
            ? NULL
            : informer_get(manager_informer(c->m, &client_storageclasses), k->spec.storage_class_name);
    const struct storage_storage_class *sc = o ? o->obj : NULL;
    if (!sc || str_eq(sc->provisioner, "kubernetes.io/no-provisioner")) {
        event_record_obj(c->events, &client_persistentvolumeclaims, &k->metadata, "Normal", "FailedBinding",
                         "no persistent volumes available for this claim and no storage class is set");
        return 0;
    }
    event_record_obj(c->events, &client_persistentvolumeclaims, &k->metadata, "Normal", "ExternalProvisioning",
                     "Waiting for a volume to be created either by the external provisioner '%s' or manually by the "
                     "system administrator. If volume "
                     "creation is delayed, please verify that the provisioner is running and correctly registered.",
                     sc->provisioner);
    if (str_eq(str_map_get(&k->metadata.annotations, PROVISIONER), sc->provisioner)) return 0;
    pvc_t claim = *k;
    map_set(a, &claim.metadata.annotations, PROVISIONER, sc->provisioner);
    map_set(a, &claim.metadata.annotations, PROVISIONER_BETA, sc->provisioner);
    struct client_opts opts = {.cause = k->metadata.resource_version};
    return client_update(c->m->client, a, &client_persistentvolumeclaims, k->metadata.namespace, &claim, &opts, NULL,
                         e);
}

static bool waits_for_pod(struct pv_controller *c, const pvc_t *k) {
    if (str_empty(k->spec.storage_class_name) || str_map_get(&k->metadata.annotations, SELECTED_NODE)) return false;
    _cleanup_object_ struct object *o =
        informer_get(manager_informer(c->m, &client_storageclasses), k->spec.storage_class_name);
    const struct storage_storage_class *sc = o ? o->obj : NULL;
    return sc && str_eq(sc->volume_binding_mode, "WaitForFirstConsumer");
}

static int mark_lost(struct pv_controller *c, struct arena *a, const pvc_t *k, struct err *e) {
    if (str_eq(k->status.phase, "Lost")) return 0;
    pvc_t claim = *k;
    claim.status.phase = "Lost";
    event_record_obj(c->events, &client_persistentvolumeclaims, &k->metadata, "Warning", "ClaimLost",
                     "Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    struct client_opts o = {.cause = k->metadata.resource_version};
    return client_update_status(c->m->client, a, &client_persistentvolumeclaims, k->metadata.namespace, &claim, &o,
                                NULL, e);
}

/* ---- protection ---- */

static bool pod_uses(const struct core_pod *p, const char *claim) {
    for (size_t i = 0; i < p->spec.volumes.n; i++) {
        const struct core_volume *v = &p->spec.volumes.items[i];
        if (v->persistent_volume_claim && str_eq(v->persistent_volume_claim->claim_name, claim)) return true;
        size_t n = strlen(str_or_empty(p->metadata.name));
        if (v->ephemeral && strncmp(claim, p->metadata.name, n) == 0 && claim[n] == '-' &&
            str_eq(claim + n + 1, v->name))
            return true;
    }
    return false;
}

/* Pods without a node do not count: a kubelet will not start one with a claim that is on its way out. */
static bool claim_in_use(struct pv_controller *c, const pvc_t *k) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_pods), k->metadata.namespace, &l);
    for (size_t i = 0; i < l.n; i++)
        if (!str_empty(((const struct core_pod *)l.items[i]->obj)->spec.node_name) &&
            !pod_is_terminal(l.items[i]->obj) && pod_uses(l.items[i]->obj, k->metadata.name))
            return true;
    return false;
}

/* ---- reconcile ---- */

static int sync_claim(void *arg, struct arena *a, const char *key, struct err *e) {
    struct pv_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_persistentvolumeclaims), key);
    if (!o) return 0;
    const pvc_t *k = o->obj;
    if (k->metadata.deletion_timestamp.set)
        return claim_in_use(c, k)
                   ? 0
                   : finalizer_drop(c->m, a, &client_persistentvolumeclaims, &k->metadata, PVC_FINALIZER, e);
    bool complete = str_map_get(&k->metadata.annotations, BIND_COMPLETED) != NULL;
    _cleanup_object_ struct object *v = find_volume(c, k);
    if (complete && !v) return mark_lost(c, a, k, e);
    if (complete && str_eq(k->status.phase, "Bound") && v && str_eq(((const pv_t *)v->obj)->status.phase, "Bound"))
        return 0;
    if (!complete && str_empty(k->spec.volume_name) && waits_for_pod(c, k) && !(v && claimed_by(v->obj, k))) {
        event_record_obj(c->events, &client_persistentvolumeclaims, &k->metadata, "Normal", "WaitForFirstConsumer",
                         "waiting for first consumer to be created before binding");
        return 0;
    }
    if (!v) return str_empty(k->spec.volume_name) ? no_volume(c, a, k, e) : 0;
    return bind(c, a, v->obj, k, e);
}

static int sync_volume(void *arg, struct arena *a, const char *key, struct err *e) {
    struct pv_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_persistentvolumes), key);
    if (!o) return 0;
    const pv_t *v = o->obj;
    const struct core_object_reference *ref = v->spec.claim_ref;
    _cleanup_object_ struct object *k = ref ? informer_get_ns(manager_informer(c->m, &client_persistentvolumeclaims),
                                                              str_or_empty(ref->namespace), str_or_empty(ref->name))
                                            : NULL;
    bool bound = k && (str_empty(ref->uid) || str_eq(ref->uid, k->meta->uid));
    if (v->metadata.deletion_timestamp.set && !(bound && str_eq(v->status.phase, "Bound")))
        return finalizer_drop(c->m, a, &client_persistentvolumes, &v->metadata, PV_FINALIZER, e);
    if (!ref || str_empty(ref->uid)) return set_volume_phase(c, a, v, "Available", e);
    if (bound) {
        workqueue_add(c->claims, k->key);
        return 0;
    }
    if (str_eq(v->status.phase, "Available") || str_empty(v->status.phase) || str_eq(v->status.phase, "Pending")) {
        /* the cache of claims may be behind */
        pvc_t live;
        _cleanup_err_ struct err ge = {0};
        int r = client_get(c->m->client, a, &client_persistentvolumeclaims, ref->namespace, ref->name, &live, &ge);
        if (r == 0 && str_eq(live.metadata.uid, ref->uid)) return 0;
        if (r < 0 && !client_err_not_found(&ge)) return r;
    }
    return set_volume_phase(c, a, v, "Released", e);
}

/* ---- what leads to a reconcile ---- */

static void all_pending(struct pv_controller *c) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_persistentvolumeclaims), NULL, &l);
    for (size_t i = 0; i < l.n; i++)
        if (!str_eq(((const pvc_t *)l.items[i]->obj)->status.phase, "Bound")) workqueue_add(c->claims, l.items[i]->key);
}

static void volume_changed(void *arg, const struct object *o) {
    struct pv_controller *c = arg;
    const pv_t *v = o->obj;
    workqueue_add(c->volumes, o->key);
    if (!v->spec.claim_ref) all_pending(c);
    if (v->spec.claim_ref) {
        _cleanup_free_ char *key =
            xasprintf("%s/%s", str_or_empty(v->spec.claim_ref->namespace), str_or_empty(v->spec.claim_ref->name));
        workqueue_add(c->claims, key);
    }
}

static void claim_changed(void *arg, const struct object *o) {
    struct pv_controller *c = arg;
    const pvc_t *k = o->obj;
    workqueue_add(c->claims, o->key);
    if (!str_empty(k->spec.volume_name)) workqueue_add(c->volumes, k->spec.volume_name);
}

static void class_changed(void *arg, struct object *o) { all_pending(arg); }

/* A pod that ended or went may have been the last user of a claim. */
static void pod_gone(void *arg, struct object *o) {
    struct pv_controller *c = arg;
    const struct core_pod *p = o->obj;
    for (size_t i = 0; i < p->spec.volumes.n; i++) {
        const struct core_volume *v = &p->spec.volumes.items[i];
        const char *name = v->persistent_volume_claim ? v->persistent_volume_claim->claim_name : NULL;
        _cleanup_free_ char *key = name ? xasprintf("%s/%s", p->metadata.namespace, name)
                                   : v->ephemeral
                                       ? xasprintf("%s/%s-%s", p->metadata.namespace, p->metadata.name, v->name)
                                       : NULL;
        if (key) workqueue_add(c->claims, key);
    }
}

static void pod_updated(void *arg, struct object *old, struct object *o) {
    if (pod_is_terminal(o->obj) && !pod_is_terminal(old->obj)) pod_gone(arg, o);
}

int persistentvolume_start(struct manager *m, struct err *e) {
    struct pv_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "persistentvolume-controller");
    c->claims = manager_queue(m, "persistentvolumeclaim", 1, sync_claim, c, &client_persistentvolumeclaims,
                              &client_persistentvolumes, &client_storageclasses, &client_pods, &client_nodes, NULL);
    c->volumes = manager_queue(m, "persistentvolume", 1, sync_volume, c, &client_persistentvolumeclaims,
                               &client_persistentvolumes, NULL);
    manager_watch(m, &client_persistentvolumes, volume_changed, c);
    manager_watch(m, &client_persistentvolumeclaims, claim_changed, c);
    struct informer_handler classes = {.on_add = class_changed, .arg = c},
                            pods = {.on_update = pod_updated, .on_delete = pod_gone, .arg = c};
    informer_add_handler(manager_informer(m, &client_storageclasses), &classes);
    informer_add_handler(manager_informer(m, &client_pods), &pods);
    return 0;
}
