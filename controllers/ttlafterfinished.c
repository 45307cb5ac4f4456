/* TTL after finished: deletes jobs some time after their end (upstream pkg/controller/ttlafterfinished). */
#include "job.h"
#include "util.h"

struct ttl_controller {
    struct manager *m;
    struct workqueue *q;
};

static struct ktime end_of(const struct batch_job *j) {
    for (size_t i = 0; i < j->status.conditions.n; i++) {
        const struct batch_job_condition *c = &j->status.conditions.items[i];
        if ((str_eq(c->type, "Complete") || str_eq(c->type, "Failed")) && str_eq(c->status, "True"))
            return c->last_transition_time;
    }
    return (struct ktime){0};
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ttl_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_jobs), key);
    const struct batch_job *j = o ? o->obj : NULL;
    if (!j || !j->spec.ttl_seconds_after_finished || j->metadata.deletion_timestamp.set || !job_is_finished(j))
        return 0;
    int64_t left = *j->spec.ttl_seconds_after_finished * NS_PER_SEC - ktime_diff_ns(ktime_now(), end_of(j));
    if (left > 0) {
        workqueue_add_after(c->q, key, left);
        return 0;
    }
    struct client_delete_opts d = {
        .cause = o->rv, .uid = o->meta->uid, .resource_version = o->rv, .propagation = "Foreground"};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(c->m->client, &client_jobs, j->metadata.namespace, j->metadata.name, &d, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return r;
}

int ttlafterfinished_start(struct manager *m, struct err *e) {
    struct ttl_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "ttl-after-finished", 1, reconcile, c, &client_jobs, NULL);
    manager_watch_keys(m, &client_jobs, c->q);
    return 0;
}
