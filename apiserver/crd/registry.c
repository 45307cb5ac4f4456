/* See registry.h. The thread is the only writer of the entries; requests look into them under `lock`. */
#include "apiserver/crd/registry.h"

#include <pthread.h>

#include "apiserver/rules/crd_cel.h"
#include "apiserver/write.h"
#include "pkg/base/log.h"
#include "pkg/base/map.h"

enum { RETRY_S = 1, VERSIONS_MAX = 64 };

struct entry {
    char *name, *group;
    int64_t rev;      /* of the definition as last seen */
    int64_t spec_rev; /* schemas made from older ones are stale */
    int64_t generation;
    bool terminating;
    struct arena *names_arena;
    struct json *names;           /* {status: {acceptedNames}}: what others must not take */
    const struct resource **rows; /* served */
    size_t n_rows;
    const struct resource *stored;            /* NULL: never served */
    struct crd_schema *schemas[VERSIONS_MAX]; /* made so far */
    size_t n_schemas;
};

struct crd_registry {
    struct apiserver *s;
    const struct resource *crds;
    struct wc_watch *watch;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool woken, stop;
    struct map entries;  /* by name */
    struct map retry;    /* names; of the thread alone */
    bool services_stale; /* APIServices may not fit what is served; of the thread alone */
    _Atomic uint64_t changes;
};

/* ---- schemas ---- */

void crd_schema_unref(struct crd_schema *s) {
    if (!s || atomic_fetch_sub_explicit(&s->refs, 1, memory_order_acq_rel) != 1) return;
    arena_free(s->arena);
    free(s->version);
    free(s);
}

void crd_schema_into(const struct crd_schema *s, struct rules_ctx *c) {
    if (!s) return;
    c->crd_schema = s->schema;
    c->crd_cel = s->cel;
    c->crd_preserve_unknown = s->preserve_unknown;
    c->crd_status_subresource = s->status;
}

static struct json *strip(struct arena *a, const struct json *s);

static struct json *strip_each(struct arena *a, const struct json *v) {
    struct json *out = json_is(v, JSON_ARRAY) ? json_array(a) : json_object(a), *it;
    if (json_is(v, JSON_ARRAY)) {
        JSON_FOREACH(it, v) json_append(a, out, strip(a, it));
    } else {
        JSON_FOREACH_MEMBER(m, v) json_set(a, out, m->key, strip(a, m->value));
    }
    return out;
}

/* The schema without what people read: most of the bytes of big definitions. */
static struct json *strip(struct arena *a, const struct json *s) {
    static const char *const texts[] = {"description", "title", "example", "externalDocs", "$schema", "id"};
    static const char *const one[] = {"items", "additionalProperties", "not"}, *const many[] = {"properties", "allOf",
                                                                                                "anyOf", "oneOf"};
    if (!json_is(s, JSON_OBJECT)) return json_clone(a, s);
    struct json *out = json_object(a);
    JSON_FOREACH_MEMBER(m, s) {
        bool skip = m->value->type == JSON_NULL, schema = false, schemas = false;
        for (size_t i = 0; i < ARRAY_LEN(texts); i++) skip |= str_eq(m->key, texts[i]);
        for (size_t i = 0; i < ARRAY_LEN(one); i++) schema |= str_eq(m->key, one[i]);
        for (size_t i = 0; i < ARRAY_LEN(many); i++) schemas |= str_eq(m->key, many[i]);
        if (skip) continue;
        json_set(a, out, m->key,
                 schema    ? strip(a, m->value)
                 : schemas ? strip_each(a, m->value)
                           : json_clone(a, m->value));
    }
    return out;
}

const struct json *crd_version_of(const struct json *crd, const char *version) {
    const struct json *v;
    JSON_FOREACH(v, json_at(crd, "spec", "versions", NULL))
        if (str_eq(json_get_str(v, "name"), version)) return v;
    return NULL;
}

const char *crd_name_of(struct arena *a, const struct resource *r) {
    return arena_printf(a, "%s.%s", r->plural, r->group);
}

static struct object *definition(struct apiserver *s, const char *name) {
    return watchcache_get(s->cache, s->crds->crds, NULL, name);
}

