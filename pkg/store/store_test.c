/* One suite of behaviour for both back ends: sqlite, and with STORE_TEST_ETCD=http or https an etcd that the test starts
 * on loopback. What only sqlite promises (lazy writes, snapshots, crash safety of its file) follows at the end. */
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "pkg/base/buf.h"
#include "pkg/base/ktime.h"
#include "pkg/store/store.h"
#include "pkg/store/test_etcd.h"
#include "tests/test.h"

/* ---- set-up ---- */

static char dir[64];
static char path[96];

static int remove_one(const char *p, const struct stat *st, int type, struct FTW *f) { return remove(p); }

static void dir_remove(void) {
    if (*dir) nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    *dir = 0;
}

static void dir_make(void) {
    dir_remove();
    snprintf(dir, sizeof(dir), "/tmp/store-test-XXXXXX");
    if (!mkdtemp(dir)) abort();
    snprintf(path, sizeof(path), "%s/state.db", dir);
}

static bool use_etcd(void) { return getenv("STORE_TEST_ETCD") != NULL; }

static struct store *open_sqlite(int64_t flush_ms) {
    struct store_options o = {.sqlite_path = path, .lazy_flush_ms = flush_ms, .no_fsync = false};
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(&o, &s, &e) < 0) TEST_FAIL("store_open: %s", e.msg);
    return s;
}

/* A fresh, empty store of the back end under test. */
static struct store *fresh(void) {
    if (!use_etcd()) {
        dir_make();
        return open_sqlite(0);
    }
    struct store_options o = {0};
    test_etcd_options(&o);
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(&o, &s, &e) < 0) TEST_FAIL("store_open: %s", e.msg);
    return s;
}

static void done(struct store *s) {
    store_close(s);
    dir_remove();
    if (use_etcd()) test_etcd_wipe();
}

static struct store_txn_result txn(struct store *s, struct arena *a, enum store_op op, const char *key,
                                   const char *value, int64_t expect) {
    struct store_txn t = {
        .op = op, .key = key, .value = value, .value_len = value ? strlen(value) : 0, .expect_rev = expect};
    struct store_txn_result r;
    struct err e = {0};
    if (store_txn(s, a, &t, &r, &e) < 0) TEST_FAIL("store_txn %s: %s", key, e.msg);
    return r;
}

static int64_t put(struct store *s, struct arena *a, const char *key, const char *value) {
    return txn(s, a, STORE_PUT, key, value, STORE_ANY_REV).rev;
}

static int64_t del(struct store *s, struct arena *a, const char *key) {
    return txn(s, a, STORE_DELETE, key, NULL, STORE_ANY_REV).rev;
}

static int64_t put_lazy(struct store *s, struct arena *a, const char *key, const char *value) {
    struct store_txn t = {.op = STORE_PUT,
                          .key = key,
                          .value = value,
                          .value_len = strlen(value),
                          .expect_rev = STORE_ANY_REV,
                          .lazy = true,
                          .cause = {.actor = "lazy", .cause_rev = 7}};
    struct store_txn_result r;
    if (store_txn(s, a, &t, &r, NULL) < 0) TEST_FAIL("lazy put %s", key);
    return r.rev;
}

static const char *get_at(struct store *s, struct arena *a, const char *key, int64_t rev) {
    struct store_kv kv;
    int r = store_get(s, a, key, rev, &kv, NULL, NULL);
    return r == 0         ? kv.value
           : r == -ENOENT ? "(absent)"
           : r == -ESTALE ? "(stale)"
           : r == -ERANGE ? "(future)"
                          : "(error)";
}

/* "key=value ..." of a list. */
static const char *list_at(struct store *s, struct arena *a, const char *prefix, const char *from, size_t limit,
                           int64_t rev) {
    struct store_list l;
    int r = store_list(s, a, prefix, from, limit, rev, &l, NULL);
    if (r < 0) return r == -ESTALE ? "(stale)" : r == -ERANGE ? "(future)" : "(error)";
    const char *out = "";
    for (size_t i = 0; i < l.n; i++) out = arena_printf(a, "%s%s=%s ", out, l.items[i].key, l.items[i].value);
    return l.more ? arena_printf(a, "%s...", out) : out;
}

