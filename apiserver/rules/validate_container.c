/* Containers: ports, environment, mounts, and the three lists of a pod. Upstream:
 * the container part of pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

/* ---- ports ---- */

static const char *const protocols[] = {"TCP", "UDP", "SCTP", NULL};

static void ports(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        const char *name = jstr(it, "name");
        if (*name) {
            size_t faults = port_name_faults(name);
            for (size_t n = faults; n; n--)
                v_invalid(v, FP(at, "name"), json_get(it, "name"),
                          "must be at most 15 lower case alphanumeric characters or '-', with at least one "
                          "letter, and not begin, end or repeat '-'");
            for (size_t j = 0; !faults && j < it_i; j++)
                if (str_eq(jstr(json_item(list, j), "name"), name)) {
                    v_duplicate(v, FP(at, "name"), json_get(it, "name"));
                    break;
                }
        }
        if (json_get_int(it, "containerPort", 0) == 0)
            v_required(v, FP(at, "containerPort"), NULL);
        else
            v_port(v, FP(at, "containerPort"), json_get(it, "containerPort"));
        if (json_get_int(it, "hostPort", 0) != 0) v_port(v, FP(at, "hostPort"), json_get(it, "hostPort"));
        v_enum(v, FP(at, "protocol"), json_get(it, "protocol"), protocols, true);
    }
}

/* ---- environment ---- */

static const char *const env_fields[] = {
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
    "status.hostIP", "status.hostIPs",     "status.podIP", "status.podIPs", NULL};
static const char *const volume_fields[] = {"metadata.name",        "metadata.namespace", "metadata.labels",
                                            "metadata.annotations", "metadata.uid",       NULL};
static const char *const known_fields[] = {
    "metadata.annotations", "metadata.labels", "metadata.name",      "metadata.namespace",
    "metadata.uid",         "spec.nodeName",   "spec.restartPolicy", "spec.serviceAccountName",
    "spec.schedulerName",   "status.phase",    "status.hostIP",      "status.hostIPs",
    "status.podIP",         "status.podIPs",   "spec.host",          NULL};
static const char *const resource_fields[] = {"limits.cpu",
                                              "limits.memory",
                                              "limits.ephemeral-storage",
                                              "requests.cpu",
                                              "requests.memory",
                                              "requests.ephemeral-storage",
                                              NULL};

void validate_field_ref(struct vctx *v, const struct json *ref, const struct fp *p, bool volume) {
    const char *path = jstr(ref, "fieldPath"), *open = strchr(path, '[');
    if (!*jstr(ref, "apiVersion")) {
        v_required(v, FP(p, "apiVersion"), NULL);
        return;
    }
    if (!*path) {
        v_required(v, FP(p, "fieldPath"), NULL);
        return;
    }
    if (open && str_has_suffix(path, "']") && open[1] == '\'') {
        char *base = arena_strndup(v->a, path, (size_t)(open - path)),
             *key = arena_strndup(v->a, open + 2, strlen(open) - 4);
        if (str_in(base, ONE_OF("metadata.labels", "metadata.annotations")))
            v_label_name(v, p, key);
        else
            v_invalid(v, FP(p, "fieldPath"), json_get(ref, "fieldPath"),
                      "error converting fieldPath: field label not supported");
        return;
    }
    if (!str_in(path, known_fields) || !str_eq(jstr(ref, "apiVersion"), "v1"))
        v_invalid(v, FP(p, "fieldPath"), json_get(ref, "fieldPath"),
                  "error converting fieldPath: field label not supported");
    else if (!str_in(path, volume ? volume_fields : env_fields))
        v_not_supported(v, FP(p, "fieldPath"), json_get(ref, "fieldPath"), volume ? volume_fields : env_fields);
}

