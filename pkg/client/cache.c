/* The indexed store behind an informer: a map from key to object, and for each index a map from value to a
 * bucket, a vector of objects sorted by key (so that lists come out in a stable order and removal is a binary
 * search). Index 0 is the namespace. */
#include "cache.h"

#include <assert.h>
#include <pthread.h>

#include "object.h"
#include "pkg/api/core.h"
#include "pkg/api/meta.h"
#include "pkg/base/map.h"

enum { INDEX_MAX = 8 };

struct bucket {
    struct object **items; /* no references: the main map holds them */
    size_t n, cap;
};

struct index {
    informer_index_fn *fn;
    struct map buckets;
};

struct cache {
    pthread_mutex_t lock;
    bool namespaced;
    struct map objects;
    struct index index[INDEX_MAX];
    int n_index;
};

static void by_namespace(const struct object *o, informer_emit_fn *emit, void *ctx) {
    emit(ctx, str_or_empty(o->meta->namespace));
}

void index_by_uid(const struct object *o, informer_emit_fn *emit, void *ctx) {
    if (o->meta->uid) emit(ctx, o->meta->uid);
}

void index_by_owner_uid(const struct object *o, informer_emit_fn *emit, void *ctx) {
    for (size_t i = 0; i < o->meta->owner_references.n; i++)
        emit(ctx, str_or_empty(o->meta->owner_references.items[i].uid));
}

void index_by_controller_uid(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct meta_owner_reference *r = meta_controller_of(o->meta);
    if (r) emit(ctx, str_or_empty(r->uid));
}

void index_by_pod_node(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct core_pod *p = o->obj;
    emit(ctx, str_or_empty(p->spec.node_name));
}

/* ---- buckets ---- */

/* Where the key is, or belongs. */
static size_t bucket_at(const struct bucket *b, const char *key) {
    size_t lo = 0, hi = b->n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (strcmp(b->items[mid]->key, key) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

struct change {
    struct index *index;
    struct object *o;
};

static void emit_add(void *ctx, const char *value) {
    struct change *c = ctx;
    struct bucket *b = map_get(&c->index->buckets, value);
    if (!b) {
        b = xcalloc(1, sizeof(*b));
        map_put(&c->index->buckets, value, b);
    }
    size_t at = bucket_at(b, c->o->key);
    if (at < b->n && strcmp(b->items[at]->key, c->o->key) == 0) {
        b->items[at] = c->o;
        return;
    }
    VEC_GROW(b->items, b->n, b->cap);
    memmove(b->items + at + 1, b->items + at, (b->n - at) * sizeof(*b->items));
    b->items[at] = c->o;
    b->n++;
}

static void bucket_free(void *p) {
    struct bucket *b = p;
    free(b->items);
    free(b);
}

static void emit_del(void *ctx, const char *value) {
    struct change *c = ctx;
    struct bucket *b = map_get(&c->index->buckets, value);
    if (!b) return;
    size_t at = bucket_at(b, c->o->key);
    if (at >= b->n || strcmp(b->items[at]->key, c->o->key) != 0) return;
    memmove(b->items + at, b->items + at + 1, (b->n - at - 1) * sizeof(*b->items));
    if (--b->n == 0) bucket_free(map_del(&c->index->buckets, value));
}

static void index_object(struct index *ix, struct object *o, informer_emit_fn *emit) {
    struct change c = {ix, o};
    ix->fn(o, emit, &c);
}

/* ---- public ---- */

struct cache *cache_new(bool namespaced) {
    struct cache *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    c->namespaced = namespaced;
    c->index[0].fn = by_namespace;
    c->n_index = 1;
    return c;
}

static void unref(void *o) { object_unref(o); }

void cache_free(struct cache *c) {
    if (!c) return;
    for (int i = 0; i < c->n_index; i++) map_done_with(&c->index[i].buckets, bucket_free);
    map_done_with(&c->objects, unref);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

struct object *cache_put(struct cache *c, struct object *o) {
    pthread_mutex_lock(&c->lock);
    struct object *old = map_put(&c->objects, o->key, object_ref(o));
    for (int i = 0; i < c->n_index; i++) {
        if (old) index_object(&c->index[i], old, emit_del);
        index_object(&c->index[i], o, emit_add);
    }
    pthread_mutex_unlock(&c->lock);
    return old;
}

struct object *cache_del(struct cache *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    struct object *old = map_del(&c->objects, key);
    for (int i = 0; old && i < c->n_index; i++) index_object(&c->index[i], old, emit_del);
    pthread_mutex_unlock(&c->lock);
    return old;
}

struct object *cache_get(struct cache *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    struct object *o = object_ref(map_get(&c->objects, key));
    pthread_mutex_unlock(&c->lock);
    return o;
}

size_t cache_count(struct cache *c) {
    pthread_mutex_lock(&c->lock);
    size_t n = c->objects.n;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static void append_bucket(struct index *ix, const char *value, struct object_list *out) {
    struct bucket *b = map_get(&ix->buckets, value);
    for (size_t i = 0; b && i < b->n; i++) object_list_add(out, b->items[i]);
}

void cache_list(struct cache *c, const char *ns, struct object_list *out) {
    pthread_mutex_lock(&c->lock);
    if (!str_empty(ns)) {
        append_bucket(&c->index[0], ns, out);
    } else {
        size_t it = 0;
        const char *value;
        void *b;
        while (map_next(&c->index[0].buckets, &it, &value, &b)) append_bucket(&c->index[0], value, out);
    }
    pthread_mutex_unlock(&c->lock);
}

int cache_add_index(struct cache *c, informer_index_fn *fn) {
    pthread_mutex_lock(&c->lock);
    int at = 0;
    while (at < c->n_index && c->index[at].fn != fn) at++;
    if (at == c->n_index) {
        assert(c->n_index < INDEX_MAX);
        c->index[c->n_index++].fn = fn;
        size_t it = 0;
        const char *key;
        void *o;
        while (map_next(&c->objects, &it, &key, &o)) index_object(&c->index[at], o, emit_add);
    }
    pthread_mutex_unlock(&c->lock);
    return at;
}

void cache_by_index(struct cache *c, int index, const char *value, struct object_list *out) {
    pthread_mutex_lock(&c->lock);
    append_bucket(&c->index[index], value, out);
    pthread_mutex_unlock(&c->lock);
}
