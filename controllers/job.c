/* Job controller: runs pods until enough have succeeded (upstream pkg/controller/job).
 *
 * Pods carry a finalizer, so that none can vanish before it is counted. Counting takes two writes: the uids
 * of pods that ended go into status.uncountedTerminatedPods; then the finalizers are taken off; and once a
 * pod listed there has none any more (or is gone) its uid leaves the list and the counter goes up, in one
 * write. A crash at any point loses nothing and counts nothing twice.
 *
 * An Indexed job gives each pod a completion index. With backoffLimitPerIndex an index can fail for good
 * while others go on; how often it failed is noted on its latest pod. */
#include "job.h"

#include "pkg/api/batch.h"
#include "pkg/base/map.h"
#include "util.h"

enum { WORKERS = 3, BURST = 500, UNCOUNTED_MAX = 500 };
#define FINALIZER "batch.kubernetes.io/job-tracking"
#define INDEX_NOTE "batch.kubernetes.io/job-completion-index"
#define FAILURES_NOTE "batch.kubernetes.io/job-index-failure-count"
#define BACKOFF_FIRST (10 * NS_PER_SEC)
#define BACKOFF_MAX (600 * NS_PER_SEC)

struct job_controller {
    struct manager *m;
    struct workqueue *q;
    struct expectations *expect;
    struct event_recorder *events;
};

struct jobrun {
    struct job_controller *c;
    struct arena *a;
    const char *key;
    const struct batch_job *was;
    struct batch_job j;
    struct claimed pods;
    int32_t active, ready, terminating, succeeded, failed; /* the last two with what is not counted yet */
    int32_t restarts;
    struct ktime last_failure;
    int32_t failures_in_row;
    struct index_set done;     /* Indexed: indexes that succeeded */
    struct index_set given_up; /* and those that failed for good */
    const char *success_reason, *success_message;
    bool indexed;
    const char *fail_reason, *fail_message;
    int64_t wait;
};

/* ---- small questions ---- */

static int32_t pod_index(const struct core_pod *p) {
    int64_t i;
    const char *s = str_map_get(&p->metadata.annotations, INDEX_NOTE);
    return s && str_to_i64(s, &i) == 0 && i >= 0 && i <= INT32_MAX ? (int32_t)i : -1;
}

static bool has_finalizer(const struct core_pod *p) {
    for (size_t i = 0; i < p->metadata.finalizers.n; i++)
        if (str_eq(p->metadata.finalizers.items[i], FINALIZER)) return true;
    return false;
}

static bool in_list(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

static const struct batch_job_condition *job_condition(const struct batch_job *j, const char *type) {
    for (size_t i = 0; i < j->status.conditions.n; i++)
        if (str_eq(j->status.conditions.items[i].type, type) &&
            str_eq(j->status.conditions.items[i].status, "True"))
            return &j->status.conditions.items[i];
    return NULL;
}

bool job_is_finished(const struct batch_job *j) {
    return job_condition(j, "Complete") || job_condition(j, "Failed");
}
static bool suspended(const struct batch_job *j) { return j->spec.suspend && *j->spec.suspend; }
static int32_t parallelism(const struct batch_job *j) {
    return j->spec.parallelism ? *j->spec.parallelism : 1;
}

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

/* ---- counting ---- */

static int take_finalizer_off(struct jobrun *x, const struct core_pod *p, struct err *e) {
    const char *text = "{\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"" FINALIZER "\"]}}";
    struct client_opts o = {.cause = x->was->metadata.resource_version};
    _cleanup_err_ struct err pe = {0};
    int r = client_patch(x->c->m->client, x->a, &client_pods, p->metadata.namespace, p->metadata.name,
                         CLIENT_PATCH_STRATEGIC, text, strlen(text), &o, NULL, &pe);
    if (r == 0 || client_err_not_found(&pe)) return 0;
    err_move(e, &pe);
    return r;
}

static void add_uid(struct arena *a, struct str_vec *v, const char *uid) {
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n] = uid;
    v->items = items;
    v->n++;
}

