/* Taking an image in from anywhere blobs come from: index, manifest, config, layers, each checked against the digest
 * that named it before it is believed. Media types of OCI and of docker schema 2 mean the same things here. */
#include <fcntl.h>
#include <pthread.h>
#include <string.h>

#include "image.h"

enum {
    INGEST_MAX_LAYERS = 256,
    INGEST_MAX_THREADS = 8,
    INGEST_MAX_INDEX_DEPTH = 3,
    INGEST_MANIFEST_MAX = 4 << 20,
};

/* SHA-256 of a whole file; leaves the position at the start. */
static int file_digest(int fd, char hex[SHA256_HEX + 1], int64_t *size, struct err *e) {
    struct sha256 sha;
    char block[64 << 10];
    ssize_t n;
    *size = 0;
    if (lseek(fd, 0, SEEK_SET) < 0) return err_errno(e, errno, "seek");
    sha256_init(&sha);
    while ((n = read(fd, block, sizeof(block))) > 0) {
        sha256_add(&sha, block, (size_t)n);
        *size += n;
    }
    sha256_hex(&sha, hex);
    sha256_done(&sha);
    if (n < 0 || lseek(fd, 0, SEEK_SET) < 0) return err_errno(e, errno, "read blob");
    return 0;
}

/* A blob whose digest and size are what its descriptor says. */
static int open_verified(const struct image_source *src, const char *digest, int64_t size, bool manifest, int *fd,
                         struct err *e) {
    char hex[SHA256_HEX + 1];
    int64_t got;
    if (!digest_valid(digest)) return err_set(e, -EINVAL, "unsupported digest %s", str_or_empty(digest));
    int r = src->open_blob(src->arg, digest, size, manifest, fd, e);
    if (r < 0) return r;
    r = file_digest(*fd, hex, &got, e);
    if (r == 0 && !str_eq(hex, digest + 7))
        r = err_set(e, -EBADMSG, "blob %s has digest sha256:%s: refused", digest, hex);
    if (r == 0 && size >= 0 && size != got)
        r = err_set(e, -EBADMSG, "blob %s has %lld bytes, its descriptor says %lld", digest, (long long)got,
                    (long long)size);
    if (r == -EBADMSG && src->blob_done) src->blob_done(src->arg, digest, manifest);
    if (r < 0) close(take_fd(fd));
    return r;
}

static int read_verified(struct arena *a, const struct image_source *src, const char *digest, int64_t size,
                         bool manifest, const char **text, size_t *len, struct err *e) {
    _cleanup_close_ int fd = -1;
    int r = open_verified(src, digest, size, manifest, &fd, e);
    if (r < 0) return r;
    struct stat st;
    if (fstat(fd, &st) < 0) return err_errno(e, errno, "stat blob");
    if (st.st_size > INGEST_MANIFEST_MAX) return err_set(e, -EFBIG, "blob %s is too large for a manifest", digest);
    char *p = arena_alloc(a, (size_t)st.st_size + 1);
    r = fd_read_all(fd, p, (size_t)st.st_size);
    if (r < 0) return err_errno(e, r, "read blob %s", digest);
    p[st.st_size] = 0;
    *text = p;
    *len = (size_t)st.st_size;
    return 0;
}

/* The manifest for this machine in an index. */
static const struct json *choose_platform(const struct json *index) {
    const struct json *d, *fallback = NULL;
    JSON_FOREACH(d, json_get(index, "manifests")) {
        const struct json *p = json_get(d, "platform");
        if (!p && !fallback) fallback = d;
        if (str_eq(json_get_str(p, "os"), "linux") && str_eq(json_get_str(p, "architecture"), image_arch())) return d;
    }
    return fallback;
}

struct manifest {
    const char *text;
    size_t len;
    struct json *tree;
};

/* Follows indexes down to an image's manifest. */
static int find_manifest(struct arena *a, const struct image_source *src, const char *digest, struct manifest *out,
                         struct err *e) {
    int64_t size = -1;
    for (int depth = 0; depth < INGEST_MAX_INDEX_DEPTH; depth++) {
        int r = read_verified(a, src, digest, size, true, &out->text, &out->len, e);
        if (r == 0) r = json_parse(a, out->text, out->len, &out->tree, NULL, e);
        if (r < 0) return err_wrap(e, "manifest %s", digest);
        if (json_get(out->tree, "config")) return 0;
        const struct json *d = choose_platform(out->tree);
        if (!json_get(out->tree, "manifests"))
            return err_set(e, -EINVAL, "manifest %s is neither an OCI nor a docker schema 2 image", digest);
        if (!d) return err_set(e, -ENOENT, "no image for linux/%s in index %s", image_arch(), digest);
        digest = str_or_empty(json_get_str(d, "digest"));
        size = json_get_int(d, "size", -1);
    }
    return err_set(e, -EINVAL, "indexes are nested too deep");
}

