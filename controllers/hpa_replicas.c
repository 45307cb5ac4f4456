/* From samples to a number of replicas (upstream replica_calculator.go). The rule is
 *
 *     replicas = ceil(pods * usage / target)
 *
 * unless usage is within the tolerance of the target. What is not known damps it: on the way up, pods without a sample
 * and pods that have just started count as idle; on the way down, those without a sample count as using all they may.
 * A change that this turns into its opposite is none. */
#include <math.h>

#include "hpa.h"
#include "pkg/api/quantity.h"

enum standing { STANDING_READY, STANDING_UNREADY, STANDING_MISSING, STANDING_IGNORED };

struct entry {
    const struct core_pod *pod;
    enum standing standing;
    bool counted; /* has a value, sampled or assumed */
    int64_t value, request;
};

struct usage {
    size_t n;
    int64_t mean;
    int32_t utilization;
    double ratio;
};

static bool within(const struct hpa_tolerance *t, double ratio) { return ratio >= 1 - t->down && ratio <= 1 + t->up; }

static int32_t to_replicas(double x) {
    double up = ceil(x);
    return up >= INT32_MAX ? INT32_MAX : up <= 0 ? 0 : (int32_t)up;
}

/* A sample of a pod's start says nothing about its work. */
static bool starting_up(const struct hpa_calc *c, const struct core_pod *p, const struct hpa_sample *s) {
    const struct core_pod_condition *ready = pod_condition(p, "Ready");
    if (!ready || !p->status.start_time.set) return true;
    bool unready = str_eq(ready->status, "False");
    if (ktime_cmp(ktime_add_ns(p->status.start_time, c->cpu_initialization_ns), c->now) > 0)
        return unready || ktime_cmp(s->at, ktime_add_ns(ready->last_transition_time, s->window_ns)) < 0;
    /* past that time, only a pod that has never been ready */
    return unready &&
           ktime_cmp(ktime_add_ns(p->status.start_time, c->readiness_delay_ns), ready->last_transition_time) > 0;
}

static enum standing standing_of(const struct hpa_calc *c, const struct core_pod *p, const struct hpa_sample *s) {
    if (p->metadata.deletion_timestamp.set || str_eq(p->status.phase, "Failed")) return STANDING_IGNORED;
    if (str_eq(p->status.phase, "Pending")) return STANDING_UNREADY;
    if (!s) return STANDING_MISSING;
    return str_eq(c->resource, "cpu") && starting_up(c, p, s) ? STANDING_UNREADY : STANDING_READY;
}

/* ---- requests ---- */

static int add_requests(const struct hpa_calc *c, const struct core_pod *p, const struct core_container_vec *v,
                        bool sidecars_only, bool lenient, int64_t *sum, struct err *e) {
    for (size_t i = 0; i < v->n; i++) {
        const struct core_container *x = &v->items[i];
        if (sidecars_only && !str_eq(x->restart_policy, "Always")) continue;
        if (c->container && !str_eq(c->container, x->name)) continue;
        const char *q = str_map_get(&x->resources.requests, c->resource);
        if (!q && !lenient)
            return err_set(e, -EINVAL, "missing request for %s in container %s of Pod %s", c->resource, x->name,
                           p->metadata.name);
        *sum += quantity_str_milli(q);
    }
    return 0;
}

static int request_of(const struct hpa_calc *c, const struct core_pod *p, int64_t *out, struct err *e) {
    const struct core_resource_requirements *whole = p->spec.resources;
    bool by_pod = !c->container && whole && whole->requests.n;
    const char *q = by_pod ? str_map_get(&whole->requests, c->resource) : NULL;
    *out = quantity_str_milli(q);
    if (q) return 0;
    int r = add_requests(c, p, &p->spec.containers, false, by_pod, out, e);
    if (r == 0) r = add_requests(c, p, &p->spec.init_containers, true, by_pod, out, e);
    return r;
}

/* ---- the calculation ---- */

