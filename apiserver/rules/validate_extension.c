/* Extending the API: CustomResourceDefinition and APIService. Upstream: apiextensions-apiserver's
 * pkg/apis/apiextensions/validation and kube-aggregator's pkg/apis/apiregistration/validation. */
#include <ctype.h>

#include "apiserver/rules/crd_cel.h"
#include "apiserver/rules/crd_schema.h"
#include "apiserver/rules/kinds.h"

enum { SELECTABLE_FIELDS_MAX = 8, SCHEMA_DEPTH_MAX = 200 };

/* ---- CustomResourceDefinition ---- */

/* Names must be DNS labels; a kind may have capitals. */
static void crd_name(struct vctx *v, const struct json *names, const char *key, bool mixed, bool required,
                     const struct fp *p) {
    const char *s = jstr(names, key);
    char *lower = arena_strdup(v->a, s);
    for (char *q = lower; mixed && *q; q++) *q = (char)tolower((unsigned char)*q);
    if (!*s) {
        if (required) v_required(v, FP(p, key), NULL);
        return;
    }
    if (is_dns1035_label(lower)) v_invalid(v, FP(p, key), json_get(names, key), "%s", is_dns1035_label(lower));
}

void validate_definition_names(struct vctx *v, const struct json *names, bool required, const struct fp *p) {
    static const char *const lists[] = {"shortNames", "categories"};
    const struct json *it;
    crd_name(v, names, "plural", false, required, p);
    crd_name(v, names, "singular", false, required, p);
    crd_name(v, names, "kind", true, required, p);
    crd_name(v, names, "listKind", true, required, p);
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH(it, json_get(names, lists[i]))
            if (is_dns1035_label(str_or_empty(json_as_str(it))))
                v_invalid(v, FPI(FP(p, lists[i]), it_i), it, "%s", is_dns1035_label(str_or_empty(json_as_str(it))));
    if (*jstr(names, "kind") && str_eq(jstr(names, "kind"), jstr(names, "listKind")))
        v_invalid(v, FP(p, "listKind"), json_get(names, "listKind"), "kind and listKind may not be the same");
}

/* Filters may hold spaces: [?(@.type == "Ready")]. */
static bool json_path_ok(const char *s) { return s[0] == '.' && s[1] && (strchr(s, '[') || !strchr(s, ' ')); }

static void subresources(struct vctx *v, const struct json *sub, const struct fp *p) {
    const struct json *scale = jget(sub, "scale");
    static const struct {
        const char *key, *prefix;
    } paths[] = {{"specReplicasPath", ".spec."}, {"statusReplicasPath", ".status."}};
    for (size_t i = 0; scale && i < 2; i++) {
        const char *s = jstr(scale, paths[i].key);
        if (!*s)
            v_required(v, FP(FP(p, "scale"), paths[i].key), NULL);
        else if (!str_has_prefix(s, paths[i].prefix))
            v_invalid(v, FP(FP(p, "scale"), paths[i].key), json_get(scale, paths[i].key),
                      "should be a json path under %.*s", (int)strlen(paths[i].prefix) - 1, paths[i].prefix);
    }
    const char *sel = jstr(scale, "labelSelectorPath");
    if (*sel && !str_has_prefix(sel, ".spec.") && !str_has_prefix(sel, ".status."))
        v_invalid(v, FP(FP(p, "scale"), "labelSelectorPath"), json_get(scale, "labelSelectorPath"),
                  "should be a json path under either .status or .spec");
}

static void printer_columns(struct vctx *v, const struct json *cols, const struct fp *p) {
    static const char *const types[] = {"boolean", "date", "integer", "number", "string", NULL};
    static const char *const formats[] = {"byte",  "date",  "date-time", "double", "float",
                                          "int32", "int64", "password",  NULL};
    const struct json *it;
    JSON_FOREACH(it, cols) {
        const struct fp *at = FPI(p, it_i);
        if (!*jstr(it, "name")) v_required(v, FP(at, "name"), NULL);
        if (!*jstr(it, "type"))
            v_required(v, FP(at, "type"), "must be one of boolean,date,integer,number,string");
        else if (!str_in(jstr(it, "type"), types))
            v_invalid(v, FP(at, "type"), json_get(it, "type"), "must be one of boolean,date,integer,number,string");
        if (*jstr(it, "format") && !str_in(jstr(it, "format"), formats))
            v_invalid(v, FP(at, "format"), json_get(it, "format"),
                      "must be one of byte,date,date-time,double,float,int32,int64,password");
        if (!*jstr(it, "jsonPath"))
            v_required(v, FP(at, "JSONPath"), NULL);
        else if (!json_path_ok(jstr(it, "jsonPath")))
            v_invalid(v, FP(at, "JSONPath"), json_get(it, "jsonPath"), "is an invalid JSON path");
    }
}

