/* Informers: the reflector (list, watch, resume, relist) over a cache, and the handlers.
 *
 * Everything but the cache's getters happens on the client's thread, so an informer is a small state machine
 * without locks:
 *
 *   LISTING   pages of a list are under way; each item goes into the cache as it is read. After a relist,
 * what the list did not contain is deleted. WATCHING  a stream of events from resourceVersion `rv`; bookmarks
 * advance it. WAITING   a timer will list or watch again, after a failure.
 *
 * Watches end after five to ten minutes by our own wish (timeoutSeconds), so that a half-dead connection can
 * not stay unnoticed for ever, and resume where they were. */
#include "informer.h"

#include <pthread.h>

#include "cache.h"
#include "object.h"
#include "pkg/api/meta.h"
#include "pkg/base/bytes.h"
#include "pkg/base/ktime.h"
#include "pkg/base/log.h"
#include "pkg/base/map.h"

enum { PAGE = 500, EVENT_MAX = 64 * 1024 * 1024, WATCH_SECONDS = 300, WATCH_SLACK_SECONDS = 30 };
#define BACKOFF_MIN (100 * NS_PER_MS)
#define BACKOFF_MAX (2 * NS_PER_SEC)

struct handler {
    struct handler *next;
    struct informer *i;
    struct informer_handler h;
};

struct informer {
    unsigned refs; /* the owner's, and one for each timer and request under way; thread's own */
    struct client *c;
    const struct client_resource *r;
    const struct api_type *type;
    struct informer_opts opts; /* strings live in `arena` */
    struct arena *arena, *scratch;
    struct cache *cache;
    struct handler *handlers, **handlers_tail;
    char *rv, *next_page;
    struct map *seen; /* keys of a relist */
    struct client_stream *stream;
    struct buf line;
    int64_t backoff, watch_started;
    bool dead, need_list, event_seen;
    size_t managed_offset;
    /* for other threads */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool listed, disconnected, stopped;
    unsigned pending_handlers;
};

static void start(struct informer *i);

static void release(struct informer *i) {
    if (--i->refs > 0) return;
    while (i->handlers) {
        struct handler *h = i->handlers;
        i->handlers = h->next;
        free(h);
    }
    cache_free(i->cache);
    if (i->seen) map_done(i->seen);
    free(i->seen);
    free(i->rv);
    free(i->next_page);
    buf_done(&i->line);
    arena_free(i->scratch);
    arena_free(i->arena);
    pthread_mutex_destroy(&i->lock);
    pthread_cond_destroy(&i->cond);
    free(i);
}

static void set_str(char **slot, const char *s) {
    char *fresh = str_empty(s) ? NULL : xstrdup(s);
    free(*slot);
    *slot = fresh;
}

static void set_disconnected(struct informer *i, bool on) {
    pthread_mutex_lock(&i->lock);
    i->disconnected = on;
    pthread_mutex_unlock(&i->lock);
}

/* ---- waiting ---- */

static void retry(void *arg) {
    struct informer *i = arg;
    if (!i->dead) start(i);
    release(i);
}

static void later(struct informer *i, int64_t ns) {
    i->refs++;
    client_call_later(i->c, ns, retry, i);
}

static void back_off(struct informer *i) {
    uint32_t dice;
    random_bytes(&dice, sizeof(dice));
    i->backoff = i->backoff ? MIN_OF(i->backoff * 2, BACKOFF_MAX) : BACKOFF_MIN;
    later(i, i->backoff + (int64_t)(dice % 1000) * i->backoff / 1000);
    set_disconnected(i, true);
}

/* ---- objects ---- */

/* Decodes into an object of exactly the room it needs. NULL when it can not be read. */
static struct object *decode(struct informer *i, const char *p, size_t n) {
    _cleanup_err_ struct err e = {0};
    arena_reset(i->scratch);
    void *obj = arena_zalloc(i->scratch, i->type->size);
    if (api_from_json(i->scratch, i->type, p, n, obj, &e) < 0) {
        log_error("object from the server cannot be read", "resource", i->r->plural, "error", e.msg, NULL);
        return NULL;
    }
    const struct api_field *mf = api_field_find(i->type, "metadata");
    struct meta_object_meta *m = (void *)((char *)obj + mf->offset);
    if (!i->opts.keep_managed_fields) m->managed_fields.n = 0;
    if (i->opts.transform) i->opts.transform(obj);
    struct arena *a = arena_new_sized(arena_used(i->scratch) + sizeof(struct object) + 64);
    return object_adopt(a, i->r, i->type, api_clone(a, i->type, obj));
}

