/* See volumes.h. */
#include "kubelet/volumes.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "kubelet/csi.h"
#include "kubelet/safepath.h"
#include "kubelet/volumes_internal.h"

struct volumes {
    struct kubelet *kl;
};

struct volumes *volumes_new(struct kubelet *kl) {
    struct volumes *v = xcalloc(1, sizeof(*v));
    v->kl = kl;
    return v;
}

void volumes_free(struct volumes *v) { free(v); }

char *setup_dir(struct setup *s, const char *plugin) {
    return arena_printf(s->a, "%s/volumes/kubernetes.io~%s/%s", kubelet_pod_dir(s->kl, s->a, s->pod->metadata.uid),
                        plugin, s->vol->name);
}

static int64_t fs_group(const struct core_pod *p) {
    const struct core_pod_security_context *s = p->spec.security_context;
    return s && s->fs_group ? *s->fs_group : -1;
}

/* Gives a tree to the group: chown, group bits, and setgid on directories, so that new files belong to it
 * too. */
static int own_tree(int dirfd, const char *name, gid_t gid, int depth) {
    enum { MAX_DEPTH = 128 };
    _cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    if (fd < 0) return errno == ELOOP || errno == ENXIO || errno == ENOENT ? 0 : -errno;
    if (fstat(fd, &st) < 0) return -errno;
    bool dir = S_ISDIR(st.st_mode);
    if (!dir && !S_ISREG(st.st_mode)) return 0;
    if (fchown(fd, (uid_t)-1, gid) < 0) return -errno;
    mode_t mode = (st.st_mode & 07777) | 0660 | (dir ? 02110 : 0);
    if (fchmod(fd, mode) < 0) return -errno;
    if (!dir || depth >= MAX_DEPTH) return 0;
    DIR *d = fdopendir(fd);
    if (!d) return -errno;
    int inner = take_fd(&fd), r = 0;
    for (struct dirent *ent; r == 0 && (ent = readdir(d));)
        if (!str_eq(ent->d_name, ".") && !str_eq(ent->d_name, "..")) r = own_tree(inner, ent->d_name, gid, depth + 1);
    closedir(d);
    return r;
}

/* fsGroupChangePolicy OnRootMismatch leaves a tree alone whose root is right already. */
int setup_fs_group(struct setup *s, const char *dir, struct err *e) {
    int64_t gid = fs_group(s->pod);
    if (gid < 0) return 0;
    struct stat st;
    bool lazy = str_eq(s->pod->spec.security_context->fs_group_change_policy, "OnRootMismatch");
    if (lazy && stat(dir, &st) == 0 && st.st_gid == (gid_t)gid && (st.st_mode & 02070) == 02070) return 0;
    int r = own_tree(AT_FDCWD, dir, (gid_t)gid, 0);
    return r < 0 ? err_errno(e, r, "apply fsGroup to %s", dir) : 0;
}

/* ---- emptyDir ---- */

static int64_t memory_size(struct setup *s) {
    int64_t size = quantity_str_value(s->vol->empty_dir->size_limit);
    bool all;
    int64_t limit = quantity_value(pod_resource(s->pod, "memory", true, &all));
    if (all && limit > 0 && (size <= 0 || limit < size)) size = limit;
    return size;
}

static int set_up_empty_dir(struct setup *s, struct err *e) {
    const char *medium = s->vol->empty_dir->medium;
    const char *dir = setup_dir(s, "empty-dir");
    if (!str_empty(medium) && !str_eq(medium, "Memory"))
        return err_set(e, -ENOTSUP, "storage medium \"%s\" is not supported on this node", medium);
    struct stat st;
    bool fresh = lstat(dir, &st) < 0;
    int r = mkdir_p(dir, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", dir);
    if (str_eq(medium, "Memory") && !path_is_mount(dir)) {
        int64_t size = memory_size(s);
        const char *opts = size > 0 ? arena_printf(s->a, "size=%lld,mode=1777", (long long)size) : "mode=1777";
        if (mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV, opts) < 0)
            return err_errno(e, errno, "mount tmpfs on %s", dir);
        fresh = true;
    }
    if (fresh) {
        mode_t mode = str_eq(medium, "Memory") ? 01777 : 0777; /* a tmpfs is as the kernel makes it */
        if (chmod(dir, mode) < 0) return err_errno(e, errno, "chmod %s", dir);
        r = setup_fs_group(s, dir, e);
        if (r < 0) return r;
    }
    s->out->host_path = dir;
    return 0;
}

/* ---- configMap, secret, downwardAPI, projected ---- */

