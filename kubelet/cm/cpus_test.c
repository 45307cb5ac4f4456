/* CPUs: sets, machines as the kernel describes them, which CPUs are taken, and the CPU manager's bookkeeping and file. */
#include "kubelet/cm/cpu_manager.h"
#include "kubelet/cm/made_up.h"
#include "tests/test.h"

#define _cleanup_machine_ _cleanup_(machine_done)
static void machine_done(struct machine **m) { machine_free(*m); }

static struct cpuset set_of(const char *text) {
    struct cpuset s = {0};
    CHECK_INT(cpuset_parse(text, &s), 0);
    return s;
}

TEST(lists_of_cpus_are_read_and_written_as_the_kernel_does) {
    static const struct {
        const char *in, *out;
    } rows[] = {{"", ""},       {"0", "0"},           {"0-3,8\n", "0-3,8"}, {"1,2,3,5,7-8", "1-3,5,7-8"},
                {"7,1", "1,7"}, {"64-127", "64-127"}, {"2047", "2047"},     {"0-1,1-2", "0-2"}};
    static const char *const bad[] = {"a", "1-", "-1", "3-1", "1,,2", "1 2", "1,", "2048", "99999999999999999999"};
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct cpuset s = set_of(rows[i].in);
        CHECK_STR(cpuset_text(a, &s), rows[i].out);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct cpuset s;
        CHECK(cpuset_parse(bad[i], &s) < 0);
    }
}

/* ---- machines ---- */

TEST(a_machine_of_two_sockets_is_read) {
    _cleanup_machine_ struct machine *m = made_up(
        &(struct made_up){.sockets = 2, .cores = 4, .threads = 2, .nodes = 2, .memory = 1 << 30, .huge = 3}, NULL);
    REQUIRE(m);
    CHECK_INT(cpuset_count(&m->cpus), 16);
    CHECK_INT(m->counts[LEVEL_CORE], 8);
    CHECK_INT(m->counts[LEVEL_SOCKET], 2);
    CHECK_INT(m->counts[LEVEL_NUMA], 2);
    CHECK_INT(machine_threads(m), 2);
    CHECK_INT(m->ids[LEVEL_CORE][13], 5);
    CHECK_INT(m->ids[LEVEL_SOCKET][13], 1);
    CHECK_INT(m->ids[LEVEL_NUMA][13], 1);
    CHECK_INT(m->ids[LEVEL_UNCORE][13], 1); /* a cache of the whole node does not count: the socket stands for it */
    CHECK_INT(m->nodes[1].memory, 1 << 30);
    CHECK_INT(m->nodes[1].huge[0].size, 2 << 20);
    CHECK_INT(m->nodes[1].huge[0].pages, 3);
    CHECK_INT(m->nodes[0].distances[1], 15);
    CHECK_INT(machine_nodes(m), 3);
}

TEST(offline_cpus_do_not_exist) {
    _cleanup_machine_ struct machine *m =
        made_up(&(struct made_up){.sockets = 1, .cores = 4, .threads = 2, .nodes = 1, .offline = "0,5"}, NULL);
    REQUIRE(m);
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK_STR(cpuset_text(a, &m->cpus), "1-4,6-7");
    CHECK_INT(m->counts[LEVEL_CORE], 4);
    CHECK_INT(m->ids[LEVEL_CORE][4], 4); /* its sibling 0 is gone */
}

TEST(without_numa_there_is_one_node) {
    _cleanup_machine_ struct machine *m =
        made_up(&(struct made_up){.sockets = 1, .cores = 2, .threads = 1, .memory = 5 << 20}, NULL);
    REQUIRE(m);
    CHECK_INT(m->n_nodes, 1);
    CHECK_INT(m->nodes[0].id, 0);
    CHECK_INT(m->nodes[0].memory, 5 << 20);
    CHECK_INT(machine_nodes_with_cpus(m), 1);
}

TEST(nodes_without_memory_or_without_cpus_count) {
    _cleanup_machine_ struct machine *m = made_up(
        &(struct made_up){
            .sockets = 2, .cores = 1, .threads = 1, .nodes = 2, .memory = 1 << 20, .bare_node = 2, .empty_node = 1},
        NULL);
    REQUIRE(m);
    CHECK_INT(m->n_nodes, 3);
    CHECK_INT(m->nodes[1].memory, 0);
    CHECK_INT(m->nodes[2].memory, 1 << 20);
    CHECK_INT(machine_nodes(m), 7);
    CHECK_INT(machine_nodes_with_cpus(m), 3);
}

