/* Horizontal autoscaler: sizes a workload by what is measured (upstream pkg/controller/podautoscaler). Any kind with a
 * scale subresource can be the target. hpa.h says how a decision is made; here is what goes around it:
 *
 *   every 15 s (a flag), and when the spec changes
 *     read the target's scale             condition AbleToScale
 *     outside of min and max              to the bound, without asking for metrics
 *     otherwise the largest wish          condition ScalingActive
 *     stabilised and bounded              condition ScalingLimited
 *     write the scale, then the status
 *
 * A failed metric does not stop the others, but nothing shrinks while one is unknown. The target's pods are listed from
 * the API server's cache: its selector is a text, and the server is who reads those. */
#include <pthread.h>

#include "hpa.h"
#include "pkg/api/quantity.h"
#include "pkg/base/map.h"
#include "pkg/json/json.h"

#define KINDS_AGE_MIN (10 * NS_PER_SEC) /* an unknown kind leads to a new discovery, but not more often than this */
#define KINDS_AGE_MAX (600 * NS_PER_SEC)
enum { WORKERS = 3, CONFLICT_RETRIES = 5 };

struct state { /* of one autoscaler; used by one worker at a time, except `pods` */
    struct hpa_history history;
    struct map pods; /* uids of the pods it sizes */
};

struct hpa_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
    pthread_mutex_t lock; /* of all below */
    struct map states;    /* by key */
    struct arena *kinds_arena;
    struct client_discovery kinds;
    int64_t kinds_at;
};

struct pass { /* one reconcile */
    struct hpa_controller *c;
    struct arena *a;
    const char *key;
    const hpa_t *was;
    hpa_t now; /* with the new status */
    struct state *state;
    const char *scale_path;
    struct json *scale;
    int32_t current, min;
};

/* ---- what is remembered ---- */

static void state_free(void *p) {
    struct state *s = p;
    if (!s) return;
    hpa_history_done(&s->history);
    map_done(&s->pods);
    free(s);
}

static struct state *state_get(struct hpa_controller *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    struct state *s = map_get(&c->states, key);
    if (!s) map_put(&c->states, key, s = xcalloc(1, sizeof(*s)));
    pthread_mutex_unlock(&c->lock);
    return s;
}

static void state_drop(struct hpa_controller *c, const char *key) {
    pthread_mutex_lock(&c->lock);
    state_free(map_del(&c->states, key));
    pthread_mutex_unlock(&c->lock);
}

/* Notes whose pods these are; the key of another autoscaler that sizes one of them, or NULL. */
static const char *claim_pods(struct pass *p, const struct client_list *l) {
    struct hpa_controller *c = p->c;
    const char *rival = NULL, *key;
    void *value;
    size_t ns_len = strlen(p->was->metadata.namespace) + 1;
    pthread_mutex_lock(&c->lock);
    map_done(&p->state->pods);
    p->state->pods = (struct map){0};
    for (size_t i = 0; i < l->n; i++)
        map_put(&p->state->pods, str_or_empty(((const struct core_pod *)l->items[i])->metadata.uid), p->state);
    for (size_t it = 0; !rival && map_next(&c->states, &it, &key, &value);) {
        const struct state *s = value;
        if (s == p->state || strncmp(key, p->key, ns_len) != 0) continue;
        for (size_t i = 0; i < l->n && !rival; i++)
            if (map_has(&s->pods, str_or_empty(((const struct core_pod *)l->items[i])->metadata.uid)))
                rival = arena_strdup(p->a, key);
    }
    pthread_mutex_unlock(&c->lock);
    return rival;
}

/* ---- conditions and events ---- */

static void say(struct pass *p, const char *type, const char *reason, const char *message) {
    event_record_obj(p->c->events, &client_horizontalpodautoscalers, &p->was->metadata, type, reason, "%s", message);
}

