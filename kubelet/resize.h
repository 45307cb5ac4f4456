/* In-place resize: a pod whose resources were changed, its own or its containers', keeps what it was allocated until
 * the node has room for the change. What is allocated is written beside the pod (file "allocated.json") once it
 * differs from the spec or did, so that a restart of the kubelet does not take a change for granted.
 *
 * Then it is brought into force: the pod's cgroup grows, the containers change (or are restarted, as they ask), the
 * cgroup shrinks. In this order no container ever has more than its pod, which the kernel would refuse.
 *
 * Upstream: pkg/kubelet/allocation, kuberuntime_manager.go (doPodResizeAction). */
#pragma once

#include "kubelet/pods.h"

/* Decides about a change and returns the pod as the worker is to run it: the pod itself, or a copy (in s->a)
 * with the resources that are allocated. The worker's `resize_reason` ("Deferred", "Infeasible") and message
 * say what is pending. */
const struct core_pod *resize_settle(struct sync *s);
void resize_done(struct pod_worker *w);

/* The pod's cgroup does not have the limits that the pod is allocated. */
bool resize_pod_due(const struct sync *s);
/* Before the containers: the limits that have to grow. */
void resize_pod_grow(struct sync *s);
/* Gives a running container the resources that it is allocated. True when it was stopped for that. */
bool resize_container(struct sync *s, const struct core_container *c, const struct rt_container *rc);
/* After the containers: the limits that shrink, and the Event that tells the end. */
void resize_pod_settle(struct sync *s);
