/* Volumes of pods and the sources of PersistentVolumes. The table lists every source in the order in which
 * upstream looks at them: the second one found is Forbidden, under the name that its message uses. What each
 * source requires is a list of members; the few with more rules have a function. Upstream:
 * validateVolumeSource and ValidatePersistentVolumeSpec in pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

typedef void source_fn(struct vctx *v, const struct json *s, const struct fp *p);

static void key_items(struct vctx *v, const struct json *items, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, items) {
        const struct fp *at = FPI(p, it_i);
        if (!*jstr(it, "key")) v_required(v, FP(at, "key"), NULL);
        if (!*jstr(it, "path")) v_required(v, FP(at, "path"), NULL);
        validate_local_path(v, FP(at, "path"), json_get(it, "path"));
        const struct json *mode = jget(it, "mode");
        if (mode && (json_as_int(mode, 0) > 0777 || json_as_int(mode, 0) < 0))
            v_invalid(v, FP(at, "mode"), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

static void default_mode(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *mode = jget(s, "defaultMode");
    if (mode && (json_as_int(mode, 0) > 0777 || json_as_int(mode, 0) < 0))
        v_invalid(v, FP(p, "defaultMode"), mode,
                  "must be a number between 0 and 0777 (octal), both inclusive");
}

static void host_path(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *path = jstr(s, "path");
    if (!*path) {
        v_required(v, FP(p, "path"), NULL);
        return;
    }
    for (const char *q = path; *q;) {
        size_t n = strcspn(q, "/");
        if (n == 2 && memcmp(q, "..", 2) == 0)
            v_invalid(v, FP(p, "path"), json_get(s, "path"), "must not contain '..'");
        q += n + (q[n] == '/');
    }
    const char *type = jstr(s, "type");
    static const char *const types[] = {
        "",     "BlockDevice",  "CharDevice", "Directory", "DirectoryOrCreate",
        "File", "FileOrCreate", "Socket",     NULL};
    if (!str_in(type, types)) v_not_supported(v, FP(p, "type"), json_get(s, "type"), types);
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
    const struct json *ref = jget(it, "fieldRef"), *res = jget(it, "resourceFieldRef"),
                      *mode = jget(it, "mode");
    if (!*jstr(it, "path")) v_required(v, FP(p, "path"), NULL);
    validate_local_path(v, FP(p, "path"), json_get(it, "path"));
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
static void claim_paths(struct vctx *v, struct json *seen, const struct json *items, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, items) {
        const char *path = jstr(it, "path");
        if (!*path) continue;
        if (json_get(seen, path)) v_invalid(v, p, json_get(it, "path"), "conflicting duplicate paths");
        json_set_bool(v->a, seen, path, true);
    }
}

static void projected(struct vctx *v, const struct json *s, const struct fp *p) {
    static const char *const sources[] = {
        "secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"};
    const struct json *it, *f;
    struct json *seen = json_object(v->a);
    default_mode(v, s, p);
    JSON_FOREACH(it, json_get(s, "sources")) {
        const struct fp *at = FPI(FP(p, "sources"), it_i);
        size_t n = 0;
        for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
            const struct json *src = jget(it, sources[i]);
            const struct fp *sp = FP(at, sources[i]);
            if (!src) continue;
            n++;
            if (i < 2 && !*jstr(src, "name")) v_required(v, FP(sp, "name"), NULL);
            if (i < 2) key_items(v, json_get(src, "items"), FP(sp, "items"));
            if (i == 2)
                JSON_FOREACH(f, json_get(src, "items")) downward_file(v, f, sp);
            if (i < 3) claim_paths(v, seen, json_get(src, "items"), p);
            if (i == 3) {
                int64_t sec = json_get_int(src, "expirationSeconds", 3600);
                if (sec < 600)
                    v_invalid(v, FP(sp, "expirationSeconds"), json_get(src, "expirationSeconds"),
                              "may not specify a duration less than 10 minutes");
                if (!*jstr(src, "path"))
                    v_required(v, FP(p, "path"), NULL);
                else
                    validate_local_path(v, FP(p, "path"), json_get(src, "path"));
            }
            if (i == 4) {
                bool name = jget(src, "name"), signer = jget(src, "signerName");
                if (name && signer)
                    v_invalid(v, sp, src, "only one of name and signerName may be used");
                else if (!name && !signer)
                    v_required(v, sp, "either name or signerName must be specified");
                if (!*jstr(src, "path")) v_required(v, FP(sp, "path"), NULL);
            }
        }
        if (n > 1) v_forbidden(v, at, "may not specify more than 1 volume type");
        if (!n) v_required(v, at, "must specify a volume source");
    }
}

static void empty_dir(struct vctx *v, const struct json *s, const struct fp *p) {
    struct quantity q;
    const char *limit = json_get_str(s, "sizeLimit");
    if (limit && quantity_parse(limit, &q) == 0 && q.nano < 0)
        v_forbidden(v, FP(p, "sizeLimit"), "SizeLimit field must be a valid resource quantity");
}

static void ephemeral(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *tmpl = jget(s, "volumeClaimTemplate");
    if (!tmpl) {
        v_required(v, FP(p, "volumeClaimTemplate"), NULL);
        return;
    }
    v_labels(v, FP(FP(FP(p, "volumeClaimTemplate"), "metadata"), "labels"),
             json_at(tmpl, "metadata", "labels", NULL));
    validate_pvc_spec(v, json_get(tmpl, "spec"), FP(FP(p, "volumeClaimTemplate"), "spec"));
}

static void image(struct vctx *v, const struct json *s, const struct fp *p) {
    if (!*jstr(s, "reference")) v_required(v, FP(p, "reference"), NULL);
    v_enum(v, FP(p, "pullPolicy"), json_get(s, "pullPolicy"), ONE_OF("Always", "IfNotPresent", "Never"),
           true);
}

static void csi(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *driver = jstr(s, "driver");
    if (!*driver)
        v_required(v, FP(p, "driver"), NULL);
    else if (strlen(driver) > 63)
        v_too_long(v, FP(p, "driver"), 63);
    else if (is_dns1123_subdomain(driver))
        v_invalid(v, FP(p, "driver"), json_get(s, "driver"), "%s", is_dns1123_subdomain(driver));
}

static void nfs(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *path = jstr(s, "path");
    if (!*jstr(s, "server")) v_required(v, FP(p, "server"), NULL);
    if (!*path)
        v_required(v, FP(p, "path"), NULL);
    else if (path[0] != '/')
        v_invalid(v, FP(p, "path"), json_get(s, "path"), "must be an absolute path");
}

static void iscsi(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *iqn = jstr(s, "iqn");
    if (!*jstr(s, "targetPortal")) v_required(v, FP(p, "targetPortal"), NULL);
    if (!*iqn)
        v_required(v, FP(p, "iqn"), NULL);
    else if (!str_has_prefix(iqn, "iqn") && !str_has_prefix(iqn, "eui") && !str_has_prefix(iqn, "naa"))
        v_invalid(v, FP(p, "iqn"), json_get(s, "iqn"), "must be valid format starting with iqn, eui, or naa");
    v_range(v, p, s, "lun", 0, 255);
}

static const struct {
    const char *name, *shown; /* shown: in the path of "more than one", where it differs */
    const char *required[3];
    source_fn *fn;
} sources[] = {
    {"emptyDir", NULL, {NULL}, empty_dir},
    {"hostPath", NULL, {NULL}, host_path},
    {"gitRepo", NULL, {"repository"}, NULL},
    {"gcePersistentDisk", NULL, {"pdName"}, NULL},
    {"awsElasticBlockStore", NULL, {"volumeID"}, NULL},
    {"secret", NULL, {NULL}, secret},
    {"nfs", NULL, {NULL}, nfs},
    {"iscsi", NULL, {NULL}, iscsi},
    {"glusterfs", NULL, {"endpoints", "path"}, NULL},
    {"flocker", NULL, {NULL}, NULL},
    {"persistentVolumeClaim", NULL, {"claimName"}, NULL},
    {"rbd", NULL, {"monitors", "image"}, NULL},
    {"cinder", NULL, {"volumeID"}, NULL},
    {"cephfs", "cephFS", {"monitors"}, NULL},
    {"quobyte", NULL, {"registry", "volume"}, NULL},
    {"downwardAPI", "downwarAPI", {NULL}, downward_api},
    {"fc", NULL, {NULL}, NULL},
    {"flexVolume", NULL, {"driver"}, NULL},
    {"configMap", NULL, {NULL}, config_map},
    {"azureFile", NULL, {"secretName", "shareName"}, NULL},
    {"vsphereVolume", NULL, {"volumePath"}, NULL},
    {"photonPersistentDisk", NULL, {"pdID"}, NULL},
    {"portworxVolume", NULL, {"volumeID"}, NULL},
    {"azureDisk", NULL, {"diskName", "diskURI"}, NULL},
    {"storageos", NULL, {NULL}, NULL},
    {"projected", NULL, {NULL}, projected},
    {"scaleIO", NULL, {"gateway", "system", "volumeName"}, NULL},
    {"csi", NULL, {NULL}, csi},
    {"ephemeral", NULL, {NULL}, ephemeral},
    {"image", NULL, {NULL}, image},
    {"local", NULL, {"path"}, NULL},
};

