/* The store in which values of some keys are encrypted, before any other: everything else is passed on. */
#include <pthread.h>

#include "pkg/base/log.h"
#include "pkg/store/internal.h"
#include "pkg/store/seal.h"

/* What a watch was made with; kept until the store is closed: a server makes a handful. */
struct reader {
    struct reader *next;
    struct store *s;
    store_watch_fn *fn;
    void *arg;
};

struct sealed {
    struct store store; /* first */
    struct store *inner;
    pthread_mutex_t lock; /* of readers */
    struct reader *readers;
    pthread_rwlock_t using; /* taken by whoever works by the table */
    struct sealed_prefix *table;
    size_t n;
};

static struct sealed *sealed_of(struct store *s) { return (struct sealed *)s; }

/* The next part of a key: "apps.example.com" of "/registry/apps.example.com/things/x" behind "/registry/". */
static bool is_custom(const char *rest) {
    const char *slash = strchr(rest, '/'), *dot = strchr(rest, '.');
    return slash && dot && dot < slash;
}

static const struct seals *seals_for(struct store *s, const char *key) {
    const struct sealed *x = sealed_of(s);
    for (size_t i = 0; i < x->n; i++)
        if (str_has_prefix(key, x->table[i].prefix) &&
            (!x->table[i].custom || is_custom(key + strlen(x->table[i].prefix))))
            return x->table[i].seals;
    return NULL;
}

/* A value as it is stored becomes the plain one. */
static int open_text(struct store *s, struct arena *a, const char *key, const char **value, size_t *len,
                     struct err *e) {
    struct sealed *x = sealed_of(s);
    pthread_rwlock_rdlock(&x->using);
    const struct seals *k = seals_for(s, key);
    int rc = k ? seals_decrypt(k, a, key, *value, *len, value, len, e) : 0;
    pthread_rwlock_unlock(&x->using);
    return rc;
}

static int open_kv(struct store *s, struct arena *a, struct store_kv *kv, struct err *e) {
    return open_text(s, a, kv->key, &kv->value, &kv->value_len, e);
}

static void sealed_close(struct store *s) {
    struct sealed *x = sealed_of(s);
    store_close(x->inner);
    while (x->readers) {
        struct reader *r = x->readers;
        x->readers = r->next;
        free(r);
    }
    pthread_mutex_destroy(&x->lock);
    pthread_rwlock_destroy(&x->using);
    free(x->table);
    free(x);
}

static int sealed_get(struct store *s, struct arena *a, const char *key, int64_t rev, struct store_kv *out,
                      int64_t *store_rev, struct err *e) {
    int r = store_get(sealed_of(s)->inner, a, key, rev, out, store_rev, e);
    return r < 0 ? r : open_kv(s, a, out, e);
}

static int sealed_list(struct store *s, struct arena *a, const char *prefix, const char *from, size_t limit,
                       int64_t rev, struct store_list *out, struct err *e) {
    int r = store_list(sealed_of(s)->inner, a, prefix, from, limit, rev, out, e);
    for (size_t i = 0; r == 0 && i < out->n; i++) r = open_kv(s, a, &out->items[i], e);
    return r;
}

static int sealed_count(struct store *s, const char *prefix, const char *from, int64_t rev, int64_t *out,
                        struct err *e) {
    return store_count(sealed_of(s)->inner, prefix, from, rev, out, e);
}

static int sealed_txn(struct store *s, struct arena *a, const struct store_txn *t, struct store_txn_result *out,
                      struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct store_txn x = *t;
    pthread_rwlock_rdlock(&sealed_of(s)->using);
    const struct seals *k = seals_for(s, t->key);
    int r = k && t->op == STORE_PUT ? seals_encrypt(k, t->key, t->value, t->value_len, &b, e) : 0;
    pthread_rwlock_unlock(&sealed_of(s)->using);
    if (r < 0) return r;
    if (b.len) {
        x.value = b.data;
        x.value_len = b.len;
    }
    struct store *inner = sealed_of(s)->inner;
    r = inner->backend->txn(inner, a, &x, out, e); /* the limit is that of the plain value */
    if (r == 0 && out->prev.key && open_kv(s, a, &out->prev, NULL) < 0) out->prev.value_len = 0;
    return r;
}