TEST(caches_that_some_cores_share_are_found) {
    _cleanup_machine_ struct machine *m =
        made_up(&(struct made_up){.sockets = 1, .cores = 8, .threads = 2, .nodes = 1, .cache_cores = 4}, NULL);
    REQUIRE(m);
    CHECK_INT(m->counts[LEVEL_UNCORE], 2);
    CHECK_INT(m->ids[LEVEL_UNCORE][3], 0);
    CHECK_INT(m->ids[LEVEL_UNCORE][12], 1);
}

TEST(a_machine_that_does_not_tell_its_cpus_is_an_error) {
    struct machine *m;
    _cleanup_err_ struct err e = {0};
    CHECK_INT(machine_read("/nonexistent", 0, &m, &e), -EIO);
    CHECK(strstr(e.msg, "/nonexistent/cpu/online"));
}

/* ---- taking ---- */

static const struct made_up two_sockets = {.sockets = 2, .cores = 4, .threads = 2, .nodes = 2};
static const struct made_up four_nodes = {.sockets = 2, .cores = 4, .threads = 2, .nodes = 4};
static const struct made_up caches = {.sockets = 1, .cores = 8, .threads = 2, .nodes = 1, .cache_cores = 4};

TEST(cpus_are_taken_as_the_options_say) {
    static const struct {
        const struct made_up *on;
        struct cpu_options options;
        const char *free;
        size_t n;
        const char *taken; /* NULL: there are not so many */
    } rows[] = {
        {&two_sockets, {0}, "0-15", 0, ""},
        {&two_sockets, {0}, "0-15", 1, "0"},
        {&two_sockets, {0}, "0-15", 2, "0,8"},       /* a whole core */
        {&two_sockets, {0}, "0-15", 8, "0-3,8-11"},  /* a whole socket */
        {&two_sockets, {0}, "1-15", 8, "4-7,12-15"}, /* the other one, which is whole */
        {&two_sockets, {0}, "0-15", 10, "0-4,8-12"}, /* and a core of the next */
        {&two_sockets, {0}, "0-3,9-15", 1, "12"},    /* the node with the fewest free ones */
        {&two_sockets, {0}, "1-3,8-11", 1, "8"},     /* a thread whose sibling is gone already */

        {&two_sockets, {0}, "0-1", 3, NULL},
        {&two_sockets, {.distribute_cores = true}, "0-15", 3, "0-2"},
        {&two_sockets, {.distribute_nodes = true}, "0-15", 6, "0-2,8-10"}, /* one node is enough */
        {&two_sockets, {.distribute_nodes = true}, "0-15", 10, "0-2,4-6,8-9,12-13"},
        {&two_sockets, {.distribute_nodes = true, .full_cores = true}, "0-15", 12, "0-2,4-6,8-10,12-14"},
        {&two_sockets, {.distribute_nodes = true}, "1-15", 9, "1-2,4-6,9-10,12-13"},
        {&four_nodes, {.distribute_nodes = true}, "0-15", 6, "0-3,8,10"},
        {&four_nodes, {0}, "0-15", 4, "0-1,8-9"}, /* a whole NUMA node */
        {&caches, {.by_uncore = true}, "0-15", 8, "0-3,8-11"},
        {&caches, {.by_uncore = true}, "2-15", 6, "4-6,12-14"},
        {&caches, {.by_uncore = true}, "0,4-7,12-15", 3, "4-5,12"},
    };
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_err_ struct err e = {0};
        _cleanup_machine_ struct machine *m = made_up(rows[i].on, &e);
        struct cpuset free = set_of(rows[i].free), got = {0};
        REQUIRE(m);
        int r = cpu_take(m, &rows[i].options, &free, rows[i].n, &got, &e);
        CHECK_INT(r, rows[i].taken ? 0 : -EBUSY);
        if (!rows[i].taken) {
            CHECK_STR(e.msg, "not enough cpus available to satisfy request: requested=3, available=2");
            continue;
        }
        struct cpuset want = set_of(rows[i].taken);
        if (!cpuset_equal(&got, &want)) fprintf(stderr, "row %zu\n", i);
        CHECK_STR(cpuset_text(a, &got), cpuset_text(a, &want));
    }
}

