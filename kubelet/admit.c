/* Whether this node can take a pod: what the scheduler checked, checked again, because pods can name a node
 * themselves.
 *
 * Upstream: pkg/kubelet/lifecycle/predicate.go with the scheduler's noderesources, nodeaffinity, nodeports.
 */
#include "kubelet/node.h"
#include "kubelet/pods.h"
#include "kubelet/shutdown.h"

static struct quantity allocatable_of(const struct str_map *m, const char *resource) {
    struct quantity q = {0};
    const char *s = str_map_get(m, resource);
    if (s) quantity_parse(s, &q);
    return q;
}

/* ---- resources ---- */

static void add_name(struct arena *a, struct str_vec *v, const char *name) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], name)) return;
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] = name;
    v->items = items;
}

static struct str_vec resources_of(struct arena *a, const struct core_pod *p) {
    struct str_vec v = {0};
    for (size_t i = 0; i < p->spec.containers.n; i++)
        for (size_t k = 0; k < p->spec.containers.items[i].resources.requests.n; k++)
            add_name(a, &v, p->spec.containers.items[i].resources.requests.items[k].key);
    for (size_t i = 0; i < p->spec.init_containers.n; i++)
        for (size_t k = 0; k < p->spec.init_containers.items[i].resources.requests.n; k++)
            add_name(a, &v, p->spec.init_containers.items[i].resources.requests.items[k].key);
    return v;
}

static bool fits(struct arena *a, const struct core_pod *pod, const struct core_pod *const *others, size_t n,
                 const struct str_map *allocatable, const char **reason, const char **message) {
    int64_t max_pods = quantity_value(allocatable_of(allocatable, "pods"));
    if (max_pods > 0 && (int64_t)n + 1 > max_pods) {
        *reason = "OutOfpods";
        *message = arena_printf(a, "Node didn't have enough resource: pods, requested: 1, used: %zu, capacity: %lld", n,
                                (long long)max_pods);
        return false;
    }
    struct str_vec names = resources_of(a, pod);
    for (size_t i = 0; i < names.n; i++) {
        struct quantity want = pod_resource(pod, names.items[i], false, NULL), used = {0};
        if (want.nano <= 0) continue;
        for (size_t k = 0; k < n; k++) used = quantity_add(used, pod_resource(others[k], names.items[i], false, NULL));
        /* A resource that somebody added to the Node's status by hand: the scheduler counts it. */
        if (strchr(names.items[i], '/') && !str_map_get(allocatable, names.items[i])) continue;
        struct quantity have = allocatable_of(allocatable, names.items[i]);
        if (quantity_cmp(quantity_add(used, want), have) <= 0) continue;
        bool cpu = str_eq(names.items[i], "cpu");
        long long w = cpu ? quantity_milli(want) : quantity_value(want),
                  u = cpu ? quantity_milli(used) : quantity_value(used),
                  h = cpu ? quantity_milli(have) : quantity_value(have);
        *reason = arena_printf(a, "OutOf%s", names.items[i]);
        *message = arena_printf(a, "Node didn't have enough resource: %s, requested: %lld, used: %lld, capacity: %lld",
                                names.items[i], w, u, h);
        return false;
    }
    return true;
}

bool admit_fits(struct kubelet *kl, struct arena *a, const struct core_pod *pod, const struct core_pod *const *others,
                size_t n, const char **reason, const char **message) {
    struct str_map allocatable = kubelet_allocatable(kl, a);
    return fits(a, pod, others, n, &allocatable, reason, message);
}

/* ---- host ports ---- */

static bool port_taken(const struct core_pod *p, const struct core_container_port *want) {
    for (size_t i = 0; i < p->spec.containers.n; i++)
        for (size_t k = 0; k < p->spec.containers.items[i].ports.n; k++) {
            const struct core_container_port *have = &p->spec.containers.items[i].ports.items[k];
            if (have->host_port != want->host_port || !str_eq(have->protocol, want->protocol)) continue;
            const char *x = str_empty(have->host_ip) ? "0.0.0.0" : have->host_ip,
                       *y = str_empty(want->host_ip) ? "0.0.0.0" : want->host_ip;
            if (str_eq(x, y) || str_eq(x, "0.0.0.0") || str_eq(y, "0.0.0.0")) return true;
        }
    return false;
}

