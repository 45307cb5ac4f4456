/* The claims of a StatefulSet's pods: made from its templates, and owned so that they go when the retention policy says
 * so (upstream: pkg/controller/statefulset/stateful_pod_control.go).
 *
 * References to the set or to the pod under another uid are of predecessors: such a claim is left to the garbage
 * collector. A claim that something else controls is not taken from it. */
#include "statefulset.h"

#define CLAIM_EVENT "create Claim %s for Pod %s in StatefulSet %s failed error: %s"

typedef struct core_persistent_volume_claim pvc_t;

const char *sts_claim_name(struct stateful *x, const pvc_t *t, int32_t ordinal) {
    return arena_printf(x->a, "%s-%s-%d", t->metadata.name, x->s->metadata.name, ordinal);
}

static struct object *claim_of(struct stateful *x, const pvc_t *t, int32_t ordinal) {
    return informer_get_ns(manager_informer(x->c->m, &client_persistentvolumeclaims), x->s->metadata.namespace,
                           sts_claim_name(x, t, ordinal));
}

/* ---- the policy ---- */

static bool goes_with_set(const struct stateful *x) {
    const struct apps_stateful_set_persistent_volume_claim_retention_policy *p =
        x->s->spec.persistent_volume_claim_retention_policy;
    return p && str_eq(p->when_deleted, "Delete");
}

static bool goes_when_scaled(const struct stateful *x) {
    const struct apps_stateful_set_persistent_volume_claim_retention_policy *p =
        x->s->spec.persistent_volume_claim_retention_policy;
    return p && str_eq(p->when_scaled, "Delete");
}

static bool scaled_away(const struct stateful *x, int32_t ordinal) {
    int32_t first = x->s->spec.ordinals ? x->s->spec.ordinals->start : 0;
    return ordinal < first || ordinal - first >= x->n_want;
}

/* ---- making ---- */

static int make_claim(struct stateful *x, const pvc_t *t, int32_t ordinal, struct err *e) {
    const char *name = sts_claim_name(x, t, ordinal), *ns = x->s->metadata.namespace, *set = x->s->metadata.name;
    pvc_t c = {.spec = t->spec};
    c.metadata = (struct meta_object_meta){
        .name = name, .namespace = ns, .labels = t->metadata.labels, .annotations = t->metadata.annotations};
    if (x->s->spec.selector)
        for (size_t k = 0; k < x->s->spec.selector->match_labels.n; k++)
            map_set(x->a, &c.metadata.labels, x->s->spec.selector->match_labels.items[k].key,
                    str_or_empty(x->s->spec.selector->match_labels.items[k].value));
    if (goes_with_set(x)) {
        c.metadata.owner_references.items = owner_ref_new(x->a, &x->owner, true);
        c.metadata.owner_references.n = 1;
    }
    struct client_opts o = {.cause = x->s->metadata.resource_version};
    _cleanup_err_ struct err ce = {0};
    int r = client_create(x->c->m->client, x->a, &client_persistentvolumeclaims, ns, &c, &o, NULL, &ce);
    if (r < 0 && client_err_exists(&ce)) return 0;
    if (r < 0) {
        event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Warning", "FailedCreate", CLAIM_EVENT,
                         name, sts_pod_name(x, ordinal), set, ce.msg);
        err_move(e, &ce);
        return r;
    }
    event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Normal", "SuccessfulCreate",
                     "create Claim %s Pod %s in StatefulSet %s success", name, sts_pod_name(x, ordinal), set);
    return 0;
}

