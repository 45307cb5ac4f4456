/* DELETE of an object and of a collection. */
#include "apiserver/handlers.h"
#include "apiserver/write.h"

static int bad_option(struct err *e, const char *reason, const char *field, const char *msg) {
    err_status(e, 422, "Invalid", "DeleteOptions.meta.k8s.io \"\" is invalid: %s: %s", field, msg);
    err_details(e, "meta.k8s.io", "DeleteOptions", NULL);
    err_cause_add(e, reason, field, "%s", msg);
    return -EINVAL;
}

/* ReplicationControllers and Jobs are from the time when dependents were left alone. */
static void default_policy(struct request *q, struct delete_request *d) {
    if (!(q->res->flags & RES_ORPHANS)) return;
    d->o.propagation_policy = "Orphan";
    if (str_eq(q->res->plural, "jobs"))
        request_warn(q,
                     "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to "
                     "remove them or set propagationPolicy=Orphan to suppress this warning");
}

/* What was asked for, wherever it stood, as metav1.DeleteOptions. */
static struct json *options_tree(struct request *q, const struct delete_request *d, bool dry_run) {
    struct arena *a = q->a;
    struct json *o = json_object(a);
    json_set_str(a, o, "kind", "DeleteOptions");
    json_set_str(a, o, "apiVersion", "meta.k8s.io/v1");
    if (d->o.grace_period_seconds >= 0) json_set_int(a, o, "gracePeriodSeconds", d->o.grace_period_seconds);
    if (d->uid) json_set_str(a, json_ensure_object(a, o, "preconditions"), "uid", d->uid);
    if (d->rv) json_set_str(a, json_ensure_object(a, o, "preconditions"), "resourceVersion", d->rv);
    if (d->o.orphan_dependents >= 0) json_set_bool(a, o, "orphanDependents", d->o.orphan_dependents);
    if (d->o.propagation_policy) json_set_str(a, o, "propagationPolicy", d->o.propagation_policy);
    if (dry_run) json_append(a, json_ensure_array(a, o, "dryRun"), json_str(a, "All"));
    return o;
}

/* DeleteOptions of the body, or (without a body) of the query. */
static int read_options(struct request *q, struct delete_request *d, bool *dry_run, struct err *e) {
    struct json *body = NULL, *x;
    *d = (struct delete_request){.o = {.grace_period_seconds = -1, .orphan_dependents = -1}};
    const struct api_type *type = api_type_find("meta.k8s.io", "v1", "DeleteOptions");
    if (q->http->body_len) {
        int rc = body_decode(q, type, "v1", "DeleteOptions", true, &body, e);
        if (rc) return rc;
    }
    int rc = request_dry_run(q, dry_run, e);
    if (rc) return rc;
    int64_t grace;
    if ((rc = request_query_int(q, "gracePeriodSeconds", -1, &grace, e))) return rc;
    d->o.grace_period_seconds = json_get_int(body, "gracePeriodSeconds", grace);
    d->o.propagation_policy = json_get_str(body, "propagationPolicy");
    if (!d->o.propagation_policy) d->o.propagation_policy = http_query(q->http, "propagationPolicy");
    if (json_get(body, "orphanDependents"))
        d->o.orphan_dependents = json_get_bool(body, "orphanDependents", false);
    else if (http_query(q->http, "orphanDependents"))
        d->o.orphan_dependents = request_query_bool(q, "orphanDependents");
    d->uid = json_as_str(json_at(body, "preconditions", "uid", NULL));
    d->rv = json_as_str(json_at(body, "preconditions", "resourceVersion", NULL));
    JSON_FOREACH(x, json_get(body, "dryRun")) {
        if (!str_eq(json_as_str(x), "All"))
            return bad_option(e, "FieldValueNotSupported", "dryRun", "Unsupported value");
        *dry_run = true;
    }
    const char *p = d->o.propagation_policy;
    if (str_empty(p)) {
        d->o.propagation_policy = NULL;
        if (d->o.orphan_dependents < 0) default_policy(q, d);
    } else {
        if (!str_eq(p, "Orphan") && !str_eq(p, "Background") && !str_eq(p, "Foreground"))
            return bad_option(e, "FieldValueNotSupported", "propagationPolicy", "Unsupported value");
        if (d->o.orphan_dependents >= 0)
            return bad_option(e, "FieldValueInvalid", "propagationPolicy",
                              "orphanDependents and propagationPolicy cannot be both set");
    }
    d->tree = options_tree(q, d, *dry_run);
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
    _cleanup_wc_list_ struct wc_list l = {0}, done = {0};
    struct delete_request d;
    struct selector sel;
    bool dry_run = false;
    size_t cap = 0;
    int rc = read_options(q, &d, &dry_run, &e);
    if (!rc)
        rc = selector_parse(q->a, q->res, http_query(q->http, "labelSelector"), http_query(q->http, "fieldSelector"),
                            &sel, &e);
    if (!rc) rc = watchcache_sync(q->s->cache, &e);
    if (!rc) watchcache_list(q->s->cache, q->res, q->ns, &sel, NULL, 0, &l);
    for (size_t i = 0; !rc && i < l.n; i++) {
        struct object *o = NULL;
        bool gone;
        const char *ns = l.items[i]->ns_len ? arena_strndup(q->a, l.items[i]->key, l.items[i]->ns_len) : NULL;
        rc = delete_one(q, ns, object_name(l.items[i]), &d, dry_run, &o, &gone, &e);
        if (rc && e.status == 404) { /* somebody else was faster */
            err_done(&e);
            rc = 0;
            continue;
        }
        if (rc) break;
        VEC_GROW(done.items, done.n, cap);
        done.items[done.n++] = o;
    }
    if (rc) {
        respond_err(q, &e);
        return;
    }
    done.rev = l.rev;
    done.remaining = -1;
    respond_list(q, &done, NULL);
}
