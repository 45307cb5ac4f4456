#include "rtnl.h"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sys/socket.h>

enum { RTNL_BUF = 1024, RTNL_ANSWER = 8192 };

struct msg {
    union {
        struct nlmsghdr h;
        char bytes[RTNL_BUF];
    };
};

int rtnl_open(struct rtnl *r, struct err *e) {
    r->seq = 0;
    r->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (r->fd < 0) return err_errno(e, errno, "netlink socket");
    int one = 1;
    setsockopt(r->fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
    return 0;
}

void rtnl_close(struct rtnl *r) {
    if (r->fd >= 0) close(r->fd);
    r->fd = -1;
}

/* ---- building ---- */

static void *msg_begin(struct msg *m, uint16_t type, uint16_t flags, size_t body) {
    memset(m, 0, sizeof(*m));
    m->h.nlmsg_type = type;
    m->h.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    m->h.nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
    return NLMSG_DATA(&m->h);
}

static struct rtattr *attr_add(struct msg *m, uint16_t type, const void *p, size_t n) {
    struct rtattr *a = (struct rtattr *)(void *)(m->bytes + NLMSG_ALIGN(m->h.nlmsg_len));
    if (NLMSG_ALIGN(m->h.nlmsg_len) + RTA_SPACE(n) > sizeof(m->bytes)) abort(); /* sizes are constants below */
    a->rta_type = type;
    a->rta_len = (unsigned short)RTA_LENGTH(n);
    if (n) memcpy(RTA_DATA(a), p, n);
    m->h.nlmsg_len = (uint32_t)(NLMSG_ALIGN(m->h.nlmsg_len) + RTA_ALIGN(a->rta_len));
    return a;
}

static void attr_u32(struct msg *m, uint16_t type, uint32_t v) { attr_add(m, type, &v, sizeof(v)); }
static void attr_str(struct msg *m, uint16_t type, const char *s) { attr_add(m, type, s, strlen(s) + 1); }

static void attr_end(struct msg *m, struct rtattr *a) {
    a->rta_len = (unsigned short)(m->bytes + m->h.nlmsg_len - (char *)a);
}

/* Sends and waits for the acknowledgement: 0 or -errno. */
static int talk(struct rtnl *r, struct msg *m) {
    char answer[RTNL_ANSWER];
    m->h.nlmsg_seq = ++r->seq;
    struct sockaddr_nl to = {.nl_family = AF_NETLINK};
    if (sendto(r->fd, m, m->h.nlmsg_len, 0, (struct sockaddr *)&to, sizeof(to)) < 0) return -errno;
    for (;;) {
        ssize_t n = recv(r->fd, answer, sizeof(answer), 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -errno;
        struct nlmsghdr *h = (struct nlmsghdr *)(void *)answer;
        for (; NLMSG_OK(h, (size_t)n); h = NLMSG_NEXT(h, n)) {
            if (h->nlmsg_type != NLMSG_ERROR || h->nlmsg_seq != r->seq) continue;
            return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
        }
    }
}

static int talk_err(struct rtnl *r, struct msg *m, int tolerate, struct err *e, const char *what, const char *name) {
    int rc = talk(r, m);
    if (rc == 0 || rc == tolerate) return 0;
    return err_errno(e, rc, "%s %s", what, name);
}

/* The link's index in the socket's namespace (if_nametoindex would look in the thread's). */
static int link_index(struct rtnl *r, const char *name, struct err *e) {
    struct msg m;
    char answer[RTNL_ANSWER];
    struct ifinfomsg *ifi = msg_begin(&m, RTM_GETLINK, 0, sizeof(*ifi));
    m.h.nlmsg_flags = NLM_F_REQUEST;
    m.h.nlmsg_seq = ++r->seq;
    attr_str(&m, IFLA_IFNAME, name);
    struct sockaddr_nl to = {.nl_family = AF_NETLINK};
    if (sendto(r->fd, &m, m.h.nlmsg_len, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
        return err_errno(e, errno, "netlink");
    for (;;) {
        ssize_t n = recv(r->fd, answer, sizeof(answer), MSG_TRUNC);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return err_errno(e, errno, "netlink");
        const struct nlmsghdr *h = (const struct nlmsghdr *)(const void *)answer;
        if (n < (ssize_t)sizeof(*h) || h->nlmsg_seq != r->seq) continue;
        if (h->nlmsg_type != RTM_NEWLINK) return err_set(e, -ENODEV, "no network interface %s", name);
        return ((const struct ifinfomsg *)NLMSG_DATA(h))->ifi_index;
    }
}

int rtnl_bridge_add(struct rtnl *r, const char *name, const uint8_t mac[6], struct err *e) {
    struct msg m;
    struct ifinfomsg *ifi = msg_begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(*ifi));
    ifi->ifi_family = AF_UNSPEC;
    attr_str(&m, IFLA_IFNAME, name);
    struct rtattr *info = attr_add(&m, IFLA_LINKINFO, NULL, 0);
    attr_str(&m, IFLA_INFO_KIND, "bridge");
    attr_end(&m, info);
    int rc = talk_err(r, &m, -EEXIST, e, "make bridge", name), index = rc < 0 ? rc : link_index(r, name, e);
    if (index < 0) return index;
    ifi = msg_begin(&m, RTM_NEWLINK, 0, sizeof(*ifi));
    ifi->ifi_index = index;
    attr_add(&m, IFLA_ADDRESS, mac, 6);
    return talk_err(r, &m, 0, e, "set the hardware address of", name);
}

int rtnl_veth_add(struct rtnl *r, const char *name, const char *peer, int peer_ns, const uint8_t peer_mac[6], int mtu,
                  struct err *e) {
    struct msg m;
    struct ifinfomsg *ifi = msg_begin(&m, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, sizeof(*ifi)), none = {0};
    ifi->ifi_family = AF_UNSPEC;
    attr_str(&m, IFLA_IFNAME, name);
    if (mtu > 0) attr_u32(&m, IFLA_MTU, (uint32_t)mtu);
    struct rtattr *info = attr_add(&m, IFLA_LINKINFO, NULL, 0);
    attr_str(&m, IFLA_INFO_KIND, "veth");
    struct rtattr *data = attr_add(&m, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *p = attr_add(&m, VETH_INFO_PEER, &none, sizeof(none));
    attr_str(&m, IFLA_IFNAME, peer);
    attr_u32(&m, IFLA_NET_NS_FD, (uint32_t)peer_ns);
    attr_add(&m, IFLA_ADDRESS, peer_mac, 6);
    if (mtu > 0) attr_u32(&m, IFLA_MTU, (uint32_t)mtu);
    attr_end(&m, p);
    attr_end(&m, data);
    attr_end(&m, info);
    return talk_err(r, &m, 0, e, "make veth", name);
}

static int set_link(struct rtnl *r, int index, int master, struct err *e, const char *name) {
    struct msg m;
    struct ifinfomsg *ifi = msg_begin(&m, RTM_NEWLINK, 0, sizeof(*ifi));
    ifi->ifi_family = AF_UNSPEC;
    ifi->ifi_index = index;
    ifi->ifi_flags = ifi->ifi_change = IFF_UP;
    if (master) attr_u32(&m, IFLA_MASTER, (uint32_t)master);
    return talk_err(r, &m, 0, e, "set up", name);
}

int rtnl_set_up(struct rtnl *r, const char *name, struct err *e) {
    int index = link_index(r, name, e);
    return index < 0 ? index : set_link(r, index, 0, e, name);
}

int rtnl_set_master_up(struct rtnl *r, const char *name, const char *master, struct err *e) {
    int index = link_index(r, name, e), mi = index < 0 ? index : link_index(r, master, e);
    if (mi < 0) return mi;
    int rc = set_link(r, index, mi, e, name);
    if (rc < 0) return rc;
    struct msg m;
    struct ifinfomsg *ifi = msg_begin(&m, RTM_SETLINK, 0, sizeof(*ifi));
    uint8_t on = 1;
    ifi->ifi_family = AF_BRIDGE;
    ifi->ifi_index = index;
    struct rtattr *prot = attr_add(&m, IFLA_PROTINFO | NLA_F_NESTED, NULL, 0);
    attr_add(&m, IFLA_BRPORT_MODE, &on, 1);
    attr_end(&m, prot);
    return talk_err(r, &m, 0, e, "set hairpin of", name);
}

int rtnl_addr_add(struct rtnl *r, const char *name, struct in_addr addr, int prefix, struct err *e) {
    int index = link_index(r, name, e);
    if (index < 0) return index;
    struct msg m;
    struct ifaddrmsg *ifa = msg_begin(&m, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, sizeof(*ifa));
    struct in_addr brd = {prefix < 31 ? addr.s_addr | htonl(0xffffffffu >> prefix) : addr.s_addr};
    ifa->ifa_family = AF_INET;
    ifa->ifa_prefixlen = (uint8_t)prefix;
    ifa->ifa_index = (uint32_t)index;
    attr_add(&m, IFA_LOCAL, &addr, sizeof(addr));
    attr_add(&m, IFA_ADDRESS, &addr, sizeof(addr));
    attr_add(&m, IFA_BROADCAST, &brd, sizeof(brd));
    return talk_err(r, &m, -EEXIST, e, "set the address of", name);
}

int rtnl_default_route(struct rtnl *r, const char *name, struct in_addr gateway, struct err *e) {
    int index = link_index(r, name, e);
    if (index < 0) return index;
    struct msg m;
    struct rtmsg *rt = msg_begin(&m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof(*rt));
    rt->rtm_family = AF_INET;
    rt->rtm_table = RT_TABLE_MAIN;
    rt->rtm_protocol = RTPROT_BOOT;
    rt->rtm_scope = RT_SCOPE_UNIVERSE;
    rt->rtm_type = RTN_UNICAST;
    attr_add(&m, RTA_GATEWAY, &gateway, sizeof(gateway));
    attr_u32(&m, RTA_OIF, (uint32_t)index);
    return talk_err(r, &m, 0, e, "default route through", name);
}

int rtnl_link_del(struct rtnl *r, const char *name, struct err *e) {
    struct msg m;
    struct ifinfomsg *ifi = msg_begin(&m, RTM_DELLINK, 0, sizeof(*ifi));
    ifi->ifi_family = AF_UNSPEC;
    attr_str(&m, IFLA_IFNAME, name);
    return talk_err(r, &m, -ENODEV, e, "remove", name);
}

int rtnl_del_ports(struct rtnl *r, const char *prefix, struct err *e) {
    struct if_nameindex *all = if_nameindex();
    int rc = 0;
    for (struct if_nameindex *i = all; i && i->if_name; i++) {
        if (!str_has_prefix(i->if_name, prefix)) continue;
        int one = rtnl_link_del(r, i->if_name, e);
        if (one < 0) rc = one;
    }
    if (all) if_freenameindex(all);
    return rc;
}
