/* Pod sandboxes: namespaces, network, the files they share. No process, except with a shared process namespace. */
#include <fcntl.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

#include "idmap.h"
#include "ns.h"
#include "pkg/base/ktime.h"
#include "proc.h"
#include "shim.h"

enum { SHM_MODE = 01777 };

static const struct cri_namespace_option *ns_options(const struct sandbox *sb) {
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    return l && l->security_context ? l->security_context->namespace_options : NULL;
}

bool sandbox_host_network(const struct sandbox *sb) {
    const struct cri_namespace_option *o = ns_options(sb);
    return o && o->network == CRI_NAMESPACE_MODE_NODE;
}

bool sandbox_shared_pid(const struct sandbox *sb) {
    const struct cri_namespace_option *o = ns_options(sb);
    return o && o->pid == CRI_NAMESPACE_MODE_POD;
}

const struct cri_user_namespace *sandbox_user(const struct sandbox *sb) {
    const struct cri_namespace_option *o = ns_options(sb);
    return o && o->userns_options && o->userns_options->mode == CRI_NAMESPACE_MODE_POD ? o->userns_options : NULL;
}

static bool host_ipc(const struct sandbox *sb) {
    const struct cri_namespace_option *o = ns_options(sb);
    return o && o->ipc == CRI_NAMESPACE_MODE_NODE;
}

struct net_pod sandbox_net(struct arena *a, const struct sandbox *sb) {
    static const int protocols[] = {IPPROTO_TCP, IPPROTO_UDP, IPPROTO_SCTP};
    size_t n = MIN_OF(sb->config->port_mappings.n, (size_t)NET_MAX_PORTS);
    struct net_port *ports = arena_zalloc(a, (n + 1) * sizeof(*ports));
    for (size_t i = 0; i < n; i++) {
        const struct cri_port_mapping *m = &sb->config->port_mappings.items[i];
        ports[i].protocol = m->protocol >= 0 && m->protocol < 3 ? protocols[m->protocol] : IPPROTO_TCP;
        ports[i].host_port = (uint16_t)m->host_port;
        ports[i].container_port = (uint16_t)m->container_port;
        ports[i].host_ip = m->host_ip;
    }
    const struct cri_pod_sandbox_metadata *md = sb->config->metadata;
    return (struct net_pod){.id = sb->id,
                            .name = str_or_empty(md->name),
                            .namespace_ = str_or_empty(md->namespace),
                            .uid = str_or_empty(md->uid),
                            .ns_dir = sb->state_dir,
                            .ports = ports,
                            .n_ports = n};
}

/* ---- making ---- */

static int put_file(const char *dir, const char *name, const struct buf *b, struct err *e) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return err_errno(e, errno, "write %s", path);
    int r = fd_write_all(fd, b->data, b->len);
    close(fd);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

static void add_list(struct buf *b, const char *key, const struct str_vec *v, bool one_a_line) {
    for (size_t i = 0; i < v->n; i++) {
        if (one_a_line || i == 0) buf_adds(b, key);
        buf_printf(b, " %s", v->items[i]);
        if (one_a_line || i + 1 == v->n) buf_addc(b, '\n');
    }
}

static int put_resolv_conf(struct sandbox *sb, struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    const struct cri_dns_config *dns = sb->config->dns_config;
    if (dns && (dns->servers.n || dns->searches.n || dns->options.n)) {
        add_list(&b, "search", &dns->searches, false);
        add_list(&b, "nameserver", &dns->servers, true);
        add_list(&b, "options", &dns->options, false);
    } else {
        _cleanup_free_ char *text = NULL;
        size_t n;
        if (file_read("/etc/resolv.conf", 64 << 10, &text, &n) == 0) buf_add(&b, text, n);
    }
    return put_file(sb->dir, "resolv.conf", &b, e);
}

static void host_name(const struct sandbox *sb, char out[256]) {
    snprintf(out, 256, "%s", str_or_empty(sb->config->hostname));
    if (!*out && (sandbox_host_network(sb) || !sb->config->metadata->name))
        gethostname(out, 256);
    else if (!*out)
        snprintf(out, 256, "%.63s", sb->config->metadata->name);
    out[255] = 0;
}

