/* A layer is a tar of the differences to the layers below it. Three things make extraction more than `tar x`:
 *
 * - Safety. Names, link targets and parents come from strangers. Every entry's parent folder is opened with
 *   openat2(RESOLVE_IN_ROOT) below the layer's folder, so that ".." and symbolic links (absolute ones too) stay inside;
 *   the last component is then handled with *at calls that never follow a link.
 * - Whiteouts. ".wh.NAME" removes NAME of the layers below: a 0/0 character device for overlayfs. ".wh..wh..opq" hides
 *   everything below in its folder: the attribute trusted.overlay.opaque.
 * - Identity. The digest of the uncompressed stream (diff_id) must be known: decompression (libarchive's raw format)
 *   and tar reading are two stages with the hash between them.
 *
 * Layers are extracted on their own, not on top of their parents, so a layer is stored once for all images that have
 * it. A hard link to a file of a lower layer therefore fails; builders put the file in the same layer. */
#include "layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

enum {
    LAYER_BLOCK = 128 << 10,
    LAYER_MAX_ENTRIES = 4 << 20,
    LAYER_MAX_XATTR = 64 << 10,
    LAYER_MAX_NAME = 4096,
    LAYER_MAX_DEPTH = 512,
    LAYER_ROOM_STEP =
        8 << 20, /* free space is looked at again after so many bytes: a small file may unpack to any size */
};
#define LAYER_MAX_BYTES (UINT64_C(64) << 30)

struct dir_time {
    char *path;
    struct timespec mtime;
};

struct extractor {
    int root;
    struct archive *raw; /* decompression */
    struct sha256 sha;
    char block[LAYER_BLOCK];
    uint64_t bytes, room_at, entries; /* room_at: `bytes` when free space was looked at last */
    struct dir_time *dirs;            /* modification times of folders, set when nothing more is made in them */
    size_t n_dirs, cap_dirs;
};

static la_ssize_t feed_tar(struct archive *tar, void *user, const void **out) {
    struct extractor *x = user;
    la_ssize_t n = archive_read_data(x->raw, x->block, sizeof(x->block));
    if (n < 0) {
        archive_set_error(tar, EIO, "decompress: %s", archive_error_string(x->raw));
        return -1;
    }
    if (n > 0) sha256_add(&x->sha, x->block, (size_t)n);
    *out = x->block;
    return n;
}

/* Opens a folder below the root, links resolved inside it. */
static int open_in_root(int root, const char *path, int flags) {
    struct open_how how = {.flags = (uint64_t)flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, root, *path ? path : ".", &how, sizeof(how));
    return fd < 0 ? -errno : (int)fd;
}

/* Removes "", "." and leading "/" components; ".." is refused. 0 or -EINVAL. */
static int clean_name(const char *name, char out[LAYER_MAX_NAME]) {
    size_t n = 0;
    int depth = 0;
    while (*name) {
        const char *end = strchrnul(name, '/');
        size_t len = (size_t)(end - name);
        if (len == 2 && name[0] == '.' && name[1] == '.') return -EINVAL;
        if (len > 255 || n + len + 2 > LAYER_MAX_NAME || depth > LAYER_MAX_DEPTH) return -EINVAL;
        if (len > 0 && !(len == 1 && *name == '.')) {
            if (n) out[n++] = '/';
            memcpy(out + n, name, len);
            n += len;
            depth++;
        }
        name = *end ? end + 1 : end;
    }
    out[n] = 0;
    return 0;
}

static bool is_whiteout(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == 0; }

static int make_opaque(int dir, const char *name, struct err *e) {
    char path[64 + 256];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name);
    return lsetxattr(path, "trusted.overlay.opaque", "y", 1, 0) < 0 ? err_errno(e, errno, "opaque %s", name) : 0;
}

