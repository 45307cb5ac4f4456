/* The running pods of a Job: how many, with which completion indexes, and after which pause. */
#include "job_internal.h"

enum { BURST = 500 };
#define BACKOFF_FIRST (10 * NS_PER_SEC)
#define BACKOFF_MAX (600 * NS_PER_SEC)

static void deletion_failed(void *arg, const struct object *pod) {
    struct jobrun *x = arg;
    deletion_observed(x->c->expect, x->key, pod->meta->uid);
}

int job_remove_active(struct jobrun *x, const struct pod_control *pc, int32_t n, struct err *e) {
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
            if (job_pod_index(was) == index && job_pod_failed(was))
                failures = MAX_OF(failures, job_index_failures(was));
        }
        map_set(x->a, &p->metadata.annotations, FAILURES_NOTE, arena_printf(x->a, "%lld", (long long)failures));
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
        int32_t index = job_pod_index(x->pods.items[i]->obj);
        if (index >= 0 && pod_is_active(x->pods.items[i]->obj)) index_set_add(x->a, &taken, index);
    }
    for (int32_t i = 0; i < total && n < want; i++)
        if (!index_set_has(&x->done, i) && !index_set_has(&x->given_up, i) && !index_set_has(&taken, i)) out[n++] = i;
    return n;
}

static int add_pods(struct jobrun *x, const struct pod_control *pc, int32_t n, struct err *e) {
    struct core_pod pod;
    pod_from_template(x->a, &x->j.spec.template, &pc->owner, &pod);
    job_add_uid(x->a, &pod.metadata.finalizers, FINALIZER);
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

int job_manage_pods(struct jobrun *x, const struct pod_control *pc, struct err *e) {
    int32_t want = job_parallelism(&x->j);
    if (job_suspended(&x->j))
        want = 0;
    else if (x->j.spec.completions)
        want = MIN_OF(want, *x->j.spec.completions - x->succeeded - index_set_count(&x->given_up));
    else if (x->succeeded > 0)
        want = x->active; /* a work queue's end: no new pods */
    if (want < x->active) {
        int r = job_remove_active(x, pc, x->active - want, e);
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
