/* coracle-shim: Kubernetes' Container Runtime Interface (CRI v1) on a unix socket, over crun and conmon.
 *
 *   coracle-shim [flags]                       serve
 *   coracle-shim image import FILE [NAME]      take an OCI or docker archive into the store of the running shim
 *   coracle-shim cleanup  (or --cleanup)       kill and remove everything the shim made
 *
 * Read on in shim.h (the picture), cri_runtime.c (the methods), sandbox.c, container.c, crun.c, net.c, image.c. */
#include <curl/curl.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/file.h>

#include "cri_image.h"
#include "pkg/base/flags.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"
#include "pkg/grpc/grpc.h"
#include "shim.h"

enum { SHIM_UNARY_THREADS = 64, SHIM_STREAMS = 32, IMPORT_TIMEOUT_MS = 30 * 60 * 1000, SHIM_MAX_METHODS = 64 };

struct options {
    struct shim_config cfg;
    int64_t v;
    bool cleanup, purge_images, pinned;
};

static int fail(const struct err *e) {
    fprintf(stderr, "coracle-shim: %s\n", e->msg);
    return 1;
}

/* One shim a state folder: the lock goes with the process, so a killed shim leaves none behind. */
static int lock_state(const char *state, struct err *e) {
    char path[PATH_MAX];
    int r = mkdir_p(state, 0711);
    if (r < 0) return err_errno(e, r, "make %s", state);
    snprintf(path, sizeof(path), "%s/lock", state);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return err_errno(e, errno, "open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    r = err_set(e, -EBUSY, "another coracle-shim runs on %s", state);
    close(fd);
    return r;
}

/* The helper beside this program. */
static const char *default_helper(void) {
    static char path[PATH_MAX + 32];
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0) return "coracle-shim-helper";
    self[n] = 0;
    *strrchr(self, '/') = 0;
    snprintf(path, sizeof(path), "%s/coracle-shim-helper", self);
    return path;
}

/* Every method passes here: what fails is logged once, and with -v 4 every call. */
static int call(struct grpc_call *c, struct err *e) {
    const struct grpc_method *m = NULL;
    for (size_t i = 0; i < cri_runtime_methods_n; i++)
        if (cri_runtime_methods[i].rpc == c->rpc) m = &cri_runtime_methods[i];
    for (size_t i = 0; i < cri_image_methods_n; i++)
        if (cri_image_methods[i].rpc == c->rpc) m = &cri_image_methods[i];
    struct err own = {0}, *why = e ? e : &own;
    int64_t start = mono_ns();
    int r = m->fn(c, why);
    char took[KTIME_MAX];
    duration_format((mono_ns() - start) / 1000 * 1000, took);
    if (r < 0 && r != -ENOENT)
        log_warn("call failed", "method", c->rpc->path, "took", took, "error", why->msg, NULL);
    else
        log_debug("call", "method", c->rpc->path, "took", took, "error", r < 0 ? why->msg : "", NULL);
    err_done(&own);
    return r;
}

static int serve(const struct options *o, struct err *e) {
    sigset_t set;
    int sig;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* before any thread, so that all inherit it */
    signal(SIGPIPE, SIG_IGN);
    _cleanup_close_ int lock = lock_state(o->cfg.state, e);
    if (lock < 0) return lock;
    struct shim *s = shim_new(&o->cfg, e);
    if (!s) return -EIO;
    struct grpc_method methods[SHIM_MAX_METHODS];
    size_t n = 0;
    for (size_t i = 0; i < cri_runtime_methods_n; i++)
        methods[n++] = (struct grpc_method){cri_runtime_methods[i].rpc, call};
    for (size_t i = 0; i < cri_image_methods_n; i++)
        methods[n++] = (struct grpc_method){cri_image_methods[i].rpc, call};
    struct grpc_server_options go = {.unix_path = o->cfg.listen,
                                     .unix_mode = 0600,
                                     .methods = methods,
                                     .n_methods = n,
                                     .arg = s,
                                     .threads = SHIM_UNARY_THREADS,
                                     .stream_threads = SHIM_STREAMS};
    struct grpc_server *server = grpc_server_new(&go, e);
    if (!server) {
        shim_free(s);
        return -EIO;
    }
    log_info("serving", "socket", o->cfg.listen, "root", o->cfg.root, "state", o->cfg.state, NULL);
    while (sigwait(&set, &sig) != 0) {
    }
    log_info("stopping; containers keep running", NULL);
    s->stopping = true;
    grpc_server_free(server);
    shim_free(s);
    return 0;
}

static int import_image(const struct options *o, const char *file, const char *name, struct err *e) {
    char path[PATH_MAX];
    _cleanup_arena_ struct arena *a = arena_new();
    if (!realpath(file, path)) return err_errno(e, errno, "%s", file);
    struct grpc_client *c = grpc_client_new(o->cfg.listen);
    struct image_import_request q = {.path = path, .name = name, .pinned = o->pinned};
    struct image_import_response r = {0};
    int rc = grpc_call(c, &api_rpc_image_import, &q, a, &r, IMPORT_TIMEOUT_MS, e);
    for (size_t i = 0; rc == 0 && i < r.images.n; i++) puts(r.images.items[i]);
    grpc_client_free(c);
    return rc;
}

