/* See stats.h. */
#include "kubelet/stats.h"

#include <sys/statvfs.h>

#include "kubelet/pods.h"
#include "kubelet/stats_parts.h"

enum { MAX_SAMPLES = 4096 };

struct sample { /* for rates */
    uint64_t cpu_ns;
    int64_t at;
    uint64_t nano_cores;
};

struct stats {
    struct kubelet *kl;
    int64_t started;
    pthread_mutex_t lock;
    struct map samples; /* cgroup path or container id -> struct sample */
};

struct stats *stats_new(struct kubelet *kl) {
    struct stats *s = xcalloc(1, sizeof(*s));
    s->kl = kl;
    s->started = ktime_unix_ns(ktime_now());
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

void stats_free(struct stats *s) {
    if (!s) return;
    map_done_with(&s->samples, free);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* CPU used per second since the last look at it. */
static uint64_t rate(struct stats *s, const char *key, uint64_t cpu_ns) {
    pthread_mutex_lock(&s->lock);
    struct sample *p = map_get(&s->samples, key);
    int64_t now = mono_ns();
    if (!p) {
        if (s->samples.n >= MAX_SAMPLES) {
            map_done_with(&s->samples, free);
            s->samples = (struct map)MAP_INIT;
        }
        p = xcalloc(1, sizeof(*p));
        map_put(&s->samples, key, p);
    } else if (now - p->at > NS_PER_SEC && cpu_ns >= p->cpu_ns) {
        p->nano_cores = (uint64_t)((__int128)(cpu_ns - p->cpu_ns) * NS_PER_SEC / (now - p->at));
    }
    if (!p->at || now - p->at > NS_PER_SEC) {
        p->cpu_ns = cpu_ns;
        p->at = now;
    }
    uint64_t v = p->nano_cores;
    pthread_mutex_unlock(&s->lock);
    return v;
}

/* ---- collecting ---- */

struct container_numbers {
    const char *name, *pod_uid, *pod, *ns, *id;
    uint64_t cpu_ns, nano_cores, working_set, usage, rss, fs_used;
};
struct pod_numbers {
    struct object *obj;
    const char *uid;
    struct cgroup_usage cg;
    uint64_t nano_cores;
    int64_t started;
    pid_t pid; /* a process of it, 0: none */
};
struct numbers {
    struct container_numbers *containers;
    size_t n_containers;
    struct pod_numbers *pods;
    size_t n_pods;
    struct cgroup_usage node;
    uint64_t node_nano_cores;
    int64_t mem_total, mem_available;
};

static uint64_t value_of(const struct cri_uint64_value *v) { return v ? v->value : 0; }

static void collect_containers(struct stats *s, struct arena *a, struct numbers *n) {
    struct cri_list_container_stats_request req = {0};
    struct cri_list_container_stats_response resp = {0};
    if (runtime_call(s->kl->rt, RT_LIST_CONTAINER_STATS, a, &req, &resp, NULL) < 0) return;
    n->containers = arena_zalloc(a, (resp.stats.n + 1) * sizeof(*n->containers));
    for (size_t i = 0; i < resp.stats.n; i++) {
        const struct cri_container_stats *c = &resp.stats.items[i];
        if (!c->attributes || !c->cpu || !c->memory) continue;
        const struct str_map *l = &c->attributes->labels;
        struct container_numbers *o = &n->containers[n->n_containers];
        *o = (struct container_numbers){.name = str_map_get(l, LABEL_CONTAINER_NAME),
                                        .pod_uid = str_map_get(l, LABEL_POD_UID),
                                        .pod = str_map_get(l, LABEL_POD_NAME),
                                        .ns = str_map_get(l, LABEL_POD_NAMESPACE),
                                        .id = c->attributes->id,
                                        .cpu_ns = value_of(c->cpu->usage_core_nano_seconds),
                                        .working_set = value_of(c->memory->working_set_bytes),
                                        .usage = value_of(c->memory->usage_bytes),
                                        .rss = value_of(c->memory->rss_bytes),
                                        .fs_used = c->writable_layer ? value_of(c->writable_layer->used_bytes) : 0};
        if (!o->name || !o->pod_uid) continue;
        o->nano_cores = c->cpu->usage_nano_cores ? c->cpu->usage_nano_cores->value : rate(s, o->id, o->cpu_ns);
        n->n_containers++;
    }
}

static void collect_pods(struct stats *s, struct arena *a, struct numbers *n) {
    size_t count;
    struct pod_worker **all = pods_all(s->kl->pods, &count);
    n->pods = arena_zalloc(a, (count + 1) * sizeof(*n->pods));
    for (size_t i = 0; i < count; i++) {
        if (all[i]->state < WORKER_TERMINATED) {
            struct pod_numbers *p = &n->pods[n->n_pods++];
            p->obj = worker_pod(all[i]);
            p->uid = arena_strdup(a, all[i]->uid);
            struct core_pod_status *st = worker_status(all[i], a);
            p->started = st && st->start_time.set ? ktime_unix_ns(st->start_time) : s->started;
            const char *path = s->kl->cgroups ? cgroups_pod_path(s->kl->cgroups, a, p->obj->obj) : p->uid;
            for (size_t k = 0; s->kl->cgroups && !p->pid && k < n->n_containers; k++) {
                if (!str_eq(n->containers[k].pod_uid, p->uid)) continue;
                const char *group = cgroups_container(s->kl->cgroups, a, path, n->containers[k].id);
                if (group) p->pid = cgroups_any_process(s->kl->cgroups, group);
            }
            if (s->kl->cgroups) cgroups_usage(s->kl->cgroups, path, &p->cg);
            if (!p->cg.found) /* no cgroup of its own: the sum of its containers */
                for (size_t k = 0; k < n->n_containers; k++)
                    if (str_eq(n->containers[k].pod_uid, p->uid)) {
                        p->cg.cpu_ns += n->containers[k].cpu_ns;
                        p->cg.memory_working_set += n->containers[k].working_set;
                        p->cg.memory_usage += n->containers[k].usage;
                        p->cg.memory_rss += n->containers[k].rss;
                    }
            p->nano_cores = rate(s, path, p->cg.cpu_ns);
        }
        worker_unref(all[i]);
    }
    free(all);
}

static int64_t meminfo(const char *text, const char *key) {
    const char *p = strstr(text, key);
    return p ? strtoll(p + strlen(key), NULL, 10) * 1024 : 0;
}

/* The node as a whole from /proc: the root cgroup has no memory numbers on v2. */
static void collect_node(struct stats *s, struct numbers *n) {
    _cleanup_free_ char *mem = NULL, *cpu = NULL;
    if (file_read("/proc/meminfo", 65536, &mem, NULL) == 0) {
        n->mem_total = meminfo(mem, "MemTotal:");
        n->mem_available = meminfo(mem, "MemAvailable:");
        n->node.memory_working_set = (uint64_t)(n->mem_total - n->mem_available);
        n->node.memory_usage = (uint64_t)(n->mem_total - meminfo(mem, "MemFree:"));
        n->node.memory_rss = (uint64_t)meminfo(mem, "AnonPages:");
    }
    if (file_read("/proc/stat", 65536, &cpu, NULL) == 0) {
        unsigned long long user, nice, sys, idle, iowait, irq, softirq, steal;
        if (sscanf(cpu, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &sys, &idle, &iowait, &irq,
                   &softirq, &steal) == 8)
            n->node.cpu_ns =
                (user + nice + sys + irq + softirq) * (1000000000ull / (unsigned long long)sysconf(_SC_CLK_TCK));
    }
    n->node_nano_cores = rate(s, "/", n->node.cpu_ns);
}

static void collect(struct stats *s, struct arena *a, struct numbers *n) {
    *n = (struct numbers){0};
    collect_containers(s, a, n);
    collect_pods(s, a, n);
    collect_node(s, n);
}

static void numbers_done(struct numbers *n) {
    for (size_t i = 0; i < n->n_pods; i++) object_unref(n->pods[i].obj);
}

/* ---- the summary ---- */

static void put_time(struct buf *b, const char *key, int64_t ns) {
    char t[KTIME_MAX];
    buf_printf(b, "\"%s\":\"%s\"", key, ktime_format(ktime_from_unix_ns(ns), t));
}

static void put_cpu(struct buf *b, uint64_t nano_cores, uint64_t total) {
    buf_adds(b, "\"cpu\":{");
    put_time(b, "time", ktime_unix_ns(ktime_now()));
    buf_printf(b, ",\"usageNanoCores\":%llu,\"usageCoreNanoSeconds\":%llu}", (unsigned long long)nano_cores,
               (unsigned long long)total);
}

static void put_memory(struct buf *b, const struct cgroup_usage *u, int64_t available) {
    buf_adds(b, "\"memory\":{");
    put_time(b, "time", ktime_unix_ns(ktime_now()));
    if (available > 0) buf_printf(b, ",\"availableBytes\":%lld", (long long)available);
    buf_printf(b,
               ",\"usageBytes\":%llu,\"workingSetBytes\":%llu,\"rssBytes\":%llu,\"pageFaults\":%llu,"
               "\"majorPageFaults\":%llu}",
               (unsigned long long)u->memory_usage, (unsigned long long)u->memory_working_set,
               (unsigned long long)u->memory_rss, (unsigned long long)u->page_faults,
               (unsigned long long)u->major_faults);
}

static void put_fs(struct buf *b, const char *key, const char *path) {
    struct statvfs fs;
    if (statvfs(path, &fs) < 0) return;
    uint64_t size = fs.f_blocks * fs.f_frsize, have = fs.f_bavail * fs.f_frsize;
    buf_printf(b, ",\"%s\":{", key);
    put_time(b, "time", ktime_unix_ns(ktime_now()));
    buf_printf(b,
               ",\"availableBytes\":%llu,\"capacityBytes\":%llu,\"usedBytes\":%llu,\"inodesFree\":%llu,"
               "\"inodes\":%llu,"
               "\"inodesUsed\":%llu}",
               (unsigned long long)have, (unsigned long long)size,
               (unsigned long long)(size - fs.f_bfree * fs.f_frsize), (unsigned long long)fs.f_ffree,
               (unsigned long long)fs.f_files, (unsigned long long)(fs.f_files - fs.f_ffree));
}

static void put_container(struct buf *b, const struct container_numbers *c, int64_t started, bool small) {
    struct cgroup_usage u = {.memory_usage = c->usage, .memory_working_set = c->working_set, .memory_rss = c->rss};
    buf_adds(b, "{\"name\":");
    json_write_str(b, c->name, strlen(c->name));
    buf_addc(b, ',');
    put_time(b, "startTime", started);
    buf_addc(b, ',');
    put_cpu(b, c->nano_cores, c->cpu_ns);
    buf_addc(b, ',');
    put_memory(b, &u, 0);
    if (!small) {
        buf_adds(b, ",\"rootfs\":{");
        put_time(b, "time", ktime_unix_ns(ktime_now()));
        buf_printf(b, ",\"usedBytes\":%llu}", (unsigned long long)c->fs_used);
    }
    buf_addc(b, '}');
}

static void put_pod(struct kubelet *kl, struct buf *b, const struct numbers *n, const struct pod_numbers *p,
                    bool small) {
    buf_adds(b, "{\"podRef\":{\"name\":");
    json_write_str(b, p->obj->meta->name, strlen(p->obj->meta->name));
    buf_adds(b, ",\"namespace\":");
    json_write_str(b, p->obj->meta->namespace, strlen(p->obj->meta->namespace));
    buf_printf(b, ",\"uid\":\"%s\"},", p->uid);
    put_time(b, "startTime", p->started);
    buf_adds(b, ",\"containers\":[");
    bool first = true;
    for (size_t k = 0; k < n->n_containers; k++) {
        if (!str_eq(n->containers[k].pod_uid, p->uid)) continue;
        if (!first) buf_addc(b, ',');
        first = false;
        put_container(b, &n->containers[k], p->started, small);
    }
    buf_adds(b, "],");
    put_cpu(b, p->nano_cores, p->cg.cpu_ns);
    buf_addc(b, ',');
    put_memory(b, &p->cg, 0);
    if (!small) {
        uint64_t layers = 0;
        for (size_t k = 0; k < n->n_containers; k++)
            if (str_eq(n->containers[k].pod_uid, p->uid)) layers += n->containers[k].fs_used;
        if (p->pid && !((const struct core_pod *)p->obj->obj)->spec.host_network) stats_put_network(b, p->pid);
        stats_put_volumes(kl, b, p->obj->obj);
        stats_put_ephemeral_storage(kl, b, p->obj->obj, layers);
        buf_printf(b, ",\"process_stats\":{\"process_count\":%llu}", (unsigned long long)p->cg.pids);
    }
    buf_addc(b, '}');
}

void stats_summary(struct stats *s, struct buf *b, bool small) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct numbers n;
    collect(s, a, &n);
    buf_adds(b, "{\"node\":{\"nodeName\":");
    json_write_str(b, s->kl->node_name, strlen(s->kl->node_name));
    buf_addc(b, ',');
    put_time(b, "startTime", s->started);
    buf_addc(b, ',');
    put_cpu(b, n.node_nano_cores, n.node.cpu_ns);
    buf_addc(b, ',');
    put_memory(b, &n.node, n.mem_available);
    if (!small) {
        stats_put_network(b, 0);
        stats_put_rlimit(b);
        put_fs(b, "fs", s->kl->cfg.root_dir);
        struct buf inner = BUF_INIT;
        put_fs(&inner, "imageFs", s->kl->cfg.root_dir);
        if (inner.len) buf_printf(b, ",\"runtime\":{%s}", inner.data + 1);
        buf_done(&inner);
    }
    buf_adds(b, "},\"pods\":[");
    for (size_t i = 0; i < n.n_pods; i++) {
        if (i) buf_addc(b, ',');
        put_pod(s->kl, b, &n, &n.pods[i], small);
    }
    buf_adds(b, "]}");
    numbers_done(&n);
}

/* ---- Prometheus ---- */

static void head(struct buf *b, const char *name, const char *type, const char *help) {
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void stats_resource_metrics(struct stats *s, struct buf *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct numbers n;
    collect(s, a, &n);
    long long now = (long long)(ktime_unix_ns(ktime_now()) / NS_PER_MS);
    head(b, "container_cpu_usage_seconds_total", "counter",
         "Cumulative cpu time consumed by the container in core-seconds");
    for (size_t i = 0; i < n.n_containers; i++)
        buf_printf(b, "container_cpu_usage_seconds_total{container=\"%s\",namespace=\"%s\",pod=\"%s\"} %.9g %lld\n",
                   n.containers[i].name, n.containers[i].ns, n.containers[i].pod, (double)n.containers[i].cpu_ns / 1e9,
                   now);
    head(b, "container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes");
    for (size_t i = 0; i < n.n_containers; i++)
        buf_printf(b, "container_memory_working_set_bytes{container=\"%s\",namespace=\"%s\",pod=\"%s\"} %llu %lld\n",
                   n.containers[i].name, n.containers[i].ns, n.containers[i].pod,
                   (unsigned long long)n.containers[i].working_set, now);
    head(b, "container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds");
    for (size_t i = 0; i < n.n_containers; i++)
        for (size_t k = 0; k < n.n_pods; k++)
            if (str_eq(n.pods[k].uid, n.containers[i].pod_uid))
                buf_printf(b, "container_start_time_seconds{container=\"%s\",namespace=\"%s\",pod=\"%s\"} %.3f\n",
                           n.containers[i].name, n.containers[i].ns, n.containers[i].pod,
                           (double)n.pods[k].started / 1e9);
    head(b, "node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds");
    buf_printf(b, "node_cpu_usage_seconds_total %.9g %lld\n", (double)n.node.cpu_ns / 1e9, now);
    head(b, "node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes");
    buf_printf(b, "node_memory_working_set_bytes %llu %lld\n", (unsigned long long)n.node.memory_working_set, now);
    head(b, "pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds");
    for (size_t i = 0; i < n.n_pods; i++)
        buf_printf(b, "pod_cpu_usage_seconds_total{namespace=\"%s\",pod=\"%s\"} %.9g %lld\n",
                   n.pods[i].obj->meta->namespace, n.pods[i].obj->meta->name, (double)n.pods[i].cg.cpu_ns / 1e9, now);
    head(b, "pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for (size_t i = 0; i < n.n_pods; i++)
        buf_printf(b, "pod_memory_working_set_bytes{namespace=\"%s\",pod=\"%s\"} %llu %lld\n",
                   n.pods[i].obj->meta->namespace, n.pods[i].obj->meta->name,
                   (unsigned long long)n.pods[i].cg.memory_working_set, now);
    head(b, "resource_scrape_error", "gauge", "1 if there was an error while getting container metrics, 0 otherwise");
    buf_adds(b, "resource_scrape_error 0\n");
    numbers_done(&n);
}
