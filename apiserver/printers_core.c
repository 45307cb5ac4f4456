/* Printers of the core group. */
#include <ctype.h>

#include "apiserver/tables.h"

/* ---- pods ---- */

struct pod_view { /* what the STATUS, READY and RESTARTS columns are made from */
    struct arena *a;
    int64_t restarts, ready, total;
    const char *reason, *last_restart;
};

static void note_restarts(struct pod_view *v, const struct json *cs, int64_t *count, const char **last) {
    const char *at = S(cs, "lastState", "terminated", "finishedAt");
    *count += json_get_int(cs, "restartCount", 0);
    if (at && (!*last || strcmp(*last, at) < 0)) *last = at;
}

static const char *ended_reason(struct arena *a, const struct json *t, const char *prefix) {
    const char *r = json_get_str(t, "reason");
    int64_t signal = json_get_int(t, "signal", 0);
    if (!str_empty(r)) return arena_printf(a, "%s%s", prefix, r);
    if (signal) return arena_printf(a, "%sSignal:%lld", prefix, (long long)signal);
    return arena_printf(a, "%sExitCode:%lld", prefix, (long long)json_get_int(t, "exitCode", 0));
}

static bool is_sidecar(const struct json *pod, const char *name) {
    struct json *x;
    JSON_FOREACH(x, json_at(pod, "spec", "initContainers", NULL)) {
        if (str_eq(json_get_str(x, "name"), name)) return str_eq(json_get_str(x, "restartPolicy"), "Always");
    }
    return false;
}

/* True while an init container is what the pod waits for. */
static bool view_init(struct pod_view *v, const struct json *pod, int64_t *sidecar_restarts,
                      const char **sidecar_last) {
    struct json *cs;
    size_t n_init = json_len(json_at(pod, "spec", "initContainers", NULL));
    JSON_FOREACH(cs, json_at(pod, "status", "initContainerStatuses", NULL)) {
        const struct json *ended = json_at(cs, "state", "terminated", NULL);
        const char *waiting = S(cs, "state", "waiting", "reason");
        bool sidecar = is_sidecar(pod, json_get_str(cs, "name"));
        note_restarts(v, cs, &v->restarts, &v->last_restart);
        if (sidecar) note_restarts(v, cs, sidecar_restarts, sidecar_last);
        if (ended && json_get_int(ended, "exitCode", 0) == 0) continue;
        if (sidecar && json_get_bool(cs, "started", false)) {
            v->ready += json_get_bool(cs, "ready", false);
            continue;
        }
        if (ended)
            v->reason = ended_reason(v->a, ended, "Init:");
        else if (!str_empty(waiting) && !str_eq(waiting, "PodInitializing"))
            v->reason = arena_printf(v->a, "Init:%s", waiting);
        else
            v->reason = arena_printf(v->a, "Init:%zu/%zu", cs_i, n_init);
        return true;
    }
    return false;
}

static void view_containers(struct pod_view *v, const struct json *pod) {
    const struct json *list = json_at(pod, "status", "containerStatuses", NULL);
    const char *error = NULL;
    bool running = false;
    for (size_t i = json_len(list); i-- > 0;) {
        const struct json *cs = json_item(list, i), *ended = json_at(cs, "state", "terminated", NULL);
        const char *waiting = S(cs, "state", "waiting", "reason");
        note_restarts(v, cs, &v->restarts, &v->last_restart);
        if (!str_empty(waiting)) {
            v->reason = waiting;
        } else if (ended) {
            v->reason = ended_reason(v->a, ended, "");
            if (json_get_int(ended, "exitCode", 0)) error = v->reason;
        } else if (json_get_bool(cs, "ready", false) && json_at(cs, "state", "running", NULL)) {
            running = true;
            v->ready++;
        }
    }
    if (!str_eq(v->reason, "Completed")) return;
    if (running && condition_true(json_at(pod, "status", "conditions", NULL), "Ready"))
        v->reason = "Running";
    else if (error)
        v->reason = error;
    else if (running)
        v->reason = "NotReady";
}

