/* The etcd back end: etcd v3 as the store, for clusters with more than one API server.
 *
 * Keys, values and revisions are etcd's own, so an upstream API server and etcdctl see the same data. A transaction is
 * one Txn: compare the key's mod_revision, then put or delete with the previous value, else read the key. Reads of the
 * current state are linearizable. The transport is etcd_rpc.c, watches are etcd_watch.c.
 *
 * Outages: a call is tried again for ETCD_GIVE_UP_MS. A write whose answer was lost may have happened; when the next
 * try then finds the key changed, to just what this write wanted, it was this write. When etcd stays away, or the key has
 * changed to something else, the outcome is unknown (-ETIMEDOUT); -EAGAIN says that no try reached it.
 *
 * Not done: lazy writes (every write goes through the quorum), snapshots (etcdctl makes them), and the record of
 * causes: it would be a second key with every write. */
#include "pkg/store/etcd.h"

#include "pkg/base/ktime.h"

static struct bytes bytes_of(const char *s) { return (struct bytes){(const uint8_t *)s, strlen(s)}; }

static void kv_fill(struct arena *a, const struct etcd_key_value *kv, struct store_kv *out) {
    *out = (struct store_kv){
        .key = arena_strndup(a, (const char *)kv->key.p, kv->key.n),
        .value = arena_strndup(a, kv->value.p ? (const char *)kv->value.p : "", kv->value.n),
        .value_len = kv->value.n,
        .create_rev = kv->create_revision,
        .mod_rev = kv->mod_revision,
    };
}

static int range(struct etcd *s, struct arena *a, const struct etcd_range_request *q, struct etcd_range_response *out,
                 struct err *e) {
    *out = (struct etcd_range_response){0};
    int r = etcd_invoke(s, a, ETCD_RANGE, &api_etcd_range_request, q, &api_etcd_range_response, out, NULL, e);
    if (r == -ETIMEDOUT) r = err_set(e, -EAGAIN, "etcd is not in reach"); /* nothing is in doubt with a read */
    if (r == 0 && !out->header) return err_set(e, -EIO, "etcd: answer without a header");
    return r;
}

static int etcd_get(struct store *st, struct arena *a, const char *key, int64_t rev, struct store_kv *out,
                    int64_t *store_rev, struct err *e) {
    struct etcd_range_request q = {.key = bytes_of(key), .revision = rev};
    struct etcd_range_response p;
    int r = range((struct etcd *)st, a, &q, &p, e);
    if (r < 0) return r;
    if (store_rev) *store_rev = rev ? rev : p.header->revision;
    if (!p.kvs.n) return err_set(e, -ENOENT, "store: no key %s", key);
    kv_fill(a, &p.kvs.items[0], out);
    return 0;
}

/* The request for keys of `prefix` from `from` on. */
static struct etcd_range_request range_of(struct arena *a, const char *prefix, const char *from, int64_t rev) {
    static const uint8_t zero[1] = {0};
    const char *start = from && strcmp(from, prefix) > 0 ? from : prefix, *end = prefix_end(a, prefix);
    struct etcd_range_request q = {.key = *start ? bytes_of(start) : (struct bytes){zero, 1}, .revision = rev};
    q.range_end = end ? bytes_of(end) : (struct bytes){zero, 1};
    return q;
}

static int etcd_list(struct store *st, struct arena *a, const char *prefix, const char *from, size_t limit, int64_t rev,
                     struct store_list *out, struct err *e) {
    size_t cap = 0;
    struct etcd_range_request q = range_of(a, prefix, from, rev);
    bool more = true;
    while (more && (!limit || out->n < limit)) {
        _cleanup_arena_ struct arena *page = arena_new();
        struct etcd_range_response p;
        size_t want = limit ? limit - out->n : ETCD_PAGE;
        q.limit = (int64_t)MIN_OF(want, (size_t)ETCD_PAGE);
        int r = range((struct etcd *)st, page, &q, &p, e);
        if (r < 0) return r;
        if (!q.revision) q.revision = p.header->revision; /* the other pages show the same state */
        for (size_t i = 0; i < p.kvs.n; i++) {
            ARENA_GROW(a, out->items, out->n, cap);
            kv_fill(a, &p.kvs.items[i], &out->items[out->n++]);
        }
        more = p.more && p.kvs.n;
        if (!more) break;
        /* After the last key: that key and a NUL. */
        const struct store_kv *last = &out->items[out->n - 1];
        q.key = (struct bytes){(const uint8_t *)last->key, strlen(last->key) + 1};
    }
    out->more = more;
    out->rev = q.revision;
    return 0;
}

