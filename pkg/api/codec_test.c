/* The codecs against documents written by hand. */
#include "pkg/api/apiextensions.h"
#include "pkg/api/apps.h"
#include "pkg/api/authentication.h"
#include "pkg/api/core.h"
#include "pkg/api/cri.h"
#include "pkg/api/etcd.h"
#include "pkg/api/policy.h"
#include "pkg/api/rbac.h"

#include "tests/test.h"

static struct json *parse(struct arena *a, const char *text) {
    struct json *v = NULL;
    struct err e = {0};
    if (json_parse(a, text, strlen(text), &v, NULL, &e)) TEST_FAIL("%s: %s", text, e.msg);
    return v;
}

/* The canonical form of a document, or the error's message. */
static const char *normal(struct arena *a, const struct api_type *t, const char *text) {
    struct json *out;
    struct err e = {0};
    if (api_tree_normalise(a, t, parse(a, text), &out, NULL, &e)) return arena_strdup(a, e.msg);
    return json_text(a, out);
}

#define NORMAL(type, text, want)                        \
    do {                                                \
        struct arena *_a = arena_new();                 \
        CHECK_STR(normal(_a, &(type), (text)), (want)); \
        arena_free(_a);                                 \
    } while (0)

TEST(struct_values_appear_even_when_empty) {
    NORMAL(api_core_pod, "{}", "{\"metadata\":{},\"spec\":{\"containers\":null},\"status\":{}}");
    NORMAL(api_core_container, "{\"name\":\"c\"}", "{\"name\":\"c\",\"resources\":{}}");
    NORMAL(api_apps_deployment_spec, "{}",
           "{\"selector\":null,\"template\":{\"metadata\":{},\"spec\":{\"containers\":null}},\"strategy\":{}}");
}

TEST(members_come_in_declared_order_and_empty_ones_go) {
    NORMAL(api_core_config_map,
           "{\"data\":{\"b\":\"2\",\"a\":\"1\"},\"metadata\":{\"labels\":{},\"name\":\"n\"},\"kind\":\"ConfigMap\","
           "\"apiVersion\":\"v1\"}",
           "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"n\"},\"data\":{\"a\":\"1\","
           "\"b\":\"2\"}}");
}

TEST(lists_without_omitempty_tell_null_from_empty) {
    NORMAL(api_rbac_role, "{\"rules\":[]}", "{\"metadata\":{},\"rules\":[]}");
    NORMAL(api_rbac_role, "{\"rules\":null}", "{\"metadata\":{},\"rules\":null}");
}

TEST(the_store_knows_no_empty_lists) {
    struct arena *a = arena_new();
    struct json *out;
    REQUIRE(api_tree_stored(a, &api_rbac_role, parse(a, "{\"rules\":[{\"verbs\":[],\"apiGroups\":[]}]}"), &out, NULL) ==
            0);
    CHECK_STR(json_text(a, out), "{\"metadata\":{},\"rules\":[{\"verbs\":null}]}");
    REQUIRE(api_tree_stored(a, &api_rbac_role, parse(a, "{\"rules\":[]}"), &out, NULL) == 0);
    CHECK_STR(json_text(a, out), "{\"metadata\":{},\"rules\":null}");
    arena_free(a);
}

TEST(null_means_absent) {
    NORMAL(api_core_pod_spec, "{\"containers\":[],\"nodeName\":null,\"priority\":null,\"securityContext\":null}",
           "{\"containers\":[]}");
    NORMAL(api_core_config_map, "{\"data\":{\"a\":null}}", "{\"metadata\":{},\"data\":{\"a\":\"\"}}");
}

TEST(pointers_keep_zero_values) {
    NORMAL(api_apps_deployment_spec, "{\"replicas\":0,\"paused\":false,\"minReadySeconds\":0}",
           "{\"replicas\":0,\"selector\":null,\"template\":{\"metadata\":{},\"spec\":{\"containers\":null}},"
           "\"strategy\":{}}");
}

TEST(inlined_members_stand_in_their_parent) {
    NORMAL(api_core_volume, "{\"emptyDir\":{},\"name\":\"v\"}", "{\"name\":\"v\",\"emptyDir\":{}}");
    NORMAL(api_core_probe, "{\"periodSeconds\":1,\"httpGet\":{\"port\":\"web\"}}",
           "{\"httpGet\":{\"port\":\"web\"},\"periodSeconds\":1}");
    struct arena *a = arena_new();
    struct core_volume v;
    const char *text = "{\"name\":\"v\",\"hostPath\":{\"path\":\"/x\"}}";
    REQUIRE(api_from_json(a, &api_core_volume, text, strlen(text), &v, NULL) == 0);
    CHECK_STR(v.host_path->path, "/x");
    CHECK(v.volume_source.host_path == v.host_path);
    arena_free(a);
}

