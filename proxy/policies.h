/* Keeps the table of NetworkPolicies (policy.h) in step with the cluster. Pods and namespaces are watched only while there
 * are policies: a cluster without any pays one idle watch. */
#pragma once

#include "pkg/client/informer.h"
#include "pkg/client/workqueue.h"

struct policies;
/* `key` is put on the queue when something has changed; whoever works that queue calls policies_sync then. Borrows all but
 * the node's name. */
int policies_new(struct client *c, const char *node, struct workqueue *queue, const char *key, struct policies **out,
                 struct err *e);
void policies_free(struct policies *p); /* NULL-safe; the table stays */
/* Puts the table in place. One caller at a time. */
int policies_sync(struct policies *p, struct err *e);
/* Removes the table from the kernel; success when there is none. */
int policies_remove(struct err *e);
