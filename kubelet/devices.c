/* See devices.h. */
#include "kubelet/devices.h"

#include <sys/stat.h>

#include "kubelet/node.h"
#include "pkg/api/quantity.h"
#include "pkg/base/bytes.h"
#include "pkg/grpc/grpc.h"
#include "pkg/json/json.h"

enum { MAX_PLUGINS = 64, MAX_DEVICES = 4096, CALL_MS = 30000, CHECKPOINT_MAX = 8 << 20 };
#define GONE_AFTER_NS (5 * 60 * NS_PER_SEC) /* a plugin that went keeps its capacity for this long */

/* A resource and its plugin. Guarded by devices.lock; `refs` are the table's and its thread's. */
struct resource {
    struct devices *all;
    unsigned refs;
    char *name;
    struct grpc_client *grpc;
    struct http_cancel cancel;
    bool pre_start, preferred, stopped;
    int64_t stopped_at;
    struct map ids; /* device -> (void *)1 unhealthy, (void *)2 healthy */
};
/* What a container has of a resource. */
struct allocation {
    struct allocation *next;
    char *pod, *container, *resource;
    char **ids;
    size_t n;
    char *answer; /* the plugin's, as JSON */
    bool init;    /* of an init container: later ones of the pod may have it too */
};
struct devices {
    struct kubelet *kl;
    pthread_mutex_t lock, allocating;
    struct map resources;
    struct allocation *allocations;
    struct grpc_server *server;
    char *dir, *checkpoint;
};

/* ---- the checkpoint ---- */

static void allocation_free(struct allocation *x) {
    for (size_t i = 0; i < x->n; i++) free(x->ids[i]);
    free(x->ids);
    free(x->pod);
    free(x->container);
    free(x->resource);
    free(x->answer);
    free(x);
}

