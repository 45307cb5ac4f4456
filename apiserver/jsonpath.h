/* The part of JSONPath that CustomResourceDefinitions use: .a.b, ['a'], [0], [-1], [*], [?(@.type=="Ready")]. */
#pragma once

#include "pkg/json/json.h"

enum { JSONPATH_MAX_RESULTS = 64 };

/* Values that the path selects below `v`, at most JSONPATH_MAX_RESULTS; returns their number, 0 for a bad path. */
size_t jsonpath_find(struct arena *a, const struct json *v, const char *path, struct json **out);
/* The first one, or NULL. */
struct json *jsonpath_first(struct arena *a, const struct json *v, const char *path);
/* Sets the value at a plain path (".spec.replicas"), making objects on the way. False when that is not possible. */
bool jsonpath_set(struct arena *a, struct json *v, const char *path, struct json *value);
