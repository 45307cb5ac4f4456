/* Pods and pod templates. Upstream: ValidatePodSpec, ValidatePodCreate, ValidatePodUpdate and their
 * neighbours in pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

#include "apiserver/rules/warnings.h"

enum { DNS_NAMESERVERS_MAX = 3, DNS_SEARCHES_MAX = 32, DNS_SEARCH_CHARS_MAX = 2048, HOSTNAME_OVERRIDE_MAX = 64 };

/* ---- names of other things ---- */

static void name_rule(struct vctx *v, const struct json *spec, const char *key,
                      void (*rule)(struct vctx *, const struct fp *, const struct json *), const struct fp *p) {
    if (*jstr(spec, key) || (str_eq(key, "runtimeClassName") && jget(spec, key))) /* a pointer, of which "" is wrong */
        rule(v, FP(p, key), json_get(spec, key));
}

/* ---- DNS ---- */

static void dns(struct vctx *v, const struct json *spec, const struct fp *up) {
    const struct json *conf = jget(spec, "dnsConfig"), *it;
    const struct fp *p = FP(up, "dnsConfig");
    v_enum(v, FP(up, "dnsPolicy"), json_get(spec, "dnsPolicy"),
           ONE_OF("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"), true);
    if (str_eq(jstr(spec, "dnsPolicy"), "None")) {
        if (!conf) {
            v_required(v, p, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if (!json_len(json_get(conf, "nameservers"))) {
            v_required(v, FP(p, "nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
            return;
        }
    }
    if (!conf) return;
    const struct json *servers = json_get(conf, "nameservers"), *searches = json_get(conf, "searches");
    if (json_len(servers) > DNS_NAMESERVERS_MAX)
        v_invalid(v, FP(p, "nameservers"), servers, "must not have more than %d nameservers", DNS_NAMESERVERS_MAX);
    JSON_FOREACH(it, servers)
        if (!is_own_ip(str_or_empty(json_as_str(it)), NULL))
            v_invalid(v, FPI(FP(p, "nameservers"), it_i), it,
                      "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    if (json_len(searches) > DNS_SEARCHES_MAX)
        v_invalid(v, FP(p, "searches"), searches, "must not have more than %d search paths", DNS_SEARCHES_MAX);
    size_t chars = 0;
    JSON_FOREACH(it, searches) {
        char *s = arena_strdup(v->a, str_or_empty(json_as_str(it)));
        size_t n = strlen(s);
        chars += n + 1;
        if (str_eq(s, ".")) continue;
        if (n && s[n - 1] == '.') s[n - 1] = '\0';
        for (char *q = s; *q; q++)
            if (*q == '_') *q = 'a';
        v_subdomain(v, FPI(FP(p, "searches"), it_i), json_str(v->a, s));
    }
    if (chars > DNS_SEARCH_CHARS_MAX + 1)
        v_invalid(v, FP(p, "searches"), searches,
                  "must not have more than %d characters (including spaces) in the search list", DNS_SEARCH_CHARS_MAX);
    JSON_FOREACH(it, json_get(conf, "options"))
        if (!*jstr(it, "name")) v_required(v, FPI(FP(p, "options"), it_i), "must not be empty");
}

static void host_aliases(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it, *h;
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        if (!is_own_ip(jstr(it, "ip"), NULL))
            v_invalid(v, FP(at, "ip"), json_get(it, "ip"),
                      "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        JSON_FOREACH(h, json_get(it, "hostnames")) v_subdomain(v, FPI(FP(at, "hostnames"), h_i), h);
    }
}

/* ---- security ---- */

/* Segments of lower-case letters, digits, '-' and '_', each within letters or digits, parted by dots or slashes. */
static bool is_sysctl(const char *s) {
    size_t n = strlen(s);
    if (!n || n > 253) return false;
    for (size_t i = 0; i < n; i++) {
        bool inner = (s[i] >= 'a' && s[i] <= 'z') || (s[i] >= '0' && s[i] <= '9'), edge = i == 0 || i + 1 == n;
        bool parted = !edge && (strchr("./", s[i - 1]) || strchr("./", s[i + 1]));
        if (!inner && (edge || parted || !strchr("-_./", s[i]))) return false;
    }
    return true;
}

void validate_security_context(struct vctx *v, const struct json *spec, const struct fp *up) {
    const struct json *sc = jget(spec, "securityContext"), *it;
    const struct fp *p = FP(up, "securityContext");
    validate_id(v, p, sc, "fsGroup");
    validate_id(v, p, sc, "runAsUser");
    validate_id(v, p, sc, "runAsGroup");
    JSON_FOREACH(it, json_get(sc, "supplementalGroups"))
        if (json_as_int(it, 0) < 0 || json_as_int(it, 0) > INT32_MAX)
            v_invalid(v, FPI(FP(p, "supplementalGroups"), it_i), it, "must be between 0 and 2147483647, inclusive");
    if (json_get_bool(spec, "shareProcessNamespace", false) && json_get_bool(spec, "hostPID", false))
        v_invalid(v, FP(p, "shareProcessNamespace"), json_get(spec, "shareProcessNamespace"),
                  "ShareProcessNamespace and HostPID cannot both be enabled");
    const struct json *sysctls = json_get(sc, "sysctls");
    JSON_FOREACH(it, sysctls) {
        const struct fp *at = FPI(FP(p, "sysctls"), it_i);
        const char *name = jstr(it, "name");
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else if (!is_sysctl(name))
            v_invalid(v, FP(at, "name"), json_get(it, "name"), "must be a sysctl name");
        for (size_t j = 0; j < it_i; j++)
            if (*name && str_eq(jstr(json_item(sysctls, j), "name"), name)) {
                v_duplicate(v, FP(at, "name"), json_get(it, "name"));
                break;
            }
    }
    v_enum(v, FP(p, "fsGroupChangePolicy"), json_get(sc, "fsGroupChangePolicy"), ONE_OF("OnRootMismatch", "Always"),
           false);
    v_enum(v, FP(p, "supplementalGroupsPolicy"), json_get(sc, "supplementalGroupsPolicy"), ONE_OF("Merge", "Strict"),
           false);
    v_enum(v, FP(p, "seLinuxChangePolicy"), json_get(sc, "seLinuxChangePolicy"), ONE_OF("Recursive"), false);
    validate_profiles(v, sc, p);
    validate_windows_options(v, sc, p);
}

static void host_namespaces(struct vctx *v, const struct json *spec, bool is_template, const struct fp *p) {
    const struct json *k, *port;
    bool host = json_get_bool(spec, "hostNetwork", false);
    JSON_FOREACH(k, host ? json_get(spec, "containers") : NULL)
        JSON_FOREACH(port, json_get(k, "ports")) {
            int64_t hp = json_get_int(port, "hostPort", 0), cp = json_get_int(port, "containerPort", 0);
            if ((!is_template || hp) && hp != cp)
                v_invalid(v, FP(FPI(FP(FPI(FP(p, "containers"), k_i), "ports"), port_i), "hostPort"),
                          json_get(port, "hostPort"), "must match `containerPort` when `hostNetwork` is true");
        }
    if (json_get_bool(spec, "hostUsers", true)) return;
    if (host) v_forbidden(v, FP(p, "hostNetwork"), "when `hostUsers` is false");
    if (json_get_bool(spec, "hostPID", false)) v_forbidden(v, FP(p, "HostPID"), "when `hostUsers` is false");
    if (json_get_bool(spec, "hostIPC", false)) v_forbidden(v, FP(p, "HostIPC"), "when `hostUsers` is false");
}

static void gates(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *it, *list = json_get(spec, "schedulingGates");
    JSON_FOREACH(it, json_get(spec, "readinessGates"))
        for (size_t n = qualified_name_faults(jstr(it, "conditionType")); n; n--)
            v_invalid(v, FP(FPI(FP(p, "readinessGates"), it_i), "conditionType"), json_get(it, "conditionType"), "%s",
                      is_qualified_name(jstr(it, "conditionType")));
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(FP(p, "schedulingGates"), it_i);
        for (size_t n = qualified_name_faults(jstr(it, "name")); n; n--)
            v_invalid(v, at, json_get(it, "name"), "%s", is_qualified_name(jstr(it, "name")));
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(it, "name"))) {
                v_duplicate(v, at, json_get(it, "name"));
                break;
            }
    }
}

static void resource_claims(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list) {
        const struct fp *at = FPI(p, it_i);
        const char *name = jstr(it, "name");
        bool claim = jget(it, "resourceClaimName"), tmpl = jget(it, "resourceClaimTemplateName");
        if (!*name)
            v_required(v, FP(at, "name"), NULL);
        else
            v_label1123(v, FP(at, "name"), json_get(it, "name"));
        for (size_t j = 0; j < it_i; j++)
            if (*name && str_eq(jstr(json_item(list, j), "name"), name))
                v_duplicate(v, FP(at, "name"), json_get(it, "name"));
        if (claim && tmpl)
            v_invalid(v, at, it, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified");
        else if (!claim && !tmpl)
            v_invalid(v, at, it, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
        if (claim) v_subdomain(v, FP(at, "resourceClaimName"), json_get(it, "resourceClaimName"));
        if (tmpl) v_subdomain(v, FP(at, "resourceClaimTemplateName"), json_get(it, "resourceClaimTemplateName"));
    }
}

/* ---- the spec ---- */

static void hostname_override(struct vctx *v, const struct json *spec, const struct fp *p) {
    const char *over = json_get_str(spec, "hostnameOverride");
    if (!over) return;
    if (json_get_bool(spec, "setHostnameAsFQDN", false))
        v_forbidden(v, FP(p, "hostnameOverride"), "may not be specified when setHostnameAsFQDN is true");
    if (json_get_bool(spec, "hostNetwork", false))
        v_forbidden(v, FP(p, "hostnameOverride"), "may not be specified when hostNetwork is true");
    if (strlen(over) > HOSTNAME_OVERRIDE_MAX) v_too_long(v, FP(p, "hostnameOverride"), HOSTNAME_OVERRIDE_MAX);
    v_subdomain(v, FP(p, "hostnameOverride"), json_get(spec, "hostnameOverride"));
}

void validate_pod_spec(struct vctx *v, const struct json *spec, const struct json *meta, const struct fp *p,
                       bool is_template) {
    const struct json *volumes = validate_volumes(v, json_get(spec, "volumes"), meta, FP(p, "volumes"));
    resource_claims(v, json_get(spec, "resourceClaims"), FP(p, "resourceClaims"));
    validate_containers(v, spec, volumes, p);
    host_namespaces(v, spec, is_template, p);
    v_enum(v, FP(p, "restartPolicy"), json_get(spec, "restartPolicy"), ONE_OF("Always", "OnFailure", "Never"), true);
    dns(v, spec, p);
    v_labels(v, FP(p, "nodeSelector"), json_get(spec, "nodeSelector"));
    validate_security_context(v, spec, p);
    validate_affinity(v, jget(spec, "affinity"), FP(p, "affinity"));
    gates(v, spec, p);
    validate_topology_spread(v, json_get(spec, "topologySpreadConstraints"), FP(p, "topologySpreadConstraints"));
    name_rule(v, spec, "serviceAccountName", v_subdomain, p);
    name_rule(v, spec, "nodeName", v_subdomain, p);
    v_range(v, p, spec, "activeDeadlineSeconds", 1, INT32_MAX);
    name_rule(v, spec, "hostname", v_label1123, p);
    name_rule(v, spec, "subdomain", v_label1123, p);
    validate_tolerations(v, json_get(spec, "tolerations"), FP(p, "tolerations"));
    host_aliases(v, json_get(spec, "hostAliases"), FP(p, "hostAliases"));
    name_rule(v, spec, "priorityClassName", v_subdomain, p);
    name_rule(v, spec, "runtimeClassName", v_subdomain, p);
    v_enum(v, FP(p, "preemptionPolicy"), json_get(spec, "preemptionPolicy"), ONE_OF("PreemptLowerPriority", "Never"),
           jget(spec, "preemptionPolicy") != NULL);
    if (jget(spec, "overhead")) {
        struct json *limits = json_object(v->a);
        json_set(v->a, limits, "limits", json_clone(v->a, json_get(spec, "overhead")));
        validate_resources(v, limits, FP(p, "overhead"), NULL);
    }
    validate_os(v, spec, p);
    validate_file_keys(v, spec, p);
    hostname_override(v, spec, p);
}

void validate_pod_template(struct vctx *v, const struct json *tmpl, const struct json *old, const struct fp *p) {
    const struct json *meta = json_get(tmpl, "metadata"), *spec = json_get(tmpl, "spec");
    v_labels(v, FP(p, "labels"), json_get(meta, "labels"));
    v_annotations(v, FP(p, "annotations"), json_get(meta, "annotations"));
    validate_pod_spec(v, spec, NULL, FP(p, "spec"), true);
    if (json_len(json_get(spec, "ephemeralContainers")))
        v_forbidden(v, FP(FP(p, "spec"), "ephemeralContainers"), "ephemeral containers not allowed in pod template");
    /* of a ReplicationController upstream looks at the template that was there */
    bool before = old && str_eq(v->c->kind, "ReplicationController");
    if (!old || !jsame(tmpl, old))
        warn_pod(v, before ? json_get(old, "metadata") : meta, before ? json_get(old, "spec") : spec, p);
}

/* ---- updates ---- */

static void keep(struct arena *a, struct json *o, const struct json *old, const char *key) {
    const struct json *was = json_get(old, key);
    if (was)
        json_set(a, o, key, json_clone(a, was));
    else
        json_del(o, key);
}

static bool padded(const char *s) { return *s && (strchr(" \t\n\r", *s) || strchr(" \t\n\r", s[strlen(s) - 1])); }

/* Puts the old images (and on /resize the old resources) into `spec`, as far as both have the containers.
 * False when their number changed, which is reported. */
static bool mask_containers(struct vctx *v, struct json *spec, const struct json *old, const char *key, bool resize,
                            const struct fp *p) {
    struct json *list = json_get(spec, key), *k;
    const struct json *was = json_get(old, key);
    if (json_len(list) != json_len(was)) {
        v_forbidden(v, FP(p, key), "pod updates may not add or remove containers");
        return false;
    }
    JSON_FOREACH(k, list) {
        const struct json *o = json_item(was, k_i);
        if (!resize && !*jstr(k, "image")) v_required(v, FP(FPI(FP(p, key), k_i), "image"), NULL);
        if (!resize && padded(jstr(k, "image")))
            v_invalid(v, FP(FPI(FP(p, key), k_i), "image"), json_get(k, "image"),
                      "must not have leading or trailing whitespace");
        keep(v->a, k, o, "image");
        if (!resize) continue;
        keep(v->a, k, o, "resources");
        keep(v->a, k, o, "resizePolicy");
    }
    return true;
}

static void deadline_update(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *p) {
    const struct json *now = jget(spec, "activeDeadlineSeconds"), *was = jget(old, "activeDeadlineSeconds");
    const struct fp *at = FP(p, "activeDeadlineSeconds");
    if (!now) {
        if (was) v_invalid(v, at, NULL, "must not update from a positive integer to nil value");
    } else if (was && json_as_int(was, 0) < json_as_int(now, 0)) {
        v_invalid(v, at, now, "must be less than or equal to previous value");
    }
}

static bool toleration_kept(struct arena *a, const struct json *was, const struct json *list) {
    const struct json *t;
    JSON_FOREACH(t, list) {
        struct json *x = json_clone(a, was), *y = json_clone(a, t);
        json_del(x, "tolerationSeconds");
        json_del(y, "tolerationSeconds");
        if (jsame(x, y)) return true;
    }
    return false;
}

/* A gated pod's node selector and node affinity may become narrower; that they only do is not checked here.
 */
static void mask_gated(struct arena *a, struct json *spec, const struct json *old) {
    keep(a, spec, old, "nodeSelector");
    const struct json *was = json_at(old, "affinity", "nodeAffinity", NULL);
    struct json *aff = json_get(spec, "affinity");
    if (was)
        json_set(a, json_ensure_object(a, spec, "affinity"), "nodeAffinity", json_clone(a, was));
    else if (aff)
        json_del(aff, "nodeAffinity");
    if (aff && !json_len(aff) && !jget(old, "affinity")) json_del(spec, "affinity");
}

static void update(struct vctx *v, const struct json *obj, const struct json *old_pod) {
    const struct fp *p = FP(NULL, "spec");
    const struct json *spec = json_get(obj, "spec"), *old = json_get(old_pod, "spec"), *t;
    struct json *munged = json_clone(v->a, spec);
    bool resize = str_eq(v->c->subresource, "resize");
    if (!mask_containers(v, munged, old, "containers", resize, p) ||
        !mask_containers(v, munged, old, "initContainers", resize, p))
        return;
    deadline_update(v, spec, old, p);
    JSON_FOREACH(t, json_get(old, "tolerations"))
        if (!toleration_kept(v->a, t, json_get(spec, "tolerations"))) {
            v_forbidden(v, FP(p, "tolerations"),
                        "existing toleration can not be modified except its tolerationSeconds");
            break;
        }
    if (json_len(json_get(spec, "tolerations")) &&
        !jsame(json_get(spec, "tolerations"), json_get(old, "tolerations"))) /* by the rules of updates, too */
        validate_tolerations(v, json_get(spec, "tolerations"), FP(p, "tolerations"));
    JSON_FOREACH(t, json_get(spec, "schedulingGates"))
        if (!has_key(json_get(old, "schedulingGates"), "name", jstr(t, "name")))
            v_forbidden(v, FP(FPI(FP(p, "schedulingGates"), t_i), "name"),
                        "only deletion is allowed, but found new scheduling gate '%s'", jstr(t, "name"));
    static const char *const free_to_change[] = {"activeDeadlineSeconds", "schedulingGates", "tolerations"};
    for (size_t i = 0; i < ARRAY_LEN(free_to_change); i++) keep(v->a, munged, old, free_to_change[i]);
    if (json_get_int(old, "terminationGracePeriodSeconds", 0) < 0 &&
        json_get_int(spec, "terminationGracePeriodSeconds", 0) == 1)
        keep(v->a, munged, old, "terminationGracePeriodSeconds");
    if (json_len(json_get(old, "schedulingGates"))) mask_gated(v->a, munged, old);
    if (resize) keep(v->a, munged, old, "resources");
    if (!jsame(munged, old) || !jget(munged, "resources") != !jget(old, "resources"))
        v_forbidden(v, p,
                    "pod updates may not change fields other than `spec.containers[*].image`, "
                    "`spec.initContainers[*].image`, "
                    "`spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), "
                    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)");
}

static bool removed(const struct json *now, const struct json *was) {
    JSON_FOREACH_MEMBER(m, was)
        if (!json_get(now, m->key)) return true;
    return false;
}

/* Of a container, cpu and memory may become other amounts; none may go, and all else stays. */
static void resize_container(struct vctx *v, const struct json *k, const struct json *was, const struct fp *p) {
    static const char *const parts[] = {"requests", "limits"};
    const struct json *res = json_get(k, "resources"), *old = json_get(was, "resources");
    struct json *rest = json_object(v->a), *rest_was = json_object(v->a);
    keep(v->a, rest, k, "resizePolicy");
    keep(v->a, rest_was, was, "resizePolicy");
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        const struct json *now = json_get(res, parts[i]), *before = json_get(old, parts[i]);
        if (removed(now, before))
            v_forbidden(v, FP(FP(p, "resources"), parts[i]), "resource %s cannot be removed", parts[i]);
        struct json *x = json_ensure_object(v->a, rest, parts[i]), *y = json_ensure_object(v->a, rest_was, parts[i]);
        JSON_FOREACH_MEMBER(m, now)
            if (!str_in(m->key, ONE_OF("cpu", "memory"))) json_set(v->a, x, m->key, json_clone(v->a, m->value));
        JSON_FOREACH_MEMBER(m, before)
            if (!str_in(m->key, ONE_OF("cpu", "memory"))) json_set(v->a, y, m->key, json_clone(v->a, m->value));
    }
    if (!jsame(rest, rest_was)) v_forbidden(v, FP(NULL, "spec"), "only cpu and memory resources are mutable");
}

/* Whether both have the same containers in the same order. */
static bool resize_order(struct vctx *v, const struct json *obj, const struct json *old, const char *key) {
    const struct json *now = json_at(obj, "spec", key, NULL), *was = json_at(old, "spec", key, NULL), *k;
    const struct fp *p = FP(FP(NULL, "spec"), key);
    bool same = true;
    if (json_len(now) != json_len(was)) {
        v_forbidden(v, p, "%s may not be added or removed on resize", key);
        return false;
    }
    JSON_FOREACH(k, now)
        if (!str_eq(jstr(k, "name"), jstr(json_item(was, k_i), "name"))) {
            v_forbidden(v, FP(FPI(p, k_i), "name"), "%s may not be renamed or reordered on resize", key);
            same = false;
        }
    return same;
}

static void resize_containers(struct vctx *v, const struct json *obj, const struct json *old, const char *key) {
    const struct json *now = json_at(obj, "spec", key, NULL), *was = json_at(old, "spec", key, NULL), *k;
    JSON_FOREACH(k, now) resize_container(v, k, json_item(was, k_i), FPI(FP(FP(NULL, "spec"), key), k_i));
}

/* False: the containers are others, and nothing more can be told about them. */
static bool update_resize(struct vctx *v, const struct json *obj, const struct json *old) {
    const char *now = pod_qos_class(json_get(obj, "spec")), *was = jstr(json_get(old, "status"), "qosClass");
    if (*was && !str_eq(now, was))
        v_invalid(v, FP(NULL, "spec"), json_str(v->a, now), "Pod QOS Class may not change as a result of resizing");
    bool same = resize_order(v, obj, old, "containers");
    if (!resize_order(v, obj, old, "initContainers") || !same) return false;
    resize_containers(v, obj, old, "containers");
    resize_containers(v, obj, old, "initContainers");
    return true;
}

static void update_ephemeral(struct vctx *v, const struct json *obj, const struct json *old) {
    const struct json *was, *now, *list = json_at(obj, "spec", "ephemeralContainers", NULL);
    const struct fp *p = FP(FP(NULL, "spec"), "ephemeralContainers");
    JSON_FOREACH(was, json_at(old, "spec", "ephemeralContainers", NULL)) {
        const struct json *found = NULL;
        JSON_FOREACH(now, list)
            if (str_eq(jstr(now, "name"), jstr(was, "name"))) found = now;
        if (!found)
            v_forbidden(v, p, "existing ephemeral containers \"%s\" may not be removed", jstr(was, "name"));
        else if (!jsame(found, was))
            v_forbidden(v, p, "existing ephemeral containers \"%s\" may not be changed", jstr(was, "name"));
    }
}

VALIDATE_FN(pod) {
    const struct json *spec = json_get(obj, "spec"), *vol, *src;
    const struct fp *p = FP(NULL, "spec");
    validate_pod_spec(v, spec, json_get(obj, "metadata"), p, false);
    if (!*jstr(spec, "serviceAccountName"))
        JSON_FOREACH(vol, json_get(spec, "volumes"))
            JSON_FOREACH(src, json_at(vol, "projected", "sources", NULL))
                if (jget(src, "serviceAccountToken"))
                    v_forbidden(v,
                                FP(FPI(FP(FP(FPI(FP(p, "volumes"), vol_i), "projected"), "sources"), src_i),
                                   "serviceAccountToken"),
                                "must not be specified when serviceAccountName is not set");
    if (!old) {
        if (json_len(json_get(spec, "ephemeralContainers")))
            v_forbidden(v, FP(p, "ephemeralContainers"), "cannot be set on create");
        if (*jstr(spec, "nodeName") && json_len(json_get(spec, "schedulingGates")))
            v_forbidden(v, FP(p, "nodeName"), "cannot be set until all schedulingGates have been cleared");
        warn_pod(v, json_get(obj, "metadata"), spec, NULL);
    } else if (str_eq(v->c->subresource, "ephemeralcontainers")) {
        update_ephemeral(v, obj, old);
    } else if (!str_eq(v->c->subresource, "resize") || update_resize(v, obj, old)) {
        update(v, obj, old);
    }
}

VALIDATE_FN(pod_template_object) {
    validate_pod_template(v, json_get(obj, "template"), json_get(old, "template"), FP(NULL, "template"));
}
