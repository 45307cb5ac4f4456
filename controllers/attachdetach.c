/* Attaches volumes to the nodes whose pods need them, and detaches them when no pod does (upstream
 * pkg/controller/volume/attachdetach, for CSI volumes: the only attachable kind left).
 *
 * The work is reconciled by node. What ought to be attached: the volumes of its pods that have not ended, of
 * drivers that want to be asked (CSIDriver.spec.attachRequired). A VolumeAttachment asks the driver's own
 * controller for it; once that says "attached", the node's status.volumesAttached does too, which is what its
 * kubelet waits for.
 *
 * The other way round: a volume that no pod needs stays until the kubelet has taken it out of
 * status.volumesInUse. It then goes from volumesAttached first, and only after that is the VolumeAttachment
 * deleted. A node that is not Ready cannot say so: six minutes after its last pod with the volume went, it is
 * detached by force; at once if the node is tainted out-of-service. A volume that only one node may have is
 * not attached to a second before the first has let it go. */
#include <pthread.h>

#include "pkg/api/storage.h"
#include "pkg/base/map.h"
#include "pkg/client/volumes.h"
#include "pkg/json/json.h"
#include "util.h"

#define FORCE_AFTER_NS (6 * 60 * NS_PER_SEC)
#define RETRY_NS (500 * NS_PER_MS)
#define OUT_OF_SERVICE "node.kubernetes.io/out-of-service"

typedef struct core_persistent_volume pv_t;
typedef struct core_persistent_volume_claim pvc_t;
typedef struct storage_volume_attachment va_t;

struct ad_controller {
    struct manager *m;
    struct workqueue *q; /* names of nodes */
    struct event_recorder *events;
    pthread_mutex_t lock;
    struct map unneeded; /* VolumeAttachment -> mono_ns since when no pod needs it */
};

/* A volume that should be on the node. */
struct wish {
    struct object *volume, *pod; /* the first pod that wants it */
    const char *name, *unique;   /* of the attachment, of the volume in the node's status */
};
struct round {
    struct ad_controller *c;
    struct arena *a;
    const char *node_name;
    const struct core_node *node; /* NULL: gone */
    struct object_list pods, attachments, held;
    struct wish *wishes;
    size_t n, cap;
    bool again;
};

/* ---- what pods need ---- */

static bool attach_required(struct ad_controller *c, const char *driver) {
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_csidrivers), driver);
    const struct storage_csi_driver *d = o ? o->obj : NULL;
    return !d || !d->spec.attach_required || *d->spec.attach_required;
}

static struct object *hold(struct round *r, struct object *o) {
    VEC_GROW(r->held.items, r->held.n, r->held.cap);
    return r->held.items[r->held.n++] = o;
}

/* The volume behind a claim, or NULL; `waiting` when the cache does not know it yet. */
static struct object *volume_of(struct round *r, const struct core_pod *p, const char *claim) {
    struct object *k =
        informer_get_ns(manager_informer(r->c->m, &client_persistentvolumeclaims), p->metadata.namespace, claim);
    if (!k) return NULL;
    hold(r, k);
    const pvc_t *pvc = k->obj;
    struct object *v = str_eq(pvc->status.phase, "Bound") && !str_empty(pvc->spec.volume_name)
                           ? informer_get(manager_informer(r->c->m, &client_persistentvolumes), pvc->spec.volume_name)
                           : NULL;
    r->again |= !v;
    return v ? hold(r, v) : NULL;
}

static void add_wishes(struct round *r, struct object *pod) {
    const struct core_pod *p = pod->obj;
    for (size_t i = 0; i < p->spec.volumes.n; i++) {
        const char *claim = volume_claim_name(r->a, p, &p->spec.volumes.items[i]);
        struct object *o = claim ? volume_of(r, p, claim) : NULL;
        const struct core_csi_persistent_volume_source *csi = o ? ((const pv_t *)o->obj)->spec.csi : NULL;
        bool known = false;
        if (!csi || !attach_required(r->c, csi->driver)) continue;
        for (size_t k = 0; k < r->n; k++) known |= r->wishes[k].volume == o;
        if (known) continue;
        ARENA_GROW(r->a, r->wishes, r->n, r->cap);
        r->wishes[r->n++] =
            (struct wish){o, pod, csi_attachment_name(r->a, csi->driver, csi->volume_handle, r->node_name),
                          csi_unique_name(r->a, csi->driver, csi->volume_handle)};
    }
}

