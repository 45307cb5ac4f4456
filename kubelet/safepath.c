/* See safepath.h. */
#include "kubelet/safepath.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

bool path_is_local(const char *path) {
    if (str_empty(path) || *path == '/') return false;
    for (const char *s = path; *s;) {
        size_t n = strcspn(s, "/");
        if (n == 2 && s[0] == '.' && s[1] == '.') return false;
        s += n;
        while (*s == '/') s++;
    }
    return true;
}

static int open_failed(const char *rel, int r, struct err *e) {
    return r == -EXDEV ? err_set(e, r, "%s leads out of the volume", rel)
                       : err_errno(e, r, "open %s in the volume", rel);
}

static int open_in(int root, const char *rel, uint64_t flags) {
    struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, root, *rel ? rel : ".", &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

/* Makes the missing directories of rel, level by level, each opened inside of the root. */
static int make_dirs(int root, const char *rel, unsigned mode) {
    _cleanup_free_ char *path = xstrdup(rel);
    size_t len = strlen(path);
    for (size_t i = 0; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        if (i == 0) continue;
        path[i] = '\0';
        int fd = open_in(root, path, O_PATH | O_DIRECTORY);
        if (fd == -ENOENT) {
            char *slash = strrchr(path, '/');
            if (slash) *slash = '\0';
            _cleanup_close_ int parent = open_in(root, slash ? path : "", O_PATH | O_DIRECTORY);
            if (slash) *slash = '/';
            if (parent < 0) return parent;
            const char *base = slash ? slash + 1 : path;
            if (mkdirat(parent, base, mode) < 0 && errno != EEXIST) return -errno;
            fd = open_in(root, path, O_PATH | O_DIRECTORY);
            if (fd >= 0) { /* the umask does not apply to what the pod was promised */
                char proc[64];
                snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
                chmod(proc, mode);
            }
        }
        if (fd < 0) return fd;
        close(fd);
        path[i] = i < len ? '/' : '\0';
    }
    return 0;
}

int safepath_open(const char *root, const char *rel, bool create, unsigned mode, struct err *e) {
    while (*rel == '/') rel++;
    _cleanup_close_ int dir = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return err_errno(e, errno, "open %s", root);
    int fd = open_in(dir, rel, O_PATH);
    if (fd == -ENOENT && create) {
        int r = make_dirs(dir, rel, mode);
        if (r < 0) return open_failed(rel, r, e);
        fd = open_in(dir, rel, O_PATH);
    }
    if (fd < 0) return open_failed(rel, fd, e);
    return fd;
}

bool path_is_mount(const char *path) {
    struct stat st, up;
    _cleanup_free_ char *parent = xasprintf("%s/..", path);
    _cleanup_file_ FILE *f = NULL;
    if (lstat(path, &st) < 0) return false;
    if (S_ISDIR(st.st_mode) && lstat(parent, &up) == 0 && st.st_dev != up.st_dev) return true;
    /* A bind of the same file system does not change st_dev: ask the kernel's list. */
    f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t cap = 0;
    bool found = false;
    while (f && !found && getline(&line, &cap, f) > 0) {
        char *s = line;
        for (int i = 0; i < 4 && s; i++) s = (s = strchr(s, ' ')) ? s + 1 : NULL;
        if (!s) continue;
        s[strcspn(s, " ")] = '\0';
        found = str_eq(s, path);
    }
    free(line);
    return found;
}

int safepath_bind(const char *root, const char *rel, const char *target, bool create, unsigned mode, struct err *e) {
    if (path_is_mount(target)) return 0;
    _cleanup_close_ int fd = safepath_open(root, rel, create, mode, e);
    if (fd < 0) return fd;
    struct stat st;
    if (fstat(fd, &st) < 0) return err_errno(e, errno, "stat %s", rel);
    if (S_ISLNK(st.st_mode)) return err_set(e, -ELOOP, "%s is a symbolic link", rel);
    if (S_ISDIR(st.st_mode)) {
        int r = mkdir_p(target, 0750);
        if (r < 0) return err_errno(e, r, "mkdir %s", target);
    } else {
        _cleanup_free_ char *dir = xstrdup(target);
        char *slash = strrchr(dir, '/');
        if (slash) *slash = '\0';
        int r = mkdir_p(dir, 0750);
        if (r < 0) return err_errno(e, r, "mkdir %s", dir);
        _cleanup_close_ int f = open(target, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
        if (f < 0) return err_errno(e, errno, "create %s", target);
    }
    char src[64];
    snprintf(src, sizeof(src), "/proc/self/fd/%d", fd);
    if (mount(src, target, NULL, MS_BIND | MS_REC, NULL) < 0) return err_errno(e, errno, "bind %s to %s", rel, target);
    return 0;
}

/* Mount points at or below dir, in order of mounting. */
static size_t mounts_below(const char *dir, char ***out) {
    _cleanup_file_ FILE *f = fopen("/proc/self/mountinfo", "re");
    size_t n = 0, cap = 0, len = strlen(dir);
    char *line = NULL;
    size_t lcap = 0;
    *out = NULL;
    while (f && getline(&line, &lcap, f) > 0) {
        char *s = line;
        for (int i = 0; i < 4 && s; i++) s = (s = strchr(s, ' ')) ? s + 1 : NULL;
        if (!s) continue;
        s[strcspn(s, " ")] = '\0';
        char *w = s; /* the kernel writes spaces and such as octal */
        for (char *r = s; *r; w++) {
            if (r[0] == '\\' && r[1] && r[2] && r[3]) {
                *w = (char)((r[1] - '0') * 64 + (r[2] - '0') * 8 + (r[3] - '0'));
                r += 4;
            } else {
                *w = *r++;
            }
        }
        *w = '\0';
        if (strncmp(s, dir, len) != 0 || (s[len] && s[len] != '/')) continue;
        VEC_GROW(*out, n, cap);
        (*out)[n++] = xstrdup(s);
    }
    free(line);
    return n;
}

/* The mount that `path` (absolute, resolved) lies in: is it shared, and is it mounted at this very path? */
static bool mount_around(const char *path, bool *exactly) {
    _cleanup_file_ FILE *f = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, at[PATH_MAX];
    size_t cap = 0, best = 0;
    bool shared = false;
    while (f && getline(&line, &cap, f) > 0) {
        if (sscanf(line, "%*s %*s %*s %*s %4095s", at) != 1) continue;
        size_t n = str_eq(at, "/") ? 0 : strlen(at);
        if (strncmp(path, at, n) != 0 || (path[n] && path[n] != '/') || n < best) continue;
        best = n;
        *exactly = str_eq(path, at);
        const char *optional_end = strstr(line, " - "), *tag = strstr(line, " shared:");
        shared = tag && tag < optional_end;
    }
    free(line);
    return shared;
}

int path_share_mounts(const char *dir, struct err *e) {
    _cleanup_free_ char *real = realpath(dir, NULL);
    bool exactly = false;
    if (!real) return err_errno(e, errno, "resolve %s", dir);
    if (mount_around(real, &exactly)) return 0;
    if (!exactly && mount(real, real, NULL, MS_BIND | MS_REC, NULL) < 0)
        return err_errno(e, errno, "bind %s onto itself", real);
    return mount(NULL, real, NULL, MS_SHARED, NULL) < 0 ? err_errno(e, errno, "share the mounts of %s", real) : 0;
}

static int remove_at(int dir, const char *name, dev_t dev) {
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return -errno;
    _cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0) return -errno;
    if (st.st_dev != dev) return -EXDEV;
    DIR *d = fdopendir(fd);
    if (!d) return -errno;
    int inner = take_fd(&fd);
    int r = 0;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        int one = remove_at(inner, ent->d_name, dev);
        if (one < 0 && r == 0) r = one;
    }
    closedir(d);
    if (r == 0 && unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT) r = -errno;
    return r;
}

