/* The drivers: registration, and how the node shows them. See csi.h. */
#include "kubelet/csi_internal.h"
#include "kubelet/node.h"
#include "pkg/json/json.h"

enum { INFO_MS = 10000, MAX_DRIVERS = 64 };
#define ANNOT_NODE_ID "csi.volume.kubernetes.io/nodeid"

struct csi *csi_new(struct kubelet *kl) {
    struct csi *c = xcalloc(1, sizeof(*c));
    c->kl = kl;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->idle, NULL);
    c->dirty = true;
    _cleanup_free_ char *boot = NULL;
    if (file_read("/proc/sys/kernel/random/boot_id", sizeof(c->boot), &boot, NULL) == 0)
        snprintf(c->boot, sizeof(c->boot), "%.*s", (int)strcspn(boot, "\n"), boot);
    return c;
}

void csi_driver_unref(struct csi_driver *d) {
    if (!d || --d->refs) return;
    grpc_client_free(d->grpc);
    arena_free(d->arena);
    free(d->name);
    free(d->endpoint);
    free(d->node_id);
    free(d);
}

static void driver_drop(void *d) { csi_driver_unref(d); }

void csi_free(struct csi *c) {
    if (!c) return;
    map_done_with(&c->drivers, driver_drop);
    map_done(&c->busy);
    map_done(&c->wanted);
    pthread_cond_destroy(&c->idle);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

struct csi_driver *csi_driver_get(struct csi *c, const char *name, struct err *e) {
    pthread_mutex_lock(&c->lock);
    struct csi_driver *d = map_get(&c->drivers, str_or_empty(name));
    if (d) d->refs++;
    pthread_mutex_unlock(&c->lock);
    if (!d) err_set(e, -ENODEV, "driver name %s not found in the list of registered CSI drivers", str_or_empty(name));
    return d;
}

/* ---- registration ---- */

/* Version 1 of the interface, in any minor version. */
static bool speaks_v1(const struct str_vec *versions) {
    for (size_t i = 0; i < versions->n; i++) {
        const char *v = versions->items[i] + (versions->items[i][0] == 'v');
        if (str_eq(v, "1") || str_has_prefix(v, "1.")) return true;
    }
    return false;
}

static int ask_driver(struct csi_driver *d, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct csi_node_get_info_request ask = {0};
    struct csi_node_get_info_response info = {0};
    struct csi_node_get_capabilities_request ask_caps = {0};
    struct csi_node_get_capabilities_response caps = {0};
    int r = grpc_call(d->grpc, &api_rpc_csi_node_node_get_info, &ask, a, &info, INFO_MS, e);
    if (r < 0) return err_wrap(e, "error retrieving CSI node info of driver %s", d->name);
    if (str_empty(info.node_id)) return err_set(e, -EINVAL, "CSI driver %s gives no node id", d->name);
    r = grpc_call(d->grpc, &api_rpc_csi_node_node_get_capabilities, &ask_caps, a, &caps, INFO_MS, e);
    if (r < 0) return err_wrap(e, "error retrieving the capabilities of CSI driver %s", d->name);
    for (size_t i = 0; i < caps.capabilities.n; i++) {
        const struct csi_rpc_capability *rpc = caps.capabilities.items[i].rpc;
        if (rpc && rpc->type > 0 && rpc->type < 32) d->capabilities |= 1U << rpc->type;
    }
    d->node_id = xstrdup(info.node_id);
    d->max_volumes = info.max_volumes_per_node;
    const struct str_map *seg = info.accessible_topology ? &info.accessible_topology->segments : NULL;
    d->topology.items = arena_zalloc(d->arena, ((seg ? seg->n : 0) + 1) * sizeof(*d->topology.items));
    for (size_t i = 0; seg && i < seg->n; i++)
        d->topology.items[d->topology.n++] = (struct str_map_entry){arena_strdup(d->arena, seg->items[i].key),
                                                                    arena_strdup(d->arena, seg->items[i].value)};
    return 0;
}

int csi_register(struct csi *c, const char *name, const char *endpoint, const struct str_vec *versions, struct err *e) {
    if (!speaks_v1(versions)) return err_set(e, -EINVAL, "CSI driver %s does not speak version 1 of CSI", name);
    struct csi_driver *d = xcalloc(1, sizeof(*d));
    d->refs = 1;
    d->name = xstrdup(name);
    d->endpoint = xstrdup(endpoint);
    d->arena = arena_new();
    d->grpc = grpc_client_new(endpoint);
    int r = ask_driver(d, e);
    pthread_mutex_lock(&c->lock);
    if (r == 0 && c->drivers.n >= MAX_DRIVERS) r = err_set(e, -ENOSPC, "more than %d CSI drivers", MAX_DRIVERS);
    struct csi_driver *old = r == 0 ? map_put(&c->drivers, name, d) : d;
    if (r == 0) c->dirty = true;
    pthread_mutex_unlock(&c->lock);
    csi_driver_unref(old);
    if (r == 0 && c->kl->node) node_wake(c->kl->node);
    return r;
}

void csi_unregister(struct csi *c, const char *name) {
    pthread_mutex_lock(&c->lock);
    struct csi_driver *d = map_del(&c->drivers, name);
    c->dirty = true;
    pthread_mutex_unlock(&c->lock);
    csi_driver_unref(d);
    if (c->kl->node) node_wake(c->kl->node);
}

/* ---- the node's objects ---- */

/* Copies of what the objects show, so that no lock is held while they are written. */
struct shown {
    struct storage_csi_node_driver_vec drivers;
    struct str_map labels;
    const char *ids; /* the annotation; NULL: none */
};

static void show(struct csi *c, struct arena *a, struct shown *out) {
    struct json *ids = json_object(a);
    size_t it = 0, label_cap = 0;
    const char *name;
    void *value;
    pthread_mutex_lock(&c->lock);
    out->drivers.items = arena_zalloc(a, (c->drivers.n + 1) * sizeof(*out->drivers.items));
    while (map_next(&c->drivers, &it, &name, &value)) {
        const struct csi_driver *d = value;
        struct storage_csi_node_driver *x = &out->drivers.items[out->drivers.n++];
        x->name = arena_strdup(a, d->name);
        x->node_id = arena_strdup(a, d->node_id);
        json_set_str(a, ids, x->name, x->node_id);
        x->topology_keys.items = arena_zalloc(a, (d->topology.n + 1) * sizeof(char *));
        for (size_t i = 0; i < d->topology.n; i++) {
            const char *key = arena_strdup(a, d->topology.items[i].key);
            x->topology_keys.items[x->topology_keys.n++] = key;
            ARENA_GROW(a, out->labels.items, out->labels.n, label_cap);
            out->labels.items[out->labels.n++] =
                (struct str_map_entry){key, arena_strdup(a, d->topology.items[i].value)};
        }
        if (d->max_volumes <= 0) continue;
        x->allocatable = arena_zalloc(a, sizeof(*x->allocatable));
        x->allocatable->count = arena_alloc(a, sizeof(int32_t));
        *x->allocatable->count = (int32_t)MIN_OF(d->max_volumes, INT32_MAX);
    }
    c->dirty = false;
    pthread_mutex_unlock(&c->lock);
    if (out->drivers.n) out->ids = json_text(a, ids);
}

static int write_csi_node(struct csi *c, struct arena *a, const struct shown *s, const struct core_node *node,
                          struct err *e) {
    struct kubelet *kl = c->kl;
    struct storage_csi_node have = {0};
    struct err why = {0};
    int r = client_get(kl->client, a, &client_csinodes, NULL, kl->node_name, &have, &why);
    if (r < 0 && why.status != 404) {
        err_move(e, &why);
        return r;
    }
    err_done(&why);
    struct storage_csi_node_spec want = {.drivers = s->drivers};
    if (r == 0) {
        if (api_equal(&api_storage_csi_node_spec, &have.spec, &want)) return 0;
        have.spec = want;
        return client_update(kl->client, a, &client_csinodes, NULL, &have, NULL, NULL, e);
    }
    struct meta_owner_reference *o = arena_zalloc(a, sizeof(*o));
    *o = (struct meta_owner_reference){
        .api_version = "v1", .kind = "Node", .name = kl->node_name, .uid = node->metadata.uid};
    struct storage_csi_node fresh = {.metadata = {.name = kl->node_name, .owner_references = {o, 1}}, .spec = want};
    return client_create(kl->client, a, &client_csinodes, NULL, &fresh, NULL, NULL, e);
}

/* The annotation, and a label for each segment of a topology. Labels of a driver that is gone stay, as
 * volumes made for this topology do. */
static int write_node(struct csi *c, struct arena *a, const struct shown *s, const struct core_node *node,
                      struct err *e) {
    struct json *doc = json_object(a);
    const char *ids = str_map_get(&node->metadata.annotations, ANNOT_NODE_ID);
    for (size_t i = 0; i < s->labels.n; i++) {
        const struct str_map_entry *l = &s->labels.items[i];
        if (str_eq(str_map_get(&node->metadata.labels, l->key), l->value)) continue;
        json_set_str(a, json_ensure_object(a, json_ensure_object(a, doc, "metadata"), "labels"), l->key, l->value);
    }
    if (s->ids ? !str_eq(s->ids, ids) : ids != NULL)
        json_set(a, json_ensure_object(a, json_ensure_object(a, doc, "metadata"), "annotations"), ANNOT_NODE_ID,
                 s->ids ? json_str(a, s->ids) : json_null(a));
    if (!json_get(doc, "metadata")) return 0;
    char *body = json_text(a, doc);
    return client_patch(c->kl->client, a, &client_nodes, NULL, c->kl->node_name, CLIENT_PATCH_MERGE, body, strlen(body),
                        NULL, NULL, e);
}

int csi_publish_node(struct csi *c, struct arena *a, struct err *e) {
    pthread_mutex_lock(&c->lock);
    bool dirty = c->dirty;
    pthread_mutex_unlock(&c->lock);
    if (!dirty) return 0;
    struct shown s = {0};
    struct core_node node = {0};
    show(c, a, &s);
    int r = client_get(c->kl->client, a, &client_nodes, NULL, c->kl->node_name, &node, e);
    if (r == 0) r = write_node(c, a, &s, &node, e);
    if (r == 0) r = write_csi_node(c, a, &s, &node, e);
    if (r == 0) return 0;
    pthread_mutex_lock(&c->lock);
    c->dirty = true;
    pthread_mutex_unlock(&c->lock);
    return err_wrap(e, "cannot show the CSI drivers of this node");
}
