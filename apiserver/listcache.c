/* The cache is a handful of slots, searched in order. A slot is first only a note that a list was asked for; the second
 * request for the same state fills it. A slot answers for one state of one resource: the revision of the resource's
 * last change is part of the key, so a change anywhere in the resource makes it useless, and it is never wrong. */
#include "apiserver/listcache.h"

#include <pthread.h>

#include "pkg/base/ktime.h"

enum {
    SLOTS = 4,
    BODY_MIN = 64 * 1024, /* smaller ones are made as fast as found */
    BODY_MAX = 16 * 1024 * 1024,
    LISTCACHE_IDLE_MS = 2000,
};

struct slot {
    const struct resource *res;
    char *ns;
    int64_t changed, used_ns;
    struct rbytes *body;
};

struct listcache {
    pthread_mutex_t lock;
    struct slot slots[SLOTS];
};

struct listcache *listcache_new(void) {
    struct listcache *c = xcalloc(1, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static void slot_clear(struct slot *s) {
    free(s->ns);
    rbytes_unref(s->body);
    *s = (struct slot){0};
}

void listcache_free(struct listcache *c) {
    if (!c) return;
    for (size_t i = 0; i < SLOTS; i++) slot_clear(&c->slots[i]);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* The slot of the list, whatever its state; else NULL and *oldest. */
static struct slot *slot_find(struct listcache *c, const struct resource *r, const char *ns, struct slot **oldest) {
    *oldest = &c->slots[0];
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *s = &c->slots[i];
        if (s->res == r && str_eq(s->ns, ns)) return s;
        if (s->used_ns < (*oldest)->used_ns) *oldest = s;
    }
    return NULL;
}

struct rbytes *listcache_get(struct listcache *c, const struct resource *r, const char *ns, int64_t changed,
                             bool *wanted) {
    struct rbytes *body = NULL;
    struct slot *oldest;
    pthread_mutex_lock(&c->lock);
    struct slot *s = slot_find(c, r, ns, &oldest);
    *wanted = s && s->changed == changed;
    if (*wanted) {
        body = s->body ? rbytes_ref(s->body) : NULL;
    } else {
        if (!s) s = oldest;
        slot_clear(s);
        s->res = r;
        s->ns = ns ? xstrdup(ns) : NULL;
        s->changed = changed;
    }
    s->used_ns = mono_ns();
    pthread_mutex_unlock(&c->lock);
    return body;
}

void listcache_put(struct listcache *c, const struct resource *r, const char *ns, int64_t changed,
                   struct rbytes *body) {
    struct slot *oldest;
    if (body->len < BODY_MIN || body->len > BODY_MAX) return;
    pthread_mutex_lock(&c->lock);
    struct slot *s = slot_find(c, r, ns, &oldest);
    if (s && s->changed == changed && !s->body) s->body = rbytes_ref(body);
    pthread_mutex_unlock(&c->lock);
}

void listcache_expire(struct listcache *c) {
    int64_t now = mono_ns();
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < SLOTS; i++) {
        struct slot *s = &c->slots[i];
        if (s->res && now - s->used_ns > LISTCACHE_IDLE_MS * NS_PER_MS) slot_clear(s);
    }
    pthread_mutex_unlock(&c->lock);
}