/* ---- the manager ---- */

static struct core_pod *pod_of(struct arena *a, const char *uid, const char *init, const char *main) {
    const char *text = arena_printf(
        a, "{\"metadata\":{\"name\":\"p\",\"uid\":\"%s\"},\"spec\":{\"initContainers\":[%s],\"containers\":[%s]}}", uid,
        init, main);
    struct core_pod *p = arena_zalloc(a, sizeof(*p));
    _cleanup_err_ struct err e = {0};
    if (api_from_json(a, &api_core_pod, text, strlen(text), p, &e) < 0) TEST_FAIL("%s", e.msg);
    return p;
}

/* A container that asks for so many CPUs. */
static const char *container(struct arena *a, const char *name, const char *cpus, const char *more) {
    return arena_printf(a,
                        "{\"name\":\"%s\"%s,\"resources\":{\"limits\":{\"cpu\":\"%s\",\"memory\":\"1Mi\"},\"requests\":"
                        "{\"cpu\":\"%s\",\"memory\":\"1Mi\"}}}",
                        name, more, cpus, cpus);
}

struct bench {
    struct arena *a;
    struct machine *m;
    char dir[32], *file;
    struct cpu_manager *cpu;
};
static void bench_done(struct bench *b) {
    cpu_manager_free(b->cpu);
    machine_free(b->m);
    unlink(b->file);
    rmdir(b->dir);
    arena_free(b->a);
}
#define _cleanup_bench_ _cleanup_(bench_done)

static struct bench bench_of(const struct made_up *u) {
    struct bench b = {.a = arena_new(), .m = made_up(u, NULL), .dir = "/tmp/cpus-test-XXXXXX"};
    if (!mkdtemp(b.dir)) TEST_FAIL("mkdtemp");
    b.file = arena_printf(b.a, "%s/cpu_manager_state", b.dir);
    return b;
}

static int open_manager(struct bench *b, bool exclusive, const char *reserved, struct cpu_options o, struct err *e) {
    struct cpu_config c = {.exclusive = exclusive, .options = o, .reserved_milli = 1000, .file = b->file};
    if (*reserved) {
        cpuset_parse(reserved, &c.reserved);
        c.reserved_milli = (int64_t)cpuset_count(&c.reserved) * 1000;
    }
    cpu_manager_free(b->cpu);
    b->cpu = NULL;
    return cpu_manager_new(b->m, &c, &b->cpu, e);
}

static const char *own(struct bench *b, const char *uid, const char *name) {
    struct cpuset s = cpu_manager_own(b->cpu, uid, name);
    return cpuset_text(b->a, &s);
}
static const char *shared(struct bench *b) {
    struct cpuset s = cpu_manager_cpus(b->cpu, "", NULL);
    return cpuset_text(b->a, &s);
}

static int give(struct bench *b, struct core_pod *p, uint64_t nodes, struct err *e) {
    const struct core_container_vec *lists[] = {&p->spec.init_containers, &p->spec.containers};
    int r = 0;
    for (size_t l = 0; l < 2; l++)
        for (size_t i = 0; r == 0 && i < lists[l]->n; i++)
            r = cpu_manager_allocate(b->cpu, p, &lists[l]->items[i], nodes, e);
    return r;
}

static char *contents(struct bench *b) {
    _cleanup_free_ char *text = NULL;
    return file_read(b->file, 1 << 20, &text, NULL) < 0 ? NULL : arena_strdup(b->a, text);
}

TEST(whole_cpus_of_guaranteed_pods_are_their_own) {
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){0}, NULL) == 0);
    CHECK_STR(shared(&b), "0-15");
    CHECK_INT(give(&b, pod_of(b.a, "one", "", container(b.a, "c", "2", "")), 0, NULL), 0);
    CHECK_STR(own(&b, "one", "c"), "1,9"); /* 0 is reserved */
    CHECK_STR(shared(&b), "0,2-8,10-15");
    CHECK_INT(give(&b, pod_of(b.a, "part", "", container(b.a, "c", "1500m", "")), 0, NULL), 0);
    CHECK_STR(own(&b, "part", "c"), "");
    CHECK_INT(
        give(&b, pod_of(b.a, "burst", "", "{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"2\"}}}"), 0, NULL),
        0);
    CHECK_STR(own(&b, "burst", NULL), "");
    CHECK_INT(give(&b, pod_of(b.a, "near", "", container(b.a, "c", "2", "")), 2, NULL), 0);
    CHECK_STR(own(&b, "near", "c"), "4,12"); /* the second NUMA node's */
    CHECK(cpu_manager_release(b.cpu, "one"));
    CHECK(!cpu_manager_release(b.cpu, "one"));
    CHECK_STR(shared(&b), "0-3,5-11,13-15");
}

