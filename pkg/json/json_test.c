#include "pkg/json/json.h"

#include "tests/test.h"

static char *round_trip(struct arena *a, const char *text) {
    struct json *v;
    struct err e = {0};
    if (json_parse(a, text, strlen(text), &v, NULL, &e) < 0) return arena_printf(a, "error");
    return json_text(a, v);
}

TEST(values_survive_a_round_trip) {
    _cleanup_arena_ struct arena *a = arena_new();
    static const char *const texts[] = {"null",
                                        "true",
                                        "[1,-2,0]",
                                        "9007199254740993",
                                        "-9223372036854775808",
                                        "18446744073709551616",
                                        "1.50",
                                        "1e400",
                                        "{\"b\":1,\"a\":{\"c\":[]}}",
                                        "\"\\u0000x\"",
                                        "\"\\\"\\\\\\n\"",
                                        "\"h\u00e9\U0001F600\"",
                                        "{}"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) CHECK_STR(round_trip(a, texts[i]), texts[i]);
}

TEST(bad_documents_are_refused) {
    _cleanup_arena_ struct arena *a = arena_new();
    static const char *const texts[] = {"",    "{",        "[1,]",      "{\"a\":1,}",   "01",        "1.",
                                        "nul", "\"\x01\"", "\"\xff\"",  "\"\xc0\x80\"", "{\"a\" 1}", "[1 2]",
                                        "1 2", "\"\\x\"",  "\"\\u12\"", "\"abc",        "-",         "{1:2}"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) CHECK_STR(round_trip(a, texts[i]), "error");
}

TEST(nesting_is_limited) {
    _cleanup_arena_ struct arena *a = arena_new();
    char deep[2 * JSON_MAX_DEPTH + 4];
    memset(deep, '[', JSON_MAX_DEPTH + 1);
    memset(deep + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
    deep[2 * JSON_MAX_DEPTH + 2] = 0;
    CHECK_STR(round_trip(a, deep), "error");
}

TEST(duplicate_keys_are_listed_with_their_path) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *text = "{\"a\":1,\"s\":{\"l\":[{\"x\":1,\"x\":2}]},\"a\":3}";
    struct json *v;
    struct json_dups d = {0};
    CHECK_INT(json_parse(a, text, strlen(text), &v, &d, NULL), 0);
    REQUIRE(d.n == 2);
    CHECK_STR(d.paths[0], "s.l[0].x");
    CHECK_STR(d.paths[1], "a");
    CHECK_STR(json_text(a, v), "{\"a\":3,\"s\":{\"l\":[{\"x\":2}]}}");
}

TEST(large_objects_find_duplicates_too) {
    _cleanup_arena_ struct arena *a = arena_new();
    _cleanup_buf_ struct buf b = BUF_INIT;
    buf_addc(&b, '{');
    for (int i = 0; i < 5000; i++) buf_printf(&b, "\"k%d\":%d,", i % 4999, i);
    buf_adds(&b, "\"end\":0}");
    struct json *v;
    struct json_dups d = {0};
    CHECK_INT(json_parse(a, b.data, b.len, &v, &d, NULL), 0);
    CHECK_INT(v->n, 5000);
    CHECK_INT(d.n, 1);
    CHECK_INT(json_get_int(v, "k0", -1), 4999);
}

TEST(trees_compare_by_value) {
    _cleanup_arena_ struct arena *a = arena_new();
    struct json *x, *y;
    const char *s = "{\"a\":1.0,\"b\":[1,2]}", *t = "{\"b\":[1,2],\"a\":1}";
    json_parse(a, s, strlen(s), &x, NULL, NULL);
    json_parse(a, t, strlen(t), &y, NULL, NULL);
    CHECK(json_equal(x, y));
    json_set_int(a, y, "c", 1);
    CHECK(!json_equal(x, y));
    json_del(y, "c");
    json_append(a, json_get(y, "b"), json_int(a, 3));
    CHECK(!json_equal(x, y));
}

TEST(pull_reader_skips_values) {
    _cleanup_arena_ struct arena *a = arena_new();
    const char *s = "{\"a\":{\"x\":[1,{}]},\"b\":7,\"c\":[[2]]}";
    struct json_reader r;
    const char *raw;
    size_t n;
    json_reader_init(&r, a, s, strlen(s));
    CHECK(json_next(&r) == JTOK_OBJ_BEGIN && json_next(&r) == JTOK_KEY);
    CHECK(json_skip(&r, &raw, &n));
    CHECK_STR(arena_strndup(a, raw, n), "{\"x\":[1,{}]}");
    CHECK(json_next(&r) == JTOK_KEY && json_skip(&r, &raw, &n));
    CHECK_STR(arena_strndup(a, raw, n), "7");
    CHECK(json_next(&r) == JTOK_KEY && json_next(&r) == JTOK_ARR_BEGIN && json_skip(&r, &raw, &n));
    CHECK_STR(arena_strndup(a, raw, n), "[[2]]");
    CHECK(json_next(&r) == JTOK_OBJ_END && json_next(&r) == JTOK_END);
}
