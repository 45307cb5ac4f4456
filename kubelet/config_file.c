/* See config_file.h. */
#include "kubelet/config_file.h"

#include <dirent.h>

#include "pkg/json/patch.h"
#include "pkg/yaml/yaml.h"

enum { MAX_FILE = 1024 * 1024, MAX_DEPTH = 8 };

enum kind { TEXT, NUMBER, COUNT, YES_NO, SPAN, BYTES, LIST, PAIRS, LIMITS, TAINTS, PRIORITIES, RESERVATIONS };

/* Dotted path in the file, how it is written, and where it goes. NUMBER takes 0 as it is, for COUNT it is the default. */
static const struct setting {
    const char *path;
    enum kind kind;
    size_t offset;
} settings[] = {
#define S(path, kind, field) \
    { path, kind, offsetof(struct kubelet_config, field) }
    S("enableServer", YES_NO, server),
    S("address", TEXT, address),
    S("port", COUNT, port),
    S("healthzPort", NUMBER, healthz_port),
    S("healthzBindAddress", TEXT, healthz_address),
    S("staticPodPath", TEXT, manifest_path),
    S("clusterDomain", TEXT, cluster_domain),
    S("clusterDNS", LIST, cluster_dns),
    S("resolvConf", TEXT, resolv_conf),
    S("tlsCertFile", TEXT, tls_cert_file),
    S("tlsPrivateKeyFile", TEXT, tls_key_file),
    S("authentication.x509.clientCAFile", TEXT, client_ca_file),
    S("authentication.anonymous.enabled", YES_NO, anonymous_auth),
    S("authentication.webhook.enabled", YES_NO, webhook_auth),
    S("authentication.webhook.cacheTTL", SPAN, token_ttl_ns),
    S("authorization.mode", TEXT, authorization_mode),
    S("authorization.webhook.cacheAuthorizedTTL", SPAN, allow_ttl_ns),
    S("authorization.webhook.cacheUnauthorizedTTL", SPAN, deny_ttl_ns),
    S("enableDebuggingHandlers", YES_NO, debug_handlers),
    S("containerRuntimeEndpoint", TEXT, runtime_endpoint),
    S("imageServiceEndpoint", TEXT, image_endpoint),
    S("rotateCertificates", YES_NO, rotate_certificates),
    S("serverTLSBootstrap", YES_NO, serving_bootstrap),
    S("registerNode", YES_NO, register_node),
    S("registerWithTaints", TAINTS, taints),
    S("maxPods", COUNT, max_pods),
    S("podsPerCore", NUMBER, pods_per_core),
    S("podPidsLimit", NUMBER, pod_pids_limit),
    S("podCIDR", TEXT, pod_cidr),
    S("podLogsDir", TEXT, pod_logs_dir),
    S("providerID", TEXT, provider_id),
    S("cgroupRoot", TEXT, cgroup_root),
    S("cgroupsPerQOS", YES_NO, cgroups_per_qos),
    S("enforceNodeAllocatable", LIST, enforce_allocatable),
    S("cpuCFSQuota", YES_NO, cfs_quota),
    S("cpuCFSQuotaPeriod", SPAN, cfs_period_ns),
    S("singleProcessOOMKill", YES_NO, single_process_oom),
    S("failCgroupV1", YES_NO, fail_cgroup_v1),
    S("seccompDefault", YES_NO, seccomp_default),
    S("oomScoreAdj", NUMBER, oom_score_adj),
    S("maxOpenFiles", COUNT, max_open_files),
    S("containerLogMaxSize", BYTES, log_max_size),
    S("containerLogMaxFiles", NUMBER, log_max_files),
    S("imageMinimumGCAge", SPAN, image_min_age_ns),
    S("imageMaximumGCAge", SPAN, image_max_age_ns),
    S("imageGCHighThresholdPercent", NUMBER, image_gc_high),
    S("imageGCLowThresholdPercent", NUMBER, image_gc_low),
    S("serializeImagePulls", YES_NO, serialize_pulls),
    S("maxParallelImagePulls", NUMBER, max_parallel_pulls),
    S("imagePullCredentialsVerificationPolicy", TEXT, pull_verification),
    S("preloadedImagesVerificationAllowlist", LIST, preloaded_images),
    S("nodeStatusUpdateFrequency", SPAN, heartbeat_ns),
    S("nodeStatusReportFrequency", SPAN, status_update_ns),
    S("nodeStatusMaxImages", NUMBER, status_max_images),
    S("nodeLeaseDurationSeconds", COUNT, lease_seconds),
    S("crashLoopBackOff.maxContainerRestartPeriod", SPAN, crash_loop_max_ns),
    S("systemReserved", PAIRS, system_reserved),
    S("kubeReserved", PAIRS, kube_reserved),
    S("evictionHard", LIMITS, eviction_hard),
    S("evictionSoft", LIMITS, eviction_soft),
    S("evictionSoftGracePeriod", PAIRS, eviction_soft_grace),
    S("evictionMinimumReclaim", PAIRS, eviction_min_reclaim),
    S("evictionMaxPodGracePeriod", NUMBER, eviction_max_grace),
    S("evictionPressureTransitionPeriod", SPAN, eviction_transition_ns),
    S("mergeDefaultEvictionSettings", YES_NO, merge_eviction),
    S("allowedUnsafeSysctls", LIST, allowed_sysctls),
    S("shutdownGracePeriod", SPAN, shutdown_ns),
    S("shutdownGracePeriodCriticalPods", SPAN, shutdown_critical_ns),
    S("shutdownGracePeriodByPodPriority", PRIORITIES, shutdown_by_priority),
    S("logging.verbosity", NUMBER, verbosity),
    S("cpuManagerPolicy", TEXT, cpu_policy),
    S("cpuManagerPolicyOptions", PAIRS, cpu_policy_options),
    S("cpuManagerReconcilePeriod", SPAN, cpu_reconcile_ns),
    S("reservedSystemCPUs", TEXT, reserved_cpus),
    S("memoryManagerPolicy", TEXT, memory_policy),
    S("reservedMemory", RESERVATIONS, reserved_memory),
    S("topologyManagerPolicy", TEXT, topology_policy),
    S("topologyManagerScope", TEXT, topology_scope),
    S("topologyManagerPolicyOptions", PAIRS, topology_options),
    S("featureGates", PAIRS, feature_gates),
    S("memorySwap.swapBehavior", TEXT, swap_behavior),
    S("enableSystemLogHandler", YES_NO, system_logs),
    S("enableDebugFlagsHandler", YES_NO, debug_flags),
#undef S
};

