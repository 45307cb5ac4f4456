/* libFuzzer: a configuration of providers, and values that say they are encrypted. The first byte says which. */
#include "pkg/store/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    static const char keys[] =
        "[{\"aescbc\":{\"keys\":[{\"name\":\"a\",\"secret\":\"MDEyMzQ1Njc4OWFiY2RlZg==\"}]}},"
        "{\"aesgcm\":{\"keys\":[{\"name\":\"a\",\"secret\":\"MDEyMzQ1Njc4OWFiY2RlZg==\"}]}},"
        "{\"secretbox\":{\"keys\":[{\"name\":\"a\",\"secret\":\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"}]}},"
        "{\"identity\":{}}]";
    if (!n || (!(*p & 1) && memmem(p, n, "kms", 3))) return 0; /* it would be waited for */
    bool value = *p & 1;
    const char *text = value ? keys : (const char *)p + 1, *out;
    struct arena *a = arena_new();
    struct json *v = NULL;
    struct seals *s = NULL;
    size_t len;
    if (json_parse(a, text, value ? strlen(keys) : n - 1, &v, NULL, NULL) == 0 && seals_new(v, &s, NULL) == 0)
        seals_decrypt(s, a, "/registry/secrets/a/b", (const char *)p + 1, n - 1, &out, &len, NULL);
    seals_free(s);
    arena_free(a);
    return 0;
}
