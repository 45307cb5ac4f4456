/* metadata.managedFields as a list of managers with their field sets (managed_fields.c). */
#pragma once

#include "apiserver/rules/fset.h"

struct manager {
    const char *name, *operation, *api_version, *subresource, *time;
    struct fset *set;
};
struct managers {
    struct manager *items;
    size_t n, cap;
};

void managers_read(struct arena *a, const struct json *managed_fields, struct managers *out);
/* Sorted, as the API shows them: Apply before Update, then by time and name. Removes the member when empty.
 */
void managers_write(struct arena *a, struct managers *m, struct json *obj);
struct manager *managers_find(struct managers *m, const char *name, const char *operation, const char *api_version,
                              const char *subresource);
struct manager *managers_add(struct arena *a, struct managers *m, const char *name, const char *operation,
                             const char *api_version, const char *subresource);
/* The manager's entry was written now. */
void manager_touch(struct rules_ctx *c, struct manager *k);
/* Drops the fields that no manager may own (system metadata), and those that this endpoint resets. */
struct fset *managers_strip(struct rules_ctx *c, struct fset *s);
/* A change as it looks in each version that a manager of the object wrote in. */
struct change {
    const struct json *old, *now; /* in the stored version; old NULL: a new object */
    const char *api_version;      /* what `diff` was made for, NULL: nothing yet */
    struct fset_diff diff;
};
/* The difference as `api_version` sees it, without what no manager may own. */
struct fset_diff managers_diff(struct rules_ctx *c, struct change *ch, const char *api_version);
/* Takes what changed away from every manager but `self` (NULL: all). */
void managers_take(struct rules_ctx *c, struct managers *m, const struct manager *self, struct change *ch);
/* Of the request, where it names another version than the stored one. */
const char *group_version(struct arena *a, const struct rules_ctx *c);
/* ssa_check.c: 500 when items of the configuration's keyed lists and sets cannot be told apart. */
int ssa_check(struct rules_ctx *c, struct schema root, const struct json *config, struct err *e);
