/* See gc.h. */
#include "kubelet/gc.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "kubelet/checkpoint.h"
#include "kubelet/node.h"
#include "kubelet/pods.h"
#include "kubelet/safepath.h"

/* ---- orphans ---- */

static bool known(struct kubelet *kl, const char *uid) {
    struct pod_worker *w = pods_get(kl->pods, uid);
    worker_unref(w);
    return w != NULL;
}

/* Containers and sandbox: stopped with a short grace, then removed. */
static int remove_sandbox(struct runtime *rt, struct arena *a, const struct cri_pod_sandbox *sb, struct err *e) {
    struct rt_pod pod;
    int r = runtime_pod_read(rt, a, str_map_get(&sb->labels, LABEL_POD_UID), &pod, e);
    for (size_t k = 0; r == 0 && k < pod.n_containers; k++) {
        struct cri_stop_container_request stop = {.container_id = pod.containers[k].id, .timeout = 2};
        struct cri_stop_container_response stopped = {0};
        struct cri_remove_container_request rm = {.container_id = pod.containers[k].id};
        struct cri_remove_container_response removed = {0};
        if (pod.containers[k].state == CRI_CONTAINER_STATE_CONTAINER_RUNNING)
            runtime_call(rt, RT_STOP_CONTAINER, a, &stop, &stopped, NULL);
        runtime_call(rt, RT_REMOVE_CONTAINER, a, &rm, &removed, NULL);
    }
    struct cri_stop_pod_sandbox_request stop = {.pod_sandbox_id = sb->id};
    struct cri_stop_pod_sandbox_response stopped = {0};
    struct cri_remove_pod_sandbox_request rm = {.pod_sandbox_id = sb->id};
    struct cri_remove_pod_sandbox_response removed = {0};
    if (r == 0) r = runtime_call(rt, RT_STOP_POD_SANDBOX, a, &stop, &stopped, e);
    if (r == 0) r = runtime_call(rt, RT_REMOVE_POD_SANDBOX, a, &rm, &removed, e);
    return r;
}

static void orphan_sandboxes(struct kubelet *kl, struct arena *a) {
    struct cri_list_pod_sandbox_request req = {0};
    struct cri_list_pod_sandbox_response resp = {0};
    if (runtime_call(kl->rt, RT_LIST_POD_SANDBOX, a, &req, &resp, NULL) < 0) return;
    for (size_t i = 0; i < resp.items.n; i++) {
        const struct cri_pod_sandbox *sb = &resp.items.items[i];
        const char *uid = str_map_get(&sb->labels, LABEL_POD_UID);
        if (!uid || known(kl, uid)) continue; /* without our label it is somebody else's */
        log_info("removing a pod that is gone", "pod", sb->metadata ? sb->metadata->name : "", "uid", uid,
                 NULL);
        remove_sandbox(kl->rt, a, sb, NULL);
    }
}

int gc_remove_all(struct runtime *rt, struct cgroups *cg, struct err *e) {
    static const char *const classes[] = {"Guaranteed", "Burstable", "BestEffort"};
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_list_pod_sandbox_request req = {0};
    struct cri_list_pod_sandbox_response resp = {0};
    int r = runtime_call(rt, RT_LIST_POD_SANDBOX, a, &req, &resp, e);
    for (size_t i = 0; r == 0 && i < resp.items.n; i++) {
        const char *uid = str_map_get(&resp.items.items[i].labels, LABEL_POD_UID);
        if (!uid) continue;
        r = remove_sandbox(rt, a, &resp.items.items[i], e);
        for (size_t k = 0; r == 0 && k < ARRAY_LEN(classes); k++) cgroups_pod_remove(cg, classes[k], uid, NULL);
    }
    if (r == 0) cgroups_teardown(cg);
    return r;
}

