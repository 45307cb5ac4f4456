/* Event recorder.
 *
 * A record stands for one Event object: what it was made of, how often it happened, and whether a request
 * about it is under way. While one is, further occurrences only count; when it ends the record is sent again
 * if it changed. So a noisy source costs one request at a time, and occurrences are never reordered.
 *
 * Per object there is a second table with the similar events of late (for combining) and the token bucket
 * (against spam). */
#include "events.h"

#include <pthread.h>
#include <stdatomic.h>

#include "pkg/api/meta.h"
#include "pkg/base/ktime.h"
#include "pkg/base/map.h"

enum { RECORDS_MAX = 2048, SIMILAR_MAX = 10, BURST = 25, TRIES_MAX = 8, MESSAGE_MAX = 1024 };
#define SIMILAR_WINDOW (600 * NS_PER_SEC)
#define REFILL (300 * NS_PER_SEC)
#define RETRY (2 * NS_PER_SEC)

struct record {
    struct event_recorder *r;
    char *api_version, *kind, *ns, *name, *uid, *rv, *field_path; /* of the object */
    char *type, *reason, *message;
    char *event_name; /* of the Event, once it exists */
    struct ktime first, last;
    int32_t count;
    bool busy, dirty, orphan; /* orphan: no longer in the table, freed when its request ends */
    unsigned tries;
};

struct source { /* per object, type and reason; and per object for the bucket */
    int64_t window_start;
    unsigned distinct;
    int64_t spent_until;
};

struct event_recorder {
    _Atomic unsigned refs;
    struct client *c;
    char *component, *host;
    pthread_mutex_t lock;
    bool closed;
    struct map records, sources;
};

static void send(struct record *x);

static void record_free(void *p) {
    struct record *x = p;
    char *owned[] = {x->api_version, x->kind, x->ns,     x->name,    x->uid,       x->rv,
                     x->field_path,  x->type, x->reason, x->message, x->event_name};
    for (size_t i = 0; i < ARRAY_LEN(owned); i++) free(owned[i]);
    free(x);
}

static void recorder_unref(struct event_recorder *r) {
    if (--r->refs > 0) return;
    map_done_with(&r->records, record_free);
    map_done_with(&r->sources, free);
    pthread_mutex_destroy(&r->lock);
    free(r->component);
    free(r->host);
    free(r);
}

