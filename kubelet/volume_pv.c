/* Volumes that exist outside of a pod: the persistent volume behind a claim, an inline CSI volume, an NFS
 * export. Each comes to the pod as a folder, or as a block device when the volume's mode is Block. A local volume that is a
 * block device is formatted when it is wanted as a folder and has nothing on it.
 *
 * Upstream: pkg/volume/{csi,local,hostpath,nfs}, pkg/kubelet/volumemanager/populator. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "kubelet/csi.h"
#include "kubelet/safepath.h"
#include "kubelet/volumes_internal.h"
#include "pkg/api/quantity.h"
#include "pkg/base/bytes.h"
#include "pkg/json/json.h"

/* ---- programs ---- */

/* Where a program of the system is; NULL: nowhere. */
static const char *program(struct arena *a, const char *name) {
    static const char *const places[] = {"/sbin", "/usr/sbin", "/bin", "/usr/bin"};
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        const char *path = arena_printf(a, "%s/%s", places[i], name);
        if (access(path, X_OK) == 0) return path;
    }
    return NULL;
}

enum { MAX_OUTPUT = 512 };

/* Runs a program to its end: its exit code, and what it wrote to stderr, cut, in `said`. */
static int run_to_end(const char *const *argv, char said[MAX_OUTPUT], struct err *e) {
    int fds[2], status = 0;
    pid_t pid;
    posix_spawn_file_actions_t fa;
    said[0] = '\0';
    if (pipe2(fds, O_CLOEXEC) < 0) return err_errno(e, errno, "pipe");
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_addopen(&fa, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&fa, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&fa, fds[1], 2);
    int r = posix_spawn(&pid, argv[0], &fa, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    close(fds[1]);
    for (size_t n = 0; r == 0 && n + 1 < MAX_OUTPUT;) {
        ssize_t got = read(fds[0], said + n, MAX_OUTPUT - n - 1);
        if (got <= 0) break;
        n += (size_t)got;
        said[n] = '\0';
    }
    close(fds[0]);
    if (r) return err_errno(e, r, "run %s", argv[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    said[strcspn(said, "\n")] = '\0';
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* One that has to succeed. */
static int run_program(const char *const *argv, struct err *e) {
    char said[MAX_OUTPUT];
    int r = run_to_end(argv, said, e);
    return r > 0 ? err_set(e, -EIO, "%s failed (%d): %s", argv[0], r, said) : r;
}

/* ---- NFS ---- */

/* As far as loaded: mount.nfs has tried to load the module before this is asked. */
static bool kernel_has_nfs(void) {
    _cleanup_free_ char *text = NULL;
    return file_read("/proc/filesystems", 65536, &text, NULL) < 0 || strstr(text, "\tnfs");
}

int setup_nfs(struct setup *s, const char *name, const char *server, const char *path, bool read_only,
              const struct str_vec *options, struct err *e) {
    const char *dir =
        arena_printf(s->a, "%s/volumes/kubernetes.io~nfs/%s", kubelet_pod_dir(s->kl, s->a, s->pod->metadata.uid), name);
    s->out->host_path = dir;
    s->out->read_only |= read_only;
    if (path_is_mount(dir)) return 0;
    const char *mount_nfs = program(s->a, "mount.nfs");
    if (!mount_nfs)
        return err_set(e, -ENOTSUP, "this node cannot mount NFS: it has no mount.nfs (Debian's package nfs-common)");
    int r = mkdir_p(dir, 0750);
    if (r < 0) return err_errno(e, r, "mkdir %s", dir);
    const char *opts = read_only ? "ro" : "rw";
    for (size_t i = 0; options && i < options->n; i++) opts = arena_printf(s->a, "%s,%s", opts, options->items[i]);
    if (strchr(server, ':')) server = arena_printf(s->a, "[%s]", server); /* IPv6 */
    const char *const argv[] = {mount_nfs, arena_printf(s->a, "%s:%s", server, path), dir, "-o", opts, NULL};
    r = run_program(argv, e);
    return r < 0 && !kernel_has_nfs() ? err_wrap(e, "this node's kernel has no NFS client") : r;
}

/* ---- devices of the host ---- */

static int use_device(struct setup *s, const char *path, struct err *e) {
    struct stat st;
    char *real = realpath(path, NULL);
    if (!real || stat(real, &st) < 0) {
        free(real);
        return err_errno(e, errno, "block volume %s", path);
    }
    s->out->host_path = arena_strdup(s->a, real);
    free(real);
    if (!S_ISBLK(st.st_mode)) return err_set(e, -EINVAL, "block volume %s is not a block device", path);
    return 0;
}

/* ---- CSI ---- */

static struct csi_secret_ref secret_ref(const struct core_secret_reference *r) {
    return r ? (struct csi_secret_ref){r->namespace, r->name} : (struct csi_secret_ref){0};
}

static int mount_csi(struct setup *s, const struct csi_volume *v, struct err *e) {
    struct csi_mounted m;
    int r = csi_volume_mount(s->kl->csi, s->a, s->pod, v, &m, e);
    if (r < 0) return r;
    s->out->host_path = m.path;
    return m.own_group ? setup_fs_group(s, m.path, e) : 0;
}

int setup_inline_csi(struct setup *s, struct err *e) {
    const struct core_csi_volume_source *c = s->vol->csi;
    uint8_t md[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1];
    unsigned n = 0;
    const char *seed = arena_printf(s->a, "%s%s", s->pod->metadata.uid, s->vol->name);
    EVP_Digest(seed, strlen(seed), md, &n, EVP_sha256(), NULL);
    hex_encode(md, n, hex);
    struct csi_volume v = {.driver = c->driver,
                           .handle = arena_printf(s->a, "csi-%s", hex),
                           .name = s->vol->name,
                           .fs_type = c->fs_type,
                           .attributes = &c->volume_attributes,
                           .read_only = c->read_only && *c->read_only,
                           .inline_ = true};
    if (c->node_publish_secret_ref)
        v.publish_secret = (struct csi_secret_ref){s->pod->metadata.namespace, c->node_publish_secret_ref->name};
    return mount_csi(s, &v, e);
}

/* Tells the claim that its file system has the volume's size now. */
static int claim_resized(struct setup *s, const struct core_persistent_volume_claim *k, const char *size,
                         struct err *e) {
    struct json *doc = json_object(s->a), *status = json_ensure_object(s->a, doc, "status");
    json_set_str(s->a, json_ensure_object(s->a, status, "capacity"), "storage", size);
    json_set(s->a, status, "conditions", json_array(s->a));
    json_set(s->a, json_ensure_object(s->a, status, "allocatedResourceStatuses"), "storage", json_null(s->a));
    char *body = json_text(s->a, doc);
    struct client_opts o = {.subresource = "status"};
    return client_patch(s->kl->client, s->a, &client_persistentvolumeclaims, k->metadata.namespace, k->metadata.name,
                        CLIENT_PATCH_MERGE, body, strlen(body), &o, NULL, e);
}

/* A volume that was made bigger than its claim shows: the file system follows. Not being able to is an event,
 * no reason to keep the pod from running. */
static void follow_size(struct setup *s, const struct core_persistent_volume *pv,
                        const struct core_persistent_volume_claim *k, const struct csi_volume *v) {
    const char *want = str_map_get(&pv->spec.capacity, "storage");
    int64_t bytes = quantity_str_value(want), have = quantity_str_value(str_map_get(&k->status.capacity, "storage"));
    _cleanup_err_ struct err e = {0};
    if (bytes <= have || have <= 0 || v->read_only) return;
    int r = csi_volume_expand(s->kl->csi, s->a, s->pod->metadata.uid, v, bytes, &e);
    if (r == -ENOTSUP) return;
    if (r == 0) r = claim_resized(s, k, want, &e);
    if (r == 0)
        kubelet_event(s->kl, s->pod, NULL, "Normal", "FileSystemResizeSuccessful",
                      "MountVolume.NodeExpandVolume succeeded for volume \"%s\" %s", pv->metadata.name,
                      s->kl->node_name);
    else
        kubelet_event(s->kl, s->pod, NULL, "Warning", "FileSystemResizeFailed",
                      "MountVolume.NodeExpandVolume failed for volume \"%s\": %s", pv->metadata.name, e.msg);
}

static int claim_csi(struct setup *s, const struct core_persistent_volume *pv,
                     const struct core_persistent_volume_claim *k, struct err *e) {
    const struct core_csi_persistent_volume_source *c = pv->spec.csi;
    struct csi_volume v = {.driver = c->driver,
                           .handle = c->volume_handle,
                           .name = pv->metadata.name,
                           .fs_type = c->fs_type,
                           .attributes = &c->volume_attributes,
                           .access_modes = &pv->spec.access_modes,
                           .mount_options = &pv->spec.mount_options,
                           .stage_secret = secret_ref(c->node_stage_secret_ref),
                           .publish_secret = secret_ref(c->node_publish_secret_ref),
                           .expand_secret = secret_ref(c->node_expand_secret_ref),
                           .read_only = c->read_only || s->out->read_only,
                           .block = s->out->is_block};
    int r = mount_csi(s, &v, e);
    if (r == 0) follow_size(s, pv, k, &v);
    return r;
}

/* ---- claims ---- */

/* ReadWriteOncePod: no second pod of this node may have the claim. */
static int check_exclusive(struct setup *s, const struct core_persistent_volume *pv, struct err *e) {
    bool once = false;
    for (size_t i = 0; i < pv->spec.access_modes.n; i++)
        once |= str_eq(pv->spec.access_modes.items[i], "ReadWriteOncePod");
    if (!once || !pv->spec.csi) return 0;
    const char *pods = arena_printf(s->a, "%s/pods", s->kl->cfg.root_dir);
    DIR *d = opendir(pods);
    bool taken = false;
    for (struct dirent *ent; d && !taken && (ent = readdir(d));) {
        if (ent->d_name[0] == '.' || str_eq(ent->d_name, s->pod->metadata.uid)) continue;
        taken = access(arena_printf(s->a, "%s/%s/volumes/kubernetes.io~csi/%s/vol_data.json", pods, ent->d_name,
                                    pv->metadata.name),
                       F_OK) == 0;
    }
    if (d) closedir(d);
    return taken
               ? err_set(e, -EBUSY, "volume uses the ReadWriteOncePod access mode and is already in use by another pod")
               : 0;
}

/* A volume of coracle.io/local-path: its folder is made by its first pod, for whoever that runs as. */
static int make_provisioned(struct setup *s, const struct core_persistent_volume *pv, struct err *e) {
    const char *base = s->kl->cfg.local_path_dir, *path = pv->spec.local->path;
    size_t n = strlen(str_or_empty(base));
    if (!n ||
        !str_eq(str_map_get(&pv->metadata.annotations, "pv.kubernetes.io/provisioned-by"), "coracle.io/local-path"))
        return 0;
    if (strncmp(path, base, n) != 0 || path[n] != '/' || strchr(path + n + 1, '/') || path[n + 1] == '.')
        return err_set(e, -EPERM, "%s is not in %s, where this node has such volumes", path, base);
    int r = mkdir_p(base, 0711);
    if (r < 0) return err_errno(e, r, "mkdir %s", base);
    if (mkdir(path, 0777) < 0) return errno == EEXIST ? 0 : err_errno(e, errno, "mkdir %s", path);
    return chmod(path, 0777) < 0 ? err_errno(e, errno, "chmod %s", path) : 0;
}

/* Whether the device has something on it: 1, 0, or an error. */
static int has_filesystem(struct setup *s, const char *dev, struct err *e) {
    char said[MAX_OUTPUT];
    const char *blkid = program(s->a, "blkid");
    if (!blkid) return err_set(e, -ENOTSUP, "this node has no blkid, to see whether %s is formatted", dev);
    int r = run_to_end((const char *const[]){blkid, "-p", dev, NULL}, said, e);
    if (r == 0 || r == 2) return r == 0;
    return r < 0 ? r : err_set(e, -EIO, "blkid failed (%d) on %s: %s", r, dev, said);
}

static int format(struct setup *s, const char *dev, const char *type, struct err *e) {
    const char *mkfs = program(s->a, arena_printf(s->a, "mkfs.%s", type));
    bool ext = str_has_prefix(type, "ext");
    if (!mkfs) return err_set(e, -ENOTSUP, "this node has no mkfs.%s", type);
    return run_program(
        ext ? (const char *const[]){mkfs, "-F", "-m0", dev, NULL} : (const char *const[]){mkfs, dev, NULL}, e);
}

/* A local volume that is a block device, wanted as a folder: formatted if there is nothing on it, and mounted for this
 * pod; the kernel shares the file system among the mounts of several pods. One pod at a time looks and formats. */
static int mount_device(struct setup *s, const struct core_persistent_volume *pv, const char *dev, struct err *e) {
    const struct core_persistent_volume_spec *v = &pv->spec;
    const char *dir = arena_printf(s->a, "%s/volumes/kubernetes.io~local-volume/%s",
                                   kubelet_pod_dir(s->kl, s->a, s->pod->metadata.uid), pv->metadata.name);
    const char *type = v->local->fs_type, *mount_program = program(s->a, "mount"), *opts = "defaults";
    s->out->host_path = dir;
    if (path_is_mount(dir)) return setup_fs_group(s, dir, e);
    if (!mount_program) return err_set(e, -ENOTSUP, "this node has no mount program");
    _cleanup_close_ int fd = open(dev, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) return err_errno(e, errno, "lock %s", dev);
    int r = has_filesystem(s, dev, e);
    if (r == 0) r = format(s, dev, str_empty(type) ? "ext4" : type, e);
    if (r < 0) return r;
    if ((r = mkdir_p(dir, 0750)) < 0) return err_errno(e, r, "mkdir %s", dir);
    for (size_t i = 0; i < v->mount_options.n; i++) opts = arena_printf(s->a, "%s,%s", opts, v->mount_options.items[i]);
    r = run_program(
        (const char *const[]){mount_program, "-t", str_empty(type) ? "auto" : type, "-o", opts, dev, dir, NULL}, e);
    return r < 0 ? r : setup_fs_group(s, dir, e);
}

static int use_local(struct setup *s, const struct core_persistent_volume *pv, struct err *e) {
    const char *path = pv->spec.local->path;
    char real[PATH_MAX];
    struct stat st;
    int r = make_provisioned(s, pv, e);
    if (r < 0) return r;
    bool found = realpath(path, real) && stat(real, &st) == 0;
    if (found && S_ISBLK(st.st_mode)) return mount_device(s, pv, arena_strdup(s->a, real), e);
    r = setup_host_path(s, path, "Directory", e);
    return r < 0 ? r : setup_fs_group(s, found ? real : path, e);
}

static int use_volume(struct setup *s, const struct core_persistent_volume *pv,
                      const struct core_persistent_volume_claim *k, struct err *e) {
    const struct core_persistent_volume_spec *v = &pv->spec;
    const char *path = v->local ? v->local->path : v->host_path ? v->host_path->path : NULL;
    int r = check_exclusive(s, pv, e);
    if (r < 0) return r;
    if (v->csi) return claim_csi(s, pv, k, e);
    if (path && s->out->is_block) return use_device(s, path, e);
    if (v->nfs && !s->out->is_block)
        return setup_nfs(s, pv->metadata.name, v->nfs->server, v->nfs->path, v->nfs->read_only || s->out->read_only,
                         &v->mount_options, e);
    if (v->host_path) return setup_host_path(s, path, v->host_path->type, e);
    if (v->local) return use_local(s, pv, e);
    return err_set(
        e, -ENOTSUP, "the kind of volume of PV %s is not supported on this node%s", pv->metadata.name,
        s->out->is_block ? " as a block device (CSI, local and hostPath are)" : " (CSI, hostPath, local and NFS are)");
}

int setup_claim(struct setup *s, const char *claim, bool read_only, struct err *e) {
    struct kubelet *kl = s->kl;
    const char *ns = s->pod->metadata.namespace;
    if (!kl->client) return err_set(e, -ENOTCONN, "persistent volume claims need an API server");
    struct core_persistent_volume_claim pvc = {0};
    struct core_persistent_volume pv = {0};
    int r = client_get(kl->client, s->a, &client_persistentvolumeclaims, ns, claim, &pvc, e);
    if (r < 0) return err_wrap(e, "error getting PVC %s", claim);
    if (!str_eq(pvc.status.phase, "Bound") || str_empty(pvc.spec.volume_name))
        return err_set(e, -EAGAIN, "PVC %s/%s has non-bound phase (\"%s\") or empty pvc.Spec.VolumeName", ns, claim,
                       str_or_empty(pvc.status.phase));
    r = client_get(kl->client, s->a, &client_persistentvolumes, NULL, pvc.spec.volume_name, &pv, e);
    if (r < 0) return err_wrap(e, "error getting PV %s", pvc.spec.volume_name);
    if (!pv.spec.claim_ref || !str_eq(pv.spec.claim_ref->uid, pvc.metadata.uid))
        return err_set(e, -EAGAIN, "PV %s is not bound to PVC %s", pv.metadata.name, claim);
    s->out->read_only = read_only;
    s->out->is_block = str_eq(pv.spec.volume_mode, "Block");
    return use_volume(s, &pv, &pvc, e);
}
