/* What a kind's strategy does beyond the generic rules before a write: the status a new object starts with,
 * selectors made by the server, parts that only a subresource may change. Upstream: PrepareForCreate and
 * PrepareForUpdate of pkg/registry/<group>/<kind>/strategy.go. */
#include "apiserver/auth/authn.h"
#include "apiserver/rules/kinds.h"
#include "apiserver/rules/validate_device.h"
#include "pkg/base/bytes.h"

enum { UUID_MAX = 37 };

static void keep(struct arena *a, struct json *obj, const struct json *old, const char *key) {
    const struct json *was = json_get(old, key);
    if (was)
        json_set(a, obj, key, json_clone(a, was));
    else
        json_del(obj, key);
}

/* ---- features that are off by default in v1.36 ---- */

static void drop_member(struct json *o, const char *key) {
    if (o) json_del(o, key);
}

/* GenericWorkload, ContainerStopSignals, ClusterTrustBundleProjection, PodCertificateRequest. */
static void drop_disabled_pod(struct json *spec) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    struct json *k, *vol, *src;
    drop_member(spec, "schedulingGroup");
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i])) {
            struct json *life = json_get(k, "lifecycle");
            if (!jget(life, "stopSignal")) continue;
            json_del(life, "stopSignal");
            if (!json_len(life)) json_del(k, "lifecycle");
        }
    JSON_FOREACH(vol, json_get(spec, "volumes"))
        JSON_FOREACH(src, json_at(vol, "projected", "sources", NULL)) {
            drop_member(src, "clusterTrustBundle");
            drop_member(src, "podCertificate");
        }
}

void drop_disabled(struct rules_ctx *c, struct json *obj) {
    struct json *spec = json_get(obj, "spec");
    if (!c->type) return;
    if (str_eq(c->kind, "Pod")) drop_disabled_pod(spec);
    if (str_eq(c->kind, "StatefulSet")) /* MaxUnavailableStatefulSet */
        drop_member(json_at(spec, "updateStrategy", "rollingUpdate", NULL), "maxUnavailable");
    struct json *it;
    if (str_eq(c->kind, "EndpointSlice"))
        JSON_FOREACH(it, json_get(obj, "endpoints")) drop_member(it, "deprecatedTopology");
    if (str_eq(c->kind, "Lease")) { /* CoordinatedLeaderElection */
        drop_member(spec, "strategy");
        drop_member(spec, "preferredHolder");
    }
    if (str_eq(c->kind, "CSIDriver")) drop_member(spec, "preventPodSchedulingIfMissing"); /* VolumeLimitScaling */
    if (str_eq(c->kind, "ResourceSlice")) { /* DRANodeAllocatableResources, DRAListTypeAttributes */
        static const char *const lists[] = {"ints", "bools", "strings", "versions"};
        JSON_FOREACH(it, json_get(spec, "devices")) {
            drop_member(it, "nodeAllocatableResourceMappings");
            JSON_FOREACH_MEMBER(m, json_get(it, "attributes"))
                for (size_t i = 0; i < ARRAY_LEN(lists); i++) drop_member(m->value, lists[i]);
        }
    }
    if (str_eq(c->kind, "Node")) drop_member(spec, "configSource"); /* DynamicKubeletConfig, removed */
    if (str_eq(c->kind, "PodTemplate")) drop_disabled_pod(json_at(obj, "template", "spec", NULL));
    if (str_eq(c->kind, "CronJob")) drop_disabled_pod(json_at(spec, "jobTemplate", "spec", "template", "spec", NULL));
    if (str_in(c->kind, ONE_OF("Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job", "ReplicationController")))
        drop_disabled_pod(json_at(spec, "template", "spec", NULL));
}

/* ---- pods ---- */

/* Guaranteed when every container has equal cpu and memory requests and limits, BestEffort when none asks for
 * anything, else Burstable. Requests and limits of the pod as a whole go before those of its containers. */
