/* The indexed store behind an informer. Thread-safe. */
#pragma once

#include "pkg/client/informer.h"

struct cache;
struct cache *cache_new(bool namespaced);
void cache_free(struct cache *c);
/* Puts the object in place of the one with its key; takes a reference of its own. The old one, handed to the
 * caller with its reference, or NULL. */
struct object *cache_put(struct cache *c, struct object *o);
/* Removes; the object goes to the caller with its reference, or NULL. */
struct object *cache_del(struct cache *c, const char *key);
struct object *cache_get(struct cache *c, const char *key);
void cache_list(struct cache *c, const char *ns, struct object_list *out);
size_t cache_count(struct cache *c);
int cache_add_index(struct cache *c, informer_index_fn *fn);
void cache_by_index(struct cache *c, int index, const char *value, struct object_list *out);
