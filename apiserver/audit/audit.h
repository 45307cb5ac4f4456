/* The audit log: who did what, one JSON line for each stage of a request, as --audit-policy-file asks for.
 *
 *   policy.c  rules of an audit.k8s.io/v1 Policy: the first that matches says at which level a request is recorded
 *   event.c   a request's event: filled while the request is worked on, written at its stages
 *   log.c     the file: rotated by size, old ones compressed, and removed by number and age
 *   hook.c    the webhook: events are sent in batches
 *
 * A request that is not recorded costs one test of a pointer (no policy) or one walk over the rules. Events are made of
 * text in the request's arena. In mode blocking (upstream's default) a stage's line is written before the request goes
 * on; in mode blocking-strict one that cannot be written refuses the request; in
 * mode batch a thread writes, and what finds its bounded queue full is dropped and counted. No mode syncs the
 * file, as upstream. Not done: the legacy format.
 * Upstream: k8s.io/apiserver/pkg/audit, plugin/pkg/audit/{log,buffered}, endpoints/filters/audit.go. */
#pragma once

#include "pkg/base/err.h"
#include "pkg/base/ktime.h"
#include "pkg/json/json.h"

struct request;
struct user_info;

enum audit_level { AUDIT_NONE, AUDIT_METADATA, AUDIT_REQUEST, AUDIT_REQUEST_RESPONSE };
enum audit_stage { AUDIT_REQUEST_RECEIVED, AUDIT_RESPONSE_STARTED, AUDIT_RESPONSE_COMPLETE, AUDIT_PANIC };

/* ---- the policy ---- */

struct audit_attrs {
    const struct user_info *user; /* NULL: authentication failed */
    const char *verb;
    bool resource_request;
    const char *group, *resource, *subresource, *ns, *name; /* NULL counts as "" */
    const char *path;
};
struct audit_config {
    enum audit_level level;
    unsigned omit; /* bits 1 << enum audit_stage */
    bool omit_managed_fields;
};
struct audit_policy;
/* Reads the text (YAML or JSON). -EINVAL says what is wrong, with the field's path. */
int audit_policy_parse(const char *text, size_t len, struct audit_policy **out, struct err *e);
void audit_policy_free(struct audit_policy *p); /* NULL-safe */
struct audit_config audit_policy_decide(const struct audit_policy *p, const struct audit_attrs *q);

/* ---- the file ---- */

struct audit_log_options {
    const char *path;     /* "-": standard output */
    int64_t max_size_mb;  /* rotate beyond; 0: never */
    int64_t max_backups;  /* rotated files kept; 0: all */
    int64_t max_age_days; /* and not older; 0: any */
    bool compress;        /* rotated files become .gz */
    bool batch;
    int64_t queue; /* lines waiting in mode batch; 0: AUDIT_QUEUE */
};
enum { AUDIT_QUEUE = 10000 };
struct audit_log;
int audit_log_open(const struct audit_log_options *o, struct audit_log **out, struct err *e);
void audit_log_close(struct audit_log *l); /* writes what waits. NULL-safe */
/* One line, with its newline. False when it was dropped or could not be written. */
bool audit_log_write(struct audit_log *l, const char *line, size_t len);
/* Lines lost so far. */
uint64_t audit_log_lost(const struct audit_log *l);

/* ---- the webhook ---- */

struct audit_hook_options {
    const char *file;   /* kubeconfig */
    int64_t queue;      /* events waiting, batch_size at most in one list */
    int64_t batch_size; /* sent after batch_wait_ns at the latest, no more than qps lists a second after a burst */
    int64_t batch_wait_ns, qps, burst;
    int64_t backoff_ns; /* after a list that could not be sent; then half as long again, five attempts */
};
struct audit_hook;
int audit_hook_open(const struct audit_hook_options *o, struct audit_hook **out, struct err *e);
void audit_hook_close(struct audit_hook *h); /* tries once to send what waits. NULL-safe */
/* An event's line, as audit_log_write. */
bool audit_hook_write(struct audit_hook *h, const char *line, size_t len);
uint64_t audit_hook_lost(const struct audit_hook *h);

/* ---- events ---- */

#define AUDIT_EVENT_HEAD "{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\"," /* how a line begins */

struct audit {
    struct audit_policy *policy;
    struct audit_log *log;                 /* NULL: none */
    struct audit_hook *hook;               /* NULL: none */
    int64_t log_event_max, hook_event_max; /* bytes beyond which an event goes without its objects; 0: no limit */
    bool log_strict;                       /* what cannot be recorded must not happen */
};
struct apiserver_options;
/* By the flags; *out NULL: nothing is recorded. */
int audit_open(const struct apiserver_options *o, struct audit **out, struct err *e);
void audit_close(struct audit *a); /* NULL-safe */
struct audit_event;

/* After authentication, before impersonation and authorisation: decides whether the request is recorded and then writes
 * its first stage. `failed`: credentials were given and were wrong (q->user is nobody). Without a policy nothing happens.
 * False: it must be recorded (mode blocking-strict) and could not be. */
bool audit_begin(struct request *q, bool failed);
/* The user who is acted as from here on. */
void audit_impersonated(struct request *q);
/* annotations["key"] = value; the first value stays. */
void audit_annotate(struct request *q, const char *key, const char *value);
/* The decoded body, before anything is done to it; or the bytes of a patch. */
void audit_request_object(struct request *q, const struct json *v);
void audit_request_patch(struct request *q, const char *body, size_t len);
/* What is answered: a tree; or text that is JSON already (in pieces). Only the first counts. */
void audit_response_object(struct request *q, const struct json *v);
bool audit_wants_request(const struct request *q); /* level Request or higher */
bool audit_wants_response(const struct request *q);
void audit_response_text(struct request *q, const char *text, size_t len);
/* The id of the request: what the client sent in Audit-ID, else a new one. */
const char *audit_id(struct request *q);