static int cleanup(const struct options *o, struct err *e) {
    _cleanup_close_ int lock = lock_state(o->cfg.state, e);
    return lock < 0 ? lock : shim_cleanup(&o->cfg, o->purge_images, e);
}

static int run(const struct options *o, int n, char **args, struct err *e) {
    if (o->cleanup || (n == 1 && str_eq(args[0], "cleanup"))) return cleanup(o, e);
    if (n == 0) return serve(o, e);
    if (n >= 3 && str_eq(args[0], "image") && str_eq(args[1], "import"))
        return import_image(o, args[2], n > 3 ? args[3] : NULL, e);
    return err_set(e, -EINVAL, "unknown command %s (see --help)", args[0]);
}

int main(int argc, char **argv) {
    struct options o = {.v = 2,
                        .cfg = {.listen = "/run/coracle/shim.sock",
                                .root = "/var/lib/coracle/containers",
                                .state = "/run/coracle/shim",
                                .runtime = "/usr/bin/crun",
                                .monitor = "/usr/bin/conmon",
                                .helper = default_helper(),
                                .bridge = "coracle0",
                                .pod_cidr = "",
                                .cluster_cidr = "",
                                .cgroup_root = "/coracle",
                                .cni_conf_dir = "/etc/cni/net.d",
                                .cni_bin_dir = "/opt/cni/bin",
                                .insecure_registries = "",
                                .registries = "/etc/coracle/registries.yaml"}};
    const struct flag flags[] = {
        {"listen", 0, FLAG_STR, &o.cfg.listen, "PATH", "unix socket to serve CRI on"},
        {"root", 0, FLAG_STR, &o.cfg.root, "DIR", "images and what must survive a reboot"},
        {"state", 0, FLAG_STR, &o.cfg.state, "DIR", "runtime state: pins, sockets, mounts"},
        {"runtime", 0, FLAG_STR, &o.cfg.runtime, "FILE", "the OCI runtime (crun)"},
        {"runtime-handler", 0, FLAG_LIST, &o.cfg.handlers, "NAME=PROGRAM,...",
         "further OCI runtimes, for runtime classes (runc=/usr/sbin/runc)"},
        {"monitor", 0, FLAG_STR, &o.cfg.monitor, "FILE", "the monitor of containers (conmon)"},
        {"helper", 0, FLAG_STR, &o.cfg.helper, "FILE", "coracle-shim-helper, usually beside this program"},
        {"pod-cidr", 0, FLAG_STR, &o.cfg.pod_cidr, "CIDR", "addresses for pods; else the kubelet says it"},
        {"cluster-cidr", 0, FLAG_STR, &o.cfg.cluster_cidr, "CIDRS", "ranges pods reach without masquerade"},
        {"bridge", 0, FLAG_STR, &o.cfg.bridge, "NAME", "the pods' bridge, when no CNI is configured"},
        {"mtu", 0, FLAG_INT, &o.cfg.mtu, "N", "of pod interfaces; 0 leaves the kernel's"},
        {"cgroup-root", 0, FLAG_STR, &o.cfg.cgroup_root, "PATH", "control group of sandboxes that name no parent"},
        {"cgroup-driver", 0, FLAG_IGNORED, NULL, "NAME", "cgroupfs, the only one"},
        {"cni-conf-dir", 0, FLAG_STR, &o.cfg.cni_conf_dir, "DIR", "CNI configurations; the first found is used"},
        {"cni-bin-dir", 0, FLAG_STR, &o.cfg.cni_bin_dir, "DIR", "CNI plugins"},
        {"insecure-registries", 0, FLAG_STR, &o.cfg.insecure_registries, "HOSTS", "registries without TLS"},
        {"registries", 0, FLAG_STR, &o.cfg.registries, "FILE",
         "mirrors, credentials and TLS settings, as k3s' registries.yaml"},
        {"cleanup", 0, FLAG_BOOL, &o.cleanup, NULL, "kill and remove all sandboxes, mounts, links, rules; then exit"},
        {"purge-images", 0, FLAG_BOOL, &o.purge_images, NULL, "with cleanup: remove the image store too"},
        {"pinned", 0, FLAG_BOOL, &o.pinned, NULL, "with image import: garbage collection keeps the image"},
        {"v", 'v', FLAG_INT, &o.v, "N", "log level: 0 quiet, 4 debug"},
        {0}};
    static const char about[] =
        "coracle-shim: a Container Runtime Interface (CRI v1) server over crun and conmon.\n"
        "Commands: none serves; image import FILE [NAME]; cleanup.";
    int n = flags_main("coracle-shim", about, flags, argc, argv, 4);
    _cleanup_err_ struct err e = {0};
    log_init("shim", o.v >= 4 ? LOG_DEBUG : LOG_INFO);
    memory_keep_small();
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int r = run(&o, n, argv + 1, &e);
    return r < 0 ? fail(&e) : 0;
}
