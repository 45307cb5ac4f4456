/* The mounts of a container: the kernel's file systems, what the sandbox shares (/dev/shm, resolv.conf, hostname,
 * hosts), and the volumes CRI asks for, parents before children. */
#include <sys/stat.h>

#include "spec.h"

static struct json *add_mount(struct arena *a, struct json *list, const char *dest, const char *type,
                              const char *source, const char *options) {
    struct json *m = json_object(a), *opts = json_array(a);
    json_set_str(a, m, "destination", dest);
    json_set_str(a, m, "type", type);
    json_set_str(a, m, "source", source);
    while (*options) {
        size_t n = strcspn(options, ",");
        json_append(a, opts, json_strn(a, options, n));
        options += n + (options[n] == ',');
    }
    json_set(a, m, "options", opts);
    json_append(a, list, m);
    return m;
}

static const struct {
    const char *dest, *type, *source, *options, *privileged_options;
} kernel_mounts[] = {
    {"/proc", "proc", "proc", "nosuid,noexec,nodev", NULL},
    {"/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k", NULL},
    {"/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5", NULL},
    {"/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev", NULL},
    {"/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro", "nosuid,noexec,nodev,rw"},
    {"/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro", "nosuid,noexec,nodev,relatime,rw"},
};

static bool has_mount(const struct cri_container_config *c, const char *dest) {
    for (size_t i = 0; i < c->mounts.n; i++)
        if (str_eq(c->mounts.items[i].container_path, dest)) return true;
    return false;
}

/* Files the sandbox owns, unless the kubelet mounts its own there. */
static void add_sandbox_files(struct arena *a, const struct spec_input *in, struct json *list, bool ro_root) {
    static const struct {
        const char *dest, *file;
    } files[] = {{"/etc/resolv.conf", "resolv.conf"}, {"/etc/hostname", "hostname"}, {"/etc/hosts", "hosts"}};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        const char *path = arena_printf(a, "%s/%s", in->sandbox_dir, files[i].file);
        if (has_mount(in->config, files[i].dest) || access(path, F_OK) < 0) continue;
        add_mount(a, list, files[i].dest, "bind", path, ro_root ? "rbind,rprivate,ro" : "rbind,rprivate,rw");
    }
    if (has_mount(in->config, "/dev/shm")) return;
    add_mount(a, list, "/dev/shm", "bind", in->shm_dir ? in->shm_dir : "/dev/shm", "rbind,rprivate,rw");
}

static int depth_of(const char *path) {
    int n = 0;
    for (; *path; path++) n += *path == '/' && path[1] && path[1] != '/';
    return n;
}

/* Order of config mounts: by depth, else as given. */
static const size_t *mount_order(struct arena *a, const struct cri_container_config *c) {
    size_t *order = arena_alloc(a, (c->mounts.n + 1) * sizeof(*order)), n = 0;
    for (size_t i = 0; i < c->mounts.n; i++) {
        int depth = depth_of(str_or_empty(c->mounts.items[i].container_path));
        size_t at = n++;
        while (at > 0 && depth_of(str_or_empty(c->mounts.items[order[at - 1]].container_path)) > depth) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = i;
    }
    return order;
}

/* The host's side of a volume; a missing one is made as a folder, as kubelets rely on. */
static int host_side(struct arena *a, const struct cri_mount *m, const char **source, struct err *e) {
    char *real = m->host_path ? realpath(m->host_path, NULL) : NULL;
    if (!real && m->host_path && errno == ENOENT) {
        int r = mkdir_p(m->host_path, 0755);
        if (r < 0) return err_errno(e, r, "make %s", m->host_path);
        real = realpath(m->host_path, NULL);
    }
    if (!real) return err_errno(e, errno, "mount source %s", str_or_empty(m->host_path));
    *source = arena_strdup(a, real);
    free(real);
    return 0;
}

static int add_volume(struct arena *a, const struct spec_input *in, size_t i, struct json *list, int *propagation,
                      struct err *e) {
    static const char *const modes[] = {"rprivate", "rslave", "rshared"};
    const struct cri_mount *m = &in->config->mounts.items[i];
    const char *source = in->image_mounts ? in->image_mounts[i] : NULL;
    if (str_empty(m->container_path) || m->container_path[0] != '/')
        return err_set(e, -EINVAL, "mount path %s is not absolute", str_or_empty(m->container_path));
    if ((m->uid_mappings.n || m->gid_mappings.n) && !in->user)
        return err_set(e, -EINVAL, "id mappings of a mount need a sandbox with a user namespace");
    if (m->propagation < 0 || m->propagation >= (int)ARRAY_LEN(modes))
        return err_set(e, -EINVAL, "unknown mount propagation");
    if (m->recursive_read_only && (!m->readonly || m->propagation))
        return err_set(e, -EINVAL, "recursive_read_only needs readonly and private propagation");
    bool ro = m->readonly || source;
    if (!source && in->mapped_mounts) source = in->mapped_mounts[i];
    int r = source ? 0 : host_side(a, m, &source, e);
    if (r < 0) return r;
    *propagation = MAX_OF(*propagation, m->propagation);
    add_mount(a, list, m->container_path, "bind", source,
              arena_printf(a, "rbind,%s,%s", modes[m->propagation],
                           m->recursive_read_only ? "rro"
                           : ro                   ? "ro"
                                                  : "rw"));
    return 0;
}

int spec_mounts(struct arena *a, const struct spec_input *in, struct json *spec, struct err *e) {
    static const char *const root_modes[] = {NULL, "rslave", "rshared"};
    const struct cri_linux_container_config *lc = in->config->linux;
    const struct cri_linux_container_security_context *sc = lc ? lc->security_context : NULL;
    bool privileged = sc && sc->privileged;
    struct json *list = json_array(a);
    int propagation = 0;
    for (size_t i = 0; i < ARRAY_LEN(kernel_mounts); i++) {
        if (has_mount(in->config, kernel_mounts[i].dest)) continue;
        const char *options = kernel_mounts[i].options;
        if (privileged && kernel_mounts[i].privileged_options) options = kernel_mounts[i].privileged_options;
        add_mount(a, list, kernel_mounts[i].dest, kernel_mounts[i].type, kernel_mounts[i].source, options);
    }
    add_sandbox_files(a, in, list, sc && sc->readonly_rootfs);
    const size_t *order = mount_order(a, in->config);
    for (size_t i = 0; i < in->config->mounts.n; i++) {
        int r = add_volume(a, in, order[i], list, &propagation, e);
        if (r < 0) return r;
    }
    json_set(a, spec, "mounts", list);
    if (root_modes[propagation])
        json_set_str(a, json_ensure_object(a, spec, "linux"), "rootfsPropagation", root_modes[propagation]);
    return 0;
}
