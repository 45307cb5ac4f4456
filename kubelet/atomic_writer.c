/* See atomic_writer.h. */
#include "kubelet/atomic_writer.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include "kubelet/safepath.h"
#include "pkg/base/bytes.h"

#define DATA_LINK "..data"
#define DATA_LINK_NEW "..data_tmp"
enum { PATH_MAX_LEN = 4096 };

int payload_add(struct arena *a, struct payload *p, const char *path, struct bytes data, unsigned mode, int64_t uid,
                struct err *e) {
    if (!path_is_local(path) || strlen(path) > PATH_MAX_LEN || str_has_prefix(path, ".."))
        return err_set(e, -EINVAL, "invalid path \"%s\": must be relative and must not contain \"..\"",
                       str_or_empty(path));
    for (size_t i = 0; i < p->n; i++)
        if (str_eq(p->items[i].path, path)) {
            p->bytes -= p->items[i].data.n;
            p->items[i] = (struct payload_file){path, data, mode, uid};
            p->bytes += data.n;
            return 0;
        }
    if (p->n >= PAYLOAD_FILES_MAX || p->bytes + data.n > PAYLOAD_BYTES_MAX)
        return err_set(e, -EFBIG, "the volume's content is too large");
    ARENA_GROW(a, p->items, p->n, p->cap);
    p->items[p->n++] = (struct payload_file){path, data, mode, uid};
    p->bytes += data.n;
    return 0;
}

static unsigned mode_of(const struct payload_file *f, int64_t gid) { return gid >= 0 ? f->mode | 0440 : f->mode; }

/* True when dir/..data has exactly this file. */
static bool file_is_current(const char *dir, const struct payload_file *f, int64_t gid) {
    _cleanup_free_ char *path = xasprintf("%s/" DATA_LINK "/%s", dir, f->path);
    struct stat st;
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || (size_t)st.st_size != f->data.n) return false;
    if ((st.st_mode & 07777) != mode_of(f, gid)) return false;
    if (gid >= 0 && st.st_gid != (gid_t)gid) return false;
    if (f->uid >= 0 && st.st_uid != (uid_t)f->uid) return false;
    _cleanup_free_ char *data = NULL;
    size_t n;
    return file_read(path, PAYLOAD_BYTES_MAX, &data, &n) == 0 && n == f->data.n && memcmp(data, f->data.p, n) == 0;
}

static size_t count_files(const char *dir) {
    size_t n = 0;
    DIR *d = opendir(dir);
    if (!d) return 0;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        _cleanup_free_ char *sub = xasprintf("%s/%s", dir, ent->d_name);
        struct stat st;
        if (lstat(sub, &st) == 0 && S_ISDIR(st.st_mode))
            n += count_files(sub);
        else
            n++;
    }
    closedir(d);
    return n;
}

static bool is_current(const char *dir, const struct payload *p, int64_t gid) {
    _cleanup_free_ char *data = xasprintf("%s/" DATA_LINK, dir);
    struct stat st;
    if (lstat(data, &st) < 0) return false;
    for (size_t i = 0; i < p->n; i++)
        if (!file_is_current(dir, &p->items[i], gid)) return false;
    return count_files(data) == p->n;
}

static int write_file(const char *ts_dir, const struct payload_file *f, int64_t gid, struct err *e) {
    _cleanup_free_ char *path = xasprintf("%s/%s", ts_dir, f->path);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    int r = mkdir_p(path, 0755);
    *slash = '/';
    if (r < 0) return err_errno(e, r, "mkdir for %s", f->path);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) return err_errno(e, errno, "create %s", path);
    r = fd_write_all(fd, f->data.p, f->data.n);
    if (r < 0) return err_errno(e, r, "write %s", path);
    if ((gid >= 0 || f->uid >= 0) &&
        fchown(fd, f->uid >= 0 ? (uid_t)f->uid : (uid_t)-1, gid >= 0 ? (gid_t)gid : (gid_t)-1) < 0)
        return err_errno(e, errno, "chown %s", path);
    if (fchmod(fd, mode_of(f, gid)) < 0) return err_errno(e, errno, "chmod %s", path);
    return 0;
}

/* The user-visible link of a file's first path component. */
static int link_top(const char *dir, const char *rel, struct err *e) {
    size_t n = strcspn(rel, "/");
    _cleanup_free_ char *top = xstrndup(rel, n);
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, top);
    _cleanup_free_ char *to = xasprintf(DATA_LINK "/%s", top);
    if (symlink(to, path) < 0 && errno != EEXIST) return err_errno(e, errno, "link %s", path);
    return 0;
}

static bool wanted_top(const struct payload *p, const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i < p->n; i++)
        if (strncmp(p->items[i].path, name, n) == 0 && (p->items[i].path[n] == '/' || !p->items[i].path[n]))
            return true;
    return false;
}

/* Removes links whose file is gone and timestamped folders that are no longer the current one. */
static void sweep(const char *dir, const struct payload *p, const char *current) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *ent; (ent = readdir(d));) {
        const char *n = ent->d_name;
        if (str_eq(n, ".") || str_eq(n, "..") || str_eq(n, DATA_LINK) || str_eq(n, current)) continue;
        _cleanup_free_ char *path = xasprintf("%s/%s", dir, n);
        if (str_has_prefix(n, ".."))
            path_remove_tree(path, NULL);
        else if (!wanted_top(p, n))
            unlink(path);
    }
    closedir(d);
}

static void timestamped_name(char *out, size_t size) {
    struct ktime now = ktime_now();
    time_t t = (time_t)now.sec;
    struct tm tm;
    gmtime_r(&t, &tm);
    uint32_t r;
    random_bytes(&r, sizeof(r));
    snprintf(out, size, "..%04d_%02d_%02d_%02d_%02d_%02d.%u", tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
             tm.tm_min, tm.tm_sec, r);
}

int atomic_write(const char *dir, const struct payload *p, int64_t gid, struct err *e) {
    int r = mkdir_p(dir, 0755);
    if (r < 0) return err_errno(e, r, "mkdir %s", dir);
    if (is_current(dir, p, gid)) return 0;
    char name[80];
    timestamped_name(name, sizeof(name));
    _cleanup_free_ char *ts_dir = xasprintf("%s/%s", dir, name);
    if (mkdir(ts_dir, 0755) < 0) return err_errno(e, errno, "mkdir %s", ts_dir);
    chmod(ts_dir, 0755);
    for (size_t i = 0; i < p->n; i++) {
        r = write_file(ts_dir, &p->items[i], gid, e);
        if (r < 0) {
            path_remove_tree(ts_dir, NULL);
            return r;
        }
    }
    _cleanup_free_ char *tmp = xasprintf("%s/" DATA_LINK_NEW, dir);
    _cleanup_free_ char *data = xasprintf("%s/" DATA_LINK, dir);
    unlink(tmp);
    if (symlink(name, tmp) < 0) return err_errno(e, errno, "link %s", tmp);
    if (rename(tmp, data) < 0) return err_errno(e, errno, "rename %s", tmp);
    for (size_t i = 0; i < p->n; i++) {
        r = link_top(dir, p->items[i].path, e);
        if (r < 0) return r;
    }
    sweep(dir, p, name);
    return 0;
}
