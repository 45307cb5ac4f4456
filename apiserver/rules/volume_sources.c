/* The sources a volume can have besides those that the kubelet projects into the pod (validate_volume.c): network
 * and cloud disks, CSI, the node's own directories. Pods and PersistentVolumes share most of them; where a
 * PersistentVolume asks for more (the namespace of a secret, since it has none itself), the row says so. Upstream: the
 * validate...VolumeSource functions of pkg/apis/core/validation/validation.go. */
#include <ctype.h>

#include "apiserver/rules/validate_pod.h"

enum { PARTITION_MAX = 255, LUN_MAX = 255, QUOBYTE_TENANT_MAX = 64, ISCSI_NAME_MAX = 64 };

void validate_backsteps(struct vctx *v, const struct fp *p, const struct json *path) {
    for (const char *q = str_or_empty(json_as_str(path)); *q;) {
        size_t n = strcspn(q, "/");
        if (n == 2 && memcmp(q, "..", 2) == 0) {
            v_invalid(v, p, path, "must not contain '..'");
            return;
        }
        q += n + (q[n] == '/');
    }
}

static void partition(struct vctx *v, const struct json *s, const struct fp *p) {
    int64_t n = json_get_int(s, "partition", 0);
    if (n < 0 || n > PARTITION_MAX)
        v_invalid(v, FP(p, "partition"), json_get(s, "partition"), "must be between 1 and 255, inclusive");
}

/* A reference to a secret: its name, and in PersistentVolumes its namespace. */
static void secret_ref(struct vctx *v, const struct json *s, bool needs_namespace, const struct fp *p) {
    const struct json *ref = jget(s, "secretRef");
    if (!ref) return;
    if (!*jstr(ref, "name")) v_required(v, FP(FP(p, "secretRef"), "name"), NULL);
    if (needs_namespace && !*jstr(ref, "namespace")) v_required(v, FP(FP(p, "secretRef"), "namespace"), NULL);
}

static void named_secret(struct vctx *v, const struct json *s, const struct fp *p) { secret_ref(v, s, false, p); }
static void placed_secret(struct vctx *v, const struct json *s, const struct fp *p) { secret_ref(v, s, true, p); }

static void host_path(struct vctx *v, const struct json *s, const struct fp *p) {
    static const char *const types[] = {"",     "BlockDevice",  "CharDevice", "Directory", "DirectoryOrCreate",
                                        "File", "FileOrCreate", "Socket",     NULL};
    if (!*jstr(s, "path")) {
        v_required(v, FP(p, "path"), NULL);
        return;
    }
    validate_backsteps(v, FP(p, "path"), json_get(s, "path"));
    if (!str_in(jstr(s, "type"), types)) v_not_supported(v, FP(p, "type"), json_get(s, "type"), types);
}

static void git_repo(struct vctx *v, const struct json *s, const struct fp *p) {
    validate_local_path(v, FP(p, "directory"), json_get(s, "directory"));
}

static void nfs(struct vctx *v, const struct json *s, const struct fp *p) {
    if (jstr(s, "path")[0] != '/') v_invalid(v, FP(p, "path"), json_get(s, "path"), "must be an absolute path");
}

/* ---- iSCSI ---- */

static size_t digits(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && isdigit((unsigned char)s[i])) i++;
    return i;
}

