/* The kubelet's pure parts: expansion, status, back-off, probe counting, names. Those with files are in files_test.c. */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include "kubelet/backoff.h"
#include "kubelet/config_file.h"
#include "kubelet/env.h"
#include "kubelet/images.h"
#include "kubelet/node.h"
#include "kubelet/pods.h"
#include "kubelet/prober.h"
#include "kubelet/safepath.h"
#include "kubelet/static_pods.h"
#include "kubelet/status.h"
#include "kubelet/status_manager.h"
#include "kubelet/volumes.h"
#include "pkg/base/bytes.h"
#include "tests/test.h"

/* ---- helpers ---- */

static struct arena *test_arena(void) {
    static struct arena *a; /* of the test before this one */
    arena_free(a);
    return a = arena_new();
}

/* JSON with single quotes for double ones, into a typed struct. */
static void *typed(struct arena *a, const struct api_type *t, const char *text) {
    char *json = arena_strdup(a, text);
    for (char *s = json; *s; s++)
        if (*s == '\'') *s = '"';
    void *out = arena_zalloc(a, t->size);
    struct err e = {0};
    if (api_from_json(a, t, json, strlen(json), out, &e) < 0) TEST_FAIL("%s in %s", e.msg, text);
    err_done(&e);
    return out;
}

static struct core_pod *pod(struct arena *a, const char *text) { return typed(a, &api_core_pod, text); }

static const char *temp_dir(struct arena *a) {
    char *path = arena_strdup(a, "/tmp/kubelet-test-XXXXXX");
    if (!mkdtemp(path)) TEST_FAIL("mkdtemp");
    return path;
}

/* ---- environment ---- */

