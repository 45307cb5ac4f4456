#include "job.h"
#include "pkg/api/apps.h"
#include "policytypes.h"
#include "replicaset.h"
#include "rollout.h"
#include "schedule.h"
#include "tests/test.h"
#include "util.h"

static struct apps_deployment deployment(int32_t *replicas, struct apps_rolling_update_deployment *u) {
    struct apps_deployment d = {0};
    d.spec.replicas = replicas;
    d.spec.strategy.type = "RollingUpdate";
    d.spec.strategy.rolling_update = u;
    return d;
}
#define PERCENT(text) \
    { .set = true, .is_str = true, .s = (text) }
#define NUMBER(n) \
    { .set = true, .i = (n) }

TEST(surge_rounds_up_and_unavailable_down) {
    int32_t n = 10;
    struct apps_rolling_update_deployment u = {.max_surge = PERCENT("25%"), .max_unavailable = PERCENT("25%")};
    struct apps_deployment d = deployment(&n, &u);
    CHECK_INT(deployment_max_surge(&d), 3);
    CHECK_INT(deployment_max_unavailable(&d), 2);
}

TEST(zero_surge_and_zero_unavailable_allow_one_unavailable) {
    int32_t n = 1;
    struct apps_rolling_update_deployment u = {.max_surge = NUMBER(0), .max_unavailable = PERCENT("25%")};
    struct apps_deployment d = deployment(&n, &u);
    CHECK_INT(deployment_max_surge(&d), 0);
    CHECK_INT(deployment_max_unavailable(&d), 1);
}

TEST(new_set_grows_within_surge_only) {
    int32_t n = 10;
    struct apps_rolling_update_deployment u = {.max_surge = NUMBER(3), .max_unavailable = NUMBER(2)};
    struct apps_deployment d = deployment(&n, &u);
    CHECK_INT(rollout_new_size(&d, 0, 10), 3);
    CHECK_INT(rollout_new_size(&d, 3, 13), 3);
    CHECK_INT(rollout_new_size(&d, 3, 11), 5);
    CHECK_INT(rollout_new_size(&d, 9, 9), 10);
}

TEST(old_sets_lose_what_availability_allows) {
    int32_t n = 10;
    struct apps_rolling_update_deployment u = {.max_surge = NUMBER(3), .max_unavailable = NUMBER(2)};
    struct apps_deployment d = deployment(&n, &u);
    struct rollout_set old = {.size = 10, .available = 10}, fresh = {.size = 3, .available = 0};
    CHECK(rollout_shrink_old(&d, &old, 1, &fresh));
    CHECK_INT(old.size, 8);
    /* the new pods crash: nothing more may go */
    struct rollout_set eight = {.size = 8, .available = 8}, crashing = {.size = 5, .available = 0};
    CHECK(!rollout_shrink_old(&d, &eight, 1, &crashing));
    CHECK_INT(eight.size, 8);
}

TEST(unhealthy_old_replicas_go_first) {
    int32_t n = 4;
    struct apps_rolling_update_deployment u = {.max_surge = NUMBER(1), .max_unavailable = NUMBER(0)};
    struct apps_deployment d = deployment(&n, &u);
    struct rollout_set old[2] = {{.size = 2, .available = 2}, {.size = 2, .available = 1}};
    struct rollout_set fresh = {.size = 1, .available = 1};
    CHECK(rollout_shrink_old(&d, old, 2, &fresh));
    CHECK_INT(old[0].size, 2);
    CHECK_INT(old[1].size, 1);
}

TEST(scaling_in_a_rollout_keeps_proportions) {
    int32_t n = 20;
    struct apps_rolling_update_deployment u = {.max_surge = NUMBER(0), .max_unavailable = NUMBER(1)};
    struct apps_deployment d = deployment(&n, &u);
    struct rollout_set a = {.size = 8, .max_replicas = 10, .created = 1},
                       b = {.size = 2, .max_replicas = 10, .created = 2};
    struct rollout_set *sets[] = {&b, &a};
    rollout_scale_proportionally(&d, sets, 2);
    CHECK_INT(a.size, 16);
    CHECK_INT(b.size, 4);
}

