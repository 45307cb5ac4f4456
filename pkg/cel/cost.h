/* The estimate of costs: what cost.c (nodes and sizes) and cost_calls.c (functions) share. */
#pragma once

#include <math.h>

#include "pkg/cel/internal.h"

typedef struct cel_range range; /* of a size or a cost */

struct node_cost {
    const struct cel_type *path; /* the declared type this node's path leads to; NULL: it has no path */
    bool done, sized, entries;
    range cost, size, key, val;
};

struct bound { /* a local variable */
    const char *name;
    const struct cel_type *path;
    bool sized, entries;
    range size, key, val;
};

struct coster {
    struct arena *a;
    const struct cel_type *root; /* of `self` */
    const char *stack;
    struct bound *locals;
    size_t n_locals, cap_locals;
};

struct cost_estimate {
    range cost, size;
    bool sized;
};

static const range unknown = {0, UINT64_MAX};

static inline uint64_t add64(uint64_t x, uint64_t y) { return x > UINT64_MAX - y ? UINT64_MAX : x + y; }
static inline uint64_t mul64(uint64_t x, uint64_t y) {
    uint64_t r;
    return __builtin_mul_overflow(x, y, &r) ? UINT64_MAX : r;
}
static inline uint64_t factor64(uint64_t x, double f) {
    double d = ceil((double)x * f);
    return d >= 18446744073709551616.0 ? UINT64_MAX : (uint64_t)d;
}
static inline range fixed(uint64_t n) { return (range){n, n}; }
static inline range add(range x, range y) { return (range){add64(x.min, y.min), add64(x.max, y.max)}; }
static inline range mul(range x, range y) { return (range){mul64(x.min, y.min), mul64(x.max, y.max)}; }
static inline range by(range x, double f) { return (range){factor64(x.min, f), factor64(x.max, f)}; }
static inline range join(range x, range y) { return (range){MIN_OF(x.min, y.min), MAX_OF(x.max, y.max)}; }

/* cost.c: sizes and paths of nodes */
const struct cel_type *cost_path(struct coster *c, struct node *n);
enum cost_step { STEP_ITEMS, STEP_VALUES, STEP_KEYS, STEP_INDICES, STEP_FIELD };
/* Where no schema is known the type itself stands in; a path that begins with a step begins at the root, as upstream.
 */
const struct cel_type *cost_step(const struct coster *c, const struct cel_type *path, enum cost_step s,
                                 const char *field);
bool cost_path_size(const struct cel_type *path, range *out);
range cost_size(struct coster *c, struct node *n); /* or unknown */
void cost_join_entries(struct coster *c, struct node *n, struct node *x, struct node *y);

/* cost_calls.c */
struct cost_call {
    struct coster *c;
    struct node *n, *target, **args;
    uint32_t argc;
    range *arg_costs;
};
range cost_arg_sum(const struct cost_call *k);
struct cost_estimate cost_function(const struct cost_call *k, const struct cel_fn *f);
