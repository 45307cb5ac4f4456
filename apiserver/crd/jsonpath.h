/* JSONPath as CustomResourceDefinitions use it (additionalPrinterColumns, scale, selectable fields): a chain of
 *
 *   .name  ['name']  [0]  [-1]  [*]  .*  [?(@.type=="Ready")]      a backslash in a name takes the next character as it is
 *
 * Filters compare a path below the element with a string, number or boolean by ==, !=, <, <=, >, >=, or ask whether it
 * is there. Slices, unions and recursive descent are not done. Upstream: client-go/util/jsonpath. */
#pragma once

#include "pkg/json/json.h"

enum { JSONPATH_MAX_RESULTS = 1024, JSONPATH_MAX_DEPTH = 64 };

/* Everything the path finds in `v`: a JSON array in `a` that shares the found values; empty when there is nothing or the
 * path is malformed. */
struct json *jsonpath_find(struct arena *a, const char *path, const struct json *v);
/* The first of them, or NULL. */
const struct json *jsonpath_first(struct arena *a, const char *path, const struct json *v);
/* Sets what a path of names alone (".spec.replicas") leads to, making objects on the way: 0, or -EINVAL. */
int jsonpath_set(struct arena *a, const char *path, struct json *v, struct json *value);
/* NULL when the path is well-formed, else what is wrong with it. */
const char *jsonpath_fault(struct arena *a, const char *path);
