/* The overlay of a container. The new mount interface takes layers one by one (Linux 6.5); before, all go
 * into one string of at most a page, which is enough for some 60 layers. */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "idmap.h"
#include "shim.h"

static int config_str(int fs, const char *key, const char *value) {
    return syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0) < 0 ? -errno : 0;
}

/* -EINVAL (among others) where the kernel knows no "lowerdir+". */
static int mount_new(const char *const *dirs, size_t n, const char *upper, const char *work, const char *target) {
    _cleanup_close_ int fs = (int)syscall(SYS_fsopen, "overlay", FSOPEN_CLOEXEC);
    if (fs < 0) return -errno;
    int r = config_str(fs, "source", "overlay");
    for (size_t i = n; r == 0 && i-- > 0;) r = config_str(fs, "lowerdir+", dirs[i]);
    if (r == 0 && upper) r = config_str(fs, "upperdir", upper);
    if (r == 0 && upper) r = config_str(fs, "workdir", work);
    if (r == 0 && upper && syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0) < 0) r = -errno;
    if (r == 0 && syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0) r = -errno;
    if (r < 0) return r;
    _cleanup_close_ int mnt = (int)syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, upper ? 0 : MOUNT_ATTR_RDONLY);
    if (mnt < 0) return -errno;
    return syscall(SYS_move_mount, mnt, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0 ? -errno : 0;
}

static int mount_old(const char *const *dirs, size_t n, const char *upper, const char *work, const char *target) {
    _cleanup_buf_ struct buf b = {.limit = 4095};
    for (size_t i = n; i-- > 0;) buf_printf(&b, "%s%s", b.len ? ":" : "lowerdir=", dirs[i]);
    if (upper) buf_printf(&b, ",upperdir=%s,workdir=%s,volatile", upper, work);
    if (b.failed) return -E2BIG;
    return mount("overlay", target, "overlay", upper ? 0 : MS_RDONLY, b.data) < 0 ? -errno : 0;
}

static int mount_dirs(const char *const *dirs, size_t n, const char *upper, const char *work, const char *target,
                      struct err *e) {
    if (!upper && n == 1) { /* overlay wants two layers when nothing is writable: a plain read-only bind will do */
        if (mount(dirs[0], target, NULL, MS_BIND, NULL) < 0 ||
            mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY, NULL) < 0)
            return err_errno(e, errno, "mount image on %s", target);
        return 0;
    }
    int r = mount_new(dirs, n, upper, work, target);
    if (r < 0 && r != -ENOSPC && r != -ENOMEM) r = mount_old(dirs, n, upper, work, target);
    return r < 0 ? err_errno(e, r, "mount overlay on %s", target) : 0;
}

int overlay_mount(struct shim *s, const char *const *layers, size_t n, const char *upper, const char *work,
                  const char *target, const struct overlay_map *map, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char **dirs = arena_zalloc(a, (n + 1) * sizeof(*dirs));
    size_t mapped = 0;
    int r = 0;
    if (n == 0) return err_set(e, -EINVAL, "image has no layers");
    for (size_t i = 0; i < n; i++) dirs[i] = image_layer_dir(s->images, a, layers[i]);
    for (; map && r == 0 && mapped < n; mapped++) {
        const char *dir = arena_printf(a, "%s/layer-%zu", map->dir, mapped);
        r = idmap_bind(dirs[mapped], dir, map->userns, e);
        dirs[mapped] = dir;
    }
    if (r == 0) r = mount_dirs(dirs, n, upper, work, target, e);
    for (size_t i = 0; i < mapped; i++) { /* the overlay has its own references */
        umount2(dirs[i], MNT_DETACH);
        rmdir(dirs[i]);
    }
    return r;
}
