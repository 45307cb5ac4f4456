/* The functions that the table in kinds.c names: one group of three for each kind that has something of its
 * own. */
#pragma once

#include "apiserver/rules/rules.h"

/* Annotation in which a DaemonSet still carries the generation of its template. */
#define TEMPLATE_GENERATION "deprecated.daemonset.template.generation"

#define DEFAULTS_FN(name) void defaults_##name(struct rules_ctx *c, struct json *obj)
#define PREPARE_FN(name) void prepare_##name(struct rules_ctx *c, struct json *obj, const struct json *old)
#define VALIDATE_FN(name) void validate_##name(struct vctx *v, const struct json *obj, const struct json *old)

DEFAULTS_FN(pod);
DEFAULTS_FN(pod_template_object);
DEFAULTS_FN(replication_controller);
DEFAULTS_FN(service);
DEFAULTS_FN(secret);
DEFAULTS_FN(persistent_volume);
DEFAULTS_FN(persistent_volume_claim);
DEFAULTS_FN(endpoints);
DEFAULTS_FN(namespace);
DEFAULTS_FN(node);
DEFAULTS_FN(limit_range);
DEFAULTS_FN(resource_quota);
DEFAULTS_FN(deployment);
DEFAULTS_FN(daemon_set);
DEFAULTS_FN(stateful_set);
DEFAULTS_FN(replica_set);
DEFAULTS_FN(job);
DEFAULTS_FN(cron_job);
DEFAULTS_FN(hpa);
DEFAULTS_FN(webhooks);
DEFAULTS_FN(admission_policy);
DEFAULTS_FN(admission_policy_binding);
DEFAULTS_FN(storage_class);
DEFAULTS_FN(csi_driver);
DEFAULTS_FN(flow_schema);
DEFAULTS_FN(priority_level);
DEFAULTS_FN(network_policy);
DEFAULTS_FN(ingress_class);
DEFAULTS_FN(role_binding);
DEFAULTS_FN(endpoint_slice);
DEFAULTS_FN(resource_claim);
DEFAULTS_FN(resource_claim_template);
DEFAULTS_FN(resource_slice);
DEFAULTS_FN(priority_class);
DEFAULTS_FN(crd);
DEFAULTS_FN(api_service);

PREPARE_FN(pod);
PREPARE_FN(service_account);
PREPARE_FN(limit_range);
PREPARE_FN(node);
PREPARE_FN(resource_claim);
PREPARE_FN(namespace);
PREPARE_FN(job);
PREPARE_FN(daemon_set);
PREPARE_FN(csi_node);
PREPARE_FN(persistent_volume);
PREPARE_FN(persistent_volume_claim);
PREPARE_FN(csr);
PREPARE_FN(crd);
PREPARE_FN(api_service);

VALIDATE_FN(pod);
VALIDATE_FN(pod_template_object);
VALIDATE_FN(replication_controller);
VALIDATE_FN(service);
VALIDATE_FN(config_map);
VALIDATE_FN(secret);
VALIDATE_FN(service_account);
VALIDATE_FN(persistent_volume);
VALIDATE_FN(persistent_volume_claim);
VALIDATE_FN(endpoints);
VALIDATE_FN(namespace);
VALIDATE_FN(node);
VALIDATE_FN(limit_range);
VALIDATE_FN(resource_quota);
VALIDATE_FN(event);
VALIDATE_FN(deployment);
VALIDATE_FN(daemon_set);
VALIDATE_FN(stateful_set);
VALIDATE_FN(replica_set);
VALIDATE_FN(controller_revision);
VALIDATE_FN(job);
VALIDATE_FN(cron_job);
VALIDATE_FN(hpa);
VALIDATE_FN(pdb);
VALIDATE_FN(webhooks);
VALIDATE_FN(admission_policy);
VALIDATE_FN(admission_policy_binding);
VALIDATE_FN(mutating_policy);
VALIDATE_FN(mutating_policy_binding);
VALIDATE_FN(storage_class);
VALIDATE_FN(csi_driver);
VALIDATE_FN(csi_node);
VALIDATE_FN(csi_storage_capacity);
VALIDATE_FN(volume_attachment);
VALIDATE_FN(volume_attributes_class);
VALIDATE_FN(flow_schema);
VALIDATE_FN(priority_level);
VALIDATE_FN(network_policy);
VALIDATE_FN(ingress);
VALIDATE_FN(ingress_class);
VALIDATE_FN(ip_address);
VALIDATE_FN(service_cidr);
VALIDATE_FN(role);
VALIDATE_FN(role_binding);
VALIDATE_FN(endpoint_slice);
VALIDATE_FN(resource_claim);
VALIDATE_FN(resource_claim_template);
VALIDATE_FN(device_class);
VALIDATE_FN(resource_slice);
VALIDATE_FN(priority_class);
VALIDATE_FN(runtime_class);
VALIDATE_FN(lease);
VALIDATE_FN(crd);
VALIDATE_FN(api_service);
VALIDATE_FN(csr);

/* A Job without labels takes those that its template got. */
void finish_job(struct rules_ctx *c, struct json *obj, const struct json *old);
void finish_service(struct rules_ctx *c, struct json *obj, const struct json *old);

/* Removes what belongs to features that are off by default (prepare.c). */
void drop_disabled(struct rules_ctx *c, struct json *obj);

/* A webhook's clientConfig: exactly one of url and service (validate_admission.c). */
void validate_webhook_client(struct vctx *v, const struct json *cc, const struct fp *p);
/* The review versions it understands. */
void validate_review_versions(struct vctx *v, const struct json *list, const struct fp *p);

/* "Guaranteed", "Burstable" or "BestEffort" (prepare.c). */
const char *pod_qos_class(const struct json *spec);
