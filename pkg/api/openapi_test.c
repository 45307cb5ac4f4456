#include "pkg/api/openapi.h"

#include "pkg/api/apps.h"
#include "pkg/api/autoscaling_v1.h"
#include "pkg/api/core.h"

#include "tests/test.h"

static const struct openapi_subresource subs[] = {
    {"status", {.type = &api_apps_deployment}, OPENAPI_GET | OPENAPI_UPDATE | OPENAPI_PATCH},
    {"scale", {.type = &api_autoscaling_v1_scale}, OPENAPI_GET | OPENAPI_UPDATE | OPENAPI_PATCH},
};
static const struct openapi_resource rows[] = {{.plural = "deployments",
                                                .namespaced = true,
                                                .kind = {.type = &api_apps_deployment},
                                                .list = {.type = &api_apps_deployment_list},
                                                .verbs = OPENAPI_ALL,
                                                .subs = subs,
                                                .n_subs = 2}};

static struct json *property(struct json *schemas, const char *type, const char *name) {
    return json_at(schemas, type, "properties", name, NULL);
}

TEST(schemas_are_closed_over_references) {
    struct arena *a = arena_new();
    const struct api_type *t[] = {&api_core_pod};
    struct json *s = openapi_v3_schemas(a, t, 1);
    CHECK(json_get(s, "io.k8s.api.core.v1.PodSpec") && json_get(s, "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"));
    CHECK(json_get(s, "io.k8s.apimachinery.pkg.api.resource.Quantity"));
    CHECK(!json_get(s, "io.k8s.api.core.v1.Service"));
    arena_free(a);
}

TEST(a_struct_value_is_a_reference_with_an_empty_default) {
    struct arena *a = arena_new();
    const struct api_type *t[] = {&api_core_pod};
    struct json *spec = json_clone(a, property(openapi_v3_schemas(a, t, 1), "io.k8s.api.core.v1.Pod", "spec"));
    json_del(spec, "description");
    CHECK_STR(json_text(a, spec),
              "{\"allOf\":[{\"$ref\":\"#/components/schemas/io.k8s.api.core.v1.PodSpec\"}],\"default\":{}}");
    spec = json_clone(a, property(openapi_v2_definitions(a, t, 1), "io.k8s.api.core.v1.Pod", "spec"));
    json_del(spec, "description");
    CHECK_STR(json_text(a, spec), "{\"$ref\":\"#/definitions/io.k8s.api.core.v1.PodSpec\"}");
    arena_free(a);
}

TEST(merge_keys_and_list_types_are_extensions) {
    struct arena *a = arena_new();
    const struct api_type *t[] = {&api_core_service};
    struct json *ports = property(openapi_v3_schemas(a, t, 1), "io.k8s.api.core.v1.ServiceSpec", "ports");
    CHECK_STR(json_get_str(ports, "x-kubernetes-list-type"), "map");
    CHECK_STR(json_text(a, json_get(ports, "x-kubernetes-list-map-keys")), "[\"port\",\"protocol\"]");
    CHECK_STR(json_get_str(ports, "x-kubernetes-patch-merge-key"), "port");
    CHECK_STR(json_get_str(ports, "x-kubernetes-patch-strategy"), "merge");
    arena_free(a);
}

TEST(a_row_becomes_its_paths_with_shared_parameters_at_the_path) {
    struct arena *a = arena_new();
    struct json *doc = openapi_v3_document(a, "1.36", "apps", "v1", rows, 1), *paths = json_get(doc, "paths");
    CHECK_INT(json_len(paths), 9);
    struct json *item = json_get(paths, "/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    CHECK_INT(json_len(json_get(item, "parameters")), 3);
    CHECK_STR(json_get_str(json_get(item, "patch"), "operationId"), "patchAppsV1NamespacedDeployment");
    CHECK_INT(json_len(json_at(item, "patch", "parameters", NULL)), 4);
    CHECK_STR(json_get_str(json_at(paths, "/apis/apps/v1/deployments", "get", NULL), "operationId"),
              "listAppsV1DeploymentForAllNamespaces");
    CHECK_STR(json_get_str(json_at(paths, "/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale", "get",
                                   "x-kubernetes-group-version-kind", NULL),
                           "kind"),
              "Scale");
    arena_free(a);
}

TEST(custom_kinds_bring_their_schema) {
    struct arena *a = arena_new();
    struct json *schema;
    const char *text = "{\"type\":\"object\",\"properties\":{\"spec\":{\"type\":\"object\"}}}";
    REQUIRE(json_parse(a, text, strlen(text), &schema, NULL, NULL) == 0);
    struct openapi_resource r = {
        .plural = "gadgets",
        .verbs = OPENAPI_ALL,
        .kind =
            {.group = "x.example", .version = "v1", .kind = "Gadget", .schema = schema, .name = "example.x.v1.Gadget"},
        .list = {.group = "x.example", .version = "v1", .kind = "GadgetList", .name = "example.x.v1.GadgetList"}};
    struct json *doc = openapi_v3_document(a, "1.36", "x.example", "v1", &r, 1);
    CHECK(json_at(doc, "components", "schemas", "example.x.v1.Gadget", "properties", "spec", NULL) != NULL);
    struct json *patch =
        json_at(doc, "paths", "/apis/x.example/v1/gadgets/{name}", "patch", "requestBody", "content", NULL);
    CHECK(json_get(patch, "application/merge-patch+json") &&
          !json_get(patch, "application/strategic-merge-patch+json"));
    CHECK(!json_at(doc, "paths", "/apis/x.example/v1/watch/gadgets", NULL));
    arena_free(a);
}

TEST(version_two_is_written_as_protobuf) {
    struct arena *a = arena_new();
    struct buf b = BUF_INIT;
    struct json *doc = openapi_v2_begin(a, "1.36");
    openapi_v2_add(a, doc, "apps", "v1", rows, 1);
    openapi_v2_end(a, doc);
    CHECK(json_at(doc, "definitions", "io.k8s.api.apps.v1.Deployment", NULL) != NULL);
    CHECK(json_at(doc, "paths", "/apis/apps/", NULL) != NULL);
    openapi_v2_to_proto(&b, doc);
    static const char start[] =
        "\x0a\x03"
        "2.0\x12\x12\x0a\x0aKubernetes\x12\x04"
        "1.36";
    CHECK(b.len > 10000 && memcmp(b.data, start, sizeof(start) - 1) == 0);
    buf_done(&b);
    arena_free(a);
}
