/* Volumes of CSI drivers, step by step; see csi.h. What is known of a volume is in two small files:
 *
 *   <root>/pods/<uid>/volumes/kubernetes.io~csi/<name>/vol_data.json          published to a pod (mount
 * beside it); volumeDevices for a block device <root>/plugins/kubernetes.io/csi/<driver>/<sha256 of
 * handle>/vol_data.json  staged (globalmount beside it)
 *
 * One volume is worked on by one thread at a time. */
#include <dirent.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>

#include "kubelet/csi_internal.h"
#include "kubelet/node.h"
#include "kubelet/safepath.h"
#include "pkg/client/volumes.h"
#include "pkg/json/json.h"

enum { VOL_DATA_MAX = 64 * 1024 };
#define VOL_DATA "vol_data.json"

static char *sha256_hex(struct arena *a, const char *text) {
    uint8_t md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_Digest(text, strlen(text), md, &n, EVP_sha256(), NULL);
    char *out = arena_alloc(a, 2 * n + 1);
    hex_encode(md, n, out);
    out[2 * n] = '\0';
    return out;
}

/* ---- what is written down ---- */

/* A vol_data.json. */
struct vol_data {
    const char *driver, *handle, *attachment, *target, *staging;
    const char *done; /* boot in which the step was finished, "" before that */
};

static void data_write(struct arena *a, const char *dir, const struct vol_data *d, const char *name, const char *node) {
    struct json *o = json_object(a);
    json_set_str(a, o, "driverName", d->driver);
    json_set_str(a, o, "volumeHandle", d->handle);
    json_set_str(a, o, "attachmentID", str_or_empty(d->attachment));
    json_set_str(a, o, "specVolID", str_or_empty(name));
    json_set_str(a, o, "nodeName", node);
    json_set_str(a, o, "target", str_or_empty(d->target));
    json_set_str(a, o, "staging", str_or_empty(d->staging));
    json_set_str(a, o, "done", str_or_empty(d->done));
    const char *text = json_text(a, o);
    file_write_atomic(arena_printf(a, "%s/" VOL_DATA, dir), text, strlen(text), 0600);
}

static bool data_read(struct arena *a, const char *dir, struct vol_data *d) {
    _cleanup_free_ char *text = NULL;
    size_t n;
    struct json *o;
    if (file_read(arena_printf(a, "%s/" VOL_DATA, dir), VOL_DATA_MAX, &text, &n) < 0) return false;
    if (json_parse(a, text, n, &o, NULL, NULL) < 0) return false;
    *d = (struct vol_data){json_get_str(o, "driverName"),   json_get_str(o, "volumeHandle"),
                           json_get_str(o, "attachmentID"), json_get_str(o, "target"),
                           json_get_str(o, "staging"),      str_or_empty(json_get_str(o, "done"))};
    return d->driver && d->handle;
}

static char *plugin_dir(struct csi *c, struct arena *a) {
    return arena_printf(a, "%s/plugins/kubernetes.io/csi", c->kl->cfg.root_dir);
}

static char *staging_dir(struct csi *c, struct arena *a, const char *driver, const char *handle) {
    return arena_printf(a, "%s/%s/%s", plugin_dir(c, a), driver, sha256_hex(a, handle));
}

static const char *const pod_parts[] = {"volumes", "volumeDevices"};
static char *pod_csi_dir(struct csi *c, struct arena *a, const char *uid, bool block) {
    return arena_printf(a, "%s/%s/" CSI_PLUGIN, kubelet_pod_dir(c->kl, a, uid), pod_parts[block]);
}

