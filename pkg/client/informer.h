/* Informers: a local, indexed, typed copy of a resource, kept current by list and watch (client-go's shared
 * informers).
 *
 * An object is decoded once into a reference-counted immutable `struct object` and shared by the cache, the
 * handlers and whoever holds a reference. Never change one: clone it (api_clone) to make an update.
 *
 * The reflector lists (in pages), then watches from the list's resourceVersion, resumes after a broken
 * connection from the last version seen (bookmarks keep it fresh), and lists anew after 410 Gone; retries
 * back off with jitter.
 *
 * Handlers run on the client's thread, one at a time, in the order of the events: they must not block or make
 * blocking client calls; they put keys on workqueues. The getters below may be called from any thread. */
#pragma once

#include "pkg/client/client.h"

struct meta_object_meta;

struct object {
    _Atomic uint32_t refs;
    uint32_t hash;
    struct arena *arena;
    const struct client_resource *resource;
    const struct meta_object_meta *meta;
    void *obj;       /* the C struct of resource->type; read only */
    const char *key; /* "namespace/name", or "name" */
    const char *rv;  /* metadata.resourceVersion */
};
struct object *object_ref(struct object *o);
void object_unref(struct object *o); /* NULL-safe */
static inline void cleanup_object(struct object **o) { object_unref(*o); }
#define _cleanup_object_ _cleanup_(cleanup_object)
/* A copy of typed data as an object with one reference (for tests, and for caches of other origin). */
struct object *object_new(const struct client_resource *r, const void *obj);

struct object_list {
    struct object **items; /* each holds a reference */
    size_t n, cap;
};
void object_list_done(struct object_list *l);
#define _cleanup_object_list_ _cleanup_(object_list_done)

struct informer;

struct informer_handler {
    void (*on_add)(void *arg, struct object *o);
    void (*on_update)(void *arg, struct object *old, struct object *o);
    void (*on_delete)(void *arg, struct object *o); /* last known state */
    void *arg;
};

struct informer_opts {
    const char *ns; /* NULL: all */
    const char *label_selector, *field_selector;
    bool metadata_only;           /* asks for PartialObjectMetadata */
    bool keep_managed_fields;     /* else they are dropped to save memory */
    void (*transform)(void *obj); /* may clear fields of a decoded object before it is stored */
};

/* Starts at once. `r` must stay valid; `o` may be NULL. */
struct informer *informer_new(struct client *c, const struct client_resource *r, const struct informer_opts *o);
/* Ends the watch; no handler runs any more when this returns. Objects held stay valid. NULL-safe. Must be
 * called before client_free. */
void informer_free(struct informer *i);

/* Any of the three may be NULL. Objects already in the cache are announced with on_add (on the client's
 * thread, so it may happen after this returns). */
void informer_add_handler(struct informer *i, const struct informer_handler *h);

/* True once the first list is in the cache and its handlers have run. */
bool informer_synced(struct informer *i);
/* Blocks until synced; timeout_ms < 0: no limit. 0 or -ETIMEDOUT. */
int informer_wait_synced(struct informer *i, int64_t timeout_ms, struct err *e);
/* True while the watch (or list) last attempted failed: the server is not in reach. */
bool informer_disconnected(struct informer *i);

/* The object with a reference for the caller, or NULL. */
struct object *informer_get(struct informer *i, const char *key);
struct object *informer_get_ns(struct informer *i, const char *ns, const char *name);
/* All objects, or those of a namespace (ns NULL or "": all). Appends to `out`, sorted by key within a
 * namespace. */
void informer_list(struct informer *i, const char *ns, struct object_list *out);
size_t informer_count(struct informer *i);

/* Indices, made before the informer gets busy (existing objects are indexed at once). Namespace is always
 * indexed. `value_of` calls emit for each value under which the object is to be found. Returns the index's
 * number. */
typedef void informer_emit_fn(void *ctx, const char *value);
typedef void informer_index_fn(const struct object *o, informer_emit_fn *emit, void *ctx);
int informer_add_index(struct informer *i, informer_index_fn *value_of);
void informer_by_index(struct informer *i, int index, const char *value, struct object_list *out);

/* Ready-made index functions. */
informer_index_fn index_by_uid;            /* metadata.uid */
informer_index_fn index_by_owner_uid;      /* uid of every owner reference */
informer_index_fn index_by_controller_uid; /* uid of the controlling owner */
informer_index_fn index_by_pod_node;       /* pods: spec.nodeName ("" for none) */

/* ---- a set of shared informers ---- one informer per resource, made when first asked for */
struct informers;
struct informers *informers_new(struct client *c);
void informers_free(struct informers *s);
struct informer *informers_get(struct informers *s, const struct client_resource *r);
/* Whether it was asked for before. */
bool informers_has(struct informers *s, const struct client_resource *r);
int informers_wait_synced(struct informers *s, int64_t timeout_ms, struct err *e);
struct client *informers_client(struct informers *s);

/* ---- selectors ---- */
struct meta_label_selector;
/* Of metav1.LabelSelector: NULL selects nothing, an empty one everything. An invalid operator selects
 * nothing. */
bool label_selector_matches(const struct meta_label_selector *s, const struct str_map *labels);
bool label_selector_empty(const struct meta_label_selector *s);
/* Of a plain map (services, replication controllers): true when all pairs are in `labels`. Empty selects
 * everything. */
bool label_map_matches(const struct str_map *selector, const struct str_map *labels);
/* As the query parameter labelSelector writes it: "a=b,c in (d,e),!f". */
char *label_selector_format(struct arena *a, const struct meta_label_selector *s);
/* The controlling owner reference, or NULL. */
struct meta_owner_reference;
const struct meta_owner_reference *meta_controller_of(const struct meta_object_meta *m);
/* Splits "ns/name" (ns "" without a slash); the parts live in the arena. */
void key_split(struct arena *a, const char *key, const char **ns, const char **name);
char *key_make(struct arena *a, const char *ns, const char *name);