static void collect(struct round *r) {
    struct manager *m = r->c->m;
    _cleanup_object_list_ struct object_list all = {0};
    informer_list(manager_informer(m, &client_pods), NULL, &all);
    for (size_t i = 0; i < all.n; i++) {
        const struct core_pod *p = all.items[i]->obj;
        if (!str_eq(p->spec.node_name, r->node_name) || pod_is_terminal(p)) continue;
        VEC_GROW(r->pods.items, r->pods.n, r->pods.cap);
        r->pods.items[r->pods.n++] = object_ref(all.items[i]);
        add_wishes(r, all.items[i]);
    }
    informer_list(manager_informer(m, &client_volumeattachments), NULL, &r->attachments);
}

static const struct wish *wish_named(const struct round *r, const char *attachment) {
    for (size_t i = 0; i < r->n; i++)
        if (str_eq(r->wishes[i].name, attachment)) return &r->wishes[i];
    return NULL;
}

static const va_t *attachment_named(const struct round *r, const char *name) {
    for (size_t i = 0; i < r->attachments.n; i++)
        if (str_eq(r->attachments.items[i]->meta->name, name)) return r->attachments.items[i]->obj;
    return NULL;
}

/* ---- attaching ---- */

static bool one_node_only(const pv_t *v) {
    for (size_t i = 0; i < v->spec.access_modes.n; i++)
        if (str_eq(v->spec.access_modes.items[i], "ReadWriteMany") ||
            str_eq(v->spec.access_modes.items[i], "ReadOnlyMany"))
            return false;
    return v->spec.access_modes.n > 0;
}

/* Another node that has the volume, or NULL. */
static const char *holder(const struct round *r, const pv_t *v) {
    for (size_t i = 0; i < r->attachments.n; i++) {
        const va_t *x = r->attachments.items[i]->obj;
        if (str_eq(x->spec.source.persistent_volume_name, v->metadata.name) && !str_eq(x->spec.node_name, r->node_name))
            return x->spec.node_name;
    }
    return NULL;
}

static int attach(struct round *r, const struct wish *w, struct err *e) {
    const pv_t *v = w->volume->obj;
    const char *other = one_node_only(v) ? holder(r, v) : NULL;
    if (other) {
        event_record_obj(r->c->events, &client_pods, w->pod->meta, "Warning", "FailedAttachVolume",
                         "Multi-Attach error for volume \"%s\" Volume is already exclusively attached to one node and "
                         "can't be attached to another",
                         v->metadata.name);
        r->again = true;
        return 0;
    }
    const char *name = v->metadata.name;
    va_t va = {
        .metadata.name = w->name,
        .spec = {.attacher = v->spec.csi->driver, .node_name = r->node_name, .source.persistent_volume_name = name}};
    struct client_opts o = {.cause = w->pod->meta->resource_version};
    _cleanup_err_ struct err ce = {0};
    int rc = client_create(r->c->m->client, r->a, &client_volumeattachments, NULL, &va, &o, NULL, &ce);
    if (rc == 0 || client_err_exists(&ce)) return 0;
    event_record_obj(r->c->events, &client_pods, w->pod->meta, "Warning", "FailedAttachVolume",
                     "AttachVolume.Attach failed for volume \"%s\" : %s", name, ce.msg);
    err_move(e, &ce);
    return rc;
}

/* ---- what the node shows ---- */

static bool shows(const struct core_node *n, const char *unique) {
    for (size_t i = 0; n && i < n->status.volumes_attached.n; i++)
        if (str_eq(n->status.volumes_attached.items[i].name, unique)) return true;
    return false;
}

static bool in_use(const struct core_node *n, const char *unique) {
    for (size_t i = 0; n && i < n->status.volumes_in_use.n; i++)
        if (str_eq(n->status.volumes_in_use.items[i], unique)) return true;
    return false;
}

static bool out_of_service(const struct core_node *n) {
    for (size_t i = 0; i < n->spec.taints.n; i++)
        if (str_eq(n->spec.taints.items[i].key, OUT_OF_SERVICE)) return true;
    return false;
}

static bool node_is_ready(const struct core_node *n) {
    for (size_t i = 0; i < n->status.conditions.n; i++)
        if (str_eq(n->status.conditions.items[i].type, "Ready"))
            return str_eq(n->status.conditions.items[i].status, "True");
    return false;
}