/* Calls `fn` for each volume of a pod until it returns non-zero. */
typedef int volume_fn(struct csi *c, struct arena *a, const char *dir, const struct vol_data *d, void *arg);
static int each_of_pod(struct csi *c, struct arena *a, const char *uid, volume_fn *fn, void *arg) {
    int r = 0;
    for (int block = 0; block < 2 && r == 0; block++) {
        const char *dir = pod_csi_dir(c, a, uid, block);
        DIR *d = opendir(dir);
        for (struct dirent *ent; d && r == 0 && (ent = readdir(d));) {
            struct vol_data data;
            if (ent->d_name[0] == '.') continue;
            const char *path = arena_printf(a, "%s/%s", dir, ent->d_name);
            if (data_read(a, path, &data)) r = fn(c, a, path, &data, arg);
        }
        if (d) closedir(d);
    }
    return r;
}

/* For each volume of every pod. */
static int each_volume(struct csi *c, struct arena *a, volume_fn *fn, void *arg) {
    DIR *d = opendir(arena_printf(a, "%s/pods", c->kl->cfg.root_dir));
    int r = 0;
    for (struct dirent *ent; d && r == 0 && (ent = readdir(d));)
        if (ent->d_name[0] != '.') r = each_of_pod(c, a, ent->d_name, fn, arg);
    if (d) closedir(d);
    return r;
}

static int same_volume(struct csi *c, struct arena *a, const char *dir, const struct vol_data *d, void *arg) {
    const struct vol_data *want = arg;
    return str_eq(d->driver, want->driver) && str_eq(d->handle, want->handle);
}

/* ---- one at a time ---- */

static char *volume_lock(struct csi *c, const char *driver, const char *handle) {
    char *key = xasprintf("%s^%s", driver, handle);
    pthread_mutex_lock(&c->lock);
    while (map_has(&c->busy, key)) pthread_cond_wait(&c->idle, &c->lock);
    map_put(&c->busy, key, c);
    pthread_mutex_unlock(&c->lock);
    return key;
}

struct held {
    struct csi *c;
    char *key;
};
static void volume_unlock(struct held *h) {
    pthread_mutex_lock(&h->c->lock);
    map_del(&h->c->busy, h->key);
    pthread_cond_broadcast(&h->c->idle);
    pthread_mutex_unlock(&h->c->lock);
    free(h->key);
}
#define _cleanup_held_ _unused_ _cleanup_(volume_unlock)

/* ---- what the driver is told ---- */

static int access_mode(const struct csi_driver *d, const struct csi_volume *v) {
    const char *m = v->access_modes && v->access_modes->n ? v->access_modes->items[0] : "ReadWriteOnce";
    bool multi = csi_can(d, CSI_NODE_RPC_SINGLE_NODE_MULTI_WRITER);
    if (str_eq(m, "ReadOnlyMany")) return CSI_ACCESS_MODE_KIND_MULTI_NODE_READER_ONLY;
    if (str_eq(m, "ReadWriteMany")) return CSI_ACCESS_MODE_KIND_MULTI_NODE_MULTI_WRITER;
    if (!multi) return CSI_ACCESS_MODE_KIND_SINGLE_NODE_WRITER;
    return str_eq(m, "ReadWriteOncePod") ? CSI_ACCESS_MODE_KIND_SINGLE_NODE_SINGLE_WRITER
                                         : CSI_ACCESS_MODE_KIND_SINGLE_NODE_MULTI_WRITER;
}

static struct csi_volume_capability *capability(struct arena *a, const struct csi_driver *d, const struct csi_volume *v,
                                                const struct core_pod *pod) {
    struct csi_volume_capability *cap = arena_zalloc(a, sizeof(*cap));
    cap->access_mode = arena_zalloc(a, sizeof(*cap->access_mode));
    cap->access_mode->mode = access_mode(d, v);
    if (v->block) {
        cap->block = arena_zalloc(a, sizeof(*cap->block));
        return cap;
    }
    const struct core_pod_security_context *sc = pod ? pod->spec.security_context : NULL;
    cap->mount = arena_zalloc(a, sizeof(*cap->mount));
    cap->mount->fs_type = v->fs_type;
    if (v->mount_options) cap->mount->mount_flags = *v->mount_options;
    if (sc && sc->fs_group && csi_can(d, CSI_NODE_RPC_VOLUME_MOUNT_GROUP))
        cap->mount->volume_mount_group = arena_printf(a, "%lld", (long long)*sc->fs_group);
    return cap;
}

