/* Admission of everything but pods: NamespaceLifecycle, TaintNodesByCondition, the storage and ingress class
 * defaults, StorageObjectInUseProtection, PersistentVolumeClaimResize and ResourceQuota.
 * Upstream: the plugins of the same names under plugin/pkg/admission and apiserver/pkg/admission/plugin. */
#include "apiserver/rules/admission.h"

/* ---- NamespaceLifecycle ---- */

int check_namespace_lifecycle(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const immortal[] = {"default", "kube-system", "kube-public", NULL};
    if (admission_is(c, "", "Namespace")) {
        if (c->op == RULES_DELETE && str_in(str_or_empty(c->name), immortal))
            return admission_forbid(c, old, e, "this namespace may not be deleted");
        return 0;
    }
    if (!c->namespaced || c->op != RULES_CREATE || str_empty(c->ns)) return 0;
    const struct json *ns = admission_get(c, "", "namespaces", NULL, c->ns);
    if (!ns) {
        err_status(e, 404, "NotFound", "namespaces \"%s\" not found", c->ns);
        err_details(e, NULL, "namespaces", c->ns);
        return -ENOENT;
    }
    if (!str_eq(json_as_str(json_at(ns, "status", "phase", NULL)), "Terminating")) return 0;
    admission_forbid(c, obj, e, "unable to create new content in namespace %s because it is being terminated", c->ns);
    err_cause_add(e, "NamespaceTerminating", "metadata.namespace", "namespace %s is being terminated", c->ns);
    return -EACCES;
}

/* ---- nodes ---- */

#define NOT_READY "node.kubernetes.io/not-ready"

int admit_taint_nodes(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    const struct json *t;
    if (c->op != RULES_CREATE || !admission_is(c, "", "Node")) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    JSON_FOREACH(t, json_get(spec, "taints"))
        if (str_eq(jstr(t, "key"), NOT_READY) && str_eq(jstr(t, "effect"), "NoSchedule")) return 0;
    struct json *taint = json_object(c->a);
    json_set_str(c->a, taint, "key", NOT_READY);
    json_set_str(c->a, taint, "effect", "NoSchedule");
    json_append(c->a, json_ensure_array(c->a, spec, "taints"), taint);
    return 0;
}

/* PodTopologyLabels: a pod that goes to a node, by a binding or from the start, gets the node's zone and region. */
int admit_topology_labels(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    static const char *const keys[] = {"topology.kubernetes.io/zone", "topology.kubernetes.io/region"};
    if (!obj || !str_empty(c->group) || !str_eq(c->resource, "pods")) return 0;
    bool binding = str_eq(c->subresource, "binding");
    if (!binding && (!str_empty(c->subresource) || c->op != RULES_CREATE)) return 0;
    const struct json *target = json_get(obj, "target");
    if (binding && !str_in(jstr(target, "kind"), ONE_OF("", "Node"))) return 0;
    const char *node = binding ? jstr(target, "name") : jstr(json_get(obj, "spec"), "nodeName");
    const struct json *labels =
        *node ? json_at(admission_get(c, "", "nodes", NULL, node), "metadata", "labels", NULL) : NULL;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const char *v = json_get_str(labels, keys[i]);
        if (v)
            json_set_str(c->a, json_ensure_object(c->a, json_ensure_object(c->a, obj, "metadata"), "labels"), keys[i],
                         v);
    }
    return 0;
}

/* ---- storage ---- */

static void add_finalizer(struct rules_ctx *c, struct json *obj, const char *name) {
    struct json *meta = json_ensure_object(c->a, obj, "metadata"), *f;
    JSON_FOREACH(f, json_get(meta, "finalizers"))
        if (str_eq(json_as_str(f), name)) return;
    json_append(c->a, json_ensure_array(c->a, meta, "finalizers"), json_str(c->a, name));
}

int admit_storage_in_use(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (c->op != RULES_CREATE) return 0;
    if (admission_is(c, "", "PersistentVolume")) add_finalizer(c, obj, "kubernetes.io/pv-protection");
    if (admission_is(c, "", "PersistentVolumeClaim")) add_finalizer(c, obj, "kubernetes.io/pvc-protection");
    if (admission_is(c, "storage.k8s.io", "VolumeAttributesClass"))
        add_finalizer(c, obj, "kubernetes.io/vac-protection");
    return 0;
}

/* The newest object that an annotation marks as default; among equals the first by name. */
static const char *default_class(struct rules_ctx *c, const char *group, const char *resource, const char *annotation) {
    const struct json *it, *best = NULL;
    JSON_FOREACH(it, admission_list(c, group, resource, NULL)) {
        if (!str_eq(json_as_str(json_at(it, "metadata", "annotations", annotation, NULL)), "true")) continue;
        const char *t = jstr(json_get(it, "metadata"), "creationTimestamp");
        int newer = best ? strcmp(t, jstr(json_get(best, "metadata"), "creationTimestamp")) : 1;
        if (newer > 0 || (newer == 0 &&
                          strcmp(jstr(json_get(it, "metadata"), "name"), jstr(json_get(best, "metadata"), "name")) < 0))
            best = it;
    }
    return best ? jstr(json_get(best, "metadata"), "name") : NULL;
}

int admit_default_storage_class(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (c->op != RULES_CREATE || !admission_is(c, "", "PersistentVolumeClaim")) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    const char *beta = "volume.beta.kubernetes.io/storage-class";
    if (jget(spec, "storageClassName") || json_at(obj, "metadata", "annotations", beta, NULL)) return 0;
    const char *name =
        default_class(c, "storage.k8s.io", "storageclasses", "storageclass.kubernetes.io/is-default-class");
    if (!name)
        name = default_class(c, "storage.k8s.io", "storageclasses", "storageclass.beta.kubernetes.io/is-default-class");
    if (name) json_set_str(c->a, spec, "storageClassName", name);
    return 0;
}

