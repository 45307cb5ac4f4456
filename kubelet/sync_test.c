/* The pod state machine against the runtime in memory: what a pod's worker does as the world changes. No API
 * server. */
#include "kubelet/pods.h"
#include "kubelet/run.h"
#include "kubelet/runtime_fake.h"
#include "pkg/json/json.h"
#include "tests/test.h"

struct world {
    struct kubelet *kl;
    struct runtime *rt;
};

static struct world world_new(void) {
    struct kubelet_config c;
    kubelet_config_init(&c);
    struct world w = {.rt = runtime_fake_new()};
    w.kl = kubelet_new(&c, "node-1", NULL, w.rt, true);
    struct err e = {0};
    CHECK_INT(kubelet_start(w.kl, &e), 0);
    err_done(&e);
    return w;
}

static void world_free(struct world *w) {
    kubelet_free(w->kl);
    runtime_free(w->rt);
}

/* A pod from the JSON of its spec, with single quotes for double ones. */
static struct object *pod_of(const char *name, const char *spec, const char *extra_meta) {
    _cleanup_arena_ struct arena *a = arena_new();
    char *text = arena_printf(a,
                              "{'metadata':{'name':'%s','namespace':'default','uid':'uid-%s'%s},'spec':%s,"
                              "'status':{'phase':'Pending'}}",
                              name, name, extra_meta, spec);
    for (char *s = text; *s; s++)
        if (*s == '\'') *s = '"';
    struct core_pod p = {0};
    struct err e = {0};
    if (api_from_json(a, &api_core_pod, text, strlen(text), &p, &e) < 0) TEST_FAIL("%s", e.msg);
    err_done(&e);
    return object_new(&client_pods, &p);
}

static void put(struct world *w, const char *name, const char *spec) {
    struct object *o = pod_of(name, spec, "");
    pods_update(w->kl->pods, o);
    object_unref(o);
}

typedef bool cond_fn(const struct core_pod_status *s, const void *arg);

/* Waits (at most a minute) until the pod's status fulfils the condition. */
static bool wait_status(struct world *w, const char *name, cond_fn *ok, const void *arg) {
    for (int i = 0; i < 12000; i++) {
        struct pod_worker *p = pods_by_name(w->kl->pods, "default", name);
        _cleanup_arena_ struct arena *a = arena_new();
        struct core_pod_status *s = p ? worker_status(p, a) : NULL;
        worker_unref(p);
        if (s && ok(s, arg)) return true;
        usleep(5000);
    }
    return false;
}

static bool phase_is(const struct core_pod_status *s, const void *arg) { return str_eq(s->phase, arg); }
static bool is_ready(const struct core_pod_status *s, const void *arg) {
    const struct core_pod_condition *c = status_condition(s, "Ready");
    return c && str_eq(c->status, "True");
}
static bool waits_for(const struct core_pod_status *s, const void *arg) {
    for (size_t i = 0; i < s->container_statuses.n; i++)
        if (s->container_statuses.items[i].state.waiting &&
            str_eq(s->container_statuses.items[i].state.waiting->reason, arg))
            return true;
    return false;
}
static bool restarted_once(const struct core_pod_status *s, const void *arg) {
    return s->container_statuses.n && s->container_statuses.items[0].restart_count == 1 &&
           s->container_statuses.items[0].state.running;
}
static bool restarted(const struct core_pod_status *s, const void *arg) {
    return s->container_statuses.n && s->container_statuses.items[0].restart_count >= 1;
}
static bool never_restarted(const struct core_pod_status *s, const void *arg) {
    return s->container_statuses.n && s->container_statuses.items[0].restart_count == 0;
}
static bool second_running(const struct core_pod_status *s, const void *arg) {
    return s->container_statuses.n && s->container_statuses.items[0].state.running;
}
static bool init_runs(const struct core_pod_status *s, const void *arg) {
    for (size_t i = 0; i < s->init_container_statuses.n; i++)
        if (str_eq(s->init_container_statuses.items[i].name, arg) && s->init_container_statuses.items[i].state.running)
            return true;
    return false;
}

static bool wait_gone(struct world *w, const char *name) {
    for (int i = 0; i < 12000; i++) {
        struct pod_worker *p = pods_by_name(w->kl->pods, "default", name);
        worker_unref(p);
        if (!p) return true;
        usleep(5000);
    }
    return false;
}

