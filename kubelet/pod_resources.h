/* The PodResources API on <root>/pod-resources/kubelet.sock: which devices, CPUs and memory containers have been given, for
 * monitoring agents and for those who schedule by topology.
 *
 * Upstream: pkg/kubelet/apis/podresources (v1; v1alpha1 is not served). */
#pragma once

#include "kubelet/kubelet.h"

struct pod_resources;
/* NULL with an error when the socket cannot be made. */
struct pod_resources *pod_resources_new(struct kubelet *kl, struct err *e);
void pod_resources_free(struct pod_resources *p);
/* pod_resources_endpoint_*. NULL-safe. */
void pod_resources_metrics(struct pod_resources *p, struct buf *b);
