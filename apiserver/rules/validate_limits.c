/* What bounds the use of a namespace: LimitRanges and ResourceQuotas. Upstream: ValidateLimitRange and
 * ValidateResourceQuota in pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

/* ---- LimitRange ---- */

static int compare_limits(const struct json *x, const struct json *y) {
    struct quantity a = {0}, b = {0};
    quantity_parse(str_or_empty(json_as_str(x)), &a);
    quantity_parse(str_or_empty(json_as_str(y)), &b);
    return quantity_cmp(a, b);
}

/* First must not exceed second; the finding is at `blamed`. */
static const struct {
    const char *low, *high, *blamed;
} order[] = {
    {"min", "max", "min"},
    {"min", "defaultRequest", "defaultRequest"},
    {"min", "default", "default"},
    {"defaultRequest", "max", "defaultRequest"},
    {"defaultRequest", "default", "defaultRequest"},
    {"default", "max", "default"},
};

static void names(struct vctx *v, const struct json *item, const char *field, const struct fp *p) {
    bool container = str_in(jstr(item, "type"), ONE_OF("Pod", "Container"));
    JSON_FOREACH_MEMBER(m, json_get(item, field)) {
        const struct fp *at = FPK(FP(p, field), m->key);
        if (container)
            validate_container_resource_name(v, at, m->key);
        else
            validate_compute_name(v, at, m->key);
    }
}

static void ratio(struct vctx *v, const struct json *item, const struct fp *p) {
    JSON_FOREACH_MEMBER(m, json_get(item, "maxLimitRequestRatio")) {
        const struct fp *at = FPK(FP(p, "maxLimitRequestRatio"), m->key);
        double most = (double)quantity_str_milli(json_as_str(m->value)) / 1000;
        const struct json *min = json_at(item, "min", m->key, NULL), *max = json_at(item, "max", m->key, NULL);
        if (most < 1) v_invalid(v, at, m->value, "ratio %s is less than 1", json_as_str(m->value));
        if (!min || !max) continue;
        double limit = (double)quantity_str_milli(json_as_str(max)) / (double)quantity_str_milli(json_as_str(min));
        if (most > limit)
            v_invalid(v, at, m->value, "ratio %s is greater than max/min = %f", json_as_str(m->value), limit);
    }
}

/* What cannot be promised twice is asked for as it is limited. */
static void no_overcommit(struct vctx *v, const struct json *item, const struct fp *p) {
    JSON_FOREACH_MEMBER(m, json_get(item, "default")) {
        const struct json *asked = json_at(item, "defaultRequest", m->key, NULL);
        if (!asked || resource_may_overcommit(m->key) || compare_limits(m->value, asked) == 0) continue;
        v_invalid(v, FPK(FP(p, "defaultRequest"), m->key), asked,
                  "default value %s must equal to defaultRequest value %s in %s", json_as_str(m->value),
                  json_as_str(asked), m->key);
    }
}

static void limit_item(struct vctx *v, const struct json *item, const struct fp *p) {
    static const char *const defaults[] = {"default", "defaultRequest"};
    bool pod = str_eq(jstr(item, "type"), "Pod");
    names(v, item, "max", p);
    names(v, item, "min", p);
    for (size_t i = 0; i < ARRAY_LEN(defaults); i++) {
        if (!pod)
            names(v, item, defaults[i], p);
        else if (json_len(json_get(item, defaults[i])))
            v_forbidden(v, FP(p, defaults[i]), "may not be specified when `type` is 'Pod'");
    }
    if (str_eq(jstr(item, "type"), "PersistentVolumeClaim") && !json_at(item, "min", "storage", NULL) &&
        !json_at(item, "max", "storage", NULL))
        v_required(v, FP(p, "limits"), "either minimum or maximum storage value is required, but neither was provided");
    names(v, item, "maxLimitRequestRatio", p);
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        bool of_defaults = strchr("d", order[i].low[0]) || strchr("d", order[i].high[0]);
        JSON_FOREACH_MEMBER(m, pod && of_defaults ? NULL : json_get(item, order[i].low)) {
            const struct json *o = json_at(item, order[i].high, m->key, NULL);
            if (o && compare_limits(m->value, o) > 0)
                v_invalid(v, FPK(FP(p, order[i].blamed), m->key), m->value, "%s value %s is greater than %s value %s",
                          order[i].low, json_as_str(m->value), order[i].high, json_as_str(o));
        }
    }
    ratio(v, item, p);
    if (!pod) no_overcommit(v, item, p);
}

VALIDATE_FN(limit_range) {
    const struct json *it, *list = json_at(obj, "spec", "limits", NULL);
    const struct fp *p = FP(FP(NULL, "spec"), "limits");
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        const char *type = jstr(it, "type");
        size_t before = v->n;
        v_label_name(v, FP(at, "type"), type);
        if (v->n == before && !strchr(type, '/') && !str_in(type, ONE_OF("Pod", "Container", "PersistentVolumeClaim")))
            v_invalid(v, FP(at, "type"), json_get(it, "type"), "must be a standard limit type or fully qualified");
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "type"), type)) {
                v_duplicate(v, FP(at, "type"), json_get(it, "type"));
                break;
            }
        limit_item(v, it, at);
    }
}

