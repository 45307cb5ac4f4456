/* See checkpoint.h. */
#include "kubelet/checkpoint.h"

#include <dirent.h>

enum { MAX_POD = 4 * 1024 * 1024 };

static char *dir_of(struct kubelet *kl) { return xasprintf("%s/checkpoints/pods", kl->cfg.root_dir); }

void checkpoint_write(struct kubelet *kl, const struct core_pod *pod, const struct core_pod_status *status) {
    if (kl->fake || !kl->cfg.offline_cache || pod_is_static(pod)) return;
    /* Of the status only what must survive: an end, and since when the pod has been here. */
    struct core_pod p = *pod;
    p.status = (struct core_pod_status){.phase = phase_terminal(status->phase) ? status->phase : "Pending",
                                        .start_time = status->start_time,
                                        .qos_class = status->qos_class};
    p.metadata.resource_version = NULL; /* changes with every status and says nothing here */
    p.metadata.managed_fields = (struct meta_managed_fields_entry_vec){0};
    _cleanup_buf_ struct buf b = BUF_INIT;
    api_to_json(&b, &api_core_pod, &p);
    _cleanup_free_ char *dir = dir_of(kl), *path = xasprintf("%s/%s.json", dir, pod->metadata.uid), *have = NULL;
    size_t n;
    if (file_read(path, MAX_POD, &have, &n) == 0 && n == b.len && memcmp(have, b.data, n) == 0) return;
    int r = mkdir_p(dir, 0700);
    if (r == 0) r = file_write_atomic(path, b.data, b.len, 0600);
    if (r < 0) log_warn("cannot write a pod's checkpoint", "pod", pod->metadata.name, "error", strerror(-r), NULL);
}

void checkpoint_delete(struct kubelet *kl, const char *uid) {
    if (kl->fake || strchr(uid, '/')) return;
    _cleanup_free_ char *dir = dir_of(kl), *path = xasprintf("%s/%s.json", dir, uid);
    unlink(path);
}

void checkpoint_each(struct kubelet *kl, void (*fn)(void *arg, struct object *pod), void *arg) {
    if (kl->fake) return;
    _cleanup_free_ char *dir = dir_of(kl);
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (!str_has_suffix(ent->d_name, ".json")) continue;
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, ent->d_name), *text = NULL;
        _cleanup_arena_ struct arena *a = arena_new();
        struct core_pod pod = {0};
        size_t n;
        if (file_read(path, MAX_POD, &text, &n) < 0) continue;
        if (api_from_json(a, &api_core_pod, text, n, &pod, NULL) < 0 || str_empty(pod.metadata.uid)) continue;
        _cleanup_object_ struct object *o = object_new(&client_pods, &pod);
        fn(arg, o);
    }
    closedir(d);
}
