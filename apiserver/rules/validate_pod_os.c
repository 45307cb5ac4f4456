/* What depends on the operating system that a pod names, and the rules for host processes of Windows. Upstream:
 * validateOS, validateLinux, validateWindows, validateWindowsHostProcessPod and validateFileKeyRefVolumes in
 * pkg/apis/core/validation/validation.go. */
#include "apiserver/rules/validate_pod.h"

static const char *const lists[] = {"initContainers", "containers", "ephemeralContainers"};

static void linux_only(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *k;
    static const char why[] = "windows options cannot be set for a linux pod";
    if (json_at(spec, "securityContext", "windowsOptions", NULL))
        v_forbidden(v, FP(FP(p, "securityContext"), "windowsOptions"), why);
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i]))
            if (json_at(k, "securityContext", "windowsOptions", NULL))
                v_forbidden(v, FP(FP(FPI(FP(p, lists[i]), k_i), "securityContext"), "windowsOptions"), why);
}

static void barred(struct vctx *v, const struct json *o, const char *const *keys, const struct fp *p) {
    for (size_t i = 0; keys[i]; i++)
        if (jget(o, keys[i])) v_forbidden(v, FP(p, keys[i]), "cannot be set for a windows pod");
}

static void windows_only(struct vctx *v, const struct json *spec, const struct fp *p) {
    static const char *const pod[] = {"appArmorProfile",     "seLinuxOptions",
                                      "seccompProfile",      "fsGroup",
                                      "fsGroupChangePolicy", "sysctls",
                                      "runAsUser",           "runAsGroup",
                                      "supplementalGroups",  "supplementalGroupsPolicy",
                                      "seLinuxChangePolicy", NULL};
    static const char *const top[] = {"hostUsers", "shareProcessNamespace", NULL};
    static const char *const container[] = {"appArmorProfile",
                                            "seLinuxOptions",
                                            "seccompProfile",
                                            "capabilities",
                                            "readOnlyRootFilesystem",
                                            "privileged",
                                            "allowPrivilegeEscalation",
                                            "procMount",
                                            "runAsUser",
                                            "runAsGroup",
                                            NULL};
    static const char *const flags[] = {"hostPID", "hostIPC"};
    const struct json *k;
    barred(v, json_get(spec, "securityContext"), pod, FP(p, "securityContext"));
    barred(v, spec, top, p);
    for (size_t i = 0; i < ARRAY_LEN(flags); i++)
        if (json_get_bool(spec, flags[i], false)) v_forbidden(v, FP(p, flags[i]), "cannot be set for a windows pod");
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i]))
            barred(v, json_get(k, "securityContext"), container, FP(FPI(FP(p, lists[i]), k_i), "securityContext"));
}

/* Either all containers are processes of the host or none is, and then the pod is in the host's network. */
static void host_processes(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *of_pod = json_at(spec, "securityContext", "windowsOptions", "hostProcess", NULL), *k;
    size_t all = 0, host = 0;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i])) { /* booleans, after decoding */
            const struct json *own = json_at(k, "securityContext", "windowsOptions", "hostProcess", NULL);
            all++;
            if (own && of_pod && own->b != of_pod->b)
                v_invalid(v, FP(FP(FP(FPI(FP(p, lists[i]), k_i), "securityContext"), "windowsOptions"), "hostProcess"),
                          own, "pod hostProcess value must be identical if both are specified");
            const struct json *decides = own ? own : of_pod;
            host += decides && decides->b;
        }
    if (!host) return;
    if (host != all)
        v_invalid(v, p, NULL,
                  "If pod contains any hostProcess containers then all containers must be HostProcess containers");
    if (!json_get_bool(spec, "hostNetwork", false))
        v_invalid(v, FP(p, "hostNetwork"), json_bool(v->a, false),
                  "hostNetwork must be true if pod contains any hostProcess containers");
}

void validate_os(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *os = jget(spec, "os");
    host_processes(v, spec, p);
    if (!os) return;
    const char *name = jstr(os, "name");
    if (!*name)
        v_required(v, FP(FP(p, "os"), "name"), NULL);
    else if (str_eq(name, "linux"))
        linux_only(v, spec, p);
    else if (str_eq(name, "windows"))
        windows_only(v, spec, p);
    else
        v_not_supported(v, FP(p, "os"), json_get(os, "name"), ONE_OF("linux", "windows"));
}

void validate_file_keys(struct vctx *v, const struct json *spec, const struct fp *p) {
    const struct json *k, *e, *vol;
    for (size_t i = 0; i < ARRAY_LEN(lists); i++)
        JSON_FOREACH(k, json_get(spec, lists[i]))
            JSON_FOREACH(e, json_get(k, "env")) {
                const struct json *ref = json_at(e, "valueFrom", "fileKeyRef", NULL), *found = NULL;
                const struct fp *at =
                    FP(FP(FP(FPI(FP(FPI(FP(p, lists[i]), k_i), "env"), e_i), "valueFrom"), "fileKeyRef"), "volumeName");
                if (!ref) continue;
                JSON_FOREACH(vol, json_get(spec, "volumes"))
                    if (str_eq(jstr(vol, "name"), jstr(ref, "volumeName"))) found = vol;
                if (!found)
                    v_not_found(v, at, json_str(v->a, jstr(ref, "volumeName")));
                else if (!jget(found, "emptyDir"))
                    v_invalid(v, at, json_get(ref, "volumeName"), "referenced volume must be of type emptyDir");
            }
}