/* ---- ResourceQuota ---- */

static const char *const scopes_known[] = {"Terminating",
                                           "NotTerminating",
                                           "BestEffort",
                                           "NotBestEffort",
                                           "PriorityClass",
                                           "CrossNamespacePodAffinity",
                                           "VolumeAttributesClass",
                                           NULL};

/* Whether counting a resource can be narrowed by the scope. */
static bool scope_fits(const char *scope, const char *resource) {
    static const char *const compute[] = {"cpu",          "memory",          "limits.cpu", "limits.memory",
                                          "requests.cpu", "requests.memory", NULL};
    if (str_eq(scope, "BestEffort")) return str_eq(resource, "pods");
    if (str_eq(scope, "VolumeAttributesClass"))
        return str_in(resource, ONE_OF("persistentvolumeclaims", "requests.storage"));
    if (!str_in(scope, scopes_known)) return true;
    return str_eq(resource, "pods") || str_in(resource, compute);
}

static void unfit(struct vctx *v, const struct json *hard, const char *scope, const struct json *value,
                  const struct fp *p) {
    JSON_FOREACH_MEMBER(m, hard)
        if (resource_is_quota(m->key) && !scope_fits(scope, m->key))
            v_invalid(v, p, value, "unsupported scope applied to resource");
}

/* BestEffort and NotBestEffort leave nothing, nor do Terminating and NotTerminating. */
static void opposites(struct vctx *v, const struct json *list, const char *member, const struct fp *p) {
    static const char *const pairs[][2] = {{"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"}};
    const struct json *s;
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
        unsigned found = 0;
        JSON_FOREACH(s, list) {
            const char *name = member ? jstr(s, member) : str_or_empty(json_as_str(s));
            found |= str_eq(name, pairs[i][0]) ? 1 : str_eq(name, pairs[i][1]) ? 2 : 0;
        }
        if (found == 3) v_invalid(v, p, list, "conflicting scopes");
    }
}

static void scope_requirement(struct vctx *v, const struct json *s, const struct json *hard, const struct json *sel,
                              const struct fp *at) {
    const char *scope = jstr(s, "scopeName"), *op = jstr(s, "operator");
    size_t n = json_len(json_get(s, "values"));
    if (!str_in(scope, scopes_known)) v_invalid(v, FP(at, "scopeName"), json_get(s, "scopeName"), "unsupported scope");
    unfit(v, hard, scope, sel, at);
    if (str_in(scope, scopes_known) && !str_in(scope, ONE_OF("PriorityClass", "VolumeAttributesClass")) &&
        !str_eq(op, "Exists"))
        v_invalid(v, FP(at, "operator"), json_get(s, "operator"), "must be 'Exists' for this scope");
    if (str_in(op, ONE_OF("In", "NotIn"))) {
        if (!n)
            v_required(v, FP(at, "values"),
                       "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector");
    } else if (str_in(op, ONE_OF("Exists", "DoesNotExist"))) {
        if (n)
            v_invalid(v, FP(at, "values"), json_get(s, "values"),
                      "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector");
    } else {
        v_invalid(v, FP(at, "operator"), json_get(s, "operator"), "not a valid selector operator");
    }
}

void validate_quota_amounts(struct vctx *v, const struct json *list, const struct fp *p) {
    JSON_FOREACH_MEMBER(m, list) {
        const struct fp *at = FPK(p, m->key);
        validate_compute_name(v, at, m->key);
        if (!strchr(m->key, '/') && !resource_is_quota(m->key))
            v_invalid(v, at, json_str(v->a, m->key), "must be a standard resource for quota");
        validate_resource_value(v, at, m->key, m->value);
    }
}

VALIDATE_FN(resource_quota) {
    const struct json *spec = json_get(obj, "spec"), *s, *scopes = json_get(spec, "scopes"),
                      *hard = json_get(spec, "hard");
    const struct json *sel = json_get(spec, "scopeSelector"), *terms = json_get(sel, "matchExpressions");
    const struct fp *p = FP(NULL, "spec"), *tp = FP(FP(p, "scopeSelector"), "matchExpressions");
    validate_quota_amounts(v, hard, FP(p, "hard"));
    JSON_FOREACH(s, scopes) {
        const char *name = str_or_empty(json_as_str(s));
        if (!str_in(name, scopes_known)) v_invalid(v, FP(p, "scopes"), scopes, "unsupported scope");
        unfit(v, hard, name, scopes, FP(p, "scopes"));
    }
    opposites(v, scopes, NULL, FP(p, "scopes"));
    JSON_FOREACH(s, terms) scope_requirement(v, s, hard, sel, tp);
    opposites(v, terms, "scopeName", tp);
    if (old) v_immutable(v, FP(p, "scopes"), scopes, json_at(old, "spec", "scopes", NULL));
}
