/* What the tests of the store share: a fresh store of the back end under test, short words for its operations, and a
 * watcher that writes down what it sees. The back end is sqlite in a scratch folder, or with STORE_TEST_ETCD=http or https
 * an etcd that the test starts on loopback. */
#pragma once

#include <pthread.h>

#include "pkg/base/buf.h"
#include "pkg/store/test_etcd.h"
#include "tests/test.h"

static char dir[64];
static char path[96];

static void dir_remove(void) {
    if (*dir) nftw(dir, test_etcd_remove, 8, FTW_DEPTH | FTW_PHYS);
    *dir = 0;
}

static void dir_make(void) {
    dir_remove();
    snprintf(dir, sizeof(dir), "/tmp/store-test-XXXXXX");
    if (!mkdtemp(dir)) abort();
    snprintf(path, sizeof(path), "%s/state.db", dir);
}

static bool use_etcd(void) { return getenv("STORE_TEST_ETCD") != NULL; }

static struct store *open_sqlite(int64_t flush_ms) {
    struct store_options o = {.sqlite_path = path, .lazy_flush_ms = flush_ms, .no_fsync = false};
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(&o, &s, &e) < 0) TEST_FAIL("store_open: %s", e.msg);
    return s;
}

/* A fresh, empty store of the back end under test. */
static struct store *fresh(void) {
    if (!use_etcd()) {
        dir_make();
        return open_sqlite(0);
    }
    struct store_options o = {0};
    test_etcd_options(&o);
    struct store *s = NULL;
    struct err e = {0};
    if (store_open(&o, &s, &e) < 0) TEST_FAIL("store_open: %s", e.msg);
    return s;
}

static void done(struct store *s) {
    store_close(s);
    dir_remove();
    if (use_etcd()) test_etcd_wipe();
}

static struct store_txn_result txn(struct store *s, struct arena *a, enum store_op op, const char *key,
                                   const char *value, int64_t expect) {
    struct store_txn t = {
        .op = op, .key = key, .value = value, .value_len = value ? strlen(value) : 0, .expect_rev = expect};
    struct store_txn_result r;
    struct err e = {0};
    if (store_txn(s, a, &t, &r, &e) < 0) TEST_FAIL("store_txn %s: %s", key, e.msg);
    return r;
}

static int64_t put(struct store *s, struct arena *a, const char *key, const char *value) {
    return txn(s, a, STORE_PUT, key, value, STORE_ANY_REV).rev;
}

static int64_t del(struct store *s, struct arena *a, const char *key) {
    return txn(s, a, STORE_DELETE, key, NULL, STORE_ANY_REV).rev;
}

static const char *get_at(struct store *s, struct arena *a, const char *key, int64_t rev) {
    struct store_kv kv;
    int r = store_get(s, a, key, rev, &kv, NULL, NULL);
    return r == 0         ? kv.value
           : r == -ENOENT ? "(absent)"
           : r == -ESTALE ? "(stale)"
           : r == -ERANGE ? "(future)"
                          : "(error)";
}

/* "key=value ..." of a list. */
static const char *list_at(struct store *s, struct arena *a, const char *prefix, const char *from, size_t limit,
                           int64_t rev) {
    struct store_list l;
    int r = store_list(s, a, prefix, from, limit, rev, &l, NULL);
    if (r < 0) return r == -ESTALE ? "(stale)" : r == -ERANGE ? "(future)" : "(error)";
    const char *out = "";
    for (size_t i = 0; i < l.n; i++) out = arena_printf(a, "%s%s=%s ", out, l.items[i].key, l.items[i].value);
    return l.more ? arena_printf(a, "%s...", out) : out;
}

/* ---- a watcher that writes down what it sees ---- */

struct seen {
    pthread_mutex_t lock;
    struct buf text;
    size_t n;
    int64_t last, progress;
    int error;
    bool out_of_order;
    bool quiet; /* count only */
};

static void seen_init(struct seen *w) {
    *w = (struct seen){0};
    pthread_mutex_init(&w->lock, NULL);
}

static void on_events(void *arg, const struct store_event *ev, size_t n, int64_t rev, int error) {
    struct seen *w = arg;
    pthread_mutex_lock(&w->lock);
    if (error)
        w->error = error;
    else if (n == 0)
        w->progress = rev;
    for (size_t i = 0; i < n; i++) {
        if (ev[i].mod_rev <= w->last) w->out_of_order = true;
        w->last = ev[i].mod_rev;
        w->n++;
        if (!w->quiet)
            buf_printf(&w->text, "%s %s=%s<%s ",
                       ev[i].op == STORE_DELETE            ? "DEL"
                       : ev[i].create_rev == ev[i].mod_rev ? "NEW"
                                                           : "PUT",
                       ev[i].key, ev[i].value ? ev[i].value : "-", ev[i].prev_value ? ev[i].prev_value : "-");
    }
    pthread_mutex_unlock(&w->lock);
}

static void nap(void) { usleep(2000); }

static bool seen_wait(struct seen *w, size_t n) {
    for (int i = 0; i < 30000; i++) {
        pthread_mutex_lock(&w->lock);
        bool ok = w->n >= n;
        pthread_mutex_unlock(&w->lock);
        if (ok) return true;
        nap();
    }
    return false;
}
