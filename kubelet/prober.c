/* See prober.h. */
#include "kubelet/prober.h"

#include <time.h>

enum { MAX_THREADS = 64, IDLE_SECONDS = 30, DEFAULT_PERIOD = 10, DEFAULT_FAILURES = 3 };
static const char *const kind_names[] = {"Liveness", "Readiness", "Startup"};

struct probe {
    struct probe *next;
    struct object *pod;
    const struct core_container *container;
    const struct core_probe *spec;
    enum probe_kind kind;
    struct probe_count count;
    char *id, *pod_ip; /* of the instance that runs; NULL: none */
    int64_t started_wall, due;
    uint64_t results[3]; /* by enum probe_result; a warning is a success */
    bool busy, gone;
};

struct prober {
    struct kubelet *kl;
    void (*changed)(void *arg, const char *uid);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t wake, drained;
    struct probe *probes;
    unsigned threads, waiting;
    bool stopping;
};

/* ---- counting ---- */

void probe_count_reset(struct probe_count *c, enum probe_kind kind) {
    *c = (struct probe_count){.last = PROBE_UNKNOWN};
    c->verdict = kind == PROBE_LIVENESS ? PROBE_SUCCESS : kind == PROBE_READINESS ? PROBE_FAILURE : PROBE_UNKNOWN;
}

bool probe_count_add(struct probe_count *c, enum probe_kind kind, const struct core_probe *spec, enum probe_result r) {
    if (r == PROBE_UNKNOWN || c->on_hold) return false;
    if (c->last == r) {
        c->run++;
    } else {
        c->last = r;
        c->run = 1;
    }
    int failures = spec->failure_threshold > 0 ? spec->failure_threshold : DEFAULT_FAILURES;
    int successes = spec->success_threshold > 0 ? spec->success_threshold : 1;
    if (c->run < (r == PROBE_FAILURE ? failures : successes)) return false;
    bool changed = c->verdict != r;
    c->verdict = r;
    if (r == PROBE_FAILURE && kind != PROBE_READINESS) {
        c->on_hold = true;
        c->run = 0;
    }
    return changed;
}

/* ---- life ---- */

static void probe_free(struct probe *p) {
    object_unref(p->pod);
    free(p->id);
    free(p->pod_ip);
    free(p);
}

struct prober *prober_new(struct kubelet *kl, void (*changed)(void *arg, const char *uid), void *arg) {
    struct prober *pr = xcalloc(1, sizeof(*pr));
    pr->kl = kl;
    pr->changed = changed;
    pr->arg = arg;
    pthread_mutex_init(&pr->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&pr->wake, &ca);
    pthread_cond_init(&pr->drained, &ca);
    pthread_condattr_destroy(&ca);
    return pr;
}

void prober_free(struct prober *pr) {
    if (!pr) return;
    pthread_mutex_lock(&pr->lock);
    pr->stopping = true;
    pthread_cond_broadcast(&pr->wake);
    while (pr->threads) pthread_cond_wait(&pr->drained, &pr->lock);
    pthread_mutex_unlock(&pr->lock);
    for (struct probe *p = pr->probes, *next; p; p = next) {
        next = p->next;
        probe_free(p);
    }
    pthread_cond_destroy(&pr->wake);
    pthread_cond_destroy(&pr->drained);
    pthread_mutex_destroy(&pr->lock);
    free(pr);
}

static struct probe *find(struct prober *pr, const char *uid, const char *container, enum probe_kind kind) {
    for (struct probe *p = pr->probes; p; p = p->next)
        if (!p->gone && p->kind == kind && str_eq(p->container->name, container) && str_eq(p->pod->meta->uid, uid))
            return p;
    return NULL;
}

/* ---- the threads ---- */

static bool startup_pending(struct prober *pr, const struct probe *p) {
    if (p->kind == PROBE_STARTUP) return false;
    struct probe *s = find(pr, p->pod->meta->uid, p->container->name, PROBE_STARTUP);
    return s && s->count.verdict != PROBE_SUCCESS;
}

static int64_t period_ns(const struct probe *p) {
    return (p->spec->period_seconds > 0 ? p->spec->period_seconds : DEFAULT_PERIOD) * NS_PER_SEC;
}

static bool resting(struct prober *pr, const struct probe *p) {
    if (p->gone || p->busy || !p->id || p->count.on_hold) return true;
    if (p->kind == PROBE_STARTUP && p->count.verdict == PROBE_SUCCESS) return true;
    return startup_pending(pr, p);
}

/* The probe that is due first, or NULL. */
static struct probe *next_due(struct prober *pr) {
    struct probe *best = NULL;
    for (struct probe *p = pr->probes; p; p = p->next)
        if (!resting(pr, p) && (!best || p->due < best->due)) best = p;
    return best;
}

static void sweep(struct prober *pr) {
    for (struct probe **at = &pr->probes; *at;) {
        struct probe *p = *at;
        if (p->gone && !p->busy) {
            *at = p->next;
            probe_free(p);
        } else {
            at = &p->next;
        }
    }
}

