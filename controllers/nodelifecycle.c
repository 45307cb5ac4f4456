/* Node lifecycle: notices nodes that fell silent, taints nodes by their conditions, and evicts the pods that
 * do not bear the taints (upstream pkg/controller/nodelifecycle and tainteviction).
 *
 * Three queues. "!monitor" comes round every few seconds and compares when each node was last heard of, by
 * our own clock, with the grace period. A node's key brings its taints in line with its conditions. A pod's
 * key looks at the NoExecute taints of its node and deletes the pod when its time is up. */
#include <pthread.h>

#include "pkg/api/coordination.h"
#include "pkg/base/map.h"
#include "util.h"

#define MONITOR "!monitor"
#define LEASE_NS "kube-node-lease"

struct heard {
    int64_t at; /* mono_ns */
    struct ktime renew, heartbeat;
};

struct nl_controller {
    struct manager *m;
    struct workqueue *nodes, *pods;
    struct event_recorder *events, *evictions;
    struct map heard; /* used by the monitor's key alone */
};

static const struct core_node_condition *node_condition(const struct core_node *n, const char *type) {
    for (size_t i = 0; i < n->status.conditions.n; i++)
        if (str_eq(n->status.conditions.items[i].type, type)) return &n->status.conditions.items[i];
    return NULL;
}

/* ---- silence ---- */

static struct heard *last_heard(struct nl_controller *c, const struct core_node *n) {
    struct heard *h = map_get(&c->heard, n->metadata.name);
    if (!h) {
        h = xcalloc(1, sizeof(*h));
        h->at = mono_ns();
        map_put(&c->heard, n->metadata.name, h);
    }
    const struct core_node_condition *ready = node_condition(n, "Ready");
    if (ready && ktime_cmp(ready->last_heartbeat_time, h->heartbeat) != 0) {
        /* our own verdict writes no heartbeat, so a new one comes from the node */
        h->heartbeat = ready->last_heartbeat_time;
        h->at = mono_ns();
    }
    _cleanup_object_ struct object *o =
        informer_get_ns(manager_informer(c->m, &client_leases), LEASE_NS, n->metadata.name);
    const struct coordination_lease *l = o ? o->obj : NULL;
    if (l && ktime_cmp(l->spec.renew_time, h->renew) > 0) {
        h->renew = l->spec.renew_time;
        h->at = mono_ns();
    }
    return h;
}

static int mark_unknown(struct nl_controller *c, struct arena *a, const struct core_node *n, struct err *e) {
    static const char *const types[] = {"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"};
    struct core_node fresh = *n;
    struct core_node_condition_vec v = {
        .items = arena_zalloc(a, (n->status.conditions.n + ARRAY_LEN(types)) * sizeof(*v.items))};
    bool changed = false;
    for (size_t i = 0; i < n->status.conditions.n; i++) v.items[v.n++] = n->status.conditions.items[i];
    for (size_t t = 0; t < ARRAY_LEN(types); t++) {
        size_t i = 0;
        while (i < v.n && !str_eq(v.items[i].type, types[t])) i++;
        if (i < v.n && str_eq(v.items[i].status, "Unknown")) continue;
        bool never = i == v.n;
        if (never)
            v.items[v.n++] =
                (struct core_node_condition){.type = types[t], .last_heartbeat_time = n->metadata.creation_timestamp};
        v.items[i].status = "Unknown";
        v.items[i].reason = never ? "NodeStatusNeverUpdated" : "NodeStatusUnknown";
        v.items[i].message = never ? "Kubelet never posted node status." : "Kubelet stopped posting node status.";
        v.items[i].last_transition_time = ktime_now_s();
        changed = true;
    }
    if (!changed) return 0;
    fresh.status.conditions = v;
    struct client_opts o = {.cause = n->metadata.resource_version};
    int r = client_update_status(c->m->client, a, &client_nodes, NULL, &fresh, &o, NULL, e);
    if (r == 0)
        event_record_obj(c->events, &client_nodes, &n->metadata, "Normal", "NodeNotReady",
                         "Node %s status is now: NodeNotReady", n->metadata.name);
    return r;
}