const char *pod_qos_class(const struct json *spec) {
    static const char *const lists[] = {"containers", "initContainers"};
    static const char *const counted[] = {"cpu", "memory", NULL};
    bool any = false, guaranteed = true;
    const struct json *whole = json_get(spec, "resources"), *k;
    size_t n = jget(spec, "resources") ? 1 : 0;
    for (size_t i = 0; i < ARRAY_LEN(lists) && !n; i++) {
        JSON_FOREACH(k, json_get(spec, lists[i])) {
            const struct json *res = json_get(k, "resources");
            for (size_t j = 0; counted[j]; j++) {
                const char *r = json_as_str(json_at(res, "requests", counted[j], NULL));
                const char *l = json_as_str(json_at(res, "limits", counted[j], NULL));
                any |= quantity_str_milli(r) > 0 || quantity_str_milli(l) > 0;
                guaranteed &= l && quantity_str_milli(l) > 0 && (!r || str_eq(r, l));
            }
        }
    }
    for (size_t j = 0; n && counted[j]; j++) {
        const char *r = json_as_str(json_at(whole, "requests", counted[j], NULL));
        const char *l = json_as_str(json_at(whole, "limits", counted[j], NULL));
        any |= quantity_str_milli(r) > 0 || quantity_str_milli(l) > 0;
        guaranteed &= l && quantity_str_milli(l) > 0 && (!r || str_eq(r, l));
    }
    return !any ? "BestEffort" : guaranteed ? "Guaranteed" : "Burstable";
}

static bool same_names(const struct json *now, const struct json *was) {
    const struct json *k;
    if (json_len(now) != json_len(was)) return false;
    JSON_FOREACH(k, now)
        if (!str_eq(jstr(k, "name"), jstr(json_item(was, k_i), "name"))) return false;
    return true;
}

/* On /resize the resources and resize policies of containers may change, nothing else of the spec. Other containers,
 * or another order of them, stay for the validation to refuse. */
static void keep_but_resources(struct arena *a, struct json *obj, const struct json *old) {
    struct json *spec = json_clone(a, json_get(old, "spec")), *k;
    static const char *const lists[] = {"containers", "initContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *now = json_at(obj, "spec", lists[i], NULL);
        if (!same_names(now, json_get(spec, lists[i]))) {
            keep(a, spec, json_get(obj, "spec"), lists[i]);
            continue;
        }
        JSON_FOREACH(k, json_get(spec, lists[i])) {
            keep(a, k, json_item(now, k_i), "resources");
            keep(a, k, json_item(now, k_i), "resizePolicy");
        }
    }
    keep(a, spec, json_get(obj, "spec"), "resources");
    json_set(a, obj, "spec", spec);
}

/* Neither /resize nor /ephemeralcontainers change what a client says about the pod. */
static void keep_metadata(struct arena *a, struct json *obj, const struct json *old) {
    static const char *const parts[] = {"labels", "annotations", "finalizers", "ownerReferences"};
    struct json *meta = json_ensure_object(a, obj, "metadata");
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) keep(a, meta, json_get(old, "metadata"), parts[i]);
}

/* DRANodeAllocatableResources, ImageVolumeWithDigest: off by default. */
static void drop_status_parts(struct json *status) {
    static const char *const lists[] = {"containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"};
    struct json *k, *m;
    drop_member(status, "nodeAllocatableResourceClaimStatuses");
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(status, lists[i]))
            JSON_FOREACH(m, json_get(k, "volumeMounts")) drop_member(m, "volumeStatus");
}

/* A client that does not know observedGeneration does not take it away. */
static void keep_observed_generations(struct arena *a, struct json *status, const struct json *was) {
    const struct json *old, *before = json_get(was, "conditions");
    struct json *cond, *list = json_get(status, "conditions");
    if (!json_get_int(status, "observedGeneration", 0)) keep(a, status, was, "observedGeneration");
    JSON_FOREACH(cond, list) {
        size_t nth = 0; /* of its type */
        for (size_t j = 0; j < cond_i; j++) nth += str_eq(jstr(json_item(list, j), "type"), jstr(cond, "type"));
        if (json_get_int(cond, "observedGeneration", 0)) continue;
        JSON_FOREACH(old, before)
            if (str_eq(jstr(old, "type"), jstr(cond, "type")) && !nth--) keep(a, cond, old, "observedGeneration");
    }
}

