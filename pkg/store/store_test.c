/* One suite of behaviour for both back ends (test_store.h says which it is), and what becomes of an outage of etcd. */
#include <signal.h>

#include "pkg/base/ktime.h"
#include "pkg/store/test_store.h"

static bool seen_wait_field(struct seen *w, const int64_t *field, int64_t at_least) {
    for (int i = 0; i < 30000; i++) {
        pthread_mutex_lock(&w->lock);
        bool ok = *field >= at_least;
        pthread_mutex_unlock(&w->lock);
        if (ok) return true;
        nap();
    }
    return false;
}

static bool seen_wait_error(struct seen *w, int error) {
    for (int i = 0; i < 30000; i++) {
        pthread_mutex_lock(&w->lock);
        int now = w->error;
        pthread_mutex_unlock(&w->lock);
        if (now) return now == error;
        nap();
    }
    return false;
}

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