TEST(scaling_to_zero_empties_all_sets) {
    int32_t n = 0;
    struct apps_rolling_update_deployment u = {.max_surge = NUMBER(1), .max_unavailable = NUMBER(1)};
    struct apps_deployment d = deployment(&n, &u);
    struct rollout_set a = {.size = 8, .max_replicas = 10}, b = {.size = 3, .max_replicas = 10};
    struct rollout_set *sets[] = {&a, &b};
    rollout_scale_proportionally(&d, sets, 2);
    CHECK_INT(a.size + b.size, 0);
}

static struct object *pod(const char *name, const char *node, const char *phase, bool ready) {
    struct core_pod_condition c = {.type = "Ready", .status = ready ? "True" : "False"};
    struct core_pod p = {.metadata = {.name = name, .namespace = "d", .uid = name}};
    p.spec.node_name = node;
    p.status.phase = phase;
    p.status.conditions.items = &c;
    p.status.conditions.n = 1;
    return object_new(&client_pods, &p);
}

TEST(unassigned_pending_and_unready_pods_are_deleted_first) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct object *ready = pod("ready", "n1", "Running", true), *unready = pod("unready", "n1", "Running", false);
    struct object *pending = pod("pending", "n1", "Pending", false),
                  *unassigned = pod("unassigned", NULL, "Pending", false);
    struct object *list[] = {ready, unready, pending, unassigned};
    pods_rank(a, list, 4, NULL, 0, ktime_now());
    CHECK_STR(list[0]->meta->name, "unassigned");
    CHECK_STR(list[1]->meta->name, "pending");
    CHECK_STR(list[2]->meta->name, "unready");
    CHECK_STR(list[3]->meta->name, "ready");
    for (int i = 0; i < 4; i++) object_unref(list[i]);
}

TEST(pods_on_crowded_nodes_are_deleted_first) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct object *x = pod("a-alone", "n1", "Running", true), *y = pod("b", "n2", "Running", true),
                  *z = pod("c", "n2", "Running", true);
    struct object *list[] = {x, y, z}, *all[] = {x, y, z};
    pods_rank(a, list, 3, all, 3, ktime_now());
    CHECK_STR(list[2]->meta->name, "a-alone");
    for (int i = 0; i < 3; i++) object_unref(all[i]);
}

TEST(map_set_keeps_the_original_and_the_order) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct str_map_entry e[] = {{"a", "1"}, {"c", "3"}};
    struct str_map m = {e, 2}, was = m;
    map_set(a, &m, "b", "2");
    map_set(a, &m, "c", "4");
    CHECK_INT(m.n, 3);
    CHECK_STR(m.items[1].key, "b");
    CHECK_STR(str_map_get(&m, "c"), "4");
    CHECK_STR(str_map_get(&was, "c"), "3");
    map_unset(a, &m, "a");
    CHECK_INT(m.n, 2);
}

TEST(availability_waits_for_min_ready_seconds) {
    struct core_pod_condition c = {
        .type = "Ready", .status = "True", .last_transition_time = {.sec = 1000, .set = true}};
    struct core_pod p = {0};
    p.status.conditions.items = &c;
    p.status.conditions.n = 1;
    int64_t wait = INT64_MAX;
    struct ktime now = {.sec = 1004, .set = true};
    CHECK(!pod_is_available(&p, 10, now, &wait));
    CHECK_INT(wait / NS_PER_SEC, 6);
    CHECK(pod_is_available(&p, 4, now, NULL));
}