PREPARE_FN(pod) {
    char now[KTIME_MAX];
    struct json *pod_spec = json_ensure_object(c->a, obj, "spec");
    if (json_get_int(pod_spec, "terminationGracePeriodSeconds", 0) < 0)
        json_set_int(c->a, pod_spec, "terminationGracePeriodSeconds", 1);
    if (!old) {
        struct json *status = json_set(c->a, obj, "status", json_object(c->a));
        json_set_str(c->a, status, "phase", "Pending");
        json_set_str(c->a, status, "qosClass", pod_qos_class(json_get(obj, "spec")));
        if (json_len(json_at(obj, "spec", "schedulingGates", NULL))) {
            struct json *cond = json_object(c->a);
            json_set_str(c->a, cond, "type", "PodScheduled");
            json_set_str(c->a, cond, "status", "False");
            json_set(c->a, cond, "lastProbeTime", json_null(c->a));
            json_set_str(c->a, cond, "lastTransitionTime", ktime_format(c->now, now));
            json_set_str(c->a, cond, "reason", "SchedulingGated");
            json_set_str(c->a, cond, "message", "Scheduling is blocked due to non-empty scheduling gates");
            json_append(c->a, json_ensure_array(c->a, status, "conditions"), cond);
        }
        return;
    }
    if (str_eq(c->subresource, "ephemeralcontainers")) {
        struct json *spec = json_clone(c->a, json_get(old, "spec"));
        keep(c->a, spec, json_get(obj, "spec"), "ephemeralContainers");
        json_set(c->a, obj, "spec", spec);
        keep_metadata(c->a, obj, old);
    } else if (str_eq(c->subresource, "resize")) {
        keep_but_resources(c->a, obj, old);
        keep_metadata(c->a, obj, old);
    } else if (str_eq(c->subresource, "status")) {
        struct json *status = json_ensure_object(c->a, obj, "status");
        if (!*jstr(status, "qosClass")) keep(c->a, status, json_get(old, "status"), "qosClass");
        keep_observed_generations(c->a, status, json_get(old, "status"));
        drop_status_parts(status);
    }
}

/* A reference to a secret of the own namespace is its name. */
PREPARE_FN(service_account) {
    struct json *s;
    JSON_FOREACH(s, json_get(obj, "secrets")) {
        struct json *only = json_object(c->a);
        if (*jstr(s, "name")) json_set_str(c->a, only, "name", jstr(s, "name"));
        *s = *only;
    }
}

/* One without a name gets one. */
PREPARE_FN(limit_range) {
    char name[UUID_MAX];
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    if (old || *jstr(meta, "name")) return;
    uuid_new(name);
    json_set_str(c->a, meta, "name", name);
}

/* ---- namespaces ---- */

PREPARE_FN(namespace) {
    struct json *spec = json_ensure_object(c->a, obj, "spec"), *f;
    if (!old) {
        struct json *status = json_set(c->a, obj, "status", json_object(c->a));
        json_set_str(c->a, status, "phase", "Active");
        struct json *list = json_ensure_array(c->a, spec, "finalizers");
        JSON_FOREACH(f, list)
            if (str_eq(json_as_str(f), "kubernetes")) return;
        json_append(c->a, list, json_str(c->a, "kubernetes"));
        return;
    }
    if (str_eq(c->subresource, "finalize")) {
        keep(c->a, obj, old, "status");
        return;
    }
    keep(c->a, obj, old, "spec");
}

/* ---- jobs ---- */

/* The selector that the server makes: unique by the Job's uid. The labels without a prefix are the old form
 * of the same. */
PREPARE_FN(job) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    if (old || json_get_bool(spec, "manualSelector", false)) return;
    const char *uid = json_as_str(json_at(obj, "metadata", "uid", NULL));
    const char *name = json_as_str(json_at(obj, "metadata", "name", NULL));
    struct json *meta = json_ensure_object(c->a, json_ensure_object(c->a, spec, "template"), "metadata");
    struct json *labels = json_ensure_object(c->a, meta, "labels");
    json_set_str(c->a, labels, "batch.kubernetes.io/controller-uid", uid);
    json_set_str(c->a, labels, "batch.kubernetes.io/job-name", str_or_empty(name));
    json_set_str(c->a, labels, "controller-uid", uid);
    json_set_str(c->a, labels, "job-name", str_or_empty(name));
    struct json *sel = json_ensure_object(c->a, json_ensure_object(c->a, spec, "selector"), "matchLabels");
    json_set_str(c->a, sel, "batch.kubernetes.io/controller-uid", uid);
}

void finish_job(struct rules_ctx *c, struct json *obj, const struct json *old) {
    if (old) return;
    struct json *own = json_ensure_object(c->a, obj, "metadata");
    const struct json *labels = json_at(obj, "spec", "template", "metadata", "labels", NULL);
    if (!json_len(json_get(own, "labels")) && labels) json_set(c->a, own, "labels", json_clone(c->a, labels));
}

