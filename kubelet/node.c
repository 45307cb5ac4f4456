/* See node.h. Measuring is in node_info.c, the status in node_status.c. */
#include "kubelet/node_internal.h"

#include <time.h>

#include "kubelet/csi.h"
#include "kubelet/devices.h"
#include "kubelet/eviction.h"
#include "kubelet/node_info.h"
#include "pkg/api/coordination.h"

#define LEASE_NS "kube-node-lease"
#define QUICK_NS (250 * NS_PER_MS)

/* ---- what the machine has ---- */

void node_map_set(struct arena *a, struct str_map *m, const char *key, const char *value) {
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
        node_map_set(a, &n->capacity, name, text);
        struct quantity left = quantity_sub(have, node_reserved(kl->cfg.system_reserved, name));
        left = quantity_sub(left, node_reserved(kl->cfg.kube_reserved, name));
        int64_t keep = memory                              ? node_kept_free(kl, SIGNAL_MEMORY, sizes[i].amount)
                       : str_eq(name, "ephemeral-storage") ? node_kept_free(kl, SIGNAL_NODEFS, sizes[i].amount)
                                                           : 0;
        left.nano -= (__int128)keep * 1000000000;
        if (left.nano < 0) left.nano = 0;
        if (memory) /* whole KiB, as the capacity is written */
            node_map_set(a, &n->allocatable, name, arena_printf(a, "%lldKi", (long long)(quantity_value(left) / 1024)));
        else
            node_map_set(a, &n->allocatable, name,
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

/* ---- events ---- */

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
    for (size_t i = 0; i < ARRAY_LEN(labels); i++)
        node_map_set(a, &node->metadata.labels, labels[i].key, labels[i].value);
    for (size_t i = 0; i < kl->cfg.node_labels.n; i++) {
        const char *s = kl->cfg.node_labels.items[i], *eq = strchr(s, '=');
        node_map_set(a, &node->metadata.labels, eq ? arena_strndup(a, s, (size_t)(eq - s)) : s, eq ? eq + 1 : "");
    }
    node_map_set(a, &node->metadata.annotations, "volumes.kubernetes.io/controller-managed-attach-detach", "true");
    if (!str_empty(kl->cfg.local_path_dir))
        node_map_set(a, &node->metadata.annotations, "coracle.io/local-path-dir", kl->cfg.local_path_dir);
    node->spec.provider_id = str_empty(kl->cfg.provider_id) ? NULL : kl->cfg.provider_id;
    node->spec.taints.items = arena_zalloc(a, (kl->cfg.taints.n + 1) * sizeof(*node->spec.taints.items));
    for (size_t i = 0; i < kl->cfg.taints.n; i++)
        split_taint(a, kl->cfg.taints.items[i], &node->spec.taints.items[node->spec.taints.n++]);
    node_status_compute(n, a, &node->status);
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
    node_status_compute(n, a, &st);
    bool ready = n->was_ready;
    if (!n->sent || mono_ns() - n->sent_at >= kl->cfg.status_update_ns || !node_status_same(a, n->sent, &st)) {
        r = node_status_write(n, a, &st, &e);
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
