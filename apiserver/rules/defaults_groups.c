/* Defaults of every group but core: apps, batch, autoscaling, networking, storage, rbac,
 * admissionregistration and the rest. Upstream: pkg/apis/<group>/<version>/defaults.go. */
#include <ctype.h>

#include "apiserver/rules/kinds.h"

static struct json *spec_of(struct rules_ctx *c, struct json *obj) { return json_ensure_object(c->a, obj, "spec"); }

static void def_text(struct arena *a, struct json *o, const char *key, const char *text) {
    if (jget(o, key)) return;
    struct json *v;
    if (json_parse(a, text, strlen(text), &v, NULL, NULL) == 0) json_set(a, o, key, v);
}

/* ---- apps ---- */

DEFAULTS_FN(deployment) {
    struct json *spec = spec_of(c, obj), *strategy = json_ensure_object(c->a, spec, "strategy");
    default_pod_template(c, json_ensure_object(c->a, spec, "template"));
    def_int(c->a, spec, "replicas", 1);
    def_str(c->a, strategy, "type", "RollingUpdate");
    if (str_eq(jstr(strategy, "type"), "RollingUpdate")) {
        struct json *ru = json_ensure_object(c->a, strategy, "rollingUpdate");
        def_text(c->a, ru, "maxUnavailable", "\"25%\"");
        def_text(c->a, ru, "maxSurge", "\"25%\"");
    }
    def_int(c->a, spec, "revisionHistoryLimit", 10);
    def_int(c->a, spec, "progressDeadlineSeconds", 600);
}

DEFAULTS_FN(daemon_set) {
    struct json *spec = spec_of(c, obj), *strategy = json_ensure_object(c->a, spec, "updateStrategy");
    default_pod_template(c, json_ensure_object(c->a, spec, "template"));
    def_str(c->a, strategy, "type", "RollingUpdate");
    if (str_eq(jstr(strategy, "type"), "RollingUpdate")) {
        struct json *ru = json_ensure_object(c->a, strategy, "rollingUpdate");
        def_int(c->a, ru, "maxUnavailable", 1);
        def_int(c->a, ru, "maxSurge", 0);
    }
    def_int(c->a, spec, "revisionHistoryLimit", 10);
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    def_str(c->a, json_ensure_object(c->a, meta, "annotations"), TEMPLATE_GENERATION, "0");
}

DEFAULTS_FN(stateful_set) {
    struct json *spec = spec_of(c, obj), *strategy = json_ensure_object(c->a, spec, "updateStrategy"), *claim;
    default_pod_template(c, json_ensure_object(c->a, spec, "template"));
    def_str(c->a, spec, "podManagementPolicy", "OrderedReady");
    if (str_empty(json_get_str(strategy, "type"))) {
        json_set_str(c->a, strategy, "type", "RollingUpdate");
        json_ensure_object(c->a, strategy, "rollingUpdate");
    }
    struct json *ru = jget(strategy, "rollingUpdate");
    if (str_eq(jstr(strategy, "type"), "RollingUpdate") && ru) {
        def_int(c->a, ru, "partition", 0);
    }
    struct json *retain = json_ensure_object(c->a, spec, "persistentVolumeClaimRetentionPolicy");
    def_str(c->a, retain, "whenDeleted", "Retain");
    def_str(c->a, retain, "whenScaled", "Retain");
    def_int(c->a, spec, "replicas", 1);
    def_int(c->a, spec, "revisionHistoryLimit", 10);
    JSON_FOREACH(claim, json_get(spec, "volumeClaimTemplates")) {
        json_set_str(c->a, claim, "kind", "PersistentVolumeClaim");
        json_set_str(c->a, claim, "apiVersion", "v1");
        def_str(c->a, json_ensure_object(c->a, claim, "status"), "phase", "Pending");
        default_pvc_spec(c->a, json_ensure_object(c->a, claim, "spec"));
    }
}

DEFAULTS_FN(replica_set) {
    struct json *spec = spec_of(c, obj);
    default_pod_template(c, json_ensure_object(c->a, spec, "template"));
    def_int(c->a, spec, "replicas", 1);
}