TEST(scalars_become_canonical) {
    NORMAL(api_core_resource_requirements, "{\"limits\":{\"memory\":\"1024Mi\",\"cpu\":0.5}}",
           "{\"limits\":{\"cpu\":\"500m\",\"memory\":\"1Gi\"}}");
    NORMAL(api_meta_object_meta, "{\"creationTimestamp\":\"2026-01-02T05:04:05.999+02:00\"}",
           "{\"creationTimestamp\":\"2026-01-02T03:04:05Z\"}");
    NORMAL(api_core_secret, "{\"data\":{\"k\":\"YQ==\"}}", "{\"metadata\":{},\"data\":{\"k\":\"YQ==\"}}");
    NORMAL(api_policy_pod_disruption_budget_spec, "{\"minAvailable\":\"50%\",\"maxUnavailable\":1}",
           "{\"minAvailable\":\"50%\",\"maxUnavailable\":1}");
}

TEST(wrong_types_are_named_with_struct_and_path) {
    NORMAL(api_apps_deployment, "{\"spec\":{\"replicas\":\"three\"}}",
           "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32");
    NORMAL(api_core_pod, "{\"spec\":{\"containers\":[{\"name\":7}]}}",
           "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string");
    NORMAL(api_core_pod, "{\"spec\":{\"containers\":{}}}",
           "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container");
    NORMAL(api_core_pod, "{\"spec\":{\"priority\":3000000000}}",
           "json: cannot unmarshal number 3000000000 into Go struct field PodSpec.spec.priority of type int32");
    NORMAL(api_core_pod, "{\"spec\":{\"priority\":1.5}}",
           "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32");
    NORMAL(api_core_pod, "[]", "json: cannot unmarshal array into Go value of type v1.Pod");
    NORMAL(api_core_secret, "{\"data\":{\"k\":\"@\"}}", "data.k: illegal base64 data: \"\"");
}

TEST(unknown_fields_are_dropped_and_noted_with_their_path) {
    struct arena *a = arena_new();
    struct json *out;
    struct api_problems unknown = {0};
    struct json *v =
        parse(a, "{\"bogus\":1,\"spec\":{\"containers\":[{\"name\":\"c\",\"Image\":\"x\",\"env\":[{\"foo\":{}}]}]}}");
    REQUIRE(api_tree_normalise(a, &api_core_pod, v, &out, &unknown, NULL) == 0);
    REQUIRE(unknown.n == 3);
    CHECK_STR(unknown.items[0].path, "bogus");
    CHECK_STR(unknown.items[1].path, "spec.containers[0].Image");
    CHECK_STR(unknown.items[2].path, "spec.containers[0].env[0].foo");
    CHECK_STR(json_text(a, json_at(out, "spec", "containers", NULL)),
              "[{\"name\":\"c\",\"env\":[{\"name\":\"\"}],\"resources\":{}}]");
    arena_free(a);
}

TEST(raw_values_pass_unchanged) {
    NORMAL(api_apps_controller_revision, "{\"data\":{\"x\":[1,2.50,null]},\"revision\":3}",
           "{\"metadata\":{},\"data\":{\"x\":[1,2.50,null]},\"revision\":3}");
    NORMAL(api_apps_controller_revision, "{\"revision\":3}", "{\"metadata\":{},\"data\":null,\"revision\":3}");
}

TEST(bare_types_show_the_member_that_is_set) {
    NORMAL(api_apiextensions_json_schema_props,
           "{\"items\":{\"type\":\"string\",\"zzz\":1},\"additionalProperties\":true,\"maximum\":10,"
           "\"default\":{\"a\":1}}",
           "{\"default\":{\"a\":1},\"maximum\":10,\"items\":{\"type\":\"string\"},\"additionalProperties\":true}");
    NORMAL(
        api_apiextensions_json_schema_props,
        "{\"additionalProperties\":{\"type\":\"integer\"},\"dependencies\":{\"x\":[\"y\"],\"z\":{\"type\":\"null\"}}}",
        "{\"additionalProperties\":{\"type\":\"integer\"},\"dependencies\":{\"x\":[\"y\"],\"z\":{\"type\":\"null\"}}}");
}

