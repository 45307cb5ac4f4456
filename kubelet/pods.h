/* The pods of this node: one worker each, found by uid. Sources (the API, manifest files, checkpoints) put
 * pods in and take them out; the runtime, the prober and timers wake the workers.
 *
 * A worker is a thread while its pod has something to wait for; a pod that has ended and only lingers for its
 * logs has none. All decisions about one pod are made by its own thread, in straight-line code (sync.c).
 *
 * Upstream: pkg/kubelet/pod_workers.go, pkg/kubelet/pod. */
#pragma once

#include "kubelet/images.h"
#include "kubelet/podspec.h"
#include "kubelet/prober.h"
#include "kubelet/status_manager.h"
#include "kubelet/volumes.h"

enum worker_state {
    WORKER_SYNC,        /* the pod is to run */
    WORKER_TERMINATING, /* its containers are being stopped */
    WORKER_TERMINATED,  /* nothing runs any more; logs and status are kept until the pod is deleted */
    WORKER_GONE,        /* nothing of it is left */
};

/* What the worker remembers of one container between syncs. */
struct container_track {
    struct container_track *next;
    char *name;
    struct backoff restart;
    struct image_track image;
    char *reason, *message; /* why it does not run; NULL: no reason */
    int64_t retry_at;       /* mono: not before, after an error of configuration or creation */
    int32_t next_restart;   /* restart count of the next instance, after all were removed; 0: the runtime knows */
};

struct pod_worker {
    struct kubelet *kl;
    struct pods *pods;
    char *uid;
    _Atomic unsigned refs;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    /* under the lock */
    struct object *pod; /* the newest */
    bool wake, removed, running;
    int64_t due;              /* mono time of the next sync; 0: none */
    const char *forced_phase; /* set once: the pod ends for a reason outside of its containers */
    char *forced_reason, *forced_message;
    int64_t forced_grace; /* seconds; -1: the pod's own */
    _Atomic enum worker_state state; /* written under the lock, read without it too */
    struct arena *status_arena; /* of `status`, the last one computed */
    struct core_pod_status *status;
    bool accepted;                 /* counts against the node's resources */
    _Atomic bool metadata_changed; /* labels or annotations: the downward API shows them */
    /* only the worker's thread */
    struct arena *arena;
    struct container_track *tracks;
    bool resourced; /* it has its devices, CPUs and memory (cm/cm.h) */
    bool was_terminating, cgroup_made, restarting_all, start_noted;
    int64_t seen_at;                      /* mono */
    struct arena *allocated_arena;        /* of `allocated`; NULL: not known yet */
    struct allocated *allocated;          /* resources by container (resize.c) */
    struct cgroup_limits pod_limits;      /* of its cgroup, as they were set last */
    bool resizing;                        /* a resize has begun and has not been told to be complete */
    char *resize_reason, *resize_message; /* why a resize is pending; NULL: none is */
    char *resize_error;                   /* what the runtime said to the last one; NULL: nothing */
    int64_t volumes_at;                   /* mono: next refresh */
    int64_t volumes_wait;                 /* mono: since when a volume is waited for; 0: none is */
    char *old_notes;
};

struct pods *pods_new(struct kubelet *kl);
/* Stops and joins all workers; their pods go on running. */
void pods_free(struct pods *p);

/* A new pod or a new version of one. */
void pods_update(struct pods *p, struct object *pod);
/* Its source no longer has it: it is stopped and forgotten. `last` (may be NULL) is its last version. */
void pods_remove(struct pods *p, const char *uid, struct object *last);
void pods_wake(struct pods *p, const char *uid);
/* Ends a pod for a reason of the node's (Evicted ...). grace -1: the pod's own. */
void pods_evict(struct pods *p, const char *uid, const char *reason, const char *message, int64_t grace);

/* Refuses a pod that was accepted before, when nothing of it has been started. */
void pods_reject(struct pod_worker *w, const char *reason, const char *message);

/* With a reference (worker_unref), or NULL. */
struct pod_worker *pods_get(struct pods *p, const char *uid);
struct pod_worker *pods_by_name(struct pods *p, const char *ns, const char *name);
void worker_unref(struct pod_worker *w);
/* True while another pod of this name has containers that may run: a changed static pod waits for its
 * predecessor. */
bool pods_name_taken(struct pods *p, const struct pod_worker *w, const char *key);
/* All workers, each with a reference; free the array. */
struct pod_worker **pods_all(struct pods *p, size_t *n);
/* The newest pod object, with a reference. */
struct object *worker_pod(struct pod_worker *w);
/* A copy of the last status in `a`; NULL when none was computed yet. */
struct core_pod_status *worker_status(struct pod_worker *w, struct arena *a);
void worker_kick(struct pod_worker *w);

/* ---- between the files of the worker ---- */

/* One run of the pod's state machine (sync.c). Returns nanoseconds until it wants to run again, 0: when
 * woken. */
int64_t worker_sync(struct pod_worker *w);
struct container_track *worker_track(struct pod_worker *w, const char *container);
void track_note(struct container_track *t, const char *reason, const char *message);

/* A sync in progress. */
struct sync {
    struct pod_worker *w;
    struct kubelet *kl;
    struct arena *a;
    struct object *obj;
    const struct core_pod *pod;
    struct rt_pod rt;
    struct mounted_volumes volumes;
    bool volumes_up;
    const struct cri_pod_sandbox_config *sandbox_config;
    bool resize_refused; /* a limit would be below what is in use */
    bool new_userns;     /* this sync made its sandbox, with a user namespace */
    int64_t next;        /* ns until another sync is wanted; 0: none */
};
void sync_again_in(struct sync *s, int64_t ns);
/* Reads the runtime's view anew and tells the prober. */
int sync_read(struct sync *s, struct err *e);
/* Computes the status and hands it on. */
void sync_publish(struct sync *s, bool all_stopped);
/* The pod's first address (the node's for the host network), or NULL. */
const char *sync_pod_ip(struct sync *s);
/* True when the pod is to end: the current work can be left. */
bool sync_interrupted(void *sync);

/* A container's rule may ask for all to be restarted (restart_all.c). False: this round of the sync ends here. */
bool sync_restart_all(struct sync *s);
/* Starting (start.c): brings up what is missing. */
void sync_start(struct sync *s);
/* Stopping (stop.c): stops these containers (NULL-ended ids) and waits. `why` NULL: the pod ends. */
struct stop_request {
    const struct rt_container *container;
    const char *message; /* of the Killing event; NULL: "Stopping container x" */
    int64_t grace;       /* -1: the pod's own */
};
void sync_stop(struct sync *s, const struct stop_request *rq, size_t n);
void sync_stop_all(struct sync *s);
int sync_stop_sandboxes(struct sync *s, struct err *e);
/* Removes dead containers beyond the newest of each name; `all`: everything, sandboxes and logs too. */
int sync_collect(struct sync *s, bool all, struct err *e);

/* ---- admission (admit.c) ---- */
/* Whether the node has what the pod's containers ask for: beside the other pods, or at all. False with a message in `a`. */
bool pods_room(struct pods *p, struct arena *a, struct pod_worker *w, const struct core_pod *pod, bool beside_others,
               const char **message);
bool admit_fits(struct kubelet *kl, struct arena *a, const struct core_pod *pod, const struct core_pod *const *others,
                size_t n, const char **reason, const char **message);
/* Whether the node can take the pod beside the others. False with reason and message in `a`. */
bool pods_admit(struct kubelet *kl, struct arena *a, const struct core_pod *pod, const struct core_pod *const *others,
                size_t n, const char **reason, const char **message);
