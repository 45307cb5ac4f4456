/* Pod networking: the built-in bridge, or CNI plugins when a configuration is in the CNI folder.
 *
 * Built in: one bridge with the first address of the node's pod CIDR, a veth pair a pod, an address file a pod below
 * STATE/ipam (made with O_EXCL, so that a crash can at worst leave an address taken until net_gc), and an nftables
 * table of our own named after the bridge: masquerade for what leaves the cluster's pod ranges, and host ports. All of
 * it belongs to the network namespace the shim runs in. IPv4 only. */
#pragma once

#include "pkg/base/arena.h"
#include "pkg/base/err.h"
#include "pkg/base/map.h"

struct net;

struct net_options {
    const char *state;        /* folder of the shim's runtime state */
    const char *bridge;       /* name of the bridge */
    const char *cluster_cidr; /* comma-separated ranges reached without masquerade, beside the pod CIDR; may be NULL */
    const char *cni_conf_dir, *cni_bin_dir;
    int mtu; /* 0: the default */
};

enum { NET_ADDR_MAX = 46, NET_MAX_PORTS = 256 };

struct net_port { /* a host port */
    int protocol; /* IPPROTO_TCP, ... */
    uint16_t host_port, container_port;
    const char *host_ip; /* "" or NULL: any */
};

struct net_pod {
    const char *id, *name, *namespace_, *uid;
    const char *ns_dir; /* of the pins (ns.h) */
    const struct net_port *ports;
    size_t n_ports;
};

struct net *net_new(const struct net_options *o);
struct net *net_free(struct net *n);
/* Sets the node's pod CIDR and makes bridge, address and rules. Idempotent; called again when the CIDR changes.
 * "" is ignored. */
int net_set_cidr(struct net *n, const char *cidr, struct err *e);
/* NULL when pods can get networks, else the reason as a sentence (static or in `a`). */
const char *net_not_ready(struct net *n, struct arena *a);
/* Called inside the new namespace, as ns_setup.inside, to give it its interface. Fills ip. */
int net_attach_inside(struct net *n, const struct net_pod *p, int netns, char ip[NET_ADDR_MAX], struct err *e);
/* True when CNI is configured: net_attach_cni is then called after ns_create instead. */
bool net_uses_cni(struct net *n);
int net_attach_cni(struct net *n, const struct net_pod *p, char ip[NET_ADDR_MAX], struct err *e);
/* Opens (or closes) the pod's host ports. */
int net_ports_open(struct net *n, const struct net_pod *p, const char *ip, struct err *e);
/* Takes a pod's network away: host ports, address; CNI DEL. The interface goes with the namespace. Idempotent. */
int net_detach(struct net *n, const struct net_pod *p, const char *ip, struct err *e);
/* Frees addresses of sandboxes that are not keys of `live`. */
void net_gc(struct net *n, const struct map *live);
/* Removes bridge, veths, table. */
void net_cleanup(struct net *n);

/* cni.c */
bool cni_configured(const char *conf_dir);
int cni_run(const struct net_options *o, bool add, const struct net_pod *p, char ip[NET_ADDR_MAX], struct err *e);