/* The schema of .a.b, NULL when there is none. */
static const struct json *schema_at(struct arena *a, const struct json *schema, const char *path) {
    if (*path != '.') return NULL;
    while (schema && *path == '.') {
        size_t n = strcspn(path + 1, ".");
        schema = json_at(schema, "properties", arena_strndup(a, path + 1, n), NULL);
        path += n + 1;
    }
    return *path ? NULL : schema;
}

static void selectable_fields(struct vctx *v, const struct json *list, const struct json *schema, const struct fp *p) {
    const struct json *it;
    if (json_len(list) > SELECTABLE_FIELDS_MAX) v_too_many(v, p, json_len(list), SELECTABLE_FIELDS_MAX);
    JSON_FOREACH(it, list) {
        const struct fp *at = FP(FPI(p, it_i), "jsonPath");
        const char *path = jstr(it, "jsonPath");
        const struct json *field = schema_at(v->a, schema, path);
        if (!*path) {
            v_required(v, at, NULL);
            continue;
        }
        if (!field)
            v_invalid(v, at, json_get(it, "jsonPath"), "is an invalid path: does not refer to a valid field");
        else if (str_has_prefix(path, ".metadata"))
            v_invalid(v, at, json_get(it, "jsonPath"), "must not point to fields in metadata");
        else if (!str_in(jstr(field, "type"), ONE_OF("string", "integer", "boolean")))
            v_invalid(v, at, json_get(it, "jsonPath"), "must point to a field of type string, boolean or integer");
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "jsonPath"), path)) {
                v_duplicate(v, at, json_get(it, "jsonPath"));
                break;
            }
    }
}

/* What all versions share is, in upstream's internal form, one field of the spec, and findings are there. */
struct shared {
    bool schema, subresources, columns, fields;
    bool status; /* some version has it as a subresource */
};

static bool all_same(const struct json *list, const char *key) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (!jsame(json_get(it, key), json_get(json_item(list, 0), key))) return false;
    return true;
}

static void schema_of(struct vctx *v, const struct json *schema, const struct json *before, bool status,
                      const struct fp *sp) {
    if (!schema || schema->type == JSON_NULL) return;
    size_t found = v->n;
    crd_check_structural(v, schema, status, sp);
    /* rules speak of types: of a schema that makes sense, and not again when it is stored as it is */
    if (v->n == found && !(before && json_equal(before, schema))) crd_cel_check(v, schema, sp);
}

static void deprecation(struct vctx *v, const struct json *ver, const struct fp *p) {
    enum { WARNING_MAX = 256 };
    const struct json *text = jget(ver, "deprecationWarning");
    const char *s = str_or_empty(json_as_str(text));
    bool bad = false;
    if (!text) return;
    if (!json_get_bool(ver, "deprecated", false)) {
        v_invalid(v, p, text, "can only be set for deprecated versions");
        return;
    }
    if (strlen(s) > WARNING_MAX) v_invalid(v, p, text, "must be <= %d characters long", WARNING_MAX);
    if (!*s) v_invalid(v, p, text, "must not be an empty string");
    for (; *s; s++) bad |= (unsigned char)*s < ' ' || *s == 0x7f;
    if (bad) v_invalid(v, p, text, "must only contain printable UTF-8 characters");
}

