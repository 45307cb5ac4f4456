/* Custom resources: CustomResourceDefinitions become rows of the resource table while the server runs.
 *
 * A thread watches the definitions. For each it puts a row per version in the table (and a cache for the storage version),
 * accepts its names and says so in its status, and when it is deleted removes its objects first. Conversion between
 * versions changes apiVersion only (strategy None); definitions with a conversion webhook are served the same way and
 * say so in a condition. Upstream: apiextensions-apiserver's controllers. */
#pragma once

#include "apiserver/apiserver.h"

struct custom_column {
    const char *name, *type, *format, *path; /* path: JSONPath */
    int priority;
};

/* One version of a definition. Immutable; lives as long as the server. */
struct custom {
    struct arena *a; /* holds everything here and the row's strings */
    const struct json *schema; /* openAPIV3Schema, or NULL */
    bool preserve_unknown, has_status;
    const char *replicas_path, *status_replicas_path, *selector_path; /* scale; NULL: none */
    struct custom_column *columns;
    size_t n_columns;
    struct custom *older; /* list of all, for freeing */
};

/* Serves the definitions that are stored, then follows. */
int custom_start(struct apiserver *s, struct err *e);
void custom_stop(struct apiserver *s);
void custom_free(struct apiserver *s); /* after the last request */
/* Puts the version's facts into a context of the rules. Does nothing for built-in rows. */
void custom_ctx(const struct resource *r, struct rules_ctx *c);
/* What a DELETE does to a definition before the generic rules: the finalizer that keeps it until its objects are gone. */
void custom_definition_deleted(struct rules_ctx *c, struct json *crd);
/* Changes with every definition that comes, changes or goes: for caches of documents. */
unsigned custom_generation(struct apiserver *s);
