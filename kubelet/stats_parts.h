/* Parts of the Summary that are read where they are: network interfaces, volumes, files of a pod. Each writes
 * ",\"key\":...". */
#pragma once

#include "kubelet/kubelet.h"

/* Interfaces of a process's network namespace (pid 0: the kubelet's own, the node's). */
void stats_put_network(struct buf *b, pid_t pid);
/* The pod's volumes: sizes of their file systems, or what their folders hold. */
void stats_put_volumes(struct kubelet *kl, struct buf *b, const struct core_pod *p);
/* What the pod's containers (`layers` bytes), logs and emptyDirs take on the node's disk. */
void stats_put_ephemeral_storage(struct kubelet *kl, struct buf *b, const struct core_pod *p, uint64_t layers);
/* kubelet_volume_stats_*: claims of all pods, as Prometheus text. */
void stats_put_volume_metrics(struct kubelet *kl, struct buf *b);
/* The node's limit of processes, and how many there are. */
void stats_put_rlimit(struct buf *b);
