/* A process in a container can open the program that started it (/proc/PID/exe) and, as root, write to it. An OCI
 * runtime therefore starts twice: it binds itself read-only somewhere, and executes that. The second start costs as
 * much as the first (crun: 3 ms, most of it in the dynamic linker), for every container and every exec. Both crun and
 * runc leave it out when they run from a memfd that is sealed against writing, growing, shrinking and further seals; so
 * the program is copied into one once. The copy is named by a path below /proc, because the monitor runs the program
 * and takes no descriptor. */
#include "sealed.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

enum { SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE };

struct sealed {
    pthread_mutex_t lock;
    char *program, *path;
    int fd;
    struct stat seen; /* the program when it was copied */
};

static int memfd(void) {
    int fd = memfd_create("runtime", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
    return fd < 0 && errno == EINVAL ? memfd_create("runtime", MFD_CLOEXEC | MFD_ALLOW_SEALING) : fd; /* before 6.3 */
}

/* The copy's descriptor, and the program's state; or -errno. */
static int copy(const char *program, struct stat *st) {
    _cleanup_close_ int in = open(program, O_RDONLY | O_CLOEXEC), out = memfd();
    if (in < 0 || out < 0 || fstat(in, st) < 0) return -errno;
    for (off_t at = 0; at < st->st_size;) {
        ssize_t n = sendfile(out, in, &at, (size_t)(st->st_size - at));
        if (n < 0) return -errno;
        if (n == 0) return -EIO;
    }
    if (fcntl(out, F_ADD_SEALS, SEALS) < 0) return -errno;
    return take_fd(&out);
}

struct sealed *sealed_new(const char *program, struct err *e) {
    struct stat st;
    int fd = copy(program, &st);
    if (fd < 0) {
        err_errno(e, fd, "copy %s", program);
        return NULL;
    }
    struct sealed *s = xcalloc(1, sizeof(*s));
    pthread_mutex_init(&s->lock, NULL);
    s->program = xstrdup(program);
    s->path = xasprintf("/proc/%d/fd/%d", (int)getpid(), fd);
    s->fd = fd;
    s->seen = st;
    return s;
}

struct sealed *sealed_free(struct sealed *s) {
    if (!s) return NULL;
    close(s->fd);
    free(s->program);
    free(s->path);
    pthread_mutex_destroy(&s->lock);
    free(s);
    return NULL;
}

static bool same(const struct stat *a, const struct stat *b) {
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

const char *sealed_path(struct sealed *s) {
    struct stat now;
    pthread_mutex_lock(&s->lock);
    if (stat(s->program, &now) == 0 && !same(&now, &s->seen)) {
        int fd = copy(s->program, &now);
        if (fd >= 0 && dup3(fd, s->fd, O_CLOEXEC) >= 0) s->seen = now; /* under the same path */
        if (fd >= 0) close(fd);
    }
    pthread_mutex_unlock(&s->lock);
    return s->path;
}
