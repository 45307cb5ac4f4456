/* The arithmetic of Deployments: pure functions over sizes, tested on their own. */
#pragma once

#include "pkg/api/apps.h"

/* A number, or a percentage of `total` rounded up or down. */
int32_t int_or_percent(const struct int_or_string *v, int32_t total, bool round_up);
int32_t deployment_max_surge(const struct apps_deployment *d);
int32_t deployment_max_unavailable(const struct apps_deployment *d);
/* The size that the new set may be raised to now, given the sum of all sets' sizes. */
int32_t rollout_new_size(const struct apps_deployment *d, int32_t new_size, int32_t all_sizes);

/* One set of a deployment as the arithmetic sees it. */
struct rollout_set {
    int32_t size, available;
    int32_t max_replicas; /* annotation max-replicas, 0 unknown */
    int64_t created;      /* order of creation */
};
/* Reduces sizes of the old sets (oldest first) as far as availability allows: unhealthy replicas first, then
 * available ones that the new set replaces. True when something changed. */
bool rollout_shrink_old(const struct apps_deployment *d, struct rollout_set *old, size_t n,
                        const struct rollout_set *new_set);
/* Spreads a change of the deployment's size over its active sets in proportion to their sizes. */
void rollout_scale_proportionally(const struct apps_deployment *d, struct rollout_set **sets, size_t n);
