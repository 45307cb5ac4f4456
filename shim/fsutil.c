/* Removal, records and small reads. Removal works with file descriptors and O_NOFOLLOW all the way down, because what
 * is removed (a container's writable layer) was written by somebody hostile. */
#include "fsutil.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#include "pkg/base/bytes.h"

static int rm_at(int dirfd, const char *name, int depth);

static int rm_children_fd(int fd_owned, int depth) {
    DIR *d = fdopendir(fd_owned);
    if (!d) {
        close(fd_owned);
        return -errno;
    }
    int r = 0;
    struct dirent *ent;
    while ((ent = readdir(d))) {
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        int one = rm_at(dirfd(d), ent->d_name, depth + 1);
        if (one < 0 && r == 0) r = one;
    }
    closedir(d);
    return r;
}

enum { RM_MAX_DEPTH = 4096 };
#define FS_RESERVE_MAX (UINT64_C(10) << 30)

static int rm_at(int dir, const char *name, int depth) {
    if (depth > RM_MAX_DEPTH) return -ELOOP;
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno == EBUSY) {
        char path[64 + 256];
        snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name);
        while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
        }
        if (unlinkat(dir, name, 0) == 0) return 0;
    }
    if (errno != EISDIR && errno != EPERM && errno != EBUSY) return -errno;
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0 || errno == ENOENT) return 0;
    if (errno == EBUSY) {
        char path[64 + 256];
        snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name);
        while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
        }
    }
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : -errno;
    int r = rm_children_fd(fd, depth);
    if (unlinkat(dir, name, AT_REMOVEDIR) < 0 && errno != ENOENT) return r < 0 ? r : -errno;
    return 0;
}

int fs_rm_rf(const char *path) {
    while (fs_is_mount(path) && umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
    return rm_at(AT_FDCWD, path, 0);
}

int fs_rm_children(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return errno == ENOENT ? 0 : -errno;
    return rm_children_fd(fd, 0);
}

bool fs_is_mount(const char *path) {
    struct statx sx;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, 0, &sx) < 0) return false;
    return (sx.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) && (sx.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

int fs_unpin(const char *path) {
    while (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0) {
    }
    if (unlink(path) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return -errno;
    return rmdir(path) == 0 || errno == ENOENT ? 0 : -errno;
}

int fs_touch(const char *path, unsigned mode) {
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
    if (fd < 0) return -errno;
    close(fd);
    return 0;
}

int fs_write_str(const char *path, const char *text) {
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    ssize_t r = write(fd, text, strlen(text));
    return r < 0 ? -errno : 0;
}

int fs_read_str(const char *path, char *out, size_t cap) {
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    size_t n = 0;
    while (n + 1 < cap) {
        ssize_t r = read(fd, out + n, cap - 1 - n);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) return -errno;
        if (r == 0) break;
        n += (size_t)r;
    }
    while (n > 0 && out[n - 1] == '\n') n--;
    out[n] = 0;
    return 0;
}

int fs_room(int fd, uint64_t bytes, struct err *e) {
    struct statvfs v;
    if (fstatvfs(fd, &v) < 0) return err_errno(e, errno, "free space");
    uint64_t unit = v.f_frsize, reserve = MIN_OF(v.f_blocks * unit / 10, FS_RESERVE_MAX), left = v.f_bavail * unit;
    if (left >= reserve && left - reserve >= bytes) return 0;
    return err_set(
        e, -ENOSPC, "no space: %llu MiB are left on the disk, %llu MiB of them reserved, %llu MiB more are needed",
        (unsigned long long)(left >> 20), (unsigned long long)(reserve >> 20), (unsigned long long)(bytes >> 20));
}

int fs_read_u64(const char *path, uint64_t *out) {
    char text[64];
    int r = fs_read_str(path, text, sizeof(text));
    if (r < 0) return r;
    if (str_eq(text, "max")) {
        *out = UINT64_MAX;
        return 0;
    }
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text) return -EINVAL;
    *out = v;
    return 0;
}

