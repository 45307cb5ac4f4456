/* libFuzzer: bytes as JSON and as protobuf for a type that the first two bytes choose. What is accepted must survive
 * another round through both encodings. */
#include "pkg/api/api.h"

static void check_json(struct arena *a, const struct api_type *t, const char *p, size_t n) {
    struct json *tree, *once, *twice;
    struct api_problems unknown = {0};
    if (json_parse(a, p, n, &tree, NULL, NULL) || api_tree_normalise(a, t, tree, &once, &unknown, NULL)) return;
    const char *text = json_text(a, once);
    if (api_tree_normalise(a, t, once, &twice, NULL, NULL) || strcmp(text, json_text(a, twice)) != 0) abort();
    void *obj = arena_alloc(a, t->size);
    if (api_from_json(a, t, text, strlen(text), obj, NULL)) abort();
    (void)api_equal(t, obj, api_clone(a, t, obj));
}

static void check_proto(struct arena *a, const struct api_type *t, const uint8_t *p, size_t n) {
    void *obj = arena_alloc(a, t->size), *back = arena_alloc(a, t->size);
    if (api_from_proto(a, t, p, n, obj, NULL)) return;
    struct buf once = BUF_INIT, twice = BUF_INIT;
    api_to_proto(&once, t, obj);
    if (api_from_proto(a, t, (const uint8_t *)str_or_empty(once.data), once.len, back, NULL)) abort();
    api_to_proto(&twice, t, back);
    if (once.len != twice.len || (once.len && memcmp(once.data, twice.data, once.len) != 0)) abort();
    buf_done(&once);
    buf_done(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n) {
    if (n < 2) return 0;
    const struct api_type *t = api_types[(size_t)(p[0] << 8 | p[1]) % api_types_n];
    struct arena *a = arena_new();
    check_json(a, t, (const char *)p + 2, n - 2);
    check_proto(a, t, p + 2, n - 2);
    arena_free(a);
    return 0;
}
