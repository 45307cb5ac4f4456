/* Request bodies: from bytes in JSON, YAML or protobuf to a tree in canonical form, with the field validation that
 * ?fieldValidation= asks for (Warn is the default, as upstream). */
#include "apiserver/audit/audit.h"
#include "apiserver/crd/registry.h"
#include "apiserver/options.h"
#include "apiserver/rules/crd_schema.h"
#include "pkg/yaml/yaml.h"

enum { MAX_REPORTED = 20, PROTO_MAGIC_LEN = 4 };
#define YAML_ERRORS "yaml: unmarshal errors:"

static int parse_text(struct request *q, bool yaml, struct json **v, struct json_dups *dups, struct err *e) {
    _cleanup_err_ struct err why = {0};
    int rc = yaml ? yaml_parse_first(q->a, q->http->body, q->http->body_len, v, dups, &why)
                  : json_parse(q->a, q->http->body, q->http->body_len, v, dups, &why);
    if (!rc && json_is(*v, JSON_NULL)) *v = json_object(q->a); /* an object without members, as Go reads it */
    if (!rc && json_is(*v, JSON_OBJECT)) return 0;
    return err_status(e, 400, "BadRequest", "the object provided is unrecognized (must be of type %s): %s",
                      yaml ? "YAML" : "JSON", rc ? why.msg : "not an object");
}

static int check_kind(struct json *v, struct arena *a, const char *api_version, const char *kind, enum body_kind what,
                      bool custom, struct err *e) {
    static const char *const names[] = {"kind", "apiVersion"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const struct json *x = json_get(v, names[i]);
        if (x && x->type != JSON_NULL && !json_is(x, JSON_STRING))
            return err_status(e, 400, "BadRequest", "couldn't get version/kind; %s is no string", names[i]);
    }
    const char *k = json_get_str(v, "kind"), *g = json_get_str(v, "apiVersion");
    if (custom && (str_empty(k) || str_empty(g)))
        return err_status(e, 400, "BadRequest", "Object '%s' is missing", str_empty(k) ? "Kind" : "apiVersion");
    if (custom && !str_eq(k, kind) && str_eq(g, api_version)) {
        const char *group = arena_strndup(a, g, strcspn(g, "/"));
        err_status(e, 422, "Invalid", "%s.%s is invalid: kind: Invalid value: must be %s", k, group, kind);
        err_details(e, group, k, json_as_str(json_at(v, "metadata", "name", NULL)));
        err_cause_add(e, "FieldValueInvalid", "kind", "must be %s", kind);
        return -EINVAL;
    }
    if (str_empty(k)) json_set_str(a, v, "kind", kind);
    if (str_empty(g)) json_set_str(a, v, "apiVersion", api_version);
    bool any_version = what == BODY_OPTIONS;                       /* at home in every group and version */
    if (str_eq(kind, "Eviction") && str_eq(g, "policy/v1beta1")) { /* as older clients send it; it has no other form */
        json_set_str(a, v, "apiVersion", api_version);
        g = api_version;
    }
    if ((!str_empty(k) && !str_eq(k, kind)) || (!any_version && !str_empty(g) && !str_eq(g, api_version)))
        return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s", str_or_empty(k),
                          str_or_empty(g), kind);
    return 0;
}

enum validation { V_IGNORE, V_WARN, V_STRICT };

static enum validation validation_level(struct request *q) {
    const char *v = http_query(q->http, "fieldValidation");
    return str_eq(v, "Strict") ? V_STRICT : str_eq(v, "Ignore") ? V_IGNORE : V_WARN;
}

/* Places in a document, to tell findings in their order. */
struct ranking {
    struct arena *a;
    struct api_problems *found;
    size_t *rank, at;
};

