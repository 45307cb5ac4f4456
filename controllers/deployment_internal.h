/* The parts of the Deployment controller and what they share: deployment.c steps and judges,
 * deployment_sets.c writes the ReplicaSets. */
#pragma once

#include "pkg/api/apps.h"
#include "rollout.h"
#include "util.h"

#define HASH_LABEL "pod-template-hash"
#define REVISION "deployment.kubernetes.io/revision"
#define REVISION_HISTORY "deployment.kubernetes.io/revision-history"
#define DESIRED "deployment.kubernetes.io/desired-replicas"
#define MAX_REPLICAS "deployment.kubernetes.io/max-replicas"

struct dep_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
};

/* One reconcile. The structs are shallow copies whose changed parts live in the arena. */
struct rollout {
    struct dep_controller *c;
    struct arena *a;
    const char *key;
    const struct apps_deployment *was; /* as in the cache */
    struct apps_deployment d;
    struct apps_replica_set **old; /* oldest first */
    size_t n_old;
    struct apps_replica_set *current; /* of the deployment's template, or NULL */
    int64_t wait;                     /* come back in so many ns */
    bool annotated;                   /* the revision annotation changed */
};

static inline int32_t rollout_set_size(const struct apps_replica_set *rs) {
    return rs->spec.replicas ? *rs->spec.replicas : 1;
}
static inline int32_t rollout_wished(const struct rollout *r) { return r->d.spec.replicas ? *r->d.spec.replicas : 1; }
static inline bool rollout_has_deadline(const struct rollout *r) {
    return r->d.spec.progress_deadline_seconds && *r->d.spec.progress_deadline_seconds != INT32_MAX;
}

/* ---- deployment.c ---- */
/* A number in an annotation; 0: none. */
int64_t rollout_annotation(const struct meta_object_meta *m, const char *key);
struct apps_deployment_condition *rollout_condition(struct rollout *r, const char *type);
void rollout_set_condition(struct rollout *r, const char *type, const char *status, const char *reason,
                           const char *message, bool renew);

/* ---- deployment_sets.c ---- */
/* Changes a set's size and the annotations that tell of the deployment's; *scaled says whether anything was
 * written. */
int rollout_resize(struct rollout *r, struct apps_replica_set *rs, int32_t size, bool *scaled, struct err *e);
int32_t rollout_sum_sizes(const struct rollout *r);
/* Whether two templates are the same but for the hash label. */
bool rollout_same_template(struct arena *a, const struct core_pod_template_spec *x,
                           const struct core_pod_template_spec *y);
/* Brings the current set's revision and annotations up to date; `make`: makes the set when there is none. */
int rollout_sync_revision(struct rollout *r, bool make, struct err *e);
