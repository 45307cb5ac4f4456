/* The rules on small objects: what is filled in, what is found wrong, what an update and a deletion may do. */
#include "apiserver/rules/pod_standards.h"
#include "apiserver/rules/test_world.h"

static const char *create_findings(struct world *w, struct json *obj) {
    _cleanup_err_ struct err e = {0};
    int r = rules_prepare_create(&w->c, obj, &e);
    if (r == 0) r = admission_mutate(&w->c, obj, NULL, &e);
    if (r == 0) r = rules_validate_create(&w->c, obj, &e);
    if (r == 0) return "";
    return e.n_causes ? causes(w->a, &e) : arena_strdup(w->a, e.reason);
}

#define SA                                                                    \
    "{\"namespaces//n\":{\"metadata\":{\"name\":\"n\"}},\"serviceaccounts/n/" \
    "default\":{\"metadata\":{\"name\":\"default\"}}}"

/* ---- defaults ---- */

TEST(an_image_without_tag_is_pulled_always) {
    _cleanup_world_ struct world w;
    static const struct {
        const char *image, *policy;
    } cases[] = {
        {"nginx", "Always"},
        {"nginx:latest", "Always"},
        {"nginx:1.25", "IfNotPresent"},
        {"r.example:5000/nginx", "Always"},
        {"r.example:5000/nginx:1", "IfNotPresent"},
        {"nginx@sha256:abc", "IfNotPresent"},
    };
    world_init(&w, "", "v1", "Pod", "pods");
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct json *pod = decode(
            &w, arena_printf(w.a, "{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"%s\"}]}}", cases[i].image));
        const struct json *k = json_item(json_at(pod, "spec", "containers", NULL), 0);
        CHECK_STR(json_get_str(k, "imagePullPolicy"), cases[i].policy);
    }
}

TEST(a_pods_requests_follow_its_limits) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Pod", "pods");
    struct json *pod = decode(&w,
                              "{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i:1\","
                              "\"resources\":{\"limits\":{\"cpu\":\"1\"}}}]}}");
    const struct json *k = json_item(json_at(pod, "spec", "containers", NULL), 0);
    CHECK_STR(json_as_str(json_at(k, "resources", "requests", "cpu", NULL)), "1");
    CHECK(json_get_bool(json_get(pod, "spec"), "enableServiceLinks", false));
}

TEST(a_secrets_stringData_becomes_data) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Secret", "secrets");
    struct json *s = decode(&w, "{" META ",\"stringData\":{\"k\":\"v\"},\"data\":{\"k\":\"b2xk\"}}");
    CHECK_STR(json_as_str(json_at(s, "data", "k", NULL)), "dg==");
    CHECK(!json_get(s, "stringData"));
    CHECK_STR(json_get_str(s, "type"), "Opaque");
}

/* ---- validation ---- */

