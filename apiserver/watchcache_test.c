#include "apiserver/watchcache.h"

#include <pthread.h>

#include "tests/test.h"

/* A store in a temporary folder, and the cache over it. */
struct world {
    char dir[64], db[96];
    struct store *s;
    struct resource_table *t;
    struct watchcache *w;
    const struct resource *pods;
    struct arena *a;
    _Atomic int woken;
};

static struct world *world_new(void) {
    struct world *x = xcalloc(1, sizeof(*x));
    snprintf(x->dir, sizeof(x->dir), "/tmp/watchcache-test-XXXXXX");
    if (!mkdtemp(x->dir)) abort();
    snprintf(x->db, sizeof(x->db), "%s/state.db", x->dir);
    struct store_options o = {.sqlite_path = x->db, .no_fsync = true};
    struct err e = {0};
    if (store_open(&o, &x->s, &e)) abort();
    x->t = resource_table_new();
    x->pods = resource_find(x->t, "", "v1", "pods");
    x->a = arena_new();
    return x;
}

static void world_open(struct world *x) {
    if (watchcache_open(x->s, x->t, &x->w, NULL)) abort();
}

static void world_free(struct world *x) {
    watchcache_close(x->w);
    store_close(x->s);
    resource_table_free(x->t);
    arena_free(x->a);
    char cmd[3][128];
    static const char *const ends[] = {"", "-wal", "-shm"};
    for (int i = 0; i < 3; i++) {
        snprintf(cmd[i], sizeof(cmd[i]), "%s%s", x->db, ends[i]);
        unlink(cmd[i]);
    }
    snprintf(cmd[0], sizeof(cmd[0]), "%s.lock", x->db);
    unlink(cmd[0]);
    rmdir(x->dir);
    free(x);
}

static int64_t put(struct world *x, const char *key, const char *label) {
    char text[256], full[128];
    snprintf(full, sizeof(full), "/registry/pods/%s", key);
    snprintf(text, sizeof(text),
             "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"%s\",\"labels\":{\"l\":\"%s\"}}}",
             strchr(key, '/') + 1, label);
    struct store_txn t = {
        .op = STORE_PUT, .key = full, .value = text, .value_len = strlen(text), .expect_rev = STORE_ANY_REV};
    struct store_txn_result r = {0};
    if (store_txn(x->s, x->a, &t, &r, NULL) || !r.succeeded) abort();
    return r.rev;
}

static int64_t del(struct world *x, const char *key) {
    char full[128];
    snprintf(full, sizeof(full), "/registry/pods/%s", key);
    struct store_txn t = {.op = STORE_DELETE, .key = full, .expect_rev = STORE_ANY_REV};
    struct store_txn_result r = {0};
    if (store_txn(x->s, x->a, &t, &r, NULL) || !r.succeeded) abort();
    return r.rev;
}

static void wake(void *arg) { atomic_fetch_add(&((struct world *)arg)->woken, 1); }

/* "A:name M:name D:name" of what the watch has now. */
static const char *events(struct world *x, struct wc_watch *w, int64_t *last_rev) {
    struct buf b = BUF_INIT;
    struct wc_event ev;
    int rc;
    while ((rc = wc_watch_next(w, &ev, NULL)) == 1) {
        buf_printf(&b, "%s%c:%s", b.len ? " " : "", "AMD"[ev.type], object_name(ev.object));
        if (last_rev) *last_rev = ev.object->rev;
        object_unref(ev.object);
    }
    if (rc < 0) buf_printf(&b, "%s!%d", b.len ? " " : "", rc == -ESTALE ? 410 : rc);
    const char *out = arena_strdup(x->a, str_or_empty(b.data));
    buf_done(&b);
    return out;
}

static const char *names(struct world *x, const char *ns, const struct selector *sel, const char *after, size_t limit,
                         struct wc_list *l) {
    struct buf b = BUF_INIT;
    watchcache_list(x->w, x->pods, ns, sel, after, limit, l);
    for (size_t i = 0; i < l->n; i++) buf_printf(&b, "%s%s", i ? " " : "", l->items[i]->key);
    const char *out = arena_strdup(x->a, str_or_empty(b.data));
    buf_done(&b);
    return out;
}

TEST(what_was_stored_before_is_loaded_and_what_comes_is_followed) {
    struct world *x = world_new();
    put(x, "a/one", "x");
    world_open(x);
    put(x, "a/two", "x");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    struct object *o = watchcache_get(x->w, x->pods, "a", "one"), *p = watchcache_get(x->w, x->pods, "a", "two");
    CHECK(o && p);
    CHECK(watchcache_get(x->w, x->pods, "b", "one") == NULL);
    object_unref(o);
    object_unref(p);
    del(x, "a/one");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    CHECK(watchcache_get(x->w, x->pods, "a", "one") == NULL);
    CHECK_INT(watchcache_count(x->w, x->pods), 1);
    world_free(x);
}

