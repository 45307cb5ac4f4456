/* DaemonSet controller: one pod on every node that suits (upstream pkg/controller/daemon).
 *
 * Whether a node suits is a question of node affinity and taints; the pod then names the node in a required
 * node affinity and the scheduler does the rest. An update replaces pods node by node: with maxUnavailable
 * old ones go first, with maxSurge new ones come first. */
#include "history.h"
#include "pkg/client/nodematch.h"
#include "rollout.h"

enum { WORKERS = 2, BURST = 250 };
#define HASH_LABEL REVISION_LABEL
#define GENERATION_LABEL "pod-template-generation"
#define GENERATION_NOTE "deprecated.daemonset.template.generation"
#define FAILED_RETRY (5 * NS_PER_SEC)

struct ds_controller {
    struct manager *m;
    struct workqueue *q;
    struct expectations *expect;
    struct event_recorder *events;
};

struct node_pods {
    const struct core_node *n;
    bool run, stay;                     /* wanted here; may stay here */
    const struct core_pod *old, *fresh; /* live pods by template */
};

struct daemons {
    struct ds_controller *c;
    struct arena *a;
    const char *key;
    const struct apps_daemon_set *ds;
    struct claimed pods;
    struct object_list nodes;
    struct node_pods *items;
    size_t n;
    const char *hash;
    struct object **doomed; /* pods to delete */
    size_t n_doomed;
    const char **births; /* nodes to get a pod */
    size_t n_births;
    int64_t wait;
};

/* ---- which nodes ---- */

/* What pods of a DaemonSet bear without being told. */
static const struct {
    const char *key, *effect;
    bool host_network;
} tolerated[] = {
    {"node.kubernetes.io/not-ready", "NoExecute", false},
    {"node.kubernetes.io/unreachable", "NoExecute", false},
    {"node.kubernetes.io/disk-pressure", "NoSchedule", false},
    {"node.kubernetes.io/memory-pressure", "NoSchedule", false},
    {"node.kubernetes.io/pid-pressure", "NoSchedule", false},
    {"node.kubernetes.io/unschedulable", "NoSchedule", false},
    {"node.kubernetes.io/network-unavailable", "NoSchedule", true},
};

static void add_tolerations(struct arena *a, struct core_pod_spec *s) {
    struct core_toleration_vec v = {.items =
                                        arena_zalloc(a, (s->tolerations.n + ARRAY_LEN(tolerated)) * sizeof(*v.items))};
    for (size_t i = 0; i < s->tolerations.n; i++) v.items[v.n++] = s->tolerations.items[i];
    for (size_t k = 0; k < ARRAY_LEN(tolerated); k++) {
        if (tolerated[k].host_network && !s->host_network) continue;
        v.items[v.n++] =
            (struct core_toleration){.key = tolerated[k].key, .operator= "Exists", .effect = tolerated[k].effect};
    }
    s->tolerations = v;
}

/* Required node affinity to the one node, in place of whatever matchFields there were; other terms are kept.
 */
static void pin(struct arena *a, struct core_pod_spec *s, const char *node) {
    struct core_node_selector_requirement *q = arena_zalloc(a, sizeof(*q));
    q->key = "metadata.name";
    q->operator= "In";
    q->values.items = arena_memdup(a, &node, sizeof(node));
    q->values.n = 1;
    struct core_affinity *af = arena_zalloc(a, sizeof(*af));
    struct core_node_affinity *na = arena_zalloc(a, sizeof(*na));
    struct core_node_selector *ns = arena_zalloc(a, sizeof(*ns));
    if (s->affinity) *af = *s->affinity;
    if (af->node_affinity) *na = *af->node_affinity;
    const struct core_node_selector *had = na->required_during_scheduling_ignored_during_execution;
    size_t n = had && had->node_selector_terms.n ? had->node_selector_terms.n : 1;
    ns->node_selector_terms.items = arena_zalloc(a, n * sizeof(*ns->node_selector_terms.items));
    ns->node_selector_terms.n = n;
    for (size_t i = 0; i < n; i++) {
        if (had && had->node_selector_terms.n) ns->node_selector_terms.items[i] = had->node_selector_terms.items[i];
        ns->node_selector_terms.items[i].match_fields = (struct core_node_selector_requirement_vec){q, 1};
    }
    na->required_during_scheduling_ignored_during_execution = ns;
    af->node_affinity = na;
    s->affinity = af;
}

