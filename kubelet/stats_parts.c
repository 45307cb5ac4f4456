/* See stats_parts.h. */
#include "kubelet/stats_parts.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "kubelet/csi.h"
#include "kubelet/pods.h"
#include "kubelet/safepath.h"
#include "pkg/client/volumes.h"
#include "pkg/json/json.h"

enum { MAX_INTERFACES = 32, MAX_DEPTH = 64, MAX_FILES = 200000 };

static void put_now(struct buf *b) {
    char t[KTIME_MAX];
    buf_printf(b, "\"time\":\"%s\"", ktime_format(ktime_now(), t));
}

/* ---- network ---- */

static void put_interface(struct buf *b, const char *name, const unsigned long long n[16]) {
    buf_printf(b, "\"name\":\"%s\",\"rxBytes\":%llu,\"rxErrors\":%llu,\"txBytes\":%llu,\"txErrors\":%llu", name, n[0],
               n[2], n[8], n[10]);
}

void stats_put_network(struct buf *b, pid_t pid) {
    _cleanup_free_ char *path = pid ? xasprintf("/proc/%d/net/dev", (int)pid) : xstrdup("/proc/self/net/dev"),
                        *text = NULL;
    _cleanup_buf_ struct buf list = BUF_INIT, first = BUF_INIT;
    char *save = NULL;
    int count = 0;
    if (file_read(path, 1 << 20, &text, NULL) < 0) return;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *colon = strchr(line, ':'), *name = line + strspn(line, " ");
        unsigned long long n[16];
        if (!colon || strchr(line, '|') || count >= MAX_INTERFACES) continue;
        *colon = '\0';
        char *p = colon + 1;
        for (size_t k = 0; k < ARRAY_LEN(n); k++) n[k] = strtoull(p, &p, 10);
        if (str_eq(name, "lo") || (!pid && str_has_prefix(name, "veth"))) continue;
        buf_adds(&list, count++ ? ",{" : "{");
        put_interface(&list, name, n);
        buf_addc(&list, '}');
        if (!first.len || str_eq(name, "eth0")) {
            first.len = 0;
            put_interface(&first, name, n);
        }
    }
    if (!count) return;
    buf_adds(b, ",\"network\":{");
    put_now(b);
    buf_printf(b, ",%.*s,\"interfaces\":[%.*s]}", (int)first.len, first.data, (int)list.len, list.data);
}

/* ---- files ---- */

struct usage {
    uint64_t bytes, inodes;
};

/* Adds what a tree takes, within one file system; ends early in a tree without end. */
static void walk(int dirfd, const char *name, dev_t dev, int depth, struct usage *u) {
    _cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || depth > MAX_DEPTH || fstat(fd, &st) < 0 || (dev && st.st_dev != dev)) return;
    u->bytes += (uint64_t)st.st_blocks * 512;
    u->inodes++;
    dev = st.st_dev;
    DIR *d = fdopendir(fd);
    if (!d) return;
    int inner = take_fd(&fd);
    for (struct dirent *ent; u->inodes < MAX_FILES && (ent = readdir(d));) {
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        if (fstatat(inner, ent->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) continue;
        if (S_ISDIR(st.st_mode)) {
            walk(inner, ent->d_name, dev, depth + 1, u);
        } else {
            u->bytes += (uint64_t)st.st_blocks * 512;
            u->inodes++;
        }
    }
    closedir(d);
}

static void put_fs(struct buf *b, const char *path, const struct usage *used) {
    struct statvfs fs;
    put_now(b);
    if (statvfs(path, &fs) < 0) return;
    uint64_t size = (uint64_t)fs.f_blocks * fs.f_frsize, have = (uint64_t)fs.f_bavail * fs.f_frsize;
    uint64_t bytes = used ? used->bytes : size - (uint64_t)fs.f_bfree * fs.f_frsize;
    uint64_t inodes = used ? used->inodes : (uint64_t)(fs.f_files - fs.f_ffree);
    buf_printf(b,
               ",\"availableBytes\":%llu,\"capacityBytes\":%llu,\"usedBytes\":%llu,\"inodesFree\":%llu,"
               "\"inodes\":%llu,"
               "\"inodesUsed\":%llu",
               (unsigned long long)have, (unsigned long long)size, (unsigned long long)bytes,
               (unsigned long long)fs.f_ffree, (unsigned long long)fs.f_files, (unsigned long long)inodes);
}

/* ---- volumes ---- */

static const char *plugin_of(const struct core_volume *v) {
    return v->empty_dir                                           ? "empty-dir"
           : v->config_map                                        ? "configmap"
           : v->secret                                            ? "secret"
           : v->projected                                         ? "projected"
           : v->downward_api                                      ? "downward-api"
           : v->persistent_volume_claim || v->ephemeral || v->csi ? "csi"
                                                                  : NULL;
}

