/* Admission of everything but pods: NamespaceLifecycle, TaintNodesByCondition, the storage and ingress class
 * defaults, StorageObjectInUseProtection, PersistentVolumeClaimResize.
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
