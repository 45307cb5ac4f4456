/* Reads of the sqlite back end, on connections beside the committer's.
 *
 * A read decides under the store's lock which revision R it shows and takes the lazy writes up to R; the rest comes
 * from rows of the file up to min(R, durable_rev), which only compaction can change. So a read whose revision turns out
 * to lie below compact_rev at its end is refused or, when it asked for the current state, done again. */
#include <fcntl.h>

#include "pkg/store/sqlite.h"

static void reader_free(struct sq_reader *r) {
    sqlite3_stmt *all[] = {r->get, r->keys, r->row, r->count, r->history, r->cause};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) sqlite3_finalize(all[i]);
    sqlite3_close(r->db);
    free(r);
}

void sq_readers_close(struct sq *s) {
    while (s->readers_free) {
        struct sq_reader *r = s->readers_free;
        s->readers_free = r->next;
        reader_free(r);
    }
}

static int reader_new(struct sq *s, struct sq_reader **out, struct err *e) {
    struct sq_reader *r = xcalloc(1, sizeof(*r));
    const struct {
        sqlite3_stmt **st;
        const char *sql;
    } all[] = {
        {&r->get, "SELECT rev,create_rev,deleted,value FROM kv WHERE key=?1 AND rev<=?2 ORDER BY rev DESC LIMIT 1"},
        {&r->keys,
         "SELECT key,max(rev) FROM kv WHERE key>=?1 AND (?2 IS NULL OR key<?2) AND rev<=?3 GROUP BY key ORDER BY key"},
        {&r->row, "SELECT create_rev,deleted,value FROM kv WHERE rev=?1"},
        {&r->count, "SELECT deleted FROM kv WHERE rev=?1"},
        {&r->history,
         "SELECT v.rev,v.key,v.create_rev,v.deleted,v.value,p.value FROM kv v LEFT JOIN kv p ON p.rev=v.prev WHERE "
         "v.rev>?1 AND v.rev<=?2 ORDER BY v.rev"},
        {&r->cause, "SELECT key,actor,cause_rev,ns FROM kv WHERE rev=?1"},
    };
    int rc = sq_connect(s, false, &r->db, e);
    for (size_t i = 0; i < ARRAY_LEN(all) && rc == 0; i++) rc = sq_prepare(r->db, all[i].sql, all[i].st, e);
    if (rc < 0) {
        reader_free(r);
        return rc;
    }
    *out = r;
    return 0;
}

/* A free connection; opens one while there are fewer than SQ_READERS, else waits. */
static int reader_get(struct sq *s, struct sq_reader **out, struct err *e) {
    pthread_mutex_lock(&s->readers_lock);
    while (!s->readers_free && s->n_readers >= SQ_READERS) pthread_cond_wait(&s->readers_wake, &s->readers_lock);
    struct sq_reader *r = s->readers_free;
    if (r) s->readers_free = r->next;
    if (!r) s->n_readers++;
    pthread_mutex_unlock(&s->readers_lock);
    *out = r;
    if (r) return 0;
    int rc = reader_new(s, out, e);
    if (rc < 0) {
        pthread_mutex_lock(&s->readers_lock);
        s->n_readers--;
        pthread_cond_signal(&s->readers_wake);
        pthread_mutex_unlock(&s->readers_lock);
    }
    return rc;
}

static void reader_put(struct sq *s, struct sq_reader *r) {
    pthread_mutex_lock(&s->readers_lock);
    r->next = s->readers_free;
    s->readers_free = r;
    pthread_cond_signal(&s->readers_wake);
    pthread_mutex_unlock(&s->readers_lock);
}

static int stale(struct sq *s, struct err *e) {
    return err_set(e, -ESTALE, "store: history before revision %lld has been compacted",
                   (long long)atomic_load(&s->compact_rev));
}

/* Which revision a read shows. Returns with the lock held on success, so that the caller can look at lazy writes. */
static int read_begin(struct sq *s, int64_t rev, int64_t *shown, int64_t *in_file, struct err *e) {
    if (rev && rev < atomic_load(&s->compact_rev)) return stale(s, e);
    pthread_mutex_lock(&s->lock);
    if (rev > s->visible_rev) {
        long long now = s->visible_rev;
        pthread_mutex_unlock(&s->lock);
        return err_set(e, -ERANGE, "store: revision %lld is in the future (now %lld)", (long long)rev, now);
    }
    *shown = rev ? rev : s->visible_rev;
    *in_file = MIN_OF(*shown, s->durable_rev);
    return 0;
}

static const char *column_value(struct arena *a, sqlite3_stmt *st, int i, size_t *n) {
    const void *p = sqlite3_column_blob(st, i);
    *n = (size_t)sqlite3_column_bytes(st, i);
    return arena_strndup(a, p ? p : "", *n);
}