TEST(findings_name_reason_and_field) {
    static const struct {
        const char *group, *version, *kind, *plural, *body, *want;
    } cases[] = {
        {"", "v1", "ConfigMap", "configmaps", "{" META ",\"data\":{\"a/b\":\"1\"}}", "Invalid data[a/b]"},
        {"", "v1", "ConfigMap", "configmaps",
         "{\"metadata\":{\"name\":\"Bad_\",\"labels\":{\"a b\":\"c\",\"ok\":\"not ok!\"}}}",
         "Invalid metadata.name, Invalid metadata.labels, Invalid metadata.labels"},
        {"", "v1", "Pod", "pods", "{" META ",\"spec\":{}}", "Required spec.containers"},
        {"", "v1", "Pod", "pods",
         "{" META ",\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\",\"volumeMounts\":[{\"name\":\"v\","
         "\"mountPath\":\"/\"}]}]}}",
         "NotFound spec.containers[0].volumeMounts[0].name"},
        {"", "v1", "Pod", "pods",
         "{" META ",\"spec\":{\"restartPolicy\":\"Maybe\",\"containers\":[{\"name\":\"c\",\"image\":\"i\","
         "\"ports\":[{\"containerPort\":99999}]}]}}",
         "Invalid spec.containers[0].ports[0].containerPort, NotSupported spec.restartPolicy"},
        {"", "v1", "Service", "services", "{" META ",\"spec\":{\"ports\":[{\"port\":80},{\"port\":81}]}}",
         "Required spec.ports[0].name, Required spec.ports[1].name"},
        {"", "v1", "Service", "services",
         "{" META ",\"spec\":{\"clusterIP\":\"192.168.0.1\",\"ports\":[{\"port\":80}]}}", "Invalid spec.clusterIPs"},
        /* what it cannot have is all that is said */
        {"", "v1", "Service", "services", "{" META ",\"spec\":{\"clusterIP\":\"192.168.0.1\",\"ports\":[]}}",
         "Invalid spec.clusterIPs"},
        {"", "v1", "Service", "services", "{" META ",\"spec\":{\"ipFamilies\":[\"IPv6\"],\"ports\":[{\"port\":0}]}}",
         "Invalid spec.ipFamilies[0]"},
        {"", "v1", "Service", "services",
         "{" META ",\"spec\":{\"externalIPs\":[\"::ffff:1.2.3.4\"],\"type\":\"LoadBalancer\","
         "\"loadBalancerSourceRanges\":[\"10.0.0.1/8\"],\"ports\":[{\"port\":80}]}}",
         "Invalid spec.externalIPs[0], Invalid spec.LoadBalancerSourceRanges[0]"},
        {"policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets",
         "{\"metadata\":{\"name\":\"a/b\"},\"spec\":{\"minAvailable\":-1}}", "Invalid spec.minAvailable"},
        {"apps", "v1", "Deployment", "deployments", "{" META "}",
         "Required spec.selector, Invalid spec.template.metadata.labels, Required "
         "spec.template.spec.containers"},
        {"batch", "v1", "CronJob", "cronjobs",
         "{" META ",\"spec\":{\"schedule\":\"every "
         "day\",\"jobTemplate\":{\"spec\":{\"template\":{\"spec\":{\"restartPolicy\":\"Never\","
         "\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}}}}}",
         "Invalid spec.schedule"},
        {"rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "{" META "}",
         "NotSupported roleRef.kind, Required roleRef.name"},
        {"networking.k8s.io", "v1", "Ingress", "ingresses",
         "{" META ",\"spec\":{\"rules\":[{\"http\":{\"paths\":[{\"path\":\"a\",\"pathType\":\"Prefix\","
         "\"backend\":{}}]}}]}}",
         "Invalid spec.rules[0].http.paths[0].path, Invalid spec.rules[0].http.paths[0].backend"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_world_ struct world w;
        world_init(&w, cases[i].group, cases[i].version, cases[i].kind, cases[i].plural);
        w.objects = SA;
        CHECK_STR(create_findings(&w, decode(&w, cases[i].body)), cases[i].want);
    }
}

TEST(a_right_pod_passes_and_gets_its_token) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Pod", "pods");
    w.objects = SA;
    struct json *pod = decode(&w, "{" META ",\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}");
    CHECK_STR(create_findings(&w, pod), "");
    const struct json *spec = json_get(pod, "spec");
    CHECK_STR(json_get_str(spec, "serviceAccountName"), "default");
    CHECK(str_has_prefix(str_or_empty(json_get_str(json_item(json_get(spec, "volumes"), 0), "name")),
                         "kube-api-access-"));
    CHECK_INT(json_len(json_get(spec, "tolerations")), 2);
    CHECK_INT(json_get_int(spec, "priority", -1), 0);
    CHECK_STR(json_as_str(json_at(pod, "status", "qosClass", NULL)), "BestEffort");
}

TEST(a_pod_needs_its_service_account_and_namespace) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Pod", "pods");
    const char *body =
        "{" META ",\"spec\":{\"serviceAccountName\":\"other\",\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}";
    CHECK_STR(create_findings(&w, decode(&w, body)), "NotFound");
    w.objects = SA;
    CHECK_STR(create_findings(&w, decode(&w, body)), "Forbidden");
}