static bool ports_free(const struct core_pod *pod, const struct core_pod *const *others, size_t n) {
    for (size_t i = 0; i < pod->spec.containers.n; i++)
        for (size_t k = 0; k < pod->spec.containers.items[i].ports.n; k++) {
            const struct core_container_port *want = &pod->spec.containers.items[i].ports.items[k];
            for (size_t o = 0; want->host_port > 0 && o < n; o++)
                if (port_taken(others[o], want)) return false;
        }
    return true;
}

/* ---- node affinity ---- */

static bool expression_matches(const struct core_node_selector_requirement *r, const char *value) {
    const char *op = r->operator;
    bool in = false;
    for (size_t i = 0; value && i < r->values.n; i++) in |= str_eq(r->values.items[i], value);
    if (str_eq(op, "In")) return in;
    if (str_eq(op, "NotIn")) return !in;
    if (str_eq(op, "Exists")) return value != NULL;
    if (str_eq(op, "DoesNotExist")) return value == NULL;
    int64_t v, limit;
    if (!value || r->values.n != 1 || str_to_i64(value, &v) < 0 || str_to_i64(r->values.items[0], &limit) < 0)
        return false;
    return str_eq(op, "Gt") ? v > limit : str_eq(op, "Lt") && v < limit;
}

static bool term_matches(const struct core_node_selector_term *t, const struct meta_object_meta *node) {
    if (!t->match_expressions.n && !t->match_fields.n) return false;
    for (size_t i = 0; i < t->match_expressions.n; i++)
        if (!expression_matches(&t->match_expressions.items[i],
                                str_map_get(&node->labels, t->match_expressions.items[i].key)))
            return false;
    for (size_t i = 0; i < t->match_fields.n; i++)
        if (!expression_matches(&t->match_fields.items[i],
                                str_eq(t->match_fields.items[i].key, "metadata.name") ? node->name : NULL))
            return false;
    return true;
}

static bool node_matches(const struct core_pod *pod, const struct meta_object_meta *node) {
    for (size_t i = 0; i < pod->spec.node_selector.n; i++)
        if (!str_eq(str_map_get(&node->labels, pod->spec.node_selector.items[i].key),
                    pod->spec.node_selector.items[i].value))
            return false;
    const struct core_affinity *af = pod->spec.affinity;
    const struct core_node_selector *req =
        af && af->node_affinity ? af->node_affinity->required_during_scheduling_ignored_during_execution : NULL;
    if (!req) return true;
    for (size_t i = 0; i < req->node_selector_terms.n; i++)
        if (term_matches(&req->node_selector_terms.items[i], node)) return true;
    return false;
}

/* ---- sysctls ---- */

/* Those that concern nothing but the pod's own namespaces; others only when the operator allows them. */
static const char *const safe_sysctls[] = {"kernel.shm_rmid_forced",
                                           "net.ipv4.ip_local_port_range",
                                           "net.ipv4.tcp_syncookies",
                                           "net.ipv4.ping_group_range",
                                           "net.ipv4.ip_unprivileged_port_start",
                                           "net.ipv4.ip_local_reserved_ports",
                                           "net.ipv4.tcp_keepalive_time",
                                           "net.ipv4.tcp_fin_timeout",
                                           "net.ipv4.tcp_keepalive_intvl",
                                           "net.ipv4.tcp_keepalive_probes",
                                           "net.ipv4.tcp_rmem",
                                           "net.ipv4.tcp_wmem"};

static bool sysctl_allowed(struct kubelet *kl, const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(safe_sysctls); i++)
        if (str_eq(name, safe_sysctls[i])) return true;
    for (size_t i = 0; i < kl->cfg.allowed_sysctls.n; i++) {
        const char *p = kl->cfg.allowed_sysctls.items[i];
        size_t n = strlen(p);
        if (str_eq(name, p) || (n && p[n - 1] == '*' && strncmp(name, p, n - 1) == 0)) return true;
    }
    return false;
}

static const char *forbidden_sysctl(struct kubelet *kl, struct arena *a, const struct core_pod *pod) {
    const struct core_pod_security_context *sc = pod->spec.security_context;
    for (size_t i = 0; sc && i < sc->sysctls.n; i++) {
        char *name = arena_strdup(a, sc->sysctls.items[i].name);
        for (char *c = name; *c; c++)
            if (*c == '/') *c = '.';
        if (!sysctl_allowed(kl, name)) return name;
    }
    return NULL;
}

