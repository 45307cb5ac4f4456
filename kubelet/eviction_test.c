#include "kubelet/eviction.h"

#include "kubelet/safepath.h"
#include "tests/test.h"

static int parse(const char *hard, const char *soft, const char *grace, const char *reclaim,
                 struct eviction_thresholds *t) {
    return eviction_parse(hard, soft, grace, reclaim, t, NULL);
}

TEST(thresholds_are_amounts_or_shares) {
    struct eviction_thresholds t;
    CHECK_INT(parse("memory.available<100Mi,nodefs.available<10%,imagefs.inodesFree<5%", NULL, NULL, NULL, &t), 0);
    CHECK_INT(t.n, 3);
    CHECK_INT(t.items[0].signal, SIGNAL_MEMORY);
    CHECK_INT(eviction_amount_of(t.items[0].amount, 1), 100 << 20);
    CHECK_INT(t.items[1].signal, SIGNAL_NODEFS);
    CHECK_INT(eviction_amount_of(t.items[1].amount, 1000), 100);
    CHECK_INT(t.items[2].signal, SIGNAL_IMAGEFS_INODES);
    CHECK_INT(eviction_amount_of(t.items[2].amount, 200), 10);
}

TEST(zero_turns_a_signal_off) {
    struct eviction_thresholds t;
    CHECK_INT(parse("memory.available<0,nodefs.available<0%,pid.available<100", NULL, NULL, NULL, &t), 0);
    CHECK_INT(t.n, 1);
    CHECK_INT(t.items[0].signal, SIGNAL_PID);
}

TEST(soft_thresholds_need_a_grace_period) {
    struct eviction_thresholds t;
    CHECK_INT(parse(NULL, "memory.available<1Gi", NULL, NULL, &t), -EINVAL);
    CHECK_INT(parse(NULL, "memory.available<1Gi", "nodefs.available=1m", NULL, &t), -EINVAL);
    CHECK_INT(parse("memory.available<100Mi", "memory.available<1Gi", "memory.available=90s", NULL, &t), 0);
    CHECK_INT(t.n, 2);
    CHECK(!t.items[0].soft && t.items[1].soft);
    CHECK_INT(t.items[1].grace_ns, 90 * NS_PER_SEC);
}

TEST(minimum_reclaim_goes_with_its_signal) {
    struct eviction_thresholds t;
    CHECK_INT(parse("memory.available<100Mi,nodefs.available<10%", NULL, NULL, "nodefs.available=5%", &t), 0);
    CHECK_INT(eviction_amount_of(t.items[0].min_reclaim, 1000), 0);
    CHECK_INT(eviction_amount_of(t.items[1].min_reclaim, 1000), 50);
}

TEST(bad_thresholds_are_refused) {
    static const char *const bad[] = {"memory.available",
                                      "memory.available<",
                                      "memory.available<-1",
                                      "cpu.available<1",
                                      "memory.available<101%",
                                      "memory.available<x%",
                                      "memory.available<1,memory.available<2"};
    struct eviction_thresholds t;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        _cleanup_err_ struct err e = {0};
        CHECK_INT(eviction_parse(bad[i], NULL, NULL, NULL, &t, &e), -EINVAL);
        CHECK(*e.msg);
    }
    CHECK_INT(parse(NULL, NULL, NULL, NULL, &t), 0);
    CHECK_INT(t.n, 0);
}

/* Ranks and checks the order by the candidates' requests, which are unique here. */
static void check_order(struct eviction_candidate *c, size_t n, enum eviction_signal s, const int64_t *want) {
    eviction_rank(c, n, s);
    for (size_t i = 0; i < n; i++) CHECK_INT(c[i].request, want[i]);
}

TEST(who_uses_more_than_asked_goes_first) {
    struct eviction_candidate c[] = {
        {NULL, 0, 50, 100},    /* within its request */
        {NULL, 1000, 500, 10}, /* beyond, but important */
        {NULL, 0, 30, 20},     /* beyond by 10 */
        {NULL, 0, 90, 30},     /* beyond by 60 */
        {NULL, -5, 1, 2},      /* within, least important */
    };
    check_order(c, ARRAY_LEN(c), SIGNAL_MEMORY, (const int64_t[]){30, 20, 10, 2, 100});
}

TEST(processes_are_counted_without_requests) {
    struct eviction_candidate c[] = {{NULL, 0, 5, 1}, {NULL, 0, 50, 2}, {NULL, 9, 500, 3}};
    check_order(c, ARRAY_LEN(c), SIGNAL_PID, (const int64_t[]){2, 1, 3});
}

TEST(usage_counts_bytes_and_inodes_and_stops_at_the_limit) {
    char dir[] = "/tmp/usage-XXXXXX", path[64];
    CHECK(mkdtemp(dir) != NULL);
    snprintf(path, sizeof(path), "%s/sub", dir);
    CHECK_INT(mkdir_p(path, 0755), 0);
    static const char block[8192];
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/sub/f%d", dir, i);
        CHECK_INT(file_write_atomic(path, block, sizeof(block), 0644), 0);
    }
    CHECK_INT(path_usage(dir, INT64_MAX, true), 4);
    CHECK(path_usage(dir, INT64_MAX, false) >= 3 * 8192);
    CHECK(path_usage(dir, 8192, false) > 8192);
    snprintf(path, sizeof(path), "%s/absent", dir);
    CHECK_INT(path_usage(path, INT64_MAX, false), 0);
    CHECK_INT(path_remove_tree(dir, NULL), 0);
}
