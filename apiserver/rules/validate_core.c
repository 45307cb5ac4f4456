/* The kinds of core/v1 but pods and services. Upstream: pkg/apis/core/validation/validation.go and events.go.
 */
#include <ctype.h>

#include "apiserver/rules/validate_pod.h"
#include "pkg/base/bytes.h"

enum { SECRET_MAX = 1 << 20, EVENT_REASON_MAX = 128, EVENT_MESSAGE_MAX = 1024 };

/* ---- ConfigMap, Secret ---- */

static void immutable_data(struct vctx *v, const struct json *obj, const struct json *old, const char *const *fields) {
    if (!json_get_bool(old, "immutable", false)) return;
    if (!json_get_bool(obj, "immutable", false))
        v_forbidden(v, FP(NULL, "immutable"), "field is immutable when `immutable` is set");
    for (; *fields; fields++)
        if (!jsame(json_get(obj, *fields), json_get(old, *fields)))
            v_forbidden(v, FP(NULL, *fields), "field is immutable when `immutable` is set");
}

/* Bytes that base64 text stands for. */
static size_t decoded_len(const struct json *s) {
    if (!json_is(s, JSON_STRING)) return 0;
    size_t n = s->n / 4 * 3;
    if (s->n >= 2) n -= (s->str[s->n - 1] == '=') + (s->str[s->n - 2] == '=');
    return n;
}

VALIDATE_FN(config_map) {
    const struct json *data = json_get(obj, "data"), *bin = json_get(obj, "binaryData");
    size_t total = 0;
    JSON_FOREACH_MEMBER(m, data) {
        const struct fp *p = FPK(FP(NULL, "data"), m->key);
        v_config_key(v, p, m->key);
        if (json_get(bin, m->key)) v_invalid(v, p, json_str(v->a, m->key), "duplicate of key present in binaryData");
        total += json_is(m->value, JSON_STRING) ? m->value->n : 0;
    }
    JSON_FOREACH_MEMBER(m, bin) {
        v_config_key(v, FPK(FP(NULL, "binaryData"), m->key), m->key);
        total += decoded_len(m->value);
    }
    if (total > SECRET_MAX) v_too_long(v, FP(NULL, ""), SECRET_MAX);
    if (old) immutable_data(v, obj, old, ONE_OF("data", "binaryData"));
}

static bool is_json_object(struct arena *a, const struct json *b64) {
    size_t n = 0;
    struct json *doc;
    const char *s = str_or_empty(json_as_str(b64));
    char *raw = arena_alloc(a, strlen(s) / 4 * 3 + 4);
    return base64_decode(s, strlen(s), raw, &n) == 0 && json_parse(a, raw, n, &doc, NULL, NULL) == 0 &&
           (json_is(doc, JSON_OBJECT) || json_is(doc, JSON_NULL));
}

static const struct {
    const char *type, *keys[2];
} secret_types[] = {
    {"kubernetes.io/dockercfg", {".dockercfg"}},
    {"kubernetes.io/dockerconfigjson", {".dockerconfigjson"}},
    {"kubernetes.io/ssh-auth", {"ssh-privatekey"}},
    {"kubernetes.io/tls", {"tls.crt", "tls.key"}},
};

