/* See node.h. Measuring is in node_info.c. */
#include "kubelet/node.h"

#include <time.h>

#include "kubelet/csi.h"
#include "kubelet/devices.h"
#include "kubelet/eviction.h"
#include "kubelet/node_info.h"
#include "kubelet/shutdown.h"
#include "pkg/api/coordination.h"

#define LEASE_NS "kube-node-lease"
#define QUICK_NS (250 * NS_PER_MS)

struct node {
    struct kubelet *kl;
    struct arena *arena; /* of what does not change */
    struct str_map capacity, allocatable;
    struct core_node_system_info info;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stopping, kick;
    bool pressure[PRESSURE_KINDS];
    char *ips[4];
    size_t n_ips;
    struct map handlers; /* name -> features, as the runtime said last */
    char *pod_cidr;      /* last one told to the runtime */
    /* the thread's */
    struct arena *sent_arena;
    struct core_node_status *sent; /* last status written, NULL: none */
    int64_t sent_at, renewed_at;
    bool registered, was_ready, told_boot, told_unschedulable;
    int told_pressure[PRESSURE_KINDS]; /* 0: nothing yet; else 1 + whether there is */
    char *last_problem;                /* logged once */
};

/* ---- what the machine has ---- */

static void map_set(struct arena *a, struct str_map *m, const char *key, const char *value) {
    struct str_map_entry *items = arena_alloc(a, (m->n + 1) * sizeof(*items));
    size_t at = 0;
    while (at < m->n && strcmp(m->items[at].key, key) < 0) at++;
    if (at) memcpy(items, m->items, at * sizeof(*items));
    items[at] = (struct str_map_entry){key, value};
    if (at < m->n) memcpy(items + at + 1, m->items + at, (m->n - at) * sizeof(*items));
    m->items = items;
    m->n++;
}

struct quantity node_reserved(const char *list, const char *resource) {
    struct quantity q = {0};
    size_t len = strlen(resource);
    for (const char *s = str_or_empty(list); *s;) {
        size_t n = strcspn(s, ",");
        if (n > len && strncmp(s, resource, len) == 0 && s[len] == '=') {
            _cleanup_free_ char *text = xstrndup(s + len + 1, n - len - 1);
            quantity_parse(text, &q);
        }
        s += n + (s[n] == ',');
    }
    return q;
}

int64_t node_kept_free(const struct kubelet *kl, int signal, int64_t capacity) {
    const struct eviction_thresholds *t = kl->eviction ? eviction_thresholds_of(kl->eviction) : NULL;
    for (size_t i = 0; t && i < t->n; i++)
        if (!t->items[i].soft && (int)t->items[i].signal == signal)
            return eviction_amount_of(t->items[i].amount, capacity);
    return 0;
}

static void measure(struct node *n) {
    struct kubelet *kl = n->kl;
    struct arena *a = n->arena;
    struct node_sizes z;
    node_measure(kl->cfg.root_dir, &z);
    if (kl->cfg.pods_per_core > 0) kl->cfg.max_pods = MIN_OF(kl->cfg.max_pods, kl->cfg.pods_per_core * z.cpus);
    if (kl->fake) z = (struct node_sizes){.cpus = 8, .memory = INT64_C(32) << 30, .storage = INT64_C(200) << 30};
    const struct {
        const char *name;
        int64_t amount;
        bool cpu;
    } sizes[] = {{"cpu", z.cpus, true},
                 {"memory", z.memory, false},
                 {"ephemeral-storage", z.storage, false},
                 {"pods", kl->cfg.max_pods, false},
                 {"hugepages-1Gi", 0, false},
                 {"hugepages-2Mi", z.huge_2m, false}};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        const char *name = sizes[i].name;
        struct quantity have = {.nano = (__int128)sizes[i].amount * 1000000000};
        bool memory = str_eq(name, "memory");
        const char *text = memory ? arena_printf(a, "%lldKi", (long long)(sizes[i].amount / 1024))
                                  : arena_printf(a, "%lld", (long long)sizes[i].amount);
        if (str_eq(name, "ephemeral-storage")) text = arena_printf(a, "%lldKi", (long long)(sizes[i].amount / 1024));
        map_set(a, &n->capacity, name, text);
        struct quantity left = quantity_sub(have, node_reserved(kl->cfg.system_reserved, name));
        left = quantity_sub(left, node_reserved(kl->cfg.kube_reserved, name));
        int64_t keep = memory                              ? node_kept_free(kl, SIGNAL_MEMORY, sizes[i].amount)
                       : str_eq(name, "ephemeral-storage") ? node_kept_free(kl, SIGNAL_NODEFS, sizes[i].amount)
                                                           : 0;
        left.nano -= (__int128)keep * 1000000000;
        if (left.nano < 0) left.nano = 0;
        if (memory) /* whole KiB, as the capacity is written */
            map_set(a, &n->allocatable, name, arena_printf(a, "%lldKi", (long long)(quantity_value(left) / 1024)));
        else
            map_set(a, &n->allocatable, name,
                    sizes[i].cpu && quantity_milli(left) % 1000
                        ? arena_printf(a, "%lldm", (long long)quantity_milli(left))
                        : arena_printf(a, "%lld", (long long)quantity_value(left)));
    }
}