void validate_resource_field_ref(struct vctx *v, const struct json *ref, const struct fp *p, bool volume) {
    const char *res = jstr(ref, "resource");
    if (volume && !*jstr(ref, "containerName"))
        v_required(v, FP(p, "containerName"), NULL);
    else if (!*res)
        v_required(v, FP(p, "resource"), NULL);
    else if (!str_in(res, resource_fields) && !str_has_prefix(res, "limits.hugepages-") &&
             !str_has_prefix(res, "requests.hugepages-"))
        v_not_supported(v, FP(p, "resource"), json_get(ref, "resource"), resource_fields);
    const char *div = jstr(ref, "divisor");
    if (!*div || str_eq(div, "0")) return;
    static const char *const cpu[] = {"1m", "1", NULL}, *const mem[] = {"1",   "1k",  "1M",  "1G",  "1T",  "1P",  "1E",
                                                                        "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei", NULL};
    bool is_cpu = str_has_suffix(res, ".cpu");
    if (!str_in(res, resource_fields) && !str_has_prefix(res, "limits.hugepages-") &&
        !str_has_prefix(res, "requests.hugepages-"))
        return;
    if (!str_in(div, is_cpu ? cpu : mem))
        v_invalid(v, FP(p, "divisor"), json_get(ref, "divisor"),
                  "only divisor's values that are powers of the unit are supported");
}

static void key_ref(struct vctx *v, const struct json *ref, const struct fp *p) {
    v_subdomain(v, FP(p, "name"), json_get(ref, "name"));
    if (!*jstr(ref, "key"))
        v_required(v, FP(p, "key"), NULL);
    else
        v_config_key(v, FP(p, "key"), jstr(ref, "key"));
}

static void file_ref(struct vctx *v, const struct json *ref, const struct fp *p) {
    const char *key = jstr(ref, "key");
    if (!*key)
        v_required(v, FP(p, "key"), NULL);
    else if (is_env_var_name(key))
        v_invalid(v, FP(p, "key"), json_get(ref, "key"), "%s", is_env_var_name(key));
    if (!*jstr(ref, "volumeName"))
        v_required(v, FP(p, "volumeName"), NULL);
    else
        v_label1123(v, FP(p, "volumeName"), json_get(ref, "volumeName"));
    if (!*jstr(ref, "path"))
        v_required(v, FP(p, "path"), NULL);
    else
        validate_backsteps(v, FP(p, "path"), json_get(ref, "path"));
}

static void value_from(struct vctx *v, const struct json *env, const struct fp *p) {
    const struct json *from = jget(env, "valueFrom"), *s;
    size_t sources = 0;
    if (!from) return;
    if ((s = jget(from, "fieldRef"))) sources++, validate_field_ref(v, s, FP(p, "fieldRef"), false);
    if ((s = jget(from, "resourceFieldRef")))
        sources++, validate_resource_field_ref(v, s, FP(p, "resourceFieldRef"), false);
    if ((s = jget(from, "configMapKeyRef"))) sources++, key_ref(v, s, FP(p, "configMapKeyRef"));
    if ((s = jget(from, "secretKeyRef"))) sources++, key_ref(v, s, FP(p, "secretKeyRef"));
    if ((s = jget(from, "fileKeyRef"))) sources++, file_ref(v, s, FP(p, "fileKeyRef"));
    if (!sources)
        v_invalid(v, p, NULL,
                  "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or "
                  "`fileKeyRef`");
    else if (*jstr(env, "value"))
        v_invalid(v, p, NULL, "may not be specified when `value` is not empty");
    else if (sources > 1)
        v_invalid(v, p, NULL, "may not have more than one field specified at a time");
}

static void env_source(struct vctx *v, const struct json *ref, const struct fp *p) {
    if (!*jstr(ref, "name"))
        v_required(v, p, NULL);
    else
        v_subdomain(v, p, json_get(ref, "name"));
}

static void environment(struct vctx *v, const struct json *k, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, json_get(k, "env")) {
        const struct fp *at = FPI(FP(p, "env"), it_i);
        const char *name = jstr(it, "name");
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (is_env_var_name(name))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "%s", is_env_var_name(name));
        value_from(v, it, FP(at, "valueFrom"));
    }
    JSON_FOREACH(it, json_get(k, "envFrom")) {
        const struct fp *at = FPI(FP(p, "envFrom"), it_i);
        const char *prefix = jstr(it, "prefix");
        const struct json *cm = jget(it, "configMapRef"), *secret = jget(it, "secretRef");
        if (*prefix && is_env_var_name(prefix))
            v_invalid(v, FP(at, "prefix"), json_get(it, "prefix"), "%s", is_env_var_name(prefix));
        if (cm) env_source(v, cm, FP(FP(at, "configMapRef"), "name"));
        if (secret) env_source(v, secret, FP(FP(at, "secretRef"), "name"));
        if (!cm && !secret)
            v_invalid(v, FP(p, "envFrom"), it, "must specify one of: `configMapRef` or `secretRef`");
        else if (cm && secret)
            v_invalid(v, FP(p, "envFrom"), it, "may not have more than one field specified at a time");
    }
}

