/* See plugins.h. One thread: it looks through the folder when inotify says that something changed there, and
 * again after a while when a plugin could not be registered. A socket is known by its path and inode, so that
 * a plugin that was restarted (a new socket at the old path) registers again. */
#include "kubelet/plugins.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "kubelet/csi.h"
#include "kubelet/devices.h"
#include "kubelet/dra.h"
#include "pkg/api/pluginregistration.h"
#include "pkg/grpc/grpc.h"

enum { CALL_MS = 5000, RETRY_MS = 1000, SETTLE_MS = 20, MAX_PLUGINS = 256, MAX_DEPTH = 3 };

struct plugin {
    char *path, *type, *name, *endpoint; /* type NULL: not registered (yet) */
    ino_t inode;
    struct timespec made;
    bool seen, told; /* told: its failure is logged */
};

struct plugins {
    struct kubelet *kl;
    char *dir;
    int inotify, wake;
    pthread_t thread;
    bool stopping;
    struct plugin *items;
    size_t n, cap;
};

static int add_csi(struct kubelet *kl, const struct pluginregistration_plugin_info *i, struct err *e) {
    return csi_register(kl->csi, i->name, i->endpoint, &i->supported_versions, e);
}
static void drop_csi(struct kubelet *kl, const char *name, const char *endpoint) { csi_unregister(kl->csi, name); }
static int add_device(struct kubelet *kl, const struct pluginregistration_plugin_info *i, struct err *e) {
    return devices_register(kl->devices, i->name, i->endpoint, &i->supported_versions, e);
}
static void drop_device(struct kubelet *kl, const char *name, const char *endpoint) {
    devices_unregister(kl->devices, name);
}
static int add_dra(struct kubelet *kl, const struct pluginregistration_plugin_info *i, struct err *e) {
    return dra_register(kl->dra, i->name, i->endpoint, &i->supported_versions, e);
}
static void drop_dra(struct kubelet *kl, const char *name, const char *endpoint) {
    dra_unregister(kl->dra, name, endpoint);
}

static const struct plugin_type {
    const char *type;
    int (*add)(struct kubelet *kl, const struct pluginregistration_plugin_info *i, struct err *e);
    void (*drop)(struct kubelet *kl, const char *name, const char *endpoint);
} plugin_types[] = {
    {"CSIPlugin", add_csi, drop_csi}, {"DevicePlugin", add_device, drop_device}, {"DRAPlugin", add_dra, drop_dra}};

static const struct plugin_type *type_of(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(plugin_types); i++)
        if (str_eq(plugin_types[i].type, name)) return &plugin_types[i];
    return NULL;
}

/* ---- one plugin ---- */

static void forget(struct plugins *p, struct plugin *x) {
    const struct plugin_type *t = x->type ? type_of(x->type) : NULL;
    if (t) {
        log_info("plugin gone", "type", x->type, "name", x->name, NULL);
        t->drop(p->kl, x->name, x->endpoint);
    }
    free(x->type);
    free(x->name);
    free(x->endpoint);
    x->type = x->name = x->endpoint = NULL;
}

/* Asks the plugin who it is and takes it in. Its answer to "did that work" is not awaited for long. */
static int meet(struct plugins *p, struct plugin *x, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct grpc_client *c = grpc_client_new(x->path);
    struct pluginregistration_info_request ask = {0};
    struct pluginregistration_plugin_info info = {0};
    int r = grpc_call(c, &api_rpc_pluginregistration_registration_get_info, &ask, a, &info, CALL_MS, e);
    if (r == 0) {
        struct err why = {0};
        const struct plugin_type *t = type_of(info.type);
        if (!t)
            r = err_set(&why, -ENOTSUP, "plugins of type %s are not supported on this node", str_or_empty(info.type));
        else if (str_empty(info.name))
            r = err_set(&why, -EINVAL, "the plugin gives no name");
        else {
            if (str_empty(info.endpoint)) info.endpoint = x->path;
            r = t->add(p->kl, &info, &why);
        }
        struct pluginregistration_registration_status st = {.plugin_registered = r == 0,
                                                            .error = r < 0 ? why.msg : NULL};
        struct pluginregistration_registration_status_response ack = {0};
        grpc_call(c, &api_rpc_pluginregistration_registration_notify_registration_status, &st, a, &ack, CALL_MS, NULL);
        if (r == 0) {
            x->type = xstrdup(info.type);
            x->name = xstrdup(info.name);
            x->endpoint = xstrdup(info.endpoint);
            log_info("plugin registered", "type", x->type, "name", x->name, "endpoint", info.endpoint, NULL);
        } else {
            err_move(e, &why);
        }
    }
    grpc_client_free(c);
    return r;
}

