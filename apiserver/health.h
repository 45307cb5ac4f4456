/* /healthz, /livez and /readyz, and what /metrics/slis says of their checks. */
#pragma once

#include "apiserver/request.h"

struct health;
struct health *health_new(void);
void health_free(struct health *h); /* NULL-safe */

/* endpoint: "healthz", "livez" or "readyz". name: of one check; NULL: all of them. Blocks as long as a check does. */
void handle_health(struct request *q, const char *endpoint, const char *name);
/* kubernetes_healthcheck and kubernetes_healthchecks_total, after a run of all checks. */
void health_metrics(struct apiserver *s, struct buf *b);
/* The paths of the single checks into `list`, made in `a`; with NULL the most there can be. Returns their number. */
size_t health_paths(struct apiserver *s, const char **list, struct arena *a);
