/* What the resource managers count, with upstream's names (pkg/kubelet/metrics). */
#include "kubelet/cm/cm_internal.h"

/* Milliseconds: 0.05, doubled fourteen times. */
static const double admission_bounds[] = {0.05, 0.1,  0.2,  0.4,   0.8,   1.6,   3.2,   6.4,
                                          12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2, 0};

void cm_observe_admission(struct cm *c, int64_t since) {
    /* a histogram of milliseconds: its seconds are thousandths */
    prom_observe(&c->admission, admission_bounds, (mono_ns() - since) * 1000);
}

static void one(struct buf *b, const char *name, const char *type, const char *help, uint64_t v) {
    prom_head(b, name, type, help);
    buf_printf(b, "%s %llu\n", name, (unsigned long long)v);
}

static void write_alignment(struct cm *c, struct buf *b) {
    static const char *const scopes[] = {"container", "pod"};
    static const char *const boundaries[] = {
        [CM_BY_NODE] = "numa_node", [CM_BY_CORE] = "physical_cpu", [CM_BY_UNCORE] = "uncore_cache"};
    for (int failed = 0; failed < 2; failed++) {
        const char *name = failed ? "kubelet_container_aligned_compute_resources_failure_count"
                                  : "kubelet_container_aligned_compute_resources_count";
        prom_head(b, name, "counter",
                  failed ? "Cumulative number of failures to allocate aligned compute resources to containers by "
                           "alignment type."
                         : "Cumulative number of aligned compute resources allocated to containers by alignment type.");
        for (int s = 0; s < 2; s++)
            for (int k = 0; k < CM_BOUNDARIES; k++)
                if (k == CM_BY_NODE || (s == 0 && !(failed && k == CM_BY_UNCORE)))
                    buf_printf(b, "%s{boundary=\"%s\",scope=\"%s\"} %llu\n", name, boundaries[k], scopes[s],
                               (unsigned long long)(failed ? c->unaligned : c->aligned)[s][k]);
    }
}

static void write_cpus(struct cm *c, struct buf *b) {
    pthread_mutex_lock(&c->lock);
    struct cpuset given = cpu_manager_given(c->cpu), free = cpu_manager_available(c->cpu);
    pthread_mutex_unlock(&c->lock);
    one(b, "kubelet_cpu_manager_shared_pool_size_millicores", "gauge",
        "The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.", cpuset_count(&free) * 1000);
    one(b, "kubelet_cpu_manager_exclusive_cpu_allocation_count", "gauge",
        "The total number of CPUs exclusively allocated to containers running on this node", cpuset_count(&given));
    if (!c->cpu_exclusive) return;
    prom_head(b, "kubelet_cpu_manager_allocation_per_numa", "gauge", "Number of CPUs allocated per NUMA node");
    for (size_t i = 0; i < c->machine->n_nodes; i++) {
        struct cpuset there = machine_cpus(c->machine, LEVEL_NUMA, c->machine->nodes[i].id, &given);
        buf_printf(b, "kubelet_cpu_manager_allocation_per_numa{numa_node=\"%d\"} %zu\n", c->machine->nodes[i].id,
                   cpuset_count(&there));
    }
}

/* resource_manager_*: those that have never happened are not shown, as upstream. */
static void write_managers(struct cm *c, struct buf *b) {
    static const struct {
        const char *name, *help, *resource, *label;
        enum cm_count count;
    } rows[] = {
        {"resource_manager_allocations_total",
         "Number of exclusive resource allocations performed by a resource manager.", "cpu", "source=\"node\"",
         CM_CPU_ALLOCATIONS},
        {"resource_manager_allocations_total", NULL, "memory", "source=\"node\"", CM_MEMORY_ALLOCATIONS},
        {"resource_manager_allocation_errors_total",
         "Number of errors encountered during exclusive resource allocation.", "cpu", "source=\"node\"", CM_CPU_ERRORS},
        {"resource_manager_allocation_errors_total", NULL, "memory", "source=\"node\"", CM_MEMORY_ERRORS},
        {"resource_manager_container_assignments", "Number of containers with a specific type of resource assignment.",
         "cpu", "assignment_type=\"node_exclusive\"", CM_CPU_ALLOCATIONS},
        {"resource_manager_container_assignments", NULL, "memory", "assignment_type=\"node_exclusive\"",
         CM_MEMORY_ASSIGNMENTS},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].help) prom_head(b, rows[i].name, "counter", rows[i].help);
        const char *first = strcmp(rows[i].label, "resource_name") < 0 ? rows[i].label : NULL;
        if (!c->counts[rows[i].count]) continue;
        buf_printf(b, "%s{%s%sresource_name=\"%s\"%s%s} %llu\n", rows[i].name, str_or_empty(first), first ? "," : "",
                   rows[i].resource, first ? "" : ",", first ? "" : rows[i].label,
                   (unsigned long long)c->counts[rows[i].count]);
    }
}

void cm_metrics(struct cm *c, struct buf *b) {
    static const struct {
        const char *name, *help;
        enum cm_count count;
    } rows[] = {
        {"kubelet_cpu_manager_pinning_requests_total", "The number of cpu core allocations which required pinning.",
         CM_CPU_REQUESTS},
        {"kubelet_cpu_manager_pinning_errors_total",
         "The number of cpu core allocations which required pinning failed.", CM_CPU_ERRORS},
        {"kubelet_memory_manager_pinning_requests_total",
         "The number of memory pages allocations which required pinning.", CM_MEMORY_REQUESTS},
        {"kubelet_memory_manager_pinning_errors_total",
         "The number of memory pages allocations which required pinning that failed.", CM_MEMORY_ERRORS},
        {"kubelet_topology_manager_admission_requests_total",
         "The number of admission requests where resources have to be aligned.", CM_ADMISSIONS},
        {"kubelet_topology_manager_admission_errors_total",
         "The number of admission request failures where resources could not be aligned.", CM_ADMISSION_ERRORS},
    };
    if (!c || !c->machine) return;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        one(b, rows[i].name, "counter", rows[i].help, c->counts[rows[i].count]);
    prom_head(b, "kubelet_topology_manager_admission_duration_ms", "histogram",
              "Duration in milliseconds to serve a pod admission request.");
    prom_write(b, "kubelet_topology_manager_admission_duration_ms", "", &c->admission, admission_bounds);
    write_cpus(c, b);
    if (c->policy != TOPOLOGY_NONE || c->cpu_exclusive) write_alignment(c, b);
    if (c->cpu_exclusive || c->memory_pinned) write_managers(c, b);
}