/* ---- mounts ---- */

void validate_local_path(struct vctx *v, const struct fp *p, const struct json *path) {
    if (str_or_empty(json_as_str(path))[0] == '/') v_invalid(v, p, path, "must be a relative path");
    validate_backsteps(v, p, path);
}

void validate_free_path(struct vctx *v, const struct fp *p, const struct json *path) {
    const char *s = str_or_empty(json_as_str(path));
    validate_local_path(v, p, path);
    if (str_has_prefix(s, "..") && s[2] && s[2] != '/') v_invalid(v, p, path, "must not start with '..'");
}

static const struct json *volume_named(const struct json *volumes, const char *name) {
    const struct json *it;
    JSON_FOREACH(it, volumes)
        if (str_eq(jstr(it, "name"), name)) return it;
    return NULL;
}

/* True when an earlier item of the list has the same value there. */
static bool seen_before(const struct json *list, size_t n, const char *key, const char *value) {
    for (size_t j = 0; j < n; j++)
        if (str_eq(jstr(json_item(list, j), key), value)) return true;
    return false;
}

static void recursive_read_only(struct vctx *v, const struct json *m, const struct fp *p) {
    const struct json *x = jget(m, "recursiveReadOnly");
    const char *s = str_or_empty(json_as_str(x)), *prop = json_get_str(m, "mountPropagation");
    v_enum(v, p, x, ONE_OF("Disabled", "Enabled", "IfPossible"), false);
    if (!x || !str_in(s, ONE_OF("Enabled", "IfPossible"))) return;
    if (!json_get_bool(m, "readOnly", false)) v_forbidden(v, p, "may only be specified when readOnly is true");
    if (prop && !str_eq(prop, "None"))
        v_forbidden(v, p, "may only be specified when mountPropagation is None or not specified");
}

static void mount(struct vctx *v, const struct json *k, const struct json *it, const struct fp *mp,
                  const struct fp *at) {
    const struct json *devices = json_get(k, "volumeDevices"), *prop = jget(it, "mountPropagation");
    bool privileged = json_get_bool(json_get(k, "securityContext"), "privileged", false);
    if (has_key(devices, "name", jstr(it, "name")))
        v_invalid(v, FP(at, "name"), json_get(it, "name"), "must not already exist in volumeDevices");
    if (has_key(devices, "devicePath", jstr(it, "mountPath")))
        v_invalid(v, FP(at, "mountPath"), json_get(it, "mountPath"),
                  "must not already exist as a path in volumeDevices");
    if (*jstr(it, "subPath")) validate_local_path(v, FP(mp, "subPath"), json_get(it, "subPath"));
    if (*jstr(it, "subPathExpr")) {
        if (*jstr(it, "subPath"))
            v_invalid(v, FP(at, "subPathExpr"), json_get(it, "subPathExpr"),
                      "subPathExpr and subPath are mutually exclusive");
        validate_local_path(v, FP(mp, "subPathExpr"), json_get(it, "subPathExpr"));
    }
    v_enum(v, FP(mp, "mountPropagation"), prop, ONE_OF("Bidirectional", "HostToContainer", "None"), false);
    if (str_eq(json_as_str(prop), "Bidirectional") && !privileged)
        v_forbidden(v, FP(mp, "mountPropagation"),
                    "Bidirectional mount propagation is available only to privileged containers");
    recursive_read_only(v, it, FP(mp, "recursiveReadOnly"));
}