/* Moves uids whose pod no longer holds the finalizer from the list into the counter. */
static void settle(struct jobrun *x, struct str_vec *v, int32_t *counter, bool success) {
    struct str_vec keep = {.items = arena_alloc(x->a, (v->n + 1) * sizeof(*keep.items))};
    for (size_t i = 0; i < v->n; i++) {
        const struct core_pod *p = NULL;
        for (size_t k = 0; k < x->pods.n; k++)
            if (str_eq(x->pods.items[k]->meta->uid, v->items[i])) p = x->pods.items[k]->obj;
        if (p && has_finalizer(p))
            keep.items[keep.n++] = v->items[i];
        else if (!(x->indexed && success))
            ++*counter; /* an index was counted through completedIndexes */
    }
    *v = keep;
}

static bool pod_succeeded(const struct core_pod *p) { return str_eq(p->status.phase, "Succeeded"); }
/* A pod that is being deleted and never ran to its end counts as failed, once it ended or if it never
 * started. */
static bool pod_failed(const struct core_pod *p) {
    return str_eq(p->status.phase, "Failed") ||
           (p->metadata.deletion_timestamp.set && !pod_succeeded(p) && str_empty(p->spec.node_name));
}

static void note_failure_time(struct jobrun *x, const struct core_pod *p) {
    struct ktime t = p->metadata.deletion_timestamp;
    for (size_t i = 0; i < p->status.container_statuses.n; i++) {
        const struct core_container_state_terminated *s =
            p->status.container_statuses.items[i].state.terminated;
        if (s && ktime_cmp(s->finished_at, t) > 0) t = s->finished_at;
    }
    if (!t.set) t = ktime_now();
    if (ktime_cmp(t, x->last_failure) > 0) x->last_failure = t;
}

static bool exit_code_matches(const struct batch_pod_failure_policy_on_exit_codes_requirement *q,
                              const struct core_container_status *s) {
    if (!s->state.terminated || s->state.terminated->exit_code == 0) return false;
    if (q->container_name && !str_eq(q->container_name, s->name)) return false;
    bool in = false;
    for (size_t i = 0; i < q->values.n; i++) in |= q->values.items[i] == s->state.terminated->exit_code;
    return str_eq(q->operator, "In") ? in : !in;
}

/* What the pod failure policy says about a failed pod: "FailJob", "Ignore", "Count", ... */
static const char *policy_action(struct jobrun *x, const struct core_pod *p) {
    const struct batch_pod_failure_policy *f = x->j.spec.pod_failure_policy;
    for (size_t i = 0; f && i < f->rules.n; i++) {
        const struct batch_pod_failure_policy_rule *r = &f->rules.items[i];
        for (size_t k = 0; r->on_exit_codes && k < p->status.container_statuses.n; k++)
            if (exit_code_matches(r->on_exit_codes, &p->status.container_statuses.items[k])) {
                if (str_eq(r->action, "FailJob"))
                    x->fail_message = arena_printf(
                        x->a,
                        "Container %s for pod %s/%s failed with exit code %d matching FailJob rule at index "
                        "%zu",
                        p->status.container_statuses.items[k].name, p->metadata.namespace, p->metadata.name,
                        p->status.container_statuses.items[k].state.terminated->exit_code, i);
                return r->action;
            }
        for (size_t k = 0; k < r->on_pod_conditions.n; k++) {
            const struct core_pod_condition *c = pod_condition(p, r->on_pod_conditions.items[k].type);
            const char *want = str_empty(r->on_pod_conditions.items[k].status)
                                   ? "True"
                                   : r->on_pod_conditions.items[k].status;
            if (!c || !str_eq(c->status, want)) continue;
            if (str_eq(r->action, "FailJob"))
                x->fail_message =
                    arena_printf(x->a, "Pod %s/%s has condition %s matching FailJob rule at index %zu",
                                 p->metadata.namespace, p->metadata.name, c->type, i);
            return r->action;
        }
    }
    return "Count";
}

