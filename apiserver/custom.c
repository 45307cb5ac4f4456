#include "apiserver/custom.h"

#include <pthread.h>

#include "apiserver/handlers.h"
#include "apiserver/lookup.h"
#include "apiserver/tables.h"
#include "apiserver/write.h"
#include "pkg/base/log.h"
#include "pkg/base/map.h"

#define FINALIZER "customresourcecleanup.apiextensions.k8s.io"

enum { RETRY_MS = 500 };

struct customs {
    struct wc_watch *watch;
    const struct resource *crds;
    struct custom *all;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool started, woken, stop;
    bool pending; /* some definition waits for its objects to go */
    struct map served; /* name of a definition -> its generation that is served */
    _Atomic unsigned generation;
};

unsigned custom_generation(struct apiserver *s) { return s->customs ? atomic_load(&s->customs->generation) : 0; }

void custom_ctx(const struct resource *r, struct rules_ctx *c) {
    if (!r->custom) return;
    c->crd_schema = r->custom->schema;
    c->crd_preserve_unknown = r->custom->preserve_unknown;
    c->crd_status_subresource = r->custom->has_status;
}

/* ---- rows ---- */

static const char *const *strings_of(struct arena *a, const struct json *list) {
    if (!json_len(list)) return NULL;
    const char **out = arena_zalloc(a, (json_len(list) + 1) * sizeof(*out));
    for (size_t i = 0; i < json_len(list); i++) out[i] = str_or_empty(json_as_str(json_item(list, i)));
    return out;
}

static void read_columns(struct custom *d, const struct json *version) {
    static const struct custom_column age = {"Age", "date", "", ".metadata.creationTimestamp", 0};
    const struct json *list = json_get(version, "additionalPrinterColumns");
    struct json *x;
    d->columns = arena_zalloc(d->a, (json_len(list) + 1) * sizeof(*d->columns));
    JSON_FOREACH(x, list)
        d->columns[d->n_columns++] = (struct custom_column){str_or_empty(json_get_str(x, "name")), or_text(json_get_str(x, "type"), "string"),
                                                            str_or_empty(json_get_str(x, "format")), str_or_empty(json_get_str(x, "jsonPath")),
                                                            (int)json_get_int(x, "priority", 0)};
    if (!d->n_columns) d->columns[d->n_columns++] = age;
}

static struct custom *read_version(struct apiserver *s, const struct json *crd, const char *name) {
    struct custom *d = xcalloc(1, sizeof(*d));
    struct json *x, *v = NULL;
    d->a = arena_new();
    crd = json_clone(d->a, crd);
    JSON_FOREACH(x, json_at(crd, "spec", "versions", NULL)) {
        if (str_eq(json_get_str(x, "name"), name)) v = x;
    }
    const struct json *subs = json_get(v, "subresources"), *scale = json_get(subs, "scale");
    d->schema = json_at(v, "schema", "openAPIV3Schema", NULL);
    d->preserve_unknown = json_get_bool(json_get(crd, "spec"), "preserveUnknownFields", false);
    d->has_status = json_is(json_get(subs, "status"), JSON_OBJECT);
    if (json_is(scale, JSON_OBJECT)) {
        d->replicas_path = json_get_str(scale, "specReplicasPath");
        d->status_replicas_path = json_get_str(scale, "statusReplicasPath");
        d->selector_path = json_get_str(scale, "labelSelectorPath");
    }
    read_columns(d, v);
    d->older = s->customs->all;
    s->customs->all = d;
    return d;
}

static void read_subs(struct custom *d, struct resource *r) {
    struct resource_sub *subs = arena_zalloc(d->a, 2 * sizeof(*subs));
    if (d->has_status) subs[r->n_subs++] = (struct resource_sub){"status", NULL, NULL, r->kind, VERBS_RUW};
    if (d->replicas_path) subs[r->n_subs++] = (struct resource_sub){"scale", "autoscaling", "v1", "Scale", VERBS_RUW};
    r->subs = subs;
}