static void upsert(struct informer *i, struct object *o) {
    struct object *old = cache_put(i->cache, o);
    if (old && strcmp(old->rv, o->rv) == 0) { /* seen already: a relist */
        object_unref(old);
        return;
    }
    for (struct handler *h = i->handlers; h; h = h->next) {
        if (old && h->h.on_update) h->h.on_update(h->h.arg, old, o);
        if (!old && h->h.on_add) h->h.on_add(h->h.arg, o);
    }
    object_unref(old);
}

static void forget(struct informer *i, const char *key, struct object *last) {
    struct object *old = cache_del(i->cache, key);
    if (!old) return;
    for (struct handler *h = i->handlers; h; h = h->next)
        if (h->h.on_delete) h->h.on_delete(h->h.arg, last ? last : old);
    object_unref(old);
}

/* ---- listing ---- */

static void listed(struct informer *i) {
    if (i->seen) {
        struct object_list all = {0};
        cache_list(i->cache, NULL, &all);
        for (size_t k = 0; k < all.n; k++)
            if (!map_has(i->seen, all.items[k]->key)) forget(i, all.items[k]->key, NULL);
        object_list_done(&all);
        map_done(i->seen);
        free(take_ptr(i->seen));
    }
    i->need_list = false;
    i->backoff = 0;
    pthread_mutex_lock(&i->lock);
    i->listed = true;
    i->disconnected = false;
    pthread_cond_broadcast(&i->cond);
    pthread_mutex_unlock(&i->lock);
}

static void take_item(struct informer *i, const char *p, size_t n) {
    _cleanup_object_ struct object *o = decode(i, p, n);
    if (!o) return;
    if (i->seen) map_put(i->seen, o->key, i);
    upsert(i, o);
}

static int take_page(struct informer *i, const struct client_response *resp, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json_reader r;
    const char *raw;
    size_t n;
    enum json_tok tok;
    json_reader_init(&r, a, resp->body, resp->len);
    if (json_next(&r) != JTOK_OBJ_BEGIN) return err_set(e, -EINVAL, "the list is no object");
    while ((tok = json_next(&r)) == JTOK_KEY) {
        if (strcmp(r.str, "items") == 0) {
            if ((tok = json_next(&r)) == JTOK_NULL) continue;
            if (tok != JTOK_ARR_BEGIN) return err_set(e, -EINVAL, "items is no array");
            while (json_next(&r) == JTOK_OBJ_BEGIN) {
                if (!json_skip(&r, &raw, &n)) return json_reader_err(&r, e);
                take_item(i, raw, n);
            }
        } else if (strcmp(r.str, "metadata") == 0) {
            struct meta_list_meta m = {0};
            if (!json_skip(&r, &raw, &n)) break;
            if (api_from_json(a, &api_meta_list_meta, raw, n, &m, e) < 0) return -EINVAL;
            set_str(&i->next_page, m.continue_);
            set_str(&i->rv, m.resource_version);
        } else if (!json_skip(&r, NULL, NULL)) {
            break;
        }
    }
    if (r.failed) return json_reader_err(&r, e);
    return i->rv ? 0 : err_set(e, -EINVAL, "the list has no resourceVersion");
}

static void on_page(void *arg, int result, const struct client_response *resp, struct err *e) {
    struct informer *i = arg;
    if (!i->dead) {
        _cleanup_err_ struct err pe = {0};
        if (result == 0) result = take_page(i, resp, &pe);
        if (result < 0) {
            if (result != -ECANCELED)
                log_debug("list failed", "resource", i->r->plural, "error", e->msg[0] ? e->msg : pe.msg, NULL);
            set_str(&i->next_page, NULL);
            back_off(i);
        } else {
            if (!i->next_page) listed(i);
            start(i);
        }
    }
    release(i);
}