/* ---- a watcher that writes down what it sees ---- */

struct seen {
    pthread_mutex_t lock;
    struct buf text;
    size_t n;
    int64_t last, progress;
    int error;
    bool out_of_order;
    bool quiet; /* count only */
};

static void seen_init(struct seen *w) {
    *w = (struct seen){0};
    pthread_mutex_init(&w->lock, NULL);
}

static void on_events(void *arg, const struct store_event *ev, size_t n, int64_t rev, int error) {
    struct seen *w = arg;
    pthread_mutex_lock(&w->lock);
    if (error)
        w->error = error;
    else if (n == 0)
        w->progress = rev;
    for (size_t i = 0; i < n; i++) {
        if (ev[i].mod_rev <= w->last) w->out_of_order = true;
        w->last = ev[i].mod_rev;
        w->n++;
        if (!w->quiet)
            buf_printf(&w->text, "%s %s=%s<%s ",
                       ev[i].op == STORE_DELETE            ? "DEL"
                       : ev[i].create_rev == ev[i].mod_rev ? "NEW"
                                                           : "PUT",
                       ev[i].key, ev[i].value ? ev[i].value : "-", ev[i].prev_value ? ev[i].prev_value : "-");
    }
    pthread_mutex_unlock(&w->lock);
}

static void nap(void) { usleep(2000); }

static bool seen_wait(struct seen *w, size_t n) {
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&w->lock);
        bool ok = w->n >= n;
        pthread_mutex_unlock(&w->lock);
        if (ok) return true;
        nap();
    }
    return false;
}

static bool seen_wait_field(struct seen *w, const int64_t *field, int64_t at_least) {
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&w->lock);
        bool ok = *field >= at_least;
        pthread_mutex_unlock(&w->lock);
        if (ok) return true;
        nap();
    }
    return false;
}

static bool seen_wait_error(struct seen *w, int error) {
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&w->lock);
        int now = w->error;
        pthread_mutex_unlock(&w->lock);
        if (now) return now == error;
        nap();
    }
    return false;
}

/* ---- both back ends ---- */

TEST(a_write_is_read_back_with_its_revisions) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r1 = put(s, a, "/r/a", "1"), r2 = put(s, a, "/r/a", "2");
    CHECK(r2 > r1);
    struct store_kv kv;
    int64_t rev = 0;
    CHECK_INT(store_get(s, a, "/r/a", 0, &kv, &rev, NULL), 0);
    CHECK_STR(kv.value, "2");
    CHECK_INT(kv.create_rev, r1);
    CHECK_INT(kv.mod_rev, r2);
    CHECK_INT(rev, r2);
    rev = 0;
    CHECK_INT(store_get(s, a, "/r/none", 0, &kv, &rev, NULL), -ENOENT);
    CHECK_INT(rev, r2);
    CHECK_INT(store_current_rev(s, &rev, NULL), 0);
    CHECK_INT(rev, r2);
    done(s);
}

TEST(values_are_bytes) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    struct store_txn t = {.op = STORE_PUT, .key = "/r/bin", .value = "a\0b\xff", .value_len = 4, .expect_rev = 0};
    struct store_txn_result r;
    CHECK_INT(store_txn(s, a, &t, &r, NULL), 0);
    struct store_kv kv;
    CHECK_INT(store_get(s, a, "/r/bin", 0, &kv, NULL, NULL), 0);
    CHECK_INT(kv.value_len, 4);
    CHECK(memcmp(kv.value, "a\0b\xff", 5) == 0);
    t.value_len = 0;
    t.expect_rev = r.rev;
    CHECK_INT(store_txn(s, a, &t, &r, NULL), 0);
    CHECK_INT(r.prev.value_len, 4);
    CHECK_INT(store_get(s, a, "/r/bin", 0, &kv, NULL, NULL), 0);
    CHECK_INT(kv.value_len, 0);
    done(s);
}