static int etcd_count(struct store *st, const char *prefix, const char *from, int64_t rev, int64_t *out,
                      struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct etcd_range_request q = range_of(a, prefix, from, rev);
    struct etcd_range_response p;
    q.count_only = true;
    int r = range((struct etcd *)st, a, &q, &p, e);
    if (r == 0) *out = p.count;
    return r;
}

/* ---- the current revision ---- */

/* Asks the quorum; rev_lock is held on entry and exit, but not meanwhile. */
static void rev_read(struct etcd *s) {
    uint64_t number = ++s->rev_started;
    s->rev_reading = true;
    pthread_mutex_unlock(&s->rev_lock);
    _cleanup_arena_ struct arena *a = arena_new();
    struct etcd_range_request q = {.key = bytes_of("/"), .count_only = true};
    struct etcd_range_response p;
    struct err e = {0};
    if (range(s, a, &q, &p, &e) == 0) {
        pthread_mutex_lock(&s->lock);
        struct hub *h = s->hub;
        pthread_mutex_unlock(&s->lock);
        if (h) hub_note_rev(h, p.header->revision);
    }
    pthread_mutex_lock(&s->rev_lock);
    if (!e.code) s->rev = p.header->revision;
    err_done(&s->rev_err);
    err_move(&s->rev_err, &e);
    s->rev_done = number;
    s->rev_reading = false;
    pthread_cond_broadcast(&s->rev_read);
}

/* Only a question that was put after the caller came is an answer to it: who comes while one is under way waits for the
 * next, together with all others who do. So readers cost etcd one read at a time, however many they are. */
static int etcd_current_rev(struct store *st, int64_t *out, struct err *e) {
    struct etcd *s = (struct etcd *)st;
    int r = 0;
    pthread_mutex_lock(&s->rev_lock);
    uint64_t wanted = s->rev_started + 1;
    while (s->rev_done < wanted) {
        if (s->rev_reading)
            pthread_cond_wait(&s->rev_read, &s->rev_lock);
        else
            rev_read(s);
    }
    *out = s->rev;
    if (s->rev_err.code) r = err_set(e, s->rev_err.code, "%s", s->rev_err.msg);
    pthread_mutex_unlock(&s->rev_lock);
    return r;
}

/* ---- transactions ---- */

static void prev_fill(struct arena *a, const struct etcd_key_value *kv, struct store_txn_result *out) {
    if (kv) kv_fill(a, kv, &out->prev);
}

static void result_fill(struct arena *a, const struct etcd_txn_response *p, struct store_txn_result *out) {
    out->succeeded = p->succeeded;
    out->rev = p->header->revision;
    const struct etcd_response_op *op = p->responses.n ? &p->responses.items[0] : NULL;
    if (!op) return;
    if (op->response_put) prev_fill(a, op->response_put->prev_kv, out);
    if (op->response_delete_range && op->response_delete_range->prev_kvs.n)
        prev_fill(a, &op->response_delete_range->prev_kvs.items[0], out);
    if (op->response_range && op->response_range->kvs.n) prev_fill(a, &op->response_range->kvs.items[0], out);
}

/* A try was lost and another one found the key changed: was the change ours? A deletion leaves nothing to tell it by, nor
 * does a put that others have changed since: then nobody knows, and saying either yes or no could be wrong. */