/* The fields that have no setting. Values in `ok` ('|' between them) are what happens here anyway; so is every empty value,
 * 0 and 0s. REFUSED: with another one the kubelet does not start, for the operator relies on something that is not there.
 * Otherwise it starts, and says that the field has no effect. */
enum verdict { NO_EFFECT, REFUSED };
static const struct other {
    const char *path;
    enum verdict verdict;
    const char *ok, *why;
} others[] = {
    {"syncFrequency", NO_EFFECT, "1m|1m0s|60s", "pods are looked at when something happens"},
    {"fileCheckFrequency", NO_EFFECT, "20s", "the folder of static pods is watched"},
    {"httpCheckFrequency", NO_EFFECT, "20s", "there is no staticPodURL"},
    {"staticPodURL", REFUSED, "", "static pods come from staticPodPath only"},
    {"staticPodURLHeader", NO_EFFECT, "", "there is no staticPodURL"},
    {"readOnlyPort", REFUSED, "", "nothing is served without authentication but /healthz on healthzPort"},
    {"volumePluginDir", NO_EFFECT,
     "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/|"
     "/usr/libexec/kubernetes/kubelet-plugins/volume/exec",
     "there are no flexVolumes"},
    {"tlsCipherSuites", NO_EFFECT, "", "the suites are those of TLS 1.3, and OpenSSL's for TLS 1.2"},
    {"tlsCurvePreferences", NO_EFFECT, "", "the curves are OpenSSL's"},
    {"registryPullQPS", NO_EFFECT, "5", "pulls are bounded by maxParallelImagePulls"},
    {"registryBurst", NO_EFFECT, "10", "pulls are bounded by maxParallelImagePulls"},
    {"eventRecordQPS", NO_EFFECT, "50", "events about one object are bounded instead"},
    {"eventBurst", NO_EFFECT, "100", "events about one object are bounded instead"},
    {"enableContentionProfiling", NO_EFFECT, "false", "there is no profiler inside"},
    {"enableProfilingHandler", NO_EFFECT, "true|false", "there is no profiler inside"},
    {"enableSystemLogQuery", NO_EFFECT, "false", "/logs serves files, no queries"},
    {"streamingConnectionIdleTimeout", NO_EFFECT, "4h|4h0m0s", "the runtime ends idle streams"},
    {"volumeStatsAggPeriod", NO_EFFECT, "1m|1m0s|60s", "volumes are measured when somebody asks"},
    {"kubeletCgroups", NO_EFFECT, "", "the kubelet stays in the cgroup that it is started in"},
    {"systemCgroups", NO_EFFECT, "", "processes of the system stay where they are"},
    {"cgroupDriver", NO_EFFECT, "cgroupfs|systemd", "the runtime says which"},
    {"qosReserved", REFUSED, "", "memory is not reserved for QoS classes"},
    {"runtimeRequestTimeout", NO_EFFECT, "2m|2m0s|120s", "calls of the runtime have two minutes"},
    {"hairpinMode", NO_EFFECT, "promiscuous-bridge|hairpin-veth", "pods reach themselves through Services"},
    {"runOnce", REFUSED, "false", "it is gone from Kubernetes too"},
    {"contentType", NO_EFFECT, "application/json|application/vnd.kubernetes.protobuf", "it is application/json"},
    {"kubeAPIQPS", NO_EFFECT, "50", "requests are bounded by how many are under way"},
    {"kubeAPIBurst", NO_EFFECT, "100", "requests are bounded by how many are under way"},
    {"enableControllerAttachDetach", REFUSED, "true", "controllers attach volumes"},
    {"protectKernelDefaults", REFUSED, "false", "the kernel's settings are not compared"},
    {"makeIPTablesUtilChains", NO_EFFECT, "true|false", "nothing here uses iptables"},
    {"iptablesMasqueradeBit", NO_EFFECT, "14", "nothing here uses iptables"},
    {"iptablesDropBit", NO_EFFECT, "15", "nothing here uses iptables"},
    {"featureGates", NO_EFFECT, "", "features that are there are on; only CPUManagerPolicyAlphaOptions is looked at"},
    {"failSwapOn", NO_EFFECT, "true|false", "swap is no reason to fail"},
    {"containerLogMaxWorkers", NO_EFFECT, "1", "one thread rotates logs"},
    {"containerLogMonitorInterval", NO_EFFECT, "10s", "logs are looked at every two seconds, or sooner"},
    {"configMapAndSecretChangeDetectionStrategy", NO_EFFECT, "Watch|Cache",
     "ConfigMaps and Secrets are read again when they are ten seconds old"},
    {"kernelMemcgNotification", NO_EFFECT, "false|true", "memory is looked at every two seconds"},
    {"systemReservedCgroup", REFUSED, "", "only pods' cgroups are limited"},
    {"kubeReservedCgroup", REFUSED, "", "only pods' cgroups are limited"},
    {"showHiddenMetricsForVersion", NO_EFFECT, "", "no metric is hidden"},
    {"logging.format", NO_EFFECT, "text", "logs are lines of text"},
    {"tlsMinVersion", NO_EFFECT, "VersionTLS10|VersionTLS11|VersionTLS12|VersionTLS13", ""},
    {"memoryThrottlingFactor", NO_EFFECT, "0.9", "memory.high is not set"},
    {"memoryReservationPolicy", NO_EFFECT, "None", "memory.min and memory.low are not set"},
    {"tracing", NO_EFFECT, "", "no spans are sent"},
    {"localStorageCapacityIsolation", NO_EFFECT, "true", "local storage is always counted"},
    {"userNamespaces.idsPerPod", REFUSED, "65536", "a pod has 65536 ids"},
    {"kind", NO_EFFECT, "KubeletConfiguration", ""},
    {"apiVersion", NO_EFFECT, "kubelet.config.k8s.io/v1beta1", "the fields are read as v1beta1's"},
    {"metadata", NO_EFFECT, "", ""},
};