TEST(expansion_follows_the_kubernetes_rules) {
    struct arena *a = test_arena();
    struct env_list l = {0}, more = {0};
    env_set(a, &l, "A", "one");
    env_set(a, &l, "EMPTY", "");
    env_set(a, &more, "B", "two");
    static const char *const cases[][2] = {
        {"$(A)", "one"},        {"x$(A)y$(B)z", "xoneytwoz"},
        {"$$(A)", "$(A)"},      {"$$$(A)", "$one"},
        {"$(NONE)", "$(NONE)"}, {"$(A", "$(A"},
        {"$A", "$A"},           {"$", "$"},
        {"a$", "a$"},           {"$(EMPTY)|", "|"},
        {"$()", "$()"},         {"$(A)$(A)", "oneone"},
        {"$$$$(A)", "$$(A)"},   {"\\$(A)", "\\one"},
        {"$(A B)", "$(A B)"},   {"", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) CHECK_STR(env_expand(a, cases[i][0], &l, &more), cases[i][1]);
}

TEST(service_variables_are_those_of_the_namespace_and_the_api_server) {
    struct arena *a = test_arena();
    struct core_service *web = typed(a, &api_core_service,
                                     "{'metadata':{'name':'my-web','namespace':'x'},'spec':{'clusterIP':'10.0.0.5',"
                                     "'ports':[{'name':'http','port':80,'protocol':'TCP'},{'name':'dns','port':53,"
                                     "'protocol':'UDP'}]}}");
    struct core_service *other =
        typed(a, &api_core_service,
              "{'metadata':{'name':'o','namespace':'y'},'spec':{'clusterIP':'10.0.0.6','ports':[{'port':1}]}}");
    struct core_service *headless =
        typed(a, &api_core_service,
              "{'metadata':{'name':'h','namespace':'x'},'spec':{'clusterIP':'None','ports':[{'port':1}]}}");
    struct core_service *k = typed(a, &api_core_service,
                                   "{'metadata':{'name':'kubernetes','namespace':'default'},"
                                   "'spec':{'clusterIP':'10.0.0.1','ports':[{'name':'https','port':443}]}}");
    const struct core_service *all[] = {web, other, headless, k};
    struct env_list l = {0};
    env_services(a, all, 4, "x", true, &l);
    CHECK_STR(env_get(&l, "MY_WEB_SERVICE_HOST"), "10.0.0.5");
    CHECK_STR(env_get(&l, "MY_WEB_SERVICE_PORT"), "80");
    CHECK_STR(env_get(&l, "MY_WEB_SERVICE_PORT_DNS"), "53");
    CHECK_STR(env_get(&l, "MY_WEB_PORT"), "tcp://10.0.0.5:80");
    CHECK_STR(env_get(&l, "MY_WEB_PORT_53_UDP"), "udp://10.0.0.5:53");
    CHECK_STR(env_get(&l, "MY_WEB_PORT_53_UDP_PROTO"), "udp");
    CHECK_STR(env_get(&l, "KUBERNETES_SERVICE_HOST"), "10.0.0.1");
    CHECK(!env_get(&l, "O_SERVICE_HOST"));
    CHECK(!env_get(&l, "H_SERVICE_HOST"));
    struct env_list few = {0};
    env_services(a, all, 4, "x", false, &few);
    CHECK(!env_get(&few, "MY_WEB_SERVICE_HOST"));
    CHECK_STR(env_get(&few, "KUBERNETES_SERVICE_PORT"), "443");
}

TEST(the_downward_api_names_fields_and_resources) {
    struct arena *a = test_arena();
    struct core_pod *p =
        pod(a,
            "{'metadata':{'name':'n','namespace':'s','uid':'u','labels':{'b':'2','a':'1'},"
            "'annotations':{'k/x':'q\\\"'}},'spec':{'containers':[{'name':'c','resources':{'limits':{'cpu':'1500m',"
            "'memory':'1Gi'}}}]}}");
    const char *ips[] = {"1.1.1.1", "fd00::1"}, *v;
    struct env_facts f = {.node_name = "node", .pod_ips = ips, .n_pod_ips = 2, .host_ips = ips, .n_host_ips = 1};
    struct str_map alloc = {0};
    f.allocatable = &alloc;
    static const char *const cases[][2] = {{"metadata.name", "n"},
                                           {"metadata.uid", "u"},
                                           {"spec.nodeName", "node"},
                                           {"status.podIP", "1.1.1.1"},
                                           {"status.podIPs", "1.1.1.1,fd00::1"},
                                           {"status.hostIP", "1.1.1.1"},
                                           {"metadata.labels['a']", "1"},
                                           {"metadata.labels['z']", ""},
                                           {"metadata.labels", "a=\"1\"\nb=\"2\""},
                                           {"metadata.annotations['k/x']", "q\""},
                                           {"metadata.annotations", "k/x=\"q\\\"\""}};
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        v = NULL;
        CHECK_INT(env_field_ref(a, p, &f, cases[i][0], &v, NULL), 0);
        CHECK_STR(v, cases[i][1]);
    }
    CHECK_INT(env_field_ref(a, p, &f, "status.phase", &v, NULL), -EINVAL);
    const struct core_container *c = &p->spec.containers.items[0];
    static const char *const resources[][3] = {{"limits.cpu", NULL, "2"},
                                               {"limits.cpu", "1m", "1500"},
                                               {"limits.memory", "1Mi", "1024"},
                                               {"limits.memory", NULL, "1073741824"},
                                               {"requests.cpu", "1m", "1500"}};
    for (size_t i = 0; i < ARRAY_LEN(resources); i++) {
        CHECK_INT(env_resource_ref(a, &(struct core_pod){0}, c, &f, resources[i][0], resources[i][1], &v, NULL), 0);
        CHECK_STR(v, resources[i][2]);
    }
}

/* ---- back-off and probes ---- */

