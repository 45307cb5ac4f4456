/* See machine.h. */
#include "kubelet/cm/machine.h"

#include <dirent.h>
#include <unistd.h>

#include "pkg/base/arena.h"
#include "pkg/base/util.h"

enum { FILE_MAX = 64 * 1024, CACHES = 8 };

static int read_set(struct arena *a, const char *path, struct cpuset *out) {
    _cleanup_free_ char *text = NULL;
    int r = file_read(path, FILE_MAX, &text, NULL);
    (void)a;
    return r < 0 ? r : cpuset_parse(text, out);
}

static int64_t read_number(const char *path, int64_t dflt) {
    _cleanup_free_ char *text = NULL;
    int64_t v;
    if (file_read(path, 64, &text, NULL) < 0) return dflt;
    text[strcspn(text, "\n")] = '\0';
    return str_to_i64(text, &v) < 0 ? dflt : v;
}

/* ---- CPUs ---- */

static int read_cores(struct machine *m, struct arena *a, const char *root, struct err *e) {
    CPUSET_EACH(cpu, &m->cpus) {
        struct cpuset siblings;
        int r = read_set(a, arena_printf(a, "%s/cpu/cpu%d/topology/core_cpus_list", root, cpu), &siblings);
        if (r < 0) r = read_set(a, arena_printf(a, "%s/cpu/cpu%d/topology/thread_siblings_list", root, cpu), &siblings);
        if (r < 0) { /* a virtual machine that does not say: every CPU is a core */
            siblings = (struct cpuset){0};
            cpuset_add(&siblings, cpu);
        }
        siblings = cpuset_and(&siblings, &m->cpus);
        int core = cpuset_next(&siblings, -1);
        if (core < 0 || !cpuset_has(&siblings, cpu)) return err_set(e, -EIO, "CPU %d is not among its core's", cpu);
        m->ids[LEVEL_CORE][cpu] = core;
        int64_t socket = read_number(arena_printf(a, "%s/cpu/cpu%d/topology/physical_package_id", root, cpu), 0);
        m->ids[LEVEL_SOCKET][cpu] = socket < 0 || socket >= CPUSET_MAX ? 0 : (int)socket;
    }
    return 0;
}

/* The id of the last-level cache that some of the NUMA node's cores share; -1: there is none of that kind. */
static int uncore_of(const struct machine *m, struct arena *a, const char *root, int cpu) {
    struct cpuset node = machine_cpus(m, LEVEL_NUMA, m->ids[LEVEL_NUMA][cpu], NULL);
    struct cpuset core = machine_cpus(m, LEVEL_CORE, m->ids[LEVEL_CORE][cpu], NULL);
    for (int i = 0; i < CACHES; i++) {
        const char *dir = arena_printf(a, "%s/cpu/cpu%d/cache/index%d", root, cpu, i);
        struct cpuset shared;
        if (read_number(arena_printf(a, "%s/level", dir), 0) < 3) continue;
        if (read_set(a, arena_printf(a, "%s/shared_cpu_list", dir), &shared) < 0) continue;
        shared = cpuset_and(&shared, &m->cpus);
        size_t n = cpuset_count(&shared);
        if (n <= cpuset_count(&core) || n >= cpuset_count(&node)) continue;
        int64_t id = read_number(arena_printf(a, "%s/id", dir), cpuset_next(&shared, -1));
        return id < 0 || id >= CPUSET_MAX ? -1 : (int)id;
    }
    return -1;
}

static void read_caches(struct machine *m, struct arena *a, const char *root) {
    CPUSET_EACH(cpu, &m->cpus) {
        int core = m->ids[LEVEL_CORE][cpu];
        int id = core == cpu ? uncore_of(m, a, root, cpu) : m->ids[LEVEL_UNCORE][core];
        m->ids[LEVEL_UNCORE][cpu] = id < 0 ? m->ids[LEVEL_SOCKET][cpu] : id;
    }
}

/* ---- NUMA nodes ---- */

/* "Node 0 MemTotal:  4028440 kB" */
static int64_t node_memory(struct arena *a, const char *dir) {
    _cleanup_free_ char *text = NULL;
    if (file_read(arena_printf(a, "%s/meminfo", dir), FILE_MAX, &text, NULL) < 0) return 0;
    const char *p = strstr(text, "MemTotal:");
    return p ? strtoll(p + strlen("MemTotal:"), NULL, 10) * 1024 : 0;
}

static int smaller_pages(const void *x, const void *y) {
    const struct huge_pages *a = x, *b = y;
    return a->size < b->size ? -1 : a->size > b->size;
}

static void read_huge(struct arena *a, const char *dir, struct numa_node *n) {
    DIR *d = opendir(dir);
    for (struct dirent *ent; d && (ent = readdir(d)) && n->n_huge < MACHINE_HUGE_SIZES;) {
        if (!str_has_prefix(ent->d_name, "hugepages-")) continue;
        int64_t kib = strtoll(ent->d_name + strlen("hugepages-"), NULL, 10);
        if (kib <= 0) continue;
        n->huge[n->n_huge++] = (struct huge_pages){
            .size = kib * 1024, .pages = read_number(arena_printf(a, "%s/%s/nr_hugepages", dir, ent->d_name), 0)};
    }
    if (d) closedir(d);
    qsort(n->huge, n->n_huge, sizeof(*n->huge), smaller_pages);
}

