/* Writes to /status: counters that may not be negative, addresses that must be addresses, conditions of fixed
 * form. Pods, Jobs and requests for certificates have files of their own. Upstream: the functions of name
 * Validate*StatusUpdate in pkg/apis/<group>/validation. */
#include "apiserver/rules/validate_status.h"

#include "apiserver/rules/crd_pattern.h"
#include "apiserver/rules/validate_device.h"
#include "apiserver/rules/validate_pod.h"

enum { SUBDOMAIN_MAX = 253 };

/* ---- counters ---- */

/* Which counters a kind has that are not negative, and those that do not exceed another. */
struct counters {
    const char *kind, *group;
    const char *const *counters;
    const char *const (*bounded)[2]; /* {smaller, larger}, up to NULL */
};
#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define PAIRS(...) ((const char *const[][2]){__VA_ARGS__, {NULL, NULL}})
static const struct counters counted[] = {
    {"Deployment", "apps",
     LIST("observedGeneration", "replicas", "updatedReplicas", "readyReplicas", "availableReplicas",
          "unavailableReplicas", "terminatingReplicas", "collisionCount"),
     PAIRS({"updatedReplicas", "replicas"}, {"readyReplicas", "replicas"}, {"availableReplicas", "replicas"},
           {"availableReplicas", "readyReplicas"})},
    {"ReplicaSet", "apps",
     LIST("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration",
          "terminatingReplicas"),
     PAIRS({"fullyLabeledReplicas", "replicas"}, {"readyReplicas", "replicas"}, {"availableReplicas", "replicas"},
           {"availableReplicas", "readyReplicas"})},
    {"ReplicationController", "",
     LIST("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"),
     PAIRS({"fullyLabeledReplicas", "replicas"}, {"readyReplicas", "replicas"}, {"availableReplicas", "replicas"},
           {"availableReplicas", "readyReplicas"})},
    {"StatefulSet", "apps",
     LIST("replicas", "readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas", "observedGeneration",
          "collisionCount"),
     PAIRS({"readyReplicas", "replicas"}, {"currentReplicas", "replicas"}, {"updatedReplicas", "replicas"},
           {"availableReplicas", "replicas"}, {"availableReplicas", "readyReplicas"})},
    {"DaemonSet", "apps",
     LIST("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady", "observedGeneration",
          "updatedNumberScheduled", "numberAvailable", "numberUnavailable", "collisionCount"),
     NULL},
    {"Job", "batch", LIST("active", "succeeded", "failed", "ready", "terminating"), NULL},
    {"HorizontalPodAutoscaler", "autoscaling", LIST("currentReplicas", "desiredReplicas"), NULL},
    {"PodDisruptionBudget", "policy", LIST("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"),
     NULL},
};

static void counters(struct vctx *v, const struct json *st, const struct json *was, const struct fp *p) {
    for (size_t i = 0; i < ARRAY_LEN(counted); i++) {
        const struct counters *c = &counted[i];
        if (!str_eq(c->kind, v->c->kind) || !str_eq(c->group, str_or_empty(v->c->group))) continue;
        for (size_t k = 0; c->counters[k]; k++) v_min(v, p, st, c->counters[k], 0);
        for (size_t k = 0; c->bounded && c->bounded[k][0]; k++)
            if (json_get_int(st, c->bounded[k][0], 0) > json_get_int(st, c->bounded[k][1], 0))
                v_invalid(v, FP(p, c->bounded[k][0]), json_get(st, c->bounded[k][0]), "cannot be greater than %s",
                          c->bounded[k][1]);
        bool collides = str_in("collisionCount", c->counters);
        if (collides && jget(was, "collisionCount") &&
            json_get_int(st, "collisionCount", INT32_MIN) < json_get_int(was, "collisionCount", 0))
            v_invalid(v, FP(p, "collisionCount"), json_get(st, "collisionCount"), "cannot be decremented");
    }
}

/* ---- core ---- */

static const char bad_ip[] = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

