/* The scheduler: takes the most urgent pod, finds the nodes that fit, picks the best, binds (upstream
 * pkg/scheduler).
 *
 * A cycle is synchronous and short. The node is assumed at once in our own picture, so the next cycle sees
 * it, and the binding travels to the API server while the next pods are looked at; when it fails, the
 * assumption is undone. */
#include "scheduler.h"

#include <sched.h>
#include <stdatomic.h>

#include "pkg/api/meta.h"
#include "pkg/base/log.h"

enum { ENOUGH_MIN = 100, ADAPTIVE_BASE = 50, ADAPTIVE_STEP = 125, ADAPTIVE_FLOOR = 5 };

/* ---- requests ---- */

struct bind {
    struct sched *s;
    char *key, *uid, *node, *cause;
    int64_t began;       /* mono */
    struct dra_job *job; /* NULL: no claims */
    struct sched_attempt attempt;
};

static void bind_free(struct bind *b) {
    free(b->key);
    free(b->uid);
    free(b->node);
    free(b->cause);
    free(b);
}

static void bind_failed(struct sched *s, struct sched_pod *sp, const struct err *e) {
    cache_pod_remove(s, sp);
    event_record_obj(s->events, &client_pods, &sp->p->metadata, "Warning", "FailedScheduling", "%s", e->msg);
    if (e->status == 404) { /* gone; its deletion will be announced */
        sp->state = POD_GATED;
        return;
    }
    sp->moved_seen = s->moves - 1; /* try again after the back-off */
    queue_fail(s, sp);
}

/* Ends a binding that was reserved: under the lock. */
static void bind_end(struct bind *b, int result, struct err *e) {
    struct sched *s = b->s;
    s->binds--;
    struct sched_pod *sp = map_get(&s->pod_by_key, b->key);
    if (sp && !str_eq(sp->o->meta->uid, b->uid)) sp = NULL;
    sched_point(s, POINT_BIND, &b->began);
    if (result != -ECANCELED) sched_count(s, &b->attempt, result == 0 ? SCHED_SCHEDULED : SCHED_ERROR);
    if (result == 0) {
        s->scheduled++;
        if (sp)
            event_record_obj(s->events, &client_pods, &sp->p->metadata, "Normal", "Scheduled",
                             "Successfully assigned %s to %s", b->key, b->node);
    } else if (sp && sp->state == POD_BINDING && result != -ECANCELED) {
        bind_failed(s, sp, e);
    }
    pthread_cond_signal(&s->work);
    bind_free(b);
}

static void bound(void *arg, int result, const struct client_response *r, struct err *e) {
    struct bind *b = arg;
    struct sched *s = b->s;
    pthread_mutex_lock(&s->lock);
    if (b->job && (result == 0 || result == -ECANCELED))
        dra_job_done(b->job);
    else if (b->job)
        dra_job_undo(b->job);
    if (result < 0) err_wrap(e, "binding rejected");
    bind_end(b, result, e);
    pthread_mutex_unlock(&s->lock);
}

struct bind *bind_reserve(struct cycle *c, struct sched_node *n) {
    struct sched *s = c->s;
    struct sched_pod *sp = c->sp;
    struct bind *b = xcalloc(1, sizeof(*b));
    b->s = s;
    b->began = mono_ns();
    b->attempt = (struct sched_attempt){sp->entered, c->began, sp->attempts};
    b->key = xstrdup(sp->o->key);
    b->uid = xstrdup(str_or_empty(sp->o->meta->uid));
    b->node = xstrdup(n->name);
    b->cause = xstrdup(str_or_empty(sp->o->rv));
    cache_nominate(s, sp, NULL);
    cache_pod_place(s, sp, n);
    sp->state = POD_BINDING;
    s->binds++;
    return b;
}

void bind_post(struct bind *b, struct dra_job *job) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *ns, *name;
    key_split(a, b->key, &ns, &name);
    const char *body =
        arena_printf(a,
                     "{\"kind\":\"Binding\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"%s\",\"namespace\":\"%s\","
                     "\"uid\":\"%s\"},\"target\":{\"kind\":\"Node\",\"name\":\"%s\"}}",
                     name, ns, b->uid, b->node);
    struct client_request rq = {.method = "POST",
                                .body = body,
                                .body_len = strlen(body),
                                .cause = b->cause,
                                .path = client_path(a, &client_pods, ns, name, "binding")};
    b->job = job;
    client_do_async(b->s->client, &rq, bound, b);
}

void bind_abandon(struct bind *b, struct err *e) { bind_end(b, e->code ? e->code : -EIO, e); }

static void ignore_result(void *arg, int result, const struct client_response *r, struct err *e) {}

static const struct core_pod_condition *scheduled_condition(const struct core_pod *p) {
    for (size_t i = 0; i < p->status.conditions.n; i++)
        if (str_eq(p->status.conditions.items[i].type, "PodScheduled")) return &p->status.conditions.items[i];
    return NULL;
}

