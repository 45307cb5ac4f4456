/* The image store: what is known of images, and their layers as overlayfs lower folders.
 *
 *   ROOT/images/ID.json        a record an image: names, digests, layers, sizes (ID: hex of the config's digest)
 *   ROOT/blobs/HEX             manifests and configs, by digest (compressed layers are not kept)
 *   ROOT/layers/HEX32/         one layer extracted; the name is the first 32 digits of its diff_id
 *   ROOT/tmp/                  downloads and half-made layers; emptied at start
 *
 * Invariant: a record is written (durably) only after everything it names is in place and synced, and things are
 * removed only when no record names them; so any crash leaves at worst unnamed files, which the next start removes.
 * Thread-safe. Corresponds to containerd's content, metadata and snapshot stores. */
#pragma once

#include "fsutil.h"
#include "ref.h"

struct image_store;

struct image {
    const char *id;       /* "sha256:..." of the config */
    const char *manifest; /* digest of the manifest, NULL for a docker archive */
    const char **tags;    /* "docker.io/library/busybox:latest" */
    size_t n_tags;
    const char **digests; /* "docker.io/library/busybox@sha256:..." */
    size_t n_digests;
    const char **layers; /* diff_ids, lowest first */
    size_t n_layers;
    uint64_t size;    /* bytes of its layers' files and its config */
    bool pinned;      /* garbage collection must not remove it */
    const char *user; /* of the config: "", "1000", "name:group" */
};

struct image_config { /* the parts of an OCI image config that a container needs */
    const char *user, *workdir, *stop_signal;
    const char **env, **entrypoint, **cmd;
    size_t n_env, n_entrypoint, n_cmd;
    const char **volumes;
    size_t n_volumes;
};

/* Opens (making it when there is none) the store below `root`; removes leftovers. */
struct image_store *image_store_open(const char *root, struct err *e);
struct image_store *image_store_free(struct image_store *s);
const char *image_store_root(const struct image_store *s);

/* All images, in the arena, by id. */
void image_store_list(struct image_store *s, struct arena *a, struct image **items, size_t *n);
/* By id (whole or a prefix of it), by name, tag or digest. -ENOENT when there is none. */
int image_store_find(struct image_store *s, struct arena *a, const char *name, struct image *out, struct err *e);
int image_store_config(struct image_store *s, struct arena *a, const char *id, struct image_config *out, struct err *e);
/* Removes an image with all its names. Layers that containers use go with the last container. -ENOENT. */
int image_store_remove(struct image_store *s, const char *name, struct err *e);
/* Keeps the layers for a container, beyond the image's removal; release ends it. */
void image_store_hold(struct image_store *s, const char *const *layers, size_t n);
void image_store_release(struct image_store *s, const char *const *layers, size_t n);
/* Removes layers and blobs nobody names. */
void image_store_gc(struct image_store *s);
/* Bytes and files of all layers and configs. */
void image_store_usage(struct image_store *s, uint64_t *bytes, uint64_t *inodes);
/* The lower folder of a layer. */
const char *image_layer_dir(struct image_store *s, struct arena *a, const char *diff_id);

/* ---- taking images in (import.c, pull.c) ---- */

/* Where blobs come from. open_blob gives a file positioned at its start; the ingest verifies digest and size. */
struct image_source {
    int (*open_blob)(void *arg, const char *digest, int64_t size, bool manifest, int *fd, struct err *e);
    /* The blob has been used, or was found wrong; its file is still open. May be NULL. */
    void (*blob_done)(void *arg, const char *digest, bool manifest);
    void *arg;
    unsigned threads; /* that may be in open_blob at once: layers are taken in side by side; 0 is 1 */
};
/* Takes in the image whose manifest or index has this digest (the platform's image is chosen from an index) under
 * these names (normalised references; may be none). The id goes to *id, in the arena. */
int image_ingest(struct image_store *s, struct arena *a, const struct image_source *src, const char *digest,
                 const char *const *names, size_t n_names, bool pinned, const char **id, struct err *e);
/* The pieces, for docker archives. Between begin and end nothing is collected. */
void image_ingest_begin(struct image_store *s);
void image_ingest_end(struct image_store *s);
bool image_has_layer(struct image_store *s, const char *diff_id);
/* Extracts a layer; -EBADMSG when its diff_id is another. */
int image_add_layer(struct image_store *s, int fd, const char *diff_id, struct err *e);
/* Puts the blobs and the record in place. manifest, top_digest may be NULL. */
int image_commit(struct image_store *s, struct arena *a, const char *config, size_t config_len, const char *manifest,
                 size_t manifest_len, const char *top_digest, const char *const *names, size_t n_names, bool pinned,
                 const char **id, struct err *e);
/* A new file below ROOT/tmp, already unlinked. */
int image_tmp_file(struct image_store *s, struct err *e);
/* ROOT/partial/DIGEST, locked against others, at its end: what an earlier pull got of a blob, or nothing yet. Blocks while
 * another pull writes it. drop removes it; collect removes those that nobody has touched for a day. */
int image_partial_file(struct image_store *s, const char *digest, struct err *e);
void image_partial_drop(struct image_store *s, const char *digest);
void image_partial_collect(struct image_store *s);
/* Go's name of this machine's architecture ("amd64"). */
const char *image_arch(void);
/* Array of strings of a JSON value, in the arena. */
const char **json_str_array(struct arena *a, const struct json *v, size_t *n);

/* import.c: takes in every image of an OCI or docker archive, or of an OCI layout folder. `name` (may be NULL) names
 * the image when there is just one. Normalised names or ids of what was taken in go to refs. */
int image_import(struct image_store *s, struct arena *a, const char *path, const char *name, bool pinned,
                 const char ***refs, size_t *n_refs, struct err *e);
