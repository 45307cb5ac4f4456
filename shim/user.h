/* Who a container's process runs as: names are looked up in the image's own /etc/passwd and /etc/group, opened so that
 * no link leads out of the rootfs. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"

enum { PROC_USER_MAX_GROUPS = 1024 };

struct proc_user {
    uint32_t uid, gid;
    uint32_t *groups; /* supplementary, in the arena */
    size_t n_groups;
    const char *home; /* of /etc/passwd, "/" when unknown */
};

/* `spec` is "", "name", "1000", "name:group", "1000:1000". With `merge` the groups that list the user are added.
 * -ENOENT when a name is unknown. */
int user_lookup(struct arena *a, const char *rootfs, const char *spec, bool merge, struct proc_user *out,
                struct err *e);
/* Adds a supplementary group unless it is there. */
void user_add_group(struct arena *a, struct proc_user *u, uint32_t gid);
