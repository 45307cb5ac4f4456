/* Policy, autoscaling, RBAC, scheduling, node, coordination. Upstream: the validation package of each group.
 */
#include "apiserver/rules/validate_pod.h"

enum { STABILIZATION_MAX = 3600, POLICY_PERIOD_MAX = 1800, USER_PRIORITY_MAX = 1000000000 };

/* ---- PodDisruptionBudget ---- */

VALIDATE_FN(pdb) {
    const struct json *spec = json_get(obj, "spec");
    static const char *const amounts[] = {"minAvailable", "maxUnavailable"};
    const struct fp *p = FP(NULL, "spec");
    if (jget(spec, "minAvailable") && jget(spec, "maxUnavailable"))
        v_invalid(v, p, spec, "minAvailable and maxUnavailable cannot be both set");
    for (size_t i = 0; i < 2; i++) {
        const struct json *x = jget(spec, amounts[i]);
        if (!x) continue;
        v_int_or_percent(v, FP(p, amounts[i]), x);
        if (json_is(x, JSON_STRING) && is_percent(x->str) && strtol(x->str, NULL, 10) > 100)
            v_invalid(v, FP(p, amounts[i]), x, "must not be greater than 100%%");
    }
    v_label_selector(v, FP(p, "selector"), json_get(spec, "selector"), false);
    v_enum(v, FP(p, "unhealthyPodEvictionPolicy"), json_get(spec, "unhealthyPodEvictionPolicy"),
           ONE_OF("AlwaysAllow", "IfHealthyBudget"), false);
}

/* ---- HorizontalPodAutoscaler ---- */

static void reference(struct vctx *v, const struct json *ref, const struct fp *p, bool need_group) {
    const char *kind = jstr(ref, "kind"), *name = jstr(ref, "name"), *av = jstr(ref, "apiVersion");
    if (!*kind)
        v_required(v, FP(p, "kind"), NULL);
    else if (is_path_segment(kind))
        v_invalid(v, FP(p, "kind"), json_get(ref, "kind"), "%s", is_path_segment(kind));
    if (!*name)
        v_required(v, FP(p, "name"), NULL);
    else if (is_path_segment(name))
        v_invalid(v, FP(p, "name"), json_get(ref, "name"), "%s", is_path_segment(name));
    bool core = str_eq(av, "v1") && str_in(kind, ONE_OF("ReplicationController"));
    const char *slash = strchr(av, '/');
    if (slash && strchr(slash + 1, '/'))
        v_invalid(v, FP(p, "apiVersion"), json_get(ref, "apiVersion"), "unexpected GroupVersion string");
    else if (need_group && !core && (!slash || slash == av))
        v_invalid(v, FP(p, "apiVersion"), json_get(ref, "apiVersion"), "apiVersion must specify API group");
}

static void target(struct vctx *v, const struct json *t, const struct fp *p) {
    static const char *const values[] = {"value", "averageValue"};
    if (!*jstr(t, "type")) v_required(v, FP(p, "type"), "must specify a metric target type");
    if (!str_in(jstr(t, "type"), ONE_OF("Utilization", "Value", "AverageValue")))
        v_invalid(v, FP(p, "type"), json_get(t, "type"), "must be either Utilization, Value, or AverageValue");
    for (size_t i = 0; i < 2; i++)
        if (jget(t, values[i]) && quantity_str_milli(json_get_str(t, values[i])) <= 0)
            v_invalid(v, FP(p, values[i]), json_get(t, values[i]), "must be positive");
    if (jget(t, "averageUtilization") && json_get_int(t, "averageUtilization", 0) < 1)
        v_invalid(v, FP(p, "averageUtilization"), json_get(t, "averageUtilization"), "must be greater than 0");
}

static void identifier(struct vctx *v, const struct json *id, const struct fp *p) {
    const char *name = jstr(id, "name");
    if (!*name)
        v_required(v, FP(p, "name"), "must specify a metric name");
    else if (is_path_segment(name))
        v_invalid(v, FP(p, "name"), json_get(id, "name"), "%s", is_path_segment(name));
}

