/* Containers: created (rootfs and spec), started (monitor and process), exited, removed. */
#include <signal.h>
#include <sys/mount.h>
#include <time.h>

#include "cdi.h"
#include "idmap.h"
#include "pkg/base/ktime.h"
#include "proc.h"
#include "shim.h"
#include "spec.h"

enum { STOP_KILL_WAIT_MS = 10000, EXIT_FILE_WAIT_MS = 3000, START_ERROR_CODE = 128, LOST_CODE = 255 };

/* ---- create ---- */

static int parse_stop_signal(const struct cri_container_config *config, const struct image_config *image) {
    static const struct {
        int first;
        int last;
        int base;
    } rt = {CRI_SIGNAL_SIGRTMIN, CRI_SIGNAL_SIGRTMINPLUS15, 0};
    static const int numbers[] = {0,       SIGABRT, SIGALRM,   SIGBUS,  SIGCHLD,   SIGCHLD,  SIGCONT, SIGFPE,  SIGHUP,
                                  SIGILL,  SIGINT,  SIGIO,     SIGABRT, SIGKILL,   SIGPIPE,  SIGPOLL, SIGPROF, SIGPWR,
                                  SIGQUIT, SIGSEGV, SIGSTKFLT, SIGSTOP, SIGSYS,    SIGTERM,  SIGTRAP, SIGTSTP, SIGTTIN,
                                  SIGTTOU, SIGURG,  SIGUSR1,   SIGUSR2, SIGVTALRM, SIGWINCH, SIGXCPU, SIGXFSZ};
    int sig = config->stop_signal;
    if (sig > 0 && sig < (int)ARRAY_LEN(numbers)) return numbers[sig];
    if (sig >= rt.first && sig <= rt.last) return SIGRTMIN + sig - rt.first;
    if (sig > rt.last && sig <= CRI_SIGNAL_SIGRTMAX) return SIGRTMAX - (CRI_SIGNAL_SIGRTMAX - sig);
    sig = signal_parse(image->stop_signal);
    return sig > 0 ? sig : SIGTERM;
}

static struct overlay_map container_map(struct container *c) {
    return (struct overlay_map){arena_printf(c->arena, "%s/user", c->sandbox->state_dir), c->bundle};
}

/* Volumes that are images (mounts with an image): each gets a read-only mount below the bundle. */
static int mount_images(struct shim *s, struct container *c, const char ***sources, struct err *e) {
    *sources = arena_zalloc(c->arena, (c->config->mounts.n + 1) * sizeof(**sources));
    for (size_t i = 0; i < c->config->mounts.n; i++) {
        const struct cri_mount *m = &c->config->mounts.items[i];
        struct image im;
        if (!m->image || str_empty(m->image->image)) continue;
        const char *dir = arena_printf(c->arena, "%s/image-%zu", c->bundle, i);
        if (strstr(str_or_empty(m->image_sub_path), "..")) return err_set(e, -EINVAL, "bad image sub path");
        int r = image_store_find(s->images, c->arena, m->image->image, &im, e);
        if (r == 0 && (r = mkdir_p(dir, 0755)) < 0) err_errno(e, r, "make %s", dir);
        struct overlay_map map = container_map(c);
        if (r == 0)
            r = overlay_mount(s, im.layers, im.n_layers, NULL, NULL, dir, sandbox_user(c->sandbox) ? &map : NULL, e);
        if (r < 0) return err_wrap(e, "image volume");
        (*sources)[i] = str_empty(m->image_sub_path) ? dir : arena_printf(c->arena, "%s/%s", dir, m->image_sub_path);
        if (access((*sources)[i], F_OK) < 0) return err_errno(e, errno, "image volume: %s", m->image_sub_path);
    }
    return 0;
}

/* Volumes seen through the sandbox's user namespace: bound below the bundle. */
static int map_mounts(struct container *c, const char ***sources, struct err *e) {
    *sources = arena_zalloc(c->arena, (c->config->mounts.n + 1) * sizeof(**sources));
    if (!sandbox_user(c->sandbox)) return 0;
    struct overlay_map map = container_map(c);
    for (size_t i = 0; i < c->config->mounts.n; i++) {
        const struct cri_mount *m = &c->config->mounts.items[i];
        if (!m->uid_mappings.n || (m->image && !str_empty(m->image->image)) || str_empty(m->host_path)) continue;
        const char *dir = arena_printf(c->arena, "%s/map-%zu", c->bundle, i);
        int r = access(m->host_path, F_OK) < 0 ? mkdir_p(m->host_path, 0755) : 0;
        if (r < 0) return err_errno(e, r, "make %s", m->host_path);
        r = idmap_bind(m->host_path, dir, map.userns, e);
        if (r < 0) return r;
        (*sources)[i] = dir;
    }
    return 0;
}

