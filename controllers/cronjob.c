/* CronJob controller: makes Jobs by the clock (upstream pkg/controller/cronjob). */
#include "job.h"
#include "schedule.h"
#include "util.h"

enum { WORKERS = 2, MISSED_MAX = 100 };

struct cron_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
};

struct cronrun {
    struct cron_controller *c;
    struct arena *a;
    const struct batch_cron_job *was;
    struct batch_cron_job j;
    struct object_list jobs; /* that it controls */
    struct cron_schedule schedule;
    struct zone *zone;
};

static struct core_object_reference ref_of(struct arena *a, const struct meta_object_meta *m) {
    return (struct core_object_reference){.kind = "Job",
                                          .api_version = "batch/v1",
                                          .namespace = m->namespace,
                                          .name = arena_strdup(a, m->name),
                                          .uid = arena_strdup(a, m->uid),
                                          .resource_version = arena_strdup(a, m->resource_version)};
}

static const char *end_type(const struct batch_job *j) {
    for (size_t i = 0; i < j->status.conditions.n; i++) {
        const struct batch_job_condition *c = &j->status.conditions.items[i];
        if (str_eq(c->status, "True") && (str_eq(c->type, "Complete") || str_eq(c->type, "Failed"))) return c->type;
    }
    return NULL;
}

/* ---- keeping the status ---- */

/* A job that was active and is not in the cache: kept while the server knows it, as the cache may be behind. */
static int keep_unless_missing(struct cronrun *x, const struct core_object_reference *ref,
                               struct core_object_reference_vec *keep, struct err *e) {
    struct batch_job live;
    _cleanup_err_ struct err ge = {0};
    for (size_t i = 0; i < x->jobs.n; i++)
        if (str_eq(x->jobs.items[i]->meta->uid, ref->uid)) return 0;
    int r = client_get(x->c->m->client, x->a, &client_jobs, ref->namespace, ref->name, &live, &ge);
    if (r < 0 && !client_err_not_found(&ge)) {
        err_move(e, &ge);
        return r;
    }
    if (r == 0)
        keep->items[keep->n++] = *ref;
    else
        event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Normal", "MissingJob",
                         "Active job went missing: %s", ref->name);
    return 0;
}

static int refresh_active(struct cronrun *x, struct err *e) {
    struct core_object_reference_vec keep = {
        .items = arena_alloc(x->a, (x->jobs.n + x->j.status.active.n + 1) * sizeof(*keep.items))};
    for (size_t i = 0; i < x->jobs.n; i++) {
        const struct batch_job *j = x->jobs.items[i]->obj;
        bool listed = false;
        for (size_t k = 0; k < x->j.status.active.n; k++)
            listed |= str_eq(x->j.status.active.items[k].uid, j->metadata.uid);
        const char *end = end_type(j);
        if (!end) {
            keep.items[keep.n++] = ref_of(x->a, &j->metadata);
            continue;
        }
        if (listed)
            event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Normal", "SawCompletedJob",
                             "Saw completed job: %s, condition: %s", j->metadata.name, end);
        if (str_eq(end, "Complete") && ktime_cmp(j->status.completion_time, x->j.status.last_successful_time) > 0)
            x->j.status.last_successful_time = j->status.completion_time;
    }
    for (size_t k = 0; k < x->j.status.active.n; k++) {
        int r = keep_unless_missing(x, &x->j.status.active.items[k], &keep, e);
        if (r < 0) return r;
    }
    x->j.status.active = keep;
    return 0;
}

static int by_start(const void *p, const void *q) {
    const struct batch_job *a = (*(struct object *const *)p)->obj, *b = (*(struct object *const *)q)->obj;
    int d = ktime_cmp(a->status.start_time, b->status.start_time);
    return d ? d : strcmp(a->metadata.name, b->metadata.name);
}

