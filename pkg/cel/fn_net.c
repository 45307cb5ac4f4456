/* Kubernetes' libraries for addresses, networks and URLs: ip(), cidr(), url() and what can be asked of them.
 * Addresses are read as Go's net/netip reads them: no leading zeros, no zones, no IPv4 in IPv6. Upstream:
 * k8s.io/apiserver/pkg/cel/library/{ip,cidr,urls}.go. */
#include <arpa/inet.h>

#include "pkg/cel/opaque.h"

#define A0 (args[0])
#define A1 (args[1])
#define IP(v) ((const struct op_ip *)(v).opaque)

/* ---- addresses ---- */

/* The reason why not, or NULL. */
static const char *parse_ip(struct arena *a, const char *s, struct op_ip *out) {
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    if (inet_pton(AF_INET, s, out->addr) == 1) {
        out->len = 4;
        for (const char *p = s; *p; p++)
            if (*p == '0' && (p == s || p[-1] == '.') && p[1] >= '0' && p[1] <= '9')
                return arena_printf(a,
                                    "IP Address \"%s\" parse error during conversion from string: ParseAddr(\"%s\"): "
                                    "IPv4 field has octet with leading zero",
                                    s, s);
        return NULL;
    }
    if (strchr(s, '%')) return arena_printf(a, "IP address \"%s\" with zone value is not allowed", s);
    if (inet_pton(AF_INET6, s, out->addr) != 1)
        return arena_printf(
            a, "IP Address \"%s\" parse error during conversion from string: ParseAddr(\"%s\"): unable to parse IP", s,
            s);
    out->len = 16;
    if (memcmp(out->addr, mapped, 12) == 0) return arena_printf(a, "IPv4-mapped IPv6 address \"%s\" is not allowed", s);
    return NULL;
}

const char *ip_text(struct arena *a, const struct op_ip *ip, bool prefix) {
    char text[INET6_ADDRSTRLEN];
    inet_ntop(ip->len == 4 ? AF_INET : AF_INET6, ip->addr, text, sizeof(text));
    return prefix ? arena_printf(a, "%s/%u", text, ip->bits) : arena_strdup(a, text);
}

static struct cel_val fn_ip(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip *ip = opaque_new(E->a, sizeof(*ip), &type_ip);
    const char *err = parse_ip(E->a, A0.s, ip);
    return err ? val_errf(E->a, "%s", err) : val_opaque(&ip->head);
}
static struct cel_val fn_is_ip(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip ip;
    return cel_bool(!parse_ip(E->a, A0.s, &ip));
}
static struct cel_val fn_canonical(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip ip;
    const char *err = parse_ip(E->a, A0.s, &ip);
    return err ? val_errf(E->a, "%s", err) : cel_bool(strcmp(ip_text(E->a, &ip, false), A0.s) == 0);
}
static struct cel_val fn_text(struct ev *E, const struct cel_val *args, int n) {
    return cel_str(opaque_text(E->a, A0.opaque));
}
static struct cel_val fn_family(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(IP(A0)->len == 4 ? 4 : 6);
}

static bool all_zero(const uint8_t *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i]) return false;
    return true;
}
static bool unspecified(const struct op_ip *ip) { return all_zero(ip->addr, ip->len); }
static bool loopback(const struct op_ip *ip) {
    return ip->len == 4 ? ip->addr[0] == 127 : all_zero(ip->addr, 15) && ip->addr[15] == 1;
}
static bool multicast(const struct op_ip *ip) {
    return ip->len == 4 ? (ip->addr[0] & 0xF0) == 0xE0 : ip->addr[0] == 0xFF;
}
static bool link_multicast(const struct op_ip *ip) {
    if (ip->len == 4) return ip->addr[0] == 224 && ip->addr[1] == 0 && ip->addr[2] == 0;
    return ip->addr[0] == 0xFF && (ip->addr[1] & 0x0F) == 2;
}
static bool link_unicast(const struct op_ip *ip) {
    if (ip->len == 4) return ip->addr[0] == 169 && ip->addr[1] == 254;
    return ip->addr[0] == 0xFE && (ip->addr[1] & 0xC0) == 0x80;
}
static bool global_unicast(const struct op_ip *ip) {
    bool broadcast = ip->len == 4 && memcmp(ip->addr, "\xff\xff\xff\xff", 4) == 0;
    return !broadcast && !unspecified(ip) && !loopback(ip) && !multicast(ip) && !link_unicast(ip);
}
#define ASK(name, what) \
    static struct cel_val name(struct ev *E, const struct cel_val *args, int n) { return cel_bool(what(IP(A0))); }
