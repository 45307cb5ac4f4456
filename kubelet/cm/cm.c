/* See cm.h. Settings, and giving: what moves containers is in cm_cpus.c, the metrics in cm_metrics.c. */
#include "kubelet/cm/cm_internal.h"

#include <unistd.h>

#include "kubelet/cm/settings.h"
#include "kubelet/devices.h"
#include "kubelet/eviction.h"
#include "kubelet/node.h"
#include "kubelet/pods.h"

/* ---- settings ---- */

static int cpu_settings(struct cm *c, const struct kubelet_config *k, struct cpu_config *out, struct err *e) {
    bool alpha = settings_gate(k->feature_gates, "CPUManagerPolicyAlphaOptions", false);
    struct quantity reserved =
        quantity_add(node_reserved(k->system_reserved, "cpu"), node_reserved(k->kube_reserved, "cpu"));
    if (!str_eq(k->cpu_policy, "none") && !str_eq(k->cpu_policy, "static"))
        return err_set(e, -EINVAL, "cpuManagerPolicy: unknown policy: \"%s\"", k->cpu_policy);
    out->exclusive = c->cpu_exclusive = str_eq(k->cpu_policy, "static");
    if (!out->exclusive && !str_empty(k->cpu_policy_options))
        return err_set(e, -EINVAL, "cpuManagerPolicyOptions: the policy none has no options");
    out->reserved_milli = quantity_milli(reserved);
    if (!str_empty(k->reserved_cpus) && cpuset_parse(k->reserved_cpus, &out->reserved) < 0)
        return err_set(e, -EINVAL, "reservedSystemCPUs: unable to parse \"%s\"", k->reserved_cpus);
    if (!cpuset_within(&out->reserved, &c->found->cpus))
        return err_set(e, -EINVAL, "reservedSystemCPUs: \"%s\" are not all online on this machine", k->reserved_cpus);
    int r = settings_cpu_options(k->cpu_policy_options, alpha, &out->options, e);
    if (r == 0 && out->options.align_by_socket && c->policy == TOPOLOGY_SINGLE_NODE)
        r = err_set(e, -EINVAL,
                    "cpuManagerPolicyOptions: the topology manager's policy single-numa-node is incompatible with "
                    "align-by-socket");
    c->full_cores = out->options.full_cores;
    return r;
}

/* Memory that is kept from pods, by kind: reservations and the hard eviction threshold. */
static struct memory_reservation *kept_from_pods(struct cm *c, struct arena *a, size_t *n) {
    const struct kubelet_config *k = &c->kl->cfg;
    const char *lists[] = {k->system_reserved, k->kube_reserved};
    struct memory_reservation *out = NULL;
    size_t cap = 0;
    *n = 0;
    for (size_t l = 0; l < ARRAY_LEN(lists); l++)
        for (const char *s = str_or_empty(lists[l]); *s;) {
            size_t len = strcspn(s, ","), key = strcspn(s, "=");
            const char *type = arena_strndup(a, s, MIN_OF(key, len));
            s += len + (s[len] == ',');
            if (!str_eq(type, "memory") && !str_has_prefix(type, "hugepages-")) continue;
            ARENA_GROW(a, out, *n, cap);
            out[(*n)++] = (struct memory_reservation){0, type, quantity_value(node_reserved(lists[l], type))};
        }
    ARENA_GROW(a, out, *n, cap);
    int64_t have = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    out[(*n)++] = (struct memory_reservation){0, "memory", node_kept_free(c->kl, SIGNAL_MEMORY, have)};
    return out;
}

static int make_memory(struct cm *c, struct arena *a, struct err *e) {
    const struct kubelet_config *k = &c->kl->cfg;
    struct memory_reservation *by_node;
    struct memory_config mc = {.pinned = str_eq(k->memory_policy, "Static")};
    if (!mc.pinned && !str_eq(k->memory_policy, "None"))
        return err_set(e, -EINVAL, "memoryManagerPolicy: unknown policy: \"%s\"", k->memory_policy);
    int r = settings_reserved_memory(a, k->reserved_memory, &by_node, &mc.n_by_node, e);
    if (r < 0) return r;
    mc.by_node = by_node;
    mc.reserved = kept_from_pods(c, a, &mc.n_reserved);
    mc.file = arena_printf(a, "%s/memory_manager_state", k->root_dir);
    c->memory_pinned = mc.pinned;
    return memory_manager_new(c->found, &mc, &c->memory, e);
}