const char *config_file_of(const char *flag, int argc, char **argv) {
    size_t n = strlen(flag);
    for (int i = 1; i < argc; i++) {
        const char *s = argv[i];
        if (*s++ != '-') continue;
        if (*s == '-') s++;
        if (strncmp(s, flag, n) != 0) continue;
        if (s[n] == '=') return s + n + 1;
        if (!s[n] && i + 1 < argc) return argv[i + 1];
    }
    return NULL;
}

static const struct json *at_path(const struct json *v, const char *path) {
    while (v && *path) {
        size_t n = strcspn(path, ".");
        _cleanup_free_ char *key = xstrndup(path, n);
        v = json_get(v, key);
        path += n + (path[n] == '.');
    }
    return v;
}

static void list_add(struct flag_list *l, char *text) {
    VEC_GROW(l->items, l->n, l->cap);
    l->items[l->n++] = text;
}

/* {"cpu":"1"} as "cpu=1,..." */
static char *joined(const struct json *map, char sep) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    JSON_FOREACH_MEMBER(m, map) {
        const char *text = json_as_str(m->value);
        buf_printf(&b, "%s%s%c", b.len ? "," : "", m->key, sep);
        if (text)
            buf_adds(&b, text);
        else if (json_is(m->value, JSON_BOOL))
            buf_adds(&b, m->value->b ? "true" : "false");
        else
            buf_printf(&b, "%lld", (long long)json_as_int(m->value, 0));
    }
    return buf_take(&b);
}

