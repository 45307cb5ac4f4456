/* One metric of an autoscaler's spec becomes a wish for replicas and the metric's status (upstream: the
 * computeStatusFor functions of horizontal.go): a function for each type of metric. */
#include <math.h>

#include "hpa.h"
#include "pkg/api/quantity.h"

typedef const struct autoscaling_v2_metric_target target_t;
typedef struct autoscaling_v2_metric_value_status current_t;

/* Memory reads in Mi and Gi, everything else in thousandths. */
static const char *amount(struct arena *a, int64_t milli, const char *resource) {
    bool binary = str_eq(resource, "memory");
    struct quantity q = {(__int128)milli * 1000000, binary ? QUANTITY_BINARY_SI : QUANTITY_DECIMAL_SI};
    return quantity_format(a, q);
}

static struct hpa_calc calc_for(const struct hpa_target *t, const char *resource, const char *container, target_t *g) {
    struct hpa_calc c = t->calc;
    c.resource = resource;
    c.container = container;
    c.utilization = !g->average_value && g->average_utilization;
    c.target = g->average_value         ? quantity_str_milli(g->average_value)
               : g->average_utilization ? *g->average_utilization
                                        : quantity_str_milli(g->value);
    return c;
}

/* ---- resources of pods and containers ---- */

static int resource_wish(const struct hpa_target *t, struct arena *a, const char *resource, const char *container,
                         target_t *g, struct hpa_wish *w, current_t *now, struct err *e) {
    if (!g->average_value && !g->average_utilization)
        return err_set(e, -EINVAL,
                       "invalid resource metric source: neither an average utilization target nor an average value "
                       "(usage) target was set");
    struct hpa_calc c = calc_for(t, resource, container, g);
    struct hpa_samples s = {0};
    struct hpa_count n = {0};
    int r = hpa_resource_samples(&t->source, a, resource, container, &s, e);
    if (r == 0) r = hpa_replicas_by_pods(a, &c, &s, &n, e);
    if (r < 0) return err_wrap(e, "failed to get %s %s", resource, c.utilization ? "utilization" : "usage");
    w->replicas = n.replicas;
    w->metric = c.utilization ? arena_printf(a, "%s %sresource utilization (percentage of request)", resource,
                                             container ? "container " : "")
                              : arena_printf(a, "%s resource", resource);
    now->average_value = amount(a, n.usage, resource);
    if (c.utilization) now->average_utilization = arena_memdup(a, &n.utilization, sizeof(n.utilization));
    return 0;
}

static int of_resource(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                       struct hpa_wish *w, struct autoscaling_v2_metric_status *status, struct err *e) {
    struct autoscaling_v2_resource_metric_status *s = arena_zalloc(a, sizeof(*s));
    s->name = m->resource->name;
    int r = resource_wish(t, a, s->name, NULL, &m->resource->target, w, &s->current, e);
    if (r == 0) status->resource = s;
    return r;
}

static int of_container(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                        struct hpa_wish *w, struct autoscaling_v2_metric_status *status, struct err *e) {
    const struct autoscaling_v2_container_resource_metric_source *c = m->container_resource;
    struct autoscaling_v2_container_resource_metric_status *s = arena_zalloc(a, sizeof(*s));
    s->name = c->name;
    s->container = c->container;
    int r = resource_wish(t, a, c->name, c->container, &c->target, w, &s->current, e);
    if (r == 0) status->container_resource = s;
    return r;
}

/* ---- metrics of other origin ---- */

static int of_pods(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                   struct hpa_wish *w, struct autoscaling_v2_metric_status *status, struct err *e) {
    struct hpa_calc c = calc_for(t, NULL, NULL, &m->pods->target);
    struct hpa_samples s = {0};
    struct hpa_count n = {0};
    int r = hpa_pods_samples(&t->source, a, &m->pods->metric, &s, e);
    if (r == 0) r = hpa_replicas_by_pods(a, &c, &s, &n, e);
    if (r < 0) return r;
    w->replicas = n.replicas;
    w->metric = arena_printf(a, "pods metric %s", m->pods->metric.name);
    status->pods = arena_zalloc(a, sizeof(*status->pods));
    status->pods->metric = m->pods->metric;
    status->pods->current.average_value = amount(a, n.usage, NULL);
    return 0;
}

