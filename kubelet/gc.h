/* What nobody needs any more: sandboxes, folders and cgroups of pods that are gone, images when the disk
 * fills, old logs. Upstream: kuberuntime_gc.go, images/image_gc_manager.go, logs/container_log_manager.go,
 * kubelet_volumes.go. */
#pragma once

#include "kubelet/kubelet.h"

/* One pass over everything; `known` tells whether a pod uid belongs to this node. Called when all sources
 * have spoken. */
void gc_orphans(struct kubelet *kl);
/* Removes unused images, oldest use first, when the image file system is fuller than the high mark. */
void gc_images(struct kubelet *kl);
/* Rotates container logs that have grown beyond the limit. */
void gc_logs(struct kubelet *kl);
/* Watches memory and disk: sets the node's pressure conditions and evicts a pod when a hard threshold is
 * crossed. */
void gc_evict(struct kubelet *kl);
/* For an operator who is done with this node: stops and removes every pod that a kubelet made in this runtime, and
 * their cgroups. Blocks. */
int gc_remove_all(struct runtime *rt, struct cgroups *cg, struct err *e);
