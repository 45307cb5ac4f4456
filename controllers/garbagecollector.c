/* Garbage collector: what nobody owns any more goes (upstream pkg/controller/garbagecollector).
 *
 * Every deletable resource that discovery knows is watched, by its metadata only (resources that other
 * controllers watch anyway are shared with them). The graph of owners is not kept apart: each informer is
 * indexed by the uids of owners.
 *
 *   an owner is gone          its dependents are looked at; one without any owner left is deleted
 *   deleted, "foregroundDeletion"  blocking dependents go first, then the finalizer
 *   deleted, "orphan"         dependents lose the reference, then the finalizer goes
 *
 * Before anything is deleted, the object and its owners are read from the server: the cache is never trusted
 * with that. Custom resource definitions are watched too; a change leads to a new discovery. Events are left
 * out. */
#include <pthread.h>

#include "pkg/base/log.h"
#include "pkg/base/map.h"
#include "util.h"

enum { WORKERS = 4, RESOURCES_MAX = 2048 };
#define REDISCOVER "!discover"
#define CHECK_DELAY (2 * NS_PER_SEC) /* informers of other resources may lag behind */
#define REDISCOVER_AFTER (1 * NS_PER_SEC)
#define REDISCOVER_EVERY (600 * NS_PER_SEC)
#define FOREGROUND "foregroundDeletion"
#define ORPHAN "orphan"

struct gc;
struct gc_resource {
    struct gc *gc;
    struct client_resource r; /* strings in gc->arena */
    struct informer *inf;
    bool shared;
    int by_owner, by_uid;
    bool seen; /* in the discovery under way */
};

struct gc {
    struct manager *m;
    struct workqueue *q;
    struct arena *arena;
    pthread_mutex_t lock; /* of the table */
    struct gc_resource **items;
    size_t n, cap;
};

/* ---- the table of resources ---- */

static struct gc_resource *find(struct gc *g, const char *group, const char *plural) {
    for (size_t i = 0; i < g->n; i++)
        if (strcmp(g->items[i]->r.group, group) == 0 && strcmp(g->items[i]->r.plural, plural) == 0) return g->items[i];
    return NULL;
}

static struct gc_resource *find_kind(struct gc *g, const char *api_version, const char *kind) {
    const char *slash = strchr(api_version, '/');
    size_t n = slash ? (size_t)(slash - api_version) : 0;
    struct gc_resource *found = NULL;
    pthread_mutex_lock(&g->lock);
    for (size_t i = 0; i < g->n && !found; i++) {
        struct gc_resource *x = g->items[i];
        if (strcmp(x->r.kind, kind) == 0 && strlen(x->r.group) == n && strncmp(x->r.group, api_version, n) == 0)
            found = x;
    }
    pthread_mutex_unlock(&g->lock);
    return found;
}

/* A copy of the table's pointers: rows are never freed before the end. */
static size_t all_resources(struct gc *g, struct arena *a, struct gc_resource ***out) {
    pthread_mutex_lock(&g->lock);
    size_t n = g->n;
    *out = arena_memdup(a, g->items, (n + 1) * sizeof(**out));
    pthread_mutex_unlock(&g->lock);
    return n;
}

static const struct client_resource *typed_resource(const char *group, const char *plural) {
#define ROW(name) &client_##name,
    static const struct client_resource *const rows[] = {CLIENT_RESOURCES(ROW)};
#undef ROW
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (strcmp(rows[i]->group, group) == 0 && strcmp(rows[i]->plural, plural) == 0) return rows[i];
    return NULL;
}

/* ---- what leads to work ---- */

static char *work_key(const struct gc_resource *x, const char *key) {
    return xasprintf("%s/%s|%s", x->r.group, x->r.plural, key);
}

static void add_work(struct gc_resource *x, const struct object *o, int64_t delay) {
    _cleanup_free_ char *key = work_key(x, o->key);
    workqueue_add_after(x->gc->q, key, delay);
}

static bool has_finalizer(const struct meta_object_meta *m, const char *name) {
    for (size_t i = 0; i < m->finalizers.n; i++)
        if (str_eq(m->finalizers.items[i], name)) return true;
    return false;
}

