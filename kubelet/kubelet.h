/* The kubelet's parts and how they hold together. One `struct kubelet` is one node; a process may have
 * several (simulated nodes), so nothing here is global.
 *
 *   informer of pods, manifest files, checkpoints --> pods.c --> a pod_worker each (worker.c, sync.c)
 *   runtime events, probes, timers ------------------------------^        |
 *                                                                         +-> volumes, images, runtime (CRI)
 *                                                                         +-> status.c --> status_manager.c
 * --> API node.c: registration, conditions, lease     server.c: :10250     gc.c: what nobody needs any more
 */
#pragma once

#include <pthread.h>

#include "kubelet/backoff.h"
#include "kubelet/cgroup.h"
#include "kubelet/metrics.h"
#include "kubelet/objects.h"
#include "kubelet/runtime.h"
#include "kubelet/status.h"
#include "kubelet/swap.h"
#include "pkg/base/flags.h"
#include "pkg/base/log.h"
#include "pkg/base/map.h"
#include "pkg/client/events.h"
#include "pkg/client/informer.h"

struct kubelet_config {
    const char *kubeconfig, *bootstrap_kubeconfig, *cert_dir;
    const char *hostname_override, *node_ip, *provider_id;
    const char *runtime_endpoint, *image_endpoint;
    const char *root_dir, *manifest_path, *local_path_dir, *pod_logs_dir, *seccomp_dir;
    const char *cluster_domain, *resolv_conf, *pod_cidr;
    const char *address, *tls_cert_file, *tls_key_file, *client_ca_file, *authorization_mode;
    const char *cgroup_root;
    const char *system_reserved, *kube_reserved;
    const char *eviction_hard, *eviction_soft, *eviction_soft_grace, *eviction_min_reclaim;
    struct flag_list cluster_dns, node_labels, taints, allowed_sysctls;
    int64_t port, max_pods, pod_pids_limit, log_max_size, log_max_files, image_gc_high, image_gc_low, verbosity;
    int64_t status_update_ns, lease_seconds, sync_ns;
    int64_t eviction_transition_ns, eviction_max_grace; /* seconds: a soft eviction's longest */
    const char *healthz_address, *pull_verification;    /* imagePullCredentialsVerificationPolicy */
    struct flag_list preloaded_images;                  /* of NeverVerifyAllowlistedImages */
    struct flag_list enforce_allocatable;               /* "pods", "none"; empty: pods */
    int64_t healthz_port;                               /* plain HTTP; 0: none */
    int64_t heartbeat_ns;                               /* how often the node's status is looked at */
    int64_t pods_per_core, status_max_images, max_open_files, oom_score_adj, max_parallel_pulls;
    int64_t image_min_age_ns, image_max_age_ns; /* max 0: images are not collected for their age */
    int64_t crash_loop_max_ns;                  /* the longest back-off between restarts */
    int64_t token_ttl_ns, allow_ttl_ns, deny_ttl_ns;
    int64_t cfs_period_ns;
    int64_t simulate;
    const char *cpu_policy, *cpu_policy_options, *reserved_cpus; /* "key=value,..."; a list of CPUs */
    const char *memory_policy, *reserved_memory;                 /* "node:memory=1Gi,...;..." */
    const char *topology_policy, *topology_scope, *topology_options;
    const char *swap_behavior; /* NoSwap, LimitedSwap */
    const char *feature_gates; /* "A=true,..." */
    int64_t cpu_reconcile_ns;
    const char *shutdown_by_priority; /* "priority=seconds,..." */
    int64_t shutdown_ns, shutdown_critical_ns;
    bool shutdown_on_term;
    bool register_node, anonymous_auth, webhook_auth, rotate_certificates, serving_bootstrap, cgroups_per_qos,
        offline_cache;
    bool server, debug_handlers, system_logs, debug_flags, serialize_pulls, cfs_quota, merge_eviction, seccomp_default,
        single_process_oom, fail_cgroup_v1, tls13;
};
/* The defaults of every field (docs: the flag table in main.c). */
void kubelet_config_init(struct kubelet_config *c);

struct prober;
struct status_manager;
struct images;
struct volumes;
struct pods;
struct node;
struct kubelet_server;
struct static_pods;
struct csi;
struct plugins;
struct devices;
struct dra;
struct pod_resources;
struct cm;
struct shutdown;
struct eviction;
struct image_gc;

struct kubelet {
    struct kubelet_config cfg;
    char *node_name;
    char *runtime_name, *runtime_version; /* as the runtime says; set before the first pod */
    struct client *client;                /* NULL: no API server configured */
    struct event_recorder *recorder;      /* NULL without a client */
    struct runtime *rt;
    struct kubelet_metrics metrics;
    struct objects *objects;
    struct cgroups *cgroups; /* NULL: pods have none */
    struct prober *prober;
    struct status_manager *status;
    struct images *images;
    struct volumes *volumes;
    struct csi *csi;
    struct devices *devices;
    struct cm *cm; /* who gets which CPUs, memory and devices */
    struct dra *dra;
    struct shutdown *shutdown;           /* NULL: pods are not ended when the machine goes down */
    struct plugins *plugins;             /* NULL: none can register */
    struct pod_resources *pod_resources; /* NULL: not served */
    struct pods *pods;
    struct node *node;
    struct kubelet_server *server;
    struct static_pods *static_pods;
    struct eviction *eviction;
    struct image_gc *image_gc;
    struct informer *pod_informer, *service_informer, *node_informer;
    struct swap swap;
    bool fake; /* runtime in memory: no files, mounts or cgroups are touched */
    _Atomic bool stopping;
    int stop_fd; /* readable once stopping: what long waits poll */
    pthread_t events_thread, gc_thread;
    bool events_running, gc_running;
};

/* An event about a pod, or about one of its containers (container may be NULL). type: "Normal", "Warning". */
void kubelet_event(struct kubelet *kl, const struct core_pod *pod, const char *container, const char *type,
                   const char *reason, const char *fmt, ...) _printf_(6, 7);
/* The node's addresses, first the primary one; strings in `a`. */
const char *const *kubelet_host_ips(struct kubelet *kl, struct arena *a, size_t *n);
/* What pods can use of each resource on this node; in `a`. */
struct str_map kubelet_allocatable(struct kubelet *kl, struct arena *a);
/* <root>/pods/<uid> and the pod's log folder; in `a`. */
char *kubelet_pod_dir(struct kubelet *kl, struct arena *a, const char *uid);
char *kubelet_pod_log_dir(struct kubelet *kl, struct arena *a, const struct core_pod *p);
/* Waits, but not beyond the end of the kubelet. */
void kubelet_sleep(struct kubelet *kl, int64_t ns);
/* Small detached or joinable thread with the stack that kubelet threads get. 0 or -errno. */
int kubelet_thread(pthread_t *t, void *(*fn)(void *), void *arg, bool detached);