TEST(backoff_doubles_up_to_five_minutes_and_forgets) {
    struct backoff b;
    backoff_init(&b, BACKOFF_INITIAL, BACKOFF_MAX);
    int64_t now = 1000 * NS_PER_SEC;
    CHECK_INT(backoff_remaining(&b, now, now), 0);
    static const int seconds[] = {10, 20, 40, 80, 160, 300, 300};
    for (size_t i = 0; i < ARRAY_LEN(seconds); i++) {
        backoff_next(&b, now);
        CHECK_INT(backoff_remaining(&b, now, now) / NS_PER_SEC, seconds[i]);
        CHECK_INT(backoff_remaining(&b, now, now + 4 * NS_PER_SEC) / NS_PER_SEC, seconds[i] - 4);
        now += seconds[i] * NS_PER_SEC;
        CHECK_INT(backoff_remaining(&b, now - seconds[i] * NS_PER_SEC, now), 0);
    }
    now += 601 * NS_PER_SEC; /* ran well for more than twice the maximum */
    CHECK_INT(backoff_remaining(&b, now, now), 0);
    backoff_next(&b, now);
    CHECK_INT(b.delay / NS_PER_SEC, 10);
}

TEST(probe_verdicts_change_at_their_thresholds) {
    struct core_probe spec = {.failure_threshold = 3, .success_threshold = 1};
    struct probe_count c;
    probe_count_reset(&c, PROBE_LIVENESS);
    CHECK_INT(c.verdict, PROBE_SUCCESS);
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_FAILURE));
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_FAILURE));
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_SUCCESS));
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_FAILURE));
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_UNKNOWN)); /* neither counts nor interrupts */
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_FAILURE));
    CHECK(probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_FAILURE));
    CHECK(c.on_hold);
    CHECK(!probe_count_add(&c, PROBE_LIVENESS, &spec, PROBE_SUCCESS));
    CHECK_INT(c.verdict, PROBE_FAILURE);
    spec = (struct core_probe){.failure_threshold = 1, .success_threshold = 2};
    probe_count_reset(&c, PROBE_READINESS);
    CHECK_INT(c.verdict, PROBE_FAILURE);
    CHECK(!probe_count_add(&c, PROBE_READINESS, &spec, PROBE_SUCCESS));
    CHECK(probe_count_add(&c, PROBE_READINESS, &spec, PROBE_SUCCESS));
    CHECK(probe_count_add(&c, PROBE_READINESS, &spec, PROBE_FAILURE));
    CHECK(!c.on_hold);
}

/* ---- status ---- */

struct phase_case {
    const char *policy, *init,
        *main; /* states: R running, W waiting, B waiting after an end, 0 ended well, 1 ended badly */
    bool terminal;
    const char *phase;
};

static struct core_container_status made(struct arena *a, const char *name, char state) {
    struct core_container_status s = {.name = name};
    struct core_container_state_terminated *t = arena_zalloc(a, sizeof(*t));
    t->exit_code = state == '0' ? 0 : 1;
    if (state == 'R') s.state.running = arena_zalloc(a, sizeof(*s.state.running));
    if (state == 'W' || state == 'B') s.state.waiting = arena_zalloc(a, sizeof(*s.state.waiting));
    if (state == 'B') s.last_state.terminated = t;
    if (state == '0' || state == '1') s.state.terminated = t;
    return s;
}

static void add_containers(struct arena *a, const char *states, const char *prefix, struct core_container_vec *spec,
                           struct core_container_status_vec *status) {
    size_t n = strlen(states);
    spec->items = arena_zalloc(a, (n + 1) * sizeof(*spec->items));
    status->items = arena_zalloc(a, (n + 1) * sizeof(*status->items));
    for (size_t i = 0; i < n; i++) {
        const char *name = arena_printf(a, "%s%zu", prefix, i);
        spec->items[spec->n++].name = name;
        status->items[status->n++] = made(a, name, states[i]);
    }
}

