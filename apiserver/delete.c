/* DELETE of an object and of a collection. */
#include "apiserver/handlers.h"
#include "apiserver/options.h"
#include "apiserver/write.h"

/* ReplicationControllers and Jobs are from the time when dependents were left alone. */
static void default_policy(struct request *q, struct delete_request *d) {
    if (!(q->res->flags & RES_ORPHANS)) return;
    d->o.orphan_by_default = true;
    if (str_eq(q->res->plural, "jobs"))
        request_warn(q,
                     "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to "
                     "remove them or set propagationPolicy=Orphan to suppress this warning");
}

/* DeleteOptions as they stand in the parameters of the URL. */
static int query_options(struct request *q, struct json **out, struct err *e) {
    struct arena *a = q->a;
    struct json *o = json_object(a);
    const char *policy = http_query(q->http, "propagationPolicy"), *name, *value;
    size_t it = 0;
    int64_t grace;
    int rc = request_query_int(q, "gracePeriodSeconds", INT64_MIN, &grace, e);
    if (rc) return rc;
    if (grace != INT64_MIN) json_set_int(a, o, "gracePeriodSeconds", grace);
    if (!str_empty(http_query(q->http, "orphanDependents")))
        json_set_bool(a, o, "orphanDependents", request_query_bool(q, "orphanDependents"));
    if (policy) json_set_str(a, o, "propagationPolicy", policy);
    while (http_query_next(q->http, &it, &name, &value))
        if (str_eq(name, "dryRun")) json_append(a, json_ensure_array(a, o, "dryRun"), json_str(a, value));
    *out = o;
    return 0;
}

/* The DeleteOptions of the body, or without a body those of the URL: never both. */
static int read_options(struct request *q, struct delete_request *d, bool *dry_run, struct err *e) {
    struct json *o = NULL;
    const struct api_type *type = api_type_find("meta.k8s.io", "v1", "DeleteOptions");
    int rc =
        q->http->body_len ? body_decode(q, type, "v1", "DeleteOptions", BODY_OPTIONS, &o, e) : query_options(q, &o, e);
    if (!rc) rc = options_check_delete(o, e);
    if (rc) return rc;
    *d = (struct delete_request){.o = {.grace_period_seconds = -1, .orphan_dependents = -1}};
    if (json_get(o, "gracePeriodSeconds")) {
        d->o.grace_period_seconds = json_get_int(o, "gracePeriodSeconds", 0);
        if (d->o.grace_period_seconds < 0) d->o.grace_period_seconds = 1;
    }
    if (json_get(o, "orphanDependents")) d->o.orphan_dependents = json_get_bool(o, "orphanDependents", false);
    d->o.propagation_policy = json_get_str(o, "propagationPolicy");
    d->uid = json_as_str(json_at(o, "preconditions", "uid", NULL));
    d->rv = json_as_str(json_at(o, "preconditions", "resourceVersion", NULL));
    *dry_run = json_len(json_get(o, "dryRun")) > 0;
    if (!d->o.propagation_policy && d->o.orphan_dependents < 0) default_policy(q, d);
    json_set_str(q->a, o, "kind", "DeleteOptions"); /* as admission sees them */
    json_set_str(q->a, o, "apiVersion", "meta.k8s.io/v1");
    d->tree = o;
    return 0;
}

static struct json *deleted_details(struct request *q, const struct object *o) {
    struct json *d = json_object(q->a), *v = object_tree(q->a, o);
    json_set_str(q->a, d, "name", q->name);
    if (*q->res->group) json_set_str(q->a, d, "group", q->res->group);
    json_set_str(q->a, d, "kind", q->res->plural);
    json_set_str(q->a, d, "uid", str_or_empty(json_as_str(json_at(v, "metadata", "uid", NULL))));
    return d;
}

/* One object, with retries. */
static int delete_one(struct request *q, const char *ns, const char *name, const struct delete_request *d, bool dry_run,
                      struct object **out, bool *gone, struct err *e) {
    for (int i = 0;; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, q->res, ns, name, i > 0);
        if (!old) return err_not_found(e, q->res, name);
        struct write w;
        write_init(&w, q->s, q->a, q, q->res, NULL, ns, name, RULES_DELETE);
        w.c.dry_run = dry_run;
        w.c.options = d->tree;
        int rc = write_look(&w, old, e);
        if (rc) return rc;
        rc = write_delete(&w, d, old, out, gone, e);
        write_warnings(&w, q);
        if (rc < 0 && e->status == 409 && i == 0) { /* the cache may be behind the preconditions */
            err_done(e);
            continue;
        }
        if (rc <= 0) return rc;
        if (i >= WRITE_TRIES) return err_conflict(e, q->res, name, "the object has been modified; please try again");
    }
}

void handle_delete(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_object_ struct object *o = NULL;
    struct delete_request d;
    bool dry_run = false, gone = false;
    int rc = read_options(q, &d, &dry_run, &e);
    if (!rc) rc = delete_one(q, q->ns, q->name, &d, dry_run, &o, &gone, &e);
    if (rc) {
        respond_err(q, &e);
        return;
    }
    int status = !gone && d.o.orphan_dependents == 0 ? 202 : 200;
    if (gone && !(q->res->flags & RES_RETURN_DELETED))
        respond_success(q, status, deleted_details(q, o));
    else
        respond_object(q, status, o);
}

void handle_delete_collection(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_wc_list_ struct wc_list l = {0};
    struct delete_request d;
    struct selector sel;
    bool dry_run = false;
    int64_t limit = 0;
    int rc = options_check_list(q, &e);
    if (!rc) rc = request_query_int(q, "limit", 0, &limit, &e);
    if (!rc)
        rc = selector_parse(q->a, q->res, http_query(q->http, "labelSelector"), http_query(q->http, "fieldSelector"),
                            &sel, &e);
    if (!rc) rc = read_options(q, &d, &dry_run, &e);
    if (!rc) rc = watchcache_sync(q->s->cache, &e);
    bool late = !rc && q->res->converts && !selector_empty(&sel);
    if (!rc)
        watchcache_list(q->s->cache, q->res, q->ns, late ? NULL : &sel, NULL, late || limit < 0 ? 0 : (size_t)limit,
                        &l);
    if (late && !rc) rc = select_converted(q, &sel, limit < 0 ? 0 : (size_t)limit, &l, &e);
    for (size_t i = 0; !rc && i < l.n; i++) {
        _cleanup_object_ struct object *o = NULL;
        bool gone;
        const char *ns = l.items[i]->ns_len ? arena_strndup(q->a, l.items[i]->key, l.items[i]->ns_len) : NULL;
        rc = delete_one(q, ns, object_name(l.items[i]), &d, dry_run, &o, &gone, &e);
        if (rc && e.status == 404) { /* somebody else was faster */
            err_done(&e);
            rc = 0;
        }
    }
    if (rc) {
        respond_err(q, &e);
        return;
    }
    respond_list(q, &l, list_token(q, &l)); /* as they were found */
}