static void condition(struct pass *p, const char *type, bool yes, const char *reason, const char *message) {
    struct autoscaling_v2_horizontal_pod_autoscaler_condition_vec *v = &p->now.status.conditions;
    struct autoscaling_v2_horizontal_pod_autoscaler_condition *x = NULL;
    for (size_t i = 0; i < v->n && !x; i++)
        if (str_eq(v->items[i].type, type)) x = &v->items[i];
    if (!x) {
        x = &v->items[v->n++];
        *x = (struct autoscaling_v2_horizontal_pod_autoscaler_condition){.type = type};
    }
    const char *status = yes ? "True" : "False";
    if (!str_eq(x->status, status)) x->last_transition_time = ktime_now_s();
    x->status = status;
    x->reason = reason;
    x->message = message;
}

enum { CONDITIONS = 3 };

static void pass_init(struct pass *p) {
    p->now = *p->was;
    const struct autoscaling_v2_horizontal_pod_autoscaler_condition_vec *old = &p->was->status.conditions;
    p->now.status.conditions.items = arena_alloc(p->a, (old->n + CONDITIONS) * sizeof(*old->items));
    if (old->n) memcpy(p->now.status.conditions.items, old->items, old->n * sizeof(*old->items));
    p->min = p->was->spec.min_replicas ? *p->was->spec.min_replicas : 1;
}

static int finish(struct pass *p, struct err *e) {
    if (api_equal(&api_autoscaling_v2_horizontal_pod_autoscaler_status, &p->now.status, &p->was->status)) return 0;
    struct client_opts o = {.cause = p->was->metadata.resource_version};
    return client_update_status(p->c->m->client, p->a, &client_horizontalpodautoscalers, p->was->metadata.namespace,
                                &p->now, &o, NULL, e);
}

/* ---- the target ---- */

static const struct client_api_resource *kind_known(struct hpa_controller *c, const char *api_version,
                                                    const char *kind) {
    const char *slash = strchr(api_version, '/');
    size_t n = slash ? (size_t)(slash - api_version) : 0;
    for (size_t i = 0; i < c->kinds.n; i++) {
        const struct client_api_resource *r = &c->kinds.items[i];
        if (str_eq(r->kind, kind) && strlen(r->group) == n && strncmp(r->group, api_version, n) == 0) return r;
    }
    return NULL;
}

static int discover(struct hpa_controller *c, struct err *e) {
    struct arena *a = arena_new();
    struct client_discovery d = {0};
    int r = client_discover(c->m->client, a, &d, e);
    if (r < 0) {
        arena_free(a);
        return r;
    }
    arena_free(c->kinds_arena);
    c->kinds_arena = a;
    c->kinds = d;
    c->kinds_at = mono_ns();
    return 0;
}

/* The resource of a kind, as a path without the name, and as "plural.group". */
static int resource_of(struct hpa_controller *c, struct arena *a, const char *api_version, const char *kind,
                       const char *ns, const char **path, const char **name, struct err *e) {
    int r = 0;
    pthread_mutex_lock(&c->lock);
    const struct client_api_resource *x = kind_known(c, api_version, kind);
    int64_t age = mono_ns() - c->kinds_at;
    if (!c->kinds_arena || age > (x ? KINDS_AGE_MAX : KINDS_AGE_MIN)) {
        r = discover(c, e);
        x = kind_known(c, api_version, kind);
    }
    if (x) {
        struct client_resource cr = {x->group, x->version, x->plural, x->namespaced, x->kind, NULL};
        if (path) *path = client_path(a, &cr, ns, NULL, NULL);
        if (name) *name = *x->group ? arena_printf(a, "%s.%s", x->plural, x->group) : arena_strdup(a, x->plural);
    }
    pthread_mutex_unlock(&c->lock);
    if (x) return 0;
    if (r < 0) return r;
    return err_set(e, -ENOENT, "no matches for kind \"%s\" in version \"%s\"", kind, api_version);
}

static const char *resource_name(void *arg, struct arena *a, const char *api_version, const char *kind, struct err *e) {
    const char *name = NULL;
    return resource_of(arg, a, api_version, kind, NULL, NULL, &name, e) == 0 ? name : NULL;
}

