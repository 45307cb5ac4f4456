/* ObjectMeta: what the server fills in and what it checks. Upstream: apiserver/pkg/registry/rest/meta.go and
 * apimachinery/pkg/api/validation/objectmeta.go, with the extra finalizer rule of pkg/apis/core/validation.
 */
#include "apiserver/rules/kinds.h"
#include "pkg/base/bytes.h"

enum { GENERATED_NAME_MAX = 63, GENERATED_SUFFIX = 5 };

void meta_prepare_create(struct rules_ctx *c, struct json *obj) {
    static const char *const cleared[] = {"deletionTimestamp", "deletionGracePeriodSeconds"};
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    char text[KTIME_MAX], uid[37], suffix[GENERATED_SUFFIX + 1];
    for (size_t i = 0; i < ARRAY_LEN(cleared); i++) json_del(meta, cleared[i]);
    const char *base = jstr(meta, "generateName");
    if (!*jstr(meta, "name") && *base) {
        random_name(suffix, GENERATED_SUFFIX);
        json_set(c->a, meta, "name", json_strf(c->a, "%.*s%s", GENERATED_NAME_MAX - GENERATED_SUFFIX, base, suffix));
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
        case NAME_IP: return is_canonical_ip(name) ? NULL : "must be a valid IP address in canonical form";
        case NAME_SUBDOMAIN: break;
    }
    return is_dns1123_subdomain(name);
}

/* A prefix may end in a dash: the suffix follows. Upstream leaves out the character before it, too. */
static const char *masked(struct arena *a, const char *prefix) {
    size_t n = strlen(prefix);
    char *copy = arena_strdup(a, prefix);
    if (n > 1 && copy[n - 1] == '-') {
        copy[n - 2] = 'a';
        copy[n - 1] = '\0';
    }
    return copy;
}

const char *rules_name_check(struct rules_ctx *c, const char *name, bool prefix) {
    const struct kind_rules *k = kind_find(c->group, c->kind);
    enum name_rule rule = k ? k->name : NAME_SUBDOMAIN;
    if (!prefix) return name_fault(rule, name);
    if (rule == NAME_PATH || rule == NAME_RBAC || rule == NAME_ANY) return is_path_segment_prefix(name);
    return name_fault(rule, masked(c->a, name));
}

/* A finding for each rule that the name, or what a prefix makes of it, breaks. */
static void v_name_by_rule(struct vctx *v, const struct fp *p, const char *name, bool prefix) {
    const struct kind_rules *k = kind_find(v->c->group, v->c->kind);
    enum name_rule rule = k ? k->name : NAME_SUBDOMAIN;
    const char *bad = rules_name_check(v->c, name, prefix);
    const struct json *text = json_str(v->a, prefix ? masked(v->a, name) : name);
    if (!bad) return;
    if (rule == NAME_SUBDOMAIN)
        v_subdomain(v, p, text);
    else if (rule == NAME_LABEL)
        v_label1123(v, p, text);
    else if (rule == NAME_LABEL1035)
        v_label1035(v, p, text);
    else
        v_invalid(v, p, json_str(v->a, name), "%s", bad);
}

static void v_name(struct vctx *v, const struct json *meta, const struct fp *p) {
    const char *name = jstr(meta, "name"), *base = jstr(meta, "generateName");
    if (*base && !str_eq(v->c->kind, "CertificateSigningRequest")) v_name_by_rule(v, FP(p, "generateName"), base, true);
    if (!*name)
        v_required(v, FP(p, "name"), "name or generateName is required");
    else
        v_name_by_rule(v, FP(p, "name"), name, false);
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
    JSON_FOREACH(f, list) {
        const char *s = str_or_empty(json_as_str(f));
        v_label_name(v, p, s);
        orphan |= str_eq(s, "orphan");
        foreground |= str_eq(s, "foregroundDeletion");
    }
    if (orphan && foreground) v_invalid(v, p, list, "orphan and foregroundDeletion cannot be both set");
}