static int get_row(struct sq_reader *r, struct arena *a, const char *key, int64_t rev, struct store_kv *out,
                   struct err *e) {
    sqlite3_bind_text(r->get, 1, key, -1, SQLITE_STATIC);
    sqlite3_bind_int64(r->get, 2, rev);
    int rc = sqlite3_step(r->get), code = -ENOENT;
    if (rc == SQLITE_ROW && !sqlite3_column_int(r->get, 2)) {
        *out = (struct store_kv){.key = arena_strdup(a, key),
                                 .create_rev = sqlite3_column_int64(r->get, 1),
                                 .mod_rev = sqlite3_column_int64(r->get, 0)};
        out->value = column_value(a, r->get, 3, &out->value_len);
        code = 0;
    } else if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        code = sq_error(r->db, rc, e, "read");
    }
    sqlite3_reset(r->get);
    return code;
}

/* After a read: 0, -ESTALE, or -EAGAIN when compaction overtook a read of the current state. */
static int read_check(struct sq *s, int64_t rev, int64_t shown, struct err *e) {
    if (shown >= atomic_load(&s->compact_rev)) return 0;
    return rev ? stale(s, e) : -EAGAIN;
}

static int get_once(struct sq *s, struct arena *a, const char *key, int64_t rev, struct store_kv *out, int64_t *shown,
                    struct err *e) {
    int64_t in_file;
    int code = read_begin(s, rev, shown, &in_file, e);
    if (code < 0) return code;
    struct version *v = lazy_find(&s->lazy, key, *shown);
    bool found = v, deleted = v && v->deleted;
    if (v && !v->deleted) version_to_kv(a, v, out);
    pthread_mutex_unlock(&s->lock);
    if (found) return deleted ? -ENOENT : 0;
    struct sq_reader *r;
    if ((code = reader_get(s, &r, e)) < 0) return code;
    code = get_row(r, a, key, in_file, out, e);
    reader_put(s, r);
    return code;
}

int sq_get(struct store *st, struct arena *a, const char *key, int64_t rev, struct store_kv *out, int64_t *store_rev,
           struct err *e) {
    struct sq *s = (struct sq *)st;
    int64_t shown = 0;
    int code, checked = 0;
    do {
        code = get_once(s, a, key, rev, out, &shown, e);
        if (code == 0 || code == -ENOENT) checked = read_check(s, rev, shown, e);
    } while (checked == -EAGAIN);
    if (store_rev && (code == 0 || code == -ENOENT)) *store_rev = shown;
    if (checked < 0) return checked;
    return code == -ENOENT ? err_set(e, -ENOENT, "store: no key %s", key) : code;
}

/* ---- lists ---- */

/* Walks keys of the file and lazy writes in one ascending order. */
struct cursor {
    struct sq_reader *r;
    struct version_vec lazy;
    size_t at;
    const char *prefix, *from, *end;
    struct arena *arena; /* of `end` */
    bool row;            /* r->keys stands on a row */
    int64_t shown;
};

static void cursor_done(struct sq *s, struct cursor *c) {
    if (c->r) {
        sqlite3_reset(c->r->keys);
        reader_put(s, c->r);
    }
    version_vec_done(&c->lazy);
    arena_free(c->arena);
}

static int keys_step(struct cursor *c, struct err *e) {
    int rc = sqlite3_step(c->r->keys);
    c->row = rc == SQLITE_ROW;
    return c->row || rc == SQLITE_DONE ? 0 : sq_error(c->r->db, rc, e, "list");
}

static int cursor_open(struct sq *s, struct cursor *c, int64_t rev, struct err *e) {
    int64_t in_file;
    int r = read_begin(s, rev, &c->shown, &in_file, e);
    if (r < 0) return r;
    lazy_collect(&s->lazy, c->prefix, c->from, c->shown, &c->lazy);
    pthread_mutex_unlock(&s->lock);
    if ((r = reader_get(s, &c->r, e)) < 0) return r;
    c->arena = arena_new();
    c->end = prefix_end(c->arena, c->prefix);
    bool from = c->from && strcmp(c->from, c->prefix) > 0;
    sqlite3_bind_text(c->r->keys, 1, from ? c->from : c->prefix, -1, SQLITE_STATIC);
    sqlite3_bind_text(c->r->keys, 2, c->end, -1, SQLITE_STATIC);
    sqlite3_bind_int64(c->r->keys, 3, in_file);
    return keys_step(c, e);
}

/* The next live key: a lazy version in *v, or the row *rev of the file (read through `st`, which then stands on it).
 * 1, 0 at the end, or an error. */