int check_pvc_resize(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (c->op != RULES_UPDATE || !admission_is(c, "", "PersistentVolumeClaim")) return 0;
    const char *now = json_as_str(json_at(obj, "spec", "resources", "requests", "storage", NULL));
    const char *was = json_as_str(json_at(old, "spec", "resources", "requests", "storage", NULL));
    if (quantity_str_milli(now) <= quantity_str_milli(was)) return 0;
    if (!str_eq(json_as_str(json_at(old, "status", "phase", NULL)), "Bound"))
        return admission_forbid(c, obj, e, "Only bound persistent volume claims can be expanded");
    const char *class = json_as_str(json_at(obj, "spec", "storageClassName", NULL));
    const struct json *sc = str_empty(class) ? NULL : admission_get(c, "storage.k8s.io", "storageclasses", NULL, class);
    if (!json_get_bool(sc, "allowVolumeExpansion", false))
        return admission_forbid(c, obj, e,
                                "only dynamically provisioned pvc can be resized and the storageclass that "
                                "provisions the pvc must support resize");
    return 0;
}

/* ---- ingresses ---- */

int admit_default_ingress_class(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (c->op != RULES_CREATE || !admission_is(c, "networking.k8s.io", "Ingress")) return 0;
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    if (jget(spec, "ingressClassName") || json_at(obj, "metadata", "annotations", "kubernetes.io/ingress.class", NULL))
        return 0;
    const char *name =
        default_class(c, "networking.k8s.io", "ingressclasses", "ingressclass.kubernetes.io/is-default-class");
    if (name) json_set_str(c->a, spec, "ingressClassName", name);
    return 0;
}

/* ---- ResourceQuota ---- */

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

static int64_t claim_usage(const struct json *claim, const char *resource) {
    if (str_in(resource, ONE_OF("persistentvolumeclaims", "count/persistentvolumeclaims"))) return 1000;
    int64_t size = quantity_str_milli(json_as_str(json_at(claim, "spec", "resources", "requests", "storage", NULL)));
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

static int64_t usage_of(struct rules_ctx *c, const struct json *obj, const char *resource) {
    if (!obj) return 0;
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

static bool pod_in_scope(const struct json *pod, const char *scope) {
    const struct json *spec = json_get(pod, "spec");
    bool terminating = jget(spec, "activeDeadlineSeconds") != NULL;
    bool best_effort = str_eq(json_as_str(json_at(pod, "status", "qosClass", NULL)), "BestEffort");
    if (str_eq(scope, "Terminating")) return terminating;
    if (str_eq(scope, "NotTerminating")) return !terminating;
    if (str_eq(scope, "BestEffort")) return best_effort;
    if (str_eq(scope, "NotBestEffort")) return !best_effort;
    if (str_eq(scope, "PriorityClass")) return *jstr(spec, "priorityClassName") != '\0';
    return true;
}

static bool quota_applies(const struct json *quota, const struct json *obj) {
    const struct json *s, *v;
    JSON_FOREACH(s, json_at(quota, "spec", "scopes", NULL))
        if (!pod_in_scope(obj, str_or_empty(json_as_str(s)))) return false;
    JSON_FOREACH(s, json_at(quota, "spec", "scopeSelector", "matchExpressions", NULL)) {
        const char *scope = jstr(s, "scopeName"), *op = jstr(s, "operator");
        if (str_eq(scope, "PriorityClass") && str_in(op, ONE_OF("In", "NotIn"))) {
            bool in = false;
            JSON_FOREACH(v, json_get(s, "values"))
                in |= str_eq(json_as_str(v), jstr(json_get(obj, "spec"), "priorityClassName"));
            if (in != str_eq(op, "In")) return false;
        } else if (pod_in_scope(obj, scope) == str_eq(op, "DoesNotExist")) {
            return false;
        }
    }
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

/* Usage is counted from the cache for each check, so that it is right whatever the controller has got to. */
int check_resource_quota(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!c->namespaced || c->op == RULES_DELETE || !str_empty(c->subresource) || !obj) return 0;
    const struct json *quota, *it, *all = NULL;
    JSON_FOREACH(quota, admission_list(c, "", "resourcequotas", c->ns)) {
        if (!quota_applies(quota, obj)) continue;
        const char *missing = c->op == RULES_CREATE && admission_is(c, "", "Pod") ? unsaid(c, quota, obj) : NULL;
        if (missing)
            return admission_forbid(c, obj, e, "failed quota: %s: must specify %s",
                                    jstr(json_get(quota, "metadata"), "name"), missing);
        JSON_FOREACH_MEMBER(m, json_at(quota, "spec", "hard", NULL)) {
            int64_t adds = usage_of(c, obj, m->key), had = c->op == RULES_UPDATE ? usage_of(c, old, m->key) : 0,
                    used = 0;
            if (adds < 0 || adds <= had) continue;
            c->quota_counted = true;
            if (!all) all = admission_list(c, c->group, c->resource, c->ns);
            JSON_FOREACH(it, all)
                if (quota_applies(quota, it)) used += MAX_OF(usage_of(c, it, m->key), INT64_C(0));
            if (used - had + adds > quantity_str_milli(json_as_str(m->value)))
                return admission_forbid(c, obj, e, "exceeded quota: %s, requested: %s=%s, used: %s=%s, limited: %s=%s",
                                        jstr(json_get(quota, "metadata"), "name"), m->key, amount(c->a, adds - had),
                                        m->key, amount(c->a, used), m->key, json_as_str(m->value));
        }
    }
    return 0;
}
