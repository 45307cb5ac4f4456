/* coracle-kubelet: the node agent. It runs the pods that are assigned to its node through a CRI runtime, and tells the API
 * server how they and the machine are. This file turns flags into a kubelet_config and starts the parts. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>

#include "kubelet/bootstrap.h"
#include "kubelet/config_file.h"
#include "kubelet/eviction.h"
#include "kubelet/gc.h"
#include "kubelet/lockfile.h"
#include "kubelet/run.h"
#include "kubelet/server.h"
#include "kubelet/shutdown.h"
#include "pkg/base/memory.h"

struct main_flags {
    struct kubelet_config c;
    const char *config, *config_dir;
    const char *lock_file;
    bool cleanup, exit_on_contention;
};

#define FLAGS(o)                                                                                                         \
    {"kubeconfig",      0,      FLAG_STR,                                                                                \
     &(o).c.kubeconfig, "FILE", "how to reach the API server; without it only static pods run"},                         \
        {"bootstrap-kubeconfig",      0,      FLAG_STR,                                                                  \
         &(o).c.bootstrap_kubeconfig, "FILE", "used to ask for a client certificate; --kubeconfig is then written"},     \
        {"cert-dir", 0, FLAG_STR, &(o).c.cert_dir, "DIR", "where certificates are kept [<root-dir>/pki]"},               \
        {"rotate-certificates",      0,    FLAG_BOOL,                                                                    \
         &(o).c.rotate_certificates, NULL, "renew the client certificate before it ends"},                               \
        {"rotate-server-certificates",                                                                                   \
         0,                                                                                                              \
         FLAG_BOOL,                                                                                                      \
         &(o).c.serving_bootstrap,                                                                                       \
         NULL,                                                                                                           \
         "ask the cluster for the serving certificate instead of signing it ourselves"},                                 \
        {"hostname-override", 0, FLAG_STR, &(o).c.hostname_override, "NAME", "name of the node [the host's name]"},      \
        {"node-ip", 0, FLAG_STR, &(o).c.node_ip, "IP", "address of the node [that of the default route]"},               \
        {"node-labels", 0, FLAG_LIST, &(o).c.node_labels, "K=V,...", "labels of the node"},                              \
        {"register-node", 0, FLAG_BOOL, &(o).c.register_node, NULL, "create the Node object"},                           \
        {"register-with-taints", 0, FLAG_LIST, &(o).c.taints, "K=V:EFFECT,...", "taints of a newly registered node"},    \
        {"provider-id", 0, FLAG_STR, &(o).c.provider_id, "ID", "spec.providerID of the node"},                           \
        {"container-runtime-endpoint", 0, FLAG_STR, &(o).c.runtime_endpoint, "SOCKET", "CRI endpoint of the runtime"},   \
        {"image-service-endpoint", 0,        FLAG_STR,                                                                   \
         &(o).c.image_endpoint,    "SOCKET", "CRI endpoint for images [the runtime's]"},                                 \
        {"root-dir", 0, FLAG_STR, &(o).c.root_dir, "DIR", "where volumes and state are kept"},                           \
        {"pod-logs-dir", 0, FLAG_STR, &(o).c.pod_logs_dir, "DIR", "where the runtime writes container logs"},            \
        {"pod-manifest-path", 0, FLAG_STR, &(o).c.manifest_path, "PATH", "file or folder of static pods"},               \
        {"local-path-dir",      0,     FLAG_STR,                                                                         \
         &(o).c.local_path_dir, "DIR", "where volumes of coracle.io/local-path may be made and removed"},                \
        {"cluster-dns", 0, FLAG_LIST, &(o).c.cluster_dns, "IP,...", "DNS servers of pods"},                              \
        {"cluster-domain", 0, FLAG_STR, &(o).c.cluster_domain, "DOMAIN", "DNS domain of the cluster"},                   \
        {"resolv-conf", 0, FLAG_STR, &(o).c.resolv_conf, "FILE", "the host's DNS settings, for dnsPolicy Default"},      \
        {"pod-cidr", 0, FLAG_STR, &(o).c.pod_cidr, "CIDR", "pod network, when the Node object gives none"},              \
        {"max-pods", 0, FLAG_INT, &(o).c.max_pods, "N", "pods this node takes"},                                         \
        {"pod-max-pids", 0, FLAG_INT, &(o).c.pod_pids_limit, "N", "processes of a pod; -1: no limit"},                   \
        {"address", 0, FLAG_STR, &(o).c.address, "IP", "where the server listens"},                                      \
        {"port", 0, FLAG_INT, &(o).c.port, "PORT", "port of the server; 0: no server"},                                  \
        {"tls-cert-file", 0, FLAG_STR, &(o).c.tls_cert_file, "FILE", "serving certificate [self-signed]"},               \
        {"tls-private-key-file", 0, FLAG_STR, &(o).c.tls_key_file, "FILE", "its key"},                                   \
        {"client-ca-file", 0, FLAG_STR, &(o).c.client_ca_file, "FILE", "CA of client certificates"},                     \
        {"anonymous-auth",      0,    FLAG_BOOL,                                                                         \
         &(o).c.anonymous_auth, NULL, "let requests without credentials be system:anonymous"},                           \
        {"authentication-token-webhook",                                                                                 \
         0,                                                                                                              \
         FLAG_BOOL,                                                                                                      \
         &(o).c.webhook_auth,                                                                                            \
         NULL,                                                                                                           \
         "accept bearer tokens that the API server knows"},                                                              \
        {"authorization-mode",      0,      FLAG_STR,                                                                    \
         &(o).c.authorization_mode, "MODE", "Webhook (ask the API server) or AlwaysAllow"},                              \
        {"cgroup-root", 0, FLAG_STR, &(o).c.cgroup_root, "PATH", "cgroup below which pods' cgroups are made"},           \
        {"cgroups-per-qos", 0, FLAG_BOOL, &(o).c.cgroups_per_qos, NULL, "make cgroups for QoS classes and pods"},        \
        {"seccomp-profile-root", 0,     FLAG_STR,                                                                        \
         &(o).c.seccomp_dir,     "DIR", "where Localhost seccomp profiles are [<root-dir>/seccomp]"},                    \
        {"allowed-unsafe-sysctls", 0,          FLAG_LIST,                                                                \
         &(o).c.allowed_sysctls,   "NAME,...", "sysctls that pods may set beside the safe ones; * at the end"},          \
        {"system-reserved", 0, FLAG_STR, &(o).c.system_reserved, "cpu=A,memory=B", "kept for the system, not for pods"}, \
        {"kube-reserved", 0, FLAG_STR, &(o).c.kube_reserved, "cpu=A,memory=B", "kept for coracle, not for pods"},        \
        {"eviction-hard", 0, FLAG_STR, &(o).c.eviction_hard, "SIGNAL<AMOUNT,...", "below this pods are evicted"},        \
        {"eviction-soft", 0, FLAG_STR, &(o).c.eviction_soft, "SIGNAL<AMOUNT,...", "the same, after a grace period"},     \
        {"eviction-soft-grace-period", 0, FLAG_STR, &(o).c.eviction_soft_grace, "SIGNAL=TIME,...",                       \
         "how long it may last"},                                                                                        \
        {"eviction-max-pod-grace-period", 0,         FLAG_INT,                                                           \
         &(o).c.eviction_max_grace,       "SECONDS", "a soft eviction's time to end"},                                   \
        {"eviction-minimum-reclaim",                                                                                     \
         0,                                                                                                              \
         FLAG_STR,                                                                                                       \
         &(o).c.eviction_min_reclaim,                                                                                    \
         "SIGNAL=AMOUNT,...",                                                                                            \
         "beyond the threshold before eviction stops"},                                                                  \
        {"eviction-pressure-transition-period", 0,      FLAG_DURATION,                                                   \
         &(o).c.eviction_transition_ns,         "TIME", "a pressure condition stays at least so long"},                  \
        {"container-log-max-files", 0, FLAG_INT, &(o).c.log_max_files, "N", "log files kept of a container"},            \
        {"container-log-max-size", 0, FLAG_INT, &(o).c.log_max_size, "BYTES", "size at which a log is rotated"},         \
        {"image-gc-high-threshold", 0, FLAG_INT, &(o).c.image_gc_high, "PERCENT", "disk use at which unused images go"}, \
        {"image-gc-low-threshold", 0, FLAG_INT, &(o).c.image_gc_low, "PERCENT", "and down to which"},                    \
        {"node-status-update-frequency",                                                                                 \
         0,                                                                                                              \
         FLAG_DURATION,                                                                                                  \
         &(o).c.heartbeat_ns,                                                                                            \
         "DURATION",                                                                                                     \
         "how often the node's status is looked at"},                                                                    \
        {"node-status-report-frequency", 0,          FLAG_DURATION,                                                      \
         &(o).c.status_update_ns,        "DURATION", "how often an unchanged status is sent"},                           \
        {"offline-cache",      0,    FLAG_BOOL,                                                                          \
         &(o).c.offline_cache, NULL, "keep pods, ConfigMaps and Secrets on disk, to start them without an API server"},  \
        {"simulate",      0,   FLAG_INT,                                                                                 \
         &(o).c.simulate, "N", "be N nodes (name-0, name-1, ...) whose containers are only pretended"},                  \
        {"shutdown-grace-period", 0,          FLAG_DURATION,                                                             \
         &(o).c.shutdown_ns,      "DURATION", "time for pods to end when the machine goes down; 0: none"},               \
        {"shutdown-grace-period-critical-pods", 0,          FLAG_DURATION,                                               \
         &(o).c.shutdown_critical_ns,           "DURATION", "the end of that time, for critical pods"},                  \
        {"shutdown-on-term",      0,    FLAG_BOOL,                                                                       \
         &(o).c.shutdown_on_term, NULL, "SIGTERM means that the machine goes down (logind and SIGPWR always do)"},       \
        {"config", 0, FLAG_STR, &(o).config, "FILE", "a KubeletConfiguration; flags win"},                               \
        {"lock-file", 0, FLAG_STR, &(o).lock_file, "FILE", "wait for this lock before starting"},                        \
        {"exit-on-lock-contention", 0, FLAG_BOOL, &(o).exit_on_contention, NULL, "end when somebody else wants it"},     \
        {"config-dir",    0,     FLAG_STR,                                                                               \
         &(o).config_dir, "DIR", "its *.conf files are merged into the configuration, by name"},                         \
        {"cleanup",                                                                                                      \
         0,                                                                                                              \
         FLAG_BOOL,                                                                                                      \
         &(o).cleanup,                                                                                                   \
         NULL,                                                                                                           \
         "stop and remove every pod of the runtime (endpoint \"\": of none) and all pods' cgroups, then end"},           \
        {"cpu-manager-policy", 0,        FLAG_STR,                                                                       \
         &(o).c.cpu_policy,    "POLICY", "none, or static: whole CPUs for Guaranteed pods"},                             \
        {"cpu-manager-policy-options",                                                                                   \
         0,                                                                                                              \
         FLAG_STR,                                                                                                       \
         &(o).c.cpu_policy_options,                                                                                      \
         "NAME=true,...",                                                                                                \
         "full-pcpus-only, strict-cpu-reservation, distribute-cpus-across-numa, ..."},                                   \
        {"cpu-manager-reconcile-period", 0,          FLAG_DURATION,                                                      \
         &(o).c.cpu_reconcile_ns,        "DURATION", "how often containers' CPUs are compared"},                         \
        {"reserved-cpus",      0,      FLAG_STR,                                                                         \
         &(o).c.reserved_cpus, "LIST", "CPUs that no pod gets for itself; in place of the amounts reserved"},            \
        {"memory-manager-policy", 0,        FLAG_STR,                                                                    \
         &(o).c.memory_policy,    "POLICY", "None, or Static: memory by NUMA node for Guaranteed pods"},                 \
        {"reserved-memory",                                                                                              \
         0,                                                                                                              \
         FLAG_STR,                                                                                                       \
         &(o).c.reserved_memory,                                                                                         \
         "NODE:memory=AMOUNT;...",                                                                                       \
         "how reserved memory is parted among NUMA nodes"},                                                              \
        {"topology-manager-policy", 0,        FLAG_STR,                                                                  \
         &(o).c.topology_policy,    "POLICY", "none, best-effort, restricted, single-numa-node"},                        \
        {"topology-manager-scope", 0, FLAG_STR, &(o).c.topology_scope, "SCOPE", "what is aligned: container or pod"},    \
        {"topology-manager-policy-options",                                                                              \
         0,                                                                                                              \
         FLAG_STR,                                                                                                       \
         &(o).c.topology_options,                                                                                        \
         "NAME=VALUE,...",                                                                                               \
         "prefer-closest-numa-nodes, max-allowable-numa-nodes"},                                                         \
        {"feature-gates", 0,                                                                                             \
         FLAG_STR,        &(o).c.feature_gates,                                                                          \
         "NAME=true,...", "CPUManagerPolicyAlphaOptions; others have no effect"},                                        \
        {"fail-swap-on", 0, FLAG_IGNORED, NULL, NULL, "swap is no reason to fail"},                                      \
        {"cgroup-driver", 0, FLAG_IGNORED, NULL, NULL, "the runtime says which"},                                        \
        {"healthz-port", 0, FLAG_INT, &(o).c.healthz_port, "PORT", "/healthz without TLS; 0: none"},                     \
        {"healthz-bind-address", 0, FLAG_STR, &(o).c.healthz_address, "IP", "where it listens"},                         \
        {"container-runtime", 0, FLAG_IGNORED, NULL, NULL, "always remote"},                                             \
        {"v", 'v', FLAG_INT, &(o).c.verbosity, "N", "log level: 0 quiet, 2 normal, 4 debug"},

static int set_log(const struct kubelet_config *c) {
    char text[16];
    enum log_level level = LOG_INFO;
    snprintf(text, sizeof(text), "%lld", (long long)c->verbosity);
    log_level_parse(text, &level);
    log_init("kubelet", level);
    return 0;
}

static void defaults(struct kubelet_config *c) {
    if (str_empty(c->cert_dir)) c->cert_dir = xasprintf("%s/pki", c->root_dir);
    if (str_empty(c->seccomp_dir)) c->seccomp_dir = xasprintf("%s/seccomp", c->root_dir);
}

static char *node_name_of(const struct kubelet_config *c) {
    char host[256] = "localhost";
    gethostname(host, sizeof(host) - 1);
    char *name = xstrdup(str_empty(c->hostname_override) ? host : c->hostname_override);
    for (char *s = name; *s; s++)
        if (*s >= 'A' && *s <= 'Z') *s = (char)(*s - 'A' + 'a');
    return name;
}

static void certificates_changed(void *arg, bool serving, const char *pem_file) {
    struct kubelet *kl = arg;
    if (serving)
        kubelet_server_reload(kl->server, pem_file);
    else if (kl->client)
        client_reset_connections(kl->client);
}

/* The server, once the kubelet runs. */
static int serve(struct kubelet *kl, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *cert = NULL, *key = NULL;
    size_t n;
    if (kl->cfg.port == 0 || kl->fake) return 0;
    const char *const *ips = kubelet_host_ips(kl, a, &n);
    int r = bootstrap_serving_cert(&kl->cfg, kl->node_name, ips, n, &cert, &key, e);
    if (r < 0) return r;
    kl->server = kubelet_server_new(kl, cert, key, e);
    return kl->server ? 0 : -EIO;
}

