/* The shim: an instance, its sandboxes and containers.
 *
 *   ROOT (survives a reboot)                       STATE (runtime state; may be a tmpfs)
 *     images/ blobs/ layers/ tmp/   image.h          sandboxes/ID/{net,ipc,uts,pid}  pinned namespaces
 *     sandboxes/ID/record.json                       sandboxes/ID/shm                tmpfs, /dev/shm of the pod
 *                  resolv.conf hostname hosts        containers/ID/                  bundle: config.json, rootfs, pid, ...
 *     containers/ID/record.json upper/ work/         crun/ exits/ attach/            crun.c
 *                                                    ipam/ADDRESS                    net.c
 *
 * Crash safety: a record is the commit point. It is replaced atomically after what it describes exists, and removed
 * first when things are taken down; folders without a record are leftovers that the next start removes. Containers and
 * their monitors do not depend on the shim's life. Records are not fsynced: after a power failure nothing they describe
 * is left running, and an unreadable record is a leftover.
 *
 * Locks: shim->lock guards the maps, the reference counts and the fields marked (L); it is never held over anything
 * that blocks. An object's `op` mutex serialises what is done to it (start, stop, remove); take op before lock.
 *
 * Corresponds to containerd's CRI plugin. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "cgroup.h"
#include "image.h"
#include "net.h"
#include "pkg/api/cri.h"
#include "pkg/base/flags.h"
#include "pkg/base/map.h"
#include "runtime.h"

enum {
    SHIM_ID = 64,
    SHIM_EVENTS = 1024,         /* events kept for slow listeners */
    EXEC_OUTPUT_MAX = 16 << 20, /* bytes of stdout (and of stderr) that ExecSync returns */
    SHIM_STATUS_MESSAGE_MAX = 1024,
};

struct shim_config {
    const char *listen; /* unix socket */
    const char *root, *state;
    const char *runtime, *monitor, *helper;
    struct flag_list handlers; /* "NAME=PROGRAM": further handlers, for runtime classes */
    const char *pod_cidr, *cluster_cidr, *bridge;
    const char *cgroup_root;
    const char *cni_conf_dir, *cni_bin_dir;
    const char *insecure_registries; /* comma-separated hosts spoken to without TLS */
    const char *registries;          /* file of mirrors and settings (registries.h) */
    int64_t mtu;
};

struct sandbox {
    char id[SHIM_ID + 1];
    unsigned refs; /* (L) */
    bool gone;     /* (L) removed */
    struct arena *arena;
    const struct cri_pod_sandbox_config *config; /* immutable */
    const char *handler;
    const char *dir, *state_dir; /* below ROOT and STATE */
    int64_t created_at;
    pthread_mutex_t op;
    bool ready;            /* (L) */
    bool detached;         /* its network has been taken away; guarded by op */
    char ip[NET_ADDR_MAX]; /* set once, before it is seen by others */
    pid_t pause_pid;       /* with a shared process namespace */
    uint64_t pause_start;
};

struct cpu_sample {
    uint64_t cpu_ns, nano_cores;
    int64_t at_ns;
};

struct container {
    char id[SHIM_ID + 1];
    unsigned refs;           /* (L) */
    bool gone;               /* (L) */
    struct sandbox *sandbox; /* referenced */
    struct arena *arena;
    const struct cri_container_config *config; /* immutable */
    const char *dir, *bundle, *rootfs;
    const char *log_path; /* absolute, or NULL */
    const char *cgroup;
    const char *image_id, *image_ref;
    const char **layers;
    size_t n_layers;
    int stop_signal;
    struct proc_user_ids {
        uint32_t uid, gid;
        struct i64_vec groups;
    } user;
    int64_t created_at;
    pthread_mutex_t op;
    /* (L) from here */
    int32_t state; /* enum cri_container_state */
    int64_t started_at, finished_at;
    int32_t exit_code;
    const char *reason; /* constant */
    char message[SHIM_STATUS_MESSAGE_MAX];
    struct runtime_proc proc;
    bool pid_watched;                                      /* its monitor is gone, so its own pidfd is watched */
    const struct cri_linux_container_resources *resources; /* in the arena; replaced by updates */
    struct cpu_sample cpu;
    uint64_t disk_bytes, disk_inodes;
    int64_t disk_at_ns;
};