static void metric_source(struct vctx *v, const struct json *src, const char *kind, const struct fp *p) {
    const struct json *t = json_get(src, "target");
    const struct fp *tp = FP(p, "target");
    bool util = jget(t, "averageUtilization"), avg = jget(t, "averageValue"), value = jget(t, "value");
    target(v, t, tp);
    if (str_in(kind, ONE_OF("resource", "containerResource"))) {
        if (!*jstr(src, "name"))
            v_required(v, FP(p, "name"), "must specify a resource name");
        else if (str_eq(kind, "containerResource"))
            validate_container_resource_name(v, FP(p, "name"), jstr(src, "name"));
        if (str_eq(kind, "containerResource") && !*jstr(src, "container"))
            v_required(v, FP(p, "container"), "must specify a container");
        else if (str_eq(kind, "containerResource"))
            v_label1123(v, FP(p, "container"), json_get(src, "container"));
        if (!util && !avg)
            v_required(v, FP(tp, "averageUtilization"), "must set either a target raw value or a target utilization");
        if (util && avg)
            v_forbidden(v, FP(tp, "averageValue"), "may not set both a target raw value and a target utilization");
        return;
    }
    identifier(v, json_get(src, "metric"), FP(p, "metric"));
    if (str_eq(kind, "object")) reference(v, json_get(src, "describedObject"), FP(p, "describedObject"), false);
    if (str_eq(kind, "pods") ? !avg : !avg && !value)
        v_required(v, FP(tp, "averageValue"), "must set either a target value or averageValue");
    if (str_eq(kind, "external") && avg && value)
        v_forbidden(v, FP(tp, "value"), "may not set both a target value for metric and a per-pod target");
}

/* The first source there is looked at; any that the type does not call for is one too many. */
static void metric(struct vctx *v, const struct json *m, const struct fp *p) {
    static const struct {
        const char *type, *member;
    } kinds_of[] = {{"Object", "object"},
                    {"External", "external"},
                    {"Pods", "pods"},
                    {"Resource", "resource"},
                    {"ContainerResource", "containerResource"}};
    static const char *const types[] = {"ContainerResource", "External", "Object", "Pods", "Resource", NULL};
    const char *type = jstr(m, "type"), *expected = NULL;
    size_t present = 0;
    for (size_t i = 0; i < ARRAY_LEN(kinds_of); i++)
        if (str_eq(kinds_of[i].type, type)) expected = kinds_of[i].member;
    if (!*type) v_required(v, FP(p, "type"), "must specify a metric source type");
    if (!expected) v_not_supported(v, FP(p, "type"), json_get(m, "type"), types);
    for (size_t i = 0; i < ARRAY_LEN(kinds_of); i++) {
        const struct json *src = jget(m, kinds_of[i].member);
        if (src && !present++) metric_source(v, src, kinds_of[i].member, FP(p, kinds_of[i].member));
    }
    if (expected && !jget(m, expected))
        v_required(v, FP(p, expected), "must populate information for the given metric source");
    if (!expected) v_not_supported(v, FP(p, "type"), json_get(m, "type"), types);
    for (size_t i = 0; i < ARRAY_LEN(kinds_of) && present > 1; i++)
        if (jget(m, kinds_of[i].member) && !str_eq(kinds_of[i].member, expected))
            v_forbidden(v, FP(p, kinds_of[i].member), "must populate the given metric source only");
}

