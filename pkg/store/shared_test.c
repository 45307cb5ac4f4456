/* What several API servers on one etcd rely on: reads of the current revision that are shared but never old, and keys
 * that go by themselves. */
#include <pthread.h>

#include "pkg/base/ktime.h"
#include "pkg/store/test_etcd.h"
#include "tests/test.h"

enum { READERS = 8, READS = 100 };

static struct store *fresh(void) {
    struct store_options o = {0};
    struct store *s = NULL;
    test_etcd_options(&o);
    return store_open(&o, &s, NULL) ? NULL : s;
}

static struct store_txn_result put(struct store *s, struct arena *a, const char *key, int64_t ttl_s) {
    struct store_txn t = {
        .op = STORE_PUT, .key = key, .value = "v", .value_len = 1, .expect_rev = STORE_ANY_REV, .ttl_s = ttl_s};
    struct store_txn_result r = {0};
    CHECK_INT(store_txn(s, a, &t, &r, NULL), 0);
    return r;
}

struct reader {
    struct store *s;
    int id, old;
    pthread_t thread;
};

/* Writes, and then asks: the answer must not be older than the write. */
static void *read_after_write(void *arg) {
    struct reader *r = arg;
    _cleanup_arena_ struct arena *a = arena_new();
    for (int i = 0; i < READS; i++) {
        int64_t wrote = put(r->s, a, arena_printf(a, "/r/%d", r->id), 0).rev, now = 0;
        if (store_current_rev(r->s, &now, NULL) || now < wrote) r->old++;
    }
    return NULL;
}

TEST(a_shared_read_of_the_revision_is_never_older_than_the_callers_own_write) {
    struct store *s = fresh();
    REQUIRE(s);
    struct reader readers[READERS];
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct reader){.s = s, .id = i};
        pthread_create(&readers[i].thread, NULL, read_after_write, &readers[i]);
    }
    for (int i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        CHECK_INT(readers[i].old, 0);
    }
    store_close(s);
}

TEST(a_key_with_a_time_to_live_goes_unless_it_is_written_again) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store *s = fresh();
    REQUIRE(s);
    struct store_kv kv;
    put(s, a, "/r/short", 5);
    put(s, a, "/r/kept", 0);
    for (int i = 0; i < 4; i++) {
        put(s, a, "/r/renewed", 5);
        usleep(1500000);
    }
    CHECK_INT(store_get(s, a, "/r/renewed", 0, &kv, NULL, NULL), 0);
    CHECK_INT(store_get(s, a, "/r/kept", 0, &kv, NULL, NULL), 0);
    int rc = 0;
    for (int i = 0; i < 60 && rc == 0; i++) {
        usleep(100000);
        rc = store_get(s, a, "/r/short", 0, &kv, NULL, NULL);
    }
    CHECK_INT(rc, -ENOENT);
    store_close(s);
}

TEST(a_question_that_etcd_does_not_answer_fails_for_all_who_wait) {
    struct store *s = fresh();
    REQUIRE(s);
    int64_t rev = 0;
    test_etcd_kill();
    struct err e = {0};
    CHECK_INT(store_current_rev(s, &rev, &e), -EAGAIN);
    CHECK(e.code == -EAGAIN);
    err_done(&e);
    test_etcd_start();
    int rc = -EAGAIN;
    for (int i = 0; i < 5 && rc; i++) rc = store_current_rev(s, &rev, NULL);
    CHECK_INT(rc, 0);
    store_close(s);
    test_etcd_wipe();
}