/* Caller holds the lock. */
static void save(struct devices *d) {
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

static void resource_unref(struct resource *r) {
    if (--r->refs) return;
    grpc_client_free(r->grpc);
    http_cancel_done(&r->cancel);
    map_done(&r->ids);
    free(r->name);
    free(r);
}

static void put_devices(struct resource *r, const struct deviceplugin_list_and_watch_response *m) {
    map_done(&r->ids);
    r->ids = (struct map)MAP_INIT;
    for (size_t i = 0; i < m->devices.n && i < MAX_DEVICES; i++)
        if (!str_empty(m->devices.items[i].id))
            map_put(&r->ids, m->devices.items[i].id,
                    (void *)(uintptr_t)(str_eq(m->devices.items[i].health, "Healthy") ? 2 : 1));
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
    int r = grpc_call(c, &api_rpc_deviceplugin_device_plugin_get_device_plugin_options, &rq, a, &o, CALL_MS, e);
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
    while (!r->stopped && map_next(&r->ids, &it, &id, &value)) n += value == (void *)2;
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

/* ---- allocating ---- */

static struct allocation *find(struct devices *d, const char *pod, const char *container, const char *resource) {
    for (struct allocation *x = d->allocations; x; x = x->next)
        if (str_eq(x->pod, pod) && str_eq(x->container, container) && str_eq(x->resource, resource)) return x;
    return NULL;
}

static bool in_vec(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

static void vec_add(struct arena *a, struct str_vec *v, const char *s) {
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] = arena_strdup(a, s);
    v->items = items;
}

/* Devices that may be chosen, and those that must be: what the pod's init containers leave is used again.
 * Lock held. */
static void candidates(struct devices *d, struct arena *a, const struct resource *r, const char *pod, size_t want,
                       struct str_vec *available, struct str_vec *must) {
    struct str_vec used = {0};
    for (struct allocation *x = d->allocations; x; x = x->next) {
        if (!str_eq(x->resource, r->name)) continue;
        bool reuse = x->init && str_eq(x->pod, pod);
        for (size_t i = 0; i < x->n; i++) {
            if (!reuse)
                vec_add(a, &used, x->ids[i]);
            else if (must->n < want && !in_vec(must, x->ids[i]) && map_get(&r->ids, x->ids[i]) == (void *)2)
                vec_add(a, must, x->ids[i]);
        }
    }
    /* What an ordinary container of the pod took over is not free any more. */
    struct str_vec kept = {0};
    for (size_t i = 0; i < must->n; i++)
        if (!in_vec(&used, must->items[i])) vec_add(a, &kept, must->items[i]);
    *must = kept;
    *available = *must;
    size_t it = 0;
    const char *id;
    void *value;
    while (map_next(&r->ids, &it, &id, &value))
        if (value == (void *)2 && !in_vec(&used, id) && !in_vec(available, id)) vec_add(a, available, id);
}

/* `want` of the available ones, by the plugin's preference if it has one. */
static struct str_vec choose(struct resource *r, struct arena *a, const struct str_vec *available,
                             const struct str_vec *must, size_t want) {
    struct str_vec out = *must;
    if (r->preferred && available->n > want) {
        struct deviceplugin_container_preferred_allocation_request one = {
            .available_device_ids = *available, .must_include_device_ids = *must, .allocation_size = (int32_t)want};
        struct deviceplugin_preferred_allocation_request rq = {.container_requests = {&one, 1}};
        struct deviceplugin_preferred_allocation_response rs = {0};
        if (grpc_call(r->grpc, &api_rpc_deviceplugin_device_plugin_get_preferred_allocation, &rq, a, &rs, CALL_MS,
                      NULL) == 0 &&
            rs.container_responses.n) {
            const struct str_vec *p = &rs.container_responses.items[0].device_ids;
            for (size_t i = 0; i < p->n && out.n < want; i++)
                if (in_vec(available, p->items[i]) && !in_vec(&out, p->items[i])) vec_add(a, &out, p->items[i]);
        }
    }
    for (size_t i = 0; i < available->n && out.n < want; i++)
        if (!in_vec(&out, available->items[i])) vec_add(a, &out, available->items[i]);
    return out;
}

static bool is_init(const struct core_pod *p, const struct core_container *c) {
    for (size_t i = 0; i < p->spec.init_containers.n; i++)
        if (str_eq(p->spec.init_containers.items[i].name, c->name))
            return !str_eq(p->spec.init_containers.items[i].restart_policy, "Always");
    return false;
}

static void remember(struct devices *d, const struct core_pod *p, const struct core_container *c, const char *resource,
                     const struct str_vec *ids, const char *answer) {
    struct allocation *x = xcalloc(1, sizeof(*x));
    x->pod = xstrdup(p->metadata.uid);
    x->container = xstrdup(c->name);
    x->resource = xstrdup(resource);
    x->answer = xstrdup(answer);
    x->init = is_init(p, c);
    x->ids = xcalloc(ids->n + 1, sizeof(*x->ids));
    for (size_t i = 0; i < ids->n; i++) x->ids[x->n++] = xstrdup(ids->items[i]);
    pthread_mutex_lock(&d->lock);
    x->next = d->allocations;
    d->allocations = x;
    save(d);
    pthread_mutex_unlock(&d->lock);
}

static int call_plugin(struct devices *d, struct resource *r, struct arena *a, const struct core_pod *p,
                       const struct core_container *c, size_t want,
                       struct deviceplugin_container_allocate_response *out, struct err *e) {
    struct str_vec available = {0}, must = {0};
    pthread_mutex_lock(&d->lock);
    bool stopped = r->stopped;
    candidates(d, a, r, p->metadata.uid, want, &available, &must);
    pthread_mutex_unlock(&d->lock);
    if (stopped) return err_set(e, -EAGAIN, "the device plugin of %s is not running", r->name);
    if (available.n < want)
        return err_set(e, -EBUSY, "requested number of devices unavailable for %s. Requested: %zu, Available: %zu",
                       r->name, want, available.n);
    struct str_vec ids = choose(r, a, &available, &must, want);
    struct deviceplugin_container_allocate_request one = {.devices_ids = ids};
    struct deviceplugin_allocate_request rq = {.container_requests = {&one, 1}};
    struct deviceplugin_allocate_response rs = {0};
    int rc = grpc_call(r->grpc, &api_rpc_deviceplugin_device_plugin_allocate, &rq, a, &rs, CALL_MS, e);
    if (rc < 0) return err_wrap(e, "Allocate of device plugin %s", r->name);
    if (!rs.container_responses.n)
        return err_set(e, -EPROTO, "no containers in the answer of device plugin %s", r->name);
    *out = rs.container_responses.items[0];
    remember(d, p, c, r->name, &ids, json_text(a, api_to_tree(a, &api_deviceplugin_container_allocate_response, out)));
    return 0;
}

static int pre_start(struct resource *r, struct arena *a, const struct str_vec *ids, struct err *e) {
    if (!r->pre_start) return 0;
    struct deviceplugin_pre_start_container_request rq = {.devices_ids = *ids};
    struct deviceplugin_pre_start_container_response rs = {0};
    int rc = grpc_call(r->grpc, &api_rpc_deviceplugin_device_plugin_pre_start_container, &rq, a, &rs, CALL_MS, e);
    return rc < 0 ? err_wrap(e, "device plugin %s PreStartContainer", r->name) : 0;
}

static int allocate_one(struct devices *d, struct resource *r, struct arena *a, const struct core_pod *p,
                        const struct core_container *c, size_t want,
                        struct deviceplugin_container_allocate_response *out, struct err *e) {
    pthread_mutex_lock(&d->lock);
    const struct allocation *have = find(d, p->metadata.uid, c->name, r->name);
    const char *answer = have ? arena_strdup(a, have->answer) : NULL;
    pthread_mutex_unlock(&d->lock);
    int rc = answer ? api_from_json(a, &api_deviceplugin_container_allocate_response, answer, strlen(answer), out, e)
                    : call_plugin(d, r, a, p, c, want, out, e);
    if (rc < 0) return rc;
    struct str_vec ids = {0};
    pthread_mutex_lock(&d->lock);
    have = find(d, p->metadata.uid, c->name, r->name);
    for (size_t i = 0; have && i < have->n; i++) vec_add(a, &ids, have->ids[i]);
    pthread_mutex_unlock(&d->lock);
    return pre_start(r, a, &ids, e);
}

int devices_allocate(struct devices *d, struct arena *a, const struct core_pod *p, const struct core_container *c,
                     struct deviceplugin_container_allocate_response_vec *out, struct err *e) {
    const struct str_map *limits = &c->resources.limits;
    int rc = 0;
    out->items = arena_zalloc(a, (limits->n + 1) * sizeof(*out->items));
    if (!d) return 0;
    for (size_t i = 0; rc == 0 && i < limits->n; i++) {
        int64_t want = quantity_str_value(limits->items[i].value);
        pthread_mutex_lock(&d->lock);
        struct resource *r = want > 0 ? map_get(&d->resources, limits->items[i].key) : NULL;
        if (r) r->refs++;
        pthread_mutex_unlock(&d->lock);
        if (!r) continue;
        pthread_mutex_lock(&d->allocating); /* between choosing and remembering nobody else chooses */
        rc = allocate_one(d, r, a, p, c, (size_t)want, &out->items[out->n], e);
        pthread_mutex_unlock(&d->allocating);
        if (rc == 0) out->n++;
        pthread_mutex_lock(&d->lock);
        resource_unref(r);
        pthread_mutex_unlock(&d->lock);
    }
    return rc;
}

void devices_release(struct devices *d, const char *pod_uid) {
    if (!d) return;
    bool any = false;
    pthread_mutex_lock(&d->lock);
    for (struct allocation **x = &d->allocations; *x;) {
        struct allocation *one = *x;
        if (!str_eq(one->pod, pod_uid)) {
            x = &one->next;
            continue;
        }
        *x = one->next;
        allocation_free(one);
        any = true;
    }
    if (any) save(d);
    pthread_mutex_unlock(&d->lock);
}
