/* The cluster's zone: answers from Services, EndpointSlices and Namespaces, by the Kubernetes DNS specification 1.1
 * (and CoreDNS' pod records a-b-c-d.NS.pod.ZONE).
 *
 *   SVC.NS.svc.ZONE                 A/AAAA of the cluster IPs; headless: of the ready endpoints
 *   HOST.SVC.NS.svc.ZONE            headless: the endpoint of that hostname (or of a-b-c-d without one)
 *   _PORT._PROTO.SVC.NS.svc.ZONE    SRV
 *   ExternalName                    CNAME
 *   d.c.b.a.in-addr.arpa            PTR of cluster IPs and headless endpoints (ip6.arpa likewise)
 *   dns-version.ZONE                TXT "1.1.0"
 *
 * A name that exists with no record of the type asked is an empty NOERROR, others are NXDOMAIN. */
#pragma once

#include "dns/message.h"
#include "pkg/client/informer.h"

struct zone;

/* Starts informers on the client. `domain` without dots at its ends ("cluster.local"). */
struct zone *zone_new(struct client *c, const char *domain, uint32_t ttl);
void zone_free(struct zone *z); /* before the client */
bool zone_synced(struct zone *z);

enum zone_result {
    ZONE_ANSWERED,      /* the reply is complete */
    ZONE_NOT_OURS,      /* forward it */
    ZONE_CNAME_FOLLOWS, /* the reply holds a CNAME; resolve `target` elsewhere and append its answers */
};
/* Answers into `r` (started); *len is the finished length with ZONE_ANSWERED. Any thread. */
enum zone_result zone_answer(struct zone *z, const struct dns_query *q, struct dns_reply *r, size_t *len,
                             char target[DNS_NAME_MAX]);
