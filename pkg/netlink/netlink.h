/* The few rtnetlink requests that more than one program makes: addresses on an interface, routes, addresses of this
 * machine. All need CAP_NET_ADMIN but the last; each opens a socket of its own and waits for the kernel's answer. */
#pragma once

#include "pkg/base/err.h"

/* Adds (or removes) the host part of "10.96.0.10:53" (or a bare address) as a /32 (/128) on lo. Being there (or gone)
 * already is success, and so is any loopback address. */
int netlink_lo_addr(const char *addr, bool present, struct err *e);
/* Route to an IPv4 "10.42.1.0/24": through the gateway, or (gateway NULL) to the interface `dev`; `src` (may be NULL) is
 * the preferred source address. Replaces a route to the same destination. Routes made here carry protocol number
 * NETLINK_ROUTE_PROTO, by which netlink_route_flush finds them. */
enum { NETLINK_ROUTE_PROTO = 0xc0 };
int netlink_route_add(const char *cidr, const char *gateway, const char *dev, const char *src, struct err *e);
int netlink_route_del(const char *cidr, struct err *e);
/* Removes every IPv4 route of NETLINK_ROUTE_PROTO in the main table. */
int netlink_route_flush(struct err *e);
/* The address by which this machine talks to others: the source of its default route, else the first IPv4 address of an
 * interface (one that is up before others, bridges last), else -ENOENT. */
int netlink_node_address(char out[64], struct err *e);
/* An interface other than lo has this IPv4 address. */
bool netlink_has_address(const char *address);
/* True, with the new one, when the machine no longer has the address `was` but has another. */
bool netlink_address_moved(const char *was, char out[64]);
