#include "scheduler.h"

#include "pkg/api/meta.h"
#include "tests/test.h"

static struct sched *sched_for_test(void) {
    struct sched *s = xcalloc(1, sizeof(*s));
    s->name = "default-scheduler";
    s->names = arena_new();
    pthread_cond_init(&s->work, NULL);
    queue_init(s);
    return s;
}

static void sched_end(struct sched *s) {
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&s->pod_by_key, &it, &key, &v)) {
        queue_remove(s, v);
        cache_pod_free(s, v);
    }
    while (s->n_nodes) cache_node_gone(s, s->nodes[0]->name);
    map_done(&s->pod_by_key);
    map_done(&s->node_by_name);
    map_done(&s->owners);
    queue_done(s);
    free(s->nodes);
    free(s->anti_pods);
    free(s->prefer_pods);
    free(s->nominees);
    arena_free(s->names);
    free(s);
}

static struct object *from_json(const struct client_resource *r, const char *json) {
    struct arena *a = arena_new();
    void *obj = arena_zalloc(a, r->type->size);
    if (api_from_json(a, r->type, json, strlen(json), obj, NULL) < 0) abort();
    struct object *o = object_new(r, obj);
    arena_free(a);
    return o;
}

/* A node with 4 cores, 8 GiB and room for 10 pods, in a zone. */
static void node(struct sched *s, const char *name, const char *zone, const char *spec) {
    _cleanup_free_ char *json = xasprintf(
        "{\"metadata\":{\"name\":\"%s\",\"labels\":{\"zone\":\"%s\",\"kubernetes.io/hostname\":\"%s\"}},\"spec\":{%s},"
        "\"status\":{\"allocatable\":{\"cpu\":\"4\",\"memory\":\"8Gi\",\"pods\":\"10\",\"x.io/gpu\":\"1\"}}}",
        name, zone, name, spec);
    struct object *o = from_json(&client_nodes, json);
    cache_node_set(s, o);
    object_unref(o);
}

static struct sched_pod *pod(struct sched *s, const char *name, const char *on, const char *spec) {
    _cleanup_free_ char *json = xasprintf(
        "{\"metadata\":{\"name\":\"%s\",\"namespace\":\"d\",\"uid\":\"%s\",\"labels\":{\"app\":\"%s\"}},"
        "\"spec\":{%s}}",
        name, name, name, spec);
    struct object *o = from_json(&client_pods, json);
    struct sched_pod *sp = cache_pod_new(s, o);
    object_unref(o);
    sp->state = POD_CYCLE;
    if (on) {
        sp->state = POD_ASSIGNED;
        cache_pod_place(s, sp, cache_node(s, on));
    }
    return sp;
}

/* The verdict on one node, and the first reason. */
static enum verdict try(struct sched *s, struct sched_pod *sp, const char *on, char *reason, size_t len) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct cycle c = {.s = s, .a = a, .sp = sp, .p = sp->p};
    const char *reasons[EXT_MAX + 4];
    size_t n = 0;
    if (cycle_prepare(&c) < 0) abort();
    enum verdict v = filter_node(&c, cache_node(s, on), reasons, &n);
    snprintf(reason, len, "%s", n ? reasons[0] : "");
    cycle_done(&c);
    return v;
}
#define CPU(n) "\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"" n "\"}}}]"

TEST(a_pod_needs_the_larger_of_its_init_and_run_phases) {
    struct sched *s = sched_for_test();
    struct sched_pod *sp =
        pod(s, "p", NULL,
            "\"initContainers\":[{\"name\":\"side\",\"restartPolicy\":\"Always\","
            "\"resources\":{\"requests\":{\"cpu\":\"500m\"}}},{\"name\":\"i\","
            "\"resources\":{\"requests\":{\"cpu\":\"2\",\"memory\":\"1Gi\"}}}],\"overhead\":{\"cpu\":\"100m\"},"
            "\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"cpu\":\"1\",\"memory\":\"2Gi\"}}}]");
    CHECK_INT(sp->req.cpu, 2600);
    CHECK_INT(sp->req.mem, INT64_C(2) << 30);
    sched_end(s);
}

TEST(resources_in_use_and_too_big_requests_are_told_apart) {
    struct sched *s = sched_for_test();
    char why[200];
    node(s, "n1", "a", "");
    pod(s, "there", "n1", CPU("3"));
    CHECK_INT(try(s, pod(s, "small", NULL, CPU("1")), "n1", why, sizeof(why)), FIT);
    CHECK_INT(try(s, pod(s, "medium", NULL, CPU("2")), "n1", why, sizeof(why)), UNFIT);
    CHECK_STR(why, "Insufficient cpu");
    CHECK_INT(try(s, pod(s, "huge", NULL, CPU("5")), "n1", why, sizeof(why)), NEVER);
    CHECK_INT(
        try(s,
            pod(s, "gpu", NULL, "\"containers\":[{\"name\":\"c\",\"resources\":{\"requests\":{\"x.io/gpu\":\"2\"}}}]"),
            "n1", why, sizeof(why)),
        NEVER);
    CHECK_STR(why, "Insufficient x.io/gpu");
    sched_end(s);
}

