/* The watch cache: every stored object once in memory, and the recent history of changes.
 *
 * One feed follows the whole key space ("/registry/") of the store and spreads its events over one cache a resource,
 * so that all caches are at one revision and a single number says how fresh they are. Reads are served from here; a
 * read that must be consistent first waits until the feed has reached the store's current revision.
 *
 * Watches pull. A watch holds a cursor into its cache's history (a ring); when something happens the cache calls the
 * watch's wake function, and whoever serves the watch takes events with wc_watch_next until there are none. Slow
 * watchers cost no memory: one whose cursor falls out of the ring ends with -ESTALE (410 Expired).
 *
 * Thread-safe. Objects handed out are references of the caller. Upstream: storage/cacher. */
#pragma once

#include "apiserver/object.h"
#include "apiserver/selector.h"
#include "pkg/store/store.h"

struct watchcache;
struct wc_watch;

enum { WC_HISTORY_MIN = 128, WC_HISTORY_MAX = 8192 }; /* events kept for each resource; grows when it turns over fast */

/* Loads everything and follows. `t` must outlive the cache. */
int watchcache_open(struct store *s, const struct resource_table *t, struct watchcache **out, struct err *e);
void watchcache_close(struct watchcache *w); /* NULL-safe; all watches must have been freed */

/* Makes a cache for a custom resource's stored row, filled from the store, or has the one that is there go on with this
 * row (its selectable fields may be others). 0 or the store's error. */
int watchcache_add(struct watchcache *w, const struct resource *r, struct err *e);
/* Shows `now` in place of `was`, when that is still what the cache has: the same revision, seen with other eyes (a
 * definition's new defaults). No event. */
void watchcache_replace(struct watchcache *w, const struct object *was, struct object *now);
/* Ends the watches of a custom resource that is no longer served: they get -ESTALE. */
void watchcache_retire(struct watchcache *w, const struct resource *r);

/* The revision that the caches show. */
int64_t watchcache_rev(struct watchcache *w);
/* Waits until the caches have reached `rev`: 0, or -ETIMEDOUT. timeout 0: only looks. */
int watchcache_wait(struct watchcache *w, int64_t rev, int timeout_ms);
/* Waits until the caches show what the store holds now. -ETIMEDOUT, or the store's error. */
int watchcache_sync(struct watchcache *w, struct err *e);
/* Non-zero when the feed has ended for good (the store is gone): readyz fails. */
int watchcache_error(struct watchcache *w);

/* A reference to the object, or NULL. `r` may be a row that shares another's storage; objects are as stored. */
struct object *watchcache_get(struct watchcache *w, const struct resource *r, const char *ns, const char *name);

/* A reference to the object at `key` (as object.key) if the cache shows it at exactly this revision, else NULL. */
struct object *watchcache_at(struct watchcache *w, const struct resource *r, const char *key, int64_t rev);

struct wc_list {
    struct object **items; /* references; wc_list_done gives them back */
    size_t n;
    int64_t rev;
    bool more;         /* `limit` cut it */
    int64_t remaining; /* objects behind the cut; -1 with a selector */
};
/* Objects in key order: of one namespace, or all (ns NULL); behind `after` (a key as in object.key, NULL: from the
 * start); at most `limit` (0: all). */
void watchcache_list(struct watchcache *w, const struct resource *r, const char *ns, const struct selector *sel,
                     const char *after, size_t limit, struct wc_list *out);
void wc_list_done(struct wc_list *l);
#define _cleanup_wc_list_ _cleanup_(wc_list_done)
size_t watchcache_count(struct watchcache *w, const struct resource *r);
/* The revision of the last change of the resource's objects: a list at any revision from there on looks the same. */
int64_t watchcache_changed_rev(struct watchcache *w, const struct resource *r);

enum wc_event_type { WC_ADDED, WC_MODIFIED, WC_DELETED };
struct wc_event {
    enum wc_event_type type;
    struct object *object; /* a reference of the caller */
};
/* Called when there may be news, on the feed's thread: must be quick and must not call back into the cache. */
typedef void wc_wake_fn(void *arg);

/* Starts a watch of changes after revision `rev`, which may lie ahead. -ESTALE when the history does not reach back so
 * far. The selector is copied. */
int wc_watch_new(struct watchcache *w, const struct resource *r, const char *ns, const struct selector *sel,
                 int64_t rev, wc_wake_fn *wake, void *arg, struct wc_watch **out);
/* As above, but starts at the state that `list` receives: the initial events of a watch. */
void wc_watch_new_list(struct watchcache *w, const struct resource *r, const char *ns, const struct selector *sel,
                       wc_wake_fn *wake, void *arg, struct wc_list *list, struct wc_watch **out);
/* The next event: 1 with *out, 0 when there is none now (then *rev is the revision up to which nothing was missed),
 * -ESTALE when the watch fell behind. */
int wc_watch_next(struct wc_watch *w, struct wc_event *out, int64_t *rev);
/* When this returns the wake function neither runs nor will run. NULL-safe. */
void wc_watch_free(struct wc_watch *w);