struct event {
    uint64_t seq;
    int32_t type;
    int64_t at_ns;
    char id[SHIM_ID + 1], sandbox[SHIM_ID + 1];
};

enum { SHIM_HANDLERS_MAX = 8 };

struct streaming;
struct puller;
struct seccomp_cache;

struct shim {
    struct shim_config cfg;
    struct image_store *images;
    struct puller *puller;
    struct net *net;
    struct runtime *runtime; /* of the handlers "" and "crun" */
    struct shim_handler {
        char *name;
        struct runtime *runtime;
    } handlers[SHIM_HANDLERS_MAX];
    size_t n_handlers;
    struct streaming *streaming;
    struct seccomp_cache *seccomp;
    pthread_mutex_t lock;
    pthread_cond_t changed;           /* a container's state changed, or an event was added */
    struct map sandboxes, containers; /* (L) by id; a reference each */
    struct event events[SHIM_EVENTS]; /* (L) ring */
    uint64_t next_event;              /* (L) */
    pthread_t watcher;
    bool watching;
    int watch_fd, watch_stop; /* exits.c */
    atomic_bool stopping;
};

/* ---- shim.c: the instance ---- */
/* Opens stores, restores what runs, starts the exit watcher. NULL on error. */
struct shim *shim_new(const struct shim_config *cfg, struct err *e);
/* Leaves containers running. NULL-safe, returns NULL. */
struct shim *shim_free(struct shim *s);
/* Kills and removes everything below ROOT and STATE: containers, mounts, pins, links, rules, cgroups, folders. Images
 * stay unless `images`. Needs no running shim and must not have one. */
int shim_cleanup(const struct shim_config *cfg, bool images, struct err *e);
/* The node's pod CIDR, remembered in ROOT: kubelets say it once, not after each restart of the shim. */
int shim_set_pod_cidr(struct shim *s, const char *cidr, struct err *e);
void shim_new_id(char out[SHIM_ID + 1]);

/* ---- lookups; by whole id or unique prefix; a reference the caller drops ---- */
struct sandbox *sandbox_get(struct shim *s, const char *id, struct err *e);
void sandbox_put(struct shim *s, struct sandbox *sb);
struct container *container_get(struct shim *s, const char *id, struct err *e);
void container_put(struct shim *s, struct container *c);
/* All, each with a reference, in the arena. `sandbox` may be NULL. */
void sandbox_all(struct shim *s, struct arena *a, struct sandbox ***items, size_t *n);
void container_all(struct shim *s, struct arena *a, const char *sandbox, struct container ***items, size_t *n);

/* ---- sandbox.c ---- */
int sandbox_run(struct shim *s, const struct cri_pod_sandbox_config *config, const char *handler, char id[SHIM_ID + 1],
                struct err *e);
int sandbox_stop(struct shim *s, struct sandbox *sb, struct err *e);
int sandbox_remove(struct shim *s, struct sandbox *sb, struct err *e);
/* The network part of a sandbox, for net.h; in the arena. */
struct net_pod sandbox_net(struct arena *a, const struct sandbox *sb);
bool sandbox_host_network(const struct sandbox *sb);
/* The user namespace that the sandbox asks for; NULL: the host's. */
const struct cri_user_namespace *sandbox_user(const struct sandbox *sb);
bool sandbox_shared_pid(const struct sandbox *sb);

/* ---- container.c ---- */
int container_create(struct shim *s, struct sandbox *sb, const struct cri_container_config *config,
                     char id[SHIM_ID + 1], struct err *e);
int container_start(struct shim *s, struct container *c, struct err *e);
int container_stop(struct shim *s, struct container *c, int64_t timeout_s, struct err *e);
int container_remove(struct shim *s, struct container *c, struct err *e);
int container_update(struct shim *s, struct container *c, const struct cri_linux_container_resources *r, struct err *e);
/* Called when the monitor has written an exit file, or is gone with the container. */
void container_exited(struct shim *s, struct container *c);
/* Undoes mounts and removes files of a container whose record is gone. */
void container_wipe(struct shim *s, const char *id);

/* ---- exec.c ---- */
int container_exec_sync(struct shim *s, struct container *c, const struct str_vec *cmd, int64_t timeout_s,
                        struct buf *out, struct buf *err, int *exit_code, struct err *e);
