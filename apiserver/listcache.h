/* Bodies of large lists, for when many clients ask for the same one (after a restart of the server, or by polling).
 * Bounded in number, size and time: what has not been asked for in LISTCACHE_IDLE_MS goes. Thread-safe. */
#pragma once

#include "apiserver/object.h"

struct listcache *listcache_new(void);
void listcache_free(struct listcache *c); /* NULL-safe */

/* The items' text of the list of a resource in a namespace (NULL: all), as of its last change at revision `changed`: a
 * reference, or NULL. *wanted: it was asked for before, so making and putting it is worth while. */
struct rbytes *listcache_get(struct listcache *c, const struct resource *r, const char *ns, int64_t changed,
                             bool *wanted);
/* Keeps a reference to `body`, unless it is too small or too large for that. */
void listcache_put(struct listcache *c, const struct resource *r, const char *ns, int64_t changed, struct rbytes *body);
/* Drops what nobody asks for any more. */
void listcache_expire(struct listcache *c);