static int usage_fd(int fd_owned, dev_t dev, int depth, uint64_t *bytes, uint64_t *inodes) {
    DIR *d = fdopendir(fd_owned);
    if (!d) {
        close(fd_owned);
        return -errno;
    }
    struct dirent *ent;
    while (depth < RM_MAX_DEPTH && (ent = readdir(d))) {
        struct stat st;
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        if (fstatat(dirfd(d), ent->d_name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) continue;
        if (st.st_dev != dev) continue;
        *bytes += (uint64_t)st.st_blocks * 512 / (st.st_nlink > 1 && !S_ISDIR(st.st_mode) ? st.st_nlink : 1);
        (*inodes)++;
        if (!S_ISDIR(st.st_mode)) continue;
        int fd = openat(dirfd(d), ent->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0) usage_fd(fd, dev, depth + 1, bytes, inodes);
    }
    closedir(d);
    return 0;
}

int fs_usage(const char *path, uint64_t *bytes, uint64_t *inodes) {
    *bytes = *inodes = 0;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct stat st;
    if (fd < 0) return -errno;
    if (fstat(fd, &st) < 0) {
        close(fd);
        return -errno;
    }
    *bytes = (uint64_t)st.st_blocks * 512;
    *inodes = 1;
    return usage_fd(fd, st.st_dev, 0, bytes, inodes);
}

static int cmp_str(const void *x, const void *y) { return strcmp(*(const char *const *)x, *(const char *const *)y); }

int fs_list(struct arena *a, const char *path, const char ***names, size_t *n) {
    const char **v = NULL;
    size_t count = 0, cap = 0;
    *names = NULL;
    *n = 0;
    DIR *d = opendir(path);
    if (!d) return errno == ENOENT ? 0 : -errno;
    struct dirent *ent;
    while ((ent = readdir(d))) {
        if (str_eq(ent->d_name, ".") || str_eq(ent->d_name, "..")) continue;
        ARENA_GROW(a, v, count, cap);
        v[count++] = arena_strdup(a, ent->d_name);
    }
    closedir(d);
    if (count) qsort(v, count, sizeof(*v), cmp_str);
    *names = v;
    *n = count;
    return 0;
}

int fs_read_json(struct arena *a, const char *path, struct json **out, struct err *e) {
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = file_read(path, SHIM_RECORD_MAX, &text, &len);
    if (r < 0) return err_errno(e, r, "read %s", path);
    r = json_parse(a, text, len, out, NULL, e);
    return r < 0 ? err_wrap(e, "%s", path) : 0;
}

static int replace_fast(const char *path, const void *p, size_t n) {
    char tmp[4096 + 8];
    snprintf(tmp, sizeof(tmp), "%s.tmp", path);
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) return -errno;
    int r = fd_write_all(fd, p, n);
    close(fd);
    if (r == 0 && rename(tmp, path) < 0) r = -errno;
    if (r < 0) unlink(tmp);
    return r;
}

int fs_write_json(const char *path, const struct json *v, bool durable, struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, v);
    buf_addc(&b, '\n');
    int r = durable ? file_write_atomic(path, b.data, b.len, 0600) : replace_fast(path, b.data, b.len);
    return r < 0 ? err_errno(e, r, "write %s", path) : 0;
}

void sha256_init(struct sha256 *s) {
    s->ctx = EVP_MD_CTX_new();
    if (!s->ctx || EVP_DigestInit_ex(s->ctx, EVP_sha256(), NULL) != 1) abort();
}

void sha256_add(struct sha256 *s, const void *p, size_t n) {
    if (EVP_DigestUpdate(s->ctx, p, n) != 1) abort();
}

void sha256_hex(struct sha256 *s, char out[SHA256_HEX + 1]) {
    unsigned char md[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    if (EVP_DigestFinal_ex(s->ctx, md, &len) != 1) abort();
    hex_encode(md, len, out);
}

void sha256_done(struct sha256 *s) {
    EVP_MD_CTX_free(s->ctx);
    s->ctx = NULL;
}

void sha256_of(const void *p, size_t n, char out[SHA256_HEX + 1]) {
    struct sha256 s;
    sha256_init(&s);
    sha256_add(&s, p, n);
    sha256_hex(&s, out);
    sha256_done(&s);
}