static const struct table_printer custom_printer = {"", "", custom_cells};

/* A row for one version. */
static struct resource *make_row(struct apiserver *s, const struct json *crd, const struct json *version) {
    struct custom *d = read_version(s, crd, json_get_str(version, "name"));
    struct arena *a = d->a;
    const struct json *names = json_at(crd, "spec", "names", NULL);
    struct resource *r = xcalloc(1, sizeof(*r));
    const char *group = str_or_empty(json_as_str(json_at(crd, "spec", "group", NULL)));
    r->group = arena_strdup(a, group);
    r->version = arena_strdup(a, str_or_empty(json_get_str(version, "name")));
    r->kind = arena_strdup(a, str_or_empty(json_get_str(names, "kind")));
    r->list_kind = arena_strdup(a, or_text(json_get_str(names, "listKind"), arena_printf(a, "%sList", r->kind)));
    r->plural = arena_strdup(a, str_or_empty(json_get_str(names, "plural")));
    r->singular = arena_strdup(a, str_or_empty(json_get_str(names, "singular")));
    const struct json *kept = json_clone(a, names);
    r->short_names = strings_of(a, json_get(kept, "shortNames"));
    r->categories = strings_of(a, json_get(kept, "categories"));
    r->namespaced = str_eq(json_as_str(json_at(crd, "spec", "scope", NULL)), "Namespaced");
    r->verbs = VERBS_ALL;
    r->flags = RES_NEEDS_RV;
    r->key_prefix = arena_printf(a, "/registry/%s/%s/", r->group, r->plural);
    r->custom = d;
    r->printer = &custom_printer;
    if (json_get_bool(version, "deprecated", false))
        r->deprecated = or_text(arena_strdup(a, json_get_str(version, "deprecationWarning")),
                                arena_printf(a, "%s/%s %s is deprecated", r->group, r->version, r->kind));
    read_subs(d, r);
    return r;
}

/* The version that objects are kept in: the first that was ever a storage version stays it for this server's life. */
static const struct json *storage_version(const struct json *crd) {
    struct json *v;
    JSON_FOREACH(v, json_at(crd, "spec", "versions", NULL)) {
        if (json_get_bool(v, "storage", false)) return v;
    }
    return NULL;
}

static int add_row(struct apiserver *s, struct resource *r, bool served, struct err *e) {
    int rc = resource_table_add(s->resources, r, served);
    if (rc) {
        free(r);
        return err_set(e, rc, "too many resources");
    }
    server_pieces(s, r);
    return 0;
}

static int serve_definition(struct apiserver *s, const struct json *crd, struct err *e) {
    const struct json *sv = storage_version(crd);
    struct json *v;
    if (!sv) return err_set(e, -EINVAL, "the definition has no storage version");
    struct resource *stored = make_row(s, crd, sv);
    const struct resource *cached = watchcache_row(s->cache, stored->key_prefix);
    if (cached && !str_eq(cached->version, stored->version)) stored->storage = cached;
    int rc = add_row(s, stored, json_get_bool(sv, "served", false), e);
    if (!rc && !cached) rc = watchcache_add(s->cache, stored, e);
    if (rc) return rc;
    const struct resource *base = stored->storage ? stored->storage : stored;
    JSON_FOREACH(v, json_at(crd, "spec", "versions", NULL)) {
        if (v == sv || !json_get_bool(v, "served", false)) continue;
        struct resource *r = make_row(s, crd, v);
        if (!str_eq(r->version, base->version)) r->storage = base;
        if ((rc = add_row(s, r, true, e))) return rc;
    }
    return 0;
}

/* Takes rows out that the definition (NULL: gone) no longer serves. */
static void withdraw(struct apiserver *s, const char *group, const char *plural, const struct json *crd) {
    const struct resource_rows *rows = resource_rows(s->resources);
    for (size_t i = 0; i < rows->n; i++) {
        const struct resource *r = rows->items[i];
        struct json *v;
        bool served = false;
        if (!r->custom || !str_eq(r->group, group) || !str_eq(r->plural, plural)) continue;
        JSON_FOREACH(v, json_at(crd, "spec", "versions", NULL))
            served |= str_eq(json_get_str(v, "name"), r->version) && json_get_bool(v, "served", false);
        if (!served) resource_table_remove(s->resources, r);
    }
}

