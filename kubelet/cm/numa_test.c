/* NUMA: merging hints, the memory manager's promises and file, the settings' text. */
#include "kubelet/cm/made_up.h"
#include "kubelet/cm/settings.h"
#include "tests/test.h"

#define _cleanup_machine_ _cleanup_(machine_done)
static void machine_done(struct machine **m) { machine_free(*m); }

static const struct made_up nodes2 = {.sockets = 2, .cores = 2, .threads = 1, .nodes = 2, .memory = 1 << 30};
static const struct made_up nodes4 = {.sockets = 4, .cores = 1, .threads = 1, .nodes = 4, .memory = 1 << 30};

/* ---- hints ---- */

/* "10+ 01-;*;!" : resources parted by ';', of each the hints: nodes (highest first), preferred or not; * any, ! none. */
static struct hint_set hints_of(struct arena *a, const char *text) {
    struct hint_set s = {0};
    while (*text) {
        struct hint_list *l = hint_set_add(a, &s);
        for (; *text && *text != ';'; text++) {
            uint64_t nodes = 0;
            if (*text == '*') l->any = true;
            for (; *text == '0' || *text == '1'; text++) nodes = nodes << 1 | (uint64_t)(*text - '0');
            if (*text != '+' && *text != '-') continue;
            hint_add(a, l, nodes);
            l->items[l->n - 1].preferred = *text == '+';
        }
        text += *text == ';';
    }
    return s;
}

TEST(hints_are_merged_as_the_policy_wants) {
    static const struct {
        const struct made_up *on;
        enum topology_policy policy;
        bool closest;
        const char *hints;
        uint64_t nodes;
        bool preferred, admitted;
    } rows[] = {
        {&nodes2, TOPOLOGY_BEST_EFFORT, false, "", 3, true, true},
        {&nodes2, TOPOLOGY_BEST_EFFORT, false, "*", 3, true, true},
        {&nodes2, TOPOLOGY_SINGLE_NODE, false, "*", 0, true, true},
        {&nodes2, TOPOLOGY_BEST_EFFORT, false, "!", 3, false, true},
        {&nodes2, TOPOLOGY_RESTRICTED, false, "!", 3, false, false},
        {&nodes2, TOPOLOGY_SINGLE_NODE, false, "!", 0, false, false},
        {&nodes2, TOPOLOGY_RESTRICTED, false, "01+ 10+ 11-", 1, true, true},
        {&nodes2, TOPOLOGY_RESTRICTED, false, "01+ 10+ 11-;10+", 2, true, true},
        {&nodes2, TOPOLOGY_RESTRICTED, false, "01+;10+", 3, false, false},
        {&nodes2, TOPOLOGY_BEST_EFFORT, false, "01+;10+ 11-", 1, false, true},
        {&nodes2, TOPOLOGY_RESTRICTED, false, "11+;11+", 3, true, true},
        {&nodes2, TOPOLOGY_SINGLE_NODE, false, "11+;11+", 0, false, false},
        {&nodes2, TOPOLOGY_SINGLE_NODE, false, "01+ 10+ 11-;10+ 11-;*", 2, true, true},
        {&nodes2, TOPOLOGY_SINGLE_NODE, false, "01-", 0, false, false},
        {&nodes2, TOPOLOGY_RESTRICTED, false, "11+;01+ 10+", 1, false, false},
        {&nodes4, TOPOLOGY_BEST_EFFORT, false, "0011+ 0101+ 1100+", 3, true, true},
        {&nodes4, TOPOLOGY_BEST_EFFORT, false, "0101+ 1100+", 5, true, true},
        {&nodes4, TOPOLOGY_BEST_EFFORT, true, "0101+ 1100+", 12, true,
         true}, /* nodes 2 and 3 are nearer to each other */
        {&nodes4, TOPOLOGY_BEST_EFFORT, true, "0001+ 1100+", 1, true, true},
        {&nodes4, TOPOLOGY_BEST_EFFORT, false, "0011- 0111-;0110-", 6, false, true}, /* two nodes are needed */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        _cleanup_machine_ struct machine *m = made_up(rows[i].on, NULL);
        struct hint_set s = hints_of(a, rows[i].hints);
        struct numa_hint got;
        REQUIRE(m);
        bool ok = hints_merge(m, rows[i].policy, rows[i].closest, &s, &got);
        if (ok != rows[i].admitted || got.nodes != rows[i].nodes) fprintf(stderr, "row %zu\n", i);
        CHECK_INT(ok, rows[i].admitted);
        CHECK_INT(got.nodes, rows[i].nodes);
        CHECK_INT(got.preferred, rows[i].preferred);
    }
}

