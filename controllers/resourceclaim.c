/* ResourceClaims: makes the claims that pods ask for by template, and looks after claims in use (upstream
 * pkg/controller/resourceclaim).
 *
 * Pods:   an entry of spec.resourceClaims with a template gets a claim, owned by the pod, and status.resourceClaimStatuses
 *         says which. A pod that was bound without a scheduler that knows claims gets its allocated claims reserved here.
 * Claims: status.reservedFor loses the pods that have ended or are gone; with the last of them goes the allocation, then
 *         the finalizer, then a claim that was made for a pod.
 *
 * A claim that was just made may not be in the informer's cache when its pod is looked at again: `made` remembers it
 * until it is seen. */
#include <pthread.h>

#include "pkg/base/map.h"
#include "pkg/client/claims.h"
#include "util.h"

enum { NAME_BASE_MAX = 57 }; /* leaves room for a hyphen and five random characters */

struct rc_controller {
    struct manager *m;
    struct workqueue *pods, *claims;
    struct event_recorder *events;
    struct informer *pods_inf, *claims_inf, *templates_inf;
    int pods_by_claim, pods_by_template, claims_by_owner;
    pthread_mutex_t lock;
    struct map made; /* "POD-UID/ENTRY" -> claim name; under the lock */
};

/* ---- indices ---- */

static void index_by_claim(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct core_pod *p = o->obj;
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const char *name;
        bool generated;
        if (pod_claim_name(p, &p->spec.resource_claims.items[i], &name, &generated, NULL) < 0 || !name) continue;
        _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(p->metadata.namespace), name);
        emit(ctx, key);
    }
}

static void index_by_template(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct core_pod *p = o->obj;
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const char *t = p->spec.resource_claims.items[i].resource_claim_template_name;
        if (!t) continue;
        _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(p->metadata.namespace), t);
        emit(ctx, key);
    }
}

/* ---- making claims ---- */

static char *made_key(const char *pod_uid, const char *entry) {
    return xasprintf("%s/%s", str_or_empty(pod_uid), str_or_empty(entry));
}

/* The name of the claim that exists for the entry already, or NULL. */
static const char *find_claim(struct rc_controller *c, struct arena *a, const struct core_pod *p, const char *entry) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_by_index(c->claims_inf, c->claims_by_owner, str_or_empty(p->metadata.uid), &l);
    for (size_t i = 0; i < l.n; i++)
        if (str_eq(str_map_get(&l.items[i]->meta->annotations, CLAIM_POD_ANNOTATION), entry))
            return arena_strdup(a, l.items[i]->meta->name);
    _cleanup_free_ char *key = made_key(p->metadata.uid, entry);
    pthread_mutex_lock(&c->lock);
    const char *name = arena_strdup(a, map_get(&c->made, key));
    pthread_mutex_unlock(&c->lock);
    return name;
}

/* `name` NULL: it is seen, or nobody wants it any more. */
static void remember_made(struct rc_controller *c, const char *pod_uid, const char *entry, const char *name) {
    _cleanup_free_ char *key = made_key(pod_uid, entry);
    pthread_mutex_lock(&c->lock);
    free(name ? map_put(&c->made, key, xstrdup(name)) : map_del(&c->made, key));
    pthread_mutex_unlock(&c->lock);
}

/* POD-ENTRY-; when that is too long, both parts give in proportion to their lengths. */
static const char *generate_name(struct arena *a, const char *pod, const char *entry) {
    const char *full = arena_printf(a, "%s-%s-", pod, entry);
    size_t n = strlen(full);
    if (n <= NAME_BASE_MAX) return full;
    return arena_printf(a, "%.*s-%.*s", (int)(strlen(pod) * NAME_BASE_MAX / n), pod,
                        (int)(strlen(entry) * NAME_BASE_MAX / n), entry);
}

