/* What a process is charged with, and how it gives it back.
 *
 * Heap: free() keeps the pages; malloc_trim returns them.
 * Files mapped read-only: the dynamic linker reads symbols and relocations of all libraries, and starting up runs code
 * that is never run again; these pages stay mapped although nobody needs them. Unmapping clean pages of a private
 * mapping is harmless: the next access maps them again. Pages that were written (relocated tables, made read-only
 * afterwards) must stay: the kernel counts them as anonymous, so only mappings without anonymous pages are touched. */
#include "memory.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>

#include "util.h"

enum { ARENAS = 2, FIRST_S = 2, SECOND_S = 20, AGAIN_S = 300, KEEPER_STACK = 64 * 1024 };

/* A mapping of /proc/self/smaps. */
struct mapping {
    unsigned long start, end, inode;
    char perms[5];
    bool open; /* its lines are being read */
};

static void drop(const struct mapping *m, unsigned long anonymous) {
    bool read_only = m->perms[0] == 'r' && m->perms[1] == '-' && m->perms[3] == 'p';
    if (read_only && m->inode && !anonymous) madvise((void *)m->start, m->end - m->start, MADV_DONTNEED);  // NOLINT
}

static void drop_clean_pages(void) {
    struct mapping m = {0};
    char line[512];
    unsigned long kb;
    FILE *f = fopen("/proc/self/smaps", "re");
    if (!f) return;
    while (fgets(line, sizeof(line), f)) {
        struct mapping next = {0};
        if (sscanf(line, "%lx-%lx %4s %*x %*s %lu", &next.start, &next.end, next.perms, &next.inode) == 4) {
            m = next;
            m.open = true;
        } else if (m.open && sscanf(line, "Anonymous: %lu", &kb) == 1) {
            drop(&m, kb);
            m.open = false;
        }
    }
    fclose(f);
}

void memory_settle(void) {
    malloc_trim(0);
    drop_clean_pages();
}

static void *keeper(void *arg) {
    for (unsigned round = 0;; round++) {
        unsigned s = round == 0 ? FIRST_S : round == 1 ? SECOND_S : AGAIN_S;
        nanosleep(&(struct timespec){.tv_sec = s}, NULL);
        memory_settle();
    }
    return arg;
}

void memory_keep_small(void) {
    pthread_attr_t attr;
    pthread_t t;
    sigset_t all, old;
    mallopt(M_ARENA_MAX, ARENAS);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the program's own threads */
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, KEEPER_STACK);
    pthread_create(&t, &attr, keeper, NULL);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}
