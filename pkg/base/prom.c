#include "pkg/base/prom.h"

#include <dirent.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

enum {
    STAT_MAX = 4096,
    STARTTIME_FIELD = 19 /* of what follows the name in /proc/self/stat, from 0 */,
    VSIZE_FIELD = 20,
    RSS_FIELD = 21
};

void prom_observe(struct prom_histogram *h, const double *bounds, int64_t ns) {
    size_t i = 0;
    while (i < PROM_BUCKETS_MAX && bounds[i] > 0 && (double)ns > bounds[i] * 1e9) i++;
    if (bounds[i] == 0) i = PROM_BUCKETS_MAX;
    atomic_fetch_add_explicit(&h->counts[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_ns, (uint64_t)(ns > 0 ? ns : 0), memory_order_relaxed);
}

void prom_head(struct buf *b, const char *name, const char *type, const char *help) {
    buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

void prom_write(struct buf *b, const char *name, const char *labels, const struct prom_histogram *h,
                const double *bounds) {
    uint64_t n = 0;
    const char *comma = *labels ? "," : "";
    for (size_t i = 0; i < PROM_BUCKETS_MAX && bounds[i] > 0; i++) {
        n += atomic_load(&h->counts[i]);
        buf_printf(b, "%s_bucket{%s%sle=\"%.15g\"} %llu\n", name, labels, comma, bounds[i], (unsigned long long)n);
    }
    n += atomic_load(&h->counts[PROM_BUCKETS_MAX]);
    buf_printf(b, "%s_bucket{%s%sle=\"+Inf\"} %llu\n", name, labels, comma, (unsigned long long)n);
    buf_printf(b, "%s_sum%s%s%s %.9g\n", name, *labels ? "{" : "", labels, *labels ? "}" : "",
               (double)atomic_load(&h->sum_ns) / 1e9);
    buf_printf(b, "%s_count%s%s%s %llu\n", name, *labels ? "{" : "", labels, *labels ? "}" : "", (unsigned long long)n);
}

void prom_label(struct buf *b, const char *name, const char *value) {
    buf_printf(b, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\n')
            buf_adds(b, "\\n");
        else if (*value == '"' || *value == '\\')
            buf_printf(b, "\\%c", *value);
        else
            buf_addc(b, *value);
    }
    buf_addc(b, '"');
}

void prom_build_info(struct buf *b, const char *version) {
    int major = 0, minor = 0;
    if (sscanf(version, "v%d.%d", &major, &minor) != 2) major = minor = 0;
    prom_head(b, "kubernetes_build_info", "gauge", "The version that this program was built from.");
    buf_printf(b, "kubernetes_build_info{git_version=\"%s\",major=\"%d\",minor=\"%d\"} 1\n", version, major, minor);
}

/* ---- process ---- */

static size_t open_files(void) {
    DIR *d = opendir("/proc/self/fd");
    size_t n = 0;
    if (!d) return 0;
    while (readdir(d)) n++;
    closedir(d);
    return n > 3 ? n - 3 : 0; /* ".", "..", and the one that lists them */
}

/* Fields behind the program's name. */
static void stat_fields(double *out, size_t n) {
    _cleanup_free_ char *text = NULL;
    if (file_read("/proc/self/stat", STAT_MAX, &text, NULL)) return;
    char *rest = strrchr(text, ')'), *word;
    if (rest) rest += 2;
    for (size_t i = 0; i < n && rest && (word = strsep(&rest, " ")); i++) out[i] = strtod(word, NULL);
}

static double uptime(void) {
    struct timespec t;
    return clock_gettime(CLOCK_BOOTTIME, &t) ? 0 : (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void prom_process(struct buf *b) {
    double f[RSS_FIELD + 1] = {0};
    struct rusage u;
    struct rlimit l = {0};
    struct timeval now;
    stat_fields(f, ARRAY_LEN(f));
    getrusage(RUSAGE_SELF, &u);
    getrlimit(RLIMIT_NOFILE, &l);
    gettimeofday(&now, NULL);
    double ticks = (double)sysconf(_SC_CLK_TCK), cpu = (double)u.ru_utime.tv_sec + (double)u.ru_stime.tv_sec +
                                                       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    double started = (double)now.tv_sec + (double)now.tv_usec / 1e6 - (uptime() - f[STARTTIME_FIELD] / ticks);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.", cpu},
        {"process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
         f[RSS_FIELD] * (double)sysconf(_SC_PAGESIZE)},
        {"process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", f[VSIZE_FIELD]},
        {"process_open_fds", "gauge", "Number of open file descriptors.", (double)open_files()},
        {"process_max_fds", "gauge", "Maximum number of open file descriptors.", (double)l.rlim_cur},
        {"process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.", started}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        prom_head(b, rows[i].name, rows[i].type, rows[i].help);
        buf_printf(b, "%s %.15g\n", rows[i].name, rows[i].value);
    }
}