TEST(phases_follow_the_containers) {
    static const struct phase_case cases[] = {
        {"Always", "", "R", false, "Running"},      {"Always", "", "W", false, "Pending"},
        {"Always", "", "RW", false, "Pending"},     {"Always", "", "RB", false, "Running"},
        {"Always", "", "B", false, "Running"},      {"Always", "", "1", false, "Running"},
        {"Always", "", "00", false, "Running"},     {"Never", "", "0", false, "Succeeded"},
        {"Never", "", "01", false, "Failed"},       {"Never", "", "R1", false, "Running"},
        {"OnFailure", "", "0", false, "Succeeded"}, {"OnFailure", "", "1", false, "Running"},
        {"OnFailure", "", "01", false, "Running"},  {"Always", "R", "W", false, "Pending"},
        {"Always", "0", "R", false, "Running"},     {"Always", "1", "W", false, "Pending"},
        {"Never", "1", "W", false, "Failed"},       {"Always", "", "00", true, "Succeeded"},
        {"Always", "", "01", true, "Failed"},       {"Always", "", "W", true, "Failed"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct arena *a = test_arena();
        struct core_pod p = {.spec = {.restart_policy = cases[i].policy}};
        struct core_pod_status s = {0};
        add_containers(a, cases[i].init, "i", &p.spec.init_containers, &s.init_container_statuses);
        add_containers(a, cases[i].main, "c", &p.spec.containers, &s.container_statuses);
        const char *got = status_phase(&p, &s, cases[i].terminal);
        if (!str_eq(got, cases[i].phase))
            TEST_FAIL("%s init=%s main=%s%s: %s, should be %s", cases[i].policy, cases[i].init, cases[i].main,
                      cases[i].terminal ? " terminal" : "", got, cases[i].phase);
    }
}

TEST(a_running_pod_has_its_conditions_and_addresses) {
    struct arena *a = test_arena();
    struct core_pod *p =
        pod(a,
            "{'metadata':{'name':'p','uid':'u','generation':3},'spec':{'containers':[{'name':'c','image':'i'}],"
            "'readinessGates':[{'conditionType':'x.y/z'}]},'status':{'conditions':[{'type':'x.y/z',"
            "'status':'False'}]}}");
    const char *ips[] = {"10.1.1.1"}, *host[] = {"192.0.2.1"};
    struct rt_sandbox sb = {.id = "s", .ready = true, .ips = ips, .n_ips = 1};
    struct rt_container c = {.id = "abc",
                             .name = "c",
                             .state = CRI_CONTAINER_STATE_CONTAINER_RUNNING,
                             .started_at = 5 * NS_PER_SEC,
                             .image = "i",
                             .image_ref = "sha256:1"};
    struct rt_pod rt = {&sb, 1, &c, 1};
    struct status_input in = {
        .pod = p, .rt = &rt, .host_ips = host, .n_host_ips = 1, .network_ready = true, .now = {100, 0, true}};
    struct core_pod_status s;
    status_compute(a, &in, &s);
    CHECK_STR(s.phase, "Running");
    CHECK_STR(s.pod_ip, "10.1.1.1");
    CHECK_STR(s.host_ip, "192.0.2.1");
    CHECK_STR(s.qos_class, "BestEffort");
    CHECK_INT(s.observed_generation, 3);
    CHECK_STR(s.container_statuses.items[0].container_id, "coracle://abc");
    CHECK_STR(status_cri_id("coracle://abc"), "abc");
    CHECK(s.container_statuses.items[0].ready);
    CHECK_STR(status_condition(&s, "ContainersReady")->status, "True");
    CHECK_STR(status_condition(&s, "Ready")->status, "False");
    CHECK_STR(status_condition(&s, "Ready")->reason, "ReadinessGatesNotReady");
    CHECK_STR(status_condition(&s, "Initialized")->status, "True");
    CHECK(status_condition(&s, "x.y/z") != NULL); /* others' conditions stay */
    /* The time of a transition does not move while nothing changes. */
    in.prev = &s;
    in.now.sec = 200;
    struct core_pod_status later;
    status_compute(a, &in, &later);
    CHECK_INT(status_condition(&later, "Initialized")->last_transition_time.sec, 100);
    /* And a patch of nothing is no patch; a patch of a change has the change only. */
    CHECK(status_patch(a, "u", &s, &later) == NULL);
    c.state = CRI_CONTAINER_STATE_CONTAINER_EXITED;
    c.exit_code = 2;
    status_compute(a, &in, &later);
    char *patch = status_patch(a, "u", &s, &later);
    CHECK(patch && strstr(patch, "\"containerStatuses\"") && !strstr(patch, "\"podIPs\"") && !strstr(patch, "x.y/z"));
}

TEST(a_note_shows_why_a_container_waits_and_keeps_its_end) {
    struct arena *a = test_arena();
    struct core_pod *p = pod(a, "{'metadata':{'name':'p','uid':'u'},'spec':{'containers':[{'name':'c','image':'i'}]}}");
    struct rt_container c = {
        .id = "abc", .name = "c", .state = CRI_CONTAINER_STATE_CONTAINER_EXITED, .exit_code = 1, .restart_count = 4};
    struct rt_pod rt = {NULL, 0, &c, 1};
    struct status_note note = {"c", "CrashLoopBackOff", "back-off"};
    struct status_input in = {.pod = p, .rt = &rt, .notes = &note, .n_notes = 1, .now = {100, 0, true}};
    struct core_pod_status s;
    status_compute(a, &in, &s);
    const struct core_container_status *cs = &s.container_statuses.items[0];
    CHECK_STR(cs->state.waiting ? cs->state.waiting->reason : NULL, "CrashLoopBackOff");
    CHECK(cs->last_state.terminated && cs->last_state.terminated->exit_code == 1);
    CHECK_INT(cs->restart_count, 4);
    CHECK_STR(s.phase, "Running");
}

TEST(qos_classes_and_cgroup_numbers) {
    struct arena *a = test_arena();
    CHECK_STR(pod_qos_class(pod(a, "{'spec':{'containers':[{'name':'c'}]}}")), "BestEffort");
    CHECK_STR(pod_qos_class(pod(a, "{'spec':{'containers':[{'name':'c','resources':{'requests':{'cpu':'1'}}}]}}")),
              "Burstable");
    struct core_pod *g =
        pod(a, "{'spec':{'containers':[{'name':'c','resources':{'limits':{'cpu':'1','memory':'1Gi'}}}]}}");
    CHECK_STR(pod_qos_class(g), "Guaranteed");
    CHECK_INT(oom_score_adj(g, &g->spec.containers.items[0], 1), -997);
    CHECK_INT(milli_to_shares(0), 2);
    CHECK_INT(milli_to_shares(500), 512);
    CHECK_INT(milli_to_quota(250, CFS_PERIOD_US), 25000);
    CHECK_INT(milli_to_quota(1, CFS_PERIOD_US), 1000);
    CHECK_INT(milli_to_quota(0, CFS_PERIOD_US), 0);
    struct core_pod *i = pod(a,
                             "{'spec':{'initContainers':[{'name':'a','resources':{'requests':{'cpu':'3'}}},"
                             "{'name':'s','restartPolicy':'Always','resources':{'requests':{'cpu':'1'}}}],"
                             "'containers':[{'name':'c','resources':{'requests':{'cpu':'1'}}}],"
                             "'overhead':{'cpu':'500m'}}}");
    CHECK_INT(quantity_milli(pod_resource(i, "cpu", false, NULL)), 3500);
}

TEST(a_container_runs_under_its_pods_limits_and_shares_its_memory) {
    struct arena *a = test_arena();
    struct core_pod *p = pod(a,
                             "{'spec':{'resources':{'requests':{'cpu':'1','memory':'300Mi'},"
                             "'limits':{'cpu':'2','memory':'400Mi'}},'initContainers':[{'name':'s',"
                             "'restartPolicy':'Always'}],'containers':[{'name':'c','resources':{'limits':"
                             "{'cpu':'500m'},'requests':{'memory':'100Mi'}}},{'name':'d'}]}}");
    const struct core_container *c = &p->spec.containers.items[0], *d = &p->spec.containers.items[1];
    CHECK_INT(quantity_milli(container_limit(p, c, "cpu")), 500);
    CHECK_INT(quantity_milli(container_limit(p, d, "cpu")), 2000);
    CHECK_INT(quantity_value(container_limit(p, c, "memory")), 400 << 20);
    CHECK_INT(container_shares(p, c), 512);
    CHECK_INT(container_shares(p, d), 2048);
    CHECK_INT(quantity_milli(pod_resource(p, "cpu", true, NULL)), 2000);
    /* of the 200Mi that no container asks for, each of the three gets a part */
    CHECK_INT(oom_score_adj(p, c, 1LL << 30), 1000 - (100 * 3 + 200) * 1000 / 3 / 1024);
    CHECK_INT(oom_score_adj(p, d, 1LL << 30), 1000 - 200 * 1000 / 3 / 1024);
    struct cri_linux_container_resources now = {
        .cpu_shares = 2048, .cpu_quota = 200000, .memory_limit_in_bytes = 400 << 20};
    struct rt_container rc = {.resources = &now, .cfs_period_us = CFS_PERIOD_US};
    CHECK_INT(container_resize_due(p, d, &rc), 0);
    now.cpu_quota = 100000;
    CHECK_INT(container_resize_due(p, d, &rc), RESIZE_CPU);
}

TEST(a_new_request_for_memory_restarts_a_container_that_asks_for_it) {
    struct arena *a = test_arena();
    struct core_pod *p = pod(a,
                             "{'spec':{'containers':[{'name':'c','resources':{'requests':{'memory':'1Mi'}},"
                             "'resizePolicy':[{'resourceName':'memory','restartPolicy':'RestartContainer'}]}]}}");
    struct cri_linux_container_resources now = {.cpu_shares = 2};
    struct rt_container rc = {.resources = &now, .cfs_period_us = CFS_PERIOD_US, .memory_request = "1048576"};
    CHECK_INT(container_resize_due(p, &p->spec.containers.items[0], &rc), 0);
    rc.memory_request = "2097152";
    CHECK_INT(container_resize_due(p, &p->spec.containers.items[0], &rc), RESIZE_MEMORY);
    p->spec.containers.items[0].resize_policy.n = 0;
    CHECK_INT(container_resize_due(p, &p->spec.containers.items[0], &rc), 0);
}

/* ---- images ---- */

TEST(image_names_and_policies) {
    struct arena *a = test_arena();
    CHECK_STR(images_default_tag(a, "busybox"), "busybox:latest");
    CHECK_STR(images_default_tag(a, "localhost:5000/x"), "localhost:5000/x:latest");
    CHECK_STR(images_default_tag(a, "a/b:1.0"), "a/b:1.0");
    CHECK_STR(images_default_tag(a, "a@sha256:00"), "a@sha256:00");
    static const char *const bad[] = {"", "Upper", "a b", "/x", "x/", "a:1 "};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) CHECK(!images_default_tag(a, bad[i]));
    struct core_container c = {.image = "x"};
    CHECK_STR(images_pull_policy(&c), "Always");
    c.image = "h:5000/x:1";
    CHECK_STR(images_pull_policy(&c), "IfNotPresent");
    c.image_pull_policy = "Never";
    CHECK_STR(images_pull_policy(&c), "Never");
}