static int entries_make(struct arena *a, const struct hpa_calc *c, const struct hpa_samples *s, struct entry **out,
                        struct err *e) {
    struct entry *v = arena_zalloc(a, (c->n_pods + 1) * sizeof(*v));
    size_t counted = 0;
    for (size_t i = 0; i < c->n_pods; i++) {
        const struct hpa_sample *sample = NULL;
        for (size_t k = 0; k < s->n && !sample; k++)
            if (str_eq(s->items[k].pod, c->pods[i]->metadata.name)) sample = &s->items[k];
        v[i].pod = c->pods[i];
        v[i].standing = standing_of(c, c->pods[i], sample);
        v[i].counted = v[i].standing == STANDING_READY;
        if (sample) v[i].value = sample->value;
        counted += v[i].counted;
        int r = c->utilization ? request_of(c, c->pods[i], &v[i].request, e) : 0;
        if (r < 0) return r;
    }
    if (c->n_pods == 0) return err_set(e, -EINVAL, "no pods returned by selector while calculating replica count");
    if (!counted) return err_set(e, -EINVAL, "did not receive metrics for targeted pods (pods might be unready)");
    *out = v;
    return 0;
}

static int measure(const struct hpa_calc *c, const struct entry *v, struct usage *out, struct err *e) {
    __int128 total = 0, requests = 0;
    out->n = 0;
    for (size_t i = 0; i < c->n_pods; i++) {
        if (!v[i].counted) continue;
        total += v[i].value;
        requests += v[i].request;
        out->n++;
    }
    out->mean = (int64_t)(total / (int64_t)out->n);
    if (!c->utilization) {
        out->ratio = (double)out->mean / (double)c->target;
        return 0;
    }
    if (requests == 0) return err_set(e, -EINVAL, "no metrics returned matched known pods");
    __int128 percent = total * 100 / requests;
    out->utilization = percent > INT32_MAX ? INT32_MAX : (int32_t)percent;
    out->ratio = (double)out->utilization / (double)c->target;
    return 0;
}

/* Values for pods that have none: what keeps the change small. True when any was assumed. */
static bool assume(const struct hpa_calc *c, struct entry *v, double ratio) {
    bool any = false;
    for (size_t i = 0; i < c->n_pods; i++) {
        struct entry *x = &v[i];
        if (x->standing == STANDING_UNREADY && ratio > 1) {
            x->value = 0;
        } else if (x->standing == STANDING_MISSING) {
            any = true;
            if (ratio == 1) continue;
            int64_t all = c->utilization ? x->request * MAX_OF(100, c->target) / 100 : c->target;
            x->value = ratio < 1 ? all : 0;
        } else {
            continue;
        }
        x->counted = any = true;
    }
    return any;
}

int hpa_replicas_by_pods(struct arena *a, const struct hpa_calc *c, const struct hpa_samples *s, struct hpa_count *out,
                         struct err *e) {
    struct entry *v = NULL;
    struct usage first = {0}, second = {0};
    int r = entries_make(a, c, s, &v, e);
    if (r == 0) r = measure(c, v, &first, e);
    if (r < 0) return r;
    *out = (struct hpa_count){c->current, first.utilization, first.mean};
    if (!assume(c, v, first.ratio)) {
        if (!within(&c->tolerance, first.ratio)) out->replicas = to_replicas(first.ratio * (double)first.n);
        return 0;
    }
    if ((r = measure(c, v, &second, e)) < 0) return r;
    bool turned = (first.ratio < 1 && second.ratio > 1) || (first.ratio > 1 && second.ratio < 1);
    if (turned || within(&c->tolerance, second.ratio)) return 0;
    int32_t n = to_replicas(second.ratio * (double)second.n);
    if ((second.ratio < 1 && n > c->current) || (second.ratio > 1 && n < c->current)) return 0;
    out->replicas = n;
    return 0;
}

int32_t hpa_replicas_by_ratio(const struct hpa_calc *c, double ratio) {
    if (c->current == 0) return to_replicas(ratio);
    if (within(&c->tolerance, ratio)) return c->current;
    size_t ready = 0;
    for (size_t i = 0; i < c->n_pods; i++)
        ready += str_eq(c->pods[i]->status.phase, "Running") && pod_is_ready(c->pods[i]);
    return to_replicas(ratio * (double)ready);
}

int32_t hpa_replicas_by_share(const struct hpa_calc *c, int64_t value, int32_t replicas) {
    double ratio = (double)value / ((double)c->target * (double)replicas);
    return within(&c->tolerance, ratio) ? replicas : to_replicas((double)value / (double)c->target);
}
