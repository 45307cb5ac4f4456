/* The scheduler's own picture of the cluster, in flat arrays, and what its files share.
 *
 * One thread schedules; the informers' handlers (on the client's thread) keep nodes, pods and queue current.
 * `lock` guards all of it and is held for one pod's cycle, a fraction of a millisecond. */
#pragma once

#include <pthread.h>

#include "pkg/api/core.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"
#include "pkg/base/prom.h"
#include "pkg/client/client.h"
#include "pkg/client/events.h"
#include "pkg/client/informer.h"
#include "pkg/client/nodematch.h"
#include "scheduler/dra.h"

enum {
    EXT_MAX = 16,     /* kinds of extended resources that can be told apart */
    REASONS_MAX = 64, /* different reasons in one message */
    SCORE_MAX = 100,
    BINDS_MAX = 512, /* bindings under way */
};

struct res {
    int64_t cpu, mem, eph; /* thousandths of a core; bytes */
    int64_t ext[EXT_MAX];
};

struct host_port {
    const char *ip; /* "0.0.0.0" for any */
    int32_t port;
    char proto; /* 'T', 'U', 'S' */
};

/* How many pods of one controller are on each node: they are spread also when nobody asked. */
struct owner_spread {
    char *uid;
    size_t pods;       /* that refer to this row */
    uint32_t *by_node; /* by sched_node.index */
    size_t cap;
};

enum pod_state {
    POD_ASSIGNED,
    POD_ACTIVE,
    POD_BACKOFF,
    POD_WAITING /* for an event */,
    POD_GATED /* by itself, or its claims are not there */,
    POD_CYCLE,
    POD_BINDING
};

struct sched_pod {
    struct object *o; /* reference */
    const struct core_pod *p;
    struct res req;
    int64_t nz_cpu, nz_mem; /* requests for scoring: a default where none is given */
    int32_t priority;
    struct host_port *ports;
    size_t n_ports;
    struct owner_spread *owner; /* NULL: no controller */
    bool anti, prefers;         /* required anti-affinity; preferred terms or required affinity: matter to other pods */
    struct sched_node *node;
    size_t node_at; /* place in node->pods */
    struct sched_node *nominated;
    /* queue */
    enum pod_state state;
    size_t heap_at; /* 1-based, 0: in no heap */
    uint64_t seq;
    int64_t due;
    unsigned attempts;
    int64_t entered;     /* mono: first seen */
    uint64_t moved_seen; /* value of sched.moves when its cycle began */
    char *last_message;
    size_t gated_at; /* 1-based place in sched.claimless, 0: not there */
};

struct sched_node {
    char *name;
    struct object *o; /* NULL: gone, or not seen yet, while pods are on it */
    const struct core_node *n;
    struct res alloc, used;
    int64_t max_pods, nz_cpu, nz_mem;
    struct sched_pod **pods;
    size_t n_pods, cap_pods;
    size_t n_nominated;
    size_t index; /* in sched.nodes */
};

/* What the scheduler says of itself; under the lock. See metrics.c. */
enum sched_result { SCHED_SCHEDULED, SCHED_UNSCHEDULABLE, SCHED_ERROR, SCHED_RESULTS };
enum sched_point { POINT_PRE_FILTER, POINT_FILTER, POINT_POST_FILTER, POINT_SCORE, POINT_BIND, POINTS };
enum sched_incoming { IN_ADDED, IN_BACKOFF_OVER, IN_FAILED_BACKOFF, IN_FAILED_WAITING, INCOMINGS };
enum { ATTEMPTS_LABELS = 16, SCHED_ATTEMPT_BOUNDS = 16 };
extern const double sched_attempt_bounds[SCHED_ATTEMPT_BOUNDS];
struct sched_metrics {
    uint64_t attempts[SCHED_RESULTS], incoming[INCOMINGS], preemptions;
    struct prom_histogram attempt[SCHED_RESULTS], points[POINTS], algorithm, victims, tries, sli[ATTEMPTS_LABELS];
};

struct pod_heap {
    struct sched_pod **items;
    size_t n, cap;
    bool (*before)(const struct sched_pod *, const struct sched_pod *);
};