TEST(cron_fields_take_lists_ranges_steps_and_names) {
    struct cron_schedule s;
    CHECK_INT(cron_parse("*/15 1-3,5 * jan-mar mon", &s, NULL), 0);
    CHECK(s.minutes == (UINT64_C(1) << 0 | UINT64_C(1) << 15 | UINT64_C(1) << 30 | UINT64_C(1) << 45));
    CHECK(s.hours == (UINT64_C(1) << 1 | UINT64_C(1) << 2 | UINT64_C(1) << 3 | UINT64_C(1) << 5));
    CHECK(s.months == (UINT64_C(1) << 1 | UINT64_C(1) << 2 | UINT64_C(1) << 3));
    CHECK(s.weekdays == UINT64_C(1) << 1);
    CHECK(cron_parse("60 * * * *", &s, NULL) < 0);
    CHECK(cron_parse("* * * *", &s, NULL) < 0);
    CHECK(cron_parse("5-1 * * * *", &s, NULL) < 0);
    CHECK_INT(cron_parse("@daily", &s, NULL), 0);
}

TEST(cron_finds_the_next_time) {
    struct cron_schedule s;
    struct ktime t, want;
    ktime_parse("2026-02-27T23:59:30Z", &t);
    CHECK_INT(cron_parse("30 4 1 * *", &s, NULL), 0);
    ktime_parse("2026-03-01T04:30:00Z", &want);
    CHECK_INT(cron_next(&s, NULL, t.sec), want.sec);
    CHECK_INT(cron_parse("0 0 29 2 *", &s, NULL), 0);
    ktime_parse("2028-02-29T00:00:00Z", &want);
    CHECK_INT(cron_next(&s, NULL, t.sec), want.sec);
    CHECK_INT(cron_parse("* * * * *", &s, NULL), 0);
    ktime_parse("2026-02-28T00:00:00Z", &want);
    CHECK_INT(cron_next(&s, NULL, t.sec), want.sec);
    CHECK_INT(cron_parse("0 0 31 2 *", &s, NULL), 0);
    CHECK_INT(cron_next(&s, NULL, t.sec), 0);
}

TEST(day_of_month_and_weekday_are_alternatives_when_both_are_given) {
    struct cron_schedule s;
    struct ktime t, want;
    ktime_parse("2026-11-21T12:00:00Z", &t); /* a Saturday */
    CHECK_INT(cron_parse("0 0 25 * 1", &s, NULL), 0);
    ktime_parse("2026-11-23T00:00:00Z", &want);
    CHECK_INT(cron_next(&s, NULL, t.sec), want.sec);
}

TEST(completed_indexes_merge_into_ranges) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct index_set s = {0};
    int32_t order[] = {5, 1, 3, 4, 0, 9};
    for (size_t i = 0; i < ARRAY_LEN(order); i++) index_set_add(a, &s, order[i]);
    CHECK_STR(index_set_format(a, &s), "0,1,3-5,9");
    CHECK_INT(index_set_count(&s), 6);
    index_set_add(a, &s, 2);
    CHECK_STR(index_set_format(a, &s), "0-5,9");
    struct index_set back;
    index_set_parse(a, "0-5,9", &back);
    CHECK_STR(index_set_format(a, &back), "0-5,9");
    CHECK(index_set_has(&back, 9) && !index_set_has(&back, 8));
}

/* ---- type checking of policies ---- */

static bool known_kind(void *arg, const char *group, const char *version, const char *resource, const char **kind) {
    if (str_eq(resource, "deployments"))
        *kind = "Deployment";
    else if (str_eq(resource, "replicasets"))
        *kind = "ReplicaSet";
    else if (str_eq(resource, "widgets"))
        *kind = "Widget";
    else
        return false;
    return true;
}

static const char openapi[] =
    "{\"components\":{\"schemas\":{\"W\":{\"type\":\"object\","
    "\"properties\":{\"spec\":{\"allOf\":[{\"$ref\":\"#/components/schemas/S\"}]},\"metadata\":{\"type\":\"object\"}},"
    "\"x-kubernetes-group-version-kind\":[{\"group\":\"example.com\",\"version\":\"v1\",\"kind\":\"Widget\"}]},"
    "\"S\":{\"type\":\"object\",\"properties\":{\"size\":{\"type\":\"integer\"},"
    "\"port\":{\"format\":\"int-or-string\"},\"self\":{\"$ref\":\"#/components/schemas/S\"}}}}}}";

