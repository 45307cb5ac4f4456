/* The fields of a Service that hang together: clusterIP and clusterIPs, ipFamilies and ipFamilyPolicy, node ports and
 * the type. A write takes what the stored object had and the client did not say, works out the families, and only then
 * claims addresses and ports (alloc.c); what the type has no use for goes before validation.
 *
 * The cluster has one family, IPv4: a Service of two is refused, but for headless ones without a selector, which name
 * both families whatever the cluster has.
 *
 * Upstream: patchAllocatedValues and normalizeClusterIPs (storage.go), initIPFamilyFields (alloc.go) and
 * dropTypeDependentFields (strategy.go) of pkg/registry/core/service. */
#include "apiserver/rules/alloc.h"
#include "apiserver/rules/kinds.h"

static bool has_ip(const struct json *spec) { return spec && !str_eq(jstr(spec, "type"), "ExternalName"); }
static bool has_ports(const struct json *spec) {
    return str_in(jstr(spec, "type"), ONE_OF("NodePort", "LoadBalancer"));
}

bool service_wants_health_port(const struct json *spec) {
    return str_eq(jstr(spec, "type"), "LoadBalancer") && str_eq(jstr(spec, "externalTrafficPolicy"), "Local");
}

static void copy_member(struct arena *a, struct json *spec, const struct json *was, const char *key) {
    json_del(spec, key);
    if (jget(was, key)) json_set(a, spec, key, json_clone(a, json_get(was, key)));
}

/* ---- what an update carries over ---- */

/* Both the stored and the new Service have a port with this node port. */
static bool port_in_both(const struct json *spec, const struct json *was, int64_t port) {
    const struct json *p;
    bool now = false, before = false;
    JSON_FOREACH(p, json_get(spec, "ports")) now |= json_get_int(p, "nodePort", 0) == port;
    JSON_FOREACH(p, json_get(was, "ports")) before |= json_get_int(p, "nodePort", 0) == port;
    return now && before;
}

/* By the ports' names: whatever else changed of them. */
static void carry_ports(struct arena *a, struct json *spec, const struct json *was) {
    const struct json *said = json_clone(a, spec), *o;
    struct json *p;
    JSON_FOREACH(p, json_get(spec, "ports")) {
        int64_t had = 0;
        if (json_get_int(p, "nodePort", 0)) continue;
        JSON_FOREACH(o, json_get(was, "ports"))
            if (str_eq(jstr(o, "name"), jstr(p, "name"))) had = json_get_int(o, "nodePort", 0);
        if (had && !port_in_both(said, was, had)) json_set_int(a, p, "nodePort", had);
    }
}

/* A client may know clusterIP alone: the list follows. */
static void normalise_ips(struct arena *a, struct json *spec, const struct json *was) {
    const struct json *ips = json_get(spec, "clusterIPs"), *old_ips = json_get(was, "clusterIPs");
    const char *ip = jstr(spec, "clusterIP"), *old_ip = jstr(was, "clusterIP");
    bool same = jsame(ips, old_ips);
    if (!was ? !*ip || json_len(ips) : str_eq(ip, old_ip) ? json_len(ips) || !json_len(old_ips) : !same) return;
    if (was && str_eq(ip, old_ip)) {
        copy_member(a, spec, was, "clusterIPs");
        return;
    }
    json_del(spec, "clusterIPs");
    if (*ip) json_append(a, json_ensure_array(a, spec, "clusterIPs"), json_str(a, ip));
}

void service_carry(struct arena *a, struct json *spec, const struct json *was) {
    if (has_ip(was) && has_ip(spec)) {
        if (!*jstr(spec, "clusterIP")) copy_member(a, spec, was, "clusterIP");
        if (!json_len(json_get(spec, "clusterIPs")) && json_len(json_get(was, "clusterIPs")))
            copy_member(a, spec, was, "clusterIPs");
    }
    if (has_ports(was) && has_ports(spec)) carry_ports(a, spec, was);
    if (was && service_wants_health_port(was) && service_wants_health_port(spec) &&
        !json_get_int(spec, "healthCheckNodePort", 0))
        copy_member(a, spec, was, "healthCheckNodePort");
    normalise_ips(a, spec, was);
}