static void mounts(struct vctx *v, const struct json *k, const struct json *volumes, const struct fp *p) {
    const struct json *it, *list = json_get(k, "volumeMounts");
    const struct fp *mp = FP(p, "volumeMounts");
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(mp, it_i);
        const char *path = jstr(it, "mountPath");
        if (!*jstr(it, "name")) v_required(v, FP(at, "name"), NULL);
        if (!volume_named(volumes, jstr(it, "name"))) v_not_found(v, FP(at, "name"), json_str(v->a, jstr(it, "name")));
        if (!*path) v_required(v, FP(at, "mountPath"), NULL);
        if (seen_before(list, it_i, "mountPath", path))
            v_invalid(v, FP(at, "mountPath"), json_get(it, "mountPath"), "must be unique");
        mount(v, k, it, mp, at);
    }
}

static void devices(struct vctx *v, const struct json *k, const struct json *volumes, const struct fp *p) {
    const struct json *it, *list = json_get(k, "volumeDevices"), *mounted = json_get(k, "volumeMounts");
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(FP(p, "volumeDevices"), it_i);
        const char *name = jstr(it, "name"), *path = jstr(it, "devicePath");
        const struct json *vol = volume_named(volumes, name);
        struct vctx probe = {.c = v->c, .a = v->a};
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (seen_before(list, it_i, "name", name))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "must be unique");
        if (!vol)
            v_not_found(v, FP(at, "name"), json_str(v->a, name));
        else if (!jget(vol, "persistentVolumeClaim") && !jget(vol, "ephemeral"))
            v_invalid(v, FP(at, "name"), json_get(it, "name"),
                      "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
        if (!*path) v_required(v, FP(at, "devicePath"), NULL);
        if (seen_before(list, it_i, "devicePath", path))
            v_invalid(v, FP(at, "devicePath"), json_get(it, "devicePath"), "must be unique");
        validate_backsteps(&probe, at, json_get(it, "devicePath"));
        if (probe.n) v_invalid(v, FP(at, "devicePath"), json_get(it, "devicePath"), "can not contain backsteps ('..')");
        if (has_key(mounted, "name", name))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "must not already exist in volumeMounts");
        if (has_key(mounted, "mountPath", path))
            v_invalid(v, FP(at, "devicePath"), json_get(it, "devicePath"),
                      "must not already exist as a path in volumeMounts");
    }
}

/* ---- containers ---- */

