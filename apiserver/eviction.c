/* pods/eviction: a delete that asks the PodDisruptionBudgets first (upstream: registry/core/pod/rest/eviction.go). A
 * budget that allows it is charged before the pod is deleted: its disruptionsAllowed goes down and the pod is noted in
 * disruptedPods, so that evictions at the same time do not exceed it. */
#include "apiserver/options.h"
#include "apiserver/subresources.h"
#include "apiserver/write.h"

static bool needs_no_budget(const struct json *pod) {
    const char *phase = json_as_str(json_at(pod, "status", "phase", NULL));
    return json_at(pod, "metadata", "deletionTimestamp", NULL) || str_eq(phase, "Succeeded") ||
           str_eq(phase, "Failed") || str_eq(phase, "Pending");
}

static bool selects(const struct json *sel, const struct json *labels) {
    struct json *x, *v;
    JSON_FOREACH_MEMBER(m, json_get(sel, "matchLabels")) {
        if (!str_eq(json_as_str(m->value), json_get_str(labels, m->key))) return false;
    }
    JSON_FOREACH(x, json_get(sel, "matchExpressions")) {
        const char *op = json_get_str(x, "operator"),
                   *have = json_get_str(labels, str_or_empty(json_get_str(x, "key")));
        bool in = false;
        JSON_FOREACH(v, json_get(x, "values")) in |= have && str_eq(have, json_as_str(v));
        if (str_eq(op, "In") && !in) return false;
        if (str_eq(op, "NotIn") && in) return false;
        if (str_eq(op, "Exists") && !have) return false;
        if (str_eq(op, "DoesNotExist") && have) return false;
    }
    return true;
}

