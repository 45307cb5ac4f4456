/* The write pipeline and its compare-and-set. The order of steps is that of rules/strategy.h. */
#include "apiserver/write.h"

#include "apiserver/audit/audit.h"
#include "apiserver/convert.h"
#include "apiserver/crd/convert.h"
#include "apiserver/crd/registry.h"
#include "apiserver/metrics.h"
#include "pkg/base/map.h"
#include "pkg/store/seal.h"

/* ---- preparation ---- */

static void user_into(struct rules_ctx *c, const struct user_info *u) {
    c->user = u->name;
    c->groups = (const char *const *)u->groups;
    c->n_groups = u->n_groups;
}

/* rules_ctx.view: kinds with two served versions that name fields differently. */
static struct json *other_version(struct arena *a, void *arg, const char *api_version, const struct json *obj,
                                  const struct api_type **type) {
    const struct resource *const *pair = arg, *from = NULL, *to = NULL;
    const char *own = json_get_str(obj, "apiVersion");
    for (size_t i = 0; i < 2; i++) {
        const char *v = resource_api_version(a, pair[i]);
        if (str_eq(v, own)) from = pair[i];
        if (str_eq(v, api_version)) to = pair[i];
    }
    if (!from || !to || from == to) return NULL;
    *type = to->type;
    return convert_view(a, from, to, json_clone(a, obj));
}

/* The row that shows the objects of `stored` in another version, NULL when there is none. */
static const struct resource *sibling(struct apiserver *s, const struct resource *stored) {
    for (size_t i = 0; i < resource_table_len(s->resources); i++) {
        const struct resource *r = resource_table_at(s->resources, i);
        if (r->storage == stored) return r;
    }
    return NULL;
}

void write_init(struct write *w, struct apiserver *s, struct arena *a, struct request *q, const struct resource *res,
                const char *subresource, const char *ns, const char *name, enum rules_op op) {
    static const char *const masters[] = {"system:masters"};
    const struct resource *view = res->custom ? res : resource_stored(res);
    res = resource_stored(res);
    *w = (struct write){.s = s, .a = a, .res = res, .view = view};
    w->c = (struct rules_ctx){.rules = s->rules,
                              .a = a,
                              .type = res->type,
                              .group = res->group,
                              .version = view->version,
                              .kind = res->kind,
                              .resource = res->plural,
                              .subresource = subresource,
                              .namespaced = res->namespaced,
                              .ns = ns,
                              .name = name,
                              .op = op,
                              .user = "system:apiserver",
                              .groups = masters,
                              .n_groups = 1,
                              .field_manager = "kube-apiserver",
                              .now = ktime_now()};
    if (!res->custom && (w->versions[1] = sibling(s, res))) {
        w->versions[0] = res;
        w->c.view = other_version;
        w->c.view_arg = w->versions;
    }
    if (!q) return;
    user_into(&w->c, &q->user);
    w->c.who = &q->user;
    w->c.field_manager_param = http_query(q->http, "fieldManager");
    w->c.field_validation = http_query(q->http, "fieldValidation");
    w->c.request_group = q->res->group;
    w->c.request_version = q->res->version;
    crd_schema_into(q->schema, &w->c);
    w->c.field_manager = request_manager(q);
}

void write_warnings(const struct write *w, struct request *q) {
    for (size_t i = 0; i < w->c.n_warnings; i++) request_warn(q, "%s", w->c.warnings[i]);
    for (size_t i = 0; i < w->c.n_annotations; i++) {
        const struct rules_annotation *x = &w->c.annotations[i];
        if (!x->detail || audit_wants_request(q)) audit_annotate(q, x->key, x->value);
    }
}

struct object *write_current(struct apiserver *s, const struct resource *r, const char *ns, const char *name,
                             bool fresh) {
    struct object *o = fresh ? NULL : watchcache_get(s->cache, r, ns, name);
    if (o || watchcache_sync(s->cache, NULL)) return o;
    return watchcache_get(s->cache, r, ns, name);
}