/* Deletes the oldest ended jobs of a kind beyond the limit. */
static int trim(struct cronrun *x, const char *type, const int32_t *limit, int32_t dflt, struct err *e) {
    struct object **l = arena_alloc(x->a, (x->jobs.n + 1) * sizeof(*l));
    size_t n = 0, keep = (size_t)MAX_OF(limit ? *limit : dflt, 0);
    for (size_t i = 0; i < x->jobs.n; i++)
        if (str_eq(end_type(x->jobs.items[i]->obj), type) && !x->jobs.items[i]->meta->deletion_timestamp.set)
            l[n++] = x->jobs.items[i];
    qsort(l, n, sizeof(*l), by_start);
    for (size_t i = 0; i + keep < n; i++) {
        struct client_delete_opts o = {
            .cause = x->was->metadata.resource_version, .uid = l[i]->meta->uid, .propagation = "Background"};
        _cleanup_err_ struct err de = {0};
        int r = client_delete(x->c->m->client, &client_jobs, l[i]->meta->namespace, l[i]->meta->name, &o, &de);
        if (r < 0 && !client_err_not_found(&de)) {
            err_move(e, &de);
            return r;
        }
        if (r == 0)
            event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Normal", "SuccessfulDelete",
                             "Deleted job %s", l[i]->meta->name);
    }
    return 0;
}

/* ---- starting ---- */

/* The latest time that is due and not served, 0 when none. */
static int64_t due_time(struct cronrun *x, int64_t now) {
    int64_t since = x->j.status.last_schedule_time.set ? x->j.status.last_schedule_time.sec
                                                       : x->was->metadata.creation_timestamp.sec;
    int64_t deadline = x->j.spec.starting_deadline_seconds ? *x->j.spec.starting_deadline_seconds : -1, due = 0;
    if (deadline >= 0) since = MAX_OF(since, now - deadline - 1);
    int missed = 0;
    for (int64_t t = cron_next(&x->schedule, x->zone, since); t && t <= now; t = cron_next(&x->schedule, x->zone, t)) {
        due = t;
        if (++missed == MISSED_MAX) { /* a long time away: go on near the present */
            event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Warning", "TooManyMissedTimes",
                             "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or "
                             "check clock skew");
            t = MAX_OF(t, now - 2 * 3600);
        }
    }
    return due;
}

static int replace_active(struct cronrun *x, struct err *e) {
    for (size_t i = 0; i < x->jobs.n; i++) {
        if (end_type(x->jobs.items[i]->obj)) continue;
        struct client_delete_opts o = {.cause = x->was->metadata.resource_version, .propagation = "Background"};
        _cleanup_err_ struct err de = {0};
        int r = client_delete(x->c->m->client, &client_jobs, x->jobs.items[i]->meta->namespace,
                              x->jobs.items[i]->meta->name, &o, &de);
        if (r < 0 && !client_err_not_found(&de)) {
            err_move(e, &de);
            return r;
        }
    }
    x->j.status.active.n = 0;
    return 0;
}

static int start_job(struct cronrun *x, int64_t due, struct err *e) {
    struct arena *a = x->a;
    struct owner owner = {&client_cronjobs, &x->was->metadata};
    struct batch_job job = {.spec = x->j.spec.job_template.spec};
    char when[KTIME_MAX];
    job.metadata.name = arena_printf(a, "%s-%lld", x->was->metadata.name, (long long)(due / 60));
    job.metadata.namespace = x->was->metadata.namespace;
    job.metadata.labels = x->j.spec.job_template.metadata.labels;
    job.metadata.annotations = x->j.spec.job_template.metadata.annotations;
    job.metadata.owner_references.items = owner_ref_new(a, &owner, true);
    job.metadata.owner_references.n = 1;
    ktime_format((struct ktime){.sec = due, .set = true}, when);
    map_set(a, &job.metadata.annotations, "batch.kubernetes.io/cronjob-scheduled-timestamp", when);
    struct client_opts o = {.cause = x->was->metadata.resource_version};
    _cleanup_err_ struct err ce = {0};
    struct batch_job made;
    int r = client_create(x->c->m->client, a, &client_jobs, job.metadata.namespace, &job, &o, &made, &ce);
    if (r < 0 && client_err_namespace_terminating(&ce)) return 0;
    if (r < 0 && !client_err_exists(&ce)) {
        event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Warning", "FailedCreate",
                         "Error creating job: %s", ce.msg);
        err_move(e, &ce);
        return r;
    }
    if (r == 0) {
        event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Normal", "SuccessfulCreate",
                         "Created job %s", job.metadata.name);
        x->j.status.active.items[x->j.status.active.n++] = ref_of(a, &made.metadata);
    }
    x->j.status.last_schedule_time = (struct ktime){.sec = due, .set = true};
    return 0;
}