/* A budget that allows nothing tells no time, so that clients are told at once and do not try again by themselves. */
static int too_many(struct err *e, const char *name, const char *why, int after) {
    err_status(e, 429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.");
    err_cause_add(e, "DisruptionBudget", "", "The disruption budget %s %s", name, why);
    if (e) e->retry_after_seconds = after;
    return -EBUSY;
}

/* Takes one disruption from the budget: 0, WRITE_RETRY, or 429. */
static int charge(struct request *q, const struct resource *pdbs, const struct object *o, bool dry_run, struct err *e) {
    struct arena *a = q->a;
    char now[KTIME_MAX];
    struct json *v = object_tree(a, o), *status = json_ensure_object(a, v, "status");
    const char *name = object_name(o);
    int64_t allowed = json_get_int(status, "disruptionsAllowed", 0);
    if (json_get_int(status, "observedGeneration", 0) < json_as_int(json_at(v, "metadata", "generation", NULL), 0))
        return too_many(e, name, "is still being processed by the server.", 10);
    if (allowed <= 0)
        return too_many(e, name,
                        arena_printf(a, "needs %lld healthy pods and has %lld currently",
                                     (long long)json_get_int(status, "desiredHealthy", 0),
                                     (long long)json_get_int(status, "currentHealthy", 0)),
                        0);
    struct write w;
    struct object *out = NULL;
    write_init(&w, q->s, a, q, pdbs, "status", q->ns, name, RULES_UPDATE);
    w.c.dry_run = dry_run;
    json_set_int(a, status, "disruptionsAllowed", allowed - 1);
    json_set_str(a, json_ensure_object(a, status, "disruptedPods"), q->name, ktime_format(w.c.now, now));
    int rc = write_raw(&w, v, o, &out, e);
    object_unref(out);
    return rc;
}

static struct json *condition_of(const struct json *pod, const char *type) {
    struct json *c;
    JSON_FOREACH(c, json_at(pod, "status", "conditions", NULL))
        if (str_eq(json_get_str(c, "type"), type)) return c;
    return NULL;
}

/* A pod that is not ready is none of those that the budget counts on. */
static bool not_counted_on(const struct json *pod, const struct json *budget) {
    if (str_eq(json_get_str(condition_of(pod, "Ready"), "status"), "True")) return false;
    if (str_eq(json_as_str(json_at(budget, "spec", "unhealthyPodEvictionPolicy", NULL)), "AlwaysAllow")) return true;
    const struct json *status = json_get(budget, "status");
    int64_t desired = json_get_int(status, "desiredHealthy", 0);
    return desired > 0 && json_get_int(status, "currentHealthy", 0) >= desired;
}

static int ask_budgets(struct request *q, const struct json *pod, bool dry_run, struct err *e) {
    const struct resource *pdbs = resource_find(q->s->resources, "policy", "v1", "poddisruptionbudgets");
    const struct json *labels = json_at(pod, "metadata", "labels", NULL);
    for (int i = 0; i < WRITE_TRIES; i++) {
        _cleanup_wc_list_ struct wc_list l = {0};
        struct object *found = NULL;
        if (i && watchcache_sync(q->s->cache, e)) return e->code;
        watchcache_list(q->s->cache, pdbs, q->ns, NULL, NULL, 0, &l);
        for (size_t j = 0; j < l.n; j++) {
            const struct json *budget = object_tree(q->a, l.items[j]);
            const struct json *sel = json_at(budget, "spec", "selector", NULL);
            if (!sel || !selects(sel, labels)) continue;
            if (found)
                return err_status(
                    e, 500, "InternalError",
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.");
            found = l.items[j];
        }
        if (found && not_counted_on(pod, object_tree(q->a, found))) return 0;
        int rc = found ? charge(q, pdbs, found, dry_run, e) : 0;
        if (rc != WRITE_RETRY) return rc;
    }
    return err_status(e, 409, "Conflict", "the pod disruption budget is being changed; please try again");
}

static void read_delete_options(struct request *q, const struct json *ev, struct delete_request *d, bool *dry_run) {
    const struct json *o = json_get(ev, "deleteOptions");
    struct json *x;
    *d = (struct delete_request){
        .o = {.grace_period_seconds = json_get_int(o, "gracePeriodSeconds", -1), .orphan_dependents = -1}};
    d->o.propagation_policy = json_get_str(o, "propagationPolicy");
    d->uid = json_as_str(json_at(o, "preconditions", "uid", NULL));
    d->rv = json_as_str(json_at(o, "preconditions", "resourceVersion", NULL));
    JSON_FOREACH(x, json_get(o, "dryRun")) *dry_run |= str_eq(json_as_str(x), "All");
}

/* The condition that tells a disruption from a failure (a Job's podFailurePolicy asks for it). *old becomes the pod that
 * has it. 0, WRITE_RETRY, or an error. */
static int mark_disrupted(struct request *q, struct delete_request *d, struct object **old, struct err *e) {
    char now[KTIME_MAX];
    struct arena *a = q->a;
    struct json *pod = object_tree(a, *old), *c = condition_of(pod, "DisruptionTarget");
    if (str_eq(json_get_str(c, "status"), "True")) return 0;
    struct write w;
    struct object *out = NULL;
    write_init(&w, q->s, a, q, q->res, "status", q->ns, q->name, RULES_UPDATE);
    if (!c) {
        c = json_object(a);
        json_append(a, json_ensure_array(a, json_ensure_object(a, pod, "status"), "conditions"), c);
    }
    json_set_str(a, c, "type", "DisruptionTarget");
    if (json_at(pod, "status", "observedGeneration", NULL))
        json_set_int(a, c, "observedGeneration", json_as_int(json_at(pod, "metadata", "generation", NULL), 0));
    json_set_str(a, c, "status", "True");
    json_set(a, c, "lastProbeTime", json_null(a));
    json_set_str(a, c, "lastTransitionTime", ktime_format(w.c.now, now));
    json_set_str(a, c, "reason", "EvictionByEvictionAPI");
    json_set_str(a, c, "message", "Eviction API: evicting");
    int rc = write_raw(&w, pod, *old, &out, e);
    if (rc) return rc;
    object_unref(*old);
    *old = out;
    if (d->rv) d->rv = arena_printf(a, "%lld", (long long)out->rev); /* it held until now */
    return 0;
}

void handle_eviction(struct request *q) {
    _cleanup_err_ struct err e = {0};
    struct json *ev = NULL;
    struct delete_request d;
    bool dry_run = false;
    int rc = body_of_write(q, api_type_find("policy", "v1", "Eviction"), "policy/v1", "Eviction", "CreateOptions",
                           &dry_run, &ev, &e);
    const char *name = json_as_str(json_at(ev, "metadata", "name", NULL));
    if (!rc && (str_empty(name) || !str_eq(name, q->name)))
        rc = err_status(&e, 400, "BadRequest", "name in URL does not match name in Eviction object");
    const struct json *asked = json_at(ev, "deleteOptions", "dryRun", NULL);
    if (!rc && dry_run && json_len(asked) && !str_eq(json_as_str(json_item(asked, 0)), "All"))
        rc = err_status(&e, 500, "", "Non-matching dry-run options in request and content");
    if (!rc && json_get(ev, "deleteOptions")) rc = options_check_delete(json_get(ev, "deleteOptions"), &e);
    read_delete_options(q, ev, &d, &dry_run);
    static const struct rules_kind kind = {"policy", "v1", "Eviction", "pods", true};
    if (!rc) rc = write_admit_body(q, RULES_CREATE, &kind, "eviction", dry_run, ev, NULL, &e);
    bool charged = false;
    for (int i = 0; !rc; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, q->res, q->ns, q->name, i > 0);
        struct object *out = NULL;
        struct write w;
        bool gone;
        if (!old) rc = err_not_found(&e, q->res, q->name);
        const struct json *pod = old ? object_tree(q->a, old) : NULL;
        if (!rc && !charged && !needs_no_budget(pod)) {
            rc = ask_budgets(q, pod, dry_run, &e);
            charged = !rc;
        }
        if (rc) break;
        write_init(&w, q->s, q->a, q, q->res, NULL, q->ns, q->name, RULES_DELETE);
        w.c.dry_run = dry_run;
        w.c.no_extensions = true;
        if (!dry_run && !json_at(pod, "metadata", "deletionTimestamp", NULL)) {
            rc = write_preconditions(&w, &d, old, &e);
            if (!rc) rc = mark_disrupted(q, &d, &old, &e);
        }
        if (!rc) rc = write_delete(&w, &d, old, &out, &gone, &e);
        object_unref(out);
        if (rc > 0 && i < WRITE_TRIES) {
            rc = 0;
            continue;
        }
        if (rc > 0) rc = err_conflict(&e, q->res, q->name, "the object has been modified; please try again");
        break;
    }
    if (rc)
        respond_err(q, &e);
    else
        respond_success(q, 201, NULL);
}
