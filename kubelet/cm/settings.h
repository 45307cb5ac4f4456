/* The settings of the resource managers, from text to values; their errors name the setting. */
#pragma once

#include "kubelet/cm/cpu_assign.h"
#include "kubelet/cm/hints.h"
#include "kubelet/cm/memory_manager.h"

enum { ALIGN_NODES = 8, ALIGN_NODES_MAX = 16 }; /* NUMA nodes that can be aligned to: by default, at all */
enum { RESERVATIONS_MAX = 256 };

/* "full-pcpus-only=true,..."; `alpha`: the feature gate CPUManagerPolicyAlphaOptions. */
int settings_cpu_options(const char *text, bool alpha, struct cpu_options *out, struct err *e);
/* "prefer-closest-numa-nodes=true,max-allowable-numa-nodes=12" */
int settings_topology_options(const char *text, bool *closest, int64_t *max_nodes, struct err *e);
int settings_topology_policy(const char *text, enum topology_policy *out, struct err *e);
/* "0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=1Gi", in `a`. */
int settings_reserved_memory(struct arena *a, const char *text, struct memory_reservation **out, size_t *n,
                             struct err *e);
/* A list of "key=value" without one of the keys; heap. */
char *settings_without(const char *text, const char *key);
/* Whether a gate is on: "A=true,B=false" or the default. */
bool settings_gate(const char *text, const char *gate, bool dflt);