/* Whether an attachment that no pod needs can go. */
static bool may_detach(struct round *r, const va_t *x, const char *unique) {
    if (!r->node || !in_use(r->node, unique) || out_of_service(r->node)) return true;
    pthread_mutex_lock(&r->c->lock);
    int64_t *since = map_get(&r->c->unneeded, x->metadata.name);
    if (!since) {
        since = xmalloc(sizeof(*since));
        *since = mono_ns();
        map_put(&r->c->unneeded, x->metadata.name, since);
    }
    int64_t left = FORCE_AFTER_NS - (mono_ns() - *since);
    pthread_mutex_unlock(&r->c->lock);
    if (left > 0) workqueue_add_after(r->c->q, r->node_name, left);
    return left <= 0 && !node_is_ready(r->node);
}

static void needed_again(struct ad_controller *c, const char *attachment) {
    pthread_mutex_lock(&c->lock);
    free(map_del(&c->unneeded, attachment));
    pthread_mutex_unlock(&c->lock);
}

/* The attachment's volume as the node's status names it; NULL when that cannot be told any more. */
static const char *unique_of(struct round *r, const va_t *x) {
    struct object *o = informer_get(manager_informer(r->c->m, &client_persistentvolumes),
                                    str_or_empty(x->spec.source.persistent_volume_name));
    if (!o) return NULL;
    hold(r, o);
    const struct core_csi_persistent_volume_source *csi = ((const pv_t *)o->obj)->spec.csi;
    return csi ? csi_unique_name(r->a, csi->driver, csi->volume_handle) : NULL;
}

static int write_attached(struct round *r, const struct core_attached_volume_vec *want, struct err *e) {
    bool same = want->n == r->node->status.volumes_attached.n;
    for (size_t i = 0; same && i < want->n; i++) same = shows(r->node, want->items[i].name);
    if (same) return 0;
    struct json *doc = json_object(r->a),
                *list = json_ensure_array(r->a, json_ensure_object(r->a, doc, "status"), "volumesAttached");
    for (size_t i = 0; i < want->n; i++) {
        struct json *o = json_object(r->a);
        json_set_str(r->a, o, "name", want->items[i].name);
        json_set_str(r->a, o, "devicePath", "");
        json_append(r->a, list, o);
    }
    char *body = json_text(r->a, doc);
    struct client_opts o = {.cause = r->node->metadata.resource_version, .subresource = "status"};
    return client_patch(r->c->m->client, r->a, &client_nodes, NULL, r->node_name, CLIENT_PATCH_MERGE, body,
                        strlen(body), &o, NULL, e);
}

static void tell_attached(struct round *r, const struct wish *w, const va_t *x, bool now) {
    const char *volume = w->volume->meta->name;
    if (now && !shows(r->node, w->unique))
        event_record_obj(r->c->events, &client_pods, w->pod->meta, "Normal", "SuccessfulAttachVolume",
                         "AttachVolume.Attach succeeded for volume \"%s\" ", volume);
    if (!now && x->status.attach_error)
        event_record_obj(r->c->events, &client_pods, w->pod->meta, "Warning", "FailedAttachVolume",
                         "AttachVolume.Attach failed for volume \"%s\" : %s", volume,
                         str_or_empty(x->status.attach_error->message));
}

/* ---- reconcile ---- */

/* Attachments that others made, under names of their own, are left to them. */
static bool made_here(const va_t *x) {
    enum { SHA256_HEX = 64 };
    const char *name = str_or_empty(x->metadata.name);
    return str_has_prefix(name, "csi-") && strspn(name + 4, "0123456789abcdef") == SHA256_HEX && !name[4 + SHA256_HEX];
}