/* Opens the folder `path`, making what is missing. A file in the way is replaced. */
static int open_parent(struct extractor *x, const char *path) {
    int fd = open_in_root(x->root, path, O_RDONLY | O_DIRECTORY);
    if (fd != -ENOENT && fd != -ENOTDIR) return fd;
    int cur = open_in_root(x->root, "", O_RDONLY | O_DIRECTORY);
    char done[LAYER_MAX_NAME];
    size_t len = 0;
    while (cur >= 0 && *path) {
        const char *end = strchrnul(path, '/');
        char name[256];
        snprintf(name, sizeof(name), "%.*s", (int)(end - path), path);
        if (len) done[len++] = '/';
        memcpy(done + len, name, strlen(name) + 1);
        len += strlen(name);
        int next = open_in_root(x->root, done, O_RDONLY | O_DIRECTORY);
        struct stat st;
        bool whited = next == -ENOTDIR && fstatat(cur, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && is_whiteout(&st);
        if (next == -ENOTDIR && unlinkat(cur, name, 0) < 0) next = -errno;
        if (next == -ENOENT || next == -ENOTDIR) {
            next = mkdirat(cur, name, 0755) < 0 ? -errno : open_in_root(x->root, done, O_RDONLY | O_DIRECTORY);
            if (next >= 0 && whited) make_opaque(cur, name, NULL);
        }
        close(cur);
        cur = next;
        path = *end ? end + 1 : end;
    }
    return cur;
}

static int remove_at(int dir, const char *name) {
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) return 0;
    if (errno != EISDIR && errno != EPERM) return -errno;
    char path[64 + 256];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name);
    return fs_rm_rf(path);
}

static int write_file(struct extractor *x, struct archive *tar, int64_t size, int dir, const char *name,
                      struct err *e) {
    _cleanup_close_ int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return err_errno(e, errno, "create %s", name);
    const void *p;
    size_t n;
    la_int64_t off;
    int r;
    while ((r = archive_read_data_block(tar, &p, &n, &off)) == ARCHIVE_OK) {
        x->bytes += n;
        if (x->bytes > LAYER_MAX_BYTES) return err_set(e, -EFBIG, "layer is larger than allowed");
        if (x->bytes - x->room_at > LAYER_ROOM_STEP) {
            if ((r = fs_room(fd, n, e)) < 0) return r;
            x->room_at = x->bytes;
        }
        for (size_t done = 0; done < n;) {
            ssize_t w = pwrite(fd, (const char *)p + done, n - done, off + (la_int64_t)done);
            if (w < 0) return err_errno(e, errno, "write %s", name);
            done += (size_t)w;
        }
    }
    if (r != ARCHIVE_EOF) return err_set(e, -EIO, "read archive: %s", archive_error_string(tar));
    if (ftruncate(fd, size) < 0) return err_errno(e, errno, "size of %s", name); /* a hole at the end */
    return 0;
}

static int make_hardlink(struct extractor *x, const char *target, int dir, const char *name, struct err *e) {
    char clean[LAYER_MAX_NAME];
    if (clean_name(target, clean) < 0 || !*clean) return err_set(e, -EINVAL, "hard link %s: bad target", name);
    char *slash = strrchr(clean, '/');
    if (slash) *slash = 0;
    _cleanup_close_ int from = open_in_root(x->root, slash ? clean : "", O_RDONLY | O_DIRECTORY);
    if (from < 0) return err_errno(e, from, "hard link %s to %s", name, target);
    if (linkat(from, slash ? slash + 1 : clean, dir, name, 0) < 0)
        return err_errno(e, errno, "hard link %s to %s", name, target);
    return 0;
}

/* Makes the file system object an entry describes (content, but no owner or mode yet). */
static int make_object(struct extractor *x, struct archive *tar, struct archive_entry *ent, int dir, const char *name,
                       struct err *e) {
    dev_t dev = archive_entry_rdev(ent);
    mode_t type = archive_entry_filetype(ent);
    struct stat st;
    bool is_dir = type == AE_IFDIR, there = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (is_dir && there && S_ISDIR(st.st_mode)) return 0;
    if (is_dir && there && is_whiteout(&st)) { /* removed below and made anew: what was below must not show */
        if (unlinkat(dir, name, 0) < 0 || mkdirat(dir, name, 0700) < 0) return err_errno(e, errno, "create %s", name);
        return make_opaque(dir, name, e);
    }
    int r = remove_at(dir, name);
    if (r < 0) return err_errno(e, r, "replace %s", name);
    if (archive_entry_hardlink(ent)) return make_hardlink(x, archive_entry_hardlink(ent), dir, name, e);
    switch (type) {
        case AE_IFDIR: r = mkdirat(dir, name, 0700); break;
        case AE_IFREG: return write_file(x, tar, archive_entry_size(ent), dir, name, e);
        case AE_IFLNK: r = symlinkat(str_or_empty(archive_entry_symlink(ent)), dir, name); break;
        case AE_IFIFO: r = mknodat(dir, name, S_IFIFO | 0600, 0); break;
        case AE_IFCHR: r = mknodat(dir, name, S_IFCHR | 0600, makedev(major(dev), minor(dev))); break;
        case AE_IFBLK: r = mknodat(dir, name, S_IFBLK | 0600, makedev(major(dev), minor(dev))); break;
        case AE_IFSOCK: return 0;
        default: return err_set(e, -EINVAL, "%s: unknown kind of entry", name);
    }
    return r < 0 ? err_errno(e, errno, "create %s", name) : 0;
}

