/* Warnings about addresses that are valid but not written as RFC 5952 says, or were valid once. Fields that are older
 * than the strict rules take them; an update may leave what was there. Upstream: GetWarningsForIP and GetWarningsForCIDR
 * (apimachinery/pkg/util/validation/ip.go) and who calls them. */
#include "apiserver/rules/warnings.h"

/* The address without the zeros that some write in front of its parts, or NULL when it is none. */
static const char *without_zeros(struct arena *a, const char *s) {
    char *out = arena_alloc(a, strlen(s) + 1), *to = out;
    for (const char *q = s; *q; q++) {
        bool start = q == s || q[-1] == '.' || q[-1] == ':' || q[-1] == '/';
        while (start && *q == '0' && q[1] >= '0' && q[1] <= '9') q++;
        *to++ = *q;
    }
    *to = '\0';
    return out;
}

static void warn_ip(struct vctx *v, const struct fp *p, const struct json *ip) {
    const char *s = str_or_empty(json_as_str(ip)), *plain = strchr(s, ':') ? s : without_zeros(v->a, s);
    const char *mapped = strchr(s, ':') ? strrchr(s, ':') + 1 : NULL;
    if (!*s || !is_ip(plain, NULL)) return;
    if (is_own_ip(s, NULL)) {
        if (strchr(s, ':') && !str_eq(ip_canonical(v->a, s), s))
            rules_warn(v->c, "%s: IPv6 address \"%s\" should be in RFC 5952 canonical format (\"%s\")",
                       fp_text(v->a, p), s, ip_canonical(v->a, s));
        return;
    }
    rules_warn(v->c, "%s: non-standard IP address \"%s\" is invalid: use \"%s\"", fp_text(v->a, p), s,
               mapped && strchr(mapped, '.') ? mapped : plain);
}

static void warn_cidr(struct vctx *v, const struct fp *p, const struct json *cidr) {
    const char *s = str_or_empty(json_as_str(cidr)), *slash = strchr(s, '/');
    if (!slash || !is_subnet(s, NULL)) return;
    const char *canonical =
        arena_printf(v->a, "%s%s", ip_canonical(v->a, arena_strndup(v->a, s, (size_t)(slash - s))), slash);
    if (!str_eq(canonical, s))
        rules_warn(v->c, "%s: IPv6 CIDR value \"%s\" should be in RFC 5952 canonical format (\"%s\")", fp_text(v->a, p),
                   s, canonical);
}

static void ips_of(struct vctx *v, const struct json *list, const char *member, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list)
        warn_ip(v, member ? FP(FPI(p, it_i), member) : FPI(p, it_i), member ? json_get(it, member) : it);
}

static void cidrs_of(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list) warn_cidr(v, FPI(p, it_i), it);
}

void warn_pod_addresses(struct vctx *v, const struct json *spec, const struct fp *sp) {
    ips_of(v, json_at(spec, "dnsConfig", "nameservers", NULL), NULL, FP(FP(sp, "dnsConfig"), "nameservers"));
    ips_of(v, json_get(spec, "hostAliases"), "ip", FP(sp, "hostAliases"));
}

static void endpoints(struct vctx *v, const struct json *obj) {
    static const char *const lists[] = {"addresses", "notReadyAddresses"};
    const struct json *s;
    if (str_eq(json_as_str(json_at(obj, "metadata", "labels", "endpoints.kubernetes.io/managed-by", NULL)),
               "endpoint-controller"))
        return;
    JSON_FOREACH(s, json_get(obj, "subsets"))
        for (size_t i = 0; i < ARRAY_LEN(lists); i++)
            ips_of(v, json_get(s, lists[i]), "ip", FP(FPI(FP(NULL, "subsets"), s_i), lists[i]));
}

static void endpoint_slice(struct vctx *v, const struct json *obj) {
    const struct json *it;
    const char *by = json_as_str(json_at(obj, "metadata", "labels", "endpointslice.kubernetes.io/managed-by", NULL));
    if (by && str_in(by, ONE_OF("endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"))) return;
    JSON_FOREACH(it, json_get(obj, "endpoints"))
        ips_of(v, json_get(it, "addresses"), NULL, FP(FPI(FP(NULL, "endpoints"), it_i), "addresses"));
}

static void service(struct vctx *v, const struct json *obj) {
    const struct json *spec = json_get(obj, "spec");
    const struct fp *sp = FP(NULL, "spec");
    if (!str_in(jstr(spec, "clusterIP"), ONE_OF("", "None")) && !str_eq(jstr(spec, "type"), "ExternalName"))
        ips_of(v, json_get(spec, "clusterIPs"), NULL, FP(sp, "clusterIPs"));
    ips_of(v, json_get(spec, "externalIPs"), NULL, FP(sp, "externalIPs"));
    warn_ip(v, FP(sp, "loadBalancerIP"), json_get(spec, "loadBalancerIP"));
    cidrs_of(v, json_get(spec, "loadBalancerSourceRanges"), FP(sp, "loadBalancerSourceRanges"));
}

static void node(struct vctx *v, const struct json *obj) {
    cidrs_of(v, json_at(obj, "spec", "podCIDRs", NULL), FP(FP(NULL, "spec"), "podCIDRs"));
}

static void network_policy(struct vctx *v, const struct json *obj) {
    static const char *const ways[][2] = {{"ingress", "from"}, {"egress", "to"}};
    const struct json *rule, *peer;
    for (size_t i = 0; i < ARRAY_LEN(ways); i++)
        JSON_FOREACH(rule, json_at(obj, "spec", ways[i][0], NULL))
            JSON_FOREACH(peer, json_get(rule, ways[i][1])) {
                const struct fp *p = FPI(FP(FPI(FP(FP(NULL, "spec"), ways[i][0]), rule_i), ways[i][1]), peer_i);
                const struct json *block = json_get(peer, "ipBlock");
                warn_cidr(v, FP(FP(p, "ipBlock"), "cidr"), json_get(block, "cidr"));
                cidrs_of(v, json_get(block, "except"), FP(FP(p, "ipBlock"), "except"));
            }
}

void warn_addresses(struct vctx *v, const struct json *obj) {
    static const struct {
        const char *group, *kind;
        void (*fn)(struct vctx *, const struct json *);
    } rows[] = {
        {"", "Endpoints", endpoints},
        {"", "Node", node},
        {"", "Service", service},
        {"discovery.k8s.io", "EndpointSlice", endpoint_slice},
        {"networking.k8s.io", "NetworkPolicy", network_policy},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (str_eq(rows[i].kind, v->c->kind) && str_eq(rows[i].group, str_or_empty(v->c->group))) rows[i].fn(v, obj);
}

void warn_status_addresses(struct vctx *v, const struct json *obj) {
    const struct fp *p = FP(NULL, "status");
    const struct json *status = json_get(obj, "status"), *it;
    if (str_in(v->c->kind, ONE_OF("Service", "Ingress")))
        JSON_FOREACH(it, json_at(status, "loadBalancer", "ingress", NULL))
            warn_ip(v, FPI(FP(FP(p, "loadBalancer"), "ingress"), it_i), json_get(it, "ip"));
    if (!str_eq(v->c->kind, "Pod")) return;
    ips_of(v, json_get(status, "podIPs"), "ip", FP(p, "podIPs"));
    ips_of(v, json_get(status, "hostIPs"), "ip", FP(p, "hostIPs"));
}
