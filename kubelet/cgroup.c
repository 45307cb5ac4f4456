/* See cgroup.h. */
#include "kubelet/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

struct cgroups {
    char *mount, *root; /* root: "" or "/x" */
    bool v2, systemd, active;
    int64_t pod_pids_max, cfs_period_us;
};

/* v1 hierarchies that pods get a directory in. cpu and memory carry limits; the others keep a pod's processes
 * together for accounting, and give the runtime a parent to make its containers in. */
static const char *const v1_controllers[] = {"cpu",     "cpuacct",    "cpuset",  "memory",  "pids",
                                             "blkio",   "devices",    "freezer", "net_cls", "net_prio",
                                             "hugetlb", "perf_event", "systemd"};

struct cgroups *cgroups_new(const struct cgroups_config *cfg) {
    struct cgroups *cg = xcalloc(1, sizeof(*cg));
    cg->mount = xstrdup(cfg->mount ? cfg->mount : "/sys/fs/cgroup");
    const char *root = str_or_empty(cfg->root);
    cg->root = xstrdup(str_eq(root, "/") ? "" : root);
    size_t n = strlen(cg->root);
    if (n && cg->root[n - 1] == '/') cg->root[n - 1] = '\0';
    cg->systemd = cfg->systemd;
    cg->pod_pids_max = cfg->pod_pids_max;
    cg->cfs_period_us = cfg->cfs_period_us;
    _cleanup_free_ char *probe = xasprintf("%s/cgroup.controllers", cg->mount);
    cg->v2 = access(probe, F_OK) == 0;
    return cg;
}

void cgroups_free(struct cgroups *cg) {
    if (!cg) return;
    free(cg->mount);
    free(cg->root);
    free(cg);
}

bool cgroups_v2(const struct cgroups *cg) { return cg->v2; }

static int write_value(const char *dir, const char *file, const char *value) {
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, file);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -errno;
    return write(fd, value, strlen(value)) < 0 ? -errno : 0;
}

static int write_int(const char *dir, const char *file, int64_t v) {
    char text[32];
    snprintf(text, sizeof(text), "%lld", (long long)v);
    return write_value(dir, file, text);
}

/* A new cpuset is empty on v1, and nothing can be put into it until it has its parent's CPUs and memory
 * nodes. */
static void inherit_cpuset(const char *dir) {
    static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        _cleanup_free_ char *own = xasprintf("%s/%s", dir, files[i]);
        _cleanup_free_ char *up = xasprintf("%s/../%s", dir, files[i]);
        _cleanup_free_ char *have = NULL, *from = NULL;
        if (file_read(own, 4096, &have, NULL) < 0 || (have[0] && have[0] != '\n')) continue;
        if (file_read(up, 4096, &from, NULL) == 0) write_value(dir, files[i], from);
    }
}

static char *dir_v1(const struct cgroups *cg, const char *controller, const char *path) {
    return xasprintf("%s/%s%s%s", cg->mount, controller, cg->root, path);
}

/* Makes the directory of `path` ("/kubepods/burstable") in every hierarchy. Parents exist already, but for
 * the root. */
static int make_v1(struct cgroups *cg, const char *path, struct err *e) {
    for (size_t i = 0; i < ARRAY_LEN(v1_controllers); i++) {
        _cleanup_free_ char *top = xasprintf("%s/%s", cg->mount, v1_controllers[i]);
        struct stat st;
        if (lstat(top, &st) < 0 || !S_ISDIR(st.st_mode)) continue;
        _cleanup_free_ char *dir = dir_v1(cg, v1_controllers[i], path);
        int r = mkdir_p(dir, 0755);
        if (r < 0) {
            /* Only cpu and memory are needed for what a pod is promised. */
            if (!str_eq(v1_controllers[i], "cpu") && !str_eq(v1_controllers[i], "memory")) continue;
            return err_errno(e, r, "make cgroup %s", dir);
        }
        if (str_eq(v1_controllers[i], "cpuset")) {
            for (char *s = dir + strlen(top) + 1; (s = strchr(s, '/')); s++) {
                *s = '\0';
                inherit_cpuset(dir);
                *s = '/';
            }
            inherit_cpuset(dir);
        }
        if (str_eq(v1_controllers[i], "memory")) write_int(dir, "memory.use_hierarchy", 1);
    }
    return 0;
}

