#include "shim.h"

#include <limits.h>

#include "pkg/base/bytes.h"
#include "spec.h"

void shim_new_id(char out[SHIM_ID + 1]) {
    uint8_t raw[SHIM_ID / 2];
    random_bytes(raw, sizeof(raw));
    hex_encode(raw, sizeof(raw), out);
}

/* ---- lookups ---- */

/* An exact id, or a prefix that only one has. Caller holds the lock. */
static void *find_prefix(const struct map *m, const char *id) {
    void *v = map_get(m, id), *found = NULL;
    if (v || !is_hex_id(id, 6)) return v;
    size_t it = 0;
    const char *key;
    while (map_next(m, &it, &key, &v)) {
        if (!str_has_prefix(key, id)) continue;
        if (found) return NULL;
        found = v;
    }
    return found;
}

struct sandbox *sandbox_get(struct shim *s, const char *id, struct err *e) {
    pthread_mutex_lock(&s->lock);
    struct sandbox *sb = find_prefix(&s->sandboxes, str_or_empty(id));
    if (sb) sb->refs++;
    pthread_mutex_unlock(&s->lock);
    if (!sb) err_set(e, -ENOENT, "sandbox \"%s\" not found", str_or_empty(id));
    return sb;
}

struct container *container_get(struct shim *s, const char *id, struct err *e) {
    pthread_mutex_lock(&s->lock);
    struct container *c = find_prefix(&s->containers, str_or_empty(id));
    if (c) c->refs++;
    pthread_mutex_unlock(&s->lock);
    if (!c) err_set(e, -ENOENT, "container \"%s\" not found", str_or_empty(id));
    return c;
}

void sandbox_put(struct shim *s, struct sandbox *sb) {
    if (!sb) return;
    pthread_mutex_lock(&s->lock);
    bool last = --sb->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (!last) return;
    pthread_mutex_destroy(&sb->op);
    arena_free(sb->arena);
    free(sb);
}

void container_put(struct shim *s, struct container *c) {
    if (!c) return;
    pthread_mutex_lock(&s->lock);
    bool last = --c->refs == 0;
    pthread_mutex_unlock(&s->lock);
    if (!last) return;
    sandbox_put(s, c->sandbox);
    pthread_mutex_destroy(&c->op);
    arena_free(c->arena);
    free(c);
}

void sandbox_all(struct shim *s, struct arena *a, struct sandbox ***items, size_t *n) {
    size_t it = 0;
    const char *key;
    void *v;
    *n = 0;
    pthread_mutex_lock(&s->lock);
    *items = arena_alloc(a, (s->sandboxes.n + 1) * sizeof(**items));
    while (map_next(&s->sandboxes, &it, &key, &v)) {
        (*items)[(*n)++] = v;
        ((struct sandbox *)v)->refs++;
    }
    pthread_mutex_unlock(&s->lock);
}

