/* Inside the aggregator. */
#pragma once

#include <pthread.h>

#include "apiserver/aggregator/aggregator.h"
#include "pkg/http/client.h"

enum {
    AGG_BACKS_MAX = 256,             /* APIServices with a service, beyond that refused */
    AGG_DOC_MAX = 4 * 1024 * 1024,   /* an OpenAPI document of a back end */
    AGG_DISCOVERY_MAX = 1024 * 1024, /* its APIResourceList */
    AGG_CHECK_MS = 5000,             /* a back end has so long to answer a check */
};

/* A client for one address of a back end. Replaced as a whole when the address changes. */
struct agg_dial {
    _Atomic uint32_t refs;
    char *address; /* "10.0.0.7:443" */
    struct http_client *client;
};
void agg_dial_unref(struct agg_dial *d); /* NULL-safe */
static inline void cleanup_agg_dial(struct agg_dial **d) { agg_dial_unref(*d); }
#define _cleanup_agg_dial_ _cleanup_(cleanup_agg_dial)

struct agg_back {
    _Atomic uint32_t refs;
    /* constant: a changed APIService makes a new one */
    char *name, *group, *version, *spec; /* spec: as text, to see changes */
    int64_t group_priority, version_priority;
    char *ns, *service, *ca_pem;
    int64_t port;
    bool insecure;
    const struct agg_local *local;
    void *local_arg;
    /* the checker's only */
    int64_t next_check_ns, next_docs_ns, docs_backoff_ns;
    /* under the lock */
    pthread_mutex_t lock;
    struct agg_dial *dial;
    bool available;
    struct rbytes *resources; /* the last APIResourceList, or NULL */
    struct rbytes *v2;        /* of its OpenAPI v2 what belongs to the version, or NULL */
    char v3_hash[64];         /* "": it has no OpenAPI v3 of the version */
    char v2_etag[160];
};
struct agg_back *agg_back_ref(struct agg_back *b);
void agg_back_unref(struct agg_back *b); /* NULL-safe */

struct aggregator {
    struct apiserver *s;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    pthread_t thread;
    bool started;
    struct http_cancel stop;
    struct agg_back *items[AGG_BACKS_MAX]; /* under the lock; as many as n */
    _Atomic size_t n;
    _Atomic uint64_t changes;
};

/* References to all that are served now, remote ones in the place of local ones of the same version; in `a`,
 * by priority. */
struct agg_back **agg_all(struct aggregator *g, struct arena *a, size_t *n);
void agg_release(struct agg_back **list, size_t n);
struct agg_back *agg_find(struct aggregator *g, const char *group, const char *version);
/* The client for where the service is now. 503. */
int agg_dial(struct aggregator *g, struct agg_back *b, struct arena *a, struct agg_dial **out, struct err *e);

/* check.c: looks at a back end, keeps its condition, fetches its documents. */
void agg_check(struct aggregator *g, struct agg_back *b);
/* openapi.c: what of a v2 document belongs to the version, in `a`. */
struct json *agg_v2_part(struct arena *a, const struct json *doc, const char *group, const char *version);
