#include "proxy/rules.h"

#include "tests/test.h"

static struct core_service service(const char *ip, struct core_service_port *ports, size_t n) {
    struct core_service s = {0};
    s.spec.cluster_ip = ip;
    s.spec.type = "ClusterIP";
    s.spec.ports.items = ports;
    s.spec.ports.n = n;
    return s;
}

enum { MAX = 40 };
struct slice {
    struct discovery_endpoint_slice s;
    struct discovery_endpoint ep[MAX];
    struct discovery_endpoint_port port;
    const char *ips[MAX];
    char text[MAX][32];
    int32_t number;
};
static bool yes = true, no = false;

static void slice_init(struct slice *x, size_t n) {
    *x = (struct slice){.number = 8080};
    x->port = (struct discovery_endpoint_port){.name = "http", .protocol = "TCP", .port = &x->number};
    for (size_t i = 0; i < n; i++) {
        snprintf(x->text[i], sizeof(x->text[i]), "10.0.0.%zu", i + 1);
        x->ips[i] = x->text[i];
        x->ep[i].addresses = (struct str_vec){&x->ips[i], 1};
        x->ep[i].node_name = i % 2 ? "other" : "me";
    }
    x->s.address_type = "IPv4";
    x->s.endpoints.items = x->ep;
    x->s.endpoints.n = n;
    x->s.ports.items = &x->port;
    x->s.ports.n = 1;
}

static size_t share(struct map *m, const char *data) {
    size_t n = 0;
    void *v;
    for (size_t it = 0; map_next(m, &it, NULL, &v);) n += strcmp(v, data) == 0;
    return n;
}

TEST(endpoints_get_even_shares) {
    static const struct {
        size_t endpoints, elements;
        enum rules_set set;
    } cases[] = {{1, 16, SET_VIP_16}, {2, 16, SET_VIP_16},  {3, 60, SET_VIP_60},
                 {7, 60, SET_VIP_60}, {16, 16, SET_VIP_16}, {31, 960, SET_VIP_960}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct core_service_port p = {.name = "http", .port = 80};
        struct core_service s = service("10.96.0.1", &p, 1);
        struct slice x;
        slice_init(&x, cases[i].endpoints);
        const struct discovery_endpoint_slice *all[] = {&x.s};
        struct rules r = {0};
        rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
        CHECK_INT(r.sets[cases[i].set].n, cases[i].elements);
        size_t least = 1000, most = 0;
        for (size_t k = 0; k < cases[i].endpoints; k++) {
            char data[48];
            snprintf(data, sizeof(data), "10.0.0.%zu . 8080", k + 1);
            size_t n = share(&r.sets[cases[i].set], data);
            least = MIN_OF(least, n);
            most = MAX_OF(most, n);
        }
        CHECK(least > 0 && most - least <= 1);
        rules_done(&r);
    }
}

TEST(service_without_endpoints_is_refused) {
    struct core_service_port p = {.name = "http", .port = 80, .node_port = 30080};
    struct core_service s = service("10.96.0.1", &p, 1);
    struct rules r = {0};
    rules_of_service(&r, &s, NULL, 0, &(struct rules_place){"me", "z1"});
    CHECK(map_has(&r.sets[SET_DEAD], "10.96.0.1 . tcp . 80"));
    CHECK(map_has(&r.sets[SET_DEAD_NODE], "tcp . 30080"));
    CHECK_INT(r.sets[SET_VIP_16].n, 0);
    rules_done(&r);
}

