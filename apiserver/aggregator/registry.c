/* Who the back ends are: a small table, fed with APIServices by the follower in conditions.c, and the thread
 * that checks them. Requests look into the table only when there is anything in it. The thread sleeps without
 * a time limit when there is nothing to check. */
#include "apiserver/aggregator/internal.h"
#include "apiserver/forward.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

enum { CONNECT_MS = 5000, IDLE_CLIENTS = 16 };

/* ---- back ends ---- */

struct agg_back *agg_back_ref(struct agg_back *b) {
    atomic_fetch_add(&b->refs, 1);
    return b;
}

void agg_back_unref(struct agg_back *b) {
    if (!b || atomic_fetch_sub(&b->refs, 1) != 1) return;
    agg_dial_unref(b->dial);
    rbytes_unref(b->resources);
    rbytes_unref(b->v2);
    pthread_mutex_destroy(&b->lock);
    char *const strings[] = {b->name, b->group, b->version, b->spec, b->ns, b->service, b->ca_pem};
    for (size_t i = 0; i < ARRAY_LEN(strings); i++) free(strings[i]);
    free(b);
}

static struct agg_back *back_new(const char *name, const char *group, const char *version) {
    struct agg_back *b = xcalloc(1, sizeof(*b));
    atomic_init(&b->refs, 1);
    pthread_mutex_init(&b->lock, NULL);
    b->name = xstrdup(name);
    b->group = xstrdup(group);
    b->version = xstrdup(version);
    return b;
}

static char *ca_of(struct arena *a, const struct json *spec) {
    const char *b64 = json_get_str(spec, "caBundle");
    size_t n = 0;
    if (str_empty(b64)) return NULL;
    char *raw = arena_alloc(a, strlen(b64) + 1);
    if (base64_decode(b64, strlen(b64), raw, &n)) return NULL;
    raw[n] = 0;
    return xstrdup(raw);
}

static struct agg_back *back_of(const char *name, const struct json *spec) {
    _cleanup_arena_ struct arena *a = arena_new();
    const struct json *ref = json_get(spec, "service");
    struct agg_back *b =
        back_new(name, str_or_empty(json_get_str(spec, "group")), str_or_empty(json_get_str(spec, "version")));
    b->spec = xstrdup(json_text(a, spec));
    b->group_priority = json_get_int(spec, "groupPriorityMinimum", 0);
    b->version_priority = json_get_int(spec, "versionPriority", 0);
    b->ns = xstrdup(str_or_empty(json_get_str(ref, "namespace")));
    b->service = xstrdup(str_or_empty(json_get_str(ref, "name")));
    b->port = json_get_int(ref, "port", 443);
    b->insecure = json_get_bool(spec, "insecureSkipTLSVerify", false);
    b->ca_pem = ca_of(a, spec);
    return b;
}

/* ---- the table ---- */

static size_t index_of(const struct aggregator *g, const char *name) {
    size_t i = 0;
    while (i < g->n && (g->items[i]->local || !str_eq(g->items[i]->name, name))) i++;
    return i;
}

void aggregator_service(struct aggregator *g, const char *name, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec");
    bool remote = json_is(json_get(spec, "service"), JSON_OBJECT);
    struct agg_back *b = remote ? back_of(name, spec) : NULL;
    pthread_mutex_lock(&g->lock);
    size_t i = index_of(g, name);
    bool known = i < g->n;
    if (known && b && str_eq(g->items[i]->spec, b->spec)) { /* its status has changed */
        pthread_mutex_unlock(&g->lock);
        agg_back_unref(b);
        return;
    }
    if (known) {
        agg_back_unref(g->items[i]);
        g->items[i] = g->items[--g->n];
    }
    if (b && g->n < AGG_BACKS_MAX) g->items[g->n++] = take_ptr(b);
    if (known || remote) {
        atomic_fetch_add(&g->changes, 1);
        pthread_cond_signal(&g->cond);
    }
    pthread_mutex_unlock(&g->lock);
    agg_back_unref(b); /* one too many */
}

void aggregator_add_local(struct aggregator *g, const struct agg_local *l, void *arg) {
    struct agg_back *b = back_new("", l->group, l->version);
    b->group_priority = l->group_priority;
    b->version_priority = l->version_priority;
    b->local = l;
    b->local_arg = arg;
    b->available = true;
    b->resources = rbytes_new(l->resources, strlen(l->resources));
    snprintf(b->v3_hash, sizeof(b->v3_hash), "%08X", hash_bytes(l->definitions, strlen(l->definitions)));
    pthread_mutex_lock(&g->lock);
    g->items[g->n++] = b;
    atomic_fetch_add(&g->changes, 1);
    pthread_mutex_unlock(&g->lock);
}

/* The lock is held. */
static struct agg_back *find(struct aggregator *g, const char *group, const char *version) {
    struct agg_back *found = NULL;
    for (size_t i = 0; i < g->n; i++) {
        struct agg_back *b = g->items[i];
        if (str_eq(b->group, group) && str_eq(b->version, version) && (!found || found->local)) found = b;
    }
    return found;
}

struct agg_back *agg_find(struct aggregator *g, const char *group, const char *version) {
    if (!g || !atomic_load_explicit(&g->n, memory_order_relaxed)) return NULL;
    pthread_mutex_lock(&g->lock);
    struct agg_back *b = find(g, group, version);
    if (b) agg_back_ref(b);
    pthread_mutex_unlock(&g->lock);
    return b;
}