struct event_recorder *event_recorder_new(struct client *c, const char *component, const char *host) {
    struct event_recorder *r = xcalloc(1, sizeof(*r));
    r->refs = 1;
    r->c = c;
    r->component = xstrdup(component);
    r->host = xstrdup(str_or_empty(host));
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void event_recorder_free(struct event_recorder *r) {
    if (!r) return;
    pthread_mutex_lock(&r->lock);
    r->closed = true;
    pthread_mutex_unlock(&r->lock);
    recorder_unref(r);
}

/* ---- sending ---- */

static struct json *event_tree(struct arena *a, struct record *x, const char *name) {
    char first[KTIME_MAX], last[KTIME_MAX];
    ktime_format(x->first, first);
    ktime_format(x->last, last);
    struct json *ev = json_object(a), *m, *o, *s;
    json_set_str(a, ev, "kind", "Event");
    json_set_str(a, ev, "apiVersion", "v1");
    m = json_ensure_object(a, ev, "metadata");
    json_set_str(a, m, "name", name);
    json_set_str(a, m, "namespace", str_empty(x->ns) ? "default" : x->ns);
    o = json_ensure_object(a, ev, "involvedObject");
    const char *pairs[][2] = {{"kind", x->kind},
                              {"namespace", x->ns},
                              {"name", x->name},
                              {"uid", x->uid},
                              {"apiVersion", x->api_version},
                              {"resourceVersion", x->rv},
                              {"fieldPath", x->field_path}};
    for (size_t i = 0; i < ARRAY_LEN(pairs); i++)
        if (!str_empty(pairs[i][1])) json_set_str(a, o, pairs[i][0], pairs[i][1]);
    json_set_str(a, ev, "reason", x->reason);
    json_set_str(a, ev, "message", x->message);
    s = json_ensure_object(a, ev, "source");
    json_set_str(a, s, "component", x->r->component);
    if (*x->r->host) json_set_str(a, s, "host", x->r->host);
    json_set_str(a, ev, "firstTimestamp", first);
    json_set_str(a, ev, "lastTimestamp", last);
    json_set_int(a, ev, "count", x->count);
    json_set_str(a, ev, "type", x->type);
    json_set_str(a, ev, "reportingComponent", x->r->component);
    json_set_str(a, ev, "reportingInstance", x->r->host);
    return ev;
}

static void again(void *arg) {
    struct record *x = arg;
    struct event_recorder *r = x->r;
    pthread_mutex_lock(&r->lock);
    if (!r->closed)
        send(x);
    else
        x->busy = false;
    pthread_mutex_unlock(&r->lock);
    recorder_unref(r);
}

static void sent(void *arg, int result, const struct client_response *resp, struct err *e) {
    struct record *x = arg;
    struct event_recorder *r = x->r;
    pthread_mutex_lock(&r->lock);
    x->busy = false;
    bool transient = result < 0 && (e->status == 0 || e->status == 429 || e->status >= 500);
    if (result == -ECANCELED || r->closed) transient = false;
    if (transient && x->tries++ < TRIES_MAX) {
        x->busy = true;
        r->refs++;
        client_call_later(r->c, RETRY, again, x);
    } else if (result < 0 && e->status == 404 && x->event_name && x->tries++ < TRIES_MAX && !r->closed) {
        free(take_ptr(x->event_name)); /* it expired: make a new one */
        send(x);
    } else {
        if (result < 0) free(take_ptr(x->event_name));
        x->tries = 0;
        if (x->dirty && !r->closed && result == 0)
            send(x);
        else if (x->orphan)
            record_free(x);
    }
    pthread_mutex_unlock(&r->lock);
    recorder_unref(r);
}

/* Creates the Event or brings its count up to date. Under the lock. */
static void send(struct record *x) {
    struct event_recorder *r = x->r;
    _cleanup_arena_ struct arena *a = arena_new();
    const char *ns = str_empty(x->ns) ? "default" : x->ns;
    struct client_request rq = {.method = "POST", .path = client_path(a, &client_events, ns, NULL, NULL)};
    struct json *body;
    if (x->event_name) {
        char last[KTIME_MAX];
        body = json_object(a);
        json_set_int(a, body, "count", x->count);
        json_set_str(a, body, "lastTimestamp", ktime_format(x->last, last));
        json_set_str(a, body, "message", x->message);
        rq.method = "PATCH";
        rq.path = client_path(a, &client_events, ns, x->event_name, NULL);
        rq.content_type = "application/strategic-merge-patch+json";
    } else {
        x->event_name = xasprintf("%.200s.%llx", x->name, (unsigned long long)ktime_unix_ns(ktime_now()));
        body = event_tree(a, x, x->event_name);
    }
    rq.body = json_text(a, body);
    rq.body_len = strlen(rq.body);
    rq.cause = x->rv;
    x->busy = true;
    x->dirty = false;
    r->refs++;
    client_do_async(r->c, &rq, sent, x);
}

/* ---- recording ---- */

static struct source *source_of(struct event_recorder *r, const char *key) {
    struct source *s = map_get(&r->sources, key);
    if (s) return s;
    if (r->sources.n >= RECORDS_MAX) {
        map_done_with(&r->sources, free);
        r->sources = (struct map)MAP_INIT;
    }
    s = xcalloc(1, sizeof(*s));
    map_put(&r->sources, key, s);
    return s;
}

/* Forgets all records that are not being sent; the table stays bounded. */
static void make_room(struct event_recorder *r) {
    if (r->records.n < RECORDS_MAX) return;
    size_t it = 0;
    const char *key;
    void *v;
    while (map_next(&r->records, &it, &key, &v)) {
        struct record *x = v;
        map_del(&r->records, key);
        if (x->busy)
            x->orphan = true;
        else
            record_free(x);
    }
}

static bool spam(struct event_recorder *r, struct arena *a, const struct event_ref *o, int64_t now) {
    struct source *s = source_of(r, arena_printf(a, "b|%s|%s|%s|%s", str_or_empty(o->kind), str_or_empty(o->ns),
                                                 str_or_empty(o->name), str_or_empty(o->uid)));
    int64_t spent = MAX_OF(s->spent_until, now - BURST * REFILL) + REFILL;
    if (spent > now) return true;
    s->spent_until = spent;
    return false;
}

static struct record *record_new(struct event_recorder *r, const struct event_ref *o, const char *type,
                                 const char *reason) {
    struct record *x = xcalloc(1, sizeof(*x));
    x->r = r;
    x->api_version = xstrdup(str_or_empty(o->api_version));
    x->kind = xstrdup(str_or_empty(o->kind));
    x->ns = xstrdup(str_or_empty(o->ns));
    x->name = xstrdup(str_or_empty(o->name));
    x->uid = xstrdup(str_or_empty(o->uid));
    x->rv = xstrdup(str_or_empty(o->rv));
    x->field_path = xstrdup(str_or_empty(o->field_path));
    x->type = xstrdup(type);
    x->reason = xstrdup(reason);
    x->first = ktime_now();
    return x;
}

static void record(struct event_recorder *r, const struct event_ref *o, const char *type, const char *reason,
                   const char *message) {
    _cleanup_arena_ struct arena *a = arena_new();
    int64_t now = mono_ns();
    const char *about =
        arena_printf(a, "%s|%s|%s|%s|%s|%s|%s", str_or_empty(o->kind), str_or_empty(o->ns), str_or_empty(o->name),
                     str_or_empty(o->uid), str_or_empty(o->field_path), type, reason);
    const char *key = arena_printf(a, "%s|%s", about, message);
    if (spam(r, a, o, now)) return;
    struct record *x = map_get(&r->records, key);
    if (!x) { /* a message not seen before: too many of them are combined into one */
        struct source *s = source_of(r, about);
        if (now - s->window_start > SIMILAR_WINDOW) *s = (struct source){.window_start = now};
        if (++s->distinct > SIMILAR_MAX) {
            key = about;
            message = arena_printf(a, "(combined from similar events): %s", message);
            x = map_get(&r->records, key);
        }
    }
    if (!x) {
        make_room(r);
        x = record_new(r, o, type, reason);
        map_put(&r->records, key, x);
    }
    free(x->message);
    x->message = xstrdup(message);
    x->last = ktime_now();
    x->count++;
    if (x->busy)
        x->dirty = true;
    else
        send(x);
}

static void record_va(struct event_recorder *r, const struct event_ref *o, const char *type, const char *reason,
                      const char *fmt, va_list ap) {
    char message[MESSAGE_MAX];
    vsnprintf(message, sizeof(message), fmt, ap);
    pthread_mutex_lock(&r->lock);
    if (!r->closed) record(r, o, type, reason, message);
    pthread_mutex_unlock(&r->lock);
}

void event_record(struct event_recorder *r, const struct event_ref *about, const char *type, const char *reason,
                  const char *fmt, ...) {
    if (!r) return;
    va_list ap;
    va_start(ap, fmt);
    record_va(r, about, type, reason, fmt, ap);
    va_end(ap);
}

struct event_ref event_ref_of(const struct client_resource *res, const struct meta_object_meta *m) {
    return (struct event_ref){
        .kind = res->kind, .ns = m->namespace, .name = m->name, .uid = m->uid, .rv = m->resource_version};
}

void event_record_obj(struct event_recorder *r, const struct client_resource *res, const struct meta_object_meta *m,
                      const char *type, const char *reason, const char *fmt, ...) {
    if (!r) return;
    char version[128];
    snprintf(version, sizeof(version), "%s%s%s", res->group, *res->group ? "/" : "", res->version);
    struct event_ref o = event_ref_of(res, m);
    o.api_version = version;
    va_list ap;
    va_start(ap, fmt);
    record_va(r, &o, type, reason, fmt, ap);
    va_end(ap);
}
