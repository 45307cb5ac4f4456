#include "cli/layout.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "pkg/json/json.h"
#include "pkg/netlink/netlink.h"

char *layout_data(const struct layout *l, const char *name) { return arena_printf(l->a, "%s/%s", l->data, name); }
char *layout_run(const struct layout *l, const char *name) { return arena_printf(l->a, "%s/%s", l->run, name); }

/* The settings that are stored, by name. */
static const struct {
    const char *key;
    size_t offset;
    const char *dflt;
} settings[] = {
    {"role", offsetof(struct layout, role), "server"},
    {"store", offsetof(struct layout, store), "sqlite"},
    {"nodeName", offsetof(struct layout, node_name), NULL},
    {"nodeIP", offsetof(struct layout, node_ip), NULL},
    {"server", offsetof(struct layout, server), NULL},
    {"clusterCIDR", offsetof(struct layout, cluster_cidr), "10.244.0.0/16"},
    {"serviceCIDR", offsetof(struct layout, service_cidr), "10.96.0.0/16"},
    {"clusterDNS", offsetof(struct layout, cluster_dns), "10.96.0.10"},
    {"clusterDomain", offsetof(struct layout, cluster_domain), "cluster.local"},
    {"bridge", offsetof(struct layout, bridge), "coracle0"},
    {"containerRuntimeEndpoint", offsetof(struct layout, runtime), NULL},
    {"legacyServiceAccountTokens", offsetof(struct layout, legacy_tokens), "false"},
    {"certificateValidity", offsetof(struct layout, certificate_validity), NULL},
    {"localStorage", offsetof(struct layout, local_storage), "true"},
};

static const char *const args_keys[LAYOUT_ARGS] = {[ARGS_APISERVER] = "kubeAPIServerArgs",
                                                   [ARGS_CONTROLLERS] = "kubeControllerManagerArgs",
                                                   [ARGS_SCHEDULER] = "kubeSchedulerArgs",
                                                   [ARGS_KUBELET] = "kubeletArgs",
                                                   [ARGS_PROXY] = "kubeProxyArgs"};

static const char **setting(const struct layout *l, size_t i) {
    return (const char **)(void *)((char *)(uintptr_t)l + settings[i].offset);
}

int layout_load(struct layout *l, struct err *e) {
    _cleanup_free_ char *text = NULL;
    size_t len;
    const char *path = layout_data(l, "coracle.json");
    int r = file_read(path, 65536, &text, &len);
    if (r < 0) return err_errno(e, r, "no cluster was set up here (%s)", path);
    struct json *v;
    if ((r = json_parse(l->a, text, len, &v, NULL, e)) < 0) return err_wrap(e, "%s", path);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const char *s = json_get_str(v, settings[i].key);
        if (s && !*setting(l, i)) *setting(l, i) = s;
    }
    if (!l->port) l->port = json_get_int(v, "port", 0);
    for (size_t i = 0; i < LAYOUT_ARGS; i++) {
        const struct json *s, *list = json_get(v, args_keys[i]);
        if (l->args[i] || !json_len(list)) continue; /* given anew */
        const char **out = arena_zalloc(l->a, (json_len(list) + 1) * sizeof(*out));
        l->args[i] = out;
        JSON_FOREACH(s, list)
            if (json_as_str(s)) *out++ = json_as_str(s);
    }
    return 0;
}

int layout_save(const struct layout *l, struct err *e) {
    struct json *v = json_object(l->a);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++)
        if (*setting(l, i) && !(l->node_ip_found && setting(l, i) == (const char **)&l->node_ip))
            json_set_str(l->a, v, settings[i].key, *setting(l, i));
    json_set_int(l->a, v, "port", l->port);
    for (size_t i = 0; i < LAYOUT_ARGS; i++)
        for (size_t k = 0; l->args[i] && l->args[i][k]; k++)
            json_append(l->a, json_ensure_array(l->a, v, args_keys[i]), json_str(l->a, l->args[i][k]));
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write_pretty(&b, v);
    buf_addc(&b, '\n');
    int r = mkdir_p(l->data, 0755);
    if (r == 0) r = file_write_atomic(layout_data(l, "coracle.json"), b.data, b.len, 0644);
    return r < 0 ? err_errno(e, r, "cannot write to %s", l->data) : 0;
}

void layout_take_args(struct layout *l, struct flag_list lists[LAYOUT_ARGS]) {
    for (size_t i = 0; i < LAYOUT_ARGS; i++) {
        const char **out = arena_zalloc(l->a, (lists[i].n + 1) * sizeof(*out));
        for (size_t k = 0; k < lists[i].n; k++) out[k] = arena_strdup(l->a, lists[i].items[k]);
        if (lists[i].n) l->args[i] = out;
        flag_list_done(&lists[i]);
    }
}

/* A host name as Kubernetes takes it: lower case. */
static const char *host_name(struct arena *a) {
    char host[256] = "";
    if (gethostname(host, sizeof(host) - 1) < 0 || !host[0]) return "node";
    for (char *s = host; *s; s++)
        if (*s >= 'A' && *s <= 'Z') *s = (char)(*s + 32);
    return arena_strdup(a, host);
}

int layout_complete(struct layout *l, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(settings); i++)
        if (!*setting(l, i)) *setting(l, i) = settings[i].dflt;
    if (!l->node_name) l->node_name = host_name(l->a);
    if (!l->node_ip) {
        char ip[64];
        int r = netlink_node_address(ip, e);
        if (r < 0) return r;
        l->node_ip = arena_strdup(l->a, ip);
        l->node_ip_found = true;
    }
    if (!l->port) l->port = 6443;
    if (!l->server) l->server = arena_printf(l->a, "https://127.0.0.1:%lld", (long long)l->port);
    return 0;
}

int layout_program(const struct layout *l, const char *folder, const char *name, const char **out, struct err *e) {
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n < 0) return err_errno(e, errno, "/proc/self/exe");
    self[n] = 0;
    *strrchr(self, '/') = 0;
    const char *places[] = {arena_printf(l->a, "%s/%s", self, name),
                            arena_printf(l->a, "%s/../%s/%s", self, folder, name)};
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        if (access(places[i], X_OK) == 0) {
            *out = places[i];
            return 0;
        }
    return err_set(e, -ENOENT, "%s is not installed beside %s", name, self);
}

const char *layout_runtime(const struct layout *l) { return l->runtime ? l->runtime : layout_run(l, "shim.sock"); }

pid_t layout_supervisor(const struct layout *l) {
    _cleanup_close_ int fd = open(layout_run(l, "supervisor.pid"), O_RDWR | O_CLOEXEC);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fd < 0 || fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK) return 0;
    return lock.l_pid;
}

/* Mounted over: the folder's file system root is another folder. */
static bool same_folder(const char *x, const char *y) {
    struct stat a, b;
    return stat(x, &a) == 0 && stat(y, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

const char *layout_kubelet(const struct layout *l, bool make) {
    const char *own = layout_data(l, "kubelet");
    if (!str_eq(l->data, LAYOUT_DATA)) return own;
    if (same_folder(own, LAYOUT_KUBELET)) return LAYOUT_KUBELET;
    if (!make) return own;
    /* rmdir tells whether it is empty and nobody's mount */
    if (rmdir(LAYOUT_KUBELET) < 0 && errno != ENOENT) return own;
    if (mkdir_p(LAYOUT_KUBELET, 0755) < 0 || mount(own, LAYOUT_KUBELET, NULL, MS_BIND, NULL) < 0) return own;
    return LAYOUT_KUBELET;
}
