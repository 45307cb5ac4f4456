/* Files that describe CDI devices, as JSON or YAML: whatever they say, the specification they are put on stays a tree that
 * can be written. */
#include "cdi.h"
#include "pkg/yaml/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const char base[] =
        "{\"process\":{\"env\":[\"A=1\"],\"user\":{\"uid\":7}},\"mounts\":[{\"destination\":\"/proc\"}],"
        "\"linux\":{\"devices\":[{\"path\":\"/dev/x\"}]}}";
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *file, *spec;
    const struct json *it;
    if (yaml_parse_one(a, (const char *)p, n, &file, NULL, NULL) < 0 || cdi_check(a, file, NULL) < 0) return 0;
    if (json_parse(a, base, sizeof(base) - 1, &spec, NULL, NULL) < 0) abort();
    cdi_apply(a, json_get(file, "containerEdits"), spec, NULL);
    JSON_FOREACH(it, json_get(file, "devices")) cdi_apply(a, json_get(it, "containerEdits"), spec, NULL);
    const char *text = json_text(a, spec);
    if (json_parse(a, text, strlen(text), &spec, NULL, NULL) < 0) abort();
    return 0;
}