static void service_ingress(struct vctx *v, const struct json *obj, const struct fp *p) {
    const struct json *list = json_at(obj, "status", "loadBalancer", "ingress", NULL), *it;
    const struct fp *at = FP(FP(p, "loadBalancer"), "ingress");
    if (json_len(list) && !str_eq(jstr(json_get(obj, "spec"), "type"), "LoadBalancer")) {
        v_forbidden(v, at, "may only be used when `spec.type` is LoadBalancer");
        return;
    }
    JSON_FOREACH(it, list) {
        const char *ip = jstr(it, "ip"), *mode = json_get_str(it, "ipMode");
        if (*ip && !is_own_ip(ip, NULL)) v_invalid(v, FP(FPI(at, it_i), "ip"), json_get(it, "ip"), "%s", bad_ip);
        if (mode && !*ip)
            v_forbidden(v, FP(FPI(at, it_i), "ipMode"), "may not be specified when `ip` is not set");
        else if (mode)
            v_enum(v, FP(FPI(at, it_i), "ipMode"), json_get(it, "ipMode"), ONE_OF("Proxy", "VIP"), false);
        const char *host = jstr(it, "hostname");
        if (*host) v_subdomain(v, FP(FPI(at, it_i), "hostname"), json_get(it, "hostname"));
        if (is_ip(host, NULL))
            v_invalid(v, FP(FPI(at, it_i), "hostname"), json_get(it, "hostname"),
                      "must be a DNS name, not an IP address");
    }
}

/* The conditions that all kinds write alike (metav1.Condition). */
void validate_conditions(struct vctx *v, const struct json *list, const struct fp *p) {
    enum { REASON_MAX = 1024, MESSAGE_MAX = 32768 };
    static const char reason_form[] = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$";
    const struct json *it;
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        const char *reason = jstr(it, "reason");
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "type"), jstr(it, "type"))) {
                v_duplicate(v, FP(at, "type"), json_get(it, "type"));
                break;
            }
        v_label_name(v, FP(at, "type"), jstr(it, "type"));
        if (!str_in(jstr(it, "status"), ONE_OF("False", "True", "Unknown")))
            v_not_supported(v, FP(at, "status"), json_get(it, "status"), ONE_OF("False", "True", "Unknown"));
        v_min(v, at, it, "observedGeneration", 0);
        if (!*jstr(it, "lastTransitionTime")) v_required(v, FP(at, "lastTransitionTime"), "must be set");
        if (!*reason)
            v_required(v, FP(at, "reason"), "must be set");
        else if (!crd_pattern_matches(reason_form, reason, strlen(reason)))
            v_invalid(v, FP(at, "reason"), json_get(it, "reason"), "must begin with a letter and hold words only");
        if (strlen(reason) > REASON_MAX) v_too_long(v, FP(at, "reason"), REASON_MAX);
        if (strlen(jstr(it, "message")) > MESSAGE_MAX) v_too_long(v, FP(at, "message"), MESSAGE_MAX);
    }
}

static void node_resources(struct vctx *v, const struct json *st, const struct fp *p) {
    static const char *const lists[] = {"capacity", "allocatable"};
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH_MEMBER(m, json_get(st, lists[i])) {
            const struct fp *up = FP(p, lists[i]);
            validate_resource_value(v, *m->key ? FP(up, m->key) : FPK(up, ""), m->key, m->value);
        }
}

void validate_node_status(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char feature_form[] = "^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$";
    const struct json *st = json_get(obj, "status"), *it, *list = json_get(st, "declaredFeatures"),
                      *addresses = json_get(st, "addresses");
    const struct fp *p = FP(NULL, "status"), *lp = FP(p, "declaredFeatures");
    node_resources(v, st, p);
    JSON_FOREACH(it, list) {
        const char *s = str_or_empty(json_as_str(it)), *last = it_i ? json_as_str(json_item(list, it_i - 1)) : NULL;
        if (strlen(s) > SUBDOMAIN_MAX || !crd_pattern_matches(feature_form, s, strlen(s)))
            v_invalid(v, FPI(lp, it_i), it, "must be segments in UpperCamelCase, separated by slashes");
        if (last && str_eq(last, s)) v_duplicate(v, FPI(lp, it_i), it);
        if (last && strcmp(last, s) > 0) v_invalid(v, FPI(lp, it_i), it, "list must be sorted alphabetically");
    }
    JSON_FOREACH(it, addresses)
        for (size_t j = 0; j < it_i; j++)
            if (jsame(json_item(addresses, j), it)) {
                v_duplicate(v, FPI(FP(p, "addresses"), it_i), it);
                break;
            }
}

