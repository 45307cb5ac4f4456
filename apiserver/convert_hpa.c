/* HorizontalPodAutoscalers between autoscaling/v1 and v2. What v1 has no field for travels in annotations: the metrics
 * other than CPU utilisation and the current values of all, in the form that v1 has for them; conditions; and the
 * behavior, whose members are written as upstream's internal struct has them (ScaleUp, Policies, ...). Upstream:
 * pkg/apis/autoscaling/v1/conversion.go. */
#include "apiserver/convert.h"

#define ANN_METRICS "autoscaling.alpha.kubernetes.io/metrics"
#define ANN_CURRENT "autoscaling.alpha.kubernetes.io/current-metrics"
#define ANN_CONDITIONS "autoscaling.alpha.kubernetes.io/conditions"
#define ANN_BEHAVIOR "autoscaling.alpha.kubernetes.io/behavior"
enum { DEFAULT_CPU_UTILISATION = 80, MEMBERS_MAX = 5 };

/* A member of a metric in v1, in the order in which it is written there, and where v2 has it. */
struct member {
    const char *v1, *outer, *inner; /* inner NULL: `outer` itself */
    bool always;                    /* "0" when v2 has none */
};
struct form {
    const char *kind;
    struct member source[MEMBERS_MAX], status[MEMBERS_MAX];
};
static const struct form forms[] = {
    {"object",
     {{"target", "describedObject"},
      {"metricName", "metric", "name"},
      {"targetValue", "target", "value", true},
      {"selector", "metric", "selector"},
      {"averageValue", "target", "averageValue"}},
     {{"target", "describedObject"},
      {"metricName", "metric", "name"},
      {"currentValue", "current", "value", true},
      {"selector", "metric", "selector"},
      {"averageValue", "current", "averageValue"}}},
    {"pods",
     {{"metricName", "metric", "name"},
      {"targetAverageValue", "target", "averageValue", true},
      {"selector", "metric", "selector"}},
     {{"metricName", "metric", "name"},
      {"currentAverageValue", "current", "averageValue", true},
      {"selector", "metric", "selector"}}},
    {"resource",
     {{"name", "name"},
      {"targetAverageUtilization", "target", "averageUtilization"},
      {"targetAverageValue", "target", "averageValue"}},
     {{"name", "name"},
      {"currentAverageUtilization", "current", "averageUtilization"},
      {"currentAverageValue", "current", "averageValue", true}}},
    {"containerResource",
     {{"name", "name"},
      {"targetAverageUtilization", "target", "averageUtilization"},
      {"targetAverageValue", "target", "averageValue"},
      {"container", "container"}},
     {{"name", "name"},
      {"currentAverageUtilization", "current", "averageUtilization"},
      {"currentAverageValue", "current", "averageValue", true},
      {"container", "container"}}},
    {"external",
     {{"metricName", "metric", "name"},
      {"metricSelector", "metric", "selector"},
      {"targetValue", "target", "value"},
      {"targetAverageValue", "target", "averageValue"}},
     {{"metricName", "metric", "name"},
      {"metricSelector", "metric", "selector"},
      {"currentValue", "current", "value", true},
      {"currentAverageValue", "current", "averageValue"}}},
};

static struct json *present(const struct json *o, const char *key) {
    struct json *v = json_get(o, key);
    return v && v->type != JSON_NULL ? v : NULL;
}

/* ---- metrics ---- */

static struct json *metric_down(struct arena *a, const struct json *metric, bool status) {
    struct json *out = json_object(a);
    json_set_str(a, out, "type", str_or_empty(json_get_str(metric, "type")));
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        const struct json *src = present(metric, forms[i].kind);
        const struct member *m = status ? forms[i].status : forms[i].source;
        if (!src) continue;
        struct json *dst = json_set(a, out, forms[i].kind, json_object(a));
        for (size_t j = 0; j < MEMBERS_MAX && m[j].v1; j++) {
            const struct json *v =
                m[j].inner ? present(json_get(src, m[j].outer), m[j].inner) : present(src, m[j].outer);
            if (v)
                json_set(a, dst, m[j].v1, json_clone(a, v));
            else if (m[j].always)
                json_set_str(a, dst, m[j].v1, "0");
        }
    }
    return out;
}

