/* Services. Upstream: validateService, ValidateServiceUpdate and ValidateServiceClusterIPsRelatedFields in
 * pkg/apis/core/validation/validation.go. What depends on the allocators is in alloc.c. */
#include "apiserver/rules/kinds.h"

enum { AFFINITY_TIMEOUT_MAX = 86400, CLUSTER_IPS_MAX = 2 };

static bool headless(const struct json *spec) {
    return str_eq(json_as_str(json_item(json_get(spec, "clusterIPs"), 0)), "None") ||
           str_eq(jstr(spec, "clusterIP"), "None");
}

static bool externally_accessible(const struct json *spec) {
    const char *type = jstr(spec, "type");
    return str_in(type, ONE_OF("LoadBalancer", "NodePort")) ||
           (str_eq(type, "ClusterIP") && json_len(json_get(spec, "externalIPs")));
}

static void port(struct vctx *v, const struct json *spec, size_t i, const struct fp *p) {
    const struct json *ports = json_get(spec, "ports"), *it = json_item(ports, i), *target = json_get(it, "targetPort");
    const char *name = jstr(it, "name"), *app = jstr(it, "appProtocol");
    if (!*name && json_len(ports) > 1) {
        v_required(v, FP(p, "name"), NULL);
    } else if (*name) {
        v_label1123(v, FP(p, "name"), json_get(it, "name"));
        for (size_t j = 0; j < i; j++)
            if (str_eq(jstr(json_item(ports, j), "name"), name)) {
                v_duplicate(v, FP(p, "name"), json_get(it, "name"));
                break;
            }
    }
    v_port(v, FP(p, "port"), json_get(it, "port"));
    v_enum(v, FP(p, "protocol"), json_get(it, "protocol"), ONE_OF("SCTP", "TCP", "UDP"), true);
    if (json_is(target, JSON_STRING))
        for (size_t n = port_name_faults(target->str); n; n--)
            v_invalid(v, FP(p, "targetPort"), target, "must be a port number or name");
    else
        v_port(v, FP(p, "targetPort"), target);
    if (jget(it, "appProtocol")) v_label_name(v, FP(p, "appProtocol"), app);
    if (str_eq(jstr(spec, "type"), "ClusterIP") && json_get_int(it, "nodePort", 0))
        v_forbidden(v, FP(p, "nodePort"), "may not be used when `type` is 'ClusterIP'");
    for (size_t j = 0; j < i; j++) {
        const struct json *o = json_item(ports, j);
        if (!str_eq(jstr(o, "protocol"), jstr(it, "protocol"))) continue;
        if (json_get_int(it, "nodePort", 0) && json_get_int(o, "nodePort", 0) == json_get_int(it, "nodePort", 0))
            v_duplicate(v, FP(p, "nodePort"), json_get(it, "nodePort"));
        if (json_get_int(o, "port", 0) == json_get_int(it, "port", 0)) {
            v_duplicate(v, p, it);
            break;
        }
    }
}

/* What is no address or no family is reported as that. */
static bool plain_ips(const struct json *ips) {
    const struct json *it;
    JSON_FOREACH(it, ips)
        if (!is_own_ip(str_or_empty(json_as_str(it)), NULL) && !str_eq(json_as_str(it), "None")) return false;
    return true;
}

static bool known_families(const struct json *families) {
    const struct json *it;
    JSON_FOREACH(it, families)
        if (!str_in(str_or_empty(json_as_str(it)), ONE_OF("IPv4", "IPv6"))) return false;
    return true;
}

static bool in_list(const struct json *list, const struct json *x) {
    const struct json *it;
    JSON_FOREACH(it, list)
        if (json_equal(it, x)) return true;
    return false;
}

static void families_fit(struct vctx *v, const struct json *spec, const struct fp *sp) {
    const struct json *ips = json_get(spec, "clusterIPs"), *families = json_get(spec, "ipFamilies"), *it;
    JSON_FOREACH(it, ips) {
        const char *said = json_as_str(json_item(families, it_i));
        bool six = strchr(str_or_empty(json_as_str(it)), ':');
        if ((six && str_eq(said, "IPv4")) || (!six && str_eq(said, "IPv6")))
            v_invalid(v, FPI(FP(sp, "clusterIPs"), it_i), it, "expected an %s value as indicated by `ipFamilies[%zu]`",
                      said, it_i);
    }
}

