/* See devices.h. */
#include "kubelet/devices_internal.h"

#include <sys/stat.h>

#include "kubelet/node.h"
#include "pkg/api/quantity.h"
#include "pkg/base/bytes.h"
#include "pkg/json/json.h"

enum { MAX_PLUGINS = 64, CHECKPOINT_MAX = 8 << 20 };
#define GONE_AFTER_NS (5 * 60 * NS_PER_SEC) /* a plugin that went keeps its capacity for this long */

/* ---- the checkpoint ---- */

void allocation_free(struct allocation *x) {
    for (size_t i = 0; i < x->n; i++) free(x->ids[i]);
    free(x->ids);
    free(x->pod);
    free(x->container);
    free(x->resource);
    free(x->answer);
    free(x);
}

/* Caller holds the lock. */
void devices_save(struct devices *d) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *o = json_object(a), *list = json_ensure_array(a, o, "podDeviceEntries");
    for (struct allocation *x = d->allocations; x; x = x->next) {
        struct json *e = json_object(a), *ids = json_ensure_array(a, e, "deviceIDs");
        json_set_str(a, e, "podUID", x->pod);
        json_set_str(a, e, "containerName", x->container);
        json_set_str(a, e, "resourceName", x->resource);
        json_set_str(a, e, "allocResp", x->answer);
        json_set_bool(a, e, "init", x->init);
        for (size_t i = 0; i < x->n; i++) json_append(a, ids, json_str(a, x->ids[i]));
        json_append(a, list, e);
    }
    const char *text = json_text(a, o);
    int r = file_write_atomic(d->checkpoint, text, strlen(text), 0600);
    if (r < 0)
        log_warn("cannot write down which devices are in use", "file", d->checkpoint, "error", strerror(-r), NULL);
}

static void load(struct devices *d) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    size_t n;
    struct json *o, *e;
    if (file_read(d->checkpoint, CHECKPOINT_MAX, &text, &n) < 0 || json_parse(a, text, n, &o, NULL, NULL) < 0) return;
    JSON_FOREACH(e, json_get(o, "podDeviceEntries")) {
        struct json *ids = json_get(e, "deviceIDs");
        const char *pod = json_get_str(e, "podUID"), *resource = json_get_str(e, "resourceName");
        if (!pod || !resource || json_len(ids) > MAX_DEVICES) continue;
        struct allocation *x = xcalloc(1, sizeof(*x));
        x->pod = xstrdup(pod);
        x->resource = xstrdup(resource);
        x->container = xstrdup(str_or_empty(json_get_str(e, "containerName")));
        x->answer = xstrdup(str_or_empty(json_get_str(e, "allocResp")));
        x->init = json_get_bool(e, "init", false);
        x->ids = xcalloc(json_len(ids) + 1, sizeof(*x->ids));
        for (size_t i = 0; i < json_len(ids); i++)
            x->ids[x->n++] = xstrdup(str_or_empty(json_as_str(json_item(ids, i))));
        x->next = d->allocations;
        d->allocations = x;
    }
}

/* ---- plugins ---- */

void resource_unref(struct resource *r) {
    if (--r->refs) return;
    grpc_client_free(r->grpc);
    http_cancel_done(&r->cancel);
    map_done_with(&r->ids, free);
    free(r->name);
    free(r);
}

static uint64_t nodes_of(const struct deviceplugin_device *x) {
    uint64_t nodes = 0;
    for (size_t i = 0; x->topology && i < x->topology->nodes.n; i++) {
        int64_t id = x->topology->nodes.items[i].id;
        if (id >= 0 && id < 64) nodes |= UINT64_C(1) << id;
    }
    return nodes;
}

static void put_devices(struct resource *r, const struct deviceplugin_list_and_watch_response *m) {
    map_done_with(&r->ids, free);
    r->ids = (struct map)MAP_INIT;
    for (size_t i = 0; i < m->devices.n && i < MAX_DEVICES; i++) {
        const struct deviceplugin_device *x = &m->devices.items[i];
        if (str_empty(x->id)) continue;
        struct device *one = xcalloc(1, sizeof(*one));
        *one = (struct device){.healthy = str_eq(x->health, "Healthy"), .nodes = nodes_of(x)};
        free(map_put(&r->ids, x->id, one));
    }
}

static int on_devices(const void *message, void *arg) {
    struct resource *r = arg;
    pthread_mutex_lock(&r->all->lock);
    put_devices(r, message);
    pthread_mutex_unlock(&r->all->lock);
    if (r->all->kl->node) node_wake(r->all->kl->node);
    return 0;
}

