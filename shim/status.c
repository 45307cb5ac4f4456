/* CRI's views of sandboxes and containers: status and statistics. */
#include "ns.h"
#include "pkg/base/ktime.h"
#include "shim.h"

#define NEW(a, type) ((type *)arena_zalloc((a), sizeof(type)))

enum { DISK_USAGE_TTL_S = 15, PROC_NET_DEV_MAX = 64 << 10 };

/* ---- status ---- */

struct cri_pod_sandbox_status *sandbox_status(struct shim *s, struct arena *a, struct sandbox *sb) {
    struct cri_pod_sandbox_status *st = NEW(a, struct cri_pod_sandbox_status);
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    pthread_mutex_lock(&s->lock);
    st->state = sb->ready ? CRI_POD_SANDBOX_STATE_SANDBOX_READY : CRI_POD_SANDBOX_STATE_SANDBOX_NOTREADY;
    pthread_mutex_unlock(&s->lock);
    st->id = sb->id;
    st->metadata = sb->config->metadata;
    st->created_at = sb->created_at;
    st->labels = sb->config->labels;
    st->annotations = sb->config->annotations;
    st->runtime_handler = sb->handler;
    st->network = NEW(a, struct cri_pod_sandbox_network_status);
    if (!sandbox_host_network(sb)) st->network->ip = sb->ip;
    st->linux = NEW(a, struct cri_linux_pod_sandbox_status);
    st->linux->namespaces = NEW(a, struct cri_namespace);
    if (l && l->security_context) st->linux->namespaces->options = l->security_context->namespace_options;
    return api_clone(a, &api_cri_pod_sandbox_status, st);
}

struct cri_container_status *container_status(struct shim *s, struct arena *a, struct container *c) {
    struct cri_container_status *st = NEW(a, struct cri_container_status);
    st->id = c->id;
    st->metadata = c->config->metadata;
    st->created_at = c->created_at;
    st->image = c->config->image;
    st->image_ref = c->image_ref;
    st->image_id = c->image_id;
    st->labels = c->config->labels;
    st->annotations = c->config->annotations;
    st->mounts = c->config->mounts;
    st->log_path = c->log_path;
    st->stop_signal = c->config->stop_signal;
    st->user = NEW(a, struct cri_container_user);
    st->user->linux = NEW(a, struct cri_linux_container_user);
    *st->user->linux = (struct cri_linux_container_user){c->user.uid, c->user.gid, c->user.groups};
    st->resources = NEW(a, struct cri_container_resources);
    pthread_mutex_lock(&s->lock);
    st->state = c->state;
    st->started_at = c->started_at;
    st->finished_at = c->finished_at;
    st->exit_code = c->exit_code;
    st->reason = c->reason;
    st->message = arena_strdup(a, c->message);
    st->resources->linux = (struct cri_linux_container_resources *)(uintptr_t)c->resources;
    st = api_clone(a, &api_cri_container_status, st);
    pthread_mutex_unlock(&s->lock);
    return st;
}

/* ---- statistics ---- */

static struct cri_uint64_value *u64(struct arena *a, uint64_t v) {
    struct cri_uint64_value *p = NEW(a, struct cri_uint64_value);
    p->value = v;
    return p;
}

static struct cri_memory_usage *memory_usage(struct arena *a, const struct cgroup_stats *g, int64_t now) {
    struct cri_memory_usage *m = NEW(a, struct cri_memory_usage);
    m->timestamp = now;
    m->working_set_bytes = u64(a, g->memory_working_set);
    m->usage_bytes = u64(a, g->memory_usage);
    m->rss_bytes = u64(a, g->memory_rss);
    m->page_faults = u64(a, g->page_faults);
    m->major_page_faults = u64(a, g->major_page_faults);
    bool limited = g->memory_limit != UINT64_MAX && g->memory_limit > g->memory_working_set;
    if (limited) m->available_bytes = u64(a, g->memory_limit - g->memory_working_set);
    return m;
}

static struct cri_cpu_usage *cpu_usage(struct arena *a, const struct cgroup_stats *g, int64_t now) {
    struct cri_cpu_usage *c = NEW(a, struct cri_cpu_usage);
    c->timestamp = now;
    c->usage_core_nano_seconds = u64(a, g->cpu_ns);
    return c;
}

/* The rate since the sample before; samples closer than a second are not taken. Caller holds the lock. */
static uint64_t sample_cpu(struct cpu_sample *last, uint64_t cpu_ns) {
    int64_t now = mono_ns(), passed = now - last->at_ns;
    if (last->at_ns && passed < NS_PER_SEC) return last->nano_cores;
    if (last->at_ns && cpu_ns >= last->cpu_ns)
        last->nano_cores = (uint64_t)((double)(cpu_ns - last->cpu_ns) * (double)NS_PER_SEC / (double)passed);
    last->cpu_ns = cpu_ns;
    last->at_ns = now;
    return last->nano_cores;
}

