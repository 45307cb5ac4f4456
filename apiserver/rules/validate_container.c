/* Containers: ports, environment, mounts, resources, and the three lists of a pod. Upstream:
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
        v_not_supported(v, FP(p, "fieldPath"), json_get(ref, "fieldPath"),
                        volume ? volume_fields : env_fields);
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
    static const char *const cpu[] = {"1m", "1", NULL}, *const mem[] = {"1",   "1k",  "1M",  "1G",  "1T",
                                                                        "1P",  "1E",  "1Ki", "1Mi", "1Gi",
                                                                        "1Ti", "1Pi", "1Ei", NULL};
    bool is_cpu = str_has_suffix(res, ".cpu");
    if (!str_in(div, is_cpu ? cpu : mem))
        v_invalid(v, FP(p, "divisor"), json_get(ref, "divisor"),
                  "only divisor's values that are powers of the unit are supported");
}

static void key_ref(struct vctx *v, const struct json *ref, const struct fp *p) {
    if (!*jstr(ref, "name")) v_required(v, FP(p, "name"), NULL);
    if (!*jstr(ref, "key"))
        v_required(v, FP(p, "key"), NULL);
    else if (is_config_map_key(jstr(ref, "key")))
        v_invalid(v, FP(p, "key"), json_get(ref, "key"), "%s", is_config_map_key(jstr(ref, "key")));
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
    if (jget(from, "fileKeyRef")) sources++;
    if (!sources)
        v_invalid(v, p, NULL,
                  "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or "
                  "`fileKeyRef`");
    else if (*jstr(env, "value"))
        v_invalid(v, p, NULL, "may not be specified when `value` is not empty");
    else if (sources > 1)
        v_invalid(v, p, NULL, "may not have more than one field specified at a time");
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
        if (cm && !*jstr(cm, "name")) v_required(v, FP(FP(at, "configMapRef"), "name"), NULL);
        if (secret && !*jstr(secret, "name")) v_required(v, FP(FP(at, "secretRef"), "name"), NULL);
        if (!cm && !secret)
            v_invalid(v, FP(p, "envFrom"), it, "must specify one of: `configMapRef` or `secretRef`");
        else if (cm && secret)
            v_invalid(v, FP(p, "envFrom"), it, "may not have more than one field specified at a time");
    }
}

/* ---- mounts ---- */

void validate_local_path(struct vctx *v, const struct fp *p, const struct json *path) {
    const char *s = str_or_empty(json_as_str(path));
    if (s[0] == '/') v_invalid(v, p, path, "must be a relative path");
    for (const char *q = s; *q;) {
        size_t n = strcspn(q, "/");
        if (n == 2 && memcmp(q, "..", 2) == 0) {
            v_invalid(v, p, path, "must not contain '..'");
            return;
        }
        q += n + (q[n] == '/');
    }
}

static const struct json *volume_named(const struct json *volumes, const char *name) {
    const struct json *it;
    JSON_FOREACH(it, volumes)
        if (str_eq(jstr(it, "name"), name)) return it;
    return NULL;
}

