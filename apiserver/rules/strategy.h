/* Rules: what the API server does to an object between decoding it and storing it, and between a delete
 * request and the deletion. The registry's handlers (apiserver/) call this; nothing here knows HTTP or the
 * store. Upstream: the strategies of pkg/registry, the defaulting and validation of pkg/apis, the plugins of
 * plugin/pkg/admission, and managedfields of apimachinery.
 *
 * Objects are JSON trees in canonical form (api_tree_normalise), in the request's arena. A write goes
 *
 *   create   decode, normalise -> rules_default -> managed_fields_update -> rules_prepare_create
 *            -> admission_mutate -> rules_validate_create
 *            -> admission_validate -> store; when the store refuses: rules_release
 *   update   decode, normalise -> rules_default -> managed_fields_update(old, new) ->
 * rules_prepare_update(new, old)
 *            -> admission_mutate -> rules_validate_update -> admission_validate -> store (compare and set)
 *   patch    patch_apply(old, patch) -> as update; patching an absent object is 404
 *   apply    ssa_apply(live or NULL, config) -> as create or update, without managed_fields_update
 *   delete   admission_validate (op DELETE) -> rules_prepare_delete -> either remove now or store the changed
 * object
 *
 * Custom resources pass through the same calls with ctx->type NULL and ctx->crd_schema set.
 *
 * Errors are API errors (err_status): validation collects every finding of an object into one 422 Invalid
 * with causes. */
#pragma once

#include "pkg/api/api.h"
#include "pkg/base/err.h"
#include "pkg/base/ktime.h"
#include "pkg/json/json.h"

enum rules_op { RULES_CREATE, RULES_UPDATE, RULES_DELETE, RULES_CONNECT };

struct user_info;

/* A kind and the resource it is served as. */
struct rules_kind {
    const char *group, *version, *kind, *resource;
    bool namespaced;
};

/* What an authorizer is asked. "" where nothing is said; path NULL: about a resource. */
struct rules_ask {
    const char *path, *verb, *group, *resource, *subresource, *ns, *name, *field_selector, *label_selector;
};

/* Reads of other objects, from the watch cache. Results live in `a` (or are shared and immutable). */
struct rules_lookup {
    void *arg;
    /* The object's tree or NULL. group "" is core; ns NULL for cluster-scoped kinds. */
    const struct json *(*get)(void *arg, struct arena *a, const char *group, const char *resource, const char *ns,
                              const char *name);
    /* A JSON array of objects (ns NULL: all namespaces); never NULL. */
    const struct json *(*list)(void *arg, struct arena *a, const char *group, const char *resource, const char *ns);
    /* For admission; each may be NULL. The revision of the last change of a resource's objects. */
    int64_t (*changed)(void *arg, const char *group, const char *resource);
    /* All kinds whose objects are those of this resource (other versions, other groups), this one among them. */
    size_t (*equivalents)(void *arg, struct arena *a, const char *group, const char *resource, struct rules_kind **out);
    /* Brings a tree with its apiVersion into the version of `to`. */
    int (*convert)(void *arg, struct arena *a, const struct rules_kind *to, struct json **v, struct err *e);
    /* Finds a kind that is served. */
    bool (*kind)(void *arg, struct arena *a, const char *api_version, const char *kind, struct rules_kind *out);
    bool (*authorize)(void *arg, struct arena *a, const struct user_info *user, const struct rules_ask *ask,
                      const char **reason);
};

/* Where cluster IPs and node ports are kept when several servers share them. All may block. Negative results are errors
 * with `e` filled in, but -EEXIST (taken by another) and -ENOSPC (none is left). */
struct rules_alloc {
    void *arg;
    /* Takes the address for the Service. dry_run: only says whether it could. */
    int (*take_ip)(void *arg, struct arena *a, const char *ip, const struct json *service, bool dry_run, struct err *e);
    /* Takes port `want` (0: any free one) of min..max and gives it. */
    int (*take_port)(void *arg, struct arena *a, int want, bool dry_run, struct err *e);
    /* Give back; failures are made up for by the owner's repair. `owner` is "namespace/name" of the Service. */
    void (*drop_ip)(void *arg, struct arena *a, const char *ip, const char *owner);
    void (*drop_port)(void *arg, struct arena *a, int port);
};

struct rules_config {
    struct rules_lookup lookup;
    const struct rules_alloc *alloc;  /* NULL: in memory, filled from the Services that lookup lists */
    const char *service_cidr;         /* "10.96.0.0/16"; NULL gives that */
    int node_port_min, node_port_max; /* 0, 0 give 30000-32767 */
    bool no_service_accounts;         /* the admission plugin ServiceAccount is off */
};

