/* coracle up, coracle join: describe the programs of a node, start the supervisor in the background, and wait. */
#include <fcntl.h>
#include <sys/wait.h>

#include "cli/addons.h"
#include "cli/cli.h"
#include "cli/identity.h"
#include "cli/supervisor.h"
#include "pkg/api/core.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"
#include "pkg/client/client.h"
#include "pkg/netlink/netlink.h"

enum { WAIT_STEP_US = 10000 };

/* ---- the programs ---- */

/* Kinds that no program of coracle acts on yet: users are told when they write one. */
static const char unhonoured[] = "clustertrustbundles,podcertificaterequests";

/* `more` (may be NULL): the operator's flags, behind ours, as the last one counts. */
static void add(const struct layout *l, struct component_list *list, struct component c, const char *const *more,
                const char *const *args) {
    size_t n = 0, m = 0;
    while (args[n]) n++;
    while (more && more[m]) m++;
    c.argv = arena_zalloc(l->a, (n + m + 2) * sizeof(*c.argv));
    c.argv[0] = strrchr(c.program, '/') + 1;
    for (size_t i = 0; i < n; i++) c.argv[i + 1] = args[i];
    for (size_t i = 0; i < m; i++)
        c.argv[n + i + 1] = arena_printf(l->a, "%s%s", more[i][0] == '-' ? "" : "--", more[i]);
    ARENA_GROW(l->a, list->items, list->n, list->cap);
    list->items[list->n++] = c;
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define FMT(...) arena_printf(l->a, __VA_ARGS__)

static int control_plane(const struct layout *l, struct component_list *list, const char *api, struct err *e) {
    struct component c = {0};
    int r;
    const char *etcd_flag = "-v=0", *validity = l->certificate_validity ? l->certificate_validity : "0s";
    if (str_eq(l->store, "etcd")) {
        c = (struct component){.name = "etcd", .program = "/usr/bin/etcd"};
        if (access(c.program, X_OK) < 0) return err_set(e, -ENOENT, "--store etcd needs Debian's etcd-server");
        add(l, list, c, NULL,
            ARGS(FMT("--data-dir=%s/etcd", l->data), "--listen-client-urls=http://127.0.0.1:2379",
                 "--advertise-client-urls=http://127.0.0.1:2379", "--listen-peer-urls=http://127.0.0.1:2380",
                 "--initial-advertise-peer-urls=http://127.0.0.1:2380",
                 "--initial-cluster=default=http://127.0.0.1:2380", "--logger=zap", "--log-level=warn",
                 "--auto-compaction-retention=5m"));
        etcd_flag = "--etcd-servers=http://127.0.0.1:2379";
    }
    c = (struct component){.name = "apiserver"};
    if ((r = layout_program(l, "apiserver", "coracle-apiserver", &c.program, e)) < 0) return r;
    if (str_eq(l->store, "etcd")) c.wait_port = "127.0.0.1:2379";
    add(l, list, c, l->args[ARGS_APISERVER],
        ARGS(FMT("--data-dir=%s", l->data), FMT("--secure-port=%lld", (long long)l->port),
             l->node_ip_found ? "-v=0" : FMT("--advertise-address=%s", l->node_ip),
             FMT("--service-cluster-ip-range=%s", l->service_cidr), FMT("--certificate-validity=%s", validity),
             etcd_flag, "--serve-resource-metrics", FMT("--unhonoured-resources=%s", unhonoured)));
    c = (struct component){.name = "controllers", .wait_port = api};
    if ((r = layout_program(l, "controllers", "coracle-controllers", &c.program, e)) < 0) return r;
    add(l, list, c, l->args[ARGS_CONTROLLERS],
        ARGS(FMT("--kubeconfig=%s/controller-manager.kubeconfig", l->data), "--leader-elect=false",
             FMT("--root-ca-file=%s/pki/ca.crt", l->data), FMT("--cluster-signing-cert-file=%s/pki/ca.crt", l->data),
             FMT("--cluster-signing-key-file=%s/pki/ca.key", l->data),
             FMT("--cluster-signing-duration=%s", l->certificate_validity ? validity : "8760h"),
             "--allocate-node-cidrs=true", FMT("--cluster-cidr=%s", l->cluster_cidr),
             FMT("--local-path-dir=%s/volumes", l->data), FMT("--client-ca-file=%s/pki/ca.crt", l->data),
             FMT("--legacy-service-account-tokens=%s", l->legacy_tokens)));
    c = (struct component){.name = "scheduler", .wait_port = api};
    if ((r = layout_program(l, "scheduler", "coracle-scheduler", &c.program, e)) < 0) return r;
    add(l, list, c, l->args[ARGS_SCHEDULER],
        ARGS(FMT("--kubeconfig=%s/scheduler.kubeconfig", l->data), "--leader-elect=false",
             FMT("--client-ca-file=%s/pki/ca.crt", l->data)));
    return 0;
}

/* The operator's KubeletConfiguration, else a bound that keeps one pod's forks from taking the node's last pid. */
static const char *kubelet_limits(const struct layout *l) {
    const char *config = layout_data(l, "kubelet.yaml");
    return access(config, R_OK) == 0 ? FMT("--config=%s", config) : "--pod-max-pids=4096";
}

/* A default of ours that the operator's KubeletConfiguration may change: flags would win over it. */
static const char *unless_configured(const struct layout *l, const char *flag) {
    return access(layout_data(l, "kubelet.yaml"), R_OK) == 0 ? "--register-node=true" : flag;
}

static int node_programs(const struct layout *l, struct component_list *list, const char *api, const char *bootstrap,
                         struct err *e) {
    int r;
    bool agent = str_eq(l->role, "agent");
    const char *kubelet_config = FMT("%s/kubelet.kubeconfig", l->data);
    struct component c = {.name = "shim"};
    if ((r = layout_program(l, "shim", "coracle-shim", &c.program, e)) < 0) return r;
    if (!l->runtime)
        add(l, list, c, NULL,
            ARGS(FMT("--listen=%s/shim.sock", l->run), FMT("--root=%s/containers", l->data),
                 FMT("--state=%s/shim", l->run), FMT("--bridge=%s", l->bridge),
                 FMT("--cluster-cidr=%s", l->cluster_cidr), "--runtime-handler=runc=/usr/sbin/runc",
                 FMT("--registries=%s/registries.yaml",
                     access(layout_data(l, "registries.yaml"), R_OK) == 0 ? l->data : "/etc/coracle")));
    c = (struct component){.name = "kubelet", .wait_port = api};
    if ((r = layout_program(l, "kubelet", "coracle-kubelet", &c.program, e)) < 0) return r;
    add(l, list, c, l->args[ARGS_KUBELET],
        ARGS(FMT("--kubeconfig=%s", kubelet_config), FMT("--container-runtime-endpoint=%s", layout_runtime(l)),
             FMT("--root-dir=%s", layout_kubelet(l, true)), FMT("--hostname-override=%s", l->node_name),
             l->node_ip_found ? "--register-node=true" : FMT("--node-ip=%s", l->node_ip),
             FMT("--cluster-dns=%s", l->cluster_dns), FMT("--cluster-domain=%s", l->cluster_domain),
             FMT("--client-ca-file=%s/pki/ca.crt", l->data), FMT("--pod-manifest-path=%s/manifests", l->data),
             FMT("--local-path-dir=%s/volumes", l->data), kubelet_limits(l),
             unless_configured(l, "--shutdown-grace-period=30s"),
             unless_configured(l, "--shutdown-grace-period-critical-pods=10s"),
             bootstrap ? FMT("--bootstrap-kubeconfig=%s", bootstrap) : "--register-node=true"));
    /* on a node that joined, proxy and DNS are part of the node's identity; its kubeconfig comes with its certificate */
    c = (struct component){.name = "proxy", .wait_port = api, .wait_path = agent ? kubelet_config : NULL};
    if ((r = layout_program(l, "proxy", "coracle-proxy", &c.program, e)) < 0) return r;
    add(l, list, c, l->args[ARGS_PROXY],
        ARGS(FMT("--kubeconfig=%s", agent ? kubelet_config : FMT("%s/proxy.kubeconfig", l->data)),
             FMT("--hostname-override=%s", l->node_name), FMT("--service-cluster-ip-range=%s", l->service_cidr)));
    c = (struct component){.name = "dns", .wait_port = api, .wait_path = agent ? kubelet_config : NULL};
    if ((r = layout_program(l, "dns", "coracle-dns", &c.program, e)) < 0) return r;
    add(l, list, c, NULL,
        ARGS(FMT("--kubeconfig=%s", agent ? kubelet_config : FMT("%s/dns.kubeconfig", l->data)),
             FMT("--listen=%s:53", l->cluster_dns), FMT("--cluster-domain=%s", l->cluster_domain)));
    return 0;
}

/* "127.0.0.1:6443" of "https://127.0.0.1:6443" */
static const char *address_of(const struct layout *l) {
    const char *s = strstr(l->server, "://");
    s = s ? s + 3 : l->server;
    return FMT("%.*s", (int)strcspn(s, "/"), s);
}

/* ---- starting ---- */

static int make_folders(const struct layout *l, struct err *e) {
    static const char *const data[] = {"log", "pki", "manifests", "kubelet", "containers"};
    for (size_t i = 0; i < ARRAY_LEN(data); i++) {
        int r = mkdir_p(layout_data(l, data[i]), str_eq(data[i], "pki") ? 0700 : 0755);
        if (r < 0) return err_errno(e, r, "cannot make %s/%s", l->data, data[i]);
    }
    int r = mkdir_p(l->run, 0755);
    return r < 0 ? err_errno(e, r, "cannot make %s", l->run) : 0;
}

/* The supervisor in a session of its own, its output in a log file. */
static int start_in_background(const struct layout *l, const struct component_list *list, struct err *e) {
    pid_t pid = fork();
    if (pid < 0) return err_errno(e, errno, "fork");
    if (pid > 0) return waitpid(pid, NULL, 0) < 0 ? err_errno(e, errno, "waitpid") : 0;
    setsid();
    if (fork() != 0) _exit(0);
    int log_fd = open(layout_data(l, "log/supervisor.log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (log_fd < 0 || null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(log_fd, 1) < 0 || dup2(log_fd, 2) < 0 ||
        chdir("/") < 0)
        _exit(1);
    log_init("coracle-supervisor", LOG_INFO);
    memory_keep_small();
    struct err se = {0};
    int r = supervisor_run(l, list, &se);
    if (r < 0) log_error("the supervisor cannot run", "error", se.msg, NULL);
    _exit(r < 0);
}

/* ---- waiting ---- */

static bool node_ready(struct client *c, const struct layout *l) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct core_node n;
    if (client_get(c, a, &client_nodes, NULL, l->node_name, &n, NULL) < 0) return false;
    for (size_t i = 0; i < n.status.conditions.n; i++)
        if (str_eq(n.status.conditions.items[i].type, "Ready"))
            return str_eq(n.status.conditions.items[i].status, "True");
    return false;
}

static bool api_ready(struct client *c) {
    struct client_request rq = {.method = "GET", .path = "/readyz", .timeout_ms = 1000};
    struct client_response rs = {0};
    int r = client_do(c, &rq, &rs, NULL);
    client_response_done(&rs);
    return r == 0;
}

/* Prints progress as it comes. */
static int wait_ready(const struct layout *l, int64_t started, int64_t timeout_ns, struct err *e) {
    bool server = str_eq(l->role, "server");
    const char *config = layout_data(l, server ? "admin.kubeconfig" : "kubelet.kubeconfig");
    _cleanup_client_ struct client *c = NULL;
    bool api = false;
    for (;;) {
        if (mono_ns() - started > timeout_ns)
            return err_set(e, -ETIMEDOUT, "%s after %lld s; the logs are in %s/log, and \"coracle status\" says more",
                           api ? "the node is not Ready" : "the API server does not answer",
                           (long long)(timeout_ns / NS_PER_SEC), l->data);
        struct client_config cfg = {.user_agent = "coracle", .timeout_ms = 2000};
        if (!c && access(config, R_OK) == 0 && client_new_from_kubeconfig(config, &cfg, &c, e) < 0) return e->code;
        if (c && !api && api_ready(c)) {
            api = true;
            printf("API server ready    %6.2f s\n", (double)(mono_ns() - started) / 1e9);
            fflush(stdout);
            if (server && addons_ensure(l, c, e) < 0) return e->code;
        }
        if (api && node_ready(c, l)) {
            printf("node %s Ready  %6.2f s\n", l->node_name, (double)(mono_ns() - started) / 1e9);
            return 0;
        }
        usleep(WAIT_STEP_US);
    }
}

static int start_and_wait(struct layout *l, const char *bootstrap, bool foreground, bool wait, int64_t timeout_ns,
                          struct err *e) {
    int64_t started = mono_ns();
    int r = make_folders(l, e);
    if (r == 0 && str_eq(l->role, "server")) r = identity_ensure(l, e);
    if (r == 0) r = layout_save(l, e);
    struct component_list list = {0};
    const char *api = address_of(l);
    if (r == 0 && str_eq(l->role, "server")) r = control_plane(l, &list, api, e);
    if (r == 0) r = node_programs(l, &list, api, bootstrap, e);
    if (r < 0) return r;
    if (layout_supervisor(l))
        printf("already running (supervisor %d); what was given now counts from the next start\n",
               (int)layout_supervisor(l));
    else if (foreground)
        return supervisor_run(l, &list, e);
    else
        r = start_in_background(l, &list, e);
    return r == 0 && wait ? wait_ready(l, started, timeout_ns, e) : r;
}

static int need_root(struct err *e) {
    return geteuid() == 0 ? 0 : err_set(e, -EPERM, "this needs root: containers, network and cgroups");
}

int cmd_up(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN}, stored = l;
    struct flag_list more[LAYOUT_ARGS] = {0};
    bool foreground = false, wait = true, local_storage = true, legacy_tokens = false;
    int64_t timeout = 60 * NS_PER_SEC;
    const struct flag flags[] = {
        LAYOUT_FLAGS(l),
        {"legacy-service-account-tokens", 0, FLAG_BOOL, &legacy_tokens, NULL,
         "a Secret with a token for every ServiceAccount, for clients of Kubernetes before 1.24"},
        {"local-storage", 0, FLAG_BOOL, &local_storage, NULL,
         "a default StorageClass, local-path: folders of the nodes' disks"},
        {"store", 0, FLAG_STR, &l.store, "KIND",
         "where objects are kept: sqlite (default) or etcd (Debian's etcd-server)"},
        {"node-name", 0, FLAG_STR, &l.node_name, "NAME", "name of this node (default: the host's name)"},
        {"node-ip", 0, FLAG_STR, &l.node_ip, "ADDR", "address of this node (default: the one of the default route)"},
        {"secure-port", 0, FLAG_INT, &l.port, "PORT", "port of the API server; 0: 6443"},
        {"cluster-cidr", 0, FLAG_STR, &l.cluster_cidr, "CIDR", "the pods' network (default: 10.244.0.0/16)"},
        {"service-cidr", 0, FLAG_STR, &l.service_cidr, "CIDR", "the services' network (default: 10.96.0.0/16)"},
        {"cluster-dns", 0, FLAG_STR, &l.cluster_dns, "ADDR", "address of the cluster's DNS (default: 10.96.0.10)"},
        {"cluster-domain", 0, FLAG_STR, &l.cluster_domain, "NAME", "the cluster's zone (default: cluster.local)"},
        {"bridge", 0, FLAG_STR, &l.bridge, "NAME", "the pods' bridge (default: coracle0)"},
        {"container-runtime-endpoint", 0, FLAG_STR, &l.runtime, "SOCKET",
         "run pods on this CRI runtime (containerd, CRI-O) instead of coracle's shim"},
        LAYOUT_SERVER_ARGS(more),
        LAYOUT_NODE_ARGS(more),
        {"certificate-validity", 0, FLAG_STR, &l.certificate_validity, "TIME",
         "how long certificates are good for; they are renewed before (default: a year)"},
        {"foreground", 0, FLAG_BOOL, &foreground, NULL, "supervise in the foreground (for systemd)"},
        {"wait", 0, FLAG_BOOL, &wait, NULL, "wait until the node is Ready"},
        {"timeout", 0, FLAG_DURATION, &timeout, "TIME", "how long to wait"},
        {0}};
    flags_main("coracle up", "coracle up starts a cluster on this machine, or goes on with the one that is there.",
               flags, argc, argv, 0);
    layout_take_args(&l, more);
    if (legacy_tokens) l.legacy_tokens = "true";
    if (!local_storage) l.local_storage = "false";
    stored.data = l.data;
    stored.run = l.run;
    int r = need_root(&e);
    if (r == 0 && layout_load(&stored, NULL) == 0) {
        if (l.store && !str_eq(l.store, stored.store))
            r = err_set(&e, -EINVAL, "the cluster in %s keeps its objects in %s; \"coracle down --purge\" removes it",
                        l.data, stored.store);
        else
            r = layout_load(&l, &e);
    }
    if (r == 0 && l.store && !str_eq(l.store, "sqlite") && !str_eq(l.store, "etcd"))
        r = err_set(&e, -EINVAL, "--store is sqlite or etcd, not \"%s\"", l.store);
    int64_t validity;
    if (r == 0 && l.certificate_validity &&
        (duration_parse(l.certificate_validity, &validity) < 0 || validity < NS_PER_SEC))
        r = err_set(&e, -EINVAL, "--certificate-validity is a time, as \"2160h\", not \"%s\"", l.certificate_validity);
    if (r == 0) r = layout_complete(&l, &e);
    if (r == 0 && !l.node_ip_found && !netlink_has_address(l.node_ip))
        printf("note: this machine does not have the address %s that was given with --node-ip\n", l.node_ip);
    if (r == 0) r = start_and_wait(&l, NULL, foreground, wait, timeout, &e);
    return r < 0 ? cli_fail(&e) : 0;
}

