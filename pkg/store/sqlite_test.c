/* What only sqlite promises: lazy writes, snapshots, one owner of its file, compaction of its rows, and that no
 * acknowledged write is lost to kill -9. */
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "pkg/base/ktime.h"
#include "pkg/store/test_store.h"

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

TEST(lazy_writes_behave_like_others) {
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
    _cleanup_arena_ struct arena *a = arena_new();
    dir_make();
    struct store *s = open_sqlite(3000);
    REQUIRE(s);
    int64_t before = store_size(s);
    put_lazy(s, a, "/r/l", "1");
    int64_t after = store_size(s); /* the reservation */
    CHECK(after >= before);
    put_lazy(s, a, "/r/l", "2");
    CHECK_INT(store_size(s), after);
    for (int i = 0; i < 30000 && store_size(s) == after; i++) nap();
    CHECK(store_size(s) > after);
    done(s);
}

TEST(a_second_open_of_the_file_is_refused) {
    struct store *s = fresh(), *t = NULL;
    struct store_options o = {.sqlite_path = path};
    CHECK_INT(store_open(&o, &t, NULL), -EBUSY);
    done(s);
}

TEST(a_snapshot_is_a_store) {
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
    for (int i = 0; i < 30000 && store_cause(s, a, r1, &c, NULL) == 0; i++) nap();
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
