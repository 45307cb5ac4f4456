/* networking.k8s.io and discovery.k8s.io. Upstream: pkg/apis/networking/validation and
 * pkg/apis/discovery/validation. */
#include <arpa/inet.h>

#include "apiserver/rules/kinds.h"

enum { CONTROLLER_MAX = 250, ENDPOINT_ADDRESSES_MAX = 100, ENDPOINTS_MAX = 1000, SLICE_PORTS_MAX = 20000 };

/* ---- NetworkPolicy ---- */

static void policy_port(struct vctx *v, const struct json *x, const struct fp *p) {
    const struct json *port = jget(x, "port"), *end = jget(x, "endPort");
    v_enum(v, FP(p, "protocol"), json_get(x, "protocol"), ONE_OF("TCP", "UDP", "SCTP"), false);
    if (!port) {
        if (end) v_invalid(v, FP(p, "endPort"), end, "may not be specified when `port` is not specified");
    } else if (json_is(port, JSON_STRING)) {
        if (end) v_invalid(v, FP(p, "endPort"), end, "may not be specified when `port` is non-numeric");
        for (size_t n = port_name_faults(port->str); n; n--) v_invalid(v, FP(p, "port"), port, "must be a port name");
    } else {
        v_port(v, FP(p, "port"), port);
        if (end && json_as_int(end, 0) < json_as_int(port, 0))
            v_invalid(v, FP(p, "endPort"), end, "must be greater than or equal to `port`");
        if (end) v_port(v, FP(p, "endPort"), end);
    }
}

/* Both of one family: whether the first is a smaller part of the second. */
static bool lies_in(const char *part, const char *whole) {
    long bits = strtol(strchr(whole, '/') + 1, NULL, 10);
    uint8_t b[2][16] = {{0}, {0}};
    const char *texts[] = {part, whole};
    if (strtol(strchr(part, '/') + 1, NULL, 10) <= bits) return false;
    for (size_t i = 0; i < 2; i++) {
        char text[INET6_ADDRSTRLEN];
        snprintf(text, sizeof text, "%.*s", (int)strcspn(texts[i], "/"), texts[i]);
        inet_pton(strchr(text, ':') ? AF_INET6 : AF_INET, text, b[i]);
    }
    for (long bit = 0; bit < bits; bit++)
        if ((b[0][bit / 8] ^ b[1][bit / 8]) & 0x80 >> bit % 8) return false;
    return true;
}