/* What a CSI driver says about it; false: nothing. */
static bool put_csi(struct kubelet *kl, struct arena *a, struct buf *b, const char *uid, const char *dir_name) {
    struct csi_node_get_volume_stats_response rs = {0};
    if (csi_volume_stats(kl->csi, a, uid, dir_name, &rs, NULL) < 0) return false;
    put_now(b);
    for (size_t i = 0; i < rs.usage.n; i++) {
        const struct csi_volume_usage *u = &rs.usage.items[i];
        const char *const *names = u->unit == CSI_USAGE_UNIT_INODES
                                       ? (const char *const[]){"inodesFree", "inodes", "inodesUsed"}
                                       : (const char *const[]){"availableBytes", "capacityBytes", "usedBytes"};
        buf_printf(b, ",\"%s\":%lld,\"%s\":%lld,\"%s\":%lld", names[0], (long long)u->available, names[1],
                   (long long)u->total, names[2], (long long)u->used);
    }
    if (rs.volume_condition) {
        buf_adds(b, ",\"volumeHealthStats\":{\"abnormal\":");
        buf_adds(b, rs.volume_condition->abnormal ? "true}" : "false}");
    }
    return true;
}

static void put_volume(struct kubelet *kl, struct arena *a, struct buf *b, const struct core_pod *p,
                       const struct core_volume *v, const char *dir_name) {
    const char *dir = arena_printf(a, "%s/volumes/kubernetes.io~%s/%s", kubelet_pod_dir(kl, a, p->metadata.uid),
                                   plugin_of(v), dir_name);
    const char *path = str_eq(plugin_of(v), "csi") ? arena_printf(a, "%s/mount", dir) : dir;
    bool mount = path_is_mount(path);
    struct usage u = {0};
    if (!mount) walk(AT_FDCWD, path, 0, 0, &u);
    buf_addc(b, '{');
    if (!str_eq(plugin_of(v), "csi") || !put_csi(kl, a, b, p->metadata.uid, dir_name))
        put_fs(b, path, mount ? NULL : &u);
    buf_printf(b, ",\"name\":\"%s\"", v->name);
    const char *claim = volume_claim_name(a, p, v);
    if (claim) buf_printf(b, ",\"pvcRef\":{\"name\":\"%s\",\"namespace\":\"%s\"}", claim, p->metadata.namespace);
    buf_addc(b, '}');
}

/* The CSI folder behind a claim: its PersistentVolume's name, from the API. */
static const char *claim_folder(struct kubelet *kl, struct arena *a, const struct core_pod *p, const char *claim) {
    struct core_persistent_volume_claim k = {0};
    if (!kl->client ||
        client_get(kl->client, a, &client_persistentvolumeclaims, p->metadata.namespace, claim, &k, NULL) < 0)
        return NULL;
    return k.spec.volume_name;
}

void stats_put_volumes(struct kubelet *kl, struct buf *b, const struct core_pod *p) {
    _cleanup_arena_ struct arena *a = arena_new();
    bool first = true;
    for (size_t i = 0; i < p->spec.volumes.n; i++) {
        const struct core_volume *v = &p->spec.volumes.items[i];
        const char *claim = volume_claim_name(a, p, v), *name = claim ? claim_folder(kl, a, p, claim) : v->name;
        if (!plugin_of(v) || !name) continue;
        const char *dir = arena_printf(a, "%s/volumes/kubernetes.io~%s/%s", kubelet_pod_dir(kl, a, p->metadata.uid),
                                       plugin_of(v), name);
        if (access(dir, F_OK) < 0) continue;
        buf_adds(b, first ? ",\"volume\":[" : ",");
        first = false;
        put_volume(kl, a, b, p, v, name);
    }
    if (!first) buf_addc(b, ']');
}

void stats_put_ephemeral_storage(struct kubelet *kl, struct buf *b, const struct core_pod *p, uint64_t layers) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct usage u = {.bytes = layers};
    walk(AT_FDCWD, kubelet_pod_log_dir(kl, a, p), 0, 0, &u);
    for (size_t i = 0; i < p->spec.volumes.n; i++) {
        const struct core_volume *v = &p->spec.volumes.items[i];
        if (!v->empty_dir || !str_empty(v->empty_dir->medium)) continue;
        walk(AT_FDCWD,
             arena_printf(a, "%s/volumes/kubernetes.io~empty-dir/%s", kubelet_pod_dir(kl, a, p->metadata.uid), v->name),
             0, 0, &u);
    }
    buf_adds(b, ",\"ephemeral-storage\":{");
    put_fs(b, kl->cfg.root_dir, &u);
    buf_addc(b, '}');
}