/* ---- batch ---- */

static void default_job_spec(struct rules_ctx *c, struct json *spec, bool whole) {
    struct json *rule, *pattern;
    default_pod_template(c, json_ensure_object(c->a, spec, "template"));
    JSON_FOREACH(rule, json_at(spec, "podFailurePolicy", "rules", NULL))
        JSON_FOREACH(pattern, json_get(rule, "onPodConditions")) def_str(c->a, pattern, "status", "True");
    if (!whole) return;
    if (!jget(spec, "completions") && !jget(spec, "parallelism")) json_set_int(c->a, spec, "completions", 1);
    def_int(c->a, spec, "parallelism", 1);
    def_int(c->a, spec, "backoffLimit", jget(spec, "backoffLimitPerIndex") ? INT32_MAX : 6);
    def_ptr(c->a, spec, "completionMode", "NonIndexed");
    def_bool(c->a, spec, "suspend", false);
    def_ptr(c->a, spec, "podReplacementPolicy", jget(spec, "podFailurePolicy") ? "Failed" : "TerminatingOrFailed");
    def_bool(c->a, spec, "manualSelector", false);
}

DEFAULTS_FN(job) {
    struct json *spec = spec_of(c, obj);
    default_job_spec(c, spec, true);
    struct json *labels = json_at(spec, "template", "metadata", "labels", NULL);
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    if (json_len(labels) && !json_len(json_get(meta, "labels")))
        json_set(c->a, meta, "labels", json_clone(c->a, labels));
}

DEFAULTS_FN(cron_job) {
    struct json *spec = spec_of(c, obj);
    default_job_spec(c, json_ensure_object(c->a, json_ensure_object(c->a, spec, "jobTemplate"), "spec"), false);
    def_str(c->a, spec, "concurrencyPolicy", "Allow");
    def_bool(c->a, spec, "suspend", false);
    def_int(c->a, spec, "successfulJobsHistoryLimit", 3);
    def_int(c->a, spec, "failedJobsHistoryLimit", 1);
}

/* ---- autoscaling ---- */

static void default_scaling_rules(struct arena *a, struct json *behavior, const char *key, const char *policies,
                                  bool window) {
    struct json *rules = json_ensure_object(a, behavior, key);
    if (window) def_int(a, rules, "stabilizationWindowSeconds", 0);
    def_ptr(a, rules, "selectPolicy", "Max");
    def_text(a, rules, "policies", policies);
}

DEFAULTS_FN(hpa) {
    struct json *spec = spec_of(c, obj), *behavior = jget(spec, "behavior");
    def_int(c->a, spec, "minReplicas", 1);
    if (str_eq(c->version, "v1")) {
        const struct json *notes = json_at(obj, "metadata", "annotations", NULL);
        if (!jget(notes, "autoscaling.alpha.kubernetes.io/metrics"))
            def_int(c->a, spec, "targetCPUUtilizationPercentage", 80);
        return;
    }
    if (!json_len(json_get(spec, "metrics"))) {
        json_del(spec, "metrics");
        def_text(c->a, spec, "metrics",
                 "[{\"type\":\"Resource\",\"resource\":{\"name\":\"cpu\",\"target\":{\"type\":\"Utilization\","
                 "\"averageUtilization\":80}}}]");
    }
    if (!behavior) return;
    default_scaling_rules(c->a, behavior, "scaleUp",
                          "[{\"type\":\"Pods\",\"value\":4,\"periodSeconds\":15},"
                          "{\"type\":\"Percent\",\"value\":100,\"periodSeconds\":15}]",
                          true);
    default_scaling_rules(c->a, behavior, "scaleDown", "[{\"type\":\"Percent\",\"value\":100,\"periodSeconds\":15}]",
                          false);
}

/* ---- admissionregistration ---- */

static void default_rules_scope(struct arena *a, struct json *rules) {
    struct json *r;
    JSON_FOREACH(r, rules) def_ptr(a, r, "scope", "*");
}

