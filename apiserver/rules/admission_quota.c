/* ResourceQuota: what a write adds must fit. Usage is counted from the cache for each check, so that it is right whatever
 * the controller has got to. Where several servers write into one store, each charges the quota's status for what it is
 * about to store, with compare-and-swap, and looks at both: what is counted, and what is charged. Upstream:
 * apiserver/pkg/admission/plugin/resourcequota. */
#include "apiserver/rules/admission.h"

enum {
    CLAIM_DEVICES_MAX = 32, /* of one ResourceClaim, as many as its allocation may hold */
    CLASSES_MAX = 3         /* that one claim for a volume may name */
};
#define DEVICES_OF_CLASS ".deviceclass.resource.k8s.io/devices"

/* What a pod counts for a quota's resource name, or -1 when pods do not count for it. In thousandths. */
static int64_t pod_usage(const struct json *pod, const char *resource) {
    const struct json *k, *spec = json_get(pod, "spec");
    const char *phase = jstr(json_get(pod, "status"), "phase"), *which = "requests", *name = resource;
    bool over = str_in(phase, ONE_OF("Succeeded", "Failed"));
    if (str_eq(resource, "count/pods")) return 1000;
    if (over) return 0;
    if (str_eq(resource, "pods")) return 1000;
    if (str_has_prefix(resource, "requests.")) {
        name = resource + strlen("requests.");
    } else if (str_has_prefix(resource, "limits.")) {
        name = resource + strlen("limits.");
        which = "limits";
    } else if (!str_in(resource, ONE_OF("cpu", "memory", "ephemeral-storage")) &&
               !str_has_prefix(resource, "hugepages-")) {
        return -1;
    }
    if (str_eq(name, "storage")) return -1;
    int64_t sum = 0, init = 0;
    JSON_FOREACH(k, json_get(spec, "containers"))
        sum += quantity_str_milli(json_as_str(json_at(k, "resources", which, name, NULL)));
    JSON_FOREACH(k, json_get(spec, "initContainers"))
        init = MAX_OF(init, quantity_str_milli(json_as_str(json_at(k, "resources", which, name, NULL))));
    return MAX_OF(sum, init);
}

/* What a claim asks for, or what is being made for it when that is more. */
static int64_t claim_size(const struct json *claim) {
    int64_t asked = quantity_str_milli(json_as_str(json_at(claim, "spec", "resources", "requests", "storage", NULL))),
            made = quantity_str_milli(json_as_str(json_at(claim, "status", "allocatedResources", "storage", NULL)));
    return MAX_OF(asked, made);
}

static int64_t claim_usage(const struct json *claim, const char *resource) {
    if (str_in(resource, ONE_OF("persistentvolumeclaims", "count/persistentvolumeclaims"))) return 1000;
    int64_t size = claim_size(claim);
    if (str_eq(resource, "requests.storage")) return size;
    const char *at = strstr(resource, ".storageclass.storage.k8s.io/"),
               *class = json_as_str(json_at(claim, "spec", "storageClassName", NULL));
    if (!at || !class || strncmp(resource, class, (size_t)(at - resource)) != 0 || class[at - resource]) return -1;
    return str_eq(strrchr(resource, '/'), "/persistentvolumeclaims") ? 1000 : size;
}

static int64_t service_usage(const struct json *svc, const char *resource) {
    const char *type = jstr(json_get(svc, "spec"), "type");
    if (str_in(resource, ONE_OF("services", "count/services"))) return 1000;
    if (str_eq(resource, "services.loadbalancers")) return str_eq(type, "LoadBalancer") ? 1000 : 0;
    if (!str_eq(resource, "services.nodeports")) return -1;
    bool ports =
        str_eq(type, "NodePort") ||
        (str_eq(type, "LoadBalancer") && json_get_bool(json_get(svc, "spec"), "allocateLoadBalancerNodePorts", true));
    return ports ? 1000 * (int64_t)json_len(json_at(svc, "spec", "ports", NULL)) : 0;
}