struct json *write_to_stored(struct request *q, struct json *v) {
    return q->res->custom ? v : convert_view(q->a, q->res, resource_stored(q->res), v);
}

pthread_mutex_t *write_queue_enter(struct apiserver *s, const struct resource *r, const char *ns, const char *name) {
    uint32_t h = hash_bytes(name, strlen(name)) ^ (ns ? hash_bytes(ns, strlen(ns)) * 31 : 0) ^ r->index;
    pthread_mutex_t *m = &s->write_queues[h % WRITE_QUEUES];
    pthread_mutex_lock(m);
    return m;
}

int write_admit_body(struct request *q, enum rules_op op, const struct rules_kind *kind, const char *subresource,
                     bool dry_run, struct json *obj, const struct json *old, struct err *e) {
    struct write w;
    write_init(&w, q->s, q->a, q, q->res, subresource, q->ns, q->name, op);
    w.c.dry_run = dry_run;
    w.c.body_kind = kind;
    int rc = admission_extensions(&w.c, obj, old, e);
    write_warnings(&w, q);
    return rc;
}

/* ---- storing ---- */

static const char *object_key(struct write *w, const struct json *obj) {
    const struct json *m = json_get(obj, "metadata");
    const char *name = str_or_empty(json_get_str(m, "name"));
    if (!w->res->namespaced) return name;
    return arena_printf(w->a, "%s/%s", str_or_empty(json_get_str(m, "namespace")), name);
}

/* A custom resource as it is stored: members in alphabetical order, so that equal objects have
 * equal texts. */
