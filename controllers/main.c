/* coracle-controllers: the controller manager (upstream kube-controller-manager). Connects, waits to lead
 * unless told not to, starts the controllers asked for, and runs until it is told to end or loses leadership.
 */
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>

#include "manager.h"
#include "pkg/base/flags.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"
#include "pkg/client/leader.h"
#include "pkg/client/metrics.h"
#include "pkg/serving/serving.h"

enum { POOL_WORKERS = 6, READY_POLL_MS = 25, RETRY_MS = 500, SECURE_PORT = 10257 };
#define LEASE "kube-controller-manager"

const struct controller controllers[] = {
    {"deployment-controller", deployment_start},
    {"replicaset-controller", replicaset_start},
    {"replicationcontroller-controller", replicationcontroller_start},
    {"serviceaccount-controller", serviceaccount_start},
    {"serviceaccount-token-controller", serviceaccounttoken_start},
    {"root-ca-certificate-publisher-controller", rootca_start},
    {"namespace-controller", namespace_start},
    {"endpoints-controller", endpoints_start},
    {"endpointslice-controller", endpointslice_start},
    {"endpointslice-mirroring-controller", endpointmirroring_start},
    {"daemonset-controller", daemonset_start},
    {"statefulset-controller", statefulset_start},
    {"job-controller", job_start},
    {"cronjob-controller", cronjob_start},
    {"ttl-after-finished-controller", ttlafterfinished_start},
    {"disruption-controller", disruption_start},
    {"horizontal-pod-autoscaler-controller", horizontalpodautoscaler_start},
    {"persistentvolume-binder-controller", persistentvolume_start},
    {"service-cidr-controller", servicecidr_start},
    {"volumeattributesclass-protection-controller", volumeattributesclass_start},
    {"persistentvolume-attach-detach-controller", attachdetach_start},
    {"local-path-provisioner-controller", localpath_start},
    {"ephemeral-volume-controller", ephemeralvolume_start},
    {"resourceclaim-controller", resourceclaim_start},
    {"device-taint-eviction-controller", devicetainteviction_start},
    {"resourcequota-controller", resourcequota_start},
    {"node-lifecycle-controller", nodelifecycle_start},
    {"node-ipam-controller", nodeipam_start},
    {"pod-garbage-collector-controller", podgc_start},
    {"certificatesigningrequest-approving-controller", csrapproving_start},
    {"certificatesigningrequest-signing-controller", csrsigning_start},
    {"validatingadmissionpolicy-status-controller", policystatus_start},
    {"certificatesigningrequest-cleaner-controller", csrcleaner_start},
    {"garbage-collector-controller", garbagecollector_start}, /* last: it shares the others' informers */
    {0},
};

struct options {
    const char *kubeconfig, *lease_namespace;
    int64_t v;
    struct serving_flags ports;
    bool leader_elect;
    struct flag_list controllers;
    struct manager_options m;
};

static bool named(const struct flag_list *l, const char *name, const char *prefix) {
    for (size_t i = 0; i < l->n; i++) {
        const char *s = l->items[i];
        if (!str_has_prefix(s, prefix)) continue;
        s += strlen(prefix);
        size_t n = strlen(s); /* "deployment" stands for "deployment-controller" */
        if (strcmp(s, name) == 0 || (strncmp(name, s, n) == 0 && strcmp(name + n, "-controller") == 0)) return true;
    }
    return false;
}

static bool wanted(const struct flag_list *l, const struct controller *c) {
    if (named(l, c->name, "-")) return false;
    if (named(l, c->name, "")) return true;
    bool star = l->n == 0;
    for (size_t i = 0; i < l->n; i++) star |= strcmp(l->items[i], "*") == 0;
    return star && !c->off;
}

static int start_all(struct manager *m, const struct flag_list *which, struct err *e) {
    for (const struct controller *c = controllers; c->name; c++) {
        if (!wanted(which, c)) continue;
        int r = c->start(m, e);
        if (r < 0) return err_wrap(e, "%s", c->name);
    }
    return 0;
}

static void lost(void *arg) { kill(getpid(), SIGTERM); }

/* Waits for SIGTERM or SIGINT; meanwhile queues are let loose as their informers sync. */
static void serve(struct manager *m, int signals) {
    bool ready = false;
    struct pollfd p = {.fd = signals, .events = POLLIN};
    for (;;) {
        if (!ready && (ready = manager_enable_ready(m))) log_info("all controllers run", NULL);
        int r = poll(&p, 1, ready ? -1 : READY_POLL_MS);
        if (r > 0) return;
        if (r < 0 && errno != EINTR) return;
    }
}