/* One API server's rules: allocators of cluster IPs and node ports, and the lookups. Thread-safe. */
struct rules;
int rules_new(const struct rules_config *c, struct rules **out, struct err *e);
void rules_free(struct rules *r); /* NULL-safe */

struct rules_ctx {
    struct rules *rules;
    struct arena *a;                               /* the request's */
    const struct api_type *type;                   /* NULL for custom resources */
    const struct json *crd_schema;                 /* openAPIV3Schema of the served version, NULL for built-in kinds */
    const struct crd_cel *crd_cel;                 /* the schema's rules; NULL: none */
    bool crd_preserve_unknown;                     /* spec.preserveUnknownFields */
    bool crd_status_subresource;                   /* the version declares subresources.status */
    const char *group, *version, *kind, *resource; /* of the stored kind */
    const char *request_group,
        *request_version;    /* that the request named, where it differs (events.k8s.io); may be NULL */
    const char *subresource; /* NULL or "" for the object itself; "status", "scale", "ephemeralcontainers",
                                "resize", ... */
    bool namespaced;
    const char *ns, *name; /* of the URL; name NULL on create */
    enum rules_op op;
    bool dry_run;
    const struct user_info *who; /* who asks, in full; NULL: the server itself */
    const struct json *options;  /* CreateOptions, ... as admission sees them; NULL: made of what is known here */
    const struct rules_kind *body_kind; /* of `obj` where it is not the resource's own: Scale, Eviction; or NULL */
    const char *field_manager_param, *field_validation; /* of the query, or NULL */
    const char *user;                                   /* authenticated user and groups */
    const char *const *groups;
    size_t n_groups;
    const char *field_manager; /* ?fieldManager=, or derived from User-Agent */
    struct ktime now;
    /* The kind in another of its versions, for ownership of fields that have other names there: a new tree of `obj`
     * (which is in the stored version) and its type. NULL where the kind has one version, or versions that differ in
     * their name only; it returns NULL for a version that is not served. */
    struct json *(*view)(struct arena *a, void *arg, const char *api_version, const struct json *obj,
                         const struct api_type **type);
    void *view_arg;
    /* Out: texts for Warning headers, in the arena. */
    const char **warnings;
    size_t n_warnings, cap_warnings;
    /* Out: annotations for the audit event, in the arena. */
    struct rules_annotation {
        const char *key, *value;
        bool detail; /* for level Request and higher */
    } * annotations;
    size_t n_annotations, cap_annotations;
    const char *raw_was, *raw_now; /* of a ControllerRevision's data: its bytes as stored, and now; NULL: as equal */
    bool no_extensions;            /* policies and webhooks have seen this write already, in another form */
    struct admit_rounds *rounds;   /* of the mutating chain */
    /* private to the rules: what rules_release gives back */
    struct rules_claim *claims;
    bool sent_revision;      /* out, of a create: the client said a resourceVersion */
    bool quota_counted;      /* out: a quota limits this write; see admission_quota */
    struct rules_seen *seen; /* objects that admission has looked up */
};

void rules_warn(struct rules_ctx *c, const char *fmt, ...) _printf_(2, 3);
void rules_annotate(struct rules_ctx *c, const char *key, const char *fmt, ...) _printf_(3, 4);

/* ---- the ways of a write ---- */

/* Fills absent fields of the object as upstream's SetDefaults functions (or the CRD's schema defaults) do.
 * Also made on objects read from the store in an older form. */
void rules_default(struct rules_ctx *c, struct json *obj);
/* Metadata of a new object (name from generateName, namespace from the URL, uid, creationTimestamp; clears
 * resourceVersion, deletionTimestamp, selfLink), then the kind's own preparation: clears status where the
 * kind has one apart, generation 1. Errors: namespace of the body and the URL differ (400), ... */
int rules_prepare_create(struct rules_ctx *c, struct json *obj, struct err *e);
/* Carries over from `old` what this endpoint must not change (system metadata; status on the main endpoint,
 * everything else on /status), and bumps generation when the spec changes. Both are whole objects. */
int rules_prepare_update(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);
/* All findings at once, as 422 Invalid with causes (details group, kind, name set). May warn. */
int rules_validate_create(struct rules_ctx *c, struct json *obj, struct err *e);
int rules_validate_update(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);

/* The built-in admission plugins in their order, webhooks among them. `old` is NULL on create; on delete
 * `obj` is NULL and `old` the object. */