static void scaling_rules(struct vctx *v, const struct json *r, const struct fp *p) {
    const struct json *it, *window = jget(r, "stabilizationWindowSeconds");
    if (!r) return;
    int64_t w = json_as_int(window, 0);
    if (window && w < 0)
        v_invalid(v, FP(p, "stabilizationWindowSeconds"), window, "must be greater than or equal to zero");
    if (w > STABILIZATION_MAX)
        v_invalid(v, FP(p, "stabilizationWindowSeconds"), window, "must be less than or equal to %d",
                  STABILIZATION_MAX);
    v_enum(v, FP(p, "selectPolicy"), json_get(r, "selectPolicy"), ONE_OF("Disabled", "Max", "Min"), false);
    if (quantity_str_milli(json_get_str(r, "tolerance")) < 0)
        v_invalid(v, FP(p, "tolerance"), json_get(r, "tolerance"), "must be greater than or equal to 0");
    if (!json_len(json_get(r, "policies"))) v_required(v, FP(p, "policies"), "must specify at least one Policy");
    JSON_FOREACH(it, json_get(r, "policies")) {
        const struct fp *at = FPI(FP(p, "policies"), it_i);
        if (!str_in(jstr(it, "type"), ONE_OF("Percent", "Pods")))
            v_not_supported(v, FP(at, "type"), json_get(it, "type"), ONE_OF("Percent", "Pods"));
        if (json_get_int(it, "value", 0) <= 0)
            v_invalid(v, FP(at, "value"), json_get(it, "value"), "must be greater than zero");
        int64_t period = json_get_int(it, "periodSeconds", 0);
        if (period <= 0)
            v_invalid(v, FP(at, "periodSeconds"), json_get(it, "periodSeconds"), "must be greater than zero");
        if (period > POLICY_PERIOD_MAX)
            v_invalid(v, FP(at, "periodSeconds"), json_get(it, "periodSeconds"), "must be less than or equal to %d",
                      POLICY_PERIOD_MAX);
    }
}

VALIDATE_FN(hpa) {
    const struct json *spec = json_get(obj, "spec"), *m;
    const struct fp *p = FP(NULL, "spec");
    int64_t min = json_get_int(spec, "minReplicas", 1), max = json_get_int(spec, "maxReplicas", 0);
    if (min < 1)
        v_invalid(v, FP(p, "minReplicas"), json_get(spec, "minReplicas"), "must be greater than or equal to 1");
    if (min == 0) { /* what scaling to zero would want, whether it is on or not */
        bool from_outside = false;
        JSON_FOREACH(m, json_get(spec, "metrics"))
            from_outside |= str_in(jstr(m, "type"), ONE_OF("Object", "External"));
        if (!from_outside) v_forbidden(v, FP(p, "metrics"), "scaling to zero wants an Object or External metric");
    }
    if (max == 0)
        v_required(v, FP(p, "maxReplicas"), "must be set and greater than 0");
    else if (max < 1)
        v_invalid(v, FP(p, "maxReplicas"), json_get(spec, "maxReplicas"), "must be greater than or equal to 1");
    if (max < min)
        v_invalid(v, FP(p, "maxReplicas"), json_get(spec, "maxReplicas"),
                  "must be greater than or equal to `minReplicas`");
    reference(v, json_get(spec, "scaleTargetRef"), FP(p, "scaleTargetRef"), true);
    JSON_FOREACH(m, json_get(spec, "metrics")) metric(v, m, FPI(FP(p, "metrics"), m_i));
    const struct json *b = jget(spec, "behavior");
    scaling_rules(v, jget(b, "scaleUp"), FP(FP(p, "behavior"), "scaleUp"));
    scaling_rules(v, jget(b, "scaleDown"), FP(FP(p, "behavior"), "scaleDown"));
}

/* ---- RBAC ---- */

static void policy_rule(struct vctx *v, const struct json *r, bool namespaced, const struct fp *p) {
    bool urls = json_len(json_get(r, "nonResourceURLs"));
    if (!json_len(json_get(r, "verbs"))) v_required(v, FP(p, "verbs"), "verbs must contain at least one value");
    if (urls) {
        if (namespaced)
            v_invalid(v, FP(p, "nonResourceURLs"), json_get(r, "nonResourceURLs"),
                      "namespaced rules cannot apply to non-resource URLs");
        if (json_len(json_get(r, "apiGroups")) || json_len(json_get(r, "resources")) ||
            json_len(json_get(r, "resourceNames")))
            v_invalid(v, FP(p, "nonResourceURLs"), json_get(r, "nonResourceURLs"),
                      "rules cannot apply to both regular resources and non-resource URLs");
        return;
    }
    if (!json_len(json_get(r, "apiGroups")))
        v_required(v, FP(p, "apiGroups"), "resource rules must supply at least one api group");
    if (!json_len(json_get(r, "resources")))
        v_required(v, FP(p, "resources"), "resource rules must supply at least one resource");
}