static int scale_read(struct pass *p, struct err *e) {
    struct client_request rq = {.method = "GET", .path = p->scale_path};
    struct client_response resp = {0};
    int r = client_do(p->c->m->client, &rq, &resp, e);
    if (r == 0) r = json_parse(p->a, resp.body, resp.len, &p->scale, NULL, e);
    client_response_done(&resp);
    return r;
}

static int scale_find(struct pass *p, struct err *e) {
    const struct autoscaling_v2_cross_version_object_reference *t = &p->was->spec.scale_target_ref;
    const char *path = NULL;
    int r = resource_of(p->c, p->a, str_or_empty(t->api_version), t->kind, p->was->metadata.namespace, &path, NULL, e);
    if (r < 0) return r;
    p->scale_path = arena_printf(p->a, "%s/%s/scale", path, t->name);
    if ((r = scale_read(p, e)) < 0) return r;
    p->current = (int32_t)json_get_int(json_get(p->scale, "spec"), "replicas", 0);
    return 0;
}

/* The scale was read: a conflict means that somebody else has written since; the wish stands all the same. */
static int scale_write(struct pass *p, int32_t n, struct err *e) {
    int r = 0;
    for (int i = 0; i < CONFLICT_RETRIES; i++) {
        json_set_int(p->a, json_ensure_object(p->a, p->scale, "spec"), "replicas", n);
        const char *body = json_text(p->a, p->scale);
        struct client_request rq = {.method = "PUT",
                                    .path = p->scale_path,
                                    .body = body,
                                    .body_len = strlen(body),
                                    .cause = p->was->metadata.resource_version};
        struct client_response resp = {0};
        _cleanup_err_ struct err we = {0};
        r = client_do(p->c->m->client, &rq, &resp, &we);
        client_response_done(&resp);
        if (r == 0) return 0;
        bool again = client_err_conflict(&we) && i + 1 < CONFLICT_RETRIES && scale_read(p, NULL) == 0;
        if (again) continue;
        err_move(e, &we);
        return r;
    }
    return r;
}

/* ---- wishes ---- */

static double part(const char *quantity) { return (double)quantity_str_milli(quantity) / 1000; }

static struct hpa_tolerance tolerance_of(const struct manager_options *o, const hpa_t *h) {
    struct hpa_tolerance t = {part(o->hpa_tolerance), part(o->hpa_tolerance)};
    const struct autoscaling_v2_horizontal_pod_autoscaler_behavior *b = h->spec.behavior;
    if (b && b->scale_up && b->scale_up->tolerance) t.up = part(b->scale_up->tolerance);
    if (b && b->scale_down && b->scale_down->tolerance) t.down = part(b->scale_down->tolerance);
    return t;
}

/* The pods that the target's selector matches; false when they can't be told or are somebody else's too. */
static int target_make(struct pass *p, struct hpa_target *t, struct err *e) {
    const struct json *status = json_get(p->scale, "status");
    const char *selector = json_get_str(status, "selector");
    if (str_empty(selector)) {
        say(p, "Warning", "SelectorRequired", "selector is required");
        condition(p, "ScalingActive", false, "InvalidSelector", "the HPA target's scale is missing a selector");
        return err_set(e, -EINVAL, "selector is required");
    }
    const struct manager_options *o = &p->c->m->opt;
    *t = (struct hpa_target){
        .source = {p->c->m->client, p->was->metadata.namespace, selector},
        .calc = {.current = p->current,
                 .tolerance = tolerance_of(o, p->was),
                 .cpu_initialization_ns = o->hpa_cpu_initialization_ns,
                 .readiness_delay_ns = o->hpa_readiness_delay_ns,
                 .now = ktime_now()},
        .status_replicas = (int32_t)json_get_int(status, "replicas", 0),
        .resource_name = resource_name,
        .arg = p->c,
    };
    struct client_list l = {0};
    struct client_list_opts lo = {.label_selector = selector, .resource_version = "0"};
    int r = client_list(p->c->m->client, p->a, &client_pods, p->was->metadata.namespace, &lo, &l, e);
    if (r < 0) return err_wrap(e, "unable to get pods while calculating replica count");
    t->calc.pods = (const struct core_pod **)l.items;
    t->calc.n_pods = l.n;
    const char *rival = claim_pods(p, &l);
    if (!rival) return 0;
    const char *why =
        arena_printf(p->a, "pods by selector %s are controlled by multiple HPAs: [%s %s]", selector, p->key, rival);
    say(p, "Warning", "AmbiguousSelector", why);
    condition(p, "ScalingActive", false, "AmbiguousSelector", why);
    return err_set(e, -EINVAL, "%s", why);
}

