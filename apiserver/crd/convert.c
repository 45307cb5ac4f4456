#include "apiserver/crd/convert.h"

#include "apiserver/crd/registry.h"
#include "apiserver/rules/crd_schema.h"
#include "apiserver/rules/hook_client.h"

/* ---- the review ---- */

static const char *gvk_of(struct arena *a, const struct json *v) {
    return arena_printf(a, "%s, Kind=%s", jstr(v, "apiVersion"), jstr(v, "kind"));
}

static struct json *review_of(struct arena *a, const char *version, const char *uid, const char *desired,
                              struct json *const *trees, size_t n) {
    struct json *top = json_object(a), *r = json_object(a), *objects = json_array(a);
    json_set_str(a, top, "kind", "ConversionReview");
    json_set_str(a, top, "apiVersion", arena_printf(a, "apiextensions.k8s.io/%s", version));
    json_set_str(a, r, "uid", uid);
    json_set_str(a, r, "desiredAPIVersion", desired);
    for (size_t i = 0; i < n; i++) json_append(a, objects, trees[i]);
    json_set(a, r, "objects", objects);
    json_set(a, top, "request", r);
    return top;
}

/* The response of the webhook, when it says that all went well. */
static int check_answer(const struct json *answer, const char *version, const char *uid, const struct json **objects,
                        struct err *e) {
    const struct json *resp = json_get(answer, "response"), *result = json_get(resp, "result");
    const char *api = jstr(answer, "apiVersion"), *kind = jstr(answer, "kind"), *slash = strchr(api, '/');
    if (str_eq(version, "v1") && (!str_eq(api, "apiextensions.k8s.io/v1") || !str_eq(kind, "ConversionReview")))
        return err_set(e, -EPROTO,
                       "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got %s%s, Kind=%s",
                       slash ? "" : "/", api, kind);
    if (!json_is(resp, JSON_OBJECT)) return err_set(e, -EPROTO, "no response provided");
    if (str_eq(version, "v1") && !str_eq(jstr(resp, "uid"), uid))
        return err_set(e, -EPROTO, "expected response.uid=\"%s\", got \"%s\"", uid, jstr(resp, "uid"));
    if (!str_eq(jstr(result, "status"), "Success")) {
        if (*jstr(result, "message")) return err_set(e, -EPROTO, "%s", jstr(result, "message"));
        return err_set(e, -EPROTO, "response.result.status was '%s', not 'Success'", jstr(result, "status"));
    }
    *objects = json_get(resp, "convertedObjects");
    return 0;
}

/* ---- what came back ---- */

static int restore_strings(struct arena *a, struct json *meta, const struct json *got, const char *key, struct err *e) {
    const struct json *now = jget(got, key);
    if (!now) {
        json_del(meta, key);
        return 0;
    }
    if (!json_is(now, JSON_OBJECT))
        return err_set(e, -EPROTO, "invalid metadata.%s of type %s in converted object", key,
                       json_is(now, JSON_ARRAY) ? "[]interface {}" : "string");
    JSON_FOREACH_MEMBER(m, now)
        if (!json_is(m->value, JSON_STRING))
            return err_set(e, -EPROTO, "metadata.%s[%s] must be a string", key, m->key);
    struct vctx v = {.a = a};
    if (str_eq(key, "labels"))
        v_labels(&v, FP(FP(NULL, "metadata"), key), now);
    else
        v_annotations(&v, FP(FP(NULL, "metadata"), key), now);
    if (v.n && !json_equal(now, json_get(meta, key)))
        return err_set(e, -EPROTO, "%s: %s", v.items[0].field, v.items[0].message);
    json_set(a, meta, key, json_clone(a, now));
    return 0;
}

/* The metadata of what was sent, with the labels and annotations of what came back. */
static int restore_meta(struct arena *a, const struct json *in, struct json *out, struct err *e) {
    const struct json *got = json_get(out, "metadata");
    if (!got) return err_set(e, -EPROTO, "missing metadata in converted object");
    if (!json_is(got, JSON_OBJECT)) return err_set(e, -EPROTO, "invalid metadata of type string in converted object");
    struct json *meta = json_clone(a, json_get(in, "metadata"));
    int rc = restore_strings(a, meta, got, "labels", e);
    if (!rc) rc = restore_strings(a, meta, got, "annotations", e);
    if (!rc) json_set(a, out, "metadata", meta);
    return rc;
}