static pid_t target_pid(struct shim *s, const struct cri_container_config *config) {
    const struct cri_linux_container_config *l = config->linux;
    const struct cri_namespace_option *o = l && l->security_context ? l->security_context->namespace_options : NULL;
    if (!o || o->pid != CRI_NAMESPACE_MODE_TARGET) return 0;
    struct container *t = container_get(s, o->target_id, NULL);
    if (!t) return 0;
    pthread_mutex_lock(&s->lock);
    pid_t pid = t->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING ? t->proc.pid : 0;
    pthread_mutex_unlock(&s->lock);
    container_put(s, t);
    return pid;
}

static int add_cdi_devices(struct arena *a, const struct cri_container_config *config, struct json *spec,
                           struct err *e) {
    const char **names = arena_alloc(a, (config->cdi_devices.n + 1) * sizeof(*names));
    for (size_t i = 0; i < config->cdi_devices.n; i++) names[i] = str_or_empty(config->cdi_devices.items[i].name);
    int r = cdi_inject(a, cdi_dirs, names, config->cdi_devices.n, spec, e);
    return r < 0 ? err_wrap(e, "CDI device injection failed") : 0;
}

static int write_spec(struct shim *s, struct container *c, const struct image_config *image, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *shm = arena_printf(a, "%s/shm", c->sandbox->state_dir);
    char hostname[256] = "";
    fs_read_str(arena_printf(a, "%s/hostname", c->sandbox->dir), hostname, sizeof(hostname));
    const char **image_mounts, **mapped_mounts = NULL;
    int r = mount_images(s, c, &image_mounts, e);
    if (r == 0) r = map_mounts(c, &mapped_mounts, e);
    if (r < 0) return r;
    struct spec_input in = {
        .config = c->config,
        .sandbox = c->sandbox->config,
        .image = image,
        .rootfs = c->rootfs,
        .ns_dir = c->sandbox->state_dir,
        .sandbox_dir = c->sandbox->dir,
        .shm_dir = fs_is_mount(shm) ? shm : NULL,
        .cgroups_path = c->cgroup,
        .container_id = c->id,
        .sandbox_id = c->sandbox->id,
        .hostname = hostname,
        .target_pid = target_pid(s, c->config),
        .cgroup_v2 = cgroup_is_v2(),
        .seccomp = runtime_is_crun(runtime_of(s, c)) ? s->seccomp : NULL,
        .image_mounts = image_mounts,
        .mapped_mounts = mapped_mounts,
        .user = sandbox_user(c->sandbox),
    };
    struct spec_result out;
    r = spec_build(a, &in, &out, e);
    if (r == 0) r = add_cdi_devices(a, c->config, out.spec, e);
    if (r < 0) return r;
    c->user.uid = out.user.uid;
    c->user.gid = out.user.gid;
    c->user.groups.items = arena_alloc(c->arena, (out.user.n_groups + 1) * sizeof(int64_t));
    c->user.groups.n = out.user.n_groups;
    for (size_t i = 0; i < out.user.n_groups; i++) c->user.groups.items[i] = out.user.groups[i];
    return fs_write_json(arena_printf(a, "%s/config.json", c->bundle), out.spec, false, e);
}

static int mount_rootfs(struct shim *s, struct container *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *upper = arena_printf(a, "%s/upper", c->dir), *work = arena_printf(a, "%s/work", c->dir);
    fs_rm_rf(work); /* after a crash a "volatile" overlay refuses its old work folder */
    int r = mkdir_p(upper, 0755);
    if (r == 0) r = mkdir_p(work, 0700);
    if (r == 0) r = mkdir_p(c->rootfs, 0755);
    if (r < 0) return err_errno(e, r, "make folders of the container");
    const struct cri_user_namespace *u = sandbox_user(c->sandbox);
    struct overlay_map map = container_map(c);
    if (u && mkdir_p(c->bundle, 0711) == 0 &&
        chown(upper, (uid_t)idmap_host_id(&u->uids, 0), (gid_t)idmap_host_id(&u->gids, 0)) < 0)
        return err_errno(e, errno, "chown %s", upper);
    return overlay_mount(s, c->layers, c->n_layers, upper, work, c->rootfs, u ? &map : NULL, e);
}

