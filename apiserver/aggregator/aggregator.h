/* Aggregation: groups and versions that other API servers answer. An APIService with a service reference
 * makes /apis/GROUP/VERSION and everything below it that service's; discovery and OpenAPI show it as one with
 * our own. A back end may also be a part of this process (metrics/): it then stands behind an APIService
 * without a reference, and one with a reference takes its place.
 *
 * Start at registry.c (who the back ends are), then proxy.c (a request's way), check.c (whether they are
 * available, what they serve). Upstream: kube-aggregator. */
#pragma once

#include "apiserver/request.h"

struct aggregator;
struct agg_back;

/* A back end within the process. Constant. */
struct agg_local {
    const char *group, *version;
    int64_t group_priority, version_priority;
    const char *resources;   /* the APIResourceList, JSON text */
    const char *definitions; /* OpenAPI: an object of schemas; references are "#/definitions/NAME" */
    const char *paths;       /* OpenAPI v2: the object of paths */
    /* Answers a request below /apis/GROUP/VERSION; on a thread of its own, may block. `arg` as given to open.
     */
    void (*handle)(struct request *q, void *arg);
};

int aggregator_open(struct apiserver *s, struct aggregator **out, struct err *e);
void aggregator_close(struct aggregator *g); /* NULL-safe */
/* Before requests come. */
void aggregator_add_local(struct aggregator *g, const struct agg_local *l, void *arg);

/* An APIService is as `obj` says, or (NULL) is gone. Thread-safe. */
void aggregator_service(struct aggregator *g, const char *name, const struct json *obj);

/* On the loop thread: when the request belongs to a back end, keeps that in it (q->back) and returns true.
 * The request then goes through authentication and authorisation and to aggregator_handle, on a thread of its
 * own. */
bool aggregator_take(struct request *q);
/* A watch or an upgrade: does not end by itself. */
bool aggregator_lasts(const struct request *q);
void aggregator_handle(struct request *q);

/* ---- documents ---- */

/* Adds the back ends' groups to a list of APIGroups, or (aggregated) of APIGroupDiscovery items. */
void aggregator_groups(struct request *q, struct json *groups, bool aggregated);
/* The APIGroup with the back ends' versions; `doc` NULL when no own row has the group. NULL: nobody has it.
 */
struct json *aggregator_group(struct request *q, const char *group, struct json *doc);
/* Counts changes of what the back ends serve. */
uint64_t aggregator_changes(struct aggregator *g);
/* Merges the back ends' OpenAPI v2 documents into `doc`. */
void aggregator_openapi_v2(struct aggregator *g, struct arena *a, struct json *doc);
/* Adds their documents to the index of v3. */
void aggregator_openapi_index(struct aggregator *g, struct arena *a, struct json *paths);
/* Answers with a v3 document ("apis/GROUP/VERSION") when it is a back end's. May block. */
bool aggregator_openapi_v3(struct request *q, const char *path);
