/* Sets of CPUs (or of NUMA nodes), as values: "0-3,8". The text is the kernel's list format, which the CRI, the state file
 * and the settings share. Upstream: k8s.io/utils/cpuset. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

enum { CPUSET_MAX = 2048 }; /* ids are below it */
struct cpuset {
    uint64_t words[CPUSET_MAX / 64];
};

/* Ids beyond CPUSET_MAX are not taken. */
void cpuset_add(struct cpuset *s, int id);
bool cpuset_has(const struct cpuset *s, int id);
size_t cpuset_count(const struct cpuset *s);
bool cpuset_empty(const struct cpuset *s);
bool cpuset_equal(const struct cpuset *a, const struct cpuset *b);
bool cpuset_within(const struct cpuset *part, const struct cpuset *whole);
struct cpuset cpuset_union(const struct cpuset *a, const struct cpuset *b);
struct cpuset cpuset_minus(const struct cpuset *a, const struct cpuset *b);
struct cpuset cpuset_and(const struct cpuset *a, const struct cpuset *b);
/* The next member after `id` (-1: the first); -1: there is none. */
int cpuset_next(const struct cpuset *s, int id);
#define CPUSET_EACH(id, s) for (int id = cpuset_next(s, -1); id >= 0; id = cpuset_next(s, id))

/* "" and a line's end are fine. -EINVAL when it is no list, -ERANGE for ids that are too large; *out is then untouched. */
int cpuset_parse(const char *text, struct cpuset *out);
/* In `a`. */
char *cpuset_text(struct arena *a, const struct cpuset *s);
