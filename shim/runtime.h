/* What runs containers, behind one small interface: today crun under conmon (crun.c); a launcher of our own or a
 * microVM can take its place. A container is known by its id and its folder STATE/containers/ID (the "bundle", with
 * config.json in it). Everything blocks; calls about one container are serialised by the caller. */
#pragma once

#include <sys/types.h>

#include "pkg/base/buf.h"
#include "pkg/base/err.h"
#include "pkg/json/json.h"

struct runtime;

struct runtime_options {
    const char *state;   /* folder of the shim's runtime state */
    const char *program; /* crun, or one of its kind */
    bool secondary;      /* of a runtime class: its version is not asked for */
    const char *monitor; /* conmon */
    const char *helper;  /* coracle-shim-helper */
};

struct runtime_create {
    const char *id, *bundle;
    const char *log_path; /* NULL: no log */
    bool tty, stdin_open, stdin_once;
};

struct runtime_proc { /* of a created container */
    pid_t pid, monitor;
    uint64_t pid_start, monitor_start;
};

struct runtime_exec {
    const char *id, *bundle;
    const struct json *process; /* the OCI process object */
    int in, out, err;           /* -1: nothing; unused with tty */
    bool tty;
};

struct runtime_exec_run { /* a running exec */
    pid_t runtime;        /* the child to wait for: ends with the process, with its code */
    int tty;              /* master side, or -1 */
    char *pid_file, *log_file, *process_file;
};

struct runtime *runtime_new(const struct runtime_options *o, struct err *e);
struct runtime *runtime_free(struct runtime *r);
/* The program takes compiled seccomp filters and joins user namespaces by their pins, as crun does. */
bool runtime_is_crun(const struct runtime *r);
/* "1.8.1" of the program. */
const char *runtime_version(struct runtime *r);

/* Makes the container's process, not yet running its program, under a monitor that outlives the shim. */
int runtime_create(struct runtime *r, const struct runtime_create *c, struct runtime_proc *out, struct err *e);
/* Lets the program run. */
int runtime_start(struct runtime *r, const char *id, struct err *e);
/* Forgets a container that has ended (or kills it): runtime state and cgroup. Idempotent. */
int runtime_delete(struct runtime *r, const char *id, const char *cgroup);
/* Starts another process in a running container; finish with runtime_exec_wait. */
int runtime_exec(struct runtime *r, const struct runtime_exec *x, struct runtime_exec_run *out, struct err *e);
/* Waits at most timeout_ms (<= 0: for ever), killing the process then (-ETIMEDOUT). The exit code; an error when the
 * process could not be started (-ENOENT and so on). Frees what `run` holds. */
int runtime_exec_wait(struct runtime *r, struct runtime_exec_run *run, int timeout_ms, struct err *e);
/* Kills a running exec's process. */
void runtime_exec_kill(struct runtime_exec_run *run);
/* New limits ("linux.resources"). */
int runtime_update(struct runtime *r, const char *id, const struct json *resources, struct err *e);
/* A connected socket to the container's streams: each packet that is read starts with a byte 2 (stdout) or 3 (stderr);
 * what is written is its stdin. */
int runtime_attach(struct runtime *r, const char *id, struct err *e);
int runtime_resize(struct runtime *r, const char *bundle, uint16_t width, uint16_t height);
/* After a rotation: a new file at log_path (may be NULL), unless the old one is still there. */
int runtime_reopen_log(struct runtime *r, const char *bundle, const char *log_path, struct err *e);
/* How a container ended, if the monitor has said so: true and the code and time. */
bool runtime_exit_status(struct runtime *r, const char *id, const char *bundle, int *code, int64_t *finished_ns,
                         bool *oom);
/* Folder where a file named after the id appears (IN_MOVED_TO) when a container ends. */
const char *runtime_exit_dir(struct runtime *r);
