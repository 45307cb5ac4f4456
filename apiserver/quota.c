/* Quotas at the moment of storing. Writers of one namespace take turns, each sees what those before it stored, and usage is
 * counted anew: that does for the writers of one server.
 *
 * With etcd there may be other servers, whose objects on their way to the store nobody can count yet. So each first writes
 * what the quota's status.used will be, with compare-and-swap on the quota, and the one who loses looks again: what is
 * charged counts as used, though it cannot be seen. A charge may be wrong: its object was not stored after all, or others
 * were deleted and the controller has not come by. Then the writer waits; a quota that has not been touched for SETTLE_MS
 * while the count says that there is room is believed no longer; one that others keep changing refuses after WAIT_MS. Upstream: resourcequota/controller.go, which believes
 * the status alone. */
#include "apiserver/write.h"
#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

enum { TRIES = 32, PAUSE_MS = 50, SETTLE_MS = 8000, WAIT_MS = 12000 };

/* 0, WRITE_RETRY: somebody else has changed it, or an error. */
static int charge(struct write *w, const struct quota_charge *q, struct err *e) {
    const struct resource *r = resource_find(w->s->resources, "", "v1", "resourcequotas");
    _cleanup_object_ struct object *o = watchcache_get(w->s->cache, r, w->c.ns, q->quota);
    struct object *out = NULL;
    struct write status;
    bool deleted;
    if (!o) return WRITE_RETRY; /* gone: the next look finds no such quota */
    write_init(&status, w->s, w->a, NULL, r, "status", w->c.ns, q->quota, RULES_UPDATE);
    status.c.field_manager = "kube-apiserver";
    struct json *v = json_clone(w->a, write_tree(&status, o));
    struct json *used = json_ensure_object(w->a, json_ensure_object(w->a, v, "status"), "used");
    JSON_FOREACH_MEMBER(m, q->used) json_set(w->a, used, m->key, m->value);
    int rc = write_update(&status, v, o, true, &out, &deleted, e);
    object_unref(out);
    return rc;
}

static int charge_all(struct write *w, const struct quota_charges *now, struct quota_charges *done, struct err *e) {
    for (size_t i = 0; i < now->n; i++) {
        int rc = charge(w, &now->items[i], e);
        if (rc) return rc;
        ARENA_GROW(w->a, done->items, done->n, done->cap);
        done->items[done->n++] = now->items[i];
    }
    return 0;
}

/* The newest change of any quota of the namespace. */
static int64_t newest(struct write *w) {
    const struct resource *r = resource_find(w->s->resources, "", "v1", "resourcequotas");
    _cleanup_wc_list_ struct wc_list l = {0};
    int64_t rev = 0;
    watchcache_list(w->s->cache, r, w->c.ns, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) rev = MAX_OF(rev, l.items[i]->rev);
    return rev;
}

static void let_others(pthread_mutex_t *turn, unsigned ms) {
    uint32_t x;
    random_bytes(&x, sizeof(x));
    pthread_mutex_unlock(turn);
    usleep((ms + x % (ms + 1)) * 1000);
    pthread_mutex_lock(turn);
}

/* One try against the quotas' charges: 0 charged, WRITE_RETRY, or an error (403 with now->disputed when waiting may help). */
static int attempt(struct write *w, const struct json *obj, const struct json *old, struct quota_charges *now,
                   struct quota_charges *done, struct err *e) {
    int rc = watchcache_sync(w->s->cache, e);
    now->disputed = false;
    if (!rc) rc = admission_quota(&w->c, obj, old, now, e);
    return rc ? rc : charge_all(w, now, done, e);
}

static int charge_turn(struct write *w, const struct json *obj, const struct json *old, pthread_mutex_t *turn,
                       struct err *e) {
    struct quota_charges done = {0}, now = {.paid = &done};
    int64_t began = mono_ns(), settled = began + SETTLE_MS * NS_PER_MS, seen = newest(w);
    for (int tries = 0;;) {
        _cleanup_err_ struct err why = {0};
        int rc = attempt(w, obj, old, &now, &done, &why);
        if (!rc) return 0;
        if (rc == WRITE_RETRY && ++tries < TRIES) {
            let_others(turn, 1);
            continue;
        }
        if (rc == WRITE_RETRY)
            return err_status(e, 409, "Conflict", "the quotas of namespace \"%s\" change too often", w->c.ns);
        if (!now.disputed || now.trust_count || mono_ns() - began > WAIT_MS * NS_PER_MS) {
            err_move(e, &why);
            return rc;
        }
        let_others(turn, PAUSE_MS);
        int64_t rev = newest(w);
        if (rev != seen) settled = mono_ns() + SETTLE_MS * NS_PER_MS;
        seen = rev;
        now.trust_count = mono_ns() >= settled;
    }
}

int quota_enter(struct write *w, const struct json *obj, const struct json *old, pthread_mutex_t **turn,
                struct err *e) {
    if (!w->c.quota_counted || w->c.dry_run) return 0;
    const char *ns = str_or_empty(w->c.ns);
    pthread_mutex_t *m = &w->s->quota_queues[hash_bytes(ns, strlen(ns)) % WRITE_QUEUES];
    pthread_mutex_lock(m);
    *turn = m;
    if (!w->s->embedded) return charge_turn(w, obj, old, m, e);
    int rc = watchcache_sync(w->s->cache, e);
    return rc ? rc : admission_quota(&w->c, obj, old, NULL, e);
}
