/* What controllers share: maps, conditions of pods, ownership, expectations. */
#include "util.h"

#include <pthread.h>

#include "pkg/base/map.h"

#define EXPECTATIONS_LAPSE (300 * NS_PER_SEC)

/* ---- maps ---- */

void map_unset(struct arena *a, struct str_map *m, const char *key) {
    struct str_map out = {.items = arena_alloc(a, (m->n + 1) * sizeof(*out.items))};
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->items[i].key, key) != 0) out.items[out.n++] = m->items[i];
    *m = out;
}

void map_set(struct arena *a, struct str_map *m, const char *key, const char *value) {
    struct str_map out = {.items = arena_alloc(a, (m->n + 1) * sizeof(*out.items))};
    size_t i = 0;
    while (i < m->n && strcmp(m->items[i].key, key) < 0) out.items[out.n++] = m->items[i++];
    out.items[out.n++] = (struct str_map_entry){arena_strdup(a, key), arena_strdup(a, value)};
    if (i < m->n && strcmp(m->items[i].key, key) == 0) i++;
    while (i < m->n) out.items[out.n++] = m->items[i++];
    *m = out;
}

const char *api_version_of(struct arena *a, const struct client_resource *r) {
    return *r->group ? arena_printf(a, "%s/%s", r->group, r->version) : r->version;
}

struct ktime ktime_now_s(void) {
    struct ktime t = ktime_now();
    t.nsec = 0;
    return t;
}

/* ---- pods ---- */

bool pod_is_terminal(const struct core_pod *p) {
    return str_eq(p->status.phase, "Succeeded") || str_eq(p->status.phase, "Failed");
}

bool pod_is_active(const struct core_pod *p) { return !pod_is_terminal(p) && !p->metadata.deletion_timestamp.set; }

const struct core_pod_condition *pod_condition(const struct core_pod *p, const char *type) {
    for (size_t i = 0; i < p->status.conditions.n; i++)
        if (str_eq(p->status.conditions.items[i].type, type)) return &p->status.conditions.items[i];
    return NULL;
}

bool pod_is_ready(const struct core_pod *p) {
    const struct core_pod_condition *c = pod_condition(p, "Ready");
    return c && str_eq(c->status, "True");
}

bool pod_is_available(const struct core_pod *p, int32_t min_ready_seconds, struct ktime now, int64_t *wait_ns) {
    const struct core_pod_condition *c = pod_condition(p, "Ready");
    if (!c || !str_eq(c->status, "True")) return false;
    if (min_ready_seconds <= 0) return true;
    if (!c->last_transition_time.set) return false;
    int64_t left = min_ready_seconds * NS_PER_SEC - ktime_diff_ns(now, c->last_transition_time);
    if (left <= 0) return true;
    if (wait_ns) *wait_ns = MIN_OF(*wait_ns, left);
    return false;
}

char *template_hash(struct arena *a, const struct core_pod_template_spec *t, const int32_t *collisions) {
    static const char alphabet[] = "bcdfghjklmnpqrstvwxz2456789";
    _cleanup_buf_ struct buf b = BUF_INIT;
    api_to_json(&b, &api_core_pod_template_spec, t);
    if (collisions) buf_printf(&b, "%d", *collisions);
    char *s = arena_printf(a, "%u", hash_bytes(b.data, b.len));
    for (char *p = s; *p; p++) *p = alphabet[(unsigned char)*p % (sizeof(alphabet) - 1)];
    return s;
}

/* ---- ownership ---- */

struct meta_owner_reference *owner_ref_new(struct arena *a, const struct owner *o, bool controller) {
    struct meta_owner_reference *r = arena_zalloc(a, sizeof(*r));
    r->api_version = api_version_of(a, o->resource);
    r->kind = o->resource->kind;
    r->name = o->meta->name;
    r->uid = o->meta->uid;
    if (controller) {
        r->controller = arena_memdup(a, &(bool){true}, sizeof(bool));
        r->block_owner_deletion = arena_memdup(a, &(bool){true}, sizeof(bool));
    }
    return r;
}

bool owned_by(const struct meta_object_meta *m, const char *uid) {
    const struct meta_owner_reference *r = meta_controller_of(m);
    return r && str_eq(r->uid, uid);
}

void index_orphans(const struct object *o, informer_emit_fn *emit, void *ctx) {
    if (!meta_controller_of(o->meta)) emit(ctx, str_or_empty(o->meta->namespace));
}

void claimed_done(struct claimed *c) {
    free(c->items);
    object_list_done(&c->list);
    *c = (struct claimed){0};
}