static bool leaving(const struct meta_object_meta *m) {
    return m->deletion_timestamp.set && (has_finalizer(m, FOREGROUND) || has_finalizer(m, ORPHAN));
}

static void dependents_of(struct gc *g, const char *uid, void (*fn)(struct gc_resource *x, struct object *o, void *arg),
                          void *arg) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct gc_resource **all;
    size_t n = all_resources(g, a, &all);
    for (size_t i = 0; i < n; i++) {
        _cleanup_object_list_ struct object_list l = {0};
        informer_by_index(all[i]->inf, all[i]->by_owner, uid, &l);
        for (size_t k = 0; k < l.n; k++) fn(all[i], l.items[k], arg);
    }
}

static void wake_dependent(struct gc_resource *x, struct object *o, void *arg) { add_work(x, o, 0); }

/* Is there an object with the uid in a cache? */
static bool known(struct gc *g, const struct meta_owner_reference *ref) {
    struct gc_resource *x = find_kind(g, str_or_empty(ref->api_version), str_or_empty(ref->kind));
    if (!x) return false;
    _cleanup_object_list_ struct object_list l = {0};
    informer_by_index(x->inf, x->by_uid, str_or_empty(ref->uid), &l);
    return l.n > 0;
}

static void check(struct gc_resource *x, struct object *o) {
    if (leaving(o->meta)) add_work(x, o, 0);
    for (size_t i = 0; i < o->meta->owner_references.n; i++)
        if (!known(x->gc, &o->meta->owner_references.items[i])) {
            add_work(x, o, CHECK_DELAY);
            return;
        }
}

static void rediscover_on_crd(struct gc_resource *x) {
    if (strcmp(x->r.plural, "customresourcedefinitions") == 0)
        workqueue_add_after(x->gc->q, REDISCOVER, REDISCOVER_AFTER);
}

static void on_add(void *arg, struct object *o) {
    check(arg, o);
    rediscover_on_crd(arg);
}

static bool same_owners(const struct meta_object_meta *a, const struct meta_object_meta *b) {
    if (a->owner_references.n != b->owner_references.n) return false;
    for (size_t i = 0; i < a->owner_references.n; i++)
        if (!api_equal(&api_meta_owner_reference, &a->owner_references.items[i], &b->owner_references.items[i]))
            return false;
    return true;
}

/* An owner in foreground deletion waits for this one no longer. */
static void wake_owners(struct gc *g, const struct meta_object_meta *m) {
    for (size_t i = 0; i < m->owner_references.n; i++) {
        const struct meta_owner_reference *ref = &m->owner_references.items[i];
        struct gc_resource *x = find_kind(g, str_or_empty(ref->api_version), str_or_empty(ref->kind));
        if (!x) continue;
        _cleanup_object_list_ struct object_list l = {0};
        informer_by_index(x->inf, x->by_uid, str_or_empty(ref->uid), &l);
        for (size_t k = 0; k < l.n; k++)
            if (leaving(l.items[k]->meta)) add_work(x, l.items[k], 0);
    }
}

static void on_update(void *arg, struct object *old, struct object *o) {
    struct gc_resource *x = arg;
    if (!same_owners(old->meta, o->meta) || (leaving(o->meta) && !leaving(old->meta))) {
        check(x, o);
        wake_owners(x->gc, old->meta);
    }
    rediscover_on_crd(x);
}

static void on_delete(void *arg, struct object *o) {
    struct gc_resource *x = arg;
    if (!str_empty(o->meta->uid)) dependents_of(x->gc, o->meta->uid, wake_dependent, NULL);
    wake_owners(x->gc, o->meta);
    rediscover_on_crd(x);
}

/* ---- discovery ---- */

