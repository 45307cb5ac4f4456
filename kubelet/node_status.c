/* The Node's status: what the machine has, whether it is well, what its runtime can do, its images; and the events that tell
 * when that changes. Upstream: nodestatus/setters.go. See node.h. */
#include "kubelet/csi.h"
#include "kubelet/devices.h"
#include "kubelet/node_internal.h"
#include "kubelet/shutdown.h"
#include "pkg/json/json.h"

static const struct core_node_condition *old_condition(const struct node *n, const char *type) {
    for (size_t i = 0; n->sent && i < n->sent->conditions.n; i++)
        if (str_eq(n->sent->conditions.items[i].type, type)) return &n->sent->conditions.items[i];
    return NULL;
}

static void add_condition(struct node *n, struct core_node_status *st, const char *type, bool value, const char *reason,
                          const char *message, struct ktime now) {
    const struct core_node_condition *old = old_condition(n, type);
    const char *status = value ? "True" : "False";
    st->conditions.items[st->conditions.n++] = (struct core_node_condition){
        .type = type,
        .status = status,
        .reason = reason,
        .message = message,
        .last_heartbeat_time = now,
        .last_transition_time = old && str_eq(old->status, status) ? old->last_transition_time : now};
}

static void add_handler(struct node *n, struct arena *a, struct cri_runtime_handler *h,
                        struct core_node_runtime_handler *out) {
    struct cri_runtime_handler_features *f = h->features;
    out->name = h->name;
    uintptr_t bits = 0;
    if (f) {
        out->features = arena_zalloc(a, sizeof(*out->features));
        out->features->recursive_read_only_mounts = &f->recursive_read_only_mounts;
        out->features->user_namespaces = &f->user_namespaces;
        bits = (f->recursive_read_only_mounts ? HANDLER_RECURSIVE_READ_ONLY : 0) |
               (f->user_namespaces ? HANDLER_USER_NAMESPACES : 0);
    }
    pthread_mutex_lock(&n->lock);
    map_put(&n->handlers, str_or_empty(h->name), (void *)(bits << 1 | 1)); /* never NULL */
    pthread_mutex_unlock(&n->lock);
}

bool node_handler_can(struct node *n, const char *handler, enum handler_feature what) {
    pthread_mutex_lock(&n->lock);
    uintptr_t bits = (uintptr_t)map_get(&n->handlers, str_or_empty(handler)) >> 1;
    pthread_mutex_unlock(&n->lock);
    return bits & what;
}

/* Why the node is not ready; NULL when it is. */
static const char *runtime_problem(struct node *n, struct arena *a, struct core_node_status *st) {
    struct cri_status_request req = {0};
    struct cri_status_response resp = {0};
    _cleanup_err_ struct err e = {0};
    if (runtime_call_timeout(n->kl->rt, RT_STATUS, a, &req, &resp, 5 * NS_PER_SEC, &e) < 0)
        return arena_printf(a, "container runtime is down: %s", e.msg);
    const char *problem = NULL;
    for (size_t i = 0; resp.status && i < resp.status->conditions.n; i++) {
        const struct cri_runtime_condition *c = &resp.status->conditions.items[i];
        bool network = str_eq(c->type, "NetworkReady");
        if (c->status || (!network && !str_eq(c->type, "RuntimeReady"))) continue;
        problem = arena_printf(a, "%s%scontainer runtime%s not ready: %s=false reason:%s message:%s",
                               str_or_empty(problem), problem ? ", " : "", network ? " network" : "", c->type,
                               str_or_empty(c->reason), str_or_empty(c->message));
    }
    st->runtime_handlers.items = arena_zalloc(a, (resp.runtime_handlers.n + 1) * sizeof(*st->runtime_handlers.items));
    for (size_t i = 0; i < resp.runtime_handlers.n; i++)
        add_handler(n, a, &resp.runtime_handlers.items[i], &st->runtime_handlers.items[st->runtime_handlers.n++]);
    if (resp.features) {
        st->features = arena_zalloc(a, sizeof(*st->features));
        st->features->supplemental_groups_policy = &resp.features->supplemental_groups_policy;
    }
    return problem;
}

static int bigger_image(const void *x, const void *y) {
    const struct cri_image *a = x, *b = y;
    return a->size == b->size ? 0 : a->size > b->size ? -1 : 1;
}

