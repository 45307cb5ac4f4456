/* See objects.h. */
#include "kubelet/objects.h"

#include <pthread.h>
#include <sys/stat.h>

#include "pkg/base/map.h"

enum { MAX_OBJECT = 4 * 1024 * 1024, MAX_CACHED = 4096 };

struct cached {
    int64_t fetched; /* mono */
    char *json;      /* NULL: the object does not exist */
    size_t len;
};

struct api_objects {
    struct objects base;
    struct client *client;
    char *dir;
    int64_t ttl;
    pthread_mutex_t lock;
    struct map cache; /* path -> struct cached */
};

static void cached_free(void *p) {
    struct cached *c = p;
    free(c->json);
    free(c);
}

/* Drops what is long out of date, so that objects nobody asks for go away. */
static void cache_trim(struct api_objects *o, int64_t now) {
    size_t it = 0;
    const char *key;
    void *value;
    while (map_next(&o->cache, &it, &key, &value)) {
        struct cached *c = value;
        if (o->cache.n > MAX_CACHED || now - c->fetched > 4 * o->ttl) cached_free(map_del(&o->cache, key));
    }
}

static char *file_of(struct api_objects *o, const struct client_resource *r, const char *ns, const char *name) {
    return o->dir ? xasprintf("%s/%s_%s_%s.json", o->dir, r->plural, ns, name) : NULL;
}

static void remember(struct api_objects *o, const char *path, const char *file, const char *json, size_t len) {
    struct cached *c = xcalloc(1, sizeof(*c));
    c->fetched = mono_ns();
    c->json = json ? xstrndup(json, len) : NULL;
    c->len = len;
    pthread_mutex_lock(&o->lock);
    struct cached *old = map_put(&o->cache, path, c);
    bool same = old && old->json && json && old->len == len && memcmp(old->json, json, len) == 0;
    if (old) cached_free(old);
    cache_trim(o, c->fetched);
    pthread_mutex_unlock(&o->lock);
    if (!file || same) return;
    if (!json) {
        unlink(file);
        return;
    }
    _cleanup_free_ char *have = NULL;
    size_t n;
    if (file_read(file, MAX_OBJECT, &have, &n) == 0 && n == len && memcmp(have, json, len) == 0) return;
    file_write_atomic(file, json, len, 0600);
}

/* 0 and text in `a`; -ENOENT known to be absent; 1 nothing known. */
static int from_cache(struct api_objects *o, struct arena *a, const char *path, char **json, size_t *len) {
    int r = 1;
    pthread_mutex_lock(&o->lock);
    struct cached *c = map_get(&o->cache, path);
    if (c && mono_ns() - c->fetched < (c->json ? o->ttl : NS_PER_SEC)) {
        r = c->json ? 0 : -ENOENT;
        if (c->json) {
            *json = arena_strndup(a, c->json, c->len);
            *len = c->len;
        }
    }
    pthread_mutex_unlock(&o->lock);
    return r;
}

static int fetch(struct api_objects *o, struct arena *a, const struct client_resource *r, const char *ns,
                 const char *name, char **json, size_t *len, struct err *e) {
    const char *path = client_path(a, r, ns, name, NULL);
    _cleanup_free_ char *file = file_of(o, r, ns, name);
    int rc = from_cache(o, a, path, json, len);
    const char *what = str_eq(r->plural, "secrets") ? "secret" : "configmap";
    if (rc == -ENOENT) return err_status(e, 404, "NotFound", "%s \"%s\" not found", what, name);
    if (rc == 0) return 0;
    struct err got = {0};
    rc = -ENOTCONN;
    if (o->client) {
        struct client_request rq = {.method = "GET", .path = path};
        struct client_response resp = {0};
        rc = client_do(o->client, &rq, &resp, &got);
        if (rc == 0) {
            *json = arena_strndup(a, resp.body, resp.len);
            *len = resp.len;
            client_response_done(&resp);
            remember(o, path, file, *json, *len);
            return 0;
        }
        if (got.status == 404) {
            remember(o, path, file, NULL, 0);
            err_done(&got);
            return err_status(e, 404, "NotFound", "%s \"%s\" not found", what, name);
        }
    }
    /* No answer that settles it: what this node saw last is the best there is. */
    _cleanup_free_ char *text = NULL;
    if (file && got.status == 0 && file_read(file, MAX_OBJECT, &text, len) == 0) {
        *json = arena_strndup(a, text, *len);
        err_done(&got);
        return 0;
    }
    if (!got.code) err_set(&got, rc, "no API server is configured");
    if (e)
        err_move(e, &got);
    else
        err_done(&got);
    return rc;
}

static int get(struct objects *base, struct arena *a, const struct client_resource *r, const char *ns, const char *name,
               void *out, struct err *e) {
    struct api_objects *o = CONTAINER_OF(base, struct api_objects, base);
    char *json;
    size_t len;
    int rc = fetch(o, a, r, ns, name, &json, &len, e);
    if (rc < 0) return rc;
    return api_from_json(a, r->type, json, len, out, e);
}

static int get_config_map(struct objects *o, struct arena *a, const char *ns, const char *name,
                          struct core_config_map *out, struct err *e) {
    return get(o, a, &client_configmaps, ns, name, out, e);
}

static int get_secret(struct objects *o, struct arena *a, const char *ns, const char *name, struct core_secret *out,
                      struct err *e) {
    return get(o, a, &client_secrets, ns, name, out, e);
}

static void api_objects_free(struct objects *base) {
    struct api_objects *o = CONTAINER_OF(base, struct api_objects, base);
    map_done_with(&o->cache, cached_free);
    pthread_mutex_destroy(&o->lock);
    free(o->dir);
    free(o);
}

static const struct objects_ops api_ops = {get_config_map, get_secret, api_objects_free};

struct objects *objects_new(struct client *c, const char *dir, int64_t ttl_ns) {
    struct api_objects *o = xcalloc(1, sizeof(*o));
    o->base.ops = &api_ops;
    o->client = c;
    o->ttl = ttl_ns;
    pthread_mutex_init(&o->lock, NULL);
    if (dir && mkdir_p(dir, 0700) == 0) o->dir = xstrdup(dir);
    return &o->base;
}

void objects_free(struct objects *o) {
    if (o) o->ops->free(o);
}

int objects_config_map(struct objects *o, struct arena *a, const char *ns, const char *name,
                       struct core_config_map *out, struct err *e) {
    return o->ops->config_map(o, a, ns, name, out, e);
}

int objects_secret(struct objects *o, struct arena *a, const char *ns, const char *name, struct core_secret *out,
                   struct err *e) {
    return o->ops->secret(o, a, ns, name, out, e);
}