static const char *gates_text(struct arena *a, const struct json *pod) {
    const struct json *gates = json_at(pod, "spec", "readinessGates", NULL);
    struct json *g;
    int n = 0;
    if (!json_len(gates)) return "<none>";
    JSON_FOREACH(g, gates)
        n += condition_true(json_at(pod, "status", "conditions", NULL), json_get_str(g, "conditionType"));
    return arena_printf(a, "%d/%zu", n, json_len(gates));
}

static void pod_cells(struct cells *c, const struct json *o) {
    const struct json *status = json_get(o, "status"), *conds = json_get(status, "conditions"), *x;
    const char *phase = str_or_empty(json_get_str(status, "phase")), *why = json_get_str(status, "reason");
    struct pod_view v = {.a = c->a, .reason = str_empty(why) ? phase : why};
    int64_t sidecar_restarts = 0;
    const char *sidecar_last = NULL;
    v.total = (int64_t)json_len(json_at(o, "spec", "containers", NULL));
    for (size_t i = 0; (x = json_item(json_at(o, "spec", "initContainers", NULL), i)); i++)
        v.total += str_eq(json_get_str(x, "restartPolicy"), "Always");
    if (str_eq(json_get_str(find_condition(conds, "PodScheduled"), "reason"), "SchedulingGated"))
        v.reason = "SchedulingGated";
    bool initializing = view_init(&v, o, &sidecar_restarts, &sidecar_last);
    if (!initializing || condition_true(conds, "Initialized")) {
        v.restarts = sidecar_restarts;
        v.last_restart = sidecar_last;
        view_containers(&v, o);
    }
    if (S(o, "metadata", "deletionTimestamp")) {
        if (str_eq(why, "NodeLost"))
            v.reason = "Unknown";
        else if (!str_eq(phase, "Succeeded") && !str_eq(phase, "Failed"))
            v.reason = "Terminating";
    }
    cell_name(c, o);
    cell_fmt(c, "%lld/%lld", (long long)v.ready, (long long)v.total);
    cell_str(c, v.reason);
    if (v.restarts && v.last_restart)
        cell_fmt(c, "%lld (%s ago)", (long long)v.restarts, human_age(c->a, v.last_restart, c->now));
    else
        cell_fmt(c, "%lld", (long long)v.restarts);
    cell_age(c, o);
    cell_str(c, or_text(json_get_str(json_item(json_get(status, "podIPs"), 0), "ip"), "<none>"));
    cell_str(c, or_text(S(o, "spec", "nodeName"), "<none>"));
    cell_str(c, or_text(json_get_str(status, "nominatedNodeName"), "<none>"));
    cell_str(c, gates_text(c->a, o));
}

/* ---- nodes ---- */

static int cmp_str(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

static const char *roles_text(struct arena *a, const struct json *o) {
    static const char prefix[] = "node-role.kubernetes.io/";
    const struct json *labels = json_at(o, "metadata", "labels", NULL);
    const char **list = arena_alloc(a, (json_len(labels) + 1) * sizeof(*list));
    size_t n = 0;
    JSON_FOREACH_MEMBER(m, labels) {
        if (str_has_prefix(m->key, prefix) && m->key[sizeof(prefix) - 1])
            list[n++] = m->key + sizeof(prefix) - 1;
        else if (str_eq(m->key, "kubernetes.io/role") && !str_empty(json_as_str(m->value)))
            list[n++] = json_as_str(m->value);
    }
    qsort(list, n, sizeof(*list), cmp_str);
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < n; i++) buf_printf(&b, "%s%s", i ? "," : "", list[i]);
    return n ? arena_strdup(a, b.data) : "<none>";
}

static const char *node_address(const struct json *o, const char *type) {
    struct json *x;
    JSON_FOREACH(x, json_at(o, "status", "addresses", NULL)) {
        if (str_eq(json_get_str(x, "type"), type)) return or_text(json_get_str(x, "address"), "<none>");
    }
    return "<none>";
}

