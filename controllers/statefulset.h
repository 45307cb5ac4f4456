/* The parts of the StatefulSet controller to each other. */
#pragma once

#include "history.h"

struct sts_controller {
    struct manager *m;
    struct workqueue *q;
    struct event_recorder *events;
};

struct sts_replica {
    int32_t ordinal;
    const struct core_pod *pod; /* NULL: to be made */
};

/* One reconcile. */
struct stateful {
    struct sts_controller *c;
    struct arena *a;
    const char *key;
    const struct apps_stateful_set *s;
    struct owner owner;
    struct claimed pods;
    struct history h;
    const char *update_name, *update_hash, *current_name, *current_hash;
    struct core_pod_template_spec current_template;
    struct sts_replica *want, *extra; /* extra: highest first */
    int32_t n_want, n_extra;
    int64_t wait;
};

const char *sts_pod_name(struct stateful *x, int32_t ordinal);
/* The name of a pod's claim from a template. */
const char *sts_claim_name(struct stateful *x, const struct core_persistent_volume_claim *t, int32_t ordinal);
/* Makes the claims of a pod that are not there. A claim on its way out is an error: the pod has to wait for its end. */
int sts_make_claims(struct stateful *x, int32_t ordinal, struct err *e);
/* Has the claims of a pod owned as the retention policy wants it: by the set, when they go with it; by the pod, when
 * they go with what is scaled away and this one is. The garbage collector does the rest. */
int sts_own_claims(struct stateful *x, const struct core_pod *pod, int32_t ordinal, struct err *e);
/* Whether a claim still belongs to an earlier pod of this name, with which it goes. */
bool sts_claims_stale(struct stateful *x, int32_t ordinal);