/* What /metrics speaks of; the parts come as they are made. */
struct facts {
    struct client *client;
    _Atomic(struct workpool *) pool;
    bool elects;
    _Atomic bool leads;
};

static void write_metrics(void *arg, struct buf *b) {
    struct facts *f = arg;
    struct workpool *p = atomic_load(&f->pool);
    if (p) workpool_metrics(p, b);
    client_metrics(f->client, b);
    program_metrics(b, f->elects ? LEASE : NULL, atomic_load(&f->leads));
}

static int run(struct options *o, int signals, struct err *e) {
    _cleanup_client_ struct client *c = NULL;
    struct client_config base = {.user_agent = "coracle-controllers"};
    int r = client_new_from_kubeconfig(o->kubeconfig, &base, &c, e);
    if (r < 0) return r;
    struct serving *ports[SERVING_PORTS] = {NULL};
    struct facts f = {.client = c, .elects = o->leader_elect};
    r = serving_start_ports(&o->ports, c, write_metrics, &f, ports, e);
    struct leader *leader = NULL;
    if (r == 0 && o->leader_elect) {
        struct leader_config lc = {.ns = o->lease_namespace, .name = LEASE, .cancel_fd = signals};
        r = leader_acquire(c, &lc, lost, NULL, &leader, e);
    }
    if (r < 0) {
        serving_stop_ports(ports);
        return r;
    }
    atomic_store(&f.leads, true);
    struct manager m = {.client = c, .opt = o->m};
    m.informers = informers_new(c);
    m.pool = workpool_new(POOL_WORKERS);
    atomic_store(&f.pool, m.pool);
    r = start_all(&m, &o->controllers, e);
    if (r == 0) serve(&m, signals);
    log_info("ending", NULL);
    serving_stop_ports(ports);
    manager_done(&m);
    leader_release(leader);
    return r;
}

