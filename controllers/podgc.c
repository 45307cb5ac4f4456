/* Pod GC: deletes pods that nobody else will (upstream pkg/controller/podgc): those of nodes that are gone,
 * those that are being deleted but were never scheduled, and ended ones beyond the threshold. Runs every
 * twenty seconds, and does nothing when there is nothing. */
#include "util.h"

#define SWEEP "!sweep"
#define PERIOD (20 * NS_PER_SEC)
#define QUARANTINE (40 * NS_PER_SEC) /* a node must be missing for this long */

struct missing {
    struct missing *next;
    int64_t since;
    char name[];
};

struct podgc {
    struct manager *m;
    struct workqueue *q;
    struct missing *missing;
};

static int force_delete(struct podgc *g, struct arena *a, const struct core_pod *p, const char *why, struct err *e) {
    const char *ns = p->metadata.namespace, *name = p->metadata.name;
    struct client_opts o = {.cause = p->metadata.resource_version, .subresource = "status"};
    if (!pod_is_terminal(p)) {
        char now[KTIME_MAX];
        ktime_format(ktime_now(), now);
        const char *text =
            arena_printf(a, "{\"status\":{\"phase\":\"Failed\"%s%s%s%s%s}}",
                         why ? ",\"conditions\":[{\"type\":\"DisruptionTarget\",\"status\":\"True\","
                               "\"reason\":\"DeletionByPodGC\",\"message\":\""
                             : "",
                         why ? why : "", why ? "\",\"lastTransitionTime\":\"" : "", why ? now : "", why ? "\"}]" : "");
        client_patch(g->m->client, a, &client_pods, ns, name, CLIENT_PATCH_STRATEGIC, text, strlen(text), &o, NULL,
                     NULL);
    }
    struct client_delete_opts d = {.cause = o.cause, .uid = p->metadata.uid, .grace_period_seconds = &(int64_t){0}};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(g->m->client, &client_pods, ns, name, &d, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return r;
}

/* True when the node is missing for long enough, also on the server. */
static bool node_is_gone(struct podgc *g, struct arena *a, const char *name) {
    _cleanup_object_ struct object *o = informer_get(manager_informer(g->m, &client_nodes), name);
    struct missing **p = &g->missing;
    while (*p && strcmp((*p)->name, name) != 0) p = &(*p)->next;
    if (o) {
        struct missing *x = *p;
        if (x) {
            *p = x->next;
            free(x);
        }
        return false;
    }
    if (!*p) {
        size_t n = strlen(name) + 1;
        struct missing *x = xmalloc(sizeof(*x) + n);
        x->since = mono_ns();
        x->next = NULL;
        memcpy(x->name, name, n);
        *p = x;
        return false;
    }
    if (mono_ns() - (*p)->since < QUARANTINE) return false;
    _cleanup_err_ struct err e = {0};
    struct core_node node;
    return client_get(g->m->client, a, &client_nodes, NULL, name, &node, &e) < 0 && client_err_not_found(&e);
}

static int by_age(const void *x, const void *y) {
    const struct object *a = *(struct object *const *)x, *b = *(struct object *const *)y;
    return ktime_cmp(a->meta->creation_timestamp, b->meta->creation_timestamp);
}

static int sweep(void *arg, struct arena *a, const char *key, struct err *e) {
    struct podgc *g = arg;
    _cleanup_object_list_ struct object_list l = {0};
    informer_list(manager_informer(g->m, &client_pods), NULL, &l);
    struct object **ended = arena_alloc(a, (l.n + 1) * sizeof(*ended));
    size_t n_ended = 0;
    int result = 0;
    for (size_t i = 0; i < l.n; i++) {
        const struct core_pod *p = l.items[i]->obj;
        int r = 0;
        if (!str_empty(p->spec.node_name)) {
            if (node_is_gone(g, a, p->spec.node_name)) r = force_delete(g, a, p, "PodGC: node no longer exists", e);
        } else if (p->metadata.deletion_timestamp.set && !pod_is_terminal(p)) {
            r = force_delete(g, a, p, NULL, e);
        }
        if (pod_is_terminal(p) && !p->metadata.deletion_timestamp.set) ended[n_ended++] = l.items[i];
        if (r < 0) result = r;
    }
    int64_t limit = g->m->opt.terminated_pod_threshold;
    if (limit > 0 && n_ended > (size_t)limit) {
        qsort(ended, n_ended, sizeof(*ended), by_age);
        for (size_t i = 0; i < n_ended - (size_t)limit; i++) force_delete(g, a, ended[i]->obj, NULL, e);
    }
    workqueue_add_after(g->q, SWEEP, PERIOD);
    return result;
}

static void done(void *p) {
    struct podgc *g = p;
    while (g->missing) {
        struct missing *x = g->missing;
        g->missing = x->next;
        free(x);
    }
}

int podgc_start(struct manager *m, struct err *e) {
    struct podgc *g = manager_alloc(m, sizeof(*g), done);
    g->m = m;
    g->q = manager_queue(m, "pod-gc", 1, sweep, g, &client_pods, &client_nodes, NULL);
    workqueue_add(g->q, SWEEP);
    return 0;
}
