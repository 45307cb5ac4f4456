/* JSON Patch and JSON Merge Patch on arena trees.
 *
 * The document is cloned once and changed in place; a patch that fails half way just leaves the clone to the
 * arena. Pointers (RFC 6901) are resolved to the parent container and the last token, since every operation
 * but the document-wide ones works on a (parent, token) pair. Copies are bounded: a chain of `copy`
 * operations could otherwise double the document with each.
 *
 * Where the RFC and the library that Kubernetes uses differ, this is the library: a missing member can be replaced and
 * tested against null, what is copied from one is null, an absent value is null, array indices may count from the end
 * (-1), and what stands before the first slash of a pointer does not matter. */
#include "pkg/json/patch.h"

enum { POINTER_MAX_DEPTH = 512 };

struct target {
    struct json *parent; /* NULL: the whole document */
    const char *token;
};

static char *unescape(struct arena *a, const char *s, size_t n) {
    char *out = arena_alloc(a, n + 1), *o = out;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '~' && i + 1 < n && (s[i + 1] == '0' || s[i + 1] == '1')) {
            *o++ = s[++i] == '0' ? '~' : '/';
        } else {
            *o++ = s[i];
        }
    }
    *o = '\0';
    return out;
}

/* An array index: a whole number, counted from the end (of an array of n elements) when negative. -1 when it is none. */
static int64_t index_of(const char *tok, size_t n) {
    bool minus = *tok == '-';
    int64_t v = 0;
    if (minus || *tok == '+') tok++;
    if (!*tok) return -1;
    for (const char *p = tok; *p; p++) {
        if (*p < '0' || *p > '9' || v > INT32_MAX / 10) return -1;
        v = v * 10 + (*p - '0');
    }
    return minus ? MAX_OF((int64_t)n - v, (int64_t)-1) : v;
}

static struct json *child(struct json *v, const char *tok) {
    if (json_is(v, JSON_OBJECT)) return json_get(v, tok);
    if (json_is(v, JSON_ARRAY)) {
        int64_t i = index_of(tok, json_len(v));
        return i >= 0 ? json_item(v, (size_t)i) : NULL;
    }
    return NULL;
}

static int resolve(struct arena *a, struct json *doc, const char *ptr, struct target *t, struct err *e) {
    const char *start = strchr(ptr, '/');
    *t = (struct target){0};
    if (!*ptr) return 0;
    if (!start) return err_set(e, -EINVAL, "JSON pointer \"%s\" has no /", ptr);
    struct json *at = doc;
    unsigned depth = 0;
    for (const char *p = start + 1;;) {
        const char *end = strchrnul(p, '/');
        char *tok = unescape(a, p, (size_t)(end - p));
        if (++depth > POINTER_MAX_DEPTH) return err_set(e, -EINVAL, "JSON pointer is too deep");
        if (!*end) {
            if (!json_is(at, JSON_OBJECT) && !json_is(at, JSON_ARRAY))
                return err_set(e, -ENOENT, "no value at the parent of \"%s\"", ptr);
            *t = (struct target){at, tok};
            return 0;
        }
        at = child(at, tok);
        if (!at) return err_set(e, -ENOENT, "no value at \"%s\"", ptr);
        p = end + 1;
    }
}

static struct json *fetch(struct json *doc, const struct target *t) {
    return t->parent ? child(t->parent, t->token) : doc;
}

static int put(struct arena *a, const struct target *t, struct json *v, const char *ptr, struct err *e) {
    if (json_is(t->parent, JSON_OBJECT)) {
        json_set(a, t->parent, t->token, v);
        return 0;
    }
    if (str_eq(t->token, "-")) {
        json_append(a, t->parent, v);
        return 0;
    }
    int64_t i = index_of(t->token, json_len(t->parent) + 1);
    if (i < 0 || (size_t)i > json_len(t->parent)) return err_set(e, -ENOENT, "no place at \"%s\"", ptr);
    json_insert(a, t->parent, (size_t)i, v);
    return 0;
}

static int drop(const struct target *t, const char *ptr, struct err *e) {
    bool ok = false;
    if (json_is(t->parent, JSON_OBJECT)) {
        ok = json_del(t->parent, t->token);
    } else if (t->parent) {
        int64_t i = index_of(t->token, json_len(t->parent));
        ok = i >= 0 && json_del_at(t->parent, (size_t)i);
    }
    return ok ? 0 : err_set(e, -ENOENT, "nothing to remove at \"%s\"", ptr);
}

static int replace(struct arena *a, struct json **doc, const struct target *t, struct json *v, const char *ptr,
                   struct err *e) {
    if (!t->parent) {
        if (!json_is(v, JSON_OBJECT) && !json_is(v, JSON_ARRAY))
            return err_set(e, -EINVAL, "a document is replaced by an object or an array");
        *doc = v;
        return 0;
    }
    if (json_is(t->parent, JSON_OBJECT)) {
        json_set(a, t->parent, t->token, v);
        return 0;
    }
    int64_t i = index_of(t->token, json_len(t->parent));
    if (i < 0 || (size_t)i >= json_len(t->parent)) return err_set(e, -ENOENT, "nothing to replace at \"%s\"", ptr);
    t->parent->items[i] = v;
    return 0;
}

/* Number of nodes and string bytes below a value, to bound copies. */
static size_t weight(const struct json *v) {
    size_t n = 16;
    if (v->type == JSON_STRING || v->type == JSON_NUMBER) return n + v->n;
    if (v->type == JSON_ARRAY)
        for (uint32_t i = 0; i < v->n; i++) n += weight(v->items[i]);
    if (v->type == JSON_OBJECT)
        for (uint32_t i = 0; i < v->n; i++) n += strlen(v->members[i].key) + weight(v->members[i].value);
    return n;
}

