/* The handlers of POST, PUT and PATCH on objects and on those subresources that take the whole object (status,
 * approval, resize, ephemeralcontainers, finalize). They decode, look at what is stored, and go through write.c; a
 * write that met another one is tried again when the client did not insist on a resourceVersion. */
#include "apiserver/audit/audit.h"
#include "apiserver/convert.h"
#include "apiserver/handlers.h"
#include "apiserver/options.h"
#include "apiserver/write.h"
#include "pkg/yaml/yaml.h"

static void begin(struct request *q, struct write *w, enum rules_op op, bool dry_run) {
    write_init(w, q->s, q->a, q, q->res, q->subresource, q->ns, q->name, op);
    w->c.dry_run = dry_run;
}

/* Defaults of the version that the client wrote, then the stored version. */
static struct json *to_stored(struct request *q, struct json *v) {
    if (!q->res->storage || q->res->custom) return v;
    struct rules_ctx c = {.rules = q->s->rules,
                          .a = q->a,
                          .type = q->res->type,
                          .group = q->res->group,
                          .version = q->res->version,
                          .kind = q->res->kind,
                          .resource = q->res->plural,
                          .namespaced = q->res->namespaced,
                          .ns = q->ns,
                          .name = q->name,
                          .now = ktime_now()};
    rules_default(&c, v);
    return write_to_stored(q, v);
}

static int decode(struct request *q, const char *options, bool *dry_run, struct json **out, struct err *e) {
    return body_of_write(q, q->res->type, resource_api_version(q->a, q->res), q->res->kind, options, dry_run, out, e);
}

static void answer(struct request *q, struct write *w, int rc, int status, struct object *o, struct err *e) {
    write_warnings(w, q);
    if (rc && q->res->storage && e->status == 409 && !str_empty(e->name))
        err_details(e, q->res->group, NULL, NULL); /* as the client knows it */
    if (rc)
        respond_err(q, e);
    else
        respond_object(q, status, o);
}

/* ---- POST ---- */

void handle_create(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_object_ struct object *o = NULL;
    struct json *body = NULL;
    struct write w = {0};
    bool dry_run = false;
    int rc = decode(q, "CreateOptions", &dry_run, &body, &e);
    const struct json *meta = json_get(body, "metadata");
    bool generated = str_empty(json_get_str(meta, "name")) && !str_empty(json_get_str(meta, "generateName"));
    for (int i = 0; !rc; i++) {
        struct json *obj = to_stored(q, generated ? json_clone(q->a, body) : body);
        begin(q, &w, RULES_CREATE, dry_run);
        write_take_raw(&w, q);
        w.c.name = NULL;
        if (!obj)
            rc = err_status(&e, 400, "BadRequest", "the object cannot be stored in this version");
        else
            rc = write_create(&w, obj, true, &o, &e);
        if (rc && generated && e.status == 409 && i < WRITE_TRIES) { /* the random name was taken */
            err_done(&e);
            rc = 0;
            continue;
        }
        break;
    }
    answer(q, &w, rc, 201, o, &e);
}

/* ---- PUT ---- */

int request_check_names(struct request *q, struct json *obj, struct err *e) {
    struct json *m = json_get(obj, "metadata");
    const char *name = json_get_str(m, "name"), *ns = json_get_str(m, "namespace");
    if (!q->res->namespaced) json_del(m, "namespace");
    if (q->res->namespaced && !str_empty(ns) && !str_eq(ns, q->ns))
        return err_status(e, 400, "BadRequest",
                          "the namespace of the provided object does not match the namespace sent on the request");
    if (str_empty(name))
        return err_status(e, 400, "BadRequest",
                          "the name of the object (%s based on URL) was undeterminable: name must be provided",
                          q->name);
    if (!str_eq(name, q->name))
        return err_status(e, 400, "BadRequest", "the name of the object (%s) does not match the name on the URL (%s)",
                          name, q->name);
    return 0;
}

/* The resourceVersion of what the client sent against what is stored. */
static int check_revision(struct request *q, struct write *w, const struct json *obj, const struct object *old,
                          struct err *e) {
    const struct json *m = json_get(obj, "metadata");
    const char *rv = json_get_str(m, "resourceVersion");
    int64_t rev = 0;
    if (str_empty(rv) || str_eq(rv, "0")) {
        bool status = !str_empty(q->subresource);
        if (!(q->res->flags & RES_NEEDS_RV) || status) return 0;
        err_status(e, 422, "Invalid",
                   "%s \"%s\" is invalid: metadata.resourceVersion: Invalid value: \"\": must be "
                   "specified for an update",
                   q->res->kind, q->name);
        err_details(e, q->res->group, q->res->plural, q->name);
        err_cause_add(e, "FieldValueInvalid", "metadata.resourceVersion",
                      "Invalid value: \"\": must be specified for an update");
        return -EINVAL;
    }
    if (str_to_i64(rv, &rev)) return err_status(e, 500, "", "strconv.ParseUint: parsing \"%.60s\": invalid syntax", rv);
    w->cause_rev = rev;
    if (rev == 0 || rev == old->rev) return 0;
    return err_conflict(e, q->res, q->name,
                        "the object has been modified; please apply your changes to the latest version and try again");
}