VALIDATE_FN(role) {
    const struct json *it;
    bool cluster = str_eq(v->c->kind, "ClusterRole");
    JSON_FOREACH(it, json_get(obj, "rules")) policy_rule(v, it, !cluster, FPI(FP(NULL, "rules"), it_i));
    const struct fp *p = FP(FP(NULL, "aggregationRule"), "clusterRoleSelectors");
    const struct json *agg = jget(obj, "aggregationRule");
    if (!agg) return;
    if (!json_len(json_get(agg, "clusterRoleSelectors")))
        v_required(v, p, "at least one clusterRoleSelector required if aggregationRule is non-nil");
    JSON_FOREACH(it, json_get(agg, "clusterRoleSelectors")) {
        v_label_selector(v, FPI(p, it_i), it, false);
        if (!selector_parses(v, it)) v_invalid(v, FPI(p, it_i), it, "invalid label selector.");
    }
}

VALIDATE_FN(role_binding) {
    const struct json *ref = json_get(obj, "roleRef"), *it;
    const struct fp *p = FP(NULL, "roleRef");
    bool cluster = str_eq(v->c->kind, "ClusterRoleBinding");
    if (!str_eq(jstr(ref, "apiGroup"), "rbac.authorization.k8s.io"))
        v_not_supported(v, FP(p, "apiGroup"), json_get(ref, "apiGroup"), ONE_OF("rbac.authorization.k8s.io"));
    if (!str_eq(jstr(ref, "kind"), "ClusterRole") && (cluster || !str_eq(jstr(ref, "kind"), "Role")))
        v_not_supported(v, FP(p, "kind"), json_get(ref, "kind"),
                        cluster ? ONE_OF("ClusterRole") : ONE_OF("Role", "ClusterRole"));
    if (!*jstr(ref, "name"))
        v_required(v, FP(p, "name"), NULL);
    else if (is_path_segment(jstr(ref, "name")))
        v_invalid(v, FP(p, "name"), json_get(ref, "name"), "%s", is_path_segment(jstr(ref, "name")));
    JSON_FOREACH(it, json_get(obj, "subjects")) {
        const struct fp *at = FPI(FP(NULL, "subjects"), it_i);
        const char *kind = jstr(it, "kind"), *name = jstr(it, "name"), *group = jstr(it, "apiGroup");
        if (!*name) v_required(v, FP(at, "name"), NULL);
        if (str_eq(kind, "ServiceAccount")) {
            if (*name) v_subdomain(v, FP(at, "name"), json_get(it, "name"));
            if (*group) v_not_supported(v, FP(at, "apiGroup"), json_get(it, "apiGroup"), ONE_OF(""));
            if (!*jstr(it, "namespace") && cluster) v_required(v, FP(at, "namespace"), NULL);
        } else if (!str_in(kind, ONE_OF("User", "Group"))) {
            v_not_supported(v, FP(at, "kind"), json_get(it, "kind"), ONE_OF("ServiceAccount", "User", "Group"));
        } else if (!str_eq(group, "rbac.authorization.k8s.io")) {
            v_not_supported(v, FP(at, "apiGroup"), json_get(it, "apiGroup"), ONE_OF("rbac.authorization.k8s.io"));
        }
    }
    if (old && !jsame(ref, json_get(old, "roleRef"))) v_invalid(v, p, ref, "cannot change roleRef");
}

/* ---- PriorityClass, RuntimeClass, Lease ---- */

