/* Inside priority and fairness. */
#pragma once

#include <pthread.h>

#include "apiserver/flow/flow.h"

enum { FLOW_NAME_MAX = 64, FLOW_UID_MAX = 40, FLOW_QUEUES_MAX = 1024, FLOW_HAND_MAX = 32 };

enum flow_reason { REASON_QUEUE_FULL, REASON_CONCURRENCY, REASON_TIME_OUT, REASON_CANCELLED, FLOW_REASONS };

/* Counters of a pair of schema and level, kept for the life of the server. */
struct flow_stat {
    char schema[FLOW_NAME_MAX];
    char level[FLOW_NAME_MAX];
    _Atomic uint64_t dispatched;
    _Atomic uint64_t rejected[FLOW_REASONS];
    struct flow_stat *next;
};

struct flow_queue {
    struct request *head, *tail;
    uint32_t n;
    uint32_t executing; /* seats */
    int64_t start_ns;   /* virtual time at which its next request would start */
};

struct flow_level {
    char name[FLOW_NAME_MAX], uid[FLOW_UID_MAX];
    bool present;                                     /* false: its object is gone, and requests go to catch-all */
    bool exempt, reject;                              /* reject: has no queues */
    int64_t shares, lendable_percent, borrow_percent; /* borrow_percent -1: no limit */
    uint32_t n_queues, hand, queue_limit;
    /* from the shares of all */
    int64_t nominal, guaranteed, ceiling; /* seats; guaranteed: not lent; ceiling: with all it may borrow */
    /* now */
    int64_t in_use;
    uint32_t executing, waiting;
    int64_t now_ns;            /* virtual time */
    struct flow_queue *queues; /* made when first somebody waits */
    uint32_t made;
    /* totals */
    uint64_t dispatched, rejected, timed_out, cancelled;
};

enum flow_subject_kind { SUBJECT_USER, SUBJECT_GROUP, SUBJECT_ACCOUNT };
struct flow_subject {
    enum flow_subject_kind kind;
    const char *name, *ns;
    bool any;      /* name is "*" */
    uint32_t hash; /* of name */
};
struct flow_rule {
    const char **verbs, **groups, **resources, **namespaces, **urls; /* NULL-terminated; urls: a non-resource rule */
    bool cluster_scope;
};
struct flow_schema_rules {
    struct flow_subject *subjects;
    size_t n_subjects;
    struct flow_rule *rules;
    size_t n_rules;
};
struct flow_schema {
    char name[FLOW_NAME_MAX], uid[FLOW_UID_MAX];
    int64_t precedence;
    char level[FLOW_NAME_MAX];
    enum { BY_NOTHING, BY_USER, BY_NAMESPACE } distinguisher;
    struct arena *arena; /* of rules */
    struct flow_schema_rules *rules;
    size_t n_rules;
    /* bound whenever something changes */
    struct flow_level *to;
    struct flow_stat *stat;
};

struct flow {
    struct flow_options o;
    pthread_rwlock_t config;                       /* schemas, and which levels there are; taken before `lock` */
    struct flow_schema *schemas[FLOW_SCHEMAS_MAX]; /* by precedence and name */
    size_t n_schemas;
    struct flow_level *levels[FLOW_LEVELS_MAX]; /* never freed before the flow: tickets point at them */
    size_t n_levels;
    struct flow_level *catch_all, *exempt;
    struct flow_stat *stats, *stat_catch_all;
    pthread_mutex_t lock; /* of all that says "now", and of totals */
    _Atomic uint32_t waiting;
    _Atomic int64_t refused_ns; /* when somebody was last refused */
    _Atomic int retry_after;
};

/* classify.c */
struct flow_schema *flow_schema_read(const char *name, const struct json *obj);
void flow_schema_free(struct flow_schema *s); /* NULL-safe */
/* Hashes of who asks, so that most comparisons with subjects are of numbers. */
struct flow_who {
    uint32_t user, groups[16];
    bool account; /* a service account's name */
};
bool flow_schema_match(const struct flow_schema *s, const struct request *q, const struct flow_who *w);
/* queue.c: seats of all levels anew. With the config's lock held for writing. */
void flow_share_out(struct flow *f);