static void node_cells(struct cells *c, const struct json *o) {
    const struct json *info = json_at(o, "status", "nodeInfo", NULL);
    const struct json *ready = find_condition(json_at(o, "status", "conditions", NULL), "Ready");
    const char *state = !ready ? "Unknown" : str_eq(json_get_str(ready, "status"), "True") ? "Ready" : "NotReady";
    const char *kernel = or_text(json_get_str(info, "kernelVersion"), "<unknown>"),
               *arch = json_get_str(info, "architecture");
    cell_name(c, o);
    cell_fmt(c, "%s%s", state, json_get_bool(json_get(o, "spec"), "unschedulable", false) ? ",SchedulingDisabled" : "");
    cell_str(c, roles_text(c->a, o));
    cell_age(c, o);
    cell_str(c, json_get_str(info, "kubeletVersion"));
    cell_str(c, node_address(o, "InternalIP"));
    cell_str(c, node_address(o, "ExternalIP"));
    cell_str(c, or_text(json_get_str(info, "osImage"), "<unknown>"));
    if (str_empty(arch))
        cell_str(c, kernel);
    else
        cell_fmt(c, "%s (%s)", kernel, arch);
    cell_str(c, or_text(json_get_str(info, "containerRuntimeVersion"), "<unknown>"));
}

/* ---- services, endpoints ---- */

static const char *external_ip(struct arena *a, const struct json *o) {
    const char *type = S(o, "spec", "type"), *ips = join(a, json_at(o, "spec", "externalIPs", NULL), NULL, ",");
    if (str_eq(type, "ExternalName")) return str_or_empty(S(o, "spec", "externalName"));
    if (!str_eq(type, "LoadBalancer")) return or_text(ips, "<none>");
    const char *lb = load_balancer_points(a, json_at(o, "status", "loadBalancer", NULL));
    if (*ips) return *lb ? arena_printf(a, "%s,%s", lb, ips) : ips;
    return or_text(lb, "<pending>");
}

static void service_cells(struct cells *c, const struct json *o) {
    _cleanup_buf_ struct buf ports = BUF_INIT;
    struct json *p;
    JSON_FOREACH(p, json_at(o, "spec", "ports", NULL)) {
        int64_t node = json_get_int(p, "nodePort", 0);
        if (ports.len) buf_addc(&ports, ',');
        buf_printf(&ports, "%lld", (long long)json_get_int(p, "port", 0));
        if (node) buf_printf(&ports, ":%lld", (long long)node);
        buf_printf(&ports, "/%s", str_or_empty(json_get_str(p, "protocol")));
    }
    cell_name(c, o);
    cell_str(c, S(o, "spec", "type"));
    cell_str(c, or_text(json_as_str(json_item(json_at(o, "spec", "clusterIPs", NULL), 0)), "<none>"));
    cell_str(c, external_ip(c->a, o));
    cell_str(c, or_text(ports.data, "<none>"));
    cell_age(c, o);
    cell_str(c, labels_text(c->a, json_at(o, "spec", "selector", NULL)));
}

enum { MAX_LISTED = 4096 };

static void endpoints_cells(struct cells *c, const struct json *o) {
    const char **list = arena_alloc(c->a, MAX_LISTED * sizeof(*list));
    size_t n = 0;
    struct json *ss, *p, *ad;
    JSON_FOREACH(ss, json_get(o, "subsets")) {
        const struct json *ports = json_get(ss, "ports");
        for (size_t i = 0; i < json_len(ports) || (i == 0 && !json_len(ports)); i++) {
            p = json_item(ports, i);
            JSON_FOREACH(ad, json_get(ss, "addresses")) {
                const char *ip = str_or_empty(json_get_str(ad, "ip"));
                if (n == MAX_LISTED) break;
                list[n++] = !p ? ip
                               : arena_printf(c->a, strchr(ip, ':') ? "[%s]:%lld" : "%s:%lld", ip,
                                              (long long)json_get_int(p, "port", 0));
            }
        }
    }
    cell_name(c, o);
    cell_str(c, json_len(json_get(o, "subsets")) ? first_three(c->a, list, n, "") : "<none>");
    cell_age(c, o);
}

/* ---- events ---- */

static const char *event_source(struct arena *a, const struct json *o) {
    const char *component = S(o, "source", "component"), *host = S(o, "source", "host");
    if (str_empty(component))
        component = json_get_str(o, "reportingComponent"), host = json_get_str(o, "reportingInstance");
    if (str_empty(host)) return str_or_empty(component);
    return arena_printf(a, "%s, %s", str_or_empty(component), host);
}