struct json *crd_tree(struct apiserver *s, struct arena *a, const char *name) {
    _cleanup_object_ struct object *o = definition(s, name);
    return o ? object_tree(a, o) : NULL;
}

static struct crd_schema *schema_make(struct apiserver *s, const char *name, const char *version) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_object_ struct object *o = definition(s, name);
    const struct json *crd = o ? object_tree(a, o) : NULL, *v = crd_version_of(crd, version);
    if (!v) return NULL;
    struct crd_schema *x = xcalloc(1, sizeof(*x));
    x->refs = 1;
    x->arena = arena_new();
    x->schema = crd_schema_of(v) ? strip(x->arena, crd_schema_of(v)) : NULL;
    x->cel = crd_cel_compile(x->arena, x->schema);
    x->preserve_unknown = json_get_bool(json_get(crd, "spec"), "preserveUnknownFields", false);
    x->status = json_is(json_at(v, "subresources", "status", NULL), JSON_OBJECT);
    x->terminating = json_at(crd, "metadata", "deletionTimestamp", NULL) != NULL;
    x->rev = o->rev;
    x->version = xstrdup(version);
    return x;
}

static struct crd_schema *schema_ref(struct crd_schema *x) {
    if (x) atomic_fetch_add_explicit(&x->refs, 1, memory_order_relaxed);
    return x;
}

static struct crd_schema *schema_known(struct crd_registry *g, const char *name, const char *version) {
    struct crd_schema *x = NULL;
    pthread_mutex_lock(&g->lock);
    struct entry *en = map_get(&g->entries, name);
    for (size_t i = 0; en && !x && i < en->n_schemas; i++)
        if (str_eq(en->schemas[i]->version, version) && en->schemas[i]->rev >= en->spec_rev)
            x = schema_ref(en->schemas[i]);
    pthread_mutex_unlock(&g->lock);
    return x;
}

static void schema_keep(struct crd_registry *g, const char *name, struct crd_schema *x) {
    pthread_mutex_lock(&g->lock);
    struct entry *en = map_get(&g->entries, name);
    bool have = false;
    for (size_t i = 0; en && i < en->n_schemas; i++) have |= str_eq(en->schemas[i]->version, x->version);
    if (en && !have && x->rev >= en->spec_rev && en->n_schemas < VERSIONS_MAX)
        en->schemas[en->n_schemas++] = schema_ref(x);
    pthread_mutex_unlock(&g->lock);
}

struct crd_schema *crd_schema_of_row(struct apiserver *s, const struct resource *r) {
    _cleanup_arena_ struct arena *a = arena_new_sized(256);
    const char *name = crd_name_of(a, r);
    struct crd_schema *x = schema_known(s->crds, name, r->version);
    if (!x && (x = schema_make(s, name, r->version))) schema_keep(s->crds, name, x);
    return x;
}

int crd_schema_get(struct request *q, struct crd_schema **out, struct err *e) {
    static const char *const writes[] = {"create", "update", "patch"};
    bool write = false;
    for (size_t i = 0; i < ARRAY_LEN(writes); i++) write |= str_eq(q->verb, writes[i]);
    if (!write) return 0;
    struct crd_schema *x = crd_schema_of_row(q->s, q->res);
    *out = x;
    q->schema = x;
    if (!x) return err_status(e, 404, "NotFound", "the server could not find the requested resource");
    if (x->terminating && str_eq(q->verb, "create") && !q->sub)
        return err_status(e, 405, "MethodNotAllowed",
                          "create not allowed while custom resource definition is terminating");
    return 0;
}

/* ---- entries ---- */

static void drop_schemas(struct entry *en) {
    for (size_t i = 0; i < en->n_schemas; i++) crd_schema_unref(en->schemas[i]);
    en->n_schemas = 0;
}

static void entry_free(void *p) {
    struct entry *en = p;
    drop_schemas(en);
    arena_free(en->names_arena);
    free(en->rows);
    free(en->name);
    free(en->group);
    free(en);
}

