/* Volumes that are folders of a node's own disk, made when a claim asks for them: the provisioner
 * coracle.io/local-path. It is what claims of manifests and charts get on a machine without other storage
 * (k3s users know the like as local-path). The size asked for is not enforced.
 *
 * A claim is due when the volume controller names this provisioner on it and its pod's node is chosen. Its volume is a
 * `local` one below that node's --local-path-dir (its kubelet says which on the Node), bound to the node; the kubelet
 * makes the folder when a pod comes. When the claim goes and the policy is Delete, the node's kubelet is asked to remove
 * the folder (DELETE .../localVolumes/NAME through the node's proxy), then the volume is deleted. A node that is gone
 * for good takes its folders with it. */
#include "pkg/api/storage.h"
#include "pkg/client/nodematch.h"
#include "util.h"

#define PROVISIONER "coracle.io/local-path"
#define ANNOT_PROVISIONER "volume.kubernetes.io/storage-provisioner"
#define ANNOT_SELECTED "volume.kubernetes.io/selected-node"
#define ANNOT_DIR "coracle.io/local-path-dir" /* of a node: its kubelet's --local-path-dir */
#define ANNOT_PROVISIONED_BY "pv.kubernetes.io/provisioned-by"

typedef struct core_persistent_volume pv_t;
typedef struct core_persistent_volume_claim pvc_t;

struct lp_controller {
    struct manager *m;
    struct workqueue *claims, *volumes;
    struct event_recorder *events;
};

/* ---- making ---- */

/* The node of a claim that need not wait for a pod: the only one there is. */
static const char *only_node(struct lp_controller *c, struct arena *a) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_nodes), NULL, &l);
    return l.n == 1 ? arena_strdup(a, l.items[0]->meta->name) : NULL;
}

static struct core_volume_node_affinity *bound_to(struct arena *a, const char *host) {
    struct core_node_selector_requirement *rq = arena_zalloc(a, sizeof(*rq));
    struct core_node_selector_term *term = arena_zalloc(a, sizeof(*term));
    struct core_volume_node_affinity *na = arena_zalloc(a, sizeof(*na));
    const char **values = arena_alloc(a, sizeof(*values));
    values[0] = host;
    *rq = (struct core_node_selector_requirement){
        .key = "kubernetes.io/hostname", .operator= "In", .values = {values, 1}};
    term->match_expressions.items = rq;
    term->match_expressions.n = 1;
    na->required = arena_zalloc(a, sizeof(*na->required));
    na->required->node_selector_terms.items = term;
    na->required->node_selector_terms.n = 1;
    return na;
}

static int make_volume(struct lp_controller *c, struct arena *a, const pvc_t *k, const struct storage_storage_class *sc,
                       const struct core_node *node, struct err *e) {
    pv_t v = {0};
    const char *host = str_map_get(&node->metadata.labels, "kubernetes.io/hostname");
    const char *name = arena_printf(a, "pvc-%s", k->metadata.uid);
    v.metadata.name = name;
    map_set(a, &v.metadata.annotations, ANNOT_PROVISIONED_BY, PROVISIONER);
    map_set(a, &v.spec.capacity, "storage", str_map_get(&k->spec.resources.requests, "storage"));
    v.spec.access_modes = k->spec.access_modes;
    v.spec.claim_ref = claim_reference(a, k);
    v.spec.storage_class_name = k->spec.storage_class_name;
    v.spec.persistent_volume_reclaim_policy = str_empty(sc->reclaim_policy) ? "Delete" : sc->reclaim_policy;
    v.spec.volume_mode = "Filesystem";
    v.spec.local = arena_zalloc(a, sizeof(*v.spec.local));
    const char *dir = str_map_get(&node->metadata.annotations, ANNOT_DIR);
    v.spec.local->path = arena_printf(a, "%s/%s_%s_%s", str_empty(dir) ? c->m->opt.local_path_dir : dir, name,
                                      k->metadata.namespace, k->metadata.name);
    v.spec.node_affinity = bound_to(a, str_empty(host) ? node->metadata.name : host);
    struct client_opts o = {.cause = k->metadata.resource_version};
    _cleanup_err_ struct err ce = {0};
    int r = client_create(c->m->client, a, &client_persistentvolumes, NULL, &v, &o, NULL, &ce);
    if (r < 0 && !client_err_exists(&ce)) {
        err_move(e, &ce);
        return r;
    }
    if (r == 0)
        event_record_obj(c->events, &client_persistentvolumeclaims, &k->metadata, "Normal", "ProvisioningSucceeded",
                         "Successfully provisioned volume %s", name);
    return 0;
}

static void cannot(struct lp_controller *c, const pvc_t *k, const char *why) {
    event_record_obj(c->events, &client_persistentvolumeclaims, &k->metadata, "Warning", "ProvisioningFailed",
                     "failed to provision volume with StorageClass \"%s\": %s",
                     str_or_empty(k->spec.storage_class_name), why);
}

