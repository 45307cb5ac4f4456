/* The sqlite back end's inner interface; the essay is in sqlite.c. */
#pragma once

#include <pthread.h>
#include <semaphore.h>
#include <sqlite3.h>

#include "pkg/base/map.h"
#include "pkg/store/internal.h"

enum {
    SQ_READERS = 4,              /* read connections */
    SQ_BATCH = 512,              /* transactions of one commit */
    SQ_RESERVE = 100000,         /* revisions reserved at once for lazy writes */
    SQ_LAZY_MAX_BYTES = 4 << 20, /* lazy writes in memory; beyond, they are flushed at once */
    SQ_LAZY_MAX = 20000,
    SQ_COMPACT_WINDOW = 2000,   /* revisions compacted in one sqlite transaction */
    SQ_CHECKPOINT_PAGES = 4000, /* WAL size that starts a checkpoint: 16 MB */
};
#define SQ_LAZY_FLUSH_MS INT64_C(1800000) /* rarely: flash wears, and any durable commit takes them along */

/* ---- lazy writes in memory ---- lazy.c; guarded by sq.lock */

struct lazy {
    struct version_vec items; /* ascending by rev */
    struct map newest;        /* key -> newest version of it in items */
    size_t bytes;
};

void lazy_add(struct lazy *l, struct version *v); /* takes the reference */
/* Newest version of the key with rev <= `rev`, or NULL. */
struct version *lazy_find(struct lazy *l, const char *key, int64_t rev);
/* For every key with the prefix, from `from` on: its newest version with rev <= `rev`, ascending by key. */
void lazy_collect(struct lazy *l, const char *prefix, const char *from, int64_t rev, struct version_vec *out);
void lazy_clear(struct lazy *l);

/* ---- the store ---- */

enum { ST_BEGIN, ST_COMMIT, ST_ROLLBACK, ST_CURRENT, ST_INSERT, ST_META, ST_DROP_OLD, ST_DROP_DEAD, ST_N };

enum sq_kind { SQ_TXN, SQ_FLUSH, SQ_COMPACT, SQ_ADVANCE };

/* A caller waiting for a commit; lives on the caller's stack. */
struct sq_request {
    enum sq_kind kind;
    struct arena *arena;
    const struct store_txn *txn;
    struct store_txn_result *out;
    int64_t rev; /* COMPACT, ADVANCE */
    int code;
    struct version *made;
    sem_t done;
    struct sq_request *next;
};

struct sq_reader {
    sqlite3 *db;
    sqlite3_stmt *get, *keys, *row, *count, *history, *cause;
    struct sq_reader *next;
};

struct sq {
    struct store base;
    char *path;
    int lock_fd;
    int64_t flush_ns;
    bool no_fsync;

    /* of the thread that has set `busy` */
    sqlite3 *db;
    sqlite3_stmt *st[ST_N];
    int64_t reserved_rev; /* durably reserved: lazy writes may use revisions up to here */
    int64_t compact_done; /* history up to here has been dropped */
    bool failed;          /* an I/O error left the file in doubt: no more writes until it is opened again */
    pthread_t committer;

    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping;
    bool busy;        /* a thread is committing */
    bool parked;      /* the committer waits for that thread to end */
    bool compact_due; /* the committer is to look for history to drop */
    struct sq_request *head, **tail;
    int64_t visible_rev; /* what readers see */
    int64_t durable_rev; /* all revisions up to here are in the file, the later ones in `lazy` */
    struct lazy lazy;
    int64_t flush_at; /* mono_ns when lazy writes go to the file; 0: there are none */
    _Atomic int64_t compact_rev;

    struct hub *hub;

    pthread_mutex_t readers_lock;
    pthread_cond_t readers_wake;
    struct sq_reader *readers_free;
    unsigned n_readers;
};

/* Turns a sqlite result into an error code: -ENOSPC, -ENOMEM, -EIO. */
int sq_error(sqlite3 *db, int rc, struct err *e, const char *what);
int sq_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out, struct err *e);
/* Opens a connection with the settings that all share. */
int sq_connect(struct sq *s, bool writer, sqlite3 **out, struct err *e);

/* sqlite_commit.c */
int sq_commit_init(struct sq *s, struct err *e);
void *sq_commit_main(void *arg);
void sq_commit_done(struct sq *s);
int sq_submit(struct sq *s, struct sq_request *q);
int sq_txn(struct store *st, struct arena *a, const struct store_txn *t, struct store_txn_result *out, struct err *e);
int sq_compact(struct store *st, int64_t rev, struct err *e);
int sq_advance(struct store *st, int64_t rev, struct err *e);

/* sqlite_read.c */
void sq_readers_close(struct sq *s);
int sq_get(struct store *st, struct arena *a, const char *key, int64_t rev, struct store_kv *out, int64_t *store_rev,
           struct err *e);
int sq_list(struct store *st, struct arena *a, const char *prefix, const char *from, size_t limit, int64_t rev,
            struct store_list *out, struct err *e);
int sq_count(struct store *st, const char *prefix, const char *from, int64_t rev, int64_t *out, struct err *e);
int sq_cause(struct store *st, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e);
int sq_snapshot(struct store *st, const char *path, struct err *e);
int sq_replay(void *arg, const char *prefix, int64_t after, int64_t to, size_t max, struct version_vec *out,
              int64_t *reached);
