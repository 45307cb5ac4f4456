/* The sqlite back end: the whole store in one file.
 *
 * Table `kv` has a row for every revision: its key, the value (NULL for a delete), the row before it of the same key,
 * and who wrote it. The row id is the revision, so history is the table in order; the index on key (which carries the
 * row id) finds a key's newest row up to any revision. Compaction deletes rows that a newer row up to the compaction
 * revision has replaced. Table `meta` has the format version, compact_rev and reserved_rev.
 *
 * One thread at a time writes (sqlite_commit.c). Callers queue their transactions and wait; the thread that commits
 * takes all that wait into one sqlite transaction, whose commit is one fsync of the WAL (synchronous=FULL). Only then
 * the revisions become visible to readers and to watches, and the callers are answered. While it waits for the disk
 * the next batch gathers: group commit without a timer.
 *
 * Lazy writes (lazy.c) get revisions and events like all others but stay in memory. Any durable commit takes them
 * along, before its own rows, so the file always holds a prefix of history. When they are written, a value that was
 * replaced while in memory is left out; creations and deletions never are. After a crash their revisions must not come
 * again: reserved_rev is raised durably, a large step at a time, before a lazy write uses revisions beyond it, and
 * opening starts above it.
 *
 * Readers have connections of their own (sqlite_read.c); WAL lets them run beside the committer. A read at revision R
 * looks at lazy writes up to R, and in the file at rows up to R that were durable when it began.
 *
 * Another process is kept out by a lock on PATH.lock; sqlite's own locks would let two writers interleave. Reading the
 * file with the sqlite3 program is fine at any time. Not done: vacuum (freed pages are used again). Upstream's
 * counterpart is etcd's mvcc package, and k3s' kine. */
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "pkg/base/ktime.h"
#include "pkg/store/sqlite.h"

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS kv( rev INTEGER PRIMARY KEY, key TEXT NOT NULL, create_rev INTEGER NOT NULL, prev "
    "INTEGER NOT NULL, deleted INTEGER NOT NULL, actor TEXT, cause_rev INTEGER NOT NULL, ns INTEGER NOT NULL, value "
    "BLOB);CREATE INDEX IF NOT EXISTS kv_key ON kv(key);CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value "
    "INTEGER NOT NULL) WITHOUT ROWID;INSERT OR IGNORE INTO meta VALUES('format',1),('compact_rev',0),('compact_done',"
    "0),('reserved_rev',0);";

int sq_error(sqlite3 *db, int rc, struct err *e, const char *what) {
    int code = rc == SQLITE_FULL ? -ENOSPC : rc == SQLITE_NOMEM ? -ENOMEM : -EIO;
    return err_set(e, code, "store: %s: %s", what, db ? sqlite3_errmsg(db) : sqlite3_errstr(rc));
}

int sq_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **out, struct err *e) {
    int rc = sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    return rc == SQLITE_OK ? 0 : sq_error(db, rc, e, sql);
}

static int run(sqlite3 *db, const char *sql, struct err *e) {
    int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : sq_error(db, rc, e, sql);
}

int sq_connect(struct sq *s, bool writer, sqlite3 **out, struct err *e) {
    int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE | (writer ? SQLITE_OPEN_CREATE : 0);
    int rc = sqlite3_open_v2(s->path, out, flags, NULL);
    if (rc != SQLITE_OK) {
        int r = sq_error(*out, rc, e, s->path);
        sqlite3_close(*out);
        *out = NULL;
        return r;
    }
    sqlite3_busy_timeout(*out, 10000);
    char sql[200];
    snprintf(sql, sizeof(sql),
             "PRAGMA synchronous=%s; PRAGMA cache_size=-%d; PRAGMA temp_store=MEMORY; PRAGMA query_only=%d;",
             s->no_fsync ? "OFF" : "FULL", writer ? 2000 : 400, !writer);
    return run(*out, sql, e);
}

static int meta_read(sqlite3 *db, const char *sql, int64_t *out, struct err *e) {
    sqlite3_stmt *st;
    int r = sq_prepare(db, sql, &st, e);
    if (r < 0) return r;
    int rc = sqlite3_step(st);
    if (rc == SQLITE_ROW)
        *out = sqlite3_column_int64(st, 0);
    else
        r = sq_error(db, rc, e, sql);
    sqlite3_finalize(st);
    return r;
}

/* Takes the lock that keeps a second process (or a second store of this one) from the file. */
static int lock_file(struct sq *s, struct err *e) {
    _cleanup_free_ char *path = xasprintf("%s.lock", s->path);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0) return err_errno(e, errno, "store: %s", path);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(e, -EBUSY, "store: %s is in use by another process", s->path);
    return 0;
}