static int cursor_next(struct cursor *c, sqlite3_stmt *st, struct version **v, int64_t *rev, struct err *e) {
    for (;;) {
        *v = c->at < c->lazy.n ? c->lazy.items[c->at] : NULL;
        if (!*v && !c->row) return 0;
        int cmp = !*v ? 1 : !c->row ? -1 : strcmp((*v)->key, (const char *)sqlite3_column_text(c->r->keys, 0));
        int64_t row_rev = cmp >= 0 ? sqlite3_column_int64(c->r->keys, 1) : 0;
        if (cmp > 0) {
            *v = NULL;
            *rev = row_rev;
            sqlite3_reset(st);
            sqlite3_bind_int64(st, 1, row_rev);
            int rc = sqlite3_step(st);
            if (rc == SQLITE_ROW) return 1; /* the caller steps on with cursor_row_done */
            if (rc != SQLITE_DONE) return sq_error(c->r->db, rc, e, "list");
        } else {
            c->at++;
        }
        if (cmp >= 0) {
            int r = keys_step(c, e);
            if (r < 0) return r;
        }
        if (*v && !(*v)->deleted) return 1;
    }
}

static int list_once(struct sq *s, struct arena *a, struct cursor *c, size_t limit, int64_t rev, struct store_list *out,
                     struct err *e) {
    size_t cap = 0;
    int r = cursor_open(s, c, rev, e);
    if (r < 0) return r;
    *out = (struct store_list){.rev = c->shown};
    struct version *v;
    int64_t row_rev;
    while ((r = cursor_next(c, c->r->row, &v, &row_rev, e)) > 0) {
        bool live = v || !sqlite3_column_int(c->r->row, 1);
        if (live && limit && out->n == limit) {
            out->more = true;
            break;
        }
        if (live) {
            ARENA_GROW(a, out->items, out->n, cap);
            struct store_kv *kv = &out->items[out->n++];
            if (v) {
                version_to_kv(a, v, kv);
            } else {
                *kv = (struct store_kv){.key = arena_strdup(a, (const char *)sqlite3_column_text(c->r->keys, 0)),
                                        .create_rev = sqlite3_column_int64(c->r->row, 0),
                                        .mod_rev = row_rev};
                kv->value = column_value(a, c->r->row, 2, &kv->value_len);
            }
        }
        if (!v && (r = keys_step(c, e)) < 0) break;
    }
    sqlite3_reset(c->r->row);
    return r < 0 ? r : 0;
}

int sq_list(struct store *st, struct arena *a, const char *prefix, const char *from, size_t limit, int64_t rev,
            struct store_list *out, struct err *e) {
    struct sq *s = (struct sq *)st;
    int r;
    do {
        struct cursor c = {.prefix = prefix, .from = from};
        r = list_once(s, a, &c, limit, rev, out, e);
        if (r == 0) r = read_check(s, rev, c.shown, e);
        cursor_done(s, &c);
    } while (r == -EAGAIN);
    return r;
}

static int count_once(struct sq *s, struct cursor *c, int64_t rev, int64_t *out, struct err *e) {
    int r = cursor_open(s, c, rev, e);
    if (r < 0) return r;
    struct version *v;
    int64_t row_rev;
    *out = 0;
    while ((r = cursor_next(c, c->r->count, &v, &row_rev, e)) > 0) {
        *out += v || !sqlite3_column_int(c->r->count, 0);
        if (!v && (r = keys_step(c, e)) < 0) break;
    }
    sqlite3_reset(c->r->count);
    return r;
}

int sq_count(struct store *st, const char *prefix, const char *from, int64_t rev, int64_t *out, struct err *e) {
    struct sq *s = (struct sq *)st;
    int r;
    do {
        struct cursor c = {.prefix = prefix, .from = from};
        r = count_once(s, &c, rev, out, e);
        if (r == 0) r = read_check(s, rev, c.shown, e);
        cursor_done(s, &c);
    } while (r == -EAGAIN);
    return r;
}

/* ---- history ---- */

static struct version *version_from_row(sqlite3_stmt *st) {
    const char *key = (const char *)sqlite3_column_text(st, 1);
    struct version *v = version_new(key, (size_t)sqlite3_column_bytes(st, 1));
    v->rev = sqlite3_column_int64(st, 0);
    v->create_rev = sqlite3_column_int64(st, 2);
    v->deleted = sqlite3_column_int(st, 3);
    const void *p = sqlite3_column_blob(st, 5);
    if (p || sqlite3_column_type(st, 5) == SQLITE_BLOB)
        v->prev = rbytes_new(p ? p : "", (size_t)sqlite3_column_bytes(st, 5));
    if (v->deleted) {
        if (v->prev) v->value = rbytes_ref(v->prev);
    } else {
        p = sqlite3_column_blob(st, 4);
        v->value = rbytes_new(p ? p : "", (size_t)sqlite3_column_bytes(st, 4));
    }
    return v;
}