struct nodes {
    struct kubelet **items;
    size_t n;
};

static int start_nodes(const struct kubelet_config *cfg, const char *name, struct client *client, struct nodes *nodes,
                       struct err *e) {
    nodes->n = cfg->simulate > 0 ? (size_t)cfg->simulate : 1;
    nodes->items = xcalloc(nodes->n, sizeof(*nodes->items));
    for (size_t i = 0; i < nodes->n; i++) {
        bool fake = cfg->simulate > 0;
        _cleanup_free_ char *own = fake ? xasprintf("%s-%zu", name, i) : xstrdup(name);
        struct runtime *rt = fake ? runtime_fake_new() : runtime_cri_new(cfg->runtime_endpoint, cfg->image_endpoint);
        nodes->items[i] = kubelet_new(cfg, own, client, rt, fake);
        int r = 0;
        if (!fake) r = serve(nodes->items[i], e); /* the port is known before the node is registered */
        if (r == 0) r = kubelet_start(nodes->items[i], e);
        if (r < 0) return r;
    }
    return 0;
}

static int clean_up(const struct kubelet_config *c) {
    _cleanup_err_ struct err e = {0};
    struct cgroups_config cc = {.root = c->cgroup_root};
    struct cgroups *cg = cgroups_new(&cc);
    struct runtime *rt =
        str_empty(c->runtime_endpoint) ? NULL : runtime_cri_new(c->runtime_endpoint, c->image_endpoint);
    cgroups_adopt(cg);
    int r = gc_remove_all(rt, cg, c->root_dir, &e);
    if (r < 0) fprintf(stderr, "coracle-kubelet: the runtime's pods cannot be removed: %s\n", e.msg);
    runtime_free(rt);
    cgroups_free(cg);
    return r < 0;
}

