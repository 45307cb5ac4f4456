/* Preemption: when no node has room, pods of lower priority may have to go.
 *
 * For each node where that could help, all lower-priority pods are taken off in thought; if the pod then
 * fits, they are put back one by one, most important first, as long as it still fits. Who cannot come back is
 * a victim. The node whose victims hurt least is nominated: fewest violated disruption budgets, then lowest
 * highest priority, lowest sum, fewest, youngest. */
#include "pkg/api/meta.h"
#include "pkg/api/policy.h"
#include "scheduler.h"

enum { CANDIDATES_MIN = 100, VICTIMS_MAX = 1024 };

struct plan {
    struct sched_node *n;
    struct sched_pod **victims;
    size_t n_victims, violations;
    int32_t highest;
    int64_t sum;
    struct ktime youngest;
};

static int by_importance(const void *x, const void *y) {
    const struct sched_pod *a = *(struct sched_pod *const *)x, *b = *(struct sched_pod *const *)y;
    if (a->priority != b->priority) return a->priority > b->priority ? -1 : 1;
    return ktime_cmp(a->p->status.start_time, b->p->status.start_time);
}

/* The filters on a node as it is now; counts over the cluster are taken anew when the pod has wishes about
 * others. */
static bool fits(struct cycle *c, struct sched_node *n) {
    if (!c->n_forbidden && !c->n_anti && !c->n_affinity && !c->n_hard) return filter_pods_only(c, n) == FIT;
    struct cycle now = {.s = c->s, .a = c->a, .sp = c->sp, .p = c->p};
    bool ok = cycle_prepare(&now) == 0 && filter_pods_only(&now, n) == FIT;
    cycle_done(&now);
    return ok;
}

static bool breaks_budget(struct sched *s, const struct sched_pod *sp) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(s->pdb_inf, sp->p->metadata.namespace, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct policy_pod_disruption_budget *b = l.items[i]->obj;
        if (b->status.disruptions_allowed <= 0 && label_selector_matches(b->spec.selector, &sp->p->metadata.labels))
            return true;
    }
    return false;
}

/* The pods of lower priority on the node, and whether there are any. */
static size_t lower_pods(struct cycle *c, struct sched_node *n, struct sched_pod **out) {
    size_t k = 0;
    for (size_t i = 0; i < n->n_pods && k < VICTIMS_MAX; i++)
        if (n->pods[i]->priority < c->sp->priority) out[k++] = n->pods[i];
    return k;
}

static void weigh(struct cycle *c, struct plan *p) {
    p->highest = INT32_MIN;
    for (size_t i = 0; i < p->n_victims; i++) {
        struct sched_pod *v = p->victims[i];
        p->highest = MAX_OF(p->highest, v->priority);
        p->sum += (int64_t)v->priority + INT32_MAX + 1;
        p->violations += breaks_budget(c->s, v);
        if (ktime_cmp(v->p->status.start_time, p->youngest) > 0) p->youngest = v->p->status.start_time;
    }
}

static bool plan_node(struct cycle *c, struct sched_node *n, struct plan *out) {
    struct sched_pod **low = arena_alloc(c->a, VICTIMS_MAX * sizeof(*low));
    size_t k = lower_pods(c, n, low);
    if (!k) return false;
    qsort(low, k, sizeof(*low), by_importance);
    for (size_t i = 0; i < k; i++) cache_pod_remove(c->s, low[i]);
    bool ok = fits(c, n);
    *out = (struct plan){.n = n, .victims = arena_alloc(c->a, k * sizeof(*low))};
    for (size_t i = 0; i < k; i++) {
        cache_pod_place(c->s, low[i], n);
        if (!ok || fits(c, n)) continue;
        cache_pod_remove(c->s, low[i]);
        out->victims[out->n_victims++] = low[i];
    }
    for (size_t i = 0; i < out->n_victims; i++) cache_pod_place(c->s, out->victims[i], n);
    if (ok) weigh(c, out);
    return ok && out->n_victims > 0;
}

static bool better(const struct plan *a, const struct plan *b) {
    if (a->violations != b->violations) return a->violations < b->violations;
    if (a->highest != b->highest) return a->highest < b->highest;
    if (a->sum != b->sum) return a->sum < b->sum;
    if (a->n_victims != b->n_victims) return a->n_victims < b->n_victims;
    return ktime_cmp(a->youngest, b->youngest) > 0;
}

