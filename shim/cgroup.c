#include "cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "fsutil.h"

#define CGROUP_ROOT "/sys/fs/cgroup"

enum { CGROUP_KILL_ROUNDS = 50, CGROUP_DEPTH = 16 };

/* Hierarchies of v1. cpu and cpuacct may be one mount under both names. */
static const char *const v1_controllers[] = {"memory",     "cpu",     "cpuacct", "pids",    "cpuset",  "devices",
                                             "blkio",      "freezer", "systemd", "hugetlb", "net_cls", "net_prio",
                                             "perf_event", "rdma",    "misc",    "unified"};

bool cgroup_is_v2(void) {
    struct statfs sf;
    return statfs(CGROUP_ROOT, &sf) == 0 && sf.f_type == CGROUP2_SUPER_MAGIC;
}

bool cgroup_is_hybrid(void) {
    struct statfs sf;
    return !cgroup_is_v2() && statfs(CGROUP_ROOT "/unified", &sf) == 0 && sf.f_type == CGROUP2_SUPER_MAGIC;
}

static void group_file(char out[PATH_MAX], const char *controller, const char *path, const char *file) {
    if (cgroup_is_v2())
        snprintf(out, PATH_MAX, CGROUP_ROOT "%s/%s", path, file);
    else
        snprintf(out, PATH_MAX, CGROUP_ROOT "/%s%s/%s", controller, path, file);
}

static uint64_t read_number(const char *controller, const char *path, const char *file, uint64_t dflt) {
    char name[PATH_MAX];
    uint64_t v;
    group_file(name, controller, path, file);
    return fs_read_u64(name, &v) == 0 ? v : dflt;
}

/* The value of a "key value" line. */
static uint64_t keyed(const char *text, const char *key) {
    size_t n = strlen(key);
    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : p)
        if (strncmp(p, key, n) == 0 && p[n] == ' ') return strtoull(p + n + 1, NULL, 10);
    return 0;
}

static void read_text(const char *controller, const char *path, const char *file, char *out, size_t cap) {
    char name[PATH_MAX];
    group_file(name, controller, path, file);
    if (fs_read_str(name, out, cap) < 0) out[0] = 0;
}

static void stats_v2(const char *path, struct cgroup_stats *s) {
    char text[8192];
    read_text("", path, "cpu.stat", text, sizeof(text));
    s->found = text[0] != 0;
    s->cpu_ns = keyed(text, "usage_usec") * 1000;
    read_text("", path, "memory.stat", text, sizeof(text));
    s->memory_rss = keyed(text, "anon");
    s->page_faults = keyed(text, "pgfault");
    s->major_page_faults = keyed(text, "pgmajfault");
    uint64_t inactive = keyed(text, "inactive_file");
    s->memory_usage = read_number("", path, "memory.current", 0);
    s->memory_working_set = s->memory_usage > inactive ? s->memory_usage - inactive : 0;
    s->memory_limit = read_number("", path, "memory.max", UINT64_MAX);
    s->swap_usage = read_number("", path, "memory.swap.current", 0);
    s->pids = read_number("", path, "pids.current", 0);
}

static void stats_v1(const char *path, struct cgroup_stats *s) {
    enum { V1_NO_LIMIT_SHIFT = 62 }; /* "no limit" is a number near 2^63 */
    char text[8192];
    read_text("memory", path, "memory.stat", text, sizeof(text));
    s->found = text[0] != 0;
    s->memory_rss = keyed(text, "total_rss");
    s->page_faults = keyed(text, "total_pgfault");
    s->major_page_faults = keyed(text, "total_pgmajfault");
    uint64_t inactive = keyed(text, "total_inactive_file");
    s->swap_usage = keyed(text, "total_swap");
    s->memory_usage = read_number("memory", path, "memory.usage_in_bytes", 0);
    s->memory_working_set = s->memory_usage > inactive ? s->memory_usage - inactive : 0;
    s->memory_limit = read_number("memory", path, "memory.limit_in_bytes", UINT64_MAX);
    if (s->memory_limit >> V1_NO_LIMIT_SHIFT) s->memory_limit = UINT64_MAX;
    s->cpu_ns = read_number("cpuacct", path, "cpuacct.usage", 0);
    s->pids = read_number("pids", path, "pids.current", 0);
}

void cgroup_read_stats(const char *path, struct cgroup_stats *out) {
    *out = (struct cgroup_stats){.memory_limit = UINT64_MAX};
    if (cgroup_is_v2())
        stats_v2(path, out);
    else
        stats_v1(path, out);
}

