/* The scale subresource: the number of replicas as an object of its own, autoscaling/v1 Scale. Upstream: the ScaleREST of
 * each workload, and apimachinery/pkg/util/managedfields/scalehandler.go. */
#include "apiserver/crd/convert.h"
#include "apiserver/crd/jsonpath.h"
#include "apiserver/handlers.h"
#include "apiserver/rules/managers.h"
#include "apiserver/subresources.h"
#include "apiserver/tables.h"
#include "apiserver/write.h"
#include "pkg/yaml/yaml.h"

static const char *scale_selector(struct arena *a, const struct request *q, const struct json *o) {
    const struct json *sel = json_at(o, "spec", "selector", NULL);
    if (str_eq(q->res->plural, "replicationcontrollers")) {
        struct json *wrapped = json_object(a);
        json_set(a, wrapped, "matchLabels", sel ? (struct json *)sel : json_object(a));
        sel = wrapped;
    }
    const char *text = selector_text(a, sel);
    return str_eq(text, "<none>") ? "" : text;
}

/* Custom resources say where the numbers are. */
static void custom_scale(struct request *q, const struct json *v, struct json *spec, struct json *status) {
    const struct scale_paths *p = q->res->scale;
    struct arena *a = q->a;
    const struct json *want = jsonpath_first(a, p->spec, v), *have = jsonpath_first(a, p->status, v);
    const char *sel = p->selector ? json_as_str(jsonpath_first(a, p->selector, v)) : NULL;
    if (json_as_int(want, 0)) json_set_int(a, spec, "replicas", json_as_int(want, 0));
    json_set_int(a, status, "replicas", json_as_int(have, 0));
    if (!str_empty(sel)) json_set_str(a, status, "selector", sel);
}

static struct json *scale_tree(struct request *q, const struct json *v) {
    struct arena *a = q->a;
    static const char *const kept[] = {"name", "namespace", "uid", "resourceVersion", "creationTimestamp"};
    struct json *s = json_object(a), *meta = json_object(a), *part;
    json_set_str(a, s, "kind", "Scale");
    json_set_str(a, s, "apiVersion", "autoscaling/v1");
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        struct json *m = json_at(v, "metadata", kept[i], NULL);
        if (m) json_set(a, meta, kept[i], m);
    }
    json_set(a, s, "metadata", meta);
    part = json_set(a, s, "spec", json_object(a));
    if (q->res->scale) {
        custom_scale(q, v, part, json_set(a, s, "status", json_object(a)));
        return s;
    }
    int64_t want = json_as_int(json_at(v, "spec", "replicas", NULL), 0);
    if (want) json_set_int(a, part, "replicas", want);
    part = json_set(a, s, "status", json_object(a));
    json_set_int(a, part, "replicas", json_as_int(json_at(v, "status", "replicas", NULL), 0));
    const char *sel = scale_selector(a, q, v);
    if (*sel) json_set_str(a, part, "selector", sel);
    return s;
}

/* ---- managed fields ---- the Scale shows who owns the number of replicas as owners of its own field */

/* The path of the replicas in the object: ".spec.replicas" of a built-in kind, what a custom one says. */
static struct fset *replicas_of(const struct request *q, struct fset *s, bool make) {
    char *rest = arena_strdup(q->a, q->res->scale ? q->res->scale->spec : ".spec.replicas");
    for (char *name; s && (name = strsep(&rest, "."));) {
        if (!*name) continue;
        const char *elem = fset_field_elem(q->a, name);
        s = make ? fset_child(q->a, s, elem) : fset_get(s, elem);
    }
    return s;
}

static struct fset *scale_set(struct arena *a) {
    struct fset *s = fset_new(a);
    fset_child(a, fset_child(a, s, "f:spec"), "f:replicas")->member = true;
    return s;
}

static struct manager *same_manager(struct managers *list, const struct manager *m) {
    for (size_t i = 0; i < list->n; i++) {
        struct manager *k = &list->items[i];
        if (str_eq(k->name, m->name) && str_eq(k->operation, m->operation) && str_eq(k->subresource, m->subresource))
            return k;
    }
    return NULL;
}

