#include "pkg/netlink/netlink.h"

#include <arpa/inet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

struct request {
    struct nlmsghdr h;
    union {
        struct ifaddrmsg addr;
        struct rtmsg route;
    };
    char attrs[128];
};

static void start(struct request *rq, size_t header) { rq->h.nlmsg_len = (uint32_t)NLMSG_LENGTH(header); }

static void add_attr(struct request *rq, uint16_t type, const void *p, size_t n) {
    struct rtattr *a = (void *)((char *)rq + NLMSG_ALIGN(rq->h.nlmsg_len));
    a->rta_type = type;
    a->rta_len = (uint16_t)RTA_LENGTH(n);
    memcpy(RTA_DATA(a), p, n);
    rq->h.nlmsg_len = (uint32_t)(NLMSG_ALIGN(rq->h.nlmsg_len) + RTA_ALIGN(a->rta_len));
}

static int open_socket(void) {
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    return fd < 0 ? -errno : fd;
}

static int send_to_kernel(int fd, const struct nlmsghdr *h) {
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    return sendto(fd, h, h->nlmsg_len, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0 ? -errno : 0;
}

/* Sends one request and returns the kernel's verdict. */
static int transact(struct request *rq) {
    _cleanup_close_ int fd = open_socket();
    if (fd < 0) return fd;
    rq->h.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    int r = send_to_kernel(fd, &rq->h);
    if (r < 0) return r;
    char buf[2048] __attribute__((aligned(NLMSG_ALIGNTO)));
    ssize_t n = recv(fd, buf, sizeof(buf), 0);
    if (n < 0) return -errno;
    const struct nlmsghdr *h = (const void *)buf;
    if (!NLMSG_OK(h, (size_t)n) || h->nlmsg_type != NLMSG_ERROR) return -EPROTO;
    return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
}

int netlink_lo_addr(const char *addr, bool present, struct err *e) {
    struct request rq = {0};
    char host[64];
    uint8_t raw[16];
    bool brackets = addr[0] == '[', bare_v6 = !brackets && strchr(addr, ':') != strrchr(addr, ':');
    size_t n = brackets ? strcspn(addr + 1, "]") : bare_v6 ? strlen(addr) : strcspn(addr, ":");
    snprintf(host, sizeof(host), "%.*s", (int)n, addr + brackets);
    bool v6 = inet_pton(AF_INET6, host, raw) == 1;
    if (!v6 && inet_pton(AF_INET, host, raw) != 1) return err_set(e, -EINVAL, "bad address \"%s\"", addr);
    if (v6 ? IN6_IS_ADDR_LOOPBACK((struct in6_addr *)(void *)raw) : raw[0] == 127) return 0;
    start(&rq, sizeof(rq.addr));
    rq.h.nlmsg_type = present ? RTM_NEWADDR : RTM_DELADDR;
    rq.h.nlmsg_flags = present ? NLM_F_CREATE | NLM_F_EXCL : 0;
    rq.addr = (struct ifaddrmsg){
        .ifa_family = v6 ? AF_INET6 : AF_INET, .ifa_prefixlen = v6 ? 128 : 32, .ifa_index = if_nametoindex("lo")};
    add_attr(&rq, IFA_LOCAL, raw, v6 ? 16 : 4);
    add_attr(&rq, IFA_ADDRESS, raw, v6 ? 16 : 4);
    int r = transact(&rq);
    if (r == 0 || (present && r == -EEXIST) || (!present && r == -EADDRNOTAVAIL)) return 0;
    return err_errno(e, r, "cannot %s address %s", present ? "add" : "remove", host);
}

static int parse_cidr(const char *cidr, struct in_addr *net, uint8_t *bits, struct err *e) {
    char text[64];
    int64_t n = 32;
    snprintf(text, sizeof(text), "%s", cidr);
    char *slash = strchr(text, '/');
    if (slash) *slash++ = 0;
    if (inet_pton(AF_INET, text, net) != 1 || (slash && (str_to_i64(slash, &n) < 0 || n < 0 || n > 32)))
        return err_set(e, -EINVAL, "bad IPv4 network \"%s\"", cidr);
    net->s_addr &= n ? htonl(~UINT32_C(0) << (32 - n)) : 0;
    *bits = (uint8_t)n;
    return 0;
}

static int start_route(struct request *rq, const char *cidr, struct err *e) {
    struct in_addr net;
    uint8_t bits = 0;
    int r = parse_cidr(cidr, &net, &bits, e);
    if (r < 0) return r;
    start(rq, sizeof(rq->route));
    rq->route = (struct rtmsg){.rtm_family = AF_INET,
                               .rtm_dst_len = bits,
                               .rtm_table = RT_TABLE_MAIN,
                               .rtm_protocol = NETLINK_ROUTE_PROTO,
                               .rtm_type = RTN_UNICAST};
    add_attr(rq, RTA_DST, &net, 4);
    return 0;
}

int netlink_route_add(const char *cidr, const char *gateway, const char *dev, const char *src, struct err *e) {
    struct request rq = {0};
    struct in_addr via;
    int r = start_route(&rq, cidr, e);
    if (r < 0) return r;
    rq.h.nlmsg_type = RTM_NEWROUTE;
    rq.h.nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
    rq.route.rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    if (gateway) {
        if (inet_pton(AF_INET, gateway, &via) != 1) return err_set(e, -EINVAL, "bad gateway \"%s\"", gateway);
        add_attr(&rq, RTA_GATEWAY, &via, 4);
    }
    if (dev) {
        uint32_t index = if_nametoindex(dev);
        if (!index) return err_errno(e, errno, "no interface %s", dev);
        add_attr(&rq, RTA_OIF, &index, 4);
    }
    if (src) {
        if (inet_pton(AF_INET, src, &via) != 1) return err_set(e, -EINVAL, "bad source address \"%s\"", src);
        add_attr(&rq, RTA_PREFSRC, &via, 4);
    }
    r = transact(&rq);
    return r < 0 ? err_errno(e, r, "cannot add the route to %s", cidr) : 0;
}

int netlink_route_del(const char *cidr, struct err *e) {
    struct request rq = {0};
    int r = start_route(&rq, cidr, e);
    if (r < 0) return r;
    rq.h.nlmsg_type = RTM_DELROUTE;
    rq.route.rtm_scope = RT_SCOPE_NOWHERE;
    r = transact(&rq);
    return r < 0 && r != -ESRCH ? err_errno(e, r, "cannot remove the route to %s", cidr) : 0;
}

/* Turns a route of the dump into the request that deletes it; false when it is not ours. */
static bool deletion_of(const struct nlmsghdr *h, struct request *rq) {
    const struct rtmsg *m = NLMSG_DATA(h);
    if (m->rtm_protocol != NETLINK_ROUTE_PROTO || m->rtm_table != RT_TABLE_MAIN) return false;
    *rq = (struct request){.h = {.nlmsg_type = RTM_DELROUTE}};
    start(rq, sizeof(rq->route));
    rq->route = *m;
    size_t len = RTM_PAYLOAD(h);
    for (const struct rtattr *a = RTM_RTA(m); RTA_OK(a, len); a = RTA_NEXT(a, len))
        if (a->rta_type == RTA_DST) add_attr(rq, RTA_DST, RTA_DATA(a), RTA_PAYLOAD(a));
    return true;
}

int netlink_route_flush(struct err *e) {
    enum { AT_ONCE = 64 };
    _cleanup_free_ struct request *doomed = xcalloc(AT_ONCE, sizeof(*doomed));
    for (size_t n = AT_ONCE; n == AT_ONCE;) {
        n = 0;
        _cleanup_close_ int fd = open_socket();
        if (fd < 0) return err_errno(e, fd, "netlink");
        struct request dump = {.h = {.nlmsg_type = RTM_GETROUTE, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
        start(&dump, sizeof(dump.route));
        dump.route.rtm_family = AF_INET;
        int r = send_to_kernel(fd, &dump.h);
        if (r < 0) return err_errno(e, r, "netlink");
        char buf[32768] __attribute__((aligned(NLMSG_ALIGNTO)));
        for (bool done = false; !done;) {
            ssize_t got = recv(fd, buf, sizeof(buf), 0);
            if (got <= 0) return err_errno(e, errno, "netlink");
            size_t len = (size_t)got;
            for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
                if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
                    done = true;
                else if (h->nlmsg_type == RTM_NEWROUTE && n < AT_ONCE && deletion_of(h, &doomed[n]))
                    n++;
            }
        }
        for (size_t i = 0; i < n; i++)
            if ((r = transact(&doomed[i])) < 0 && r != -ESRCH) return err_errno(e, r, "cannot remove a route");
    }
    return 0;
}