static void read_distances(struct arena *a, const char *dir, struct numa_node *n) {
    _cleanup_free_ char *text = NULL;
    if (file_read(arena_printf(a, "%s/distance", dir), FILE_MAX, &text, NULL) < 0) return;
    for (char *p = text, *end; n->n_distances < MACHINE_NODES; p = end) {
        long v = strtol(p, &end, 10);
        if (end == p) break;
        n->distances[n->n_distances++] = (int)v;
    }
}

static int read_nodes(struct machine *m, struct arena *a, const char *root, struct err *e) {
    struct cpuset online;
    if (read_set(a, arena_printf(a, "%s/node/online", root), &online) < 0) return 0;
    CPUSET_EACH(id, &online) {
        struct cpuset cpus = {0};
        const char *dir = arena_printf(a, "%s/node/node%d", root, id);
        if (id >= MACHINE_NODES) return err_set(e, -EIO, "NUMA node %d: more than %d nodes", id, MACHINE_NODES);
        struct numa_node *n = &m->nodes[m->n_nodes++];
        n->id = id;
        n->memory = node_memory(a, dir);
        read_huge(a, arena_printf(a, "%s/hugepages", dir), n);
        read_distances(a, dir, n);
        read_set(a, arena_printf(a, "%s/cpulist", dir), &cpus);
        cpus = cpuset_and(&cpus, &m->cpus);
        CPUSET_EACH(cpu, &cpus) m->ids[LEVEL_NUMA][cpu] = id;
    }
    return 0;
}

static void without_numa(struct machine *m, struct arena *a, int64_t memory) {
    m->n_nodes = 1;
    m->nodes[0] = (struct numa_node){.id = 0, .memory = memory, .distances = {10}, .n_distances = 1};
    read_huge(a, "/sys/kernel/mm/hugepages", &m->nodes[0]);
}

/* ---- the whole ---- */

static int read_all(struct machine *m, const char *root, int64_t memory, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    int r = read_set(a, arena_printf(a, "%s/cpu/online", root), &m->cpus);
    if (r < 0 || cpuset_empty(&m->cpus)) return err_set(e, -EIO, "%s/cpu/online does not tell the CPUs", root);
    for (int l = 0; l < LEVELS; l++) m->ids[l] = xcalloc(CPUSET_MAX, sizeof(int));
    r = read_cores(m, a, root, e);
    if (r == 0) r = read_nodes(m, a, root, e);
    if (r < 0) return r;
    if (!m->n_nodes) without_numa(m, a, memory);
    read_caches(m, a, root);
    for (int l = 0; l < LEVELS; l++) {
        struct cpuset ids = machine_ids(m, (enum level)l, &m->cpus);
        m->counts[l] = cpuset_count(&ids);
    }
    return 0;
}

int machine_read(const char *root, int64_t memory, struct machine **out, struct err *e) {
    struct machine *m = xcalloc(1, sizeof(*m));
    int r = read_all(m, root, memory, e);
    *out = r < 0 ? machine_free(m) : m;
    return r;
}

struct machine *machine_free(struct machine *m) {
    if (!m) return NULL;
    for (int l = 0; l < LEVELS; l++) free(m->ids[l]);
    free(m);
    return NULL;
}

struct cpuset machine_cpus(const struct machine *m, enum level l, int id, const struct cpuset *among) {
    struct cpuset r = {0};
    CPUSET_EACH(cpu, among ? among : &m->cpus) if (m->ids[l][cpu] == id) cpuset_add(&r, cpu);
    return r;
}

struct cpuset machine_cpus_of_nodes(const struct machine *m, uint64_t nodes, const struct cpuset *among) {
    struct cpuset r = {0};
    CPUSET_EACH(cpu, among ? among : &m->cpus) if (nodes >> m->ids[LEVEL_NUMA][cpu] & 1) cpuset_add(&r, cpu);
    return r;
}

struct cpuset machine_ids(const struct machine *m, enum level l, const struct cpuset *cpus) {
    struct cpuset r = {0};
    CPUSET_EACH(cpu, cpus) cpuset_add(&r, m->ids[l][cpu]);
    return r;
}

uint64_t machine_nodes(const struct machine *m) {
    uint64_t bits = 0;
    for (size_t i = 0; i < m->n_nodes; i++) bits |= UINT64_C(1) << m->nodes[i].id;
    return bits;
}

uint64_t machine_nodes_with_cpus(const struct machine *m) {
    struct cpuset ids = machine_ids(m, LEVEL_NUMA, &m->cpus);
    return ids.words[0];
}

size_t machine_threads(const struct machine *m) {
    size_t n = cpuset_count(&m->cpus) / m->counts[LEVEL_CORE];
    return n ? n : 1;
}
