/* The copy goes in pages of the source at one revision, each written by several writers (the target commits them
 * together). Keys keep no order among each other: nothing relies on revisions of different keys that were made before.
 * Afterwards both are read again, page by page, and compared. */
#include "pkg/store/copy.h"

#include <pthread.h>

#define REGISTRY "/registry/"
#define LIVE "/registry/masterleases/"

enum { PAGE = 2000, WRITERS = 64 };

struct page {
    struct store *to;
    const struct store_list *list;
    enum store_op op;
    _Atomic size_t next;
    pthread_mutex_t lock;
    struct err err; /* the first */
    _Atomic int64_t keys, bytes;
};

static int write_one(struct page *p, const struct store_kv *kv, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new_sized(1024);
    struct store_txn t = {.op = p->op,
                          .key = kv->key,
                          .value = kv->value,
                          .value_len = kv->value_len,
                          .expect_rev = p->op == STORE_PUT ? 0 : STORE_ANY_REV,
                          .cause = {"coracle storage copy", 0}};
    struct store_txn_result r = {0};
    int rc = store_txn(p->to, a, &t, &r, e);
    if (rc) return rc;
    if (!r.succeeded) return err_set(e, -EBUSY, "%s: somebody else writes to the target", kv->key);
    atomic_fetch_add(&p->keys, 1);
    atomic_fetch_add(&p->bytes, (int64_t)kv->value_len);
    return 0;
}

static void *writer(void *arg) {
    struct page *p = arg;
    size_t i;
    while ((i = atomic_fetch_add(&p->next, 1)) < p->list->n) {
        _cleanup_err_ struct err e = {0};
        if (str_has_prefix(p->list->items[i].key, LIVE) && p->op == STORE_PUT) continue;
        if (write_one(p, &p->list->items[i], &e) == 0) continue;
        pthread_mutex_lock(&p->lock);
        if (!p->err.code) err_move(&p->err, &e);
        pthread_mutex_unlock(&p->lock);
        atomic_store(&p->next, p->list->n);
    }
    return NULL;
}

/* Puts or deletes all keys of the list in the target. */
static int write_page(struct store *to, const struct store_list *l, enum store_op op, int64_t *keys, int64_t *bytes,
                      struct err *e) {
    struct page p = {.to = to, .list = l, .op = op, .lock = PTHREAD_MUTEX_INITIALIZER};
    pthread_t threads[WRITERS];
    size_t n = 0;
    while (n < WRITERS && n < l->n && pthread_create(&threads[n], NULL, writer, &p) == 0) n++;
    if (!n) writer(&p);
    for (size_t i = 0; i < n; i++) pthread_join(threads[i], NULL);
    *keys += p.keys;
    *bytes += p.bytes;
    int rc = p.err.code;
    if (e)
        err_move(e, &p.err);
    else
        err_done(&p.err);
    return rc;
}

static const char *behind(struct arena *a, const struct store_list *l) {
    return arena_printf(a, "%s%c", l->items[l->n - 1].key, 1);
}

/* All pages of `from` at `rev`, to be put into `to` or (from == to) deleted there. */
static int each_page(struct store *from, struct store *to, enum store_op op, int64_t rev, int64_t *keys, int64_t *bytes,
                     struct err *e) {
    _cleanup_arena_ struct arena *last = arena_new();
    const char *next = NULL;
    for (bool more = true; more;) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct store_list l;
        int rc = store_list(from, a, REGISTRY, next, PAGE, rev, &l, e);
        if (!rc) rc = write_page(to, &l, op, keys, bytes, e);
        if (rc) return rc;
        more = l.more && l.n;
        if (more) next = behind(last, &l);
    }
    return 0;
}

/* The next key of a list in pages that is not a live server's. */
struct cursor {
    struct store *s;
    struct arena *a;
    struct store_list l;
    size_t at;
    int64_t rev;
};

static int cursor_next(struct cursor *c, const struct store_kv **out, struct err *e) {
    for (;;) {
        while (c->at < c->l.n && str_has_prefix(c->l.items[c->at].key, LIVE)) c->at++;
        *out = c->at < c->l.n ? &c->l.items[c->at++] : NULL;
        if (*out || (c->a && !c->l.more)) return 0;
        struct arena *a = arena_new();
        const char *next = c->l.n ? behind(a, &c->l) : NULL;
        int rc = store_list(c->s, a, REGISTRY, next, PAGE, c->rev, &c->l, e);
        arena_free(c->a);
        c->a = a;
        c->at = 0;
        if (rc) return rc;
    }
}

static int compare(struct store *from, int64_t from_rev, struct store *to, int64_t to_rev, int64_t keys,
                   struct err *e) {
    struct cursor x = {.s = from, .rev = from_rev}, y = {.s = to, .rev = to_rev};
    const struct store_kv *a, *b;
    int64_t n = 0;
    int rc;
    for (;; n++) {
        if ((rc = cursor_next(&x, &a, e)) || (rc = cursor_next(&y, &b, e)) || (!a && !b)) break;
        if (!a || !b || strcmp(a->key, b->key) != 0 || a->value_len != b->value_len ||
            memcmp(a->value, b->value, a->value_len) != 0)
            rc = err_set(e, -EIO, "the copy differs from the source at %s", a ? a->key : b->key);
        else if (b->mod_rev <= from_rev)
            rc = err_set(e, -EIO, "%s has revision %lld in the copy, which is not above the source's", b->key,
                         (long long)b->mod_rev);
        if (rc) break;
    }
    if (!rc && n != keys)
        rc = err_set(e, -EIO, "%lld keys were copied, but %lld are there", (long long)keys, (long long)n);
    arena_free(x.a);
    arena_free(y.a);
    return rc;
}

static int make_empty(struct store *to, bool overwrite, struct store_copy_report *report, struct err *e) {
    int64_t there = 0, bytes = 0, rev = 0;
    int rc = store_count(to, REGISTRY, NULL, 0, &there, e);
    if (rc || !there) return rc;
    if (!overwrite) return err_set(e, -EEXIST, "the target has %lld keys already", (long long)there);
    rc = store_current_rev(to, &rev, e);
    return rc ? rc : each_page(to, to, STORE_DELETE, rev, &report->removed, &bytes, e);
}

int store_copy(struct store *from, struct store *to, bool overwrite, struct store_copy_report *report, struct err *e) {
    int64_t now = 0;
    *report = (struct store_copy_report){0};
    int rc = store_current_rev(from, &report->from_rev, e);
    if (!rc) rc = make_empty(to, overwrite, report, e);
    if (!rc) rc = store_advance(to, report->from_rev, e);
    if (!rc) rc = each_page(from, to, STORE_PUT, report->from_rev, &report->keys, &report->bytes, e);
    if (!rc) rc = store_current_rev(to, &report->to_rev, e);
    if (!rc) rc = compare(from, report->from_rev, to, report->to_rev, report->keys, e);
    if (!rc) rc = store_current_rev(from, &now, e);
    if (rc) return rc;
    if (now != report->from_rev)
        return err_set(e, -EBUSY, "the source was written to meanwhile: stop its API servers and copy again");
    store_compact(to, report->to_rev, NULL); /* what was there before must not be read at clients' old revisions */
    return 0;
}
