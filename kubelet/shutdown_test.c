/* Which pods have how long when the machine goes down. */
#include "kubelet/shutdown.h"

#include "tests/test.h"

TEST(two_periods_make_two_groups) {
    struct shutdown_group g[SHUTDOWN_GROUPS_MAX];
    struct kubelet_config c = {.shutdown_ns = 30 * NS_PER_SEC, .shutdown_critical_ns = 10 * NS_PER_SEC};
    REQUIRE(shutdown_groups(&c, g) == 2);
    CHECK_INT(g[0].seconds, 20);
    CHECK_INT(g[1].seconds, 10);
    CHECK_INT(shutdown_group_of(g, 2, 0), 0);
    CHECK_INT(shutdown_group_of(g, 2, 1999999999), 0);
    CHECK_INT(shutdown_group_of(g, 2, 2000001000), 1);
}

TEST(priorities_are_put_in_order) {
    struct shutdown_group g[SHUTDOWN_GROUPS_MAX];
    struct kubelet_config c = {.shutdown_by_priority = "1000=5,0=20,100=10"};
    REQUIRE(shutdown_groups(&c, g) == 3);
    CHECK_INT(g[0].priority, 0);
    CHECK_INT(g[1].seconds, 10);
    CHECK_INT(g[2].priority, 1000);
    CHECK_INT(shutdown_group_of(g, 3, -5), 0);
    CHECK_INT(shutdown_group_of(g, 3, 100), 1);
    CHECK_INT(shutdown_group_of(g, 3, 99999), 2);
}

TEST(nothing_configured_is_no_group_and_nonsense_an_error) {
    struct shutdown_group g[SHUTDOWN_GROUPS_MAX];
    struct kubelet_config none = {0}, bad = {.shutdown_by_priority = "a=1"}, half = {.shutdown_by_priority = "5"};
    CHECK_INT(shutdown_groups(&none, g), 0);
    CHECK_INT(shutdown_groups(&bad, g), -EINVAL);
    CHECK_INT(shutdown_groups(&half, g), -EINVAL);
}