TEST(credentials_are_found_by_the_images_registry) {
    struct arena *a = test_arena();
    static const char json[] =
        "{\"auths\":{\"https://index.docker.io/v1/\":{\"auth\":\"dTpw\"},\"r.example:5000/team\":{\"username\":\"t\","
        "\"password\":\"x\"},\"r.example:5000\":{\"username\":\"all\",\"password\":\"y\"},"
        "\"*.wild.io\":{\"username\":\"w\",\"password\":\"z\"}}}";
    struct cri_auth_config *c;
    CHECK_INT(images_credentials(a, json, strlen(json), false, "busybox:1", &c, 8), 1);
    CHECK_STR(c[0].username, "u");
    CHECK_STR(c[0].password, "p");
    CHECK_INT(images_credentials(a, json, strlen(json), false, "r.example:5000/team/app:1", &c, 8), 2);
    CHECK_STR(c[0].username, "t"); /* the longer match first */
    CHECK_INT(images_credentials(a, json, strlen(json), false, "r.example:5000/other:1", &c, 8), 1);
    CHECK_STR(c[0].username, "all");
    CHECK_INT(images_credentials(a, json, strlen(json), false, "a.wild.io/x", &c, 8), 1);
    CHECK_INT(images_credentials(a, json, strlen(json), false, "a.b.wild.io/x", &c, 8), 0);
    CHECK_INT(images_credentials(a, json, strlen(json), false, "other.io/x", &c, 8), 0);
}

