/* The methods of runtime.v1.ImageService, and /coracle.v1.ImageImport/Import of our own: takes in the OCI or docker
 * archive (or OCI layout folder) at a path on this machine. The message is declared below; it needs no generated
 * code. The socket is root's alone, so the path is root's to give. */
#include "cri_image.h"

#include "pkg/base/ktime.h"
#include "pkg/grpc/grpc.h"
#include "shim.h"

#define NEW(a, type) ((type *)arena_zalloc((a), sizeof(type)))

static const struct api_field import_request_fields[] = {
    {.json = "path",
     .json_len = 4,
     .offset = offsetof(struct image_import_request, path),
     .proto = 1,
     .kind = API_STRING},
    {.json = "name",
     .json_len = 4,
     .offset = offsetof(struct image_import_request, name),
     .proto = 2,
     .kind = API_STRING},
    {.json = "pinned",
     .json_len = 6,
     .offset = offsetof(struct image_import_request, pinned),
     .proto = 3,
     .kind = API_BOOL},
};
static const struct api_field import_response_fields[] = {
    {.json = "images",
     .json_len = 6,
     .offset = offsetof(struct image_import_response, images),
     .proto = 1,
     .kind = API_STRING,
     .shape = API_LIST},
};
static const uint16_t import_wire[] = {0, 1, 2};
const struct api_type api_image_import_request = {.name = "ImageImportRequest",
                                                  .openapi = "coracle.v1.ImageImportRequest",
                                                  .group = "coracle",
                                                  .version = "v1",
                                                  .fields = import_request_fields,
                                                  .n_fields = ARRAY_LEN(import_request_fields),
                                                  .wire = import_wire,
                                                  .n_wire = 3,
                                                  .proto3 = true,
                                                  .size = sizeof(struct image_import_request),
                                                  .vec_stride = sizeof(struct image_import_request)};
const struct api_type api_image_import_response = {.name = "ImageImportResponse",
                                                   .openapi = "coracle.v1.ImageImportResponse",
                                                   .group = "coracle",
                                                   .version = "v1",
                                                   .fields = import_response_fields,
                                                   .n_fields = ARRAY_LEN(import_response_fields),
                                                   .wire = import_wire,
                                                   .n_wire = 1,
                                                   .proto3 = true,
                                                   .size = sizeof(struct image_import_response),
                                                   .vec_stride = sizeof(struct image_import_response)};
const struct api_rpc api_rpc_image_import = {"/coracle.v1.ImageImport/Import", &api_image_import_request,
                                             &api_image_import_response, false, false};

static struct str_vec to_vec(const char **v, size_t n) { return (struct str_vec){v, n}; }

static void fill_image(struct arena *a, const struct image *im, struct cri_image *out) {
    *out = (struct cri_image){.id = im->id,
                              .repo_tags = to_vec(im->tags, im->n_tags),
                              .repo_digests = to_vec(im->digests, im->n_digests),
                              .size = im->size,
                              .pinned = im->pinned};
    size_t n = strcspn(str_or_empty(im->user), ":");
    char *user = arena_strndup(a, str_or_empty(im->user), n);
    int64_t uid;
    if (str_to_i64(user, &uid) == 0) {
        out->uid = NEW(a, struct cri_int64_value);
        out->uid->value = uid;
    } else {
        out->username = user; /* "" is root, and leaves both empty, as other runtimes do */
    }
    if (n == 0) {
        out->uid = NEW(a, struct cri_int64_value);
        out->username = NULL;
    }
    out->spec = NEW(a, struct cri_image_spec);
    out->spec->image = im->n_tags ? im->tags[0] : im->id;
}

static int do_list_images(struct grpc_call *c, struct err *e) {
    const struct cri_image_filter *f = ((const struct cri_list_images_request *)c->request)->filter;
    struct cri_list_images_response *r = c->response;
    struct shim *s = c->arg;
    struct image *all, one;
    size_t n;
    if (f && f->image && !str_empty(f->image->image)) {
        n = image_store_find(s->images, c->arena, f->image->image, &one, NULL) == 0;
        all = &one;
    } else {
        image_store_list(s->images, c->arena, &all, &n);
    }
    r->images.items = arena_zalloc(c->arena, (n + 1) * sizeof(*r->images.items));
    for (size_t i = 0; i < n; i++) fill_image(c->arena, &all[i], &r->images.items[r->images.n++]);
    return 0;
}