/* The devices that a request of a ResourceClaim (or one of its alternatives) may get of a class, in thousandths. */
static int64_t request_devices(const struct json *rq, const char *class, size_t n) {
    const char *mode = jstr(rq, "allocationMode"), *of = jstr(rq, "deviceClassName");
    if (strlen(of) != n || strncmp(of, class, n) != 0) return 0;
    if (str_eq(mode, "All")) return 1000 * (int64_t)CLAIM_DEVICES_MAX;
    return str_eq(mode, "ExactCount") ? 1000 * json_get_int(rq, "count", 0) : 0;
}

static int64_t devices_usage(const struct json *claim, const char *resource) {
    const struct json *rq, *sub;
    int64_t sum = 0;
    if (str_eq(resource, "count/resourceclaims.resource.k8s.io")) return 1000;
    if (!str_has_suffix(resource, DEVICES_OF_CLASS)) return -1;
    size_t n = strlen(resource) - strlen(DEVICES_OF_CLASS);
    JSON_FOREACH(rq, json_at(claim, "spec", "devices", "requests", NULL)) {
        int64_t most = request_devices(json_get(rq, "exactly"), resource, n);
        JSON_FOREACH(sub, json_get(rq, "firstAvailable")) most = MAX_OF(most, request_devices(sub, resource, n));
        sum += most;
    }
    return sum;
}

static int64_t usage_of(struct rules_ctx *c, const struct json *obj, const char *resource) {
    if (!obj) return 0;
    if (str_eq(c->group, "resource.k8s.io") && str_eq(c->resource, "resourceclaims"))
        return devices_usage(obj, resource);
    if (str_empty(c->group) && str_eq(c->kind, "Pod")) return pod_usage(obj, resource);
    if (str_empty(c->group) && str_eq(c->kind, "PersistentVolumeClaim")) return claim_usage(obj, resource);
    if (str_empty(c->group) && str_eq(c->kind, "Service")) return service_usage(obj, resource);
    if (str_has_prefix(resource, "count/")) {
        const char *want = str_empty(c->group) ? c->resource : arena_printf(c->a, "%s.%s", c->resource, c->group);
        return str_eq(resource + strlen("count/"), want) ? 1000 : -1;
    }
    bool plain = str_empty(c->group) &&
                 str_in(c->resource, ONE_OF("configmaps", "secrets", "replicationcontrollers", "resourcequotas"));
    return plain && str_eq(resource, c->resource) ? 1000 : -1;
}

static bool terms_reach_out(const struct json *terms, const char *inner) {
    const struct json *t;
    JSON_FOREACH(t, terms) {
        const struct json *term = inner ? json_get(t, inner) : t;
        if (json_len(json_get(term, "namespaces")) || jget(term, "namespaceSelector")) return true;
    }
    return false;
}

/* Whether a pod's affinity looks at pods of other namespaces. */
static bool reaches_out(const struct json *spec) {
    for (size_t i = 0; i < 2; i++) {
        const struct json *a = json_at(spec, "affinity", i ? "podAntiAffinity" : "podAffinity", NULL);
        if (terms_reach_out(json_get(a, "requiredDuringSchedulingIgnoredDuringExecution"), NULL) ||
            terms_reach_out(json_get(a, "preferredDuringSchedulingIgnoredDuringExecution"), "podAffinityTerm"))
            return true;
    }
    return false;
}

/* The VolumeAttributesClasses that a claim has or is to have; how many. */
static size_t attribute_classes(const struct json *claim, const char *out[CLASSES_MAX]) {
    const char *const all[] = {
        json_as_str(json_at(claim, "spec", "volumeAttributesClassName", NULL)),
        json_as_str(json_at(claim, "status", "currentVolumeAttributesClassName", NULL)),
        json_as_str(json_at(claim, "status", "modifyVolumeStatus", "targetVolumeAttributesClassName", NULL))};
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (!str_empty(all[i])) out[n++] = all[i];
    return n;
}