void stats_put_rlimit(struct buf *b) {
    _cleanup_free_ char *max = NULL, *load = NULL;
    long long limit = 0, running = 0;
    if (file_read("/proc/sys/kernel/pid_max", 64, &max, NULL) == 0) limit = strtoll(max, NULL, 10);
    if (file_read("/proc/loadavg", 128, &load, NULL) == 0 && strchr(load, '/'))
        running = strtoll(strchr(load, '/') + 1, NULL, 10);
    buf_adds(b, ",\"rlimit\":{");
    put_now(b);
    buf_printf(b, ",\"maxpid\":%lld,\"curproc\":%lld}", limit, running);
}

/* ---- metrics of claims ---- */

struct claim_numbers {
    const char *ns, *claim;
    uint64_t n[6]; /* in the order of volume_metrics */
};
static const struct {
    const char *name, *help;
} volume_metrics[] = {{"kubelet_volume_stats_available_bytes", "Number of available bytes in the volume"},
                      {"kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume"},
                      {"kubelet_volume_stats_used_bytes", "Number of used bytes in the volume"},
                      {"kubelet_volume_stats_inodes_free", "Number of free inodes in the volume"},
                      {"kubelet_volume_stats_inodes", "Maximum number of inodes in the volume"},
                      {"kubelet_volume_stats_inodes_used", "Number of used inodes in the volume"}};

static bool measure_claim(struct kubelet *kl, struct arena *a, const struct core_pod *p, const char *claim,
                          struct claim_numbers *out) {
    const char *name = claim_folder(kl, a, p, claim);
    struct csi_node_get_volume_stats_response rs = {0};
    struct statvfs fs;
    *out = (struct claim_numbers){.ns = arena_strdup(a, p->metadata.namespace), .claim = arena_strdup(a, claim)};
    if (!name) return false;
    const char *path =
        arena_printf(a, "%s/volumes/kubernetes.io~csi/%s/mount", kubelet_pod_dir(kl, a, p->metadata.uid), name);
    if (csi_volume_stats(kl->csi, a, p->metadata.uid, name, &rs, NULL) == 0) {
        for (size_t i = 0; i < rs.usage.n; i++) {
            const struct csi_volume_usage *u = &rs.usage.items[i];
            uint64_t *to = out->n + (u->unit == CSI_USAGE_UNIT_INODES ? 3 : 0);
            to[0] = (uint64_t)u->available, to[1] = (uint64_t)u->total, to[2] = (uint64_t)u->used;
        }
        return rs.usage.n > 0;
    }
    if (statvfs(path, &fs) < 0) return false;
    out->n[0] = (uint64_t)fs.f_bavail * fs.f_frsize;
    out->n[1] = (uint64_t)fs.f_blocks * fs.f_frsize;
    out->n[2] = out->n[1] - (uint64_t)fs.f_bfree * fs.f_frsize;
    out->n[3] = (uint64_t)fs.f_ffree;
    out->n[4] = (uint64_t)fs.f_files;
    out->n[5] = out->n[4] - out->n[3];
    return true;
}

void stats_put_volume_metrics(struct kubelet *kl, struct buf *b) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct claim_numbers *all = NULL;
    size_t n = 0, cap = 0, count;
    struct pod_worker **workers = pods_all(kl->pods, &count);
    for (size_t i = 0; i < count; i++) {
        _cleanup_object_ struct object *o = worker_pod(workers[i]);
        const struct core_pod *p = o->obj;
        for (size_t k = 0; workers[i]->state < WORKER_TERMINATED && k < p->spec.volumes.n; k++) {
            const char *claim = volume_claim_name(a, p, &p->spec.volumes.items[k]);
            ARENA_GROW(a, all, n, cap);
            if (claim && measure_claim(kl, a, p, claim, &all[n])) n++;
        }
        worker_unref(workers[i]);
    }
    free(workers);
    for (size_t m = 0; n && m < ARRAY_LEN(volume_metrics); m++) {
        buf_printf(b, "# HELP %s %s\n# TYPE %s gauge\n", volume_metrics[m].name, volume_metrics[m].help,
                   volume_metrics[m].name);
        for (size_t i = 0; i < n; i++)
            buf_printf(b, "%s{namespace=\"%s\",persistentvolumeclaim=\"%s\"} %llu\n", volume_metrics[m].name, all[i].ns,
                       all[i].claim, (unsigned long long)all[i].n[m]);
    }
}