static char *taint_text(const struct json *t) {
    const char *value = json_get_str(t, "value");
    return xasprintf("%s%s%s:%s", str_or_empty(json_get_str(t, "key")), str_empty(value) ? "" : "=",
                     str_or_empty(value), str_or_empty(json_get_str(t, "effect")));
}

/* [{"priority":0,"shutdownGracePeriodSeconds":10}] as "0=10,..." */
static char *priorities_text(const struct json *list) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *item;
    JSON_FOREACH(item, list)
        buf_printf(&b, "%s%lld=%lld", b.len ? "," : "", (long long)json_get_int(item, "priority", 0),
                   (long long)json_get_int(item, "shutdownGracePeriodSeconds", 0));
    return buf_take(&b);
}

/* [{"numaNode":0,"limits":{"memory":"1Gi"}}] as "0:memory=1Gi;..." */
static char *reservations_text(const struct json *list) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    struct json *item;
    JSON_FOREACH(item, list) {
        _cleanup_free_ char *limits = joined(json_get(item, "limits"), '=');
        buf_printf(&b, "%s%lld:%s", b.len ? ";" : "", (long long)json_get_int(item, "numaNode", 0), limits);
    }
    return buf_take(&b);
}

static bool take(const struct setting *s, const struct json *v, struct kubelet_config *c) {
    void *field = (char *)c + s->offset;
    struct json *item;
    const char *text = json_as_str(v);
    switch (s->kind) {
        case PRIORITIES:
            if (json_is(v, JSON_ARRAY)) *(const char **)field = priorities_text(v);
            return json_is(v, JSON_ARRAY);
        case RESERVATIONS:
            if (json_is(v, JSON_ARRAY)) *(const char **)field = reservations_text(v);
            return json_is(v, JSON_ARRAY);
        case TEXT:
            if (text && *text) *(const char **)field = xstrdup(text); /* "" means the default, as upstream */
            return text != NULL;
        case NUMBER:
            if (json_is(v, JSON_INT)) *(int64_t *)field = v->i;
            return json_is(v, JSON_INT);
        case COUNT:
            if (json_is(v, JSON_INT) && v->i) *(int64_t *)field = v->i;
            return json_is(v, JSON_INT);
        case YES_NO:
            if (json_is(v, JSON_BOOL)) *(bool *)field = v->b;
            return json_is(v, JSON_BOOL);
        case SPAN: {
            int64_t ns;
            if (json_is(v, JSON_INT) && v->i == 0) return true;
            if (!text || duration_parse(text, &ns) < 0) return false;
            if (ns > 0) *(int64_t *)field = ns; /* 0s means the default */
            return true;
        }
        case BYTES:
            if (text) *(int64_t *)field = quantity_str_value(text);
            return text != NULL;
        case LIST:
            JSON_FOREACH(item, v) list_add(field, xstrdup(str_or_empty(json_as_str(item))));
            return json_is(v, JSON_ARRAY);
        case TAINTS:
            JSON_FOREACH(item, v) list_add(field, taint_text(item));
            return json_is(v, JSON_ARRAY);
        case PAIRS:
        case LIMITS: *(const char **)field = joined(v, s->kind == PAIRS ? '=' : '<'); return json_is(v, JSON_OBJECT);
    }
    return false;
}

