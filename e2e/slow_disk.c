/* LD_PRELOAD for e2e/slow_disk_test.py: every wait for the disk takes a while longer, as on worn-out flash. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

enum { DELAY_MS = 400 };

#define SLOW(name)                                                \
    int name(int fd);                                             \
    int name(int fd) {                                            \
        struct timespec t = {0, DELAY_MS * 1000000L};             \
        int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name); \
        nanosleep(&t, NULL);                                      \
        return real(fd);                                          \
    }

SLOW(fsync)
SLOW(fdatasync)
SLOW(syncfs)