static bool in_scope(const struct json *obj, const char *scope) {
    const struct json *spec = json_get(obj, "spec");
    const char *classes[CLASSES_MAX];
    bool terminating = jget(spec, "activeDeadlineSeconds") != NULL;
    bool best_effort = str_eq(json_as_str(json_at(obj, "status", "qosClass", NULL)), "BestEffort");
    if (str_eq(scope, "Terminating")) return terminating;
    if (str_eq(scope, "NotTerminating")) return !terminating;
    if (str_eq(scope, "BestEffort")) return best_effort;
    if (str_eq(scope, "NotBestEffort")) return !best_effort;
    if (str_eq(scope, "PriorityClass")) return *jstr(spec, "priorityClassName") != '\0';
    if (str_eq(scope, "CrossNamespacePodAffinity")) return reaches_out(spec);
    if (str_eq(scope, "VolumeAttributesClass")) return attribute_classes(obj, classes) > 0;
    return true;
}

/* A scope's expression over names of which the object has some: one that fits is enough. */
static bool names_fit(const struct json *x, const char *const *names, size_t n) {
    const char *op = jstr(x, "operator");
    const struct json *v;
    if (!n || str_in(op, ONE_OF("Exists", "DoesNotExist"))) return str_in(op, ONE_OF("NotIn", "DoesNotExist")) == !n;
    for (size_t i = 0; i < n; i++) {
        bool in = false;
        JSON_FOREACH(v, json_get(x, "values")) in |= str_eq(json_as_str(v), names[i]);
        if (in == str_eq(op, "In")) return true;
    }
    return false;
}

static bool expression_applies(const struct json *x, const struct json *obj) {
    const char *scope = jstr(x, "scopeName"), *class = jstr(json_get(obj, "spec"), "priorityClassName"),
               *classes[CLASSES_MAX];
    if (str_eq(scope, "PriorityClass")) return names_fit(x, &class, *class != '\0');
    if (str_eq(scope, "VolumeAttributesClass")) return names_fit(x, classes, attribute_classes(obj, classes));
    return in_scope(obj, scope) != str_eq(jstr(x, "operator"), "DoesNotExist");
}

static bool quota_applies(const struct json *quota, const struct json *obj) {
    const struct json *s;
    JSON_FOREACH(s, json_at(quota, "spec", "scopes", NULL))
        if (!in_scope(obj, str_or_empty(json_as_str(s)))) return false;
    JSON_FOREACH(s, json_at(quota, "spec", "scopeSelector", "matchExpressions", NULL))
        if (!expression_applies(s, obj)) return false;
    return true;
}

static const char *amount(struct arena *a, int64_t milli) {
    return quantity_format(a, (struct quantity){(__int128)milli * 1000000, QUANTITY_DECIMAL_SI});
}

/* A pod must say how much it asks of what a quota counts: names of what is missing, or NULL. */
static const char *unsaid(struct rules_ctx *c, const struct json *quota, const struct json *pod) {
    static const char *const counted[][3] = {
        {"cpu", "requests", "cpu"},          {"memory", "requests", "memory"},
        {"requests.cpu", "requests", "cpu"}, {"requests.memory", "requests", "memory"},
        {"limits.cpu", "limits", "cpu"},     {"limits.memory", "limits", "memory"},
    };
    const struct json *hard = json_at(quota, "spec", "hard", NULL), *spec = json_get(pod, "spec"), *k;
    const char *out = "";
    for (size_t i = 0; i < ARRAY_LEN(counted); i++) {
        bool missing = false;
        if (!json_get(hard, counted[i][0]) || json_at(spec, "resources", counted[i][1], counted[i][2], NULL)) continue;
        JSON_FOREACH(k, json_get(spec, "containers"))
            missing |= !json_at(k, "resources", counted[i][1], counted[i][2], NULL);
        JSON_FOREACH(k, json_get(spec, "initContainers"))
            missing |= !json_at(k, "resources", counted[i][1], counted[i][2], NULL);
        if (missing) out = arena_printf(c->a, "%s%s%s", out, *out ? "," : "", counted[i][0]);
    }
    return *out ? out : NULL;
}

/* One check of all quotas. */
struct check {
    struct rules_ctx *c;
    const struct json *obj, *old;
    struct quota_charges *charges; /* NULL: only what is counted matters */
};