static void rank_value(struct ranking *r, const struct json *v, const char *path) {
    for (size_t i = 0; i < r->found->n; i++)
        if (str_eq(r->found->items[i].path, path)) r->rank[i] = r->at;
    r->at++;
    if (json_is(v, JSON_OBJECT)) {
        JSON_FOREACH_MEMBER(m, v) rank_value(r, m->value, *path ? arena_printf(r->a, "%s.%s", path, m->key) : m->key);
    } else if (json_is(v, JSON_ARRAY)) {
        const struct json *it;
        JSON_FOREACH(it, v) rank_value(r, it, arena_printf(r->a, "%s[%zu]", path, (size_t)it_i));
    }
}

/* What is twice and what is unknown is found in two passes: as upstream finds it, in the document's order. */
static void sort_problems(struct arena *a, const struct json *doc, struct api_problems *found) {
    struct ranking r = {a, found, arena_zalloc(a, found->n * sizeof(size_t)), 0};
    rank_value(&r, doc, "");
    for (size_t i = 1; i < found->n; i++)
        for (size_t j = i; j && r.rank[j - 1] > r.rank[j]; j--) {
            typeof(*found->items) x = found->items[j];
            size_t n = r.rank[j];
            found->items[j] = found->items[j - 1];
            r.rank[j] = r.rank[j - 1];
            found->items[j - 1] = x;
            r.rank[j - 1] = n;
        }
}

static int report(struct request *q, const struct api_problems *found, struct err *e) {
    enum validation level = validation_level(q);
    if (level == V_IGNORE || !found->n) return 0;
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < found->n && i < MAX_REPORTED; i++) {
        const char *kind = found->items[i].kind, *path = found->items[i].path;
        if (level == V_WARN)
            request_warn(q, kind ? "%s \"%s\"" : "%s%s", str_or_empty(kind), path);
        else if (kind)
            buf_printf(&b, "%s%s \"%s\"", i ? ", " : "", kind, path);
        else
            buf_printf(&b, "%s\n  %s", i ? "" : YAML_ERRORS, path);
    }
    if (level == V_WARN) return 0;
    return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s: strict decoding error: %s",
                      q->res ? q->res->kind : "", q->version ? q->version : "", q->res ? q->res->kind : "object",
                      b.data);
}

int body_report_dups(struct request *q, const struct json_dups *dups, struct err *e) {
    enum validation level = validation_level(q);
    if (!dups->n || level == V_IGNORE) return 0;
    if (level == V_STRICT) {
        const char *text = "error strict decoding YAML: error converting YAML to JSON: " YAML_ERRORS;
        for (size_t i = 0; i < dups->n && i < MAX_REPORTED; i++)
            text = arena_printf(q->a, "%s\n  %s", text, dups->paths[i]);
        return err_status(e, 400, "BadRequest", "%s", text);
    }
    for (size_t i = 0; i < dups->n && i < MAX_REPORTED; i++) request_warn(q, "%s", dups->paths[i]);
    return 0;
}

static int custom_normalise(struct request *q, struct json *v, struct api_problems *unknown, struct err *e) {
    struct rules_ctx c = {
        .rules = q->s->rules, .a = q->a, .group = q->res->group, .version = q->res->version, .kind = q->res->kind};
    crd_schema_into(q->schema, &c);
    return crd_normalise(&c, v, unknown, e);
}

/* Without a report of what strict decoding finds. */
static int normalise(struct request *q, const struct api_type *type, struct json *v, struct api_problems *found,
                     struct json **out, struct err *e) {
    _cleanup_err_ struct err why = {0};
    const char *kind = type ? type->name : q->res->kind;
    *out = v;
    const struct json *managed = json_at(v, "metadata", "managedFields", NULL);
    bool reset = type && json_is(managed, JSON_ARRAY) && !json_len(managed); /* which canonical form does not show */
    int rc = type ? api_tree_normalise(q->a, type, v, out, found, &why) : custom_normalise(q, v, found, &why);
    if (!rc && reset) {
        struct json *list = json_set(q->a, json_get(*out, "metadata"), "managedFields", json_array(q->a));
        json_append(q->a, list, json_object(q->a));
    }
    if (!rc) return 0;
    return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s: %s", kind,
                      str_or_empty(q->version), kind, why.msg);
}

