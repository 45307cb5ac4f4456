#include "hpa.h"
#include "tests/test.h"

/* ---- from samples to replicas ---- */

enum { PODS_MAX = 8 };
struct fixture {
    struct arena *a;
    struct core_pod pods[PODS_MAX];
    const struct core_pod *list[PODS_MAX];
    struct hpa_sample samples[PODS_MAX];
    struct core_container containers[PODS_MAX];
    struct core_pod_condition ready[PODS_MAX];
    struct str_map_entry requests[PODS_MAX];
    struct hpa_calc calc;
    struct hpa_samples s;
};

static struct ktime at(int64_t s) { return ktime_from_unix_ns(s * NS_PER_SEC); }

/* Running, ready pods that started an hour ago, each with a request of 1 CPU; usage in thousandths, -1: no sample. */
static void pods(struct fixture *f, size_t n, const int64_t *usage, int32_t percent) {
    *f = (struct fixture){.a = arena_new()};
    f->calc = (struct hpa_calc){.pods = f->list,
                                .n_pods = n,
                                .resource = "cpu",
                                .current = (int32_t)n,
                                .target = percent,
                                .utilization = true,
                                .tolerance = {0.1, 0.1},
                                .cpu_initialization_ns = 300 * NS_PER_SEC,
                                .readiness_delay_ns = 30 * NS_PER_SEC,
                                .now = at(10000)};
    f->s.items = f->samples;
    for (size_t i = 0; i < n; i++) {
        struct core_pod *p = &f->pods[i];
        f->list[i] = p;
        p->metadata.name = arena_printf(f->a, "pod-%zu", i);
        p->status.phase = "Running";
        p->status.start_time = at(6400);
        f->ready[i] = (struct core_pod_condition){.type = "Ready", .status = "True", .last_transition_time = at(6410)};
        p->status.conditions = (struct core_pod_condition_vec){&f->ready[i], 1};
        f->requests[i] = (struct str_map_entry){"cpu", "1"};
        f->containers[i].name = "c";
        f->containers[i].resources.requests = (struct str_map){&f->requests[i], 1};
        p->spec.containers = (struct core_container_vec){&f->containers[i], 1};
        if (usage[i] >= 0)
            f->samples[f->s.n++] = (struct hpa_sample){p->metadata.name, usage[i], at(9990), 15 * NS_PER_SEC};
    }
}

static int32_t wished(struct fixture *f) {
    struct hpa_count n = {0};
    struct err e = {0};
    int r = hpa_replicas_by_pods(f->a, &f->calc, &f->s, &n, &e);
    err_done(&e);
    return r < 0 ? r : n.replicas;
}

static void drop(struct fixture *f) { arena_free(f->a); }

TEST(twice_the_target_doubles) {
    struct fixture f;
    pods(&f, 3, (const int64_t[]){1000, 1000, 1000}, 50);
    CHECK_INT(wished(&f), 6);
    drop(&f);
}

TEST(usage_within_the_tolerance_changes_nothing) {
    struct fixture f;
    pods(&f, 3, (const int64_t[]){540, 550, 560}, 50);
    CHECK_INT(wished(&f), 3);
    f.calc.tolerance.up = 0.01;
    CHECK_INT(wished(&f), 4);
    drop(&f);
}

TEST(utilization_and_mean_are_told) {
    struct fixture f;
    pods(&f, 2, (const int64_t[]){300, 500}, 100);
    struct hpa_count n;
    CHECK_INT(hpa_replicas_by_pods(f.a, &f.calc, &f.s, &n, NULL), 0);
    CHECK_INT(n.utilization, 40);
    CHECK_INT(n.usage, 400);
    CHECK_INT(n.replicas, 1);
    drop(&f);
}

TEST(missing_samples_count_as_idle_on_the_way_up) {
    struct fixture f;
    pods(&f, 4, (const int64_t[]){1000, 1000, -1, -1}, 25); /* 2000 of 4000: 50%, twice the target */
    CHECK_INT(wished(&f), 8);
    drop(&f);
    pods(&f, 2, (const int64_t[]){800, -1}, 50); /* would be idle enough to shrink: no change */
    CHECK_INT(wished(&f), 2);
    drop(&f);
}

