#include "idmap.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "fsutil.h"
#include "pkg/base/buf.h"

enum { MAX_MAPPINGS = 32 };

int64_t idmap_host_id(const struct cri_id_mapping_vec *v, uint32_t id) {
    for (size_t i = 0; i < v->n; i++) {
        const struct cri_id_mapping *m = &v->items[i];
        if (id >= m->container_id && id - m->container_id < m->length)
            return (int64_t)m->host_id + (id - m->container_id);
    }
    return -1;
}

const char *idmap_problem(const struct cri_user_namespace *u) {
    if (!u->uids.n || !u->gids.n) return "a user namespace needs uid and gid mappings";
    if (u->uids.n > MAX_MAPPINGS || u->gids.n > MAX_MAPPINGS) return "too many id mappings";
    if (idmap_host_id(&u->uids, 0) < 0 || idmap_host_id(&u->gids, 0) < 0) return "the id mappings have no root";
    return NULL;
}

bool idmap_supported(void) {
    struct utsname u;
    int major = 0, minor = 0;
    return uname(&u) == 0 && sscanf(u.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 3)) && access("/proc/self/ns/user", F_OK) == 0;
}

/* ---- the namespace ---- */

static int put_map(pid_t pid, const char *file, const struct cri_id_mapping_vec *v) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    char path[64];
    for (size_t i = 0; i < v->n; i++)
        buf_printf(&b, "%u %u %u\n", v->items[i].container_id, v->items[i].host_id, v->items[i].length);
    buf_addc(&b, '\0');
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
    return fs_write_str(path, b.data);
}

/* The child: only system calls from here, as another thread may have held a lock. */
static _noreturn_ void hold(int go, int done, int flags) {
    char c = 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(go, &c, 1) != 1) _exit(1);
    int r = flags && unshare(flags) < 0 ? errno : 0;
    c = (char)r;
    if (write(done, &c, 1) != 1 || r) _exit(1);
    for (;;) pause();
}

void idmap_holder_end(pid_t pid) {
    if (pid <= 0) return;
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

pid_t idmap_holder(const struct cri_user_namespace *u, int flags, struct err *e) {
    int go[2], done[2];
    if (pipe2(go, O_CLOEXEC) < 0) return err_errno(e, errno, "pipe");
    if (pipe2(done, O_CLOEXEC) < 0) {
        close(go[0]), close(go[1]);
        return err_errno(e, errno, "pipe");
    }
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) hold(go[0], done[1], flags);
    int r = pid < 0 ? -errno : 0;
    close(go[0]);
    close(done[1]);
    char c = 0;
    if (r == 0) r = put_map(pid, "gid_map", &u->gids);
    if (r == 0) r = put_map(pid, "uid_map", &u->uids);
    if (r == 0 && write(go[1], &c, 1) != 1) r = -errno;
    if (r == 0) r = read(done[0], &c, 1) == 1 ? -(unsigned char)c : -EIO;
    close(go[1]);
    close(done[0]);
    if (r == 0) return pid;
    idmap_holder_end(pid);
    return err_errno(e, r, "make a user namespace");
}

/* ---- mounts ---- */

static int map_tree(int tree, int userns, unsigned flags) {
    struct mount_attr at = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)userns};
    return syscall(SYS_mount_setattr, tree, "", AT_EMPTY_PATH | flags, &at, sizeof(at)) < 0 ? -errno : 0;
}

int idmap_bind(const char *source, const char *target, const char *userns, struct err *e) {
    _cleanup_close_ int ns = open(userns, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (ns < 0) return err_errno(e, errno, "open %s", userns);
    if (stat(source, &st) < 0) return err_errno(e, errno, "mount source %s", source);
    int r = S_ISDIR(st.st_mode) ? mkdir_p(target, 0755) : fs_touch(target, 0644);
    if (r < 0) return err_errno(e, r, "make %s", target);
    int tree = -1;
    /* With what is mounted below, where all of that can be mapped; else without. */
    for (unsigned flags = AT_RECURSIVE;; flags = 0) {
        tree = (int)syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
        r = tree < 0 ? -errno : map_tree(tree, ns, flags);
        if (r == 0 || flags == 0) break;
        if (tree >= 0) close(tree);
    }
    if (r == 0 && syscall(SYS_move_mount, tree, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0) r = -errno;
    if (tree >= 0) close(tree);
    return r < 0 ? err_errno(e, r, "id-mapped mount of %s (does its file system have them?)", source) : 0;
}