static int make_v2(struct cgroups *cg, const char *path, struct err *e) {
    static const char *const controllers[] = {"+cpu", "+memory", "+pids", "+cpuset", "+io", "+hugetlb"};
    _cleanup_free_ char *dir = xasprintf("%s%s%s", cg->mount, cg->root, path);
    for (char *s = dir + strlen(cg->mount); s; s = *s ? strchr(s + 1, '/') : NULL) {
        char c = *s;
        *s = '\0';
        if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
            int r = err_errno(e, errno, "make cgroup %s", dir);
            return r;
        }
        for (size_t i = 0; i < ARRAY_LEN(controllers); i++) write_value(dir, "cgroup.subtree_control", controllers[i]);
        *s = c;
        if (!strchr(s + 1, '/')) break;
    }
    if (mkdir(dir, 0755) < 0 && errno != EEXIST) return err_errno(e, errno, "make cgroup %s", dir);
    for (size_t i = 0; i < ARRAY_LEN(controllers); i++) write_value(dir, "cgroup.subtree_control", controllers[i]);
    return 0;
}

/* cpu.weight of v2 for v1's shares (the conversion of KEP-2254). */
static int64_t weight_of(int64_t shares) { return 1 + (shares - 2) * 9999 / 262142; }

/* Writes a limit that is given; the first failure is kept in *r. */
static void set_limit(int *r, const char *dir, const char *file, int64_t v) {
    int w = v ? write_int(dir, file, v) : 0;
    if (!*r) *r = w;
}

static int limit_v1(struct cgroups *cg, const char *path, const struct cgroup_limits *l) {
    _cleanup_free_ char *cpu = dir_v1(cg, "cpu", path), *mem = dir_v1(cg, "memory", path),
                        *pids = dir_v1(cg, "pids", path);
    int r = 0;
    set_limit(&r, cpu, "cpu.shares", l->cpu_shares);
    if (l->cpu_quota) set_limit(&r, cpu, "cpu.cfs_period_us", l->cpu_period);
    set_limit(&r, cpu, "cpu.cfs_quota_us", l->cpu_quota);
    set_limit(&r, mem, "memory.limit_in_bytes", l->memory_limit);
    set_limit(&r, pids, "pids.max", l->pids_limit);
    return r;
}

static int limit_v2(struct cgroups *cg, const char *path, const struct cgroup_limits *l) {
    _cleanup_free_ char *dir = xasprintf("%s%s%s", cg->mount, cg->root, path);
    int r = 0;
    if (l->cpu_shares) set_limit(&r, dir, "cpu.weight", weight_of(l->cpu_shares));
    if (l->cpu_quota) {
        char text[64];
        snprintf(text, sizeof(text), "%lld %lld", (long long)l->cpu_quota, (long long)l->cpu_period);
        int w = write_value(dir, "cpu.max", text);
        if (!r) r = w;
    }
    set_limit(&r, dir, "memory.max", l->memory_limit);
    set_limit(&r, dir, "pids.max", l->pids_limit);
    return r;
}

static int make(struct cgroups *cg, const char *path, const struct cgroup_limits *l, struct err *e) {
    int r = cg->v2 ? make_v2(cg, path, e) : make_v1(cg, path, e);
    if (r < 0) return r;
    if (cg->v2)
        limit_v2(cg, path, l);
    else
        limit_v1(cg, path, l);
    return 0;
}

int cgroups_setup(struct cgroups *cg, int64_t allocatable_milli_cpu, int64_t allocatable_memory, struct err *e) {
    if (cg->systemd) {
        cg->active = true;
        return 0;
    }
    struct cgroup_limits top = {.cpu_shares = milli_to_shares(allocatable_milli_cpu),
                                .memory_limit = allocatable_memory};
    struct cgroup_limits low = {.cpu_shares = 2};
    int r = make(cg, "/kubepods", &top, e);
    if (r == 0) r = make(cg, "/kubepods/burstable", &low, e);
    if (r == 0) r = make(cg, "/kubepods/besteffort", &low, e);
    cg->active = r == 0;
    return r;
}