static int fill(struct shim *s, struct container *c, const struct cri_container_config *config,
                struct image_config *image, struct err *e) {
    struct image im;
    if (!config || !config->metadata || str_empty(config->metadata->name))
        return err_set(e, -EINVAL, "container config without metadata");
    if (!config->image || str_empty(config->image->image)) return err_set(e, -EINVAL, "container config without image");
    if (config->windows) return err_set(e, -EINVAL, "Windows containers cannot run here");
    c->config = api_clone(c->arena, &api_cri_container_config, config);
    int r = image_store_find(s->images, c->arena, config->image->image, &im, e);
    if (r == 0) r = image_store_config(s->images, c->arena, im.id, image, e);
    if (r < 0) return r;
    c->image_id = im.id;
    c->image_ref = im.n_digests ? im.digests[0] : im.id;
    c->layers = im.layers;
    c->n_layers = im.n_layers;
    c->stop_signal = parse_stop_signal(config, image);
    const struct cri_linux_pod_sandbox_config *l = c->sandbox->config->linux;
    const char *parent = l && !str_empty(l->cgroup_parent) ? l->cgroup_parent : s->cfg.cgroup_root;
    c->cgroup = arena_printf(c->arena, "%s/%s", parent, c->id);
    const char *logs = c->sandbox->config->log_directory;
    if (!str_empty(config->log_path) && !str_empty(logs))
        c->log_path = arena_printf(c->arena, "%s/%s", logs, config->log_path);
    c->resources = c->config->linux ? c->config->linux->resources : NULL;
    c->created_at = ktime_unix_ns(ktime_now());
    return 0;
}

static void unmount_all(struct container *c) {
    char path[4096];
    fs_unpin(c->rootfs);
    for (size_t i = 0; i < c->config->mounts.n; i++) {
        const struct cri_mount *m = &c->config->mounts.items[i];
        if (!m->image && !m->uid_mappings.n) continue;
        snprintf(path, sizeof(path), "%s/%s-%zu", c->bundle, m->image ? "image" : "map", i);
        fs_unpin(path);
    }
}

void container_wipe(struct shim *s, const char *id) {
    _cleanup_arena_ struct arena *a = arena_new();
    fs_rm_rf(arena_printf(a, "%s/containers/%s", s->cfg.state, id)); /* detaches mounts on its way */
    fs_rm_rf(arena_printf(a, "%s/containers/%s", s->cfg.root, id));
}

int container_create(struct shim *s, struct sandbox *sb, const struct cri_container_config *config,
                     char id[SHIM_ID + 1], struct err *e) {
    struct image_config image;
    shim_new_id(id);
    struct container *c = container_alloc(s, id);
    pthread_mutex_lock(&s->lock);
    bool ready = sb->ready && !sb->gone;
    sb->refs++;
    c->sandbox = sb;
    pthread_mutex_unlock(&s->lock);
    int r = ready ? fill(s, c, config, &image, e) : err_set(e, -EAGAIN, "sandbox %s is not ready", sb->id);
    if (r < 0) {
        container_put(s, c);
        return r;
    }
    image_store_hold(s->images, c->layers, c->n_layers);
    r = mount_rootfs(s, c, e);
    if (r == 0) r = write_spec(s, c, &image, e);
    if (r == 0) r = container_save(s, c, e);
    if (r == 0) {
        pthread_mutex_lock(&s->lock);
        if (sb->gone)
            r = err_set(e, -ENOENT, "sandbox %s was removed meanwhile", sb->id);
        else
            map_put(&s->containers, id, c);
        pthread_mutex_unlock(&s->lock);
    }
    if (r < 0) {
        container_wipe(s, id);
        image_store_release(s->images, c->layers, c->n_layers);
        container_put(s, c);
        return r;
    }
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_CREATED_EVENT, id, sb->id);
    return 0;
}

/* ---- start ---- */

static void start_failed(struct shim *s, struct container *c, const struct err *why) {
    int64_t now = ktime_unix_ns(ktime_now());
    runtime_delete(runtime_of(s, c), c->id, c->cgroup);
    unmount_all(c);
    pthread_mutex_lock(&s->lock);
    c->state = CRI_CONTAINER_STATE_CONTAINER_EXITED;
    c->exit_code = START_ERROR_CODE;
    c->reason = "StartError";
    snprintf(c->message, sizeof(c->message), "%.*s", (int)strcspn(why->msg, "\n"), why->msg);
    c->started_at = c->finished_at = now;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    container_save(s, c, NULL);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STOPPED_EVENT, c->id, c->sandbox->id);
}

