/* What the programs on pkg/client say of themselves, with client-go's names. Each appends Prometheus text. */
#pragma once

#include "pkg/base/buf.h"
#include "pkg/client/client.h"
#include "pkg/client/workqueue.h"

/* rest_client_requests_total, rest_client_request_duration_seconds. */
void client_metrics(struct client *c, struct buf *b);
/* workqueue_*: of all queues of the pool. */
void workpool_metrics(struct workpool *p, struct buf *b);
/* leader_election_master_status, kubernetes_build_info, process_*. lease NULL: no leader election. */
void program_metrics(struct buf *b, const char *lease, bool leads);