static int cmp_rows(const void *x, const void *y) {
    const struct resource *r = *(const struct resource *const *)x, *q = *(const struct resource *const *)y;
    int c = strcmp(r->group, q->group);
    if (!c) c = crd_version_cmp(r->version, q->version);
    return c ? c : strcmp(r->plural, q->plural);
}

/* All rows that are served, in discovery's order; to be freed. */
static const struct resource **all_rows(struct crd_registry *g, size_t *count) {
    const struct resource **rows = NULL;
    size_t n = 0, cap = 0, it = 0;
    const char *key;
    void *value;
    while (map_next(&g->entries, &it, &key, &value)) {
        struct entry *en = value;
        for (size_t i = 0; i < en->n_rows; i++) {
            VEC_GROW(rows, n, cap);
            rows[n++] = en->rows[i];
        }
    }
    if (n) qsort(rows, n, sizeof(*rows), cmp_rows);
    *count = n;
    return rows;
}

static void publish(struct crd_registry *g) {
    size_t n;
    const struct resource **rows = all_rows(g, &n);
    resource_table_serve(g->s->resources, rows, n);
    free(rows);
    g->services_stale = true;
    atomic_fetch_add(&g->changes, 1);
}

static void register_services(struct crd_registry *g) {
    _cleanup_err_ struct err e = {0};
    size_t n;
    const struct resource **rows = all_rows(g, &n);
    int rc = crd_apiservices(g->s, rows, n, &e);
    if (rc < 0) log_warn("APIServices of custom resources", "error", e.msg, NULL);
    g->services_stale = rc != 0;
    free(rows);
}

static const struct resource *keep_row(struct crd_registry *g, const struct json *crd, const struct json *version,
                                       const struct resource *storage) {
    struct arena *a = arena_new_sized(1024);
    return resource_table_keep(g->s->resources, crd_row(a, crd, version, storage), a);
}

/* Makes the rows of a definition whose names are accepted, and serves them. */
static int serve(struct crd_registry *g, struct entry *en, const struct json *crd, bool fresh, struct err *e) {
    const struct json *versions = json_at(crd, "spec", "versions", NULL), *v, *stored = NULL;
    size_t n = 0;
    JSON_FOREACH(v, versions)
        if (json_get_bool(v, "storage", false)) stored = v;
    if (!stored || json_len(versions) > VERSIONS_MAX)
        return err_set(e, -EINVAL, "no storage version, or too many versions");
    const struct resource **rows = xcalloc(json_len(versions) + 1, sizeof(*rows)), *sr = keep_row(g, crd, stored, NULL);
    bool reconvert = fresh && en->stored && (sr->converts || en->stored->converts);
    int rc = watchcache_add(g->s->cache, sr, e);
    JSON_FOREACH(v, rc ? NULL : versions)
        if (json_get_bool(v, "served", false)) rows[n++] = v == stored ? sr : keep_row(g, crd, v, sr);
    if (rc) n = 0;
    pthread_mutex_lock(&g->lock);
    free(en->rows);
    en->rows = rows;
    en->n_rows = n;
    en->stored = sr;
    pthread_mutex_unlock(&g->lock);
    publish(g);
    if (reconvert) watchcache_retire(g->s->cache, sr); /* watches have seen objects as an older webhook made them */
    if (!rc && fresh) crd_default_objects(g->s, sr, crd_schema_of(stored));
    return rc;
}

static void unserve(struct crd_registry *g, struct entry *en) {
    if (!en->n_rows) return;
    pthread_mutex_lock(&g->lock);
    en->n_rows = 0;
    drop_schemas(en);
    pthread_mutex_unlock(&g->lock);
    publish(g);
    if (en->stored) watchcache_retire(g->s->cache, en->stored);
}

static void again(struct crd_registry *g, const char *name) { map_put(&g->retry, name, g); }

/* A name may have become free: the group's other definitions are looked at again. */
static void again_group(struct crd_registry *g, const char *group) {
    size_t it = 0;
    const char *key;
    void *value;
    while (map_next(&g->entries, &it, &key, &value))
        if (str_eq(((struct entry *)value)->group, group)) again(g, key);
}