static void mounts(struct vctx *v, const struct json *k, const struct json *volumes, const struct fp *p) {
    const struct json *it, *list = json_get(k, "volumeMounts");
    const struct fp *mp = FP(p, "volumeMounts");
    bool privileged = json_get_bool(json_get(k, "securityContext"), "privileged", false);
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(mp, it_i);
        const char *name = jstr(it, "name"), *path = jstr(it, "mountPath"),
                   *prop = jstr(it, "mountPropagation");
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (!volume_named(volumes, name))
            v_not_found(v, FP(at, "name"), json_get(it, "name"));
        if (!*path) v_required(v, FP(at, "mountPath"), NULL);
        for (size_t j = 0; j < it_i; j++)
            if (*path && str_eq(jstr(json_item(list, j), "mountPath"), path)) {
                v_invalid(v, FP(at, "mountPath"), json_get(it, "mountPath"), "must be unique");
                break;
            }
        if (has_key(json_get(k, "volumeDevices"), "name", name))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "must not already exist in volumeDevices");
        if (*jstr(it, "subPath")) validate_local_path(v, FP(mp, "subPath"), json_get(it, "subPath"));
        if (*jstr(it, "subPathExpr")) {
            if (*jstr(it, "subPath"))
                v_invalid(v, FP(at, "subPathExpr"), json_get(it, "subPathExpr"),
                          "subPathExpr and subPath are mutually exclusive");
            validate_local_path(v, FP(mp, "subPathExpr"), json_get(it, "subPathExpr"));
        }
        if (*prop && !str_in(prop, ONE_OF("None", "HostToContainer", "Bidirectional")))
            v_not_supported(v, FP(mp, "mountPropagation"), json_get(it, "mountPropagation"),
                            ONE_OF("Bidirectional", "HostToContainer", "None"));
        if (str_eq(prop, "Bidirectional") && !privileged)
            v_forbidden(v, FP(mp, "mountPropagation"),
                        "Bidirectional mount propagation is available only to privileged containers");
    }
    list = json_get(k, "volumeDevices");
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(FP(p, "volumeDevices"), it_i);
        const char *name = jstr(it, "name"), *path = jstr(it, "devicePath");
        const struct json *vol = volume_named(volumes, name);
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (!vol)
            v_not_found(v, FP(at, "name"), json_get(it, "name"));
        else if (!jget(vol, "persistentVolumeClaim") && !jget(vol, "ephemeral"))
            v_not_found(v, FP(at, "name"), json_get(it, "name"));
        if (!*path) v_required(v, FP(at, "devicePath"), NULL);
        for (size_t j = 0; j < it_i; j++)
            if (*path && str_eq(jstr(json_item(list, j), "devicePath"), path))
                v_invalid(v, FP(at, "devicePath"), json_get(it, "devicePath"), "must be unique");
        if (*path)
            validate_local_path(v, FP(at, "devicePath"), json_str(v->a, path[0] == '/' ? path + 1 : path));
    }
}

/* ---- resources ---- */

static bool is_hugepages(const char *name) { return str_has_prefix(name, "hugepages-"); }

bool resource_is_native(const char *name) { return !strchr(name, '/') || strstr(name, "kubernetes.io/"); }

bool resource_is_extended(const char *name) {
    if (resource_is_native(name) || str_has_prefix(name, "requests.")) return false;
    char *quota = xasprintf("requests.%s", name);
    bool ok = qualified_name_faults(quota) == 0;
    free(quota);
    return ok;
}

void validate_resource_name(struct vctx *v, const struct fp *p, const char *name) {
    v_label_name(v, p, name);
}

static void container_resource_name(struct vctx *v, const struct fp *p, const char *name) {
    validate_resource_name(v, p, name);
    if (!strchr(name, '/')) {
        if (!str_in(name, ONE_OF("cpu", "memory", "ephemeral-storage")) && !is_hugepages(name))
            v_invalid(v, p, json_str(v->a, name), "must be a standard resource for containers");
    } else if (!resource_is_native(name) && !resource_is_extended(name)) {
        v_invalid(v, p, json_str(v->a, name), "doesn't follow extended resource name standard");
    }
}

/* Negative amounts, and fractions where only whole ones make sense. */
void validate_resource_value(struct vctx *v, const struct fp *p, const char *name, const struct json *value) {
    struct quantity q;
    if (quantity_parse(str_or_empty(json_as_str(value)), &q) < 0) return;
    if (q.nano < 0) v_invalid(v, p, value, "must be greater than or equal to 0");
    bool whole = resource_is_extended(name) ||
                 str_in(name, ONE_OF("pods", "services", "replicationcontrollers", "resourcequotas",
                                     "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports",
                                     "services.loadbalancers"));
    if (whole && q.nano % 1000000000 != 0) v_invalid(v, p, value, "must be an integer");
}

static bool overcommit_allowed(const char *name) { return resource_is_native(name) && !is_hugepages(name); }

static int compare_quantities(const struct json *x, const struct json *y) {
    struct quantity a = {0}, b = {0};
    quantity_parse(str_or_empty(json_as_str(x)), &a);
    quantity_parse(str_or_empty(json_as_str(y)), &b);
    return quantity_cmp(a, b);
}