/* ---- status ---- */

static struct json *condition(struct arena *a, const char *type, const char *status, const char *reason, const char *message) {
    char now[KTIME_MAX];
    struct json *c = json_object(a);
    json_set_str(a, c, "type", type);
    json_set_str(a, c, "status", status);
    json_set_str(a, c, "lastTransitionTime", ktime_format(ktime_now(), now));
    json_set_str(a, c, "reason", reason);
    json_set_str(a, c, "message", message);
    return c;
}

/* Puts the condition in place of one of its type; false when that says the same already. */
static bool put_condition(struct arena *a, struct json *conds, struct json *c) {
    for (uint32_t i = 0; i < conds->n; i++) {
        struct json *o = conds->items[i];
        if (!str_eq(json_get_str(o, "type"), json_get_str(c, "type"))) continue;
        if (str_eq(json_get_str(o, "status"), json_get_str(c, "status")) && str_eq(json_get_str(o, "reason"), json_get_str(c, "reason"))) return false;
        conds->items[i] = c;
        return true;
    }
    json_append(a, conds, c);
    return true;
}

/* Another definition of the group that has one of the names. */
static const char *name_conflict(struct apiserver *s, struct arena *a, const struct json *crd) {
    _cleanup_wc_list_ struct wc_list l = {0};
    const char *own = json_as_str(json_at(crd, "metadata", "name", NULL)), *group = json_as_str(json_at(crd, "spec", "group", NULL));
    const char *kind = json_as_str(json_at(crd, "spec", "names", "kind", NULL));
    watchcache_list(s->cache, s->customs->crds, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        const struct json *o = object_tree(a, l.items[i]);
        if (str_eq(object_name(l.items[i]), own) || !str_eq(json_as_str(json_at(o, "spec", "group", NULL)), group)) continue;
        if (str_eq(json_as_str(json_at(o, "status", "acceptedNames", "kind", NULL)), kind)) return kind;
    }
    return NULL;
}

static void write_status(struct apiserver *s, struct arena *a, const struct object *o, struct json *crd) {
    struct write w;
    struct object *out = NULL;
    bool deleted;
    _cleanup_err_ struct err e = {0};
    write_init(&w, s, a, NULL, o->res, "status", NULL, object_name(o), RULES_UPDATE);
    int rc = write_update(&w, crd, o, true, &out, &deleted, &e);
    if (rc < 0) log_warn("status of a definition", "name", object_name(o), "error", e.msg, NULL);
    object_unref(out); /* WRITE_RETRY: the newer object is on its way to us */
}

