/* A follower: a thread that is told of every object of some resources, as it is and whenever it changes. For the parts
 * of the server that react to objects: the authorizer's snapshot, custom resources, conditions. */
#pragma once

#include "apiserver/watchcache.h"

struct follower;

/* `gone`: the object is deleted, this is its last state (the last one told, when the follower had fallen behind). Calls
 * are never concurrent. After a follower fell behind all objects are told again. */
typedef void follow_fn(void *arg, struct object *o, bool gone);

/* Tells of all objects that there are, on the caller's thread, then goes on on its own. NULL when there is no thread to be
 * had. `again` (may be NULL) is called some time after follower_again. */
struct follower *follower_new(struct watchcache *w, const struct resource *const *res, size_t n, follow_fn *fn,
                              void (*again)(void *arg), void *arg);
/* From within the functions: something has to be tried again in a while. */
void follower_again(struct follower *f);
/* When this returns no function runs or will run. NULL-safe. */
void follower_free(struct follower *f);