/* ---- memory ---- */

struct bench {
    struct arena *a;
    struct machine *m;
    char dir[40], *file;
    struct memory_manager *memory;
};
static void bench_done(struct bench *b) {
    memory_manager_free(b->memory);
    machine_free(b->m);
    unlink(b->file);
    rmdir(b->dir);
    arena_free(b->a);
}
#define _cleanup_bench_ _cleanup_(bench_done)

static struct bench bench_of(const struct made_up *u) {
    struct bench b = {.a = arena_new(), .m = made_up(u, NULL), .dir = "/tmp/numa-test-XXXXXX"};
    if (!mkdtemp(b.dir)) TEST_FAIL("mkdtemp");
    b.file = arena_printf(b.a, "%s/memory_manager_state", b.dir);
    return b;
}

static int open_manager(struct bench *b, bool pinned, const char *by_node, int64_t reserved, struct err *e) {
    struct memory_reservation *items, whole = {0, "memory", reserved};
    struct memory_config c = {.pinned = pinned, .reserved = &whole, .n_reserved = 1, .file = b->file};
    int r = settings_reserved_memory(b->a, by_node, &items, &c.n_by_node, e);
    c.by_node = items;
    memory_manager_free(b->memory);
    b->memory = NULL;
    return r < 0 ? r : memory_manager_new(b->m, &c, &b->memory, e);
}

static struct core_pod *pod_of(struct arena *a, const char *uid, const char *init, const char *main) {
    const char *text = arena_printf(
        a, "{\"metadata\":{\"name\":\"p\",\"uid\":\"%s\"},\"spec\":{\"initContainers\":[%s],\"containers\":[%s]}}", uid,
        init, main);
    struct core_pod *p = arena_zalloc(a, sizeof(*p));
    _cleanup_err_ struct err e = {0};
    if (api_from_json(a, &api_core_pod, text, strlen(text), p, &e) < 0) TEST_FAIL("%s", e.msg);
    return p;
}

static const char *container(struct arena *a, const char *name, const char *memory) {
    return arena_printf(a,
                        "{\"name\":\"%s\",\"resources\":{\"limits\":{\"cpu\":\"1\",\"memory\":\"%s\"},\"requests\":"
                        "{\"cpu\":\"1\",\"memory\":\"%s\"}}}",
                        name, memory, memory);
}

static int give(struct bench *b, struct core_pod *p, struct numa_hint hint, struct err *e) {
    const struct core_container_vec *lists[] = {&p->spec.init_containers, &p->spec.containers};
    int r = 0;
    for (size_t l = 0; l < 2; l++)
        for (size_t i = 0; r == 0 && i < lists[l]->n; i++)
            r = memory_manager_allocate(b->memory, p, &lists[l]->items[i], hint, e);
    return r;
}

#define ANY ((struct numa_hint){0})
#define TWO_NODES "0:memory=256Mi;1:memory=256Mi"
#define TWO_NODES_SUM (INT64_C(512) << 20)