static int check_object(const struct json *in, const struct json *out, const char *desired, struct err *e) {
    static const struct {
        const char *key, *name;
    } kept[] = {{"name", "name"}, {"namespace", "namespace"}, {"uid", "UID"}};
    const struct json *was = json_get(in, "metadata"), *is = json_get(out, "metadata");
    if (!str_eq(jstr(out, "apiVersion"), desired))
        return err_set(e, -EPROTO, "invalid groupVersion (expected %s, received %s)", desired, jstr(out, "apiVersion"));
    if (!str_eq(jstr(out, "kind"), jstr(in, "kind")))
        return err_set(e, -EPROTO, "invalid kind (expected %s, received %s)", jstr(in, "kind"), jstr(out, "kind"));
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        if (!str_eq(jstr(was, kept[i].key), jstr(is, kept[i].key)))
            return err_set(e, -EPROTO, "must have the same %s: %s != %s", kept[i].name, jstr(was, kept[i].key),
                           jstr(is, kept[i].key));
    return 0;
}

/* Checks, restores, prunes and defaults one object. */
static int accept_object(struct apiserver *s, struct arena *a, const struct resource *to,
                         const struct crd_schema *schema, const struct json *in, struct json *out, struct err *e) {
    if (!json_is(out, JSON_OBJECT)) return err_set(e, -EPROTO, "not an object");
    int rc = check_object(in, out, resource_api_version(a, to), e);
    if (!rc) rc = restore_meta(a, in, out, e);
    if (rc || !schema) return rc;
    struct rules_ctx c = {.rules = s->rules, .a = a, .group = to->group, .version = to->version, .kind = to->kind};
    crd_schema_into(schema, &c);
    rc = crd_normalise(&c, out, NULL, e);
    if (!rc) crd_default(&c, out);
    return rc;
}

static const char *review_version(const struct json *hook) {
    const struct json *it;
    JSON_FOREACH(it, json_get(hook, "conversionReviewVersions"))
        if (str_in(str_or_empty(json_as_str(it)), ONE_OF("v1", "v1beta1"))) return json_as_str(it);
    return NULL;
}

/* Converts all trees, which are in other versions than `to`. */
static int convert(struct apiserver *s, struct arena *a, const struct resource *to, struct json **trees, size_t n,
                   struct err *e) {
    _cleanup_err_ struct err why = {0};
    _cleanup_crd_schema_ struct crd_schema *schema = crd_schema_of_row(s, to);
    const struct json *crd = crd_tree(s, a, crd_name_of(a, to)), *objects = NULL;
    const struct json *hook = json_at(crd, "spec", "conversion", "webhook", NULL);
    const char *version = review_version(hook), *desired = resource_api_version(a, to), *gvk = gvk_of(a, trees[0]);
    struct json *answer = NULL;
    char uid[37];
    uuid_new(uid);
    if (!hook || !version) return err_status(e, 500, "InternalError", "no supported conversion review versions");
    struct hook_request q = {.client_config = json_get(hook, "clientConfig"),
                             .body = review_of(a, version, uid, desired, trees, n),
                             .seconds = 30};
    int rc = hook_call(s->rules, a, &q, &answer, &why);
    if (!rc) rc = check_answer(answer, version, uid, &objects, &why);
    if (rc) return err_status(e, 500, "InternalError", "conversion webhook for %s failed: %s", gvk, why.msg);
    if (json_len(objects) != n)
        return err_status(e, 500, "InternalError", "conversion webhook for %s returned %zu objects, expected %zu", gvk,
                          json_len(objects), n);
    for (size_t i = 0; i < n; i++) {
        struct json *out = json_item(objects, i);
        if (accept_object(s, a, to, schema, trees[i], out, &why))
            return err_status(e, 500, "InternalError",
                              "conversion webhook for %s returned invalid object at index %zu: %s", gvk, i, why.msg);
        trees[i] = out;
    }
    return 0;
}

