/* Between node.c and node_status.c. See node.h. */
#pragma once

#include "kubelet/node.h"
#include "pkg/api/core.h"

struct node {
    struct kubelet *kl;
    struct arena *arena; /* of what does not change */
    struct str_map capacity, allocatable;
    struct core_node_system_info info;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool started, stopping, kick;
    bool pressure[PRESSURE_KINDS];
    char *ips[4];
    size_t n_ips;
    struct map handlers; /* name -> features, as the runtime said last */
    char *pod_cidr;      /* last one told to the runtime */
    /* the thread's */
    struct arena *sent_arena;
    struct core_node_status *sent; /* last status written, NULL: none */
    int64_t sent_at, renewed_at;
    bool registered, was_ready, told_boot, told_unschedulable;
    int told_pressure[PRESSURE_KINDS]; /* 0: nothing yet; else 1 + whether there is */
    char *last_problem;                /* logged once */
};

/* Adds an entry in its place; the map's items are new ones in `a`. */
void node_map_set(struct arena *a, struct str_map *m, const char *key, const char *value);
/* What the status is now, in `a`; asks the runtime, and tells changes as events. */
void node_status_compute(struct node *n, struct arena *a, struct core_node_status *st);
/* Equal but for the time of the heartbeat. */
bool node_status_same(struct arena *a, const struct core_node_status *x, const struct core_node_status *y);
int node_status_write(struct node *n, struct arena *a, const struct core_node_status *st, struct err *e);
