/* Each check is one function over the pod; the table says from which level and release on it holds, and in which release a
 * stricter check of the restricted level has taken its place. Checks of a level come in the order of their names, as
 * upstream reports them. Upstream: k8s.io/pod-security-admission/policy. */
#include "apiserver/rules/pod_standards.h"

enum { NEVER = POD_VERSION_LATEST + 1, NEWEST = 35 };

/* A pod under examination, and what is said about it. */
struct exam {
    struct arena *a;
    int minor;
    const struct json *meta, *spec, *sc; /* sc: of the pod */
    const char *reason;                  /* set where it is not the table's */
    const char *detail;
};

struct strs {
    const char **v;
    size_t n, cap;
};

static void add(struct exam *x, struct strs *s, const char *text) {
    ARENA_GROW(x->a, s->v, s->n, s->cap);
    s->v[s->n++] = text;
}

/* Into a sorted set. */
static void add_once(struct exam *x, struct strs *s, const char *text) {
    size_t at = 0;
    while (at < s->n && strcmp(s->v[at], text) < 0) at++;
    if (at < s->n && str_eq(s->v[at], text)) return;
    add(x, s, text);
    memmove(s->v + at + 1, s->v + at, (s->n - 1 - at) * sizeof(*s->v));
    s->v[at] = text;
}

static const char *join(struct exam *x, const struct strs *s, const char *sep, bool quote) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < s->n; i++) buf_printf(&b, quote ? "%s\"%s\"" : "%s%s", i ? sep : "", s->v[i]);
    return arena_strdup(x->a, str_or_empty(b.data));
}
static const char *quoted(struct exam *x, const struct strs *s) { return join(x, s, ", ", true); }

/* `containers "a", "b"` */
static const char *containers(struct exam *x, const struct strs *s) {
    return arena_printf(x->a, "container%s %s", s->n == 1 ? "" : "s", quoted(x, s));
}

#define DETAIL(...) (x->detail = arena_printf(x->a, __VA_ARGS__), false)

