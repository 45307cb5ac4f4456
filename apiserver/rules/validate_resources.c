/* Resources: their names, requests and limits, of containers and of pods as a whole. Upstream: ValidateResourceRequirements
 * and its kin in pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

static bool is_hugepages(const char *name) { return str_has_prefix(name, "hugepages-"); }

bool resource_is_native(const char *name) { return !strchr(name, '/') || strstr(name, "kubernetes.io/"); }

bool resource_is_quota(const char *name) {
    static const char *const known[] = {"cpu",
                                        "memory",
                                        "ephemeral-storage",
                                        "requests.cpu",
                                        "requests.memory",
                                        "requests.ephemeral-storage",
                                        "limits.cpu",
                                        "limits.memory",
                                        "limits.ephemeral-storage",
                                        "pods",
                                        "resourcequotas",
                                        "services",
                                        "replicationcontrollers",
                                        "secrets",
                                        "configmaps",
                                        "persistentvolumeclaims",
                                        "requests.storage",
                                        "services.nodeports",
                                        "services.loadbalancers",
                                        NULL};
    return str_in(name, known) || is_hugepages(name) || str_has_prefix(name, "requests.hugepages-");
}

bool resource_is_standard(const char *name) { return resource_is_quota(name) || str_eq(name, "storage"); }

bool resource_is_extended(const char *name) {
    if (resource_is_native(name) || str_has_prefix(name, "requests.")) return false;
    char *quota = xasprintf("requests.%s", name);
    bool ok = qualified_name_faults(quota) == 0;
    free(quota);
    return ok;
}

void validate_resource_name(struct vctx *v, const struct fp *p, const char *name) { v_label_name(v, p, name); }

void validate_compute_name(struct vctx *v, const struct fp *p, const char *name) {
    size_t before = v->n;
    validate_resource_name(v, p, name);
    if (v->n == before && !strchr(name, '/') && !resource_is_standard(name))
        v_invalid(v, p, json_str(v->a, name), "must be a standard resource type or fully qualified");
}

void validate_container_resource_name(struct vctx *v, const struct fp *p, const char *name) {
    validate_compute_name(v, p, name);
    if (!strchr(name, '/')) {
        if (!str_in(name, ONE_OF("cpu", "memory", "ephemeral-storage")) && !is_hugepages(name))
            v_invalid(v, p, json_str(v->a, name), "must be a standard resource for containers");
    } else if (!resource_is_native(name) && !resource_is_extended(name)) {
        v_invalid(v, p, json_str(v->a, name), "doesn't follow extended resource name standard");
    }
}

/* Of a whole pod: what its containers share. */
static void pod_resource_name(struct vctx *v, const struct fp *p, const char *name) {
    size_t before = v->n;
    validate_compute_name(v, p, name);
    if (v->n == before && !str_in(name, ONE_OF("cpu", "memory")) && !is_hugepages(name))
        v_not_supported(v, p, json_str(v->a, name), ONE_OF("cpu", "hugepages-", "memory"));
}

/* An amount of huge pages is a whole number of pages. */
static void huge_pages(struct vctx *v, const struct fp *p, const char *name, const struct json *value) {
    struct quantity page, q;
    if (!is_hugepages(name)) return;
    if (quantity_parse(name + strlen("hugepages-"), &page) < 0 || page.nano <= 0) return;
    if (quantity_parse(str_or_empty(json_as_str(value)), &q) < 0) return;
    if (q.nano % page.nano != 0)
        v_invalid(v, p, value, "%s is not positive integer multiple of %s", json_as_str(value), name);
}

/* Negative amounts, and fractions where only whole ones make sense. */
void validate_resource_value(struct vctx *v, const struct fp *p, const char *name, const struct json *value) {
    struct quantity q;
    if (quantity_parse(str_or_empty(json_as_str(value)), &q) < 0) return;
    if (q.nano < 0) v_invalid(v, p, value, "must be greater than or equal to 0");
    bool whole =
        resource_is_extended(name) ||
        str_in(name, ONE_OF("pods", "services", "replicationcontrollers", "resourcequotas", "secrets", "configmaps",
                            "persistentvolumeclaims", "services.nodeports", "services.loadbalancers"));
    if (whole && q.nano % 1000000000 != 0) v_invalid(v, p, value, "must be an integer");
}

bool resource_may_overcommit(const char *name) { return resource_is_native(name) && !is_hugepages(name); }

static int compare_quantities(const struct json *x, const struct json *y) {
    struct quantity a = {0}, b = {0};
    quantity_parse(str_or_empty(json_as_str(x)), &a);
    quantity_parse(str_or_empty(json_as_str(y)), &b);
    return quantity_cmp(a, b);
}

typedef void resource_name_fn(struct vctx *v, const struct fp *p, const char *name);