static void version(struct vctx *v, const struct json *ver, const struct json *was, const struct fp *p, size_t i,
                    const struct shared *one) {
    const struct fp *top = FP(NULL, "spec");
    const struct json *schema = json_at(ver, "schema", "openAPIV3Schema", NULL);
    const char *name = jstr(ver, "name");
    if (is_dns1035_label(name)) v_invalid(v, FP(p, "name"), json_str(v->a, name), "%s", is_dns1035_label(name));
    if (i == 0 && *name && is_dns1035_label(name)) /* the old name of the first one's */
        v_invalid(v, FP(top, "version"), json_str(v->a, name), "%s", is_dns1035_label(name));
    if (!schema || schema->type == JSON_NULL) v_required(v, FP(FP(p, "schema"), "openAPIV3Schema"), NULL);
    deprecation(v, ver, FP(p, "deprecationWarning"));
    if (!one->schema || i == 0)
        schema_of(v, schema, json_at(was, "schema", "openAPIV3Schema", NULL),
                  one->schema ? one->status : jget(json_get(ver, "subresources"), "status") != NULL,
                  FP(one->schema ? FP(top, "validation") : FP(p, "schema"), "openAPIV3Schema"));
    if (!one->subresources || i == 0)
        subresources(v, json_get(ver, "subresources"), FP(one->subresources ? top : p, "subresources"));
    if (!one->columns || i == 0)
        printer_columns(v, json_get(ver, "additionalPrinterColumns"),
                        FP(one->columns ? top : p, "additionalPrinterColumns"));
    const struct fp *fields = FP(one->fields ? top : p, "selectableFields");
    if (one->fields && i) return;
    if (!json_len(json_get(ver, "selectableFields"))) return;
    if (one->fields != one->schema || !jget(json_get(ver, "schema"), "openAPIV3Schema"))
        v_invalid(v, one->schema ? fields : FP(p, "selectableFields"), NULL, "wants a schema beside it");
    else
        selectable_fields(v, json_get(ver, "selectableFields"), schema, fields);
}

static const struct json *version_named(const struct json *spec, const char *name) {
    const struct json *it;
    JSON_FOREACH(it, json_get(spec, "versions"))
        if (str_eq(jstr(it, "name"), name)) return it;
    return NULL;
}

static void versions(struct vctx *v, const struct json *spec, const struct json *was, const struct fp *p) {
    const struct json *list = json_get(spec, "versions"), *it;
    size_t storage = 0;
    bool duplicate = false;
    struct shared one = {all_same(list, "schema"), all_same(list, "subresources"),
                         all_same(list, "additionalPrinterColumns"), all_same(list, "selectableFields")};
    JSON_FOREACH(it, list) one.status |= jget(json_get(it, "subresources"), "status") != NULL;
    JSON_FOREACH(it, list) {
        storage += json_get_bool(it, "storage", false);
        for (size_t j = 0; j < it_i; j++) duplicate |= str_eq(jstr(json_item(list, j), "name"), jstr(it, "name"));
        version(v, it, version_named(was, jstr(it, "name")), FPI(FP(p, "versions"), it_i), it_i, &one);
    }
    if (duplicate) v_invalid(v, FP(p, "versions"), NULL, "must contain unique version names");
    if (storage != 1) v_invalid(v, FP(p, "versions"), NULL, "must have exactly one version marked as storage version");
}

static void conversion(struct vctx *v, const struct json *c, const struct fp *p) {
    const struct json *hook = jget(c, "webhook"), *client = jget(hook, "clientConfig");
    const struct json *reviews = json_get(hook, "conversionReviewVersions");
    v_enum(v, FP(p, "strategy"), json_get(c, "strategy"), ONE_OF("None", "Webhook"), true);
    if (!str_eq(jstr(c, "strategy"), "Webhook")) {
        if (client)
            v_forbidden(v, FP(p, "webhookClientConfig"), "should not be set when strategy is not set to Webhook");
        if (json_len(reviews))
            v_forbidden(v, FP(p, "conversionReviewVersions"), "should not be set when strategy is not set to Webhook");
        return;
    }
    if (!client)
        v_required(v, FP(p, "webhookClientConfig"), "required when strategy is set to Webhook");
    else
        validate_webhook_client(v, client, FP(p, "webhookClientConfig"));
    validate_review_versions(v, reviews, FP(p, "conversionReviewVersions"));
}

