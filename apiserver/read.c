/* GET and LIST, from the watch cache. Semantics of resourceVersion and resourceVersionMatch as in
 * https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-versions: without one a read is consistent (it
 * waits for the store's current revision); "0" takes what there is; others are a minimum, or exact.
 *
 * A paged list is consistent: the continue token names the revision of its first page. While nothing of the resource
 * has changed since, further pages come from the cache; then from the store's history, until that is compacted (410). */
#include "apiserver/crd/convert.h"
#include "apiserver/handlers.h"
#include "apiserver/options.h"
#include "pkg/json/json.h"

enum {
    FRESH_TIMEOUT_MS = 3000,
    SHARED_LIST_MIN = 50, /* objects of a resource from which lists of it may be shared */
};

static int bad_rv(const char *rv, struct err *e) {
    return err_status(e, 400, "BadRequest", "Invalid value: \"%.60s\": invalid resource version", rv);
}

int read_wait(struct request *q, const char *rv, struct err *e) {
    int64_t rev;
    if (str_empty(rv)) return watchcache_sync(q->s->cache, e);
    if (str_to_i64(rv, &rev) || rev < 0) return bad_rv(rv, e);
    if (watchcache_wait(q->s->cache, rev, FRESH_TIMEOUT_MS) == 0) return 0;
    err_status(e, 504, "Timeout", "Too large resource version: %s, current: %lld", rv,
               (long long)watchcache_rev(q->s->cache));
    err_cause_add(e, "ResourceVersionTooLarge", "", "Too large resource version");
    if (e) e->retry_after_seconds = 1;
    return -ETIMEDOUT;
}

void handle_get(struct request *q) {
    _cleanup_err_ struct err e = {0};
    int rc = read_wait(q, http_query(q->http, "resourceVersion"), &e);
    if (rc && e.status == 400) err_status(&e, 500, "", "resourceVersion: %s", arena_strdup(q->a, e.msg));
    _cleanup_object_ struct object *o = rc ? NULL : watchcache_get(q->s->cache, q->res, q->ns, q->name);
    if (!rc && !o) rc = err_not_found(&e, q->res, q->name);
    if (rc)
        respond_err(q, &e);
    else
        respond_object(q, 200, o);
}

/* ---- lists ---- */

struct list_options {
    struct selector sel;
    int64_t limit, rev; /* rev: exact one, 0: what the cache has */
    const char *after;  /* key behind which to go on */
};

enum { ANY_REVISION = -1 };

static char *make_token(struct arena *a, int64_t rev, const char *key) {
    struct json *t = json_object(a);
    json_set_str(a, t, "v", "meta.k8s.io/v1");
    json_set_int(a, t, "rv", rev);
    json_set(a, t, "start", json_strf(a, "%s\xc0\x80", key)); /* the key after it: a NUL follows */
    const char *text = json_text(a, t);
    char *out = arena_alloc(a, strlen(text) * 2 + 8);
    size_t n = base64url_encode(text, strlen(text), out);
    out[n] = 0;
    return out;
}

static int read_token(struct arena *a, const char *token, struct list_options *o, struct err *e) {
    size_t n = strlen(token), len = 0;
    char *text = arena_alloc(a, n + 1), *plain = arena_strdup(a, token);
    struct json *t = NULL;
    while (n && plain[n - 1] == '=') plain[--n] = 0;
    if (base64url_decode(plain, n, text, &len) || json_parse(a, text, len, &t, NULL, NULL) ||
        !str_eq(json_get_str(t, "v"), "meta.k8s.io/v1") || json_get_int(t, "rv", 0) == 0 ||
        str_empty(json_get_str(t, "start")))
        return err_status(e, 400, "BadRequest", "continue key is not valid: %.100s", token);
    char *start = arena_strdup(a, json_get_str(t, "start"));
    size_t sl = strlen(start);
    if (sl > 2 && (unsigned char)start[sl - 2] == 0xc0) start[sl - 2] = 0;
    o->after = start;
    o->rev = MAX_OF(json_get_int(t, "rv", 0), 0); /* -1: whatever is there now */
    return 0;
}

static int list_parse(struct request *q, struct list_options *o, struct err *e) {
    const char *rv = http_query(q->http, "resourceVersion"), *match = http_query(q->http, "resourceVersionMatch");
    const char *token = http_query(q->http, "continue");
    int rc = options_check_list(q, e);
    if (!rc)
        rc = selector_parse(q->a, q->res, http_query(q->http, "labelSelector"), http_query(q->http, "fieldSelector"),
                            &o->sel, e);
    if (rc || (rc = request_query_int(q, "limit", 0, &o->limit, e))) return rc;
    if (o->limit < 0 || (str_eq(rv, "0") && !str_eq(match, "Exact"))) o->limit = 0; /* "0": all that the cache has */
    if (!str_empty(token)) {
        if (!str_empty(rv) && !str_eq(rv, "0"))
            return err_status(e, 400, "BadRequest", "specifying resource version is not allowed when using continue");
        return read_token(q->a, token, o, e);
    }
    rc = read_wait(q, rv, e);
    bool exact = str_eq(match, "Exact") || (str_empty(match) && o->limit > 0);
    if (!rc && exact && !str_empty(rv) && !str_eq(rv, "0") && str_to_i64(rv, &o->rev)) return bad_rv(rv, e);
    return rc;
}

