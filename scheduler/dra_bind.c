/* Writing down which devices a pod got, before it is bound: allocation and reservation of its claims.
 *
 * The cycle decides (dra_bind) and counts the decision at once as allocated; a job carries it to the API server on one of a
 * few threads, whose calls block. When all claims are written, and the devices are ready where drivers make that a
 * condition, the pod is bound; when anything fails, reservations are taken back and the pod is looked at again. An
 * allocation that was written stays with its claim: the next attempt uses it. Upstream: plugins/dynamicresources
 * (Reserve, PreBind, Unreserve, PostFilter). */
#include <pthread.h>

#include "dra_cycle.h"
#include "pkg/api/meta.h"

enum { WORKERS = 4, CONFLICTS_MAX = 5, PARKED_POLL_MS = 1000 };

struct job_claim {
    const char *key;                                     /* under which the allocation is pending */
    struct object *o;                                    /* newest version known here; NULL: to be created */
    const struct resource_allocation_result *allocation; /* to write; NULL: it has one */
    const struct resource_resource_claim *special;       /* to be created, for extended resources */
    struct core_container_extended_resource_request_vec mappings;
    bool reserved; /* by this job */
};

enum job_kind { JOB_BIND, JOB_UNDO, JOB_FREE_CLAIM, JOB_DELETE_CLAIM };

struct dra_job {
    struct sched *s;
    struct dra_job *next;
    struct arena *a;
    enum job_kind kind;
    const char *ns, *pod, *uid, *node, *cause;
    struct object *pod_object;
    struct job_claim *claims;
    size_t n;
    struct bind *bind;
    bool written, announced;
    int64_t since; /* mono: when it began to wait for devices */
};

struct dra_workers {
    pthread_mutex_t lock;
    pthread_cond_t work;
    pthread_t threads[WORKERS];
    size_t n_threads;
    bool stop;
    struct dra_job *first, **last, *parked;
};

/* ---- jobs ---- */

static struct dra_job *job_new(struct sched *s, enum job_kind kind, const struct core_pod *p, struct object *o) {
    struct arena *a = arena_new();
    struct dra_job *j = arena_zalloc(a, sizeof(*j));
    *j = (struct dra_job){.s = s, .a = a, .kind = kind, .pod_object = object_ref(o)};
    j->ns = arena_strdup(a, str_or_empty(p->metadata.namespace));
    j->pod = arena_strdup(a, p->metadata.name);
    j->uid = arena_strdup(a, str_or_empty(p->metadata.uid));
    j->cause = arena_strdup(a, str_or_empty(o->rv));
    return j;
}

static void job_free(struct dra_job *j) {
    for (size_t i = 0; i < j->n; i++) object_unref(j->claims[i].o);
    object_unref(j->pod_object);
    arena_free(j->a);
}

void dra_job_done(struct dra_job *j) { job_free(j); }

static void *worker(void *arg);

static struct dra_workers *workers_of(struct sched *s) {
    if (s->workers) return s->workers;
    struct dra_workers *w = xcalloc(1, sizeof(*w));
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, &ca);
    pthread_condattr_destroy(&ca);
    w->last = &w->first;
    s->workers = w;
    for (size_t i = 0; i < WORKERS; i++)
        if (pthread_create(&w->threads[w->n_threads], NULL, worker, w) == 0) w->n_threads++;
    return w;
}

static void job_queue(struct dra_job *j) {
    struct dra_workers *w = workers_of(j->s);
    pthread_mutex_lock(&w->lock);
    j->next = NULL;
    *w->last = j;
    w->last = &j->next;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
}

void dra_job_undo(struct dra_job *j) {
    j->kind = JOB_UNDO;
    job_queue(j);
}

/* ---- in the cycle ---- */

static void pend(struct dra_job *j, struct job_claim *k, const char *key, const struct resource_allocation_result *r) {
    k->key = arena_strdup(j->a, key);
    k->allocation = api_clone(j->a, &api_resource_allocation_result, r);
    dra_claim_pend(&j->s->dra, k->key, k->allocation);
}

