/* coracle-scheduler: assigns pods to nodes (upstream kube-scheduler). */
#include <signal.h>
#include <stdatomic.h>
#include <sys/signalfd.h>

#include "pkg/base/bytes.h"
#include "pkg/base/flags.h"
#include "pkg/base/log.h"
#include "pkg/base/memory.h"
#include "pkg/client/leader.h"
#include "pkg/client/metrics.h"
#include "pkg/serving/serving.h"
#include "scheduler.h"

enum { SECURE_PORT = 10259 };
#define LEASE "kube-scheduler"

struct options {
    const char *kubeconfig, *name, *lease_namespace;
    int64_t v;
    struct serving_flags ports;
    bool leader_elect;
};

static void lost(void *arg) { kill(getpid(), SIGTERM); }

static void *run_thread(void *arg) {
    sched_run(arg);
    return NULL;
}

struct sched *sched_new(struct client *c, const char *name) {
    struct sched *s = xcalloc(1, sizeof(*s));
    s->client = c;
    s->name = name;
    s->events = event_recorder_new(c, name, NULL);
    s->names = arena_new();
    random_bytes(&s->dice, sizeof(s->dice));
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, &ca);
    pthread_condattr_destroy(&ca);
    queue_init(s);
    dra_init(&s->dra);
    return s;
}

static void sched_free(struct sched *s) {
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&s->pod_by_key, &it, &key, &v)) cache_pod_free(s, v);
    while (s->n_nodes) {
        struct sched_node *n = s->nodes[0];
        if (n->o) cache_node_gone(s, n->name);
    }
    map_done(&s->pod_by_key);
    map_done(&s->node_by_name);
    map_done(&s->owners);
    queue_done(s);
    free(s->nodes);
    free(s->anti_pods);
    free(s->prefer_pods);
    free(s->nominees);
    free(s->claimless);
    dra_workers_free(s->workers);
    dra_done(&s->dra);
    arena_free(s->names);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    free(s);
}

/* Lets the thread loose once the pictures of pods, nodes and volumes are complete. */
static int serve(struct sched *s, int signals, struct err *e) {
    pthread_t thread;
    int r = pthread_create(&thread, NULL, run_thread, s);
    if (r) return err_errno(e, r, "scheduling thread");
    struct informer *needed[] = {s->nodes_inf, s->pods_inf,   s->pvc_inf,    s->pv_inf,
                                 s->class_inf, s->claims_inf, s->slices_inf, s->device_classes_inf};
    for (size_t i = 0; i < ARRAY_LEN(needed); i++) informer_wait_synced(needed[i], -1, NULL);
    pthread_mutex_lock(&s->lock);
    s->ready = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    log_info("scheduling", NULL);
    struct signalfd_siginfo si;
    while (read(signals, &si, sizeof(si)) < 0 && errno == EINTR) continue;
    log_info("ending", NULL);
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    pthread_join(thread, NULL);
    return 0;
}

/* What /metrics speaks of; the parts come as they are made. */
struct facts {
    struct client *client;
    _Atomic(struct sched *) sched;
    bool elects;
    _Atomic bool leads;
};

static void write_metrics(void *arg, struct buf *b) {
    struct facts *f = arg;
    struct sched *s = atomic_load(&f->sched);
    if (s) sched_metrics_write(s, b);
    client_metrics(f->client, b);
    program_metrics(b, f->elects ? LEASE : NULL, atomic_load(&f->leads));
}

static int run(struct options *o, int signals, struct err *e) {
    struct client *c = NULL;
    struct client_config base = {.user_agent = "coracle-scheduler", .max_in_flight = BINDS_MAX};
    int r = client_new_from_kubeconfig(o->kubeconfig, &base, &c, e);
    if (r < 0) return r;
    struct serving *ports[SERVING_PORTS] = {NULL};
    struct facts f = {.client = c, .elects = o->leader_elect};
    struct leader *leader = NULL;
    r = serving_start_ports(&o->ports, c, write_metrics, &f, ports, e);
    if (r == 0 && o->leader_elect) {
        struct leader_config lc = {.ns = o->lease_namespace, .name = LEASE, .cancel_fd = signals};
        r = leader_acquire(c, &lc, lost, NULL, &leader, e);
    }
    struct sched *s = NULL;
    if (r == 0) {
        s = sched_new(c, o->name);
        atomic_store(&f.sched, s);
        atomic_store(&f.leads, true);
        sched_attach(s);
        r = serve(s, signals, e);
        dra_workers_stop(s);
        sched_detach(s);
        event_recorder_free(s->events);
    }
    leader_release(leader);
    serving_stop_ports(ports);
    client_free(c); /* ends the callbacks that know `s` */
    if (s) sched_free(s);
    return r;
}

int main(int argc, char **argv) {
    struct options o = {.leader_elect = true,
                        .name = "default-scheduler",
                        .lease_namespace = "kube-system",
                        .ports = SERVING_DEFAULTS(SECURE_PORT),
                        .v = 2};
    const struct flag flags[] = {
        {"kubeconfig", 0, FLAG_STR, &o.kubeconfig, "FILE", "how to reach the API server"},
        {"scheduler-name", 0, FLAG_STR, &o.name, "NAME", "schedule pods with this spec.schedulerName"},
        {"leader-elect", 0, FLAG_BOOL, &o.leader_elect, NULL, "wait until no other scheduler leads"},
        {"leader-elect-resource-namespace", 0, FLAG_STR, &o.lease_namespace, "NS", "namespace of the Lease"},
        SERVING_FLAGS(o.ports),
        {"v", 'v', FLAG_INT, &o.v, "N", "log level: 0 errors only, 2 normal, 4 debug"},
        {"authentication-kubeconfig", 0, FLAG_IGNORED, NULL, "FILE", "accepted; reviews go through --kubeconfig"},
        {"authorization-kubeconfig", 0, FLAG_IGNORED, NULL, "FILE", "accepted"},
        {"profiling", 0, FLAG_IGNORED, NULL, NULL, "accepted"},
        {"kube-api-qps", 0, FLAG_IGNORED, NULL, "N", "accepted; there is no client-side limit"},
        {"kube-api-burst", 0, FLAG_IGNORED, NULL, "N", "accepted"},
        {0},
    };
    flags_main("coracle-scheduler", "Assigns pods to nodes.", flags, argc, argv, 0);
    log_init("scheduler", o.v >= 4 ? LOG_DEBUG : o.v >= 1 ? LOG_INFO : LOG_WARN);
    memory_keep_small();
    if (str_empty(o.kubeconfig)) {
        log_error("--kubeconfig is needed", NULL);
        return 2;
    }
    int signals = termination_fd();
    _cleanup_err_ struct err e = {0};
    int r = run(&o, signals, &e);
    if (r == -ECANCELED) r = 0;
    if (r < 0) log_error("cannot run", "error", e.msg, NULL);
    return r < 0;
}