DEFAULTS_FN(webhooks) {
    struct json *w;
    JSON_FOREACH(w, json_get(obj, "webhooks")) {
        def_ptr(c->a, w, "failurePolicy", "Fail");
        def_ptr(c->a, w, "matchPolicy", "Equivalent");
        json_ensure_object(c->a, w, "namespaceSelector");
        json_ensure_object(c->a, w, "objectSelector");
        def_int(c->a, w, "timeoutSeconds", 10);
        if (str_eq(c->kind, "MutatingWebhookConfiguration")) def_ptr(c->a, w, "reinvocationPolicy", "Never");
        default_rules_scope(c->a, json_get(w, "rules"));
        struct json *svc = json_at(w, "clientConfig", "service", NULL);
        if (svc) def_int(c->a, svc, "port", 443);
    }
}

static void default_match_resources(struct arena *a, struct json *m) {
    if (!m) return;
    def_ptr(a, m, "matchPolicy", "Equivalent");
    json_ensure_object(a, m, "namespaceSelector");
    json_ensure_object(a, m, "objectSelector");
    default_rules_scope(a, json_get(m, "resourceRules"));
    default_rules_scope(a, json_get(m, "excludeResourceRules"));
}

DEFAULTS_FN(admission_policy) {
    struct json *spec = spec_of(c, obj);
    def_ptr(c->a, spec, "failurePolicy", "Fail");
    default_match_resources(c->a, jget(spec, "matchConstraints"));
}

DEFAULTS_FN(admission_policy_binding) { default_match_resources(c->a, jget(spec_of(c, obj), "matchResources")); }

/* ---- storage ---- */

DEFAULTS_FN(storage_class) {
    def_ptr(c->a, obj, "reclaimPolicy", "Delete");
    def_ptr(c->a, obj, "volumeBindingMode", "Immediate");
}

