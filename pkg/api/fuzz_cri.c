/* libFuzzer: a CRI message, of a type that the first byte chooses, as it comes over the wire. What is read must be written
 * so that it reads back to the same bytes. */
#include "pkg/api/cri.h"

static const struct api_type *const types[] = {
    &api_cri_run_pod_sandbox_request,
    &api_cri_create_container_request,
    &api_cri_update_container_resources_request,
    &api_cri_pull_image_request,
    &api_cri_exec_sync_request,
    &api_cri_port_forward_request,
    &api_cri_list_containers_request,
    &api_cri_list_pod_sandbox_response,
    &api_cri_container_status_response,
    &api_cri_pod_sandbox_status_response,
    &api_cri_list_containers_response,
    &api_cri_list_container_stats_response,
    &api_cri_image_status_response,
    &api_cri_container_event_response,
    &api_cri_status_response,
};

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (!n) return 0;
    struct arena *a = arena_new();
    const struct api_type *t = types[p[0] % ARRAY_LEN(types)];
    void *once = arena_zalloc(a, t->size), *twice = arena_zalloc(a, t->size);
    if (api_from_proto(a, t, p + 1, n - 1, once, NULL) == 0) {
        _cleanup_buf_ struct buf x = BUF_INIT, y = BUF_INIT;
        api_to_proto(&x, t, once);
        if (api_from_proto(a, t, (const uint8_t *)(x.data ? x.data : ""), x.len, twice, NULL)) abort();
        api_to_proto(&y, t, twice);
        if (x.len != y.len || (x.len && memcmp(x.data, y.data, x.len) != 0)) abort();
    }
    arena_free(a);
    return 0;
}