/* How often a pod's index has failed, this pod included. */
static int64_t index_failures(const struct core_pod *p) {
    int64_t n = 0;
    const char *s = str_map_get(&p->metadata.annotations, FAILURES_NOTE);
    if (s) str_to_i64(s, &n);
    return n + 1;
}

static void count_index_failure(struct jobrun *x, const struct core_pod *p, const char *action) {
    int32_t index = pod_index(p);
    if (!x->indexed || !x->j.spec.backoff_limit_per_index || index < 0) return;
    bool over = index_failures(p) > *x->j.spec.backoff_limit_per_index;
    if (!str_eq(action, "Ignore") && (over || str_eq(action, "FailIndex")) && !index_set_has(&x->done, index))
        index_set_add(x->a, &x->given_up, index);
}

static void count_pod(struct jobrun *x, const struct core_pod *p, struct batch_uncounted_terminated_pods *u) {
    const char *uid = p->metadata.uid;
    bool listed = in_list(&u->succeeded, uid) || in_list(&u->failed, uid);
    bool replace_failed_only = str_eq(x->j.spec.pod_replacement_policy, "Failed");
    if (pod_succeeded(p)) {
        int32_t index = pod_index(p);
        if (x->indexed && (index < 0 || (x->j.spec.completions && index >= *x->j.spec.completions))) return;
        if (x->indexed) index_set_add(x->a, &x->done, index);
        if (has_finalizer(p) && !listed && u->succeeded.n < UNCOUNTED_MAX) add_uid(x->a, &u->succeeded, uid);
    } else if (pod_failed(p)) {
        if (has_finalizer(p) && !listed) {
            const char *action = policy_action(x, p);
            if (str_eq(action, "FailJob")) x->fail_reason = "PodFailurePolicy";
            count_index_failure(x, p, action);
            if (!str_eq(action, "Ignore") && u->failed.n < UNCOUNTED_MAX) add_uid(x->a, &u->failed, uid);
            note_failure_time(x, p);
        }
    } else if (p->metadata.deletion_timestamp.set) {
        x->terminating++;
        if (replace_failed_only) x->active++; /* its replacement waits for its end */
    } else {
        x->active++;
        x->ready += pod_is_ready(p);
        for (size_t i = 0; i < p->status.container_statuses.n; i++)
            x->restarts += p->status.container_statuses.items[i].restart_count;
    }
}

static void count(struct jobrun *x) {
    struct batch_uncounted_terminated_pods *u = arena_zalloc(x->a, sizeof(*u));
    if (x->j.status.uncounted_terminated_pods) *u = *x->j.status.uncounted_terminated_pods;
    settle(x, &u->succeeded, &x->j.status.succeeded, true);
    settle(x, &u->failed, &x->j.status.failed, false);
    index_set_parse(x->a, x->j.status.completed_indexes, &x->done);
    index_set_parse(x->a, x->j.status.failed_indexes, &x->given_up);
    for (size_t i = 0; i < x->pods.n; i++) count_pod(x, x->pods.items[i]->obj, u);
    x->j.status.uncounted_terminated_pods = u;
    if (x->indexed) x->j.status.succeeded = index_set_count(&x->done);
    x->succeeded = x->indexed ? x->j.status.succeeded : x->j.status.succeeded + (int32_t)u->succeeded.n;
    x->failed = x->j.status.failed + (int32_t)u->failed.n;
}

