/* What a pod's status may say: addresses, conditions, containers that do not come back to life, claims and resources that
 * the pod has. Upstream: ValidatePodStatusUpdate of pkg/apis/core/validation. */
#include "apiserver/rules/validate_device.h"
#include "apiserver/rules/validate_status.h"

enum { HEALTH_MESSAGE_MAX = 1024 };

/* ---- addresses ---- */

/* Addresses that were there before may stay as they are. */
static void address_list(struct vctx *v, const struct json *list, const struct json *was, const struct fp *p) {
    const struct json *it;
    bool bad = false;
    int first = 0, family = 0, same = 0;
    JSON_FOREACH(it, list) {
        bool valid = is_own_ip(jstr(it, "ip"), &family);
        bad |= !valid;
        if (!valid && !has_key(was, "ip", jstr(it, "ip")))
            v_invalid(v, FPI(p, it_i), json_get(it, "ip"),
                      "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        same |= it_i && family == first;
        first = it_i ? first : family;
    }
    if (json_len(list) < 2) return;
    if (bad) v_internal(v, p, "failed to check for dual stack");
    if (bad || same || json_len(list) > 2) v_invalid(v, p, list, "may specify no more than one IP for each IP family");
}

/* ---- containers ---- */

/* Whether a container that ended like this is started again. */
static bool restarts(const struct json *spec, const struct json *c, int64_t code) {
    const struct json *rule, *n;
    JSON_FOREACH(rule, json_get(c, "restartPolicyRules")) {
        bool in = false, wanted = str_eq(jstr(json_get(rule, "exitCodes"), "operator"), "In");
        JSON_FOREACH(n, json_at(rule, "exitCodes", "values", NULL)) in |= json_as_int(n, 0) == code;
        if (in == wanted)
            return str_eq(jstr(rule, "action"), "Restart") || str_eq(jstr(rule, "action"), "RestartAllContainers");
    }
    const char *policy = *jstr(c, "restartPolicy") ? jstr(c, "restartPolicy") : jstr(spec, "restartPolicy");
    return str_eq(policy, "Always") || (str_eq(policy, "OnFailure") && code != 0);
}

static const struct json *named(const struct json *list, const char *name) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(jstr(it, "name"), name)) return it;
    return NULL;
}

/* The end of one container may restart all, whatever their own policies. */
static bool may_restart_all(const struct json *spec) {
    static const char *const lists[] = {"initContainers", "containers"};
    const struct json *c, *rule;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(c, json_get(spec, lists[i]))
            JSON_FOREACH(rule, json_get(c, "restartPolicyRules"))
                if (str_eq(jstr(rule, "action"), "RestartAllContainers")) return true;
    return false;
}

/* containers: NULL for those that never start again. */
static void transitions(struct vctx *v, const struct json *now, const struct json *was, const struct json *spec,
                        const struct json *containers, const struct fp *p) {
    const struct json *it;
    if (may_restart_all(spec)) return;
    JSON_FOREACH(it, was) {
        const struct json *end = jget(json_get(it, "state"), "terminated"), *s = named(now, jstr(it, "name"));
        if (!end || !s || jget(json_get(s, "state"), "terminated")) continue;
        const struct json *c = named(containers, jstr(it, "name"));
        if (!c || !restarts(spec, c, json_get_int(end, "exitCode", 0)))
            v_forbidden(v, FP(FPI(p, it_i), "state"), "may not be transitioned to non-terminated state");
    }
}

static void user(struct vctx *v, const struct json *s, const struct json *spec, const struct fp *p) {
    const struct json *u = jget(json_get(s, "user"), "linux"), *g;
    const struct fp *at = FP(FP(p, "user"), "linux");
    if (!u) return;
    if (str_eq(jstr(json_get(spec, "os"), "name"), "windows")) {
        v_forbidden(v, at, "cannot be set for a windows pod");
        return;
    }
    v_range(v, at, u, "uid", 0, INT32_MAX);
    v_range(v, at, u, "gid", 0, INT32_MAX);
    JSON_FOREACH(g, json_get(u, "supplementalGroups"))
        if (json_as_int(g, 0) < 0 || json_as_int(g, 0) > INT32_MAX)
            v_invalid(v, FPI(FP(at, "supplementalGroups"), g_i), g, "must be between 0 and %d, inclusive", INT32_MAX);
}

