/* Import of archives: what `docker save`, `skopeo copy oci-archive:` and `podman save` write, as tar (compressed or
 * not), or an OCI layout folder. The archive is unpacked with the layers' extractor below ROOT/tmp, so hostile names
 * and links stay inside. */
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include "image.h"
#include "layer.h"

enum { IMPORT_MAX_IMAGES = 256 };

struct layout { /* an unpacked archive */
    int root;
};

static int open_inside(int root, const char *path) {
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, root, path, &how, sizeof(how));
    struct stat st;
    if (fd < 0) return -errno;
    if (fstat((int)fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        close((int)fd);
        return -EINVAL;
    }
    return (int)fd;
}

static int layout_open_blob(void *arg, const char *digest, int64_t size, bool manifest, int *fd, struct err *e) {
    struct layout *l = arg;
    char path[128];
    snprintf(path, sizeof(path), "blobs/sha256/%s", digest + 7);
    *fd = open_inside(l->root, path);
    return *fd < 0 ? err_errno(e, *fd, "blob %s of the archive", digest) : 0;
}

static int read_inside(struct arena *a, int root, const char *path, const char **text, size_t *len, struct err *e) {
    _cleanup_close_ int fd = open_inside(root, path);
    struct stat st;
    if (fd < 0) return err_errno(e, fd, "%s", path);
    if (fstat(fd, &st) < 0) return err_errno(e, errno, "%s", path);
    if (st.st_size > SHIM_RECORD_MAX) return err_set(e, -EFBIG, "%s is too large", path);
    char *p = arena_alloc(a, (size_t)st.st_size + 1);
    int r = fd_read_all(fd, p, (size_t)st.st_size);
    if (r < 0) return err_errno(e, r, "%s", path);
    p[st.st_size] = 0;
    *text = p;
    *len = (size_t)st.st_size;
    return 0;
}

/* The name an index entry carries: containerd's annotation is a whole reference, OCI's may be a bare tag, which names
 * nothing by itself. */
static const char *annotated_name(const struct json *d) {
    const struct json *an = json_get(d, "annotations");
    const char *name = json_get_str(an, "io.containerd.image.name");
    if (name) return name;
    name = json_get_str(an, "org.opencontainers.image.ref.name");
    return name && strpbrk(name, "/:") ? name : NULL;
}

static int import_oci(struct image_store *s, struct arena *a, struct layout *l, const char *name, bool pinned,
                      const char **refs, size_t *n_refs, struct err *e) {
    const struct image_source src = {.open_blob = layout_open_blob, .arg = l, .threads = 2};
    const char *text;
    size_t len;
    struct json *index, *d;
    int r = read_inside(a, l->root, "index.json", &text, &len, e);
    if (r == 0) r = json_parse(a, text, len, &index, NULL, e);
    if (r < 0) return err_wrap(e, "index.json");
    const struct json *list = json_get(index, "manifests");
    if (json_len(list) == 0 || json_len(list) > IMPORT_MAX_IMAGES)
        return err_set(e, -EINVAL, "the archive holds %zu images", json_len(list));
    if (name && json_len(list) > 1)
        return err_set(e, -EINVAL, "a name was given, but the archive holds several images");
    JSON_FOREACH(d, list) {
        const char *id, *n = name ? name : annotated_name(d);
        r = image_ingest(s, a, &src, json_get_str(d, "digest"), &n, n ? 1 : 0, pinned, &id, e);
        if (r < 0) return r;
        refs[(*n_refs)++] = n ? n : id;
    }
    return 0;
}

static int docker_layers(struct image_store *s, struct layout *l, const struct json *files, const struct json *diff_ids,
                         struct err *e) {
    if (json_len(files) != json_len(diff_ids)) return err_set(e, -EINVAL, "layers and diff_ids differ in number");
    for (size_t i = 0; i < json_len(files); i++) {
        const char *diff_id = json_as_str(json_item(diff_ids, i)), *file = json_as_str(json_item(files, i));
        if (!digest_valid(diff_id) || !file) return err_set(e, -EINVAL, "bad layer in manifest.json");
        if (image_has_layer(s, diff_id)) continue;
        _cleanup_close_ int fd = open_inside(l->root, file);
        if (fd < 0) return err_errno(e, fd, "layer %s of the archive", file);
        int r = image_add_layer(s, fd, diff_id, e);
        if (r < 0) return err_wrap(e, "layer %s", file);
    }
    return 0;
}

