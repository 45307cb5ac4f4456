#include "dns/zone.h"

#include <arpa/inet.h>

#include "pkg/api/core.h"
#include "pkg/api/discovery.h"

struct zone {
    char *domain;
    uint32_t ttl;
    struct informer *services, *slices, *namespaces;
    int slices_by_service, slices_by_ip, services_by_ip;
};

enum { LABELS_MAX = 10, RECORDS_MAX = 512 };

/* ---- indices ---- */

static void slice_service(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const char *svc = str_map_get(&o->meta->labels, "kubernetes.io/service-name");
    if (!svc) return;
    char key[DNS_NAME_MAX * 2];
    snprintf(key, sizeof(key), "%s/%s", str_or_empty(o->meta->namespace), svc);
    emit(ctx, key);
}

static void slice_ips(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct discovery_endpoint_slice *s = o->obj;
    for (size_t i = 0; i < s->endpoints.n; i++)
        for (size_t k = 0; k < s->endpoints.items[i].addresses.n; k++)
            emit(ctx, s->endpoints.items[i].addresses.items[k]);
}

static bool is_headless(const struct core_service *s) { return str_eq(s->spec.cluster_ip, "None"); }

static void service_ips(const struct object *o, informer_emit_fn *emit, void *ctx) {
    const struct core_service *s = o->obj;
    if (str_empty(s->spec.cluster_ip) || is_headless(s)) return;
    if (!s->spec.cluster_ips.n) emit(ctx, s->spec.cluster_ip);
    for (size_t i = 0; i < s->spec.cluster_ips.n; i++) emit(ctx, s->spec.cluster_ips.items[i]);
}

struct zone *zone_new(struct client *c, const char *domain, uint32_t ttl) {
    struct zone *z = xcalloc(1, sizeof(*z));
    z->domain = xstrdup(domain);
    z->ttl = ttl;
    z->services = informer_new(c, &client_services, NULL);
    z->slices = informer_new(c, &client_endpointslices, NULL);
    z->namespaces = informer_new(c, &client_namespaces, NULL);
    z->services_by_ip = informer_add_index(z->services, service_ips);
    z->slices_by_service = informer_add_index(z->slices, slice_service);
    z->slices_by_ip = informer_add_index(z->slices, slice_ips);
    return z;
}

void zone_free(struct zone *z) {
    if (!z) return;
    informer_free(z->services);
    informer_free(z->slices);
    informer_free(z->namespaces);
    free(z->domain);
    free(z);
}

bool zone_synced(struct zone *z) {
    return informer_synced(z->services) && informer_synced(z->slices) && informer_synced(z->namespaces);
}

/* ---- a question being answered ---- */

struct answer {
    struct zone *z;
    const struct dns_query *q;
    struct dns_reply *r;
    bool exists;  /* the name has records of some type, or names below it */
    char *target; /* of a CNAME to follow */
};

static bool wants(const struct answer *w, enum dns_type t) { return w->q->type == t || w->q->type == DNS_ANY; }

static bool is_v6(const char *ip) { return strchr(ip, ':') != NULL; }

static void add_address(struct answer *w, const char *name, const char *ip) {
    w->exists = true;
    if (w->r->answers < RECORDS_MAX && wants(w, is_v6(ip) ? DNS_AAAA : DNS_A))
        dns_reply_addr(w->r, name, ip, w->z->ttl);
}

/* "10.1.2.3" as "10-1-2-3": the hostname of an endpoint (or pod) that has none. */
static void dashed(const char *ip, char out[64]) {
    snprintf(out, 64, "%s", ip);
    for (char *s = out; *s; s++)
        if (*s == '.' || *s == ':') *s = '-';
}

static void endpoint_host(const struct discovery_endpoint *ep, const char *ip, char out[64]) {
    if (str_empty(ep->hostname))
        dashed(ip, out);
    else
        snprintf(out, 64, "%s", ep->hostname);
}

static bool endpoint_ready(const struct discovery_endpoint *ep) {
    return !ep->conditions.ready || *ep->conditions.ready;
}

/* Calls fn for each address of a ready endpoint of the service, once. */
typedef void endpoint_fn(struct answer *w, const struct discovery_endpoint_slice *s,
                         const struct discovery_endpoint *ep, const char *ip, void *arg);
