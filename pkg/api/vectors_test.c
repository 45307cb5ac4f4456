/* Objects of a real API server, each in JSON and in protobuf: both encodings must give the other, protobuf to the byte.
 * The file (a list of {"json":..., "protobuf": base64}) is not part of the project; its path is the first argument, and
 * without it there is nothing to test. */
#include "pkg/api/api.h"
#include "pkg/base/bytes.h"

static int fail(const char *what, const char *kind, const char *detail) {
    fprintf(stderr, "%s: %s: %.2000s\n", kind, what, str_or_empty(detail));
    return 1;
}

static const struct api_type *type_of(const char *api_version, const char *kind) {
    char group[200];
    const char *slash = strchr(api_version, '/');
    snprintf(group, sizeof(group), "%.*s", slash ? (int)(slash - api_version) : 0, api_version);
    return api_type_find(group, slash ? slash + 1 : api_version, kind);
}

static int check_bytes(struct arena *a, const char *kind, const struct buf *got, const uint8_t *want, size_t n) {
    if (got->len == n && memcmp(got->data, want, n) == 0) return 0;
    size_t at = 0;
    while (at < n && at < got->len && (uint8_t)got->data[at] == want[at]) at++;
    return fail("protobuf differs", kind, arena_printf(a, "at %zu of %zu (got %zu bytes)", at, n, got->len));
}

static int check(const struct json *item) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_err_ struct err e = {0};
    const char *text = json_get_str(item, "protobuf"), *version, *kind;
    struct json *object = json_get(item, "json"), *tree;
    uint8_t *p = arena_alloc(a, strlen(text));
    size_t n;
    struct bytes raw;
    if (base64_decode(text, strlen(text), p, &n)) return fail("base64", "vector", "");
    if (api_proto_unwrap(a, p, n, &version, &kind, &raw, &e)) return fail("unwrap", "vector", e.msg);
    const struct api_type *t = type_of(version, kind);
    if (!t) return fail("no such type", kind, version);
    if (api_tree_from_proto(a, t, raw.p, raw.n, &tree, &e)) return fail("from protobuf", kind, e.msg);
    json_set_str(a, tree, "kind", kind);
    json_set_str(a, tree, "apiVersion", version);
    int bad = 0;
    struct json *claim, *plain = json_clone(a, object);
    JSON_FOREACH(claim,
                 json_at(plain, "spec", "volumeClaimTemplates", NULL)) { /* protobuf has no place for these two */
        json_del(claim, "kind");
        json_del(claim, "apiVersion");
    }
    if (!json_equal(tree, plain))
        bad += fail("tree from protobuf differs", kind,
                    arena_printf(a, "\n got %s\nwant %s", json_text(a, tree), json_text(a, object)));
    struct json *same;
    struct api_problems unknown = {0};
    const char *before = json_text(a, object);
    if (api_tree_normalise(a, t, json_clone(a, object), &same, &unknown, &e)) return fail("normalise", kind, e.msg);
    if (unknown.n) bad += fail("unknown field", kind, unknown.items[0].path);
    if (strcmp(before, json_text(a, same)))
        bad += fail("normalised differs", kind, arena_printf(a, "\n got %s\nwant %s", json_text(a, same), before));

    _cleanup_buf_ struct buf b = BUF_INIT, whole = BUF_INIT, again = BUF_INIT;
    api_tree_to_proto(&b, t, object);
    api_proto_wrap(&whole, version, kind, b.data, b.len);
    if (strcmp(kind, "ControllerRevision") != 0) { /* its raw data has white space that a tree does not keep */
        bad += check_bytes(a, kind, &b, raw.p, raw.n);
        bad += check_bytes(a, kind, &whole, p, n);
    }
    void *obj = arena_alloc(a, t->size);
    if (api_from_json(a, t, before, strlen(before), obj, &e)) return bad + fail("from JSON", kind, e.msg);
    api_to_json(&again, t, obj);
    if (strcmp(again.data, before)) bad += fail("JSON again", kind, again.data);
    if (!api_equal(t, obj, api_clone(a, t, obj))) bad += fail("clone differs", kind, "");
    return bad;
}

int main(int argc, char **argv) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_free_ char *text = NULL;
    size_t n;
    struct json *all, *item;
    if (argc < 2 || file_read(argv[1], 64 << 20, &text, &n)) {
        printf("no vectors: nothing tested\n");
        return 0;
    }
    if (json_parse(a, text, n, &all, NULL, NULL)) return fail("bad file", argv[1], "");
    int bad = 0, good = 0;
    JSON_FOREACH(item, all) {
        if (!json_get(item, "json")) continue; /* a watch's frames */
        int b = check(item);
        bad += b != 0;
        good += b == 0;
    }
    printf("%d vectors passed, %d failed\n", good, bad);
    return bad != 0;
}
