/* The pods this node was given, on disk (<root>/checkpoints/pods/<uid>.json), so that it can start and keep
 * them when no API server is in reach: after a reboot in the field the node does its work. */
#pragma once

#include "kubelet/kubelet.h"

/* Writes the pod when it differs from what is there in anything that matters for running it. */
void checkpoint_write(struct kubelet *kl, const struct core_pod *pod, const struct core_pod_status *status);
void checkpoint_delete(struct kubelet *kl, const char *uid);
/* Calls `fn` with each pod on disk. Files that cannot be read are skipped. */
void checkpoint_each(struct kubelet *kl, void (*fn)(void *arg, struct object *pod), void *arg);
