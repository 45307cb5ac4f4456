/* Events of a watch on their way through a conversion webhook. The watch lives on the loop thread, which must not wait:
 * it puts events in, a worker converts them, and they come out in their order. Everything but the conversion itself
 * happens on the loop thread.
 *
 * The webhook may change what selectors look at, so selecting is done here too, on what it made: an object that stops
 * matching is DELETED, one that starts to is ADDED. */
#pragma once

#include "apiserver/request.h"

enum { FEED_BATCH = 64 };
struct view_feed;

/* NULL when the request's resource needs none. `ready` is called on the loop when there may be something to take. `sel`
 * must live as long; known: all objects that exist come through as initial events. */
struct view_feed *view_feed_new(struct request *q, const struct selector *sel, bool known, void (*ready)(void *arg),
                                void *arg);
/* Ends it; a running conversion is let go. NULL-safe. */
void view_feed_free(struct view_feed *f);
/* The next event: 1; 0 none now; < 0 the conversion failed, *e says how. */
int view_feed_take(struct view_feed *f, struct wc_event *out, struct err *e);
/* True when view_feed_put would take one: it is empty, or being filled. */
bool view_feed_room(const struct view_feed *f);
bool view_feed_idle(const struct view_feed *f);
/* The cache itself can select: by name at most. */
bool view_feed_by_name(const struct view_feed *f);
void view_feed_put(struct view_feed *f, struct wc_event *ev); /* takes the reference */
/* Starts on what was put in. 0, or an error when no worker is to be had. */
int view_feed_start(struct view_feed *f, struct err *e);
