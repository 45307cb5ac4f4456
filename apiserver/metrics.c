/* Request metrics with upstream's names, labels and buckets (apiserver/pkg/endpoints/metrics).
 *
 * A series is a combination of verb, resource row, subresource and scope: keyed by pointers, so finding it
 * compares no strings. Series are never freed; beyond SERIES_MAX of them (custom resources that come and go)
 * requests are counted under one series without labels. Paths that are no resources are counted by the few
 * that are served. */
#include "apiserver/metrics.h"

#include <pthread.h>

#include "apiserver/admit.h"
#include "apiserver/audit/audit.h"
#include "apiserver/flow/flow.h"
#include "apiserver/handlers.h"
#include "pkg/base/ktime.h"
#include "pkg/base/prom.h"

enum { SERIES_MAX = 2048, SLOTS = 4096, CODES_MAX = 16, EVENT_ROWS_MAX = 1024 };

static const double durations[] = {0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1,  1.25, 1.5, 2,
                                   3,     4,     5,    6,   8,   10,  15,  20,  30, 45,   60,  0};

struct series {
    const char *verb, *sub, *scope; /* constants, but for the sub of rows, which live as long as the server */
    const struct resource *res;     /* NULL: a path */
    bool lasts;                     /* watches and streams: no durations */
    _Atomic int64_t active;
    _Atomic uint32_t codes[CODES_MAX]; /* 0: free */
    _Atomic uint64_t counts[CODES_MAX];
    struct prom_histogram duration;
};

struct store_series {
    struct prom_histogram duration;
    _Atomic uint64_t failed;
};

struct metrics {
    pthread_mutex_t lock; /* of making series */
    _Atomic(struct series *) slots[SLOTS];
    struct series *all[SERIES_MAX];
    _Atomic size_t n;
    struct series other;
    _Atomic int64_t reading, writing; /* requests being worked on that end by themselves */
    _Atomic uint64_t events[EVENT_ROWS_MAX];
    _Atomic(const struct resource *) event_rows[EVENT_ROWS_MAX];
    _Atomic(struct store_series *) stores[EVENT_ROWS_MAX][METRICS_STORE_OPS]; /* made with the first */
    _Atomic(const struct resource *) store_rows[EVENT_ROWS_MAX];
};

struct metrics *metrics_new(void) {
    struct metrics *m = xcalloc(1, sizeof(*m));
    pthread_mutex_init(&m->lock, NULL);
    m->other = (struct series){.verb = "", .sub = "", .scope = ""};
    return m;
}

void metrics_free(struct metrics *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) free(m->all[i]);
    for (size_t i = 0; i < EVENT_ROWS_MAX; i++)
        for (size_t k = 0; k < METRICS_STORE_OPS; k++) free(m->stores[i][k]);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- which series ---- */

static const char *verb_label(const struct request *q) {
    static const char *const map[][2] = {
        {"get", "GET"},    {"list", "LIST"},   {"watch", "WATCH"},   {"create", "POST"},
        {"update", "PUT"}, {"patch", "PATCH"}, {"delete", "DELETE"}, {"deletecollection", "DELETECOLLECTION"},
        {"post", "POST"},  {"put", "PUT"}};
    static const char *const connect[] = {"exec", "attach", "portforward", "proxy"};
    for (size_t i = 0; q->sub && i < ARRAY_LEN(connect); i++)
        if (str_eq(q->sub->name, connect[i])) return "CONNECT";
    if (str_eq(q->verb, "patch") &&
        str_has_prefix(str_or_empty(http_header(q->http, "content-type")), "application/apply-patch"))
        return "APPLY";
    for (size_t i = 0; i < ARRAY_LEN(map); i++)
        if (str_eq(q->verb, map[i][0])) return map[i][1];
    return "OTHER";
}

static const char *path_label(const char *path) {
    static const char *const paths[] = {"/healthz",    "/livez",  "/readyz",      "/metrics", "/version", "/openapi/v2",
                                        "/openapi/v3", "/openid", "/.well-known", "/debug",   "/apis",    "/api"};
    for (size_t i = 0; i < ARRAY_LEN(paths); i++)
        if (str_has_prefix(path, paths[i])) return paths[i];
    return "/";
}

