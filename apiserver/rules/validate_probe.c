/* What runs beside a container's own process: probes and life-cycle hooks; and its security context.
 * Upstream: the same parts of pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

/* ---- probes and hooks ---- */

static void probe_port(struct vctx *v, const struct json *port, const struct fp *p) {
    if (json_is(port, JSON_STRING)) {
        for (size_t n = port_name_faults(port->str); n; n--) v_invalid(v, p, port, "must be a port name");
    } else {
        v_port(v, p, port);
    }
}

/* grace: seconds that a hook has; < 0 for a probe. */
static size_t handler(struct vctx *v, const struct json *h, const struct fp *p, int64_t grace) {
    bool probe = grace < 0;
    const struct json *it, *x;
    size_t n = 0;
    if ((x = jget(h, "exec"))) {
        if (n++)
            v_forbidden(v, FP(p, "exec"), "may not specify more than 1 handler type");
        else if (!json_len(json_get(x, "command")))
            v_required(v, FP(FP(p, "exec"), "command"), NULL);
    }
    if ((x = jget(h, "httpGet"))) {
        const struct fp *at = FP(p, "httpGet");
        if (n++) {
            v_forbidden(v, at, "may not specify more than 1 handler type");
        } else {
            if (!*jstr(x, "path")) v_required(v, FP(at, "path"), NULL);
            probe_port(v, json_get(x, "port"), FP(at, "port"));
            if (!str_in(jstr(x, "scheme"), ONE_OF("HTTP", "HTTPS")))
                v_not_supported(v, FP(at, "scheme"), json_get(x, "scheme"), ONE_OF("HTTP", "HTTPS"));
            JSON_FOREACH(it, json_get(x, "httpHeaders"))
                if (is_http_header_name(jstr(it, "name")))
                    v_invalid(v, FP(at, "httpHeaders"), json_get(it, "name"), "%s",
                              is_http_header_name(jstr(it, "name")));
        }
    }
    if ((x = jget(h, "tcpSocket"))) {
        if (n++)
            v_forbidden(v, FP(p, "tcpSocket"), "may not specify more than 1 handler type");
        else
            probe_port(v, json_get(x, "port"), FP(FP(p, "tcpSocket"), "port"));
    }
    if (probe && (x = jget(h, "grpc"))) {
        if (n++)
            v_forbidden(v, FP(p, "grpc"), "may not specify more than 1 handler type");
        else
            v_port(v, FP(FP(p, "grpc"), "port"), json_get(x, "port"));
    }
    if (!probe && (x = jget(h, "sleep"))) {
        int64_t seconds = json_get_int(x, "seconds", 0);
        if (n++)
            v_forbidden(v, FP(p, "sleep"), "may not specify more than 1 handler type");
        else if (seconds < 0 || seconds > grace)
            v_invalid(v, FP(p, "sleep"), json_get(x, "seconds"),
                      "must be non-negative and less than terminationGracePeriodSeconds (%lld)", (long long)grace);
    }
    if (!n) v_required(v, p, "must specify a handler type");
    return n;
}

void validate_probe(struct vctx *v, const struct json *k, const char *which, const struct fp *up) {
    static const char *const counts[] = {"initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold",
                                         "failureThreshold"};
    const struct json *pr = jget(k, which);
    const struct fp *p = FP(up, which);
    if (!pr) return;
    handler(v, pr, p, -1);
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) v_min(v, p, pr, counts[i], 0);
    bool readiness = str_eq(which, "readinessProbe");
    const struct json *grace = jget(pr, "terminationGracePeriodSeconds");
    if (grace && json_as_int(grace, 1) <= 0)
        v_invalid(v, FP(p, "terminationGracePeriodSeconds"), grace, "must be greater than 0");
    if (grace && readiness)
        v_invalid(v, FP(p, "terminationGracePeriodSeconds"), grace, "must not be set for readinessProbes");
    if (!readiness && json_get_int(pr, "successThreshold", 1) != 1)
        v_invalid(v, FP(p, "successThreshold"), json_get(pr, "successThreshold"), "must be 1");
}

void validate_lifecycle(struct vctx *v, const struct json *k, int64_t grace, const struct fp *p) {
    const struct json *lc = jget(k, "lifecycle"), *h;
    static const char *const hooks[] = {"postStart", "preStop"};
    for (size_t i = 0; lc && i < 2; i++) {
        if (!(h = jget(lc, hooks[i]))) continue;
        const struct fp *at = FP(FP(p, "lifecycle"), hooks[i]);
        handler(v, h, at, grace);
    }
}

/* ---- security ---- */

void validate_id(struct vctx *v, const struct fp *up, const struct json *o, const char *key) {
    const struct json *x = jget(o, key);
    int64_t n = json_as_int(x, 0);
    if (x && (n < 0 || n > INT32_MAX)) v_invalid(v, FP(up, key), x, "must be between 0 and 2147483647, inclusive");
}