static char *base_path(struct informer *i, struct arena *a) {
    char *path = client_path(a, i->r, i->opts.ns, NULL, NULL);
    path = client_path_query(a, path, "labelSelector", i->opts.label_selector);
    return client_path_query(a, path, "fieldSelector", i->opts.field_selector);
}

static const char *accept_of(const struct informer *i, bool list) {
    if (!i->opts.metadata_only) return NULL;
    return list ? "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
                : "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
}

static void list_page(struct informer *i) {
    _cleanup_arena_ struct arena *a = arena_new();
    char *path = base_path(i, a), limit[16];
    snprintf(limit, sizeof(limit), "%d", PAGE);
    path = client_path_query(a, path, "limit", limit);
    path = client_path_query(a, path, "continue", i->next_page);
    if (!i->next_page) path = client_path_query(a, path, "resourceVersion", i->listed ? NULL : "0");
    if (!i->next_page && cache_count(i->cache)) {
        if (i->seen)
            map_done(i->seen);
        else
            i->seen = xmalloc(sizeof(*i->seen));
        *i->seen = (struct map)MAP_INIT;
    }
    struct client_request rq = {.method = "GET", .path = path, .accept = accept_of(i, true)};
    i->refs++;
    client_do_async(i->c, &rq, on_page, i);
}

/* ---- watching ---- */

/* An ERROR event, or a refusal of the watch: 410 asks for a new list, anything else for patience. */
static void watch_refused(struct informer *i, const char *p, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *s = NULL;
    if (json_parse(a, p, n, &s, NULL, NULL) == 0 && json_get_int(s, "code", 0) == 410) i->need_list = true;
}

static void take_bookmark(struct informer *i, const char *p, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct meta_partial_object_metadata m = {0};
    if (api_from_json(a, &api_meta_partial_object_metadata, p, n, &m, NULL) == 0)
        set_str(&i->rv, m.metadata.resource_version);
}

static void take_event(struct informer *i, const char *type, const char *p, size_t n) {
    if (strcmp(type, "BOOKMARK") == 0) {
        take_bookmark(i, p, n);
        return;
    }
    if (strcmp(type, "ERROR") == 0) {
        watch_refused(i, p, n);
        return;
    }
    _cleanup_object_ struct object *o = decode(i, p, n);
    if (!o) return;
    set_str(&i->rv, o->rv);
    if (strcmp(type, "DELETED") == 0)
        forget(i, o->key, o);
    else
        upsert(i, o);
}

static void take_line(struct informer *i, const char *p, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json_reader r;
    const char *type = NULL, *raw = NULL;
    size_t raw_n = 0;
    json_reader_init(&r, a, p, n);
    if (json_next(&r) != JTOK_OBJ_BEGIN) return;
    while (json_next(&r) == JTOK_KEY) {
        if (strcmp(r.str, "type") == 0) {
            if (json_next(&r) == JTOK_STRING) type = r.str;
        } else if (strcmp(r.str, "object") == 0) {
            if (!json_skip(&r, &raw, &raw_n)) return;
        } else if (!json_skip(&r, NULL, NULL)) {
            return;
        }
    }
    i->event_seen = true;
    if (type && raw) take_event(i, type, raw, raw_n);
}

static void on_watch_data(void *arg, const char *p, size_t n) {
    struct informer *i = arg;
    i->line.limit = EVENT_MAX;
    if (i->disconnected) set_disconnected(i, false);
    while (n && !i->dead) {
        const char *nl = memchr(p, '\n', n);
        if (!nl) {
            buf_add(&i->line, p, n);
            return;
        }
        size_t len = (size_t)(nl - p);
        if (i->line.len) {
            buf_add(&i->line, p, len);
            if (!i->line.failed) take_line(i, i->line.data, i->line.len);
            buf_done(&i->line);
        } else if (len) {
            take_line(i, p, len);
        }
        p = nl + 1;
        n -= len + 1;
    }
}