static void claims(struct vctx *v, const struct json *list, const struct json *pod_claims, const struct fp *p) {
    const struct json *it, *o;
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        const char *name = jstr(it, "name"), *request = jstr(it, "request");
        if (!*name) {
            v_required(v, at, NULL);
            continue;
        }
        bool taken = false;
        for (size_t j = 0; j < it_i && !taken; j++) {
            o = json_item(list, j);
            taken = str_eq(jstr(o, "name"), name) &&
                    (!*request || !*jstr(o, "request") || str_eq(jstr(o, "request"), request));
        }
        if (*request) v_label1123(v, FP(at, "request"), json_get(it, "request"));
        if (taken) v_duplicate(v, at, json_get(it, "name"));
        if (!has_key(pod_claims, "name", name)) v_not_found(v, at, json_get(it, "name"));
    }
}

static void requirements(struct vctx *v, const struct json *res, const struct fp *p, const struct json *pod_claims,
                         resource_name_fn *check_name) {
    const struct json *limits = json_get(res, "limits"), *requests = json_get(res, "requests");
    bool compute = false, huge = false;
    JSON_FOREACH_MEMBER(m, limits) {
        const struct fp *at = FPK(FP(p, "limits"), m->key);
        check_name(v, at, m->key);
        validate_resource_value(v, at, m->key, m->value);
        huge_pages(v, at, m->key, m->value);
        compute |= str_in(m->key, ONE_OF("cpu", "memory"));
        huge |= is_hugepages(m->key);
    }
    JSON_FOREACH_MEMBER(m, requests) {
        const struct fp *at = FPK(FP(p, "requests"), m->key);
        const struct json *limit = json_get(limits, m->key);
        check_name(v, at, m->key);
        validate_resource_value(v, at, m->key, m->value);
        if (limit && compare_quantities(m->value, limit) != 0 && !resource_may_overcommit(m->key))
            v_invalid(v, FP(p, "requests"), m->value, "must be equal to %s limit of %s", m->key, json_as_str(limit));
        else if (limit && compare_quantities(m->value, limit) > 0)
            v_invalid(v, FP(p, "requests"), m->value, "must be less than or equal to %s limit of %s", m->key,
                      json_as_str(limit));
        else if (!limit && !resource_may_overcommit(m->key))
            v_required(v, FP(p, "limits"), "Limit must be set for non overcommitable resources");
        huge_pages(v, at, m->key, m->value);
        compute |= str_in(m->key, ONE_OF("cpu", "memory"));
        huge |= is_hugepages(m->key);
    }
    if (huge && !compute) v_forbidden(v, p, "HugePages require cpu or memory");
    claims(v, json_get(res, "claims"), pod_claims, FP(p, "claims"));
}

void validate_resources(struct vctx *v, const struct json *res, const struct fp *p, const struct json *pod_claims) {
    requirements(v, res, p, pod_claims, validate_container_resource_name);
}

/* What a whole pod asks for: at least what its containers ask for together, and no container has a higher limit. */
void validate_pod_resources(struct vctx *v, const struct json *spec, const struct fp *up) {
    const struct json *res = jget(spec, "resources"), *k;
    const struct fp *p = FP(up, "resources");
    if (!res) return;
    requirements(v, res, p, NULL, pod_resource_name);
    if (json_len(json_get(res, "claims")))
        v_forbidden(v, FP(p, "claims"), "claims may not be set for Resources at pod-level");
    JSON_FOREACH_MEMBER(m, json_get(res, "requests")) {
        struct quantity total = {0}, q, whole;
        bool asked = false;
        JSON_FOREACH(k, json_get(spec, "containers"))
            if (quantity_parse(str_or_empty(json_as_str(json_at(k, "resources", "requests", m->key, NULL))), &q) == 0)
                total.nano += q.nano, asked = true;
        if (!asked) continue;
        if (!str_in(m->key, ONE_OF("cpu", "memory")) && !is_hugepages(m->key)) continue;
        if (quantity_parse(str_or_empty(json_as_str(m->value)), &whole) == 0 && total.nano > whole.nano)
            v_invalid(v, FPK(FP(p, "requests"), m->key), m->value,
                      "must be greater than or equal to aggregate container requests");
    }
    JSON_FOREACH(k, json_get(spec, "containers"))
        JSON_FOREACH_MEMBER(m, json_at(k, "resources", "limits", NULL)) {
            const struct json *limit = json_at(res, "limits", m->key, NULL);
            if (limit && compare_quantities(m->value, limit) > 0)
                v_invalid(v, FP(FPK(FPI(FP(p, "containers"), k_i), m->key), "limits"), m->value,
                          "must be less than or equal to pod limits of %s", json_as_str(limit));
        }
}