TEST(compare_and_set_succeeds_only_on_the_expected_revision) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    struct store_txn_result r = txn(s, a, STORE_PUT, "/r/a", "1", 0);
    CHECK(r.succeeded);
    CHECK(!r.prev.key);
    int64_t r1 = r.rev;
    r = txn(s, a, STORE_PUT, "/r/a", "x", 0);
    CHECK(!r.succeeded);
    CHECK_STR(r.prev.value, "1");
    CHECK_INT(r.prev.mod_rev, r1);
    CHECK_INT(r.rev, r1);
    r = txn(s, a, STORE_PUT, "/r/a", "2", r1);
    CHECK(r.succeeded);
    CHECK_STR(r.prev.value, "1");
    int64_t r2 = r.rev;
    CHECK(!txn(s, a, STORE_DELETE, "/r/a", NULL, r1).succeeded);
    r = txn(s, a, STORE_DELETE, "/r/a", NULL, r2);
    CHECK(r.succeeded);
    CHECK_STR(r.prev.value, "2");
    CHECK(r.rev > r2);
    int64_t r3 = r.rev;
    CHECK(!txn(s, a, STORE_PUT, "/r/a", "3", r2).succeeded);
    r = txn(s, a, STORE_PUT, "/r/a", "3", 0);
    CHECK(r.succeeded);
    CHECK(!r.prev.key);
    CHECK(r.rev > r3);
    CHECK_STR(get_at(s, a, "/r/a", 0), "3");
    done(s);
}

TEST(deleting_an_absent_key_makes_no_revision) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r1 = put(s, a, "/r/a", "1"), rev = 0;
    struct store_txn_result r = txn(s, a, STORE_DELETE, "/r/none", NULL, STORE_ANY_REV);
    CHECK(r.succeeded);
    CHECK(!r.prev.key);
    store_current_rev(s, &rev, NULL);
    CHECK_INT(rev, r1);
    done(s);
}

TEST(old_revisions_stay_readable) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r1 = put(s, a, "/r/a", "1");
    int64_t r2 = put(s, a, "/r/b", "1");
    int64_t r3 = put(s, a, "/r/a", "2");
    int64_t r4 = del(s, a, "/r/a");
    int64_t r5 = put(s, a, "/r/a", "3");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r1), "/r/a=1 ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r2), "/r/a=1 /r/b=1 ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r3), "/r/a=2 /r/b=1 ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r4), "/r/b=1 ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, 0), "/r/a=3 /r/b=1 ");
    CHECK_STR(get_at(s, a, "/r/a", r3), "2");
    CHECK_STR(get_at(s, a, "/r/a", r4), "(absent)");
    CHECK_STR(get_at(s, a, "/r/a", r5), "3");
    CHECK_STR(get_at(s, a, "/r/a", r5 + 1), "(future)");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r5 + 1), "(future)");
    done(s);
}

TEST(lists_are_limited_and_continued) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    static const char *const keys[] = {"/r/a", "/r/b", "/r/c", "/r/d", "/q/z", "/s/a", "/r"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) put(s, a, keys[i], "v");
    del(s, a, "/r/b");
    CHECK_STR(list_at(s, a, "/r/", NULL, 2, 0), "/r/a=v /r/c=v ...");
    CHECK_STR(list_at(s, a, "/r/", "/r/c", 2, 0), "/r/c=v /r/d=v ");
    CHECK_STR(list_at(s, a, "/r/", "/r/a0", 0, 0), "/r/c=v /r/d=v ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 3, 0), "/r/a=v /r/c=v /r/d=v ");
    CHECK_STR(list_at(s, a, "/none/", NULL, 3, 0), "");
    int64_t n = -1;
    CHECK_INT(store_count(s, "/r/", NULL, 0, &n, NULL), 0);
    CHECK_INT(n, 3);
    CHECK_INT(store_count(s, "/r/", "/r/d", 0, &n, NULL), 0);
    CHECK_INT(n, 1);
    done(s);
}