static void judge_node(struct daemons *d, const struct core_pod *probe, struct node_pods *x) {
    if (!pod_node_affinity_matches(probe, x->n) || (!str_empty(d->ds->spec.template.spec.node_name) &&
                                                    !str_eq(d->ds->spec.template.spec.node_name, x->n->metadata.name)))
        return;
    x->run = !untolerated(&probe->spec.tolerations, &x->n->spec.taints, "NoSchedule,NoExecute");
    x->stay = !untolerated(&probe->spec.tolerations, &x->n->spec.taints, "NoExecute");
}

static const char *node_of(const struct core_pod *p) {
    if (!str_empty(p->spec.node_name)) return p->spec.node_name;
    const struct core_affinity *af = p->spec.affinity;
    const struct core_node_selector *s =
        af && af->node_affinity ? af->node_affinity->required_during_scheduling_ignored_during_execution : NULL;
    for (size_t i = 0; s && i < s->node_selector_terms.n; i++) {
        const struct core_node_selector_requirement_vec *f = &s->node_selector_terms.items[i].match_fields;
        for (size_t k = 0; k < f->n; k++)
            if (str_eq(f->items[k].key, "metadata.name") && f->items[k].values.n == 1)
                return f->items[k].values.items[0];
    }
    return NULL;
}

/* ---- what to do ---- */

static bool is_current(const struct daemons *d, const struct core_pod *p) {
    if (str_eq(str_map_get(&p->metadata.labels, HASH_LABEL), d->hash)) return true;
    return false;
}

static void doom(struct daemons *d, const struct object *o) {
    for (size_t i = 0; i < d->n_doomed; i++)
        if (d->doomed[i] == o) return;
    d->doomed[d->n_doomed++] = (struct object *)o;
}

static struct object *object_of(struct daemons *d, const struct core_pod *p) {
    for (size_t i = 0; i < d->pods.n; i++)
        if (d->pods.items[i]->obj == p) return d->pods.items[i];
    return NULL;
}

static struct node_pods *on_node(struct daemons *d, const char *name) {
    for (size_t i = 0; name && i < d->n; i++)
        if (str_eq(d->items[i].n->metadata.name, name)) return &d->items[i];
    return NULL;
}

/* A pod that ended is replaced, but not in a tight loop. */
static void replace_ended(struct daemons *d, struct object *o) {
    const struct core_pod *p = o->obj;
    int64_t age = ktime_diff_ns(ktime_now(), p->metadata.creation_timestamp);
    if (age < FAILED_RETRY) {
        d->wait = MIN_OF(d->wait, FAILED_RETRY - age);
        return;
    }
    event_record_obj(d->c->events, &client_daemonsets, &d->ds->metadata, "Warning",
                     str_eq(p->status.phase, "Failed") ? "FailedDaemonPod" : "SucceededDaemonPod",
                     "Found %s daemon pod %s/%s on node %s, will try to kill it",
                     str_eq(p->status.phase, "Failed") ? "failed" : "succeeded", p->metadata.namespace,
                     p->metadata.name, str_or_empty(p->spec.node_name));
    doom(d, o);
}

/* Sorts pods to nodes. Of two with the same template the older stays. */
static void place_pods(struct daemons *d) {
    for (size_t i = 0; i < d->pods.n; i++) {
        struct object *o = d->pods.items[i];
        const struct core_pod *p = o->obj;
        struct node_pods *x = on_node(d, node_of(p));
        if (p->metadata.deletion_timestamp.set) continue;
        if (!x) continue; /* the node is gone: pod GC's business */
        if (!x->stay) {
            doom(d, o);
        } else if (pod_is_terminal(p)) {
            const struct core_pod **slot = is_current(d, p) ? &x->fresh : &x->old;
            if (!*slot) *slot = p; /* holds the place until it is replaced */
            replace_ended(d, o);
        } else {
            const struct core_pod **slot = is_current(d, p) ? &x->fresh : &x->old;
            bool newer = *slot && !pod_is_terminal(*slot) &&
                         ktime_cmp((*slot)->metadata.creation_timestamp, p->metadata.creation_timestamp) <= 0;
            if (newer) {
                doom(d, o);
            } else {
                if (*slot) doom(d, object_of(d, *slot));
                *slot = p;
            }
        }
    }
}