/* Folders <root>/pods/<uid>, and <logs>/<ns>_<name>_<uid> of this node's. */
static void orphan_folders(struct kubelet *kl) {
    _cleanup_free_ char *dir = xasprintf("%s/pods", kl->cfg.root_dir);
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (ent->d_name[0] == '.' || known(kl, ent->d_name)) continue;
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, ent->d_name);
        _cleanup_err_ struct err e = {0};
        if (volumes_forget(kl->volumes, ent->d_name, &e) < 0)
            log_warn("cannot remove a pod's folder", "path", path, "error", e.msg, NULL);
        /* Logs live in a place that several kubelets may share: only those whose pod folder was ours go. */
        DIR *logs = opendir(kl->cfg.pod_logs_dir);
        for (struct dirent *l; logs && (l = readdir(logs));) {
            if (!str_has_suffix(l->d_name, ent->d_name)) continue;
            _cleanup_free_ char *log = xasprintf("%s/%s", kl->cfg.pod_logs_dir, l->d_name);
            path_remove_tree(log, NULL);
        }
        if (logs) closedir(logs);
    }
    closedir(d);
}

static void orphan_cgroup(void *arg, const char *qos, const char *uid) {
    struct kubelet *kl = arg;
    /* Only pods that had a folder here: another kubelet may share the machine. */
    if (known(kl, uid)) return;
    _cleanup_free_ char *marker = xasprintf("%s/pods/%s", kl->cfg.root_dir, uid);
    if (access(marker, F_OK) == 0) cgroups_pod_remove(kl->cgroups, qos, uid, NULL);
}

/* A checkpoint whose pod the sources no longer have. */
static void orphan_checkpoint(void *arg, struct object *pod) {
    struct kubelet *kl = arg;
    if (!known(kl, pod->meta->uid)) checkpoint_delete(kl, pod->meta->uid);
}

void gc_orphans(struct kubelet *kl) {
    _cleanup_arena_ struct arena *a = arena_new();
    orphan_sandboxes(kl, a);
    if (kl->fake) return;
    /* Without an API server the checkpoints are the source. */
    if (kl->client) checkpoint_each(kl, orphan_checkpoint, kl);
    cgroups_each_pod(kl->cgroups, orphan_cgroup, kl);
    orphan_folders(kl);
}

/* ---- images ---- */

static int used_percent(const char *path) {
    struct statvfs fs;
    if (statvfs(path, &fs) < 0 || !fs.f_blocks) return 0;
    return (int)(100 - (uint64_t)fs.f_bavail * 100 / fs.f_blocks);
}

static bool image_in_use(const struct cri_image *img, const struct cri_list_containers_response *containers) {
    for (size_t i = 0; i < containers->containers.n; i++) {
        const struct cri_container *c = &containers->containers.items[i];
        if (str_eq(c->image_ref, img->id) || str_eq(c->image_id, img->id) ||
            (c->image && str_eq(c->image->image, img->id)))
            return true;
        for (size_t k = 0; k < img->repo_tags.n; k++)
            if (c->image && str_eq(c->image->image, img->repo_tags.items[k])) return true;
        for (size_t k = 0; k < img->repo_digests.n; k++)
            if (str_eq(c->image_ref, img->repo_digests.items[k])) return true;
    }
    return false;
}

