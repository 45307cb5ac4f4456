/* The table in a real kernel, in a network namespace of its own. Needs root. */
#include <arpa/inet.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "pkg/netlink/netlink.h"
#include "proxy/table.h"

#include "tests/test.h"

static void loopback_up(void) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM, 0);
    struct ifreq rq = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    ioctl(fd, SIOCSIFFLAGS, &rq);
}

static int listen_on(const char *ip, uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &a.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 8) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_to(const char *ip, uint16_t port) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    inet_pton(AF_INET, ip, &a.sin_addr);
    return connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
}

static struct rules one_service(const char *endpoint) {
    static struct core_service_port port = {.port = 80, .node_port = 30080};
    static int32_t number = 8080;
    struct core_service s = {0};
    s.spec.cluster_ip = "10.96.7.7";
    s.spec.type = "NodePort";
    s.spec.ports.items = &port;
    s.spec.ports.n = 1;
    struct discovery_endpoint ep = {.addresses = {&endpoint, 1}, .node_name = "me"};
    struct discovery_endpoint_port ep_port = {.port = &number};
    struct discovery_endpoint_slice slice = {
        .address_type = "IPv4", .endpoints = {&ep, endpoint ? 1 : 0}, .ports = {&ep_port, 1}};
    const struct discovery_endpoint_slice *all[] = {&slice};
    struct rules r = {0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", NULL});
    return r;
}

TEST(a_service_follows_its_endpoints) {
    if (unshare(CLONE_NEWNET) < 0) {
        fprintf(stderr, "skipped: needs root\n");
        return;
    }
    _cleanup_err_ struct err e = {0};
    loopback_up();
    CHECK_INT(netlink_lo_addr("10.1.1.1", true, &e), 0);
    CHECK_INT(netlink_lo_addr("10.1.1.2", true, &e), 0);
    CHECK_INT(netlink_route_add("10.96.0.0/16", NULL, "lo", "10.1.1.1", &e), 0);
    _cleanup_close_ int web = listen_on("10.1.1.2", 8080);
    REQUIRE(web >= 0);

    struct table *t;
    REQUIRE(table_new(&t, &e) == 0);
    struct rules r = one_service("10.1.1.2");
    table_set(t, "default/web", &r);
    CHECK_INT(table_commit(t, &e), 0);
    CHECK_STR(e.msg, "");
    CHECK_INT(connect_to("10.96.7.7", 80), 0);
    CHECK_INT(connect_to("10.1.1.1", 30080), 0);

    /* changes that follow, or undo, each other before they are committed */
    const char *const turns[] = {"10.1.1.9", "10.1.1.8", NULL, "10.1.1.9", "10.1.1.2"};
    for (size_t i = 0; i < ARRAY_LEN(turns); i++) {
        r = one_service(turns[i]);
        table_set(t, "default/web", &r);
    }
    CHECK_INT(table_commit(t, &e), 0);
    CHECK_STR(e.msg, "");
    CHECK_INT(connect_to("10.96.7.7", 80), 0);

    r = one_service(NULL);
    table_set(t, "default/web", &r);
    CHECK_INT(table_commit(t, &e), 0);
    CHECK_INT(connect_to("10.96.7.7", 80), -ECONNREFUSED);

    r = one_service("10.1.1.2");
    table_set(t, "default/web", &r);
    CHECK_INT(table_commit(t, &e), 0);
    CHECK_INT(connect_to("10.96.7.7", 80), 0);
    table_set(t, "default/web", NULL);
    CHECK_INT(table_commit(t, &e), 0);
    CHECK_INT(table_elements(t), 0);
    CHECK_STR(e.msg, "");
    table_free(t);
    CHECK_INT(table_remove(&e), 0);
    CHECK_INT(table_remove(&e), 0);
    CHECK_INT(netlink_route_flush(&e), 0);
    CHECK(connect_to("10.96.7.7", 80) < 0);
    CHECK_STR(e.msg, "");
}
