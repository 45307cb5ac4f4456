/* rtnetlink: the few requests pod networking is made of. Each call acts in the network namespace of the thread that
 * opened the socket. IPv4 only. */
#pragma once

#include <net/if.h>
#include <netinet/in.h>

#include "pkg/base/err.h"

struct rtnl {
    int fd;
    uint32_t seq;
};

/* A socket in the calling thread's network namespace. */
int rtnl_open(struct rtnl *r, struct err *e);
void rtnl_close(struct rtnl *r);

/* Makes a bridge; an existing one is fine. Without an address of its own a bridge takes that of one of its ports and
 * changes it when ports come and go, which spoils the pods' neighbour caches. */
int rtnl_bridge_add(struct rtnl *r, const char *name, const uint8_t mac[6], struct err *e);
/* Makes `name` here with its peer `peer` (of this hardware address) directly in the namespace `peer_ns`. */
int rtnl_veth_add(struct rtnl *r, const char *name, const char *peer, int peer_ns, const uint8_t peer_mac[6], int mtu,
                  struct err *e);
/* Puts a link into a bridge, with hairpin on (a pod reaches itself through a Service), and sets it up. */
int rtnl_set_master_up(struct rtnl *r, const char *name, const char *master, struct err *e);
int rtnl_set_up(struct rtnl *r, const char *name, struct err *e);
/* Adds an address; the same one being there is fine. */
int rtnl_addr_add(struct rtnl *r, const char *name, struct in_addr addr, int prefix, struct err *e);
/* Default route through a gateway on a link. */
int rtnl_default_route(struct rtnl *r, const char *name, struct in_addr gateway, struct err *e);
/* Removes a link; a missing one is fine. */
int rtnl_link_del(struct rtnl *r, const char *name, struct err *e);
/* Removes every link whose name starts with `prefix`. */
int rtnl_del_ports(struct rtnl *r, const char *prefix, struct err *e);