/* After the status with the uids is written, the pods may go. */
static int release_counted(struct jobrun *x, struct err *e) {
    const struct batch_uncounted_terminated_pods *u = x->j.status.uncounted_terminated_pods;
    for (size_t i = 0; i < x->pods.n; i++) {
        const struct core_pod *p = x->pods.items[i]->obj;
        if (!has_finalizer(p)) continue;
        bool listed = in_list(&u->succeeded, p->metadata.uid) || in_list(&u->failed, p->metadata.uid);
        bool ended = pod_succeeded(p) || pod_failed(p);
        if (!listed && !ended && !(x->was->metadata.deletion_timestamp.set)) continue;
        int r = take_finalizer_off(x, p, e);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- running pods ---- */

static void deletion_failed(void *arg, const struct object *pod) {
    struct jobrun *x = arg;
    deletion_observed(x->c->expect, x->key, pod->meta->uid);
}

static int remove_active(struct jobrun *x, const struct pod_control *pc, int32_t n, struct err *e) {
    struct object **list = arena_alloc(x->a, (x->pods.n + 1) * sizeof(*list));
    int32_t k = 0;
    for (int pass = 0; pass < 2; pass++) /* the unready first */
        for (size_t i = 0; i < x->pods.n && k < n; i++)
            if (pod_is_active(x->pods.items[i]->obj) && pod_is_ready(x->pods.items[i]->obj) == (pass == 1))
                list[k++] = x->pods.items[i];
    for (int32_t i = 0; i < k; i++) expect_deletion(x->c->expect, x->key, list[i]->meta->uid);
    return pod_control_delete_many(pc, x->a, list, (size_t)k, deletion_failed, x, e) ? -EIO : 0;
}

static void give_index(struct jobrun *x, struct core_pod *p, int32_t index) {
    const char *text = arena_printf(x->a, "%d", index);
    if (x->j.spec.backoff_limit_per_index) {
        int64_t failures = 0;
        for (size_t i = 0; i < x->pods.n; i++) {
            const struct core_pod *was = x->pods.items[i]->obj;
            if (pod_index(was) == index && pod_failed(was)) failures = MAX_OF(failures, index_failures(was));
        }
        map_set(x->a, &p->metadata.annotations, FAILURES_NOTE,
                arena_printf(x->a, "%lld", (long long)failures));
    }
    map_set(x->a, &p->metadata.annotations, INDEX_NOTE, text);
    map_set(x->a, &p->metadata.labels, INDEX_NOTE, text);
    p->metadata.generate_name = arena_printf(x->a, "%s-%d-", x->j.metadata.name, index);
    p->spec.hostname = arena_printf(x->a, "%s-%d", x->j.metadata.name, index);
    struct core_env_var *env = arena_zalloc(x->a, sizeof(*env));
    env->name = "JOB_COMPLETION_INDEX";
    env->value_from = arena_zalloc(x->a, sizeof(*env->value_from));
    env->value_from->field_ref = arena_zalloc(x->a, sizeof(*env->value_from->field_ref));
    env->value_from->field_ref->field_path = "metadata.labels['" INDEX_NOTE "']";
    struct core_container_vec *lists[] = {&p->spec.containers, &p->spec.init_containers};
    for (size_t l = 0; l < ARRAY_LEN(lists); l++) {
        if (!lists[l]->n) continue;
        lists[l]->items = arena_memdup(x->a, lists[l]->items, lists[l]->n * sizeof(*lists[l]->items));
        for (size_t i = 0; i < lists[l]->n; i++) {
            struct core_env_var_vec *v = &lists[l]->items[i].env;
            struct core_env_var *items = arena_alloc(x->a, (v->n + 1) * sizeof(*items));
            if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
            items[v->n] = *env;
            v->items = items;
            v->n++;
        }
    }
}

/* The lowest indexes that neither succeeded nor have a pod. */
static int32_t free_indexes(struct jobrun *x, int32_t want, int32_t *out) {
    struct index_set taken = {0};
    int32_t n = 0, total = x->j.spec.completions ? *x->j.spec.completions : 0;
    for (size_t i = 0; i < x->pods.n; i++) {
        int32_t index = pod_index(x->pods.items[i]->obj);
        if (index >= 0 && pod_is_active(x->pods.items[i]->obj)) index_set_add(x->a, &taken, index);
    }
    for (int32_t i = 0; i < total && n < want; i++)
        if (!index_set_has(&x->done, i) && !index_set_has(&x->given_up, i) && !index_set_has(&taken, i))
            out[n++] = i;
    return n;
}

static int add_pods(struct jobrun *x, const struct pod_control *pc, int32_t n, struct err *e) {
    struct core_pod pod;
    pod_from_template(x->a, &x->j.spec.template, &pc->owner, &pod);
    add_uid(x->a, &pod.metadata.finalizers, FINALIZER);
    n = MIN_OF(n, BURST);
    if (!x->indexed) {
        expect_creations(x->c->expect, x->key, n);
        _cleanup_err_ struct err ce = {0};
        size_t made = pod_control_create_many(pc, x->a, &pod, (size_t)n, &ce);
        for (size_t i = made; i < (size_t)n; i++) creation_observed(x->c->expect, x->key);
        x->active += (int32_t)made;
        if (made == (size_t)n || client_err_namespace_terminating(&ce)) return 0;
        int code = ce.code;
        err_move(e, &ce);
        return code;
    }
    int32_t *indexes = arena_alloc(x->a, ((size_t)n + 1) * sizeof(*indexes));
    n = free_indexes(x, n, indexes);
    expect_creations(x->c->expect, x->key, n);
    int result = 0;
    for (int32_t i = 0; i < n; i++) {
        struct core_pod p = pod;
        give_index(x, &p, indexes[i]);
        int r = result < 0 ? result : pod_control_create(pc, x->a, &p, e);
        if (r < 0)
            creation_observed(x->c->expect, x->key);
        else
            x->active++;
        result = MIN_OF(result, r);
    }
    return result;
}

/* After failures new pods wait: 10 s, doubled each time. */
static int64_t backoff_left(struct jobrun *x) {
    if (x->failed <= 0 || !x->last_failure.set) return 0;
    if (x->j.spec.backoff_limit_per_index)
        return MAX_OF(BACKOFF_FIRST - ktime_diff_ns(ktime_now(), x->last_failure), (int64_t)0);
    unsigned n = (unsigned)MIN_OF(x->failed - 1, 10);
    int64_t wait = MIN_OF(BACKOFF_FIRST << n, BACKOFF_MAX);
    return MAX_OF(wait - ktime_diff_ns(ktime_now(), x->last_failure), (int64_t)0);
}

static int manage_pods(struct jobrun *x, const struct pod_control *pc, struct err *e) {
    int32_t want = parallelism(&x->j);
    if (suspended(&x->j))
        want = 0;
    else if (x->j.spec.completions)
        want = MIN_OF(want, *x->j.spec.completions - x->succeeded - index_set_count(&x->given_up));
    else if (x->succeeded > 0)
        want = x->active; /* a work queue's end: no new pods */
    if (want < x->active) {
        int r = remove_active(x, pc, x->active - want, e);
        if (r == 0) x->active = MAX_OF(want, 0);
        return r;
    }
    if (want == x->active) return 0;
    int64_t left = backoff_left(x);
    if (left > 0) {
        x->wait = MIN_OF(x->wait, left);
        return 0;
    }
    return add_pods(x, pc, want - x->active, e);
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
    if (s->active_deadline_seconds && x->j.status.start_time.set && !suspended(&x->j)) {
        int64_t left =
            *s->active_deadline_seconds * NS_PER_SEC - ktime_diff_ns(ktime_now(), x->j.status.start_time);
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
                for (int32_t n = wanted.items[k].from; n <= wanted.items[k].to; n++)
                    have += index_set_has(&x->done, n);
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
            event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Normal", "Completed",
                             "Job completed");
        }
    }
}