static int start_locked(struct shim *s, struct container *c, struct err *e) {
    struct runtime_create rc = {.id = c->id,
                                .bundle = c->bundle,
                                .log_path = c->log_path,
                                .tty = c->config->tty,
                                .stdin_open = c->config->stdin,
                                .stdin_once = c->config->stdin_once};
    struct runtime_proc proc;
    struct err why = {0};
    int r = 0;
    if (c->log_path) {
        _cleanup_free_ char *dir = xstrndup(c->log_path, (size_t)(strrchr(c->log_path, '/') - c->log_path));
        if ((r = mkdir_p(dir, 0755)) < 0) err_errno(&why, r, "make %s", dir);
    }
    if (r == 0) r = runtime_create(runtime_of(s, c), &rc, &proc, &why);
    if (r == 0) {
        pthread_mutex_lock(&s->lock);
        c->proc = proc;
        c->state = CRI_CONTAINER_STATE_CONTAINER_RUNNING;
        c->started_at = ktime_unix_ns(ktime_now());
        pthread_mutex_unlock(&s->lock);
        r = container_save(s, c, &why); /* before it runs: a restart finds it again */
        if (r == 0) r = runtime_start(runtime_of(s, c), c->id, &why);
    }
    if (r < 0) {
        start_failed(s, c, &why);
        err_wrap(&why, "start container");
        err_move(e ? e : &(struct err){0}, &why);
        return r;
    }
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STARTED_EVENT, c->id, c->sandbox->id);
    exits_watch(s, c);
    int code;
    int64_t at;
    bool oom;
    if (runtime_exit_status(runtime_of(s, c), c->id, c->bundle, &code, &at, &oom)) container_exited(s, c);
    return 0;
}

int container_start(struct shim *s, struct container *c, struct err *e) {
    pthread_mutex_lock(&c->op);
    int r = c->gone ? err_set(e, -ENOENT, "container %s is removed", c->id)
            : c->state != CRI_CONTAINER_STATE_CONTAINER_CREATED
                ? err_set(e, -EINVAL, "container %s is not in created state", c->id)
                : start_locked(s, c, e);
    pthread_mutex_unlock(&c->op);
    return r;
}

/* ---- exit ---- */

void container_exited(struct shim *s, struct container *c) {
    int code = LOST_CODE;
    int64_t at = ktime_unix_ns(ktime_now());
    bool oom = false, known = runtime_exit_status(runtime_of(s, c), c->id, c->bundle, &code, &at, &oom);
    oom |= code == 128 + SIGKILL && cgroup_oom_killed(c->cgroup);
    pthread_mutex_lock(&s->lock);
    bool running = c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
    if (running) {
        c->state = CRI_CONTAINER_STATE_CONTAINER_EXITED;
        c->exit_code = code;
        c->finished_at = MAX_OF(at, c->started_at); /* files' times are a clock tick behind */
        c->reason = !known ? "Unknown" : oom ? "OOMKilled" : code == 0 ? "Completed" : "Error";
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    if (!running) return;
    container_save(s, c, NULL);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_STOPPED_EVENT, c->id, c->sandbox->id);
    runtime_delete(runtime_of(s, c), c->id, c->cgroup);
    unmount_all(c);
}

/* ---- stop, remove ---- */

/* True when it has left the running state within the time. */
static bool wait_exited(struct shim *s, struct container *c, int64_t timeout_ms) {
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += timeout_ms % 1000 * NS_PER_MS;
    if (end.tv_nsec >= NS_PER_SEC) end.tv_sec++, end.tv_nsec -= NS_PER_SEC;
    pthread_mutex_lock(&s->lock);
    while (c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING)
        if (pthread_cond_timedwait(&s->changed, &s->lock, &end) == ETIMEDOUT) break;
    bool exited = c->state != CRI_CONTAINER_STATE_CONTAINER_RUNNING;
    pthread_mutex_unlock(&s->lock);
    return exited;
}

int container_stop(struct shim *s, struct container *c, int64_t timeout_s, struct err *e) {
    enum { STOP_MAX_S = 7 * 24 * 3600 };
    pthread_mutex_lock(&s->lock);
    bool running = c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING;
    struct runtime_proc p = c->proc;
    pthread_mutex_unlock(&s->lock);
    if (!running) return 0;
    if (timeout_s > 0) {
        proc_kill(p.pid, p.pid_start, c->stop_signal);
        if (wait_exited(s, c, MIN_OF(timeout_s, (int64_t)STOP_MAX_S) * 1000)) return 0;
    }
    cgroup_kill(c->cgroup, SIGKILL); /* all of it: a container in the pod's process namespace has orphans */
    proc_kill(p.pid, p.pid_start, SIGKILL);
    if (wait_exited(s, c, STOP_KILL_WAIT_MS)) return 0;
    if (!proc_alive(p.pid, p.pid_start)) { /* the monitor is stuck or gone */
        container_exited(s, c);
        return 0;
    }
    return err_set(e, -ETIMEDOUT, "container %s does not end after SIGKILL", c->id);
}

