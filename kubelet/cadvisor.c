/* /metrics/cadvisor: the numbers of pods and containers under the names that dashboards and alerts ask for.
 * They come from the cgroups, from /proc/PID/net/dev in each pod's network namespace, and for writable layers
 * from the runtime. A metric is a row of a table; a subject is a pod (labels container, image and name
 * empty), a container, or the machine (id "/").
 *
 * Upstream: cAdvisor's Prometheus collector as pkg/kubelet/server mounts it. */
#include <sys/statvfs.h>

#include "kubelet/cgroup.h"
#include "kubelet/pods.h"
#include "kubelet/stats.h"

enum { MAX_INTERFACES = 16 };

struct subject {
    const char *id, *container, *image, *name, *ns, *pod; /* "" where not said */
    struct cgroup_usage u;
    struct cgroup_details d;
    uint64_t fs_used, fs_limit;
    bool has_fs, is_container;
    double started;
    int64_t cpu_quota, cpu_shares, memory_limit;
};
struct interface {
    const struct subject *of;
    char name[32];
    uint64_t n[16]; /* receive: bytes packets errs drop fifo frame compressed multicast; then transmit likewise */
};
struct scene {
    struct kubelet *kl;
    struct arena *a;
    struct subject **subjects; /* pointers: interfaces point to them */
    size_t n, cap;
    struct interface *interfaces;
    size_t n_if, cap_if;
    struct cri_list_container_stats_response runtime;
};

/* ---- collecting ---- */

static struct subject *add(struct scene *s, const char *id) {
    ARENA_GROW(s->a, s->subjects, s->n, s->cap);
    struct subject *x = arena_zalloc(s->a, sizeof(*x));
    *x = (struct subject){.id = id, .container = "", .image = "", .name = "", .ns = "", .pod = ""};
    cgroups_usage(s->kl->cgroups, str_eq(id, "/") ? "" : id, &x->u);
    cgroups_details(s->kl->cgroups, str_eq(id, "/") ? "" : id, &x->d);
    return s->subjects[s->n++] = x;
}

static void writable_layer(struct scene *s, struct subject *x) {
    for (size_t i = 0; i < s->runtime.stats.n; i++) {
        const struct cri_container_stats *c = &s->runtime.stats.items[i];
        struct statvfs fs;
        if (!c->attributes || !str_eq(c->attributes->id, x->name) || !c->writable_layer) continue;
        x->has_fs = c->writable_layer->used_bytes != NULL;
        if (x->has_fs) x->fs_used = c->writable_layer->used_bytes->value;
        const char *at = c->writable_layer->fs_id ? c->writable_layer->fs_id->mountpoint : NULL;
        if (at && statvfs(at, &fs) == 0) x->fs_limit = (uint64_t)fs.f_blocks * fs.f_frsize;
    }
}

static void add_interfaces(struct scene *s, const struct subject *pod, pid_t pid) {
    _cleanup_free_ char *path = xasprintf("/proc/%d/net/dev", (int)pid), *text = NULL;
    if (file_read(path, 65536, &text, NULL) < 0) return;
    char *save = NULL;
    int count = 0;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *colon = strchr(line, ':'), *name = line + strspn(line, " ");
        if (!colon || strchr(line, '|') || count >= MAX_INTERFACES) continue;
        *colon = '\0';
        if (str_eq(name, "lo")) continue;
        ARENA_GROW(s->a, s->interfaces, s->n_if, s->cap_if);
        struct interface *i = &s->interfaces[s->n_if++];
        *i = (struct interface){.of = pod};
        snprintf(i->name, sizeof(i->name), "%s", name);
        char *p = colon + 1;
        for (size_t k = 0; k < ARRAY_LEN(i->n); k++) i->n[k] = strtoull(p, &p, 10);
        count++;
    }
}

static pid_t add_containers(struct scene *s, const struct core_pod *p, const char *path,
                            const struct core_container_status_vec *v) {
    pid_t pid = 0;
    for (size_t i = 0; i < v->n; i++) {
        const struct core_container_status *c = &v->items[i];
        const char *id = strstr(str_or_empty(c->container_id), "://");
        if (!c->state.running || !id) continue;
        const char *group = cgroups_container(s->kl->cgroups, s->a, path, id + 3);
        if (!group) continue;
        struct subject *x = add(s, group);
        x->is_container = true;
        x->container = c->name;
        x->image = str_or_empty(c->image);
        x->name = arena_strdup(s->a, id + 3);
        x->ns = p->metadata.namespace;
        x->pod = p->metadata.name;
        x->started = (double)ktime_unix_ns(c->state.running->started_at) / 1e9;
        const struct core_container *spec = pod_container(p, c->name, NULL);
        if (spec) {
            x->cpu_shares = container_shares(p, spec);
            x->cpu_quota = milli_to_quota(quantity_milli(container_limit(p, spec, "cpu")), s->kl->rt->cfs_period_us);
            x->memory_limit = quantity_value(container_limit(p, spec, "memory"));
        }
        writable_layer(s, x);
        if (!pid) pid = cgroups_any_process(s->kl->cgroups, group);
    }
    return pid;
}

