/* The ways of a write: create and update, for built-in kinds by their row in kinds.c and for custom resources
 * by the generic rules. Upstream: apiserver/pkg/registry/rest (BeforeCreate, BeforeUpdate) and the strategies
 * of pkg/registry. See strategy.h for the order of the calls. */
#include "apiserver/rules/alloc.h"
#include "apiserver/rules/crd_schema.h"
#include "apiserver/rules/hook_client.h"
#include "apiserver/rules/kinds.h"
#include "apiserver/rules/policy.h"
#include "apiserver/rules/validate_status.h"
#include "apiserver/rules/warnings.h"

void rules_warn(struct rules_ctx *c, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *text = arena_vprintf(c->a, fmt, ap);
    va_end(ap);
    for (size_t i = 0; i < c->n_warnings; i++)
        if (str_eq(c->warnings[i], text)) return;
    ARENA_GROW(c->a, c->warnings, c->n_warnings, c->cap_warnings);
    c->warnings[c->n_warnings++] = text;
}

void rules_annotate(struct rules_ctx *c, const char *key, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char *value = arena_vprintf(c->a, fmt, ap);
    va_end(ap);
    ARENA_GROW(c->a, c->annotations, c->n_annotations, c->cap_annotations);
    c->annotations[c->n_annotations++] = (struct rules_annotation){arena_strdup(c->a, key), value, false};
}

int rules_new(const struct rules_config *conf, struct rules **out, struct err *e) {
    struct rules *r = xcalloc(1, sizeof *r);
    r->lookup = conf->lookup;
    r->no_service_accounts = conf->no_service_accounts;
    int rc = alloc_init(r, conf, e);
    if (rc < 0) {
        free(r);
        return rc;
    }
    r->hooks = hook_pool_new();
    r->policies = policy_cache_new();
    *out = r;
    return 0;
}

void rules_free(struct rules *r) {
    if (!r) return;
    hook_pool_free(r->hooks);
    policy_cache_free(r->policies);
    alloc_done(r);
    free(r);
}

void rules_default(struct rules_ctx *c, struct json *obj) {
    const struct kind_rules *k = kind_find(c->group, c->kind);
    if (!c->type) {
        crd_default(c, obj);
        return;
    }
    api_tree_default(c->a, c->type, obj);
    if (k && k->defaults) k->defaults(c, obj);
}

static uint32_t flags_of(struct rules_ctx *c) {
    const struct kind_rules *k = kind_find(c->group, c->kind);
    if (k) return k->flags;
    if (c->type) return 0;
    return K_GENERATION | (c->crd_status_subresource ? K_STATUS : 0);
}

/* A status as an object without one has it: what Go writes for the zero value of the kind's status struct. */
static void clear_status(struct rules_ctx *c, struct json *obj) {
    const struct api_field *f = c->type ? api_field_find(c->type, "status") : NULL;
    struct json *zero = NULL;
    json_del(obj, "status");
    if (f && f->shape == API_ONE && f->type &&
        api_tree_normalise(c->a, f->type, json_object(c->a), &zero, NULL, NULL) == 0)
        json_set(c->a, obj, "status", zero);
}

int rules_prepare_create(struct rules_ctx *c, struct json *obj, struct err *e) {
    const struct kind_rules *k = kind_find(c->group, c->kind);
    uint32_t flags = flags_of(c);
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    const char *ns = jstr(meta, "namespace");
    if (!c->namespaced) {
        json_del(meta, "namespace");
    } else if (!*ns) {
        json_set_str(c->a, meta, "namespace", str_or_empty(c->ns));
    } else if (!str_eq(ns, c->ns)) {
        return err_status(e, 400, "BadRequest",
                          "the namespace of the provided object does not match the namespace sent on the request");
    }
    c->sent_revision = strtoull(jstr(meta, "resourceVersion"), NULL, 10) != 0;
    if (!c->dry_run) json_del(meta, "resourceVersion"); /* which shows what the client sent */
    meta_prepare_create(c, obj);
    drop_disabled(c, obj);
    if ((flags & K_STATUS) && !(flags & K_KEEP_STATUS_ON_CREATE)) clear_status(c, obj);
    if (flags & (K_GENERATION | K_GENERATION_ON_CREATE)) json_set_int(c->a, meta, "generation", 1);
    if (k && k->prepare) k->prepare(c, obj, NULL);
    return 0;
}

static void keep_member(struct arena *a, struct json *obj, const struct json *old, const char *key) {
    const struct json *was = json_get(old, key);
    if (was)
        json_set(a, obj, key, json_clone(a, was));
    else
        json_del(obj, key);
}

/* On /status: everything but status and metadata is the old object's. Custom resources, and a few built-in
 * kinds, keep their metadata too. */