static void ip_block(struct vctx *v, const struct json *b, const struct fp *p) {
    const char *cidr = jstr(b, "cidr");
    const struct json *it;
    int family = 0, other = 0;
    if (!*cidr) {
        v_required(v, FP(p, "cidr"), NULL);
        return;
    }
    if (!is_subnet(cidr, NULL))
        v_invalid(v, FP(p, "cidr"), json_get(b, "cidr"),
                  "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    if (!is_cidr(cidr, &family)) return;
    JSON_FOREACH(it, json_get(b, "except")) {
        const char *s = str_or_empty(json_as_str(it));
        const struct fp *at = FPI(FP(p, "except"), it_i);
        if (!is_subnet(s, NULL))
            v_invalid(v, at, it, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        if (is_cidr(s, &other) && (other != family || !lies_in(s, cidr)))
            v_invalid(v, at, it, "must be a strict subset of `cidr`");
    }
}

static void policy_peer(struct vctx *v, const struct json *x, const struct fp *p) {
    const struct json *pods = jget(x, "podSelector"), *ns = jget(x, "namespaceSelector"), *ip = jget(x, "ipBlock");
    if (pods) v_label_selector(v, FP(p, "podSelector"), pods, false);
    if (ns) v_label_selector(v, FP(p, "namespaceSelector"), ns, false);
    if (ip) ip_block(v, ip, FP(p, "ipBlock"));
    if (!pods && !ns && !ip)
        v_required(v, p, "must specify a peer");
    else if (ip && (pods || ns))
        v_forbidden(v, p, "may not specify both ipBlock and another peer");
}

VALIDATE_FN(network_policy) {
    static const char *const ways[][2] = {{"ingress", "from"}, {"egress", "to"}};
    const struct json *spec = json_get(obj, "spec"), *rule, *it, *types = json_get(spec, "policyTypes");
    const struct fp *p = FP(NULL, "spec");
    v_label_selector(v, FP(p, "podSelector"), json_get(spec, "podSelector"), false);
    for (size_t i = 0; i < 2; i++)
        JSON_FOREACH(rule, json_get(spec, ways[i][0])) {
            const struct fp *at = FPI(FP(p, ways[i][0]), rule_i);
            JSON_FOREACH(it, json_get(rule, "ports")) policy_port(v, it, FPI(FP(at, "ports"), it_i));
            JSON_FOREACH(it, json_get(rule, ways[i][1])) policy_peer(v, it, FPI(FP(at, ways[i][1]), it_i));
        }
    if (json_len(types) > 2) {
        v_invalid(v, FP(p, "policyTypes"), types, "may not specify more than two policyTypes");
        return;
    }
    JSON_FOREACH(it, types)
        if (!str_in(str_or_empty(json_as_str(it)), ONE_OF("Ingress", "Egress")))
            v_not_supported(v, FPI(FP(p, "policyTypes"), it_i), it, ONE_OF("Ingress", "Egress"));
}

/* ---- Ingress ---- */

static void typed_reference(struct vctx *v, const struct json *r, const struct fp *p) {
    const char *kind = jstr(r, "kind"), *name = jstr(r, "name");
    if (jget(r, "apiGroup")) v_subdomain(v, FP(p, "apiGroup"), json_get(r, "apiGroup"));
    if (!*kind)
        v_required(v, FP(p, "kind"), NULL);
    else if (is_path_segment(kind))
        v_invalid(v, FP(p, "kind"), json_get(r, "kind"), "%s", is_path_segment(kind));
    if (!*name)
        v_required(v, FP(p, "name"), NULL);
    else if (is_path_segment(name))
        v_invalid(v, FP(p, "name"), json_get(r, "name"), "%s", is_path_segment(name));
}

static void backend(struct vctx *v, const struct json *b, const struct fp *p) {
    const struct json *svc = jget(b, "service"), *res = jget(b, "resource"), *port = json_get(svc, "port");
    if (svc && res) {
        v_invalid(v, p, NULL, "cannot set both resource and service backends");
    } else if (res) {
        typed_reference(v, res, FP(p, "resource"));
    } else if (svc) {
        const char *name = jstr(svc, "name"), *port_name = jstr(port, "name");
        int64_t n = json_get_int(port, "number", 0);
        const struct fp *sp = FP(p, "service");
        if (!*name)
            v_required(v, FP(sp, "name"), NULL);
        else
            v_label1123(v, FP(sp, "name"), json_get(svc, "name"));
        if (*port_name && n) {
            v_invalid(v, p, NULL, "cannot set both port name & port number");
        } else if (*port_name) {
            for (size_t k = port_name_faults(port_name); k; k--)
                v_invalid(v, FP(FP(sp, "port"), "name"), json_get(port, "name"), "must be a port name");
        } else if (n) {
            v_port(v, FP(FP(sp, "port"), "number"), json_get(port, "number"));
        } else {
            v_required(v, p, "port name or number is required");
        }
    } else {
        v_invalid(v, p, NULL, "resource or service backend is required");
    }
}

static void host(struct vctx *v, const struct json *h, const struct fp *p, bool rule) {
    const char *s = str_or_empty(json_as_str(h));
    if (!*s && rule) return;
    if (rule && is_ip(s, NULL)) v_invalid(v, p, h, "must be a DNS name, not an IP address");
    if (strchr(s, '*') ? is_wildcard_subdomain(s) : is_dns1123_subdomain(s))
        v_invalid(v, p, h, "%s", strchr(s, '*') ? is_wildcard_subdomain(s) : is_dns1123_subdomain(s));
}

static void ingress_path(struct vctx *v, const struct json *x, const struct fp *p) {
    static const char *const sequences[] = {"//", "/./", "/../", "%2f", "%2F"}, *const suffixes[] = {"/..", "/."};
    const char *type = jstr(x, "pathType"), *path = jstr(x, "path");
    if (!jget(x, "pathType")) {
        v_required(v, FP(p, "pathType"), "pathType must be specified");
        return;
    }
    if (str_in(type, ONE_OF("Exact", "Prefix"))) {
        if (path[0] != '/') v_invalid(v, FP(p, "path"), json_get(x, "path"), "must be an absolute path");
        for (size_t i = 0; i < ARRAY_LEN(sequences); i++)
            if (strstr(path, sequences[i]))
                v_invalid(v, FP(p, "path"), json_get(x, "path"), "must not contain '%s'", sequences[i]);
        for (size_t i = 0; i < ARRAY_LEN(suffixes); i++)
            if (str_has_suffix(path, suffixes[i]))
                v_invalid(v, FP(p, "path"), json_get(x, "path"), "cannot end with '%s'", suffixes[i]);
    } else if (str_eq(type, "ImplementationSpecific")) {
        if (*path && path[0] != '/') v_invalid(v, FP(p, "path"), json_get(x, "path"), "must be an absolute path");
    } else {
        v_not_supported(v, FP(p, "pathType"), json_get(x, "pathType"),
                        ONE_OF("Exact", "ImplementationSpecific", "Prefix"));
    }
    backend(v, json_get(x, "backend"), FP(p, "backend"));
}

VALIDATE_FN(ingress) {
    const struct json *spec = json_get(obj, "spec"), *rule, *it, *h, *rules = json_get(spec, "rules"),
                      *dflt = jget(spec, "defaultBackend");
    const struct fp *p = FP(NULL, "spec");
    const char *class = jstr(spec, "ingressClassName"),
               *noted = json_as_str(json_at(obj, "metadata", "annotations", "kubernetes.io/ingress.class", NULL));
    if (!json_len(rules) && !dflt) v_invalid(v, p, rules, "either `defaultBackend` or `rules` must be specified");
    if (dflt) backend(v, dflt, FP(p, "defaultBackend"));
    JSON_FOREACH(rule, rules) {
        const struct fp *at = FPI(FP(p, "rules"), rule_i);
        const struct json *http = jget(rule, "http");
        host(v, json_get(rule, "host"), FP(at, "host"), true);
        if (!http) continue;
        if (!json_len(json_get(http, "paths"))) v_required(v, FP(FP(at, "http"), "paths"), NULL);
        JSON_FOREACH(it, json_get(http, "paths")) ingress_path(v, it, FPI(FP(FP(at, "http"), "paths"), it_i));
    }
    JSON_FOREACH(it, json_get(spec, "tls")) {
        const struct fp *at = FPI(FP(p, "tls"), it_i);
        const char *secret = jstr(it, "secretName");
        JSON_FOREACH(h, json_get(it, "hosts")) host(v, h, FPI(FP(at, "hosts"), h_i), false);
        if (*secret) v_subdomain(v, FP(at, "secretName"), json_get(it, "secretName"));
    }
    if (jget(spec, "ingressClassName")) v_subdomain(v, FP(p, "ingressClassName"), json_get(spec, "ingressClassName"));
    if (!old && noted && *class && !str_eq(noted, class))
        v_invalid(v, FP(FP(NULL, "annotations"), "kubernetes.io/ingress.class"), json_str(v->a, noted),
                  "must match `ingressClassName` when both are specified");
    if (!old && noted)
        rules_warn(v->c,
                   "annotation \"kubernetes.io/ingress.class\" is deprecated, please use "
                   "'spec.ingressClassName' instead");
}

/* A domain and a path: "example.com/name". */
static void domain_path(struct vctx *v, const struct fp *p, const struct json *x) {
    const char *s = str_or_empty(json_as_str(x)), *slash = strchr(s, '/');
    if (!*s)
        v_required(v, p, NULL);
    else if (!slash || !slash[1])
        v_invalid(v, p, x, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    else if (is_dns1123_subdomain(arena_strndup(v->a, s, (size_t)(slash - s))))
        v_invalid(v, p, x, "%s", is_dns1123_subdomain(arena_strndup(v->a, s, (size_t)(slash - s))));
}

VALIDATE_FN(ingress_class) {
    const struct json *spec = json_get(obj, "spec"), *ref = jget(spec, "parameters");
    const struct fp *p = FP(NULL, "spec"), *at = FP(p, "parameters");
    if (old)
        v_immutable(v, FP(p, "controller"), json_get(spec, "controller"), json_at(old, "spec", "controller", NULL));
    if (strlen(jstr(spec, "controller")) > CONTROLLER_MAX) v_too_long(v, FP(p, "controller"), CONTROLLER_MAX);
    domain_path(v, FP(p, "controller"), json_get(spec, "controller"));
    if (!ref) return;
    typed_reference(v, ref, at);
    const char *scope = jstr(ref, "scope"), *ns = json_get_str(ref, "namespace");
    v_choice(v, FP(at, "scope"), json_get(ref, "scope"), ONE_OF("Cluster", "Namespace"));
    if (str_eq(scope, "Namespace")) {
        if (!ns)
            v_required(v, FP(at, "namespace"), "`parameters.scope` is set to 'Namespace'");
        else
            v_label1123(v, FP(at, "namespace"), json_get(ref, "namespace"));
    } else if (str_eq(scope, "Cluster") && ns) {
        v_forbidden(v, FP(at, "namespace"), "`parameters.scope` is set to 'Cluster'");
    }
}

/* ---- IPAddress, ServiceCIDR ---- */

VALIDATE_FN(ip_address) {
    const struct json *ref = json_at(obj, "spec", "parentRef", NULL);
    const struct fp *sp = FP(NULL, "spec"), *p = FP(sp, "parentRef");
    if (old) v_immutable(v, p, ref, json_at(old, "spec", "parentRef", NULL));
    if (!ref || ref->type == JSON_NULL) {
        v_required(v, p, NULL);
        return;
    }
    static const char *const parts[] = {"resource", "name"};
    for (size_t i = 0; i < 2; i++) {
        const char *s = jstr(ref, parts[i]);
        if (!*s)
            v_required(v, FP(p, parts[i]), NULL);
        else if (is_path_segment(s))
            v_invalid(v, FP(p, parts[i]), json_get(ref, parts[i]), "%s", is_path_segment(s));
    }
    if (*jstr(ref, "group")) v_subdomain(v, FP(p, "group"), json_get(ref, "group"));
    if (*jstr(ref, "namespace") && is_path_segment(jstr(ref, "namespace")))
        v_invalid(v, FP(p, "namespace"), json_get(ref, "namespace"), "%s", is_path_segment(jstr(ref, "namespace")));
}

/* A range may get a second one of the other family; nothing else changes. True when that is all there is to say. */
static bool cidrs_fixed(struct vctx *v, const struct json *list, const struct json *was, const struct fp *p) {
    bool grown = json_len(was) == 1 && json_len(list) == 2;
    if (json_len(list) != json_len(was) && !grown) {
        v_invalid(v, p, list, "field is immutable");
        return true;
    }
    for (size_t i = 0; i < json_len(was); i++)
        if (!json_equal(json_item(list, i), json_item(was, i)))
            v_invalid(v, FPI(p, i), json_item(list, i), "field is immutable");
    return !grown;
}

VALIDATE_FN(service_cidr) {
    const struct json *list = json_at(obj, "spec", "cidrs", NULL), *it;
    const struct fp *p = FP(FP(NULL, "spec"), "cidrs");
    if (old && cidrs_fixed(v, list, json_at(old, "spec", "cidrs", NULL), p)) return;
    if (!json_len(list)) v_required(v, p, "at least one CIDR required");
    if (json_len(list) > 2) v_invalid(v, p, list, "may only hold up to 2 values");
    if (json_len(list) > 2) return;
    int families[2] = {0, -1};
    JSON_FOREACH(it, list) {
        const char *s = str_or_empty(json_as_str(it)), *slash = strchr(s, '/');
        if (is_cidr(s, &families[it_i]) && is_subnet(s, NULL) &&
            is_canonical_ip(arena_strndup(v->a, s, (size_t)(slash - s))))
            continue;
        v_invalid(v, FPI(p, it_i), it, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
    if (families[0] && families[0] == families[1])
        v_invalid(v, p, list, "may specify no more than one IP for each IP family");
}

/* ---- EndpointSlice ---- */

static void slice_address(struct vctx *v, const struct json *a, const char *type, const struct fp *p) {
    const char *s = str_or_empty(json_as_str(a));
    int family = 0;
    bool six = str_eq(type, "IPv6");
    if (str_eq(type, "FQDN")) {
        if (!*s)
            v_required(v, p, NULL);
        else if (is_fqdn(s))
            v_invalid(v, p, a, "%s", is_fqdn(s));
        return;
    }
    if (is_own_ip(s, NULL) && six && !is_canonical_ip(s)) {
        v_invalid(v, p, a, "must be in canonical form (\"%s\")", ip_canonical(v->a, s));
        return;
    }
    if (is_own_ip(s, &family) && family != (six ? 6 : 4)) /* upstream names the list only */
        v_invalid(v, p->up, a, "must be an %s address", type);
    validate_endpoint_ip(v, p, a);
}

/* No name twice. */
static void hint_names(struct vctx *v, const struct json *list, const struct fp *p) {
    const struct json *it;
    JSON_FOREACH(it, list)
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(list, j), "name"), jstr(it, "name"))) {
                v_duplicate(v, FP(FPI(p, it_i), "name"), json_get(it, "name"));
                break;
            }
}

VALIDATE_FN(endpoint_slice) {
    const struct json *it, *a, *list = json_get(obj, "endpoints"), *ports = json_get(obj, "ports");
    const char *type = jstr(obj, "addressType");
    v_enum(v, FP(NULL, "addressType"), json_get(obj, "addressType"), ONE_OF("FQDN", "IPv4", "IPv6"), true);
    if (json_len(list) > ENDPOINTS_MAX) v_too_many(v, FP(NULL, "endpoints"), json_len(list), ENDPOINTS_MAX);
    JSON_FOREACH(it, str_in(type, ONE_OF("FQDN", "IPv4", "IPv6")) ? list : NULL) {
        const struct fp *p = FPI(FP(NULL, "endpoints"), it_i);
        const struct json *addrs = json_get(it, "addresses");
        const struct json *hint;
        if (!json_len(addrs)) v_required(v, FP(p, "addresses"), "must contain at least 1 address");
        if (json_len(addrs) > ENDPOINT_ADDRESSES_MAX)
            v_too_many(v, FP(p, "addresses"), json_len(addrs), ENDPOINT_ADDRESSES_MAX);
        JSON_FOREACH(a, addrs) slice_address(v, a, type, FPI(FP(p, "addresses"), a_i));
        if (jget(it, "hostname")) v_label1123(v, FP(p, "hostname"), json_get(it, "hostname"));
        if (jget(it, "nodeName")) v_subdomain(v, FP(p, "nodeName"), json_get(it, "nodeName"));
        hint_names(v, json_at(it, "hints", "forZones", NULL), FP(FP(p, "hints"), "forZones"));
        hint_names(v, json_at(it, "hints", "forNodes", NULL), FP(FP(p, "hints"), "forNodes"));
        JSON_FOREACH(hint, json_at(it, "hints", "forZones", NULL))
            for (size_t n = label_value_faults(jstr(hint, "name")); n; n--)
                v_invalid(v, FP(FPI(FP(FP(p, "hints"), "forZones"), hint_i), "name"), json_get(hint, "name"), "%s",
                          is_label_value(jstr(hint, "name")));
        JSON_FOREACH(hint, json_at(it, "hints", "forNodes", NULL))
            v_subdomain(v, FP(FPI(FP(FP(p, "hints"), "forNodes"), hint_i), "name"), json_str(v->a, jstr(hint, "name")));
    }
    if (str_eq(type, "FQDN") && !old) rules_warn(v->c, "spec.addressType: FQDN endpoints are deprecated");
    if (json_len(ports) > SLICE_PORTS_MAX) v_too_many(v, FP(NULL, "ports"), json_len(ports), SLICE_PORTS_MAX);
    JSON_FOREACH(it, ports) {
        const struct fp *p = FPI(FP(NULL, "ports"), it_i);
        const char *name = jstr(it, "name"), *app = jstr(it, "appProtocol");
        if (*name) v_label1123(v, FP(p, "name"), json_get(it, "name"));
        for (size_t j = 0; j < it_i; j++)
            if (str_eq(jstr(json_item(ports, j), "name"), name)) {
                v_duplicate(v, FP(p, "name"), json_get(it, "name"));
                break;
            }
        v_choice(v, FP(p, "protocol"), json_get(it, "protocol"), ONE_OF("SCTP", "TCP", "UDP"));
        if (jget(it, "appProtocol")) v_label_name(v, FP(p, "appProtocol"), app);
    }
    if (old) v_immutable(v, FP(NULL, "addressType"), json_get(obj, "addressType"), json_get(old, "addressType"));
}
