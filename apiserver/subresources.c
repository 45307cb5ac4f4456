/* Subresources with bodies of their own, and of them binding. Scale, eviction and token have files of their own. */
#include "apiserver/subresources.h"
#include "apiserver/handlers.h"
#include "apiserver/options.h"
#include "apiserver/write.h"

/* ---- binding ---- */

static void set_scheduled(struct arena *a, struct json *pod, struct ktime when) {
    char now[KTIME_MAX];
    struct json *conds = json_ensure_array(a, json_ensure_object(a, pod, "status"), "conditions"), *c, *found = NULL;
    JSON_FOREACH(c, conds) {
        if (str_eq(json_get_str(c, "type"), "PodScheduled")) found = c;
    }
    if (!found) {
        found = json_object(a);
        json_append(a, conds, found);
    }
    const struct json *since = str_eq(json_get_str(found, "status"), "True") ? json_get(found, "lastTransitionTime")
                                                                             : json_str(a, ktime_format(when, now));
    *found = *json_object(a);
    json_set_str(a, found, "type", "PodScheduled");
    json_set_str(a, found, "status", "True");
    json_set(a, found, "lastProbeTime", json_null(a));
    json_set(a, found, "lastTransitionTime", since ? json_clone(a, since) : json_null(a));
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
    set_scheduled(a, pod, w->c.now);
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
    const char *ns = json_as_str(json_at(b, "metadata", "namespace", NULL));
    if (!rc && !str_empty(ns) && !str_eq(ns, q->ns))
        rc = err_status(&e, 400, "BadRequest",
                        "the namespace of the provided object does not match the namespace sent on the request");
    if (!rc && !str_empty(kind) && !str_eq(kind, "Node")) /* as plain errors, not as findings */
        rc = err_status(&e, 500, "",
                        "target.kind: Unsupported value: \"%.100s\": supported values: \"Node\", \"<empty>\"", kind);
    if (!rc && str_empty(node)) rc = err_status(&e, 500, "", "target.name: Required value");
    static const struct rules_kind bound = {"", "v1", "Binding", "pods", true};
    bool sub = q->sub != NULL; /* else POST bindings */
    if (!rc) rc = write_admit_body(q, RULES_CREATE, sub ? &bound : NULL, sub ? "binding" : NULL, dry_run, b, NULL, &e);
    for (int i = 0; !rc; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, pods, q->ns, name, i > 0);
        struct write w;
        write_init(&w, q->s, q->a, q, pods, "binding", q->ns, name, RULES_UPDATE);
        w.c.dry_run = dry_run;
        if (!sub && json_at(b, "metadata", "uid", NULL)) json_del(json_get(b, "metadata"), "uid");
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
