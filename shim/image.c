#include "image.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/utsname.h>

#include "layer.h"
#include "pkg/base/map.h"

enum { LAYER_NAME = 32 };

struct layer_info {
    uint64_t bytes, entries;
};

struct image_store {
    char *root;
    pthread_mutex_t lock;
    struct arena *arena; /* of the index; rebuilt on every change */
    struct image *images;
    size_t n;
    struct map holds;   /* diff_id -> count of containers */
    unsigned ingesting; /* > 0: nothing is collected */
};

const char *image_store_root(const struct image_store *s) { return s->root; }

const char *image_arch(void) {
    static const struct {
        const char *machine, *arch;
    } names[] = {{"x86_64", "amd64"}, {"aarch64", "arm64"}, {"armv7l", "arm"},     {"riscv64", "riscv64"},
                 {"i686", "386"},     {"s390x", "s390x"},   {"ppc64le", "ppc64le"}};
    struct utsname u;
    if (uname(&u) == 0)
        for (size_t i = 0; i < ARRAY_LEN(names); i++)
            if (str_eq(u.machine, names[i].machine)) return names[i].arch;
    return "unknown";
}

const char **json_str_array(struct arena *a, const struct json *v, size_t *n) {
    const char **out = arena_zalloc(a, (json_len(v) + 1) * sizeof(*out));
    *n = 0;
    for (size_t i = 0; i < json_len(v); i++) {
        const char *s = json_as_str(json_item(v, i));
        if (s) out[(*n)++] = arena_strdup(a, s);
    }
    return out;
}

static struct json *str_array_json(struct arena *a, const char *const *v, size_t n) {
    struct json *out = json_array(a);
    for (size_t i = 0; i < n; i++) json_append(a, out, json_str(a, v[i]));
    return out;
}

const char *image_layer_dir(struct image_store *s, struct arena *a, const char *diff_id) {
    return arena_printf(a, "%s/layers/%.*s", s->root, LAYER_NAME, diff_id + strlen("sha256:"));
}

static const char *layer_info_path(struct image_store *s, struct arena *a, const char *diff_id) {
    return arena_printf(a, "%s/layers/%.*s.json", s->root, LAYER_NAME, diff_id + strlen("sha256:"));
}

static const char *blob_path(struct image_store *s, struct arena *a, const char *digest) {
    return arena_printf(a, "%s/blobs/%s", s->root, digest + strlen("sha256:"));
}

static const char *record_path(struct image_store *s, struct arena *a, const char *id) {
    return arena_printf(a, "%s/images/%s.json", s->root, id + strlen("sha256:"));
}

/* ---- records ---- */

static struct json *image_to_json(struct arena *a, const struct image *im) {
    struct json *o = json_object(a);
    json_set_str(a, o, "id", im->id);
    if (im->manifest) json_set_str(a, o, "manifest", im->manifest);
    json_set(a, o, "tags", str_array_json(a, im->tags, im->n_tags));
    json_set(a, o, "digests", str_array_json(a, im->digests, im->n_digests));
    json_set(a, o, "layers", str_array_json(a, im->layers, im->n_layers));
    json_set_int(a, o, "size", (int64_t)im->size);
    json_set_bool(a, o, "pinned", im->pinned);
    json_set_str(a, o, "user", str_or_empty(im->user));
    return o;
}

static int image_from_json(struct arena *a, const struct json *o, struct image *im, struct err *e) {
    *im = (struct image){0};
    im->id = arena_strdup(a, json_get_str(o, "id"));
    im->manifest = arena_strdup(a, json_get_str(o, "manifest"));
    im->tags = json_str_array(a, json_get(o, "tags"), &im->n_tags);
    im->digests = json_str_array(a, json_get(o, "digests"), &im->n_digests);
    im->layers = json_str_array(a, json_get(o, "layers"), &im->n_layers);
    im->size = (uint64_t)json_get_int(o, "size", 0);
    im->pinned = json_get_bool(o, "pinned", false);
    im->user = arena_strdup(a, json_get_str(o, "user"));
    for (size_t i = 0; i < im->n_layers; i++)
        if (!digest_valid(im->layers[i])) return err_set(e, -EINVAL, "bad layer in image record");
    return digest_valid(im->id) ? 0 : err_set(e, -EINVAL, "bad image record");
}

