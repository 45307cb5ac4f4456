#include "apiserver/convert.h"

/* Members of the two forms of an Event, side by side: core/v1 and events.k8s.io/v1. */
static const struct rename {
    const char *core, *events;
} event_names[] = {
    {"involvedObject", "regarding"},
    {"message", "note"},
    {"source", "deprecatedSource"},
    {"firstTimestamp", "deprecatedFirstTimestamp"},
    {"lastTimestamp", "deprecatedLastTimestamp"},
    {"count", "deprecatedCount"},
    {"reportingComponent", "reportingController"},
};

static void rename_members(struct json *v, bool to_events) {
    JSON_FOREACH_MEMBER(m, v) {
        for (size_t i = 0; i < ARRAY_LEN(event_names); i++) {
            const struct rename *r = &event_names[i];
            if (!str_eq(m->key, to_events ? r->core : r->events)) continue;
            m->key = to_events ? r->events : r->core;
            break;
        }
    }
}

/* ---- HorizontalPodAutoscaler ---- */

/* What v1 has no field for travels in annotations. */
#define ANN_METRICS "autoscaling.alpha.kubernetes.io/metrics"
#define ANN_CURRENT "autoscaling.alpha.kubernetes.io/current-metrics"
#define ANN_CONDITIONS "autoscaling.alpha.kubernetes.io/conditions"
#define ANN_BEHAVIOR "autoscaling.alpha.kubernetes.io/behavior"

static bool is_cpu_utilization(const struct json *metric, const char *side) {
    return str_eq(json_get_str(metric, "type"), "Resource") &&
           str_eq(json_as_str(json_at(metric, "resource", "name", NULL)), "cpu") &&
           json_at(metric, "resource", side, "averageUtilization", NULL) != NULL;
}

static void annotate(struct arena *a, struct json *v, const char *key, const struct json *value) {
    struct json *meta = json_ensure_object(a, v, "metadata");
    json_set_str(a, json_ensure_object(a, meta, "annotations"), key, json_text(a, value));
}

/* Moves v2's list of metrics to v1: the CPU utilisation to its field, the rest to the annotation. */
static void metrics_down(struct arena *a, struct json *v, struct json *part, const char *list, const char *side,
                         const char *field, const char *ann) {
    struct json *metrics = json_get(part, list), *m, *rest = json_array(a);
    bool have = false;
    JSON_FOREACH(m, metrics) {
        if (!have && is_cpu_utilization(m, side)) {
            json_set(a, part, field, json_at(m, "resource", side, "averageUtilization", NULL));
            have = true;
        } else {
            json_append(a, rest, m);
        }
    }
    json_del(part, list);
    if (json_len(rest)) annotate(a, v, ann, rest);
}

static void hpa_to_v1(struct arena *a, struct json *v) {
    struct json *spec = json_get(v, "spec"), *status = json_get(v, "status");
    metrics_down(a, v, spec, "metrics", "target", "targetCPUUtilizationPercentage", ANN_METRICS);
    if (json_get(spec, "behavior")) {
        annotate(a, v, ANN_BEHAVIOR, json_get(spec, "behavior"));
        json_del(spec, "behavior");
    }
    if (!status) return;
    metrics_down(a, v, status, "currentMetrics", "current", "currentCPUUtilizationPercentage", ANN_CURRENT);
    if (json_len(json_get(status, "conditions"))) annotate(a, v, ANN_CONDITIONS, json_get(status, "conditions"));
    json_del(status, "conditions");
}

static struct json *take_annotation(struct arena *a, struct json *v, const char *key) {
    struct json *ann = json_at(v, "metadata", "annotations", NULL), *out = NULL;
    const char *text = json_get_str(ann, key);
    if (!text || json_parse(a, text, strlen(text), &out, NULL, NULL)) return NULL;
    json_del(ann, key);
    if (!json_len(ann)) json_del(json_get(v, "metadata"), "annotations");
    return out;
}

static struct json *cpu_metric(struct arena *a, struct json *percent, const char *side) {
    struct json *m = json_object(a), *res = json_object(a), *t = json_object(a);
    json_set_str(a, m, "type", "Resource");
    json_set_str(a, res, "name", "cpu");
    if (str_eq(side, "target")) json_set_str(a, t, "type", "Utilization");
    json_set(a, t, "averageUtilization", percent);
    json_set(a, res, side, t);
    json_set(a, m, "resource", res);
    return m;
}

static void metrics_up(struct arena *a, struct json *v, struct json *part, const char *list, const char *side,
                       const char *field, const char *ann) {
    struct json *percent = json_get(part, field), *rest = take_annotation(a, v, ann), *m, *out = json_array(a);
    if (json_is(percent, JSON_INT)) json_append(a, out, cpu_metric(a, percent, side));
    JSON_FOREACH(m, rest) json_append(a, out, m);
    json_del(part, field);
    if (json_len(out)) json_set(a, part, list, out);
}

static void hpa_to_v2(struct arena *a, struct json *v) {
    struct json *spec = json_get(v, "spec"), *status = json_get(v, "status"), *x;
    if (json_is(spec, JSON_OBJECT)) {
        metrics_up(a, v, spec, "metrics", "target", "targetCPUUtilizationPercentage", ANN_METRICS);
        if ((x = take_annotation(a, v, ANN_BEHAVIOR))) json_set(a, spec, "behavior", x);
    }
    if (json_is(status, JSON_OBJECT)) {
        metrics_up(a, v, status, "currentMetrics", "current", "currentCPUUtilizationPercentage", ANN_CURRENT);
        if ((x = take_annotation(a, v, ANN_CONDITIONS))) json_set(a, status, "conditions", x);
    }
}

struct json *convert_view(struct arena *a, const struct resource *from, const struct resource *to, struct json *v) {
    if (from == to) return v;
    if (to->custom) { /* strategy None: versions differ in their names only */
        json_set_str(a, v, "apiVersion", resource_api_version(a, to));
        return v;
    }
    if (str_eq(from->plural, "events") && str_eq(to->plural, "events")) {
        rename_members(v, *to->group != 0);
    } else if (str_eq(from->plural, "horizontalpodautoscalers")) {
        if (str_eq(to->version, "v1"))
            hpa_to_v1(a, v);
        else
            hpa_to_v2(a, v);
    } else {
        return NULL;
    }
    json_set_str(a, v, "apiVersion", resource_api_version(a, to));
    struct json *out = v;
    return api_tree_normalise(a, to->type, v, &out, NULL, NULL) == 0 ? out : NULL;
}
