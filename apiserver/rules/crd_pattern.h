/* Patterns of schemas. Kubernetes matches them with Go's RE2; libpcre2 understands that syntax but for a few rarities,
 * and is told to end `$` at the end of the text only, as RE2 does. Matching is bounded: a pattern that backtracks without
 * end on some text is taken not to match. */
#pragma once

#include "pkg/base/arena.h"

enum { PATTERN_MAX = 8192, PATTERN_MATCH_LIMIT = 200000, PATTERN_HEAP_KIB = 4096 };

/* True when the pattern matches somewhere in the text, and for a pattern that does not compile. */
bool crd_pattern_matches(const char *pattern, const char *text, size_t len);
/* NULL when it compiles, else what is wrong. */
const char *crd_pattern_fault(struct arena *a, const char *pattern);
