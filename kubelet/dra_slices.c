/* ResourceSlices of drivers that are gone, and claims of pods that are: one thread looks after both. A driver is in reach as
 * long as its socket takes connections; its slices go half a minute after that ended, so that an update of the driver
 * leaves them alone. Upstream: plugin/dra_plugin_manager.go, reconcileLoop of manager.go. */
#include <sys/socket.h>
#include <sys/un.h>

#include "kubelet/dra_internal.h"
#include "kubelet/pods.h"

#define WIPE_AFTER_NS (30 * NS_PER_SEC)
#define LOOK_EVERY_NS (5 * NS_PER_SEC)
#define RECONCILE_EVERY_NS (60 * NS_PER_SEC)
#define RETRY_FIRST_NS NS_PER_SEC
#define RETRY_MAX_NS (300 * NS_PER_SEC)

/* ---- slices ---- */

static struct dra_wipe **wipe_of(struct dra *d, const char *driver) {
    struct dra_wipe **at = &d->wipes;
    while (*at && !str_eq((*at)->driver, driver)) at = &(*at)->next;
    return at;
}

void dra_slices_wipe(struct dra *d, const char *driver, int64_t in_ns) {
    if (*wipe_of(d, driver)) return;
    struct dra_wipe *w = xcalloc(1, sizeof(*w));
    *w = (struct dra_wipe){
        .next = d->wipes, .driver = xstrdup(driver), .at = mono_ns() + in_ns, .delay = RETRY_FIRST_NS};
    d->wipes = w;
    pthread_cond_signal(&d->work);
}

static void wipe_drop(struct dra_wipe **at) {
    struct dra_wipe *w = *at;
    *at = w->next;
    free(w->driver);
    free(w);
}

void dra_slices_sync(struct dra *d, const char *driver) {
    bool usable = false;
    for (const struct dra_endpoint *p = d->endpoints; p; p = p->next)
        usable |= p->connected && str_eq(p->driver, driver);
    struct dra_wipe **at = wipe_of(d, driver);
    if (!usable)
        dra_slices_wipe(d, driver, WIPE_AFTER_NS);
    else if (*at)
        wipe_drop(at);
    pthread_cond_signal(&d->work);
}

static int wipe(struct dra *d, const char *driver) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    const char *selector =
        arena_printf(a, "spec.nodeName=%s%s%s", d->kl->node_name, *driver ? ",spec.driver=" : "", driver);
    struct client_request rq = {.method = "DELETE",
                                .path = client_path_query(a, client_path(a, &client_resourceslices, NULL, NULL, NULL),
                                                          "fieldSelector", selector)};
    struct client_response rs = {0};
    struct core_node node = {0};
    int r = client_get(d->kl->client, a, &client_nodes, NULL, d->kl->node_name, &node, &e); /* after it registered */
    if (r == 0) r = client_do(d->kl->client, &rq, &rs, &e);
    client_response_done(&rs);
    return r < 0 && !client_err_not_found(&e) ? r : r < 0 && !node.metadata.name ? -EAGAIN : 0;
}

/* The wipes that are due, one by one, without the lock. */
static void wipe_due(struct dra *d) {
    for (struct dra_wipe *w = d->wipes; w && !d->stopping; w = w->next) {
        if (w->at > mono_ns()) continue;
        _cleanup_free_ char *driver = xstrdup(w->driver);
        pthread_mutex_unlock(&d->lock);
        int r = wipe(d, driver);
        pthread_mutex_lock(&d->lock);
        struct dra_wipe **at = wipe_of(d, driver);
        if (!*at) return; /* the driver is back; the list changed */
        if (r == 0) {
            wipe_drop(at);
            return;
        }
        (*at)->at = mono_ns() + (*at)->delay;
        (*at)->delay = MIN_OF((*at)->delay * 2, RETRY_MAX_NS);
        return;
    }
}

/* ---- drivers ---- */

static bool answers(const char *path) {
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (str_has_prefix(path, "unix://")) path += strlen("unix://");
    if (strlen(path) >= sizeof(sa.sun_path)) return true;
    memcpy(sa.sun_path, path, strlen(path));
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return true;
    return connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0 || errno == EAGAIN || errno == EINPROGRESS;
}

static void look_at_drivers(struct dra *d) {
    for (struct dra_endpoint *p = d->endpoints; p; p = p->next) {
        bool now = answers(p->path);
        if (now == p->connected) continue;
        p->connected = now;
        log_info(now ? "driver of devices is in reach" : "driver of devices is out of reach", "driver", p->driver,
                 NULL);
        dra_slices_sync(d, p->driver);
    }
}

/* ---- claims of pods that are gone ---- */

/* Pods end by their workers, which undo their claims; this is for those that no worker knows, after a restart. */
static bool pod_known(struct dra *d, const char *uid) {
    if (!d->kl->pods) return true;
    struct pod_worker *w = pods_get(d->kl->pods, uid);
    if (!w) return false;
    worker_unref(w);
    return true;
}

static void reconcile(struct dra *d) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct {
        const char *uid, *ns, *name;
    } *gone = NULL;
    size_t n = 0, cap = 0;
    if (!d->kl->pod_informer || !informer_synced(d->kl->pod_informer)) return;
    for (struct dra_claim *c = d->claims; c; c = c->next)
        JSON_FOREACH_MEMBER(m, json_get(c->state, "PodUIDs")) {
            ARENA_GROW(a, gone, n, cap);
            gone[n].uid = arena_strdup(a, m->key);
            gone[n].ns = arena_strdup(a, json_get_str(c->state, "Namespace"));
            gone[n++].name = arena_strdup(a, json_get_str(c->state, "ClaimName"));
        }
    pthread_mutex_unlock(&d->lock);
    for (size_t i = 0; i < n; i++) {
        _cleanup_err_ struct err e = {0};
        if (pod_known(d, gone[i].uid)) continue;
        if (dra_unprepare_claims(d, gone[i].uid, gone[i].ns, &gone[i].name, 1, &e) < 0)
            log_warn("cannot unprepare a claim of a pod that is gone", "claim", gone[i].name, "namespace", gone[i].ns,
                     "error", e.msg, NULL);
    }
    pthread_mutex_lock(&d->lock);
}

/* ---- the thread ---- */

static int64_t next_work(const struct dra *d, int64_t look_at, int64_t reconcile_at) {
    int64_t at = INT64_MAX;
    for (const struct dra_wipe *w = d->wipes; w; w = w->next) at = MIN_OF(at, w->at);
    if (d->endpoints) at = MIN_OF(at, look_at);
    if (d->claims) at = MIN_OF(at, reconcile_at);
    return at;
}

void *dra_thread(void *arg) {
    struct dra *d = arg;
    int64_t look_at = mono_ns() + LOOK_EVERY_NS, reconcile_at = mono_ns() + LOOK_EVERY_NS;
    pthread_mutex_lock(&d->lock);
    while (!d->stopping) {
        int64_t now = mono_ns(), at = next_work(d, look_at, reconcile_at);
        if (at > now) {
            struct timespec ts = {.tv_sec = at / NS_PER_SEC, .tv_nsec = at % NS_PER_SEC};
            if (at == INT64_MAX)
                pthread_cond_wait(&d->work, &d->lock);
            else
                pthread_cond_timedwait(&d->work, &d->lock, &ts);
            continue;
        }
        if (now >= look_at) {
            look_at = now + LOOK_EVERY_NS;
            look_at_drivers(d);
        }
        if (now >= reconcile_at) {
            reconcile_at = now + RECONCILE_EVERY_NS;
            reconcile(d);
        }
        wipe_due(d);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}
