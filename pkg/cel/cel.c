/* The interface before its implementation: every compilation is refused. */
#include "pkg/cel/cel.h"

int cel_compile(struct arena *a, const struct cel_env *env, const char *src, const struct cel_prog **out,
                const char **issues) {
    if (issues) *issues = "expressions cannot be compiled by this server";
    return -EINVAL;
}