bool dra_bind(struct cycle *c, struct sched_node *n) {
    struct dra_cycle *d = c->dra;
    if (!d || (!d->n && !d->by_node[n->index].variant->special)) return false;
    const struct dra_node_result *r = &d->by_node[n->index];
    struct dra_job *j = job_new(c->s, JOB_BIND, c->p, c->sp->o);
    size_t at = 0;
    j->node = arena_strdup(j->a, n->name);
    j->claims = arena_zalloc(j->a, (d->n + 1) * sizeof(*j->claims));
    for (size_t i = 0; i < d->n; i++) {
        struct job_claim *k = &j->claims[j->n++];
        k->o = object_ref(d->claims[i].known->o);
        k->key = arena_strdup(j->a, d->claims[i].key);
        if (d->claims[i].allocate) pend(j, k, d->claims[i].key, &r->results[at++]);
    }
    if (r->variant->special) {
        struct job_claim *k = &j->claims[j->n++];
        struct resource_resource_claim *special = api_clone(j->a, &api_resource_resource_claim, r->variant->special);
        k->special = special;
        k->mappings.items = arena_zalloc(j->a, (r->variant->mappings.n + 1) * sizeof(*k->mappings.items));
        for (size_t i = 0; i < r->variant->mappings.n; i++) {
            const struct core_container_extended_resource_request *m = &r->variant->mappings.items[i];
            k->mappings.items[k->mappings.n++] = (struct core_container_extended_resource_request){
                .container_name = arena_strdup(j->a, m->container_name),
                .resource_name = arena_strdup(j->a, m->resource_name),
                .request_name = arena_strdup(j->a, m->request_name)};
        }
        pend(j, k, dra_extended_key(j->a, c->p), &r->results[at]);
    }
    j->bind = bind_reserve(c, n);
    job_queue(j);
    return true;
}

void dra_release(struct cycle *c, const struct dra_claim *claim, bool delete) {
    struct dra_job *j = job_new(c->s, delete ? JOB_DELETE_CLAIM : JOB_FREE_CLAIM, c->p, c->sp->o);
    j->claims = arena_zalloc(j->a, sizeof(*j->claims));
    j->claims[j->n++].o = object_ref(claim->o);
    job_queue(j);
}

/* ---- writing; on a worker's thread, without the lock ---- */

/* The answer is what is known from now on: the informer will show it later. */
static void learn(struct dra_job *j, struct job_claim *k, const struct resource_resource_claim *now) {
    struct object *o = object_new(&client_resourceclaims, now);
    object_unref(k->o);
    k->o = o;
}

static int create_special(struct dra_job *j, struct arena *a, struct job_claim *k, struct err *e) {
    struct resource_resource_claim out = {0};
    struct client_opts opts = {.cause = j->cause};
    int r = client_create(j->s->client, a, &client_resourceclaims, j->ns, k->special, &opts, &out, e);
    if (r < 0) return err_wrap(e, "create claim for extended resources");
    learn(j, k, &out);
    return 0;
}

static int add_finalizer(struct dra_job *j, struct arena *a, struct resource_resource_claim *k, struct err *e) {
    struct str_vec *v = &k->metadata.finalizers;
    if (claim_has_finalizer(k)) return 0;
    const char **items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] = CLAIM_FINALIZER;
    v->items = items;
    struct client_opts opts = {.cause = j->cause};
    return client_update(j->s->client, a, &client_resourceclaims, j->ns, k, &opts, k, e);
}

static void add_reservation(struct dra_job *j, struct arena *a, struct resource_resource_claim *k) {
    struct resource_resource_claim_consumer_reference_vec *v = &k->status.reserved_for;
    struct resource_resource_claim_consumer_reference *items = arena_alloc(a, (v->n + 1) * sizeof(*items));
    if (v->n) memcpy(items, v->items, v->n * sizeof(*items));
    items[v->n++] =
        (struct resource_resource_claim_consumer_reference){.resource = "pods", .name = j->pod, .uid = j->uid};
    v->items = items;
}

/* One attempt, from the version at hand. */
static int write_once(struct dra_job *j, struct arena *a, struct job_claim *k, struct err *e) {
    struct resource_resource_claim now = *(const struct resource_resource_claim *)k->o->obj;
    if (now.metadata.deletion_timestamp.set)
        return err_set(e, -ESTALE, "claim %s got deleted in the meantime", k->o->key);
    if (claim_reserved_for(&now, j->uid) && now.status.allocation) return 0;
    struct resource_allocation_result given;
    if (k->allocation && now.status.allocation)
        return err_set(e, -ESTALE, "claim %s got allocated elsewhere in the meantime", k->o->key);
    int r = k->allocation ? add_finalizer(j, a, &now, e) : 0;
    if (r < 0) return err_wrap(e, "add finalizer to claim %s", k->o->key);
    if (!k->allocation && !now.status.allocation)
        return err_set(e, -ESTALE, "claim %s got deallocated elsewhere in the meantime", k->o->key);
    given = k->allocation ? *k->allocation : *now.status.allocation;
    if (!given.allocation_timestamp.set) given.allocation_timestamp = ktime_now();
    now.status.allocation = &given;
    add_reservation(j, a, &now);
    struct resource_resource_claim out = {0};
    struct client_opts opts = {.cause = j->cause};
    r = client_update_status(j->s->client, a, &client_resourceclaims, j->ns, &now, &opts, &out, e);
    if (r < 0) return err_wrap(e, "add %sreservation to claim %s", k->allocation ? "allocation and " : "", k->o->key);
    learn(j, k, &out);
    k->reserved = true;
    return 0;
}