static void common(struct vctx *v, const struct json *k, const struct pod_view *pod, const struct fp *p) {
    const char *name = jstr(k, "name"), *image = jstr(k, "image");
    const struct json *it;
    if (!*name)
        v_required(v, FP(p, "name"), NULL);
    else
        v_label1123(v, FP(p, "name"), json_get(k, "name"));
    if (!*image)
        v_required(v, FP(p, "image"), NULL);
    else if (strchr(" \t\n\r", image[0]) || strchr(" \t\n\r", image[strlen(image) - 1]))
        v_invalid(v, FP(p, "image"), json_get(k, "image"), "must not have leading or trailing whitespace");
    v_enum(v, FP(p, "terminationMessagePolicy"), json_get(k, "terminationMessagePolicy"),
           ONE_OF("File", "FallbackToLogsOnError"), true);
    ports(v, json_get(k, "ports"), FP(p, "ports"));
    environment(v, k, p);
    mounts(v, k, pod->volumes, p);
    devices(v, k, pod->volumes, p);
    v_enum(v, FP(p, "imagePullPolicy"), json_get(k, "imagePullPolicy"), ONE_OF("Always", "IfNotPresent", "Never"),
           true);
    validate_resources(v, json_get(k, "resources"), FP(p, "resources"), pod->claims);
    const struct json *resize = json_get(k, "resizePolicy");
    const struct fp *rp = FP(p, "resizePolicy");
    JSON_FOREACH(it, resize) {
        if (seen_before(resize, it_i, "resourceName", jstr(it, "resourceName")))
            v_duplicate(v, FPI(rp, it_i), json_get(it, "resourceName"));
        v_enum(v, rp, json_get(it, "resourceName"), ONE_OF("cpu", "memory"), true);
        v_enum(v, rp, json_get(it, "restartPolicy"), ONE_OF("NotRequired", "RestartContainer"), true);
        if (!str_eq(jstr(it, "restartPolicy"), "NotRequired") && str_eq(pod->restart_policy, "Never"))
            v_invalid(v, rp, json_get(it, "restartPolicy"),
                      "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
    }
    validate_container_security(v, k, pod->host_users, p);
}

/* A host port may be used once in the pod (with one protocol and address). */
static void host_port_conflicts(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *k, *port;
    struct json *seen = json_object(v->a);
    JSON_FOREACH(k, list)
        JSON_FOREACH(port, json_get(k, "ports")) {
            int64_t n = json_get_int(port, "hostPort", 0);
            if (!n) continue;
            char *key = arena_printf(v->a, "%s/%s/%lld", jstr(port, "protocol"), jstr(port, "hostIP"), (long long)n);
            if (json_get(seen, key))
                v_duplicate(v, FP(FPI(FP(FPI(p, k_i), "ports"), port_i), "hostPort"), json_get(port, "hostPort"));
            else
                json_set_bool(v->a, seen, key, true);
        }
}

static void restart_rules(struct vctx *v, const struct json *k, bool init, const struct fp *p) {
    enum { RULES_MAX = 20, EXIT_CODES_MAX = 255 };
    const struct json *it, *policy = jget(k, "restartPolicy"), *rules = json_get(k, "restartPolicyRules");
    if (!policy && json_len(rules))
        v_required(v, FP(p, "restartPolicy"), "must specify restartPolicy when restart rules are used");
    if (!policy && init) return;
    v_enum(v, FP(p, "restartPolicy"), policy, ONE_OF("Always", "Never", "OnFailure"), false);
    if (json_len(rules) > RULES_MAX) v_too_many(v, FP(p, "restartPolicyRules"), json_len(rules), RULES_MAX);
    JSON_FOREACH(it, rules) {
        const struct fp *at = FPI(FP(p, "restartPolicyRules"), it_i), *cp = FP(at, "exitCodes");
        const struct json *codes = jget(it, "exitCodes");
        size_t n = json_len(json_get(codes, "values"));
        if (!str_in(jstr(it, "action"), ONE_OF("Restart", "RestartAllContainers")))
            v_not_supported(v, FP(at, "action"), json_get(it, "action"), ONE_OF("Restart", "RestartAllContainers"));
        if (!codes) {
            v_required(v, cp, "must be specified");
            continue;
        }
        if (!str_in(jstr(codes, "operator"), ONE_OF("In", "NotIn")))
            v_not_supported(v, FP(cp, "operator"), json_get(codes, "operator"), ONE_OF("In", "NotIn"));
        if (n > EXIT_CODES_MAX) v_too_many(v, FP(cp, "values"), n, EXIT_CODES_MAX);
    }
}

static void regular(struct vctx *v, const struct pod_view *pod, const struct json *list, const struct fp *p) {
    const struct json *k;
    JSON_FOREACH(k, list) {
        const struct fp *at = FPI(p, k_i);
        common(v, k, pod, at);
        for (size_t j = 0; j < k_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(k, "name"))) {
                v_duplicate(v, FP(at, "name"), json_get(k, "name"));
                break;
            }
        validate_lifecycle(v, k, pod->grace, at);
        validate_probe(v, k, "livenessProbe", at);
        validate_probe(v, k, "readinessProbe", at);
        validate_probe(v, k, "startupProbe", at);
        restart_rules(v, k, false, at);
    }
    host_port_conflicts(v, list, p);
}

/* What runs once is not restarted when its resources change; what is stored may say so. */
static void restart_on_resize(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (str_eq(jstr(it, "restartPolicy"), "RestartContainer"))
            v_invalid(v, FP(FPI(p, it_i), "restartPolicy"), json_get(it, "restartPolicy"),
                      "must not be set to 'RestartContainer' for non-sidecar initContainers");
}

