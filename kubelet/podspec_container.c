/* The containers' side of podspec.h: security context, resources, mounts, environment, command. */
#include <fcntl.h>
#include <sys/stat.h>

#include "kubelet/cm/cm.h"
#include "kubelet/devices.h"
#include "kubelet/dra.h"
#include "kubelet/node.h"
#include "kubelet/podspec.h"
#include "kubelet/safepath.h"
#include "kubelet/userns.h"
#include "pkg/base/bytes.h"

#define DEFAULT_TERM_PATH "/dev/termination-log"

struct str_vec podspec_expand(struct arena *a, const struct str_vec *v, const struct env_list *env) {
    struct str_vec out = {.items = arena_alloc(a, (v->n + 1) * sizeof(*out.items)), .n = v->n};
    for (size_t i = 0; i < v->n; i++) out.items[i] = env_expand(a, v->items[i], env, NULL);
    return out;
}

/* ---- resources ---- */

struct cri_linux_container_resources *podspec_resources(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                                                        const struct core_container *c) {
    struct cri_linux_container_resources *r = arena_zalloc(a, sizeof(*r));
    r->cpu_shares = container_shares(p, c);
    r->cpu_period = kl->cfg.cfs_period_ns / 1000;
    r->cpu_quota = milli_to_quota(quantity_milli(container_limit(p, c, "cpu")), kl->rt->cfs_period_us);
    r->memory_limit_in_bytes = quantity_value(container_limit(p, c, "memory"));
    r->oom_score_adj = oom_score_adj(p, c, (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
    int64_t swap = swap_limit(&kl->swap, p, c);
    struct str_map_entry *unified = arena_alloc(a, 2 * sizeof(*unified));
    r->unified.items = unified;
    if (kl->cgroups && cgroups_v2(kl->cgroups) &&
        !kl->cfg.single_process_oom) /* an out-of-memory kill takes the whole container */
        unified[r->unified.n++] = (struct str_map_entry){"memory.oom.group", "1"};
    if (swap >= 0)
        unified[r->unified.n++] = (struct str_map_entry){"memory.swap.max", arena_printf(a, "%lld", (long long)swap)};
    for (size_t i = 0; i < c->resources.limits.n; i++) {
        const char *key = c->resources.limits.items[i].key;
        if (!str_has_prefix(key, "hugepages-")) continue;
        struct cri_hugepage_limit *items = arena_alloc(a, (r->hugepage_limits.n + 1) * sizeof(*items));
        if (r->hugepage_limits.n) memcpy(items, r->hugepage_limits.items, r->hugepage_limits.n * sizeof(*items));
        const char *size = key + strlen("hugepages-"); /* "2Mi" becomes "2MB", as the kernel's files are named */
        items[r->hugepage_limits.n++] =
            (struct cri_hugepage_limit){.page_size = arena_printf(a, "%.*sB", (int)strcspn(size, "i"), size),
                                        .limit = (uint64_t)quantity_str_value(c->resources.limits.items[i].value)};
        r->hugepage_limits.items = items;
    }
    return r;
}

/* ---- security ---- */

static struct cri_int64_value *boxed(struct arena *a, int64_t v) {
    struct cri_int64_value *b = arena_alloc(a, sizeof(*b));
    b->value = v;
    return b;
}

static int verify_non_root(struct arena *a, const struct container_input *in, const int64_t *user, struct err *e) {
    const struct core_security_context *c = in->container->security_context;
    const struct core_pod_security_context *p = in->pod->spec.security_context;
    const bool *want = c && c->run_as_non_root ? c->run_as_non_root : p ? p->run_as_non_root : NULL;
    if (!want || !*want) return 0;
    const char *desc = pod_desc(a, in->pod), *name = in->container->name;
    if (user) {
        if (*user) return 0;
        return err_set(e, -EPERM, "container's runAsUser breaks non-root policy (pod: \"%s\", container: %s)", desc,
                       name);
    }
    if (in->image && in->image->uid) {
        if (in->image->uid->value) return 0;
    } else if (in->image && !str_empty(in->image->username)) {
        return err_set(e, -EPERM,
                       "container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root "
                       "(pod: \"%s\", container: %s)",
                       in->image->username, desc, name);
    }
    return err_set(e, -EPERM, "container has runAsNonRoot and image will run as root (pod: \"%s\", container: %s)",
                   desc, name);
}

static struct cri_security_profile *seccomp_of(struct kubelet *kl, struct arena *a, const struct container_input *in) {
    const struct core_security_context *c = in->container->security_context;
    const struct core_pod_security_context *p = in->pod->spec.security_context;
    const struct core_seccomp_profile *s = c && c->seccomp_profile ? c->seccomp_profile : p ? p->seccomp_profile : NULL;
    struct cri_security_profile *out = arena_zalloc(a, sizeof(*out));
    out->profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_UNCONFINED;
    if (s ? str_eq(s->type, "RuntimeDefault") : kl->cfg.seccomp_default)
        out->profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_RUNTIME_DEFAULT;
    if (s && str_eq(s->type, "Localhost")) {
        out->profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_LOCALHOST;
        out->localhost_ref = arena_printf(a, "%s/%s", kl->cfg.seccomp_dir, str_or_empty(s->localhost_profile));
    }
    return out;
}

static struct cri_security_profile *apparmor_of(struct arena *a, const struct container_input *in) {
    const struct core_security_context *c = in->container->security_context;
    const struct core_pod_security_context *p = in->pod->spec.security_context;
    const struct core_app_armor_profile *s = c && c->app_armor_profile ? c->app_armor_profile
                                             : p                       ? p->app_armor_profile
                                                                       : NULL;
    if (!s) return NULL;
    struct cri_security_profile *out = arena_zalloc(a, sizeof(*out));
    if (str_eq(s->type, "Unconfined")) out->profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_UNCONFINED;
    if (str_eq(s->type, "Localhost")) {
        out->profile_type = CRI_SECURITY_PROFILE_PROFILE_TYPE_LOCALHOST;
        out->localhost_ref = s->localhost_profile;
    }
    return out;
}

static void proc_paths(struct arena *a, const char *proc_mount, struct cri_linux_container_security_context *s) {
    static const char *const masked[] = {"/proc/asound",     "/proc/acpi",        "/proc/interrupts",
                                         "/proc/kcore",      "/proc/keys",        "/proc/latency_stats",
                                         "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                         "/proc/scsi",       "/sys/firmware",     "/sys/devices/virtual/powercap"};
    static const char *const readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    if (str_eq(proc_mount, "Unmasked")) return;
    s->masked_paths = (struct str_vec){arena_memdup(a, masked, sizeof(masked)), ARRAY_LEN(masked)};
    s->readonly_paths = (struct str_vec){arena_memdup(a, readonly, sizeof(readonly)), ARRAY_LEN(readonly)};
}

static struct i64_vec groups_of(struct arena *a, const struct core_pod_security_context *p) {
    struct i64_vec v = {0};
    if (!p) return v;
    v.items = arena_alloc(a, (p->supplemental_groups.n + 1) * sizeof(*v.items));
    if (p->fs_group) v.items[v.n++] = *p->fs_group;
    for (size_t i = 0; i < p->supplemental_groups.n; i++) v.items[v.n++] = p->supplemental_groups.items[i];
    return v;
}

static void selinux_of(struct arena *a, const struct container_input *in,
                       struct cri_linux_container_security_context *s) {
    const struct core_security_context *c = in->container->security_context;
    const struct core_pod_security_context *p = in->pod->spec.security_context;
    const struct core_se_linux_options *o = c && c->se_linux_options ? c->se_linux_options
                                            : p                      ? p->se_linux_options
                                                                     : NULL;
    if (!o) return;
    s->selinux_options = arena_zalloc(a, sizeof(*s->selinux_options));
    s->selinux_options->user = o->user;
    s->selinux_options->role = o->role;
    s->selinux_options->type = o->type;
    s->selinux_options->level = o->level;
}

static int security(struct kubelet *kl, struct arena *a, const struct container_input *in,
                    struct cri_linux_container_security_context **out, struct err *e) {
    const struct core_security_context *c = in->container->security_context;
    const struct core_pod_security_context *p = in->pod->spec.security_context;
    struct cri_linux_container_security_context *s = arena_zalloc(a, sizeof(*s));
    const int64_t *user = c && c->run_as_user ? c->run_as_user : p ? p->run_as_user : NULL;
    const int64_t *group = c && c->run_as_group ? c->run_as_group : p ? p->run_as_group : NULL;
    int r = verify_non_root(a, in, user, e);
    if (r < 0) return r;
    if (user)
        s->run_as_user = boxed(a, *user);
    else if (in->image && in->image->uid)
        s->run_as_user = boxed(a, in->image->uid->value);
    else if (in->image)
        s->run_as_username = in->image->username;
    if (group) s->run_as_group = boxed(a, *group);
    s->supplemental_groups = groups_of(a, p);
    if (p && str_eq(p->supplemental_groups_policy, "Strict"))
        s->supplemental_groups_policy = CRI_SUPPLEMENTAL_GROUPS_POLICY_STRICT;
    s->seccomp = seccomp_of(kl, a, in);
    s->apparmor = apparmor_of(a, in);
    s->namespace_options = podspec_namespaces(a, in->pod);
    if (in->target_id) {
        s->namespace_options->pid = CRI_NAMESPACE_MODE_TARGET;
        s->namespace_options->target_id = in->target_id;
    }
    selinux_of(a, in, s);
    if (c) {
        s->privileged = c->privileged && *c->privileged;
        s->readonly_rootfs = c->read_only_root_filesystem && *c->read_only_root_filesystem;
        s->no_new_privs = c->allow_privilege_escalation && !*c->allow_privilege_escalation;
        if (c->capabilities) {
            s->capabilities = arena_zalloc(a, sizeof(*s->capabilities));
            s->capabilities->add_capabilities = c->capabilities->add;
            s->capabilities->drop_capabilities = c->capabilities->drop;
        }
    }
    proc_paths(a, c ? c->proc_mount : NULL, s);
    *out = s;
    return 0;
}

/* ---- mounts ---- */

static struct cri_mount *mount_add(struct arena *a, struct cri_mount_vec *v, const char *host, const char *container) {
    struct cri_mount *items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    v->items = items;
    items[v->n] = (struct cri_mount){.host_path = host, .container_path = container};
    return &items[v->n++];
}

static const struct volume_mount_source *source_of(const struct mounted_volumes *v, const char *name) {
    for (size_t i = 0; v && i < v->n; i++)
        if (str_eq(v->items[i].name, name)) return &v->items[i];
    return NULL;
}

static int sub_path_of(struct arena *a, const struct core_volume_mount *m, const struct env_list *env, const char **out,
                       struct err *e) {
    *out = m->sub_path;
    if (!str_empty(m->sub_path_expr)) {
        *out = env_expand(a, m->sub_path_expr, env, NULL);
        if (strstr(*out, "$(")) return err_set(e, -EINVAL, "missing value for \"%s\"", m->sub_path_expr);
    }
    if (str_empty(*out)) return 0;
    if (!path_is_local(*out))
        return err_set(e, -EINVAL, "unable to provision SubPath `%s`: it must stay in the volume", *out);
    return 0;
}

/* Enabled where the runtime cannot do it is an error, IfPossible there is an ordinary read-only mount. */
static int recursive_read_only(struct kubelet *kl, const struct container_input *in, const struct core_volume_mount *m,
                               struct cri_mount *cm, struct err *e) {
    bool enabled = str_eq(m->recursive_read_only, "Enabled");
    if (!m->read_only || (!enabled && !str_eq(m->recursive_read_only, "IfPossible"))) return 0;
    cm->recursive_read_only = kl->fake || node_handler_can(kl->node, in->runtime_handler, HANDLER_RECURSIVE_READ_ONLY);
    if (cm->recursive_read_only || !enabled) return 0;
    return err_set(e, -ENOTSUP, "recursive read-only mount of volume \"%s\" is not supported by the runtime", m->name);
}

static int volume_mounts(struct kubelet *kl, struct arena *a, const struct container_input *in,
                         const struct env_list *env, struct cri_mount_vec *out, struct err *e) {
    const struct core_volume_mount_vec *v = &in->container->volume_mounts;
    for (size_t i = 0; i < v->n; i++) {
        const struct core_volume_mount *m = &v->items[i];
        const struct volume_mount_source *src = source_of(in->volumes, m->name);
        if (!src)
            return err_set(e, -ENOENT, "volume \"%s\" of container \"%s\" is not mounted", m->name,
                           in->container->name);
        if (src->is_block)
            return err_set(e, -EINVAL, "volume \"%s\" has volumeMode Block, but is in volumeMounts of container \"%s\"",
                           m->name, in->container->name);
        const char *sub, *host = src->host_path;
        int r = sub_path_of(a, m, env, &sub, e);
        if (r < 0) return r;
        if (!str_empty(sub) && !src->image && !kl->fake) {
            host = arena_printf(a, "%s/volume-subpaths/%s/%s/%zu", kubelet_pod_dir(kl, a, in->pod->metadata.uid),
                                m->name, in->container->name, i);
            struct stat st;
            unsigned mode = stat(src->host_path, &st) == 0 ? st.st_mode & 07777 : 0750;
            r = safepath_bind(src->host_path, sub, host, true, mode, e);
            if (r < 0)
                return err_wrap(e, "failed to prepare subPath for volumeMount \"%s\" of container \"%s\"", m->name,
                                in->container->name);
        }
        const char *target = m->mount_path;
        if (*target != '/') target = arena_printf(a, "/%s", target);
        struct cri_mount *cm = mount_add(a, out, host, target);
        cm->readonly = m->read_only || src->read_only;
        r = recursive_read_only(kl, in, m, cm, e);
        if (r < 0) return r;
        if (str_eq(m->mount_propagation, "HostToContainer"))
            cm->propagation = CRI_MOUNT_PROPAGATION_PROPAGATION_HOST_TO_CONTAINER;
        if (str_eq(m->mount_propagation, "Bidirectional"))
            cm->propagation = CRI_MOUNT_PROPAGATION_PROPAGATION_BIDIRECTIONAL;
        if (src->image) {
            cm->image = arena_zalloc(a, sizeof(*cm->image));
            cm->image->image = src->image;
            cm->image_sub_path = sub;
            cm->readonly = true;
        }
    }
    return 0;
}

/* Block volumes: devices inside of the container. */
static int volume_devices(struct arena *a, const struct container_input *in, struct cri_device_vec *out,
                          struct err *e) {
    const struct core_volume_device_vec *v = &in->container->volume_devices;
    out->items = arena_zalloc(a, (v->n + 1) * sizeof(*out->items));
    for (size_t i = 0; i < v->n; i++) {
        const struct core_volume_device *d = &v->items[i];
        const struct volume_mount_source *src = source_of(in->volumes, d->name);
        if (!src)
            return err_set(e, -ENOENT, "volume \"%s\" of container \"%s\" is not mapped", d->name, in->container->name);
        if (!src->is_block)
            return err_set(e, -EINVAL,
                           "volume \"%s\" has volumeMode Filesystem, but is in volumeDevices of container \"%s\"",
                           d->name, in->container->name);
        out->items[out->n++] = (struct cri_device){
            .host_path = src->host_path, .container_path = d->device_path, .permissions = src->read_only ? "r" : "mrw"};
    }
    return 0;
}

static bool mounts_path(const struct cri_mount_vec *v, const char *path) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i].container_path, path)) return true;
    return false;
}

