/* Ids of pods with a user namespace of their own (hostUsers: false): each gets 65536 ids of the host that no
 * other pod has. The choice is written into the pod's folder (file "userns"), so that it holds while the pod
 * lives and is free again when the folder goes.
 *
 * Ranges start at 65536; where /etc/subuid and /etc/subgid name a user "kubelet", they are taken from its
 * range instead. Upstream: pkg/kubelet/userns. */
#pragma once

#include "kubelet/kubelet.h"
#include "pkg/api/cri.h"

/* True when the pod wants one. */
bool userns_wanted(const struct core_pod *p);
/* The pod's mappings, chosen when it has none yet. -ENOSPC: no ids are left. */
int userns_of(struct kubelet *kl, struct arena *a, const struct core_pod *p, struct cri_user_namespace **out,
              struct err *e);