static void owners_to_scale(struct request *q, const struct json *v, struct json *scale) {
    struct managers all, own = {0};
    managers_read(q->a, json_at(v, "metadata", "managedFields", NULL), &all);
    for (size_t i = 0; i < all.n; i++) {
        const struct manager *m = &all.items[i];
        const struct fset *s = replicas_of(q, m->set, false);
        if (!s || !s->member) continue;
        struct manager *k = managers_add(q->a, &own, m->name, m->operation, "autoscaling/v1", m->subresource);
        k->set = scale_set(q->a);
        k->time = m->time;
    }
    managers_write(q->a, &own, scale);
}

static void owners_to_object(struct request *q, const struct json *scale, struct json *v) {
    struct managers all, own;
    managers_read(q->a, json_at(v, "metadata", "managedFields", NULL), &all);
    managers_read(q->a, json_at(scale, "metadata", "managedFields", NULL), &own);
    for (size_t i = 0; i < all.n; i++) {
        struct fset *s = replicas_of(q, all.items[i].set, false);
        if (s && !same_manager(&own, &all.items[i])) s->member = false;
    }
    for (size_t i = 0; i < own.n; i++) {
        const struct manager *m = &own.items[i];
        const char *version = resource_api_version(q->a, q->res);
        struct manager *k = same_manager(&all, m);
        if (!k) k = managers_add(q->a, &all, m->name, m->operation, version, m->subresource);
        replicas_of(q, k->set, true)->member = true;
        k->time = m->time;
    }
    managers_write(q->a, &all, v);
}

/* ---- PATCH ---- */

static int applied_scale(struct request *q, const struct json *v, struct json **out, struct err *e) {
    struct arena *a = q->a;
    struct json *live = scale_tree(q, v), *config = NULL;
    _cleanup_err_ struct err why = {0};
    bool changed;
    struct rules_ctx c = {.rules = q->s->rules,
                          .a = a,
                          .type = api_type_find("autoscaling", "v1", "Scale"),
                          .group = "autoscaling",
                          .version = "v1",
                          .kind = "Scale",
                          .subresource = "scale",
                          .namespaced = q->res->namespaced,
                          .ns = q->ns,
                          .name = q->name,
                          .field_manager = request_manager(q),
                          .now = ktime_now()};
    if (yaml_parse_first(a, q->http->body, q->http->body_len, &config, NULL, &why) || !json_is(config, JSON_OBJECT))
        return err_status(e, 400, "BadRequest", "error decoding YAML: %s", why.code ? why.msg : "not an object");
    if (!str_eq(json_get_str(config, "kind"), "Scale") || !str_eq(json_get_str(config, "apiVersion"), "autoscaling/v1"))
        return err_status(e, 400, "BadRequest", "invalid object type: %s, Kind=%s",
                          str_or_empty(json_get_str(config, "apiVersion")), str_or_empty(json_get_str(config, "kind")));
    owners_to_scale(q, v, live);
    return ssa_apply(&c, live, config, request_query_bool(q, "force"), out, &changed, e);
}

/* The Scale that a PATCH wants: the present one with the patch applied. */
static int wanted_scale(struct request *q, struct write *w, const struct json *v, struct json **out, struct err *e) {
    const struct api_type *type = api_type_find("autoscaling", "v1", "Scale"), *keep = w->c.type;
    struct json *patched = NULL;
    struct api_problems strict = {0};
    w->c.type = type;
    int rc = patch_apply(&w->c, http_header(q->http, "content-type"), scale_tree(q, v), q->http->body,
                         q->http->body_len, &patched, &strict, e);
    w->c.type = keep;
    if (!rc) rc = patch_check_kind(q, patched, "autoscaling/v1", "Scale", e);
    if (rc) return rc;
    if ((rc = body_normalise(q, type, patched, &strict, out, e)) && e->status == 400) rc = patch_unfit(q, e);
    return rc;
}

/* ---- writing ---- */

static int negative(struct request *q, int64_t n, struct err *e) {
    bool custom = q->res->custom; /* then it is the object that is wrong */
    const char *kind = custom ? q->res->kind : "Scale", *group = custom ? q->res->group : "autoscaling";
    err_status(e, 422, "Invalid",
               "%s.%s \"%s\" is invalid: spec.replicas: Invalid value: %lld: must be greater than or equal to 0", kind,
               group, q->name, (long long)n);
    err_details(e, group, kind, q->name);
    err_cause_add(e, "FieldValueInvalid", custom ? q->res->scale->spec : "spec.replicas",
                  "Invalid value: %lld: must be greater than or equal to 0", (long long)n);
    return -EINVAL;
}

