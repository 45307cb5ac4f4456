/* DNS messages (RFC 1035, RFC 6891): a query is parsed into its one question, a reply is written record by record with
 * name compression of the question's name only. */
#pragma once

#include "pkg/base/util.h"

enum {
    DNS_NAME_MAX = 256, /* text form without the final dot, with a NUL */
    DNS_MESSAGE_MAX = 65535,
    DNS_UDP_PLAIN = 512, /* without EDNS */
    DNS_UDP_MAX = 1232,  /* with EDNS: stays clear of fragmentation */
};
enum dns_type {
    DNS_A = 1,
    DNS_NS = 2,
    DNS_CNAME = 5,
    DNS_SOA = 6,
    DNS_PTR = 12,
    DNS_TXT = 16,
    DNS_AAAA = 28,
    DNS_SRV = 33,
    DNS_OPT = 41,
    DNS_ANY = 255
};
enum dns_rcode {
    DNS_NOERROR = 0,
    DNS_FORMERR = 1,
    DNS_SERVFAIL = 2,
    DNS_NXDOMAIN = 3,
    DNS_NOTIMP = 4,
    DNS_REFUSED = 5
};

struct dns_query {
    uint16_t id, flags;
    char name[DNS_NAME_MAX]; /* lower case, no final dot, "." escapes not supported (such names are FORMERR) */
    uint16_t type, class;
    size_t question_end; /* offset behind the question */
    bool edns;
    uint16_t udp_size; /* what the client takes over UDP */
};

/* DNS_NOERROR, or the rcode to refuse the query with; -EINVAL when it deserves no answer at all (a response, too short). */
int dns_parse(const uint8_t *p, size_t n, struct dns_query *q);

/* A reply under construction; `out` has room for `cap` bytes. Records that do not fit set `truncated`. */
struct dns_reply {
    uint8_t *out;
    size_t cap, len;
    uint16_t answers, authorities;
    bool truncated;
};
void dns_reply_start(struct dns_reply *r, uint8_t *out, size_t cap, const uint8_t *query, const struct dns_query *q);
void dns_reply_addr(struct dns_reply *r, const char *name, const char *ip, uint32_t ttl); /* A or AAAA by the address */
void dns_reply_name(struct dns_reply *r, const char *name, enum dns_type type, const char *target, uint32_t ttl);
void dns_reply_srv(struct dns_reply *r, const char *name, uint16_t priority, uint16_t weight, uint16_t port,
                   const char *target, uint32_t ttl);
void dns_reply_txt(struct dns_reply *r, const char *name, const char *text, uint32_t ttl);
/* The authority section of a negative answer. */
void dns_reply_soa(struct dns_reply *r, const char *zone, uint32_t ttl);
/* The addresses among the answers of another server's reply, appended under `owner`. Returns how many. */
unsigned dns_reply_addrs_from(struct dns_reply *r, const char *owner, const uint8_t *p, size_t n);
/* A recursive query for `name` under `id`; returns its length. */
size_t dns_make_query(uint8_t *out, size_t cap, uint16_t id, const char *name, uint16_t type);
/* Completes header and OPT record; returns the length. */
size_t dns_reply_end(struct dns_reply *r, const struct dns_query *q, enum dns_rcode rcode, bool authoritative);
