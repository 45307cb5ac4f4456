/* The supervisor: starts the programs of a node, restarts those that end, stops them in order.
 *
 * A program that dies is restarted after 100 ms, doubling to 10 s while it keeps dying within two seconds of its start.
 * Containers are not its children and do not notice. What runs stands in RUN/components.json. A supervisor that was
 * killed leaves its programs running; the next one ends them before it starts its own (containers stay). */
#pragma once

#include <sys/types.h>

#include "cli/layout.h"

struct component {
    const char *name;    /* "apiserver" */
    const char *program; /* absolute path */
    const char **argv;   /* argv[0] included, NULL-terminated */
    const char
        *wait_port; /* "127.0.0.1:6443": started once this accepts connections, or after five seconds; NULL: at once */
    const char *wait_path; /* started once this file exists */
};

struct component_list {
    struct component *items; /* in the order of starting; stopped in reverse */
    size_t n, cap;
};

/* Runs until SIGTERM; returns an exit status. Takes the lock RUN/supervisor.pid: -EBUSY when another runs. */
int supervisor_run(const struct layout *l, const struct component_list *c, struct err *e);

struct component_state {
    const char *name;
    pid_t pid; /* 0: not running now */
    int64_t started_unix_ns, restarts;
    const char *last_exit; /* "" or "exit status 1", "signal 9" */
};
/* Reads RUN/components.json. */
int supervisor_state(const struct layout *l, struct component_state **out, size_t *n, struct err *e);