/* "cpu", or "claim:NAME" and "claim:NAME/REQUEST". */
static bool has_resource(struct arena *a, const struct json *c, const char *name) {
    const struct json *res = json_get(c, "resources"), *claim;
    if (!str_has_prefix(name, "claim:")) return json_get(json_get(res, "requests"), name);
    JSON_FOREACH(claim, json_get(res, "claims")) {
        const char *request = jstr(claim, "request");
        const char *full = arena_printf(a, "claim:%s%s%s", jstr(claim, "name"), *request ? "/" : "", request);
        if (str_eq(full, name)) return true;
    }
    return false;
}

static void health(struct vctx *v, const struct json *s, const struct json *c, const struct fp *p) {
    static const char *const states[] = {"Healthy", "Unhealthy", "Unknown", NULL};
    const struct json *r, *it;
    JSON_FOREACH(r, json_get(s, "allocatedResourcesStatus")) {
        const struct fp *at = FPI(FP(p, "allocatedResourcesStatus"), r_i), *lp = FP(at, "resources");
        if (c && !has_resource(v->a, c, jstr(r, "name")))
            v_invalid(v, FP(at, "name"), json_get(r, "name"), "must match one of the container's resource requests");
        JSON_FOREACH(it, json_get(r, "resources")) {
            const struct json *message = jget(it, "message"), *list = json_get(r, "resources");
            if (!str_in(jstr(it, "health"), states))
                v_not_supported(v, FP(FPI(lp, it_i), "health"), json_get(it, "health"), states);
            if (message && !*jstr(it, "message"))
                v_required(v, FP(FPI(lp, it_i), "message"), "must be non-empty if specified");
            if (strlen(jstr(it, "message")) > HEALTH_MESSAGE_MAX)
                v_too_long(v, FP(FPI(lp, it_i), "message"), HEALTH_MESSAGE_MAX);
            for (size_t j = 0; j < it_i; j++)
                if (str_eq(jstr(json_item(list, j), "resourceID"), jstr(it, "resourceID"))) {
                    v_duplicate(v, FP(FPI(lp, it_i), "resourceID"), json_get(it, "resourceID"));
                    break;
                }
        }
    }
}

static void containers(struct vctx *v, const struct json *st, const struct json *was, const struct json *spec,
                       const struct fp *p) {
    static const char *const lists[][2] = {{"containerStatuses", "containers"},
                                           {"initContainerStatuses", "initContainers"},
                                           {"ephemeralContainerStatuses", NULL}};
    const struct json *it;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *now = json_get(st, lists[i][0]), *of = lists[i][1] ? json_get(spec, lists[i][1]) : NULL;
        const struct fp *at = FP(p, lists[i][0]);
        transitions(v, now, json_get(was, lists[i][0]), spec, of, at);
        JSON_FOREACH(it, now) {
            user(v, it, spec, FPI(at, it_i));
            if (lists[i][1]) {
                health(v, it, named(of, jstr(it, "name")), FPI(at, it_i));
            } else if (json_len(json_get(it, "allocatedResourcesStatus"))) {
                v_forbidden(v, FP(FPI(at, it_i), "allocatedResourcesStatus"), "must not be specified");
            }
        }
    }
}

/* ---- claims ---- */

static void claims(struct vctx *v, const struct json *list, const struct json *spec, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        if (!has_key(json_get(spec, "resourceClaims"), "name", jstr(it, "name")))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "must name one of `spec.resourceClaims`");
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(it, "name"))) {
                v_duplicate(v, FP(at, "name"), json_get(it, "name"));
                break;
            }
        if (jget(it, "resourceClaimName"))
            v_subdomain(v, FP(at, "resourceClaimName"), json_get(it, "resourceClaimName"));
    }
}