int crd_convert_tree(struct apiserver *s, struct arena *a, const struct resource *to, struct json **v, struct err *e) {
    if (!to->converts || str_eq(json_get_str(*v, "apiVersion"), resource_api_version(a, to))) return 0;
    return convert(s, a, to, v, 1, e);
}

/* ---- views ---- */

static struct object *find_view(const struct resource *to, const struct object *o, int64_t spec_rev) {
    for (struct object_view *v = atomic_load(&((struct object *)o)->views); v; v = v->next)
        if (v->spec_rev == spec_rev && str_eq(v->o->res->version, to->version)) return object_ref(v->o);
    return NULL;
}

static void keep_view(struct object *o, struct object *view, int64_t spec_rev) {
    size_t n = 0;
    for (struct object_view *v = atomic_load(&o->views); v; v = v->next) n++;
    if (n >= VIEWS_MAX) return;
    struct object_view *x = xcalloc(1, sizeof(*x));
    x->o = object_ref(view);
    x->spec_rev = spec_rev;
    x->next = atomic_load(&o->views);
    while (!atomic_compare_exchange_weak(&o->views, &x->next, x)) {
    }
}

/* Selectors number the fields as the stored row does, so a view is scanned by that one. */
static struct object *make_view(const struct resource *to, const struct object *o, const struct json *tree) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    json_write(&b, tree);
    struct object *view = object_new(resource_stored(to), o->key, b.data, b.len, o->create_rev, o->rev);
    if (!view) return NULL;
    view->res = to;
    view->version = 0;
    return view;
}

struct object *crd_view_known(struct apiserver *s, const struct resource *to, struct object *o) {
    if (!crd_must_convert(to, o)) return object_ref(o);
    return find_view(to, o, crd_revision(s, to));
}

static struct json *tree_of(struct arena *a, const struct object *o) {
    struct json *v = object_tree(a, o);
    if (v) json_set_str(a, v, "apiVersion", arena_printf(a, "%s/%s", o->res->group, object_version(o)));
    return v;
}

/* Some objects, at most a batch. */
static int view_batch(struct apiserver *s, const struct resource *to, struct object **items, const size_t *at, size_t n,
                      int64_t spec_rev, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json **trees = arena_alloc(a, n * sizeof(*trees));
    for (size_t i = 0; i < n; i++)
        if (!(trees[i] = tree_of(a, items[at[i]])))
            return err_status(e, 500, "InternalError", "a stored object cannot be read");
    int rc = convert(s, a, to, trees, n, e);
    for (size_t i = 0; i < n && !rc; i++) {
        struct object *o = items[at[i]], *view = make_view(to, o, trees[i]);
        if (!view) return err_status(e, 500, "InternalError", "a converted object cannot be encoded");
        keep_view(o, view, spec_rev);
        items[at[i]] = view;
        object_unref(o);
    }
    return rc;
}

int crd_views(struct apiserver *s, const struct resource *to, struct object **items, size_t n, struct err *e) {
    size_t at[CONVERT_BATCH_MAX], m = 0;
    int64_t spec_rev = to->converts ? crd_revision(s, to) : 0;
    int rc = 0;
    for (size_t i = 0; i < n && !rc && to->converts; i++) {
        if (!crd_must_convert(to, items[i])) continue;
        struct object *known = find_view(to, items[i], spec_rev);
        if (known) {
            object_unref(items[i]);
            items[i] = known;
            continue;
        }
        at[m++] = i;
        if (m < CONVERT_BATCH_MAX) continue;
        rc = view_batch(s, to, items, at, m, spec_rev, e);
        m = 0;
    }
    return rc || !m ? rc : view_batch(s, to, items, at, m, spec_rev, e);
}

int crd_view(struct apiserver *s, const struct resource *to, struct object *o, struct object **out, struct err *e) {
    struct object *one = object_ref(o);
    int rc = crd_views(s, to, &one, 1, e);
    if (rc)
        object_unref(one);
    else
        *out = one;
    return rc;
}
