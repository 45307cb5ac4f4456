/* See gc.h. */
#include "kubelet/gc.h"

#include <dirent.h>
#include <sys/stat.h>

#include "kubelet/checkpoint.h"
#include "kubelet/pods.h"
#include "kubelet/safepath.h"

enum { LOGS_FAST_MS = 200 };

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
        log_info("removing a pod that is gone", "pod", sb->metadata ? sb->metadata->name : "", "uid", uid, NULL);
        remove_sandbox(kl->rt, a, sb, NULL);
    }
}

static void remove_cgroups(struct cgroups *cg, const char *uid) {
    static const char *const classes[] = {"Guaranteed", "Burstable", "BestEffort"};
    for (size_t k = 0; k < ARRAY_LEN(classes); k++) cgroups_pod_remove(cg, classes[k], uid, NULL);
}

static int remove_runtime_pods(struct runtime *rt, struct cgroups *cg, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_list_pod_sandbox_request req = {0};
    struct cri_list_pod_sandbox_response resp = {0};
    int r = runtime_call(rt, RT_LIST_POD_SANDBOX, a, &req, &resp, e);
    for (size_t i = 0; r == 0 && i < resp.items.n; i++) {
        const char *uid = str_map_get(&resp.items.items[i].labels, LABEL_POD_UID);
        if (!uid) continue;
        r = remove_sandbox(rt, a, &resp.items.items[i], e);
        if (r == 0) remove_cgroups(cg, uid);
    }
    return r;
}

int gc_remove_all(struct runtime *rt, struct cgroups *cg, const char *root_dir, struct err *e) {
    int r = rt ? remove_runtime_pods(rt, cg, e) : 0;
    /* pods that the runtime had not heard of yet: each has a folder from before its cgroup */
    _cleanup_free_ char *dir = xasprintf("%s/pods", root_dir);
    DIR *d = opendir(dir);
    for (struct dirent *ent; d && (ent = readdir(d));)
        if (ent->d_name[0] != '.') remove_cgroups(cg, ent->d_name);
    if (d) closedir(d);
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

/* ---- logs ---- */

struct rotated {
    char *path;
    int64_t size;
};

static int by_name(const void *x, const void *y) {
    return strcmp(((const struct rotated *)x)->path, ((const struct rotated *)y)->path);
}

/* Of the files set aside only as many stay as configured, and no more bytes than so many full ones: a container that
 * writes faster than it is looked at makes big ones. */
static void drop_oldest(struct kubelet *kl, struct arena *a, const char *path) {
    const char *slash = strrchr(path, '/');
    const char *dir = arena_strndup(a, path, (size_t)(slash - path)), *prefix = arena_printf(a, "%s.", slash + 1);
    struct rotated *r = NULL;
    size_t n = 0, cap = 0;
    int64_t bytes = 0;
    DIR *d = opendir(dir);
    for (struct dirent *ent; d && (ent = readdir(d));) {
        struct stat st;
        if (!str_has_prefix(ent->d_name, prefix)) continue;
        const char *file = arena_printf(a, "%s/%s", dir, ent->d_name);
        if (stat(file, &st) < 0) continue;
        ARENA_GROW(a, r, n, cap);
        r[n++] = (struct rotated){arena_strdup(a, file), st.st_size};
        bytes += st.st_size;
    }
    if (d) closedir(d);
    if (n) qsort(r, n, sizeof(*r), by_name);   /* the time is in the name */
    int64_t files = kl->cfg.log_max_files - 1; /* the current file counts */
    for (size_t i = 0; i + (files > 0) < n;
         i++) { /* but the newest stays whatever its size: somebody may want to read it */
        if ((int64_t)(n - i) <= files && bytes <= kl->cfg.log_max_size * files) return;
        unlink(r[i].path);
        bytes -= r[i].size;
    }
}

/* x.log becomes x.log.<time>. */
static void rotate(struct kubelet *kl, struct arena *a, const char *path, const char *id) {
    struct ktime now = ktime_now();
    const char *old = arena_printf(a, "%s.%lld.%03d", path, (long long)now.sec, (int)(now.nsec / NS_PER_MS));
    if (rename(path, old) < 0) return;
    struct cri_reopen_container_log_request req = {.container_id = id};
    struct cri_reopen_container_log_response resp = {0};
    if (runtime_call(kl->rt, RT_REOPEN_CONTAINER_LOG, a, &req, &resp, NULL) < 0)
        rename(old, path);
    else
        drop_oldest(kl, a, path);
}

/* True when the container has written so much that it has to be looked at again soon. */
static bool check_log(struct kubelet *kl, struct arena *a, const struct core_pod *p,
                      const struct core_container_status *c) {
    const char *path = arena_printf(a, "%s/%s/%d.log", kubelet_pod_log_dir(kl, a, p), c->name, c->restart_count);
    struct stat st;
    if (!c->state.running || stat(path, &st) < 0 || st.st_size <= kl->cfg.log_max_size) return false;
    rotate(kl, a, path, status_cri_id(c->container_id));
    return st.st_size > 2 * kl->cfg.log_max_size;
}

int64_t gc_logs(struct kubelet *kl) {
    if (kl->fake || kl->cfg.log_max_size <= 0) return INT64_MAX;
    _cleanup_arena_ struct arena *a = arena_new();
    bool fast = false;
    size_t n;
    struct pod_worker **all = pods_all(kl->pods, &n);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        struct core_pod_status *st = worker_status(all[i], a);
        const struct core_container_status_vec *lists[] = {st ? &st->container_statuses : NULL,
                                                           st ? &st->init_container_statuses : NULL};
        for (size_t l = 0; l < ARRAY_LEN(lists); l++)
            for (size_t k = 0; lists[l] && k < lists[l]->n; k++) fast |= check_log(kl, a, o->obj, &lists[l]->items[k]);
        worker_unref(all[i]);
    }
    free(all);
    return fast ? LOGS_FAST_MS * NS_PER_MS : INT64_MAX;
}