/* Attributes that an image may set; overlayfs' own would let it forge whiteouts. */
static bool xattr_allowed(const char *name) {
    return str_has_prefix(name, "user.") || str_eq(name, "security.capability");
}

static int set_xattrs(struct archive_entry *ent, int dir, const char *name, struct err *e) {
    char path[64 + 256];
    const char *key;
    const void *value;
    size_t n;
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", dir, name);
    archive_entry_xattr_reset(ent);
    while (archive_entry_xattr_next(ent, &key, &value, &n) == ARCHIVE_OK) {
        if (!xattr_allowed(key)) continue;
        if (n > LAYER_MAX_XATTR) return err_set(e, -E2BIG, "%s: attribute %s too large", name, key);
        if (lsetxattr(path, key, value, n, 0) < 0 && errno != ENOTSUP)
            return err_errno(e, errno, "%s: attribute %s", name, key);
    }
    return 0;
}

static int set_meta(struct extractor *x, struct archive_entry *ent, int dir, const char *name, const char *path,
                    struct err *e) {
    if (archive_entry_hardlink(ent) || archive_entry_filetype(ent) == AE_IFSOCK) return 0;
    bool link = archive_entry_filetype(ent) == AE_IFLNK;
    if (fchownat(dir, name, (uid_t)archive_entry_uid(ent), (gid_t)archive_entry_gid(ent), AT_SYMLINK_NOFOLLOW) < 0)
        return err_errno(e, errno, "chown %s", name);
    if (!link && fchmodat(dir, name, archive_entry_perm(ent), 0) < 0) return err_errno(e, errno, "chmod %s", name);
    int r = set_xattrs(ent, dir, name, e);
    if (r < 0) return r;
    struct timespec mtime = {archive_entry_mtime(ent), archive_entry_mtime_nsec(ent)};
    if (archive_entry_filetype(ent) == AE_IFDIR) {
        VEC_GROW(x->dirs, x->n_dirs, x->cap_dirs);
        x->dirs[x->n_dirs++] = (struct dir_time){xstrdup(path), mtime};
        return 0;
    }
    struct timespec times[2] = {mtime, mtime};
    utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
    return 0;
}

static int whiteout(int dir, const char *name, struct err *e) {
    struct stat st;
    if (str_eq(name, ".wh..wh..opq")) return make_opaque(dir, ".", e);
    if (str_has_prefix(name, ".wh..wh.")) return 0; /* aufs' own bookkeeping */
    name += strlen(".wh.");
    if (!*name || str_eq(name, ".") || str_eq(name, "..")) return err_set(e, -EINVAL, "bad whiteout");
    /* A whiteout is about the layers below: what this layer has itself stays, and hides them. */
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) return S_ISDIR(st.st_mode) ? make_opaque(dir, name, e) : 0;
    return mknodat(dir, name, S_IFCHR, 0) < 0 ? err_errno(e, errno, "whiteout %s", name) : 0;
}

static int extract_root(struct extractor *x, struct archive_entry *ent) {
    if (archive_entry_filetype(ent) != AE_IFDIR) return 0;
    if (fchown(x->root, (uid_t)archive_entry_uid(ent), (gid_t)archive_entry_gid(ent)) < 0) return -errno;
    return fchmod(x->root, archive_entry_perm(ent)) < 0 ? -errno : 0;
}