static void add_images(struct node *n, struct arena *a, struct core_node_status *st) {
    struct cri_list_images_request req = {0};
    struct cri_list_images_response resp = {0};
    if (runtime_call_timeout(n->kl->rt, RT_LIST_IMAGES, a, &req, &resp, 10 * NS_PER_SEC, NULL) < 0) return;
    if (!resp.images.n) return;
    qsort(resp.images.items, resp.images.n, sizeof(*resp.images.items), bigger_image);
    int64_t most = n->kl->cfg.status_max_images; /* -1: all */
    if (most < 0 || most > (int64_t)resp.images.n) most = (int64_t)resp.images.n;
    st->images.items = arena_zalloc(a, (size_t)(most + 1) * sizeof(*st->images.items));
    for (size_t i = 0; (int64_t)st->images.n < most; i++) {
        const struct cri_image *img = &resp.images.items[i];
        struct core_container_image *o = &st->images.items[st->images.n++];
        enum { MAX_NAMES = 5 };
        o->names.items = arena_alloc(a, MAX_NAMES * sizeof(char *));
        for (size_t k = 0; k < img->repo_digests.n && o->names.n < MAX_NAMES; k++)
            o->names.items[o->names.n++] = img->repo_digests.items[k];
        for (size_t k = 0; k < img->repo_tags.n && o->names.n < MAX_NAMES; k++)
            o->names.items[o->names.n++] = img->repo_tags.items[k];
        o->size_bytes = (int64_t)img->size;
    }
}

static const struct {
    const char *type, *on, *off, *on_message, *off_message;
} pressure_conditions[PRESSURE_KINDS] = {
    {"MemoryPressure", "KubeletHasInsufficientMemory", "KubeletHasSufficientMemory",
     "kubelet has insufficient memory available", "kubelet has sufficient memory available"},
    {"DiskPressure", "KubeletHasDiskPressure", "KubeletHasNoDiskPressure", "kubelet has disk pressure",
     "kubelet has no disk pressure"},
    {"PIDPressure", "KubeletHasInsufficientPID", "KubeletHasSufficientPID", "kubelet has insufficient PID available",
     "kubelet has sufficient PID available"},
};

static struct object *stored_node(struct node *n) {
    return n->kl->node_informer ? informer_get(n->kl->node_informer, n->kl->node_name) : NULL;
}

/* Extended resources that somebody else has put into the Node's capacity can be allocated too. */
static void add_advertised(struct node *n, struct arena *a, struct core_node_status *st) {
    _cleanup_object_ struct object *o = stored_node(n);
    const struct core_node *node = o ? o->obj : NULL;
    for (size_t i = 0; node && i < node->status.capacity.n; i++) {
        const struct str_map_entry *x = &node->status.capacity.items[i];
        const char *slash = strchr(x->key, '/'), *key = arena_strdup(a, x->key), *value = arena_strdup(a, x->value);
        if (!slash || strstr(x->key, "kubernetes.io/") || str_map_get(&st->capacity, x->key)) continue;
        node_map_set(a, &st->capacity, key, value);
        node_map_set(a, &st->allocatable, key, value);
    }
}

/* What is no longer in the capacity has to be taken out of allocatable by name: the patch merges. */
static void drop_unadvertised(struct node *n, struct arena *a, const struct core_node_status *st, struct json *status) {
    _cleanup_object_ struct object *o = stored_node(n);
    const struct core_node *node = o ? o->obj : NULL;
    for (size_t i = 0; node && i < node->status.allocatable.n; i++) {
        const char *key = node->status.allocatable.items[i].key;
        if (!str_map_get(&st->allocatable, key))
            json_set(a, json_ensure_object(a, status, "allocatable"), arena_strdup(a, key), json_null(a));
    }
}

/* Events about what describes the node: its conditions, whether pods may come, a reboot. */
static void tell_changes(struct node *n, const struct core_node_status *st) {
    static const char *const names[PRESSURE_KINDS][2] = {{"NodeHasSufficientMemory", "NodeHasInsufficientMemory"},
                                                         {"NodeHasNoDiskPressure", "NodeHasDiskPressure"},
                                                         {"NodeHasSufficientPID", "NodeHasInsufficientPID"}};
    const char *name = n->kl->node_name;
    if (n->kl->fake) return;
    for (int i = 0; i < PRESSURE_KINDS; i++) {
        int on = node_under_pressure(n, (enum node_pressure)i) + 1;
        if (n->told_pressure[i] != on)
            node_event(n, "Normal", names[i][on - 1], "Node %s status is now: %s", name, names[i][on - 1]);
        n->told_pressure[i] = on;
    }
    _cleanup_object_ struct object *o = stored_node(n);
    const struct core_node *stored = o ? o->obj : NULL;
    if (!stored) return;
    const char *boot = stored->status.node_info.boot_id;
    if (!n->told_boot && !str_empty(boot) && !str_eq(boot, st->node_info.boot_id))
        node_event(n, "Warning", "Rebooted", "Node %s has been rebooted, boot id: %s", name, st->node_info.boot_id);
    n->told_boot = true;
    if (stored->spec.unschedulable != n->told_unschedulable) {
        const char *what = stored->spec.unschedulable ? "NodeNotSchedulable" : "NodeSchedulable";
        node_event(n, "Normal", what, "Node %s status is now: %s", name, what);
    }
    n->told_unschedulable = stored->spec.unschedulable;
}