static int do_image_status(struct grpc_call *c, struct err *e) {
    const struct cri_image_status_request *q = c->request;
    struct cri_image_status_response *r = c->response;
    struct shim *s = c->arg;
    struct image im;
    if (!q->image || str_empty(q->image->image)) return err_set(e, -EINVAL, "no image given");
    if (image_store_find(s->images, c->arena, q->image->image, &im, NULL) < 0) return 0; /* absent: an empty answer */
    r->image = NEW(c->arena, struct cri_image);
    fill_image(c->arena, &im, r->image);
    if (!q->verbose) return 0;
    struct json *o = json_object(c->arena), *layers = json_array(c->arena);
    for (size_t i = 0; i < im.n_layers; i++) json_append(c->arena, layers, json_str(c->arena, im.layers[i]));
    json_set(c->arena, o, "chain", layers);
    if (im.manifest) json_set_str(c->arena, o, "manifest", im.manifest);
    r->info.items = arena_zalloc(c->arena, sizeof(struct str_map_entry));
    r->info.n = 1;
    r->info.items[0] = (struct str_map_entry){"info", json_text(c->arena, o)};
    return 0;
}

static int do_pull_image(struct grpc_call *c, struct err *e) {
    const struct cri_pull_image_request *q = c->request;
    struct shim *s = c->arg;
    if (!q->image || str_empty(q->image->image)) return err_set(e, -EINVAL, "no image given");
    return puller_pull(s->puller, c->arena, q->image->image, q->auth,
                       &((struct cri_pull_image_response *)c->response)->image_ref, e);
}

static int do_remove_image(struct grpc_call *c, struct err *e) {
    const struct cri_remove_image_request *q = c->request;
    struct shim *s = c->arg;
    if (!q->image || str_empty(q->image->image)) return err_set(e, -EINVAL, "no image given");
    struct err why = {0};
    int r = image_store_remove(s->images, q->image->image, &why);
    if (r < 0 && r != -ENOENT && e) err_move(e, &why); /* removing what is not there is success */
    err_done(&why);
    return r == -ENOENT ? 0 : r;
}

static void fill_usage(struct arena *a, const char *path, uint64_t bytes, uint64_t inodes,
                       struct cri_filesystem_usage_vec *out) {
    struct cri_filesystem_usage *u = NEW(a, struct cri_filesystem_usage);
    u->timestamp = ktime_unix_ns(ktime_now());
    u->fs_id = NEW(a, struct cri_filesystem_identifier);
    u->fs_id->mountpoint = path;
    u->used_bytes = NEW(a, struct cri_uint64_value);
    u->used_bytes->value = bytes;
    u->inodes_used = NEW(a, struct cri_uint64_value);
    u->inodes_used->value = inodes;
    out->items = u;
    out->n = 1;
}

static int do_image_fs_info(struct grpc_call *c, struct err *e) {
    struct cri_image_fs_info_response *r = c->response;
    struct shim *s = c->arg;
    uint64_t bytes, inodes;
    image_store_usage(s->images, &bytes, &inodes);
    const char *root = arena_strdup(c->arena, s->cfg.root);
    fill_usage(c->arena, root, bytes, inodes, &r->image_filesystems);
    fill_usage(c->arena, root, bytes, inodes, &r->container_filesystems); /* the same file system */
    return 0;
}

static int do_import(struct grpc_call *c, struct err *e) {
    const struct image_import_request *q = c->request;
    struct image_import_response *r = c->response;
    struct shim *s = c->arg;
    if (str_empty(q->path) || q->path[0] != '/') return err_set(e, -EINVAL, "the archive's path must be absolute");
    return image_import(s->images, c->arena, q->path, str_empty(q->name) ? NULL : q->name, q->pinned, &r->images.items,
                        &r->images.n, e);
}

#define RPC(name) &api_rpc_cri_image_service_##name
const struct grpc_method cri_image_methods[] = {
    {RPC(list_images), do_list_images},   {RPC(image_status), do_image_status},   {RPC(pull_image), do_pull_image},
    {RPC(remove_image), do_remove_image}, {RPC(image_fs_info), do_image_fs_info}, {&api_rpc_image_import, do_import},
};
const size_t cri_image_methods_n = ARRAY_LEN(cri_image_methods);
