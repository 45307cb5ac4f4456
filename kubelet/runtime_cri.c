/* The runtime over gRPC on a unix socket: pkg/grpc does the work. Images may live behind another socket. */
#include "kubelet/runtime.h"
#include "pkg/grpc/grpc.h"

struct cri_runtime {
    struct runtime base;
    struct grpc_client *runtime, *images; /* images may be the same */
    struct http_cancel cancel;
    /* The event stream has a connection of its own: it lives as long as the kubelet. */
    struct grpc_client *events;
};

static int cri_call(struct runtime *base, enum runtime_method m, struct arena *a, const void *req, void *resp,
                    int64_t timeout_ns, struct err *e) {
    struct cri_runtime *rt = CONTAINER_OF(base, struct cri_runtime, base);
    const struct runtime_method_desc *d = &runtime_methods[m];
    return grpc_call(d->image_service ? rt->images : rt->runtime, d->rpc, req, a, resp,
                     (unsigned)(timeout_ns / NS_PER_MS), e);
}

struct event_reader {
    runtime_event_fn *fn;
    void *arg;
};

static int on_event(const void *message, void *arg) {
    struct event_reader *r = arg;
    r->fn(r->arg, message);
    return 0;
}

static int cri_events(struct runtime *base, runtime_event_fn *fn, void *arg, struct err *e) {
    struct cri_runtime *rt = CONTAINER_OF(base, struct cri_runtime, base);
    struct event_reader r = {fn, arg};
    struct cri_get_events_request req = {0};
    return grpc_call_stream(rt->events, &api_rpc_cri_runtime_service_get_container_events, &req, on_event, &r,
                            &rt->cancel, e);
}

static void cri_shutdown(struct runtime *base) {
    struct cri_runtime *rt = CONTAINER_OF(base, struct cri_runtime, base);
    http_cancel_set(&rt->cancel);
}

static void cri_free(struct runtime *base) {
    struct cri_runtime *rt = CONTAINER_OF(base, struct cri_runtime, base);
    if (rt->images != rt->runtime) grpc_client_free(rt->images);
    grpc_client_free(rt->runtime);
    grpc_client_free(rt->events);
    http_cancel_done(&rt->cancel);
    free(rt);
}

static const struct runtime_ops cri_ops = {cri_call, cri_events, cri_shutdown, cri_free};

struct runtime *runtime_cri_new(const char *endpoint, const char *image_endpoint) {
    struct cri_runtime *rt = xcalloc(1, sizeof(*rt));
    rt->base.ops = &cri_ops;
    rt->runtime = grpc_client_new(endpoint);
    rt->images =
        str_empty(image_endpoint) || str_eq(image_endpoint, endpoint) ? rt->runtime : grpc_client_new(image_endpoint);
    rt->events = grpc_client_new(endpoint);
    http_cancel_init(&rt->cancel, NULL);
    return &rt->base;
}
