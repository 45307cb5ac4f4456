/* The pods behind a service, as Endpoints and EndpointSlices list them. */
#pragma once

#include "util.h"

struct backend_port {
    const char *name, *protocol, *app_protocol;
    int32_t port;
};
struct backend {
    const struct core_pod *pod;
    const char *ip;
    bool ready, serving, terminating;
    const char *hostname; /* or NULL */
    struct backend_port *ports;
    size_t n_ports;
};
struct backends {
    struct backend *items; /* by IP */
    size_t n;
    struct object_list pods; /* holds what items point to */
};
/* Pods in the service's namespace that it selects and that have an address of the family ("IPv4", "IPv6"),
 * except those that have ended. */
void backends_find(struct manager *m, struct arena *a, const struct core_service *svc, const char *family,
                   struct backends *out);
void backends_done(struct backends *b);
/* Whether endpoints of the service are our business. */
bool service_has_backends(const struct core_service *svc);
bool service_is_headless(const struct core_service *svc);
/* The service's labels without those that endpoints objects have of their own. */
struct str_map service_labels(struct arena *a, const struct core_service *svc);
/* Puts the services that select a pod on the queue, before and after a change that matters. */
void backends_watch_pods(struct manager *m, struct workqueue *q);