TEST(lists_are_in_key_order_by_namespace_and_in_pages) {
    struct world *x = world_new();
    world_open(x);
    static const char *const keys[] = {"b/z", "a/y", "a-b/q", "a/x", "b/w", "a/z"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) put(x, keys[i], "x");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    struct wc_list l;
    CHECK_STR(names(x, NULL, NULL, NULL, 0, &l), "a-b/q a/x a/y a/z b/w b/z");
    wc_list_done(&l);
    CHECK_STR(names(x, "a", NULL, NULL, 0, &l), "a/x a/y a/z");
    wc_list_done(&l);
    CHECK_STR(names(x, "a", NULL, NULL, 2, &l), "a/x a/y");
    CHECK(l.more);
    CHECK_INT(l.remaining, 1);
    wc_list_done(&l);
    CHECK_STR(names(x, "a", NULL, "a/y", 2, &l), "a/z");
    CHECK(!l.more);
    wc_list_done(&l);
    world_free(x);
}

TEST(a_watch_sees_changes_after_its_revision_once_and_in_order) {
    struct world *x = world_new();
    world_open(x);
    int64_t rev = put(x, "a/one", "x");
    put(x, "a/two", "x");
    put(x, "b/three", "x");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    struct wc_watch *w;
    CHECK_INT(wc_watch_new(x->w, x->pods, "a", NULL, rev, wake, x, &w), 0);
    CHECK_STR(events(x, w, NULL), "A:two");
    put(x, "a/one", "y");
    int64_t gone = del(x, "a/two"), last = 0;
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    CHECK(atomic_load(&x->woken) > 0);
    CHECK_STR(events(x, w, &last), "M:one D:two");
    CHECK_INT(last, gone); /* what is deleted carries the revision of its deletion */
    CHECK_STR(events(x, w, NULL), "");
    wc_watch_free(w);
    world_free(x);
}

TEST(an_object_that_stops_matching_is_deleted_and_one_that_starts_is_added) {
    struct world *x = world_new();
    world_open(x);
    struct selector s = {0};
    CHECK_INT(selector_parse(x->a, x->pods, "l=x", NULL, &s, NULL), 0);
    put(x, "a/one", "x");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    struct wc_list l;
    struct wc_watch *w;
    wc_watch_new_list(x->w, x->pods, NULL, &s, wake, x, &l, &w);
    CHECK_INT(l.n, 1);
    wc_list_done(&l);
    put(x, "a/two", "y");
    int64_t rev = put(x, "a/one", "y"), last = 0;
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    CHECK_STR(events(x, w, &last), "D:one");
    CHECK_INT(last, rev);
    put(x, "a/two", "x");
    put(x, "a/two", "x2");
    put(x, "a/two", "x3");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    CHECK_STR(events(x, w, NULL), "A:two D:two");
    wc_watch_free(w);
    world_free(x);
}

TEST(a_watch_that_falls_out_of_history_ends_as_expired) {
    struct world *x = world_new();
    int64_t before = put(x, "a/zero", "x");
    put(x, "a/zero", "y");
    world_open(x);
    struct wc_watch *w = NULL, *slow = NULL;
    CHECK_INT(wc_watch_new(x->w, x->pods, NULL, NULL, before, wake, x, &w), -ESTALE);
    CHECK_INT(wc_watch_new(x->w, x->pods, NULL, NULL, watchcache_rev(x->w), wake, x, &slow), 0);
    for (int i = 0; i < WC_HISTORY_MAX + 100; i++) put(x, "a/one", i % 2 ? "x" : "y");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    CHECK_STR(events(x, slow, NULL), "!410");
    wc_watch_free(slow);
    world_free(x);
}

TEST(a_watch_may_start_in_the_future) {
    struct world *x = world_new();
    world_open(x);
    int64_t rev = put(x, "a/one", "x");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    struct wc_watch *w;
    CHECK_INT(wc_watch_new(x->w, x->pods, NULL, NULL, rev + 1, wake, x, &w), 0);
    put(x, "a/two", "x");
    put(x, "a/three", "x");
    CHECK_INT(watchcache_sync(x->w, NULL), 0);
    CHECK_STR(events(x, w, NULL), "A:three");
    wc_watch_free(w);
    world_free(x);
}

TEST(waiting_for_a_revision_that_never_comes_times_out) {
    struct world *x = world_new();
    world_open(x);
    CHECK_INT(watchcache_wait(x->w, watchcache_rev(x->w) + 1000, 30), -ETIMEDOUT);
    CHECK_INT(watchcache_wait(x->w, watchcache_rev(x->w), 0), 0);
    world_free(x);
}
