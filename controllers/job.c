/* Job controller: runs pods until enough have succeeded (upstream pkg/controller/job).
 *
 * Pods carry a finalizer, so that none can vanish before it is counted. Counting takes two writes: the uids
 * of pods that ended go into status.uncountedTerminatedPods; then the finalizers are taken off; and once a
 * pod listed there has none any more (or is gone) its uid leaves the list and the counter goes up, in one
 * write. A crash at any point loses nothing and counts nothing twice.
 *
 * An Indexed job gives each pod a completion index. With backoffLimitPerIndex an index can fail for good
 * while others go on; how often it failed is noted on its latest pod. */
#include "job_internal.h"

enum { WORKERS = 3 };

/* ---- small questions ---- */

static const struct batch_job_condition *job_condition(const struct batch_job *j, const char *type) {
    for (size_t i = 0; i < j->status.conditions.n; i++)
        if (str_eq(j->status.conditions.items[i].type, type) && str_eq(j->status.conditions.items[i].status, "True"))
            return &j->status.conditions.items[i];
    return NULL;
}

bool job_is_finished(const struct batch_job *j) { return job_condition(j, "Complete") || job_condition(j, "Failed"); }

static void set_condition(struct jobrun *x, const char *type, const char *status, const char *reason,
                          const char *message) {
    struct batch_job_condition_vec *v = &x->j.status.conditions;
    struct ktime now = ktime_now_s();
    struct batch_job_condition c = {.type = type,
                                    .status = status,
                                    .reason = reason,
                                    .message = message,
                                    .last_probe_time = now,
                                    .last_transition_time = now};
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i].type, type)) {
            if (!str_eq(v->items[i].status, status)) v->items[i] = c;
            return;
        }
    struct batch_job_condition *items = arena_alloc(x->a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n] = c;
    v->items = items;
    v->n++;
}

/* ---- the end ---- */

static void judge(struct jobrun *x) {
    const struct batch_job_spec *s = &x->j.spec;
    int32_t limit = s->backoff_limit ? *s->backoff_limit : 6;
    bool restarts = str_eq(s->template.spec.restart_policy, "OnFailure") && x->restarts > limit;
    if (x->fail_reason) return;
    if (x->failed > limit || (restarts && limit >= 0)) {
        x->fail_reason = "BackoffLimitExceeded";
        x->fail_message = "Job has reached the specified backoff limit";
        return;
    }
    int32_t lost = index_set_count(&x->given_up);
    if (s->max_failed_indexes && lost > *s->max_failed_indexes) {
        x->fail_reason = "MaxFailedIndexesExceeded";
        x->fail_message = "Job has exceeded the specified maximal number of failed indexes";
        return;
    }
    if (lost && s->completions && lost + x->succeeded >= *s->completions && x->active == 0) {
        x->fail_reason = "FailedIndexes";
        x->fail_message = "Job has failed indexes";
        return;
    }
    if (s->active_deadline_seconds && x->j.status.start_time.set && !job_suspended(&x->j)) {
        int64_t left = *s->active_deadline_seconds * NS_PER_SEC - ktime_diff_ns(ktime_now(), x->j.status.start_time);
        if (left <= 0) {
            x->fail_reason = "DeadlineExceeded";
            x->fail_message = "Job was active longer than specified deadline";
        } else {
            x->wait = MIN_OF(x->wait, left);
        }
    }
}

/* A success policy may be content with some of the indexes. */
static bool policy_content(struct jobrun *x) {
    const struct batch_success_policy *p = x->j.spec.success_policy;
    for (size_t i = 0; p && x->indexed && i < p->rules.n; i++) {
        const struct batch_success_policy_rule *r = &p->rules.items[i];
        struct index_set wanted;
        index_set_parse(x->a, r->succeeded_indexes, &wanted);
        int32_t have = 0;
        if (r->succeeded_indexes) {
            for (size_t k = 0; k < wanted.n; k++)
                for (int32_t n = wanted.items[k].from; n <= wanted.items[k].to; n++) have += index_set_has(&x->done, n);
        } else {
            have = x->succeeded;
        }
        int32_t need = r->succeeded_count ? *r->succeeded_count : index_set_count(&wanted);
        if (have < need) continue;
        x->success_reason = "SuccessPolicy";
        x->success_message = arena_printf(x->a, "Matched rules at index %zu", i);
        return true;
    }
    return false;
}

static bool is_complete(struct jobrun *x) {
    if (policy_content(x)) return true;
    if (x->j.spec.completions) return x->succeeded >= *x->j.spec.completions;
    return x->succeeded > 0 && x->active == 0;
}