static void on_watch_end(void *arg, int result, struct err *e) {
    struct informer *i = arg;
    client_stream_close(take_ptr(i->stream));
    buf_done(&i->line);
    if (i->dead) return;
    if (e->status == 410) i->need_list = true;
    bool lived = i->event_seen || mono_ns() - i->watch_started > NS_PER_SEC;
    if (e->status == 404 || e->status == 403) i->need_list = true; /* the resource went away: list until it is back */
    if (lived) {
        i->backoff = 0;
        later(i, 10 * NS_PER_MS);
    } else {
        back_off(i);
    }
}

static void watch(struct informer *i) {
    static const struct client_stream_ops ops = {.data = on_watch_data, .end = on_watch_end};
    _cleanup_arena_ struct arena *a = arena_new();
    uint32_t dice;
    random_bytes(&dice, sizeof(dice));
    int seconds = WATCH_SECONDS + (int)(dice % WATCH_SECONDS);
    char *path = client_path_query(a, base_path(i, a), "watch", "1");
    path = client_path_query(a, path, "allowWatchBookmarks", "true");
    path = client_path_query(a, path, "resourceVersion", i->rv);
    path = client_path_query(a, path, "timeoutSeconds", arena_printf(a, "%d", seconds));
    struct client_request rq = {.method = "GET",
                                .path = path,
                                .accept = accept_of(i, false),
                                .timeout_ms = (int64_t)(seconds + WATCH_SLACK_SECONDS) * 1000};
    i->event_seen = false;
    i->watch_started = mono_ns();
    i->stream = client_stream_open(i->c, &rq, &ops, i);
}

static void start(struct informer *i) {
    if (i->next_page || i->need_list)
        list_page(i);
    else
        watch(i);
}

/* ---- public ---- */

struct informer *informer_new(struct client *c, const struct client_resource *r, const struct informer_opts *o) {
    struct informer *i = xcalloc(1, sizeof(*i));
    i->refs = 1;
    i->c = c;
    i->r = r;
    i->arena = arena_new();
    i->scratch = arena_new();
    if (o) i->opts = *o;
    i->opts.ns = arena_strdup(i->arena, i->opts.ns);
    i->opts.label_selector = arena_strdup(i->arena, i->opts.label_selector);
    i->opts.field_selector = arena_strdup(i->arena, i->opts.field_selector);
    i->type = i->opts.metadata_only ? &api_meta_partial_object_metadata : r->type;
    i->cache = cache_new(r->namespaced);
    i->handlers_tail = &i->handlers;
    i->need_list = true;
    pthread_mutex_init(&i->lock, NULL);
    pthread_cond_init(&i->cond, NULL);
    later(i, 0);
    return i;
}

static void stop(void *arg) {
    struct informer *i = arg;
    i->dead = true;
    client_stream_close(take_ptr(i->stream));
    pthread_mutex_lock(&i->lock);
    i->stopped = true;
    pthread_cond_broadcast(&i->cond);
    pthread_mutex_unlock(&i->lock);
}

static void drop_owner(void *arg) { release(arg); }

void informer_free(struct informer *i) {
    if (!i) return;
    if (client_on_thread(i->c)) {
        stop(i);
    } else {
        client_call_later(i->c, 0, stop, i);
        pthread_mutex_lock(&i->lock);
        while (!i->stopped) pthread_cond_wait(&i->cond, &i->lock);
        pthread_mutex_unlock(&i->lock);
    }
    client_call_later(i->c, 0, drop_owner, i);
}

static void add_handler(void *arg) {
    struct handler *h = arg;
    struct informer *i = h->i;
    if (i->dead) {
        free(h);
        release(i);
        return;
    }
    if (h->h.on_add) {
        struct object_list all = {0};
        cache_list(i->cache, NULL, &all);
        for (size_t k = 0; k < all.n; k++) h->h.on_add(h->h.arg, all.items[k]);
        object_list_done(&all);
    }
    *i->handlers_tail = h;
    i->handlers_tail = &h->next;
    pthread_mutex_lock(&i->lock);
    i->pending_handlers--;
    pthread_cond_broadcast(&i->cond);
    pthread_mutex_unlock(&i->lock);
    release(i);
}

