#include "proxy/conntrack.h"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pkg/base/util.h"
#include "pkg/netlink/netlink.h"

enum { DUMP_BUFFER = 32768, TUPLE_MAX = 256, ADDRESS_MAX = 32, STALE_MAX = 65536 };

/* ---- what should be ---- */

static void free_set(void *p) {
    map_done(p);
    free(p);
}

void conntrack_fronts_add(struct conntrack_fronts *f, const char *front, const char *back) {
    struct map *backs = map_get(&f->by_address, front);
    if (!backs) map_put(&f->by_address, front, backs = xcalloc(1, sizeof(*backs)));
    if (back) map_put(backs, back, backs);
}

void conntrack_fronts_done(struct conntrack_fronts *f) { map_done_with(&f->by_address, free_set); }

static const char *address_text(uint32_t ip, uint16_t port, char out[ADDRESS_MAX]) {
    char text[INET_ADDRSTRLEN];
    inet_ntop(AF_INET, &ip, text, sizeof(text));
    snprintf(out, ADDRESS_MAX, "%s:%u", text, port);
    return out;
}

bool conntrack_stale(const struct conntrack_fronts *f, const struct conntrack_flow *flow, bool local) {
    char text[ADDRESS_MAX];
    bool redirected = flow->dst != flow->reply_src || flow->dst_port != flow->reply_src_port;
    const struct map *backs = map_get(&f->by_address, address_text(flow->dst, flow->dst_port, text));
    if (!backs && (redirected || local)) {
        snprintf(text, sizeof(text), ":%u", flow->dst_port);
        if (local) backs = map_get(&f->by_address, text);
    }
    return backs && !map_has(backs, address_text(flow->reply_src, flow->reply_src_port, text));
}

/* ---- what is ---- */

struct flow {
    struct conntrack_flow key;
    uint8_t tuple[TUPLE_MAX]; /* CTA_TUPLE_ORIG as the kernel said it, to name the flow by */
    size_t tuple_len;
};

struct flows {
    struct flow *items;
    size_t n, cap;
};

/* The attribute of a kind within `n` bytes, or NULL; nothing beyond them is looked at. */
static const struct nlattr *attr_find(const void *p, size_t n, uint16_t type) {
    const uint8_t *at = p;
    while (n >= sizeof(struct nlattr)) {
        const struct nlattr *a = (const void *)at;
        size_t len = a->nla_len;
        if (len < sizeof(*a) || len > n) return NULL;
        if ((a->nla_type & NLA_TYPE_MASK) == type) return a;
        size_t step = MIN_OF(NLA_ALIGN(len), n);
        at += step;
        n -= step;
    }
    return NULL;
}

static const struct nlattr *inner(const struct nlattr *a, uint16_t type) {
    return a ? attr_find((const char *)a + NLA_HDRLEN, a->nla_len - NLA_HDRLEN, type) : NULL;
}

static bool read_value(const struct nlattr *a, void *out, size_t n) {
    if (!a || a->nla_len < NLA_HDRLEN + n) return false;
    memcpy(out, (const char *)a + NLA_HDRLEN, n);
    return true;
}

/* One address and port of a tuple of UDP. */
static bool read_end(const struct nlattr *tuple, uint16_t ip_type, uint16_t port_type, uint32_t *ip, uint16_t *port) {
    const struct nlattr *proto = inner(tuple, CTA_TUPLE_PROTO);
    uint8_t number;
    if (!read_value(inner(proto, CTA_PROTO_NUM), &number, 1) || number != IPPROTO_UDP) return false;
    if (!read_value(inner(inner(tuple, CTA_TUPLE_IP), ip_type), ip, sizeof(*ip))) return false;
    if (!read_value(inner(proto, port_type), port, sizeof(*port))) return false;
    *port = ntohs(*port);
    return true;
}

