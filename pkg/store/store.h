/* The revisioned key-value store under the API server: etcd's model, two back ends.
 *
 * Every write transaction gets the next revision of the whole store; a key remembers the revision that made it
 * (create_rev) and the one that last changed it (mod_rev). Old revisions stay readable until they are compacted.
 * The revision is what the API calls resourceVersion.
 *
 *   sqlite  embedded: one file, WAL, synchronous=FULL. Concurrent transactions share a commit (group commit).
 *   etcd    v3 API through libcurl: gRPC over TLS, the JSON gateway for http:// endpoints.
 *
 * All functions are thread-safe and may block; a write is answered only when it is durable. A store is an instance:
 * several may be open in one process. Errors: -ENOENT, -ESTALE (revision compacted), -ERANGE (revision in the
 * future), -EAGAIN (back end not in reach now; nothing is known to have been written), -ENOSPC, -EIO, -ETIMEDOUT (the
 * outcome of a write is unknown). */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/bytes.h"
#include "pkg/base/err.h"

struct store;
struct store_watch;

struct store_kv {
    const char *key;
    const char *value; /* NUL-terminated */
    size_t value_len;
    int64_t create_rev, mod_rev;
};

struct store_list {
    struct store_kv *items; /* ascending by key */
    size_t n;
    int64_t rev; /* the revision that the list shows */
    bool more;   /* `limit` cut it */
};

enum store_op { STORE_PUT, STORE_DELETE };

/* Who wrote and why: recorded with the revision, for `coracle trace`. */
struct store_cause {
    const char *actor; /* user name */
    int64_t cause_rev; /* the resourceVersion that the writer acted on, 0 unknown */
};

/* One compare-and-set: when the key's mod_rev is `expect_rev` (0: the key is absent; STORE_ANY_REV: whatever) it is
 * put or deleted. Deleting an absent key so succeeds without making a revision. */
#define STORE_ANY_REV (-1)
struct store_txn {
    enum store_op op;
    const char *key;
    const char *value; /* PUT */
    size_t value_len;
    int64_t expect_rev;
    /* May be written back later (Leases, Events of a single server): not durable when answered, and when written back,
     * values replaced in between are left out of the history. etcd ignores it. */
    bool lazy;
    /* PUT with etcd: the key goes by itself this many seconds later, unless it is written again (0: it stays). For what
     * says that somebody is alive. The embedded store, which nobody shares, keeps such keys. */
    int64_t ttl_s;
    struct store_cause cause;
};

struct store_txn_result {
    bool succeeded;
    int64_t rev;          /* of this transaction when it succeeded, else the store's current one */
    struct store_kv prev; /* the key before; .key NULL when it was absent (in the caller's arena) */
};

struct store_options {
    const char *sqlite_path; /* embedded store: path of the file */
    /* etcd: comma-separated endpoints; TLS files may be NULL with http:// */
    const char *etcd_servers, *etcd_ca, *etcd_cert, *etcd_key;
    bool no_fsync;         /* tests only */
    int64_t lazy_flush_ms; /* write-back interval of lazy writes; 0: default of 30 minutes */
};

int store_open(const struct store_options *o, struct store **out, struct err *e);
/* Flushes lazy writes and ends the watches: their callbacks are not called any more when this returns, and their
 * handles are gone. NULL-safe. */
void store_close(struct store *s);

/* One key at revision `rev` (0: current). -ENOENT when absent; *store_rev (may be NULL) is set then too. */
int store_get(struct store *s, struct arena *a, const char *key, int64_t rev, struct store_kv *out, int64_t *store_rev,
              struct err *e);
/* Keys with `prefix`, from `from` on (NULL: the start), at most `limit` (0: all), at `rev` (0: current). */
int store_list(struct store *s, struct arena *a, const char *prefix, const char *from, size_t limit, int64_t rev,
               struct store_list *out, struct err *e);
/* Number of keys with the prefix at `rev` (0: current), from `from` on. */
int store_count(struct store *s, const char *prefix, const char *from, int64_t rev, int64_t *out, struct err *e);
int store_txn(struct store *s, struct arena *a, const struct store_txn *t, struct store_txn_result *out, struct err *e);
/* The current revision, read linearizably: at least that of every write answered before the call. With etcd this asks the
 * quorum; callers that come while a question is under way share the next one. */
int store_current_rev(struct store *s, int64_t *out, struct err *e);
/* Drops history before `rev`; later reads and watches below it give -ESTALE. -ESTALE when it was compacted already. */
int store_compact(struct store *s, int64_t rev, struct err *e);
/* Brings the current revision to at least `rev`, so that a store can take the place of one that had come so far. Not
 * while others write. etcd can only count: that takes a write a revision, some thousands a second. */
int store_advance(struct store *s, int64_t rev, struct err *e);
/* Writes a consistent copy (sqlite: a database file) to `path`. -ENOTSUP with etcd. */
int store_snapshot(struct store *s, const char *path, struct err *e);
/* Bytes on disk, 0 when unknown. */
int64_t store_size(struct store *s);

struct store_event {
    enum store_op op;
    const char *key;
    const char *value; /* new value, or for a delete the last one (may be NULL when it was compacted) */
    size_t value_len;
    const char *prev_value; /* before the event, NULL when the key was absent or the value is gone */
    size_t prev_len;
    int64_t create_rev, mod_rev; /* mod_rev: of this event, for a delete too */
};

/* Called on a thread of the store or on one that is in store_txn: it must be quick, and must not call store_txn or
 * store_compact. Events in revision order, never concurrently for one watch. `n` events of whole
 * revisions at a time. n == 0: progress, everything up to `rev` has been delivered. `error` is 0, or the negative code
 * with which the watch ended (-ESTALE: compacted; others: the back end is gone for good); then n is 0 and no further
 * call follows. Pointers are valid during the call. The callback must not call store_watch_cancel. */
typedef void store_watch_fn(void *arg, const struct store_event *events, size_t n, int64_t rev, int error);

/* Events of keys with `prefix` after revision `after_rev`: replays history first, then follows. Broken connections to
 * etcd are mended inside, without a gap. */
int store_watch(struct store *s, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
                struct store_watch **out, struct err *e);
/* Asks for a progress call soon. */
void store_watch_progress(struct store_watch *w);
/* When this returns the callback neither runs nor will run. NULL-safe. */
void store_watch_cancel(struct store_watch *w);

/* The recorded cause of a revision: 0, or -ENOENT (with etcd always: a second key with each write would double them). */
struct store_cause_record {
    int64_t rev, cause_rev, unix_ns;
    const char *actor, *key; /* in the arena */
};
int store_cause(struct store *s, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e);