static void namespace_status(struct vctx *v, const struct json *obj, const struct json *old) {
    bool going = jget(json_get(obj, "metadata"), "deletionTimestamp");
    const struct json *phase = json_at(obj, "status", "phase", NULL);
    if (!str_eq(json_as_str(phase), going ? "Terminating" : "Active"))
        v_invalid(v, FP(FP(NULL, "status"), "Phase"), phase, "must be '%s'", going ? "Terminating" : "Active");
}

static void quota_status(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char *const lists[] = {"hard", "used"};
    for (size_t i = 0; i < 2; i++)
        validate_quota_amounts(v, json_at(obj, "status", lists[i], NULL), FP(FP(NULL, "status"), lists[i]));
}

static void negative(struct vctx *v, const struct fp *p, const struct json *amount) {
    struct quantity q;
    if (quantity_parse(str_or_empty(json_as_str(amount)), &q) == 0 && q.nano < 0)
        v_invalid(v, p, amount, "must be a valid resource quantity");
}

/* A name of what a claim can be given: storage, or something with a domain. */
static bool claim_resource(struct vctx *v, const struct fp *p, const char *name) {
    size_t found = v->n;
    v_label_name(v, p, name);
    if (v->n == found && resource_is_native(name) && !str_eq(name, "storage"))
        v_not_supported(v, p, json_str(v->a, name), ONE_OF("storage"));
    return v->n == found;
}

static void claim_status(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char *const states[] = {"ControllerResizeInProgress", "ControllerResizeInfeasible",
                                         "NodeResizeInProgress",       "NodeResizeInfeasible",
                                         "NodeResizePending",          NULL};
    const struct json *st = json_get(obj, "status");
    const struct fp *p = FP(NULL, "status"), *sp = FP(p, "allocatedResourceStatuses"),
                    *rp = FP(p, "allocatedResources");
    JSON_FOREACH_MEMBER(m, json_get(st, "capacity")) negative(v, FPK(FP(p, "capacity"), m->key), m->value);
    JSON_FOREACH_MEMBER(m, json_get(st, "allocatedResourceStatuses")) {
        claim_resource(v, sp, m->key);
        if (!str_in(str_or_empty(json_as_str(m->value)), states)) v_not_supported(v, sp, m->value, states);
    }
    JSON_FOREACH_MEMBER(m, json_get(st, "allocatedResources")) {
        if (claim_resource(v, rp, m->key)) negative(v, FPK(rp, m->key), m->value);
    }
}

/* ---- the other groups ---- */

static void ingress_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *list = json_at(obj, "status", "loadBalancer", "ingress", NULL), *it;
    const struct json *was = json_at(old, "status", "loadBalancer", "ingress", NULL);
    const struct fp *p = FP(FP(FP(NULL, "status"), "loadBalancer"), "ingress");
    JSON_FOREACH(it, list) {
        const char *ip = jstr(it, "ip"), *host = jstr(it, "hostname");
        if (*ip && !is_own_ip(ip, NULL) && !has_key(was, "ip", ip))
            v_invalid(v, FP(FPI(p, it_i), "ip"), json_get(it, "ip"), "%s", bad_ip);
        if (!*host) continue;
        v_subdomain(v, FP(FPI(p, it_i), "hostname"), json_get(it, "hostname"));
        if (is_ip(host, NULL))
            v_invalid(v, FP(FPI(p, it_i), "hostname"), json_get(it, "hostname"),
                      "must be a DNS name, not an IP address");
    }
}

static void common_conditions(struct vctx *v, const struct json *obj, const struct json *old) {
    validate_conditions(v, json_at(obj, "status", "conditions", NULL), FP(FP(NULL, "status"), "conditions"));
}