static void accept_names(struct apiserver *s, struct arena *a, const struct object *o, struct json *crd, const char *conflict) {
    struct json *status = json_ensure_object(a, crd, "status"), *conds = json_ensure_array(a, status, "conditions");
    const struct json *names = json_at(crd, "spec", "names", NULL);
    bool changed;
    if (conflict) {
        changed = put_condition(a, conds, condition(a, "NamesAccepted", "False", "KindConflict", arena_printf(a, "\"%s\" is already in use", conflict)));
        changed |= put_condition(a, conds, condition(a, "Established", "False", "NotAccepted", "not all names are accepted"));
    } else {
        changed = put_condition(a, conds, condition(a, "NamesAccepted", "True", "NoConflicts", "no conflicts found"));
        changed |= put_condition(a, conds, condition(a, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted"));
        if (!json_equal(json_get(status, "acceptedNames"), names)) {
            json_set(a, status, "acceptedNames", json_clone(a, names));
            changed = true;
        }
    }
    if (changed) write_status(s, a, o, crd);
}

/* ---- deletion ---- */

static bool has_finalizer(const struct json *obj) {
    struct json *f;
    JSON_FOREACH(f, json_at(obj, "metadata", "finalizers", NULL)) {
        if (str_eq(json_as_str(f), FINALIZER)) return true;
    }
    return false;
}

void custom_definition_deleted(struct rules_ctx *c, struct json *crd) {
    struct json *meta = json_ensure_object(c->a, crd, "metadata");
    if (json_get(meta, "deletionTimestamp")) return;
    if (!has_finalizer(crd)) json_append(c->a, json_ensure_array(c->a, meta, "finalizers"), json_str(c->a, FINALIZER));
    put_condition(c->a, json_ensure_array(c->a, json_ensure_object(c->a, crd, "status"), "conditions"),
                  condition(c->a, "Terminating", "True", "InstanceDeletionPending",
                            "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon"));
}

static void delete_instance(struct apiserver *s, const struct resource *r, struct object *o) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct delete_request d = {.o = {.grace_period_seconds = -1, .orphan_dependents = -1}};
    const char *ns = o->ns_len ? arena_strndup(a, o->key, o->ns_len) : NULL;
    struct object *out = NULL;
    struct write w;
    bool gone;
    write_init(&w, s, a, NULL, r, NULL, ns, object_name(o), RULES_DELETE);
    write_delete(&w, &d, o, &out, &gone, NULL);
    object_unref(out);
}

/* True when none of the definition's objects are left. */
static bool delete_instances(struct apiserver *s, const struct json *crd) {
    _cleanup_wc_list_ struct wc_list l = {0};
    char prefix[600];
    snprintf(prefix, sizeof(prefix), "/registry/%s/%s/", str_or_empty(json_as_str(json_at(crd, "spec", "group", NULL))),
             str_or_empty(json_as_str(json_at(crd, "spec", "names", "plural", NULL))));
    const struct resource *r = watchcache_row(s->cache, prefix);
    if (!r) return true;
    watchcache_list(s->cache, r, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) delete_instance(s, r, l.items[i]);
    watchcache_sync(s->cache, NULL);
    return watchcache_count(s->cache, r) == 0;
}

static void finish_deletion(struct apiserver *s, struct arena *a, const struct object *o, struct json *crd) {
    struct json *list = json_at(crd, "metadata", "finalizers", NULL);
    if (!has_finalizer(crd)) return;
    if (!delete_instances(s, crd)) {
        s->customs->pending = true;
        return;
    }
    for (size_t i = json_len(list); i-- > 0;)
        if (str_eq(json_as_str(json_item(list, i)), FINALIZER)) json_del_at(list, i);
    struct write w;
    struct object *out = NULL;
    bool deleted;
    write_init(&w, s, a, NULL, o->res, NULL, NULL, object_name(o), RULES_UPDATE);
    if (write_update(&w, crd, o, true, &out, &deleted, NULL)) s->customs->pending = true;
    object_unref(out);
}

/* ---- the thread ---- */

/* Brings the table up to the definition's generation; nothing to do when it is (its status is mostly our own writing).
 * False when it cannot be served. */
static bool serve_current(struct apiserver *s, const struct object *o, const struct json *crd, const char *conflict) {
    _cleanup_err_ struct err e = {0};
    struct map *served = &s->customs->served;
    const char *group = json_as_str(json_at(crd, "spec", "group", NULL)), *plural = json_as_str(json_at(crd, "spec", "names", "plural", NULL));
    void *generation = (void *)(intptr_t)json_as_int(json_at(crd, "metadata", "generation", NULL), 1);
    if (!conflict && map_get(served, object_name(o)) == generation) return true;
    if (!conflict && serve_definition(s, crd, &e)) {
        log_warn("serving a definition", "name", object_name(o), "error", e.msg, NULL);
        return false;
    }
    if (conflict) map_del(served, object_name(o));
    else map_put(served, object_name(o), generation);
    withdraw(s, group, plural, conflict ? NULL : crd);
    return true;
}

static void definition(struct apiserver *s, const struct object *o, bool gone) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *crd = object_tree(a, o);
    const char *group = str_or_empty(json_as_str(json_at(crd, "spec", "group", NULL)));
    const char *plural = str_or_empty(json_as_str(json_at(crd, "spec", "names", "plural", NULL)));
    bool leaving = json_at(crd, "metadata", "deletionTimestamp", NULL) != NULL;
    if (gone) {
        withdraw(s, group, plural, NULL);
        map_del(&s->customs->served, object_name(o));
    } else if (leaving) {
        finish_deletion(s, a, o, crd);
    } else {
        const char *conflict = name_conflict(s, a, crd);
        if (serve_current(s, o, crd, conflict)) accept_names(s, a, o, crd, conflict);
    }
    atomic_fetch_add(&s->customs->generation, 1);
}