static const struct cel_type *known_type(void *arg, const char *group, const char *version, const char *kind) {
    struct arena *a = arg;
    const struct api_type *t = api_type_find(group, version, kind);
    if (t) return cel_type_of_api(a, t);
    struct json *doc = NULL;
    if (json_parse(a, openapi, strlen(openapi), &doc, NULL, NULL) < 0) return NULL;
    const struct json *s = policy_schema(a, doc, group, version, kind);
    return s ? cel_type_of_schema(a, s, kind, true) : NULL;
}

static struct admissionregistration_expression_warning_vec warnings_of(struct arena *a, const char *group,
                                                                       const char **resources, size_t n,
                                                                       const char *expression) {
    static const char *version = "v1";
    struct admissionregistration_named_rule_with_operations rule = {
        .api_groups = {&group, 1}, .api_versions = {&version, 1}, .resources = {resources, n}};
    struct admissionregistration_match_resources match = {.resource_rules = {&rule, 1}};
    struct admissionregistration_validation check = {.expression = expression,
                                                     .message_expression = "'at ' + object.kind"};
    struct admissionregistration_variable lots = {.name = "lots", .expression = "object.spec.replicas > 5"};
    struct admissionregistration_validating_admission_policy p = {
        .spec = {.match_constraints = &match, .validations = {&check, 1}, .variables = {&lots, 1}}};
    struct policy_source from = {known_kind, known_type, a};
    struct admissionregistration_expression_warning_vec out;
    policy_warnings(a, &p, &from, &out);
    return out;
}

TEST(expressions_are_checked_against_each_kind_that_a_policy_names) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *two[] = {"replicasets", "deployments"};
    struct admissionregistration_expression_warning_vec w = warnings_of(a, "apps", two, 2, "object.replicas > 1");
    REQUIRE(w.n == 1);
    CHECK_STR(w.items[0].field_ref, "spec.validations[0].expression");
    CHECK_STR(w.items[0].warning,
              "apps/v1, Kind=Deployment: ERROR: <input>:1:7: undefined field 'replicas'\n"
              " | object.replicas > 1\n | ......^\n\n"
              "apps/v1, Kind=ReplicaSet: ERROR: <input>:1:7: undefined field 'replicas'\n"
              " | object.replicas > 1\n | ......^\n");
    CHECK_INT(warnings_of(a, "apps", two, 2, "object.spec.replicas > 1 && variables.lots").n, 0);
    CHECK_INT(warnings_of(a, "apps", two, 2, "variables.lots == 3").n, 1);
    CHECK_INT(warnings_of(a, "apps", two, 2, "authorizer.requestResource.check('get').allowed()").n, 0);
    CHECK_INT(warnings_of(a, "apps", two, 2, "params.x").n, 1);
}

TEST(wildcards_and_unknown_kinds_are_not_checked) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *any[] = {"*", "deployments/scale", "nothings"};
    CHECK_INT(warnings_of(a, "apps", any, 3, "object.replicas").n, 0);
    const char *one[] = {"deployments"};
    CHECK_INT(warnings_of(a, "*", one, 1, "object.replicas").n, 0);
}

TEST(custom_kinds_are_checked_by_their_openapi_schema) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *one[] = {"widgets"};
    CHECK_INT(warnings_of(a, "example.com", one, 1, "object.spec.size > 1 && object.spec.port == '80'").n, 0);
    CHECK_INT(warnings_of(a, "example.com", one, 1, "object.metadata.name == ''").n, 0);
    CHECK_INT(warnings_of(a, "example.com", one, 1, "object.spec.sise > 1").n, 1);
    CHECK_INT(warnings_of(a, "example.com", one, 1, "object.spec.size == 'a'").n, 1);
}
