/* Copies between both kinds of store, and what must stop one. */
#include "pkg/store/copy.h"
#include "pkg/base/ktime.h"
#include "pkg/store/test_etcd.h"
#include "tests/test.h"

static char dir[64];

static struct store *sqlite_at(const char *name) {
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, name);
    struct store_options o = {.sqlite_path = path, .no_fsync = true};
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(&o, &s, &e)) TEST_FAIL("%s", e.msg);
    return s;
}

static struct store *etcd_new(void) {
    struct store_options o = {0};
    struct store *s = NULL;
    struct err e = {0};
    test_etcd_options(&o);
    if (store_open(&o, &s, &e)) TEST_FAIL("%s", e.msg);
    return s;
}

static void begin(void) {
    snprintf(dir, sizeof(dir), "/tmp/store-copy-XXXXXX");
    if (!mkdtemp(dir)) abort();
}

static void end(void) {
    nftw(dir, test_etcd_remove, 8, FTW_DEPTH | FTW_PHYS);
    test_etcd_wipe();
}

static int64_t put(struct store *s, struct arena *a, const char *key, const char *value) {
    struct store_txn t = {
        .op = STORE_PUT, .key = key, .value = value, .value_len = strlen(value), .expect_rev = STORE_ANY_REV};
    struct store_txn_result r = {0};
    CHECK_INT(store_txn(s, a, &t, &r, NULL), 0);
    return r.rev;
}

enum { KEYS = 2500 }; /* more than a page */

static int64_t fill(struct store *s, struct arena *a) {
    int64_t rev = 0;
    for (int i = 0; i < KEYS; i++)
        rev = put(s, a, arena_printf(a, "/registry/configmaps/n/%04d", i), arena_printf(a, "{\"n\":%d}", i));
    put(s, a, "/registry/masterleases/192.0.2.1", "{}");
    put(s, a, "/registry/configmaps/n/0000", "{\"n\":\"again\"}");
    return rev;
}

static void check_copy(struct store *from, struct store *to) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct store_copy_report report;
    struct store_kv kv;
    struct store_list l;
    struct err e = {0};
    int64_t old = fill(from, a);
    if (store_copy(from, to, false, &report, &e)) TEST_FAIL("%s", e.msg);
    CHECK_INT(report.keys, KEYS);
    CHECK(report.from_rev > old);
    CHECK(report.to_rev >= report.from_rev + KEYS);
    CHECK_INT(store_get(to, a, "/registry/configmaps/n/0000", 0, &kv, NULL, NULL), 0);
    CHECK_STR(kv.value, "{\"n\":\"again\"}");
    CHECK(kv.mod_rev > report.from_rev);
    CHECK_INT(store_get(to, a, "/registry/masterleases/192.0.2.1", 0, &kv, NULL, NULL), -ENOENT);
    CHECK_INT(store_list(to, a, "/registry/", NULL, 0, old, &l, NULL), -ESTALE);
    CHECK(put(to, a, "/registry/x", "{}") > report.to_rev);
    /* a second time: not over what is there, unless told */
    CHECK_INT(store_copy(from, to, false, &report, &e), -EEXIST);
    err_done(&e);
    CHECK_INT(store_copy(from, to, true, &report, &e), 0);
    CHECK_INT(report.removed, KEYS + 1);
    CHECK_INT(store_get(to, a, "/registry/x", 0, &kv, NULL, NULL), -ENOENT);
}

TEST(from_sqlite_to_etcd) {
    begin();
    struct store *from = sqlite_at("from.db"), *to = etcd_new();
    REQUIRE(from && to);
    check_copy(from, to);
    store_close(from);
    store_close(to);
    end();
}

TEST(from_etcd_to_sqlite_and_the_revision_survives_closing) {
    _cleanup_arena_ struct arena *a = arena_new();
    begin();
    struct store *from = etcd_new(), *to = sqlite_at("to.db");
    REQUIRE(from && to);
    check_copy(from, to);
    int64_t rev = put(to, a, "/registry/y", "{}");
    store_close(to);
    to = sqlite_at("to.db");
    CHECK(put(to, a, "/registry/y", "{}") > rev);
    store_close(from);
    store_close(to);
    end();
}

TEST(an_empty_store_advances_and_stays_there) {
    _cleanup_arena_ struct arena *a = arena_new();
    begin();
    struct store *s = sqlite_at("s.db");
    REQUIRE(s);
    CHECK_INT(store_advance(s, 5000, NULL), 0);
    store_close(s);
    s = sqlite_at("s.db");
    int64_t rev = 0;
    CHECK_INT(store_current_rev(s, &rev, NULL), 0);
    CHECK_INT(rev, 5000);
    CHECK_INT(store_advance(s, 10, NULL), 0);
    CHECK_INT(put(s, a, "/registry/a", "1"), 5001);
    store_close(s);
    end();
}
