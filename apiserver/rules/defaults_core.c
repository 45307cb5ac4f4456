/* Defaults of core/v1 but pods. Upstream: pkg/apis/core/v1/defaults.go. */
#include "apiserver/rules/kinds.h"
#include "pkg/base/bytes.h"

void sync_one_and_many(struct arena *a, struct json *o, const char *one, const char *many, const char *member) {
    struct json *list = jget(o, many), *first = json_item(list, 0);
    const char *s = jstr(o, one);
    if (!json_len(list) && *s) {
        struct json *item = json_str(a, s);
        if (member) {
            struct json *wrap = json_object(a);
            json_set(a, wrap, member, item);
            item = wrap;
        }
        json_append(a, json_ensure_array(a, o, many), item);
    } else if (json_len(list) && !*s) {
        const char *v = member ? json_get_str(first, member) : json_as_str(first);
        if (!str_empty(v)) json_set_str(a, o, one, v);
    }
}

DEFAULTS_FN(replication_controller) {
    struct json *spec = json_ensure_object(c->a, obj, "spec"), *tmpl = jget(spec, "template");
    default_pod_template(c, tmpl);
    struct json *labels = json_at(tmpl, "metadata", "labels", NULL);
    if (json_len(labels)) {
        if (!json_len(json_get(spec, "selector"))) json_set(c->a, spec, "selector", json_clone(c->a, labels));
        struct json *meta = json_ensure_object(c->a, obj, "metadata");
        if (!json_len(json_get(meta, "labels"))) json_set(c->a, meta, "labels", json_clone(c->a, labels));
    }
    def_int(c->a, spec, "replicas", 1);
    if (json_get_int(spec, "minReadySeconds", 1) == 0) json_del(spec, "minReadySeconds");
}

static bool externally_accessible(const struct json *spec) {
    const char *type = jstr(spec, "type");
    return str_eq(type, "LoadBalancer") || str_eq(type, "NodePort") ||
           (str_eq(type, "ClusterIP") && json_len(json_get(spec, "externalIPs")));
}

static void default_service_ports(struct arena *a, struct json *ports) {
    struct json *p;
    JSON_FOREACH(p, ports) {
        def_str(a, p, "protocol", "TCP");
        const struct json *target = json_get(p, "targetPort");
        if (jempty(target)) json_set_int(a, p, "targetPort", json_get_int(p, "port", 0));
    }
}

DEFAULTS_FN(service) {
    struct arena *a = c->a;
    struct json *spec = json_ensure_object(a, obj, "spec"), *ing;
    def_str(a, spec, "sessionAffinity", "None");
    if (str_eq(jstr(spec, "sessionAffinity"), "None")) json_del(spec, "sessionAffinityConfig");
    if (str_eq(jstr(spec, "sessionAffinity"), "ClientIP") &&
        !jget(json_at(spec, "sessionAffinityConfig", "clientIP", NULL), "timeoutSeconds")) {
        struct json *conf = json_set(a, spec, "sessionAffinityConfig", json_object(a));
        json_set_int(a, json_ensure_object(a, conf, "clientIP"), "timeoutSeconds", 10800);
    }
    def_str(a, spec, "type", "ClusterIP");
    const char *type = jstr(spec, "type");
    default_service_ports(a, json_get(spec, "ports"));
    if (externally_accessible(spec)) def_str(a, spec, "externalTrafficPolicy", "Cluster");
    if (str_in(type, ONE_OF("NodePort", "LoadBalancer", "ClusterIP")))
        def_ptr(a, spec, "internalTrafficPolicy", "Cluster");
    if (!str_eq(type, "LoadBalancer")) return;
    def_bool(a, spec, "allocateLoadBalancerNodePorts", true);
    JSON_FOREACH(ing, json_at(obj, "status", "loadBalancer", "ingress", NULL))
        if (!str_empty(json_get_str(ing, "ip"))) def_str(a, ing, "ipMode", "VIP");
}

/* In a tree U+0000 is C0 80, so that strings end where they end. Gives the number of bytes. */
static size_t bytes_of_text(char *s) {
    char *to = s;
    for (const char *from = s; *from; to++) {
        bool zero = (uint8_t)from[0] == 0xc0 && (uint8_t)from[1] == 0x80;
        *to = zero ? '\0' : *from;
        from += zero ? 2 : 1;
    }
    return (size_t)(to - s);
}