/* The largest wish of all metrics. -EAGAIN when no wish can be trusted; the conditions then say why. */
static int wishes(struct pass *p, struct hpa_wish *best, struct err *e) {
    const struct autoscaling_v2_metric_spec_vec *specs = &p->was->spec.metrics;
    struct hpa_target t;
    int r = target_make(p, &t, e);
    if (r < 0) return r;
    p->now.status.current_metrics.items =
        arena_zalloc(p->a, (specs->n + 1) * sizeof(*p->now.status.current_metrics.items));
    p->now.status.current_metrics.n = specs->n;
    size_t failed = 0;
    const char *first = NULL, *reason = NULL;
    for (size_t i = 0; i < specs->n; i++) {
        struct hpa_wish w = {0};
        _cleanup_err_ struct err we = {0};
        struct autoscaling_v2_metric_status *status = &p->now.status.current_metrics.items[i];
        if (hpa_wish_of(&t, p->a, &specs->items[i], &w, status, &we) == 0) {
            if (!best->metric || w.replicas > best->replicas) *best = w;
            continue;
        }
        status->type = "";
        say(p, "Warning", w.reason, str_or_empty(we.msg));
        if (failed++ == 0) {
            first = arena_strdup(p->a, str_or_empty(we.msg));
            reason = w.reason;
        }
    }
    if (failed == specs->n || (failed && best->replicas < p->current)) {
        condition(p, "ScalingActive", false, str_or_empty(reason),
                  arena_printf(p->a, "the HPA was unable to compute the replica count: %s", str_or_empty(first)));
        return err_set(e, -EAGAIN, "invalid metrics (%zu invalid out of %zu), first error is: %s", failed, specs->n,
                       str_or_empty(first));
    }
    condition(p, "ScalingActive", true, "ValidMetricFound",
              arena_printf(p->a, "the HPA was able to successfully calculate a replica count from %s", best->metric));
    return 0;
}

/* ---- the decision ---- */

static struct hpa_limits limits_of(const struct pass *p) {
    const struct autoscaling_v2_horizontal_pod_autoscaler_spec *s = &p->was->spec;
    return (struct hpa_limits){p->min, s->max_replicas, s->behavior, p->c->m->opt.hpa_down_window_ns};
}

/* The number there should be, with the reason for people; -EAGAIN when it cannot be said. */
static int decide(struct pass *p, int32_t *out, const char **why, struct err *e) {
    const hpa_t *h = p->was;
    *out = p->current;
    if (p->current == 0) {
        condition(p, "ScalingActive", false, "ScalingDisabled",
                  "scaling is disabled since the replica count of the target is zero");
        return 0;
    }
    if (p->current > h->spec.max_replicas || p->current < p->min) {
        bool above = p->current > h->spec.max_replicas;
        *out = above ? h->spec.max_replicas : p->min;
        *why = above ? "Current number of replicas above Spec.MaxReplicas"
                     : "Current number of replicas below Spec.MinReplicas";
        return 0;
    }
    struct hpa_wish best = {0};
    int r = wishes(p, &best, e);
    if (r < 0) return r;
    struct hpa_limits l = limits_of(p);
    struct hpa_verdict v;
    hpa_limit(&p->state->history, &l, p->current, best.replicas, mono_ns(), &v);
    condition(p, "AbleToScale", true, v.able_reason, v.able_message);
    condition(p, "ScalingLimited", v.limited, v.limit_reason, v.limit_message);
    *why = best.replicas > p->current ? arena_printf(p->a, "%s above target", best.metric) : "All metrics below target";
    *out = v.replicas;
    return 0;
}

