/* store_bench DIR SECONDS THREADS: how many transactions a second the embedded store makes durable, when so many
 * threads put values of 1 KiB one after the other. Prints one JSON line, as hack/bench takes it. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "pkg/base/ktime.h"
#include "pkg/store/store.h"

enum { THREADS_MAX = 1024, VALUE_LEN = 1024, KEYS = 1000 };

struct bench {
    struct store *store;
    int64_t until;
    _Atomic unsigned next;
    _Atomic int64_t done, failed;
};

static void *writer(void *arg) {
    struct bench *b = arg;
    unsigned me = b->next++;
    _cleanup_arena_ struct arena *a = arena_new();
    char value[VALUE_LEN + 1];
    memset(value, 'x', VALUE_LEN);
    value[VALUE_LEN] = 0;
    for (unsigned i = 0; mono_ns() < b->until; i++) {
        arena_reset(a);
        struct store_txn t = {.op = STORE_PUT,
                              .key = arena_printf(a, "/registry/configmaps/bench/c-%u-%u", me, i % KEYS),
                              .value = value,
                              .value_len = VALUE_LEN,
                              .expect_rev = STORE_ANY_REV};
        struct store_txn_result r;
        if (store_txn(b->store, a, &t, &r, NULL))
            b->failed++;
        else
            b->done++;
    }
    return NULL;
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    int64_t seconds, threads;
    if (argc != 4 || str_to_i64(argv[2], &seconds) || str_to_i64(argv[3], &threads) || threads > THREADS_MAX) return 2;
    _cleanup_err_ struct err e = {0};
    _cleanup_free_ char *path = xasprintf("%s/bench.db", argv[1]);
    struct store_options o = {.sqlite_path = path};
    struct bench b = {0};
    if (store_open(&o, &b.store, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    int64_t start = mono_ns();
    b.until = start + seconds * NS_PER_SEC;
    pthread_t t[THREADS_MAX];
    for (int64_t i = 0; i < threads; i++)
        if (pthread_create(&t[i], NULL, writer, &b)) return 1;
    for (int64_t i = 0; i < threads; i++) pthread_join(t[i], NULL);
    double wall = (double)(mono_ns() - start) / 1e9;
    printf("{\"label\":\"store_txn_%lld\",\"txn_per_s\":%.0f,\"txn_per_cpu_s\":%.0f,\"failed\":%lld}\n",
           (long long)threads, (double)b.done / wall, (double)b.done / cpu_seconds(), (long long)b.failed);
    store_close(b.store);
    return b.failed ? 1 : 0;
}