static const char *qos_level(const char *qos) {
    return str_eq(qos, "Burstable") ? "/burstable" : str_eq(qos, "BestEffort") ? "/besteffort" : "";
}

static char *pod_path(const char *qos, const char *uid) { return xasprintf("/kubepods%s/pod%s", qos_level(qos), uid); }

static const char *qos_of(const struct core_pod *p) {
    return str_empty(p->status.qos_class) ? pod_qos_class(p) : p->status.qos_class;
}

char *cgroups_pod_parent(struct cgroups *cg, struct arena *a, const struct core_pod *p) {
    if (!cg || !cg->active) return arena_strdup(a, "");
    if (cg->systemd) {
        char *uid = arena_strdup(a, p->metadata.uid);
        for (char *s = uid; *s; s++)
            if (*s == '-') *s = '_';
        const char *level = qos_level(qos_of(p));
        return arena_printf(a, "kubepods%s%s-pod%s.slice", *level ? "-" : "", *level ? level + 1 : "", uid);
    }
    _cleanup_free_ char *path = pod_path(qos_of(p), p->metadata.uid);
    return arena_printf(a, "%s%s", cg->root, path);
}

void cgroups_pod_limits(const struct cgroups *cg, const struct core_pod *p, bool cpu_quota, struct cgroup_limits *out) {
    bool cpu_limited, mem_limited;
    *out = (struct cgroup_limits){0};
    if (!cg || !cg->active || cg->systemd) return;
    int64_t cpu_limit = quantity_milli(pod_resource(p, "cpu", true, &cpu_limited));
    int64_t mem_limit = quantity_value(pod_resource(p, "memory", true, &mem_limited));
    int64_t cpu = quantity_milli(pod_resource(p, "cpu", false, NULL));
    out->cpu_shares = str_eq(qos_of(p), "BestEffort") ? 2 : milli_to_shares(cpu);
    out->pids_limit = cg->pod_pids_max;
    if (cpu_quota && cpu_limited && cpu_limit > 0) out->cpu_quota = milli_to_quota(cpu_limit, cg->cfs_period_us);
    out->cpu_period = cg->cfs_period_us;
    if (mem_limited && mem_limit > 0) out->memory_limit = mem_limit;
}

int cgroups_pod_create(struct cgroups *cg, const struct core_pod *p, bool cpu_quota, struct err *e) {
    if (!cg || !cg->active || cg->systemd) return 0;
    struct cgroup_limits l;
    cgroups_pod_limits(cg, p, cpu_quota, &l);
    _cleanup_free_ char *path = pod_path(qos_of(p), p->metadata.uid);
    return make(cg, path, &l, e);
}

int cgroups_pod_update(struct cgroups *cg, const struct core_pod *p, const struct cgroup_limits *l, struct err *e) {
    if (!cg || !cg->active || cg->systemd) return 0;
    _cleanup_free_ char *path = pod_path(qos_of(p), p->metadata.uid);
    int r = cg->v2 ? limit_v2(cg, path, l) : limit_v1(cg, path, l);
    return r < 0 ? err_errno(e, r, "set the limits of cgroup %s", path) : 0;
}

/* Kills the processes of a cgroup and everything below it, then removes the directories, deepest first. */
static int remove_dir(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return errno == ENOENT ? 0 : -errno;
    for (struct dirent *ent; (ent = readdir(d));) {
        if (ent->d_name[0] == '.' || ent->d_type != DT_DIR) continue;
        _cleanup_free_ char *sub = xasprintf("%s/%s", dir, ent->d_name);
        remove_dir(sub);
    }
    closedir(d);
    if (rmdir(dir) == 0 || errno == ENOENT) return 0;
    if (errno != EBUSY) return -errno;
    _cleanup_free_ char *procs = xasprintf("%s/cgroup.procs", dir);
    for (int attempt = 0; attempt < 20; attempt++) {
        _cleanup_file_ FILE *f = fopen(procs, "re");
        for (int pid; f && fscanf(f, "%d", &pid) == 1;)
            if (pid > 1) kill(pid, SIGKILL);
        usleep(attempt < 10 ? 2000 : 50000);
        if (rmdir(dir) == 0 || errno == ENOENT) return 0;
    }
    return -EBUSY;
}

