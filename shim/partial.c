/* Blobs of which a pull got only a part: ROOT/partial/HEX, one file a digest. A file is locked by whoever writes it, and
 * unlinked by whoever has used it up, who still holds the lock then: a second pull that waited for the lock sees a file
 * without a name and opens it anew. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "image.h"

enum { PARTIAL_DAYS = 1 };

static char *partial_path(struct image_store *s, const char *digest) {
    return xasprintf("%s/partial/%s", image_store_root(s), digest + strlen("sha256:"));
}

int image_partial_file(struct image_store *s, const char *digest, struct err *e) {
    _cleanup_free_ char *path = partial_path(s, digest);
    for (;;) {
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0) return err_errno(e, errno, "open %s", path);
        if (flock(fd, LOCK_EX) < 0 || fstat(fd, &st) < 0) return err_errno(e, errno, "lock %s", path);
        if (!st.st_nlink) continue; /* its writer was done with it */
        if (lseek(fd, 0, SEEK_END) < 0) return err_errno(e, errno, "seek %s", path);
        return take_fd(&fd);
    }
}

void image_partial_drop(struct image_store *s, const char *digest) {
    _cleanup_free_ char *path = partial_path(s, digest);
    unlink(path);
}

void image_partial_collect(struct image_store *s) {
    _cleanup_free_ char *dir = xasprintf("%s/partial", image_store_root(s));
    _cleanup_arena_ struct arena *a = arena_new();
    const char **names;
    size_t n;
    if (fs_list(a, dir, &names, &n) < 0) return;
    for (size_t i = 0; i < n; i++) {
        const char *path = arena_printf(a, "%s/%s", dir, names[i]);
        struct stat st;
        _cleanup_close_ int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) < 0 || time(NULL) - st.st_mtime < PARTIAL_DAYS * 86400) continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0) unlink(path);
    }
}
