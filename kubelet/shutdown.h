/* Graceful shutdown of the node: when the machine is about to go down, pods are ended in the order of their
 * priority, each group within its time, so that they can save what they have. Meanwhile the node is not Ready
 * and takes no pods.
 *
 * Word of a shutdown comes from systemd-logind by D-Bus, which an inhibitor lock keeps waiting (libsystemd is
 * looked for at run time; a machine without it has none). A machine without systemd can send SIGTERM, with
 * --shutdown-on-term, or SIGPWR.
 *
 * Upstream: pkg/kubelet/nodeshutdown. */
#pragma once

#include "kubelet/kubelet.h"

struct shutdown;
/* NULL when the configuration gives shutdowns no time. Starts to listen to logind. */
struct shutdown *shutdown_new(struct kubelet *kl);
void shutdown_free(struct shutdown *s);
/* The node is going down. NULL-safe. */
bool shutdown_active(const struct shutdown *s);
/* Ends the pods; returns when they have ended or their time is over. NULL-safe. */
void shutdown_run(struct shutdown *s);

/* Time for the pods of a priority and above, up to the next group. */
struct shutdown_group {
    int32_t priority;
    int64_t seconds;
};
enum { SHUTDOWN_GROUPS_MAX = 32 };
/* From the settings ("priority=seconds,..." wins over the two periods), lowest priority first. The number of
 * groups; 0: none. -EINVAL: it cannot be read. */
int shutdown_groups(const struct kubelet_config *c, struct shutdown_group out[SHUTDOWN_GROUPS_MAX]);
/* The group of a pod: the highest whose priority it reaches; those below the first are in the first. */
size_t shutdown_group_of(const struct shutdown_group *g, size_t n, int32_t priority);
