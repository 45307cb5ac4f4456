/* Strategic merge patch (smp.c). */
#pragma once

#include "pkg/api/api.h"

/* `doc` is not changed. Errors are API errors. */
int strategic_merge_patch(struct arena *a, const struct api_type *t, const struct json *doc, const struct json *patch,
                          struct json **out, struct err *e);