TEST(a_pod_with_one_container_runs_and_is_ready) {
    struct world w = world_new();
    put(&w, "web", "{'containers':[{'name':'c','image':'img:1'}]}");
    CHECK(wait_status(&w, "web", is_ready, NULL));
    CHECK(wait_status(&w, "web", phase_is, "Running"));
    CHECK_INT(runtime_fake_count(w.rt, "web", "c"), 1);
    world_free(&w);
}

TEST(init_containers_run_in_order_before_the_main_one) {
    struct world w = world_new();
    put(&w, "p",
        "{'initContainers':[{'name':'a','image':'i:1'},{'name':'b','image':'i:1'}],'containers':[{'name':'c',"
        "'image':'i:1'}]}");
    CHECK(wait_status(&w, "p", init_runs, "a"));
    CHECK_INT(runtime_fake_count(w.rt, "p", "b"), 0);
    CHECK(runtime_fake_exit(w.rt, "p", "a", 0, NULL));
    CHECK(wait_status(&w, "p", init_runs, "b"));
    CHECK_INT(runtime_fake_count(w.rt, "p", "c"), 0);
    CHECK(runtime_fake_exit(w.rt, "p", "b", 0, NULL));
    CHECK(wait_status(&w, "p", phase_is, "Running"));
    CHECK_INT(runtime_fake_count(w.rt, "p", "a"), 1);
    world_free(&w);
}

TEST(a_failed_init_container_of_a_pod_that_never_restarts_fails_it) {
    struct world w = world_new();
    put(&w, "p",
        "{'restartPolicy':'Never','initContainers':[{'name':'a','image':'i:1'}],'containers':[{'name':'c',"
        "'image':'i:1'}]}");
    CHECK(wait_status(&w, "p", init_runs, "a"));
    runtime_fake_exit(w.rt, "p", "a", 3, NULL);
    CHECK(wait_status(&w, "p", phase_is, "Failed"));
    CHECK_INT(runtime_fake_count(w.rt, "p", "c"), 0);
    world_free(&w);
}

