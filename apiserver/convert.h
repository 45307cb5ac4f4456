/* Rows that share a storage show its objects in another version: events.k8s.io/v1 shows core/v1 Events, autoscaling/v1
 * shows autoscaling/v2 HorizontalPodAutoscalers. Upstream: the conversion functions of pkg/apis/{events,autoscaling}. */
#pragma once

#include "apiserver/resource.h"

/* The tree in the version of `to`; NULL when there is no such conversion. `v` may be changed. */
struct json *convert_view(struct arena *a, const struct resource *from, const struct resource *to, struct json *v);

/* HorizontalPodAutoscalers (convert_hpa.c), in place. */
void convert_hpa_to_v1(struct arena *a, struct json *v);
void convert_hpa_to_v2(struct arena *a, struct json *v);
