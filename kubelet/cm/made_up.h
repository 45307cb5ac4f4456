/* Machines for the tests: a folder as /sys/devices/system would be, from a few numbers. */
#pragma once

#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kubelet/cm/machine.h"
#include "pkg/base/arena.h"
#include "pkg/base/util.h"

struct made_up {
    int sockets, cores, threads; /* cores of a socket, threads of a core; thread t of core c is CPU t * all cores + c */
    int nodes;                   /* 0: no NUMA; nodes share the sockets' cores in their order */
    int64_t memory;              /* of each node */
    int cache_cores;             /* cores that share a last-level cache; 0: those of a socket */
    const char *offline;         /* CPUs */
    int bare_node;               /* a node that has memory only; 0: none */
    int empty_node;              /* a node without memory; 0: none */
    int huge;                    /* pages of 2 MiB on each node */
};

static void made_up_file(const char *path, const char *fmt, ...) {
    char dir[512], text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(dir, sizeof(dir), "%s", path);
    *strrchr(dir, '/') = '\0';
    mkdir_p(dir, 0755);
    file_write_quick(path, text, strlen(text), 0644);
}

static void made_up_cpu(const struct made_up *u, struct arena *a, const char *root, int cpu) {
    int all = u->sockets * u->cores, core = cpu % all, per_cache = u->cache_cores ? u->cache_cores : u->cores;
    struct cpuset siblings = {0}, cache = {0};
    const char *dir = arena_printf(a, "%s/cpu/cpu%d", root, cpu);
    for (int c = 0; c < all; c++)
        for (int t = 0; t < u->threads; t++) {
            if (c == core) cpuset_add(&siblings, t * all + c);
            if (c / per_cache == core / per_cache) cpuset_add(&cache, t * all + c);
        }
    made_up_file(arena_printf(a, "%s/topology/physical_package_id", dir), "%d\n", core / u->cores);
    made_up_file(arena_printf(a, "%s/topology/core_cpus_list", dir), "%s\n", cpuset_text(a, &siblings));
    made_up_file(arena_printf(a, "%s/cache/index3/level", dir), "3\n");
    made_up_file(arena_printf(a, "%s/cache/index3/id", dir), "%d\n", core / per_cache);
    made_up_file(arena_printf(a, "%s/cache/index3/shared_cpu_list", dir), "%s\n", cpuset_text(a, &cache));
}

static void made_up_node(const struct made_up *u, struct arena *a, const char *root, int id, int nodes) {
    int all = u->sockets * u->cores;
    struct cpuset cpus = {0};
    const char *dir = arena_printf(a, "%s/node/node%d", root, id), *distances = "";
    for (int c = 0; c < all; c++)
        for (int t = 0; t < u->threads; t++)
            if (id < u->nodes && c * u->nodes / all == id) cpuset_add(&cpus, t * all + c);
    for (int i = 0; i < nodes; i++)
        distances = arena_printf(a, "%s%d ", distances, i == id ? 10 : 10 + 5 * abs(i - id));
    made_up_file(arena_printf(a, "%s/cpulist", dir), "%s\n", cpuset_text(a, &cpus));
    made_up_file(arena_printf(a, "%s/distance", dir), "%s\n", distances);
    made_up_file(arena_printf(a, "%s/meminfo", dir), "Node %d MemTotal:       %lld kB\n", id,
                 (long long)(u->empty_node && id == u->empty_node ? 0 : u->memory / 1024));
    made_up_file(arena_printf(a, "%s/hugepages/hugepages-2048kB/nr_hugepages", dir), "%d\n", u->huge);
}

/* The machine, or NULL with the error. */
static struct machine *made_up(const struct made_up *u, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    char root[] = "/tmp/made-up-XXXXXX";
    struct cpuset online = {0}, offline = {0};
    struct machine *m = NULL;
    if (!mkdtemp(root)) return NULL;
    if (u->offline) cpuset_parse(u->offline, &offline);
    for (int cpu = 0; cpu < u->sockets * u->cores * u->threads; cpu++) {
        if (cpuset_has(&offline, cpu)) continue;
        cpuset_add(&online, cpu);
        made_up_cpu(u, a, root, cpu);
    }
    int nodes = u->nodes + (u->bare_node ? 1 : 0);
    for (int i = 0; i < nodes; i++) made_up_node(u, a, root, i, nodes);
    if (nodes) made_up_file(arena_printf(a, "%s/node/online", root), "0-%d\n", nodes - 1);
    made_up_file(arena_printf(a, "%s/cpu/online", root), "%s\n", cpuset_text(a, &online));
    machine_read(root, u->memory, &m, e);
    char *const rm[] = {"rm", "-r", root, NULL};
    pid_t pid = fork();
    if (pid == 0) {
        execvp("rm", rm);
        _exit(1);
    }
    waitpid(pid, NULL, 0);
    return m;
}