static int remove_locked(struct shim *s, struct container *c, struct err *e) {
    int r = container_stop(s, c, 0, e);
    if (r < 0) return r;
    _cleanup_free_ char *record = xasprintf("%s/record.json", c->dir);
    runtime_delete(runtime_of(s, c), c->id, c->cgroup);
    unlink(record); /* from here on it is a leftover */
    unmount_all(c);
    container_wipe(s, c->id);
    image_store_release(s->images, c->layers, c->n_layers);
    pthread_mutex_lock(&s->lock);
    map_del(&s->containers, c->id);
    c->gone = true;
    pthread_mutex_unlock(&s->lock);
    event_emit(s, CRI_CONTAINER_EVENT_TYPE_CONTAINER_DELETED_EVENT, c->id, c->sandbox->id);
    container_put(s, c); /* the map's */
    return 0;
}

int container_remove(struct shim *s, struct container *c, struct err *e) {
    pthread_mutex_lock(&c->op);
    int r = c->gone ? 0 : remove_locked(s, c, e);
    pthread_mutex_unlock(&c->op);
    return r;
}

/* ---- update ---- */

/* Fields that an update leaves out keep their value. */
static void merge(struct cri_linux_container_resources *to, const struct cri_linux_container_resources *r) {
    if (r->cpu_period) to->cpu_period = r->cpu_period;
    if (r->cpu_quota) to->cpu_quota = r->cpu_quota;
    if (r->cpu_shares) to->cpu_shares = r->cpu_shares;
    if (r->memory_limit_in_bytes) to->memory_limit_in_bytes = r->memory_limit_in_bytes;
    if (r->memory_swap_limit_in_bytes) to->memory_swap_limit_in_bytes = r->memory_swap_limit_in_bytes;
    if (r->oom_score_adj) to->oom_score_adj = r->oom_score_adj;
    if (!str_empty(r->cpuset_cpus)) to->cpuset_cpus = r->cpuset_cpus;
    if (!str_empty(r->cpuset_mems)) to->cpuset_mems = r->cpuset_mems;
    if (r->hugepage_limits.n) to->hugepage_limits = r->hugepage_limits;
    if (r->unified.n) to->unified = r->unified;
}

static int update_locked(struct shim *s, struct container *c, const struct cri_linux_container_resources *r,
                         struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    if (c->state == CRI_CONTAINER_STATE_CONTAINER_EXITED) return err_set(e, -EINVAL, "container %s has exited", c->id);
    int rc = 0;
    const struct cri_linux_container_resources *change = api_clone(c->arena, &api_cri_linux_container_resources, r);
    if (c->state == CRI_CONTAINER_STATE_CONTAINER_RUNNING) {
        struct json *what = spec_resources(a, change);
        if (change->cpu_quota < 0) json_set_int(a, json_ensure_object(a, what, "cpu"), "quota", change->cpu_quota);
        rc = runtime_update(runtime_of(s, c), c->id, what, e);
    } else { /* not started: the spec takes it */
        struct json *spec;
        const char *path = arena_printf(a, "%s/config.json", c->bundle);
        rc = fs_read_json(a, path, &spec, e);
        struct json *to = rc == 0 ? json_ensure_object(a, json_ensure_object(a, spec, "linux"), "resources") : NULL;
        JSON_FOREACH_MEMBER(m, spec_resources(a, change))
            if (to) json_set(a, to, m->key, m->value);
        if (rc == 0) rc = fs_write_json(path, spec, false, e);
    }
    if (rc < 0) return rc;
    pthread_mutex_lock(&s->lock);
    struct cri_linux_container_resources *now = arena_zalloc(c->arena, sizeof(*now));
    if (c->resources) *now = *c->resources;
    merge(now, change);
    c->resources = now;
    pthread_mutex_unlock(&s->lock);
    return container_save(s, c, e);
}

int container_update(struct shim *s, struct container *c, const struct cri_linux_container_resources *r,
                     struct err *e) {
    if (!r) return 0;
    pthread_mutex_lock(&c->op);
    int rc = c->gone ? err_set(e, -ENOENT, "container %s is removed", c->id) : update_locked(s, c, r, e);
    pthread_mutex_unlock(&c->op);
    return rc;
}
