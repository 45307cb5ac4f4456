/* The resources that our own programs use: a row each. */
#include "client.h"
#include "pkg/api/admissionregistration.h"
#include "pkg/api/apps.h"
#include "pkg/api/autoscaling_v2.h"
#include "pkg/api/batch.h"
#include "pkg/api/certificates.h"
#include "pkg/api/coordination.h"
#include "pkg/api/core.h"
#include "pkg/api/discovery.h"
#include "pkg/api/networking.h"
#include "pkg/api/node.h"
#include "pkg/api/policy.h"
#include "pkg/api/rbac.h"
#include "pkg/api/resource.h"
#include "pkg/api/scheduling.h"
#include "pkg/api/storage.h"

#define R(name, g, v, ns, k, t) const struct client_resource client_##name = {g, v, #name, ns, k, &api_##t};

R(pods, "", "v1", true, "Pod", core_pod)
R(nodes, "", "v1", false, "Node", core_node)
R(services, "", "v1", true, "Service", core_service)
R(endpoints, "", "v1", true, "Endpoints", core_endpoints)
R(namespaces, "", "v1", false, "Namespace", core_namespace)
R(configmaps, "", "v1", true, "ConfigMap", core_config_map)
R(secrets, "", "v1", true, "Secret", core_secret)
R(events, "", "v1", true, "Event", core_event)
R(serviceaccounts, "", "v1", true, "ServiceAccount", core_service_account)
R(persistentvolumes, "", "v1", false, "PersistentVolume", core_persistent_volume)
R(persistentvolumeclaims, "", "v1", true, "PersistentVolumeClaim", core_persistent_volume_claim)
R(replicationcontrollers, "", "v1", true, "ReplicationController", core_replication_controller)
R(resourcequotas, "", "v1", true, "ResourceQuota", core_resource_quota)
R(limitranges, "", "v1", true, "LimitRange", core_limit_range)
R(deployments, "apps", "v1", true, "Deployment", apps_deployment)
R(replicasets, "apps", "v1", true, "ReplicaSet", apps_replica_set)
R(daemonsets, "apps", "v1", true, "DaemonSet", apps_daemon_set)
R(statefulsets, "apps", "v1", true, "StatefulSet", apps_stateful_set)
R(controllerrevisions, "apps", "v1", true, "ControllerRevision", apps_controller_revision)
R(jobs, "batch", "v1", true, "Job", batch_job)
R(cronjobs, "batch", "v1", true, "CronJob", batch_cron_job)
R(endpointslices, "discovery.k8s.io", "v1", true, "EndpointSlice", discovery_endpoint_slice)
R(leases, "coordination.k8s.io", "v1", true, "Lease", coordination_lease)
R(networkpolicies, "networking.k8s.io", "v1", true, "NetworkPolicy", networking_network_policy)
R(ingresses, "networking.k8s.io", "v1", true, "Ingress", networking_ingress)
R(ingressclasses, "networking.k8s.io", "v1", false, "IngressClass", networking_ingress_class)
R(servicecidrs, "networking.k8s.io", "v1", false, "ServiceCIDR", networking_service_cidr)
R(ipaddresses, "networking.k8s.io", "v1", false, "IPAddress", networking_ip_address)
R(validatingadmissionpolicies, "admissionregistration.k8s.io", "v1", false, "ValidatingAdmissionPolicy",
  admissionregistration_validating_admission_policy)
R(storageclasses, "storage.k8s.io", "v1", false, "StorageClass", storage_storage_class)
R(csinodes, "storage.k8s.io", "v1", false, "CSINode", storage_csi_node)
R(csidrivers, "storage.k8s.io", "v1", false, "CSIDriver", storage_csi_driver)
R(csistoragecapacities, "storage.k8s.io", "v1", true, "CSIStorageCapacity", storage_csi_storage_capacity)
R(volumeattachments, "storage.k8s.io", "v1", false, "VolumeAttachment", storage_volume_attachment)
R(priorityclasses, "scheduling.k8s.io", "v1", false, "PriorityClass", scheduling_priority_class)
R(runtimeclasses, "node.k8s.io", "v1", false, "RuntimeClass", node_runtime_class)
R(poddisruptionbudgets, "policy", "v1", true, "PodDisruptionBudget", policy_pod_disruption_budget)
R(horizontalpodautoscalers, "autoscaling", "v2", true, "HorizontalPodAutoscaler",
  autoscaling_v2_horizontal_pod_autoscaler)
R(certificatesigningrequests, "certificates.k8s.io", "v1", false, "CertificateSigningRequest",
  certificates_certificate_signing_request)
R(roles, "rbac.authorization.k8s.io", "v1", true, "Role", rbac_role)
R(clusterroles, "rbac.authorization.k8s.io", "v1", false, "ClusterRole", rbac_cluster_role)
R(rolebindings, "rbac.authorization.k8s.io", "v1", true, "RoleBinding", rbac_role_binding)
R(clusterrolebindings, "rbac.authorization.k8s.io", "v1", false, "ClusterRoleBinding", rbac_cluster_role_binding)
R(volumeattributesclasses, "storage.k8s.io", "v1", false, "VolumeAttributesClass", storage_volume_attributes_class)
R(resourceclaims, "resource.k8s.io", "v1", true, "ResourceClaim", resource_resource_claim)
R(resourceclaimtemplates, "resource.k8s.io", "v1", true, "ResourceClaimTemplate", resource_resource_claim_template)
R(resourceslices, "resource.k8s.io", "v1", false, "ResourceSlice", resource_resource_slice)
R(deviceclasses, "resource.k8s.io", "v1", false, "DeviceClass", resource_device_class)