void gc_images(struct kubelet *kl) {
    if (kl->fake) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_image_fs_info_request freq = {0};
    struct cri_image_fs_info_response fs = {0};
    if (runtime_call(kl->rt, RT_IMAGE_FS_INFO, a, &freq, &fs, NULL) < 0 || !fs.image_filesystems.n) return;
    const char *mount =
        fs.image_filesystems.items[0].fs_id ? fs.image_filesystems.items[0].fs_id->mountpoint : NULL;
    if (!mount || used_percent(mount) < kl->cfg.image_gc_high) return;
    struct cri_list_images_request ireq = {0};
    struct cri_list_images_response images = {0};
    struct cri_list_containers_request creq = {0};
    struct cri_list_containers_response containers = {0};
    if (runtime_call(kl->rt, RT_LIST_IMAGES, a, &ireq, &images, NULL) < 0) return;
    if (runtime_call(kl->rt, RT_LIST_CONTAINERS, a, &creq, &containers, NULL) < 0) return;
    for (size_t i = 0; i < images.images.n && used_percent(mount) > kl->cfg.image_gc_low; i++) {
        const struct cri_image *img = &images.images.items[i];
        if (img->pinned || image_in_use(img, &containers)) continue;
        struct cri_image_spec spec = {.image = img->id};
        struct cri_remove_image_request req = {.image = &spec};
        struct cri_remove_image_response resp = {0};
        if (runtime_call(kl->rt, RT_REMOVE_IMAGE, a, &req, &resp, NULL) == 0)
            log_info("removed an unused image", "image", img->repo_tags.n ? img->repo_tags.items[0] : img->id,
                     NULL);
    }
}

/* ---- logs ---- */

/* x.log becomes x.log.<time>; only the newest files stay. */
static void rotate(struct kubelet *kl, struct arena *a, const char *path, const char *id) {
    struct ktime now = ktime_now();
    const char *old = arena_printf(a, "%s.%lld", path, (long long)now.sec);
    if (rename(path, old) < 0) return;
    struct cri_reopen_container_log_request req = {.container_id = id};
    struct cri_reopen_container_log_response resp = {0};
    if (runtime_call(kl->rt, RT_REOPEN_CONTAINER_LOG, a, &req, &resp, NULL) < 0) {
        rename(old, path);
        return;
    }
    const char *slash = strrchr(path, '/');
    char *dir = arena_strndup(a, path, (size_t)(slash - path));
    const char *prefix = arena_printf(a, "%s.", slash + 1);
    for (;;) { /* the oldest goes until the number is right: the current file counts */
        DIR *d = opendir(dir);
        if (!d) return;
        char *oldest = NULL;
        int64_t n = 0;
        for (struct dirent *ent; (ent = readdir(d));) {
            if (!str_has_prefix(ent->d_name, prefix)) continue;
            n++;
            if (!oldest || strcmp(ent->d_name, strrchr(oldest, '/') + 1) < 0)
                oldest = arena_printf(a, "%s/%s", dir, ent->d_name);
        }
        closedir(d);
        if (n <= kl->cfg.log_max_files - 1 || !oldest || unlink(oldest) < 0) return;
    }
}

void gc_logs(struct kubelet *kl) {
    if (kl->fake || kl->cfg.log_max_size <= 0) return;
    _cleanup_arena_ struct arena *a = arena_new();
    size_t n;
    struct pod_worker **all = pods_all(kl->pods, &n);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        struct core_pod_status *st = worker_status(all[i], a);
        const struct core_container_status_vec *lists[] = {st ? &st->container_statuses : NULL,
                                                           st ? &st->init_container_statuses : NULL};
        for (size_t l = 0; l < ARRAY_LEN(lists); l++)
            for (size_t k = 0; lists[l] && k < lists[l]->n; k++) {
                const struct core_container_status *c = &lists[l]->items[k];
                const char *path = arena_printf(a, "%s/%s/%d.log", kubelet_pod_log_dir(kl, a, o->obj),
                                                c->name, c->restart_count);
                struct stat sb;
                if (c->state.running && stat(path, &sb) == 0 && sb.st_size > kl->cfg.log_max_size)
                    rotate(kl, a, path, status_cri_id(c->container_id));
            }
        worker_unref(all[i]);
    }
    free(all);
}

/* ---- eviction ---- */

static int64_t memory_available(void) {
    _cleanup_free_ char *text = NULL;
    if (file_read("/proc/meminfo", 65536, &text, NULL) < 0) return INT64_MAX;
    char *s = strstr(text, "MemAvailable:");
    return s ? strtoll(s + strlen("MemAvailable:"), NULL, 10) * 1024 : INT64_MAX;
}