int cgroups_pod_remove(struct cgroups *cg, const char *qos, const char *uid, struct err *e) {
    if (!cg || !cg->active || cg->systemd) return 0;
    _cleanup_free_ char *path = pod_path(qos, uid);
    if (cg->v2) {
        _cleanup_free_ char *dir = xasprintf("%s%s%s", cg->mount, cg->root, path);
        int r = remove_dir(dir);
        return r < 0 ? err_errno(e, r, "remove cgroup %s", path) : 0;
    }
    int result = 0;
    for (size_t i = 0; i < ARRAY_LEN(v1_controllers); i++) {
        _cleanup_free_ char *dir = dir_v1(cg, v1_controllers[i], path);
        int r = remove_dir(dir);
        if (r < 0) result = r;
    }
    /* Beside v1 controllers there may be a v2 hierarchy for processes alone, where runtimes make folders too. */
    _cleanup_free_ char *unified = xasprintf("%s/unified%s%s", cg->mount, cg->root, path);
    int r = remove_dir(unified);
    if (r < 0) result = r;
    return result < 0 ? err_errno(e, result, "remove cgroup %s", path) : 0;
}

void cgroups_set_burstable(struct cgroups *cg, int64_t milli_requests) {
    if (!cg || !cg->active || cg->systemd) return;
    struct cgroup_limits l = {.cpu_shares = milli_to_shares(milli_requests)};
    if (cg->v2)
        limit_v2(cg, "/kubepods/burstable", &l);
    else
        limit_v1(cg, "/kubepods/burstable", &l);
}

/* ---- usage ---- */

static bool read_u64(const char *dir, const char *file, uint64_t *out) {
    _cleanup_free_ char *path = xasprintf("%s/%s", dir, file), *text = NULL;
    if (file_read(path, 256, &text, NULL) < 0) return false;
    text[strcspn(text, "\n")] = '\0';
    if (str_eq(text, "max")) return false;
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text) return false;
    *out = v;
    return true;
}

/* A value of a "name value" file. */
static uint64_t stat_value(const char *text, const char *name) {
    size_t n = strlen(name);
    for (const char *s = text; s && *s; s = (s = strchr(s, '\n')) ? s + 1 : NULL)
        if (strncmp(s, name, n) == 0 && s[n] == ' ') return strtoull(s + n + 1, NULL, 10);
    return 0;
}

static void usage_memory(const char *dir, bool v2, struct cgroup_usage *u) {
    _cleanup_free_ char *path = xasprintf("%s/memory.stat", dir), *text = NULL;
    read_u64(dir, v2 ? "memory.current" : "memory.usage_in_bytes", &u->memory_usage);
    uint64_t limit = 0;
    if (read_u64(dir, v2 ? "memory.max" : "memory.limit_in_bytes", &limit) && limit < (UINT64_C(1) << 60))
        u->memory_limit = limit;
    if (file_read(path, 65536, &text, NULL) < 0) return;
    uint64_t inactive = stat_value(text, v2 ? "inactive_file" : "total_inactive_file");
    u->memory_working_set = u->memory_usage > inactive ? u->memory_usage - inactive : 0;
    u->memory_rss = stat_value(text, v2 ? "anon" : "total_rss");
    u->page_faults = stat_value(text, v2 ? "pgfault" : "total_pgfault");
    u->major_faults = stat_value(text, v2 ? "pgmajfault" : "total_pgmajfault");
}

