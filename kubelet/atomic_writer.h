/* Writes the files of a configMap, secret, downwardAPI or projected volume so that a reader sees either all
 * old or all new content:
 *
 *     volume/..2026_01_02_03_04_05.123456789/key    the files themselves
 *     volume/..data -> ..2026_01_02_...             replaced by rename: the switch
 *     volume/key -> ..data/key                      what the container opens
 *
 * The layout is upstream's (pkg/volume/util/atomic_writer.go); programs rely on watching ..data. */
#pragma once

#include "pkg/api/api.h"
#include "pkg/base/arena.h"
#include "pkg/base/err.h"

struct payload_file {
    const char *path; /* relative, checked by the writer; may have directories */
    struct bytes data;
    unsigned mode;
    int64_t uid; /* owner, -1: leave as root's */
};
struct payload {
    struct payload_file *items; /* in an arena */
    size_t n, cap;
    size_t bytes;
};
enum { PAYLOAD_FILES_MAX = 10000, PAYLOAD_BYTES_MAX = 64 * 1024 * 1024 };
/* Adds a file or replaces the one of the same path. */
int payload_add(struct arena *a, struct payload *p, const char *path, struct bytes data, unsigned mode, int64_t uid,
                struct err *e);

/* Brings `dir` to this content; writes nothing when it is there already. gid >= 0 gives the files that group
 * and group read permission (fsGroup). */
int atomic_write(const char *dir, const struct payload *p, int64_t gid, struct err *e);