static int write_claim(struct dra_job *j, struct arena *a, struct job_claim *k, struct err *e) {
    int r = k->o ? 0 : create_special(j, a, k, e);
    for (int i = 0; r == 0; i++) {
        _cleanup_err_ struct err we = {0};
        r = write_once(j, a, k, &we);
        if (r == 0) return 0;
        if (!client_err_conflict(&we) || i == CONFLICTS_MAX) {
            err_move(e, &we);
            return r;
        }
        struct resource_resource_claim now = {0};
        r = client_get(j->s->client, a, &client_resourceclaims, j->ns, k->o->meta->name, &now, e);
        if (r < 0) return err_wrap(e, "get updated claim %s after conflict", k->o->key);
        if (!str_eq(now.metadata.uid, k->o->meta->uid))
            return err_set(e, -ESTALE, "claim %s got deleted in the meantime", k->o->key);
        learn(j, k, &now);
    }
    return r;
}

/* Says in the pod's status which requests of the claim stand for the extended resources of its containers. */
static int tell_pod(struct dra_job *j, struct arena *a, const struct job_claim *k, struct err *e) {
    struct core_pod_extended_resource_claim_status st = {.resource_claim_name = k->o->meta->name,
                                                         .request_mappings = k->mappings};
    struct json *o = json_object(a);
    json_set_str(a, json_ensure_object(a, o, "metadata"), "uid", j->uid);
    json_set(a, json_ensure_object(a, o, "status"), "extendedResourceClaimStatus",
             api_to_tree(a, &api_core_pod_extended_resource_claim_status, &st));
    const char *text = json_text(a, o);
    struct client_opts opts = {.cause = j->cause, .subresource = "status"};
    int r = client_patch(j->s->client, a, &client_pods, j->ns, j->pod, CLIENT_PATCH_STRATEGIC, text, strlen(text),
                         &opts, NULL, e);
    return r < 0 ? err_wrap(e, "update pod %s/%s ExtendedResourceClaimStatus", j->ns, j->pod) : 0;
}

static void patch_claim(struct dra_job *j, struct arena *a, const struct object *o, const char *subresource,
                        const char *text) {
    struct client_opts opts = {.cause = j->cause, .subresource = subresource};
    client_patch(j->s->client, a, &client_resourceclaims, j->ns, o->meta->name, CLIENT_PATCH_STRATEGIC, text,
                 strlen(text), &opts, NULL, NULL);
}

static void delete_special(struct dra_job *j, struct arena *a, const struct object *o) {
    patch_claim(j, a, o, NULL,
                arena_printf(a, "{\"metadata\":{\"uid\":\"%s\",\"$deleteFromPrimitiveList/finalizers\":[\"%s\"]}}",
                             o->meta->uid, CLAIM_FINALIZER));
    struct client_delete_opts d = {.cause = j->cause, .uid = o->meta->uid};
    client_delete(j->s->client, &client_resourceclaims, j->ns, o->meta->name, &d, NULL);
}

/* Takes back what was reserved; allocations stay, but for those of extended resources. */
static void undo(struct dra_job *j) {
    _cleanup_arena_ struct arena *a = arena_new();
    for (size_t i = 0; i < j->n; i++) {
        struct job_claim *k = &j->claims[i];
        if (k->special && k->o)
            delete_special(j, a, k->o);
        else if (k->reserved)
            patch_claim(j, a, k->o, "status",
                        arena_printf(a,
                                     "{\"metadata\":{\"uid\":\"%s\"},\"status\":{\"reservedFor\":[{\"$patch\":"
                                     "\"delete\",\"uid\":\"%s\"}]}}",
                                     k->o->meta->uid, j->uid));
    }
    job_free(j);
}

static void free_claim(struct dra_job *j) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct object *o = j->claims[0].o;
    struct resource_resource_claim now = *(const struct resource_resource_claim *)o->obj, out = {0};
    now.status = (struct resource_resource_claim_status){0};
    struct client_opts opts = {.cause = j->cause};
    client_update_status(j->s->client, a, &client_resourceclaims, o->meta->namespace, &now, &opts, &out, NULL);
    job_free(j);
}

/* ---- binding ---- */

/* Ends the job, with the pod back in the queue. */
static void give_up(struct dra_job *j, struct err *e) {
    struct sched *s = j->s;
    bool freed = false;
    err_wrap(e, "running PreBind plugin \"DynamicResources\"");
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < j->n; i++)
        if (j->claims[i].allocation) freed |= dra_claim_unpend(&s->dra, j->claims[i].key);
    bind_abandon(j->bind, e);
    if (freed) queue_move_all(s);
    pthread_mutex_unlock(&s->lock);
    undo(j);
}