static void each_endpoint(struct answer *w, const char *ns, const char *svc, endpoint_fn *fn, void *arg) {
    char key[DNS_NAME_MAX * 2];
    snprintf(key, sizeof(key), "%s/%s", ns, svc);
    _cleanup_object_list_ struct object_list slices = {0};
    informer_by_index(w->z->slices, w->z->slices_by_service, key, &slices);
    for (size_t i = 0; i < slices.n; i++) {
        const struct discovery_endpoint_slice *s = slices.items[i]->obj;
        if (str_eq(s->address_type, "FQDN")) continue;
        for (size_t k = 0; k < s->endpoints.n; k++) {
            const struct discovery_endpoint *ep = &s->endpoints.items[k];
            if (!endpoint_ready(ep)) continue;
            for (size_t j = 0; j < ep->addresses.n; j++) fn(w, s, ep, ep->addresses.items[j], arg);
        }
    }
}

static void all_addresses(struct answer *w, const struct discovery_endpoint_slice *s,
                          const struct discovery_endpoint *ep, const char *ip, void *arg) {
    add_address(w, w->q->name, ip);
}

static void address_of_host(struct answer *w, const struct discovery_endpoint_slice *s,
                            const struct discovery_endpoint *ep, const char *ip, void *arg) {
    char host[64];
    endpoint_host(ep, ip, host);
    if (strcmp(host, arg) == 0) add_address(w, w->q->name, ip);
}

struct srv_want {
    const char *port, *proto, *suffix; /* suffix: "svc.ns.svc.zone" */
};

static void srv_of_endpoint(struct answer *w, const struct discovery_endpoint_slice *s,
                            const struct discovery_endpoint *ep, const char *ip, void *arg) {
    const struct srv_want *want = arg;
    for (size_t i = 0; i < s->ports.n; i++) {
        const struct discovery_endpoint_port *p = &s->ports.items[i];
        if (!p->port || !str_eq(str_or_empty(p->name), want->port) ||
            strcasecmp(p->protocol ? p->protocol : "TCP", want->proto) != 0)
            continue;
        char host[64], target[DNS_NAME_MAX + 64];
        endpoint_host(ep, ip, host);
        snprintf(target, sizeof(target), "%s.%s", host, want->suffix);
        w->exists = true;
        if (wants(w, DNS_SRV)) dns_reply_srv(w->r, w->q->name, 0, 100, (uint16_t)*p->port, target, w->z->ttl);
    }
}

static void srv_of_service(struct answer *w, const struct core_service *s, const struct srv_want *want) {
    for (size_t i = 0; i < s->spec.ports.n; i++) {
        const struct core_service_port *p = &s->spec.ports.items[i];
        if (!str_eq(str_or_empty(p->name), want->port) ||
            strcasecmp(p->protocol ? p->protocol : "TCP", want->proto) != 0)
            continue;
        w->exists = true;
        if (wants(w, DNS_SRV)) dns_reply_srv(w->r, w->q->name, 0, 100, (uint16_t)p->port, want->suffix, w->z->ttl);
    }
}

static void external_name(struct answer *w, const struct core_service *s) {
    w->exists = true;
    char host[DNS_NAME_MAX];
    snprintf(host, sizeof(host), "%s", str_or_empty(s->spec.external_name));
    size_t n = strlen(host);
    if (n && host[n - 1] == '.') host[n - 1] = 0;
    dns_reply_name(w->r, w->q->name, DNS_CNAME, host, w->z->ttl);
    if (w->q->type != DNS_CNAME) snprintf(w->target, DNS_NAME_MAX, "%s", host);
}

static void service_itself(struct answer *w, const struct core_service *s, const char *ns, const char *svc) {
    w->exists = true;
    if (str_eq(s->spec.type, "ExternalName")) {
        external_name(w, s);
    } else if (is_headless(s)) {
        each_endpoint(w, ns, svc, all_addresses, NULL);
        /* a headless service without ready endpoints has no name of its own */
        if (!w->r->answers && w->q->type != DNS_AAAA && w->q->type != DNS_A) return;
    } else if (s->spec.cluster_ips.n) {
        for (size_t i = 0; i < s->spec.cluster_ips.n; i++) add_address(w, w->q->name, s->spec.cluster_ips.items[i]);
    } else if (!str_empty(s->spec.cluster_ip)) {
        add_address(w, w->q->name, s->spec.cluster_ip);
    }
}

