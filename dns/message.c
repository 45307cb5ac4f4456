#include "dns/message.h"

#include <arpa/inet.h>

enum { HEADER = 12, FLAG_QR = 0x8000, FLAG_AA = 0x0400, FLAG_TC = 0x0200, FLAG_RD = 0x0100, FLAG_RA = 0x0080 };

static uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static void put16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

/* An uncompressed name at `*at`: questions have nothing to point to. */
static int parse_name(const uint8_t *p, size_t n, size_t *at, char out[DNS_NAME_MAX]) {
    size_t o = 0, i = *at;
    for (;;) {
        if (i >= n) return -EINVAL;
        unsigned len = p[i++];
        if (len == 0) break;
        if (len > 63 || i + len > n || o + len + 2 > DNS_NAME_MAX) return -EINVAL;
        if (o) out[o++] = '.';
        for (unsigned k = 0; k < len; k++) {
            uint8_t c = p[i + k];
            if (c == '.' || c == 0) return -EINVAL;
            out[o++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
        i += len;
    }
    out[o] = 0;
    *at = i;
    return 0;
}

/* Steps over any name, compressed or not. */
static int skip_name(const uint8_t *p, size_t n, size_t *at) {
    for (size_t i = *at; i < n;) {
        uint8_t len = p[i];
        if (len == 0) {
            *at = i + 1;
            return 0;
        }
        if ((len & 0xc0) == 0xc0) {
            *at = i + 2;
            return i + 2 <= n ? 0 : -EINVAL;
        }
        if (len > 63) return -EINVAL;
        i += (size_t)len + 1;
    }
    return -EINVAL;
}

/* Looks for the OPT record behind the question. */
static int parse_edns(const uint8_t *p, size_t n, struct dns_query *q) {
    unsigned records = (unsigned)get16(p + 6) + get16(p + 8) + get16(p + 10);
    size_t at = q->question_end;
    for (unsigned i = 0; i < records; i++) {
        if (skip_name(p, n, &at) < 0 || n - at < 10) return -EINVAL;
        uint16_t type = get16(p + at), class = get16(p + at + 2);
        size_t len = get16(p + at + 8);
        at += 10;
        if (n - at < len) return -EINVAL;
        at += len;
        if (type == DNS_OPT) {
            q->edns = true;
            q->udp_size = class < DNS_UDP_PLAIN ? DNS_UDP_PLAIN : class;
        }
    }
    return 0;
}

int dns_parse(const uint8_t *p, size_t n, struct dns_query *q) {
    *q = (struct dns_query){.udp_size = DNS_UDP_PLAIN};
    if (n < HEADER) return -EINVAL;
    q->id = get16(p);
    q->flags = get16(p + 2);
    q->question_end = HEADER;
    if (q->flags & FLAG_QR) return -EINVAL;
    if ((q->flags >> 11 & 15) != 0) return DNS_NOTIMP;
    if (get16(p + 4) != 1) return DNS_FORMERR;
    size_t at = HEADER;
    if (parse_name(p, n, &at, q->name) < 0 || n - at < 4) return DNS_FORMERR;
    q->type = get16(p + at);
    q->class = get16(p + at + 2);
    q->question_end = at + 4;
    if (parse_edns(p, n, q) < 0) {
        q->edns = false;
        q->udp_size = DNS_UDP_PLAIN;
        return DNS_FORMERR;
    }
    return q->class == 1 || q->class == 255 ? DNS_NOERROR : DNS_NOTIMP;
}

void dns_reply_start(struct dns_reply *r, uint8_t *out, size_t cap, const uint8_t *query, const struct dns_query *q) {
    *r = (struct dns_reply){.out = out, .cap = cap - (q->edns ? 11 : 0)};
    memset(out, 0, HEADER);
    memcpy(out + HEADER, query + HEADER, q->question_end - HEADER);
    r->len = q->question_end;
}

/* Writes a name as labels; one that ends in the question's name is not compressed: replies are small. */
static size_t encode_name(const char *name, uint8_t out[DNS_NAME_MAX + 1]) {
    size_t o = 0;
    while (*name) {
        size_t n = strcspn(name, ".");
        if (n == 0 || n > 63 || o + n + 2 > DNS_NAME_MAX) return 0;
        out[o++] = (uint8_t)n;
        memcpy(out + o, name, n);
        o += n;
        name += n + (name[n] == '.');
    }
    out[o++] = 0;
    return o;
}

static void add_record(struct dns_reply *r, const char *name, uint16_t type, uint32_t ttl, const void *data, size_t n) {
    uint8_t owner[DNS_NAME_MAX + 1];
    size_t owner_len = encode_name(name, owner);
    if (!owner_len || r->truncated || r->cap - r->len < owner_len + 10 + n) {
        r->truncated = true;
        return;
    }
    uint8_t *p = r->out + r->len;
    memcpy(p, owner, owner_len);
    p += owner_len;
    put16(p, type);
    put16(p + 2, 1);
    put16(p + 4, (uint16_t)(ttl >> 16));
    put16(p + 6, (uint16_t)ttl);
    put16(p + 8, (uint16_t)n);
    memcpy(p + 10, data, n);
    r->len += owner_len + 10 + n;
    r->answers++;
}

void dns_reply_addr(struct dns_reply *r, const char *name, const char *ip, uint32_t ttl) {
    uint8_t raw[16];
    if (inet_pton(AF_INET, ip, raw) == 1)
        add_record(r, name, DNS_A, ttl, raw, 4);
    else if (inet_pton(AF_INET6, ip, raw) == 1)
        add_record(r, name, DNS_AAAA, ttl, raw, 16);
}

void dns_reply_name(struct dns_reply *r, const char *name, enum dns_type type, const char *target, uint32_t ttl) {
    uint8_t raw[DNS_NAME_MAX + 1];
    size_t n = encode_name(target, raw);
    if (n) add_record(r, name, (uint16_t)type, ttl, raw, n);
}

void dns_reply_srv(struct dns_reply *r, const char *name, uint16_t priority, uint16_t weight, uint16_t port,
                   const char *target, uint32_t ttl) {
    uint8_t raw[6 + DNS_NAME_MAX + 1];
    put16(raw, priority);
    put16(raw + 2, weight);
    put16(raw + 4, port);
    size_t n = encode_name(target, raw + 6);
    if (n) add_record(r, name, DNS_SRV, ttl, raw, n + 6);
}

void dns_reply_txt(struct dns_reply *r, const char *name, const char *text, uint32_t ttl) {
    uint8_t raw[256];
    size_t n = MIN_OF(strlen(text), (size_t)255);
    raw[0] = (uint8_t)n;
    memcpy(raw + 1, text, n);
    add_record(r, name, DNS_TXT, ttl, raw, n + 1);
}

void dns_reply_soa(struct dns_reply *r, const char *zone, uint32_t ttl) {
    char host[DNS_NAME_MAX];
    uint8_t raw[2 * DNS_NAME_MAX + 24];
    static const uint16_t timers[] = {7200, 1800, 0xffff, 0}; /* refresh, retry, expire, minimum */
    snprintf(host, sizeof(host), "ns.dns.%.240s", zone);
    size_t n = encode_name(host, raw);
    snprintf(host, sizeof(host), "hostmaster.%.240s", zone);
    n += encode_name(host, raw + n);
    put16(raw + n, 0);
    put16(raw + n + 2, 1); /* serial */
    n += 4;
    for (size_t i = 0; i < ARRAY_LEN(timers); i++, n += 4) {
        put16(raw + n, 0);
        put16(raw + n + 2, i == 3 ? (uint16_t)ttl : timers[i]);
    }
    uint16_t answers = r->answers;
    add_record(r, zone, DNS_SOA, ttl, raw, n);
    r->authorities = (uint16_t)(r->authorities + r->answers - answers);
    r->answers = answers;
}

unsigned dns_reply_addrs_from(struct dns_reply *r, const char *owner, const uint8_t *p, size_t n) {
    if (n < HEADER) return 0;
    size_t at = HEADER;
    unsigned added = 0, records = get16(p + 6);
    for (unsigned i = get16(p + 4); i > 0; i--) {
        if (skip_name(p, n, &at) < 0 || n - at < 4) return 0;
        at += 4;
    }
    for (; records > 0; records--) {
        if (skip_name(p, n, &at) < 0 || n - at < 10) break;
        uint16_t type = get16(p + at), len = get16(p + at + 8);
        uint32_t ttl = (uint32_t)get16(p + at + 4) << 16 | get16(p + at + 6);
        at += 10;
        if (n - at < len) break;
        if ((type == DNS_A && len == 4) || (type == DNS_AAAA && len == 16)) {
            add_record(r, owner, type, ttl, p + at, len);
            added++;
        }
        at += len;
    }
    return added;
}

size_t dns_make_query(uint8_t *out, size_t cap, uint16_t id, const char *name, uint16_t type) {
    uint8_t raw[DNS_NAME_MAX + 1];
    size_t n = encode_name(name, raw);
    if (!n || cap < HEADER + n + 4) return 0;
    memset(out, 0, HEADER);
    put16(out, id);
    put16(out + 2, FLAG_RD);
    put16(out + 4, 1);
    memcpy(out + HEADER, raw, n);
    put16(out + HEADER + n, type);
    put16(out + HEADER + n + 2, 1);
    return HEADER + n + 4;
}

size_t dns_reply_end(struct dns_reply *r, const struct dns_query *q, enum dns_rcode rcode, bool authoritative) {
    uint16_t extra = 0;
    if (q->edns) { /* root name, OPT, our UDP size; start() kept room for it */
        uint8_t *p = r->out + r->len;
        memset(p, 0, 11);
        put16(p + 1, DNS_OPT);
        put16(p + 3, DNS_UDP_MAX);
        r->len += 11;
        extra++;
    }
    put16(r->out, q->id);
    put16(r->out + 2, (uint16_t)(FLAG_QR | (q->flags & FLAG_RD) | FLAG_RA | (authoritative ? FLAG_AA : 0) |
                                 (r->truncated ? FLAG_TC : 0) | rcode));
    put16(r->out + 4, q->question_end > HEADER ? 1 : 0);
    put16(r->out + 6, r->answers);
    put16(r->out + 8, r->authorities);
    put16(r->out + 10, extra);
    return r->len;
}
