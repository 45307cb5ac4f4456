/* See image_gc.h. One thread calls (kubelet.c's housekeeping). */
#include "kubelet/image_gc.h"

#include <sys/statvfs.h>

#include "kubelet/images.h"
#include "kubelet/node.h"

enum { EVENT_EVERY_S = 300 };

struct seen {
    int64_t first, used; /* mono ns; used 0: never since the kubelet's start */
    uint64_t round;      /* the last look that found it */
};

struct image_gc {
    struct kubelet *kl;
    char *mount;
    struct map seen; /* image id -> struct seen */
    uint64_t round;
    int64_t warned;
};

struct image_gc *image_gc_new(struct kubelet *kl) {
    struct image_gc *g = xcalloc(1, sizeof(*g));
    g->kl = kl;
    return g;
}

void image_gc_free(struct image_gc *g) {
    if (!g) return;
    map_done_with(&g->seen, free);
    free(g->mount);
    free(g);
}

const char *image_gc_mount(struct image_gc *g) {
    if (g->mount || g->kl->fake) return g->mount;
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_image_fs_info_request req = {0};
    struct cri_image_fs_info_response fs = {0};
    if (runtime_call(g->kl->rt, RT_IMAGE_FS_INFO, a, &req, &fs, NULL) < 0 || !fs.image_filesystems.n) return NULL;
    const struct cri_filesystem_identifier *id = fs.image_filesystems.items[0].fs_id;
    if (id && !str_empty(id->mountpoint)) g->mount = xstrdup(id->mountpoint);
    return g->mount;
}

static int used_percent(const char *path) {
    struct statvfs fs;
    if (statvfs(path, &fs) < 0 || !fs.f_blocks) return 0;
    return (int)(100 - (uint64_t)fs.f_bavail * 100 / fs.f_blocks);
}

static bool in_use(const struct cri_image *img, const struct cri_list_containers_response *containers) {
    for (size_t i = 0; i < containers->containers.n; i++) {
        const struct cri_container *c = &containers->containers.items[i];
        const char *name = c->image ? c->image->image : NULL;
        if (str_eq(c->image_ref, img->id) || str_eq(c->image_id, img->id) || str_eq(name, img->id)) return true;
        for (size_t k = 0; k < img->repo_tags.n; k++)
            if (str_eq(name, img->repo_tags.items[k])) return true;
        for (size_t k = 0; k < img->repo_digests.n; k++)
            if (str_eq(c->image_ref, img->repo_digests.items[k])) return true;
    }
    return false;
}

/* Runtimes with a pause container start every pod from it, and not all of them pin it. */
static bool is_pause(const struct cri_image *img) {
    for (size_t i = 0; i < img->repo_tags.n; i++)
        if (strstr(img->repo_tags.items[i], "/pause:")) return true;
    return false;
}

static void forget_gone(struct image_gc *g) {
    size_t it = 0;
    const char *id;
    void *v;
    while (map_next(&g->seen, &it, &id, &v))
        if (((struct seen *)v)->round != g->round) {
            map_del(&g->seen, id);
            free(v);
            it = 0; /* the map has moved */
        }
}

struct removable {
    const struct cri_image *img;
    struct seen *seen;
};

static int by_age(const void *x, const void *y) {
    const struct removable *a = x, *b = y;
    if (a->seen->used != b->seen->used) return a->seen->used < b->seen->used ? -1 : 1;
    return a->seen->first < b->seen->first ? -1 : a->seen->first > b->seen->first;
}