static void note_suspension(struct jobrun *x) {
    bool noted = job_condition(&x->j, "Suspended") != NULL;
    if (suspended(&x->j) && !noted) {
        set_condition(x, "Suspended", "True", "JobSuspended", "Job suspended");
        x->j.status.start_time = (struct ktime){0};
        event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Normal", "Suspended", "Job suspended");
    } else if (!suspended(&x->j) && noted) {
        set_condition(x, "Suspended", "False", "JobResumed", "Job resumed");
        x->j.status.start_time = ktime_now_s();
        event_record_obj(x->c->events, &client_jobs, &x->j.metadata, "Normal", "Resumed", "Job resumed");
    }
}

static int write_status(struct jobrun *x, struct err *e) {
    struct batch_job_status *s = &x->j.status;
    s->active = x->active;
    s->ready = arena_memdup(x->a, &x->ready, sizeof(x->ready));
    s->terminating = arena_memdup(x->a, &x->terminating, sizeof(x->terminating));
    if (x->indexed) s->completed_indexes = index_set_format(x->a, &x->done);
    if (x->indexed && x->j.spec.backoff_limit_per_index)
        s->failed_indexes = index_set_format(x->a, &x->given_up);
    if (api_equal(&api_batch_job_status, s, &x->was->status)) return 0;
    struct client_opts o = {.cause = x->was->metadata.resource_version};
    return client_update_status(x->c->m->client, x->a, &client_jobs, x->j.metadata.namespace, &x->j, &o, NULL,
                                e);
}