/* Open files, the kernel's opinion about whom to kill; what the operator ruled out. */
static bool prepare_process(const struct kubelet_config *c, struct err *e) {
    struct rlimit files;
    char text[16];
    if (c->fail_cgroup_v1 && access("/sys/fs/cgroup/cgroup.controllers", F_OK) < 0) {
        err_set(e, -ENOTSUP, "this machine has cgroup v1, and failCgroupV1 is set");
        return false;
    }
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < (rlim_t)c->max_open_files) {
        files.rlim_cur = MIN_OF((rlim_t)c->max_open_files, files.rlim_max);
        setrlimit(RLIMIT_NOFILE, &files);
    }
    snprintf(text, sizeof(text), "%lld", (long long)c->oom_score_adj);
    _cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0 && !c->simulate && write(fd, text, strlen(text)) < 0 && errno != EACCES)
        log_warn("cannot set oom_score_adj", "error", strerror(errno), NULL);
    return true;
}

static const char *about(struct arena *a) {
    return arena_printf(a,
                        "The node agent: runs the pods of its node and reports on them.\n\n"
                        "Of a KubeletConfiguration (--config) these fields have no effect:\n%s.\n"
                        "With these, set to anything but the default, the kubelet does not start:\n%s.",
                        config_file_fields(a, false), config_file_fields(a, true));
}