ASK(fn_unspecified, unspecified)
ASK(fn_loopback, loopback)
ASK(fn_link_multicast, link_multicast)
ASK(fn_link_unicast, link_unicast)
ASK(fn_global_unicast, global_unicast)

/* ---- networks ---- */

static const char *parse_cidr(struct arena *a, const char *s, struct op_ip *out) {
    const char *slash = strrchr(s, '/'), *err = NULL;
    int64_t bits = -1;
    if (!slash)
        return arena_printf(
            a, "network address parse error during conversion from string: netip.ParsePrefix(\"%s\"): no '/'", s);
    const char *host = arena_strndup(a, s, (size_t)(slash - s));
    if (strchr(host, '%') || parse_ip(a, host, out))
        err = strchr(host, ':') && strchr(host, '.')
                  ? arena_printf(a, "IPv4-mapped IPv6 address \"%s\" is not allowed", s)
                  : "unable to parse IP";
    else if (str_to_i64(slash + 1, &bits) || slash[1] == '-' || slash[1] == '+' || (slash[1] == '0' && slash[2]))
        err = "bad bits after slash";
    else if (bits > out->len * 8)
        err = "prefix length out of range";
    if (!err) out->bits = (uint8_t)bits;
    if (!err || str_has_prefix(err, "IPv4-mapped")) return err;
    return arena_printf(a, "network address parse error during conversion from string: netip.ParsePrefix(\"%s\"): %s",
                        s, err);
}

static struct cel_val fn_cidr(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip *c = opaque_new(E->a, sizeof(*c), &type_cidr);
    const char *err = parse_cidr(E->a, A0.s, c);
    return err ? val_errf(E->a, "%s", err) : val_opaque(&c->head);
}
static struct cel_val fn_is_cidr(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip c;
    return cel_bool(!parse_cidr(E->a, A0.s, &c));
}

static bool same_prefix(const struct op_ip *x, const struct op_ip *y, unsigned bits) {
    if (x->len != y->len || memcmp(x->addr, y->addr, bits / 8) != 0) return false;
    unsigned rest = bits % 8;
    return !rest || (x->addr[bits / 8] ^ y->addr[bits / 8]) >> (8 - rest) == 0;
}

static struct cel_val fn_contains_ip(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip ip;
    const struct op_ip *other = &ip;
    const char *err = NULL;
    if (A1.kind == CEL_STRING)
        err = parse_ip(E->a, A1.s, &ip);
    else
        other = IP(A1);
    if (err) return val_errf(E->a, "%s", err);
    return cel_bool(same_prefix(IP(A0), other, IP(A0)->bits));
}

static struct cel_val fn_contains_cidr(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip c;
    const struct op_ip *other = &c;
    const char *err = NULL;
    if (A1.kind == CEL_STRING)
        err = parse_cidr(E->a, A1.s, &c);
    else
        other = IP(A1);
    if (err) return val_errf(E->a, "%s", err);
    return cel_bool(IP(A0)->bits <= other->bits && same_prefix(IP(A0), other, IP(A0)->bits));
}

static struct cel_val fn_prefix_length(struct ev *E, const struct cel_val *args, int n) {
    return cel_int(IP(A0)->bits);
}

static struct cel_val fn_cidr_ip(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip *ip = opaque_new(E->a, sizeof(*ip), &type_ip);
    ip->len = IP(A0)->len;
    memcpy(ip->addr, IP(A0)->addr, sizeof(ip->addr));
    return val_opaque(&ip->head);
}

static struct cel_val fn_masked(struct ev *E, const struct cel_val *args, int n) {
    struct op_ip *c = arena_memdup(E->a, A0.opaque, sizeof(*c));
    for (unsigned i = c->bits; i < c->len * 8u; i++) c->addr[i / 8] &= (uint8_t) ~(0x80 >> (i % 8));
    return val_opaque(&c->head);
}