/* Reads all records into a fresh arena. Records that cannot be read are left out (and left on disk). */
static int load_index(struct image_store *s, struct err *e) {
    struct arena *a = arena_new();
    _cleanup_arena_ struct arena *tmp = arena_new();
    const char **names, *dir = arena_printf(tmp, "%s/images", s->root);
    size_t n;
    int r = fs_list(tmp, dir, &names, &n);
    if (r < 0) {
        arena_free(a);
        return err_errno(e, r, "read %s", dir);
    }
    struct image *images = arena_zalloc(a, (n + 1) * sizeof(*images));
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        struct json *o;
        if (!str_has_suffix(names[i], ".json")) continue;
        if (fs_read_json(tmp, arena_printf(tmp, "%s/%s", dir, names[i]), &o, NULL) < 0) continue;
        if (image_from_json(a, o, &images[count], NULL) == 0) count++;
    }
    arena_free(s->arena);
    s->arena = a;
    s->images = images;
    s->n = count;
    return 0;
}

struct image_store *image_store_open(const char *root, struct err *e) {
    static const char *const dirs[] = {"images", "blobs", "layers", "partial", "tmp"};
    struct image_store *s = xcalloc(1, sizeof(*s));
    s->root = xstrdup(root);
    pthread_mutex_init(&s->lock, NULL);
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        _cleanup_free_ char *dir = xasprintf("%s/%s", root, dirs[i]);
        int r = mkdir_p(dir, 0755);
        if (r == 0 && str_eq(dirs[i], "tmp")) r = fs_rm_children(dir);
        if (r < 0) {
            err_errno(e, r, "prepare %s", dir);
            return image_store_free(s);
        }
    }
    if (load_index(s, e) < 0) return image_store_free(s);
    return s;
}

struct image_store *image_store_free(struct image_store *s) {
    if (!s) return NULL;
    arena_free(s->arena);
    map_done(&s->holds);
    pthread_mutex_destroy(&s->lock);
    free(s->root);
    free(s);
    return NULL;
}

/* ---- looking ---- */

static const char **copy_strs(struct arena *a, const char *const *v, size_t n) {
    const char **out = arena_zalloc(a, (n + 1) * sizeof(*out));
    for (size_t i = 0; i < n; i++) out[i] = arena_strdup(a, v[i]);
    return out;
}

static void copy_image(struct arena *a, const struct image *src, struct image *dst) {
    *dst = *src;
    dst->id = arena_strdup(a, src->id);
    dst->manifest = arena_strdup(a, src->manifest);
    dst->user = arena_strdup(a, src->user);
    dst->tags = copy_strs(a, src->tags, src->n_tags);
    dst->digests = copy_strs(a, src->digests, src->n_digests);
    dst->layers = copy_strs(a, src->layers, src->n_layers);
}

void image_store_list(struct image_store *s, struct arena *a, struct image **items, size_t *n) {
    pthread_mutex_lock(&s->lock);
    *items = arena_zalloc(a, (s->n + 1) * sizeof(**items));
    *n = s->n;
    for (size_t i = 0; i < s->n; i++) copy_image(a, &s->images[i], &(*items)[i]);
    pthread_mutex_unlock(&s->lock);
}

static bool has_str(const char *const *v, size_t n, const char *x) {
    for (size_t i = 0; i < n; i++)
        if (str_eq(v[i], x)) return true;
    return false;
}

/* Caller holds the lock. */
static struct image *find_locked(struct image_store *s, const char *name) {
    const char *hex = str_has_prefix(name, "sha256:") ? name + 7 : name;
    if (is_hex_id(hex, 6))
        for (size_t i = 0; i < s->n; i++)
            if (str_has_prefix(s->images[i].id + 7, hex)) return &s->images[i];
    _cleanup_arena_ struct arena *a = arena_new();
    struct image_ref ref;
    if (image_ref_parse(a, name, &ref, NULL) < 0) return NULL;
    const char *repo = image_ref_repo(a, &ref);
    const char *by_tag = arena_printf(a, "%s:%s", repo, str_or_empty(ref.tag));
    const char *by_digest = arena_printf(a, "%s@%s", repo, str_or_empty(ref.digest));
    for (size_t i = 0; i < s->n; i++) {
        const struct image *im = &s->images[i];
        if (ref.digest ? has_str(im->digests, im->n_digests, by_digest) : has_str(im->tags, im->n_tags, by_tag))
            return &s->images[i];
    }
    return NULL;
}