struct sched {
    struct client *client;
    struct event_recorder *events;
    const char *name; /* schedulerName */
    pthread_mutex_t lock;
    pthread_cond_t work;
    _Atomic unsigned handlers_waiting;
    bool stop, ready;
    struct map node_by_name, pod_by_key, owners;
    struct sched_node **nodes; /* all, also those without an object */
    size_t n_nodes, cap_nodes, n_live;
    size_t next_start; /* where the next search begins */
    struct sched_pod **anti_pods, **prefer_pods, **nominees;
    size_t n_anti, cap_anti, n_prefer, cap_prefer, n_nominees, cap_nominees;
    const char *ext_names[EXT_MAX]; /* in `names` */
    size_t n_ext;
    struct arena *names;
    struct pod_heap active, backoff, waiting;
    uint64_t seq, moves;
    unsigned binds;
    struct informer *pods_inf, *nodes_inf, *pvc_inf, *pv_inf, *class_inf, *ns_inf, *pdb_inf;
    struct informer *claims_inf, *slices_inf, *device_classes_inf;
    struct dra dra;
    struct dra_workers *workers;  /* NULL: none was needed yet */
    struct sched_pod **claimless; /* pods whose claims are not there yet */
    size_t n_claimless, cap_claimless;
    uint64_t dice;
    int64_t scheduled; /* count, for the log */
    struct sched_metrics metrics;
};

/* ---- cache.c ---- all under the lock */
void cache_node_set(struct sched *s, struct object *o);
void cache_node_gone(struct sched *s, const char *name);
struct sched_node *cache_node(struct sched *s, const char *name);
struct sched_pod *cache_pod_new(struct sched *s, struct object *o);
void cache_pod_free(struct sched *s, struct sched_pod *sp);
/* Puts a pod on a node (assumed or bound), or takes it off. */
void cache_pod_place(struct sched *s, struct sched_pod *sp, struct sched_node *n);
void cache_pod_remove(struct sched *s, struct sched_pod *sp);
void cache_nominate(struct sched *s, struct sched_pod *sp, struct sched_node *n); /* NULL: no longer */
void cache_pod_claimless(struct sched *s, struct sched_pod *sp, bool is);
void pod_requests(struct sched *s, const struct core_pod *p, struct res *out, int64_t *nz_cpu, int64_t *nz_mem);
void res_add(struct res *a, const struct res *b, int sign);

/* ---- queue.c ---- under the lock */
void queue_init(struct sched *s);
void queue_done(struct sched *s);
void queue_push(struct sched *s, struct sched_pod *sp);                     /* to the active queue */
void queue_fail(struct sched *s, struct sched_pod *sp);                     /* after a cycle that found no node */
void queue_keep(struct sched *s, struct sched_pod *sp, enum pod_state was); /* a changed pod takes its old place */
void queue_remove(struct sched *s, struct sched_pod *sp);
void queue_move_all(struct sched *s); /* something changed that may help waiting pods */
/* The same for those that the function names. */
void queue_move_if(struct sched *s, bool (*helps)(const struct sched_pod *sp, void *arg), void *arg);
/* The next pod, or NULL; *wait_ns is how long until one leaves its back-off (-1: none). */
struct sched_pod *queue_pop(struct sched *s, int64_t *wait_ns);

/* ---- plugins ---- */

/* What is worked out once per pod and cycle. */
struct topo_counts { /* per value of a topology key */
    const char *key;
    struct map by_value; /* value -> (void *)(intptr_t)count */
    int64_t total;
};
struct spread {
    const struct core_topology_spread_constraint *c;
    struct topo_counts counts;
    int64_t min, domains;
    bool self;
};
struct forbidden {
    const char *key, *value;
};
struct cycle {
    struct sched *s;
    struct arena *a;
    struct sched_pod *sp;
    const struct core_pod *p;
    struct forbidden *forbidden; /* by anti-affinity of pods that are there */
    size_t n_forbidden, cap_forbidden;
    struct topo_counts *affinity, *anti; /* a row per required term */
    size_t n_affinity, n_anti;
    bool first_of_group; /* no pod matches the affinity terms but the pod itself does */
    struct spread *hard, *soft;
    size_t n_hard, n_soft;
    const struct core_node_selector **volumes; /* node affinity of bound volumes */
    size_t n_volumes;
    const char **claims; /* unbound claims that wait for a node */
    size_t n_claims;
    int64_t began;              /* mono */
    const char *refusal;        /* the pod can not be scheduled anywhere now */
    const char *failure;        /* something is broken: the attempt ends, and comes again after the back-off */
    const char *post;           /* what could be done about claims; a constant, NULL: nothing */
    struct dra_cycle *dra;      /* NULL: the pod claims no devices */
    uint32_t dra_ext;           /* extended resources (by slot) that a device class stands behind */
    struct topo_counts *prefer; /* weights by topology, a row per key */
    size_t n_prefer, cap_prefer;
};
int cycle_prepare(struct cycle *c);         /* -EAGAIN: c->refusal says why it can run nowhere */
void cycle_prepare_scores(struct cycle *c); /* only needed when there is a choice */
void cycle_done(struct cycle *c);