/* ---- URLs ---- */

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* As Go's ParseRequestURI: an absolute URL or an absolute path, no fragment. The reason why not, or NULL. */
static const char *parse_url(struct arena *a, const char *s, struct op_url *u) {
    const char *p = s, *bad = NULL;
    for (const unsigned char *c = (const unsigned char *)s; *c; c++)
        if (*c < 0x20 || *c == 0x7F) return "invalid control character in URL";
    u->text = s;
    u->scheme = u->host = u->path = u->query = "";
    if (!*s) return "empty url";
    const char *colon = s + strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-.");
    if (*colon == ':' && (s[0] | 32) >= 'a' && (s[0] | 32) <= 'z') {
        char *scheme = arena_strndup(a, s, (size_t)(colon - s));
        for (char *c = scheme; *c; c++)
            if (*c >= 'A' && *c <= 'Z') *c = (char)(*c | 32);
        u->scheme = scheme;
        p = colon + 1;
    } else if (*colon == ':' && colon == s) {
        return "missing protocol scheme";
    }
    const char *query = strchr(p, '?');
    size_t rest = query ? (size_t)(query - p) : strlen(p);
    if (query) u->query = query + 1;
    if (*p != '/' && !*u->scheme) return "invalid URI for request";
    if (*p != '/' && *u->scheme) return NULL; /* opaque: "mailto:x" */
    if (rest >= 2 && p[0] == '/' && p[1] == '/' && (*u->scheme || p[2] != '/')) {
        size_t host = strcspn(p + 2, "/?");
        u->host = arena_strndup(a, p + 2, MIN_OF(host, rest - 2));
        p += 2 + host;
        rest -= MIN_OF(2 + host, rest);
        const char *at = strrchr(u->host, '@');
        if (at) u->host = at + 1;
        if (strpbrk(u->host, " <>\"\\^`{|}")) bad = "invalid character in host name";
        if (u->host[0] == '[' && !strchr(u->host, ']')) bad = "missing ']' in host";
        const char *port = u->host[0] == '[' ? strchr(u->host, ']') : strrchr(u->host, ':');
        if (port && *port == ']') port = port[1] == ':' ? port + 1 : NULL;
        if (port && port[1 + strspn(port + 1, "0123456789")]) bad = "invalid port after host";
    }
    for (size_t i = 0; i < rest; i++)
        if (p[i] == '%' && (i + 2 >= rest || hex(p[i + 1]) < 0 || hex(p[i + 2]) < 0)) bad = "invalid URL escape";
    u->path = arena_strndup(a, p, rest);
    return bad;
}

#define URL(v) ((const struct op_url *)(v).opaque)
static struct cel_val fn_url(struct ev *E, const struct cel_val *args, int n) {
    struct op_url *u = opaque_new(E->a, sizeof(*u), &type_url);
    const char *err = parse_url(E->a, A0.s, u);
    return err ? val_errf(E->a, "URL parse error during conversion from string: parse \"%s\": %s", A0.s, err)
               : val_opaque(&u->head);
}
static struct cel_val fn_is_url(struct ev *E, const struct cel_val *args, int n) {
    struct op_url u;
    return cel_bool(!parse_url(E->a, A0.s, &u));
}
static struct cel_val fn_scheme(struct ev *E, const struct cel_val *args, int n) { return cel_str(URL(A0)->scheme); }
static struct cel_val fn_host(struct ev *E, const struct cel_val *args, int n) { return cel_str(URL(A0)->host); }

static const char *port_of(const char *host) {
    const char *p = host[0] == '[' ? strchr(host, ']') : strrchr(host, ':');
    if (p && *p == ']') p = p[1] == ':' ? p + 1 : NULL;
    return p;
}
static struct cel_val fn_hostname(struct ev *E, const struct cel_val *args, int n) {
    const char *h = URL(A0)->host, *port = port_of(h), *end = port ? port : h + strlen(h);
    if (h[0] == '[' && end > h && end[-1] == ']') return val_copy_str(E->a, h + 1, (size_t)(end - h) - 2);
    return val_copy_str(E->a, h, (size_t)(end - h));
}
static struct cel_val fn_port(struct ev *E, const struct cel_val *args, int n) {
    const char *p = port_of(URL(A0)->host);
    return cel_str(p ? p + 1 : "");
}

static struct cel_val fn_path(struct ev *E, const struct cel_val *args, int n) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (const char *p = URL(A0)->path; *p; p++) {
        bool plain =
            (*p >= '0' && *p <= '9') || ((*p | 32) >= 'a' && (*p | 32) <= 'z') || strchr("-_.~/$&+,:;=@!'()*[]%", *p);
        if (plain)
            buf_addc(&b, *p);
        else
            buf_printf(&b, "%%%02X", (unsigned char)*p);
    }
    return val_copy_str(E->a, str_or_empty(b.data), b.len);
}