TEST(pod_security_refuses_by_the_namespaces_label) {
    _cleanup_world_ struct world w;
    _cleanup_err_ struct err e = {0};
    world_init(&w, "", "v1", "Pod", "pods");
    w.objects = "{\"namespaces//n\":{\"metadata\":{\"labels\":{\"pod-security.kubernetes.io/enforce\":\"baseline\"}}}}";
    struct json *good = decode(&w, "{" META ",\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}");
    struct json *bad =
        decode(&w, "{" META ",\"spec\":{\"hostPID\":true,\"containers\":[{\"name\":\"c\",\"image\":\"i\"}]}}");
    w.c.op = RULES_CREATE;
    CHECK_INT(admission_validate(&w.c, good, NULL, &e), 0);
    CHECK(admission_validate(&w.c, bad, NULL, &e) < 0);
    CHECK_INT(e.status, 403);
}

TEST(pod_standards_know_the_releases) {
    static const struct {
        enum pod_level level;
        int minor;
        const char *spec, *want;
    } cases[] = {
        {POD_BASELINE, POD_VERSION_LATEST, "{'hostPID':true,'hostNetwork':true}",
         "host namespaces (hostNetwork=true, hostPID=true)"},
        {POD_PRIVILEGED, POD_VERSION_LATEST, "{'hostPID':true}", ""},
        {POD_BASELINE, POD_VERSION_LATEST,
         "{'containers':[{'name':'a','securityContext':{'privileged':true}},{'name':'b',"
         "'securityContext':{'privileged':true}}]}",
         "privileged (containers \"a\", \"b\" must not set securityContext.privileged=true)"},
        {POD_BASELINE, POD_VERSION_LATEST, "{'containers':[{'name':'a','ports':[{'hostPort':80},{'hostPort':443}]}]}",
         "hostPort (container \"a\" uses hostPorts 443, 80)"},
        {POD_BASELINE, 26, "{'securityContext':{'sysctls':[{'name':'net.ipv4.ip_local_reserved_ports'}]}}",
         "forbidden sysctls (net.ipv4.ip_local_reserved_ports)"},
        {POD_BASELINE, 27, "{'securityContext':{'sysctls':[{'name':'net.ipv4.ip_local_reserved_ports'}]}}", ""},
        {POD_BASELINE, 33, "{'containers':[{'name':'a','livenessProbe':{'httpGet':{'host':'h'}}}]}", ""},
        {POD_BASELINE, 34, "{'containers':[{'name':'a','livenessProbe':{'httpGet':{'host':'h'}}}]}",
         "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"h\")"},
        {POD_RESTRICTED, 7, "{'containers':[{'name':'a'}]}",
         "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)"},
        {POD_RESTRICTED, 24,
         "{'os':{'name':'windows'},'securityContext':{'runAsNonRoot':true},'containers':[{'name':'a'}]}",
         "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), "
         "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), "
         "seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or "
         "\"Localhost\")"},
        {POD_RESTRICTED, 25,
         "{'os':{'name':'windows'},'securityContext':{'runAsNonRoot':true},'containers':[{'name':'a'}]}", ""},
        {POD_RESTRICTED, 21, "{'volumes':[{'name':'v','hostPath':{'path':'/'}}]}",
         "restricted volume types (volume \"v\" uses restricted volume type \"hostPath\")"},
        {POD_RESTRICTED, 35, "{'os':{'name':'windows'},'hostUsers':false,'containers':[{'name':'a'}]}", ""},
    };
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text = arena_strdup(a, cases[i].spec);
        for (char *p = text; *p; p++)
            if (*p == '\'') *p = '"';
        struct json *spec = NULL;
        REQUIRE(json_parse(a, text, strlen(text), &spec, NULL, NULL) == 0);
        struct pod_standard s = {cases[i].level, cases[i].minor};
        CHECK_STR(str_or_empty(pod_standard_violations(a, s, NULL, spec, true)), cases[i].want);
    }
}

#define MATCH                                                                                                         \
    "\"matchConstraints\":{\"resourceRules\":[{\"apiGroups\":[\"\"],\"apiVersions\":[\"v1\"],\"operations\":[\"*\"]," \
    "\"resources\":[\"configmaps\"]}]}"

