/* The identities of a cluster's programs: client certificates of the cluster's CA, and a kubeconfig for each. */
#pragma once

#include "cli/layout.h"

/* Makes DATA/pki/ca.crt when there is none, and for each program of this machine DATA/pki/NAME.crt, .key and
 * DATA/NAME.kubeconfig; renews what is due. */
int identity_ensure(const struct layout *l, struct err *e);
/* When the first of them is to be renewed, in seconds since 1970. */
int64_t identity_renew_at(const struct layout *l);