TEST(declared_defaults_fill_what_is_absent) {
    struct arena *a = arena_new();
    struct json *v = parse(
        a, "{\"spec\":{\"containers\":[{\"name\":\"c\",\"ports\":[{\"containerPort\":1},{\"protocol\":\"UDP\"}]}]}}");
    api_tree_default(a, &api_core_pod, v);
    CHECK_STR(json_text(a, json_at(json_item(json_at(v, "spec", "containers", NULL), 0), "ports", NULL)),
              "[{\"containerPort\":1,\"protocol\":\"TCP\"},{\"protocol\":\"UDP\"}]");
    arena_free(a);
}

TEST(json_text_goes_straight_to_a_struct) {
    struct arena *a = arena_new();
    const char *text =
        "{\"metadata\":{\"name\":\"p\",\"labels\":{\"b\":\"2\",\"a\":\"1\",\"b\":\"3\"}},"
        "\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"extra\":[{}]}],"
        "\"terminationGracePeriodSeconds\":7},\"status\":{\"phase\":\"Running\"}}";
    struct core_pod p;
    REQUIRE(api_from_json(a, &api_core_pod, text, strlen(text), &p, NULL) == 0);
    CHECK_STR(p.metadata.name, "p");
    CHECK_INT(p.metadata.labels.n, 2);
    CHECK_STR(str_map_get(&p.metadata.labels, "b"), "3");
    CHECK_STR(str_map_get(&p.metadata.labels, "c"), NULL);
    REQUIRE(p.spec.containers.n == 1);
    CHECK_STR(p.spec.containers.items[0].image, "i");
    CHECK_INT(*p.spec.termination_grace_period_seconds, 7);
    CHECK_STR(p.status.phase, CORE_POD_PHASE_RUNNING);
    CHECK(!p.metadata.creation_timestamp.set);
    arena_free(a);
}

TEST(json_errors_are_reported_wherever_they_are) {
    const char *text =
        "{\"metadata\":{\"name\":\"p\"},\"spec\":{\"containers\":[{\"name\":\"c\",\"command\":[\"a\",\"b\"]}]}}";
    struct arena *a = arena_new();
    struct core_pod p;
    for (size_t n = 0; n < strlen(text); n++)
        if (api_from_json(a, &api_core_pod, text, n, &p, NULL) == 0) TEST_FAIL("%zu bytes were enough", n);
    CHECK(api_from_json(a, &api_core_pod, text, strlen(text), &p, NULL) == 0);
    arena_free(a);
}

TEST(hand_filled_maps_are_written_in_order) {
    struct buf b = BUF_INIT;
    struct str_map_entry entries[] = {{"z", "1"}, {"a", "2"}};
    struct core_config_map m = {.data = {entries, 2}};
    api_to_json(&b, &api_core_config_map, &m);
    CHECK_STR(b.data, "{\"metadata\":{},\"data\":{\"a\":\"2\",\"z\":\"1\"}}");
    buf_done(&b);
}

/* ---- protobuf ---- */

static void check_bytes(const struct buf *b, const char *want, size_t n) {
    CHECK_INT(b->len, n);
    CHECK(b->len == n && memcmp(b->data, want, n) == 0);
}

TEST(kubernetes_protobuf_writes_zero_values) {
    struct buf b = BUF_INIT;
    struct core_container_port p = {.container_port = 300, .protocol = "TCP"};
    api_to_proto(&b, &api_core_container_port, &p);
    check_bytes(&b, "\x0a\x00\x10\x00\x18\xac\x02\x22\x03TCP\x2a\x00", 14);
    buf_done(&b);
}

TEST(grpc_protobuf_leaves_zero_values_out) {
    struct buf b = BUF_INIT;
    struct cri_pod_sandbox_metadata m = {.name = "n", .attempt = 1};
    struct cri_pod_sandbox_config c = {.metadata = &m};
    struct cri_run_pod_sandbox_request r = {.config = &c, .runtime_handler = ""};
    api_to_proto(&b, &api_cri_run_pod_sandbox_request, &r);
    check_bytes(&b, "\x0a\x07\x0a\x05\x0a\x01n\x20\x01", 9);
    struct arena *a = arena_new();
    struct cri_run_pod_sandbox_request back;
    REQUIRE(api_from_proto(a, &api_cri_run_pod_sandbox_request, (uint8_t *)b.data, b.len, &back, NULL) == 0);
    CHECK_STR(back.config->metadata->name, "n");
    CHECK(!back.config->linux);
    arena_free(a);
    buf_done(&b);
}

