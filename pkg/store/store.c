/* The store's front: choice of the back end, checks that both need, and the small types they share. What a store
 * promises is said in store.h; sqlite.c and etcd.c keep the promise. */
#include <pthread.h>

#include "pkg/store/internal.h"

int store_open(const struct store_options *o, struct store **out, struct err *e) {
    if (!str_empty(o->etcd_servers)) return store_etcd_open(o, out, e);
    if (!str_empty(o->sqlite_path)) return store_sqlite_open(o, out, e);
    return err_set(e, -EINVAL, "store: neither a database file nor etcd servers are given");
}

void store_close(struct store *s) {
    if (s) s->backend->close(s);
}

static int key_check(const char *key, struct err *e) {
    size_t n = strlen(key);
    if (n == 0) return err_set(e, -EINVAL, "store: empty key");
    if (n > STORE_KEY_MAX) return err_set(e, -EINVAL, "store: key of %zu bytes is longer than %d", n, STORE_KEY_MAX);
    return 0;
}

int store_get(struct store *s, struct arena *a, const char *key, int64_t rev, struct store_kv *out, int64_t *store_rev,
              struct err *e) {
    int r = key_check(key, e);
    return r < 0 ? r : s->backend->get(s, a, key, rev, out, store_rev, e);
}

int store_list(struct store *s, struct arena *a, const char *prefix, const char *from, size_t limit, int64_t rev,
               struct store_list *out, struct err *e) {
    *out = (struct store_list){0};
    return s->backend->list(s, a, prefix, from, limit, rev, out, e);
}

int store_count(struct store *s, const char *prefix, const char *from, int64_t rev, int64_t *out, struct err *e) {
    return s->backend->count(s, prefix, from, rev, out, e);
}

int store_txn(struct store *s, struct arena *a, const struct store_txn *t, struct store_txn_result *out,
              struct err *e) {
    *out = (struct store_txn_result){0};
    int r = key_check(t->key, e);
    if (r < 0) return r;
    if (t->op == STORE_PUT && t->value_len > STORE_VALUE_MAX)
        return err_set(e, -E2BIG, "store: value of %zu bytes is larger than %d", t->value_len, STORE_VALUE_MAX);
    return s->backend->txn(s, a, t, out, e);
}

int store_current_rev(struct store *s, int64_t *out, struct err *e) { return s->backend->current_rev(s, out, e); }

int store_compact(struct store *s, int64_t rev, struct err *e) { return s->backend->compact(s, rev, e); }

int store_advance(struct store *s, int64_t rev, struct err *e) { return s->backend->advance(s, rev, e); }

int store_snapshot(struct store *s, const char *path, struct err *e) { return s->backend->snapshot(s, path, e); }

int64_t store_size(struct store *s) { return s->backend->size(s); }

int store_watch(struct store *s, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
                struct store_watch **out, struct err *e) {
    return s->backend->watch(s, prefix, after_rev, fn, arg, out, e);
}

int store_cause(struct store *s, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e) {
    *out = (struct store_cause_record){0};
    return s->backend->cause(s, a, rev, out, e);
}

/* ---- versions ---- */

struct version *version_new(const char *key, size_t key_len) {
    struct version *v = xcalloc(1, sizeof(*v) + key_len + 1);
    memcpy(v->key, key, key_len);
    v->refs = 1;
    return v;
}

struct version *version_ref(struct version *v) {
    atomic_fetch_add_explicit(&v->refs, 1, memory_order_relaxed);
    return v;
}

void version_unref(struct version *v) {
    if (!v || atomic_fetch_sub_explicit(&v->refs, 1, memory_order_acq_rel) != 1) return;
    rbytes_unref(v->value);
    rbytes_unref(v->prev);
    free(v->actor);
    free(v);
}

void version_to_kv(struct arena *a, const struct version *v, struct store_kv *out) {
    size_t n = v->value ? v->value->len : 0;
    *out = (struct store_kv){
        .key = arena_strdup(a, v->key),
        .value = arena_strndup(a, v->value ? v->value->data : "", n),
        .value_len = n,
        .create_rev = v->create_rev,
        .mod_rev = v->rev,
    };
}

void version_vec_add(struct version_vec *v, struct version *item) {
    VEC_GROW(v->items, v->n, v->cap);
    v->items[v->n++] = item;
}

void version_vec_done(struct version_vec *v) {
    for (size_t i = 0; i < v->n; i++) version_unref(v->items[i]);
    free(v->items);
    *v = (struct version_vec){0};
}

char *prefix_end(struct arena *a, const char *prefix) {
    size_t n = strlen(prefix);
    char *end = arena_strndup(a, prefix, n);
    while (n > 0 && (unsigned char)end[n - 1] == 0xff) n--;
    if (n == 0) return NULL;
    end[n - 1]++;
    end[n] = 0;
    return end;
}