VALIDATE_FN(secret) {
    const struct json *data = json_get(obj, "data");
    const char *type = jstr(obj, "type");
    const struct fp *p = FP(NULL, "data");
    size_t total = 0;
    JSON_FOREACH_MEMBER(m, data) {
        v_config_key(v, FPK(p, m->key), m->key);
        total += decoded_len(m->value);
    }
    if (total > SECRET_MAX) v_too_long(v, p, SECRET_MAX);
    if (str_eq(type, "kubernetes.io/service-account-token") &&
        str_empty(json_as_str(json_at(obj, "metadata", "annotations", "kubernetes.io/service-account.name", NULL))))
        v_required(v, FPK(FP(FP(NULL, "metadata"), "annotations"), "kubernetes.io/service-account.name"), NULL);
    if (str_eq(type, "kubernetes.io/basic-auth") && !json_get(data, "username") && !json_get(data, "password")) {
        v_required(v, FPK(p, "username"), NULL);
        v_required(v, FPK(p, "password"), NULL);
    }
    for (size_t i = 0; i < ARRAY_LEN(secret_types); i++) {
        if (!str_eq(type, secret_types[i].type)) continue;
        for (size_t j = 0; j < 2 && secret_types[i].keys[j]; j++) {
            const struct json *value = json_get(data, secret_types[i].keys[j]);
            bool empty = !value || (str_eq(type, "kubernetes.io/ssh-auth") && str_empty(json_as_str(value)));
            if (empty)
                v_required(v, FPK(p, secret_types[i].keys[j]), NULL);
            else if (i < 2 && !is_json_object(v->a, value))
                v_invalid(v, FPK(p, secret_types[i].keys[j]), NULL, "<secret contents redacted>");
        }
    }
    if (!old) return;
    v_immutable(v, FP(NULL, "type"), json_get(obj, "type"), json_get(old, "type"));
    immutable_data(v, obj, old, ONE_OF("data"));
}

VALIDATE_FN(service_account) {}

/* ---- volumes and claims ---- */

static void access_modes(struct vctx *v, const struct json *modes, const struct fp *p, const char *why) {
    static const char *const ok[] = {"ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod", NULL};
    const struct json *m;
    bool single = false, other = false;
    if (!json_len(modes)) v_required(v, p, why);
    JSON_FOREACH(m, modes) {
        const char *s = str_or_empty(json_as_str(m));
        if (!str_in(s, ok))
            v_not_supported(v, p, m, ok);
        else if (str_eq(s, "ReadWriteOncePod"))
            single = true;
        else
            other = true;
    }
    if (single && other) v_forbidden(v, p, "may not use ReadWriteOncePod with other access modes");
}

static void class_name(struct vctx *v, const struct json *spec, const char *key, const struct fp *p) {
    const char *s = jstr(spec, key);
    if (*s) v_subdomain(v, FP(p, key), json_get(spec, key));
}

static void data_source(struct vctx *v, const struct json *spec, const char *key, const struct fp *up) {
    const struct json *s = jget(spec, key);
    const struct fp *p = FP(up, key);
    if (!s) return;
    if (!*jstr(s, "name")) v_required(v, FP(p, "name"), NULL);
    if (!*jstr(s, "kind")) v_required(v, FP(p, "kind"), NULL);
    if (!*jstr(s, "apiGroup") && !str_eq(jstr(s, "kind"), "PersistentVolumeClaim"))
        v_invalid(v, p, json_get(s, "kind"), "must be 'PersistentVolumeClaim' when referencing the default apiGroup");
    if (*jstr(s, "apiGroup")) v_subdomain(v, FP(p, "apiGroup"), json_get(s, "apiGroup"));
    if (*jstr(s, "namespace")) v_label1123(v, FP(p, "namespace"), json_get(s, "namespace"));
}

void validate_pvc_spec(struct vctx *v, const struct json *spec, const struct fp *p) {
    struct quantity q;
    access_modes(v, json_get(spec, "accessModes"), FP(p, "accessModes"), "at least 1 access mode is required");
    if (jget(spec, "selector")) v_label_selector(v, FP(p, "selector"), json_get(spec, "selector"), false);
    const struct json *size = json_at(spec, "resources", "requests", "storage", NULL);
    const struct fp *at = FPK(FP(p, "resources"), "storage");
    if (!size)
        v_required(v, at, NULL);
    else if (quantity_parse(str_or_empty(json_as_str(size)), &q) == 0 && q.nano <= 0)
        v_invalid(v, at, size, "must be greater than zero");
    class_name(v, spec, "storageClassName", p);
    v_enum(v, FP(p, "volumeMode"), json_get(spec, "volumeMode"), ONE_OF("Block", "Filesystem"), false);
    data_source(v, spec, "dataSource", p);
    data_source(v, spec, "dataSourceRef", p);
    if (jget(spec, "dataSource") && jget(spec, "dataSourceRef")) {
        if (*jstr(json_get(spec, "dataSourceRef"), "namespace"))
            v_invalid(v, p, json_get(spec, "dataSource"),
                      "may not be specified when dataSourceRef.namespace is specified");
        else if (!jsame(json_get(spec, "dataSource"), json_get(spec, "dataSourceRef")))
            v_invalid(v, p, json_get(spec, "dataSource"), "must match dataSourceRef");
    }
    class_name(v, spec, "volumeAttributesClassName", p);
}