static int hosts_mount(struct kubelet *kl, struct arena *a, const struct container_input *in, struct cri_mount_vec *out,
                       struct err *e) {
    if (mounts_path(out, "/etc/hosts") || (!in->n_pod_ips && !in->pod->spec.host_network)) return 0;
    const char *path = arena_printf(a, "%s/etc-hosts", kubelet_pod_dir(kl, a, in->pod->metadata.uid));
    const char *text = podspec_hosts(kl, a, in->pod, in->pod_ips, in->n_pod_ips);
    _cleanup_free_ char *have = NULL;
    if (file_read(path, 1 << 20, &have, NULL) < 0 || !str_eq(have, text)) {
        /* In place: containers that run already have this very file mounted. */
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd < 0) return err_errno(e, errno, "write %s", path);
        int r = fd_write_all(fd, text, strlen(text));
        if (r < 0) return err_errno(e, r, "write %s", path);
        fchmod(fd, 0644);
        const struct core_pod_security_context *sc = in->pod->spec.security_context;
        if (sc && sc->fs_group && fchown(fd, (uid_t)-1, (gid_t)*sc->fs_group) < 0)
            return err_errno(e, errno, "chown %s", path);
    }
    mount_add(a, out, path, "/etc/hosts");
    return 0;
}

static int termination_mount(struct kubelet *kl, struct arena *a, const struct container_input *in, const char *target,
                             struct cri_mount_vec *out, struct err *e) {
    const char *dir =
        arena_printf(a, "%s/containers/%s", kubelet_pod_dir(kl, a, in->pod->metadata.uid), in->container->name);
    int r = mkdir_p(dir, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", dir);
    char id[9];
    random_name(id, 8);
    const char *path = arena_printf(a, "%s/%s", dir, id);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return err_errno(e, errno, "create %s", path);
    fchmod(fd, 0666);
    mount_add(a, out, path, target);
    return 0;
}

/* ---- the whole ---- */

static const char *const *services_env(struct kubelet *kl, const char *ns, struct object_list *list, struct arena *a,
                                       size_t *n) {
    if (kl->service_informer) {
        /* The first pods after a start wait for the services, unless there is no server to read them from. */
        for (int i = 0;
             i < 25 && !informer_synced(kl->service_informer) && !informer_disconnected(kl->service_informer); i++)
            informer_wait_synced(kl->service_informer, 200, NULL);
        informer_list(kl->service_informer, ns, list);
        if (!str_eq(ns, "default")) {
            struct object *o = informer_get_ns(kl->service_informer, "default", "kubernetes");
            if (o) {
                VEC_GROW(list->items, list->n, list->cap);
                list->items[list->n++] = o;
            }
        }
    }
    const void **v = arena_alloc(a, (list->n + 1) * sizeof(*v));
    for (size_t i = 0; i < list->n; i++) v[i] = list->items[i]->obj;
    *n = list->n;
    return (const char *const *)v;
}

static int environment(struct kubelet *kl, struct arena *a, const struct container_input *in, struct env_list *env,
                       struct err *e) {
    _cleanup_object_list_ struct object_list list = {0};
    struct env_input ei = {.pod = in->pod, .container = in->container, .objects = kl->objects};
    ei.services =
        (const struct core_service *const *)services_env(kl, in->pod->metadata.namespace, &list, a, &ei.n_services);
    ei.facts.node_name = kl->node_name;
    ei.facts.host_ips = kubelet_host_ips(kl, a, &ei.facts.n_host_ips);
    ei.facts.pod_ips = in->pod_ips;
    ei.facts.n_pod_ips = in->n_pod_ips;
    struct str_map allocatable = kubelet_allocatable(kl, a);
    ei.facts.allocatable = &allocatable;
    ei.volume_paths.items = arena_zalloc(a, (in->volumes->n + 1) * sizeof(*ei.volume_paths.items));
    for (size_t i = 0; i < in->volumes->n; i++)
        if (in->volumes->items[i].host_path)
            ei.volume_paths.items[ei.volume_paths.n++] =
                (struct str_map_entry){in->volumes->items[i].name, in->volumes->items[i].host_path};
    const char *skipped = NULL;
    int r = env_make(a, &ei, env, &skipped, e);
    if (r < 0) return r;
    /* The values must outlive the list of services they point into. */
    for (size_t i = 0; i < env->n; i++)
        env->items[i] = (struct env_var){arena_strdup(a, env->items[i].name), arena_strdup(a, env->items[i].value)};
    if (skipped)
        kubelet_event(kl, in->pod, in->container->name, "Warning", "InvalidEnvironmentVariableNames",
                      "Keys [%s] were skipped since they are considered invalid environment variable names.", skipped);
    return 0;
}

static void identity(struct arena *a, const struct container_input *in, const char *term_path,
                     struct cri_container_config *c) {
    const struct core_pod *p = in->pod;
    const struct str_map_entry labels[] = {{LABEL_CONTAINER_NAME, in->container->name},
                                           {LABEL_POD_NAME, p->metadata.name},
                                           {LABEL_POD_NAMESPACE, p->metadata.namespace},
                                           {LABEL_POD_UID, p->metadata.uid}};
    const char *policy = in->container->termination_message_policy;
    int64_t grace = p->spec.termination_grace_period_seconds ? *p->spec.termination_grace_period_seconds : 30;
    const struct str_map_entry annotations[] = {
        {ANNOT_HASH, container_hash(a, in->container)},
        {ANNOT_RESTART_COUNT, arena_printf(a, "%u", in->restart_count)},
        {ANNOT_TERM_PATH, term_path},
        {ANNOT_TERM_POLICY, str_empty(policy) ? "File" : policy},
        {ANNOT_MEMORY_REQUEST, container_memory_request(a, in->container)},
        {ANNOT_POD_GRACE, arena_printf(a, "%lld", (long long)grace)},
    };
    c->labels = (struct str_map){arena_memdup(a, labels, sizeof(labels)), ARRAY_LEN(labels)};
    c->annotations = (struct str_map){arena_memdup(a, annotations, sizeof(annotations)), ARRAY_LEN(annotations)};
}

static int32_t stop_signal_of(const struct core_container *c) {
    static const struct {
        const char *name;
        int32_t value;
    } signals[] = {{"SIGABRT", CRI_SIGNAL_SIGABRT},   {"SIGALRM", CRI_SIGNAL_SIGALRM}, {"SIGHUP", CRI_SIGNAL_SIGHUP},
                   {"SIGINT", CRI_SIGNAL_SIGINT},     {"SIGKILL", CRI_SIGNAL_SIGKILL}, {"SIGQUIT", CRI_SIGNAL_SIGQUIT},
                   {"SIGTERM", CRI_SIGNAL_SIGTERM},   {"SIGUSR1", CRI_SIGNAL_SIGUSR1}, {"SIGUSR2", CRI_SIGNAL_SIGUSR2},
                   {"SIGWINCH", CRI_SIGNAL_SIGWINCH}, {"SIGPWR", CRI_SIGNAL_SIGPWR}};
    for (size_t i = 0; c->lifecycle && i < ARRAY_LEN(signals); i++)
        if (str_eq(c->lifecycle->stop_signal, signals[i].name)) return signals[i].value;
    return CRI_SIGNAL_RUNTIME_DEFAULT;
}

static void cdi_add(struct arena *a, struct cri_container_config *cfg, const char *name) {
    struct cri_cdi_device *items = arena_alloc(a, (cfg->cdi_devices.n + 1) * sizeof(*items));
    if (cfg->cdi_devices.n) memcpy(items, cfg->cdi_devices.items, cfg->cdi_devices.n * sizeof(*items));
    items[cfg->cdi_devices.n++] = (struct cri_cdi_device){.name = name};
    cfg->cdi_devices.items = items;
}

/* What device plugins want in the container: environment (the spec's own wins), mounts, device nodes, annotations. */
static int plugin_devices(struct kubelet *kl, struct arena *a, const struct container_input *in,
                          struct cri_container_config *cfg, struct err *e) {
    struct deviceplugin_container_allocate_response_vec v = {0};
    int r = devices_allocate(kl->devices, a, in->pod, in->container, &v, e);
    for (size_t i = 0; r == 0 && i < v.n; i++) {
        const struct deviceplugin_container_allocate_response *x = &v.items[i];
        struct cri_key_value *envs = arena_alloc(a, (cfg->envs.n + x->envs.n + 1) * sizeof(*envs));
        size_t n = 0;
        for (size_t k = 0; k < x->envs.n; k++)
            envs[n++] = (struct cri_key_value){
                .key = x->envs.items[k].key,
                .value = {(const uint8_t *)x->envs.items[k].value, strlen(str_or_empty(x->envs.items[k].value))}};
        if (cfg->envs.n) memcpy(envs + n, cfg->envs.items, cfg->envs.n * sizeof(*envs));
        cfg->envs.items = envs;
        cfg->envs.n += n;
        for (size_t k = 0; k < x->mounts.n; k++)
            mount_add(a, &cfg->mounts, x->mounts.items[k].host_path, x->mounts.items[k].container_path)->readonly =
                x->mounts.items[k].read_only;
        struct cri_device *devices = arena_alloc(a, (cfg->devices.n + x->devices.n + 1) * sizeof(*devices));
        if (cfg->devices.n) memcpy(devices, cfg->devices.items, cfg->devices.n * sizeof(*devices));
        for (size_t k = 0; k < x->devices.n; k++)
            devices[cfg->devices.n++] = (struct cri_device){.container_path = x->devices.items[k].container_path,
                                                            .host_path = x->devices.items[k].host_path,
                                                            .permissions = x->devices.items[k].permissions};
        cfg->devices.items = devices;
        for (size_t k = 0; k < x->cdi_devices.n; k++) cdi_add(a, cfg, x->cdi_devices.items[k].name);
    }
    return r;
}

/* The devices of claims: by their names in the Container Device Interface, which the runtime knows. */
static int claimed_devices(struct kubelet *kl, struct arena *a, const struct container_input *in,
                           struct cri_container_config *cfg, struct err *e) {
    struct str_vec names = {0};
    int r = kl->fake ? 0 : dra_devices(kl->dra, a, in->pod, in->container, &names, e);
    for (size_t i = 0; r == 0 && i < names.n; i++) cdi_add(a, cfg, names.items[i]);
    return r;
}

/* A pod with ids of its own sees its files through mounts that map them. */
static int map_ids(struct kubelet *kl, struct arena *a, const struct container_input *in,
                   struct cri_container_config *cfg, struct err *e) {
    struct cri_user_namespace *u;
    if (!userns_wanted(in->pod)) return 0;
    int r = userns_of(kl, a, in->pod, &u, e);
    if (r < 0) return r;
    cfg->linux->security_context->namespace_options->userns_options = u;
    for (size_t i = 0; i < cfg->mounts.n; i++) {
        cfg->mounts.items[i].uid_mappings = u->uids;
        cfg->mounts.items[i].gid_mappings = u->gids;
    }
    return 0;
}

int podspec_container(struct kubelet *kl, struct arena *a, const struct container_input *in,
                      struct cri_container_config **out, struct err *e) {
    const struct core_container *c = in->container;
    struct cri_container_config *cfg = arena_zalloc(a, sizeof(*cfg));
    struct env_list env = {0};
    int r = environment(kl, a, in, &env, e);
    if (r < 0) return r;
    cfg->metadata = arena_zalloc(a, sizeof(*cfg->metadata));
    *cfg->metadata = (struct cri_container_metadata){.name = c->name, .attempt = in->restart_count};
    cfg->image = arena_zalloc(a, sizeof(*cfg->image));
    cfg->image->image = in->image_ref;
    cfg->image->user_specified_image = c->image;
    cfg->command = podspec_expand(a, &c->command, &env);
    cfg->args = podspec_expand(a, &c->args, &env);
    cfg->working_dir = c->working_dir;
    cfg->log_path = arena_printf(a, "%s/%u.log", c->name, in->restart_count);
    cfg->stdin = c->stdin;
    cfg->stdin_once = c->stdin_once;
    cfg->tty = c->tty;
    cfg->stop_signal = stop_signal_of(c);
    cfg->linux = arena_zalloc(a, sizeof(*cfg->linux));
    cfg->linux->resources = podspec_resources(kl, a, in->pod, c);
    cm_container(kl->cm, a, in->pod, c, cfg->linux->resources);
    r = security(kl, a, in, &cfg->linux->security_context, e);
    if (r == 0) r = volume_mounts(kl, a, in, &env, &cfg->mounts, e);
    if (r == 0) r = volume_devices(a, in, &cfg->devices, e);
    if (r < 0) return r;
    const char *term_path = str_empty(c->termination_message_path) ? DEFAULT_TERM_PATH : c->termination_message_path;
    identity(a, in, term_path, cfg);
    cfg->envs.items = arena_zalloc(a, (env.n + 1) * sizeof(*cfg->envs.items));
    for (size_t i = 0; i < env.n; i++)
        cfg->envs.items[cfg->envs.n++] = (struct cri_key_value){
            .key = env.items[i].name, .value = {(const uint8_t *)env.items[i].value, strlen(env.items[i].value)}};
    r = plugin_devices(kl, a, in, cfg, e);
    if (r == 0) r = claimed_devices(kl, a, in, cfg, e);
    if (r < 0) return r;
    *out = cfg;
    if (kl->fake) return 0;
    const char *log_dir = arena_printf(a, "%s/%s", kubelet_pod_log_dir(kl, a, in->pod), c->name);
    r = mkdir_p(log_dir, 0755);
    if (r < 0) return err_errno(e, r, "create container log directory %s", log_dir);
    r = hosts_mount(kl, a, in, &cfg->mounts, e);
    if (r == 0) r = termination_mount(kl, a, in, term_path, &cfg->mounts, e);
    return r < 0 ? r : map_ids(kl, a, in, cfg, e);
}