static void ref_and_add(void *arg) {
    struct handler *h = arg;
    h->i->refs++;
    add_handler(h);
}

void informer_add_handler(struct informer *i, const struct informer_handler *h) {
    struct handler *x = xcalloc(1, sizeof(*x));
    x->i = i;
    x->h = *h;
    pthread_mutex_lock(&i->lock);
    i->pending_handlers++;
    pthread_mutex_unlock(&i->lock);
    client_call_later(i->c, 0, ref_and_add, x);
}

bool informer_synced(struct informer *i) {
    pthread_mutex_lock(&i->lock);
    bool synced = i->listed && !i->pending_handlers;
    pthread_mutex_unlock(&i->lock);
    return synced;
}

int informer_wait_synced(struct informer *i, int64_t timeout_ms, struct err *e) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    int r = 0;
    pthread_mutex_lock(&i->lock);
    while ((!i->listed || i->pending_handlers) && r == 0)
        r = timeout_ms < 0 ? pthread_cond_wait(&i->cond, &i->lock) : pthread_cond_timedwait(&i->cond, &i->lock, &until);
    pthread_mutex_unlock(&i->lock);
    return r ? err_set(e, -ETIMEDOUT, "%s could not be listed within %lld ms", i->r->plural, (long long)timeout_ms) : 0;
}

bool informer_disconnected(struct informer *i) {
    pthread_mutex_lock(&i->lock);
    bool d = i->disconnected;
    pthread_mutex_unlock(&i->lock);
    return d;
}

struct object *informer_get(struct informer *i, const char *key) {
    return cache_get(i->cache, key);
}

struct object *informer_get_ns(struct informer *i, const char *ns, const char *name) {
    if (str_empty(ns)) return cache_get(i->cache, name);
    char key[320];
    if (snprintf(key, sizeof(key), "%s/%s", ns, name) >= (int)sizeof(key)) return NULL;
    return cache_get(i->cache, key);
}

void informer_list(struct informer *i, const char *ns, struct object_list *out) { cache_list(i->cache, ns, out); }
size_t informer_count(struct informer *i) { return cache_count(i->cache); }
int informer_add_index(struct informer *i, informer_index_fn *fn) { return cache_add_index(i->cache, fn); }
void informer_by_index(struct informer *i, int index, const char *value, struct object_list *out) {
    cache_by_index(i->cache, index, value, out);
}

/* ---- a set ---- */

struct shared {
    struct shared *next;
    const struct client_resource *r;
    struct informer *i;
};

struct informers {
    struct client *c;
    pthread_mutex_t lock;
    struct shared *all;
};

struct informers *informers_new(struct client *c) {
    struct informers *s = xcalloc(1, sizeof(*s));
    s->c = c;
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

struct client *informers_client(struct informers *s) {
    return s->c;
}

void informers_free(struct informers *s) {
    if (!s) return;
    while (s->all) {
        struct shared *x = s->all;
        s->all = x->next;
        informer_free(x->i);
        free(x);
    }
    pthread_mutex_destroy(&s->lock);
    free(s);
}

struct informer *informers_get(struct informers *s, const struct client_resource *r) {
    pthread_mutex_lock(&s->lock);
    struct shared *x = s->all;
    while (x && x->r != r) x = x->next;
    if (!x) {
        x = xcalloc(1, sizeof(*x));
        x->r = r;
        x->i = informer_new(s->c, r, NULL);
        x->next = s->all;
        s->all = x;
    }
    pthread_mutex_unlock(&s->lock);
    return x->i;
}

bool informers_has(struct informers *s, const struct client_resource *r) {
    pthread_mutex_lock(&s->lock);
    struct shared *x = s->all;
    while (x && x->r != r) x = x->next;
    pthread_mutex_unlock(&s->lock);
    return x != NULL;
}

int informers_wait_synced(struct informers *s, int64_t timeout_ms, struct err *e) {
    for (struct shared *x = s->all; x; x = x->next) {
        int r = informer_wait_synced(x->i, timeout_ms, e);
        if (r < 0) return r;
    }
    return 0;
}
