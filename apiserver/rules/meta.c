/* ObjectMeta: what the server fills in and what it checks. Upstream: apiserver/pkg/registry/rest/meta.go and
 * apimachinery/pkg/api/validation/objectmeta.go, with the extra finalizer rule of pkg/apis/core/validation.
 */
#include "apiserver/rules/kinds.h"
#include "pkg/base/bytes.h"

enum { GENERATED_NAME_MAX = 63, GENERATED_SUFFIX = 5 };

void meta_prepare_create(struct rules_ctx *c, struct json *obj) {
    static const char *const cleared[] = {"deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"};
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    char text[KTIME_MAX], uid[37], suffix[GENERATED_SUFFIX + 1];
    for (size_t i = 0; i < ARRAY_LEN(cleared); i++) json_del(meta, cleared[i]);
    const char *base = jstr(meta, "generateName");
    if (!*jstr(meta, "name") && *base) {
        random_name(suffix, GENERATED_SUFFIX);
        json_set(c->a, meta, "name",
                 json_strf(c->a, "%.*s%s", GENERATED_NAME_MAX - GENERATED_SUFFIX, base, suffix));
    }
    uuid_new(uid);
    json_set_str(c->a, meta, "uid", uid);
    json_set_str(c->a, meta, "creationTimestamp", ktime_format(c->now, text));
}

static const char *name_fault(enum name_rule rule, const char *name) {
    switch (rule) {
        case NAME_LABEL: return is_dns1123_label(name);
        case NAME_LABEL1035: return is_dns1035_label(name);
        case NAME_ANY:
        case NAME_PATH:
        case NAME_RBAC: return is_path_segment(name);
        case NAME_IP: return is_ip(name, NULL) ? NULL : "must be a valid IP address in canonical form";
        case NAME_SUBDOMAIN: break;
    }
    return is_dns1123_subdomain(name);
}

const char *rules_name_check(struct rules_ctx *c, const char *name, bool prefix) {
    const struct kind_rules *k = kind_find(c->group, c->kind);
    enum name_rule rule = k ? k->name : NAME_SUBDOMAIN;
    size_t n = strlen(name);
    if (!prefix) return name_fault(rule, name);
    if (rule == NAME_PATH || rule == NAME_RBAC || rule == NAME_ANY) return is_path_segment_prefix(name);
    /* a prefix may end in a dash: the suffix follows */
    char *copy = arena_strdup(c->a, name);
    if (n > 1 && copy[n - 1] == '-') copy[n - 1] = 'a';
    return name_fault(rule, copy);
}

static void v_name(struct vctx *v, const struct json *meta, const struct fp *p) {
    const char *name = jstr(meta, "name"), *base = jstr(meta, "generateName"), *bad;
    if (*base && (bad = rules_name_check(v->c, base, true)))
        v_invalid(v, FP(p, "generateName"), json_get(meta, "generateName"), "%s", bad);
    if (!*name) {
        v_required(v, FP(p, "name"), "name or generateName is required");
    } else if ((bad = rules_name_check(v->c, name, false))) {
        v_invalid(v, FP(p, "name"), json_get(meta, "name"), "%s", bad);
    }
}

static void v_owners(struct vctx *v, const struct json *owners, const struct fp *p) {
    const struct json *o;
    bool controller = false;
    JSON_FOREACH(o, owners) {
        const char *av = jstr(o, "apiVersion"), *slash = strchr(av, '/');
        if (!*av || (slash && strchr(slash + 1, '/')))
            v_invalid(v, FP(p, "apiVersion"), json_get(o, "apiVersion"), "version must not be empty");
        if (!*jstr(o, "kind")) v_invalid(v, FP(p, "kind"), json_get(o, "kind"), "must not be empty");
        if (!*jstr(o, "name")) v_invalid(v, FP(p, "name"), json_get(o, "name"), "must not be empty");
        if (!*jstr(o, "uid")) v_invalid(v, FP(p, "uid"), json_get(o, "uid"), "must not be empty");
        if (str_eq(av, "v1") && str_eq(jstr(o, "kind"), "Event"))
            v_invalid(v, p, o, "v1, Kind=Event is disallowed from being an owner");
        if (!json_get_bool(o, "controller", false)) continue;
        if (controller) v_invalid(v, p, owners, "Only one reference can have Controller set to true");
        controller = true;
    }
}