static void stored_versions(struct vctx *v, const struct json *obj) {
    const struct json *stored = json_at(obj, "status", "storedVersions", NULL),
                      *list = json_at(obj, "spec", "versions", NULL), *it;
    const struct fp *p = FP(FP(NULL, "status"), "storedVersions");
    if (!json_len(stored)) v_invalid(v, p, stored, "must have at least one stored version");
    JSON_FOREACH(it, json_len(stored) ? list : NULL) {
        bool had = false, again = false;
        for (size_t j = 0; j < json_len(stored); j++)
            had |= str_eq(json_as_str(json_item(stored, j)), jstr(it, "name"));
        for (size_t j = 0; j < it_i; j++) again |= str_eq(jstr(json_item(list, j), "name"), jstr(it, "name"));
        if (json_get_bool(it, "storage", false) && (!had || again))
            v_invalid(v, p, stored, "must have the storage version %s", jstr(it, "name"));
    }
    JSON_FOREACH(it, stored)
        if (!has_key(list, "name", json_as_str(it)))
            v_invalid(v, FPI(p, it_i), it,
                      "missing from spec.versions; it was previously a storage version, and must remain in "
                      "spec.versions until a storage migration ensures no data remains persisted in it");
}

/* The object can have one name only. */
static void v_fixed_name(struct vctx *v, const struct json *meta, const char *want) {
    static const char *const keys[] = {"name", "generateName"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (*jstr(meta, keys[i]) && !str_eq(jstr(meta, keys[i]), want))
            v_invalid(v, FP(FP(NULL, "metadata"), keys[i]), json_get(meta, keys[i]), "must be \"%s\"", want);
}

static bool has_defaults(const struct json *s, unsigned depth) {
    const struct json *it;
    if (depth > SCHEMA_DEPTH_MAX) return false;
    if (json_is(s, JSON_OBJECT) && jget(s, "default")) return true;
    JSON_FOREACH_MEMBER(m, json_is(s, JSON_OBJECT) ? s : NULL)
        if (has_defaults(m->value, depth + 1)) return true;
    JSON_FOREACH(it, json_is(s, JSON_ARRAY) ? s : NULL)
        if (has_defaults(it, depth + 1)) return true;
    return false;
}

/* https://host/...: where it was approved. */
static bool is_url(const char *s) {
    const char *host = strstr(s, "://");
    return is_absolute_uri(s) && host && host[3] && host[3] != '/' && !strpbrk(s, " \t\n");
}

/* Groups of the Kubernetes project say who let them in; what is stored without may stay so. */
static void approval(struct vctx *v, const struct json *obj, const struct json *old, const char *group) {
    static const char key[] = "api-approved.kubernetes.io";
    enum { MISSING, INVALID, APPROVED, BYPASSED } states[2] = {MISSING, MISSING};
    const struct json *objs[] = {obj, old};
    const struct fp *p = FPK(FP(FP(NULL, "metadata"), "annotations"), key);
    if (!str_in(group, ONE_OF("k8s.io", "kubernetes.io")) && !str_has_suffix(group, ".k8s.io") &&
        !str_has_suffix(group, ".kubernetes.io"))
        return;
    for (size_t i = 0; i < 2; i++) {
        const char *s = str_or_empty(json_as_str(json_at(objs[i], "metadata", "annotations", key, NULL)));
        states[i] = !*s ? MISSING : is_url(s) ? APPROVED : str_has_prefix(s, "unapproved") ? BYPASSED : INVALID;
    }
    if (old && states[0] == states[1]) return;
    if (states[0] == MISSING)
        v_required(v, p,
                   "protected groups must have approval annotation \"api-approved.kubernetes.io\", see "
                   "https://github.com/kubernetes/enhancements/pull/1111");
    if (states[0] == INVALID)
        v_invalid(v, p, json_at(obj, "metadata", "annotations", key, NULL),
                  "must be a URL, or start with \"unapproved\"");
}

VALIDATE_FN(crd) {
    const struct json *spec = json_get(obj, "spec"), *names = json_get(spec, "names"), *was = json_get(old, "spec");
    const struct fp *p = FP(NULL, "spec");
    const char *group = jstr(spec, "group"), *scope = jstr(spec, "scope");
    const char *want = arena_printf(v->a, "%s.%s", jstr(names, "plural"), group);
    if (!old) v_fixed_name(v, json_get(obj, "metadata"), want);
    if (!*group)
        v_required(v, FP(p, "group"), NULL);
    else if (is_dns1123_subdomain(group))
        v_invalid(v, FP(p, "group"), json_get(spec, "group"), "%s", is_dns1123_subdomain(group));
    else if (!strchr(group, '.'))
        v_invalid(v, FP(p, "group"), json_get(spec, "group"), "should be a domain with at least one dot");
    if (!*scope)
        v_required(v, FP(p, "scope"), NULL);
    else if (!str_in(scope, ONE_OF("Cluster", "Namespaced")))
        v_not_supported(v, FP(p, "scope"), json_get(spec, "scope"), ONE_OF("Cluster", "Namespaced"));
    if (json_get_bool(spec, "preserveUnknownFields", false)) {
        if (has_defaults(json_get(spec, "versions"), 0))
            v_invalid(v, FP(p, "preserveUnknownFields"), json_get(spec, "preserveUnknownFields"),
                      "must be false in order to use defaults in the schema");
        v_invalid(
            v, FP(p, "preserveUnknownFields"), json_get(spec, "preserveUnknownFields"),
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead");
        if (str_eq(jstr(json_get(spec, "conversion"), "strategy"), "Webhook"))
            v_invalid(v, FP(FP(p, "conversion"), "strategy"), json_at(spec, "conversion", "strategy", NULL),
                      "must be None if spec.preserveUnknownFields is true");
    }
    approval(v, obj, old, group);
    versions(v, spec, was, p);
    validate_definition_names(v, names, true, FP(p, "names"));
    conversion(v, json_get(spec, "conversion"), FP(p, "conversion"));
    stored_versions(v, obj);
    if (!old) return;
    v_immutable(v, FP(p, "group"), json_get(spec, "group"), json_get(was, "group"));
    v_immutable(v, FP(FP(p, "names"), "plural"), json_get(names, "plural"), json_at(was, "names", "plural", NULL));
    const struct json *cond, *conds = json_at(old, "status", "conditions", NULL);
    bool established = false;
    JSON_FOREACH(cond, conds)
        established |= str_eq(jstr(cond, "type"), "Established") && str_eq(jstr(cond, "status"), "True");
    if (!established) return;
    v_immutable(v, FP(p, "scope"), json_get(spec, "scope"), json_get(was, "scope"));
    v_immutable(v, FP(FP(p, "names"), "kind"), json_get(names, "kind"), json_at(was, "names", "kind", NULL));
}

/* ---- APIService ---- */

VALIDATE_FN(api_service) {
    const struct json *spec = json_get(obj, "spec"), *svc = jget(spec, "service");
    const struct fp *p = FP(NULL, "spec");
    const char *group = jstr(spec, "group"), *ver = jstr(spec, "version");
    const char *want = arena_printf(v->a, "%s.%s", ver, group);
    int64_t gp = json_get_int(spec, "groupPriorityMinimum", 0), vp = json_get_int(spec, "versionPriority", 0);
    v_fixed_name(v, json_get(obj, "metadata"), want);
    if (!*group && !str_eq(ver, "v1"))
        v_required(v, FP(p, "group"), "only v1 may have an empty group and it better be legacy kube");
    else if (*group)
        v_subdomain(v, FP(p, "group"), json_get(spec, "group"));
    v_label1035(v, FP(p, "version"), json_get(spec, "version"));
    if (gp <= 0 || gp > 20000)
        v_invalid(v, FP(p, "groupPriorityMinimum"), json_get(spec, "groupPriorityMinimum"),
                  "must be positive and less than 20000");
    if (vp <= 0 || vp > 1000)
        v_invalid(v, FP(p, "versionPriority"), json_get(spec, "versionPriority"),
                  "must be positive and less than 1000");
    const char *ca = jstr(spec, "caBundle");
    bool insecure = json_get_bool(spec, "insecureSkipTLSVerify", false);
    if (!svc) {
        if (*ca) v_invalid(v, FP(p, "caBundle"), NULL, "local APIServices may not have a caBundle");
        if (insecure)
            v_invalid(v, FP(p, "insecureSkipTLSVerify"), json_get(spec, "insecureSkipTLSVerify"),
                      "local APIServices may not have insecureSkipTLSVerify");
        return;
    }
    if (!*jstr(svc, "namespace")) v_required(v, FP(FP(p, "service"), "namespace"), NULL);
    if (!*jstr(svc, "name")) v_required(v, FP(FP(p, "service"), "name"), NULL);
    v_port(v, FP(FP(p, "service"), "port"), json_get(svc, "port"));
    if (insecure && *ca)
        v_invalid(v, FP(p, "insecureSkipTLSVerify"), json_get(spec, "insecureSkipTLSVerify"),
                  "may not be true if caBundle is present");
}