static void *plugin_thread(void *arg) {
    struct resource *r = arg;
    struct devices *d = r->all;
    struct deviceplugin_empty rq = {0};
    _cleanup_err_ struct err e = {0};
    grpc_call_stream(r->grpc, &api_rpc_deviceplugin_device_plugin_list_and_watch, &rq, on_devices, r, &r->cancel, &e);
    log_info("device plugin gone", "resource", r->name, "error", e.msg, NULL);
    pthread_mutex_lock(&d->lock);
    r->stopped = true;
    r->stopped_at = mono_ns();
    bool last = r->refs == 1;
    struct node *node = d->kl->node;
    if (node && !last) node_wake(node);
    resource_unref(r);
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

/* Takes the place of an earlier plugin of the resource. */
static int plugin_add(struct devices *d, const char *name, const char *socket,
                      const struct deviceplugin_device_plugin_options *o, struct err *e) {
    struct resource *r = xcalloc(1, sizeof(*r));
    r->all = d;
    r->refs = 2;
    r->name = xstrdup(name);
    r->grpc = grpc_client_new(socket);
    int rc = http_cancel_init(&r->cancel, e);
    if (o) {
        r->pre_start = o->pre_start_required;
        r->preferred = o->get_preferred_allocation_available;
    }
    pthread_mutex_lock(&d->lock);
    if (rc == 0)
        rc = d->resources.n >= MAX_PLUGINS ? err_set(e, -ENOSPC, "more than %d device plugins", MAX_PLUGINS) : 0;
    if (rc == 0 && (rc = kubelet_thread(NULL, plugin_thread, r, true)) < 0) err_errno(e, rc, "make a thread");
    if (rc < 0) {
        r->refs = 1;
        resource_unref(r);
    } else {
        struct resource *old = map_put(&d->resources, name, r);
        if (old) {
            http_cancel_set(&old->cancel);
            resource_unref(old);
        }
        log_info("device plugin registered", "resource", name, "endpoint", socket, NULL);
    }
    pthread_mutex_unlock(&d->lock);
    return rc;
}

static bool speaks_v1beta1(const struct str_vec *v) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], "v1beta1")) return true;
    return false;
}

/* "domain/name", and no domain of Kubernetes itself. */
static bool extended(const char *name) {
    const char *slash = strchr(str_or_empty(name), '/');
    return slash && slash != name && slash[1] && !strstr(name, "kubernetes.io/") && !str_has_prefix(name, "requests.");
}

int devices_register(struct devices *d, const char *resource, const char *endpoint, const struct str_vec *versions,
                     struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    if (!speaks_v1beta1(versions)) return err_set(e, -EINVAL, "the plugin does not speak v1beta1");
    if (!extended(resource)) return err_set(e, -EINVAL, "invalid name of device plugin socket: %s", resource);
    struct grpc_client *c = grpc_client_new(endpoint);
    struct deviceplugin_empty rq = {0};
    struct deviceplugin_device_plugin_options o = {0};
    int r = grpc_call(c, &api_rpc_deviceplugin_device_plugin_get_device_plugin_options, &rq, a, &o, DEVICE_CALL_MS, e);
    grpc_client_free(c);
    return r < 0 ? r : plugin_add(d, resource, endpoint, &o, e);
}

void devices_unregister(struct devices *d, const char *resource) {
    pthread_mutex_lock(&d->lock);
    struct resource *r = map_get(&d->resources, resource);
    if (r) http_cancel_set(&r->cancel); /* its thread says that it stopped */
    pthread_mutex_unlock(&d->lock);
}

static int do_register(struct grpc_call *c, struct err *e) {
    struct devices *d = c->arg;
    const struct deviceplugin_register_request *q = c->request;
    if (!str_eq(q->version, "v1beta1"))
        return grpc_err(e, GRPC_UNKNOWN,
                        "requested API version \"%s\" is not supported by kubelet. Supported version is \"v1beta1\"",
                        str_or_empty(q->version));
    if (!extended(q->resource_name))
        return grpc_err(e, GRPC_UNKNOWN, "the ResourceName \"%s\" is invalid", str_or_empty(q->resource_name));
    if (str_empty(q->endpoint) || strchr(q->endpoint, '/')) return grpc_err(e, GRPC_INVALID_ARGUMENT, "bad endpoint");
    return plugin_add(d, q->resource_name, arena_printf(c->arena, "%s/%s", d->dir, q->endpoint), q->options, e);
}

static const struct grpc_method methods[] = {{&api_rpc_deviceplugin_registration_register, do_register}};

struct devices *devices_new(struct kubelet *kl) {
    struct devices *d = xcalloc(1, sizeof(*d));
    d->kl = kl;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->allocating, NULL);
    d->dir = xasprintf("%s/device-plugins", kl->cfg.root_dir);
    d->checkpoint = xasprintf("%s/kubelet_internal_checkpoint", d->dir);
    if (!kl->fake) load(d);
    return d;
}

