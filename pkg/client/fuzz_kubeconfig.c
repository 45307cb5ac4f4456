/* libFuzzer: a kubeconfig, as people write and copy them together. */
#include "pkg/client/client.h"
#include "pkg/yaml/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    struct arena *a = arena_new();
    struct json *doc = NULL;
    struct client_config c = {0};
    if (yaml_parse_one(a, (const char *)p, n, &doc, NULL, NULL) == 0)
        client_config_from_tree(a, "/nonexistent/kubeconfig", doc, &c, NULL);
    arena_free(a);
    return 0;
}