static int make(struct cm *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct kubelet_config *k = &c->kl->cfg;
    struct cpu_config cc = {.file = arena_printf(a, "%s/cpu_manager_state", k->root_dir)};
    int64_t most, memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    int r = machine_read("/sys/devices/system", memory, &c->found, e);
    if (r == 0) r = settings_topology_policy(k->topology_policy, &c->policy, e);
    if (r == 0) r = settings_topology_options(k->topology_options, &c->closest, &most, e);
    if (r < 0) return r;
    c->by_pod = str_eq(k->topology_scope, "pod");
    if (!c->by_pod && !str_eq(k->topology_scope, "container"))
        return err_set(e, -EINVAL, "topologyManagerScope: \"%s\" must be container or pod", k->topology_scope);
    if (c->policy != TOPOLOGY_NONE && (int64_t)c->found->n_nodes > most)
        return err_set(e, -ENOTSUP, "topology manager: unsupported on machines with more than %lld NUMA nodes",
                       (long long)most);
    r = cpu_settings(c, k, &cc, e);
    if (r == 0) r = cpu_manager_new(c->found, &cc, &c->cpu, e);
    if (r == 0) r = make_memory(c, a, e);
    if (r == 0) c->machine = c->found;
    return r;
}

struct cm *cm_new(struct kubelet *kl) {
    struct cm *c = xcalloc(1, sizeof(*c));
    c->kl = kl;
    pthread_mutex_init(&c->admitting, NULL);
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&c->wake, &ca);
    pthread_condattr_destroy(&ca);
    return c;
}

int cm_open(struct cm *c, struct err *e) { return c->kl->fake ? 0 : make(c, e); }

void cm_start(struct cm *c) {
    if (c->cpu_exclusive) c->running = kubelet_thread(&c->thread, cm_move_thread, c, false) == 0;
}

void cm_free(struct cm *c) {
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_broadcast(&c->wake);
    pthread_mutex_unlock(&c->lock);
    if (c->running) pthread_join(c->thread, NULL);
    map_done_with(&c->moved, free);
    cpu_manager_free(c->cpu);
    memory_manager_free(c->memory);
    machine_free(c->found);
    pthread_cond_destroy(&c->wake);
    pthread_mutex_destroy(&c->lock);
    pthread_mutex_destroy(&c->admitting);
    free(c);
}

/* ---- admission ---- */

static void find_hint(struct cm *c, struct arena *a, const struct core_pod *p, const struct core_container *of,
                      struct numa_hint *hint, bool *ok) {
    struct hint_set s = {0};
    devices_hints(c->kl->devices, a, p, of, machine_nodes(c->machine), &s);
    pthread_mutex_lock(&c->lock);
    cpu_manager_hints(c->cpu, a, p, of, &s);
    memory_manager_hints(c->memory, a, p, of, &s);
    pthread_mutex_unlock(&c->lock);
    *ok = hints_merge(c->machine, c->policy, c->closest, &s, hint);
}

static void count_alignment(struct cm *c, bool ok) {
    if (c->policy == TOPOLOGY_SINGLE_NODE) (ok ? c->aligned : c->unaligned)[c->by_pod][CM_BY_NODE]++;
}

static int give_cpus(struct cm *c, const struct core_pod *p, const struct core_container *of, struct numa_hint h,
                     struct err *e) {
    if (!cpu_manager_wanted(c->cpu, p, of)) return 0;
    struct cpuset had = cpu_manager_own(c->cpu, p->metadata.uid, of->name);
    c->counts[CM_CPU_REQUESTS]++;
    int r = cpu_manager_allocate(c->cpu, p, of, h.nodes, e);
    if (r < 0) c->counts[CM_CPU_ERRORS]++;
    if (c->full_cores) (r < 0 ? c->unaligned : c->aligned)[0][CM_BY_CORE]++;
    if (r < 0 || !cpuset_empty(&had)) return r;
    struct cpuset got = cpu_manager_own(c->cpu, p->metadata.uid, of->name);
    if (cpu_aligned_by_uncore(c->machine, &got)) c->aligned[0][CM_BY_UNCORE]++;
    c->counts[CM_CPU_ALLOCATIONS]++;
    c->dirty = true;
    pthread_cond_broadcast(&c->wake);
    return 0;
}

static int give_memory(struct cm *c, struct arena *a, const struct core_pod *p, const struct core_container *of,
                       struct numa_hint h, struct err *e) {
    size_t had, have;
    if (!memory_manager_pins(c->memory, p)) return 0;
    memory_manager_blocks(c->memory, a, p->metadata.uid, of->name, &had);
    c->counts[CM_MEMORY_REQUESTS]++;
    int r = memory_manager_allocate(c->memory, p, of, h, e);
    if (r < 0) c->counts[CM_MEMORY_ERRORS]++;
    if (r < 0 || had) return r;
    memory_manager_blocks(c->memory, a, p->metadata.uid, of->name, &have);
    c->counts[CM_MEMORY_ALLOCATIONS] += have;
    c->counts[CM_MEMORY_ASSIGNMENTS]++;
    return 0;
}

