/* CRI's metrics: the numbers of sandboxes and containers under cAdvisor's names, declared once
 * (ListMetricDescriptors) and told as values in the order of the declared labels. CRI's values are whole
 * numbers: seconds lose their fractions, so kubelets that want rates of CPU time read ContainerStats. */
#include "pkg/base/ktime.h"
#include "shim.h"

static const char *const own_labels[] = {"container", "id", "image", "name", "namespace", "pod"};
enum { OWN_LABELS = 6 };

#define AT(f) offsetof(struct cgroup_stats, f)
static const struct row {
    const char *name, *help, *label, *value; /* label and its value beside the common ones, or NULL */
    size_t at;
    uint64_t divisor;
    bool counter;
} rows[] = {
    {"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "cpu", "total", AT(cpu_ns),
     1000000000, true},
    {"container_memory_usage_bytes", "Current memory usage in bytes.", NULL, NULL, AT(memory_usage), 1, false},
    {"container_memory_working_set_bytes", "Current working set in bytes.", NULL, NULL, AT(memory_working_set), 1,
     false},
    {"container_memory_rss", "Size of RSS in bytes.", NULL, NULL, AT(memory_rss), 1, false},
    {"container_memory_swap", "Container swap usage in bytes.", NULL, NULL, AT(swap_usage), 1, false},
    {"container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "pgfault",
     AT(page_faults), 1, true},
    {"container_processes", "Number of processes running inside the container.", NULL, NULL, AT(pids), 1, false},
};
#undef AT

static const struct {
    const char *name, *help;
    size_t at; /* of a pointer in cri_network_interface_usage */
} network_rows[] = {
#define AT(f) offsetof(struct cri_network_interface_usage, f)
    {"container_network_receive_bytes_total", "Cumulative count of bytes received", AT(rx_bytes)},
    {"container_network_receive_errors_total", "Cumulative count of errors while receiving", AT(rx_errors)},
    {"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", AT(tx_bytes)},
    {"container_network_transmit_errors_total", "Cumulative count of errors while transmitting", AT(tx_errors)},
#undef AT
};

static void describe(struct arena *a, struct cri_metric_descriptor *d, const char *name, const char *help,
                     const char *label) {
    d->name = name;
    d->help = help;
    d->label_keys.items = arena_alloc(a, (OWN_LABELS + 1) * sizeof(char *));
    for (; d->label_keys.n < OWN_LABELS; d->label_keys.n++)
        d->label_keys.items[d->label_keys.n] = own_labels[d->label_keys.n];
    if (label) d->label_keys.items[d->label_keys.n++] = label;
}

void metrics_describe(struct arena *a, struct cri_metric_descriptor_vec *out) {
    out->items = arena_zalloc(a, (ARRAY_LEN(rows) + ARRAY_LEN(network_rows)) * sizeof(*out->items));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        describe(a, &out->items[out->n++], rows[i].name, rows[i].help, rows[i].label);
    for (size_t i = 0; i < ARRAY_LEN(network_rows); i++)
        describe(a, &out->items[out->n++], network_rows[i].name, network_rows[i].help, "interface");
}

static struct cri_metric *add(struct arena *a, struct cri_metric_vec *v, const char *const own[OWN_LABELS],
                              const char *extra, const char *name, uint64_t value, bool counter) {
    struct cri_metric *m = &v->items[v->n++];
    *m = (struct cri_metric){.name = name,
                             .timestamp = ktime_unix_ns(ktime_now()),
                             .metric_type = counter ? CRI_METRIC_TYPE_COUNTER : CRI_METRIC_TYPE_GAUGE};
    m->label_values.items = arena_alloc(a, (OWN_LABELS + 1) * sizeof(char *));
    for (; m->label_values.n < OWN_LABELS; m->label_values.n++)
        m->label_values.items[m->label_values.n] = own[m->label_values.n];
    if (extra) m->label_values.items[m->label_values.n++] = extra;
    m->value = arena_zalloc(a, sizeof(*m->value));
    m->value->value = value;
    return m;
}

static void group_metrics(struct arena *a, struct cri_metric_vec *v, const char *const own[OWN_LABELS],
                          const char *cgroup, size_t extra) {
    struct cgroup_stats g;
    cgroup_read_stats(cgroup, &g);
    v->items = arena_zalloc(a, (ARRAY_LEN(rows) + extra) * sizeof(*v->items));
    for (size_t i = 0; g.found && i < ARRAY_LEN(rows); i++)
        add(a, v, own, rows[i].value, rows[i].name,
            *(const uint64_t *)(const void *)((const char *)&g + rows[i].at) / rows[i].divisor, rows[i].counter);
}

static void network_metrics(struct arena *a, struct cri_metric_vec *v, const char *const own[OWN_LABELS],
                            const struct cri_network_usage *net) {
    for (size_t i = 0; net && i < net->interfaces.n; i++)
        for (size_t k = 0; k < ARRAY_LEN(network_rows); k++) {
            const struct cri_network_interface_usage *u = &net->interfaces.items[i];
            struct cri_uint64_value *const *x =
                (struct cri_uint64_value *const *)(const void *)((const char *)u + network_rows[k].at);
            add(a, v, own, u->name, network_rows[k].name, *x ? (*x)->value : 0, true);
        }
}

void metrics_of_sandbox(struct shim *s, struct arena *a, struct sandbox *sb, struct cri_pod_sandbox_metrics *out) {
    const struct cri_pod_sandbox_metadata *md = sb->config->metadata;
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    const char *parent = l ? str_or_empty(l->cgroup_parent) : "";
    const char *own[OWN_LABELS] = {"", parent, "", "", str_or_empty(md->namespace), str_or_empty(md->name)};
    const struct cri_pod_sandbox_stats *st = sandbox_stats(s, a, sb);
    const struct cri_network_usage *net = st->linux ? st->linux->network : NULL;
    out->pod_sandbox_id = arena_strdup(a, sb->id);
    group_metrics(a, &out->metrics, own, parent, net ? net->interfaces.n * ARRAY_LEN(network_rows) : 0);
    network_metrics(a, &out->metrics, own, net);
    struct container **all;
    size_t n;
    container_all(s, a, sb->id, &all, &n);
    out->container_metrics.items = arena_zalloc(a, (n + 1) * sizeof(*out->container_metrics.items));
    for (size_t i = 0; i < n; i++) {
        struct cri_container_metrics *m = &out->container_metrics.items[out->container_metrics.n++];
        m->container_id = arena_strdup(a, all[i]->id);
        own[0] = str_or_empty(all[i]->config->metadata->name);
        own[1] = all[i]->cgroup;
        own[2] = str_or_empty(all[i]->image_ref);
        own[3] = m->container_id;
        group_metrics(a, &m->metrics, own, all[i]->cgroup, 0);
        struct cri_container_metrics *copy = api_clone(a, &api_cri_container_metrics, m);
        *m = *copy; /* nothing of the container is pointed to once it is let go */
        container_put(s, all[i]);
    }
}