TEST(memory_is_promised_by_node) {
    _cleanup_bench_ struct bench b = bench_of(&nodes2);
    _cleanup_err_ struct err e = {0};
    size_t n;
    REQUIRE(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, &e) == 0);
    struct memory_block *all = memory_manager_allocatable(b.memory, b.a, &n);
    REQUIRE(n == 2);
    CHECK_INT(all[1].size, 768 << 20);
    CHECK_INT(all[1].nodes, 2);
    CHECK_INT(give(&b, pod_of(b.a, "one", "", container(b.a, "c", "512Mi")), ANY, &e), 0);
    CHECK_INT(memory_manager_nodes(b.memory, "one", "c"), 1);
    CHECK_INT(give(&b, pod_of(b.a, "two", "", container(b.a, "c", "512Mi")), ANY, &e), 0);
    CHECK_INT(memory_manager_nodes(b.memory, "two", "c"), 2);
    CHECK_INT(give(&b, pod_of(b.a, "three", "", container(b.a, "c", "512Mi")), ANY, &e), -EBUSY); /* 256Mi on each */
    CHECK(strstr(e.msg, "no NUMA nodes with enough memory is available"));
    CHECK(memory_manager_release(b.memory, "one"));
    CHECK(memory_manager_release(b.memory, "two"));
    CHECK_INT(give(&b, pod_of(b.a, "big", "", container(b.a, "c", "1Gi")), ANY, &e), 0);
    CHECK_INT(memory_manager_nodes(b.memory, "big", "c"), 3);
    CHECK(give(&b, pod_of(b.a, "small", "", container(b.a, "c", "1Mi")), (struct numa_hint){2, true}, &e) < 0);
    CHECK(strstr(e.msg, "violates NUMA node allocation")); /* the nodes are a group now */
    CHECK_INT(give(&b, pod_of(b.a, "burst", "", "{\"name\":\"c\",\"resources\":{\"requests\":{\"memory\":\"1Mi\"}}}"),
                   ANY, &e),
              0);
    CHECK_INT(memory_manager_nodes(b.memory, "burst", "c"), 0);
}

TEST(memory_of_init_containers_is_used_again) {
    _cleanup_bench_ struct bench b = bench_of(&nodes2);
    size_t n;
    REQUIRE(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, NULL) == 0);
    struct core_pod *p = pod_of(b.a, "p", container(b.a, "init", "600Mi"), container(b.a, "main", "700Mi"));
    CHECK_INT(give(&b, p, (struct numa_hint){1, true}, NULL), 0);
    struct memory_block *was = memory_manager_blocks(b.memory, b.a, "p", "init", &n);
    REQUIRE(n == 1);
    CHECK_INT(was[0].size, 0);                                            /* the main container has it now */
    CHECK_INT(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, NULL), 0); /* the file adds up */
    CHECK(memory_manager_release(b.memory, "p"));
    CHECK_INT(give(&b, pod_of(b.a, "all", "", container(b.a, "c", "768Mi")), (struct numa_hint){1, true}, NULL), 0);
}

TEST(promises_outlive_the_manager) {
    _cleanup_bench_ struct bench b = bench_of(&nodes2);
    _cleanup_err_ struct err e = {0};
    REQUIRE(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, NULL) == 0);
    CHECK_INT(give(&b, pod_of(b.a, "p", "", container(b.a, "c", "1Gi")), ANY, NULL), 0);
    REQUIRE(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, &e) == 0);
    CHECK_INT(memory_manager_nodes(b.memory, "p", "c"), 3);
    struct str_vec pods = memory_manager_pods(b.memory, b.a);
    CHECK_INT(pods.n, 1);
    CHECK(open_manager(&b, true, "0:memory=128Mi;1:memory=384Mi", TWO_NODES_SUM, &e) < 0);
    CHECK(strstr(e.msg, "the expected machine state is different from the real one"));
    CHECK(strstr(e.msg, "delete the memory manager checkpoint file"));
    err_done(&e);
    CHECK(open_manager(&b, false, "", 0, &e) < 0);
    CHECK(strstr(e.msg, "configured policy \"None\" differs from state checkpoint policy \"Static\""));
}

/* A checksum that a kubelet of Kubernetes has written. */
TEST(the_file_is_that_of_kubernetes) {
    static const char text[] =
        "{\"policyName\":\"static\",\"machineState\":{\"0\":{\"numberOfAssignments\":0,\"memoryMap\":{\"memory\":{\"total\":"
        "2048,\"systemReserved\":512,\"allocatable\":1536,\"reserved\":512,\"free\":1024}},\"cells\":[]}},\"entries\":{\"pod\":"
        "{\"container1\":[{\"numaAffinity\":[0],\"type\":\"memory\",\"size\":512}]}},\"checksum\":%s}";
    _cleanup_bench_ struct bench b = bench_of(&nodes2);
    static const char *const rows[][2] = {{"4215593881", "differs from state checkpoint policy \"static\""},
                                          {"101010", "checkpoint is corrupted"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_err_ struct err e = {0};
        char file[1024];
        snprintf(file, sizeof(file), text, rows[i][0]);
        file_write_quick(b.file, file, strlen(file), 0600);
        CHECK(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, &e) < 0);
        CHECK(strstr(e.msg, rows[i][1]));
    }
}