VALIDATE_FN(persistent_volume_claim) {
    const struct fp *p = FP(NULL, "spec");
    const struct json *spec = json_get(obj, "spec"), *was = json_get(old, "spec");
    validate_pvc_spec(v, spec, p);
    if (!old) return;
    struct json *now = json_clone(v->a, spec), *before = json_clone(v->a, was);
    bool bound = str_eq(json_as_str(json_at(obj, "status", "phase", NULL)), "Bound");
    if (!*jstr(was, "volumeName")) json_del(now, "volumeName"), json_del(before, "volumeName");
    if (!jget(was, "storageClassName")) json_del(now, "storageClassName");
    if (bound) {
        json_del(json_at(now, "resources", "requests", NULL), "storage");
        json_del(json_at(before, "resources", "requests", NULL), "storage");
        json_del(now, "volumeAttributesClassName");
        json_del(before, "volumeAttributesClassName");
    }
    if (!jsame(now, before))
        v_forbidden(v, p,
                    "spec is immutable after creation except resources.requests and "
                    "volumeAttributesClassName for bound claims");
    const struct fp *size = FP(FP(FP(p, "resources"), "requests"), "storage");
    int64_t n = quantity_str_milli(json_as_str(json_at(spec, "resources", "requests", "storage", NULL)));
    int64_t o = quantity_str_milli(json_as_str(json_at(was, "resources", "requests", "storage", NULL)));
    int64_t have = quantity_str_milli(json_as_str(json_at(old, "status", "capacity", "storage", NULL)));
    if (n < o && n <= have) v_forbidden(v, size, "field can not be less than status.capacity");
    v_immutable(v, FP(NULL, "volumeMode"), json_get(spec, "volumeMode"), json_get(was, "volumeMode"));
}

static const char *const pv_fields[] = {
    "capacity",     "accessModes", "claimRef",     "persistentVolumeReclaimPolicy", "storageClassName",
    "mountOptions", "volumeMode",  "nodeAffinity", "volumeAttributesClassName",     NULL};

static void pv_capacity(struct vctx *v, const struct json *cap, const struct fp *p) {
    struct quantity q;
    if (!json_len(cap)) v_required(v, p, NULL);
    if (!json_get(cap, "storage") || json_len(cap) > 1) v_not_supported(v, p, cap, ONE_OF("storage"));
    JSON_FOREACH_MEMBER(m, cap) {
        if (quantity_parse(str_or_empty(json_as_str(m->value)), &q) < 0) continue;
        if (q.nano < 0) v_invalid(v, FPK(p, m->key), m->value, "must be a valid resource quantity");
        if (q.nano <= 0) v_invalid(v, FPK(p, m->key), m->value, "must be greater than zero");
    }
}

/* "/", also as "//" and "/.". */
static bool is_root(const char *path) {
    return *path == '/' && strspn(path, "/.") == strlen(path) && !strstr(path, "..");
}