static void watch_resource(struct gc *g, const struct client_api_resource *ar) {
    struct gc_resource *x = xcalloc(1, sizeof(*x));
    const struct client_resource *typed = typed_resource(ar->group, ar->plural);
    x->gc = g;
    x->r = (struct client_resource){arena_strdup(g->arena, ar->group),  arena_strdup(g->arena, ar->version),
                                    arena_strdup(g->arena, ar->plural), ar->namespaced,
                                    arena_strdup(g->arena, ar->kind),   &api_meta_partial_object_metadata};
    struct informer_opts o = {.metadata_only = true};
    x->shared = typed && informers_has(g->m->informers, typed);
    x->inf = x->shared ? manager_informer(g->m, typed) : informer_new(g->m->client, &x->r, &o);
    x->by_owner = informer_add_index(x->inf, index_by_owner_uid);
    x->by_uid = informer_add_index(x->inf, index_by_uid);
    x->seen = true;
    pthread_mutex_lock(&g->lock);
    VEC_GROW(g->items, g->n, g->cap);
    g->items[g->n++] = x;
    pthread_mutex_unlock(&g->lock);
    struct informer_handler h = {on_add, on_update, on_delete, x};
    informer_add_handler(x->inf, &h);
}

static int discover(struct gc *g, struct arena *a, struct err *e) {
    struct client_discovery d;
    int r = client_discover(g->m->client, a, &d, e);
    if (r < 0) return r;
    const uint32_t needed = CLIENT_VERB_LIST | CLIENT_VERB_WATCH | CLIENT_VERB_DELETE | CLIENT_VERB_GET;
    for (size_t i = 0; i < d.n && g->n < RESOURCES_MAX; i++) {
        const struct client_api_resource *ar = &d.items[i];
        if ((ar->verbs & needed) != needed || strcmp(ar->plural, "events") == 0) continue;
        pthread_mutex_lock(&g->lock);
        bool have = find(g, ar->group, ar->plural) != NULL;
        pthread_mutex_unlock(&g->lock);
        if (!have) watch_resource(g, ar);
    }
    workqueue_add_after(g->q, REDISCOVER, d.partial ? 5 * NS_PER_SEC : REDISCOVER_EVERY);
    return 0;
}

/* ---- work ---- */

enum owner_state { SOLID, DANGLING, WAITING };

struct item {
    struct gc *g;
    struct arena *a;
    struct gc_resource *x;
    struct meta_partial_object_metadata o; /* as the server has it */
};

static int read_live(struct gc *g, struct arena *a, struct gc_resource *x, const char *ns, const char *name,
                     struct meta_partial_object_metadata *out, struct err *e) {
    return client_get(g->m->client, a, &x->r, x->r.namespaced ? ns : NULL, name, out, e);
}

static int owner_state(struct item *it, const struct meta_owner_reference *ref, enum owner_state *out, struct err *e) {
    struct gc_resource *x = find_kind(it->g, str_or_empty(ref->api_version), str_or_empty(ref->kind));
    if (!x) { /* a kind that nobody serves: keep, it may come back */
        *out = SOLID;
        return 0;
    }
    struct meta_partial_object_metadata owner = {0};
    _cleanup_err_ struct err oe = {0};
    bool foreign = x->r.namespaced && !it->x->r.namespaced;
    int r =
        foreign ? -ENOENT : read_live(it->g, it->a, x, it->o.metadata.namespace, str_or_empty(ref->name), &owner, &oe);
    if (foreign || (r < 0 && client_err_not_found(&oe)) || (r == 0 && !str_eq(owner.metadata.uid, ref->uid))) {
        *out = DANGLING;
        return 0;
    }
    if (r < 0) {
        err_move(e, &oe);
        return r;
    }
    bool waits = owner.metadata.deletion_timestamp.set && has_finalizer(&owner.metadata, FOREGROUND);
    *out = waits ? WAITING : SOLID;
    return 0;
}

static int patch_meta(struct item *it, struct gc_resource *x, const struct meta_object_meta *m, const char *field,
                      struct json *value, struct err *e) {
    struct arena *a = it->a;
    struct json *p = json_object(a), *meta = json_ensure_object(a, p, "metadata");
    json_set_str(a, meta, "resourceVersion", m->resource_version);
    json_set_str(a, meta, "uid", m->uid);
    json_set(a, meta, field, value);
    const char *text = json_text(a, p);
    struct client_opts o = {.cause = it->o.metadata.resource_version};
    _cleanup_err_ struct err pe = {0};
    int r = client_patch(it->g->m->client, a, &x->r, x->r.namespaced ? m->namespace : NULL, m->name, CLIENT_PATCH_MERGE,
                         text, strlen(text), &o, NULL, &pe);
    if (r == 0 || client_err_not_found(&pe)) return 0;
    err_move(e, &pe);
    return r;
}