void validate_profiles(struct vctx *v, const struct json *sc, const struct fp *p) {
    static const char *const kinds_of[] = {"seccompProfile", "appArmorProfile"};
    for (size_t i = 0; i < 2; i++) {
        const struct json *pr = jget(sc, kinds_of[i]);
        const struct fp *at = FP(p, kinds_of[i]);
        if (!pr) continue;
        const char *type = jstr(pr, "type"), *local = json_get_str(pr, "localhostProfile");
        v_enum(v, FP(at, "type"), json_get(pr, "type"), ONE_OF("Localhost", "RuntimeDefault", "Unconfined"), true);
        if (str_eq(type, "Localhost")) {
            if (str_empty(local))
                v_required(v, FP(at, "localhostProfile"), "must be set when seccomp type is Localhost");
            else if (i == 0)
                validate_local_path(v, FP(at, "localhostProfile"), json_get(pr, "localhostProfile"));
        } else if (local && (i == 0 || str_in(type, ONE_OF("RuntimeDefault", "Unconfined")))) {
            v_invalid(v, FP(at, "localhostProfile"), json_get(pr, "localhostProfile"),
                      "can only be set when type is Localhost");
        }
    }
}

/* A Windows user: "USER" or "DOMAIN\\USER". */
static void windows_user(struct vctx *v, const struct json *x, const struct fp *p) {
    enum { DOMAIN_MAX = 256, USER_MAX = 104, NETBIOS_MAX = 15 };
    const char *s = str_or_empty(json_as_str(x)), *slash = strchr(s, '\\'), *user = slash ? slash + 1 : s;
    bool control = false;
    for (const char *q = s; *q; q++) control |= (unsigned char)*q < 0x20 || *q == 0x7f;
    if (!*s || control || (slash && strchr(slash + 1, '\\'))) {
        v_invalid(v, p, x,
                  !*s       ? "runAsUserName cannot be an empty string"
                  : control ? "runAsUserName cannot contain control characters"
                            : "runAsUserName cannot contain more than one backslash");
        return;
    }
    size_t n = slash ? (size_t)(slash - s) : 0;
    if (n >= DOMAIN_MAX) v_invalid(v, p, x, "runAsUserName's Domain length must be under %d characters", DOMAIN_MAX);
    if (slash) {
        const char *domain = arena_strndup(v->a, s, n);
        bool netbios = n && n <= NETBIOS_MAX && !strpbrk(domain, "\\/:*?\"<>|.");
        if (!netbios && is_dns1123_subdomain(domain))
            v_invalid(v, p, x, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    if (!*user) v_invalid(v, p, x, "runAsUserName's User cannot be empty");
    if (strlen(user) > USER_MAX)
        v_invalid(v, p, x, "runAsUserName's User length must not be longer than %d characters", USER_MAX);
    if (*user && strspn(user, ". ") == strlen(user))
        v_invalid(v, p, x, "runAsUserName's User cannot contain only periods or spaces");
    if (strpbrk(user, "\"/\\:;|=,+*?<>@[]"))
        v_invalid(v, p, x, "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
}

void validate_windows_options(struct vctx *v, const struct json *sc, const struct fp *up) {
    enum { CREDENTIAL_SPEC_MAX = 64 * 1024 };
    const struct json *w = jget(sc, "windowsOptions"), *x;
    const struct fp *p = FP(up, "windowsOptions");
    if ((x = jget(w, "gmsaCredentialSpecName"))) v_subdomain(v, FP(p, "gmsaCredentialSpecName"), x);
    if ((x = jget(w, "gmsaCredentialSpec")) && (!x->n || x->n > CREDENTIAL_SPEC_MAX))
        v_invalid(
            v, FP(p, "gmsaCredentialSpec"), x,
            x->n ? "gmsaCredentialSpec size must be under 64 KiB" : "gmsaCredentialSpec cannot be an empty string");
    if ((x = jget(w, "runAsUserName"))) windows_user(v, x, FP(p, "runAsUserName"));
}

void validate_container_security(struct vctx *v, const struct json *k, bool host_users, const struct fp *up) {
    const struct json *sc = jget(k, "securityContext"), *cap;
    const struct fp *p = FP(up, "securityContext");
    if (!sc) return;
    validate_id(v, p, sc, "runAsUser");
    validate_id(v, p, sc, "runAsGroup");
    const char *proc = jstr(sc, "procMount");
    v_enum(v, FP(p, "procMount"), json_get(sc, "procMount"), ONE_OF("Default", "Unmasked"), false);
    if (str_eq(proc, "Unmasked") && host_users)
        v_invalid(v, FP(p, "procMount"), json_get(sc, "procMount"), "`hostUsers` must be false to use `Unmasked`");
    validate_profiles(v, sc, p);
    validate_windows_options(v, sc, p);
    const struct json *esc = jget(sc, "allowPrivilegeEscalation");
    if (!esc || json_get_bool(sc, "allowPrivilegeEscalation", true)) return;
    if (json_get_bool(sc, "privileged", false))
        v_invalid(v, p, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    JSON_FOREACH(cap, json_at(sc, "capabilities", "add", NULL))
        if (str_in(str_or_empty(json_as_str(cap)), ONE_OF("CAP_SYS_ADMIN", "SYS_ADMIN")))
            v_invalid(v, p, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN");
}
