/* The custom resources of an API server. A CustomResourceDefinition becomes
 *
 *   rows     a `struct resource` for each served version, in the resource table: from then on requests find it like a
 *            built-in one. Rows are small and live as long as the table.
 *   a cache  one for all its versions: objects are stored in the storage version, and versions differ in their
 *            apiVersion only (conversion strategy None)
 *   schemas  one a version, for writes: parsed from the definition's cached JSON when the first write needs it, without
 *            descriptions, and dropped when the definition changes. Definitions that nobody writes cost no tree.
 *
 * A thread follows the definitions: it accepts or refuses their names, serves them, sets their conditions, and ends
 * them: when a definition is deleted its instances go first (finalizer customresourcecleanup.apiextensions.k8s.io).
 *
 * Where a webhook converts between versions (strategy Webhook), convert.h stands between the stored objects and requests.
 *
 * Upstream: apiextensions-apiserver (customresource_handler.go and its controllers). */
#pragma once

#include "apiserver/request.h"
#include "pkg/api/openapi.h"

struct crd_registry;

/* Serves the definitions that are in the store, and follows them. */
int crd_registry_open(struct apiserver *s, struct err *e);
void crd_registry_close(struct apiserver *s);

/* What a version's writes go by. Immutable, reference-counted. */
struct crd_schema {
    _Atomic uint32_t refs;
    struct arena *arena;
    const struct json *schema; /* openAPIV3Schema */
    const struct crd_cel *cel; /* its rules, compiled; NULL: none */
    bool preserve_unknown, status, terminating;
    int64_t rev; /* of the definition */
    char *version;
};
/* Sets q->schema for requests that write; the caller holds the reference in *out until the request is done. 405 for
 * creations while the definition is being deleted. */
int crd_schema_get(struct request *q, struct crd_schema **out, struct err *e);
/* The schema of any row, for what is read. NULL when the definition is gone. The caller's reference. */
struct crd_schema *crd_schema_of_row(struct apiserver *s, const struct resource *r);
void crd_schema_unref(struct crd_schema *s); /* NULL-safe */
static inline void cleanup_crd_schema(struct crd_schema **s) { crd_schema_unref(*s); }
#define _cleanup_crd_schema_ _cleanup_(cleanup_crd_schema)
/* Tells the rules. NULL: not custom. */
void crd_schema_into(const struct crd_schema *s, struct rules_ctx *c);

/* ---- for OpenAPI ---- */

/* Counts changes of what is published. */
uint64_t crd_changes(struct apiserver *s);
/* The revision of the definition that a row comes from. */
int64_t crd_revision(struct apiserver *s, const struct resource *r);
/* publish.c: the kind and its list, for OpenAPI `version` (2 or 3). */
struct openapi_kind crd_openapi_kind(struct apiserver *s, struct arena *a, const struct resource *r, int version);
struct openapi_kind crd_openapi_list(struct arena *a, const struct resource *r, int version);

/* ---- shared by the files of this folder ---- */

/* The definition's tree, or NULL: name is "gadgets.lab.example". */
struct json *crd_tree(struct apiserver *s, struct arena *a, const char *name);
const char *crd_name_of(struct arena *a, const struct resource *r);
const struct json *crd_version_of(const struct json *crd, const char *version);
static inline const struct json *crd_schema_of(const struct json *version) {
    return json_at(version, "schema", "openAPIV3Schema", NULL);
}

/* rows.c: a row of the definition in this version, with everything in `arena`. storage NULL: it is the stored one. */
struct resource *crd_row(struct arena *arena, const struct json *crd, const struct json *version,
                         const struct resource *storage);
/* v1 before v1beta1, v2 before v1: < 0 when x comes first (upstream: version.CompareKubeAwareVersionStrings). */
int crd_version_cmp(const char *x, const char *y);

/* names.c: works the names out. `others` are the accepted names of the group's other definitions. Changes
 * status.acceptedNames and the conditions of `crd`; true when something changed. */
struct crd_names {
    const char **resources, **kinds;
    size_t n_resources, cap_resources, n_kinds, cap_kinds;
};
void crd_names_add(struct arena *a, struct crd_names *others, const struct json *crd);
bool crd_names_accept(struct arena *a, struct json *crd, const struct crd_names *others, struct ktime now);
/* The definition converts between its versions by a webhook. */
bool crd_wants_webhook(const struct json *crd);
bool crd_condition_true(const struct json *crd, const char *type);
/* True when it changed; the time is kept when the status stays. */
bool crd_condition_set(struct arena *a, struct json *crd, const char *type, bool status, const char *reason,
                       const char *message, struct ktime now);
#define CRD_FINALIZER "customresourcecleanup.apiextensions.k8s.io"

/* defaults.c: objects that were stored before the schema had its defaults are shown with them. */
void crd_default_objects(struct apiserver *s, const struct resource *stored, const struct json *schema);

/* apiservices.c: makes and deletes APIServices so that there is one for every group and version of the rows. */
int crd_apiservices(struct apiserver *s, const struct resource *const *rows, size_t n, struct err *e);

/* cleanup.c: one step of a deletion: deletes instances; true when none is left and the finalizer is gone. */
bool crd_cleanup(struct apiserver *s, const char *name, const struct resource *stored);
/* Writes the definition's status (names.c, cleanup.c) as the server: retries when somebody else wrote. `change` works
 * on a fresh tree and says whether there is something to write. */
typedef bool crd_change_fn(struct apiserver *s, struct arena *a, struct json *crd, void *arg);
int crd_update(struct apiserver *s, const char *name, const char *subresource, crd_change_fn *change, void *arg,
               struct err *e);