static void gone(struct crd_registry *g, const char *name) {
    struct entry *en = map_get(&g->entries, name);
    map_del(&g->retry, name);
    if (!en) return;
    unserve(g, en);
    pthread_mutex_lock(&g->lock);
    map_del(&g->entries, name);
    pthread_mutex_unlock(&g->lock);
    again_group(g, en->group);
    entry_free(en);
}

/* ---- conditions ---- */

static void remember_names(struct entry *en, const struct json *crd) {
    const struct json *names = json_at(crd, "status", "acceptedNames", NULL);
    arena_free(en->names_arena);
    en->names_arena = arena_new_sized(512);
    en->names = json_object(en->names_arena);
    if (!names) return;
    struct json *status = json_ensure_object(en->names_arena, en->names, "status");
    json_set(en->names_arena, status, "acceptedNames", json_clone(en->names_arena, names));
}

static void others_of(struct crd_registry *g, struct arena *a, const struct json *crd, struct crd_names *out) {
    const char *group = json_as_str(json_at(crd, "spec", "group", NULL)),
               *me = json_as_str(json_at(crd, "metadata", "name", NULL));
    size_t it = 0;
    const char *name;
    void *value;
    while (map_next(&g->entries, &it, &name, &value)) {
        struct entry *en = value;
        if (!str_eq(name, me) && str_eq(en->group, group) && en->names) crd_names_add(a, out, en->names);
    }
}

static bool accept_names(struct apiserver *s, struct arena *a, struct json *crd, void *arg) {
    struct crd_names others = {0};
    others_of(arg, a, crd, &others);
    return crd_names_accept(a, crd, &others, ktime_now());
}

/* ---- the thread's work ---- */

static struct entry *entry_of(struct crd_registry *g, const char *name, const struct json *crd) {
    struct entry *en = map_get(&g->entries, name);
    if (en) return en;
    en = xcalloc(1, sizeof(*en));
    en->name = xstrdup(name);
    en->group = xstrdup(str_or_empty(json_as_str(json_at(crd, "spec", "group", NULL))));
    pthread_mutex_lock(&g->lock);
    map_put(&g->entries, name, en);
    pthread_mutex_unlock(&g->lock);
    return en;
}

/* True when the definition's content is another than before. */
static bool refresh(struct crd_registry *g, struct entry *en, const struct object *o, const struct json *crd) {
    int64_t generation = json_as_int(json_at(crd, "metadata", "generation", NULL), 0);
    bool ending = json_at(crd, "metadata", "deletionTimestamp", NULL) != NULL;
    bool changed = en->generation != generation || en->terminating != ending || !en->rev || o->create_rev > en->rev;
    pthread_mutex_lock(&g->lock);
    en->rev = o->rev;
    en->generation = generation;
    en->terminating = ending;
    if (changed) {
        en->spec_rev = o->rev;
        drop_schemas(en);
    }
    pthread_mutex_unlock(&g->lock);
    return changed;
}

static void process(struct crd_registry *g, const char *name, bool opening) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    _cleanup_object_ struct object *o = definition(g->s, name);
    struct json *crd = o ? object_tree(a, o) : NULL;
    if (!crd) {
        gone(g, name);
        return;
    }
    struct entry *en = entry_of(g, name, crd);
    bool fresh = refresh(g, en, o, crd), ending = en->terminating;
    bool write = !ending && accept_names(g->s, a, crd, g);
    remember_names(en, crd);
    if (crd_condition_true(crd, "Established")) {
        if ((fresh || write || !en->n_rows) && serve(g, en, crd, fresh || !en->n_rows, &e)) {
            log_warn("serving a custom resource", "name", name, "error", e.msg, NULL);
            again(g, name);
        }
    } else {
        unserve(g, en);
    }
    if (write && crd_update(g->s, name, "status", accept_names, g, &e)) {
        log_warn("writing a definition's status", "name", name, "error", e.msg, NULL);
        again(g, name);
    }
    if (ending && (opening || !crd_cleanup(g->s, name, en->stored))) again(g, name);
}

static void on_wake(void *arg) {
    struct crd_registry *g = arg;
    pthread_mutex_lock(&g->lock);
    g->woken = true;
    pthread_cond_signal(&g->cond);
    pthread_mutex_unlock(&g->lock);
}

