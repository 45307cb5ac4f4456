/* The resource table: one row says everything the API server knows about a resource (a kind served under a plural
 * name in a group and version). Routing, discovery, OpenAPI, storage, tables and the rules all start from a row.
 * Built-in rows are constant data (resources.c); rows of CustomResourceDefinitions are made at run time and looked up
 * the same way, so code holds a `const struct resource *` and never asks where it came from.
 *
 * Two rows may share one storage: events (core/v1, events.k8s.io/v1) and horizontalpodautoscalers (autoscaling v1,
 * v2). The row whose version is stored has `storage` NULL; the other names it and converts (convert.h). */
#pragma once

#include "pkg/api/api.h"
#include "pkg/base/util.h"

enum resource_verb {
    VERB_CREATE = 1 << 0,
    VERB_DELETE = 1 << 1,
    VERB_DELETECOLLECTION = 1 << 2,
    VERB_GET = 1 << 3,
    VERB_LIST = 1 << 4,
    VERB_PATCH = 1 << 5,
    VERB_UPDATE = 1 << 6,
    VERB_WATCH = 1 << 7,
};
#define VERBS_ALL 0xffu
#define VERBS_RUW (VERB_GET | VERB_PATCH | VERB_UPDATE) /* status, scale, approval, resize, ... */
#define VERBS_PROXY (VERB_CREATE | VERB_DELETE | VERB_GET | VERB_PATCH | VERB_UPDATE)

/* What a row's objects are: stored, or answered from the request alone. */
enum resource_storage {
    RES_STORED,
    RES_VIRTUAL, /* create-only reviews, bindings, componentstatuses */
};

enum resource_flags {
    RES_LAZY = 1 << 0,             /* may be written back later (pkg/store): Leases, Events */
    RES_CREATE_ON_UPDATE = 1 << 1, /* PUT of an absent object creates it */
    RES_NEEDS_RV = 1 << 2,         /* an update must name the resourceVersion it is based on */
    RES_RETURN_DELETED = 1 << 3,   /* a delete answers with the object, not with a Status */
    RES_ORPHANS = 1 << 4,          /* a delete without a policy leaves dependents alone */
};

struct resource_sub {
    const char *name;            /* "status", "scale", "exec" */
    const char *group, *version; /* of `kind`; NULL: the resource's own */
    const char *kind;            /* of the body: "Pod", "Scale", "PodExecOptions" */
    uint32_t verbs;
};

struct table_printer; /* tables.h */
struct custom;

struct resource {
    const char *group; /* "" is core */
    const char *version;
    const char *kind, *list_kind;
    const char *plural, *singular;
    const char *const *short_names; /* NULL-terminated, or NULL */
    const char *const *categories;  /* NULL-terminated, or NULL */
    bool namespaced;
    enum resource_storage stored;
    uint32_t verbs;
    const struct resource_sub *subs;
    size_t n_subs;
    /* Selectable fields beside metadata.name and metadata.namespace, NULL-terminated, or NULL. "name=path" where the
     * selector's name is not the member's path in the stored object. */
    const char *const *fields;
    const char *key_prefix;         /* "/registry/pods/": a namespace (when namespaced) and a name follow */
    const char *storage_hash;       /* storageVersionHash in discovery, NULL: none */
    const char *stored_as;          /* "group/version" whose row is stored instead of this one, or NULL */
    uint32_t flags;                 /* enum resource_flags */
    const char *deprecated;         /* a warning that every request gets, or NULL */
    const struct custom *custom;    /* of a CustomResourceDefinition's version (custom.h), or NULL */
    /* bound when the table is made */
    const struct api_type *type;      /* of one object; NULL for custom resources without a schema */
    const struct table_printer *printer; /* columns of printed tables; never NULL */
    const struct resource *storage;   /* row whose version is stored, NULL: this one */
    unsigned index;                   /* of the resource: rows that replace one another have the same */
};

struct resource_table;

enum { RESOURCES_MAX = 4096 }; /* indexes */

/* The rows that are served, in discovery's order: versions of a group and resources of a version stand together. An
 * immutable picture: additions and removals make another one. */
struct resource_rows {
    struct resource_rows *older;
    size_t n;
    const struct resource *items[];
};

/* The built-in rows, bound to their types. Rows and pictures live as long as the table. Thread-safe. */
struct resource_table *resource_table_new(void);
void resource_table_free(struct resource_table *t);
const struct resource_rows *resource_rows(const struct resource_table *t);
/* Puts a row (heap, the table's from now on; strings must outlive it) in the table. A row of the same group, version and
 * plural is replaced and its index taken over; else it gets a new index. `served` false: known as a storage only.
 * -ENOSPC when there are too many. */
int resource_table_add(struct resource_table *t, struct resource *r, bool served);
/* Takes a row out of what is served. */
void resource_table_remove(struct resource_table *t, const struct resource *r);
static inline bool resource_same(const struct resource *a, const struct resource *b) { return a->index == b->index; }
/* resource_find(t, "apps", "v1", "deployments"); NULL when unknown. */
const struct resource *resource_find(const struct resource_table *t, const char *group, const char *version,
                                     const char *plural);
/* By kind; version NULL: the first one of the group. */
const struct resource *resource_find_kind(const struct resource_table *t, const char *group, const char *version,
                                          const char *kind);
const struct resource_sub *resource_sub_find(const struct resource *r, const char *name);
/* True when the server serves the group (and version, unless NULL). */
bool resource_group_known(const struct resource_table *t, const char *group, const char *version);
/* "apps/v1", or "v1" for core; in `a`. */
const char *resource_api_version(struct arena *a, const struct resource *r);
/* The row whose objects are in the store and the watch cache: r->storage or r. */
static inline const struct resource *resource_stored(const struct resource *r) { return r->storage ? r->storage : r; }
static inline const char *resource_field_path(const char *field) {
    const char *eq = strchr(field, '=');
    return eq ? eq + 1 : field;
}
/* "create", ... for one bit. */
const char *resource_verb_name(uint32_t verb);