/* Disk use of the writable layer; walking it costs, so an answer serves for a while. */
static struct cri_filesystem_usage *writable_layer(struct shim *s, struct arena *a, struct container *c, int64_t now) {
    struct cri_filesystem_usage *fs = NEW(a, struct cri_filesystem_usage);
    pthread_mutex_lock(&s->lock);
    bool fresh = c->disk_at_ns && mono_ns() - c->disk_at_ns < DISK_USAGE_TTL_S * NS_PER_SEC;
    uint64_t bytes = c->disk_bytes, inodes = c->disk_inodes;
    pthread_mutex_unlock(&s->lock);
    if (!fresh) {
        fs_usage(arena_printf(a, "%s/upper", c->dir), &bytes, &inodes);
        pthread_mutex_lock(&s->lock);
        c->disk_bytes = bytes;
        c->disk_inodes = inodes;
        c->disk_at_ns = mono_ns();
        pthread_mutex_unlock(&s->lock);
    }
    fs->timestamp = now;
    fs->fs_id = NEW(a, struct cri_filesystem_identifier);
    fs->fs_id->mountpoint = arena_printf(a, "%s/containers", s->cfg.root);
    fs->used_bytes = u64(a, bytes);
    fs->inodes_used = u64(a, inodes);
    return fs;
}

struct cri_container_stats *container_stats(struct shim *s, struct arena *a, struct container *c) {
    struct cri_container_stats *st = NEW(a, struct cri_container_stats);
    struct cgroup_stats g;
    int64_t now = ktime_unix_ns(ktime_now());
    st->attributes = NEW(a, struct cri_container_attributes);
    st->attributes->id = c->id;
    st->attributes->metadata = c->config->metadata;
    st->attributes->labels = c->config->labels;
    st->attributes->annotations = c->config->annotations;
    st->writable_layer = writable_layer(s, a, c, now);
    cgroup_read_stats(c->cgroup, &g);
    if (!g.found) return api_clone(a, &api_cri_container_stats, st); /* not running */
    st->cpu = cpu_usage(a, &g, now);
    pthread_mutex_lock(&s->lock);
    st->cpu->usage_nano_cores = u64(a, sample_cpu(&c->cpu, g.cpu_ns));
    pthread_mutex_unlock(&s->lock);
    st->memory = memory_usage(a, &g, now);
    st->swap = NEW(a, struct cri_swap_usage);
    st->swap->timestamp = now;
    st->swap->swap_usage_bytes = u64(a, g.swap_usage);
    return api_clone(a, &api_cri_container_stats, st);
}

struct net_dev {
    struct arena *a;
    struct cri_network_usage *out;
};

/* Runs inside the pod's network namespace: a line an interface, 16 numbers each. */
static int read_net_dev(void *arg, struct err *e) {
    struct net_dev *d = arg;
    char *text = arena_alloc(d->a, PROC_NET_DEV_MAX);
    int r = fs_read_str("/proc/thread-self/net/dev", text, PROC_NET_DEV_MAX);
    if (r < 0) return err_errno(e, r, "read interface counters");
    struct cri_network_interface_usage_vec *v = &d->out->interfaces;
    size_t cap = 0;
    for (char *line = text, *next; line && *line; line = next) {
        unsigned long long n[16];
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        char *name = line + strspn(line, " "), *colon = strchr(name, ':');
        if (!colon || strchr(name, '|')) continue; /* the two lines of headings */
        *colon = 0;
        char *q = colon + 1;
        for (int i = 0; i < 16; i++) n[i] = strtoull(q, &q, 10);
        if (str_eq(name, "lo")) continue;
        ARENA_GROW(d->a, v->items, v->n, cap);
        v->items[v->n++] = (struct cri_network_interface_usage){name, u64(d->a, n[0]), u64(d->a, n[2]), u64(d->a, n[8]),
                                                                u64(d->a, n[10])};
    }
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i].name, "eth0")) d->out->default_interface = &v->items[i];
    return 0;
}

struct cri_pod_sandbox_stats *sandbox_stats(struct shim *s, struct arena *a, struct sandbox *sb) {
    struct cri_pod_sandbox_stats *st = NEW(a, struct cri_pod_sandbox_stats);
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    struct cgroup_stats g;
    int64_t now = ktime_unix_ns(ktime_now());
    st->attributes = NEW(a, struct cri_pod_sandbox_attributes);
    st->attributes->id = sb->id;
    st->attributes->metadata = sb->config->metadata;
    st->attributes->labels = sb->config->labels;
    st->attributes->annotations = sb->config->annotations;
    st->linux = NEW(a, struct cri_linux_pod_sandbox_stats);
    struct container **all;
    size_t n;
    container_all(s, a, sb->id, &all, &n);
    st->linux->containers.items = arena_zalloc(a, (n + 1) * sizeof(struct cri_container_stats));
    for (size_t i = 0; i < n; i++) {
        pthread_mutex_lock(&s->lock);
        bool running = all[i]->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
        pthread_mutex_unlock(&s->lock);
        if (running) st->linux->containers.items[st->linux->containers.n++] = *container_stats(s, a, all[i]);
        container_put(s, all[i]);
    }
    cgroup_read_stats(l && !str_empty(l->cgroup_parent) ? l->cgroup_parent : "", &g);
    if (l && !str_empty(l->cgroup_parent) && g.found) {
        st->linux->cpu = cpu_usage(a, &g, now);
        st->linux->memory = memory_usage(a, &g, now);
        st->linux->process = NEW(a, struct cri_process_usage);
        st->linux->process->timestamp = now;
        st->linux->process->process_count = u64(a, g.pids);
    }
    if (!sandbox_host_network(sb) && sb->ready) {
        struct net_dev d = {a, NEW(a, struct cri_network_usage)};
        d.out->timestamp = now;
        if (ns_run_in_net(sb->state_dir, read_net_dev, &d, NULL) == 0) st->linux->network = d.out;
    }
    return api_clone(a, &api_cri_pod_sandbox_stats, st);
}
