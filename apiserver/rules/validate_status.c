/* Writes to /status: counters that may not be negative, addresses that must be addresses, conditions of fixed
 * form. */
#include "apiserver/rules/validate_status.h"

#include "apiserver/rules/crd_pattern.h"
#include "apiserver/rules/validate_device.h"

/* Counters of workloads; whichever a kind has must not be negative. */
static const char *const counters[] = {"replicas",
                                       "readyReplicas",
                                       "availableReplicas",
                                       "updatedReplicas",
                                       "currentReplicas",
                                       "unavailableReplicas",
                                       "fullyLabeledReplicas",
                                       "observedGeneration",
                                       "collisionCount",
                                       "active",
                                       "succeeded",
                                       "failed",
                                       "currentNumberScheduled",
                                       "desiredNumberScheduled",
                                       "numberMisscheduled",
                                       "numberReady",
                                       "numberAvailable",
                                       "numberUnavailable",
                                       "updatedNumberScheduled",
                                       "disruptionsAllowed",
                                       "currentHealthy",
                                       "desiredHealthy",
                                       "expectedPods"};

static void pod_addresses(struct vctx *v, const struct json *status, const struct fp *p) {
    static const char *const lists[] = {"podIPs", "hostIPs"};
    const struct json *it;
    for (size_t i = 0; i < 2; i++) {
        const struct json *list = json_get(status, lists[i]);
        const struct fp *at = FP(p, lists[i]);
        bool bad = false;
        int first = 0, family = 0, same = 0;
        JSON_FOREACH(it, list) {
            if (!is_ip(jstr(it, "ip"), &family)) {
                bad = true;
                v_invalid(v, FPI(at, it_i), json_get(it, "ip"),
                          "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
            }
            same |= it_i && family == first;
            first = it_i ? first : family;
        }
        if (json_len(list) < 2) continue;
        if (bad) v_internal(v, at, "failed to check for dual stack");
        if (bad || same || json_len(list) > 2)
            v_invalid(v, at, list, "may specify no more than one IP for each IP family");
    }
}

static void service_ingress(struct vctx *v, const struct json *obj, const struct fp *p) {
    const struct json *list = json_at(obj, "status", "loadBalancer", "ingress", NULL), *it;
    const struct fp *at = FP(FP(p, "loadBalancer"), "ingress");
    if (json_len(list) && !str_eq(jstr(json_get(obj, "spec"), "type"), "LoadBalancer")) {
        v_forbidden(v, at, "may only be used when `spec.type` is LoadBalancer");
        return;
    }
    JSON_FOREACH(it, list) {
        const char *ip = jstr(it, "ip"), *mode = json_get_str(it, "ipMode");
        if (*ip && !is_ip(ip, NULL))
            v_invalid(v, FP(FPI(at, it_i), "ip"), json_get(it, "ip"),
                      "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        if (mode && !*ip) v_forbidden(v, FP(FPI(at, it_i), "ipMode"), "may not be specified when `ip` is not set");
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

void validate_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *status = json_get(obj, "status");
    const struct fp *p = FP(NULL, "status");
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) v_min(v, p, status, counters[i], 0);
    if (str_eq(v->c->kind, "Pod")) {
        pod_addresses(v, status, p);
        if (!str_eq(jstr(json_get(obj, "spec"), "nodeName"), jstr(json_get(old, "spec"), "nodeName")))
            v_forbidden(v, FP(p, "nodeName"), "may not be changed directly");
    }
    if (str_eq(v->c->kind, "ResourceClaim")) validate_claim_status(v, obj, old);
    if (str_eq(v->c->kind, "Service")) service_ingress(v, obj, p);
}