TEST(compaction_forgets_history_and_keeps_the_present) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r1 = put(s, a, "/r/a", "1");
    put(s, a, "/r/old", "1");
    int64_t r3 = put(s, a, "/r/a", "2");
    del(s, a, "/r/old");
    int64_t r5 = put(s, a, "/r/b", "1");
    int64_t r6 = put(s, a, "/r/a", "3");
    CHECK_INT(store_compact(s, r5, NULL), 0);
    CHECK_STR(get_at(s, a, "/r/a", r1), "(stale)");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r3), "(stale)");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r5), "/r/a=2 /r/b=1 ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, 0), "/r/a=3 /r/b=1 ");
    CHECK_INT(store_compact(s, r3, NULL), -ESTALE);
    CHECK_INT(store_compact(s, r6 + 100, NULL), -ERANGE);
    struct seen w;
    seen_init(&w);
    struct store_watch *watch = NULL;
    int r = store_watch(s, "/r/", r1, on_events, &w, &watch, NULL);
    CHECK(r == -ESTALE || seen_wait_error(&w, -ESTALE));
    store_watch_cancel(watch);
    watch = NULL;
    seen_init(&w);
    CHECK_INT(store_watch(s, "/r/", r5, on_events, &w, &watch, NULL), 0);
    CHECK(seen_wait(&w, 1));
    CHECK_INT(w.last, r6);
    store_watch_cancel(watch);
    buf_done(&w.text);
    done(s);
}

TEST(a_watch_replays_history_and_then_follows) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r0 = put(s, a, "/r/a", "0");
    put(s, a, "/r/a", "1");
    put(s, a, "/other", "1");
    put(s, a, "/r/b", "1");
    del(s, a, "/r/a");
    struct seen w;
    seen_init(&w);
    struct store_watch *watch = NULL;
    CHECK_INT(store_watch(s, "/r/", r0, on_events, &w, &watch, NULL), 0);
    CHECK(seen_wait(&w, 3));
    put(s, a, "/other", "2");
    put(s, a, "/r/b", "2");
    put(s, a, "/r/a", "2");
    int64_t last = del(s, a, "/r/b");
    CHECK(seen_wait(&w, 6));
    store_watch_cancel(watch);
    put(s, a, "/r/b", "unseen");
    CHECK_STR(w.text.data, "PUT /r/a=1<0 NEW /r/b=1<- DEL /r/a=1<1 PUT /r/b=2<1 NEW /r/a=2<- DEL /r/b=2<2 ");
    CHECK_INT(w.last, last);
    CHECK(!w.out_of_order);
    buf_done(&w.text);
    done(s);
}

TEST(progress_tells_that_everything_was_delivered) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r0 = put(s, a, "/r/a", "0"), rev;
    struct seen w;
    seen_init(&w);
    struct store_watch *watch = NULL;
    CHECK_INT(store_watch(s, "/r/", r0, on_events, &w, &watch, NULL), 0);
    put(s, a, "/r/a", "1");
    put(s, a, "/other", "1");
    store_current_rev(s, &rev, NULL);
    store_watch_progress(watch);
    CHECK(seen_wait_field(&w, &w.progress, rev));
    CHECK_INT(w.n, 1);
    store_watch_cancel(watch);
    buf_done(&w.text);
    done(s);
}

struct writer {
    struct store *s;
    int id, n;
    const char *counter;
    pthread_t thread;
};

static void *write_many(void *arg) {
    struct writer *w = arg;
    for (int i = 0; i < w->n; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        put(w->s, a, arena_printf(a, "/r/%d/%d", w->id, i % 10), arena_printf(a, "%d", i));
    }
    return NULL;
}

