/* The built-in resources of v1.36, in the order of discovery, and look-ups in the table. Rows are bound to their
 * api_types and table columns when a table is made; the hash is discovery's storageVersionHash: the first 8 bytes of
 * SHA-256 of "group/version/kind" as stored. */
#include "apiserver/resource.h"

#include <pthread.h>

#include "apiserver/object.h"
#include "apiserver/tables.h"
#include "pkg/base/map.h"

#define N(...) \
    (const char *const[]) { __VA_ARGS__, NULL }
#define SUBS(...)                                       \
    .subs = (const struct resource_sub[]){__VA_ARGS__}, \
    .n_subs = sizeof((const struct resource_sub[]){__VA_ARGS__}) / sizeof(struct resource_sub)
#define STATUS(kind) \
    { "status", NULL, NULL, kind, VERBS_RUW }
#define SCALE \
    { "scale", "autoscaling", "v1", "Scale", VERBS_RUW }
#define NAMESPACED true
#define CLUSTER false
#define ROW(g, v, k, p, s, ns, vb, ...)                                                                           \
    {                                                                                                             \
        .group = g, .version = v, .kind = k, .list_kind = k "List", .plural = p, .singular = s, .namespaced = ns, \
        .verbs = vb, __VA_ARGS__                                                                                  \
    }