static struct json *refs_json(struct arena *a, const struct meta_owner_reference *refs, size_t n) {
    struct json *list = json_array(a);
    for (size_t i = 0; i < n; i++) json_append(a, list, api_to_tree(a, &api_meta_owner_reference, &refs[i]));
    return list;
}

static int remove_finalizer(struct item *it, const char *name, struct err *e) {
    struct json *list = json_array(it->a);
    for (size_t i = 0; i < it->o.metadata.finalizers.n; i++)
        if (!str_eq(it->o.metadata.finalizers.items[i], name))
            json_append(it->a, list, json_str(it->a, it->o.metadata.finalizers.items[i]));
    return patch_meta(it, it->x, &it->o.metadata, "finalizers", list, e);
}

struct blockers {
    struct item *it;
    size_t n;
    int result;
    struct err e;
};

static const struct meta_owner_reference *ref_to(const struct meta_object_meta *m, const char *uid) {
    for (size_t i = 0; i < m->owner_references.n; i++)
        if (str_eq(m->owner_references.items[i].uid, uid)) return &m->owner_references.items[i];
    return NULL;
}

static void count_blocker(struct gc_resource *x, struct object *o, void *arg) {
    struct blockers *b = arg;
    const struct meta_owner_reference *ref = ref_to(o->meta, b->it->o.metadata.uid);
    if (ref && ref->block_owner_deletion && *ref->block_owner_deletion) b->n++;
    if (!o->meta->deletion_timestamp.set) add_work(x, o, 0);
}

/* Foreground: dependents are sent to their end; when none blocks any more the object itself may go. */
static int foreground(struct item *it, struct err *e) {
    struct blockers b = {.it = it};
    dependents_of(it->g, it->o.metadata.uid, count_blocker, &b);
    return b.n ? 0 : remove_finalizer(it, FOREGROUND, e);
}

static void let_go(struct gc_resource *x, struct object *o, void *arg) {
    struct blockers *b = arg;
    struct meta_owner_reference *keep = arena_alloc(b->it->a, (o->meta->owner_references.n + 1) * sizeof(*keep));
    size_t n = 0;
    for (size_t i = 0; i < o->meta->owner_references.n; i++)
        if (!str_eq(o->meta->owner_references.items[i].uid, b->it->o.metadata.uid))
            keep[n++] = o->meta->owner_references.items[i];
    _cleanup_err_ struct err pe = {0};
    int r = patch_meta(b->it, x, o->meta, "ownerReferences", refs_json(b->it->a, keep, n), &pe);
    if (r < 0) {
        b->result = r;
        err_move(&b->e, &pe);
    }
}

static int orphan(struct item *it, struct err *e) {
    struct blockers b = {.it = it};
    dependents_of(it->g, it->o.metadata.uid, let_go, &b);
    if (b.result < 0) {
        err_move(e, &b.e);
        return b.result;
    }
    return remove_finalizer(it, ORPHAN, e);
}

struct below {
    size_t n, leaving; /* dependents; those in foreground deletion themselves */
};

static void count_dependent(struct gc_resource *x, struct object *o, void *arg) {
    struct below *b = arg;
    b->n++;
    b->leaving += o->meta->deletion_timestamp.set && has_finalizer(o->meta, FOREGROUND);
}

/* Owners in a circle would block each other for ever: this object stops blocking its owners. */
static int unblock(struct item *it, struct err *e) {
    const struct meta_owner_reference_vec *v = &it->o.metadata.owner_references;
    struct meta_owner_reference *refs = arena_memdup(it->a, v->items, v->n * sizeof(*refs));
    for (size_t i = 0; i < v->n; i++) refs[i].block_owner_deletion = arena_memdup(it->a, &(bool){false}, sizeof(bool));
    int r = patch_meta(it, it->x, &it->o.metadata, "ownerReferences", refs_json(it->a, refs, v->n), e);
    it->o.metadata.resource_version = NULL; /* it has just changed */
    return r;
}

