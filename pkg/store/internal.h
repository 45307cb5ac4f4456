/* Inside pkg/store: what the two back ends share.
 *
 * A back end is a table of functions; store.c only dispatches. A `struct version` is one revision of one key, immutable
 * and reference-counted once published: the sqlite back end keeps lazy writes as versions, and the watch hub hands
 * versions to watchers. */
#pragma once

#include <stdatomic.h>

#include "pkg/store/store.h"

/* Largest value of a write; etcd's default limit for a request is 1.5 MiB, the API server's for a body 3 MiB. */
#define STORE_VALUE_MAX (3 * 1024 * 1024)
/* Longest key. */
#define STORE_KEY_MAX 1024

struct store_backend {
    void (*close)(struct store *s);
    int (*get)(struct store *s, struct arena *a, const char *key, int64_t rev, struct store_kv *out, int64_t *store_rev,
               struct err *e);
    int (*list)(struct store *s, struct arena *a, const char *prefix, const char *from, size_t limit, int64_t rev,
                struct store_list *out, struct err *e);
    int (*count)(struct store *s, const char *prefix, const char *from, int64_t rev, int64_t *out, struct err *e);
    int (*txn)(struct store *s, struct arena *a, const struct store_txn *t, struct store_txn_result *out,
               struct err *e);
    int (*current_rev)(struct store *s, int64_t *out, struct err *e);
    int (*compact)(struct store *s, int64_t rev, struct err *e);
    int (*advance)(struct store *s, int64_t rev, struct err *e);
    int (*snapshot)(struct store *s, const char *path, struct err *e);
    int64_t (*size)(struct store *s);
    int (*watch)(struct store *s, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
                 struct store_watch **out, struct err *e);
    int (*cause)(struct store *s, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e);
};

struct store {
    const struct store_backend *backend;
};

int store_sqlite_open(const struct store_options *o, struct store **out, struct err *e);
int store_etcd_open(const struct store_options *o, struct store **out, struct err *e);

/* ---- versions ---- */

struct version {
    _Atomic uint32_t refs;
    bool deleted;
    int64_t rev, create_rev;
    struct rbytes *value; /* of a delete: the last value; may be NULL */
    struct rbytes *prev;  /* before this version, NULL when the key was absent or the value is gone */
    /* sqlite only */
    int64_t prev_rev; /* row of the key before this one, 0 for none */
    int64_t cause_rev, unix_ns;
    char *actor;
    struct version *older, *newer; /* of one key, among the lazy writes */
    char key[];
};

struct version *version_new(const char *key, size_t key_len);
struct version *version_ref(struct version *v);
void version_unref(struct version *v); /* NULL-safe */
void version_to_kv(struct arena *a, const struct version *v, struct store_kv *out);

struct version_vec {
    struct version **items;
    size_t n, cap;
};
void version_vec_add(struct version_vec *v, struct version *item); /* takes the reference */
void version_vec_done(struct version_vec *v);
#define _cleanup_version_vec_ _cleanup_(version_vec_done)

/* The smallest key above all keys with `prefix`, in the arena; NULL when there is none (prefix "" or all 0xff). */
char *prefix_end(struct arena *a, const char *prefix);

/* ---- the watch hub ---- see hub.c */

struct hub;

/* Collects the events of `prefix` in revisions (after, to]: at most about `max`, whole revisions. *reached is the
 * revision up to which `out` is complete (to, when all were collected). Called on the hub's thread. -ESTALE ends the
 * watch; another error is tried again later. */
typedef int hub_replay_fn(void *arg, const char *prefix, int64_t after, int64_t to, size_t max, struct version_vec *out,
                          int64_t *reached);

struct hub *hub_new(int64_t rev, hub_replay_fn *replay, void *arg);
/* Ends the hub's thread; hub_free also frees the watches. */
void hub_stop(struct hub *h);
void hub_free(struct hub *h);
/* Hands over the events of revisions up to `rev` (a reference to each is taken); never blocks on watchers. `deliver`:
 * hub_deliver follows; else the hub's thread is woken. */
void hub_publish(struct hub *h, struct version *const *items, size_t n, int64_t rev, bool deliver);
/* Gives what was published to the watches, in this thread: the caller of hub_publish with `deliver` owes it, holding no
 * locks. Where that would mean to wait or to read history it is left to the hub's thread. */
void hub_deliver(struct hub *h);
/* Events between what was published and `rev` are not known here any more (they come from replay). */
void hub_skip_to(struct hub *h, int64_t rev);
int64_t hub_rev(struct hub *h);
void hub_watch(struct hub *h, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
               struct store_watch **out);
/* The back end is known to be at `rev`: a progress call asked for from now on waits until that was delivered. */
void hub_note_rev(struct hub *h, int64_t rev);
