/* One kubelet at a time: the lock on a file (--lock-file), waited for at the start. With --exit-on-lock-contention the
 * kubelet ends as soon as somebody else wants it (opens the file): a kubelet that bootstraps a node makes room for the one
 * that follows it.
 *
 * Upstream: cmd/kubelet/app (AcquireLock, watchForLockfileContention). */
#pragma once

#include "pkg/base/err.h"

/* Blocks until the lock is there; it is held until the process ends. `leave`: send this process SIGTERM when somebody else
 * opens or removes the file, which ends it whatever it waits for: call before signals are blocked. */
int lockfile_acquire(const char *path, bool leave, struct err *e);