/* Who goes first: pods beyond their requests before others, low priority before high, big before small. */
static struct pod_worker *choose_victim(struct kubelet *kl, struct pod_worker **all, size_t n) {
    struct pod_worker *best = NULL;
    int best_rank = 0;
    int64_t best_priority = 0, best_use = 0;
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        const struct core_pod *p = o->obj;
        if (pod_is_critical(p) || all[i]->state != WORKER_SYNC) continue;
        const char *qos = pod_qos_class(p);
        _cleanup_free_ char *path = xasprintf("/kubepods%s/pod%s",
                                              str_eq(qos, "BestEffort")  ? "/besteffort"
                                              : str_eq(qos, "Burstable") ? "/burstable"
                                                                         : "",
                                              all[i]->uid);
        struct cgroup_usage u = {0};
        if (kl->cgroups) cgroups_usage(kl->cgroups, path, &u);
        int64_t over = (int64_t)u.memory_working_set - quantity_value(pod_resource(p, "memory", false, NULL));
        int64_t priority = p->spec.priority ? *p->spec.priority : 0;
        int rank = over > 0 ? 1 : 0;
        bool better = !best || rank > best_rank ||
                      (rank == best_rank &&
                       (priority < best_priority || (priority == best_priority && over > best_use)));
        if (!better) continue;
        best = all[i];
        best_rank = rank;
        best_priority = priority;
        best_use = over;
    }
    return best;
}

static void evict_one(struct kubelet *kl, const char *resource) {
    size_t n;
    struct pod_worker **all = pods_all(kl->pods, &n);
    struct pod_worker *w = choose_victim(kl, all, n);
    if (w) {
        char text[160];
        snprintf(text, sizeof(text), "The node was low on resource: %s. ", resource);
        _cleanup_object_ struct object *o = worker_pod(w);
        kubelet_event(kl, o->obj, NULL, "Warning", "Evicted", "%s", text);
        pods_evict(kl->pods, w->uid, "Evicted", text, 0);
    }
    for (size_t i = 0; i < n; i++) worker_unref(all[i]);
    free(all);
}

/* Pods whose emptyDirs have outgrown their limits. */
static void evict_oversized(struct kubelet *kl) {
    size_t n;
    struct pod_worker **all = pods_all(kl->pods, &n);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        const char *name = all[i]->state == WORKER_SYNC ? volumes_over_limit(kl->volumes, o->obj) : NULL;
        if (name) {
            char text[300];
            snprintf(text, sizeof(text), "Usage of EmptyDir volume \"%s\" exceeds its sizeLimit. ", name);
            kubelet_event(kl, o->obj, NULL, "Warning", "Evicted", "%s", text);
            pods_evict(kl->pods, all[i]->uid, "Evicted", text, 0);
        }
        worker_unref(all[i]);
    }
    free(all);
}

void gc_evict(struct kubelet *kl) {
    if (kl->fake) return;
    evict_oversized(kl);
    int64_t total = quantity_str_value(str_map_get(node_capacity(kl->node), "memory"));
    int64_t limit = node_eviction_threshold(kl->cfg.eviction_hard, "memory.available", total);
    bool memory = limit > 0 && memory_available() < limit;
    node_set_pressure(kl->node, PRESSURE_MEMORY, memory);
    if (memory) evict_one(kl, "memory");
    struct statvfs fs;
    if (statvfs(kl->cfg.root_dir, &fs) < 0) return;
    int64_t size = (int64_t)(fs.f_blocks * fs.f_frsize), have = (int64_t)(fs.f_bavail * fs.f_frsize);
    limit = node_eviction_threshold(kl->cfg.eviction_hard, "nodefs.available", size);
    bool disk = limit > 0 && have < limit;
    node_set_pressure(kl->node, PRESSURE_DISK, disk);
    if (disk) gc_images(kl);
}