/* With the lock held; drops it while the probe runs. */
static void carry_out(struct prober *pr, struct probe *p) {
    struct object *pod = object_ref(p->pod);
    char *id = xstrdup(p->id), *ip = p->pod_ip ? xstrdup(p->pod_ip) : NULL;
    char *output = xcalloc(1, HOOK_OUTPUT_MAX);
    struct hook_target t = {.pod = pod->obj, .container = p->container, .container_id = id, .pod_ip = ip};
    int64_t planned = p->due;
    p->busy = true;
    pthread_mutex_unlock(&pr->lock);
    enum probe_result got = hook_probe(pr->kl, p->spec, &t, output), r = got == PROBE_WARNING ? PROBE_SUCCESS : got;
    pthread_mutex_lock(&pr->lock);
    p->busy = false;
    p->results[r]++;
    int64_t now = mono_ns();
    p->due = planned + period_ns(p);
    if (p->due < now) p->due = now + period_ns(p);
    bool current = !p->gone && str_eq(p->id, id);
    bool changed = current && probe_count_add(&p->count, p->kind, p->spec, r);
    enum probe_kind kind = p->kind;
    const char *container = t.container->name;
    pthread_mutex_unlock(&pr->lock);
    if (current && r == PROBE_FAILURE)
        kubelet_event(pr->kl, t.pod, container, "Warning", "Unhealthy", "%s probe failed: %s", kind_names[kind],
                      output);
    if (current && got == PROBE_WARNING)
        kubelet_event(pr->kl, t.pod, container, "Warning", "ProbeWarning", "%s probe warning: %s", kind_names[kind],
                      output);
    if (current && r == PROBE_UNKNOWN)
        kubelet_event(pr->kl, t.pod, container, "Warning", "Unhealthy",
                      "%s probe errored and resulted in unknown state: %s", kind_names[kind], output);
    if (changed) pr->changed(pr->arg, pod->meta->uid);
    free(output);
    free(id);
    free(ip);
    object_unref(pod);
    pthread_mutex_lock(&pr->lock);
}

static void to_timespec(int64_t mono, struct timespec *ts) {
    ts->tv_sec = (time_t)(mono / NS_PER_SEC);
    ts->tv_nsec = (long)(mono % NS_PER_SEC);
}

static void *prober_thread(void *arg) {
    struct prober *pr = arg;
    pthread_mutex_lock(&pr->lock);
    int64_t idle_since = mono_ns();
    while (!pr->stopping) {
        sweep(pr);
        struct probe *p = next_due(pr);
        int64_t now = mono_ns();
        if (p && p->due <= now) {
            /* Somebody must watch the clock meanwhile. */
            if (!pr->waiting && pr->threads < MAX_THREADS && kubelet_thread(NULL, prober_thread, pr, true) == 0)
                pr->threads++;
            carry_out(pr, p);
            idle_since = mono_ns();
            continue;
        }
        if ((pr->waiting || !p) && now - idle_since > IDLE_SECONDS * NS_PER_SEC && (pr->waiting || !pr->probes)) break;
        struct timespec ts;
        to_timespec(p ? p->due : now + IDLE_SECONDS * NS_PER_SEC + NS_PER_SEC, &ts);
        pr->waiting++;
        pthread_cond_timedwait(&pr->wake, &pr->lock, &ts);
        pr->waiting--;
    }
    pr->threads--;
    pthread_cond_broadcast(&pr->drained);
    pthread_mutex_unlock(&pr->lock);
    return NULL;
}

/* ---- what the pod workers say and ask ---- */

static void add(struct prober *pr, struct object *pod, const struct core_container *c, const struct core_probe *spec,
                enum probe_kind kind) {
    if (!spec || find(pr, pod->meta->uid, c->name, kind)) return;
    struct probe *p = xcalloc(1, sizeof(*p));
    p->pod = object_ref(pod);
    p->container = c;
    p->spec = spec;
    p->kind = kind;
    probe_count_reset(&p->count, kind);
    p->next = pr->probes;
    pr->probes = p;
}

void prober_add_pod(struct prober *pr, struct object *pod) {
    const struct core_pod *spec = pod->obj;
    pthread_mutex_lock(&pr->lock);
    for (size_t i = 0; i < spec->spec.containers.n + spec->spec.init_containers.n; i++) {
        bool main = i < spec->spec.containers.n;
        const struct core_container *c =
            main ? &spec->spec.containers.items[i] : &spec->spec.init_containers.items[i - spec->spec.containers.n];
        if (!main && !container_is_sidecar(c)) continue;
        add(pr, pod, c, c->startup_probe, PROBE_STARTUP);
        add(pr, pod, c, c->readiness_probe, PROBE_READINESS);
        add(pr, pod, c, c->liveness_probe, PROBE_LIVENESS);
    }
    if (pr->probes && !pr->threads && !pr->stopping && kubelet_thread(NULL, prober_thread, pr, true) == 0)
        pr->threads++;
    pthread_mutex_unlock(&pr->lock);
}