TEST(oneof_members_are_written_even_when_zero) {
    struct buf b = BUF_INIT;
    int64_t zero = 0;
    struct etcd_compare c = {
        .target = ETCD_COMPARE_TARGET_MOD, .mod_revision = &zero, .key = {(const uint8_t *)"k", 1}};
    api_to_proto(&b, &api_etcd_compare, &c);
    check_bytes(&b, "\x10\x02\x1a\x01k\x30\x00", 7);
    buf_reset(&b);
    api_to_json(&b, &api_etcd_compare, &c);
    CHECK_STR(b.data, "{\"target\":\"MOD\",\"key\":\"aw==\",\"mod_revision\":\"0\"}");
    buf_done(&b);
}

TEST(proto3_json_takes_numbers_as_strings_and_enums_by_name) {
    struct arena *a = arena_new();
    struct etcd_watch_response w;
    const char *text =
        "{\"header\":{\"revision\":\"9007199254740993\",\"cluster_id\":\"14841639068965178418\"},\"watch_id\":3,"
        "\"events\":[{\"type\":\"DELETE\",\"kv\":{\"key\":\"aw==\",\"mod_revision\":\"7\"}}]}";
    REQUIRE(api_from_json(a, &api_etcd_watch_response, text, strlen(text), &w, NULL) == 0);
    CHECK(w.header->revision == 9007199254740993);
    CHECK(w.header->cluster_id == UINT64_C(14841639068965178418));
    CHECK_INT(w.watch_id, 3);
    REQUIRE(w.events.n == 1);
    CHECK_INT(w.events.items[0].type, ETCD_EVENT_TYPE_DELETE);
    CHECK_INT(w.events.items[0].kv->mod_revision, 7);
    arena_free(a);
}

TEST(lists_of_numbers_are_read_packed_or_not) {
    static const uint8_t packed[] = {0x1a, 0x03, 1, 0xac, 0x02}, plain[] = {0x18, 1, 0x18, 0xac, 0x02};
    struct arena *a = arena_new();
    struct cri_linux_container_user u;
    REQUIRE(api_from_proto(a, &api_cri_linux_container_user, packed, sizeof(packed), &u, NULL) == 0);
    REQUIRE(u.supplemental_groups.n == 2);
    CHECK_INT(u.supplemental_groups.items[1], 300);
    REQUIRE(api_from_proto(a, &api_cri_linux_container_user, plain, sizeof(plain), &u, NULL) == 0);
    CHECK_INT(u.supplemental_groups.n, 2);
    struct buf b = BUF_INIT;
    api_to_proto(&b, &api_cri_linux_container_user, &u);
    check_bytes(&b, (const char *)packed, sizeof(packed));
    buf_done(&b);
    arena_free(a);
}

TEST(wrapped_lists_and_maps_of_lists_survive_protobuf) {
    struct arena *a = arena_new();
    struct json *out;
    struct buf b = BUF_INIT;
    const char *text = "{\"username\":\"u\",\"extra\":{\"k\":[\"a\",\"b\"],\"z\":[]}}";
    api_tree_to_proto(&b, &api_authentication_user_info, parse(a, text));
    REQUIRE(api_tree_from_proto(a, &api_authentication_user_info, (uint8_t *)b.data, b.len, &out, NULL) == 0);
    CHECK_STR(json_text(a, out), text);
    buf_done(&b);
    arena_free(a);
}

