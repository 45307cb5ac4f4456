/* Request bodies: from bytes in JSON, YAML or protobuf to a tree in canonical form, with the field validation that
 * ?fieldValidation= asks for (Warn is the default, as upstream). */
#include "apiserver/audit/audit.h"
#include "apiserver/crd/registry.h"
#include "apiserver/request.h"
#include "apiserver/rules/crd_schema.h"
#include "pkg/yaml/yaml.h"

enum { MAX_REPORTED = 20 };

static bool media_is(const char *ct, const char *want) {
    size_t n = strcspn(ct, ";");
    while (n && ct[n - 1] == ' ') n--;
    return strlen(want) == n && strncasecmp(ct, want, n) == 0;
}

static int parse_text(struct request *q, bool yaml, struct json **v, struct json_dups *dups, struct err *e) {
    _cleanup_err_ struct err why = {0};
    int rc = yaml ? yaml_parse_one(q->a, q->http->body, q->http->body_len, v, dups, &why)
                  : json_parse(q->a, q->http->body, q->http->body_len, v, dups, &why);
    if (!rc && json_is(*v, JSON_OBJECT)) return 0;
    return err_status(e, 400, "BadRequest", "the object provided is unrecognized (must be of type %s): %s",
                      yaml ? "YAML" : "JSON", rc ? why.msg : "not an object");
}

static int check_kind(struct json *v, struct arena *a, const char *api_version, const char *kind, struct err *e) {
    const char *k = json_get_str(v, "kind"), *g = json_get_str(v, "apiVersion");
    if (str_empty(k)) json_set_str(a, v, "kind", kind);
    if (str_empty(g)) json_set_str(a, v, "apiVersion", api_version);
    /* DeleteOptions are at home in every group and version: clients send them in the resource's own */
    bool any_version = str_eq(kind, "DeleteOptions");
    if ((!str_empty(k) && !str_eq(k, kind)) || (!any_version && !str_empty(g) && !str_eq(g, api_version)))
        return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s", str_or_empty(k),
                          str_or_empty(g), kind);
    return 0;
}

enum validation { V_IGNORE, V_WARN, V_STRICT };

static int validation_level(struct request *q, enum validation *out, struct err *e) {
    const char *v = http_query(q->http, "fieldValidation");
    *out = V_WARN;
    if (str_empty(v) || str_eq(v, "Warn")) return 0;
    *out = str_eq(v, "Strict") ? V_STRICT : V_IGNORE;
    if (*out == V_STRICT || str_eq(v, "Ignore")) return 0;
    err_status(e, 422, "Invalid", "fieldValidation: Unsupported value: \"%.100s\"", v);
    err_details(e, "meta.k8s.io", "CreateOptions", NULL);
    err_cause_add(e, "FieldValueNotSupported", "fieldValidation", "Unsupported value: \"%.100s\"", v);
    return -EINVAL;
}

static int report(struct request *q, const struct api_problems *unknown, const struct json_dups *dups, struct err *e) {
    enum validation level;
    int rc = validation_level(q, &level, e);
    size_t n_dups = dups ? dups->n : 0;
    if (rc || level == V_IGNORE || (!unknown->n && !n_dups)) return rc;
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < n_dups + unknown->n && i < MAX_REPORTED; i++) {
        const char *kind = i < n_dups ? "duplicate field" : unknown->items[i - n_dups].kind;
        const char *path = i < n_dups ? dups->paths[i] : unknown->items[i - n_dups].path;
        if (level == V_WARN)
            request_warn(q, "%s \"%s\"", kind, path);
        else
            buf_printf(&b, "%s%s \"%s\"", i ? ", " : "", kind, path);
    }
    if (level == V_WARN) return 0;
    return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s: strict decoding error: %s",
                      q->res ? q->res->kind : "", q->version ? q->version : "", q->res ? q->res->kind : "object",
                      b.data);
}

static int custom_normalise(struct request *q, struct json *v, struct api_problems *unknown, struct err *e) {
    struct rules_ctx c = {
        .rules = q->s->rules, .a = q->a, .group = q->res->group, .version = q->res->version, .kind = q->res->kind};
    crd_schema_into(q->schema, &c);
    return crd_normalise(&c, v, unknown, e);
}

int body_normalise(struct request *q, const struct api_type *type, struct json *v, const struct json_dups *dups,
                   struct json **out, struct err *e) {
    struct api_problems unknown = {0};
    _cleanup_err_ struct err why = {0};
    if (!type) {
        *out = v;
        if (custom_normalise(q, v, &unknown, &why))
            return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s: %s", q->res->kind,
                              q->version, q->res->kind, why.msg);
        return report(q, &unknown, dups, e);
    }
    if (api_tree_normalise(q->a, type, v, out, &unknown, &why))
        return err_status(e, 400, "BadRequest", "%s in version \"%s\" cannot be handled as a %s: %s", type->name,
                          str_or_empty(q->version), type->name, why.msg);
    return report(q, &unknown, dups, e);
}

static int decode_proto(struct request *q, const struct api_type *type, const char *api_version, const char *kind,
                        struct json **out, struct err *e) {
    const char *have_version = NULL, *have_kind = NULL;
    struct bytes raw = {0};
    _cleanup_err_ struct err why = {0};
    struct json *v = NULL;
    if (api_proto_unwrap(q->a, (const uint8_t *)q->http->body, q->http->body_len, &have_version, &have_kind, &raw,
                         &why) ||
        api_tree_from_proto(q->a, type, raw.p, raw.n, &v, &why))
        return err_status(e, 400, "BadRequest", "the object provided is unrecognized (must be of type %s): %s", kind,
                          why.msg);
    if (!str_empty(have_kind)) json_set_str(q->a, v, "kind", have_kind);
    if (!str_empty(have_version)) json_set_str(q->a, v, "apiVersion", have_version);
    int rc = check_kind(v, q->a, api_version, kind, e);
    if (!rc) rc = body_normalise(q, type, v, NULL, out, e);
    if (!rc && q->audit) audit_request_object(q, *out);
    return rc;
}

int body_decode(struct request *q, const struct api_type *type, const char *api_version, const char *kind,
                bool may_be_empty, struct json **out, struct err *e) {
    const char *ct = http_header(q->http, "content-type");
    *out = NULL;
    if (!q->http->body_len && may_be_empty) return 0;
    if (str_empty(ct)) ct = "application/json";
    bool yaml = media_is(ct, "application/yaml");
    if (type && media_is(ct, "application/vnd.kubernetes.protobuf"))
        return decode_proto(q, type, api_version, kind, out, e);
    if (!yaml && !media_is(ct, "application/json"))
        return err_status(e, 415, "UnsupportedMediaType",
                          "the body of the request was in an unknown format - accepted media types include: "
                          "application/json, application/yaml, application/vnd.kubernetes.protobuf");
    struct json_dups dups = {0};
    struct json *v = NULL;
    int rc = parse_text(q, yaml, &v, &dups, e);
    if (!rc) rc = check_kind(v, q->a, api_version, kind, e);
    if (!rc) rc = body_normalise(q, type, v, &dups, out, e);
    if (!rc && q->audit) audit_request_object(q, *out);
    return rc;
}
