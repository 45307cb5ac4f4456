#include "dns/message.h"

#include "tests/test.h"

static size_t make(uint8_t *out, size_t cap, const char *name, uint16_t type) {
    return dns_make_query(out, cap, 7, name, type);
}

TEST(query_is_parsed_in_lower_case) {
    uint8_t p[300];
    struct dns_query q;
    size_t n = make(p, sizeof(p), "Web.Default.SVC.cluster.local", DNS_A);
    CHECK_INT(dns_parse(p, n, &q), DNS_NOERROR);
    CHECK_STR(q.name, "web.default.svc.cluster.local");
    CHECK_INT(q.type, DNS_A);
    CHECK_INT(q.id, 7);
    CHECK_INT(q.udp_size, DNS_UDP_PLAIN);
}

TEST(broken_queries_are_refused) {
    uint8_t p[300];
    struct dns_query q;
    size_t n = make(p, sizeof(p), "a.b", DNS_A);
    for (size_t cut = 0; cut < n; cut++) CHECK(dns_parse(p, cut, &q) != DNS_NOERROR);
    p[2] |= 0x80;
    CHECK_INT(dns_parse(p, n, &q), -EINVAL);
    p[2] = 0x28;
    CHECK_INT(dns_parse(p, n, &q), DNS_NOTIMP);
    p[2] = 0;
    p[12] = 0xc0; /* a compression pointer in a question */
    CHECK_INT(dns_parse(p, n, &q), DNS_FORMERR);
}

TEST(reply_is_truncated_at_its_limit) {
    uint8_t p[300], out[DNS_UDP_PLAIN];
    struct dns_query q;
    struct dns_reply r;
    size_t n = make(p, sizeof(p), "many.default.svc.cluster.local", DNS_A);
    dns_parse(p, n, &q);
    dns_reply_start(&r, out, sizeof(out), p, &q);
    for (int i = 0; i < 100; i++) dns_reply_addr(&r, q.name, "10.0.0.1", 30);
    size_t len = dns_reply_end(&r, &q, DNS_NOERROR, true);
    CHECK(r.truncated && len <= sizeof(out));
    CHECK(out[2] & 0x02);
    CHECK_INT(out[6] << 8 | out[7], r.answers);
}

TEST(addresses_are_taken_from_another_reply) {
    uint8_t p[300], a[512], b[512];
    struct dns_query q;
    struct dns_reply r, s;
    size_t n = make(p, sizeof(p), "x.example", DNS_A);
    dns_parse(p, n, &q);
    dns_reply_start(&r, a, sizeof(a), p, &q);
    dns_reply_name(&r, q.name, DNS_CNAME, "y.example", 5);
    dns_reply_addr(&r, "y.example", "192.0.2.1", 5);
    dns_reply_addr(&r, "y.example", "2001:db8::1", 5);
    size_t len = dns_reply_end(&r, &q, DNS_NOERROR, false);
    dns_reply_start(&s, b, sizeof(b), p, &q);
    CHECK_INT(dns_reply_addrs_from(&s, "x.example", a, len), 2);
    CHECK_INT(s.answers, 2);
    for (size_t cut = 0; cut < len; cut++) {
        dns_reply_start(&s, b, sizeof(b), p, &q);
        dns_reply_addrs_from(&s, "x.example", a, cut);
    }
}

TEST(names_beyond_the_limits_are_not_written) {
    uint8_t out[DNS_UDP_PLAIN];
    char label[80], name[400] = "";
    memset(label, 'a', 64);
    label[64] = 0;
    CHECK_INT(dns_make_query(out, sizeof(out), 1, label, DNS_A), 0);
    for (int i = 0; i < 60; i++) strncat(name, "abcde.", sizeof(name) - strlen(name) - 1);
    CHECK_INT(dns_make_query(out, sizeof(out), 1, name, DNS_A), 0);
}