void validate_resources(struct vctx *v, const struct json *res, const struct fp *p,
                        const struct json *pod_claims) {
    const struct json *limits = json_get(res, "limits"), *requests = json_get(res, "requests"), *it;
    bool compute = false, huge = false;
    JSON_FOREACH_MEMBER(m, limits) {
        const struct fp *at = FPK(FP(p, "limits"), m->key);
        container_resource_name(v, at, m->key);
        validate_resource_value(v, at, m->key, m->value);
        compute |= str_in(m->key, ONE_OF("cpu", "memory"));
        huge |= is_hugepages(m->key);
    }
    JSON_FOREACH_MEMBER(m, requests) {
        const struct fp *at = FPK(FP(p, "requests"), m->key);
        const struct json *limit = json_get(limits, m->key);
        container_resource_name(v, at, m->key);
        validate_resource_value(v, at, m->key, m->value);
        if (limit && compare_quantities(m->value, limit) != 0 && !overcommit_allowed(m->key))
            v_invalid(v, FP(p, "requests"), m->value, "must be equal to %s limit of %s", m->key,
                      json_as_str(limit));
        else if (limit && compare_quantities(m->value, limit) > 0)
            v_invalid(v, FP(p, "requests"), m->value, "must be less than or equal to %s limit of %s", m->key,
                      json_as_str(limit));
        else if (!limit && !overcommit_allowed(m->key))
            v_required(v, FP(p, "limits"), "Limit must be set for non overcommitable resources");
        compute |= str_in(m->key, ONE_OF("cpu", "memory"));
        huge |= is_hugepages(m->key);
    }
    if (huge && !compute) v_forbidden(v, p, "HugePages require cpu or memory");
    JSON_FOREACH(it, json_get(res, "claims")) {
        const struct fp *at = FPI(FP(p, "claims"), it_i);
        if (!*jstr(it, "name"))
            v_required(v, FP(at, "name"), NULL);
        else if (!has_key(pod_claims, "name", jstr(it, "name")))
            v_not_found(v, at, json_get(it, "name"));
    }
}

/* ---- containers ---- */

static void common(struct vctx *v, const struct json *k, const struct pod_view *pod, const struct fp *p) {
    const char *name = jstr(k, "name"), *image = jstr(k, "image");
    const struct json *it;
    if (!*name)
        v_required(v, FP(p, "name"), NULL);
    else if (is_dns1123_label(name))
        v_invalid(v, FP(p, "name"), json_get(k, "name"), "%s", is_dns1123_label(name));
    if (!*image)
        v_required(v, FP(p, "image"), NULL);
    else if (strchr(" \t\n\r", image[0]) || strchr(" \t\n\r", image[strlen(image) - 1]))
        v_invalid(v, FP(p, "image"), json_get(k, "image"), "must not have leading or trailing whitespace");
    v_enum(v, FP(p, "terminationMessagePolicy"), json_get(k, "terminationMessagePolicy"),
           ONE_OF("File", "FallbackToLogsOnError"), true);
    ports(v, json_get(k, "ports"), FP(p, "ports"));
    environment(v, k, p);
    mounts(v, k, pod->volumes, p);
    v_enum(v, FP(p, "imagePullPolicy"), json_get(k, "imagePullPolicy"),
           ONE_OF("Always", "IfNotPresent", "Never"), true);
    validate_resources(v, json_get(k, "resources"), FP(p, "resources"), pod->claims);
    JSON_FOREACH(it, json_get(k, "resizePolicy")) {
        const struct fp *at = FPI(FP(p, "resizePolicy"), it_i);
        v_enum(v, FP(at, "resourceName"), json_get(it, "resourceName"), ONE_OF("cpu", "memory"), true);
        v_enum(v, FP(at, "restartPolicy"), json_get(it, "restartPolicy"),
               ONE_OF("NotRequired", "RestartContainer"), true);
        if (str_eq(jstr(it, "restartPolicy"), "RestartContainer") && str_eq(pod->restart_policy, "Never"))
            v_invalid(v, FP(p, "resizePolicy"), json_get(it, "restartPolicy"),
                      "must be 'NotRequired' when `restartPolicy` is 'Never'");
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
            char *key =
                arena_printf(v->a, "%s/%s/%lld", jstr(port, "protocol"), jstr(port, "hostIP"), (long long)n);
            if (json_get(seen, key))
                v_duplicate(v, FP(FPI(FP(FPI(p, k_i), "ports"), port_i), "hostPort"),
                            json_get(port, "hostPort"));
            else
                json_set_bool(v->a, seen, key, true);
        }
}

