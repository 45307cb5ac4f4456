/* The container runtime as the kubelet sees it: CRI v1 behind an interface of two functions. runtime_cri.c
 * speaks gRPC to a real runtime (our shim, containerd, CRI-O); runtime_fake.c keeps pods in memory for unit
 * tests and for simulated nodes. Requests and answers are the CRI messages themselves (pkg/api/cri.h), so
 * nothing is translated twice and a new call is a row in runtime.c.
 *
 * Upstream: k8s.io/cri-client and pkg/kubelet/kuberuntime's instrumented services. */
#pragma once

#include "pkg/api/api.h"
#include "pkg/api/cri.h"
#include "pkg/base/prom.h"

enum runtime_method {
    RT_VERSION,
    RT_STATUS,
    RT_UPDATE_RUNTIME_CONFIG,
    RT_RUNTIME_CONFIG,
    RT_RUN_POD_SANDBOX,
    RT_STOP_POD_SANDBOX,
    RT_REMOVE_POD_SANDBOX,
    RT_POD_SANDBOX_STATUS,
    RT_LIST_POD_SANDBOX,
    RT_CREATE_CONTAINER,
    RT_START_CONTAINER,
    RT_STOP_CONTAINER,
    RT_REMOVE_CONTAINER,
    RT_LIST_CONTAINERS,
    RT_CONTAINER_STATUS,
    RT_UPDATE_CONTAINER_RESOURCES,
    RT_REOPEN_CONTAINER_LOG,
    RT_EXEC_SYNC,
    RT_EXEC,
    RT_ATTACH,
    RT_PORT_FORWARD,
    RT_LIST_CONTAINER_STATS,
    RT_LIST_POD_SANDBOX_STATS,
    RT_LIST_IMAGES,
    RT_IMAGE_STATUS,
    RT_PULL_IMAGE,
    RT_REMOVE_IMAGE,
    RT_IMAGE_FS_INFO,
    RT_METHODS
};

/* Path and message types of each method, in the order of the enum. */
struct runtime_method_desc {
    const struct api_rpc *rpc;
    bool image_service;
};
extern const struct runtime_method_desc runtime_methods[RT_METHODS];

struct runtime;
/* One lifecycle event; `ev` is valid during the call. */
typedef void runtime_event_fn(void *arg, const struct cri_container_event_response *ev);

struct runtime_ops {
    /* Blocks; the answer lives in `a`. -EIO and friends carry the gRPC message; `code` is in e->code as
     * -errno (NOT_FOUND is -ENOENT, UNIMPLEMENTED -ENOSYS, DEADLINE_EXCEEDED -ETIMEDOUT, UNAVAILABLE
     * -ECONNREFUSED). */
    int (*call)(struct runtime *rt, enum runtime_method m, struct arena *a, const void *req, void *resp,
                int64_t timeout_ns, struct err *e);
    /* Streams events to `fn` until the stream ends or runtime_shutdown(); blocks. -ENOSYS: the runtime has
     * none. */
    int (*events)(struct runtime *rt, runtime_event_fn *fn, void *arg, struct err *e);
    void (*shutdown)(struct runtime *rt);
    void (*free)(struct runtime *rt);
};
struct runtime_count {
    _Atomic uint64_t calls, errors;
    struct prom_histogram duration; /* metrics_runtime_bounds */
};
struct runtime {
    const struct runtime_ops *ops;
    int64_t cfs_period_us;                   /* the kubelet's setting, for rt_container */
    struct runtime_count counts[RT_METHODS]; /* kept by runtime_call, for the metrics */
};

/* A client of the CRI endpoint ("unix:///run/x.sock" or a path); image_endpoint NULL: the same. Does not
 * connect yet. */
struct runtime *runtime_cri_new(const char *endpoint, const char *image_endpoint);
/* Everything in memory; see runtime_fake.h. */
struct runtime *runtime_fake_new(void);
void runtime_free(struct runtime *rt);

#define RUNTIME_TIMEOUT_NS (120 * NS_PER_SEC) /* upstream's runtimeRequestTimeout */

/* A call with the default time limit. */
int runtime_call(struct runtime *rt, enum runtime_method m, struct arena *a, const void *req, void *resp,
                 struct err *e);
int runtime_call_timeout(struct runtime *rt, enum runtime_method m, struct arena *a, const void *req, void *resp,
                         int64_t timeout_ns, struct err *e);

/* ---- labels and annotations by which containers are recognised after a restart of the kubelet ---- */
#define LABEL_POD_NAME "io.kubernetes.pod.name"
#define LABEL_POD_NAMESPACE "io.kubernetes.pod.namespace"
#define LABEL_POD_UID "io.kubernetes.pod.uid"
#define LABEL_CONTAINER_NAME "io.kubernetes.container.name"
#define ANNOT_HASH "io.kubernetes.container.hash"
#define ANNOT_RESTART_COUNT "io.kubernetes.container.restartCount"
#define ANNOT_TERM_PATH "io.kubernetes.container.terminationMessagePath"
#define ANNOT_TERM_POLICY "io.kubernetes.container.terminationMessagePolicy"
#define ANNOT_MEMORY_REQUEST "io.kubernetes.container.memoryRequest"
#define ANNOT_POD_GRACE "io.kubernetes.pod.terminationGracePeriod"

/* ---- what the runtime has of one pod ---- */
struct rt_container {
    const char *id, *name, *sandbox_id;
    int32_t state;                               /* CRI_CONTAINER_... */
    int64_t created_at, started_at, finished_at; /* ns since 1970 */
    int32_t exit_code;
    const char *reason, *message;
    const char *image, *image_ref, *image_id, *log_path;
    const char *hash;           /* of the container's spec when it was made */
    const char *memory_request; /* in bytes when it was made; NULL: it is not known */
    int32_t restart_count;
    const char *term_path; /* host path of the termination message file, or NULL */
    const char *term_policy;
    const struct cri_container_user *user;
    const struct cri_linux_container_resources *resources; /* in force; NULL: the runtime does not say */
    int64_t cfs_period_us;                                 /* as it should be; 0: CPU limits are not enforced */
};
struct rt_sandbox {
    const char *id;
    bool ready, host_network;
    int64_t created_at;
    uint32_t attempt;
    const char **ips; /* first is the pod's */
    size_t n_ips;
    const char *runtime_handler;
};
/* Newest first, both. */
struct rt_pod {
    struct rt_sandbox *sandboxes;
    size_t n_sandboxes;
    struct rt_container *containers;
    size_t n_containers;
};

/* Reads one pod's sandboxes and containers. */
int runtime_pod_read(struct runtime *rt, struct arena *a, const char *uid, struct rt_pod *out, struct err *e);
/* Newest instance of a container, or NULL; `skip` newer ones are passed over. */
const struct rt_container *rt_pod_find(const struct rt_pod *p, const char *container, unsigned skip);
const struct rt_container *rt_pod_by_id(const struct rt_pod *p, const char *id);
