/* Volumes of pods and the sources of PersistentVolumes. The table lists every source in the order in which
 * upstream looks at them: the second one found is Forbidden, under the name that its message uses. What each
 * source requires is a list of members; the few with more rules have a function. Upstream:
 * validateVolumeSource and ValidatePersistentVolumeSpec in pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

enum {
    TOKEN_SECONDS_DEFAULT = 3600,
    TOKEN_SECONDS_MIN = 600,
    CERT_SECONDS_MIN = 3600,
    CERT_SECONDS_OWN_MAX = 24 * 3600,
    CERT_SECONDS_MAX = 91 * 24 * 3600,
};

static void key_items(struct vctx *v, const struct json *items, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, items) {
        const struct fp *at = FPI(p, it_i);
        if (!*jstr(it, "key")) v_required(v, FP(at, "key"), NULL);
        if (!*jstr(it, "path")) v_required(v, FP(at, "path"), NULL);
        validate_free_path(v, FP(at, "path"), json_get(it, "path"));
        const struct json *mode = jget(it, "mode");
        if (mode && (json_as_int(mode, 0) > 0777 || json_as_int(mode, 0) < 0))
            v_invalid(v, FP(at, "mode"), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

static void default_mode(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *mode = jget(s, "defaultMode");
    if (mode && (json_as_int(mode, 0) > 0777 || json_as_int(mode, 0) < 0))
        v_invalid(v, FP(p, "defaultMode"), mode, "must be a number between 0 and 0777 (octal), both inclusive");
}

static void secret(struct vctx *v, const struct json *s, const struct fp *p) {
    if (!*jstr(s, "secretName")) v_required(v, FP(p, "secretName"), NULL);
    default_mode(v, s, p);
    key_items(v, json_get(s, "items"), FP(p, "items"));
}

static void config_map(struct vctx *v, const struct json *s, const struct fp *p) {
    if (!*jstr(s, "name")) v_required(v, FP(p, "name"), NULL);
    default_mode(v, s, p);
    key_items(v, json_get(s, "items"), FP(p, "items"));
}

static void downward_file(struct vctx *v, const struct json *it, const struct fp *p) {
    const struct json *ref = jget(it, "fieldRef"), *res = jget(it, "resourceFieldRef"), *mode = jget(it, "mode");
    if (!*jstr(it, "path")) v_required(v, FP(p, "path"), NULL);
    validate_free_path(v, FP(p, "path"), json_get(it, "path"));
    if (ref) {
        validate_field_ref(v, ref, FP(p, "fieldRef"), true);
        if (res) v_invalid(v, p, NULL, "fieldRef and resourceFieldRef can not be specified simultaneously");
    } else if (res) {
        validate_resource_field_ref(v, res, FP(p, "resourceFieldRef"), true);
    } else {
        v_required(v, p, "one of fieldRef and resourceFieldRef is required");
    }
    if (mode && (json_as_int(mode, 0) > 0777 || json_as_int(mode, 0) < 0))
        v_invalid(v, FP(p, "mode"), mode, "must be a number between 0 and 0777 (octal), both inclusive");
}

static void downward_api(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *it;
    default_mode(v, s, p);
    JSON_FOREACH(it, json_get(s, "items")) downward_file(v, it, p);
}

/* Two projections may not make one file. */
static void claim_path(struct vctx *v, struct json *seen, const struct json *path, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(path));
    if (json_get(seen, s)) v_invalid(v, p, path, "conflicting duplicate paths");
    json_set_bool(v->a, seen, s, true);
}

static void claim_paths(struct vctx *v, struct json *seen, const struct json *items, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, items)
        if (*jstr(it, "path")) claim_path(v, seen, json_get(it, "path"), p);
}

static void projected_keys(struct vctx *v, struct json *seen, const struct json *src, const struct fp *sp,
                           const struct fp *p) {
    if (!*jstr(src, "name")) v_required(v, FP(sp, "name"), NULL);
    key_items(v, json_get(src, "items"), FP(sp, "items"));
    claim_paths(v, seen, json_get(src, "items"), p);
}

static void projected_token(struct vctx *v, const struct json *src, const struct fp *sp, const struct fp *p) {
    int64_t sec = json_get_int(src, "expirationSeconds", TOKEN_SECONDS_DEFAULT);
    if (sec < TOKEN_SECONDS_MIN)
        v_invalid(v, FP(sp, "expirationSeconds"), json_get(src, "expirationSeconds"),
                  "may not specify a duration less than 10 minutes");
    if (sec > (int64_t)1 << 32)
        v_invalid(v, FP(sp, "expirationSeconds"), json_get(src, "expirationSeconds"),
                  "may not specify a duration larger than 2^32 seconds");
    if (!*jstr(src, "path"))
        v_required(v, FP(p, "path"), NULL);
    else
        validate_free_path(v, FP(p, "path"), json_get(src, "path"));
}