/* ---- the folder ---- */

static struct plugin *plugin_at(struct plugins *p, const char *path) {
    for (size_t i = 0; i < p->n; i++)
        if (str_eq(p->items[i].path, path)) return &p->items[i];
    if (p->n >= MAX_PLUGINS) return NULL;
    VEC_GROW(p->items, p->n, p->cap);
    p->items[p->n] = (struct plugin){.path = xstrdup(path)};
    return &p->items[p->n++];
}

static void look(struct plugins *p, const char *dir, int depth) {
    DIR *d = opendir(dir);
    for (struct dirent *ent; d && (ent = readdir(d));) {
        struct stat st;
        if (ent->d_name[0] == '.') continue;
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, ent->d_name);
        if (lstat(path, &st) < 0) continue;
        if (S_ISDIR(st.st_mode) && depth < MAX_DEPTH) {
            inotify_add_watch(p->inotify, path, IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM);
            look(p, path, depth + 1);
        }
        struct plugin *x = S_ISSOCK(st.st_mode) ? plugin_at(p, path) : NULL;
        if (!x) continue;
        bool same =
            x->inode == st.st_ino && x->made.tv_sec == st.st_ctim.tv_sec && x->made.tv_nsec == st.st_ctim.tv_nsec;
        if (!same) {
            forget(p, x);
            x->told = false;
        }
        x->inode = st.st_ino;
        x->made = st.st_ctim;
        x->seen = true;
    }
    if (d) closedir(d);
}

/* True when a plugin is to be tried again. */
static bool look_through(struct plugins *p) {
    bool again = false;
    for (size_t i = 0; i < p->n; i++) p->items[i].seen = false;
    look(p, p->dir, 1);
    for (size_t i = p->n; i-- > 0;) {
        struct plugin *x = &p->items[i];
        if (!x->seen) {
            forget(p, x);
            free(x->path);
            p->items[i] = p->items[--p->n];
            continue;
        }
        _cleanup_err_ struct err e = {0};
        if (x->type || meet(p, x, &e) == 0) continue;
        if (!x->told) log_warn("cannot register a plugin", "socket", x->path, "error", e.msg, NULL);
        x->told = again = true;
    }
    return again;
}

static void *plugins_thread(void *arg) {
    struct plugins *p = arg;
    while (!p->stopping) {
        bool again = look_through(p);
        struct pollfd fds[] = {{.fd = p->inotify, .events = POLLIN}, {.fd = p->wake, .events = POLLIN}};
        if (poll(fds, 2, again ? RETRY_MS : -1) <= 0 || p->stopping) continue;
        struct pollfd stop = {.fd = p->wake, .events = POLLIN};
        poll(&stop, 1, SETTLE_MS); /* between bind() and listen() of the plugin */
        char events[4096];
        if (read(p->inotify, events, sizeof(events)) < 0 && errno != EAGAIN) break;
    }
    return NULL;
}

struct plugins *plugins_new(struct kubelet *kl) {
    struct plugins *p = xcalloc(1, sizeof(*p));
    _cleanup_free_ char *own = xasprintf("%s/plugins", kl->cfg.root_dir);
    p->kl = kl;
    p->dir = xasprintf("%s/plugins_registry", kl->cfg.root_dir);
    p->inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    p->wake = eventfd(0, EFD_CLOEXEC);
    int r = mkdir_p(own, 0750);
    if (r == 0) r = mkdir_p(p->dir, 0750);
    if (r == 0 && inotify_add_watch(p->inotify, p->dir, IN_CREATE | IN_DELETE | IN_MOVED_TO | IN_MOVED_FROM) < 0)
        r = -errno;
    if (r == 0) r = kubelet_thread(&p->thread, plugins_thread, p, false);
    if (r == 0) return p;
    log_warn("plugins cannot register", "folder", p->dir, "error", strerror(-r), NULL);
    close(p->inotify);
    close(p->wake);
    free(p->dir);
    free(p);
    return NULL;
}

void plugins_free(struct plugins *p) {
    if (!p) return;
    p->stopping = true;
    eventfd_write(p->wake, 1);
    pthread_join(p->thread, NULL);
    for (size_t i = 0; i < p->n; i++) {
        free(p->items[i].path);
        free(p->items[i].type);
        free(p->items[i].name);
        free(p->items[i].endpoint);
    }
    free(p->items);
    close(p->inotify);
    close(p->wake);
    free(p->dir);
    free(p);
}
