/* This machine as a Node: what it has, how it is, and that it is alive. Registration, the status (every five
 * minutes or when it changes), the Lease every ten seconds, and the pod CIDR that the control plane gives it.
 *
 * Upstream: kubelet_node_status.go, nodestatus/setters.go, component-helpers' lease controller. */
#pragma once

#include "kubelet/kubelet.h"

/* Measures the machine. Starts nothing. */
struct node *node_new(struct kubelet *kl);
/* Registers (when configured) and keeps status and Lease current in a thread. Needs a client. */
int node_start(struct node *n, struct err *e);
void node_free(struct node *n);
/* Something changed that the status shows (images, runtime). */
void node_wake(struct node *n);
/* Capacity, for tests and the summary: "cpu", "memory", ... */
const struct str_map *node_capacity(struct node *n);
/* Bytes that all pods together may take: what is not reserved. The eviction threshold is not: pods are evicted before they
 * meet this limit. */
int64_t node_pods_memory(struct node *n);
const struct str_map *node_allocatable(struct node *n);
/* What the runtime said its handler can do ("" is the default handler). */
enum handler_feature { HANDLER_RECURSIVE_READ_ONLY = 1, HANDLER_USER_NAMESPACES = 2 };
bool node_handler_can(struct node *n, const char *handler, enum handler_feature what);
/* Pressure conditions, set by the eviction manager. */
enum node_pressure { PRESSURE_MEMORY, PRESSURE_DISK, PRESSURE_PID, PRESSURE_KINDS };
void node_set_pressure(struct node *n, enum node_pressure p, bool on);
bool node_under_pressure(struct node *n, enum node_pressure p);
/* "key=value,..." reservations: the amount of a resource; 0 when not in the list. */
struct quantity node_reserved(const char *list, const char *resource);
/* What allocatable leaves free so that eviction need not begin: the hard threshold of the signal (of eviction.h). */
int64_t node_kept_free(const struct kubelet *kl, int signal, int64_t capacity);
/* An event about the node. */
void node_event(struct node *n, const char *type, const char *reason, const char *fmt, ...) _printf_(4, 5);