int cmd_join(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct layout l = {.a = a, .data = LAYOUT_DATA, .run = LAYOUT_RUN, .role = "agent"};
    struct flag_list more[LAYOUT_ARGS] = {0};
    const char *config = NULL;
    bool foreground = false, wait = true;
    int64_t timeout = 60 * NS_PER_SEC;
    const struct flag flags[] = {
        LAYOUT_FLAGS(l),
        {"node-name", 0, FLAG_STR, &l.node_name, "NAME", "name of this node (default: the host's name)"},
        {"node-ip", 0, FLAG_STR, &l.node_ip, "ADDR", "address of this node (default: the one of the default route)"},
        {"bridge", 0, FLAG_STR, &l.bridge, "NAME", "the pods' bridge (default: coracle0)"},
        {"container-runtime-endpoint", 0, FLAG_STR, &l.runtime, "SOCKET",
         "run pods on this CRI runtime (containerd, CRI-O) instead of coracle's shim"},
        LAYOUT_NODE_ARGS(more),
        {"foreground", 0, FLAG_BOOL, &foreground, NULL, "supervise in the foreground (for systemd)"},
        {"wait", 0, FLAG_BOOL, &wait, NULL, "wait until the node is Ready"},
        {"timeout", 0, FLAG_DURATION, &timeout, "TIME", "how long to wait"},
        {0}};
    int n = flags_main("coracle join",
                       "coracle join FILE makes this machine a node of the cluster that FILE is for.\n"
                       "FILE is what \"coracle token create --kubeconfig FILE\" wrote on the server.",
                       flags, argc, argv, 1);
    struct client_config cfg = {0};
    layout_take_args(&l, more);
    int r = need_root(&e);
    if (r == 0 && n == 1) {
        config = argv[1];
        r = client_config_from_kubeconfig(a, config, &cfg, &e);
        l.server = cfg.server;
        layout_load(&l, NULL); /* a node that joins again keeps its name and its settings */
    } else if (r == 0) {
        r = layout_load(&l, NULL);
        if (r < 0) err_set(&e, r, "say which cluster to join: coracle join FILE (see coracle join --help)");
    }
    if (r == 0) r = layout_complete(&l, &e);
    if (r == 0) r = make_folders(&l, &e);
    const char *bootstrap = layout_data(&l, "bootstrap.kubeconfig");
    if (r == 0 && config) {
        _cleanup_free_ char *text = NULL;
        size_t len;
        /* what the node's programs had may name another server: the kubelet writes it anew, and the others wait for it */
        if (!layout_supervisor(&l)) unlink(layout_data(&l, "kubelet.kubeconfig"));
        r = file_read(config, 1 << 20, &text, &len);
        if (r == 0) r = file_write_atomic(bootstrap, text, len, 0600);
        if (r == 0 && cfg.ca_data)
            r = file_write_atomic(layout_data(&l, "pki/ca.crt"), cfg.ca_data, strlen(cfg.ca_data), 0644);
        if (r < 0) err_errno(&e, r, "cannot use %s", config);
    }
    if (r == 0) r = start_and_wait(&l, bootstrap, foreground, wait, timeout, &e);
    return r < 0 ? cli_fail(&e) : 0;
}