static int sync_claim(void *arg, struct arena *a, const char *key, struct err *e) {
    struct lp_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_persistentvolumeclaims), key);
    const pvc_t *k = o ? o->obj : NULL;
    if (!k || k->metadata.deletion_timestamp.set || !str_empty(k->spec.volume_name) ||
        !str_eq(str_map_get(&k->metadata.annotations, ANNOT_PROVISIONER), PROVISIONER))
        return 0;
    _cleanup_object_ struct object *co =
        informer_get(manager_informer(c->m, &client_storageclasses), str_or_empty(k->spec.storage_class_name));
    const struct storage_storage_class *sc = co ? co->obj : NULL;
    if (!sc || !str_eq(sc->provisioner, PROVISIONER)) return 0;
    const char *node = str_map_get(&k->metadata.annotations, ANNOT_SELECTED);
    if (!node && !str_eq(sc->volume_binding_mode, "WaitForFirstConsumer")) node = only_node(c, a);
    if (str_eq(k->spec.volume_mode, "Block")) return cannot(c, k, "folders of a disk are no block devices"), 0;
    if (k->spec.selector) return cannot(c, k, "claim.spec.selector is not supported"), 0;
    if (!node) {
        if (!str_eq(sc->volume_binding_mode, "WaitForFirstConsumer"))
            cannot(c, k, "with several nodes its volumeBindingMode has to be WaitForFirstConsumer");
        return 0;
    }
    _cleanup_object_ struct object *no = informer_get(manager_informer(c->m, &client_nodes), node);
    if (!no) return cannot(c, k, "the chosen node is gone"), 0;
    return make_volume(c, a, k, sc, no->obj, e);
}

/* ---- taking back ---- */

static struct object *node_of(struct lp_controller *c, const pv_t *v) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_nodes), NULL, &l);
    for (size_t i = 0; i < l.n; i++)
        if (v->spec.node_affinity && v->spec.node_affinity->required &&
            node_selector_matches(v->spec.node_affinity->required, l.items[i]->obj))
            return object_ref(l.items[i]);
    return NULL;
}

static int remove_folder(struct lp_controller *c, struct arena *a, const pv_t *v, const struct object *node,
                         struct err *e) {
    const char *name = strrchr(v->spec.local->path, '/');
    struct client_request rq = {
        .method = "DELETE",
        .path = arena_printf(a, "/api/v1/nodes/%s/proxy/localVolumes/%s", node->meta->name, name ? name + 1 : ""),
        .cause = v->metadata.resource_version};
    struct client_response rs = {0};
    _cleanup_err_ struct err de = {0};
    int r = client_do(c->m->client, &rq, &rs, &de);
    client_response_done(&rs);
    if (r == 0) return 0;
    event_record_obj(c->events, &client_persistentvolumes, &v->metadata, "Warning", "VolumeFailedDelete", "%s", de.msg);
    err_move(e, &de);
    return r;
}

static int sync_volume(void *arg, struct arena *a, const char *key, struct err *e) {
    struct lp_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_persistentvolumes), key);
    const pv_t *v = o ? o->obj : NULL;
    if (!v || !v->spec.local || !str_eq(v->status.phase, "Released") || v->metadata.deletion_timestamp.set ||
        !str_eq(v->spec.persistent_volume_reclaim_policy, "Delete") ||
        !str_eq(str_map_get(&v->metadata.annotations, ANNOT_PROVISIONED_BY), PROVISIONER))
        return 0;
    _cleanup_object_ struct object *node = node_of(c, v);
    int r = node ? remove_folder(c, a, v, node, e) : 0;
    if (r < 0) return r;
    struct client_delete_opts d = {.cause = v->metadata.resource_version, .uid = v->metadata.uid};
    _cleanup_err_ struct err de = {0};
    r = client_delete(c->m->client, &client_persistentvolumes, NULL, v->metadata.name, &d, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return r;
}

static void class_changed(void *arg, const struct object *o) {
    struct lp_controller *c = arg;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_persistentvolumeclaims), NULL, &l);
    for (size_t i = 0; i < l.n; i++)
        if (str_empty(((const pvc_t *)l.items[i]->obj)->spec.volume_name)) workqueue_add(c->claims, l.items[i]->key);
}

int localpath_start(struct manager *m, struct err *e) {
    if (str_empty(m->opt.local_path_dir)) return 0;
    struct lp_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, PROVISIONER);
    c->claims = manager_queue(m, "local-path-claims", 1, sync_claim, c, &client_persistentvolumeclaims,
                              &client_storageclasses, &client_nodes, NULL);
    c->volumes =
        manager_queue(m, "local-path-volumes", 1, sync_volume, c, &client_persistentvolumes, &client_nodes, NULL);
    manager_watch_keys(m, &client_persistentvolumeclaims, c->claims);
    manager_watch_keys(m, &client_persistentvolumes, c->volumes);
    manager_watch(m, &client_storageclasses, class_changed, c);
    return 0;
}