static int secrets_of(struct csi *c, struct arena *a, const struct csi_secret_ref *ref, struct str_map *out,
                      struct err *e) {
    struct core_secret s = {0};
    if (str_empty(ref->name)) return 0;
    int r = objects_secret(c->kl->objects, a, ref->ns, ref->name, &s, e);
    if (r < 0) return err_wrap(e, "fetching secret %s/%s of the volume failed", ref->ns, ref->name);
    out->items = arena_zalloc(a, (s.data.n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < s.data.n; i++)
        out->items[out->n++] = (struct str_map_entry){
            s.data.items[i].key, arena_strndup(a, (const char *)s.data.items[i].value.p, s.data.items[i].value.n)};
    return 0;
}

static void map_add(struct arena *a, struct str_map *m, const char *key, const char *value) {
    struct str_map_entry *items = arena_alloc(a, (m->n + 1) * sizeof(*items));
    if (m->n) memcpy(items, m->items, m->n * sizeof(*items));
    items[m->n] = (struct str_map_entry){key, value};
    m->items = items;
    m->n++;
}

/* Tokens of the pod's service account, for the audiences that the driver asks for: a JSON object by audience.
 */
static int add_tokens(struct csi *c, struct arena *a, const struct core_pod *pod,
                      const struct storage_csi_driver_spec *drv, struct str_map *out, struct err *e) {
    struct json *all = json_object(a);
    for (size_t i = 0; i < drv->token_requests.n; i++) {
        const struct storage_token_request *t = &drv->token_requests.items[i];
        const char *audience = t->audience;
        struct client_token_request rq = {.ns = pod->metadata.namespace,
                                          .service_account = pod->spec.service_account_name,
                                          .audiences = &audience,
                                          .n_audiences = str_empty(audience) ? 0 : 1,
                                          .expiration_seconds = t->expiration_seconds ? *t->expiration_seconds : 0,
                                          .bound_kind = "Pod",
                                          .bound_name = pod->metadata.name,
                                          .bound_uid = pod->metadata.uid};
        struct client_token tok;
        char until[KTIME_MAX];
        int r = client_create_token(c->kl->client, a, &rq, &tok, e);
        if (r < 0) return err_wrap(e, "cannot get a token for the CSI driver");
        struct json *o = json_object(a);
        json_set_str(a, o, "token", tok.token);
        json_set_str(a, o, "expirationTimestamp", ktime_format(tok.expires, until));
        json_set(a, all, str_or_empty(audience), o);
    }
    if (drv->token_requests.n) map_add(a, out, "csi.storage.k8s.io/serviceAccount.tokens", json_text(a, all));
    return 0;
}

static bool is(const bool *b, bool otherwise) { return b ? *b : otherwise; }

/* The driver's CSIDriver object; without one, what its fields mean when they are not set. */
static int driver_object(struct csi *c, struct arena *a, const char *name, struct storage_csi_driver_spec *out,
                         struct err *e) {
    struct storage_csi_driver o = {0};
    struct err why = {0};
    *out = (struct storage_csi_driver_spec){0};
    if (!c->kl->client) return err_set(e, -ENOTCONN, "CSI volumes need an API server");
    int r = client_get(c->kl->client, a, &client_csidrivers, NULL, name, &o, &why);
    if (r == 0)
        *out = o.spec;
    else if (why.status == 404)
        r = 0;
    if (r < 0)
        err_move(e, &why);
    else
        err_done(&why);
    return r;
}

/* ---- attached? ---- */

static bool has_str(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

/* The Node must say that the volume is attached and that it is in use: then nobody detaches it under the pod.
 */
static int wait_attached(struct csi *c, struct arena *a, const struct core_pod *pod, const struct csi_volume *v,
                         struct str_map *context, struct err *e) {
    struct kubelet *kl = c->kl;
    const char *unique = csi_unique_name(a, v->driver, v->handle);
    _cleanup_free_ char *key = xasprintf("%s/%s", pod->metadata.uid, unique);
    pthread_mutex_lock(&c->lock);
    bool fresh = !map_put(&c->wanted, key, c);
    pthread_mutex_unlock(&c->lock);
    if (fresh) node_wake(kl->node);
    _cleanup_object_ struct object *o = kl->node_informer ? informer_get(kl->node_informer, kl->node_name) : NULL;
    const struct core_node *node = o ? o->obj : NULL;
    bool attached = false;
    for (size_t i = 0; node && i < node->status.volumes_attached.n; i++)
        attached |= str_eq(node->status.volumes_attached.items[i].name, unique);
    if (!attached || !has_str(&node->status.volumes_in_use, unique))
        return err_set(e, -EAGAIN, "volume %s is not attached to the node yet", v->name);
    struct storage_volume_attachment va = {0};
    const char *name = csi_attachment_name(a, v->driver, v->handle, kl->node_name);
    int r = client_get(kl->client, a, &client_volumeattachments, NULL, name, &va, e);
    if (r < 0) return err_wrap(e, "cannot read VolumeAttachment %s", name);
    if (va.metadata.deletion_timestamp.set) return err_set(e, -EAGAIN, "volume attachment is being deleted");
    if (!va.status.attached && va.status.attach_error)
        return err_set(e, -EIO, "%s", str_or_empty(va.status.attach_error->message));
    if (!va.status.attached) return err_set(e, -EAGAIN, "volume %s is not attached to the node yet", v->name);
    *context = va.status.attachment_metadata;
    return 0;
}

/* ---- stage, publish ---- */

static const char *staging_path(struct csi *c, struct arena *a, const struct csi_volume *v) {
    return v->block ? arena_printf(a, "%s/volumeDevices/staging/%s", plugin_dir(c, a), v->name)
                    : arena_printf(a, "%s/globalmount", staging_dir(c, a, v->driver, v->handle));
}

static int stage(struct csi *c, struct arena *a, struct csi_driver *d, const struct core_pod *pod,
                 const struct csi_volume *v, const struct str_map *context, const char *attachment, struct err *e) {
    const char *dir = staging_dir(c, a, v->driver, v->handle), *path = staging_path(c, a, v);
    struct vol_data have, data = {v->driver, v->handle, attachment, path, NULL, NULL};
    if (data_read(a, dir, &have) && str_eq(have.done, c->boot)) return 0;
    int r = mkdir_p(dir, 0750);
    if (r == 0) r = mkdir_p(path, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", path);
    data_write(a, dir, &data, v->name, c->kl->node_name);
    struct csi_node_stage_volume_request rq = {.volume_id = v->handle,
                                               .publish_context = *context,
                                               .staging_target_path = path,
                                               .volume_capability = capability(a, d, v, pod)};
    if (v->attributes) rq.volume_context = *v->attributes;
    struct csi_node_stage_volume_response rs = {0};
    r = secrets_of(c, a, &v->stage_secret, &rq.secrets, e);
    if (r == 0) r = grpc_call(d->grpc, &api_rpc_csi_node_node_stage_volume, &rq, a, &rs, 0, e);
    if (r < 0) return err_wrap(e, "NodeStageVolume");
    data.done = c->boot;
    data_write(a, dir, &data, v->name, c->kl->node_name);
    return 0;
}

static int volume_context(struct csi *c, struct arena *a, const struct core_pod *pod, const struct csi_volume *v,
                          const struct storage_csi_driver_spec *drv, struct csi_node_publish_volume_request *rq,
                          struct err *e) {
    struct str_map *m = &rq->volume_context;
    if (v->attributes) *m = *v->attributes;
    if (is(drv->pod_info_on_mount, false)) {
        map_add(a, m, "csi.storage.k8s.io/pod.name", pod->metadata.name);
        map_add(a, m, "csi.storage.k8s.io/pod.namespace", pod->metadata.namespace);
        map_add(a, m, "csi.storage.k8s.io/pod.uid", pod->metadata.uid);
        map_add(a, m, "csi.storage.k8s.io/serviceAccount.name", str_or_empty(pod->spec.service_account_name));
        map_add(a, m, "csi.storage.k8s.io/ephemeral", v->inline_ ? "true" : "false");
    }
    return add_tokens(c, a, pod, drv, is(drv->service_account_token_in_secrets, false) ? &rq->secrets : m, e);
}

static int publish(struct csi *c, struct arena *a, struct csi_driver *d, const struct core_pod *pod,
                   const struct csi_volume *v, const struct storage_csi_driver_spec *drv, const struct str_map *context,
                   struct vol_data *data, const char *dir, struct err *e) {
    const char *parent = v->block ? arena_printf(a, "%s/volumeDevices/publish/%s", plugin_dir(c, a), v->name) : dir;
    int r = mkdir_p(dir, 0750);
    if (r == 0) r = mkdir_p(parent, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", parent);
    data_write(a, dir, data, v->name, c->kl->node_name);
    struct csi_node_publish_volume_request rq = {.volume_id = v->handle,
                                                 .publish_context = *context,
                                                 .staging_target_path = data->staging,
                                                 .target_path = data->target,
                                                 .volume_capability = capability(a, d, v, pod),
                                                 .readonly = v->read_only};
    struct csi_node_publish_volume_response rs = {0};
    r = secrets_of(c, a, &v->publish_secret, &rq.secrets, e);
    if (r == 0) r = volume_context(c, a, pod, v, drv, &rq, e);
    if (r == 0) r = grpc_call(d->grpc, &api_rpc_csi_node_node_publish_volume, &rq, a, &rs, 0, e);
    if (r < 0) return err_wrap(e, "NodePublishVolume");
    data->done = c->boot;
    data_write(a, dir, data, v->name, c->kl->node_name);
    return 0;
}

/* Whether the kubelet applies the pod's fsGroup: by the driver's policy, and not when the driver does it. */
static bool owns_group(const struct csi_driver *d, const struct csi_volume *v,
                       const struct storage_csi_driver_spec *drv) {
    if (v->block || csi_can(d, CSI_NODE_RPC_VOLUME_MOUNT_GROUP)) return false;
    const char *policy = drv->fs_group_policy;
    if (str_eq(policy, "None")) return false;
    if (str_eq(policy, "File")) return true;
    bool once = v->inline_ || !v->access_modes;
    for (size_t i = 0; !once && i < v->access_modes->n; i++)
        once =
            str_eq(v->access_modes->items[i], "ReadWriteOnce") || str_eq(v->access_modes->items[i], "ReadWriteOncePod");
    return once && !str_empty(v->fs_type) && !v->read_only;
}

static int check_lifecycle(const struct csi_volume *v, const struct storage_csi_driver_spec *drv, struct err *e) {
    bool ok = !drv->volume_lifecycle_modes.n && !v->inline_;
    const char *mode = v->inline_ ? "Ephemeral" : "Persistent";
    for (size_t i = 0; i < drv->volume_lifecycle_modes.n; i++) ok |= str_eq(drv->volume_lifecycle_modes.items[i], mode);
    return ok ? 0
              : err_set(e, -ENOTSUP, "volume mode \"%s\" not supported by driver %s (its CSIDriver says which are)",
                        mode, v->driver);
}

int csi_volume_mount(struct csi *c, struct arena *a, const struct core_pod *pod, const struct csi_volume *v,
                     struct csi_mounted *out, struct err *e) {
    struct storage_csi_driver_spec drv;
    struct vol_data have, data = {.driver = v->driver, .handle = v->handle};
    struct str_map context = {0};
    const char *dir = arena_printf(a, "%s/%s", pod_csi_dir(c, a, pod->metadata.uid, v->block), v->name);
    data.target = v->block
                      ? arena_printf(a, "%s/volumeDevices/publish/%s/%s", plugin_dir(c, a), v->name, pod->metadata.uid)
                      : arena_printf(a, "%s/mount", dir);
    *out = (struct csi_mounted){.path = data.target};
    int r = driver_object(c, a, v->driver, &drv, e);
    bool again = is(drv.requires_republish, false);
    _cleanup_held_ struct held held = {c, volume_lock(c, v->driver, v->handle)};
    bool there = data_read(a, dir, &have) && str_eq(have.done, c->boot);
    if (there && (r < 0 || !again)) { /* nothing to do; neither driver nor server are needed for that */
        err_done(e);
        return 0;
    }
    if (r == 0) r = check_lifecycle(v, &drv, e);
    _cleanup_csi_driver_ struct csi_driver *d = r == 0 ? csi_driver_get(c, v->driver, e) : NULL;
    if (!d) return r < 0 ? r : -ENODEV;
    if (!v->inline_ && is(drv.attach_required, true)) {
        r = wait_attached(c, a, pod, v, &context, e);
        if (r < 0) return r;
        data.attachment = csi_attachment_name(a, v->driver, v->handle, c->kl->node_name);
    }
    if (!v->inline_ && csi_can(d, CSI_NODE_RPC_STAGE_UNSTAGE_VOLUME)) {
        data.staging = staging_path(c, a, v);
        r = stage(c, a, d, pod, v, &context, data.attachment, e);
        if (r < 0) return r;
    }
    r = publish(c, a, d, pod, v, &drv, &context, &data, dir, e);
    out->own_group = r == 0 && !there && owns_group(d, v, &drv);
    return r;
}

/* ---- back again ---- */

/* A folder or file that the driver should have left empty. */
static int remove_target(const char *path, struct err *e) {
    if (str_empty(path) || rmdir(path) == 0 || errno == ENOENT) return 0;
    if (errno == ENOTDIR && unlink(path) == 0) return 0;
    return err_errno(e, errno, "the driver left %s behind", path);
}

static void remove_data(struct arena *a, const char *dir) {
    unlink(arena_printf(a, "%s/" VOL_DATA, dir));
    rmdir(dir);
}

static int unpublish(struct csi *c, struct arena *a, const char *dir, const struct vol_data *d, void *arg) {
    struct err *e = arg;
    _cleanup_held_ struct held held = {c, volume_lock(c, d->driver, d->handle)};
    _cleanup_csi_driver_ struct csi_driver *drv = csi_driver_get(c, d->driver, e);
    if (!drv) return -ENODEV;
    struct csi_node_unpublish_volume_request rq = {.volume_id = d->handle, .target_path = d->target};
    struct csi_node_unpublish_volume_response rs = {0};
    int r = grpc_call(drv->grpc, &api_rpc_csi_node_node_unpublish_volume, &rq, a, &rs, 0, e);
    if (r < 0) return err_wrap(e, "NodeUnpublishVolume");
    r = remove_target(d->target, e);
    if (r == 0) remove_data(a, dir);
    return r;
}

/* The volume staged in `dir`, unless a pod still has it. */
static int unstage(struct csi *c, struct arena *a, const char *dir, struct err *e) {
    struct vol_data d;
    if (!data_read(a, dir, &d)) return 0;
    _cleanup_held_ struct held held = {c, volume_lock(c, d.driver, d.handle)};
    if (!data_read(a, dir, &d) || each_volume(c, a, same_volume, &d)) return 0;
    _cleanup_csi_driver_ struct csi_driver *drv = csi_driver_get(c, d.driver, e);
    if (!drv) return -ENODEV;
    struct csi_node_unstage_volume_request rq = {.volume_id = d.handle, .staging_target_path = d.target};
    struct csi_node_unstage_volume_response rs = {0};
    int r = grpc_call(drv->grpc, &api_rpc_csi_node_node_unstage_volume, &rq, a, &rs, 0, e);
    if (r < 0) return err_wrap(e, "NodeUnstageVolume");
    r = remove_target(d.target, e);
    if (r == 0) remove_data(a, dir);
    return r;
}

struct handles {
    struct str_vec dirs;
    size_t cap;
};
static int collect_staging(struct csi *c, struct arena *a, const char *dir, const struct vol_data *d, void *arg) {
    struct handles *h = arg;
    ARENA_GROW(a, h->dirs.items, h->dirs.n, h->cap);
    h->dirs.items[h->dirs.n++] = staging_dir(c, a, d->driver, d->handle);
    return 0;
}

static void unwanted(struct csi *c, const char *uid) {
    size_t it = 0, len = strlen(uid);
    const char *key;
    void *value;
    pthread_mutex_lock(&c->lock);
    while (map_next(&c->wanted, &it, &key, &value)) {
        if (strncmp(key, uid, len) != 0 || key[len] != '/') continue;
        map_del(&c->wanted, key);
        it = 0;
    }
    pthread_mutex_unlock(&c->lock);
}

int csi_pod_unmount(struct csi *c, const char *uid, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct handles h = {0};
    each_of_pod(c, a, uid, collect_staging, &h);
    struct err one = {0};
    int r = each_of_pod(c, a, uid, unpublish, &one);
    if (r < 0) {
        err_wrap(&one, "UnmountVolume.TearDown failed");
        err_move(e, &one);
        return r;
    }
    for (size_t i = 0; i < h.dirs.n; i++) { /* what fails here is tried again by csi_collect */
        _cleanup_err_ struct err ue = {0};
        if (unstage(c, a, h.dirs.items[i], &ue) < 0)
            log_warn("cannot unstage a volume", "folder", h.dirs.items[i], "error", ue.msg, NULL);
    }
    unwanted(c, uid);
    if (h.dirs.n && c->kl->node) node_wake(c->kl->node);
    return 0;
}

/* Calls `fn` for each folder of a staged volume. */
static void each_staged(struct csi *c, struct arena *a, void (*fn)(struct csi *, struct arena *, const char *, void *),
                        void *arg) {
    const char *root = plugin_dir(c, a);
    DIR *drivers = opendir(root);
    for (struct dirent *x; drivers && (x = readdir(drivers));) {
        if (x->d_name[0] == '.' || str_eq(x->d_name, "volumeDevices")) continue;
        const char *dir = arena_printf(a, "%s/%s", root, x->d_name);
        DIR *volumes = opendir(dir);
        for (struct dirent *y; volumes && (y = readdir(volumes));)
            if (y->d_name[0] != '.') fn(c, a, arena_printf(a, "%s/%s", dir, y->d_name), arg);
        if (volumes) closedir(volumes);
    }
    if (drivers) closedir(drivers);
}

static void collect_one(struct csi *c, struct arena *a, const char *dir, void *arg) {
    _cleanup_err_ struct err e = {0};
    int r = unstage(c, a, dir, &e);
    if (r < 0 && r != -ENODEV) log_warn("cannot unstage a volume", "folder", dir, "error", e.msg, NULL);
}

void csi_collect(struct csi *c) {
    _cleanup_arena_ struct arena *a = arena_new();
    each_staged(c, a, collect_one, NULL);
}

/* ---- in use ---- */

static void in_use_add(struct arena *a, struct handles *h, const char *unique) {
    if (has_str(&h->dirs, unique)) return;
    ARENA_GROW(a, h->dirs.items, h->dirs.n, h->cap);
    h->dirs.items[h->dirs.n++] = unique;
}
static int in_use_published(struct csi *c, struct arena *a, const char *dir, const struct vol_data *d, void *arg) {
    if (!str_empty(d->attachment)) in_use_add(a, arg, csi_unique_name(a, d->driver, d->handle));
    return 0;
}
static void in_use_staged(struct csi *c, struct arena *a, const char *dir, void *arg) {
    struct vol_data d;
    if (data_read(a, dir, &d)) in_use_published(c, a, dir, &d, arg);
}
static int by_name(const void *x, const void *y) { return strcmp(*(char *const *)x, *(char *const *)y); }

struct str_vec csi_volumes_in_use(struct csi *c, struct arena *a) {
    struct handles h = {0};
    size_t it = 0;
    const char *key;
    void *value;
    if (c->kl->fake) return h.dirs;
    pthread_mutex_lock(&c->lock);
    while (map_next(&c->wanted, &it, &key, &value)) in_use_add(a, &h, arena_strdup(a, strchr(key, '/') + 1));
    pthread_mutex_unlock(&c->lock);
    each_staged(c, a, in_use_staged, &h);
    if (h.dirs.n || access(plugin_dir(c, a), F_OK) == 0 || c->drivers.n) each_volume(c, a, in_use_published, &h);
    if (h.dirs.n) qsort(h.dirs.items, h.dirs.n, sizeof(*h.dirs.items), by_name);
    return h.dirs;
}

/* ---- growing, statistics ---- */

int csi_volume_expand(struct csi *c, struct arena *a, const char *uid, const struct csi_volume *v, int64_t bytes,
                      struct err *e) {
    struct vol_data d;
    const char *dir = arena_printf(a, "%s/%s", pod_csi_dir(c, a, uid, v->block), v->name);
    _cleanup_held_ struct held held = {c, volume_lock(c, v->driver, v->handle)};
    _cleanup_csi_driver_ struct csi_driver *drv = csi_driver_get(c, v->driver, e);
    if (!drv) return -ENODEV;
    if (!csi_can(drv, CSI_NODE_RPC_EXPAND_VOLUME))
        return err_set(e, -ENOTSUP, "driver %s does not expand on nodes", v->driver);
    if (!data_read(a, dir, &d)) return err_set(e, -ENOENT, "volume %s is not mounted", v->name);
    struct csi_capacity_range range = {.required_bytes = bytes};
    struct csi_node_expand_volume_request rq = {.volume_id = v->handle,
                                                .volume_path = d.target,
                                                .staging_target_path = str_empty(d.staging) ? NULL : d.staging,
                                                .capacity_range = &range,
                                                .volume_capability = capability(a, drv, v, NULL)};
    struct csi_node_expand_volume_response rs = {0};
    int r = secrets_of(c, a, &v->expand_secret, &rq.secrets, e);
    if (r == 0) r = grpc_call(drv->grpc, &api_rpc_csi_node_node_expand_volume, &rq, a, &rs, 0, e);
    return r < 0 ? err_wrap(e, "NodeExpandVolume") : 0;
}

int csi_volume_stats(struct csi *c, struct arena *a, const char *uid, const char *name,
                     struct csi_node_get_volume_stats_response *out, struct err *e) {
    enum { STATS_MS = 10000 };
    struct vol_data d;
    if (!data_read(a, arena_printf(a, "%s/%s", pod_csi_dir(c, a, uid, false), name), &d) || !str_eq(d.done, c->boot))
        return err_set(e, -ENOENT, "volume %s is not mounted", name);
    _cleanup_csi_driver_ struct csi_driver *drv = csi_driver_get(c, d.driver, e);
    if (!drv) return -ENODEV;
    if (!csi_can(drv, CSI_NODE_RPC_GET_VOLUME_STATS))
        return err_set(e, -ENOTSUP, "driver %s has no statistics", d.driver);
    struct csi_node_get_volume_stats_request rq = {
        .volume_id = d.handle, .volume_path = d.target, .staging_target_path = str_empty(d.staging) ? NULL : d.staging};
    return grpc_call(drv->grpc, &api_rpc_csi_node_node_get_volume_stats, &rq, a, out, STATS_MS, e);
}
