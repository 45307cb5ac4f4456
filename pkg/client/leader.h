/* Leader election with a Lease (client-go's tools/leaderelection, resource lock "leases"). */
#pragma once

#include "pkg/client/client.h"

struct leader_config {
    const char *ns, *name; /* of the Lease: "kube-system", "kube-controller-manager" */
    const char *identity;  /* unique to this process; NULL: host name and a UUID */
    int cancel_fd;         /* > 0: when it becomes readable (a signalfd), waiting ends with -ECANCELED */
    int64_t lease_duration_ms, renew_deadline_ms, retry_period_ms; /* 0: 15 s, 10 s, 2 s */
};
struct leader;
/* Blocks until this process leads. Then a thread renews; when it can not within the deadline, `on_lost` is
 * called (a program exits there). */
int leader_acquire(struct client *c, const struct leader_config *cfg, void (*on_lost)(void *arg), void *arg,
                   struct leader **out, struct err *e);
/* Gives the Lease up. NULL-safe. */
void leader_release(struct leader *l);