static void wake(void *arg) {
    struct customs *c = arg;
    pthread_mutex_lock(&c->lock);
    c->woken = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
}

static void start_over(struct apiserver *s) {
    struct customs *c = s->customs;
    struct wc_list l;
    wc_watch_free(c->watch);
    wc_watch_new_list(s->cache, c->crds, NULL, NULL, wake, c, &l, &c->watch);
    for (size_t i = 0; i < l.n; i++) definition(s, l.items[i], false);
    wc_list_done(&l);
}

static void drain(struct apiserver *s) {
    struct wc_event ev;
    int rc;
    while ((rc = wc_watch_next(s->customs->watch, &ev, NULL)) == 1) {
        definition(s, ev.object, ev.type == WC_DELETED);
        object_unref(ev.object);
    }
    if (rc < 0) start_over(s);
}

static void retry_deletions(struct apiserver *s) {
    _cleanup_wc_list_ struct wc_list l = {0};
    s->customs->pending = false;
    watchcache_list(s->cache, s->customs->crds, NULL, NULL, NULL, 0, &l);
    for (size_t i = 0; i < l.n; i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct json *crd = object_tree(a, l.items[i]);
        if (json_at(crd, "metadata", "deletionTimestamp", NULL)) finish_deletion(s, a, l.items[i], crd);
    }
}

static void *run(void *arg) {
    struct apiserver *s = arg;
    struct customs *c = s->customs;
    pthread_mutex_lock(&c->lock);
    while (!c->stop) {
        if (!c->woken && c->pending) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += RETRY_MS * NS_PER_MS;
            until.tv_sec += until.tv_nsec / NS_PER_SEC;
            until.tv_nsec %= NS_PER_SEC;
            pthread_cond_timedwait(&c->cond, &c->lock, &until);
        } else if (!c->woken) {
            pthread_cond_wait(&c->cond, &c->lock);
            continue;
        }
        if (c->stop) break;
        c->woken = false;
        pthread_mutex_unlock(&c->lock);
        drain(s);
        if (c->pending) retry_deletions(s);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

int custom_start(struct apiserver *s, struct err *e) {
    struct customs *c = xcalloc(1, sizeof(*c));
    s->customs = c;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->cond, NULL);
    c->crds = resource_find(s->resources, "apiextensions.k8s.io", "v1", "customresourcedefinitions");
    start_over(s);
    c->started = pthread_create(&c->thread, NULL, run, s) == 0;
    return c->started ? 0 : err_set(e, -EAGAIN, "no thread for custom resources");
}

void custom_stop(struct apiserver *s) {
    struct customs *c = s->customs;
    if (!c) return;
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_cond_signal(&c->cond);
    pthread_mutex_unlock(&c->lock);
    if (c->started) pthread_join(c->thread, NULL);
    wc_watch_free(c->watch);
}

void custom_free(struct apiserver *s) {
    if (!s->customs) return;
    for (struct custom *d = s->customs->all, *older; d; d = older) {
        older = d->older;
        arena_free(d->a);
        free(d);
    }
    map_done(&s->customs->served);
    pthread_mutex_destroy(&s->customs->lock);
    pthread_cond_destroy(&s->customs->cond);
    free(s->customs);
    s->customs = NULL;
}