static int claim_lost_try(const struct store_txn *t, struct store_txn_result *out, struct err *e) {
    const struct store_kv *now = &out->prev;
    if (out->succeeded) return 0;
    if (t->op == STORE_PUT && now->key && now->mod_rev > t->expect_rev && now->value_len == t->value_len &&
        memcmp(now->value, t->value ? t->value : "", t->value_len) == 0) {
        out->succeeded = true;
        out->rev = now->mod_rev;
        out->prev = (struct store_kv){0};
        return 0;
    }
    return err_set(e, -ETIMEDOUT,
                   "etcd went away during a write, and the key has changed since: its outcome is unknown");
}

/* An etcd lease of `ttl_s` seconds for one key. Nobody keeps it alive: the next write takes a new one. */
static int lease_grant(struct etcd *s, int64_t ttl_s, int64_t *id, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct etcd_lease_grant_request q = {.ttl = ttl_s};
    struct etcd_lease_grant_response p = {0};
    int r =
        etcd_invoke(s, a, ETCD_GRANT, &api_etcd_lease_grant_request, &q, &api_etcd_lease_grant_response, &p, NULL, e);
    if (r == -ETIMEDOUT) r = err_set(e, -EAGAIN, "etcd is not in reach"); /* at worst a lease runs out unused */
    *id = p.id;
    return r;
}

static int etcd_txn(struct store *st, struct arena *a, const struct store_txn *t, struct store_txn_result *out,
                    struct err *e) {
    int64_t expect = t->expect_rev;
    struct etcd_compare compare = {.result = ETCD_COMPARE_RESULT_EQUAL,
                                   .target = ETCD_COMPARE_TARGET_MOD,
                                   .key = bytes_of(t->key),
                                   .mod_revision = &expect};
    struct etcd_put_request put = {
        .key = bytes_of(t->key), .value = {(const uint8_t *)t->value, t->value_len}, .prev_kv = true};
    struct etcd_delete_range_request del = {.key = bytes_of(t->key), .prev_kv = true};
    struct etcd_range_request get = {.key = bytes_of(t->key)};
    struct etcd_request_op then = {0}, otherwise = {.request_range = &get};
    if (t->op == STORE_PUT)
        then.request_put = &put;
    else
        then.request_delete_range = &del;
    struct etcd_txn_request q = {.success = {&then, 1}, .failure = {&otherwise, 1}};
    if (t->expect_rev != STORE_ANY_REV) q.compare = (struct etcd_compare_vec){&compare, 1};
    if (t->op == STORE_PUT && t->ttl_s > 0) {
        int rc = lease_grant((struct etcd *)st, t->ttl_s, &put.lease, e);
        if (rc < 0) return rc;
    }
    _cleanup_arena_ struct arena *scratch = arena_new();
    struct etcd_txn_response p = {0};
    bool unsure = false;
    int r = etcd_invoke((struct etcd *)st, scratch, ETCD_TXN, &api_etcd_txn_request, &q, &api_etcd_txn_response, &p,
                        &unsure, e);
    if (r == -EAGAIN && unsure) r = err_set(e, -ETIMEDOUT, "etcd went away during a write: its outcome is unknown");
    if (r < 0) return r;
    if (!p.header) return err_set(e, -EIO, "etcd: answer without a header");
    result_fill(a, &p, out);
    return unsure ? claim_lost_try(t, out, e) : 0;
}

static int etcd_compact(struct store *st, int64_t rev, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct etcd_compaction_request q = {.revision = rev};
    struct etcd_compaction_response p = {0};
    return etcd_invoke((struct etcd *)st, a, ETCD_COMPACT, &api_etcd_compaction_request, &q,
                       &api_etcd_compaction_response, &p, NULL, e);
}

/* ---- counting up ---- */

enum { ADVANCE_WRITERS = 64 };

struct advance {
    struct etcd *s;
    int64_t to;
    _Atomic int64_t at; /* the highest revision seen */
    pthread_mutex_t lock;
    struct err err; /* the first */
};