/* PodScheduled=False with the message, and the nominated node; nothing when the pod says so already. */
static void write_condition(struct cycle *c, const char *message, const char *nominated) {
    struct arena *a = c->a;
    const struct core_pod_condition *was = scheduled_condition(c->p);
    bool unscheduled = was && str_eq(was->status, "False");
    bool same = unscheduled && str_eq(was->reason, "Unschedulable") && str_eq(was->message, message);
    bool same_node = strcmp(str_or_empty(nominated), str_or_empty(c->p->status.nominated_node_name)) == 0;
    if (same && same_node) return;
    char when[KTIME_MAX];
    ktime_format(unscheduled ? was->last_transition_time : ktime_now(), when);
    struct json *o = json_object(a), *st = json_ensure_object(a, o, "status"), *cond = json_object(a);
    json_set_str(a, cond, "type", "PodScheduled");
    if (c->p->metadata.generation) json_set_int(a, cond, "observedGeneration", c->p->metadata.generation);
    json_set_str(a, cond, "status", "False");
    json_set_str(a, cond, "lastTransitionTime", when);
    json_set_str(a, cond, "reason", "Unschedulable");
    json_set_str(a, cond, "message", message);
    json_append(a, json_ensure_array(a, st, "conditions"), cond);
    if (!same_node) json_set(a, st, "nominatedNodeName", str_empty(nominated) ? json_null(a) : json_str(a, nominated));
    const char *body = json_text(a, o);
    struct client_request rq = {
        .method = "PATCH",
        .body = body,
        .body_len = strlen(body),
        .cause = c->sp->o->rv,
        .path = client_path(a, &client_pods, c->p->metadata.namespace, c->p->metadata.name, "status"),
        .content_type = "application/strategic-merge-patch+json"};
    client_do_async(c->s->client, &rq, ignore_result, NULL);
}

/* ---- a cycle ---- */

struct reasons {
    const char *text[REASONS_MAX];
    size_t count[REASONS_MAX], n;
};

static void note(struct reasons *r, const char *text) {
    for (size_t i = 0; i < r->n; i++)
        if (r->text[i] == text || strcmp(r->text[i], text) == 0) {
            r->count[i]++;
            return;
        }
    if (r->n == REASONS_MAX) return;
    r->text[r->n] = text;
    r->count[r->n++] = 1;
}

static int by_text(const void *x, const void *y) { return strcmp(*(char *const *)x, *(char *const *)y); }

static const char *message_of(struct cycle *c, const struct reasons *r, const char *after) {
    struct buf b = BUF_INIT;
    buf_printf(&b, "0/%zu nodes are available:", c->s->n_live);
    if (c->refusal) buf_printf(&b, " %s.", c->refusal);
    const char **lines = arena_alloc(c->a, (r->n + 1) * sizeof(*lines));
    for (size_t i = 0; i < r->n; i++) lines[i] = arena_printf(c->a, "%zu %s", r->count[i], r->text[i]);
    qsort(lines, r->n, sizeof(*lines), by_text);
    for (size_t i = 0; i < r->n; i++) buf_printf(&b, "%s%s", i ? ", " : " ", lines[i]);
    if (r->n) buf_addc(&b, '.');
    if (after) buf_printf(&b, " %s, %s", c->post ? c->post : "no new claims to deallocate", after);
    char *out = arena_strndup(c->a, b.data, b.len);
    buf_done(&b);
    return out;
}

static void refuse(struct cycle *c, const char *message) {
    struct sched_pod *sp = c->sp;
    event_record_obj(c->s->events, &client_pods, &c->p->metadata, "Warning", "FailedScheduling", "%s", message);
    write_condition(c, message, sp->nominated ? sp->nominated->name : NULL);
    sched_count(c->s, &(struct sched_attempt){sp->entered, c->began, sp->attempts}, SCHED_UNSCHEDULABLE);
    queue_fail(c->s, sp);
}

/* Something is broken, and may be mended any time: the next attempt comes after the back-off, whatever happens. */
static void fail(struct cycle *c) {
    c->sp->moved_seen = c->s->moves - 1;
    refuse(c, c->failure);
}

/* How many fitting nodes are enough: all of a small cluster, a share of a big one. */
static size_t enough_nodes(size_t n) {
    if (n < ENOUGH_MIN) return n;
    size_t percent = ADAPTIVE_BASE > n / ADAPTIVE_STEP ? ADAPTIVE_BASE - n / ADAPTIVE_STEP : 0;
    return MAX_OF(n * MAX_OF(percent, (size_t)ADAPTIVE_FLOOR) / 100, (size_t)ENOUGH_MIN);
}

