/* The parts of the horizontal autoscaler (upstream pkg/controller/podautoscaler), in the order of a decision:
 *
 *   horizontalpodautoscaler.c  every 15 s: reads the target's scale, decides, writes scale and status
 *   hpa_specs.c                each metric of the spec becomes a wish for a number of replicas
 *   hpa_metrics.c              asks metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io
 *   hpa_replicas.c             from what pods use to how many there should be; arithmetic only
 *   hpa_limits.c               stabilisation, rates, bounds; arithmetic and a memory of earlier wishes
 *
 * Values of metrics are in thousandths throughout, as upstream computes with them. */
#pragma once

#include "pkg/api/autoscaling_v2.h"
#include "util.h"

typedef struct autoscaling_v2_horizontal_pod_autoscaler hpa_t;

/* ---- hpa_replicas.c ---- */

struct hpa_sample { /* what a pod uses */
    const char *pod;
    int64_t value;
    struct ktime at;
    int64_t window_ns;
};
struct hpa_samples {
    struct hpa_sample *items;
    size_t n;
};

/* How far usage may be from the target, as parts of one, before the number of replicas changes. */
struct hpa_tolerance {
    double up, down;
};

struct hpa_calc {
    const struct core_pod **pods; /* all that the target's selector matches */
    size_t n_pods;
    const char *resource;  /* "cpu", ...; NULL for a metric that is no resource */
    const char *container; /* NULL: the pod as a whole */
    int32_t current;       /* replicas the target wants now */
    int64_t target;        /* percent of the request (utilization), or the value per pod */
    bool utilization;
    struct hpa_tolerance tolerance;
    int64_t cpu_initialization_ns, readiness_delay_ns;
    struct ktime now;
};
struct hpa_count {
    int32_t replicas;
    int32_t utilization; /* percent; 0 unless asked for */
    int64_t usage;       /* mean of a pod */
};
/* Pods that are not ready, or have no sample, are taken to use what damps the change. -EINVAL with a reason when there
 * is nothing to go by: no pods, no usable samples, a container without a request. */
int hpa_replicas_by_pods(struct arena *a, const struct hpa_calc *c, const struct hpa_samples *s, struct hpa_count *out,
                         struct err *e);
/* For one value that all pods share: usage / target times the ready pods. From zero replicas, the ratio itself. */
int32_t hpa_replicas_by_ratio(const struct hpa_calc *c, double ratio);
/* For one value that is divided among `replicas` pods, each to have `target`. */
int32_t hpa_replicas_by_share(const struct hpa_calc *c, int64_t value, int32_t replicas);

/* ---- hpa_limits.c ---- */

struct hpa_mark {
    int64_t at_ns; /* of mono_ns */
    int32_t n;
};
struct hpa_marks {
    struct hpa_mark *items; /* heap, oldest first */
    size_t n, cap;
};
enum { HPA_MARKS_MAX = 1024 }; /* the oldest give way: an hour of one each 3.5 s */

/* What one autoscaler did and wanted lately. */
struct hpa_history {
    struct hpa_marks wanted, ups, downs;
};
void hpa_history_done(struct hpa_history *h);

struct hpa_limits {
    int32_t min, max;
    const struct autoscaling_v2_horizontal_pod_autoscaler_behavior *behavior; /* NULL: the built-in one */
    int64_t down_window_ns; /* stabilisation on the way down where the behavior says nothing */
};
struct hpa_verdict {
    int32_t replicas;
    bool limited;                             /* condition ScalingLimited */
    const char *able_reason, *able_message;   /* of condition AbleToScale */
    const char *limit_reason, *limit_message; /* of condition ScalingLimited */
};
/* Bounds a wish by what was wished for and done before, and remembers it. */
void hpa_limit(struct hpa_history *h, const struct hpa_limits *l, int32_t current, int32_t wanted, int64_t now_ns,
               struct hpa_verdict *out);
/* The first wish, before any was made, is what is there. */
void hpa_history_start(struct hpa_history *h, int32_t current, int64_t now_ns);
/* Remembers a change, for the policies' periods. */
void hpa_history_scaled(struct hpa_history *h, const struct hpa_limits *l, int32_t from, int32_t to, int64_t now_ns);

/* ---- hpa_metrics.c ---- all block; errors say what could not be had */

struct hpa_source {
    struct client *client;
    const char *ns;
    const char *selector; /* of the target's pods, as text */
};
int hpa_resource_samples(const struct hpa_source *s, struct arena *a, const char *resource, const char *container,
                         struct hpa_samples *out, struct err *e);
int hpa_pods_samples(const struct hpa_source *s, struct arena *a, const struct autoscaling_v2_metric_identifier *m,
                     struct hpa_samples *out, struct err *e);
/* `object`: "deployments.apps/web". */
int hpa_object_value(const struct hpa_source *s, struct arena *a, const struct autoscaling_v2_metric_identifier *m,
                     const char *object, int64_t *out, struct err *e);
/* The sum of the series that match. */
int hpa_external_value(const struct hpa_source *s, struct arena *a, const struct autoscaling_v2_metric_identifier *m,
                       int64_t *out, struct err *e);

/* ---- hpa_specs.c ---- */

/* The plural and group of a kind, "deployments.apps"; NULL with an error when the server knows none. */
typedef const char *hpa_resource_name_fn(void *arg, struct arena *a, const char *api_version, const char *kind,
                                         struct err *e);
struct hpa_target {
    struct hpa_source source;
    struct hpa_calc calc; /* pods, current, tolerance, times */
    int32_t status_replicas;
    hpa_resource_name_fn *resource_name;
    void *arg;
};
struct hpa_wish {
    int32_t replicas;
    const char *metric; /* for people: "cpu resource utilization (percentage of request)" */
    const char *reason; /* of a failure: "FailedGetResourceMetric" */
};
/* Fills the wish and the metric's status. */
int hpa_wish_of(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                struct hpa_wish *out, struct autoscaling_v2_metric_status *status, struct err *e);