static int create_claim(struct rc_controller *c, struct arena *a, const struct core_pod *p,
                        const struct core_pod_resource_claim *entry, const char **name, struct err *e) {
    const char *ns = p->metadata.namespace, *from = entry->resource_claim_template_name;
    _cleanup_object_ struct object *o = informer_get_ns(c->templates_inf, ns, from);
    if (!o)
        return err_set(e, -ENOENT,
                       "resource claim template \"%s\": resourceclaimtemplate.resource.k8s.io \"%s\" not found", from,
                       from);
    const struct resource_resource_claim_template *t = o->obj;
    struct owner owner = {&client_pods, &p->metadata};
    struct resource_resource_claim k = {.spec = t->spec.spec}, out = {0};
    k.metadata = (struct meta_object_meta){.namespace = ns,
                                           .generate_name = generate_name(a, p->metadata.name, entry->name),
                                           .labels = t->spec.metadata.labels,
                                           .annotations = t->spec.metadata.annotations};
    map_set(a, &k.metadata.annotations, CLAIM_POD_ANNOTATION, entry->name);
    k.metadata.owner_references.items = owner_ref_new(a, &owner, true);
    k.metadata.owner_references.items->block_owner_deletion = NULL;
    k.metadata.owner_references.n = 1;
    struct client_opts opts = {.cause = p->metadata.resource_version};
    int r = client_create(c->m->client, a, &client_resourceclaims, ns, &k, &opts, &out, e);
    if (r < 0) return err_wrap(e, "create ResourceClaim");
    remember_made(c, p->metadata.uid, entry->name, out.metadata.name);
    *name = out.metadata.name;
    return 0;
}

/* The claim of an entry that the pod's status does not name yet, or names wrongly; *name NULL when nothing is to be said. */
static int handle_entry(struct rc_controller *c, struct arena *a, const struct core_pod *p,
                        const struct core_pod_resource_claim *entry, const char **name, struct err *e) {
    const char *known;
    bool generated;
    _cleanup_err_ struct err ne = {0};
    *name = NULL;
    int r = pod_claim_name(p, entry, &known, &generated, &ne);
    if (r < 0 && r != -ENOENT) {
        err_move(e, &ne);
        return err_wrap(e, "checking for claim before creating it");
    }
    if (r == 0 && !known) return 0;
    _cleanup_object_ struct object *o = r == 0 ? informer_get_ns(c->claims_inf, p->metadata.namespace, known) : NULL;
    if (o && (!generated || claim_is_for_pod(o->obj, p, NULL) == 0)) return 0;
    if (!entry->resource_claim_template_name) return 0; /* somebody else will make it */
    *name = find_claim(c, a, p, entry->name);
    if (!*name) return create_claim(c, a, p, entry, name, e);
    if (r == 0 && str_eq(*name, known)) *name = NULL; /* made and told, but not seen yet */
    return 0;
}

static int tell_status(struct rc_controller *c, struct arena *a, const struct core_pod *p, const struct json *statuses,
                       struct err *e) {
    struct json *o = json_object(a), *meta = json_object(a);
    json_set_str(a, o, "apiVersion", "v1");
    json_set_str(a, o, "kind", "Pod");
    json_set_str(a, meta, "name", p->metadata.name);
    json_set_str(a, meta, "namespace", p->metadata.namespace);
    json_set_str(a, meta, "uid", p->metadata.uid);
    json_set(a, o, "metadata", meta);
    json_set(a, json_ensure_object(a, o, "status"), "resourceClaimStatuses", json_clone(a, statuses));
    const char *text = json_text(a, o);
    struct client_opts opts = {.cause = p->metadata.resource_version,
                               .field_manager = "ResourceClaimController",
                               .subresource = "status",
                               .force = true};
    _cleanup_err_ struct err pe = {0};
    int r = client_patch(c->m->client, a, &client_pods, p->metadata.namespace, p->metadata.name, CLIENT_PATCH_APPLY,
                         text, strlen(text), &opts, NULL, &pe);
    if (r == 0 || client_err_not_found(&pe)) return 0;
    err_move(e, &pe);
    return err_wrap(e, "update ResourceClaimStatuses");
}

