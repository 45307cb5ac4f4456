/* What NetworkPolicies mean for the pods of a node, as nftables text.
 *
 * A pod that a policy selects is isolated in the policy's directions: what no rule of its policies allows is dropped, on
 * the node of the pod that is isolated. Pods with the same rules share a chain. As everywhere, traffic between a pod and
 * its own node, a pod and itself, and of connections that exist is let through; so are answers. Addresses are looked at
 * behind the service proxy: those of pods, not of Services. IPv4. Upstream: the NetworkPolicy API (networking.k8s.io/v1). */
#pragma once

#include "pkg/api/core.h"
#include "pkg/api/networking.h"
#include "pkg/base/buf.h"

struct policy_world {
    const char *node; /* whose pods are isolated */
    const struct networking_network_policy *const *policies;
    size_t n_policies;
    const struct core_pod *const *pods; /* of all nodes */
    size_t n_pods;
    const struct core_namespace *const *namespaces;
    size_t n_namespaces;
};

#define POLICY_TABLE "coracle_policy"

/* One transaction that puts the table in place of the one that is there; without policies it takes that away. */
void policy_text(const struct policy_world *w, struct buf *out);
bool policy_labels_equal(const struct str_map *a, const struct str_map *b);
/* Whether policies can notice the difference between two states of a pod. */
bool policy_pod_changed(const struct core_pod *old, const struct core_pod *pod);
