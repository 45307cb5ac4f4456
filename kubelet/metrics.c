/* See metrics.h. */
#include "kubelet/metrics.h"

#include "kubelet/bootstrap.h"
#include "kubelet/cm/cm.h"
#include "kubelet/pod_resources.h"
#include "kubelet/pods.h"
#include "kubelet/stats_parts.h"

const double metrics_runtime_bounds[] = {0.005,
                                         0.0125,
                                         0.03125,
                                         0.078125,
                                         0.1953125,
                                         0.48828125,
                                         1.220703125,
                                         3.0517578125,
                                         7.62939453125,
                                         19.073486328125,
                                         47.6837158203125,
                                         119.20928955078125,
                                         298.0232238769531,
                                         745.0580596923828,
                                         0};
static const double work_bounds[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 0};
static const double start_bounds[] = {0.5, 1,   2,   3,   4,   5,   6,   8,   10,   20,   30,   45, 60,
                                      120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 0};
static const double storage_bounds[] = {0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600, 0};

void metrics_pod_start(struct kubelet_metrics *m, int64_t ns) { prom_observe(&m->pod_start, start_bounds, ns); }

void metrics_work(struct kubelet_metrics *m, enum metric_work w, int64_t since) {
    prom_observe(&m->work[w], work_bounds, mono_ns() - since);
}

void metrics_cgroup(struct kubelet_metrics *m, enum metric_cgroup w, int64_t since) {
    prom_observe(&m->cgroup[w], work_bounds, mono_ns() - since);
}

void metrics_storage(struct kubelet_metrics *m, enum metric_storage w, bool ok, int64_t since) {
    prom_observe(&m->storage[w][ok], storage_bounds, mono_ns() - since);
}

void metrics_relist(struct kubelet_metrics *m, int64_t since) {
    prom_observe(&m->relist, work_bounds, mono_ns() - since);
}

/* ---- containers that ended ---- */

static void count_termination(struct kubelet_metrics *m, enum metric_container kind,
                              const struct core_container_state_terminated *t) {
    struct termination_count *c = NULL;
    pthread_mutex_lock(&m->lock);
    for (size_t i = 0; i < m->n_terminations && !c; i++) {
        struct termination_count *x = &m->terminations[i];
        if (x->kind == kind && x->code == t->exit_code && str_eq(x->reason, str_or_empty(t->reason))) c = x;
    }
    if (!c && m->n_terminations == METRIC_TERMINATIONS_MAX) {
        c = &m->terminations[m->n_terminations - 1];
    } else if (!c) {
        if (m->n_terminations == m->cap_terminations) {
            m->cap_terminations = MAX_OF(2 * m->cap_terminations, (size_t)16);
            m->terminations = xrealloc(m->terminations, m->cap_terminations * sizeof(*m->terminations));
        }
        c = &m->terminations[m->n_terminations++];
        *c = (struct termination_count){.kind = kind, .code = t->exit_code};
        snprintf(c->reason, sizeof(c->reason), "%s", str_or_empty(t->reason));
    }
    c->n++;
    pthread_mutex_unlock(&m->lock);
}

static bool ended_before(const struct core_container_status_vec *last, const char *name) {
    for (size_t i = 0; last && i < last->n; i++)
        if (str_eq(last->items[i].name, name)) return last->items[i].state.terminated != NULL;
    return false;
}

void metrics_terminations(struct kubelet_metrics *m, const struct core_pod_status *last,
                          const struct core_pod_status *now) {
    const struct core_container_status_vec *lists[][2] = {
        [METRIC_CONTAINER] = {&now->container_statuses, last ? &last->container_statuses : NULL},
        [METRIC_INIT] = {&now->init_container_statuses, last ? &last->init_container_statuses : NULL},
        [METRIC_EPHEMERAL] = {&now->ephemeral_container_statuses, last ? &last->ephemeral_container_statuses : NULL}};
    for (int k = 0; k < METRIC_CONTAINER_KINDS; k++)
        for (size_t i = 0; i < lists[k][0]->n; i++) {
            const struct core_container_status *c = &lists[k][0]->items[i];
            if (c->state.terminated && !ended_before(lists[k][1], c->name))
                count_termination(m, (enum metric_container)k, c->state.terminated);
        }
}