int64_t node_pods_memory(struct node *n) {
    struct quantity left = {0};
    quantity_parse(str_map_get(&n->capacity, "memory"), &left);
    left = quantity_sub(left, node_reserved(n->kl->cfg.system_reserved, "memory"));
    left = quantity_sub(left, node_reserved(n->kl->cfg.kube_reserved, "memory"));
    return MAX_OF(quantity_value(left), (int64_t)0);
}

static void find_addresses(struct node *n) {
    char found[4][64];
    size_t count = node_addresses(n->kl->cfg.node_ip, n->n_ips ? n->ips[0] : NULL, found, ARRAY_LEN(found));
    if (n->n_ips && !str_eq(n->ips[0], found[0]))
        log_info("the node's address has changed", "from", n->ips[0], "to", found[0], NULL);
    pthread_mutex_lock(&n->lock);
    for (size_t i = 0; i < n->n_ips; i++) free(n->ips[i]);
    n->n_ips = 0;
    for (size_t i = 0; i < count; i++) n->ips[n->n_ips++] = xstrdup(found[i]);
    pthread_mutex_unlock(&n->lock);
}

struct node *node_new(struct kubelet *kl) {
    struct node *n = xcalloc(1, sizeof(*n));
    n->kl = kl;
    n->arena = arena_new();
    pthread_mutex_init(&n->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&n->wake, &ca);
    pthread_condattr_destroy(&ca);
    measure(n);
    node_system_info(n->arena, &n->info);
    find_addresses(n);
    return n;
}

const struct str_map *node_capacity(struct node *n) { return &n->capacity; }
const struct str_map *node_allocatable(struct node *n) { return &n->allocatable; }

const char *const *kubelet_host_ips(struct kubelet *kl, struct arena *a, size_t *count) {
    struct node *n = kl->node;
    *count = 0;
    if (!n) return NULL;
    pthread_mutex_lock(&n->lock);
    const char **v = arena_alloc(a, (n->n_ips + 1) * sizeof(*v));
    for (size_t i = 0; i < n->n_ips; i++) v[(*count)++] = arena_strdup(a, n->ips[i]);
    pthread_mutex_unlock(&n->lock);
    return v;
}

struct str_map kubelet_allocatable(struct kubelet *kl, struct arena *a) {
    struct str_map m = kl->node ? kl->node->allocatable : (struct str_map){0};
    devices_add(kl->devices, a, NULL, &m);
    return m;
}

void node_set_pressure(struct node *n, enum node_pressure p, bool on) {
    pthread_mutex_lock(&n->lock);
    bool changed = n->pressure[p] != on;
    n->pressure[p] = on;
    pthread_mutex_unlock(&n->lock);
    if (changed) node_wake(n);
}

bool node_under_pressure(struct node *n, enum node_pressure p) {
    pthread_mutex_lock(&n->lock);
    bool on = n->pressure[p];
    pthread_mutex_unlock(&n->lock);
    return on;
}

/* ---- status ---- */