TEST(watches_started_amid_writes_miss_nothing) {
    struct store *s = fresh();
    REQUIRE(s);
    enum { WRITERS = 8, EACH = 150 };
    int64_t r0 = 0;
    store_current_rev(s, &r0, NULL);
    struct writer w[WRITERS];
    struct seen seen[4];
    struct store_watch *watch[4];
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.s = s, .id = i, .n = EACH};
        pthread_create(&w[i].thread, NULL, write_many, &w[i]);
    }
    for (int i = 0; i < 4; i++) {
        seen_init(&seen[i]);
        seen[i].quiet = true;
        usleep(20000);
        CHECK_INT(store_watch(s, "/r/", r0, on_events, &seen[i], &watch[i], NULL), 0);
    }
    for (int i = 0; i < WRITERS; i++) pthread_join(w[i].thread, NULL);
    for (int i = 0; i < 4; i++) {
        CHECK(seen_wait(&seen[i], WRITERS * EACH));
        store_watch_cancel(watch[i]);
        CHECK_INT(seen[i].n, WRITERS * EACH);
        CHECK_INT(seen[i].last, r0 + WRITERS * EACH);
        CHECK(!seen[i].out_of_order);
    }
    done(s);
}

static void *count_up(void *arg) {
    struct writer *w = arg;
    for (int i = 0; i < w->n;) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct store_kv kv;
        if (store_get(w->s, a, w->counter, 0, &kv, NULL, NULL) < 0) break;
        const char *next = arena_printf(a, "%ld", strtol(kv.value, NULL, 10) + 1);
        i += txn(w->s, a, STORE_PUT, w->counter, next, kv.mod_rev).succeeded;
    }
    return NULL;
}

TEST(concurrent_counting_loses_no_increment) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    put(s, a, "/r/counter", "0");
    struct writer w[4];
    for (int i = 0; i < 4; i++) {
        w[i] = (struct writer){.s = s, .n = 25, .counter = "/r/counter"};
        pthread_create(&w[i].thread, NULL, count_up, &w[i]);
    }
    for (int i = 0; i < 4; i++) pthread_join(w[i].thread, NULL);
    CHECK_STR(get_at(s, a, "/r/counter", 0), "100");
    done(s);
}

TEST(bad_keys_and_values_are_refused) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    char key[2000];
    memset(key, 'k', sizeof(key));
    key[sizeof(key) - 1] = 0;
    struct store_txn t = {.op = STORE_PUT, .key = key, .expect_rev = 0};
    struct store_txn_result r;
    CHECK_INT(store_txn(s, a, &t, &r, NULL), -EINVAL);
    t.key = "";
    CHECK_INT(store_txn(s, a, &t, &r, NULL), -EINVAL);
    t.key = "/r/big";
    t.value_len = 64 << 20;
    CHECK_INT(store_txn(s, a, &t, &r, NULL), -E2BIG);
    done(s);
}

/* ---- etcd only ---- */