static int patch_tree(struct manager *m, struct arena *a, const struct client_resource *r,
                      const struct meta_object_meta *of, struct json *meta, const char *cause, struct err *e) {
    struct json *p = json_object(a);
    json_set_str(a, meta, "uid", of->uid);
    json_set(a, p, "metadata", meta);
    const char *text = json_text(a, p);
    struct client_opts o = {.cause = cause};
    return client_patch(m->client, a, r, of->namespace, of->name, CLIENT_PATCH_STRATEGIC, text, strlen(text), &o, NULL,
                        e);
}

static int adopt(struct manager *m, struct arena *a, const struct client_resource *r, const struct owner *o,
                 const struct object *child, struct err *e) {
    struct json *meta = json_object(a), *refs = json_ensure_array(a, meta, "ownerReferences"), *ref = json_object(a);
    json_set_str(a, ref, "apiVersion", api_version_of(a, o->resource));
    json_set_str(a, ref, "kind", o->resource->kind);
    json_set_str(a, ref, "name", o->meta->name);
    json_set_str(a, ref, "uid", o->meta->uid);
    json_set_bool(a, ref, "controller", true);
    json_set_bool(a, ref, "blockOwnerDeletion", true);
    json_append(a, refs, ref);
    return patch_tree(m, a, r, child->meta, meta, o->meta->resource_version, e);
}

static int release(struct manager *m, struct arena *a, const struct client_resource *r, const struct owner *o,
                   const struct object *child, struct err *e) {
    struct json *meta = json_object(a), *refs = json_ensure_array(a, meta, "ownerReferences"), *ref = json_object(a);
    json_set_str(a, ref, "$patch", "delete");
    json_set_str(a, ref, "uid", o->meta->uid);
    json_append(a, refs, ref);
    return patch_tree(m, a, r, child->meta, meta, o->meta->resource_version, e);
}

/* The cache may be behind: an owner that is being deleted, or another one of its name, must not adopt. */
static bool may_adopt(struct manager *m, struct arena *a, const struct owner *o) {
    void *live = arena_zalloc(a, o->resource->type->size);
    if (client_get(m->client, a, o->resource, o->meta->namespace, o->meta->name, live, NULL) < 0) return false;
    const struct api_field *f = api_field_find(o->resource->type, "metadata");
    const struct meta_object_meta *lm = (const void *)((const char *)live + f->offset);
    return str_eq(lm->uid, o->meta->uid) && !lm->deletion_timestamp.set;
}

int claim_objects(struct manager *m, struct arena *a, const struct client_resource *r, const struct owner *o,
                  const struct meta_label_selector *selector, struct claimed *out, struct err *e) {
    struct informer *inf = manager_informer(m, r);
    int owned = informer_add_index(inf, index_by_controller_uid), orphans = informer_add_index(inf, index_orphans);
    informer_by_index(inf, owned, o->meta->uid, &out->list);
    size_t n_owned = out->list.n;
    bool leaving = o->meta->deletion_timestamp.set;
    if (!leaving) informer_by_index(inf, orphans, str_or_empty(o->meta->namespace), &out->list);
    out->items = xmalloc((out->list.n + 1) * sizeof(*out->items));
    int checked = -1, result = 0;
    for (size_t i = 0; i < out->list.n; i++) {
        struct object *c = out->list.items[i];
        _cleanup_err_ struct err ce = {0};
        bool matches = label_selector_matches(selector, &c->meta->labels) && (!out->only || out->only(out->arg, c));
        int rc = 0;
        if (!str_eq(c->meta->namespace, o->meta->namespace)) continue;
        if (i < n_owned) {
            if (!matches && !leaving) rc = release(m, a, r, o, c, &ce);
            if (!matches && !leaving) c = NULL;
        } else {
            if (!matches || c->meta->deletion_timestamp.set) continue;
            if (checked < 0) checked = may_adopt(m, a, o);
            if (!checked) continue;
            rc = adopt(m, a, r, o, c, &ce);
            if (rc < 0) c = NULL;
        }
        if (rc < 0 && !client_err_not_found(&ce) && result == 0) {
            err_move(e, &ce);
            result = rc;
        }
        if (c) out->items[out->n++] = c;
    }
    return result;
}

void queue_add_adopters(struct workqueue *q, struct manager *m, const struct client_resource *r,
                        const struct meta_label_selector *(*selector_of)(const struct object *o),
                        const struct object *orphan) {
    if (meta_controller_of(orphan->meta) || orphan->meta->deletion_timestamp.set) return;
    _cleanup_object_list_ struct object_list all = {0};
    informer_list(manager_informer(m, r), orphan->meta->namespace, &all);
    for (size_t i = 0; i < all.n; i++)
        if (label_selector_matches(selector_of(all.items[i]), &orphan->meta->labels))
            workqueue_add(q, all.items[i]->key);
}

