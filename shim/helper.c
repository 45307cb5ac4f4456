/* coracle-shim-helper: the two things the shim needs as small separate programs. Statically linked, so that starting it
 * costs next to nothing.
 *
 *   coracle-shim-helper pause
 *       Process 1 of a sandbox with a shared process namespace: collects orphans, ends on SIGTERM or SIGINT.
 *
 *   coracle-shim-helper runtime PROGRAM ARG...
 *       Runs the OCI runtime where it believes in cgroup v1: crun 1.8 refuses a machine that has v1 controllers and
 *       an (almost empty) v2 hierarchy at /sys/fs/cgroup/unified. In a mount namespace of its own /dev/null covers
 *       that hierarchy's cgroup.controllers. Only that mount point is made private, so everything else, bidirectional
 *       volumes included, propagates as on the host; and the namespace ends with the runtime. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
    fprintf(stderr, "coracle-shim-helper: %s: %s\n", what, strerror(errno));
    return 1;
}

static int pause_main(void) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_NAME, "pause");
    for (;;) {
        int sig;
        if (sigwait(&set, &sig) != 0) continue;
        if (sig != SIGCHLD) return 0;
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}

static int runtime_main(char **argv) {
    static const char unified[] = "/sys/fs/cgroup/unified", file[] = "/sys/fs/cgroup/unified/cgroup.controllers";
    if (access(file, F_OK) == 0) {
        if (unshare(CLONE_NEWNS) < 0) return fail("unshare");
        if (mount(NULL, unified, NULL, MS_PRIVATE, NULL) < 0) return fail("make /sys/fs/cgroup/unified private");
        if (mount("/dev/null", file, NULL, MS_BIND, NULL) < 0) return fail("cover cgroup.controllers");
    }
    execv(argv[0], argv);
    return fail(argv[0]);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "pause") == 0) return pause_main();
    if (argc > 2 && strcmp(argv[1], "runtime") == 0) return runtime_main(argv + 2);
    fprintf(stderr, "usage: coracle-shim-helper pause | runtime PROGRAM ARG...\n");
    return 2;
}