TEST(a_sidecar_starts_before_and_runs_beside_the_main_container) {
    struct world w = world_new();
    put(&w, "p",
        "{'initContainers':[{'name':'side','image':'i:1','restartPolicy':'Always'}],'containers':[{'name':'c',"
        "'image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    CHECK(wait_status(&w, "p", init_runs, "side"));
    world_free(&w);
}

TEST(the_end_of_the_main_container_ends_sidecars_and_the_pod) {
    struct world w = world_new();
    put(&w, "p",
        "{'restartPolicy':'Never','initContainers':[{'name':'side','image':'i:1','restartPolicy':'Always'}],"
        "'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    runtime_fake_exit(w.rt, "p", "c", 0, NULL);
    CHECK(wait_status(&w, "p", phase_is, "Succeeded"));
    for (int i = 0; i < 12000 && runtime_fake_exit(w.rt, "p", "side", 0, NULL); i++) usleep(5000);
    CHECK(!runtime_fake_exit(w.rt, "p", "side", 0, NULL));
    world_free(&w);
}

static bool all_restarted(const struct core_pod_status *s, const void *arg) {
    bool all = s->container_statuses.n == 2 && s->init_container_statuses.n == 1;
    for (size_t i = 0; all && i < 2; i++) {
        const struct core_container_status *c = &s->container_statuses.items[i];
        all = c->state.running && c->restart_count == 1 && c->last_state.terminated &&
              str_eq(c->last_state.terminated->reason, "RestartingAllContainers");
    }
    const struct core_pod_condition *c = status_condition(s, "AllContainersRestarting");
    return all && s->init_container_statuses.items[0].restart_count == 1 && str_eq(s->phase, "Running") && c &&
           str_eq(c->status, "False");
}

TEST(a_rule_may_restart_all_containers_of_the_pod) {
    struct world w = world_new();
    put(&w, "p",
        "{'restartPolicy':'Never','initContainers':[{'name':'i','image':'i:1'}],'containers':[{'name':'c',"
        "'image':'i:1','restartPolicy':'Never','restartPolicyRules':[{'action':'RestartAllContainers',"
        "'exitCodes':{'operator':'In','values':[42]}}]},{'name':'d','image':'i:1'}]}");
    for (int i = 0; i < 12000 && !runtime_fake_exit(w.rt, "p", "i", 0, NULL); i++) usleep(5000);
    CHECK(wait_status(&w, "p", is_ready, NULL));
    runtime_fake_exit(w.rt, "p", "c", 42, NULL);
    for (int i = 0; i < 12000 && !runtime_fake_exit(w.rt, "p", "i", 0, NULL); i++) usleep(5000);
    CHECK(wait_status(&w, "p", all_restarted, NULL));
    runtime_fake_exit(w.rt, "p", "c", 41, NULL); /* no rule, and its policy is Never */
    runtime_fake_exit(w.rt, "p", "d", 0, NULL);
    CHECK(wait_status(&w, "p", phase_is, "Failed"));
    world_free(&w);
}

TEST(a_rule_restarts_a_container_whose_policy_does_not) {
    struct world w = world_new();
    put(&w, "p",
        "{'restartPolicy':'Never','containers':[{'name':'c','image':'i:1','restartPolicy':'Never',"
        "'restartPolicyRules':[{'action':'Restart','exitCodes':{'operator':'NotIn','values':[0,1]}}]}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    runtime_fake_exit(w.rt, "p", "c", 7, NULL);
    CHECK(wait_status(&w, "p", restarted_once, NULL));
    CHECK(wait_status(&w, "p", is_ready, NULL));
    runtime_fake_exit(w.rt, "p", "c", 1, NULL);
    CHECK(wait_status(&w, "p", phase_is, "Failed"));
    world_free(&w);
}

TEST(a_container_that_ends_is_restarted_at_once_and_then_backs_off) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", second_running, NULL));
    runtime_fake_exit(w.rt, "p", "c", 1, NULL);
    CHECK(wait_status(&w, "p", restarted_once, NULL));
    runtime_fake_exit(w.rt, "p", "c", 1, NULL);
    CHECK(wait_status(&w, "p", waits_for, "CrashLoopBackOff"));
    CHECK(wait_status(&w, "p", phase_is, "Running"));
    CHECK_INT(runtime_fake_count(w.rt, "p", "c"), 1); /* one dead instance is kept, older ones are collected */
    world_free(&w);
}

TEST(restart_policy_never_gives_succeeded_or_failed) {
    struct world w = world_new();
    put(&w, "ok", "{'restartPolicy':'Never','containers':[{'name':'c','image':'i:1'}]}");
    put(&w, "bad", "{'restartPolicy':'Never','containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "ok", second_running, NULL));
    CHECK(wait_status(&w, "bad", second_running, NULL));
    runtime_fake_exit(w.rt, "ok", "c", 0, NULL);
    runtime_fake_exit(w.rt, "bad", "c", 7, NULL);
    CHECK(wait_status(&w, "ok", phase_is, "Succeeded"));
    CHECK(wait_status(&w, "bad", phase_is, "Failed"));
    CHECK_INT(runtime_fake_count(w.rt, "ok", "c"), 1);
    world_free(&w);
}

TEST(an_image_that_cannot_be_pulled_backs_off) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'missing:1'}]}");
    CHECK(wait_status(&w, "p", waits_for, "ErrImagePull"));
    pods_wake(w.kl->pods, "uid-p");
    CHECK(wait_status(&w, "p", waits_for, "ImagePullBackOff"));
    put(&w, "n", "{'containers':[{'name':'c','image':'other:1','imagePullPolicy':'Never'}]}");
    CHECK(wait_status(&w, "n", waits_for, "ErrImageNeverPull"));
    put(&w, "i", "{'containers':[{'name':'c','image':'Bad Name'}]}");
    CHECK(wait_status(&w, "i", waits_for, "InvalidImageName"));
    world_free(&w);
}

TEST(a_missing_config_map_is_a_configuration_error) {
    struct world w = world_new();
    put(&w, "p",
        "{'containers':[{'name':'c','image':'i:1','env':[{'name':'A','valueFrom':{'configMapKeyRef':{'name':'x',"
        "'key':'k'}}}]}]}");
    CHECK(wait_status(&w, "p", waits_for, "CreateContainerConfigError"));
    world_free(&w);
}

TEST(a_removed_pod_is_stopped_and_forgotten) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    pods_remove(w.kl->pods, "uid-p", NULL);
    CHECK(wait_gone(&w, "p"));
    CHECK_INT(runtime_fake_count(w.rt, "p", "c"), 0);
    CHECK(runtime_fake_calls(w.rt, RT_REMOVE_POD_SANDBOX) == 1);
    world_free(&w);
}