/* Which of the values of a source is meant. */
static void target_type(struct arena *a, const char *kind, struct json *source) {
    struct json *target = json_ensure_object(a, source, "target");
    bool average = present(target, "averageValue") || str_eq(kind, "pods");
    if (str_eq(kind, "object")) {
        if (average && str_eq(json_get_str(target, "value"), "0")) json_del(target, "value");
    } else if (str_eq(kind, "external")) {
        average = !present(target, "value");
    } else if (!str_eq(kind, "pods") && present(target, "averageUtilization")) {
        json_set_str(a, target, "type", "Utilization");
        return;
    } else {
        average = true;
    }
    json_set_str(a, target, "type", average ? "AverageValue" : "Value");
}

static struct json *metric_up(struct arena *a, const struct json *metric, bool status) {
    struct json *out = json_object(a);
    json_set_str(a, out, "type", str_or_empty(json_get_str(metric, "type")));
    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        const struct json *src = present(metric, forms[i].kind);
        const struct member *m = status ? forms[i].status : forms[i].source;
        if (!src) continue;
        struct json *dst = json_set(a, out, forms[i].kind, json_object(a));
        for (size_t j = 0; j < MEMBERS_MAX && m[j].v1; j++) {
            const struct json *v = present(src, m[j].v1);
            if (v)
                json_set(a, m[j].inner ? json_ensure_object(a, dst, m[j].outer) : dst,
                         m[j].inner ? m[j].inner : m[j].outer, json_clone(a, v));
        }
        if (!status) target_type(a, forms[i].kind, dst);
    }
    return out;
}

static bool is_cpu(const struct json *metric, const char *side) {
    return str_eq(json_get_str(metric, "type"), "Resource") &&
           str_eq(json_as_str(json_at(metric, "resource", "name", NULL)), "cpu") &&
           json_at(metric, "resource", side, "averageUtilization", NULL) != NULL;
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

/* ---- behavior ---- */

/* Members of the structs, as they are called here and inside upstream. */
static const char *const rule_names[][2] = {{"stabilizationWindowSeconds", "StabilizationWindowSeconds"},
                                            {"selectPolicy", "SelectPolicy"},
                                            {"policies", "Policies"},
                                            {"tolerance", "Tolerance"}};
static const char *const policy_names[][2] = {{"type", "Type"}, {"value", "Value"}, {"periodSeconds", "PeriodSeconds"}};
static const char *const behavior_names[][2] = {{"scaleUp", "ScaleUp"}, {"scaleDown", "ScaleDown"}};

/* The object with the names of the other side; `down`: to upstream's, where what is absent is null. */
static struct json *renamed(struct arena *a, const struct json *o, const char *const names[][2], size_t n, bool down) {
    struct json *out = json_object(a);
    for (size_t i = 0; i < n; i++) {
        const struct json *v = NULL;
        JSON_FOREACH_MEMBER(m, o)
            if (strcasecmp(m->key, names[i][0]) == 0) v = m->value;
        bool none = !v || v->type == JSON_NULL;
        if (down || !none) json_set(a, out, names[i][down], none ? json_null(a) : json_clone(a, v));
    }
    return out;
}

static struct json *behavior_renamed(struct arena *a, const struct json *behavior, bool down) {
    struct json *out = renamed(a, behavior, behavior_names, ARRAY_LEN(behavior_names), down), *policy;
    for (size_t i = 0; i < ARRAY_LEN(behavior_names); i++) {
        const struct json *rules = present(out, behavior_names[i][down]);
        if (!json_is(rules, JSON_OBJECT)) continue;
        struct json *r =
            json_set(a, out, behavior_names[i][down], renamed(a, rules, rule_names, ARRAY_LEN(rule_names), down));
        struct json *list = present(r, rule_names[2][down]), *policies = json_array(a);
        if (!list) continue;
        JSON_FOREACH(policy, list)
            json_append(a, policies, renamed(a, policy, policy_names, ARRAY_LEN(policy_names), down));
        json_set(a, r, rule_names[2][down], policies);
    }
    return out;
}

/* ---- both ways ---- */

static void annotate(struct arena *a, struct json *v, const char *key, const struct json *value) {
    struct json *meta = json_ensure_object(a, v, "metadata");
    json_set_str(a, json_ensure_object(a, meta, "annotations"), key, json_text(a, value));
}

/* Takes an annotation away; its value when that is of the type, else NULL. */
static struct json *take_annotation(struct arena *a, struct json *v, const char *key, enum json_type type) {
    struct json *ann = json_at(v, "metadata", "annotations", NULL), *out = NULL;
    const char *text = json_get_str(ann, key);
    if (!text) return NULL;
    if (json_parse(a, text, strlen(text), &out, NULL, NULL) || !json_is(out, type)) out = NULL;
    json_del(ann, key);
    if (!json_len(ann)) json_del(json_get(v, "metadata"), "annotations");
    return out;
}

static void drop_annotations(struct arena *a, struct json *v) {
    static const char *const keys[] = {ANN_METRICS, ANN_CURRENT, ANN_CONDITIONS, ANN_BEHAVIOR};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) take_annotation(a, v, keys[i], JSON_ARRAY);
}