/* Finalizers without a domain are Kubernetes' own. */
static void v_known_finalizers(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *f;
    JSON_FOREACH(f, list) {
        const char *s = str_or_empty(json_as_str(f));
        if (!strchr(s, '/') && !str_in(s, ONE_OF("orphan", "foregroundDeletion", "kubernetes")))
            v_invalid(v, FPI(p, f_i), f, "name is neither a standard finalizer name nor is it fully qualified");
    }
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

/* What every look at the metadata sees, of a new object or an update. */
static void v_shared(struct vctx *v, const struct json *meta, const struct fp *p) {
    v_labels(v, FP(p, "labels"), json_get(meta, "labels"));
    v_annotations(v, FP(p, "annotations"), json_get(meta, "annotations"));
    v_owners(v, json_get(meta, "ownerReferences"), FP(p, "ownerReferences"));
    v_managed_fields(v, json_get(meta, "managedFields"), FP(p, "managedFields"));
}

static void v_whole(struct vctx *v, const struct json *meta, bool core, const struct fp *p) {
    if (json_get_int(meta, "generation", 0) < 0)
        v_invalid(v, FP(p, "generation"), json_get(meta, "generation"), "must be greater than or equal to 0");
    v_shared(v, meta, p);
    v_finalizers(v, json_get(meta, "finalizers"), FP(p, "finalizers"));
    if (core) v_known_finalizers(v, json_get(meta, "finalizers"), FP(p, "finalizers"));
}

void meta_validate(struct vctx *v, const struct json *meta, const struct fp *p) {
    bool core = v->c->type &&
                !str_in(str_or_empty(v->c->group),
                        ONE_OF("apiextensions.k8s.io", "apiregistration.k8s.io", "admissionregistration.k8s.io",
                               "coordination.k8s.io", "node.k8s.io")) &&
                !(str_eq(v->c->kind, "Event") && !str_eq(v->c->request_group, "events.k8s.io"));
    v_name(v, meta, p);
    if (v->c->namespaced) {
        const char *ns = jstr(meta, "namespace");
        if (!*ns)
            v_required(v, FP(p, "namespace"), NULL);
        else
            v_label1123(v, FP(p, "namespace"), json_get(meta, "namespace"));
    } else if (*jstr(meta, "namespace")) {
        v_forbidden(v, FP(p, "namespace"), "not allowed on this type");
    }
    v_whole(v, meta, core, p);
}

/* ---- updates ---- */

/* On an update the metadata is looked at by the registry, whole and for its changes, and then by the kind's own
 * validation, which differs between kinds: as whole metadata, as a change, both or neither; with or without the rule for
 * finalizers of the core kinds. Each look has its own findings, and the answer lists them all. */
struct looks {
    const char *kind, *group; /* group NULL: any */
    unsigned whole, change;
    bool core;
};
static const struct looks own_looks[] = {
    {"DaemonSet", "apps", 0, 1, true},
    {"Deployment", "apps", 0, 1, true},
    {"ReplicaSet", "apps", 0, 1, true},
    {"StatefulSet", "apps", 0, 1, true},
    {"HorizontalPodAutoscaler", "autoscaling", 0, 1, true},
    {"CronJob", "batch", 0, 1, true},
    {"NetworkPolicy", "networking.k8s.io", 0, 1, true},
    {"ServiceCIDR", "networking.k8s.io", 0, 1, true},
    {"PriorityClass", "scheduling.k8s.io", 0, 1, true},
    {"CSIDriver", "storage.k8s.io", 0, 1, true},
    {"PodTemplate", "", 0, 1, true},
    {"ReplicationController", "", 0, 1, true},
    {"ResourceQuota", "", 0, 1, true},
    {"Service", "", 0, 1, true},
    {"ResourceSlice", "resource.k8s.io", 0, 1, true},
    {"EndpointSlice", "discovery.k8s.io", 1, 0, true},
    {"FlowSchema", "flowcontrol.apiserver.k8s.io", 1, 0, true},
    {"PriorityLevelConfiguration", "flowcontrol.apiserver.k8s.io", 1, 0, true},
    {"CSINode", "storage.k8s.io", 1, 0, true},
    {"VolumeAttachment", "storage.k8s.io", 1, 0, true},
    {"LimitRange", "", 1, 0, true},
    {"PersistentVolume", "", 2, 0, true},
    {NULL, "admissionregistration.k8s.io", 1, 0, false},
    {"CustomResourceDefinition", "apiextensions.k8s.io", 0, 1, false},
    {"Lease", "coordination.k8s.io", 0, 1, false},
    {"APIService", "apiregistration.k8s.io", 1, 1, false},
    {"RuntimeClass", "node.k8s.io", 1, 1, false},
    {"PodDisruptionBudget", "policy", 0, 0, false},
};

static struct looks looks_of(const struct rules_ctx *c) {
    struct looks l = {.whole = 1, .change = 1, .core = true};
    if (!c->type) return (struct looks){.change = 1};
    if (str_eq(c->kind, "Event")) {
        bool strict = str_eq(c->request_group, "events.k8s.io");
        return (struct looks){.change = strict, .core = strict};
    }
    for (size_t i = 0; i < ARRAY_LEN(own_looks); i++)
        if (str_eq(own_looks[i].group, str_or_empty(c->group)) &&
            (!own_looks[i].kind || str_eq(own_looks[i].kind, c->kind)))
            l = own_looks[i];
    if (!str_empty(c->subresource) && !str_eq(c->kind, "PodDisruptionBudget")) l.whole = 0, l.change = 1;
    if (str_eq(c->subresource, "status") && str_eq(c->kind, "CronJob")) l.change = 0;
    return l;
}

static void v_change(struct vctx *v, const struct json *meta, const struct json *old, bool core, const struct fp *p) {
    static const char *const fixed[] = {
        "name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"};
    const struct json *f, *o;
    if (jget(old, "deletionTimestamp")) {
        bool added = false;
        JSON_FOREACH(f, json_get(meta, "finalizers")) {
            bool known = false;
            JSON_FOREACH(o, json_get(old, "finalizers")) known |= json_equal(o, f);
            added |= !known;
        }
        if (added) v_forbidden(v, FP(p, "finalizers"), "no new finalizers can be added if the object is being deleted");
    }
    if (!*jstr(meta, "resourceVersion"))
        v_invalid(v, FP(p, "resourceVersion"), json_get(meta, "resourceVersion"), "must be specified for an update");
    if (json_get_int(meta, "generation", 0) < json_get_int(old, "generation", 0))
        v_invalid(v, FP(p, "generation"), json_get(meta, "generation"), "must not be decremented");
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        v_immutable(v, FP(p, fixed[i]), json_get(meta, fixed[i]), json_get(old, fixed[i]));
    v_shared(v, meta, p);
    if (core) v_known_finalizers(v, json_get(meta, "finalizers"), FP(p, "finalizers"));
}

void meta_validate_update(struct vctx *v, const struct json *meta, const struct json *old) {
    const struct fp *p = FP(NULL, "metadata");
    struct looks l = looks_of(v->c);
    const char *base = jstr(meta, "generateName");
    if (*base && is_path_segment_prefix(base))
        v_invalid(v, FP(p, "generateName"), json_get(meta, "generateName"), "%s", is_path_segment_prefix(base));
    v_whole(v, meta, false, p);
    v_change(v, meta, old, false, p);
    for (unsigned i = 0; i < l.whole; i++) {
        v_name(v, meta, p);
        v_whole(v, meta, l.core, p);
    }
    for (unsigned i = 0; i < l.change; i++) v_change(v, meta, old, l.core, p);
}
