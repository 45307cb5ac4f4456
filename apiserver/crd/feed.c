#include "apiserver/crd/feed.h"

#include "apiserver/crd/convert.h"
#include "pkg/base/map.h"

enum state { FILLING, BUSY, DRAINING };

struct view_feed {
    struct request *q;
    const struct selector *sel; /* NULL: everything that comes is shown */
    bool known;
    void (*ready)(void *arg);
    void *arg;
    enum state state;
    bool orphan; /* the watch has ended while a worker was at it */
    enum wc_event_type types[FEED_BATCH];
    struct object *objects[FEED_BATCH];
    size_t n, at;
    int rc;
    struct err err;
    struct map shown; /* keys of objects that the client knows */
};

/* Names do not change in a conversion: the cache selects by them. */
static bool by_name_only(const struct selector *s) {
    for (size_t i = 0; i < s->n_fields; i++)
        if (s->fields[i].field >= 0) return false;
    return !s->n_labels;
}

struct view_feed *view_feed_new(struct request *q, const struct selector *sel, bool known, void (*ready)(void *arg),
                                void *arg) {
    if (!q->res->converts) return NULL;
    struct view_feed *f = xcalloc(1, sizeof(*f));
    f->q = q;
    f->sel = by_name_only(sel) ? NULL : sel;
    f->known = known;
    f->ready = ready;
    f->arg = arg;
    return f;
}

static void feed_destroy(struct view_feed *f) {
    for (size_t i = f->at; i < f->n; i++) object_unref(f->objects[i]);
    err_done(&f->err);
    map_done(&f->shown);
    free(f);
}

void view_feed_free(struct view_feed *f) {
    if (!f) return;
    f->orphan = true;
    if (f->state != BUSY) feed_destroy(f);
}

bool view_feed_room(const struct view_feed *f) { return f->state == FILLING && f->n < FEED_BATCH; }
bool view_feed_by_name(const struct view_feed *f) { return !f->sel; }
bool view_feed_idle(const struct view_feed *f) { return f->state == FILLING && f->n == 0; }

void view_feed_put(struct view_feed *f, struct wc_event *ev) {
    f->types[f->n] = ev->type;
    f->objects[f->n++] = ev->object;
}

static void converted(void *arg) {
    struct view_feed *f = arg;
    struct http_req *r = f->q->http;
    f->state = DRAINING;
    if (f->orphan)
        feed_destroy(f);
    else
        f->ready(f->arg);
    http_req_unref(r);
}

static void work(void *arg) {
    struct view_feed *f = arg;
    f->rc = crd_views(f->q->s, f->q->res, f->objects, f->n, &f->err);
    http_server_post(f->q->s->http, converted, f);
}

int view_feed_start(struct view_feed *f, struct err *e) {
    bool all = true;
    for (size_t i = 0; i < f->n && all; i++) {
        struct object *known = crd_view_known(f->q->s, f->q->res, f->objects[i]);
        all = known != NULL;
        if (!known) break;
        object_unref(f->objects[i]);
        f->objects[i] = known;
    }
    f->state = all ? DRAINING : BUSY;
    if (all) return 0;
    http_req_ref(f->q->http);
    if (http_dispatch(f->q->s->workers, work, f) == 0) return 0;
    f->state = DRAINING;
    http_req_unref(f->q->http);
    return err_status(e, 429, "TooManyRequests", "Too many requests, please try again later.");
}

/* Whether the client hears of it, and as what. */
static bool select_event(struct view_feed *f, struct wc_event *ev) {
    const char *key = ev->object->key;
    if (!f->sel) return true;
    bool fits = ev->type != WC_DELETED && selector_match(f->sel, ev->object), had = map_get(&f->shown, key) != NULL;
    bool maybe_had = !f->known && ev->type != WC_ADDED; /* what was there before the watch is not known */
    if (fits) {
        map_put(&f->shown, key, f);
        ev->type = had || maybe_had ? WC_MODIFIED : WC_ADDED;
        return true;
    }
    map_del(&f->shown, key);
    ev->type = WC_DELETED;
    return had || maybe_had;
}

int view_feed_take(struct view_feed *f, struct wc_event *out, struct err *e) {
    if (f->state != DRAINING) return 0;
    if (f->rc) {
        err_move(e, &f->err);
        return f->rc;
    }
    while (f->at < f->n) {
        *out = (struct wc_event){f->types[f->at], f->objects[f->at]};
        f->at++;
        if (select_event(f, out)) return 1;
        object_unref(out->object);
    }
    f->n = f->at = 0;
    f->state = FILLING;
    return 0;
}