int devices_start(struct devices *d, struct err *e) {
    _cleanup_free_ char *socket = xasprintf("%s/kubelet.sock", d->dir);
    int r = mkdir_p(d->dir, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", d->dir);
    unlink(socket); /* plugins see the new one and register again */
    struct grpc_server_options o = {
        .unix_path = socket, .methods = methods, .n_methods = ARRAY_LEN(methods), .arg = d, .threads = 4};
    d->server = grpc_server_new(&o, e);
    return d->server ? 0 : -EIO;
}

void devices_free(struct devices *d) {
    if (!d) return;
    grpc_server_free(d->server);
    pthread_mutex_lock(&d->lock);
    size_t it = 0;
    const char *name;
    void *value;
    while (map_next(&d->resources, &it, &name, &value)) http_cancel_set(&((struct resource *)value)->cancel);
    for (bool running = true; running;) { /* the threads hold on to `d` */
        running = false;
        it = 0;
        while (map_next(&d->resources, &it, &name, &value)) running |= ((struct resource *)value)->refs > 1;
        if (!running) break;
        pthread_mutex_unlock(&d->lock);
        usleep(1000);
        pthread_mutex_lock(&d->lock);
    }
    it = 0;
    while (map_next(&d->resources, &it, &name, &value)) resource_unref(value);
    map_done(&d->resources);
    for (struct allocation *x; (x = d->allocations);) {
        d->allocations = x->next;
        allocation_free(x);
    }
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->allocating);
    free(d->dir);
    free(d->checkpoint);
    free(d);
}

/* ---- the node ---- */

static void map_add(struct arena *a, struct str_map *m, const char *key, size_t amount) {
    struct str_map_entry *items = arena_alloc(a, (m->n + 1) * sizeof(*items));
    size_t at = 0;
    while (at < m->n && strcmp(m->items[at].key, key) < 0) at++;
    if (at) memcpy(items, m->items, at * sizeof(*items));
    items[at] = (struct str_map_entry){arena_strdup(a, key), arena_printf(a, "%zu", amount)};
    if (at < m->n) memcpy(items + at + 1, m->items + at, (m->n - at) * sizeof(*items));
    m->items = items;
    m->n++;
}

static size_t healthy(const struct resource *r) {
    size_t it = 0, n = 0;
    const char *id;
    void *value;
    while (!r->stopped && map_next(&r->ids, &it, &id, &value)) n += ((const struct device *)value)->healthy;
    return n;
}

void devices_add(struct devices *d, struct arena *a, struct str_map *capacity, struct str_map *allocatable) {
    size_t it = 0;
    const char *name;
    void *value;
    if (!d) return;
    pthread_mutex_lock(&d->lock);
    while (map_next(&d->resources, &it, &name, &value)) {
        const struct resource *r = value;
        bool gone = r->stopped && mono_ns() - r->stopped_at > GONE_AFTER_NS;
        if (capacity) map_add(a, capacity, name, gone ? 0 : r->ids.n);
        if (allocatable) map_add(a, allocatable, name, healthy(r));
    }
    pthread_mutex_unlock(&d->lock);
}

struct device_use *devices_healthy(struct devices *d, struct arena *a, size_t *n) {
    struct device_use *items = NULL;
    size_t it = 0, cap = 0;
    const char *name, *id;
    void *value;
    *n = 0;
    if (!d) return NULL;
    pthread_mutex_lock(&d->lock);
    while (map_next(&d->resources, &it, &name, &value)) {
        const struct resource *r = value;
        size_t at = 0;
        while (!r->stopped && map_next(&r->ids, &at, &id, &value)) {
            const struct device *x = value;
            if (!x->healthy) continue;
            ARENA_GROW(a, items, *n, cap);
            items[(*n)++] = (struct device_use){arena_strdup(a, name), arena_strdup(a, id), x->nodes};
        }
    }
    pthread_mutex_unlock(&d->lock);
    return items;
}

struct device_use *devices_of(struct devices *d, struct arena *a, const char *pod_uid, const char *container,
                              size_t *n) {
    struct device_use *items = NULL;
    size_t cap = 0;
    *n = 0;
    if (!d) return NULL;
    pthread_mutex_lock(&d->lock);
    for (const struct allocation *x = d->allocations; x; x = x->next) {
        if (!str_eq(x->pod, pod_uid) || !str_eq(x->container, container)) continue;
        const struct resource *r = map_get(&d->resources, x->resource);
        for (size_t i = 0; i < x->n; i++) {
            const struct device *dev = r ? resource_device(r, x->ids[i]) : NULL;
            ARENA_GROW(a, items, *n, cap);
            items[(*n)++] =
                (struct device_use){arena_strdup(a, x->resource), arena_strdup(a, x->ids[i]), dev ? dev->nodes : 0};
        }
    }
    pthread_mutex_unlock(&d->lock);
    return items;
}
