#include "net.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>

#include "fsutil.h"
#include "proc.h"
#include "rtnl.h"

enum { NFT_TIMEOUT_MS = 10000, NET_MAX_PREFIX = 30, NET_HOSTPORT_MARK = 0x4000 };

struct net {
    struct net_options o;
    char *ipam; /* STATE/ipam */
    char table[40];
    char veth_prefix[8];
    pthread_mutex_t lock; /* everything below */
    struct rtnl host;     /* opened by the first net_set_cidr, in the namespace the shim runs in */
    bool have_cidr;
    uint32_t base; /* host order */
    int prefix;
    uint32_t next; /* offset where the search for an address starts */
};

struct net *net_new(const struct net_options *o) {
    struct net *n = xcalloc(1, sizeof(*n));
    n->o = *o;
    n->o.state = xstrdup(o->state);
    n->o.bridge = xstrdup(o->bridge);
    n->o.cluster_cidr = xstrdup(str_or_empty(o->cluster_cidr));
    n->o.cni_conf_dir = xstrdup(str_or_empty(o->cni_conf_dir));
    n->o.cni_bin_dir = xstrdup(str_or_empty(o->cni_bin_dir));
    n->ipam = xasprintf("%s/ipam", o->state);
    snprintf(n->table, sizeof(n->table), "coracle_%s", o->bridge);
    for (char *p = n->table; *p; p++)
        if (*p == '-' || *p == '.') *p = '_';
    snprintf(n->veth_prefix, sizeof(n->veth_prefix), "cv%04x", hash_bytes(o->bridge, strlen(o->bridge)) & 0xffff);
    pthread_mutex_init(&n->lock, NULL);
    n->host.fd = -1;
    return n;
}

struct net *net_free(struct net *n) {
    if (!n) return NULL;
    free((char *)n->o.state);
    free((char *)n->o.bridge);
    free((char *)n->o.cluster_cidr);
    free((char *)n->o.cni_conf_dir);
    free((char *)n->o.cni_bin_dir);
    free(n->ipam);
    rtnl_close(&n->host);
    pthread_mutex_destroy(&n->lock);
    free(n);
    return NULL;
}

bool net_uses_cni(struct net *n) { return cni_configured(n->o.cni_conf_dir); }

/* ---- the node's side ---- */

static int nft(const char *script, struct err *e) {
    const char *argv[] = {"nft", "-f", "-", NULL};
    _cleanup_buf_ struct buf err = {.limit = 4096};
    struct proc_opts o = {.argv = argv, .in = -1, .out = -1, .err = -1};
    int r = proc_run(&o, script, NULL, &err, NFT_TIMEOUT_MS, e);
    if (r < 0) return err_wrap(e, "nftables");
    return r == 0 ? 0 : err_set(e, -EIO, "nft: %.300s", err.data ? err.data : "failed");
}

static int parse_cidr(const char *s, uint32_t *base, int *prefix, struct err *e) {
    char addr[64];
    struct in_addr in;
    int64_t bits;
    const char *slash = strchr(s, '/');
    if (strchr(s, ':')) return err_set(e, -EAFNOSUPPORT, "pod CIDR %s: only IPv4 is supported", s);
    if (!slash || (size_t)(slash - s) >= sizeof(addr)) return err_set(e, -EINVAL, "pod CIDR %s is not ADDRESS/BITS", s);
    memcpy(addr, s, (size_t)(slash - s));
    addr[slash - s] = 0;
    if (inet_pton(AF_INET, addr, &in) != 1 || str_to_i64(slash + 1, &bits) < 0 || bits < 8 || bits > NET_MAX_PREFIX)
        return err_set(e, -EINVAL, "pod CIDR %s is not ADDRESS/BITS with 8 to %d bits", s, NET_MAX_PREFIX);
    *prefix = (int)bits;
    *base = ntohl(in.s_addr) & (0xffffffffu << (32 - bits));
    return 0;
}