static void projected_certificate(struct vctx *v, struct json *seen, const struct json *src, const struct fp *sp,
                                  const struct fp *p) {
    static const char *const paths[] = {"credentialBundlePath", "keyPath", "certificateChainPath"};
    static const char *const keys[] = {"RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", NULL};
    const char *signer = jstr(src, "signerName");
    const struct json *max = jget(src, "maxExpirationSeconds");
    size_t n = 0;
    v_signer_name(v, FP(sp, "signerName"), json_get(src, "signerName"));
    if (!str_in(jstr(src, "keyType"), keys)) v_not_supported(v, FP(sp, "keyType"), json_get(src, "keyType"), keys);
    int64_t most = str_has_prefix(signer, "kubernetes.io/") ? CERT_SECONDS_OWN_MAX : CERT_SECONDS_MAX;
    if (max && json_as_int(max, 0) < CERT_SECONDS_MIN)
        v_invalid(v, FP(sp, "maxExpirationSeconds"), max, "if provided, maxExpirationSeconds must be >= 3600");
    if (max && json_as_int(max, 0) > most)
        v_invalid(v, FP(sp, "maxExpirationSeconds"), max, "if provided, maxExpirationSeconds must be <= %lld",
                  (long long)most);
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        if (!*jstr(src, paths[i])) continue;
        n++;
        validate_free_path(v, FP(sp, paths[i]), json_get(src, paths[i]));
        claim_path(v, seen, json_get(src, paths[i]), p);
    }
    if (!n) v_required(v, sp, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath");
}

static void projected(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *it, *f, *src;
    struct json *seen = json_object(v->a);
    default_mode(v, s, p);
    JSON_FOREACH(it, json_get(s, "sources")) {
        const struct fp *at = FPI(FP(p, "sources"), it_i);
        size_t n = 0;
        if ((src = jget(it, "secret"))) n++, projected_keys(v, seen, src, FP(at, "secret"), p);
        if ((src = jget(it, "configMap"))) n++, projected_keys(v, seen, src, FP(at, "configMap"), p);
        if ((src = jget(it, "downwardAPI"))) {
            n++;
            JSON_FOREACH(f, json_get(src, "items")) downward_file(v, f, FP(at, "downwardAPI"));
            claim_paths(v, seen, json_get(src, "items"), p);
        }
        if ((src = jget(it, "serviceAccountToken"))) n++, projected_token(v, src, FP(at, "serviceAccountToken"), p);
        if ((src = jget(it, "podCertificate"))) n++, projected_certificate(v, seen, src, FP(at, "podCertificate"), p);
        if (n > 1) v_forbidden(v, at, "may not specify more than 1 volume type per source");
    }
}

static void empty_dir(struct vctx *v, const struct json *s, const struct fp *p) {
    struct quantity q;
    const char *limit = json_get_str(s, "sizeLimit");
    if (limit && quantity_parse(limit, &q) == 0 && q.nano < 0)
        v_forbidden(v, FP(p, "sizeLimit"), "SizeLimit field must be a valid resource quantity");
}

void validate_template_meta(struct vctx *v, const struct json *meta, const struct fp *p) {
    static const char *const known[] = {"labels", "annotations", NULL};
    v_annotations(v, FP(p, "annotations"), json_get(meta, "annotations"));
    v_labels(v, FP(p, "labels"), json_get(meta, "labels"));
    JSON_FOREACH_MEMBER(m, meta)
        if (!str_in(m->key, known) && m->value->type != JSON_NULL &&
            !(json_is(m->value, JSON_INT) && m->value->i == 0 && str_eq(m->key, "generation")))
            v_forbidden(v, FP(p, str_eq(m->key, "uid") ? "uID" : m->key), "cannot be set");
}

static void ephemeral(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *tmpl = jget(s, "volumeClaimTemplate");
    const struct fp *tp = FP(p, "volumeClaimTemplate");
    if (!tmpl) {
        v_required(v, tp, NULL);
        return;
    }
    validate_template_meta(v, json_get(tmpl, "metadata"), FP(tp, "metadata"));
    validate_pvc_spec(v, json_get(tmpl, "spec"), FP(tp, "spec"));
}

static void image(struct vctx *v, const struct json *s, const struct fp *p) {
    if (!*jstr(s, "reference") && str_eq(v->c->kind, "Pod")) v_required(v, FP(p, "reference"), NULL);
    v_enum(v, FP(p, "pullPolicy"), json_get(s, "pullPolicy"), ONE_OF("Always", "IfNotPresent", "Never"), true);
}

