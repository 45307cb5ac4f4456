/* ResourceClaims as pods refer to them, and what is true of a claim: rules that scheduler, controllers and kubelets
 * share (upstream k8s.io/dynamic-resource-allocation/resourceclaim). */
#pragma once

#include "pkg/api/core.h"
#include "pkg/api/resource.h"
#include "pkg/base/err.h"

#define CLAIM_FINALIZER "resource.kubernetes.io/delete-protection"
#define CLAIM_POD_ANNOTATION "resource.kubernetes.io/pod-claim-name"
#define CLAIM_EXTENDED_ANNOTATION "resource.kubernetes.io/extended-resource-claim"
/* Every device class is an extended resource of this name too. */
#define CLASS_RESOURCE_PREFIX "deviceclass.resource.kubernetes.io/"
enum { ALLOCATION_RESULTS_MAX = 32 }; /* devices of one claim */

/* The claim behind an entry of pod.spec.resourceClaims. 0: *name is it, or NULL when the entry needs none; *generated
 * says that it was made for the pod, which has to be checked. -ENOENT: it is not made yet. -EINVAL: the entry says
 * nothing that is known. */
int pod_claim_name(const struct core_pod *p, const struct core_pod_resource_claim *entry, const char **name,
                   bool *generated, struct err *e);
/* Whether a generated claim belongs to the pod; -EPERM with the reason. */
int claim_is_for_pod(const struct resource_resource_claim *c, const struct core_pod *p, struct err *e);
bool claim_reserved_for(const struct resource_resource_claim *c, const char *pod_uid);
bool claim_has_finalizer(const struct resource_resource_claim *c);
/* Does an allocated device serve the request? `request` may name a request or REQUEST/SUBREQUEST, as may the result; ""
 * is any. */
bool claim_request_matches(const char *result, const char *request);
/* The status of an allocated device that its driver wrote, or NULL. */
const struct resource_allocated_device_status *claim_device_status(
    const struct resource_resource_claim *c, const struct resource_device_request_allocation_result *r);
/* The condition of a type, or NULL. */
const struct meta_condition *claim_condition(const struct meta_condition_vec *v, const char *type);
/* Callers look at the taint's effect themselves: None and unknown ones mean nothing. */
bool device_toleration_tolerates(const struct resource_device_toleration *t, const struct resource_device_taint *taint);