static void event_cells(struct cells *c, const struct json *o) {
    const char *first = json_get_str(o, "firstTimestamp"), *last = json_get_str(o, "lastTimestamp");
    const struct json *series = json_get(o, "series");
    int64_t count = json_get_int(o, "count", 0);
    if (str_empty(first)) first = json_get_str(o, "eventTime");
    if (str_empty(last)) last = first;
    if (json_is(series, JSON_OBJECT)) {
        last = json_get_str(series, "lastObservedTime");
        count = json_get_int(series, "count", 0);
    } else if (!count) {
        count = 1;
    }
    char *kind = arena_strdup(c->a, str_or_empty(S(o, "involvedObject", "kind")));
    for (char *p = kind; *p; p++) *p = (char)tolower((unsigned char)*p);
    const char *name = S(o, "involvedObject", "name"), *msg = str_or_empty(json_get_str(o, "message"));
    while (isspace((unsigned char)*msg)) msg++;
    size_t n = strlen(msg);
    while (n && isspace((unsigned char)msg[n - 1])) n--;
    cell_str(c, human_age(c->a, last, c->now));
    cell_str(c, json_get_str(o, "type"));
    cell_str(c, json_get_str(o, "reason"));
    if (str_empty(name))
        cell_str(c, kind);
    else
        cell_fmt(c, "%s/%s", kind, name);
    cell_str(c, S(o, "involvedObject", "fieldPath"));
    cell_str(c, event_source(c->a, o));
    cell_fmt(c, "%.*s", (int)n, msg);
    cell_str(c, human_age(c->a, first, c->now));
    cell_int(c, count);
    cell_name(c, o);
}

/* ---- volumes ---- */

static const char *volume_class(const struct json *o) {
    const char *beta = S(o, "metadata", "annotations", "volume.beta.kubernetes.io/storage-class");
    return beta ? beta : str_or_empty(S(o, "spec", "storageClassName"));
}

static void pv_cells(struct cells *c, const struct json *o) {
    const struct json *claim = json_at(o, "spec", "claimRef", NULL);
    cell_name(c, o);
    cell_str(c, or_text(S(o, "spec", "capacity", "storage"), "0"));
    cell_str(c, access_modes_text(c->a, json_at(o, "spec", "accessModes", NULL)));
    cell_str(c, S(o, "spec", "persistentVolumeReclaimPolicy"));
    cell_str(c, S(o, "metadata", "deletionTimestamp") ? "Terminating" : S(o, "status", "phase"));
    if (claim)
        cell_fmt(c, "%s/%s", str_or_empty(json_get_str(claim, "namespace")), str_or_empty(json_get_str(claim, "name")));
    else
        cell_str(c, "");
    cell_str(c, volume_class(o));
    cell_str(c, or_text(S(o, "spec", "volumeAttributesClassName"), "<unset>"));
    cell_str(c, S(o, "status", "reason"));
    cell_age(c, o);
    cell_str(c, or_text(S(o, "spec", "volumeMode"), "<unset>"));
}

static void pvc_cells(struct cells *c, const struct json *o) {
    const char *volume = S(o, "spec", "volumeName");
    bool bound = !str_empty(volume);
    cell_name(c, o);
    cell_str(c, S(o, "metadata", "deletionTimestamp") ? "Terminating" : S(o, "status", "phase"));
    cell_str(c, volume);
    cell_str(c, bound ? or_text(S(o, "status", "capacity", "storage"), "0") : "");
    cell_str(c, bound ? access_modes_text(c->a, json_at(o, "status", "accessModes", NULL)) : "");
    cell_str(c, volume_class(o));
    cell_str(c, or_text(S(o, "spec", "volumeAttributesClassName"), "<unset>"));
    cell_age(c, o);
    cell_str(c, or_text(S(o, "spec", "volumeMode"), "<unset>"));
}

/* ---- the small ones ---- */

static void namespace_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, S(o, "status", "phase"));
    cell_age(c, o);
}

static void configmap_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, (int64_t)(json_len(json_get(o, "data")) + json_len(json_get(o, "binaryData"))));
    cell_age(c, o);
}