static bool available(const struct daemons *d, const struct core_pod *p, int64_t *wait) {
    return p && pod_is_available(p, d->ds->spec.min_ready_seconds, ktime_now(), wait);
}

static bool leaving_on(struct daemons *d, const char *node) {
    for (size_t i = 0; i < d->pods.n; i++) {
        const struct core_pod *p = d->pods.items[i]->obj;
        if (p->metadata.deletion_timestamp.set && str_eq(node_of(p), node)) return true;
    }
    return false;
}

static void fill_nodes(struct daemons *d) {
    for (size_t i = 0; i < d->n; i++) {
        struct node_pods *x = &d->items[i];
        if (x->run && !x->old && !x->fresh && !leaving_on(d, x->n->metadata.name))
            d->births[d->n_births++] = x->n->metadata.name;
    }
}

static int32_t wanted_nodes(const struct daemons *d) {
    int32_t n = 0;
    for (size_t i = 0; i < d->n; i++) n += d->items[i].run;
    return n;
}

static void roll(struct daemons *d) {
    const struct apps_rolling_update_daemon_set *u = d->ds->spec.update_strategy.rolling_update;
    int32_t wanted = wanted_nodes(d);
    int32_t surge = u ? int_or_percent(&u->max_surge, wanted, true) : 0,
            out = u ? int_or_percent(&u->max_unavailable, wanted, true) : 1;
    if (surge == 0 && out == 0) out = 1;
    int32_t down = 0, surged = 0;
    for (size_t i = 0; i < d->n; i++) {
        struct node_pods *x = &d->items[i];
        if (!x->run) continue;
        down += !available(d, x->fresh, NULL) && !available(d, x->old, NULL);
        surged += x->fresh && x->old;
    }
    for (size_t i = 0; i < d->n; i++) {
        struct node_pods *x = &d->items[i];
        if (!x->run || !x->old) continue;
        bool old_ok = available(d, x->old, NULL);
        if (surge) {
            if (x->fresh ? available(d, x->fresh, &d->wait) || !old_ok : false)
                doom(d, object_of(d, x->old));
            else if (!x->fresh && (surged < surge || !old_ok)) {
                d->births[d->n_births++] = x->n->metadata.name;
                surged++;
            }
        } else if (x->fresh) {
            doom(d, object_of(d, x->old));
        } else if (!old_ok || down < out) {
            doom(d, object_of(d, x->old));
            down += old_ok;
        }
    }
}

/* ---- doing it ---- */

static void deletion_failed(void *arg, const struct object *pod) {
    struct daemons *d = arg;
    deletion_observed(d->c->expect, d->key, pod->meta->uid);
}

static int act(struct daemons *d, struct err *e) {
    struct owner owner = {&client_daemonsets, &d->ds->metadata};
    struct pod_control pc = {d->c->m, d->c->events, owner, d->ds->metadata.resource_version};
    size_t births = MIN_OF(d->n_births, (size_t)BURST), dead = MIN_OF(d->n_doomed, (size_t)BURST);
    for (size_t i = 0; i < dead; i++) expect_deletion(d->c->expect, d->key, d->doomed[i]->meta->uid);
    expect_creations(d->c->expect, d->key, (int)births);
    struct core_pod pod;
    pod_from_template(d->a, &d->ds->spec.template, &owner, &pod);
    map_set(d->a, &pod.metadata.labels, HASH_LABEL, d->hash);
    const char *generation = str_map_get(&d->ds->metadata.annotations, GENERATION_NOTE);
    if (generation) map_set(d->a, &pod.metadata.labels, GENERATION_LABEL, generation);
    add_tolerations(d->a, &pod.spec);
    int result = 0;
    for (size_t i = 0; i < births; i++) {
        struct core_pod p = pod;
        pin(d->a, &p.spec, d->births[i]);
        int r = result < 0 ? result : pod_control_create(&pc, d->a, &p, e);
        if (r < 0) creation_observed(d->c->expect, d->key);
        if (r < 0) result = r;
    }
    if (pod_control_delete_many(&pc, d->a, d->doomed, dead, deletion_failed, d, result < 0 ? NULL : e) && result == 0)
        result = -EIO;
    return result;
}