static bool all_counted(const struct jobrun *x) {
    const struct batch_uncounted_terminated_pods *u = x->j.status.uncounted_terminated_pods;
    return u->succeeded.n == 0 && u->failed.n == 0;
}

/* First the intention is written, the end itself when every pod has ended and is counted. */
static void finish(struct jobrun *x) {
    bool settled = all_counted(x) && x->active == 0 && x->terminating == 0;
    if (x->fail_reason) {
        set_condition(x, "FailureTarget", "True", x->fail_reason, x->fail_message);
        if (settled) set_condition(x, "Failed", "True", x->fail_reason, x->fail_message);
        if (settled)
            event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Warning", x->fail_reason, "%s",
                             x->fail_message);
    } else {
        const struct batch_job_condition *met = job_condition(&x->j, "SuccessCriteriaMet");
        const char *reason = met ? met->reason : x->success_reason ? x->success_reason : "CompletionsReached";
        const char *message = met                 ? met->message
                              : x->success_reason ? x->success_message
                                                  : "Reached expected number of succeeded pods";
        set_condition(x, "SuccessCriteriaMet", "True", reason, message);
        if (settled) {
            set_condition(x, "Complete", "True", reason, message);
            x->j.status.completion_time = ktime_now_s();
            event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Normal", "Completed", "Job completed");
        }
    }
}

static void note_suspension(struct jobrun *x) {
    bool noted = job_condition(&x->j, "Suspended") != NULL;
    if (job_suspended(&x->j) && !noted) {
        set_condition(x, "Suspended", "True", "JobSuspended", "Job suspended");
        x->j.status.start_time = (struct ktime){0};
        event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Normal", "Suspended", "Job suspended");
    } else if (!job_suspended(&x->j) && noted) {
        set_condition(x, "Suspended", "False", "JobResumed", "Job resumed");
        x->j.status.start_time = ktime_now_s();
        event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Normal", "Resumed", "Job resumed");
    }
}

static int write_status(struct jobrun *x, struct err *e) {
    struct batch_job_status *s = &x->j.status;
    s->active = MAX_OF(x->active - x->awaited, 0);
    s->ready = arena_memdup(x->a, &x->ready, sizeof(x->ready));
    s->terminating = arena_memdup(x->a, &x->terminating, sizeof(x->terminating));
    if (x->indexed) s->completed_indexes = index_set_format(x->a, &x->done);
    if (x->indexed && x->j.spec.backoff_limit_per_index) s->failed_indexes = index_set_format(x->a, &x->given_up);
    if (api_equal(&api_batch_job_status, s, &x->was->status)) return 0;
    struct client_opts o = {.cause = x->was->metadata.resource_version};
    return client_update_status(x->c->m->client, x->a, &client_jobs, x->j.metadata.namespace, &x->j, &o, NULL, e);
}

static int run_job(struct jobrun *x, struct err *e) {
    struct owner owner = {&client_jobs, &x->was->metadata};
    struct pod_control pc = {x->c->m, x->c->events, owner, x->was->metadata.resource_version};
    int r = claim_objects(x->c->m, x->a, &client_pods, &owner, x->j.spec.selector, &x->pods, e);
    if (r < 0) return r;
    x->indexed = str_eq(x->j.spec.completion_mode, "Indexed");
    job_count(x);
    if (x->was->metadata.deletion_timestamp.set) return job_release_counted(x, e);
    if (!x->j.status.start_time.set && !job_suspended(&x->j)) x->j.status.start_time = ktime_now_s();
    bool met = expectations_met(x->c->expect, x->key);
    const struct batch_job_condition *target = job_condition(&x->j, "FailureTarget");
    if (target) {
        x->fail_reason = target->reason;
        x->fail_message = target->message;
    }
    judge(x);
    int mr = 0;
    if (x->fail_reason || is_complete(x) || job_condition(&x->j, "SuccessCriteriaMet")) {
        if (x->active && met) mr = job_remove_active(x, &pc, x->active, e);
        finish(x);
    } else {
        note_suspension(x);
        if (met) mr = job_manage_pods(x, &pc, e);
    }
    _cleanup_err_ struct err se = {0};
    r = write_status(x, &se);
    if (r == 0) r = job_release_counted(x, &se);
    if (mr < 0) return mr;
    if (r < 0) err_move(e, &se);
    return r;
}

/* A job that ended: pods that come to their end later only lose the finalizer. */
static int after_end(struct jobrun *x, struct err *e) {
    struct owner owner = {&client_jobs, &x->was->metadata};
    int r = claim_objects(x->c->m, x->a, &client_pods, &owner, x->j.spec.selector, &x->pods, e);
    for (size_t i = 0; r == 0 && i < x->pods.n; i++)
        if (job_pod_tracked(x->pods.items[i]->obj) && !pod_is_active(x->pods.items[i]->obj))
            r = job_untrack_pod(x, x->pods.items[i]->obj, e);
    return r;
}