static int delete_item(struct item *it, const char *propagation, struct err *e) {
    const struct meta_object_meta *m = &it->o.metadata;
    struct client_delete_opts o = {.uid = m->uid,
                                   .resource_version = m->resource_version,
                                   .propagation = propagation,
                                   .cause = m->resource_version};
    _cleanup_err_ struct err de = {0};
    int r = client_delete(it->g->m->client, &it->x->r, it->x->r.namespaced ? m->namespace : NULL, m->name, &o, &de);
    if (r == 0 || client_err_not_found(&de)) return 0;
    err_move(e, &de);
    return r;
}

/* An object that is not leaving: does it still have an owner? */
static int judge(struct item *it, struct err *e) {
    const struct meta_owner_reference_vec *v = &it->o.metadata.owner_references;
    struct meta_owner_reference *solid = arena_alloc(it->a, (v->n + 1) * sizeof(*solid));
    size_t n_solid = 0, n_waiting = 0;
    if (v->n == 0) return 0;
    for (size_t i = 0; i < v->n; i++) {
        enum owner_state s;
        int r = owner_state(it, &v->items[i], &s, e);
        if (r < 0) return r;
        if (s == SOLID) solid[n_solid++] = v->items[i];
        if (s == WAITING) n_waiting++;
    }
    if (n_solid == v->n) return 0;
    if (n_solid) return patch_meta(it, it->x, &it->o.metadata, "ownerReferences", refs_json(it->a, solid, n_solid), e);
    struct below below = {0};
    dependents_of(it->g, it->o.metadata.uid, count_dependent, &below);
    if (n_waiting && below.n) {
        int r = below.leaving ? unblock(it, e) : 0;
        return r < 0 ? r : delete_item(it, "Foreground", e);
    }
    if (has_finalizer(&it->o.metadata, ORPHAN)) return delete_item(it, "Orphan", e);
    return delete_item(it, has_finalizer(&it->o.metadata, FOREGROUND) ? "Foreground" : "Background", e);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct gc *g = arg;
    if (strcmp(key, REDISCOVER) == 0) return discover(g, a, e);
    struct item it = {.g = g, .a = a};
    const char *bar = strchr(key, '|'), *slash = strchr(key, '/'), *ns, *name;
    pthread_mutex_lock(&g->lock);
    it.x =
        find(g, arena_strndup(a, key, (size_t)(slash - key)), arena_strndup(a, slash + 1, (size_t)(bar - slash - 1)));
    pthread_mutex_unlock(&g->lock);
    if (!it.x) return 0;
    key_split(a, bar + 1, &ns, &name);
    _cleanup_err_ struct err re = {0};
    int r = read_live(g, a, it.x, ns, name, &it.o, &re);
    if (r < 0) {
        if (client_err_not_found(&re)) return 0;
        err_move(e, &re);
        return r;
    }
    if (it.o.metadata.deletion_timestamp.set) {
        if (has_finalizer(&it.o.metadata, ORPHAN)) return orphan(&it, e);
        return has_finalizer(&it.o.metadata, FOREGROUND) ? foreground(&it, e) : 0;
    }
    return judge(&it, e);
}

/* ---- start and end ---- */

static void end_informers(void *p) {
    struct gc *g = p;
    for (size_t i = 0; i < g->n; i++)
        if (!g->items[i]->shared) informer_free(g->items[i]->inf);
}

static void done(void *p) {
    struct gc *g = p;
    for (size_t i = 0; i < g->n; i++) free(g->items[i]);
    free(g->items);
    arena_free(g->arena);
    pthread_mutex_destroy(&g->lock);
}

int garbagecollector_start(struct manager *m, struct err *e) {
    struct gc *g = manager_alloc(m, sizeof(*g), done);
    g->m = m;
    g->arena = arena_new();
    pthread_mutex_init(&g->lock, NULL);
    manager_at_end(m, end_informers, g);
    g->q = manager_queue(m, "garbage-collector", WORKERS, reconcile, g, NULL);
    workqueue_add(g->q, REDISCOVER);
    return 0;
}