/* The OCI process for a command in the container. */
int container_exec_process(struct arena *a, struct container *c, const struct str_vec *cmd, bool tty, struct json **out,
                           struct err *e);

/* ---- record.c ---- */
int sandbox_save(struct shim *s, struct sandbox *sb, struct err *e);
int container_save(struct shim *s, struct container *c, struct err *e);
struct sandbox *sandbox_load(struct shim *s, const char *id, struct err *e);
struct container *container_load(struct shim *s, const char *id, struct err *e);
struct sandbox *sandbox_alloc(struct shim *s, const char *id);
struct container *container_alloc(struct shim *s, const char *id);

/* ---- restore.c ---- */
int shim_restore(struct shim *s, struct err *e);

/* ---- exits.c ---- */
int exits_open(struct shim *s, struct err *e);  /* from here on exits are noted */
int exits_start(struct shim *s, struct err *e); /* and from here on acted upon */
void exits_stop(struct shim *s);
/* Watches a monitor, so that its death without an exit file is noticed. */
void exits_watch(struct shim *s, struct container *c);

/* ---- events.c ---- */
void event_emit(struct shim *s, int32_t type, const char *id, const char *sandbox);
/* Waits at most timeout_ms for events after *seq and copies up to max of them; *seq moves on. */
size_t event_wait(struct shim *s, uint64_t *seq, struct event *out, size_t max, int timeout_ms);

/* ---- status.c: CRI's views, deep copies in the arena ---- */
struct cri_pod_sandbox_status *sandbox_status(struct shim *s, struct arena *a, struct sandbox *sb);
struct cri_container_status *container_status(struct shim *s, struct arena *a, struct container *c);
struct cri_container_stats *container_stats(struct shim *s, struct arena *a, struct container *c);
struct cri_pod_sandbox_stats *sandbox_stats(struct shim *s, struct arena *a, struct sandbox *sb);

/* The runtime of a handler; NULL: no such handler. */
struct runtime *runtime_by_handler(struct shim *s, const char *handler);
/* That of a container's sandbox. */
struct runtime *runtime_of(struct shim *s, const struct container *c);

/* ---- metrics.c ---- */
void metrics_describe(struct arena *a, struct cri_metric_descriptor_vec *out);
void metrics_of_sandbox(struct shim *s, struct arena *a, struct sandbox *sb, struct cri_pod_sandbox_metrics *out);

/* ---- overlay.c ---- */
/* Layers seen through a user namespace (its pin), bound below `dir` for the time of mounting. */
struct overlay_map {
    const char *userns, *dir;
};
/* Mounts a container's rootfs: layers (lowest first), upper and work folders; upper NULL: read-only. `map` may be NULL. */
int overlay_mount(struct shim *s, const char *const *layers, size_t n, const char *upper, const char *work,
                  const char *target, const struct overlay_map *map, struct err *e);

/* ---- pull.c ---- */
/* `config`: the file of registries.h. */
struct puller *puller_new(struct image_store *images, const char *insecure_registries, const char *config);
struct puller *puller_free(struct puller *p);
/* The value of key="..." in a registry's WWW-Authenticate, in the arena; NULL when absent. */
const char *challenge_param(struct arena *a, const char *challenge, const char *key);
/* Pulls; concurrent pulls of one reference share the work. The image's id goes to *id, in the arena. */
int puller_pull(struct puller *p, struct arena *a, const char *image, const struct cri_auth_config *auth,
                const char **id, struct err *e);

/* ---- streaming.c ---- */
struct streaming *streaming_new(struct shim *s, struct err *e);
struct streaming *streaming_free(struct streaming *st);
int streaming_exec(struct streaming *st, struct arena *a, const struct cri_exec_request *r, const char **url,
                   struct err *e);
int streaming_attach(struct streaming *st, struct arena *a, const struct cri_attach_request *r, const char **url,
                     struct err *e);
int streaming_port_forward(struct streaming *st, struct arena *a, const struct cri_port_forward_request *r,
                           const char **url, struct err *e);

/* ---- cri_runtime.c, cri_image.c: the methods ---- */
#include "pkg/grpc/grpc.h"
extern const struct grpc_method cri_runtime_methods[], cri_image_methods[];
extern const size_t cri_runtime_methods_n, cri_image_methods_n;
