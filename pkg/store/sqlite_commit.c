/* Committing: writing the sqlite file. See sqlite.c for the whole picture.
 *
 * One thread at a time commits, the one that has set `busy`. A caller that finds nobody at it takes what waits (usually
 * its own request alone) and commits itself, which spares a lone writer two thread switches. What gathers meanwhile is
 * the committer thread's: under load it runs batch after batch. Flushes and compaction are always its work.
 *
 * A batch is evaluated in order, each transaction against the outcome of those before it. When at least one of them
 * must be durable the batch is one sqlite transaction that first writes the waiting lazy writes; when it fails, none
 * of its revisions was seen by anybody and they are given out again. A commit that fails with an I/O error leaves it
 * open whether the file has the batch, so the store refuses further writes until it is opened again. */
#include <time.h>

#include "pkg/base/ktime.h"
#include "pkg/store/sqlite.h"

static const char *const st_sql[ST_N] = {
    [ST_BEGIN] = "BEGIN IMMEDIATE",
    [ST_COMMIT] = "COMMIT",
    [ST_ROLLBACK] = "ROLLBACK",
    [ST_CURRENT] = "SELECT rev,create_rev,deleted,value FROM kv WHERE key=? ORDER BY rev DESC LIMIT 1",
    [ST_INSERT] = "INSERT INTO kv(rev,key,create_rev,prev,deleted,actor,cause_rev,ns,value) VALUES(?,?,?,?,?,?,?,?,?)",
    [ST_META] = "UPDATE meta SET value=?2 WHERE name=?1",
    [ST_DROP_OLD] = "DELETE FROM kv WHERE rev IN (SELECT prev FROM kv WHERE rev>?1 AND rev<=?2 AND prev>0)",
    [ST_DROP_DEAD] = "DELETE FROM kv WHERE rev>?1 AND rev<=?2 AND deleted=1",
};

int sq_commit_init(struct sq *s, struct err *e) {
    for (int i = 0; i < ST_N; i++) {
        int r = sq_prepare(s->db, st_sql[i], &s->st[i], e);
        if (r < 0) return r;
    }
    return 0;
}

void sq_commit_done(struct sq *s) {
    for (int i = 0; i < ST_N; i++) sqlite3_finalize(s->st[i]);
}

/* Steps a statement that gives no rows and makes it ready for the next use. */
static int exec(struct sq *s, int which) {
    int rc = sqlite3_step(s->st[which]);
    int r = rc == SQLITE_DONE || rc == SQLITE_ROW ? 0 : sq_error(s->db, rc, NULL, st_sql[which]);
    sqlite3_reset(s->st[which]);
    return r;
}

