/* Watching etcd: one Watch of all keys feeds the hub (hub.c), which serves every watch of this store.
 *
 * Since it covers all keys and every revision changes some key, its position is the store's: when the event of revision
 * R has come, everything up to R has been delivered, and no progress requests are needed. When the connection breaks it
 * starts again after the hub's revision, so nothing is lost; when etcd has compacted beyond that, the hub skips to the
 * present and watches that lie behind end with -ESTALE.
 *
 * A watch that begins in the past is brought up by another Watch of all keys, read until it has passed the wanted
 * revision (etcd_replay). */
#include <time.h>

#include "pkg/base/ktime.h"
#include "pkg/store/etcd.h"

static struct rbytes *value_of(const struct etcd_key_value *kv) {
    return kv ? rbytes_new(kv->value.p ? (const char *)kv->value.p : "", kv->value.n) : NULL;
}

/* NULL for keys that are no strings: not ours. */
static struct version *version_of(const struct etcd_event *ev) {
    const struct etcd_key_value *kv = ev->kv;
    if (!kv || !kv->key.n || memchr(kv->key.p, 0, kv->key.n)) return NULL;
    struct version *v = version_new((const char *)kv->key.p, kv->key.n);
    v->deleted = ev->type == ETCD_EVENT_TYPE_DELETE;
    v->rev = kv->mod_revision;
    v->create_rev = v->deleted && ev->prev_kv ? ev->prev_kv->create_revision : kv->create_revision;
    v->prev = value_of(ev->prev_kv);
    v->value = !v->deleted ? value_of(kv) : v->prev ? rbytes_ref(v->prev) : NULL;
    return v;
}

static void watch_body(struct etcd_call *c, int64_t from_rev) {
    static const uint8_t zero[1] = {0};
    struct etcd_watch_create_request create = {
        .key = {zero, 1}, .range_end = {zero, 1}, .start_revision = from_rev, .prev_kv = true, .progress_notify = true};
    struct etcd_watch_request request = {.create_request = &create};
    etcd_body(c, &api_etcd_watch_request, &request);
}

/* ---- the hub's watch; on the I/O thread ---- */

static bool on_message(struct etcd_call *c, const struct etcd_watch_response *m) {
    struct etcd *s = c->s;
    s->watch_backoff_ms = ETCD_BACKOFF_MS;
    if (m->canceled) {
        /* Compacted: the revision that etcd names is the first one that can be watched. */
        if (m->compact_revision > 0) hub_skip_to(s->hub, MAX_OF(m->compact_revision - 1, hub_rev(s->hub)));
        return false;
    }
    _cleanup_version_vec_ struct version_vec items = {0};
    int64_t rev = 0;
    for (size_t i = 0; i < m->events.n; i++) {
        struct version *v = version_of(&m->events.items[i]);
        if (v) version_vec_add(&items, v);
        if (m->events.items[i].kv) rev = m->events.items[i].kv->mod_revision;
    }
    /* A message without events after creation is a progress notice. */
    if (!m->events.n && !m->created && m->header) rev = m->header->revision;
    if (rev) hub_publish(s->hub, items.items, items.n, rev, false);
    return true;
}

static void on_end(struct etcd_call *c) {
    struct etcd *s = c->s;
    s->watch_running = false;
    s->watch_at = mono_ns() + s->watch_backoff_ms * NS_PER_MS;
    s->watch_backoff_ms = MIN_OF(s->watch_backoff_ms * 2, (int64_t)ETCD_BACKOFF_MAX_MS);
}

int etcd_watch_tick(struct etcd *s) {
    pthread_mutex_lock(&s->lock);
    struct hub *h = s->hub;
    pthread_mutex_unlock(&s->lock);
    if (!h || s->watch_running) return -1;
    int64_t left = s->watch_at - mono_ns();
    if (left > 0) return (int)(left / NS_PER_MS) + 1;
    s->watch.s = s;
    s->watch.rpc = ETCD_WATCH;
    s->watch.on_message = on_message;
    s->watch.on_end = on_end;
    watch_body(&s->watch, hub_rev(h) + 1);
    s->watch_running = true;
    etcd_submit(&s->watch);
    return -1;
}

/* ---- history ---- */

struct replay {
    const char *prefix;
    int64_t to;
    size_t max;
    struct version_vec *out;
    int64_t *reached;
    bool compacted;
};

static bool replay_message(struct etcd_call *c, const struct etcd_watch_response *m) {
    struct replay *r = c->arg;
    r->compacted |= m->canceled && m->compact_revision > 0;
    if (m->canceled) return false;
    for (size_t i = 0; i < m->events.n; i++) {
        const struct etcd_event *ev = &m->events.items[i];
        if (!ev->kv || ev->kv->mod_revision > r->to) {
            *r->reached = r->to;
            return false;
        }
        struct version *v = version_of(ev);
        if (v && str_has_prefix(v->key, r->prefix))
            version_vec_add(r->out, v);
        else
            version_unref(v);
    }
    if (m->events.n) *r->reached = m->events.items[m->events.n - 1].kv->mod_revision;
    return *r->reached < r->to && r->out->n < r->max;
}

static int etcd_replay(void *arg, const char *prefix, int64_t after, int64_t to, size_t max, struct version_vec *out,
                       int64_t *reached) {
    struct replay r = {.prefix = prefix, .to = to, .max = max, .out = out, .reached = reached};
    struct etcd_call c = {
        .s = arg, .rpc = ETCD_WATCH, .timeout_ms = ETCD_REPLAY_MS, .on_message = replay_message, .arg = &r};
    sem_init(&c.done, 0, 0);
    watch_body(&c, after + 1);
    etcd_submit(&c);
    while (sem_wait(&c.done) < 0) continue;
    sem_destroy(&c.done);
    etcd_call_done(&c);
    if (r.compacted) return -ESTALE;
    return *reached > after ? 0 : -EAGAIN;
}

/* ---- watches of this store ---- */

/* The hub, made at its first use with the current revision. */
static int hub_get(struct etcd *s, struct hub **out, struct err *e) {
    int64_t rev;
    pthread_mutex_lock(&s->lock);
    *out = s->hub;
    pthread_mutex_unlock(&s->lock);
    if (*out) return 0;
    int r = store_current_rev(&s->base, &rev, e);
    if (r < 0) return r;
    pthread_mutex_lock(&s->lock);
    if (!s->hub) s->hub = hub_new(rev, etcd_replay, s);
    *out = s->hub;
    pthread_mutex_unlock(&s->lock);
    curl_multi_wakeup(s->multi);
    return 0;
}

int etcd_watch(struct store *st, const char *prefix, int64_t after_rev, store_watch_fn *fn, void *arg,
               struct store_watch **out, struct err *e) {
    struct hub *h;
    int r = hub_get((struct etcd *)st, &h, e);
    if (r == 0) hub_watch(h, prefix, after_rev, fn, arg, out);
    return r;
}