/* Everything there is and was; also starts the watch. */
static void look_at_all(struct crd_registry *g, bool opening) {
    _cleanup_wc_list_ struct wc_list l = {0};
    size_t it = 0;
    const char *key;
    void *value;
    wc_watch_free(g->watch);
    wc_watch_new_list(g->s->cache, g->crds, NULL, NULL, on_wake, g, &l, &g->watch);
    for (size_t i = 0; i < l.n; i++) { /* names that are accepted already come first */
        _cleanup_arena_ struct arena *a = arena_new();
        struct json *crd = object_tree(a, l.items[i]);
        if (crd) remember_names(entry_of(g, object_name(l.items[i]), crd), crd);
    }
    for (size_t i = 0; i < l.n; i++) process(g, object_name(l.items[i]), opening);
    while (!opening && map_next(&g->entries, &it, &key, &value)) again(g, key);
}

static void drain(struct crd_registry *g) {
    struct wc_event ev;
    int rc;
    while ((rc = wc_watch_next(g->watch, &ev, NULL)) == 1) {
        process(g, object_name(ev.object), false);
        object_unref(ev.object);
    }
    if (rc < 0) look_at_all(g, false);
}

static void retry_all(struct crd_registry *g) {
    struct map names = g->retry;
    size_t it = 0;
    const char *key;
    void *value;
    g->retry = (struct map)MAP_INIT;
    while (map_next(&names, &it, &key, &value)) process(g, key, false);
    map_done(&names);
}

static void *run(void *arg) {
    struct crd_registry *g = arg;
    pthread_mutex_lock(&g->lock);
    while (!g->stop) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += RETRY_S;
        bool late = false;
        while (!g->woken && !g->stop && !late)
            late = g->retry.n || g->services_stale ? pthread_cond_timedwait(&g->cond, &g->lock, &until) == ETIMEDOUT
                                                   : pthread_cond_wait(&g->cond, &g->lock) != 0;
        bool stop = g->stop;
        g->woken = false;
        pthread_mutex_unlock(&g->lock);
        if (!stop) drain(g);
        if (!stop && late) retry_all(g);
        if (!stop && g->services_stale) register_services(g);
        pthread_mutex_lock(&g->lock);
    }
    pthread_mutex_unlock(&g->lock);
    return NULL;
}

int crd_registry_open(struct apiserver *s, struct err *e) {
    struct crd_registry *g = xcalloc(1, sizeof(*g));
    pthread_condattr_t attr;
    g->s = s;
    g->crds = resource_find(s->resources, "apiextensions.k8s.io", "v1", "customresourcedefinitions");
    pthread_mutex_init(&g->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&g->cond, &attr);
    pthread_condattr_destroy(&attr);
    s->crds = g;
    g->services_stale = true; /* definitions may have gone while no server ran */
    look_at_all(g, true);
    int rc = pthread_create(&g->thread, NULL, run, g);
    if (rc) return err_errno(e, rc, "a thread for custom resources");
    g->started = true;
    return 0;
}

void crd_registry_close(struct apiserver *s) {
    struct crd_registry *g = s->crds;
    if (!g) return;
    pthread_mutex_lock(&g->lock);
    g->stop = true;
    pthread_cond_signal(&g->cond);
    pthread_mutex_unlock(&g->lock);
    if (g->started) pthread_join(g->thread, NULL);
    wc_watch_free(g->watch);
    map_done_with(&g->entries, entry_free);
    map_done(&g->retry);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->cond);
    free(g);
    s->crds = NULL;
}

/* ---- for OpenAPI ---- */

uint64_t crd_changes(struct apiserver *s) { return atomic_load(&s->crds->changes); }

int64_t crd_revision(struct apiserver *s, const struct resource *r) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *name = crd_name_of(a, r);
    pthread_mutex_lock(&s->crds->lock);
    struct entry *en = map_get(&s->crds->entries, name);
    int64_t rev = en ? en->spec_rev : 0;
    pthread_mutex_unlock(&s->crds->lock);
    return rev;
}