void prober_remove_pod(struct prober *pr, const char *uid) {
    pthread_mutex_lock(&pr->lock);
    for (struct probe *p = pr->probes; p; p = p->next)
        if (str_eq(p->pod->meta->uid, uid)) p->gone = true;
    sweep(pr);
    pthread_mutex_unlock(&pr->lock);
}

void prober_pod_terminating(struct prober *pr, const char *uid) {
    pthread_mutex_lock(&pr->lock);
    for (struct probe *p = pr->probes; p; p = p->next)
        if (p->kind == PROBE_LIVENESS && str_eq(p->pod->meta->uid, uid)) p->gone = true;
    /* A startup probe that has not succeeded keeps readiness waiting; it is only put on hold. */
    for (struct probe *p = pr->probes; p; p = p->next)
        if (p->kind == PROBE_STARTUP && str_eq(p->pod->meta->uid, uid)) p->count.on_hold = true;
    sweep(pr);
    pthread_mutex_unlock(&pr->lock);
}

void prober_container(struct prober *pr, const char *uid, const char *container, const char *id, int64_t started_at_ns,
                      const char *pod_ip) {
    pthread_mutex_lock(&pr->lock);
    bool woke = false;
    for (int k = 0; k < PROBE_KINDS; k++) {
        struct probe *p = find(pr, uid, container, (enum probe_kind)k);
        if (!p) continue;
        if (!str_eq(p->pod_ip, pod_ip)) {
            free(p->pod_ip);
            p->pod_ip = pod_ip ? xstrdup(pod_ip) : NULL;
        }
        if (str_eq(p->id, id)) continue;
        free(p->id);
        p->id = id ? xstrdup(id) : NULL;
        p->started_wall = started_at_ns;
        probe_count_reset(&p->count, p->kind);
        int64_t age = ktime_unix_ns(ktime_now()) - started_at_ns;
        int64_t delay = p->spec->initial_delay_seconds * NS_PER_SEC - MAX_OF(age, (int64_t)0);
        p->due = mono_ns() + MAX_OF(delay, (int64_t)0);
        woke = true;
    }
    if (woke) pthread_cond_signal(&pr->wake);
    pthread_mutex_unlock(&pr->lock);
}

static bool verdict_is(struct prober *pr, const char *uid, const char *container, const char *id, enum probe_kind kind,
                       enum probe_result want, bool without) {
    pthread_mutex_lock(&pr->lock);
    struct probe *p = find(pr, uid, container, kind);
    bool yes = !p ? without : str_eq(p->id, id) && p->count.verdict == want;
    pthread_mutex_unlock(&pr->lock);
    return yes;
}

bool prober_ready(struct prober *pr, const char *uid, const char *container, const char *id) {
    return verdict_is(pr, uid, container, id, PROBE_READINESS, PROBE_SUCCESS, true);
}

bool prober_started(struct prober *pr, const char *uid, const char *container, const char *id) {
    return verdict_is(pr, uid, container, id, PROBE_STARTUP, PROBE_SUCCESS, true);
}

bool prober_failed(struct prober *pr, const char *uid, const char *container, const char *id, enum probe_kind *kind,
                   int64_t *grace) {
    static const enum probe_kind killers[] = {PROBE_LIVENESS, PROBE_STARTUP};
    bool failed = false;
    pthread_mutex_lock(&pr->lock);
    for (size_t i = 0; i < ARRAY_LEN(killers) && !failed; i++) {
        struct probe *p = find(pr, uid, container, killers[i]);
        if (!p || !str_eq(p->id, id) || p->count.verdict != PROBE_FAILURE) continue;
        failed = true;
        *kind = killers[i];
        *grace = p->spec->termination_grace_period_seconds ? *p->spec->termination_grace_period_seconds : -1;
    }
    pthread_mutex_unlock(&pr->lock);
    return failed;
}

void prober_metrics(struct prober *pr, struct buf *b) {
    static const char *const results[] = {
        [PROBE_SUCCESS] = "successful", [PROBE_FAILURE] = "failed", [PROBE_UNKNOWN] = "unknown"};
    prom_head(b, "prober_probe_total", "counter",
              "Cumulative number of a liveness, readiness or startup probe for a container by result.");
    pthread_mutex_lock(&pr->lock);
    for (const struct probe *p = pr->probes; p; p = p->next)
        for (size_t i = 0; i < ARRAY_LEN(results); i++)
            if (p->results[i])
                buf_printf(b,
                           "prober_probe_total{container=\"%s\",namespace=\"%s\",pod=\"%s\",pod_uid=\"%s\","
                           "probe_type=\"%s\",result=\"%s\"} %llu\n",
                           p->container->name, p->pod->meta->namespace, p->pod->meta->name, p->pod->meta->uid,
                           kind_names[p->kind], results[i], (unsigned long long)p->results[i]);
    pthread_mutex_unlock(&pr->lock);
}