/* A custom resource has a Scale only while it says a number of replicas. */
static int check_scalable(struct request *q, const struct object *o, struct err *e) {
    if (!q->res->scale || jsonpath_first(q->a, q->res->scale->spec, object_tree(q->a, o))) return 0;
    int rc = err_status(e, 500, "InternalError",
                        "Internal error occurred: the spec replicas field \"%s\" does not exist", q->res->scale->spec);
    err_cause_add(e, NULL, NULL, "the spec replicas field \"%s\" does not exist", q->res->scale->spec);
    return rc;
}

/* put: the Scale of a PUT, NULL: a patch. */
static int scale_once(struct request *q, struct write *w, const struct json *put, const struct object *old,
                      struct object **out, struct err *e) {
    struct json *scale = json_clone(q->a, put), *obj;
    bool deleted;
    int64_t rev = 0;
    bool apply = !put && request_media_is(http_header(q->http, "content-type"), "application/apply-patch+yaml");
    int rc = write_look(w, old, e);
    const struct json *v = rc ? NULL : write_tree(w, old);
    if (!rc && !put) rc = apply ? applied_scale(q, v, &scale, e) : wanted_scale(q, w, v, &scale, e);
    if (!rc) rc = request_check_names(q, scale, e);
    if (!rc && !apply) rc = request_check_uid(q, scale, v, e);
    if (rc) return rc;
    obj = json_clone(q->a, v);
    if (apply) owners_to_object(q, scale, obj);
    const char *rv = json_as_str(json_at(scale, "metadata", "resourceVersion", NULL));
    if (!str_empty(rv) && (str_to_i64(rv, &rev) || (rev && rev != old->rev)))
        return err_conflict(
            e, q->res, q->name,
            "the object has been modified; please apply your changes to the latest version and try again");
    static const struct rules_kind kind = {"autoscaling", "v1", "Scale", "scale", true};
    rc = write_admit_body(q, RULES_UPDATE, &kind, "scale", w->c.dry_run, scale, scale_tree(q, write_tree(w, old)), e);
    if (rc) return rc;
    w->c.no_extensions = true;
    int64_t n = json_as_int(json_at(scale, "spec", "replicas", NULL), 0);
    if (n < 0) return negative(q, n, e);
    if (!q->res->scale)
        json_set_int(q->a, json_ensure_object(q->a, obj, "spec"), "replicas", n);
    else if (jsonpath_set(q->a, q->res->scale->spec, obj, json_int(q->a, n)))
        return err_status(e, 400, "BadRequest", "the object has no place for %s", q->res->scale->spec);
    return write_update(w, obj, old, !apply, out, &deleted, e);
}

void handle_scale(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_object_ struct object *o = NULL;
    struct json *put = NULL;
    bool dry_run = false, get = str_eq(q->verb, "get");
    bool patch = str_eq(q->verb, "patch");
    const struct api_type *type = api_type_find("autoscaling", "v1", "Scale");
    int rc = get     ? watchcache_sync(q->s->cache, &e)
             : patch ? patch_check(q, &dry_run, &e)
                     : body_of_write(q, type, "autoscaling/v1", "Scale", "UpdateOptions", &dry_run, &put, &e);
    if (!rc && put) rc = request_check_names(q, put, &e);
    for (int i = 0; !rc; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, q->res, q->ns, q->name, i > 0);
        struct write w;
        if (!old) rc = err_not_found(&e, q->res, q->name);
        if (get) o = object_ref(old);
        if (rc || get) break;
        write_init(&w, q->s, q->a, q, q->res, "scale", q->ns, q->name, RULES_UPDATE);
        w.c.dry_run = dry_run;
        rc = scale_once(q, &w, put, old, &o, &e);
        write_warnings(&w, q);
        if (rc > 0 && i < WRITE_TRIES) {
            rc = 0;
            continue;
        }
        if (rc > 0) rc = err_conflict(&e, q->res, q->name, "the object has been modified; please try again");
        break;
    }
    if (!rc) rc = crd_views(q->s, q->res, &o, 1, &e);
    if (!rc && get) rc = check_scalable(q, o, &e);
    if (rc)
        respond_err(q, &e);
    else
        respond_tree_as(q, 200, type, q->res->custom ? "custom/scale" : "autoscaling/v1/scale",
                        scale_tree(q, object_tree(q->a, o)));
}