void container_all(struct shim *s, struct arena *a, const char *sandbox, struct container ***items, size_t *n) {
    size_t it = 0;
    const char *key;
    void *v;
    *n = 0;
    pthread_mutex_lock(&s->lock);
    *items = arena_alloc(a, (s->containers.n + 1) * sizeof(**items));
    while (map_next(&s->containers, &it, &key, &v)) {
        struct container *c = v;
        if (sandbox && !str_eq(c->sandbox->id, sandbox)) continue;
        (*items)[(*n)++] = c;
        c->refs++;
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- the instance ---- */

struct runtime *runtime_by_handler(struct shim *s, const char *handler) {
    if (str_empty(handler) || str_eq(handler, "crun")) return s->runtime;
    for (size_t i = 0; i < s->n_handlers; i++)
        if (str_eq(s->handlers[i].name, handler)) return s->handlers[i].runtime;
    return NULL;
}

struct runtime *runtime_of(struct shim *s, const struct container *c) {
    struct runtime *r = runtime_by_handler(s, c->sandbox->handler);
    return r ? r : s->runtime; /* a handler that was taken out of the configuration: what it left is cleaned up */
}

static int add_handlers(struct shim *s, struct runtime_options o, struct err *e) {
    o.secondary = true;
    for (size_t i = 0; i < s->cfg.handlers.n; i++) {
        const char *text = s->cfg.handlers.items[i], *eq = strchr(text, '=');
        if (!eq || eq == text || eq[1] != '/' || s->n_handlers >= SHIM_HANDLERS_MAX)
            return err_set(e, -EINVAL, "runtime handler %s: NAME=/PROGRAM, and at most %d of them", text,
                           SHIM_HANDLERS_MAX);
        if (access(eq + 1, X_OK) < 0) continue; /* sandboxes that ask for it are told */
        o.program = eq + 1;
        struct shim_handler *h = &s->handlers[s->n_handlers];
        h->runtime = runtime_new(&o, e);
        if (!h->runtime) return -EIO;
        h->name = xstrndup(text, (size_t)(eq - text));
        s->n_handlers++;
    }
    return 0;
}

static struct shim *shim_alloc(const struct shim_config *cfg, struct err *e) {
    static const char *const root_dirs[] = {"sandboxes", "containers"};
    struct shim *s = xcalloc(1, sizeof(*s));
    s->cfg = *cfg;
    s->watch_fd = s->watch_stop = -1;
    s->next_event = 1;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->lock, NULL);
    for (size_t i = 0; i < ARRAY_LEN(root_dirs); i++) {
        _cleanup_free_ char *a = xasprintf("%s/%s", cfg->root, root_dirs[i]);
        _cleanup_free_ char *b = xasprintf("%s/%s", cfg->state, root_dirs[i]);
        int r = mkdir_p(a, 0711);
        if (r == 0) r = mkdir_p(b, 0711);
        if (r < 0) {
            err_errno(e, r, "prepare %s and %s", a, b);
            return shim_free(s);
        }
    }
    struct runtime_options ro = {
        .state = cfg->state, .program = cfg->runtime, .monitor = cfg->monitor, .helper = cfg->helper};
    struct net_options no = {cfg->state,        cfg->bridge,      cfg->cluster_cidr,
                             cfg->cni_conf_dir, cfg->cni_bin_dir, (int)cfg->mtu};
    s->net = net_new(&no);
    s->seccomp = seccomp_cache_new();
    s->images = image_store_open(cfg->root, e);
    s->runtime = s->images ? runtime_new(&ro, e) : NULL;
    return s->runtime && add_handlers(s, ro, e) == 0 ? s : shim_free(s);
}

int shim_set_pod_cidr(struct shim *s, const char *cidr, struct err *e) {
    char path[PATH_MAX], known[128] = "";
    if (str_empty(cidr)) return 0;
    int r = net_set_cidr(s->net, cidr, e);
    if (r < 0) return r;
    snprintf(path, sizeof(path), "%s/pod-cidr", s->cfg.root);
    fs_read_str(path, known, sizeof(known));
    r = str_eq(known, cidr) ? 0 : file_write_atomic(path, cidr, strlen(cidr), 0644);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

static int restore_pod_cidr(struct shim *s, struct err *e) {
    char path[PATH_MAX], cidr[128] = "";
    snprintf(path, sizeof(path), "%s/pod-cidr", s->cfg.root);
    if (str_empty(s->cfg.pod_cidr)) fs_read_str(path, cidr, sizeof(cidr));
    return shim_set_pod_cidr(s, *cidr ? cidr : s->cfg.pod_cidr, e);
}

struct shim *shim_new(const struct shim_config *cfg, struct err *e) {
    struct shim *s = shim_alloc(cfg, e);
    if (!s) return NULL;
    s->puller = puller_new(s->images, cfg->insecure_registries, cfg->registries);
    int r = restore_pod_cidr(s, e);
    if (r == 0) r = exits_open(s, e);
    if (r == 0) r = shim_restore(s, e);
    if (r == 0) r = exits_start(s, e);
    if (r == 0 && !(s->streaming = streaming_new(s, e))) r = -EIO;
    return r < 0 ? shim_free(s) : s;
}

struct shim *shim_free(struct shim *s) {
    if (!s) return NULL;
    s->stopping = true;
    pthread_mutex_lock(&s->lock);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if ((s->streaming = streaming_free(s->streaming))) return NULL; /* sessions use it; the process is about to end */
    exits_stop(s);
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&s->containers, &it, &key, &v)) container_put(s, v);
    it = 0;
    while (map_next(&s->sandboxes, &it, &key, &v)) sandbox_put(s, v);
    map_done(&s->containers);
    map_done(&s->sandboxes);
    s->puller = puller_free(s->puller);
    s->runtime = runtime_free(s->runtime);
    for (size_t i = 0; i < s->n_handlers; i++) {
        runtime_free(s->handlers[i].runtime);
        free(s->handlers[i].name);
    }
    s->net = net_free(s->net);
    s->seccomp = seccomp_cache_free(s->seccomp);
    s->images = image_store_free(s->images);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return NULL;
}

/* ---- removal of everything ---- */

static void remove_all(struct shim *s) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct sandbox **sandboxes;
    struct container **containers;
    size_t n;
    container_all(s, a, NULL, &containers, &n);
    for (size_t i = 0; i < n; i++) {
        container_remove(s, containers[i], NULL);
        container_put(s, containers[i]);
    }
    sandbox_all(s, a, &sandboxes, &n);
    for (size_t i = 0; i < n; i++) {
        const struct cri_linux_pod_sandbox_config *l = sandboxes[i]->config->linux;
        char parent[4096];
        snprintf(parent, sizeof(parent), "%s", str_or_empty(l ? l->cgroup_parent : NULL));
        sandbox_remove(s, sandboxes[i], NULL);
        cgroup_prune(parent);
        sandbox_put(s, sandboxes[i]);
    }
    static const char *const qos[] = {"/kubepods/burstable", "/kubepods/besteffort"};
    for (size_t i = 0; i < ARRAY_LEN(qos); i++) cgroup_prune(qos[i]); /* the kubelet's, once they are empty */
    cgroup_remove(s->cfg.cgroup_root);                                /* ours, with all that is in it */
}

int shim_cleanup(const struct shim_config *cfg, bool images, struct err *e) {
    static const char *const image_dirs[] = {"images", "blobs", "layers", "partial", "tmp"};
    static const char *const root_dirs[] = {"sandboxes", "containers"};
    struct shim *s = shim_alloc(cfg, e);
    if (!s) return e ? e->code : -EIO;
    int r = exits_open(s, e);
    if (r == 0) r = shim_restore(s, e);
    if (r == 0) r = exits_start(s, e);
    remove_all(s);
    net_cleanup(s->net);
    shim_free(s);
    int rm = fs_rm_rf(cfg->state);
    if (rm < 0 && r == 0) r = err_errno(e, rm, "remove %s", cfg->state);
    for (size_t i = 0; i < ARRAY_LEN(root_dirs) + (images ? ARRAY_LEN(image_dirs) : 0); i++) {
        const char *name = i < ARRAY_LEN(root_dirs) ? root_dirs[i] : image_dirs[i - ARRAY_LEN(root_dirs)];
        _cleanup_free_ char *path = xasprintf("%s/%s", cfg->root, name);
        fs_rm_rf(path);
    }
    _cleanup_free_ char *cidr = xasprintf("%s/pod-cidr", cfg->root);
    unlink(cidr);
    if (images) rmdir(cfg->root);
    return r;
}
