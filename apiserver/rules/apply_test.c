/* What patches and applies make of small objects, and who owns which fields afterwards. */
#include "apiserver/rules/test_world.h"

/* ---- strategic merge patch ---- */

#define SMP "application/strategic-merge-patch+json"
#define POD(containers) "{\"spec\":{\"containers\":[" containers "]}}"

TEST(strategic_merge_patch_knows_lists_and_directives) {
    static const struct {
        const char *doc, *patch, *want;
    } cases[] = {
        {POD("{\"name\":\"a\",\"image\":\"1\"},{\"name\":\"b\",\"image\":\"1\"}"),
         POD("{\"name\":\"b\",\"image\":\"2\"}"),
         POD("{\"name\":\"a\",\"image\":\"1\"},{\"name\":\"b\",\"image\":\"2\"}")},
        {POD("{\"name\":\"a\"},{\"name\":\"b\"}"), POD("{\"name\":\"a\",\"$patch\":\"delete\"}"),
         POD("{\"name\":\"b\"}")},
        {POD("{\"name\":\"a\"},{\"name\":\"b\"}"), POD("{\"$patch\":\"replace\"},{\"name\":\"c\"}"),
         POD("{\"name\":\"c\"}")},
        {POD("{\"name\":\"a\",\"args\":[\"x\"]}"), POD("{\"name\":\"a\",\"args\":[\"y\"]}"),
         POD("{\"name\":\"a\",\"args\":[\"y\"]}")},
        {POD("{\"name\":\"a\"},{\"name\":\"b\"}"),
         "{\"spec\":{\"$setElementOrder/containers\":[{\"name\":\"b\"},{\"name\":\"a\"}]}}",
         POD("{\"name\":\"b\"},{\"name\":\"a\"}")},
        {"{\"metadata\":{\"finalizers\":[\"a\",\"b\"]}}",
         "{\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"a\"]}}", "{\"metadata\":{\"finalizers\":[\"b\"]}}"},
        {"{\"metadata\":{\"labels\":{\"a\":\"1\",\"b\":\"2\"}}}",
         "{\"metadata\":{\"labels\":{\"$patch\":\"replace\",\"c\":\"3\"}}}",
         "{\"metadata\":{\"labels\":{\"c\":\"3\"}}}"},
        {"{\"metadata\":{\"labels\":{\"a\":\"1\"}}}", "{\"metadata\":{\"labels\":{\"a\":null}}}",
         "{\"metadata\":{\"labels\":{}}}"},
        {"{\"spec\":{\"volumes\":[{\"name\":\"v\",\"emptyDir\":{}}]}}",
         "{\"spec\":{\"volumes\":[{\"name\":\"v\",\"$retainKeys\":[\"name\",\"hostPath\"],"
         "\"hostPath\":{\"path\":\"/\"}}]}}",
         "{\"spec\":{\"volumes\":[{\"name\":\"v\",\"hostPath\":{\"path\":\"/\"}}]}}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_world_ struct world w;
        struct json *out = NULL;
        world_init(&w, "", "v1", "Pod", "pods");
        struct api_problems strict = {0};
        int r = patch_apply(&w.c, SMP, parse(&w, cases[i].doc), cases[i].patch, strlen(cases[i].patch), &out, &strict,
                            NULL);
        CHECK_STR(r < 0 ? "error" : json_text(w.a, out), cases[i].want);
    }
}

TEST(patches_of_other_types_are_refused) {
    struct api_problems strict = {0};
    _cleanup_world_ struct world w;
    struct json *out;
    _cleanup_err_ struct err e = {0};
    world_init(&w, "", "v1", "Pod", "pods");
    CHECK(patch_apply(&w.c, "application/json", parse(&w, "{}"), "{}", 2, &out, &strict, &e) < 0);
    CHECK_INT(e.status, 415);
    static const char gone[] = "[{\"op\":\"remove\",\"path\":\"/a\"}]";
    CHECK(patch_apply(&w.c, "application/json-patch+json; x=y", parse(&w, "{}"), gone, sizeof gone - 1, &out, &strict,
                      &e) < 0);
    CHECK_INT(e.status, 422);
}

/* ---- managed fields and apply ---- */

static const char *managers_of(struct world *w, const struct json *obj) {
    const char *out = "";
    const struct json *it;
    JSON_FOREACH(it, json_at(obj, "metadata", "managedFields", NULL))
        out = arena_printf(w->a, "%s%s %s %s; ", out, json_get_str(it, "manager"), json_get_str(it, "operation"),
                           json_text(w->a, json_get(it, "fieldsV1")));
    return out;
}

static struct json *apply(struct world *w, const char *manager, const struct json *live, const char *config, bool force,
                          struct err *e) {
    struct json *out = NULL;
    bool changed;
    w->c.field_manager = manager;
    return ssa_apply(&w->c, live, parse(w, config), force, &out, &changed, e) < 0 ? NULL : out;
}

#define CM "\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":{\"name\":\"x\"}"

TEST(a_configuration_whose_fields_cannot_be_told_apart_is_refused) {
    static const struct {
        const char *config, *why;
    } cases[] = {
        {"{\"spec\":{\"ports\":[{\"name\":\"x\"},{\"port\":0}]}}",
         ".spec.ports: duplicate entries for key [port=0,protocol=\"TCP\"]"},
        {"{\"spec\":{\"ports\":[null]}}",
         ".spec.ports: associative list with keys may not have null or non-map elements"},
        {"{\"spec\":{\"ports\":[{\"port\":\"x\"}]}}",
         ".spec.ports[port=\"x\",protocol=\"TCP\"].port: expected numeric (int or float)"},
        {"{\"spec\":{\"externalIPs\":[1]}}", ".spec.externalIPs[0]: expected string"},
        {"{\"spec\":{\"selector\":[]}}", ".spec.selector: expected map"},
        {"{\"spec\":{\"ports\":[{\"port\":1},{\"port\":1,\"protocol\":\"TCP\"}]}}",
         ".spec.ports: duplicate entries for key [port=1,protocol=\"TCP\"]"},
        {"{\"metadata\":{\"finalizers\":[\"a/b\",\"a/b\"]}}",
         ".metadata.finalizers: duplicate entries for key [=\"a/b\"]"},
        {"{\"spec\":{\"port\":1}}", ".spec.port: field not declared in schema"},
        {"{\"spec\":{\"port\":1},\"extra\":{},\"metadata\":{\"labels\":[]}}",
         "errors:\n  .extra: field not declared in schema\n  .metadata.labels: expected map\n  .spec.port: field not "
         "declared in schema"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_world_ struct world w;
        _cleanup_err_ struct err e = {0};
        world_init(&w, "", "v1", "Service", "services");
        CHECK(!apply(&w, "a", NULL, cases[i].config, true, &e));
        CHECK_INT(e.status, 500);
        CHECK(str_has_suffix(e.msg, cases[i].why));
    }
}

TEST(an_update_takes_what_it_changes) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "ConfigMap", "configmaps");
    struct json *one = decode(&w, "{" CM ",\"data\":{\"a\":\"1\",\"b\":\"1\"}}");
    w.c.field_manager = "alice";
    managed_fields_update(&w.c, one, NULL);
    CHECK_STR(managers_of(&w, one), "alice Update {\"f:data\":{\".\":{},\"f:a\":{},\"f:b\":{}}}; ");
    struct json *two = json_clone(w.a, one);
    json_set_str(w.a, json_get(two, "data"), "b", "2");
    w.c.field_manager = "bob";
    managed_fields_update(&w.c, two, one);
    CHECK_STR(managers_of(&w, two),
              "alice Update {\"f:data\":{\".\":{},\"f:a\":{}}}; bob Update {\"f:data\":{\"f:b\":{}}}; ");
}