static void add_pod(struct scene *s, struct pod_worker *w, const struct core_pod *p) {
    struct core_pod_status *st = worker_status(w, s->a);
    const char *path = cgroups_pod_path(s->kl->cgroups, s->a, p);
    struct subject *x = add(s, path);
    x->ns = arena_strdup(s->a, p->metadata.namespace);
    x->pod = arena_strdup(s->a, p->metadata.name);
    if (!st) return;
    pid_t pid = add_containers(s, p, path, &st->container_statuses);
    pid_t init = add_containers(s, p, path, &st->init_container_statuses);
    if (!pid) pid = init;
    if (pid && !p->spec.host_network) add_interfaces(s, x, pid);
}

/* ---- telling ---- */

enum { ALL = 0, CONTAINERS = 1, LIMITED = 2, FS = 4 };
#define U(f) offsetof(struct subject, u.f)
#define D(f) offsetof(struct subject, d.f)
static const struct metric {
    const char *name, *type, *help;
    size_t at;
    double scale;
    int only;
    const char *extra; /* labels, each with a comma at its end */
} metrics[] = {
    {"container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", U(cpu_ns), 1e-9, ALL,
     "cpu=\"total\","},
    {"container_cpu_user_seconds_total", "counter", "Cumulative user cpu time consumed in seconds.", D(cpu_user_ns),
     1e-9, ALL, ""},
    {"container_cpu_system_seconds_total", "counter", "Cumulative system cpu time consumed in seconds.",
     D(cpu_system_ns), 1e-9, ALL, ""},
    {"container_cpu_cfs_periods_total", "counter", "Number of elapsed enforcement period intervals.", D(cpu_periods), 1,
     LIMITED, ""},
    {"container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.",
     D(cpu_throttled_periods), 1, LIMITED, ""},
    {"container_cpu_cfs_throttled_seconds_total", "counter", "Total time duration the container has been throttled.",
     D(cpu_throttled_ns), 1e-9, LIMITED, ""},
    {"container_memory_usage_bytes", "gauge",
     "Current memory usage in bytes, including all memory regardless of when it was accessed", U(memory_usage), 1, ALL,
     ""},
    {"container_memory_working_set_bytes", "gauge", "Current working set in bytes.", U(memory_working_set), 1, ALL, ""},
    {"container_memory_rss", "gauge", "Size of RSS in bytes.", U(memory_rss), 1, ALL, ""},
    {"container_memory_cache", "gauge", "Number of bytes of page cache memory.", D(memory_cache), 1, ALL, ""},
    {"container_memory_mapped_file", "gauge", "Size of memory mapped files in bytes.", D(memory_mapped), 1, ALL, ""},
    {"container_memory_swap", "gauge", "Container swap usage in bytes.", D(memory_swap), 1, ALL, ""},
    {"container_memory_max_usage_bytes", "gauge", "Maximum memory usage recorded in bytes", D(memory_max), 1, ALL, ""},
    {"container_memory_failcnt", "counter", "Number of memory usage hits limits", D(memory_failures), 1, ALL, ""},
    {"container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", U(page_faults), 1,
     ALL, "failure_type=\"pgfault\",scope=\"hierarchy\","},
    {"container_memory_failures_total", "counter", NULL, U(major_faults), 1, ALL,
     "failure_type=\"pgmajfault\",scope=\"hierarchy\","},
    {"container_oom_events_total", "counter", "Count of out of memory events observed for the container", D(oom_kills),
     1, ALL, ""},
    {"container_processes", "gauge", "Number of processes running inside the container.", U(pids), 1, ALL, ""},
    {"container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container on this filesystem.",
     offsetof(struct subject, fs_used), 1, FS, "device=\"\","},
    {"container_fs_limit_bytes", "gauge", "Number of bytes that can be consumed by the container on this filesystem.",
     offsetof(struct subject, fs_limit), 1, FS, "device=\"\","},
    {"container_fs_reads_bytes_total", "counter", "Cumulative count of bytes read", D(io_read_bytes), 1, ALL,
     "device=\"\","},
    {"container_fs_writes_bytes_total", "counter", "Cumulative count of bytes written", D(io_write_bytes), 1, ALL,
     "device=\"\","},
    {"container_spec_cpu_period", "gauge", "CPU period of the container.", 0, 0, LIMITED, ""},
    {"container_spec_cpu_quota", "gauge", "CPU quota of the container.", offsetof(struct subject, cpu_quota), 1,
     LIMITED, ""},
    {"container_spec_cpu_shares", "gauge", "CPU share of the container.", offsetof(struct subject, cpu_shares), 1,
     CONTAINERS, ""},
    {"container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.",
     offsetof(struct subject, memory_limit), 1, CONTAINERS, ""},
};
#undef U
#undef D