/* Looks at all images; those that may go, oldest use first, in `a`. */
static size_t look(struct image_gc *g, struct arena *a, struct removable **out) {
    struct cri_list_images_request ireq = {0};
    struct cri_list_images_response images = {0};
    struct cri_list_containers_request creq = {0};
    struct cri_list_containers_response containers = {0};
    *out = NULL;
    if (runtime_call(g->kl->rt, RT_LIST_IMAGES, a, &ireq, &images, NULL) < 0 ||
        runtime_call(g->kl->rt, RT_LIST_CONTAINERS, a, &creq, &containers, NULL) < 0)
        return 0;
    int64_t now = mono_ns();
    size_t n = 0;
    g->round++;
    *out = arena_alloc(a, (images.images.n + 1) * sizeof(**out));
    for (size_t i = 0; i < images.images.n; i++) {
        const struct cri_image *img = &images.images.items[i];
        struct seen *s = map_get(&g->seen, str_or_empty(img->id));
        if (!s) {
            s = xcalloc(1, sizeof(*s));
            s->first = now;
            map_put(&g->seen, str_or_empty(img->id), s);
        }
        s->round = g->round;
        bool used = in_use(img, &containers);
        if (used) s->used = now;
        if (used || img->pinned || is_pause(img) || now - s->first < g->kl->cfg.image_min_age_ns) continue;
        (*out)[n++] = (struct removable){img, s};
    }
    forget_gone(g);
    const char **ids = arena_alloc(a, (images.images.n + 1) * sizeof(*ids));
    for (size_t i = 0; i < images.images.n; i++) ids[i] = str_or_empty(images.images.items[i].id);
    images_prune_records(g->kl->images, ids, images.images.n);
    if (n) qsort(*out, n, sizeof(**out), by_age);
    return n;
}

static bool remove_one(struct image_gc *g, const struct removable *r) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cri_image_spec spec = {.image = r->img->id};
    struct cri_remove_image_request req = {.image = &spec};
    struct cri_remove_image_response resp = {0};
    _cleanup_err_ struct err e = {0};
    const char *name = r->img->repo_tags.n ? r->img->repo_tags.items[0] : r->img->id;
    bool ok = runtime_call(g->kl->rt, RT_REMOVE_IMAGE, a, &req, &resp, &e) == 0;
    if (ok)
        log_info("removed an unused image", "image", name, NULL);
    else
        log_warn("cannot remove an image", "image", name, "error", e.msg, NULL);
    return ok;
}

/* Removes until no more than `percent` of the disk is used. */
static size_t remove_down_to(struct image_gc *g, const struct removable *r, size_t n, int percent) {
    size_t removed = 0;
    for (size_t i = 0; i < n && used_percent(g->mount) > percent; i++) removed += remove_one(g, &r[i]);
    if (removed) node_wake(g->kl->node); /* the status lists images */
    return removed;
}

/* Those that nobody has used for imageMaximumGCAge, whatever room there is; they leave the list. As upstream, the age
 * counts from when this kubelet first saw the image. */
static void remove_old(struct image_gc *g, struct removable *r, size_t *n) {
    int64_t most = g->kl->cfg.image_max_age_ns, now = mono_ns();
    size_t kept = 0, removed = 0;
    if (!most) return;
    for (size_t i = 0; i < *n; i++) {
        bool old = now - MAX_OF(r[i].seen->used, r[i].seen->first) > most;
        if (old && remove_one(g, &r[i]))
            removed++;
        else
            r[kept++] = r[i];
    }
    *n = kept;
    if (removed) node_wake(g->kl->node);
}

void image_gc_pass(struct image_gc *g) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct removable *r;
    if (!image_gc_mount(g)) return;
    size_t n = look(g, a, &r);
    remove_old(g, r, &n);
    if (used_percent(g->mount) < g->kl->cfg.image_gc_high) return;
    remove_down_to(g, r, n, (int)g->kl->cfg.image_gc_low);
    int used = used_percent(g->mount);
    if (used < g->kl->cfg.image_gc_high || (g->warned && mono_ns() - g->warned < EVENT_EVERY_S * NS_PER_SEC)) return;
    g->warned = mono_ns();
    node_event(g->kl->node, "Warning", "FreeDiskSpaceFailed",
               "the images' file system is %d%% full and no further image may be removed", used);
}

size_t image_gc_all(struct image_gc *g) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct removable *r;
    if (!image_gc_mount(g)) return 0;
    size_t n = look(g, a, &r);
    return remove_down_to(g, r, n, -1);
}