/* clang-format off */
static const struct resource builtin[] = {
    /* ---- v1 ---- */
    ROW("", "v1", "Binding", "bindings", "binding", NAMESPACED, VERB_CREATE,
        .stored = RES_VIRTUAL),
    ROW("", "v1", "ComponentStatus", "componentstatuses", "componentstatus", CLUSTER, VERB_GET | VERB_LIST,
        .deprecated = "v1 ComponentStatus is deprecated in v1.19+",
        .stored = RES_VIRTUAL, .short_names = N("cs")),
    ROW("", "v1", "ConfigMap", "configmaps", "configmap", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/configmaps/", .storage_hash = "qFsyl6wFWjQ=", .short_names = N("cm")),
    ROW("", "v1", "Endpoints", "endpoints", "endpoints", NAMESPACED, VERBS_ALL,
        .deprecated = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
        .flags = RES_CREATE_ON_UPDATE,
        .key_prefix = "/registry/services/endpoints/", .storage_hash = "fWeeMqaN/OA=", .short_names = N("ep")),
    ROW("", "v1", "Event", "events", "event", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE | RES_LAZY,
        .key_prefix = "/registry/events/", .storage_hash = "r2yiGXH7wu8=", .short_names = N("ev"), .fields =
            N("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
            "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
            "reportingComponent", "source=source.component", "type"), .field_else = N("source", "reportingComponent")),
    ROW("", "v1", "LimitRange", "limitranges", "limitrange", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE,
        .key_prefix = "/registry/limitranges/", .storage_hash = "EBKMFVe6cwo=", .short_names = N("limits")),
    ROW("", "v1", "Namespace", "namespaces", "namespace", CLUSTER, VERBS_ALL & ~VERB_DELETECOLLECTION,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/namespaces/", .storage_hash = "Q3oi5N2YM8M=", .short_names = N("ns"), .fields
            = N("status.phase"), SUBS({"finalize", NULL, NULL, "Namespace", VERB_UPDATE}, STATUS("Namespace"))),
    ROW("", "v1", "Node", "nodes", "node", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/minions/", .storage_hash = "XwShjMxG9Fs=", .short_names = N("no"), .fields =
            N("spec.unschedulable"), SUBS({"proxy", NULL, NULL, "NodeProxyOptions", VERBS_PROXY},
            STATUS("Node"))),
    ROW("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims", "persistentvolumeclaim", NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/persistentvolumeclaims/", .storage_hash = "QWTyNDq0dC4=", .short_names =
            N("pvc"), SUBS(STATUS("PersistentVolumeClaim"))),
    ROW("", "v1", "PersistentVolume", "persistentvolumes", "persistentvolume", CLUSTER, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/persistentvolumes/", .storage_hash = "HN/zwEC+JgM=", .short_names = N("pv"),
            SUBS(STATUS("PersistentVolume"))),
    ROW("", "v1", "Pod", "pods", "pod", NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/pods/", .storage_hash = "xPOwRZ+Yhw8=", .short_names = N("po"), .categories =
            N("all"), .fields = N("spec.nodeName", "spec.restartPolicy", "spec.schedulerName",
            "spec.serviceAccountName", "spec.hostNetwork", "status.phase", "status.podIP",
            "status.nominatedNodeName"), SUBS({"attach", NULL, NULL, "PodAttachOptions", VERB_CREATE | VERB_GET},
            {"binding", NULL, NULL, "Binding", VERB_CREATE}, {"ephemeralcontainers", NULL, NULL, "Pod",
            VERBS_RUW}, {"eviction", "policy", "v1", "Eviction", VERB_CREATE}, {"exec", NULL, NULL,
            "PodExecOptions", VERB_CREATE | VERB_GET}, {"log", NULL, NULL, "Pod", VERB_GET}, {"portforward", NULL,
            NULL, "PodPortForwardOptions", VERB_CREATE | VERB_GET}, {"proxy", NULL, NULL, "PodProxyOptions",
            VERBS_PROXY}, {"resize", NULL, NULL, "Pod", VERBS_RUW}, STATUS("Pod"))),
    ROW("", "v1", "PodTemplate", "podtemplates", "podtemplate", NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/podtemplates/", .storage_hash = "LIXB2x4IFpk="),
    ROW("", "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller", NAMESPACED, VERBS_ALL,
        .flags = RES_ORPHANS,
        .key_prefix = "/registry/controllers/", .storage_hash = "Jond2If31h0=", .short_names = N("rc"),
            .categories = N("all"), .fields = N("status.replicas"), SUBS(SCALE, STATUS("ReplicationController"))),
    ROW("", "v1", "ResourceQuota", "resourcequotas", "resourcequota", NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/resourcequotas/", .storage_hash = "8uhSgffRX6w=", .short_names = N("quota"),
            SUBS(STATUS("ResourceQuota"))),
    ROW("", "v1", "Secret", "secrets", "secret", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/secrets/", .storage_hash = "S6u1pOWzb84=", .fields = N("type")),
    ROW("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount", NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/serviceaccounts/", .storage_hash = "pbx9ZvyFpBE=", .short_names = N("sa"),
            SUBS({"token", "authentication.k8s.io", "v1", "TokenRequest", VERB_CREATE})),
    ROW("", "v1", "Service", "services", "service", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE | RES_RETURN_DELETED,
        .key_prefix = "/registry/services/specs/", .storage_hash = "0/CO1lhkEBI=", .short_names = N("svc"),
            .categories = N("all"), .fields = N("spec.clusterIP", "spec.type"), SUBS({"proxy", NULL, NULL,
            "ServiceProxyOptions", VERBS_PROXY}, STATUS("Service"))),
    /* ---- apiregistration.k8s.io/v1 ---- */
    ROW("apiregistration.k8s.io", "v1", "APIService", "apiservices", "apiservice", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/apiregistration.k8s.io/apiservices/", .storage_hash = "InPBPD7+PqM=",
            .categories = N("api-extensions"), SUBS(STATUS("APIService"))),
    /* ---- apps/v1 ---- */
    ROW("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/controllerrevisions/", .storage_hash = "85nkx63pcBU="),
    ROW("apps", "v1", "DaemonSet", "daemonsets", "daemonset", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/daemonsets/", .storage_hash = "dd7pWHUlMKQ=", .short_names = N("ds"),
            .categories = N("all"), SUBS(STATUS("DaemonSet"))),
    ROW("apps", "v1", "Deployment", "deployments", "deployment", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/deployments/", .storage_hash = "8aSe+NMegvE=", .short_names = N("deploy"),
            .categories = N("all"), SUBS(SCALE, STATUS("Deployment"))),
    ROW("apps", "v1", "ReplicaSet", "replicasets", "replicaset", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/replicasets/", .storage_hash = "P1RzHs8/mWQ=", .short_names = N("rs"),
            .categories = N("all"), SUBS(SCALE, STATUS("ReplicaSet"))),
    ROW("apps", "v1", "StatefulSet", "statefulsets", "statefulset", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/statefulsets/", .storage_hash = "H+vl74LkKdo=", .short_names = N("sts"),
            .categories = N("all"), SUBS(SCALE, STATUS("StatefulSet"))),
    /* ---- events.k8s.io/v1 ---- */
    ROW("events.k8s.io", "v1", "Event", "events", "event", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE | RES_LAZY,
        .key_prefix = "/registry/events/", .storage_hash = "r2yiGXH7wu8=", .short_names = N("ev"), .fields =
            N("reason", "reportingController=reportingComponent", "type", "regarding.kind=involvedObject.kind",
            "regarding.namespace=involvedObject.namespace", "regarding.name=involvedObject.name",
            "regarding.uid=involvedObject.uid", "regarding.apiVersion=involvedObject.apiVersion",
            "regarding.resourceVersion=involvedObject.resourceVersion",
            "regarding.fieldPath=involvedObject.fieldPath"), .stored_as = "/v1"),
    /* ---- authentication.k8s.io/v1 ---- */
    ROW("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview",
        CLUSTER, VERB_CREATE,
        .stored = RES_VIRTUAL),
    ROW("authentication.k8s.io", "v1", "TokenReview", "tokenreviews", "tokenreview", CLUSTER, VERB_CREATE,
        .stored = RES_VIRTUAL),
    /* ---- authorization.k8s.io/v1 ---- */
    ROW("authorization.k8s.io", "v1", "LocalSubjectAccessReview", "localsubjectaccessreviews",
        "localsubjectaccessreview", NAMESPACED, VERB_CREATE,
        .stored = RES_VIRTUAL),
    ROW("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews",
        "selfsubjectaccessreview", CLUSTER, VERB_CREATE,
        .stored = RES_VIRTUAL),
    ROW("authorization.k8s.io", "v1", "SelfSubjectRulesReview", "selfsubjectrulesreviews",
        "selfsubjectrulesreview", CLUSTER, VERB_CREATE,
        .stored = RES_VIRTUAL),
    ROW("authorization.k8s.io", "v1", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview",
        CLUSTER, VERB_CREATE,
        .stored = RES_VIRTUAL),
    /* ---- autoscaling/v2 ---- */
    ROW("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler",
        NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/horizontalpodautoscalers/", .storage_hash = "qwQve8ut294=", .short_names =
            N("hpa"), .categories = N("all"), SUBS(STATUS("HorizontalPodAutoscaler"))),
    /* ---- autoscaling/v1 ---- */
    ROW("autoscaling", "v1", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler",
        NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/horizontalpodautoscalers/", .storage_hash = "qwQve8ut294=", .short_names =
            N("hpa"), .categories = N("all"), .stored_as = "autoscaling/v2",
            SUBS(STATUS("HorizontalPodAutoscaler"))),
    /* ---- batch/v1 ---- */
    ROW("batch", "v1", "CronJob", "cronjobs", "cronjob", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/cronjobs/", .storage_hash = "sd5LIXh4Fjs=", .short_names = N("cj"),
            .categories = N("all"), SUBS(STATUS("CronJob"))),
    ROW("batch", "v1", "Job", "jobs", "job", NAMESPACED, VERBS_ALL,
        .flags = RES_ORPHANS,
        .key_prefix = "/registry/jobs/", .storage_hash = "mudhfqk/qZY=", .categories = N("all"), .fields =
            N("status.successful=status.succeeded"), SUBS(STATUS("Job"))),
    /* ---- certificates.k8s.io/v1 ---- */
    ROW("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests",
        "certificatesigningrequest", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/certificatesigningrequests/", .storage_hash = "95fRKMXA+00=", .short_names =
            N("csr"), .fields = N("spec.signerName"), SUBS({"approval", NULL, NULL, "CertificateSigningRequest",
            VERBS_RUW}, STATUS("CertificateSigningRequest"))),
    /* ---- networking.k8s.io/v1 ---- */
    ROW("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/ingressclasses/", .storage_hash = "l/iqIbDgFyQ="),
    ROW("networking.k8s.io", "v1", "Ingress", "ingresses", "ingress", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/ingress/", .storage_hash = "39NQlfNR+bo=", .short_names = N("ing"),
            SUBS(STATUS("Ingress"))),
    ROW("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ipaddress", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/ipaddresses/", .storage_hash = "3f/plJFChNE=", .short_names = N("ip")),
    ROW("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", "networkpolicy", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/networkpolicies/", .storage_hash = "YpfwF18m1G8=", .short_names = N("netpol")),
    ROW("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/servicecidrs/", .storage_hash = "gNLvruQhW2g=", SUBS(STATUS("ServiceCIDR"))),
    /* ---- policy/v1 ---- */
    ROW("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget", NAMESPACED, VERBS_ALL,
        .flags = RES_NEEDS_RV,
        .key_prefix = "/registry/poddisruptionbudgets/", .storage_hash = "EVWiDmWqyJw=", .short_names =
            N("pdb"), SUBS(STATUS("PodDisruptionBudget"))),
    /* ---- rbac.authorization.k8s.io/v1 ---- */
    ROW("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding",
        CLUSTER, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE,
        .key_prefix = "/registry/clusterrolebindings/", .storage_hash = "48tpQ8gZHFc="),
    ROW("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", "clusterrole", CLUSTER, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE,
        .key_prefix = "/registry/clusterroles/", .storage_hash = "bYE5ZWDrJ44="),
    ROW("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings", "rolebinding", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE,
        .key_prefix = "/registry/rolebindings/", .storage_hash = "eGsCzGH6b1g="),
    ROW("rbac.authorization.k8s.io", "v1", "Role", "roles", "role", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE,
        .key_prefix = "/registry/roles/", .storage_hash = "7FuwZcIIItM="),
    /* ---- storage.k8s.io/v1 ---- */
    ROW("storage.k8s.io", "v1", "CSIDriver", "csidrivers", "csidriver", CLUSTER, VERBS_ALL,
        .flags = RES_NEEDS_RV | RES_RETURN_DELETED,
        .key_prefix = "/registry/csidrivers/", .storage_hash = "hL6j/rwBV5w="),
    ROW("storage.k8s.io", "v1", "CSINode", "csinodes", "csinode", CLUSTER, VERBS_ALL,
        .flags = RES_NEEDS_RV | RES_RETURN_DELETED,
        .key_prefix = "/registry/csinodes/", .storage_hash = "Pe62DkZtjuo="),
    ROW("storage.k8s.io", "v1", "CSIStorageCapacity", "csistoragecapacities", "csistoragecapacity",
        NAMESPACED, VERBS_ALL,
        .flags = RES_NEEDS_RV,
        .key_prefix = "/registry/csistoragecapacities/", .storage_hash = "xeVl+2Ly1kE="),
    ROW("storage.k8s.io", "v1", "StorageClass", "storageclasses", "storageclass", CLUSTER, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/storageclasses/", .storage_hash = "K+m6uJwbjGY=", .short_names = N("sc")),
    ROW("storage.k8s.io", "v1", "VolumeAttachment", "volumeattachments", "volumeattachment", CLUSTER, VERBS_ALL,
        .flags = RES_NEEDS_RV | RES_RETURN_DELETED,
        .key_prefix = "/registry/volumeattachments/", .storage_hash = "tJx/ezt6UDU=",
            SUBS(STATUS("VolumeAttachment"))),
    ROW("storage.k8s.io", "v1", "VolumeAttributesClass", "volumeattributesclasses", "volumeattributesclass",
        CLUSTER, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/volumeattributesclasses/", .storage_hash = "tIjydgKBC5w=", .short_names = N("vac")),
    /* ---- admissionregistration.k8s.io/v1 ---- */
    ROW("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy", "mutatingadmissionpolicies",
        "mutatingadmissionpolicy", CLUSTER, VERBS_ALL,
        .flags = RES_NEEDS_RV,
        .key_prefix = "/registry/mutatingadmissionpolicies/", .storage_hash = "mHCkTKpUTrE=", .categories =
            N("api-extensions")),
    ROW("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicyBinding",
        "mutatingadmissionpolicybindings", "mutatingadmissionpolicybinding", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/mutatingadmissionpolicybindings/", .storage_hash = "ZKgZT1uTmZ0=",
            .categories = N("api-extensions")),
    ROW("admissionregistration.k8s.io", "v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations",
        "mutatingwebhookconfiguration", CLUSTER, VERBS_ALL,
        .flags = RES_NEEDS_RV,
        .key_prefix = "/registry/mutatingwebhookconfigurations/", .storage_hash = "Sqi0GUgDaX0=", .categories
            = N("api-extensions")),
    ROW("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies",
        "validatingadmissionpolicy", CLUSTER, VERBS_ALL,
        .flags = RES_NEEDS_RV,
        .key_prefix = "/registry/validatingadmissionpolicies/", .storage_hash = "6OxvlMmQ6is=", .categories =
            N("api-extensions"), SUBS(STATUS("ValidatingAdmissionPolicy"))),
    ROW("admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicyBinding",
        "validatingadmissionpolicybindings", "validatingadmissionpolicybinding", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/validatingadmissionpolicybindings/", .storage_hash = "v9715VZqakg=",
            .categories = N("api-extensions")),
    ROW("admissionregistration.k8s.io", "v1", "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations", "validatingwebhookconfiguration", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/validatingwebhookconfigurations/", .storage_hash = "B0wHjQmsGNk=",
            .categories = N("api-extensions")),
    /* ---- apiextensions.k8s.io/v1 ---- */
    ROW("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions",
        "customresourcedefinition", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/apiextensions.k8s.io/customresourcedefinitions/", .storage_hash =
            "M5uH+AlWATY=", .short_names = N("crd", "crds"), .categories = N("api-extensions"),
            SUBS(STATUS("CustomResourceDefinition"))),
    /* ---- scheduling.k8s.io/v1 ---- */
    ROW("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/priorityclasses/", .storage_hash = "1QwjyaZjj3Y=", .short_names = N("pc")),
    /* ---- coordination.k8s.io/v1 ---- */
    ROW("coordination.k8s.io", "v1", "Lease", "leases", "lease", NAMESPACED, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE | RES_NEEDS_RV | RES_LAZY,
        .key_prefix = "/registry/leases/", .storage_hash = "gqkMMb/YqFM="),
    /* ---- node.k8s.io/v1 ---- */
    ROW("node.k8s.io", "v1", "RuntimeClass", "runtimeclasses", "runtimeclass", CLUSTER, VERBS_ALL,
        .flags = RES_CREATE_ON_UPDATE | RES_NEEDS_RV,
        .key_prefix = "/registry/runtimeclasses/", .storage_hash = "WQTu1GL3T2Q="),
    /* ---- discovery.k8s.io/v1 ---- */
    ROW("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice", NAMESPACED, VERBS_ALL,
        .key_prefix = "/registry/endpointslices/", .storage_hash = "qgS0xkrxYAI="),
    /* ---- resource.k8s.io/v1 ---- */
    ROW("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", "deviceclass", CLUSTER, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/deviceclasses/", .storage_hash = "Yk2PTc1Ybxk="),
    ROW("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims", "resourceclaim", NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/resourceclaims/", .storage_hash = "wgAZaHcZxUg=", SUBS(STATUS("ResourceClaim"))),
    ROW("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates", "resourceclaimtemplate",
        NAMESPACED, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/resourceclaimtemplates/", .storage_hash = "TuzjC49aUfM="),
    ROW("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", "resourceslice", CLUSTER, VERBS_ALL,
        .flags = RES_RETURN_DELETED,
        .key_prefix = "/registry/resourceslices/", .storage_hash = "KsC072WgaEY=", .fields =
            N("spec.nodeName", "spec.driver")),
    /* ---- flowcontrol.apiserver.k8s.io/v1 ---- */
    ROW("flowcontrol.apiserver.k8s.io", "v1", "FlowSchema", "flowschemas", "flowschema", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/flowschemas/", .storage_hash = "GJVAJZSZBIw=", SUBS(STATUS("FlowSchema"))),
    ROW("flowcontrol.apiserver.k8s.io", "v1", "PriorityLevelConfiguration", "prioritylevelconfigurations",
        "prioritylevelconfiguration", CLUSTER, VERBS_ALL,
        .key_prefix = "/registry/prioritylevelconfigurations/", .storage_hash = "Kir5PVfvNeI=",
            SUBS(STATUS("PriorityLevelConfiguration"))),
};
/* clang-format on */

struct kept {
    struct resource *row;
    struct arena *arena;
    struct kept *next;
};

struct resource_table {
    struct resource *rows;
    size_t n;
    struct map by_name; /* built-in: "group/version/plural" */
    /* custom rows, under `lock` */
    pthread_rwlock_t lock;
    struct kept *kept;
    const struct resource **served;
    size_t n_served;
    struct map served_by_name;
    unsigned next_index, next_cache;
};

static bool row_key(char key[400], const char *group, const char *version, const char *plural) {
    int n = snprintf(key, 400, "%s/%s/%s", group, version, plural);
    return n > 0 && n < 400;
}

static const struct resource *find(const struct resource_table *t, const char *group, const char *version,
                                   const char *plural) {
    char key[400];
    return row_key(key, group, version, plural) ? map_get(&t->by_name, key) : NULL;
}

const struct resource *resource_find(struct resource_table *t, const char *group, const char *version,
                                     const char *plural) {
    const struct resource *r = find(t, group, version, plural);
    char key[400];
    if (r || !row_key(key, group, version, plural)) return r;
    pthread_rwlock_rdlock(&t->lock);
    r = map_get(&t->served_by_name, key);
    pthread_rwlock_unlock(&t->lock);
    return r;
}

static void bind_storage(struct resource_table *t, struct resource *r) {
    char group[200];
    const char *slash = strrchr(r->stored_as, '/');
    snprintf(group, sizeof(group), "%.*s", (int)(slash - r->stored_as), r->stored_as);
    r->storage = find(t, group, slash + 1, r->plural);
    r->cache = r->storage->index;
}

struct resource_table *resource_table_new(void) {
    struct resource_table *t = xcalloc(1, sizeof(*t));
    pthread_rwlock_init(&t->lock, NULL);
    t->n = ARRAY_LEN(builtin);
    t->rows = xcalloc(t->n, sizeof(*t->rows));
    t->next_index = t->next_cache = (unsigned)t->n;
    for (size_t i = 0; i < t->n; i++) {
        struct resource *r = &t->rows[i];
        char key[400];
        *r = builtin[i];
        r->index = r->cache = (unsigned)i;
        r->type = api_type_find(r->group, r->version, r->kind);
        r->printer = table_printer_find(r->group, r->version, r->plural);
        r->pieces = pieces_new(r);
        if (row_key(key, r->group, r->version, r->plural)) map_put(&t->by_name, key, r);
    }
    for (size_t i = 0; i < t->n; i++)
        if (t->rows[i].stored_as) bind_storage(t, &t->rows[i]);
    return t;
}

void resource_table_free(struct resource_table *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n; i++) pieces_free((struct pieces *)t->rows[i].pieces);
    while (t->kept) {
        struct kept *k = t->kept;
        t->kept = k->next;
        pieces_free((struct pieces *)k->row->pieces);
        arena_free(k->arena);
        free(k);
    }
    map_done(&t->by_name);
    map_done(&t->served_by_name);
    free(t->served);
    free(t->rows);
    pthread_rwlock_destroy(&t->lock);
    free(t);
}

size_t resource_table_len(const struct resource_table *t) { return t->n; }
const struct resource *resource_table_at(const struct resource_table *t, size_t i) { return &t->rows[i]; }

/* ---- custom rows ---- */

static bool same_list(const char *const *x, const char *const *y) {
    size_t i = 0;
    if (!x || !y) return x == y;
    for (; x[i] && y[i]; i++)
        if (!str_eq(x[i], y[i])) return false;
    return !x[i] && !y[i];
}

static bool same_scale(const struct scale_paths *x, const struct scale_paths *y) {
    if (!x || !y) return x == y;
    return str_eq(x->spec, y->spec) && str_eq(x->status, y->status) && str_eq(x->selector, y->selector);
}

static bool same_row(const struct resource *x, const struct resource *y) {
    bool subs = x->n_subs == y->n_subs;
    for (size_t i = 0; subs && i < x->n_subs; i++) subs = str_eq(x->subs[i].name, y->subs[i].name);
    return subs && str_eq(x->key_prefix, y->key_prefix) && str_eq(x->version, y->version) && str_eq(x->kind, y->kind) &&
           str_eq(x->list_kind, y->list_kind) && str_eq(x->singular, y->singular) && x->namespaced == y->namespaced &&
           x->storage == y->storage && str_eq(x->storage_hash, y->storage_hash) &&
           str_eq(x->deprecated, y->deprecated) && same_list(x->short_names, y->short_names) &&
           same_list(x->categories, y->categories) && same_list(x->fields, y->fields) &&
           same_list(x->versions, y->versions) && x->converts == y->converts && same_scale(x->scale, y->scale) &&
           table_printer_same(x->printer, y->printer);
}

const struct resource *resource_table_keep(struct resource_table *t, struct resource *row, struct arena *arena) {
    const struct resource *have = NULL;
    unsigned cache = 0;
    pthread_rwlock_wrlock(&t->lock);
    for (struct kept *k = t->kept; k && !have; k = k->next) {
        if (same_row(k->row, row)) have = k->row;
        if (str_eq(k->row->key_prefix, row->key_prefix)) cache = k->row->cache;
    }
    if (!have) {
        struct kept *k = xcalloc(1, sizeof(*k));
        row->index = t->next_index++;
        row->cache = cache ? cache : t->next_cache++;
        row->pieces = pieces_new(row);
        *k = (struct kept){row, arena, t->kept};
        t->kept = k;
    }
    pthread_rwlock_unlock(&t->lock);
    if (!have) return row;
    arena_free(arena);
    return have;
}

void resource_table_serve(struct resource_table *t, const struct resource *const *rows, size_t n) {
    pthread_rwlock_wrlock(&t->lock);
    map_done(&t->served_by_name);
    t->served_by_name = (struct map)MAP_INIT;
    free(t->served);
    t->served = xcalloc(n + 1, sizeof(*t->served));
    for (size_t i = 0; i < n; i++) {
        char key[400];
        t->served[i] = rows[i];
        if (row_key(key, rows[i]->group, rows[i]->version, rows[i]->plural))
            map_put(&t->served_by_name, key, (void *)rows[i]);
    }
    t->n_served = n;
    pthread_rwlock_unlock(&t->lock);
}

/* Custom rows of a built-in group stand behind that group's own. */
const struct resource *const *resource_table_rows(struct resource_table *t, struct arena *a, size_t *n) {
    pthread_rwlock_rdlock(&t->lock);
    const struct resource **out = arena_alloc(a, (t->n + t->n_served + 1) * sizeof(*out));
    size_t k = 0;
    for (size_t i = 0; i < t->n; i++) {
        out[k++] = &t->rows[i];
        if (i + 1 < t->n && str_eq(t->rows[i + 1].group, t->rows[i].group)) continue;
        for (size_t j = 0; j < t->n_served; j++)
            if (str_eq(t->served[j]->group, t->rows[i].group)) out[k++] = t->served[j];
    }
    for (size_t j = 0; j < t->n_served; j++) {
        bool placed = false;
        for (size_t i = 0; i < t->n && !placed; i++) placed = str_eq(t->served[j]->group, t->rows[i].group);
        if (!placed) out[k++] = t->served[j];
    }
    pthread_rwlock_unlock(&t->lock);
    *n = k;
    return out;
}

const struct resource *resource_find_kind(const struct resource_table *t, const char *group, const char *version,
                                          const char *kind) {
    for (size_t i = 0; i < t->n; i++) {
        const struct resource *r = &t->rows[i];
        if (str_eq(r->kind, kind) && str_eq(r->group, group) && (!version || str_eq(r->version, version))) return r;
    }
    return NULL;
}

const struct resource_sub *resource_sub_find(const struct resource *r, const char *name) {
    for (size_t i = 0; i < r->n_subs; i++)
        if (str_eq(r->subs[i].name, name)) return &r->subs[i];
    return NULL;
}

static bool of_group(const struct resource *r, const char *group, const char *version) {
    return str_eq(r->group, group) && (!version || str_eq(r->version, version));
}

bool resource_group_known(struct resource_table *t, const char *group, const char *version) {
    bool known = false;
    for (size_t i = 0; i < t->n && !known; i++) known = of_group(&t->rows[i], group, version);
    if (known) return true;
    pthread_rwlock_rdlock(&t->lock);
    for (size_t i = 0; i < t->n_served && !known; i++) known = of_group(t->served[i], group, version);
    pthread_rwlock_unlock(&t->lock);
    return known;
}

bool resource_group_custom(struct resource_table *t, const char *group) {
    for (size_t i = 0; i < t->n; i++)
        if (of_group(&t->rows[i], group, NULL)) return false;
    return resource_group_known(t, group, NULL);
}

const char *resource_api_version(struct arena *a, const struct resource *r) {
    return *r->group ? arena_printf(a, "%s/%s", r->group, r->version) : r->version;
}

const char *resource_verb_name(uint32_t verb) {
    static const char *const names[] = {"create", "delete", "deletecollection", "get",
                                        "list",   "patch",  "update",           "watch"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (verb == 1u << i) return names[i];
    return "";
}
