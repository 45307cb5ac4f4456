/* Event recorder: v1 Events about objects, sent in the background (client-go's tools/record).
 *
 * Equal events (same object, type, reason, message) raise the count of the first one; more than ten similar
 * ones (differing in message) within ten minutes become one "(combined from similar events)"; a source may
 * send 25 events about an object at once and one every five minutes after that. An event that cannot be sent
 * is tried again a few times and then dropped. Both source.component and reportingController are filled. */
#pragma once

#include "pkg/client/informer.h"

struct event_recorder;
/* `host` may be NULL. Frees with event_recorder_free, before the client. */
struct event_recorder *event_recorder_new(struct client *c, const char *component, const char *host);
void event_recorder_free(struct event_recorder *r);

struct event_ref { /* the object an event is about */
    const char *api_version, *kind, *ns, *name, *uid, *rv, *field_path;
};
/* Without apiVersion, which needs memory: set it, or use event_record_obj. */
struct event_ref event_ref_of(const struct client_resource *r, const struct meta_object_meta *m);
/* type: "Normal" or "Warning". Does not block; any thread. */
void event_record(struct event_recorder *r, const struct event_ref *about, const char *type, const char *reason,
                  const char *fmt, ...) _printf_(5, 6);
/* The same about a typed object of a resource. */
void event_record_obj(struct event_recorder *r, const struct client_resource *res, const struct meta_object_meta *m,
                      const char *type, const char *reason, const char *fmt, ...) _printf_(6, 7);
