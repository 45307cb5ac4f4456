/* The table of kinds: what is particular to each, in one row. A kind without a row (a custom resource, an
 * aggregated or virtual kind) is handled as the generic rules say. */
#include "apiserver/rules/kinds.h"

#define U K_UNCONDITIONAL_UPDATE
#define S K_STATUS
#define G K_GENERATION
#define D(x) defaults_##x
#define P(x) prepare_##x
#define V(x) validate_##x

static const struct kind_rules kinds[] = {
    {"", "Pod", U | S | G, NAME_SUBDOMAIN, D(pod), P(pod), V(pod)},
    {"", "PodTemplate", U | G, NAME_SUBDOMAIN, D(pod_template_object), NULL, V(pod_template_object)},
    {"", "ReplicationController", U | S | G, NAME_SUBDOMAIN, D(replication_controller), NULL,
     V(replication_controller)},
    {"", "Service", U | S, NAME_LABEL, D(service), NULL, V(service), finish_service},
    {"", "ConfigMap", U, NAME_SUBDOMAIN, NULL, NULL, V(config_map)},
    {"", "Secret", U, NAME_SUBDOMAIN, D(secret), NULL, V(secret)},
    {"", "ServiceAccount", U, NAME_SUBDOMAIN, NULL, P(service_account), V(service_account)},
    {"", "PersistentVolume", U | S, NAME_SUBDOMAIN, D(persistent_volume), P(persistent_volume), V(persistent_volume)},
    {"", "PersistentVolumeClaim", U | S, NAME_SUBDOMAIN, D(persistent_volume_claim), P(persistent_volume_claim),
     V(persistent_volume_claim)},
    {"", "Endpoints", U, NAME_SUBDOMAIN, D(endpoints), NULL, V(endpoints)},
    {"", "Namespace", U | S, NAME_LABEL, D(namespace), P(namespace), V(namespace)},
    {"", "Node", U | S | K_KEEP_STATUS_ON_CREATE, NAME_SUBDOMAIN, D(node), P(node), V(node)},
    {"", "LimitRange", U, NAME_SUBDOMAIN, D(limit_range), P(limit_range), V(limit_range)},
    {"", "ResourceQuota", U | S, NAME_SUBDOMAIN, D(resource_quota), NULL, V(resource_quota)},
    {"", "Event", U, NAME_ANY, NULL, NULL, V(event)},
    {"events.k8s.io", "Event", U, NAME_ANY, NULL, NULL, V(event)},
    {"apps", "Deployment", U | S | G, NAME_SUBDOMAIN, D(deployment), NULL, V(deployment)},
    {"apps", "DaemonSet", U | S | G, NAME_SUBDOMAIN, D(daemon_set), P(daemon_set), V(daemon_set)},
    {"apps", "StatefulSet", U | S | G, NAME_SUBDOMAIN, D(stateful_set), NULL, V(stateful_set)},
    {"apps", "ReplicaSet", U | S | G, NAME_SUBDOMAIN, D(replica_set), NULL, V(replica_set)},
    {"apps", "ControllerRevision", U, NAME_SUBDOMAIN, NULL, NULL, V(controller_revision)},
    {"batch", "Job", U | S | G, NAME_SUBDOMAIN, D(job), P(job), V(job), finish_job},
    {"batch", "CronJob", U | S | G, NAME_SUBDOMAIN, D(cron_job), NULL, V(cron_job)},
    {"autoscaling", "HorizontalPodAutoscaler", U | S, NAME_SUBDOMAIN, D(hpa), NULL, V(hpa)},
    {"policy", "PodDisruptionBudget", S | G, NAME_ANY, NULL, NULL, V(pdb)},
    {"admissionregistration.k8s.io", "MutatingWebhookConfiguration", G, NAME_SUBDOMAIN, D(webhooks), NULL, V(webhooks)},
    {"admissionregistration.k8s.io", "ValidatingWebhookConfiguration", G, NAME_SUBDOMAIN, D(webhooks), NULL,
     V(webhooks)},
    {"admissionregistration.k8s.io", "ValidatingAdmissionPolicy", S | G, NAME_SUBDOMAIN, D(admission_policy), NULL,
     V(admission_policy)},
    {"admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", G, NAME_SUBDOMAIN, D(admission_policy_binding),
     NULL, V(admission_policy_binding)},
    {"admissionregistration.k8s.io", "MutatingAdmissionPolicy", G, NAME_SUBDOMAIN, D(admission_policy), NULL,
     V(mutating_policy)},
    {"admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", G, NAME_SUBDOMAIN, D(admission_policy_binding),
     NULL, V(mutating_policy_binding)},
    {"apiextensions.k8s.io", "CustomResourceDefinition", S | G, NAME_SUBDOMAIN, D(crd), P(crd), V(crd)},
    {"apiregistration.k8s.io", "APIService", S, NAME_PATH, D(api_service), P(api_service), V(api_service)},
    {"certificates.k8s.io", "CertificateSigningRequest", U | S, NAME_PATH, NULL, P(csr), V(csr)},
    {"coordination.k8s.io", "Lease", 0, NAME_SUBDOMAIN, NULL, NULL, V(lease)},
    {"discovery.k8s.io", "EndpointSlice", U | G, NAME_SUBDOMAIN, D(endpoint_slice), NULL, V(endpoint_slice)},
    {"flowcontrol.apiserver.k8s.io", "FlowSchema", U | S | G, NAME_SUBDOMAIN, D(flow_schema), NULL, V(flow_schema)},
    {"flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", U | S | G, NAME_SUBDOMAIN, D(priority_level), NULL,
     V(priority_level)},
    {"networking.k8s.io", "NetworkPolicy", U | G, NAME_SUBDOMAIN, D(network_policy), NULL, V(network_policy)},
    {"networking.k8s.io", "Ingress", U | S | G, NAME_SUBDOMAIN, NULL, NULL, V(ingress)},
    {"networking.k8s.io", "IngressClass", U | G, NAME_SUBDOMAIN, D(ingress_class), NULL, V(ingress_class)},
    {"networking.k8s.io", "IPAddress", U, NAME_IP, NULL, NULL, V(ip_address)},
    {"networking.k8s.io", "ServiceCIDR", U | S, NAME_SUBDOMAIN, NULL, NULL, V(service_cidr)},
    {"node.k8s.io", "RuntimeClass", 0, NAME_SUBDOMAIN, NULL, NULL, V(runtime_class)},
    {"rbac.authorization.k8s.io", "Role", U, NAME_RBAC, NULL, NULL, V(role)},
    {"rbac.authorization.k8s.io", "ClusterRole", U, NAME_RBAC, NULL, NULL, V(role)},
    {"rbac.authorization.k8s.io", "RoleBinding", U, NAME_RBAC, D(role_binding), NULL, V(role_binding)},
    {"rbac.authorization.k8s.io", "ClusterRoleBinding", U, NAME_RBAC, D(role_binding), NULL, V(role_binding)},
    {"resource.k8s.io", "DeviceClass", U | G, NAME_SUBDOMAIN, NULL, NULL, V(device_class)},
    {"resource.k8s.io", "ResourceClaim", U | S, NAME_SUBDOMAIN, D(resource_claim), P(resource_claim),
     V(resource_claim)},
    {"resource.k8s.io", "ResourceClaimTemplate", U, NAME_SUBDOMAIN, D(resource_claim_template), NULL,
     V(resource_claim_template)},
    {"resource.k8s.io", "ResourceSlice", U | G, NAME_SUBDOMAIN, D(resource_slice), NULL, V(resource_slice)},
    {"scheduling.k8s.io", "PriorityClass", U | K_GENERATION_ON_CREATE, NAME_SUBDOMAIN, D(priority_class), NULL,
     V(priority_class)},
    {"storage.k8s.io", "CSIDriver", K_GENERATION_ON_UPDATE, NAME_SUBDOMAIN, D(csi_driver), NULL, V(csi_driver)},
    {"storage.k8s.io", "CSINode", 0, NAME_SUBDOMAIN, NULL, P(csi_node), V(csi_node)},
    {"storage.k8s.io", "CSIStorageCapacity", 0, NAME_SUBDOMAIN, NULL, NULL, V(csi_storage_capacity)},
    {"storage.k8s.io", "StorageClass", U, NAME_SUBDOMAIN, D(storage_class), NULL, V(storage_class)},
    {"storage.k8s.io", "VolumeAttachment", S, NAME_SUBDOMAIN, NULL, NULL, V(volume_attachment)},
    {"storage.k8s.io", "VolumeAttributesClass", U, NAME_SUBDOMAIN, NULL, NULL, V(volume_attributes_class)},
};

const struct kind_rules *kind_find(const char *group, const char *kind) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (str_eq(kinds[i].kind, kind) && str_eq(kinds[i].group, str_or_empty(group))) return &kinds[i];
    return NULL;
}
