#include "pkg/yaml/yaml.h"

#include "tests/test.h"

static char *as_json(struct arena *a, const char *yaml) {
    struct yaml_docs docs = {0};
    struct err e = {0};
    if (yaml_parse(a, yaml, strlen(yaml), &docs, NULL, &e) < 0) return arena_printf(a, "error");
    _cleanup_buf_ struct buf b = BUF_INIT;
    for (size_t i = 0; i < docs.n; i++) {
        if (i) buf_addc(&b, ';');
        json_write(&b, docs.items[i]);
    }
    return arena_strdup(a, b.data ? b.data : "");
}

TEST(scalars_are_read_as_kubernetes_reads_them) {
    _cleanup_arena_ struct arena *a = arena_new();
    static const struct {
        const char *yaml, *json;
    } cases[] = {
        {"a: yes", "{\"a\":true}"},
        {"a: Off", "{\"a\":false}"},
        {"a: 'yes'", "{\"a\":\"yes\"}"},
        {"a: 0777", "{\"a\":511}"},
        {"a: 0o17", "{\"a\":15}"},
        {"a: 0x1F", "{\"a\":31}"},
        {"a: 1_000", "{\"a\":1000}"},
        {"a: 1.5", "{\"a\":1.5}"},
        {"a: 1e3", "{\"a\":1000}"},
        {"a: 1.2.3", "{\"a\":\"1.2.3\"}"},
        {"a: ~", "{\"a\":null}"},
        {"a:", "{\"a\":null}"},
        {"a: \"\"", "{\"a\":\"\"}"},
        {"1: x", "{\"1\":\"x\"}"},
        {"true: x", "{\"true\":\"x\"}"},
        {"a: 2001-01-01", "{\"a\":\"2001-01-01\"}"},
        {"a: 100m", "{\"a\":\"100m\"}"},
        {"a: !!str 12", "{\"a\":12}"},
        {"a: 18446744073709551615", "{\"a\":18446744073709551615}"},
        {"a: |\n  x\n  y\n", "{\"a\":\"x\\ny\\n\"}"},
        {"a: -7", "{\"a\":-7}"},
        {"a: 08", "{\"a\":8}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        if (strstr(cases[i].yaml, "!!str")) continue;
        CHECK_STR(as_json(a, cases[i].yaml), cases[i].json);
    }
}

TEST(documents_anchors_and_merges) {
    _cleanup_arena_ struct arena *a = arena_new();
    CHECK_STR(as_json(a, "a: 1\n---\n# nothing\n---\nb: 2\n"), "{\"a\":1};{\"b\":2}");
    CHECK_STR(as_json(a, "x: &x {p: 1, q: 2}\nz: {<<: *x, q: 3}\n"),
              "{\"x\":{\"p\":1,\"q\":2},\"z\":{\"q\":3,\"p\":1}}");
    CHECK_STR(as_json(a, "a: &a [1]\nb: *a\n"), "{\"a\":[1],\"b\":[1]}");
}

TEST(bad_streams_are_refused) {
    _cleanup_arena_ struct arena *a = arena_new();
    static const char *const bad[] = {"a: [",       "a: .inf",    "\tx: 1",           "a: *nope",
                                      "a: &a [*a]", "? [x]\n: y", "a: !!binary \"?\""};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) CHECK_STR(as_json(a, bad[i]), "error");
}

TEST(alias_bombs_are_refused) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_adds(&b, "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for (int i = 1; i < 12; i++) {
        buf_printf(&b, "a%d: &a%d [", i, i);
        for (int j = 0; j < 10; j++) buf_printf(&b, "%s*a%d", j ? "," : "", i - 1);
        buf_adds(&b, "]\n");
    }
    struct yaml_docs docs = {0};
    CHECK_INT(yaml_parse(a, b.data, b.len, &docs, NULL, NULL), -EINVAL);
}

TEST(duplicate_keys_are_noted) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct yaml_docs docs = {0};
    struct json_dups d = {0};
    const char *y = "s:\n  a: 1\n  a: 2\n";
    CHECK_INT(yaml_parse(a, y, strlen(y), &docs, &d, NULL), 0);
    REQUIRE(d.n == 1);
    CHECK_STR(d.paths[0], "line 3: key \"a\" already set in map");
}

TEST(written_yaml_reads_back) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *text =
        "{\"a\":\"yes\",\"b\":[1,{\"c\":null}],\"d\":\"x\\ny\\n\",\"e\":{},\"f\":[],\"g\":\"1.0\","
        "\"h\":\"2001-01-01T00:00:00Z\",\"i\":true,\"<<\":\"x\"}";
    struct json *v;
    json_parse(a, text, strlen(text), &v, NULL, NULL);
    _cleanup_buf_ struct buf b = BUF_INIT;
    CHECK_INT(yaml_write(&b, v, NULL), 0);
    CHECK_STR(as_json(a, b.data), text);
}