VALIDATE_FN(priority_class) {
    static const struct {
        const char *name;
        int64_t value;
    } system[] = {{"system-cluster-critical", 2000000000}, {"system-node-critical", 2000001000}};
    const char *name = jstr(json_get(obj, "metadata"), "name");
    int64_t value = json_get_int(obj, "value", 0);
    if (old) {
        /* the value was looked at when it was set */
    } else if (str_has_prefix(name, "system-")) {
        bool known = false;
        for (size_t i = 0; i < ARRAY_LEN(system); i++)
            known |= str_eq(system[i].name, name) && system[i].value == value;
        if (!known)
            v_forbidden(v, FP(FP(NULL, "metadata"), "name"),
                        "priority class names with 'system-' prefix are reserved for system use only");
    } else if (value > USER_PRIORITY_MAX) {
        v_forbidden(v, FP(NULL, "value"), "maximum allowed value of a user defined priority is %d", USER_PRIORITY_MAX);
    }
    if (!old && !*jstr(obj, "preemptionPolicy"))
        v_required(v, FP(NULL, "preemptionPolicy"), NULL);
    else if (!old)
        v_enum(v, FP(NULL, "preemptionPolicy"), json_get(obj, "preemptionPolicy"),
               ONE_OF("Never", "PreemptLowerPriority"), false);
    if (!old) return;
    if (value != json_get_int(old, "value", 0)) v_forbidden(v, FP(NULL, "value"), "may not be changed in an update.");
    v_immutable(v, FP(NULL, "preemptionPolicy"), json_get(obj, "preemptionPolicy"), json_get(old, "preemptionPolicy"));
}

VALIDATE_FN(runtime_class) {
    const char *handler = jstr(obj, "handler");
    const struct json *sched = jget(obj, "scheduling");
    if (!*handler)
        v_required(v, FP(NULL, "handler"), NULL);
    else
        v_label1123(v, FP(NULL, "handler"), json_get(obj, "handler"));
    if (jget(obj, "overhead")) {
        struct json *limits = json_object(v->a);
        const struct json *fixed = json_at(obj, "overhead", "podFixed", NULL);
        if (fixed) json_set(v->a, limits, "limits", json_clone(v->a, fixed));
        validate_resources(v, limits, FP(NULL, "overhead"), NULL);
    }
    v_labels(v, FP(FP(NULL, "scheduling"), "nodeSelector"), json_get(sched, "nodeSelector"));
    const struct json *t, *tols = json_get(sched, "tolerations");
    JSON_FOREACH(t, tols)
        for (size_t j = 0; j < t_i; j++)
            if (json_equal(json_item(tols, j), t)) {
                v_duplicate(v, FPI(FP(FP(NULL, "scheduling"), "tolerations"), t_i), t);
                break;
            }
    validate_tolerations(v, json_get(sched, "tolerations"), FP(FP(NULL, "scheduling"), "tolerations"));
    if (old) v_immutable(v, FP(NULL, "handler"), json_get(obj, "handler"), json_get(old, "handler"));
}

VALIDATE_FN(lease) {
    const struct json *spec = json_get(obj, "spec"), *seconds = jget(spec, "leaseDurationSeconds"),
                      *moves = jget(spec, "leaseTransitions");
    const struct fp *p = FP(NULL, "spec");
    if (seconds && json_as_int(seconds, 1) <= 0)
        v_invalid(v, FP(p, "leaseDurationSeconds"), seconds, "must be greater than 0");
    if (moves && json_as_int(moves, 0) < 0)
        v_invalid(v, FP(p, "leaseTransitions"), moves, "must be greater than or equal to 0");
    const char *strategy = json_get_str(spec, "strategy");
    if (strategy && !str_in(strategy, ONE_OF("OldestEmulationVersion")) && !strchr(strategy, '/'))
        v_invalid(v, FP(p, "strategy"), json_get(spec, "strategy"), "must be a known strategy or domain-prefixed");
    if (jget(spec, "preferredHolder") && !strategy)
        v_forbidden(v, FP(p, "preferredHolder"), "may only be specified when `strategy` is defined");
}
