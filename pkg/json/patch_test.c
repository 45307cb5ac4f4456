#include "pkg/json/patch.h"

#include "tests/test.h"

static const struct {
    const char *doc, *patch, *want; /* want NULL: an error */
} cases[] = {
    {"{\"a\":1}", "[{\"op\":\"add\",\"path\":\"/b\",\"value\":[1]}]", "{\"a\":1,\"b\":[1]}"},
    {"{\"a\":[1,3]}", "[{\"op\":\"add\",\"path\":\"/a/1\",\"value\":2}]", "{\"a\":[1,2,3]}"},
    {"{\"a\":[1]}", "[{\"op\":\"add\",\"path\":\"/a/-\",\"value\":2}]", "{\"a\":[1,2]}"},
    {"{\"a\":[1]}", "[{\"op\":\"add\",\"path\":\"/a/2\",\"value\":2}]", NULL},
    {"{\"a\":{\"x/y\":1}}", "[{\"op\":\"remove\",\"path\":\"/a/x~1y\"}]", "{\"a\":{}}"},
    {"{\"a\":1}", "[{\"op\":\"remove\",\"path\":\"/b\"}]", NULL},
    {"{\"a\":1}", "[{\"op\":\"replace\",\"path\":\"/b\",\"value\":1}]", "{\"a\":1,\"b\":1}"},
    {"{\"a\":[1]}", "[{\"op\":\"replace\",\"path\":\"/a/1\",\"value\":1}]", NULL},
    {"{\"a\":[1,2]}", "[{\"op\":\"remove\",\"path\":\"/a/-1\"}]", "{\"a\":[1]}"},
    {"{\"a\":[1,2]}", "[{\"op\":\"remove\",\"path\":\"/a/-3\"}]", NULL},
    {"{\"a\":[1]}", "[{\"op\":\"add\",\"path\":\"/a/-1\",\"value\":2}]", "{\"a\":[1,2]}"},
    {"{}", "[{\"op\":\"add\",\"path\":\"/a\"}]", "{\"a\":null}"},
    {"{}", "[{\"op\":\"add\",\"path\":\"a\",\"value\":1}]", NULL},
    {"{}", "[{\"op\":\"add\",\"path\":\"x/a\",\"value\":1}]", "{\"a\":1}"},
    {"{}", "[{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/b\"}]", "{\"b\":null}"},
    {"{}", "[{\"op\":\"test\",\"path\":\"/a\",\"value\":null}]", "{}"},
    {"{\"a\":1}", "[{\"op\":\"remove\",\"path\":\"\"}]", NULL},
    {"{\"a\":1}", "[{\"op\":\"replace\",\"path\":\"\",\"value\":{}}]", "{}"},
    {"{\"a\":1}", "[{\"op\":\"test\",\"path\":\"/a\",\"value\":2}]", NULL},
    {"{\"a\":1}", "[{\"op\":\"test\",\"path\":\"/a\",\"value\":1}]", "{\"a\":1}"},
    {"{\"a\":{\"b\":1}}", "[{\"op\":\"move\",\"from\":\"/a/b\",\"path\":\"/c\"}]", "{\"a\":{},\"c\":1}"},
    {"{\"a\":{\"b\":1}}", "[{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/c\"}]", "{\"a\":{\"b\":1},\"c\":{\"b\":1}}"},
    {"{\"a\":{\"b\":1}}", "[{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/a/b\"}]", NULL},
    {"{}", "{\"op\":\"add\"}", NULL},
    {"{}", "[{\"op\":\"frob\",\"path\":\"/a\"}]", NULL},
};
static const struct {
    const char *doc, *patch, *want;
} merges[] = {
    {"{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}"},
    {"{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}"},
    {"{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}"},
    {"{\"a\":1}", "{\"a\":[{\"b\":null,\"c\":[null]}]}", "{\"a\":[{\"c\":[null]}]}"},
    {"[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}"},
    {"{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}"},
    {"{\"a\":{\"b\":1}}", "{\"a\":{\"c\":2}}", "{\"a\":{\"b\":1,\"c\":2}}"},
};

static struct json *parse(struct arena *a, const char *text) {
    struct json *v = NULL;
    json_parse(a, text, strlen(text), &v, NULL, NULL);
    return v;
}

TEST(json_patch_operations) {
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct json *doc = parse(a, cases[i].doc), *out = NULL;
        int r = json_patch(a, doc, parse(a, cases[i].patch), &out, NULL);
        CHECK_STR(r < 0 ? NULL : json_text(a, out), cases[i].want);
        CHECK_STR(json_text(a, doc), cases[i].doc);
    }
}

TEST(json_merge_patch_follows_rfc_7386) {
    for (size_t i = 0; i < ARRAY_LEN(merges); i++) {
        _cleanup_arena_ struct arena *a = arena_new();
        struct json *doc = parse(a, merges[i].doc);
        CHECK_STR(json_text(a, json_merge_patch(a, doc, parse(a, merges[i].patch))), merges[i].want);
        CHECK_STR(json_text(a, doc), merges[i].doc);
    }
}

TEST(json_patch_bounds_copies) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *patch = json_array(a), *out = NULL;
    for (int i = 0; i < 64; i++)
        json_append(a, patch, parse(a, arena_printf(a, "{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/a/x%d\"}", i)));
    CHECK_INT(json_patch(a, parse(a, "{\"a\":{\"k\":1}}"), patch, &out, NULL), -E2BIG);
}