/* Pods of a job that is gone must not be held for ever. */
static int orphaned(struct job_controller *c, struct arena *a, const char *key, struct err *e) {
    const char *ns, *name;
    key_split(a, key, &ns, &name);
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_pods), ns, &l);
    struct batch_job none = {0};
    struct jobrun x = {.c = c, .a = a, .key = key, .was = &none};
    for (size_t i = 0; i < l.n; i++) {
        const struct meta_owner_reference *ref = meta_controller_of(l.items[i]->meta);
        if (!ref || !str_eq(ref->kind, "Job") || !str_eq(ref->name, name) || !job_pod_tracked(l.items[i]->obj))
            continue;
        int r = job_untrack_pod(&x, l.items[i]->obj, e);
        if (r < 0) return r;
    }
    return 0;
}

/* A pod that no controller owns any more: it was released, or somebody took the reference off. */
static int release_pod(void *arg, struct arena *a, const char *key, struct err *e) {
    struct job_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_pods), key);
    if (!o || meta_controller_of(o->meta) || !job_pod_tracked(o->obj)) return 0;
    struct batch_job none = {0};
    struct jobrun x = {.c = c, .a = a, .key = key, .was = &none};
    return job_untrack_pod(&x, o->obj, e);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct job_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_jobs), key);
    if (!o) {
        expectations_forget(c->expect, key);
        return orphaned(c, a, key, e);
    }
    struct jobrun x = {.c = c, .a = a, .key = key, .was = o->obj, .wait = INT64_MAX};
    x.j = *x.was;
    if (!str_empty(x.j.spec.managed_by) && !str_eq(x.j.spec.managed_by, "kubernetes.io/job-controller")) return 0;
    int r = job_is_finished(&x.j) ? after_end(&x, e) : run_job(&x, e);
    if (x.wait != INT64_MAX) workqueue_add_after(c->q, key, x.wait + 10 * NS_PER_MS);
    claimed_done(&x.pods);
    return r;
}

/* ---- what leads to a reconcile ---- */

static char *owner_key(const struct object *pod) {
    const struct meta_owner_reference *ref = meta_controller_of(pod->meta);
    if (!ref || !str_eq(ref->kind, "Job")) return NULL;
    return xasprintf("%s/%s", str_or_empty(pod->meta->namespace), ref->name);
}

static const struct meta_label_selector *selector_of(const struct object *o) {
    return ((const struct batch_job *)o->obj)->spec.selector;
}

/* An orphan may be a Job's to adopt, or adopt again. Until then nobody counts it: it must not be held. */
static void wake_for_orphan(struct job_controller *c, const struct object *pod) {
    if (meta_controller_of(pod->meta)) return;
    if (job_pod_tracked(pod->obj)) workqueue_add(c->orphans, pod->key);
    queue_add_adopters(c->q, c->m, &client_jobs, selector_of, pod);
}

static void pod_added(void *arg, struct object *o) {
    struct job_controller *c = arg;
    _cleanup_free_ char *key = owner_key(o);
    if (!key) {
        wake_for_orphan(c, o);
        return;
    }
    creation_observed(c->expect, key);
    workqueue_add(c->q, key);
}

static void pod_updated(void *arg, struct object *old, struct object *o) {
    struct job_controller *c = arg;
    _cleanup_free_ char *was = owner_key(old), *key = owner_key(o);
    if (was && !str_eq(was, key)) workqueue_add(c->q, was);
    if (!key) {
        wake_for_orphan(c, o);
        return;
    }
    if (o->meta->deletion_timestamp.set) deletion_observed(c->expect, key, o->meta->uid);
    workqueue_add(c->q, key);
}

static void pod_deleted(void *arg, struct object *o) {
    struct job_controller *c = arg;
    _cleanup_free_ char *key = owner_key(o);
    if (!key) return;
    deletion_observed(c->expect, key, o->meta->uid);
    workqueue_add(c->q, key);
}

int job_start(struct manager *m, struct err *e) {
    struct job_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "job-controller");
    c->expect = expectations_new(m);
    c->q = manager_queue(m, "job", WORKERS, reconcile, c, &client_jobs, &client_pods, NULL);
    c->orphans = manager_queue(m, "job-orphan-pods", 1, release_pod, c, &client_jobs, &client_pods, NULL);
    manager_watch_keys(m, &client_jobs, c->q);
    struct informer_handler h = {pod_added, pod_updated, pod_deleted, c};
    informer_add_handler(manager_informer(m, &client_pods), &h);
    return 0;
}
