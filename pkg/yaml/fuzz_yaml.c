/* libFuzzer: a document that parses must be written so that it reads back the same. */
#include "pkg/yaml/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    struct arena *a = arena_new();
    struct yaml_docs docs = {0};
    if (yaml_parse(a, (const char *)p, n, &docs, NULL, NULL) == 0) {
        for (size_t i = 0; i < docs.n; i++) {
            struct buf b = BUF_INIT;
            struct json *again;
            if (yaml_write(&b, docs.items[i], NULL) == 0 && b.data &&
                (yaml_parse_one(a, b.data, b.len, &again, NULL, NULL) < 0 || !json_equal(docs.items[i], again)))
                abort();
            buf_done(&b);
        }
    }
    arena_free(a);
    return 0;
}