/* With a token to go on all the same, from the same key at another revision. */
static int expired(struct request *q, const struct list_options *o, struct err *e) {
    if (!o->after) return err_status(e, 410, "Expired", "The resourceVersion for the provided list is too old.");
    q->inconsistent_token = make_token(q->a, ANY_REVISION, o->after);
    return err_status(e, 410, "Expired",
                      "The provided continue parameter is too old to display a consistent list result. You can start "
                      "a new list without the continue parameter, or use the continue token in this response to "
                      "retrieve the remainder of the results. Continuing with the provided token results in an "
                      "inconsistent list - objects that were created, modified, or deleted between the time the first "
                      "chunk was returned and now may show up in the list.");
}

/* A page of history. The selector is applied here, so several batches may be read for one page. */
static int list_from_store(struct request *q, const struct list_options *o, struct wc_list *out, struct err *e) {
    const struct resource *r = resource_stored(q->res);
    const char *prefix = q->ns ? arena_printf(q->a, "%s%s/", r->key_prefix, q->ns) : r->key_prefix;
    const char *from = o->after ? arena_printf(q->a, "%s%s%c", r->key_prefix, o->after, 1) : NULL;
    size_t cap = 0, skip = strlen(r->key_prefix);
    out->rev = o->rev;
    out->remaining = -1;
    for (;;) {
        struct store_list l;
        int rc = store_list(q->s->store, q->a, prefix, from, o->limit ? (size_t)o->limit + 1 : 0, o->rev, &l, e);
        if (rc == -ESTALE) return expired(q, o, e);
        if (rc) return rc;
        for (size_t i = 0; i < l.n; i++) {
            struct store_kv *kv = &l.items[i];
            from = arena_printf(q->a, "%s%c", kv->key, 1);
            struct object *x = object_new(r, kv->key + skip, kv->value, kv->value_len, kv->create_rev, kv->mod_rev);
            if (!x || !selector_match(&o->sel, x)) {
                object_unref(x);
                continue;
            }
            if (o->limit && out->n == (size_t)o->limit) {
                object_unref(x);
                out->more = true;
                return 0;
            }
            VEC_GROW(out->items, out->n, cap);
            out->items[out->n++] = x;
        }
        if (!l.more) return 0;
    }
}

/* Answers a whole list from the list cache, or puts it there. The revision is read first: the text is the state at
 * `changed`, and so that of every revision from there up to the one read. */
static bool list_shared(struct request *q, const struct list_options *o) {
    struct watchcache *w = q->s->cache;
    if (o->rev || o->limit || o->after || !selector_empty(&o->sel) || !respond_takes_body(q)) return false;
    if (watchcache_count(w, q->res) < SHARED_LIST_MIN) return false;
    int64_t rev = watchcache_rev(w), changed = watchcache_changed_rev(w, q->res);
    bool wanted;
    _cleanup_rbytes_ struct rbytes *body = listcache_get(q->s->lists, q->res, q->ns, changed, &wanted);
    if (!body && wanted) {
        _cleanup_wc_list_ struct wc_list l = {0};
        watchcache_list(w, q->res, q->ns, NULL, NULL, 0, &l);
        if (watchcache_changed_rev(w, q->res) != changed) return false;
        body = respond_list_text(q, &l);
        listcache_put(q->s->lists, q->res, q->ns, changed, body);
    }
    if (body) respond_list_body(q, MAX_OF(rev, changed), body);
    return body != NULL;
}

int select_converted(struct request *q, const struct selector *sel, size_t limit, struct wc_list *l, struct err *e) {
    size_t n = 0;
    int rc = crd_views(q->s, q->res, l->items, l->n, e);
    for (size_t i = 0; i < l->n && !rc; i++) {
        bool fits = selector_match(sel, l->items[i]);
        if (fits && limit && n >= limit) l->more = true;
        if (fits && !l->more)
            l->items[n++] = l->items[i];
        else
            object_unref(l->items[i]);
    }
    if (!rc) l->n = n;
    l->remaining = -1;
    return rc;
}

const char *list_token(struct request *q, const struct wc_list *l) {
    return l->more && l->n ? make_token(q->a, l->rev, l->items[l->n - 1]->key) : NULL;
}

void handle_list(struct request *q) {
    _cleanup_err_ struct err e = {0};
    _cleanup_wc_list_ struct wc_list l = {0};
    struct list_options o = {0}, asked;
    struct watchcache *w = q->s->cache;
    int rc = list_parse(q, &o, &e);
    bool late = !rc && q->res->converts && !selector_empty(&o.sel);
    asked = o;
    if (late) o.sel = (struct selector){0}, o.limit = 0;
    if (!rc && list_shared(q, &o)) return;
    if (!rc && o.after && o.rev && o.rev < atomic_load(&q->s->compacted_rev)) rc = expired(q, &o, &e);
    if (!rc && o.rev && (watchcache_wait(w, o.rev, 0) || watchcache_changed_rev(w, q->res) > o.rev)) {
        rc = list_from_store(q, &o, &l, &e);
    } else if (!rc) {
        watchcache_list(w, q->res, q->ns, &o.sel, o.after, (size_t)o.limit, &l);
        if (o.rev && watchcache_changed_rev(w, q->res) > o.rev) { /* it changed just now */
            wc_list_done(&l);
            rc = list_from_store(q, &o, &l, &e);
        } else if (o.rev) {
            l.rev = o.rev;
        }
    }
    if (!rc && late) rc = select_converted(q, &asked.sel, (size_t)asked.limit, &l, &e);
    if (rc) {
        respond_err(q, &e);
        return;
    }
    respond_list(q, &l, list_token(q, &l));
}
