/* Writes to /status: counters that may not be negative, addresses that must be addresses, conditions of fixed
 * form. */
#include "apiserver/rules/validate_status.h"

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

void validate_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *status = json_get(obj, "status");
    const struct fp *p = FP(NULL, "status");
    for (size_t i = 0; i < ARRAY_LEN(counters); i++) v_min(v, p, status, counters[i], 0);
    if (str_eq(v->c->kind, "Pod")) {
        pod_addresses(v, status, p);
        if (!str_eq(jstr(json_get(obj, "spec"), "nodeName"), jstr(json_get(old, "spec"), "nodeName")))
            v_forbidden(v, FP(p, "nodeName"), "may not be changed directly");
    }
    if (str_eq(v->c->kind, "Service")) service_ingress(v, obj, p);
}