/* ---- pressure ---- */

static bool tolerates(const struct core_pod *p, const char *key) {
    for (size_t i = 0; i < p->spec.tolerations.n; i++) {
        const struct core_toleration *t = &p->spec.tolerations.items[i];
        if (!str_empty(t->effect) && !str_eq(t->effect, "NoSchedule")) continue;
        if (str_eq(t->key, key) || (str_empty(t->key) && str_eq(t->operator, "Exists"))) return true;
    }
    return false;
}

/* Short of memory alone the node still takes pods that say what they need, and those that tolerate it; short of anything
 * else only critical ones. Upstream: eviction_manager.go (Admit). */
static const char *pressure_against(struct kubelet *kl, struct arena *a, const struct core_pod *pod) {
    static const char *const names[PRESSURE_KINDS] = {
        [PRESSURE_MEMORY] = "MemoryPressure", [PRESSURE_DISK] = "DiskPressure", [PRESSURE_PID] = "PIDPressure"};
    const char *list = "";
    bool only_memory = true;
    if (!kl->node || pod_is_critical(pod)) return NULL;
    for (int k = 0; k < PRESSURE_KINDS; k++) {
        if (!node_under_pressure(kl->node, (enum node_pressure)k)) continue;
        list = arena_printf(a, "%s%s%s", list, *list ? " " : "", names[k]);
        only_memory &= k == PRESSURE_MEMORY;
    }
    if (!*list || (only_memory &&
                   (!str_eq(pod_qos_class(pod), "BestEffort") || tolerates(pod, "node.kubernetes.io/memory-pressure"))))
        return NULL;
    return arena_printf(a, "The node had condition: [%s]. ", list);
}

/* ---- AppArmor ---- */

static bool confines(const struct core_app_armor_profile *p) { return p && !str_eq(p->type, "Unconfined"); }

static bool any_confined(const struct core_container_vec *v) {
    for (size_t i = 0; i < v->n; i++)
        if (v->items[i].security_context && confines(v->items[i].security_context->app_armor_profile)) return true;
    return false;
}

static bool wants_apparmor(const struct core_pod *p) {
    return (p->spec.security_context && confines(p->spec.security_context->app_armor_profile)) ||
           any_confined(&p->spec.containers) || any_confined(&p->spec.init_containers);
}

static bool apparmor_enabled(void) {
    _cleanup_free_ char *text = NULL;
    return file_read("/sys/module/apparmor/parameters/enabled", 16, &text, NULL) == 0 && text[0] == 'Y';
}

bool pods_admit(struct kubelet *kl, struct arena *a, const struct core_pod *pod, const struct core_pod *const *others,
                size_t n, const char **reason, const char **message) {
    struct str_map allocatable = kubelet_allocatable(kl, a);
    if (pod->spec.os && !str_eq(pod->spec.os->name, "linux")) {
        *reason = "PodOSNotSupported";
        *message = "Failed to admit pod as the OS field doesn't match node OS";
        return false;
    }
    const char *pressure = pressure_against(kl, a, pod);
    if (pressure) {
        *reason = "Evicted";
        *message = pressure;
        return false;
    }
    if (wants_apparmor(pod) && !kl->fake && !apparmor_enabled()) {
        *reason = "AppArmor";
        *message = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
        return false;
    }
    if (shutdown_active(kl->shutdown)) {
        *reason = "NodeShutdown";
        *message = "Pod was rejected as the node is shutting down.";
        return false;
    }
    const char *sysctl = forbidden_sysctl(kl, a, pod);
    if (sysctl) {
        *reason = "SysctlForbidden";
        *message = arena_printf(a, "forbidden sysctl: \"%s\" not allowlisted", sysctl);
        return false;
    }
    if (!fits(a, pod, others, n, &allocatable, reason, message)) return false;
    if (!ports_free(pod, others, n)) {
        *reason = "NodePorts";
        *message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports";
        return false;
    }
    _cleanup_object_ struct object *node = kl->node_informer ? informer_get(kl->node_informer, kl->node_name) : NULL;
    if (node && !pod_is_static(pod) && !node_matches(pod, node->meta)) {
        *reason = "NodeAffinity";
        *message = "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        return false;
    }
    return true;
}