/* What the quota's resource is used by now. *counted: without what other servers have charged. */
static int64_t used_now(struct check *x, const struct json *quota, const char *resource, const struct json **all,
                        int64_t *counted) {
    struct rules_ctx *c = x->c;
    const struct json *it;
    *counted = 0;
    if (!*all) *all = admission_list(c, c->group, c->resource, c->ns);
    JSON_FOREACH(it, *all)
        if (quota_applies(quota, it)) *counted += MAX_OF(usage_of(c, it, resource), INT64_C(0));
    const char *charged = json_as_str(json_at(quota, "status", "used", resource, NULL));
    if (!x->charges || x->charges->trust_count || !charged) return *counted;
    return MAX_OF(*counted, quantity_str_milli(charged));
}

static struct quota_charge *charge_for(struct check *x, const struct json *quota) {
    struct quota_charges *o = x->charges;
    const char *name = jstr(json_get(quota, "metadata"), "name");
    if (o->n && str_eq(o->items[o->n - 1].quota, name)) return &o->items[o->n - 1];
    ARENA_GROW(x->c->a, o->items, o->n, o->cap);
    o->items[o->n] = (struct quota_charge){name, json_object(x->c->a)};
    return &o->items[o->n++];
}

static int check_quota(struct check *x, const struct json *quota, const struct json **all, struct err *e) {
    struct rules_ctx *c = x->c;
    const char *name = jstr(json_get(quota, "metadata"), "name");
    const char *missing = c->op == RULES_CREATE && admission_is(c, "", "Pod") ? unsaid(c, quota, x->obj) : NULL;
    if (missing) return admission_forbid(c, x->obj, e, "failed quota: %s: must specify %s", name, missing);
    bool counted_before = c->op == RULES_UPDATE && quota_applies(quota, x->old);
    JSON_FOREACH_MEMBER(m, json_at(quota, "spec", "hard", NULL)) {
        int64_t adds = usage_of(c, x->obj, m->key), had = counted_before ? usage_of(c, x->old, m->key) : 0,
                hard = quantity_str_milli(json_as_str(m->value)), counted;
        if (adds < 0 || adds <= had) continue;
        c->quota_counted = true;
        int64_t used = used_now(x, quota, m->key, all, &counted), then = used - had + adds;
        if (then > hard) {
            if (x->charges) x->charges->disputed = counted - had + adds <= hard;
            return admission_forbid(c, x->obj, e, "exceeded quota: %s, requested: %s=%s, used: %s=%s, limited: %s=%s",
                                    name, m->key, amount(c->a, adds - had), m->key, amount(c->a, used), m->key,
                                    json_as_str(m->value));
        }
        if (x->charges) json_set_str(c->a, charge_for(x, quota)->used, m->key, amount(c->a, then));
    }
    return 0;
}

static bool paid(const struct quota_charges *x, const struct json *quota) {
    for (size_t i = 0; x && x->paid && i < x->paid->n; i++)
        if (str_eq(x->paid->items[i].quota, jstr(json_get(quota, "metadata"), "name"))) return true;
    return false;
}

static int check_all(struct check *x, struct err *e) {
    struct rules_ctx *c = x->c;
    const struct json *quota, *all = NULL;
    if (str_eq(c->subresource, "resize")) { /* counts as an update of the pod */
        struct rules_ctx whole = *c;
        struct check y = {&whole, x->obj, x->old, x->charges};
        whole.subresource = NULL;
        int rc = check_all(&y, e);
        c->quota_counted |= whole.quota_counted;
        return rc;
    }
    if (!c->namespaced || c->op == RULES_DELETE || !str_empty(c->subresource) || !x->obj) return 0;
    JSON_FOREACH(quota, admission_list(c, "", "resourcequotas", c->ns)) {
        int rc = quota_applies(quota, x->obj) && !paid(x->charges, quota) ? check_quota(x, quota, &all, e) : 0;
        if (rc) return rc;
    }
    return 0;
}

int check_resource_quota(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    struct check x = {.c = c, .obj = obj, .old = old};
    return check_all(&x, e);
}

int admission_quota(struct rules_ctx *c, const struct json *obj, const struct json *old, struct quota_charges *charges,
                    struct err *e) {
    struct check x = {c, obj, old, charges};
    if (charges) charges->n = 0;
    return check_all(&x, e);
}