size_t validate_volume_source(struct vctx *v, const struct json *vol, const struct fp *p) {
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(sources); i++) {
        const struct json *s = jget(vol, sources[i].name);
        const struct fp *at = FP(p, sources[i].shown && n ? sources[i].shown : sources[i].name);
        if (!s) continue;
        if (n++) {
            v_forbidden(v, at, "may not specify more than 1 volume type");
            continue;
        }
        for (size_t j = 0; j < 3 && sources[i].required[j]; j++)
            if (jempty(json_get(s, sources[i].required[j])))
                v_required(v, FP(at, sources[i].required[j]), NULL);
        if (sources[i].fn) sources[i].fn(v, s, at);
    }
    return n;
}

void validate_volumes(struct vctx *v, const struct json *vols, const struct json *meta, const struct fp *p) {
    const struct json *vol;
    JSON_FOREACH(vol, vols) {
        const struct fp *at = FPI(p, vol_i);
        const char *name = jstr(vol, "name");
        if (!validate_volume_source(v, vol, at)) v_required(v, at, "must specify a volume type");
        if (jget(vol, "ephemeral") && *name && *jstr(meta, "name")) {
            const char *claim = arena_printf(v->a, "%s-%s", jstr(meta, "name"), name);
            if (is_dns1123_subdomain(claim))
                v_invalid(v, FP(at, "name"), json_get(vol, "name"), "PVC name \"%s\": %s", claim,
                          is_dns1123_subdomain(claim));
        }
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (is_dns1123_label(name))
            v_invalid(v, FP(at, "name"), json_get(vol, "name"), "%s", is_dns1123_label(name));
        for (size_t j = 0; *name && j < vol_i; j++)
            if (str_eq(jstr(json_item(vols, j), "name"), name)) {
                v_duplicate(v, FP(at, "name"), json_get(vol, "name"));
                break;
            }
    }
}
