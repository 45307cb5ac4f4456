/* May this pod be on this node? Matching of taints and tolerations, node selectors and node affinity: pure
 * functions that the scheduler, the DaemonSet controller and kubelets share (upstream component-helpers). */
#pragma once

#include "pkg/api/core.h"

bool toleration_tolerates(const struct core_toleration *t, const struct core_taint *taint);
/* The first taint of one of the effects that is not tolerated, or NULL. `effects` is "NoSchedule,NoExecute"
 * or one of them, or "PreferNoSchedule". */
const struct core_taint *untolerated(const struct core_toleration_vec *tolerations, const struct core_taint_vec *taints,
                                     const char *effects);
bool node_selector_term_matches(const struct core_node_selector_term *t, const struct core_node *n);
bool node_selector_matches(const struct core_node_selector *s, const struct core_node *n);
/* nodeSelector and required node affinity. */
bool pod_node_affinity_matches(const struct core_pod *p, const struct core_node *n);
