/* libFuzzer: gRPC message prefixes, status messages and time-outs, and a CRI request's bytes behind a prefix. */
#include "pkg/api/cri.h"
#include "pkg/grpc/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    _cleanup_arena_ struct arena *a = arena_new();
    size_t len = 0;
    if (grpc_prefix((const char *)data, n, &len, NULL) == 1 && n >= GRPC_PREFIX + len) {
        struct cri_run_pod_sandbox_request q = {0};
        if (api_from_proto(a, &api_cri_run_pod_sandbox_request, data + GRPC_PREFIX, len, &q, NULL) == 0) {
            _cleanup_buf_ struct buf b = BUF_INIT;
            grpc_frame(&b, &api_cri_run_pod_sandbox_request, &q);
        }
    }
    char *s = arena_strndup(a, (const char *)data, n);
    if (grpc_timeout_parse(s) < 0) abort();
    const char *back = grpc_percent_decode(a, grpc_percent_encode(a, s));
    if (strlen(s) <= GRPC_STATUS_TEXT_MAX && strcmp(back, s) != 0) abort();
    return 0;
}