static void forget_gone(struct nl_controller *c) {
    size_t it = 0;
    const char *name;
    void *h;
    while (map_next(&c->heard, &it, &name, &h)) {
        _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_nodes), name);
        if (o) continue;
        map_del(&c->heard, name);
        free(h);
    }
}

static int monitor(struct nl_controller *c, struct arena *a, struct err *e) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_nodes), NULL, &l);
    bool cut_off = informer_disconnected(manager_informer(c->m, &client_leases)) ||
                   informer_disconnected(manager_informer(c->m, &client_nodes));
    for (size_t i = 0; i < l.n; i++) {
        const struct core_node *n = l.items[i]->obj;
        struct heard *h = last_heard(c, n);
        if (cut_off) h->at = mono_ns(); /* it is us who hear nothing */
        if (mono_ns() - h->at <= c->m->opt.node_monitor_grace_ns) continue;
        _cleanup_err_ struct err ne = {0};
        mark_unknown(c, a, n, &ne);
    }
    forget_gone(c);
    workqueue_add_after(c->nodes, MONITOR, c->m->opt.node_monitor_period_ns);
    return 0;
}

/* ---- taints ---- */

struct wanted_taint {
    const char *key, *effect;
    const char *condition, *status; /* NULL: spec.unschedulable */
};
static const struct wanted_taint table[] = {
    {"node.kubernetes.io/not-ready", "NoSchedule", "Ready", "False"},
    {"node.kubernetes.io/not-ready", "NoExecute", "Ready", "False"},
    {"node.kubernetes.io/unreachable", "NoSchedule", "Ready", "Unknown"},
    {"node.kubernetes.io/unreachable", "NoExecute", "Ready", "Unknown"},
    {"node.kubernetes.io/memory-pressure", "NoSchedule", "MemoryPressure", "True"},
    {"node.kubernetes.io/disk-pressure", "NoSchedule", "DiskPressure", "True"},
    {"node.kubernetes.io/pid-pressure", "NoSchedule", "PIDPressure", "True"},
    {"node.kubernetes.io/network-unavailable", "NoSchedule", "NetworkUnavailable", "True"},
    {"node.kubernetes.io/unschedulable", "NoSchedule", NULL, NULL},
};

static const struct wanted_taint *managed(const struct core_taint *t) {
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (str_eq(t->key, table[i].key) && str_eq(t->effect, table[i].effect)) return &table[i];
    return NULL;
}

static bool is_wanted(const struct core_node *n, const struct wanted_taint *w) {
    if (!w->condition) return n->spec.unschedulable;
    const struct core_node_condition *c = node_condition(n, w->condition);
    return c && str_eq(c->status, w->status);
}

static int write_taints(struct nl_controller *c, struct arena *a, const struct core_node *n,
                        const struct core_taint_vec *v, struct err *e) {
    struct json *p = json_object(a), *meta = json_ensure_object(a, p, "metadata"), *list;
    json_set_str(a, meta, "resourceVersion", n->metadata.resource_version);
    list = json_ensure_array(a, json_ensure_object(a, p, "spec"), "taints");
    for (size_t i = 0; i < v->n; i++) json_append(a, list, api_to_tree(a, &api_core_taint, &v->items[i]));
    const char *text = json_text(a, p);
    struct client_opts o = {.cause = n->metadata.resource_version};
    return client_patch(c->m->client, a, &client_nodes, NULL, n->metadata.name, CLIENT_PATCH_MERGE, text, strlen(text),
                        &o, NULL, e);
}

