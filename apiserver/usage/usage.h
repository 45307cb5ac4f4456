/* metrics.k8s.io: what nodes and pods use, for `kubectl top` and autoscalers, without another component.
 *
 * Why here and not in a program of its own: the API server knows the nodes, holds a client certificate for
 * kubelets and already passes requests on to them; a metrics-server would be a second process with a second
 * copy of the node list, and a second hop for every question. Nothing is collected while nobody asks: a first
 * question takes two samples a second apart, then samples are taken every fifteen seconds until nobody has
 * asked for two minutes. An idle cluster pays nothing.
 *
 * CPU is a rate between the last two samples of a container's counter, memory the working set of the last
 * one, as metrics-server computes them. What has no two samples is left out of lists, and asked for by name
 * is 404.
 *
 * The API stands behind an APIService without a service reference (aggregator/aggregator.h); installing a
 * real metrics-server gives it one, and takes over. Start at collect.c. Upstream: metrics-server. */
#pragma once

#include "apiserver/aggregator/aggregator.h"

struct usage;

struct usage *usage_new(struct apiserver *s);
/* NULL-safe. Before the watch cache and the kubelets' client go. */
void usage_free(struct usage *u);
/* Makes it a back end of the aggregator. */
void usage_serve(struct usage *u, struct aggregator *g);

/* ---- what kubelets say ---- */

/* One container, or (container "") the pod as a whole, at the time of a sample. */
struct usage_point {
    const char *ns, *pod, *container;
    double cpu_seconds;
    int64_t memory; /* bytes */
    double started; /* seconds since 1970, 0: not said */
    bool has_cpu, has_memory;
};

struct usage_sample {
    struct arena *arena;
    int64_t at_ms; /* since 1970 */
    double node_cpu_seconds;
    int64_t node_memory;
    bool has_node;
    struct usage_point *points; /* sorted by namespace, pod and container */
    size_t n, cap;
};

enum { USAGE_TEXT_MAX = 16 << 20, USAGE_POINTS_MAX = 20000 };

/* Reads a kubelet's /metrics/resource (Prometheus text). What it does not know it skips. -EINVAL when a line
 * of interest is broken, -E2BIG beyond USAGE_POINTS_MAX. */
int usage_parse(const char *text, size_t len, struct usage_sample **out, struct err *e);
void usage_sample_free(struct usage_sample *s); /* NULL-safe */
const struct usage_point *usage_find(const struct usage_sample *s, const char *ns, const char *pod,
                                     const char *container);
/* Where the points of a pod begin; *n says how many there are. */
const struct usage_point *usage_pod(const struct usage_sample *s, const char *ns, const char *pod, size_t *n);
