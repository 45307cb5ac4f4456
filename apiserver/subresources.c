/* Subresources with bodies of their own: scale, binding, eviction, token. */
#include "apiserver/subresources.h"
#include "apiserver/crd/convert.h"
#include "apiserver/crd/jsonpath.h"
#include "apiserver/handlers.h"
#include "apiserver/options.h"
#include "apiserver/tables.h"
#include "apiserver/write.h"
#include "pkg/pki/jwt.h"
#include "pkg/yaml/yaml.h"

/* ---- scale ---- */

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

/* The Scale that a PATCH wants: the present one with the patch applied. */
static int wanted_scale(struct request *q, struct write *w, const struct object *old, struct json **out,
                        struct err *e) {
    const struct api_type *type = api_type_find("autoscaling", "v1", "Scale");
    const char *ct = str_or_empty(http_header(q->http, "content-type"));
    struct json *patched = NULL;
    struct api_problems strict = {0};
    const struct api_type *keep = w->c.type;
    if (str_has_prefix(ct, "application/apply-patch+yaml")) {
        /* Scale has no lists or maps of its own: applying it is merging it */
        if (yaml_parse_one(q->a, q->http->body, q->http->body_len, &patched, NULL, e))
            return err_status(e, 400, "BadRequest", "error decoding YAML");
        struct json *s = scale_tree(q, write_tree(w, old));
        struct json *n = json_at(patched, "spec", "replicas", NULL);
        if (n) json_set(q->a, json_get(s, "spec"), "replicas", n);
        patched = s;
    } else {
        w->c.type = type;
        int rc = patch_apply(&w->c, ct, scale_tree(q, write_tree(w, old)), q->http->body, q->http->body_len, &patched,
                             &strict, e);
        w->c.type = keep;
        if (rc) return rc;
    }
    return body_normalise(q, type, patched, &strict, out, e);
}

/* put: the Scale of a PUT, NULL: a patch. */
static int scale_once(struct request *q, struct write *w, const struct json *put, const struct object *old,
                      struct object **out, struct err *e) {
    struct json *scale = json_clone(q->a, put), *obj;
    bool deleted;
    int64_t rev = 0;
    int rc = write_look(w, old, e);
    if (!rc && !put) rc = wanted_scale(q, w, old, &scale, e);
    if (rc) return rc;
    obj = json_clone(q->a, write_tree(w, old));
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
    if (n < 0) {
        err_status(e, 422, "Invalid",
                   "Scale.autoscaling \"%s\" is invalid: spec.replicas: Invalid value: %lld: must be greater than or "
                   "equal to 0",
                   q->name, (long long)n);
        err_details(e, "autoscaling", "Scale", q->name);
        err_cause_add(e, "FieldValueInvalid", "spec.replicas",
                      "Invalid value: %lld: must be greater than or equal to 0", (long long)n);
        return -EINVAL;
    }
    if (!q->res->scale)
        json_set_int(q->a, json_ensure_object(q->a, obj, "spec"), "replicas", n);
    else if (jsonpath_set(q->a, q->res->scale->spec, obj, json_int(q->a, n)))
        return err_status(e, 400, "BadRequest", "the object has no place for %s", q->res->scale->spec);
    return write_update(w, obj, old, true, out, &deleted, e);
}

static void handle_scale(struct request *q) {
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
    if (rc)
        respond_err(q, &e);
    else
        respond_tree_as(q, 200, type, "autoscaling/v1/scale", scale_tree(q, object_tree(q->a, o)));
}

/* ---- binding ---- */

static void set_scheduled(struct arena *a, struct json *pod) {
    struct json *conds = json_ensure_array(a, json_ensure_object(a, pod, "status"), "conditions"), *c, *found = NULL;
    JSON_FOREACH(c, conds) {
        if (str_eq(json_get_str(c, "type"), "PodScheduled")) found = c;
    }
    if (!found) {
        found = json_object(a);
        json_append(a, conds, found);
    }
    *found = *json_object(a);
    json_set_str(a, found, "type", "PodScheduled");
    json_set_str(a, found, "status", "True");
    json_set(a, found, "lastProbeTime", json_null(a));
    json_set(a, found, "lastTransitionTime", json_null(a));
}