static void keep_all_but_status(struct rules_ctx *c, struct json *obj, const struct json *old) {
    struct json *status = json_get(obj, "status"), *meta = json_get(obj, "metadata");
    bool keep_meta =
        !c->type || str_in(c->kind, ONE_OF("APIService", "ServiceCIDR", "ValidatingAdmissionPolicy", "FlowSchema",
                                           "PriorityLevelConfiguration", "ResourceClaim", "VolumeAttachment"));
    struct json *merged = json_clone(c->a, old);
    if (keep_meta) {
        struct json *om = json_ensure_object(c->a, merged, "metadata"), *managed = json_get(meta, "managedFields");
        if (managed)
            json_set(c->a, om, "managedFields", managed);
        else
            json_del(om, "managedFields");
        const char *rv = json_get_str(meta, "resourceVersion");
        if (rv) json_set_str(c->a, om, "resourceVersion", rv);
    } else {
        json_set(c->a, merged, "metadata", meta);
        if (str_eq(c->kind, "Deployment")) {
            const struct json *labels = json_at(old, "metadata", "labels", NULL);
            if (labels)
                json_set(c->a, meta, "labels", json_clone(c->a, labels));
            else
                json_del(meta, "labels");
        }
        if (str_eq(c->kind, "Pod")) {
            keep_member(c->a, meta, json_get(old, "metadata"), "deletionTimestamp");
            const struct json *owners = json_at(old, "metadata", "ownerReferences", NULL);
            if (owners)
                json_set(c->a, meta, "ownerReferences", json_clone(c->a, owners));
            else
                json_del(meta, "ownerReferences");
        }
    }
    json_del(merged, "status");
    if (status) json_set(c->a, merged, "status", status);
    *obj = *merged;
}

/* System metadata comes from the stored object; what a client may leave out is filled in. */
static void keep_system_metadata(struct rules_ctx *c, struct json *meta, const struct json *old) {
    static const char *const filled[] = {"uid", "deletionTimestamp", "deletionGracePeriodSeconds"};
    keep_member(c->a, meta, old, "generation");
    if (json_get(old, "creationTimestamp")) keep_member(c->a, meta, old, "creationTimestamp"); /* changes are ignored */
    for (size_t i = 0; i < ARRAY_LEN(filled); i++)
        if (jempty(json_get(meta, filled[i]))) keep_member(c->a, meta, old, filled[i]);
    if (!c->namespaced) json_del(meta, "namespace");
    if (c->namespaced && !*jstr(meta, "namespace")) keep_member(c->a, meta, old, "namespace");
}

/* Whether a change counts for metadata.generation: anything outside metadata and status; for Deployments
 * annotations too, and for EndpointSlices labels. */
static bool counts_for_generation(struct rules_ctx *c, const struct json *obj, const struct json *old) {
    const struct json *om = json_get(old, "metadata"), *nm = json_get(obj, "metadata");
    if (str_eq(c->kind, "Deployment") && !jsame(json_get(nm, "annotations"), json_get(om, "annotations"))) return true;
    if (str_eq(c->kind, "EndpointSlice") && !jsame(json_get(nm, "labels"), json_get(om, "labels"))) return true;
    static const char *const apart[] = {"metadata", "status", "kind", "apiVersion", NULL};
    /* of custom resources an empty value is another one than none, and of kinds that upstream compares without its
     * own notion of equality */
    bool exact = !c->type || str_in(c->kind, ONE_OF("NetworkPolicy", "MutatingWebhookConfiguration",
                                                    "ValidatingWebhookConfiguration"));
    JSON_FOREACH_MEMBER(m, obj) {
        const struct json *was = json_get(old, m->key);
        if (!str_in(m->key, apart) && !(exact && was ? json_equal(m->value, was) : jsame(m->value, was))) return true;
    }
    JSON_FOREACH_MEMBER(m, old)
        if (!str_in(m->key, apart) && !json_get(obj, m->key) && (exact || !jempty(m->value))) return true;
    return false;
}

static void count_generation(struct rules_ctx *c, struct json *obj, const struct json *old) {
    int64_t was = json_get_int(json_get(old, "metadata"), "generation", 0);
    if (!(flags_of(c) & (K_GENERATION | K_GENERATION_ON_UPDATE)) || str_eq(c->subresource, "status")) return;
    bool more = counts_for_generation(c, obj, old);
    if (more || was) json_set_int(c->a, json_get(obj, "metadata"), "generation", was + more);
}