static void v_finalizers(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *f;
    bool orphan = false, foreground = false;
    bool extension =
        str_in(str_or_empty(v->c->group), ONE_OF("apiextensions.k8s.io", "apiregistration.k8s.io",
                                                 "admissionregistration.k8s.io"));
    JSON_FOREACH(f, list) {
        const char *s = str_or_empty(json_as_str(f));
        for (size_t n = qualified_name_faults(s); n; n--) v_invalid(v, p, f, "%s", is_qualified_name(s));
        orphan |= str_eq(s, "orphan");
        foreground |= str_eq(s, "foregroundDeletion");
        if (!strchr(s, '/') && !str_in(s, ONE_OF("orphan", "foregroundDeletion", "kubernetes")) &&
            v->c->type && !extension)
            v_invalid(v, FPI(p, f_i), f,
                      "name is neither a standard finalizer name nor is it fully qualified");
    }
    if (orphan && foreground) v_invalid(v, p, list, "orphan and foregroundDeletion cannot be both set");
}

static void v_managed_fields(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *f;
    JSON_FOREACH(f, list) {
        const struct fp *at = FPI(p, f_i);
        if (!str_in(jstr(f, "operation"), ONE_OF("Apply", "Update")))
            v_invalid(v, FP(at, "operation"), json_get(f, "operation"), "must be `Apply` or `Update`");
        if (*jstr(f, "fieldsType") && !str_eq(jstr(f, "fieldsType"), "FieldsV1"))
            v_invalid(v, FP(at, "fieldsType"), json_get(f, "fieldsType"), "must be `FieldsV1`");
        if (strlen(jstr(f, "manager")) > 128) v_too_long(v, FP(at, "manager"), 128);
    }
}

static void v_common(struct vctx *v, const struct json *meta, const struct fp *p) {
    if (json_get_int(meta, "generation", 0) < 0)
        v_invalid(v, FP(p, "generation"), json_get(meta, "generation"), "must be greater than or equal to 0");
    v_labels(v, FP(p, "labels"), json_get(meta, "labels"));
    v_annotations(v, FP(p, "annotations"), json_get(meta, "annotations"));
    v_owners(v, json_get(meta, "ownerReferences"), FP(p, "ownerReferences"));
    v_finalizers(v, json_get(meta, "finalizers"), FP(p, "finalizers"));
    v_managed_fields(v, json_get(meta, "managedFields"), FP(p, "managedFields"));
}

void meta_validate(struct vctx *v, const struct json *meta, const struct fp *p, bool create) {
    if (create) v_name(v, meta, p);
    if (create && v->c->namespaced) {
        const char *ns = jstr(meta, "namespace"), *bad;
        if (!*ns)
            v_required(v, FP(p, "namespace"), NULL);
        else if ((bad = is_dns1123_label(ns)))
            v_invalid(v, FP(p, "namespace"), json_get(meta, "namespace"), "%s", bad);
    } else if (create && *jstr(meta, "namespace")) {
        v_forbidden(v, FP(p, "namespace"), "not allowed on this type");
    }
    v_common(v, meta, p);
}

void meta_validate_update(struct vctx *v, const struct json *meta, const struct json *old) {
    static const char *const fixed[] = {
        "name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"};
    const struct fp *p = FP(NULL, "metadata");
    const struct json *f;
    if (jget(old, "deletionTimestamp")) {
        const struct json *had = json_get(old, "finalizers");
        bool added = false;
        JSON_FOREACH(f, json_get(meta, "finalizers")) {
            const struct json *o;
            bool known = false;
            JSON_FOREACH(o, had) known |= json_equal(o, f);
            added |= !known;
        }
        if (added)
            v_forbidden(v, FP(p, "finalizers"),
                        "no new finalizers can be added if the object is being deleted");
    }
    if (!*jstr(meta, "resourceVersion"))
        v_invalid(v, FP(p, "resourceVersion"), json_get(meta, "resourceVersion"),
                  "must be specified for an update");
    if (json_get_int(meta, "generation", 0) < json_get_int(old, "generation", 0))
        v_invalid(v, FP(p, "generation"), json_get(meta, "generation"), "must not be decremented");
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        v_immutable(v, FP(p, fixed[i]), json_get(meta, fixed[i]), json_get(old, fixed[i]));
    meta_validate(v, meta, p, false);
}