static int extract_entry(struct extractor *x, struct archive *tar, struct archive_entry *ent, struct err *e) {
    char path[LAYER_MAX_NAME];
    const char *raw = archive_entry_pathname(ent);
    if (++x->entries > LAYER_MAX_ENTRIES) return err_set(e, -EFBIG, "layer has too many entries");
    if (!raw || clean_name(raw, path) < 0) return err_set(e, -EINVAL, "unsafe name %s", str_or_empty(raw));
    if (!*path) return extract_root(x, ent);
    char parent[LAYER_MAX_NAME];
    memcpy(parent, path, strlen(path) + 1);
    char *slash = strrchr(parent, '/');
    const char *name = slash ? strrchr(path, '/') + 1 : path;
    if (slash) *slash = 0;
    _cleanup_close_ int dir = open_parent(x, slash ? parent : "");
    if (dir < 0) return err_errno(e, dir, "folder of %s", path);
    if (str_has_prefix(name, ".wh.")) return whiteout(dir, name, e);
    int r = make_object(x, tar, ent, dir, name, e);
    if (r == 0) r = set_meta(x, ent, dir, name, path, e);
    return r < 0 ? err_wrap(e, "%s", path) : 0;
}

static void set_dir_times(struct extractor *x) {
    for (size_t i = x->n_dirs; i-- > 0;) {
        struct timespec times[2] = {x->dirs[i].mtime, x->dirs[i].mtime};
        int fd = open_in_root(x->root, x->dirs[i].path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (fd < 0) continue;
        futimens(fd, times);
        close(fd);
    }
}

static int extract_all(struct extractor *x, struct err *e) {
    struct archive *tar = archive_read_new();
    archive_read_support_format_tar(tar);
    archive_read_support_format_empty(tar);
    int r = archive_read_open(tar, x, NULL, feed_tar, NULL);
    if (r != ARCHIVE_OK) {
        r = err_set(e, -EINVAL, "not a tar archive: %s", archive_error_string(tar));
    } else {
        struct archive_entry *ent;
        int h;
        r = 0;
        while (r == 0 && (h = archive_read_next_header(tar, &ent)) != ARCHIVE_EOF) {
            if (h < ARCHIVE_WARN)
                r = err_set(e, -EINVAL, "bad tar archive: %s", archive_error_string(tar));
            else
                r = extract_entry(x, tar, ent, e);
        }
    }
    const void *rest; /* the digest covers what follows the end marker too */
    la_ssize_t n = 1;
    while (r == 0 && (n = feed_tar(tar, x, &rest)) > 0) {
    }
    if (r == 0 && n < 0) r = err_set(e, -EIO, "%s", archive_error_string(tar));
    archive_read_free(tar);
    return r;
}

int layer_extract(int fd, const char *dir, struct layer_result *out, struct err *e) {
    struct extractor *x = xcalloc(1, sizeof(*x));
    struct archive_entry *ent;
    int r = 0;
    x->root = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (x->root < 0) r = err_errno(e, errno, "open %s", dir);
    sha256_init(&x->sha);
    x->raw = archive_read_new();
    archive_read_support_filter_all(x->raw);
    archive_read_support_format_raw(x->raw);
    archive_read_support_format_empty(x->raw);
    if (r == 0 && (archive_read_open_fd(x->raw, fd, LAYER_BLOCK) != ARCHIVE_OK ||
                   archive_read_next_header(x->raw, &ent) < ARCHIVE_WARN))
        r = err_set(e, -EINVAL, "decompress: %s", archive_error_string(x->raw));
    if (r == 0) r = extract_all(x, e);
    if (r == 0) {
        set_dir_times(x);
        char hex[SHA256_HEX + 1];
        sha256_hex(&x->sha, hex);
        snprintf(out->diff_id, sizeof(out->diff_id), "sha256:%s", hex);
        out->bytes = x->bytes;
        out->entries = x->entries;
    }
    for (size_t i = 0; i < x->n_dirs; i++) free(x->dirs[i].path);
    free(x->dirs);
    archive_read_free(x->raw);
    sha256_done(&x->sha);
    if (x->root >= 0) close(x->root);
    free(x);
    return r;
}
