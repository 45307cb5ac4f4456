/* See static_pods.h. */
#include "kubelet/static_pods.h"

#include <dirent.h>
#include <openssl/evp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "kubelet/pods.h"
#include "pkg/base/bytes.h"
#include "pkg/yaml/yaml.h"

enum { MAX_MANIFEST = 1024 * 1024, LOOK_MS = 20000, MAX_STATIC = 1000 };

struct static_pods {
    struct kubelet *kl;
    char *path;
    pthread_t thread;
    bool running;
    int stop_fd;
    pthread_mutex_t lock;
    struct map pods; /* uid -> struct object */
};

static char *content_hash(struct arena *a, const char *node, const char *file, const char *text, size_t len) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    EVP_DigestInit_ex(c, EVP_sha256(), NULL);
    EVP_DigestUpdate(c, node, strlen(node) + 1);
    EVP_DigestUpdate(c, file, strlen(file) + 1);
    EVP_DigestUpdate(c, text, len);
    EVP_DigestFinal_ex(c, md, &n);
    EVP_MD_CTX_free(c);
    char *hex = arena_alloc(a, 2 * n + 1);
    hex_encode(md, n, hex);
    hex[32] = '\0';
    return hex;
}

static void put_annotation(struct arena *a, struct json *meta, const char *key, const char *value) {
    json_set_str(a, json_ensure_object(a, meta, "annotations"), key, value);
}

struct object *static_pod_parse(struct kubelet *kl, const char *text, size_t len, const char *file, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc, *clean;
    if (yaml_parse_one(a, text, len, &doc, NULL, e) < 0) return NULL;
    if (!str_eq(json_get_str(doc, "kind"), "Pod") || !str_eq(json_get_str(doc, "apiVersion"), "v1")) {
        err_set(e, -EINVAL, "the manifest is no v1 Pod");
        return NULL;
    }
    struct json *meta = json_ensure_object(a, doc, "metadata"), *spec = json_ensure_object(a, doc, "spec");
    const char *name = json_get_str(meta, "name"), *uid = content_hash(a, kl->node_name, file, text, len);
    if (str_empty(name)) {
        err_set(e, -EINVAL, "the manifest has no metadata.name");
        return NULL;
    }
    json_set_str(a, meta, "name", arena_printf(a, "%s-%s", name, kl->node_name));
    if (str_empty(json_get_str(meta, "namespace"))) json_set_str(a, meta, "namespace", "default");
    json_set_str(a, meta, "uid", uid);
    char seen[KTIME_MAX];
    put_annotation(a, meta, ANNOT_CONFIG_HASH, uid);
    put_annotation(a, meta, ANNOT_CONFIG_SOURCE, "file");
    put_annotation(a, meta, ANNOT_CONFIG_SEEN, ktime_format_nano(ktime_now(), seen));
    json_set_str(a, spec, "nodeName", kl->node_name);
    /* No taint of the node drives a static pod away. */
    struct json *toleration = json_object(a);
    json_set_str(a, toleration, "operator", "Exists");
    json_set_str(a, toleration, "effect", "NoExecute");
    json_append(a, json_ensure_array(a, spec, "tolerations"), toleration);
    struct json *status = json_object(a);
    json_set_str(a, status, "phase", "Pending");
    json_set(a, doc, "status", status);
    if (api_tree_normalise(a, &api_core_pod, doc, &clean, NULL, e) < 0) return NULL;
    api_tree_default(a, &api_core_pod, clean);
    struct core_pod pod = {0};
    if (api_from_tree(a, &api_core_pod, clean, &pod, e) < 0) return NULL;
    if (!pod.spec.containers.n) {
        err_set(e, -EINVAL, "the manifest has no containers");
        return NULL;
    }
    return object_new(&client_pods, &pod);
}

/* ---- reading the files ---- */

static void read_one(struct static_pods *s, const char *path, struct map *found) {
    _cleanup_free_ char *text = NULL;
    _cleanup_err_ struct err e = {0};
    size_t len;
    if (file_read(path, MAX_MANIFEST, &text, &len) < 0 || found->n >= MAX_STATIC) return;
    struct object *o = static_pod_parse(s->kl, text, len, path, &e);
    if (!o) {
        log_warn("cannot use a static pod's manifest", "file", path, "error", e.msg, NULL);
        return;
    }
    struct object *old = map_put(found, o->meta->uid, o);
    object_unref(old);
}

static void read_all(struct static_pods *s, struct map *found) {
    struct stat st;
    if (stat(s->path, &st) < 0) return;
    if (!S_ISDIR(st.st_mode)) {
        read_one(s, s->path, found);
        return;
    }
    DIR *d = opendir(s->path);
    for (struct dirent *ent; d && (ent = readdir(d));) {
        if (ent->d_name[0] == '.') continue;
        _cleanup_free_ char *path = xasprintf("%s/%s", s->path, ent->d_name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode)) read_one(s, path, found);
    }
    if (d) closedir(d);
}

static void unref_object(void *o) { object_unref(o); }