static int meta_set(struct sq *s, const char *name, int64_t value) {
    sqlite3_bind_text(s->st[ST_META], 1, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(s->st[ST_META], 2, value);
    return exec(s, ST_META);
}

static int row_insert(struct sq *s, const struct version *v) {
    sqlite3_stmt *st = s->st[ST_INSERT];
    sqlite3_bind_int64(st, 1, v->rev);
    sqlite3_bind_text(st, 2, v->key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 3, v->create_rev);
    sqlite3_bind_int64(st, 4, v->prev_rev);
    sqlite3_bind_int(st, 5, v->deleted);
    sqlite3_bind_text(st, 6, v->actor, -1, SQLITE_STATIC);
    sqlite3_bind_int64(st, 7, v->cause_rev);
    sqlite3_bind_int64(st, 8, v->unix_ns);
    if (v->deleted || !v->value)
        sqlite3_bind_null(st, 9);
    else
        sqlite3_bind_blob(st, 9, v->value->data, (int)v->value->len, SQLITE_STATIC);
    int r = exec(s, ST_INSERT);
    sqlite3_clear_bindings(st);
    return r;
}

/* Writes the lazy versions, leaving out updates that a later one has replaced: the next version of the key then
 * follows on the row before them. */
static int lazy_write(struct sq *s) {
    for (size_t i = 0; i < s->lazy.items.n; i++) {
        struct version *v = s->lazy.items.items[i];
        if (v->newer && !v->deleted && v->create_rev != v->rev) {
            v->newer->prev_rev = v->prev_rev;
            continue;
        }
        int r = row_insert(s, v);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- one transaction ---- */

struct current {
    int64_t row_rev;         /* newest row, a tombstone too; 0: none */
    int64_t rev, create_rev; /* of the live key; 0: absent */
    struct rbytes *value;
};

static void current_done(struct current *c) { rbytes_unref(c->value); }

static int current_from_file(struct sq *s, const char *key, struct current *c) {
    sqlite3_stmt *st = s->st[ST_CURRENT];
    sqlite3_bind_text(st, 1, key, -1, SQLITE_STATIC);
    int rc = sqlite3_step(st), r = 0;
    if (rc == SQLITE_ROW) {
        c->row_rev = sqlite3_column_int64(st, 0);
        if (!sqlite3_column_int(st, 2)) {
            c->rev = c->row_rev;
            c->create_rev = sqlite3_column_int64(st, 1);
            const void *p = sqlite3_column_blob(st, 3);
            c->value = rbytes_new(p ? p : "", (size_t)sqlite3_column_bytes(st, 3));
        }
    } else if (rc != SQLITE_DONE) {
        r = sq_error(s->db, rc, NULL, "read");
    }
    sqlite3_reset(st);
    return r;
}

static int current_find(struct sq *s, bool in_file, const char *key, struct current *c) {
    struct version *v = in_file ? NULL : lazy_find(&s->lazy, key, INT64_MAX);
    if (!v) return current_from_file(s, key, c);
    c->row_rev = v->rev;
    if (v->deleted) return 0;
    c->rev = v->rev;
    c->create_rev = v->create_rev;
    c->value = rbytes_ref(v->value);
    return 0;
}

static struct version *version_make(const struct store_txn *t, const struct current *c, int64_t rev) {
    struct version *v = version_new(t->key, strlen(t->key));
    v->deleted = t->op == STORE_DELETE;
    v->rev = rev;
    v->create_rev = c->rev ? c->create_rev : rev;
    v->prev_rev = c->row_rev;
    if (c->value) v->prev = rbytes_ref(c->value);
    v->value = v->deleted ? rbytes_ref(c->value) : rbytes_new(t->value ? t->value : "", t->value_len);
    v->actor = t->cause.actor ? xstrdup(t->cause.actor) : NULL;
    v->cause_rev = t->cause.cause_rev;
    v->unix_ns = ktime_unix_ns(ktime_now());
    return v;
}

/* Evaluates one compare-and-set against the file (`in_file`: lazy writes are in it already) or lazy writes and file.
 * *last is the newest revision given out. */
static int txn_eval(struct sq *s, bool in_file, struct sq_request *q, int64_t *last) {
    const struct store_txn *t = q->txn;
    _cleanup_(current_done) struct current c = {0};
    int r = current_find(s, in_file, t->key, &c);
    if (r < 0) return r;
    if (c.rev) {
        q->out->prev = (struct store_kv){.key = arena_strdup(q->arena, t->key),
                                         .value = arena_strndup(q->arena, c.value->data, c.value->len),
                                         .value_len = c.value->len,
                                         .create_rev = c.create_rev,
                                         .mod_rev = c.rev};
    }
    q->out->succeeded = t->expect_rev == STORE_ANY_REV || t->expect_rev == c.rev;
    if (q->out->succeeded && (t->op == STORE_PUT || c.rev)) {
        q->made = version_make(t, &c, *last + 1);
        if (in_file && (r = row_insert(s, q->made)) < 0) return r;
        *last += 1;
        if (!in_file) {
            pthread_mutex_lock(&s->lock);
            lazy_add(&s->lazy, version_ref(q->made));
            pthread_mutex_unlock(&s->lock);
        }
    }
    q->out->rev = *last;
    return 0;
}

/* ---- batches ---- */

static void publish(struct sq *s, struct sq_request *batch, int64_t last, bool durable) {
    struct version *made[SQ_BATCH];
    size_t n = 0;
    for (struct sq_request *q = batch; q; q = q->next)
        if (q->made) made[n++] = q->made;
    pthread_mutex_lock(&s->lock);
    s->visible_rev = last;
    if (durable) {
        s->durable_rev = last;
        lazy_clear(&s->lazy);
        s->flush_at = 0;
    } else if (!s->flush_at && s->lazy.items.n) {
        s->flush_at = mono_ns() + s->flush_ns;
    }
    hub_publish(s->hub, made, n, last, true);
    pthread_mutex_unlock(&s->lock);
    hub_deliver(s->hub);
}

/* Only notes the revision; the rows go in compact_step. Idle clusters compact without touching the disk. */
static int compact_begin(struct sq *s, int64_t rev) {
    if (rev > s->visible_rev) return -ERANGE;
    if (rev <= atomic_load(&s->compact_rev)) return -ESTALE;
    atomic_store(&s->compact_rev, rev);
    return 0;
}

/* Revisions up to `rev` count as given out: as after a crash, the next one lies above what is reserved. */
static int advance(struct sq *s, int64_t rev) {
    int r = s->failed ? -EIO : rev > s->visible_rev ? meta_set(s, "reserved_rev", rev) : 0;
    if (r < 0 || rev <= s->visible_rev) return r;
    pthread_mutex_lock(&s->lock);
    s->reserved_rev = s->visible_rev = s->durable_rev = rev;
    hub_publish(s->hub, NULL, 0, rev, false);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int durable_batch(struct sq *s, struct sq_request *batch, int64_t *last) {
    int r = exec(s, ST_BEGIN);
    if (r < 0) return r;
    r = lazy_write(s);
    for (struct sq_request *q = batch; q && r == 0; q = q->next)
        if (q->kind == SQ_TXN) r = txn_eval(s, true, q, last);
    if (r == 0 && (r = exec(s, ST_COMMIT)) < 0) s->failed = r != -ENOSPC && r != -ENOMEM;
    if (r < 0 && !sqlite3_get_autocommit(s->db)) exec(s, ST_ROLLBACK);
    return r;
}

static int lazy_batch(struct sq *s, struct sq_request *batch, int64_t *last) {
    if (*last + SQ_BATCH > s->reserved_rev) {
        int r = meta_set(s, "reserved_rev", *last + SQ_RESERVE);
        if (r < 0) return r;
        s->reserved_rev = *last + SQ_RESERVE;
    }
    for (struct sq_request *q = batch; q; q = q->next) {
        /* One that fails was not written; the others stand. */
        if (q->kind == SQ_TXN) q->code = txn_eval(s, false, q, last);
    }
    return 0;
}

static bool must_be_durable(struct sq *s, const struct sq_request *batch) {
    for (const struct sq_request *q = batch; q; q = q->next)
        if (q->kind == SQ_FLUSH || q->kind == SQ_ADVANCE || (q->kind == SQ_TXN && !q->txn->lazy)) return true;
    return s->lazy.bytes > SQ_LAZY_MAX_BYTES || s->lazy.items.n > SQ_LAZY_MAX;
}

static void batch_run(struct sq *s, struct sq_request *batch, bool flush) {
    int64_t last = s->visible_rev;
    bool durable = flush || must_be_durable(s, batch);
    int r = s->failed ? -EIO : durable ? durable_batch(s, batch, &last) : lazy_batch(s, batch, &last);
    if (r == 0) publish(s, batch, last, durable);
    while (batch) {
        struct sq_request *q = batch;
        batch = q->next;
        version_unref(q->made);
        q->made = NULL;
        if (r < 0)
            q->code = r;
        else if (q->kind == SQ_COMPACT)
            q->code = compact_begin(s, q->rev);
        else if (q->kind == SQ_ADVANCE)
            q->code = advance(s, q->rev);
        sem_post(&q->done);
    }
}

/* Drops one window of compacted history, and records that in the same sqlite transaction. A window in which nothing
 * was to drop is not worth a write. True when there is more to do. */
static bool compact_step(struct sq *s) {
    int64_t target = MIN_OF(atomic_load(&s->compact_rev), s->durable_rev), dropped = 0;
    if (s->failed || s->compact_done >= target) return false;
    int64_t from = s->compact_done, to = MIN_OF(target, from + SQ_COMPACT_WINDOW);
    if (exec(s, ST_BEGIN) < 0) return false;
    int r = 0;
    for (int i = ST_DROP_OLD; i <= ST_DROP_DEAD && r == 0; i++) {
        sqlite3_bind_int64(s->st[i], 1, from);
        sqlite3_bind_int64(s->st[i], 2, to);
        r = exec(s, i);
        dropped += sqlite3_changes64(s->db);
    }
    if (r == 0 && dropped) {
        r = meta_set(s, "compact_rev", target);
        if (r == 0) r = meta_set(s, "compact_done", to);
        if (r == 0) r = exec(s, ST_COMMIT);
    }
    if (!sqlite3_get_autocommit(s->db)) exec(s, ST_ROLLBACK);
    if (r < 0) return false;
    s->compact_done = to;
    return to < target;
}

static void wait_for_work(struct sq *s) {
    if (!s->flush_at) {
        pthread_cond_wait(&s->wake, &s->lock);
        return;
    }
    struct timespec ts = {.tv_sec = s->flush_at / NS_PER_SEC, .tv_nsec = s->flush_at % NS_PER_SEC};
    pthread_cond_timedwait(&s->wake, &s->lock, &ts);
}

/* Takes up to SQ_BATCH waiting requests; lock held. */
static struct sq_request *batch_take(struct sq *s) {
    struct sq_request *first = s->head, **end = &first;
    for (int n = 0; *end && n < SQ_BATCH; n++) end = &(*end)->next;
    s->head = *end;
    if (!s->head) s->tail = &s->head;
    *end = NULL;
    return first;
}

void *sq_commit_main(void *arg) {
    struct sq *s = arg;
    bool compacting = s->compact_done < atomic_load(&s->compact_rev);
    pthread_mutex_lock(&s->lock);
    for (;;) {
        if (s->busy) { /* without a deadline, so whoever is busy has to call */
            s->parked = true;
            pthread_cond_wait(&s->wake, &s->lock);
            s->parked = false;
            continue;
        }
        bool due = s->flush_at && mono_ns() >= s->flush_at;
        compacting |= s->compact_due;
        if (!s->head && !due && !compacting) {
            if (s->stopping) break;
            wait_for_work(s);
            continue;
        }
        struct sq_request *batch = batch_take(s);
        s->busy = true;
        s->compact_due = false;
        pthread_mutex_unlock(&s->lock);
        if (batch || due) batch_run(s, batch, due);
        compacting = compact_step(s);
        pthread_mutex_lock(&s->lock);
        s->busy = false;
        if (due && s->flush_at) s->flush_at = mono_ns() + s->flush_ns; /* it failed: try again later */
        if (s->stopping && !s->head) compacting = false;               /* goes on at the next start */
    }
    pthread_mutex_unlock(&s->lock);
    if (s->lazy.items.n) batch_run(s, NULL, true);
    /* A clean end takes the reservation back, so that revisions go on without a jump. */
    if (!s->failed && !s->lazy.items.n && s->reserved_rev > s->durable_rev) meta_set(s, "reserved_rev", s->durable_rev);
    return NULL;
}

/* ---- callers ---- */

/* Commits what waits; lock held, and nobody is at it. Wakes the committer when there is something left for it. */
static void lead(struct sq *s) {
    struct sq_request *batch = batch_take(s);
    bool had_lazy = s->flush_at != 0;
    s->busy = true;
    pthread_mutex_unlock(&s->lock);
    batch_run(s, batch, false);
    pthread_mutex_lock(&s->lock);
    s->busy = false;
    s->compact_due |= s->compact_done < MIN_OF(atomic_load(&s->compact_rev), s->durable_rev);
    bool deadline = !had_lazy && s->flush_at;
    if (s->head || s->compact_due || s->stopping || deadline || s->parked) pthread_cond_signal(&s->wake);
}

int sq_submit(struct sq *s, struct sq_request *q) {
    sem_init(&q->done, 0, 0);
    pthread_mutex_lock(&s->lock);
    *s->tail = q;
    s->tail = &q->next;
    if (!s->busy) lead(s);
    pthread_mutex_unlock(&s->lock);
    while (sem_wait(&q->done) < 0) continue;
    sem_destroy(&q->done);
    return q->code;
}

int sq_txn(struct store *st, struct arena *a, const struct store_txn *t, struct store_txn_result *out, struct err *e) {
    struct sq_request q = {.kind = SQ_TXN, .arena = a, .txn = t, .out = out};
    int r = sq_submit((struct sq *)st, &q);
    if (r == -ENOSPC) return err_set(e, r, "store: no space left on the device");
    return r < 0 ? err_set(e, r, "store: cannot write the database") : 0;
}

int sq_compact(struct store *st, int64_t rev, struct err *e) {
    struct sq_request q = {.kind = SQ_COMPACT, .rev = rev};
    int r = sq_submit((struct sq *)st, &q);
    if (r == -ESTALE) return err_set(e, r, "store: revision %lld has been compacted already", (long long)rev);
    if (r == -ERANGE) return err_set(e, r, "store: revision %lld is in the future", (long long)rev);
    return r < 0 ? err_set(e, r, "store: cannot compact the database") : 0;
}

int sq_advance(struct store *st, int64_t rev, struct err *e) {
    struct sq_request q = {.kind = SQ_ADVANCE, .rev = rev};
    int r = sq_submit((struct sq *)st, &q);
    return r < 0 ? err_set(e, r, "store: cannot write the database") : 0;
}
