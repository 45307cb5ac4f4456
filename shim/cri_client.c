/* cri_client: a small crictl for tests and for looking. One line a call, requests as JSON (CRI's field names), answers
 * as JSON:
 *
 *   cri_client SOCKET RunPodSandbox '{"config": {"metadata": {"name": "a"}}}'
 *   cri_client SOCKET GetContainerEvents '{}'        prints events until it is killed
 *   cri_client SOCKET Import '{"path": "/tmp/busybox.tar"}'
 *
 * A call's name may be left unambiguous: methods of RuntimeService are looked for first. */
#include "cri_image.h"
#include "pkg/api/cri.h"
#include "pkg/grpc/grpc.h"

static const struct api_rpc *find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(cri_runtime_service_rpcs); i++)
        if (str_eq(strrchr(cri_runtime_service_rpcs[i].path, '/') + 1, name)) return &cri_runtime_service_rpcs[i];
    for (size_t i = 0; i < ARRAY_LEN(cri_image_service_rpcs); i++)
        if (str_eq(strrchr(cri_image_service_rpcs[i].path, '/') + 1, name)) return &cri_image_service_rpcs[i];
    return str_eq(name, "Import") ? &api_rpc_image_import : NULL;
}

static void print(const struct api_type *t, const void *message) {
    _cleanup_buf_ struct buf b = BUF_INIT;
    api_to_json(&b, t, message);
    puts(b.data ? b.data : "{}");
    fflush(stdout);
}

static int on_message(const void *message, void *arg) {
    print(((const struct api_rpc *)arg)->response, message);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: cri_client SOCKET METHOD [REQUEST]\n");
        return 2;
    }
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    const struct api_rpc *rpc = find(argv[2]);
    const char *text = argc > 3 ? argv[3] : "{}";
    if (!rpc) {
        fprintf(stderr, "cri_client: no method %s\n", argv[2]);
        return 2;
    }
    void *request = arena_zalloc(a, rpc->request->size), *response = arena_zalloc(a, rpc->response->size);
    int r = api_from_json(a, rpc->request, text, strlen(text), request, &e);
    struct grpc_client *c = grpc_client_new(argv[1]);
    if (r == 0 && rpc->server_stream)
        r = grpc_call_stream(c, rpc, request, on_message, (void *)(uintptr_t)rpc, NULL, &e);
    else if (r == 0)
        r = grpc_call(c, rpc, request, a, response, 0, &e);
    if (r == 0 && !rpc->server_stream) print(rpc->response, response);
    grpc_client_free(c);
    if (r < 0) fprintf(stderr, "cri_client: %s\n", e.msg);
    return r < 0;
}