int image_store_find(struct image_store *s, struct arena *a, const char *name, struct image *out, struct err *e) {
    pthread_mutex_lock(&s->lock);
    const struct image *im = str_empty(name) ? NULL : find_locked(s, name);
    if (im) copy_image(a, im, out);
    pthread_mutex_unlock(&s->lock);
    return im ? 0 : err_set(e, -ENOENT, "image \"%s\" not found", str_or_empty(name));
}

int image_store_config(struct image_store *s, struct arena *a, const char *id, struct image_config *out,
                       struct err *e) {
    struct json *o;
    int r = fs_read_json(a, blob_path(s, a, id), &o, e);
    if (r < 0) return err_wrap(e, "config of image %s", id);
    const struct json *c = json_get(o, "config");
    *out = (struct image_config){
        .user = str_or_empty(json_get_str(c, "User")),
        .workdir = str_or_empty(json_get_str(c, "WorkingDir")),
        .stop_signal = str_or_empty(json_get_str(c, "StopSignal")),
    };
    out->env = json_str_array(a, json_get(c, "Env"), &out->n_env);
    out->entrypoint = json_str_array(a, json_get(c, "Entrypoint"), &out->n_entrypoint);
    out->cmd = json_str_array(a, json_get(c, "Cmd"), &out->n_cmd);
    const struct json *vol = json_get(c, "Volumes");
    out->volumes = arena_zalloc(a, (json_len(vol) + 1) * sizeof(*out->volumes));
    JSON_FOREACH_MEMBER(m, vol) out->volumes[out->n_volumes++] = m->key;
    return 0;
}

static struct layer_info layer_info_read(struct image_store *s, const char *diff_id) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *o;
    struct layer_info li = {0};
    if (fs_read_json(a, layer_info_path(s, a, diff_id), &o, NULL) == 0) {
        li.bytes = (uint64_t)json_get_int(o, "bytes", 0);
        li.entries = (uint64_t)json_get_int(o, "entries", 0);
    }
    return li;
}