static struct json *custom_stored(struct write *w, const struct resource *in, struct json *obj) {
    struct json *out = json_object(w->a);
    json_set_str(w->a, out, "apiVersion", resource_api_version(w->a, in));
    json_set_str(w->a, out, "kind", in->kind);
    const struct api_type *t = api_type_by_openapi("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    struct json *meta = json_get(obj, "metadata");
    if (t && meta) api_tree_normalise(w->a, t, meta, &meta, NULL, NULL); /* a patch may have changed its order */
    json_set(w->a, out, "metadata", meta);
    json_sort_keys(obj, false);
    JSON_FOREACH_MEMBER(m, obj) {
        if (json_get(out, m->key)) continue;
        json_sort_keys(m->value, true);
        json_set(w->a, out, m->key, m->value);
    }
    return out;
}

/* ---- what is kept byte for byte ----
 *
 * Upstream keeps the data of a ControllerRevision as the bytes that the client wrote, white space and all, and since they
 * are immutable, a patch (which writes them anew, compact) is refused unless they were compact. Clients see that, so it
 * is the same here: the stored text has those bytes. */

bool write_keeps_bytes(const struct write *w) {
    return str_eq(w->res->kind, "ControllerRevision") && str_eq(w->res->group, "apps");
}

/* The text of a member of the object that `p` holds; NULL when there is none. */
static const char *raw_member(struct arena *a, const char *p, size_t n, const char *key) {
    struct json_reader r;
    const char *raw = NULL;
    size_t len = 0;
    json_reader_init(&r, a, p, n);
    if (json_next(&r) != JTOK_OBJ_BEGIN) return NULL;
    while (json_next(&r) == JTOK_KEY) {
        bool wanted = r.len == strlen(key) && memcmp(r.str, key, r.len) == 0;
        if (!json_skip(&r, &raw, &len)) return NULL;
        if (wanted) return arena_strndup(a, raw, len);
    }
    return NULL;
}

void write_take_raw(struct write *w, struct request *q) {
    const char *ct = http_header(q->http, "content-type");
    if (write_keeps_bytes(w) && (str_empty(ct) || request_media_is(ct, "application/json")))
        w->raw = raw_member(w->a, q->http->body, q->http->body_len, "data");
}

static const char *stored_raw(struct write *w, const struct object *o) {
    const char *text = arena_printf(w->a, "{%.*s", (int)o->tail->len, o->tail->data);
    return raw_member(w->a, text, strlen(text), "data");
}

/* Has the bytes written instead of the value that they stand for, unless admission has made another of it. */
static void put_raw(struct write *w, struct json *obj) {
    struct json *said = NULL, *data = json_get(obj, "data");
    if (!data || json_parse(w->a, w->raw, strlen(w->raw), &said, NULL, NULL) || !json_equal(said, data)) return;
    struct json *raw = json_str(w->a, w->raw);
    raw->type = JSON_NUMBER; /* whose text is written as it is */
    json_set(w->a, obj, "data", raw);
}

/* Before an update is checked: the bytes as they are and as they will be. */
static void compare_raw(struct write *w, const struct json *obj, const struct object *old) {
    if (!write_keeps_bytes(w)) return;
    const struct json *data = json_get(obj, "data");
    w->c.raw_was = stored_raw(w, old);
    if (w->keep_raw) w->raw = w->c.raw_was;
    w->c.raw_now = w->raw ? w->raw : data ? json_text(w->a, data) : "";
}

/* The tree's canonical text as stored: without a resourceVersion. `in`: the row of the version that it is to be in. */
static int canonical(struct write *w, const struct resource *in, struct json *obj, const char **text, size_t *len,
                     struct err *e) {
    struct json *out = obj;
    json_del(json_get(obj, "metadata"), "resourceVersion");
    if (w->res->type) {
        int rc = api_tree_stored(w->a, w->res->type, obj, &out, e);
        if (rc) return err_status(e, 500, "InternalError", "encoding the object: %s", e ? e->msg : "");
    }
    if (w->res->custom) {
        if (in->converts && in != w->view) { /* the webhook takes and gives an object of its own */
            out = json_clone(w->a, obj);
            json_set_str(w->a, out, "apiVersion", resource_api_version(w->a, w->view));
            json_set_str(w->a, out, "kind", w->view->kind);
            int rc = crd_convert_tree(w->s, w->a, in, &out, e);
            if (rc) return rc;
        }
        out = custom_stored(w, in, out);
    }
    json_del(json_get(out, "metadata"), "resourceVersion");
    if (w->raw) put_raw(w, out);
    struct buf b = BUF_INIT;
    json_write(&b, out);
    *text = arena_memdup(w->a, str_or_empty(b.data), b.len + 1);
    *len = b.len;
    buf_done(&b);
    return 0;
}

/* One transaction: 0, WRITE_RETRY when the key's revision is another, or an error. */
static int store(struct write *w, enum store_op op, const char *key, const char *text, size_t len, int64_t expect,
                 int64_t *rev, struct err *e) {
    struct store_txn t = {.op = op,
                          .key = arena_printf(w->a, "%s%s", w->res->key_prefix, key),
                          .value = text,
                          .value_len = len,
                          .expect_rev = expect,
                          .lazy = w->s->embedded && (w->lazy || (w->res->flags & RES_LAZY)),
                          .cause = {w->c.user, w->cause_rev}};
    struct store_txn_result r = {0};
    int64_t began = mono_ns();
    int rc = store_txn(w->s->store, w->a, &t, &r, e);
    enum metrics_store_op kind = op == STORE_DELETE ? METRICS_DELETE : expect ? METRICS_UPDATE : METRICS_CREATE;
    metrics_store(w->s->metrics, w->res, kind, began, rc != 0);
    if (rc) return rc;
    *rev = r.rev;
    return r.succeeded ? 0 : WRITE_RETRY;
}

/* The object as written. Usually the cache has it already: the embedded store tells its watches before it answers. */
static int make_object(struct write *w, const struct resource *in, const char *key, const char *text, size_t len,
                       int64_t create_rev, int64_t rev, struct object **out, struct err *e) {
    if (!w->c.dry_run && !in->custom && (*out = watchcache_at(w->s->cache, in, key, rev))) return 0;
    *out = object_new(in, key, text, len, create_rev ? create_rev : rev, rev);
    return *out ? 0 : err_status(e, 500, "InternalError", "the object could not be encoded");
}

/* ---- create ---- */

/* The same owner twice counts once. */
static void dedup_owners(struct write *w, struct json *obj) {
    struct json *list = json_at(obj, "metadata", "ownerReferences", NULL);
    const char *uids = NULL;
    for (size_t i = 1; i < json_len(list); i++) {
        size_t j = 0;
        while (j < i && !json_equal(json_item(list, j), json_item(list, i))) j++;
        if (j == i) continue;
        const char *uid = str_or_empty(json_get_str(json_item(list, i), "uid"));
        uids = uids ? arena_printf(w->a, "%s, %s", uids, uid) : uid;
        json_del_at(list, i--);
    }
    if (uids)
        rules_warn(
            &w->c,
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may "
            "reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %s",
            uids);
}

static int create_checks(struct write *w, struct json *obj, bool managed, struct err *e) {
    static const char *const wiped[] = {"creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds",
                                        "selfLink"}; /* only the server says them */
    for (size_t i = 0; managed && i < ARRAY_LEN(wiped); i++) json_del(json_get(obj, "metadata"), wiped[i]);
    dedup_owners(w, obj);
    if (managed) managed_fields_update(&w->c, obj, NULL); /* what the client set, not what follows */
    int rc = rules_prepare_create(&w->c, obj, e);
    if (rc) return rc;
    if ((rc = admission_mutate(&w->c, obj, NULL, e))) return rc;
    if ((rc = rules_validate_create(&w->c, obj, e))) return rc;
    return admission_validate(&w->c, obj, NULL, e);
}

int write_create(struct write *w, struct json *obj, bool managed, struct object **out, struct err *e) {
    const char *text = NULL, *key = NULL;
    size_t len = 0;
    int64_t rev = 0;
    rules_default(&w->c, obj);
    int rc = create_checks(w, obj, managed, e);
    _cleanup_write_queue_ pthread_mutex_t *turn = NULL;
    if (!rc) rc = quota_enter(w, obj, NULL, &turn, e);
    if (!rc && w->c.sent_revision && !w->c.dry_run) /* whoever may not create it at all is told that first */
        rc = err_status(e, 500, "", "resourceVersion should not be set on objects to be created");
    if (!rc && w->c.dry_run) /* shows what the client sent */
        str_to_i64(str_or_empty(json_as_str(json_at(obj, "metadata", "resourceVersion", NULL))), &rev);
    if (!rc) rc = canonical(w, w->res, obj, &text, &len, e);
    if (!rc) {
        key = object_key(w, obj);
        const char *name = str_or_empty(json_as_str(json_at(obj, "metadata", "name", NULL)));
        if (!w->c.dry_run) {
            rc = store(w, STORE_PUT, key, text, len, 0, &rev, e);
        } else {
            _cleanup_object_ struct object *there =
                write_current(w->s, w->res, json_as_str(json_at(obj, "metadata", "namespace", NULL)), name, true);
            if (there) rc = WRITE_RETRY;
        }
        if (rc == WRITE_RETRY) rc = err_already_exists(e, w->res, name);
    }
    if (!rc) rc = make_object(w, w->res, key, text, len, rev, rev, out, e);
    if (rc || w->c.dry_run) rules_release(&w->c);
    return rc;
}

/* ---- update ---- */

static int update_checks(struct write *w, struct json *obj, const struct json *old, bool managed, struct err *e) {
    dedup_owners(w, obj);
    if (managed) managed_fields_update(&w->c, obj, old);
    int rc = rules_prepare_update(&w->c, obj, old, e);
    if (rc) return rc;
    if ((rc = admission_mutate(&w->c, obj, old, e))) return rc;
    if ((rc = rules_validate_update(&w->c, obj, old, e))) return rc;
    return admission_validate(&w->c, obj, old, e);
}

int write_look(struct write *w, const struct object *o, struct err *e) {
    if (w->tree_of == o || !crd_must_convert(w->view, o)) return 0;
    _cleanup_object_ struct object *view = NULL;
    int rc = crd_view(w->s, w->view, (struct object *)o, &view, e);
    if (rc) return rc;
    w->tree = object_tree(w->a, view);
    w->tree_of = o;
    return 0;
}

struct json *write_tree(struct write *w, const struct object *o) {
    if (w->tree_of != o) {
        w->tree = object_tree(w->a, o);
        w->tree_of = o;
        if (w->tree && w->view != o->res && w->view->custom)
            json_set_str(w->a, w->tree, "apiVersion", resource_api_version(w->a, w->view));
    }
    return w->tree;
}

/* Whether the text to be stored says what is stored. Usually both differ in nothing but the old one's resourceVersion,
 * whose place is found by its text. */
static bool same_text(struct write *w, const struct object *old, const char *text, size_t len) {
    char rv[48];
    if (w->res->custom && !str_eq(object_version(old), w->res->version)) return false;
    size_t n_rv = (size_t)snprintf(rv, sizeof(rv), ",\"resourceVersion\":\"%lld\"", (long long)old->rev);
    const struct rbytes *head = old->res->pieces->head, *tail = old->tail;
    const char *at = memmem(tail->data, tail->len, rv, n_rv);
    if (at && len > head->len && memcmp(text, head->data, head->len) == 0) {
        size_t before = (size_t)(at - tail->data), after = tail->len - before - n_rv;
        text += head->len;
        return len - head->len == before + after && memcmp(text, tail->data, before) == 0 &&
               memcmp(text + before, at + n_rv, after) == 0;
    }
    struct object *n = object_new(w->res, old->key, text, len, old->create_rev, old->rev);
    bool same = n && n->tail->len == old->tail->len && memcmp(n->tail->data, old->tail->data, n->tail->len) == 0;
    object_unref(n);
    return same;
}

/* Stored by a key that is no longer the first, say: then it is written again though nothing changes. */
static bool stale(struct write *w, const struct object *old) {
    return w->s->encryption && !w->c.dry_run &&
           store_stale(w->s->store, arena_printf(w->a, "%s%s", w->res->key_prefix, old->key));
}

static struct json *without_heartbeat(struct arena *a, const struct json *node) {
    struct json *n = json_clone(a, node), *meta = json_get(n, "metadata");
    struct json *conditions = json_get(json_get(n, "status"), "conditions");
    json_del(meta, "managedFields");
    json_del(meta, "resourceVersion");
    for (size_t i = 0; i < json_len(conditions); i++) json_del(json_item(conditions, i), "lastHeartbeatTime");
    return n;
}

/* A kubelet's report that all is as it was: like a Lease's renewal it need not wear the disk. */
static bool heartbeat_only(struct write *w, const struct json *obj, const struct json *before) {
    return w->s->embedded && str_eq(w->c.subresource, "status") && str_eq(w->res->plural, "nodes") && !*w->res->group &&
           json_equal(without_heartbeat(w->a, obj), without_heartbeat(w->a, before));
}

int write_update(struct write *w, struct json *obj, const struct object *old, bool managed, struct object **out,
                 bool *deleted, struct err *e) {
    const char *text = NULL;
    size_t len = 0;
    int64_t rev = old->rev;
    struct json *before = write_tree(w, old);
    *deleted = false;
    compare_raw(w, obj, old);
    rules_default(&w->c, obj);
    int rc = update_checks(w, obj, before, managed, e);
    _cleanup_write_queue_ pthread_mutex_t *turn = NULL;
    if (!rc) rc = quota_enter(w, obj, before, &turn, e);
    if (!rc) rc = canonical(w, w->res, obj, &text, &len, e);
    if (!rc && (!same_text(w, old, text, len) || stale(w, old))) {
        *deleted = rules_update_deletes(&w->c, obj);
        w->lazy = !*deleted && (w->lazy || heartbeat_only(w, obj, before));
        if (!w->c.dry_run) {
            rc = *deleted ? store(w, STORE_DELETE, old->key, NULL, 0, old->rev, &rev, e)
                          : store(w, STORE_PUT, old->key, text, len, old->rev, &rev, e);
            if (!rc) rules_stored(&w->c, before, *deleted ? NULL : obj);
        }
        if (!rc) rc = make_object(w, w->res, old->key, text, len, old->create_rev, rev, out, e);
    } else if (!rc) { /* nothing to store, provided that `old` is what is stored */
        _cleanup_object_ struct object *now =
            write_current(w->s, w->res, json_as_str(json_at(before, "metadata", "namespace", NULL)),
                          str_or_empty(json_as_str(json_at(before, "metadata", "name", NULL))), true);
        if (!now || now->rev != old->rev)
            rc = WRITE_RETRY;
        else
            *out = object_ref((struct object *)old);
    }
    if (rc || w->c.dry_run) rules_release(&w->c);
    return rc;
}

/* ---- delete ---- */

static int check_preconditions(struct write *w, const struct delete_request *d, const struct json *obj, struct err *e) {
    const struct json *m = json_get(obj, "metadata");
    const char *name = str_or_empty(json_get_str(m, "name")), *uid = json_get_str(m, "uid"),
               *rv = json_get_str(m, "resourceVersion");
    int rc = 0;
    if (d->uid && !str_eq(d->uid, uid))
        rc = err_status(
            e, 409, "Conflict",
            "Operation cannot be fulfilled on %s \"%s\": the UID in the precondition (%s) does not match the "
            "UID in record (%s). The object might have been deleted and then recreated",
            w->res->kind, name, d->uid, str_or_empty(uid));
    else if (d->rv && !str_eq(d->rv, rv))
        rc = err_status(
            e, 409, "Conflict",
            "Operation cannot be fulfilled on %s \"%s\": the ResourceVersion in the precondition (%s) does not "
            "match the ResourceVersion in record (%s). The object might have been modified",
            w->res->kind, name, d->rv, str_or_empty(rv));
    bool plural = str_eq(w->res->plural, "namespaces") || str_eq(w->res->plural, "customresourcedefinitions");
    if (rc) err_details(e, w->res->group, plural ? w->res->plural : w->res->kind, name);
    return rc;
}

int write_preconditions(struct write *w, const struct delete_request *d, const struct object *old, struct err *e) {
    return check_preconditions(w, d, write_tree(w, old), e);
}

int write_delete(struct write *w, const struct delete_request *d, const struct object *old, struct object **out,
                 bool *gone, struct err *e) {
    struct json *before = write_tree(w, old), *obj = json_clone(w->a, before);
    if (write_keeps_bytes(w)) w->raw = stored_raw(w, old);
    int64_t rev = old->rev;
    const char *text;
    size_t len;
    *gone = false;
    int rc = check_preconditions(w, d, before, e);
    if (!rc) rc = admission_validate(&w->c, NULL, before, e);
    if (rc) return rc;
    enum rules_delete what = rules_prepare_delete(&w->c, obj, &d->o);
    if (what == RULES_DELETE_NOTHING) { /* nothing to store, provided that `old` is what is stored */
        _cleanup_object_ struct object *now = write_current(w->s, w->res, w->c.ns, w->c.name, true);
        if (!now || now->rev != old->rev) return WRITE_RETRY;
        *out = object_ref((struct object *)old);
        return 0;
    }
    *gone = what == RULES_DELETE_NOW;
    const struct resource *in = *gone ? w->view : w->res; /* what goes need not be as it is stored */
    if ((rc = canonical(w, in, obj, &text, &len, e))) return rc;
    if (!w->c.dry_run) {
        rc = *gone ? store(w, STORE_DELETE, old->key, NULL, 0, old->rev, &rev, e)
                   : store(w, STORE_PUT, old->key, text, len, old->rev, &rev, e);
        if (!rc && *gone) rules_stored(&w->c, before, NULL);
    }
    return rc ? rc : make_object(w, in, old->key, text, len, old->create_rev, rev, out, e);
}

/* ---- raw ---- */

int write_raw(struct write *w, struct json *obj, const struct object *old, struct object **out, struct err *e) {
    const char *text;
    size_t len;
    int64_t rev = old->rev;
    int rc = canonical(w, w->res, obj, &text, &len, e);
    if (!rc && !w->c.dry_run) rc = store(w, STORE_PUT, old->key, text, len, old->rev, &rev, e);
    return rc ? rc : make_object(w, w->res, old->key, text, len, old->create_rev, rev, out, e);
}