static int bind_once(struct write *w, const struct json *binding, const struct object *old, struct err *e) {
    struct arena *a = w->a;
    const char *name = object_name(old), *node = json_as_str(json_at(binding, "target", "name", NULL));
    const char *uid = json_as_str(json_at(binding, "metadata", "uid", NULL));
    struct json *pod = object_tree(a, old), *meta = json_get(pod, "metadata"), *spec = json_get(pod, "spec");
    struct object *out = NULL;
    if (!str_empty(uid) && !str_eq(uid, json_get_str(meta, "uid")))
        return err_conflict(e, w->res, name, "Precondition failed: the pod's UID is another");
    if (json_get_str(meta, "deletionTimestamp"))
        return err_conflict(e, w->res, name,
                            arena_printf(a, "pod %s is being deleted, cannot be assigned to a host", name));
    if (!str_empty(json_get_str(spec, "nodeName")))
        return err_conflict(
            e, w->res, name,
            arena_printf(a, "pod %s is already assigned to node \"%s\"", name, json_get_str(spec, "nodeName")));
    if (json_len(json_get(spec, "schedulingGates")))
        return err_conflict(e, w->res, name, arena_printf(a, "pod %s has non-empty .spec.schedulingGates", name));
    json_set_str(a, spec, "nodeName", node);
    JSON_FOREACH_MEMBER(m, json_at(binding, "metadata", "annotations", NULL))
        json_set(a, json_ensure_object(a, meta, "annotations"), m->key, m->value);
    JSON_FOREACH_MEMBER(m, json_at(binding, "metadata", "labels", NULL))
        json_set(a, json_ensure_object(a, meta, "labels"), m->key, m->value);
    set_scheduled(a, pod);
    int rc = write_raw(w, pod, old, &out, e);
    object_unref(out);
    return rc;
}

void handle_binding(struct request *q) {
    _cleanup_err_ struct err e = {0};
    struct json *b = NULL;
    bool dry_run = false;
    const struct resource *pods = resource_find(q->s->resources, "", "v1", "pods");
    int rc = body_of_write(q, api_type_find("", "v1", "Binding"), "v1", "Binding", "CreateOptions", &dry_run, &b, &e);
    const char *name = json_as_str(json_at(b, "metadata", "name", NULL)),
               *node = json_as_str(json_at(b, "target", "name", NULL));
    const char *kind = json_as_str(json_at(b, "target", "kind", NULL));
    if (!rc && q->name && !str_empty(name) && !str_eq(name, q->name))
        rc = err_status(&e, 400, "BadRequest", "the name in the binding (%s) does not match the name in the URL (%s)",
                        name, q->name);
    if (q->name) name = q->name;
    if (!rc && str_empty(name)) rc = err_status(&e, 400, "BadRequest", "name is required");
    if (!rc && (str_empty(node) || (!str_empty(kind) && !str_eq(kind, "Node")))) {
        rc = err_status(&e, 422, "Invalid", "Binding \"%s\" is invalid: target: a node's name is required", name);
        err_details(&e, "", "Binding", name);
        err_cause_add(&e, str_empty(node) ? "FieldValueRequired" : "FieldValueNotSupported",
                      str_empty(node) ? "target.name" : "target.kind", "must be a node");
    }
    static const struct rules_kind bound = {"", "v1", "Binding", "pods", true};
    bool sub = q->sub != NULL; /* else POST bindings */
    if (!rc) rc = write_admit_body(q, RULES_CREATE, sub ? &bound : NULL, sub ? "binding" : NULL, dry_run, b, NULL, &e);
    for (int i = 0; !rc; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, pods, q->ns, name, i > 0);
        struct write w;
        write_init(&w, q->s, q->a, q, pods, "binding", q->ns, name, RULES_UPDATE);
        w.c.dry_run = dry_run;
        rc = old ? bind_once(&w, b, old, &e) : err_not_found(&e, pods, name);
        if (rc > 0 && i < WRITE_TRIES) {
            rc = 0;
            continue;
        }
        if (rc > 0) rc = err_conflict(&e, pods, name, "the object has been modified; please try again");
        break;
    }
    if (rc && e.status == 409) err_details(&e, NULL, "pods/binding", NULL);
    if (rc)
        respond_err(q, &e);
    else
        respond_success(q, 201, NULL);
}

void handle_subresource(struct request *q) {
    static const struct {
        const char *name;
        void (*fn)(struct request *q);
    } subs[] = {
        {"scale", handle_scale}, {"binding", handle_binding}, {"eviction", handle_eviction}, {"token", handle_token}};
    for (size_t i = 0; i < ARRAY_LEN(subs); i++)
        if (str_eq(q->sub->name, subs[i].name)) {
            subs[i].fn(q);
            return;
        }
    _cleanup_err_ struct err e = {0};
    err_status(&e, 404, "NotFound", "the server could not find the requested resource");
    respond_err(q, &e);
}
