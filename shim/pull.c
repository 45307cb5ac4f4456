/* Pulling an image: endpoints in their order, the layers several at a time, each image once however many ask.
 *
 * Large blobs are written to ROOT/partial/DIGEST and stay there when a pull breaks off, so that the next one goes on
 * where it ended; the file is locked while somebody writes it and gone once its layer is unpacked. Everything is
 * believed only when its digest is right (ingest.c). */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "registry.h"
#include "shim.h"

enum { PROGRESS_EVERY_S = 10, PARTIAL_MIN = 1 << 20 };

struct flight { /* a pull in progress, shared by all who want the same */
    unsigned waiters;
    bool done;
    int r;
    struct err e;
    char id[7 + SHA256_HEX + 1];
};

struct puller {
    struct image_store *images;
    char *insecure, *config;
    pthread_mutex_t lock;
    pthread_cond_t landed;
    struct map flights;
};

struct pull { /* one endpoint's try */
    struct puller *p;
    struct registry *registry;
    const char *name;
    atomic_llong received, said_at; /* bytes; mono ns of the last line about progress */
};

struct puller *puller_new(struct image_store *images, const char *insecure_registries, const char *config) {
    struct puller *p = xcalloc(1, sizeof(*p));
    p->images = images;
    p->insecure = xstrdup(str_or_empty(insecure_registries));
    p->config = xstrdup(str_or_empty(config));
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->landed, NULL);
    return p;
}

struct puller *puller_free(struct puller *p) {
    if (!p) return NULL;
    free(p->insecure);
    free(p->config);
    map_done(&p->flights);
    pthread_cond_destroy(&p->landed);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return NULL;
}

static void say_progress(struct pull *u) {
    long long at = atomic_load(&u->said_at), now = mono_ns();
    if (now - at < PROGRESS_EVERY_S * NS_PER_SEC || !atomic_compare_exchange_strong(&u->said_at, &at, now)) return;
    char mb[32];
    snprintf(mb, sizeof(mb), "%.1f", (double)atomic_load(&u->received) / 1e6);
    log_info("pulling", "image", u->name, "megabytes", mb, NULL);
}

static int open_blob(void *arg, const char *digest, int64_t size, bool manifest, int *fd, struct err *e) {
    struct pull *u = arg;
    bool keep = size >= PARTIAL_MIN && !manifest;
    int64_t max = size >= 0 ? size : PULL_MANIFEST_MAX; /* layers come with a size, the first manifest without */
    struct stat st = {0};
    *fd = keep ? image_partial_file(u->p->images, digest, e) : image_tmp_file(u->p->images, e);
    if (*fd < 0) return *fd;
    if (keep && fstat(*fd, &st) < 0) st.st_size = 0;
    int r = fs_room(*fd, max > st.st_size ? (uint64_t)(max - st.st_size) : 0, e);
    if (r == 0) r = registry_blob(u->registry, digest, max, manifest, *fd, e);
    say_progress(u);
    if (r < 0) close(take_fd(fd));
    return r;
}

static void blob_done(void *arg, const char *digest, bool manifest) {
    struct pull *u = arg;
    if (!manifest) image_partial_drop(u->p->images, digest);
}

/* The digest the reference means now. */
static int resolve(struct pull *u, struct arena *a, const struct image_ref *ref, const char **digest, struct err *e) {
    if (ref->digest) {
        *digest = ref->digest;
        return 0;
    }
    _cleanup_buf_ struct buf body = {.limit = PULL_MANIFEST_MAX};
    int r = registry_manifest(u->registry, ref->tag, &body, e);
    if (r < 0) return r;
    char hex[SHA256_HEX + 1]; /* of what came, whatever the header claims */
    sha256_of(body.data ? body.data : "", body.len, hex);
    *digest = arena_printf(a, "sha256:%s", hex);
    return 0;
}

static int pull_from(struct puller *p, struct arena *a, const struct registry_endpoint *ep, const struct image_ref *ref,
                     const struct cri_auth_config *auth, const char **id, struct err *e) {
    const char *digest, *name = image_ref_str(a, ref);
    struct pull u = {.p = p, .name = name, .said_at = mono_ns()};
    const struct image_source src = {
        .open_blob = open_blob, .blob_done = blob_done, .arg = &u, .threads = PULL_THREADS};
    /* the pod's credentials are for the registry it names, not for its mirrors */
    int r = registry_open(ep, ref->path, ep->ns ? NULL : auth, &u.received, &u.registry, e);
    if (r == 0) r = resolve(&u, a, ref, &digest, e);
    if (r == 0) r = image_ingest(p->images, a, &src, digest, &name, 1, false, id, e);
    registry_close(u.registry);
    return r;
}

static int pull(struct puller *p, const char *image, const struct cri_auth_config *auth, char id[7 + SHA256_HEX + 1],
                struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct registry_endpoint ep[REGISTRY_ENDPOINTS_MAX];
    struct image_ref ref;
    const char *found = NULL;
    size_t n;
    int r = image_ref_parse(a, image, &ref, e);
    if (r == 0) r = registries_endpoints(a, p->config, p->insecure, ref.host, ep, &n, e);
    if (r < 0) return r;
    for (size_t i = 0; i < n; i++) {
        struct err why = {0};
        r = pull_from(p, a, &ep[i], &ref, auth, &found, &why);
        if (r < 0 && i + 1 < n)
            log_warn("a mirror does not give the image", "image", image, "mirror", ep[i].base, "error", why.msg, NULL);
        else if (r < 0)
            err_move(e, &why);
        err_done(&why);
        if (r == 0) break;
    }
    if (r == 0) snprintf(id, 7 + SHA256_HEX + 1, "%s", found);
    return r < 0 ? err_wrap(e, "pull %s", image_ref_str(a, &ref)) : 0;
}

/* The key of a shared pull: the reference and who asks (credentials of one must not serve another). */
static const char *flight_key(struct arena *a, const char *image, const struct cri_auth_config *auth) {
    if (!auth) return image;
    return arena_printf(a, "%s|%s|%s|%s|%s|%s", image, str_or_empty(auth->username), str_or_empty(auth->password),
                        str_or_empty(auth->auth), str_or_empty(auth->registry_token),
                        str_or_empty(auth->identity_token));
}

int puller_pull(struct puller *p, struct arena *a, const char *image, const struct cri_auth_config *auth,
                const char **id, struct err *e) {
    const char *key = flight_key(a, image, auth);
    pthread_mutex_lock(&p->lock);
    struct flight *f = map_get(&p->flights, key);
    if (!f) {
        f = xcalloc(1, sizeof(*f));
        f->waiters = 1;
        map_put(&p->flights, key, f);
        pthread_mutex_unlock(&p->lock);
        f->r = pull(p, image, auth, f->id, &f->e);
        pthread_mutex_lock(&p->lock);
        f->done = true;
        map_del(&p->flights, key);
        pthread_cond_broadcast(&p->landed);
    } else {
        f->waiters++;
        while (!f->done) pthread_cond_wait(&p->landed, &p->lock);
    }
    int r = f->r;
    if (r == 0)
        *id = arena_strdup(a, f->id);
    else
        err_set(e, r, "%s", f->e.msg);
    if (--f->waiters == 0) {
        err_done(&f->e);
        free(f);
    }
    pthread_mutex_unlock(&p->lock);
    return r;
}