static int by_priority(const void *x, const void *y) {
    const struct agg_back *a = *(struct agg_back *const *)x, *b = *(struct agg_back *const *)y;
    if (a->group_priority != b->group_priority) return a->group_priority > b->group_priority ? -1 : 1;
    int c = strcmp(a->group, b->group);
    if (c) return c;
    if (a->version_priority != b->version_priority) return a->version_priority > b->version_priority ? -1 : 1;
    return strcmp(a->version, b->version);
}

struct agg_back **agg_all(struct aggregator *g, struct arena *a, size_t *n) {
    *n = 0;
    if (!g || !atomic_load(&g->n)) return NULL;
    pthread_mutex_lock(&g->lock);
    struct agg_back **list = arena_alloc(a, (g->n + 1) * sizeof(*list));
    for (size_t i = 0; i < g->n; i++)
        if (find(g, g->items[i]->group, g->items[i]->version) == g->items[i]) list[(*n)++] = agg_back_ref(g->items[i]);
    pthread_mutex_unlock(&g->lock);
    qsort(list, *n, sizeof(*list), by_priority);
    return list;
}

void agg_release(struct agg_back **list, size_t n) {
    for (size_t i = 0; i < n; i++) agg_back_unref(list[i]);
}

uint64_t aggregator_changes(struct aggregator *g) { return g ? atomic_load(&g->changes) : 0; }

/* ---- clients ---- */

void agg_dial_unref(struct agg_dial *d) {
    if (!d || atomic_fetch_sub(&d->refs, 1) != 1) return;
    http_client_free(d->client);
    free(d->address);
    free(d);
}

static struct agg_dial *dial_new(struct aggregator *g, const struct agg_back *b, const char *address, struct err *e) {
    const struct apiserver_options *o = &g->s->opt;
    _cleanup_free_ char *url = xasprintf("https://%s", address), *name = xasprintf("%s.%s.svc", b->service, b->ns);
    struct http_client_options ho = {.base_url = url,
                                     .server_name = name,
                                     .ca_pem = b->ca_pem,
                                     .insecure = b->insecure,
                                     .cert_file = str_empty(o->proxy_cert) ? NULL : o->proxy_cert,
                                     .key_file = str_empty(o->proxy_cert) ? NULL : o->proxy_key,
                                     .connect_ms = CONNECT_MS,
                                     .idle_handles = IDLE_CLIENTS};
    struct http_client *c = http_client_new(&ho, e);
    if (!c) return NULL;
    struct agg_dial *d = xcalloc(1, sizeof(*d));
    atomic_init(&d->refs, 1);
    d->address = xstrdup(address);
    d->client = c;
    return d;
}

int agg_dial(struct aggregator *g, struct agg_back *b, struct arena *a, struct agg_dial **out, struct err *e) {
    const char *port = arena_printf(a, "%lld", (long long)b->port);
    const char *address = forward_service(g->s, a, b->ns, b->service, port, true, e);
    int rc = 0;
    if (!address) return -ENOENT;
    pthread_mutex_lock(&b->lock);
    if (!b->dial || !str_eq(b->dial->address, address)) {
        agg_dial_unref(b->dial);
        b->dial = dial_new(g, b, address, e);
    }
    if (!b->dial) {
        rc = -EIO;
    } else {
        atomic_fetch_add(&b->dial->refs, 1);
        *out = b->dial;
    }
    pthread_mutex_unlock(&b->lock);
    return rc;
}

/* ---- the checker ---- */

/* One that is due, with a reference; else NULL and when the next is (0: none). The lock is held. */
static struct agg_back *due(struct aggregator *g, int64_t *next) {
    int64_t now = mono_ns();
    *next = 0;
    for (size_t i = 0; i < g->n; i++) {
        struct agg_back *b = g->items[i];
        if (b->local) continue;
        if (b->next_check_ns <= now) return agg_back_ref(b);
        if (!*next || b->next_check_ns < *next) *next = b->next_check_ns;
    }
    return NULL;
}

static void *run(void *arg) {
    struct aggregator *g = arg;
    pthread_mutex_lock(&g->lock);
    while (!http_cancelled(&g->stop)) {
        int64_t next;
        struct agg_back *b = due(g, &next);
        if (b) {
            pthread_mutex_unlock(&g->lock);
            agg_check(g, b);
            agg_back_unref(b);
            pthread_mutex_lock(&g->lock);
            continue;
        }
        struct timespec until = {.tv_sec = next / NS_PER_SEC, .tv_nsec = next % NS_PER_SEC};
        if (next)
            pthread_cond_timedwait(&g->cond, &g->lock, &until);
        else
            pthread_cond_wait(&g->cond, &g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

int aggregator_open(struct apiserver *s, struct aggregator **out, struct err *e) {
    struct aggregator *g = xcalloc(1, sizeof(*g));
    pthread_condattr_t attr;
    g->s = s;
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->cond, &attr);
    pthread_condattr_destroy(&attr);
    *out = g;
    int rc = http_cancel_init(&g->stop, e);
    if (rc) return rc;
    g->started = pthread_create(&g->thread, NULL, run, g) == 0;
    return g->started ? 0 : err_set(e, -EAGAIN, "no thread for aggregated API servers");
}

void aggregator_close(struct aggregator *g) {
    if (!g) return;
    http_cancel_set(&g->stop);
    pthread_mutex_lock(&g->lock);
    pthread_cond_signal(&g->cond);
    pthread_mutex_unlock(&g->lock);
    if (g->started) pthread_join(g->thread, NULL);
    agg_release(g->items, g->n);
    http_cancel_done(&g->stop);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->cond);
    free(g);
}