/* labels[0..n): what stands before ".svc.ZONE", in the order of the name. */
static void answer_service(struct answer *w, char **labels, size_t n) {
    const char *ns = labels[n - 1];
    _cleanup_object_ struct object *nso = informer_get(w->z->namespaces, ns);
    if (n == 1) {
        w->exists = nso != NULL;
        return;
    }
    _cleanup_object_ struct object *o = informer_get_ns(w->z->services, ns, labels[n - 2]);
    if (!o) return;
    const struct core_service *s = o->obj;
    char suffix[DNS_NAME_MAX * 2];
    snprintf(suffix, sizeof(suffix), "%s.%s.svc.%s", labels[n - 2], ns, w->z->domain);
    if (n == 2) {
        service_itself(w, s, ns, labels[1 - 1]);
    } else if (n == 4 && labels[0][0] == '_' && labels[1][0] == '_') {
        struct srv_want want = {labels[0] + 1, labels[1] + 1, suffix};
        if (is_headless(s))
            each_endpoint(w, ns, labels[2], srv_of_endpoint, &want);
        else
            srv_of_service(w, s, &want);
    } else if (n == 3 && labels[0][0] == '_') {
        w->exists = true; /* the middle of an SRV name */
    } else if (n == 3 && is_headless(s)) {
        each_endpoint(w, ns, labels[1], address_of_host, labels[0]);
    }
}

static void answer_pod(struct answer *w, char **labels, size_t n) {
    _cleanup_object_ struct object *nso = informer_get(w->z->namespaces, labels[n - 1]);
    if (!nso) return;
    if (n == 1) {
        w->exists = true;
        return;
    }
    if (n != 2) return;
    char ip[64];
    uint8_t raw[16];
    snprintf(ip, sizeof(ip), "%s", labels[0]);
    for (char *s = ip; *s; s++)
        if (*s == '-') *s = '.';
    if (inet_pton(AF_INET, ip, raw) == 1) {
        add_address(w, w->q->name, ip);
        return;
    }
    snprintf(ip, sizeof(ip), "%s", labels[0]);
    for (char *s = ip; *s; s++)
        if (*s == '-') *s = ':';
    if (inet_pton(AF_INET6, ip, raw) == 1) add_address(w, w->q->name, ip);
}

/* The address in "4.3.2.1.in-addr.arpa" or the nibbles of ip6.arpa; false when the name is neither. */
static bool reverse_address(const char *name, char ip[INET6_ADDRSTRLEN]) {
    size_t len = strlen(name);
    if (str_has_suffix(name, ".in-addr.arpa")) {
        unsigned b[4];
        char end;
        if (sscanf(name, "%3u.%3u.%3u.%3u.in-addr.arp%c", &b[3], &b[2], &b[1], &b[0], &end) != 5) return false;
        if (b[0] > 255 || b[1] > 255 || b[2] > 255 || b[3] > 255) return false;
        snprintf(ip, INET6_ADDRSTRLEN, "%u.%u.%u.%u", b[0], b[1], b[2], b[3]);
        return true;
    }
    if (!str_has_suffix(name, ".ip6.arpa") || len != 72) return false;
    uint8_t raw[16] = {0};
    for (int i = 0; i < 32; i++) {
        char c = name[2 * i];
        int v = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
        if (v < 0 || name[2 * i + 1] != '.') return false;
        raw[15 - i / 2] = (uint8_t)(raw[15 - i / 2] | (i % 2 ? v << 4 : v));
    }
    return inet_ntop(AF_INET6, raw, ip, INET6_ADDRSTRLEN) != NULL;
}