/* ---- the rest ---- */

TEST(tokens_are_replaced_at_four_fifths_of_their_life) {
    CHECK_INT(volume_token_refresh_at(1000, 4600), 1000 + 2880);
    CHECK_INT(volume_token_refresh_at(0, 10 * 86400), 86400);
    int64_t i = 0, x = 0;
    CHECK(volume_token_times("e30.eyJpYXQiOjEwLCJleHAiOjIwfQ.c2ln", &i, &x));
    CHECK_INT(i, 10);
    CHECK_INT(x, 20);
    CHECK(!volume_token_times("nonsense", &i, &x));
}

TEST(reservations) {
    CHECK_INT(quantity_milli(node_reserved("cpu=200m,memory=1Gi", "cpu")), 200);
    CHECK_INT(quantity_value(node_reserved("cpu=200m,memory=1Gi", "memory")), 1 << 30);
    CHECK_INT(quantity_value(node_reserved(NULL, "memory")), 0);
}

TEST(a_manifest_becomes_a_pod_of_this_node) {
    struct arena *a = test_arena();
    struct kubelet kl = {.node_name = (char *)"n1"};
    static const char text[] =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: x}]\n";
    struct object *o = static_pod_parse(&kl, text, strlen(text), "/m/web.yaml", NULL);
    REQUIRE(o != NULL);
    const struct core_pod *p = o->obj;
    CHECK_STR(p->metadata.name, "web-n1");
    CHECK_STR(p->metadata.namespace, "default");
    CHECK_STR(p->spec.node_name, "n1");
    CHECK(pod_is_static(p) && !pod_is_mirror(p));
    CHECK_STR(p->metadata.uid, pod_annotation(p, ANNOT_CONFIG_HASH));
    const char *uid = arena_strdup(a, p->metadata.uid);
    object_unref(o);
    static const char other[] =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: z}]\n";
    o = static_pod_parse(&kl, other, strlen(other), "/m/web.yaml", NULL);
    CHECK(o && !str_eq(o->meta->uid, uid));
    object_unref(o);
    CHECK(!static_pod_parse(&kl, "kind: Service\napiVersion: v1\n", 29, "f", NULL));
    CHECK(!static_pod_parse(&kl, "{", 1, "f", NULL));
    test_arena();
}

