/* Paths inside a volume that a container controls. A pod may put symbolic links into its volume, so that a
 * path like "sub/../../etc" or a link swapped between check and use would reach the host's files. Everything
 * here resolves the relative path with openat2(RESOLVE_BENEATH): the kernel fails a walk that would leave the
 * root, atomically.
 *
 * Upstream: pkg/volume/util/subpath (safe open by walking with O_NOFOLLOW; the kernel's openat2 does it in a
 * call). */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"

/* True for a relative path without ".." components: what the API accepts as subPath, items[].path. */
bool path_is_local(const char *path);

/* Opens root/rel (O_PATH) without leaving root; missing directories are made with `mode`. Returns the
 * descriptor. -EXDEV when the path would escape, -ELOOP for magic links. */
int safepath_open(const char *root, const char *rel, bool create, unsigned mode, struct err *e);

/* Makes root/rel safe to hand to a container runtime: binds what it resolves to onto `target` (made as a file
 * or directory), so that later changes of links have no effect. Already bound: nothing to do. */
int safepath_bind(const char *root, const char *rel, const char *target, bool create, unsigned mode, struct err *e);

/* True when a file system is mounted at the path. */
bool path_is_mount(const char *path);
/* Sees to it that mounts made below `dir` by a container (a CSI driver in a pod) appear on the host and the other way
 * round: where the file system around it is private, the folder is bound onto itself and that is shared. */
int path_share_mounts(const char *dir, struct err *e);
/* Unmounts everything at or below `dir` (lazily where busy) and then removes the tree without crossing into
 * another file system. */
int path_remove_tree(const char *dir, struct err *e);
/* Bytes (or inodes) that a tree takes on disk, within one file system and without following links; stops counting
 * beyond `limit`. A missing tree takes none. */
int64_t path_usage(const char *path, int64_t limit, bool inodes);