static int import_docker_image(struct image_store *s, struct arena *a, struct layout *l, const struct json *m,
                               const char *name, bool pinned, const char **refs, size_t *n_refs, struct err *e) {
    const char *config, *id;
    size_t len, n_names;
    struct json *tree;
    int r = read_inside(a, l->root, str_or_empty(json_get_str(m, "Config")), &config, &len, e);
    if (r == 0) r = json_parse(a, config, len, &tree, NULL, e);
    if (r == 0) r = docker_layers(s, l, json_get(m, "Layers"), json_at(tree, "rootfs", "diff_ids", NULL), e);
    if (r < 0) return r;
    const char **names = json_str_array(a, json_get(m, "RepoTags"), &n_names);
    if (name) names[0] = name, n_names = 1;
    r = image_commit(s, a, config, len, NULL, 0, NULL, names, n_names, pinned, &id, e);
    if (r == 0) refs[(*n_refs)++] = n_names ? names[0] : id;
    return r;
}

static int import_docker(struct image_store *s, struct arena *a, struct layout *l, const char *name, bool pinned,
                         const char **refs, size_t *n_refs, struct err *e) {
    const char *text;
    size_t len;
    struct json *list, *m;
    int r = read_inside(a, l->root, "manifest.json", &text, &len, e);
    if (r == 0) r = json_parse(a, text, len, &list, NULL, e);
    if (r < 0) return err_wrap(e, "manifest.json");
    if (json_len(list) == 0 || json_len(list) > IMPORT_MAX_IMAGES)
        return err_set(e, -EINVAL, "the archive holds %zu images", json_len(list));
    if (name && json_len(list) > 1)
        return err_set(e, -EINVAL, "a name was given, but the archive holds several images");
    image_ingest_begin(s);
    JSON_FOREACH(m, list) {
        r = import_docker_image(s, a, l, m, name, pinned, refs, n_refs, e);
        if (r < 0) break;
    }
    image_ingest_end(s);
    return r;
}

static int import_dir(struct image_store *s, struct arena *a, const char *dir, const char *name, bool pinned,
                      const char **refs, size_t *n_refs, struct err *e) {
    _cleanup_close_ int root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) return err_errno(e, errno, "open %s", dir);
    struct layout l = {root};
    if (faccessat(root, "index.json", F_OK, 0) == 0) return import_oci(s, a, &l, name, pinned, refs, n_refs, e);
    if (faccessat(root, "manifest.json", F_OK, 0) == 0) return import_docker(s, a, &l, name, pinned, refs, n_refs, e);
    return err_set(e, -EINVAL, "neither index.json (OCI) nor manifest.json (docker) in it");
}

int image_import(struct image_store *s, struct arena *a, const char *path, const char *name, bool pinned,
                 const char ***refs, size_t *n_refs, struct err *e) {
    struct image_ref ref;
    struct stat st;
    *refs = arena_zalloc(a, IMPORT_MAX_IMAGES * sizeof(**refs));
    *n_refs = 0;
    if (name) {
        int r = image_ref_parse(a, name, &ref, e);
        if (r < 0) return r;
        name = image_ref_str(a, &ref);
    }
    if (stat(path, &st) < 0) return err_errno(e, errno, "import %s", path);
    if (S_ISDIR(st.st_mode)) {
        int r = import_dir(s, a, path, name, pinned, *refs, n_refs, e);
        return r < 0 ? err_wrap(e, "import %s", path) : 0;
    }
    char *tmp = arena_printf(a, "%s/tmp/import-XXXXXX", image_store_root(s));
    if (!mkdtemp(tmp)) return err_errno(e, errno, "make %s", tmp);
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct layer_result res;
    int r = fd < 0 ? err_errno(e, errno, "open") : layer_extract(fd, tmp, &res, e);
    if (r == 0) r = import_dir(s, a, tmp, name, pinned, *refs, n_refs, e);
    fs_rm_rf(tmp);
    return r < 0 ? err_wrap(e, "import %s", path) : 0;
}