int main(int argc, char **argv) {
    struct options o = {.leader_elect = true, .lease_namespace = "kube-system", .v = 2};
    o.ports = SERVING_DEFAULTS(SECURE_PORT);
    o.m.node_cidr_mask = 24;
    o.m.node_monitor_period_ns = 5 * NS_PER_SEC;
    o.m.node_monitor_grace_ns = 50 * NS_PER_SEC;
    o.m.terminated_pod_threshold = 12500;
    o.m.signing_duration_ns = INT64_C(8760) * 3600 * NS_PER_SEC;
    o.m.hpa_sync_ns = 15 * NS_PER_SEC;
    o.m.hpa_down_window_ns = o.m.hpa_cpu_initialization_ns = 300 * NS_PER_SEC;
    o.m.hpa_readiness_delay_ns = 30 * NS_PER_SEC;
    o.m.hpa_tolerance = "0.1";
    const struct flag flags[] = {
        {"kubeconfig", 0, FLAG_STR, &o.kubeconfig, "FILE", "how to reach the API server"},
        {"controllers", 0, FLAG_LIST, &o.controllers, "LIST",
         "controllers to run: '*' for all, 'name' to add one, '-name' to leave one out"},
        {"leader-elect", 0, FLAG_BOOL, &o.leader_elect, NULL, "wait until no other controller manager leads"},
        {"leader-elect-resource-namespace", 0, FLAG_STR, &o.lease_namespace, "NS", "namespace of the Lease"},
        {"root-ca-file", 0, FLAG_STR, &o.m.root_ca_file, "FILE", "CA certificate that is published in every namespace"},
        {"cluster-signing-cert-file", 0, FLAG_STR, &o.m.signing_cert_file, "FILE",
         "CA certificate that signs CertificateSigningRequests"},
        {"cluster-signing-key-file", 0, FLAG_STR, &o.m.signing_key_file, "FILE", "its key"},
        {"cluster-signing-duration", 0, FLAG_DURATION, &o.m.signing_duration_ns, "TIME",
         "longest validity of certificates signed"},
        {"legacy-service-account-tokens", 0, FLAG_BOOL, &o.m.legacy_tokens, NULL,
         "make a Secret with a token for every ServiceAccount, as Kubernetes did before 1.24"},
        {"allocate-node-cidrs", 0, FLAG_BOOL, &o.m.allocate_node_cidrs, NULL,
         "give each node a range of pod addresses from --cluster-cidr"},
        {"cluster-cidr", 0, FLAG_STR, &o.m.cluster_cidr, "CIDR", "range of pod addresses of the cluster"},
        {"local-path-dir", 0, FLAG_STR, &o.m.local_path_dir, "DIR",
         "folder of the nodes' disks for volumes of coracle.io/local-path; without it none are made"},
        {"node-cidr-mask-size", 0, FLAG_INT, &o.m.node_cidr_mask, "BITS", "prefix length of a node's range"},
        {"node-monitor-period", 0, FLAG_DURATION, &o.m.node_monitor_period_ns, "TIME",
         "how often nodes' heartbeats are looked at"},
        {"node-monitor-grace-period", 0, FLAG_DURATION, &o.m.node_monitor_grace_ns, "TIME",
         "age of a heartbeat that makes a node's Ready condition Unknown"},
        {"terminated-pod-gc-threshold", 0, FLAG_INT, &o.m.terminated_pod_threshold, "N",
         "terminated pods beyond this number are deleted, oldest first"},
        {"horizontal-pod-autoscaler-sync-period", 0, FLAG_DURATION, &o.m.hpa_sync_ns, "TIME",
         "how often autoscalers look at their metrics"},
        {"horizontal-pod-autoscaler-downscale-stabilization", 0, FLAG_DURATION, &o.m.hpa_down_window_ns, "TIME",
         "how long after a higher wish a workload is not made smaller"},
        {"horizontal-pod-autoscaler-tolerance", 0, FLAG_STR, &o.m.hpa_tolerance, "PART",
         "how far off the target usage may be without a change"},
        {"horizontal-pod-autoscaler-cpu-initialization-period", 0, FLAG_DURATION, &o.m.hpa_cpu_initialization_ns,
         "TIME", "time after a pod's start in which its CPU usage may not count"},
        {"horizontal-pod-autoscaler-initial-readiness-delay", 0, FLAG_DURATION, &o.m.hpa_readiness_delay_ns, "TIME",
         "time after a pod's start in which becoming unready means it has not been ready yet"},
        SERVING_FLAGS(o.ports),
        {"v", 'v', FLAG_INT, &o.v, "N", "log level: 0 errors only, 2 normal, 4 debug"},
        {"service-account-private-key-file", 0, FLAG_IGNORED, NULL, "FILE", "accepted; the API server signs tokens"},
        {"use-service-account-credentials", 0, FLAG_IGNORED, NULL, NULL,
         "accepted; all controllers use the one identity"},
        {"authentication-kubeconfig", 0, FLAG_IGNORED, NULL, "FILE", "accepted; reviews go through --kubeconfig"},
        {"authorization-kubeconfig", 0, FLAG_IGNORED, NULL, "FILE", "accepted"},
        {"requestheader-client-ca-file", 0, FLAG_IGNORED, NULL, "FILE", "accepted"},
        {"service-cluster-ip-range", 0, FLAG_IGNORED, NULL, "CIDR", "accepted"},
        {"cluster-name", 0, FLAG_IGNORED, NULL, "NAME", "accepted"},
        {"configure-cloud-routes", 0, FLAG_IGNORED, NULL, NULL, "accepted"},
        {"profiling", 0, FLAG_IGNORED, NULL, NULL, "accepted"},
        {"kube-api-qps", 0, FLAG_IGNORED, NULL, "N", "accepted; there is no client-side limit"},
        {"kube-api-burst", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-deployment-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted; controllers share a pool of workers"},
        {"concurrent-replicaset-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-endpoint-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-service-endpoint-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-namespace-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-gc-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-serviceaccount-token-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-statefulset-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-job-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-cron-job-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {"concurrent-resource-quota-syncs", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {0},
    };
    flags_main("coracle-controllers", "Runs the controllers of a Kubernetes cluster.", flags, argc, argv, 0);
    log_init("controllers", o.v >= 4 ? LOG_DEBUG : o.v >= 1 ? LOG_INFO : LOG_WARN);
    memory_keep_small();
    if (str_empty(o.kubeconfig)) {
        log_error("--kubeconfig is needed", NULL);
        return 2;
    }
    int signals = termination_fd();
    _cleanup_err_ struct err e = {0};
    int r = run(&o, signals, &e);
    if (r == -ECANCELED) r = 0;
    if (r < 0) log_error("cannot run", "error", e.msg, NULL);
    flag_list_done(&o.controllers);
    return r < 0;
}