/* ---- doing it ---- */

static void ignore_result(void *arg, int result, const struct client_response *r, struct err *e) {}

static void evict_victim(struct cycle *c, const struct sched_pod *v, const struct sched_node *n) {
    struct sched *s = c->s;
    char now[KTIME_MAX];
    ktime_format(ktime_now(), now);
    const char *ns = v->p->metadata.namespace, *name = v->p->metadata.name;
    event_record_obj(s->events, &client_pods, &v->p->metadata, "Normal", "Preempted", "Preempted by pod %s on node %s",
                     str_or_empty(c->p->metadata.uid), n->name);
    const char *mark =
        arena_printf(c->a,
                     "{\"status\":{\"conditions\":[{\"type\":\"DisruptionTarget\",\"status\":\"True\","
                     "\"reason\":\"PreemptionByScheduler\",\"message\":\"%s: preempting to accommodate a higher "
                     "priority pod\",\"lastTransitionTime\":\"%s\"}]}}",
                     s->name, now);
    struct client_request patch = {.method = "PATCH",
                                   .body = mark,
                                   .body_len = strlen(mark),
                                   .cause = c->sp->o->rv,
                                   .path = client_path(c->a, &client_pods, ns, name, "status"),
                                   .content_type = "application/strategic-merge-patch+json"};
    client_do_async(s->client, &patch, ignore_result, NULL);
    const char *body =
        arena_printf(c->a, "{\"kind\":\"DeleteOptions\",\"apiVersion\":\"v1\",\"preconditions\":{\"uid\":\"%s\"}}",
                     str_or_empty(v->p->metadata.uid));
    struct client_request del = {.method = "DELETE",
                                 .body = body,
                                 .body_len = strlen(body),
                                 .cause = c->sp->o->rv,
                                 .path = client_path(c->a, &client_pods, ns, name, NULL)};
    client_do_async(s->client, &del, ignore_result, NULL);
}

static bool victims_are_leaving(struct cycle *c) {
    struct sched_node *n = c->sp->nominated;
    for (size_t i = 0; n && i < n->n_pods; i++)
        if (n->pods[i]->priority < c->sp->priority && n->pods[i]->p->metadata.deletion_timestamp.set) return true;
    return false;
}

static const char *summary(struct cycle *c, size_t hopeless, size_t without) {
    const char *sep = hopeless && without ? ", " : "";
    const char *h = hopeless ? arena_printf(c->a, "%zu Preemption is not helpful for scheduling", hopeless) : "";
    const char *w = without ? arena_printf(c->a, "%zu No preemption victims found for incoming pod", without) : "";
    bool swap = strcmp(h, w) > 0;
    return arena_printf(c->a, "preemption: 0/%zu nodes are available: %s%s%s.", c->s->n_live, swap ? w : h, sep,
                        swap ? h : w);
}

const char *preempt(struct cycle *c, const uint8_t *verdicts) {
    struct sched *s = c->s;
    if (str_eq(c->p->spec.preemption_policy, "Never")) return "preemption: not eligible due to preemptionPolicy=Never.";
    if (victims_are_leaving(c)) return "preemption: not eligible due to a terminating pod on the nominated node.";
    struct plan best = {0}, p;
    size_t hopeless = 0, without = 0, found = 0, enough = MAX_OF(s->n_live / 10, (size_t)CANDIDATES_MIN);
    size_t n = s->n_nodes, start = n ? s->next_start % n : 0;
    for (size_t i = 0; i < n && found < enough; i++) {
        struct sched_node *node = s->nodes[(start + i) % n];
        if (!node->n) continue;
        if (verdicts[node->index] != UNFIT) {
            hopeless++;
        } else if (!plan_node(c, node, &p)) {
            without++;
        } else {
            found++;
            if (!best.n || better(&p, &best)) best = p;
        }
    }
    sched_preempted(s, best.n ? best.n_victims : 0);
    if (!best.n) {
        cache_nominate(s, c->sp, NULL);
        return summary(c, hopeless, without);
    }
    for (size_t i = 0; i < best.n_victims; i++) evict_victim(c, best.victims[i], best.n);
    cache_nominate(s, c->sp, best.n);
    return NULL;
}