static int run_job(struct jobrun *x, struct err *e) {
    struct owner owner = {&client_jobs, &x->was->metadata};
    struct pod_control pc = {x->c->m, x->c->events, owner, x->was->metadata.resource_version};
    int r = claim_objects(x->c->m, x->a, &client_pods, &owner, x->j.spec.selector, &x->pods, e);
    if (r < 0) return r;
    x->indexed = str_eq(x->j.spec.completion_mode, "Indexed");
    count(x);
    if (x->was->metadata.deletion_timestamp.set) return release_counted(x, e);
    if (!x->j.status.start_time.set && !suspended(&x->j)) x->j.status.start_time = ktime_now_s();
    bool met = expectations_met(x->c->expect, x->key);
    const struct batch_job_condition *target = job_condition(&x->j, "FailureTarget");
    if (target) {
        x->fail_reason = target->reason;
        x->fail_message = target->message;
    }
    judge(x);
    int mr = 0;
    if (x->fail_reason || is_complete(x) || job_condition(&x->j, "SuccessCriteriaMet")) {
        if (x->active && met) mr = remove_active(x, &pc, x->active, e);
        finish(x);
    } else {
        note_suspension(x);
        if (met) mr = manage_pods(x, &pc, e);
    }
    _cleanup_err_ struct err se = {0};
    r = write_status(x, &se);
    if (r == 0) r = release_counted(x, &se);
    if (mr < 0) return mr;
    if (r < 0) err_move(e, &se);
    return r;
}

/* A job that ended: pods that come to their end later only lose the finalizer. */
static int after_end(struct jobrun *x, struct err *e) {
    struct owner owner = {&client_jobs, &x->was->metadata};
    int r = claim_objects(x->c->m, x->a, &client_pods, &owner, x->j.spec.selector, &x->pods, e);
    for (size_t i = 0; r == 0 && i < x->pods.n; i++)
        if (has_finalizer(x->pods.items[i]->obj) && !pod_is_active(x->pods.items[i]->obj))
            r = take_finalizer_off(x, x->pods.items[i]->obj, e);
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
        if (!ref || !str_eq(ref->kind, "Job") || !str_eq(ref->name, name) || !has_finalizer(l.items[i]->obj))
            continue;
        int r = take_finalizer_off(&x, l.items[i]->obj, e);
        if (r < 0) return r;
    }
    return 0;
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
    if (!str_empty(x.j.spec.managed_by) && !str_eq(x.j.spec.managed_by, "kubernetes.io/job-controller"))
        return 0;
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

/* An orphan may be a Job's to adopt, or adopt again. */
static void wake_for_orphan(struct job_controller *c, const struct object *pod) {
    if (meta_controller_of(pod->meta) || pod->meta->deletion_timestamp.set) return;
    _cleanup_object_list_ struct object_list jobs = {0};
    informer_list(manager_informer(c->m, &client_jobs), pod->meta->namespace, &jobs);
    for (size_t i = 0; i < jobs.n; i++) {
        const struct batch_job *j = jobs.items[i]->obj;
        if (label_selector_matches(j->spec.selector, &pod->meta->labels)) workqueue_add(c->q, jobs.items[i]->key);
    }
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
    manager_watch_keys(m, &client_jobs, c->q);
    struct informer_handler h = {pod_added, pod_updated, pod_deleted, c};
    informer_add_handler(manager_informer(m, &client_pods), &h);
    return 0;
}