static struct cel_val unescape_query(struct ev *E, const char *s, size_t n) {
    char *out = arena_alloc(E->a, n * 2 + 1);
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        bool esc = s[i] == '%' && i + 2 < n && hex(s[i + 1]) >= 0 && hex(s[i + 2]) >= 0;
        if (esc) {
            int c = hex(s[i + 1]) * 16 + hex(s[i + 2]);
            if (c)
                out[len++] = (char)c;
            else
                len += utf8_put(0, out + len);
            i += 2;
        } else {
            out[len++] = s[i] == '+' ? ' ' : s[i];
        }
    }
    return cel_strn(arena_strndup(E->a, out, len), len);
}

static struct cel_val fn_query(struct ev *E, const struct cel_val *args, int n) {
    struct cel_map *m = map_new(E->a, 4);
    for (const char *p = URL(A0)->query; *p;) {
        size_t part = strcspn(p, "&");
        const char *eq = memchr(p, '=', part);
        size_t key = eq ? (size_t)(eq - p) : part;
        if (part) {
            struct cel_val k = unescape_query(E, p, key),
                           v = eq ? unescape_query(E, eq + 1, part - key - 1) : cel_str(""), old;
            struct cel_list *l;
            if (map_get_val(m, &k, &old)) {
                l = (struct cel_list *)old.list;
                l->v = arena_realloc(E->a, l->v, l->n * sizeof(v), (l->n + 1) * sizeof(v));
                l->v[l->n++] = v;
            } else {
                map_put_val(E->a, m, k, val_list(E->a, arena_memdup(E->a, &v, sizeof(v)), 1));
            }
        }
        p += part + (p[part] == '&');
    }
    return val_map(m);
}

#define K8S CEL_LIB_K8S
#define M(name, id, sig, impl) \
    { name, id, sig, 1, OP_CALL, K8S, impl }
#define G(name, id, sig, impl) \
    { name, id, sig, 0, OP_CALL, K8S, impl }
const struct cel_fn fns_net[] = {
    G("ip", "string_to_ip", "s>p", fn_ip),
    M("family", "ip_family", "p>i", fn_family),
    G("ip.isCanonical", "ip_is_canonical", "s>b", fn_canonical),
    M("isUnspecified", "ip_is_unspecified", "p>b", fn_unspecified),
    M("isLoopback", "ip_is_loopback", "p>b", fn_loopback),
    M("isLinkLocalMulticast", "ip_is_link_local_multicast", "p>b", fn_link_multicast),
    M("isLinkLocalUnicast", "ip_is_link_local_unicast", "p>b", fn_link_unicast),
    M("isGlobalUnicast", "ip_is_global_unicast", "p>b", fn_global_unicast),
    G("isIP", "is_ip", "s>b", fn_is_ip),
    G("string", "ip_to_string", "p>s", fn_text),
    G("cidr", "string_to_cidr", "s>c", fn_cidr),
    M("containsIP", "cidr_contains_ip_string", "cs>b", fn_contains_ip),
    M("containsIP", "cidr_contains_ip_ip", "cp>b", fn_contains_ip),
    M("containsCIDR", "cidr_contains_cidr_string", "cs>b", fn_contains_cidr),
    M("containsCIDR", "cidr_contains_cidr", "cc>b", fn_contains_cidr),
    M("ip", "cidr_ip", "c>p", fn_cidr_ip),
    M("prefixLength", "cidr_prefix_length", "c>i", fn_prefix_length),
    M("masked", "cidr_masked", "c>c", fn_masked),
    G("isCIDR", "is_cidr", "s>b", fn_is_cidr),
    G("string", "cidr_to_string", "c>s", fn_text),
    G("url", "string_to_url", "s>l", fn_url),
    M("getScheme", "url_get_scheme", "l>s", fn_scheme),
    M("getHost", "url_get_host", "l>s", fn_host),
    M("getHostname", "url_get_hostname", "l>s", fn_hostname),
    M("getPort", "url_get_port", "l>s", fn_port),
    M("getEscapedPath", "url_get_escaped_path", "l>s", fn_path),
    M("getQuery", "url_get_query", "l>MsLs", fn_query),
    G("isURL", "is_url_string", "s>b", fn_is_url),
    {NULL},
};