TEST(malformed_protobuf_is_refused) {
    struct arena *a = arena_new();
    struct core_pod p;
    static const struct {
        const char *bytes;
        size_t n;
    } bad[] = {{"\x0a", 1},
               {"\x0a\x05", 2},
               {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11},
               {"\x0b", 1},
               {"\x08\x01", 2},
               {"\x0a\x03\x0a\x01\xff", 5},
               {"\x00\x00", 2},
               {"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 11}};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        if (api_from_proto(a, &api_core_pod, (const uint8_t *)bad[i].bytes, bad[i].n, &p, NULL) != -EINVAL)
            TEST_FAIL("case %zu passed", i);
    arena_free(a);
}

TEST(protobuf_nesting_has_a_limit) {
    struct buf b = BUF_INIT;
    struct arena *a = arena_new();
    for (int depth = 0; depth < 200; depth++) { /* JSONSchemaProps.not, field 28, around what is there */
        struct buf outer = BUF_INIT;
        buf_add(&outer, "\xe2\x01", 2);
        size_t n = b.len;
        for (; n >= 0x80; n >>= 7) buf_addc(&outer, (char)(n | 0x80));
        buf_addc(&outer, (char)n);
        buf_add(&outer, str_or_empty(b.data), b.len);
        buf_done(&b);
        b = outer;
    }
    struct apiextensions_json_schema_props p;
    struct err e = {0};
    CHECK_INT(api_from_proto(a, &api_apiextensions_json_schema_props, (uint8_t *)b.data, b.len, &p, &e), -EINVAL);
    CHECK_STR(e.msg, "protobuf: nested too deeply");
    buf_done(&b);
    arena_free(a);
}

TEST(nul_bytes_survive_both_encodings) {
    struct arena *a = arena_new();
    struct json *out;
    struct buf b = BUF_INIT;
    api_tree_to_proto(&b, &api_core_env_var, parse(a, "{\"name\":\"a\\u0000b\"}"));
    check_bytes(&b,
                "\x0a\x03"
                "a\0b"
                "\x12\x00",
                7);
    REQUIRE(api_tree_from_proto(a, &api_core_env_var, (uint8_t *)b.data, b.len, &out, NULL) == 0);
    CHECK_STR(json_text(a, out), "{\"name\":\"a\\u0000b\"}");
    buf_done(&b);
    arena_free(a);
}

TEST(envelope_carries_kind_and_version) {
    struct buf b = BUF_INIT;
    struct arena *a = arena_new();
    const char *version, *kind;
    struct bytes raw;
    api_proto_wrap(&b, "apps/v1", "Deployment", "xyz", 3);
    REQUIRE(api_proto_unwrap(a, (uint8_t *)b.data, b.len, &version, &kind, &raw, NULL) == 0);
    CHECK_STR(version, "apps/v1");
    CHECK_STR(kind, "Deployment");
    CHECK(raw.n == 3 && memcmp(raw.p, "xyz", 3) == 0);
    CHECK_INT(api_proto_unwrap(a, (uint8_t *)"{}", 2, &version, &kind, &raw, NULL), -EINVAL);
    buf_done(&b);
    arena_free(a);
}

/* ---- look-ups ---- */

TEST(kinds_are_found_by_group_and_version) {
    CHECK(api_type_find("", "v1", "Pod") == &api_core_pod);
    CHECK(api_type_find("apps", "v1", "Deployment") == &api_apps_deployment);
    CHECK(api_type_find("apps", "v1", "DeleteOptions") == &api_meta_delete_options);
    CHECK(!api_type_find("apps", "v1", "Pod"));
    CHECK(!api_type_find("", "v1", "PodSpec"));
    CHECK(api_type_by_openapi("io.k8s.api.core.v1.PodSpec") == &api_core_pod_spec);
}

TEST(merge_and_apply_behaviour_is_in_the_descriptors) {
    const struct api_field *f = api_field_find(&api_core_pod_spec, "containers");
    REQUIRE(f && f->list_keys);
    CHECK(f->flags & API_F_LIST_MAP && f->flags & API_F_PATCH_MERGE && f->flags & API_F_REQUIRED);
    CHECK_STR(f->patch_key, "name");
    CHECK_STR(f->list_keys[0], "name");
    f = api_field_find(&api_core_service_spec, "ports");
    CHECK_STR(f->patch_key, "port");
    CHECK_STR(f->list_keys[1], "protocol");
    CHECK(api_field_find(&api_core_volume, "hostPath")->offset == offsetof(struct core_volume, host_path));
    CHECK(api_meta_label_selector.atomic);
}

TEST(grpc_methods_have_paths_and_types) {
    const struct api_rpc *r = &api_rpc_cri_runtime_service_run_pod_sandbox;
    CHECK_STR(r->path, "/runtime.v1.RuntimeService/RunPodSandbox");
    CHECK(r->request == &api_cri_run_pod_sandbox_request && r->response == &api_cri_run_pod_sandbox_response);
    CHECK(api_rpc_etcd_watch_watch.client_stream && api_rpc_etcd_watch_watch.server_stream);
}
