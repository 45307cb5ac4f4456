/* Facts about the machine, read from the kernel and /etc. */
#pragma once

#include "pkg/api/core.h"

struct node_sizes {
    int64_t cpus, memory, storage, huge_2m; /* bytes, but for cpus */
};
void node_measure(const char *root_dir, struct node_sizes *out);
/* Everything but the runtime's version; strings in `a`. */
void node_system_info(struct arena *a, struct core_node_system_info *out);
/* The node's addresses: those in `node_ip` (comma-separated); else `was` (may be NULL) while the machine has it, the ones
 * the default routes would use, the first that is not a loopback. */
size_t node_addresses(const char *node_ip, const char *was, char out[][64], size_t max);