static int set_up_content(struct setup *s, struct err *e) {
    const char *plugin = s->vol->config_map  ? "configmap"
                         : s->vol->secret    ? "secret"
                         : s->vol->projected ? "projected"
                                             : "downward-api";
    const char *dir = setup_dir(s, plugin);
    int r = mkdir_p(dir, 0755);
    if (r < 0) return err_errno(e, r, "mkdir %s", dir);
    /* What is secret does not go to the disk; but a node that may start offline needs the tokens it had. */
    bool secret = s->vol->secret || (s->vol->projected && !s->kl->cfg.offline_cache);
    if (secret && !path_is_mount(dir) &&
        mount("tmpfs", dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0777,size=64m") < 0 && errno != EPERM)
        return err_errno(e, errno, "mount tmpfs on %s", dir);
    struct payload p = {0};
    r = volume_content(s->kl, s->a, s->pod, s->vol, dir, s->facts, &p, e);
    if (r < 0) return r;
    chmod(dir, 0777);
    r = atomic_write(dir, &p, fs_group(s->pod), e);
    if (r < 0) return r;
    s->out->host_path = dir;
    s->out->read_only = true;
    return 0;
}

/* ---- hostPath, local ---- */

struct host_path_type {
    const char *name;
    mode_t format;
    const char *what;
    bool create;
};
static const struct host_path_type host_path_types[] = {
    {"", 0, NULL, false},
    {"DirectoryOrCreate", S_IFDIR, "a directory", true},
    {"Directory", S_IFDIR, "a directory", false},
    {"FileOrCreate", S_IFREG, "a file", true},
    {"File", S_IFREG, "a file", false},
    {"Socket", S_IFSOCK, "a socket file", false},
    {"CharDevice", S_IFCHR, "a character device", false},
    {"BlockDevice", S_IFBLK, "a block device", false},
};

static int host_path_check(const char *path, const char *type, struct err *e) {
    const struct host_path_type *t = NULL;
    for (size_t i = 0; i < ARRAY_LEN(host_path_types); i++)
        if (str_eq(host_path_types[i].name, str_or_empty(type))) t = &host_path_types[i];
    if (!t) return err_set(e, -EINVAL, "%s is an invalid volume type", type);
    struct stat st;
    int r = stat(path, &st);
    if (r < 0 && t->create) {
        if (t->format == S_IFDIR) {
            int m = mkdir_p(path, 0755);
            if (m < 0) return err_errno(e, m, "mkdir %s", path);
        } else {
            _cleanup_close_ int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
            if (fd < 0) return err_errno(e, errno, "create %s", path);
        }
        return 0;
    }
    if (!t->format) {
        /* Without a type nothing is checked; a missing folder is made, as container runtimes do. */
        if (r < 0 && errno == ENOENT) mkdir_p(path, 0755);
        return 0;
    }
    if (r < 0 || (st.st_mode & S_IFMT) != t->format)
        return err_set(e, -EINVAL, "hostPath type check failed: %s is not %s", path, t->what);
    return 0;
}

int setup_host_path(struct setup *s, const char *path, const char *type, struct err *e) {
    if (strstr(path, "/../") || str_has_suffix(path, "/.."))
        return err_set(e, -EINVAL, "hostPath must not contain '..'");
    int r = host_path_check(path, type, e);
    if (r < 0) return r;
    s->out->host_path = path;
    return 0;
}

/* ---- all of them ---- */

static const char *unsupported_kind(const struct core_volume *v) {
    const struct {
        const void *p;
        const char *name;
    } kinds[] = {{v->iscsi, "iscsi"},
                 {v->fc, "fc"},
                 {v->cephfs, "cephfs"},
                 {v->rbd, "rbd"},
                 {v->git_repo, "gitRepo"},
                 {v->flex_volume, "flexVolume"},
                 {v->glusterfs, "glusterfs"},
                 {v->cinder, "cinder"},
                 {v->azure_disk, "azureDisk"},
                 {v->azure_file, "azureFile"},
                 {v->aws_elastic_block_store, "awsElasticBlockStore"},
                 {v->gce_persistent_disk, "gcePersistentDisk"},
                 {v->vsphere_volume, "vsphereVolume"}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (kinds[i].p) return kinds[i].name;
    return "unknown";
}

static int set_up(struct setup *s, struct err *e) {
    const struct core_volume *v = s->vol;
    if (v->config_map || v->secret || v->projected || v->downward_api) return set_up_content(s, e);
    if (v->host_path) return setup_host_path(s, v->host_path->path, v->host_path->type, e);
    if (v->persistent_volume_claim)
        return setup_claim(s, v->persistent_volume_claim->claim_name, v->persistent_volume_claim->read_only, e);
    if (v->ephemeral) return setup_claim(s, arena_printf(s->a, "%s-%s", s->pod->metadata.name, v->name), false, e);
    if (v->empty_dir) return set_up_empty_dir(s, e);
    if (v->csi) return setup_inline_csi(s, e);
    if (v->nfs) return setup_nfs(s, v->name, v->nfs->server, v->nfs->path, v->nfs->read_only, NULL, e);
    if (v->image) { /* pulled when a container that mounts it starts, and mounted by the runtime */
        s->out->host_path = "";
        s->out->image = v->image->reference;
        return 0;
    }
    return err_set(e, -ENOTSUP, "volumes of kind %s are not supported on this node", unsupported_kind(v));
}

int volumes_mount(struct volumes *v, struct arena *a, const struct core_pod *pod, const char *const *pod_ips,
                  size_t n_pod_ips, struct mounted_volumes *out, struct err *e) {
    struct kubelet *kl = v->kl;
    struct env_facts facts = {.node_name = kl->node_name, .pod_ips = pod_ips, .n_pod_ips = n_pod_ips};
    struct str_map allocatable = kubelet_allocatable(kl, a);
    facts.allocatable = &allocatable;
    facts.host_ips = kubelet_host_ips(kl, a, &facts.n_host_ips);
    out->items = arena_zalloc(a, (pod->spec.volumes.n + 1) * sizeof(*out->items));
    out->n = 0;
    const char *dir = kubelet_pod_dir(kl, a, pod->metadata.uid);
    int made = kl->fake ? 0 : mkdir_p(dir, 0750);
    if (made < 0) return err_errno(e, made, "error making pod data directories: mkdir %s", dir);
    for (size_t i = 0; i < pod->spec.volumes.n; i++) {
        const struct core_volume *vol = &pod->spec.volumes.items[i];
        struct volume_mount_source *m = &out->items[out->n++];
        m->name = vol->name;
        if (kl->fake) {
            m->host_path = "/dev/null";
            continue;
        }
        struct setup s = {kl, a, pod, vol, &facts, m};
        struct err one = {0};
        int r = set_up(&s, &one);
        if (r < 0) {
            err_wrap(&one, "MountVolume.SetUp failed for volume \"%s\" ", vol->name);
            if (e)
                err_move(e, &one);
            else
                err_done(&one);
            return r;
        }
    }
    return 0;
}

static const char *empty_dir_path(struct volumes *v, struct arena *a, const struct core_pod *pod, const char *name) {
    return arena_printf(a, "%s/volumes/kubernetes.io~empty-dir/%s", kubelet_pod_dir(v->kl, a, pod->metadata.uid), name);
}

const char *volumes_over_limit(struct volumes *v, const struct core_pod *pod) {
    _cleanup_arena_ struct arena *a = arena_new();
    if (v->kl->fake) return NULL;
    for (size_t i = 0; i < pod->spec.volumes.n; i++) {
        const struct core_volume *vol = &pod->spec.volumes.items[i];
        int64_t limit = vol->empty_dir ? quantity_str_value(vol->empty_dir->size_limit) : 0;
        if (limit <= 0 || !str_empty(vol->empty_dir->medium)) continue; /* a tmpfs limits itself */
        if (path_usage(empty_dir_path(v, a, pod, vol->name), limit, false) > limit) return vol->name;
    }
    return NULL;
}

int64_t volumes_usage(struct volumes *v, const struct core_pod *pod, bool inodes) {
    _cleanup_arena_ struct arena *a = arena_new();
    int64_t sum = 0;
    for (size_t i = 0; !v->kl->fake && i < pod->spec.volumes.n; i++) {
        const struct core_volume *vol = &pod->spec.volumes.items[i];
        if (vol->empty_dir && str_empty(vol->empty_dir->medium))
            sum += path_usage(empty_dir_path(v, a, pod, vol->name), INT64_MAX, inodes);
    }
    return sum;
}

bool volumes_need_refresh(const struct core_pod *pod) {
    for (size_t i = 0; i < pod->spec.volumes.n; i++) {
        const struct core_volume *v = &pod->spec.volumes.items[i];
        if (v->config_map || v->secret || v->downward_api || v->projected || v->csi) return true;
        if (v->persistent_volume_claim || v->ephemeral) return true; /* it may have grown */
    }
    return false;
}

int volumes_unmount(struct volumes *v, const char *uid, struct err *e) {
    if (v->kl->fake) return 0;
    static const char *const parts[] = {"volume-subpaths", NULL, "volumes", "volumeDevices"};
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        int r = parts[i] ? path_remove_tree(arena_printf(a, "%s/%s", kubelet_pod_dir(v->kl, a, uid), parts[i]), e)
                         : csi_pod_unmount(v->kl->csi, uid, e);
        if (r < 0) return r;
    }
    return 0;
}

int volumes_forget(struct volumes *v, const char *uid, struct err *e) {
    if (v->kl->fake || str_empty(uid)) return 0;
    _cleanup_arena_ struct arena *a = arena_new();
    int r = volumes_unmount(v, uid, e);
    return r < 0 ? r : path_remove_tree(kubelet_pod_dir(v->kl, a, uid), e);
}
