/* Printers of apps, batch, autoscaling, policy, networking, discovery, coordination. */
#include "apiserver/tables.h"

static void deployment_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_fmt(c, "%lld/%lld", (long long)I(o, "status", "readyReplicas"), (long long)I(o, "spec", "replicas"));
    cell_int(c, I(o, "status", "updatedReplicas"));
    cell_int(c, I(o, "status", "availableReplicas"));
    cell_age(c, o);
    cell_containers(c, json_at(o, "spec", "template", "spec", NULL));
    cell_str(c, selector_text(c->a, json_at(o, "spec", "selector", NULL)));
}

static void replicaset_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, I(o, "spec", "replicas"));
    cell_int(c, I(o, "status", "replicas"));
    cell_int(c, I(o, "status", "readyReplicas"));
    cell_age(c, o);
    cell_containers(c, json_at(o, "spec", "template", "spec", NULL));
    cell_str(c, selector_text(c->a, json_at(o, "spec", "selector", NULL)));
}

static void daemonset_cells(struct cells *c, const struct json *o) {
    static const char *const counts[] = {"desiredNumberScheduled", "currentNumberScheduled", "numberReady",
                                         "updatedNumberScheduled", "numberAvailable"};
    cell_name(c, o);
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) cell_int(c, I(o, "status", counts[i]));
    cell_str(c, labels_text(c->a, json_at(o, "spec", "template", "spec", "nodeSelector", NULL)));
    cell_age(c, o);
    cell_containers(c, json_at(o, "spec", "template", "spec", NULL));
    cell_str(c, selector_text(c->a, json_at(o, "spec", "selector", NULL)));
}

static void statefulset_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_fmt(c, "%lld/%lld", (long long)I(o, "status", "readyReplicas"), (long long)I(o, "spec", "replicas"));
    cell_age(c, o);
    cell_containers(c, json_at(o, "spec", "template", "spec", NULL));
}

static void controllerrevision_cells(struct cells *c, const struct json *o) {
    const char *owner = "<none>";
    struct json *x;
    JSON_FOREACH(x, json_at(o, "metadata", "ownerReferences", NULL)) {
        if (!json_get_bool(x, "controller", false)) continue;
        const char *v = str_or_empty(json_get_str(x, "apiVersion")), *slash = strchr(v, '/');
        char *kind = arena_strdup(c->a, str_or_empty(json_get_str(x, "kind")));
        for (char *p = kind; *p; p++)
            if (*p >= 'A' && *p <= 'Z') *p = (char)(*p + 32);
        owner = slash
                    ? arena_printf(c->a, "%s.%.*s/%s", kind, (int)(slash - v), v, str_or_empty(json_get_str(x, "name")))
                    : arena_printf(c->a, "%s/%s", kind, str_or_empty(json_get_str(x, "name")));
    }
    cell_name(c, o);
    cell_str(c, owner);
    cell_int(c, json_get_int(o, "revision", 0));
    cell_age(c, o);
}

/* ---- batch ---- */

static const char *job_status(const struct json *o) {
    const struct json *conds = json_at(o, "status", "conditions", NULL);
    if (condition_true(conds, "Complete")) return "Complete";
    if (condition_true(conds, "Failed")) return "Failed";
    if (S(o, "metadata", "deletionTimestamp")) return "Terminating";
    if (condition_true(conds, "Suspended")) return "Suspended";
    if (condition_true(conds, "FailureTarget")) return "FailureTarget";
    if (condition_true(conds, "SuccessCriteriaMet")) return "SuccessCriteriaMet";
    return "Running";
}

static const char *job_duration(struct cells *c, const struct json *o) {
    struct ktime start, end = c->now;
    const char *s = S(o, "status", "startTime"), *e = S(o, "status", "completionTime");
    if (str_empty(s) || ktime_parse(s, &start)) return "";
    if (!str_empty(e) && ktime_parse(e, &end)) end = c->now;
    return human_duration(c->a, end.sec - start.sec);
}