/* Thresholds of `mine`, and of the defaults those about signals that it leaves out. Heap. */
static char *merged_eviction(struct arena *a, const char *mine, const char *defaults) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_adds(&b, mine);
    for (const char *s = defaults; *s;) {
        size_t n = strcspn(s, ","), name = strcspn(s, "<");
        if (!strstr(mine, arena_strndup(a, s, name + 1))) buf_printf(&b, "%s%.*s", b.len ? "," : "", (int)n, s);
        s += n + (s[n] == ',');
    }
    return buf_take(&b);
}

/* "cpu=1,..." as {"cpu":"1"} */
static struct json *split(struct arena *a, const char *list, char sep) {
    struct json *o = json_object(a);
    for (const char *s = str_or_empty(list); *s;) {
        size_t n = strcspn(s, ","), key = strcspn(s, (char[]){sep, 0});
        if (key < n) json_set_str(a, o, arena_strndup(a, s, key), arena_strndup(a, s + key + 1, n - key - 1));
        s += n + (s[n] == ',');
    }
    return o;
}

static void show(struct arena *a, struct json *at, const char *name, const struct setting *s,
                 const struct kubelet_config *c) {
    const void *field = (const char *)c + s->offset;
    const struct flag_list *list = field;
    char text[KTIME_MAX];
    struct json *items;
    switch (s->kind) {
        case TEXT: json_set_str(a, at, name, str_or_empty(*(const char *const *)field)); break;
        case NUMBER:
        case COUNT:
        case BYTES: json_set_int(a, at, name, *(const int64_t *)field); break;
        case YES_NO: json_set_bool(a, at, name, *(const bool *)field); break;
        case SPAN: json_set_str(a, at, name, arena_strdup(a, duration_format(*(const int64_t *)field, text))); break;
        case PAIRS:
        case LIMITS: json_set(a, at, name, split(a, *(const char *const *)field, s->kind == PAIRS ? '=' : '<')); break;
        case PRIORITIES:
        case RESERVATIONS: break;
        case LIST:
        case TAINTS:
            items = json_ensure_array(a, at, name);
            for (size_t i = 0; i < list->n; i++) json_append(a, items, json_str(a, list->items[i]));
            break;
    }
}

/* ---- what has no setting ---- */

static const char *scalar_text(struct arena *a, const struct json *v) {
    if (json_is(v, JSON_STRING)) return json_as_str(v);
    return json_text(a, v);
}

static bool is_empty(struct arena *a, const struct json *v) {
    static const char *const empties[] = {"", "0", "0s", "null", "[]", "{}", "0m", "0h"};
    const char *text = scalar_text(a, v);
    for (size_t i = 0; i < ARRAY_LEN(empties); i++)
        if (str_eq(text, empties[i])) return true;
    return false;
}

static bool among(const char *ok, const char *text) {
    for (const char *s = ok; *s;) {
        size_t n = strcspn(s, "|");
        if (strlen(text) == n && strncmp(s, text, n) == 0) return true;
        s += n + (s[n] == '|');
    }
    return false;
}

static const struct other *other_at(const char *path) {
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (str_eq(others[i].path, path)) return &others[i];
    return NULL;
}

