/* The way of a write behind its decoding: rules, admission, managed fields, validation, the store. Used by the handlers
 * of requests and by the server itself (bootstrap objects, the kubernetes Service). May block. */
#pragma once

#include <pthread.h>

#include "apiserver/request.h"

struct write {
    struct apiserver *s;
    struct arena *a;
    const struct resource *res;  /* the stored row */
    const struct resource *view; /* the row whose version the trees are in: the stored one, but of custom resources the
                                    client's */
    const struct resource *versions[2]; /* the stored row and the one that shares its storage, if any */
    struct rules_ctx c;
    int64_t cause_rev;
    const struct object *tree_of; /* write_tree's last, so that it is parsed once */
    struct json *tree;
    const char *raw; /* of a ControllerRevision: the bytes of its data as the client wrote them; NULL: compact */
    bool keep_raw;   /* they stay as they are stored */
    bool lazy;       /* need not be durable when answered (embedded store) */
};

/* Prepares for one object. q NULL: the server itself writes. `res` may be a row that shares another's storage. */
void write_init(struct write *w, struct apiserver *s, struct arena *a, struct request *q, const struct resource *res,
                const char *subresource, const char *ns, const char *name, enum rules_op op);
/* Whether part of the object is kept byte for byte. */
bool write_keeps_bytes(const struct write *w);
/* Takes over what is kept byte for byte from the body of a POST or PUT in JSON. */
void write_take_raw(struct write *w, struct request *q);
/* Makes sure that the object can be looked at in the version of the write, by the conversion webhook of a custom resource.
 * To be called for an object before write_tree, write_update, write_delete. Blocks. */
int write_look(struct write *w, const struct object *o, struct err *e);
/* The tree of a stored object, for looking at: it is shared by the steps of the write. */
struct json *write_tree(struct write *w, const struct object *o);
/* Copies the warnings of the rules to the request's answer, and their annotations to its audit event. */
void write_warnings(const struct write *w, struct request *q);

/* What policies and webhooks say about the body of a subresource or a review (`kind`: what it is, NULL: the resource's own),
 * or about CONNECT. They may change `obj`. */
int write_admit_body(struct request *q, enum rules_op op, const struct rules_kind *kind, const char *subresource,
                     bool dry_run, struct json *obj, const struct json *old, struct err *e);

/* A conflict with another write: nothing was stored, and the caller may try again with the newer object. */
enum { WRITE_RETRY = 1, WRITE_TRIES = 64 };
/* Before a second try: writers of one object that met queue up here, so that each gets through. */
pthread_mutex_t *write_queue_enter(struct apiserver *s, const struct resource *r, const char *ns, const char *name);
static inline void cleanup_write_queue(pthread_mutex_t **m) {
    if (*m) pthread_mutex_unlock(*m);
}
#define _cleanup_write_queue_ _cleanup_(cleanup_write_queue)

/* quota.c: before an object is stored that a quota counts, the turn of its namespace is taken, and where there are several
 * servers the quotas are charged. 0 or 403; *turn (NULL: none) is to be left when the object is stored. */
int quota_enter(struct write *w, const struct json *obj, const struct json *old, pthread_mutex_t **turn, struct err *e);

/* Creates `obj` (normalised; changed). managed: record managedFields (false after ssa_apply). *out is the stored object,
 * with dry_run as it would be stored. 409 AlreadyExists. */
int write_create(struct write *w, struct json *obj, bool managed, struct object **out, struct err *e);
/* Replaces `old` by `obj` (both whole; obj is changed). Deletes instead when that was the last finalizer: *deleted.
 * WRITE_RETRY when `old` is no longer the newest. *out may be `old` itself (a new reference) when nothing changes. */
int write_update(struct write *w, struct json *obj, const struct object *old, bool managed, struct object **out,
                 bool *deleted, struct err *e);

struct delete_request {
    struct rules_delete_options o;
    const char *uid, *rv;    /* preconditions, NULL: none */
    const struct json *tree; /* the DeleteOptions as admission sees them, NULL: none given */
};
/* 409 when one does not hold of `old`. */
int write_preconditions(struct write *w, const struct delete_request *d, const struct object *old, struct err *e);
/* Deletes or begins to. *gone: the object has left the store (*out its last state). WRITE_RETRY as above. */
int write_delete(struct write *w, const struct delete_request *d, const struct object *old, struct object **out,
                 bool *gone, struct err *e);

/* Current object: from the cache, brought up to date first when `fresh`. NULL when absent. */
struct object *write_current(struct apiserver *s, const struct resource *r, const char *ns, const char *name,
                             bool fresh);
/* The stored row's tree of what a client sent in q->res' version. */
struct json *write_to_stored(struct request *q, struct json *v);
/* Stores `obj` in place of `old` as it is, without rules: for changes that only the server makes (binding). */
int write_raw(struct write *w, struct json *obj, const struct object *old, struct object **out, struct err *e);
