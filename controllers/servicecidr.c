/* Ranges of cluster IPs (upstream pkg/controller/servicecidrs): a ServiceCIDR is made Ready, which lets the API servers
 * give out addresses of it, and keeps its finalizer until no address depends on it. One that is being deleted while
 * addresses do says so in its condition and is looked at again now and then; the others that contain it take its
 * addresses over. Between the deletion and the end there is a while in which API servers that still took it for ready
 * finish what they do. */
#include <arpa/inet.h>

#include "pkg/api/networking.h"
#include "util.h"

#define CIDR_FINALIZER "networking.k8s.io/service-cidr-finalizer"
#define GRACE_NS (10 * NS_PER_SEC)

struct sc_controller {
    struct manager *m;
    struct workqueue *q;
};

struct prefix {
    uint32_t net, mask; /* host order */
};

/* False for IPv6, which no Service has an address of. */
static bool parse(const char *cidr, struct prefix *out) {
    char ip[INET_ADDRSTRLEN];
    struct in_addr in;
    unsigned bits;
    if (sscanf(str_or_empty(cidr), "%15[0-9.]/%u", ip, &bits) != 2 || bits > 32 || inet_pton(AF_INET, ip, &in) != 1)
        return false;
    out->mask = bits ? UINT32_MAX << (32 - bits) : 0;
    out->net = ntohl(in.s_addr) & out->mask;
    return true;
}

static bool contains(const struct prefix *p, uint32_t address) { return (address & p->mask) == p->net; }

/* Whether another range, that stays, has the address (of `len` bits: the whole of such a network). */
static bool elsewhere(struct sc_controller *c, const char *name, const struct prefix *what) {
    _cleanup_object_list_ struct object_list all = {0};
    informer_list(manager_informer(c->m, &client_servicecidrs), NULL, &all);
    for (size_t i = 0; i < all.n; i++) {
        const struct networking_service_cidr *o = all.items[i]->obj;
        struct prefix p;
        if (str_eq(o->metadata.name, name) || o->metadata.deletion_timestamp.set) continue;
        for (size_t k = 0; k < o->spec.cidrs.n; k++)
            if (parse(o->spec.cidrs.items[k], &p) && contains(&p, what->net) && p.mask <= what->mask) return true;
    }
    return false;
}

/* Whether an address that was given out is in the range alone. < 0: the API server cannot be asked. */
static int in_use(struct sc_controller *c, struct arena *a, const struct networking_service_cidr *o, struct err *e) {
    struct client_list ips = {0};
    struct client_list_opts opts = {.label_selector = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io"};
    int r = client_list(c->m->client, a, &client_ipaddresses, NULL, &opts, &ips, e);
    if (r < 0) return r;
    for (size_t k = 0; k < o->spec.cidrs.n; k++) {
        struct prefix p, one = {.mask = UINT32_MAX};
        if (!parse(o->spec.cidrs.items[k], &p) || elsewhere(c, o->metadata.name, &p)) continue;
        for (size_t i = 0; i < ips.n; i++) {
            struct in_addr in;
            if (inet_pton(AF_INET, ((const struct networking_ip_address *)ips.items[i])->metadata.name, &in) != 1)
                continue;
            one.net = ntohl(in.s_addr);
            if (contains(&p, one.net) && !elsewhere(c, o->metadata.name, &one)) return 1;
        }
    }
    return 0;
}

static int set_ready(struct sc_controller *c, struct arena *a, const struct networking_service_cidr *o, bool ready,
                     const char *reason, const char *message, struct err *e) {
    const char *status = ready ? "True" : "False";
    for (size_t i = 0; i < o->status.conditions.n; i++) {
        const struct meta_condition *k = &o->status.conditions.items[i];
        if (str_eq(k->type, "Ready") && str_eq(k->status, status) && str_eq(str_or_empty(k->reason), reason) &&
            str_eq(k->message, message))
            return 0;
    }
    struct meta_condition now = {
        .type = "Ready", .status = status, .reason = reason, .message = message, .last_transition_time = ktime_now_s()};
    struct networking_service_cidr fresh = *o;
    fresh.status.conditions = (struct meta_condition_vec){&now, 1};
    struct client_opts opts = {.cause = o->metadata.resource_version};
    return client_update_status(c->m->client, a, &client_servicecidrs, NULL, &fresh, &opts, NULL, e);
}

static int add_finalizer(struct sc_controller *c, struct arena *a, const struct networking_service_cidr *o,
                         struct err *e) {
    for (size_t i = 0; i < o->metadata.finalizers.n; i++)
        if (str_eq(o->metadata.finalizers.items[i], CIDR_FINALIZER)) return 0;
    const char *text =
        arena_printf(a, "{\"metadata\":{\"uid\":\"%s\",\"finalizers\":[\"%s\"]}}", o->metadata.uid, CIDR_FINALIZER);
    struct client_opts opts = {.cause = o->metadata.resource_version};
    return client_patch(c->m->client, a, &client_servicecidrs, NULL, o->metadata.name, CLIENT_PATCH_STRATEGIC, text,
                        strlen(text), &opts, NULL, e);
}

static int end(struct sc_controller *c, struct arena *a, const struct object *obj, struct err *e) {
    const struct networking_service_cidr *o = obj->obj;
    int used = in_use(c, a, o, e);
    if (used < 0) return used;
    int64_t left = GRACE_NS - ktime_diff_ns(ktime_now(), o->metadata.deletion_timestamp);
    if (used || left > 0) workqueue_add_after(c->q, obj->key, used ? GRACE_NS : left + NS_PER_MS);
    if (used)
        return set_ready(c, a, o, false, "Terminating",
                         "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new "
                         "ServiceCIDR",
                         e);
    return left > 0 ? 0 : finalizer_drop(c->m, a, &client_servicecidrs, obj->meta, CIDR_FINALIZER, e);
}

static int reconcile(void *arg, struct arena *a, const char *key, struct err *e) {
    struct sc_controller *c = arg;
    _cleanup_object_ struct object *o = informer_get(manager_informer(c->m, &client_servicecidrs), key);
    if (!o) return 0;
    if (o->meta->deletion_timestamp.set) return end(c, a, o, e);
    int r = add_finalizer(c, a, o->obj, e);
    return r < 0 ? r : set_ready(c, a, o->obj, true, "", "Kubernetes Service CIDR is ready", e);
}

int servicecidr_start(struct manager *m, struct err *e) {
    struct sc_controller *c = manager_alloc(m, sizeof(*c), NULL);
    c->m = m;
    c->q = manager_queue(m, "servicecidr", 1, reconcile, c, &client_servicecidrs, NULL);
    manager_watch_keys(m, &client_servicecidrs, c->q);
    return 0;
}