TEST(what_an_endpoint_ignores_stays_owned) {
    _cleanup_world_ struct world w;
    world_init(&w, "apps", "v1", "Deployment", "deployments");
    struct json *one = parse(&w, "{\"spec\":{\"replicas\":1,\"minReadySeconds\":5},\"status\":{}}");
    w.c.field_manager = "alice";
    managed_fields_update(&w.c, one, NULL);
    struct json *two = json_clone(w.a, one);
    json_del(json_get(two, "spec"), "minReadySeconds");
    json_set_int(w.a, json_ensure_object(w.a, two, "status"), "replicas", 1);
    w.c.field_manager = "bob";
    w.c.subresource = "status";
    managed_fields_update(&w.c, two, one);
    CHECK_STR(managers_of(&w, two),
              "alice Update {\"f:spec\":{\"f:minReadySeconds\":{},\"f:replicas\":{}}}; "
              "bob Update {\"f:status\":{\"f:replicas\":{}}}; ");
}

TEST(apply_merges_prunes_and_conflicts) {
    _cleanup_world_ struct world w;
    _cleanup_err_ struct err e = {0};
    world_init(&w, "", "v1", "ConfigMap", "configmaps");
    struct json *one = apply(&w, "alice", NULL, "{" CM ",\"data\":{\"a\":\"1\",\"b\":\"1\"}}", false, &e);
    REQUIRE(one);
    struct json *two = apply(&w, "bob", one, "{" CM ",\"data\":{\"b\":\"1\",\"c\":\"1\"}}", false, &e);
    REQUIRE(two);
    CHECK_STR(json_text(w.a, json_get(two, "data")), "{\"a\":\"1\",\"b\":\"1\",\"c\":\"1\"}");
    struct json *three = apply(&w, "alice", two, "{" CM ",\"data\":{}}", false, &e);
    REQUIRE(three); /* a was alice's alone, b is bob's too */
    CHECK_STR(json_text(w.a, json_get(three, "data")), "{\"b\":\"1\",\"c\":\"1\"}");
    CHECK(!apply(&w, "carol", three, "{" CM ",\"data\":{\"c\":\"2\"}}", false, &e));
    CHECK_INT(e.status, 409);
    CHECK_STR(causes(w.a, &e), "FieldManagerConflict .data.c");
    struct json *four = apply(&w, "carol", three, "{" CM ",\"data\":{\"c\":\"2\"}}", true, &e);
    REQUIRE(four);
    CHECK(strstr(managers_of(&w, four), "bob Apply {\"f:data\":{\"f:b\":{}}}"));
}

TEST(apply_merges_keyed_lists_by_their_keys) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Pod", "pods");
    struct json *one =
        apply(&w, "alice", NULL,
              "{\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"1\",\"ports\":[{\"containerPort\":80}]}]}}",
              false, NULL);
    struct json *two = apply(&w, "bob", one,
                             "{\"spec\":{\"containers\":[{\"name\":\"a\",\"ports\":[{\"containerPort\":80,"
                             "\"protocol\":\"TCP\",\"name\":\"p\"}]},{\"name\":\"b\",\"image\":\"2\"}]}}",
                             false, NULL);
    REQUIRE(two);
    CHECK_STR(json_text(w.a, json_at(two, "spec", "containers", NULL)),
              "[{\"name\":\"a\",\"image\":\"1\",\"ports\":[{\"containerPort\":80,\"protocol\":\"TCP\","
              "\"name\":\"p\"}]},{\"name\":\"b\",\"image\":\"2\"}]");
    struct json *three = apply(&w, "bob", two, "{\"spec\":{}}", false, NULL);
    REQUIRE(three);
    CHECK_INT(json_len(json_at(three, "spec", "containers", NULL)), 1);
}