int request_check_uid(struct request *q, const struct json *obj, const struct json *old, struct err *e) {
    const char *uid = json_as_str(json_at(obj, "metadata", "uid", NULL));
    const char *had = json_as_str(json_at(old, "metadata", "uid", NULL));
    if (!str_empty(uid) && !str_eq(uid, had))
        return err_conflict(e, q->res, q->name,
                            arena_printf(q->a, "Precondition failed: UID in precondition: %s, UID in object meta: %s",
                                         uid, str_or_empty(had)));
    return 0;
}

static int put_once(struct request *q, struct write *w, const struct json *body, const struct object *old,
                    struct object **out, struct err *e) {
    bool deleted;
    struct json *obj = to_stored(q, json_clone(q->a, body));
    if (!obj) return err_status(e, 400, "BadRequest", "the object cannot be stored in this version");
    int rc = write_look(w, old, e);
    if (!rc) rc = request_check_uid(q, obj, write_tree(w, old), e);
    if (!rc) rc = check_revision(q, w, obj, old, e);
    return rc ? rc : write_update(w, obj, old, true, out, &deleted, e);
}

/* After a failed try: true when another one makes sense. That is so when another write came between (then the writers of
 * the object queue up), and when the first try looked at an object that the cache had not brought up to date. */
static bool try_again(struct request *q, int rc, int tries, const struct object *old, pthread_mutex_t **queue,
                      struct err *e) {
    if (rc > 0 && tries < WRITE_TRIES) {
        if (!*queue) *queue = write_queue_enter(q->s, resource_stored(q->res), q->ns, q->name);
        return true;
    }
    if (rc >= 0 || tries > 0 || !old) return false;
    _cleanup_object_ struct object *now = write_current(q->s, q->res, q->ns, q->name, true);
    if (now && now->rev == old->rev) return false;
    err_done(e);
    return true;
}

static int lost_race(struct request *q, struct err *e) {
    return err_conflict(e, q->res, q->name,
                        "the object has been modified; please apply your changes to the latest version and try again");
}

void handle_update(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_write_queue_ pthread_mutex_t *queue = NULL;
    _cleanup_object_ struct object *o = NULL;
    struct json *body = NULL;
    struct write w = {0};
    bool dry_run = false;
    int status = 200, rc = decode(q, "UpdateOptions", &dry_run, &body, &e);
    if (!rc) rc = request_check_names(q, body, &e);
    for (int i = 0; !rc; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, q->res, q->ns, q->name, i > 0);
        if (!old && (q->res->flags & RES_CREATE_ON_UPDATE) && !q->subresource) {
            begin(q, &w, RULES_CREATE, dry_run);
            status = 201;
            struct json *fresh = to_stored(q, json_clone(q->a, body));
            if (!dry_run)
                json_del(json_get(fresh, "metadata"), "resourceVersion"); /* says nothing about a new object */
            rc = write_create(&w, fresh, true, &o, &e);
            break;
        }
        begin(q, &w, RULES_UPDATE, dry_run);
        write_take_raw(&w, q);
        rc = old ? put_once(q, &w, body, old, &o, &e) : err_not_found(&e, q->res, q->name);
        if (try_again(q, rc, i, old, &queue,
                      &e)) { /* with a resourceVersion too: the object may be gone by now, which is 404 */
            rc = 0;
            continue;
        }
        if (rc > 0) rc = lost_race(q, &e);
        break;
    }
    answer(q, &w, rc, status, o, &e);
}

/* ---- PATCH ---- */

int patch_check(struct request *q, bool *dry_run, struct err *e) {
    static const char *const known[] = {"application/json-patch+json", "application/merge-patch+json",
                                        "application/strategic-merge-patch+json", "application/apply-patch+yaml"};
    const char *ct = http_header(q->http, "content-type");
    bool ok = false;
    for (size_t i = 0; i < ARRAY_LEN(known); i++) ok |= request_media_is(ct, known[i]);
    if (!ok)
        return err_status(e, 415, "UnsupportedMediaType",
                          "the body of the request was in an unknown format - accepted media types include: "
                          "application/json-patch+json, application/merge-patch+json, "
                          "application/strategic-merge-patch+json, application/apply-patch+yaml");
    int rc = request_acceptable(q, e);
    return rc ? rc : options_check(q, "PatchOptions", dry_run, e);
}