TEST(a_validating_policy_denies_warns_and_annotates) {
    _cleanup_world_ struct world w;
    _cleanup_err_ struct err e = {0};
    world_init(&w, "", "v1", "ConfigMap", "configmaps");
    w.objects =
        "{\"namespaces//n\":{\"metadata\":{\"name\":\"n\"}},"
        "\"validatingadmissionpolicies//p\":{\"metadata\":{\"name\":\"p\"},\"spec\":{" MATCH
        ",\"variables\":[{\"name\":\"size\",\"expression\":\"object.data.size()\"}],"
        "\"auditAnnotations\":[{\"key\":\"k\",\"valueExpression\":\"string(variables.size)\"}],"
        "\"validations\":[{\"expression\":\"variables.size < 2\",\"messageExpression\":\"'has ' + "
        "string(variables.size)\",\"reason\":\"Forbidden\"}]}},"
        "\"validatingadmissionpolicybindings//b\":{\"metadata\":{\"name\":\"b\"},\"spec\":{\"policyName\":\"p\","
        "\"validationActions\":[\"Deny\",\"Audit\"]}}}";
    struct json *good = decode(&w, "{" META ",\"data\":{\"a\":\"1\"}}"),
                *bad = decode(&w, "{" META ",\"data\":{\"a\":\"1\",\"b\":\"2\"}}");
    w.c.op = RULES_CREATE;
    CHECK_INT(admission_validate(&w.c, good, NULL, &e), 0);
    CHECK_INT(w.c.n_annotations, 1);
    CHECK_STR(w.c.annotations[0].key, "p/k");
    CHECK_STR(w.c.annotations[0].value, "1");
    CHECK(admission_validate(&w.c, bad, NULL, &e) < 0);
    CHECK_INT(e.status, 403);
    REQUIRE(e.n_causes == 1);
    CHECK_STR(e.causes[0].message, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: has 2");
    CHECK_STR(w.c.annotations[1].key, "validation.policy.admission.k8s.io/validation_failure");
}

TEST(a_mutating_policy_merges_as_an_apply) {
    _cleanup_world_ struct world w;
    _cleanup_err_ struct err e = {0};
    world_init(&w, "", "v1", "ConfigMap", "configmaps");
    w.objects =
        "{\"namespaces//n\":{\"metadata\":{\"name\":\"n\"}},"
        "\"mutatingadmissionpolicies//p\":{\"metadata\":{\"name\":\"p\"},\"spec\":{" MATCH
        ",\"reinvocationPolicy\":\"Never\",\"mutations\":[{\"patchType\":\"ApplyConfiguration\","
        "\"applyConfiguration\":{\"expression\":\"Object{data: {'b': object.data.a + '!'}}\"}},"
        "{\"patchType\":\"JSONPatch\",\"jsonPatch\":{\"expression\":\"[JSONPatch{op: 'add', path: '/data/c', value: "
        "object.data.b}]\"}}]}},\"mutatingadmissionpolicybindings//b\":{\"metadata\":{\"name\":\"b\"},"
        "\"spec\":{\"policyName\":\"p\"}}}";
    struct json *obj = decode(&w, "{" META ",\"data\":{\"a\":\"1\"}}");
    w.c.op = RULES_CREATE;
    if (admission_mutate(&w.c, obj, NULL, &e)) TEST_FAIL("%s", e.msg);
    CHECK_STR(json_text(w.a, json_get(obj, "data")), "{\"a\":\"1\",\"b\":\"1!\",\"c\":\"1!\"}");
}

/* ---- updates ---- */

static const char *update_findings(struct world *w, struct json *obj, const struct json *old) {
    _cleanup_err_ struct err e = {0};
    w->c.op = RULES_UPDATE;
    int r = rules_prepare_update(&w->c, obj, old, &e);
    if (r == 0) r = rules_validate_update(&w->c, obj, old, &e);
    return r == 0 ? "" : causes(w->a, &e);
}

TEST(only_the_image_of_a_running_pods_container_changes) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Pod", "pods");
    w.objects = SA;
    struct json *old = decode(&w, "{" META ",\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"i:1\"}]}}"), *obj,
                *k;
    CHECK_STR(create_findings(&w, old), "");
    json_set_str(w.a, json_get(old, "metadata"), "resourceVersion", "7");
    obj = json_clone(w.a, old);
    k = json_item(json_at(obj, "spec", "containers", NULL), 0);
    json_set_str(w.a, k, "image", "i:2");
    CHECK_STR(update_findings(&w, obj, old), "");
    CHECK_INT(json_as_int(json_at(obj, "metadata", "generation", NULL), 0), 2);
    json_append(w.a, json_ensure_array(w.a, k, "command"), json_str(w.a, "sh"));
    CHECK_STR(update_findings(&w, obj, old), "Forbidden spec");
}

