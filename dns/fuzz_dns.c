/* libFuzzer: a message as a query that is answered, and as an upstream's reply that addresses are taken from. */
#include "dns/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    struct dns_query q;
    struct dns_reply r;
    uint8_t out[DNS_UDP_PLAIN];
    int rcode = dns_parse(p, n, &q);
    if (rcode < 0) return 0;
    dns_reply_start(&r, out, sizeof(out), p, &q);
    dns_reply_name(&r, q.name, DNS_CNAME, "target.example", 30);
    dns_reply_addrs_from(&r, "target.example", p, n);
    dns_reply_soa(&r, "cluster.local", 30);
    if (dns_reply_end(&r, &q, (enum dns_rcode)rcode, true) > sizeof(out)) abort();
    return 0;
}
