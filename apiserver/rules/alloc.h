/* Cluster IPs and node ports of Services (alloc.c). */
#pragma once

#include <pthread.h>

#include "apiserver/rules/rules.h"
#include "pkg/base/map.h"

struct hook_pool;
struct policy_cache;

struct rules {
    struct rules_lookup lookup;
    struct rules_alloc alloc;      /* .take_ip NULL: the maps below */
    struct hook_pool *hooks;       /* hook_client.h */
    struct policy_cache *policies; /* policy.h */
    pthread_mutex_t lock;
    struct map ips, ports; /* text of the address or port -> owner "ns/name" (heap) */
    bool loaded;           /* the Services of the store have been entered */
    uint32_t net, mask;    /* of the service CIDR, host order */
    int port_min, port_max;
    const char *cidr;
    bool no_service_accounts;
    _Atomic int64_t no_default_class; /* PriorityClasses of this revision have no default among them; 0: not known */
};

int alloc_init(struct rules *r, const struct rules_config *conf, struct err *e);
void alloc_done(struct rules *r);
/* Before validation. For Services: fills in and claims addresses and ports; for other kinds nothing. 422 when one asked
 * for is taken or out of range. */
int alloc_claim(struct rules_ctx *c, struct json *obj, const struct json *old, struct err *e);

/* ---- service_fields.c ---- `was`: the stored spec, NULL for a new Service */
bool service_wants_health_port(const struct json *spec);
/* Takes over what the client did not say. */
void service_carry(struct arena *a, struct json *spec, const struct json *was);
/* Fills in ipFamilies and ipFamilyPolicy, with findings where they do not fit. */
void service_families(struct vctx *v, struct json *spec, const struct json *was);
/* Drops what the new type has no use for and the client did not change. */
void service_drop(struct arena *a, struct json *obj, const struct json *old);