void node_event(struct node *n, const char *type, const char *reason, const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    /* The node's name serves as the uid: upstream's convention for events about nodes. */
    struct event_ref ref = {.api_version = "v1", .kind = "Node", .name = n->kl->node_name, .uid = n->kl->node_name};
    if (n->kl->recorder) event_record(n->kl->recorder, &ref, type, reason, "%s", text);
}

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

/* Why the node is not ready; NULL when it is. */
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
        map_set(a, &st->capacity, key, value);
        map_set(a, &st->allocatable, key, value);
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

static void compute(struct node *n, struct arena *a, struct core_node_status *st) {
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

/* Equal but for the time of the heartbeat. */
static bool same_status(struct arena *a, const struct core_node_status *x, const struct core_node_status *y) {
    struct core_node_status *u = api_clone(a, &api_core_node_status, x), *v = api_clone(a, &api_core_node_status, y);
    for (size_t i = 0; i < u->conditions.n; i++) u->conditions.items[i].last_heartbeat_time = (struct ktime){0};
    for (size_t i = 0; i < v->conditions.n; i++) v->conditions.items[i].last_heartbeat_time = (struct ktime){0};
    return api_equal(&api_core_node_status, u, v);
}

static int write_status(struct node *n, struct arena *a, const struct core_node_status *st, struct err *e) {
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

/* ---- registration ---- */

static void split_taint(struct arena *a, const char *s, struct core_taint *t) {
    const char *colon = strrchr(s, ':'), *eq = strchr(s, '=');
    size_t end = colon ? (size_t)(colon - s) : strlen(s);
    t->effect = colon ? colon + 1 : "NoSchedule";
    if (eq && eq < s + end) {
        t->key = arena_strndup(a, s, (size_t)(eq - s));
        t->value = arena_strndup(a, eq + 1, end - (size_t)(eq - s) - 1);
    } else {
        t->key = arena_strndup(a, s, end);
    }
}

static struct core_node *initial_node(struct node *n, struct arena *a) {
    struct kubelet *kl = n->kl;
    struct core_node *node = arena_zalloc(a, sizeof(*node));
    node->metadata.name = kl->node_name;
    const struct str_map_entry labels[] = {{"beta.kubernetes.io/arch", n->info.architecture},
                                           {"beta.kubernetes.io/os", "linux"},
                                           {"kubernetes.io/arch", n->info.architecture},
                                           {"kubernetes.io/hostname", kl->node_name},
                                           {"kubernetes.io/os", "linux"}};
    for (size_t i = 0; i < ARRAY_LEN(labels); i++) map_set(a, &node->metadata.labels, labels[i].key, labels[i].value);
    for (size_t i = 0; i < kl->cfg.node_labels.n; i++) {
        const char *s = kl->cfg.node_labels.items[i], *eq = strchr(s, '=');
        map_set(a, &node->metadata.labels, eq ? arena_strndup(a, s, (size_t)(eq - s)) : s, eq ? eq + 1 : "");
    }
    map_set(a, &node->metadata.annotations, "volumes.kubernetes.io/controller-managed-attach-detach", "true");
    if (!str_empty(kl->cfg.local_path_dir))
        map_set(a, &node->metadata.annotations, "coracle.io/local-path-dir", kl->cfg.local_path_dir);
    node->spec.provider_id = str_empty(kl->cfg.provider_id) ? NULL : kl->cfg.provider_id;
    node->spec.taints.items = arena_zalloc(a, (kl->cfg.taints.n + 1) * sizeof(*node->spec.taints.items));
    for (size_t i = 0; i < kl->cfg.taints.n; i++)
        split_taint(a, kl->cfg.taints.items[i], &node->spec.taints.items[node->spec.taints.n++]);
    compute(n, a, &node->status);
    return node;
}

static bool put_missing(struct arena *a, struct json *meta, const char *field, const struct str_map *want,
                        const struct str_map *have) {
    bool any = false;
    for (size_t i = 0; i < want->n; i++) {
        const struct str_map_entry *l = &want->items[i];
        if (str_eq(str_map_get(have, l->key), l->value)) continue;
        json_set_str(a, json_ensure_object(a, meta, field), l->key, l->value);
        any = true;
    }
    return any;
}

/* Labels and annotations of ours that an existing Node object lacks or has otherwise. */
static int reconcile_labels(struct node *n, struct arena *a, const struct core_node *want, const struct core_node *have,
                            struct err *e) {
    struct json *doc = json_object(a), *meta = json_ensure_object(a, doc, "metadata");
    bool labels = put_missing(a, meta, "labels", &want->metadata.labels, &have->metadata.labels),
         annotations = put_missing(a, meta, "annotations", &want->metadata.annotations, &have->metadata.annotations);
    if (!labels && !annotations) return 0;
    char *body = json_text(a, doc);
    return client_patch(n->kl->client, a, &client_nodes, NULL, n->kl->node_name, CLIENT_PATCH_MERGE, body, strlen(body),
                        NULL, NULL, e);
}

static int register_node(struct node *n, struct arena *a, struct err *e) {
    struct core_node *node = initial_node(n, a);
    int r = client_create(n->kl->client, a, &client_nodes, NULL, node, NULL, NULL, e);
    if (r == 0) {
        log_info("node registered", "node", n->kl->node_name, NULL);
        return 0;
    }
    if (!e || !client_err_exists(e)) return r;
    err_done(e);
    struct core_node have = {0};
    r = client_get(n->kl->client, a, &client_nodes, NULL, n->kl->node_name, &have, e);
    return r < 0 ? r : reconcile_labels(n, a, node, &have, e);
}

/* ---- lease ---- */

static int renew_lease(struct node *n, struct arena *a, struct err *e) {
    struct kubelet *kl = n->kl;
    struct coordination_lease lease = {0};
    int32_t seconds = (int32_t)kl->cfg.lease_seconds;
    int r = client_get(kl->client, a, &client_leases, LEASE_NS, kl->node_name, &lease, e);
    bool fresh = r == -ENOENT;
    if (r < 0 && !fresh) return r;
    if (fresh) {
        err_done(e);
        lease = (struct coordination_lease){.metadata = {.name = kl->node_name, .namespace = LEASE_NS}};
        struct core_node node = {0};
        if (client_get(kl->client, a, &client_nodes, NULL, kl->node_name, &node, NULL) == 0) {
            struct meta_owner_reference *o = arena_zalloc(a, sizeof(*o));
            *o = (struct meta_owner_reference){
                .api_version = "v1", .kind = "Node", .name = kl->node_name, .uid = node.metadata.uid};
            lease.metadata.owner_references = (struct meta_owner_reference_vec){o, 1};
        }
    }
    lease.spec.holder_identity = kl->node_name;
    lease.spec.lease_duration_seconds = &seconds;
    lease.spec.renew_time = ktime_now();
    return fresh ? client_create(kl->client, a, &client_leases, LEASE_NS, &lease, NULL, NULL, e)
                 : client_update(kl->client, a, &client_leases, LEASE_NS, &lease, NULL, NULL, e);
}

/* ---- pod CIDR ---- */

static void tell_pod_cidr(struct node *n, struct arena *a) {
    struct kubelet *kl = n->kl;
    _cleanup_object_ struct object *o = kl->node_informer ? informer_get(kl->node_informer, kl->node_name) : NULL;
    const struct core_node *node = o ? o->obj : NULL;
    const char *cidr = node ? node->spec.pod_cidr : NULL;
    if (str_empty(cidr)) cidr = kl->cfg.pod_cidr;
    if (str_empty(cidr) || str_eq(cidr, n->pod_cidr)) return;
    for (size_t i = 1; node && i < node->spec.pod_cidrs.n; i++)
        cidr = arena_printf(a, "%s,%s", cidr, node->spec.pod_cidrs.items[i]);
    struct cri_network_config net = {.pod_cidr = cidr};
    struct cri_runtime_config cfg = {.network_config = &net};
    struct cri_update_runtime_config_request req = {.runtime_config = &cfg};
    struct cri_update_runtime_config_response resp = {0};
    if (runtime_call(kl->rt, RT_UPDATE_RUNTIME_CONFIG, a, &req, &resp, NULL) < 0) return;
    log_info("pod CIDR", "cidr", cidr, NULL);
    free(n->pod_cidr);
    n->pod_cidr = xstrdup(node && !str_empty(node->spec.pod_cidr) ? node->spec.pod_cidr : cidr);
}

/* ---- the thread ---- */

static void remember(struct node *n, const struct core_node_status *st) {
    struct arena *a = arena_new();
    n->sent = api_clone(a, &api_core_node_status, st);
    arena_free(n->sent_arena);
    n->sent_arena = a;
    n->sent_at = mono_ns();
}

/* Logs what goes wrong when it is not what went wrong before. */
static int64_t trouble(struct node *n, const char *what, const struct err *e) {
    if (!str_eq(n->last_problem, e->msg)) log_warn(what, "error", e->msg, NULL);
    free(n->last_problem);
    n->last_problem = xstrdup(e->msg);
    return NS_PER_SEC;
}

/* The lease is renewed four times in its duration. */
static int64_t lease_every(const struct kubelet *kl) { return kl->cfg.lease_seconds * NS_PER_SEC / 4; }

/* One round; how long to the next. */
static int64_t round_once(struct node *n) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct kubelet *kl = n->kl;
    int r = 0;
    tell_pod_cidr(n, a);
    if (!n->registered && kl->cfg.register_node) {
        r = register_node(n, a, &e);
        if (r < 0) return trouble(n, "cannot register the node", &e);
        n->registered = true;
    }
    find_addresses(n);
    struct core_node_status st;
    compute(n, a, &st);
    bool ready = n->was_ready;
    if (!n->sent || mono_ns() - n->sent_at >= kl->cfg.status_update_ns || !same_status(a, n->sent, &st)) {
        r = write_status(n, a, &st, &e);
        if (r == -ENOENT) n->registered = false; /* somebody deleted the Node */
        if (r == 0) remember(n, &st);
        if (r < 0) return trouble(n, "cannot write the node's status", &e);
    }
    int64_t due = n->renewed_at + lease_every(kl);
    if (!n->renewed_at || mono_ns() >= due - NS_PER_SEC) {
        err_done(&e);
        r = renew_lease(n, a, &e);
        if (r < 0) return trouble(n, "cannot renew the node's lease", &e);
        n->renewed_at = mono_ns();
    }
    err_done(&e);
    if (!kl->fake && csi_publish_node(kl->csi, a, &e) < 0) return trouble(n, "cannot show the node's CSI drivers", &e);
    free(n->last_problem);
    n->last_problem = NULL;
    return ready ? MIN_OF(kl->cfg.heartbeat_ns, lease_every(kl)) : QUICK_NS;
}

static void *node_thread(void *arg) {
    struct node *n = arg;
    pthread_mutex_lock(&n->lock);
    while (!n->stopping) {
        n->kick = false;
        pthread_mutex_unlock(&n->lock);
        int64_t until = mono_ns() + round_once(n);
        pthread_mutex_lock(&n->lock);
        struct timespec ts = {(time_t)(until / NS_PER_SEC), (long)(until % NS_PER_SEC)};
        while (!n->stopping && !n->kick && mono_ns() < until) pthread_cond_timedwait(&n->wake, &n->lock, &ts);
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

int node_start(struct node *n, struct err *e) {
    node_event(n, "Normal", "Starting", "Starting kubelet.");
    int r = kubelet_thread(&n->thread, node_thread, n, false);
    if (r < 0) return err_errno(e, r, "start the node's thread");
    n->started = true;
    return 0;
}

void node_wake(struct node *n) {
    pthread_mutex_lock(&n->lock);
    n->kick = true;
    pthread_cond_signal(&n->wake);
    pthread_mutex_unlock(&n->lock);
}

void node_free(struct node *n) {
    if (!n) return;
    pthread_mutex_lock(&n->lock);
    n->stopping = true;
    pthread_cond_signal(&n->wake);
    pthread_mutex_unlock(&n->lock);
    if (n->started) pthread_join(n->thread, NULL);
    for (size_t i = 0; i < n->n_ips; i++) free(n->ips[i]);
    free(n->pod_cidr);
    free(n->last_problem);
    map_done(&n->handlers);
    arena_free(n->sent_arena);
    arena_free(n->arena);
    pthread_cond_destroy(&n->wake);
    pthread_mutex_destroy(&n->lock);
    free(n);
}