int path_remove_tree(const char *dir, struct err *e) {
    struct stat st;
    if (lstat(dir, &st) < 0) return errno == ENOENT ? 0 : err_errno(e, errno, "stat %s", dir);
    char **mounts;
    size_t n = mounts_below(dir, &mounts);
    for (size_t i = n; i-- > 0;) {
        if (umount2(mounts[i], UMOUNT_NOFOLLOW) < 0) umount2(mounts[i], MNT_DETACH | UMOUNT_NOFOLLOW);
        free(mounts[i]);
    }
    free(mounts);
    /* What is still mounted may be somebody's data: never walk into it. */
    size_t left = mounts_below(dir, &mounts);
    for (size_t i = 0; i < left; i++) free(mounts[i]);
    free(mounts);
    if (left) return err_set(e, -EBUSY, "%zu mounts below %s could not be unmounted", left, dir);
    if (lstat(dir, &st) < 0) return errno == ENOENT ? 0 : err_errno(e, errno, "stat %s", dir);
    int r = remove_at(AT_FDCWD, dir, st.st_dev);
    return r < 0 ? err_errno(e, r, "remove %s", dir) : 0;
}

/* ---- usage ---- */

static int64_t usage_at(int dirfd, const char *name, dev_t dev, int64_t limit, bool inodes, int depth) {
    enum { MAX_DEPTH = 128 };
    _cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0 || depth > MAX_DEPTH || fstat(fd, &st) < 0 || (dev && st.st_dev != dev)) return 0;
    DIR *d = fdopendir(fd);
    if (!d) return 0;
    int inner = take_fd(&fd);
    int64_t sum = 0;
    dev = st.st_dev;
    for (struct dirent *ent; sum <= limit && (ent = readdir(d));) {
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        if (fstatat(inner, ent->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) continue;
        sum += inodes ? 1 : (int64_t)st.st_blocks * 512;
        if (S_ISDIR(st.st_mode)) sum += usage_at(inner, ent->d_name, dev, limit - sum, inodes, depth + 1);
    }
    closedir(d);
    return sum;
}

int64_t path_usage(const char *path, int64_t limit, bool inodes) {
    return usage_at(AT_FDCWD, path, 0, limit, inodes, 0);
}