static int settle(struct round *r, struct err *e) {
    struct core_attached_volume_vec want = {0};
    const va_t **leaving = arena_alloc(r->a, (r->attachments.n + 1) * sizeof(*leaving));
    size_t n_leaving = 0;
    want.items = arena_zalloc(r->a, (r->attachments.n + 1) * sizeof(*want.items));
    for (size_t i = 0; i < r->attachments.n; i++) {
        const va_t *x = r->attachments.items[i]->obj;
        if (!str_eq(x->spec.node_name, r->node_name) || str_empty(x->spec.source.persistent_volume_name)) continue;
        if (!made_here(x)) continue;
        const struct wish *w = wish_named(r, x->metadata.name);
        const char *unique = w ? w->unique : unique_of(r, x);
        bool gone = x->metadata.deletion_timestamp.set, attached = x->status.attached && !gone;
        if (w) {
            needed_again(r->c, x->metadata.name);
            r->again |= gone;
            tell_attached(r, w, x, attached);
        } else if (!gone && (!unique || may_detach(r, x, unique))) {
            leaving[n_leaving++] = x;
            attached = false;
        }
        if (attached && unique) want.items[want.n++].name = unique;
    }
    int rc = r->node ? write_attached(r, &want, e) : 0;
    for (size_t i = 0; rc == 0 && i < n_leaving; i++) {
        struct client_delete_opts o = {.cause = leaving[i]->metadata.resource_version, .uid = leaving[i]->metadata.uid};
        _cleanup_err_ struct err de = {0};
        needed_again(r->c, leaving[i]->metadata.name);
        rc = client_delete(r->c->m->client, &client_volumeattachments, NULL, leaving[i]->metadata.name, &o, &de);
        if (rc < 0 && client_err_not_found(&de)) rc = 0;
        if (rc < 0) err_move(e, &de);
    }
    return rc;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ad_controller *c = arg;
    _cleanup_object_ struct object *node = informer_get(manager_informer(c->m, &client_nodes), key);
    struct round r = {.c = c, .a = a, .node_name = key, .node = node ? node->obj : NULL};
    int rc = 0;
    collect(&r);
    for (size_t i = 0; node && rc == 0 && i < r.n; i++)
        if (!attachment_named(&r, r.wishes[i].name)) rc = attach(&r, &r.wishes[i], e);
    if (rc == 0) rc = settle(&r, e);
    if (r.again) workqueue_add_after(c->q, key, RETRY_NS);
    object_list_done(&r.pods);
    object_list_done(&r.attachments);
    object_list_done(&r.held);
    return rc;
}

/* ---- what leads to one ---- */

static void pod_changed(void *arg, const struct object *o) {
    const struct core_pod *p = o->obj;
    if (str_empty(p->spec.node_name)) return;
    for (size_t i = 0; i < p->spec.volumes.n; i++)
        if (p->spec.volumes.items[i].persistent_volume_claim || p->spec.volumes.items[i].ephemeral) {
            workqueue_add(((struct ad_controller *)arg)->q, p->spec.node_name);
            return;
        }
}

static void attachment_changed(void *arg, const struct object *o) {
    const va_t *x = o->obj;
    if (!str_empty(x->spec.node_name)) workqueue_add(((struct ad_controller *)arg)->q, x->spec.node_name);
}

static void node_changed(void *arg, struct object *old, struct object *o) {
    const struct core_node *was = old->obj, *now = o->obj;
    bool same = was->status.volumes_in_use.n == now->status.volumes_in_use.n &&
                was->status.volumes_attached.n == now->status.volumes_attached.n &&
                was->spec.taints.n == now->spec.taints.n;
    for (size_t i = 0; same && i < now->status.volumes_in_use.n; i++)
        same = str_eq(was->status.volumes_in_use.items[i], now->status.volumes_in_use.items[i]);
    if (!same) workqueue_add(((struct ad_controller *)arg)->q, o->key);
}
static void node_gone(void *arg, struct object *o) { workqueue_add(((struct ad_controller *)arg)->q, o->key); }

static void ad_done(void *p) {
    struct ad_controller *c = p;
    map_done_with(&c->unneeded, free);
    pthread_mutex_destroy(&c->lock);
}

int attachdetach_start(struct manager *m, struct err *e) {
    struct ad_controller *c = manager_alloc(m, sizeof(*c), ad_done);
    c->m = m;
    pthread_mutex_init(&c->lock, NULL);
    c->events = manager_recorder(m, "attachdetach-controller");
    c->q = manager_queue(m, "attach-detach", 1, reconcile, c, &client_pods, &client_nodes, &client_persistentvolumes,
                         &client_persistentvolumeclaims, &client_csidrivers, &client_volumeattachments, NULL);
    manager_watch(m, &client_pods, pod_changed, c);
    manager_watch(m, &client_volumeattachments, attachment_changed, c);
    struct informer_handler nodes = {.on_update = node_changed, .on_delete = node_gone, .arg = c};
    informer_add_handler(manager_informer(m, &client_nodes), &nodes);
    return 0;
}
