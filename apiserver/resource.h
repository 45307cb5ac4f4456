/* The resource table: one row says everything the API server knows about a resource (a kind served under a plural
 * name in a group and version). Routing, discovery, OpenAPI, storage, tables and the rules all start from a row.
 * Built-in rows are constant data (resources.c); rows of CustomResourceDefinitions are made at run time (crd/) and
 * looked up the same way, so code holds a `const struct resource *` and never asks where it came from.
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
struct rbytes;

/* Pieces of answers that are the same for all objects of a row (see object.h). */
struct pieces {
    struct rbytes *head;             /* {"kind":"Pod","apiVersion":"v1", */
    struct rbytes *item, *next_item; /* of a list: "{" or the head, and the same behind a comma */
    struct rbytes *event[3];         /* {"type":"ADDED","object":{"kind":... , by wc_event_type */
};

/* Where a custom resource's scale subresource finds its numbers: ".spec.replicas". */
struct scale_paths {
    const char *spec, *status;
    const char *selector; /* NULL: none */
};

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
    const char *const
        *field_else;             /* two of them, by name: where the first is empty the second's value counts; or NULL */
    const char *key_prefix;      /* "/registry/pods/": a namespace (when namespaced) and a name follow */
    const char *storage_hash;    /* storageVersionHash in discovery, NULL: none */
    const char *stored_as;       /* "group/version" whose row is stored instead of this one, or NULL */
    uint32_t flags;              /* enum resource_flags */
    const char *deprecated;      /* a warning that every request gets, or NULL */
    bool custom;                 /* of a CustomResourceDefinition */
    const char *const *versions; /* custom: names of all its versions, NULL-terminated */
    bool converts;               /* custom: a webhook converts between them (crd/convert.h) */
    const struct scale_paths *scale; /* custom: NULL when there is no scale subresource */
    /* bound when the table is made */
    const struct api_type *type;         /* of one object; NULL for custom resources without a schema */
    const struct table_printer *printer; /* columns of printed tables; never NULL */
    const struct resource *storage;      /* row whose version is stored, NULL: this one */
    unsigned index;                      /* a number of its own for each row */
    unsigned cache;                      /* which of the watch cache's caches holds the objects */
    const struct pieces *pieces;
};

struct resource_table;

/* The built-in rows, bound to their types. Rows live as long as the table, those of custom resources too: requests,
 * watches and objects point at them. Thread-safe. */
struct resource_table *resource_table_new(void);
void resource_table_free(struct resource_table *t);
/* The built-in rows. */
size_t resource_table_len(const struct resource_table *t);
const struct resource *resource_table_at(const struct resource_table *t, size_t i);
/* All rows that are served now, groups and their versions together, in `a`. */
const struct resource *const *resource_table_rows(struct resource_table *t, struct arena *a, size_t *n);
/* Keeps a custom row: `row` with everything it points at is the table's from here on, freed with `arena`. Rows of one
 * key prefix share a cache. Returns it, or the same row when there is one already (then `arena` is freed). */
const struct resource *resource_table_keep(struct resource_table *t, struct resource *row, struct arena *arena);
/* Says which custom rows (from resource_table_keep) are served, in the order of discovery. */
void resource_table_serve(struct resource_table *t, const struct resource *const *rows, size_t n);
/* resource_find(t, "apps", "v1", "deployments"); NULL when unknown. */
const struct resource *resource_find(struct resource_table *t, const char *group, const char *version,
                                     const char *plural);
/* By kind, among the built-in ones; version NULL: the first one of the group. */
const struct resource *resource_find_kind(const struct resource_table *t, const char *group, const char *version,
                                          const char *kind);
const struct resource_sub *resource_sub_find(const struct resource *r, const char *name);
/* True when the server serves the group (and version, unless NULL). */
bool resource_group_known(struct resource_table *t, const char *group, const char *version);
/* Whether all that the group has comes from definitions. */
bool resource_group_custom(struct resource_table *t, const char *group);
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
