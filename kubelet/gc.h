/* What nobody needs any more: sandboxes, folders and cgroups of pods that are gone, old logs. Upstream:
 * kuberuntime_gc.go, logs/container_log_manager.go, kubelet_volumes.go. Images: image_gc.h. */
#pragma once

#include "kubelet/kubelet.h"

/* One pass over everything; `known` tells whether a pod uid belongs to this node. Called when all sources
 * have spoken. */
void gc_orphans(struct kubelet *kl);
/* Rotates container logs that have grown beyond the limit. Returns when to look again, in nanoseconds: soon while a
 * container writes fast. */
int64_t gc_logs(struct kubelet *kl);
/* For an operator who is done with this node: stops and removes every pod that a kubelet made in this runtime (NULL: it is
 * cleaned up already), and the cgroups of these pods and of those that have a folder in root_dir. Blocks. */
int gc_remove_all(struct runtime *rt, struct cgroups *cg, const char *root_dir, struct err *e);
