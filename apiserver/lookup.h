/* How the parts that know no server (rules, authentication, authorization, bootstrap) see its objects; and the parts of
 * the server that are opened and closed with it. */
#pragma once

#include "apiserver/request.h"

/* Reads for the rules: trees from the watch cache. */
struct rules_lookup lookup_rules(struct apiserver *s);
/* auth_get_fn of apiserver/auth. `arg` is the apiserver. */
const struct json *lookup_get(void *arg, struct arena *a, const char *group, const char *resource, const char *ns,
                              const char *name);

/* authenticate.c */
int auth_open(struct apiserver *s, struct err *e);
void auth_close(struct apiserver *s);
/* Whether the next function answers at once, so that the loop thread may call it. */
bool request_authenticates_quickly(struct request *q);
/* Who asks: 0 with q->user, or 401. Impersonation included (403). */
int request_authenticate(struct request *q, struct err *e);
/* May they: 0 or 403. */
int request_authorize(struct request *q, struct err *e);

/* bootstrap.c: the objects a fresh cluster has; the kubernetes Service and its endpoints. */
int bootstrap_run(struct apiserver *s, struct err *e);

/* housekeeping.c: a thread that compacts history and ends Events after their time to live. */
void housekeeping_start(struct apiserver *s);
void housekeeping_stop(struct apiserver *s);
/* A FlowSchema or priority level has changed or is gone: the thread looks after them soon. */
void housekeeping_wake(struct apiserver *s);

/* flowguard.c: FlowSchemas and priority levels of Kubernetes itself as they must be; false: to be tried again. */
bool flowguard_ensure(struct apiserver *s);

/* presence.c: a thread that keeps this server's Lease, and with etcd the endpoints of the Service "kubernetes". Stopping it
 * takes this server out of them. */
void presence_start(struct apiserver *s);
void presence_stop(struct apiserver *s);

struct openapi *openapi_new(void);
void openapi_free(struct openapi *o); /* NULL-safe */
