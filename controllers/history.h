/* ControllerRevisions: the past templates of DaemonSets and StatefulSets (upstream pkg/controller/history).
 */
#pragma once

#include "pkg/api/apps.h"
#include "util.h"

#define REVISION_LABEL "controller-revision-hash"

struct history {
    const struct apps_controller_revision **items; /* by revision number, oldest first */
    size_t n;
    struct claimed claimed;
};
int history_find(struct manager *m, struct arena *a, const struct owner *o, const struct meta_label_selector *selector,
                 struct history *out, struct err *e);
void history_done(struct history *h);
/* The revision of the template: one that is there (raised to the newest number when an old template came
 * back), or a new one. *name is its name, *hash the value of its label. */
int history_current(struct manager *m, struct arena *a, const struct owner *o, const struct history *h,
                    const struct core_pod_template_spec *t, const struct str_map *labels, const int32_t *collisions,
                    const char **name, const char **hash, struct err *e);
/* The template that a revision recorded. */
int history_template(struct arena *a, const struct apps_controller_revision *r, struct core_pod_template_spec *out,
                     struct err *e);
const struct apps_controller_revision *history_named(const struct history *h, const char *name);
/* Deletes the oldest beyond the limit, except those that `live` says are still in use. */
int history_trim(struct manager *m, const struct history *h, int32_t limit,
                 bool (*live)(void *arg, const struct apps_controller_revision *r), void *arg, struct err *e);