TEST(endpoints_that_are_not_ready_get_nothing) {
    struct core_service_port p = {.name = "http", .port = 80};
    struct core_service s = service("10.96.0.1", &p, 1);
    struct slice x;
    slice_init(&x, 2);
    x.ep[0].conditions.ready = &no;
    const struct discovery_endpoint_slice *all[] = {&x.s};
    struct rules r = {0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.2 . 8080"), 16);
    rules_done(&r);
    /* while all are going away, those that still serve are used */
    r = (struct rules){0};
    x.ep[1].conditions.ready = &no;
    x.ep[1].conditions.serving = x.ep[1].conditions.terminating = &yes;
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.2 . 8080"), 16);
    rules_done(&r);
}

TEST(local_policies_stay_on_the_node) {
    struct core_service_port p = {.name = "http", .port = 80, .node_port = 30080};
    struct core_service s = service("10.96.0.1", &p, 1);
    s.spec.external_traffic_policy = "Local";
    struct slice x;
    slice_init(&x, 2);
    const struct discovery_endpoint_slice *all[] = {&x.s};
    struct rules r = {0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
    CHECK_INT(share(&r.sets[SET_NODE_16], "10.0.0.1 . 8080"), 16);
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.2 . 8080"), 8);
    CHECK(!map_has(&r.sets[SET_MASQ_NODE], "tcp . 30080"));
    CHECK(map_has(&r.sets[SET_HAIRPIN], "10.0.0.1 . 10.0.0.1") &&
          !map_has(&r.sets[SET_HAIRPIN], "10.0.0.2 . 10.0.0.2"));
    rules_done(&r);
}

TEST(headless_and_external_services_have_no_rules) {
    struct core_service_port p = {.port = 80};
    struct core_service s = service("None", &p, 1);
    struct rules r = {0};
    rules_of_service(&r, &s, NULL, 0, &(struct rules_place){"me", "z1"});
    s = service("", &p, 1);
    s.spec.type = "ExternalName";
    rules_of_service(&r, &s, NULL, 0, &(struct rules_place){"me", "z1"});
    for (size_t i = 0; i < RULES_SETS; i++) CHECK_INT(r.sets[i].n, 0);
}

TEST(hints_keep_traffic_near_while_all_endpoints_have_them) {
    struct core_service_port p = {.name = "http", .port = 80};
    struct core_service s = service("10.96.0.1", &p, 1);
    struct slice x;
    slice_init(&x, 4); /* on me, other, me, other */
    struct discovery_for_zone z1 = {.name = "z1"}, z2 = {.name = "z2"};
    struct discovery_for_node me = {.name = "me"}, other = {.name = "other"};
    struct discovery_endpoint_hints hints[4];
    const struct discovery_endpoint_slice *all[] = {&x.s};
    for (size_t i = 0; i < 4; i++) {
        hints[i] = (struct discovery_endpoint_hints){.for_zones = {i < 3 ? &z1 : &z2, 1}};
        x.ep[i].hints = &hints[i];
    }
    struct rules r = {0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
    CHECK_INT(share(&r.sets[SET_VIP_60], "10.0.0.1 . 8080"), 20); /* of three */
    CHECK_INT(share(&r.sets[SET_VIP_60], "10.0.0.4 . 8080"), 0);
    rules_done(&r);
    r = (struct rules){0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z3"}); /* nobody is near: all */
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.4 . 8080"), 4);
    rules_done(&r);
    for (size_t i = 0; i < 4; i++) hints[i].for_nodes = (struct discovery_for_node_vec){i % 2 ? &other : &me, 1};
    r = (struct rules){0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.1 . 8080"), 8); /* the two on this node */
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.2 . 8080"), 0);
    rules_done(&r);
    x.ep[1].hints = NULL; /* one without: hints do not count */
    r = (struct rules){0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", "z1"});
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.2 . 8080"), 4);
    rules_done(&r);
}

TEST(an_endpoint_that_ends_serves_its_node_while_others_are_ready_elsewhere) {
    struct core_service_port p = {.name = "http", .port = 80, .node_port = 30080};
    struct core_service s = service("10.96.0.1", &p, 1);
    s.spec.type = "NodePort";
    s.spec.external_traffic_policy = "Local";
    struct slice x;
    slice_init(&x, 2);
    x.ep[0].conditions = (struct discovery_endpoint_conditions){.ready = &no, .serving = &yes, .terminating = &yes};
    const struct discovery_endpoint_slice *all[] = {&x.s};
    struct rules r = {0};
    rules_of_service(&r, &s, all, 1, &(struct rules_place){"me", NULL});
    CHECK_INT(share(&r.sets[SET_VIP_16], "10.0.0.2 . 8080"), 16);
    CHECK_INT(share(&r.sets[SET_NODE_16], "10.0.0.1 . 8080"), 16);
    rules_done(&r);
    CHECK_INT(rules_local_ready(all, 1, "me"), 0);
    CHECK_INT(rules_local_ready(all, 1, "other"), 1);
}

TEST(headless_services_and_those_of_other_proxies_have_no_rules) {
    static const char *const labels[] = {"service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name"};
    for (size_t i = 0; i < ARRAY_LEN(labels); i++) {
        struct core_service_port p = {.name = "http", .port = 80};
        struct core_service s = service("10.96.0.1", &p, 1);
        struct str_map_entry label = {labels[i], "x"};
        s.metadata.labels = (struct str_map){&label, 1};
        struct rules r = {0};
        rules_of_service(&r, &s, NULL, 0, &(struct rules_place){"me", NULL});
        for (size_t k = 0; k < RULES_SETS; k++) CHECK_INT(r.sets[k].n, 0);
        rules_done(&r);
    }
}