bool cgroup_oom_killed(const char *path) {
    char text[1024];
    read_text("memory", path, cgroup_is_v2() ? "memory.events" : "memory.oom_control", text, sizeof(text));
    return keyed(text, "oom_kill") > 0;
}

/* Signals the processes of one folder and those below; how many there were. */
static int kill_below(const char *dir, int sig, int depth) {
    char name[PATH_MAX], line[32];
    int n = 0;
    snprintf(name, sizeof(name), "%s/cgroup.procs", dir);
    FILE *f = fopen(name, "re");
    while (f && fgets(line, sizeof(line), f)) {
        pid_t pid = (pid_t)strtol(line, NULL, 10);
        if (pid > 1 && kill(pid, sig) == 0) n++;
    }
    if (f) fclose(f);
    DIR *d = depth < CGROUP_DEPTH ? opendir(dir) : NULL;
    struct dirent *ent;
    while (d && (ent = readdir(d))) {
        if (ent->d_type != DT_DIR || ent->d_name[0] == '.') continue;
        if (snprintf(name, sizeof(name), "%s/%s", dir, ent->d_name) < (int)sizeof(name))
            n += kill_below(name, sig, depth + 1);
    }
    if (d) closedir(d);
    return n;
}

void cgroup_kill(const char *path, int sig) {
    char dir[PATH_MAX];
    if (str_empty(path) || str_eq(path, "/")) return;
    group_file(dir, "pids", path, "");
    if (access(dir, F_OK) < 0) group_file(dir, "memory", path, "");
    for (int i = 0; i < CGROUP_KILL_ROUNDS && kill_below(dir, sig, 0) > 0; i++) {
        if (sig != SIGKILL) return;
        nanosleep(&(struct timespec){0, 2000000}, NULL);
    }
}

static int remove_below(const char *dir, int depth) {
    char name[PATH_MAX];
    if (rmdir(dir) == 0 || errno == ENOENT) return 0;
    DIR *d = depth < CGROUP_DEPTH ? opendir(dir) : NULL;
    struct dirent *ent;
    while (d && (ent = readdir(d))) {
        if (ent->d_type != DT_DIR || ent->d_name[0] == '.') continue;
        if (snprintf(name, sizeof(name), "%s/%s", dir, ent->d_name) < (int)sizeof(name)) remove_below(name, depth + 1);
    }
    if (d) closedir(d);
    return rmdir(dir) == 0 || errno == ENOENT ? 0 : -errno;
}

int cgroup_remove(const char *path) {
    char dir[PATH_MAX];
    int r = 0;
    if (str_empty(path) || str_eq(path, "/")) return 0;
    if (cgroup_is_v2()) {
        group_file(dir, "", path, "");
        return remove_below(dir, 0);
    }
    for (size_t i = 0; i < ARRAY_LEN(v1_controllers); i++) {
        snprintf(dir, sizeof(dir), CGROUP_ROOT "/%s%s", v1_controllers[i], path);
        int one = remove_below(dir, 0);
        if (one < 0) r = one;
    }
    return r;
}

void cgroup_prune(const char *path) {
    char left[PATH_MAX - 64], dir[PATH_MAX];
    snprintf(left, sizeof(left), "%s", str_or_empty(path));
    for (char *slash; (slash = strrchr(left, '/')) && left[1]; *slash = 0) {
        bool any = false;
        for (size_t i = 0; i < (cgroup_is_v2() ? 1 : ARRAY_LEN(v1_controllers)); i++) {
            group_file(dir, v1_controllers[i], left, "");
            any |= rmdir(dir) == 0 || errno == ENOENT;
        }
        if (!any) return;
    }
}

int cgroup_enter(const char *path, pid_t pid, struct err *e) {
    char dir[PATH_MAX], text[32];
    snprintf(text, sizeof(text), "%d", (int)pid);
    for (size_t i = 0; i < ARRAY_LEN(v1_controllers); i++) {
        if (cgroup_is_v2())
            snprintf(dir, sizeof(dir), CGROUP_ROOT);
        else
            snprintf(dir, sizeof(dir), CGROUP_ROOT "/%s", v1_controllers[i]);
        if (access(dir, F_OK) < 0 || str_eq(v1_controllers[i], "cpuset")) continue; /* needs cpus and mems first */
        group_file(dir, v1_controllers[i], path, "");
        int r = mkdir_p(dir, 0755);
        group_file(dir, v1_controllers[i], path, "cgroup.procs");
        if (r == 0) r = fs_write_str(dir, text);
        if (r < 0) return err_errno(e, r, "enter control group %s", dir);
        if (cgroup_is_v2()) break;
    }
    return 0;
}