/* ---- expectations ---- */

struct expected {
    int creations;
    struct map deletions; /* uids */
    int64_t since;
};

struct expectations {
    pthread_mutex_t lock;
    struct map keys;
};

static void expected_free(void *p) {
    struct expected *k = p;
    map_done(&k->deletions);
    free(k);
}

static void expectations_done(void *p) {
    struct expectations *x = p;
    map_done_with(&x->keys, expected_free);
    pthread_mutex_destroy(&x->lock);
}

struct expectations *expectations_new(struct manager *m) {
    struct expectations *x = manager_alloc(m, sizeof(*x), expectations_done);
    pthread_mutex_init(&x->lock, NULL);
    return x;
}

static struct expected *entry(struct expectations *x, const char *key, bool make) {
    struct expected *k = map_get(&x->keys, key);
    if (!k && make) {
        k = xcalloc(1, sizeof(*k));
        map_put(&x->keys, key, k);
    }
    if (k && make) k->since = mono_ns();
    return k;
}

static bool drop_if_met(struct expectations *x, const char *key, struct expected *k) {
    bool open = k->creations > 0 || k->deletions.n > 0;
    if (open && mono_ns() - k->since < EXPECTATIONS_LAPSE) return false;
    map_del(&x->keys, key);
    expected_free(k);
    return true;
}

bool expectations_met(struct expectations *x, const char *key) {
    pthread_mutex_lock(&x->lock);
    struct expected *k = entry(x, key, false);
    bool met = !k || drop_if_met(x, key, k);
    pthread_mutex_unlock(&x->lock);
    return met;
}

void expect_creations(struct expectations *x, const char *key, int n) {
    pthread_mutex_lock(&x->lock);
    entry(x, key, true)->creations += n;
    pthread_mutex_unlock(&x->lock);
}

void creation_observed(struct expectations *x, const char *key) {
    pthread_mutex_lock(&x->lock);
    struct expected *k = entry(x, key, false);
    if (k && k->creations > 0) k->creations--;
    pthread_mutex_unlock(&x->lock);
}

void expect_deletion(struct expectations *x, const char *key, const char *uid) {
    pthread_mutex_lock(&x->lock);
    map_put(&entry(x, key, true)->deletions, uid, x);
    pthread_mutex_unlock(&x->lock);
}

void deletion_observed(struct expectations *x, const char *key, const char *uid) {
    pthread_mutex_lock(&x->lock);
    struct expected *k = entry(x, key, false);
    if (k) map_del(&k->deletions, uid);
    pthread_mutex_unlock(&x->lock);
}

void expectations_forget(struct expectations *x, const char *key) {
    pthread_mutex_lock(&x->lock);
    struct expected *k = map_del(&x->keys, key);
    if (k) expected_free(k);
    pthread_mutex_unlock(&x->lock);
}

struct core_object_reference *claim_reference(struct arena *a, const struct core_persistent_volume_claim *k) {
    struct core_object_reference *ref = arena_zalloc(a, sizeof(*ref));
    *ref = (struct core_object_reference){.kind = "PersistentVolumeClaim",
                                          .api_version = "v1",
                                          .namespace = k->metadata.namespace,
                                          .name = k->metadata.name,
                                          .uid = k->metadata.uid,
                                          .resource_version = k->metadata.resource_version};
    return ref;
}

int finalizer_drop(struct manager *mgr, struct arena *a, const struct client_resource *r,
                   const struct meta_object_meta *m, const char *name, struct err *e) {
    bool have = false;
    for (size_t i = 0; i < m->finalizers.n; i++) have |= str_eq(m->finalizers.items[i], name);
    if (!have) return 0;
    const char *text = arena_printf(
        a, "{\"metadata\":{\"uid\":\"%s\",\"$deleteFromPrimitiveList/finalizers\":[\"%s\"]}}", m->uid, name);
    struct client_opts o = {.cause = m->resource_version};
    _cleanup_err_ struct err pe = {0};
    int rc = client_patch(mgr->client, a, r, m->namespace, m->name, CLIENT_PATCH_STRATEGIC, text, strlen(text), &o,
                          NULL, &pe);
    if (rc == 0 || client_err_not_found(&pe)) return 0;
    err_move(e, &pe);
    return rc;
}