/* The applied list is the manager's whole opinion: entries that were named before are named again. */
static int make_claims(struct rc_controller *c, struct arena *a, const struct core_pod *p, struct err *e) {
    struct json *statuses = json_array(a);
    bool news = false;
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const struct core_pod_resource_claim *entry = &p->spec.resource_claims.items[i];
        const char *name, *old = NULL;
        bool generated = false;
        int r = handle_entry(c, a, p, entry, &name, e);
        if (r < 0) {
            err_wrap(e, "PodResourceClaim %s", str_or_empty(entry->name));
            event_record_obj(c->events, &client_pods, &p->metadata, "Warning", "FailedResourceClaimCreation", "%s",
                             e->msg);
            return r;
        }
        news |= name != NULL;
        if (!name && pod_claim_name(p, entry, &old, &generated, NULL) == 0 && generated) name = old;
        if (!name) continue;
        struct json *s = json_object(a);
        json_set_str(a, s, "name", entry->name);
        json_set_str(a, s, "resourceClaimName", name);
        json_append(a, statuses, s);
    }
    return news ? tell_status(c, a, p, statuses, e) : 0;
}

/* ---- pods that were bound by somebody who knows no claims ---- */

static int reserve_for(struct rc_controller *c, struct arena *a, const struct object *o, const struct core_pod *p,
                       struct err *e) {
    struct resource_resource_claim k = *(const struct resource_resource_claim *)o->obj;
    struct resource_resource_claim_consumer_reference *v = arena_zalloc(a, (k.status.reserved_for.n + 1) * sizeof(*v));
    if (k.status.reserved_for.n) memcpy(v, k.status.reserved_for.items, k.status.reserved_for.n * sizeof(*v));
    v[k.status.reserved_for.n++] = (struct resource_resource_claim_consumer_reference){
        .resource = "pods", .name = p->metadata.name, .uid = p->metadata.uid};
    k.status.reserved_for.items = v;
    struct client_opts opts = {.cause = o->rv};
    int r = client_update_status(c->m->client, a, &client_resourceclaims, o->meta->namespace, &k, &opts, NULL, e);
    return r < 0 ? err_wrap(e, "reserve claim %s", o->key) : 0;
}

static int reserve_claims(struct rc_controller *c, struct arena *a, const struct core_pod *p, struct err *e) {
    for (size_t i = 0; i < p->spec.resource_claims.n; i++) {
        const char *name;
        bool generated;
        int r = pod_claim_name(p, &p->spec.resource_claims.items[i], &name, &generated, NULL);
        if (r < 0) return 0; /* its status was just written; the pod comes back */
        if (!name) continue;
        _cleanup_object_ struct object *o = informer_get_ns(c->claims_inf, p->metadata.namespace, name);
        const struct resource_resource_claim *k = o ? o->obj : NULL;
        if (!k) return 0;
        if (generated && (r = claim_is_for_pod(k, p, e)) < 0) return r;
        if (!k->status.allocation || claim_reserved_for(k, p->metadata.uid)) continue;
        if ((r = reserve_for(c, a, o, p, e)) < 0) return r;
    }
    return 0;
}

static int reconcile_pod(void *arg, struct arena *a, const char *key, struct err *e) {
    struct rc_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(c->pods_inf, key);
    const struct core_pod *p = o ? o->obj : NULL;
    if (!p || p->metadata.deletion_timestamp.set || pod_is_terminal(p)) return 0;
    int r = make_claims(c, a, p, e);
    return r == 0 && !str_empty(p->spec.node_name) ? reserve_claims(c, a, p, e) : r;
}

/* ---- claims in use ---- */

static bool pod_is_done(const struct core_pod *p) {
    return pod_is_terminal(p) || (p->metadata.deletion_timestamp.set && str_empty(p->spec.node_name));
}