void metrics_done(struct kubelet_metrics *m) { free(m->terminations); }

static const char *const container_kinds[] = {"container", "init_container", "ephemeral_container"};

static void write_terminations(struct kubelet_metrics *m, struct buf *b) {
    pthread_mutex_lock(&m->lock);
    if (m->n_terminations)
        prom_head(b, "kubelet_terminated_containers_total", "counter",
                  "Cumulative number of terminated containers, by their kind, exit code and reason");
    for (size_t i = 0; i < m->n_terminations; i++) {
        const struct termination_count *c = &m->terminations[i];
        buf_printf(b, "kubelet_terminated_containers_total{container_type=\"%s\",exit_code=\"%d\",",
                   container_kinds[c->kind], c->code);
        prom_label(b, "reason", c->reason);
        buf_printf(b, "} %llu\n", (unsigned long long)c->n);
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- pods that were refused ---- */

/* Reasons that are counted by name, as upstream bounds them. */
static const char *const rejection_reasons[METRIC_REJECTIONS] = {"AppArmor",
                                                                 "PodOSSelectorNodeLabelDoesNotMatch",
                                                                 "PodOSNotSupported",
                                                                 "InvalidNodeInfo",
                                                                 "InitContainerRestartPolicyForbidden",
                                                                 "SupplementalGroupsPolicyNotSupported",
                                                                 "UnexpectedAdmissionError",
                                                                 "UnknownReason",
                                                                 "UnexpectedPredicateFailureType",
                                                                 "OutOfcpu",
                                                                 "OutOfmemory",
                                                                 "OutOfephemeral-storage",
                                                                 "OutOfpods",
                                                                 "PodLevelResourcesNotSupported",
                                                                 "PodFeatureUnsupported",
                                                                 "Evicted",
                                                                 "SysctlForbidden",
                                                                 "TopologyAffinityError",
                                                                 "NodeShutdown",
                                                                 "VolumeAttachmentLimitExceeded",
                                                                 "OutOfExtendedResources",
                                                                 "Other"};

void metrics_rejected(struct kubelet_metrics *m, const char *reason) {
    size_t known = 0;
    const char *as = str_has_prefix(reason, "OutOf") ? "OutOfExtendedResources" : "Other";
    for (int pass = 0; pass < 2 && !known; pass++)
        for (size_t i = 0; i < METRIC_REJECTIONS && rejection_reasons[i]; i++)
            if (str_eq(rejection_reasons[i], pass ? as : reason)) known = i + 1;
    if (known) m->rejections[known - 1]++;
}

static void write_rejections(const struct kubelet_metrics *m, struct buf *b) {
    prom_head(b, "kubelet_admission_rejections_total", "counter",
              "Cumulative number pod admission rejections by the Kubelet.");
    for (size_t i = 0; i < METRIC_REJECTIONS && rejection_reasons[i]; i++)
        if (m->rejections[i])
            buf_printf(b, "kubelet_admission_rejections_total{reason=\"%s\"} %llu\n", rejection_reasons[i],
                       (unsigned long long)m->rejections[i]);
}

/* ---- what there is now ---- */

static void one(struct buf *b, const char *name, const char *type, const char *help, const char *labels, double v) {
    prom_head(b, name, type, help);
    buf_printf(b, *labels ? "%s{%s} %.10g\n" : "%s%s %.10g\n", name, labels, v);
}

struct population {
    size_t pods, running, containers[3], working[WORKER_GONE + 1], mirrors;
};

static void count(struct kubelet *kl, struct population *p) {
    struct pod_worker **all = pods_all(kl->pods, &p->pods);
    for (size_t i = 0; i < p->pods; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct core_pod_status *st = worker_status(all[i], a);
        _cleanup_object_ struct object *o = worker_pod(all[i]);
        p->running += all[i]->state < WORKER_TERMINATED;
        p->working[all[i]->state]++;
        p->mirrors += pod_is_static(o->obj);
        const struct core_container_status_vec *lists[] = {st ? &st->container_statuses : NULL,
                                                           st ? &st->init_container_statuses : NULL,
                                                           st ? &st->ephemeral_container_statuses : NULL};
        for (size_t l = 0; st && l < ARRAY_LEN(lists); l++)
            for (size_t k = 0; k < lists[l]->n; k++) {
                const struct core_container_state *s = &lists[l]->items[k].state;
                p->containers[s->running ? 0 : s->terminated ? 1 : 2]++;
            }
        worker_unref(all[i]);
    }
    free(all);
}

static void write_population(struct kubelet *kl, struct buf *b) {
    static const char *const states[] = {"running", "exited"};
    static const char *const lifecycles[] = {"sync", "terminating", "terminated"};
    struct population p = {0};
    count(kl, &p);
    char label[200];
    snprintf(label, sizeof(label), "node=\"%.150s\"", kl->node_name);
    one(b, "kubelet_node_name", "gauge", "The node's name. The count is always 1.", label, 1);
    one(b, "kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", "", (double)p.running);
    prom_head(b, "kubelet_running_containers", "gauge", "Number of containers currently running");
    for (size_t i = 0; i < ARRAY_LEN(states); i++)
        buf_printf(b, "kubelet_running_containers{container_state=\"%s\"} %zu\n", states[i], p.containers[i]);
    one(b, "kubelet_desired_pods", "gauge", "The number of pods the kubelet is being instructed to run", "",
        (double)p.pods);
    one(b, "kubelet_active_pods", "gauge", "The number of pods that count against the node's resources", "",
        (double)(p.working[WORKER_SYNC] + p.working[WORKER_TERMINATING]));
    one(b, "kubelet_mirror_pods", "gauge", "The number of pods from manifest files", "", (double)p.mirrors);
    prom_head(b, "kubelet_working_pods", "gauge", "Number of pods the kubelet is working on, by their lifecycle");
    for (size_t i = 0; i < ARRAY_LEN(lifecycles); i++)
        buf_printf(b, "kubelet_working_pods{lifecycle=\"%s\"} %zu\n", lifecycles[i], p.working[i]);
}

/* ---- what was counted ---- */

static void operation_name(enum runtime_method m, char out[64]) {
    const char *p = strrchr(runtime_methods[m].rpc->path, '/') + 1;
    size_t n = 0;
    for (size_t i = 0; p[i] && n + 2 < 64; i++) {
        bool upper = p[i] >= 'A' && p[i] <= 'Z';
        if (upper && i) out[n++] = '_';
        out[n++] = upper ? (char)(p[i] - 'A' + 'a') : p[i];
    }
    out[n] = '\0';
}

static void write_runtime(struct kubelet *kl, struct buf *b) {
    char name[64], label[100];
    static const struct {
        const char *name, *help;
    } rows[] = {{"kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type."},
                {"kubelet_runtime_operations_errors_total",
                 "Cumulative number of runtime operation errors by operation type."}};
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        prom_head(b, rows[k].name, "counter", rows[k].help);
        for (int m = 0; m < RT_METHODS; m++) {
            const struct runtime_count *c = &kl->rt->counts[m];
            if (!c->calls || (k && !c->errors)) continue;
            operation_name((enum runtime_method)m, name);
            buf_printf(b, "%s{operation_type=\"%s\"} %llu\n", rows[k].name, name,
                       (unsigned long long)(k ? c->errors : c->calls));
        }
    }
    prom_head(b, "kubelet_runtime_operations_duration_seconds", "histogram",
              "Duration in seconds of runtime operations.");
    for (int m = 0; m < RT_METHODS; m++) {
        if (!kl->rt->counts[m].calls) continue;
        operation_name((enum runtime_method)m, name);
        snprintf(label, sizeof(label), "operation_type=\"%s\"", name);
        prom_write(b, "kubelet_runtime_operations_duration_seconds", label, &kl->rt->counts[m].duration,
                   metrics_runtime_bounds);
    }
}

static void write_work(const struct kubelet_metrics *m, struct buf *b) {
    prom_head(b, "kubelet_pod_start_duration_seconds", "histogram",
              "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run");
    prom_write(b, "kubelet_pod_start_duration_seconds", "", &m->pod_start, start_bounds);
    prom_head(b, "kubelet_pod_worker_duration_seconds", "histogram", "Duration in seconds to sync a single pod.");
    prom_write(b, "kubelet_pod_worker_duration_seconds", "operation_type=\"sync\"", &m->work[METRIC_SYNC], work_bounds);
    prom_write(b, "kubelet_pod_worker_duration_seconds", "operation_type=\"terminate\"", &m->work[METRIC_TERMINATE],
               work_bounds);
    prom_head(b, "kubelet_pleg_relist_duration_seconds", "histogram",
              "Duration in seconds of reading a pod's state from the runtime.");
    prom_write(b, "kubelet_pleg_relist_duration_seconds", "", &m->relist, work_bounds);
    prom_head(b, "kubelet_cgroup_manager_duration_seconds", "histogram",
              "Duration in seconds for cgroup manager operations.");
    prom_write(b, "kubelet_cgroup_manager_duration_seconds", "operation_type=\"create\"",
               &m->cgroup[METRIC_CGROUP_CREATE], work_bounds);
    prom_write(b, "kubelet_cgroup_manager_duration_seconds", "operation_type=\"destroy\"",
               &m->cgroup[METRIC_CGROUP_DESTROY], work_bounds);
    prom_head(b, "storage_operation_duration_seconds", "histogram", "Storage operation duration");
    static const char *const storage[] = {"volume_mount", "volume_unmount"};
    for (int i = 0; i < METRIC_STORAGE_WORKS; i++)
        for (int ok = 0; ok < 2; ok++) {
            char label[160];
            snprintf(label, sizeof(label),
                     "migrated=\"false\",operation_name=\"%s\",status=\"%s\",volume_plugin=\"kubernetes.io\"",
                     storage[i], ok ? "success" : "fail-unknown");
            prom_write(b, "storage_operation_duration_seconds", label, &m->storage[i][ok], storage_bounds);
        }
}

static void write_started(const struct kubelet_metrics *m, struct buf *b) {
    one(b, "kubelet_started_pods_total", "counter", "Cumulative number of pods started", "", (double)m->pods_started);
    one(b, "kubelet_started_pods_errors_total", "counter", "Cumulative number of errors when starting pods", "",
        (double)m->pods_failed);
    one(b, "kubelet_started_user_namespaced_pods_total", "counter",
        "Cumulative number of pods with user namespaces started", "", (double)m->userns_started);
    one(b, "kubelet_started_user_namespaced_pods_errors_total", "counter",
        "Cumulative number of errors when starting pods with user namespaces", "", (double)m->userns_failed);
    prom_head(b, "kubelet_started_containers_total", "counter", "Cumulative number of containers started");
    for (size_t i = 0; i < ARRAY_LEN(container_kinds); i++)
        buf_printf(b, "kubelet_started_containers_total{container_type=\"%s\"} %llu\n", container_kinds[i],
                   (unsigned long long)m->containers_started[i]);
    prom_head(b, "kubelet_started_containers_errors_total", "counter",
              "Cumulative number of errors when starting containers");
    for (size_t i = 0; i < ARRAY_LEN(container_kinds); i++)
        buf_printf(b, "kubelet_started_containers_errors_total{container_type=\"%s\"} %llu\n", container_kinds[i],
                   (unsigned long long)m->containers_failed[i]);
}

void metrics_write(struct kubelet *kl, struct buf *b) {
    int64_t client, serving;
    write_population(kl, b);
    write_runtime(kl, b);
    write_work(&kl->metrics, b);
    write_started(&kl->metrics, b);
    write_terminations(&kl->metrics, b);
    bootstrap_lives(&kl->cfg, &client, &serving);
    if (client != INT64_MIN)
        one(b, "kubelet_certificate_manager_client_ttl_seconds", "gauge",
            "Gauge of the TTL (time-to-live) of the Kubelet's client certificate in seconds.", "", (double)client);
    if (serving != INT64_MIN)
        one(b, "kubelet_certificate_manager_server_ttl_seconds", "gauge",
            "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate in seconds.", "",
            (double)serving);
    stats_put_volume_metrics(kl, b);
    write_rejections(&kl->metrics, b);
    cm_metrics(kl->cm, b);
    pod_resources_metrics(kl->pod_resources, b);
    prom_build_info(b, CORACLE_VERSION);
    prom_process(b);
}