static void note_flow(const struct conntrack_fronts *f, struct flows *out, const struct nlmsghdr *h) {
    if (h->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg)) || out->n >= STALE_MAX) return;
    const char *attrs = (const char *)NLMSG_DATA(h) + NLMSG_ALIGN(sizeof(struct nfgenmsg));
    size_t n = h->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
    const struct nlattr *orig = attr_find(attrs, n, CTA_TUPLE_ORIG), *reply = attr_find(attrs, n, CTA_TUPLE_REPLY);
    struct flow x = {0};
    char text[INET_ADDRSTRLEN];
    if (!orig || orig->nla_len > sizeof(x.tuple) ||
        !read_end(orig, CTA_IP_V4_DST, CTA_PROTO_DST_PORT, &x.key.dst, &x.key.dst_port) ||
        !read_end(reply, CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT, &x.key.reply_src, &x.key.reply_src_port))
        return;
    if (!conntrack_stale(f, &x.key, false)) { /* which addresses are this machine's is asked only where it matters */
        if (!conntrack_stale(f, &x.key, true)) return;
        if (!netlink_has_address(inet_ntop(AF_INET, &x.key.dst, text, sizeof(text)))) return;
    }
    memcpy(x.tuple, orig, orig->nla_len);
    x.tuple_len = orig->nla_len;
    VEC_GROW(out->items, out->n, out->cap);
    out->items[out->n++] = x;
}

/* ---- netlink ---- */

struct request {
    struct nlmsghdr h;
    struct nfgenmsg nf;
    uint8_t attr[TUPLE_MAX];
};

static int ask(int fd, uint16_t what, uint16_t flags, const struct flow *x) {
    struct request rq = {.nf = {.nfgen_family = AF_INET, .version = NFNETLINK_V0}};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    rq.h.nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | what);
    rq.h.nlmsg_flags = NLM_F_REQUEST | flags;
    rq.h.nlmsg_len = NLMSG_LENGTH(sizeof(rq.nf));
    if (x) {
        memcpy(rq.attr, x->tuple, x->tuple_len);
        rq.h.nlmsg_len += (uint32_t)NLMSG_ALIGN(x->tuple_len);
    }
    return sendto(fd, &rq, rq.h.nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0 ? -errno : 0;
}

/* 1: more is to come. */
static int dump_part(int fd, const struct conntrack_fronts *f, struct flows *out) {
    static _Thread_local char buf[DUMP_BUFFER] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t got = recv(fd, buf, sizeof(buf), 0);
    if (got < 0) return errno == EINTR ? 1 : -errno;
    size_t n = (size_t)got;
    for (const struct nlmsghdr *h = (const void *)buf; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
        if (h->nlmsg_type == NLMSG_DONE) return 0;
        if (h->nlmsg_type == NLMSG_ERROR) return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
        note_flow(f, out, h);
    }
    return 1;
}

static int forget(int fd, const struct flow *x) {
    char buf[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
    int r = ask(fd, IPCTNL_MSG_CT_DELETE, NLM_F_ACK, x);
    if (r < 0) return r;
    ssize_t n = recv(fd, buf, sizeof(buf), 0);
    const struct nlmsghdr *h = (const void *)buf;
    if (n < 0 || !NLMSG_OK(h, (size_t)n) || h->nlmsg_type != NLMSG_ERROR) return -EPROTO;
    r = ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
    return r == -ENOENT ? 0 : r; /* it ended by itself */
}

int conntrack_sweep(const struct conntrack_fronts *f, struct err *e) {
    _cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (fd < 0) return err_errno(e, errno, "netlink");
    struct flows stale = {0};
    int r = ask(fd, IPCTNL_MSG_CT_GET, NLM_F_DUMP, NULL);
    if (r == 0) do
            r = dump_part(fd, f, &stale);
        while (r > 0);
    for (size_t i = 0; r == 0 && i < stale.n; i++) r = forget(fd, &stale.items[i]);
    int n = (int)stale.n;
    free(stale.items);
    return r < 0 ? err_errno(e, r, "cannot forget stale UDP flows") : n;
}
