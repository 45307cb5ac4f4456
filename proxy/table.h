/* The nftables table of the service proxy, changed incrementally. Everything of ours stands in the one table
 * "ip coracle_proxy": table_remove takes it all away. Not thread-safe. */
#pragma once

#include "proxy/conntrack.h"
#include "proxy/rules.h"

struct table;

/* `cluster_cidr` (may be NULL): the pods' network; clients of a VIP from outside of it are not masqueraded. */
int table_new(struct table **out, struct err *e);
void table_free(struct table *t);
/* Announces what a service wants (NULL: nothing any more). The table is changed by table_commit. */
void table_set(struct table *t, const char *service, struct rules *r);
/* One transaction: all pending changes or none. The first one replaces the whole table atomically, so that a restart
 * interrupts no service. On failure everything is written anew with the next commit. */
int table_commit(struct table *t, struct err *e);
/* Whether what is reached by UDP has changed since this was last asked; if so, *out (zeroed) says what there is now. */
bool table_udp_changed(struct table *t, struct conntrack_fronts *out);
/* Number of elements now in the table. */
size_t table_elements(const struct table *t);
/* Removes the table from the kernel; success when there is none. */
int table_remove(struct err *e);