int main(int argc, char **argv) {
    struct main_flags o = {0};
    kubelet_config_init(&o.c);
    const struct flag flags[] = {FLAGS(o){0}};
    _cleanup_err_ struct err e = {0};
    const char *config = config_file_of("config", argc, argv), *dir = config_file_of("config-dir", argc, argv);
    if ((config || dir) && config_file_read(config, dir, &o.c, &e) < 0) {
        fprintf(stderr, "coracle-kubelet: %s\n", e.msg);
        return 2;
    }
    _cleanup_arena_ struct arena *a = arena_new();
    flags_main("coracle-kubelet", about(a), flags, argc, argv, 0);
    set_log(&o.c);
    defaults(&o.c);
    if (o.cleanup) return clean_up(&o.c);
    if (o.exit_on_contention && str_empty(o.lock_file)) {
        log_error("--exit-on-lock-contention is about a --lock-file", NULL);
        return 2;
    }
    if (config || dir) config_file_warn(config, dir);
    if (!prepare_process(&o.c, &e)) {
        log_error("cannot start", "error", e.msg, NULL);
        return 1;
    }
    if (!str_empty(o.lock_file) && lockfile_acquire(o.lock_file, o.exit_on_contention, &e) < 0) {
        log_error("cannot start", "error", e.msg, NULL);
        return 1;
    }
    memory_keep_small();
    signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGPWR);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    _cleanup_free_ char *name = node_name_of(&o.c);
    struct client *client = NULL;
    int r = bootstrap_kubeconfig(&o.c, name, &e);
    if (r == 0 && !str_empty(o.c.kubeconfig)) {
        struct client_config base = {.user_agent = "coracle-kubelet"};
        r = client_new_from_kubeconfig(o.c.kubeconfig, &base, &client, &e);
    }
    struct eviction_thresholds checked;
    if (r == 0)
        r = eviction_parse(o.c.eviction_hard, o.c.eviction_soft, o.c.eviction_soft_grace, o.c.eviction_min_reclaim,
                           &checked, &e);
    struct nodes nodes = {0};
    if (r == 0) r = start_nodes(&o.c, name, client, &nodes, &e);
    if (r < 0) {
        log_error("cannot start", "error", e.msg, NULL);
        return 1;
    }
    log_info("kubelet runs", "node", name, NULL);
    struct cert_rotation *rotation =
        o.c.simulate ? NULL : cert_rotation_start(nodes.items[0], certificates_changed, nodes.items[0]);
    int sig;
    while (sigwait(&set, &sig) == 0 && sig == SIGPWR) shutdown_run(nodes.items[0]->shutdown);
    if (sig == SIGTERM && o.c.shutdown_on_term) shutdown_run(nodes.items[0]->shutdown);
    log_info("stopping; pods go on running", "signal", strsignal(sig), NULL);
    /* Threads may be in calls that take long (a container's grace period). State is on disk and in the runtime: ending
     * the process is safe at any time, so there is no waiting for them. */
    (void)rotation;
    fflush(NULL);
    _exit(0);
}