TEST(init_containers_leave_their_cpus_and_sidecars_keep_them) {
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){0}, NULL) == 0);
    const char *init = arena_printf(b.a, "%s,%s", container(b.a, "first", "4", ""),
                                    container(b.a, "side", "2", ",\"restartPolicy\":\"Always\""));
    struct core_pod *p = pod_of(b.a, "p", init, container(b.a, "main", "4", ""));
    CHECK_INT(cpu_manager_wanted(b.cpu, p, NULL), 6);
    CHECK_INT(give(&b, p, 0, NULL), 0);
    CHECK_STR(own(&b, "p", "first"), "1-2,9-10");
    CHECK_STR(own(&b, "p", "side"), "1,9");
    CHECK_STR(own(&b, "p", "main"), "2-3,10-11");
    CHECK(cpu_manager_release(b.cpu, "p"));
    CHECK_STR(shared(&b), "0-15");
}

TEST(whole_cores_are_given_or_nothing) {
    _cleanup_bench_ struct bench b = bench_of(&(struct made_up){.sockets = 1, .cores = 2, .threads = 2, .nodes = 1});
    _cleanup_err_ struct err e = {0};
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){.full_cores = true}, NULL) == 0);
    CHECK_INT(give(&b, pod_of(b.a, "odd", "", container(b.a, "c", "1", "")), 0, &e), -EINVAL);
    CHECK_STR(e.reason, "SMTAlignmentError");
    CHECK_STR(e.msg, "SMT Alignment Error: requested 1 cpus not multiple cpus per core = 2");
    CHECK_INT(give(&b, pod_of(b.a, "ok", "", container(b.a, "c", "2", "")), 0, NULL), 0);
    CHECK_STR(own(&b, "ok", "c"), "1,3");
    CHECK_INT(give(&b, pod_of(b.a, "none", "", container(b.a, "c", "2", "")), 0, &e), -EBUSY);
    CHECK(strstr(e.msg, "not enough free physical CPUs: available physical CPUs = 0, requested CPUs = 2"));
}

TEST(strictly_reserved_cpus_are_nobodys) {
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    struct cpu_options strict = {.strict_reservation = true};
    REQUIRE(open_manager(&b, true, "0,8", strict, NULL) == 0);
    CHECK_STR(shared(&b), "1-7,9-15");
    CHECK_INT(open_manager(&b, true, "0,8", strict, NULL), 0); /* once more, from the file */
    _cleanup_err_ struct err e = {0};
    CHECK(open_manager(&b, true, "0,8", (struct cpu_options){0}, &e) < 0);
    CHECK(strstr(e.msg, "not all reserved CPUs are among the shared ones, please drain this node"));
}

TEST(what_was_given_outlives_the_manager) {
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){0}, NULL) == 0);
    struct core_pod *p = pod_of(b.a, "uid-1", "", container(b.a, "c", "2", ""));
    CHECK_INT(give(&b, p, 0, NULL), 0);
    CHECK(strstr(
        contents(&b),
        "{\"policyName\":\"static\",\"defaultCpuSet\":\"0,2-8,10-15\",\"entries\":{\"uid-1\":{\"c\":\"1,9\"}},\"checksum\":"));
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){0}, NULL) == 0);
    CHECK_STR(own(&b, "uid-1", "c"), "1,9");
    CHECK_STR(shared(&b), "0,2-8,10-15");
    struct str_vec pods = cpu_manager_pods(b.cpu, b.a);
    CHECK_INT(pods.n, 1);
    CHECK_STR(pods.items[0], "uid-1");
    CHECK_INT(give(&b, p, 0, NULL), 0); /* it has them already */
    CHECK_STR(own(&b, "uid-1", "c"), "1,9");
}