static void secret_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_str(c, json_get_str(o, "type"));
    cell_int(c, (int64_t)json_len(json_get(o, "data")));
    cell_age(c, o);
}

static void age_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_age(c, o);
}

static void podtemplate_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_containers(c, json_at(o, "template", "spec", NULL));
    cell_str(c, labels_text(c->a, json_at(o, "template", "metadata", "labels", NULL)));
}

static void rc_cells(struct cells *c, const struct json *o) {
    cell_name(c, o);
    cell_int(c, I(o, "spec", "replicas"));
    cell_int(c, I(o, "status", "replicas"));
    cell_int(c, I(o, "status", "readyReplicas"));
    cell_age(c, o);
    cell_containers(c, json_at(o, "spec", "template", "spec", NULL));
    cell_str(c, labels_text(c->a, json_at(o, "spec", "selector", NULL)));
}

static void quota_cells(struct cells *c, const struct json *o) {
    _cleanup_buf_ struct buf requests = BUF_INIT, limits = BUF_INIT;
    const struct json *have = json_at(o, "status", "hard", NULL);
    struct json *hard = have ? json_clone(c->a, have) : NULL;
    if (hard) json_sort_keys(hard, false);
    JSON_FOREACH_MEMBER(m, hard) {
        struct buf *b = str_has_prefix(m->key, "limits.") ? &limits : &requests;
        buf_printf(b, "%s%s: %s/%s", b->len ? ", " : "", m->key,
                   scalar_text(c->a, json_at(o, "status", "used", m->key, NULL), "0"),
                   scalar_text(c->a, m->value, "0"));
    }
    cell_name(c, o);
    cell_str(c, requests.data);
    cell_str(c, limits.data);
    cell_age(c, o);
}

static void componentstatus_cells(struct cells *c, const struct json *o) {
    const struct json *h = find_condition(json_get(o, "conditions"), "Healthy");
    cell_name(c, o);
    cell_str(c, str_eq(json_get_str(h, "status"), "True") ? "Healthy" : "Unhealthy");
    cell_str(c, json_get_str(h, "message"));
    cell_str(c, json_get_str(h, "error"));
}

#define EVENT_COLUMNS "Last_Seen Type Reason Object +Subobject +Source Message +First_Seen +Count +Name"

const struct table_printer printers_core[] = {
    {"v1/pods", "Name Ready Status Restarts Age +IP +Node +Nominated_Node +Readiness_Gates", pod_cells},
    {"v1/nodes", "Name Status Roles Age Version +Internal-IP +External-IP +OS-Image +Kernel-Version +Container-Runtime",
     node_cells},
    {"v1/services", "Name Type Cluster-IP External-IP Port(s) Age +Selector", service_cells},
    {"v1/endpoints", "Name Endpoints Age", endpoints_cells},
    {"v1/events", EVENT_COLUMNS, event_cells},
    {"events.k8s.io/v1/events", EVENT_COLUMNS, event_cells},
    {"v1/persistentvolumes",
     "Name Capacity Access_Modes Reclaim_Policy Status Claim StorageClass VolumeAttributesClass Reason Age +VolumeMode",
     pv_cells},
    {"v1/persistentvolumeclaims",
     "Name Status Volume Capacity Access_Modes StorageClass VolumeAttributesClass Age +VolumeMode", pvc_cells},
    {"v1/namespaces", "Name Status Age", namespace_cells},
    {"v1/configmaps", "Name Data Age", configmap_cells},
    {"v1/secrets", "Name Type Data Age", secret_cells},
    {"v1/serviceaccounts", "Name Age", age_cells},
    {"v1/podtemplates", "Name Containers Images Pod_Labels", podtemplate_cells},
    {"v1/replicationcontrollers", "Name Desired:i Current:i Ready:i Age +Containers +Images +Selector", rc_cells},
    {"v1/resourcequotas", "Name Request Limit Age", quota_cells},
    {"v1/componentstatuses", "Name Status Message Error", componentstatus_cells},
    {0}};

const struct table_printer *const table_printers[] = {printers_core, printers_workloads, printers_other, NULL};
