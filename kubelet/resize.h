/* In-place resize: a pod whose containers' resources were changed keeps what it was allocated until the node
 * has room for the change. What is allocated is written beside the pod (file "allocated.json") once it
 * differs from the spec or did, so that a restart of the kubelet does not take a change for granted.
 *
 * Upstream: pkg/kubelet/allocation. */
#pragma once

#include "kubelet/pods.h"

/* Decides about a change and returns the pod as the worker is to run it: the pod itself, or a copy (in s->a)
 * with the resources that are allocated. The worker's `resize_reason` ("Deferred", "Infeasible") and message
 * say what is pending. */
const struct core_pod *resize_settle(struct sync *s);
void resize_done(struct pod_worker *w);
