/* Counting the pods of a Job that ended: each once, whatever crashes in between (see job.c's head). */
#include "job_internal.h"

enum { UNCOUNTED_MAX = 500 };

int32_t job_pod_index(const struct core_pod *p) {
    int64_t i;
    const char *s = str_map_get(&p->metadata.annotations, INDEX_NOTE);
    return s && str_to_i64(s, &i) == 0 && i >= 0 && i <= INT32_MAX ? (int32_t)i : -1;
}

bool job_pod_tracked(const struct core_pod *p) {
    for (size_t i = 0; i < p->metadata.finalizers.n; i++)
        if (str_eq(p->metadata.finalizers.items[i], FINALIZER)) return true;
    return false;
}

static bool in_list(const struct str_vec *v, const char *s) {
    for (size_t i = 0; i < v->n; i++)
        if (str_eq(v->items[i], s)) return true;
    return false;
}

int job_untrack_pod(struct jobrun *x, const struct core_pod *p, struct err *e) {
    const char *text = "{\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"" FINALIZER "\"]}}";
    struct client_opts o = {.cause = x->was->metadata.resource_version};
    _cleanup_err_ struct err pe = {0};
    int r = client_patch(x->c->m->client, x->a, &client_pods, p->metadata.namespace, p->metadata.name,
                         CLIENT_PATCH_STRATEGIC, text, strlen(text), &o, NULL, &pe);
    if (r == 0 || client_err_not_found(&pe)) return 0;
    err_move(e, &pe);
    return r;
}

void job_add_uid(struct arena *a, struct str_vec *v, const char *uid) {
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
        if (p && job_pod_tracked(p))
            keep.items[keep.n++] = v->items[i];
        else if (!(x->indexed && success))
            ++*counter; /* an index was counted through completedIndexes */
    }
    *v = keep;
}

static bool pod_succeeded(const struct core_pod *p) { return str_eq(p->status.phase, "Succeeded"); }
/* A pod that is being deleted and never ran to its end counts as failed, once it ended or if it never
 * started. */
bool job_pod_failed(const struct core_pod *p) {
    return str_eq(p->status.phase, "Failed") ||
           (p->metadata.deletion_timestamp.set && !pod_succeeded(p) && str_empty(p->spec.node_name));
}

static void note_failure_time(struct jobrun *x, const struct core_pod *p) {
    struct ktime t = p->metadata.deletion_timestamp;
    for (size_t i = 0; i < p->status.container_statuses.n; i++) {
        const struct core_container_state_terminated *s = p->status.container_statuses.items[i].state.terminated;
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
            const char *want =
                str_empty(r->on_pod_conditions.items[k].status) ? "True" : r->on_pod_conditions.items[k].status;
            if (!c || !str_eq(c->status, want)) continue;
            if (str_eq(r->action, "FailJob"))
                x->fail_message = arena_printf(x->a, "Pod %s/%s has condition %s matching FailJob rule at index %zu",
                                               p->metadata.namespace, p->metadata.name, c->type, i);
            return r->action;
        }
    }
    return "Count";
}

/* How often a pod's index has failed, this pod included. */
int64_t job_index_failures(const struct core_pod *p) {
    int64_t n = 0;
    const char *s = str_map_get(&p->metadata.annotations, FAILURES_NOTE);
    if (s) str_to_i64(s, &n);
    return n + 1;
}

static void count_index_failure(struct jobrun *x, const struct core_pod *p, const char *action) {
    int32_t index = job_pod_index(p);
    if (!x->indexed || !x->j.spec.backoff_limit_per_index || index < 0) return;
    bool over = job_index_failures(p) > *x->j.spec.backoff_limit_per_index;
    if (!str_eq(action, "Ignore") && (over || str_eq(action, "FailIndex")) && !index_set_has(&x->done, index))
        index_set_add(x->a, &x->given_up, index);
}

static void count_pod(struct jobrun *x, const struct core_pod *p, struct batch_uncounted_terminated_pods *u) {
    const char *uid = p->metadata.uid;
    bool listed = in_list(&u->succeeded, uid) || in_list(&u->failed, uid);
    bool replace_failed_only = str_eq(x->j.spec.pod_replacement_policy, "Failed");
    if (pod_succeeded(p)) {
        int32_t index = job_pod_index(p);
        if (x->indexed && (index < 0 || (x->j.spec.completions && index >= *x->j.spec.completions))) return;
        if (x->indexed) index_set_add(x->a, &x->done, index);
        if (job_pod_tracked(p) && !listed && u->succeeded.n < UNCOUNTED_MAX) job_add_uid(x->a, &u->succeeded, uid);
    } else if (job_pod_failed(p)) {
        if (job_pod_tracked(p) && !listed) {
            const char *action = policy_action(x, p);
            if (str_eq(action, "FailJob")) x->fail_reason = "PodFailurePolicy";
            count_index_failure(x, p, action);
            if (!str_eq(action, "Ignore") && u->failed.n < UNCOUNTED_MAX) job_add_uid(x->a, &u->failed, uid);
            note_failure_time(x, p);
        }
    } else if (p->metadata.deletion_timestamp.set) {
        x->terminating++;
        if (replace_failed_only) { /* its replacement waits for its end */
            x->active++;
            x->awaited++;
        }
    } else {
        x->active++;
        x->ready += pod_is_ready(p);
        for (size_t i = 0; i < p->status.container_statuses.n; i++)
            x->restarts += p->status.container_statuses.items[i].restart_count;
    }
}

void job_count(struct jobrun *x) {
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
int job_release_counted(struct jobrun *x, struct err *e) {
    const struct batch_uncounted_terminated_pods *u = x->j.status.uncounted_terminated_pods;
    for (size_t i = 0; i < x->pods.n; i++) {
        const struct core_pod *p = x->pods.items[i]->obj;
        if (!job_pod_tracked(p)) continue;
        bool listed = in_list(&u->succeeded, p->metadata.uid) || in_list(&u->failed, p->metadata.uid);
        bool ended = pod_succeeded(p) || job_pod_failed(p);
        if (!listed && !ended && !(x->was->metadata.deletion_timestamp.set)) continue;
        int r = job_untrack_pod(x, p, e);
        if (r < 0) return r;
    }
    return 0;
}
