/* Metrics in Prometheus' text form: histograms that threads count into without a lock, and what every program
 * says of itself (process_*). */
#pragma once

#include <stdatomic.h>

#include "pkg/base/buf.h"

enum { PROM_BUCKETS_MAX = 24 };

/* Observations in nanoseconds; zero it to begin. `bounds` are seconds, ascending, ended by 0; the same at
 * each call. */
struct prom_histogram {
    _Atomic uint64_t counts[PROM_BUCKETS_MAX + 1]; /* the last: beyond all bounds */
    _Atomic uint64_t sum_ns;
};
void prom_observe(struct prom_histogram *h, const double *bounds, int64_t ns);
/* # HELP and # TYPE of a metric. */
void prom_head(struct buf *b, const char *name, const char *type, const char *help);
/* The lines of one histogram. labels: `a="b",c="d"` or "". */
void prom_write(struct buf *b, const char *name, const char *labels, const struct prom_histogram *h,
                const double *bounds);
/* A label's value, with quotes, backslashes and line ends escaped. */
void prom_label(struct buf *b, const char *name, const char *value);
/* kubernetes_build_info of a version "v1.36.0+x". */
void prom_build_info(struct buf *b, const char *version);
/* process_cpu_seconds_total, process_resident_memory_bytes and the others, from /proc. */
void prom_process(struct buf *b);