static const struct {
    const char *name, *help;
    size_t at; /* in interface.n */
} network[] = {
    {"container_network_receive_bytes_total", "Cumulative count of bytes received", 0},
    {"container_network_receive_packets_total", "Cumulative count of packets received", 1},
    {"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", 2},
    {"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", 3},
    {"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", 8},
    {"container_network_transmit_packets_total", "Cumulative count of packets transmitted", 9},
    {"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", 10},
    {"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", 11},
};

static void put_head(struct buf *b, const char *name, const char *type, const char *help) {
    if (help) buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_labels(struct buf *b, const struct subject *x, const char *extra) {
    buf_printf(b, "{container=\"%s\",%sid=\"%s\",image=\"%s\",name=\"%s\",namespace=\"%s\",pod=\"%s\"}", x->container,
               extra, x->id, x->image, x->name, x->ns, x->pod);
}

static bool applies(const struct subject *x, int only) {
    if (!x->u.found) return false;
    if (only == ALL) return true;
    if (only == FS) return x->has_fs;
    return x->is_container && (only == CONTAINERS || x->cpu_quota > 0);
}

static void put_metric(struct buf *b, const struct scene *s, const struct metric *m, long long now) {
    put_head(b, m->name, m->type, m->help);
    for (size_t i = 0; i < s->n; i++) {
        const struct subject *x = s->subjects[i];
        if (!applies(x, m->only)) continue;
        uint64_t v =
            m->scale > 0 ? *(const uint64_t *)(const void *)((const char *)x + m->at) : 100000; /* the period */
        buf_adds(b, m->name);
        put_labels(b, x, m->extra);
        if (m->scale > 0 && m->scale < 1)
            buf_printf(b, " %.9f %lld\n", (double)v * m->scale, now);
        else
            buf_printf(b, " %llu %lld\n", (unsigned long long)v, now);
    }
}

static void put_network(struct buf *b, const struct scene *s, long long now) {
    for (size_t k = 0; k < ARRAY_LEN(network); k++) {
        put_head(b, network[k].name, "counter", network[k].help);
        for (size_t i = 0; i < s->n_if; i++) {
            char extra[64];
            snprintf(extra, sizeof(extra), "interface=\"%s\",", s->interfaces[i].name);
            buf_adds(b, network[k].name);
            put_labels(b, s->interfaces[i].of, extra);
            buf_printf(b, " %llu %lld\n", (unsigned long long)s->interfaces[i].n[network[k].at], now);
        }
    }
}

static void put_machine(struct buf *b, const struct scene *s, long long now) {
    put_head(b, "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.");
    for (size_t i = 0; i < s->n; i++) {
        if (!s->subjects[i]->is_container) continue;
        buf_adds(b, "container_start_time_seconds");
        put_labels(b, s->subjects[i], "");
        buf_printf(b, " %.3f %lld\n", s->subjects[i]->started, now);
    }
    put_head(b, "container_last_seen", "gauge", "Last time a container was seen by the exporter");
    for (size_t i = 0; i < s->n; i++) {
        buf_adds(b, "container_last_seen");
        put_labels(b, s->subjects[i], "");
        buf_printf(b, " %lld %lld\n", now / 1000, now);
    }
    put_head(b, "machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    buf_printf(b, "machine_cpu_cores %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    put_head(b, "machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    buf_printf(b, "machine_memory_bytes %lld\n", (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
    put_head(b, "container_scrape_error", "gauge",
             "1 if there was an error while getting container metrics, 0 otherwise");
    buf_adds(b, "container_scrape_error 0\n");
}

void stats_cadvisor_metrics(struct kubelet *kl, struct buf *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct scene s = {.kl = kl, .a = a};
    size_t n;
    long long now = (long long)(ktime_unix_ns(ktime_now()) / NS_PER_MS);
    if (!kl->cgroups) return;
    struct cri_list_container_stats_request rq = {0};
    runtime_call(kl->rt, RT_LIST_CONTAINER_STATS, a, &rq, &s.runtime, NULL);
    struct pod_worker **all = pods_all(kl->pods, &n);
    struct object **held = arena_zalloc(a, (n + 1) * sizeof(*held));
    add(&s, "/");
    for (size_t i = 0; i < n; i++) {
        held[i] = worker_pod(all[i]);
        if (all[i]->state < WORKER_TERMINATED) add_pod(&s, all[i], held[i]->obj);
    }
    for (size_t i = 0; i < ARRAY_LEN(metrics); i++) put_metric(b, &s, &metrics[i], now);
    put_network(b, &s, now);
    put_machine(b, &s, now);
    for (size_t i = 0; i < n; i++) {
        object_unref(held[i]);
        worker_unref(all[i]);
    }
    free(all);
}