static const char *scope_label(const struct request *q) {
    if (!q->res) return "";
    if (q->name || str_eq(q->verb, "create")) return "resource";
    return q->ns ? "namespace" : "cluster";
}

static size_t slot_of(const struct series *k) {
    uint64_t h = (uintptr_t)k->verb * UINT64_C(0x9E3779B97F4A7C15) ^ (uintptr_t)k->res * UINT64_C(0xC2B2AE3D27D4EB4F) ^
                 (uintptr_t)k->sub * UINT64_C(0x165667B19E3779F9) ^ (uintptr_t)k->scope;
    return (size_t)(h >> 40) % SLOTS;
}

static bool same(const struct series *x, const struct series *y) {
    return x->verb == y->verb && x->res == y->res && x->sub == y->sub && x->scope == y->scope;
}

static struct series *find(struct metrics *m, const struct series *key) {
    struct series *s;
    for (size_t i = slot_of(key); (s = atomic_load_explicit(&m->slots[i], memory_order_acquire)); i = (i + 1) % SLOTS)
        if (same(s, key)) return s;
    return NULL;
}

static struct series *make(struct metrics *m, const struct series *key) {
    pthread_mutex_lock(&m->lock);
    struct series *s = find(m, key);
    if (!s && m->n < SERIES_MAX) {
        size_t i = slot_of(key);
        s = xcalloc(1, sizeof(*s));
        s->verb = key->verb, s->sub = key->sub, s->scope = key->scope, s->res = key->res, s->lasts = key->lasts;
        while (atomic_load(&m->slots[i])) i = (i + 1) % SLOTS;
        m->all[m->n] = s;
        atomic_fetch_add(&m->n, 1);
        atomic_store_explicit(&m->slots[i], s, memory_order_release);
    }
    pthread_mutex_unlock(&m->lock);
    return s ? s : &m->other;
}

/* ---- counting ---- */

struct mark {
    struct metrics *m;
    struct series *s;
    bool write;
};

static bool writes(const char *verb) {
    static const char *const reads[] = {"GET", "LIST", "WATCH", "CONNECT"};
    for (size_t i = 0; i < ARRAY_LEN(reads); i++)
        if (str_eq(verb, reads[i])) return false;
    return true;
}

void metrics_begin(struct metrics *m, struct request *q) {
    struct series key = {.verb = verb_label(q), .res = q->res, .scope = scope_label(q)};
    struct mark *k = arena_alloc(q->a, sizeof(*k));
    key.sub = q->sub ? q->sub->name : q->res ? "" : q->is_resource ? "/apis" : path_label(q->http->path);
    key.lasts = str_eq(key.verb, "WATCH") || (q->sub && request_is_long(q));
    struct series *s = find(m, &key);
    *k = (struct mark){m, s ? s : make(m, &key), writes(key.verb)};
    atomic_fetch_add_explicit(k->s->lasts ? &k->s->active
                              : k->write  ? &m->writing
                                          : &m->reading,
                              1, memory_order_relaxed);
    q->http->context = k;
}

static void count_code(struct series *s, uint32_t code) {
    for (size_t i = 0; i < CODES_MAX; i++) {
        uint32_t have = atomic_load_explicit(&s->codes[i], memory_order_relaxed);
        if (!have && atomic_compare_exchange_strong(&s->codes[i], &have, code)) have = code;
        if (have != code && i < CODES_MAX - 1) continue;
        atomic_fetch_add_explicit(&s->counts[i], 1, memory_order_relaxed);
        return;
    }
}

void metrics_over(struct http_req *r, void *arg) {
    struct mark *k = r->context;
    int code = http_req_status(r);
    if (!k) return;
    struct series *s = k->s;
    atomic_fetch_sub_explicit(s->lasts   ? &s->active
                              : k->write ? &k->m->writing
                                         : &k->m->reading,
                              1, memory_order_relaxed);
    count_code(s, code ? (uint32_t)code : 499); /* the client went before there was an answer */
    if (!s->lasts) prom_observe(&s->duration, durations, mono_ns() - r->start_ns);
}

void metrics_watch_event(struct metrics *m, const struct resource *r) {
    if (r->index >= EVENT_ROWS_MAX) return;
    atomic_store_explicit(&m->event_rows[r->index], r, memory_order_relaxed);
    atomic_fetch_add_explicit(&m->events[r->index], 1, memory_order_relaxed);
}