TEST(an_outage_of_etcd_loses_no_write_and_no_event) {
    if (!use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r0 = put(s, a, "/r/a", "0");
    struct seen w;
    seen_init(&w);
    struct store_watch *watch = NULL;
    CHECK_INT(store_watch(s, "/r/", r0, on_events, &w, &watch, NULL), 0);
    put(s, a, "/r/a", "1");
    CHECK(seen_wait(&w, 1));
    struct writer busy = {.s = s, .id = 1, .n = 10};
    test_etcd_kill();
    pthread_create(&busy.thread, NULL, write_many, &busy);
    sleep(1);
    test_etcd_start();
    pthread_join(busy.thread, NULL);
    CHECK(seen_wait(&w, 11));
    CHECK_STR(get_at(s, a, "/r/1/9", 0), "9");
    int64_t last = w.last;
    CHECK_INT(put(s, a, "/r/a", "2"), last + 1);
    CHECK(seen_wait(&w, 12));
    store_watch_cancel(watch);
    CHECK(str_has_prefix(w.text.data, "PUT /r/a=1<0 NEW /r/1/0=0<- "));
    CHECK(str_has_suffix(w.text.data, "NEW /r/1/9=9<- PUT /r/a=2<1 "));
    buf_done(&w.text);
    done(s);
}

/* ---- sqlite only ---- */

TEST(lazy_writes_behave_like_others) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r1 = put(s, a, "/r/a", "1");
    struct seen w;
    seen_init(&w);
    struct store_watch *watch = NULL;
    CHECK_INT(store_watch(s, "/r/", r1, on_events, &w, &watch, NULL), 0);
    int64_t r2 = put_lazy(s, a, "/r/l", "1");
    int64_t r3 = put_lazy(s, a, "/r/l", "2");
    CHECK_INT(r2, r1 + 1);
    CHECK_STR(get_at(s, a, "/r/l", 0), "2");
    CHECK_STR(get_at(s, a, "/r/l", r2), "1");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r2), "/r/a=1 /r/l=1 ");
    put_lazy(s, a, "/r/a", "1b");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, 0), "/r/a=1b /r/l=2 ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 1, 0), "/r/a=1b ...");
    int64_t r4 = put_lazy(s, a, "/r/l", "2b");
    CHECK_STR(get_at(s, a, "/r/l", r3), "2");
    int64_t r5 = txn(s, a, STORE_PUT, "/r/l", "3", r4).rev;
    CHECK_STR(get_at(s, a, "/r/l", r3), "1"); /* 2 was replaced before the flush, and never written */
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, r5 - 1), "/r/a=1b /r/l=2b ");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, 0), "/r/a=1b /r/l=3 ");
    CHECK(!txn(s, a, STORE_PUT, "/r/l", "x", r2).succeeded);
    CHECK(seen_wait(&w, 5));
    CHECK_STR(w.text.data, "NEW /r/l=1<- PUT /r/l=2<1 PUT /r/a=1b<1 PUT /r/l=2b<2 PUT /r/l=3<2b ");
    store_watch_cancel(watch);
    struct store_cause_record c;
    CHECK_INT(store_cause(s, a, r2, &c, NULL), 0);
    CHECK_STR(c.actor, "lazy");
    CHECK_STR(c.key, "/r/l");
    CHECK_INT(c.cause_rev, 7);
    CHECK_INT(store_cause(s, a, r5 + 5, &c, NULL), -ENOENT);
    buf_done(&w.text);
    done(s);
}

TEST(lazy_writes_survive_a_clean_end_without_a_jump) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    put(s, a, "/r/a", "1");
    int64_t r2 = put_lazy(s, a, "/r/l", "1");
    store_close(s);
    s = open_sqlite(0);
    REQUIRE(s);
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, 0), "/r/a=1 /r/l=1 ");
    CHECK_INT(put(s, a, "/r/a", "2"), r2 + 1);
    done(s);
}

TEST(lazy_writes_are_flushed_in_time) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    dir_make();
    struct store *s = open_sqlite(400);
    REQUIRE(s);
    int64_t before = store_size(s);
    put_lazy(s, a, "/r/l", "1");
    int64_t after = store_size(s); /* the reservation */
    CHECK(after >= before);
    put_lazy(s, a, "/r/l", "2");
    CHECK_INT(store_size(s), after);
    for (int i = 0; i < 1000 && store_size(s) == after; i++) nap();
    CHECK(store_size(s) > after);
    done(s);
}

TEST(a_second_open_of_the_file_is_refused) {
    if (use_etcd()) return;
    struct store *s = fresh(), *t = NULL;
    struct store_options o = {.sqlite_path = path};
    CHECK_INT(store_open(&o, &t, NULL), -EBUSY);
    done(s);
}