/* The template's generation counts its changes from 1. */
PREPARE_FN(daemon_set) {
    struct json *notes = json_ensure_object(c->a, json_ensure_object(c->a, obj, "metadata"), "annotations");
    const char *was = json_as_str(json_at(old, "metadata", "annotations", TEMPLATE_GENERATION, NULL));
    int64_t n = was ? strtoll(was, NULL, 10) : 0;
    if (!old || !jsame(json_at(obj, "spec", "template", NULL), json_at(old, "spec", "template", NULL))) n++;
    json_set(c->a, notes, TEMPLATE_GENERATION, json_strf(c->a, "%lld", (long long)n));
}

/* ---- storage ---- */

PREPARE_FN(persistent_volume) {
    char now[KTIME_MAX];
    struct json *status = json_ensure_object(c->a, obj, "status");
    const char *was = json_as_str(json_at(old, "status", "phase", NULL));
    if (!old) {
        status = json_set(c->a, obj, "status", json_object(c->a));
        json_set_str(c->a, status, "phase", "Pending");
    } else if (!str_eq(c->subresource, "status")) {
        return;
    } else {
        const char *at = jstr(json_get(old, "status"), "lastPhaseTransitionTime"),
                   *said = jstr(status, "lastPhaseTransitionTime");
        bool same = str_eq(was, jstr(status, "phase"));
        if (same && !*said) keep(c->a, status, json_get(old, "status"), "lastPhaseTransitionTime");
        if (same || (*said && !str_eq(said, at))) return;
    }
    json_set_str(c->a, status, "lastPhaseTransitionTime", ktime_format(c->now, now));
}

PREPARE_FN(persistent_volume_claim) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    const struct json *source = jget(spec, "dataSource"), *ref = jget(spec, "dataSourceRef");
    if (!old) json_set_str(c->a, json_set(c->a, obj, "status", json_object(c->a)), "phase", "Pending");
    if (str_eq(c->subresource, "status")) return;
    const struct json *before = json_get(old, "spec");
    bool had = jget(before, "dataSource") || jget(before, "dataSourceRef");
    if (!had && source && !ref) { /* other kinds of sources are left to dataSourceRef */
        const char *group = jstr(source, "apiGroup"), *kind = jstr(source, "kind");
        bool claim = str_eq(kind, "PersistentVolumeClaim") && !*group;
        if (!claim && !(str_eq(kind, "VolumeSnapshot") && str_eq(group, "snapshot.storage.k8s.io"))) {
            json_del(spec, "dataSource");
            source = NULL;
        }
    }
    if (ref && *jstr(ref, "namespace") && !jget(before, "dataSourceRef")) { /* CrossNamespaceVolumeDataSource is off */
        json_del(spec, "dataSourceRef");
        ref = NULL;
    }
    if (source && !ref) json_set(c->a, spec, "dataSourceRef", json_clone(c->a, source));
    if (ref && !source && !*jstr(ref, "namespace")) json_set(c->a, spec, "dataSource", json_clone(c->a, ref));
}

/* An empty list of drivers and none are the same, and shown as null. */
PREPARE_FN(csi_node) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    if (!json_len(json_get(spec, "drivers"))) json_set(c->a, spec, "drivers", json_null(c->a));
}

/* ---- certificates ---- */

static size_t count_of_type(const struct json *conds, const char *type) {
    const struct json *cond;
    size_t n = 0;
    JSON_FOREACH(cond, conds) n += str_eq(jstr(cond, "type"), type);
    return n;
}

/* A write of the status leaves the conditions of a type as they are, unless there are more or fewer of them (which the
 * validation then refuses). */
static void keep_conditions(struct arena *a, struct json *conds, const struct json *was, const char *type) {
    struct json *cond;
    size_t nth = 0;
    if (count_of_type(conds, type) != count_of_type(was, type)) return;
    JSON_FOREACH(cond, conds) {
        const struct json *old;
        size_t left = nth;
        if (!str_eq(jstr(cond, "type"), type)) continue;
        nth++;
        JSON_FOREACH(old, was)
            if (str_eq(jstr(old, "type"), type) && !left--) {
                *cond = *json_clone(a, old);
                break;
            }
    }
}