/* Ranges that pods reach with their own address, as an nft set's elements. */
static void masq_exceptions(struct net *n, const char *cidr, struct buf *b) {
    buf_printf(b, "%s, 224.0.0.0/4", cidr);
    const char *p = n->o.cluster_cidr;
    while (*p) {
        size_t len = strcspn(p, ", ");
        if (len && !memchr(p, ':', len)) buf_printf(b, ", %.*s", (int)len, p);
        p += len;
        p += strspn(p, ", ");
    }
}

static int write_rules(struct net *n, const char *cidr, struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    const char *t = n->table, *br = n->o.bridge;
    buf_printf(&b, "table ip %s {}\nflush table ip %s\ntable ip %s {\n", t, t, t);
    buf_adds(&b, " set own { type ipv4_addr; flags interval; auto-merge; elements = { ");
    masq_exceptions(n, cidr, &b);
    buf_adds(&b,
             " } }\n"
             " map hp_any { type inet_proto . inet_service : ipv4_addr . inet_service; }\n"
             " map hp_ip { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }\n"
             " chain hostports {\n"
             "  ip daddr . meta l4proto . th dport @hp_ip_ports ct mark set ct mark or 0x4000\n"
             "  meta l4proto . th dport @hp_any_ports ct mark set ct mark or 0x4000\n"
             "  dnat ip addr . port to ip daddr . meta l4proto . th dport map @hp_ip\n"
             "  dnat ip addr . port to meta l4proto . th dport map @hp_any\n }\n"
             " set hp_any_ports { type inet_proto . inet_service; }\n"
             " set hp_ip_ports { type ipv4_addr . inet_proto . inet_service; }\n"
             " chain pre { type nat hook prerouting priority dstnat - 5; fib daddr type local jump hostports; }\n"
             " chain out { type nat hook output priority -105; fib daddr type local jump hostports; }\n");
    buf_printf(&b,
               " chain post { type nat hook postrouting priority srcnat;\n"
               "  oifname \"%s\" ip saddr 127.0.0.0/8 masquerade\n"
               "  oifname \"%s\" ip saddr %s ct mark and 0x%x != 0 masquerade\n"
               "  ip saddr %s ip daddr != @own masquerade\n }\n}\n",
               br, br, cidr, NET_HOSTPORT_MARK, cidr);
    return nft(b.data, e);
}

/* Hardware addresses are made from IP addresses, so that neighbours' caches stay right when an address is used again. */
static void mac_of(struct in_addr addr, uint8_t mac[6]) {
    mac[0] = 0x0a;
    mac[1] = 0x58;
    memcpy(mac + 2, &addr.s_addr, 4);
}

static int set_up_bridge(struct net *n, uint32_t base, int prefix, struct err *e) {
    char path[128];
    struct in_addr gw = {htonl(base + 1)};
    uint8_t mac[6];
    mac_of(gw, mac);
    int rc = n->host.fd >= 0 ? 0 : rtnl_open(&n->host, e);
    if (rc == 0) rc = rtnl_bridge_add(&n->host, n->o.bridge, mac, e);
    if (rc == 0) rc = rtnl_addr_add(&n->host, n->o.bridge, gw, prefix, e);
    if (rc == 0) rc = rtnl_set_up(&n->host, n->o.bridge, e);
    if (rc < 0) return rc;
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/route_localnet", n->o.bridge);
    fs_write_str(path, "1");
    fs_write_str("/proc/sys/net/bridge/bridge-nf-call-iptables", "1"); /* absent without br_netfilter */
    rc = fs_write_str("/proc/sys/net/ipv4/ip_forward", "1");
    return rc < 0 ? err_errno(e, rc, "enable IP forwarding") : 0;
}