static int open_file(struct sq *s, struct err *e) {
    int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* sqlite would make it world-readable */
    if (fd < 0) return err_errno(e, errno, "store: %s", s->path);
    close(fd);
    int r = lock_file(s, e);
    if (r < 0 || (r = sq_connect(s, true, &s->db, e)) < 0) return r;
    char sql[120];
    snprintf(sql, sizeof(sql), "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=%d;", SQ_CHECKPOINT_PAGES);
    if ((r = run(s->db, sql, e)) < 0 || (r = run(s->db, schema, e)) < 0) return r;
    int64_t format = 0, newest = 0, compact = 0;
    if ((r = meta_read(s->db, "SELECT value FROM meta WHERE name='format'", &format, e)) < 0) return r;
    if (format != 1) return err_set(e, -EINVAL, "store: %s has format %lld, not 1", s->path, (long long)format);
    if ((r = meta_read(s->db, "SELECT coalesce(max(rev),0) FROM kv", &newest, e)) < 0 ||
        (r = meta_read(s->db, "SELECT value FROM meta WHERE name='compact_rev'", &compact, e)) < 0 ||
        (r = meta_read(s->db, "SELECT value FROM meta WHERE name='compact_done'", &s->compact_done, e)) < 0 ||
        (r = meta_read(s->db, "SELECT value FROM meta WHERE name='reserved_rev'", &s->reserved_rev, e)) < 0)
        return r;
    atomic_store(&s->compact_rev, compact);
    s->visible_rev = s->durable_rev = MAX_OF(MAX_OF(newest, compact), MAX_OF(s->reserved_rev, 1));
    return 0;
}

static void sq_free(struct sq *s) {
    hub_free(s->hub);
    sq_readers_close(s);
    sq_commit_done(s);
    sqlite3_close(s->db);
    lazy_clear(&s->lazy);
    if (s->lock_fd >= 0) close(s->lock_fd);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->readers_lock);
    pthread_cond_destroy(&s->readers_wake);
    free(s->path);
    free(s);
}

static void sq_close(struct store *st) {
    struct sq *s = (struct sq *)st;
    hub_stop(s->hub);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->committer, NULL);
    sq_free(s);
}

static int sq_current_rev(struct store *st, int64_t *out, struct err *e) {
    struct sq *s = (struct sq *)st;
    pthread_mutex_lock(&s->lock);
    *out = s->visible_rev;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int64_t sq_size(struct store *st) {
    struct sq *s = (struct sq *)st;
    _cleanup_free_ char *wal = xasprintf("%s-wal", s->path);
    struct stat x;
    int64_t n = stat(s->path, &x) == 0 ? x.st_size : 0;
    return n + (stat(wal, &x) == 0 ? x.st_size : 0);
}

static int sq_watch(struct store *st, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
                    struct store_watch **out, struct err *e) {
    struct sq *s = (struct sq *)st;
    int64_t compact = atomic_load(&s->compact_rev);
    if (after_rev < compact)
        return err_set(e, -ESTALE, "store: history before revision %lld has been compacted", (long long)compact);
    hub_watch(s->hub, prefix, after_rev, fn, arg, out);
    return 0;
}

static const struct store_backend sqlite_backend = {
    .close = sq_close,
    .get = sq_get,
    .list = sq_list,
    .count = sq_count,
    .txn = sq_txn,
    .current_rev = sq_current_rev,
    .compact = sq_compact,
    .advance = sq_advance,
    .snapshot = sq_snapshot,
    .size = sq_size,
    .watch = sq_watch,
    .cause = sq_cause,
};

int store_sqlite_open(const struct store_options *o, struct store **out, struct err *e) {
    struct sq *s = xcalloc(1, sizeof(*s));
    s->base.backend = &sqlite_backend;
    s->path = xstrdup(o->sqlite_path);
    s->lock_fd = -1;
    s->no_fsync = o->no_fsync;
    s->flush_ns = (o->lazy_flush_ms ? o->lazy_flush_ms : SQ_LAZY_FLUSH_MS) * NS_PER_MS;
    s->tail = &s->head;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t ca;
    pthread_condattr_init(&ca);
    pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &ca);
    pthread_condattr_destroy(&ca);
    pthread_mutex_init(&s->readers_lock, NULL);
    pthread_cond_init(&s->readers_wake, NULL);
    int r = open_file(s, e);
    if (r == 0) r = sq_commit_init(s, e);
    if (r < 0) {
        sq_free(s);
        return r;
    }
    s->hub = hub_new(s->visible_rev, sq_replay, s);
    if (pthread_create(&s->committer, NULL, sq_commit_main, s) != 0) abort();
    *out = &s->base;
    return 0;
}