/* The tree of the version that the client speaks. */
static struct json *visible_tree(struct request *q, struct write *w, const struct object *o) {
    if (q->res->custom) return json_clone(q->a, write_tree(w, o));
    struct json *v = object_tree(q->a, o);
    return v && o->res != q->res ? convert_view(q->a, o->res, q->res, v) : v;
}

static int read_config(struct request *q, struct json **config, struct json_dups *dups, struct err *e) {
    _cleanup_err_ struct err why = {0};
    if (yaml_parse_first(q->a, q->http->body, q->http->body_len, config, dups, &why) || !json_is(*config, JSON_OBJECT))
        return err_status(e, 400, "BadRequest", "error decoding YAML: %s", why.code ? why.msg : "not an object");
    const char *kind = json_get_str(*config, "kind"), *version = json_get_str(*config, "apiVersion");
    if (!str_eq(kind, q->res->kind) || !str_eq(version, resource_api_version(q->a, q->res)))
        return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s", str_or_empty(kind),
                          str_or_empty(version), q->res->kind);
    return 0;
}

static int merge_config(struct request *q, struct write *w, const struct json *config, const struct object *old,
                        struct json **merged, struct err *e) {
    bool changed = false;
    struct rules_ctx *c = &w->c;
    c->type = q->res->type; /* the merge is in the client's version */
    c->version = q->res->version;
    c->group = q->res->group;
    int rc =
        ssa_apply(c, old ? visible_tree(q, w, old) : NULL, config, request_query_bool(q, "force"), merged, &changed, e);
    c->type = w->res->type;
    c->version = w->view->version;
    c->group = w->res->group;
    return rc;
}

/* Whether an apply left the object, apart from who owns it, as it is. */
static bool applied_nothing(struct request *q, struct write *w, const struct json *merged, const struct object *old) {
    struct json *was = old ? visible_tree(q, w, old) : NULL, *now = json_clone(q->a, merged);
    json_del(json_get(was, "metadata"), "managedFields");
    json_del(json_get(now, "metadata"), "managedFields");
    return was && json_equal(was, now);
}

static int apply_once(struct request *q, struct write *w, const struct json *config, const struct json_dups *dups,
                      const struct object *old, struct object **out, int *status, struct err *e) {
    bool deleted;
    struct json *merged = NULL, *obj = NULL;
    _cleanup_err_ struct err why = {0};
    int rc = merge_config(q, w, config, old, &merged, e);
    if (rc) return rc;
    w->keep_raw = write_keeps_bytes(w) && applied_nothing(q, w, merged, old);
    /* an apply that changes nothing goes on too: write_update sees whether `old` is still what is stored */
    if (q->res->type && api_tree_normalise(q->a, q->res->type, merged, &obj, NULL, &why))
        return err_status(e, 500, "", "failed to convert new typed object: %s", why.msg);
    if (q->res->custom && (rc = body_normalise(q, NULL, merged, NULL, &merged, e))) return rc;
    if ((rc = body_report_dups(q, dups, e))) return rc;
    const char *uid = json_as_str(json_at(merged, "metadata", "uid", NULL));
    if (!old && !str_empty(uid))
        return err_conflict(e, q->res, q->name,
                            arena_printf(q->a,
                                         "uid mismatch: the provided object specified uid %s, and no existing "
                                         "object was found",
                                         uid));
    if (!obj) obj = merged;
    if ((rc = request_check_names(q, obj, e))) return rc;
    obj = to_stored(q, obj);
    if (!obj) return err_status(e, 400, "BadRequest", "the object cannot be stored in this version");
    if (old && (rc = check_revision(q, w, obj, old, e))) return rc;
    if (old) return write_update(w, obj, old, false, out, &deleted, e);
    *status = 201;
    return write_create(w, obj, false, out, e);
}

/* What the patch makes does not fit the type: said about the patch, not about an object. */
int patch_unfit(struct request *q, struct err *e) {
    const char *why = arena_strdup(q->a, e->msg);
    err_done(e);
    err_status(e, 422, "Invalid", " \"\" is invalid: patch: Invalid value: %s", why);
    err_details(e, NULL, NULL, NULL);
    err_cause_add(e, "FieldValueInvalid", "patch", "%s", why);
    return -EINVAL;
}