void convert_hpa_to_v1(struct arena *a, struct json *v) {
    struct json *spec = json_get(v, "spec"), *status = json_get(v, "status"), *m, *cpu = NULL;
    struct json *others = json_array(a), *current = json_array(a);
    drop_annotations(a, v);
    JSON_FOREACH(m, json_get(spec, "metrics")) {
        if (!is_cpu(m, "target"))
            json_append(a, others, metric_down(a, m, false));
        else if (!cpu)
            cpu = json_at(m, "resource", "target", "averageUtilization", NULL);
    }
    json_del(spec, "metrics");
    if (cpu) json_set(a, spec, "targetCPUUtilizationPercentage", cpu);
    if (json_len(others)) annotate(a, v, ANN_METRICS, others);
    JSON_FOREACH(m, json_get(status, "currentMetrics")) {
        json_append(a, current, metric_down(a, m, true));
        if (is_cpu(m, "current"))
            json_set(a, status, "currentCPUUtilizationPercentage",
                     json_at(m, "resource", "current", "averageUtilization", NULL));
    }
    if (json_len(current)) annotate(a, v, ANN_CURRENT, current);
    if (present(spec, "behavior")) annotate(a, v, ANN_BEHAVIOR, behavior_renamed(a, json_get(spec, "behavior"), true));
    json_del(spec, "behavior");
    if (!status) return;
    json_del(status, "currentMetrics");
    if (json_len(json_get(status, "conditions"))) annotate(a, v, ANN_CONDITIONS, json_get(status, "conditions"));
    json_del(status, "conditions");
}

static void spec_up(struct arena *a, struct json *v, struct json *spec) {
    struct json *percent = json_get(spec, "targetCPUUtilizationPercentage"), *m, *out = json_array(a), *x;
    JSON_FOREACH(m, take_annotation(a, v, ANN_METRICS, JSON_ARRAY)) json_append(a, out, metric_up(a, m, false));
    if (json_is(percent, JSON_INT)) json_append(a, out, cpu_metric(a, percent, "target"));
    if (!json_len(out)) json_append(a, out, cpu_metric(a, json_int(a, DEFAULT_CPU_UTILISATION), "target"));
    json_del(spec, "targetCPUUtilizationPercentage");
    json_set(a, spec, "metrics", out);
    if ((x = take_annotation(a, v, ANN_BEHAVIOR, JSON_OBJECT)) && json_len(x = behavior_renamed(a, x, false)))
        json_set(a, spec, "behavior", x);
}

static void status_up(struct arena *a, struct json *v, struct json *status) {
    struct json *percent = json_get(status, "currentCPUUtilizationPercentage"), *m, *out = json_array(a), *x;
    struct json *all = take_annotation(a, v, ANN_CURRENT, JSON_ARRAY); /* which says more than the field */
    JSON_FOREACH(m, all) json_append(a, out, metric_up(a, m, true));
    if (!all && json_is(percent, JSON_INT)) json_append(a, out, cpu_metric(a, percent, "current"));
    json_del(status, "currentCPUUtilizationPercentage");
    if (json_len(out)) json_set(a, status, "currentMetrics", out);
    if ((x = take_annotation(a, v, ANN_CONDITIONS, JSON_ARRAY))) json_set(a, status, "conditions", x);
}

void convert_hpa_to_v2(struct arena *a, struct json *v) {
    struct json *spec = json_get(v, "spec"), *status = json_get(v, "status");
    if (json_is(spec, JSON_OBJECT)) spec_up(a, v, spec);
    if (json_is(status, JSON_OBJECT)) status_up(a, v, status);
    drop_annotations(a, v);
}