static int sealed_current_rev(struct store *s, int64_t *out, struct err *e) {
    return store_current_rev(sealed_of(s)->inner, out, e);
}
static int sealed_compact(struct store *s, int64_t rev, struct err *e) {
    return store_compact(sealed_of(s)->inner, rev, e);
}
static int sealed_advance(struct store *s, int64_t rev, struct err *e) {
    return store_advance(sealed_of(s)->inner, rev, e);
}
static int sealed_snapshot(struct store *s, const char *path, struct err *e) {
    return store_snapshot(sealed_of(s)->inner, path, e);
}
static int64_t sealed_size(struct store *s) { return store_size(sealed_of(s)->inner); }
static int sealed_cause(struct store *s, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e) {
    return store_cause(sealed_of(s)->inner, a, rev, out, e);
}

/* ---- watches ---- */

static void open_value(struct store *s, struct arena *a, const char *key, const char **value, size_t *len) {
    _cleanup_err_ struct err e = {0};
    if (*value && open_text(s, a, key, value, len, &e) < 0) log_error("a value in the store", "error", e.msg, NULL);
}

static void on_events(void *arg, const struct store_event *events, size_t n, int64_t rev, int error) {
    struct reader *x = arg;
    bool any = false;
    pthread_rwlock_rdlock(&sealed_of(x->s)->using);
    for (size_t i = 0; i < n && !any; i++) any = seals_for(x->s, events[i].key) != NULL;
    pthread_rwlock_unlock(&sealed_of(x->s)->using);
    if (!any) {
        x->fn(x->arg, events, n, rev, error);
        return;
    }
    _cleanup_arena_ struct arena *a = arena_new();
    struct store_event *plain = arena_memdup(a, events, n * sizeof(*events));
    for (size_t i = 0; i < n; i++) {
        open_value(x->s, a, plain[i].key, &plain[i].value, &plain[i].value_len);
        open_value(x->s, a, plain[i].key, &plain[i].prev_value, &plain[i].prev_len);
    }
    x->fn(x->arg, plain, n, rev, error);
}

static int sealed_watch(struct store *s, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
                        struct store_watch **out, struct err *e) {
    struct sealed *x = sealed_of(s);
    struct reader *r = xcalloc(1, sizeof(*r));
    *r = (struct reader){.s = s, .fn = fn, .arg = arg};
    pthread_mutex_lock(&x->lock);
    r->next = x->readers;
    x->readers = r;
    pthread_mutex_unlock(&x->lock);
    return store_watch(x->inner, prefix, after_rev, on_events, r, out, e);
}

static const struct store_backend sealed_backend = {.close = sealed_close,
                                                    .get = sealed_get,
                                                    .list = sealed_list,
                                                    .count = sealed_count,
                                                    .txn = sealed_txn,
                                                    .current_rev = sealed_current_rev,
                                                    .compact = sealed_compact,
                                                    .advance = sealed_advance,
                                                    .snapshot = sealed_snapshot,
                                                    .size = sealed_size,
                                                    .watch = sealed_watch,
                                                    .cause = sealed_cause};

static struct sealed_prefix *copy_table(const struct sealed_prefix *table, size_t n) {
    struct sealed_prefix *out = xcalloc(n + 1, sizeof(*out));
    memcpy(out, table, n * sizeof(*table));
    return out;
}

struct store *store_sealed_new(struct store *inner, const struct sealed_prefix *table, size_t n) {
    struct sealed *x = xcalloc(1, sizeof(*x));
    x->store.backend = &sealed_backend;
    x->inner = inner;
    x->n = n;
    x->table = copy_table(table, n);
    pthread_mutex_init(&x->lock, NULL);
    pthread_rwlock_init(&x->using, NULL);
    return &x->store;
}

void store_sealed_replace(struct store *s, const struct sealed_prefix *table, size_t n) {
    struct sealed *x = sealed_of(s);
    struct sealed_prefix *now = copy_table(table, n), *was;
    pthread_rwlock_wrlock(&x->using);
    was = x->table;
    x->table = now;
    x->n = n;
    pthread_rwlock_unlock(&x->using);
    free(was);
}

bool store_stale(struct store *s, const char *key) {
    if (s->backend != &sealed_backend) return false;
    struct sealed *x = sealed_of(s);
    _cleanup_arena_ struct arena *a = arena_new();
    struct store_kv kv;
    pthread_rwlock_rdlock(&x->using);
    const struct seals *k = seals_for(s, key);
    bool stale = k && store_get(x->inner, a, key, 0, &kv, NULL, NULL) == 0 && !seals_current(k, kv.value, kv.value_len);
    pthread_rwlock_unlock(&x->using);
    return stale;
}