static void extended_claim(struct vctx *v, const struct json *x, const struct json *spec, const struct fp *p) {
    static const char *const keys[] = {"containerName", "resourceName", "requestName"};
    const struct json *list = json_get(x, "requestMappings"), *it;
    const struct fp *lp = FP(p, "requestMappings");
    if (!x) return;
    if (!json_len(list)) v_required(v, lp, "at least one request mapping is required");
    JSON_FOREACH(it, list) {
        const struct json *c = named(json_get(spec, "containers"), jstr(it, "containerName"));
        bool again = false;
        if (!c) c = named(json_get(spec, "initContainers"), jstr(it, "containerName"));
        if (!c)
            v_invalid(v, FP(FPI(lp, it_i), "containerName"), json_get(it, "containerName"), "must name a container");
        else if (!json_at(c, "resources", "requests", jstr(it, "resourceName"), NULL))
            v_invalid(v, FP(FPI(lp, it_i), "resourceName"), json_get(it, "resourceName"), "must be a request of it");
        v_label1123(v, FP(p, "requestName"), json_str(v->a, jstr(it, "requestName")));
        for (size_t j = 0; j < it_i; j++) {
            bool same = true;
            for (size_t k = 0; k < ARRAY_LEN(keys); k++)
                same &= str_eq(jstr(json_item(list, j), keys[k]), jstr(it, keys[k]));
            again |= same;
        }
        for (size_t k = 0; again && k < ARRAY_LEN(keys); k++)
            v_duplicate(v, FP(FPI(lp, it_i), keys[k]), json_get(it, keys[k]));
    }
    if (!*jstr(x, "resourceClaimName"))
        v_required(v, FP(p, "resourceClaimName"), NULL);
    else
        v_subdomain(v, FP(p, "resourceClaimName"), json_get(x, "resourceClaimName"));
}

/* ---- the status ---- */

void validate_pod_status(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *st = json_get(obj, "status"), *was = json_get(old, "status"), *spec = json_get(obj, "spec"), *it;
    const struct fp *p = FP(NULL, "status");
    const char *nominated = jstr(st, "nominatedNodeName"), *node = jstr(json_get(old, "spec"), "nodeName");
    const struct json *hosts = json_get(st, "hostIPs");
    JSON_FOREACH(it, json_get(st, "conditions")) {
        const struct fp *at = FPI(FP(p, "conditions"), it_i);
        v_min(v, at, it, "observedGeneration", 0);
        if (!str_in(jstr(it, "type"), ONE_OF("PodScheduled", "Ready", "Initialized")))
            v_label_name(v, FP(at, "Type"), jstr(it, "type"));
    }
    if (!str_eq(jstr(spec, "nodeName"), node)) v_forbidden(v, FP(p, "nodeName"), "may not be changed directly");
    if (*nominated && !str_eq(nominated, jstr(was, "nominatedNodeName"))) {
        v_subdomain(v, FP(p, "nominatedNodeName"), json_get(st, "nominatedNodeName"));
        if (*node) v_forbidden(v, FP(p, "nominatedNodeName"), "may not be set on pods that are bound to a node");
    }
    v_min(v, p, st, "observedGeneration", 0);
    v_immutable(v, FP(p, "qosClass"), json_get(st, "qosClass"), json_get(was, "qosClass"));
    containers(v, st, was, json_get(old, "spec"), p);
    claims(v, json_get(st, "resourceClaimStatuses"), spec, FP(p, "resourceClaimStatuses"));
    extended_claim(v, jget(st, "extendedResourceClaimStatus"), spec, FP(p, "extendedResourceClaimStatus"));
    address_list(v, json_get(st, "podIPs"), json_get(was, "podIPs"), FP(p, "podIPs"));
    if (json_len(hosts) && !str_eq(jstr(json_item(hosts, 0), "ip"), jstr(st, "hostIP")))
        v_invalid(v, FP(FPI(FP(p, "hostIPs"), 0), "ip"), json_get(json_item(hosts, 0), "ip"),
                  "must be equal to `hostIP`");
    address_list(v, hosts, json_get(was, "hostIPs"), FP(p, "hostIPs"));
}