int net_set_cidr(struct net *n, const char *cidr, struct err *e) {
    uint32_t base = 0;
    int prefix = 0;
    char text[64];
    if (str_empty(cidr) || net_uses_cni(n)) return 0;
    int rc = parse_cidr(cidr, &base, &prefix, e);
    if (rc < 0) return rc;
    pthread_mutex_lock(&n->lock);
    if (!n->have_cidr || n->base != base || n->prefix != prefix) {
        struct in_addr in = {htonl(base)};
        snprintf(text, sizeof(text), "%s/%d", inet_ntoa(in), prefix);
        rc = mkdir_p(n->ipam, 0700);
        if (rc < 0) rc = err_errno(e, rc, "make %s", n->ipam);
        if (rc == 0) rc = set_up_bridge(n, base, prefix, e);
        if (rc == 0) rc = write_rules(n, text, e);
        if (rc == 0) n->have_cidr = true, n->base = base, n->prefix = prefix, n->next = 2;
    }
    pthread_mutex_unlock(&n->lock);
    return rc;
}

const char *net_not_ready(struct net *n, struct arena *a) {
    if (net_uses_cni(n)) return NULL;
    pthread_mutex_lock(&n->lock);
    bool ok = n->have_cidr;
    pthread_mutex_unlock(&n->lock);
    return ok ? NULL : "no pod CIDR yet: give --pod-cidr, or wait for the node's to arrive";
}

/* ---- addresses ---- */

static int ipam_take(struct net *n, const char *id, struct in_addr *out, struct err *e) {
    uint32_t size = 1u << (32 - n->prefix);
    for (uint32_t tried = 0; tried + 3 < size; tried++) {
        uint32_t off = n->next++;
        if (n->next >= size - 1) n->next = 2;
        if (off < 2 || off >= size - 1) continue;
        char path[4096], text[NET_ADDR_MAX];
        out->s_addr = htonl(n->base + off);
        snprintf(path, sizeof(path), "%s/%s", n->ipam, inet_ntop(AF_INET, out, text, sizeof(text)));
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0 && errno == EEXIST) continue;
        if (fd < 0) return err_errno(e, errno, "take address %s", text);
        int r = fd_write_all(fd, id, strlen(id));
        close(fd);
        return r < 0 ? err_errno(e, r, "take address %s", text) : 0;
    }
    return err_set(e, -ENOSPC, "all pod addresses of this node are in use");
}

static void ipam_give_back(struct net *n, const char *id, const char *ip) {
    char path[4096], owner[128];
    if (str_empty(ip)) return;
    snprintf(path, sizeof(path), "%s/%s", n->ipam, ip);
    if (fs_read_str(path, owner, sizeof(owner)) == 0 && str_eq(owner, id)) unlink(path);
}

void net_gc(struct net *n, const struct map *live) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char **names;
    size_t count;
    fs_list(a, n->ipam, &names, &count);
    for (size_t i = 0; i < count; i++) {
        char owner[128];
        const char *path = arena_printf(a, "%s/%s", n->ipam, names[i]);
        if (fs_read_str(path, owner, sizeof(owner)) < 0 || !map_has(live, owner)) unlink(path);
    }
}

/* ---- a pod's side ---- */

static void veth_name(struct net *n, const char *id, char out[IFNAMSIZ]) {
    snprintf(out, IFNAMSIZ, "%s%.8s", n->veth_prefix, id);
}

static int plug_in(struct net *n, const struct net_pod *p, int netns, struct in_addr addr, struct in_addr gw,
                   struct rtnl *host, struct rtnl *pod, struct err *e) {
    char veth[IFNAMSIZ];
    uint8_t mac[6];
    mac_of(addr, mac);
    veth_name(n, p->id, veth);
    int rc = rtnl_veth_add(host, veth, "eth0", netns, mac, n->o.mtu, e);
    if (rc < 0) return rc;
    rc = rtnl_set_master_up(host, veth, n->o.bridge, e);
    if (rc == 0) rc = rtnl_addr_add(pod, "eth0", addr, n->prefix, e);
    if (rc == 0) rc = rtnl_set_up(pod, "eth0", e);
    if (rc == 0) rc = rtnl_default_route(pod, "eth0", gw, e);
    if (rc < 0) rtnl_link_del(host, veth, NULL);
    return rc;
}

