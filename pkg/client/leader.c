/* Leader election: whoever holds the Lease leads; a holder that has not renewed for the lease's duration,
 * counted from when we last saw it change (clocks of machines differ), is passed over. */
#include "leader.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

#include "pkg/api/coordination.h"
#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"

enum { LEASE_MS = 15000, RENEW_MS = 10000, RETRY_MS = 2000 };

struct leader {
    struct client *c;
    char *ns, *name, *identity;
    int64_t lease_ms, renew_ms, retry_ms;
    void (*on_lost)(void *arg);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool stop;
    char *seen_rv; /* of the other holder's Lease, and when it came */
    int64_t seen_at;
};

static bool holder_is_live(struct leader *l, const struct coordination_lease *lease) {
    int64_t now = mono_ns();
    if (!str_eq(l->seen_rv, lease->metadata.resource_version)) {
        free(l->seen_rv);
        l->seen_rv = xstrdup(str_or_empty(lease->metadata.resource_version));
        l->seen_at = now;
    }
    int64_t ms = lease->spec.lease_duration_seconds ? *lease->spec.lease_duration_seconds * 1000LL : l->lease_ms;
    return now - l->seen_at < ms * NS_PER_MS;
}

/* One attempt to take or renew: 0 when we hold the Lease, -EBUSY while another does. */
static int hold(struct leader *l, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err local = {0};
    struct coordination_lease lease = {0};
    int32_t seconds = (int32_t)(l->lease_ms / 1000), transitions = 0;
    struct ktime now = ktime_now();
    int r = client_get(l->c, a, &client_leases, l->ns, l->name, &lease, &local);
    bool absent = r < 0 && client_err_not_found(&local);
    if (r < 0 && !absent) {
        err_move(e, &local);
        return r;
    }
    bool ours = !absent && str_eq(lease.spec.holder_identity, l->identity);
    if (!absent && !ours && !str_empty(lease.spec.holder_identity) && holder_is_live(l, &lease))
        return err_set(e, -EBUSY, "%s leads", lease.spec.holder_identity);
    if (lease.spec.lease_transitions) transitions = *lease.spec.lease_transitions;
    if (!ours) {
        if (!absent) transitions++;
        lease.spec.acquire_time = now;
    }
    lease.spec.holder_identity = l->identity;
    lease.spec.lease_duration_seconds = &seconds;
    lease.spec.lease_transitions = &transitions;
    lease.spec.renew_time = now;
    struct client_opts o = {.cause = lease.metadata.resource_version};
    if (!absent) return client_update(l->c, a, &client_leases, l->ns, &lease, &o, NULL, e);
    lease.metadata.name = l->name;
    lease.metadata.namespace = l->ns;
    return client_create(l->c, a, &client_leases, l->ns, &lease, NULL, NULL, e);
}

/* Sleeps; true when asked to stop. */
static bool pause_ms(struct leader *l, int64_t ms) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    int64_t until = ts.tv_sec * NS_PER_SEC + ts.tv_nsec + ms * NS_PER_MS;
    ts = (struct timespec){.tv_sec = until / NS_PER_SEC, .tv_nsec = until % NS_PER_SEC};
    pthread_mutex_lock(&l->lock);
    int r = 0;
    while (!l->stop && r == 0) r = pthread_cond_timedwait(&l->cond, &l->lock, &ts);
    bool stop = l->stop;
    pthread_mutex_unlock(&l->lock);
    return stop;
}

static void *renew(void *arg) {
    struct leader *l = arg;
    int64_t good = mono_ns();
    while (!pause_ms(l, l->retry_ms)) {
        _cleanup_err_ struct err e = {0};
        if (hold(l, &e) == 0) {
            good = mono_ns();
        } else if (e.code == -EBUSY || mono_ns() - good > l->renew_ms * NS_PER_MS) {
            log_error("leadership lost", "lease", l->name, "error", e.msg, NULL);
            l->on_lost(l->arg);
            break;
        }
    }
    return NULL;
}

static void leader_done(struct leader *l) {
    free(l->ns);
    free(l->name);
    free(l->identity);
    free(l->seen_rv);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->cond);
    free(l);
}

static char *default_identity(void) {
    char host[256] = "", uuid[37];
    gethostname(host, sizeof(host) - 1);
    uuid_new(uuid);
    return xasprintf("%s_%s", host, uuid);
}

int leader_acquire(struct client *c, const struct leader_config *cfg, void (*on_lost)(void *arg), void *arg,
                   struct leader **out, struct err *e) {
    struct leader *l = xcalloc(1, sizeof(*l));
    l->c = c;
    l->ns = xstrdup(cfg->ns);
    l->name = xstrdup(cfg->name);
    l->identity = cfg->identity ? xstrdup(cfg->identity) : default_identity();
    l->lease_ms = cfg->lease_duration_ms ? cfg->lease_duration_ms : LEASE_MS;
    l->renew_ms = cfg->renew_deadline_ms ? cfg->renew_deadline_ms : RENEW_MS;
    l->retry_ms = cfg->retry_period_ms ? cfg->retry_period_ms : RETRY_MS;
    l->on_lost = on_lost;
    l->arg = arg;
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->cond, &ca);
    pthread_condattr_destroy(&ca);
    for (;;) {
        _cleanup_err_ struct err local = {0};
        if (hold(l, &local) == 0) break;
        log_debug("not leading yet", "lease", l->name, "reason", local.msg, NULL);
        struct pollfd p = {.fd = cfg->cancel_fd > 0 ? cfg->cancel_fd : -1, .events = POLLIN};
        if (poll(&p, 1, (int)l->retry_ms) > 0) {
            leader_done(l);
            return err_set(e, -ECANCELED, "told to end");
        }
    }
    int r = pthread_create(&l->thread, NULL, renew, l);
    if (r) {
        leader_done(l);
        return err_errno(e, r, "leader election thread");
    }
    *out = l;
    return 0;
}

void leader_release(struct leader *l) {
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->cond);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    _cleanup_arena_ struct arena *a = arena_new();
    struct coordination_lease lease = {0};
    if (client_get(l->c, a, &client_leases, l->ns, l->name, &lease, NULL) == 0 &&
        str_eq(lease.spec.holder_identity, l->identity)) {
        int32_t one = 1;
        lease.spec.holder_identity = "";
        lease.spec.lease_duration_seconds = &one;
        lease.spec.renew_time = ktime_now();
        client_update(l->c, a, &client_leases, l->ns, &lease, NULL, NULL, NULL);
    }
    leader_done(l);
}
