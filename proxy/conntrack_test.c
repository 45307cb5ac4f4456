#include "proxy/conntrack.h"

#include <arpa/inet.h>

#include "tests/test.h"

static bool stale(const struct conntrack_fronts *f, const char *dst, uint16_t port, const char *src, uint16_t sport,
                  bool local) {
    struct conntrack_flow x = {inet_addr(dst), inet_addr(src), port, sport};
    return conntrack_stale(f, &x, local);
}

TEST(flows_to_endpoints_that_are_gone_are_stale) {
    struct conntrack_fronts f = {0};
    conntrack_fronts_add(&f, "10.96.0.10:53", "10.244.0.7:5353");
    conntrack_fronts_add(&f, "10.96.0.10:53", "10.244.0.8:5353");
    CHECK(!stale(&f, "10.96.0.10", 53, "10.244.0.7", 5353, false));
    CHECK(stale(&f, "10.96.0.10", 53, "10.244.0.9", 5353, false));
    CHECK(stale(&f, "10.96.0.10", 53, "10.244.0.7", 53, false));
    conntrack_fronts_done(&f);
}

TEST(flows_that_began_before_there_were_endpoints_are_stale) {
    struct conntrack_fronts f = {0};
    conntrack_fronts_add(&f, "10.96.0.10:53", "10.244.0.7:53");
    conntrack_fronts_add(&f, "10.96.0.11:53", NULL);
    CHECK(stale(&f, "10.96.0.10", 53, "10.96.0.10", 53, false));
    CHECK(stale(&f, "10.96.0.11", 53, "10.244.0.7", 53, false)); /* and those to services that lost theirs */
    conntrack_fronts_done(&f);
}

TEST(node_ports_count_on_this_machine_only) {
    struct conntrack_fronts f = {0};
    conntrack_fronts_add(&f, ":30053", "10.244.0.7:53");
    CHECK(!stale(&f, "192.0.2.1", 30053, "10.244.0.7", 53, true));
    CHECK(stale(&f, "192.0.2.1", 30053, "10.244.0.8", 53, true));
    CHECK(stale(&f, "192.0.2.1", 30053, "192.0.2.1", 30053, true));
    CHECK(!stale(&f, "198.51.100.1", 30053, "198.51.100.1", 30053, false));
    conntrack_fronts_done(&f);
}

TEST(other_flows_are_left_alone) {
    struct conntrack_fronts f = {0};
    conntrack_fronts_add(&f, "10.96.0.10:53", "10.244.0.7:53");
    CHECK(!stale(&f, "10.244.0.9", 53, "10.244.0.9", 53, false));
    CHECK(!stale(&f, "10.96.0.10", 54, "10.244.0.9", 53, false));
    conntrack_fronts_done(&f);
}