static void policy_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *it;
    const struct fp *p = FP(FP(FP(NULL, "status"), "typeChecking"), "expressionWarnings");
    common_conditions(v, obj, old);
    JSON_FOREACH(it, json_at(obj, "status", "typeChecking", "expressionWarnings", NULL)) {
        const char *ref = jstr(it, "fieldRef");
        if (!*jstr(it, "warning")) v_required(v, FP(FPI(p, it_i), "warning"), NULL);
        if (!ref[strspn(ref, " \t\r\n")]) v_required(v, FP(FPI(p, it_i), "fieldRef"), NULL);
    }
}

static void flow_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *list = json_at(obj, "status", "conditions", NULL), *it;
    const struct fp *p = FP(FP(NULL, "status"), "conditions");
    JSON_FOREACH(it, list) {
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "type"), jstr(it, "type"))) {
                v_duplicate(v, FP(FPI(p, it_i), "type"), json_get(it, "type"));
                break;
            }
        if (!*jstr(it, "type")) v_required(v, FP(FPI(p, it_i), "type"), NULL);
    }
}

static void api_service_status(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char *const states[] = {"True", "False", "Unknown", NULL};
    const struct json *it;
    JSON_FOREACH(it, json_at(obj, "status", "conditions", NULL))
        if (!str_in(jstr(it, "status"), states))
            v_not_supported(v, FP(FPI(FP(FP(NULL, "status"), "conditions"), it_i), "status"), json_get(it, "status"),
                            states);
}

static void attachment_status(struct vctx *v, const struct json *obj, const struct json *old) {
    enum { METADATA_MAX = 256 * 1024, MESSAGE_MAX = 1024 * 1024 };
    static const char *const errors[] = {"attachError", "detachError"};
    const struct json *st = json_get(obj, "status");
    const struct fp *p = FP(NULL, "status");
    size_t total = 0;
    JSON_FOREACH_MEMBER(m, json_get(st, "attachmentMetadata"))
        total += strlen(m->key) + strlen(str_or_empty(json_as_str(m->value)));
    if (total > METADATA_MAX) v_too_long(v, FP(p, "attachmentMetadata"), METADATA_MAX);
    for (size_t i = 0; i < 2; i++) {
        const struct json *e = jget(st, errors[i]);
        if (strlen(jstr(e, "message")) > MESSAGE_MAX) v_too_long(v, FP(FP(p, errors[i]), "message"), METADATA_MAX);
        v_range(v, FP(p, errors[i]), e, "errorCode", 0, INT32_MAX);
    }
}

static void definition_status(struct vctx *v, const struct json *obj, const struct json *old) {
    validate_definition_names(v, json_at(obj, "status", "acceptedNames", NULL), false,
                              FP(FP(NULL, "status"), "acceptedNames"));
}

static void service_status(struct vctx *v, const struct json *obj, const struct json *old) {
    service_ingress(v, obj, FP(NULL, "status"));
}

static const struct {
    const char *kind;
    void (*fn)(struct vctx *, const struct json *, const struct json *);
} rows[] = {
    {"Pod", validate_pod_status},
    {"Service", service_status},
    {"Node", validate_node_status},
    {"Namespace", namespace_status},
    {"ResourceQuota", quota_status},
    {"PersistentVolumeClaim", claim_status},
    {"Job", validate_job_status},
    {"Ingress", ingress_status},
    {"PodDisruptionBudget", common_conditions},
    {"CertificateSigningRequest", validate_csr_status},
    {"ValidatingAdmissionPolicy", policy_status},
    {"CustomResourceDefinition", definition_status},
    {"APIService", api_service_status},
    {"FlowSchema", flow_status},
    {"PriorityLevelConfiguration", flow_status},
    {"VolumeAttachment", attachment_status},
    {"ResourceClaim", validate_claim_status},
};

void validate_status(struct vctx *v, const struct json *obj, const struct json *old) {
    counters(v, json_get(obj, "status"), json_get(old, "status"), FP(NULL, "status"));
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (str_eq(rows[i].kind, v->c->kind)) rows[i].fn(v, obj, old);
}