TEST(reservations_have_to_add_up) {
    static const struct {
        const char *by_node, *why;
    } rows[] = {
        {"", "not equal"},
        {"0:memory=256Mi", "not equal"},
        {"0:memory=256Mi;7:memory=256Mi", "NUMA node 7 that does not exist"},
        {"0:memory=512Mi,hugepages-2Mi=2Mi", "of type hugepages-2Mi"},
        {"0:memory=512Mi;0:memory=1Mi", "given twice"},
        {"0:cpu=1", "cannot be reserved"},
        {"0:memory=0", "cannot be zero"},
        {"memory=1Gi", "names no NUMA node"},
        {"0:memory=much", "no amount"},
    };
    _cleanup_bench_ struct bench b = bench_of(&nodes2);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_err_ struct err e = {0};
        CHECK(open_manager(&b, true, rows[i].by_node, TWO_NODES_SUM, &e) < 0);
        CHECK(strstr(e.msg, rows[i].why));
    }
}

TEST(memory_hints_are_the_nodes_that_can) {
    _cleanup_bench_ struct bench b = bench_of(&nodes2);
    REQUIRE(open_manager(&b, true, TWO_NODES, TWO_NODES_SUM, NULL) == 0);
    struct core_pod *p = pod_of(b.a, "p", "", container(b.a, "c", "700Mi"));
    struct hint_set s = {0};
    memory_manager_hints(b.memory, b.a, p, NULL, &s);
    REQUIRE(s.n == 1 && s.items[0].n == 3);
    CHECK(s.items[0].items[0].preferred && s.items[0].items[1].preferred && !s.items[0].items[2].preferred);
    CHECK_INT(give(&b, p, (struct numa_hint){2, true}, NULL), 0);
    s = (struct hint_set){0};
    memory_manager_hints(b.memory, b.a, p, &p->spec.containers.items[0], &s);
    REQUIRE(s.n == 1 && s.items[0].n == 1);
    CHECK_INT(s.items[0].items[0].nodes, 2);
}

/* ---- settings ---- */

TEST(options_are_read_or_refused_by_name) {
    static const struct {
        const char *text, *why;
        bool alpha;
    } rows[] = {
        {"", NULL, false},
        {"full-pcpus-only=true,strict-cpu-reservation=true,prefer-align-cpus-by-uncorecache=false", NULL, false},
        {"align-by-socket=true", "Alpha-level Options not enabled", false},
        {"align-by-socket=true,distribute-cpus-across-cores=1", NULL, true},
        {"full-pcpus-only=true,distribute-cpus-across-cores=true", "can not be used at the same time", true},
        {"distribute-cpus-across-numa=true,prefer-align-cpus-by-uncorecache=true", "can not be used at the same time",
         true},
        {"full-pcpus-only=yes", "bad value for option \"full-pcpus-only\"", false},
        {"faster=true", "unknown CPU Manager Policy option: \"faster\"", false},
        {"full-pcpus-only", "not key=value", false},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_err_ struct err e = {0};
        struct cpu_options o = {0};
        CHECK_INT(settings_cpu_options(rows[i].text, rows[i].alpha, &o, &e), rows[i].why ? -EINVAL : 0);
        CHECK(!rows[i].why || strstr(e.msg, rows[i].why));
    }
    bool closest;
    int64_t most;
    _cleanup_err_ struct err e = {0};
    CHECK_INT(
        settings_topology_options("prefer-closest-numa-nodes=true,max-allowable-numa-nodes=12", &closest, &most, &e),
        0);
    CHECK(closest && most == 12);
    CHECK(settings_topology_options("max-allowable-numa-nodes=4", &closest, &most, &e) < 0);
    CHECK(settings_topology_options("max-allowable-numa-nodes=x", &closest, &most, &e) < 0);
    CHECK(settings_topology_options("sooner=true", &closest, &most, &e) < 0);
    CHECK(settings_gate("A=true,B=false", "A", false) && !settings_gate("A=true,B=false", "B", true) &&
          settings_gate("", "C", true));
    _cleanup_free_ char *rest = settings_without("cpu=1,memory=1Gi", "cpu");
    CHECK_STR(rest, "memory=1Gi");
}
