#include "proxy/policies.h"

#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "proxy/nft.h"
#include "proxy/policy.h"

enum {
    BATCH_MS = 5,   /* changes that come together are one transaction */
    SYNC_MS = 100,  /* between looks whether lists have come, */
    FIRST_MS = 1000 /* and whether the policies have */
};

struct policies {
    struct client *client;
    char *node;
    struct workqueue *queue;
    const char *key;
    struct nft *nft;
    struct informer *policies, *pods, *namespaces; /* the last two NULL while there are no policies */
    struct buf done;                               /* the text that is in the kernel */
};

static void sync_after(struct policies *p, int64_t ms) { workqueue_add_after(p->queue, p->key, ms * NS_PER_MS); }
static void changed(struct policies *p) { sync_after(p, BATCH_MS); }

static void on_object(void *arg, struct object *o) { changed(arg); }
static void on_policy_update(void *arg, struct object *old, struct object *o) {
    if (old->meta->generation != o->meta->generation) changed(arg);
}
static void on_pod_update(void *arg, struct object *old, struct object *o) {
    if (policy_pod_changed(old->obj, o->obj)) changed(arg);
}
static void on_namespace_update(void *arg, struct object *old, struct object *o) {
    if (!policy_labels_equal(&old->meta->labels, &o->meta->labels)) changed(arg);
}

int policies_new(struct client *c, const char *node, struct workqueue *queue, const char *key, struct policies **out,
                 struct err *e) {
    struct nft *nft;
    int r = nft_open(&nft, e);
    if (r < 0) return r;
    struct policies *p = xcalloc(1, sizeof(*p));
    *p = (struct policies){.client = c, .node = xstrdup(node), .queue = queue, .key = key, .nft = nft};
    p->policies = informer_new(c, &client_networkpolicies, NULL);
    informer_add_handler(p->policies, &(struct informer_handler){on_object, on_policy_update, on_object, p});
    *out = p;
    return 0;
}

static void watch_pods(struct policies *p, bool on) {
    if (on == (p->pods != NULL)) return;
    if (!on) {
        informer_free(p->pods);
        informer_free(p->namespaces);
        p->pods = p->namespaces = NULL;
        return;
    }
    p->pods = informer_new(p->client, &client_pods, NULL);
    p->namespaces = informer_new(p->client, &client_namespaces, NULL);
    informer_add_handler(p->pods, &(struct informer_handler){on_object, on_pod_update, on_object, p});
    informer_add_handler(p->namespaces, &(struct informer_handler){on_object, on_namespace_update, on_object, p});
}

/* The objects of an informer, as an array that `list` keeps alive. */
static const void **objects(struct arena *a, struct informer *i, struct object_list *list) {
    if (i) informer_list(i, NULL, list);
    const void **out = arena_zalloc(a, (list->n + 1) * sizeof(*out));
    for (size_t k = 0; k < list->n; k++) out[k] = list->items[k]->obj;
    return out;
}

int policies_sync(struct policies *p, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf text = BUF_INIT;
    _cleanup_object_list_ struct object_list policies = {0}, pods = {0}, namespaces = {0};
    if (!informer_synced(p->policies)) {
        sync_after(p, FIRST_MS);
        return 0;
    }
    watch_pods(p, informer_count(p->policies) > 0);
    if (p->pods && (!informer_synced(p->pods) || !informer_synced(p->namespaces))) {
        sync_after(p, SYNC_MS);
        return 0;
    }
    struct policy_world w = {.node = p->node};
    w.policies = (const struct networking_network_policy *const *)objects(a, p->policies, &policies);
    w.pods = (const struct core_pod *const *)objects(a, p->pods, &pods);
    w.namespaces = (const struct core_namespace *const *)objects(a, p->namespaces, &namespaces);
    w.n_policies = policies.n;
    w.n_pods = pods.n;
    w.n_namespaces = namespaces.n;
    policy_text(&w, &text);
    if (p->done.data && strcmp(p->done.data, text.data) == 0) return 0;
    int r = nft_run(p->nft, text.data, e);
    buf_reset(&p->done);
    if (r == 0) buf_add(&p->done, text.data, text.len);
    return r;
}

void policies_free(struct policies *p) {
    if (!p) return;
    informer_free(p->policies);
    watch_pods(p, false);
    nft_close(p->nft);
    buf_done(&p->done);
    free(p->node);
    free(p);
}

int policies_remove(struct err *e) {
    struct nft *nft;
    int r = nft_open(&nft, e);
    if (r < 0) return r;
    r = nft_run(nft, "table ip " POLICY_TABLE "\ndelete table ip " POLICY_TABLE "\n", e);
    nft_close(nft);
    return r;
}