/* stringData is a way in only: its entries become data (base64). */
DEFAULTS_FN(secret) {
    const struct json *plain = jget(obj, "stringData");
    def_str(c->a, obj, "type", "Opaque");
    if (!json_len(plain)) {
        json_del(obj, "stringData");
        return;
    }
    struct json *data = json_ensure_object(c->a, obj, "data");
    JSON_FOREACH_MEMBER(m, plain) {
        char *s = arena_strdup(c->a, str_or_empty(json_as_str(m->value)));
        size_t n = bytes_of_text(s);
        char *text = arena_alloc(c->a, base64_encoded_len(n) + 1);
        base64_encode(s, n, text);
        json_set_str(c->a, data, m->key, text);
    }
    json_sort_keys(data, false);
    json_del(obj, "stringData");
}

static void default_pv_source(struct arena *a, struct json *spec) {
    struct json *wrap = json_array(a);
    json_append(a, wrap, spec);
    /* a volume's sources carry the same defaults; the spec of a PersistentVolume is never without other
     * members */
    default_volumes(a, wrap);
}

DEFAULTS_FN(persistent_volume) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    def_str(c->a, json_ensure_object(c->a, obj, "status"), "phase", "Pending");
    def_str(c->a, spec, "persistentVolumeReclaimPolicy", "Retain");
    def_ptr(c->a, spec, "volumeMode", "Filesystem");
    default_amounts(c->a, json_get(spec, "capacity"));
    default_pv_source(c->a, spec);
}

DEFAULTS_FN(persistent_volume_claim) {
    struct json *status = json_ensure_object(c->a, obj, "status");
    def_str(c->a, status, "phase", "Pending");
    default_amounts(c->a, json_get(status, "capacity"));
    default_amounts(c->a, json_get(status, "allocatedResources"));
    default_pvc_spec(c->a, json_ensure_object(c->a, obj, "spec"));
}

DEFAULTS_FN(endpoints) {
    struct json *subset, *port;
    JSON_FOREACH(subset, json_get(obj, "subsets"))
        JSON_FOREACH(port, json_get(subset, "ports")) def_str(c->a, port, "protocol", "TCP");
}

DEFAULTS_FN(namespace) {
    struct json *meta = json_ensure_object(c->a, obj, "metadata");
    const char *name = json_get_str(meta, "name");
    if (!str_empty(name))
        json_set_str(c->a, json_ensure_object(c->a, meta, "labels"), "kubernetes.io/metadata.name", name);
    def_str(c->a, json_ensure_object(c->a, obj, "status"), "phase", "Active");
}

DEFAULTS_FN(node) {
    struct json *spec = json_ensure_object(c->a, obj, "spec");
    sync_one_and_many(c->a, spec, "podCIDR", "podCIDRs", NULL);
    const char *cidr = json_get_str(spec, "podCIDR");
    if (!str_empty(cidr) &&
        !str_eq(json_as_str(json_item(json_get(spec, "podCIDRs"), 0)), cidr)) /* the old field wins */
        json_append(c->a, json_set(c->a, spec, "podCIDRs", json_array(c->a)), json_str(c->a, cidr));
    struct json *status = jget(obj, "status"), *capacity = jget(status, "capacity");
    default_amounts(c->a, capacity);
    default_amounts(c->a, json_get(status, "allocatable"));
    if (capacity && !jget(status, "allocatable")) json_set(c->a, status, "allocatable", json_clone(c->a, capacity));
}

static void fill_missing(struct arena *a, struct json *item, const char *into, const char *from) {
    const struct json *src = jget(item, from);
    if (!json_len(src)) return;
    struct json *dst = json_ensure_object(a, item, into);
    JSON_FOREACH_MEMBER(m, src)
        if (!json_get(dst, m->key)) json_set(a, dst, m->key, json_clone(a, m->value));
}

DEFAULTS_FN(limit_range) {
    struct json *item;
    static const char *const lists[] = {"max", "min", "default", "defaultRequest", "maxLimitRequestRatio"};
    JSON_FOREACH(item, json_at(obj, "spec", "limits", NULL)) {
        for (size_t i = 0; i < ARRAY_LEN(lists); i++) default_amounts(c->a, json_get(item, lists[i]));
        if (!str_eq(jstr(item, "type"), "Container")) continue;
        fill_missing(c->a, item, "default", "max");
        fill_missing(c->a, item, "defaultRequest", "default");
        fill_missing(c->a, item, "defaultRequest", "min");
    }
}

DEFAULTS_FN(resource_quota) {
    default_amounts(c->a, json_at(obj, "spec", "hard", NULL));
    default_amounts(c->a, json_at(obj, "status", "hard", NULL));
    default_amounts(c->a, json_at(obj, "status", "used", NULL));
}