TEST(a_node_takes_no_more_pods_than_it_says) {
    struct sched *s = sched_for_test();
    char why[200], name[8];
    node(s, "n1", "a", "");
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "p%d", i);
        pod(s, name, "n1", CPU("1m"));
    }
    CHECK_INT(try(s, pod(s, "one-more", NULL, CPU("1m")), "n1", why, sizeof(why)), UNFIT);
    CHECK_STR(why, "Too many pods");
    sched_end(s);
}

TEST(taints_selectors_and_cordons_refuse_for_good) {
    struct sched *s = sched_for_test();
    char why[200];
    node(s, "tainted", "a", "\"taints\":[{\"key\":\"k\",\"effect\":\"NoSchedule\"}]");
    node(s, "cordoned", "a", "\"unschedulable\":true");
    struct sched_pod *plain = pod(s, "plain", NULL, CPU("1"));
    CHECK_INT(try(s, plain, "tainted", why, sizeof(why)), NEVER);
    CHECK_STR(why, "node(s) had untolerated taint(s)");
    CHECK_INT(try(s, plain, "cordoned", why, sizeof(why)), NEVER);
    CHECK_STR(why, "node(s) were unschedulable");
    CHECK_INT(try(s, pod(s, "tolerant", NULL, CPU("1") ",\"tolerations\":[{\"operator\":\"Exists\"}]"), "tainted", why,
                  sizeof(why)),
              FIT);
    CHECK_INT(try(s,
                  pod(s, "picky", NULL,
                      CPU("1") ",\"nodeSelector\":{\"zone\":\"b\"},\"tolerations\":[{\"operator\":\"Exists\"}]"),
                  "tainted", why, sizeof(why)),
              NEVER);
    CHECK_STR(why, "node(s) didn't match Pod's node affinity/selector");
    sched_end(s);
}

#define PORT(ip) \
    "\"containers\":[{\"name\":\"c\",\"ports\":[{\"containerPort\":80,\"hostPort\":80,\"hostIP\":\"" ip "\"}]}]"
TEST(host_ports_conflict_unless_addresses_differ) {
    struct sched *s = sched_for_test();
    char why[200];
    node(s, "n1", "a", "");
    pod(s, "there", "n1", PORT("10.0.0.1"));
    CHECK_INT(try(s, pod(s, "other", NULL, PORT("10.0.0.2")), "n1", why, sizeof(why)), FIT);
    CHECK_INT(try(s, pod(s, "any", NULL, PORT("")), "n1", why, sizeof(why)), UNFIT);
    sched_end(s);
}

#define TERMS(kind, app)                                                                                    \
    "\"affinity\":{\"" kind                                                                                 \
    "\":{\"requiredDuringSchedulingIgnoredDuringExecution\":[{\"labelSelector\":{\"matchLabels\":{\"app\":" \
    "\"" app "\"}},\"topologyKey\":\"zone\"}]}}"
TEST(pod_affinity_and_anti_affinity_work_in_both_directions) {
    struct sched *s = sched_for_test();
    char why[200];
    node(s, "a1", "a", "");
    node(s, "a2", "a", "");
    node(s, "b1", "b", "");
    pod(s, "db", "a1", CPU("1"));
    struct sched_pod *near = pod(s, "near", NULL, CPU("1") "," TERMS("podAffinity", "db"));
    CHECK_INT(try(s, near, "a2", why, sizeof(why)), FIT);
    CHECK_INT(try(s, near, "b1", why, sizeof(why)), NEVER);
    struct sched_pod *far = pod(s, "far", NULL, CPU("1") "," TERMS("podAntiAffinity", "db"));
    CHECK_INT(try(s, far, "a2", why, sizeof(why)), UNFIT);
    CHECK_INT(try(s, far, "b1", why, sizeof(why)), FIT);
    pod(s, "hermit", "b1", CPU("1") "," TERMS("podAntiAffinity", "guest"));
    struct sched_pod *guest = pod(s, "guest", NULL, CPU("1"));
    CHECK_INT(try(s, guest, "b1", why, sizeof(why)), UNFIT);
    CHECK_STR(why, "node(s) didn't satisfy existing pods anti-affinity rules");
    CHECK_INT(try(s, guest, "a1", why, sizeof(why)), FIT);
    /* the first of a group that wants to be together may start anywhere */
    CHECK_INT(try(s, pod(s, "group", NULL, CPU("1") "," TERMS("podAffinity", "group")), "b1", why, sizeof(why)), FIT);
    sched_end(s);
}

