/* See config_file.h. */
#include "kubelet/config_file.h"

#include "pkg/yaml/yaml.h"

enum { MAX_FILE = 1024 * 1024 };

enum kind { TEXT, NUMBER, YES_NO, SPAN, BYTES, LIST, PAIRS, LIMITS, TAINTS, PRIORITIES };

/* Dotted path in the file, how it is written, and where it goes. */
static const struct setting {
    const char *path;
    enum kind kind;
    size_t offset;
} settings[] = {
#define S(path, kind, field) \
    { path, kind, offsetof(struct kubelet_config, field) }
    S("address", TEXT, address),
    S("port", NUMBER, port),
    S("staticPodPath", TEXT, manifest_path),
    S("clusterDomain", TEXT, cluster_domain),
    S("clusterDNS", LIST, cluster_dns),
    S("resolvConf", TEXT, resolv_conf),
    S("tlsCertFile", TEXT, tls_cert_file),
    S("tlsPrivateKeyFile", TEXT, tls_key_file),
    S("authentication.x509.clientCAFile", TEXT, client_ca_file),
    S("authentication.anonymous.enabled", YES_NO, anonymous_auth),
    S("authentication.webhook.enabled", YES_NO, webhook_auth),
    S("authorization.mode", TEXT, authorization_mode),
    S("containerRuntimeEndpoint", TEXT, runtime_endpoint),
    S("imageServiceEndpoint", TEXT, image_endpoint),
    S("rotateCertificates", YES_NO, rotate_certificates),
    S("serverTLSBootstrap", YES_NO, serving_bootstrap),
    S("registerNode", YES_NO, register_node),
    S("registerWithTaints", TAINTS, taints),
    S("maxPods", NUMBER, max_pods),
    S("podPidsLimit", NUMBER, pod_pids_limit),
    S("podCIDR", TEXT, pod_cidr),
    S("podLogsDir", TEXT, pod_logs_dir),
    S("providerID", TEXT, provider_id),
    S("cgroupRoot", TEXT, cgroup_root),
    S("cgroupsPerQOS", YES_NO, cgroups_per_qos),
    S("containerLogMaxSize", BYTES, log_max_size),
    S("containerLogMaxFiles", NUMBER, log_max_files),
    S("imageGCHighThresholdPercent", NUMBER, image_gc_high),
    S("imageGCLowThresholdPercent", NUMBER, image_gc_low),
    S("nodeStatusReportFrequency", SPAN, status_update_ns),
    S("nodeLeaseDurationSeconds", NUMBER, lease_seconds),
    S("systemReserved", PAIRS, system_reserved),
    S("kubeReserved", PAIRS, kube_reserved),
    S("evictionHard", LIMITS, eviction_hard),
    S("evictionSoft", LIMITS, eviction_soft),
    S("evictionSoftGracePeriod", PAIRS, eviction_soft_grace),
    S("evictionMinimumReclaim", PAIRS, eviction_min_reclaim),
    S("evictionMaxPodGracePeriod", NUMBER, eviction_max_grace),
    S("evictionPressureTransitionPeriod", SPAN, eviction_transition_ns),
    S("allowedUnsafeSysctls", LIST, allowed_sysctls),
    S("shutdownGracePeriod", SPAN, shutdown_ns),
    S("shutdownGracePeriodCriticalPods", SPAN, shutdown_critical_ns),
    S("shutdownGracePeriodByPodPriority", PRIORITIES, shutdown_by_priority),
#undef S
};

const char *config_file_of(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *s = argv[i];
        if (*s++ != '-') continue;
        if (*s == '-') s++;
        if (str_has_prefix(s, "config=")) return s + strlen("config=");
        if (str_eq(s, "config") && i + 1 < argc) return argv[i + 1];
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

static bool take(const struct setting *s, const struct json *v, struct kubelet_config *c) {
    void *field = (char *)c + s->offset;
    struct json *item;
    const char *text = json_as_str(v);
    switch (s->kind) {
        case PRIORITIES:
            if (json_is(v, JSON_ARRAY)) *(const char **)field = priorities_text(v);
            return json_is(v, JSON_ARRAY);
        case TEXT:
            if (text && *text) *(const char **)field = xstrdup(text); /* "" means the default, as upstream */
            return text != NULL;
        case NUMBER:
            if (json_is(v, JSON_INT)) *(int64_t *)field = v->i;
            return json_is(v, JSON_INT);
        case YES_NO:
            if (json_is(v, JSON_BOOL)) *(bool *)field = v->b;
            return json_is(v, JSON_BOOL);
        case SPAN: {
            int64_t ns;
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

int config_file_read(const char *path, struct kubelet_config *c, struct err *e) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *doc;
    int r = yaml_read_file(a, path, MAX_FILE, &doc, e);
    if (r < 0) return r;
    if (!str_eq(json_get_str(doc, "kind"), "KubeletConfiguration"))
        return err_set(e, -EINVAL, "%s is no KubeletConfiguration", path);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        const struct json *v = at_path(doc, settings[i].path);
        if (!v || json_is(v, JSON_NULL)) continue;
        if (!take(&settings[i], v, c))
            return err_set(e, -EINVAL, "%s: %s has a value of the wrong type", path, settings[i].path);
    }
    return 0;
}