static int rescale(struct pass *p, int32_t n, const char *why, struct err *e) {
    _cleanup_err_ struct err we = {0};
    int r = scale_write(p, n, &we);
    if (r < 0) {
        say(p, "Warning", "FailedRescale",
            arena_printf(p->a, "New size: %d; reason: %s; error: %s", n, why, str_or_empty(we.msg)));
        condition(
            p, "AbleToScale", false, "FailedUpdateScale",
            arena_printf(p->a, "the HPA controller was unable to update the target scale: %s", str_or_empty(we.msg)));
        return r;
    }
    condition(p, "AbleToScale", true, "SucceededRescale",
              arena_printf(p->a, "the HPA controller was able to update the target scale to %d", n));
    say(p, "Normal", "SuccessfulRescale", arena_printf(p->a, "New size: %d; reason: %s", n, why));
    struct hpa_limits l = limits_of(p);
    hpa_history_scaled(&p->state->history, &l, p->current, n, mono_ns());
    p->now.status.last_scale_time = ktime_now_s();
    return 0;
}

static void run(struct pass *p) {
    _cleanup_err_ struct err pe = {0};
    if (scale_find(p, &pe) < 0) {
        say(p, "Warning", "FailedGetScale", str_or_empty(pe.msg));
        condition(p, "AbleToScale", false, "FailedGetScale",
                  arena_printf(p->a, "the HPA controller was unable to get the target's current scale: %s",
                               str_or_empty(pe.msg)));
        return;
    }
    condition(p, "AbleToScale", true, "SucceededGetScale",
              "the HPA controller was able to get the target's current scale");
    hpa_history_start(&p->state->history, p->current, mono_ns());
    p->now.status.current_replicas = p->current;
    p->now.status.current_metrics = (struct autoscaling_v2_metric_status_vec){0};
    int32_t n = p->current;
    const char *why = "";
    if (decide(p, &n, &why, &pe) < 0) {
        say(p, "Warning", "FailedComputeMetricsReplicas", str_or_empty(pe.msg));
        return;
    }
    if (n != p->current && rescale(p, n, why, &pe) < 0) return;
    p->now.status.desired_replicas = n;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct hpa_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_horizontalpodautoscalers), key);
    if (!o) {
        state_drop(c, key);
        return 0;
    }
    struct pass p = {.c = c, .a = a, .key = key, .was = o->obj, .state = state_get(c, key)};
    pass_init(&p);
    run(&p);
    workqueue_add_after(c->q, key, c->m->opt.hpa_sync_ns);
    return finish(&p, e);
}

/* Only the spec leads to work at once: our own writes of the status would chase themselves. */
static void changed(void *arg, struct object *old, struct object *o) {
    struct hpa_controller *c = arg;
    const hpa_t *x = old->obj, *y = o->obj;
    if (!api_equal(&api_autoscaling_v2_horizontal_pod_autoscaler_spec, &x->spec, &y->spec)) workqueue_add(c->q, o->key);
}

static void added_or_deleted(void *arg, struct object *o) { workqueue_add(((struct hpa_controller *)arg)->q, o->key); }

static void controller_done(void *arg) {
    struct hpa_controller *c = arg;
    map_done_with(&c->states, state_free);
    arena_free(c->kinds_arena);
    pthread_mutex_destroy(&c->lock);
}

int horizontalpodautoscaler_start(struct manager *m, struct err *e) {
    struct hpa_controller *c = manager_alloc(m, sizeof(*c), controller_done);
    c->m = m;
    pthread_mutex_init(&c->lock, NULL);
    c->events = manager_recorder(m, "horizontal-pod-autoscaler");
    c->q = manager_queue(m, "horizontalpodautoscaler", WORKERS, reconcile, c, &client_horizontalpodautoscalers, NULL);
    struct informer_handler h = {added_or_deleted, changed, added_or_deleted, c};
    informer_add_handler(manager_informer(m, &client_horizontalpodautoscalers), &h);
    return 0;
}