PREPARE_FN(csr) {
    char now[KTIME_MAX];
    struct json *cond, *status = json_ensure_object(c->a, obj, "status");
    ktime_format(c->now, now);
    if (!old) {
        struct json *spec = json_ensure_object(c->a, obj, "spec"), *groups = json_array(c->a);
        json_set_str(c->a, spec, "username", str_or_empty(c->user));
        for (size_t i = 0; i < c->n_groups; i++) json_append(c->a, groups, json_str(c->a, c->groups[i]));
        json_set(c->a, spec, "groups", groups);
        json_del(spec, "uid");
        json_del(spec, "extra");
        if (c->who && !str_empty(c->who->uid)) json_set_str(c->a, spec, "uid", c->who->uid);
        for (size_t i = 0; c->who && i < c->who->n_extra; i++) {
            const struct user_extra *x = &c->who->extra[i];
            struct json *values = json_ensure_array(c->a, json_ensure_object(c->a, spec, "extra"), x->key);
            for (size_t j = 0; j < x->n; j++) json_append(c->a, values, json_str(c->a, x->values[j]));
        }
        return;
    }
    keep(c->a, obj, old, "spec");
    if (str_eq(c->subresource, "approval")) {
        const struct json *conds = json_get(status, "conditions");
        struct json *merged = json_clone(c->a, json_get(old, "status") ? json_get(old, "status") : json_object(c->a));
        if (json_len(conds))
            json_set(c->a, merged, "conditions", json_clone(c->a, conds));
        else
            json_del(merged, "conditions");
        json_set(c->a, obj, "status", merged);
        status = merged;
    } else if (str_eq(c->subresource, "status")) {
        keep_conditions(c->a, json_get(status, "conditions"), json_at(old, "status", "conditions", NULL), "Approved");
        keep_conditions(c->a, json_get(status, "conditions"), json_at(old, "status", "conditions", NULL), "Denied");
    }
    JSON_FOREACH(cond, json_get(status, "conditions")) {
        def_str(c->a, cond, "lastUpdateTime", now);
        def_str(c->a, cond, "lastTransitionTime", now);
    }
}

/* ---- custom resource definitions ---- */

PREPARE_FN(crd) {
    struct json *status, *ver, *s;
    if (str_eq(c->subresource, "status")) return;
    if (!old) {
        status = json_set(c->a, obj, "status", json_object(c->a));
        json_set(c->a, status, "conditions", json_null(c->a));
        struct json *names = json_ensure_object(c->a, status, "acceptedNames");
        json_set_str(c->a, names, "plural", "");
        json_set_str(c->a, names, "kind", "");
        json_set(c->a, status, "storedVersions", json_array(c->a));
    }
    status = json_ensure_object(c->a, obj, "status");
    JSON_FOREACH(ver, json_at(obj, "spec", "versions", NULL)) {
        if (!json_get_bool(ver, "storage", false)) continue;
        bool stored = false;
        struct json *list = json_ensure_array(c->a, status, "storedVersions");
        JSON_FOREACH(s, list) stored |= str_eq(json_as_str(s), jstr(ver, "name"));
        if (!stored) json_append(c->a, list, json_str(c->a, jstr(ver, "name")));
    }
}

/* One without a service is served here, and so at once. */
PREPARE_FN(api_service) {
    char now[KTIME_MAX];
    if (old || jget(json_get(obj, "spec"), "service")) return;
    struct json *cond = json_object(c->a), *status = json_ensure_object(c->a, obj, "status");
    json_set_str(c->a, cond, "type", "Available");
    json_set_str(c->a, cond, "status", "True");
    json_set_str(c->a, cond, "lastTransitionTime", ktime_format(c->now, now));
    json_set_str(c->a, cond, "reason", "Local");
    json_set_str(c->a, cond, "message", "Local APIServices are always available");
    json_append(c->a, json_set(c->a, status, "conditions", json_array(c->a)), cond);
}

/* The status of a configuration that the server gave is a thing of the past. */
PREPARE_FN(node) {
    if (old && (!str_eq(c->subresource, "status") || jget(json_get(old, "status"), "config"))) return;
    drop_member(json_get(obj, "status"), "config");
}

PREPARE_FN(resource_claim) {
    if (old && str_eq(c->subresource, "status"))
        claim_forget_devices(c->a, json_ensure_object(c->a, obj, "status"), json_get(old, "status"));
}