/* ---- families ---- */

static bool headless(const struct json *spec) { return str_eq(jstr(spec, "clusterIP"), "None"); }

static bool prefers_two(const struct json *spec) {
    const struct json *policy = jget(spec, "ipFamilyPolicy");
    return !policy || str_eq(json_as_str(policy), "PreferDualStack");
}

/* Such a Service follows the cluster only when somebody changes what it says. */
static bool left_alone(const struct json *spec, const struct json *was) {
    return was && jget(spec, "ipFamilyPolicy") && str_eq(jstr(spec, "type"), jstr(was, "type")) && has_ip(spec) &&
           prefers_two(spec) && prefers_two(was) && jsame(json_get(spec, "clusterIPs"), json_get(was, "clusterIPs")) &&
           jsame(json_get(spec, "ipFamilies"), json_get(was, "ipFamilies"));
}

static void default_policy(struct arena *a, struct json *spec, const struct json *was) {
    if (jget(spec, "ipFamilyPolicy")) return;
    if (jget(was, "ipFamilyPolicy")) {
        copy_member(a, spec, was, "ipFamilyPolicy");
        return;
    }
    bool both = headless(spec) && !json_len(json_get(spec, "selector"));
    json_set_str(a, spec, "ipFamilyPolicy", both ? "RequireDualStack" : "SingleStack");
}

/* How many addresses and families there are fits the policy. */
static void check_counts(struct vctx *v, struct json *spec, const struct json *was, const struct fp *sp) {
    static const char *const lists[] = {"clusterIPs", "ipFamilies"};
    const struct json *policy = json_get(spec, "ipFamilyPolicy");
    bool single = str_eq(json_as_str(policy), "SingleStack");
    for (size_t i = 0; was && i < ARRAY_LEN(lists); i++) {
        struct json *now = json_get(spec, lists[i]);
        const struct json *before = json_get(was, lists[i]);
        if (single && jsame(now, before))
            while (json_len(now) > 1) json_del_at(now, json_len(now) - 1);
        else if (!single && json_len(now) && json_len(now) < json_len(before))
            v_invalid(v, FP(sp, "ipFamilyPolicy"), policy, "must be 'SingleStack' to release what is the second one");
    }
    for (size_t i = 0; single && i < ARRAY_LEN(lists); i++)
        if (json_len(json_get(spec, lists[i])) == 2)
            v_invalid(v, FP(sp, "ipFamilyPolicy"), policy,
                      "must be 'RequireDualStack' or 'PreferDualStack' when there are two of %s", lists[i]);
}

static void infer_families(struct vctx *v, struct json *spec, const struct fp *sp) {
    const struct json *ips = json_get(spec, "clusterIPs"), *it;
    JSON_FOREACH(it, ips) {
        if (str_eq(json_as_str(it), "None")) return;
        if (it_i < json_len(json_get(spec, "ipFamilies"))) continue;
        if (strchr(str_or_empty(json_as_str(it)), ':'))
            v_invalid(v, FPI(FP(sp, "clusterIPs"), it_i), ips, "IPv6 is not configured on this cluster");
        else
            json_append(v->a, json_ensure_array(v->a, spec, "ipFamilies"), json_str(v->a, "IPv4"));
    }
}

static void both_families(struct arena *a, struct json *spec) {
    struct json *list = json_ensure_array(a, spec, "ipFamilies");
    if (!json_len(list)) json_append(a, list, json_str(a, "IPv4"));
    if (json_len(list) > 1 || str_eq(jstr(spec, "ipFamilyPolicy"), "SingleStack")) return;
    bool four = str_eq(json_as_str(json_item(list, 0)), "IPv4");
    json_append(a, list, json_str(a, four ? "IPv6" : "IPv4"));
}