/* Whether a field of that name is known, or one below it. */
static bool known(const char *path, bool *below) {
    size_t n = strlen(path);
    bool found = false;
    *below = false;
    for (size_t i = 0; i < ARRAY_LEN(settings) + ARRAY_LEN(others); i++) {
        const char *p = i < ARRAY_LEN(settings) ? settings[i].path : others[i - ARRAY_LEN(settings)].path;
        if (str_eq(p, path)) found = true;
        if (strncmp(p, path, n) == 0 && p[n] == '.') *below = true;
    }
    return found;
}

typedef int other_fn(void *arg, const char *path, const struct other *o, const char *value, struct err *e);

/* Every field of the file that is not simply taken: those without a setting (o), and those that nobody knows (o NULL). */
static int each_other(struct arena *a, const struct json *v, const char *prefix, other_fn *fn, void *arg,
                      struct err *e) {
    JSON_FOREACH_MEMBER(m, v) {
        const char *path = *prefix ? arena_printf(a, "%s.%s", prefix, m->key) : m->key;
        const struct other *o = other_at(path);
        bool below, found = known(path, &below);
        int r = 0;
        if (below && json_is(m->value, JSON_OBJECT))
            r = each_other(a, m->value, path, fn, arg, e);
        else if (o && !is_empty(a, m->value) && !among(o->ok, scalar_text(a, m->value)))
            r = fn(arg, path, o, scalar_text(a, m->value), e);
        else if (!found && !below && !str_has_prefix(path, "logging.") && !is_empty(a, m->value))
            r = fn(arg, path, NULL, scalar_text(a, m->value), e);
        if (r < 0) return r;
    }
    return 0;
}

static int refuse(void *arg, const char *path, const struct other *o, const char *value, struct err *e) {
    if (!o || o->verdict != REFUSED) return 0;
    return err_set(e, -ENOTSUP, "%s: %s: %s is not supported: %s", (const char *)arg, path, value, o->why);
}

static int warn(void *arg, const char *path, const struct other *o, const char *value, struct err *e) {
    if (!o)
        log_warn("unknown field in the KubeletConfiguration", "field", path, NULL);
    else if (o->verdict == NO_EFFECT)
        log_warn("this field of the KubeletConfiguration has no effect", "field", path, "value", value, "because",
                 o->why, NULL);
    return 0;
}

bool config_file_knows(const char *path) {
    bool below;
    return known(path, &below) || below;
}

/* ---- the whole ---- */

static int parse_one(struct arena *a, const char *path, struct json **doc, struct err *e) {
    int r = yaml_read_file(a, path, MAX_FILE, doc, e);
    if (r < 0) return r;
    if (!str_eq(json_get_str(*doc, "kind"), "KubeletConfiguration"))
        return err_set(e, -EINVAL, "%s is no KubeletConfiguration", path);
    return 0;
}

static int drop_ins(struct arena *a, const char *dir, unsigned depth, struct json **doc, struct err *e) {
    struct dirent **found;
    int n = scandir(dir, &found, NULL, alphasort), r = 0;
    if (n < 0) return err_errno(e, errno, "read the folder %s", dir);
    for (int i = 0; i < n; i++) {
        struct dirent *ent = found[i];
        const char *path = arena_printf(a, "%s/%s", dir, ent->d_name);
        struct json *patch;
        if (r == 0 && ent->d_type == DT_DIR && depth < MAX_DEPTH && ent->d_name[0] != '.')
            r = drop_ins(a, path, depth + 1, doc, e);
        else if (r == 0 && ent->d_type != DT_DIR && str_has_suffix(ent->d_name, ".conf") &&
                 (r = parse_one(a, path, &patch, e)) == 0)
            *doc = json_merge_patch(a, *doc, patch);
        free(ent);
    }
    free(found);
    return r;
}

static int parse(struct arena *a, const char *path, const char *dir, struct json **doc, struct err *e) {
    *doc = json_object(a);
    int r = path ? parse_one(a, path, doc, e) : 0;
    return r == 0 && dir ? drop_ins(a, dir, 0, doc, e) : r;
}