static void job_cells(struct cells *c, const struct json *o) {
    const struct json *want = json_at(o, "spec", "completions", NULL);
    long long done = I(o, "status", "succeeded"), parallel = I(o, "spec", "parallelism");
    cell_name(c, o);
    cell_str(c, job_status(o));
    if (json_is(want, JSON_INT))
        cell_fmt(c, "%lld/%lld", done, (long long)want->i);
    else if (parallel > 1)
        cell_fmt(c, "%lld/1 of %lld", done, parallel);
    else
        cell_fmt(c, "%lld/1", done);
    cell_str(c, job_duration(c, o));
    cell_age(c, o);
    cell_containers(c, json_at(o, "spec", "template", "spec", NULL));
    cell_str(c, selector_text(c->a, json_at(o, "spec", "selector", NULL)));
}

static void cronjob_cells(struct cells *c, const struct json *o) {
    const char *last = S(o, "status", "lastScheduleTime");
    cell_name(c, o);
    cell_str(c, S(o, "spec", "schedule"));
    cell_str(c, or_text(S(o, "spec", "timeZone"), "<none>"));
    const struct json *suspend = json_at(o, "spec", "suspend", NULL);
    cell_str(c, json_is(suspend, JSON_BOOL) ? suspend->b ? "True" : "False" : "<unset>");
    cell_int(c, (int64_t)json_len(json_at(o, "status", "active", NULL)));
    cell_str(c, str_empty(last) ? "<none>" : human_age(c->a, last, c->now));
    cell_age(c, o);
    const struct json *tmpl = json_at(o, "spec", "jobTemplate", "spec", NULL);
    cell_containers(c, json_at(tmpl, "template", "spec", NULL));
    cell_str(c, selector_text(c->a, json_get(tmpl, "selector")));
}

/* ---- autoscaling ---- */

/* The named part of a metric: its identifier's name. */
static const char *metric_name(const struct json *m, const char *kind) {
    const char *direct = S(m, kind, "name");
    return direct ? direct : S(m, kind, "metric", "name");
}

static const char *metric_kind(const char *type) {
    static const char *const map[][2] = {{"Resource", "resource"},
                                         {"ContainerResource", "containerResource"},
                                         {"Pods", "pods"},
                                         {"Object", "object"},
                                         {"External", "external"}};
    for (size_t i = 0; i < ARRAY_LEN(map); i++)
        if (str_eq(type, map[i][0])) return map[i][1];
    return "";
}

/* The i-th metric and what the status says at that place, if that is of the same kind: the names are not compared. */
static const char *metric_text(struct arena *a, const struct json *spec, const struct json *status) {
    const char *kind = metric_kind(str_or_empty(json_get_str(spec, "type")));
    const struct json *target = json_at(spec, kind, "target", NULL), *seen = json_get(status, kind),
                      *have = json_get(seen, "current");
    bool resource = str_eq(kind, "resource") || str_eq(kind, "containerResource"),
         loose = str_eq(kind, "object") || str_eq(kind, "external");
    const char *name = resource ? arena_printf(a, "%s: ", str_or_empty(metric_name(spec, kind))) : "";
    const char *avg = json_get_str(target, "averageValue"), *value = json_get_str(target, "value");
    const char *none = seen ? "<nil>" : "<unknown>";
    if (!*kind) return "<unknown type>";
    if (avg)
        return arena_printf(a, "%s%s/%s%s", name,
                            or_text(json_get_str(have, "averageValue"), loose ? "<unknown>" : none), avg,
                            loose ? " (avg)" : "");
    if (value) return arena_printf(a, "%s%s/%s", name, or_text(json_get_str(have, "value"), none), value);
    const struct json *want = json_get(target, "averageUtilization"), *is = json_get(have, "averageUtilization");
    const char *now = json_is(is, JSON_INT) ? arena_printf(a, "%lld%%", (long long)is->i) : "<unknown>";
    return arena_printf(a, "%s%s/%s", name, now,
                        json_is(want, JSON_INT) ? arena_printf(a, "%lld%%", (long long)want->i) : "<auto>");
}

