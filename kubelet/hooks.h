/* What probes and lifecycle hooks do to a container: run a command, call a URL, connect a port, ask gRPC
 * health, sleep.
 *
 * Upstream: pkg/probe/{exec,http,tcp,grpc}, pkg/kubelet/lifecycle/handlers.go. */
#pragma once

#include "kubelet/kubelet.h"

enum probe_result {
    PROBE_SUCCESS,
    PROBE_FAILURE,
    PROBE_UNKNOWN, /* could not be carried out */
    PROBE_WARNING, /* successful, but an event says that something is odd */
};

struct hook_target {
    const struct core_pod *pod;
    const struct core_container *container;
    const char *container_id; /* runtime id */
    const char *pod_ip;
};
enum { HOOK_OUTPUT_MAX = 10 * 1024 };

/* `output` (HOOK_OUTPUT_MAX bytes) gets what goes into the event. They block for at most the time limit. */
enum probe_result hook_exec(struct kubelet *kl, const struct core_exec_action *x, const struct hook_target *t,
                            int64_t timeout_ns, char *output);
enum probe_result hook_http(struct kubelet *kl, const struct core_http_get_action *h, const struct hook_target *t,
                            const char *user_agent, int64_t timeout_ns, char *output);
enum probe_result hook_tcp(struct kubelet *kl, const struct core_tcp_socket_action *s, const struct hook_target *t,
                           int64_t timeout_ns, char *output);
enum probe_result hook_grpc(struct kubelet *kl, const struct core_grpc_action *g, const struct hook_target *t,
                            int64_t timeout_ns, char *output);
/* A probe's handler, whichever it has. */
enum probe_result hook_probe(struct kubelet *kl, const struct core_probe *p, const struct hook_target *t, char *output);
/* postStart or preStop. 0, or -EIO with a message. */
int hook_lifecycle(struct kubelet *kl, const struct core_lifecycle_handler *h, const struct hook_target *t,
                   int64_t timeout_ns, struct err *e);
/* The number behind a port name or number; 0 when there is none. */
int hook_port(const struct core_container *c, const struct int_or_string *p);