/* Custom resources are validated: what the object has become is wrong. */
static int custom_kind_changed(struct request *q, const char *kind, const char *version, const char *want_version,
                               const char *want_kind, struct err *e) {
    const char *slash = strchr(str_or_empty(version), '/');
    const char *group = slash ? arena_strndup(q->a, version, (size_t)(slash - version)) : "";
    err_status(e, 422, "Invalid", "%s.%s \"%s\" is invalid: must be %s, Kind=%s", str_or_empty(kind), group, q->name,
               want_version, want_kind);
    err_details(e, group, str_or_empty(kind), q->name);
    if (!str_eq(kind, want_kind)) err_cause_add(e, "FieldValueInvalid", "kind", "must be %s", want_kind);
    if (!str_eq(version, want_version)) err_cause_add(e, "FieldValueInvalid", "apiVersion", "must be %s", want_version);
    return -EINVAL;
}

/* A patch that makes another kind of the object: its decoder would not know it. Strategic merges do not ask. */
int patch_check_kind(struct request *q, const struct json *patched, const char *want_version, const char *want_kind,
                     struct err *e) {
    const char *kind = json_get_str(patched, "kind"), *version = json_get_str(patched, "apiVersion");
    if (request_media_is(http_header(q->http, "content-type"), "application/strategic-merge-patch+json")) return 0;
    if ((str_empty(kind) || str_eq(kind, want_kind)) && (str_empty(version) || str_eq(version, want_version))) return 0;
    if (q->res->custom) return custom_kind_changed(q, kind, version, want_version, want_kind, e);
    err_status(e, 400, "BadRequest", "no kind \"%s\" is registered for version \"%s\"", str_or_empty(kind),
               str_or_empty(version));
    return patch_unfit(q, e);
}

static int patch_once(struct request *q, struct write *w, const char *ct, const struct object *old, struct object **out,
                      struct err *e) {
    struct json *patched = NULL, *obj = NULL;
    struct api_problems strict = {0};
    bool deleted;
    w->c.type = q->res->type;
    int rc = patch_apply(&w->c, ct, visible_tree(q, w, old), q->http->body, q->http->body_len, &patched, &strict, e);
    w->c.type = w->res->type;
    if (!rc && q->res->custom && q->subresource) { /* of the status alone: the rest stays */
        json_set_str(q->a, patched, "kind", q->res->kind);
        json_set_str(q->a, patched, "apiVersion", resource_api_version(q->a, q->res));
    }
    if (!rc) rc = patch_check_kind(q, patched, resource_api_version(q->a, q->res), q->res->kind, e);
    if (rc) return rc;
    if ((rc = body_normalise(q, q->res->type, patched, &strict, &obj, e)) && e->status == 400) rc = patch_unfit(q, e);
    if (rc) return rc;
    obj = to_stored(q, obj ? obj : patched);
    if (!obj) return err_status(e, 400, "BadRequest", "the object cannot be stored in this version");
    if ((rc = request_check_names(q, obj, e))) return rc;
    rc = check_revision(q, w, obj, old, e);
    return rc ? rc : write_update(w, obj, old, true, out, &deleted, e);
}

void handle_patch(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_write_queue_ pthread_mutex_t *queue = NULL;
    _cleanup_object_ struct object *o = NULL;
    const char *ct = str_or_empty(http_header(q->http, "content-type"));
    bool apply = request_media_is(ct, "application/apply-patch+yaml"), dry_run = false;
    struct json *config = NULL;
    struct json_dups dups = {0};
    struct write w = {0};
    int status = 200, rc = patch_check(q, &dry_run, &e);
    if (!rc) audit_request_patch(q, q->http->body, q->http->body_len);
    if (!rc && apply) rc = read_config(q, &config, &dups, &e);
    size_t warned = q->n_warnings;
    for (int i = 0; !rc; i++) {
        _cleanup_object_ struct object *old = write_current(q->s, q->res, q->ns, q->name, i > 0);
        begin(q, &w, old ? RULES_UPDATE : RULES_CREATE, dry_run);
        q->n_warnings = warned; /* without those of an earlier try */
        if (!old && (!apply || q->subresource))
            rc = err_not_found(&e, q->res, q->name);
        else if (old && (rc = write_look(&w, old, &e)))
            break;
        else if (apply)
            rc = apply_once(q, &w, config, &dups, old, &o, &status, &e);
        else
            rc = patch_once(q, &w, ct, old, &o, &e);
        if (try_again(q, rc, i, old, &queue, &e)) {
            rc = 0;
            continue;
        }
        if (rc > 0) rc = lost_race(q, &e);
        break;
    }
    answer(q, &w, rc, status, o, &e);
}