static void hpa_cells(struct cells *c, const struct json *o) {
    const struct json *metrics = json_at(o, "spec", "metrics", NULL);
    size_t n = json_len(metrics);
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < n && i < 2; i++)
        buf_printf(
            &b, "%s%s", i ? ", " : "",
            metric_text(c->a, json_item(metrics, i), json_item(json_at(o, "status", "currentMetrics", NULL), i)));
    if (n > 2) buf_printf(&b, " + %zu more...", n - 2);
    cell_name(c, o);
    cell_fmt(c, "%s/%s", str_or_empty(S(o, "spec", "scaleTargetRef", "kind")),
             str_or_empty(S(o, "spec", "scaleTargetRef", "name")));
    cell_str(c, or_text(b.data, "<none>"));
    cell_str(c, scalar_text(c->a, json_at(o, "spec", "minReplicas", NULL), "<unset>"));
    cell_int(c, I(o, "spec", "maxReplicas"));
    cell_int(c, I(o, "status", "currentReplicas"));
    cell_age(c, o);
}

/* ---- policy, coordination ---- */

static void pdb_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, scalar_text(c->a, json_at(o, "spec", "minAvailable", NULL), "N/A"));
    cell_str(c, scalar_text(c->a, json_at(o, "spec", "maxUnavailable", NULL), "N/A"));
    cell_int(c, I(o, "status", "disruptionsAllowed"));
    cell_age(c, o);
}

static void lease_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, S(o, "spec", "holderIdentity"));
    cell_age(c, o);
}

/* ---- networking, discovery ---- */

enum { MAX_LISTED = 4096 };

static void endpointslice_cells(struct cells *c, const struct json *o) {
    const char **list = arena_alloc(c->a, MAX_LISTED * sizeof(*list));
    size_t n = 0;
    struct json *x, *ad;
    cell_name(c, o);
    cell_str(c, json_get_str(o, "addressType"));
    JSON_FOREACH(x, json_get(o, "ports")) {
        if (n < MAX_LISTED) list[n++] = scalar_text(c->a, json_get(x, "port"), or_text(json_get_str(x, "name"), "*"));
    }
    cell_str(c, first_three(c->a, list, n, "<unset>"));
    n = 0;
    JSON_FOREACH(x, json_get(o, "endpoints")) {
        JSON_FOREACH(ad, json_get(x, "addresses")) {
            if (n < MAX_LISTED) list[n++] = str_or_empty(json_as_str(ad));
        }
    }
    cell_str(c, first_three(c->a, list, n, "<unset>"));
    cell_age(c, o);
}

static const char *hosts_text(struct arena *a, const struct json *rules) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    size_t listed = 0;
    struct json *x;
    bool more = false;
    JSON_FOREACH(x, rules) {
        const char *host = json_get_str(x, "host");
        if (listed == 3) more = true;
        if (more || str_empty(host)) continue;
        buf_printf(&b, "%s%s", listed++ ? "," : "", host);
    }
    if (!listed) return "*";
    if (more) buf_printf(&b, " + %zu more...", json_len(rules) - 3);
    return arena_strdup(a, b.data);
}

static void ingress_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, or_text(S(o, "spec", "ingressClassName"), "<none>"));
    cell_str(c, hosts_text(c->a, json_at(o, "spec", "rules", NULL)));
    cell_str(c, load_balancer_points(c->a, json_at(o, "status", "loadBalancer", NULL)));
    cell_str(c, json_len(json_at(o, "spec", "tls", NULL)) ? "80, 443" : "80");
    cell_age(c, o);
}