/* Whether a consumer still holds the claim: 1, 0, or an error. Consumers other than pods are left alone. */
static int still_used(struct rc_controller *c, struct arena *a, const char *ns,
                      const struct resource_resource_claim_consumer_reference *ref, struct err *e) {
    if (!str_empty(ref->api_group) || !str_eq(ref->resource, "pods")) return 1;
    _cleanup_object_ struct object *o = informer_get_ns(c->pods_inf, ns, ref->name);
    if (o) return str_eq(o->meta->uid, ref->uid) && !pod_is_done(o->obj);
    /* The cache may be behind: a pod that was just made must not lose its devices. */
    struct core_pod live = {0};
    _cleanup_err_ struct err ge = {0};
    int r = client_get(c->m->client, a, &client_pods, ns, ref->name, &live, &ge);
    if (r == 0) return str_eq(live.metadata.uid, ref->uid);
    if (client_err_not_found(&ge)) return 0;
    err_move(e, &ge);
    return r;
}

/* Writes status (consumers that are left; without any, no allocation) and then takes the finalizer off. */
static int release(struct rc_controller *c, struct arena *a, const struct object *o,
                   const struct resource_resource_claim_consumer_reference_vec *left, struct err *e) {
    struct resource_resource_claim k = *(const struct resource_resource_claim *)o->obj, out = {0};
    bool finalizer = claim_has_finalizer(&k);
    bool change = left->n < k.status.reserved_for.n || (left->n == 0 && finalizer && k.status.allocation);
    struct client_opts opts = {.cause = o->rv};
    k.status.reserved_for = *left;
    if (left->n == 0 && finalizer) {
        k.status.allocation = NULL;
        k.status.devices.n = 0;
    }
    if (change) {
        int r = client_update_status(c->m->client, a, &client_resourceclaims, o->meta->namespace, &k, &opts, &out, e);
        if (r < 0) return r;
    }
    const struct resource_resource_claim *now = change ? &out : o->obj;
    if (!finalizer || now->status.allocation) return 0;
    return finalizer_drop(c->m, a, &client_resourceclaims, &now->metadata, CLAIM_FINALIZER, e);
}

/* A claim that was made for a pod goes when that has ended. (When the pod is gone, the garbage collector takes it.) */
static int delete_unused(struct rc_controller *c, const struct object *o, struct err *e) {
    const struct meta_owner_reference *owner = meta_controller_of(o->meta);
    if (!owner || !str_eq(owner->kind, "Pod") || !str_eq(owner->api_version, "v1")) return 0;
    _cleanup_object_ struct object *p = informer_get_ns(c->pods_inf, o->meta->namespace, owner->name);
    if (!p || (str_eq(p->meta->uid, owner->uid) && !pod_is_done(p->obj))) return 0;
    struct client_delete_opts d = {.cause = o->rv, .uid = o->meta->uid};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(c->m->client, &client_resourceclaims, o->meta->namespace, o->meta->name, &d, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return err_wrap(e, "delete unused generated claim %s", o->key);
}

static int reconcile_claim(void *arg, struct arena *a, const char *key, struct err *e) {
    struct rc_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(c->claims_inf, key);
    if (!o) return 0;
    const struct resource_resource_claim *k = o->obj;
    struct resource_resource_claim_consumer_reference_vec left = {0};
    left.items = arena_alloc(a, (k->status.reserved_for.n + 1) * sizeof(*left.items));
    for (size_t i = 0; i < k->status.reserved_for.n; i++) {
        int used = still_used(c, a, o->meta->namespace, &k->status.reserved_for.items[i], e);
        if (used < 0) return used;
        if (used) left.items[left.n++] = k->status.reserved_for.items[i];
    }
    bool leaving = k->metadata.deletion_timestamp.set && left.n == 0 && claim_has_finalizer(k);
    int r = left.n < k->status.reserved_for.n || leaving ? release(c, a, o, &left, e) : 0;
    return r == 0 && left.n == 0 && !k->metadata.deletion_timestamp.set ? delete_unused(c, o, e) : r;
}

/* ---- what wakes them ---- */

static void pod_seen(struct rc_controller *c, const struct object *o, bool deleted) {
    const struct core_pod *p = o->obj;
    const struct core_pod_extended_resource_claim_status *x = p->status.extended_resource_claim_status;
    if (!p->spec.resource_claims.n && !x) return;
    bool done = deleted || pod_is_done(p);
    for (size_t i = 0; done && i < p->spec.resource_claims.n; i++) {
        const char *name;
        bool generated;
        if (pod_claim_name(p, &p->spec.resource_claims.items[i], &name, &generated, NULL) < 0 || !name) continue;
        _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(p->metadata.namespace), name);
        workqueue_add(c->claims, key);
    }
    if (done && x && x->resource_claim_name) {
        _cleanup_free_ char *key = xasprintf("%s/%s", str_or_empty(p->metadata.namespace), x->resource_claim_name);
        workqueue_add(c->claims, key);
    }
    if (!done && p->spec.resource_claims.n) workqueue_add(c->pods, o->key);
}

