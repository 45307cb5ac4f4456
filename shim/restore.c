/* Learning again, after a start, what exists: records are read; what they say is compared with what is there; what is
 * there without a record is removed.
 *
 *   record says     what is found                              what is done
 *   ------------    ----------------------------------------   ---------------------------------------------------
 *   sandbox ready   a pin or the pause process is missing      not ready (a reboot, or somebody's umount)
 *   created         a monitor was started, its pid not noted   killed; the container stays created
 *   running         alive                                      watched; started if the shim died just before
 *   running         exit file                                  exited, with its code and time
 *   running         neither                                    exited, code 255, reason Unknown
 *   exited          leftovers of the run                       removed */
#include <signal.h>
#include <sys/mount.h>

#include "ns.h"
#include "proc.h"
#include "shim.h"

static bool sandbox_intact(const struct sandbox *sb) {
    if (!ns_pinned(sb->state_dir, "uts")) return false;
    if (!sandbox_host_network(sb) && !ns_pinned(sb->state_dir, "net")) return false;
    return !sandbox_shared_pid(sb) || proc_alive(sb->pause_pid, sb->pause_start);
}

/* A folder of a sandbox without record: the crash came before the record, or during removal. */
static void wipe_sandbox(struct shim *s, const char *id) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *state = arena_printf(a, "%s/sandboxes/%s", s->cfg.state, id);
    ns_remove(state);
    fs_unpin(arena_printf(a, "%s/shm", state));
    fs_rm_rf(state);
    fs_rm_rf(arena_printf(a, "%s/sandboxes/%s", s->cfg.root, id));
}

static void restore_sandboxes(struct shim *s, struct arena *a, const char *dir) {
    const char **names;
    size_t n;
    fs_list(a, dir, &names, &n);
    for (size_t i = 0; i < n; i++) {
        if (!is_hex_id(names[i], SHIM_ID) || map_has(&s->sandboxes, names[i])) continue;
        struct sandbox *sb = sandbox_load(s, names[i], NULL);
        if (!sb) {
            wipe_sandbox(s, names[i]);
            continue;
        }
        map_put(&s->sandboxes, sb->id, sb);
        if (sb->ready && !sandbox_intact(sb)) {
            sb->ready = false;
            sandbox_save(s, sb, NULL);
        }
    }
}

static void restore_created(struct shim *s, struct container *c) {
    char path[4096];
    uint64_t pid;
    snprintf(path, sizeof(path), "%s/pid", c->bundle);
    if (fs_read_u64(path, &pid) == 0) { /* made, but the record never said so */
        cgroup_kill(c->cgroup, SIGKILL);
        runtime_delete(runtime_of(s, c), c->id, c->cgroup);
        unlink(path);
    }
    if (fs_is_mount(c->rootfs)) return;
    c->state = CRI_CONTAINER_STATE_CONTAINER_EXITED; /* a reboot: its mounts and namespaces are gone */
    c->reason = "Unknown";
    c->exit_code = 255;
    c->finished_at = c->created_at;
    container_save(s, c, NULL);
}

static void restore_running(struct shim *s, struct container *c) {
    int code;
    int64_t at;
    bool oom, done = runtime_exit_status(runtime_of(s, c), c->id, c->bundle, &code, &at, &oom);
    if (done || !proc_alive(c->proc.pid, c->proc.pid_start)) {
        if (!done && proc_alive(c->proc.monitor, c->proc.monitor_start)) {
            exits_watch(s, c); /* the monitor is about to say how it ended */
            return;
        }
        container_exited(s, c);
        return;
    }
    runtime_start(runtime_of(s, c), c->id, NULL); /* fails, as it should, when it has been started */
    exits_watch(s, c);
}

static void restore_container(struct shim *s, struct container *c) {
    image_store_hold(s->images, c->layers, c->n_layers);
    map_put(&s->containers, c->id, c);
    switch (c->state) {
        case CRI_CONTAINER_STATE_CONTAINER_CREATED: restore_created(s, c); break;
        case CRI_CONTAINER_STATE_CONTAINER_RUNNING: restore_running(s, c); break;
        default: runtime_delete(runtime_of(s, c), c->id, c->cgroup); fs_unpin(c->rootfs);
    }
}

static void restore_containers(struct shim *s, struct arena *a, const char *dir) {
    const char **names;
    size_t n;
    fs_list(a, dir, &names, &n);
    for (size_t i = 0; i < n; i++) {
        if (!is_hex_id(names[i], SHIM_ID) || map_has(&s->containers, names[i])) continue;
        struct container *c = container_load(s, names[i], NULL);
        if (c)
            restore_container(s, c);
        else
            container_wipe(s, names[i]);
    }
}

int shim_restore(struct shim *s, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *bases[] = {s->cfg.root, s->cfg.state};
    for (size_t i = 0; i < ARRAY_LEN(bases); i++) restore_sandboxes(s, a, arena_printf(a, "%s/sandboxes", bases[i]));
    for (size_t i = 0; i < ARRAY_LEN(bases); i++) restore_containers(s, a, arena_printf(a, "%s/containers", bases[i]));
    net_gc(s->net, &s->sandboxes);
    image_store_gc(s->images);
    return 0;
}
