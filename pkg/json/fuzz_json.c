/* libFuzzer: what parses must be written so that it parses to the same tree. */
#include "pkg/json/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    struct arena *a = arena_new();
    struct json *v, *again;
    struct json_dups dups = {0};
    if (json_parse(a, (const char *)p, n, &v, &dups, NULL) == 0) {
        const char *text = json_text(a, v);
        if (json_parse(a, text, strlen(text), &again, NULL, NULL) < 0 || !json_equal(v, again)) abort();
    }
    arena_free(a);
    return 0;
}