static int put_files(struct sandbox *sb, const char *hostname, struct err *e) {
    _cleanup_buf_ struct buf name = BUF_INIT, hosts = BUF_INIT;
    buf_printf(&name, "%s\n", hostname);
    buf_printf(&hosts, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 %s\n", hostname);
    int r = put_resolv_conf(sb, e);
    if (r == 0) r = put_file(sb->dir, "hostname", &name, e);
    if (r == 0) r = put_file(sb->dir, "hosts", &hosts, e);
    return r;
}

static int mount_shm(struct sandbox *sb, struct err *e) {
    char path[4096];
    snprintf(path, sizeof(path), "%s/shm", sb->state_dir);
    int r = mkdir_p(path, 0711);
    if (r < 0) return err_errno(e, r, "make %s", path);
    if (mount("shm", path, "tmpfs", MS_NOEXEC | MS_NOSUID | MS_NODEV, "mode=1777,size=65536k") < 0)
        return err_errno(e, errno, "mount %s", path);
    return 0;
}

struct pause_job {
    struct shim *s;
    struct sandbox *sb;
    struct err *e;
    int r;
};

/* In a thread of its own: its children are in a new process namespace. */
static void *pause_thread(void *arg) {
    struct pause_job *j = arg;
    const char *argv[] = {j->s->cfg.helper, "pause", NULL};
    struct proc_opts o = {.argv = argv, .in = -1, .out = -1, .err = -1, .cwd = "/"};
    if (unshare(CLONE_NEWPID) < 0)
        j->r = err_errno(j->e, errno, "make process namespace");
    else
        j->r = proc_spawn(&o, j->e);
    return NULL;
}

static int start_pause(struct shim *s, struct sandbox *sb, struct err *e) {
    struct pause_job j = {.s = s, .sb = sb, .e = e};
    pthread_t t;
    int r = pthread_create(&t, NULL, pause_thread, &j);
    if (r) return err_errno(e, r, "make a thread");
    pthread_join(t, NULL);
    if (j.r < 0) return j.r;
    sb->pause_pid = j.r;
    sb->pause_start = proc_start_time(sb->pause_pid);
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    char group[4096];
    snprintf(group, sizeof(group), "%s/%s", l && !str_empty(l->cgroup_parent) ? l->cgroup_parent : s->cfg.cgroup_root,
             sb->id);
    r = cgroup_enter(group, sb->pause_pid, e);
    if (r == 0) r = ns_pin_pid(sb->state_dir, sb->pause_pid, e);
    return r;
}

struct inside {
    struct shim *s;
    struct net_pod pod;
    char *ip;
};

static int set_up_inside(int netns, void *arg, struct err *e) {
    struct inside *i = arg;
    return netns < 0 ? 0 : net_attach_inside(i->s->net, &i->pod, netns, i->ip, e);
}

static int make_namespaces(struct shim *s, struct sandbox *sb, const char *hostname, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    bool own_net = !sandbox_host_network(sb);
    struct inside in = {s, sandbox_net(a, sb), sb->ip};
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    struct ns_setup setup = {
        .dir = sb->state_dir,
        .kinds = NS_UTS | (own_net ? NS_NET : 0) | (host_ipc(sb) ? 0 : NS_IPC),
        .hostname = hostname,
        .user = sandbox_user(sb),
        .sysctls = l ? &l->sysctls : NULL,
        .inside = set_up_inside,
        .arg = &in,
    };
    int r = ns_create(&setup, e);
    if (r == 0 && own_net && net_uses_cni(s->net)) r = net_attach_cni(s->net, &in.pod, sb->ip, e);
    if (r == 0 && own_net) r = net_ports_open(s->net, &in.pod, sb->ip, e);
    return r;
}

/* Everything but the record; idempotent, also for half-made sandboxes. */
static int take_down(struct shim *s, struct sandbox *sb, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct cri_linux_pod_sandbox_config *l = sb->config->linux;
    int r = 0;
    if (sb->pause_pid > 0) {
        proc_kill(sb->pause_pid, sb->pause_start, SIGKILL);
        proc_wait(sb->pause_pid, 2000, NULL); /* a child unless the shim was restarted */
        cgroup_remove(arena_printf(a, "%s/%s",
                                   l && !str_empty(l->cgroup_parent) ? l->cgroup_parent : s->cfg.cgroup_root, sb->id));
        sb->pause_pid = 0;
    }
    if (!sandbox_host_network(sb) && !sb->detached) {
        struct net_pod pod = sandbox_net(a, sb);
        r = net_detach(s->net, &pod, sb->ip, e);
        sb->detached = r == 0;
    }
    ns_remove(sb->state_dir);
    fs_unpin(arena_printf(a, "%s/shm", sb->state_dir));
    return r;
}

static int copy_config(struct sandbox *sb, const struct cri_pod_sandbox_config *config, struct err *e) {
    if (!config || !config->metadata || str_empty(config->metadata->name))
        return err_set(e, -EINVAL, "sandbox config without metadata");
    if (config->windows) return err_set(e, -EINVAL, "Windows sandboxes cannot run here");
    sb->config = api_clone(sb->arena, &api_cri_pod_sandbox_config, config);
    const struct cri_user_namespace *u = sandbox_user(sb);
    const char *problem = u ? idmap_problem(u) : NULL;
    if (problem) return err_set(e, -EINVAL, "%s", problem);
    if (u && (sandbox_host_network(sb) || sandbox_shared_pid(sb)))
        return err_set(e, -ENOTSUP,
                       "a user namespace together with the host's network or a shared process namespace is "
                       "not supported by this runtime");
    return 0;
}

static int build(struct shim *s, struct sandbox *sb, struct err *e) {
    char hostname[256];
    int r = mkdir_p(sb->dir, 0711);
    if (r == 0) r = mkdir_p(sb->state_dir, 0711);
    if (r < 0) return err_errno(e, r, "make folders of the sandbox");
    if (!str_empty(sb->config->log_directory) && (r = mkdir_p(sb->config->log_directory, 0755)) < 0)
        return err_errno(e, r, "make %s", sb->config->log_directory);
    host_name(sb, hostname);
    r = put_files(sb, hostname, e);
    if (r == 0) r = make_namespaces(s, sb, hostname, e);
    if (r == 0 && !host_ipc(sb)) r = mount_shm(sb, e);
    if (r == 0 && sandbox_shared_pid(sb)) r = start_pause(s, sb, e);
    return r;
}

static void wipe(struct sandbox *sb) {
    fs_rm_rf(sb->state_dir);
    fs_rm_rf(sb->dir);
}

int sandbox_run(struct shim *s, const struct cri_pod_sandbox_config *config, const char *handler, char id[SHIM_ID + 1],
                struct err *e) {
    const struct runtime *rt = runtime_by_handler(s, handler);
    if (!rt) return err_set(e, -EINVAL, "no runtime for handler \"%s\" is configured", handler);
    shim_new_id(id);
    struct sandbox *sb = sandbox_alloc(s, id);
    sb->created_at = ktime_unix_ns(ktime_now());
    sb->handler = arena_strdup(sb->arena, str_or_empty(handler));
    int r = copy_config(sb, config, e);
    if (r == 0 && sandbox_user(sb) && !runtime_is_crun(rt))
        r = err_set(e, -ENOTSUP, "user namespaces are not supported by handler \"%s\"", str_or_empty(handler));
    if (r < 0) {
        sandbox_put(s, sb);
        return r;
    }
    r = build(s, sb, e);
    sb->ready = true;
    if (r == 0) r = sandbox_save(s, sb, e);
    if (r < 0) {
        take_down(s, sb, NULL);
        wipe(sb);
        sandbox_put(s, sb);
        return r;
    }
    pthread_mutex_lock(&s->lock);
    map_put(&s->sandboxes, id, sb);
    pthread_mutex_unlock(&s->lock);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_CREATED_EVENT, id, id);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STARTED_EVENT, id, id);
    return 0;
}

