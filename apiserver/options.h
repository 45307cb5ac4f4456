/* Checks of the options that come with requests. Each gives 0, or 422 Invalid with every finding (400 for what cannot be
 * read at all). */
#pragma once

#include "apiserver/request.h"

/* Of a write: `kind` is "CreateOptions", "UpdateOptions" or "PatchOptions". */
int options_check(struct request *q, const char *kind, bool *dry_run, struct err *e);
/* Of a delete: `o` is the DeleteOptions as a tree, NULL: none. */
int options_check_delete(const struct json *o, struct err *e);
/* Of a list, a watch, or the selection of a deletecollection. */
int options_check_list(struct request *q, struct err *e);