void cgroups_usage(struct cgroups *cg, const char *path, struct cgroup_usage *u) {
    *u = (struct cgroup_usage){0};
    if (cg->v2) {
        _cleanup_free_ char *dir = xasprintf("%s%s%s", cg->mount, cg->root, path);
        _cleanup_free_ char *file = xasprintf("%s/cpu.stat", dir), *text = NULL;
        u->found = file_read(file, 65536, &text, NULL) == 0;
        if (u->found) u->cpu_ns = stat_value(text, "usage_usec") * 1000;
        usage_memory(dir, true, u);
        read_u64(dir, "pids.current", &u->pids);
        return;
    }
    _cleanup_free_ char *acct = dir_v1(cg, "cpuacct", path), *mem = dir_v1(cg, "memory", path),
                        *pids = dir_v1(cg, "pids", path);
    u->found = read_u64(acct, "cpuacct.usage", &u->cpu_ns);
    usage_memory(mem, false, u);
    read_u64(pids, "pids.current", &u->pids);
}

/* Where each number is: v1 controller, file and key (NULL: the file is the number), the same on v2, and what to multiply
 * by. A tick of cpuacct.stat is a hundredth of a second. */
static const struct detail {
    size_t at;
    const char *controller, *file1, *key1;
    uint64_t mul1;
    const char *file2, *key2;
    uint64_t mul2;
} details[] = {
#define AT(f) offsetof(struct cgroup_details, f)
    {AT(cpu_user_ns), "cpuacct", "cpuacct.stat", "user", 10000000, "cpu.stat", "user_usec", 1000},
    {AT(cpu_system_ns), "cpuacct", "cpuacct.stat", "system", 10000000, "cpu.stat", "system_usec", 1000},
    {AT(cpu_periods), "cpu", "cpu.stat", "nr_periods", 1, "cpu.stat", "nr_periods", 1},
    {AT(cpu_throttled_periods), "cpu", "cpu.stat", "nr_throttled", 1, "cpu.stat", "nr_throttled", 1},
    {AT(cpu_throttled_ns), "cpu", "cpu.stat", "throttled_time", 1, "cpu.stat", "throttled_usec", 1000},
    {AT(memory_cache), "memory", "memory.stat", "total_cache", 1, "memory.stat", "file", 1},
    {AT(memory_mapped), "memory", "memory.stat", "total_mapped_file", 1, "memory.stat", "file_mapped", 1},
    {AT(memory_swap), "memory", "memory.stat", "total_swap", 1, "memory.swap.current", NULL, 1},
    {AT(memory_max), "memory", "memory.max_usage_in_bytes", NULL, 1, "memory.peak", NULL, 1},
    {AT(memory_failures), "memory", "memory.failcnt", NULL, 1, "memory.events", "max", 1},
    {AT(oom_kills), "memory", "memory.oom_control", "oom_kill", 1, "memory.events", "oom_kill", 1},
#undef AT
};

/* "8:0 Read 4096" on v1, "8:0 rbytes=4096 wbytes=0 ..." on v2: the sum over devices. */
static uint64_t io_sum(const char *text, const char *word) {
    uint64_t sum = 0;
    size_t n = strlen(word);
    for (const char *p = text; p && (p = strstr(p, word)); p += n) sum += strtoull(p + n, NULL, 10);
    return sum;
}

static char *controller_dir(struct cgroups *cg, const char *controller, const char *path) {
    return cg->v2 ? xasprintf("%s%s%s", cg->mount, cg->root, path) : dir_v1(cg, controller, path);
}