/* A pod on a node that is not ready can not be counted on: its Ready condition goes False. */
static void mark_pods_unready(struct nl_controller *c, struct arena *a, const struct core_node *n) {
    struct informer *inf = manager_informer(c->m, &client_pods);
    _cleanup_object_list_ struct object_list l = {0};
    informer_by_index(inf, informer_add_index(inf, index_by_pod_node), n->metadata.name, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct core_pod *p = l.items[i]->obj;
        if (!pod_is_ready(p)) continue;
        char now[KTIME_MAX];
        ktime_format(ktime_now(), now);
        const char *text = arena_printf(a,
                                        "{\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"False\","
                                        "\"lastTransitionTime\":\"%s\"}]}}",
                                        now);
        struct client_opts o = {.cause = n->metadata.resource_version, .subresource = "status"};
        if (client_patch(c->m->client, a, &client_pods, p->metadata.namespace, p->metadata.name, CLIENT_PATCH_STRATEGIC,
                         text, strlen(text), &o, NULL, NULL) == 0)
            event_record_obj(c->events, &client_pods, &p->metadata, "Warning", "NodeNotReady", "Node is not ready");
    }
}

static int reconcile_node(void *arg, struct arena *a, const char *key, struct err *e) {
    struct nl_controller *c = arg;
    if (strcmp(key, MONITOR) == 0) return monitor(c, a, e);
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_nodes), key);
    if (!o) return 0;
    const struct core_node *n = o->obj;
    struct core_taint_vec v = {.items = arena_zalloc(a, (n->spec.taints.n + ARRAY_LEN(table)) * sizeof(*v.items))};
    bool changed = false;
    for (size_t i = 0; i < n->spec.taints.n; i++) {
        const struct wanted_taint *w = managed(&n->spec.taints.items[i]);
        if (w && !is_wanted(n, w))
            changed = true;
        else
            v.items[v.n++] = n->spec.taints.items[i];
    }
    for (size_t t = 0; t < ARRAY_LEN(table); t++) {
        bool have = false;
        for (size_t i = 0; i < v.n; i++) have |= managed(&v.items[i]) == &table[t];
        if (have || !is_wanted(n, &table[t])) continue;
        v.items[v.n++] =
            (struct core_taint){.key = table[t].key, .effect = table[t].effect, .time_added = ktime_now_s()};
        changed = true;
    }
    const struct core_node_condition *ready = node_condition(n, "Ready");
    int r = changed ? write_taints(c, a, n, &v, e) : 0;
    if (r == 0 && ready && str_eq(ready->status, "Unknown")) mark_pods_unready(c, a, n);
    return r;
}

/* ---- eviction ---- */

static bool tolerates(const struct core_toleration *t, const struct core_taint *taint) {
    if (!str_empty(t->effect) && !str_eq(t->effect, taint->effect)) return false;
    if (!str_empty(t->key) && !str_eq(t->key, taint->key)) return false;
    if (str_eq(t->operator, "Exists")) return true;
    return !str_empty(t->key) && strcmp(str_or_empty(t->value), str_or_empty(taint->value)) == 0;
}

/* Nanoseconds the pod may still stay; INT64_MAX for ever. */
static int64_t time_left(const struct core_pod *p, const struct core_node *n, struct ktime now) {
    int64_t left = INT64_MAX;
    for (size_t i = 0; i < n->spec.taints.n; i++) {
        const struct core_taint *t = &n->spec.taints.items[i];
        if (!str_eq(t->effect, "NoExecute")) continue;
        int64_t bears = -1; /* seconds; INT64_MAX for ever */
        for (size_t k = 0; k < p->spec.tolerations.n; k++) {
            const struct core_toleration *tol = &p->spec.tolerations.items[k];
            if (!tolerates(tol, t)) continue;
            int64_t s = tol->toleration_seconds ? MAX_OF(*tol->toleration_seconds, 0) : INT64_MAX;
            bears = bears < 0 ? s : MIN_OF(bears, s);
        }
        if (bears < 0) return 0;
        if (bears == INT64_MAX) continue;
        int64_t since = t->time_added.set ? ktime_diff_ns(now, t->time_added) : 0;
        left = MIN_OF(left, MAX_OF(bears * NS_PER_SEC - since, 0));
    }
    return left;
}