/* One value: as a whole against `value`, or divided among the pods against `averageValue`. */
static void one_value(const struct hpa_target *t, struct arena *a, target_t *g, int64_t value, struct hpa_wish *w,
                      current_t *now) {
    struct hpa_calc c = calc_for(t, NULL, NULL, g);
    if (!g->average_value) {
        w->replicas = hpa_replicas_by_ratio(&c, (double)value / (double)c.target);
        now->value = amount(a, value, NULL);
        return;
    }
    w->replicas = hpa_replicas_by_share(&c, value, t->status_replicas);
    double share = t->status_replicas ? ceil((double)value / t->status_replicas) : 0;
    now->average_value = amount(a, share >= (double)INT64_MAX ? INT64_MAX : (int64_t)share, NULL);
}

static int of_object(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                     struct hpa_wish *w, struct autoscaling_v2_metric_status *status, struct err *e) {
    const struct autoscaling_v2_object_metric_source *o = m->object;
    if (!o->target.value && !o->target.average_value)
        return err_set(e, -EINVAL,
                       "invalid object metric source: neither a value target nor an average value target was set");
    const char *resource =
        t->resource_name(t->arg, a, str_or_empty(o->described_object.api_version), o->described_object.kind, e);
    if (!resource) return -ENOENT;
    int64_t value = 0;
    const char *object = arena_printf(a, "%s/%s", resource, o->described_object.name);
    int r = hpa_object_value(&t->source, a, &o->metric, object, &value, e);
    if (r < 0) return r;
    status->object = arena_zalloc(a, sizeof(*status->object));
    status->object->metric = o->metric;
    status->object->described_object = o->described_object;
    one_value(t, a, &o->target, value, w, &status->object->current);
    w->metric = arena_printf(a, "%s metric %s", o->described_object.kind, o->metric.name);
    return 0;
}

static int of_external(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                       struct hpa_wish *w, struct autoscaling_v2_metric_status *status, struct err *e) {
    const struct autoscaling_v2_external_metric_source *x = m->external;
    if (!x->target.value && !x->target.average_value)
        return err_set(e, -EINVAL,
                       "invalid external metric source: neither a value target nor an average value target was set");
    int64_t value = 0;
    int r = hpa_external_value(&t->source, a, &x->metric, &value, e);
    if (r < 0) return r;
    status->external = arena_zalloc(a, sizeof(*status->external));
    status->external->metric = x->metric;
    one_value(t, a, &x->target, value, w, &status->external->current);
    w->metric = arena_printf(a, "external metric %s", x->metric.name);
    return 0;
}

/* ---- the table ---- */

typedef int wish_fn(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                    struct hpa_wish *w, struct autoscaling_v2_metric_status *status, struct err *e);

static const struct {
    const char *type, *reason;
    wish_fn *fn;
    size_t source; /* where the spec's part stands; API validation sees to it that it is there */
} kinds[] = {
    {"Resource", "FailedGetResourceMetric", of_resource, offsetof(struct autoscaling_v2_metric_spec, resource)},
    {"ContainerResource", "FailedGetContainerResourceMetric", of_container,
     offsetof(struct autoscaling_v2_metric_spec, container_resource)},
    {"Pods", "FailedGetPodsMetric", of_pods, offsetof(struct autoscaling_v2_metric_spec, pods)},
    {"Object", "FailedGetObjectMetric", of_object, offsetof(struct autoscaling_v2_metric_spec, object)},
    {"External", "FailedGetExternalMetric", of_external, offsetof(struct autoscaling_v2_metric_spec, external)},
};

int hpa_wish_of(const struct hpa_target *t, struct arena *a, const struct autoscaling_v2_metric_spec *m,
                struct hpa_wish *out, struct autoscaling_v2_metric_status *status, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (!str_eq(kinds[i].type, m->type) || !*(void *const *)((const char *)m + kinds[i].source)) continue;
        out->reason = kinds[i].reason;
        int r = kinds[i].fn(t, a, m, out, status, e);
        if (r == 0) status->type = m->type;
        return r;
    }
    out->reason = "InvalidMetricSourceType";
    return err_set(e, -EINVAL, "unknown metric source type \"%s\"", str_or_empty(m->type));
}
