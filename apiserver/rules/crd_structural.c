/* Schemas of CustomResourceDefinitions must be structural: every member that may occur is named with its type outside of
 * allOf, anyOf, oneOf and not, which only say more about it. Then pruning and defaulting have one meaning. Upstream:
 * apiextensions-apiserver/pkg/apiserver/schema/validation.go and complete.go, and the OpenAPI part of
 * pkg/apis/apiextensions/validation. */
#include "apiserver/rules/crd_cel.h"
#include "apiserver/rules/crd_pattern.h"
#include "apiserver/rules/crd_schema.h"

enum level { ROOT, ITEM, FIELD };
enum { SCHEMA_MAX_DEPTH = 100 };

static bool flag(const struct json *s, const char *key) { return json_get_bool(s, key, false); }

/* ---- what must not be there ---- */

/* Those that upstream knows as pointers are there even when they are empty. */
static bool not_supported(const struct json *s, const char *key) {
    if (str_in(key, ONE_OF("$ref", "dependencies", "additionalItems"))) return jget(s, key);
    return !jempty(json_get(s, key));
}

static const char *const forbidden_keys[] = {"$ref",        "id",          "additionalItems", "patternProperties",
                                             "definitions", "dependencies"};

/* Has it, or anything in it, members that a structural schema cannot be made of? Then nothing is said of its structure. */
static bool unbuildable(const struct json *s, unsigned depth) {
    static const char *const lists[] = {"allOf", "anyOf", "oneOf"}, *const single[] = {"items", "additionalProperties",
                                                                                       "not"};
    const struct json *it;
    if (!json_is(s, JSON_OBJECT) || depth > SCHEMA_MAX_DEPTH) return false;
    if (*jstr(s, "$schema") || jget(s, "additionalItems")) return true;
    for (size_t i = 0; i < ARRAY_LEN(forbidden_keys); i++)
        if (!jempty(json_get(s, forbidden_keys[i]))) return true;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(it, json_get(s, lists[i]))
            if (unbuildable(it, depth + 1)) return true;
    for (size_t i = 0; i < ARRAY_LEN(single); i++)
        if (unbuildable(json_get(s, single[i]), depth + 1)) return true;
    JSON_FOREACH_MEMBER(m, json_get(s, "properties"))
        if (unbuildable(m->value, depth + 1)) return true;
    return false;
}

static void unsupported(struct vctx *v, const struct json *s, const struct fp *p) {
    static const char *const types[] = {"array", "boolean", "integer", "number", "object", "string", NULL};
    const char *type = jstr(s, "type");
    for (size_t i = 0; i < ARRAY_LEN(forbidden_keys); i++)
        if (not_supported(s, forbidden_keys[i]))
            v_forbidden(v, FP(p, forbidden_keys[i]), "%s is not supported", forbidden_keys[i]);
    if (str_eq(type, "null"))
        v_forbidden(v, FP(p, "type"), "type cannot be set to null, use nullable as an alternative");
    else if (*type && !str_in(type, types))
        v_not_supported(v, FP(p, "type"), json_get(s, "type"), types);
    if (json_is(json_get(s, "items"), JSON_ARRAY))
        v_forbidden(v, FP(p, "items"), "items must be a schema object and not an array");
    if (flag(s, "uniqueItems"))
        v_forbidden(v, FP(p, "uniqueItems"),
                    "uniqueItems cannot be set to true since the runtime complexity becomes quadratic");
    const struct json *more = json_get(s, "additionalProperties"),
                      *open = json_get(s, "x-kubernetes-preserve-unknown-fields");
    bool closed = json_is(more, JSON_OBJECT) || (json_is(more, JSON_BOOL) && !more->b);
    if (json_len(json_get(s, "properties")) && closed)
        v_forbidden(v, FP(p, "additionalProperties"), "additionalProperties and properties are mutual exclusive");
    if (json_is(open, JSON_BOOL) && !open->b)
        v_invalid(v, FP(p, "x-kubernetes-preserve-unknown-fields"), open, "must be true or undefined");
    const char *re = json_get_str(s, "pattern"), *bad = re ? crd_pattern_fault(v->a, re) : NULL;
    if (bad)
        v_invalid(v, FP(p, "pattern"), json_get(s, "pattern"), "must be a valid regular expression, but isn't: %s",
                  bad);
}

/* ---- lists and maps ---- */