static int maybe_start(struct cronrun *x, struct err *e) {
    if ((x->j.spec.suspend && *x->j.spec.suspend) || x->was->metadata.deletion_timestamp.set) return 0;
    int64_t now = ktime_now().sec, due = due_time(x, now);
    bool busy = x->j.status.active.n > 0;
    if (!due) return 0;
    if (busy && str_eq(x->j.spec.concurrency_policy, "Forbid")) {
        event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Normal", "JobAlreadyActive",
                         "Not starting job because prior execution is running and concurrency policy is Forbid");
        return 0;
    }
    if (busy && str_eq(x->j.spec.concurrency_policy, "Replace")) {
        int r = replace_active(x, e);
        if (r < 0) return r;
    }
    return start_job(x, due, e);
}

/* ---- reconcile ---- */

static int run(struct cronrun *x, const char *key, struct err *e) {
    _cleanup_err_ struct err pe = {0};
    if (cron_parse(x->j.spec.schedule, &x->schedule, &pe) < 0 ||
        (!str_empty(x->j.spec.time_zone) && zone_load(x->j.spec.time_zone, &x->zone, &pe) < 0)) {
        event_record_obj(x->c->events, &client_cronjobs, &x->was->metadata, "Warning", "UnparseableSchedule", "%s",
                         pe.msg);
        return 0; /* nothing to do until it is changed */
    }
    struct informer *inf = manager_informer(x->c->m, &client_jobs);
    informer_by_index(inf, informer_add_index(inf, index_by_controller_uid), x->was->metadata.uid, &x->jobs);
    int r = refresh_active(x, e);
    if (r == 0) r = maybe_start(x, e);
    if (r == 0 && !api_equal(&api_batch_cron_job_status, &x->j.status, &x->was->status)) {
        struct client_opts o = {.cause = x->was->metadata.resource_version};
        r = client_update_status(x->c->m->client, x->a, &client_cronjobs, x->j.metadata.namespace, &x->j, &o, NULL, e);
    }
    if (r == 0) r = trim(x, "Complete", x->j.spec.successful_jobs_history_limit, 3, e);
    if (r == 0) r = trim(x, "Failed", x->j.spec.failed_jobs_history_limit, 1, e);
    int64_t now_ns = ktime_unix_ns(ktime_now()), next = cron_next(&x->schedule, x->zone, now_ns / NS_PER_SEC);
    if (next) workqueue_add_after(x->c->q, key, next * NS_PER_SEC - now_ns + 50 * NS_PER_MS);
    return r;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct cron_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_cronjobs), key);
    if (!o) return 0;
    struct cronrun x = {.c = c, .a = a, .was = o->obj};
    x.j = *x.was;
    int r = run(&x, key, e);
    object_list_done(&x.jobs);
    zone_free(x.zone);
    return r;
}

static void job_changed(void *arg, const struct object *o) {
    struct cron_controller *c = arg;
    queue_add_controller_of(c->q, o, "CronJob");
}

int cronjob_start(struct manager *m, struct err *e) {
    struct cron_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "cronjob-controller");
    c->q = manager_queue(m, "cronjob", WORKERS, reconcile, c, &client_cronjobs, &client_jobs, NULL);
    manager_watch_keys(m, &client_cronjobs, c->q);
    manager_watch(m, &client_jobs, job_changed, c);
    return 0;
}