static int evict(struct nl_controller *c, struct arena *a, const struct core_pod *p, struct err *e) {
    char now[KTIME_MAX];
    ktime_format(ktime_now(), now);
    const char *ns = p->metadata.namespace, *name = p->metadata.name;
    event_record_obj(c->evictions, &client_pods, &p->metadata, "Normal", "TaintManagerEviction",
                     "Marking for deletion Pod %s/%s", ns, name);
    const char *text =
        arena_printf(a,
                     "{\"status\":{\"conditions\":[{\"type\":\"DisruptionTarget\",\"status\":\"True\","
                     "\"reason\":\"DeletionByTaintManager\",\"message\":\"Taint manager: deleting due to NoExecute "
                     "taint\",\"lastTransitionTime\":\"%s\"}]}}",
                     now);
    struct client_opts o = {.cause = p->metadata.resource_version, .subresource = "status"};
    client_patch(c->m->client, a, &client_pods, ns, name, CLIENT_PATCH_STRATEGIC, text, strlen(text), &o, NULL, NULL);
    struct client_delete_opts d = {.cause = p->metadata.resource_version, .uid = p->metadata.uid};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(c->m->client, &client_pods, ns, name, &d, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return r;
}

static int reconcile_pod(void *arg, struct arena *a, const char *key, struct err *e) {
    struct nl_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_pods), key);
    const struct core_pod *p = o ? o->obj : NULL;
    if (!p || p->metadata.deletion_timestamp.set || pod_is_terminal(p) || str_empty(p->spec.node_name)) return 0;
    _cleanup_object_ struct object *no = informer_get(manager_informer(c->m, &client_nodes), p->spec.node_name);
    if (!no) return 0;
    int64_t left = time_left(p, no->obj, ktime_now());
    if (left == INT64_MAX) return 0;
    if (left == 0) return evict(c, a, p, e);
    workqueue_add_after(c->pods, key, left);
    return 0;
}

/* ---- what leads to work ---- */

static bool has_no_execute(const struct core_node *n) {
    for (size_t i = 0; i < n->spec.taints.n; i++)
        if (str_eq(n->spec.taints.items[i].effect, "NoExecute")) return true;
    return false;
}

static void node_changed(void *arg, const struct object *o) {
    struct nl_controller *c = arg;
    workqueue_add(c->nodes, o->key);
    if (!has_no_execute(o->obj)) return;
    struct informer *inf = manager_informer(c->m, &client_pods);
    _cleanup_object_list_ struct object_list l = {0};
    informer_by_index(inf, informer_add_index(inf, index_by_pod_node), o->key, &l);
    for (size_t i = 0; i < l.n; i++) workqueue_add(c->pods, l.items[i]->key);
}

static void pod_added(void *arg, struct object *o) {
    struct nl_controller *c = arg;
    const struct core_pod *p = o->obj;
    _cleanup_object_ struct object *no =
        str_empty(p->spec.node_name) ? NULL : informer_get(manager_informer(c->m, &client_nodes), p->spec.node_name);
    if (no && has_no_execute(no->obj)) workqueue_add(c->pods, o->key);
}

static void pod_updated(void *arg, struct object *old, struct object *o) {
    const struct core_pod *a = old->obj, *b = o->obj;
    if (!str_eq(a->spec.node_name, b->spec.node_name) || a->spec.tolerations.n != b->spec.tolerations.n)
        pod_added(arg, o);
}

static void done(void *p) { map_done_with(&((struct nl_controller *)p)->heard, free); }

int nodelifecycle_start(struct manager *m, struct err *e) {
    struct nl_controller *c = manager_alloc(m, sizeof(*c), done);
    c->m = m;
    c->events = manager_recorder(m, "node-controller");
    c->evictions = manager_recorder(m, "taint-eviction-controller");
    c->nodes = manager_queue(m, "node", 1, reconcile_node, c, &client_nodes, &client_pods, &client_leases, NULL);
    c->pods = manager_queue(m, "taint-eviction", 2, reconcile_pod, c, &client_nodes, &client_pods, NULL);
    manager_watch(m, &client_nodes, node_changed, c);
    struct informer_handler h = {pod_added, pod_updated, NULL, c};
    informer_add_handler(manager_informer(m, &client_pods), &h);
    workqueue_add(c->nodes, MONITOR);
    return 0;
}