int net_attach_inside(struct net *n, const struct net_pod *p, int netns, char ip[NET_ADDR_MAX], struct err *e) {
    struct rtnl pod = {.fd = -1};
    struct in_addr addr = {0};
    ip[0] = 0;
    int rc = rtnl_open(&pod, e);
    if (rc == 0) rc = rtnl_set_up(&pod, "lo", e);
    if (rc == 0 && !net_uses_cni(n)) {
        pthread_mutex_lock(&n->lock);
        rc = n->have_cidr ? ipam_take(n, p->id, &addr, e) : err_set(e, -EAGAIN, "network not ready: no pod CIDR yet");
        struct in_addr gw = {htonl(n->base + 1)};
        if (rc == 0) inet_ntop(AF_INET, &addr, ip, NET_ADDR_MAX);
        if (rc == 0) rc = plug_in(n, p, netns, addr, gw, &n->host, &pod, e);
        pthread_mutex_unlock(&n->lock);
        if (rc < 0) ipam_give_back(n, p->id, ip);
    }
    rtnl_close(&pod);
    return rc;
}

int net_attach_cni(struct net *n, const struct net_pod *p, char ip[NET_ADDR_MAX], struct err *e) {
    return cni_run(&n->o, true, p, ip, e);
}

/* ---- host ports ---- */

static const char *proto_name(int protocol) {
    return protocol == IPPROTO_UDP ? "udp" : protocol == IPPROTO_SCTP ? "sctp" : "tcp";
}

static bool any_address(const char *ip) { return str_empty(ip) || str_eq(ip, "0.0.0.0") || str_eq(ip, "::"); }

static void port_element(struct net *n, struct buf *b, const char *verb, const struct net_port *port, const char *ip) {
    struct in_addr in;
    char key[96];
    bool any = any_address(port->host_ip);
    if (!any && inet_pton(AF_INET, port->host_ip, &in) != 1) return;
    snprintf(key, sizeof(key), "%s%s%s . %u", any ? "" : port->host_ip, any ? "" : " . ", proto_name(port->protocol),
             port->host_port);
    const char *kind = any ? "any" : "ip";
    buf_printf(b, "%s element ip %s hp_%s { %s : %s . %u }\n", verb, n->table, kind, key, ip, port->container_port);
    buf_printf(b, "%s element ip %s hp_%s_ports { %s }\n", verb, n->table, kind, key);
}

static int ports_change(struct net *n, const struct net_pod *p, const char *ip, bool add, struct err *e) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    if (str_empty(ip) || strchr(ip, ':')) return 0;
    for (size_t i = 0; i < p->n_ports; i++) {
        if (p->ports[i].host_port == 0) continue;
        if (!add) port_element(n, &b, "add", &p->ports[i], ip); /* so that the removal finds it whatever happened */
        port_element(n, &b, add ? "add" : "delete", &p->ports[i], ip);
    }
    return b.len ? nft(b.data, e) : 0;
}

int net_ports_open(struct net *n, const struct net_pod *p, const char *ip, struct err *e) {
    return net_uses_cni(n) ? 0 : ports_change(n, p, ip, true, e);
}

int net_detach(struct net *n, const struct net_pod *p, const char *ip, struct err *e) {
    char unused[NET_ADDR_MAX];
    if (net_uses_cni(n)) return cni_run(&n->o, false, p, unused, e);
    ports_change(n, p, ip, false, NULL); /* an address that is gone does no harm in the map */
    ipam_give_back(n, p->id, ip);
    return 0;
}

void net_cleanup(struct net *n) {
    char script[128];
    struct rtnl r;
    if (rtnl_open(&r, NULL) == 0) {
        rtnl_del_ports(&r, n->veth_prefix, NULL);
        rtnl_link_del(&r, n->o.bridge, NULL);
        rtnl_close(&r);
    }
    snprintf(script, sizeof(script), "table ip %s {}\ndelete table ip %s\n", n->table, n->table);
    nft(script, NULL);
}