/* Rules between fields, and values that name one of several things. */
static int check(const char *path, const struct json *doc, struct kubelet_config *c, struct err *e) {
    static const char *const policies[] = {"NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages",
                                           "AlwaysVerify"};
    bool policy = false;
    for (size_t i = 0; i < ARRAY_LEN(policies); i++) policy |= str_eq(c->pull_verification, policies[i]);
    if (!policy)
        return err_set(e, -EINVAL, "%s: imagePullCredentialsVerificationPolicy: unknown policy %s", path,
                       c->pull_verification);
    for (size_t i = 0; i < c->enforce_allocatable.n; i++)
        if (!among("pods|none", c->enforce_allocatable.items[i]))
            return err_set(e, -ENOTSUP,
                           "%s: enforceNodeAllocatable: %s is not supported: only pods' cgroups are limited", path,
                           c->enforce_allocatable.items[i]);
    if (!among("NoSwap|LimitedSwap", c->swap_behavior))
        return err_set(e, -EINVAL, "%s: memorySwap.swapBehavior: \"%s\" must be NoSwap or LimitedSwap", path,
                       c->swap_behavior);
    if (c->crash_loop_max_ns < NS_PER_SEC || c->crash_loop_max_ns > 300 * NS_PER_SEC)
        return err_set(e, -EINVAL, "%s: crashLoopBackOff.maxContainerRestartPeriod: must be between 1s and 300s", path);
    if (c->serialize_pulls && c->max_parallel_pulls > 1)
        return err_set(e, -EINVAL, "%s: maxParallelImagePulls cannot be larger than 1 with serializeImagePulls", path);
    if (c->image_max_age_ns && c->image_max_age_ns <= c->image_min_age_ns)
        return err_set(e, -EINVAL, "%s: imageMaximumGCAge must be greater than imageMinimumGCAge", path);
    const char *tls = str_or_empty(json_get_str(doc, "tlsMinVersion"));
    if (!among("VersionTLS10|VersionTLS11|VersionTLS12|VersionTLS13", tls) && *tls)
        return err_set(e, -EINVAL, "%s: tlsMinVersion: unknown version %s", path, tls);
    c->tls13 = str_eq(tls, "VersionTLS13");
    if (!c->server) c->port = 0;
    return 0;
}

int config_file_read(const char *path, const char *dir, struct kubelet_config *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc;
    const char *default_eviction = c->eviction_hard;
    int r = parse(a, path, dir, &doc, e);
    if (!path) path = dir;
    if (r < 0) return r;
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const struct json *v = at_path(doc, settings[i].path);
        if (!v || json_is(v, JSON_NULL)) continue;
        if (!take(&settings[i], v, c))
            return err_set(e, -EINVAL, "%s: %s has a value of the wrong type", path, settings[i].path);
    }
    if (c->merge_eviction && c->eviction_hard != default_eviction) {
        char *mine = (char *)(uintptr_t)c->eviction_hard;
        c->eviction_hard = merged_eviction(a, mine, default_eviction);
        free(mine);
    }
    r = check(path, doc, c, e);
    return r < 0 ? r : each_other(a, doc, "", refuse, (void *)(uintptr_t)path, e);
}

void config_file_warn(const char *path, const char *dir) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc;
    if (parse(a, path, dir, &doc, NULL) == 0) each_other(a, doc, "", warn, NULL, NULL);
}

char *config_file_fields(struct arena *a, bool refused) {
    char *list = NULL;
    for (size_t i = 0; i < ARRAY_LEN(others); i++)
        if (*others[i].why && (others[i].verdict == REFUSED) == refused)
            list = list ? arena_printf(a, "%s, %s", list, others[i].path) : arena_strdup(a, others[i].path);
    return list;
}

struct json *config_file_show(struct arena *a, const struct kubelet_config *c) {
    struct json *k = json_object(a);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        struct json *at = k;
        const char *path = settings[i].path;
        for (const char *dot; (dot = strchr(path, '.')); path = dot + 1)
            at = json_ensure_object(a, at, arena_strndup(a, path, (size_t)(dot - path)));
        show(a, at, path, &settings[i], c);
    }
    return k;
}