TEST(missing_samples_count_as_busy_on_the_way_down) {
    struct fixture f;
    pods(&f, 4, (const int64_t[]){100, 100, 100, -1}, 50); /* (300 + 1000) / 4000 = 32% of 50% */
    CHECK_INT(wished(&f), 3);
    drop(&f);
}

TEST(pods_that_start_do_not_count) {
    struct fixture f;
    pods(&f, 2, (const int64_t[]){1000, 5000}, 50);
    f.pods[1].status.start_time = at(9950);
    f.ready[1].status = "False";
    CHECK_INT(wished(&f), 2); /* 1000 of 2000 is the target */
    f.pods[1].status.phase = "Pending";
    CHECK_INT(wished(&f), 2);
    drop(&f);
}

TEST(a_container_without_a_request_is_an_error) {
    struct fixture f;
    pods(&f, 2, (const int64_t[]){100, 100}, 50);
    f.containers[1].resources.requests.n = 0;
    struct err e = {0};
    struct hpa_count n;
    CHECK_INT(hpa_replicas_by_pods(f.a, &f.calc, &f.s, &n, &e), -EINVAL);
    CHECK_STR(e.msg, "missing request for cpu in container c of Pod pod-1");
    err_done(&e);
    drop(&f);
}

TEST(no_usable_samples_is_an_error) {
    struct fixture f;
    pods(&f, 1, (const int64_t[]){-1}, 50);
    CHECK_INT(wished(&f), -EINVAL);
    f.calc.n_pods = 0;
    CHECK_INT(wished(&f), -EINVAL);
    drop(&f);
}

TEST(values_per_pod_need_no_request) {
    struct fixture f;
    pods(&f, 2, (const int64_t[]){30000, 50000}, 0);
    f.calc.utilization = false;
    f.calc.resource = NULL;
    f.calc.target = 20000;
    CHECK_INT(wished(&f), 4);
    drop(&f);
}

TEST(one_value_for_all_pods) {
    struct fixture f;
    pods(&f, 3, (const int64_t[]){0, 0, 0}, 0);
    CHECK_INT(hpa_replicas_by_ratio(&f.calc, 2.0), 6);
    CHECK_INT(hpa_replicas_by_ratio(&f.calc, 1.05), 3);
    f.calc.target = 10000;
    CHECK_INT(hpa_replicas_by_share(&f.calc, 65000, 3), 7);
    CHECK_INT(hpa_replicas_by_share(&f.calc, 31000, 3), 3);
    CHECK_INT(hpa_replicas_by_share(&f.calc, INT64_MAX, 3), INT32_MAX);
    drop(&f);
}

/* ---- limits ---- */

#define S NS_PER_SEC
static const struct hpa_limits plain = {2, 20, NULL, 300 * NS_PER_SEC};

TEST(without_a_behavior_at_most_double) {
    struct hpa_history h = {0};
    struct hpa_verdict v;
    hpa_limit(&h, &plain, 3, 15, 0, &v);
    CHECK_INT(v.replicas, 6);
    CHECK(v.limited);
    CHECK_STR(v.limit_reason, "ScaleUpLimit");
    hpa_limit(&h, &plain, 15, 40, 1, &v);
    CHECK_INT(v.replicas, 20);
    CHECK_STR(v.limit_reason, "TooManyReplicas");
    hpa_history_done(&h);
}

TEST(down_only_after_five_quiet_minutes) {
    struct hpa_history h = {0};
    struct hpa_verdict v;
    hpa_history_start(&h, 8, 0);
    hpa_limit(&h, &plain, 8, 3, 15 * S, &v);
    CHECK_INT(v.replicas, 8);
    CHECK_STR(v.able_reason, "ScaleDownStabilized");
    CHECK(!v.limited);
    hpa_limit(&h, &plain, 8, 1, 301 * S, &v); /* the wish of 3 is 286 s old */
    CHECK_INT(v.replicas, 3);
    hpa_limit(&h, &plain, 3, 1, 700 * S, &v);
    CHECK_INT(v.replicas, 2);
    CHECK_STR(v.limit_reason, "TooFewReplicas");
    CHECK_STR(v.able_reason, "ReadyForNewScale");
    hpa_history_done(&h);
}

