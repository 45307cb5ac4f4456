/* A request on its way through the server: what the URL means, who asks, what form the answer shall have. Lives in the
 * HTTP request's arena; the call that answers ends its life. */
#pragma once

#include "apiserver/apiserver.h"
#include "apiserver/auth/authz.h"

enum media { MEDIA_JSON, MEDIA_YAML, MEDIA_PROTO };
enum media_as { AS_OBJECT, AS_TABLE, AS_PARTIAL, AS_PARTIAL_LIST, AS_DISCOVERY };

struct watch;
struct http_cancel;
struct crd_schema;
struct agg_back;
struct flow_level;
struct flow_stat;
struct request;

/* A request's place in priority and fairness (flow/flow.h). */
struct flow_ticket {
    struct flow_level *level;
    struct flow_stat *stat;
    uint32_t hash; /* of its flow */
    uint32_t seats;
    uint32_t queue;   /* it waited in, counted from 1; 0: it did not wait */
    int64_t since_ns; /* waits, or runs */
    struct request *next;
};

struct request {
    struct apiserver *s;
    struct http_req *http;
    struct arena *a;
    /* of the URL (upstream: RequestInfo) */
    bool is_resource;
    const char
        *verb; /* get list watch create update patch delete deletecollection; for others the method in lower case */
    const char *prefix; /* "api" or "apis" */
    const char *group, *version, *plural, *ns, *name, *subresource;
    const char *rest;           /* path behind the subresource (proxy), not decoded; "" when there is none */
    const struct resource *res; /* NULL: unknown */
    const struct resource_sub *sub;
    const struct crd_schema *schema; /* of a custom resource that is written; NULL: not custom */
    struct user_info user;
    struct audit_event *audit; /* NULL: not recorded */
    const char *audit_id;      /* audit_id() */
    /* of Accept */
    enum media media;
    enum media_as as;
    bool stream_param;      /* asked for ;stream=watch */
    const char *as_version; /* of its group: "v1", "v1beta1", "v2"; NULL: AS_OBJECT */
    bool forbidden;         /* by authorization */
    bool acceptable;
    bool accept_known;        /* the header names a type that is served, whatever its parameters */
    const char *content_type; /* of the answer */
    const char **warnings;
    size_t n_warnings, cap_warnings;
    const char *inconsistent_token; /* read.c, with a 410: where a list can go on, at another revision */
    struct watch *watch;            /* watch.c, when this is a watch */
    struct http_cancel *cancel;     /* kubelet.c, aggregator/: set when the client goes away */
    struct flow_ticket flow;
    char flow_schema_uid[40], flow_level_uid[40]; /* "": not classified */
    struct agg_back *back;                        /* aggregator/: who answers this; NULL: this server */
};

enum { REQUEST_MAX_SEGMENTS = 64 };

/* Parses URL and Accept. Never fails: what is unknown shows in the fields. */
struct request *request_new(struct apiserver *s, struct http_req *http);
/* 406 unless there is a form that the client takes. */
int request_acceptable(struct request *q, struct err *e);
/* Whether a Content-Type, its parameters aside, is `want`. NULL is none. */
bool request_media_is(const char *content_type, const char *want);
/* What a flag's value means in a URL (upstream: conversion of query parameters): true, unless it is "0" or "false". */
bool request_true(const char *value);
bool request_query_bool(struct request *q, const char *name);
/* Integer parameter: `dflt` when absent, 400 when it is none. */
int request_query_int(struct request *q, const char *name, int64_t dflt, int64_t *out, struct err *e);
void request_warn(struct request *q, const char *fmt, ...) _printf_(2, 3);
/* The manager of managedFields: ?fieldManager=, else the printable beginning of User-Agent (options.c). */
const char *request_manager(struct request *q);

/* ---- answers; each ends the request ---- */

void respond_err(struct request *q, struct err *e);
/* A tree of a known type (NULL: no protobuf form, answered as JSON). */
void respond_tree(struct request *q, int status, const struct api_type *type, struct json *v);
/* As respond_tree, for an object that is not stored, in the form asked for. table: of which printer (tables.h). */
void respond_tree_as(struct request *q, int status, const struct api_type *type, const char *table, struct json *v);
/* A stored object in the form asked for (JSON, protobuf, YAML, table, partial); converts when q->res is another row
 * than the object's (and may block then, on a conversion webhook). */
void respond_object(struct request *q, int status, const struct object *o);
void respond_list(struct request *q, struct wc_list *l, const char *continue_token);
/* A whole list from shared text: whether the client takes it as it is, the text of its items, and the answer. */
bool respond_takes_body(const struct request *q);
struct rbytes *respond_list_text(struct request *q, const struct wc_list *l);
void respond_list_body(struct request *q, int64_t rev, struct rbytes *items);
/* Whether the client wants large answers compressed, and it is worth while: to this very machine it is not. */
bool request_gzip(const struct request *q);
/* metav1.Status of a success; details may be NULL. */
void respond_success(struct request *q, int status, struct json *details);
void respond_json_text(struct request *q, int status, const char *content_type, const void *p, size_t n);
struct json *status_tree(struct arena *a, struct err *e);
/* Headers for a streamed answer of this type. Returns their number. */
size_t response_headers(struct request *q, const char *content_type, struct http_header **out);
/* The usual headers and `more`, which has the Content-Type, and takes the place of usual ones with the same name. */
size_t response_headers_with(struct request *q, const struct http_header *more, size_t n_more,
                             struct http_header **out);
/* text/plain, with X-Content-Type-Options as Go's http.Error. */
void respond_text(struct request *q, int status, const char *fmt, ...) _printf_(3, 4);

/* Resource-level errors. */
int err_not_found(struct err *e, const struct resource *r, const char *name);
int err_conflict(struct err *e, const struct resource *r, const char *name, const char *why);
int err_already_exists(struct err *e, const struct resource *r, const char *name);

/* ---- bodies ---- */

/* What a body holds: an object, or options, which clients send in any version and whose fields are not validated. */
enum body_kind { BODY_OBJECT, BODY_OPTIONS };
/* 415 unless the Content-Type is one that objects of `type` (NULL: custom ones) are sent in. */
int body_check_type(struct request *q, const struct api_type *type, struct err *e);
/* Decodes the body into a tree in canonical form for `type` (of group, version, kind): content type, syntax, kind and
 * apiVersion, field validation (?fieldValidation=), warnings. */
int body_decode(struct request *q, const struct api_type *type, const char *api_version, const char *kind,
                enum body_kind what, struct json **out, struct err *e);
/* The body of a write: its content type, the options of the request (`options`: "CreateOptions", ..., see options.h), and
 * the object. */
int body_of_write(struct request *q, const struct api_type *type, const char *api_version, const char *kind,
                  const char *options, bool *dry_run, struct json **out, struct err *e);
/* The field validation part, for trees that come from patches: normalises and reports unknown fields behind what `found`
 * has already. type NULL: a custom resource, by q->schema. */
int body_normalise(struct request *q, const struct api_type *type, struct json *v, struct api_problems *found,
                   struct json **out, struct err *e);
/* Reports keys that stood twice in an applied configuration: one warning, or 400. */
int body_report_dups(struct request *q, const struct json_dups *dups, struct err *e);