/* Devices first: they may have to be waited for. */
static int give(struct cm *c, struct arena *a, const struct core_pod *p, const struct core_container *of,
                struct numa_hint h, struct err *e) {
    int r = devices_reserve(c->kl->devices, a, p, of, h.nodes, e);
    if (r < 0 || !c->machine) return r;
    pthread_mutex_lock(&c->lock);
    r = give_cpus(c, p, of, h, e);
    if (r == 0) r = give_memory(c, a, p, of, h, e);
    pthread_mutex_unlock(&c->lock);
    return r;
}

static int misaligned(struct cm *c, struct err *e) {
    count_alignment(c, false);
    err_set(e, -EBUSY, "Resources cannot be allocated with Topology locality");
    e->reason = "TopologyAffinityError";
    return -EBUSY;
}

static int give_all(struct cm *c, struct arena *a, const struct core_pod *p, struct err *e) {
    const struct core_container_vec *lists[] = {&p->spec.init_containers, &p->spec.containers};
    struct numa_hint hint = {0};
    bool ok = true, align = c->machine && c->policy != TOPOLOGY_NONE;
    if (align && c->by_pod) find_hint(c, a, p, NULL, &hint, &ok);
    if (!ok) return misaligned(c, e);
    for (size_t l = 0; l < ARRAY_LEN(lists); l++)
        for (size_t i = 0; i < lists[l]->n; i++) {
            const struct core_container *of = &lists[l]->items[i];
            if (align && !c->by_pod) find_hint(c, a, p, of, &hint, &ok);
            if (!ok) return misaligned(c, e);
            int r = give(c, a, p, of, hint, e);
            if (r < 0) return r;
            if (!c->by_pod) count_alignment(c, true);
        }
    if (c->by_pod) count_alignment(c, true);
    return 0;
}

int cm_admit(struct cm *c, struct arena *a, const struct core_pod *p, const char **reason, const char **message) {
    _cleanup_err_ struct err e = {0};
    int64_t since = mono_ns();
    bool alone = c->policy != TOPOLOGY_NONE || c->cpu_exclusive || c->memory_pinned;
    if (alone) pthread_mutex_lock(&c->admitting);
    int r = give_all(c, a, p, &e);
    if (alone) pthread_mutex_unlock(&c->admitting);
    if (r != -EAGAIN) c->counts[CM_ADMISSIONS]++;
    cm_observe_admission(c, since);
    *message = arena_strdup(a, e.msg);
    if (r == 0 || r == -EAGAIN) return r;
    c->counts[CM_ADMISSION_ERRORS] += c->policy != TOPOLOGY_NONE;
    cm_release(c, p->metadata.uid);
    *reason = e.reason ? e.reason : "UnexpectedAdmissionError";
    if (!e.reason) *message = arena_printf(a, "Allocate failed due to %s, which is unexpected", e.msg);
    return r;
}

void cm_release(struct cm *c, const char *uid) {
    devices_release(c->kl->devices, uid);
    if (!c->machine) return;
    pthread_mutex_lock(&c->lock);
    if (cpu_manager_release(c->cpu, uid)) {
        c->dirty = true;
        pthread_cond_broadcast(&c->wake);
    }
    memory_manager_release(c->memory, uid);
    pthread_mutex_unlock(&c->lock);
}

void cm_collect(struct cm *c) {
    _cleanup_arena_ struct arena *a = arena_new();
    if (!c->machine) return;
    pthread_mutex_lock(&c->lock);
    struct str_vec of[] = {cpu_manager_pods(c->cpu, a), memory_manager_pods(c->memory, a)};
    pthread_mutex_unlock(&c->lock);
    for (size_t k = 0; k < ARRAY_LEN(of); k++)
        for (size_t i = 0; i < of[k].n; i++) {
            struct pod_worker *w = pods_get(c->kl->pods, of[k].items[i]);
            if (!w || w->state >= WORKER_TERMINATED) cm_release(c, of[k].items[i]);
            worker_unref(w);
        }
}

/* ---- resize ---- */

static bool changes(const struct core_pod *now, const struct core_pod *wanted, const char *resource) {
    for (size_t i = 0; i < wanted->spec.containers.n; i++) {
        const struct core_container *x = &wanted->spec.containers.items[i], *y = pod_container(now, x->name, NULL);
        for (int limit = 0; y && limit < 2; limit++)
            if (quantity_cmp(container_resource(x, resource, limit, NULL),
                             container_resource(y, resource, limit, NULL)))
                return true;
    }
    return false;
}

const char *cm_resize_obstacle(struct cm *c, const struct core_pod *now, const struct core_pod *wanted) {
    if (!str_eq(pod_qos_class(wanted), "Guaranteed")) return NULL;
    if (c->cpu_exclusive && changes(now, wanted, "cpu"))
        return "Resize is infeasible for Guaranteed Pods alongside CPU Manager policy \"static\"";
    if (c->memory_pinned && changes(now, wanted, "memory"))
        return "Resize is infeasible for Guaranteed Pods alongside Memory Manager policy \"Static\"";
    return NULL;
}