static void pod_added(void *arg, struct object *o) { pod_seen(arg, o, false); }
static void pod_updated(void *arg, struct object *old, struct object *o) { pod_seen(arg, o, false); }
static void pod_deleted(void *arg, struct object *o) {
    const struct core_pod *p = o->obj;
    pod_seen(arg, o, true);
    for (size_t i = 0; i < p->spec.resource_claims.n; i++)
        remember_made(arg, p->metadata.uid, p->spec.resource_claims.items[i].name, NULL);
}

static void wake_pods(struct rc_controller *c, int index, const char *key) {
    _cleanup_object_list_ struct object_list l = {0};
    informer_by_index(c->pods_inf, index, key, &l);
    for (size_t i = 0; i < l.n; i++) pod_seen(c, l.items[i], false);
}

static void claim_changed(void *arg, const struct object *o) {
    struct rc_controller *c = arg;
    const struct meta_owner_reference *owner = meta_controller_of(o->meta);
    const char *entry = str_map_get(&o->meta->annotations, CLAIM_POD_ANNOTATION);
    if (owner && entry) remember_made(c, owner->uid, entry, NULL);
    workqueue_add(c->claims, o->key);
    wake_pods(c, c->pods_by_claim, o->key);
}

static void template_changed(void *arg, const struct object *o) {
    struct rc_controller *c = arg;
    wake_pods(c, c->pods_by_template, o->key);
}

static void rc_done(void *arg) {
    struct rc_controller *c = arg;
    map_done_with(&c->made, free);
    pthread_mutex_destroy(&c->lock);
}

int resourceclaim_start(struct manager *m, struct err *e) {
    struct rc_controller *c = manager_alloc(m, sizeof(*c), rc_done);
    c->m = m;
    pthread_mutex_init(&c->lock, NULL);
    c->events = manager_recorder(m, "resource_claim");
    c->pods_inf = manager_informer(m, &client_pods);
    c->claims_inf = manager_informer(m, &client_resourceclaims);
    c->templates_inf = manager_informer(m, &client_resourceclaimtemplates);
    c->pods_by_claim = informer_add_index(c->pods_inf, index_by_claim);
    c->pods_by_template = informer_add_index(c->pods_inf, index_by_template);
    c->claims_by_owner = informer_add_index(c->claims_inf, index_by_controller_uid);
    c->pods = manager_queue(m, "resource-claim-pods", 2, reconcile_pod, c, &client_pods, &client_resourceclaims,
                            &client_resourceclaimtemplates, NULL);
    c->claims = manager_queue(m, "resource-claim", 2, reconcile_claim, c, &client_pods, &client_resourceclaims, NULL);
    struct informer_handler h = {pod_added, pod_updated, pod_deleted, c};
    informer_add_handler(c->pods_inf, &h);
    manager_watch(m, &client_resourceclaims, claim_changed, c);
    manager_watch(m, &client_resourceclaimtemplates, template_changed, c);
    return 0;
}