void cgroups_details(struct cgroups *cg, const char *path, struct cgroup_details *out) {
    *out = (struct cgroup_details){0};
    for (size_t i = 0; i < ARRAY_LEN(details); i++) {
        const struct detail *d = &details[i];
        const char *key = cg->v2 ? d->key2 : d->key1, *file = cg->v2 ? d->file2 : d->file1;
        _cleanup_free_ char *dir = controller_dir(cg, d->controller, path), *name = xasprintf("%s/%s", dir, file),
                            *text = NULL;
        uint64_t v = 0;
        if (!key)
            read_u64(dir, file, &v);
        else if (file_read(name, 65536, &text, NULL) == 0)
            v = stat_value(text, key);
        *(uint64_t *)(void *)((char *)out + d->at) = v * (cg->v2 ? d->mul2 : d->mul1);
    }
    _cleanup_free_ char *dir = controller_dir(cg, "blkio", path);
    _cleanup_free_ char *io = xasprintf("%s/%s", dir, cg->v2 ? "io.stat" : "blkio.throttle.io_service_bytes"),
                        *text = NULL;
    if (file_read(io, 65536, &text, NULL) < 0) return;
    out->io_read_bytes = io_sum(text, cg->v2 ? "rbytes=" : " Read ");
    out->io_write_bytes = io_sum(text, cg->v2 ? "wbytes=" : " Write ");
}

char *cgroups_container(struct cgroups *cg, struct arena *a, const char *pod, const char *id) {
    _cleanup_free_ char *dir = controller_dir(cg, "memory", pod);
    char *found = NULL;
    DIR *d = str_empty(id) ? NULL : opendir(dir);
    for (struct dirent *ent; d && !found && (ent = readdir(d));)
        if (strstr(ent->d_name, id)) found = arena_printf(a, "%s/%s", pod, ent->d_name);
    if (d) closedir(d);
    return found;
}

pid_t cgroups_any_process(struct cgroups *cg, const char *path) {
    _cleanup_free_ char *dir = controller_dir(cg, "memory", path), *name = xasprintf("%s/cgroup.procs", dir);
    _cleanup_file_ FILE *f = fopen(name, "re");
    int pid = 0;
    return f && fscanf(f, "%d", &pid) == 1 ? pid : 0;
}

char *cgroups_pod_path(struct cgroups *cg, struct arena *a, const struct core_pod *p) {
    const char *qos = str_empty(p->status.qos_class) ? pod_qos_class(p) : p->status.qos_class;
    if (!cg->systemd) {
        _cleanup_free_ char *path = pod_path(qos, p->metadata.uid);
        return arena_strdup(a, path);
    }
    const char *level = str_eq(qos, "BestEffort") ? "-besteffort" : str_eq(qos, "Burstable") ? "-burstable" : "";
    char *uid = arena_strdup(a, p->metadata.uid);
    for (char *c = uid; *c; c++)
        if (*c == '-') *c = '_';
    return *level ? arena_printf(a, "/kubepods.slice/kubepods%s.slice/kubepods%s-pod%s.slice", level, level, uid)
                  : arena_printf(a, "/kubepods.slice/kubepods-pod%s.slice", uid);
}

void cgroups_adopt(struct cgroups *cg) { cg->active = true; }

void cgroups_teardown(struct cgroups *cg) {
    static const char *const levels[] = {"/kubepods/besteffort", "/kubepods/burstable", "/kubepods"};
    if (cg->systemd) return;
    for (size_t k = 0; k < ARRAY_LEN(levels); k++)
        for (size_t i = 0; i < (cg->v2 ? 1 : ARRAY_LEN(v1_controllers)); i++) {
            _cleanup_free_ char *dir =
                cg->v2 ? xasprintf("%s%s%s", cg->mount, cg->root, levels[k]) : dir_v1(cg, v1_controllers[i], levels[k]);
            rmdir(dir);
        }
}

void cgroups_each_pod(struct cgroups *cg, void (*fn)(void *arg, const char *qos, const char *uid), void *arg) {
    static const char *const classes[] = {"Guaranteed", "Burstable", "BestEffort"};
    if (!cg || !cg->active || cg->systemd) return;
    for (size_t i = 0; i < ARRAY_LEN(classes); i++) {
        _cleanup_free_ char *dir =
            xasprintf("%s%s%s/kubepods%s", cg->mount, cg->v2 ? "" : "/memory", cg->root, qos_level(classes[i]));
        DIR *d = opendir(dir);
        if (!d) continue;
        for (struct dirent *ent; (ent = readdir(d));)
            if (ent->d_type == DT_DIR && str_has_prefix(ent->d_name, "pod")) fn(arg, classes[i], ent->d_name + 3);
        closedir(d);
    }
}
