/* Numbers about the node, its pods and containers: /stats/summary, /metrics, /metrics/resource. Pods and
 * containers come from the runtime (ListContainerStats), the node and pods from their cgroups. */
#pragma once

#include "kubelet/kubelet.h"

struct stats;
struct stats *stats_new(struct kubelet *kl);
void stats_free(struct stats *s);
/* JSON of the Summary, in `b`. only_cpu_and_memory leaves the rest out. */
void stats_summary(struct stats *s, struct buf *b, bool only_cpu_and_memory);
/* Prometheus text with cAdvisor's names (cadvisor.c). */
void stats_cadvisor_metrics(struct kubelet *kl, struct buf *b);
void stats_resource_metrics(struct stats *s, struct buf *b);