/* Init containers, containers, ephemeral containers: k, its name and its securityContext. */
static const struct json *nth_container(const struct json *spec, size_t n) {
    static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        const struct json *list = json_get(spec, lists[i]);
        if (n < json_len(list)) return json_item(list, n);
        n -= json_len(list);
    }
    return NULL;
}
#define EACH_CONTAINER(k, sc_of) \
    for (size_t k##_i = 0;       \
         (k = nth_container(x->spec, k##_i)) && (sc_of = json_get(k, "securityContext"), (void)sc_of, true); k##_i++)

static bool windows(const struct exam *x) { return str_eq(jstr(json_get(x->spec, "os"), "name"), "windows"); }
/* Users of the pod are others than the host's. */
static bool own_users(const struct exam *x) { return x->minor >= 35 && !json_get_bool(x->spec, "hostUsers", true); }

/* "pod and containers ..." of those who set something. */
static const char *setters(struct exam *x, bool pod, const struct strs *bad) {
    if (!bad->n) return "pod";
    return pod ? arena_printf(x->a, "pod and %s", containers(x, bad)) : containers(x, bad);
}

/* ---- baseline ---- */

static bool app_armor(struct exam *x) {
    static const char prefix[] = "container.apparmor.security.beta.kubernetes.io/";
    struct strs bad = {0}, values = {0}, notes = {0}, who = {0};
    const struct json *k, *sc, *p = jget(x->sc, "appArmorProfile");
    bool pod = p && !str_in(jstr(p, "type"), ONE_OF("RuntimeDefault", "Localhost"));
    if (pod) add_once(x, &values, jstr(p, "type"));
    EACH_CONTAINER(k, sc) {
        if (!(p = jget(sc, "appArmorProfile")) || str_in(jstr(p, "type"), ONE_OF("RuntimeDefault", "Localhost")))
            continue;
        add(x, &bad, jstr(k, "name"));
        add_once(x, &values, jstr(p, "type"));
    }
    JSON_FOREACH_MEMBER(m, json_get(x->meta, "annotations")) {
        const char *v = str_or_empty(json_as_str(m->value));
        if (!str_has_prefix(m->key, prefix) || !*v || str_eq(v, "runtime/default") || str_has_prefix(v, "localhost/"))
            continue;
        add_once(x, &notes, arena_printf(x->a, "%s=\"%s\"", m->key, v));
    }
    if (!pod && !bad.n && !notes.n) return true;
    if (pod || bad.n) add(x, &who, setters(x, pod, &bad));
    if (notes.n) add(x, &who, notes.n == 1 ? "annotation" : "annotations");
    for (size_t i = 0; i < notes.n; i++) add(x, &values, notes.v[i]);
    x->reason = values.n == 1 ? "forbidden AppArmor profile" : "forbidden AppArmor profiles";
    return DETAIL("%s must not set AppArmor profile type to %s", join(x, &who, " and ", false), quoted(x, &values));
}

static bool default_capabilities(struct exam *x) {
    static const char *const ok[] = {"AUDIT_WRITE", "CHOWN",  "DAC_OVERRIDE",     "FOWNER",  "FSETID",
                                     "KILL",        "MKNOD",  "NET_BIND_SERVICE", "SETFCAP", "SETGID",
                                     "SETPCAP",     "SETUID", "SYS_CHROOT",       NULL};
    struct strs bad = {0}, caps = {0};
    const struct json *k, *sc, *cap;
    EACH_CONTAINER(k, sc) {
        bool fits = true;
        JSON_FOREACH(cap, json_at(sc, "capabilities", "add", NULL))
            if (!str_in(str_or_empty(json_as_str(cap)), ok)) {
                fits = false;
                add_once(x, &caps, str_or_empty(json_as_str(cap)));
            }
        if (!fits) add(x, &bad, jstr(k, "name"));
    }
    return !bad.n ||
           DETAIL("%s must not include %s in securityContext.capabilities.add", containers(x, &bad), quoted(x, &caps));
}

static bool host_namespaces(struct exam *x) {
    static const char *const flags[] = {"hostNetwork", "hostPID", "hostIPC"};
    struct strs set = {0};
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (json_get_bool(x->spec, flags[i], false)) add(x, &set, arena_printf(x->a, "%s=true", flags[i]));
    return !set.n || DETAIL("%s", join(x, &set, ", ", false));
}

static bool host_path(struct exam *x) {
    struct strs bad = {0};
    const struct json *v;
    JSON_FOREACH(v, json_get(x->spec, "volumes"))
        if (jget(v, "hostPath")) add(x, &bad, jstr(v, "name"));
    return !bad.n || DETAIL("volume%s %s", bad.n == 1 ? "" : "s", quoted(x, &bad));
}

static bool host_ports(struct exam *x) {
    struct strs bad = {0}, ports = {0};
    const struct json *k, *sc, *p;
    EACH_CONTAINER(k, sc) {
        bool fits = true;
        JSON_FOREACH(p, json_get(k, "ports"))
            if (json_get_int(p, "hostPort", 0)) {
                fits = false;
                add_once(x, &ports, arena_printf(x->a, "%lld", (long long)json_get_int(p, "hostPort", 0)));
            }
        if (!fits) add(x, &bad, jstr(k, "name"));
    }
    return !bad.n || DETAIL("%s use%s hostPort%s %s", containers(x, &bad), bad.n == 1 ? "s" : "",
                            ports.n == 1 ? "" : "s", join(x, &ports, ", ", false));
}

static bool add_hosts(struct exam *x, struct strs *hosts, const struct json *handler) {
    static const char *const ways[] = {"httpGet", "tcpSocket"};
    bool any = false;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        const char *host = jstr(json_get(handler, ways[i]), "host");
        if (!*host) continue;
        add_once(x, hosts, host);
        any = true;
    }
    return any;
}

static bool probe_hosts(struct exam *x) {
    static const char *const probes[] = {"livenessProbe", "readinessProbe", "startupProbe"}, *const hooks[] = {
                                                                                                 "postStart",
                                                                                                 "preStop"};
    struct strs bad = {0}, hosts = {0};
    const struct json *k, *sc;
    EACH_CONTAINER(k, sc) {
        bool any = false;
        for (size_t i = 0; i < ARRAY_LEN(probes); i++) any |= add_hosts(x, &hosts, json_get(k, probes[i]));
        for (size_t i = 0; i < ARRAY_LEN(hooks); i++)
            any |= add_hosts(x, &hosts, json_at(k, "lifecycle", hooks[i], NULL));
        if (any) add_once(x, &bad, jstr(k, "name"));
    }
    return !bad.n || DETAIL("%s use%s probe or lifecycle host%s %s", containers(x, &bad), bad.n == 1 ? "s" : "",
                            hosts.n == 1 ? "" : "s", quoted(x, &hosts));
}

static bool privileged(struct exam *x) {
    struct strs bad = {0};
    const struct json *k, *sc;
    EACH_CONTAINER(k, sc)
    if (json_get_bool(sc, "privileged", false)) add(x, &bad, jstr(k, "name"));
    return !bad.n || DETAIL("%s must not set securityContext.privileged=true", containers(x, &bad));
}

static bool proc_mount_strict(struct exam *x) {
    struct strs bad = {0}, types = {0};
    const struct json *k, *sc;
    EACH_CONTAINER(k, sc) {
        if (str_in(jstr(sc, "procMount"), ONE_OF("", "Default"))) continue;
        add(x, &bad, jstr(k, "name"));
        add_once(x, &types, jstr(sc, "procMount"));
    }
    return !bad.n || DETAIL("%s must not set securityContext.procMount to %s", containers(x, &bad), quoted(x, &types));
}
static bool proc_mount(struct exam *x) { return own_users(x) || proc_mount_strict(x); }

struct se_faults {
    struct strs types;
    bool user, role;
};

static bool se_ok(struct exam *x, const struct json *o, struct se_faults *f) {
    static const char *const types[] = {"", "container_t", "container_init_t", "container_kvm_t", NULL};
    bool type = str_in(jstr(o, "type"), types) || (x->minor >= 31 && str_eq(jstr(o, "type"), "container_engine_t"));
    if (!type) add_once(x, &f->types, jstr(o, "type"));
    f->user |= *jstr(o, "user") != 0;
    f->role |= *jstr(o, "role") != 0;
    return type && !*jstr(o, "user") && !*jstr(o, "role");
}

static bool se_linux(struct exam *x) {
    struct strs bad = {0}, data = {0};
    struct se_faults f = {0};
    const struct json *k, *sc, *o = jget(x->sc, "seLinuxOptions");
    bool pod = o && !se_ok(x, o, &f);
    EACH_CONTAINER(k, sc)
    if ((o = jget(sc, "seLinuxOptions")) && !se_ok(x, o, &f)) add(x, &bad, jstr(k, "name"));
    if (!pod && !bad.n) return true;
    if (f.types.n) add(x, &data, arena_printf(x->a, "type%s %s", f.types.n == 1 ? "" : "s", quoted(x, &f.types)));
    if (f.user) add(x, &data, "user may not be set");
    if (f.role) add(x, &data, "role may not be set");
    return DETAIL("%s set forbidden securityContext.seLinuxOptions: %s", setters(x, pod, &bad),
                  join(x, &data, "; ", false));
}

static bool seccomp_value(const struct json *p) {
    return str_in(jstr(p, "type"), ONE_OF("RuntimeDefault", "Localhost"));
}

/* strict: somebody must have set one. */
static bool seccomp(struct exam *x, bool strict) {
    struct strs bad = {0}, values = {0}, unset = {0};
    const struct json *k, *sc, *p = jget(x->sc, "seccompProfile");
    bool pod = p && !seccomp_value(p), set = p && !pod;
    if (pod) add_once(x, &values, jstr(p, "type"));
    EACH_CONTAINER(k, sc) {
        p = jget(sc, "seccompProfile");
        if (p && !seccomp_value(p)) {
            add(x, &bad, jstr(k, "name"));
            add_once(x, &values, jstr(p, "type"));
        } else if (!p && !set) {
            add(x, &unset, jstr(k, "name"));
        }
    }
    if (pod || bad.n)
        return DETAIL("%s must not set securityContext.seccompProfile.type to %s", setters(x, pod, &bad),
                      quoted(x, &values));
    return !strict || !unset.n ||
           DETAIL("pod or %s must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
                  containers(x, &unset));
}

static bool seccomp_annotation_ok(const char *v) {
    return str_in(v, ONE_OF("runtime/default", "docker/default")) || str_has_prefix(v, "localhost/");
}

static bool seccomp_annotations(struct exam *x) {
    struct strs bad = {0};
    const struct json *k, *sc, *notes = json_get(x->meta, "annotations");
    const char *key = "seccomp.security.alpha.kubernetes.io/pod", *v = json_get_str(notes, key);
    if (v && !seccomp_annotation_ok(v)) add_once(x, &bad, arena_printf(x->a, "%s=\"%s\"", key, v));
    EACH_CONTAINER(k, sc) {
        key = arena_printf(x->a, "container.seccomp.security.alpha.kubernetes.io/%s", jstr(k, "name"));
        v = json_get_str(notes, key);
        if (v && !seccomp_annotation_ok(v)) add_once(x, &bad, arena_printf(x->a, "%s=\"%s\"", key, v));
    }
    return !bad.n || DETAIL("forbidden annotation%s %s", bad.n == 1 ? "" : "s", join(x, &bad, ", ", false));
}
static bool seccomp_baseline(struct exam *x) { return x->minor < 19 ? seccomp_annotations(x) : seccomp(x, false); }

static bool sysctls(struct exam *x) {
    static const struct {
        const char *name;
        int since;
    } ok[] = {{"kernel.shm_rmid_forced", 0},
              {"net.ipv4.ip_local_port_range", 0},
              {"net.ipv4.tcp_syncookies", 0},
              {"net.ipv4.ping_group_range", 0},
              {"net.ipv4.ip_unprivileged_port_start", 0},
              {"net.ipv4.ip_local_reserved_ports", 27},
              {"net.ipv4.tcp_keepalive_time", 29},
              {"net.ipv4.tcp_fin_timeout", 29},
              {"net.ipv4.tcp_keepalive_intvl", 29},
              {"net.ipv4.tcp_keepalive_probes", 29},
              {"net.ipv4.tcp_rmem", 32},
              {"net.ipv4.tcp_wmem", 32}};
    struct strs bad = {0};
    const struct json *s;
    JSON_FOREACH(s, json_get(x->sc, "sysctls")) {
        bool fits = false;
        for (size_t i = 0; i < ARRAY_LEN(ok); i++)
            fits |= str_eq(jstr(s, "name"), ok[i].name) && x->minor >= ok[i].since;
        if (!fits) add(x, &bad, jstr(s, "name"));
    }
    return !bad.n || DETAIL("%s", join(x, &bad, ", ", false));
}

static bool host_process(struct exam *x) {
    struct strs bad = {0};
    const struct json *k, *sc;
    bool pod = json_get_bool(json_get(x->sc, "windowsOptions"), "hostProcess", false);
    EACH_CONTAINER(k, sc)
    if (json_get_bool(json_get(sc, "windowsOptions"), "hostProcess", false)) add(x, &bad, jstr(k, "name"));
    return (!pod && !bad.n) ||
           DETAIL("%s must not set securityContext.windowsOptions.hostProcess=true", setters(x, pod, &bad));
}

/* ---- restricted ---- */

static bool escalation(struct exam *x) {
    struct strs bad = {0};
    const struct json *k, *sc;
    if (x->minor >= 25 && windows(x)) return true;
    EACH_CONTAINER(k, sc)
    if (json_get_bool(sc, "allowPrivilegeEscalation", true)) add(x, &bad, jstr(k, "name"));
    return !bad.n || DETAIL("%s must set securityContext.allowPrivilegeEscalation=false", containers(x, &bad));
}

static bool restricted_capabilities(struct exam *x) {
    struct strs undropped = {0}, adding = {0}, caps = {0}, parts = {0};
    const struct json *k, *sc, *cap;
    if (x->minor >= 25 && windows(x)) return true;
    EACH_CONTAINER(k, sc) {
        bool all = false, added = false;
        JSON_FOREACH(cap, json_at(sc, "capabilities", "drop", NULL)) all |= str_eq(json_as_str(cap), "ALL");
        JSON_FOREACH(cap, json_at(sc, "capabilities", "add", NULL))
            if (!str_eq(json_as_str(cap), "NET_BIND_SERVICE")) {
                added = true;
                add_once(x, &caps, str_or_empty(json_as_str(cap)));
            }
        if (!all) add(x, &undropped, jstr(k, "name"));
        if (added) add(x, &adding, jstr(k, "name"));
    }
    if (undropped.n)
        add(x, &parts,
            arena_printf(x->a, "%s must set securityContext.capabilities.drop=[\"ALL\"]", containers(x, &undropped)));
    if (adding.n)
        add(x, &parts,
            arena_printf(x->a, "%s must not include %s in securityContext.capabilities.add", containers(x, &adding),
                         quoted(x, &caps)));
    return !parts.n || DETAIL("%s", join(x, &parts, "; ", false));
}

static bool restricted_volumes(struct exam *x) {
    static const char *const ok[] = {"configMap", "csi",   "downwardAPI",           "emptyDir",
                                     "ephemeral", "image", "persistentVolumeClaim", "projected",
                                     "secret",    NULL};
    struct strs bad = {0}, types = {0};
    const struct json *v;
    JSON_FOREACH(v, json_get(x->spec, "volumes")) {
        const char *type = NULL;
        bool fits = false;
        JSON_FOREACH_MEMBER(m, v) {
            if (str_eq(m->key, "name") || m->value->type == JSON_NULL) continue;
            fits |= str_in(m->key, ok);
            if (!type) type = m->key;
        }
        if (fits) continue;
        add(x, &bad, jstr(v, "name"));
        add_once(x, &types, type ? type : "unknown");
    }
    return !bad.n || DETAIL("volume%s %s use%s restricted volume type%s %s", bad.n == 1 ? "" : "s", quoted(x, &bad),
                            bad.n == 1 ? "s" : "", types.n == 1 ? "" : "s", quoted(x, &types));
}

static bool non_root(struct exam *x) {
    struct strs bad = {0}, unset = {0};
    const struct json *k, *sc, *own = jget(x->sc, "runAsNonRoot");
    bool pod = own && !own->b, set = own && own->b;
    if (own_users(x)) return true;
    EACH_CONTAINER(k, sc) {
        own = jget(sc, "runAsNonRoot");
        if (own && !own->b) add(x, &bad, jstr(k, "name"));
        if (!own && !set) add(x, &unset, jstr(k, "name"));
    }
    if (pod || bad.n) return DETAIL("%s must not set securityContext.runAsNonRoot=false", setters(x, pod, &bad));
    return !unset.n || DETAIL("pod or %s must set securityContext.runAsNonRoot=true", containers(x, &unset));
}

static bool user_zero(struct exam *x) {
    struct strs bad = {0};
    const struct json *k, *sc;
    bool pod = json_get_int(x->sc, "runAsUser", 1) == 0;
    if (own_users(x)) return true;
    EACH_CONTAINER(k, sc)
    if (json_get_int(sc, "runAsUser", 1) == 0) add(x, &bad, jstr(k, "name"));
    return (!pod && !bad.n) || DETAIL("%s must not set runAsUser=0", setters(x, pod, &bad));
}

static bool seccomp_restricted(struct exam *x) { return (x->minor >= 25 && windows(x)) || seccomp(x, true); }

/* ---- the table ---- */

static const struct {
    enum pod_level level;
    int since, replaced; /* replaced: from this release on another check of the restricted level stands for it */
    const char *reason;
    bool (*ok)(struct exam *x);
} checks[] = {
    {POD_BASELINE, 0, NEVER, "forbidden AppArmor profile", app_armor},
    {POD_BASELINE, 0, 22, "non-default capabilities", default_capabilities},
    {POD_BASELINE, 0, NEVER, "host namespaces", host_namespaces},
    {POD_BASELINE, 0, 0, "hostPath volumes", host_path},
    {POD_BASELINE, 0, NEVER, "hostPort", host_ports},
    {POD_BASELINE, 34, NEVER, "probe or lifecycle host", probe_hosts},
    {POD_BASELINE, 0, NEVER, "privileged", privileged},
    {POD_BASELINE, 0, 35, "procMount", proc_mount},
    {POD_BASELINE, 0, NEVER, "seLinuxOptions", se_linux},
    {POD_BASELINE, 0, 19, "seccompProfile", seccomp_baseline},
    {POD_BASELINE, 0, NEVER, "forbidden sysctls", sysctls},
    {POD_BASELINE, 0, NEVER, "hostProcess", host_process},
    {POD_RESTRICTED, 8, NEVER, "allowPrivilegeEscalation != false", escalation},
    {POD_RESTRICTED, 22, NEVER, "unrestricted capabilities", restricted_capabilities},
    {POD_RESTRICTED, 35, NEVER, "procMount", proc_mount_strict},
    {POD_RESTRICTED, 0, NEVER, "restricted volume types", restricted_volumes},
    {POD_RESTRICTED, 0, NEVER, "runAsNonRoot != true", non_root},
    {POD_RESTRICTED, 23, NEVER, "runAsUser=0", user_zero},
    {POD_RESTRICTED, 19, NEVER, "seccompProfile", seccomp_restricted},
};

const char *pod_standard_violations(struct arena *a, struct pod_standard s, const struct json *meta,
                                    const struct json *spec, bool details) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    int minor = MIN_OF(s.minor, (int)NEWEST);
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        struct exam x = {.a = a, .minor = minor, .meta = meta, .spec = spec, .sc = json_get(spec, "securityContext")};
        bool replaced = s.level == POD_RESTRICTED && checks[i].level == POD_BASELINE && minor >= checks[i].replaced;
        if (checks[i].level > s.level || minor < checks[i].since || replaced || checks[i].ok(&x)) continue;
        buf_printf(&b, "%s%s", b.len ? ", " : "", x.reason ? x.reason : checks[i].reason);
        if (details) buf_printf(&b, " (%s)", x.detail);
    }
    return b.len ? arena_strdup(a, b.data) : NULL;
}
