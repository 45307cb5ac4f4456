/* Brings pod statuses to the API server: the newest one of each pod, one request of a pod at a time, nothing
 * when nothing changed. Requests are asynchronous; no thread waits for them. Only fields and conditions that
 * belong to the kubelet are written (a strategic merge patch without resourceVersion), so writers of other
 * conditions don't conflict.
 *
 * A pod that has ended and is to be deleted is removed from the API once its last status is there.
 * Upstream: pkg/kubelet/status. */
#pragma once

#include "kubelet/status.h"
#include "pkg/client/informer.h"

struct status_manager;
/* `c` may be NULL: statuses are kept and go nowhere. */
struct status_manager *status_manager_new(struct client *c);
/* Waits for the request in flight. Before client_free. */
void status_manager_free(struct status_manager *m);

/* The pod's newest status; copied. `api` is the status the API server is known to have (from the informer).
 */
void status_manager_set(struct status_manager *m, const struct core_pod *pod, const struct core_pod_status *s);
/* The API's current view of a pod: when somebody else changed what the kubelet owns (a node controller that
 * gave the node up marks its pods not ready), the status is written again. */
void status_manager_observe(struct status_manager *m, const struct core_pod *pod);
/* Delete the pod from the API (grace 0) when its last status has been written. `done` says nothing of
 * success: the informer's deletion does. */
void status_manager_finish(struct status_manager *m, const struct core_pod *pod);
/* The pod is gone. */
void status_manager_forget(struct status_manager *m, const char *uid);
/* The patch that brings `old` to `new_` (NULL when there is nothing to change), as JSON in `a`: for tests. */
char *status_patch(struct arena *a, const char *uid, const struct core_pod_status *old,
                   const struct core_pod_status *s);