static void map_keys(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *keys = json_get(s, "x-kubernetes-list-map-keys"), *items = json_get(s, "items"), *k;
    if (!json_len(keys))
        v_required(v, FP(p, "x-kubernetes-list-map-keys"), "must not be empty if x-kubernetes-list-type is map");
    if (!json_is(items, JSON_OBJECT)) {
        v_required(v, FP(p, "items"), "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if (!str_eq(jstr(items, "type"), "object"))
        v_invalid(v, FP(FP(p, "items"), "type"), json_get(items, "type"),
                  "must be object if parent array's x-kubernetes-list-type is map");
    JSON_FOREACH(k, keys) {
        const char *key = str_or_empty(json_as_str(k));
        const struct json *prop = json_get(json_get(items, "properties"), key);
        const struct fp *at = FPK(FP(FP(p, "items"), "properties"), key);
        bool required = false;
        const struct json *r;
        JSON_FOREACH(r, json_get(items, "required")) required |= str_eq(json_as_str(r), key);
        if (!prop) {
            v_invalid(v, FP(p, "x-kubernetes-list-map-keys"), keys, "entries must all be names of item properties");
            continue;
        }
        if (str_in(jstr(prop, "type"), ONE_OF("array", "object")))
            v_invalid(v, FP(at, "type"), json_get(prop, "type"),
                      "must be a scalar type if parent array's x-kubernetes-list-type is map");
        if (!required && !json_get(prop, "default"))
            v_required(
                v, FP(at, "default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property");
        if (flag(prop, "nullable"))
            v_forbidden(v, FP(at, "nullable"),
                        "this property is in x-kubernetes-list-map-keys, so it cannot be nullable");
    }
}

static void list_and_map(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *list = json_get_str(s, "x-kubernetes-list-type"), *map = json_get_str(s, "x-kubernetes-map-type"),
               *type = jstr(s, "type");
    const struct json *items = json_get(s, "items"), *keys = json_get(s, "x-kubernetes-list-map-keys");
    if (map && !*type)
        v_required(v, FP(p, "type"), "must be object if x-kubernetes-map-type is specified");
    else if (map && !str_eq(type, "object"))
        v_invalid(v, FP(p, "type"), json_get(s, "type"), "must be object if x-kubernetes-map-type is specified");
    if (map && !str_in(map, ONE_OF("atomic", "granular")))
        v_not_supported(v, FP(p, "x-kubernetes-map-type"), json_get(s, "x-kubernetes-map-type"),
                        ONE_OF("atomic", "granular"));
    if (list && !*type)
        v_required(v, FP(p, "type"), "must be array if x-kubernetes-list-type is specified");
    else if (list && !str_eq(type, "array"))
        v_invalid(v, FP(p, "type"), json_get(s, "type"), "must be array if x-kubernetes-list-type is specified");
    if (list && !str_in(list, ONE_OF("atomic", "set", "map")))
        v_not_supported(v, FP(p, "x-kubernetes-list-type"), json_get(s, "x-kubernetes-list-type"),
                        ONE_OF("atomic", "set", "map"));
    if (json_len(keys) && !str_eq(list, "map")) {
        const char *why = "must be map if x-kubernetes-list-map-keys is non-empty";
        if (!list)
            v_required(v, FP(p, "x-kubernetes-list-type"), why);
        else
            v_invalid(v, FP(p, "x-kubernetes-list-type"), json_get(s, "x-kubernetes-list-type"), "%s", why);
    }
    if (str_eq(list, "map")) map_keys(v, s, p);
    if (str_in(list, ONE_OF("set", "map")) && flag(items, "nullable"))
        v_forbidden(v, FP(FP(p, "items"), "nullable"), "cannot be nullable when x-kubernetes-list-type is %s", list);
    if (!str_eq(list, "set")) return;
    if (str_eq(jstr(items, "type"), "array") && !str_eq(json_get_str(items, "x-kubernetes-list-type"), "atomic") &&
        json_get(items, "x-kubernetes-list-type"))
        v_invalid(v, FP(FP(p, "items"), "x-kubernetes-list-type"), json_get(items, "x-kubernetes-list-type"),
                  "must be atomic as item of a list with x-kubernetes-list-type=set");
    if (str_eq(jstr(items, "type"), "object") && !str_eq(json_get_str(items, "x-kubernetes-map-type"), "atomic"))
        v_invalid(v, FP(FP(p, "items"), "x-kubernetes-map-type"), json_get(items, "x-kubernetes-map-type"),
                  "must be atomic as item of a list with x-kubernetes-list-type=set");
}

/* ---- types ---- */

static void types(struct vctx *v, const struct json *s, const struct fp *p, enum level level) {
    static const char *const missing[] = {"must not be empty at the root",
                                          "must not be empty for specified array items",
                                          "must not be empty for specified object fields"};
    const char *type = jstr(s, "type");
    bool embedded = flag(s, "x-kubernetes-embedded-resource"), mixed = flag(s, "x-kubernetes-int-or-string");
    bool open = flag(s, "x-kubernetes-preserve-unknown-fields");
    if (embedded && !*type)
        v_required(v, FP(p, "type"), "must be object if x-kubernetes-embedded-resource is true");
    else if (embedded && !str_eq(type, "object"))
        v_invalid(v, FP(p, "type"), json_get(s, "type"), "must be object if x-kubernetes-embedded-resource is true");
    else if (!*type && !mixed && !open)
        v_required(v, FP(p, "type"), missing[level]);
    if (level == ROOT && *type && !str_eq(type, "object"))
        v_invalid(v, FP(p, "type"), json_get(s, "type"), "must be object at the root");
    if (str_eq(type, "array") && !json_get(s, "items")) v_required(v, FP(p, "items"), "must be specified");
    if (level == ROOT && json_get(s, "additionalProperties"))
        v_forbidden(v, FP(p, "additionalProperties"), "must not be used at the root");
    if (level == ROOT && flag(s, "nullable")) v_forbidden(v, FP(p, "nullable"), "nullable cannot be true at the root");
    if (embedded && json_get(s, "additionalProperties"))
        v_forbidden(v, FP(p, "additionalProperties"), "must not be used if x-kubernetes-embedded-resource is set");
    if (embedded && !open && !json_len(json_get(s, "properties")))
        v_required(
            v, FP(p, "properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields");
    if (mixed && open)
        v_invalid(v, FP(p, "x-kubernetes-preserve-unknown-fields"), json_get(s, "x-kubernetes-preserve-unknown-fields"),
                  "must be false if x-kubernetes-int-or-string is true");
    if (mixed && embedded)
        v_invalid(v, FP(p, "x-kubernetes-embedded-resource"), json_get(s, "x-kubernetes-embedded-resource"),
                  "must be false if x-kubernetes-int-or-string is true");
}

/* kind, apiVersion and metadata are known without being said. */
static void type_members(struct vctx *v, const struct json *s, const struct fp *p, enum level level) {
    static const char *const names[] = {"kind", "apiVersion"};
    const struct json *props = json_get(s, "properties"), *meta = json_get(props, "metadata");
    if (level != ROOT && !flag(s, "x-kubernetes-embedded-resource")) return;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const struct json *m = json_get(props, names[i]);
        if (m && !str_eq(jstr(m, "type"), "string"))
            v_invalid(v, FP(FPK(FP(p, "properties"), names[i]), "type"), json_get(m, "type"), "must be string");
    }
    if (!meta) return;
    const struct fp *at = FPK(FP(p, "properties"), "metadata");
    if (!str_eq(jstr(meta, "type"), "object")) v_invalid(v, FP(at, "type"), json_get(meta, "type"), "must be object");
    bool more = false;
    JSON_FOREACH_MEMBER(m, meta) more |= !str_in(m->key, ONE_OF("type", "properties", "description"));
    JSON_FOREACH_MEMBER(m, json_get(meta, "properties")) more |= !str_in(m->key, ONE_OF("name", "generateName"));
    if (level == ROOT && more)
        v_forbidden(v, at,
                    "must not specify anything other than name and generateName, but metadata is implicitly specified");
}

/* ---- below allOf, anyOf, oneOf, not ---- */

static bool is_mixed_pattern(const struct json *any) {
    return json_len(any) == 2 && str_eq(jstr(json_item(any, 0), "type"), "integer") &&
           str_eq(jstr(json_item(any, 1), "type"), "string") && json_len(json_item(any, 0)) == 1 &&
           json_len(json_item(any, 1)) == 1;
}

static void junctors(struct vctx *v, const struct json *s, const struct json *full, const struct fp *fp,
                     const struct fp *p, unsigned depth, bool may_mix);

/* `full`: the structural schema of the same place, at `fp`; NULL when nothing is known there. */
static void nested(struct vctx *v, const struct json *s, const struct json *full, const struct fp *fp,
                   const struct fp *p, unsigned depth, bool may_mix) {
    static const struct {
        const char *key, *why;
        bool pointer; /* empty is something too */
    } forbidden[] = {{"type", "must be empty to be structural"},
                     {"additionalProperties", "must be undefined to be structural"},
                     {"default", "must be undefined to be structural", true},
                     {"title", "must be empty to be structural"},
                     {"description", "must be empty to be structural"},
                     {"nullable", "must be false to be structural"},
                     {"x-kubernetes-preserve-unknown-fields", "must be false to be structural"},
                     {"x-kubernetes-embedded-resource", "must be false to be structural"},
                     {"x-kubernetes-int-or-string", "must be false to be structural"},
                     {"x-kubernetes-list-map-keys", "must be empty to be structural"},
                     {"x-kubernetes-list-type", "must be undefined to be structural", true},
                     {"x-kubernetes-map-type", "must be undefined to be structural", true},
                     {"x-kubernetes-validations", "must be empty to be structural"}};
    const struct json *items = json_get(s, "items"), *more = json_get(full, "additionalProperties");
    if (!json_is(s, JSON_OBJECT) || depth > SCHEMA_MAX_DEPTH) return;
    for (size_t i = 0; i < ARRAY_LEN(forbidden); i++)
        if (jget(s, forbidden[i].key) && (forbidden[i].pointer || !jempty(json_get(s, forbidden[i].key))))
            v_forbidden(v, FP(p, forbidden[i].key), "%s", forbidden[i].why);
    JSON_FOREACH_MEMBER(m, json_get(s, "properties")) {
        const struct json *known = json_get(json_get(full, "properties"), m->key);
        const struct fp *at = FPK(FP(p, "properties"), m->key), *full_at = FPK(FP(fp, "properties"), m->key);
        if (str_eq(m->key, "metadata")) v_forbidden(v, at, "must not be specified in a nested context");
        if (!known && json_is(more, JSON_OBJECT)) known = more;
        if (full && !known) v_required(v, full_at, "must be specified outside of allOf, anyOf, oneOf and not too");
        nested(v, m->value, known, full_at, at, depth + 1, false);
    }
    if (items) {
        const struct json *known = json_get(full, "items");
        if (full && !known)
            v_required(v, FP(fp, "items"), "must be specified outside of allOf, anyOf, oneOf and not too");
        nested(v, items, known, FP(fp, "items"), FP(p, "items"), depth + 1, false);
    }
    junctors(v, s, full, fp, p, depth, may_mix);
}

static void junctors(struct vctx *v, const struct json *s, const struct json *full, const struct fp *fp,
                     const struct fp *p, unsigned depth, bool may_mix) {
    static const char *const lists[] = {"allOf", "anyOf", "oneOf"};
    const struct json *it;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *list = json_get(s, lists[i]);
        if (i == 1 && may_mix && is_mixed_pattern(list)) continue; /* integer or string, spelt out */
        JSON_FOREACH(it, list)
            nested(v, it, full, fp, FPI(FP(p, lists[i]), it_i), depth + 1, may_mix && i == 0 && it_i == 0);
    }
    if (json_get(s, "not")) nested(v, json_get(s, "not"), full, fp, FP(p, "not"), depth + 1, false);
}

/* ---- the walks ---- */

/* A format that is none of those known is let be, with a warning. */
static void format_of(struct vctx *v, const struct json *s) {
    static const char *const known[] = {
        "bsonobjectid", "uri",      "email",    "hostname", "ipv4",     "ipv6",           "cidr",          "mac",
        "uuid",         "uuid3",    "uuid4",    "uuid5",    "isbn",     "isbn10",         "isbn13",        "creditcard",
        "ssn",          "hexcolor", "rgbcolor", "byte",     "password", "date",           "duration",      "datetime",
        "date-time",    "int32",    "int64",    "float",    "double",   "k8s-short-name", "k8s-long-name", NULL};
    const char *format = jstr(s, "format");
    if (*format && !str_in(format, known)) rules_warn(v->c, "unrecognized format \"%s\"", format);
}

/* What no schema may hold, wherever it stands. */
static void plain(struct vctx *v, const struct json *s, const struct fp *p, unsigned depth) {
    static const char *const lists[] = {"allOf", "anyOf", "oneOf"};
    static const char *const single[] = {"items", "additionalProperties", "not"};
    const struct json *it;
    if (!json_is(s, JSON_OBJECT) || depth > SCHEMA_MAX_DEPTH) return;
    unsupported(v, s, p);
    list_and_map(v, s, p);
    JSON_FOREACH(it, json_get(s, "x-kubernetes-validations"))
        crd_cel_check_form(v, s, it, FPI(FP(p, "x-kubernetes-validations"), it_i));
    format_of(v, s);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(it, json_get(s, lists[i])) plain(v, it, FPI(FP(p, lists[i]), it_i), depth + 1);
    for (size_t i = 0; i < ARRAY_LEN(single); i++) plain(v, json_get(s, single[i]), FP(p, single[i]), depth + 1);
    JSON_FOREACH_MEMBER(m, json_get(s, "properties")) plain(v, m->value, FPK(FP(p, "properties"), m->key), depth + 1);
}

static void node(struct vctx *v, const struct json *s, const struct fp *p, enum level level, unsigned depth) {
    if (!json_is(s, JSON_OBJECT) || depth > SCHEMA_MAX_DEPTH) return;
    const struct json *more = json_get(s, "additionalProperties"), *items = json_get(s, "items"),
                      *dflt = json_get(s, "default");
    types(v, s, p, level);
    type_members(v, s, p, level);
    junctors(v, s, s, p, p, depth, true);
    if (dflt) crd_check_default(v, s, dflt, FP(p, "default"));
    if (json_is(dflt, JSON_OBJECT) && (level == ROOT || flag(s, "x-kubernetes-embedded-resource")))
        for (size_t i = 0; i < 2; i++) /* a whole object says what it is */
            if (!*jstr(dflt, i ? "kind" : "apiVersion"))
                v_required(v, FP(FP(p, "default"), i ? "kind" : "apiVersion"), NULL);
    JSON_FOREACH_MEMBER(m, json_get(s, "properties"))
        node(v, m->value, FPK(FP(p, "properties"), m->key), FIELD, depth + 1);
    node(v, items, FP(p, "items"), ITEM, depth + 1);
    node(v, more, FP(p, "additionalProperties"), FIELD, depth + 1);
}

/* With a status apart, the root says only what is not lost when the status is looked at on its own. */
static void root_members(struct vctx *v, const struct json *schema, const struct fp *p) {
    static const char *const before_type[] = {"id", "$schema", "$ref"};
    static const char *const allowed[] = {"description",
                                          "type",
                                          "format",
                                          "title",
                                          "maximum",
                                          "exclusiveMaximum",
                                          "minimum",
                                          "maxItems",
                                          "exclusiveMinimum",
                                          "maxLength",
                                          "minLength",
                                          "pattern",
                                          "minItems",
                                          "uniqueItems",
                                          "multipleOf",
                                          "required",
                                          "items",
                                          "properties",
                                          "externalDocs",
                                          "example",
                                          "x-kubernetes-preserve-unknown-fields",
                                          "x-kubernetes-validations",
                                          NULL};
    bool early = false, other = false;
    for (size_t i = 0; i < ARRAY_LEN(before_type); i++)
        early |= i == 2 ? jget(schema, before_type[i]) != NULL : *jstr(schema, before_type[i]) != '\0';
    if (!early && *jstr(schema, "type") && !str_eq(jstr(schema, "type"), "object")) {
        v_invalid(v, FP(p, "type"), json_get(schema, "type"),
                  "only \"object\" is allowed where status is a subresource");
        return;
    }
    JSON_FOREACH_MEMBER(m, schema) {
        if (m->value->type == JSON_NULL || str_in(m->key, allowed)) continue;
        bool pointer = str_in(
            m->key, ONE_OF("x-kubernetes-list-type", "x-kubernetes-map-type", "default", "maxProperties",
                           "minProperties", "not", "additionalProperties", "additionalItems", "enum", "allOf", "anyOf",
                           "oneOf", "x-kubernetes-list-map-keys", "patternProperties", "definitions", "dependencies"));
        other |= pointer || !jempty(m->value);
    }
    if (early || other) v_invalid_whole(v, p, "a member is not allowed at the root where status is a subresource");
}

void crd_check_structural(struct vctx *v, const struct json *schema, bool status, const struct fp *p) {
    size_t found = v->n;
    if (status) root_members(v, schema, p);
    plain(v, schema, p, 0);
    if (!unbuildable(schema, 0))
        node(v, schema, p, ROOT, 0);
    else if (v->n == found)
        v_invalid_whole(v, p, "has members that are not supported");
}
