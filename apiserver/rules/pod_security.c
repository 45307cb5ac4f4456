/* PodSecurity admission: the Pod Security Standards that a namespace's labels ask for.
 *
 *   pod-security.kubernetes.io/enforce: privileged | baseline | restricted     refuses pods
 *   pod-security.kubernetes.io/warn:    the same                               warns, for workloads too
 *
 * Each check is one function over the pod's spec; the table says from which level on it holds. Versions of
 * the standards (enforce-version) are not told apart: the newest is used. Upstream:
 * pod-security-admission/policy. */
#include "apiserver/rules/admission.h"

enum level { PRIVILEGED, BASELINE, RESTRICTED };

static enum level level_of(const char *s) {
    return str_eq(s, "restricted") ? RESTRICTED : str_eq(s, "baseline") ? BASELINE : PRIVILEGED;
}

typedef bool each_fn(const struct json *security_context, const struct json *container,
                     const struct json *spec);

/* True when fn holds for every container of the pod. */
static bool every(const struct json *spec, each_fn *fn) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    const struct json *k;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i]))
            if (!fn(json_get(k, "securityContext"), k, spec)) return false;
    return true;
}

static bool not_privileged(const struct json *sc, const struct json *k, const struct json *spec) {
    return !json_get_bool(sc, "privileged", false);
}
static bool no_host_ports(const struct json *sc, const struct json *k, const struct json *spec) {
    const struct json *p;
    JSON_FOREACH(p, json_get(k, "ports"))
        if (json_get_int(p, "hostPort", 0)) return false;
    return true;
}
static bool baseline_caps(const struct json *sc, const struct json *k, const struct json *spec) {
    static const char *const ok[] = {"AUDIT_WRITE", "CHOWN",  "DAC_OVERRIDE",     "FOWNER",  "FSETID",
                                     "KILL",        "MKNOD",  "NET_BIND_SERVICE", "SETFCAP", "SETGID",
                                     "SETPCAP",     "SETUID", "SYS_CHROOT",       NULL};
    const struct json *cap;
    JSON_FOREACH(cap, json_at(sc, "capabilities", "add", NULL))
        if (!str_in(str_or_empty(json_as_str(cap)), ok)) return false;
    return true;
}
static bool default_proc(const struct json *sc, const struct json *k, const struct json *spec) {
    return str_in(jstr(sc, "procMount"), ONE_OF("", "Default"));
}
static bool profile_ok(const struct json *sc, const char *which) {
    return !str_eq(jstr(json_get(sc, which), "type"), "Unconfined");
}
static bool profiles(const struct json *sc, const struct json *k, const struct json *spec) {
    return profile_ok(sc, "seccompProfile") && profile_ok(sc, "appArmorProfile");
}
static bool no_escalation(const struct json *sc, const struct json *k, const struct json *spec) {
    return !json_get_bool(sc, "allowPrivilegeEscalation", true);
}
static bool non_root(const struct json *sc, const struct json *k, const struct json *spec) {
    const struct json *own = jget(sc, "runAsNonRoot");
    return own ? own->b : json_get_bool(json_get(spec, "securityContext"), "runAsNonRoot", false);
}
static bool non_root_user(const struct json *sc, const struct json *k, const struct json *spec) {
    return json_get_int(sc, "runAsUser", 1) != 0;
}
static bool seccomp_set(const struct json *sc, const struct json *k, const struct json *spec) {
    const struct json *own = jget(sc, "seccompProfile"),
                      *pod = json_at(spec, "securityContext", "seccompProfile", NULL);
    return str_in(jstr(own ? own : pod, "type"), ONE_OF("RuntimeDefault", "Localhost"));
}
static bool restricted_caps(const struct json *sc, const struct json *k, const struct json *spec) {
    const struct json *cap;
    bool all = false;
    JSON_FOREACH(cap, json_at(sc, "capabilities", "drop", NULL)) all |= str_eq(json_as_str(cap), "ALL");
    JSON_FOREACH(cap, json_at(sc, "capabilities", "add", NULL))
        if (!str_eq(json_as_str(cap), "NET_BIND_SERVICE")) return false;
    return all;
}