/* Sources that only pods have, and that volume_sources.c does not know. */
static const struct volume_source projections[] = {
    {"emptyDir", NULL, NULL, {NULL}, empty_dir, NULL},
    {"secret", NULL, NULL, {NULL}, secret, NULL},
    {"downwardAPI", NULL, "downwarAPI", {NULL}, downward_api, NULL},
    {"configMap", NULL, NULL, {NULL}, config_map, NULL},
    {"projected", NULL, NULL, {NULL}, projected, NULL},
    {"ephemeral", NULL, NULL, {NULL}, ephemeral, NULL},
    {"image", NULL, NULL, {NULL}, image, NULL},
};

/* The orders in which upstream looks: the second source found is the one that is too many. */
static const char *const in_pods[] = {"emptyDir",
                                      "hostPath",
                                      "gitRepo",
                                      "gcePersistentDisk",
                                      "awsElasticBlockStore",
                                      "secret",
                                      "nfs",
                                      "iscsi",
                                      "glusterfs",
                                      "flocker",
                                      "persistentVolumeClaim",
                                      "rbd",
                                      "cinder",
                                      "cephfs",
                                      "quobyte",
                                      "downwardAPI",
                                      "fc",
                                      "flexVolume",
                                      "configMap",
                                      "azureFile",
                                      "vsphereVolume",
                                      "photonPersistentDisk",
                                      "portworxVolume",
                                      "azureDisk",
                                      "storageos",
                                      "projected",
                                      "scaleIO",
                                      "csi",
                                      "ephemeral",
                                      "image",
                                      NULL};
static const char *const in_volumes[] = {"hostPath",
                                         "gcePersistentDisk",
                                         "awsElasticBlockStore",
                                         "glusterfs",
                                         "flocker",
                                         "nfs",
                                         "rbd",
                                         "quobyte",
                                         "cephfs",
                                         "iscsi",
                                         "cinder",
                                         "fc",
                                         "flexVolume",
                                         "azureFile",
                                         "vsphereVolume",
                                         "photonPersistentDisk",
                                         "portworxVolume",
                                         "azureDisk",
                                         "scaleIO",
                                         "local",
                                         "storageos",
                                         "csi",
                                         NULL};

static const struct volume_source *find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(projections); i++)
        if (str_eq(projections[i].name, name)) return &projections[i];
    return volume_source_find(name);
}

size_t validate_volume_source(struct vctx *v, const struct json *vol, bool persistent, const struct fp *p) {
    const char *const *names = persistent ? in_volumes : in_pods;
    size_t n = 0;
    for (size_t i = 0; names[i]; i++) {
        const struct json *s = jget(vol, names[i]);
        if (!s) continue;
        const struct volume_source *row = find(names[i]);
        if (n++ && !(persistent && str_eq(names[i], "flexVolume"))) {
            v_forbidden(v, FP(p, row->too_many ? row->too_many : row->name), "may not specify more than 1 volume type");
            continue;
        }
        const struct fp *at = FP(p, row->shown ? row->shown : row->name);
        for (size_t j = 0; j < ARRAY_LEN(row->required) && row->required[j]; j++)
            if (jempty(json_get(s, row->required[j]))) v_required(v, FP(at, row->required[j]), NULL);
        volume_source_fn *fn = persistent ? row->volume : row->pod;
        if (fn) fn(v, s, at);
        if (persistent && str_eq(names[i], "local") && !jget(vol, "nodeAffinity"))
            v_required(v, FP(p, "nodeAffinity"), "Local volume requires node affinity");
    }
    return n;
}

/* Whether the findings since `from` forbid the field. */
static bool refused(const struct vctx *v, size_t from, const struct fp *p) {
    for (size_t i = from; i < v->n; i++)
        if (str_eq(v->items[i].reason, "FieldValueForbidden") && str_eq(v->items[i].field, fp_text(v->a, p)))
            return true;
    return false;
}

struct json *validate_volumes(struct vctx *v, const struct json *vols, const struct json *meta, const struct fp *p) {
    struct json *right = json_array(v->a), *vol;
    JSON_FOREACH(vol, vols) {
        const struct fp *at = FPI(p, vol_i);
        const char *name = jstr(vol, "name");
        size_t before = v->n;
        if (!validate_volume_source(v, vol, false, at)) v_required(v, at, "must specify a volume type");
        bool second = refused(v, before, FP(at, "ephemeral")); /* then it is not looked at */
        if (jget(vol, "ephemeral") && !second && *name && *jstr(meta, "name"))
            v_subdomain(v, FP(at, "name"), json_strf(v->a, "%s-%s", jstr(meta, "name"), name));
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else
            v_label1123(v, FP(at, "name"), json_get(vol, "name"));
        if (*name && has_key(right, "name", name)) v_duplicate(v, FP(at, "name"), json_get(vol, "name"));
        if (v->n == before) json_append(v->a, right, vol);
    }
    return right;
}