TEST(a_snapshot_is_a_store) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    put(s, a, "/r/a", "1");
    int64_t rev = put_lazy(s, a, "/r/l", "1");
    const char *copy = arena_printf(a, "%s/copy.db", dir);
    CHECK_INT(store_snapshot(s, copy, NULL), 0);
    CHECK_INT(store_snapshot(s, copy, NULL), -EEXIST);
    put(s, a, "/r/a", "2");
    struct store_options o = {.sqlite_path = copy};
    struct store *t = NULL;
    REQUIRE(store_open(&o, &t, NULL) == 0);
    CHECK_STR(list_at(t, a, "/r/", NULL, 0, rev), "/r/a=1 /r/l=1 ");
    store_close(t);
    done(s);
}

TEST(compaction_frees_rows_and_survives_a_restart) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    int64_t r1 = put(s, a, "/r/a", "1"), r = 0;
    for (int i = 0; i < 40; i++) r = put(s, a, "/r/a", arena_printf(a, "%d", i));
    r = del(s, a, "/r/a");
    CHECK_INT(store_compact(s, r, NULL), 0);
    put(s, a, "/r/b", "1");
    store_close(s);
    s = open_sqlite(0);
    REQUIRE(s);
    struct store_cause_record c;
    for (int i = 0; i < 500 && store_cause(s, a, r1, &c, NULL) == 0; i++) nap();
    CHECK_INT(store_cause(s, a, r1, &c, NULL), -ENOENT);
    CHECK_INT(store_cause(s, a, r, &c, NULL), -ENOENT);
    CHECK_STR(get_at(s, a, "/r/a", r1), "(stale)");
    CHECK_STR(list_at(s, a, "/r/", NULL, 0, 0), "/r/b=1 ");
    CHECK_INT(put(s, a, "/r/b", "2"), r + 2);
    done(s);
}

/* A child writes, telling each acknowledged write through the pipe, until it is killed. */
static void crash_child(int fd, bool lazy) {
    struct store *s = open_sqlite(0);
    if (!s) _exit(1);
    _cleanup_arena_ struct arena *a = arena_new();
    for (int64_t i = 0;; i++) {
        const char *key = arena_printf(a, "/r/%lld", (long long)i);
        int64_t rev = lazy ? put_lazy(s, a, key, "v") : put(s, a, key, "v");
        if (write(fd, &rev, sizeof(rev)) != sizeof(rev)) _exit(1);
    }
}

/* Acknowledged writes until the kill: their number, and the last revision. */
static int crash_run(bool lazy, int64_t *last) {
    int fds[2];
    if (pipe(fds) < 0) return -1;
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        crash_child(fds[1], lazy);
    }
    close(fds[1]);
    int n = 0;
    int64_t rev;
    while (read(fds[0], &rev, sizeof(rev)) == sizeof(rev)) {
        *last = rev;
        if (++n == 40) kill(pid, SIGKILL);
    }
    close(fds[0]);
    waitpid(pid, NULL, 0);
    return n;
}

TEST(acknowledged_writes_survive_kill_9) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    dir_make();
    int64_t last = 0, count = 0;
    int n = crash_run(false, &last);
    CHECK(n >= 40);
    struct store *s = open_sqlite(0);
    REQUIRE(s);
    CHECK_INT(store_count(s, "/r/", NULL, 0, &count, NULL), 0);
    CHECK(count >= n);
    CHECK_STR(get_at(s, a, arena_printf(a, "/r/%d", n - 1), last), "v");
    CHECK(put(s, a, "/r/x", "v") > last);
    done(s);
}

TEST(revisions_of_lost_lazy_writes_never_come_again) {
    if (use_etcd()) return;
    _cleanup_arena_ struct arena *a = arena_new();
    dir_make();
    int64_t last = 0, again = 0;
    CHECK(crash_run(true, &last) >= 40);
    CHECK(crash_run(true, &again) >= 40);
    CHECK(again > last + 40);
    struct store *s = open_sqlite(0);
    REQUIRE(s);
    CHECK(put(s, a, "/r/x", "v") > again);
    done(s);
}