static void restart_rules(struct vctx *v, const struct json *k, const struct fp *p) {
    const struct json *it;
    const char *policy = json_get_str(k, "restartPolicy");
    if (policy && !str_in(policy, ONE_OF("Always", "Never", "OnFailure")))
        v_not_supported(v, FP(p, "restartPolicy"), json_get(k, "restartPolicy"),
                        ONE_OF("Always", "Never", "OnFailure"));
    if (json_len(json_get(k, "restartPolicyRules")) && !policy)
        v_required(v, FP(p, "restartPolicy"), "must specify restartPolicy when restart rules are used");
    JSON_FOREACH(it, json_get(k, "restartPolicyRules")) {
        const struct fp *at = FPI(FP(p, "restartPolicyRules"), it_i);
        v_enum(v, FP(at, "action"), json_get(it, "action"), ONE_OF("Restart", "RestartAllContainers"), true);
        if (!jget(it, "exitCodes"))
            v_required(v, FP(at, "exitCodes"), NULL);
        else
            v_enum(v, FP(FP(at, "exitCodes"), "operator"), json_at(it, "exitCodes", "operator", NULL),
                   ONE_OF("In", "NotIn"), true);
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
        restart_rules(v, k, at);
    }
    host_port_conflicts(v, list, p);
}

static void init(struct vctx *v, const struct pod_view *pod, const struct json *list,
                 const struct json *others, const struct fp *p) {
    static const char *const sidecar_only[] = {"lifecycle", "livenessProbe", "readinessProbe",
                                               "startupProbe"};
    const struct json *k;
    JSON_FOREACH(k, list) {
        const struct fp *at = FPI(p, k_i);
        bool sidecar = str_eq(jstr(k, "restartPolicy"), "Always"),
             taken = has_key(others, "name", jstr(k, "name"));
        common(v, k, pod, at);
        restart_rules(v, k, at);
        for (size_t j = 0; j < k_i; j++) taken |= str_eq(jstr(json_item(list, j), "name"), jstr(k, "name"));
        if (taken && *jstr(k, "name")) v_duplicate(v, FP(at, "name"), json_get(k, "name"));
        for (size_t i = 0; !sidecar && i < ARRAY_LEN(sidecar_only); i++)
            if (jget(k, sidecar_only[i]))
                v_forbidden(v, FP(at, sidecar_only[i]),
                            "may not be set for init containers without restartPolicy=Always");
        if (!sidecar) continue;
        validate_lifecycle(v, k, pod->grace, at);
        validate_probe(v, k, "livenessProbe", at);
        validate_probe(v, k, "readinessProbe", at);
        validate_probe(v, k, "startupProbe", at);
    }
}

static void ephemeral(struct vctx *v, const struct pod_view *pod, const struct json *spec,
                      const struct fp *p) {
    static const char *const barred[] = {
        "lifecycle", "livenessProbe", "readinessProbe", "startupProbe",
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

void validate_containers(struct vctx *v, const struct json *spec, const struct fp *p) {
    struct pod_view pod = {
        json_get(spec, "volumes"), json_get(spec, "resourceClaims"), jstr(spec, "restartPolicy"),
        json_get_int(spec, "terminationGracePeriodSeconds", 30), json_get_bool(spec, "hostUsers", true)};
    const struct json *list = json_get(spec, "containers");
    if (!json_len(list)) v_required(v, FP(p, "containers"), NULL);
    regular(v, &pod, list, FP(p, "containers"));
    init(v, &pod, json_get(spec, "initContainers"), list, FP(p, "initContainers"));
    ephemeral(v, &pod, spec, FP(p, "ephemeralContainers"));
    if (jget(spec, "resources")) validate_resources(v, json_get(spec, "resources"), FP(p, "resources"), NULL);
}