void node_status_compute(struct node *n, struct arena *a, struct core_node_status *st) {
    struct kubelet *kl = n->kl;
    struct ktime now = ktime_now();
    *st = (struct core_node_status){.capacity = n->capacity, .allocatable = n->allocatable, .node_info = n->info};
    devices_add(kl->devices, a, &st->capacity, &st->allocatable);
    add_advertised(n, a, st);
    st->node_info.container_runtime_version =
        arena_printf(a, "%s://%s", str_or_empty(kl->runtime_name), str_or_empty(kl->runtime_version));
    st->daemon_endpoints.kubelet_endpoint.port = (int32_t)kl->cfg.port;
    size_t n_ips;
    const char *const *ips = kubelet_host_ips(kl, a, &n_ips);
    st->addresses.items = arena_zalloc(a, (n_ips + 1) * sizeof(*st->addresses.items));
    for (size_t i = 0; i < n_ips; i++)
        st->addresses.items[st->addresses.n++] = (struct core_node_address){"InternalIP", ips[i]};
    st->addresses.items[st->addresses.n++] = (struct core_node_address){"Hostname", kl->node_name};
    const char *problem = runtime_problem(n, a, st);
    if (shutdown_active(kl->shutdown))
        problem = arena_printf(a, "%s%snode is shutting down", str_or_empty(problem), problem ? ", " : "");
    st->conditions.items = arena_zalloc(a, (PRESSURE_KINDS + 1) * sizeof(*st->conditions.items));
    for (int i = 0; i < PRESSURE_KINDS; i++) {
        bool on = node_under_pressure(n, (enum node_pressure)i);
        add_condition(n, st, pressure_conditions[i].type, on,
                      on ? pressure_conditions[i].on : pressure_conditions[i].off,
                      on ? pressure_conditions[i].on_message : pressure_conditions[i].off_message, now);
    }
    add_condition(n, st, "Ready", !problem, problem ? "KubeletNotReady" : "KubeletReady",
                  problem ? arena_printf(a, "[%s]", problem) : "kubelet is posting ready status", now);
    add_images(n, a, st);
    if (kl->csi) st->volumes_in_use = csi_volumes_in_use(kl->csi, a);
    tell_changes(n, st);
    if (n->was_ready != !problem) {
        node_event(n, "Normal", problem ? "NodeNotReady" : "NodeReady", "Node %s status is now: %s", kl->node_name,
                   problem ? "NodeNotReady" : "NodeReady");
        n->was_ready = !problem;
    }
}

bool node_status_same(struct arena *a, const struct core_node_status *x, const struct core_node_status *y) {
    struct core_node_status *u = api_clone(a, &api_core_node_status, x), *v = api_clone(a, &api_core_node_status, y);
    for (size_t i = 0; i < u->conditions.n; i++) u->conditions.items[i].last_heartbeat_time = (struct ktime){0};
    for (size_t i = 0; i < v->conditions.n; i++) v->conditions.items[i].last_heartbeat_time = (struct ktime){0};
    return api_equal(&api_core_node_status, u, v);
}

int node_status_write(struct node *n, struct arena *a, const struct core_node_status *st, struct err *e) {
    struct json *doc = json_object(a), *status = api_to_tree(a, &api_core_node_status, st), *item;
    /* Addresses are merged by type on the server; a list with two of a type must be replaced as a whole. */
    struct json *addresses = json_array(a), *replace = json_object(a);
    json_set_str(a, replace, "$patch", "replace");
    json_append(a, addresses, replace);
    JSON_FOREACH(item, json_get(status, "addresses")) json_append(a, addresses, item);
    json_set(a, status, "addresses", addresses);
    if (!st->volumes_in_use.n) json_set(a, status, "volumesInUse", json_array(a)); /* the last one went */
    drop_unadvertised(n, a, st, status);
    json_set(a, doc, "status", status);
    char *body = json_text(a, doc);
    struct client_opts o = {.subresource = "status"};
    return client_patch(n->kl->client, a, &client_nodes, NULL, n->kl->node_name, CLIENT_PATCH_STRATEGIC, body,
                        strlen(body), &o, NULL, e);
}