/* Where the devices stand, by the newest versions of the claims. Under the lock. */
static enum dra_binding devices_ready(struct dra_job *j, struct err *e) {
    for (size_t i = 0; i < j->n; i++) {
        const struct dra_claim *k = dra_claim_get(&j->s->dra, j->ns, j->claims[i].o->meta->name);
        if (!k || !k->o) {
            err_set(e, -ENOENT, "claim %s got deleted in the meantime", j->claims[i].o->key);
            return BINDING_FAILED;
        }
        enum dra_binding b = dra_binding_of(k->o->obj, e);
        if (b == BINDING_WAITS && (dra_binding_overdue(k->o->obj) || mono_ns() - j->since > DRA_BINDING_TIMEOUT_NS)) {
            err_set(e, -ETIMEDOUT, "device binding timeout: claim=%s", k->o->meta->name);
            return BINDING_FAILED;
        }
        if (b != BINDING_READY) return b;
    }
    return BINDING_READY;
}

static void park(struct dra_job *j) {
    struct dra_workers *w = j->s->workers;
    pthread_mutex_lock(&w->lock);
    j->next = w->parked;
    w->parked = j;
    pthread_mutex_unlock(&w->lock);
}

static void finish(struct dra_job *j) {
    struct sched *s = j->s;
    _cleanup_err_ struct err e = {0};
    pthread_mutex_lock(&s->lock);
    enum dra_binding b = devices_ready(j, &e);
    const struct core_pod *p = j->pod_object->obj;
    if (b == BINDING_READY) bind_post(j->bind, j);
    if (b == BINDING_WAITS && !j->announced)
        event_record_obj(s->events, &client_pods, &p->metadata, "Normal", "BindingConditionsPending",
                         "waiting for binding conditions for device on node %s", j->node);
    if (b == BINDING_WAITS) j->announced = true;
    pthread_mutex_unlock(&s->lock);
    if (b == BINDING_WAITS) park(j);
    if (b == BINDING_FAILED) give_up(j, &e);
}

static void write_all(struct dra_job *j) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    struct sched *s = j->s;
    for (size_t i = 0; i < j->n; i++) {
        struct job_claim *k = &j->claims[i];
        int r = write_claim(j, a, k, &e);
        if (r == 0) {
            pthread_mutex_lock(&s->lock);
            dra_claim_set(&s->dra, k->o);
            if (k->allocation) dra_claim_unpend(&s->dra, k->key);
            pthread_mutex_unlock(&s->lock);
            if (k->special) r = tell_pod(j, a, k, &e);
        }
        if (r < 0) {
            give_up(j, &e);
            return;
        }
    }
    j->written = true;
    j->since = mono_ns();
    finish(j);
}

static void run(struct dra_job *j) {
    switch (j->kind) {
        case JOB_BIND:
            if (j->written)
                finish(j);
            else
                write_all(j);
            return;
        case JOB_UNDO: undo(j); return;
        case JOB_FREE_CLAIM: free_claim(j); return;
        case JOB_DELETE_CLAIM: {
            _cleanup_arena_ struct arena *a = arena_new();
            delete_special(j, a, j->claims[0].o);
            job_free(j);
            return;
        }
    }
}

/* ---- the threads ---- */

/* What waits for devices is looked at again every second. Lock of the workers held. */
static void unpark(struct dra_workers *w) {
    while (w->parked) {
        struct dra_job *j = w->parked;
        w->parked = j->next;
        j->next = NULL;
        *w->last = j;
        w->last = &j->next;
    }
}

static void *worker(void *arg) {
    struct dra_workers *w = arg;
    pthread_mutex_lock(&w->lock);
    while (!w->stop) {
        struct dra_job *j = w->first;
        if (j) {
            if (!(w->first = j->next)) w->last = &w->first;
            pthread_mutex_unlock(&w->lock);
            run(j);
            pthread_mutex_lock(&w->lock);
        } else if (w->parked) {
            int64_t until = mono_ns() + PARKED_POLL_MS * NS_PER_MS;
            struct timespec ts = {.tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC};
            if (pthread_cond_timedwait(&w->work, &w->lock, &ts) == ETIMEDOUT) unpark(w);
        } else {
            pthread_cond_wait(&w->work, &w->lock);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

void dra_workers_stop(struct sched *s) {
    struct dra_workers *w = s->workers;
    if (!w) return;
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (size_t i = 0; i < w->n_threads; i++) pthread_join(w->threads[i], NULL);
}

void dra_workers_free(struct dra_workers *w) {
    if (!w) return;
    unpark(w);
    for (struct dra_job *j; (j = w->first);) { /* a later scheduler finds their pods unbound */
        w->first = j->next;
        job_free(j);
    }
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
    free(w);
}