TEST(status_and_spec_are_written_apart) {
    _cleanup_world_ struct world w;
    world_init(&w, "apps", "v1", "Deployment", "deployments");
    const char *text =
        "{\"metadata\":{\"name\":\"x\",\"namespace\":\"n\",\"resourceVersion\":\"1\",\"generation\":4},"
        "\"spec\":{\"replicas\":1,\"selector\":{\"matchLabels\":{\"a\":\"b\"}},"
        "\"template\":{\"metadata\":{\"labels\":{\"a\":\"b\"}},\"spec\":{\"containers\":[{\"name\":\"c\","
        "\"image\":\"i\"}]}}},\"status\":{\"replicas\":1}}";
    struct json *old = decode(&w, text), *obj = json_clone(w.a, old);
    json_set_int(w.a, json_get(obj, "spec"), "replicas", 5);
    json_set_int(w.a, json_get(obj, "status"), "replicas", 9);
    struct json *again = json_clone(w.a, obj);
    CHECK_STR(update_findings(&w, obj, old), "");
    CHECK_INT(json_as_int(json_at(obj, "spec", "replicas", NULL), 0), 5);
    CHECK_INT(json_as_int(json_at(obj, "status", "replicas", NULL), 0), 1);
    CHECK_INT(json_as_int(json_at(obj, "metadata", "generation", NULL), 0), 5);
    w.c.subresource = "status";
    CHECK_STR(update_findings(&w, again, old), "");
    CHECK_INT(json_as_int(json_at(again, "spec", "replicas", NULL), 0), 1);
    CHECK_INT(json_as_int(json_at(again, "status", "replicas", NULL), 0), 9);
    CHECK_INT(json_as_int(json_at(again, "metadata", "generation", NULL), 0), 4);
}

/* ---- services ---- */

TEST(ports_with_one_number_get_one_node_port) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Service", "services");
    w.objects = SA;
    struct json *s = decode(&w, "{" META
                                ",\"spec\":{\"type\":\"NodePort\",\"ports\":[{\"name\":\"t\",\"port\":53},"
                                "{\"name\":\"u\",\"port\":53,\"protocol\":\"UDP\"},{\"name\":\"x\",\"port\":80}]}}");
    CHECK_STR(create_findings(&w, s), "");
    const struct json *ports = json_at(s, "spec", "ports", NULL);
    int64_t first = json_get_int(json_item(ports, 0), "nodePort", 0);
    CHECK(first >= 30000);
    CHECK_INT(json_get_int(json_item(ports, 1), "nodePort", 0), first);
    CHECK(json_get_int(json_item(ports, 2), "nodePort", 0) != first);
}

TEST(services_get_different_addresses_and_give_them_back) {
    _cleanup_world_ struct world w;
    world_init(&w, "", "v1", "Service", "services");
    w.objects = SA;
    const char *ips[200];
    for (int i = 0; i < 200; i++) {
        struct json *s = decode(&w, arena_printf(w.a,
                                                 "{\"metadata\":{\"name\":\"s%d\"},\"spec\":{\"type\":\"NodePort\","
                                                 "\"ports\":[{\"port\":80}]}}",
                                                 i));
        CHECK_STR(create_findings(&w, s), "");
        w.c.claims = NULL;
        ips[i] = json_as_str(json_at(s, "spec", "clusterIP", NULL));
        int64_t port = json_get_int(json_item(json_at(s, "spec", "ports", NULL), 0), "nodePort", 0);
        CHECK(port >= 30000 && port <= 32767);
        for (int j = 0; j < i; j++) CHECK(!str_eq(ips[j], ips[i]));
    }
    struct json *taken = decode(
        &w,
        arena_printf(w.a, "{\"metadata\":{\"name\":\"t\"},\"spec\":{\"clusterIP\":\"%s\",\"ports\":[{\"port\":80}]}}",
                     ips[0]));
    CHECK_STR(create_findings(&w, taken), "Invalid spec.clusterIPs");
    rules_stored(
        &w.c,
        parse(&w, arena_printf(
                      w.a, "{\"metadata\":{\"name\":\"s0\",\"namespace\":\"n\"},\"spec\":{\"clusterIPs\":[\"%s\"]}}",
                      ips[0])),
        NULL);
    taken = decode(
        &w,
        arena_printf(w.a, "{\"metadata\":{\"name\":\"t\"},\"spec\":{\"clusterIP\":\"%s\",\"ports\":[{\"port\":80}]}}",
                     ips[0]));
    CHECK_STR(create_findings(&w, taken), "");
}