static int take_from(struct arena *a, struct json **doc, const char *from, bool move, size_t *copied,
                     struct json **value, struct err *e) {
    struct target t;
    int r = resolve(a, *doc, from, &t, e);
    if (r < 0) return r;
    struct json *v = t.parent ? fetch(*doc, &t) : NULL;
    if (!t.parent || (!v && (move || json_is(t.parent, JSON_ARRAY))))
        return err_set(e, -ENOENT, "no value at \"%s\"", from);
    *value = v ? v : json_null(a);
    if (move) return drop(&t, from, e);
    *copied += weight(*value);
    if (*copied > JSON_PATCH_MAX_COPIED) return err_set(e, -E2BIG, "the patch copies too much data");
    *value = json_clone(a, *value);
    return 0;
}

/* As json_equal, but numbers are their text: 1.0 is not 1 (upstream compares what stands in the documents). */
static bool same_text(const struct json *x, const struct json *y) {
    if (!x || !y || x->type != y->type) return false;
    if (x->type == JSON_NUMBER) return strcmp(x->str, y->str) == 0;
    if (x->type != JSON_ARRAY && x->type != JSON_OBJECT) return json_equal(x, y);
    if (x->n != y->n) return false;
    for (uint32_t i = 0; i < x->n; i++) {
        bool list = x->type == JSON_ARRAY;
        const struct json *a = list ? x->items[i] : x->members[i].value;
        if (!same_text(a, list ? y->items[i] : json_get(y, x->members[i].key))) return false;
    }
    return true;
}

static int test(struct json *doc, const struct target *t, const struct json *value, const char *ptr, struct err *e) {
    struct json *have = fetch(doc, t);
    bool none = value->type == JSON_NULL, absent = !have || have->type == JSON_NULL;
    if (!have && json_is(t->parent, JSON_ARRAY)) return err_set(e, -ENOENT, "no value at \"%s\"", ptr);
    if (absent ? none : same_text(have, value)) return 0;
    return err_set(e, -ENOENT, "testing value \"%s\" failed", ptr);
}

static int apply_one(struct arena *a, struct json **doc, const struct json *op, size_t *copied, struct err *e) {
    const char *name = str_or_empty(json_get_str(op, "op")), *path = json_get_str(op, "path");
    struct json *value = json_get(op, "value");
    bool copy = str_eq(name, "copy"), move = str_eq(name, "move"), add = str_eq(name, "add");
    int r = 0;
    if (copy || move) {
        const char *from = json_get_str(op, "from");
        r = from ? take_from(a, doc, from, move, copied, &value, e) : err_set(e, -EINVAL, "%s needs from", name);
    } else {
        value = value ? json_clone(a, value) : json_null(a);
    }
    struct target t;
    if (!r && !path) r = err_set(e, -EINVAL, "%s operation needs a path", name);
    if (!r) r = resolve(a, *doc, path, &t, e);
    if (r) return r;
    if (str_eq(name, "replace")) return replace(a, doc, &t, value, path, e);
    if (str_eq(name, "test")) return test(*doc, &t, value, path, e);
    if (!t.parent) return err_set(e, -EINVAL, "%s does not work on the whole document", name);
    if (copy || move || add) return put(a, &t, value, path, e);
    if (str_eq(name, "remove")) return drop(&t, path, e);
    return err_set(e, -EINVAL, "unknown JSON patch operation \"%s\"", name);
}

int json_patch(struct arena *a, const struct json *doc, const struct json *patch, struct json **out, struct err *e) {
    if (!json_is(patch, JSON_ARRAY)) return err_set(e, -EINVAL, "a JSON patch is an array of operations");
    if (json_len(patch) > JSON_PATCH_MAX_OPS)
        return err_set(e, -E2BIG, "the allowed maximum operations in a JSON patch is %d, got %zu", JSON_PATCH_MAX_OPS,
                       json_len(patch));
    struct json *work = json_clone(a, doc), *op;
    size_t copied = 0;
    JSON_FOREACH(op, patch) {
        int r = apply_one(a, &work, op, &copied, e);
        if (r < 0) return r;
    }
    *out = work;
    return 0;
}

/* A value without the null members of its objects: what a merge patch adds. */
static struct json *without_nulls(struct arena *a, const struct json *v) {
    struct json *out, *it;
    if (json_is(v, JSON_OBJECT)) {
        out = json_object(a);
        JSON_FOREACH_MEMBER(m, v)
            if (m->value->type != JSON_NULL) json_set(a, out, m->key, without_nulls(a, m->value));
        return out;
    }
    if (!json_is(v, JSON_ARRAY)) return json_clone(a, v);
    out = json_array(a);
    JSON_FOREACH(it, v) json_append(a, out, without_nulls(a, it));
    return out;
}

struct json *json_merge_patch(struct arena *a, const struct json *doc, const struct json *patch) {
    if (!json_is(patch, JSON_OBJECT)) return json_is(doc, JSON_OBJECT) ? json_clone(a, patch) : without_nulls(a, patch);
    struct json *out = json_is(doc, JSON_OBJECT) ? json_clone(a, doc) : json_object(a);
    JSON_FOREACH_MEMBER(m, patch) {
        if (m->value->type == JSON_NULL) {
            json_del(out, m->key);
        } else {
            json_set(a, out, m->key, json_merge_patch(a, json_get(out, m->key), m->value));
        }
    }
    return out;
}