/* The layers of one image, taken in by several threads: each takes the next one that nobody has. */
struct layers {
    struct image_store *s;
    const struct image_source *src;
    const struct json *descriptors, *diff_ids;
    size_t n;
    pthread_mutex_t lock;
    size_t next;
    int r; /* the first failure ends it for all */
    struct err e;
};

static int add_layer(struct layers *l, size_t i, struct err *e) {
    const char *diff_id = json_as_str(json_item(l->diff_ids, i));
    const struct json *d = json_item(l->descriptors, i);
    const char *digest = json_get_str(d, "digest");
    if (!digest_valid(diff_id)) return err_set(e, -EINVAL, "bad diff_id in image config");
    if (image_has_layer(l->s, diff_id)) return 0;
    _cleanup_close_ int fd = -1;
    int r = open_verified(l->src, digest, json_get_int(d, "size", -1), false, &fd, e);
    if (r == 0) r = image_add_layer(l->s, fd, diff_id, e);
    if ((r == 0 || r == -EBADMSG) && l->src->blob_done) l->src->blob_done(l->src->arg, digest, false);
    return r < 0 ? err_wrap(e, "layer %zu", i) : 0;
}

static void *take_layers(void *arg) {
    struct layers *l = arg;
    for (;;) {
        pthread_mutex_lock(&l->lock);
        size_t i = l->r < 0 ? l->n : l->next++;
        pthread_mutex_unlock(&l->lock);
        if (i >= l->n) return NULL;
        struct err e = {0};
        int r = add_layer(l, i, &e);
        pthread_mutex_lock(&l->lock);
        if (r < 0 && l->r == 0) {
            l->r = r;
            err_move(&l->e, &e);
        }
        pthread_mutex_unlock(&l->lock);
        err_done(&e);
    }
}

static int ingest_layers(struct image_store *s, const struct image_source *src, const struct json *layers,
                         const struct json *diff_ids, struct err *e) {
    struct layers l = {.s = s, .src = src, .descriptors = layers, .diff_ids = diff_ids, .n = json_len(layers)};
    if (l.n != json_len(diff_ids) || l.n > INGEST_MAX_LAYERS)
        return err_set(e, -EINVAL, "image has %zu layers and %zu diff_ids", l.n, json_len(diff_ids));
    pthread_t threads[INGEST_MAX_THREADS];
    size_t n = 0, wanted = MIN_OF(MIN_OF((size_t)src->threads, l.n), (size_t)INGEST_MAX_THREADS);
    pthread_mutex_init(&l.lock, NULL);
    while (n + 1 < wanted && pthread_create(&threads[n], NULL, take_layers, &l) == 0) n++;
    take_layers(&l); /* this thread is one of them */
    for (size_t i = 0; i < n; i++) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&l.lock);
    if (l.r < 0 && e) err_move(e, &l.e);
    err_done(&l.e);
    return l.r;
}

static int ingest(struct image_store *s, struct arena *a, const struct image_source *src, const char *digest,
                  const char *const *names, size_t n_names, bool pinned, const char **id, struct err *e) {
    struct manifest m;
    int r = find_manifest(a, src, digest, &m, e);
    if (r < 0) return r;
    const struct json *cd = json_get(m.tree, "config");
    const char *config;
    size_t config_len;
    struct json *config_tree;
    r = read_verified(a, src, json_get_str(cd, "digest"), json_get_int(cd, "size", -1), false, &config, &config_len, e);
    if (r == 0) r = json_parse(a, config, config_len, &config_tree, NULL, e);
    if (r < 0) return err_wrap(e, "image config");
    r = ingest_layers(s, src, json_get(m.tree, "layers"), json_at(config_tree, "rootfs", "diff_ids", NULL), e);
    if (r < 0) return r;
    return image_commit(s, a, config, config_len, m.text, m.len, digest, names, n_names, pinned, id, e);
}

int image_ingest(struct image_store *s, struct arena *a, const struct image_source *src, const char *digest,
                 const char *const *names, size_t n_names, bool pinned, const char **id, struct err *e) {
    image_ingest_begin(s);
    int r = ingest(s, a, src, digest, names, n_names, pinned, id, e);
    image_ingest_end(s);
    return r;
}