/* Checksums as kubelets of Kubernetes have written them. */
TEST(files_are_those_of_kubernetes) {
    static const struct {
        const char *text, *why; /* NULL: it is taken */
    } rows[] = {
        {"{\"policyName\":\"none\",\"defaultCpuSet\":\"\",\"checksum\":1353318690}", NULL},
        {"{\"policyName\":\"none\",\"defaultCPUSet\":\"4-6\",\"entries\":{},\"checksum\":354655845}", NULL},
        {"{\"policyName\":\"none\",\"defaultCPUSet\":\"1-3\",\"entries\":{\"pod\":{\"container1\":\"4-6\",\"container2\":"
         "\"1-3\"}},\"checksum\":3610638499}",
         NULL},
        {"{\"policyName\":\"none\",\"defaultCPUSet\":\"4-6\",\"entries\":{}}", NULL},
        {"{\"policyName\":\"none\",\"defaultCPUSet\":\"4-6\",\"entries\":{},\"checksum\":1337}",
         "checkpoint is corrupted"},
        {"{", "could not restore state from checkpoint"},
        {"[]", "no JSON object"},
        {"{\"policyName\":\"other\",\"defaultCPUSet\":\"1-3\",\"entries\":{},\"checksum\":1394507217}",
         "configured policy \"none\" differs from state checkpoint policy \"other\""},
        {"{\"policyName\":\"none\",\"defaultCPUSet\":\"1.3\",\"entries\":{},\"checksum\":3021697696}",
         "a list of CPUs"},
    };
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        _cleanup_err_ struct err e = {0};
        file_write_quick(b.file, rows[i].text, strlen(rows[i].text), 0600);
        CHECK_INT(open_manager(&b, false, "", (struct cpu_options){0}, &e), rows[i].why ? -EINVAL : 0);
        CHECK(!rows[i].why ||
              (strstr(e.msg, rows[i].why) && strstr(e.msg, "please drain this node and delete the CPU")));
    }
    unlink(b.file);
    CHECK_INT(open_manager(&b, false, "", (struct cpu_options){0}, NULL), 0);
    CHECK_STR(contents(&b), "{\"policyName\":\"none\",\"defaultCpuSet\":\"\",\"checksum\":1353318690}");
    CHECK_STR(shared(&b), ""); /* nobody is bound */
}

TEST(a_machine_that_changed_is_noticed) {
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    _cleanup_err_ struct err e = {0}, none = {0};
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){0}, NULL) == 0);
    machine_free(b.m);
    b.m = made_up(&(struct made_up){.sockets = 2, .cores = 4, .threads = 2, .nodes = 2, .offline = "15"}, NULL);
    CHECK(open_manager(&b, true, "", (struct cpu_options){0}, &e) < 0);
    CHECK(strstr(e.msg, "the machine's CPUs are not those of the state"));
    struct cpu_config c = {.exclusive = true};
    CHECK(cpu_manager_new(b.m, &c, &b.cpu, &none) < 0);
    CHECK(strstr(none.msg, "requires systemReserved.cpu + kubeReserved.cpu to be greater than zero"));
}

TEST(hints_are_the_nodes_that_have_enough) {
    _cleanup_bench_ struct bench b = bench_of(&two_sockets);
    REQUIRE(open_manager(&b, true, "", (struct cpu_options){0}, NULL) == 0);
    struct core_pod *p = pod_of(b.a, "p", "", container(b.a, "c", "8", ""));
    struct hint_set s = {0};
    cpu_manager_hints(b.cpu, b.a, p, &p->spec.containers.items[0], &s);
    REQUIRE(s.n == 1 && s.items[0].n == 2); /* the first node has a reserved CPU */
    CHECK_INT(s.items[0].items[0].nodes, 2);
    CHECK(s.items[0].items[0].preferred);
    CHECK_INT(s.items[0].items[1].nodes, 3);
    CHECK(!s.items[0].items[1].preferred);
    CHECK_INT(give(&b, p, 2, NULL), 0);
    s = (struct hint_set){0};
    cpu_manager_hints(b.cpu, b.a, p, NULL, &s); /* what it has is what it gets */
    REQUIRE(s.n == 1 && s.items[0].n == 2);
    CHECK_INT(s.items[0].items[0].nodes, 2);
    s = (struct hint_set){0};
    cpu_manager_hints(b.cpu, b.a, pod_of(b.a, "q", "", container(b.a, "c", "16", "")), NULL, &s);
    REQUIRE(s.n == 1);
    CHECK_INT(s.items[0].n, 0);
    CHECK(!s.items[0].any);
}