DEFAULTS_FN(csi_driver) {
    struct json *spec = spec_of(c, obj);
    def_bool(c->a, spec, "attachRequired", true);
    def_bool(c->a, spec, "podInfoOnMount", false);
    def_bool(c->a, spec, "storageCapacity", false);
    def_ptr(c->a, spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if (!json_len(json_get(spec, "volumeLifecycleModes"))) {
        json_del(spec, "volumeLifecycleModes");
        def_text(c->a, spec, "volumeLifecycleModes", "[\"Persistent\"]");
    }
    def_bool(c->a, spec, "requiresRepublish", false);
    def_bool(c->a, spec, "seLinuxMount", false);
}

/* ---- flowcontrol ---- */

DEFAULTS_FN(flow_schema) {
    struct json *spec = spec_of(c, obj);
    if (json_get_int(spec, "matchingPrecedence", 0) == 0) json_set_int(c->a, spec, "matchingPrecedence", 1000);
}

DEFAULTS_FN(priority_level) {
    struct json *spec = spec_of(c, obj), *limited = jget(spec, "limited"), *exempt = jget(spec, "exempt");
    if (exempt) {
        def_int(c->a, exempt, "nominalConcurrencyShares", 0);
        def_int(c->a, exempt, "lendablePercent", 0);
    }
    if (!limited) return;
    def_int(c->a, limited, "nominalConcurrencyShares", 30);
    def_int(c->a, limited, "lendablePercent", 0);
    struct json *q = json_at(limited, "limitResponse", "queuing", NULL);
    if (!q) return;
    if (json_get_int(q, "handSize", 0) == 0) json_set_int(c->a, q, "handSize", 8);
    if (json_get_int(q, "queues", 0) == 0) json_set_int(c->a, q, "queues", 64);
    if (json_get_int(q, "queueLengthLimit", 0) == 0) json_set_int(c->a, q, "queueLengthLimit", 50);
}

/* ---- networking, discovery ---- */

static void default_policy_ports(struct arena *a, struct json *rules) {
    struct json *r, *p;
    JSON_FOREACH(r, rules)
        JSON_FOREACH(p, json_get(r, "ports")) def_ptr(a, p, "protocol", "TCP");
}

DEFAULTS_FN(network_policy) {
    struct json *spec = spec_of(c, obj);
    default_policy_ports(c->a, json_get(spec, "ingress"));
    default_policy_ports(c->a, json_get(spec, "egress"));
    if (json_len(json_get(spec, "policyTypes"))) return;
    json_del(spec, "policyTypes");
    def_text(c->a, spec, "policyTypes",
             json_len(json_get(spec, "egress")) ? "[\"Ingress\",\"Egress\"]" : "[\"Ingress\"]");
}

DEFAULTS_FN(ingress_class) {
    struct json *p = json_at(obj, "spec", "parameters", NULL);
    if (p) def_ptr(c->a, p, "scope", "Cluster");
}

DEFAULTS_FN(endpoint_slice) {
    struct json *p;
    JSON_FOREACH(p, json_get(obj, "ports")) {
        def_text(c->a, p, "name", "\"\"");
        def_ptr(c->a, p, "protocol", "TCP");
    }
}

/* ---- rbac ---- */

DEFAULTS_FN(role_binding) {
    struct json *s;
    def_str(c->a, json_ensure_object(c->a, obj, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
    JSON_FOREACH(s, json_get(obj, "subjects"))
        if (str_in(jstr(s, "kind"), ONE_OF("User", "Group"))) def_str(c->a, s, "apiGroup", "rbac.authorization.k8s.io");
}

/* ---- resource ---- */

static void default_device_request(struct arena *a, struct json *r) {
    struct json *t;
    if (!r) return;
    def_str(a, r, "allocationMode", "ExactCount");
    if (str_eq(jstr(r, "allocationMode"), "ExactCount") && json_get_int(r, "count", 0) == 0)
        json_set_int(a, r, "count", 1);
    JSON_FOREACH(t, json_get(r, "tolerations")) def_str(a, t, "operator", "Equal");
}

static void default_claim_spec(struct arena *a, struct json *spec) {
    struct json *r, *sub;
    JSON_FOREACH(r, json_at(spec, "devices", "requests", NULL)) {
        default_device_request(a, jget(r, "exactly"));
        JSON_FOREACH(sub, json_get(r, "firstAvailable")) default_device_request(a, sub);
    }
}

DEFAULTS_FN(resource_claim) { default_claim_spec(c->a, json_get(obj, "spec")); }
DEFAULTS_FN(resource_claim_template) { default_claim_spec(c->a, json_at(obj, "spec", "spec", NULL)); }

DEFAULTS_FN(resource_slice) {
    char now[KTIME_MAX];
    struct json *d, *t;
    JSON_FOREACH(d, json_at(obj, "spec", "devices", NULL))
        JSON_FOREACH(t, json_get(d, "taints")) def_str(c->a, t, "timeAdded", ktime_format(c->now, now));
}

/* ---- the rest ---- */

DEFAULTS_FN(priority_class) { def_ptr(c->a, obj, "preemptionPolicy", "PreemptLowerPriority"); }

DEFAULTS_FN(api_service) {
    struct json *svc = json_at(obj, "spec", "service", NULL);
    if (svc) def_int(c->a, svc, "port", 443);
}

DEFAULTS_FN(crd) {
    struct json *spec = spec_of(c, obj), *names = json_ensure_object(c->a, spec, "names"), *ver;
    const char *kind = jstr(names, "kind");
    char *lower = arena_strdup(c->a, kind);
    for (char *p = lower; *p; p++) *p = (char)tolower((unsigned char)*p);
    if (*lower) def_str(c->a, names, "singular", lower);
    if (*kind) def_str(c->a, names, "listKind", arena_printf(c->a, "%sList", kind));
    def_text(c->a, spec, "conversion", "{\"strategy\":\"None\"}");
    struct json *svc = json_at(spec, "conversion", "webhook", "clientConfig", "service", NULL);
    if (svc) def_int(c->a, svc, "port", 443);
    struct json *status = json_ensure_object(c->a, obj, "status");
    if (json_len(json_get(status, "storedVersions"))) return;
    JSON_FOREACH(ver, json_get(spec, "versions")) {
        if (!json_get_bool(ver, "storage", false)) continue;
        json_append(c->a, json_ensure_array(c->a, status, "storedVersions"), json_str(c->a, jstr(ver, "name")));
        return;
    }
}