void image_store_usage(struct image_store *s, uint64_t *bytes, uint64_t *inodes) {
    _cleanup_map_ struct map seen = MAP_INIT;
    *bytes = *inodes = 0;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n; i++) {
        for (size_t k = 0; k < s->images[i].n_layers; k++) {
            const char *diff_id = s->images[i].layers[k];
            if (map_has(&seen, diff_id)) continue;
            map_put(&seen, diff_id, s);
            struct layer_info li = layer_info_read(s, diff_id);
            *bytes += li.bytes;
            *inodes += li.entries;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- removal ---- */

static bool layer_wanted(struct image_store *s, const char *name) {
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->images[i].n_layers; k++)
            if (strncmp(s->images[i].layers[k] + 7, name, LAYER_NAME) == 0) return true;
    size_t it = 0;
    const char *key;
    void *count;
    while (map_next(&s->holds, &it, &key, &count))
        if (strncmp(key + 7, name, LAYER_NAME) == 0) return true;
    return false;
}

static bool blob_wanted(struct image_store *s, const char *name) {
    for (size_t i = 0; i < s->n; i++)
        if (str_eq(s->images[i].id + 7, name) || (s->images[i].manifest && str_eq(s->images[i].manifest + 7, name)))
            return true;
    return false;
}

static void gc_locked(struct image_store *s) {
    if (s->ingesting) return;
    _cleanup_arena_ struct arena *a = arena_new();
    const char **names;
    size_t n;
    fs_list(a, arena_printf(a, "%s/layers", s->root), &names, &n);
    for (size_t i = 0; i < n; i++) {
        if (layer_wanted(s, names[i])) continue;
        /* renamed first: a half-removed layer must never be taken for a whole one */
        const char *path = arena_printf(a, "%s/layers/%s", s->root, names[i]);
        const char *gone = arena_printf(a, "%s/tmp/gone-%s", s->root, names[i]);
        fs_rm_rf(rename(path, gone) == 0 ? gone : path);
    }
    fs_list(a, arena_printf(a, "%s/blobs", s->root), &names, &n);
    for (size_t i = 0; i < n; i++)
        if (!blob_wanted(s, names[i])) unlink(arena_printf(a, "%s/blobs/%s", s->root, names[i]));
}

void image_store_gc(struct image_store *s) {
    pthread_mutex_lock(&s->lock);
    gc_locked(s);
    pthread_mutex_unlock(&s->lock);
    image_partial_collect(s);
}

int image_store_remove(struct image_store *s, const char *name, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    int r = 0;
    pthread_mutex_lock(&s->lock);
    const struct image *im = str_empty(name) ? NULL : find_locked(s, name);
    if (!im) {
        r = err_set(e, -ENOENT, "image \"%s\" not found", str_or_empty(name));
    } else if (unlink(record_path(s, a, im->id)) < 0 && errno != ENOENT) {
        r = err_errno(e, errno, "remove image %s", name);
    } else {
        r = load_index(s, e);
        gc_locked(s);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

void image_store_hold(struct image_store *s, const char *const *layers, size_t n) {
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++)
        map_put(&s->holds, layers[i], (void *)((uintptr_t)map_get(&s->holds, layers[i]) + 1));
    pthread_mutex_unlock(&s->lock);
}

void image_store_release(struct image_store *s, const char *const *layers, size_t n) {
    bool orphan = false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        uintptr_t count = (uintptr_t)map_get(&s->holds, layers[i]);
        if (count > 1) {
            map_put(&s->holds, layers[i], (void *)(count - 1));
        } else if (count == 1) {
            map_del(&s->holds, layers[i]);
            orphan |= !layer_wanted(s, layers[i] + 7);
        }
    }
    if (orphan) gc_locked(s);
    pthread_mutex_unlock(&s->lock);
}

/* ---- taking in ---- */

void image_ingest_begin(struct image_store *s) {
    pthread_mutex_lock(&s->lock);
    s->ingesting++;
    pthread_mutex_unlock(&s->lock);
}

void image_ingest_end(struct image_store *s) {
    pthread_mutex_lock(&s->lock);
    s->ingesting--;
    pthread_mutex_unlock(&s->lock);
}

int image_tmp_file(struct image_store *s, struct err *e) {
    _cleanup_free_ char *dir = xasprintf("%s/tmp", s->root);
    int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return fd < 0 ? err_errno(e, errno, "temporary file in %s", dir) : fd;
}

bool image_has_layer(struct image_store *s, const char *diff_id) {
    _cleanup_arena_ struct arena *a = arena_new();
    return access(image_layer_dir(s, a, diff_id), F_OK) == 0;
}

int image_add_layer(struct image_store *s, int fd, const char *diff_id, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct layer_result res;
    char *tmp = arena_printf(a, "%s/tmp/layer-XXXXXX", s->root);
    if (!mkdtemp(tmp)) return err_errno(e, errno, "make %s", tmp);
    int r = chmod(tmp, 0755) < 0 ? err_errno(e, errno, "chmod %s", tmp) : layer_extract(fd, tmp, &res, e);
    if (r == 0 && !str_eq(res.diff_id, diff_id))
        r = err_set(e, -EBADMSG, "layer content has digest %s, the image says %s", res.diff_id, diff_id);
    if (r == 0) {
        struct json *o = json_object(a);
        json_set_int(a, o, "bytes", (int64_t)res.bytes);
        json_set_int(a, o, "entries", (int64_t)res.entries);
        r = fs_write_json(layer_info_path(s, a, diff_id), o, false, e);
    }
    if (r == 0) { /* everything of the layer is on disk before its name is */
        _cleanup_close_ int dir = open(tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (dir < 0 || syncfs(dir) < 0) r = err_errno(e, errno, "sync layer");
    }
    if (r == 0 && rename(tmp, image_layer_dir(s, a, diff_id)) == 0) return 0;
    if (r == 0 && errno != ENOTEMPTY && errno != EEXIST) r = err_errno(e, errno, "place layer %s", diff_id);
    fs_rm_rf(tmp); /* a failure, or a concurrent pull was first */
    return r;
}

static int put_blob(struct image_store *s, struct arena *a, const void *p, size_t n, const char **digest,
                    struct err *e) {
    char hex[SHA256_HEX + 1];
    sha256_of(p, n, hex);
    *digest = arena_printf(a, "sha256:%s", hex);
    const char *path = blob_path(s, a, *digest);
    if (access(path, F_OK) == 0) return 0;
    int r = file_write_atomic(path, p, n, 0644);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

/* Takes a name away from the image that has it. Caller holds the lock; changed images are written. */
static int untag_locked(struct image_store *s, struct arena *a, const char *tag, const char *except, struct err *e) {
    for (size_t i = 0; i < s->n; i++) {
        struct image *im = &s->images[i];
        if (str_eq(im->id, except) || !has_str(im->tags, im->n_tags, tag)) continue;
        size_t kept = 0;
        for (size_t k = 0; k < im->n_tags; k++)
            if (!str_eq(im->tags[k], tag)) im->tags[kept++] = im->tags[k];
        im->n_tags = kept;
        int r = fs_write_json(record_path(s, a, im->id), image_to_json(a, im), true, e);
        if (r < 0) return r;
    }
    return 0;
}

static void add_str(const char **v, size_t *n, const char *x) {
    if (!has_str(v, *n, x)) v[(*n)++] = x;
}

/* Adds the names to what an older record of the same image has. */
static int name_image(struct arena *a, struct image *im, const struct image *old, const char *top_digest,
                      const char *const *names, size_t n_names, struct err *e) {
    size_t room = n_names + (old ? old->n_tags + old->n_digests : 0) + 1;
    im->tags = arena_zalloc(a, room * sizeof(*im->tags));
    im->digests = arena_zalloc(a, room * sizeof(*im->digests));
    for (size_t i = 0; old && i < old->n_tags; i++) add_str(im->tags, &im->n_tags, old->tags[i]);
    for (size_t i = 0; old && i < old->n_digests; i++) add_str(im->digests, &im->n_digests, old->digests[i]);
    for (size_t i = 0; i < n_names; i++) {
        struct image_ref ref;
        int r = image_ref_parse(a, names[i], &ref, e);
        if (r < 0) return r;
        const char *repo = image_ref_repo(a, &ref);
        if (ref.tag && !ref.digest) add_str(im->tags, &im->n_tags, arena_printf(a, "%s:%s", repo, ref.tag));
        if (top_digest) add_str(im->digests, &im->n_digests, arena_printf(a, "%s@%s", repo, top_digest));
    }
    return 0;
}

static int commit_locked(struct image_store *s, struct arena *a, struct image *im, const char *top_digest,
                         const char *const *names, size_t n_names, struct err *e) {
    const struct image *old = NULL;
    for (size_t i = 0; i < s->n; i++)
        if (str_eq(s->images[i].id, im->id)) old = &s->images[i];
    im->pinned |= old && old->pinned;
    if (!im->manifest && old) im->manifest = old->manifest;
    int r = name_image(a, im, old, top_digest, names, n_names, e);
    if (r == 0) r = fs_write_json(record_path(s, a, im->id), image_to_json(a, im), true, e);
    for (size_t i = 0; r == 0 && i < im->n_tags; i++) r = untag_locked(s, a, im->tags[i], im->id, e);
    return r < 0 ? r : load_index(s, e);
}

int image_commit(struct image_store *s, struct arena *a, const char *config, size_t config_len, const char *manifest,
                 size_t manifest_len, const char *top_digest, const char *const *names, size_t n_names, bool pinned,
                 const char **id, struct err *e) {
    struct image im = {.pinned = pinned, .size = config_len};
    struct json *o;
    int r = json_parse(a, config, config_len, &o, NULL, e);
    if (r < 0) return err_wrap(e, "image config");
    im.layers = json_str_array(a, json_at(o, "rootfs", "diff_ids", NULL), &im.n_layers);
    im.user = str_or_empty(json_get_str(json_get(o, "config"), "User"));
    for (size_t i = 0; i < im.n_layers; i++) im.size += layer_info_read(s, im.layers[i]).bytes;
    r = put_blob(s, a, config, config_len, &im.id, e);
    if (r == 0 && manifest) r = put_blob(s, a, manifest, manifest_len, &im.manifest, e);
    if (r < 0) return r;
    pthread_mutex_lock(&s->lock);
    r = commit_locked(s, a, &im, top_digest, names, n_names, e);
    pthread_mutex_unlock(&s->lock);
    *id = im.id;
    return r;
}