/* ---- deletion ---- */

TEST(deletion_waits_for_finalizers_and_grace) {
    _cleanup_world_ struct world w;
    struct rules_delete_options none = {-1, NULL, -1}, now = {0, NULL, -1}, foreground = {-1, "Foreground", -1};
    world_init(&w, "", "v1", "Pod", "pods");
    struct json *idle = parse(&w, "{" META ",\"spec\":{}}");
    CHECK_INT(rules_prepare_delete(&w.c, idle, &none), RULES_DELETE_NOW);
    struct json *running = parse(&w, "{" META ",\"spec\":{\"nodeName\":\"a\",\"terminationGracePeriodSeconds\":5}}");
    CHECK_INT(rules_prepare_delete(&w.c, running, &none), RULES_DELETE_STORE);
    CHECK_INT(json_as_int(json_at(running, "metadata", "deletionGracePeriodSeconds", NULL), -1), 5);
    CHECK(!rules_update_deletes(&w.c, running));
    CHECK_INT(rules_prepare_delete(&w.c, running, &none), RULES_DELETE_NOTHING);
    CHECK_INT(rules_prepare_delete(&w.c, running, &now), RULES_DELETE_NOW);
    w.c.kind = "ConfigMap";
    struct json *held = parse(&w, "{" META "}");
    CHECK_INT(rules_prepare_delete(&w.c, held, &foreground), RULES_DELETE_STORE);
    CHECK_STR(json_as_str(json_item(json_at(held, "metadata", "finalizers", NULL), 0)), "foregroundDeletion");
    json_del(json_get(held, "metadata"), "finalizers");
    CHECK(rules_update_deletes(&w.c, held));
}

/* ---- custom resources ---- */

TEST(custom_resources_follow_their_schema) {
    _cleanup_world_ struct world w;
    _cleanup_err_ struct err e = {0};
    struct api_problems unknown = {0};
    world_init(&w, "lab.example", "v1", "Gadget", "gadgets");
    w.c.type = NULL;
    w.c.crd_schema = parse(&w,
                           "{\"type\":\"object\",\"required\":[\"spec\"],"
                           "\"properties\":{\"spec\":{\"type\":\"object\",\"required\":[\"size\"],"
                           "\"properties\":{\"size\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":10},"
                           "\"mode\":{\"type\":\"string\",\"enum\":[\"fast\",\"slow\"],\"default\":\"fast\"},"
                           "\"code\":{\"type\":\"string\",\"pattern\":\"^\\\\d{2}[a-z]+$\"}}}}}");
    struct json *g = parse(&w, "{" META ",\"spec\":{\"size\":3,\"junk\":1,\"code\":\"12ab\"}}");
    CHECK_INT(crd_normalise(&w.c, g, &unknown, &e), 0);
    CHECK_INT(unknown.n, 1);
    CHECK_STR(unknown.items[0].path, "spec.junk");
    rules_default(&w.c, g);
    CHECK_STR(json_text(w.a, json_get(g, "spec")), "{\"size\":3,\"code\":\"12ab\",\"mode\":\"fast\"}");
    w.objects = SA;
    CHECK_STR(create_findings(&w, g), "");
    CHECK_STR(create_findings(&w, parse(&w, "{" META ",\"spec\":{\"size\":11,\"mode\":\"x\",\"code\":\"zz\"}}")),
              "Invalid spec.size, NotSupported spec.mode, Invalid spec.code");
    CHECK_STR(create_findings(&w, parse(&w, "{" META ",\"spec\":{\"size\":\"3\"}}")), "TypeInvalid spec.size");
}
