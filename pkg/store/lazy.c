/* Lazy writes: the newest revisions of the store, held in memory until the next durable commit or the flush timer.
 *
 * Invariant: every version here is newer than everything in the file. So a reader asks here first and, when there is
 * no version of the key up to its revision, the file. */
#include "pkg/store/sqlite.h"

static size_t version_bytes(const struct version *v) {
    return sizeof(*v) + 64 + strlen(v->key) + (v->value && !v->deleted ? v->value->len : 0);
}

void lazy_add(struct lazy *l, struct version *v) {
    version_vec_add(&l->items, v);
    l->bytes += version_bytes(v);
    v->older = map_put(&l->newest, v->key, v);
    if (v->older) v->older->newer = v;
}

struct version *lazy_find(struct lazy *l, const char *key, int64_t rev) {
    struct version *v = map_get(&l->newest, key);
    while (v && v->rev > rev) v = v->older;
    return v;
}

static int by_key(const void *a, const void *b) {
    const struct version *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

void lazy_collect(struct lazy *l, const char *prefix, const char *from, int64_t rev, struct version_vec *out) {
    for (size_t i = 0; i < l->items.n; i++) {
        struct version *v = l->items.items[i];
        if (v->rev > rev) break;
        if (v->newer && v->newer->rev <= rev) continue;
        if (!str_has_prefix(v->key, prefix) || (from && strcmp(v->key, from) < 0)) continue;
        version_vec_add(out, version_ref(v));
    }
    if (out->n) qsort(out->items, out->n, sizeof(*out->items), by_key);
}

void lazy_clear(struct lazy *l) {
    map_done(&l->newest);
    l->newest = (struct map)MAP_INIT;
    for (size_t i = 0; i < l->items.n; i++) l->items.items[i]->older = l->items.items[i]->newer = NULL;
    version_vec_done(&l->items);
    l->bytes = 0;
}