void validate_service_addresses(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *sp) {
    const struct json *ips = json_get(spec, "clusterIPs"), *families = json_get(spec, "ipFamilies"), *it;
    const struct fp *p = FP(sp, "clusterIPs");
    const char *ip = jstr(spec, "clusterIP");
    if (*ip && !str_eq(json_as_str(json_item(ips, 0)), ip))
        v_invalid(v, p, ips, "first value must match `clusterIP`");
    else if (!*ip && json_len(ips))
        v_invalid(v, p, ips, "must be empty when `clusterIP` is not specified");
    JSON_FOREACH(it, families) {
        if (!str_in(str_or_empty(json_as_str(it)), ONE_OF("IPv4", "IPv6")))
            v_not_supported(v, FPI(FP(sp, "ipFamilies"), it_i), it, ONE_OF("IPv4", "IPv6"));
        for (size_t j = 0; j < it_i; j++)
            if (json_equal(json_item(families, j), it)) v_duplicate(v, FPI(FP(sp, "ipFamilies"), it_i), it);
    }
    v_enum(v, FP(sp, "ipFamilyPolicy"), json_get(spec, "ipFamilyPolicy"),
           ONE_OF("SingleStack", "PreferDualStack", "RequireDualStack"), false);
    bool bad = false;
    int first = 0, family = 0;
    JSON_FOREACH(it, ips) {
        const char *s = str_or_empty(json_as_str(it));
        if (it_i == 0 && str_eq(s, "None")) {
            if (json_len(ips) > 1) v_invalid(v, p, ips, "'None' must be the first and only value");
            bad |= json_len(ips) > 1;
        } else if (!is_own_ip(s, it_i ? &family : &first) && !in_list(json_get(old, "clusterIPs"), it)) {
            bad = true;
            v_invalid(v, FPI(p, it_i), it, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        }
    }
    if (json_len(ips) > CLUSTER_IPS_MAX) v_invalid(v, p, ips, "may only hold up to 2 values");
    if (bad) return;
    if (json_len(ips) > 1 && first == family)
        v_invalid(v, p, ips, "may specify no more than one IP for each IP family");
    if (!headless(spec)) families_fit(v, spec, sp);
}

/* An address that endpoints and external traffic may use: not loopback, link-local, multicast or unspecified.
 */
static const char *special_ip(const char *ip) {
    if (str_eq(ip, "0.0.0.0") || str_eq(ip, "::")) return "may not be unspecified";
    if (str_has_prefix(ip, "127.") || str_eq(ip, "::1"))
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)";
    if (str_has_prefix(ip, "169.254.") || str_has_prefix(ip, "fe80:"))
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)";
    int a = str_has_prefix(ip, "22") || str_has_prefix(ip, "23") ? (int)strtol(ip, NULL, 10) : 0;
    if ((a >= 224 && a <= 239 && strchr(ip, '.')) || str_has_prefix(ip, "ff02:"))
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
    return NULL;
}