int rules_prepare_update(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    const struct kind_rules *k = kind_find(c->group, c->kind);
    uint32_t flags = flags_of(c);
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    const struct json *old_meta = json_get(old, "metadata");
    if (c->namespaced && *jstr(meta, "namespace") && c->ns && !str_eq(jstr(meta, "namespace"), c->ns))
        return err_status(e, 400, "BadRequest",
                          "the namespace of the provided object does not match the namespace sent on the request");
    if (!(flags & K_UNCONDITIONAL_UPDATE) && !*jstr(meta, "resourceVersion")) {
        err_status(e, 422, "Invalid",
                   "%s \"%s\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for "
                   "an update",
                   c->resource, jstr(meta, "name"));
        err_details(e, c->group, c->resource, jstr(meta, "name"));
        err_cause_add(e, "FieldValueInvalid", "metadata.resourceVersion",
                      "Invalid value: 0: must be specified for an update");
        return -EINVAL;
    }
    keep_system_metadata(c, meta, old_meta);
    if ((flags & K_UNCONDITIONAL_UPDATE) && !*jstr(meta, "resourceVersion"))
        keep_member(c->a, meta, old_meta, "resourceVersion");
    if (str_eq(c->subresource, "status")) {
        keep_all_but_status(c, obj, old);
        if (c->type) rules_default(c, obj); /* what is stored is read with its defaults */
        keep_system_metadata(c, json_get(obj, "metadata"), old_meta);
    } else if ((flags & K_STATUS) && !str_eq(c->subresource, "approval")) { /* approvals are conditions of the status */
        keep_member(c->a, obj, old, "status");
    }
    const struct json *said = str_eq(c->kind, "EndpointSlice") ? json_clone(c->a, obj) : NULL;
    drop_disabled(c, obj);
    if (k && k->prepare) k->prepare(c, obj, old);
    count_generation(c, obj, old);
    /* what is dropped of a slice counts all the same */
    if (said && counts_for_generation(c, said, old))
        json_set_int(c->a, json_get(obj, "metadata"), "generation", json_get_int(old_meta, "generation", 0) + 1);
    return 0;
}

/* New finalizers of custom resources had better say whose they are. */
static void warn_custom(struct rules_ctx *c, const struct json *meta, const struct json *old) {
    const struct json *f, *o;
    JSON_FOREACH(f, json_get(meta, "finalizers")) {
        const char *name = str_or_empty(json_as_str(f));
        bool had = strchr(name, '/') || str_in(name, ONE_OF("orphan", "foregroundDeletion", "kubernetes"));
        JSON_FOREACH(o, json_get(old, "finalizers")) had |= json_equal(o, f);
        if (!had)
            rules_warn(c,
                       "metadata.finalizers: \"%s\": prefer a domain-qualified finalizer name including a path (/) to "
                       "avoid accidental conflicts with other finalizer writers",
                       name);
    }
}

/* Kinds whose own validation leaves the metadata out: that is looked at when all else is right. */
static bool meta_validated_last(const struct rules_ctx *c) {
    return str_eq(c->kind, "PodDisruptionBudget") ||
           (str_eq(c->kind, "Event") && !str_eq(c->request_group, "events.k8s.io"));
}

int rules_validate_create(struct rules_ctx *c, struct json *obj, struct err *e) {
    struct vctx v = {.c = c, .a = c->a};
    size_t warnings = c->n_warnings;
    const struct kind_rules *k = kind_find(c->group, c->kind);
    const struct json *meta = json_get(obj, "metadata");
    int r = alloc_claim(c, obj, NULL, e);
    if (r < 0) return r;
    bool late = meta_validated_last(c);
    if (!late) meta_validate(&v, meta, FP(NULL, "metadata"));
    if (!c->type) warn_custom(c, meta, NULL);
    if (c->type) warn_name(&v, obj);
    if (!c->type)
        crd_validate(&v, obj, NULL);
    else if (k && k->validate)
        k->validate(&v, obj, NULL);
    if (late && !v.n) meta_validate(&v, meta, FP(NULL, "metadata"));
    r = v_finish(&v, json_get_str(meta, "name"), e);
    if (r < 0) c->n_warnings = warnings; /* what is refused is not warned about */
    if (r == 0 && c->type) warn_object(&v, obj, NULL);
    if (r == 0 && k && k->finish) k->finish(c, obj, NULL);
    return r;
}

int rules_validate_update(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    struct vctx v = {.c = c, .a = c->a};
    size_t warnings = c->n_warnings;
    const struct kind_rules *k = kind_find(c->group, c->kind);
    const struct json *meta = json_get(obj, "metadata");
    int r = alloc_claim(c, obj, old, e);
    if (r < 0) return r;
    if (c->type && !str_eq(c->kind, "EndpointSlice"))
        count_generation(c, obj, old); /* admission may have changed it back */
    meta_validate_update(&v, meta, json_get(old, "metadata"));
    if (!c->type) warn_custom(c, meta, json_get(old, "metadata"));
    if (!c->type)
        crd_validate(&v, obj, old);
    else if (str_eq(c->subresource, "status"))
        validate_status(&v, obj, old);
    else if (k && k->validate)
        k->validate(&v, obj, old);
    r = v_finish(&v, json_get_str(meta, "name"), e);
    if (r < 0) c->n_warnings = warnings; /* what is refused is not warned about */
    if (r == 0 && c->type && str_empty(c->subresource)) warn_object(&v, obj, old);
    if (r == 0 && c->type && str_eq(c->subresource, "status")) warn_status_addresses(&v, obj);
    if (r == 0 && k && k->finish) k->finish(c, obj, old);
    return r;
}