void service_families(struct vctx *v, struct json *spec, const struct json *was) {
    const struct fp *sp = FP(NULL, "spec");
    const struct json *f;
    if (!has_ip(spec) || left_alone(spec, was)) return;
    default_policy(v->a, spec, was);
    validate_service_addresses(v, spec, was, sp);
    if (v->n) return;
    check_counts(v, spec, was, sp);
    infer_families(v, spec, sp);
    if (v->n) return;
    if (headless(spec) && !json_len(json_get(spec, "selector"))) {
        both_families(v->a, spec);
        return;
    }
    if (str_eq(jstr(spec, "ipFamilyPolicy"), "RequireDualStack"))
        v_invalid(v, FP(sp, "ipFamilyPolicy"), json_get(spec, "ipFamilyPolicy"),
                  "this cluster is not configured for dual-stack services");
    JSON_FOREACH(f, json_get(spec, "ipFamilies"))
        if (!str_eq(json_as_str(f), "IPv4"))
            v_invalid(v, FPI(FP(sp, "ipFamilies"), f_i), f, "not configured on this cluster");
    if (!v->n && !json_len(json_get(spec, "ipFamilies")))
        json_append(v->a, json_ensure_array(v->a, spec, "ipFamilies"), json_str(v->a, "IPv4"));
}

/* ---- what follows the type ---- */

static bool open_outside(const struct json *spec) {
    return has_ports(spec) || (str_eq(jstr(spec, "type"), "ClusterIP") && json_len(json_get(spec, "externalIPs")));
}

static bool same_ports(const struct json *spec, const struct json *was) {
    const struct json *p, *o;
    size_t n = 0;
    JSON_FOREACH(p, json_get(spec, "ports")) {
        int64_t port = json_get_int(p, "nodePort", 0);
        bool had = !port;
        JSON_FOREACH(o, json_get(was, "ports")) had |= json_get_int(o, "nodePort", 0) == port;
        if (!had) return false;
        n += port != 0;
    }
    JSON_FOREACH(o, json_get(was, "ports")) n -= json_get_int(o, "nodePort", 0) != 0;
    return n == 0;
}

static void drop_same(struct json *spec, const struct json *was, const char *key) {
    if (jsame(json_get(spec, key), json_get(was, key))) json_del(spec, key);
}

void service_drop(struct arena *a, struct json *obj, const struct json *old) {
    struct json *spec = json_get(obj, "spec"), *p;
    const struct json *was = json_get(old, "spec");
    if (!old) return;
    if (has_ip(was) && !has_ip(spec)) {
        if (str_eq(jstr(spec, "clusterIP"), jstr(was, "clusterIP")) &&
            jsame(json_get(spec, "clusterIPs"), json_get(was, "clusterIPs")))
            json_del(spec, "clusterIP"), json_del(spec, "clusterIPs");
        drop_same(spec, was, "ipFamilies");
        drop_same(spec, was, "ipFamilyPolicy");
    }
    if (has_ports(was) && !has_ports(spec) && same_ports(spec, was))
        JSON_FOREACH(p, json_get(spec, "ports")) json_del(p, "nodePort");
    if (service_wants_health_port(was) && !service_wants_health_port(spec)) drop_same(spec, was, "healthCheckNodePort");
    if (str_eq(jstr(was, "type"), "LoadBalancer") && !str_eq(jstr(spec, "type"), "LoadBalancer")) {
        drop_same(spec, was, "allocateLoadBalancerNodePorts");
        drop_same(spec, was, "loadBalancerClass");
    }
    if (open_outside(was) && !open_outside(spec)) drop_same(spec, was, "externalTrafficPolicy");
    if (!str_eq(jstr(spec, "type"), "LoadBalancer") && jget(obj, "status"))
        json_set(a, json_get(obj, "status"), "loadBalancer", json_object(a));
}

/* Checked, but not kept. */
void finish_service(struct rules_ctx *c, struct json *obj, const struct json *old) {
    (void)c, (void)old;
    struct json *spec = json_get(obj, "spec");
    if (!has_ip(spec)) json_del(spec, "internalTrafficPolicy");
}