TEST(topology_spread_keeps_the_skew) {
    struct sched *s = sched_for_test();
    char why[200];
    node(s, "a1", "a", "");
    node(s, "b1", "b", "");
    const char *spread = CPU("1m") ",\"topologySpreadConstraints\":[{\"maxSkew\":1,\"topologyKey\":\"zone\",\"whenUnsatisfiable\":\"DoNotSchedule\","
                         "\"labelSelector\":{\"matchExpressions\":[{\"key\":\"app\",\"operator\":\"Exists\"}]}}]";
    pod(s, "one", "a1", CPU("1m"));
    struct sched_pod *sp = pod(s, "two", NULL, spread);
    CHECK_INT(try(s, sp, "a1", why, sizeof(why)), UNFIT);
    CHECK_STR(why, "node(s) didn't match pod topology spread constraints");
    CHECK_INT(try(s, sp, "b1", why, sizeof(why)), FIT);
    sched_end(s);
}

TEST(room_promised_to_a_preemptor_is_taken) {
    struct sched *s = sched_for_test();
    char why[200];
    node(s, "n1", "a", "");
    struct sched_pod *important = pod(s, "important", NULL, CPU("3") ",\"priority\":10");
    cache_nominate(s, important, cache_node(s, "n1"));
    CHECK_INT(try(s, pod(s, "late", NULL, CPU("2")), "n1", why, sizeof(why)), UNFIT);
    CHECK_INT(try(s, pod(s, "more", NULL, CPU("2") ",\"priority\":20"), "n1", why, sizeof(why)), FIT);
    CHECK_INT(try(s, important, "n1", why, sizeof(why)), FIT);
    sched_end(s);
}

TEST(the_emptier_node_scores_higher) {
    struct sched *s = sched_for_test();
    _cleanup_arena_ struct arena *a = arena_new();
    node(s, "full", "a", "");
    node(s, "empty", "a", "");
    pod(s, "there", "full", CPU("3"));
    struct sched_pod *sp = pod(s, "p", NULL, CPU("500m"));
    struct cycle c = {.s = s, .a = a, .sp = sp, .p = sp->p};
    struct sched_node *nodes[] = {cache_node(s, "full"), cache_node(s, "empty")};
    int64_t scores[2];
    cycle_prepare(&c);
    cycle_prepare_scores(&c);
    score_nodes(&c, nodes, 2, scores);
    CHECK(scores[1] > scores[0]);
    cycle_done(&c);
    sched_end(s);
}

TEST(urgent_pods_come_first_then_older_ones) {
    struct sched *s = sched_for_test();
    int64_t wait;
    queue_push(s, pod(s, "first", NULL, CPU("1")));
    queue_push(s, pod(s, "second", NULL, CPU("1")));
    queue_push(s, pod(s, "urgent", NULL, CPU("1") ",\"priority\":5"));
    CHECK_STR(queue_pop(s, &wait)->o->meta->name, "urgent");
    CHECK_STR(queue_pop(s, &wait)->o->meta->name, "first");
    CHECK_STR(queue_pop(s, &wait)->o->meta->name, "second");
    CHECK(!queue_pop(s, &wait));
    sched_end(s);
}

TEST(a_refused_pod_waits_for_an_event_and_then_backs_off) {
    struct sched *s = sched_for_test();
    int64_t wait;
    queue_push(s, pod(s, "p", NULL, CPU("1")));
    struct sched_pod *sp = queue_pop(s, &wait);
    queue_fail(s, sp);
    CHECK_INT(sp->state, POD_WAITING);
    CHECK(!queue_pop(s, &wait));
    CHECK_INT(wait, -1);
    queue_move_all(s);
    CHECK_INT(sp->state, POD_BACKOFF);
    CHECK(!queue_pop(s, &wait));
    CHECK(wait > 0 && wait <= NS_PER_SEC);
    sched_end(s);
}

TEST(an_event_during_the_cycle_is_not_lost) {
    struct sched *s = sched_for_test();
    int64_t wait;
    queue_push(s, pod(s, "p", NULL, CPU("1")));
    struct sched_pod *sp = queue_pop(s, &wait);
    queue_move_all(s);
    queue_fail(s, sp);
    CHECK_INT(sp->state, POD_BACKOFF);
    sched_end(s);
}

TEST(counts_of_a_controllers_pods_follow_nodes_that_go) {
    struct sched *s = sched_for_test();
    node(s, "gone", "a", "");
    node(s, "stays", "a", "");
    struct object *o = from_json(&client_pods,
                                 "{\"metadata\":{\"name\":\"x\",\"namespace\":\"d\","
                                 "\"ownerReferences\":[{\"uid\":\"u\",\"controller\":true}]},\"spec\":{}}");
    struct sched_pod *sp = cache_pod_new(s, o);
    object_unref(o);
    sp->state = POD_ASSIGNED;
    cache_pod_place(s, sp, cache_node(s, "stays"));
    cache_node_gone(s, "gone");
    REQUIRE(sp->owner);
    CHECK_INT(cache_node(s, "stays")->index, 0);
    CHECK_INT(sp->owner->by_node[0], 1);
    sched_end(s);
}