void metrics_store(struct metrics *m, const struct resource *r, enum metrics_store_op op, int64_t began_ns,
                   bool failed) {
    if (r->index >= EVENT_ROWS_MAX) return;
    struct store_series *s = atomic_load_explicit(&m->stores[r->index][op], memory_order_acquire), *mine = NULL;
    if (!s) {
        mine = xcalloc(1, sizeof(*mine));
        if (atomic_compare_exchange_strong(&m->stores[r->index][op], &s, mine))
            s = mine;
        else
            free(mine); /* s is the other's */
        atomic_store_explicit(&m->store_rows[r->index], r, memory_order_release);
    }
    prom_observe(&s->duration, durations, mono_ns() - began_ns);
    if (failed) atomic_fetch_add_explicit(&s->failed, 1, memory_order_relaxed);
}

/* ---- writing ---- */

/* Of what kind: 0 durations, 1 numbers, 2 failures. */
static void write_store_requests(struct metrics *m, struct buf *b, int kind) {
    static const char *const ops[METRICS_STORE_OPS] = {"create", "update", "delete"};
    for (size_t i = 0; i < EVENT_ROWS_MAX; i++)
        for (size_t k = 0; k < METRICS_STORE_OPS; k++) {
            struct store_series *s = atomic_load_explicit(&m->stores[i][k], memory_order_acquire);
            const struct resource *r = atomic_load_explicit(&m->store_rows[i], memory_order_acquire);
            if (!s || !r) continue;
            _cleanup_free_ char *l =
                xasprintf("group=\"%s\",operation=\"%s\",resource=\"%s\"", r->group, ops[k], r->plural);
            uint64_t n = 0;
            for (size_t j = 0; j <= PROM_BUCKETS_MAX; j++) n += atomic_load(&s->duration.counts[j]);
            if (kind == 0) prom_write(b, "etcd_request_duration_seconds", l, &s->duration, durations);
            if (kind == 1) buf_printf(b, "etcd_requests_total{%s} %llu\n", l, (unsigned long long)n);
            if (kind == 2)
                buf_printf(b, "etcd_request_errors_total{%s} %llu\n", l, (unsigned long long)atomic_load(&s->failed));
        }
}

static void labels(struct buf *b, const struct series *s) {
    const struct resource *r = s->res;
    buf_reset(b);
    buf_printf(b,
               "component=\"apiserver\",dry_run=\"\",group=\"%s\",resource=\"%s\",scope=\"%s\",subresource=\"%s\","
               "verb=\"%s\",version=\"%s\"",
               r ? r->group : "", r ? r->plural : "", s->scope, s->sub, s->verb, r ? r->version : "");
}

static void write_requests(struct metrics *m, struct buf *b) {
    _cleanup_buf_ struct buf l = BUF_INIT;
    size_t n = atomic_load(&m->n);
    prom_head(b, "apiserver_request_total", "counter",
              "Requests by verb, group, version, resource, scope, component and status code.");
    for (size_t i = 0; i < n; i++) {
        labels(&l, m->all[i]);
        for (size_t k = 0; k < CODES_MAX && m->all[i]->codes[k]; k++)
            buf_printf(b, "apiserver_request_total{code=\"%u\",%s} %llu\n", m->all[i]->codes[k], l.data,
                       (unsigned long long)m->all[i]->counts[k]);
    }
    prom_head(b, "apiserver_request_duration_seconds", "histogram",
              "Time from a request's head to the end of its answer, in seconds.");
    for (size_t i = 0; i < n; i++) {
        labels(&l, m->all[i]);
        if (!m->all[i]->lasts)
            prom_write(b, "apiserver_request_duration_seconds", l.data, &m->all[i]->duration, durations);
    }
    prom_head(b, "apiserver_longrunning_requests", "gauge", "Watches and streams that are open.");
    for (size_t i = 0; i < n; i++) {
        labels(&l, m->all[i]);
        if (m->all[i]->lasts)
            buf_printf(b, "apiserver_longrunning_requests{%s} %lld\n", l.data, (long long)m->all[i]->active);
    }
    prom_head(b, "apiserver_current_inflight_requests", "gauge",
              "Requests that are being worked on, without watches and streams.");
    buf_printf(b, "apiserver_current_inflight_requests{request_kind=\"mutating\"} %lld\n", (long long)m->writing);
    buf_printf(b, "apiserver_current_inflight_requests{request_kind=\"readOnly\"} %lld\n", (long long)m->reading);
    prom_head(b, "apiserver_watch_events_total", "counter", "Events sent to watches.");
    for (size_t i = 0; i < EVENT_ROWS_MAX; i++) {
        const struct resource *r = atomic_load(&m->event_rows[i]);
        if (r)
            buf_printf(b, "apiserver_watch_events_total{group=\"%s\",kind=\"%s\",version=\"%s\"} %llu\n", r->group,
                       r->kind, r->version, (unsigned long long)m->events[i]);
    }
}

