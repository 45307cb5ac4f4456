/* What a cluster of coracle's has beyond a bare Kubernetes: permissions for its DNS server and for nodes that join with a
 * token, and the Service that reserves the DNS address. Made with the first `coracle up`, ordinary objects afterwards. */
#pragma once

#include "cli/layout.h"
#include "pkg/client/client.h"

/* Creates what is missing; what is there is left as it is. */
int addons_ensure(const struct layout *l, struct client *c, struct err *e);