static bool no_host_namespaces(const struct json *spec) {
    return !json_get_bool(spec, "hostNetwork", false) && !json_get_bool(spec, "hostPID", false) &&
           !json_get_bool(spec, "hostIPC", false);
}
static bool no_host_path(const struct json *spec) {
    const struct json *v;
    JSON_FOREACH(v, json_get(spec, "volumes"))
        if (jget(v, "hostPath")) return false;
    return true;
}
static bool restricted_volumes(const struct json *spec) {
    static const char *const ok[] = {"name",      "configMap", "csi",   "downwardAPI",
                                     "emptyDir",  "ephemeral", "image", "persistentVolumeClaim",
                                     "projected", "secret",    NULL};
    const struct json *v;
    JSON_FOREACH(v, json_get(spec, "volumes"))
        JSON_FOREACH_MEMBER(m, v)
            if (!str_in(m->key, ok) && m->value->type != JSON_NULL) return false;
    return true;
}
static bool safe_sysctls(const struct json *spec) {
    static const char *const ok[] = {"kernel.shm_rmid_forced",
                                     "net.ipv4.ip_local_port_range",
                                     "net.ipv4.tcp_syncookies",
                                     "net.ipv4.ping_group_range",
                                     "net.ipv4.ip_unprivileged_port_start",
                                     "net.ipv4.ip_local_reserved_ports",
                                     "net.ipv4.tcp_keepalive_time",
                                     "net.ipv4.tcp_fin_timeout",
                                     "net.ipv4.tcp_keepalive_intvl",
                                     "net.ipv4.tcp_keepalive_probes",
                                     NULL};
    const struct json *s;
    JSON_FOREACH(s, json_at(spec, "securityContext", "sysctls", NULL))
        if (!str_in(jstr(s, "name"), ok)) return false;
    return true;
}
static bool pod_profiles(const struct json *spec) {
    return profiles(json_get(spec, "securityContext"), NULL, spec);
}
static bool pod_user(const struct json *spec) {
    return json_get_int(json_get(spec, "securityContext"), "runAsUser", 1) != 0;
}

static const struct {
    enum level from;
    bool (*pod)(const struct json *spec);
    each_fn *container;
    const char *what;
} checks[] = {
    {BASELINE, no_host_namespaces, NULL, "host namespaces"},
    {BASELINE, NULL, not_privileged, "privileged"},
    {BASELINE, NULL, baseline_caps, "non-default capabilities"},
    {BASELINE, no_host_path, NULL, "hostPath volumes"},
    {BASELINE, NULL, no_host_ports, "hostPort"},
    {BASELINE, pod_profiles, profiles, "unconfined profiles"},
    {BASELINE, NULL, default_proc, "procMount"},
    {BASELINE, safe_sysctls, NULL, "forbidden sysctls"},
    {RESTRICTED, restricted_volumes, NULL, "restricted volume types"},
    {RESTRICTED, NULL, no_escalation, "allowPrivilegeEscalation != false"},
    {RESTRICTED, NULL, non_root, "runAsNonRoot != true"},
    {RESTRICTED, pod_user, non_root_user, "runAsUser=0"},
    {RESTRICTED, NULL, seccomp_set, "seccompProfile"},
    {RESTRICTED, NULL, restricted_caps, "unrestricted capabilities"},
};

/* The names of the violated checks, or NULL. */
static const char *violations(struct rules_ctx *c, const struct json *spec, enum level level) {
    _cleanup_buf_ struct buf b = {.limit = 1024};
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        if (checks[i].from > level) continue;
        bool ok = (!checks[i].pod || checks[i].pod(spec)) &&
                  (!checks[i].container || every(spec, checks[i].container));
        if (!ok) buf_printf(&b, "%s%s", b.len ? ", " : "", checks[i].what);
    }
    return b.len ? arena_strdup(c->a, b.data) : NULL;
}

/* The pod's spec in a workload, for warnings. */
static const struct json *template_spec(const struct rules_ctx *c, const struct json *obj) {
    static const char *const workloads[] = {
        "Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController", NULL};
    if (!str_empty(c->subresource)) return NULL;
    if (str_in(c->kind, workloads)) return json_at(obj, "spec", "template", "spec", NULL);
    if (str_eq(c->kind, "CronJob"))
        return json_at(obj, "spec", "jobTemplate", "spec", "template", "spec", NULL);
    if (admission_is(c, "", "PodTemplate")) return json_at(obj, "template", "spec", NULL);
    return NULL;
}

int check_pod_security(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e) {
    if (!obj || !c->namespaced || c->op == RULES_DELETE) return 0;
    bool pod = str_empty(c->group) && str_eq(c->kind, "Pod");
    if (pod && !str_in(str_or_empty(c->subresource), ONE_OF("", "ephemeralcontainers"))) return 0;
    const struct json *spec = pod ? json_get(obj, "spec") : template_spec(c, obj);
    if (!spec || (pod && c->op == RULES_UPDATE && jsame(spec, json_get(old, "spec")))) return 0;
    const struct json *labels =
        json_at(admission_get(c, "", "namespaces", NULL, str_or_empty(c->ns)), "metadata", "labels", NULL);
    const char *enforce = json_get_str(labels, "pod-security.kubernetes.io/enforce"),
               *warn = json_get_str(labels, "pod-security.kubernetes.io/warn"), *why;
    if (pod && level_of(enforce) && (why = violations(c, spec, level_of(enforce))))
        return admission_forbid(c, obj, e, "violates PodSecurity \"%s:latest\": %s", enforce, why);
    if (level_of(warn) && (why = violations(c, spec, level_of(warn))))
        rules_warn(c, "would violate PodSecurity \"%s:latest\": %s", warn, why);
    return 0;
}