TEST(a_configuration_file_sets_what_there_is_to_set) {
    struct arena *a = test_arena();
    const char *path = arena_printf(a, "%s/config.yaml", temp_dir(a));
    static const char text[] =
        "kind: KubeletConfiguration\napiVersion: kubelet.config.k8s.io/v1beta1\nstaticPodPath: "
        "/m\nclusterDNS: [10.0.0.1]\n"
        "authentication: {x509: {clientCAFile: /ca}, anonymous: {enabled: false}}\nmaxPods: 7\nevictionHard: "
        "{memory.available: 5%}\n"
        "systemReserved: {cpu: 100m, memory: 1Gi}\ncontainerLogMaxSize: 1Mi\nnodeStatusReportFrequency: 0s\n"
        "registerWithTaints: [{key: k, value: v, effect: NoSchedule}]\nshutdownGracePeriod: 0s\n";
    file_write_atomic(path, text, strlen(text), 0644);
    struct kubelet_config c;
    kubelet_config_init(&c);
    CHECK_INT(config_file_read(path, NULL, &c, NULL), 0);
    CHECK_STR(c.manifest_path, "/m");
    CHECK_STR(c.client_ca_file, "/ca");
    CHECK(c.cluster_dns.n == 1 && str_eq(c.cluster_dns.items[0], "10.0.0.1"));
    CHECK(c.taints.n == 1 && str_eq(c.taints.items[0], "k=v:NoSchedule"));
    CHECK_INT(c.max_pods, 7);
    CHECK_STR(c.eviction_hard, "memory.available<5%");
    CHECK_STR(c.system_reserved, "cpu=100m,memory=1Gi");
    CHECK_INT(c.log_max_size, 1 << 20);
    CHECK_INT(c.status_update_ns, 300 * NS_PER_SEC);
    CHECK_STR(c.cluster_domain, "cluster.local");
    file_write_atomic(path, "kind: KubeletConfiguration\nmaxPods: many\n", 41, 0644);
    CHECK_INT(config_file_read(path, NULL, &c, NULL), -EINVAL);
    CHECK_INT(config_file_read("/nonexistent", NULL, &c, NULL), -ENOENT);
    char *args[] = {(char *)"x", (char *)"--v=2", (char *)"--config", (char *)"/f", NULL};
    CHECK_STR(config_file_of("config", 4, args), "/f");
    free((void *)(uintptr_t)c.manifest_path);
    free((void *)(uintptr_t)c.client_ca_file);
    free((void *)(uintptr_t)c.eviction_hard);
    free((void *)(uintptr_t)c.system_reserved);
    flag_list_done(&c.cluster_dns);
    flag_list_done(&c.taints);
}