void validate_endpoint_ip(struct vctx *v, const struct fp *p, const struct json *ip) {
    const char *s = str_or_empty(json_as_str(ip));
    if (!is_own_ip(s, NULL))
        v_invalid(v, p, ip, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    else if (special_ip(s))
        v_invalid(v, p, ip, "%s", special_ip(s));
}

static void external_name(struct vctx *v, const struct json *spec, const struct fp *sp) {
    static const char *const barred[] = {"clusterIPs", "ipFamilies", "ipFamilyPolicy"};
    for (size_t i = 0; i < ARRAY_LEN(barred); i++)
        if (jget(spec, barred[i]) && (i == 2 || !jempty(json_get(spec, barred[i]))))
            v_forbidden(v, FP(sp, barred[i]), "may not be set for ExternalName services");
    char *name = arena_strdup(v->a, jstr(spec, "externalName"));
    size_t n = strlen(name);
    if (n && name[n - 1] == '.') name[n - 1] = '\0';
    if (!*name)
        v_required(v, FP(sp, "externalName"), NULL);
    else
        v_subdomain(v, FP(sp, "externalName"), json_get(spec, "externalName"));
}

static void affinity(struct vctx *v, const struct json *spec, const struct fp *sp) {
    const struct json *conf = jget(spec, "sessionAffinityConfig"),
                      *t = json_at(conf, "clientIP", "timeoutSeconds", NULL);
    v_enum(v, FP(sp, "sessionAffinity"), json_get(spec, "sessionAffinity"), ONE_OF("ClientIP", "None"), true);
    const struct fp *p = FP(sp, "sessionAffinityConfig");
    if (str_eq(jstr(spec, "sessionAffinity"), "None") && conf)
        v_forbidden(v, p, "must not be set when session affinity is None");
    if (!str_eq(jstr(spec, "sessionAffinity"), "ClientIP")) return;
    if (!conf)
        v_required(v, p, "must not be nil if sessionAffinity is ClientIP");
    else if (t && (json_as_int(t, 0) <= 0 || json_as_int(t, 0) > AFFINITY_TIMEOUT_MAX))
        v_invalid(v, FP(FP(p, "clientIP"), "timeoutSeconds"), t, "must be greater than 0 and less than %d",
                  AFFINITY_TIMEOUT_MAX);
}

/* These may have spaces around them. */
static const char *trimmed(struct arena *a, const char *s) {
    s = str_or_empty(s);
    s += strspn(s, " \t\r\n");
    size_t n = strlen(s);
    while (n && strchr(" \t\r\n", s[n - 1])) n--;
    return arena_strndup(a, s, n);
}

static void traffic(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *sp) {
    const char *type = jstr(spec, "type"), *ext = jstr(spec, "externalTrafficPolicy");
    bool lb = str_eq(type, "LoadBalancer"), health = lb && str_eq(ext, "Local");
    if (!externally_accessible(spec)) {
        if (*ext)
            v_invalid(v, FP(sp, "externalTrafficPolicy"), json_get(spec, "externalTrafficPolicy"),
                      "may only be set for externally-accessible services");
    } else {
        v_enum(v, FP(sp, "externalTrafficPolicy"), json_get(spec, "externalTrafficPolicy"), ONE_OF("Cluster", "Local"),
               true);
    }
    const struct json *hp = jget(spec, "healthCheckNodePort");
    if (!health && json_as_int(hp, 0))
        v_invalid(v, FP(sp, "healthCheckNodePort"), hp,
                  "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'");
    else if (json_as_int(hp, 0))
        v_port(v, FP(sp, "healthCheckNodePort"), hp);
    v_enum(v, FP(sp, "internalTrafficPolicy"), json_get(spec, "internalTrafficPolicy"), ONE_OF("Cluster", "Local"),
           !jget(spec, "internalTrafficPolicy") && str_in(type, ONE_OF("ClusterIP", "NodePort", "LoadBalancer")));
    v_enum(v, FP(sp, "trafficDistribution"), json_get(spec, "trafficDistribution"),
           ONE_OF("PreferClose", "PreferSameZone", "PreferSameNode"), false);
    if (!lb && jget(spec, "allocateLoadBalancerNodePorts"))
        v_forbidden(v, FP(sp, "allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'");
    const char *class = json_get_str(spec, "loadBalancerClass");
    if (class && !lb)
        v_forbidden(v, FP(sp, "loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
    else if (class)
        v_label_name(v, FP(sp, "loadBalancerClass"), class);
    const struct json *r, *ranges = json_get(spec, "loadBalancerSourceRanges");
    if (json_len(ranges) && !lb)
        v_forbidden(v, FP(sp, "LoadBalancerSourceRanges"), "may only be used when `type` is 'LoadBalancer'");
    JSON_FOREACH(r, ranges)
        if (!is_subnet(trimmed(v->a, json_as_str(r)), NULL) && !in_list(json_get(old, "loadBalancerSourceRanges"), r))
            v_invalid(v, FPI(FP(sp, "LoadBalancerSourceRanges"), r_i), r,
                      "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
}

static void update(struct vctx *v, const struct json *spec, const struct json *old, const struct fp *sp) {
    if (str_eq(jstr(spec, "type"), "ExternalName") || str_eq(jstr(old, "type"), "ExternalName")) {
        if (jget(spec, "loadBalancerClass") && !str_eq(jstr(spec, "type"), "LoadBalancer"))
            v_forbidden(v, FP(sp, "loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
        return;
    }
    const struct json *ips = json_get(spec, "clusterIPs"), *was = json_get(old, "clusterIPs"),
                      *fam = json_get(spec, "ipFamilies"), *old_fam = json_get(old, "ipFamilies");
    if (!(headless(spec) && headless(old))) {
        if (!json_len(ips) && json_len(was))
            v_invalid(v, FPI(FP(sp, "clusterIPs"), 0), ips, "primary clusterIP can not be unset");
        else if (json_len(was) && !json_equal(json_item(ips, 0), json_item(was, 0)) && plain_ips(ips) &&
                 str_eq(json_as_str(json_item(ips, 0)), jstr(spec, "clusterIP")))
            v_invalid(v, FPI(FP(sp, "clusterIPs"), 0), ips, "may not change once set");
    }
    if (!headless(spec) && !headless(old) && json_len(fam) && json_len(old_fam) && known_families(fam) &&
        !json_equal(json_item(fam, 0), json_item(old_fam, 0)))
        v_invalid(v, FPI(FP(sp, "ipFamilies"), 0), fam, "may not change once set");
    if (str_eq(jstr(spec, "type"), "LoadBalancer") && str_eq(jstr(old, "type"), "LoadBalancer") &&
        !str_eq(jstr(spec, "loadBalancerClass"), jstr(old, "loadBalancerClass"))) {
        v_invalid(v, FP(sp, "loadBalancerClass"), json_get(spec, "loadBalancerClass"), "may not change once set");
        if (jget(spec, "loadBalancerClass"))
            v_label_name(v, FP(sp, "loadBalancerClass"), jstr(spec, "loadBalancerClass"));
    }
    if (jget(spec, "loadBalancerClass") && !str_eq(jstr(spec, "type"), "LoadBalancer"))
        v_forbidden(v, FP(sp, "loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'");
    int64_t hp = json_get_int(spec, "healthCheckNodePort", 0), old_hp = json_get_int(old, "healthCheckNodePort", 0);
    if (hp && old_hp && hp != old_hp) v_forbidden(v, FP(sp, "healthCheckNodePort"), "field is immutable");
}

/* Annotations that were there before the fields. */
static void annotations(struct vctx *v, const struct json *obj, const struct json *old) {
    static const char ranges[] = "service.beta.kubernetes.io/load-balancer-source-ranges",
                      hints[] = "service.kubernetes.io/topology-aware-hints",
                      mode[] = "service.kubernetes.io/topology-mode";
    const struct json *list = json_at(obj, "metadata", "annotations", NULL), *spec = json_get(obj, "spec");
    const struct fp *p = FP(FP(NULL, "metadata"), "annotations");
    if (jget(list, hints) && jget(list, mode) && !str_eq(jstr(list, hints), jstr(list, mode)))
        v_invalid(v, FPK(p, mode), json_get(list, mode), "must match annotations[%s] when both are specified", hints);
    if (!jget(list, ranges) || json_len(json_get(spec, "loadBalancerSourceRanges"))) return;
    if (!str_eq(jstr(spec, "type"), "LoadBalancer"))
        v_forbidden(v, FPK(p, ranges), "may only be used when `type` is 'LoadBalancer'");
    const char *s = trimmed(v->a, jstr(list, ranges));
    const struct json *was = json_at(old, "metadata", "annotations", NULL);
    if (!*s || (jget(was, ranges) && str_eq(jstr(was, ranges), jstr(list, ranges)))) return;
    for (bool more = true; more;) {
        size_t n = strcspn(s, ",");
        const char *one = trimmed(v->a, arena_strndup(v->a, s, n));
        if (!is_subnet(one, NULL))
            v_invalid(v, FPK(p, ranges), json_str(v->a, one),
                      "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        more = s[n] == ',';
        s += n + more;
    }
}

VALIDATE_FN(service) {
    const struct json *spec = json_get(obj, "spec"), *it;
    const struct fp *sp = FP(NULL, "spec");
    const char *type = jstr(spec, "type");
    if (old) update(v, spec, json_get(old, "spec"), sp);
    if (!json_len(json_get(spec, "ports")) && !headless(spec) && !str_eq(type, "ExternalName"))
        v_required(v, FP(sp, "ports"), NULL);
    if (str_in(type, ONE_OF("LoadBalancer", "NodePort")) && headless(spec))
        v_invalid(v, FPI(FP(sp, "clusterIPs"), 0), json_item(json_get(spec, "clusterIPs"), 0),
                  "may not be set to 'None' for %s services", type);
    if (str_eq(type, "ExternalName")) external_name(v, spec, sp);
    JSON_FOREACH(it, json_get(spec, "ports")) port(v, spec, it_i, FPI(FP(sp, "ports"), it_i));
    v_labels(v, FP(sp, "selector"), json_get(spec, "selector"));
    affinity(v, spec, sp);
    if (!str_eq(type, "ExternalName")) validate_service_addresses(v, spec, json_get(old, "spec"), sp);
    JSON_FOREACH(it, json_get(spec, "externalIPs")) validate_endpoint_ip(v, FPI(FP(sp, "externalIPs"), it_i), it);
    v_enum(v, FP(sp, "type"), json_get(spec, "type"), ONE_OF("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"),
           true);
    traffic(v, spec, json_get(old, "spec"), sp);
    annotations(v, obj, old);
}