int admission_mutate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);
int admission_validate(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);
/* The check of quotas once more. When quota_counted is set the caller lets one write of the namespace in at a time, from
 * here until it is stored: two that fit singly may not fit together. charges NULL: what is counted decides. Else what the
 * quotas' status says is used counts too, and charges->items is what it will be after this write. */
struct quota_charges {
    bool trust_count; /* in: the status has been as it is for so long that what it says beyond the count is wrong */
    const struct quota_charges *paid; /* in: what this write has charged already; NULL: nothing */
    bool disputed;                    /* out, of a refusal: by the count the write would fit */
    struct quota_charge {
        const char *quota;
        struct json *used; /* resource: quantity */
    } * items;
    size_t n, cap;
};
int admission_quota(struct rules_ctx *c, const struct json *obj, const struct json *old, struct quota_charges *charges,
                    struct err *e);

/* Policies, webhooks and the few built-in plugins that look at more than objects, which see requests that are no plain writes of an object too: CONNECT, and the bodies of
 * subresources (c->body_kind). They may change `obj`, which is NULL for a deletion. */
int admission_extensions(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);

/* Gives cluster IPs, node ports and quota back that this context claimed, when the write did not happen. */
void rules_release(struct rules_ctx *c);
/* Tells the allocators that `now` (NULL: nothing) is stored in place of `was`: what only the old one held is free. */
void rules_stored(struct rules_ctx *c, const struct json *was, const struct json *now);

/* DeleteOptions as the handler has decoded them; absent: -1 / NULL. */
struct rules_delete_options {
    int64_t grace_period_seconds;   /* -1 absent */
    const char *propagation_policy; /* "Orphan", "Background", "Foreground" or NULL */
    bool orphan_by_default; /* when neither the request nor the object's finalizers say what becomes of dependents */
    int orphan_dependents;  /* deprecated field: -1 absent, 0, 1 */
};
enum rules_delete { RULES_DELETE_NOW, RULES_DELETE_STORE, RULES_DELETE_NOTHING };
/* What a delete request does to `obj` (a copy the caller may change): remove it now; store the changed object
 * (deletionTimestamp, grace period, finalizers set: it goes when the last finalizer goes or the kubelet ends
 * it); or nothing new (already being deleted). */
enum rules_delete rules_prepare_delete(struct rules_ctx *c, struct json *obj, const struct rules_delete_options *o);
/* True when an object just updated must be removed: it has a deletionTimestamp, no finalizers and no grace
 * left. */
bool rules_update_deletes(struct rules_ctx *c, const struct json *obj);

/* ---- patches ---- */

/* content_type: application/json-patch+json, application/merge-patch+json or
 * application/strategic-merge-patch+json (parameters ignored). `current` is not changed; *out is a new tree,
 * not normalised. What strict decoding finds in the patch is added to `strict`. Errors: 415 (other types; strategic on
 * custom resources), 400 (not JSON), 422 (a JSON patch that does not apply), 500 (strategic: against its type). */
int patch_apply(struct rules_ctx *c, const char *content_type, const struct json *current, const char *patch,
                size_t len, struct json **out, struct api_problems *strict, struct err *e);

/* ---- managedFields (managed_fields.c) and server-side apply (ssa.c) ---- */

/* Records in new.metadata.managedFields what ctx->field_manager's Update changed from old (NULL on create). A
 * client that sends managedFields: [{}] or [] empties the list, as upstream. */
void managed_fields_update(struct rules_ctx *c, struct json *obj, const struct json *old);
/* Merges `config` (an applied configuration: as the client sent it, not defaulted) into `live` (NULL:
 * creates). Conflicts are 409 with a cause FieldManagerConflict for each field, unless `force`. *out has its
 * managedFields set; the caller normalises and defaults it and goes on as for an update. *changed is false
 * when nothing but the time of the entry would change: then *out equals live. */
int ssa_apply(struct rules_ctx *c, const struct json *live, const struct json *config, bool force, struct json **out,
              bool *changed, struct err *e);

/* ---- custom resources ---- */

/* Decoding a custom resource: apiVersion, kind and metadata are brought into canonical form, members that
 * ctx->crd_schema does not know are dropped and noted in `unknown` (may be NULL); without a schema everything
 * stays. -EINVAL as api_tree_normalise. */
int crd_normalise(struct rules_ctx *c, struct json *obj, struct api_problems *unknown, struct err *e);

/* ---- names (shared with handlers) ---- */
/* NULL when `name` is a valid name for this kind, else a message. */
const char *rules_name_check(struct rules_ctx *c, const char *name, bool prefix);