/* What an attachment that holds a volume's spec within it may not have. */
static void inline_only(struct vctx *v, const struct json *spec, const struct fp *p) {
    static const char *const out[] = {"claimRef", "capacity", "nodeAffinity", "storageClassName"};
    for (size_t i = 0; i < ARRAY_LEN(out); i++)
        if (i % 2 == 0 ? jget(spec, out[i]) != NULL : !jempty(json_get(spec, out[i])))
            v_forbidden(v, FP(p, out[i]), "may not be specified in the context of inline volumes");
    if (!jget(spec, "csi")) v_required(v, FP(p, "csi"), "has to be specified in the context of inline volumes");
    if (jget(spec, "local") && jget(spec, "nodeAffinity")) /* which does not count here */
        v_required(v, FP(p, "nodeAffinity"), "Local volume requires node affinity");
    if (!str_in(jstr(spec, "persistentVolumeReclaimPolicy"), ONE_OF("", "Retain")))
        v_forbidden(v, FP(p, "persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes");
    if (jget(spec, "volumeMode") && !str_eq(jstr(spec, "volumeMode"), "Filesystem"))
        v_forbidden(v, FP(p, "volumeMode"),
                    "may not specify volumeMode other than Filesystem in the context of inline volumes");
}

static void pv_attributes_class(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *class = jget(spec, "volumeAttributesClassName");
    if (!class) return;
    if (!*jstr(spec, "volumeAttributesClassName"))
        v_required(v, FP(p, "volumeAttributesClassName"), "an empty string is disallowed");
    else
        class_name(v, spec, "volumeAttributesClassName", p);
    if (!jget(spec, "csi")) v_required(v, FP(p, "csi"), "has to be specified when using volumeAttributesClassName");
}

void validate_pv_spec(struct vctx *v, const struct json *spec, const char *name, bool is_inline, const struct fp *p) {
    enum { ISCSI_NAME_MAX = 64 };
    const struct json *aff = jget(spec, "nodeAffinity"), *iscsi = jget(spec, "iscsi");
    if (is_inline) inline_only(v, spec, p);
    access_modes(v, json_get(spec, "accessModes"), FP(p, "accessModes"), NULL);
    if (!is_inline) {
        pv_capacity(v, json_get(spec, "capacity"), FP(p, "capacity"));
        v_enum(v, FP(p, "persistentVolumeReclaimPolicy"), json_get(spec, "persistentVolumeReclaimPolicy"),
               ONE_OF("Delete", "Recycle", "Retain"), false);
        if (aff && !jget(aff, "required"))
            v_required(v, FP(FP(p, "nodeAffinity"), "required"), "must specify required node constraints");
        else if (aff)
            validate_node_selector(v, json_get(aff, "required"), FP(FP(p, "nodeAffinity"), "required"));
    }
    if (!validate_volume_source(v, spec, true, p)) v_required(v, p, "must specify a volume type");
    if (iscsi && jget(iscsi, "initiatorName") &&
        strlen(name) + 1 + strlen(jstr(iscsi, "targetPortal")) > ISCSI_NAME_MAX)
        v_invalid(v, FP(FP(p, "iscsi"), "targetportal"), json_get(iscsi, "targetPortal"),
                  "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if "
                  "iscsi.initiatorName is specified.");
    if (is_root(jstr(json_get(spec, "hostPath"), "path")) &&
        str_eq(jstr(spec, "persistentVolumeReclaimPolicy"), "Recycle"))
        v_forbidden(v, FP(p, "persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    if (!is_inline) {
        class_name(v, spec, "storageClassName", p);
        v_enum(v, FP(p, "volumeMode"), json_get(spec, "volumeMode"), ONE_OF("Block", "Filesystem"), false);
    }
    if (!is_inline) pv_attributes_class(v, spec, p);
}

VALIDATE_FN(persistent_volume) {
    const struct json *spec = json_get(obj, "spec"), *was = json_get(old, "spec");
    const struct fp *p = FP(NULL, "spec");
    validate_pv_spec(v, spec, jstr(json_get(obj, "metadata"), "name"), false, p);
    if (!old) return;
    validate_pv_spec(v, spec, jstr(json_get(obj, "metadata"), "name"), false, p); /* by the rules of updates, too */
    struct json *now = json_clone(v->a, spec), *before = json_clone(v->a, was);
    for (size_t i = 0; pv_fields[i]; i++) json_del(now, pv_fields[i]), json_del(before, pv_fields[i]);
    if (jget(was, "csi") && !json_at(was, "csi", "controllerExpandSecretRef", NULL))
        json_del(json_get(now, "csi"), "controllerExpandSecretRef");
    if (!jsame(now, before))
        v_forbidden(v, FP(p, "persistentvolumesource"), "spec.persistentvolumesource is immutable after creation");
    v_immutable(v, FP(NULL, "volumeMode"), json_get(spec, "volumeMode"), json_get(was, "volumeMode"));
    if (jget(was, "nodeAffinity") && !jsame(json_get(spec, "nodeAffinity"), json_get(was, "nodeAffinity")))
        v_invalid(v, FP(NULL, "nodeAffinity"), json_get(spec, "nodeAffinity"), "field is immutable");
    if (jget(was, "volumeAttributesClassName") && !jget(spec, "volumeAttributesClassName"))
        v_forbidden(v, FP(p, "volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
}

/* ---- Endpoints ---- */

static void endpoint_address(struct vctx *v, const struct json *a, const struct fp *p) {
    if (!is_own_ip(jstr(a, "ip"), NULL)) /* said twice, as an address and as one of an endpoint */
        v_invalid(v, FP(p, "ip"), json_get(a, "ip"), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    validate_endpoint_ip(v, FP(p, "ip"), json_get(a, "ip"));
    const char *host = jstr(a, "hostname"), *node = jstr(a, "nodeName");
    if (*host) v_label1123(v, FP(p, "hostname"), json_get(a, "hostname"));
    if (jget(a, "nodeName")) v_subdomain(v, FP(p, "nodeName"), json_str(v->a, node));
}

VALIDATE_FN(endpoints) {
    const struct json *s, *it;
    JSON_FOREACH(s, json_get(obj, "subsets")) {
        const struct fp *p = FPI(FP(NULL, "subsets"), s_i);
        const struct json *ready = json_get(s, "addresses"), *not_ready = json_get(s, "notReadyAddresses"),
                          *ports = json_get(s, "ports");
        if (!json_len(ready) && !json_len(not_ready))
            v_required(v, p, "must specify `addresses` or `notReadyAddresses`");
        JSON_FOREACH(it, ready) endpoint_address(v, it, FPI(FP(p, "addresses"), it_i));
        JSON_FOREACH(it, not_ready) endpoint_address(v, it, FPI(FP(p, "notReadyAddresses"), it_i));
        JSON_FOREACH(it, ports) {
            const struct fp *pp = FPI(FP(p, "ports"), it_i);
            const char *name = jstr(it, "name"), *app = jstr(it, "appProtocol");
            if (!*name && json_len(ports) > 1)
                v_required(v, FP(pp, "name"), NULL);
            else if (*name)
                v_label1123(v, FP(pp, "name"), json_get(it, "name"));
            v_port(v, FP(pp, "port"), json_get(it, "port"));
            v_enum(v, FP(pp, "protocol"), json_get(it, "protocol"), ONE_OF("SCTP", "TCP", "UDP"), true);
            if (jget(it, "appProtocol")) v_label_name(v, FP(pp, "appProtocol"), app);
        }
    }
}

/* ---- Namespace, Node ---- */

static void finalizer(struct vctx *v, const struct json *f, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(f));
    v_label_name(v, p, s);
    if (!strchr(s, '/') && !str_in(s, ONE_OF("kubernetes", "orphan", "foregroundDeletion")))
        v_invalid(v, p, f, "name is neither a standard finalizer name nor is it fully qualified");
}

VALIDATE_FN(namespace) {
    const struct json *f;
    const struct fp *p = FP(FP(NULL, "spec"), "finalizers");
    bool each = str_eq(v->c->subresource, "finalize"); /* which says which one */
    JSON_FOREACH(f, json_at(obj, "spec", "finalizers", NULL)) finalizer(v, f, each ? FPI(p, f_i) : p);
}

static void taints_of(struct vctx *v, const struct json *taints) {
    const struct json *t;
    JSON_FOREACH(t, taints) {
        const struct fp *p = FPI(FP(FP(NULL, "metadata"), "taints"), t_i);
        v_label_name(v, FP(p, "key"), jstr(t, "key"));
        if (is_label_value(jstr(t, "value")))
            v_invalid(v, FP(p, "value"), json_get(t, "value"), "%s", is_label_value(jstr(t, "value")));
        v_enum(v, FP(p, "effect"), json_get(t, "effect"), ONE_OF("NoSchedule", "PreferNoSchedule", "NoExecute"), true);
        for (size_t j = 0; j < t_i; j++)
            if (str_eq(jstr(json_item(taints, j), "key"), jstr(t, "key")) &&
                str_eq(jstr(json_item(taints, j), "effect"), jstr(t, "effect"))) {
                v_duplicate(v, p, t);
                break;
            }
    }
}

/* MyFeature or MyFeature/mySubFeature. */
static bool is_feature_name(const char *s) {
    if (!(*s >= 'A' && *s <= 'Z')) return false;
    for (const char *q = s; *q; q++)
        if (!isalnum((unsigned char)*q) && (*q != '/' || !q[1] || q[1] == '/')) return false;
    return true;
}

static void declared_features(struct vctx *v, const struct json *list, const struct fp *p) {
    enum { NAME_MAX_LEN = 253 };
    const struct json *it;
    JSON_FOREACH(it, list) {
        const char *s = str_or_empty(json_as_str(it)), *before = json_as_str(json_item(list, it_i - 1));
        if (it_i && str_eq(s, before))
            v_duplicate(v, FPI(p, it_i), it);
        else if (it_i && strcmp(str_or_empty(before), s) > 0)
            v_invalid(v, FPI(p, it_i), it, "list must be sorted alphabetically");
        if (strlen(s) > NAME_MAX_LEN || !is_feature_name(s))
            v_invalid(v, FPI(p, it_i), it, "invalid feature name \"%s\"", s);
    }
}

VALIDATE_FN(node) {
    const struct json *t, *spec = json_get(obj, "spec"), *was = json_get(old, "spec");
    taints_of(v, json_get(spec, "taints"));
    if (old) taints_of(v, json_get(spec, "taints")); /* by the rules of updates, too */
    const struct fp *sp = FP(NULL, "spec");
    JSON_FOREACH(t, json_get(spec, "podCIDRs"))
        if (!is_subnet(str_or_empty(json_as_str(t)), NULL))
            v_invalid(v, FPI(FP(sp, "podCIDRs"), t_i), t,
                      "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    declared_features(v, json_at(obj, "status", "declaredFeatures", NULL), FP(FP(NULL, "status"), "declaredFeatures"));
    const struct json *cidrs = json_get(spec, "podCIDRs");
    int first = 0, second = 0;
    if (json_len(cidrs) > 1) {
        bool sane = true;
        JSON_FOREACH(t, cidrs) sane &= is_subnet(str_or_empty(json_as_str(t)), t_i ? &second : &first);
        if (!sane) v_internal(v, FP(sp, "podCIDRs"), "cannot tell whether these are of both families");
        if (!sane || first == second || json_len(cidrs) > 2)
            v_invalid(v, FP(sp, "podCIDRs"), cidrs, "may specify no more than one CIDR for each IP family");
    }
    if (!old) return;
    if (json_len(json_get(was, "podCIDRs")) && !jsame(json_get(spec, "podCIDRs"), json_get(was, "podCIDRs")))
        v_forbidden(v, FP(sp, "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    if (!str_eq(jstr(spec, "externalID"), jstr(was, "externalID")))
        v_forbidden(v, FP(sp, "externalID"), "may not be updated");
    if (*jstr(was, "providerID") && !str_eq(jstr(was, "providerID"), jstr(spec, "providerID")))
        v_forbidden(v, FP(sp, "providerID"), "node updates may not change providerID except from \"\" to valid");
}

/* ---- Event ---- */

static void event_common(struct vctx *v, const struct json *obj, bool strict) {
    const char *ns = jstr(json_get(obj, "metadata"), "namespace"),
               *involved = jstr(json_get(obj, "involvedObject"), "namespace");
    const struct fp *p = FP(FP(NULL, "involvedObject"), "namespace");
    const struct json *at = json_at(obj, "involvedObject", "namespace", NULL);
    const char *controller = strict ? "reportingController" : "reportingComponent";
    if (!jget(obj, "eventTime")) {
        bool fits = *involved ? str_eq(involved, ns) : str_in(ns, ONE_OF("", "default"));
        if (!fits) v_invalid(v, p, at, "does not match event.namespace");
        return;
    }
    if (!*involved && !str_in(ns, ONE_OF("default", "kube-system")))
        v_invalid(v, p, at, "does not match event.namespace");
    if (!*jstr(obj, "reportingComponent")) v_required(v, FP(NULL, controller), NULL);
    v_label_name(v, FP(NULL, controller), jstr(obj, "reportingComponent"));
    static const struct {
        const char *key;
        size_t max;
    } limits[] = {{"reportingInstance", 128}, {"action", 128}, {"reason", EVENT_REASON_MAX}};
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        const char *s = jstr(obj, limits[i].key);
        if (!*s) v_required(v, FP(NULL, limits[i].key), NULL);
        if (strlen(s) > limits[i].max)
            v_invalid(v, FP(NULL, limits[i].key), NULL, "can have at most %zu characters", limits[i].max);
    }
    if (strlen(jstr(obj, "message")) > EVENT_MESSAGE_MAX)
        v_invalid(v, FP(NULL, "message"), NULL, "can have at most %d characters", EVENT_MESSAGE_MAX);
}

static void event_strict(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char *const unset[] = {"firstTimestamp", "lastTimestamp", "count"};
    static const char *const fixed[] = {"involvedObject", "reason",  "message",          "source", "firstTimestamp",
                                        "lastTimestamp",  "count",   "reason",           "type",   "eventTime",
                                        "action",         "related", "reportingInstance"};
    for (size_t i = 0; old && i < ARRAY_LEN(fixed); i++)
        v_immutable(v, FP(NULL, fixed[i]), json_get(obj, fixed[i]), json_get(old, fixed[i]));
    if (old)
        v_immutable(v, FP(NULL, "reportingController"), json_get(obj, "reportingComponent"),
                    json_get(old, "reportingComponent"));
    const struct json *series = jget(obj, "series");
    if (old && jsame(series, jget(old, "series"))) series = NULL;
    if (series && json_get_int(series, "count", 0) < 2)
        v_invalid(v, FP(NULL, "series.count"), NULL, "should be at least 2");
    if (series && !jget(series, "lastObservedTime")) v_required(v, FP(NULL, "series.lastObservedTime"), NULL);
    if (old) return;
    if (!jget(obj, "eventTime")) v_required(v, FP(NULL, "eventTime"), NULL);
    if (!str_in(jstr(obj, "type"), ONE_OF("Normal", "Warning")))
        v_invalid(v, FP(NULL, "type"), NULL, "has invalid value: %s", jstr(obj, "type"));
    for (size_t i = 0; i < ARRAY_LEN(unset); i++)
        if (!jempty(json_get(obj, unset[i]))) v_invalid(v, FP(NULL, unset[i]), NULL, "needs to be unset");
    const struct json *src = json_get(obj, "source");
    if (*jstr(src, "component") || *jstr(src, "host")) v_invalid(v, FP(NULL, "source"), NULL, "needs to be unset");
}

VALIDATE_FN(event) {
    bool strict = str_eq(v->c->request_group, "events.k8s.io") || str_eq(v->c->group, "events.k8s.io");
    event_common(v, obj, strict);
    if (!strict) return;
    const char *name = jstr(json_get(obj, "metadata"), "name");
    if (*name) v_subdomain(v, FP(FP(NULL, "metadata"), "name"), json_at(obj, "metadata", "name", NULL));
    event_strict(v, obj, old);
}