static void ingressclass_cells(struct cells *c, const struct json *o) {
    const struct json *p = json_at(o, "spec", "parameters", NULL);
    const char *dflt = S(o, "metadata", "annotations", "ingressclass.kubernetes.io/is-default-class");
    const char *group = json_get_str(p, "apiGroup");
    cell_fmt(c, "%s%s", str_or_empty(S(o, "metadata", "name")), str_eq(dflt, "true") ? " (default)" : "");
    cell_str(c, S(o, "spec", "controller"));
    if (p)
        cell_fmt(c, "%s%s%s/%s", str_or_empty(json_get_str(p, "kind")), group ? "." : "", str_or_empty(group),
                 str_or_empty(json_get_str(p, "name")));
    else
        cell_str(c, "<none>");
    cell_age(c, o);
}

static void ipaddress_cells(struct cells *c, const struct json *o) {
    const struct json *r = json_at(o, "spec", "parentRef", NULL);
    const char *group = str_or_empty(json_get_str(r, "group")), *ns = str_or_empty(json_get_str(r, "namespace"));
    cell_name(c, o);
    cell_fmt(c, "%s%s%s/%s%s%s", str_or_empty(json_get_str(r, "resource")), *group ? "." : "", group, ns,
             *ns ? "/" : "", str_or_empty(json_get_str(r, "name")));
    cell_age(c, o); /* upstream's rows have one cell more than columns */
}

static void netpol_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, selector_text(c->a, json_at(o, "spec", "podSelector", NULL)));
    cell_age(c, o);
}

static void servicecidr_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, join(c->a, json_at(o, "spec", "cidrs", NULL), NULL, ","));
    cell_age(c, o);
}

static void scale_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, I(o, "spec", "replicas"));
    cell_int(c, I(o, "status", "replicas"));
    cell_age(c, o);
}

#define HPA_COLUMNS "Name Reference Targets MinPods MaxPods Replicas Age"

const struct table_printer printers_workloads[] = {
    {"apps/v1/deployments", "Name Ready Up-to-date Available Age +Containers +Images +Selector", deployment_cells},
    {"apps/v1/replicasets", "Name Desired:i Current:i Ready:i Age +Containers +Images +Selector", replicaset_cells},
    {"apps/v1/daemonsets",
     "Name Desired:i Current:i Ready:i Up-to-date:i Available:i Node_Selector Age +Containers +Images +Selector",
     daemonset_cells},
    {"apps/v1/statefulsets", "Name Ready Age +Containers +Images", statefulset_cells},
    {"apps/v1/controllerrevisions", "Name Controller Revision Age", controllerrevision_cells},
    {"batch/v1/jobs", "Name Status Completions Duration Age +Containers +Images +Selector", job_cells},
    {"batch/v1/cronjobs", "Name Schedule Timezone Suspend:b Active:i Last_Schedule Age +Containers +Images +Selector",
     cronjob_cells},
    {"custom/scale", "Name Desired:i Available:i Age:d", scale_cells},
    {"autoscaling/v1/scale", "Name! Desired:i Available:i Age", scale_cells},
    {"autoscaling/v1/horizontalpodautoscalers", HPA_COLUMNS, hpa_cells},
    {"autoscaling/v2/horizontalpodautoscalers", HPA_COLUMNS, hpa_cells},
    {"policy/v1/poddisruptionbudgets", "Name Min_Available Max_Unavailable Allowed_Disruptions:i Age", pdb_cells},
    {"coordination.k8s.io/v1/leases", "Name Holder Age", lease_cells},
    {"discovery.k8s.io/v1/endpointslices", "Name AddressType Ports Endpoints Age", endpointslice_cells},
    {"networking.k8s.io/v1/ingresses", "Name Class Hosts Address Ports Age", ingress_cells},
    {"networking.k8s.io/v1/ingressclasses", "Name Controller Parameters Age", ingressclass_cells},
    {"networking.k8s.io/v1/ipaddresses", "Name ParentRef", ipaddress_cells},
    {"networking.k8s.io/v1/networkpolicies", "Name Pod-Selector Age", netpol_cells},
    {"networking.k8s.io/v1/servicecidrs", "Name CIDRs Age", servicecidr_cells},
    {0}};