TEST(restart_policies_and_rules) {
    struct arena *a = test_arena();
    struct core_pod *p =
        pod(a,
            "{'spec':{'restartPolicy':'Never','containers':[{'name':'c','restartPolicy':'Never',"
            "'restartPolicyRules':[{'action':'Restart','exitCodes':{'operator':'In','values':[42]}}]},{'name':'d'}]}}");
    struct rt_container ended = {.state = CRI_CONTAINER_STATE_CONTAINER_EXITED, .exit_code = 42};
    CHECK(container_should_restart(p, &p->spec.containers.items[0], &ended));
    CHECK(!container_should_restart(p, &p->spec.containers.items[1], &ended));
    CHECK(container_should_restart(p, &p->spec.containers.items[1], NULL));
    p->spec.restart_policy = "OnFailure";
    CHECK(container_should_restart(p, &p->spec.containers.items[1], &ended));
    ended.exit_code = 0;
    CHECK(!container_should_restart(p, &p->spec.containers.items[1], &ended));
}

TEST(files_of_variables) {
    static const struct {
        const char *text, *key, *value; /* NULL: refused */
    } rows[] = {
        {"A='1'\nB='two words' # why\n", "B", "two words"},
        {"# A='0'\n\n  A='x$y\\n'\n", "A", "x$y\\n"},
        {"A='one\ntwo'\nB='3'", "A", "one\ntwo"},
        {"A='one\ntwo'\nB='3'", "B", "3"},
        {"A='1'\n", "C", ""},
        {"A= '1'\n", "A", ""},
        {"A='1'\r\nB='2'\r\n", "B", "2"},
        {"A=1\n", "A", NULL},
        {"A ='1'\n", "A", NULL},
        {"A='1\n", "A", NULL},
        {"A='1'x\n", "A", NULL},
        {"='1'\n", "A", NULL},
        {"A\n", "A", NULL},
    };
    struct arena *a = test_arena();
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const char *got = NULL;
        int r = env_file_value(a, arena_strdup(a, rows[i].text), rows[i].key, &got, NULL);
        CHECK_STR(r < 0 ? NULL : got, rows[i].value);
    }
    test_arena();
}
