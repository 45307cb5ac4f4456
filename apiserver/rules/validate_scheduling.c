/* What a pod says to the scheduler: node and pod affinity, tolerations, topology spread. Upstream: the same
 * parts of pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

/* ---- node selectors ---- */

static void requirement(struct vctx *v, const struct json *r, bool any_value, const struct fp *p) {
    const char *op = jstr(r, "operator");
    const struct json *values = json_get(r, "values"), *s;
    if (str_in(op, ONE_OF("In", "NotIn"))) {
        if (!json_len(values)) v_required(v, FP(p, "values"), "must be specified when `operator` is 'In' or 'NotIn'");
    } else if (str_in(op, ONE_OF("Exists", "DoesNotExist"))) {
        if (json_len(values))
            v_forbidden(v, FP(p, "values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
    } else if (str_in(op, ONE_OF("Gt", "Lt"))) {
        if (json_len(values) != 1)
            v_required(v, FP(p, "values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
    } else {
        v_invalid(v, FP(p, "operator"), json_get(r, "operator"), "not a valid selector operator");
    }
    v_label_name(v, FP(p, "key"), jstr(r, "key"));
    JSON_FOREACH(s, any_value ? NULL : values)
        for (size_t n = label_value_faults(str_or_empty(json_as_str(s))); n; n--)
            v_invalid(v, FPI(FP(p, "values"), s_i), s, "%s", is_label_value(json_as_str(s)));
}

static void field_requirement(struct vctx *v, const struct json *r, const struct fp *p) {
    const struct json *values = json_get(r, "values");
    if (!str_in(jstr(r, "operator"), ONE_OF("In", "NotIn")))
        v_invalid(v, FP(p, "operator"), json_get(r, "operator"), "not a valid selector operator");
    else if (json_len(values) != 1)
        v_required(v, FP(p, "values"),
                   "must be only one value when `operator` is 'In' or 'NotIn' for node field selector");
    if (!str_eq(jstr(r, "key"), "metadata.name")) {
        v_invalid(v, FP(p, "key"), json_get(r, "key"), "not a valid field selector key");
        return;
    }
    const struct json *s;
    JSON_FOREACH(s, values) v_subdomain(v, FPI(FP(p, "values"), s_i), s);
}

/* any_value: what is only preferred may ask for values that no label can have. */
static void node_term(struct vctx *v, const struct json *term, bool any_value, const struct fp *p) {
    const struct json *r;
    JSON_FOREACH(r, json_get(term, "matchExpressions"))
        requirement(v, r, any_value, FPI(FP(p, "matchExpressions"), r_i));
    JSON_FOREACH(r, json_get(term, "matchFields")) field_requirement(v, r, FPI(FP(p, "matchFields"), r_i));
}

void validate_node_selector_term(struct vctx *v, const struct json *term, const struct fp *p) {
    node_term(v, term, false, p);
}

void validate_node_selector(struct vctx *v, const struct json *sel, const struct fp *p) {
    const struct json *term, *terms = json_get(sel, "nodeSelectorTerms");
    if (!json_len(terms)) v_required(v, FP(p, "nodeSelectorTerms"), "must have at least one node selector term");
    JSON_FOREACH(term, terms) validate_node_selector_term(v, term, FPI(FP(p, "nodeSelectorTerms"), term_i));
}

/* ---- affinity ---- */

#define REQUIRED "requiredDuringSchedulingIgnoredDuringExecution"
#define PREFERRED "preferredDuringSchedulingIgnoredDuringExecution"

static void weight(struct vctx *v, const struct json *t, const struct fp *p) {
    int64_t w = json_get_int(t, "weight", 0);
    if (w <= 0 || w > 100) v_invalid(v, FP(p, "weight"), json_get(t, "weight"), "must be in the range 1-100");
}

static void node_affinity(struct vctx *v, const struct json *na, const struct fp *p) {
    const struct json *t;
    if (jget(na, REQUIRED)) validate_node_selector(v, json_get(na, REQUIRED), FP(p, REQUIRED));
    JSON_FOREACH(t, json_get(na, PREFERRED)) {
        const struct fp *at = FPI(FP(p, PREFERRED), t_i);
        weight(v, t, at);
        node_term(v, json_get(t, "preference"), true, FP(at, "preference"));
    }
}

static bool has_string(const struct json *list, const char *s) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(json_as_str(it), s)) return true;
    return false;
}

static void label_keys(struct vctx *v, const struct json *t, const char *key, const struct fp *p) {
    const struct json *it, *list = json_get(t, key);
    if (json_len(list) && !jget(t, "labelSelector")) {
        v_forbidden(v, FP(p, key), "must not be specified when labelSelector is not set");
        return;
    }
    JSON_FOREACH(it, list) v_label_name(v, FPI(FP(p, key), it_i), str_or_empty(json_as_str(it)));
}

static void pod_term(struct vctx *v, const struct json *t, const struct fp *p) {
    const struct json *s;
    if (jget(t, "labelSelector")) v_label_selector(v, FP(p, "labelSelector"), json_get(t, "labelSelector"), false);
    if (jget(t, "namespaceSelector"))
        v_label_selector(v, FP(p, "namespaceSelector"), json_get(t, "namespaceSelector"), false);
    JSON_FOREACH(s, json_get(t, "namespaces")) v_label1123(v, FP(p, "namespace"), s);
    label_keys(v, t, "matchLabelKeys", p);
    label_keys(v, t, "mismatchLabelKeys", p);
    JSON_FOREACH(s, json_get(t, "matchLabelKeys"))
        if (has_string(json_get(t, "mismatchLabelKeys"), str_or_empty(json_as_str(s))))
            v_invalid(v, FPI(FP(p, "matchLabelKeys"), s_i), s, "exists in both matchLabelKeys and mismatchLabelKeys");
    if (!*jstr(t, "topologyKey")) v_required(v, FP(p, "topologyKey"), "can not be empty");
    v_label_name(v, FP(p, "topologyKey"), jstr(t, "topologyKey"));
}

static void pod_affinity(struct vctx *v, const struct json *pa, const struct fp *p) {
    const struct json *t;
    JSON_FOREACH(t, json_get(pa, REQUIRED)) pod_term(v, t, FPI(FP(p, REQUIRED), t_i));
    JSON_FOREACH(t, json_get(pa, PREFERRED)) {
        const struct fp *at = FPI(FP(p, PREFERRED), t_i);
        weight(v, t, at);
        pod_term(v, json_get(t, "podAffinityTerm"), FP(at, "podAffinityTerm"));
    }
}

void validate_affinity(struct vctx *v, const struct json *aff, const struct fp *p) {
    if (!aff) return;
    node_affinity(v, json_get(aff, "nodeAffinity"), FP(p, "nodeAffinity"));
    pod_affinity(v, json_get(aff, "podAffinity"), FP(p, "podAffinity"));
    pod_affinity(v, json_get(aff, "podAntiAffinity"), FP(p, "podAntiAffinity"));
}

/* ---- tolerations ---- */

void validate_tolerations(struct vctx *v, const struct json *tols, const struct fp *p) {
    const struct json *t;
    JSON_FOREACH(t, tols) {
        const struct fp *at = FPI(p, t_i);
        const char *key = jstr(t, "key"), *op = jstr(t, "operator"), *value = jstr(t, "value"),
                   *effect = jstr(t, "effect");
        if (*key) v_label_name(v, FP(at, "key"), key);
        if (!*key && !str_eq(op, "Exists"))
            v_invalid(v, FP(at, "operator"), json_get(t, "operator"),
                      "operator must be Exists when `key` is empty, which means \"match all values and all keys\"");
        if (jget(t, "tolerationSeconds") && !str_eq(effect, "NoExecute"))
            v_invalid(v, FP(at, "effect"), json_get(t, "effect"),
                      "effect must be 'NoExecute' when `tolerationSeconds` is set");
        if (str_in(op, ONE_OF("", "Equal"))) {
            if (is_label_value(value))
                v_invalid(v, FP(at, "operator"), json_get(t, "value"), "%s", is_label_value(value));
        } else if (str_eq(op, "Exists")) {
            if (*value)
                v_invalid(v, FP(at, "operator"), json_get(t, "value"),
                          "value must be empty when `operator` is 'Exists'");
        } else {
            v_not_supported(v, FP(at, "operator"), json_get(t, "operator"), ONE_OF("Equal", "Exists"));
        }
        if (*effect && !str_in(effect, ONE_OF("NoSchedule", "PreferNoSchedule", "NoExecute")))
            v_not_supported(v, FP(at, "effect"), json_get(t, "effect"),
                            ONE_OF("NoSchedule", "PreferNoSchedule", "NoExecute"));
    }
}

/* ---- topology spread ---- */

static void spread_keys(struct vctx *v, const struct json *t, const struct fp *p) {
    const struct json *it, *sel = jget(t, "labelSelector"), *list = json_get(t, "matchLabelKeys");
    if (json_len(list) && !sel) {
        v_forbidden(v, p, "must not be specified when labelSelector is not set");
        return;
    }
    JSON_FOREACH(it, list) {
        const char *key = str_or_empty(json_as_str(it));
        v_label_name(v, FPI(p, it_i), key);
        if (json_at(sel, "matchLabels", key, NULL) || has_key(json_get(sel, "matchExpressions"), "key", key))
            v_invalid(v, FPI(p, it_i), it, "exists in both matchLabelKeys and labelSelector");
    }
}

void validate_topology_spread(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *t;
    JSON_FOREACH(t, list) {
        const struct fp *at = FPI(p, t_i);
        const char *key = jstr(t, "topologyKey"), *when = jstr(t, "whenUnsatisfiable");
        if (json_get_int(t, "maxSkew", 0) <= 0)
            v_invalid(v, FP(at, "maxSkew"), json_get(t, "maxSkew"), "must be greater than zero");
        if (!*key) v_required(v, FP(at, "topologyKey"), "can not be empty");
        if (!str_in(when, ONE_OF("DoNotSchedule", "ScheduleAnyway")))
            v_not_supported(v, FP(at, "whenUnsatisfiable"), json_get(t, "whenUnsatisfiable"),
                            ONE_OF("DoNotSchedule", "ScheduleAnyway"));
        for (size_t j = t_i + 1; j < json_len(list); j++)
            if (str_eq(jstr(json_item(list, j), "topologyKey"), key) &&
                str_eq(jstr(json_item(list, j), "whenUnsatisfiable"), when)) {
                v_duplicate(v, FP(at, "{topologyKey, whenUnsatisfiable}"), json_get(t, "topologyKey"));
                break;
            }
        const struct json *min = jget(t, "minDomains");
        if (min && json_as_int(min, 1) <= 0) v_invalid(v, FP(at, "minDomains"), min, "must be greater than zero");
        if (min && !str_eq(when, "DoNotSchedule"))
            v_invalid(v, FP(at, "minDomains"), min, "can only use minDomains if whenUnsatisfiable=DoNotSchedule");
        v_enum(v, FP(at, "nodeAffinityPolicy"), json_get(t, "nodeAffinityPolicy"), ONE_OF("Ignore", "Honor"), false);
        v_enum(v, FP(at, "nodeTaintsPolicy"), json_get(t, "nodeTaintsPolicy"), ONE_OF("Ignore", "Honor"), false);
        spread_keys(v, t, FP(at, "matchLabelKeys"));
        if (jget(t, "labelSelector")) v_label_selector(v, FP(at, "labelSelector"), json_get(t, "labelSelector"), false);
    }
}