int sts_make_claims(struct stateful *x, int32_t ordinal, struct err *e) {
    const struct core_persistent_volume_claim_vec *t = &x->s->spec.volume_claim_templates;
    for (size_t i = 0; i < t->n; i++) {
        _cleanup_object_ struct object *have = claim_of(x, &t->items[i], ordinal);
        if (have && have->meta->deletion_timestamp.set)
            return err_set(e, -EAGAIN, "pvc %s is being deleted", have->meta->name);
        int r = have ? 0 : make_claim(x, &t->items[i], ordinal, e);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- owners ---- */

/* What a claim's references say about a set and one of its pods. */
struct ties {
    bool stale,  /* to one of this name with another uid */
        strange, /* something else controls it, or a predecessor does */
        loose,   /* to the set or the pod, but not as controllers */
        set, pod;
};

static bool names(const struct meta_owner_reference *r, const char *api_version, const char *kind, const char *name) {
    return str_eq(r->api_version, api_version) && str_eq(r->kind, kind) && str_eq(r->name, name);
}

static bool is_ours(const struct stateful *x, const char *pod, const struct meta_owner_reference *r) {
    return names(r, "apps/v1", "StatefulSet", x->s->metadata.name) || names(r, "v1", "Pod", pod);
}

static struct ties ties_of(const struct stateful *x, const struct meta_object_meta *claim,
                           const struct meta_object_meta *pod) {
    struct ties t = {0};
    for (size_t i = 0; i < claim->owner_references.n; i++) {
        const struct meta_owner_reference *r = &claim->owner_references.items[i];
        bool controls = r->controller && *r->controller, set = str_eq(r->uid, x->s->metadata.uid),
             mine = str_eq(r->uid, pod->uid);
        bool ours = is_ours(x, pod->name, r);
        t.stale |= ours && !set && !mine;
        t.strange |= (ours || controls) && !set && !mine;
        t.loose |= (set || mine) && !controls;
        t.set |= set;
        t.pod |= mine;
    }
    return t;
}

static void put_ref(struct stateful *x, struct json *refs, const struct meta_owner_reference *r) {
    struct json *o = json_object(x->a);
    json_set_str(x->a, o, "apiVersion", r->api_version);
    json_set_str(x->a, o, "kind", r->kind);
    json_set_str(x->a, o, "name", r->name);
    json_set_str(x->a, o, "uid", r->uid);
    if (r->controller) json_set_bool(x->a, o, "controller", *r->controller);
    if (r->block_owner_deletion) json_set_bool(x->a, o, "blockOwnerDeletion", *r->block_owner_deletion);
    json_append(x->a, refs, o);
}

static int set_refs(struct stateful *x, const struct meta_object_meta *claim, const struct core_pod *pod, bool to_set,
                    bool to_pod, struct err *e) {
    struct json *p = json_object(x->a), *meta = json_ensure_object(x->a, p, "metadata");
    struct json *refs = json_ensure_array(x->a, meta, "ownerReferences");
    json_set_str(x->a, meta, "uid", claim->uid);
    json_set_str(x->a, meta, "resourceVersion", claim->resource_version);
    for (size_t i = 0; i < claim->owner_references.n; i++)
        if (!is_ours(x, pod->metadata.name, &claim->owner_references.items[i]))
            put_ref(x, refs, &claim->owner_references.items[i]);
    struct owner by_pod = {&client_pods, &pod->metadata};
    if (to_set) put_ref(x, refs, owner_ref_new(x->a, &x->owner, true));
    if (to_pod) put_ref(x, refs, owner_ref_new(x->a, &by_pod, true));
    const char *text = json_text(x->a, p);
    struct client_opts o = {.cause = x->s->metadata.resource_version};
    return client_patch(x->c->m->client, x->a, &client_persistentvolumeclaims, claim->namespace, claim->name,
                        CLIENT_PATCH_MERGE, text, strlen(text), &o, NULL, e);
}

static int own_claim(struct stateful *x, const struct meta_object_meta *claim, const struct core_pod *pod,
                     int32_t ordinal, struct err *e) {
    bool any = goes_with_set(x) || goes_when_scaled(x), away = scaled_away(x, ordinal);
    struct ties t = ties_of(x, claim, &pod->metadata);
    bool to_pod = goes_when_scaled(x) && away, to_set = goes_with_set(x) && !to_pod;
    if (t.stale) return 0;
    if (any && t.strange) {
        event_record_obj(x->c->events, &client_statefulsets, &x->s->metadata, "Warning", "ConflictingController",
                         "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, "
                         "the retention policy is ignored for this claim",
                         claim->name);
        to_pod = to_set = false;
    } else if (t.loose) {
        return set_refs(x, claim, pod, to_set, to_pod, e);
    }
    return t.set == to_set && t.pod == to_pod ? 0 : set_refs(x, claim, pod, to_set, to_pod, e);
}

int sts_own_claims(struct stateful *x, const struct core_pod *pod, int32_t ordinal, struct err *e) {
    const struct core_persistent_volume_claim_vec *t = &x->s->spec.volume_claim_templates;
    for (size_t i = 0; i < t->n; i++) {
        _cleanup_object_ struct object *have = claim_of(x, &t->items[i], ordinal);
        int r = have ? own_claim(x, have->meta, pod, ordinal, e) : 0;
        if (r < 0) return r;
    }
    return 0;
}

bool sts_claims_stale(struct stateful *x, int32_t ordinal) {
    const struct core_persistent_volume_claim_vec *t = &x->s->spec.volume_claim_templates;
    const char *pod = sts_pod_name(x, ordinal);
    if (!goes_when_scaled(x)) return false;
    for (size_t i = 0; i < t->n; i++) {
        _cleanup_object_ struct object *have = claim_of(x, &t->items[i], ordinal);
        for (size_t k = 0; have && k < have->meta->owner_references.n; k++)
            if (names(&have->meta->owner_references.items[k], "v1", "Pod", pod)) return true;
    }
    return false;
}