static void write_store_all(struct metrics *m, struct buf *b) {
    prom_head(b, "etcd_request_duration_seconds", "histogram",
              "Latency of transactions with the store, etcd or embedded, for each operation and object type.");
    write_store_requests(m, b, 0);
    prom_head(b, "etcd_requests_total", "counter", "Transactions with the store, for each operation and object type.");
    write_store_requests(m, b, 1);
    prom_head(b, "etcd_request_errors_total", "counter",
              "Transactions with the store that failed, for each operation and object type.");
    write_store_requests(m, b, 2);
}

static void write_storage(struct apiserver *s, struct buf *b) {
    static const char *const names[] = {"apiserver_storage_objects", "apiserver_resource_objects"};
    _cleanup_arena_ struct arena *a = arena_new();
    size_t n;
    const struct resource *const *rows = resource_table_rows(s->resources, a, &n);
    for (size_t k = 0; k < ARRAY_LEN(names); k++) {
        prom_head(b, names[k], "gauge", "Objects in the store, by resource.");
        for (size_t i = 0; i < n; i++) {
            const struct resource *r = rows[i];
            long long count = r->stored == RES_STORED && !r->storage ? (long long)watchcache_count(s->cache, r) : -1;
            if (count >= 0 && k == 0)
                buf_printf(b, "%s{resource=\"%s%s%s\"} %lld\n", names[k], r->plural, *r->group ? "." : "", r->group,
                           count);
            else if (count >= 0)
                buf_printf(b, "%s{group=\"%s\",resource=\"%s\"} %lld\n", names[k], r->group, r->plural, count);
        }
    }
    prom_head(b, "apiserver_storage_size_bytes", "gauge", "Size of the store in bytes.");
    buf_printf(b, "apiserver_storage_size_bytes{storage_cluster_id=\"%s\"} %lld\n", s->embedded ? "sqlite" : "etcd",
               (long long)store_size(s->store));
    prom_head(b, "apiserver_resource_version", "gauge", "The newest revision that the watch cache has seen.");
    buf_printf(b, "apiserver_resource_version %lld\n", (long long)watchcache_rev(s->cache));
}

void metrics_write(struct apiserver *s, struct buf *b) {
    struct http_server_stats st = {0};
    http_server_get_stats(s->http, &st);
    write_requests(s->metrics, b);
    write_storage(s, b);
    write_store_all(s->metrics, b);
    prom_head(b, "apiserver_open_connections", "gauge", "Connections that are open.");
    buf_printf(b, "apiserver_open_connections %zu\n", st.connections);
    prom_head(b, "apiserver_registered_watchers", "gauge", "Watches that are open.");
    buf_printf(b, "apiserver_registered_watchers %zu\n", watch_hub_count(s->watches));
    flow_metrics(admission_flow(s), b);
    if (s->audit) {
        prom_head(b, "apiserver_audit_error_total", "counter", "Audit events that were lost.");
        if (s->audit->log)
            buf_printf(b, "apiserver_audit_error_total{plugin=\"log\"} %llu\n",
                       (unsigned long long)audit_log_lost(s->audit->log));
        if (s->audit->hook)
            buf_printf(b, "apiserver_audit_error_total{plugin=\"webhook\"} %llu\n",
                       (unsigned long long)audit_hook_lost(s->audit->hook));
    }
    prom_build_info(b, CORACLE_VERSION);
    prom_process(b);
}