TEST(a_deleted_pod_stops_its_containers_and_keeps_nothing_running) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    struct object *o = pod_of("p", "{'containers':[{'name':'c','image':'i:1'}]}",
                              ",'deletionTimestamp':'2026-01-01T00:00:00Z','deletionGracePeriodSeconds':1");
    pods_update(w.kl->pods, o);
    CHECK(wait_status(&w, "p", phase_is, "Succeeded"));
    CHECK_INT(runtime_fake_calls(w.rt, RT_STOP_CONTAINER), 1);
    pods_remove(w.kl->pods, "uid-p", o);
    CHECK(wait_gone(&w, "p"));
    object_unref(o);
    world_free(&w);
}

TEST(a_lost_sandbox_is_made_anew) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    runtime_fake_kill_sandbox(w.rt, "p");
    CHECK(wait_status(&w, "p", restarted_once, NULL));
    CHECK(runtime_fake_calls(w.rt, RT_RUN_POD_SANDBOX) == 2);
    world_free(&w);
}

TEST(a_failing_liveness_probe_restarts_the_container) {
    struct world w = world_new();
    runtime_fake_exec_result(w.rt, 1);
    put(&w, "p",
        "{'containers':[{'name':'c','image':'i:1','livenessProbe':{'exec':{'command':['x']},'periodSeconds':1,"
        "'failureThreshold':1,'successThreshold':1,'timeoutSeconds':1}}]}");
    CHECK(wait_status(&w, "p", restarted, NULL));
    world_free(&w);
}

TEST(a_readiness_probe_decides_readiness) {
    struct world w = world_new();
    runtime_fake_exec_result(w.rt, 1);
    put(&w, "p",
        "{'containers':[{'name':'c','image':'i:1','readinessProbe':{'exec':{'command':['x']},'periodSeconds':1,"
        "'failureThreshold':1,'successThreshold':1,'timeoutSeconds':1}}]}");
    CHECK(wait_status(&w, "p", second_running, NULL));
    usleep(100000);
    struct pod_worker *p = pods_by_name(w.kl->pods, "default", "p");
    REQUIRE(p != NULL);
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK(!is_ready(worker_status(p, a), NULL));
    worker_unref(p);
    runtime_fake_exec_result(w.rt, 0);
    CHECK(wait_status(&w, "p", is_ready, NULL));
    world_free(&w);
}

TEST(pods_beyond_the_nodes_resources_are_rejected) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1','resources':{'requests':{'cpu':'100'}}}]}");
    CHECK(wait_status(&w, "p", phase_is, "Failed"));
    struct pod_worker *p = pods_by_name(w.kl->pods, "default", "p");
    CHECK_STR(p ? p->forced_reason : NULL, "OutOfcpu");
    worker_unref(p);
    world_free(&w);
}

TEST(the_active_deadline_ends_a_pod) {
    struct world w = world_new();
    put(&w, "p", "{'activeDeadlineSeconds':1,'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    CHECK(wait_status(&w, "p", phase_is, "Failed"));
    world_free(&w);
}

TEST(a_new_kubelet_recognises_containers_that_run) {
    struct world w = world_new();
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", is_ready, NULL));
    unsigned made = runtime_fake_calls(w.rt, RT_CREATE_CONTAINER);
    struct kubelet_config c = w.kl->cfg;
    struct world second = {kubelet_new(&c, "node-1", NULL, w.rt, true), w.rt};
    put(&second, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&second, "p", is_ready, NULL));
    CHECK_INT(runtime_fake_calls(w.rt, RT_CREATE_CONTAINER), made);
    kubelet_free(second.kl);
    world_free(&w);
}

TEST(a_container_that_never_started_is_not_counted_as_a_restart) {
    struct world w = world_new();
    runtime_fake_fail(w.rt, RT_START_CONTAINER, -EIO);
    put(&w, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&w, "p", waits_for, "RunContainerError"));
    struct kubelet_config c = w.kl->cfg;
    struct world second = {kubelet_new(&c, "node-1", NULL, w.rt, true), w.rt};
    runtime_fake_fail(w.rt, RT_START_CONTAINER, 0);
    put(&second, "p", "{'containers':[{'name':'c','image':'i:1'}]}");
    CHECK(wait_status(&second, "p", is_ready, NULL));
    CHECK(wait_status(&second, "p", never_restarted, NULL));
    CHECK_INT(runtime_fake_count(w.rt, "p", "c"), 1);
    kubelet_free(second.kl);
    world_free(&w);
}
