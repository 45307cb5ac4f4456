/* Between the files of the server. */
#pragma once

#include "kubelet/pods.h"
#include "kubelet/server.h"
#include "kubelet/server_auth.h"
#include "kubelet/stats.h"
#include "pkg/http/server.h"

enum { ROUTE_PARTS = 5 };

struct kubelet_server {
    struct kubelet *kl;
    struct http_server *http;
    struct http_workers *workers;
    struct server_auth *auth;
    struct stats *stats;
    int listener;
    _Atomic unsigned streams; /* log followers, a thread each */
};

/* A request on its way through a worker thread. parts: the path's segments after the first, decoded. */
struct request {
    struct kubelet_server *s;
    struct http_req *http;
    const char *parts[ROUTE_PARTS];
    size_t n_parts;
};

/* Handlers finish the request (answer, tunnel or stream). */
typedef void route_fn(struct request *r);
route_fn route_logs, route_exec, route_attach, route_port_forward, route_run, route_pods, route_running_pods,
    route_system_logs, route_debug;

void respond_error(struct http_req *r, const struct err *e, int dflt);