/* Fitting nodes into `out`; what the others lack into `why`. */
static size_t find_fitting(struct cycle *c, struct sched_node **out, uint8_t *verdicts, struct reasons *why) {
    struct sched *s = c->s;
    size_t n = s->n_nodes, found = 0, enough = enough_nodes(s->n_live), i;
    for (i = 0; i < n && found < enough && !c->failure; i++) {
        struct sched_node *node = s->nodes[(s->next_start + i) % n];
        const char *reasons[EXT_MAX + 4];
        size_t n_reasons = 0;
        if (!node->n) continue;
        enum verdict v = filter_node(c, node, reasons, &n_reasons);
        verdicts[node->index] = (uint8_t)v;
        if (v == FIT) out[found++] = node;
        for (size_t k = 0; k < n_reasons; k++) note(why, reasons[k]);
    }
    if (n) s->next_start = (s->next_start + i) % n;
    return found;
}

/* The best, by lot among equals. */
static struct sched_node *choose(struct cycle *c, struct sched_node **nodes, size_t n) {
    if (n == 1) return nodes[0];
    int64_t *scores = arena_alloc(c->a, n * sizeof(*scores));
    cycle_prepare_scores(c);
    score_nodes(c, nodes, n, scores);
    size_t best = 0, equals = 1;
    for (size_t i = 1; i < n; i++) {
        if (scores[i] > scores[best]) {
            best = i;
            equals = 1;
        } else if (scores[i] == scores[best]) {
            c->s->dice = c->s->dice * 6364136223846793005u + 1442695040888963407u;
            if ((c->s->dice >> 33) % ++equals == 0) best = i;
        }
    }
    return nodes[best];
}

/* Claims that wait for their first consumer are told the node; the volume controller or a provisioner then
 * binds them, and that brings the pod back. */
static void select_node_for_claims(struct cycle *c, const struct sched_node *n) {
    for (size_t i = 0; i < c->n_claims; i++) {
        const char *body = arena_printf(
            c->a, "{\"metadata\":{\"annotations\":{\"volume.kubernetes.io/selected-node\":\"%s\"}}}", n->name);
        struct client_request rq = {
            .method = "PATCH",
            .body = body,
            .body_len = strlen(body),
            .cause = c->sp->o->rv,
            .path = client_path(c->a, &client_persistentvolumeclaims, c->p->metadata.namespace, c->claims[i], NULL),
            .content_type = "application/merge-patch+json"};
        client_do_async(c->s->client, &rq, ignore_result, NULL);
    }
}

static void schedule(struct sched *s, struct sched_pod *sp, struct arena *a) {
    struct cycle c = {.s = s, .a = a, .sp = sp, .p = sp->p};
    struct reasons why = {.n = 0};
    struct sched_node **fitting = arena_alloc(a, (s->n_nodes + 1) * sizeof(*fitting));
    uint8_t *verdicts = arena_zalloc(a, s->n_nodes + 1);
    int64_t at = c.began = mono_ns();
    int r = cycle_prepare(&c);
    sched_point(s, POINT_PRE_FILTER, &at);
    if (s->n_live == 0) {
        refuse(&c, "no nodes available to schedule pods");
    } else if (c.failure) {
        fail(&c);
    } else if (r < 0) {
        refuse(&c,
               message_of(&c, &why,
                          arena_printf(
                              a, "preemption: 0/%zu nodes are available: %zu Preemption is not helpful for scheduling.",
                              s->n_live, s->n_live)));
    } else {
        size_t n = find_fitting(&c, fitting, verdicts, &why);
        sched_point(s, POINT_FILTER, &at);
        if (c.failure) {
            fail(&c);
        } else if (n) {
            struct sched_node *best = choose(&c, fitting, n);
            sched_point(s, POINT_SCORE, &at);
            prom_observe(&s->metrics.algorithm, sched_attempt_bounds, at - c.began);
            if (c.n_claims) {
                select_node_for_claims(&c, best);
                queue_fail(s, sp);
            } else if (!dra_bind(&c, best)) {
                bind_post(bind_reserve(&c, best), NULL);
            }
        } else {
            dra_post_filter(&c);
            const char *after = preempt(&c, verdicts);
            sched_point(s, POINT_POST_FILTER, &at);
            refuse(&c, message_of(&c, &why, after));
        }
    }
    cycle_done(&c);
}

/* The handlers wait for the same lock; let them in between two cycles. */
static void give_way(struct sched *s) {
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < 100 && atomic_load(&s->handlers_waiting) > 0; i++) sched_yield();
    pthread_mutex_lock(&s->lock);
}

static void wait_for_work(struct sched *s, int64_t ns) {
    if (ns < 0) {
        pthread_cond_wait(&s->work, &s->lock);
        return;
    }
    int64_t until = mono_ns() + ns;
    struct timespec ts = {.tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC};
    pthread_cond_timedwait(&s->work, &s->lock, &ts);
}

int sched_run(struct sched *s) {
    _cleanup_arena_ struct arena *a = arena_new();
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        int64_t wait = -1;
        struct sched_pod *sp = s->ready && s->binds < BINDS_MAX ? queue_pop(s, &wait) : NULL;
        if (!sp) {
            wait_for_work(s, wait);
            continue;
        }
        arena_reset(a);
        dra_selectors_trim(&s->dra);
        schedule(s, sp, a);
        give_way(s);
    }
    pthread_mutex_unlock(&s->lock);
    return 0;
}
