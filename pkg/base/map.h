/* Hash map from strings to pointers (open addressing, linear probing). Keys are copied; values belong to the caller.
 * Iteration order is unspecified. Not thread-safe. */
#pragma once

#include "util.h"

struct map_entry {
    char *key; /* NULL: never used; map_tombstone: removed */
    void *value;
    uint32_t hash;
};

struct map {
    struct map_entry *slots;
    size_t cap, n, used; /* cap: power of two or 0; used counts tombstones too */
};

#define MAP_INIT \
    { 0 }
#define _cleanup_map_ _cleanup_(map_done)

/* Frees the keys and the table; call map_done_with() to free the values too. */
void map_done(struct map *m);
void map_done_with(struct map *m, void (*free_value)(void *));
/* The value, or NULL. */
void *map_get(const struct map *m, const char *key);
bool map_has(const struct map *m, const char *key);
/* Stores the value and returns the one it replaces, or NULL. */
void *map_put(struct map *m, const char *key, void *value);
/* Removes the key and returns its value, or NULL. */
void *map_del(struct map *m, const char *key);
/* Iteration: size_t it = 0; while (map_next(m, &it, &key, &value)) ...; map_del of the current key is allowed. */
bool map_next(const struct map *m, size_t *it, const char **key, void **value);
/* FNV-1a, for other tables. */
uint32_t hash_bytes(const void *p, size_t n);