enum verdict { FIT = 0, UNFIT /* removing pods may help */, NEVER /* it would not */ };
/* Runs the filters; the first refusal gives its reason(s), constants or strings in the cycle's arena.
 * `reasons` has room for EXT_MAX + 4. `ignore_nominated` leaves out reservations for preemptors. */
enum verdict filter_node(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons);
/* Only what the pods on the node can change (resources, ports, affinity, spread). */
enum verdict filter_pods_only(struct cycle *c, struct sched_node *n);

/* Scores of the nodes, higher is better. */
void score_nodes(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *scores);

/* Looks for pods of lower priority whose removal makes room, asks for their deletion and nominates the node.
 * The message for the event ("preemption: ..."), in the cycle's arena. `verdicts` by node index. */
const char *preempt(struct cycle *c, const uint8_t *verdicts);

/* ---- matching ---- match.c */
/* Whether a pod affinity term of `of` selects `other`. */
bool affinity_term_matches(struct sched *s, const struct core_pod_affinity_term *t, const struct core_pod *of,
                           const struct core_pod *other);
bool host_ports_conflict(const struct host_port *a, const struct host_port *b);

/* ---- metrics.c ---- under the lock but for the last */
struct sched_attempt {
    int64_t entered, began; /* mono: the pod was first seen, the attempt began */
    unsigned before;        /* attempts before it */
};
void sched_count(struct sched *s, const struct sched_attempt *a, enum sched_result r);
/* Time since *from at that point; *from is set to now. */
void sched_point(struct sched *s, enum sched_point p, int64_t *from);
void sched_preempted(struct sched *s, size_t victims);
void sched_metrics_write(struct sched *s, struct buf *b);

/* ---- binding ---- scheduler.c, under the lock */
struct bind;
/* Places the pod on the node in our picture. bind_post or bind_abandon has to follow. */
struct bind *bind_reserve(struct cycle *c, struct sched_node *n);
/* Sends the binding. `job` (may be NULL) is undone when it fails. */
struct dra_job;
void bind_post(struct bind *b, struct dra_job *job);
/* It cannot be: takes the pod off the node again and back into the queue. */
void bind_abandon(struct bind *b, struct err *e);

/* ---- devices ---- dra_cycle.c, dra_extended.c, dra_bind.c; under the lock */
/* Whether all claims of the pod are there: before that it is not looked at. */
bool dra_pod_ready(const struct sched *s, const struct core_pod *p);
bool dra_pod_uses(const struct core_pod *p, const char *claim_key);
int dra_prepare(struct cycle *c); /* -EAGAIN: c->refusal or c->failure says why */
enum verdict dra_filter(struct cycle *c, struct sched_node *n, const char **reasons, size_t *n_reasons);
void dra_scores(struct cycle *c, struct sched_node **nodes, size_t n, int64_t *raw);
/* No node was found: frees an allocation that is in the way. Sets c->post. */
void dra_post_filter(struct cycle *c);
/* Takes what was found for the node and has it written, then the pod bound; false: there is nothing to write. */
bool dra_bind(struct cycle *c, struct sched_node *n);
void dra_job_done(struct dra_job *j); /* bound */
void dra_job_undo(struct dra_job *j); /* not bound: what was reserved is released */
/* Ends the threads that write; before the client is freed. */
void dra_workers_stop(struct sched *s);
void dra_workers_free(struct dra_workers *w); /* NULL-safe */

int sched_run(struct sched *s);     /* the scheduling thread's loop; returns when s->stop */
void sched_attach(struct sched *s); /* makes the informers */
void sched_detach(struct sched *s);
