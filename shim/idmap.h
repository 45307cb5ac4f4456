/* User namespaces of sandboxes: ids of a pod's processes that are others on the host. The namespace is pinned
 * like the other ones; what the processes see of the host's files, image layers and volumes, goes through
 * id-mapped mounts (Linux 5.12; overlayfs on such layers 5.19), so that files need not change their owners.
 */
#pragma once

#include "pkg/api/cri.h"
#include "pkg/base/err.h"

/* A process (SIGKILL and wait for it: idmap_holder_end) in a new user namespace with these mappings, and in
 * new namespaces of `flags` (CLONE_NEWNET ...) that the user namespace owns. Returns its pid. */
pid_t idmap_holder(const struct cri_user_namespace *u, int flags, struct err *e);
void idmap_holder_end(pid_t pid);
/* Binds the tree at `source` on `target` (made as a folder or file), its owners seen through the namespace at
 * `userns`. */
int idmap_bind(const char *source, const char *target, const char *userns, struct err *e);
/* Whether this kernel can map the mounts of every file system that pods have: tmpfs came last (6.3). */
bool idmap_supported(void);
/* The host's id of an id inside; -1 when it has none. */
int64_t idmap_host_id(const struct cri_id_mapping_vec *v, uint32_t id);
/* NULL, or what is wrong with the mappings that a sandbox asks for. */
const char *idmap_problem(const struct cri_user_namespace *u);