static int history_read(struct sq *s, const char *prefix, int64_t after, int64_t to, size_t max,
                        struct version_vec *out, int64_t *reached) {
    struct sq_reader *r;
    int code = reader_get(s, &r, NULL);
    if (code < 0) return code;
    sqlite3_bind_int64(r->history, 1, after);
    sqlite3_bind_int64(r->history, 2, to);
    int rc;
    while ((rc = sqlite3_step(r->history)) == SQLITE_ROW) {
        *reached = sqlite3_column_int64(r->history, 0);
        if (!str_has_prefix((const char *)sqlite3_column_text(r->history, 1), prefix)) continue;
        version_vec_add(out, version_from_row(r->history));
        if (out->n >= max) break;
    }
    if (rc == SQLITE_DONE) *reached = to;
    code = rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : sq_error(r->db, rc, NULL, "history");
    sqlite3_reset(r->history);
    reader_put(s, r);
    return code;
}

int sq_replay(void *arg, const char *prefix, int64_t after, int64_t to, size_t max, struct version_vec *out,
              int64_t *reached) {
    struct sq *s = arg;
    pthread_mutex_lock(&s->lock);
    int64_t durable = s->durable_rev;
    if (after >= durable) {
        for (size_t i = 0; i < s->lazy.items.n; i++) {
            struct version *v = s->lazy.items.items[i];
            if (v->rev > after && v->rev <= to && str_has_prefix(v->key, prefix)) version_vec_add(out, version_ref(v));
        }
    }
    pthread_mutex_unlock(&s->lock);
    int r = 0;
    *reached = to;
    if (after < durable) r = history_read(s, prefix, after, MIN_OF(to, durable), max, out, reached);
    return after < atomic_load(&s->compact_rev) ? -ESTALE : r;
}

static void cause_fill(struct arena *a, struct store_cause_record *out, int64_t rev, const char *key,
                       const char *actor) {
    out->rev = rev;
    out->key = arena_strdup(a, key);
    out->actor = arena_strdup(a, str_or_empty(actor));
}

int sq_cause(struct store *st, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e) {
    struct sq *s = (struct sq *)st;
    int code = -ENOENT;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->lazy.items.n; i++) {
        struct version *v = s->lazy.items.items[i];
        if (v->rev != rev) continue;
        cause_fill(a, out, rev, v->key, v->actor);
        out->cause_rev = v->cause_rev;
        out->unix_ns = v->unix_ns;
        code = 0;
    }
    pthread_mutex_unlock(&s->lock);
    struct sq_reader *r;
    if (code == 0) return 0;
    if ((code = reader_get(s, &r, e)) < 0) return code;
    sqlite3_bind_int64(r->cause, 1, rev);
    int rc = sqlite3_step(r->cause);
    if (rc == SQLITE_ROW) {
        cause_fill(a, out, rev, (const char *)sqlite3_column_text(r->cause, 0),
                   (const char *)sqlite3_column_text(r->cause, 1));
        out->cause_rev = sqlite3_column_int64(r->cause, 2);
        out->unix_ns = sqlite3_column_int64(r->cause, 3);
    } else {
        code = rc == SQLITE_DONE ? err_set(e, -ENOENT, "store: no record of revision %lld", (long long)rev)
                                 : sq_error(r->db, rc, e, "cause");
    }
    sqlite3_reset(r->cause);
    reader_put(s, r);
    return code;
}

int sq_snapshot(struct store *st, const char *path, struct err *e) {
    struct sq *s = (struct sq *)st;
    struct sq_request q = {.kind = SQ_FLUSH};
    int code = sq_submit(s, &q);
    if (code < 0) return err_set(e, code, "store: cannot write the database");
    if (access(path, F_OK) == 0) return err_set(e, -EEXIST, "store: %s exists", path);
    sqlite3 *db;
    if ((code = sq_connect(s, true, &db, e)) < 0) return code;
    sqlite3_stmt *vacuum;
    if ((code = sq_prepare(db, "VACUUM INTO ?1", &vacuum, e)) == 0) {
        sqlite3_bind_text(vacuum, 1, path, -1, SQLITE_STATIC);
        int rc = sqlite3_step(vacuum);
        if (rc != SQLITE_DONE) code = sq_error(db, rc, e, path);
        sqlite3_finalize(vacuum);
    }
    sqlite3_close(db);
    if (code < 0) return code;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) return err_errno(e, errno, "store: %s", path);
    return 0;
}
