/* The two standard patches of JSON documents: JSON Patch (RFC 6902) and JSON Merge Patch (RFC 7386). */
#pragma once

#include "pkg/json/json.h"

enum { JSON_PATCH_MAX_OPS = 10000, JSON_PATCH_MAX_COPIED = 3 << 20 };

/* Applies the operations in order; *out is a new tree that may share nodes with neither input. `doc` is not
 * changed. -EINVAL: the patch itself is malformed; -ENOENT: an operation does not apply (missing path, failed
 * test); -E2BIG: more operations or more copied data than the limits. */
int json_patch(struct arena *a, const struct json *doc, const struct json *patch, struct json **out, struct err *e);
/* Never fails: any JSON is a merge patch. */
struct json *json_merge_patch(struct arena *a, const struct json *doc, const struct json *patch);
