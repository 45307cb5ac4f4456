/* Ranking of pods to delete, shared with tests. */
#pragma once

#include "pkg/base/ktime.h"
#include "pkg/client/informer.h"

/* Sorts: the pods that should go first come first. `related` are the pods whose neighbourhood counts. */
void pods_rank(struct arena *a, struct object **pods, size_t n, struct object **related, size_t n_related,
               struct ktime now);
