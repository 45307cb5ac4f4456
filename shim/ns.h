/* Namespaces of a sandbox, pinned by bind mounts: no process is needed to keep them. A thread of the shim unshares
 * itself into new ones, mounts /proc/thread-self/ns/X on DIR/X, sets them up from inside, and ends. The pins are in
 * the mount namespace of the host, so they outlive the shim. */
#pragma once

#include "pkg/api/api.h"
#include "pkg/api/cri.h"
#include "pkg/base/err.h"

enum ns_kind { NS_NET = 1, NS_IPC = 2, NS_UTS = 4 };

struct ns_setup {
    const char *dir;      /* where the pins go (exists) */
    unsigned kinds;       /* ns_kind bits */
    const char *hostname; /* with NS_UTS */
    const struct cri_user_namespace
        *user;                     /* they belong to a new user namespace, pinned as "user"; NULL: to the host's */
    const struct str_map *sysctls; /* "net.core.somaxconn" or with slashes; may be NULL */
    /* Called inside, after the pins are there, with the pinned network namespace's descriptor (-1 without). */
    int (*inside)(int netns, void *arg, struct err *e);
    void *arg;
};

/* All or nothing: on error no pin is left. */
int ns_create(const struct ns_setup *s, struct err *e);
/* Removes the pins in `dir`. Missing ones are fine. */
void ns_remove(const char *dir);
/* True when DIR/NAME ("net", "ipc", "uts", "pid") is a pin (after a reboot it is just an empty file). */
bool ns_pinned(const char *dir, const char *name);
/* Pins a process's pid namespace as DIR/pid. */
int ns_pin_pid(const char *dir, pid_t pid, struct err *e);
/* Runs fn in the pinned network namespace, in a thread of its own; fn's value. */
int ns_run_in_net(const char *dir, int (*fn)(void *arg, struct err *e), void *arg, struct err *e);
