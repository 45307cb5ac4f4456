/* What discovery and OpenAPI say of metrics.k8s.io. Constant texts: the API has two kinds and never changes.
 */
#include "apiserver/usage/internal.h"

#define GROUP "metrics.k8s.io"
#define BASE "/apis/" GROUP "/v1beta1"
#define NAME(kind) "io.k8s.metrics.pkg.apis.metrics.v1beta1." kind
#define REF(kind) "{\"$ref\":\"#/definitions/" NAME(kind) "\"}"
#define TEXT(description) "{\"type\":\"string\",\"description\":\"" description "\"}"
#define OBJECT(description) "{\"type\":\"object\",\"description\":\"" description "\"}"
#define GVK(kind) "{\"group\":\"" GROUP "\",\"version\":\"v1beta1\",\"kind\":\"" kind "\"}"
#define IS(kind) ",\"x-kubernetes-group-version-kind\":[" GVK(kind) "]}"

// clang-format off
const char usage_resources[] =
    "{\"kind\":\"APIResourceList\",\"apiVersion\":\"v1\",\"groupVersion\":\"" GROUP "/v1beta1\","
      "\"resources\":[{\"name\":\"nodes\",\"singularName\":\"\",\"namespaced\":false,\"kind\":\"NodeMetrics\","
      "\"verbs\":[\"get\",\"list\"]},{\"name\":\"pods\",\"singularName\":\"\",\"namespaced\":true,"
      "\"kind\":\"PodMetrics\",\"verbs\":[\"get\",\"list\"]}]}";

#define TYPE_META "\"kind\":" TEXT("kind of the object") ",\"apiVersion\":" TEXT("version of its API")
#define USAGE "\"usage\":{\"type\":\"object\",\"description\":\"cpu and memory in use\",\"additionalProperties\":" TEXT("a quantity") "}"
#define MEASURED TYPE_META ",\"metadata\":" OBJECT("name, namespace and labels") \
    ",\"timestamp\":" TEXT("end of the interval that was measured") ",\"window\":" TEXT("length of the interval")
#define LIST(kind) \
    "\"" NAME(kind "List") "\":{\"type\":\"object\",\"description\":\"list of " kind "\",\"required\":[\"items\"]," \
      "\"properties\":{" TYPE_META ",\"metadata\":" OBJECT("of the list") \
      ",\"items\":{\"type\":\"array\",\"items\":" REF(kind) "}}" IS(kind "List")

const char usage_definitions[] =
    "{\"" NAME("NodeMetrics") "\":{\"type\":\"object\",\"description\":\"what a node uses\","
      "\"properties\":{" MEASURED "," USAGE "}" IS("NodeMetrics") ","
    "\"" NAME("PodMetrics") "\":{\"type\":\"object\",\"description\":\"what the containers of a pod use\","
      "\"properties\":{" MEASURED ",\"containers\":{\"type\":\"array\",\"items\":" REF("ContainerMetrics") "}}" IS("PodMetrics") ","
    "\"" NAME("ContainerMetrics") "\":{\"type\":\"object\",\"description\":\"what a container uses\","
      "\"properties\":{\"name\":" TEXT("name of the container") "," USAGE "}},"
    LIST("NodeMetrics") "," LIST("PodMetrics") "}";

#define READ(path, id, action, kind, answer) \
    "\"" BASE path "\":{\"get\":{\"operationId\":\"" id "\",\"produces\":[\"application/json\"]," \
      "\"description\":\"" action " objects of kind " kind "\",\"x-kubernetes-action\":\"" action "\"," \
      "\"x-kubernetes-group-version-kind\":" GVK(kind) "," \
      "\"responses\":{\"200\":{\"description\":\"OK\",\"schema\":" REF(answer) "}}}}"

const char usage_paths[] = "{"
    READ("/nodes", "listMetricsV1beta1NodeMetrics", "list", "NodeMetrics", "NodeMetricsList") ","
    READ("/nodes/{name}", "readMetricsV1beta1NodeMetrics", "get", "NodeMetrics", "NodeMetrics") ","
    READ("/pods", "listMetricsV1beta1PodMetricsForAllNamespaces", "list", "PodMetrics", "PodMetricsList") ","
    READ("/namespaces/{namespace}/pods", "listMetricsV1beta1NamespacedPodMetrics", "list", "PodMetrics", "PodMetricsList") ","
    READ("/namespaces/{namespace}/pods/{name}", "readMetricsV1beta1NamespacedPodMetrics", "get", "PodMetrics", "PodMetrics")
    "}";