/* iqn.2001-04.com.example:text, eui.0123456789ABCDEF, naa. and 16 or 32 hexadecimal digits. */
static bool iscsi_name(const char *s) {
    if (str_has_prefix(s, "iqn")) {
        if (!str_has_prefix(s, "iqn.") || digits(s + 4, 4) != 4 || s[8] != '-' || digits(s + 9, 2) != 2 || s[11] != '.')
            return false;
        size_t n = strspn(s + 12, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-");
        return n > 0 && isalnum((unsigned char)s[12]) &&
               (s[12 + n] == ':' ? s[13 + n] && !strpbrk(s + 13 + n, " \t\n\r") : !s[12 + n]);
    }
    size_t n = strlen(s) > 4 ? strlen(s + 4) : 0;
    bool hex = n && s[3] == '.' && strspn(s + 4, "0123456789abcdefABCDEF") == n;
    return hex && (n == 16 || (n == 32 && str_has_prefix(s, "naa")));
}

static bool iscsi_known(const char *s) {
    return str_has_prefix(s, "iqn") || str_has_prefix(s, "eui") || str_has_prefix(s, "naa");
}

static void iscsi(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *iqn = jstr(s, "iqn");
    const struct json *from = jget(s, "initiatorName");
    if (*iqn && !iscsi_known(iqn))
        v_invalid(v, FP(p, "iqn"), json_get(s, "iqn"), "must be valid format starting with iqn, eui, or naa");
    else if (*iqn && !iscsi_name(iqn))
        v_invalid(v, FP(p, "iqn"), json_get(s, "iqn"), "must be valid format");
    v_range(v, p, s, "lun", 0, LUN_MAX);
    if ((json_get_bool(s, "chapAuthDiscovery", false) || json_get_bool(s, "chapAuthSession", false)) &&
        !jget(s, "secretRef"))
        v_required(v, FP(p, "secretRef"), NULL);
    if (!from) return;
    const char *name = str_or_empty(json_as_str(from));
    if (!iscsi_known(name))
        v_invalid(v, FP(p, "initiatorname"), from, "must be valid format starting with iqn, eui, or naa");
    else if (!iscsi_name(name))
        v_invalid(v, FP(p, "initiatorname"), from, "must be valid format");
}

static void iscsi_volume(struct vctx *v, const struct json *s, const struct fp *p) {
    iscsi(v, s, p);
    named_secret(v, s, p);
}

/* ---- Fibre Channel, Flocker, Quobyte, Gluster, flex volumes ---- */

static void fc(struct vctx *v, const struct json *s, const struct fp *p) {
    size_t wwns = json_len(json_get(s, "targetWWNs")), wwids = json_len(json_get(s, "wwids"));
    const struct json *lun = jget(s, "lun");
    if (!wwns && !wwids) v_required(v, FP(p, "targetWWNs"), "must specify either targetWWNs or wwids, but not both");
    if (wwns && wwids)
        v_invalid(v, FP(p, "targetWWNs"), json_get(s, "targetWWNs"),
                  "targetWWNs and wwids can not be specified simultaneously");
    if (wwns && !lun) v_required(v, FP(p, "lun"), "lun is required if targetWWNs is specified");
    if (wwns) v_range(v, p, s, "lun", 0, LUN_MAX);
}

static void flocker(struct vctx *v, const struct json *s, const struct fp *p) {
    bool name = *jstr(s, "datasetName"), uuid = *jstr(s, "datasetUUID");
    if (!name && !uuid) v_required(v, p, "one of datasetName and datasetUUID is required");
    if (name && uuid) v_invalid(v, p, s, "datasetName and datasetUUID can not be specified simultaneously");
    if (strchr(jstr(s, "datasetName"), '/'))
        v_invalid(v, FP(p, "datasetName"), json_get(s, "datasetName"), "must not contain '/'");
}

/* host:port, [v6]:port; a host without brackets has no colon. */
static bool host_port(const char *s, size_t n) {
    const char *colon = memrchr(s, ':', n);
    if (!colon) return false;
    if (s[0] == '[') {
        const char *end = memchr(s, ']', n);
        return end && end + 1 == colon;
    }
    size_t host = (size_t)(colon - s);
    return !memchr(s, ':', host) && !memchr(s, '[', n) && !memchr(s, ']', n);
}

static void quobyte(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *registry = jstr(s, "registry");
    if (!*registry) return;
    if (strlen(jstr(s, "tenant")) > QUOBYTE_TENANT_MAX) {
        v_required(v, FP(p, "tenant"), "must be a UUID and may not exceed a length of 64 characters");
        return;
    }
    for (const char *q = registry;; q++) {
        size_t n = strcspn(q, ",");
        if (!host_port(q, n))
            v_invalid(v, FP(p, "registry"), json_get(s, "registry"),
                      "must be a host:port pair or multiple pairs separated by commas");
        q += n;
        if (!*q) break;
    }
}

static void glusterfs_volume(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *ns = jget(s, "endpointsNamespace");
    if (ns) v_label1123(v, FP(p, "endpointsNamespace"), ns);
}

static void flex_volume(struct vctx *v, const struct json *s, const struct fp *p) {
    JSON_FOREACH_MEMBER(m, json_get(s, "options")) {
        size_t n = strcspn(m->key, "/");
        char *space = arena_printf(v->a, ".%.*s", (int)n, m->key);
        for (char *q = space; *q; q++) *q = (char)tolower((unsigned char)*q);
        if (str_has_suffix(space, ".kubernetes.io") || str_has_suffix(space, ".k8s.io"))
            v_invalid(v, FPK(FP(p, "options"), m->key), json_str(v->a, m->key),
                      "kubernetes.io and k8s.io namespaces are reserved");
    }
}

/* ---- clouds ---- */

static void azure_disk(struct vctx *v, const struct json *s, const struct fp *p) {
    const char *uri = jstr(s, "diskURI"), *kind = json_get_str(s, "kind");
    v_enum(v, FP(p, "cachingMode"), json_get(s, "cachingMode"), ONE_OF("None", "ReadOnly", "ReadWrite"), false);
    v_enum(v, FP(p, "kind"), json_get(s, "kind"), ONE_OF("Dedicated", "Managed", "Shared"), false);
    if (!kind) return;
    bool managed = str_eq(kind, "Managed");
    if (!str_has_prefix(uri, managed ? "/subscriptions/" : "https://"))
        v_not_supported(
            v, FP(p, "diskURI"), json_get(s, "diskURI"),
            managed
                ? ONE_OF(
                      "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}")
                : ONE_OF("https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"));
}

static void azure_file_volume(struct vctx *v, const struct json *s, const struct fp *p) {
    if (jget(s, "secretNamespace") && !*jstr(s, "secretNamespace")) v_required(v, FP(p, "secretNamespace"), NULL);
}

static void storageos(struct vctx *v, const struct json *s, const struct fp *p) {
    if (*jstr(s, "volumeName")) v_label1123(v, FP(p, "volumeName"), json_get(s, "volumeName"));
    if (*jstr(s, "volumeNamespace")) v_label1123(v, FP(p, "volumeNamespace"), json_get(s, "volumeNamespace"));
    named_secret(v, s, p);
}

static void storageos_volume(struct vctx *v, const struct json *s, const struct fp *p) {
    storageos(v, s, p);
    if (jget(s, "secretRef") && !*jstr(json_get(s, "secretRef"), "namespace"))
        v_required(v, FP(FP(p, "secretRef"), "namespace"), NULL);
}

/* ---- CSI, local ---- */

void validate_driver_name(struct vctx *v, const struct fp *p, const struct json *name) {
    enum { DRIVER_NAME_MAX = 63 };
    const char *s = str_or_empty(json_as_str(name));
    if (!*s) {
        v_required(v, p, NULL);
        return;
    }
    if (strlen(s) > DRIVER_NAME_MAX) v_too_long(v, p, DRIVER_NAME_MAX);
    char *lower = arena_strdup(v->a, s);
    for (char *q = lower; *q; q++) *q = (char)tolower((unsigned char)*q);
    v_subdomain(v, p, json_str(v->a, lower));
}

static void csi(struct vctx *v, const struct json *s, const struct fp *p) {
    const struct json *ref = jget(s, "nodePublishSecretRef");
    validate_driver_name(v, FP(p, "driver"), json_get(s, "driver"));
    if (!ref) return;
    if (!*jstr(ref, "name"))
        v_required(v, FP(FP(p, "nodePublishSecretRef"), "name"), NULL);
    else
        v_subdomain(v, FP(p, "name"), json_get(ref, "name"));
}

static void csi_volume(struct vctx *v, const struct json *s, const struct fp *p) {
    static const char *const refs[] = {"controllerPublishSecretRef", "controllerExpandSecretRef",
                                       "nodePublishSecretRef", "nodeExpandSecretRef"};
    validate_driver_name(v, FP(p, "driver"), json_get(s, "driver"));
    if (!*jstr(s, "volumeHandle")) v_required(v, FP(p, "volumeHandle"), NULL);
    for (size_t i = 0; i < ARRAY_LEN(refs); i++) {
        const struct json *ref = jget(s, refs[i]);
        const struct fp *at = FP(p, refs[i]);
        if (!ref) continue;
        if (!*jstr(ref, "name"))
            v_required(v, FP(at, "name"), NULL);
        else
            v_subdomain(v, FP(at, "name"), json_get(ref, "name"));
        if (!*jstr(ref, "namespace"))
            v_required(v, FP(at, "namespace"), NULL);
        else
            v_label1123(v, FP(at, "namespace"), json_get(ref, "namespace"));
    }
}

static void local(struct vctx *v, const struct json *s, const struct fp *p) {
    if (*jstr(s, "path")) validate_backsteps(v, FP(p, "path"), json_get(s, "path"));
}

/* ---- the tables ---- */

static const struct volume_source rows[] = {
    {"hostPath", NULL, NULL, {NULL}, host_path, host_path},
    {"gitRepo", NULL, NULL, {"repository"}, git_repo, NULL},
    {"gcePersistentDisk", "persistentDisk", NULL, {"pdName"}, partition, partition},
    {"awsElasticBlockStore", NULL, NULL, {"volumeID"}, partition, partition},
    {"nfs", NULL, NULL, {"server", "path"}, nfs, nfs},
    {"iscsi", NULL, NULL, {"targetPortal", "iqn"}, iscsi, iscsi_volume},
    {"glusterfs", NULL, NULL, {"endpoints", "path"}, NULL, glusterfs_volume},
    {"flocker", NULL, NULL, {NULL}, flocker, flocker},
    {"persistentVolumeClaim", NULL, NULL, {"claimName"}, NULL, NULL},
    {"rbd", NULL, NULL, {"monitors", "image"}, NULL, NULL},
    {"cinder", NULL, NULL, {"volumeID"}, named_secret, placed_secret},
    {"cephfs", NULL, "cephFS", {"monitors"}, NULL, NULL},
    {"quobyte", NULL, NULL, {"registry", "volume"}, quobyte, quobyte},
    {"fc", NULL, NULL, {NULL}, fc, fc},
    {"flexVolume", NULL, NULL, {"driver"}, flex_volume, flex_volume},
    {"azureFile", NULL, NULL, {"secretName", "shareName"}, NULL, azure_file_volume},
    {"vsphereVolume", NULL, NULL, {"volumePath"}, NULL, NULL},
    {"photonPersistentDisk", NULL, NULL, {"pdID"}, NULL, NULL},
    {"portworxVolume", NULL, NULL, {"volumeID"}, NULL, NULL},
    {"azureDisk", NULL, NULL, {"diskName", "diskURI"}, azure_disk, azure_disk},
    {"storageos", NULL, NULL, {"volumeName"}, storageos, storageos_volume},
    {"scaleIO", NULL, NULL, {"gateway", "system", "volumeName"}, NULL, NULL},
    {"csi", NULL, NULL, {NULL}, csi, csi_volume},
    {"local", NULL, NULL, {"path"}, NULL, local},
};

const struct volume_source *volume_source_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (str_eq(rows[i].name, name)) return &rows[i];
    return NULL;
}