static int write_status(struct daemons *d, struct err *e) {
    struct apps_daemon_set fresh = *d->ds;
    struct apps_daemon_set_status *s = &fresh.status;
    s->desired_number_scheduled = s->current_number_scheduled = s->number_misscheduled = s->number_ready =
        s->number_available = s->updated_number_scheduled = 0;
    for (size_t i = 0; i < d->n; i++) {
        const struct node_pods *x = &d->items[i];
        const struct core_pod *p = available(d, x->fresh, NULL) || !x->old ? x->fresh : x->old;
        if (!x->run) {
            s->number_misscheduled += x->old || x->fresh;
            continue;
        }
        s->desired_number_scheduled++;
        if (!p) continue;
        s->current_number_scheduled++;
        s->number_ready += pod_is_ready(p);
        s->number_available += available(d, p, &d->wait);
        s->updated_number_scheduled += x->fresh != NULL;
    }
    s->number_unavailable = s->desired_number_scheduled - s->number_available;
    s->observed_generation = d->ds->metadata.generation;
    if (api_equal(&api_apps_daemon_set_status, s, &d->ds->status)) return 0;
    struct client_opts o = {.cause = d->ds->metadata.resource_version};
    return client_update_status(d->c->m->client, d->a, &client_daemonsets, d->ds->metadata.namespace, &fresh, &o, NULL,
                                e);
}

static bool revision_is_live(void *arg, const struct apps_controller_revision *r) {
    struct daemons *d = arg;
    const char *hash = str_map_get(&r->metadata.labels, HASH_LABEL);
    if (str_eq(hash, d->hash)) return true;
    for (size_t i = 0; i < d->pods.n; i++)
        if (str_eq(str_map_get(&d->pods.items[i]->meta->labels, HASH_LABEL), hash)) return true;
    return false;
}

static int sync_set(struct daemons *d, const struct owner *owner, struct err *e) {
    struct history h;
    const char *name;
    int r = history_find(d->c->m, d->a, owner, d->ds->spec.selector, &h, e);
    if (r == 0)
        r = history_current(d->c->m, d->a, owner, &h, &d->ds->spec.template, &d->ds->spec.template.metadata.labels,
                            d->ds->status.collision_count, &name, &d->hash, e);
    if (r < 0) {
        history_done(&h);
        return r;
    }
    struct core_pod probe = {.spec = d->ds->spec.template.spec};
    add_tolerations(d->a, &probe.spec);
    informer_list(manager_informer(d->c->m, &client_nodes), NULL, &d->nodes);
    d->items = arena_zalloc(d->a, (d->nodes.n + 1) * sizeof(*d->items));
    for (size_t i = 0; i < d->nodes.n; i++) {
        d->items[d->n].n = d->nodes.items[i]->obj;
        judge_node(d, &probe, &d->items[d->n++]);
    }
    d->doomed = arena_alloc(d->a, (d->pods.n + 1) * sizeof(*d->doomed));
    d->births = arena_alloc(d->a, (2 * d->n + 1) * sizeof(*d->births));
    place_pods(d);
    if (expectations_met(d->c->expect, d->key) && !d->ds->metadata.deletion_timestamp.set) {
        fill_nodes(d);
        if (!str_eq(d->ds->spec.update_strategy.type, "OnDelete")) roll(d);
        r = act(d, e);
    }
    int32_t limit = d->ds->spec.revision_history_limit ? *d->ds->spec.revision_history_limit : 10;
    _cleanup_err_ struct err se = {0};
    int sr = write_status(d, &se);
    if (sr == 0) sr = history_trim(d->c->m, &h, limit, revision_is_live, d, &se);
    history_done(&h);
    if (r == 0 && sr < 0) {
        err_move(e, &se);
        r = sr;
    }
    return r;
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct ds_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_daemonsets), key);
    if (!o) {
        expectations_forget(c->expect, key);
        return 0;
    }
    struct daemons d = {.c = c, .a = a, .key = key, .ds = o->obj, .wait = INT64_MAX};
    if (label_selector_empty(d.ds->spec.selector)) return 0;
    struct owner owner = {&client_daemonsets, &d.ds->metadata};
    int r = claim_objects(c->m, a, &client_pods, &owner, d.ds->spec.selector, &d.pods, e);
    if (r == 0) r = sync_set(&d, &owner, e);
    if (d.wait != INT64_MAX) workqueue_add_after(c->q, key, d.wait + 10 * NS_PER_MS);
    object_list_done(&d.nodes);
    claimed_done(&d.pods);
    return r;
}

