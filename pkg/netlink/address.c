/* Which address of this machine others reach it by. See netlink.h.
 *
 * The kernel's answer for a far destination is right wherever there is a default route. Without one the first interface
 * that is up is taken; bridges last, for they are the pods' own networks. An address that the machine still has is kept,
 * whatever routes come and go: nodes, endpoints and certificates name it. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "pkg/netlink/netlink.h"

/* The source that the kernel picks for a far address: nothing is sent. */
static bool source_of_default_route(char out[64]) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(0xc6336401)}, own;
    socklen_t len = sizeof(own);
    return fd >= 0 && connect(fd, (struct sockaddr *)&far, sizeof(far)) == 0 &&
           getsockname(fd, (struct sockaddr *)&own, &len) == 0 && inet_ntop(AF_INET, &own.sin_addr, out, 64);
}

static bool is_bridge(const char *name) {
    _cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ethtool_drvinfo info = {.cmd = ETHTOOL_GDRVINFO};
    struct ifreq rq = {.ifr_data = (void *)&info};
    snprintf(rq.ifr_name, sizeof(rq.ifr_name), "%s", name);
    return fd >= 0 && ioctl(fd, SIOCETHTOOL, &rq) == 0 && str_eq(info.driver, "bridge");
}

/* How good an interface's address is: 0 for none of use. */
static int rank(const struct ifaddrs *i) {
    if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK)) return 0;
    if (is_bridge(i->ifa_name)) return 1;
    return i->ifa_flags & IFF_UP ? 3 : 2;
}

bool netlink_has_address(const char *address) {
    struct ifaddrs *all;
    struct in_addr want;
    bool found = false;
    if (inet_pton(AF_INET, str_or_empty(address), &want) != 1 || getifaddrs(&all) < 0) return false;
    for (struct ifaddrs *i = all; i && !found; i = i->ifa_next)
        found = rank(i) && ((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr.s_addr == want.s_addr;
    freeifaddrs(all);
    return found;
}

int netlink_node_address(char out[64], struct err *e) {
    if (source_of_default_route(out)) return 0;
    struct ifaddrs *all;
    if (getifaddrs(&all) < 0) return err_errno(e, errno, "getifaddrs");
    int best = 0;
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        int r = rank(i);
        if (r > best && inet_ntop(AF_INET, &((const struct sockaddr_in *)(const void *)i->ifa_addr)->sin_addr, out, 64))
            best = r;
    }
    freeifaddrs(all);
    return best ? 0 : err_set(e, -ENOENT, "this machine has no IPv4 address but loopback: say --node-ip");
}

bool netlink_address_moved(const char *was, char out[64]) {
    return !netlink_has_address(was) && netlink_node_address(out, NULL) == 0 && !str_eq(was, out);
}