/* ---- taking down ---- */

/* Caller holds op. */
static int stop_locked(struct shim *s, struct sandbox *sb, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct container **all;
    size_t n;
    container_all(s, a, sb->id, &all, &n);
    for (size_t i = 0; i < n; i++) {
        container_stop(s, all[i], 0, NULL);
        container_put(s, all[i]);
    }
    int r = take_down(s, sb, e);
    pthread_mutex_lock(&s->lock);
    bool was = sb->ready;
    sb->ready = false;
    pthread_mutex_unlock(&s->lock);
    if (!was) return r;
    int saved = sandbox_save(s, sb, r < 0 ? NULL : e);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STOPPED_EVENT, sb->id, sb->id);
    return r < 0 ? r : saved;
}

int sandbox_stop(struct shim *s, struct sandbox *sb, struct err *e) {
    pthread_mutex_lock(&sb->op);
    int r = sb->gone ? 0 : stop_locked(s, sb, e);
    pthread_mutex_unlock(&sb->op);
    return r;
}

static int remove_locked(struct shim *s, struct sandbox *sb, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct container **all;
    size_t n;
    int r = stop_locked(s, sb, e);
    if (r < 0) return r;
    container_all(s, a, sb->id, &all, &n);
    for (size_t i = 0; i < n; i++) {
        int one = container_remove(s, all[i], r < 0 ? NULL : e);
        if (one < 0) r = one;
        container_put(s, all[i]);
    }
    if (r < 0) return r;
    unlink(arena_printf(a, "%s/record.json", sb->dir)); /* from here on it is a leftover */
    wipe(sb);
    pthread_mutex_lock(&s->lock);
    map_del(&s->sandboxes, sb->id);
    sb->gone = true;
    pthread_mutex_unlock(&s->lock);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_DELETED_EVENT, sb->id, sb->id);
    sandbox_put(s, sb); /* the map's */
    return 0;
}

int sandbox_remove(struct shim *s, struct sandbox *sb, struct err *e) {
    pthread_mutex_lock(&sb->op);
    int r = sb->gone ? 0 : remove_locked(s, sb, e);
    pthread_mutex_unlock(&sb->op);
    return r;
}