TEST(policies_bound_what_changes_in_a_period) {
    struct autoscaling_v2_hpa_scaling_policy ups[] = {{"Pods", 4, 60}, {"Percent", 100, 60}},
                                             downs[] = {{"Pods", 1, 60}};
    int32_t none = 0;
    struct autoscaling_v2_hpa_scaling_rules up = {&none, "Max", {ups, 2}, NULL},
                                            down = {&none, "Max", {downs, 1}, NULL};
    struct autoscaling_v2_horizontal_pod_autoscaler_behavior b = {&up, &down};
    struct hpa_limits l = {1, 100, &b, 300 * S};
    struct hpa_history h = {0};
    struct hpa_verdict v;
    hpa_limit(&h, &l, 3, 50, 0, &v);
    CHECK_INT(v.replicas, 7); /* four more is more than double */
    hpa_history_scaled(&h, &l, 3, 7, 0);
    hpa_limit(&h, &l, 7, 50, 30 * S, &v);
    CHECK_INT(v.replicas, 7); /* the period's share is used up */
    CHECK_STR(v.limit_reason, "ScaleUpLimit");
    hpa_limit(&h, &l, 7, 50, 61 * S, &v);
    CHECK_INT(v.replicas, 14);
    up.select_policy = "Min";
    hpa_limit(&h, &l, 7, 50, 61 * S, &v);
    CHECK_INT(v.replicas, 11);
    up.select_policy = "Disabled";
    hpa_limit(&h, &l, 7, 50, 61 * S, &v);
    CHECK_INT(v.replicas, 7);
    hpa_limit(&h, &l, 7, 2, 61 * S, &v);
    CHECK_INT(v.replicas, 6);
    CHECK_STR(v.limit_reason, "ScaleDownLimit");
    hpa_history_done(&h);
}

TEST(windows_hold_both_directions) {
    int32_t up_s = 60, down_s = 120;
    struct autoscaling_v2_hpa_scaling_policy all[] = {{"Percent", 1000, 15}};
    struct autoscaling_v2_hpa_scaling_rules up = {&up_s, "Max", {all, 1}, NULL},
                                            down = {&down_s, "Max", {all, 1}, NULL};
    struct autoscaling_v2_horizontal_pod_autoscaler_behavior b = {&up, &down};
    struct hpa_limits l = {1, 100, &b, 300 * S};
    struct hpa_history h = {0};
    struct hpa_verdict v;
    hpa_history_start(&h, 5, 0);
    hpa_limit(&h, &l, 5, 9, 30 * S, &v);
    CHECK_INT(v.replicas, 5);
    CHECK_STR(v.able_reason, "ScaleUpStabilized");
    hpa_limit(&h, &l, 5, 8, 80 * S, &v); /* lowest of the last minute: 8 and 9 */
    CHECK_INT(v.replicas, 8);
    hpa_limit(&h, &l, 8, 2, 140 * S, &v);
    CHECK_INT(v.replicas, 8); /* capped by what was wished for up to two minutes ago, floored by what is there */
    CHECK_STR(v.able_reason, "ScaleDownStabilized");
    hpa_limit(&h, &l, 8, 2, 261 * S, &v);
    CHECK_INT(v.replicas, 2);
    hpa_history_done(&h);
}

TEST(marks_are_bounded) {
    struct hpa_history h = {0};
    struct hpa_verdict v;
    for (int i = 0; i < 3 * HPA_MARKS_MAX; i++) hpa_limit(&h, &plain, 5, 5, i, &v);
    CHECK(h.wanted.n <= HPA_MARKS_MAX);
    hpa_history_done(&h);
}
