/* Custom resources: pruning, defaulting and validating trees by the structural schema (openAPIV3Schema) of
 * their CustomResourceDefinition. Upstream:
 * apiextensions-apiserver/pkg/apiserver/schema/{pruning,defaulting,listtype} and kube-openapi's validation.
 * Rules in CEL: crd_cel.h. */
#include "apiserver/rules/crd_schema.h"
#include "apiserver/rules/crd_cel.h"
#include "apiserver/rules/crd_pattern.h"

#include <math.h>

static bool flag(const struct json *s, const char *key) { return json_get_bool(s, key, false); }

/* ---- pruning ---- */

static void note(struct arena *a, struct api_problems *u, const char *path) {
    if (u) api_problem_add(a, u, "unknown field", path);
}

static void prune(struct arena *a, const struct json *s, struct json *v, const char *path, bool root,
                  struct api_problems *u);

static const struct api_type *meta_type(void) {
    return api_type_by_openapi("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
}

/* Metadata of an embedded object knows the fields that metadata has. What is none at all is left to validation. */
static void prune_metadata(struct arena *a, struct json *v, const char *path, struct api_problems *u) {
    struct api_problems found = {0};
    struct json *meta = json_get(v, "metadata"), *out = NULL;
    if (!meta || api_tree_normalise(a, meta_type(), meta, &out, u ? &found : NULL, NULL) < 0) return;
    for (size_t i = 0; i < found.n; i++)
        note(a, u, arena_printf(a, "%s%smetadata.%s", path, *path ? "." : "", found.items[i].path));
    json_set(a, v, "metadata", out);
}

static void prune_object(struct arena *a, const struct json *s, struct json *v, const char *path, bool root,
                         struct api_problems *u) {
    const struct json *props = json_get(s, "properties"), *more = json_get(s, "additionalProperties");
    bool object = root || flag(s, "x-kubernetes-embedded-resource");
    bool keep = flag(s, "x-kubernetes-preserve-unknown-fields");
    if (object && !root) prune_metadata(a, v, path, u);
    for (uint32_t i = 0; i < v->n;) {
        const char *key = v->members[i].key;
        const struct json *sub = json_get(props, key);
        const char *at = *path ? arena_printf(a, "%s.%s", path, key) : key;
        if (object && str_in(key, ONE_OF("apiVersion", "kind", "metadata"))) {
            i++;
            continue;
        }
        if (!sub && json_is(more, JSON_OBJECT)) sub = more;
        bool any = json_is(more, JSON_BOOL) && more->b;
        if (!sub && !keep && !any) {
            note(a, u, at);
            json_del(v, key);
            continue;
        }
        if (sub) prune(a, sub, v->members[i].value, at, false, u);
        i++;
    }
}

static void prune(struct arena *a, const struct json *s, struct json *v, const char *path, bool root,
                  struct api_problems *u) {
    if (v->type == JSON_OBJECT) {
        bool typed = json_get(s, "properties") || json_get(s, "additionalProperties") ||
                     flag(s, "x-kubernetes-preserve-unknown-fields") || flag(s, "x-kubernetes-embedded-resource") ||
                     str_eq(json_get_str(s, "type"), "object");
        if (typed) prune_object(a, s, v, path, root, u);
    } else if (v->type == JSON_ARRAY && json_get(s, "items")) {
        struct json *it;
        JSON_FOREACH(it, v) prune(a, json_get(s, "items"), it, arena_printf(a, "%s[%zu]", path, it_i), false, u);
    }
}

/* Numbers as Go reads and writes them: whole ones without a fraction. */
static void plain_numbers(struct arena *a, struct json *v) {
    char text[JSON_DOUBLE_MAX];
    if (v->type == JSON_ARRAY || v->type == JSON_OBJECT) {
        for (uint32_t i = 0; i < v->n; i++) plain_numbers(a, v->type == JSON_ARRAY ? v->items[i] : v->members[i].value);
    } else if (v->type == JSON_NUMBER && strpbrk(v->str, ".eE")) {
        *v = *json_num(a, json_double_text(strtod(v->str, NULL), text));
    }
}

int crd_normalise(struct rules_ctx *c, struct json *obj, struct api_problems *unknown, struct err *e) {
    struct json *meta = json_get(obj, "metadata"), *out = NULL;
    if (!json_is(obj, JSON_OBJECT)) return err_set(e, -EINVAL, "a custom resource is an object");
    if (meta) {
        struct api_problems found = {0};
        int r = api_tree_normalise(c->a, meta_type(), meta, &out, unknown ? &found : NULL, e);
        if (r < 0) return err_wrap(e, "metadata");
        for (size_t i = 0; i < found.n; i++)
            note(c->a, unknown, arena_printf(c->a, "metadata.%s", found.items[i].path));
        json_set(c->a, obj, "metadata", out);
    }
    plain_numbers(c->a, obj);
    if (c->crd_schema && !c->crd_preserve_unknown) prune(c->a, c->crd_schema, obj, "", true, unknown);
    return 0;
}

/* ---- defaulting ---- */

static void fill(struct arena *a, const struct json *s, struct json *v) {
    struct json *it;
    if (v->type == JSON_ARRAY && json_get(s, "items"))
        JSON_FOREACH(it, v) fill(a, json_get(s, "items"), it);
    if (v->type != JSON_OBJECT) return;
    JSON_FOREACH_MEMBER(p, json_get(s, "properties")) {
        const struct json *dflt = json_get(p->value, "default");
        struct json *have = json_get(v, p->key);
        bool null_goes = have && have->type == JSON_NULL && !flag(p->value, "nullable");
        if (dflt && (!have || null_goes)) have = json_set(a, v, p->key, json_clone(a, dflt));
        if (!dflt && null_goes && json_del(v, p->key)) continue;
        if (have) fill(a, p->value, have);
    }
    const struct json *more = json_get(s, "additionalProperties");
    if (!json_is(more, JSON_OBJECT)) return;
    for (uint32_t i = 0; i < v->n;) {
        struct json_member *m = &v->members[i];
        bool other = !json_get(json_get(s, "properties"), m->key);
        if (other && m->value->type == JSON_NULL && !flag(more, "nullable") && json_del(v, m->key)) continue;
        if (other) fill(a, more, m->value);
        i++;
    }
}

void crd_default(struct rules_ctx *c, struct json *obj) {
    if (c->crd_schema) fill(c->a, c->crd_schema, obj);
}

/* ---- validation ---- */

static void check(struct vctx *v, const struct json *s, const struct json *x, const struct json *old,
                  const struct fp *p);

static bool is_integer(const struct json *x) {
    if (x->type == JSON_INT) return true;
    if (x->type != JSON_NUMBER) return false;
    double d = json_as_double(x, 0.5);
    return floor(d) == d;
}

static bool type_fits(const char *type, const struct json *x) {
    if (str_eq(type, "object")) return x->type == JSON_OBJECT;
    if (str_eq(type, "array")) return x->type == JSON_ARRAY;
    if (str_eq(type, "string")) return x->type == JSON_STRING;
    if (str_eq(type, "boolean")) return x->type == JSON_BOOL;
    if (str_eq(type, "integer")) return is_integer(x);
    if (str_eq(type, "number")) return x->type == JSON_INT || x->type == JSON_NUMBER;
    return true;
}

static bool all_of_class(const char *s, size_t n, const char *pattern) {
    if (strlen(s) != n) return false;
    for (size_t i = 0; i < n; i++) {
        bool hex = (s[i] >= '0' && s[i] <= '9') || (s[i] >= 'a' && s[i] <= 'f') || (s[i] >= 'A' && s[i] <= 'F');
        if (pattern[i] == 'x' ? !hex : s[i] != pattern[i]) return false;
    }
    return true;
}

static bool format_fits(const char *format, const char *s) {
    struct ktime t;
    int64_t ns;
    int family;
    if (str_eq(format, "date-time") || str_eq(format, "datetime")) return ktime_parse(s, &t) == 0;
    if (str_eq(format, "date")) {
        char text[40];
        return strlen(s) == 10 && snprintf(text, sizeof text, "%sT00:00:00Z", s) > 0 && ktime_parse(text, &t) == 0;
    }
    if (str_eq(format, "duration")) return duration_parse(s, &ns) == 0;
    if (str_eq(format, "ipv4")) return is_ip(s, &family) && family == 4;
    if (str_eq(format, "ipv6")) return is_ip(s, &family) && family == 6;
    if (str_eq(format, "cidr")) return is_cidr(s, &family);
    if (str_eq(format, "uuid") || str_eq(format, "uuid4"))
        return all_of_class(s, 36, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx");
    if (str_eq(format, "email")) return strchr(s, '@') && s[0] != '@' && *(strchr(s, '@') + 1);
    if (str_eq(format, "uri")) return is_absolute_uri(s) || s[0] == '/';
    return true;
}

/* Length in code points, as JSON schema counts. */
static size_t code_points(const struct json *x) {
    size_t n = 0;
    for (uint32_t i = 0; i < x->n; i++) n += ((unsigned char)x->str[i] & 0xC0) != 0x80;
    return n;
}

static void check_string(struct vctx *v, const struct json *s, const struct json *x, const struct fp *p) {
    int64_t max = json_get_int(s, "maxLength", -1), min = json_get_int(s, "minLength", -1);
    const char *re = json_get_str(s, "pattern"), *format = json_get_str(s, "format");
    size_t n = code_points(x);
    if (max >= 0 && n > (size_t)max) {
        v_too_long(v, p, (size_t)max);
        return;
    }
    if (min >= 0 && n < (size_t)min) v_invalid(v, p, x, "should be at least %lld chars long", (long long)min);
    if (re && !crd_pattern_matches(re, x->str, x->n)) v_invalid(v, p, x, "should match '%s'", re);
    if (format && !format_fits(format, x->str)) v_type_invalid(v, p, x, "must be of type %s", format);
}

static void check_number(struct vctx *v, const struct json *s, const struct json *x, const struct fp *p) {
    double n = json_as_double(x, 0);
    const struct json *max = json_get(s, "maximum"), *min = json_get(s, "minimum"), *of = json_get(s, "multipleOf");
    if (max && (flag(s, "exclusiveMaximum") ? n >= json_as_double(max, 0) : n > json_as_double(max, 0)))
        v_invalid(v, p, x, "should be less than or equal to %s", json_text(v->a, max));
    if (min && (flag(s, "exclusiveMinimum") ? n <= json_as_double(min, 0) : n < json_as_double(min, 0)))
        v_invalid(v, p, x, "should be greater than or equal to %s", json_text(v->a, min));
    if (of && json_as_double(of, 0) != 0 && fmod(n, json_as_double(of, 1)) != 0)
        v_invalid(v, p, x, "should be a multiple of %s", json_text(v->a, of));
    const char *format = json_get_str(s, "format");
    if (str_eq(format, "int32") && (n > INT32_MAX || n < INT32_MIN)) v_invalid(v, p, x, "should be an int32");
}

static bool same_keys(const struct json *keys, const struct json *x, const struct json *y) {
    const struct json *k;
    JSON_FOREACH(k, keys) {
        const struct json *a = json_get(x, json_as_str(k)), *b = json_get(y, json_as_str(k));
        if (a || b ? !(a && b && json_equal(a, b)) : false) return false;
    }
    return true;
}

/* The item of before that is the same thing: only lists of things with keys tell. */
static const struct json *item_before(const struct json *s, const struct json *it, const struct json *old) {
    const struct json *was;
    if (!str_eq(json_get_str(s, "x-kubernetes-list-type"), "map") || !json_is(old, JSON_ARRAY)) return NULL;
    JSON_FOREACH(was, old)
        if (same_keys(json_get(s, "x-kubernetes-list-map-keys"), was, it)) return was;
    return NULL;
}

static void check_array(struct vctx *v, const struct json *s, const struct json *x, const struct json *old,
                        const struct fp *p) {
    int64_t max = json_get_int(s, "maxItems", -1), min = json_get_int(s, "minItems", -1);
    const struct json *items = json_get(s, "items"), *it, *keys = json_get(s, "x-kubernetes-list-map-keys");
    const char *list = json_get_str(s, "x-kubernetes-list-type");
    bool set = str_eq(list, "set") || flag(s, "uniqueItems"), map = str_eq(list, "map");
    if (max >= 0 && x->n > max) {
        v_too_many(v, p, x->n, (size_t)max);
        return;
    }
    if (min >= 0 && x->n < min) v_invalid(v, p, x, "should have at least %lld items", (long long)min);
    if (items)
        JSON_FOREACH(it, x) check(v, items, it, item_before(s, it, old), FPI(p, it_i));
    for (uint32_t i = 1; i < x->n && (set || map); i++)
        for (uint32_t j = 0; j < i; j++) {
            bool same = map ? same_keys(keys, x->items[i], x->items[j]) : json_equal(x->items[i], x->items[j]);
            if (!same) continue;
            v_duplicate(v, FPI(p, i), x->items[i]);
            break;
        }
}

static void check_object(struct vctx *v, const struct json *s, const struct json *x, const struct json *old,
                         const struct fp *p) {
    int64_t max = json_get_int(s, "maxProperties", -1), min = json_get_int(s, "minProperties", -1);
    const struct json *r, *props = json_get(s, "properties"), *more = json_get(s, "additionalProperties");
    if (max >= 0 && x->n > max) v_too_many(v, p, x->n, (size_t)max);
    if (min >= 0 && x->n < min) v_invalid(v, p, x, "should have at least %lld properties", (long long)min);
    JSON_FOREACH(r, json_get(s, "required"))
        if (json_as_str(r) && !json_get(x, json_as_str(r))) v_required(v, FP(p, json_as_str(r)), NULL);
    JSON_FOREACH_MEMBER(m, x) {
        const struct json *sub = json_get(props, m->key);
        if (sub)
            check(v, sub, m->value, json_get(old, m->key), FP(p, m->key));
        else if (json_is(more, JSON_OBJECT))
            check(v, more, m->value, json_get(old, m->key), FP(p, m->key));
    }
}

static size_t faults(struct vctx *v, const struct json *s, const struct json *x, const struct json *old,
                     const struct fp *p) {
    struct vctx inner = {.c = v->c, .a = v->a};
    check(&inner, s, x, old, p);
    return inner.n;
}

static void check_combined(struct vctx *v, const struct json *s, const struct json *x, const struct json *old,
                           const struct fp *p) {
    const struct json *sub, *any = json_get(s, "anyOf"), *one = json_get(s, "oneOf"), *not = json_get(s, "not");
    size_t fits = 0;
    JSON_FOREACH(sub, json_get(s, "allOf")) check(v, sub, x, old, p);
    JSON_FOREACH(sub, any) fits += !faults(v, sub, x, old, p);
    if (json_len(any) && !fits) v_invalid(v, p, x, "must validate at least one schema (anyOf)");
    fits = 0;
    JSON_FOREACH(sub, one) fits += !faults(v, sub, x, old, p);
    if (json_len(one) && fits != 1) v_invalid(v, p, x, "must validate one and only one schema (oneOf)");
    if (not &&!faults(v, not, x, old, p)) v_invalid(v, p, x, "must not validate the schema (not)");
}

static void check_enum(struct vctx *v, const struct json *s, const struct json *x, const struct fp *p) {
    const struct json *list = json_get(s, "enum"), *it;
    if (!list) return;
    const char **texts = arena_zalloc(v->a, (json_len(list) + 1) * sizeof(*texts));
    JSON_FOREACH(it, list) {
        if (json_equal(it, x)) return;
        texts[it_i] = json_as_str(it) ? json_as_str(it) : json_text(v->a, it);
    }
    v_not_supported(v, p, x, texts);
}

/* What is as it was before (`old`, NULL: it is not known to be the same thing) is not looked at: what was wrong before a
 * schema became stricter may stay as long as nobody touches it (upstream: validation ratcheting). */
static void check(struct vctx *v, const struct json *s, const struct json *x, const struct json *old,
                  const struct fp *p) {
    if (old && json_equal(old, x)) return;
    const char *type = json_get_str(s, "type");
    if (x->type == JSON_NULL && (flag(s, "nullable") || !type)) return;
    if (flag(s, "x-kubernetes-int-or-string")) {
        if (x->type != JSON_STRING && !is_integer(x)) v_type_invalid(v, p, x, "must be an integer or a string");
        return;
    }
    if (type && !type_fits(type, x)) {
        v_type_invalid(v, p, x, "must be of type %s", type);
        return;
    }
    check_enum(v, s, x, p);
    switch (x->type) {
        case JSON_STRING: check_string(v, s, x, p); break;
        case JSON_INT:
        case JSON_NUMBER: check_number(v, s, x, p); break;
        case JSON_ARRAY: check_array(v, s, x, old, p); break;
        case JSON_OBJECT: check_object(v, s, x, old, p); break;
        default: break;
    }
    check_combined(v, s, x, old, p);
    if (json_is(x, JSON_OBJECT) && flag(s, "x-kubernetes-embedded-resource")) {
        if (!*jstr(x, "apiVersion")) v_required(v, FP(p, "apiVersion"), NULL);
        if (!*jstr(x, "kind")) v_required(v, FP(p, "kind"), NULL);
    }
}

/* Metadata has rules of its own; a schema may add some for the name. */
static void check_name(struct vctx *v, const struct json *s, const struct json *obj) {
    static const char *const keys[] = {"name", "generateName"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const struct json *sub = json_at(s, "properties", "metadata", "properties", keys[i], NULL);
        const struct json *x = json_at(obj, "metadata", keys[i], NULL);
        if (sub && x) check(v, sub, x, NULL, FP(FP(NULL, "metadata"), keys[i]));
    }
}

static void check_whole(struct vctx *v, const struct json *s, const struct json *obj, const struct json *old) {
    const struct json *r, *more = json_get(s, "additionalProperties");
    JSON_FOREACH(r, json_get(s, "required"))
        if (json_as_str(r) && !json_get(obj, json_as_str(r))) v_required(v, FP(NULL, json_as_str(r)), NULL);
    JSON_FOREACH_MEMBER(m, obj) {
        const struct json *sub = json_get(json_get(s, "properties"), m->key);
        if (str_in(m->key, ONE_OF("apiVersion", "kind", "metadata"))) continue;
        if (!sub && json_is(more, JSON_OBJECT)) sub = more;
        if (sub) check(v, sub, m->value, json_get(old, m->key), FP(NULL, m->key));
    }
    if (!old) check_name(v, s, obj);
    check_combined(v, s, obj, old, NULL);
}

static bool is_duplicate(const struct finding *f) { return str_eq(f->reason, "FieldValueDuplicate"); }

/* Items that stood twice in lists before may go on doing so, wherever. */
static void forgive_duplicates(struct vctx *v, size_t first, const struct json *s, const struct json *old) {
    struct vctx was = {.c = v->c, .a = v->a};
    size_t kept = first, had = 0, has = 0;
    for (size_t i = first; i < v->n; i++) has += is_duplicate(&v->items[i]);
    if (!has) return;
    check_whole(&was, s, old, NULL);
    for (size_t i = 0; i < was.n; i++) had += is_duplicate(&was.items[i]);
    for (size_t i = first; i < v->n; i++)
        if (!had || !is_duplicate(&v->items[i])) v->items[kept++] = v->items[i];
    v->n = kept;
}

void crd_validate(struct vctx *v, const struct json *obj, const struct json *old) {
    if (!v->c->crd_schema) return;
    size_t first = v->n;
    check_whole(v, v->c->crd_schema, obj, old);
    if (old) forgive_duplicates(v, first, v->c->crd_schema, old);
    crd_cel_validate(v, obj, old);
}

/* ---- defaults of schemas ---- */

void crd_check_default(struct vctx *v, const struct json *s, const struct json *dflt, const struct fp *p) {
    struct json *pruned = json_clone(v->a, dflt);
    prune(v->a, s, pruned, "", false, NULL);
    if (!json_equal(pruned, dflt)) v_invalid(v, p, dflt, "must not have unknown fields");
    fill(v->a, s, pruned);
    size_t found = v->n;
    check(v, s, pruned, NULL, p);
    if (v->n == found) crd_cel_check_default(v, s, pruned, p);
}