/* Hands what changed to the pod workers. */
static void look(struct static_pods *s) {
    struct map found = MAP_INIT;
    read_all(s, &found);
    pthread_mutex_lock(&s->lock);
    struct map old = s->pods;
    s->pods = found;
    size_t it = 0;
    const char *uid;
    void *value;
    while (map_next(&old, &it, &uid, &value))
        if (!map_has(&found, uid)) pods_remove(s->kl->pods, uid, NULL);
    it = 0;
    while (map_next(&found, &it, &uid, &value))
        if (!map_has(&old, uid)) pods_update(s->kl->pods, value);
    bool changed = old.n != found.n;
    it = 0;
    while (map_next(&found, &it, &uid, &value)) changed |= !map_has(&old, uid);
    map_done_with(&old, unref_object);
    pthread_mutex_unlock(&s->lock);
    if (changed) static_pods_sync_mirrors(s);
}

static void *watch_thread(void *arg) {
    struct static_pods *s = arg;
    _cleanup_close_ int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd >= 0) inotify_add_watch(fd, s->path, IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE);
    for (;;) {
        look(s);
        struct pollfd p[] = {{.fd = s->stop_fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
        poll(p, 2, LOOK_MS);
        if (p[0].revents) return NULL;
        char events[4096];
        while (fd >= 0 && read(fd, events, sizeof(events)) > 0) {
        }
        static_pods_sync_mirrors(s);
    }
}

struct static_pods *static_pods_new(struct kubelet *kl, const char *path) {
    struct static_pods *s = xcalloc(1, sizeof(*s));
    s->kl = kl;
    s->path = xstrdup(path);
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    pthread_mutex_init(&s->lock, NULL);
    s->running = kubelet_thread(&s->thread, watch_thread, s, false) == 0;
    return s;
}

void static_pods_free(struct static_pods *s) {
    if (!s) return;
    eventfd_write(s->stop_fd, 1);
    if (s->running) pthread_join(s->thread, NULL);
    close(s->stop_fd);
    map_done_with(&s->pods, unref_object);
    pthread_mutex_destroy(&s->lock);
    free(s->path);
    free(s);
}

/* ---- mirrors ---- */

static void create_mirror(struct kubelet *kl, const struct core_pod *pod) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct core_pod *m = api_clone(a, &api_core_pod, pod);
    struct json *tree = api_to_tree(a, &api_core_pod, m), *meta = json_get(tree, "metadata");
    put_annotation(a, meta, ANNOT_CONFIG_MIRROR, pod->metadata.uid);
    json_del(meta, "uid");
    json_del(tree, "status");
    if (api_from_tree(a, &api_core_pod, tree, m, &e) < 0) return;
    struct core_node node = {0};
    if (client_get(kl->client, a, &client_nodes, NULL, kl->node_name, &node, &e) < 0) return;
    bool yes = true;
    struct meta_owner_reference owner = {
        .api_version = "v1", .kind = "Node", .name = kl->node_name, .uid = node.metadata.uid, .controller = &yes};
    m->metadata.owner_references = (struct meta_owner_reference_vec){&owner, 1};
    if (client_create(kl->client, a, &client_pods, pod->metadata.namespace, m, NULL, NULL, &e) < 0 &&
        !client_err_exists(&e))
        log_warn("cannot create a mirror pod", "pod", pod->metadata.name, "error", e.msg, NULL);
}

static void delete_mirror(struct kubelet *kl, const struct object *o) {
    static const int64_t now = 0;
    struct client_delete_opts opts = {.uid = o->meta->uid, .grace_period_seconds = &now};
    client_delete(kl->client, &client_pods, o->meta->namespace, o->meta->name, &opts, NULL);
}

void static_pods_sync_mirrors(struct static_pods *s) {
    struct kubelet *kl = s->kl;
    if (!kl->client || !kl->pod_informer || !informer_synced(kl->pod_informer)) return;
    _cleanup_object_list_ struct object_list api = {0};
    informer_list(kl->pod_informer, NULL, &api);
    pthread_mutex_lock(&s->lock);
    size_t n = 0, it = 0;
    struct object **mine = xcalloc(s->pods.n + 1, sizeof(*mine));
    const char *uid;
    void *value;
    while (map_next(&s->pods, &it, &uid, &value)) mine[n++] = object_ref(value);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < api.n; i++) { /* mirrors of nothing, or of an older manifest */
        const char *of = pod_annotation(api.items[i]->obj, ANNOT_CONFIG_MIRROR);
        bool wanted = !of;
        for (size_t k = 0; k < n; k++) wanted |= str_eq(of, mine[k]->meta->uid) && !pod_deleting(api.items[i]->obj);
        if (!wanted) delete_mirror(kl, api.items[i]);
    }
    for (size_t k = 0; k < n; k++) {
        _cleanup_object_ struct object *have = informer_get(kl->pod_informer, mine[k]->key);
        if (!have) create_mirror(kl, mine[k]->obj);
        pods_wake(kl->pods, mine[k]->meta->uid); /* its status may have to go to the mirror */
        object_unref(mine[k]);
    }
    free(mine);
}