static void answer_reverse(struct answer *w, const char *ip) {
    char name[DNS_NAME_MAX * 2];
    _cleanup_object_list_ struct object_list found = {0};
    informer_by_index(w->z->services, w->z->services_by_ip, ip, &found);
    for (size_t i = 0; i < found.n; i++) {
        w->exists = true;
        snprintf(name, sizeof(name), "%s.%s.svc.%s", found.items[i]->meta->name, found.items[i]->meta->namespace,
                 w->z->domain);
        if (wants(w, DNS_PTR)) dns_reply_name(w->r, w->q->name, DNS_PTR, name, w->z->ttl);
    }
    if (w->exists) return;
    _cleanup_object_list_ struct object_list slices = {0};
    informer_by_index(w->z->slices, w->z->slices_by_ip, ip, &slices);
    for (size_t i = 0; i < slices.n; i++) {
        const struct discovery_endpoint_slice *s = slices.items[i]->obj;
        const char *svc = str_map_get(&s->metadata.labels, "kubernetes.io/service-name");
        if (!svc || !str_map_get(&s->metadata.labels, "service.kubernetes.io/headless")) continue;
        for (size_t k = 0; k < s->endpoints.n; k++) {
            const struct discovery_endpoint *ep = &s->endpoints.items[k];
            for (size_t j = 0; j < ep->addresses.n; j++) {
                if (!str_eq(ep->addresses.items[j], ip)) continue;
                char host[64];
                endpoint_host(ep, ip, host);
                snprintf(name, sizeof(name), "%s.%s.%s.svc.%s", host, svc, s->metadata.namespace, w->z->domain);
                w->exists = true;
                if (wants(w, DNS_PTR)) dns_reply_name(w->r, w->q->name, DNS_PTR, name, w->z->ttl);
            }
        }
    }
}

/* Splits in place; the number of labels, or 0 when there are too many. */
static size_t split_labels(char *name, char **labels) {
    size_t n = 0;
    for (char *s = name; s;) {
        if (n == LABELS_MAX) return 0;
        labels[n++] = s;
        s = strchr(s, '.');
        if (s) *s++ = 0;
    }
    return n;
}

/* True when the name is in the zone; *rest is its part before the zone ("" for the zone itself). */
static bool in_zone(const struct zone *z, const char *name, char rest[DNS_NAME_MAX]) {
    size_t n = strlen(name), m = strlen(z->domain);
    if (n < m || strcmp(name + n - m, z->domain) != 0) return false;
    if (n > m && name[n - m - 1] != '.') return false;
    snprintf(rest, DNS_NAME_MAX, "%.*s", (int)(n > m ? n - m - 1 : 0), name);
    return true;
}

static void answer_in_zone(struct answer *w, char *rest) {
    char *labels[LABELS_MAX];
    size_t n = *rest ? split_labels(rest, labels) : 0;
    if (!*rest && !n) {
        w->exists = true;
        return;
    }
    if (n == 1 && strcmp(labels[0], "dns-version") == 0) {
        w->exists = true;
        if (wants(w, DNS_TXT)) dns_reply_txt(w->r, w->q->name, "1.1.0", w->z->ttl);
    } else if (n >= 1 && strcmp(labels[n - 1], "svc") == 0) {
        if (n == 1)
            w->exists = true;
        else
            answer_service(w, labels, n - 1);
    } else if (n >= 1 && strcmp(labels[n - 1], "pod") == 0) {
        if (n == 1)
            w->exists = true;
        else
            answer_pod(w, labels, n - 1);
    }
}

enum zone_result zone_answer(struct zone *z, const struct dns_query *q, struct dns_reply *r, size_t *len,
                             char target[DNS_NAME_MAX]) {
    struct answer w = {.z = z, .q = q, .r = r, .target = target};
    char rest[DNS_NAME_MAX], ip[INET6_ADDRSTRLEN];
    target[0] = 0;
    if (in_zone(z, q->name, rest)) {
        answer_in_zone(&w, rest);
    } else if (reverse_address(q->name, ip)) {
        answer_reverse(&w, ip);
        if (!w.exists) return ZONE_NOT_OURS;
    } else {
        return ZONE_NOT_OURS;
    }
    if (target[0]) return ZONE_CNAME_FOLLOWS;
    if (!r->answers) dns_reply_soa(r, z->domain, z->ttl);
    *len = dns_reply_end(r, q, w.exists ? DNS_NOERROR : DNS_NXDOMAIN, true);
    return ZONE_ANSWERED;
}
