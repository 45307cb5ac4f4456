#include "kubelet/lockfile.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/inotify.h>

#include "pkg/base/log.h"

enum { STACK = 64 * 1024 };

static void *watch(void *arg) {
    int fd = (int)(intptr_t)arg;
    char event[sizeof(struct inotify_event) + NAME_MAX + 1];
    while (read(fd, event, sizeof(event)) < 0 && errno == EINTR) {
    }
    log_info("somebody else wants the lock file", NULL);
    kill(getpid(), SIGTERM);
    return NULL;
}

int lockfile_acquire(const char *path, bool leave, struct err *e) {
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600); /* kept */
    if (fd < 0) return err_errno(e, errno, "open the lock file %s", path);
    while (flock(fd, LOCK_EX) < 0)
        if (errno != EINTR) return err_errno(e, errno, "lock %s", path);
    if (!leave) return 0;
    int events = inotify_init1(IN_CLOEXEC); /* kept */
    if (events < 0 || inotify_add_watch(events, path, IN_OPEN | IN_DELETE_SELF) < 0)
        return err_errno(e, errno, "watch the lock file %s", path);
    pthread_t t;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&t, &attr, watch, (void *)(intptr_t)events);
    pthread_attr_destroy(&attr);
    return r ? err_errno(e, r, "start a thread") : 0;
}
