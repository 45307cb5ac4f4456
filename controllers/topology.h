/* Hints of an EndpointSlice: which zones and nodes an endpoint is for.
 *
 * spec.trafficDistribution of the Service gives each ready endpoint to its own zone (PreferSameZone, PreferClose), and to
 * its own node before (PreferSameNode). The older annotation service.kubernetes.io/topology-mode: Auto shares the endpoints
 * out among the zones by the CPUs that their nodes have; it goes before the field, and gives no hints at all when a zone
 * would be overloaded or when there is not enough to know.
 *
 * Upstream: staging/src/k8s.io/endpointslice (trafficdist, topologycache). */
#pragma once

#include "manager.h"
#include "pkg/api/core.h"
#include "pkg/api/discovery.h"

/* The annotation asks for it. */
bool topology_wants_nodes(const struct core_service *svc);
/* Sets or clears the hints of all endpoints of a service. */
void topology_hints(struct manager *m, struct arena *a, const struct core_service *svc, struct discovery_endpoint *eps,
                    size_t n);
