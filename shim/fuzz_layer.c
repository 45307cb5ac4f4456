/* libFuzzer: a layer: a tar stream, compressed or not, unpacked into a folder of its own. Whatever it says, nothing may appear
 * beside that folder, and what appears in it must be removable. */
#include <dirent.h>
#include <sys/mman.h>

#include "shim/fsutil.h"
#include "shim/layer.h"

static char root[64];

static size_t entries(const char *path) {
    size_t n = 0;
    DIR *d = opendir(path);
    if (!d) abort();
    for (struct dirent *x; (x = readdir(d));) n += x->d_name[0] != '.' || (x->d_name[1] && x->d_name[1] != '.');
    closedir(d);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (!*root) {
        snprintf(root, sizeof(root), "/dev/shm/fuzz-layer-%d", (int)getpid());
        if (mkdir(root, 0700)) abort();
    }
    _cleanup_free_ char *dir = xasprintf("%s/layer", root);
    struct layer_result r;
    if (n > 1 << 20) return 0;
    int fd = memfd_create("layer", MFD_CLOEXEC);
    if (fd < 0 || fd_write_all(fd, (const char *)p, n) || lseek(fd, 0, SEEK_SET) || mkdir(dir, 0755)) abort();
    layer_extract(fd, dir, &r, NULL);
    close(fd);
    if (entries(root) != 1) abort();
    if (fs_rm_rf(dir)) abort();
    return 0;
}

__attribute__((destructor)) static void clean_up(void) {
    if (*root) rmdir(root);
}
