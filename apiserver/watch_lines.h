/* What an event of a watch looks like on the wire, made once for all watches of the same form. */
#pragma once

#include "apiserver/handlers.h"

enum { WATCH_LINES = 512 }; /* shared lines kept */

/* The last lines, by object, event type and form. */
struct watch_lines {
    struct watch_line {
        struct object *obj;
        enum wc_event_type type;
        uint32_t form;
        struct rbytes *bytes;
    } slots[WATCH_LINES];
};
void watch_lines_done(struct watch_lines *lines);

/* Requests of one form get the same bytes for an event: media type, view, resource. */
uint32_t watch_form(const struct request *q);
/* The event's bytes: a reference of the lines', or of the caller's when *own; NULL when the object has no such view. A
 * Table's columns go with the first event of a watch, *head_sent says whether they went. */
struct rbytes *watch_line(struct watch_lines *lines, struct request *q, uint32_t form, enum wc_event_type type,
                          struct object *o, bool *head_sent, bool *own);
/* Appends an event about a tree: a line of JSON, or a frame of protobuf where the request asks for that and the type `t`
 * is known. */
void watch_event(struct request *q, struct buf *out, const char *type, const struct api_type *t, struct json *v);