/* ---- what leads to a reconcile ---- */

static void all_sets(struct ds_controller *c) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(c->m, &client_daemonsets), NULL, &l);
    for (size_t i = 0; i < l.n; i++) workqueue_add(c->q, l.items[i]->key);
}

static void node_came(void *arg, struct object *o) { all_sets(arg); }

static void node_updated(void *arg, struct object *old, struct object *o) {
    const struct core_node *a = old->obj, *b = o->obj;
    bool same = a->metadata.labels.n == b->metadata.labels.n &&
                label_map_matches(&a->metadata.labels, &b->metadata.labels) && a->spec.taints.n == b->spec.taints.n &&
                a->spec.unschedulable == b->spec.unschedulable;
    for (size_t i = 0; same && i < a->spec.taints.n; i++)
        same = api_equal(&api_core_taint, &a->spec.taints.items[i], &b->spec.taints.items[i]);
    if (!same) all_sets(arg);
}

static char *owner_key(const struct object *pod) {
    const struct meta_owner_reference *ref = meta_controller_of(pod->meta);
    if (!ref || !str_eq(ref->kind, "DaemonSet")) return NULL;
    return xasprintf("%s/%s", str_or_empty(pod->meta->namespace), ref->name);
}

static const struct meta_label_selector *selector_of(const struct object *o) {
    return ((const struct apps_daemon_set *)o->obj)->spec.selector;
}

static void pod_added(void *arg, struct object *o) {
    struct ds_controller *c = arg;
    _cleanup_free_ char *key = owner_key(o);
    queue_add_adopters(c->q, c->m, &client_daemonsets, selector_of, o);
    if (!key) return;
    creation_observed(c->expect, key);
    workqueue_add(c->q, key);
}

static void pod_updated(void *arg, struct object *old, struct object *o) {
    struct ds_controller *c = arg;
    _cleanup_free_ char *was = owner_key(old), *key = owner_key(o);
    if (was && !str_eq(was, key)) workqueue_add(c->q, was);
    queue_add_adopters(c->q, c->m, &client_daemonsets, selector_of, o);
    if (!key) return;
    if (o->meta->deletion_timestamp.set) deletion_observed(c->expect, key, o->meta->uid);
    workqueue_add(c->q, key);
}

static void pod_deleted(void *arg, struct object *o) {
    struct ds_controller *c = arg;
    _cleanup_free_ char *key = owner_key(o);
    if (!key) return;
    deletion_observed(c->expect, key, o->meta->uid);
    workqueue_add(c->q, key);
}

int daemonset_start(struct manager *m, struct err *e) {
    struct ds_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->events = manager_recorder(m, "daemonset-controller");
    c->expect = expectations_new(m);
    c->q = manager_queue(m, "daemonset", WORKERS, reconcile, c, &client_daemonsets, &client_pods, &client_nodes,
                         &client_controllerrevisions, NULL);
    manager_watch_keys(m, &client_daemonsets, c->q);
    struct informer_handler pods = {pod_added, pod_updated, pod_deleted, c}, nodes = {node_came, node_updated, NULL, c};
    informer_add_handler(manager_informer(m, &client_pods), &pods);
    informer_add_handler(manager_informer(m, &client_nodes), &nodes);
    return 0;
}