static void *advance_run(void *arg) {
    struct advance *x = arg;
    static const char key[] = "/coracle/advance";
    while (atomic_load(&x->at) < x->to) {
        _cleanup_arena_ struct arena *a = arena_new_sized(512);
        _cleanup_err_ struct err e = {0};
        struct store_txn t = {.op = STORE_PUT, .key = key, .value = "", .expect_rev = STORE_ANY_REV};
        struct store_txn_result r = {0};
        int rc = etcd_txn(&x->s->base, a, &t, &r, &e);
        int64_t seen = atomic_load(&x->at);
        while (!rc && r.rev > seen && !atomic_compare_exchange_weak(&x->at, &seen, r.rev)) continue;
        if (!rc) continue;
        pthread_mutex_lock(&x->lock);
        if (!x->err.code) err_move(&x->err, &e);
        pthread_mutex_unlock(&x->lock);
        return NULL;
    }
    return NULL;
}

static int etcd_advance(struct store *st, int64_t rev, struct err *e) {
    struct advance x = {.s = (struct etcd *)st, .to = rev, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t writers[ADVANCE_WRITERS];
    int64_t now;
    size_t n = 0;
    int rc = etcd_current_rev(st, &now, e);
    if (rc || now >= rev) return rc;
    x.at = now;
    while (n < ADVANCE_WRITERS && pthread_create(&writers[n], NULL, advance_run, &x) == 0) n++;
    for (size_t i = 0; i < n; i++) pthread_join(writers[i], NULL);
    if (!x.err.code && atomic_load(&x.at) >= rev) return 0;
    if (!x.err.code) return err_set(e, -EAGAIN, "no threads for counting up");
    rc = x.err.code;
    if (e) err_move(e, &x.err);
    err_done(&x.err);
    return rc;
}

static int etcd_snapshot(struct store *st, const char *path, struct err *e) {
    return err_set(e, -ENOTSUP, "store: a snapshot of etcd is made with \"etcdctl snapshot save\"");
}

static int64_t etcd_size(struct store *st) { return 0; }

static int etcd_cause(struct store *st, struct arena *a, int64_t rev, struct store_cause_record *out, struct err *e) {
    return err_set(e, -ENOENT, "store: causes are not recorded with etcd");
}

/* ---- life ---- */

static void etcd_close(struct store *st) {
    struct etcd *s = (struct etcd *)st;
    etcd_io_stop(s);
    hub_free(s->hub);
    etcd_io_free(s);
    etcd_call_done(&s->watch);
    pthread_mutex_destroy(&s->lock);
    pthread_mutex_destroy(&s->rev_lock);
    pthread_cond_destroy(&s->rev_read);
    err_done(&s->rev_err);
    free(s);
}

static const struct store_backend etcd_backend = {
    .close = etcd_close,
    .get = etcd_get,
    .list = etcd_list,
    .count = etcd_count,
    .txn = etcd_txn,
    .current_rev = etcd_current_rev,
    .compact = etcd_compact,
    .advance = etcd_advance,
    .snapshot = etcd_snapshot,
    .size = etcd_size,
    .watch = etcd_watch,
    .cause = etcd_cause,
};

int store_etcd_open(const struct store_options *o, struct store **out, struct err *e) {
    struct etcd *s = xcalloc(1, sizeof(*s));
    s->base.backend = &etcd_backend;
    s->tail = &s->head;
    s->watch_backoff_ms = ETCD_BACKOFF_MS;
    pthread_mutex_init(&s->lock, NULL);
    pthread_mutex_init(&s->rev_lock, NULL);
    pthread_cond_init(&s->rev_read, NULL);
    int64_t rev;
    int r = etcd_io_start(s, o, e);
    if (r == 0) r = etcd_current_rev(&s->base, &rev, e);
    if (r < 0) {
        etcd_close(&s->base);
        return r;
    }
    *out = &s->base;
    return 0;
}