static void init(struct vctx *v, const struct pod_view *pod, const struct json *list, const struct json *others,
                 const struct fp *p) {
    static const char *const sidecar_only[] = {"lifecycle", "livenessProbe", "readinessProbe", "startupProbe"};
    const struct json *k;
    JSON_FOREACH(k, list) {
        const struct fp *at = FPI(p, k_i);
        bool sidecar = str_eq(jstr(k, "restartPolicy"), "Always"), taken = has_key(others, "name", jstr(k, "name"));
        common(v, k, pod, at);
        restart_rules(v, k, true, at);
        for (size_t j = 0; j < k_i; j++) taken |= str_eq(jstr(json_item(list, j), "name"), jstr(k, "name"));
        if (taken && *jstr(k, "name")) v_duplicate(v, FP(at, "name"), json_get(k, "name"));
        for (size_t i = 0; !sidecar && i < ARRAY_LEN(sidecar_only); i++)
            if (jget(k, sidecar_only[i]))
                v_forbidden(v, FP(at, sidecar_only[i]),
                            "may not be set for init containers without restartPolicy=Always");
        if (!sidecar && v->c->op != RULES_UPDATE)
            restart_on_resize(v, json_get(k, "resizePolicy"), FP(at, "resizePolicy"));
        if (!sidecar) continue;
        validate_lifecycle(v, k, pod->grace, at);
        validate_probe(v, k, "livenessProbe", at);
        validate_probe(v, k, "readinessProbe", at);
        validate_probe(v, k, "startupProbe", at);
    }
}

static void ephemeral(struct vctx *v, const struct pod_view *pod, const struct json *spec, const struct fp *p) {
    static const char *const barred[] = {"lifecycle", "livenessProbe", "readinessProbe", "startupProbe",
                                         "ports",     "resizePolicy",  "restartPolicy",  "restartPolicyRules"};
    const struct json *k, *m, *list = json_get(spec, "ephemeralContainers");
    JSON_FOREACH(k, list) {
        const struct fp *at = FPI(p, k_i);
        const char *name = jstr(k, "name"), *target = jstr(k, "targetContainerName");
        bool taken = has_key(json_get(spec, "containers"), "name", name) ||
                     has_key(json_get(spec, "initContainers"), "name", name);
        common(v, k, pod, at);
        for (size_t j = 0; j < k_i; j++) taken |= str_eq(jstr(json_item(list, j), "name"), name);
        if (taken && *name) v_duplicate(v, FP(at, "name"), json_get(k, "name"));
        if (*target && !has_key(json_get(spec, "containers"), "name", target) &&
            !has_key(json_get(spec, "initContainers"), "name", target))
            v_not_found(v, FP(at, "targetContainerName"), json_get(k, "targetContainerName"));
        for (size_t i = 0; i < ARRAY_LEN(barred); i++)
            if (!jempty(json_get(k, barred[i])))
                v_forbidden(v, FP(at, barred[i]), "cannot be set for an Ephemeral Container");
        if (json_len(json_get(k, "resources")))
            v_forbidden(v, FP(at, "resources"), "cannot be set for an Ephemeral Container");
        JSON_FOREACH(m, json_get(k, "volumeMounts")) {
            if (*jstr(m, "subPath"))
                v_forbidden(v, FP(FPI(FP(at, "volumeMounts"), m_i), "subPath"),
                            "cannot be set for an Ephemeral Container");
            if (*jstr(m, "subPathExpr"))
                v_forbidden(v, FP(FPI(FP(at, "volumeMounts"), m_i), "subPathExpr"),
                            "cannot be set for an Ephemeral Container");
        }
    }
}

void validate_containers(struct vctx *v, const struct json *spec, const struct json *volumes, const struct fp *p) {
    struct pod_view pod = {volumes, json_get(spec, "resourceClaims"), jstr(spec, "restartPolicy"),
                           json_get_int(spec, "terminationGracePeriodSeconds", 30),
                           json_get_bool(spec, "hostUsers", true)};
    const struct json *list = json_get(spec, "containers");
    if (!json_len(list)) v_required(v, FP(p, "containers"), NULL);
    regular(v, &pod, list, FP(p, "containers"));
    init(v, &pod, json_get(spec, "initContainers"), list, FP(p, "initContainers"));
    ephemeral(v, &pod, spec, FP(p, "ephemeralContainers"));
    validate_pod_resources(v, spec, p);
}