int body_normalise(struct request *q, const struct api_type *type, struct json *v, struct api_problems *found,
                   struct json **out, struct err *e) {
    int rc = normalise(q, type, v, found, out, e);
    return rc || !found ? rc : report(q, found, e);
}

static int decode_proto(struct request *q, const struct api_type *type, const char *kind, struct json **out,
                        struct err *e) {
    const char *have_version = NULL, *have_kind = NULL;
    struct bytes raw = {0};
    _cleanup_err_ struct err why = {0};
    if (q->http->body_len == PROTO_MAGIC_LEN) return err_status(e, 400, "BadRequest", "empty body");
    if (api_proto_unwrap(q->a, (const uint8_t *)q->http->body, q->http->body_len, &have_version, &have_kind, &raw,
                         &why) ||
        api_tree_from_proto(q->a, type, raw.p, raw.n, out, &why))
        return err_status(e, 400, "BadRequest", "the object provided is unrecognized (must be of type %s): %s", kind,
                          why.msg);
    if (!str_empty(have_kind)) json_set_str(q->a, *out, "kind", have_kind);
    if (!str_empty(have_version)) json_set_str(q->a, *out, "apiVersion", have_version);
    return 0;
}

static const char *body_type(struct request *q) {
    const char *ct = http_header(q->http, "content-type");
    return str_empty(ct) ? "application/json" : ct;
}

int body_check_type(struct request *q, const struct api_type *type, struct err *e) {
    const char *ct = body_type(q);
    if (request_media_is(ct, "application/json") || request_media_is(ct, "application/yaml")) return 0;
    if (type && request_media_is(ct, "application/vnd.kubernetes.protobuf")) return 0;
    return err_status(e, 415, "UnsupportedMediaType",
                      "the body of the request was in an unknown format - accepted media types include: "
                      "application/json, application/yaml, application/vnd.kubernetes.protobuf");
}

int body_decode(struct request *q, const struct api_type *type, const char *api_version, const char *kind,
                enum body_kind what, struct json **out, struct err *e) {
    const char *ct = body_type(q);
    struct api_problems found = {0};
    struct json_dups dups = {0};
    struct json *v = NULL;
    *out = NULL;
    int rc = body_check_type(q, type, e);
    if (rc) return rc;
    if (request_media_is(ct, "application/vnd.kubernetes.protobuf"))
        rc = decode_proto(q, type, kind, &v, e);
    else
        rc = parse_text(q, request_media_is(ct, "application/yaml"), &v, &dups, e);
    if (!rc) rc = check_kind(v, q->a, api_version, kind, what, !type, e);
    bool yaml = request_media_is(ct, "application/yaml");
    for (size_t i = 0; i < dups.n; i++) api_problem_add(q->a, &found, yaml ? NULL : "duplicate field", dups.paths[i]);
    const struct json *doc = dups.n && type && !yaml ? json_clone(q->a, v) : NULL;
    if (!rc) rc = normalise(q, type, v, &found, out, e);
    if (doc && !rc && found.n > dups.n && found.n <= MAX_REPORTED) sort_problems(q->a, doc, &found);
    if (!rc && what == BODY_OBJECT) rc = report(q, &found, e);
    if (!rc && q->audit) audit_request_object(q, *out);
    return rc;
}

int body_of_write(struct request *q, const struct api_type *type, const char *api_version, const char *kind,
                  const char *options, bool *dry_run, struct json **out, struct err *e) {
    int rc = body_check_type(q, type, e);
    if (!rc) rc = options_check(q, options, dry_run, e);
    return rc ? rc : body_decode(q, type, api_version, kind, BODY_OBJECT, out, e);
}
